//! INSERT: rows of VALUES with their keys, keys left to their default, INSERT … SELECT.

use super::groups::{NodeId, Via};
use super::reader::{Read, Reader};
use super::scope::{Column, Level, Source, fold};
use super::write::{Target, first, is_default};
use crate::sql::constraints::Unheld;
use crate::sql::facts::{DrawShape, InsertRow, InsertShape, KeyTerm, Pin, SelectKey, SelectShape, ValueRef};
use crate::sql::lexer::Kind;
use crate::sql::parse::ast::{
    Expr, Insert, OnConflictAction, OnInsert, Parens, Query, SelectItem, SetExpr, TableObject, Values,
};
use crate::sql::parse::{end_offset, offset};
use crate::sql::prepass::Overriding;
use crate::sql::schema::{Deed, Placement, Relation, RelationKind};
use crate::sql::spelling::quote_ident;

/// Where the key stands among the values of a row.
#[derive(Debug, Clone, Copy)]
struct KeyPlace {
    node: NodeId,
    /// Position in each row; `None`: the column is not listed.
    position: Option<usize>,
    /// Columns listed.
    listed: usize,
}

impl<'q> Reader<'_, 'q> {
    /// Reads an INSERT; the level is open.
    pub(super) fn insert(&mut self, insert: &'q Insert, top: bool) -> Read<Option<Option<Vec<Column>>>> {
        plain(insert)?;
        let TableObject::TableName(name) = &insert.table else {
            return Err("INSERT into a function".to_string());
        };
        let (schema, plain_name) = super::from::parts(name)?;
        let relation = self.ctx.schema.lookup(self.ctx.search_path, schema.as_deref(), &plain_name);
        let updates = matches!(&insert.on, Some(OnInsert::OnConflict(on)) if matches!(on.action, OnConflictAction::DoUpdate(_)));
        let deeds: &[Deed] = if updates { &[Deed::Insert, Deed::Update] } else { &[Deed::Insert] };
        self.write_to(relation.as_ref(), &plain_name, deeds);
        self.note_table(relation.as_ref().map_or(plain_name.clone(), |r| r.full_name()));
        let node = relation.as_ref().and_then(|r| self.insert_node(r, insert));
        let columns = insert.columns.iter().map(first).collect::<Read<Vec<String>>>()?;
        let target = Target { relation, node };
        self.note_key_column(&target);
        let given = match &insert.source {
            None => {
                self.default_values(&target, top)?;
                Vec::new()
            }
            Some(query) => match values_of(query) {
                Some(values) => {
                    self.insert_values(values, &columns, &target, (insert, top))?;
                    given_by_rows(values)
                }
                None => {
                    if query.order_by.is_some() && insert.returning.is_some() {
                        self.seen.whole.get_or_insert_with(|| "ORDER BY, with RETURNING".to_string());
                    }
                    vec![true; self.insert_select(query, &columns, &target)?]
                }
            },
        };
        let values = insert.source.as_deref().and_then(values_of).filter(|_| top);
        self.omitted_defaults((&columns, &given), &target, values);
        let alias = insert.table_alias.as_ref().map_or(plain_name, |a| fold(&a.alias));
        self.open_target(&alias, &target);
        if let Some(on) = &insert.on {
            self.on_conflict(on, &target)?;
        }
        if let Some(OnInsert::OnConflict(conflict)) = &insert.on {
            let rows = insert.source.as_deref().and_then(values_of).map(|values| values.rows.as_slice());
            let left_out = |name: &str| match (target.place_of(name, &columns), rows) {
                (None, _) => true,
                (Some(at), Some(rows)) => rows.iter().all(|row| row.content.get(at).is_none_or(is_default)),
                (Some(at), None) => at >= given.len(),
            };
            self.conflict_elsewhere(conflict, &target, &left_out);
        }
        self.returning(insert.returning.as_ref())
    }

    fn insert_node(&mut self, relation: &Relation, insert: &Insert) -> Option<NodeId> {
        let full = relation.full_name();
        // The server says whether rows can be inserted by a view; its table's unique constraints are not known by it.
        let held = !self.ctx.schema.unheld.iter().any(Unheld::is_unique);
        let by_view = relation.kind == RelationKind::View && (insert.on.is_none() || held);
        match relation.placement {
            Placement::View { key_column: Some(_), key_type } if by_view => {
                let node = self.groups.add(full, key_type);
                self.level().nodes.push(node);
                Some(node)
            }
            Placement::Sharded { key_type, .. } => {
                let node = self.groups.add(full, key_type);
                self.level().nodes.push(node);
                Some(node)
            }
            Placement::View { .. } => {
                self.unknown(format!("INSERT into {full}, a view over sharded tables"));
                None
            }
            Placement::Reference | Placement::Unsharded | Placement::Catalog => None,
        }
    }

    /// The target's columns, for RETURNING and ON CONFLICT.
    fn open_target(&mut self, alias: &str, target: &Target) {
        let columns = target.relation.as_ref().map(|r| super::from::columns_of(r, target.node));
        let schema = target.relation.as_ref().map(|r| r.schema.clone());
        self.level().sources.push(Source { alias: alias.to_string(), schema, columns, mention: None });
    }

    fn on_conflict(&mut self, on: &'q OnInsert, target: &Target) -> Read<()> {
        let OnInsert::OnConflict(conflict) = on else { return Err("ON DUPLICATE KEY".to_string()) };
        let OnConflictAction::DoUpdate(update) = &conflict.action else { return Ok(()) };
        // `excluded` is the row proposed: its key is the target's own, but only its qualified name is in sight.
        let Some(relation) = &target.relation else {
            return self.conflict_action(update, target);
        };
        let columns = super::from::columns_of(relation, target.node);
        let excluded =
            Source { alias: "excluded".to_string(), schema: None, columns: Some(columns), mention: None };
        self.level().sources.push(excluded);
        let read = self.conflict_action(update, target);
        self.level().sources.pop();
        read
    }

    fn conflict_action(&mut self, update: &'q crate::sql::parse::ast::DoUpdate, target: &Target) -> Read<()> {
        self.assignments(&update.assignments, target)?;
        update.selection.iter().try_for_each(|e| self.expr(e))
    }

    /// `DEFAULT VALUES` is a row in which the key is drawn: `("key") SELECT drawn` in the place of these words.
    fn default_values(&mut self, target: &Target, top: bool) -> Read<()> {
        let Some(place) = self.key_place(&[], target) else { return Ok(()) };
        let Some((column, relation)) = target
            .relation
            .as_ref()
            .and_then(|relation| Some((&relation.columns[relation.key()?.0], relation)))
        else {
            return Ok(());
        };
        self.groups.pin(place.node, Pin::Insert);
        if !top || self.seen.insert.is_some() {
            self.unknown(format!("INSERT … DEFAULT VALUES into {} inside of WITH", relation.full_name()));
            return Ok(());
        }
        let t = self.tokens;
        let words = (0..t.len()).find(|&at| t.is(at, "default") && t.is(at + 1, "values"));
        let at = words.ok_or("DEFAULT VALUES without a place")?;
        let span = t.list[at].start..t.list[at + 1].end;
        let value = if column.default.is_some() { ValueRef::Default } else { ValueRef::Null };
        let key = KeyTerm { value, negated: false, cast: None };
        let row =
            InsertRow { span: span.clone(), key, params: smallvec::SmallVec::new(), draw_at: span.clone() };
        let overriding = if column.identity_always { "OVERRIDING SYSTEM VALUE " } else { "" };
        let draw = column.default.clone().map(|default| DrawShape {
            default,
            type_name: column.type_name.clone(),
            column_at: Some((span.start, format!("({}) {overriding}SELECT ", quote_ident(&column.name)))),
            overriding_at: None,
        });
        let mut outside_params: smallvec::SmallVec<[u16; 4]> = self.params(0, usize::MAX).collect();
        outside_params.sort_unstable();
        outside_params.dedup();
        self.seen.insert = Some(InsertShape { rows: vec![row], values: span, outside_params, draw });
        Ok(())
    }

    fn key_place(&self, columns: &[String], target: &Target) -> Option<KeyPlace> {
        let (node, relation) = (target.node?, target.relation.as_ref()?);
        let (index, _) = relation.key()?;
        let position = match columns {
            [] => Some(index),
            listed => listed.iter().position(|c| *c == relation.columns[index].name),
        };
        let listed = if columns.is_empty() { relation.columns.len() } else { columns.len() };
        Some(KeyPlace { node, position, listed })
    }

    fn insert_values(
        &mut self,
        values: &'q Values,
        columns: &[String],
        target: &Target,
        (insert, top): (&'q Insert, bool),
    ) -> Read<()> {
        // Subqueries of the rows see no columns of the target.
        self.levels.push(Level::default());
        for row in &values.rows {
            for e in row.content.iter().filter(|e| !is_default(e)) {
                self.expr(e)?;
            }
        }
        let level = self.levels.pop().unwrap_or_default();
        self.level().sub_nodes.extend(level.sub_nodes);
        let Some(place) = self.key_place(columns, target) else { return Ok(()) };
        self.groups.pin(place.node, Pin::Insert);
        if target.relation.as_ref().is_some_and(|relation| relation.kind == RelationKind::View) {
            let given = |row: &Parens<Vec<Expr>>| {
                place.position.and_then(|at| row.content.get(at)).is_some_and(|key| !is_default(key))
            };
            if !values.rows.iter().all(given) {
                self.unknown("INSERT into a view that leaves the shard key to its default");
                return Ok(());
            }
        }
        if !top || self.seen.insert.is_some() {
            self.unknown("INSERT … VALUES into a sharded table inside of WITH");
            return Ok(());
        }
        if self.quirks.overriding == Some(Overriding::User) {
            self.unknown("OVERRIDING USER VALUE on a sharded table");
            return Ok(());
        }
        let shape = self.shape(values, place, target)?;
        self.seen.insert = Some(self.with_draw(shape, place, target, insert)?);
        Ok(())
    }

    fn shape(&self, values: &Values, place: KeyPlace, target: &Target) -> Read<InsertShape> {
        let nullable_default =
            target.relation.as_ref().and_then(|r| r.columns.get(r.key()?.0)?.default.clone());
        let mut rows = Vec::with_capacity(values.rows.len());
        for row in &values.rows {
            rows.push(self.row(row, place, nullable_default.is_some())?);
        }
        let (Some(start), Some(end)) = (rows.first().map(|r| r.span.start), rows.last().map(|r| r.span.end))
        else {
            return Err("VALUES without rows".to_string());
        };
        let outside = self.params(0, start).chain(self.params(end, usize::MAX));
        let mut outside_params: smallvec::SmallVec<[u16; 4]> = outside.collect();
        outside_params.sort_unstable();
        outside_params.dedup();
        Ok(InsertShape { rows, values: start..end, outside_params, draw: None })
    }

    fn row(&self, row: &Parens<Vec<Expr>>, place: KeyPlace, has_default: bool) -> Read<InsertRow> {
        let span = offset(row.opening_token.0.span).zip(end_offset(row.closing_token.0.span));
        let (start, end) = span.ok_or("a row without a place")?;
        if row.content.len() > place.listed {
            return Err("INSERT has more expressions than target columns".to_string());
        }
        let missing = KeyTerm {
            value: if has_default { ValueRef::Default } else { ValueRef::Null },
            negated: false,
            cast: None,
        };
        let (key, draw_at) = match place.position.and_then(|p| row.content.get(p)) {
            None => (missing, end - 1..end - 1),
            Some(Expr::Identifier(word)) if is_default(&Expr::Identifier(word.clone())) => {
                let word = offset(word.span).zip(end_offset(word.span)).ok_or("DEFAULT without a place")?;
                (missing, word.0..word.1)
            }
            Some(e) => {
                let computed = KeyTerm { value: ValueRef::Computed, negated: false, cast: None };
                (self.term(e).unwrap_or(computed), end - 1..end - 1)
            }
        };
        Ok(InsertRow { span: start..end, key, params: self.params(start, end).collect(), draw_at })
    }

    /// Parameters between two bytes.
    fn params(&self, start: usize, end: usize) -> impl Iterator<Item = u16> + '_ {
        let from = self.tokens.list.partition_point(|t| t.start < start);
        let inside = self.tokens.list[from..].iter().take_while(move |t| t.end <= end);
        let number = |t: &crate::sql::lexer::Token| {
            std::str::from_utf8(&self.tokens.text[t.start + 1..t.end]).ok()?.parse().ok()
        };
        inside.filter(|t| t.kind == Kind::Param).filter_map(number)
    }

    /// Adds how a key left to its default gets into the statement.
    fn with_draw(
        &self,
        shape: InsertShape,
        place: KeyPlace,
        target: &Target,
        insert: &Insert,
    ) -> Read<InsertShape> {
        let Some(relation) = &target.relation else { return Ok(shape) };
        if !shape.rows.iter().any(|r| r.key.value == ValueRef::Default) {
            return Ok(shape);
        }
        let column = relation.key().map(|(index, _)| &relation.columns[index]).ok_or("no key column")?;
        let Some(default) = column.default.clone() else { return Ok(shape) };
        let first_row = self.tokens.list.partition_point(|t| t.start < shape.values.start);
        let overriding = self.quirks.overriding.is_some();
        // Tokens before the rows: … [)] [OVERRIDING … VALUE] VALUES
        let mut last = first_row.checked_sub(2).ok_or("VALUES without a table")?;
        if overriding {
            last = last.checked_sub(3).ok_or("VALUES without a table")?;
        }
        // The parenthesis around the rows.
        last -= usize::from(self.tokens.is_mark(last, "("));
        let before = self.tokens.list[last];
        let column_at = if !insert.columns.is_empty() {
            let missing = place.position.is_none();
            missing.then(|| (before.start, format!(", {}", quote_ident(&column.name))))
        } else {
            self.whole_list(&shape, relation, before.end)
        };
        let overriding_at = (column.identity_always && !overriding).then_some(before.end);
        let draw = DrawShape { default, type_name: column.type_name.clone(), column_at, overriding_at };
        Ok(InsertShape { draw: Some(draw), ..shape })
    }

    /// Without a column list: a list of the columns that the rows give, and the key, when the rows end before the key.
    fn whole_list(&self, shape: &InsertShape, relation: &Relation, at: usize) -> Option<(usize, String)> {
        let (key, _) = relation.key()?;
        // Rows have the same length: when one says DEFAULT in the key's place, all have a value there.
        let inside = shape.rows.iter().any(|row| row.draw_at.start < row.draw_at.end);
        if inside {
            return None;
        }
        // Rows of one VALUES list have the same length: count the first one's values by its commas.
        let first_row = self.tokens.list.partition_point(|t| t.start < shape.rows[0].span.start);
        let close = self.tokens.closing(first_row)?;
        let given = self.tokens.items(first_row + 1, close).len();
        let mut names: Vec<String> =
            relation.columns.iter().take(given).map(|c| quote_ident(&c.name)).collect();
        names.push(quote_ident(&relation.columns[key].name));
        Some((at, format!(" ({})", names.join(", "))))
    }

    /// INSERT … SELECT stays on the shard it reads from if the key comes from the key of the rows read. Returns how many
    /// columns it is known to give.
    fn insert_select(&mut self, query: &'q Query, columns: &[String], target: &Target) -> Read<usize> {
        // The source sees no columns of the target.
        let output = self.query(query, false)?;
        let level = self.level();
        level.sub_nodes.extend(&output.nodes);
        level.sub_nodes.extend(&output.sub_nodes);
        let width = output.columns.as_ref().map_or(columns.len(), Vec::len);
        let Some(place) = self.key_place(columns, target) else { return Ok(width) };
        let source = place.position.and_then(|p| output.columns.as_ref()?.get(p)?.key);
        if let Some(source) = source.filter(|s| self.same_type(*s, place.node)) {
            self.groups.attach(place.node, source, Via::Correlation);
            self.seen.colocated_insert_select = self.seen.writers == 1;
            return Ok(width);
        }
        let term = place.position.and_then(|p| constant_item(query, p)).and_then(|e| self.term(e));
        match term {
            Some(term) => self.groups.pin(place.node, super::condition::keys(vec![term])),
            None if output.nodes.is_empty() && output.sub_nodes.is_empty() => {
                self.seen.select = self.select_shape(query, place, target);
                self.groups.always("INSERT … SELECT whose key is not the key of the rows read");
            }
            None => self.groups.always("INSERT … SELECT whose key is not the key of the rows read"),
        }
        Ok(width)
    }

    /// Where the query of the statement's own `INSERT INTO t (columns) query` stands.
    fn select_shape(&self, query: &Query, place: KeyPlace, target: &Target) -> Option<SelectShape> {
        let t = self.tokens;
        let (_, _, open) = t.qualified(2)?;
        let plain = t.is(0, "insert") && t.is(1, "into") && t.is_mark(open, "(") && self.seen.writers == 1;
        if !plain {
            return None;
        }
        let close = t.closing(open)?;
        let wrapped = t.is_mark(close + 1, "(");
        let start = close + 1 + usize::from(wrapped);
        if !t.is_any(start, &["select", "with"]) {
            return None;
        }
        let last = if wrapped { t.closing(close + 1)? } else { t.len() };
        let behind = |&at: &usize| t.is(at, "returning") || (t.is(at, "on") && t.is(at + 1, "conflict"));
        let end = t.outermost(start, last).find(behind).unwrap_or(last);
        let key = match place.position {
            Some(position) => SelectKey::Column(position),
            None => {
                let relation = target.relation.as_ref()?;
                let column = &relation.columns[relation.key()?.0];
                SelectKey::Default(DrawShape {
                    default: column.default.clone()?,
                    type_name: column.type_name.clone(),
                    column_at: Some((t.list[close].start, format!(", {}", quote_ident(&column.name)))),
                    overriding_at: column.identity_always.then_some(t.list[close].end),
                })
            }
        };
        Some(SelectShape {
            source: t.list.get(start)?.start..t.list.get(end.checked_sub(1)?)?.end,
            columns: place.listed,
            key,
            literals: self.untyped(query),
            has_params: t.list.iter().any(|token| token.kind == Kind::Param),
        })
    }

    /// Items of a select list that are strings or NULL.
    fn untyped(&self, query: &Query) -> Vec<(usize, std::ops::Range<usize>)> {
        let SetExpr::Select(select) = &*query.body else { return Vec::new() };
        let mut literals = Vec::new();
        for (position, item) in select.projection.iter().enumerate() {
            let value = match item {
                SelectItem::UnnamedExpr(Expr::Value(value))
                | SelectItem::ExprWithAlias { expr: Expr::Value(value), .. } => value,
                SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. } => continue,
                // What stands behind a star has no certain place.
                _ => break,
            };
            let Some(start) = offset(value.span) else { continue };
            let token = self.tokens.list.iter().find(|token| token.start == start);
            let string = |kind| matches!(kind, Kind::String | Kind::Escaped | Kind::Unicode | Kind::Dollar);
            if let Some(token) = token.filter(|token| {
                string(token.kind) || self.tokens.text[token.start..token.end].eq_ignore_ascii_case(b"null")
            }) {
                literals.push((position, token.start..token.end));
            }
        }
        literals
    }
}

