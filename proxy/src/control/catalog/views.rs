//! Which output column of a view carries the shard key, read from the definition as PostgreSQL prints it
//! (`pg_get_viewdef(oid, true)`).
//!
//! `Some` is claimed only when rows of one key come from that key's rows alone: one SELECT without aggregate, DISTINCT,
//! LIMIT, window or set operation, over sharded tables joined on the key and reference tables on the inner side.
//! Whatever is not understood is `None`.

use crate::sql::stored::{Token, tokens};

/// A relation that the view reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Base<'a> {
    pub(crate) schema: &'a str,
    pub(crate) name: &'a str,
    /// Name of its key column; `None` for a reference table.
    pub(crate) key: Option<&'a str>,
}

/// Words that end the claim wherever they occur.
const EXCLUDED: [&str; 20] = [
    "group",
    "having",
    "distinct",
    "limit",
    "offset",
    "fetch",
    "union",
    "intersect",
    "except",
    "over",
    "window",
    "right",
    "full",
    "natural",
    "values",
    "lateral",
    "tablesample",
    "insert",
    "update",
    "delete",
];

/// Words that follow a relation in FROM.
const AFTER_RELATION: [&str; 7] = ["join", "left", "inner", "cross", "on", "using", "where"];

/// A relation in FROM.
struct Item<'a> {
    alias: String,
    base: Base<'a>,
    nullable: bool,
}

/// 0-based output column that carries the key. `plain` says of a function name that it is neither an aggregate nor a
/// window function and returns no set.
pub(crate) fn key_output(
    definition: &str,
    bases: &[Base<'_>],
    plain: &dyn Fn(&str) -> bool,
) -> Option<usize> {
    let all = tokens(definition);
    let tokens = all.strip_suffix(&[Token::Sign(';')]).unwrap_or(&all);
    let selects = tokens.iter().filter(|token| token.is("select")).count();
    if selects != 1 || !tokens.first()?.is("select") {
        return None;
    }
    if tokens.iter().any(|token| EXCLUDED.iter().any(|word| token.is(word))) {
        return None;
    }
    for pair in tokens.windows(2) {
        if pair[1].sign('(') && pair[0].name().is_some_and(|name| !plain(name)) {
            return None;
        }
    }
    let from = top_level(tokens, 0, &["from"])?;
    let end = top_level(tokens, from, &["where"]).unwrap_or(tokens.len());
    if top_level(tokens, from, &["for"]).is_some() {
        return None;
    }
    let items = from_items(&tokens[from + 1..end], bases)?;
    select_list(&tokens[1..from]).iter().position(|output| carries_key(output, &items))
}

fn carries_key(output: &[Token], items: &[Item<'_>]) -> bool {
    let plain = match output {
        [head @ .., as_word, _] if as_word.is("as") => head,
        other => other,
    };
    let sure = |item: &&Item<'_>| !item.nullable && item.base.key.is_some();
    match plain {
        [table, dot, column] if dot.sign('.') => items
            .iter()
            .filter(sure)
            .any(|item| table.name() == Some(item.alias.as_str()) && column.name() == item.base.key),
        [column] => items.len() == 1 && items.iter().filter(sure).any(|item| column.name() == item.base.key),
        _ => false,
    }
}

/// FROM with its joins; `None` when anything in it is not a plain relation, or sharded ones are not joined on the key.
fn from_items<'a>(tokens: &[Token], bases: &[Base<'a>]) -> Option<Vec<Item<'a>>> {
    let mut items: Vec<Item<'a>> = Vec::new();
    let mut at = 0;
    let mut left = false;
    loop {
        let (base, alias, after) = relation(tokens, at, bases)?;
        at = after;
        let item = Item { alias, base, nullable: left };
        let condition_end = top_level(tokens, at, &["join", "left", "inner", "cross"]);
        let comma = tokens.iter().enumerate().skip(at).find(|(_, token)| token.sign(',')).map(|(at, _)| at);
        let stop = condition_end.unwrap_or(tokens.len());
        let condition = match tokens.get(at) {
            Some(token) if token.is("on") => Some(&tokens[at + 1..stop]),
            Some(token) if token.is("using") => return None,
            _ => None,
        };
        let sharded_before = items.iter().any(|other| other.base.key.is_some());
        if item.base.key.is_some() {
            let joined = condition.is_some_and(|condition| joins_on_key(condition, &item, &items));
            if (sharded_before && !joined) || (left && !sharded_before) {
                return None;
            }
        }
        items.push(item);
        at = if condition.is_some() { stop } else { at };
        match tokens.get(at) {
            None => return Some(items),
            Some(token) if token.sign(',') && comma == Some(at) => {
                at += 1;
                left = false;
            }
            Some(token) if token.is("join") => {
                at += 1;
                left = false;
            }
            Some(token)
                if (token.is("left") || token.is("cross") || token.is("inner"))
                    && tokens.get(at + 1)?.is("join") =>
            {
                left = token.is("left");
                at += 2;
            }
            Some(_) => return None,
        }
    }
}

