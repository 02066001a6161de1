//! Query levels: WITH, SELECT, set operations, ORDER BY, LIMIT; what they let through and what stands in the way of
//! concatenating the answers of several shards.

use super::clauses::foreign_clauses;
use super::condition::{Side, unnest};
use super::groups::NodeId;
use super::reader::{MAX_NESTED_CTES, Read, Reader};
use super::scope::{Body, Column, Level, Meaning, Named, fold};
use crate::sql::parse::ast::{
    Cte, Expr, LimitClause, OrderByKind, Query, Select, SelectItem, SelectItemQualifiedWildcardKind, SetExpr,
    Value, Values, With,
};

/// What a query hands to the level above.
#[derive(Debug, Default, Clone)]
pub(super) struct Output {
    /// Columns in order; a key is named only where a condition on it may be moved into the query. `None`: not known.
    pub(super) columns: Option<Vec<Column>>,
    /// Sharded tables that its rows come from.
    pub(super) nodes: Vec<NodeId>,
    /// Sharded tables read by subqueries of its expressions.
    pub(super) sub_nodes: Vec<NodeId>,
    /// Its rows have an order: its own, or that of what it reads.
    pub(super) ordered: bool,
}

/// Clauses of a query after its body.
struct Tail<'q> {
    query: &'q Query,
    top: bool,
}

