//! The checker: what must hold of a topology before it is used, wherever it came from.

use std::collections::HashSet;

use super::{Flaw, MAX_SHARDS, SLOTS, ShardId, Topology};

impl Topology {
    /// Everything wrong with it; empty for a topology that may be used.
    #[must_use]
    pub fn check(&self) -> Vec<Flaw> {
        let mut flaws = Vec::new();
        self.check_shards(&mut flaws);
        self.check_slots(&mut flaws);
        self.check_overrides(&mut flaws);
        flaws
    }

    fn check_shards(&self, flaws: &mut Vec<Flaw>) {
        if self.shards.is_empty() {
            flaws.push(flaw("shards", "there is none", "configure at least one"));
        }
        if self.shards.len() > MAX_SHARDS {
            flaws.push(flaw("shards", format!("are more than {MAX_SHARDS}"), "use fewer, larger shards"));
        }
        let mut names = HashSet::new();
        let mut nodes = HashSet::new();
        for (index, shard) in self.shards.iter().enumerate() {
            let key = format!("shards[{}]", index + 1);
            if !names.insert(&shard.name) {
                flaws.push(flaw(format!("{key}.name"), format!("\"{}\" is taken", shard.name), "rename it"));
            }
            if !shard.weight.is_finite() || shard.weight < 0.0 {
                flaws.push(flaw(
                    format!("{key}.weight"),
                    format!("{} is no weight", shard.weight),
                    "write 1.0",
                ));
            }
            for node in shard.nodes() {
                if !nodes.insert(node) {
                    flaws.push(flaw(&key, format!("{node} is named twice"), "name each node once"));
                }
            }
        }
    }

    fn check_slots(&self, flaws: &mut Vec<Flaw>) {
        if self.slot_map.len() != usize::from(SLOTS) {
            let message = format!("has {} slots instead of {SLOTS}", self.slot_map.len());
            flaws.push(flaw("slot_map", message, "store a whole slot map"));
        }
        if let Some(slot) = self.slot_map.iter().position(|owner| !self.has(*owner)) {
            let message = format!("slot {slot} belongs to a shard that does not exist");
            flaws.push(flaw("slot_map", message, "give it to a configured shard"));
        }
    }

    fn check_overrides(&self, flaws: &mut Vec<Flaw>) {
        let owners =
            self.key_overrides.values().chain(self.range_overrides.iter().filter_map(|r| r.shard.as_ref()));
        if owners.filter(|owner| !self.has(**owner)).count() > 0 {
            flaws.push(flaw("overrides", "one names a shard that does not exist", "name a configured shard"));
        }
        for (index, range) in self.range_overrides.iter().enumerate() {
            if self.range_overrides[..index].iter().any(|earlier| earlier.overlaps(range)) {
                flaws.push(flaw("overrides", "two ranges overlap", "make the ranges meet"));
            }
        }
    }

    fn has(&self, shard: ShardId) -> bool {
        usize::from(shard.0) < self.shards.len()
    }
}

fn flaw(key: impl Into<String>, message: impl Into<String>, cure: impl Into<String>) -> Flaw {
    Flaw { key: key.into(), message: message.into(), cure: cure.into() }
}
