//! Two-phase commit: names, texts, and the durable decision.
//!
//! The protocol. A session that has written on several shards, when its application commits:
//! 1. [`TwoPhase::begin`] gives a [`Transaction`] with a gid of its own; the guard keeps the resolver away.
//! 2. `PREPARE TRANSACTION` ([`prepare_sql`]) on every writing shard. Any failure: `ROLLBACK PREPARED` where it was
//!    prepared, `ROLLBACK` elsewhere; nothing was decided.
//! 3. [`TwoPhase::decide`] inserts the decision row in the control store, durably. This is the commit.
//! 4. [`Outcome::Committed`]: `COMMIT PREPARED` everywhere, then success to the application; a shard that cannot be
//!    reached is finished by the resolver. [`Outcome::Aborted`]: a resolver was faster: `ROLLBACK PREPARED`.
//!    [`Outcome::Unknown`]: `08007` to the application; the resolver finishes either way.
//!
//! Invariant: a gid has at most one row in `gavel.decision`, first come first served (primary key). Whoever wants to
//! roll back somebody else's transaction first inserts `aborted` there; so a coordinator that was only slow cannot
//! commit half of it. A decision row is deleted only when no shard holds a prepared transaction of its gid.

use std::collections::HashSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use router_config::topology::ShardId;
use tokio::sync::{Notify, mpsc, oneshot};

/// Decisions written by one INSERT.
pub(crate) const BATCH: usize = 64;

/// Decisions that may wait for the store; more wait in their sessions.
const QUEUE: usize = 1024;

/// How long a decision is tried before it is reported as unknown.
pub(crate) const DECIDE_LIMIT: Duration = Duration::from_secs(10);

/// `gavel:<cluster>:<proxy>:<counter>`, the name of a transaction; participants append `:<shard>`.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Gid(Arc<str>);

impl Gid {
    /// The name.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// What became of a transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// The decision to commit is durable.
    Committed,
    /// The decision to roll back is durable.
    Aborted,
    /// The store did not answer: either may be true.
    Unknown,
}

/// A transaction in its second phase; while it lives, the resolver leaves it alone.
#[derive(Debug)]
pub struct Transaction {
    gid: Gid,
    counter: u64,
    live: Arc<Live>,
}

impl Transaction {
    /// Its name.
    pub fn gid(&self) -> &Gid {
        &self.gid
    }

    /// Gives it to the resolver, which finishes it on every shard by its decision (no decision: roll back), starting
    /// at once. For a coordinator that lost a shard on the way, or does not know the outcome.
    pub fn hand_over(self) {
        let live = Arc::clone(&self.live);
        drop(self);
        live.wake.notify_one();
    }
}

impl Drop for Transaction {
    fn drop(&mut self) {
        self.live.set().remove(&self.counter);
    }
}

/// Counters of the transactions that this process is coordinating.
#[derive(Debug, Default)]
pub(crate) struct Live {
    counters: Mutex<HashSet<u64>>,
    /// The resolver's bell.
    pub(crate) wake: Notify,
}

impl Live {
    pub(crate) fn contains(&self, counter: u64) -> bool {
        self.set().contains(&counter)
    }

    fn set(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        self.counters.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A decision asked for.
pub(crate) struct Decide {
    pub(crate) gid: Gid,
    pub(crate) participants: Vec<String>,
    pub(crate) answer: oneshot::Sender<Outcome>,
}

/// The session side of two-phase commit.
#[derive(Debug)]
pub struct TwoPhase {
    owner: Owner,
    counter: AtomicU64,
    live: Arc<Live>,
    decisions: mpsc::Sender<Decide>,
}

/// Who coordinates: this process, in this cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Owner {
    /// Name of the cluster, from the store.
    pub(crate) cluster: String,
    /// Random name of this process, sixteen hexadecimal digits.
    pub(crate) proxy: String,
}

impl Owner {
    /// A fresh name for this process.
    pub(crate) fn new(cluster: String) -> Self {
        Self { cluster, proxy: format!("{:016x}", rand::random::<u64>()) }
    }

    /// Key of the advisory lock that this process holds on the home shard for as long as it lives.
    pub(crate) fn lock_key(proxy: &str) -> Option<i64> {
        u64::from_str_radix(proxy, 16).ok().map(u64::cast_signed)
    }
}

impl TwoPhase {
    pub(crate) fn new(owner: Owner) -> (Self, mpsc::Receiver<Decide>) {
        let (decisions, queue) = mpsc::channel(QUEUE);
        (Self { owner, counter: AtomicU64::new(1), live: Arc::default(), decisions }, queue)
    }

