//! EXPLAIN of statements over several shards; and row locks with LIMIT.

use tests::cluster::Cluster;
use tests::wire::Wire;
use tests::wire_message as message;

use crate::beside::{Beside, said_but_settings};

const SET_UP: &[&str] = &[
    "create table t (auction_id bigint primary key, n int, state text default 'new')",
    "create table home (id int primary key)",
    "insert into t (auction_id, n) select g, g % 4 from generate_series(1, 30) g",
];

fn lines(session: &mut Wire, sql: &str) -> Vec<String> {
    let rows = session.rows(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    rows.into_iter().map(|mut row| row.remove(0).expect("a line")).collect()
}

fn count(lines: &[String], what: &str) -> usize {
    lines.iter().filter(|line| line.contains(what)).count()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_shard_explains_its_part() {
    let cluster = Cluster::builder().shards(3).start().await;
    let mut session = Wire::login(&cluster.login()).expect("login");
    for sql in SET_UP {
        session.rows(sql).expect(sql);
    }
    for (sql, plan, node) in [
        ("explain select * from t", "several shards", "Seq Scan on t"),
        (
            "explain (costs off, verbose) select n from t order by auction_id limit 3",
            "rows in their order",
            "Limit",
        ),
        ("explain select n, count(*) from t group by n", "rows are gathered", "Seq Scan on t"),
        ("explain select count(*) from t", "aggregates put together", "Aggregate"),
        ("explain update t set n = 1", "in one transaction", "Update on t"),
        ("explain delete from t where n = 2", "in one transaction", "Delete on t"),
        ("explain analyze select * from t where n = 1", "several shards", "Execution Time"),
        (
            "explain (analyze, timing off) select n, count(*) from t group by n",
            "rows are gathered",
            "Execution Time",
        ),
    ] {
        let lines = lines(&mut session, sql);
        assert_eq!(count(&lines, plan), 1, "{sql}: {lines:#?}");
        assert!(count(&lines, node) >= 3, "{sql}: {lines:#?}");
        for shard in ["Shard shard-1", "Shard shard-2", "Shard shard-3"] {
            assert_eq!(lines.iter().filter(|line| *line == shard).count(), 1, "{sql}: {lines:#?}");
        }
    }
    let one = lines(&mut session, "explain select * from t where auction_id = 3");
    assert!(!one[0].contains("Gavel") && count(&one, "Shard") == 0, "{one:?}");
    let read_first = lines(&mut session, "explain insert into home select n from t");
    assert!(count(&read_first, "the query is run first") == 1, "{read_first:?}");
    let left = session.rows("select count(*), sum(n) from t").expect("nothing has run");
    assert_eq!(left[0], [Some("30".to_owned()), Some("45".to_owned())]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_analyzed_is_run_once() {
    let cluster = Cluster::builder().shards(3).start().await;
    let mut session = Wire::login(&cluster.login()).expect("login");
    for sql in SET_UP {
        session.rows(sql).expect(sql);
    }
    let sum = |session: &mut Wire| session.rows("select sum(n) from t").expect("a sum")[0][0].clone();
    let lines_of = lines(&mut session, "explain (analyze, costs off) update t set n = n + 1");
    assert_eq!(count(&lines_of, "Update on t"), 3, "{lines_of:?}");
    assert_eq!(sum(&mut session).as_deref(), Some("75"));
    for sql in ["begin", "explain analyze delete from t where n = 1", "rollback"] {
        session.rows(sql).expect(sql);
    }
    assert_eq!(sum(&mut session).as_deref(), Some("75"));
    let bytes = [
        message::parse("", "explain analyze update t set n = n + $1 where n > $2", &[23, 23]),
        message::bind(
            "",
            "",
            &[message::Value::Text(b"10".to_vec()), message::Value::Text(b"3".to_vec())],
            &[],
        ),
        message::describe(b'P', ""),
        message::execute("", 0),
        message::sync(),
    ]
    .concat();
    let said = said_but_settings(&mut session, &bytes, 1);
    assert!(said.starts_with("1 | 2 | T | D ") && said.ends_with("EXPLAIN | I"), "{said}");
    assert_ne!(sum(&mut session).as_deref(), Some("75"));
    for (sql, why) in [
        ("explain analyze insert into home select n from t", "EXPLAIN ANALYZE of this statement"),
        ("explain (format json) select * from t", "in this format"),
        ("explain select ctid, count(*) from t group by 1", "system column"),
    ] {
        let error = session.rows(sql).expect_err(sql).to_string();
        assert!(error.contains("0A000") && error.contains(why), "{sql}: {error}");
    }
    let prepared =
        ["prepare p (int) as select n, count(*) from t where n > $1 group by n", "explain execute p (3)"];
    session.rows(prepared[0]).expect("prepared");
    assert_eq!(count(&lines(&mut session, prepared[1]), "Shard shard-"), 3);
}

/// How many rows are locked on all shards: those that SKIP LOCKED leaves out.
fn unlocked(session: &mut Wire) -> usize {
    session.rows("select auction_id from t for update skip locked").expect("rows").len()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_more_rows_are_locked_than_wanted() {
    let mut both = Beside::start(SET_UP).await;
    let [mut other, _] = both.others();
    for (sql, got, locked) in [
        ("select auction_id from t limit 7 for update skip locked", 7, 7),
        ("select auction_id from t where n = 1 limit 20 for update", 8, 8),
        ("select * from t limit 0 for update", 0, 0),
        ("select * from t where n > 5 limit 3 for no key update nowait", 0, 0),
        ("select auction_id from t limit 29 for update", 29, 29),
    ] {
        both.ours.rows("begin").expect("begin");
        assert_eq!(both.ours.rows(sql).expect(sql).len(), got, "{sql}");
        assert_eq!(unlocked(&mut other), 30 - locked, "{sql}");
        both.ours.rows("rollback").expect("rollback");
    }
    let bytes = [
        message::parse("", "select auction_id from t where n = $2 limit $1 for update skip locked", &[]),
        message::bind(
            "",
            "",
            &[message::Value::Text(b"5".to_vec()), message::Value::Text(b"2".to_vec())],
            &[],
        ),
        message::describe(b'P', ""),
        message::execute("", 0),
        message::sync(),
    ]
    .concat();
    both.ours.rows("begin").expect("begin");
    let said = said_but_settings(&mut both.ours, &bytes, 1);
    assert!(said.ends_with("SELECT 5 | T"), "{said}");
    assert_eq!(unlocked(&mut other), 25);
    // What is locked is passed over.
    let rest =
        other.rows("select auction_id from t where n = 2 limit 10 for update skip locked").expect("rows");
    assert_eq!(rest.len(), 3);
    both.ours.rows("rollback").expect("rollback");
    // With an order each shard locks as many.
    for sql in [
        "select auction_id, n from t order by auction_id limit 4 for update skip locked",
        "select auction_id from t order by n desc, auction_id limit 3 offset 1 for update",
    ] {
        let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &message::query(sql), 1));
        assert_eq!(ours, theirs);
    }
    let sql = "select auction_id from t order by n limit 3 for update nowait";
    let error = both.ours.rows(sql).expect_err("refused").to_string();
    assert!(error.contains("0A000"), "{error}");
}
