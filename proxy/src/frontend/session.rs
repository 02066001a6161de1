//! The state of one session, and the conns that it holds.
//!
//! A conn is held for a statement, a transaction or (session pooling, pins) for the session, at most one for each shard and role.
//! Invariant: whatever is held when the session is idle outside of a transaction belongs to a pin or to session pooling.

use std::sync::Arc;

use bytes::Bytes;
use router_config::settings::{DatabaseKind, PoolMode, Reads, Settings};
use router_config::topology::{ShardId, Topology};
use smallvec::SmallVec;

use super::draws::Draws;
use super::hints::Hints;
use super::io::ClientIo;
use super::names::Names;
use super::pins::Pins;
use super::repeat::{Again, Repeat};
use super::transaction::Block;
use crate::backend::conn::Events;
use crate::backend::connect::BackendLogin;
use crate::backend::gucs::Gucs;
use crate::backend::pool::{Lease, PoolKey};
use crate::control::floor::Ticket;
use crate::control::{InFlight, NodeId};
use crate::sql::extract::Context;
use crate::sql::facts::{Access, Command, Facts, Isolation, Scope};
use crate::sql::schema::Schema;
use crate::wire::backend::Status;
use crate::worker::Worker;

/// Who is connected, to what.
#[derive(Debug, PartialEq)]
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
    /// How its conns log in.
    pub login: BackendLogin,
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
    /// A COMMIT has been sent.
    pub committing: bool,
    /// Frames of the extended protocol were sent since the last Sync.
    pub unsynced: bool,
    /// The conn's unnamed statement is this shared one.
    pub unnamed: Option<u64>,
    /// Settings were changed on it, or may be in the block: it has those of the session when the transaction is over.
    pub gucs_moved: bool,
    /// It asks the shard for its LSN along with the next request.
    pub asks_lsn: Option<Ticket>,
    /// Counts as load of the node.
    pub load: Option<InFlight>,
}

impl Held {
    /// A conn on which the session has done nothing yet; `place`: shard, node, whether it is a replica.
    pub(super) fn new(
        place: (ShardId, Option<NodeId>, bool),
        lease: Lease,
        asks_lsn: Option<Ticket>,
        load: Option<InFlight>,
    ) -> Self {
        let (shard, node, replica) = place;
        Self {
            shard,
            node,
            replica,
            lease,
            enlisted: false,
            untouched: false,
            wrote: false,
            committing: false,
            unsynced: false,
            unnamed: None,
            gucs_moved: false,
            asks_lsn,
            load,
        }
    }

    /// What [`Visible`](super::visible::Visible) knows of it.
    pub(crate) fn shown(&self) -> (Arc<PoolKey>, i32, Bytes) {
        (Arc::clone(self.lease.key()), self.lease.process_id, self.lease.secret.clone())
    }

    /// Whether the session keeps its shard's conn between transactions.
    pub(super) fn is_bound(&self, draws: &Draws, names: &Names, pins: &Pins) -> bool {
        pins.holds(self.shard) || draws.keeps(self) || names.holds_cursor(self.shard)
    }

    /// Whether what was written on it may become durable without another word: a COMMIT is on its way, or it has prepared and the
    /// decision may be on its way, or the server commits on its own as soon as it has executed, outside of a block.
    pub(super) fn may_commit(&self) -> bool {
        self.committing || (self.wrote && !self.enlisted)
    }
}

impl Who {
    /// Conns per pool, over all session threads, as the settings have it now.
    pub(super) fn pool_size(&self, settings: &Settings) -> usize {
        let entry = settings.database(&self.database);
        entry.and_then(|entry| entry.pool_size).unwrap_or(settings.pool.size)
    }
}

/// One application's session.
pub struct Session {
    /// Its socket.
    pub io: ClientIo,
    /// The pools that it has used, by node; valid in this generation of the thread's pools.
    pub pools: SmallVec<[(Option<NodeId>, Arc<crate::backend::pool::Pool>); 1]>,
    /// See `pools`.
    pub pools_generation: u64,
    /// The thread's pools and what all sessions share.
    pub worker: Arc<Worker>,
    /// Who.
    pub who: Arc<Who>,
    /// Settings in force.
    pub gucs: Arc<Gucs>,
    /// Settings given at login: what RESET returns to.
    pub startup_gucs: Arc<Gucs>,
    /// Statements and portals.
    pub names: Names,
    /// Open transaction block.
    pub block: Option<Box<Block>>,
    /// Conns.
    pub held: SmallVec<[Held; 1]>,
    /// Conns of cursors and portals over gathered rows.
    pub kept: Vec<crate::exec::combine::kept::Kept>,
    /// Why the session keeps conns, and on which shards.
    pub pins: Pins,
    /// What it has drawn from sequences.
    pub draws: Draws,
    /// What it listens on.
    pub listening: Option<Box<super::listening::Listening>>,
    /// It has made temporary tables.
    pub temp_tables: bool,
    /// The catalog with them, as far as the statement under way needs it.
    pub temporary: super::temporary_tables::TemporaryTables,
    /// `SET gavel.key` and `SET gavel.shard`.
    pub hints: Hints,
    /// `default_transaction_read_only` is on.
    pub read_only: bool,
    /// Whether the request under way is worked off once more.
    pub repeat: Repeat,
    /// Number of the facts' context, with the generation and settings that it was made for.
    pub context: Option<SessionContext>,
    /// What the open transaction has done to the catalog.
    pub changes: super::own_catalog::CatalogChanges,
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
    /// Where the last CommandComplete of the proxy's own begins in the output that has not been written; without one, behind all of it.
    pub tag_at: usize,
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
    /// `transform_null_equals` is on.
    pub(crate) null_equals: bool,
}

