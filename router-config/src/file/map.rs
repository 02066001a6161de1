//! The sections of the file that become the [`Topology`]: shards, tables, functions, overrides.

use std::collections::HashMap;
use std::ops::Range;

use toml::de::DeValue;

use super::address::{self, Whose};
use super::names;
use super::reader::{Section, closest};
use crate::key::{KeyType, KeyValue};
use crate::topology::{
    FunctionRule, KeyRange, MAX_SHARDS, NodeAddress, Shard, ShardId, TableKind, TableMatch, TableRule,
    Topology,
};

/// Weights above this are taken for a mistake.
const MAX_WEIGHT: f64 = 100.0;

/// What a key type may be, for messages.
const KEY_TYPES: &str =
    "write smallint, integer, bigint, text, varchar, char, uuid, numeric, date or timestamptz";

/// Reads all sections of the map; the root's other keys are left to the caller.
/// `listener`: where the proxy itself listens.
pub(super) fn topology(root: &mut Section<'_, '_>, listener: &str) -> Topology {
    let mut topology = Topology::new(shards(root, listener.parse().ok()));
    topology.tables = tables(root);
    topology.functions = functions(root);
    overrides(root, &mut topology);
    topology
}

fn shards(root: &mut Section<'_, '_>, listener: Option<NodeAddress>) -> Vec<Shard> {
    let sections = root.sections("shards");
    if sections.is_empty()
        && (!root.has("shards") || root.value("shards").is_some_and(|v| v.get_ref().is_array()))
    {
        root.missing("shards", "add [[shards]] with name = \"shard-1\" and primary = \"host:5432\"");
    }
    let mut shards: Vec<Shard> = Vec::new();
    let mut weighted = false;
    let mut last = None;
    for mut section in sections {
        let shard = shard(&mut section, &shards);
        let own = |node: &&NodeAddress| {
            listener.as_ref().is_some_and(|listener| address::is_listener(listener, node))
        };
        if let Some(node) = shard.nodes().find(own) {
            let key = if *node == shard.primary { "primary" } else { "replicas" };
            let message = format!("{node} is where the proxy itself listens (listen.address)");
            section.mistake(key, message, "name the address of a PostgreSQL server");
        }
        weighted |= shard.weight > 0.0;
        shards.push(shard);
        last = Some(section.span());
        section.finish();
    }
    if let Some(span) = last.filter(|_| !weighted) {
        let cure = "give at least one shard a weight above 0";
        root.reader.mistake(&span, "shards", "no shard has a weight: none could own a slot", cure);
    }
    if shards.len() > MAX_SHARDS {
        root.mistake("shards", format!("are more than {MAX_SHARDS}"), "use fewer, larger shards");
        shards.truncate(MAX_SHARDS);
    }
    shards
}

fn shard(section: &mut Section<'_, '_>, earlier: &[Shard]) -> Shard {
    let name = section.name("name").unwrap_or_default();
    if !section.has("name") {
        section.missing("name", "add name = \"shard-1\"");
    } else if !name.chars().all(|c| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.')) {
        section.mistake("name", format!("\"{name}\" is no name"), "use letters, digits, -, _ and . only");
    } else if !name.is_empty() && earlier.iter().any(|shard| shard.name == name) {
        section.mistake(
            "name",
            format!("\"{name}\" is the name of an earlier shard"),
            "give each shard its own name",
        );
    }
    let primary = section.address("primary", Whose::Node);
    if !section.has("primary") {
        section.missing("primary", "add primary = \"host:5432\"");
    }
    if let Some(primary) = &primary {
        check_node(section, "primary", &section.span_of("primary"), primary, earlier);
    }
    let mut replicas = Vec::new();
    for (text, span) in section.strings("replicas").unwrap_or_default() {
        let Some(replica) = section.address_in("replicas", Whose::Node, (&text, &span)) else { continue };
        let key = section.path_of("replicas");
        if Some(&replica) == primary.as_ref() {
            section.reader.mistake(&span, &key, format!("{replica} is the primary"), "name another node");
        } else if replicas.contains(&replica) {
            section.reader.mistake(&span, &key, format!("{replica} is listed twice"), "remove one of them");
        } else {
            check_node(section, "replicas", &span, &replica, earlier);
        }
        replicas.push(replica);
    }
    let primary = primary.unwrap_or(NodeAddress { host: String::new(), port: 0 });
    // The ring would look for points of the second of two shards in vain, slot by slot.
    let repeated = earlier.iter().any(|shard| shard.name == name);
    let weight = weight(section);
    Shard { name, primary, replicas, weight: if repeated { 0.0 } else { weight } }
}

