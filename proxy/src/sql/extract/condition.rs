//! Conditions of WHERE and ON: which keys they fix and which they tie together.
//!
//! Only conjuncts count, and only for tables of the level that they stand in. A condition of an outer join says
//! something of its nullable side alone.

use smallvec::SmallVec;

use super::groups::{NodeId, Via};
use super::reader::{Read, Reader};
use super::scope::Meaning;
use crate::sql::facts::{KeyTerm, Pin, ValueRef};
use crate::sql::parse::ast::{BinaryOperator, Expr};

/// Where a condition stands.
#[derive(Debug, Clone)]
pub(super) enum Side {
    /// WHERE, or ON of an inner join: rows for which it does not hold are gone.
    Strict,
    /// ON of an outer join.
    Outer {
        /// Nodes of the side that keeps its rows.
        preserved: Vec<NodeId>,
        /// Nodes of the side that may become NULL; empty for FULL JOIN's conditions on one side alone.
        nullable: Vec<NodeId>,
        via: Via,
    },
}

impl<'q> Reader<'_, 'q> {
    /// Reads a condition: its subqueries and functions, and what its conjuncts say of keys.
    pub(super) fn condition(&mut self, e: &'q Expr, side: &Side) -> Read<()> {
        match e {
            Expr::Nested(inner) => self.condition(inner, side),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.condition(left, side)?;
                self.condition(right, side)
            }
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                self.equality(left, right, side);
                self.note_filter(e, side);
                self.expr(e)
            }
            Expr::InSubquery { expr, subquery, negated: false } => {
                self.expr(expr)?;
                let output = self.expression_subquery(subquery)?;
                let wanted: Vec<&Expr> = match unnest(expr) {
                    Expr::Tuple(items) => items.iter().collect(),
                    single => vec![single],
                };
                for (position, item) in wanted.into_iter().enumerate() {
                    let inner = output.columns.as_ref().and_then(|c| c.get(position)).and_then(|c| c.key);
                    if let (Some(Meaning::Key { node, .. }), Some(inner)) = (self.meaning(item), inner) {
                        self.tie(inner, node);
                    }
                }
                Ok(())
            }
            _ => {
                if let Some((node, pin)) = self.pin_of(e) {
                    self.apply(node, pin, side);
                }
                self.note_filter(e, side);
                self.expr(e)
            }
        }
    }

    /// The rows of `inner` that matter have the key of `outer`.
    fn tie(&mut self, inner: NodeId, outer: NodeId) {
        if self.same_type(inner, outer) && self.comparable(inner) {
            self.groups.attach(inner, outer, Via::Correlation);
        }
    }

    fn equality(&mut self, left: &Expr, right: &Expr, side: &Side) {
        if let (Expr::Tuple(left), Expr::Tuple(right)) = (unnest(left), unnest(right)) {
            if left.len() == right.len() {
                for (l, r) in left.iter().zip(right) {
                    self.equality(l, r, side);
                }
            }
            return;
        }
        let own = self.levels.len().saturating_sub(1);
        match (self.meaning(left), self.meaning(right)) {
            (Some(Meaning::Key { node: a, level: at }), Some(Meaning::Key { node: b, level: bt })) => {
                match (at == own, bt == own) {
                    (true, true) => self.equal_columns(a, b, side),
                    (true, false) => self.correlate(a, b, side),
                    (false, true) => self.correlate(b, a, side),
                    (false, false) => {}
                }
            }
            _ => {
                let pin = self.key_and_term(left, right).or_else(|| self.key_and_term(right, left));
                if let Some((node, term)) = pin {
                    self.apply(node, keys(vec![term]), side);
                }
            }
        }
    }

    /// Two key columns of this level are equal.
    pub(super) fn equal_columns(&mut self, a: NodeId, b: NodeId, side: &Side) {
        if !self.same_type(a, b) || !self.comparable(a) {
            return;
        }
        match side {
            Side::Strict => {
                self.groups.reject_null(a);
                self.groups.reject_null(b);
                self.groups.unite(a, b);
            }
            Side::Outer { preserved, nullable, via } => {
                if nullable.contains(&a) && preserved.contains(&b) {
                    self.groups.attach(a, b, *via);
                } else if nullable.contains(&b) && preserved.contains(&a) {
                    self.groups.attach(b, a, *via);
                } else if matches!(via, Via::Outer(_)) && nullable.contains(&a) && nullable.contains(&b) {
                    self.groups.reject_null(a);
                    self.groups.reject_null(b);
                    self.groups.unite(a, b);
                }
            }
        }
    }

    /// A key column of this level equals one of an outer level.
    fn correlate(&mut self, own: NodeId, outer: NodeId, side: &Side) {
        match side {
            Side::Strict => {
                self.groups.reject_null(own);
                self.tie(own, outer);
            }
            Side::Outer { nullable, via: Via::Outer(_), .. } if nullable.contains(&own) => {
                self.tie(own, outer)
            }
            Side::Outer { .. } => {}
        }
    }

    fn apply(&mut self, node: NodeId, pin: Pin, side: &Side) {
        if !self.comparable(node) {
            return;
        }
        let holds = match side {
            Side::Strict => true,
            Side::Outer { nullable, via: Via::Outer(_), .. } => nullable.contains(&node),
            Side::Outer { .. } => false,
        };
        if holds {
            self.groups.reject_null(node);
            self.groups.pin(node, pin);
        }
    }

    fn key_and_term(&self, column: &Expr, value: &Expr) -> Option<(NodeId, KeyTerm)> {
        let node = self.own_key(column)?;
        Some((node, self.term(value)?))
    }

    /// IN lists, `= ANY`, and OR of conditions that all fix the same key.
    fn pin_of(&self, e: &Expr) -> Option<(NodeId, Pin)> {
        match e {
            Expr::AnyOp { left, compare_op: BinaryOperator::Eq, right, .. } => {
                let node = self.own_key(left)?;
                match unnest(right) {
                    Expr::Array(array) => {
                        let terms: Option<Vec<KeyTerm>> = array.elem.iter().map(|e| self.term(e)).collect();
                        Some((node, keys(terms?)))
                    }
                    // `= ANY (array)::type[]` reaches us as a cast around a literal or a parameter.
                    other => self.term(other).map(|term| (node, Pin::Array(term))),
                }
            }
            _ => {
                let (node, terms) = self.alternatives(e)?;
                Some((node, keys(terms)))
            }
        }
    }

    /// The node and the values that its key has if the condition holds.
    fn alternatives(&self, e: &Expr) -> Option<(NodeId, Vec<KeyTerm>)> {
        match e {
            Expr::Nested(inner) => self.alternatives(inner),
            Expr::BinaryOp { left, op: BinaryOperator::Eq, right } => {
                if let (Expr::Tuple(l), Expr::Tuple(r)) = (unnest(left), unnest(right)) {
                    let pairs = (l.len() == r.len()).then(|| l.iter().zip(r))?;
                    return pairs.into_iter().find_map(|(l, r)| self.single(l, r));
                }
                self.single(left, right)
            }
            Expr::InList { expr, list, negated: false } => self.in_list(expr, list),
            Expr::BinaryOp { left, op: BinaryOperator::And, right } => {
                self.alternatives(left).or_else(|| self.alternatives(right))
            }
            Expr::BinaryOp { left, op: BinaryOperator::Or, right } => {
                let (node, mut terms) = self.alternatives(left)?;
                let (other, more) = self.alternatives(right)?;
                terms.extend(more);
                (node == other).then_some((node, terms))
            }
            _ => None,
        }
    }

    fn single(&self, left: &Expr, right: &Expr) -> Option<(NodeId, Vec<KeyTerm>)> {
        let found = self.key_and_term(left, right).or_else(|| self.key_and_term(right, left));
        found.map(|(node, term)| (node, vec![term]))
    }

    /// `key IN (…)`, and `(key, other) IN ((…), (…))`.
    fn in_list(&self, expr: &Expr, list: &[Expr]) -> Option<(NodeId, Vec<KeyTerm>)> {
        if let Expr::Tuple(columns) = unnest(expr) {
            let (position, node) =
                columns.iter().enumerate().find_map(|(i, c)| Some((i, self.own_key(c)?)))?;
            let member = |row: &Expr| match unnest(row) {
                Expr::Tuple(items) if items.len() == columns.len() => self.term(items.get(position)?),
                _ => None,
            };
            return Some((node, list.iter().map(member).collect::<Option<Vec<_>>>()?));
        }
        let node = self.own_key(expr)?;
        Some((node, list.iter().map(|e| self.term(e)).collect::<Option<Vec<_>>>()?))
    }
}

/// Without parentheses around it.
pub(super) fn unnest(e: &Expr) -> &Expr {
    match e {
        Expr::Nested(inner) => unnest(inner),
        other => other,
    }
}

/// A pin of these values; NULL equals nothing.
pub(super) fn keys(terms: Vec<KeyTerm>) -> Pin {
    let terms: SmallVec<[KeyTerm; 1]> = terms.into_iter().filter(|t| t.value != ValueRef::Null).collect();
    if terms.is_empty() { Pin::Never } else { Pin::Keys(terms) }
}
