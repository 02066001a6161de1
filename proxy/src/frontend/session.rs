//! The state of one session, and the conns that it holds.
//!
//! A conn is held for a statement, a transaction or (session pooling, pins) for the session, at most one for each shard and role.
//! Invariant: whatever is held when the session is idle outside of a transaction belongs to a pin or to session pooling.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use bytes::Bytes;
use router_config::settings::{DatabaseKind, PoolMode, Reads};
use router_config::topology::{NodeAddress, ShardId, Topology};
use tokio::time::{Duration, Instant};

use super::failure::Failure;
use super::io::ClientIo;
use super::names::Names;
use super::transaction::Block;
use crate::backend::conn::{Conn, ConnError, Events};
use crate::backend::connect::BackendLogin;
use crate::backend::gucs::Gucs;
use crate::backend::owed::{Owed, Show};
use crate::backend::pool::{Lease, Pool, PoolKey, PoolLimits};
use crate::control::{InFlight, NodeId};
use crate::exec::single;
use crate::metrics::ServedBy;
use crate::sql::facts::{Access, Command, Facts, Isolation, PinCause, Scope};
use crate::wire::backend::Status;
use crate::wire::{reply, sqlstate};
use crate::worker::Worker;

/// How long a statement waits for a shard to have a primary, e.g. during a promotion.
const PRIMARY_WAIT: Duration = Duration::from_secs(10);

/// Who is connected, to what.
#[derive(Debug)]
pub struct Who {
    /// Role.
    pub user: String,
    /// Database as the application names it.
    pub database: String,
    /// Name of the database on the nodes.
    pub backend_database: String,
    /// Where it is.
    pub kind: DatabaseKind,
    /// Pooling.
    pub mode: PoolMode,
    /// Conns per pool, over all session threads.
    pub pool_size: usize,
    /// How its conns log in.
    pub login: BackendLogin,
}

/// What the console and cancel requests see of a session.
#[derive(Debug, Default)]
pub struct Visible {
    /// Set by a cancel request that came too early or too late to find a conn.
    pub cancelled: AtomicBool,
    /// Requests worked off.
    pub requests: AtomicU64,
    /// The conns that are working for it: node, process, secret.
    pub running: std::sync::Mutex<Running>,
    /// 0 idle, 1 active, 2 idle in transaction.
    pub state: std::sync::atomic::AtomicU8,
}

/// The conns that work for a session.
#[derive(Debug, Default)]
pub struct Running {
    /// Node, process, secret.
    pub conns: Vec<(Arc<PoolKey>, i32, bytes::Bytes)>,
    /// Cancel requests on their way to them: such a conn is not lent again.
    pub cancelling: usize,
}

/// A conn with what the session does on it.
pub struct Held {
    /// Shard that it leads to.
    pub shard: ShardId,
    /// Node, where it is one of the topology's.
    pub node: Option<NodeId>,
    /// A replica.
    pub replica: bool,
    /// The conn.
    pub lease: Lease,
    /// The block has begun on it.
    pub enlisted: bool,
    /// Nothing has been executed on it that reads or writes tables.
    pub untouched: bool,
    /// Something was written in the transaction.
    pub wrote: bool,
    /// Frames of the extended protocol were sent since the last Sync.
    pub unsynced: bool,
    /// The conn's unnamed statement is this shared one.
    pub unnamed: Option<u64>,
    /// Settings were changed on it, or may be in the block: it has those of the session when the transaction is over.
    pub gucs_moved: bool,
    /// It asks the shard for its LSN along with the next request.
    pub asks_lsn: bool,
    /// Counts as load of the node.
    pub load: Option<InFlight>,
}

impl Visible {
    /// The conns that work for it.
    pub fn running(&self) -> std::sync::MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}