    pub(crate) fn live(&self) -> Arc<Live> {
        Arc::clone(&self.live)
    }

    pub(crate) fn owner(&self) -> &Owner {
        &self.owner
    }

    /// A new transaction. Hold it until every participant is finished.
    pub fn begin(&self) -> Transaction {
        let counter = self.counter.fetch_add(1, Ordering::Relaxed);
        self.live.set().insert(counter);
        let gid = format!("gavel:{}:{}:{counter}", self.owner.cluster, self.owner.proxy);
        Transaction { gid: Gid(gid.into()), counter, live: Arc::clone(&self.live) }
    }

    /// Records durably that the transaction is to commit, after every participant has prepared. Many sessions share
    /// one INSERT. Not cancel safe in meaning: dropped, the outcome is [`Outcome::Unknown`].
    pub async fn decide(&self, gid: &Gid, participants: Vec<String>) -> Outcome {
        let (answer, outcome) = oneshot::channel();
        let request = Decide { gid: gid.clone(), participants, answer };
        let asked = async {
            if self.decisions.send(request).await.is_err() {
                return Outcome::Unknown;
            }
            outcome.await.unwrap_or(Outcome::Unknown)
        };
        // The decider gives up earlier and says so; this bounds a control runtime that has stopped.
        tokio::time::timeout(DECIDE_LIMIT * 2, asked).await.unwrap_or(Outcome::Unknown)
    }
}

/// First phase on one shard, for the connection on which the transaction runs.
pub fn prepare_sql(gid: &Gid, shard: ShardId) -> String {
    format!("PREPARE TRANSACTION '{}:{}'", gid.0, shard.0)
}

/// Second phase on one shard: any idle connection of the same user and database.
pub fn commit_prepared_sql(gid: &Gid, shard: ShardId) -> String {
    format!("COMMIT PREPARED '{}:{}'", gid.0, shard.0)
}

/// Undo of the first phase on one shard.
pub fn rollback_prepared_sql(gid: &Gid, shard: ShardId) -> String {
    format!("ROLLBACK PREPARED '{}:{}'", gid.0, shard.0)
}

/// The parts of a participant's gid.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Participant {
    pub(crate) gid: Gid,
    pub(crate) proxy: String,
    pub(crate) counter: u64,
}

/// Takes a participant's gid of this cluster apart; `None`: not ours.
pub(crate) fn parse_participant(cluster: &str, text: &str) -> Option<Participant> {
    let (base, shard) = text.rsplit_once(':')?;
    shard.parse::<u16>().ok()?;
    let mut parts = base.split(':');
    if parts.next() != Some("gavel") || parts.next() != Some(cluster) {
        return None;
    }
    let proxy = parts.next().filter(|proxy| proxy.len() == 16 && Owner::lock_key(proxy).is_some())?;
    let counter = parts.next()?.parse().ok()?;
    if parts.next().is_some() {
        return None;
    }
    Some(Participant { gid: Gid(base.into()), proxy: proxy.to_owned(), counter })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gids_name_their_owner_and_live_until_dropped() {
        let owner = Owner::new(String::from("c0ffee00"));
        let (two_phase, _queue) = TwoPhase::new(owner.clone());
        let transaction = two_phase.begin();
        let text = prepare_sql(transaction.gid(), ShardId(3));
        let name = text.strip_prefix("PREPARE TRANSACTION '").and_then(|rest| rest.strip_suffix('\''));
        let parsed = parse_participant("c0ffee00", name.expect("a quoted gid")).expect("ours");
        assert_eq!((parsed.gid, parsed.proxy), (transaction.gid().clone(), owner.proxy));
        assert!(two_phase.live().contains(parsed.counter));
        drop(transaction);
        assert!(!two_phase.live().contains(parsed.counter));
    }

    #[test]
    fn foreign_gids_are_left_alone() {
        for text in [
            "mine",
            "gavel:other:0123456789abcdef:1:0",
            "gavel:c:0123456789abcdef:1",
            "gavel:c:short:1:0",
            "gavel:c:0123456789abcdef:x:0",
            "gavel:c:0123456789abcdef:1:2:0",
        ] {
            assert_eq!(parse_participant("c", text), None, "{text}");
        }
    }
}
