//! Sums of `numeric` values: exact, with as many digits behind the point as the one that has most of them.
//!
//! Source: `numeric_out`, `numeric_send` and `numeric_add` in PostgreSQL's `src/backend/utils/adt/numeric.c`.

use super::key::Unreadable;
use crate::wire::frame;

/// A value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decimal {
    /// `NaN`
    Nan,
    /// `Infinity`, or `-Infinity`.
    Infinite {
        /// Below zero.
        negative: bool,
    },
    /// A number.
    Finite {
        /// Below zero.
        negative: bool,
        /// Its decimal digits, the last first, those behind the point among them.
        digits: Vec<u8>,
        /// How many of them are behind the point.
        scale: usize,
    },
}

impl Decimal {
    /// Of either format.
    pub fn read(value: &[u8], binary: bool) -> Result<Self, Unreadable> {
        if binary { Self::of_binary(value).ok_or(Unreadable) } else { Self::of_text(value) }
    }

    fn of_text(text: &[u8]) -> Result<Self, Unreadable> {
        let (negative, number) = match text {
            [b'-', rest @ ..] => (true, rest),
            _ => (false, text),
        };
        match number {
            b"NaN" => return Ok(Self::Nan),
            b"Infinity" => return Ok(Self::Infinite { negative }),
            _ => {}
        }
        let scale = number.iter().rev().position(|&byte| byte == b'.').unwrap_or(0);
        let all: Vec<u8> = number.iter().rev().copied().filter(|&byte| byte != b'.').collect();
        let points = number.len() - all.len();
        if all.is_empty() || points > 1 || !all.iter().all(u8::is_ascii_digit) {
            return Err(Unreadable);
        }
        Ok(Self::Finite { negative, digits: all.iter().map(|digit| digit - b'0').collect(), scale })
    }

    /// `None` where it is none.
    fn of_binary(value: &[u8]) -> Option<Self> {
        let mut rest = value;
        let count = usize::try_from(frame::i16(&mut rest)?).ok()?;
        let weight = i32::from(frame::i16(&mut rest)?);
        let sign = frame::i16(&mut rest)? as u16;
        let scale = usize::try_from(frame::i16(&mut rest)?).ok()?;
        let negative = match sign {
            0xC000 => return Some(Self::Nan),
            0xD000 | 0xF000 => return Some(Self::Infinite { negative: sign == 0xF000 }),
            0x0000 => false,
            0x4000 => true,
            _ => return None,
        };
        let groups: Vec<i16> = (0..count).map(|_| frame::i16(&mut rest)).collect::<Option<_>>()?;
        // The group that stands for 10000 to the power of `power`.
        let group = |power: i32| {
            let at = usize::try_from(weight - power).ok();
            at.and_then(|at| groups.get(at)).copied().unwrap_or(0)
        };
        let lowest = -(scale.div_ceil(4) as i32);
        let mut digits = Vec::new();
        for power in lowest..=weight.max(0) {
            let mut group = group(power);
            for _ in 0..4 {
                digits.push(u8::try_from(group % 10).ok()?);
                group /= 10;
            }
        }
        digits.drain(..scale.div_ceil(4) * 4 - scale);
        Some(Self::Finite { negative, digits, scale })
    }

    /// The sum of both.
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        match (self, other) {
            (Self::Nan, _) | (_, Self::Nan) => Self::Nan,
            (Self::Infinite { negative: a }, Self::Infinite { negative: b }) if a != b => Self::Nan,
            (infinite @ Self::Infinite { .. }, _) | (_, infinite @ Self::Infinite { .. }) => infinite,
            (
                Self::Finite { negative: a_negative, digits: a, scale: a_scale },
                Self::Finite { negative: b_negative, digits: b, scale: b_scale },
            ) => {
                let scale = a_scale.max(b_scale);
                let (a, b) = (aligned(a, scale - a_scale), aligned(b, scale - b_scale));
                if a_negative == b_negative {
                    return Self::Finite { negative: a_negative, digits: added(&a, &b), scale };
                }
                let a_greater = significant(&a).iter().rev().cmp(significant(&b).iter().rev()).is_ge()
                    && significant(&a).len() == significant(&b).len()
                    || significant(&a).len() > significant(&b).len();
                let (negative, digits) = match a_greater {
                    true => (a_negative, subtracted(&a, &b)),
                    false => (b_negative, subtracted(&b, &a)),
                };
                Self::Finite { negative, digits, scale }
            }
        }
    }

    /// In either format.
    pub fn write(&self, binary: bool) -> Vec<u8> {
        match (self, binary) {
            (Self::Nan, false) => b"NaN".to_vec(),
            (Self::Infinite { negative: false }, false) => b"Infinity".to_vec(),
            (Self::Infinite { negative: true }, false) => b"-Infinity".to_vec(),
            (Self::Finite { negative, digits, scale }, false) => text(*negative, digits, *scale),
            (Self::Nan, true) => special(0xC000),
            (Self::Infinite { negative: false }, true) => special(0xD000),
            (Self::Infinite { negative: true }, true) => special(0xF000),
            (Self::Finite { negative, digits, scale }, true) => binary_of(*negative, digits, *scale),
        }
    }
}

/// With so many more digits at the end.
fn aligned(digits: Vec<u8>, more: usize) -> Vec<u8> {
    let mut all = vec![0; more];
    all.extend(digits);
    all
}

