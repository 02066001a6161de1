//! The examples of `docs/sql-support.md` are run, each block line by line on a cluster: behind a statement stands the plan that
//! EXPLAIN (GAVEL) shows, or the SQLSTATE and the message of its refusal. Each message that the page lists has an example.

use tests::cluster::Cluster;
use tests::refusals::Listed;
use tests::wire::{Frame, PATIENCE, Wire};
use tests::{wire_message as message, wire_print};

/// Messages whose cause cannot be made by SQL through the proxy, and the tests that meet them.
const MET_ELSEWHERE: &[&str] = &[
    // `oids`: types that were made on one node alone.
    "rows in binary format have arrays or records of types whose OIDs differ between the shards",
    "COPY in binary format: …",
    // In tests of what they are about: they need the extended protocol, other settings of the proxy, or several statements at once.
    "a transaction begun in a text of several statements cannot reach a second shard",
    "the shard key's spelling depends on settings or the server's version",
    "rows of a cursor over several shards cannot be fetched in another format than before",
    "a row limit on rows that several shards return is not supported",
    "… writes to several shards, which needs two-phase commit (routing.two_phase is off)",
    "EXECUTE with arguments that may read sharded tables is not supported",
    "EXPLAIN EXECUTE of a statement on sharded tables in this format in the extended protocol is not supported",
    "… is a temporary object of this session, and the statement is for every shard",
    "… is not a temporary object, and the statement is for the session's own alone",
    "replication connections are not supported",
    "pg_listening_channels() in an expression, or together with other statements, is not supported here",
    "this session has changed settings in a way that the other shards cannot be told of",
    "this statement has a literal that may be a date or time, and TimeZone, DateStyle or IntervalStyle have changed since it was prepared",
    "statements on sharded tables are not supported in this client_encoding",
    "the routing hint names shard …, where the statement does not belong",
];

/// A statement of the page, what is said behind it, and the rows that a COPY FROM STDIN is given, up to `\.`.
struct Example {
    sql: String,
    expected: Option<String>,
    data: String,
}

/// The statements of all blocks of SQL of the page.
fn examples(page: &str) -> Vec<Example> {
    let mut all = Vec::new();
    for block in page.split("```sql\n").skip(1) {
        let block = block.split("```").next().unwrap_or_default();
        let mut sql = String::new();
        let mut lines = block.lines();
        while let Some(line) = lines.by_ref().find(|line| !line.starts_with("--")) {
            let (code, comment) =
                line.split_once("-- ").map_or((line, None), |(code, said)| (code, Some(said)));
            sql.push_str(code.trim_end());
            if sql.ends_with(';') {
                let copies = sql.contains(" FROM STDIN");
                let data = lines.by_ref().take_while(|line| copies && *line != "\\.");
                let data =
                    if copies { data.map(|line| format!("{line}\n")).collect() } else { String::new() };
                all.push(Example {
                    sql: std::mem::take(&mut sql),
                    expected: comment.map(str::to_owned),
                    data,
                });
            } else {
                assert!(comment.is_none(), "a comment amid a statement: {line}");
                sql.push('\n');
            }
        }
        assert!(sql.trim().is_empty(), "a statement without its semicolon: {sql}");
    }
    all
}

/// What is said to a text of the simple protocol, and to the data of its COPY.
fn said(session: &mut Wire, sql: &str, data: &str) -> Vec<Frame> {
    session.send(&message::query(sql)).expect("sent");
    let mut frames = Vec::new();
    loop {
        let frame = session.frame(PATIENCE).expect("an answer").expect("the session goes on");
        if frame.tag == b'G' {
            session
                .send(&[message::copy_data(data.as_bytes()), message::copy_done()].concat())
                .expect("sent");
        }
        let over = frame.tag == b'Z';
        frames.push(frame);
        if over {
            return frames;
        }
    }
}

/// SQLSTATE and message of the error among them.
fn error(frames: &[Frame]) -> Option<(String, String)> {
    let frame = frames.iter().find(|frame| frame.tag == b'E')?;
    let fields = wire_print::error_fields(&frame.body);
    let field = |tag| fields.iter().find(|(found, _)| *found == tag).map(|(_, text)| text.clone());
    Some((field(b'C')?, field(b'M')?))
}

/// The plan of a statement.
fn plan(session: &mut Wire, sql: &str) -> String {
    let rows =
        session.rows(&format!("EXPLAIN (GAVEL) {sql}")).unwrap_or_else(|error| panic!("{sql}: {error}"));
    let first = rows.first().and_then(|row| row[0].clone()).unwrap_or_default();
    first.strip_prefix("Plan: ").unwrap_or(&first).to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_examples_of_the_page_are_as_it_says() {
    let here = std::env::var("CARGO_MANIFEST_DIR").unwrap_or_else(|_| env!("CARGO_MANIFEST_DIR").to_owned());
    let page = std::fs::read_to_string(format!("{here}/../docs/sql-support.md")).expect("the page");
    let examples = examples(&page);
    assert!(examples.len() > 30, "the examples are found: {}", examples.len());
    let cluster = Cluster::builder().shards(3).start().await;
    let mut session = Wire::login(&cluster.login()).expect("login");
    let listed = Listed::read();
    let (mut wrong, mut met) = (String::new(), Vec::new());
    for Example { sql, expected, data } in &examples {
        let refused =
            expected.as_ref().and_then(|said| said.split_once(' ')).filter(|(state, _)| is_sqlstate(state));
        if let (Some(planned), None) = (expected, refused) {
            let found = plan(&mut session, sql);
            if &found != planned {
                wrong.push_str(&format!("{sql}\n  the page: {planned}\n  found:    {found}\n"));
            }
        }
        let told = error(&said(&mut session, sql, data));
        let fits = match (&told, refused) {
            (None, None) => true,
            (Some((state, message)), Some((wanted, text))) => state == wanted && message.starts_with(text),
            (None, Some(_)) | (Some(_), None) => false,
        };
        if !fits {
            wrong.push_str(&format!("{sql}\n  the page: {expected:?}\n  found:    {told:?}\n"));
        }
        if let Some((state, message)) = told.filter(|(state, _)| state == "0A000") {
            match listed.pattern(&message) {
                Some(pattern) => met.push(pattern.to_owned()),
                None => {
                    wrong.push_str(&format!("{sql}\n  a message that is not listed: {state} {message}\n"))
                }
            }
        }
    }
    for pattern in listed.all() {
        if met.contains(pattern) == MET_ELSEWHERE.contains(&pattern.as_str()) {
            wrong.push_str(&format!("no example, or one too many, for the message: {pattern}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn is_sqlstate(word: &str) -> bool {
    word.len() == 5 && word.chars().all(|c| c.is_ascii_digit() || c.is_ascii_uppercase())
}
