//! How a session comes by a conn: which node, from which pool, with its settings and its open block on it.

use std::sync::Arc;
use std::time::Duration;

use router_config::settings::DatabaseKind;
use router_config::topology::{NodeAddress, ShardId};

use super::absent::Lack;
use super::failure::Failure;
use super::io::{ClientIo, StepError};
use super::session::{Held, Session};
use super::visible::{Doing, wait};
use crate::backend::conn::{Conn, Events};
use crate::backend::connect::Fault;
use crate::backend::gucs::Gucs;
use crate::backend::owed::{Owed, Show};
use crate::backend::pool::{Lease, LeaseError, Pool, PoolKey, PoolLimits};
use crate::control::NodeId;
use crate::control::floor::{Look, Ticket};
use crate::exec::single;
use crate::metrics::ServedBy;
use crate::sql::facts::{Command, DdlKind, Facts};
use crate::sql::free_database::must_be_free;
use crate::wire::frame::HEADER;
use crate::wire::{backend, reply, sqlstate};

/// How often the settings of a conn are replayed under a limit of statements that cuts off its own removal.
const LIFTS_MAX: usize = 5;

impl Session {
    /// The index of a held conn to `shard`, fit for the purpose: taken from the pool if there is none, brought to the
    /// session's settings, and part of the open block.
    pub async fn acquire(&mut self, shard: ShardId, replica: bool) -> Result<usize, Failure> {
        match self.acquire_at_hand(shard, replica) {
            Some(at) => Ok(at),
            None => Box::pin(self.acquire_patiently(shard, replica)).await,
        }
    }

    /// As [`Self::acquire`] where nothing has to be waited for, looked up or refused: the conn is held, or at hand in its pool, and
    /// has the settings. `None`: nothing has been done.
    pub(super) fn acquire_at_hand(&mut self, shard: ShardId, replica: bool) -> Option<usize> {
        if self.lacks_snapshots() {
            return None;
        }
        let at = match self.held_for(shard, replica) {
            Some(at) if self.needs_settings(at) => return None,
            Some(at) => at,
            None => {
                let opaque = self.block.as_ref().is_some_and(|block| block.opaque);
                if !self.held.is_empty() || self.draws.asks() || opaque {
                    return None;
                }
                let held = self.lease_at_hand(shard, replica)?;
                self.show_running(&held);
                self.hold(held)
            }
        };
        self.join_block(at);
        self.held[at].untouched = false;
        Some(at)
    }

    async fn acquire_patiently(&mut self, shard: ShardId, replica: bool) -> Result<usize, Failure> {
        if self.needs_snapshots() {
            Box::pin(self.take_snapshots()).await?;
        }
        if let Some(at) = self.held_for(shard, replica) {
            self.renew_settings(at).await?;
            self.join_block(at);
            self.held[at].untouched = false;
            return Ok(at);
        }
        self.may_join()?;
        let held = self.lease(shard, replica).await?;
        self.take(held).await
    }

    /// A conn that the session has just leased becomes one of those that it holds.
    pub(super) async fn take(&mut self, held: Held) -> Result<usize, Failure> {
        self.may_join()?;
        let mut held = self.recall(held).await?;
        self.show_running(&held);
        let wanted = self.wanted_gucs();
        self.bring_settings(&mut held, &wanted).await?;
        let at = self.hold(held);
        self.join_block(at);
        self.ask_lsn(at);
        Ok(at)
    }

    /// DROP DATABASE and the like are not refused because of connections that the proxy itself keeps: they are closed first,
    /// and PostgreSQL waits a moment for their end.
    pub(super) fn free_database(&self, facts: &Facts, text: &[u8]) {
        if matches!(facts.command, Command::Ddl(DdlKind::Home))
            && let Some(database) = must_be_free(text, self.text_rules().standard_strings)
        {
            self.worker.shared.close_idle(&database);
        }
    }

