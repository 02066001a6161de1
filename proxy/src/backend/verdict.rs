//! What an application is told instead of "canceling statement due to user request" when it was the proxy that cancelled.
//!
//! A cancel request can reach a node after the statement that it was meant for has ended, and then ends the next one. Invariant: a
//! verdict speaks of one request of its session, or of the next one if that has been met; no later one finds it.

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
    passed: Mutex<Option<Passed>>,
}

/// A verdict on a request.
#[derive(Debug)]
struct Passed {
    /// The number of the request, from where it has been told on that of the one that was met.
    of: u64,
    told: bool,
    frame: Bytes,
}

impl Verdict {
    /// Passes it on the request of this number: a whole ErrorResponse frame.
    pub fn pass(&self, request: u64, frame: Bytes) {
        *self.lock() = Some(Passed { of: request, told: false, frame });
    }

    /// Nothing has been passed: the request begins anew.
    pub fn withdraw(&self) {
        *self.lock() = None;
    }

    /// What takes the place of an error that a node has reported.
    pub(super) fn instead_of(&self, error: &[u8]) -> Option<Bytes> {
        if error_field(error.get(HEADER..)?, b'C')? != sqlstate::QUERY_CANCELED.as_bytes() {
            return None;
        }
        let request = self.requests.load(Ordering::Relaxed);
        let mut passed = self.lock();
        let met = passed
            .as_mut()
            .filter(|passed| passed.of == request || (!passed.told && passed.of + 1 == request))?;
        (met.of, met.told) = (request, true);
        Some(met.frame.clone())
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Option<Passed>> {
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
        assert_eq!(verdict.instead_of(&cancelled), None, "it has been told");
    }

    #[test]
    fn a_verdict_that_comes_late_meets_the_next_request_alone() {
        let verdict = Verdict::default();
        let cancelled = Report::error(sqlstate::QUERY_CANCELED, "canceling statement").to_frame();
        let deadlock = Report::error(sqlstate::DEADLOCK_DETECTED, "deadlock detected").to_frame();
        for (later, met) in [(1, true), (2, false)] {
            verdict.pass(verdict.requests.load(Ordering::Relaxed), deadlock.clone());
            verdict.requests.fetch_add(later, Ordering::Relaxed);
            // On all conns of the request, and of no later one.
            for _ in 0..2 {
                assert_eq!(verdict.instead_of(&cancelled).is_some(), met);
            }
            verdict.requests.fetch_add(1, Ordering::Relaxed);
            assert_eq!(verdict.instead_of(&cancelled), None);
        }
    }
}
