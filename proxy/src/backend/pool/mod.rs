//! Pools of conns, one per (user, database, node) and session thread.
//!
//! A session thread has pools of its own, so that a reply wakes nobody on another thread; the bound of a pool is the configured one
//! divided by the number of threads, at least one. Waiting is first come, first served.
//!
//! A conn that comes back is kept at hand: the next request takes it without a word with deadpool, for which it is still lent.
//! Invariant: nobody waits while a conn is at hand. Whoever waits has found none there, and what comes back meanwhile goes to
//! deadpool, which gives it to whoever has waited longest.

use std::collections::HashMap;
use std::ops::{Deref, DerefMut};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use deadpool::managed::{self, Metrics, Object, QueueMode, RecycleError, RecycleResult, Timeouts};
use rand::RngExt;
use router_config::topology::NodeAddress;
use tokio::sync::{Notify, Semaphore};
use tokio::time::Instant;

use super::conn::Conn;
use super::connect::{self, BackendLogin, ConnectContext, ConnectError};
use super::traffic::Traffic;
use crate::wire::startup::CancelKey;

/// Connections that one pool opens at the same time; more wait, so that a node that comes back is not stormed.
const CONNECTS_AT_ONCE: usize = 8;

/// Pause before a node that had no room for a connection is asked again, unless one comes back sooner.
const FULL_PAUSE: Duration = Duration::from_millis(250);

/// What a pool's conns have in common.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct PoolKey {
    /// Role that logs in.
    pub user: String,
    /// Database on the node.
    pub database: String,
    /// Node.
    pub node: NodeAddress,
    /// Its conns are for rows that are gathered from the shards.
    pub combines: bool,
}

/// Limits of a pool.
#[derive(Debug, Clone, Copy)]
pub struct PoolLimits {
    /// Conns of this pool on this thread.
    pub size: usize,
    /// How long a request waits for one.
    pub wait: Duration,
    /// After this (± a tenth) a conn is replaced.
    pub max_lifetime: Duration,
    /// An unused conn is closed after this.
    pub idle: Duration,
    /// Unused conns kept in spite of `idle`.
    pub min_idle: usize,
}

/// Opens and checks conns for deadpool.
pub struct Manager {
    key: Arc<PoolKey>,
    login: BackendLogin,
    context: Arc<ConnectContext>,
    limits: PoolLimits,
    gate: Semaphore,
    /// Requests that wait for a conn.
    waiting: AtomicUsize,
    /// Conns lent.
    active: AtomicUsize,
    /// Of these, those that sessions keep for what they have left there.
    bound: AtomicUsize,
    /// A conn has come back while requests waited.
    returned: Notify,
}

impl managed::Manager for Manager {
    type Type = Box<Conn>;
    type Error = ConnectError;

    async fn create(&self) -> Result<Box<Conn>, ConnectError> {
        // The semaphore is never closed.
        let _permit = self.gate.acquire().await;
        let login = self.context.renewed(&self.login);
        let began = Instant::now();
        let connected = Box::pin(connect::connect(&self.key.node, &login, &self.context)).await?;
        let now = Instant::now();
        let jitter = rand::rng().random_range(0.9..1.1);
        let mut conn = Box::new(Conn::new(connected, now + self.limits.max_lifetime.mul_f64(jitter)));
        conn.opened_in = Some(now - began);
        Ok(conn)
    }

    async fn recycle(&self, conn: &mut Box<Conn>, _: &Metrics) -> RecycleResult<ConnectError> {
        if conn.is_dead() {
            return Err(RecycleError::message("closed by the server"));
        }
        if Instant::now() >= conn.expires {
            return Err(RecycleError::message("past its lifetime"));
        }
        Ok(())
    }
}

/// A pool of one key.
pub struct Pool {
    inner: managed::Pool<Manager>,
    /// Conns that came back since they were last looked through, the last one on top.
    at_hand: Mutex<Vec<Object<Manager>>>,
}

