//! Shard key types and values, and how a text, a binary parameter or a literal becomes one.
//!
//! Exactness is everything here: a value that is read differently from how PostgreSQL reads it places a row on the wrong
//! shard. So each reader answers with the value, with PostgreSQL's own error, with [`KeyError::NoRow`] where no value of
//! the column's type can be equal, or with [`KeyError::Ambiguous`] wherever the meaning depends on something that is not
//! in the value (settings, version, a lossy conversion). An ambiguous value pins nothing.
//!
//! [`KeyError::NoRow`] is about comparison. Where a value is *assigned* to the key column (INSERT, COPY), PostgreSQL
//! would convert it (7.5 becomes 8): there it has to be treated like an ambiguous one.
//!
//! Source of the syntaxes: `adt/numutils.c`, `adt/numeric.c`, `adt/uuid.c`, `adt/date.c`, `adt/datetime.c` of PostgreSQL 15.

mod binary;
mod datetime;
mod literal;
pub(crate) mod numeric;
mod text;

use std::cmp::Ordering;
use std::fmt;

/// The type of a shard key column, as far as hashing is concerned.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum KeyType {
    /// smallint
    Int2,
    /// integer
    Int4,
    /// bigint
    Int8,
    /// text, varchar
    Text,
    /// char(n): trailing spaces do not count.
    Bpchar,
    /// uuid
    Uuid,
    /// numeric
    Numeric,
    /// date
    Date,
    /// timestamp with time zone
    Timestamptz,
}

/// A key value of its column's type.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum KeyValue {
    /// All integer types hash alike.
    Int(i64),
    /// text, varchar, and char(n) with its trailing spaces gone.
    Text(String),
    /// uuid
    Uuid([u8; 16]),
    /// numeric in its canonical decimal spelling (no trailing fractional zeros, no leading zeros, `NaN`, `Infinity`).
    Numeric(String),
    /// Days since 2000-01-01; `i32::MAX` and `i32::MIN` are infinite.
    Date(i32),
    /// Microseconds since 2000-01-01 00:00 UTC; `i64::MAX` and `i64::MIN` are infinite.
    Timestamptz(i64),
}

/// Why there is no key value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum KeyError {
    /// PostgreSQL rejects the text (`22P02`).
    #[error("invalid input syntax for type {type_name}: \"{text}\"")]
    Invalid {
        /// As PostgreSQL calls the type.
        type_name: &'static str,
        /// What was given.
        text: String,
    },
    /// The value does not fit the type (`22003`).
    #[error("value \"{text}\" is out of range for type {type_name}")]
    OutOfRange {
        /// As PostgreSQL calls the type.
        type_name: &'static str,
        /// What was given.
        text: String,
    },
    /// There is no such day or time (`22008`).
    #[error("date/time field value out of range: \"{text}\"")]
    NoSuchTime {
        /// What was given.
        text: String,
    },
    /// A binary value of the wrong form (`22P03`).
    #[error("incorrect binary data format for type {type_name}")]
    Malformed {
        /// As PostgreSQL calls the type.
        type_name: &'static str,
    },
    /// No row can have a key that equals it; assigned to a column it would be converted.
    #[error("no value of type {type_name} equals {text}")]
    NoRow {
        /// As PostgreSQL calls the key's type.
        type_name: &'static str,
        /// What was given.
        text: String,
    },
    /// What it is cannot be known here.
    #[error("the key cannot be known: {why}")]
    Ambiguous {
        /// Why.
        why: String,
    },
}

impl KeyError {
    /// PostgreSQL's SQLSTATE for it; `None` where PostgreSQL would raise no error.
    #[must_use]
    pub fn sqlstate(&self) -> Option<&'static str> {
        match self {
            Self::Invalid { .. } => Some("22P02"),
            Self::OutOfRange { .. } => Some("22003"),
            Self::NoSuchTime { .. } => Some("22008"),
            Self::Malformed { .. } => Some("22P03"),
            Self::NoRow { .. } | Self::Ambiguous { .. } => None,
        }
    }

    pub(crate) fn ambiguous(why: impl Into<String>) -> Self {
        Self::Ambiguous { why: why.into() }
    }
}

/// Object identifiers of PostgreSQL's built-in types that matter here.
mod oid {
    pub(super) const UNSPECIFIED: u32 = 0;
    pub(super) const INT8: u32 = 20;
    pub(super) const INT2: u32 = 21;
    pub(super) const INT4: u32 = 23;
    pub(super) const TEXT: u32 = 25;
    pub(super) const UNKNOWN: u32 = 705;
    pub(super) const BPCHAR: u32 = 1042;
    pub(super) const VARCHAR: u32 = 1043;
    pub(super) const DATE: u32 = 1082;
    pub(super) const TIMESTAMPTZ: u32 = 1184;
    pub(super) const NUMERIC: u32 = 1700;
    pub(super) const UUID: u32 = 2950;
}

