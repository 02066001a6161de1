//! Sort keys: a row's values as bytes whose own order is PostgreSQL's.
//!
//! Each value is a byte that says whether it is NULL, and a code that no other code begins with; for DESC the code's bits are
//! turned over. So the keys of two rows are compared as a whole, byte by byte, and equal rows have equal keys.
//! Sources: the types' `_cmp` and `_send` functions in PostgreSQL's `src/backend/utils/adt`.

use std::borrow::Cow;

use crate::sql::gather_shape::{Comparable, Order};

/// A value is not what its type's values look like.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a shard gave a value that cannot be put in order")]
pub struct Unreadable;

/// Appends the code of a value to a key. `binary`: the format; a type that is not [`Comparable::is_direct`] is given as what
/// [`Comparable::key_of`] makes of it.
pub fn encode(key: &mut Vec<u8>, order: Order, value: Option<&[u8]>, binary: bool) -> Result<(), Unreadable> {
    let Some(value) = value else {
        key.push(if order.nulls_first { 0 } else { 2 });
        return Ok(());
    };
    key.push(1);
    let start = key.len();
    put(key, order.kind, value, binary)?;
    if order.descending {
        key[start..].iter_mut().for_each(|byte| *byte = !*byte);
    }
    Ok(())
}

fn put(key: &mut Vec<u8>, kind: Comparable, value: &[u8], binary: bool) -> Result<(), Unreadable> {
    match kind {
        Comparable::Int2 | Comparable::Int4 | Comparable::Int8 | Comparable::Oid => {
            signed(key, if binary { integer(kind, value)? } else { number(value)? });
        }
        Comparable::Bool => key.push(match value {
            [0] if binary => 0,
            [1] if binary => 1,
            b"f" => 0,
            b"t" => 1,
            _ => return Err(Unreadable),
        }),
        Comparable::Uuid => match (binary, value.len()) {
            (true, 16) | (false, 36) => key.extend_from_slice(value),
            _ => return Err(Unreadable),
        },
        Comparable::Text => terminated(key, value),
        Comparable::Bpchar => {
            let end = value.iter().rposition(|&byte| byte != b' ').map_or(0, |last| last + 1);
            terminated(key, &value[..end]);
        }
        Comparable::Bytea => terminated(key, &bytes_of(value, binary)?),
        Comparable::Numeric => decimal(key, value)?,
        Comparable::Float4 => {
            let bits = fixed(&bytes_of(value, binary)?)?;
            float(key, f64::from(f32::from_be_bytes(bits)));
        }
        Comparable::Float8 => float(key, f64::from_be_bytes(fixed(&bytes_of(value, binary)?)?)),
        Comparable::Date => {
            signed(key, i64::from(i32::from_be_bytes(fixed(&bytes_of(value, binary)?)?)));
        }
        Comparable::Time | Comparable::Timestamp | Comparable::Timestamptz => {
            signed(key, i64::from_be_bytes(fixed(&bytes_of(value, binary)?)?));
        }
    }
    Ok(())
}

/// What an integer is in binary format.
pub fn integer(kind: Comparable, value: &[u8]) -> Result<i64, Unreadable> {
    Ok(match kind {
        Comparable::Int2 => i64::from(i16::from_be_bytes(fixed(value)?)),
        Comparable::Int4 => i64::from(i32::from_be_bytes(fixed(value)?)),
        Comparable::Oid => i64::from(u32::from_be_bytes(fixed(value)?)),
        Comparable::Int8 => i64::from_be_bytes(fixed(value)?),
        _ => return Err(Unreadable),
    })
}

/// What an integer is in text format.
pub fn number(value: &[u8]) -> Result<i64, Unreadable> {
    std::str::from_utf8(value).ok().and_then(|text| text.parse().ok()).ok_or(Unreadable)
}

fn fixed<const N: usize>(value: &[u8]) -> Result<[u8; N], Unreadable> {
    value.try_into().map_err(|_| Unreadable)
}

fn signed(key: &mut Vec<u8>, value: i64) {
    key.extend_from_slice(&(value as u64 ^ 1 << 63).to_be_bytes());
}

/// NaN is equal to itself and above all others; the two zeros are equal.
fn float(key: &mut Vec<u8>, value: f64) {
    let code = match value {
        value if value.is_nan() => u64::MAX,
        value => {
            let bits = (value + 0.0).to_bits();
            if bits >> 63 == 1 { !bits } else { bits | 1 << 63 }
        }
    };
    key.extend_from_slice(&code.to_be_bytes());
}

