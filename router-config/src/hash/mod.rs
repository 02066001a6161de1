//! PostgreSQL's extended hashes with seed 0, so that SQL on the shards computes the same slots.
//!
//! Source: `src/common/hashfn.c` (`hash_bytes_extended`, `hash_bytes_uint32_extended`), `access/hash/hashfunc.c`
//! (`hashint8extended`, `hashtextextended`), `adt/uuid.c`, `adt/numeric.c` (`hash_numeric_extended`), `adt/date.c` and
//! `adt/timestamp.c` of PostgreSQL 15. Little-endian servers are assumed, as the hash of bytes reads words.
//! The hash of text is that of deterministic collations; it is taken over UTF-8, so the database must be encoded so.

use crate::key::numeric::Digits;
use crate::key::{KeyType, KeyValue};
use crate::topology::{SLOTS, Slot};

/// What the three words start from, less the length (`0x9e3779b9 + len + 3923095`).
const START: u32 = 0x9e37_79b9_u32.wrapping_add(3_923_095);

struct State {
    a: u32,
    b: u32,
    c: u32,
}

impl State {
    fn new(length: u32, seed: u64) -> Self {
        let start = START.wrapping_add(length);
        let mut state = Self { a: start, b: start, c: start };
        if seed != 0 {
            state.a = state.a.wrapping_add((seed >> 32) as u32);
            state.b = state.b.wrapping_add(seed as u32);
            state.mix();
        }
        state
    }

    fn add(&mut self, block: &[u8; 12]) {
        let word = |at: usize| u32::from_le_bytes([block[at], block[at + 1], block[at + 2], block[at + 3]]);
        self.a = self.a.wrapping_add(word(0));
        self.b = self.b.wrapping_add(word(4));
        self.c = self.c.wrapping_add(word(8));
    }

    fn mix(&mut self) {
        let Self { mut a, mut b, mut c } = *self;
        a = a.wrapping_sub(c) ^ c.rotate_left(4);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(6);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(8);
        b = b.wrapping_add(a);
        a = a.wrapping_sub(c) ^ c.rotate_left(16);
        c = c.wrapping_add(b);
        b = b.wrapping_sub(a) ^ a.rotate_left(19);
        a = a.wrapping_add(c);
        c = c.wrapping_sub(b) ^ b.rotate_left(4);
        b = b.wrapping_add(a);
        *self = Self { a, b, c };
    }

    fn finish(self) -> u64 {
        let Self { mut a, mut b, mut c } = self;
        c = (c ^ b).wrapping_sub(b.rotate_left(14));
        a = (a ^ c).wrapping_sub(c.rotate_left(11));
        b = (b ^ a).wrapping_sub(a.rotate_left(25));
        c = (c ^ b).wrapping_sub(b.rotate_left(16));
        a = (a ^ c).wrapping_sub(c.rotate_left(4));
        b = (b ^ a).wrapping_sub(a.rotate_left(14));
        c = (c ^ b).wrapping_sub(b.rotate_left(24));
        (u64::from(b) << 32) | u64::from(c)
    }
}

/// `hash_bytes_extended(bytes, seed)`.
#[must_use]
pub fn bytes(bytes: &[u8], seed: u64) -> u64 {
    let mut state = State::new(bytes.len() as u32, seed);
    let (blocks, rest) = bytes.as_chunks::<12>();
    for block in blocks {
        state.add(block);
        state.mix();
    }
    // The lowest byte of the last word is reserved for the length: bytes 8 to 10 of the rest land one byte higher.
    let mut last = [0_u8; 12];
    for (at, byte) in rest.iter().enumerate() {
        last[if at < 8 { at } else { at + 1 }] = *byte;
    }
    state.add(&last);
    state.finish()
}

/// `hash_bytes_uint32_extended(word, seed)`.
#[must_use]
pub fn uint32(word: u32, seed: u64) -> u64 {
    let mut state = State::new(4, seed);
    state.a = state.a.wrapping_add(word);
    state.finish()
}

/// `hashint8extended(value, 0)`, which agrees with the hashes of the narrower integers.
#[must_use]
pub fn int8(value: i64) -> u64 {
    let low = value as u32;
    let high = (value >> 32) as u32;
    uint32(low ^ if value >= 0 { high } else { !high }, 0)
}

/// `hash_numeric_extended(value, 0)`: the sign does not count, special values hash to the seed, zero to the seed less 1.
fn numeric(value: &str) -> u64 {
    let Some(digits) = Digits::from_canonical(value) else { return 0 };
    if digits.groups.is_empty() {
        return u64::MAX;
    }
    let raw: Vec<u8> = digits.groups.iter().flat_map(|group| group.to_le_bytes()).collect();
    bytes(&raw, 0) ^ i64::from(digits.weight) as u64
}

impl KeyValue {
    /// PostgreSQL's extended hash of the value with seed 0.
    #[must_use]
    pub fn hash(&self) -> u64 {
        match self {
            Self::Int(value) | Self::Timestamptz(value) => int8(*value),
            Self::Text(text) => bytes(text.as_bytes(), 0),
            Self::Uuid(uuid) => bytes(uuid, 0),
            Self::Numeric(text) => numeric(text),
            Self::Date(days) => uint32(*days as u32, 0),
        }
    }

    /// The slot of the value.
    #[must_use]
    pub fn slot(&self) -> Slot {
        slot(self.hash())
    }
}

/// `hash & (SLOTS - 1)`.
#[must_use]
pub fn slot(hash: u64) -> Slot {
    Slot((hash & u64::from(SLOTS - 1)) as u16)
}

impl KeyType {
    /// SQL that computes the hash of `expression`, which must be of this type.
    #[must_use]
    pub fn hash_sql(self, expression: &str) -> String {
        match self {
            Self::Int2 => format!("hashint2extended({expression}, 0)"),
            Self::Int4 => format!("hashint4extended({expression}, 0)"),
            Self::Int8 => format!("hashint8extended({expression}, 0)"),
            Self::Text => format!("hashtextextended({expression}, 0)"),
            Self::Bpchar => format!("hashbpcharextended({expression}, 0)"),
            Self::Uuid => format!("uuid_hash_extended({expression}, 0)"),
            Self::Numeric => format!("hash_numeric_extended({expression}, 0)"),
            // No function takes these types by themselves; that of arrays starts from 1 and adds the element's hash to 31.
            Self::Date | Self::Timestamptz => format!(
                "(hash_array_extended(ARRAY[{expression}], 0)::numeric - 31 + CASE WHEN \
                 hash_array_extended(ARRAY[{expression}], 0) < -9223372036854775777 THEN 18446744073709551616 \
                 ELSE 0 END)::bigint"
            ),
        }
    }

    /// SQL that computes the slot of `expression`, which must be of this type.
    #[must_use]
    pub fn slot_sql(self, expression: &str) -> String {
        let mask = SLOTS - 1;
        match self {
            Self::Date | Self::Timestamptz => {
                let shift = SLOTS - 31;
                format!("(((hash_array_extended(ARRAY[{expression}], 0) & {mask}) + {shift}) & {mask})")
            }
            _ => format!("({} & {mask})", self.hash_sql(expression)),
        }
    }
}

#[cfg(test)]
mod tests;
