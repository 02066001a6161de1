//! Texts of several statements: read as a whole before any of it runs, errors placed in the text as it was sent.

use tests::cluster::Cluster;
use tests::wire::Wire;
use tokio_postgres::error::SqlState;

use crate::beside::{Beside, brief};
use crate::house::{add_auctions, build, one_of_each};

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
    "select auction_id from t where false and v in ('x', 'm') and auction_id in (31, 41, 45, 46, 51, 52, 61, 62)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_05_a_text_with_a_syntax_error_runs_nothing() {
    let create = "create table t (auction_id bigint primary key, n int, v text)";
    let mut beside = Beside::start(&[create]).await;
    for text in TEXTS {
        let [ours, theirs] = beside.sides().map(|side| brief(&side.query(text).expect("an answer")));
        assert_eq!(ours, theirs, "{text}");
    }
    let ids = |side: &mut Wire| {
        let rows = side.rows("select auction_id from t").expect("select");
        let mut ids: Vec<i64> = rows.concat().into_iter().flatten().flat_map(|id| id.parse()).collect();
        ids.sort_unstable();
        ids
    };
    let [ours, theirs] = beside.sides().map(ids);
    assert_eq!(ours, theirs);
    assert!(ours.len() > 8, "{ours:?}");
}

/// Behind BEGIN in one text: they lock on every shard.
const LOCKING: &[&str] = &[
    "begin; lock table auctions",
    "begin; lock auctions in exclusive mode; select 1",
    "begin; lock only auctions, categories",
    "begin; lock categories",
    "begin; savepoint a; lock table auctions",
    "start transaction; set local lock_timeout = '5s'; lock auctions",
    "begin; truncate auctions cascade",
    "begin; comment on table auctions is 'x'",
    "begin; alter table auctions add other int",
    "begin; create index on auctions (title)",
];

/// What is run in one text, and what every shard then says of it.
const EVERYWHERE: &[(&str, &str, &str)] = &[
    ("begin; comment on table auctions is 'x'; commit", "SELECT obj_description('auctions'::regclass)", "x"),
    ("begin; create view v as select 1; commit", "SELECT count(*) FROM pg_views WHERE viewname = 'v'", "1"),
    (
        "begin; grant select on auctions to public; commit",
        "SELECT relacl IS NOT NULL FROM pg_class WHERE relname = 'auctions'",
        "t",
    ),
    ("begin; create type mood as enum ('a'); commit", "SELECT count(*) FROM pg_enum", "1"),
    ("begin; alter type mood add value 'b'; commit", "SELECT count(*) FROM pg_enum", "2"),
    ("begin; drop view v; commit", "SELECT count(*) FROM pg_views WHERE viewname = 'v'", "0"),
    ("begin; truncate categories; commit", "SELECT count(*) FROM categories", "0"),
    ("begin; insert into categories values (1, 'a'); commit", "SELECT count(*) FROM categories", "1"),
    ("begin; do $$ begin create table made (a int); end $$; commit", "SELECT to_regclass('made')", "made"),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_concerns_every_shard_reaches_every_shard_behind_begin() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 8).await;
    for text in LOCKING {
        client.batch_execute(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
        let locks =
            "SELECT count(*) FROM pg_locks WHERE relation IN ('auctions'::regclass, 'categories'::regclass)";
        let found = cluster.on_each_primary(locks).await.concat();
        assert!(found.iter().all(|count| count != "0"), "{text}: {found:?}");
        client.batch_execute("ROLLBACK").await.expect("rollback");
    }
    // A text of several statements is a transaction without BEGIN too.
    let (_, there) = one_of_each(&cluster).await;
    let holder = cluster.connect().await;
    let update = format!("BEGIN; UPDATE auctions SET price = 2 WHERE auction_id = {there}");
    holder.batch_execute(&update).await.expect("update");
    client.batch_execute("SET lock_timeout = '300ms'").await.expect("set");
    for text in ["lock table auctions; select 1", "select 1; lock auctions", "begin; lock auctions; commit"] {
        let error = client.batch_execute(text).await.expect_err(text);
        assert_eq!(error.code(), Some(&SqlState::LOCK_NOT_AVAILABLE), "{text}: {error:?}");
        client.batch_execute("ROLLBACK").await.expect("rollback");
    }
    holder.batch_execute("ROLLBACK").await.expect("rollback");
    let error = client.batch_execute("lock auctions").await.expect_err("outside of a transaction");
    assert_eq!(error.code(), Some(&SqlState::NO_ACTIVE_SQL_TRANSACTION));
    for (text, question, answer) in EVERYWHERE {
        client.batch_execute(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
        assert_eq!(cluster.on_each_primary(question).await.concat(), [*answer; 2], "{text}");
    }
}