impl KeyType {
    /// All key types.
    pub const ALL: [Self; 9] = [
        Self::Int2,
        Self::Int4,
        Self::Int8,
        Self::Text,
        Self::Bpchar,
        Self::Uuid,
        Self::Numeric,
        Self::Date,
        Self::Timestamptz,
    ];

    /// Types whose equal values hash alike share a family; its name is the widest type.
    #[must_use]
    pub fn family(self) -> Self {
        match self {
            Self::Int2 | Self::Int4 | Self::Int8 => Self::Int8,
            other => other,
        }
    }

    /// The type of a name as SQL or `format_type` spells it; a length or precision in parentheses is not looked at.
    #[must_use]
    pub fn from_type_name(name: &str) -> Option<Self> {
        let lower = without_modifier(name).to_lowercase();
        let words: Vec<&str> = lower.split_whitespace().collect();
        let joined = words.join(" ");
        Some(match joined.strip_prefix("pg_catalog.").unwrap_or(&joined) {
            "smallint" | "int2" | "smallserial" | "serial2" => Self::Int2,
            "integer" | "int" | "int4" | "serial" | "serial4" => Self::Int4,
            "bigint" | "int8" | "bigserial" | "serial8" => Self::Int8,
            "text" | "varchar" | "character varying" | "char varying" => Self::Text,
            "bpchar" | "char" | "character" => Self::Bpchar,
            "uuid" => Self::Uuid,
            "numeric" | "decimal" | "dec" => Self::Numeric,
            "date" => Self::Date,
            "timestamptz" | "timestamp with time zone" => Self::Timestamptz,
            _ => return None,
        })
    }

    /// The type of a built-in type's object identifier (`pg_type.oid`).
    #[must_use]
    pub fn from_oid(oid: u32) -> Option<Self> {
        Some(match oid {
            oid::INT2 => Self::Int2,
            oid::INT4 => Self::Int4,
            oid::INT8 => Self::Int8,
            oid::TEXT | oid::VARCHAR => Self::Text,
            oid::BPCHAR => Self::Bpchar,
            oid::UUID => Self::Uuid,
            oid::NUMERIC => Self::Numeric,
            oid::DATE => Self::Date,
            oid::TIMESTAMPTZ => Self::Timestamptz,
            _ => return None,
        })
    }

    /// As PostgreSQL's messages call it.
    #[must_use]
    pub fn type_name(self) -> &'static str {
        match self {
            Self::Int2 => "smallint",
            Self::Int4 => "integer",
            Self::Int8 => "bigint",
            Self::Text => "text",
            Self::Bpchar => "character",
            Self::Uuid => "uuid",
            Self::Numeric => "numeric",
            Self::Date => "date",
            Self::Timestamptz => "timestamp with time zone",
        }
    }

    /// Whether two key columns of these types hold equal values under equal hashes, so that their tables can be
    /// co-located.
    #[must_use]
    pub fn hashes_like(self, other: Self) -> bool {
        self == other || (self.is_integer() && other.is_integer())
    }

    /// Whether a column of this type and type modifier (`pg_attribute.atttypmod`) rounds values that
    /// [`KeyValue::stored_as_it_is`] lets pass: times to less than microseconds, numbers to tens and hundreds.
    #[must_use]
    pub fn modifier_rounds(self, modifier: i32) -> bool {
        // `timestamp.c`: the modifier is the precision. `numeric.c`: four more than precision and scale, of 11 bits.
        match self {
            Self::Timestamptz => (0..6).contains(&modifier),
            Self::Numeric => modifier >= 4 && ((modifier - 4) & 0x7ff ^ 1024) < 1024,
            _ => false,
        }
    }

    /// Whether key ranges make sense: the order is known without a collation.
    #[must_use]
    pub fn has_ranges(self) -> bool {
        self.is_integer() || matches!(self, Self::Uuid | Self::Date | Self::Timestamptz)
    }

    pub(crate) fn is_integer(self) -> bool {
        matches!(self, Self::Int2 | Self::Int4 | Self::Int8)
    }

    /// Lowest and highest value of an integer type.
    fn integer_range(self) -> (i64, i64) {
        match self {
            Self::Int2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
            Self::Int4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
            _ => (i64::MIN, i64::MAX),
        }
    }

    fn invalid(self, text: &str) -> KeyError {
        KeyError::Invalid { type_name: self.type_name(), text: text.to_owned() }
    }

    fn out_of_range(self, text: &str) -> KeyError {
        KeyError::OutOfRange { type_name: self.type_name(), text: text.to_owned() }
    }

    fn no_row(self, text: impl Into<String>) -> KeyError {
        KeyError::NoRow { type_name: self.type_name(), text: text.into() }
    }

    /// A value of type `from` compared with a key of this type: the equal value of this type, if there is one.
    fn convert(self, from: Self, value: KeyValue) -> Result<KeyValue, KeyError> {
        let unequal =
            || KeyError::ambiguous(format!("a {} is compared with a {}", self.type_name(), from.type_name()));
        match (self, value) {
            (Self::Int2 | Self::Int4 | Self::Int8, KeyValue::Int(number)) => {
                let (low, high) = self.integer_range();
                let fits = (low..=high).contains(&number);
                if fits { Ok(KeyValue::Int(number)) } else { Err(self.no_row(number.to_string())) }
            }
            (Self::Int2 | Self::Int4 | Self::Int8, KeyValue::Numeric(number)) => {
                let (low, high) = self.integer_range();
                match number.parse::<i64>() {
                    Ok(integer) if (low..=high).contains(&integer) => Ok(KeyValue::Int(integer)),
                    _ => Err(self.no_row(number)),
                }
            }
            (Self::Numeric, KeyValue::Int(number)) => Ok(KeyValue::Numeric(number.to_string())),
            (Self::Bpchar, KeyValue::Text(text)) if from == Self::Text => {
                if text.ends_with(' ') {
                    return Err(KeyError::ambiguous("trailing spaces count in text but not in char(n)"));
                }
                Ok(KeyValue::Text(text))
            }
            (_, value) if self == from => Ok(value),
            _ => Err(unequal()),
        }
    }
}

