//! The time in a statement that goes to several shards: one PostgreSQL would read its clock once, so the proxy has one shard
//! read it, and every shard is sent the same text with that time in it.
//!
//! Invariant: nothing but calls of clocks is replaced, and what stands for them has their type.

use std::ops::Range;

use crate::sql::lexer::{Kind, Lexer, Token};

/// One row of two columns of text that no setting changes: the start of the transaction and that of the statement.
pub const DRAW: &str = "SELECT pg_catalog.to_char(pg_catalog.now() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') \
     || '+00', pg_catalog.to_char(pg_catalog.statement_timestamp() AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI:SS.US') || '+00'";

/// What a clock is in terms of the drawn times.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Clock {
    name: &'static str,
    /// A function, with empty parentheses; otherwise a keyword, with a precision at most.
    call: bool,
    type_name: &'static str,
    statement: bool,
}

const fn clock(name: &'static str, call: bool, type_name: &'static str) -> Clock {
    Clock { name, call, type_name, statement: false }
}

const CLOCKS: [Clock; 8] = [
    clock("now", true, "timestamptz"),
    clock("transaction_timestamp", true, "timestamptz"),
    Clock { statement: true, ..clock("statement_timestamp", true, "timestamptz") },
    clock("current_timestamp", false, "timestamptz"),
    clock("localtimestamp", false, "timestamp"),
    clock("current_date", false, "date"),
    clock("current_time", false, "timetz"),
    clock("localtime", false, "time"),
];

/// Whether the text calls a clock.
pub fn any(text: &[u8], conforming: bool) -> bool {
    !found(text, conforming).is_empty()
}

/// The text with the times in place of its clocks; `None` when it has none, or is not UTF-8.
pub fn replaced(text: &[u8], conforming: bool, (transaction, statement): (&str, &str)) -> Option<String> {
    let whole = std::str::from_utf8(text).ok()?;
    let found = found(text, conforming);
    let mut out = String::with_capacity(whole.len() + 64);
    let mut copied = 0;
    for (span, clock, precision) in &found {
        out.push_str(whole.get(copied..span.start)?);
        let time = if clock.statement { statement } else { transaction };
        let precision = precision.as_deref().unwrap_or_default();
        // A prefix of blanks: the word before may touch it.
        out.push_str(&format!(" ('{time}'::timestamptz::{}{precision}) ", clock.type_name));
        copied = span.end;
    }
    out.push_str(whole.get(copied..)?);
    (!found.is_empty()).then_some(out)
}

/// Calls of clocks: where, which, with what precision.
fn found(text: &[u8], conforming: bool) -> Vec<(Range<usize>, Clock, Option<String>)> {
    let tokens: Vec<Token> = Lexer::new(text, conforming).collect();
    let mark = |at: usize, mark: &[u8]| tokens.get(at).is_some_and(|t| &text[t.start..t.end] == mark);
    let mut found = Vec::new();
    for (at, token) in tokens.iter().enumerate() {
        let word = &text[token.start..token.end];
        let known = CLOCKS.iter().find(|clock| word.eq_ignore_ascii_case(clock.name.as_bytes()));
        let (Some(clock), Kind::Word) = (known, token.kind) else { continue };
        let behind_dot = at > 0 && mark(at - 1, b".");
        if clock.call {
            let catalog = behind_dot && at > 1 && {
                let schema = &tokens[at - 2];
                text[schema.start..schema.end].eq_ignore_ascii_case(b"pg_catalog")
            };
            if mark(at + 1, b"(") && mark(at + 2, b")") && (catalog || !behind_dot) {
                let start = if catalog { tokens[at - 2].start } else { token.start };
                found.push((start..tokens[at + 2].end, *clock, None));
            }
            continue;
        }
        if behind_dot || (at > 0 && tokens[at - 1].kind == Kind::Word && is_as(text, &tokens[at - 1])) {
            continue;
        }
        let number = tokens.get(at + 2).filter(|t| t.kind == Kind::Number);
        match number.filter(|_| mark(at + 1, b"(") && mark(at + 3, b")")) {
            Some(number) => {
                let digits = String::from_utf8_lossy(&text[number.start..number.end]);
                found.push((token.start..tokens[at + 3].end, *clock, Some(format!("({digits})"))));
            }
            None => found.push((token.start..token.end, *clock, None)),
        }
    }
    found
}

fn is_as(text: &[u8], token: &Token) -> bool {
    text[token.start..token.end].eq_ignore_ascii_case(b"as")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::sql::clocks::is_clock;

    #[test]
    fn clocks_are_replaced_and_nothing_else() {
        let replace = |text: &str| replaced(text.as_bytes(), true, ("T", "S"));
        assert_eq!(replace("select 'now()', \"now\", t.now, nowhere() -- now()"), None);
        let got = replace(
            "select now(), pg_catalog.now() - x, CURRENT_TIMESTAMP(3), current_date+1 , statement_timestamp()",
        );
        let got = got.expect("there are clocks");
        assert_eq!(
            got,
            "select  ('T'::timestamptz::timestamptz) ,  ('T'::timestamptz::timestamptz)  - x,  \
             ('T'::timestamptz::timestamptz(3)) ,  ('T'::timestamptz::date) +1 ,  ('S'::timestamptz::timestamptz) "
        );
        assert!(any(b"select LocalTime", true) && !any(b"select age(x)", true));
        assert!(is_clock("now()") && !is_clock("random()") && !is_clock("age()"));
        assert!(CLOCKS.iter().all(|clock| is_clock(clock.name)));
        assert_eq!(CLOCKS.len(), crate::sql::clocks::CLOCKS.len(), "each can be replaced");
    }
}
