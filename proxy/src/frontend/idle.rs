//! Between two requests: a session waits for bytes of the application, and hears what else concerns it: notifications, the loss of
//! the conn that it keeps, the clock, the end of the process.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use tokio::time::{Duration, Instant};

use super::failure::READ_BACK;
use super::io::ClientError;
use super::pins::Pins;
use super::session::{Held, Session};
use crate::backend::conn::ConnError;
use crate::wire::error::Report;
use crate::wire::sqlstate;
use crate::worker::{Phase, Shared};

/// Whether a session may be ended while the process drains.
#[derive(Clone, Copy)]
enum MayGo {
    /// It is in a transaction, or keeps a conn.
    No,
    /// It has just come, and does not know yet that it is better served elsewhere.
    New,
    Yes,
}

fn dismisses(shared: &Shared, may_go: MayGo) -> bool {
    let greeted = || shared.draining().is_some_and(|drain| Instant::now() < drain.first_until);
    match *shared.phase.borrow() {
        Phase::Running | Phase::Paused => false,
        Phase::Draining => match may_go {
            MayGo::No => false,
            MayGo::New => !greeted(),
            MayGo::Yes => true,
        },
        Phase::Ending => true,
    }
}

impl Session {
    /// Waits for bytes; `false` when the session is to end. Most sessions wait for nothing else, in little memory.
    pub(super) async fn idle(&mut self) -> Result<bool, ClientError> {
        let idle_limit = self.worker.shared.settings.load().limits.client_idle;
        let idle_limit = if idle_limit.is_zero() || self.block.is_some() { None } else { Some(idle_limit) };
        if !self.pins.is_empty() || self.listening.is_some() || idle_limit.is_some() {
            return Box::pin(self.attend(idle_limit)).await;
        }
        let stays = !self.told_to_go()
            && poll_fn(|cx| {
                if let Poll::Ready(waited) = self.io.poll_wait(cx) {
                    return Poll::Ready(waited.map(|()| true));
                }
                // Whoever changes the phase wakes the sessions afterwards.
                self.io.visible.waker.register(cx.waker());
                if self.told_to_go() { Poll::Ready(Ok(false)) } else { Poll::Pending }
            })
            .await?;
        if !stays {
            self.dismiss().await?;
        }
        Ok(stays)
    }

    /// Whether the process ends, and the session with it.
    fn told_to_go(&self) -> bool {
        dismisses(&self.worker.shared, self.may_go())
    }

    fn may_go(&self) -> MayGo {
        if self.block.is_some() || !self.held.is_empty() {
            return MayGo::No;
        }
        let is_new = self.io.visible.verdict.requests.load(Ordering::Relaxed) == 0;
        if is_new { MayGo::New } else { MayGo::Yes }
    }

    async fn dismiss(&mut self) -> Result<(), ClientError> {
        Report::fatal(sqlstate::ADMIN_SHUTDOWN, "terminating connection due to administrator command")
            .write(&mut self.io.out);
        self.io.flush().await
    }

    /// The session was cut off in the middle of a request: its application is told what is known of it.
    pub(super) async fn last_words(&mut self) {
        if self.held.iter().any(|held| held.lease.shows_part()) {
            // Behind half a row no message would be understood.
            return;
        }
        if self.block.as_ref().is_some_and(|block| block.implicit) {
            // What was to be said to have succeeded has not, as far as is known.
            self.io.out.truncate(self.tag_at);
        }
        let committing = self.held.iter().any(Held::may_commit);
        let sqlstate =
            if committing { sqlstate::TRANSACTION_RESOLUTION_UNKNOWN } else { sqlstate::ADMIN_SHUTDOWN };
        self.worker.shared.metrics.error(sqlstate);
        let message = "terminating connection due to administrator command";
        if committing {
            let message = format!("{message}: whether the transaction was committed is unknown");
            Report::fatal(sqlstate, &message).hint(READ_BACK).write(&mut self.io.out);
        } else {
            Report::fatal(sqlstate, message).write(&mut self.io.out);
        }
        // Nobody waits for an application that does not read: the process ends.
        let _ = self.io.flush().await;
    }

    /// As [`Self::idle`], for sessions that also listen to a conn, to notifications or to the clock.
    async fn attend(&mut self, idle_limit: Option<Duration>) -> Result<bool, ClientError> {
        let worker = Arc::clone(&self.worker);
        let visible = Arc::clone(&self.io.visible);
        let in_block = self.block.is_some();
        let hears = !in_block && self.held.iter().all(|held| !held.unsynced);
        loop {
            if !in_block && self.missed() {
                self.io.flush().await?;
                return Ok(false);
            }
            if self.told_to_go() {
                self.dismiss().await?;
                return Ok(false);
            }
            let may_go = self.may_go();
            tokio::select! {
                biased;
                waited = self.io.wait() => { waited?; return Ok(true); }
                at = speaks(&mut self.held, &self.pins) => {
                    if !self.hear(at).await? {
                        return Ok(false);
                    }
                }
                event = Self::hear_others(&mut self.listening), if hears => {
                    self.tell(event);
                    self.hear_own().await;
                    self.io.flush().await?;
                }
                () = poll_fn(|cx| {
                    // Whoever changes the phase wakes the sessions afterwards.
                    visible.waker.register(cx.waker());
                    if dismisses(&worker.shared, may_go) { Poll::Ready(()) } else { Poll::Pending }
                }) => {}
                () = sleep_or_never(idle_limit) => {
                    Report::fatal(sqlstate::IDLE_SESSION_TIMEOUT, "terminating connection due to idle-session timeout")
                        .hint("limits.client_idle of the proxy sets this time.")
                        .write(&mut self.io.out);
                    self.io.flush().await?;
                    return Ok(false);
                }
            }
        }
    }

    /// Passes on what the server says of its own accord: notifications. `false` when the conn is lost, and with it what the
    /// session keeps there: the session ends, as it does when PostgreSQL goes down.
    async fn hear(&mut self, at: usize) -> Result<bool, ClientError> {
        let conn = &mut *self.held[at].lease;
        let (out, events) = (&mut self.io.out, &mut self.events);
        // Once, without waiting: the application's next request must not wait for the server.
        let step = poll_fn(|cx| Poll::Ready(conn.poll_step(cx, out, events))).await;
        let lost = match step {
            Poll::Ready(Err(ConnError::Fatal(frame))) => {
                self.io.out.extend_from_slice(&frame);
                true
            }
            Poll::Ready(Err(error)) => {
                let message =
                    format!("connection to shard \"{}\" lost", self.shard_name(self.held[at].shard));
                Report::fatal(sqlstate::CONNECTION_FAILURE, &message)
                    .detail(error.to_string().as_str())
                    .write(&mut self.io.out);
                true
            }
            Poll::Ready(Ok(())) | Poll::Pending => false,
        };
        if lost {
            self.held.swap_remove(at);
        }
        self.io.flush().await?;
        Ok(!lost)
    }
}

/// Waits until a conn that a session is bound to has something to say; its index. Cancel-safe.
async fn speaks(held: &mut [Held], pins: &Pins) -> usize {
    poll_fn(|cx| {
        let spoken = held.iter_mut().position(|held| {
            let bound = !held.replica && pins.holds(held.shard);
            // An error shows again when the conn is read.
            bound && held.lease.stream().poll_readable(cx).is_ready()
        });
        spoken.map_or(Poll::Pending, Poll::Ready)
    })
    .await
}

async fn sleep_or_never(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
