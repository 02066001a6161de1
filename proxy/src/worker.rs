//! What sessions share: everything of the process ([`Shared`]) and of their thread ([`Worker`]).

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError, Weak};

use arc_swap::ArcSwap;
use bytes::Bytes;
use router_config::settings::Settings;
use router_config::topology::{ShardId, Topology};
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio::time::{Duration, Instant};

use crate::backend::connect::ConnectContext;
use crate::backend::gucs::Gucs;
use crate::backend::pool::Pools;
use crate::backend::prepared::Registry;
use crate::control::floor::Floor;
use crate::control::{Catalog, Control, Nodes};
use crate::frontend::handshake::HandshakeContext;
use crate::frontend::session::Who;
use crate::frontend::visible::Visible;
use crate::frontend::watch::Sparse;
use crate::metrics::Metrics;
use crate::sql::cache::Cache;
use crate::sql::logins::Change;
use crate::sql::schema::Schema;
use crate::sql::sound::Sound;

/// How long ParameterStatus values of a login are given to later ones without asking.
const WELCOME_LIFE: Duration = Duration::from_secs(30);

/// User, database and fingerprint of the login's settings.
pub type WelcomeKey = (String, String, u64);

/// ParameterStatus values of a login.
#[derive(Debug, Clone)]
pub struct Welcome {
    /// Names and values.
    pub values: Arc<Vec<(String, String)>>,
    /// The same as frames.
    pub frames: Bytes,
}

/// Where the process is in its life.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Phase {
    /// Serving.
    Running,
    /// PAUSE: new requests outside of a transaction wait.
    Paused,
    /// Ending: transactions finish, then sessions are told to go.
    Draining,
    /// The time for that is over: statements are cancelled, every session is told to go.
    Ending,
}

/// Times of a drain.
#[derive(Debug, Clone, Copy)]
pub struct Drain {
    /// Sessions that have not asked for anything yet may do so until then: they were on their way when it began.
    pub first_until: Instant,
    /// It gives up then.
    pub until: Instant,
}

/// What a reload came to: notes for whoever asked for it, or why the old configuration stays.
pub type Reloaded = Result<Vec<String>, String>;

/// A reload that the console asks for: the outcome is sent back.
pub type AskedReload = oneshot::Sender<Reloaded>;

/// Sessions beyond `limits.clients` that only logins to the console get: it is needed most when there are too many.
const CONSOLE_RESERVE: usize = 3;

/// A session as the console and cancel requests know it.
#[derive(Debug, Clone)]
pub struct Entry {
    /// Secret of its cancel key.
    pub secret: Box<[u8]>,
    /// Who.
    pub who: Arc<Who>,
    /// Its address.
    pub peer: SocketAddr,
    /// Since when.
    pub since: Instant,
    /// What it does.
    pub visible: Arc<Visible>,
}

/// Everything that the threads of the process share.
pub struct Shared {
    /// Settings in use.
    pub settings: ArcSwap<Settings>,
    /// Topology in use.
    pub topology: Arc<ArcSwap<Topology>>,
    /// Nodes, catalogs, decisions.
    pub control: Control,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Facts by text.
    pub facts: Cache,
    /// Texts of several statements that servers have read.
    pub sound: Sound,
    /// Statements shared over sessions.
    pub registry: Registry,
    /// How backends are connected to.
    pub connect: ArcSwap<ConnectContext>,
    /// How applications log in.
    pub handshake: ArcSwap<HandshakeContext>,
    /// Catalog of databases that are not routed.
    pub no_schema: Arc<Schema>,
    /// Grows with DDL in such databases: what was prepared before is not shared with sessions that prepare afterwards.
    pub unrouted_ddl: AtomicU64,
    /// Statements under way that lock tables on one shard after the other.
    pub locking: Arc<AtomicUsize>,
    /// Sessions by the process id of their cancel key.
    pub sessions: Mutex<HashMap<i32, Entry>>,
    /// Sessions that have logged in or are about to.
    pub clients: AtomicUsize,
    /// Threads that carry sessions.
    pub threads: usize,
    /// Number of the process, first part of its sessions' process ids.
    pub process: i32,
    /// Cancel requests that may be on their way to other processes.
    pub cancels: Semaphore,
    /// Where the process is in its life.
    pub phase: watch::Sender<Phase>,
    /// The session threads' own, for the console.
    pub workers: Mutex<Vec<Arc<Pools>>>,
    /// When the process began to serve.
    pub since: Instant,
    /// Which refusals are logged.
    pub refusals: Sparse,
    /// Times of the drain, once it has begun.
    pub drain: Mutex<Option<Drain>>,
    /// Reloads that the console asks for, once signals are followed.
    pub reloads: Mutex<Option<mpsc::Sender<AskedReload>>>,
    /// Told when the console asks for a drain.
    pub drain_asked: Notify,
    welcomes: Mutex<HashMap<WelcomeKey, (Instant, Welcome)>>,
}