impl<'q> Reader<'_, 'q> {
    /// Reads a query. `top` is the statement's own.
    pub(super) fn query(&mut self, query: &'q Query, top: bool) -> Read<Output> {
        if query.settings.is_some()
            || query.format_clause.is_some()
            || query.for_clause.is_some()
            || !query.pipe_operators.is_empty()
        {
            return Err("a clause that PostgreSQL does not have".to_string());
        }
        let names = self.named.len();
        let with_nodes = match &query.with {
            Some(with) => self.with(with)?,
            None => Vec::new(),
        };
        let mut output = self.body(&query.body, &Tail { query, top })?;
        if let Some(with) = &query.with {
            output.sub_nodes.extend(self.unused(with, names)?);
        }
        output.sub_nodes.extend(with_nodes);
        output.ordered |= query.order_by.is_some();
        self.named.truncate(names);
        Ok(output)
    }

    /// Puts WITH queries in sight; those that write are read here and now. Their nodes are returned.
    fn with(&mut self, with: &'q With) -> Read<Vec<NodeId>> {
        let mut nodes = Vec::new();
        let depth = self.levels.len();
        for (at, cte) in with.cte_tables.iter().enumerate() {
            let name = fold(&cte.alias.name);
            if with.recursive && self.refers_forward(&with.cte_tables[at..]) {
                return Err("WITH RECURSIVE that refers to a later query".to_string());
            }
            let writes = matches!(
                &*cte.query.body,
                SetExpr::Insert(_) | SetExpr::Update(_) | SetExpr::Delete(_) | SetExpr::Merge(_)
            );
            let body = if writes || (with.recursive && mentions(self, cte, &name)) {
                let output = self.eager(cte, &name, !writes, depth)?;
                nodes.extend(&output.nodes);
                nodes.extend(&output.sub_nodes);
                Body::Output { columns: renamed(output.columns, cte), nodes: output.nodes }
            } else {
                Body::Query(cte)
            };
            self.named.push(Named { name, body, depth });
        }
        Ok(nodes)
    }

    /// Whether the first of these WITH queries reads from one of the others.
    fn refers_forward(&self, ctes: &[Cte]) -> bool {
        let [first, later @ ..] = ctes else { return false };
        let t = self.tokens;
        let read = |at: usize| t.is_any(at - 1, &["from", "join", "using"]) || t.is_mark(at - 1, ",");
        later.iter().any(|cte| {
            let name = fold(&cte.alias.name);
            within(self, first).any(|at| read(at) && t.name(at).as_deref() == Some(name.as_str()))
        })
    }

    /// Reads a writing or recursive WITH query where it is defined.
    fn eager(&mut self, cte: &'q Cte, name: &str, recursive: bool, depth: usize) -> Read<Output> {
        let at = self.named.len();
        if recursive {
            let body = Body::Output { columns: None, nodes: Vec::new() };
            self.named.push(Named { name: name.to_string(), body, depth });
        }
        let mut output = self.query(&cte.query, false)?;
        self.named.truncate(at);
        if recursive {
            output.columns = None;
            if !output.nodes.is_empty() || !output.sub_nodes.is_empty() {
                self.groups.always("recursive WITH");
            }
        }
        Ok(output)
    }

    /// WITH queries that nothing refers to are read for their tables and functions.
    fn unused(&mut self, with: &'q With, names: usize) -> Read<Vec<NodeId>> {
        let mut nodes = Vec::new();
        for (index, cte) in with.cte_tables.iter().enumerate() {
            let lazy = self.named.get(names + index).is_some_and(|n| matches!(n.body, Body::Query(_)));
            if lazy && !self.used.contains(&address(cte)) {
                let later = self.named.split_off(names + index);
                let output = self.query(&cte.query, false);
                self.named.extend(later);
                let output = output?;
                // PostgreSQL does not run it; several shards would each give the rows of the rest.
                if !(output.nodes.is_empty() && output.sub_nodes.is_empty()) {
                    self.groups.always(format!("WITH query {}, which nothing uses", fold(&cte.alias.name)));
                }
                nodes.extend(output.nodes);
                nodes.extend(output.sub_nodes);
            }
        }
        Ok(nodes)
    }

    /// Reads the WITH query at `index` anew, with what was in sight at its definition.
    pub(super) fn inline(&mut self, index: usize, cte: &'q Cte, depth: usize) -> Read<Output> {
        self.used.insert(address(cte));
        if self.nested_ctes >= MAX_NESTED_CTES {
            return Err(format!("more than {MAX_NESTED_CTES} WITH queries inside one another"));
        }
        self.nested_ctes += 1;
        let names = self.named.split_off(index);
        let levels = self.levels.split_off(depth.min(self.levels.len()));
        let output = self.query(&cte.query, false);
        self.levels.extend(levels);
        self.named.extend(names);
        self.nested_ctes -= 1;
        let output = output?;
        Ok(Output { columns: renamed(output.columns, cte), ..output })
    }

    fn body(&mut self, body: &'q SetExpr, tail: &Tail<'q>) -> Read<Output> {
        match body {
            SetExpr::Select(select) => self.select(select, Some(tail)),
            SetExpr::Query(query) => {
                let inner = self.query(query, tail.top)?;
                self.wrapped(inner, tail)
            }
            SetExpr::SetOperation { left, right, op, .. } => {
                let mut nodes = Vec::new();
                let mut sub_nodes = Vec::new();
                let bare = Tail { query: tail.query, top: false };
                for arm in arms(left, right) {
                    let output = self.arm(arm, &bare)?;
                    nodes.extend(output.nodes);
                    sub_nodes.extend(output.sub_nodes);
                }
                let mut level =
                    Level { nodes: nodes.clone(), sub_nodes: sub_nodes.clone(), ..Level::default() };
                level.unclear = true;
                self.levels.push(level);
                self.level_obstacle(format!("{op}"), None);
                let read = self.tail(tail, None);
                self.levels.pop();
                read?;
                Ok(Output { columns: None, nodes, sub_nodes, ordered: false })
            }
            SetExpr::Values(values) => {
                self.levels.push(Level::default());
                let read = self.values(values).and_then(|()| self.tail(tail, None));
                let level = self.levels.pop().unwrap_or_default();
                read?;
                Ok(Output { columns: None, nodes: level.nodes, sub_nodes: level.sub_nodes, ordered: false })
            }
            SetExpr::Insert(statement)
            | SetExpr::Update(statement)
            | SetExpr::Delete(statement)
            | SetExpr::Merge(statement) => self.writer(statement, tail.top),
            SetExpr::Table(_) => Err("TABLE".to_string()),
        }
    }

    /// One arm of a set operation, without the clauses of the whole.
    fn arm(&mut self, arm: &'q SetExpr, bare: &Tail<'q>) -> Read<Output> {
        match arm {
            SetExpr::Select(select) => self.select(select, None),
            SetExpr::Query(query) => self.query(query, false),
            SetExpr::Values(values) => {
                self.levels.push(Level::default());
                let read = self.values(values);
                let level = self.levels.pop().unwrap_or_default();
                read?;
                Ok(Output { columns: None, nodes: level.nodes, sub_nodes: level.sub_nodes, ordered: false })
            }
            SetExpr::SetOperation { .. } => self.body(arm, bare),
            _ => Err("a writing statement inside of a set operation".to_string()),
        }
    }

    /// `(query) ORDER BY … LIMIT …`.
    fn wrapped(&mut self, inner: Output, tail: &Tail<'q>) -> Read<Output> {
        let level = Level {
            nodes: inner.nodes.clone(),
            sub_nodes: inner.sub_nodes.clone(),
            unclear: true,
            ..Level::default()
        };
        self.levels.push(level);
        let read = self.tail(tail, None);
        self.levels.pop();
        let limited = read?;
        Ok(if limited { Output { columns: None, ..inner } } else { inner })
    }

    pub(super) fn values(&mut self, values: &'q Values) -> Read<()> {
        for row in &values.rows {
            for e in &row.content {
                self.expr(e)?;
            }
        }
        Ok(())
    }

    /// ORDER BY, LIMIT, OFFSET, FETCH of the innermost level; tells whether rows are cut off.
    fn tail(&mut self, tail: &Tail<'q>, columns: Option<&[Column]>) -> Read<bool> {
        let query = tail.query;
        let mut ordered = false;
        if let Some(order_by) = &query.order_by {
            let OrderByKind::Expressions(items) = &order_by.kind else {
                return Err("ORDER BY ALL".to_string());
            };
            for item in items {
                if item.with_fill.is_some() {
                    return Err("ORDER BY … WITH FILL".to_string());
                }
                self.expr(&item.expr)?;
            }
            ordered = true;
        }
        let mut limited = false;
        match &query.limit_clause {
            None => {}
            Some(LimitClause::LimitOffset { limit, offset, limit_by }) => {
                if !limit_by.is_empty() {
                    return Err("LIMIT BY".to_string());
                }
                for e in limit.iter().chain(offset.iter().map(|o| &o.value)) {
                    self.expr(e)?;
                    limited |= !is_null(e);
                }
            }
            Some(LimitClause::OffsetCommaLimit { .. }) => return Err("LIMIT a, b".to_string()),
        }
        if let Some(fetch) = &query.fetch {
            fetch.quantity.iter().try_for_each(|e| self.expr(e))?;
            limited = true;
        }
        // Nobody has promised that they come in the order of the subquery that they are read from, but in PostgreSQL they do.
        let as_read = tail.top && !ordered && self.level().ordered;
        if as_read && self.level().aggregate.is_none() {
            self.level_obstacle("ORDER BY of a subquery in FROM", None);
        }
        let gathered = tail.top && !as_read && (limited || ordered) && self.gather(query, columns);
        if limited && !gathered {
            self.level_obstacle("LIMIT or OFFSET", None);
        }
        if limited && !ordered {
            self.seen.arbitrary_rows.get_or_insert_with(|| "LIMIT without ORDER BY".to_string());
        }
        if query.order_by.is_some() && tail.top && !gathered {
            self.level_obstacle("ORDER BY", None);
        }
        if !query.locks.is_empty() {
            return Err("a locking clause of an unknown form".to_string());
        }
        Ok(limited)
    }

    /// One SELECT, with the clauses that follow it when they belong to it alone.
    fn select(&mut self, select: &'q Select, tail: Option<&Tail<'q>>) -> Read<Output> {
        foreign_clauses(select)?;
        self.levels.push(Level::default());
        let read = self.select_level(select, tail);
        let level = self.levels.pop().unwrap_or_default();
        Ok(Output { columns: read?, nodes: level.nodes, sub_nodes: level.sub_nodes, ordered: level.ordered })
    }

    fn select_level(&mut self, select: &'q Select, tail: Option<&Tail<'q>>) -> Read<Option<Vec<Column>>> {
        self.from(&select.from)?;
        if let Some(condition) = &select.selection {
            self.condition(condition, &Side::Strict)?;
        }
        for window in &select.named_window {
            self.named_window(window)?;
        }
        let columns = self.projection(&select.projection)?;
        let grouping = self.grouping(select)?;
        if let Some(having) = &select.having {
            self.expr(having)?;
        }
        let folded = tail.is_some_and(|tail| tail.top && self.fold(select, tail.query));
        let mut commutes = !folded && self.aggregation(select, grouping);
        commutes &= self.windows();
        commutes &= self.distinct(select, columns.as_deref())?;
        if let Some(tail) = tail {
            commutes &= !self.tail(tail, columns.as_deref())?;
        }
        let level = self.level();
        if level.nodes.is_empty() && !level.sub_nodes.is_empty() {
            self.level_obstacle("a subquery on a sharded table", None);
        }
        let hide = |column: Column| if commutes { column } else { Column { key: None, ..column } };
        Ok(columns.map(|columns| columns.into_iter().map(hide).collect()))
    }

    /// The select list: its columns, unless a `*` cannot be expanded.
    pub(super) fn projection(&mut self, items: &'q [SelectItem]) -> Read<Option<Vec<Column>>> {
        let mut columns = Some(Vec::new());
        for item in items {
            let more = match item {
                SelectItem::UnnamedExpr(e) => Some(vec![self.output_column(e, column_name(e))?]),
                SelectItem::ExprWithAlias { expr, alias } => {
                    if alias.quote_style == Some('\'') {
                        return Err("a string after an expression".to_string());
                    }
                    Some(vec![self.output_column(expr, Some(fold(alias)))?])
                }
                SelectItem::Wildcard(_) => self.star(None),
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::ObjectName(name), _) => {
                    let alias = name.0.last().and_then(|part| part.as_ident()).map(fold);
                    self.star(alias.as_deref())
                }
                SelectItem::QualifiedWildcard(SelectItemQualifiedWildcardKind::Expr(e), _) => {
                    self.expr(e)?;
                    None
                }
                SelectItem::ExprWithAliases { .. } => return Err("several aliases".to_string()),
            };
            columns = columns.zip(more).map(|(mut all, more): (Vec<Column>, _)| {
                all.extend(more);
                all
            });
        }
        Ok(columns)
    }

    fn output_column(&mut self, e: &'q Expr, name: Option<String>) -> Read<Column> {
        let (key, kind) = (self.own_key(e), self.kind(e));
        self.expr(e)?;
        Ok(Column { name, key, kind })
    }

    /// Columns of `*` or `alias.*`.
    fn star(&mut self, alias: Option<&str>) -> Option<Vec<Column>> {
        let level = self.level();
        if alias.is_none() && (!level.merged.is_empty() || level.unclear) {
            return None;
        }
        let mut columns = Vec::new();
        for source in level.sources.iter().filter(|s| alias.is_none_or(|a| s.alias == a)) {
            columns.extend(source.columns.clone()?);
        }
        Some(columns)
    }

    /// Reads a subquery of an expression.
    pub(super) fn expression_subquery(&mut self, query: &'q Query) -> Read<Output> {
        let output = self.query(query, false)?;
        let level = self.level();
        level.sub_nodes.extend(&output.nodes);
        level.sub_nodes.extend(&output.sub_nodes);
        Ok(output)
    }

    /// Whether an expression refers to a column of an outer level.
    pub(super) fn is_outer_column(&self, e: &Expr) -> bool {
        let own = self.levels.len().saturating_sub(1);
        match self.meaning(e) {
            Some(Meaning::Key { level, .. } | Meaning::Other { level: Some(level) }) => level < own,
            _ => false,
        }
    }
}

