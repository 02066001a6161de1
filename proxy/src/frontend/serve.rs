//! The loop of a session, from login to Terminate: the one place that sees the whole line of a request.

use std::future::poll_fn;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::{Buf, Bytes};
use router_config::settings::PoolMode;
use router_config::topology::ShardId;
use tokio::time::Duration;

use super::failure::Failure;
use super::handshake::Login;
use super::io::ClientError;
use super::opening::open;
use super::session::{Held, Session};
use crate::backend::conn::{ConnError, Events};
use crate::backend::gucs::Gucs;
use crate::sql::facts::PinCause;
use crate::wire::backend::Status;
use crate::wire::error::Report;
use crate::wire::frontend::tag;
use crate::wire::startup::Protocol;
use crate::wire::{reply, sqlstate};
use crate::worker::{Entry, Phase, Worker};

/// Frames of the extended protocol that are collected before they are worked off without waiting for Sync, bytes.
const BATCH_BYTES: usize = 256 << 10;
/// How long the reset of a conn at the end of a session may take.
const RESET_LIMIT: Duration = Duration::from_secs(5);

/// What the application wants next.
enum Request {
    /// A Query frame of so many bytes, at the front of what has been read.
    Query(usize),
    Batch(Bytes),
    FunctionCall(Bytes),
    Terminate,
}

/// Serves one logged-in application until it goes or is told to.
pub async fn serve(login: Login, worker: Arc<Worker>, peer: String) {
    let protocol = login.protocol;
    let mut session = match Box::pin(open(login, worker)).await {
        Some(session) => session,
        None => return,
    };
    let registered = Registered::new(&session, protocol, peer);
    reply::backend_key(&mut session.io.out, registered.process, &registered.secret);
    reply::ready(&mut session.io.out, Status::Idle);
    let ended = match session.io.flush().await {
        Ok(()) => session.requests().await,
        Err(error) => Err(error),
    };
    if let Err(ClientError::Frame(error)) = &ended {
        session.worker.shared.metrics.error(error.sqlstate());
        Report::fatal(error.sqlstate(), &error.to_string()).write(&mut session.io.out);
        let _ = session.io.flush().await;
    }
    drop(registered);
    Box::pin((*session).part()).await;
}

/// A session's entry in the table, for as long as it lives.
struct Registered {
    process: i32,
    secret: Bytes,
    worker: Arc<Worker>,
}

impl Registered {
    fn new(session: &Session, protocol: Protocol, peer: String) -> Self {
        let long: [u8; 32] = rand::random();
        let secret = match protocol {
            Protocol::V3_0 => Bytes::copy_from_slice(&long[..4]),
            Protocol::V3_2 => Bytes::copy_from_slice(&long),
        };
        let entry = Entry {
            secret: secret.clone(),
            who: Arc::clone(&session.who),
            peer,
            since: tokio::time::Instant::now(),
            visible: Arc::clone(&session.visible),
        };
        let worker = Arc::clone(&session.worker);
        let mut sessions = worker.shared.sessions();
        let process = loop {
            let process = super::cancel::session_id(worker.shared.process, rand::random());
            if !sessions.contains_key(&process) {
                break process;
            }
        };
        sessions.insert(process, entry);
        drop(sessions);
        Self { process, secret, worker }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.worker.shared.sessions().remove(&self.process);
    }
}

impl Session {
    /// Works off requests until the application goes.
    async fn requests(&mut self) -> Result<(), ClientError> {
        loop {
            let request = match self.next_request().await? {
                Some(request) => request,
                None => return Ok(()),
            };
            self.pass_pause().await;
            self.visible.state.store(1, Ordering::Relaxed);
            self.watch.begin();
            match request {
                Request::Query(len) => match self.send_plain(len) {
                    Some(at) => self.pass_plain(at).await?,
                    None => {
                        let frame = self.io.read.split_to(len).freeze();
                        Box::pin(self.simple_query(frame)).await?;
                    }
                },
                Request::Batch(batch) => Box::pin(self.extended(batch)).await?,
                Request::FunctionCall(frame) => Box::pin(self.function_call(frame)).await?,
                Request::Terminate => return Ok(()),
            }
            self.count_request();
            self.visible.state.store(if self.block.is_some() { 2 } else { 0 }, Ordering::Relaxed);
            self.io.flush().await?;
            self.observe();
            self.io.drop_current();
        }
    }