/// Why no conn could be had.
#[derive(Debug, thiserror::Error)]
pub enum LeaseError {
    /// All are in use and stayed so for the time allowed.
    #[error("no connection to {node} became free within {waited:?}")]
    Timeout {
        /// Where.
        node: String,
        /// The limit.
        waited: Duration,
        /// Conns that sessions keep for what they have left there.
        bound: usize,
        /// They are those on which rows are gathered.
        combines: bool,
    },
    /// All of those on which rows are gathered are kept by the session that asks for one more.
    #[error("the session's own cursors and portals keep all {size} connections to {node} for gathered rows")]
    Own {
        /// Where.
        node: String,
        /// Bound of the pool.
        size: usize,
    },
    /// It could not be opened.
    #[error(transparent)]
    Connect(ConnectError),
}

/// Numbers of a pool, for the console and metrics.
#[derive(Debug, Clone, Copy, Default)]
pub struct PoolStatus {
    /// Lent.
    pub active: usize,
    /// Open and unused.
    pub idle: usize,
    /// Requests that wait.
    pub waiting: usize,
    /// Being opened.
    pub opening: usize,
    /// Bound.
    pub size: usize,
}

impl std::ops::AddAssign for PoolStatus {
    fn add_assign(&mut self, other: Self) {
        self.active += other.active;
        self.idle += other.idle;
        self.waiting += other.waiting;
        self.opening += other.opening;
        self.size += other.size;
    }
}

impl Pool {
    /// An empty pool.
    pub fn new(key: PoolKey, login: BackendLogin, context: Arc<ConnectContext>, limits: PoolLimits) -> Self {
        let manager = Manager {
            key: Arc::new(key),
            login,
            context,
            limits,
            gate: Semaphore::new(CONNECTS_AT_ONCE),
            waiting: AtomicUsize::new(0),
            active: AtomicUsize::new(0),
            bound: AtomicUsize::new(0),
            returned: Notify::new(),
        };
        let inner = managed::Pool::builder(manager)
            .max_size(limits.size)
            .queue_mode(QueueMode::Lifo)
            .runtime(deadpool::Runtime::Tokio1)
            .build()
            .expect("a runtime is given, the only thing that build checks");
        Self { inner, at_hand: Mutex::default() }
    }

    /// Lends a conn that is at hand, if one is. `now`: the time, for its age.
    pub fn lease_at_hand(self: &Arc<Self>, now: Instant) -> Option<Lease> {
        loop {
            let mut object = self.at_hand().pop()?;
            if object.is_dead() || now >= object.expires {
                drop(Object::take(object));
                continue;
            }
            return Some(self.lend(object, Duration::ZERO));
        }
    }

    /// Lends a conn: an idle one, a new one, or the next that becomes free. `None`: the pool was closed meanwhile.
    ///
    /// A node that has no room for one more connection is asked again as long as the pool has others, which may come back.
    pub async fn lease(self: &Arc<Self>) -> Result<Option<Lease>, LeaseError> {
        let manager = self.inner.manager();
        let mut full_since = None;
        loop {
            if let Some(lease) = self.lease_at_hand(Instant::now()) {
                return Ok(Some(lease));
            }
            let (got, waited) = self.get().await;
            match got {
                Ok(object) => {
                    let full = full_since.map_or(Duration::ZERO, |since: Instant| since.elapsed());
                    let waited = (waited + full).max(object.opened_in.unwrap_or_default());
                    return Ok(Some(self.lend(object, waited)));
                }
                Err(managed::PoolError::Timeout(_)) => {
                    let node = manager.key.node.to_string();
                    let bound = manager.bound.load(Ordering::Relaxed);
                    let (waited, combines) = (manager.limits.wait, manager.key.combines);
                    return Err(LeaseError::Timeout { node, waited, bound, combines });
                }
                Err(managed::PoolError::Backend(error)) => {
                    let since = *full_since.get_or_insert_with(Instant::now);
                    let left = manager.limits.wait.saturating_sub(since.elapsed());
                    let hopeless = manager.active.load(Ordering::Relaxed) == 0 || left.is_zero();
                    if hopeless || !error.node_is_full() {
                        return Err(LeaseError::Connect(error));
                    }
                    let _waiting = Counted::new(&manager.waiting);
                    // Either way it is tried again.
                    let _ = tokio::time::timeout(left.min(FULL_PAUSE), manager.returned.notified()).await;
                }
                Err(managed::PoolError::Closed) => return Ok(None),
                Err(managed::PoolError::NoRuntimeSpecified | managed::PoolError::PostCreateHook(_)) => {
                    unreachable!("a runtime is given and there are no hooks")
                }
            }
        }
    }

