//! A number over everything that places rows, by which proxies of one cluster see that they place alike.
//!
//! Invariants: it depends on what the configuration and the slot map say alone, never on the process or the build; shards
//! count by name, so that another order of them changes nothing, but for the home shard. Nodes and weights are not in it:
//! proxies may reach a node by other names, and a changed weight moves no row.

use super::{ShardId, TableKind, TableMatch, Topology};
use crate::hash;
use crate::key::KeyValue;

impl Topology {
    /// The fingerprint of the slot map, the overrides and the rules for tables and functions: 16 hexadecimal digits.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let mut says = Says(Vec::new());
        says.word(&self.name(self.home()));
        for run in self.slot_map.chunk_by(|a, b| a == b) {
            says.words(&[&self.name(run[0]), &run.len().to_string()]);
        }
        self.say_overrides(&mut says);
        self.say_rules(&mut says);
        format!("{:016x}", hash::bytes(&says.0, 0))
    }

    fn name(&self, shard: ShardId) -> String {
        self.shard(shard).map(|shard| shard.name.clone()).unwrap_or_default()
    }

    /// Neither keys nor ranges have an order: no two of them are about the same key.
    fn say_overrides(&self, says: &mut Says) {
        let keys =
            self.key_overrides.iter().map(|(key, shard)| ["key".into(), spelled(key), self.name(*shard)]);
        let end = |key: &Option<KeyValue>| key.as_ref().map_or_else(|| "open".to_owned(), spelled);
        let ranges = self.range_overrides.iter().map(|range| {
            let owner = range
                .shard
                .map_or_else(|| "the ring".to_owned(), |shard| format!("shard {}", self.name(shard)));
            [end(&range.from), end(&range.to), owner]
        });
        let mut all: Vec<[String; 3]> = keys.chain(ranges).collect();
        all.sort_unstable();
        all.iter().for_each(|words| says.words(&words.each_ref().map(String::as_str)));
    }

    /// Rules for tables in their order: the first that matches counts. `key_type` checks a column and places nothing.
    fn say_rules(&self, says: &mut Says) {
        for rule in &self.tables {
            match &rule.matches {
                TableMatch::Name(name) => says.words(&["name", name]),
                TableMatch::Pattern(pattern) => says.words(&["pattern", pattern]),
                TableMatch::HasColumn(column) => says.words(&["has_column", column]),
            }
            match &rule.kind {
                TableKind::Sharded { key, .. } => says.words(&["sharded", key]),
                TableKind::Reference => says.words(&["reference"]),
                TableKind::Unsharded => says.words(&["unsharded"]),
            }
        }
        let mut functions: Vec<_> = self.functions.iter().collect();
        functions.sort_by_key(|function| &function.name);
        for function in functions {
            let argument = function.key_argument.map_or_else(|| "none".to_owned(), |at| at.to_string());
            says.words(&["function", &function.name, &argument]);
        }
    }
}

/// Lists of words, told apart whatever is in them.
struct Says(Vec<u8>);

impl Says {
    fn words(&mut self, words: &[&str]) {
        self.0.extend_from_slice(&(words.len() as u64).to_le_bytes());
        words.iter().for_each(|word| self.word(word));
    }

    fn word(&mut self, word: &str) {
        self.0.extend_from_slice(&(word.len() as u64).to_le_bytes());
        self.0.extend_from_slice(word.as_bytes());
    }
}

