//! Expressions and conditions over the columns in scope, and the parameters that they use.

use tests::random::Random;
use tests::wire_message::Value;

use crate::house::{Table, Ty, quoted};
use crate::values::binary;

/// How a statement is sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As a Query, without parameters.
    Simple,
    /// Parse, Bind, Execute; results as text or binary.
    Extended { binary: bool },
}

/// A column that may be named.
#[derive(Debug, Clone)]
pub(crate) struct Column {
    pub(crate) alias: String,
    pub(crate) name: &'static str,
    pub(crate) ty: Ty,
}

impl Column {
    /// As the text has it.
    pub(crate) fn sql(&self) -> String {
        format!("{}.{}", self.alias, self.name)
    }
}

/// The columns of a table under an alias.
pub(crate) fn columns(table: &Table, alias: &str) -> Vec<Column> {
    let one = |(name, ty): &(&'static str, Ty)| Column { alias: alias.to_owned(), name, ty: *ty };
    table.columns.iter().map(one).collect()
}

/// Writes one statement.
#[derive(Debug)]
pub(crate) struct Writer<'r> {
    pub(crate) random: &'r mut Random,
    pub(crate) form: Form,
    pub(crate) params: Vec<Value>,
}

impl<'r> Writer<'r> {
    pub(crate) fn new(random: &'r mut Random) -> Self {
        let form = match random.below(4) {
            0 | 1 => Form::Simple,
            2 => Form::Extended { binary: false },
            _ => Form::Extended { binary: true },
        };
        Self { random, form, params: Vec::new() }
    }

    /// A value as a literal or a parameter, of this type wherever it stands.
    pub(crate) fn value(&mut self, ty: Ty) -> String {
        let value = ty.value(self.random);
        match self.param(ty, &value) {
            Some(param) => format!("{param}::{}", ty.sql()),
            None if ty.is_number() => value,
            None => format!("{}::{}", quoted(&value), ty.sql()),
        }
    }

    /// A value to be compared with a column of this type, in one of its spellings.
    pub(crate) fn operand(&mut self, ty: Ty) -> String {
        let value = ty.value(self.random);
        if let Some(param) = self.param(ty, &value) {
            return param;
        }
        match self.random.below(4) {
            0 => format!("{}::{}", quoted(&value), ty.sql()),
            1 if ty.is_number() => value,
            2 => format!("cast({} as {})", quoted(&value), ty.sql()),
            _ => quoted(&value),
        }
    }

    fn param(&mut self, ty: Ty, value: &str) -> Option<String> {
        if self.form == Form::Simple || self.random.chance(40) {
            return None;
        }
        let bytes = binary(ty, value).filter(|_| self.random.chance(50));
        self.params.push(bytes.map_or_else(|| Value::Text(value.as_bytes().to_vec()), Value::Binary));
        Some(format!("${}", self.params.len()))
    }

    /// A condition that names one key or a few.
    pub(crate) fn key(&mut self, column: &Column) -> String {
        let name = column.sql();
        match self.random.below(8) {
            0..4 => format!("{name} = {}", self.operand(column.ty)),
            4 | 5 => {
                let count = 1 + self.random.below(4);
                let list: Vec<_> = (0..count).map(|_| self.operand(column.ty)).collect();
                format!("{name} in ({})", list.join(", "))
            }
            6 => {
                let count = self.random.below(4);
                let list: Vec<_> = (0..count).map(|_| self.value(column.ty)).collect();
                format!("{name} = any (array[{}]::{}[])", list.join(", "), column.ty.sql())
            }
            _ => format!("({name} = {} or {} = {name})", self.operand(column.ty), self.operand(column.ty)),
        }
    }

    /// A condition.
    pub(crate) fn condition(&mut self, scope: &[Column], depth: usize) -> String {
        if depth > 0 && self.random.chance(35) {
            let left = self.condition(scope, depth - 1);
            return match self.random.below(3) {
                0 => format!("not ({left})"),
                1 => format!("({left} or {})", self.condition(scope, depth - 1)),
                _ => format!("({left} and {})", self.condition(scope, depth - 1)),
            };
        }
        let column = self.random.pick(scope);
        let name = column.sql();
        match self.random.below(9) {
            0 => format!("{name} is null"),
            1 => format!("{name} is not null"),
            2 => format!("{name} in ({}, {})", self.operand(column.ty), self.operand(column.ty)),
            3 => format!("{name} between {} and {}", self.operand(column.ty), self.operand(column.ty)),
            4 if matches!(column.ty, Ty::Text | Ty::Title) => format!("{name} like '%a%'"),
            4 if column.ty == Ty::Bool => name,
            5 => match self.other(scope, &column) {
                Some(other) => format!("{name} {} {}", self.comparison(), other.sql()),
                None => format!("{name} is distinct from {}", self.operand(column.ty)),
            },
            6 if depth > 0 => {
                let ty = self.random.pick(&[Ty::Int8, Ty::Numeric, Ty::Bool, Ty::Date]);
                let left = self.expression(ty, scope, depth - 1);
                format!("{left} {} {}", self.comparison(), self.expression(ty, scope, depth - 1))
            }
            _ => format!("{name} {} {}", self.comparison(), self.operand(column.ty)),
        }
    }