/// `[schema.]name [alias]`
fn relation<'a>(tokens: &[Token], at: usize, bases: &[Base<'a>]) -> Option<(Base<'a>, String, usize)> {
    let first = tokens.get(at)?.name()?;
    let (schema, name, mut next) = match (tokens.get(at + 1), tokens.get(at + 2)) {
        (Some(dot), Some(name)) if dot.sign('.') => (Some(first), name.name()?, at + 3),
        _ => (None, first, at + 1),
    };
    let mut matching =
        bases.iter().filter(|base| base.name == name && schema.is_none_or(|schema| base.schema == schema));
    let base = *matching.next()?;
    if matching.next().is_some() {
        return None;
    }
    let alias = match tokens.get(next) {
        Some(Token::Word(word)) if !AFTER_RELATION.contains(&word.as_str()) => Some(word),
        Some(Token::Quoted(word)) => Some(word),
        Some(Token::Word(_) | Token::Text(_) | Token::Sign(_)) | None => None,
    };
    next += usize::from(alias.is_some());
    if tokens.get(next).is_some_and(|token| token.sign('(')) {
        return None;
    }
    Some((base, alias.map_or_else(|| name.to_owned(), Clone::clone), next))
}

/// A conjunct `x.key = y.key` at the top of the condition, x being the new relation and y a sharded one before it.
fn joins_on_key(condition: &[Token], new: &Item<'_>, before: &[Item<'_>]) -> bool {
    if top_level(condition, 0, &["or", "not", "case", "between"]).is_some() {
        return false;
    }
    let is = |table: &Token, column: &Token, item: &Item<'_>| {
        table.name() == Some(item.alias.as_str()) && column.name() == item.base.key && item.base.key.is_some()
    };
    condition.split(|token| token.is("and")).any(|conjunct| {
        let [t1, d1, c1, equals, t2, d2, c2] = conjunct else { return false };
        if !(d1.sign('.') && equals.sign('=') && d2.sign('.')) {
            return false;
        }
        before
            .iter()
            .filter(|item| !item.nullable)
            .any(|other| (is(t1, c1, new) && is(t2, c2, other)) || (is(t2, c2, new) && is(t1, c1, other)))
    })
}

fn select_list(tokens: &[Token]) -> Vec<&[Token]> {
    let mut parts = Vec::new();
    let mut start = 0;
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate() {
        depth += depth_change(token);
        if depth == 0 && token.sign(',') {
            parts.push(&tokens[start..at]);
            start = at + 1;
        }
    }
    parts.push(&tokens[start..]);
    parts
}