/// A node belongs to one shard.
fn check_node(
    section: &Section<'_, '_>,
    key: &str,
    span: &Range<usize>,
    node: &NodeAddress,
    earlier: &[Shard],
) {
    if let Some(other) = earlier.iter().find(|shard| shard.nodes().any(|other| other == node)) {
        let message = format!("{node} is a node of {} already", other.name);
        section.reader.mistake(
            span,
            &section.path_of(key),
            message,
            "name another node: shards share nothing",
        );
    }
}

fn weight(section: &mut Section<'_, '_>) -> f64 {
    let Some(found) = section.value("weight") else { return 1.0 };
    let number = match found.get_ref() {
        DeValue::Integer(number) => number.as_str().parse().ok(),
        DeValue::Float(number) => number.as_str().parse::<f64>().ok(),
        _ => None,
    };
    match number {
        Some(weight) if (0.0..=MAX_WEIGHT).contains(&weight) => weight,
        _ => {
            let cure = format!("write a number from 0 (owns no slots) to {MAX_WEIGHT}; 1.0 is usual");
            section.mistake("weight", "is no weight", cure);
            1.0
        }
    }
}

#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Sharded,
    Reference,
    Unsharded,
}

fn tables(root: &mut Section<'_, '_>) -> Vec<TableRule> {
    // With their numbers in the file, which those that cannot be read have too.
    let mut rules: Vec<(usize, TableRule)> = Vec::new();
    for (index, mut section) in root.sections("tables").into_iter().enumerate() {
        if let Some(rule) = table(&mut section) {
            if let Some((number, _)) = rules.iter().find(|(_, earlier)| earlier.matches.covers(&rule.matches))
            {
                let message = format!("never applies: tables[{number}] matches the same tables before it");
                let cure = "remove it, or move it up: the first match wins";
                section.reader.mistake(&section.span(), &format!("tables[{}]", index + 1), message, cure);
            }
            rules.push((index + 1, rule));
        }
        section.finish();
    }
    rules.into_iter().map(|(_, rule)| rule).collect()
}

fn table(section: &mut Section<'_, '_>) -> Option<TableRule> {
    let (name, pattern, column) = (section.name("name"), section.name("pattern"), section.name("column"));
    let given: Vec<&str> = ["name", "pattern", "column"].into_iter().filter(|key| section.has(key)).collect();
    let cure = "write exactly one of name = \"TABLE\", pattern = \"prefix_*\", column = \"COLUMN\"";
    match given[..] {
        [] => section.missing("name", cure),
        [_, second, ..] => section.mistake(second, format!("is given besides {}", given[0]), cure),
        [_] => {}
    }
    let faults = [
        ("name", name.as_deref().and_then(names::table_fault)),
        ("pattern", pattern.as_deref().and_then(names::pattern_fault)),
    ];
    for (key, fault) in faults {
        if let Some((message, cure)) = fault {
            section.mistake(key, message, cure);
        }
    }
    let kinds = [("sharded", Kind::Sharded), ("reference", Kind::Reference), ("unsharded", Kind::Unsharded)];
    let kind = section.choice("kind", &kinds);
    if !section.has("kind") {
        section.missing("kind", "add kind = \"sharded\", \"reference\" or \"unsharded\"");
    }
    let key = section.name("key").or_else(|| column.clone());
    let key_type = key_type(section);
    if kind.is_some_and(|kind| kind != Kind::Sharded) {
        for word in ["key", "key_type"].into_iter().filter(|word| section.has(word)) {
            section.mistake(
                word,
                "is given, but the table is not sharded",
                "remove it or write kind = \"sharded\"",
            );
        }
    }
    let matches = match (name, pattern, column) {
        (Some(name), _, _) => TableMatch::Name(name),
        (_, Some(pattern), _) => TableMatch::Pattern(pattern),
        (_, _, Some(column)) => TableMatch::HasColumn(column),
        _ => return None,
    };
    let kind = match kind? {
        Kind::Reference => TableKind::Reference,
        Kind::Unsharded => TableKind::Unsharded,
        Kind::Sharded if key.is_none() && section.has("key") => return None,
        Kind::Sharded => {
            let Some(key) = key else {
                section.missing("key", "add key = \"COLUMN\": rows are placed by it");
                return None;
            };
            TableKind::Sharded { key, key_type }
        }
    };
    Some(TableRule { matches, kind })
}

