//! Routing hints: `/* gavel: shard=2 */`, `/* gavel: key=42 */`, `SET gavel.shard`, `SET gavel.key`.

use router_config::key::{KeyType, KeyValue};
use router_config::topology::{ShardId, TableKind, Topology};

use super::convert;
use super::plan::SessionView;
use super::refusal::Refusal;

/// What the application asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hint {
    /// The shard named, or the one that owns the key named.
    pub(super) shard: ShardId,
    /// It was a shard that was named.
    pub(super) explicit: bool,
}

/// The hint in force, if any; a shard goes before a key. `key_type` is that of the statement's sharded tables, if known.
pub(super) fn find(
    topology: &Topology,
    session: &SessionView<'_>,
    key_type: Option<KeyType>,
) -> Result<Option<Hint>, Refusal> {
    if let Some(name) = session.hint_shard {
        return Ok(Some(Hint { shard: shard_named(topology, name)?, explicit: true }));
    }
    let Some(spelled) = session.hint_key else { return Ok(None) };
    let key = match key_type.or_else(|| common_key_type(topology)) {
        Some(key_type) => key_of_type(key_type, spelled)?,
        None => key_of_any_type(spelled)?,
    };
    Ok(Some(Hint { shard: topology.owner(&key), explicit: false }))
}

/// A shard by its name, else by its number from 1.
pub(crate) fn shard_named(topology: &Topology, name: &str) -> Result<ShardId, Refusal> {
    let by_number = || topology.shard_ids().nth(name.parse::<usize>().ok()?.checked_sub(1)?);
    topology.shard_named(name).or_else(by_number).ok_or_else(|| {
        let names: Vec<_> = topology.shards.iter().map(|shard| shard.name.as_str()).collect();
        Refusal::bad_hint(
            format!("routing hint: there is no shard \"{name}\""),
            &format!("Shards are {}, or their numbers from 1.", names.join(", ")),
        )
    })
}

/// The key type that all sharded tables of the configuration have, if they all name one and the same.
fn common_key_type(topology: &Topology) -> Option<KeyType> {
    let mut types = topology.tables.iter().filter_map(|rule| match &rule.kind {
        TableKind::Sharded { key_type, .. } => Some(*key_type),
        TableKind::Reference | TableKind::Unsharded => None,
    });
    let first = types.next()??;
    types.all(|other| other == Some(first)).then_some(first)
}

fn key_of_type(key_type: KeyType, spelled: &str) -> Result<KeyValue, Refusal> {
    key_type.parse_text(spelled).map_err(|error| {
        convert::complaint(key_type, &error).unwrap_or_else(|| {
            Refusal::bad_hint(
                format!("routing hint: \"{spelled}\" depends on the session's settings"),
                "Write dates in ISO 8601, times with their offset from UTC.",
            )
        })
    })
}

/// An integer, else text; refused where it could be a value of yet another type.
fn key_of_any_type(spelled: &str) -> Result<KeyValue, Refusal> {
    if let Ok(key) = KeyType::Int8.parse_text(spelled) {
        return Ok(key);
    }
    let others = [KeyType::Uuid, KeyType::Numeric, KeyType::Date, KeyType::Timestamptz];
    if others.iter().any(|&other| other.parse_text(spelled).is_ok()) {
        return Err(Refusal::bad_hint(
            format!("routing hint: the type of the key \"{spelled}\" is not known"),
            "Name key_type in each sharded [[tables]] entry of the configuration, or use a shard hint.",
        ));
    }
    Ok(KeyValue::Text(spelled.to_owned()))
}
