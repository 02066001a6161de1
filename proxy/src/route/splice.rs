//! Texts made from the application's text: by cutting and inserting at exact byte positions, never by printing a tree.

use std::fmt::Write;
use std::ops::Range;

use super::origins::Origins;
use super::refusal::Refusal;
use super::values::Values;
use crate::sql::facts::{DrawShape, InsertRow, InsertShape, ValueRef};
use crate::sql::lexer::{Kind, Lexer};

/// An INSERT to be cut up.
pub(super) struct Source<'a> {
    text: &'a str,
    values: &'a Values<'a>,
    shape: &'a InsertShape,
    /// For each row the literal that stands for its drawn key.
    drawn: Vec<Option<String>>,
}

impl<'a> Source<'a> {
    /// `drawn`: keys for the rows that leave it to the default, in order; empty when nothing was drawn.
    pub(super) fn new(
        values: &'a Values<'a>,
        shape: &'a InsertShape,
        drawn: &[String],
    ) -> Result<Self, Refusal> {
        let text = std::str::from_utf8(values.statement()).map_err(|_| {
            Refusal::not_placed("The text is not UTF-8, and its rows belong to several shards.")
        })?;
        let mut drawn = drawn.iter();
        let literals = shape.rows.iter().map(|row| match (&shape.draw, &row.key.value) {
            (Some(draw), ValueRef::Default) => drawn.next().map(|value| quote(value, &draw.type_name)),
            _ => None,
        });
        let drawn = literals.collect();
        Ok(Self { text, values, shape, drawn })
    }

    /// The statement with these rows only, the original number of each of its parameters, and where its pieces come from.
    pub(super) fn part(&self, rows: &[usize]) -> (String, Vec<u16>, Origins) {
        let mut out = Writer {
            text: String::with_capacity(self.text.len()),
            params: Some(Vec::new()),
            places: Vec::new(),
            origins: Origins::default(),
            conforming: self.values.rules.standard_strings,
        };
        let draws = rows.iter().any(|&row| self.drawn.get(row).is_some_and(Option::is_some));
        let here = |at| self.values.here(at);
        let start = here(self.shape.values.start);
        head(&mut out, self.text, self.shape.draw.as_ref().filter(|_| draws), (start, &here));
        for (n, &row) in rows.iter().enumerate() {
            let Some(shape) = self.shape.rows.get(row) else { continue };
            if n > 0 {
                out.text.push_str(", ");
            }
            let drawn = self.drawn.get(row).and_then(Option::as_deref);
            one_row(&mut out, self.text, shape, (drawn, &here));
        }
        out.copy(self.text, here(self.shape.values.end)..self.text.len());
        (out.text, out.params.unwrap_or_default(), out.origins)
    }
}

/// `'42'::bigint`
pub(super) fn quote(value: &str, type_name: &str) -> String {
    let prefix = if value.contains('\\') { " E" } else { "" };
    format!("{prefix}'{}'::{type_name}", value.replace('\\', "\\\\").replace('\'', "''"))
}

/// Everything before the first row, with what a drawn key needs.
fn head(out: &mut Writer, text: &str, draw: Option<&DrawShape>, at: (usize, &dyn Fn(usize) -> usize)) {
    let (start, here) = at;
    let mut from = 0;
    if let Some(draw) = draw {
        if let Some((at, columns)) = &draw.column_at {
            out.copy(text, from..here(*at));
            out.text.push_str(columns);
            from = here(*at);
        }
        if let Some(at) = draw.overriding_at {
            out.copy(text, from..here(at));
            out.text.push_str(" OVERRIDING SYSTEM VALUE ");
            from = here(at);
        }
    }
    out.copy(text, from..start);
}

fn one_row(out: &mut Writer, text: &str, row: &InsertRow, drawn: (Option<&str>, &dyn Fn(usize) -> usize)) {
    let (drawn, here) = drawn;
    let span = here(row.span.start)..here(row.span.end);
    let Some(drawn) = drawn else { return out.copy(text, span) };
    let at = here(row.draw_at.start)..here(row.draw_at.end);
    out.copy(text, span.start..at.start);
    if at.is_empty() {
        out.text.push_str(", ");
    }
    out.text.push_str(drawn);
    out.copy(text, at.end..span.end);
}

