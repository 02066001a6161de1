//! Texts of several statements: read as a whole before any of it runs, errors placed in the text as it was sent.

use tests::cluster::Cluster;
use tests::wire::{Frame, Login, Wire};

/// An answer in brief: tags, and of errors the SQLSTATE, the message and the position; of completed statements their tag.
fn brief(frames: &[Frame]) -> String {
    let one = |frame: &Frame| {
        let fields: Vec<_> = frame.body.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let of =
            |tag: char| fields.iter().find(|field| field.starts_with(tag)).map_or("", |field| &field[1..]);
        match frame.tag {
            b'E' => format!("E {} {} at {}", of('C'), of('M'), of('P')),
            b'C' => fields[0].to_string(),
            b'Z' => String::from_utf8_lossy(&frame.body).into_owned(),
            tag => char::from(tag).to_string(),
        }
    };
    frames.iter().map(one).collect::<Vec<_>>().join(" | ")
}

/// What is sent one after the other.
const TEXTS: &[&str] = &[
    "insert into t values (82, 1, 'm'); commit; selec 2",
    "insert into t values (83, 1, 'm'); commit; select (",
    "begin; insert into t values (86, 1, 'm'); commit; select 'unterminated",
    "begin; insert into t values (84, 1, 'm'); insert into t values (85, 1, 'm'); commit; select * from t where auction_id = 85 garbage garbage",
    "insert into t values (87, 1, 'ä'); insert into t values (88, 1, 'ö'); selec",
    // The grammar is right and the error is another statement's, behind characters of several bytes.
    "insert into t values (1, 1, 'ä'); insert into t values (2, 1, 'ö'); select nosuch from t where auction_id = 3",
    "insert into t values (3, 1, 'ä'); insert into t values (4, 1, 'öö'); select   nosuch from t where auction_id = 3",
    "/* ü */ insert into t values (5, 1, 'x');\n\n insert into t values (6, 1, 'x'); update t set nosuch = 1 where auction_id = 7",
    // Alike but for literals that the grammar looks into.
    "insert into t values (11, 1, E'a'); insert into t values (12, 1, 'x'); commit; insert into t values (13, 1, E'b')",
    "insert into t values (14, 1, E'a'); insert into t values (15, 1, 'x'); commit; insert into t values (16, 1, E'\\u00')",
    "insert into t values (17, 1, 'x'); insert into t values (18, 1, 'x'); commit; select 1; select 'a'\n'b'",
    "insert into t values (19, 1, 'x'); insert into t values (20, 1, 'x'); commit; select 1; select 'a' 'b'",
    "begin",
    "insert into t values (31, 1, 'x')",
    "insert into t values (32, 1, 'x'); insert into t values (33, 1, 'x'); selec",
    "select 1",
    "commit",
    "begin",
    "insert into t values (41, 1, 'x'); insert into t values (42, 1, 'x')",
    "savepoint a",
    "insert into t values (43, 1, 'x'); insert into t values (44, 1, 'x'); selec",
    "rollback to a",
    "insert into t values (45, 1, 'x'); insert into t values (46, 1, 'x')",
    "commit",
    "begin; insert into t values (51, 1, 'x'); insert into t values (52, 1, 'x'); commit; begin; insert into t values (53, 1, 'x'); rollback",
    "begin; insert into t values (61, 1, 'x'); insert into t values (62, 1, 'x'); commit; begin; insert into t values (63, 1, 'x'); rollback",
    "select 1; commit; commit work garbage",
    ";; selec",
    "select auction_id from t where v in ('x', 'm') and auction_id in (31, 41, 45, 46, 51, 52, 61, 62)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_with_a_syntax_error_runs_nothing_and_is_told_where_it_is() {
    let cluster = Cluster::builder().shards(3).start().await;
    let oracle = Cluster::oracle().await;
    let address = format!("{}:{}", oracle.host, oracle.port);
    let password =
        oracle.config("auction").get_password().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    let login = Login { password, ..Login::new(address.as_str(), "auction").expect("a loopback address") };
    let mut plain = Wire::login(&login).expect("login");
    let mut wire = Wire::login(&cluster.login()).expect("login");
    let create = "create table t (auction_id bigint primary key, n int, v text)";
    for side in [&mut plain, &mut wire] {
        side.rows(create).expect("create");
    }
    for text in TEXTS {
        let ours = brief(&wire.query(text).expect("an answer"));
        let theirs = brief(&plain.query(text).expect("an answer"));
        assert_eq!(ours, theirs, "{text}");
    }
    let ids = |side: &mut Wire| {
        let rows = side.rows("select auction_id from t").expect("select");
        let mut ids: Vec<i64> = rows.concat().into_iter().flatten().flat_map(|id| id.parse()).collect();
        ids.sort_unstable();
        ids
    };
    let (ours, theirs) = (ids(&mut wire), ids(&mut plain));
    assert_eq!(ours, theirs);
    assert!(ours.len() > 8, "{ours:?}");
}
