//! Sessions that wait for each other's locks on several shards: no PostgreSQL sees the cycle, the proxy does.

use std::time::Duration;

use shard_admin::local_cluster::ReservedPort;
use shard_admin::local_proxy::{LocalProxy, ProxyOptions};
use tests::cluster::{Cluster, eventually, first_column};
use tests::wire::Wire;
use tests::wire_message as message;
use tokio::time::timeout;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Error, NoTls};

use crate::beside::{Beside, said};
use crate::house::{add_auctions, build, one_of_each};

/// Far above what is needed: a deadlock that nobody ends lasts for ever.
const LIMIT: Duration = Duration::from_secs(60);

/// Runs both to their end.
async fn both<A, B>(one: impl Future<Output = A>, other: impl Future<Output = B>) -> (A, B) {
    timeout(LIMIT, async { tokio::join!(one, other) }).await.expect("nobody waits for ever")
}

async fn repeat(client: &Client, sql: &str, times: usize) {
    for _ in 0..times {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

/// Each writes the same rows, in the same order: on one PostgreSQL nobody would be the victim of a deadlock.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upserts_over_shards_do_not_deadlock() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    client.batch_execute("CREATE TABLE marks (auction_id bigint PRIMARY KEY, n int)").await.expect("create");
    let rows = (1..=12).map(|key| format!("({key}, 1)")).collect::<Vec<_>>().join(", ");
    let upsert = format!(
        "INSERT INTO marks VALUES {rows} ON CONFLICT (auction_id) DO UPDATE SET n = marks.n + 1 RETURNING auction_id"
    );
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..6 {
        let (session, upsert) = (cluster.connect().await, upsert.clone());
        writers.spawn(async move {
            for _ in 0..20 {
                let keys = first_column(&session, &upsert).await;
                assert_eq!(keys, (1..=12).map(|key| key.to_string()).collect::<Vec<_>>(), "in their order");
            }
        });
    }
    while let Some(writer) = writers.join_next().await {
        writer.expect("no deadlock");
    }
    let sums = cluster.on_each_primary("SELECT n FROM marks").await.concat();
    assert!(sums.len() == 12 && sums.iter().all(|n| n == "120"), "{sums:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_16_what_is_written_everywhere_is_locked_in_one_order() {
    // Nothing is detected: nothing has to be.
    let cluster = Cluster::builder().config_extra("[limits]\ndeadlock = 0\n").start().await;
    let (one, other) = (cluster.connect().await, cluster.connect().await);
    build(&one).await;
    one.batch_execute("INSERT INTO categories VALUES (1, '')").await.expect("insert");
    let update = "UPDATE categories SET name = name || 'x'";
    both(repeat(&one, update, 30), repeat(&other, update, 30)).await;
    let lengths = cluster.on_each_primary("SELECT length(name) FROM categories").await.concat();
    assert_eq!(lengths, ["60", "60"]);
    let alter = "ALTER TABLE auctions ALTER title SET DEFAULT ''";
    both(repeat(&one, alter, 10), repeat(&other, "TRUNCATE categories", 10)).await;
    both(repeat(&one, alter, 10), repeat(&other, alter, 10)).await;
}

/// Whatever comes between them, statements that are transactions of their own answer as those of one PostgreSQL, where none of
/// these waits in a circle: the shards of an INSERT run at the same time, and it is taken back and run again where that was unlucky.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn inserts_and_reads_over_shards_beside_ddl_do_not_fail() {
    let cluster = Cluster::builder().shards(4).start().await;
    let client = cluster.connect().await;
    client.batch_execute("CREATE TABLE marks (auction_id bigint PRIMARY KEY, n int)").await.expect("create");
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..3_i64 {
        let session = cluster.connect().await;
        writers.spawn(async move {
            for turn in 0..150 {
                let key = (writer * 150 + turn) * 3;
                let rows = format!("({key}, 1), ({}, 1), ({}, 1)", key + 1, key + 2);
                let block = turn % 3 == 0;
                if block {
                    session.batch_execute("BEGIN").await.expect("begin");
                }
                let done = match turn % 2 {
                    0 => {
                        session
                            .execute(&format!("INSERT INTO marks (auction_id, n) VALUES {rows}"), &[])
                            .await
                    }
                    _ => {
                        let sql = "INSERT INTO marks (auction_id) VALUES ($1), ($2), ($3)";
                        session.execute(sql, &[&key, &(key + 1), &(key + 2)]).await
                    }
                };
                assert_eq!(done.unwrap_or_else(|error| panic!("{error:?}")), 3);
                if block {
                    session.batch_execute("COMMIT").await.expect("commit");
                }
            }
        });
    }
    let reader = cluster.connect().await;
    writers.spawn(async move {
        for _ in 0..300 {
            let sql = "SELECT * FROM marks WHERE auction_id < 50 ORDER BY auction_id LIMIT 5";
            reader.simple_query(sql).await.unwrap_or_else(|error| panic!("{error:?}"));
        }
    });
    let mut alters = 0;
    let all = async {
        while !writers.is_empty() {
            for sql in ["ALTER TABLE marks ADD COLUMN more int", "ALTER TABLE marks DROP COLUMN more"] {
                client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
            }
            alters += 1;
            while let Some(ended) = writers.try_join_next() {
                ended.expect("no error");
            }
        }
    };
    timeout(LIMIT, all).await.expect("nobody waits for ever");
    assert!(alters > 5, "{alters}");
    assert_eq!(first_column(&client, "SELECT count(*) FROM marks").await, ["1350"]);
}

/// Of several that insert the same rows one wins, and the others are told of its rows.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_same_rows_over_shards_collide_and_do_not_deadlock() {
    let cluster = Cluster::builder().shards(4).start().await;
    let client = cluster.connect().await;
    client.batch_execute("CREATE TABLE marks (auction_id bigint PRIMARY KEY, n int)").await.expect("create");
    let start = std::sync::Arc::new(tokio::sync::Barrier::new(4));
    let mut writers = tokio::task::JoinSet::new();
    for _ in 0..4 {
        let (session, start) = (cluster.connect().await, std::sync::Arc::clone(&start));
        writers.spawn(async move {
            let mut won = 0;
            for turn in 0..40 {
                let rows: Vec<String> = (0..5).map(|n| format!("({}, 1)", turn * 5 + n)).collect();
                let block = turn % 2 == 0;
                start.wait().await;
                if block {
                    session.batch_execute("BEGIN").await.expect("begin");
                }
                let done =
                    session.execute(&format!("INSERT INTO marks VALUES {}", rows.join(", ")), &[]).await;
                match done {
                    Ok(5) => won += 1,
                    Ok(other) => panic!("{other} rows"),
                    Err(error) => assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION), "{error:?}"),
                }
                if block {
                    session.batch_execute("COMMIT").await.expect("the end");
                }
            }
            won
        });
    }
    let won = timeout(LIMIT, writers.join_all()).await.expect("nobody waits for ever");
    assert_eq!(won.iter().sum::<i32>(), 40, "each time one has won: {won:?}");
    assert_eq!(first_column(&client, "SELECT count(*) FROM marks").await, ["200"]);
}

