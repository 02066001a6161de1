//! Where the clauses of the statement's own SELECT stand in its text.
//!
//! The tokens between the parentheses of a subquery are not looked at: what is found is outside of all of them.

use std::ops::Range;

use crate::sql::tokens::Tokens;

/// Tokens of the parts of a SELECT, by their numbers.
#[derive(Debug, Default)]
pub(super) struct ClauseSpans {
    /// Items of the select list.
    pub(super) items: Vec<Range<usize>>,
    /// Expressions of ORDER BY, without their directions.
    pub(super) keys: Vec<Range<usize>>,
    /// The expression of LIMIT or FETCH FIRST; empty where the one row of FETCH FIRST ROW is not written.
    pub(super) limit: Option<Range<usize>>,
    /// The expression of OFFSET.
    pub(super) offset: Option<Range<usize>>,
}

/// Words that begin a clause which can follow ORDER BY.
const LATE: [&str; 5] = ["limit", "offset", "fetch", "for", "order"];

impl ClauseSpans {
    /// Of the only SELECT outside of parentheses. `None` where it is not as it should be.
    pub(super) fn of(t: &Tokens<'_>) -> Option<Self> {
        let outer = outside(t);
        let word = |at: usize, words: &[&str]| outer[at] && t.is_any(at, words) && !is_name(t, at);
        let select = (0..t.len()).find(|&at| word(at, &["select"]))?;
        let from = (select + 1..t.len()).find(|&at| {
            // IS DISTINCT FROM
            word(at, &["from"]) && !(t.is(at - 1, "distinct") && at - 1 > select + 1)
        })?;
        if (from..t.len()).any(|at| word(at, &["select", "union", "intersect", "except"])) {
            return None;
        }
        let mut spans =
            Self { items: split(t, &outer, after_distinct(t, select + 1)..from), ..Self::default() };
        let next = |at: usize| (at..t.len()).find(|&at| word(at, &LATE)).unwrap_or(t.len());
        let mut at = next(from);
        while at < t.len() {
            let end = next(at + 1);
            match t.keyword(at).as_str() {
                "order" => {
                    spans.keys = split(t, &outer, at + 2..end).into_iter().map(|key| bare(t, key)).collect()
                }
                "limit" => spans.limit = Some(at + 1..end),
                "offset" => {
                    let rows = t.is_any(end - 1, &["row", "rows"]);
                    spans.offset = Some(at + 1..end - usize::from(rows));
                }
                "fetch" => spans.limit = Some(fetched(t, at..end)?),
                _ => {}
            }
            at = end;
        }
        Some(spans)
    }
}

/// For each token whether it is outside of all parentheses and brackets.
fn outside(t: &Tokens<'_>) -> Vec<bool> {
    let mut depth = 0_usize;
    let depth_of = |at: usize| {
        if t.is_mark(at, ")") || t.is_mark(at, "]") {
            depth = depth.saturating_sub(1);
        }
        let outer = depth == 0;
        if t.is_mark(at, "(") || t.is_mark(at, "[") {
            depth += 1;
        }
        outer
    };
    (0..t.len()).map(depth_of).collect()
}

/// `t.order`, `1 AS limit`
fn is_name(t: &Tokens<'_>, at: usize) -> bool {
    at > 0 && (t.is_mark(at - 1, ".") || t.is(at - 1, "as"))
}

/// Behind `ALL`, `DISTINCT` or `DISTINCT ON (…)`.
fn after_distinct(t: &Tokens<'_>, at: usize) -> usize {
    if !t.is_any(at, &["distinct", "all"]) {
        return at;
    }
    match t.is(at + 1, "on") {
        true => t.closing(at + 2).map_or(at + 1, |close| close + 1),
        false => at + 1,
    }
}

/// The parts between commas.
fn split(t: &Tokens<'_>, outer: &[bool], range: Range<usize>) -> Vec<Range<usize>> {
    let mut parts = Vec::new();
    let mut start = range.start;
    for at in range.clone() {
        if outer[at] && t.is_mark(at, ",") {
            parts.push(start..at);
            start = at + 1;
        }
    }
    parts.push(start..range.end);
    parts
}

/// Without `ASC`, `DESC` and `NULLS …`.
fn bare(t: &Tokens<'_>, key: Range<usize>) -> Range<usize> {
    let mut end = key.end;
    if end >= key.start + 2 && t.is(end - 2, "nulls") && t.is_any(end - 1, &["first", "last"]) {
        end -= 2;
    }
    if end > key.start && t.is_any(end - 1, &["asc", "desc"]) {
        end -= 1;
    }
    key.start..end
}

/// `FETCH FIRST [n] ROWS ONLY`
fn fetched(t: &Tokens<'_>, fetch: Range<usize>) -> Option<Range<usize>> {
    let (first, rows) = (fetch.start + 2, fetch.end.checked_sub(2)?);
    let known =
        t.is_any(first - 1, &["first", "next"]) && t.is_any(rows, &["row", "rows"]) && t.is(rows + 1, "only");
    (known && first <= rows).then_some(first..rows)
}
