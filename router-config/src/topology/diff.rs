//! What changed between two topologies. Shards are the same when their names are.

use std::collections::BTreeMap;
use std::fmt;

use super::{SLOTS, Slot, Topology};

/// The changes from one topology to another.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Diff {
    /// Names of shards that are new.
    pub added: Vec<String>,
    /// Names of shards that are gone.
    pub removed: Vec<String>,
    /// Names of shards with other nodes or another weight.
    pub changed: Vec<String>,
    /// Slots with another owner, ascending.
    pub moved: Vec<SlotMove>,
    /// Pinned keys or ranges differ, or point to another shard.
    pub overrides: bool,
    /// Rules for tables or functions differ.
    pub rules: bool,
}

/// A slot with another owner.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotMove {
    /// Which.
    pub slot: Slot,
    /// Name of its owner before.
    pub from: String,
    /// Name of its owner after.
    pub to: String,
}

impl Diff {
    /// The changes from `old` to `new`.
    #[must_use]
    pub fn between(old: &Topology, new: &Topology) -> Self {
        let names =
            |topology: &Topology| -> Vec<String> { topology.shards.iter().map(|s| s.name.clone()).collect() };
        let missing = |from: &Topology, others: &Topology| -> Vec<String> {
            names(from).into_iter().filter(|name| others.shard_named(name).is_none()).collect()
        };
        let changed = old.shards.iter().filter(|shard| {
            let other = new.shard_named(&shard.name).and_then(|id| new.shard(id));
            other.is_some_and(|other| other != *shard)
        });
        Self {
            added: missing(new, old),
            removed: missing(old, new),
            changed: changed.map(|shard| shard.name.clone()).collect(),
            moved: moved(old, new),
            overrides: overrides(old) != overrides(new),
            rules: old.tables != new.tables || old.functions != new.functions,
        }
    }

    /// Nothing changed.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        *self == Self::default()
    }
}

fn moved(old: &Topology, new: &Topology) -> Vec<SlotMove> {
    let name = |topology: &Topology, slot| {
        topology.shard(topology.owner_of_slot(slot)).map(|shard| shard.name.clone()).unwrap_or_default()
    };
    let pairs = Slot::all().map(|slot| SlotMove { slot, from: name(old, slot), to: name(new, slot) });
    pairs.filter(|slot_move| slot_move.from != slot_move.to).collect()
}

/// Overrides by what they say, with shards by name.
fn overrides(topology: &Topology) -> BTreeMap<String, String> {
    let name = |id| topology.shard(id).map(|shard| shard.name.clone()).unwrap_or_default();
    let keys = topology.key_overrides.iter().map(|(key, shard)| (format!("{key:?}"), name(*shard)));
    let ranges = topology.range_overrides.iter().map(|range| {
        (format!("{:?}..{:?}", range.from, range.to), range.shard.map_or_else(|| "*ring*".to_owned(), name))
    });
    keys.chain(ranges).collect()
}

impl fmt::Display for Diff {
    /// One line per change, slots counted by pair of shards.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_empty() {
            return writeln!(f, "nothing changes");
        }
        for (names, what) in [(&self.added, "added"), (&self.removed, "removed"), (&self.changed, "changed")]
        {
            if !names.is_empty() {
                writeln!(f, "{what}: {}", names.join(", "))?;
            }
        }
        let mut pairs: BTreeMap<(&str, &str), usize> = BTreeMap::new();
        for SlotMove { from, to, .. } in &self.moved {
            *pairs.entry((from, to)).or_default() += 1;
        }
        for ((from, to), count) in pairs {
            writeln!(f, "{count} of {SLOTS} slots move from {from} to {to}")?;
        }
        for (changed, what) in [(self.overrides, "overrides"), (self.rules, "rules for tables or functions")]
        {
            if changed {
                writeln!(f, "{what} change")?;
            }
        }
        Ok(())
    }
}
