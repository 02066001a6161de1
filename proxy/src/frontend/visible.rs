//! What the console, cancel requests and the session itself know of what it is doing, and how a session waits for its turn.
//!
//! Invariants: a cancel request reaches what the session does when it comes, and nothing later: a wait that has ended cannot
//! be cancelled any more, and a request that is to be given up is named by its number.

use std::pin::pin;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::{future::poll_fn, time::Duration};

use bytes::Bytes;
use futures_util::task::AtomicWaker;
use smallvec::SmallVec;

use super::failure::Failure;
use super::io::{ClientIo, StepError};
use crate::backend::pool::PoolKey;
use crate::backend::verdict::Verdict;
use crate::wire::sqlstate;

/// What a session does, for the console and metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Doing {
    /// Nothing: between requests, outside of a transaction.
    Idle,
    /// A request is worked on.
    Active,
    /// Nothing, inside of a transaction.
    InTransaction,
    /// A request waits: for a connection, for the primary of a shard.
    Waiting,
    /// A request waits for the end of PAUSE.
    Held,
}

impl Doing {
    /// Spelling in SHOW CLIENTS.
    pub fn name(self) -> &'static str {
        match self {
            Self::Idle => "idle",
            Self::Active => "active",
            Self::InTransaction => "in_transaction",
            Self::Waiting | Self::Held => "waiting",
        }
    }

    fn from_u8(value: u8) -> Self {
        match value {
            1 => Self::Active,
            2 => Self::InTransaction,
            3 => Self::Waiting,
            4 => Self::Held,
            _ => Self::Idle,
        }
    }
}

/// What the console and cancel requests see of a session.
#[derive(Debug, Default)]
pub struct Visible {
    /// Wakes it while it is idle or waits.
    pub waker: AtomicWaker,
    /// Requests worked off, and what became of the one under way.
    pub verdict: Arc<Verdict>,
    /// When the request under way, or the last one, was begun: milliseconds of the process's life.
    pub began_ms: AtomicU64,
    /// The statement under way is taken back and run again, unseen, when a circle of waits is broken by ending it.
    pub gives_way: AtomicBool,
    /// The conns that are working for it, and whether it waits for one.
    running: Mutex<Running>,
    doing: AtomicU8,
    /// The session is to end whatever it waits for.
    cut: AtomicBool,
    /// The request, counted from 1, that is given up: it goes on in spite of a cancel request.
    overdue: AtomicU64,
}

/// The conns that work for a session.
#[derive(Debug, Default)]
pub struct Running {
    /// Node, process, secret.
    pub conns: SmallVec<[(Arc<PoolKey>, i32, Bytes); 1]>,
    /// Cancel requests on their way to them: such a conn is not lent again.
    pub cancelling: usize,
    turn: Turn,
}

/// Whether a session waits for its turn.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
enum Turn {
    /// It does not wait.
    #[default]
    Had,
    /// It waits.
    Awaited,
    /// It waited, and is to give up.
    Cancelled,
}

impl Running {
    /// A cancel request ends the wait, if the session waits.
    pub fn cancel_wait(&mut self) -> bool {
        let waits = self.turn != Turn::Had;
        if waits {
            self.turn = Turn::Cancelled;
        }
        waits
    }
}

impl Visible {
    /// The conns that work for it.
    pub fn running(&self) -> MutexGuard<'_, Running> {
        self.running.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What it does.
    pub fn doing(&self) -> Doing {
        Doing::from_u8(self.doing.load(Ordering::Relaxed))
    }

    /// It does this from now on.
    pub fn set_doing(&self, doing: Doing) {
        self.doing.store(doing as u8, Ordering::Relaxed);
    }

    /// The number of the request that is worked on, if one is.
    pub fn request_under_way(&self) -> Option<u64> {
        (self.doing() == Doing::Active).then(|| self.verdict.requests.load(Ordering::Acquire) + 1)
    }

    /// That request is given up, if it is still worked on.
    pub fn give_up(&self, request: u64) {
        if self.request_under_way() == Some(request) {
            self.overdue.store(request, Ordering::Release);
            self.waker.wake();
        }
    }

    /// The session ends at once, whatever it waits for.
    pub fn cut(&self) {
        self.cut.store(true, Ordering::Release);
        self.waker.wake();
    }

