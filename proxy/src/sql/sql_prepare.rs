//! PREPARE and EXECUTE in SQL, taken apart: the types and the statement of the one, the arguments of the other.

use std::ops::Range;

use super::lexer::Kind;
use super::tokens::Tokens;

/// `PREPARE name (types) AS statement`.
#[derive(Debug, PartialEq, Eq)]
pub struct SqlPrepare {
    /// Type names as written.
    pub types: Vec<String>,
    /// Bytes of the statement.
    pub statement: Range<usize>,
}

/// Takes a PREPARE apart.
pub fn prepare(text: &[u8], conforming: bool) -> Option<SqlPrepare> {
    let t = Tokens::new(text, conforming);
    let mut at = 2;
    let mut types = Vec::new();
    if t.is_mark(at, "(") {
        let close = t.closing(at)?;
        types = items(&t, at, close).into_iter().map(|(first, last)| t.source(first, last)).collect();
        at = close + 1;
    }
    let (first, last) = (t.list.get(at + 1)?, t.list.last()?);
    t.is(at, "as").then_some(SqlPrepare { types, statement: first.start..last.end })
}

/// The arguments of `EXECUTE name (arguments)` in text format, `None` within for NULL; `None` where one is not a plain literal.
pub fn arguments(text: &[u8], conforming: bool) -> Option<Vec<Option<String>>> {
    let t = Tokens::new(text, conforming);
    match t.len() {
        2 => return Some(Vec::new()),
        _ if !t.is_mark(2, "(") => return None,
        _ => {}
    }
    let close = t.closing(2)?;
    if close + 1 != t.len() {
        return None;
    }
    items(&t, 2, close).into_iter().map(|(first, last)| argument(&t, first, last, conforming)).collect()
}

/// The arguments of `EXECUTE name (arguments)` as they are written.
pub fn expressions(text: &[u8], conforming: bool) -> Option<Vec<String>> {
    let t = Tokens::new(text, conforming);
    let close = t.closing(2).filter(|close| t.is_mark(2, "(") && close + 1 == t.len())?;
    Some(items(&t, 2, close).into_iter().map(|(first, last)| t.source(first, last)).collect())
}

/// First and last token of each item between parentheses.
pub(super) fn items(t: &Tokens<'_>, open: usize, close: usize) -> Vec<(usize, usize)> {
    let (mut items, mut first, mut depth) = (Vec::new(), open + 1, 0_usize);
    for at in open + 1..=close {
        if depth == 0 && (at == close || t.is_mark(at, ",")) {
            if first < at {
                items.push((first, at - 1));
            }
            first = at + 1;
        } else if t.is_mark(at, "(") || t.is_mark(at, "[") {
            depth += 1;
        } else if t.is_mark(at, ")") || t.is_mark(at, "]") {
            depth = depth.saturating_sub(1);
        }
    }
    items
}

/// A plain literal in text format, `None` within for NULL.
pub(super) fn argument(
    t: &Tokens<'_>,
    first: usize,
    last: usize,
    conforming: bool,
) -> Option<Option<String>> {
    let text = |at| std::str::from_utf8(t.raw(at)).ok();
    match (t.kind(first)?, last - first) {
        (Kind::Number, 0) => Some(Some(text(first)?.to_owned())),
        (Kind::Operator, 1) if t.is_mark(first, "-") && t.kind(last) == Some(Kind::Number) => {
            Some(Some(format!("-{}", text(last)?)))
        }
        (Kind::Word, 0) if t.is(first, "null") => Some(None),
        (Kind::Word, 0) if t.is_any(first, &["true", "false"]) => Some(Some(text(first)?.to_owned())),
        (Kind::String, 0) => {
            let inner = text(first)?.strip_prefix('\'')?.strip_suffix('\'')?;
            // A literal continued on the next line has a quote in the middle; a backslash may mean something.
            let plain = conforming || !inner.contains('\\');
            let unquoted = inner.replace("''", "");
            (plain && !unquoted.contains('\'')).then(|| Some(inner.replace("''", "'")))
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prepare_is_taken_apart() {
        let text = "PREPARE q (bigint, numeric(12, 2)) AS select $1, $2;";
        let parts = prepare(text.as_bytes(), true).expect("a PREPARE");
        assert_eq!(parts.types, ["bigint", "numeric(12, 2)"]);
        assert_eq!(&text[parts.statement], "select $1, $2");
        let text = "prepare q as select 1";
        assert_eq!(&text[prepare(text.as_bytes(), true).expect("a PREPARE").statement], "select 1");
        assert_eq!(prepare(b"prepare q", true), None);
    }

    #[test]
    fn arguments_are_plain_literals_or_nothing() {
        let read = |text: &str| arguments(text.as_bytes(), true);
        let some = |values: &[Option<&str>]| Some(values.iter().map(|v| v.map(str::to_owned)).collect());
        assert_eq!(read("EXECUTE q"), some(&[]));
        assert_eq!(read("EXECUTE q (7, -1.5, 'it''s', NULL, true);"), {
            some(&[Some("7"), Some("-1.5"), Some("it's"), None, Some("true")])
        });
        assert_eq!(read("EXECUTE q (1 + 1)"), None);
        assert_eq!(read("EXECUTE q ('a' 'b')"), None);
        assert_eq!(read("EXECUTE q (now())"), None);
        let written = expressions(b"EXECUTE q (1 + f(2, 3), 'x')", true);
        assert_eq!(written, Some(vec!["1 + f(2, 3)".to_owned(), "'x'".to_owned()]));
    }
}
