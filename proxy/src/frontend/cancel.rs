//! Cancel requests: they reach what the session with this key runs right now, and nothing else.
//!
//! A request comes over a connection of its own, which may end in another process than the session's: in a sibling that listens on the
//! same port (SO_REUSEPORT), or, by a load balancer, in another proxy. The first part of a session's process id names its process: a
//! sibling is asked by the abstract Unix socket of that name, whose owner must be the same user. What none of them knows goes to the
//! configured peers, once.
//!
//! A conn that a cancel request is on its way to is not lent again afterwards (it is closed), so that a late signal meets nobody.

use std::io;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures_util::future::join_all;
use router_config::topology::NodeAddress;
use subtle::ConstantTimeEq;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UnixListener, UnixStream};
use tokio::time::{Duration, timeout};

use super::handshake::CancelRequest;
use super::visible::{Visible, give_up_after};
use crate::backend::connect;
use crate::backend::pool::PoolKey;
use crate::wire::startup::{CancelKey, FirstPacket, take_first_packet, write_cancel, write_peer_cancel};
use crate::worker::Shared;

/// Requests that are passed on at the same time; more are dropped.
pub const AT_ONCE: usize = 32;
/// How long another process may take.
const LIMIT: Duration = Duration::from_secs(5);
/// Pause after an accept that failed for want of resources.
const PAUSE: Duration = Duration::from_millis(100);
/// Bits of a process id that number the sessions of one process.
const SESSION_BITS: u32 = 19;
/// Numbers of processes: below them are process ids of PostgreSQL's backends, which notifications carry.
const PROCESSES: std::ops::Range<i32> = 8..4096;

/// A process id for a session of process `process`.
pub fn session_id(process: i32, random: i32) -> i32 {
    process << SESSION_BITS | (random & ((1 << SESSION_BITS) - 1))
}

/// A number that no other process of this machine has which listens on the same port, and the socket that goes with it.
pub fn claim(address: &str) -> io::Result<(i32, UnixListener)> {
    let start = i32::from(rand::random::<u16>());
    let count = PROCESSES.end - PROCESSES.start;
    for turn in 0..count {
        let process = PROCESSES.start + (start + turn) % count;
        match UnixListener::bind(name(address, process)) {
            Ok(listener) => return Ok((process, listener)),
            Err(error) if error.kind() == io::ErrorKind::AddrInUse => {}
            Err(error) => return Err(error),
        }
    }
    Err(io::Error::new(io::ErrorKind::AddrInUse, "too many processes listen on this port"))
}

fn name(address: &str, process: i32) -> String {
    let port = address.rsplit(':').next().unwrap_or_default();
    format!("\0gavel/cancel/{port}/{process}")
}

/// Delivers a cancel request, wherever its session is. Like PostgreSQL, says nothing.
pub async fn cancel(shared: &Arc<Shared>, request: &CancelRequest) {
    if cancel_here(shared, &request.key).await {
        return;
    }
    let Ok(_permit) = shared.cancels.try_acquire() else {
        tracing::warn!("a cancel request is dropped: {AT_ONCE} others are being passed on");
        return;
    };
    let listen = &shared.settings.load_full().listen;
    let process = request.key.process_id >> SESSION_BITS;
    if process != shared.process {
        match timeout(LIMIT, ask_sibling(&name(&listen.address, process), &request.key)).await {
            Ok(Ok(true)) => return,
            Ok(Ok(false)) | Err(_) => {}
            Ok(Err(error)) => tracing::debug!(process, "no such process here: {error}"),
        }
    }
    if !request.from_peer {
        join_all(listen.peers.iter().map(|peer| tell_peer(peer, &request.key))).await;
    }
}

/// Forwards a cancel request to the nodes that work for the session with this key, if it is one of this process.
async fn cancel_here(shared: &Arc<Shared>, key: &CancelKey) -> bool {
    let visible = {
        let sessions = shared.sessions();
        let Some(entry) = sessions.get(&key.process_id) else { return false };
        if !bool::from(entry.secret.ct_eq(&key.secret)) {
            return false;
        }
        Arc::clone(&entry.visible)
    };
    cancel_running(shared, &visible).await;
    true
}

/// Cancels what all sessions run.
pub async fn cancel_all(shared: &Arc<Shared>) {
    let all: Vec<_> = shared.sessions().values().map(|entry| Arc::clone(&entry.visible)).collect();
    join_all(all.iter().map(|visible| cancel_running(shared, visible))).await;
}

