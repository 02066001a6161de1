//! Portals of the protocol beside those of PostgreSQL: their names, the one error of a pipeline, what cannot stand in one.

use tests::wire_message as message;

use crate::beside::{Beside, said_but_settings, sorted_rows};

/// Keys of several shards; the rows of all queries are alike, in whatever order they come.
const SET_UP: &[&str] = &[
    "create table t (auction_id bigint primary key, n int)",
    "create table u (n int)",
    "create table categories (id int, n int)",
    "insert into t values (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0)",
    "insert into u values (0), (0)",
    "insert into categories values (1, 0)",
];

/// Frames of a step: `name <- text` binds a portal and takes one row of it, `name <= text` takes all, `name!` executes it again,
/// `-name` closes it, `? text` parses, `@ text` parses, binds and describes, `% name` binds a statement of that name; any other text
/// is described and executed without a name.
fn frames(step: &str) -> Vec<u8> {
    let parsed = |sql: &str| message::parse("", sql, &[]);
    let bound = |name: &str| message::bind(name, "", &[], &[]);
    let executed = |name: &str, rows| message::execute(name, rows);
    if let Some((name, sql)) = step.split_once(" <- ") {
        return [parsed(sql), bound(name), executed(name, 1)].concat();
    }
    if let Some((name, sql)) = step.split_once(" <= ") {
        return [parsed(sql), bound(name), executed(name, 0)].concat();
    }
    if let Some(name) = step.strip_suffix('!') {
        return executed(name, 0);
    }
    match step.split_at(1) {
        ("-", name) => message::close(b'P', name),
        ("?", sql) => parsed(sql),
        ("@", sql) => [parsed(sql), bound(""), message::describe(b'P', "")].concat(),
        ("%", name) => message::bind("", name, &[], &[]),
        _ => [parsed(step), bound(""), message::describe(b'P', ""), executed("", 0)].concat(),
    }
}

/// A simple text after `Q `, else a pipeline of steps that are parted by ` ; `.
fn request(steps: &str) -> Vec<u8> {
    match steps.strip_prefix("Q ") {
        Some(text) => message::query(text),
        None => [steps.split(" ; ").flat_map(frames).collect(), message::sync()].concat(),
    }
}

/// Runs each of these sessions on both sides, and compares what is said and what is stored.
async fn compare(sessions: &[Vec<String>]) {
    let mut both = Beside::start(SET_UP).await;
    let mut wrong = String::new();
    for session in sessions {
        for steps in session {
            let bytes = request(steps);
            let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &bytes, 1));
            if ours != theirs {
                wrong.push_str(&format!("{session:?}: {steps}\n  ours   {ours}\n  theirs {theirs}\n"));
            }
        }
        both.anew();
    }
    assert!(wrong.is_empty(), "{wrong}");
    for sql in ["select auction_id, n from t", "select n from u", "select id, n from categories"] {
        let [ours, theirs] = both.sides().map(|side| sorted_rows(side, sql));
        assert_eq!(ours, theirs, "{sql}");
    }
}

