//! What PostgreSQL's grammar has and the parser has not, rewritten on the token level before parsing.
//!
//! Each rule either leaves out tokens that say nothing about placement (`OVERRIDING …`, `EXCLUDE TIES`, the arbiter of
//! ON CONFLICT), or puts them in an equivalent form that the parser knows (`TABLE x`, `type 'literal'`), and records
//! in [`Quirks`] what the extractor has to know. What cannot be rewritten safely is an error, never a guess.

use super::lexer::Kind;
use super::parse::is_keyword;
use super::tokens::Tokens;

/// A token for the parser.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Piece {
    /// Token of the statement, by index.
    Source(usize),
    /// A keyword put in.
    Word(&'static str),
    /// Punctuation put in.
    Mark(&'static str),
}

/// What was taken out of the statement.
#[derive(Debug, Default, Clone)]
pub(super) struct Quirks {
    /// OVERRIDING SYSTEM VALUE or OVERRIDING USER VALUE.
    pub(super) overriding: Option<Overriding>,
    /// WHERE CURRENT OF.
    pub(super) current_of: bool,
    /// SELECT … INTO: the target, and whether it is temporary.
    pub(super) select_into: Option<(String, bool)>,
    /// FOR UPDATE and its kin.
    pub(super) locks: bool,
    /// The tables named by OF in it; empty: all.
    pub(super) lock_of: Vec<String>,
    /// For each ON CONFLICT with a list, the plain columns in it.
    pub(super) arbiters: Vec<Vec<String>>,
    /// A COLLATE with a collation that may find different texts equal.
    pub(super) collates: bool,
}

/// OVERRIDING … VALUE.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Overriding {
    /// SYSTEM: given values win over GENERATED ALWAYS.
    System,
    /// USER: given values are ignored, the sequence wins.
    User,
}

/// A statement ready for the parser.
#[derive(Debug, Default)]
pub(super) struct Prepared {
    pub(super) pieces: Vec<Piece>,
    pub(super) quirks: Quirks,
}

/// Rewrites the tokens from `first` on.
pub(super) fn prepare(t: &Tokens<'_>, first: usize) -> Result<Prepared, String> {
    let mut out = Prepared { pieces: Vec::with_capacity(t.len() + 8), quirks: Quirks::default() };
    let wrapped = wrapped_source(t, first);
    let mut at = first;
    while at < t.len() {
        if wrapped.is_some_and(|(open, close)| at == open || at == close) {
            at += 1;
            continue;
        }
        let next = match t.kind(at) {
            Some(Kind::Unterminated) => return Err("unterminated literal or comment".to_string()),
            Some(Kind::Word) => word(t, at, first, &mut out)?,
            Some(Kind::Quoted | Kind::QuotedUnicode) => names(t, at, &mut out)?,
            Some(kind) if is_string(kind) => string(t, at)?,
            Some(Kind::Punct) => punct(t, at),
            _ => None,
        };
        at = next.unwrap_or_else(|| {
            out.pieces.push(Piece::Source(at));
            at + 1
        });
    }
    Ok(out)
}

/// The parentheses around the whole source of `INSERT INTO t (a) (SELECT …)`.
fn wrapped_source(t: &Tokens<'_>, first: usize) -> Option<(usize, usize)> {
    let query = ["select", "with", "values"];
    if !(t.is(first, "insert") && t.is(first + 1, "into")) {
        return None;
    }
    let (_, _, mut at) = t.qualified(first + 2)?;
    at += if t.is(at, "as") { 2 } else { 0 };
    if t.is_mark(at, "(") && !t.is_any(at + 1, &query) {
        at = t.closing(at)? + 1;
    }
    at += if t.is(at, "overriding") { 3 } else { 0 };
    let close = t.closing(at).filter(|_| t.is_mark(at, "(") && t.is_any(at + 1, &query))?;
    let ends = close + 1 == t.len() || t.is(close + 1, "returning") || t.is(close + 1, "on");
    ends.then_some((at, close))
}

fn is_string(kind: Kind) -> bool {
    matches!(kind, Kind::String | Kind::Escaped | Kind::Unicode | Kind::Dollar | Kind::Bits)
}

