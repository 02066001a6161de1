//! OIDs by shard: types and tables of the user's (enums, domains, composites, those of extensions, and the arrays of all
//! of them) have an OID of their own on each shard. Applications are told the home shard's.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use router_config::topology::ShardId;

use crate::backend::oids::{OidCell, ShardOids, is_record};

/// What the binary form of a type's values has of OIDs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct TypeShape {
    /// The type's own OID.
    pub(crate) oid: u32,
    /// Types whose OIDs stand in its values: elements of an array, columns of a composite.
    pub(crate) names: Vec<u32>,
    /// Types whose values it has without naming them: the base of a domain, the bounds of a range.
    pub(crate) holds: Vec<u32>,
}

/// One shard's objects by qualified name.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct ShardObjects {
    /// User-defined types. Row types of tables and their arrays are among them.
    pub(crate) types: HashMap<String, TypeShape>,
    /// OIDs of tables, views and the like.
    pub(crate) tables: HashMap<String, u32>,
}

/// Translation of OIDs between the home shard and the others.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct OidMap {
    shards: Vec<Option<Arc<ShardOids>>>,
    /// OIDs on the home shard of all types that are a container on some shard.
    containers: HashSet<u32>,
}

impl OidMap {
    /// Builds the map from the objects of each shard, home first; `None` for a shard that could not be asked.
    pub(crate) fn new(shards: &[Option<ShardObjects>]) -> Self {
        let Some(Some(home)) = shards.first() else { return Self::default() };
        let mut containers = HashSet::new();
        let one = |shard: &Option<ShardObjects>| {
            let Some(there) = shard else {
                return Some(Arc::new(ShardOids { unread: true, ..ShardOids::default() }));
            };
            let oids = translation(home, there);
            let at_home = |oid: &u32| oids.types_to_home.get(oid).copied().unwrap_or(*oid);
            containers.extend(oids.containers.iter().map(at_home));
            (!oids.is_empty()).then(|| Arc::new(oids))
        };
        let shards = shards.iter().map(one).collect();
        Self { shards, containers }
    }

    /// Everything has the same OID on every shard: nothing needs to be translated.
    pub fn is_uniform(&self) -> bool {
        self.shards.iter().all(Option::is_none)
    }

    /// The translation for a shard; `None` where there is nothing to translate.
    pub fn shard(&self, shard: ShardId) -> Option<&Arc<ShardOids>> {
        self.shards.get(usize::from(shard.0))?.as_ref()
    }

    /// Whether some shard's types could not be read.
    pub fn is_incomplete(&self) -> bool {
        self.shards.iter().flatten().any(|oids| oids.unread)
    }

    /// Whether values of this type (an OID of the home shard) carry OIDs in binary that differ between shards.
    pub fn binary_differs(&self, oid: u32) -> bool {
        self.containers.contains(&oid) || (is_record(oid) && !self.is_uniform())
    }

    /// Puts the translations into the cells that conns look at.
    pub(crate) fn publish(&self, cells: &[OidCell]) {
        for (cell, oids) in cells.iter().zip(&self.shards) {
            cell.store(oids.clone());
        }
    }
}

/// From the OIDs of one shard to those of the home shard.
pub(crate) fn translation(home: &ShardObjects, there: &ShardObjects) -> ShardOids {
    let mut oids = ShardOids::default();
    for (name, shape) in &there.types {
        let at_home = home.types.get(name).map_or(0, |shape| shape.oid);
        if at_home != shape.oid {
            oids.types_to_home.insert(shape.oid, at_home);
        }
    }
    for (name, shape) in &home.types {
        let own = there.types.get(name).map_or(0, |shape| shape.oid);
        if own != shape.oid {
            oids.types_from_home.insert(shape.oid, own);
        }
    }
    for (name, &own) in &there.tables {
        let at_home = home.tables.get(name).copied().unwrap_or(0);
        if at_home != own {
            oids.tables_to_home.insert(own, at_home);
        }
    }
    oids.containers = containers(there, &oids.types_to_home);
    oids
}

/// Types that have an OID in their values which differs, at any depth.
fn containers(there: &ShardObjects, differing: &HashMap<u32, u32>) -> HashSet<u32> {
    let mut found: HashSet<u32> = HashSet::new();
    loop {
        let before = found.len();
        for shape in there.types.values() {
            let named = shape.names.iter().any(|oid| differing.contains_key(oid) || found.contains(oid));
            if named || shape.holds.iter().any(|oid| found.contains(oid)) {
                found.insert(shape.oid);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn objects(base: u32, extra: bool) -> ShardObjects {
        let shape = |oid: u32, names: &[u32], holds: &[u32]| TypeShape {
            oid,
            names: names.to_vec(),
            holds: holds.to_vec(),
        };
        let mut types = HashMap::from([
            (String::from("public.mood"), shape(base, &[], &[])),
            (String::from("public._mood"), shape(base + 1, &[base], &[])),
            (String::from("public.pair"), shape(base + 2, &[23, base + 1], &[])),
            (String::from("public.moods"), shape(base + 3, &[], &[base + 1])),
            (String::from("public.feeling"), shape(base + 4, &[], &[base])),
            (String::from("public.plain"), shape(base + 5, &[23], &[])),
        ]);
        if extra {
            types.insert(String::from("public.x"), shape(1 << 20, &[], &[]));
        }
        ShardObjects { types, tables: HashMap::from([(String::from("public.bids"), base + 9)]) }
    }

    #[test]
    fn oids_are_translated_by_name() {
        let map = OidMap::new(&[Some(objects(20_000, true)), Some(objects(30_000, false)), None]);
        assert!(!map.is_uniform() && map.is_incomplete());
        assert_eq!(map.shard(ShardId(0)), None);
        let other = map.shard(ShardId(1)).expect("it differs");
        assert_eq!(other.types_to_home.get(&30_000), Some(&20_000));
        assert_eq!(other.types_from_home.get(&20_001), Some(&30_001));
        assert_eq!(other.types_from_home.get(&(1 << 20)), Some(&0), "the shard lacks it");
        assert_eq!(other.tables_to_home.get(&30_009), Some(&20_009));
        // Arrays of it, composites of those, domains over arrays; not the type itself, a domain over it, or others.
        assert_eq!(other.containers, HashSet::from([30_001, 30_002, 30_003]));
        assert!(map.binary_differs(20_001) && map.binary_differs(2249) && !map.binary_differs(20_000));
        assert!(map.shard(ShardId(2)).expect("not known").unread);
        let same = OidMap::new(&[Some(objects(20_000, true)), Some(objects(20_000, true))]);
        assert!(same.is_uniform() && !same.binary_differs(2249));
    }
}