    /// Cancel requests of the application reach the conn from here on.
    pub(crate) fn show_running(&self, held: &Held) {
        self.io.visible.running().conns.push(held.shown());
    }

    /// A conn goes back to its pool before the request is over: whoever has it next is not to be hit by a cancel request.
    pub(crate) fn hide_running(&self, held: &mut Held) {
        let mut running = self.io.visible.running();
        held.lease.spoiled |= running.cancelling > 0;
        let (key, process) = (held.lease.key(), held.lease.process_id);
        running.conns.retain(|(other, id, _)| !(*id == process && other == key));
    }

    fn hold(&mut self, held: Held) -> usize {
        self.held.push(held);
        self.held.len() - 1
    }

    /// Whether another shard may have a part in what is under way. A second one has no snapshot in common with the first, unless all
    /// were taken at one moment: levels that promise one are refused there.
    pub(super) fn may_join(&self) -> Result<(), Failure> {
        if self.block.as_ref().is_some_and(|block| block.opaque) {
            return Err(Failure::unsupported(
                "a transaction begun in a text of several statements cannot reach a second shard",
                "Send BEGIN as a statement of its own.",
            ));
        }
        match self.snapshot_level() {
            Some(_) if self.is_whole() => Ok(()),
            Some(name) if self.held.iter().any(|held| held.enlisted && !held.untouched) => {
                Err(Failure::unsupported(
                    format!("a transaction of isolation level {name} over several shards is not supported"),
                    "Use READ COMMITTED, or touch one shard only.",
                ))
            }
            _ => Ok(()),
        }
    }

    /// A conn of its own to the primary of `shard`, apart from what the session holds.
    pub async fn lease_alone(&mut self, shard: ShardId) -> Result<Held, Failure> {
        let mut held = self.lease(shard, false).await?;
        let wanted = Arc::clone(&self.gucs);
        self.bring_settings(&mut held, &wanted).await?;
        Ok(held)
    }

    pub(super) fn held_for(&self, shard: ShardId, replica: bool) -> Option<usize> {
        let of_shard = |held: &Held| held.shard == shard;
        // Inside of a block a shard is one conn, whatever its role.
        let joined = self.held.iter().position(|held| of_shard(held) && (held.enlisted || held.unsynced));
        joined.or_else(|| self.held.iter().position(|held| of_shard(held) && (!held.replica || replica)))
    }

    /// A conn to `shard` that is at hand in its pool and has the session's settings.
    fn lease_at_hand(&self, shard: ShardId, replica: bool) -> Option<Held> {
        let shared = &self.worker.shared;
        let (node, replica) = match self.who.kind {
            DatabaseKind::Node(_) => (None, false),
            DatabaseKind::Sharded | DatabaseKind::FirstShard => {
                let picked = if replica { self.replica_at_hand(shard)? } else { None };
                (Some(picked.or_else(|| shared.nodes().primary(shard))?), picked.is_some())
            }
        };
        if self.pools_generation != self.worker.pools.generation() {
            return None;
        }
        let (_, pool) = self.pools.iter().find(|(known, _)| *known == node)?;
        let lease = pool.lease_at_hand(self.watch.now())?;
        let has_settings = lease.applied.as_ref().is_some_and(|applied| applied.same(self.wanted()));
        // The cell for the shard's OIDs was put there when the conn was first leased for a routed database.
        let translates =
            shard == ShardId(0) || self.catalog.is_none() || (lease.oids.is_some() && !lease.oids_unread());
        if !has_settings || !translates {
            return None;
        }
        let role = if replica { ServedBy::Replica } else { ServedBy::Primary };
        shared.metrics.pool_wait(shard, role, Duration::ZERO);
        let load = node.and_then(|node| shared.nodes().enter(node));
        Some(Held::new((shard, node, replica), lease, None, load))
    }

