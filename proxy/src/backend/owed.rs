//! The replies that a conn still owes, in order, and what becomes of each.
//!
//! Every frame sent to PostgreSQL that it answers has one entry. A reply that does not fit the entry at the head is a
//! protocol violation of the server's and costs the conn. After an error in the extended protocol the entries up to
//! the next [`Owed::Sync`] are void, as the server skips their frames.

use std::sync::Arc;

use bytes::Bytes;

use super::prepared::SharedStatement;

/// Which parts of a reply reach the application.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Show(u8);

impl Show {
    /// Nothing: the proxy asked for itself. Errors are kept for the caller.
    pub const NOTHING: Self = Self(0);
    /// Everything.
    pub const ALL: Self = Self(0b111_1111);
    /// RowDescription, ParameterDescription, NoData.
    pub const DESCRIPTION: Self = Self(0b00001);
    /// DataRow and COPY data.
    pub const ROWS: Self = Self(0b00010);
    /// CommandComplete, EmptyQueryResponse, PortalSuspended, ParseComplete, BindComplete, CloseComplete.
    pub const COMPLETE: Self = Self(0b00100);
    /// ReadyForQuery.
    pub const READY: Self = Self(0b01000);
    /// CopyDone.
    pub const COPY_DONE: Self = Self(0b10_0000);
    /// Notices.
    pub const NOTICES: Self = Self(0b100_0000);
    /// Nothing: its rows are held against those of other shards, see [`super::events::Events::agreed`].
    pub const COMPARED: Self = Self(0b1000_0000);
    /// ErrorResponse, and notices.
    pub const ERRORS: Self = Self(0b101_0000);

    /// Whether all of `part` is shown.
    pub fn has(self, part: Self) -> bool {
        self.0 & part.0 == part.0
    }

    /// Both.
    pub const fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    /// What is in both.
    pub const fn within(self, other: Self) -> Self {
        Self(self.0 & other.0)
    }

    /// This without the other.
    pub const fn without(self, other: Self) -> Self {
        Self(self.0 & !other.0)
    }
}

/// One reply owed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Owed {
    /// ParseComplete. `statement` is the shared statement that is on the conn if it succeeds.
    Parse {
        /// Parts shown.
        show: Show,
        /// Identity of the shared statement, if it is one.
        statement: Option<u64>,
    },
    /// BindComplete.
    Bind(Show),
    /// CloseComplete.
    Close(Show),
    /// [ParameterDescription and] RowDescription or NoData.
    Describe(Show),
    /// As `Describe` of a statement, for the proxy: what the server makes of it.
    Shape {
        /// Which.
        of: Arc<SharedStatement>,
        /// Whose Parse it is, where an application has just parsed it and takes it as it is; `None`: it must be what it was.
        by: Option<usize>,
        /// Columns at the end that are not the application's.
        hidden: u16,
    },
    /// Rows, then CommandComplete, EmptyQueryResponse or PortalSuspended.
    Execute(Show),
    /// Everything up to and including ReadyForQuery.
    Query(Show),
    /// ReadyForQuery.
    Sync(Show),
    /// FunctionCallResponse, then ReadyForQuery, which is not shown.
    Function,
    /// The proxy's own reply, which waits for its place in the line.
    Local(Bytes),
}

impl Owed {
    /// What is shown of it.
    pub fn show(&self) -> Show {
        match self {
            Self::Parse { show, .. }
            | Self::Bind(show)
            | Self::Close(show)
            | Self::Describe(show)
            | Self::Execute(show)
            | Self::Query(show)
            | Self::Sync(show) => *show,
            // ReadyForQuery is the session's to say: it knows the state of the whole transaction.
            Self::Function => Show::ALL.without(Show::READY),
            Self::Local(_) => Show::ALL,
            Self::Shape { .. } => Show::NOTHING,
        }
    }

    /// Has nothing more of it shown, but for this part.
    pub fn hide_but(&mut self, part: Show) {
        match self {
            Self::Parse { show, .. }
            | Self::Bind(show)
            | Self::Close(show)
            | Self::Describe(show)
            | Self::Execute(show)
            | Self::Query(show)
            | Self::Sync(show) => *show = show.within(part),
            Self::Function | Self::Local(_) | Self::Shape { .. } => {}
        }
    }

    /// Whether it ends with ReadyForQuery, where error recovery ends too.
    pub fn ends_ready(&self) -> bool {
        matches!(self, Self::Query(_) | Self::Sync(_) | Self::Function)
    }
}
