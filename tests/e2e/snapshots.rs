//! REPEATABLE READ over several shards: one moment for all.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use shard_admin::local_proxy::LocalProxy;
use tests::cluster::{Cluster, eventually, first_column, one_row};
use tests::random::Random;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::drift::second_proxy;

const ACCOUNTS: i64 = 24;
const TOTAL: i64 = ACCOUNTS * 100;
const SNAPSHOT: &str = "begin isolation level repeatable read";

async fn bank(shards: usize) -> Cluster {
    let cluster = Cluster::builder().shards(shards).start().await;
    let client = cluster.connect().await;
    let table = "create table accounts (auction_id bigint primary key, balance bigint not null)";
    client.batch_execute(table).await.expect("a table");
    let rows: Vec<_> = (1..=ACCOUNTS).map(|key| format!("({key}, 100)")).collect();
    client.batch_execute(&format!("insert into accounts values {}", rows.join(", "))).await.expect("rows");
    cluster
}

async fn connect(proxy: &LocalProxy) -> Client {
    let (client, connection) = proxy.config("auction").connect(NoTls).await.expect("a login");
    tokio::spawn(connection);
    client
}

/// Two accounts on different shards, as a rule. Keys in order: transfers do not deadlock.
async fn transfer(client: &Client, random: &mut Random) -> Result<(), tokio_postgres::Error> {
    let from = random.between(1, ACCOUNTS - 1);
    let (to, amount) = (random.between(from + 1, ACCOUNTS), random.between(-20, 20));
    client.batch_execute("begin").await?;
    for (key, change) in [(from, -amount), (to, amount)] {
        let sql = format!("update accounts set balance = balance + {change} where auction_id = {key}");
        client.batch_execute(&sql).await?;
    }
    client.batch_execute("commit").await
}

async fn sum(client: &Client) -> i64 {
    let balances = first_column(client, "select balance from accounts").await;
    assert_eq!(balances.len(), ACCOUNTS as usize);
    balances.iter().map(|balance| balance.parse::<i64>().expect("a number")).sum()
}

/// Runs transfers through both proxies until told to stop; how many there were.
struct Transfers {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    tasks: tokio::task::JoinSet<()>,
}

