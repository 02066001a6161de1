//! From a term that stands for a key to the key itself.
//!
//! Invariants: a key is returned only when PostgreSQL, holding all rows, would compare the column with (or assign to
//! it) exactly this value: every conversion on the way is exact and lossless, and follows the types that PostgreSQL
//! would infer. What depends on settings of the session, rounds, or is of an unknown type is `Unknown`, which pins
//! nothing.
//! Source: PostgreSQL 15 documentation, chapter 10 "Type Conversion"; `src/backend/parser/parse_param.c`.

use std::borrow::Cow;

use router_config::key::{KeyType, KeyValue};
use smallvec::SmallVec;

use super::refusal::Refusal;
use super::values::{ParamValue, Values};
use super::{array, convert};
use crate::sql::facts::{KeyTerm, Pin, ValueRef};
use crate::sql::lexer::Kind;
use crate::sql::normalise::Literal;

/// What a term turned out to be.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum KeyOutcome {
    /// This key.
    Key(KeyValue),
    /// A value that no row's key can equal.
    NoRow,
    /// NULL: no row's key equals it; as a new row's key it is an error.
    Null,
    /// Cannot be told; says why.
    Unknown(&'static str),
}

/// What PostgreSQL does with the value.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// `column = value`.
    Compare,
    /// The value becomes the column's, whose type has this modifier, if that is known.
    Assign(Option<i32>),
}

/// Keys that a group of tables is pinned to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Found {
    /// These; none at all when no row can match.
    Keys {
        /// In the order of the terms.
        keys: SmallVec<[KeyValue; 1]>,
        /// Some of the values match no row, whatever its key.
        excluded: bool,
    },
    /// Any key may occur; says why if there was a condition that could not be used.
    Any(Option<&'static str>),
}

impl Found {
    /// No row can match.
    pub(super) fn none() -> Self {
        Self::Keys { keys: SmallVec::new(), excluded: true }
    }
}

const TYPES_DIFFER: &str = "the value is not of the key column's type";

/// The keys that `pin` allows. [`Pin::Insert`] is not a condition: it counts as any.
pub fn found(pin: &Pin, key_type: KeyType, values: &Values<'_>) -> Result<Found, Refusal> {
    match pin {
        Pin::Any | Pin::Insert => Ok(Found::Any(None)),
        Pin::Never => Ok(Found::none()),
        Pin::Array(term) => array::found(term, key_type, values),
        Pin::Keys(terms) => {
            let mut keys = SmallVec::new();
            let mut excluded = false;
            for term in terms {
                let outcome = match key_of(term, key_type, values, Usage::Compare) {
                    Err(_) if terms.len() > 1 => in_list(term, key_type, values)?,
                    outcome => outcome?,
                };
                match outcome {
                    KeyOutcome::Key(key) => keys.push(key),
                    KeyOutcome::NoRow | KeyOutcome::Null => excluded = true,
                    KeyOutcome::Unknown(why) => return Ok(Found::Any(Some(why))),
                }
            }
            Ok(Found::Keys { keys, excluded })
        }
    }
}

/// A value of a list that is none of the key column's type. PostgreSQL reads a string of `IN (…)` as the type that all the
/// values and the column have in common, which may be a wider one: the shards say whether it is an error.
fn in_list(term: &KeyTerm, key_type: KeyType, values: &Values<'_>) -> Result<KeyOutcome, Refusal> {
    let integer = matches!(key_type, KeyType::Int2 | KeyType::Int4 | KeyType::Int8);
    let ValueRef::Literal(n) = term.value else { return key_of(term, key_type, values, Usage::Compare) };
    if !integer {
        return Ok(KeyOutcome::Unknown("a value of the list is not of the key column's type"));
    }
    let content = values.literal(n).and_then(|literal| values.content(literal));
    let number = content.and_then(|content| KeyType::Numeric.parse_text(&content).ok());
    Ok(match number.map(|value| convert_to(value, KeyType::Numeric, (key_type, Usage::Compare))) {
        Some(KeyOutcome::Key(value)) if convert::fits(key_type, &value) => KeyOutcome::Key(value),
        _ => KeyOutcome::NoRow,
    })
}

