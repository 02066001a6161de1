//! FROM: tables, derived tables, functions and joins.

use std::sync::Arc;

use super::condition::Side;
use super::groups::{NodeId, Obstacle, Via};
use super::reader::{Read, Reader};
use super::scope::{Body, Column, Merged, Source, among, fold};
use crate::sql::parse::ast::{
    FunctionArg, Ident, Join, JoinConstraint, JoinOperator, ObjectName, TableAlias, TableAliasColumnDef,
    TableFactor, TableWithJoins,
};
use crate::sql::parse::{end_offset, offset};
use crate::sql::schema::{Deed, Placement, Relation};
use crate::sql::sources::Mention;

/// A part of FROM that was read: sources from `start` up to `end` of the level.
#[derive(Debug, Clone)]
pub(super) struct Tree {
    pub(super) start: usize,
    pub(super) end: usize,
    pub(super) nodes: Vec<NodeId>,
}

impl Tree {
    /// Its rows are spread over the shards.
    fn spread(&self) -> bool {
        !self.nodes.is_empty()
    }
}

impl<'q> Reader<'_, 'q> {
    /// Reads all items of FROM into the innermost level.
    pub(super) fn from(&mut self, items: &'q [TableWithJoins]) -> Read<()> {
        for item in items {
            self.table_with_joins(item)?;
        }
        Ok(())
    }

    pub(super) fn table_with_joins(&mut self, item: &'q TableWithJoins) -> Read<Tree> {
        let mut left = self.factor(&item.relation)?;
        for join in &item.joins {
            let right = self.factor(&join.relation)?;
            left = self.join(left, right, join)?;
        }
        Ok(left)
    }

    fn tree(&mut self, start: usize, nodes: Vec<NodeId>) -> Tree {
        let level = self.level();
        level.nodes.extend(&nodes);
        Tree { start, end: level.sources.len(), nodes }
    }

    pub(super) fn factor(&mut self, factor: &'q TableFactor) -> Read<Tree> {
        self.count_source()?;
        match factor {
            TableFactor::Table { name, alias, args: None, version: None, sample, .. } => {
                let tree = self.relation(name, alias.as_ref())?;
                if sample.is_some() {
                    self.level_obstacle("TABLESAMPLE", None);
                }
                Ok(tree)
            }
            TableFactor::Table { name, alias, args: Some(args), version: None, .. } => {
                self.function_item(name, &args.args, alias.as_ref())
            }
            TableFactor::Function { name, args, alias, .. } => self.function_item(name, args, alias.as_ref()),
            TableFactor::UNNEST { alias, array_exprs, .. } => {
                let start = self.level().sources.len();
                let outer = std::mem::replace(&mut self.in_from, true);
                self.form("unnest");
                array_exprs.iter().try_for_each(|e| self.expr(e))?;
                self.in_from = outer;
                self.opaque_source(alias.as_ref(), None);
                Ok(self.tree(start, Vec::new()))
            }
            TableFactor::Derived { lateral, subquery, alias, .. } => {
                let start = self.level().sources.len();
                let own = self.levels.len() - 1;
                self.levels[own].hidden = !lateral;
                let output = self.query(subquery, false);
                self.levels[own].hidden = false;
                let output = output?;
                self.seen.derived = true;
                self.level().sub_nodes.extend(&output.sub_nodes);
                // A LATERAL one is read anew for each row beside it, and has an order within that row's alone.
                self.level().ordered |= output.ordered && !lateral;
                let (columns, name) = aliased(output.columns, alias.as_ref(), "");
                self.level().sources.push(Source { alias: name, schema: None, columns, mention: None });
                Ok(self.tree(start, output.nodes))
            }
            TableFactor::NestedJoin { table_with_joins, alias } => {
                self.nested(table_with_joins, alias.as_ref())
            }
            _ => Err("an item of FROM that is not known".to_string()),
        }
    }

    fn function_item(
        &mut self,
        name: &ObjectName,
        args: &'q [FunctionArg],
        alias: Option<&TableAlias>,
    ) -> Read<Tree> {
        let start = self.level().sources.len();
        let outer = std::mem::replace(&mut self.in_from, true);
        args.iter().try_for_each(|arg| self.argument(arg))?;
        let nodes = self.function_in_from(name, args)?;
        self.in_from = outer;
        self.opaque_source(alias, name.0.last().and_then(|p| p.as_ident()));
        Ok(self.tree(start, nodes))
    }

    fn opaque_source(&mut self, alias: Option<&TableAlias>, function: Option<&Ident>) {
        self.seen.derived = true;
        let name = alias.map(|a| &a.name).or(function).map_or(String::new(), fold);
        self.level().sources.push(Source { alias: name, schema: None, columns: None, mention: None });
    }

    /// `(a JOIN b …) AS alias` hides the names inside.
    fn nested(&mut self, inner: &'q TableWithJoins, alias: Option<&TableAlias>) -> Read<Tree> {
        let merged = self.level().merged.len();
        let tree = self.table_with_joins(inner)?;
        if alias.is_some() {
            self.seen.derived = true;
            let level = self.level();
            let simple = level.merged.len() == merged && !level.unclear;
            level.merged.truncate(merged);
            let inside: Vec<Source> = level.sources.drain(tree.start..).collect();
            let columns =
                inside.into_iter().map(|s| s.columns).collect::<Option<Vec<_>>>().map(|c| c.concat());
            let (columns, name) = aliased(columns.filter(|_| simple), alias, "");
            level.sources.push(Source { alias: name, schema: None, columns, mention: None });
        }
        let end = self.level().sources.len();
        Ok(Tree { end, ..tree })
    }

    /// A table, view or WITH query by name.
    pub(super) fn relation(&mut self, object: &ObjectName, alias: Option<&TableAlias>) -> Read<Tree> {
        let start = self.level().sources.len();
        let (schema, name) = parts(object)?;
        if schema.is_none()
            && let Some(index) = self.named.iter().rposition(|n| n.name == name)
        {
            return self.named_query(index, &name, alias);
        }
        let Some(relation) = self.ctx.schema.lookup(self.ctx.search_path, schema.as_deref(), &name) else {
            self.note_table(schema.as_ref().map_or(name.clone(), |s| format!("{s}.{name}")));
            self.seen.unknown_name = true;
            self.seen.home.get_or_insert_with(|| format!("{name}, which is not known"));
            let (columns, alias) = aliased(None, alias, &name);
            self.level().sources.push(Source { alias, schema, columns, mention: None });
            return Ok(self.tree(start, Vec::new()));
        };
        self.note_table(relation.full_name());
        self.seen.derived |= alias.is_some_and(|alias| !alias.columns.is_empty());
        self.seen.times |= relation.columns.iter().any(|column| column.stored.times);
        let node = self.place(&relation);
        let mention = self.mention((&relation, node), object, alias);
        let columns = columns_of(&relation, node);
        let shown = alias.is_none().then(|| relation.schema.clone());
        let (columns, alias) = aliased(Some(columns), alias, &name);
        if relation.placement == Placement::Reference {
            self.seen.reference_aliases.push(alias.clone());
        }
        self.level().sources.push(Source { alias, schema: shown, columns, mention: Some(mention) });
        Ok(self.tree(start, node.into_iter().collect()))
    }

    /// Its number.
    fn mention(
        &mut self,
        (relation, node): (&Arc<Relation>, Option<NodeId>),
        name: &ObjectName,
        alias: Option<&TableAlias>,
    ) -> usize {
        let idents: Vec<&Ident> = name.0.iter().filter_map(|part| part.as_ident()).collect();
        let at = || Some(offset(idents.first()?.span)?..end_offset(idents.last()?.span)?);
        self.read.mentions.push(Mention {
            relation: Arc::clone(relation),
            alias: alias.map_or_else(|| relation.name.clone(), |alias| fold(&alias.name)),
            qualified: idents.len() > 1,
            renamed: alias.is_some_and(|alias| !alias.columns.is_empty()),
            at: at().unwrap_or_default(),
            node,
            filters: Vec::new(),
            pins: Vec::new(),
        });
        self.read.mentions.len() - 1
    }

    /// Notes where the rows of a relation live; a sharded one becomes a node.
    pub(super) fn place(&mut self, relation: &Arc<Relation>) -> Option<NodeId> {
        let full = relation.full_name();
        self.deed(relation, Deed::Read);
        match &relation.placement {
            Placement::Sharded { key_type, .. } | Placement::View { key_column: Some(_), key_type } => {
                Some(self.groups.add(full, *key_type))
            }
            Placement::View { key_column: None, key_type } => {
                self.groups.always(format!("view {full}"));
                Some(self.groups.add(full, *key_type))
            }
            Placement::Reference => {
                self.seen.reference.get_or_insert(full);
                None
            }
            Placement::Unsharded | Placement::Catalog => {
                self.seen.home.get_or_insert(full);
                None
            }
        }
    }

    /// A reference to a WITH query.
    fn named_query(&mut self, index: usize, name: &str, alias: Option<&TableAlias>) -> Read<Tree> {
        self.seen.derived = true;
        let start = self.level().sources.len();
        let depth = self.named[index].depth;
        let (columns, nodes) = match self.named[index].body.clone() {
            Body::Query(cte) => {
                let output = self.inline(index, cte, depth)?;
                self.level().sub_nodes.extend(&output.sub_nodes);
                self.level().ordered |= output.ordered;
                (output.columns, output.nodes)
            }
            Body::Output { columns, nodes } => self.written_rows(columns, nodes),
        };
        let (columns, alias) = aliased(columns, alias, name);
        self.level().sources.push(Source { alias, schema: None, columns, mention: None });
        Ok(self.tree(start, nodes))
    }

    /// Rows that a writing WITH query returned live where it wrote them, but conditions on them do not reach back: each
    /// reference gets nodes of its own, attached to the writer's.
    fn written_rows(
        &mut self,
        columns: Option<Vec<Column>>,
        nodes: Vec<NodeId>,
    ) -> (Option<Vec<Column>>, Vec<NodeId>) {
        let mut fresh: Vec<(NodeId, NodeId)> = Vec::new();
        let mut columns = columns;
        for key in columns.iter_mut().flatten().filter_map(|c| c.key.as_mut()) {
            let copy = match fresh.iter().find(|(old, _)| old == key) {
                Some((_, copy)) => *copy,
                None => {
                    let (name, key_type) =
                        (self.groups.nodes[*key].name.clone(), self.groups.nodes[*key].key_type);
                    let copy = self.groups.add(name, key_type);
                    self.groups.attach(copy, *key, Via::Correlation);
                    fresh.push((*key, copy));
                    copy
                }
            };
            *key = copy;
        }
        let mut all = nodes;
        all.extend(fresh.iter().map(|(_, copy)| *copy));
        (columns, all)
    }

    fn join(&mut self, left: Tree, right: Tree, join: &'q Join) -> Read<Tree> {
        match &join.join_operator {
            JoinOperator::Join(c) | JoinOperator::Inner(c) | JoinOperator::CrossJoin(c) => {
                self.constraint(&left, &right, c, (&Side::Strict, Some(true)))?;
            }
            JoinOperator::Left(c) | JoinOperator::LeftOuter(c) => self.outer(&left, &right, c, false)?,
            JoinOperator::Right(c) | JoinOperator::RightOuter(c) => self.outer(&left, &right, c, true)?,
            JoinOperator::FullOuter(c) => self.full(&left, &right, c)?,
            _ => return Err("a join that PostgreSQL does not have".to_string()),
        }
        let mut nodes = left.nodes;
        nodes.extend(right.nodes);
        Ok(Tree { start: left.start, end: right.end, nodes })
    }

    fn outer(&mut self, left: &Tree, right: &Tree, c: &'q JoinConstraint, flipped: bool) -> Read<()> {
        let (preserved, nullable) = if flipped { (right, left) } else { (left, right) };
        let id = self.groups.add_join();
        let side = Side::Outer {
            preserved: preserved.nodes.clone(),
            nullable: nullable.nodes.clone(),
            via: Via::Outer(id),
        };
        self.constraint(left, right, c, (&side, Some(!flipped)))?;
        if !preserved.spread() && nullable.spread() {
            self.outer_obstacle(id);
        }
        self.groups.make_nullable(&nullable.nodes, id);
        Ok(())
    }

    fn full(&mut self, left: &Tree, right: &Tree, c: &'q JoinConstraint) -> Read<()> {
        let (l, r) = (self.groups.add_join(), self.groups.add_join());
        let side = Side::Outer {
            preserved: left.nodes.clone(),
            nullable: right.nodes.clone(),
            via: Via::Full(l, r),
        };
        self.constraint(left, right, c, (&side, None))?;
        if left.spread() != right.spread() {
            self.outer_obstacle(if left.spread() { l } else { r });
        }
        self.groups.make_nullable(&left.nodes, l);
        self.groups.make_nullable(&right.nodes, r);
        Ok(())
    }

    fn outer_obstacle(&mut self, join: usize) {
        self.groups.obstacle(Obstacle {
            reason: "an outer join that keeps the rows of a table that is not sharded".to_string(),
            inside: Vec::new(),
            unless_not_null: None,
            unless_reduced: Some(join),
        });
    }

    /// ON, USING or NATURAL. With `keep`, a merged column is the left (true) or the right (false) one; without, neither.
    fn constraint(
        &mut self,
        left: &Tree,
        right: &Tree,
        c: &'q JoinConstraint,
        (side, keep): (&Side, Option<bool>),
    ) -> Read<()> {
        let names: Vec<String> = match c {
            JoinConstraint::None => return Ok(()),
            JoinConstraint::On(e) => return self.condition(e, side),
            JoinConstraint::Using(columns) => {
                columns.iter().map(|c| parts(c).map(|(_, name)| name)).collect::<Read<_>>()?
            }
            JoinConstraint::Natural => match self.common_names(left, right) {
                Some(names) => names,
                None => {
                    self.level().unclear = true;
                    return Ok(());
                }
            },
        };
        for name in names {
            let level = self.level();
            let l = among(level, left.start, left.end, &name);
            let r = among(level, right.start, right.end, &name);
            let key = match keep {
                Some(true) => l,
                Some(false) => r,
                None => None,
            };
            level.merged.push(Merged { name, key, start: left.start });
            if let (Some(l), Some(r)) = (l, r) {
                self.equal_columns(l, r, side);
            }
        }
        Ok(())
    }

    /// Names that NATURAL JOIN merges; `None` when the columns of a side are not known.
    fn common_names(&mut self, left: &Tree, right: &Tree) -> Option<Vec<String>> {
        let level = self.level();
        let names = |tree: &Tree| {
            let mut names = Vec::new();
            for source in &level.sources[tree.start..tree.end] {
                names.extend(source.columns.as_ref()?.iter().filter_map(|c| c.name.clone()));
            }
            Some(names)
        };
        let right = names(right)?;
        let mut common: Vec<String> = names(left)?.into_iter().filter(|n| right.contains(n)).collect();
        common.sort_unstable();
        common.dedup();
        Some(common)
    }
}

