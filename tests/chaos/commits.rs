//! Two-phase commits of which somebody is killed: the proxy, a shard, both. Afterwards each transaction is on both of its shards or on
//! none, and those that were acknowledged are on both.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tests::cluster::{Cluster, eventually, first_column};
use tests::random::Random;
use tests::wire::{Login, Wire};
use tokio_postgres::Client;

use crate::seed;

/// How long the killing goes on.
const RUN: Duration = Duration::from_secs(20);
const CLIENTS: u64 = 8;
/// Recovery leaves what is younger than ten seconds to its coordinator.
const RECOVERY: Duration = Duration::from_secs(60);

/// Two keys on different shards, the first shard's first.
async fn prepare(cluster: &Cluster) -> [i64; 2] {
    let client = cluster.connect().await;
    let table = "create table halves (auction_id bigint, number bigint, primary key (auction_id, number))";
    client.batch_execute(table).await.expect("a table");
    let rows: Vec<_> = (1..=20).map(|key| format!("({key}, 0)")).collect();
    client.batch_execute(&format!("insert into halves values {}", rows.join(", "))).await.expect("rows");
    let found = cluster.on_each_primary("select auction_id from halves").await;
    [0, 1].map(|shard: usize| found[shard][0].parse().expect("a key"))
}

/// Writes on both shards; whether it was acknowledged.
fn write(wire: &mut Wire, keys: [i64; 2], number: u64) -> std::io::Result<bool> {
    wire.rows("begin")?;
    for key in keys {
        wire.rows(&format!("insert into halves values ({key}, {number})"))?;
    }
    wire.rows("commit").map(|_| true)
}

/// Sessions that write until they are told to stop.
struct Writers {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<Mutex<BTreeSet<u64>>>,
    threads: Vec<JoinHandle<()>>,
}

impl Writers {
    fn start(login: &Login, keys: [i64; 2]) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let acknowledged = Arc::new(Mutex::new(BTreeSet::new()));
        let numbers = Arc::new(AtomicU64::new(1));
        let thread = |_| {
            let (stop, acknowledged) = (Arc::clone(&stop), Arc::clone(&acknowledged));
            let (login, numbers) = (login.clone(), Arc::clone(&numbers));
            std::thread::spawn(move || {
                let mut wire = None;
                while !stop.load(Ordering::Relaxed) {
                    if wire.is_none() {
                        wire = Wire::login(&login).ok();
                    }
                    let Some(open) = &mut wire else {
                        std::thread::sleep(Duration::from_millis(20));
                        continue;
                    };
                    let number = numbers.fetch_add(1, Ordering::Relaxed);
                    match write(open, keys, number) {
                        Ok(_) => {
                            acknowledged.lock().expect("no panic").insert(number);
                        }
                        Err(_) => wire = None,
                    }
                }
            })
        };
        let threads = (0..CLIENTS).map(thread).collect();
        Self { stop, acknowledged, threads }
    }

    fn stop(self) -> BTreeSet<u64> {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads {
            thread.join().expect("a writer does not panic");
        }
        self.acknowledged.lock().expect("no panic").clone()
    }
}

/// Waits until nothing is prepared any more; the numbers that are on each shard.
async fn recovered(cluster: &Cluster, keys: [i64; 2]) -> [BTreeSet<u64>; 2] {
    let nobody = "select gid from pg_prepared_xacts";
    eventually(RECOVERY, "nothing is prepared any more", async || {
        cluster.on_each_primary(nobody).await.concat().is_empty()
    })
    .await;
    let mut all = [BTreeSet::new(), BTreeSet::new()];
    for (shard, key) in keys.iter().enumerate() {
        let client = cluster.shard(shard).primary.connect("auction").await.expect("the shard is up");
        let sql = format!("select number from halves where auction_id = {key}");
        let numbers = first_column(&client, &sql).await;
        all[shard] = numbers.iter().map(|number| number.parse().expect("a number")).collect();
    }
    all
}

async fn kill_proxy(cluster: &Cluster) {
    cluster.proxy.kill().await;
}