/// The key that `term` stands for.
pub fn key_of(
    term: &KeyTerm,
    key_type: KeyType,
    values: &Values<'_>,
    usage: Usage,
) -> Result<KeyOutcome, Refusal> {
    let cast = match term.cast.as_deref() {
        None => None,
        Some(name) => match convert::type_of_name(name) {
            Some(cast) => Some(cast),
            None => return Ok(KeyOutcome::Unknown("the cast may change the value")),
        },
    };
    match &term.value {
        ValueRef::Null => Ok(KeyOutcome::Null),
        ValueRef::Default => Ok(KeyOutcome::Unknown("the key is left to its default")),
        ValueRef::Computed => Ok(KeyOutcome::Unknown("the key is computed by an expression")),
        ValueRef::Literal(n) => match values.literal(*n) {
            None => Ok(KeyOutcome::Unknown("the key's literal was not found")),
            Some(literal) => literal_key(literal, (term.negated, cast), (key_type, usage), values),
        },
        ValueRef::Param(_) if term.negated => Ok(KeyOutcome::Unknown("the key is computed by an expression")),
        ValueRef::Param(n) => param(*n, cast, (key_type, usage), values),
    }
}

fn literal_key(
    literal: &Literal,
    (negated, cast): (bool, Option<KeyType>),
    target: (KeyType, Usage),
    values: &Values<'_>,
) -> Result<KeyOutcome, Refusal> {
    if literal.kind == Kind::Number {
        let digits = values.raw(literal).unwrap_or_default();
        return Ok(number(digits, negated, cast, target));
    }
    if negated {
        return Ok(KeyOutcome::Unknown("the key is computed by an expression"));
    }
    match values.content(literal) {
        None => Ok(KeyOutcome::Unknown("the key's literal is written in a way that is not followed")),
        Some(content) => spelled(&content, cast.unwrap_or(target.0), target, values),
    }
}

/// A string that is read by the input function of `source`.
pub(super) fn spelled(
    content: &str,
    source: KeyType,
    target: (KeyType, Usage),
    values: &Values<'_>,
) -> Result<KeyOutcome, Refusal> {
    if !values.rules.utf8 && !content.is_ascii() {
        return Ok(KeyOutcome::Unknown("the key is not ASCII and client_encoding is not UTF8"));
    }
    match source.parse_text(content) {
        Ok(value) => Ok(convert_to(value, source, target)),
        Err(error) => match convert::complaint(source, &error) {
            Some(refusal) => Err(refusal),
            None => Ok(KeyOutcome::Unknown("the key's spelling depends on settings or the server's version")),
        },
    }
}

/// A value in binary format of type `source`.
pub(super) fn binary(
    bytes: &[u8],
    source: KeyType,
    target: (KeyType, Usage),
    values: &Values<'_>,
) -> Result<KeyOutcome, Refusal> {
    if matches!(source, KeyType::Text | KeyType::Bpchar) {
        return match std::str::from_utf8(bytes) {
            Ok(content) => spelled(content, source, target, values),
            Err(_) => Ok(KeyOutcome::Unknown("the key is not valid UTF-8")),
        };
    }
    match source.parse_binary(0, bytes) {
        Ok(value) => Ok(convert_to(value, source, target)),
        Err(error) => match convert::complaint(source, &error) {
            Some(refusal) => Err(refusal),
            None => Ok(KeyOutcome::Unknown("the key's binary value is not understood")),
        },
    }
}

fn param(
    n: u16,
    cast: Option<KeyType>,
    target: (KeyType, Usage),
    values: &Values<'_>,
) -> Result<KeyOutcome, Refusal> {
    let Some(params) = values.params else {
        return Ok(KeyOutcome::Unknown("the parameter's value is not known yet"));
    };
    let source = match params.type_oid(n) {
        0 | convert::UNKNOWN_OID => cast.unwrap_or(target.0),
        oid => match KeyType::from_oid(oid) {
            Some(source) => source,
            None => return Ok(KeyOutcome::Unknown(TYPES_DIFFER)),
        },
    };
    // A cast to another type than the parameter's own is one more conversion, exact or not at all.
    let recast = cast.filter(|&cast| cast != source);
    let via = recast.map_or(target, |cast| (cast, Usage::Assign(None)));
    let outcome = match params.get(n) {
        None => KeyOutcome::Unknown("the parameter has no value"),
        Some(ParamValue::Null) => KeyOutcome::Null,
        Some(ParamValue::Binary(bytes)) => binary(bytes, source, via, values)?,
        Some(ParamValue::Text(bytes)) => match std::str::from_utf8(bytes) {
            Ok(content) => spelled(content, source, via, values)?,
            Err(_) => KeyOutcome::Unknown("the key is not valid UTF-8"),
        },
    };
    Ok(match (outcome, recast) {
        (KeyOutcome::Key(value), Some(cast)) => convert_to(value, cast, target),
        (outcome, _) => outcome,
    })
}

