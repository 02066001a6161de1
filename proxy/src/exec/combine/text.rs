//! What the proxy says to the shards that deliver rows, and to the conn that they are delivered to.

use crate::route::combine::{Combine, Condition, Gathered};
use crate::sql::sources::FilterPart;
use crate::sql::spelling::quote_ident;

/// Runs in the first branch of a query of several tables: a function that is not parallel safe, so that no worker runs a later
/// branch before an earlier one. The setting has no meaning and ends with the transaction.
const IN_ORDER: &str = "(SELECT pg_catalog.set_config('gavel.gather', 'on', true)) IS NOT NULL";

/// Settings under which the text of a value is exactly the value, for the rest of the transaction; what they were is noted. Texts that
/// the application has sent have been read by then, by its own settings.
pub(super) const EXACT: &[u8] = b"SELECT pg_catalog.set_config('gavel.datestyle', pg_catalog.current_setting('datestyle'), true), \
    pg_catalog.set_config('gavel.intervalstyle', pg_catalog.current_setting('intervalstyle'), true), \
    pg_catalog.set_config('gavel.extra_float_digits', pg_catalog.current_setting('extra_float_digits'), true), \
    pg_catalog.set_config('datestyle', 'ISO', true), pg_catalog.set_config('intervalstyle', 'postgres', true), \
    pg_catalog.set_config('extra_float_digits', '3', true)";

/// Back to what [`EXACT`] has found.
pub(super) const AS_BEFORE: &[u8] = b"SELECT pg_catalog.set_config('datestyle', pg_catalog.current_setting('gavel.datestyle'), true), \
    pg_catalog.set_config('intervalstyle', pg_catalog.current_setting('gavel.intervalstyle'), true), \
    pg_catalog.set_config('extra_float_digits', pg_catalog.current_setting('gavel.extra_float_digits'), true)";

/// The query for the rows of these tables on one shard, one snapshot for all of them, and the numbers of the statement's parameters that
/// it uses, in order. Of one table: its columns. Of several: the number of the table and its columns as a record, table after table.
pub(super) fn gather(tables: &[(usize, &Gathered)]) -> (String, Vec<u16>) {
    let mut params = Vec::new();
    if let [(_, only)] = tables {
        let condition = condition(only, &mut params).map(|condition| format!(" WHERE {condition}"));
        let text = format!("SELECT {} FROM {}{}", columns(only), source(only), condition.unwrap_or_default());
        return (text, params);
    }
    let mut text = String::new();
    for (turn, (number, table)) in tables.iter().enumerate() {
        let union = if turn > 0 { " UNION ALL " } else { "" };
        let in_order = (turn == 0).then(|| IN_ORDER.to_owned());
        let conditions: Vec<String> = condition(table, &mut params).into_iter().chain(in_order).collect();
        let conditions = if conditions.is_empty() {
            String::new()
        } else {
            format!(" WHERE {}", conditions.join(" AND "))
        };
        let (columns, source) = (columns(table), source(table));
        text.push_str(&format!(
            "{union}SELECT {number}::pg_catalog.int2, ROW({columns}) FROM {source}{conditions}"
        ));
    }
    (text, params)
}

/// What the rows must fulfil; `None`: nothing.
fn condition(table: &Gathered, params: &mut Vec<u16>) -> Option<String> {
    let mut one = |condition: &Condition| {
        let mut text = quote_ident(&condition.column);
        for part in &condition.parts {
            match part {
                FilterPart::Text(piece) => text.push_str(piece),
                FilterPart::Param(number) => {
                    let known = params.iter().position(|known| known == number);
                    let place = known.unwrap_or_else(|| {
                        params.push(*number);
                        params.len() - 1
                    });
                    text.push_str(&format!("${}", place + 1));
                }
            }
        }
        text
    };
    let all: Vec<String> =
        table.filters.iter().map(|all| all.iter().map(&mut one).collect::<Vec<_>>().join(" AND ")).collect();
    let mut distinct: Vec<&String> = Vec::new();
    all.iter().for_each(|text| {
        if !distinct.contains(&text) {
            distinct.push(text)
        }
    });
    let alternatives: Vec<&str> = distinct.into_iter().map(String::as_str).collect();
    (!alternatives.is_empty()).then(|| format!("({})", alternatives.join(" OR ")))
}

/// Begins the transaction in which rows are gathered and the query is run, and makes the tables. It ends with ROLLBACK: nothing of it
/// is to stay.
pub(super) fn setup(combine: &Combine) -> String {
    let mut sql = String::from("BEGIN ISOLATION LEVEL READ COMMITTED READ WRITE");
    for table in &combine.tables {
        let name = quote_ident(&table.name);
        let column = |(name, declared): &(String, String)| format!("{} {declared}", quote_ident(name));
        let columns: Vec<String> = table.columns.iter().map(column).collect();
        // Not LIKE: the session's own transaction may have locked the table.
        sql.push_str(&format!("; CREATE TEMPORARY TABLE {name} ({}) ON COMMIT DROP", columns.join(", ")));
    }
    if !combine.views.is_empty() {
        sql.extend(combine.tables.iter().filter_map(primary_key).map(|key| format!("; {key}")));
    }
    for view in &combine.views {
        sql.push_str("; ");
        sql.push_str(view);
    }
    sql
}

/// What is made when the rows are there: an index over them costs a third of one that grows with them. Views have needed it before.
pub(super) fn keys(combine: &Combine) -> Option<String> {
    let keys: Vec<String> = combine.tables.iter().filter_map(primary_key).collect();
    (combine.views.is_empty() && !keys.is_empty()).then(|| keys.join("; "))
}

fn primary_key(table: &Gathered) -> Option<String> {
    let columns: Vec<String> = table.primary_key.iter().map(|name| quote_ident(name)).collect();
    let (name, columns) = (quote_ident(&table.name), (!columns.is_empty()).then(|| columns.join(", "))?);
    Some(format!("ALTER TABLE pg_temp.{name} ADD PRIMARY KEY ({columns})"))
}

/// Reads the rows of a table.
pub(super) fn copy(table: &Gathered) -> String {
    let format = if table.binary { " (FORMAT binary)" } else { "" };
    format!("COPY pg_temp.{} FROM STDIN{format}", quote_ident(&table.name))
}

fn source(table: &Gathered) -> String {
    format!("{}.{}", quote_ident(&table.schema), quote_ident(&table.name))
}

fn columns(table: &Gathered) -> String {
    let cast = if table.binary { "" } else { "::pg_catalog.text" };
    let column = |(name, _): &(String, String)| format!("{}{cast}", quote_ident(name));
    table.columns.iter().map(column).collect::<Vec<_>>().join(", ")
}