/// What a process begins with; see [`Shared`].
pub struct Parts {
    /// Settings.
    pub settings: Arc<Settings>,
    /// Topology.
    pub topology: Arc<ArcSwap<Topology>>,
    /// Control side.
    pub control: Control,
    /// Counters.
    pub metrics: Arc<Metrics>,
    /// Backend connects.
    pub connect: Arc<ConnectContext>,
    /// Logins.
    pub handshake: HandshakeContext,
    /// Threads that carry sessions.
    pub threads: usize,
    /// Number of the process, see [`crate::frontend::cancel`].
    pub process: i32,
    /// Where the process is in its life.
    pub phase: watch::Sender<Phase>,
}

impl Shared {
    /// The process's shared state.
    pub fn new(parts: Parts) -> Arc<Self> {
        const REGISTRY_BYTES: u64 = 64 << 20;
        Arc::new(Self {
            facts: Cache::new(parts.settings.limits.facts),
            sound: Sound::default(),
            settings: ArcSwap::new(parts.settings),
            topology: parts.topology,
            control: parts.control,
            metrics: parts.metrics,
            registry: Registry::new(REGISTRY_BYTES),
            connect: ArcSwap::new(parts.connect),
            handshake: ArcSwap::from_pointee(parts.handshake),
            no_schema: Arc::default(),
            unrouted_ddl: AtomicU64::new(0),
            locking: Arc::default(),
            sessions: Mutex::default(),
            clients: AtomicUsize::new(0),
            threads: parts.threads,
            process: parts.process,
            cancels: Semaphore::new(crate::frontend::cancel::AT_ONCE),
            phase: parts.phase,
            workers: Mutex::default(),
            since: Instant::now(),
            refusals: Sparse::default(),
            drain: Mutex::default(),
            reloads: Mutex::default(),
            drain_asked: Notify::new(),
            welcomes: Mutex::default(),
        })
    }

    /// The nodes.
    pub fn nodes(&self) -> &Arc<Nodes> {
        self.control.nodes()
    }

    /// Idle sessions look at the phase again.
    pub fn wake_sessions(&self) {
        self.sessions().values().for_each(|entry| entry.visible.waker.wake());
    }

    /// Sessions that still wait for something end where they are, with their last words.
    pub fn cut_sessions(&self) {
        self.sessions().values().for_each(|entry| entry.visible.cut());
    }

