//! `shard-admin transactions`: what proxies that are gone have left prepared is listed, and finished by its decision.

use std::process::{Command, Output};

use serde_json::Value;
use tests::cluster::{Cluster, first_column, program};

/// The name of a proxy that is not there.
const GONE: &str = "0123456789abcdef";

fn shard_admin(cluster: &Cluster, arguments: &[&str]) -> Output {
    let mut command = Command::new(program("shard-admin"));
    command.arg("transactions").args(arguments).arg("--config").arg(&cluster.proxy.config_path);
    command.output().expect("it runs")
}

fn json(cluster: &Cluster, arguments: &[&str]) -> (Option<i32>, Value) {
    let output = shard_admin(cluster, &[arguments, &["--json"]].concat());
    let text = String::from_utf8_lossy(&output.stdout);
    let value = serde_json::from_str(&text)
        .unwrap_or_else(|error| panic!("{error}: {text} {}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code(), value)
}

/// Transactions of a dead proxy on both shards: one decided, one not, and one that another cluster has made.
async fn leave(cluster: &Cluster) -> String {
    let home = cluster.shard(0).primary.connect("postgres").await.expect("the control store");
    let name = first_column(&home, "select id from gavel.cluster").await.remove(0);
    let insert = format!(
        "insert into gavel.decision (gid, state, participants) values ('gavel:{name}:{GONE}:1', 'committed', '{{}}')"
    );
    home.batch_execute(&insert).await.expect("a decision");
    for (number, shard) in cluster.nodes.shards.iter().enumerate() {
        let client = shard.primary.connect("auction").await.expect("the shard");
        for (counter, cluster) in [(1, name.as_str()), (2, name.as_str()), (3, "strangers")] {
            let sql = format!(
                "begin; insert into kept values ({}, {counter}); \
                 prepare transaction 'gavel:{cluster}:{GONE}:{counter}:{number}'",
                number * 10 + counter
            );
            client.batch_execute(&sql).await.expect("prepared");
        }
    }
    name
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_20_what_a_dead_proxy_has_left_is_listed_and_finished() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    client.batch_execute("create table kept (auction_id bigint primary key, n int)").await.expect("a table");
    assert_eq!(
        json(&cluster, &["list"]),
        (Some(0), serde_json::json!({"transactions": [], "unreachable": []}))
    );
    // Proxies finish such things themselves.
    cluster.proxy.kill().await;
    let name = leave(&cluster).await;
    let of = |counter: u8| format!("gavel:{name}:{GONE}:{counter}");

    let (status, young) = json(&cluster, &["list"]);
    assert_eq!((status, &young["transactions"][0]["state"]), (Some(3), &"recent".into()), "{young}");
    for recover in [vec!["recover", "--dry-run"], vec!["recover"]] {
        let (status, done) = json(&cluster, &recover);
        let left_alone = (Some(3), &serde_json::json!([]), &2.into());
        assert_eq!((status, &done["recovered"], &done["recent"]), left_alone, "they still hold locks");
    }
    age(&cluster).await;
    let (status, listed) = json(&cluster, &["list"]);
    let all = listed["transactions"].as_array().expect("an array");
    assert_eq!((status, all.len()), (Some(3), 2), "not those of other clusters: {listed}");
    for (at, (gid, decision)) in [(of(1), "commit"), (of(2), "none")].iter().enumerate() {
        let found = (&all[at]["gid"], &all[at]["state"], &all[at]["decision"], &all[at]["owner"]);
        assert_eq!(found, (&gid.as_str().into(), &"orphaned".into(), &(*decision).into(), &GONE.into()));
        let parts = all[at]["parts"].as_array().expect("an array");
        let shards: Vec<_> = parts.iter().map(|part| part["shard"].as_str().expect("a name")).collect();
        assert_eq!(shards, ["shard-1", "shard-2"]);
        assert_eq!((&parts[0]["database"], &parts[0]["role"]), (&"auction".into(), &"postgres".into()));
    }

    let (status, planned) = json(&cluster, &["recover", "--dry-run"]);
    assert_eq!((status, &planned["dry_run"]), (Some(3), &true.into()));
    assert_eq!(
        json(&cluster, &["list"]).1["transactions"].as_array().map(Vec::len),
        Some(2),
        "nothing is done"
    );

    let (status, done) = json(&cluster, &["recover"]);
    let outcomes = |done: &Value| -> Vec<(String, String, u64)> {
        let one = |done: &Value| {
            let text = |field: &str| done[field].as_str().expect("a text").to_owned();
            (text("gid"), text("outcome"), done["finished"].as_u64().expect("a number"))
        };
        done["recovered"].as_array().expect("an array").iter().map(one).collect()
    };
    let expected = vec![(of(1), "committed".to_owned(), 2), (of(2), "rolled back".to_owned(), 2)];
    assert_eq!((status, outcomes(&done)), (Some(0), expected));
    assert_eq!(cluster.on_each_primary("select n from kept").await, [["1"], ["1"]]);
    let strangers = cluster.on_each_primary("select gid from pg_prepared_xacts").await;
    assert_eq!(strangers.concat().len(), 2, "{strangers:?}");
    assert_eq!(json(&cluster, &["list"]).0, Some(0));
    end_strangers(&cluster).await;
}

/// Recovery does not touch what is younger than ten seconds.
async fn age(cluster: &Cluster) {
    let old = "select 1 from pg_prepared_xacts having min(clock_timestamp() - prepared) > '10.1 seconds'";
    tests::cluster::eventually(std::time::Duration::from_secs(20), "they get old", async || {
        cluster.on_each_primary(old).await.iter().all(|rows| !rows.is_empty())
    })
    .await;
}

async fn end_strangers(cluster: &Cluster) {
    for (number, shard) in cluster.nodes.shards.iter().enumerate() {
        let client = shard.primary.connect("auction").await.expect("the shard");
        let sql = format!("rollback prepared 'gavel:strangers:{GONE}:3:{number}'");
        client.batch_execute(&sql).await.expect("rolled back");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_is_down_is_said_and_a_cluster_that_is_none_is_an_error() {
    let cluster = Cluster::builder().start().await;
    cluster.proxy.kill().await;
    cluster.shard(1).primary.kill().await.expect("killed");
    let (status, listed) = json(&cluster, &["list"]);
    assert_eq!(status, Some(3));
    assert!(listed["unreachable"][0].as_str().is_some_and(|why| why.contains("shard-2")), "{listed}");
    let output = shard_admin(&cluster, &["list", "--nonsense"]);
    assert_eq!(output.status.code(), Some(2));
    cluster.shard(0).primary.kill().await.expect("killed");
    let output = shard_admin(&cluster, &["recover"]);
    let text = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{text}");
    assert!(text.contains("shard-1"), "{text}");
}
