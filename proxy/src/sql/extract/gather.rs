//! Order, LIMIT and OFFSET of the statement's own SELECT, where they can be done once for all shards, and the types of
//! expressions, as far as their order is known.
//!
//! Invariant: an expression has a type here only if PostgreSQL gives it that type, whatever the values of literals are.

use std::ops::Range;

use super::clause_spans::ClauseSpans;
use super::condition::unnest;
use super::expr::argument_value;
use super::reader::Reader;
use super::scope::{Column, fold};
use crate::sql::gather_shape::{Bound, Comparable, FoldShape, GatherShape, KeySource, Order, SortKey};
use crate::sql::lexer::Kind;
use crate::sql::parse::ast::{
    CastKind, Distinct, Expr, Function, FunctionArguments, GroupByExpr, Ident, LimitClause, ObjectName,
    OrderByExpr, OrderByKind, OrderBySort, Query, Select, SelectItem, SetExpr, Value,
};

/// The statement's own SELECT.
#[derive(Clone, Copy)]
struct Top<'a> {
    select: &'a Select,
    /// Columns of the result, unless they are not known.
    columns: Option<&'a [Column]>,
    spans: &'a ClauseSpans,
}

/// What a name among the items of a select list may mean.
enum Named<'a> {
    No,
    Item(usize, &'a Expr),
    Unclear,
}

