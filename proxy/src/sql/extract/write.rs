//! UPDATE, DELETE and MERGE.

use super::condition::{Side, keys, unnest};
use super::expr::argument_value;
use super::from::{Tree, parts};
use super::groups::{NodeId, Obstacle, Via};
use super::query::Output;
use super::reader::{Read, Reader};
use super::scope::{Column, Level, fold};
use super::utility::{clock_of_default, varying_default};
use crate::sql::constraints::Rule;
use crate::sql::facts::{KeyTerm, Modify, MoveShape, Pin, ValueRef};
use crate::sql::parse::ast::{
    Assignment, AssignmentTarget, Delete, Expr, FromTable, FunctionArguments, Merge, MergeAction,
    MergeClauseKind, MergeInsertExpr, MergeInsertKind, MergeUpdateKind, SelectItem, Statement, TableFactor,
    TableWithJoins, Update, UpdateTableFromKind,
};
use crate::sql::schema::{Deed, Fires, Placement, Relation};
use crate::sql::spelling::quote_ident;
use std::sync::Arc;

/// The table that a statement writes.
#[derive(Debug, Clone)]
pub(super) struct Target {
    pub(super) relation: Option<Arc<Relation>>,
    /// If it is sharded.
    pub(super) node: Option<NodeId>,
}

impl Target {
    /// Where a column's value stands in the rows of an INSERT with these columns listed.
    pub(super) fn place_of(&self, name: &str, listed: &[String]) -> Option<usize> {
        match (listed, &self.relation) {
            ([], Some(relation)) => relation.columns.iter().position(|column| column.name == name),
            _ => listed.iter().position(|column| column == name),
        }
    }

    /// Name of the key column.
    pub(super) fn key_name(&self) -> Option<&str> {
        let relation = self.relation.as_ref()?;
        relation.columns.get(relation.key()?.0).map(|c| c.name.as_str())
    }
}