    /// Whether [`Self::cut`] was called; else the task is woken when it is.
    pub fn poll_cut(&self, cx: &mut Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.cut.load(Ordering::Acquire)
    }

    /// Whether the request being worked on is given up; else the task is woken when it is. A step that would wait asks.
    pub fn poll_given_up(&self, cx: &mut Context<'_>) -> bool {
        self.waker.register(cx.waker());
        self.overdue.load(Ordering::Acquire) == self.verdict.requests.load(Ordering::Relaxed) + 1
    }
}

/// A wait of a session, for as long as it lasts.
struct Wait<'a> {
    visible: &'a Visible,
    before: Doing,
}

impl<'a> Wait<'a> {
    fn begin(visible: &'a Visible, doing: Doing) -> Self {
        let before = visible.doing();
        visible.running().turn = Turn::Awaited;
        visible.set_doing(doing);
        Self { visible, before }
    }

    fn cancelled(&self) -> bool {
        self.visible.running().turn == Turn::Cancelled
    }
}

impl Drop for Wait<'_> {
    fn drop(&mut self) {
        self.visible.running().turn = Turn::Had;
        self.visible.set_doing(self.before);
    }
}

/// Awaits what a request needs before it can go on. Meanwhile a cancel request is answered with 57014, and an application that
/// hangs up is gone at once; `what` is dropped then.
pub(super) async fn wait<T>(
    io: &mut ClientIo,
    doing: Doing,
    what: impl Future<Output = T>,
) -> Result<T, Failure> {
    let mut what = pin!(what);
    // As a rule it is there: nothing is noted then.
    let first = poll_fn(|cx| Poll::Ready(what.as_mut().poll(cx))).await;
    if let Poll::Ready(had) = first {
        return Ok(had);
    }
    let visible = Arc::clone(&io.visible);
    let wait = Wait::begin(&visible, doing);
    poll_fn(|cx| {
        visible.waker.register(cx.waker());
        if wait.cancelled() {
            return Poll::Ready(Err(cancelled()));
        }
        if let Poll::Ready(had) = what.as_mut().poll(cx) {
            return Poll::Ready(Ok(had));
        }
        match io.poll_hangup(cx) {
            Poll::Ready(Err(StepError::Client(error))) => Poll::Ready(Err(error.into())),
            Poll::Ready(Ok(()) | Err(StepError::Backend(_))) | Poll::Pending => Poll::Pending,
        }
    })
    .await
}

/// Gives a request up that goes on for `limit` although it is being cancelled.
pub(super) async fn give_up_after(visible: Arc<Visible>, request: u64, limit: Duration) {
    tokio::time::sleep(limit).await;
    visible.give_up(request);
}

fn cancelled() -> Failure {
    Failure::error(sqlstate::QUERY_CANCELED, "canceling statement due to user request")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_request_that_was_cancelled_is_given_up() {
        let visible = Visible::default();
        let mut cx = Context::from_waker(std::task::Waker::noop());
        assert_eq!(visible.request_under_way(), None, "nothing is under way");
        visible.set_doing(Doing::Active);
        let request = visible.request_under_way().expect("a request");
        assert!(!visible.poll_given_up(&mut cx));
        visible.give_up(request);
        assert!(visible.poll_given_up(&mut cx));
        visible.verdict.requests.fetch_add(1, Ordering::Relaxed);
        assert!(!visible.poll_given_up(&mut cx), "the next one goes on");
        visible.give_up(request);
        assert!(!visible.poll_given_up(&mut cx), "it came too late");
    }

    #[test]
    fn a_wait_is_cancelled_once_and_only_while_it_lasts() {
        let visible = Visible::default();
        visible.set_doing(Doing::Active);
        assert!(!visible.running().cancel_wait(), "it does not wait");
        let wait = Wait::begin(&visible, Doing::Waiting);
        assert_eq!((wait.cancelled(), visible.doing()), (false, Doing::Waiting));
        assert!(visible.running().cancel_wait());
        assert!(wait.cancelled());
        drop(wait);
        assert_eq!(visible.doing(), Doing::Active);
        assert!(!Wait::begin(&visible, Doing::Waiting).cancelled());
    }
}