/// Copies pieces of a text, giving its parameters new numbers in order of appearance (or leaving them: `params: None`).
struct Writer {
    text: String,
    params: Option<Vec<u16>>,
    /// The new number of each parameter, by its own; 0: it has none yet.
    places: Vec<u16>,
    origins: Origins,
    /// `standard_conforming_strings`
    conforming: bool,
}

impl Writer {
    fn copy(&mut self, text: &str, range: Range<usize>) {
        let (first, piece) = (range.start, text.get(range).unwrap_or_default());
        let Some(params) = &mut self.params else {
            self.text.push_str(piece);
            return;
        };
        let mut copied = 0;
        for (span, number) in placeholders(piece, self.conforming) {
            let known = usize::from(number);
            if self.places.len() <= known {
                self.places.resize(known + 1, 0);
            }
            if self.places[known] == 0 {
                params.push(number);
                self.places[known] = params.len() as u16;
            }
            self.origins.copied(self.text.len(), span.start + 1 - copied, first + copied);
            self.text.push_str(piece.get(copied..span.start).unwrap_or_default());
            // A text takes what is written to it.
            let _ = write!(self.text, "${}", self.places[known]);
            copied = span.end;
        }
        self.origins.copied(self.text.len(), piece.len().saturating_sub(copied), first + copied);
        self.text.push_str(piece.get(copied..).unwrap_or_default());
    }
}

/// `$n` outside of literals, comments and identifiers. A piece starts and ends between tokens.
fn placeholders(piece: &str, conforming: bool) -> Vec<(Range<usize>, u16)> {
    let tokens = Lexer::new(piece.as_bytes(), conforming).filter(|token| token.kind == Kind::Param);
    tokens
        .filter_map(|token| {
            let number = piece.get(token.start + 1..token.end)?.parse().ok()?;
            Some((token.start..token.end, number))
        })
        .collect()
}

/// An INSERT whose drawn keys are passed as further parameters, so that its text stays the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DrawRewrite {
    /// To be prepared instead of the application's text.
    pub text: String,
    /// The further parameters, in order; their types are named in the text.
    pub extra_params: Vec<ExtraParam>,
}

/// A parameter that carries a drawn key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ExtraParam {
    /// Its number, 1-based.
    pub number: u16,
    /// The row (0-based) whose key it is.
    pub row: u32,
}

/// The text to prepare instead of that of `values`, whose facts have `shape`; `declared` is the number of parameters
/// that the application declares. `None` when no key is left to its default or there would be too many parameters.
pub fn draw_rewrite(values: &Values<'_>, shape: &InsertShape, declared: u16) -> Option<DrawRewrite> {
    let draw = shape.draw.as_ref()?;
    let text = std::str::from_utf8(values.statement()).ok()?;
    let used = shape.rows.iter().flat_map(|row| row.params.iter().copied());
    let mut next = used.chain(shape.outside_params.iter().copied()).max().unwrap_or(0).max(declared);
    let mut out = Writer {
        text: String::with_capacity(text.len() + 32),
        params: None,
        places: Vec::new(),
        origins: Origins::default(),
        conforming: values.rules.standard_strings,
    };
    let mut extra_params = Vec::new();
    let here = |at| values.here(at);
    let mut from = here(shape.values.start);
    head(&mut out, text, Some(draw), (from, &here));
    for (n, row) in shape.rows.iter().enumerate() {
        if row.key.value != ValueRef::Default {
            continue;
        }
        next = next.checked_add(1)?;
        extra_params.push(ExtraParam { number: next, row: u32::try_from(n).ok()? });
        out.copy(text, from..here(row.span.start));
        one_row(&mut out, text, row, (Some(&format!("${next}::{}", draw.type_name)), &here));
        from = here(row.span.end);
    }
    out.copy(text, from..text.len());
    (!extra_params.is_empty()).then_some(DrawRewrite { text: out.text, extra_params })
}
