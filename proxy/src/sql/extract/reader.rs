//! What is gathered while a statement's tree is read.

use std::collections::HashSet;

use super::Context;
use super::groups::{Groups, NodeId, Obstacle};
use super::scope::{Level, Meaning, Named, resolve};
use crate::sql::facts::{Effects, InsertShape, KeyTerm, Modify, PinCause, ValueRef};
use crate::sql::normalise::Literal;
use crate::sql::parse::ast::{CastKind, Expr, UnaryOperator, Value, ValueWithSpan};
use crate::sql::parse::offset;
use crate::sql::prepass::Quirks;
use crate::sql::schema::{Deed, Relation};
use crate::sql::sources::Sources;
use crate::sql::tokens::Tokens;
use router_config::key::KeyType;

/// The reason why a statement cannot be read.
pub(super) type Read<T> = Result<T, String>;

/// Items of FROM in one statement, all levels together; more are refused.
const MAX_SOURCES: usize = 400;

/// Common table expressions read inside of one another.
pub(super) const MAX_NESTED_CTES: usize = 16;

/// Reads one statement.
pub(super) struct Reader<'c, 'q> {
    pub(super) ctx: &'c Context<'c>,
    pub(super) tokens: &'c Tokens<'c>,
    pub(super) quirks: &'c Quirks,
    /// First byte of each literal.
    pub(super) literals: Vec<usize>,
    pub(super) groups: Groups,
    pub(super) levels: Vec<Level>,
    pub(super) named: Vec<Named<'q>>,
    /// WITH queries that something refers to, by address.
    pub(super) used: HashSet<usize>,
    pub(super) nested_ctes: usize,
    pub(super) sources: usize,
    /// Within the arguments of a function in FROM.
    pub(super) in_from: bool,
    pub(super) seen: Seen,
    pub(super) read: Sources,
}

/// What the statement was seen to do.
#[derive(Debug, Default)]
pub(super) struct Seen {
    /// Relations, for messages.
    pub(super) tables: Vec<String>,
    /// An unsharded table, the catalog, or a relation that is not known.
    pub(super) home: Option<String>,
    /// As `home`, unless sharded tables say where the statement goes.
    pub(super) home_alone: Option<String>,
    /// A reference table is read.
    pub(super) reference: Option<String>,
    /// Names that reference tables go by in the statement.
    pub(super) reference_aliases: Vec<String>,
    pub(super) writes_sharded: bool,
    pub(super) writes_reference: Option<String>,
    pub(super) writes_home: Option<String>,
    pub(super) writes_unknown: Option<String>,
    /// The first writing part, and how many there are.
    pub(super) modify: Option<Modify>,
    pub(super) writers: usize,
    /// Modifier of the key column's type in the table that is written.
    pub(super) modifier: Option<i32>,
    /// See [`crate::sql::facts::Sharded::rejects_null`].
    pub(super) rejects_null: bool,
    pub(super) updates_key: bool,
    /// See [`crate::sql::facts::Sharded::moves`].
    pub(super) moves: Option<Result<Box<crate::sql::facts::MoveShape>, String>>,
    pub(super) insert: Option<InsertShape>,
    pub(super) colocated_insert_select: bool,
    /// The source of the statement's own INSERT … SELECT.
    pub(super) select: Option<crate::sql::facts::SelectShape>,
    /// Why only a primary answers.
    pub(super) primary: Option<String>,
    pub(super) unrepeatable: Option<String>,
    pub(super) defaults: Option<Box<crate::sql::facts::DefaultsShape>>,
    pub(super) effects: Effects,
    /// A value that may be another one on each shard, though it is the same in each run on one.
    pub(super) of_shard: Option<String>,
    /// Why nothing certain can be said of the statement.
    pub(super) unknown: Option<String>,
    /// setval of a sequence that every shard draws from.
    pub(super) sets_sequences: bool,
    /// Why it cannot run, wherever it goes.
    pub(super) barred: Option<String>,
    /// A relation is named that the catalog does not know.
    pub(super) unknown_name: bool,
    /// Dates or times are written to a reference table, or texts are cast to such.
    pub(super) times: bool,
    /// A computed text becomes a date or time.
    pub(super) time_text: Option<String>,
    /// A function of the user's that may tell the time.
    pub(super) not_immutable: Option<String>,
    /// Something else than tables is read, or columns go by other names.
    pub(super) derived: bool,
    pub(super) by_value: bool,
    pub(super) returns_rows: bool,
    /// LIMIT without an order, or the like, over tables that are the same on all shards.
    pub(super) arbitrary_rows: Option<String>,
    /// Order, LIMIT and OFFSET of the statement's own SELECT.
    pub(super) gather: Option<Box<crate::sql::gather_shape::GatherShape>>,
    /// A volatile function of the user's: it may write.
    pub(super) user_function: Option<String>,
    /// A volatile function that is evaluated once, and not for each row of a sharded table.
    pub(super) once: Option<String>,
    /// A write fires triggers of the user's.
    pub(super) fires: Option<crate::sql::schema::Fires>,
    /// Why its parts on several shards would not be the whole of it, though each row could be written there.
    pub(super) whole: Option<String>,
}

