//! `pg_listening_channels()` in a text, replaced by the channels themselves: the connection that runs the text is not the one that
//! listens.

use super::tokens::Tokens;

/// What may follow an item of FROM or of a select list that has no alias.
const ENDS: [&str; 8] = ["where", "order", "group", "limit", "offset", "union", "from", "cross"];

/// The text with `channels` in place of the one call in it; `None` where the call is in a place of an unknown form.
pub fn with_channels<'c>(
    text: &[u8],
    conforming: bool,
    channels: impl Iterator<Item = &'c str>,
) -> Option<String> {
    let t = Tokens::new(text, conforming);
    let mut calls = (0..t.len()).filter(|at| {
        t.name(*at).is_some_and(|name| name == "pg_listening_channels") && t.is_mark(at + 1, "(")
    });
    let call = calls.next().filter(|_| calls.next().is_none())?;
    let qualified = call >= 2 && t.is_mark(call - 1, ".") && t.is(call - 2, "pg_catalog");
    let first = if qualified { call - 2 } else { call };
    let last = call + 2;
    let before = first.checked_sub(1)?;
    if !t.is_mark(last, ")") || !(t.is(before, "select") || t.is(before, "from") || t.is_mark(before, ",")) {
        return None;
    }
    let next = last + 1;
    let bare = next == t.len() || t.is_mark(next, ",") || t.is_mark(next, ")") || t.is_any(next, &ENDS);
    let alias = if bare { " AS pg_listening_channels" } else { "" };
    if !bare && t.name(next).is_none() {
        // An operator or a cast: the name of the column would be lost.
        return None;
    }
    let quoted: Vec<String> = channels.map(|name| format!("'{}'", name.replace('\'', "''"))).collect();
    // Inside of a dollar quote nothing could be told from its end, so the names are plain literals.
    let rows = format!("pg_catalog.unnest(ARRAY[{}]::pg_catalog.text[]){alias}", quoted.join(","));
    let (start, end) = (t.list[first].start, t.list[last].end);
    let head = String::from_utf8_lossy(&text[..start]);
    let tail = String::from_utf8_lossy(&text[end..]);
    Some(format!("{head}{rows}{tail}"))
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
            ("select pg_listening_channels()", "select § AS pg_listening_channels"),
            ("select * from pg_listening_channels();", "select * from § AS pg_listening_channels;"),
            ("SELECT * FROM pg_catalog.pg_listening_channels() c", "SELECT * FROM § c"),
            ("select pg_listening_channels() as x", "select § as x"),
            (
                "select array(select pg_listening_channels() order by 1)",
                "select array(select § AS pg_listening_channels order by 1)",
            ),
        ] {
            assert_eq!(spliced(text), Some(expected.replace('§', rows)), "{text}");
        }
    }

    #[test]
    fn a_call_in_another_place_is_left_alone() {
        assert_eq!(spliced("select count(pg_listening_channels())"), None);
        assert_eq!(spliced("select pg_listening_channels() || 'x'"), None);
        assert_eq!(spliced("select pg_listening_channels(), pg_listening_channels()"), None);
        assert_eq!(spliced("select 1"), None);
    }
}