    /// The times of the drain, if one has begun.
    pub fn draining(&self) -> Option<Drain> {
        *self.drain.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The causal floor of a shard.
    pub fn floor(&self, shard: ShardId) -> &Arc<Floor> {
        self.nodes().floors.of(shard)
    }

    /// All sessions.
    pub fn sessions(&self) -> std::sync::MutexGuard<'_, HashMap<i32, Entry>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// After committed DDL: the catalog is read anew, sequences get their stride (which changes no default, so once is enough).
    pub async fn catalog_changed(&self, catalog: Option<&Arc<Catalog>>) {
        let Some(catalog) = catalog else { return };
        if let Err(error) = catalog.refresh().await {
            tracing::error!(
                database = catalog.database(),
                "the catalog could not be read after DDL: {error}"
            );
            return;
        }
        match self.control.align_sequences(catalog).await {
            Ok(report) => tracing::debug!(?report, "sequences aligned"),
            Err(error) => tracing::warn!(database = catalog.database(), "sequences are not aligned: {error}"),
        }
    }

    /// ParameterStatus values that a recent login of the same kind was told.
    pub fn welcome(&self, key: &WelcomeKey) -> Option<Welcome> {
        let welcomes = self.welcomes.lock().unwrap_or_else(PoisonError::into_inner);
        welcomes
            .get(key)
            .filter(|(made, _)| made.elapsed() < WELCOME_LIFE)
            .map(|(_, welcome)| welcome.clone())
    }

    /// Keeps ParameterStatus values for later logins.
    pub fn set_welcome(&self, key: WelcomeKey, welcome: Welcome) {
        const WELCOMES_MAX: usize = 1024;
        let mut welcomes = self.welcomes.lock().unwrap_or_else(PoisonError::into_inner);
        if welcomes.len() >= WELCOMES_MAX {
            welcomes.clear();
        }
        welcomes.insert(key, (Instant::now(), welcome));
    }

    /// After a reload: logins ask anew.
    pub fn forget_welcomes(&self) {
        self.welcomes.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// After committed DDL on roles, or on what they and databases set: logins ask anew, and connections that were opened before
    /// serve nobody but those who have them.
    pub fn logins_changed(&self, change: Change) {
        self.handshake.load().authenticator.forget_secrets();
        self.forget_welcomes();
        if change == Change::Sessions {
            self.renew_conns();
        }
    }

    /// Idle conns are closed, and those that are lent when they come back.
    pub fn renew_conns(&self) {
        self.workers.lock().unwrap_or_else(PoisonError::into_inner).iter().for_each(|pools| pools.clear());
    }

    /// RELOAD: waits for the outcome.
    pub async fn ask_reload(&self) -> Reloaded {
        const ENDING: &str = "the process is ending";
        let (done, outcome) = oneshot::channel();
        let reloads = self.reloads.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let asked = reloads.ok_or("the process is starting")?.try_send(done);
        asked.map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => "too many reloads wait",
            mpsc::error::TrySendError::Closed(_) => ENDING,
        })?;
        let mut phase = self.phase.subscribe();
        tokio::select! {
            outcome = outcome => outcome.unwrap_or_else(|_| Err(ENDING.to_owned())),
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => Err(ENDING.to_owned()),
        }
    }

    /// DRAIN: does not wait.
    pub fn ask_drain(&self) {
        self.drain_asked.notify_one();
    }

    /// One more session; `false` at the limit.
    pub fn admit(&self) -> bool {
        self.admit_within(self.settings.load().limits.clients)
    }

    /// One more session, of the console; `false` where its reserve is used up too.
    pub fn admit_console(&self) -> bool {
        self.admit_within(self.settings.load().limits.clients.saturating_add(CONSOLE_RESERVE))
    }

    fn admit_within(&self, limit: usize) -> bool {
        let admitted = self.clients.fetch_add(1, Ordering::AcqRel) < limit;
        if !admitted {
            self.clients.fetch_sub(1, Ordering::AcqRel);
        }
        admitted
    }
}

/// What the sessions of one thread share.
pub struct Worker {
    /// The process's.
    pub shared: Arc<Shared>,
    /// Its conns.
    pub pools: Arc<Pools>,
    /// Who is connected to what: as a rule many sessions are the same.
    pub whos: Common<Who>,
    /// Settings of logins.
    pub gucs: Common<Gucs>,
}

impl Worker {
    /// Of a thread that has no session yet.
    pub fn new(shared: Arc<Shared>, pools: Arc<Pools>) -> Self {
        Self { shared, pools, whos: Common::default(), gucs: Common::default() }
    }
}

/// Values that many sessions have in common, each kept once for as long as a session has it. What does not find a place here
/// is not shared.
#[derive(Debug)]
pub struct Common<T>(Mutex<Vec<Weak<T>>>);

impl<T> Default for Common<T> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

impl<T: PartialEq> Common<T> {
    /// The one that is equal to `value`.
    pub fn share(&self, value: T) -> Arc<T> {
        const KEPT_MAX: usize = 64;
        let mut kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(known) = kept.iter().filter_map(Weak::upgrade).find(|known| **known == value) {
            return known;
        }
        kept.retain(|known| known.strong_count() > 0);
        let value = Arc::new(value);
        if kept.len() < KEPT_MAX {
            kept.push(Arc::downgrade(&value));
        }
        value
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn equal_values_are_one_for_as_long_as_somebody_has_them() {
        let common = Common::default();
        let one = common.share("one".to_owned());
        assert!(Arc::ptr_eq(&one, &common.share("one".to_owned())));
        assert!(!Arc::ptr_eq(&one, &common.share("two".to_owned())));
        drop(one);
        assert_eq!(Arc::strong_count(&common.share("one".to_owned())), 1);
        let many: Vec<_> = (0..1000).map(|n| common.share(n.to_string())).collect();
        assert!(common.0.lock().expect("nobody panics").len() <= 64);
        assert_eq!(*many[999], "999");
    }
}
