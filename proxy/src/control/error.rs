//! What goes wrong on the control side, in words for the operator who reads the log at night: which node, which
//! database, what was being done, what PostgreSQL said.

use router_config::topology::NodeAddress;

/// Failure of a control operation.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ControlError {
    /// No connection to a node.
    #[error("cannot connect to {node}, database \"{database}\", as \"{user}\": {cause}")]
    Connect {
        /// `host:port`
        node: String,
        /// Database on the node.
        database: String,
        /// Role of the control connections.
        user: String,
        /// PostgreSQL's or the system's words.
        cause: String,
    },
    /// A statement failed, or its connection broke.
    #[error("{doing} on {node}: {cause}")]
    Query {
        /// What was being done.
        doing: String,
        /// `host:port`
        node: String,
        /// SQLSTATE, when PostgreSQL answered.
        sqlstate: Option<String>,
        /// PostgreSQL's words.
        cause: String,
    },
    /// A shard has no primary to talk to.
    #[error("shard \"{shard}\" has no primary: {why}")]
    NoPrimary {
        /// Name of the shard.
        shard: String,
        /// What the health checks saw.
        why: String,
    },
    /// The stored state contradicts the configuration, or the store cannot be made.
    #[error("{message}")]
    Store {
        /// What is wrong and what to do.
        message: String,
    },
    /// A limit was reached.
    #[error("{message}")]
    Limit {
        /// Which one, and the consequence.
        message: String,
    },
    /// The control runtime is gone: the process is shutting down.
    #[error("the control runtime has stopped")]
    Stopped,
}

impl ControlError {
    /// Wraps an error of a statement.
    pub(crate) fn query(doing: &str, node: &NodeAddress, error: &tokio_postgres::Error) -> Self {
        Self::Query {
            doing: doing.to_owned(),
            node: format!("{}:{}", node.host, node.port),
            sqlstate: error.code().map(|code| code.code().to_owned()),
            cause: explain(error),
        }
    }

    /// SQLSTATE that PostgreSQL reported, if it did.
    pub fn sqlstate(&self) -> Option<&str> {
        match self {
            Self::Query { sqlstate, .. } => sqlstate.as_deref(),
            Self::Connect { .. }
            | Self::NoPrimary { .. }
            | Self::Store { .. }
            | Self::Limit { .. }
            | Self::Stopped => None,
        }
    }
}

/// PostgreSQL's message with its hint, or the chain of causes.
pub(crate) fn explain(error: &tokio_postgres::Error) -> String {
    if let Some(db) = error.as_db_error() {
        let mut text = format!("{}: {} ({})", db.severity(), db.message(), db.code().code());
        if let Some(detail) = db.detail() {
            text.push_str(&format!(" DETAIL: {detail}"));
        }
        if let Some(hint) = db.hint() {
            text.push_str(&format!(" HINT: {hint}"));
        }
        return text;
    }
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(error);
    while let Some(inner) = cause {
        let words = inner.to_string();
        if !text.contains(&words) {
            text.push_str(&format!(": {words}"));
        }
        cause = inner.source();
    }
    text
}
