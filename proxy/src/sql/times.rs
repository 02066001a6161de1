//! Whether a text has literals that may be dates or times, whose meaning depends on TimeZone, DateStyle or IntervalStyle.

use super::lexer::{Kind, Lexer};

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];

/// Errs on the side of yes: a number with a separator and another number, or with the name of a month.
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
    use super::may_have_times;

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
