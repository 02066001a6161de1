//! Type OIDs by shard: user-defined types (enums, domains, composites, those of extensions, and the arrays of all of
//! them) have an OID of their own on each shard. Applications are told the home shard's.

use std::collections::HashMap;

use router_config::topology::ShardId;
use tokio_postgres::Client;

/// All user-defined types by qualified name. Row types of tables and their arrays are among them.
const TYPES: &str = "SELECT pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname), t.oid, \
     t.typtype = 'c' OR t.typcategory = 'A' OR t.typtype IN ('r', 'm') \
     FROM pg_catalog.pg_type t JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace \
     WHERE t.oid >= 16384 AND n.nspname !~ '^pg_(toast|temp_)'";

/// One shard's user-defined types: name to OID and whether it is a container (array, record, range), whose binary form
/// has OIDs within.
pub(crate) type ShardTypes = HashMap<String, (u32, bool)>;

/// Translation of type OIDs between the home shard and the others.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct OidMap {
    /// Per shard: its OID to the home shard's, where they differ or the home shard has none (0).
    to_home: Vec<HashMap<u32, u32>>,
    /// Per shard: the home shard's OID to its own, where they differ or it has none (0).
    from_home: Vec<HashMap<u32, u32>>,
    /// OIDs on the home shard of all containers, when some type's OID differs somewhere.
    containers: Vec<u32>,
}

impl OidMap {
    /// Builds the map from the types of each shard, home first.
    pub(crate) fn new(shards: &[ShardTypes]) -> Self {
        let mut map = Self::default();
        let Some(home) = shards.first() else { return map };
        for types in shards {
            let differs = |name: &&String, other: &ShardTypes, oid: u32| {
                other.get(*name).is_none_or(|&(theirs, _)| theirs != oid)
            };
            let to_home = types
                .iter()
                .filter(|&(name, &(oid, _))| differs(&name, home, oid))
                .map(|(name, &(oid, _))| (oid, home.get(name).map_or(0, |&(oid, _)| oid)))
                .collect();
            let from_home: HashMap<u32, u32> = home
                .iter()
                .filter(|&(name, &(oid, _))| differs(&name, types, oid))
                .map(|(name, &(oid, _))| (oid, types.get(name).map_or(0, |&(oid, _)| oid)))
                .collect();
            map.to_home.push(to_home);
            map.from_home.push(from_home);
        }
        // A container may have the same OID everywhere while what it contains has not.
        if !map.is_uniform() {
            map.containers.extend(home.values().filter(|(_, container)| *container).map(|&(oid, _)| oid));
            map.containers.sort_unstable();
        }
        map
    }

    /// Every type has the same OID on every shard: nothing needs to be translated.
    pub fn is_uniform(&self) -> bool {
        self.to_home.iter().chain(&self.from_home).all(HashMap::is_empty)
    }

    /// The home shard's OID for one that `shard` sent (RowDescription, ParameterDescription); `None`: the home shard has
    /// no such type.
    pub fn to_home(&self, shard: ShardId, oid: u32) -> Option<u32> {
        translate(&self.to_home, shard, oid)
    }

    /// The OID on `shard` for one that an application sent (Parse); `None`: the shard has no such type.
    pub fn from_home(&self, shard: ShardId, oid: u32) -> Option<u32> {
        translate(&self.from_home, shard, oid)
    }

    /// Whether values of this type (an OID of the home shard) carry OIDs in binary that differ between shards: refuse
    /// them in binary.
    pub fn binary_differs(&self, oid: u32) -> bool {
        self.containers.binary_search(&oid).is_ok()
    }
}

fn translate(maps: &[HashMap<u32, u32>], shard: ShardId, oid: u32) -> Option<u32> {
    if oid < 16_384 {
        return Some(oid);
    }
    let other = maps.get(usize::from(shard.0)).and_then(|map| map.get(&oid)).copied().unwrap_or(oid);
    (other != 0).then_some(other)
}

/// The user-defined types of one shard.
pub(crate) async fn shard_types(client: &Client) -> Result<ShardTypes, tokio_postgres::Error> {
    let rows = client.query(TYPES, &[]).await?;
    rows.iter().map(|row| Ok((row.try_get(0)?, (row.try_get(1)?, row.try_get(2)?)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn types(list: &[(&str, u32, bool)]) -> ShardTypes {
        list.iter().map(|&(name, oid, container)| (name.to_owned(), (oid, container))).collect()
    }

    #[test]
    fn oids_are_translated_by_name() {
        let home = types(&[
            ("public.mood", 20_000, false),
            ("public._mood", 20_001, true),
            ("public.x", 1 << 20, false),
        ]);
        let other = types(&[("public.mood", 30_000, false), ("public._mood", 30_001, true)]);
        let map = OidMap::new(&[home.clone(), other]);
        let (home_id, other_id) = (ShardId(0), ShardId(1));
        assert!(!map.is_uniform());
        assert_eq!(map.to_home(other_id, 30_000), Some(20_000));
        assert_eq!(map.from_home(other_id, 20_001), Some(30_001));
        assert_eq!(map.from_home(other_id, 1 << 20), None, "the shard lacks it");
        assert_eq!(map.to_home(other_id, 25), Some(25));
        assert_eq!(map.to_home(home_id, 20_000), Some(20_000));
        assert!(map.binary_differs(20_001) && !map.binary_differs(20_000));
        assert!(OidMap::new(&[home.clone(), home]).is_uniform());
    }
}