impl SessionContext {
    /// What facts depend on, with the catalog that it was made for.
    pub(crate) fn over<'a>(&'a self, schema: &'a Schema, settings: &Settings) -> Context<'a> {
        Context {
            schema,
            search_path: &self.search_path,
            temp_tables: self.temp_tables,
            standard_conforming_strings: self.conforming,
            statement_parse_bytes: settings.limits.statement_parse_bytes,
            id: self.id,
        }
    }
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

    /// The shard where the pipeline under way is, else the first of those where the transaction is: the home shard if it is on all.
    pub fn busy_shard(&self) -> Option<ShardId> {
        let shard_of = |fits: fn(&&Held) -> bool| self.held.iter().find(fits).map(|held| held.shard);
        let home = self.block.as_ref().filter(|block| block.whole).map(|_| ShardId(0));
        shard_of(|held| held.unsynced).or(home).or_else(|| shard_of(|held| held.enlisted))
    }

    /// Indices of the conns that are part of the open block.
    pub fn enlisted(&self) -> Vec<usize> {
        (0..self.held.len()).filter(|at| self.held[*at].enlisted).collect()
    }

    /// Shards of the conns that are part of the open block.
    pub fn enlisted_shards(&self) -> Vec<ShardId> {
        self.held.iter().filter(|held| held.enlisted).map(|held| held.shard).collect()
    }

    /// Name of a shard for messages.
    pub fn shard_name(&self, shard: ShardId) -> String {
        shard_name(&self.worker.shared.topology.load(), shard)
    }

    /// Whether the transaction has read or written tables of the shard.
    pub fn touched(&self, shard: ShardId) -> bool {
        self.held.iter().any(|held| held.shard == shard && held.enlisted && !held.untouched)
    }

    /// A statement without tables (SHOW, `SELECT 1`) runs on the conn; `before`: what `touched` said before it was acquired.
    pub fn runs(&mut self, at: usize, before: bool, facts: &Facts) {
        let tables = !matches!(facts.scope, Scope::Nothing) && !matches!(facts.command, Command::Show(_));
        self.held[at].untouched = !before && !tables && facts.access == Access::Read;
        self.note_ran();
    }

    /// A shard executes something of the open block.
    pub fn note_ran(&mut self) {
        if let Some(block) = &mut self.block {
            block.ran = true;
        }
    }

    /// The isolation level of the open block, or else of the next statement's own transaction.
    pub fn isolation(&self) -> Isolation {
        let named = self.block.as_ref().and_then(|block| block.isolation);
        named.unwrap_or_else(|| {
            let default =
                self.gucs.get("default_transaction_isolation").map(|value| value.trim().trim_matches('\''));
            match default {
                Some(value) if value.eq_ignore_ascii_case("serializable") => Isolation::Serializable,
                Some(value) if value.eq_ignore_ascii_case("repeatable read") => Isolation::RepeatableRead,
                _ => Isolation::ReadCommitted,
            }
        })
    }

    /// The isolation level of the open block, if it is one with a snapshot for the whole transaction.
    pub fn snapshot_level(&self) -> Option<&'static str> {
        self.block.as_ref()?;
        match self.isolation() {
            Isolation::Serializable => Some("SERIALIZABLE"),
            Isolation::RepeatableRead => Some("REPEATABLE READ"),
            Isolation::ReadCommitted => None,
        }
    }

    /// Whether the open block, or else the next statement's own transaction, is SERIALIZABLE.
    pub fn is_serializable(&self) -> bool {
        self.isolation() == Isolation::Serializable
    }

    /// Whether reads may go to replicas: not those of a pipeline that has written, which is one transaction.
    pub fn reads_replica(&self, settings: &Settings) -> bool {
        let sharded = matches!(self.who.kind, DatabaseKind::Sharded);
        let writes = self.held.iter().any(|held| held.wrote && held.unsynced);
        sharded
            && !self.repeat.is_under_way(Again::OnPrimaries)
            && !writes
            && self.who.mode == PoolMode::Transaction
            && settings.routing.reads == Reads::Replica
    }
}

/// Name of a shard for messages.
pub fn shard_name(topology: &Topology, shard: ShardId) -> String {
    topology.shards.get(usize::from(shard.0)).map_or_else(|| format!("#{}", shard.0), |s| s.name.clone())
}
