//! Reads on replicas: used, never behind the session itself, and done without when they are gone.

use std::time::Duration;

use tests::cluster::{Cluster, eventually, first_column};
use tests::wire::Wire;
use tests::wire_message as message;
use tokio_postgres::Client;

use crate::house::{add_auctions, build, holders, one_of_each};

/// How long the proxy may take to notice what happened to a node.
const NOTICE: Duration = Duration::from_secs(20);

/// Whether the read of an auction is answered by a replica.
async fn on_replica(client: &Client) -> bool {
    is_on_replica(client, 1).await
}

async fn is_on_replica(client: &Client, auction: i64) -> bool {
    let sql = format!("SELECT current_setting('cluster_name') FROM auctions WHERE auction_id = {auction}");
    first_column(client, &sql).await.concat().contains("replica")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_to_replicas_and_see_the_sessions_own_writes() {
    let cluster = Cluster::builder().replicas(1).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let reader = cluster.connect().await;
    eventually(NOTICE, "a read on a replica", || on_replica(&reader)).await;
    for price in 1..=50_i32 {
        let update = format!("UPDATE auctions SET price = {price} WHERE auction_id = 1");
        client.batch_execute(&update).await.expect("update");
        let seen = first_column(&client, "SELECT price FROM auctions WHERE auction_id = 1").await;
        assert_eq!(seen, [price.to_string()]);
    }
}

/// One pipeline, one Sync: the read may be answered by a replica, the write behind it may not go there too.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_does_not_follow_a_read_to_a_replica() {
    let cluster = Cluster::builder().shards(1).replicas(1).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 2).await;
    eventually(NOTICE, "a read on a replica", || on_replica(&client)).await;
    let mut wire = Wire::login(&cluster.login()).expect("login through the proxy");
    for price in 1..=30 {
        let pipeline = [
            message::step("SELECT title FROM auctions WHERE auction_id = 1"),
            message::step(&format!("UPDATE auctions SET price = {price} WHERE auction_id = 2")),
            message::step("SELECT price FROM auctions WHERE auction_id = 2"),
            message::sync(),
        ];
        wire.send(&pipeline.concat()).expect("sent");
        let frames = wire.read_until_ready(1).expect("an answer");
        let tags: String = frames.iter().map(|frame| char::from(frame.tag)).collect();
        assert_eq!(tags, "12DC12C12DCZ", "{frames:?}");
        let read = frames.iter().rfind(|frame| frame.tag == b'D').expect("a row");
        assert!(read.body.ends_with(price.to_string().as_bytes()), "its own write is seen: {read:?}");
    }
}

/// A pipeline that has written is a writing transaction, also for a shard where it has only read so far.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_that_has_written_reads_on_primaries() {
    let cluster = Cluster::builder().replicas(1).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let (one, two) = one_of_each(&cluster).await;
    let mut wire = Wire::login(&cluster.login()).expect("login through the proxy");
    for price in 1..=15 {
        eventually(NOTICE, "a read on a replica", || is_on_replica(&client, two)).await;
        let pipeline = [
            message::step(&format!("UPDATE auctions SET price = {price} WHERE auction_id = {one}")),
            message::step(&format!("SELECT title FROM auctions WHERE auction_id = {two}")),
            message::step(&format!("UPDATE auctions SET price = {price} WHERE auction_id = {two}")),
            message::sync(),
        ];
        wire.send(&pipeline.concat()).expect("sent");
        let frames = wire.read_until_ready(1).expect("an answer");
        let tags: String = frames.iter().map(|frame| char::from(frame.tag)).collect();
        assert_eq!(tags, "12C12DC12CZ", "{frames:?}");
    }
}

