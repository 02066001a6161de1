//! Values in PostgreSQL's binary format.

use crate::house::Ty;

/// The binary form of a value in text format; `None` for types whose parameters go as text.
///
/// Source: the `*_send` functions of PostgreSQL's types.
pub(crate) fn binary(ty: Ty, value: &str) -> Option<Vec<u8>> {
    match ty {
        Ty::Int2 => Some(value.parse::<i16>().ok()?.to_be_bytes().to_vec()),
        Ty::Int4 => Some(value.parse::<i32>().ok()?.to_be_bytes().to_vec()),
        Ty::Int8 => Some(value.parse::<i64>().ok()?.to_be_bytes().to_vec()),
        Ty::Float => Some(value.parse::<f64>().ok()?.to_be_bytes().to_vec()),
        Ty::Bool => Some(vec![u8::from(value == "t")]),
        Ty::Text | Ty::Title | Ty::Char | Ty::Condition => Some(value.as_bytes().to_vec()),
        Ty::Uuid => {
            let digits: String = value.chars().filter(|c| *c != '-').collect();
            Some(u128::from_str_radix(&digits, 16).ok()?.to_be_bytes().to_vec())
        }
        Ty::Date => Some(days(value)?.to_be_bytes().to_vec()),
        Ty::Stamp => {
            let (day, time) = value.split_once(' ')?;
            let (hour, rest) = time.split_once(':')?;
            let minute = rest.split_once(':')?.0;
            let minutes = hour.parse::<i64>().ok()? * 60 + minute.parse::<i64>().ok()?;
            Some(((i64::from(days(day)?) * 1440 + minutes) * 60_000_000).to_be_bytes().to_vec())
        }
        Ty::Bytes => {
            let digits = value.strip_prefix("\\x")?;
            let pairs =
                (0..digits.len()).step_by(2).map(|at| u8::from_str_radix(digits.get(at..at + 2)?, 16).ok());
            pairs.collect()
        }
        // Version 1 of the format.
        Ty::Json => Some([b"\x01", value.as_bytes()].concat()),
        Ty::Folded => Some(value.as_bytes().to_vec()),
        Ty::Tags | Ty::Conditions | Ty::Span => None,
        Ty::Numeric | Ty::Fee => numeric(value),
    }
}

/// Days from 2000-01-01 to a date of 2024.
fn days(date: &str) -> Option<i32> {
    const BEFORE: [i32; 4] = [0, 31, 60, 91];
    let mut parts = date.split('-').map(|part| part.parse::<i32>().ok());
    let (_, month, day) = (parts.next()??, parts.next()??, parts.next()??);
    Some(8_766 + BEFORE.get(usize::try_from(month).ok()? - 1)? + day - 1)
}

/// A numeric from 0 to 9,999 with at most four places.
fn numeric(value: &str) -> Option<Vec<u8>> {
    let (whole, places) = value.split_once('.').unwrap_or((value, ""));
    let whole: i16 = whole.parse().ok()?;
    let part: i16 = format!("{places:0<4}").parse().ok()?;
    let (weight, digits) = match (whole, part) {
        (0, 0) => (0, vec![]),
        (0, part) => (-1, vec![part]),
        (whole, 0) => (0, vec![whole]),
        (whole, part) => (0, vec![whole, part]),
    };
    let header = [digits.len() as i16, weight, 0, places.len() as i16];
    Some(header.iter().chain(&digits).flat_map(|word| word.to_be_bytes()).collect())
}
