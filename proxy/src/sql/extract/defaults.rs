//! Columns of a reference table that INSERT leaves to a default which differs from run to run.

use super::reader::Reader;
use super::write::{Target, is_default as is_default_word};
use crate::sql::facts::{DefaultsShape, Edit};
use crate::sql::parse::ast::{Expr, Parens, Values};
use crate::sql::parse::{end_offset, offset};
use crate::sql::prepass::Overriding;
use crate::sql::schema::{Placement, Relation};
use crate::sql::spelling::quote_ident;

/// Begins what is said of such a column.
const DEFAULT: &str = "the default of ";

/// Whether what differs from run to run is the default of a column that INSERT leaves out.
pub fn is_default(unrepeatable: &str) -> bool {
    unrepeatable.starts_with(DEFAULT)
}

impl Reader<'_, '_> {
    /// A reference table's defaults must not give different values on different shards. `given` tells for each listed
    /// column whether every row has a value of its own for it; `values` are the rows of the statement's own VALUES.
    pub(super) fn omitted_defaults(
        &mut self,
        (columns, given): (&[String], &[bool]),
        target: &Target,
        values: Option<&Values>,
    ) {
        let Some(relation) = target.relation.clone().filter(|r| r.placement == Placement::Reference) else {
            return;
        };
        let omitted = self.omitted(&relation, (columns, given));
        let Some(first) = omitted.first() else { return };
        match values.and_then(|values| self.drawn_defaults(&relation, (columns, given), values, &omitted)) {
            Some(shape) => self.seen.defaults = Some(Box::new(shape)),
            None => {
                let column = &relation.columns[first.column].name;
                self.unrepeatable_because(format!("{DEFAULT}{}.{column}", relation.full_name()));
            }
        }
    }

    /// Columns that a row of MERGE leaves to their defaults: nothing is drawn for them.
    pub(super) fn merged_defaults(&mut self, columns: (&[String], &[bool]), target: &Target) {
        let Some(relation) = target.relation.clone().filter(|r| r.placement == Placement::Reference) else {
            return;
        };
        if let Some(first) = self.omitted(&relation, columns).first() {
            let column = &relation.columns[first.column].name;
            self.unrepeatable_because(format!("DEFAULT of {}.{column}", relation.full_name()));
        }
    }

    /// Columns with a default that differs from run to run, of which not every row has a value.
    fn omitted(&self, relation: &Relation, (columns, given): (&[String], &[bool])) -> Vec<Omitted> {
        let mut omitted = Vec::new();
        for (index, column) in relation.columns.iter().enumerate() {
            let position = match columns {
                [] => Some(index),
                listed => listed.iter().position(|c| *c == column.name),
            };
            let Some(default) = &column.default else { continue };
            let has_value = position.and_then(|p| given.get(p)).copied().unwrap_or(false);
            if !has_value && super::utility::varying_default(self.ctx, default).is_some() {
                omitted.push(Omitted { column: index, position: position.filter(|p| *p < given.len()) });
            }
        }
        omitted
    }

    /// How drawn values get into the rows, in place of the defaults of a reference table.
    fn drawn_defaults(
        &self,
        relation: &Relation,
        (columns, given): (&[String], &[bool]),
        values: &Values,
        omitted: &[Omitted],
    ) -> Option<DefaultsShape> {
        let overriding = self.quirks.overriding.is_some();
        if self.quirks.overriding == Some(Overriding::User) || self.seen.writers != 1 {
            return None;
        }
        let first_row = self.tokens.list.partition_point(|t| {
            values
                .rows
                .first()
                .and_then(|row| offset(row.opening_token.0.span))
                .is_some_and(|start| t.start < start)
        });
        // Tokens before the rows: … [)] [OVERRIDING … VALUE] VALUES
        let before = self.tokens.list.get(first_row.checked_sub(if overriding { 5 } else { 2 })?)?;
        let mut edits = Vec::new();
        let plain = |at: usize, text: String| Edit { at: at..at, text, value: None };
        let new: Vec<&Omitted> = omitted.iter().filter(|omitted| omitted.position.is_none()).collect();
        let names = new.iter().map(|omitted| quote_ident(&relation.columns[omitted.column].name));
        if columns.is_empty() && !new.is_empty() {
            let listed = relation.columns.iter().take(given.len()).map(|column| quote_ident(&column.name));
            edits.push(plain(
                before.end,
                format!(" ({})", listed.chain(names).collect::<Vec<_>>().join(", ")),
            ));
        } else if !new.is_empty() {
            edits.push(plain(before.start, format!(", {}", names.collect::<Vec<_>>().join(", "))));
        }
        let always = omitted.iter().any(|omitted| relation.columns[omitted.column].identity_always);
        if always && !overriding {
            edits.push(plain(before.end, " OVERRIDING SYSTEM VALUE ".to_owned()));
        }
        for (row, content) in values.rows.iter().enumerate() {
            self.row_edits((row, content), omitted, &mut edits)?;
        }
        let column = |omitted: &Omitted| {
            let column = &relation.columns[omitted.column];
            Some((column.default.clone()?, column.type_name.clone()))
        };
        let columns = omitted.iter().map(column).collect::<Option<Vec<_>>>()?;
        Some(DefaultsShape { columns, rows: values.rows.len(), edits })
    }

    /// DEFAULT gives way to a drawn value; columns that are not listed get theirs at the end of the row.
    fn row_edits(
        &self,
        (row, content): (usize, &Parens<Vec<Expr>>),
        omitted: &[Omitted],
        edits: &mut Vec<Edit>,
    ) -> Option<()> {
        let mut inside: Vec<Edit> = Vec::new();
        let end = end_offset(content.closing_token.0.span)? - 1;
        let mut at_end = Vec::new();
        for (column, omitted) in omitted.iter().enumerate() {
            match omitted.position.and_then(|position| content.content.get(position)) {
                Some(Expr::Identifier(word)) if is_default_word(&Expr::Identifier(word.clone())) => {
                    let at = offset(word.span)?..end_offset(word.span)?;
                    inside.push(Edit { at, text: String::new(), value: Some((row, column)) });
                }
                // A value of its own in this row.
                Some(_) => {}
                None if omitted.position.is_none() => {
                    let text = ", ".to_owned();
                    at_end.push(Edit { at: end..end, text, value: Some((row, column)) });
                }
                None => return None,
            }
        }
        inside.sort_by_key(|edit| edit.at.start);
        edits.append(&mut inside);
        edits.append(&mut at_end);
        Some(())
    }
}

/// A column that some row leaves to its default.
struct Omitted {
    /// Index in the table.
    column: usize,
    /// Position in the rows, if it is listed.
    position: Option<usize>,
}