    /// What deadpool gives, and for how long it was waited for.
    async fn get(&self) -> (Result<Object<Manager>, managed::PoolError<ConnectError>>, Duration) {
        // A wait of zero asks without a timer and without a look at the clock: the common case.
        let now = Timeouts { wait: Some(Duration::ZERO), create: None, recycle: None };
        match self.inner.timeout_get(&now).await {
            Err(managed::PoolError::Timeout(_)) => {
                let manager = self.inner.manager();
                let _waiting = Counted::new(&manager.waiting);
                let patient = Timeouts { wait: Some(manager.limits.wait), create: None, recycle: None };
                let began = Instant::now();
                let got = self.inner.timeout_get(&patient).await;
                (got, began.elapsed())
            }
            got => (got, Duration::ZERO),
        }
    }

    fn lend(self: &Arc<Self>, object: Object<Manager>, waited: Duration) -> Lease {
        self.inner.manager().active.fetch_add(1, Ordering::Relaxed);
        Lease { object: Some(object), waited, pool: Arc::clone(self) }
    }

    fn at_hand(&self) -> MutexGuard<'_, Vec<Object<Manager>>> {
        self.at_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps a clean conn at hand, unless somebody waits for one or the pool is closed.
    fn take_back(&self, mut object: Object<Manager>) {
        object.shrink();
        let mut at_hand = self.at_hand();
        // Within the lock: `close` empties it afterwards.
        if self.inner.manager().waiting.load(Ordering::Relaxed) == 0 && !self.inner.is_closed() {
            at_hand.push(object);
            return;
        }
        drop(at_hand);
        object.last_used = Instant::now();
        drop(object);
        self.inner.manager().returned.notify_one();
    }

    /// Closes conns that have been unused for too long, and those that their node has closed.
    pub fn reap(&self) {
        let limits = self.inner.manager().limits;
        let mut spare = self.status().idle.saturating_sub(limits.min_idle);
        let now = Instant::now();
        // Those were used since the last time.
        std::mem::take(&mut *self.at_hand()).iter_mut().for_each(|object| object.last_used = now);
        self.inner.retain(|conn, _| {
            let stale = now.duration_since(conn.last_used) > limits.idle || now >= conn.expires;
            let close = conn.is_ended() || (stale && spare > 0);
            spare = spare.saturating_sub(usize::from(close));
            !close
        });
    }

    /// Closes the conns that nobody uses now.
    pub fn close_idle(&self) {
        drop(std::mem::take(&mut *self.at_hand()));
        self.inner.retain(|_, _| false);
    }

    /// Closes idle conns at once, lent ones when they come back; new requests fail.
    pub fn close(&self) {
        self.inner.close();
        drop(std::mem::take(&mut *self.at_hand()));
    }

    /// Numbers.
    pub fn status(&self) -> PoolStatus {
        let manager = self.inner.manager();
        let status = self.inner.status();
        let active = manager.active.load(Ordering::Relaxed);
        let opening = CONNECTS_AT_ONCE.saturating_sub(manager.gate.available_permits());
        PoolStatus {
            active,
            idle: status.size.saturating_sub(active + opening),
            opening,
            waiting: manager.waiting.load(Ordering::Relaxed),
            size: status.max_size,
        }
    }

    /// What its conns have in common.
    pub fn key(&self) -> &PoolKey {
        &self.inner.manager().key
    }
}

/// Adds one for as long as it lives.
struct Counted<'a>(&'a AtomicUsize);

impl<'a> Counted<'a> {
    fn new(counter: &'a AtomicUsize) -> Self {
        counter.fetch_add(1, Ordering::Relaxed);
        Self(counter)
    }
}

impl Drop for Counted<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The right to use a conn until drop. A conn that is not clean by then is closed, and what runs on it is cancelled.
pub struct Lease {
    object: Option<Object<Manager>>,
    /// How long it took to get it.
    pub waited: Duration,
    pool: Arc<Pool>,
}

