//! `SELECT set_config(…)` as the SET that it is, where it is certain to run exactly once.

use super::lexer::Kind;
use super::sql_prepare::argument;
use super::tokens::Tokens;

/// Words after which a select list is no longer one row without conditions.
const CLAUSES: [&str; 16] = [
    "from",
    "where",
    "case",
    "union",
    "intersect",
    "except",
    "limit",
    "offset",
    "having",
    "group",
    "window",
    "order",
    "fetch",
    "for",
    "into",
    "filter",
];

/// An argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Argument {
    /// A literal; `None` for NULL.
    Literal(Option<String>),
    /// `$n`.
    Param(u16),
}

/// One call: name, value, whether for the transaction alone.
pub type Call = [Argument; 3];

/// What pg_dump sets where the server has it: `SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings WHERE name = …`.
pub const WHERE_KNOWN: &str = "restrict_nonsystem_relation_kind";

/// The calls in the select list of `text`, in order; `None` where one has another form.
pub fn calls(text: &[u8], conforming: bool) -> Option<Vec<Call>> {
    let t = Tokens::new(text, conforming);
    if let Some(call) = where_known(&t, conforming) {
        return Some(vec![call]);
    }
    if !t.is(0, "select") || (1..t.len()).any(|at| t.is_any(at, &CLAUSES)) {
        return None;
    }
    let mut calls = Vec::new();
    let mut at = 1;
    while at < t.len() {
        if t.is_mark(at, "(") {
            // A call within parentheses is none that is understood.
            let close = t.closing(at)?;
            if (at..close).any(|inner| is_call(&t, inner)) {
                return None;
            }
            at = close + 1;
        } else if is_call(&t, at) {
            let qualified = at > 2 && t.is_mark(at - 1, ".") && t.is(at - 2, "pg_catalog");
            let first = if qualified { at - 2 } else { at };
            if !(t.is_mark(first - 1, ",") || first == 1) {
                return None;
            }
            let close = t.closing(at + 1)?;
            calls.push(call(&t, at + 1, close, conforming)?);
            at = close + 1;
        } else {
            at += 1;
        }
    }
    (!calls.is_empty()).then_some(calls)
}

/// The call for a row of pg_settings.
fn where_known(t: &Tokens<'_>, conforming: bool) -> Option<Call> {
    if !(t.is(0, "select") && is_call(t, 1) && t.is(3, "name") && t.is_mark(4, ",")) {
        return None;
    }
    let close = t.closing(2)?;
    let behind = t.is(close + 1, "from") && t.is(close + 2, "pg_settings") && t.is(close + 3, "where");
    let equals = t.is(close + 4, "name") && t.is_mark(close + 5, "=");
    let ends = t.len() == close + 7 || (t.len() == close + 8 && t.is_mark(close + 7, ";"));
    let name = argument(t, close + 6, close + 6, conforming)??;
    let (value, local) = match t.items(3, close).as_slice() {
        [_, value, local] => {
            (argument(t, value.0, value.1 - 1, conforming)?, argument(t, local.0, local.1 - 1, conforming)?)
        }
        _ => return None,
    };
    let call = [Some(name), value, local].map(Argument::Literal);
    (behind && equals && ends && call[0] == Argument::Literal(Some(WHERE_KNOWN.to_owned()))).then_some(call)
}

fn is_call(t: &Tokens<'_>, at: usize) -> bool {
    t.name(at).is_some_and(|name| name == "set_config") && t.is_mark(at + 1, "(")
}

fn call(t: &Tokens<'_>, open: usize, close: usize, conforming: bool) -> Option<Call> {
    let mut arguments = t.items(open + 1, close).into_iter().map(|(first, end)| {
        let last = end - 1;
        let cast =
            last == first + 2 && t.is_mark(first + 1, "::") && t.is_any(last, &["text", "bool", "boolean"]);
        let last = if cast { first } else { last };
        match t.kind(first)? {
            Kind::Param if first == last => {
                std::str::from_utf8(t.raw(first)).ok()?.get(1..)?.parse().ok().map(Argument::Param)
            }
            _ => argument(t, first, last, conforming).map(Argument::Literal),
        }
    });
    let found = [arguments.next()??, arguments.next()??, arguments.next()??];
    arguments.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::{Argument, calls};

    fn literal(text: &str) -> Argument {
        Argument::Literal(Some(text.to_owned()))
    }

    #[test]
    fn calls_of_a_plain_select_list_are_understood() {
        let read = |text: &str| calls(text.as_bytes(), true);
        assert_eq!(
            read("SELECT set_config('TimeZone', 'it''s', false);"),
            Some(vec![[literal("TimeZone"), literal("it's"), literal("false")]])
        );
        assert_eq!(
            read("select pg_catalog.set_config('a.b', $1::text, true) as x, set_config($2, null, $3)"),
            Some(vec![
                [literal("a.b"), Argument::Param(1), literal("true")],
                [Argument::Param(2), Argument::Literal(None), Argument::Param(3)],
            ])
        );
        assert_eq!(
            read("SELECT current_setting('jit') AS cur, set_config('jit', 'off', false) AS new"),
            Some(vec![[literal("jit"), literal("off"), literal("false")]])
        );
    }

    #[test]
    fn the_call_of_pg_dump_is_understood() {
        let text = "SELECT set_config(name, 'view, foreign-table', false) FROM pg_settings WHERE name = 'restrict_nonsystem_relation_kind'";
        let expected =
            [literal("restrict_nonsystem_relation_kind"), literal("view, foreign-table"), literal("false")];
        assert_eq!(calls(text.as_bytes(), true), Some(vec![expected]));
    }

    #[test]
    fn other_calls_are_not() {
        for text in [
            "select set_config(name, 'x', false) from pg_settings where name = 'search_path'",
            "select set_config(name, 'x', false) from pg_settings where name = 'restrict_nonsystem_relation_kind' or true",
            "select set_config(name, 'x', false) from pg_settings",
            "select set_config('a', 'b' || 'c', false)",
            "select set_config('a', 'b', false) from t",
            "select coalesce(set_config('a', 'b', false), 'x')",
            "select (select set_config('a', 'b', false))",
            "select case when true then set_config('a', 'b', false) end",
            "select 1 + length(set_config('a', 'b', false))",
            "select 'x' || set_config('a', 'b', false)",
            "with x as (select set_config('a', 'b', false)) select 1",
            "select 1",
        ] {
            assert_eq!(calls(text.as_bytes(), true), None, "{text}");
        }
    }
}