impl<'q> Reader<'_, 'q> {
    /// Notes order, LIMIT and OFFSET of the statement's own SELECT; whether they are of a form that can be done once for all shards.
    pub(super) fn gather(&mut self, query: &'q Query, columns: Option<&[Column]>) -> bool {
        self.seen.gather = self.gathered(query, columns).map(Box::new);
        self.seen.gather.is_some()
    }

    fn gathered(&mut self, query: &'q Query, columns: Option<&[Column]>) -> Option<GatherShape> {
        let SetExpr::Select(select) = &*query.body else { return None };
        let spans = ClauseSpans::of(self.tokens)?;
        let items: &[OrderByExpr] = match query.order_by.as_ref().map(|order| &order.kind) {
            None => &[],
            Some(OrderByKind::Expressions(items)) => items,
            Some(OrderByKind::All(_)) => return None,
        };
        if spans.items.len() != select.projection.len() || spans.keys.len() != items.len() {
            return None;
        }
        let top = Top { select, columns, spans: &spans };
        let mut keys = Vec::with_capacity(items.len());
        for (item, tokens) in items.iter().zip(&spans.keys) {
            keys.push(self.sort_key(item, tokens, top)?);
        }
        let (limit, offset) = self.bounds(query, &spans)?;
        let list_end = self.bytes(spans.items.last()?)?.end;
        Some(GatherShape { keys, folds: Vec::new(), list_end, limit, offset })
    }

    /// Notes aggregates of all rows; whether each is made of those of the shards.
    pub(super) fn fold(&mut self, select: &'q Select, query: &Query) -> bool {
        if self.level().aggregate.is_none() || self.level().nodes.is_empty() {
            return false;
        }
        self.seen.gather = self.folded(select, query).map(Box::new);
        self.seen.gather.is_some()
    }

    fn folded(&self, select: &'q Select, query: &Query) -> Option<GatherShape> {
        let grouped = !matches!(&select.group_by, GroupByExpr::Expressions(items, _) if items.is_empty());
        let cut = query.order_by.is_some() || query.limit_clause.is_some() || query.fetch.is_some();
        if grouped || cut || select.having.is_some() || select.distinct.is_some() {
            return None;
        }
        let spans = ClauseSpans::of(self.tokens)?;
        if spans.items.len() != select.projection.len() {
            return None;
        }
        let mut folds = Vec::with_capacity(select.projection.len());
        for (index, item) in select.projection.iter().enumerate() {
            let Expr::Function(f) = unnest(expression(item)?) else { return None };
            let tokens = value_of(self, &spans.items[index], index, select);
            folds.push(self.fold_of(f, index, &tokens)?);
        }
        let list_end = self.bytes(spans.items.last()?)?.end;
        Some(GatherShape { keys: Vec::new(), folds, list_end, limit: None, offset: None })
    }

    fn fold_of(&self, f: &Function, index: usize, tokens: &Range<usize>) -> Option<FoldShape> {
        let FunctionArguments::List(list) = &f.args else { return None };
        let plain = f.over.is_none()
            && f.within_group.is_empty()
            && f.null_treatment.is_none()
            && list.duplicate_treatment.is_none()
            && list.clauses.is_empty()
            && !self.collates(tokens);
        let name = plain_name(&f.name).filter(|_| plain && list.args.len() == 1)?;
        // Where it is known to be a built-in one, see below.
        let result = self.result_kind(f);
        let descending = match name.as_str() {
            "count" => return result.map(|_| FoldShape::Integers),
            "sum" => {
                return match result? {
                    Comparable::Int8 => Some(FoldShape::Integers),
                    Comparable::Numeric => Some(FoldShape::Numerics),
                    _ => None,
                };
            }
            "min" | "bool_and" | "every" => false,
            "max" | "bool_or" => true,
            _ => return None,
        };
        let order = Order { kind: result?, descending, nulls_first: false };
        let source = KeySource::Text(self.bytes(tokens)?);
        Some(FoldShape::First(SortKey { order, output: Some(index), source }))
    }

    fn bytes(&self, tokens: &Range<usize>) -> Option<Range<usize>> {
        let list = &self.tokens.list;
        let start = list.get(tokens.start)?.start;
        // What is not written begins where the next word does.
        let end = if tokens.is_empty() { start } else { list.get(tokens.end - 1)?.end };
        Some(start..end)
    }

    fn bounds(&self, query: &Query, spans: &ClauseSpans) -> Option<(Option<Bound>, Option<Bound>)> {
        let (limit, offset) = match &query.limit_clause {
            None => (None, None),
            Some(LimitClause::LimitOffset { limit, offset, .. }) => {
                (limit.as_ref(), offset.as_ref().map(|offset| &offset.value))
            }
            Some(LimitClause::OffsetCommaLimit { .. }) => return None,
        };
        let bound = |e: Option<&Expr>, tokens: Option<&Range<usize>>| -> Option<Option<Bound>> {
            let Some(e) = e else { return Some(None) };
            Some(Some(Bound { term: Some(self.term(e)?), at: self.bytes(tokens?)? }))
        };
        let offset = bound(offset, spans.offset.as_ref())?;
        let Some(fetch) = &query.fetch else {
            return Some((bound(limit, spans.limit.as_ref())?, offset));
        };
        if fetch.with_ties || fetch.percent || limit.is_some() {
            return None;
        }
        let limit = match &fetch.quantity {
            Some(quantity) => bound(Some(quantity), spans.limit.as_ref())?,
            None => Some(Bound { term: None, at: self.bytes(spans.limit.as_ref()?)? }),
        };
        Some((limit, offset))
    }

    fn sort_key(&mut self, item: &'q OrderByExpr, tokens: &Range<usize>, top: Top<'_>) -> Option<SortKey> {
        let descending = match &item.options.sort {
            None | Some(OrderBySort::Asc) => false,
            Some(OrderBySort::Desc) => true,
            Some(OrderBySort::Using(_)) => return None,
        };
        let nulls_first = item.options.nulls_first.unwrap_or(descending);
        let (kind, output, source) = self.sorted_by(&item.expr, tokens, top)?;
        let shown = matches!(top.select.distinct, Some(Distinct::Distinct));
        // Values that are equal and look different would not be one row any more.
        let source = if shown && !kind.equal_is_same() { KeySource::OutputOnly } else { source };
        Some(SortKey { order: Order { kind, descending, nulls_first }, output, source })
    }

    /// What an expression of ORDER BY means: its type, its place in the result, and how to ask for it.
    fn sorted_by(
        &mut self,
        e: &'q Expr,
        tokens: &Range<usize>,
        top: Top<'_>,
    ) -> Option<(Comparable, Option<usize>, KeySource)> {
        if let Expr::Value(value) = unnest(e) {
            let Value::Number(digits, _) = &value.value else { return None };
            // A number in parentheses is the same to PostgreSQL.
            self.seen.by_value = true;
            return self.sorted_by_output(digits.parse::<usize>().ok()?.checked_sub(1)?, top);
        }
        // What is in parentheses is the same to PostgreSQL, what has a COLLATE is not the name of a column of the result.
        let collated = self.collates(tokens);
        if let (Expr::Identifier(name), false) = (unnest(e), collated) {
            match self.item_named(&fold(name), top.select) {
                Named::Item(index, _) if before_star(top.select, index) => {
                    return self.sorted_by_output(index, top);
                }
                Named::Item(index, item) => {
                    let tokens = value_of(self, &top.spans.items[index], index, top.select);
                    return Some((self.kind_of(item, &tokens)?, None, KeySource::Text(self.bytes(&tokens)?)));
                }
                Named::Unclear => return None,
                Named::No => {}
            }
        }
        let output = top.select.projection.iter().position(|item| expression(item) == Some(e));
        let output = output.filter(|&index| {
            before_star(top.select, index) && !collated && !self.collates(&top.spans.items[index])
        });
        Some((self.kind_of(e, tokens)?, output, KeySource::Text(self.bytes(tokens)?)))
    }

    /// `ORDER BY 2`
    fn sorted_by_output(&self, index: usize, top: Top<'_>) -> Option<(Comparable, Option<usize>, KeySource)> {
        if let Some(item) = top.select.projection.get(index).filter(|_| before_star(top.select, index)) {
            let e = expression(item)?;
            let tokens = value_of(self, &top.spans.items[index], index, top.select);
            let output = Some(index).filter(|_| !self.collates(&tokens));
            return Some((self.kind_of(e, &tokens)?, output, KeySource::Text(self.bytes(&tokens)?)));
        }
        let column = top.columns?.get(index)?;
        let name = Ident::with_quote('"', column.name.as_ref()?);
        let (kind, level) = (column.kind?, self.levels.last()?);
        // Named by itself it may be another column's name, too.
        let source = match level.kind(std::slice::from_ref(&name)) == Some(kind) {
            true => KeySource::Sql(name.to_string()),
            false => KeySource::OutputOnly,
        };
        Some((kind, Some(index), source))
    }

    /// The item of the select list that PostgreSQL would give this name. Those of a `*` are columns of that name anyway.
    fn item_named<'s>(&self, name: &str, select: &'s Select) -> Named<'s> {
        let mut found = Named::No;
        for (index, item) in select.projection.iter().enumerate() {
            let e = match item {
                SelectItem::ExprWithAlias { expr, alias } if fold(alias) == name => expr,
                SelectItem::UnnamedExpr(e) => match implied_name(e) {
                    Implied::Name(implied) if implied == name => e,
                    Implied::Name(_) | Implied::None => continue,
                    Implied::Unknown => return Named::Unclear,
                },
                _ => continue,
            };
            match found {
                Named::No => found = Named::Item(index, e),
                // Of the same meaning, or an error.
                Named::Item(..) | Named::Unclear => {}
            }
        }
        found
    }

    /// Whether there is a COLLATE among these tokens. The parser sees none.
    fn collates(&self, tokens: &Range<usize>) -> bool {
        tokens.clone().any(|at| self.tokens.is(at, "collate"))
    }

    /// Type of an expression that is written so, where its order is known.
    fn kind_of(&self, e: &Expr, tokens: &Range<usize>) -> Option<Comparable> {
        let t = self.tokens;
        if !self.collates(tokens) {
            return self.kind(e);
        }
        let last = tokens.end.checked_sub(2)?;
        let bytewise = t.is(last, "collate")
            && t.kind(last + 1) == Some(Kind::Quoted)
            && t.name(last + 1).is_some_and(|name| matches!(&*name, "C" | "POSIX"));
        let alone = !self.collates(&(tokens.start..last));
        let whole =
            matches!(unnest(e), Expr::Identifier(_) | Expr::CompoundIdentifier(_) | Expr::Function(_));
        (bytewise && alone && whole && self.ctx.schema.utf8).then_some(Comparable::Text)
    }

    /// Type of an expression, where its order is known: of a text only where no COLLATE is near.
    pub(super) fn kind(&self, e: &Expr) -> Option<Comparable> {
        let collation = |kind: &Comparable| matches!(kind, Comparable::Text | Comparable::Bpchar);
        let plain = || !self.collates(&(0..self.tokens.len()));
        self.own_kind(e).filter(|kind| !collation(kind) || plain())
    }

    fn own_kind(&self, e: &Expr) -> Option<Comparable> {
        match e {
            Expr::Nested(inner) => self.kind(inner),
            Expr::Identifier(name) => self.levels.last()?.kind(std::slice::from_ref(name)),
            Expr::CompoundIdentifier(names) => self.levels.last()?.kind(names),
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, data_type, format: None, .. } => {
                let name = data_type.to_string().to_lowercase();
                Comparable::of_name(&name).filter(|_| !self.ctx.schema.types.contains_key(&name))
            }
            Expr::Function(f) => self.result_kind(f),
            _ => None,
        }
    }

    /// Type of what a built-in function returns.
    fn result_kind(&self, f: &Function) -> Option<Comparable> {
        let name = plain_name(&f.name)?;
        if self.ctx.schema.function(&name).is_some_and(|function| !function.built_in) {
            return None;
        }
        let first = match &f.args {
            FunctionArguments::List(list) => list.args.first().and_then(argument_value),
            FunctionArguments::None | FunctionArguments::Subquery(_) => None,
        };
        let argument = || self.kind(first?);
        match name.as_str() {
            "count" | "row_number" | "rank" | "dense_rank" => Some(Comparable::Int8),
            "sum" => Some(match argument()? {
                Comparable::Int2 | Comparable::Int4 => Comparable::Int8,
                Comparable::Int8 | Comparable::Numeric => Comparable::Numeric,
                float @ (Comparable::Float4 | Comparable::Float8) => float,
                _ => return None,
            }),
            "avg" => Some(match argument()? {
                Comparable::Int2 | Comparable::Int4 | Comparable::Int8 | Comparable::Numeric => {
                    Comparable::Numeric
                }
                Comparable::Float4 | Comparable::Float8 => Comparable::Float8,
                _ => return None,
            }),
            "min" | "max" => argument()
                .filter(|kind| !matches!(kind, Comparable::Bool | Comparable::Bytea | Comparable::Uuid)),
            "bool_and" | "bool_or" | "every" => argument().filter(|kind| *kind == Comparable::Bool),
            "length" | "char_length" => {
                argument().filter(|kind| *kind == Comparable::Text).map(|_| Comparable::Int4)
            }
            "abs" => argument().filter(|kind| {
                use Comparable::{Float4, Float8, Int2, Int4, Int8, Numeric};
                matches!(kind, Int2 | Int4 | Int8 | Float4 | Float8 | Numeric)
            }),
            "lower" | "upper" => argument().filter(|kind| *kind == Comparable::Text),
            "coalesce" => {
                let FunctionArguments::List(list) = &f.args else { return None };
                let kinds: Option<Vec<Comparable>> =
                    list.args.iter().map(|arg| self.kind(argument_value(arg)?)).collect();
                let kinds = kinds?;
                kinds.iter().all(|kind| Some(kind) == kinds.first()).then(|| kinds.first().copied()).flatten()
            }
            _ => None,
        }
    }
}

