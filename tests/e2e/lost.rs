//! Connections to a shard that break while it commits: nobody knows the outcome, and nobody is told otherwise.

use std::time::Duration;

use tests::cluster::{Cluster, eventually, first_column};
use tests::wire::Wire;
use tests::{wire_message as message, wire_print};

use crate::house::{add_auctions, build};

fn extended(sql: &str) -> Vec<u8> {
    [message::step(sql), message::sync()].concat()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_whose_commit_is_cut_off_is_of_unknown_outcome() {
    let cluster = Cluster::builder().start().await;
    cluster.allow_log(" ERROR ");
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let shard = cluster.shard(0).primary.connect("auction").await.expect("the shard is up");
    let key = first_column(&shard, "SELECT auction_id::text FROM auctions LIMIT 1").await.remove(0);
    // Commits wait for a replica that does not exist, when they are durable already.
    shard.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.expect("superuser");
    shard.batch_execute("SELECT pg_reload_conf()").await.expect("superuser");
    let waiting = "SELECT pid::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
    let wait_for_one = async || {
        let waits = async || !first_column(&shard, waiting).await.is_empty();
        eventually(Duration::from_secs(20), "the commit waits", waits).await;
        let end = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity WHERE wait_event = 'SyncRep'";
        first_column(&shard, end).await;
    };
    // The servers' processes take the setting over one after the other: it is in force when a commit waits.
    let probe = cluster.shard(0).primary.connect("auction").await.expect("the shard is up");
    // Only a commit that has written something waits.
    let write = "SELECT pg_logical_emit_message(true, 'probe', '')";
    let commits = tokio::spawn(async move { while probe.batch_execute(write).await.is_ok() {} });
    wait_for_one().await;
    commits.await.expect("the probe ends with its connection");
    let insert = |n: u8| format!("INSERT INTO bids (auction_id, amount) VALUES ({key}, {n})");
    let ways = [
        vec![message::query(&insert(1))],
        vec![extended(&insert(2))],
        vec![message::query(&format!("{}; SELECT 1", insert(3)))],
        vec![message::query("BEGIN"), message::query(&insert(4)), message::query("COMMIT")],
        vec![message::query("BEGIN"), message::query(&format!("{}; COMMIT", insert(5)))],
        vec![message::query("BEGIN"), message::query(&insert(6)), extended("COMMIT")],
    ];
    for (way, requests) in ways.iter().enumerate() {
        let mut session = Wire::login(&cluster.login()).expect("login");
        let (last, first) = requests.split_last().expect("requests");
        for request in first {
            session.send(request).expect("sent");
            session.read_until_ready(1).expect("answered");
        }
        session.send(last).expect("sent");
        wait_for_one().await;
        let frames = session.read_until_ready(1).expect("the session goes on");
        let states: Vec<_> = frames.iter().filter_map(wire_print::sqlstate).collect();
        assert_eq!(states.last().map(String::as_str), Some("08007"), "way {way}: {frames:?}");
    }
    let amounts = first_column(&shard, "SELECT amount::text FROM bids ORDER BY amount").await;
    assert_eq!(amounts, ["1", "2", "3", "4", "5", "6"], "all of them were committed");
}