impl<'q> Reader<'_, 'q> {
    /// INSERT, UPDATE, DELETE or MERGE, as a statement (`top`) or in WITH.
    pub(super) fn writer(&mut self, statement: &'q Statement, top: bool) -> Read<Output> {
        self.levels.push(Level::default());
        self.seen.writers += 1;
        let (kind, read) = match statement {
            Statement::Insert(insert) => (Modify::Insert, self.insert(insert, top)),
            Statement::Update(update) => (Modify::Update, self.update(update)),
            Statement::Delete(delete) => (Modify::Delete, self.delete(delete)),
            Statement::Merge(merge) => (Modify::Merge, self.merge(merge)),
            _ => (Modify::Other, Err("a statement of an unknown form".to_string())),
        };
        let level = self.levels.pop().unwrap_or_default();
        self.seen.modify = if top { Some(kind) } else { self.seen.modify.or(Some(Modify::Other)) };
        let returned = read?;
        if top && returned.is_some() {
            self.seen.returns_rows = true;
        }
        Ok(Output {
            columns: returned.flatten(),
            nodes: level.nodes,
            sub_nodes: level.sub_nodes,
            ordered: false,
        })
    }

    /// Notes what kind of table is written.
    pub(super) fn write_to(&mut self, relation: Option<&Arc<Relation>>, name: &str, deeds: &[Deed]) {
        let Some(relation) = relation else {
            self.seen.unknown_name = true;
            self.seen.writes_unknown.get_or_insert_with(|| name.to_string());
            return;
        };
        for &deed in deeds {
            self.deed(relation, deed);
            let fires = self.ctx.schema.fires(relation, deed);
            self.seen.fires = self.seen.fires.max(fires);
            if fires == Some(Fires::Statement) {
                let what = || format!("a trigger FOR EACH STATEMENT of {}", relation.full_name());
                self.seen.whole.get_or_insert_with(what);
            }
        }
        self.seen.times |= matches!(relation.placement, Placement::Reference | Placement::Sharded { .. })
            && relation.columns.iter().any(|column| column.stored.times);
        let full = relation.full_name();
        if full == "pg_catalog.pg_settings" {
            self.seen
                .barred
                .get_or_insert_with(|| "UPDATE of pg_settings is not followed: use SET".to_string());
        }
        if relation.placement == Placement::Catalog {
            let why =
                || format!("it changes {full} of one shard alone: connect to each node, and do it there");
            self.seen.barred.get_or_insert_with(why);
        }
        let slot = match relation.placement {
            Placement::Sharded { .. } | Placement::View { .. } => {
                self.seen.writes_sharded = true;
                return;
            }
            Placement::Reference => &mut self.seen.writes_reference,
            Placement::Unsharded | Placement::Catalog => &mut self.seen.writes_home,
        };
        slot.get_or_insert(full);
    }

    /// Reads the target of UPDATE, DELETE or MERGE as the first item of FROM.
    fn target(&mut self, factor: &'q TableFactor, deeds: &[Deed]) -> Read<(Target, Tree)> {
        let TableFactor::Table { name, args: None, .. } = factor else {
            return Err("a target that is no table".to_string());
        };
        let (schema, plain) = parts(name)?;
        // A WITH query of the same name cannot be written.
        let hidden = std::mem::take(&mut self.named);
        let tree = self.factor(factor);
        self.named = hidden;
        let tree = tree?;
        let relation = self.ctx.schema.lookup(self.ctx.search_path, schema.as_deref(), &plain);
        self.write_to(relation.as_ref(), &plain, deeds);
        let target = Target { relation, node: tree.nodes.first().copied() };
        self.note_key_column(&target);
        Ok((target, tree))
    }

    /// What the key's column stores.
    pub(super) fn note_key_column(&mut self, target: &Target) {
        let Some(relation) = target.relation.as_deref() else { return };
        let Some(column) = relation.key().map(|(index, _)| &relation.columns[index]) else { return };
        self.seen.modifier = Some(column.stored.modifier);
        let mut deeds = [Deed::Insert, Deed::Update].into_iter();
        let changed = deeds.any(|deed| self.ctx.schema.fires(relation, deed).is_some());
        self.seen.rejects_null = column.not_null && !changed;
    }

    /// RETURNING; the outer option tells whether there is one.
    pub(super) fn returning(
        &mut self,
        items: Option<&'q Vec<SelectItem>>,
    ) -> Read<Option<Option<Vec<Column>>>> {
        items.map(|items| self.projection(items)).transpose()
    }

    fn only_table(tables: &[TableWithJoins]) -> Read<&TableFactor> {
        match tables {
            [TableWithJoins { relation, joins }] if joins.is_empty() => Ok(relation),
            _ => Err("several targets".to_string()),
        }
    }

    fn update(&mut self, update: &'q Update) -> Read<Option<Option<Vec<Column>>>> {
        if update.or.is_some()
            || update.output.is_some()
            || update.limit.is_some()
            || !update.order_by.is_empty()
        {
            return Err("an UPDATE of an unknown form".to_string());
        }
        let factor = Self::only_table(std::slice::from_ref(&update.table))?;
        let (target, _) = self.target(factor, &[Deed::Update])?;
        if let Some(UpdateTableFromKind::BeforeSet(tables) | UpdateTableFromKind::AfterSet(tables)) =
            &update.from
        {
            self.from(tables)?;
        }
        if let Some(condition) = &update.selection {
            self.condition(condition, &Side::Strict)?;
        }
        self.assignments(&update.assignments, &target)?;
        self.returning(update.returning.as_ref())
    }

    fn delete(&mut self, delete: &'q Delete) -> Read<Option<Option<Vec<Column>>>> {
        let odd = !delete.tables.is_empty()
            || delete.output.is_some()
            || delete.limit.is_some()
            || !delete.order_by.is_empty();
        let FromTable::WithFromKeyword(tables) = &delete.from else {
            return Err("DELETE without FROM".to_string());
        };
        if odd {
            return Err("a DELETE of an unknown form".to_string());
        }
        self.target(Self::only_table(tables)?, &[Deed::Delete])?;
        if let Some(using) = &delete.using {
            self.from(using)?;
        }
        if let Some(condition) = &delete.selection {
            self.condition(condition, &Side::Strict)?;
        }
        self.returning(delete.returning.as_ref())
    }

    /// SET: reads the values, notes a new key.
    pub(super) fn assignments(&mut self, list: &'q [Assignment], target: &Target) -> Read<()> {
        for assignment in list {
            self.assigned_defaults(assignment, target)?;
            self.assigned_columns(assignment, target)?;
            if !is_default(&assignment.value) {
                self.expr(&assignment.value)?;
            }
            let Some(key) = target.key_name() else { continue };
            let pairs: Vec<(String, Option<&Expr>)> = match &assignment.target {
                AssignmentTarget::ColumnName(name) => vec![(first(name)?, Some(&assignment.value))],
                AssignmentTarget::Tuple(names) => {
                    let values = match unnest(&assignment.value) {
                        Expr::Tuple(values) if values.len() == names.len() => Some(values),
                        _ => None,
                    };
                    let value = |i: usize| values.and_then(|v| v.get(i));
                    names.iter().enumerate().map(|(i, n)| Ok((first(n)?, value(i)))).collect::<Read<_>>()?
                }
            };
            pairs.iter().for_each(|(name, _)| self.assigns(name, target));
            for (_, value) in pairs.into_iter().filter(|(name, _)| name == key) {
                if !value.is_some_and(|v| self.keeps_key(v, target)) {
                    self.seen.updates_key = true;
                    self.seen.moves = value.map(|value| self.moves(value, target));
                }
            }
        }
        Ok(())
    }

    /// What the assignment of these columns sets off.
    fn assigned_columns(&mut self, assignment: &Assignment, target: &Target) -> Read<()> {
        let Some(relation) = &target.relation else { return Ok(()) };
        let names = match &assignment.target {
            AssignmentTarget::ColumnName(name) => std::slice::from_ref(name),
            AssignmentTarget::Tuple(names) => names.as_slice(),
        };
        let schema = self.ctx.schema;
        for name in names {
            if let Some(why) = schema.column_hazards.get(&(relation.oid, first(name)?)) {
                self.seen.barred.get_or_insert_with(|| super::barred(relation, schema, why));
            }
        }
        Ok(())
    }

    /// Each DEFAULT of an assignment.
    fn assigned_defaults(&mut self, assignment: &Assignment, target: &Target) -> Read<()> {
        let value = unnest(&assignment.value);
        let names = match &assignment.target {
            AssignmentTarget::ColumnName(name) if is_default(value) => {
                self.sets_default(&first(name)?, target);
                return Ok(());
            }
            AssignmentTarget::ColumnName(_) => return Ok(()),
            AssignmentTarget::Tuple(names) => names,
        };
        let values: Vec<Option<&Expr>> = match value {
            Expr::Tuple(values) => values.iter().map(Some).collect(),
            // ROW (…)
            Expr::Function(call) => match &call.args {
                FunctionArguments::List(list) => list.args.iter().map(argument_value).collect(),
                FunctionArguments::None | FunctionArguments::Subquery(_) => Vec::new(),
            },
            _ => Vec::new(),
        };
        for (name, value) in names.iter().zip(values) {
            if value.is_some_and(is_default) {
                self.sets_default(&first(name)?, target);
            }
        }
        Ok(())
    }

    /// SET column = DEFAULT: of a default that is another one on each shard.
    fn sets_default(&mut self, name: &str, target: &Target) {
        let Some(relation) = target.relation.clone() else { return };
        let column = relation.columns.iter().find(|column| column.name == name);
        let Some(default) = column.and_then(|column| column.default.as_deref()) else { return };
        let what = || format!("DEFAULT of {}.{name}", relation.full_name());
        match relation.placement {
            Placement::Reference if varying_default(self.ctx, default).is_some() => {
                self.unrepeatable_because(what());
            }
            Placement::Sharded { .. } | Placement::View { .. } => {
                if clock_of_default(self.ctx, default).is_some() {
                    self.seen.time_text.get_or_insert_with(what);
                }
            }
            Placement::Reference | Placement::Unsharded | Placement::Catalog => {}
        }
    }

    /// Notes a column whose values must differ from those of other shards' rows.
    fn assigns(&mut self, name: &String, target: &Target) {
        let Some(relation) = &target.relation else { return };
        let of_column = |rule: &Rule| matches!(rule, Rule::Unique { columns, .. } if columns.contains(name));
        let mut own = self.ctx.schema.unheld.iter().filter(|unheld| unheld.relation == relation.oid);
        if let Some(unheld) = own.find(|unheld| of_column(&unheld.rule)) {
            self.seen.whole.get_or_insert_with(|| unheld.problem());
        }
    }

    /// Whether the value assigned to the key is the key itself, or the value that the condition demands of it.
    fn keeps_key(&mut self, value: &Expr, target: &Target) -> bool {
        let Some(node) = target.node else { return false };
        match self.term(value) {
            Some(term) => self.pinned_to(node, &term),
            None => self.own_key(value) == Some(node),
        }
    }

    /// How rows move to this new key, or why they cannot.
    fn moves(&self, value: &Expr, target: &Target) -> Result<Box<MoveShape>, String> {
        let key = self.term(value).ok_or("the new key is computed")?;
        let relation = target.relation.as_ref().ok_or("the table is not known")?;
        let schema = self.ctx.schema;
        let Placement::Sharded { key_column, .. } = relation.placement else {
            return Err("it is a view".to_string());
        };
        if let Some(why) = schema.stuck.get(&relation.oid) {
            return Err(why.clone());
        }
        if [Deed::Insert, Deed::Update, Deed::Delete]
            .iter()
            .any(|deed| schema.fires(relation, *deed).is_some())
        {
            return Err(format!("{} has triggers", relation.full_name()));
        }
        let column = relation.columns.get(key_column).ok_or("it has no key column")?;
        let given = relation.columns.iter().filter(|column| !column.generated);
        Ok(Box::new(MoveShape {
            key,
            table: format!("{}.{}", quote_ident(&relation.schema), quote_ident(&relation.name)),
            column: (quote_ident(&column.name), column.type_name.clone()),
            columns: given.map(|column| quote_ident(&column.name)).collect(),
        }))
    }

    /// Whether a condition demands exactly this value of the node's key: the same parameter, or a literal that is
    /// spelled the same.
    fn pinned_to(&mut self, node: NodeId, term: &KeyTerm) -> bool {
        let ValueRef::Literal(literal) = term.value else {
            return self.groups.has_pin(node, &keys(vec![term.clone()]));
        };
        let spelling = |n: u32| {
            let start =
                *self.literals.get(usize::try_from(n).ok()?.checked_sub(self.tokens.literals_before)?)?;
            let token = self.tokens.list.iter().find(|t| t.start == start)?;
            Some(&self.tokens.text[token.start..token.end])
        };
        let same = self.groups.pins_of(node).any(|pin| match pin {
            Pin::Keys(terms) => match terms.as_slice() {
                [KeyTerm { value: ValueRef::Literal(other), negated, cast }] => {
                    *negated == term.negated && *cast == term.cast && spelling(*other) == spelling(literal)
                }
                _ => false,
            },
            Pin::Any | Pin::Array(_) | Pin::Never | Pin::Insert => false,
        });
        self.seen.by_value = true;
        same
    }

    fn merge(&mut self, merge: &'q Merge) -> Read<Option<Option<Vec<Column>>>> {
        if merge.output.is_some() {
            return Err("MERGE … RETURNING".to_string());
        }
        let deeds = merge.clauses.iter().filter_map(|clause| match clause.action {
            MergeAction::Insert(_) => Some(Deed::Insert),
            MergeAction::Update(_) => Some(Deed::Update),
            MergeAction::Delete { .. } => Some(Deed::Delete),
            MergeAction::DoNothing { .. } => None,
        });
        let (target, left) = self.target(&merge.table, &deeds.collect::<Vec<_>>())?;
        let right = self.factor(&merge.source)?;
        let inserts = merge.clauses.iter().any(|c| {
            matches!(c.clause_kind, MergeClauseKind::NotMatched | MergeClauseKind::NotMatchedByTarget)
                && matches!(c.action, MergeAction::Insert(_))
        });
        let by_source =
            merge.clauses.iter().any(|c| matches!(c.clause_kind, MergeClauseKind::NotMatchedBySource));
        if by_source && target.node.is_some() {
            return Err("MERGE … NOT MATCHED BY SOURCE".to_string());
        }
        if inserts {
            let id = self.groups.add_join();
            let (preserved, nullable) = (right.nodes.clone(), left.nodes.clone());
            let side = Side::Outer { preserved, nullable, via: Via::Outer(id) };
            self.condition(&merge.on, &side)?;
            if right.nodes.is_empty() && target.node.is_some() {
                let reason = "MERGE from a source that is not sharded".to_string();
                let obstacle =
                    Obstacle { reason, inside: vec![], unless_not_null: None, unless_reduced: None };
                self.groups.obstacle(obstacle);
            }
        } else {
            self.condition(&merge.on, &Side::Strict)?;
        }
        for clause in &merge.clauses {
            if let Some(predicate) = &clause.predicate {
                self.expr(predicate)?;
            }
            match &clause.action {
                MergeAction::Insert(insert) => self.merge_insert(insert, &target)?,
                MergeAction::Update(update) => {
                    let MergeUpdateKind::Set(list) = &update.kind else {
                        return Err("MERGE … UPDATE *".to_string());
                    };
                    if update.update_predicate.is_some() || update.delete_predicate.is_some() {
                        return Err("a MERGE of an unknown form".to_string());
                    }
                    self.assignments(list, &target)?;
                }
                MergeAction::Delete { .. } | MergeAction::DoNothing { .. } => {}
            }
        }
        Ok(None)
    }

    /// The row that MERGE inserts must have the key that ON compares.
    fn merge_insert(&mut self, insert: &'q MergeInsertExpr, target: &Target) -> Read<()> {
        let MergeInsertKind::Values(values) = &insert.kind else {
            return Err("MERGE … INSERT of a row".to_string());
        };
        if insert.insert_predicate.is_some() {
            return Err("a MERGE of an unknown form".to_string());
        }
        let [row] = values.rows.as_slice() else {
            return Err("MERGE … INSERT of several rows".to_string());
        };
        for value in row.content.iter().filter(|v| !is_default(v)) {
            self.expr(value)?;
        }
        let names = insert.columns.iter().map(first).collect::<Read<Vec<String>>>()?;
        let given: Vec<bool> = row.content.iter().map(|value| !is_default(value)).collect();
        self.merged_defaults((&names, &given), target);
        let (Some(node), Some(relation)) = (target.node, target.relation.as_ref()) else { return Ok(()) };
        let position = match target.key_name() {
            Some(key) if !names.is_empty() => names.iter().position(|n| n == key),
            _ => relation.key().map(|(index, _)| index),
        };
        let value = position.and_then(|p| row.content.get(p));
        let tied = value.is_some_and(|value| match self.term(value) {
            Some(term) => self.pinned_to(node, &term),
            None => self.own_key(value).is_some_and(|source| self.groups.hangs_on(node, source)),
        });
        if !tied {
            self.unknown(format!(
                "MERGE inserts into {} a key that ON does not compare",
                relation.full_name()
            ));
        }
        Ok(())
    }
}

/// DEFAULT as a value.
pub(super) fn is_default(e: &Expr) -> bool {
    matches!(e, Expr::Identifier(ident) if ident.quote_style.is_none() && ident.value.eq_ignore_ascii_case("default"))
}

/// The column that a target of SET or INSERT names; further parts are fields of a composite.
pub(super) fn first(name: &crate::sql::parse::ast::ObjectName) -> Read<String> {
    name.0
        .first()
        .and_then(|p| p.as_ident())
        .map(fold)
        .ok_or_else(|| "a column of an unknown form".to_string())
}