/// One application's session.
pub struct Session {
    /// Its socket.
    pub io: ClientIo,
    /// The thread's pools and what all sessions share.
    pub worker: Arc<Worker>,
    /// Who.
    pub who: Arc<Who>,
    /// For the console and for cancel.
    pub visible: Arc<Visible>,
    /// Settings in force.
    pub gucs: Arc<Gucs>,
    /// Settings given at login: what RESET returns to.
    pub startup_gucs: Arc<Gucs>,
    /// Statements and portals.
    pub names: Names,
    /// Open transaction block.
    pub block: Option<Box<Block>>,
    /// Conns.
    pub held: Vec<Held>,
    /// Why the session keeps its conn, and on which shard.
    pub pinned: Option<(PinCause, ShardId)>,
    /// What it listens on.
    pub listening: Option<Box<super::listening::Listening>>,
    /// It has made temporary tables.
    pub temp_tables: bool,
    /// `SET gavel.key`.
    pub hint_key: Option<String>,
    /// `SET gavel.shard`.
    pub hint_shard: Option<String>,
    /// `default_transaction_read_only` is on.
    pub read_only: bool,
    /// Number of the facts' context, with the generation and settings that it was made for.
    pub context: Option<SessionContext>,
    /// DDL has run in the open transaction: the catalog is read again once it is committed.
    pub catalog_changed: bool,
    /// What completed statements do to the session, with their place among the statements of the request.
    pub pending: Vec<super::effects::Expected>,
    /// Statements sent in this request whose completion is shown.
    pub sent: u32,
    /// Spreads statements that any shard can run.
    pub spread: u32,
    /// What happened on the conn being run.
    pub events: Events,
    /// The values of ParameterStatus that the application was told.
    pub reported: Arc<Vec<(String, String)>>,
    /// Where the last CommandComplete of the proxy's own begins in the output that has not been written.
    pub tag_at: Option<usize>,
    /// The catalog of its database, where statements are routed.
    pub catalog: Option<Arc<crate::control::Catalog>>,
    /// The pipeline under way.
    pub pipeline: super::pipeline::PipelineState,
    /// What the request under way is counted as.
    pub watch: super::watch::Watch,
}

/// See [`crate::sql::extract::Context`].
#[derive(Debug)]
pub struct SessionContext {
    pub(crate) generation: u64,
    pub(crate) gucs: u64,
    pub(crate) temp_tables: bool,
    pub(crate) id: u32,
    pub(crate) search_path: Vec<String>,
    pub(crate) conforming: bool,
}

impl Session {
    /// Transaction status as the application is told.
    pub fn status(&self) -> Status {
        match &self.block {
            None => Status::Idle,
            Some(block) if block.implicit => Status::Idle,
            Some(block) if block.doomed || self.failed_shard().is_some() => Status::Failed,
            Some(_) => Status::InTransaction,
        }
    }

    /// The shard on which the transaction has failed, if it has.
    pub fn failed_shard(&self) -> Option<ShardId> {
        self.held.iter().find(|held| held.lease.status == Status::Failed).map(|held| held.shard)
    }

    /// Name of a shard for messages.
    pub fn shard_name(&self, shard: ShardId) -> String {
        shard_name(&self.worker.shared.topology.load(), shard)
    }

    /// The index of a held conn to `shard`, fit for the purpose: taken from the pool if there is none, brought to the
    /// session's settings, and part of the open block.
    pub async fn acquire(&mut self, shard: ShardId, replica: bool) -> Result<usize, Failure> {
        if let Some(at) = self.held_for(shard, replica) {
            self.renew_settings(at).await?;
            self.join_block(at)?;
            self.held[at].untouched = false;
            return Ok(at);
        }
        if self.block.as_ref().is_some_and(|block| block.opaque) {
            return Err(Failure::unsupported(
                "a transaction begun in a text of several statements cannot reach a second shard",
                "Send BEGIN as a statement of its own.",
            ));
        }
        self.check_isolation()?;
        let mut held = self.lease(shard, replica).await?;
        self.visible.running().conns.push((
            Arc::clone(held.lease.key()),
            held.lease.process_id,
            held.lease.secret.clone(),
        ));
        let wanted = self.wanted_gucs();
        self.bring_settings(&mut held, &wanted).await?;
        self.held.push(held);
        let at = self.held.len() - 1;
        self.join_block(at)?;
        self.ask_lsn(at);
        Ok(at)
    }

