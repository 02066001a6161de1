//! A case: statements that are compared one by one.

pub(crate) use tests::answer::Order;
use tests::wire_message::Value;

use crate::expr::{Form, Writer};

/// Kinds of cases; each has a rate of its own.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Class {
    Points,
    Joins,
    Aggregates,
    Ordering,
    WindowsAndSets,
    Subqueries,
    Writes,
    Copy,
    Catalog,
    Transactions,
}

impl Class {
    pub(crate) const ALL: [Self; 10] = [
        Self::Points,
        Self::Joins,
        Self::Aggregates,
        Self::Ordering,
        Self::WindowsAndSets,
        Self::Subqueries,
        Self::Writes,
        Self::Copy,
        Self::Catalog,
        Self::Transactions,
    ];
}

/// One statement.
#[derive(Debug, Clone)]
pub(crate) struct Step {
    /// The session that sends it, from 0.
    pub(crate) session: usize,
    pub(crate) sql: String,
    pub(crate) form: Form,
    pub(crate) params: Vec<Value>,
    pub(crate) order: Order,
    /// What is sent when COPY asks for it.
    pub(crate) data: Vec<u8>,
    /// In the extended protocol: so many rows at a time, three times; 0 for all rows.
    pub(crate) page: i32,
    /// In the extended protocol: what is sent behind it, before the Sync.
    pub(crate) more: Vec<Self>,
}

impl Step {
    /// A Query whose rows may come in any order.
    pub(crate) fn simple(sql: impl Into<String>) -> Self {
        let (sql, params, data) = (sql.into(), Vec::new(), Vec::new());
        Self {
            session: 0,
            sql,
            form: Form::Simple,
            params,
            order: Order::Any,
            data,
            page: 0,
            more: Vec::new(),
        }
    }

    /// As [`Self::simple`], in order.
    pub(crate) fn ordered(sql: impl Into<String>) -> Self {
        Self { order: Order::Total, ..Self::simple(sql) }
    }

    /// Whether one of several rows that are equal to PostgreSQL is shown, whichever that is.
    pub(crate) fn picks(&self) -> bool {
        let words = ["distinct", "union", "intersect", "except", "group by"];
        words.iter().any(|word| self.sql.contains(word))
    }

    /// Whether it writes rows that may be on several shards.
    pub(crate) fn inserts(&self) -> bool {
        self.sql.contains("insert into") || self.more.iter().any(Self::inserts)
    }

    /// What the writer's text says.
    pub(crate) fn written(sql: String, writer: Writer<'_>, order: Order) -> Self {
        let binary = writer.form == Form::Extended { binary: true } && !has_oids(&sql);
        let form = if writer.form == Form::Simple { Form::Simple } else { Form::Extended { binary } };
        Self { form, params: writer.params, order, ..Self::simple(sql) }
    }
}

/// Whether values in binary format name types of the schema's own, which have an OID of their own on each server: arrays and rows
/// with them.
pub(crate) fn has_oids(sql: &str) -> bool {
    let own = ["condition", "fee", "word", "caption"];
    let arrays = sql.contains("array_agg") && own.iter().any(|name| sql.contains(name));
    arrays || sql.contains("things") || sql.contains("select auctions from")
}

/// Statements that are judged one by one, of one session for the most part.
#[derive(Debug, Clone)]
pub(crate) struct Case {
    pub(crate) class: Class,
    pub(crate) steps: Vec<Step>,
}

impl Case {
    pub(crate) fn one(class: Class, step: Step) -> Self {
        Self { class, steps: vec![step] }
    }
}
