//! Shard key types and values.

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
    /// Days since 2000-01-01.
    Date(i32),
    /// Microseconds since 2000-01-01 00:00 UTC.
    Timestamptz(i64),
}
