//! Array values as lists of keys: `= ANY($1)`, `= ANY('{1,2}')`.
//!
//! Source: PostgreSQL 15, `src/backend/utils/adt/arrayfuncs.c` (`array_in`, `array_recv`). Arrays with explicit bounds or
//! nested braces are left unknown; NULL elements match nothing.

use std::borrow::Cow;

use router_config::key::KeyType;
use smallvec::SmallVec;

use super::convert;
use super::key::{Found, KeyOutcome, Usage, binary, spelled};
use super::refusal::Refusal;
use super::values::{ParamValue, Values};
use crate::sql::facts::{KeyTerm, ValueRef};
use crate::sql::lexer::Kind;

const NOT_FOLLOWED: Found = Found::Any(Some("the array is written in a way that is not followed"));

/// The keys in the array that `term` stands for.
pub(super) fn found(term: &KeyTerm, key_type: KeyType, values: &Values<'_>) -> Result<Found, Refusal> {
    let cast = match term.cast.as_deref() {
        None => None,
        Some(name) => match element_of_name(name) {
            None => return Ok(Found::Any(Some("the cast may change the value"))),
            some => some,
        },
    };
    match &term.value {
        ValueRef::Null => Ok(Found::none()),
        ValueRef::Default | ValueRef::Computed => {
            Ok(Found::Any(Some("the array is computed by an expression")))
        }
        ValueRef::Literal(n) => {
            let literal = values.literal(*n).filter(|literal| literal.kind != Kind::Number);
            match literal.and_then(|literal| values.content(literal)) {
                None => Ok(NOT_FOLLOWED),
                Some(content) => text_array(&content, cast.unwrap_or(key_type), key_type, values),
            }
        }
        ValueRef::Param(n) => {
            let Some(params) = values.params else {
                return Ok(Found::Any(Some("the parameter's value is not known yet")));
            };
            let element = match params.type_oid(*n) {
                0 | convert::UNKNOWN_OID => cast.unwrap_or(key_type),
                oid => match convert::element_of_oid(oid) {
                    Some(element) if cast.is_none_or(|cast| cast == element) => element,
                    _ => return Ok(Found::Any(Some("the value is not an array of the key column's type"))),
                },
            };
            match params.get(*n) {
                None => Ok(Found::Any(Some("the parameter has no value"))),
                Some(ParamValue::Null) => Ok(Found::none()),
                Some(ParamValue::Binary(bytes)) => binary_array(bytes, element, key_type, values),
                Some(ParamValue::Text(bytes)) => match std::str::from_utf8(bytes) {
                    Ok(content) => text_array(content, element, key_type, values),
                    Err(_) => Ok(NOT_FOLLOWED),
                },
            }
        }
    }
}

fn element_of_name(name: &str) -> Option<KeyType> {
    convert::type_of_name(name.strip_suffix("[]")?.trim_end())
}

/// Adds what one element says; `Some` when the whole array is thereby unknown.
fn add(keys: &mut SmallVec<[router_config::key::KeyValue; 1]>, outcome: KeyOutcome) -> Option<Found> {
    match outcome {
        KeyOutcome::Key(key) => keys.push(key),
        KeyOutcome::NoRow | KeyOutcome::Null => {}
        KeyOutcome::Unknown(why) => return Some(Found::Any(Some(why))),
    }
    None
}

/// `{1,2,"a,b",NULL}`
fn text_array(
    content: &str,
    element: KeyType,
    key_type: KeyType,
    values: &Values<'_>,
) -> Result<Found, Refusal> {
    let malformed = || {
        let mut refusal = Refusal::new("22P02", format!("malformed array literal: \"{content}\""));
        refusal.detail = Some("Braces, quotes or commas of the array do not match.".to_owned());
        refusal
    };
    let trimmed = content.trim_matches(is_space);
    if trimmed.starts_with('[') {
        return Ok(NOT_FOLLOWED);
    }
    let inner = trimmed.strip_prefix('{').and_then(|rest| rest.strip_suffix('}')).ok_or_else(malformed)?;
    let mut keys = SmallVec::new();
    if inner.trim_matches(is_space).is_empty() {
        return Ok(Found::Keys { keys, excluded: false });
    }
    let mut rest = inner;
    loop {
        let (item, after) = match next_item(rest) {
            Item::Value(item, after) => (Some(item), after),
            Item::Null(after) => (None, after),
            Item::NotFollowed => return Ok(NOT_FOLLOWED),
            Item::Malformed => return Err(malformed()),
        };
        if let Some(item) = item
            && let Some(unknown) =
                add(&mut keys, spelled(&item, element, (key_type, Usage::Compare), values)?)
        {
            return Ok(unknown);
        }
        match after {
            None => return Ok(Found::Keys { keys, excluded: false }),
            Some(after) => rest = after,
        }
    }
}

