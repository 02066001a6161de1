//! Conditions that compare a column of a table with values: rows for which they do not hold need not be gathered.
//!
//! Noted are only conditions that reject NULL and that hold for every row of the mention which matters; what else the statement demands
//! is decided where the rows have been gathered.

use super::condition::{Side, unnest};
use super::groups::Via;
use super::reader::Reader;
use super::scope::fold;
use crate::sql::facts::{KeyTerm, ValueRef};
use crate::sql::parse::ast::{BinaryOperator, Expr};
use crate::sql::sources::{Filter, FilterPart};
use crate::sql::times::{is_time, names_the_time};

/// Types whose names a cast may have.
const CASTS: [&str; 20] = [
    "smallint",
    "integer",
    "int",
    "bigint",
    "int2",
    "int4",
    "int8",
    "text",
    "numeric",
    "uuid",
    "boolean",
    "bool",
    "real",
    "float4",
    "float8",
    "double precision",
    "date",
    "timestamp",
    "timestamptz",
    "timestamp with time zone",
];

/// Longest list of values.
const LIST_MAX: usize = 1000;

impl Reader<'_, '_> {
    /// Notes a conjunct, if it is such a condition.
    pub(super) fn note_filter(&mut self, e: &Expr, side: &Side) {
        let Some((mention, filter)) = self.filter(e) else { return };
        let Some(noted) = self.read.mentions.get_mut(mention) else { return };
        let holds = match side {
            Side::Strict => true,
            Side::Outer { nullable, via: Via::Outer(_), .. } => {
                noted.node.is_some_and(|node| nullable.contains(&node))
            }
            Side::Outer { .. } => false,
        };
        if holds {
            noted.filters.push(filter);
        }
    }

    fn filter(&self, e: &Expr) -> Option<(usize, Filter)> {
        match unnest(e) {
            Expr::BinaryOp { left, op, right } => {
                let (sign, turned) = signs(op)?;
                if let Some((mention, column)) = self.plain_column(left) {
                    return Some((mention, self.compared(column, sign, &[right], ("", ""))?));
                }
                let (mention, column) = self.plain_column(right)?;
                Some((mention, self.compared(column, turned, &[left], ("", ""))?))
            }
            Expr::InList { expr, list, negated: false } if list.len() <= LIST_MAX => {
                let (mention, column) = self.plain_column(expr)?;
                let values: Vec<&Expr> = list.iter().collect();
                Some((mention, self.compared(column, "IN", &values, ("(", ")"))?))
            }
            Expr::Between { expr, low, high, negated: false } => {
                let (mention, column) = self.plain_column(expr)?;
                let mut filter = self.compared(column, "BETWEEN", &[low], ("", " AND "))?;
                filter.parts.extend(self.compared(column, "", &[high], ("", ""))?.parts);
                Some((mention, filter))
            }
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                let (mention, column) = self.plain_column(left)?;
                let array = matches!(unnest(right), Expr::Value(_)).then_some(&**right)?;
                Some((mention, self.compared(column, "= ANY", &[array], ("(", ")"))?))
            }
            Expr::IsNotNull(inner) => {
                let (mention, column) = self.plain_column(inner)?;
                let parts = vec![FilterPart::Text(" IS NOT NULL".to_owned())];
                Some((mention, Filter { column, parts }))
            }
            _ => None,
        }
    }

    fn compared(&self, column: usize, sign: &str, values: &[&Expr], around: (&str, &str)) -> Option<Filter> {
        let mut parts = vec![FilterPart::Text(format!(" {sign} {}", around.0))];
        for (n, value) in values.iter().enumerate() {
            if n > 0 {
                parts.push(FilterPart::Text(", ".to_owned()));
            }
            self.value_parts(&self.term(value)?, value, &mut parts)?;
        }
        parts.push(FilterPart::Text(around.1.to_owned()));
        Some(Filter { column, parts })
    }

    fn value_parts(&self, term: &KeyTerm, e: &Expr, parts: &mut Vec<FilterPart>) -> Option<()> {
        let cast = term.cast.as_deref();
        if cast.is_some_and(|cast| !CASTS.contains(&cast)) {
            return None;
        }
        match &term.value {
            ValueRef::Param(number) => parts.push(FilterPart::Param(*number)),
            ValueRef::Literal(number) => {
                // What the clock says when the rows are read is not what it says later.
                let said = self.text_value(e);
                let timeless = said.is_none_or(|text| !names_the_time(&text));
                let at = usize::try_from(*number).ok()?.checked_sub(self.tokens.literals_before)?;
                let start = *self.literals.get(at)?;
                let token = self.tokens.list.iter().find(|token| token.start == start)?;
                let raw = std::str::from_utf8(self.tokens.text.get(token.start..token.end)?).ok()?;
                let minus = if term.negated { "-" } else { "" };
                parts.push(FilterPart::Text(format!("{minus}{raw}")));
                timeless.then_some(())?;
            }
            ValueRef::Null | ValueRef::Default | ValueRef::Computed => return None,
        }
        if let Some(cast) = cast {
            if is_time(cast) && matches!(term.value, ValueRef::Param(_)) {
                return None;
            }
            parts.push(FilterPart::Text(format!("::{cast}")));
        }
        Some(())
    }

    /// The mention and the index of the column that an expression names in the innermost level.
    fn plain_column(&self, e: &Expr) -> Option<(usize, usize)> {
        let level = self.levels.last()?;
        let (alias, name) = match unnest(e) {
            Expr::Identifier(ident) => (None, fold(ident)),
            Expr::CompoundIdentifier(parts) => match parts.as_slice() {
                [alias, name] => (Some(fold(alias)), fold(name)),
                _ => return None,
            },
            _ => return None,
        };
        if level.unclear || level.merged.iter().any(|merged| merged.name == name) {
            return None;
        }
        let mut found = None;
        for source in level.sources.iter().filter(|s| alias.as_ref().is_none_or(|alias| s.alias == *alias)) {
            for (at, column) in source.columns.as_ref()?.iter().enumerate() {
                if column.name.as_deref() != Some(name.as_str()) {
                    continue;
                }
                if found.is_some() {
                    return None;
                }
                found = Some((source.mention?, at));
            }
        }
        found
    }
}

/// A comparison, and the same with its sides turned.
fn signs(op: &BinaryOperator) -> Option<(&'static str, &'static str)> {
    Some(match op {
        BinaryOperator::Eq => ("=", "="),
        BinaryOperator::NotEq => ("<>", "<>"),
        BinaryOperator::Lt => ("<", ">"),
        BinaryOperator::LtEq => ("<=", ">="),
        BinaryOperator::Gt => (">", "<"),
        BinaryOperator::GtEq => (">=", "<="),
        _ => return None,
    })
}