/// For each column whether every row gives a value for it.
fn given_by_rows(values: &Values) -> Vec<bool> {
    let width = values.rows.iter().map(|row| row.content.len()).min().unwrap_or(0);
    let given = |at: usize| values.rows.iter().all(|row| row.content.get(at).is_some_and(|e| !is_default(e)));
    (0..width).map(given).collect()
}

/// Forms of other databases.
fn plain(insert: &Insert) -> Read<()> {
    let odd = insert.or.is_some()
        || insert.ignore
        || insert.overwrite
        || !insert.assignments.is_empty()
        || insert.partitioned.is_some()
        || !insert.after_columns.is_empty()
        || insert.has_table_keyword
        || insert.replace_into
        || insert.output.is_some()
        || insert.insert_alias.is_some()
        || insert.settings.is_some()
        || insert.format_clause.is_some()
        || insert.multi_table_insert_type.is_some();
    if odd || !insert.into { Err("an INSERT of an unknown form".to_string()) } else { Ok(()) }
}

/// The rows, if the source is nothing but VALUES.
fn values_of(query: &Query) -> Option<&Values> {
    let bare = query.with.is_none()
        && query.order_by.is_none()
        && query.limit_clause.is_none()
        && query.fetch.is_none()
        && query.locks.is_empty();
    match &*query.body {
        SetExpr::Values(values) if bare && !values.explicit_row => Some(values),
        _ => None,
    }
}

/// The expression at this place of a plain select list.
fn constant_item(query: &Query, position: usize) -> Option<&Expr> {
    let SetExpr::Select(select) = &*query.body else { return None };
    let before = select.projection.get(..=position)?;
    let single =
        |item: &SelectItem| matches!(item, SelectItem::UnnamedExpr(_) | SelectItem::ExprWithAlias { .. });
    match before.last()? {
        _ if !before.iter().all(single) => None,
        SelectItem::UnnamedExpr(e) | SelectItem::ExprWithAlias { expr: e, .. } => Some(e),
        _ => None,
    }
}