/// A numeric literal: its type is int4, int8 or numeric, whichever holds it first.
fn number(digits: &str, negated: bool, cast: Option<KeyType>, target: (KeyType, Usage)) -> KeyOutcome {
    const NOT_PLAIN: KeyOutcome = KeyOutcome::Unknown("the number is written in a way that is not followed");
    if !digits.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'.' | b'e' | b'E' | b'+' | b'-')) {
        return NOT_PLAIN;
    }
    let spelled = if negated { format!("-{digits}").into() } else { Cow::Borrowed(digits) };
    let (value, own) = match spelled.parse::<i64>() {
        Ok(value) => (KeyValue::Int(value), KeyType::Int8),
        Err(_) => match KeyType::Numeric.parse_text(&spelled) {
            Ok(value) => (value, KeyType::Numeric),
            Err(_) => return NOT_PLAIN,
        },
    };
    let Some(cast) = cast else { return convert_to(value, own, target) };
    match (cast, &value) {
        (KeyType::Text, KeyValue::Int(value)) if !negated => {
            convert_to(KeyValue::Text(value.to_string()), KeyType::Text, target)
        }
        (KeyType::Text, _) => KeyOutcome::Unknown("the cast may change the value"),
        (KeyType::Int2 | KeyType::Int4 | KeyType::Int8 | KeyType::Numeric, _) => {
            match convert_to(value, own, (cast, Usage::Assign(None))) {
                KeyOutcome::Key(value) if convert::fits(cast, &value) => convert_to(value, cast, target),
                _ => KeyOutcome::Unknown("the cast may change the value"),
            }
        }
        (KeyType::Bpchar | KeyType::Uuid | KeyType::Date | KeyType::Timestamptz, _) => {
            KeyOutcome::Unknown("the cast may change the value")
        }
    }
}

/// `value` of type `source` as it compares with, or is assigned to, a column of the target type.
fn convert_to(value: KeyValue, source: KeyType, (target, usage): (KeyType, Usage)) -> KeyOutcome {
    use KeyType::{Bpchar, Date, Int2, Int4, Int8, Numeric, Text, Timestamptz, Uuid};
    if let Usage::Assign(modifier) = usage
        && source == target
        && !value.is_stored_by(modifier)
    {
        return KeyOutcome::Unknown(convert::CHANGED_BY_STORING);
    }
    match (source, target, value) {
        (Int2 | Int4 | Int8, Int2 | Int4 | Int8, value) => KeyOutcome::Key(value),
        (Int2 | Int4 | Int8, Numeric, KeyValue::Int(value)) => {
            KeyOutcome::Key(KeyValue::Numeric(value.to_string()))
        }
        (Numeric, Int2 | Int4 | Int8, KeyValue::Numeric(decimal)) => match decimal.parse::<i64>() {
            Ok(value) => KeyOutcome::Key(KeyValue::Int(value)),
            Err(_) if usage == Usage::Compare => KeyOutcome::NoRow,
            Err(_) => {
                KeyOutcome::Unknown("the value is rounded to the key column's type or out of its range")
            }
        },
        (Text, Text, value)
        | (Bpchar, Bpchar, value)
        | (Uuid, Uuid, value)
        | (Numeric, Numeric, value)
        | (Date, Date, value)
        | (Timestamptz, Timestamptz, value) => KeyOutcome::Key(value),
        (Text, Bpchar, KeyValue::Text(content)) if !content.ends_with(' ') => {
            KeyOutcome::Key(KeyValue::Text(content))
        }
        (
            Int2 | Int4 | Int8 | Text | Bpchar | Uuid | Numeric | Date | Timestamptz,
            Int2 | Int4 | Int8 | Text | Bpchar | Uuid | Numeric | Date | Timestamptz,
            _,
        ) => KeyOutcome::Unknown(TYPES_DIFFER),
    }
}

#[cfg(test)]
mod tests;
