//! Rows of several shards fetched so many at a time, and statements that name other statements.

use tests::cluster::{Cluster, first_column, login_of};
use tests::wire::Wire;
use tests::wire_message as message;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::beside::{Beside, said};
use crate::house::{add_auctions, build, one_of_each};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_sees_its_own_cursors() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 8).await;
    let (here, there) = one_of_each(&cluster).await;
    for key in [here, there] {
        let declare =
            format!("BEGIN; DECLARE c1 CURSOR FOR SELECT title FROM auctions WHERE auction_id = {key}");
        client.batch_execute(&declare).await.expect("declare");
        assert_eq!(first_column(&client, "SELECT name FROM pg_cursors").await, ["c1"]);
        client.batch_execute("COMMIT").await.expect("commit");
        assert!(first_column(&client, "SELECT name FROM pg_cursors").await.is_empty());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_portal_over_several_shards_is_read_in_pieces() {
    let cluster = Cluster::builder().start().await;
    let mut client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 50).await;
    for (sql, all) in [
        ("SELECT auction_id, title FROM auctions", 50),
        ("SELECT auction_id, title FROM auctions LIMIT 33", 33),
        ("SELECT auction_id, title FROM auctions LIMIT 0", 0),
        ("SELECT auction_id, title FROM auctions WHERE title = 'no such'", 0),
    ] {
        for step in [1_i32, 7, 25, 49, 50, 51, 1000] {
            let transaction = client.transaction().await.expect("begin");
            let portal = transaction.bind(sql, &[]).await.expect("bind");
            let mut ids: Vec<i64> = Vec::new();
            let mut rounds = 0;
            loop {
                let rows = transaction.query_portal(&portal, step).await.expect("fetch");
                assert!(rows.len() <= step as usize, "{sql}, {step}: {}", rows.len());
                rounds += 1;
                if rows.is_empty() {
                    break;
                }
                ids.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
                // Other statements of the transaction do not disturb it.
                let other = transaction.query("SELECT 1 FROM auctions WHERE auction_id = 7", &[]).await;
                assert_eq!(other.expect("select").len(), 1);
            }
            let most = all / step as usize + 2;
            assert!(rounds <= most, "{sql}, {step}: {rounds} rounds");
            ids.sort_unstable();
            ids.dedup();
            assert_eq!(ids.len(), all, "{sql}, {step}");
            drop(portal);
            transaction.commit().await.expect("commit");
        }
    }
    // Rows that are not fetched are not missed.
    let transaction = client.transaction().await.expect("begin");
    let portal = transaction.bind("SELECT auction_id FROM auctions", &[]).await.expect("bind");
    assert_eq!(transaction.query_portal(&portal, 3).await.expect("fetch").len(), 3);
    assert_eq!(transaction.query_portal(&portal, 0).await.expect("the rest").len(), 47);
    transaction.rollback().await.expect("rollback");
    assert_eq!(first_column(&client, "SELECT auction_id FROM auctions").await.len(), 50);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_go_forward_over_all_shards() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 40).await;
    for (limit, all) in [("", 40), (" LIMIT 25", 25)] {
        client.batch_execute("BEGIN").await.expect("begin");
        let declare = format!(
            "DECLARE \"the cursor\" NO SCROLL CURSOR FOR SELECT auction_id, title FROM auctions{limit}"
        );
        client.batch_execute(&declare).await.expect("declare");
        let mut ids = Vec::new();
        loop {
            let rows = client.query("FETCH FORWARD 7 FROM \"the cursor\"", &[]).await.expect("fetch");
            if rows.is_empty() {
                break;
            }
            ids.extend(rows.iter().map(|row| row.get::<_, i64>(0)));
            let more = first_column(&client, "FETCH \"the cursor\"").await;
            ids.extend(more.iter().map(|id| id.parse::<i64>().expect("a number")));
        }
        ids.sort_unstable();
        ids.dedup();
        assert_eq!(ids.len(), all, "{limit}");
        assert!(first_column(&client, "FETCH ALL FROM \"the cursor\"").await.is_empty());
        client.batch_execute("CLOSE \"the cursor\"").await.expect("close");
        client.batch_execute("SAVEPOINT s").await.expect("savepoint");
        let error = client.batch_execute("FETCH \"the cursor\"").await.expect_err("closed");
        assert_eq!(error.code(), Some(&SqlState::INVALID_CURSOR_NAME), "{error:?}");
        client.batch_execute("ROLLBACK TO s").await.expect("rollback to");
        client.batch_execute("COMMIT").await.expect("commit");
    }
    client
        .batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT auction_id FROM auctions")
        .await
        .expect("declare");
    let tags = client.simple_query("MOVE FORWARD 30 IN c").await.expect("move");
    assert!(matches!(tags.last(), Some(SimpleQueryMessage::CommandComplete(30))), "{tags:?}");
    assert_eq!(first_column(&client, "FETCH ALL c").await.len(), 10);
    asks_whether_a_row_is_there(&client).await;
    let error = client.batch_execute("FETCH PRIOR FROM c").await.expect_err("backwards");
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error:?}");
    client.batch_execute("ROLLBACK").await.expect("rollback");
    let declare = "DECLARE c CURSOR WITH HOLD FOR SELECT auction_id FROM auctions";
    client.batch_execute(declare).await.expect("a cursor that stays");
    assert_eq!(first_column(&client, "FETCH 1 FROM c").await.len(), 1);
    assert_eq!(first_column(&client, "FETCH ALL FROM c").await.len(), 39);
    client.batch_execute("CLOSE c").await.expect("close");
}

