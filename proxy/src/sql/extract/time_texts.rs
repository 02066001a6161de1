//! Texts that a statement computes and reads as dates or times: PostgreSQL reads `now` and its kind in them by its clock, each shard
//! by its own. Literals and parameters are looked at when the statement is placed; what is made of them is not known before it runs.
//!
//! Invariant: errs on the side of a text, and of a type that is read by the clock.

use super::expr::argument_value;
use super::reader::Reader;
use super::scope::fold;
use crate::sql::clocks::CLOCKS;
use crate::sql::parse::ast::{Expr, Function, FunctionArg, FunctionArguments, Ident};

/// Types whose values no text gives by the clock, but for those that are texts themselves.
const TIMELESS: [&str; 38] = [
    "int",
    "integer",
    "boolean",
    "num",
    "smallint",
    "bigint",
    "numeric",
    "decimal",
    "real",
    "float",
    "double",
    "bool",
    "uuid",
    "bytea",
    "interval",
    "money",
    "inet",
    "cidr",
    "macaddr",
    "oid",
    "regclass",
    "regtype",
    "regproc",
    "regprocedure",
    "regoper",
    "regoperator",
    "regrole",
    "regnamespace",
    "regconfig",
    "regdictionary",
    "regcollation",
    "cid",
    "bit",
    "varbit",
    "point",
    "tsvector",
    "tsquery",
    "xid",
];

/// Texts, or what holds texts.
const TEXTS: [&str; 11] =
    ["text", "varchar", "char", "character", "bpchar", "name", "json", "jsonb", "xml", "citext", "\"char\""];

/// Functions beside the clocks that give no text, and take none but literals as times.
const NO_TEXT: [&str; 22] = [
    "date_trunc",
    "date_part",
    "date_bin",
    "to_timestamp",
    "to_date",
    "to_number",
    "make_date",
    "make_time",
    "make_timestamp",
    "make_timestamptz",
    "make_interval",
    "age",
    "extract",
    "isfinite",
    "timezone",
    "justify_days",
    "justify_hours",
    "justify_interval",
    "count",
    "length",
    "abs",
    "round",
];

/// Functions whose result is one of their arguments, or made of one.
const PASSING: [&str; 12] = [
    "coalesce",
    "greatest",
    "least",
    "nullif",
    "min",
    "max",
    "array_agg",
    "unnest",
    "generate_series",
    "first_value",
    "lag",
    "lead",
];

/// Functions that read texts as values of types that they are told, of the types of columns, or of dates and times.
const READING: [&str; 12] = [
    "json_to_record",
    "json_to_recordset",
    "jsonb_to_record",
    "jsonb_to_recordset",
    "json_populate_record",
    "json_populate_recordset",
    "jsonb_populate_record",
    "jsonb_populate_recordset",
    "xmltable",
    "string_to_array",
    "isfinite",
    "hstore_to_record",
];

