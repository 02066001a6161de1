//! What a statement reads, mention by mention: what the placement of it does not need, but the gathering of its rows does.

use std::ops::Range;
use std::sync::Arc;

use super::facts::Pin;
use super::schema::Relation;

/// What a statement reads besides its facts.
#[derive(Debug, Default, Clone)]
pub struct Sources {
    /// Relations of FROM, in order of reading; a WITH query that is named twice is read twice.
    pub mentions: Vec<Mention>,
    /// Its sharded tables have keys of types that hash differently.
    pub mixed_keys: bool,
    /// It calls a function of the user's that may read tables.
    pub functions_read: bool,
    /// It calls a function whose body names sharded tables.
    pub functions_shadowed: bool,
    /// It locks rows.
    pub locks: bool,
}

/// One mention of a relation in FROM.
#[derive(Debug, Clone)]
pub struct Mention {
    /// Which.
    pub relation: Arc<Relation>,
    /// The name that it goes by in its query: an alias, or its own.
    pub alias: String,
    /// A schema stands in front of the name.
    pub qualified: bool,
    /// The alias gives its columns other names.
    pub renamed: bool,
    /// Bytes of the name as written, schema included; empty where they are not known.
    pub at: Range<usize>,
    /// Its number among the sharded tables of the statement, if it is one.
    pub node: Option<usize>,
    /// What its rows must fulfil to matter: all of these.
    pub filters: Vec<Filter>,
    /// What the key of its rows must be for them to matter: all of these.
    pub pins: Vec<Pin>,
}

/// A condition on a column, which no NULL fulfils.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Filter {
    /// Index of the column.
    pub column: usize,
    /// What stands behind the column.
    pub parts: Vec<FilterPart>,
}

/// A piece of a condition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FilterPart {
    /// SQL.
    Text(String),
    /// A parameter of the statement.
    Param(u16),
}
