//! A statement that is to be executed, and what each shard is sent of it.

use std::sync::Arc;

use bytes::Bytes;
use router_config::topology::ShardId;

use crate::frontend::failure::Failure;
use crate::frontend::names::Prepared;
use crate::route::origins::Origins;
use crate::route::plan::{Gather, Plan};
use crate::sql::facts::Facts;

/// A statement to spread.
pub struct Ask {
    /// Where to.
    pub plan: Plan,
    /// What it says.
    pub facts: Arc<Facts>,
    /// The application's text, used where a share has none of its own.
    pub text: Bytes,
    /// How the application sent it.
    pub form: Form,
}

/// How the application sent the statement.
pub enum Form {
    /// Query.
    Query,
    /// Execute of a portal.
    Execute {
        /// Its statement.
        statement: Arc<Prepared>,
        /// Bind's body after the names.
        bind: Bytes,
        /// A description was asked for and has not been given.
        describe: bool,
        /// Row limit.
        max_rows: i32,
    },
}

impl Form {
    /// The same for all rows: a portal's own limit does not count where the text says how many.
    pub(super) fn unlimited(&self) -> Self {
        match self.described_if(true) {
            Self::Query => Self::Query,
            Self::Execute { statement, bind, describe, .. } => {
                Self::Execute { statement, bind, describe, max_rows: 0 }
            }
        }
    }

    /// The same, described only where it is said so too.
    pub(super) fn described_if(&self, wanted: bool) -> Self {
        match self {
            Self::Query => Self::Query,
            Self::Execute { statement, bind, describe, max_rows } => Self::Execute {
                statement: Arc::clone(statement),
                bind: bind.clone(),
                describe: *describe && wanted,
                max_rows: *max_rows,
            },
        }
    }
}

/// What one shard is sent.
#[derive(Debug)]
pub(super) struct Share {
    pub(super) shard: ShardId,
    pub(super) text: Bytes,
    pub(super) params: Option<Vec<u16>>,
    pub(super) rows: Vec<u32>,
    pub(super) origins: Origins,
    /// Columns at the end of its rows that are not the application's.
    pub(super) hidden: u16,
}

impl Share {
    /// A text with the parameters of the application's.
    pub(super) fn new(shard: ShardId, text: Bytes) -> Self {
        Self { shard, text, params: None, rows: Vec::new(), origins: Origins::default(), hidden: 0 }
    }

    /// As the merge of its rows demands it.
    pub(super) fn merged(self, gather: &Gather) -> Self {
        match &gather.text {
            None => self,
            Some((text, origins)) => Self {
                text: Bytes::copy_from_slice(text.as_bytes()),
                origins: origins.clone(),
                hidden: gather.hidden,
                ..self
            },
        }
    }
}

/// The refusal of a portal that would have to be read in parts.
pub fn row_limit() -> Failure {
    Failure::unsupported(
        "a row limit on rows that several shards return is not supported",
        "Fetch all rows at once, or name the shard key.",
    )
}

impl Ask {
    /// Whether so many rows are asked for at a time.
    pub(super) fn is_limited(&self) -> bool {
        matches!(self.form, Form::Execute { max_rows: 1.., .. }) && self.facts.returns_rows
    }

    pub(super) fn check_row_limit(&self, shares: usize) -> Result<(), Failure> {
        if shares > 1 && self.facts.returns_rows { self.check_row_limit_below(u64::MAX) } else { Ok(()) }
    }

    /// Refuses a row limit that may leave some of so many rows for later.
    pub(super) fn check_row_limit_below(&self, rows: u64) -> Result<(), Failure> {
        match self.form {
            Form::Execute { max_rows: limit @ 1.., .. } if u64::from(limit.unsigned_abs()) <= rows => {
                Err(row_limit())
            }
            _ => Ok(()),
        }
    }
}