    /// The replica that a read may go to, if one is fit; `None`: the shard has to be asked for its LSN.
    pub(super) fn replica_at_hand(&self, shard: ShardId) -> Option<Option<NodeId>> {
        let shared = &self.worker.shared;
        match shared.floor(shard).look() {
            Look::Replica(floor) => {
                let lag = shared.settings.load().routing.max_replica_lag;
                Some(shared.nodes().pick_replica(shard, floor, lag))
            }
            Look::Primary => Some(None),
            Look::Ask(_) => None,
        }
    }

    /// A conn to the node of `shard` that fits, if there is one now.
    pub(super) async fn lease_now(&mut self, shard: ShardId, replica: bool) -> Result<Held, Lack> {
        let (node, replica, asks_lsn) = self.choose(shard, replica).ok_or(Lack::Primary)?;
        let mut lease = self.lease_of(shard, node).await.map_err(|failure| Lack::of(node, failure))?;
        let role = if replica { ServedBy::Replica } else { ServedBy::Primary };
        let metrics = &self.worker.shared.metrics;
        metrics.pool_wait(shard, role, lease.waited);
        if let (Some(took), Some(metrics)) = (lease.opened_in.take(), metrics.shard(shard, role)) {
            metrics.connected(took);
        }
        if shard != ShardId(0) && self.translate_oids(shard, &mut lease).await {
            self.context = None;
        }
        let load = node.and_then(|node| self.worker.shared.nodes().enter(node));
        Ok(Held::new((shard, node, replica), lease, asks_lsn, load))
    }

    async fn lease_of(&mut self, shard: ShardId, node: Option<NodeId>) -> Result<Lease, Failure> {
        loop {
            let pool = self.pool(node).ok_or_else(|| self.no_primary(shard))?;
            match wait(&mut self.io, Doing::Waiting, pool.lease()).await? {
                Ok(Some(lease)) => return Ok(lease),
                // A reload has closed it: the wait goes on in the pool that has taken its place.
                Ok(None) => {}
                Err(error) => return Err(self.no_lease(shard, node, error)),
            }
        }
    }

    /// Tells the console and the log of a node that gives no connections.
    fn no_lease(&self, shard: ShardId, node: Option<NodeId>, error: LeaseError) -> Failure {
        let shared = &self.worker.shared;
        let shard = self.shard_name(shard);
        if let Some(node) = node {
            shared.nodes().check_now(node);
        }
        if let LeaseError::Connect(connect) = &error
            && connect.fault() == Fault::Node
        {
            node.iter().for_each(|node| shared.nodes().refused(*node, connect.said()));
            if let Some(unsaid) = shared.refusals.due() {
                tracing::warn!(shard, user = self.who.user, unsaid, "no connection to a node: {connect}");
            }
        }
        Failure::Lease { shard, error }
    }

    /// Node, whether it is a replica, and the duty to ask the shard for its LSN. `None`: there is no primary.
    fn choose(&self, shard: ShardId, replica: bool) -> Option<(Option<NodeId>, bool, Option<Ticket>)> {
        if matches!(self.who.kind, DatabaseKind::Node(_)) {
            return Some((None, false, None));
        }
        let shared = &self.worker.shared;
        let mut asks_lsn = None;
        if replica {
            match shared.floor(shard).look() {
                Look::Replica(floor) => {
                    let lag = shared.settings.load().routing.max_replica_lag;
                    if let Some(node) = shared.nodes().pick_replica(shard, floor, lag) {
                        return Some((Some(node), true, None));
                    }
                }
                Look::Ask(ticket) => asks_lsn = Some(ticket),
                Look::Primary => {}
            }
        }
        shared.nodes().primary(shard).map(|node| (Some(node), false, asks_lsn))
    }

