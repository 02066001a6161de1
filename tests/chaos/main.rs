//! Things that die: a backend, a replica, a client, at moments that a seed decides. Afterwards the accounting of the
//! pools is at zero, nothing hangs on the servers, and every acknowledged row is there.
//!
//! `SEED=… cargo test --test chaos` replays a run as far as threads allow.

mod commits;
mod load;

use std::time::{Duration, Instant};

use shard_admin::local_cluster::LocalNode;
use tests::cluster::{Cluster, eventually, first_column};
use tests::wire::Login;
use tokio_postgres::SimpleQueryMessage;

use load::{Load, Random};

/// How long the load and the killing go on.
const RUN: Duration = Duration::from_secs(8);
/// How long the pools may take to notice that all is over.
const SETTLE: Duration = Duration::from_secs(20);
/// Clients of the load.
const CLIENTS: u64 = 12;

fn seed() -> u64 {
    let given = std::env::var("SEED").ok().and_then(|seed| seed.parse().ok());
    given.unwrap_or(0x9e37_79b9_7f4a_7c15)
}

fn login(cluster: &Cluster) -> Login {
    let login = Login::new((cluster.proxy.host.as_str(), cluster.proxy.port), "auction").expect("loopback");
    Login { password: cluster.proxy.password.clone(), ..login }
}

async fn prepare(cluster: &Cluster) {
    let client = cluster.connect().await;
    let schema =
        "create table chaos (auction_id bigint, number int, note text, primary key (auction_id, number))";
    client.batch_execute(schema).await.expect("the table");
}

/// What must hold when nobody asks for anything any more.
async fn check_settled(cluster: &Cluster, acknowledged: &[(u64, u64)]) {
    let busy = "select pid::text || ' ' || state || ' ' || query from pg_stat_activity where datname = 'auction' \
                and pid <> pg_backend_pid() and backend_type = 'client backend' and state <> 'idle'";
    for node in cluster.nodes.nodes() {
        let client = node.connect("auction").await.expect("the node is up");
        eventually(SETTLE, "no session left busy or in a transaction", async || {
            first_column(&client, busy).await.is_empty()
        })
        .await;
        assert_eq!(first_column(&client, "select gid from pg_prepared_xacts").await, Vec::<String>::new());
    }
    let client = cluster.connect().await;
    for (auction, number) in acknowledged {
        let sql = format!("select note from chaos where auction_id = {auction} and number = {number}");
        let rows = first_column(&client, &sql).await;
        assert_eq!(rows, ["acknowledged"], "auction {auction}, number {number}: seed {}", seed());
    }
    let console = cluster.connect_to("gavel_admin").await;
    eventually(SETTLE, "SHOW POOLS shows no active and no waiting", async || {
        let messages = console.simple_query("SHOW POOLS").await.expect("SHOW POOLS");
        let rows = messages.iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        rows.into_iter().all(|row| row.get("active") == Some("0") && row.get("waiting") == Some("0"))
    })
    .await;
}

/// Ends one session of the application's database on that node, whatever it does.
async fn kill_a_backend(node: &LocalNode, random: &mut Random) {
    let Ok(client) = node.connect("auction").await else { return };
    let sql = "select pid::text from pg_stat_activity where datname = 'auction' and pid <> pg_backend_pid() \
               and backend_type = 'client backend' order by pid";
    let victims = first_column(&client, sql).await;
    if victims.is_empty() {
        return;
    }
    let victim = &victims[random.below(victims.len() as u64) as usize];
    first_column(&client, &format!("select pg_terminate_backend({victim})")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_backends_leave_nothing_behind() {
    let cluster = Cluster::builder().shards(2).start().await;
    cluster.allow_log(" ERROR "); // lost backends are errors worth a line
    prepare(&cluster).await;
    let mut random = Random::new(seed());
    let load = Load::start(&login(&cluster), CLIENTS, seed());
    let until = Instant::now() + RUN;
    while Instant::now() < until {
        let shard = cluster.shard(random.below(2) as usize);
        kill_a_backend(&shard.primary, &mut random).await;
        tokio::time::sleep(Duration::from_millis(random.below(60))).await;
    }
    let done = load.stop();
    assert!(done.len() > 20, "only {} rows were acknowledged", done.len());
    check_settled(&cluster, &done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_that_vanish_leave_nothing_behind() {
    let cluster = Cluster::builder().shards(2).config_extra("[pool]\nsize = 4").start().await;
    prepare(&cluster).await;
    let load = Load::start(&login(&cluster), CLIENTS, seed());
    let vanishing = Load::start_vanishing(&login(&cluster), CLIENTS, seed() ^ 1);
    tokio::time::sleep(RUN).await;
    let done = load.stop();
    vanishing.stop();
    assert!(done.len() > 20, "only {} rows were acknowledged", done.len());
    check_settled(&cluster, &done).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replica_that_dies_is_done_without() {
    let cluster = Cluster::builder().shards(1).replicas(1).start().await;
    cluster.allow_log(" ERROR ");
    prepare(&cluster).await;
    let load = Load::start(&login(&cluster), CLIENTS, seed());
    let replica = &cluster.shard(0).replicas[0];
    for _ in 0..3 {
        tokio::time::sleep(RUN / 6).await;
        replica.kill().await.expect("killed");
        tokio::time::sleep(RUN / 6).await;
        replica.start().await.expect("started again");
    }
    let done = load.stop();
    assert!(done.len() > 20, "only {} rows were acknowledged", done.len());
    check_settled(&cluster, &done).await;
}