fn key_type(section: &mut Section<'_, '_>) -> Option<KeyType> {
    let name = section.name("key_type")?;
    let key_type = KeyType::from_type_name(&name);
    if key_type.is_none() {
        section.mistake("key_type", format!("\"{name}\" cannot be the type of a shard key"), KEY_TYPES);
    }
    key_type
}

fn functions(root: &mut Section<'_, '_>) -> Vec<FunctionRule> {
    let mut rules: Vec<FunctionRule> = Vec::new();
    for mut section in root.sections("functions") {
        let name = section.name("name");
        if !section.has("name") {
            section.missing("name", "add name = \"FUNCTION\", without schema");
        }
        let key_argument = section.number("key_argument", 1..=100).and_then(|n| u16::try_from(n).ok());
        if let Some((message, cure)) = name.as_deref().and_then(names::function_fault) {
            section.mistake("name", message, cure);
        }
        if let Some(name) = name {
            if rules.iter().any(|rule| rule.name == name) {
                section.mistake("name", format!("\"{name}\" has an entry already"), "remove one of them");
            }
            rules.push(FunctionRule { name, key_argument });
        }
        section.finish();
    }
    rules
}

fn overrides(root: &mut Section<'_, '_>, topology: &mut Topology) {
    let mut keys: HashMap<KeyValue, ShardId> = HashMap::new();
    let mut ranges: Vec<KeyRange> = Vec::new();
    for mut section in root.sections("overrides") {
        let key_type = override_type(&mut section, &topology.tables);
        let key = override_key(&mut section, "key", key_type);
        let from = override_key(&mut section, "key_from", key_type);
        let to = override_key(&mut section, "key_to", key_type);
        let place = override_place(&mut section, topology);
        match (section.has("key"), section.has("key_from") || section.has("key_to")) {
            (false, false) => section.missing("key", "add key = \"42\", or key_from and key_to for a range"),
            (true, true) => section.mistake("key", "is given besides a range", "make them two entries"),
            (true, false) => {
                if let (Some(key), Some(place)) = (key, place) {
                    let Some(shard) = place else {
                        section.mistake(
                            "ring",
                            "is for ranges",
                            "remove the entry: keys live on the ring by default",
                        );
                        section.finish();
                        continue;
                    };
                    if keys.insert(key, shard).is_some() {
                        section.mistake("key", "has an override already", "remove one of them");
                    }
                }
            }
            (false, true) => {
                if let (Some(shard), true) = (place, from.is_some() || to.is_some()) {
                    let range = KeyRange { from, to, shard };
                    check_range(&section, &range, &ranges, key_type);
                    ranges.push(range);
                }
            }
        }
        section.finish();
    }
    topology.key_overrides = keys;
    topology.range_overrides = ranges;
}

