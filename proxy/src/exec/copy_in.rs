//! COPY … FROM STDIN to one conn: the application's data is passed on as it comes, in bounded memory.

use std::future::poll_fn;
use std::task::Poll;

use bytes::{Buf, BytesMut};

use crate::backend::conn::{Conn, ConnError, Events};
use crate::frontend::io::{ClientError, ClientIo, StepError};
use crate::wire::error::Report;
use crate::wire::frame::FrameError;
use crate::wire::frontend::tag;
use crate::wire::sqlstate;

/// Data that waits for the server before the application is made to wait, bytes.
const WRITE_HIGH_BYTES: usize = 256 << 10;

/// What ended the feeding.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fed {
    /// CopyDone or CopyFail has been passed on.
    Done,
    /// The server has ended the COPY by itself, with an error.
    Stopped,
}

/// Passes frames on until CopyDone or CopyFail, or until the server reports an error (the rest of the data is then
/// dropped by the caller's loop as PostgreSQL drops it).
pub async fn feed(io: &mut ClientIo, conn: &mut Conn, events: &mut Events) -> Result<Fed, StepError> {
    // What has been answered so far, CopyInResponse included, is what the application waits for.
    io.flush().await?;
    conn.be_patient();
    loop {
        if events.error.is_some() {
            return Ok(Fed::Stopped);
        }
        if conn.write.len() >= WRITE_HIGH_BYTES {
            conn.step(&mut io.out, events).await.map_err(StepError::Backend)?;
            continue;
        }
        match take_frame(io, conn)? {
            Taken::Data | Taken::Ignored => {}
            Taken::End => return Ok(Fed::Done),
            Taken::Nothing => wait(io, conn, events).await?,
        }
    }
}

/// What was at the front of the application's bytes.
enum Taken {
    Data,
    Ignored,
    End,
    Nothing,
}

/// Moves one frame, or what is there of a data frame, to the conn.
fn take_frame(io: &mut ClientIo, conn: &mut Conn) -> Result<Taken, StepError> {
    let Some(header) = io.whole_copy_frame().map_err(ClientError::Frame)? else {
        return Ok(Taken::Nothing);
    };
    match header.tag {
        tag::SYNC | tag::FLUSH => {
            // The server ignores them in this state, and so that its ignorance costs no owed reply they are not sent.
            io.read.advance(header.len);
            Ok(Taken::Ignored)
        }
        tag::COPY_DATA => {
            conn.write.extend_from_slice(&io.read[..header.len]);
            io.read.advance(header.len);
            Ok(Taken::Data)
        }
        tag::COPY_DONE | tag::COPY_FAIL => {
            conn.write.extend_from_slice(&io.read[..header.len]);
            io.read.advance(header.len);
            Ok(Taken::End)
        }
        tag => Err(StepError::Client(out_of_place(tag, &mut io.out))),
    }
}

/// As PostgreSQL: an error, and the session is over. The conn goes with it, and the COPY on it.
pub(super) fn out_of_place(tag: u8, out: &mut BytesMut) -> ClientError {
    let message = format!("unexpected message type 0x{tag:02X} during COPY from stdin");
    Report::error(sqlstate::PROTOCOL_VIOLATION, &message).write(out);
    ClientError::Frame(FrameError::InCopy { tag })
}

/// Waits for more of the application's bytes, or for the server.
async fn wait(io: &mut ClientIo, conn: &mut Conn, events: &mut Events) -> Result<(), StepError> {
    if !conn.write.is_empty() {
        // Data is better sent while the application prepares more.
        let sent = std::pin::pin!(conn.step(&mut io.out, events));
        tokio::select! {
            biased;
            done = sent => return done.map_err(StepError::Backend),
            ready = io.stream.readable() => ready.map_err(crate::frontend::io::ClientError::Gone)?,
        }
    }
    tokio::select! {
        () = poll_fn(|cx| if io.visible.poll_given_up(cx) { Poll::Ready(()) } else { Poll::Pending }) => {
            Err(StepError::Backend(ConnError::Overdue))
        }
        filled = fill(&mut io.read, &mut io.stream, &mut io.eof) => filled.map_err(StepError::Client),
        done = conn.step(&mut io.out, events) => done.map_err(StepError::Backend),
    }
}

async fn fill(
    read: &mut bytes::BytesMut,
    stream: &mut crate::wire::stream::Stream,
    eof: &mut bool,
) -> Result<(), crate::frontend::io::ClientError> {
    use tokio::io::AsyncReadExt;
    read.reserve(64 << 10);
    if stream.read_buf(read).await? == 0 {
        *eof = true;
        return Err(crate::frontend::io::ClientError::Gone(std::io::ErrorKind::UnexpectedEof.into()));
    }
    Ok(())
}
