//! Calls that answer for the session's connection, replaced by what is true of the session: it has many connections.

use super::tokens::Tokens;

/// What may follow an item of FROM or of a select list that has no alias.
const ENDS: [&str; 8] = ["where", "order", "group", "limit", "offset", "union", "from", "cross"];

/// The text with `channels` in place of the one call of pg_listening_channels; `None` where it is in a place of an unknown form.
pub fn with_channels<'c>(
    text: &[u8],
    conforming: bool,
    channels: impl Iterator<Item = &'c str>,
) -> Option<String> {
    let quoted: Vec<String> = channels.map(|name| format!("'{}'", name.replace('\'', "''"))).collect();
    let rows = format!("pg_catalog.unnest(ARRAY[{}]::pg_catalog.text[])", quoted.join(","));
    with_call(text, conforming, "pg_listening_channels", &rows)
}

/// The text with `value` in place of the one call of `function`, under its name; `None` where it is in a place of an unknown form.
pub fn with_call(text: &[u8], conforming: bool, function: &str, value: &str) -> Option<String> {
    let t = Tokens::new(text, conforming);
    let call = only_call(&t, function)?;
    let qualified = call >= 2 && t.is_mark(call - 1, ".") && t.is(call - 2, "pg_catalog");
    let first = if qualified { call - 2 } else { call };
    let last = t.closing(call + 1)?;
    let before = first.checked_sub(1)?;
    if !(t.is(before, "select") || t.is(before, "from") || t.is_mark(before, ",")) {
        return None;
    }
    let next = last + 1;
    let bare = next == t.len() || t.is_mark(next, ",") || t.is_mark(next, ")") || t.is_any(next, &ENDS);
    if !(bare || t.is(next, "as") || t.name(next).is_some()) {
        // An operator or a cast: the name of the column would be lost.
        return None;
    }
    let alias = if bare { format!(" AS {function}") } else { String::new() };
    let (start, end) = (t.list[first].start, t.list[last].end);
    let head = String::from_utf8_lossy(&text[..start]);
    let tail = String::from_utf8_lossy(&text[end..]);
    Some(format!("{head}{value}{alias}{tail}"))
}

/// The source of the one argument of the one call of `function`.
pub fn argument_of(text: &[u8], conforming: bool, function: &str) -> Option<String> {
    let t = Tokens::new(text, conforming);
    let call = only_call(&t, function)?;
    Some(t.source(call + 2, call + 2)).filter(|_| t.closing(call + 1).is_some_and(|close| close > call + 2))
}

fn only_call(t: &Tokens<'_>, function: &str) -> Option<usize> {
    let mut calls =
        (0..t.len()).filter(|at| t.name(*at).is_some_and(|name| name == function) && t.is_mark(at + 1, "("));
    calls.next().filter(|_| calls.next().is_none())
}

#[cfg(test)]
mod tests {
    use super::with_channels;

    fn spliced(text: &str) -> Option<String> {
        with_channels(text.as_bytes(), true, ["a", "it's"].into_iter())
    }

    #[test]
    fn the_call_becomes_the_channels_under_its_own_name() {
        let rows = "pg_catalog.unnest(ARRAY['a','it''s']::pg_catalog.text[])";
        for (text, expected) in [
            ("select pg_listening_channels()", "select @ AS pg_listening_channels"),
            ("select * from pg_listening_channels();", "select * from @ AS pg_listening_channels;"),
            ("SELECT * FROM pg_catalog.pg_listening_channels() c", "SELECT * FROM @ c"),
            ("select pg_listening_channels() as x", "select @ as x"),
            (
                "select array(select pg_listening_channels() order by 1)",
                "select array(select @ AS pg_listening_channels order by 1)",
            ),
        ] {
            assert_eq!(spliced(text), Some(expected.replace('@', rows)), "{text}");
        }
    }

    #[test]
    fn values_take_the_place_of_their_calls() {
        let value = |text: &str| super::with_call(text.as_bytes(), true, "lastval", "7");
        assert_eq!(value("SELECT lastval()").as_deref(), Some("SELECT 7 AS lastval"));
        assert_eq!(value("select pg_catalog.lastval() as id").as_deref(), Some("select 7 as id"));
        assert_eq!(value("select lastval() + 1"), None);
        let argument = |text: &str| super::argument_of(text.as_bytes(), true, "currval");
        assert_eq!(argument("select currval('a_id_seq')").as_deref(), Some("'a_id_seq'"));
        assert_eq!(argument("select lastval()"), None);
    }

    #[test]
    fn a_call_in_another_place_is_left_alone() {
        assert_eq!(spliced("select count(pg_listening_channels())"), None);
        assert_eq!(spliced("select pg_listening_channels() || 'x'"), None);
        assert_eq!(spliced("select pg_listening_channels(), pg_listening_channels()"), None);
        assert_eq!(spliced("select 1"), None);
    }
}