    /// The next request, whole; `None` when the session is told to end.
    async fn next_request(&mut self) -> Result<Option<Request>, ClientError> {
        loop {
            if let Some(request) = self.take_request()? {
                return Ok(Some(request));
            }
            if self.io.read.is_empty() && !self.idle().await? {
                return Ok(None);
            }
            let room = match self.io.header(0)? {
                Some(header) => header.len.saturating_sub(self.io.read.len()).min(1 << 20),
                None => 0,
            };
            self.io.fill(room).await?;
        }
    }

    /// Waits for bytes; `false` when the session is to end.
    async fn idle(&mut self) -> Result<bool, ClientError> {
        let limited = !self.worker.shared.settings.load().limits.client_idle.is_zero();
        let bound = self.pinned.is_some() || self.listening.is_some();
        if (self.block.is_some() || !limited) && !bound && self.idle_alone().await? {
            return Ok(true);
        }
        Box::pin(self.idle_with_others()).await
    }

    /// Waits where nobody else can speak and no time runs; `false` when the session is told to go.
    async fn idle_alone(&mut self) -> Result<bool, ClientError> {
        self.io.rest();
        let may_go = self.block.is_none() && self.held.is_empty();
        let Self { io, visible, worker, .. } = self;
        let told_to_go = || worker.shared.tells_to_go(may_go);
        let mut told = told_to_go();
        poll_fn(|cx| {
            // Whoever is told to go takes no further request; a request that is there already is taken.
            if !told && let Poll::Ready(waited) = io.stream.poll_readable(cx) {
                return Poll::Ready(waited.map(|()| true).map_err(ClientError::Gone));
            }
            // Whoever changes the phase wakes the sessions afterwards.
            visible.waker.register(cx.waker());
            told |= told_to_go();
            if told { Poll::Ready(Ok(false)) } else { Poll::Pending }
        })
        .await
    }

