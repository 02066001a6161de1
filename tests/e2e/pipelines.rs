//! Transaction control in pipelines, in front of Sync and behind other statements: what PostgreSQL says of it, message by message, and
//! what is stored afterwards.

use std::io::ErrorKind;
use std::time::Duration;

use tests::cluster::Cluster;
use tests::wire::{Frame, PATIENCE};
use tests::wire_message::{self as message, Value};

use crate::beside::{Beside, brief, said_but_settings};

/// Keys of several shards.
const KEYS: std::ops::RangeInclusive<i64> = 1..=4;

/// One pipeline: each text parsed, bound, executed; then Sync. `name ::= text` is parsed alone, `@name` bound and executed, `#text`
/// bound with a value too many.
fn pipeline(statements: &[&str]) -> Vec<u8> {
    let run = |name: &str| [message::bind("", name, &[], &[]), message::execute("", 0)].concat();
    let one = |sql: &&str| {
        if let Some((name, sql)) = sql.split_once(" ::= ") {
            message::parse(name, sql, &[])
        } else if let Some(name) = sql.strip_prefix('@') {
            run(name)
        } else if let Some(name) = sql.strip_prefix('!') {
            message::close(b'S', name)
        } else if let Some(sql) = sql.strip_prefix('#') {
            let bind = message::bind("", "", &[Value::Text(b"1".to_vec())], &[]);
            [message::parse("", sql, &[]), bind, message::execute("", 0)].concat()
        } else {
            [message::parse("", sql, &[]), run("")].concat()
        }
    };
    let mut bytes: Vec<u8> = statements.iter().flat_map(one).collect();
    bytes.extend(message::sync());
    bytes
}

/// What both have at the beginning.
const SET_UP: &[&str] = &[
    "create table t (auction_id bigint primary key, n int)",
    "create table c (auction_id bigint, pid bigint, foreign key (auction_id) references t deferrable initially deferred)",
    "create table users (id bigint primary key, name text)",
    "insert into t values (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0), (7, 0), (8, 0)",
    "insert into users values (1, 'x'), (2, 'x')",
];

impl Beside {
    /// What each says to the same bytes. When a changed setting is told is the proxy's own.
    fn say(&mut self, bytes: &[u8]) -> [String; 2] {
        self.sides().map(|side| said_but_settings(side, bytes, 1))
    }

    /// A step: a simple text after `Q `, else a pipeline of statements that are parted by semicolons.
    fn step(&mut self, step: &str) -> [String; 2] {
        match step.strip_prefix("Q ") {
            Some(text) => self.say(&message::query(text)),
            None => self.say(&pipeline(&step.split("; ").collect::<Vec<_>>())),
        }
    }

    /// The rows of the beginning.
    fn restore(&mut self) {
        for side in self.sides() {
            for key in 1..=8 {
                side.rows(&format!("update t set n = 0 where auction_id = {key}")).expect("update");
                side.rows(&format!("delete from t where auction_id = {}", key + 20)).expect("delete");
                side.rows(&format!("delete from c where auction_id = {key}")).expect("delete");
            }
            side.rows("update users set name = 'x'").expect("update");
        }
    }

    /// What is stored.
    fn rows(&mut self) -> [Vec<Vec<Option<String>>>; 2] {
        self.sides().map(|side| {
            let all = [
                "select auction_id, n from t",
                "select auction_id, pid from c",
                "select id, name from users",
            ];
            let mut rows: Vec<_> = all
                .iter()
                .flat_map(|sql| side.rows(sql).expect("rows").into_iter().flatten())
                .map(|row| vec![row])
                .collect();
            rows.sort();
            rows
        })
    }
}