/// Without zeros in front.
fn significant(digits: &[u8]) -> &[u8] {
    let end = digits.iter().rposition(|&digit| digit != 0).map_or(0, |last| last + 1);
    &digits[..end]
}

fn added(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut carry = 0;
    let digit = |of: &[u8], at: usize| of.get(at).copied().unwrap_or(0);
    let mut sum = Vec::with_capacity(a.len().max(b.len()) + 1);
    for at in 0..=a.len().max(b.len()) {
        let both = digit(a, at) + digit(b, at) + carry;
        sum.push(both % 10);
        carry = both / 10;
    }
    sum
}

/// `a` is not less than `b`.
fn subtracted(a: &[u8], b: &[u8]) -> Vec<u8> {
    let mut borrow = 0;
    let mut rest = Vec::with_capacity(a.len());
    for (at, digit) in a.iter().enumerate() {
        let taken = b.get(at).copied().unwrap_or(0) + borrow;
        borrow = u8::from(*digit < taken);
        rest.push(digit + 10 * borrow - taken);
    }
    rest
}

fn text(negative: bool, digits: &[u8], scale: usize) -> Vec<u8> {
    let kept = significant(digits);
    let mut out = Vec::with_capacity(kept.len() + 3);
    if negative && !kept.is_empty() {
        out.push(b'-');
    }
    let digit = |at: usize| kept.get(at).map_or(b'0', |digit| b'0' + digit);
    for at in (0..kept.len().max(scale + 1)).rev() {
        out.push(digit(at));
        if at == scale && scale > 0 {
            out.push(b'.');
        }
    }
    out
}

fn special(sign: u16) -> Vec<u8> {
    [[0; 4], [(sign >> 8) as u8, sign as u8, 0, 0]].concat()
}

fn binary_of(negative: bool, digits: &[u8], scale: usize) -> Vec<u8> {
    let behind = scale.div_ceil(4);
    let all = aligned(significant(digits).to_vec(), behind * 4 - scale);
    // Groups of four digits, the last first.
    let mut groups: Vec<u16> = all
        .chunks(4)
        .map(|group| group.iter().rev().fold(0, |value, digit| value * 10 + u16::from(*digit)))
        .collect();
    while groups.last() == Some(&0) {
        groups.pop();
    }
    let weight = groups.len() as i32 - behind as i32 - 1;
    let zeros = groups.iter().take_while(|group| **group == 0).count();
    groups.drain(..zeros);
    let weight = if groups.is_empty() { 0 } else { weight };
    let sign: u16 = if negative && !groups.is_empty() { 0x4000 } else { 0 };
    let mut out = Vec::with_capacity(8 + 2 * groups.len());
    for field in [groups.len() as u16, weight as u16, sign, scale as u16] {
        out.extend_from_slice(&field.to_be_bytes());
    }
    groups.iter().rev().for_each(|group| out.extend_from_slice(&group.to_be_bytes()));
    out
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn sum(a: &str, b: &str) -> String {
        let read = |text: &str| Decimal::read(text.as_bytes(), false).expect("a number");
        String::from_utf8(read(a).plus(read(b)).write(false)).expect("ASCII")
    }

    #[test]
    fn sums_are_exact_and_keep_the_greater_scale() {
        for (a, b, wanted) in [
            ("1", "2", "3"),
            ("1.50", "2.5", "4.00"),
            ("-1.5", "1.50", "0.00"),
            ("0.001", "-1", "-0.999"),
            ("-100", "1", "-99"),
            ("1", "-100", "-99"),
            ("99999999999999999999.9", "0.1", "100000000000000000000.0"),
            ("0", "0", "0"),
            ("NaN", "1", "NaN"),
            ("Infinity", "-Infinity", "NaN"),
            ("-Infinity", "5", "-Infinity"),
        ] {
            assert_eq!(sum(a, b), wanted, "{a} + {b}");
        }
        for wrong in ["", "-", ".", "1e5", "1.2.3"] {
            assert!(Decimal::read(wrong.as_bytes(), false).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_binary_format_is_postgresqls() {
        // SELECT numeric_send(x)
        for (text, hex) in [
            ("0", "0000000000000000"),
            ("0.00", "0000000000000002"),
            ("1", "00010000000000000001"),
            ("-12345.678", "0003000140000003000109291a7c"),
            ("0.0001", "0001ffff000000040001"),
            ("10000", "00010001000000000001"),
            ("0.00001", "0001fffe0000000503e8"),
            ("NaN", "00000000c0000000"),
        ] {
            let value = Decimal::read(text.as_bytes(), false).expect("a number");
            let binary = value.write(true);
            let written: String = binary.iter().map(|byte| format!("{byte:02x}")).collect();
            assert_eq!(written, hex, "{text}");
            let back = Decimal::read(&binary, true).expect("a number");
            assert_eq!(String::from_utf8(back.write(false)).expect("ASCII"), text);
        }
    }

    proptest! {
        #[test]
        fn sums_are_those_of_integers(a in -10_i128.pow(30)..10_i128.pow(30), b in -10_i128.pow(30)..10_i128.pow(30)) {
            prop_assert_eq!(sum(&a.to_string(), &b.to_string()), (a + b).to_string());
            let there = Decimal::read(a.to_string().as_bytes(), false).expect("a number").write(true);
            let back = Decimal::read(&there, true).expect("a number").write(false);
            prop_assert_eq!(String::from_utf8(back).expect("ASCII"), a.to_string());
        }
    }
}