    /// Waits for bytes, for what servers say of their own accord, for the phase to change and for the time to run out.
    async fn idle_with_others(&mut self) -> Result<bool, ClientError> {
        let worker = Arc::clone(&self.worker);
        let visible = Arc::clone(&self.visible);
        let idle_limit = self.worker.shared.settings.load().limits.client_idle;
        let idle_limit = if idle_limit.is_zero() || self.block.is_some() { None } else { Some(idle_limit) };
        let in_block = self.block.is_some();
        let hears = !in_block && self.held.iter().all(|held| !held.unsynced);
        loop {
            if !in_block && self.missed() {
                self.io.flush().await?;
                return Ok(false);
            }
            let may_go = !in_block && self.held.is_empty();
            let told_to_go = || worker.shared.tells_to_go(may_go);
            if told_to_go() {
                Report::fatal(
                    sqlstate::ADMIN_SHUTDOWN,
                    "terminating connection due to administrator command",
                )
                .write(&mut self.io.out);
                self.io.flush().await?;
                return Ok(false);
            }
            tokio::select! {
                biased;
                waited = self.io.wait() => { waited?; return Ok(true); }
                at = speaks(&mut self.held, self.pinned) => {
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
                    if told_to_go() { Poll::Ready(()) } else { Poll::Pending }
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

    /// While the proxy is paused, requests outside of a transaction wait.
    async fn pass_pause(&self) {
        if self.block.is_none() && *self.worker.shared.phase.borrow() == Phase::Paused {
            let mut phase = self.worker.shared.phase.subscribe();
            // The sender lives as long as the process.
            let _ = phase.wait_for(|phase| *phase != Phase::Paused).await;
        }
    }

    /// Cuts the next request off what has been read, if it is whole.
    fn take_request(&mut self) -> Result<Option<Request>, ClientError> {
        let mut at = 0;
        let mut complete = false;
        while let Some(header) = self.io.header(at)? {
            if !crate::wire::frontend::known(header.tag) {
                return Err(unknown_frame(header.tag));
            }
            let whole = self.io.read.len() >= at + header.len;
            let alone = matches!(header.tag, tag::QUERY | tag::FUNCTION_CALL | tag::TERMINATE);
            let copy = matches!(header.tag, tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL);
            if (alone || copy) && at > 0 {
                break;
            }
            if !whole {
                // A long pipeline is worked off piece by piece.
                if at >= BATCH_BYTES {
                    break;
                }
                return Ok(None);
            }
            if copy {
                // What comes after a COPY has failed is dropped, as PostgreSQL does.
                self.io.read.advance(header.len);
                continue;
            }
            if alone {
                return Ok(Some(match header.tag {
                    tag::QUERY => Request::Query(header.len),
                    tag::FUNCTION_CALL => Request::FunctionCall(self.io.read.split_to(header.len).freeze()),
                    _ => Request::Terminate,
                }));
            }
            at += header.len;
            if matches!(header.tag, tag::SYNC | tag::FLUSH) || at >= BATCH_BYTES {
                complete = true;
                break;
            }
        }
        if at == 0 {
            return Ok(None);
        }
        complete |= self.io.read.get(at..).is_some_and(|rest| !rest.is_empty());
        Ok(complete.then(|| Request::Batch(self.io.read.split_to(at).freeze())))
    }

    /// FunctionCall: to the home shard.
    async fn function_call(&mut self, frame: Bytes) -> Result<(), ClientError> {
        if !self.pipeline_stands().await? {
            return Ok(());
        }
        self.next_events();
        let outcome = self.call(&frame).await;
        self.count_shard_error();
        if let Err(failure) = outcome {
            self.count_failure(&failure);
            self.doom();
            failure.report(&mut self.io.out)?;
        }
        let listened = self.commit_listens(self.events.error.is_some()).await;
        self.settle();
        listened.or_else(|failure| failure.report(&mut self.io.out))?;
        self.hear_own().await;
        self.ready();
        Ok(())
    }

    async fn call(&mut self, frame: &Bytes) -> Result<(), Failure> {
        self.finish_pipelines().await?;
        self.check_doomed()?;
        let enlisted = self.held.iter().find(|held| held.enlisted).map(|held| held.shard);
        let at = self.acquire(enlisted.unwrap_or(ShardId(0)), false).await?;
        self.writes(at)?;
        let held = &mut self.held[at];
        held.lease.write.extend_from_slice(frame);
        held.lease.owe(crate::backend::owed::Owed::Function);
        self.run_to_end(at, false).await
    }

    /// The end of a session: conns that it kept are reset or closed.
    async fn part(mut self) {
        for held in &mut self.held {
            let reusable = held.lease.status == Status::Idle && held.lease.is_quiet() && !held.lease.spoiled;
            if self.who.mode != PoolMode::Session || !reusable {
                held.lease.spoiled = true;
                continue;
            }
            let conn = &mut *held.lease;
            reply::query(&mut conn.write, b"DISCARD ALL");
            conn.owe(crate::backend::owed::Owed::Query(crate::backend::owed::Show::NOTHING));
            let mut events = Events::default();
            let reset =
                tokio::time::timeout(RESET_LIMIT, crate::exec::single::run_alone(conn, &mut events)).await;
            conn.spoiled |= !matches!(reset, Ok(Ok(()))) || events.error.is_some();
            conn.prepared.clear();
            conn.applied = Some(Gucs::none());
        }
    }
}

fn unknown_frame(tag: u8) -> ClientError {
    ClientError::Frame(crate::wire::frame::FrameError::Type { tag })
}

/// Waits until the conn that a session is bound to has something to say; its index. Cancel-safe.
async fn speaks(held: &mut [Held], pinned: Option<(PinCause, ShardId)>) -> usize {
    let bound = |held: &Held| !held.replica && pinned.is_some_and(|(_, shard)| shard == held.shard);
    match held.iter().position(bound) {
        Some(at) => {
            // An error shows again when the conn is read.
            let _ = held[at].lease.stream().readable().await;
            at
        }
        None => std::future::pending().await,
    }
}

async fn sleep_or_never(limit: Option<Duration>) {
    match limit {
        Some(limit) => tokio::time::sleep(limit).await,
        None => std::future::pending().await,
    }
}