/// What a transaction has done before binds it: only one that begins with the statement gives way unseen.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_that_has_done_something_is_not_begun_anew() {
    let cluster = Cluster::builder().start().await;
    let (one, other) = (cluster.connect().await, cluster.connect().await);
    build(&one).await;
    add_auctions(&one, 20).await;
    let keys = one_of_each(&cluster).await;
    one.batch_execute("DELETE FROM auctions").await.expect("delete");
    let row = |key: i64| format!("INSERT INTO auctions (auction_id, title) VALUES ({key}, 'x')");
    let rows = format!("{}, ({}, 'x')", row(keys.0), keys.1);
    for (before, gives_way) in
        [("", true), ("SELECT pg_advisory_xact_lock(7)", false), ("NOTIFY lots", false)]
    {
        // The other has the second row and wants the first; the one wants both.
        other.batch_execute("BEGIN").await.expect("begin");
        other.batch_execute(&row(keys.1)).await.expect("the second row");
        one.batch_execute("BEGIN").await.expect("begin");
        if !before.is_empty() {
            one.batch_execute(before).await.expect("what comes before");
        }
        let inserts = one.batch_execute(&rows);
        let waits = async {
            eventually(LIMIT, "it waits", || async {
                let waiting =
                    cluster.on_each_primary("SELECT count(*) FROM pg_locks WHERE NOT granted").await;
                waiting.concat().iter().any(|count| count != "0")
            })
            .await;
            let done = other.batch_execute(&row(keys.0)).await;
            other.batch_execute("COMMIT").await.expect("the end");
            done
        };
        let (inserted, done) = both(inserts, waits).await;
        let code = |done: &Result<(), Error>| done.as_ref().err().and_then(Error::code).cloned();
        let codes = [code(&inserted), code(&done)];
        if gives_way {
            assert_eq!(codes, [Some(SqlState::UNIQUE_VIOLATION), None], "the one has waited for the other");
        } else {
            let deadlocks = codes.iter().filter(|code| **code == Some(SqlState::T_R_DEADLOCK_DETECTED));
            assert_eq!(deadlocks.count(), 1, "{before}: {codes:?}");
        }
        one.batch_execute("ROLLBACK; DELETE FROM auctions").await.expect("the end");
    }
}

