//! Two-phase commit over two real shards, the coordinator killed at each step.

use std::sync::Arc;
use std::time::Duration;

use tokio_postgres::Client;

use super::*;
use crate::control::testing::{Running, Server, eventually, start_as, topology};
use crate::control::{commit_prepared_sql, prepare_sql, rollback_prepared_sql};

const DATABASE: &str = "auction";
const SHARDS: [ShardId; 2] = [ShardId(0), ShardId(1)];

struct Shards {
    servers: [Server; 2],
}

impl Shards {
    async fn start() -> Self {
        let servers = [Server::start(), Server::start()];
        for server in &servers {
            let client = server.client("postgres").await;
            client.batch_execute("CREATE DATABASE auction").await.expect("DDL");
            client.batch_execute("CREATE ROLE app LOGIN").await.expect("DDL");
            let ddl = "CREATE TABLE t (a text); GRANT ALL ON t TO app";
            server.client(DATABASE).await.batch_execute(ddl).await.expect("DDL");
        }
        Self { servers }
    }

    async fn control(&self) -> Running {
        self.control_as("postgres").await
    }

    async fn control_as(&self, user: &str) -> Running {
        let map = topology(&[&self.servers[0], &self.servers[1]]);
        let running = start_as(user, map).await.expect("control starts");
        running.control.nodes().wait_primary(SHARDS[1], Duration::from_secs(5)).await.expect("up");
        let key = Owner::lock_key(&running.control.two_phase().owner().proxy).expect("a key").cast_unsigned();
        let client = self.servers[0].client("postgres").await;
        let sql = format!(
            "SELECT 1 FROM pg_locks WHERE locktype = 'advisory' AND granted AND classid::int8 = {} AND objid::int8 = {}",
            key >> 32,
            key & 0xffff_ffff
        );
        eventually("the owner lock is held", || async {
            !client.query(&sql, &[]).await.expect("reads").is_empty()
        })
        .await;
        running
    }

    async fn client(&self, shard: ShardId) -> Client {
        self.servers[usize::from(shard.0)].client(DATABASE).await
    }

    /// A transaction that wrote `text`, prepared on `shard`.
    async fn prepare(&self, gid: &Gid, shard: ShardId, text: &str) {
        let client = self.client(shard).await;
        client
            .batch_execute(&format!("SET ROLE app; BEGIN; INSERT INTO t VALUES ('{text}')"))
            .await
            .expect("writes");
        client.batch_execute(&prepare_sql(gid, shard)).await.expect("prepares");
    }

    /// On how many shards the text is, and how many prepared transactions there are.
    async fn found(&self, text: &str) -> (usize, i64) {
        let (mut shards, mut prepared) = (0, 0);
        for shard in SHARDS {
            let client = self.client(shard).await;
            let rows = client.query("SELECT 1 FROM t WHERE a = $1", &[&text]).await.expect("reads");
            shards += rows.len();
            let count = client.query_one("SELECT count(*) FROM pg_prepared_xacts", &[]).await.expect("reads");
            prepared += count.get::<_, i64>(0);
        }
        (shards, prepared)
    }
}

/// One pass of `running`'s resolver for which everything is old enough.
async fn pass(running: &Running) -> Result<usize, ControlError> {
    let inner = &running.control.inner;
    let resolver = Resolver {
        dialer: Arc::clone(&inner.health.dialer),
        nodes: Arc::clone(&inner.nodes),
        metrics: Arc::clone(&running.metrics),
        live: inner.two_phase.live(),
        owner: inner.two_phase.owner().clone(),
        database: String::from("postgres"),
        grace: Duration::ZERO,
        pass: PASS,
    };
    let passed = running.runtime.handle().spawn(async move { resolver.pass().await });
    passed.await.expect("no panic")
}

fn participants() -> Vec<String> {
    vec![String::from("shard-1"), String::from("shard-2")]
}

#[tokio::test]
async fn a_coordinator_killed_at_any_step_leaves_all_or_nothing() {
    let shards = Shards::start().await;
    let survivor = shards.control().await;
    for step in 0..=5 {
        let text = format!("step {step}");
        let coordinator = shards.control().await;
        let two_phase = coordinator.control.two_phase();
        let transaction = two_phase.begin();
        let gid = transaction.gid().clone();
        if step >= 1 {
            shards.prepare(&gid, SHARDS[0], &text).await;
        }
        if step >= 2 {
            shards.prepare(&gid, SHARDS[1], &text).await;
        }
        if step >= 3 {
            assert_eq!(two_phase.decide(&gid, participants()).await, Outcome::Committed);
        }
        for shard in SHARDS.into_iter().take(step.max(3) - 3) {
            let client = shards.client(shard).await;
            client.batch_execute(&commit_prepared_sql(&gid, shard)).await.expect("commits");
        }
        let before = shards.found(&text).await;
        assert_eq!(pass(&survivor).await, Ok(0), "a live coordinator is not robbed, step {step}");
        assert_eq!(shards.found(&text).await, before);

        // Dead without a word: nothing of it runs any more.
        std::mem::forget(transaction);
        drop(coordinator);
        let home = shards.servers[0].client("postgres").await;
        eventually("its lock is gone", || async {
            let rows = home.query("SELECT 1 FROM pg_locks WHERE locktype = 'advisory'", &[]).await;
            rows.expect("reads").len() == 1
        })
        .await;
        let finished = pass(&survivor).await.expect("passes");
        assert_eq!(i64::try_from(finished), Ok(before.1), "step {step}");
        let expected = if step >= 3 { (2, 0) } else { (0, 0) };
        assert_eq!(shards.found(&text).await, expected, "step {step}");
        assert_eq!(pass(&survivor).await, Ok(0), "a second pass has nothing to do");
    }
}