/// The floor is one for all sessions of the proxy: what one has asked for is not what another may already rely on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_06_sessions_at_once_see_all_that_was_acknowledged() {
    let cluster = Cluster::builder().shards(1).replicas(1).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 8).await;
    eventually(NOTICE, "a read on a replica", || on_replica(&client)).await;
    let mut tasks = Vec::new();
    for auction in 1..=8 {
        let (writer, other) = (cluster.connect().await, cluster.connect().await);
        tasks.push(tokio::spawn(async move {
            let read = format!("SELECT price FROM auctions WHERE auction_id = {auction}");
            for price in 1..=100_i32 {
                let update = format!("UPDATE auctions SET price = {price} WHERE auction_id = {auction}");
                writer.batch_execute(&update).await.expect("update");
                for reader in [&writer, &other] {
                    assert_eq!(first_column(reader, &read).await, [price.to_string()]);
                }
            }
        }));
    }
    for task in tasks {
        task.await.expect("nothing stale was read");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_06_reads_primary_means_primary() {
    let cluster = Cluster::builder().replicas(1).config_extra("[routing]\nreads = \"primary\"").start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 1).await;
    for _ in 0..20 {
        assert!(!on_replica(&client).await);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_when_the_replicas_die() {
    let cluster = Cluster::builder().replicas(1).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 5).await;
    for shard in &cluster.nodes.shards {
        shard.replicas[0].kill().await.expect("kill");
    }
    cluster.allow_log("node is not used");
    // A session may lose the connection that was in use; the proxy must soon read from the primaries.
    eventually(NOTICE, "reads on the primaries", || async {
        let Ok((reader, connection)) = cluster.proxy.config("auction").connect(tokio_postgres::NoTls).await
        else {
            return false;
        };
        tokio::spawn(connection);
        let read = reader.query("SELECT title FROM auctions WHERE auction_id = 1", &[]).await;
        read.is_ok_and(|rows| rows.len() == 1)
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promoted_replica_takes_the_writes() {
    let cluster = Cluster::builder().replicas(1).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 5).await;
    let owner = holders(&cluster, "auctions", "auction_id = 1").await[0];
    let shard = cluster.shard(owner);
    // Everything written so far is on the replica before the primary goes.
    let sql = "SELECT title FROM auctions WHERE auction_id = 1";
    eventually(NOTICE, "the replica has the row", || async {
        let replica = shard.replicas[0].connect("auction").await.expect("connect to the replica");
        replica.query(sql, &[]).await.is_ok_and(|rows| rows.len() == 1)
    })
    .await;
    shard.primary.kill().await.expect("kill the primary");
    shard.replicas[0].promote().await.expect("promote");
    cluster.allow_log("");
    eventually(NOTICE, "a write on the promoted replica", || async {
        let Ok((writer, connection)) = cluster.proxy.config("auction").connect(tokio_postgres::NoTls).await
        else {
            return false;
        };
        tokio::spawn(connection);
        writer.execute("UPDATE auctions SET price = 99 WHERE auction_id = 1", &[]).await.is_ok()
    })
    .await;
    let promoted = shard.replicas[0].connect("auction").await.expect("connect");
    let price = first_column(&promoted, "SELECT price FROM auctions WHERE auction_id = 1").await;
    assert_eq!(price, ["99"]);
}

/// Once a health check has seen the primary behind the last write, replicas that have it serve on, whoever reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_go_on_when_the_primary_dies_a_while_after_a_write() {
    let cluster =
        Cluster::builder().replicas(1).config_extra("[backend]\nprimary_wait = \"1s\"").start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 5).await;
    let owner = holders(&cluster, "auctions", "auction_id = 1").await[0];
    let shard = cluster.shard(owner);
    client.batch_execute("UPDATE auctions SET price = 7 WHERE auction_id = 1").await.expect("update");
    // Nobody reads meanwhile. When a second check begins, the first one behind the write has been taken in.
    let primary = shard.primary.connect("auction").await.expect("connect to the primary");
    let mut before = first_column(&primary, "SELECT clock_timestamp()").await.concat();
    for check in ["first", "second"] {
        let checks = format!(
            "SELECT query_start FROM pg_stat_activity \
             WHERE query LIKE '%pg_control_system%' AND pid <> pg_backend_pid() AND query_start > '{before}'"
        );
        let begun = async || !first_column(&primary, &checks).await.is_empty();
        eventually(NOTICE, check, begun).await;
        before = first_column(&primary, &checks).await.concat();
    }
    shard.primary.kill().await.expect("kill the primary");
    cluster.allow_log("");
    let reader = cluster.connect().await;
    let seen = first_column(&reader, "SELECT price FROM auctions WHERE auction_id = 1").await;
    assert_eq!(seen, ["7"]);
}

/// What replay takes away from a replica's readers, and what is only for a primary, is read there; the application knows of nothing.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_10_and_pitfall_06_what_a_replica_gives_up_is_read_on_the_primary() {
    let cluster =
        Cluster::builder().replicas(1).node_setting("max_standby_streaming_delay", "0").start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 12).await;
    let (_, two) = one_of_each(&cluster).await;
    let slow = |node: &str, condition: &str| {
        format!("SELECT {node} FROM auctions, generate_series(1, 4000000) g WHERE {condition}")
    };
    let node = "current_setting('cluster_name')";
    let one = slow(&format!("max({node}), sum(g % 7)"), &format!("auction_id = {two}"));
    let several = slow(node, "g % 4000000 = 0");
    let primary = cluster.shard(1).primary.connect("auction").await.expect("the second primary");
    let replica = cluster.shard(1).replicas[0].connect("auction").await.expect("its replica");
    for (sql, simple) in [(&one, true), (&one, false), (&several, true)] {
        // Which node a read is sent to may change at any time: until one has been met on the replica.
        let busy = "SELECT 1 FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%FROM auctions, generate%' AND pid <> pg_backend_pid()";
        let reading = loop {
            eventually(NOTICE, "a read on a replica", || is_on_replica(&client, two)).await;
            let (sql, reader) = (sql.clone(), cluster.connect().await);
            let reading = tokio::spawn(async move {
                match simple {
                    true => first_column(&reader, &sql).await,
                    false => {
                        let rows = reader.query_typed(&sql, &[]).await;
                        let rows = rows.unwrap_or_else(|e| panic!("{sql}: {e:?}"));
                        rows.iter().map(|row| row.get::<_, String>(0)).collect()
                    }
                }
            });
            let under_way = async || !first_column(&replica, busy).await.is_empty();
            eventually(NOTICE, "a read under way", async || reading.is_finished() || under_way().await).await;
            if !reading.is_finished() {
                break reading;
            }
        };
        primary
            .batch_execute("BEGIN; LOCK TABLE auctions IN ACCESS EXCLUSIVE MODE; COMMIT")
            .await
            .expect("a lock");
        let answer = reading.await.expect("the read does not fail");
        let of_replicas = answer.iter().any(|node| node.contains("replica"));
        assert!(answer.len() == if *sql == one { 1 } else { 12 } && !of_replicas, "{sql}: {answer:?}");
    }
    // A function that says that it does not write, and calls one that does.
    for sql in [
        "CREATE TABLE log (id int)",
        "CREATE FUNCTION log_it() RETURNS int LANGUAGE plpgsql AS $$ BEGIN INSERT INTO log VALUES (1); RETURN 7; END $$",
        "CREATE FUNCTION calm() RETURNS int LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN log_it(); END $$",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    eventually(NOTICE, "a read on a replica", || is_on_replica(&client, two)).await;
    for _ in 0..5 {
        assert_eq!(first_column(&client, "SELECT calm()").await, ["7"]);
        let row = client.query_one("SELECT calm()", &[]).await.expect("by the extended protocol");
        assert_eq!(row.get::<_, i32>(0), 7);
    }
    // What a function that says that it does not write has written is seen when the replica has it.
    let all = async || first_column(&client, "SELECT count(*) FROM log").await == ["10"];
    eventually(NOTICE, "ten rows, each once", all).await;
}
