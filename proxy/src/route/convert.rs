//! The few conversions of key values that the planner needs, over those of the map.

use router_config::key::{KeyType, KeyValue};
use router_config::topology::{SLOTS, ShardId, Slot, Topology};

/// OID of the pseudo-type of a literal whose type is yet to be inferred.
pub(super) const UNKNOWN_OID: u32 = 705;

/// Why a spelling is not a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Wrong {
    /// PostgreSQL would not accept it.
    Invalid,
    /// Of the type's form, but outside of its range.
    OutOfRange,
    /// What it means depends on settings of the session.
    Ambiguous,
}

/// What the input function of `key_type` makes of `content`.
pub(super) fn from_text(key_type: KeyType, content: &str) -> Result<KeyValue, Wrong> {
    match key_type {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => {
            let digits = content.trim_matches([' ', '\t', '\n', '\r', '\x0b', '\x0c']);
            let value: i64 = digits.parse().map_err(|_| Wrong::Invalid)?;
            let value = KeyValue::Int(value);
            if fits(key_type, &value) { Ok(value) } else { Err(Wrong::OutOfRange) }
        }
        KeyType::Text => Ok(KeyValue::Text(content.to_owned())),
        KeyType::Bpchar => Ok(KeyValue::Text(content.trim_end_matches(' ').to_owned())),
        KeyType::Uuid | KeyType::Numeric | KeyType::Date | KeyType::Timestamptz => Err(Wrong::Ambiguous),
    }
}

/// What the receive function of `key_type` makes of `bytes`. An integer may have any integer type's width: all hash
/// alike, and a parameter of unspecified type is sent in the width that was inferred for it.
pub(super) fn from_binary(key_type: KeyType, bytes: &[u8]) -> Result<KeyValue, Wrong> {
    match key_type {
        KeyType::Int2 | KeyType::Int4 | KeyType::Int8 => match *bytes {
            [a, b] => Ok(KeyValue::Int(i16::from_be_bytes([a, b]).into())),
            [a, b, c, d] => Ok(KeyValue::Int(i32::from_be_bytes([a, b, c, d]).into())),
            [a, b, c, d, e, f, g, h] => Ok(KeyValue::Int(i64::from_be_bytes([a, b, c, d, e, f, g, h]))),
            _ => Err(Wrong::Invalid),
        },
        _ => Err(Wrong::Ambiguous),
    }
}

/// Whether an integer is in the range of an integer type; true of everything else.
pub(super) fn fits(key_type: KeyType, value: &KeyValue) -> bool {
    match (key_type, value) {
        (KeyType::Int2, KeyValue::Int(value)) => i16::try_from(*value).is_ok(),
        (KeyType::Int4, KeyValue::Int(value)) => i32::try_from(*value).is_ok(),
        _ => true,
    }
}

/// The key type that a cast names, in any of its spellings; `None` for all other types and for any modifier.
pub(super) fn type_of_name(name: &str) -> Option<KeyType> {
    Some(match name {
        "int2" | "smallint" => KeyType::Int2,
        "int4" | "int" | "integer" => KeyType::Int4,
        "int8" | "bigint" => KeyType::Int8,
        "text" | "varchar" | "character varying" => KeyType::Text,
        "bpchar" => KeyType::Bpchar,
        "uuid" => KeyType::Uuid,
        "numeric" | "decimal" | "dec" => KeyType::Numeric,
        "date" => KeyType::Date,
        "timestamptz" | "timestamp with time zone" => KeyType::Timestamptz,
        _ => return None,
    })
}

/// The key type with this OID.
pub(super) fn type_of_oid(oid: u32) -> Option<KeyType> {
    Some(match oid {
        21 => KeyType::Int2,
        23 => KeyType::Int4,
        20 => KeyType::Int8,
        25 | 1043 => KeyType::Text,
        1042 => KeyType::Bpchar,
        2950 => KeyType::Uuid,
        1700 => KeyType::Numeric,
        1082 => KeyType::Date,
        1184 => KeyType::Timestamptz,
        _ => return None,
    })
}

/// The type's elements for an array type's OID.
pub(super) fn element_of_oid(oid: u32) -> Option<KeyType> {
    Some(match oid {
        1005 => KeyType::Int2,
        1007 => KeyType::Int4,
        1016 => KeyType::Int8,
        1009 | 1015 => KeyType::Text,
        1014 => KeyType::Bpchar,
        2951 => KeyType::Uuid,
        1231 => KeyType::Numeric,
        1182 => KeyType::Date,
        1185 => KeyType::Timestamptz,
        _ => return None,
    })
}

/// The type's name in messages.
pub(super) fn name_of(key_type: KeyType) -> &'static str {
    match key_type {
        KeyType::Int2 => "smallint",
        KeyType::Int4 => "integer",
        KeyType::Int8 => "bigint",
        KeyType::Text => "text",
        KeyType::Bpchar => "character",
        KeyType::Uuid => "uuid",
        KeyType::Numeric => "numeric",
        KeyType::Date => "date",
        KeyType::Timestamptz => "timestamp with time zone",
    }
}

/// The slot of a key.
pub(super) fn slot_of(_topology: &Topology, key: &KeyValue) -> Slot {
    let hash = match key {
        KeyValue::Int(value) => value.unsigned_abs(),
        KeyValue::Text(text) | KeyValue::Numeric(text) => text.bytes().map(u64::from).sum(),
        KeyValue::Uuid(bytes) => bytes.iter().copied().map(u64::from).sum(),
        KeyValue::Date(days) => days.unsigned_abs().into(),
        KeyValue::Timestamptz(micros) => micros.unsigned_abs(),
    };
    Slot(u16::try_from(hash % u64::from(SLOTS)).unwrap_or(0))
}

/// The shard that owns a key.
pub(super) fn owner(topology: &Topology, key: &KeyValue) -> ShardId {
    if let Some(shard) = topology.key_overrides.get(key) {
        return *shard;
    }
    topology.slot_map.get(usize::from(slot_of(topology, key).0)).copied().unwrap_or(home(topology))
}

/// The home shard.
pub(super) fn home(_topology: &Topology) -> ShardId {
    ShardId(0)
}