/// One element of an array in text format, and what follows its comma.
enum Item<'a> {
    Value(Cow<'a, str>, Option<&'a str>),
    Null(Option<&'a str>),
    NotFollowed,
    Malformed,
}

fn next_item(rest: &str) -> Item<'_> {
    let rest = rest.trim_start_matches(is_space);
    if let Some(quoted) = rest.strip_prefix('"') {
        return quoted_item(quoted);
    }
    let end = rest.find([',', '"', '{', '}', '\\']).unwrap_or(rest.len());
    let after = match rest.as_bytes().get(end) {
        None => None,
        Some(b',') => rest.get(end + 1..),
        // Escapes outside of quotes and nested arrays are legal but rare.
        Some(b'\\' | b'{') => return Item::NotFollowed,
        Some(_) => return Item::Malformed,
    };
    match rest.get(..end).map(|item| item.trim_end_matches(is_space)) {
        None | Some("") => Item::Malformed,
        Some(item) if item.eq_ignore_ascii_case("null") => Item::Null(after),
        Some(item) => Item::Value(Cow::Borrowed(item), after),
    }
}

/// An element whose opening quote is already behind.
fn quoted_item(quoted: &str) -> Item<'_> {
    let mut item = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '\\' => match chars.next() {
                Some((_, escaped)) => item.push(escaped),
                None => return Item::Malformed,
            },
            '"' => {
                let after = quoted.get(at + 1..).unwrap_or_default().trim_start_matches(is_space);
                return match after.strip_prefix(',') {
                    Some(after) => Item::Value(Cow::Owned(item), Some(after)),
                    None if after.is_empty() => Item::Value(Cow::Owned(item), None),
                    None => Item::Malformed,
                };
            }
            other => item.push(other),
        }
    }
    Item::Malformed
}

/// `array_isspace`
fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r' | '\x0b' | '\x0c')
}

/// ndim, flags, element OID, (length, lower bound) a dimension, then elements with their lengths.
fn binary_array(
    bytes: &[u8],
    element: KeyType,
    key_type: KeyType,
    values: &Values<'_>,
) -> Result<Found, Refusal> {
    let malformed = || Refusal::new("22P03", "incorrect binary data format in an array of shard keys");
    let int_at = |at: usize| -> Option<i32> {
        Some(i32::from_be_bytes(bytes.get(at..at.checked_add(4)?)?.try_into().ok()?))
    };
    let dimensions = int_at(0).ok_or_else(malformed)?;
    let oid = int_at(8).and_then(|oid| u32::try_from(oid).ok()).ok_or_else(malformed)?;
    let element = match KeyType::from_oid(oid) {
        Some(own) if own == element || (is_int(own) && is_int(element)) => own,
        _ => return Ok(Found::Any(Some("the value is not an array of the key column's type"))),
    };
    let mut keys = SmallVec::new();
    match dimensions {
        0 => return Ok(Found::Keys { keys, excluded: false }),
        1 => {}
        _ => return Ok(NOT_FOLLOWED),
    }
    let count = int_at(12).filter(|&count| count >= 0).ok_or_else(malformed)?;
    let mut at = 20;
    for _ in 0..count {
        let length = int_at(at).ok_or_else(malformed)?;
        at += 4;
        if length == -1 {
            continue;
        }
        let end =
            usize::try_from(length).ok().and_then(|length| at.checked_add(length)).ok_or_else(malformed)?;
        let item = bytes.get(at..end).ok_or_else(malformed)?;
        if let Some(unknown) = add(&mut keys, binary(item, element, (key_type, Usage::Compare), values)?) {
            return Ok(unknown);
        }
        at = end;
    }
    if at == bytes.len() { Ok(Found::Keys { keys, excluded: false }) } else { Err(malformed()) }
}

fn is_int(key_type: KeyType) -> bool {
    matches!(key_type, KeyType::Int2 | KeyType::Int4 | KeyType::Int8)
}