fn owned(session: &[&str]) -> Vec<String> {
    session.iter().map(|steps| (*steps).to_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_portals_name_is_taken_until_it_is_closed_or_its_transaction_ends() {
    const SESSIONS: &[&[&str]] = &[
        &["Q begin", "pa <- A", "pa <- B", "Q rollback"],
        &["Q begin", "pa <- A ; pa <- B", "Q rollback"],
        &["pa <- A ; pa <- B", "pa <- B"],
        &["Q begin", "pa <- A", "Q declare pa cursor for B", "Q rollback"],
        &["Q begin", "pa <- A ; declare pa cursor for B", "Q rollback"],
        &["Q begin", "Q declare pa cursor for A", "pa <- B", "Q rollback"],
        &["Q begin", "declare pa cursor for A ; pa <- B", "Q rollback"],
        // It is free.
        &["pa <- A", "pa <- B"],
        &["Q begin", "pa <- A ; -pa ; pa <- B", "-pa", "pa <- A", "Q rollback"],
        &["Q begin", "pa <- A", "Q commit", "Q begin", "pa <- B", "Q rollback", "pa <- A"],
        &["Q begin", "pa <- A ; commit ; pa <- B", "pa <- A"],
        &["pa <- A ; commit ; pa <- B", "pa <- A"],
        &["Q begin", "Q savepoint s", "pa <- A", "Q rollback to s", "pa <- B", "Q rollback"],
        &["Q begin", "savepoint s ; pa <- A ; rollback to s ; pa <- B", "Q rollback"],
        &["Q begin", "pa <- A", "Q savepoint s", "Q rollback to s", "pa <- B", "Q rollback"],
        &["Q begin", "Q declare pa cursor for A", "Q close pa", "pa <- B", "Q rollback"],
        &["Q begin", "declare pa cursor for A ; close pa ; pa <- B", "Q rollback"],
        &["Q begin", " <- A ;  <- B", " <- A", "Q rollback"],
        &["Q begin", "pa <- select 1/0", "Q rollback", "pa <- A"],
        &["Q begin", "Q savepoint s", "pa <- select 1/0", "Q rollback to s", "pa <- A", "Q commit"],
    ];
    let [several, one, two, home] = [
        "select n from t",
        "select n from t where auction_id = 1",
        "select n from t where auction_id = 3",
        "select n from u",
    ];
    let pairs = [(several, several), (several, one), (one, several), (one, two), (two, one), (home, two)];
    let named = |steps: &&str, (a, b): (&str, &str)| steps.replace('A', a).replace('B', b);
    let sessions = pairs.iter().flat_map(|pair| {
        SESSIONS.iter().map(move |session| session.iter().map(|steps| named(steps, *pair)).collect())
    });
    compare(&sessions.collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_tells_of_one_error() {
    let firsts = [
        "select 1 / 0",
        "selec 1",
        "execute nothing",
        "insert into t values (1, 1)",
        "insert into t values (1, 1), (2, 1), (3, 1), (4, 1)",
        "select n / 0 from t",
    ];
    let seconds = [
        "declare c cursor for select n from t",
        "declare c cursor for select n from t where auction_id = 1",
        "lock table t",
        "select n from t",
        "update t set n = 1",
        "savepoint s",
        "fetch c",
        "@select n from t ; %nothing",
        "@select n from t ; ?select",
        "@select n from t ; -pa",
        "@select n from t",
        "@declare c cursor for select n from t",
        "discard all",
    ];
    let each = |first: &str| {
        let pipeline = |second: &&str| format!("{first} ; {second}");
        seconds.iter().map(pipeline).map(|steps| vec![steps, "select 1".to_owned()]).collect::<Vec<_>>()
    };
    compare(&firsts.iter().flat_map(|first| each(first)).collect::<Vec<_>>()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discard_all_stands_alone() {
    compare(&[
        owned(&["Q discard all; insert into t values (31, 1), (32, 1), (33, 1), (34, 1)", "select 1"]),
        owned(&["Q discard all; select n from t", "Q discard all;", "select 1"]),
        owned(&["Q discard all; update categories set n = 5"]),
        owned(&["Q discard all; begin", "Q discard all; create table made (auction_id bigint)"]),
        owned(&["Q insert into t values (41, 1), (42, 1), (43, 1); discard all", "select 1"]),
        owned(&["Q begin", "Q discard all", "Q rollback", "Q discard all", "discard all"]),
        owned(&["select n from t ; discard all ; select 1", "select 1"]),
        owned(&[
            "select n from t where auction_id = 1 ; discard all",
            "select n from t where auction_id = 1",
        ]),
        owned(&["discard all ; select 1", "select 1"]),
        owned(&[
            "?select n from t where auction_id = 1 ; discard all",
            "select n from t where auction_id = 1",
        ]),
    ])
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_portal_that_has_ended_has_no_more_rows() {
    compare(&[
        owned(&[
            "Q begin",
            "pa <= insert into t values (51, 0), (52, 0), (53, 0) returning n ; pa!",
            "Q commit",
        ]),
        owned(&["pa <= update categories set n = 2 returning n ; pa! ; pa!"]),
        owned(&["pa <= delete from categories where id = 9 returning n ; pa!"]),
        owned(&["pa <= with d as (update categories set n = 2 returning n) select n from d ; pa!"]),
        owned(&["pa <= update categories set n = 2 ; pa!", "pa <= select 0 from t ; pa!"]),
    ])
    .await;
}