    pub(super) fn no_primary(&self, shard: ShardId) -> Failure {
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

    /// The pool of a node (`None`: of the one node that the database is on). A session looks each up once.
    fn pool(&mut self, node: Option<NodeId>) -> Option<Arc<Pool>> {
        let worker = &self.worker;
        if self.pools_generation != worker.pools.generation() {
            self.pools.clear();
        } else if let Some((_, pool)) = self.pools.iter().find(|(known, _)| *known == node) {
            return Some(Arc::clone(pool));
        }
        let address = match (&self.who.kind, node) {
            (DatabaseKind::Node(address), _) => address.clone(),
            (_, node) => worker.shared.nodes().address(node?)?,
        };
        let (pool, generation) = self.pool_of(address, false);
        if self.pools_generation != generation {
            self.pools.clear();
            self.pools_generation = generation;
        }
        self.pools.push((node, Arc::clone(&pool)));
        Some(pool)
    }

    /// The pool of the session's user and database at an address, and its generation. `combines`: the one for gathered rows.
    fn pool_of(&self, node: NodeAddress, combines: bool) -> (Arc<Pool>, u64) {
        let worker = &self.worker;
        let (user, database) = (self.who.user.clone(), self.who.backend_database.clone());
        let key = PoolKey { user, database, node, combines };
        worker.pools.get(&key, || {
            let settings = worker.shared.settings.load();
            let pool = &settings.pool;
            let size = if combines { pool.combine_size } else { self.who.pool_size(&settings) };
            let limits = PoolLimits {
                size: size.div_ceil(worker.shared.threads).max(1),
                wait: pool.wait,
                max_lifetime: or_never(pool.max_lifetime),
                idle: or_never(pool.idle),
                min_idle: if combines { 0 } else { pool.min_idle },
            };
            Pool::new(key.clone(), self.who.login.clone(), worker.shared.connect.load_full(), limits)
        })
    }

    /// A conn to the primary of `shard` out of the pool for gathered rows.
    pub(crate) async fn lease_to_combine(&mut self, shard: ShardId) -> Result<Held, Failure> {
        let shared = Arc::clone(&self.worker.shared);
        let node = shared.nodes().primary(shard);
        loop {
            let address =
                node.and_then(|node| shared.nodes().address(node)).ok_or_else(|| self.no_primary(shard))?;
            let (pool, _) = self.pool_of(address, true);
            let size = pool.status().size;
            if self.kept.iter().filter(|kept| kept.is_on(shard)).count() >= size {
                let node = pool.key().node.to_string();
                return Err(self.no_lease(shard, None, LeaseError::Own { node, size }));
            }
            match wait(&mut self.io, Doing::Waiting, pool.lease()).await? {
                Ok(Some(lease)) => {
                    let load = node.and_then(|node| shared.nodes().enter(node));
                    return Ok(Held::new((shard, node, false), lease, None, load));
                }
                // A reload has closed it.
                Ok(None) => {}
                Err(error) => return Err(self.no_lease(shard, node, error)),
            }
        }
    }

    /// What a conn must have before the session uses it: a block's own changes come behind its BEGIN.
    fn wanted(&self) -> &Arc<Gucs> {
        self.block.as_ref().map_or(&self.gucs, |block| block.gucs_at_begin())
    }

    fn wanted_gucs(&self) -> Arc<Gucs> {
        Arc::clone(self.wanted())
    }

    /// Whether a held conn is at rest and has other settings than it must have.
    fn needs_settings(&self, at: usize) -> bool {
        let held = &self.held[at];
        let at_rest = !held.enlisted && !held.unsynced && held.lease.is_quiet();
        at_rest && !held.lease.applied.as_ref().is_some_and(|applied| applied.same(self.wanted()))
    }

    /// Replays settings where the conn's differ. What the server rejects is told to the application.
    pub(crate) async fn bring_settings(
        &mut self,
        held: &mut Held,
        wanted: &Arc<Gucs>,
    ) -> Result<(), Failure> {
        let brought = bring(&mut self.io, &mut held.lease, wanted).await;
        let brought =
            brought.map_err(|error| Failure::of_step(error, &self.shard_name(held.shard), false))?;
        self.settings_brought(brought)
    }

    fn settings_brought(&mut self, mut events: Events) -> Result<(), Failure> {
        self.events.parameters.append(&mut events.parameters);
        events.error.map_or(Ok(()), |frame| Err(Failure::Server(frame)))
    }

    /// Brings a held conn at rest to the settings that it must have.
    pub async fn renew_settings(&mut self, at: usize) -> Result<(), Failure> {
        if !self.needs_settings(at) {
            return Ok(());
        }
        let wanted = self.wanted_gucs();
        let held = &mut self.held[at];
        match bring(&mut self.io, &mut held.lease, &wanted).await {
            Ok(events) => self.settings_brought(events),
            Err(error) => Err(self.lose(at, error)),
        }
    }

    /// Begins the open block on the conn, along with what is sent next.
    fn join_block(&mut self, at: usize) {
        let held = &mut self.held[at];
        let Some(block) = &self.block else { return };
        if held.enlisted {
            return;
        }
        let conn = &mut *held.lease;
        reply::query(&mut conn.write, block.join_sql().as_bytes());
        conn.owe(Owed::Query(Show::NOTHING));
        held.enlisted = true;
        held.gucs_moved = true;
        held.unnamed = None;
    }

    /// Asks for the LSN in front of a read on the primary, so that later reads may go to replicas that have it.
    fn ask_lsn(&mut self, at: usize) {
        let held = &mut self.held[at];
        if held.asks_lsn.is_some() {
            held.lease.capture = true;
            reply::query(&mut held.lease.write, b"SELECT pg_current_wal_insert_lsn()");
            held.lease.owe(Owed::Query(Show::NOTHING));
            held.unnamed = None;
        }
    }
}

/// A limit of which zero means that there is none.
fn or_never(limit: Duration) -> Duration {
    const NEVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);
    if limit.is_zero() { NEVER } else { limit }
}

