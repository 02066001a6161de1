//! Why a statement did not get its answer, and what its application is told.

use bytes::{Bytes, BytesMut};

use super::io::{ClientError, StepError};
use crate::backend::conn::ConnError;
use crate::backend::oids::OidError;
use crate::backend::pool::LeaseError;
use crate::route::refusal::Refusal;
use crate::wire::error::{Report, Severity, of_routine};
use crate::wire::frame::FrameError;
use crate::wire::{backend, sqlstate};

/// What to do about an unknown outcome.
pub(super) const READ_BACK: &str =
    "Read the rows back to learn whether the transaction was committed before running it again.";

/// What ended a statement early.
#[derive(Debug, thiserror::Error)]
pub enum Failure {
    /// The proxy does not execute it; the session goes on.
    #[error(transparent)]
    Refused(Box<Refusal>),
    /// A server rejected something that the proxy sent on its own behalf: its words, a whole ErrorResponse frame.
    #[error("rejected by the shard")]
    Server(Bytes),
    /// The connection to a shard was lost.
    #[error("connection to shard {shard} lost: {error}")]
    Lost {
        /// Name of the shard.
        shard: String,
        /// How.
        error: ConnError,
        /// A COMMIT was on its way, or a write outside of a block: nobody knows whether it took place.
        committing: bool,
    },
    /// No connection could be had.
    #[error("no connection to shard {shard}: {error}")]
    Lease {
        /// Name of the shard.
        shard: String,
        /// Why.
        error: LeaseError,
    },
    /// The session is over.
    #[error(transparent)]
    Client(#[from] ClientError),
}

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self::Refused(Box::new(refusal))
    }
}

impl From<OidError> for Failure {
    fn from(error: OidError) -> Self {
        of_oids(&error).into()
    }
}

impl From<FrameError> for Failure {
    fn from(error: FrameError) -> Self {
        match error {
            // The frame's end is known: only its statement is lost, as in PostgreSQL.
            FrameError::Body { .. } | FrameError::Kind { .. } => {
                Self::error(sqlstate::PROTOCOL_VIOLATION, error.to_string())
            }
            FrameError::InCopy { .. }
            | FrameError::Length { .. }
            | FrameError::TooLong { .. }
            | FrameError::Type { .. } => Self::Client(error.into()),
        }
    }
}

impl Failure {
    /// `0A000` with a hint.
    pub fn unsupported(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal::unsupported(message, hint).into()
    }

    /// An error of the proxy's own with a SQLSTATE.
    pub fn error(sqlstate: &'static str, message: impl Into<String>) -> Self {
        Refusal { sqlstate, message: message.into(), detail: None, hint: None }.into()
    }

    /// DDL has changed what a statement returns since the application was told, in PostgreSQL's own words.
    pub fn changed_plan() -> Self {
        let message = "cached plan must not change result type";
        Self::Server(of_routine(sqlstate::FEATURE_NOT_SUPPORTED, message, "RevalidateCachedQuery"))
    }

    /// Shards have answered one statement with rows of different columns.
    pub fn differing_rows() -> Self {
        let refusal = Refusal {
            sqlstate: sqlstate::SYSTEM_ERROR,
            message: "the shards' answers differ in their columns".to_owned(),
            detail: Some("Tables or functions that it uses are not the same on every shard.".to_owned()),
            hint: Some("Make them equal; SHOW PROBLEMS on the admin console lists what differs.".to_owned()),
        };
        refusal.into()
    }

    /// Whether it is [`Self::differing_rows`].
    pub fn is_differing_rows(&self) -> bool {
        matches!(self, Self::Refused(refusal) if refusal.sqlstate == sqlstate::SYSTEM_ERROR)
    }

    /// Of a step that failed on `shard`.
    pub fn of_step(error: StepError, shard: &str, committing: bool) -> Self {
        match error {
            StepError::Client(error) => Self::Client(error),
            StepError::Backend(error) => Self::Lost { shard: shard.to_owned(), error, committing },
        }
    }

    /// Appends the ErrorResponse. `Err` when the session is over instead.
    pub fn report(self, out: &mut BytesMut) -> Result<(), ClientError> {
        match self {
            Self::Refused(refusal) => {
                Report::error(refusal.sqlstate, &refusal.message)
                    .detail(refusal.detail.as_deref())
                    .hint(refusal.hint.as_deref())
                    .write(out);
            }
            Self::Server(frame) => out.extend_from_slice(&frame),
            Self::Lost { shard, error, committing } => lost(out, &shard, &error, committing),
            Self::Lease { shard, error } => no_lease(out, &shard, error),
            Self::Client(error) => return Err(error),
        }
        Ok(())
    }