    fn comparison(&mut self) -> &'static str {
        self.random.pick(&["=", "<", ">", "<=", ">=", "<>"])
    }

    /// Another column of the same type.
    fn other(&mut self, scope: &[Column], than: &Column) -> Option<Column> {
        let same: Vec<_> = scope
            .iter()
            .filter(|c| c.ty == than.ty && (c.name != than.name || c.alias != than.alias))
            .collect();
        (!same.is_empty()).then(|| self.random.pick(&same).clone())
    }

    /// An expression of this type.
    pub(crate) fn expression(&mut self, ty: Ty, scope: &[Column], depth: usize) -> String {
        if depth == 0 || self.random.chance(30) {
            return self.leaf(ty, scope);
        }
        let of = |writer: &mut Self, ty| writer.expression(ty, scope, depth - 1);
        match (ty, self.random.below(6)) {
            (_, 0) => format!("coalesce({}, {})", of(self, ty), self.value(ty)),
            (_, 1) => {
                let condition = self.condition(scope, 0);
                format!("case when {condition} then {} else {} end", of(self, ty), self.value(ty))
            }
            (Ty::Int8, 2) => format!("({} + {})", of(self, ty), of(self, ty)),
            (Ty::Int8, 3) => format!("({} % 7)", of(self, ty)),
            (Ty::Int8, 4) => format!("length({})::bigint", of(self, Ty::Text)),
            (Ty::Int8, _) => format!("({} - {})", of(self, ty), of(self, ty)),
            (Ty::Numeric, 2) => format!("({} * {})", of(self, ty), of(self, ty)),
            (Ty::Numeric, 3) => format!("round({}, 1)", of(self, ty)),
            (Ty::Numeric, 4) => format!("fee({})", of(self, ty)),
            (Ty::Numeric, _) => format!("({} + {})", of(self, ty), of(self, Ty::Int8)),
            (Ty::Text, 2) => format!("upper({})", of(self, ty)),
            (Ty::Text, 3) => format!("({} || {})", of(self, ty), of(self, ty)),
            (Ty::Text, 4) => format!("left({}, 3)", of(self, ty)),
            (Ty::Text, _) => format!("({})::text", of(self, Ty::Int8)),
            (Ty::Bool, 2) => format!("({} < {})", of(self, Ty::Int8), of(self, Ty::Int8)),
            (Ty::Bool, _) => format!("({} is not null)", of(self, Ty::Text)),
            (Ty::Date, _) => format!("({} + 1)", of(self, ty)),
            (Ty::Stamp, _) => format!("({} + interval '1 hour')", of(self, ty)),
            _ => self.leaf(ty, scope),
        }
    }

    fn leaf(&mut self, ty: Ty, scope: &[Column]) -> String {
        let fits: Vec<_> = scope.iter().filter(|column| column.ty == ty).collect();
        if fits.is_empty() || self.random.chance(15) {
            return self.value(ty);
        }
        self.random.pick(&fits).sql()
    }

    /// A few things to select, without names of their own.
    pub(crate) fn items(&mut self, scope: &[Column], most: usize) -> Vec<String> {
        let count = 1 + self.random.below(most);
        let mut items = Vec::new();
        for _ in 0..count {
            let item = if self.random.chance(70) {
                self.random.pick(scope).sql()
            } else {
                let ty = self.random.pick(&[Ty::Int8, Ty::Numeric, Ty::Text, Ty::Bool, Ty::Date]);
                self.expression(ty, scope, 2)
            };
            items.push(item);
        }
        items
    }

    /// A direction of ORDER BY.
    pub(crate) fn direction(&mut self) -> &'static str {
        self.random.pick(&["", "", " desc", " asc", " nulls first", " desc nulls last"])
    }
}
