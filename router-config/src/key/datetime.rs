//! date and timestamp with time zone, in ISO forms whose meaning depends on no setting.
//!
//! PostgreSQL reads far more (month names, `now`, `1/2/2003`, julian days, …); what such a text means depends on DateStyle,
//! TimeZone, the clock or the version, or is rare enough: it is ambiguous here.

use std::fmt;

use super::KeyError;

const MICROS_PER_SECOND: i64 = 1_000_000;
const SECONDS_PER_DAY: i64 = 86_400;
const MICROS_PER_DAY: i64 = SECONDS_PER_DAY * MICROS_PER_SECOND;
/// Days from 1970-01-01 to 2000-01-01.
const EPOCH_SHIFT: i64 = 10_957;

fn ambiguous(text: &str) -> KeyError {
    KeyError::ambiguous(format!("what \"{text}\" means depends on settings; write it in ISO form"))
}

/// `2024-02-29`, `infinity`, `-infinity`.
pub(super) fn parse_date(text: &str) -> Result<i32, KeyError> {
    let trimmed = text.trim_matches(super::text::is_space);
    match trimmed.to_ascii_lowercase().as_str() {
        "infinity" => return Ok(i32::MAX),
        "-infinity" => return Ok(i32::MIN),
        _ => {}
    }
    let date = iso_date(trimmed).ok_or_else(|| ambiguous(text))?;
    let days = date.days().ok_or_else(|| KeyError::NoSuchTime { text: text.to_owned() })?;
    i32::try_from(days).map_err(|_| ambiguous(text))
}

/// `2024-02-29 23:59:59.999999+05:30`, with `T` and `Z` too, `infinity`, `-infinity`. Without a zone it is ambiguous.
pub(super) fn parse_timestamptz(text: &str) -> Result<i64, KeyError> {
    let trimmed = text.trim_matches(super::text::is_space);
    match trimmed.to_ascii_lowercase().as_str() {
        "infinity" => return Ok(i64::MAX),
        "-infinity" => return Ok(i64::MIN),
        _ => {}
    }
    let (date, time) = trimmed.split_once([' ', 'T']).ok_or_else(|| ambiguous(text))?;
    let date = iso_date(date).ok_or_else(|| ambiguous(text))?;
    let (clock, zone) = match time.find(['Z', '+', '-']) {
        Some(at) => time.split_at(at),
        None => return Err(ambiguous(text)),
    };
    let micros = clock_micros(clock).ok_or_else(|| ambiguous(text))?;
    let offset = zone_seconds(zone).ok_or_else(|| ambiguous(text))?;
    let days = date.days().ok_or_else(|| KeyError::NoSuchTime { text: text.to_owned() })?;
    Ok(days * MICROS_PER_DAY + micros - offset * MICROS_PER_SECOND)
}

struct CivilDate {
    year: i64,
    month: i64,
    day: i64,
}

/// Four digits, two, two.
fn iso_date(text: &str) -> Option<CivilDate> {
    let mut parts = text.split('-');
    let (year, month, day) = (parts.next()?, parts.next()?, parts.next()?);
    let date = CivilDate { year: digits(year, 4)?, month: digits(month, 2)?, day: digits(day, 2)? };
    (parts.next().is_none() && date.year > 0).then_some(date)
}

fn digits(text: &str, count: usize) -> Option<i64> {
    let good = text.len() == count && text.bytes().all(|digit| digit.is_ascii_digit());
    if good { text.parse().ok() } else { None }
}

/// `HH:MM`, `HH:MM:SS`, `HH:MM:SS.f` with up to six digits.
fn clock_micros(text: &str) -> Option<i64> {
    let mut parts = text.split(':');
    let (hour, minute) = (digits(parts.next()?, 2)?, digits(parts.next()?, 2)?);
    let (second, fraction) = match parts.next() {
        Some(seconds) => seconds.split_once('.').map_or((seconds, None), |(whole, part)| (whole, Some(part))),
        None => ("00", None),
    };
    let micros = match fraction {
        Some(part) if (1..=6).contains(&part.len()) => {
            digits(part, part.len())? * 10_i64.pow(6 - part.len() as u32)
        }
        Some(_) => return None,
        None => 0,
    };
    let second = digits(second, 2)?;
    let plain = parts.next().is_none() && hour < 24 && minute < 60 && second < 60;
    plain.then_some(((hour * 60 + minute) * 60 + second) * MICROS_PER_SECOND + micros)
}