/// A built-in function's name: PostgreSQL's own come first.
fn plain_name(name: &ObjectName) -> Option<String> {
    let names: Option<Vec<&Ident>> = name.0.iter().map(|part| part.as_ident()).collect();
    match names?.as_slice() {
        [name] => Some(fold(name)),
        [schema, name] if fold(schema) == "pg_catalog" => Some(fold(name)),
        _ => None,
    }
}

fn expression(item: &SelectItem) -> Option<&Expr> {
    match item {
        SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => Some(e),
        _ => None,
    }
}

/// Whether each item up to this one is one column.
fn before_star(select: &Select, index: usize) -> bool {
    select.projection.iter().take(index + 1).all(|item| expression(item).is_some())
}

/// Tokens of an item of the select list without its alias.
fn value_of(reader: &Reader<'_, '_>, tokens: &Range<usize>, index: usize, select: &Select) -> Range<usize> {
    let aliased = matches!(select.projection.get(index), Some(SelectItem::ExprWithAlias { .. }));
    if !aliased {
        return tokens.clone();
    }
    let end = tokens.end - 1;
    let word = end > tokens.start && reader.tokens.is(end - 1, "as");
    tokens.start..end - usize::from(word)
}

/// The name of an output column without an alias.
enum Implied {
    Name(String),
    /// `?column?`
    None,
    Unknown,
}

