//! The statements and portals that an application has named, and what it called them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use router_config::topology::ShardId;

use crate::backend::gucs::Gucs;
use crate::backend::prepared::SharedStatement;
use crate::exec::cursors::Walk;
use crate::route::plan::Plan;
use crate::sql::cache::Analysed;

/// A parsed statement of a session.
#[derive(Debug, Clone)]
pub struct Prepared {
    /// Its shared identity.
    pub shared: Arc<SharedStatement>,
    /// Its facts.
    pub analysed: Analysed,
    /// What its text was read against.
    pub reading: u32,
    /// Settings at Parse: literals keep the meaning that they had then.
    pub gucs: Arc<Gucs>,
    /// Parameter type OIDs of Parse.
    pub types: Box<[u32]>,
    /// The application gave it a name: it must outlive this request on whatever conn is used next.
    pub named: bool,
}

impl Prepared {
    /// Types of its parameters as far as they are known.
    pub fn types(&self) -> &[u32] {
        self.shared.asked.get().and_then(Option::as_ref).unwrap_or(&self.types)
    }

    /// The same as Parse has them.
    pub fn type_bytes(&self) -> Bytes {
        match self.shared.asked.get() {
            None | Some(None) => self.shared.types.clone(),
            Some(Some(types)) => types.iter().flat_map(|oid| oid.to_be_bytes()).collect(),
        }
    }
}

/// A bound statement.
#[derive(Debug, Clone)]
pub struct Portal {
    /// What it runs.
    pub statement: Arc<Prepared>,
    /// Where.
    pub place: Place,
    /// What its calls of set_config set.
    pub sets: Option<Arc<[super::effects::Setting]>>,
}

/// Where a portal runs.
#[derive(Debug, Clone)]
pub enum Place {
    /// Bound on the conn of this shard.
    Shard(ShardId),
    /// The proxy executes it: transaction control, EXECUTE, EXPLAIN (GAVEL) and the like.
    Control {
        /// Bind's body after the names.
        bind: Bytes,
    },
    /// On several shards, or with a text of the proxy's own: bound when it is executed.
    Spread {
        /// The plan.
        plan: Box<Plan>,
        /// Bind's body after the names.
        bind: Bytes,
    },
    /// On several shards, one after the other, so many rows at a time.
    Walk {
        /// Where it stands.
        walk: Walk,
        /// Number of its name on the conns.
        id: u64,
        /// Bind's body after the names.
        bind: Bytes,
    },
}

/// A cursor of DECLARE.
#[derive(Debug, Clone)]
pub enum Cursor {
    /// On one shard.
    One {
        /// Which.
        shard: ShardId,
        /// It outlives the transaction.
        hold: bool,
    },
    /// Over several shards, gone at the end of the transaction.
    Several(Walk),
}

impl Names {
    /// Whether a shard's conn has a cursor that outlives the transaction.
    pub fn holds_cursor(&self, on: ShardId) -> bool {
        self.cursors
            .values()
            .any(|cursor| matches!(cursor, Cursor::One { shard, hold: true } if *shard == on))
    }
}

/// All names of a session.
#[derive(Debug, Default)]
pub struct Names {
    /// Statements; the unnamed one has the empty name.
    pub statements: HashMap<Bytes, Arc<Prepared>, RandomState>,
    /// Portals, gone at the end of the transaction.
    pub portals: HashMap<Bytes, Portal, RandomState>,
    /// Cursors of DECLARE.
    pub cursors: HashMap<String, Cursor, RandomState>,
    /// Portals of kind [`Place::Walk`] so far.
    pub walks: u64,
}

impl Names {
    /// A simple query takes the place of what has no name.
    pub fn forget_unnamed(&mut self) {
        if !self.statements.is_empty() {
            self.statements.remove(&b""[..]);
        }
        if !self.portals.is_empty() {
            self.portals.remove(&b""[..]);
        }
    }
}