/// `Z`, `+HH`, `+HHMM`, `+HH:MM`, `+HH:MM:SS`, in seconds east of Greenwich.
fn zone_seconds(text: &str) -> Option<i64> {
    if text == "Z" {
        return Some(0);
    }
    let (sign, offset) = match text.as_bytes().first()? {
        b'+' => (1, &text[1..]),
        b'-' => (-1, &text[1..]),
        _ => return None,
    };
    if !offset.is_ascii() {
        return None;
    }
    let parts: Vec<&str> = match offset.len() {
        4 => vec![&offset[..2], &offset[2..]],
        _ => offset.split(':').collect(),
    };
    let mut numbers = [0_i64; 3];
    if parts.len() > numbers.len() {
        return None;
    }
    for (number, part) in numbers.iter_mut().zip(parts) {
        *number = digits(part, 2)?;
    }
    let [hours, minutes, seconds] = numbers;
    (hours <= 15 && minutes < 60 && seconds < 60).then_some(sign * ((hours * 60 + minutes) * 60 + seconds))
}

impl CivilDate {
    /// Days since 2000-01-01 in the proleptic Gregorian calendar; `None` if there is no such day.
    fn days(&self) -> Option<i64> {
        let Self { year, month, day } = *self;
        if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
            return None;
        }
        // Years start in March, so that the leap day is the last one.
        let shifted_year = if month <= 2 { year - 1 } else { year };
        let era = shifted_year.div_euclid(400);
        let year_of_era = shifted_year.rem_euclid(400);
        let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
        let day_of_era = year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year;
        Some(era * 146_097 + day_of_era - 719_468 - EPOCH_SHIFT)
    }

    fn from_days(days: i64) -> Self {
        let shifted = days + 719_468 + EPOCH_SHIFT;
        let era = shifted.div_euclid(146_097);
        let day_of_era = shifted.rem_euclid(146_097);
        let year_of_era =
            (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
        let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
        let shifted_month = (5 * day_of_year + 2) / 153;
        let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
        let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
        let year = year_of_era + era * 400 + i64::from(month <= 2);
        Self { year, month, day }
    }

    /// The date, and whether it is before Christ.
    fn write(&self, f: &mut fmt::Formatter<'_>) -> Result<bool, fmt::Error> {
        let before_christ = self.year <= 0;
        let year = if before_christ { 1 - self.year } else { self.year };
        write!(f, "{year:04}-{:02}-{:02}", self.month, self.day)?;
        Ok(before_christ)
    }
}

fn days_in_month(year: i64, month: i64) -> i64 {
    let leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    match month {
        2 if leap => 29,
        2 => 28,
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// ISO style.
pub(super) fn write_date(f: &mut fmt::Formatter<'_>, days: i32) -> fmt::Result {
    match days {
        i32::MAX => return f.write_str("infinity"),
        i32::MIN => return f.write_str("-infinity"),
        _ => {}
    }
    let before_christ = CivilDate::from_days(days.into()).write(f)?;
    f.write_str(if before_christ { " BC" } else { "" })
}

/// ISO style, in UTC.
pub(super) fn write_timestamptz(f: &mut fmt::Formatter<'_>, micros: i64) -> fmt::Result {
    match micros {
        i64::MAX => return f.write_str("infinity"),
        i64::MIN => return f.write_str("-infinity"),
        _ => {}
    }
    let before_christ = CivilDate::from_days(micros.div_euclid(MICROS_PER_DAY)).write(f)?;
    let time = micros.rem_euclid(MICROS_PER_DAY);
    let seconds = time / MICROS_PER_SECOND;
    write!(f, " {:02}:{:02}:{:02}", seconds / 3_600, seconds / 60 % 60, seconds % 60)?;
    let fraction = time % MICROS_PER_SECOND;
    if fraction != 0 {
        f.write_str(format!(".{fraction:06}").trim_end_matches('0'))?;
    }
    f.write_str("+00")?;
    f.write_str(if before_christ { " BC" } else { "" })
}
