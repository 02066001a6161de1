//! Texts that are dates or times: whose meaning depends on TimeZone, DateStyle or IntervalStyle, or on the clock.

use super::lexer::{Kind, Lexer};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// Texts that are read as the time of the statement. Source: PostgreSQL 15, `datetime.sgml`, Special Values.
pub const WORDS: [&str; 4] = ["now", "today", "tomorrow", "yesterday"];

/// Whether this names a type of dates or times, or an array of such.
pub fn is_time(type_name: &str) -> bool {
    let name = type_name.strip_prefix("pg_catalog.").unwrap_or(type_name);
    ["date", "time", "abstime"].iter().any(|head| name.starts_with(head))
}

/// Whether a date or time, an array, a range or a row of such would be read from this text by the clock: an element of it is one of the
/// words, and beside it nothing that no date has.
pub fn names_the_time(text: &str) -> bool {
    let named = |text: &str| text.split(|c| "{}[](),\"\\".contains(c)).any(element_names_the_time);
    // In arrays, rows and documents quotes and backslashes may stand inside of a word, and characters be spelled by their numbers.
    named(text) || (text.contains(['"', '\\']) && (named(&plain(text, false)) || named(&plain(text, true))))
}

/// Without backslashes; characters that are spelled by their numbers (`\u0077`) are read, quotes if so wanted.
fn plain(text: &str, quotes: bool) -> String {
    let mut out = String::with_capacity(text.len());
    let mut rest = text;
    while let Some(at) = rest.find(['"', '\\']) {
        out.push_str(&rest[..at]);
        if rest.as_bytes()[at] == b'"' && quotes {
            out.push('"');
        }
        rest = &rest[at + 1..];
        let number = rest.strip_prefix('u').and_then(|digits| digits.get(..4));
        let named = number.and_then(|digits| u32::from_str_radix(digits, 16).ok()).and_then(char::from_u32);
        if let Some(c) = named.filter(char::is_ascii_alphabetic) {
            out.push(c);
            rest = &rest[5..];
        }
    }
    out.push_str(rest);
    out
}

/// Source: PostgreSQL 15, `datetime.c`, `DecodeDateTime`. With `now` goes neither a time nor a zone.
fn element_names_the_time(element: &str) -> bool {
    const DAYS: [&str; 7] = ["mon", "tue", "wed", "thu", "fri", "sat", "sun"];
    let is = |word: &str, other: &str| word.eq_ignore_ascii_case(other);
    let ignored = |word: &str| {
        let day = |day: &&str| word.get(..3).is_some_and(|head| is(head, day));
        is(word, "at") || is(word, "on") || DAYS.iter().any(day)
    };
    let words = || element.split(|c: char| !c.is_ascii_alphabetic()).filter(|word| !word.is_empty());
    if words().any(|word| is(word, "now")) {
        return words().all(|word| is(word, "now") || ignored(word));
    }
    // A zone has few letters.
    let fits = |word: &str| ignored(word) || word.len() <= 4 || is(word, "allballs");
    let special = |word: &str| WORDS.iter().any(|special| is(word, special));
    words().any(special) && words().all(|word| special(word) || fits(word))
}

/// Whether a text has literals that may be dates or times. Errs on the side of yes: a number with a separator and another number, or with the name of a month.
pub fn may_have_times(text: &[u8], conforming: bool) -> bool {
    Lexer::new(text, conforming).any(|token| {
        let string = matches!(token.kind, Kind::String | Kind::Escaped | Kind::Unicode | Kind::Dollar);
        string && text.get(token.start..token.end).is_some_and(may_be_time)
    })
}

fn may_be_time(literal: &[u8]) -> bool {
    let separated = literal
        .windows(3)
        .any(|w| w[0].is_ascii_digit() && matches!(w[1], b'-' | b'/' | b':' | b'.') && w[2].is_ascii_digit());
    let month = |word: &[u8]| {
        MONTHS
            .iter()
            .any(|month| word.get(..3).is_some_and(|head| head.eq_ignore_ascii_case(month.as_bytes())))
    };
    let names_month = || {
        literal.iter().any(u8::is_ascii_digit) && literal.split(|byte| !byte.is_ascii_alphabetic()).any(month)
    };
    separated || names_month()
}

#[cfg(test)]
mod tests {
    use super::{may_have_times, names_the_time};

    #[test]
    fn words_for_the_time_are_told_from_prose() {
        for text in [
            "now",
            " NOW ",
            "Today",
            "tomorrow 10:00",
            "yesterday allballs",
            "{now,today}",
            "today 10:00 CET",
            "(7,\"at noon, today\",now)",
            "[today,infinity)",
            "mon now",
            "{\"no\\w\"}",
            "(n\"o\"w,1)",
            "{\"x\":\"no\\u0077\"}",
            "{\"x\":\"now\"}",
        ] {
            assert!(names_the_time(text), "{text}");
        }
        for text in
            ["", "known", "snow", "2024-01-01", "buy it now", "Buy Now!", "closing today", "epoch", "nowhere"]
        {
            assert!(!names_the_time(text), "{text}");
        }
    }

    #[test]
    fn dates_and_times_are_told_from_other_strings() {
        for text in ["a = '2024-02-29 12:00'", "a = '1/2/2024'", "a = E'1 May 2024'", "a < $$10:00$$"] {
            assert!(may_have_times(text.as_bytes(), true), "{text}");
        }
        for text in ["a = 'lot 7'", "a > now() - interval '1 day'", "a = 10/2", "a = 'March'", "a = ''"] {
            assert!(!may_have_times(text.as_bytes(), true), "{text}");
        }
    }
}