impl<'c, 'q> Reader<'c, 'q> {
    pub(super) fn new(ctx: &'c Context<'c>, tokens: &'c Tokens<'c>, quirks: &'c Quirks) -> Self {
        let literals = tokens.list.iter().filter(|t| t.kind.is_literal()).map(|t| t.start).collect();
        Self {
            ctx,
            tokens,
            quirks,
            literals,
            groups: Groups::default(),
            levels: Vec::new(),
            named: Vec::new(),
            used: HashSet::new(),
            nested_ctes: 0,
            sources: 0,
            in_from: false,
            seen: Seen::default(),
            read: Sources::default(),
        }
    }

    /// The innermost level.
    pub(super) fn level(&mut self) -> &mut Level {
        if self.levels.is_empty() {
            self.levels.push(Level::default());
        }
        let last = self.levels.len() - 1;
        &mut self.levels[last]
    }

    pub(super) fn count_source(&mut self) -> Read<()> {
        self.sources += 1;
        if self.sources > MAX_SOURCES {
            return Err(format!("more than {MAX_SOURCES} tables in one statement"));
        }
        Ok(())
    }

    pub(super) fn note_table(&mut self, name: String) {
        if self.seen.tables.len() < 16 && !self.seen.tables.contains(&name) {
            self.seen.tables.push(name);
        }
    }

    /// Notes what is done to a relation: it may be barred.
    pub(super) fn deed(&mut self, relation: &Relation, deed: Deed) {
        let schema = self.ctx.schema;
        let why = schema.refused.get(&relation.oid).map(String::as_str).or(schema.hazard(relation, deed));
        if let Some(why) = why.filter(|_| self.seen.barred.is_none()) {
            self.seen.barred = Some(super::barred(relation, schema, why));
        }
        if schema.leaves(relation, deed) {
            self.leaves(|| format!("a function that {} runs", relation.full_name()));
        }
    }

    /// Something may stay behind on the conn: the session keeps it, and only the primary will do.
    pub(super) fn leaves(&mut self, what: impl FnOnce() -> String) {
        self.seen.effects.pins.get_or_insert(PinCause::Settings);
        self.seen.primary.get_or_insert_with(what);
    }

    pub(super) fn unknown(&mut self, why: impl Into<String>) {
        self.seen.unknown.get_or_insert_with(|| why.into());
    }

    /// An obstacle of the innermost level: harmless where its tables are tied to a key outside of it.
    pub(super) fn level_obstacle(&mut self, reason: impl Into<String>, unless_not_null: Option<NodeId>) {
        let level = self.level();
        let mut inside = level.nodes.clone();
        inside.extend(&level.sub_nodes);
        if inside.is_empty() {
            return;
        }
        self.groups.obstacle(Obstacle {
            reason: reason.into(),
            inside,
            unless_not_null,
            unless_reduced: None,
        });
    }

    /// What a plain column reference means.
    pub(super) fn meaning(&self, e: &Expr) -> Option<Meaning> {
        match e {
            Expr::Nested(inner) => self.meaning(inner),
            Expr::Identifier(ident) => Some(resolve(&self.levels, std::slice::from_ref(ident))),
            Expr::CompoundIdentifier(parts) => Some(resolve(&self.levels, parts)),
            _ => None,
        }
    }

