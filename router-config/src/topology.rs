//! The topology at an epoch: shards, slot map, overrides, tables, databases. Immutable once checked.

use std::collections::HashMap;

use crate::key::{KeyType, KeyValue};

/// Number of slots of a cluster, fixed for its life.
pub const SLOTS: u16 = 16_384;

/// Index of a shard in [`Topology::shards`]; also its position in error messages and metrics (by name).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ShardId(pub u16);

/// `hash & (SLOTS - 1)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Slot(pub u16);

/// Where a node listens.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct NodeAddress {
    /// Host name, IP address or the directory of a Unix socket (starts with `/`).
    pub host: String,
    /// TCP port.
    pub port: u16,
}

/// One primary with its replicas.
#[derive(Debug, Clone, PartialEq)]
pub struct Shard {
    /// Name, unique.
    pub name: String,
    /// The node configured as primary (roles are detected; after a promotion a replica may be it).
    pub primary: NodeAddress,
    /// The others.
    pub replicas: Vec<NodeAddress>,
    /// Share of the ring, 1.0 by default.
    pub weight: f64,
}

/// Everything that routing needs, at an epoch.
#[derive(Debug, Clone)]
pub struct Topology {
    /// Grows with every change.
    pub epoch: u64,
    /// Shards; [`ShardId`] indexes it.
    pub shards: Vec<Shard>,
    /// Owner of each slot, `SLOTS` entries: the truth.
    pub slot_map: Vec<ShardId>,
    /// Single keys pinned to a shard.
    pub key_overrides: HashMap<KeyValue, ShardId>,
    /// Rules that give tables their kind, first match wins.
    pub tables: Vec<TableRule>,
    /// Functions placed by an argument.
    pub functions: Vec<FunctionRule>,
}

/// How tables get their kind.
#[derive(Debug, Clone, PartialEq)]
pub struct TableRule {
    /// Which tables.
    pub matches: TableMatch,
    /// What they are.
    pub kind: TableKind,
}

/// Which tables a rule is about.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableMatch {
    /// `name` or `schema.name` (without schema: any schema but the catalog's).
    Name(String),
    /// A pattern with `*` and `?` over `name` or `schema.name`.
    Pattern(String),
    /// Every table with this column.
    HasColumn(String),
}

/// Kind of a table.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TableKind {
    /// By this key column; the type comes from the catalog, and is checked against this one if named.
    Sharded {
        /// Key column.
        key: String,
        /// Type the column must have.
        key_type: Option<KeyType>,
    },
    /// The same rows everywhere.
    Reference,
    /// On the home shard.
    Unsharded,
}

/// `[[functions]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionRule {
    /// Name as stored, without schema.
    pub name: String,
    /// 1-based argument that carries the key; `None`: declared not to touch sharded tables.
    pub key_argument: Option<u16>,
}
