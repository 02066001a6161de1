//! Text input: the syntaxes of PostgreSQL's input functions.

use super::{KeyError, KeyType, KeyValue, datetime, numeric, oid};

impl KeyType {
    /// Reads the text of a value of this type: what PostgreSQL's input function makes of it.
    pub fn parse_text(&self, text: &str) -> Result<KeyValue, KeyError> {
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 => integer(*self, text).map(KeyValue::Int),
            Self::Text => Ok(KeyValue::Text(text.to_owned())),
            Self::Bpchar => Ok(KeyValue::Text(text.trim_end_matches(' ').to_owned())),
            Self::Uuid => uuid(text).map(KeyValue::Uuid).ok_or_else(|| self.invalid(text)),
            Self::Numeric => numeric::parse(text).map(KeyValue::Numeric),
            Self::Date => datetime::parse_date(text).map(KeyValue::Date),
            Self::Timestamptz => datetime::parse_timestamptz(text).map(KeyValue::Timestamptz),
        }
    }

    /// Reads a parameter in text format whose type the statement declares (`0`: not declared, so the column's): the key
    /// that equals it.
    pub fn parse_text_as(&self, type_oid: u32, text: &str) -> Result<KeyValue, KeyError> {
        match self.declared(type_oid)? {
            Some(declared) => self.convert(declared, declared.parse_text(text)?),
            None => self.parse_text(text),
        }
    }

    /// The type that a parameter is declared to have, if that is another one.
    pub(super) fn declared(self, type_oid: u32) -> Result<Option<Self>, KeyError> {
        if matches!(type_oid, oid::UNSPECIFIED | oid::UNKNOWN) {
            return Ok(None);
        }
        match Self::from_oid(type_oid) {
            Some(declared) if declared == self => Ok(None),
            Some(declared) => Ok(Some(declared)),
            None => {
                Err(KeyError::ambiguous(format!("the parameter's type (OID {type_oid}) is not a key type")))
            }
        }
    }
}

/// What C's `isspace` takes for a space.
pub(super) fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\x0b' | '\x0c' | '\r')
}

/// `pg_strtoint16`, `pg_strtoint32`, `pg_strtoint64`: spaces around, a sign, digits. A value out of range is found before
/// garbage after it is.
fn integer(key_type: KeyType, text: &str) -> Result<i64, KeyError> {
    let trimmed = text.trim_matches(is_space);
    let (negative, unsigned) = match trimmed.as_bytes().first() {
        Some(b'-') => (true, &trimmed[1..]),
        Some(b'+') => (false, &trimmed[1..]),
        _ => (false, trimmed),
    };
    let digits_end = unsigned.find(|c: char| !c.is_ascii_digit()).unwrap_or(unsigned.len());
    let (digits, rest) = unsigned.split_at(digits_end);
    if spelled_for_later_versions(unsigned) {
        return Err(KeyError::ambiguous(format!("\"{text}\" is an integer from PostgreSQL 16 on only")));
    }
    if digits.is_empty() {
        return Err(key_type.invalid(text));
    }
    let (low, high) = key_type.integer_range();
    let value = digits.bytes().try_fold(0_i128, |value, digit| {
        let value = value * 10 + i128::from(digit - b'0');
        (value <= -i128::from(low)).then_some(value)
    });
    let value = value.ok_or_else(|| key_type.out_of_range(text))?;
    if !rest.is_empty() {
        return Err(key_type.invalid(text));
    }
    let value = if negative { -value } else { value };
    match i64::try_from(value) {
        Ok(value) if value <= high => Ok(value),
        _ => Err(key_type.out_of_range(text)),
    }
}

/// Hexadecimal, octal and binary integers and underscores between digits: an error up to PostgreSQL 15, valid later.
pub(super) fn spelled_for_later_versions(unsigned: &str) -> bool {
    let radix =
        unsigned.get(..2).is_some_and(|start| matches!(start, "0x" | "0X" | "0o" | "0O" | "0b" | "0B"));
    radix || (unsigned.contains('_') && unsigned.starts_with(|c: char| c.is_ascii_digit()))
}

/// `uuid_in`: optional braces, a hyphen after any group of four digits, any case, no spaces.
fn uuid(text: &str) -> Option<[u8; 16]> {
    let mut rest = text.as_bytes();
    let braces = rest.first() == Some(&b'{');
    if braces {
        rest = &rest[1..];
    }
    let mut uuid = [0_u8; 16];
    for (at, byte) in uuid.iter_mut().enumerate() {
        let [high, low, tail @ ..] = rest else { return None };
        *byte = hex(*high)? << 4 | hex(*low)?;
        rest = tail;
        if at % 2 == 1 && at < 15 && rest.first() == Some(&b'-') {
            rest = &rest[1..];
        }
    }
    let end: &[u8] = if braces { b"}" } else { b"" };
    (rest == end).then_some(uuid)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}