    /// The key node that a plain column of the innermost level stands for, if values that are equal there are equal keys.
    pub(super) fn own_key(&self, e: &Expr) -> Option<NodeId> {
        match self.meaning(e)? {
            Meaning::Key { node, level } if level + 1 == self.levels.len() => {
                Some(node).filter(|node| self.comparable(*node))
            }
            Meaning::Key { .. } | Meaning::Other { .. } => None,
        }
    }

    /// Number of the literal at this byte.
    fn literal(&self, value: &ValueWithSpan) -> ValueRef {
        let index = offset(value.span).and_then(|at| self.literals.binary_search(&at).ok());
        match index.map(|i| u32::try_from(i + self.tokens.literals_before)) {
            Some(Ok(index)) => ValueRef::Literal(index),
            _ => ValueRef::Computed,
        }
    }

    fn value(&self, value: &ValueWithSpan) -> ValueRef {
        match &value.value {
            Value::Number(..) | Value::SingleQuotedString(_) => self.literal(value),
            Value::Null => ValueRef::Null,
            Value::Placeholder(name) => name
                .strip_prefix('$')
                .and_then(|n| n.parse().ok())
                .map_or(ValueRef::Computed, ValueRef::Param),
            _ => ValueRef::Computed,
        }
    }

    /// The value that an expression stands for, if it is one: a literal, a parameter, NULL, with minus and one cast.
    pub(super) fn term(&self, e: &Expr) -> Option<KeyTerm> {
        match e {
            Expr::Nested(inner) => self.term(inner),
            Expr::Value(value) => match self.value(value) {
                ValueRef::Computed => None,
                value => Some(KeyTerm { value, negated: false, cast: None }),
            },
            Expr::UnaryOp { op: UnaryOperator::Minus, expr } => {
                let term = self.term(expr)?;
                let number = matches!(term.value, ValueRef::Literal(_)) && self.is_number(expr);
                number.then_some(KeyTerm { negated: !term.negated, ..term })
            }
            Expr::UnaryOp { op: UnaryOperator::Plus, expr } => {
                self.term(expr).filter(|_| self.is_number(expr))
            }
            Expr::Cast { kind: CastKind::Cast | CastKind::DoubleColon, expr, data_type, format: None } => {
                let term = self.term(expr)?;
                let cast = Some(data_type.to_string().to_lowercase());
                term.cast.is_none().then_some(KeyTerm { cast, ..term })
            }
            Expr::TypedString(typed) => {
                let cast = Some(typed.data_type.to_string().to_lowercase());
                match self.value(&typed.value) {
                    ValueRef::Computed => None,
                    value => Some(KeyTerm { value, negated: false, cast }),
                }
            }
            _ => None,
        }
    }

    /// The value of a string literal, casts left aside.
    pub(super) fn text_value(&self, e: &Expr) -> Option<String> {
        match e {
            Expr::Nested(inner) => self.text_value(inner),
            Expr::Cast { expr, .. } => self.text_value(expr),
            Expr::Value(value) => {
                let at = offset(value.span)?;
                let token = self.tokens.list.iter().find(|t| t.start == at)?;
                let literal = Literal { kind: token.kind, start: token.start, end: token.end };
                let conforming = self.ctx.standard_conforming_strings;
                literal.value(self.tokens.text, conforming).map(|v| v.into_owned())
            }
            _ => None,
        }
    }

    fn is_number(&self, e: &Expr) -> bool {
        match e {
            Expr::Nested(inner) => self.is_number(inner),
            Expr::UnaryOp { expr, .. } | Expr::Cast { expr, .. } => self.is_number(expr),
            Expr::Value(value) => matches!(value.value, Value::Number(..)),
            _ => false,
        }
    }

    /// Whether equalities of this key type say something in this statement.
    pub(super) fn comparable(&self, node: NodeId) -> bool {
        !(self.quirks.collates && matches!(self.groups.nodes[node].key_type, KeyType::Text | KeyType::Bpchar))
    }

    /// Whether equal keys of the two nodes hash alike.
    pub(super) fn same_type(&self, a: NodeId, b: NodeId) -> bool {
        self.groups.nodes[a].key_type.family() == self.groups.nodes[b].key_type.family()
    }
}