/// A key with its type: the text 7 is not the number.
fn spelled(key: &KeyValue) -> String {
    let kind = match key {
        KeyValue::Int(_) => "int",
        KeyValue::Text(_) => "text",
        KeyValue::Uuid(_) => "uuid",
        KeyValue::Numeric(_) => "numeric",
        KeyValue::Date(_) => "date",
        KeyValue::Timestamptz(_) => "timestamptz",
    };
    format!("{kind} {key}")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::topology::{FunctionRule, KeyRange, NodeAddress, Shard, TableRule};

    /// A change and its name.
    type Change = (&'static str, fn(&mut Topology));

    fn cluster() -> Topology {
        let shard = |name: &str| Shard {
            name: name.to_owned(),
            primary: NodeAddress { host: name.to_owned(), port: 5432 },
            replicas: Vec::new(),
            weight: 1.0,
        };
        let mut topology = Topology::new(["a", "b", "c"].map(shard).to_vec());
        topology.slot_map = (0..topology.slot_map.len()).map(|slot| ShardId((slot % 3) as u16)).collect();
        topology.key_overrides = (1..9).map(|key| (KeyValue::Int(key), ShardId(1))).collect();
        let range =
            |from, to| KeyRange { from: Some(KeyValue::Int(from)), to: Some(KeyValue::Int(to)), shard: None };
        topology.range_overrides = vec![range(100, 200), range(300, 400)];
        let rule = |name: &str, kind| TableRule { matches: TableMatch::Name(name.to_owned()), kind };
        let sharded = TableKind::Sharded { key: "id".to_owned(), key_type: None };
        topology.tables = vec![rule("bids", sharded), rule("users", TableKind::Reference)];
        topology.functions =
            ["f", "g"].map(|name| FunctionRule { name: name.to_owned(), key_argument: Some(1) }).to_vec();
        topology
    }

    #[test]
    fn it_is_the_same_in_every_process_and_build() {
        assert_eq!(cluster().fingerprint(), "81911c0c9b2c8156");
    }

    #[test]
    fn what_places_nothing_changes_nothing() {
        let base = cluster().fingerprint();
        let same: [Change; 6] = [
            ("epoch", |t| t.epoch = 9),
            ("address", |t| t.shards[0].primary.host = "elsewhere".to_owned()),
            ("weight", |t| t.shards[1].weight = 2.0),
            ("order of ranges and functions", |t| {
                t.range_overrides.reverse();
                t.functions.reverse();
            }),
            ("order of the other shards", |t| {
                t.shards.swap(1, 2);
                let other = |id: &mut ShardId| id.0 = [0, 2, 1][usize::from(id.0)];
                t.slot_map.iter_mut().for_each(other);
                t.key_overrides.values_mut().for_each(other);
            }),
            ("key_type", |t| {
                let key_type = Some(crate::key::KeyType::Int8);
                t.tables[0].kind = TableKind::Sharded { key: "id".to_owned(), key_type };
            }),
        ];
        for (what, change) in same {
            let mut topology = cluster();
            change(&mut topology);
            assert_eq!(topology.fingerprint(), base, "{what}");
        }
    }

    #[test]
    fn what_places_rows_changes_it() {
        let base = cluster().fingerprint();
        let differing: [Change; 11] = [
            ("home", |t| t.shards.swap(0, 1)),
            ("a slot", |t| t.slot_map[7] = ShardId(2)),
            ("a key more", |t| t.key_overrides.extend([(KeyValue::Int(777_777), ShardId(0))])),
            ("a key elsewhere", |t| t.key_overrides.extend([(KeyValue::Int(1), ShardId(0))])),
            ("a key of another type", |t| {
                t.key_overrides.remove(&KeyValue::Int(1));
                t.key_overrides.insert(KeyValue::Text("1".to_owned()), ShardId(1));
            }),
            ("a range's end", |t| t.range_overrides[0].to = None),
            ("a range's owner", |t| t.range_overrides[0].shard = Some(ShardId(0))),
            ("order of tables", |t| t.tables.reverse()),
            ("a table's kind", |t| t.tables[1].kind = TableKind::Unsharded),
            ("a table's match", |t| t.tables[1].matches = TableMatch::Pattern("users".to_owned())),
            ("a function's argument", |t| t.functions[0].key_argument = None),
        ];
        for (what, change) in differing {
            let mut topology = cluster();
            change(&mut topology);
            assert_ne!(topology.fingerprint(), base, "{what}");
        }
    }
}