impl Deref for Lease {
    type Target = Conn;

    fn deref(&self) -> &Conn {
        self.object.as_ref().expect("only drop takes it")
    }
}

impl DerefMut for Lease {
    fn deref_mut(&mut self) -> &mut Conn {
        self.object.as_mut().expect("only drop takes it")
    }
}

impl Lease {
    /// The node that it leads to.
    pub fn node(&self) -> &NodeAddress {
        &self.pool.inner.manager().key.node
    }

    /// What the conns of its pool have in common.
    pub fn key(&self) -> &Arc<PoolKey> {
        &self.pool.inner.manager().key
    }

    /// Conns of its pool that are open and unused.
    pub fn idle_of_pool(&self) -> usize {
        let active = self.pool.inner.manager().active.load(Ordering::Relaxed);
        let opening = CONNECTS_AT_ONCE.saturating_sub(self.pool.inner.manager().gate.available_permits());
        self.pool.inner.status().size.saturating_sub(active + opening)
    }

    /// Whether a session keeps it for what it has left there: told to those who wait in vain.
    pub fn set_bound(&mut self, bound: bool) {
        let before = std::mem::replace(&mut self.deref_mut().bound, bound);
        let counter = &self.pool.inner.manager().bound;
        match (before, bound) {
            (false, true) => drop(counter.fetch_add(1, Ordering::Relaxed)),
            (true, false) => drop(counter.fetch_sub(1, Ordering::Relaxed)),
            (true, true) | (false, false) => {}
        }
    }

    /// How connections of its pool are made (for cancel requests).
    pub fn context(&self) -> &Arc<ConnectContext> {
        &self.pool.inner.manager().context
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.pool.inner.manager().active.fetch_sub(1, Ordering::Relaxed);
        self.set_bound(false);
        let Some(object) = self.object.take() else { return };
        if object.is_clean() {
            return self.pool.take_back(object);
        }
        let conn = Object::take(object);
        if conn.owed_len() > 0 && tokio::runtime::Handle::try_current().is_ok() {
            let (node, context) = (self.node().clone(), Arc::clone(self.context()));
            let key = CancelKey { process_id: conn.process_id, secret: conn.secret.clone() };
            tokio::spawn(async move {
                // The session is gone: nobody is left to be told of a failure, and the server ends the statement by itself
                // when it next writes.
                let _ = connect::cancel(&node, &key, &context).await;
                drop(conn);
            });
        }
    }
}

/// The pools of one session thread.
#[derive(Default)]
pub struct Pools {
    /// Bytes from and to applications.
    pub frontend: Traffic,
    /// Bytes from and to nodes.
    pub backend: Traffic,
    pools: Mutex<HashMap<PoolKey, Arc<Pool>>>,
    /// Counts how often all pools were closed.
    generation: AtomicU64,
}

impl Pools {
    /// The pool of this key, made by `make` if there is none, and the generation that it belongs to.
    pub fn get(&self, key: &PoolKey, make: impl FnOnce() -> Pool) -> (Arc<Pool>, u64) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let generation = self.generation();
        if let Some(pool) = pools.get(key) {
            return (Arc::clone(pool), generation);
        }
        let pool = Arc::new(make());
        pools.insert(key.clone(), Arc::clone(&pool));
        (pool, generation)
    }

    /// Pools of an older generation are closed.
    pub fn generation(&self) -> u64 {
        self.generation.load(Ordering::Acquire)
    }

    /// All of them.
    pub fn all(&self) -> Vec<Arc<Pool>> {
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Forgets pools that have no conn and that nobody knows of: a name that was tried once, a user who is gone.
    pub fn sweep(&self) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        // Nobody can come by it meanwhile but through the map.
        pools.retain(|_, pool| Arc::strong_count(pool) > 1 || pool.inner.status().size > 0);
        let kept = pools.len();
        pools.shrink_to(2 * kept);
    }

    /// Forgets and closes all pools: the next request of each session opens new ones.
    pub fn clear(&self) {
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        self.generation.fetch_add(1, Ordering::AcqRel);
        for (_, pool) in pools.drain() {
            pool.close();
        }
    }
}

#[cfg(test)]
mod tests;