async fn kill_shard(cluster: &Cluster, shard: usize) {
    cluster.shard(shard).primary.kill().await.expect("killed");
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_at_any_moment_every_transaction_is_whole() {
    let cluster = Cluster::builder().shards(2).start().await;
    cluster.allow_log(" ERROR "); // lost shards are errors worth a line
    let keys = prepare(&cluster).await;
    let writers = Writers::start(&cluster.login(), keys);
    let mut random = Random::new(seed());
    let (until, mut kills) = (Instant::now() + RUN, [0; 3]);
    while Instant::now() < until {
        tokio::time::sleep(Duration::from_millis(300 + random.below(700) as u64)).await;
        let (proxy, shard) = random.pick(&[
            (true, None),
            (true, None),
            (false, Some(0)),
            (false, Some(1)),
            (true, Some(0)),
            (true, Some(1)),
        ]);
        if let Some(shard) = shard {
            kill_shard(&cluster, shard).await;
        }
        if proxy {
            kill_proxy(&cluster).await;
        }
        if let Some(shard) = shard {
            cluster.shard(shard).primary.start().await.expect("it recovers");
        }
        if proxy {
            cluster.proxy.start().await.expect("a proxy");
        }
        kills[usize::from(proxy) + usize::from(proxy && shard.is_some())] += 1;
    }
    let acknowledged = writers.stop();
    let [first, second] = recovered(&cluster, keys).await;
    let halves: Vec<_> = first.symmetric_difference(&second).collect();
    assert!(halves.is_empty(), "on one shard alone: {halves:?}, seed {}", seed());
    let lost: Vec<_> = acknowledged.difference(&first).collect();
    assert!(lost.is_empty(), "acknowledged and lost: {lost:?}, seed {}", seed());
    assert!(acknowledged.len() > 100, "only {} were acknowledged, kills {kills:?}", acknowledged.len());
}

/// Holds up decisions, so that a commit stands still between its first phase and its second.
async fn hold_decisions(cluster: &Cluster) -> Client {
    let gate = cluster.shard(0).primary.connect("postgres").await.expect("the control store");
    gate.batch_execute("begin; lock table gavel.decision in access exclusive mode").await.expect("a lock");
    gate
}

/// Begins a commit that stands still when both shards have prepared.
async fn prepared_on_both(cluster: &Cluster, keys: [i64; 2], number: u64) -> JoinHandle<bool> {
    let login = cluster.login();
    let client = std::thread::spawn(move || {
        let mut wire = Wire::login(&login).expect("login");
        write(&mut wire, keys, number).unwrap_or(false)
    });
    eventually(RECOVERY, "both shards have prepared", async || {
        let prepared = cluster.on_each_primary("select gid from pg_prepared_xacts").await;
        prepared.iter().all(|gids| gids.len() == 1)
    })
    .await;
    client
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_the_phases_it_is_whole() {
    for victims in [(true, None), (true, Some(0)), (true, Some(1)), (false, Some(1))] {
        let cluster = Cluster::builder().shards(2).start().await;
        cluster.allow_log(" ERROR ");
        let keys = prepare(&cluster).await;
        let gate = hold_decisions(&cluster).await;
        let client = prepared_on_both(&cluster, keys, 7).await;
        if victims.0 {
            kill_proxy(&cluster).await;
        }
        if let Some(shard) = victims.1 {
            kill_shard(&cluster, shard).await;
            cluster.shard(shard).primary.start().await.expect("it recovers");
        }
        drop(gate);
        if victims.0 {
            cluster.proxy.start().await.expect("a proxy");
        }
        let acknowledged = client.join().expect("the client does not panic");
        let [first, second] = recovered(&cluster, keys).await;
        assert_eq!(first, second, "{victims:?}");
        assert!(first.contains(&7) || !acknowledged, "{victims:?}");
    }
}

/// The backends of the application's database on the second shard do nothing from here on.
async fn freeze_second(cluster: &Cluster) {
    let client = cluster.shard(1).primary.connect("postgres").await.expect("the second shard");
    let sql =
        "select pid from pg_stat_activity where datname = 'auction' and backend_type = 'client backend'";
    for pid in first_column(&client, sql).await {
        let pid = Pid::from_raw(pid.parse().expect("a number"));
        kill(pid, Signal::SIGSTOP).expect("it is there");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn killed_between_two_commits_of_the_second_phase_it_is_on_both() {
    for proxy_too in [true, false] {
        let cluster = Cluster::builder().shards(2).start().await;
        cluster.allow_log(" ERROR ");
        let keys = prepare(&cluster).await;
        let gate = hold_decisions(&cluster).await;
        let client = prepared_on_both(&cluster, keys, 7).await;
        freeze_second(&cluster).await;
        gate.batch_execute("rollback").await.expect("the decision is made");
        eventually(RECOVERY, "the first shard has committed", async || {
            let home = cluster.shard(0).primary.connect("auction").await.expect("the first shard");
            !first_column(&home, "select number from halves where number = 7").await.is_empty()
        })
        .await;
        if proxy_too {
            kill_proxy(&cluster).await;
        }
        kill_shard(&cluster, 1).await;
        cluster.shard(1).primary.start().await.expect("it recovers");
        if proxy_too {
            cluster.proxy.start().await.expect("a proxy");
        }
        let acknowledged = client.join().expect("the client does not panic");
        assert!(proxy_too != acknowledged, "a decision is told by the proxy that lives");
        let [first, second] = recovered(&cluster, keys).await;
        assert!(first.contains(&7) && second.contains(&7), "decided, proxy killed too: {proxy_too}");
    }
}