/// The type named, else the one that the table rules name, else bigint for a key without quotes.
fn override_type(section: &mut Section<'_, '_>, tables: &[TableRule]) -> Option<KeyType> {
    let sharded = tables.iter().filter_map(|rule| match &rule.kind {
        TableKind::Sharded { key_type, .. } => Some(*key_type),
        TableKind::Reference | TableKind::Unsharded => None,
    });
    let sharded: Vec<Option<KeyType>> = sharded.collect();
    let named: Vec<KeyType> = sharded.iter().copied().flatten().collect();
    if section.has("key_type") {
        let own = key_type(section)?;
        let all_named = !named.is_empty() && named.len() == sharded.len();
        if all_named && !named.iter().any(|other| other.hashes_like(own)) {
            section.mistake(
                "key_type",
                format!("no sharded table has a {own} key"),
                "write the type of the keys",
            );
        }
        return Some(own);
    }
    section.value("key_type");
    if let [first, rest @ ..] = &named[..]
        && rest.iter().all(|other| other.hashes_like(*first))
    {
        return Some(*first);
    }
    let whole = |key: &'static str, section: &mut Section<'_, '_>| {
        section.value(key).is_none_or(|value| value.get_ref().is_integer())
    };
    if ["key", "key_from", "key_to"].into_iter().all(|key| whole(key, section)) {
        return Some(KeyType::Int8);
    }
    section.missing("key_type", "add key_type = \"bigint\", or whatever the key column's type is");
    None
}

fn override_key(
    section: &mut Section<'_, '_>,
    key: &'static str,
    key_type: Option<KeyType>,
) -> Option<KeyValue> {
    let text = match section.value(key)?.get_ref() {
        DeValue::Integer(number) if number.radix() == 10 => number.as_str().to_owned(),
        _ => section.string(key)?,
    };
    match key_type?.parse_text(&text) {
        Ok(value) => Some(value),
        Err(error) => {
            section.mistake(
                key,
                error.to_string(),
                "write a value of the key's type, in ISO form with a zone for times",
            );
            None
        }
    }
}

/// The shard, `Some(None)` for the ring, or a mistake.
fn override_place(section: &mut Section<'_, '_>, topology: &Topology) -> Option<Option<ShardId>> {
    let name = section.name("shard");
    let mut ring = false;
    section.flag("ring", &mut ring);
    match (name, ring) {
        (Some(_), true) => {
            section.mistake("ring", "is given besides shard", "keep one of them");
            None
        }
        (None, true) => Some(None),
        (None, false) => {
            if !section.has("shard") {
                section.missing("shard", "add shard = \"NAME\", or ring = true");
            }
            None
        }
        (Some(name), false) => {
            let found = topology.shard_named(&name);
            if found.is_none() {
                let names: Vec<&str> = topology.shards.iter().map(|shard| shard.name.as_str()).collect();
                let cure = match closest(&name, &names) {
                    Some(close) => format!("did you mean \"{close}\"?"),
                    None => format!("shards are: {}", names.join(", ")),
                };
                section.mistake("shard", format!("there is no shard \"{name}\""), cure);
            }
            found.map(Some)
        }
    }
}

fn check_range(section: &Section<'_, '_>, range: &KeyRange, earlier: &[KeyRange], key_type: Option<KeyType>) {
    let key = if section.has("key_from") { "key_from" } else { "key_to" };
    if let Some(key_type) = key_type.filter(|key_type| !key_type.has_ranges()) {
        let cure = "name single keys: ranges are for smallint, integer, bigint, uuid, date and timestamptz";
        section.mistake(key, format!("the order of {key_type} depends on more than the value"), cure);
    } else if let (Some(from), Some(to)) = (&range.from, &range.to)
        && from.compare(to).is_some_and(|order| order.is_ge())
    {
        section.mistake(
            "key_to",
            "is not above key_from: the range is empty",
            "key_to is the first key after the range",
        );
    } else if earlier.iter().any(|other| other.overlaps(range)) {
        section.mistake(
            key,
            "the range overlaps an earlier one",
            "make the ranges meet: key_to is not part of its range",
        );
    }
}
