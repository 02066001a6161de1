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
        types = t.items(at + 1, close).into_iter().map(|(first, end)| t.source(first, end - 1)).collect();
        at = close + 1;
    }
    let (first, last) = (t.list.get(at + 1)?, t.list.last()?);
    t.is(at, "as").then_some(SqlPrepare { types, statement: first.start..last.end })
}

/// The arguments of `EXECUTE name (arguments)` in text format, `None` within for NULL; `None` where one is not a literal whose text
/// is what PostgreSQL's cast to the parameter's type (one of `types`) would make of it.
pub fn arguments(text: &[u8], conforming: bool, types: &[u32]) -> Option<Vec<Option<String>>> {
    let t = Tokens::new(text, conforming);
    if t.len() == 2 {
        return Some(Vec::new());
    }
    let close = t.closing(2).filter(|close| t.is_mark(2, "(") && close + 1 == t.len())?;
    let items = t.items(3, close).into_iter().enumerate();
    let read = |(n, (first, end)): (usize, (usize, usize))| {
        let of = types.get(n).copied().unwrap_or(0);
        fits(&t, end - 1, of).then(|| argument(&t, first, end - 1, conforming)).flatten()
    };
    items.map(read).collect()
}

/// The arguments of `EXECUTE name (arguments)` as they are written, none of them without parentheses; `None` where it is
/// wrong.
pub fn expressions(text: &[u8], conforming: bool) -> Option<Vec<String>> {
    let t = Tokens::new(text, conforming);
    if t.len() == 2 {
        return Some(Vec::new());
    }
    let close = t.closing(2).filter(|close| t.is_mark(2, "(") && close + 1 == t.len() && *close > 3)?;
    Some(t.items(3, close).into_iter().map(|(first, end)| t.source(first, end - 1)).collect())
}

/// `EXPLAIN options EXECUTE name (arguments)`: the name, and where EXECUTE begins.
pub fn explained(text: &[u8], conforming: bool) -> Option<(String, usize)> {
    let t = Tokens::new(text, conforming);
    let mut at = match t.is_mark(1, "(") {
        true => t.closing(1)? + 1,
        false => 1,
    };
    while t.is_any(at, &["analyze", "analyse", "verbose"]) {
        at += 1;
    }
    let found = t.is(0, "explain") && t.is(at, "execute");
    Some((t.name(at + 1).filter(|_| found)?.into_owned(), t.list.get(at)?.start))
}

/// The name of a PREPARE that could not be read.
pub fn unread(text: &[u8], conforming: bool) -> Option<String> {
    let t = Tokens::new(text, conforming);
    let named = t.is(0, "prepare") && !t.is(1, "transaction");
    Some(t.name(1).filter(|_| named)?.into_owned())
}

/// Whether a literal that ends with this token is cast to the type by its text.
fn fits(t: &Tokens<'_>, last: usize, of: u32) -> bool {
    const BOOL: u32 = 16;
    // With the digits that are never too many.
    const INTEGERS: [(u32, usize); 3] = [(20, 18), (21, 4), (23, 9)];
    const FRACTIONS: [u32; 3] = [700, 701, 1700];
    let raw = t.raw(last);
    match t.kind(last) {
        Some(Kind::String) => true,
        Some(Kind::Word) if t.is(last, "null") => true,
        Some(Kind::Word) => of == BOOL,
        Some(Kind::Number) if raw.iter().all(u8::is_ascii_digit) => {
            let fits = |(oid, digits): &(u32, usize)| *oid == of && raw.len() <= *digits;
            INTEGERS.iter().any(fits) || FRACTIONS.contains(&of)
        }
        Some(Kind::Number) => {
            FRACTIONS.contains(&of) && raw.iter().all(|byte| byte.is_ascii_digit() || *byte == b'.')
        }
        _ => false,
    }
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
    fn an_explained_execute_is_found() {
        let read = |text: &str| explained(text.as_bytes(), true);
        assert_eq!(read("EXPLAIN EXECUTE q (7)"), Some(("q".to_owned(), 8)));
        assert_eq!(read("explain (costs off, verbose) execute \"Q\""), Some(("Q".to_owned(), 29)));
        assert_eq!(read("explain analyze verbose execute q"), Some(("q".to_owned(), 24)));
        assert_eq!(read("explain select 1"), None);
        assert_eq!(read("execute q"), None);
        assert_eq!(unread(b"prepare Q (int) as selec", true), Some("q".to_owned()));
        assert_eq!(unread(b"prepare transaction 'x'", true), None);
    }

    #[test]
    fn arguments_are_plain_literals_or_nothing() {
        const TYPES: [u32; 5] = [20, 1700, 25, 25, 16];
        let read = |text: &str| arguments(text.as_bytes(), true, &TYPES);
        let some = |values: &[Option<&str>]| Some(values.iter().map(|v| v.map(str::to_owned)).collect());
        assert_eq!(read("EXECUTE q"), some(&[]));
        assert_eq!(read("EXECUTE q (7, -1.5, 'it''s', NULL, true);"), {
            some(&[Some("7"), Some("-1.5"), Some("it's"), None, Some("true")])
        });
        assert_eq!(read("EXECUTE q (1 + 1)"), None);
        assert_eq!(read("EXECUTE q ('a' 'b')"), None);
        assert_eq!(read("EXECUTE q (now())"), None);
        // What would be rounded or refused is PostgreSQL's to cast.
        let cast = |text: &str, of: u32| arguments(text.as_bytes(), true, &[of]);
        assert_eq!(cast("EXECUTE q (2.5)", 20), None);
        assert_eq!(cast("EXECUTE q (1)", 16), None);
        assert_eq!(cast("EXECUTE q (1)", 25), None);
        assert_eq!(cast("EXECUTE q (true)", 23), None);
        assert_eq!(cast("EXECUTE q ('x'::text)", 23), None);
        assert_eq!(cast("EXECUTE q ('7')", 23), some(&[Some("7")]));
        let written = expressions(b"EXECUTE q (1 + f(2, 3), 'x')", true);
        assert_eq!(written, Some(vec!["1 + f(2, 3)".to_owned(), "'x'".to_owned()]));
    }
}
