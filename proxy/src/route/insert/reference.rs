//! INSERT … VALUES into a reference table whose rows leave columns to defaults that differ from run to run (a sequence, the
//! time, a random value): one shard draws them, and every shard is sent the same rows.

use super::super::place::Case;
use super::super::plan::{Draw, Target};
use super::super::refusal::Refusal;
use super::super::splice::quote;
use crate::sql::facts::{Command, DefaultsShape, Modify};

/// The statement with its defaults; `drawn` are the values, row by row, on the second call.
pub(in crate::route) fn place(
    case: &Case<'_>,
    shape: &DefaultsShape,
    drawn: Option<&[String]>,
) -> Result<Target, Refusal> {
    let refused =
        || Refusal::unrepeatable("a default", "A reference table has the same rows on every shard.");
    if !matches!(case.facts.command, Command::Modify(Modify::Insert)) {
        return Err(refused());
    }
    let Some(drawn) = drawn else {
        let values: Vec<String> =
            shape.columns.iter().map(|(default, _)| format!("({default})::text")).collect();
        let sql = format!(
            "SELECT pg_catalog.unnest(ARRAY[{}]) FROM pg_catalog.generate_series(1, {})",
            values.join(", "),
            shape.rows
        );
        return Ok(Target::Draw(Draw { sql, rows: shape.rows * values.len(), with_params: false }));
    };
    let text = std::str::from_utf8(case.values.statement()).map_err(|_| refused())?;
    let mut out = String::with_capacity(text.len() + 64);
    let mut copied = 0;
    for edit in &shape.edits {
        let at = case.values.here(edit.at.start)..case.values.here(edit.at.end);
        out.push_str(text.get(copied..at.start).ok_or_else(refused)?);
        out.push_str(&edit.text);
        if let Some((row, column)) = edit.value {
            let value = drawn.get(row * shape.columns.len() + column).ok_or_else(refused)?;
            let (_, type_name) = shape.columns.get(column).ok_or_else(refused)?;
            out.push_str(&quote(value, type_name));
        }
        copied = at.end;
    }
    out.push_str(text.get(copied..).ok_or_else(refused)?);
    Ok(Target::EverywhereAs(out))
}