/// Bytes of any length: none of them is the beginning of a longer one.
fn terminated(key: &mut Vec<u8>, value: &[u8]) {
    let mut rest = value;
    while let Some(at) = rest.iter().position(|&byte| byte == 0) {
        key.extend_from_slice(&rest[..at]);
        key.extend_from_slice(&[0, 0xFF]);
        rest = &rest[at + 1..];
    }
    key.extend_from_slice(rest);
    key.extend_from_slice(&[0, 0]);
}

/// What a `bytea` holds, in either of its output formats.
fn bytes_of(value: &[u8], binary: bool) -> Result<Cow<'_, [u8]>, Unreadable> {
    if binary {
        return Ok(Cow::Borrowed(value));
    }
    let Some(digits) = value.strip_prefix(b"\\x") else { return escaped(value).map(Cow::Owned) };
    let (pairs, rest) = digits.as_chunks::<2>();
    let byte = |pair: &[u8; 2]| Some((hex(pair[0])? << 4) | hex(pair[1])?);
    let bytes: Option<Vec<u8>> = pairs.iter().map(byte).collect();
    bytes.filter(|_| rest.is_empty()).map(Cow::Owned).ok_or(Unreadable)
}

fn hex(digit: u8) -> Option<u8> {
    char::from(digit).to_digit(16).and_then(|value| u8::try_from(value).ok())
}

/// `bytea_output = escape`
fn escaped(value: &[u8]) -> Result<Vec<u8>, Unreadable> {
    let mut out = Vec::with_capacity(value.len());
    let mut rest = value;
    while let Some((&first, more)) = rest.split_first() {
        rest = more;
        match (first, more) {
            (b'\\', [b'\\', more @ ..]) => {
                out.push(b'\\');
                rest = more;
            }
            (b'\\', [a @ b'0'..=b'3', b @ b'0'..=b'7', c @ b'0'..=b'7', more @ ..]) => {
                out.push((a - b'0') << 6 | (b - b'0') << 3 | (c - b'0'));
                rest = more;
            }
            (b'\\', _) => return Err(Unreadable),
            _ => out.push(first),
        }
    }
    Ok(out)
}

/// A `numeric` in text format: its class, then the number of its integer digits, then its digits.
fn decimal(key: &mut Vec<u8>, value: &[u8]) -> Result<(), Unreadable> {
    const BELOW: u8 = 0;
    const NEGATIVE: u8 = 1;
    const ZERO: u8 = 2;
    const POSITIVE: u8 = 3;
    const ABOVE: u8 = 4;
    const NAN: u8 = 5;
    match value {
        b"NaN" => key.push(NAN),
        b"Infinity" => key.push(ABOVE),
        b"-Infinity" => key.push(BELOW),
        _ => {
            let negative = value.first() == Some(&b'-');
            let digits = if negative { &value[1..] } else { value };
            let start = key.len();
            key.push(if negative { NEGATIVE } else { POSITIVE });
            if !magnitude(key, digits)? {
                key.truncate(start);
                key.push(ZERO);
            } else if negative {
                key[start + 1..].iter_mut().for_each(|byte| *byte = !*byte);
            }
        }
    }
    Ok(())
}

