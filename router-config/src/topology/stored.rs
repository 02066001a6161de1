//! The slot map as a text that a database can keep.
//!
//! `gavel-slots/1 epoch=7 shards=shard-1,shard-2 slots=0*3,1,0*2,…`: owners slot by slot, as positions in the list of
//! names, runs shortened. Shards are named, so that another order in the configuration file moves no row.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Deserializer, Serialize, Serializer};

use super::{SLOTS, Shard, ShardId, Topology};

const FORMAT: &str = "gavel-slots/1";

/// A slot map and its epoch, independent of the order of shards.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StoredMap {
    /// Epoch of the topology it was taken from.
    pub epoch: u64,
    /// Names of the shards.
    pub names: Vec<String>,
    /// For each slot the position of its owner in `names`.
    pub owners: Vec<u16>,
}

/// Why a stored slot map cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum StoredMapError {
    /// Not a stored slot map of this version.
    #[error("not a stored slot map: {0}")]
    Unreadable(String),
    /// A shard that owns slots is not configured.
    #[error("shard \"{name}\" owns {slots} slots in the stored slot map, but is not configured")]
    UnknownShard {
        /// Its name.
        name: String,
        /// How many slots it owns.
        slots: usize,
    },
}

impl StoredMap {
    /// The slot map of a topology.
    #[must_use]
    pub fn of(topology: &Topology) -> Self {
        Self {
            epoch: topology.epoch,
            names: topology.shards.iter().map(|shard| shard.name.clone()).collect(),
            owners: topology.slot_map.iter().map(|shard| shard.0).collect(),
        }
    }

    /// The same owners as ids of these shards. Shards that the map does not know own nothing.
    pub fn owners_among(&self, shards: &[Shard]) -> Result<Vec<ShardId>, StoredMapError> {
        let id_of = |name: &String| {
            let index = shards.iter().position(|shard| shard.name == *name)?;
            u16::try_from(index).ok().map(ShardId)
        };
        let ids: Vec<Option<ShardId>> = self.names.iter().map(id_of).collect();
        let mut owners = Vec::with_capacity(self.owners.len());
        for owner in &self.owners {
            match ids.get(usize::from(*owner)) {
                Some(Some(id)) => owners.push(*id),
                _ => {
                    let name = self.names.get(usize::from(*owner)).cloned().unwrap_or_default();
                    let slots = self.owners.iter().filter(|other| *other == owner).count();
                    return Err(StoredMapError::UnknownShard { name, slots });
                }
            }
        }
        Ok(owners)
    }
}

impl Topology {
    /// This topology with the stored slot map and its epoch.
    pub fn with_stored(mut self, stored: &StoredMap) -> Result<Self, StoredMapError> {
        self.slot_map = stored.owners_among(&self.shards)?;
        self.epoch = stored.epoch;
        Ok(self)
    }
}

impl fmt::Display for StoredMap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{FORMAT} epoch={} shards={} slots=", self.epoch, self.names.join(","))?;
        for (at, run) in self.owners.chunk_by(|a, b| a == b).enumerate() {
            let comma = if at == 0 { "" } else { "," };
            match run {
                [owner] => write!(f, "{comma}{owner}")?,
                _ => write!(f, "{comma}{}*{}", run[0], run.len())?,
            }
        }
        Ok(())
    }
}

impl FromStr for StoredMap {
    type Err = StoredMapError;

    fn from_str(text: &str) -> Result<Self, StoredMapError> {
        let unreadable = |what: &str| StoredMapError::Unreadable(what.to_owned());
        let mut words = text.split_ascii_whitespace();
        if words.next() != Some(FORMAT) {
            return Err(unreadable("it does not start with gavel-slots/1"));
        }
        let mut field = |name: &str| {
            let word = words.next().and_then(|word| word.strip_prefix(name)?.strip_prefix('='));
            word.ok_or_else(|| unreadable(&format!("{name}= is missing")))
        };
        let epoch = field("epoch")?.parse().map_err(|_| unreadable("the epoch is not a number"))?;
        let names: Vec<String> = field("shards")?.split(',').map(str::to_owned).collect();
        let mut owners = Vec::with_capacity(usize::from(SLOTS));
        for run in field("slots")?.split(',') {
            let (owner, count) = run.split_once('*').unwrap_or((run, "1"));
            let bad = || unreadable(&format!("\"{run}\" is not a run of slots"));
            let owner: u16 = owner.parse().map_err(|_| bad())?;
            let count: u16 = count.parse().map_err(|_| bad())?;
            if usize::from(owner) >= names.len() || owners.len() + usize::from(count) > usize::from(SLOTS) {
                return Err(bad());
            }
            owners.extend(std::iter::repeat_n(owner, count.into()));
        }
        if owners.len() != usize::from(SLOTS) {
            return Err(unreadable(&format!("it has {} slots instead of {SLOTS}", owners.len())));
        }
        Ok(Self { epoch, names, owners })
    }
}

impl Serialize for StoredMap {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StoredMap {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        text.parse().map_err(serde::de::Error::custom)
    }
}