fn string_at(t: &Tokens<'_>, at: usize) -> bool {
    t.kind(at).is_some_and(is_string)
}

/// `'a'` newline `'b'` is one literal to PostgreSQL, two to us.
fn string(t: &Tokens<'_>, at: usize) -> Result<Option<usize>, String> {
    if string_at(t, at + 1) {
        return Err("a literal continued on the next line".to_string());
    }
    if t.is(at + 1, "uescape") {
        return Err("UESCAPE".to_string());
    }
    Ok(None)
}

/// `(row).*` expands a composite; `type(n) 'literal'` is not a function with an alias.
fn punct(t: &Tokens<'_>, at: usize) -> Option<usize> {
    let expands = t.is_mark(at, ".") && t.is_mark(at + 1, "*") && at > 0 && t.is_mark(at - 1, ")");
    expands.then_some(at + 2)
}

/// Rules that start with a keyword; `Some` is the index to go on from.
fn word(t: &Tokens<'_>, at: usize, first: usize, out: &mut Prepared) -> Result<Option<usize>, String> {
    let before = at.checked_sub(1).filter(|b| *b >= first);
    let after = |words: &[&str]| before.is_some_and(|b| t.is_any(b, words));
    let mark_before = |marks: &[&str]| before.is_some_and(|b| marks.iter().any(|m| t.is_mark(b, m)));
    // Words after a dot are names, whatever they are.
    if mark_before(&["."]) {
        return Ok(None);
    }
    let next = match t.keyword(at).as_str() {
        "overriding" if t.is_any(at + 1, &["system", "user"]) && t.is(at + 2, "value") => {
            let system = t.is(at + 1, "system");
            out.quirks.overriding = Some(if system { Overriding::System } else { Overriding::User });
            Some(at + 3)
        }
        "only" if !after(&["row", "rows", "read"]) => Some(at + 1),
        "current" if t.is(at + 1, "of") && after(&["where"]) => {
            out.quirks.current_of = true;
            out.pieces.push(Piece::Word("TRUE"));
            Some(at + 3)
        }
        "into" if !after(&["insert", "merge"]) => Some(select_into(t, at, out)?),
        "variadic" if mark_before(&["(", ","]) => Some(at + 1),
        "operator" if quantified(t, at) => {
            out.pieces.push(Piece::Source(at + 4));
            Some(at + 6)
        }
        "exclude" => exclude(t, at),
        "symmetric" | "asymmetric" if after(&["between"]) => Some(at + 1),
        "table" if query_position(t, before) && t.name(at + 1).is_some() && !t.is_mark(at + 1, "(") => {
            out.pieces.extend([Piece::Word("SELECT"), Piece::Mark("*"), Piece::Word("FROM")]);
            Some(at + 1)
        }
        "collate" => collate(t, at, out),
        "isnull" if !t.is_mark(at + 1, "(") && before.is_some() => {
            out.pieces.extend([Piece::Word("IS"), Piece::Word("NULL")]);
            Some(at + 1)
        }
        "on" if t.is(at + 1, "conflict") => {
            // The parser would take ON for the name of the last item.
            if ends_with_items(t, at) {
                out.pieces.extend([Piece::Word("WHERE"), Piece::Word("TRUE")]);
            }
            arbiter(t, at, out)?
        }
        "for" => lock(t, at, out),
        "as" if t.is_mark(at + 1, "(") && mark_before(&[")"]) => column_definitions(t, at),
        "using" if t.is_mark(at + 1, "(") => using_alias(t, at, out),
        "rows" if t.is(at + 1, "from") && t.is_mark(at + 2, "(") => {
            if !after(&["lateral"]) {
                out.pieces.push(Piece::Word("LATERAL"));
            }
            out.pieces.extend([Piece::Source(at + 2), Piece::Word("SELECT")]);
            Some(at + 3)
        }
        _ => None,
    };
    if next.is_some() { Ok(next) } else { names(t, at, out) }
}