impl<'q> Reader<'_, 'q> {
    /// Notes a cast to a type.
    pub(super) fn cast_reads(&mut self, type_name: &str, inner: &'q Expr) {
        if !reads_time(type_name) {
            return;
        }
        self.seen.times = true;
        if self.seen.time_text.is_none() && self.may_be_text(inner) {
            self.seen.time_text = Some(format!("a computed text cast to {type_name}"));
        }
    }

    /// Notes a call: types can be called as functions.
    pub(super) fn call_reads(&mut self, name: &str, args: &'q [FunctionArg]) {
        let reads = READING.contains(&name) || (is_type(name) && reads_time(name)) || name.ends_with("_in");
        self.seen.times |= reads || gives_no_text(name);
        if reads && self.seen.time_text.is_none() && args.iter().any(|arg| self.argument_may_be_text(arg)) {
            self.seen.time_text = Some(format!("{name}() of a computed text"));
        }
    }

    /// Whether an expression may give a text that no literal and no parameter of the statement is.
    fn may_be_text(&self, e: &'q Expr) -> bool {
        match e {
            Expr::Value(_)
            | Expr::TypedString(_)
            | Expr::Interval(_)
            | Expr::Extract { .. }
            | Expr::AtTimeZone { .. } => false,
            Expr::Nested(inner) | Expr::Collate { expr: inner, .. } => self.may_be_text(inner),
            Expr::UnaryOp { .. } | Expr::Exists { .. } => false,
            Expr::Cast { expr, data_type, .. } => {
                let name = data_type.to_string().to_lowercase();
                is_text(&name) && self.may_be_text(expr)
            }
            Expr::BinaryOp { op, .. } => !matches!(
                op.to_string().as_str(),
                "+" | "-" | "*" | "/" | "%" | "=" | "<" | ">" | "AND" | "OR"
            ),
            Expr::Identifier(name) => self.column_may_be_text(name),
            Expr::CompoundIdentifier(names) => names.last().is_none_or(|name| self.column_may_be_text(name)),
            Expr::Case { conditions, else_result, .. } => {
                conditions.iter().any(|when| self.may_be_text(&when.result))
                    || else_result.as_deref().is_some_and(|e| self.may_be_text(e))
            }
            Expr::Array(array) => array.elem.iter().any(|e| self.may_be_text(e)),
            Expr::Tuple(list) => list.iter().any(|e| self.may_be_text(e)),
            Expr::Function(function) => self.call_may_be_text(function),
            _ => true,
        }
    }

    fn call_may_be_text(&self, f: &'q Function) -> bool {
        let Some(name) = f.name.0.last().and_then(|part| part.as_ident()).map(fold) else { return true };
        if gives_no_text(&name) || (is_type(&name) && !is_text(&name)) {
            return false;
        }
        match &f.args {
            FunctionArguments::List(list) if PASSING.contains(&name.as_str()) => {
                list.args.iter().any(|arg| self.argument_may_be_text(arg))
            }
            _ => true,
        }
    }

    fn argument_may_be_text(&self, arg: &'q FunctionArg) -> bool {
        argument_value(arg).is_none_or(|e| self.may_be_text(e))
    }

    /// A column is believed to be of its type where nothing but tables is in sight.
    fn column_may_be_text(&self, name: &Ident) -> bool {
        let name = fold(name);
        if self.seen.derived {
            return true;
        }
        let tables = self.seen.tables.iter().map(|table| self.ctx.schema.by_full_name(table));
        let mut found = false;
        for table in tables {
            let Some(table) = table else { return true };
            for column in table.columns.iter().filter(|column| column.name == name) {
                found = true;
                if !(column.stored.times || is_timeless(&column.type_name)) {
                    return true;
                }
            }
        }
        !found
    }
}

fn gives_no_text(function: &str) -> bool {
    CLOCKS.contains(&function) || NO_TEXT.contains(&function)
}

/// Whether a text may be read as a value of this type by the clock: dates, times, what is made of them, and types of the user's.
fn reads_time(type_name: &str) -> bool {
    !is_timeless(type_name) && !is_text(type_name)
}

fn is_timeless(type_name: &str) -> bool {
    begins(type_name, &TIMELESS)
}

fn is_text(type_name: &str) -> bool {
    begins(type_name, &TEXTS)
}

/// By the letters that a name begins with, where nothing follows them but digits, `range`, a modifier or brackets.
fn begins(type_name: &str, heads: &[&str]) -> bool {
    let name = type_name.strip_prefix("pg_catalog.").unwrap_or(type_name);
    let name = name.strip_prefix('_').unwrap_or(name);
    let end = name.find(|c: char| !(c.is_ascii_lowercase() || c == '"')).unwrap_or(name.len());
    let (head, rest) = name.split_at(end);
    let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
    let rest = ["range", "multirange"].iter().find_map(|word| rest.strip_prefix(word)).unwrap_or(rest);
    let head = ["multirange", "range"].iter().find_map(|word| head.strip_suffix(word)).unwrap_or(head);
    (rest.is_empty() || rest.starts_with(['(', '[', ' '])) && heads.contains(&head)
}

/// Types of PostgreSQL's that a function call can name.
fn is_type(name: &str) -> bool {
    const TIMES: [&str; 11] = [
        "date",
        "time",
        "timetz",
        "timestamp",
        "timestamptz",
        "daterange",
        "tsrange",
        "tstzrange",
        "datemultirange",
        "tsmultirange",
        "tstzmultirange",
    ];
    TIMES.contains(&name) || is_timeless(name) || is_text(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_by_their_names() {
        for name in [
            "int",
            "integer",
            "int4range",
            "bigint[]",
            "numeric(10, 2)",
            "double precision",
            "_int4",
            "regclass",
            "oid",
        ] {
            assert!(is_timeless(name) && !reads_time(name), "{name}");
        }
        for name in ["text", "character varying(7)", "varchar", "text[]", "jsonb", "pg_catalog.text", "_text"]
        {
            assert!(is_text(name) && !reads_time(name), "{name}");
        }
        for name in [
            "date",
            "timestamp(3) with time zone",
            "timestamptz[]",
            "tstzrange",
            "moment",
            "span",
            "abstime",
            "inter",
        ] {
            assert!(reads_time(name), "{name}");
        }
    }
}
