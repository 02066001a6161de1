//! One conn works off what it owes; its replies go straight to the application.

use crate::backend::conn::{Conn, Events};
use crate::backend::owed::{Owed, Show};
use crate::frontend::io::{ClientIo, OUT_HIGH_BYTES, StepError};
use crate::wire::reply;

/// Runs until the conn owes nothing, or waits for COPY data (`events.copy_in`). The last bytes stay in `io.out`: the caller gives
/// the conn back before it writes them.
pub async fn run(io: &mut ClientIo, conn: &mut Conn, events: &mut Events) -> Result<(), StepError> {
    conn.release_local(&mut io.out, events);
    while !conn.is_quiet() {
        io.step(conn, events).await?;
        if events.copy_in {
            return Ok(());
        }
        if io.out.len() >= OUT_HIGH_BYTES {
            io.flush().await?;
        }
    }
    Ok(())
}

/// Runs a query of the proxy's own on a conn that owes nothing; its rows are captured.
pub async fn ask(
    io: &mut ClientIo,
    conn: &mut Conn,
    sql: &str,
    events: &mut Events,
) -> Result<(), StepError> {
    conn.capture = true;
    reply::query(&mut conn.write, sql.as_bytes());
    conn.owe(Owed::Query(Show::NOTHING));
    let ran = run(io, conn, events).await;
    conn.capture = false;
    ran
}

/// Runs until the conn owes nothing, without an application.
pub async fn run_alone(conn: &mut Conn, events: &mut Events) -> Result<(), crate::backend::conn::ConnError> {
    let mut nobody = bytes::BytesMut::new();
    while !conn.is_quiet() {
        conn.step(&mut nobody, events).await?;
        nobody.clear();
    }
    Ok(())
}