/// What comes in front of BEGIN.
const BEFORE: &[&str] = &[
    "select 1",
    "show timezone",
    "select now() is null",
    "values (1)",
    "",
    "explain (costs off) select 1",
    "commit",
    "rollback",
    "end",
    "discard plans",
    "select count(*) > 1 from (select 1 from pg_class limit 5) p",
    "set local search_path = 'public'",
    "set search_path = 'public'",
    "reset datestyle",
    "select n from t where auction_id = 1",
    "select n from t where auction_id = 2",
    "select n from t where auction_id = 3 for update",
    "select auction_id from t where n < 0",
    "update t set n = n + 1 where auction_id = 7",
    "update t set n = n + 1 where auction_id = 7; select n from t where auction_id = 8",
    "update t set n = n + 1 where auction_id = 7; update t set n = n + 1 where auction_id = 8",
    "insert into t values (21, 1), (22, 1), (23, 1), (24, 1)",
    "update users set name = 'y' where id = 1",
    "update users set name = 'y' where id = 1; commit",
    "insert into t values (21, 1), (22, 1), (23, 1), (24, 1); rollback",
    "create table made (auction_id bigint)",
    "listen x",
    "deallocate all",
    "begin",
    "begin; update t set n = n + 1 where auction_id = 7; commit",
    "savepoint a",
    "select 1 / 0",
    "insert into t values (1, 1), (2, 1), (3, 1), (4, 1)",
];