/// A number without a sign; `false` for zero.
fn magnitude(key: &mut Vec<u8>, digits: &[u8]) -> Result<bool, Unreadable> {
    let point = digits.iter().position(|&byte| byte == b'.').unwrap_or(digits.len());
    let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or_default());
    let plain = whole.iter().chain(fraction).all(u8::is_ascii_digit);
    if !plain || whole.is_empty() {
        return Err(Unreadable);
    }
    let all = || whole.iter().chain(fraction).copied();
    let Some(first) = all().position(|digit| digit != b'0') else { return Ok(false) };
    let zeros = all().rev().take_while(|&digit| digit == b'0').count();
    let last = whole.len() + fraction.len() - zeros;
    let exponent = whole.len() as i64 - first as i64;
    signed(key, exponent);
    key.extend(all().skip(first).take(last - first).map(|digit| digit - b'0' + 1));
    key.push(0);
    Ok(true)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(kind: Comparable, descending: bool, value: Option<&[u8]>, binary: bool) -> Vec<u8> {
        let mut key = Vec::new();
        encode(&mut key, Order { kind, descending, nulls_first: descending }, value, binary)
            .unwrap_or_else(|_| panic!("{kind:?} {value:?}"));
        key
    }

    /// Values in ascending order; those in one group are equal.
    fn check(kind: Comparable, binary: bool, groups: &[&[&[u8]]]) {
        for descending in [false, true] {
            let keys: Vec<(usize, Vec<u8>)> = groups
                .iter()
                .enumerate()
                .flat_map(|(rank, group)| {
                    group.iter().map(move |value| (rank, key(kind, descending, Some(value), binary)))
                })
                .chain([(groups.len(), key(kind, descending, None, binary))])
                .collect();
            for (a, a_key) in &keys {
                for (b, b_key) in &keys {
                    let wanted = if descending { b.cmp(a) } else { a.cmp(b) };
                    assert_eq!(a_key.cmp(b_key), wanted, "{kind:?} {descending} {a} {b}");
                }
            }
        }
    }

    #[test]
    fn keys_are_in_the_order_of_their_values() {
        check(
            Comparable::Int8,
            false,
            &[&[b"-9223372036854775808"], &[b"-1"], &[b"0"], &[b"10"], &[b"9223372036854775807"]],
        );
        check(Comparable::Int2, true, &[&[&[0x80, 0]], &[&[0xFF, 0xFF]], &[&[0, 0]], &[&[0, 7]]]);
        check(Comparable::Oid, true, &[&[&[0, 0, 0, 1]], &[&[0xFF, 0xFF, 0xFF, 0xFF]]]);
        check(Comparable::Bool, false, &[&[b"f"], &[b"t"]]);
        check(
            Comparable::Numeric,
            false,
            &[
                &[b"-Infinity"],
                &[b"-1000"],
                &[b"-99.5", b"-99.50"],
                &[b"-99.4"],
                &[b"-0.001"],
                &[b"0", b"0.00"],
                &[b"0.0009"],
                &[b"0.001", b"0.0010"],
                &[b"1", b"1.0"],
                &[b"1.5"],
                &[b"9"],
                &[b"10", b"10.000"],
                &[b"100"],
                &[b"100.01"],
                &[b"Infinity"],
                &[b"NaN"],
            ],
        );
        let floats = [f64::NEG_INFINITY, -1.5, -1e-300, 0.0, 1e-300, 2.0, f64::INFINITY, f64::NAN];
        let bits: Vec<[u8; 8]> = floats.iter().map(|float| float.to_be_bytes()).collect();
        let groups: Vec<[&[u8]; 1]> = bits.iter().map(|bits| [&bits[..]]).collect();
        check(Comparable::Float8, true, &groups.iter().map(|group| &group[..]).collect::<Vec<_>>());
        check(
            Comparable::Float8,
            false,
            &[&[b"\\x8000000000000000", b"\\x0000000000000000"], &[b"\\x3ff0000000000000"]],
        );
        check(Comparable::Text, false, &[&[b""], &[b"A"], &[b"A!"], &[b"a"], &["ä".as_bytes()]]);
        check(Comparable::Bpchar, false, &[&[b"", b"  "], &[b"a ", b"a   "], &[b"a b"], &[b"b"]]);
        check(
            Comparable::Bytea,
            false,
            &[
                &[b"\\x", b""],
                &[b"\\x00", b"\\000"],
                &[b"\\x0000"],
                &[b"\\x0001"],
                &[b"\\x01"],
                &[b"\\x5c", b"\\\\"],
                &[b"\\x6162", b"ab"],
            ],
        );
        check(
            Comparable::Date,
            false,
            &[&[b"\\x80000000"], &[b"\\xffffffff"], &[b"\\x00000000"], &[b"\\x7fffffff"]],
        );
    }

    #[test]
    fn what_is_no_value_of_the_type_is_an_error() {
        for (kind, value) in [
            (Comparable::Int4, &b"x"[..]),
            (Comparable::Int4, b""),
            (Comparable::Bool, b"true"),
            (Comparable::Numeric, b"1e5"),
            (Comparable::Numeric, b"-"),
            (Comparable::Numeric, b"."),
            (Comparable::Date, b"\\x00"),
            (Comparable::Date, b"2020-01-01"),
            (Comparable::Bytea, b"\\x0"),
            (Comparable::Bytea, b"\\9"),
            (Comparable::Uuid, b"0"),
        ] {
            let order = Order { kind, descending: false, nulls_first: false };
            assert_eq!(encode(&mut Vec::new(), order, Some(value), false), Err(Unreadable), "{kind:?}");
        }
    }
}