/// The 40 auctions are read, in no order and in one; what MOVE by no row says is what PostgreSQL says.
async fn asks_whether_a_row_is_there(client: &Client) {
    for order in ["", " ORDER BY auction_id"] {
        let name = format!("d{}", order.len());
        let declare = format!("DECLARE {name} CURSOR FOR SELECT auction_id FROM auctions{order}");
        client.batch_execute(&declare).await.expect("declare");
        for (by, is) in [("0", 0), ("39", 39), ("0", 1), ("1", 1), ("0", 1), ("1", 0), ("0", 0), ("ALL", 0)] {
            let tags = client.simple_query(&format!("MOVE FORWARD {by} IN {name}")).await.expect("move");
            assert!(
                matches!(tags[..], [SimpleQueryMessage::CommandComplete(rows)] if rows == is),
                "{by} {tags:?}"
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sql_prepare_works_in_both_protocols() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    client
        .execute("PREPARE q (bigint) AS SELECT auction_id, title FROM auctions WHERE auction_id = $1", &[])
        .await
        .expect("prepare");
    for key in 1..=20_i64 {
        let rows = client.query(&format!("EXECUTE q ({key})"), &[]).await.expect("extended");
        assert_eq!(rows.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), [key]);
        let computed = format!("EXECUTE q (abs(-{key}) + 0)");
        assert_eq!(first_column(&client, &computed).await, [key.to_string()]);
        let rows = client.query(&computed, &[]).await.expect("extended");
        assert_eq!(rows[0].get::<_, i64>(0), key);
    }
    client
        .execute("PREPARE i AS INSERT INTO auctions (auction_id, title) VALUES ($1, $2)", &[])
        .await
        .expect("prepare");
    assert_eq!(client.execute("EXECUTE i (100 + 1, upper('x'))", &[]).await.expect("execute"), 1);
    assert_eq!(first_column(&client, "SELECT title FROM auctions WHERE auction_id = 101").await, ["X"]);
    let error = client.query("EXECUTE nobody (1)", &[]).await.expect_err("unknown");
    assert_eq!(error.code(), Some(&SqlState::INVALID_SQL_STATEMENT_NAME), "{error:?}");
    client.execute("DEALLOCATE q", &[]).await.expect("deallocate");
    // EXPLAIN (GAVEL) with parameters.
    let explain = "EXPLAIN (GAVEL) SELECT * FROM auctions WHERE auction_id = $1";
    let rows = client.query(explain, &[&7_i64]).await.expect("explain");
    let lines: Vec<String> = rows.iter().map(|row| row.get(0)).collect();
    assert!(lines.iter().any(|line| line.contains("one shard")), "{lines:?}");
    let rows = client.query("EXPLAIN (GAVEL) SELECT * FROM auctions", &[]).await.expect("explain");
    assert!(rows.iter().any(|row| row.get::<_, String>(0).contains("several shards")));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_with_hold_live_on_the_shards_that_have_them() {
    let cluster = Cluster::builder().replicas(1).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let (one, two) = one_of_each(&cluster).await;
    for round in 0..3 {
        for (name, id) in [("a", one), ("b", two)] {
            let declare = format!(
                "DECLARE {name}{round} CURSOR WITH HOLD FOR SELECT auction_id FROM auctions WHERE auction_id = {id}"
            );
            // By the extended protocol.
            client.execute(&declare, &[]).await.unwrap_or_else(|error| panic!("{declare}: {error:?}"));
        }
        for id in 1..=20 {
            let other = format!("SELECT 1 FROM auctions WHERE auction_id = {id}");
            assert_eq!(first_column(&client, &other).await, ["1"]);
        }
        for (name, id) in [("a", one), ("b", two)] {
            let fetched = client.query(&format!("FETCH ALL {name}{round}"), &[]).await.expect("fetch");
            assert_eq!(fetched.iter().map(|row| row.get::<_, i64>(0)).collect::<Vec<_>>(), [id]);
        }
    }
    client.batch_execute("CLOSE a0").await.expect("close");
    let error = client.batch_execute("FETCH ALL a0").await.expect_err("closed");
    assert_eq!(error.code(), Some(&SqlState::INVALID_CURSOR_NAME));
    client.batch_execute("CLOSE ALL").await.expect("close");
    let error = client.batch_execute("FETCH ALL b1").await.expect_err("closed");
    assert_eq!(error.code(), Some(&SqlState::INVALID_CURSOR_NAME));
    // In a transaction, on two shards.
    client.batch_execute("BEGIN").await.expect("begin");
    for (name, id) in [("x", one), ("y", two)] {
        let declare =
            format!("DECLARE {name} CURSOR FOR SELECT auction_id FROM auctions WHERE auction_id = {id}");
        client.batch_execute(&declare).await.expect("declare");
    }
    assert_eq!(first_column(&client, "FETCH ALL x").await, [one.to_string()]);
    assert_eq!(first_column(&client, "FETCH ALL y").await, [two.to_string()]);
    client.batch_execute("COMMIT").await.expect("commit");
}

/// Statements whose portal is executed twice in one pipeline, on no shard in particular, on several, or by the proxy itself.
const TWICE: &[&str] = &[
    "INSERT INTO t VALUES (1, 1), (2, 2), (3, 3), (4, 4)",
    "UPDATE t SET n = n + 1 WHERE auction_id = 3",
    "SELECT auction_id FROM t WHERE false",
    "INSERT INTO categories VALUES (1, 1)",
    "UPDATE categories SET n = n + 1",
    "CREATE TABLE made (auction_id bigint, n int)",
    "BEGIN",
    "SAVEPOINT a",
    "COMMIT",
    "BEGIN",
    "INSERT INTO t VALUES (5, 1), (6, 2), (7, 3), (8, 4)",
    "ROLLBACK",
    "SELECT sum(n) FROM categories",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_portal_is_run_once() {
    let create = ["CREATE TABLE t (auction_id bigint, n int)", "CREATE TABLE categories (id int, n int)"];
    let mut beside = Beside::start(&create).await;
    for (index, sql) in TWICE.iter().enumerate() {
        let name = &format!("p{index}");
        let twice = [
            message::parse("", sql, &[]),
            message::bind(name, "", &[], &[]),
            message::execute(name, 0),
            message::execute(name, 0),
            message::sync(),
        ]
        .concat();
        let [ours, theirs] = beside.sides().map(|side| said(side, &twice));
        assert_eq!(ours, theirs, "{sql}");
    }
    for sql in ["SELECT auction_id, n FROM t", "SELECT id, n FROM categories"] {
        let [ours, theirs] = beside.sides().map(|side| side.rows(sql).expect("rows"));
        assert_eq!(ours, theirs, "{sql}");
    }
}

/// Binds the portal `p` in a transaction, then executes it so many times with a row limit, or moves it by SQL.
fn portal_read(session: &mut Wire, sql: &str, steps: &[&str]) -> String {
    session.query("ROLLBACK; BEGIN").expect("an answer");
    let bound = [message::parse("", sql, &[]), message::bind("p", "", &[], &[]), message::sync()];
    let mut read = said(session, &bound.concat());
    for step in steps {
        read.push_str(" / ");
        let bytes = match step.parse() {
            Ok(rows) => [message::execute("p", rows), message::sync()].concat(),
            Err(_) => message::query(step),
        };
        read.push_str(&said(session, &bytes));
    }
    read
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_portal_of_the_protocol_is_moved_by_sql() {
    let (cluster, oracle) = (Cluster::builder().start().await, Cluster::oracle().await);
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 8).await;
    let (_, there) = one_of_each(&cluster).await;
    // In the order in which the shards are read.
    let mut ours = Wire::login(&cluster.login()).expect("login");
    let rows = ours.rows("SELECT auction_id FROM auctions").expect("rows");
    let mut plain = Wire::login(&login_of(&oracle)).expect("login");
    plain.query("CREATE TABLE auctions (auction_id bigint, title text)").expect("an answer");
    for row in &rows {
        let id = row[0].as_deref().expect("a key");
        plain.query(&format!("INSERT INTO auctions VALUES ({id}, 'lot')")).expect("an answer");
    }
    let one = format!("SELECT title FROM auctions WHERE auction_id = {there}");
    let all = "SELECT auction_id FROM auctions";
    let runs: &[(&str, &[&str])] = &[
        (all, &["2", "MOVE FORWARD 2 p", "100", "MOVE p", "0"]),
        (all, &["MOVE 3 FROM p", "2", "MOVE ALL p", "MOVE FORWARD 1 p", "5"]),
        ("SELECT auction_id FROM auctions ORDER BY auction_id", &["0", "MOVE p"]),
        (all, &["7", "SELECT 1", "MOVE FORWARD 7 p", "0"]),
        ("SELECT auction_id FROM auctions LIMIT 5", &["2", "MOVE 2 p", "9", "MOVE p"]),
        (&one, &["SELECT 1", "MOVE p", "0"]),
    ];
    for (sql, steps) in runs {
        let expected = portal_read(&mut plain, sql, steps);
        assert_eq!(portal_read(&mut ours, sql, steps), expected, "{sql}, {steps:?}");
    }
    for text in ["FETCH p", "MOVE BACKWARD 1 p"] {
        let said = portal_read(&mut ours, all, &["2", text, "ROLLBACK"]);
        assert!(said.contains("0A000"), "{text}: {said}");
    }
}

/// Names of cursors are those of a session, on whatever shard the cursor is.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursors_name_is_taken_until_it_is_closed_or_undone() {
    let mut both = Beside::start(&[
        "create table t (auction_id bigint primary key, n int)",
        "insert into t values (1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)",
    ])
    .await;
    let declare = |hold: &str, key: i64| {
        format!("declare c cursor {hold} for select n from t where auction_id = {key}")
    };
    let (plain, hold) = ("", "with hold");
    let mut sessions: Vec<Vec<String>> = Vec::new();
    for (one, two) in [(1, 2), (2, 3), (3, 4), (4, 5), (5, 6)] {
        let [begin, fetch, close, rollback, commit] = ["begin", "fetch c", "close c", "rollback", "commit"];
        let [save, back] = ["savepoint s", "rollback to s"];
        for steps in [
            vec![begin, "1", "2", rollback, begin, "2", fetch, close, "1", fetch, commit, begin, "2", commit],
            vec![begin, "1", save, "2", back, fetch, close, "2", fetch, back, "1", fetch, "2", rollback],
            vec![begin, save, "1", back, "2", fetch, commit, fetch],
            vec!["H1", "H2", fetch, close, "H2", fetch, "close all", "H1", fetch, "discard all", "H2", fetch],
            vec![
                begin, "H1", rollback, begin, "H2", fetch, commit, "H1", fetch, begin, "1", rollback, fetch,
                close,
            ],
            vec![begin, "1", "commit and chain", "2", fetch, "rollback and chain", "1", fetch, rollback],
        ] {
            let step = |step: &str| match step {
                "1" => declare(plain, one),
                "2" => declare(plain, two),
                "H1" => declare(hold, one),
                "H2" => declare(hold, two),
                sql => sql.to_owned(),
            };
            sessions.push(steps.into_iter().map(step).collect());
        }
    }
    let mut wrong = String::new();
    for (turn, session) in sessions.iter().enumerate() {
        for sql in session {
            let [ours, theirs] = both.sides().map(|side| {
                let bytes = if turn % 2 == 0 {
                    message::query(sql)
                } else {
                    [message::step(sql), message::sync()].concat()
                };
                said(side, &bytes)
            });
            if ours != theirs {
                wrong.push_str(&format!("{session:?}: {sql}\n  ours   {ours}\n  theirs {theirs}\n"));
            }
        }
        both.anew();
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_is_described_as_a_portal_is() {
    let cluster = Cluster::builder().start().await;
    let oracle = Cluster::oracle().await;
    let mut answers = Vec::new();
    for login in [cluster.login(), login_of(&oracle)] {
        let mut wire = Wire::login(&login).expect("login");
        wire.rows("CREATE TABLE t (auction_id bigint PRIMARY KEY, n int)").expect("create");
        wire.rows("INSERT INTO t SELECT i, 50 - i FROM generate_series(1, 40) AS i").expect("insert");
        let mut said = Vec::new();
        // Rows merged, rows gathered in one place, and these for longer than the transaction. psycopg describes cursors so.
        for (kind, query) in [
            ("", "SELECT auction_id FROM t ORDER BY n"),
            ("", "SELECT n % 3 AS third, count(*) FROM t GROUP BY 1 ORDER BY 1"),
            ("WITH HOLD", "SELECT n, count(*) FROM t GROUP BY 1 ORDER BY 1"),
        ] {
            wire.rows("BEGIN").expect("begin");
            let declare = format!("DECLARE c CURSOR {kind} FOR {query}");
            let declare = [
                message::parse("", &declare, &[]),
                message::bind("", "", &[], &[]),
                message::describe(b'P', ""),
                message::execute("", 0),
                message::sync(),
            ];
            wire.send(&declare.concat()).expect("sent");
            said.push(wire.read_until_ready(1).expect("declared"));
            wire.send(&[message::describe(b'P', "c"), message::sync()].concat()).expect("sent");
            said.push(wire.read_until_ready(1).expect("described"));
            said.push(wire.query("FETCH 3 FROM c").expect("fetched"));
            said.push(wire.query("COMMIT").expect("committed"));
        }
        // The table's OID and the column's number are another's on each server, and where rows are gathered.
        let plain = |mut frame: tests::wire::Frame| {
            if frame.tag == b'T' {
                let name = frame.body[2..].iter().position(|byte| *byte == 0).expect("a name");
                frame.body.drain(name + 3..name + 9);
            }
            frame
        };
        answers.push(said.concat().into_iter().map(plain).collect::<Vec<_>>());
    }
    assert_eq!(answers[0], answers[1]);
}

/// FETCH by the extended protocol is described as its rows come, whatever has happened to the cursor since it was parsed.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn fetch_is_described_as_it_answers() {
    let mut both = Beside::start(&[
        "create table t (auction_id bigint primary key, n int)",
        "create table u (n int)",
        "insert into t values (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0)",
        "insert into u values (1), (2)",
    ])
    .await;
    let parsed = |sql: &str| [message::parse("", sql, &[]), message::describe(b'S', "")].concat();
    let ran = |sql: &str| {
        [parsed(sql), message::bind("", "", &[], &[]), message::execute("", 0), message::sync()].concat()
    };
    for query in [
        "select auction_id, n from t where auction_id = 1",
        "select auction_id, n from t order by auction_id",
        "select distinct n, 'x' as x from t",
        "select n from u",
    ] {
        for steps in [
            [format!("declare c cursor for {query}"), "fetch 2 from c".to_owned(), "move c".to_owned()],
            [format!("declare c scroll cursor for {query}"), "fetch c".to_owned(), "close c".to_owned()],
        ] {
            for side in both.sides() {
                side.query("begin").expect("an answer");
            }
            for sql in &steps {
                let [ours, theirs] = both.sides().map(|side| said(side, &ran(sql)));
                assert_eq!(ours, theirs, "{query}: {sql}");
            }
            for side in both.sides() {
                side.query("commit").expect("an answer");
            }
            // Another session has no such cursor: the server says so, and lives on.
            let described = [parsed(&steps[1]), message::sync()].concat();
            let [ours, theirs] = both.others().map(|mut side| said(&mut side, &described));
            assert_eq!(ours, theirs, "{query}: {}", steps[1]);
        }
    }
    let copied = [
        message::parse("", "copy (select count(*) from t) to stdout", &[]),
        message::bind("", "", &[], &[]),
        message::describe(b'P', ""),
        message::execute("", 0),
        message::sync(),
    ];
    let [ours, theirs] = both.sides().map(|side| said(side, &copied.concat()));
    assert_eq!(ours, theirs);
    // A portal over a FETCH is not read in parts.
    both.ours.query("begin; declare c cursor for select auction_id from t order by 1").expect("an answer");
    let part = [
        message::parse("", "fetch 3 from c", &[]),
        message::bind("", "", &[], &[]),
        message::execute("", 1),
        message::sync(),
    ];
    assert!(said(&mut both.ours, &part.concat()).contains("E 0A000"));
    both.ours.query("rollback; prepare p as select distinct n from t").expect("an answer");
    let part = [
        message::parse("", "execute p", &[]),
        message::bind("", "", &[], &[]),
        message::execute("", 1),
        message::sync(),
    ];
    assert!(said(&mut both.ours, &part.concat()).contains("E 0A000"));
}