impl Transfers {
    async fn start(proxies: &[&LocalProxy]) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut tasks = tokio::task::JoinSet::new();
        for (seed, proxy) in proxies.iter().cycle().take(6).enumerate() {
            let client = connect(proxy).await;
            let (stop, done) = (Arc::clone(&stop), Arc::clone(&done));
            tasks.spawn(async move {
                let mut random = Random::new(seed as u64);
                while !stop.load(Ordering::Relaxed) {
                    transfer(&client, &mut random).await.expect("a transfer");
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        Self { stop, done, tasks }
    }

    async fn stop(mut self) -> usize {
        self.stop.store(true, Ordering::Relaxed);
        while let Some(task) = self.tasks.join_next().await {
            task.expect("no transfer failed");
        }
        self.done.load(Ordering::Relaxed)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_14_a_transaction_over_shards_is_never_seen_by_halves() {
    const LOOKS: usize = 150;
    let cluster = bank(3).await;
    let (other, _ports) = second_proxy(&cluster).await;
    let transfers = Transfers::start(&[&cluster.proxy, &other]).await;
    let reader = cluster.connect().await;
    for look in 0..LOOKS {
        let before = transfers.done.load(Ordering::Relaxed);
        reader.batch_execute(SNAPSHOT).await.expect("begin");
        assert_eq!(sum(&reader).await, TOTAL, "look {look}");
        if look % 10 == 0 {
            // The snapshot stays what it is while others commit.
            eventually(Duration::from_secs(20), "transfers go on", async || {
                transfers.done.load(Ordering::Relaxed) > before + 5
            })
            .await;
            assert_eq!(sum(&reader).await, TOTAL, "look {look}, later");
        }
        reader.batch_execute("commit").await.expect("commit");
    }
    let done = transfers.stop().await;
    assert!(done > LOOKS, "{done} transfers meanwhile");
    assert_eq!(sum(&reader).await, TOTAL);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_14_every_shard_shows_the_moment_of_the_first_statement() {
    let cluster = bank(3).await;
    let (reader, writer) = (cluster.connect().await, cluster.connect().await);
    reader.batch_execute(SNAPSHOT).await.expect("begin");
    reader.batch_execute("select from accounts where auction_id = 1").await.expect("a snapshot");
    for key in 1..=ACCOUNTS {
        let update = format!("update accounts set balance = 7 where auction_id = {key}");
        writer.batch_execute(&update).await.expect("an update");
    }
    assert_eq!(sum(&reader).await, TOTAL, "nothing of what came later");
    let late = reader.batch_execute("update accounts set balance = 8 where auction_id = 9").await;
    let code = late.err().and_then(|error| error.code().cloned());
    assert_eq!(code, Some(SqlState::T_R_SERIALIZATION_FAILURE), "the row has changed since");
    reader.batch_execute("rollback").await.expect("rollback");
    assert_eq!(sum(&reader).await, 7 * ACCOUNTS);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lock_comes_before_the_snapshot() {
    let cluster = bank(3).await;
    let (reader, writer) = (cluster.connect().await, cluster.connect().await);
    for begin in [SNAPSHOT, "begin; set transaction isolation level repeatable read"] {
        for part in begin.split("; ") {
            reader.batch_execute(part).await.expect("begin");
        }
        reader.batch_execute("show transaction_isolation").await.expect("a setting");
        reader.batch_execute("lock table accounts in share mode").await.expect("a lock");
        // Committed before the lock was had, or not at all: it is seen.
        let blocked = writer.batch_execute("set lock_timeout = '50ms'").await;
        blocked.expect("a setting");
        let late = writer.batch_execute("update accounts set balance = 0 where auction_id = 3").await;
        let code = late.err().and_then(|error| error.code().cloned());
        assert_eq!(code, Some(SqlState::LOCK_NOT_AVAILABLE));
        assert_eq!(sum(&reader).await, TOTAL);
        reader.batch_execute("rollback").await.expect("rollback");
    }
    // What is committed between BEGIN and the lock is seen behind it.
    reader.batch_execute(SNAPSHOT).await.expect("begin");
    writer.batch_execute("update accounts set balance = 90 where auction_id = 3").await.expect("an update");
    reader.batch_execute("lock table accounts in share mode").await.expect("a lock");
    assert_eq!(sum(&reader).await, TOTAL - 10);
    reader.batch_execute("commit").await.expect("commit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writers_commit_on_all_shards_and_chains_look_again() {
    let cluster = bank(3).await;
    let (client, other) = (cluster.connect().await, cluster.connect().await);
    client.batch_execute(SNAPSHOT).await.expect("begin");
    for key in 1..=ACCOUNTS {
        let update = format!("update accounts set balance = balance + 1 where auction_id = {key}");
        client.batch_execute(&update).await.expect("an update");
    }
    client.batch_execute("savepoint s").await.expect("a savepoint");
    client.batch_execute("delete from accounts where auction_id = 5").await.expect("a delete");
    client.batch_execute("rollback to s").await.expect("a rollback");
    assert_eq!(sum(&other).await, TOTAL);
    assert_eq!(sum(&client).await, TOTAL + ACCOUNTS);
    client.batch_execute("commit and chain").await.expect("commit");
    other.batch_execute("update accounts set balance = 0 where auction_id = 1").await.expect("an update");
    assert_eq!(sum(&client).await, TOTAL + ACCOUNTS - 101, "a snapshot of its own");
    client.batch_execute("commit").await.expect("commit");
    let level = one_row(&client, "show transaction_isolation").await;
    assert_eq!(level.get::<_, String>(0), "read committed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_14_serializable_stays_on_one_shard() {
    let cluster = bank(2).await;
    let client = cluster.connect().await;
    client.batch_execute("begin isolation level serializable").await.expect("begin");
    first_column(&client, "select balance from accounts where auction_id = 1").await;
    let mut refused = None;
    for key in 2..=ACCOUNTS {
        let sql = format!("select balance from accounts where auction_id = {key}");
        if let Err(error) = client.batch_execute(&sql).await {
            refused = error.code().cloned();
            break;
        }
    }
    assert_eq!(refused, Some(SqlState::FEATURE_NOT_SUPPORTED));
    client.batch_execute("rollback").await.expect("rollback");
}