/// Rules that start with a name: subscripts of assigned columns, column lists of INSERT, `type 'literal'`.
fn names(t: &Tokens<'_>, at: usize, out: &mut Prepared) -> Result<Option<usize>, String> {
    if at > 0 && t.is_mark(at - 1, ".") {
        return Ok(None);
    }
    let Some((_, _, end)) = t.qualified(at) else { return Ok(None) };
    let listed = at > 0 && (t.is(at - 1, "set") || t.is_mark(at - 1, ",") || t.is_mark(at - 1, "("));
    let after = subscripts(t, end).filter(|_| listed && t.is_mark(end, "["));
    if let Some(next) = after {
        let assigned = t.is_mark(next, "=") && !t.is_mark(at - 1, "(");
        if assigned || in_insert_columns(t, at, next) {
            out.pieces.extend((at..end).map(Piece::Source));
            return Ok(Some(next));
        }
    }
    let word = end == at + 1 && t.kind(at) == Some(Kind::Word);
    if string_at(t, end) && !(word && is_keyword(&t.keyword(at))) {
        string(t, end)?;
        out.pieces.extend([Piece::Word("CAST"), Piece::Mark("("), Piece::Source(end), Piece::Word("AS")]);
        out.pieces.extend((at..end).map(Piece::Source));
        out.pieces.push(Piece::Mark(")"));
        return Ok(Some(end + 1));
    }
    Ok(None)
}

/// End of `[…][…]` at `at` when nothing but numbers, parameters and names is inside.
fn subscripts(t: &Tokens<'_>, mut at: usize) -> Option<usize> {
    while t.is_mark(at, "[") {
        at += 1;
        while !t.is_mark(at, "]") {
            if t.is_mark(at, "(") || t.is_mark(at, "[") || at >= t.len() {
                return None;
            }
            at += 1;
        }
        at += 1;
    }
    Some(at)
}

/// Whether the name at `at` stands in the column list of `INSERT INTO t (…)`.
fn in_insert_columns(t: &Tokens<'_>, at: usize, next: usize) -> bool {
    if !(t.is_mark(next, ",") || t.is_mark(next, ")")) {
        return false;
    }
    let mut open = at;
    while open > 0 && !t.is_mark(open, "(") {
        if t.is_any(open, &["select", "values"]) {
            return false;
        }
        open -= 1;
    }
    (open.saturating_sub(7)..open).any(|i| t.is(i, "into") && i > 0 && t.is(i - 1, "insert"))
}

fn select_into(t: &Tokens<'_>, at: usize, out: &mut Prepared) -> Result<usize, String> {
    let mut next = at + 1;
    let mut temporary = false;
    while t.is_any(next, &["temp", "temporary", "unlogged", "table", "local", "global"]) {
        temporary |= t.is_any(next, &["temp", "temporary"]);
        next += 1;
    }
    let (schema, name, end) = t.qualified(next).ok_or("INTO without a name")?;
    temporary |= schema.as_deref() == Some("pg_temp");
    out.quirks.select_into = Some((name, temporary));
    Ok(end)
}

/// `OPERATOR(pg_catalog.=) ANY (…)`: the same as `= ANY (…)`, as the catalog's operators are what signs mean.
fn quantified(t: &Tokens<'_>, at: usize) -> bool {
    t.is_mark(at + 1, "(")
        && t.is(at + 2, "pg_catalog")
        && t.is_mark(at + 3, ".")
        && t.is_mark(at + 4, "=")
        && t.is_mark(at + 5, ")")
        && t.is_any(at + 6, &["any", "some", "all"])
}

/// EXCLUDE of a window frame.
fn exclude(t: &Tokens<'_>, at: usize) -> Option<usize> {
    let length = match (t.keyword(at + 1).as_str(), t.keyword(at + 2).as_str()) {
        ("current", "row") | ("no", "others") => 3,
        ("group" | "ties", _) => 2,
        _ => return None,
    };
    t.is_mark(at + length, ")").then_some(at + length)
}

/// Whether a query may begin after the token `before`.
fn query_position(t: &Tokens<'_>, before: Option<usize>) -> bool {
    let words = ["union", "intersect", "except", "all", "distinct", "as", "materialized"];
    before.is_none_or(|b| t.is_mark(b, "(") || t.is_mark(b, ")") || t.is_any(b, &words))
}

fn collate(t: &Tokens<'_>, at: usize, out: &mut Prepared) -> Option<usize> {
    let (_, name, end) = t.qualified(at + 1)?;
    let plain = ["C", "POSIX", "default", "ucs_basic"].contains(&name.as_str());
    out.quirks.collates |= !plain;
    Some(end)
}

