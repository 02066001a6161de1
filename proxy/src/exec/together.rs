//! Several conns at the same time, their answers one after the other.
//!
//! Invariant: rows of a conn reach the application only where their columns are those of the first conn's rows, which the application
//! has been told of.

use std::future::poll_fn;
use std::task::Poll;

use bytes::BytesMut;

use crate::backend::conn::{Conn, Events};
use crate::backend::shape::Agreed;
use crate::frontend::io::{ClientIo, OUT_HIGH_BYTES, StepError};

/// Bytes of a share's answer that are read before its turn.
const AHEAD_BYTES: usize = 256 << 10;

/// Runs the conns to their end, answers in order. `agreed`: what the rows must be, or are from the first conn on. On failure: whose.
pub(super) async fn run_all(
    io: &mut ClientIo,
    conns: &mut [&mut Conn],
    events: &mut [Events],
    agreed: Option<&Agreed>,
) -> Result<(), (usize, StepError)> {
    let mut ahead: Vec<BytesMut> = vec![BytesMut::new(); conns.len()];
    let (mut turn, mut open) = (0, false);
    while turn < conns.len() {
        if !open {
            open = fits(conns[turn], &mut events[turn], agreed);
            if open {
                io.out.extend_from_slice(&ahead[turn].split());
            } else if events[turn].differs {
                ahead[turn].clear();
            }
        }
        if conns[turn].is_quiet() {
            (turn, open) = (turn + 1, false);
            continue;
        }
        poll_fn(|cx| {
            let mut progress = false;
            for at in turn..conns.len() {
                if conns[at].is_quiet() || (at > turn && ahead[at].len() >= AHEAD_BYTES) {
                    continue;
                }
                let out = if at == turn && open { &mut io.out } else { &mut ahead[at] };
                match conns[at].poll_step(cx, out, &mut events[at]) {
                    Poll::Ready(Ok(())) => progress = true,
                    Poll::Ready(Err(error)) => return Poll::Ready(Err((at, StepError::Backend(error)))),
                    Poll::Pending => {}
                }
            }
            if progress {
                return Poll::Ready(Ok(()));
            }
            io.poll_hangup(cx).map_err(|error| (turn, error))
        })
        .await?;
        if io.out.len() >= OUT_HIGH_BYTES {
            io.flush().await.map_err(|error| (turn, StepError::Client(error)))?;
        }
    }
    Ok(())
}

/// Whether the answer of the conn whose turn it is may be passed on: its rows have been described, and are what they must be.
fn fits(conn: &Conn, events: &mut Events, agreed: Option<&Agreed>) -> bool {
    let Some(agreed) = agreed else { return true };
    match events.agreed.as_ref().and_then(|own| own.get()) {
        Some(own) => {
            events.differs = !agreed.get_or_init(|| own.clone()).same_rows(own);
            !events.differs
        }
        None => !conn.awaits_description(),
    }
}
