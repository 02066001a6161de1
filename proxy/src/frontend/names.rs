//! The statements and portals that an application has named, and what it called them.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use foldhash::fast::RandomState;
use router_config::topology::ShardId;

use crate::backend::prepared::SharedStatement;
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
    /// Parameter type OIDs of Parse.
    pub types: Box<[u32]>,
    /// The application gave it a name: it must outlive this request on whatever conn is used next.
    pub named: bool,
}

/// A bound statement.
#[derive(Debug, Clone)]
pub struct Portal {
    /// What it runs.
    pub statement: Arc<Prepared>,
    /// Where.
    pub place: Place,
}

/// Where a portal runs.
#[derive(Debug, Clone)]
pub enum Place {
    /// Bound on the conn of this shard.
    Shard(ShardId),
    /// The proxy executes it: transaction control and the like.
    Control,
    /// On several shards, or with a text of the proxy's own: bound when it is executed.
    Spread {
        /// The plan.
        plan: Box<Plan>,
        /// Bind's body after the names.
        bind: Bytes,
    },
}

/// All names of a session.
#[derive(Debug, Default)]
pub struct Names {
    /// Statements; the unnamed one has the empty name.
    pub statements: HashMap<Bytes, Arc<Prepared>, RandomState>,
    /// Portals, gone at the end of the transaction.
    pub portals: HashMap<Bytes, Portal, RandomState>,
}
