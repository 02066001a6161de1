//! The topology at an epoch: shards, slot map, overrides, tables, databases. Immutable once checked.

use std::collections::HashMap;
use std::fmt;
use std::str::FromStr;

use crate::key::{KeyType, KeyValue};
use crate::ring;

mod check;
mod diff;
mod fingerprint;
mod rules;
mod stored;

pub use diff::{Diff, SlotMove};
pub use stored::{StoredMap, StoredMapError};

/// Number of slots of a cluster, fixed for its life.
pub const SLOTS: u16 = 16_384;

/// More shards than this are taken for a mistake.
pub const MAX_SHARDS: usize = 1_024;

/// Tables of these schemas are never sharded nor reference, whatever the rules say.
pub const RESERVED_SCHEMAS: [&str; 4] = ["pg_catalog", "information_schema", "pg_toast", "gavel"];

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
    /// Ranges of keys pinned to a shard or to the ring; they do not overlap. Single keys win over them.
    pub range_overrides: Vec<KeyRange>,
    /// Rules that give tables their kind, first match wins.
    pub tables: Vec<TableRule>,
    /// Functions placed by an argument.
    pub functions: Vec<FunctionRule>,
}

/// A range of keys and where it lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyRange {
    /// First key of the range; `None`: from the lowest.
    pub from: Option<KeyValue>,
    /// First key after the range; `None`: to the highest.
    pub to: Option<KeyValue>,
    /// Where; `None`: where the slot map says.
    pub shard: Option<ShardId>,
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

/// Something wrong with a topology.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Flaw {
    /// What it is about, e.g. `shards[2].weight`.
    pub key: String,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub cure: String,
}

impl fmt::Display for Flaw {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}; {}", self.key, self.message, self.cure)
    }
}

/// The text is not `host:port`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not host:port")]
pub struct BadAddress(String);

impl FromStr for NodeAddress {
    type Err = BadAddress;

    fn from_str(text: &str) -> Result<Self, BadAddress> {
        let bad = || BadAddress(text.to_owned());
        let (host, port) = text.rsplit_once(':').ok_or_else(bad)?;
        let host = host.strip_prefix('[').and_then(|inner| inner.strip_suffix(']')).unwrap_or(host);
        if host.is_empty() {
            return Err(bad());
        }
        Ok(Self { host: host.to_owned(), port: port.parse().map_err(|_| bad())? })
    }
}

impl fmt::Display for NodeAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.host.contains(':') {
            write!(f, "[{}]:{}", self.host, self.port)
        } else {
            write!(f, "{}:{}", self.host, self.port)
        }
    }
}

impl Shard {
    /// All its nodes, the configured primary first.
    pub fn nodes(&self) -> impl Iterator<Item = &NodeAddress> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }
}

impl Slot {
    /// All slots.
    pub fn all() -> impl Iterator<Item = Self> {
        (0..SLOTS).map(Self)
    }
}

impl KeyRange {
    /// Whether the key is in the range. Keys of a type without a range order are in none.
    #[must_use]
    pub fn contains(&self, key: &KeyValue) -> bool {
        let at_least = |from: &KeyValue| key.compare(from).is_some_and(|order| order.is_ge());
        let below = |to: &KeyValue| key.compare(to).is_some_and(|order| order.is_lt());
        (self.from.is_some() || self.to.is_some())
            && self.from.as_ref().is_none_or(at_least)
            && self.to.as_ref().is_none_or(below)
    }

    /// Whether some key is in both.
    #[must_use]
    pub fn overlaps(&self, other: &Self) -> bool {
        let starts_before_end = |a: &Self, b: &Self| match (&a.from, &b.to) {
            (Some(from), Some(to)) => from.compare(to).is_some_and(|order| order.is_lt()),
            _ => true,
        };
        let same_type = match (self.sample(), other.sample()) {
            (Some(a), Some(b)) => a.compare(b).is_some(),
            _ => false,
        };
        same_type && starts_before_end(self, other) && starts_before_end(other, self)
    }

    fn sample(&self) -> Option<&KeyValue> {
        self.from.as_ref().or(self.to.as_ref())
    }
}

impl Topology {
    /// Epoch 1 of a new cluster: slots as the ring proposes them, no overrides, no rules.
    #[must_use]
    pub fn new(shards: Vec<Shard>) -> Self {
        let slot_map = ring::propose(&ring::weights(&shards), None);
        Self {
            epoch: 1,
            shards,
            slot_map,
            key_overrides: HashMap::new(),
            range_overrides: Vec::new(),
            tables: Vec::new(),
            functions: Vec::new(),
        }
    }

    /// The slot of a key, whatever overrides say.
    #[must_use]
    pub fn slot_of(&self, key: &KeyValue) -> Slot {
        key.slot()
    }

    /// The shard that holds the rows of a key.
    #[must_use]
    pub fn owner(&self, key: &KeyValue) -> ShardId {
        if let Some(shard) = self.key_overrides.get(key) {
            return *shard;
        }
        let range = self.range_overrides.iter().find(|range| range.contains(key));
        range.and_then(|range| range.shard).unwrap_or_else(|| self.owner_of_slot(key.slot()))
    }

    /// The shard that the slot map gives a slot to.
    #[must_use]
    pub fn owner_of_slot(&self, slot: Slot) -> ShardId {
        self.slot_map.get(usize::from(slot.0)).copied().unwrap_or_else(|| self.home())
    }

    /// The home shard: the first. Unsharded tables live there.
    #[must_use]
    pub fn home(&self) -> ShardId {
        ShardId(0)
    }

    /// A shard by its id.
    #[must_use]
    pub fn shard(&self, id: ShardId) -> Option<&Shard> {
        self.shards.get(usize::from(id.0))
    }

    /// The id of a shard by its name.
    #[must_use]
    pub fn shard_named(&self, name: &str) -> Option<ShardId> {
        let index = self.shards.iter().position(|shard| shard.name == name)?;
        u16::try_from(index).ok().map(ShardId)
    }

    /// All shard ids, ascending.
    pub fn shard_ids(&self) -> impl Iterator<Item = ShardId> + use<> {
        (0..u16::try_from(self.shards.len()).unwrap_or(u16::MAX)).map(ShardId)
    }

    /// The kind of a table: the first rule that matches, else unsharded. `has_column` tells its columns.
    #[must_use]
    pub fn table_kind(&self, schema: &str, name: &str, has_column: &dyn Fn(&str) -> bool) -> TableKind {
        if RESERVED_SCHEMAS.contains(&schema) {
            return TableKind::Unsharded;
        }
        let rule = self.tables.iter().find(|rule| rule.matches.matches(schema, name, has_column));
        rule.map_or(TableKind::Unsharded, |rule| rule.kind.clone())
    }

    /// The rule for a function, by its name without schema.
    #[must_use]
    pub fn function(&self, name: &str) -> Option<&FunctionRule> {
        self.functions.iter().find(|rule| rule.name == name)
    }
}

#[cfg(test)]
mod tests;