/// The two sessions lock a row each and then the other's; what became of the second statements.
async fn cross(one: &Client, other: &Client, keys: (i64, i64)) -> [Result<u64, Error>; 2] {
    let update = |id: i64| format!("UPDATE auctions SET price = price + 1 WHERE auction_id = {id}");
    for (client, key) in [(one, keys.0), (other, keys.1)] {
        client.batch_execute("BEGIN").await.expect("begin");
        client.batch_execute(&update(key)).await.expect("the first row");
    }
    let sql = "UPDATE auctions SET price = price + 1 WHERE auction_id = $1";
    let second = async |client: &Client, key: i64| {
        let done = client.execute(sql, &[&key]).await;
        client.batch_execute(if done.is_ok() { "COMMIT" } else { "ROLLBACK" }).await.expect("the end");
        done
    };
    let (first, second) = both(second(one, keys.1), second(other, keys.0)).await;
    [first, second]
}

/// One of the two was told of the deadlock, the other got its way.
fn one_gave_way(results: &[Result<u64, Error>; 2]) {
    let errors: Vec<&Error> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(errors.len() == 1, "{results:?}");
    let error = errors[0].as_db_error().expect("of the server");
    assert_eq!(error.code(), &SqlState::T_R_DEADLOCK_DETECTED, "{error:?}");
    assert_eq!(error.message(), "deadlock detected");
    let detail = error.detail().expect("a detail");
    assert!(detail.contains("waits for ShareLock on transaction"), "{detail}");
    assert!(detail.contains("on shard \"shard-1\"") && detail.contains("on shard \"shard-2\""), "{detail}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_over_two_shards_costs_one_of_its_transactions() {
    let cluster = Cluster::builder().start().await;
    let (one, other) = (cluster.connect().await, cluster.connect().await);
    build(&one).await;
    add_auctions(&one, 20).await;
    let keys = one_of_each(&cluster).await;
    for _ in 0..2 {
        one_gave_way(&cross(&one, &other, keys).await);
    }
    let sql = format!("SELECT sum(price) FROM auctions WHERE auction_id IN ({}, {})", keys.0, keys.1);
    let sums = cluster.on_each_primary(&sql).await.concat();
    assert_eq!(sums, ["2", "2"], "each survivor has written both rows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_upserts_may_be_locked_crosswise() {
    let cluster = Cluster::builder().config_extra("[limits]\ndeadlock = \"100ms\"\n").start().await;
    let (one, other) = (cluster.connect().await, cluster.connect().await);
    build(&one).await;
    add_auctions(&one, 20).await;
    let upserts = async |client: &Client| {
        let rows: Vec<String> = (1..=12).map(|id| format!("({id}, 'lot')")).collect();
        let sql = format!(
            "INSERT INTO auctions (auction_id, title) VALUES {} \
             ON CONFLICT (auction_id) DO UPDATE SET price = auctions.price + 1",
            rows.join(", ")
        );
        let mut done = 0;
        while done < 40 {
            match client.batch_execute(&sql).await {
                Ok(()) => done += 1,
                Err(error) => assert_eq!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED), "{error:?}"),
            }
        }
    };
    both(upserts(&one), upserts(&other)).await;
    let sql = "SELECT DISTINCT price FROM auctions WHERE auction_id <= 12";
    assert_eq!(cluster.on_each_primary(sql).await.concat(), ["80", "80"], "whole statements only");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cycle_through_another_proxy_ends_too() {
    let limits = "[limits]\ndeadlock = \"200ms\"\nlock_wait_over_shards = \"1s\"\n";
    let cluster = Cluster::builder().config_extra(limits).start().await;
    let ports = [(); 2].map(|()| ReservedPort::any().expect("a port"));
    let options = ProxyOptions {
        port: ports[0].number(),
        metrics_port: ports[1].number(),
        pool_mode: "transaction".to_owned(),
        extra: Some(limits.to_owned()),
    };
    let proxy = LocalProxy::start_for(&cluster.nodes, "other", &options).await.expect("a second proxy");
    let one = cluster.connect().await;
    let (other, connection) = proxy.config("auction").connect(NoTls).await.expect("login");
    tokio::spawn(connection);
    build(&one).await;
    add_auctions(&one, 20).await;
    eventually(LIMIT, "the other proxy knows the table", || async {
        other
            .simple_query("SELECT price FROM auctions WHERE auction_id = 1")
            .await
            .is_ok_and(|rows| rows.len() > 1)
    })
    .await;
    one_gave_way_by_proxy(&cross(&one, &other, one_of_each(&cluster).await).await);
}

/// As [`one_gave_way`]; the other process's session is not known by name.
fn one_gave_way_by_proxy(results: &[Result<u64, Error>; 2]) {
    let errors: Vec<&Error> = results.iter().filter_map(|result| result.as_ref().err()).collect();
    assert!(errors.len() == 1, "{results:?}");
    let error = errors[0].as_db_error().expect("of the server");
    assert_eq!(error.code(), &SqlState::T_R_DEADLOCK_DETECTED, "{error:?}");
    assert!(error.detail().is_some_and(|detail| detail.contains("of another proxy")), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whoever_hangs_up_while_it_waits_leaves_no_locks() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    client.batch_execute("INSERT INTO categories VALUES (1, '')").await.expect("insert");
    let mut holder = cluster.shard(1).primary.connect("auction").await.expect("a connection to the shard");
    let held = holder.transaction().await.expect("begin");
    held.batch_execute("UPDATE categories SET name = 'held'").await.expect("update");
    let waits = "SELECT pid FROM pg_stat_activity WHERE wait_event_type = 'Lock'";
    let left = "SELECT pid FROM pg_stat_activity WHERE application_name <> 'gavel control' \
                AND query LIKE '%gone%' AND (state = 'idle in transaction' OR wait_event_type = 'Lock') \
                AND pid <> pg_backend_pid()";
    let mut gone = Wire::login(&cluster.login()).expect("login");
    gone.send(&message::query("UPDATE categories SET name = 'gone'")).expect("sent");
    eventually(LIMIT, "it waits on the second shard", || async {
        let waiting = cluster.on_each_primary(waits).await;
        waiting[0].is_empty() && waiting[1].len() == 1
    })
    .await;
    assert_eq!(cluster.on_each_primary(left).await.concat().len(), 2, "on both shards");
    drop(gone);
    eventually(LIMIT, "its locks are gone", || async {
        cluster.on_each_primary(left).await.concat().is_empty()
    })
    .await;
    held.rollback().await.expect("rollback");
    client.batch_execute("UPDATE categories SET name = 'next'").await.expect("nothing bars the next one");
    assert_eq!(first_column(&client, "SELECT name FROM categories").await, ["next"]);
}

/// What a transaction runs until it fails, and what it does then.
const FAILING: &[(&[&str], &[&str])] = &[
    (
        &[
            "update t set n = 1 where auction_id = 1",
            "update t set n = 1 where auction_id = 2",
            "select 1 / 0",
        ],
        &["commit"],
    ),
    (
        &[
            "update t set n = 1 where auction_id = 1",
            "update t set n = 1 where auction_id = 2",
            "insert into t values (3, 0)",
        ],
        &["rollback"],
    ),
    (
        &[
            "update t set n = 1 where auction_id = 1",
            "savepoint s",
            "update t set n = 1 where auction_id = 2",
            "update t set n = 1 where auction_id = 3",
            "selec",
        ],
        &["rollback to s", "update t set n = 2 where auction_id = 4", "commit"],
    ),
    (
        &[
            "update t set n = 1 where auction_id = 1",
            "savepoint s",
            "update t set n = 1 where auction_id = 2",
            "release s",
            "savepoint u",
            "update t set n = 1 where auction_id = 3",
            "select 1 / 0",
        ],
        &["select 1", "rollback to u", "commit"],
    ),
    (&["lock table t in share mode", "select n from t where auction_id = 'x'"], &["rollback"]),
    (
        &[
            "update users set name = 'y' where id = 1",
            "update t set n = 1 where auction_id = 1",
            "select * from nosuch",
        ],
        &["rollback to s", "commit and chain", "commit"],
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_failed_transaction_holds_the_locks_that_it_would_on_one_server() {
    let mut both = Beside::start(&[
        "create table t (auction_id bigint primary key, n int)",
        "insert into t values (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0)",
        "create table users (id bigint primary key, name text)",
        "insert into users values (1, 'x')",
    ])
    .await;
    let mut others = both.others();
    for other in &mut others {
        other.rows("set lock_timeout = '200ms'").expect("set");
    }
    let mut wrong = String::new();
    for (failing, then) in FAILING {
        let probes: Vec<String> = (1..=6)
            .map(|key| format!("update t set n = n where auction_id = {key}"))
            .chain(["update users set name = name where id = 1".to_owned()])
            .collect();
        let begun = ["begin"].into_iter().chain(failing.iter().copied()).map(str::to_owned);
        let steps = begun.chain(probes).chain(then.iter().map(|sql| (*sql).to_owned()));
        for sql in steps.chain(["select n from t where auction_id = 4".to_owned()]) {
            let probing = sql.contains("set n = n ") || sql.contains("name = name");
            let sides = if probing { others.each_mut() } else { both.sides() };
            let [ours, theirs] = sides.map(|side| {
                // Where the row is that is waited for is told in the words of the server.
                said(side, &message::query(&sql)).split(" at ").next().unwrap_or_default().to_owned()
            });
            if ours != theirs {
                wrong.push_str(&format!("{failing:?}: {sql}\n  ours   {ours}\n  theirs {theirs}\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// To print a definition PostgreSQL opens the tables that it names: a reading of the catalog must not wait for those that
/// another transaction is changing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_does_not_wait_for_the_open_transaction_that_changes_another_table() {
    let cluster = Cluster::builder().start().await;
    let (open, other) = (cluster.connect().await, cluster.connect().await);
    for sql in [
        "CREATE TABLE la (auction_id bigint PRIMARY KEY, n int DEFAULT 5 CHECK (n > 0), \
         twice int GENERATED ALWAYS AS (n * 2) STORED)",
        "CREATE TABLE lb (auction_id bigint PRIMARY KEY, n int DEFAULT 5 CHECK (n > 0))",
        "CREATE VIEW lv AS SELECT auction_id, n FROM la",
        "CREATE RULE lr AS ON DELETE TO la WHERE old.n = 7 DO INSTEAD NOTHING",
        "CREATE POLICY lp ON la USING (n > 0)",
        "ALTER TABLE la ENABLE ROW LEVEL SECURITY",
        "CREATE FUNCTION lf() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN new; END'",
        "CREATE TRIGGER lt BEFORE UPDATE ON la FOR EACH ROW WHEN (new.n > 9) EXECUTE FUNCTION lf()",
        "CREATE FUNCTION ls() RETURNS bigint BEGIN ATOMIC SELECT count(*) FROM la; END",
    ] {
        other.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    open.batch_execute("BEGIN; ALTER TABLE la ADD COLUMN x int").await.expect("changed");
    for sql in [
        "ALTER TABLE lb ADD COLUMN x int CHECK (x > 0)",
        "CREATE TABLE lc (auction_id bigint PRIMARY KEY, n int)",
        "CREATE TEMP TABLE tt (a int)",
        "SELECT * FROM tt",
        "BEGIN",
        "CREATE TABLE ld (auction_id bigint PRIMARY KEY, at date CHECK (at > date 'now' - 9))",
        "ROLLBACK",
        "DROP TABLE lc",
    ] {
        let ran = timeout(Duration::from_secs(30), other.batch_execute(sql)).await;
        let ran = ran.unwrap_or_else(|_| panic!("{sql} waits for another session's transaction"));
        match ran {
            Ok(()) => {}
            // Each shard reads 'now' at its own time, on the same day or not.
            Err(error) if sql.contains("'now'") => assert!(error.as_db_error().is_some(), "{error:?}"),
            Err(error) => panic!("{sql}: {error:?}"),
        }
    }
    open.batch_execute("COMMIT").await.expect("committed");
    other.batch_execute("ALTER TABLE la RENAME COLUMN n TO m").await.expect("renamed");
    // What has been printed before is not taken for what it would be now.
    let renamed = "UPDATE lv SET n = 2 WHERE auction_id = 1";
    other.batch_execute(renamed).await.expect("the view has its own names");
    other.batch_execute("ALTER TABLE la DROP COLUMN x").await.expect("nobody waits any more");
    let turns = |client, table: &'static str| async move {
        for turn in 0..10 {
            repeat(client, &format!("ALTER TABLE {table} ADD COLUMN c{turn} int CHECK (c{turn} > 0)"), 1)
                .await;
        }
    };
    both(turns(&open, "la"), turns(&other, "lb")).await;
}
