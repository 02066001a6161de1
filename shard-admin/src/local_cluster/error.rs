//! What can go wrong between nothing and a running cluster. Each message says what to do about it.

use std::io;
use std::path::{Path, PathBuf};

use crate::sql_error::describe;

/// Errors of local clusters.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No server binaries on this machine.
    #[error(
        "no PostgreSQL server programs (initdb, postgres) were found in `pg_config --bindir`, \
         /usr/lib/postgresql/*/bin or PATH.\n\
         They are in Debian's package `postgresql`. Install it with:\n    {install}"
    )]
    NoServer {
        /// The exact command.
        install: &'static str,
    },
    /// The servers refuse to run as root and nobody else is there.
    #[error(
        "PostgreSQL does not run as root, and this machine has neither a user `postgres` nor `nobody` to run it as"
    )]
    NoAccount,
    /// The account of the servers cannot reach the directory.
    #[error(
        "the servers run as user `{user}`, who may not enter {path}: choose another place with --data-dir or TMPDIR, \
         or allow it with: chmod o+x {path}"
    )]
    NotTraversable {
        /// The account.
        user: String,
        /// The first ancestor that is closed.
        path: PathBuf,
    },
    /// A given data directory has something else in it.
    #[error(
        "{path} is neither empty nor a finished cluster of an earlier run: give a directory that is, or a new one"
    )]
    NotEmpty {
        /// The directory.
        path: PathBuf,
    },
    /// A given data directory belongs to a run that goes on.
    #[error("{path} is in use by another demo: stop that one, or give another directory")]
    InUse {
        /// The directory.
        path: PathBuf,
    },
    /// A given data directory has another cluster in it.
    #[error(
        "{path} has {shards} shards with {replicas} replicas each: ask for the same, or give another directory"
    )]
    OtherShape {
        /// The directory.
        path: PathBuf,
        /// Shards there.
        shards: usize,
        /// Replicas of each.
        replicas: usize,
    },
    /// A program failed.
    #[error("{program} failed ({status}):\n{output}")]
    Program {
        /// Its name.
        program: String,
        /// How it ended.
        status: String,
        /// What it said.
        output: String,
    },
    /// A server ended or did not come up in time.
    #[error("{name} {what}; the end of its log {log}:\n{tail}")]
    Server {
        /// Which one, e.g. `shard-1 primary`.
        name: String,
        /// What happened.
        what: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// A statement on a node failed.
    #[error("{name}: {}", describe(.source))]
    Sql {
        /// Which node.
        name: String,
        /// The error, with the server's message.
        source: tokio_postgres::Error,
    },
    /// No port is free.
    #[error("no free port between {from} and {to} on 127.0.0.1")]
    NoPort {
        /// First port tried.
        from: u16,
        /// Last port tried.
        to: u16,
    },
    /// Files and processes.
    #[error("{doing}")]
    Io {
        /// What was tried.
        doing: String,
        /// Why it failed.
        source: io::Error,
    },
}

impl Error {
    /// An I/O error while doing something to a path.
    pub(crate) fn io(doing: &str, path: &Path, source: io::Error) -> Self {
        Self::Io { doing: format!("cannot {doing} {}", path.display()), source }
    }
}