#[tokio::test]
async fn pitfall_20_a_coordinator_that_slept_finds_the_tombstone() {
    let shards = Shards::start().await;
    let sleeper = shards.control().await;
    let two_phase = sleeper.control.two_phase();
    let transaction = two_phase.begin();
    let gid = transaction.gid().clone();
    shards.prepare(&gid, SHARDS[0], "late").await;
    let client = shards.servers[0].client("postgres").await;
    let sql = "INSERT INTO gavel.decision (gid, state, participants) VALUES ($1, 'aborted', '{}')";
    client.execute(sql, &[&gid.as_str()]).await.expect("another's resolver does so");
    shards.prepare(&gid, SHARDS[1], "late").await;
    let other = two_phase.begin();
    let decisions = tokio::join!(
        two_phase.decide(&gid, participants()),
        two_phase.decide(other.gid(), participants()),
        two_phase.decide(other.gid(), participants()),
    );
    let expected = (Outcome::Aborted, Outcome::Committed, Outcome::Committed);
    assert_eq!(decisions, expected, "and asking twice is harmless");
    for shard in SHARDS {
        let client = shards.client(shard).await;
        client.batch_execute(&rollback_prepared_sql(&gid, shard)).await.expect("rolls back");
    }
    assert_eq!(shards.found("late").await, (0, 0));
}

#[tokio::test]
async fn a_shard_that_crashes_in_between_is_finished_when_it_is_back() {
    let mut shards = Shards::start().await;
    let running = shards.control().await;
    let two_phase = running.control.two_phase();
    let transaction = two_phase.begin();
    let gid = transaction.gid().clone();
    for shard in SHARDS {
        shards.prepare(&gid, shard, "crash").await;
    }
    assert_eq!(two_phase.decide(&gid, participants()).await, Outcome::Committed);
    shards.servers[1].stop();
    running.control.nodes().check_now(running.control.nodes().primary(SHARDS[1]).expect("was up"));
    let nodes = running.control.nodes();
    eventually("down", || async { nodes.primary(SHARDS[1]).is_none() }).await;
    // Still live: nobody touches it. Then given up by its coordinator.
    assert!(pass(&running).await.is_err(), "a shard is missing");
    transaction.hand_over();
    eventually("the home shard is finished", || async {
        let client = shards.client(SHARDS[0]).await;
        client.query("SELECT 1 FROM t", &[]).await.expect("reads").len() == 1
    })
    .await;
    shards.servers[1].restart();
    let all = &shards;
    eventually("both are", || async { all.found("crash").await == (2, 0) }).await;
}

#[tokio::test]
async fn decisions_are_kept_for_as_long_as_a_shard_needs_them() {
    let shards = Shards::start().await;
    let running = shards.control().await;
    let two_phase = running.control.two_phase();
    let (needed, unneeded) = (two_phase.begin(), two_phase.begin());
    shards.prepare(needed.gid(), SHARDS[1], "needed").await;
    for transaction in [&needed, &unneeded] {
        assert_eq!(two_phase.decide(transaction.gid(), participants()).await, Outcome::Committed);
    }
    let client = shards.servers[0].client("postgres").await;
    let age = "UPDATE gavel.decision SET created = created - interval '2 hours'";
    client.batch_execute(age).await.expect("ages");
    assert_eq!(pass(&running).await, Ok(0));
    let rows = client.query("SELECT gid FROM gavel.decision", &[]).await.expect("reads");
    let left: Vec<&str> = rows.iter().map(|row| row.get(0)).collect();
    assert_eq!(left, [needed.gid().as_str()]);
    drop(needed);
    assert_eq!(pass(&running).await, Ok(1));
    assert_eq!(pass(&running).await, Ok(0));
    assert!(client.query("SELECT 1 FROM gavel.decision", &[]).await.expect("reads").is_empty());
    assert_eq!(shards.found("needed").await, (1, 0));
}

#[tokio::test]
async fn pitfall_20_a_control_role_without_superuser_finishes_transactions() {
    let shards = Shards::start().await;
    for server in &shards.servers {
        let client = server.client("postgres").await;
        let role =
            "CREATE ROLE control LOGIN IN ROLE app, pg_monitor; GRANT CREATE ON DATABASE postgres TO control";
        client.batch_execute(role).await.expect("a role");
    }
    let running = shards.control_as("control").await;
    let catalog = running.control.catalog(DATABASE).await.expect("the catalog");
    assert!(catalog.schema().relations.contains_key(&(String::from("public"), String::from("t"))));
    let two_phase = running.control.two_phase();
    let transaction = two_phase.begin();
    for shard in SHARDS {
        shards.prepare(transaction.gid(), shard, "weak").await;
    }
    assert_eq!(two_phase.decide(transaction.gid(), participants()).await, Outcome::Committed);
    drop(transaction);
    eventually("both committed", || async { shards.found("weak").await == (2, 0) }).await;
}