/// Cancels what a session runs.
pub(super) async fn cancel_running(shared: &Shared, visible: &Arc<Visible>) {
    let targets = {
        let mut running = visible.running();
        if running.cancel_wait() {
            drop(running);
            visible.waker.wake();
            return;
        }
        if let Some(request) = visible.request_under_way() {
            let limit = shared.settings.load().backend.cancel_wait;
            tokio::spawn(give_up_after(Arc::clone(visible), request, limit));
        }
        if running.conns.is_empty() {
            return;
        }
        running.cancelling += 1;
        running.conns.clone()
    };
    deliver(shared, targets).await;
    visible.running().cancelling -= 1;
}

/// Sends cancel requests to these backends; what cannot be delivered is logged.
pub(crate) async fn deliver(shared: &Shared, targets: impl IntoIterator<Item = (Arc<PoolKey>, i32, Bytes)>) {
    let context = shared.connect.load_full();
    let requests = targets.into_iter().map(|(pool, process_id, secret)| {
        let context = Arc::clone(&context);
        async move {
            let backend = CancelKey { process_id, secret };
            if let Err(error) = connect::cancel(&pool.node, &backend, &context).await {
                tracing::warn!(node = %pool.node.host, port = pool.node.port, "cancel request not delivered: {error}");
            }
        }
    });
    join_all(requests).await;
}

/// Whether the process with this socket has the session; the request is delivered then.
async fn ask_sibling(name: &str, key: &CancelKey) -> io::Result<bool> {
    let mut stream = UnixStream::connect(name).await?;
    // Whoever else has taken the name must not learn the key.
    if stream.peer_cred()?.uid() != own_user() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut packet = BytesMut::new();
    write_cancel(key, &mut packet);
    stream.write_all(&packet).await?;
    Ok(stream.read_u8().await? == 1)
}

async fn tell_peer(peer: &NodeAddress, key: &CancelKey) {
    let told = timeout(LIMIT, async {
        let mut stream = TcpStream::connect((peer.host.as_str(), peer.port)).await?;
        let mut packet = BytesMut::new();
        write_peer_cancel(key, &mut packet);
        stream.write_all(&packet).await?;
        // It says nothing, and closes when the request is delivered.
        while matches!(stream.read(&mut [0; 64]).await, Ok(1..)) {}
        io::Result::Ok(())
    });
    match told.await {
        Ok(Ok(())) => {}
        Ok(Err(error)) => tracing::warn!(%peer, "a cancel request could not be passed on: {error}"),
        Err(_) => tracing::warn!(%peer, "a cancel request was not taken within {LIMIT:?}"),
    }
}

/// Delivers what siblings ask for, until the process ends.
pub async fn hear_siblings(shared: Arc<Shared>, listener: UnixListener) {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let shared = Arc::clone(&shared);
                tokio::spawn(async move {
                    if let Err(error) =
                        timeout(LIMIT, answer_sibling(&shared, stream)).await.unwrap_or(Ok(()))
                    {
                        tracing::debug!("a sibling's cancel request: {error}");
                    }
                });
            }
            Err(error) => {
                tracing::warn!("accept of a sibling failed: {error}");
                tokio::time::sleep(PAUSE).await;
            }
        }
    }
}

async fn answer_sibling(shared: &Arc<Shared>, mut stream: UnixStream) -> io::Result<()> {
    if stream.peer_cred()?.uid() != own_user() {
        return Err(io::ErrorKind::PermissionDenied.into());
    }
    let mut packet = BytesMut::new();
    let key = loop {
        match take_first_packet(&mut packet).map_err(io::Error::other)? {
            Some(FirstPacket::Cancel(key)) => break key,
            Some(_) => return Err(io::ErrorKind::InvalidData.into()),
            None if stream.read_buf(&mut packet).await? == 0 => {
                return Err(io::ErrorKind::UnexpectedEof.into());
            }
            None => {}
        }
    };
    let found = cancel_here(shared, &key).await;
    stream.write_u8(u8::from(found)).await
}

fn own_user() -> u32 {
    nix::unistd::geteuid().as_raw()
}

#[cfg(test)]
mod tests {
    use super::{PROCESSES, SESSION_BITS, claim, session_id};

    #[test]
    fn ids_name_their_process_and_are_no_backends() {
        for process in [PROCESSES.start, PROCESSES.end - 1] {
            for random in [0, -1, i32::MAX, 12_345_678] {
                let id = session_id(process, random);
                assert_eq!(id >> SESSION_BITS, process);
                assert!(id >= 1 << 22, "{id}");
            }
        }
    }

    #[tokio::test]
    async fn two_processes_of_one_port_have_different_numbers() {
        let (one, _kept) = claim("127.0.0.1:1").expect("a number");
        let (two, _kept) = claim("127.0.0.1:1").expect("another number");
        assert_ne!(one, two);
    }
}