/// As `FigureColname` of PostgreSQL's `parse_target.c`, for the forms that are known here.
fn implied_name(e: &Expr) -> Implied {
    match e {
        Expr::Nested(inner) => implied_name(inner),
        Expr::Identifier(name) => Implied::Name(fold(name)),
        Expr::CompoundIdentifier(names) => {
            names.last().map_or(Implied::Unknown, |name| Implied::Name(fold(name)))
        }
        Expr::Function(f) => match f.name.0.last().and_then(|part| part.as_ident()) {
            Some(name) => Implied::Name(fold(name)),
            None => Implied::Unknown,
        },
        Expr::Cast { expr, .. } => match implied_name(expr) {
            Implied::Name(name) => Implied::Name(name),
            // The name of the type, in the catalog's words.
            Implied::None | Implied::Unknown => Implied::Unknown,
        },
        Expr::Case { else_result, .. } => match else_result.as_deref().map(implied_name) {
            Some(Implied::Name(name)) => Implied::Name(name),
            Some(Implied::None) | None => Implied::Name("case".to_string()),
            Some(Implied::Unknown) => Implied::Unknown,
        },
        Expr::Exists { .. } => Implied::Name("exists".to_string()),
        Expr::Array(_) => Implied::Name("array".to_string()),
        Expr::Extract { .. } => Implied::Name("extract".to_string()),
        Expr::AtTimeZone { .. } => Implied::Name("timezone".to_string()),
        Expr::BinaryOp { .. }
        | Expr::UnaryOp { .. }
        | Expr::IsNull(_)
        | Expr::IsNotNull(_)
        | Expr::IsTrue(_)
        | Expr::IsNotTrue(_)
        | Expr::IsFalse(_)
        | Expr::IsNotFalse(_)
        | Expr::IsDistinctFrom(..)
        | Expr::IsNotDistinctFrom(..)
        | Expr::InList { .. }
        | Expr::Between { .. }
        | Expr::Like { .. }
        | Expr::ILike { .. } => Implied::None,
        Expr::Value(value) => match value.value {
            Value::Number(..) | Value::SingleQuotedString(_) | Value::Null | Value::Placeholder(_) => {
                Implied::None
            }
            _ => Implied::Unknown,
        },
        _ => Implied::Unknown,
    }
}
