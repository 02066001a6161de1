//! Spellings of durations, sizes and levels of logs. Pure functions from a text to a value or to what is wrong with it.

use std::time::Duration;

/// What a duration may look like, for messages.
pub(super) const DURATION_CURE: &str = "write a number with a unit, like \"500ms\", \"15s\", \"10min\", \"1h\", \"7d\", or an integer of milliseconds";

/// What a size may look like, for messages.
pub(super) const SIZE_CURE: &str =
    "write a number of bytes, or a text with a unit, like \"64KiB\", \"256MiB\", \"1GB\"";

/// What a log filter may look like, for messages.
pub(super) const LOG_FILTER_CURE: &str =
    "write error, warn, info, debug, trace or off, or a list like \"info,proxy::backend=debug\"";

/// Levels of log lines.
pub(super) const LOG_LEVELS: [&str; 6] = ["error", "warn", "info", "debug", "trace", "off"];

/// Longer durations are taken for a mistake: a hundred years.
const MAX_MILLIS: u64 = 100 * 366 * 24 * 3_600_000;

/// `500ms`, `15s`, `10min`, `1h`, `7d`.
pub(super) fn duration(text: &str) -> Option<Duration> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "ms" => 1,
        "s" => 1_000,
        "min" => 60_000,
        "h" => 3_600_000,
        "d" => 24 * 3_600_000,
        _ => return None,
    };
    number.checked_mul(factor).and_then(duration_from_millis)
}

/// A duration of so many milliseconds, if it is a sensible one.
pub(super) fn duration_from_millis(millis: u64) -> Option<Duration> {
    (millis <= MAX_MILLIS).then(|| Duration::from_millis(millis))
}

/// `512B`, `64KiB`, `256MiB`, `1GiB`; also `kB`, `MB`, `GB`, which mean powers of 1000.
pub(super) fn size(text: &str) -> Option<u64> {
    let (number, unit) = split_unit(text)?;
    let factor = match unit {
        "B" => 1,
        "kB" => 1_000,
        "MB" => 1_000_000,
        "GB" => 1_000_000_000,
        "KiB" => 1 << 10,
        "MiB" => 1 << 20,
        "GiB" => 1 << 30,
        _ => return None,
    };
    number.checked_mul(factor)
}

/// Splits `15 s` or `15s` into its number and its unit.
fn split_unit(text: &str) -> Option<(u64, &str)> {
    let text = text.trim();
    let unit_at = text.find(|c: char| !c.is_ascii_digit())?;
    let number = text[..unit_at].parse().ok()?;
    Some((number, text[unit_at..].trim_start()))
}

/// Checks `LEVEL` and `MODULE=LEVEL`, separated by commas; the part that is neither comes back.
pub(super) fn log_filter(text: &str) -> Result<(), &str> {
    let is_module = |name: &str| {
        !name.is_empty() && name.chars().all(|c| c.is_ascii_alphanumeric() || c == '_' || c == ':')
    };
    for part in text.split(',').map(str::trim) {
        let (module, level) = part.rsplit_once('=').map_or((None, part), |(name, level)| (Some(name), level));
        if !LOG_LEVELS.contains(&level) {
            return Err(level);
        }
        if module.is_some_and(|name| !is_module(name)) {
            return Err(part);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn durations() {
        let ms = |n| Some(Duration::from_millis(n));
        for (text, expected) in [
            ("500ms", ms(500)),
            ("15s", ms(15_000)),
            ("15 s", ms(15_000)),
            ("10min", ms(600_000)),
            ("1h", ms(3_600_000)),
            ("7d", ms(7 * 86_400_000)),
            ("0s", ms(0)),
            ("10m", None),
            ("15", None),
            ("s", None),
            ("-1s", None),
            ("1.5s", None),
            ("99999999999h", None),
            ("999999999999999999999s", None),
            ("", None),
        ] {
            assert_eq!(duration(text), expected, "{text}");
        }
    }

    #[test]
    fn sizes() {
        for (text, expected) in [
            ("512B", Some(512)),
            ("64KiB", Some(65_536)),
            ("256MiB", Some(256 << 20)),
            ("1 GiB", Some(1 << 30)),
            ("1MB", Some(1_000_000)),
            ("1mb", None),
            ("12", None),
            ("99999999999999GiB", None),
        ] {
            assert_eq!(size(text), expected, "{text}");
        }
    }

    #[test]
    fn log_filters() {
        for good in ["info", "off", "info,proxy::backend=debug", "warn, sqlparser=off"] {
            assert_eq!(log_filter(good), Ok(()), "{good}");
        }
        for (bad, part) in [
            ("infoo", "infoo"),
            ("INFO", "INFO"),
            ("info,proxy::backend=debugg,=,[[", "debugg"),
            ("info,=debug", "=debug"),
            ("info,", ""),
        ] {
            assert_eq!(log_filter(bad), Err(part), "{bad}");
        }
    }
}