/// Columns of a table, the key's marked.
pub(super) fn columns_of(relation: &Relation, node: Option<NodeId>) -> Vec<Column> {
    let key = relation.key().map(|(index, _)| index);
    let column = |(index, c): (usize, &crate::sql::schema::Column)| Column {
        name: Some(c.name.clone()),
        key: node.filter(|_| Some(index) == key),
        kind: c.stored.order,
    };
    relation.columns.iter().enumerate().map(column).collect()
}

/// Columns and name under an alias.
pub(super) fn aliased(
    columns: Option<Vec<Column>>,
    alias: Option<&TableAlias>,
    name: &str,
) -> (Option<Vec<Column>>, String) {
    match alias {
        Some(alias) => (rename(columns, &alias.columns), fold(&alias.name)),
        None => (columns, name.to_string()),
    }
}

/// Renames the first columns.
pub(super) fn rename(columns: Option<Vec<Column>>, names: &[TableAliasColumnDef]) -> Option<Vec<Column>> {
    let mut columns = columns?;
    if names.len() > columns.len() {
        return None;
    }
    for (column, name) in columns.iter_mut().zip(names) {
        column.name = Some(fold(&name.name));
    }
    Some(columns)
}

/// Schema and name of a relation as written.
pub(super) fn parts(name: &ObjectName) -> Read<(Option<String>, String)> {
    let idents: Option<Vec<&Ident>> = name.0.iter().map(|part| part.as_ident()).collect();
    match idents.as_deref() {
        Some([name]) => Ok((None, fold(name))),
        Some([.., schema, name]) => Ok((Some(fold(schema)), fold(name))),
        _ => Err("a name of an unknown form".to_string()),
    }
}