    /// SQLSTATE that the application reads, for metrics.
    pub fn sqlstate(&self) -> String {
        match self {
            Self::Refused(refusal) => refusal.sqlstate.to_owned(),
            Self::Server(frame) => backend::error_field(frame.get(5..).unwrap_or_default(), b'C')
                .map_or_else(String::new, |code| String::from_utf8_lossy(code).into_owned()),
            Self::Lost { committing: true, .. } => sqlstate::TRANSACTION_RESOLUTION_UNKNOWN.to_owned(),
            Self::Lost { .. } => sqlstate::CONNECTION_FAILURE.to_owned(),
            Self::Lease { error: LeaseError::Connect(error), .. } => error.sqlstate().to_owned(),
            Self::Lease { error: LeaseError::Timeout { .. } | LeaseError::Own { .. }, .. } => {
                sqlstate::TOO_MANY_CONNECTIONS.to_owned()
            }
            Self::Client(_) => sqlstate::PROTOCOL_VIOLATION.to_owned(),
        }
    }
}

fn lost(out: &mut BytesMut, shard: &str, error: &ConnError, committing: bool) {
    if let ConnError::Oids(error) = error {
        let refusal = of_oids(error);
        Report::error(refusal.sqlstate, &refusal.message).hint(refusal.hint.as_deref()).write(out);
        return;
    }
    let detail = said(error).map_or_else(|| error.to_string(), |said| format!("the shard said: {said}"));
    if committing {
        let message =
            format!("connection to shard \"{shard}\" lost: whether the transaction was committed is unknown");
        Report::error(sqlstate::TRANSACTION_RESOLUTION_UNKNOWN, &message)
            .detail(detail.as_str())
            .hint(READ_BACK)
            .write(out);
    } else {
        let message = format!("connection to shard \"{shard}\" lost");
        Report::error(sqlstate::CONNECTION_FAILURE, &message)
            .detail(detail.as_str())
            .hint("The transaction was not committed and may be run again.")
            .write(out);
    }
}

/// What the server said when it ended the connection, with its SQLSTATE.
pub(super) fn said(error: &ConnError) -> Option<String> {
    let ConnError::Fatal(frame) = error else { return None };
    let field = |kind| {
        let value = backend::error_field(frame.get(5..).unwrap_or_default(), kind)?;
        Some(String::from_utf8_lossy(value).into_owned())
    };
    Some(format!("{} ({})", field(b'M')?, field(b'C')?))
}

/// The refusal of what cannot be said in the home shard's OIDs.
fn of_oids(error: &OidError) -> Refusal {
    match error {
        OidError::Container => Refusal::unsupported(
            error.to_string(),
            "Ask for text format, or cast the column in the query: to text, or an array of an enum to text[].",
        ),
        OidError::NoType(_) => Refusal::new(sqlstate::UNDEFINED_OBJECT, error.to_string()),
        OidError::Unread => Refusal::new(sqlstate::CANNOT_CONNECT_NOW, error.to_string()),
        OidError::Truncated => Refusal::new(sqlstate::PROTOCOL_VIOLATION, error.to_string()),
    }
}

fn no_lease(out: &mut BytesMut, shard: &str, error: LeaseError) {
    match error {
        LeaseError::Connect(error) => error.write(Severity::Error, shard, out),
        LeaseError::Timeout { .. } | LeaseError::Own { .. } => {
            let hint = match error {
                LeaseError::Own { .. } | LeaseError::Timeout { combines: true, .. } => {
                    "Raise pool.combine_size, or close cursors over rows of several shards earlier: each of those that are \
                     gathered in one place keeps such a connection."
                        .to_owned()
                }
                LeaseError::Timeout { bound, .. } if bound > 0 => format!(
                    "Sessions keep {bound} of its connections for what they have left there (temporary tables, advisory \
                     locks, PREPARE, cursors WITH HOLD, settings of functions), until DISCARD ALL or their end: end those, \
                     or raise pool.size."
                ),
                _ => "Raise pool.size, or shorten the transactions that hold the connections.".to_owned(),
            };
            let message = format!("shard \"{shard}\" has no free connection");
            Report::error(sqlstate::TOO_MANY_CONNECTIONS, &message)
                .detail(error.to_string().as_str())
                .hint(hint.as_str())
                .write(out);
        }
    }
}