    /// Whether the transaction has read or written tables of the shard.
    pub fn touched(&self, shard: ShardId) -> bool {
        self.held.iter().any(|held| held.shard == shard && held.enlisted && !held.untouched)
    }

    /// A statement without tables (SHOW, `SELECT 1`) runs on the conn; `before`: what `touched` said before it was acquired.
    pub fn runs(&mut self, at: usize, before: bool, facts: &Facts) {
        let tables = !matches!(facts.scope, Scope::Nothing) && !matches!(facts.command, Command::Show(_));
        self.held[at].untouched = !before && !tables && facts.access == Access::Read;
    }

    /// A second shard has no snapshot in common with the first: levels that promise one are refused there.
    fn check_isolation(&self) -> Result<(), Failure> {
        match self.snapshot_level() {
            Some(name) if self.held.iter().any(|held| held.enlisted && !held.untouched) => {
                Err(Failure::unsupported(
                    format!("a transaction of isolation level {name} over several shards is not supported"),
                    "Use READ COMMITTED, or touch one shard only.",
                ))
            }
            _ => Ok(()),
        }
    }

    /// The isolation level of the open block, if it is one with a snapshot for the whole transaction.
    pub fn snapshot_level(&self) -> Option<&'static str> {
        let block = self.block.as_ref()?;
        let default =
            self.gucs.get("default_transaction_isolation").map(|v| v.trim_matches('\'').to_lowercase());
        match (block.isolation, default.as_deref()) {
            (Some(Isolation::Serializable), _) | (None, Some("serializable")) => Some("SERIALIZABLE"),
            (Some(Isolation::RepeatableRead), _) | (None, Some("repeatable read")) => Some("REPEATABLE READ"),
            _ => None,
        }
    }

    /// A conn of its own to the primary of `shard`, apart from what the session holds.
    pub async fn lease_alone(&mut self, shard: ShardId) -> Result<Held, Failure> {
        let mut held = self.lease(shard, false).await?;
        let wanted = Arc::clone(&self.gucs);
        self.bring_settings(&mut held, &wanted).await?;
        Ok(held)
    }

    fn held_for(&self, shard: ShardId, replica: bool) -> Option<usize> {
        let of_shard = |held: &Held| held.shard == shard;
        // Inside of a block a shard is one conn, whatever its role.
        let joined = self.held.iter().position(|held| of_shard(held) && (held.enlisted || held.unsynced));
        joined.or_else(|| self.held.iter().position(|held| of_shard(held) && (!held.replica || replica)))
    }

    async fn lease(&mut self, shard: ShardId, replica: bool) -> Result<Held, Failure> {
        let (node, replica, asks_lsn) = self.choose(shard, replica).await?;
        let address = match (&self.who.kind, node) {
            (DatabaseKind::Node(address), _) => address.clone(),
            (_, Some(node)) => {
                self.worker.shared.nodes().address(node).ok_or_else(|| self.no_primary(shard))?
            }
            (_, None) => return Err(self.no_primary(shard)),
        };
        let pool = self.pool(address);
        let began = Instant::now();
        let mut lease = match pool.lease().await {
            Ok(lease) => lease,
            Err(error) => {
                if let Some(node) = node {
                    self.worker.shared.nodes().check_now(node);
                }
                if asks_lsn {
                    self.worker.shared.floor(shard).dirty.store(true, Ordering::Release);
                }
                return Err(Failure::Lease { shard: self.shard_name(shard), error });
            }
        };
        let role = if replica { ServedBy::Replica } else { ServedBy::Primary };
        if let Some(metrics) = self.worker.shared.metrics.shard(shard, role) {
            metrics.pool_wait(began.elapsed());
            if let Some(took) = lease.opened_in.take() {
                metrics.connected(took);
            }
        }
        let load = node.and_then(|node| self.worker.shared.nodes().enter(node));
        Ok(Held {
            shard,
            node,
            replica,
            lease,
            enlisted: false,
            untouched: false,
            wrote: false,
            unsynced: false,
            unnamed: None,
            gucs_moved: false,
            asks_lsn,
            load,
        })
    }

    /// Node, whether it is a replica, and whether the shard is to be asked for its LSN.
    async fn choose(&self, shard: ShardId, replica: bool) -> Result<(Option<NodeId>, bool, bool), Failure> {
        if matches!(self.who.kind, DatabaseKind::Node(_)) {
            return Ok((None, false, false));
        }
        let shared = &self.worker.shared;
        let mut asks_lsn = false;
        if replica {
            let floor = shared.floor(shard);
            if floor.dirty.swap(false, Ordering::AcqRel) {
                asks_lsn = true;
            } else {
                let lag = shared.settings.load().routing.max_replica_lag;
                let found = shared.nodes().pick_replica(shard, floor.lsn.load(Ordering::Acquire), lag);
                if let Some(node) = found {
                    return Ok((Some(node), true, false));
                }
            }
        }
        let primary = match shared.nodes().primary(shard) {
            Some(node) => Some(node),
            None => shared.nodes().wait_primary(shard, PRIMARY_WAIT).await,
        };
        primary.map(|node| (Some(node), false, asks_lsn)).ok_or_else(|| self.no_primary(shard))
    }

    fn no_primary(&self, shard: ShardId) -> Failure {
        let name = self.shard_name(shard);
        let why = self.worker.shared.nodes().why_no_primary(shard);
        crate::route::refusal::Refusal {
            sqlstate: sqlstate::CANNOT_CONNECT_NOW,
            message: format!("shard \"{name}\" has no primary that takes writes"),
            detail: Some(why),
            hint: Some("SHOW SERVERS on the admin console lists the nodes and their roles.".to_owned()),
        }
        .into()
    }

    fn pool(&self, node: NodeAddress) -> Arc<Pool> {
        let worker = &self.worker;
        let key = PoolKey { user: self.who.user.clone(), database: self.who.backend_database.clone(), node };
        worker.pools.get(&key, || {
            let settings = worker.shared.settings.load();
            let pool = &settings.pool;
            let limits = PoolLimits {
                size: self.who.pool_size.div_ceil(worker.shared.threads).max(1),
                wait: pool.wait,
                max_lifetime: pool.max_lifetime,
                idle: pool.idle,
                min_idle: pool.min_idle,
            };
            Pool::new(key.clone(), self.who.login.clone(), Arc::clone(&worker.shared.connect), limits)
        })
    }

    /// What a conn must have before the session uses it: a block's own changes come behind its BEGIN.
    fn wanted_gucs(&self) -> Arc<Gucs> {
        self.block.as_ref().map_or_else(|| Arc::clone(&self.gucs), |block| block.gucs_before())
    }

    /// Replays settings where the conn's differ. What the server rejects is told to the application.
    async fn bring_settings(&mut self, held: &mut Held, wanted: &Arc<Gucs>) -> Result<(), Failure> {
        let brought = bring(&mut held.lease, wanted).await.map_err(|error| Failure::Lost {
            shard: self.shard_name(held.shard),
            error,
            committing: false,
        })?;
        self.settings_brought(brought)
    }

    fn settings_brought(&mut self, mut events: Events) -> Result<(), Failure> {
        self.events.parameters.append(&mut events.parameters);
        events.error.map_or(Ok(()), |frame| Err(Failure::Server(frame)))
    }

    /// Brings a held conn at rest to the settings that it must have.
    pub async fn renew_settings(&mut self, at: usize) -> Result<(), Failure> {
        let wanted = self.wanted_gucs();
        let held = &mut self.held[at];
        let at_rest = !held.enlisted && !held.unsynced && held.lease.is_quiet();
        if !at_rest || held.lease.applied.as_ref().is_some_and(|applied| applied.same(&wanted)) {
            return Ok(());
        }
        match bring(&mut held.lease, &wanted).await {
            Ok(events) => self.settings_brought(events),
            Err(error) => Err(self.lose(at, super::io::StepError::Backend(error), false)),
        }
    }

    /// Begins the open block on the conn, along with what is sent next.
    fn join_block(&mut self, at: usize) -> Result<(), Failure> {
        let held = &mut self.held[at];
        let Some(block) = &self.block else { return Ok(()) };
        if held.enlisted {
            return Ok(());
        }
        let conn = &mut *held.lease;
        reply::query(&mut conn.write, block.join_sql().as_bytes());
        conn.owe(Owed::Query(Show::NOTHING));
        held.enlisted = true;
        held.gucs_moved = true;
        held.unnamed = None;
        Ok(())
    }

    /// After a request: conns that nothing binds go back to their pools.
    pub fn settle(&mut self) {
        self.learn_block();
        if self.block.is_none() {
            self.names.portals.clear();
            let session_mode = self.who.mode == PoolMode::Session;
            let pinned = self.pinned.map(|(_, shard)| shard);
            let shared = Arc::clone(&self.worker.shared);
            {
                let mut running = self.visible.running();
                for held in &mut self.held {
                    if let Some(listening) = self.listening.as_mut().filter(|_| held.wrote && !held.replica) {
                        listening.wrote(held.shard);
                    }
                    end_transaction(held, &shared);
                    self.worker.pools.backend.add(std::mem::take(&mut held.lease.moved));
                    held.lease.spoiled |= running.cancelling > 0;
                }
                running.conns.clear();
            }
            self.held.retain(|held| {
                let usable = held.lease.status == Status::Idle && held.lease.is_quiet();
                usable && !held.replica && (session_mode || pinned == Some(held.shard))
            });
            if !self.held.is_empty() {
                let mut running = self.visible.running();
                running.conns.extend(self.held.iter().map(|held| {
                    (Arc::clone(held.lease.key()), held.lease.process_id, held.lease.secret.clone())
                }));
            }
        }
    }

    /// A block may have begun or ended inside of a text that was passed on whole.
    fn learn_block(&mut self) {
        let open = self.held.iter().any(|held| held.lease.status != Status::Idle);
        match (&self.block, open) {
            (None, true) => {
                let mut block = Block::new("BEGIN", false, Arc::clone(&self.gucs));
                block.opaque = true;
                self.block = Some(Box::new(block));
                for held in &mut self.held {
                    held.enlisted = held.lease.status != Status::Idle;
                    held.gucs_moved |= held.enlisted;
                }
            }
            (Some(block), false) if self.held.iter().any(|held| held.enlisted) && !block.doomed => {
                // A COMMIT that failed, or PREPARE TRANSACTION.
                self.end_block(self.events.error.is_some());
            }
            _ => {}
        }
    }

    /// The transaction is over, on all conns: settings as they were if it was rolled back.
    pub fn end_block(&mut self, rolled_back: bool) {
        if let Some(block) = self.block.take()
            && rolled_back
        {
            self.return_to(block.gucs_before());
        }
        self.settle_gucs();
        for held in &mut self.held {
            held.enlisted = false;
        }
        self.end_listens(!rolled_back);
    }

    /// Runs what is queued on a held conn to its end; a lost conn dooms the transaction.
    pub async fn run(&mut self, at: usize) -> Result<(), Failure> {
        let held = &mut self.held[at];
        let done = single::run(&mut self.io, &mut held.lease, &mut self.events).await;
        if let Err(error) = done {
            return Err(self.lose(at, error, false));
        }
        self.learn_lsn(at);
        Ok(())
    }

    /// Gives up a conn on which something failed.
    pub fn lose(&mut self, at: usize, error: super::io::StepError, committing: bool) -> Failure {
        let held = self.held.swap_remove(at);
        self.worker.pools.backend.add(held.lease.moved);
        if let (Some(node), super::io::StepError::Backend(_)) = (held.node, &error) {
            self.worker.shared.nodes().check_now(node);
        }
        if let Some(block) = &mut self.block
            && held.enlisted
        {
            block.doomed = true;
        }
        if self.pinned.is_some_and(|(_, shard)| shard == held.shard) {
            self.pinned = None;
            self.temp_tables = false;
        }
        let shard = self.shard_name(held.shard);
        Failure::of_step(error, &shard, committing)
    }

    /// Reads the LSN that the shard was asked for.
    pub fn learn_lsn(&mut self, at: usize) {
        let held = &mut self.held[at];
        if !std::mem::take(&mut held.asks_lsn) {
            return;
        }
        held.lease.capture = false;
        let row = self.events.rows.drain(..).next();
        self.note_lsn(at, row);
    }

    /// The answer to the question for the LSN raises the floor; without one it is asked again.
    pub fn note_lsn(&self, at: usize, row: Option<Bytes>) {
        let floor = self.worker.shared.floor(self.held[at].shard);
        let lsn = row.and_then(|row| lsn_of(&row));
        match lsn {
            Some(lsn) => drop(floor.lsn.fetch_max(lsn, Ordering::AcqRel)),
            None => floor.dirty.store(true, Ordering::Release),
        }
    }

    /// Asks for the LSN in front of a read on the primary, so that later reads may go to replicas that have it.
    fn ask_lsn(&mut self, at: usize) {
        let held = &mut self.held[at];
        if held.asks_lsn {
            held.lease.capture = true;
            reply::query(&mut held.lease.write, b"SELECT pg_current_wal_insert_lsn()");
            held.lease.owe(Owed::Query(Show::NOTHING));
            held.unnamed = None;
        }
    }

    /// Whether reads may go to replicas.
    pub fn reads_replica(&self) -> bool {
        let sharded = matches!(self.who.kind, DatabaseKind::Sharded);
        sharded
            && self.who.mode == PoolMode::Transaction
            && self.worker.shared.settings.load().routing.reads == Reads::Replica
    }
}

