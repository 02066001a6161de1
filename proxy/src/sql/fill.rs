//! CREATE TEMPORARY TABLE … AS and SELECT … INTO TEMPORARY, taken apart: the table is made without rows by the home shard, out of the
//! query as it is; the query is run as any query is, and its rows are put into the table.

use super::extract::Context;
use super::schema::Placement;
use super::tokens::Tokens;

/// The pieces of such a statement.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fill {
    /// Makes the table, without rows.
    pub make: String,
    /// The query; `None`: WITH NO DATA.
    pub query: Option<String>,
    /// The table's name.
    pub name: String,
}

/// Takes a statement apart; the error says what stands in the way.
pub fn shape(text: &str, ctx: &Context<'_>) -> Result<Fill, String> {
    let t = Tokens::new(text.as_bytes(), ctx.standard_conforming_strings);
    let fill = if t.is(0, "create") { created(&t, text)? } else { selected(&t, text)? };
    let hidden = ctx.schema.lookup(ctx.search_path, None, &fill.name);
    match hidden.filter(|hidden| !matches!(hidden.placement, Placement::Unsharded | Placement::Catalog)) {
        Some(hidden) => Err(format!("it would hide the table {}", hidden.full_name())),
        None => Ok(fill),
    }
}

fn created(t: &Tokens<'_>, text: &str) -> Result<Fill, String> {
    let mut at = 1;
    while t.is_any(at, &["global", "local", "temp", "temporary"]) {
        at += 1;
    }
    if !t.is(at, "table") {
        return Err("it makes no table".to_owned());
    }
    if t.is(at + 1, "if") {
        return Err("IF NOT EXISTS".to_owned());
    }
    let (_, name, next) = t.qualified(at + 1).ok_or("its table is not found")?;
    let body = outermost(t, next, "as").ok_or("it has no query")? + 1;
    if t.is(body, "execute") {
        return Err("EXECUTE".to_owned());
    }
    let mut end = t.len();
    while end > body && t.is_mark(end - 1, ";") {
        end -= 1;
    }
    let without = end > body + 3 && t.is(end - 3, "with") && t.is(end - 2, "no") && t.is(end - 1, "data");
    let with = end > body + 2 && t.is(end - 2, "with") && t.is(end - 1, "data");
    end -= if without { 3 } else { 2 * usize::from(with) };
    let (Some(first), Some(last)) = (t.list.get(body), t.list.get(end - 1)) else {
        return Err("it has no query".to_owned());
    };
    let query = text.get(first.start..last.end).unwrap_or_default();
    let make = format!("{} WITH NO DATA", text.get(..last.end).unwrap_or_default());
    Ok(Fill { make, query: (!without).then(|| query.to_owned()), name })
}

fn selected(t: &Tokens<'_>, text: &str) -> Result<Fill, String> {
    let into = outermost(t, 0, "into").ok_or("its INTO is not found")?;
    let mut at = into + 1;
    while t.is_any(at, &["temp", "temporary", "table", "local", "global"]) {
        at += 1;
    }
    let (schema, name, next) = t.qualified(at).ok_or("its table is not found")?;
    let start = t.list.get(into).map_or(0, |token| token.start);
    let end = next.checked_sub(1).and_then(|last| t.list.get(last)).map_or(start, |token| token.end);
    let query = format!("{}{}", text.get(..start).unwrap_or_default(), text.get(end..).unwrap_or_default());
    let query = query.trim_end().trim_end_matches(';').to_owned();
    let schema = schema.map_or(String::new(), |schema| format!("{}.", super::spelling::quote_ident(&schema)));
    let quoted = super::spelling::quote_ident(&name);
    let make = format!("CREATE TEMPORARY TABLE {schema}{quoted} AS {query} WITH NO DATA");
    Ok(Fill { make, query: Some(query), name })
}

/// The first such word outside of parentheses.
fn outermost(t: &Tokens<'_>, from: usize, word: &str) -> Option<usize> {
    t.outermost(from, t.len()).find(|&at| t.is(at, word))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn both(text: &str) -> Result<Fill, String> {
        let t = Tokens::new(text.as_bytes(), true);
        if t.is(0, "create") { created(&t, text) } else { selected(&t, text) }
    }

    #[test]
    fn the_query_is_taken_out() {
        let cases = [
            (
                "create temp table x as select 1",
                "create temp table x as select 1 WITH NO DATA",
                Some("select 1"),
            ),
            (
                "CREATE LOCAL TEMPORARY TABLE pg_temp.\"X\" (a, b) WITH (fillfactor = 50) ON COMMIT DROP AS (SELECT 1, 2) WITH DATA;",
                "CREATE LOCAL TEMPORARY TABLE pg_temp.\"X\" (a, b) WITH (fillfactor = 50) ON COMMIT DROP AS (SELECT 1, 2) WITH NO DATA",
                Some("(SELECT 1, 2)"),
            ),
            (
                "create temp table x as table t with no data",
                "create temp table x as table t WITH NO DATA",
                None,
            ),
            (
                "with q as (select a as into_a from t) select * into temp table x from q",
                "CREATE TEMPORARY TABLE \"x\" AS with q as (select a as into_a from t) select *  from q WITH NO DATA",
                Some("with q as (select a as into_a from t) select *  from q"),
            ),
        ];
        for (text, make, query) in cases {
            let fill = both(text).expect(text);
            assert_eq!((fill.make.as_str(), fill.query.as_deref()), (make, query), "{text}");
        }
        for text in [
            "create temp table if not exists x as select 1",
            "create temp view x as select 1",
            "create temp table x as execute q",
        ] {
            assert!(both(text).is_err(), "{text}");
        }
    }
}
