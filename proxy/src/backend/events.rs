//! What happened on a conn that its user wants to know.

use std::sync::Arc;

use bytes::Bytes;
use smallvec::SmallVec;

use super::owed::Show;
use super::prepared::SharedStatement;
use super::shape::{Agreed, Shape};
use super::verdict::Verdict;
use crate::wire::backend::{self, tag};
use crate::wire::error;
use crate::wire::frame::HEADER;

/// A shared statement that a server has parsed to something else than another one has before.
#[derive(Debug)]
pub struct Reshaped {
    /// Which.
    pub old: Arc<SharedStatement>,
    /// What it is now.
    pub shape: Shape,
    /// Whose Parse it was, see [`super::owed::Owed::Shape`].
    pub by: usize,
}

/// What happened on a conn that its user wants to know. Reset by the user.
#[derive(Debug, Default)]
pub struct Events {
    /// Shown Parse replies that succeeded.
    pub parsed: u32,
    /// Statements completed (CommandComplete or EmptyQueryResponse or PortalSuspended), of shown and captured replies.
    pub completed: u32,
    /// The last CommandComplete tag.
    pub last_tag: Option<SmallVec<[u8; 24]>>,
    /// Which of the completed statements answered `ROLLBACK` (a COMMIT of a failed transaction does).
    pub rolled_back: Vec<u32>,
    /// First error, as a whole ErrorResponse frame.
    pub error: Option<Bytes>,
    /// It came behind everything that was executed: the end of the transaction (a deferred constraint) brought it.
    pub at_end: bool,
    /// The server waits for COPY data.
    pub copy_in: bool,
    /// ParameterStatus seen: name and value. They are never shown: the session tells what has changed before ReadyForQuery.
    pub parameters: Vec<(String, String)>,
    /// DataRow bodies of captured (not shown) replies.
    pub rows: Vec<Bytes>,
    /// RowDescription and the like of captured replies, as whole frames.
    pub descriptions: Vec<Bytes>,
    /// Statements that an application has parsed and that are not what they were for others.
    pub reshaped: Vec<Reshaped>,
    /// A statement's rows are not those that the application was told of: what came of it was hidden.
    pub changed: bool,
    /// The answer is one part of several, which must have the same columns.
    pub agreed: Option<Agreed>,
    /// It has not: its rows were hidden.
    pub differs: bool,
    /// Characters of the application's text in front of the statement that runs: positions in errors count from there.
    pub ahead: usize,
    /// Of the session that it happens to.
    pub verdict: Option<Arc<Verdict>>,
}

impl Events {
    /// For another conn of the same session. What its rows are is compared by whoever puts the answers together.
    pub fn beside(&self) -> Self {
        let agreed = self.agreed.as_ref().map(|_| Agreed::default());
        Self { ahead: self.ahead, verdict: self.verdict.clone(), agreed, ..Self::default() }
    }

    /// As new, in the same memory. What the application has not been told yet of its settings is kept.
    pub fn clear(&mut self) {
        let Self {
            parsed,
            completed,
            last_tag,
            rolled_back,
            error,
            at_end,
            copy_in,
            parameters: _,
            rows,
            descriptions,
            reshaped,
            changed,
            agreed,
            differs,
            ahead,
            verdict: _,
        } = self;
        (*parsed, *completed, *last_tag, *error, *copy_in, *changed) = (0, 0, None, None, false, false);
        (*agreed, *differs, *at_end) = (None, false, false);
        reshaped.clear();
        *ahead = 0;
        rolled_back.clear();
        rows.clear();
        descriptions.clear();
    }

    /// SQLSTATE of the error.
    pub fn sqlstate(&self) -> Option<&[u8]> {
        self.error.as_ref().and_then(|frame| backend::error_field(&frame[HEADER..], b'C'))
    }

    /// Whether this function of the server's has raised the error.
    pub fn is_of(&self, routine: &[u8]) -> bool {
        let raised = self.error.as_ref().and_then(|frame| backend::error_field(&frame[HEADER..], b'R'));
        raised == Some(routine)
    }

    /// What the application is told in place of an error that a node has reported.
    pub(super) fn edited(&self, frame: &[u8]) -> Option<Bytes> {
        let verdict = self.verdict.as_ref().and_then(|verdict| verdict.instead_of(frame));
        verdict.or_else(|| (self.ahead > 0).then(|| error::moved(frame, self.ahead)))
    }

    /// A reply of the proxy's own, as one of the server's.
    pub fn note_local(&mut self, frame: &[u8]) {
        self.parsed += u32::from(frame.first() == Some(&tag::PARSE_COMPLETE));
        self.completed += u32::from(frame.first() == Some(&tag::COMMAND_COMPLETE));
    }

    /// Keeps what the session wants to know of a completed statement.
    pub(super) fn note_completion(&mut self, tag: u8, body: &[u8], show: Show) {
        self.completed += u32::from(show.has(Show::COMPLETE));
        self.last_tag = None;
        if tag == tag::COMMAND_COMPLETE
            && let Some(text) = backend::command_tag(body)
        {
            // A COMMIT of a failed transaction answers ROLLBACK.
            if text == b"ROLLBACK" && show.has(Show::COMPLETE) {
                self.rolled_back.push(self.completed - 1);
            }
            self.last_tag = Some(SmallVec::from_slice(text));
        }
    }
}