fn address(cte: &Cte) -> usize {
    std::ptr::from_ref(cte) as usize
}

/// Whether the name of a WITH query occurs in the statement more than where it is defined; only then WITH RECURSIVE
/// can refer to itself. Errs on the side of recursion.
fn mentions(reader: &Reader<'_, '_>, cte: &Cte, name: &str) -> bool {
    within(reader, cte).any(|at| reader.tokens.name(at).as_deref() == Some(name))
}

/// Tokens of a WITH query after its name.
fn within(reader: &Reader<'_, '_>, cte: &Cte) -> std::ops::Range<usize> {
    let body = crate::sql::parse::offset(cte.alias.name.span).unwrap_or(0);
    let end = crate::sql::parse::offset(cte.closing_paren_token.0.span).unwrap_or(usize::MAX);
    let list = &reader.tokens.list;
    list.partition_point(|t| t.start <= body)..list.partition_point(|t| t.start < end)
}

/// `WITH x (a, b) AS …`.
fn renamed(columns: Option<Vec<Column>>, cte: &Cte) -> Option<Vec<Column>> {
    super::from::rename(columns, &cte.alias.columns)
}

/// The arms of a chain of set operations, left to right, without recursion.
fn arms<'q>(left: &'q SetExpr, right: &'q SetExpr) -> Vec<&'q SetExpr> {
    let mut out = vec![right];
    let mut at = left;
    while let SetExpr::SetOperation { left, right, .. } = at {
        out.push(right);
        at = left;
    }
    out.push(at);
    out.reverse();
    out
}

/// The name that PostgreSQL gives to an unnamed output column, where it is a column's own.
fn column_name(e: &Expr) -> Option<String> {
    match e {
        Expr::Identifier(ident) => Some(fold(ident)),
        Expr::CompoundIdentifier(parts) => parts.last().map(fold),
        Expr::Nested(inner) => column_name(inner),
        _ => None,
    }
}

fn is_null(e: &Expr) -> bool {
    matches!(unnest(e), Expr::Value(value) if value.value == Value::Null)
}