/// Brings a conn to settings; what it said meanwhile.
async fn bring(conn: &mut Conn, wanted: &Arc<Gucs>) -> Result<Events, ConnError> {
    let mut events = Events::default();
    let Some(sql) = wanted.replay_sql(conn.applied.as_deref()) else { return Ok(events) };
    reply::query(&mut conn.write, sql.as_bytes());
    conn.owe(Owed::Query(Show::NOTHING));
    conn.applied = None;
    single::run_alone(conn, &mut events).await?;
    if events.error.is_none() {
        conn.applied = Some(Arc::clone(wanted));
    }
    Ok(events)
}

/// Name of a shard for messages.
pub fn shard_name(topology: &Topology, shard: ShardId) -> String {
    topology.shards.get(usize::from(shard.0)).map_or_else(|| format!("#{}", shard.0), |s| s.name.clone())
}

fn end_transaction(held: &mut Held, shared: &crate::worker::Shared) {
    if std::mem::take(&mut held.wrote) && !held.replica {
        shared.floor(held.shard).dirty.store(true, Ordering::Release);
    }
    if std::mem::take(&mut held.gucs_moved) {
        held.lease.applied = None;
    }
    held.enlisted = false;
}

/// `pg_lsn` in text out of a DataRow body of one column.
fn lsn_of(row: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(row.get(6..)?).ok()?;
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn lsn_is_read_out_of_its_row() {
        assert_eq!(super::lsn_of(b"\0\x01\0\0\0\x0916/B374D848"), Some(0x16_B374_D848));
        assert_eq!(super::lsn_of(b"\0\x01\xff\xff\xff\xff"), None);
    }
}