/// Whether the query in front of `end` is a SELECT without FROM or any other clause.
fn ends_with_items(t: &Tokens<'_>, end: usize) -> bool {
    const CLAUSES: [&str; 14] = [
        "select", "values", "from", "where", "group", "having", "window", "order", "limit", "offset",
        "fetch", "for", "union", "insert",
    ];
    let mut depth = 0_usize;
    for at in (0..end).rev() {
        if t.is_mark(at, ")") {
            depth += 1;
        } else if t.is_mark(at, "(") {
            match depth.checked_sub(1) {
                Some(outer) => depth = outer,
                None => return false,
            }
        } else if depth == 0 && t.is_any(at, &CLAUSES) && !(at > 0 && t.is_mark(at - 1, ".")) {
            return t.is(at, "select");
        }
    }
    false
}

/// `ON CONFLICT (expressions) WHERE predicate` up to DO.
fn arbiter(t: &Tokens<'_>, at: usize, out: &mut Prepared) -> Result<Option<usize>, String> {
    if !t.is_mark(at + 2, "(") {
        return Ok(None);
    }
    let mut next = t.closing(at + 2).ok_or("unbalanced parentheses")? + 1;
    let first = |at: &usize| t.is_mark(at - 1, "(") || t.is_mark(at - 1, ",");
    let plain = |at: &usize| !t.is_mark(at + 1, "(") && !t.is_mark(at + 1, ".");
    let columns = (at + 3..next - 1).filter(first).filter(plain).filter_map(|at| t.name(at));
    out.quirks.arbiters.push(columns.map(|name| name.into_owned()).collect());
    if t.is(next, "where") {
        while !(t.is(next, "do") && t.is_any(next + 1, &["update", "nothing"])) {
            if t.is_mark(next, "(") {
                next = t.closing(next).ok_or("unbalanced parentheses")?;
            }
            next += 1;
            if next >= t.len() {
                return Err("ON CONFLICT without DO".to_string());
            }
        }
    }
    out.pieces.extend([Piece::Source(at), Piece::Source(at + 1)]);
    Ok(Some(next))
}

/// FOR [NO KEY] UPDATE | FOR [KEY] SHARE [OF …] [NOWAIT | SKIP LOCKED].
fn lock(t: &Tokens<'_>, at: usize, out: &mut Prepared) -> Option<usize> {
    let mut next = match (t.keyword(at + 1).as_str(), t.keyword(at + 2).as_str(), t.keyword(at + 3).as_str())
    {
        ("no", "key", "update") => at + 4,
        ("key", "share", _) => at + 3,
        ("update" | "share", ..) => at + 2,
        _ => return None,
    };
    if t.is(next, "of") {
        loop {
            let (_, name, end) = t.qualified(next + 1)?;
            out.quirks.lock_of.push(name);
            next = end;
            if !t.is_mark(next, ",") {
                break;
            }
        }
    }
    if t.is(next, "nowait") {
        next += 1;
    } else if t.is(next, "skip") && t.is(next + 1, "locked") {
        next += 2;
    }
    out.quirks.locks = true;
    Some(next)
}

/// `f() AS (a int, b text)`.
fn column_definitions(t: &Tokens<'_>, at: usize) -> Option<usize> {
    let queries = ["select", "with", "insert", "update", "delete", "values", "merge", "table"];
    if t.is_any(at + 2, &queries) || t.is_mark(at + 2, "(") || t.name(at + 2).is_none() {
        return None;
    }
    Some(t.closing(at + 1)? + 1)
}

/// `JOIN … USING (a, b) AS alias`.
fn using_alias(t: &Tokens<'_>, at: usize, out: &mut Prepared) -> Option<usize> {
    let close = t.closing(at + 1)?;
    let columns = (at + 2..close).all(|i| t.name(i).is_some() || t.is_mark(i, ","));
    if !columns || t.is_any(at + 2, &["select", "values", "table"]) || !t.is(close + 1, "as") {
        return None;
    }
    out.pieces.extend((at..=close).map(Piece::Source));
    Some(close + 3)
}