const BEGINS: &[&str] = &[
    "begin",
    "begin isolation level serializable",
    "start transaction isolation level repeatable read, read only",
    "/* with */ begin read /* a comment */ write -- or two",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn begin_behind_other_statements_holds_on_every_shard() {
    let cluster = Cluster::builder().shards(3).replicas(1).start().await;
    let mut both = Beside::of(cluster, SET_UP).await;
    let mut wrong = String::new();
    for before in BEFORE {
        for begin in BEGINS {
            for key in KEYS {
                let write = format!("update t set n = n + 100 where auction_id = {key}");
                let stored = both.rows();
                assert_eq!(stored[0], stored[1]);
                let steps = match key % 2 {
                    0 => vec![format!("{before}; {begin}; {write}")],
                    _ => vec![format!("{before}; {begin}"), write],
                };
                for step in steps.iter().map(String::as_str).chain(["show transaction_isolation", "rollback"])
                {
                    let [ours, theirs] = both.step(step);
                    if ours != theirs {
                        wrong.push_str(&format!(
                            "{before} / {begin} / {key}: {step}\n  ours   {ours}\n  theirs {theirs}\n"
                        ));
                    }
                }
                let [ours, theirs] = both.rows();
                if ours != theirs {
                    wrong.push_str(&format!(
                        "{before} / {begin} / {key}: stored\n  ours   {ours:?}\n  theirs {theirs:?}\n"
                    ));
                    both.restore();
                }
                both.step("unlisten *");
                both.step("Q reset search_path");
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Requests of one session each, one after the other.
const SESSIONS: &[&[&str]] = &[
    // COMMIT and ROLLBACK without a transaction, in front of writes.
    &["rollback; update users set name = 'y' where id = 1", "update t set n = 1 where auction_id = 3"],
    &["commit; insert into t values (21, 1), (22, 1), (23, 1)", "update t set n = 1 where auction_id = 3"],
    &[
        "commit; update t set n = 2 where auction_id = 4; update t set n = 2 where auction_id = 7; update t set n = 2 where auction_id = 1",
    ],
    &[
        "start transaction",
        "end; rollback; update users set name = 'y' where id = 1",
        "update t set n = 1 where auction_id = 3",
    ],
    &["start transaction", "end; update users set name = 'y' where id = 1"],
    &["begin", "rollback; insert into t values (21, 1), (22, 1), (23, 1)"],
    &["begin", "update t set n = 3 where auction_id = 1; commit; update users set name = 'y' where id = 2"],
    &[
        "begin; update t set n = 3 where auction_id = 1; commit; insert into t values (21, 1), (22, 1), (23, 1)",
    ],
    &["begin; select 1; commit; insert into t values (21, 1), (22, 1), (23, 1)"],
    &["begin", "commit; rollback; update t set n = 5 where auction_id = 5"],
    &[
        "rollback; rollback; begin; update t set n = 5 where auction_id = 5",
        "update t set n = 5 where auction_id = 6",
        "commit",
    ],
    // They end what came before.
    &["insert into t values (21, 1), (22, 1), (23, 1); commit; select 1 / 0"],
    &["insert into t values (21, 1), (22, 1), (23, 1); rollback; update t set n = 9 where auction_id = 1"],
    &[
        "update users set name = 'y' where id = 1; rollback; insert into t values (21, 1), (22, 1), (23, 1); commit; select 1 / 0",
    ],
    &[
        "update t set n = 4 where auction_id = 1; rollback; update t set n = 4 where auction_id = 2; select 1 / 0",
    ],
    &[
        "update t set n = 4 where auction_id = 1; update t set n = 4 where auction_id = 2; commit; update t set n = 5 where auction_id = 2; select 1 / 0",
    ],
    &["update t set n = 4 where auction_id = 1; commit and chain", "select n from t where auction_id = 1"],
    &[
        "insert into t values (21, 1), (22, 1), (23, 1); rollback and chain",
        "select n from t where auction_id = 1",
    ],
    &["insert into t values (21, 1), (22, 1), (23, 1); savepoint a", "commit"],
    &["insert into t values (21, 1), (22, 1), (23, 1); release a", "commit"],
    &["insert into t values (21, 1), (22, 1), (23, 1); rollback to a; select 1", "commit"],
    &["set search_path = 'public'; commit; select 1 / 0", "show search_path"],
    &["set search_path = 'public'; rollback; select 1", "show search_path"],
    &[
        "set search_path = 'public'; update t set n = 4 where auction_id = 1; update t set n = 4 where auction_id = 2; rollback",
        "show search_path",
    ],
    &[
        "set search_path = 'public'; begin; update t set n = 4 where auction_id = 1; update t set n = 4 where auction_id = 2",
        "show search_path",
        "rollback",
        "show search_path",
    ],
    // BEGIN adopts what came before; later shards are part of it, and so are its settings.
    &[
        "insert into t values (21, 1), (22, 1), (23, 1); begin; update t set n = 8 where auction_id = 5",
        "savepoint a; update t set n = 8 where auction_id = 6",
        "rollback to a; update t set n = 8 where auction_id = 7",
        "commit",
    ],
    &[
        "set local search_path = 'public'; begin; update t set n = 8 where auction_id = 5; update t set n = 8 where auction_id = 6; show search_path",
        "update t set n = 8 where auction_id = 7; show search_path",
        "commit; show search_path",
    ],
    &["begin; begin read only", "update t set n = 8 where auction_id = 5"],
    &[
        "begin; update t set n = 8 where auction_id = 5; begin read only; update t set n = 8 where auction_id = 6",
        "rollback",
    ],
    &[
        "begin; update t set n = 8 where auction_id = 5; update t set n = 8 where auction_id = 6; update t set n = 8 where auction_id = 7; begin read only; update t set n = 9 where auction_id = 5",
        "rollback",
    ],
    &[
        "begin; update t set n = 8 where auction_id = 5; update t set n = 8 where auction_id = 6; update t set n = 8 where auction_id = 7; begin read only; update t set n = 9 where auction_id = 6",
        "rollback",
    ],
    &[
        "begin; update t set n = 8 where auction_id = 5; update t set n = 8 where auction_id = 6; update t set n = 8 where auction_id = 7; begin read only; update t set n = 9 where auction_id = 7",
        "rollback",
    ],
    // What stands behind an error is skipped, a removal of a name too.
    &["a ::= select 7", "select 1 / 0; !a", "@a", "!a", "@a"],
    &[
        "a ::= select 7",
        "select n from t where auction_id = 1; select 1 / 0; deallocate a",
        "@a; deallocate a",
        "@a",
    ],
    &[
        "a ::= select 7",
        "update t set n = 1 where auction_id = 1; insert into t values (2, 0); deallocate all",
        "@a",
    ],
    &["a ::= select 7", "begin; update t set n = 1 where auction_id = 1; @nosuch; !a", "rollback", "@a"],
    &["a ::= select 7", "select n from t where auction_id = 1; !a; a ::= select 8; @a", "@a"],
    // The block that the proxy opens is not the application's.
    &["update t set n = 1 where auction_id = 1; lock table t"],
    &["update t set n = 1 where auction_id = 1; update t set n = 1 where auction_id = 2; lock table t"],
    &["update t set n = 1 where auction_id = 1; declare c cursor for select n from t where auction_id = 1"],
    &["update t set n = 1 where auction_id = 1; declare c cursor for select n from t where auction_id = 2"],
    &["lock table t"],
    &["Q update t set n = 1 where auction_id = 1; lock table t"],
    &["begin; lock table t; declare c cursor for select n from t where auction_id = 2; fetch c; commit"],
    &[
        "begin; declare c cursor for select n from t where auction_id = 1",
        "close c; declare c cursor for select n from t where auction_id = 2",
        "fetch c",
        "rollback",
    ],
    // A deferred constraint fails what Sync, COMMIT or the end of a text commits.
    &[
        "Q set local search_path = 'public'; insert into c values (40, 5)",
        "update t set n = 1 where auction_id = 5",
        "rollback",
    ],
    &["Q set search_path = 'public'; insert into c values (40, 5)", "show search_path", "rollback"],
    &["Q select 1; insert into c values (40, 5)", "show search_path", "rollback"],
    &["Q update t set n = 7 where auction_id = 4; insert into c values (40, 5)", "rollback"],
    &[
        "Q update t set n = 7 where auction_id = 4; update t set n = 7 where auction_id = 5; insert into c values (40, 5); select n from t where auction_id = 4",
    ],
    &[
        "Q insert into c values (40, 5); insert into t values (21, 1), (22, 1), (23, 1); set local search_path = 'public'",
    ],
    &["Q insert into t values (21, 1), (22, 1), (23, 1); insert into c values (1, 5), (41, 5), (3, 5)"],
    &["Q insert into t values (21, 1), (22, 1), (23, 1); insert into c values (41, 5); commit; select 1"],
    &[
        "Q insert into t values (21, 1), (22, 1), (23, 1); begin; insert into c values (41, 5)",
        "commit",
        "select 1",
    ],
    &[
        "Q insert into t values (21, 1), (22, 1), (23, 1); begin read only; insert into c values (1, 5)",
        "commit",
        "select 1",
    ],
    &["Q insert into t values (21, 1), (22, 1), (23, 1); savepoint a; select 1", "commit"],
    &[
        "Q select n from t where auction_id = 1; update t set n = 1 where auction_id = 2; begin isolation level serializable",
        "commit",
    ],
    &[
        "set local search_path = 'public'; insert into c values (40, 5)",
        "update t set n = 1 where auction_id = 5",
        "rollback",
    ],
    &[
        "set search_path = 'public'; select n from t where auction_id = 1; insert into c values (41, 5)",
        "show search_path",
        "rollback",
    ],
    &[
        "insert into c values (1, 5), (2, 5), (3, 5), (40, 5), (41, 5)",
        "update t set n = 1 where auction_id = 5",
        "rollback",
    ],
    &["insert into c values (40, 5); commit; update t set n = 1 where auction_id = 5", "show search_path"],
    &[
        "begin",
        "select n from t where auction_id = 1; select n from t where auction_id = 2; insert into c values (40, 5)",
        "commit",
        "update t set n = 1 where auction_id = 5",
        "rollback",
    ],
    &[
        "begin; select n from t where auction_id = 1; select n from t where auction_id = 2; insert into c values (41, 5); commit; select 1",
        "update t set n = 1 where auction_id = 5",
        "rollback",
    ],
    &["insert into c values (41, 5); select auction_id from t where n = 12", "rollback"],
    &[
        "insert into c values (41, 5); select auction_id from t where auction_id in (1, 2, 3) and n = 12",
        "rollback",
    ],
    // In a failed transaction, whoever has failed it.
    &[
        "begin",
        "@nosuch",
        "begin",
        "start transaction; select 1",
        "Q begin",
        "z ::= savepoint a",
        "rollback",
        "z ::= select 1",
    ],
    &["begin", "#select 1", "select 1", "start transaction read only", "@nosuch", "rollback"],
    &[
        "begin; update t set n = 1 where auction_id = 1",
        "@nosuch",
        "a ::= select 1; select 1",
        "@a",
        "a ::= rollback",
        "@a",
    ],
    &[
        "begin",
        "select 1 / 0",
        "s ::= savepoint a",
        "s ::= release a",
        "Q savepoint a",
        "start transaction",
        "@s",
        "rollback; @s",
    ],
    &["begin", "#begin", "rollback"],
    &["#begin", "select 1"],
    &["#commit", "#savepoint a", "b ::= begin", "@b", "rollback"],
    &[
        "begin",
        "insert into users values (5, 'a'), (5, 'b')",
        "begin read only",
        "select n from t where auction_id = 1",
        "s ::= release a",
        "rollback",
    ],
    &[
        "begin",
        "select n from t where auction_id = 1",
        "insert into users values (5, 'a'), (5, 'b')",
        "begin read only",
        "savepoint a",
        "commit",
    ],
    &[
        "begin; update t set n = 7 where auction_id = 2",
        "select * from frm",
        "begin read only; x ::= select 1",
        "@x",
        "rollback",
    ],
    &[
        "begin",
        "update t set n = 7 where auction_id = 2",
        "b ::= select * from frm",
        "savepoint a; x ::= select 1",
        "@x; select 2",
        "@b",
        "rollback",
    ],
    // What ends the failed part, and what follows it in the same pipeline: each in its place.
    &[
        "begin; savepoint a",
        "select 1 / 0",
        "rollback to a; update t set n = 6 where auction_id = 1; update t set n = 6 where auction_id = 2",
        "commit",
    ],
    &[
        "begin; savepoint a",
        "select 1 / 0",
        "rollback to a; update t set n = 6 where auction_id = 3; update t set n = 6 where auction_id = 4",
        "commit",
    ],
    &[
        "begin; update t set n = 7 where auction_id = 1",
        "select 1 / 0",
        "rollback; update t set n = 6 where auction_id = 1; update t set n = 6 where auction_id = 2",
    ],
    &[
        "begin; update t set n = 7 where auction_id = 1",
        "select 1 / 0",
        "rollback; update t set n = 6 where auction_id = 3; update t set n = 6 where auction_id = 4",
    ],
    &[
        "begin; update t set n = 7 where auction_id = 1",
        "select 1 / 0",
        "rollback; begin; update t set n = 6 where auction_id = 3; update t set n = 6 where auction_id = 4",
        "rollback",
    ],
    &[
        "begin; update t set n = 7 where auction_id = 1",
        "select 1 / 0",
        "commit; begin; update t set n = 6 where auction_id = 2; update t set n = 6 where auction_id = 5",
        "commit",
    ],
    &[
        "begin; update t set n = 7 where auction_id = 1",
        "select 1 / 0",
        "rollback and chain; update t set n = 6 where auction_id = 2; update t set n = 6 where auction_id = 5",
        "commit",
    ],
    // No server knows that the transaction has failed.
    &["begin; update t set n = 7 where auction_id = 1", "@nosuch", "Q commit; select 1", "rollback"],
    &[
        "begin; update t set n = 7 where auction_id = 1",
        "@nosuch",
        "Q end; start transaction; update t set n = 8 where auction_id = 2; commit",
    ],
    &[
        "begin; savepoint a; update t set n = 7 where auction_id = 1",
        "@nosuch",
        "Q select 1; commit",
        "Q rollback to a; select 1",
        "Q update t set n = 8 where auction_id = 2; commit",
    ],
    // Savepoints hold where the proxy itself has refused a statement.
    &[
        "begin; update t set n = 7 where auction_id = 1; savepoint a; update t set n = 8 where auction_id = 2",
        "@nosuch",
        "rollback to a; update t set n = 9 where auction_id = 3; select n from t where auction_id = 2",
        "commit",
    ],
    &[
        "begin; savepoint a",
        "@nosuch",
        "select 1",
        "rollback to b",
        "rollback to a",
        "update t set n = 9 where auction_id = 3",
        "commit",
    ],
    &[
        "begin; update t set n = 7 where auction_id = 1; savepoint a",
        "@nosuch",
        "Q rollback to a",
        "Q update t set n = 9 where auction_id = 3; update t set n = 9 where auction_id = 4",
        "@nosuch",
        "Q release a",
        "Q rollback to savepoint a",
        "commit",
    ],
    // AND CHAIN: another transaction of the same kind.
    &[
        "begin; update t set n = 7 where auction_id = 1; update t set n = 7 where auction_id = 2; update t set n = 7 where auction_id = 4",
        "commit and chain",
        "update t set n = 8 where auction_id = 3",
        "rollback",
        "show transaction_isolation",
    ],
    &[
        "begin isolation level repeatable read",
        "update t set n = 7 where auction_id = 1; commit and chain; show transaction_isolation",
        "update t set n = 8 where auction_id = 2; show transaction_isolation",
        "commit",
    ],
    &[
        "begin; update t set n = 7 where auction_id = 1; update t set n = 7 where auction_id = 2; update t set n = 7 where auction_id = 3",
        "rollback and chain; update t set n = 8 where auction_id = 3; update t set n = 8 where auction_id = 1",
        "Q commit and chain",
        "update t set n = 9 where auction_id = 3",
        "@nosuch",
        "commit and chain",
        "show transaction_isolation",
        "rollback",
    ],
    &[
        "begin; set transaction read only; select n from t where auction_id = 1; select n from t where auction_id = 2; select n from t where auction_id = 3",
        "commit and chain",
        "update t set n = 8 where auction_id = 3",
        "rollback",
    ],
    &[
        "begin; set transaction read only; select n from t where auction_id = 1",
        "commit and chain",
        "update t set n = 8 where auction_id = 1",
        "rollback and chain",
        "update t set n = 8 where auction_id = 2",
        "rollback",
    ],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_in_pipelines_end_as_those_of_postgresql() {
    let mut both = Beside::start(SET_UP).await;
    let mut wrong = String::new();
    for session in SESSIONS {
        for step in session.iter().copied() {
            let [ours, theirs] = both.step(step);
            if ours != theirs {
                wrong.push_str(&format!("{session:?}: {step}\n  ours   {ours}\n  theirs {theirs}\n"));
            }
        }
        both.anew();
        let [ours, theirs] = both.rows();
        if ours != theirs {
            wrong.push_str(&format!("{session:?}: stored\n  ours   {ours:?}\n  theirs {theirs:?}\n"));
        }
        both.restore();
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// What has been executed may still be undone at Sync: nobody is told of it before.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_wait_for_sync_as_those_of_postgresql() {
    let mut beside = Beside::start(&["create table t (auction_id bigint, n int)"]).await;
    let lines: String = (1..=20).map(|id| format!("{id}\t0\n")).collect();
    let rows = [message::copy_data(lines.as_bytes()), message::copy_done()].concat();
    // Of a Sync in front of the data of a COPY nothing comes: some drivers send one.
    let ahead = message::sync();
    let pipelines: &[(&str, &[u8], &[u8])] = &[
        ("select 1", b"", b""),
        ("insert into t values (101, 1), (102, 2), (103, 3), (104, 4)", b"", b""),
        ("update t set n = 1 where auction_id = 3", b"", b""),
        ("copy t from stdin", b"", &rows),
        ("copy t from stdin", &ahead, &rows),
    ];
    for (sql, ahead, data) in pipelines {
        let told = beside.sides().map(|side| {
            let pipeline = [
                message::parse("", sql, &[]),
                message::bind("", "", &[], &[]),
                message::describe(b'P', ""),
                message::execute("", 0),
                ahead.to_vec(),
            ];
            side.send(&pipeline.concat()).expect("sent");
            let mut frames = Vec::new();
            if !data.is_empty() {
                // PostgreSQL says at once that it takes the data.
                while frames.last().is_none_or(|frame: &Frame| frame.tag != b'G') {
                    frames.push(side.frame(PATIENCE).expect("in time").expect("an answer"));
                }
                side.send(data).expect("sent");
            }
            let early = side.frame(Duration::from_millis(300)).map_err(|error| error.kind());
            assert_eq!(early.err(), Some(ErrorKind::TimedOut), "{sql}");
            side.send(&message::sync()).expect("sent");
            frames.extend(side.read_until_ready(1).expect("an answer"));
            brief(&frames)
        });
        assert_eq!(told[0], told[1], "{sql}");
    }
}