impl KeyValue {
    /// Whether every key column of its type, whatever its modifier, stores it unchanged or not at all: `varchar(n)` drops
    /// blanks at the end that are too many, `numeric(p, s)` rounds a fraction.
    #[must_use]
    pub fn stored_as_it_is(&self) -> bool {
        self.is_stored_by(None)
    }

    /// Whether a key column of its type with this modifier (`atttypmod`, -1: none; `None`: not known) stores it unchanged or not at
    /// all. Source: `varchar()` in `src/backend/utils/adt/varchar.c`, `make_numeric_typmod()` in `numeric.c`.
    #[must_use]
    pub fn is_stored_by(&self, modifier: Option<i32>) -> bool {
        const HEADER: i32 = 4;
        let limit = match modifier {
            None => 0,
            Some(modifier) if modifier < HEADER => return true,
            Some(modifier) => modifier - HEADER,
        };
        match self {
            Self::Text(text) if modifier.is_some() && text.chars().count() <= limit as usize => true,
            Self::Numeric(number) if modifier.is_some() => {
                let scale = ((limit & 0x7ff) ^ 0x400) - 0x400;
                let digits = number.split_once('.').map_or(0, |(_, fraction)| fraction.len());
                i32::try_from(digits).is_ok_and(|digits| digits <= scale.max(0))
            }
            Self::Text(text) => !text.ends_with(' '),
            Self::Numeric(number) => !number.contains('.'),
            Self::Int(_) | Self::Uuid(_) | Self::Date(_) | Self::Timestamptz(_) => true,
        }
    }

    /// The order of two values of one type; `None` where it depends on a collation or the types differ.
    #[must_use]
    pub fn compare(&self, other: &Self) -> Option<Ordering> {
        match (self, other) {
            (Self::Int(a), Self::Int(b)) | (Self::Timestamptz(a), Self::Timestamptz(b)) => Some(a.cmp(b)),
            (Self::Uuid(a), Self::Uuid(b)) => Some(a.cmp(b)),
            (Self::Date(a), Self::Date(b)) => Some(a.cmp(b)),
            _ => None,
        }
    }
}

impl fmt::Display for KeyValue {
    /// PostgreSQL's spelling, dates in ISO style, times in UTC. Reading it again gives the same value.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => number.fmt(f),
            Self::Text(text) | Self::Numeric(text) => text.fmt(f),
            Self::Uuid(bytes) => {
                for (at, byte) in bytes.iter().enumerate() {
                    let hyphen = if matches!(at, 4 | 6 | 8 | 10) { "-" } else { "" };
                    write!(f, "{hyphen}{byte:02x}")?;
                }
                Ok(())
            }
            Self::Date(days) => datetime::write_date(f, *days),
            Self::Timestamptz(micros) => datetime::write_timestamptz(f, *micros),
        }
    }
}

impl fmt::Display for KeyType {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.type_name().fmt(f)
    }
}

/// `varchar(20)` → `varchar`, `timestamp(3) with time zone` → `timestamp with time zone`.
fn without_modifier(name: &str) -> String {
    match (name.find('('), name.rfind(')')) {
        (Some(open), Some(close)) if open < close => format!("{} {}", &name[..open], &name[close + 1..]),
        _ => name.to_owned(),
    }
}

#[cfg(test)]
mod tests;
