//! numeric: text, binary and the digits that PostgreSQL hashes.
//!
//! Source: `numeric_in`, `set_var_from_str`, `numeric_recv` and `hash_numeric_extended` of `adt/numeric.c`.

use super::text::{is_space, spelled_for_later_versions};
use super::{KeyError, KeyType};

/// More decimal digits than this, or a larger exponent, are not looked into.
const MAX_DIGITS: usize = 10_000;

/// A finite numeric in PostgreSQL's base 10,000, without zero groups at either end; the sign is not kept.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Digits {
    /// Groups of four decimal digits, the most significant first; none for zero.
    pub(crate) groups: Vec<i16>,
    /// Power of 10,000 of the first group.
    pub(crate) weight: i32,
}

impl Digits {
    /// The digits of a canonical spelling; `None` for NaN and the infinities.
    pub(crate) fn from_canonical(text: &str) -> Option<Self> {
        let unsigned = text.strip_prefix('-').unwrap_or(text);
        if !unsigned.starts_with(|c: char| c.is_ascii_digit()) {
            return None;
        }
        let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
        let lead = (4 - whole.len() % 4) % 4;
        let trail = (4 - fraction.len() % 4) % 4;
        let zeros = |count| std::iter::repeat_n(b'0', count);
        let decimals: Vec<u8> = zeros(lead)
            .chain(whole.bytes())
            .chain(fraction.bytes())
            .chain(zeros(trail))
            .map(|d| d - b'0')
            .collect();
        let (chunks, _) = decimals.as_chunks::<4>();
        let mut groups: Vec<i16> = chunks
            .iter()
            .map(|chunk| chunk.iter().fold(0, |value, digit| value * 10 + i16::from(*digit)))
            .collect();
        let whole_groups = i32::try_from((whole.len() + lead) / 4).ok()?;
        let leading = groups.iter().take_while(|group| **group == 0).count();
        groups.drain(..leading);
        while groups.last() == Some(&0) {
            groups.pop();
        }
        let weight = whole_groups - 1 - i32::try_from(leading).ok()?;
        Some(Self { groups, weight })
    }
}

/// Reads a numeric and spells it canonically.
pub(super) fn parse(text: &str) -> Result<String, KeyError> {
    let invalid = || KeyType::Numeric.invalid(text);
    let trimmed = text.trim_matches(is_space);
    if let Some(special) = special(trimmed) {
        return Ok(special.to_owned());
    }
    let negative = trimmed.starts_with('-');
    let unsigned = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
    if spelled_for_later_versions(unsigned) {
        return Err(KeyError::ambiguous(format!("\"{text}\" is a number from PostgreSQL 16 on only")));
    }
    let mantissa_end = unsigned.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(unsigned.len());
    let (mantissa, rest) = unsigned.split_at(mantissa_end);
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    if fraction.contains('.') || (whole.is_empty() && fraction.is_empty()) {
        return Err(invalid());
    }
    let exponent = match rest.strip_prefix(['e', 'E']) {
        None if rest.is_empty() => 0,
        None => return Err(invalid()),
        Some(exponent) => exponent_value(exponent, text)?,
    };
    if whole.len() + fraction.len() > MAX_DIGITS {
        return Err(KeyError::ambiguous("a number of very many digits"));
    }
    Ok(canonical(negative, whole, fraction, exponent))
}

fn special(text: &str) -> Option<&'static str> {
    Some(match text.to_ascii_lowercase().as_str() {
        "nan" => "NaN",
        "infinity" | "+infinity" | "inf" | "+inf" => "Infinity",
        "-infinity" | "-inf" => "-Infinity",
        _ => return None,
    })
}

