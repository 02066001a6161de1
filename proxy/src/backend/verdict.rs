//! What an application is told instead of "canceling statement due to user request" when it was the proxy that cancelled.
//!
//! A cancel request can reach a node after the statement that it was meant for has ended. Invariant: a verdict speaks of one request of
//! its session, and is not found by a later one.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use crate::wire::backend::error_field;
use crate::wire::frame::HEADER;
use crate::wire::sqlstate;

/// Of one session.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Requests worked off: the number of the one that is under way.
    pub requests: AtomicU64,
    passed: Mutex<Option<(u64, Bytes)>>,
}

impl Verdict {
    /// Passes it on the request of this number: a whole ErrorResponse frame.
    pub fn pass(&self, request: u64, frame: Bytes) {
        *self.lock() = Some((request, frame));
    }

    /// What takes the place of an error that a node has reported.
    pub(super) fn instead_of(&self, error: &[u8]) -> Option<Bytes> {
        if error_field(error.get(HEADER..)?, b'C')? != sqlstate::QUERY_CANCELED.as_bytes() {
            return None;
        }
        let request = self.requests.load(Ordering::Relaxed);
        self.lock().as_ref().filter(|(of, _)| *of == request).map(|(_, frame)| frame.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<(u64, Bytes)>> {
        self.passed.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::error::Report;

    #[test]
    fn a_verdict_is_of_one_request_and_of_its_cancellation() {
        let verdict = Verdict::default();
        let cancelled = Report::error(sqlstate::QUERY_CANCELED, "canceling statement").to_frame();
        let deadlock = Report::error(sqlstate::DEADLOCK_DETECTED, "deadlock detected").to_frame();
        assert_eq!(verdict.instead_of(&cancelled), None);
        verdict.pass(0, deadlock.clone());
        assert_eq!(verdict.instead_of(&cancelled), Some(deadlock));
        let other = Report::error("23505", "duplicate key").to_frame();
        assert_eq!(verdict.instead_of(&other), None);
        verdict.requests.fetch_add(1, Ordering::Relaxed);
        assert_eq!(verdict.instead_of(&cancelled), None);
    }
}