/// First of `words` outside of parentheses, from `start` on.
fn top_level(tokens: &[Token], start: usize, words: &[&str]) -> Option<usize> {
    let mut depth = 0_i32;
    for (at, token) in tokens.iter().enumerate().skip(start) {
        depth += depth_change(token);
        if depth == 0 && words.iter().any(|word| token.is(word)) {
            return Some(at);
        }
    }
    None
}

fn depth_change(token: &Token) -> i32 {
    match token {
        Token::Sign('(' | '[') => 1,
        Token::Sign(')' | ']') => -1,
        Token::Sign(_) | Token::Word(_) | Token::Quoted(_) | Token::Text(_) => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(sql: &str) -> Option<usize> {
        let base = |name, key| Base { schema: "public", name, key };
        let bases =
            [base("bids", Some("auction_id")), base("auctions", Some("auction_id")), base("users", None)];
        key_output(sql, &bases, &|name| !matches!(name, "count" | "unnest" | "row_number"))
    }

    #[test]
    fn plain_projections_carry_the_key() {
        assert_eq!(check(" SELECT id, auction_id FROM public.bids WHERE amount > 10;"), Some(1));
        assert_eq!(check(" SELECT bids.auction_id AS a FROM public.bids;"), Some(0));
        assert_eq!(
            check(
                "SELECT lower(u.name) AS n, b.auction_id FROM public.bids b JOIN public.users u ON b.uid = u.id"
            ),
            Some(1)
        );
        assert_eq!(
            check(
                "SELECT b.auction_id FROM public.bids b LEFT JOIN public.users u ON b.uid = u.id WHERE b.x IN (1, 2)"
            ),
            Some(0)
        );
        assert_eq!(
            check(
                "SELECT a.auction_id FROM public.auctions a JOIN public.bids b ON a.auction_id = b.auction_id AND b.x > 1"
            ),
            Some(0)
        );
        assert_eq!(
            check(
                "SELECT a.auction_id FROM public.auctions a LEFT JOIN public.bids b ON b.auction_id = a.auction_id"
            ),
            Some(0)
        );
        assert_eq!(
            check(
                "SELECT b.id, a.auction_id FROM public.users u, public.auctions a LEFT JOIN public.bids b ON b.auction_id = a.auction_id"
            ),
            Some(1)
        );
    }

    #[test]
    fn everything_else_does_not() {
        for sql in [
            "SELECT auction_id + 1 AS auction_id FROM public.bids",
            "SELECT auction_id::text AS auction_id FROM public.bids",
            "SELECT id AS auction_id FROM public.bids",
            "SELECT DISTINCT auction_id FROM public.bids",
            "SELECT auction_id, count(*) AS n FROM public.bids GROUP BY auction_id",
            "SELECT auction_id FROM public.bids LIMIT 1",
            "SELECT auction_id FROM public.bids UNION SELECT auction_id FROM public.auctions",
            "SELECT auction_id, row_number() OVER () AS n FROM public.bids",
            "SELECT auction_id FROM public.bids WHERE id IN (SELECT id FROM public.users)",
            "SELECT a.auction_id FROM public.auctions a, public.bids b WHERE a.auction_id = b.auction_id",
            "SELECT a.auction_id FROM public.auctions a JOIN public.bids b ON a.auction_id = b.auction_id OR true",
            "SELECT a.auction_id FROM public.auctions a JOIN public.bids b ON a.id = b.auction_id",
            "SELECT b.auction_id FROM public.auctions a LEFT JOIN public.bids b ON b.auction_id = a.auction_id",
            "SELECT b.auction_id FROM public.users u LEFT JOIN public.bids b ON b.uid = u.id",
            "SELECT b.auction_id FROM public.bids b RIGHT JOIN public.users u ON b.uid = u.id",
            "SELECT auction_id FROM public.nothing",
            "SELECT unnest(x) AS auction_id FROM public.bids",
            "SELECT auction_id FROM public.bids FOR UPDATE",
            "",
        ] {
            assert_eq!(check(sql), None, "{sql}");
        }
    }
}