fn exponent_value(exponent: &str, text: &str) -> Result<i32, KeyError> {
    if exponent.starts_with(is_space) || exponent.contains('_') {
        return Err(KeyError::ambiguous("spaces or underscores in an exponent depend on the version"));
    }
    let unsigned = exponent.strip_prefix(['-', '+']).unwrap_or(exponent);
    let digits = unsigned.bytes().take_while(u8::is_ascii_digit).count();
    let (number, rest) = exponent.split_at(exponent.len() - unsigned.len() + digits);
    if digits == 0 {
        return Err(KeyType::Numeric.invalid(text));
    }
    // Before what follows: PostgreSQL complains of the exponent first.
    let value = number.parse::<i32>().ok().filter(|value| value.unsigned_abs() as usize <= MAX_DIGITS);
    let value = value.ok_or_else(|| KeyError::ambiguous("a number with a very large exponent"))?;
    if rest.is_empty() { Ok(value) } else { Err(KeyType::Numeric.invalid(text)) }
}

/// `whole.fraction × 10^exponent` without superfluous zeros.
fn canonical(negative: bool, whole: &str, fraction: &str, exponent: i32) -> String {
    let mut digits = format!("{whole}{fraction}");
    let mut point = i64::try_from(whole.len()).unwrap_or(i64::MAX) + i64::from(exponent);
    if point < 0 {
        digits.insert_str(0, &"0".repeat(point.unsigned_abs() as usize));
        point = 0;
    }
    let point = point as usize;
    while digits.len() < point {
        digits.push('0');
    }
    let (whole, fraction) = digits.split_at(point);
    let whole = whole.trim_start_matches('0');
    let fraction = fraction.trim_end_matches('0');
    if whole.is_empty() && fraction.is_empty() {
        return "0".to_owned();
    }
    let sign = if negative { "-" } else { "" };
    let whole = if whole.is_empty() { "0" } else { whole };
    if fraction.is_empty() { format!("{sign}{whole}") } else { format!("{sign}{whole}.{fraction}") }
}

const NEGATIVE: u16 = 0x4000;
const NAN: u16 = 0xc000;
const INFINITY: u16 = 0xd000;
const NEGATIVE_INFINITY: u16 = 0xf000;
/// The display scale has 14 bits.
const SCALE_MASK: u16 = 0x3fff;

/// Reads the binary format: number of groups, weight, sign, display scale, groups. Digits beyond the scale are cut off, as
/// `numeric_recv` does.
pub(super) fn parse_binary(bytes: &[u8]) -> Result<String, KeyError> {
    let malformed = || KeyError::Malformed { type_name: KeyType::Numeric.type_name() };
    let (words, []) = bytes.as_chunks::<2>() else { return Err(malformed()) };
    let words: Vec<u16> = words.iter().map(|word| u16::from_be_bytes(*word)).collect();
    let [count, weight, sign, scale, groups @ ..] = &words[..] else { return Err(malformed()) };
    if groups.len() != usize::from(*count)
        || *scale & !SCALE_MASK != 0
        || groups.iter().any(|group| *group > 9_999)
    {
        return Err(malformed());
    }
    let negative = match *sign {
        0 => false,
        NEGATIVE => true,
        NAN => return Ok("NaN".to_owned()),
        INFINITY => return Ok("Infinity".to_owned()),
        NEGATIVE_INFINITY => return Ok("-Infinity".to_owned()),
        _ => return Err(malformed()),
    };
    let weight = i32::from(i16::from_be_bytes(weight.to_be_bytes()));
    if groups.len() * 4 > MAX_DIGITS || weight.unsigned_abs() as usize * 4 > MAX_DIGITS {
        return Err(KeyError::ambiguous("a number of very many digits"));
    }
    let mut digits: String = groups.iter().map(|group| format!("{group:04}")).collect();
    // All digits as if they were whole, times 10,000 to the weight of the last group.
    let point = (weight + 1) * 4;
    let kept = point + i32::from(*scale);
    digits.truncate(usize::try_from(kept.max(0)).unwrap_or(0));
    let length = i32::try_from(digits.len()).unwrap_or(i32::MAX);
    Ok(canonical(negative, &digits, "", point - length))
}
