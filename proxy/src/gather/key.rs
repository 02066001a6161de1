//! Sort keys: a row's values as bytes whose own order is PostgreSQL's.
//!
//! Each value is a byte that says whether it is NULL, and a code that no other code begins with; for DESC the code's bits are
//! turned over. So the keys of two rows are compared as a whole, byte by byte, and equal rows have equal keys.
//! Sources: the types' `_cmp` and `_send` functions in PostgreSQL's `src/backend/utils/adt`.

use std::borrow::Cow;

use memchr::memchr;

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
        Comparable::Numeric if binary => numeric(key, value)?,
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
    // So many digits cannot be too many.
    const SURE_DIGITS: usize = 18;
    let (negative, digits) = match value {
        [b'-', digits @ ..] => (true, digits),
        digits => (false, digits),
    };
    if (1..=SURE_DIGITS).contains(&digits.len()) && digits.iter().all(u8::is_ascii_digit) {
        let number = digits.iter().fold(0, |number, digit| number * 10 + i64::from(digit - b'0'));
        return Ok(if negative { -number } else { number });
    }
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
    while let Some(at) = memchr(0, rest) {
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

// Classes of a `numeric`.
const BELOW: u8 = 0;
const NEGATIVE: u8 = 1;
const ZERO: u8 = 2;
const POSITIVE: u8 = 3;
const ABOVE: u8 = 4;
const NAN: u8 = 5;

/// A `numeric` in text format: its class, then the number of its integer digits, then its digits.
fn decimal(key: &mut Vec<u8>, value: &[u8]) -> Result<(), Unreadable> {
    match value {
        b"NaN" => key.push(NAN),
        b"Infinity" => key.push(ABOVE),
        b"-Infinity" => key.push(BELOW),
        [b'-', digits @ ..] => finite(key, true, |key| magnitude(key, digits))?,
        digits => finite(key, false, |key| magnitude(key, digits))?,
    }
    Ok(())
}

/// A `numeric` in binary format (`numeric_send`): its class, then its weight, then its digits to the base 10,000.
fn numeric(key: &mut Vec<u8>, value: &[u8]) -> Result<(), Unreadable> {
    let (words, []) = value.as_chunks::<2>() else { return Err(Unreadable) };
    let [count, weight, sign, _scale, digits @ ..] = words else { return Err(Unreadable) };
    if usize::from(u16::from_be_bytes(*count)) != digits.len() {
        return Err(Unreadable);
    }
    match u16::from_be_bytes(*sign) {
        0xC000 => key.push(NAN),
        0xD000 => key.push(ABOVE),
        0xF000 => key.push(BELOW),
        sign @ (0 | 0x4000) => {
            finite(key, sign != 0, |key| {
                // The server keeps no zeros at either end.
                let whole = |digit: &[u8; 2]| (1..10_000).contains(&u16::from_be_bytes(*digit));
                if !(digits.first().is_none_or(whole) && digits.last().is_none_or(whole)) {
                    return Err(Unreadable);
                }
                signed(key, i64::from(i16::from_be_bytes(*weight)));
                key.extend(digits.iter().flat_map(|digit| (u16::from_be_bytes(*digit) + 1).to_be_bytes()));
                key.extend_from_slice(&[0, 0]);
                Ok(!digits.is_empty())
            })?;
        }
        _ => return Err(Unreadable),
    }
    Ok(())
}

/// A number whose `magnitude` appends its code without the sign, and says whether it is not zero.
fn finite(
    key: &mut Vec<u8>,
    negative: bool,
    magnitude: impl FnOnce(&mut Vec<u8>) -> Result<bool, Unreadable>,
) -> Result<(), Unreadable> {
    let start = key.len();
    key.push(if negative { NEGATIVE } else { POSITIVE });
    if !magnitude(key)? {
        key.truncate(start);
        key.push(ZERO);
    } else if negative {
        key[start + 1..].iter_mut().for_each(|byte| *byte = !*byte);
    }
    Ok(())
}

/// A number without a sign; `false` for zero.
fn magnitude(key: &mut Vec<u8>, digits: &[u8]) -> Result<bool, Unreadable> {
    let point = memchr(b'.', digits).unwrap_or(digits.len());
    let (whole, fraction) = (&digits[..point], digits.get(point + 1..).unwrap_or_default());
    if whole.is_empty() || !whole.iter().chain(fraction).all(u8::is_ascii_digit) {
        return Err(Unreadable);
    }
    let counts = |digit: &u8| *digit != b'0';
    let fraction = without_zeros(fraction);
    let (exponent, whole, fraction) = match whole.iter().position(counts) {
        Some(first) if fraction.is_empty() => (whole.len() - first, without_zeros(&whole[first..]), fraction),
        Some(first) => (whole.len() - first, &whole[first..], fraction),
        None => (0, &whole[..0], fraction),
    };
    let zeros = if exponent > 0 { 0 } else { fraction.iter().take_while(|digit| !counts(digit)).count() };
    let fraction = &fraction[zeros..];
    signed(key, exponent as i64 - zeros as i64);
    key.extend(whole.iter().chain(fraction).map(|digit| digit - b'0' + 1));
    key.push(0);
    Ok(!(whole.is_empty() && fraction.is_empty()))
}

/// Digits up to the last that is not zero.
fn without_zeros(digits: &[u8]) -> &[u8] {
    &digits[..digits.iter().rposition(|&digit| digit != b'0').map_or(0, |last| last + 1)]
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

    /// A `numeric` in binary format, its scale left out.
    fn numeric(digits: &[i16], weight: i16, sign: u16) -> Vec<u8> {
        let head = [digits.len() as i16, weight, sign as i16, 0];
        head.iter().chain(digits).flat_map(|word| word.to_be_bytes()).collect()
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
    fn numbers_in_binary_format_are_in_the_order_of_their_values() {
        let numbers: &[(&[i16], i16, u16)] = &[
            (&[], 0, 0xF000),
            (&[1, 2], 1, 0x4000),
            (&[1], 1, 0x4000),
            (&[9999], 0, 0x4000),
            (&[1], -1, 0x4000),
            (&[], 0, 0),
            (&[1], -2, 0),
            (&[1], -1, 0),
            (&[1], 0, 0),
            (&[1, 5000], 0, 0),
            (&[9999], 0, 0),
            (&[1], 1, 0),
            (&[1, 0, 1], 1, 0),
            (&[], 0, 0xD000),
            (&[], 0, 0xC000),
        ];
        let sent: Vec<Vec<u8>> =
            numbers.iter().map(|(digits, weight, sign)| numeric(digits, *weight, *sign)).collect();
        let groups: Vec<[&[u8]; 1]> = sent.iter().map(|value| [&value[..]]).collect();
        check(Comparable::Numeric, true, &groups.iter().map(|group| &group[..]).collect::<Vec<_>>());
    }

    #[test]
    fn integers_are_read_whatever_their_length() {
        for number in [0, 7, -7, 999_999_999_999_999_999, -1_000_000_000_000_000_000, i64::MAX, i64::MIN] {
            assert_eq!(super::number(number.to_string().as_bytes()), Ok(number));
        }
        for text in ["", "-", "9223372036854775808", "1 ", "--1", "0x1"] {
            assert_eq!(super::number(text.as_bytes()), Err(Unreadable), "{text:?}");
        }
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
        let order = Order { kind: Comparable::Numeric, descending: false, nulls_first: false };
        for value in [
            numeric(&[0, 1], 0, 0),
            numeric(&[1, 0], 0, 0),
            numeric(&[1], 0, 1),
            vec![0; 7],
            vec![0, 1, 0, 0, 0, 0, 0, 0],
        ] {
            assert_eq!(encode(&mut Vec::new(), order, Some(&value), true), Err(Unreadable), "{value:?}");
        }
    }
}
