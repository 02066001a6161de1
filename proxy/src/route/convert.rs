//! Types by their names and OIDs, and complaints about values, as the planner needs them.

use router_config::key::{KeyError, KeyType, KeyValue};

use super::refusal::Refusal;

/// OID of the pseudo-type of a literal whose type is yet to be inferred.
pub(super) const UNKNOWN_OID: u32 = 705;

/// Whether an integer is in the range of an integer type; true of everything else.
pub(super) fn fits(key_type: KeyType, value: &KeyValue) -> bool {
    match (key_type, value) {
        (KeyType::Int2, KeyValue::Int(value)) => i16::try_from(*value).is_ok(),
        (KeyType::Int4, KeyValue::Int(value)) => i32::try_from(*value).is_ok(),
        _ => true,
    }
}

/// Why a value that is assigned to a key column may not be what is stored there.
pub(super) const CHANGED_BY_STORING: &str =
    "a key that ends with a blank, or has a fraction, may be changed by the length or scale of its column";

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

/// PostgreSQL's complaint about a value, if it has one: `None` where it would accept it and only we cannot tell.
pub(super) fn complaint(key_type: KeyType, error: &KeyError) -> Option<Refusal> {
    let sqlstate = match (error, key_type) {
        (KeyError::Invalid { .. }, KeyType::Date | KeyType::Timestamptz) => "22007",
        _ => error.sqlstate()?,
    };
    Some(Refusal::new(sqlstate, error.to_string()))
}