/// Brings a conn to settings; what it said meanwhile. A `statement_timeout` that somebody has left on it does not hit what is said
/// here: a message of several commands runs under the one with which it began.
async fn bring(io: &mut ClientIo, conn: &mut Conn, wanted: &Arc<Gucs>) -> Result<Events, StepError> {
    let mut events = Events::default();
    if conn.applied.as_ref().is_some_and(|applied| applied.same(wanted)) {
        return Ok(events);
    }
    let limited = conn.applied.as_ref().is_none_or(|applied| applied.limits_statements());
    let lifted = conn.applied.as_ref().filter(|_| limited).map(Gucs::unlimited);
    // To have no limit may be all that is wanted.
    let sql = wanted.replay_sql(lifted.as_deref().or(conn.applied.as_deref()));
    for _ in 0..LIFTS_MAX {
        if limited {
            reply::query(&mut conn.write, Gucs::LIFT.as_bytes());
            conn.owe(Owed::Query(Show::NOTHING));
        }
        if let Some(sql) = &sql {
            reply::query(&mut conn.write, sql.as_bytes());
            conn.owe(Owed::Query(Show::NOTHING));
        }
        conn.applied = None;
        single::run(io, conn, &mut events).await?;
        if !(limited && events.error.take_if(|error| has_timed_out(error)).is_some()) {
            break;
        }
    }
    if events.error.is_none() {
        conn.applied = Some(Arc::clone(wanted));
    }
    Ok(events)
}

/// 57014, but not for a cancel request.
fn has_timed_out(error: &[u8]) -> bool {
    let field = |tag| backend::error_field(error.get(HEADER..).unwrap_or_default(), tag).unwrap_or_default();
    let asked = b"due to user request";
    field(b'C') == sqlstate::QUERY_CANCELED.as_bytes()
        && !field(b'M').windows(asked.len()).any(|w| w == asked)
}
