//! The loop of a session, from login to Terminate: the one place that sees the whole line of a request.

use std::future::{Future as _, poll_fn};
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::task::Poll;

use bytes::{Buf, Bytes};
use router_config::settings::PoolMode;
use router_config::topology::ShardId;
use tokio::time::Duration;

use super::failure::Failure;
use super::handshake::Login;
use super::io::{ClientError, OUT_HIGH_BYTES, StepError};
use super::opening::open;
use super::plain::Way;
use super::session::Session;
use super::visible::{Doing, wait};
use crate::backend::conn::Events;
use crate::backend::gucs::Gucs;
use crate::wire::backend::Status;
use crate::wire::error::Report;
use crate::wire::frontend::tag;
use crate::wire::reply;
use crate::wire::startup::Protocol;
use crate::worker::{Entry, Phase, Worker};

/// Frames of the extended protocol that are collected before they are worked off without waiting for Sync, bytes.
const BATCH_BYTES: usize = 256 << 10;
/// How long the reset of a conn at the end of a session may take.
const RESET_LIMIT: Duration = Duration::from_secs(5);

/// What the application wants next: so many bytes at the front of what has been read.
#[derive(Clone, Copy)]
struct Request {
    kind: Kind,
    len: usize,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Query,
    /// Frames of the extended protocol that end with Sync or Flush.
    Batch,
    /// The same without such an end: as far as they have come.
    Part,
    FunctionCall,
    Terminate,
}

/// Serves one logged-in application until it goes or is told to. What an idle session does not need has boxes of its own.
pub async fn serve(login: Box<Login>, worker: Arc<Worker>, peer: SocketAddr) {
    let begun = Box::pin(begin(login, worker, peer)).await;
    let Some((mut session, registered)) = begun else { return };
    let visible = Arc::clone(&session.io.visible);
    let ended = {
        let mut requests = pin!(session.requests());
        poll_fn(move |cx| match visible.poll_cut(cx) {
            true => Poll::Ready(Err(ClientError::Cut)),
            false => requests.as_mut().poll(cx),
        })
        .await
    };
    Box::pin(end(session, registered, ended)).await;
}

/// Opens the session of a login and greets the application; `None`: it is gone, or was told why there is none.
async fn begin(
    login: Box<Login>,
    worker: Arc<Worker>,
    peer: SocketAddr,
) -> Option<(Box<Session>, Registered)> {
    let protocol = login.protocol;
    let mut session = open(*login, worker, peer).await?;
    let long: [u8; 32] = rand::random();
    let secret = match protocol {
        Protocol::V3_0 => &long[..4],
        Protocol::V3_2 => &long,
    };
    let registered = Registered::new(&session, secret, peer);
    reply::backend_key(&mut session.io.out, registered.process, secret);
    reply::ready(&mut session.io.out, Status::Idle);
    match session.io.flush().await {
        Ok(()) => {
            // What is written from here on is an answer to the first request.
            session.observe();
            Some((session, registered))
        }
        Err(error) => {
            end(session, registered, Err(error)).await;
            None
        }
    }
}

/// Last words where the application is owed some; conns that the session kept are reset or closed.
async fn end(mut session: Box<Session>, registered: Registered, ended: Result<(), ClientError>) {
    match &ended {
        Err(ClientError::Frame(error)) => {
            session.worker.shared.metrics.error(error.sqlstate());
            Report::fatal(error.sqlstate(), &error.to_string()).write(&mut session.io.out);
            let _ = session.io.flush().await;
        }
        Err(ClientError::Cut) => session.last_words().await,
        Ok(()) | Err(ClientError::Gone(_)) => {}
    }
    drop(registered);
    session.part().await;
}

/// A session's entry in the table, for as long as it lives.
struct Registered {
    process: i32,
    worker: Arc<Worker>,
}

impl Registered {
    fn new(session: &Session, secret: &[u8], peer: SocketAddr) -> Self {
        let entry = Entry {
            secret: secret.into(),
            who: Arc::clone(&session.who),
            peer,
            since: tokio::time::Instant::now(),
            visible: Arc::clone(&session.io.visible),
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
        Self { process, worker }
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
            self.io.current = request.len;
            if *self.worker.shared.phase.borrow() == Phase::Paused
                && let Err(failure) = Box::pin(self.pass_pause(request)).await
            {
                Box::pin(self.turn_back(request, failure)).await?;
                self.io.flush().await?;
                continue;
            }
            let began = self.watch.begin() - self.worker.shared.since;
            self.io.visible.began_ms.store(began.as_millis() as u64, Ordering::Relaxed);
            self.io.visible.set_doing(Doing::Active);
            let way = match self.short_way(request) {
                Some(Way::Wants(shard, replica)) => {
                    Box::pin(self.wait_for_way(request, shard, replica)).await?
                }
                way => way,
            };
            match way {
                Some(way) => {
                    if let Some((at, done)) = self.run_plain(way).await {
                        Box::pin(self.run_on(request.kind, at, done)).await?;
                    }
                }
                None if request.kind == Kind::Terminate => return Ok(()),
                None => Box::pin(self.long_way(request.kind)).await?,
            }
            self.end_request(request.kind).await?;
        }
    }

    /// How far the request comes without the long way.
    fn short_way(&mut self, request: Request) -> Option<Way> {
        match request.kind {
            Kind::Query => self.send_plain(request.len),
            Kind::Batch => self.send_plain_batch(request.len),
            Kind::Part | Kind::FunctionCall | Kind::Terminate => None,
        }
    }

    async fn long_way(&mut self, kind: Kind) -> Result<(), ClientError> {
        let frames = self.io.take_current();
        let again = self.may_repeat(&frames).then(|| frames.clone());
        self.work_off(kind, frames).await?;
        self.repeat(kind, again).await
    }

    /// Once more, as long as it has gone wrong without its fault.
    async fn repeat(&mut self, kind: Kind, frames: Option<Bytes>) -> Result<(), ClientError> {
        let Some(frames) = frames else { return Ok(()) };
        let mut done = Ok(());
        while done.is_ok() && self.begin_anew().await {
            done = self.work_off(kind, frames.clone()).await;
        }
        self.repeat.end();
        done
    }

    async fn work_off(&mut self, kind: Kind, frames: Bytes) -> Result<(), ClientError> {
        self.tag_at = usize::MAX;
        match kind {
            Kind::Query => self.simple_query(frames).await,
            Kind::Batch | Kind::Part => self.extended(frames).await,
            Kind::FunctionCall => self.function_call(frames).await,
            Kind::Terminate => Ok(()),
        }
    }

    /// On the short way something has gone otherwise than expected: the end of the long way.
    async fn run_on(
        &mut self,
        kind: Kind,
        at: usize,
        done: Result<(), StepError>,
    ) -> Result<(), ClientError> {
        let again = self.began_on_replica(at).then(|| Bytes::copy_from_slice(self.io.current_frames()));
        if kind == Kind::Query {
            self.watch.keep_text(Bytes::copy_from_slice(self.io.current_text()));
            self.io.drop_current();
        }
        let outcome = match done {
            Ok(()) => self.run_to_end(at).await,
            Err(error) => Err(self.lose(at, error)),
        };
        match kind {
            Kind::Query => self.finish_simple(outcome).await?,
            _ => self.end_pipeline(outcome).await?,
        }
        self.repeat(kind, again).await
    }

    /// The request has been answered: writes what waits, and counts it. What Sync may still undo waits for Sync, as PostgreSQL's
    /// own answers do: there are drivers that take CommandComplete for the end.
    async fn end_request(&mut self, kind: Kind) -> Result<(), ClientError> {
        self.count_request();
        self.io.visible.set_doing(if self.block.is_some() { Doing::InTransaction } else { Doing::Idle });
        let open = std::mem::take(&mut self.pipeline.goes_on) || kind == Kind::Part;
        let waits = open && !self.pipeline.skipping && self.io.out.len() < OUT_HIGH_BYTES;
        if !waits {
            self.io.flush().await?;
        }
        self.observe();
        self.io.drop_current();
        Ok(())
    }

    /// Waits for the conn that the short way wants, and tries again; `None`: it takes the long way.
    async fn wait_for_way(
        &mut self,
        request: Request,
        shard: ShardId,
        replica: bool,
    ) -> Result<Option<Way>, ClientError> {
        let Err(failure) = self.acquire_wanted(shard, replica).await else {
            return Ok(self.short_way(request).filter(|way| !matches!(way, Way::Wants(..))));
        };
        if request.kind == Kind::Batch {
            self.turn_back(request, failure).await?;
        } else {
            self.begin_plain();
            self.finish_simple(Err(failure)).await?;
        }
        Ok(Some(Way::Ended))
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

    /// While the proxy is paused, requests outside of a transaction wait.
    async fn pass_pause(&mut self, request: Request) -> Result<(), Failure> {
        let under_way =
            self.block.is_some() || self.pipeline.skipping || self.held.iter().any(|held| held.unsynced);
        if under_way || request.kind == Kind::Terminate {
            return Ok(());
        }
        let mut phase = self.worker.shared.phase.subscribe();
        // The sender lives as long as the process.
        let resumed = async { phase.wait_for(|phase| *phase != Phase::Paused).await.is_ok() };
        wait(&mut self.io, Doing::Held, resumed).await.map(|_| ())
    }

    /// Answers a request that was cancelled before it began.
    async fn turn_back(&mut self, request: Request, failure: Failure) -> Result<(), ClientError> {
        if matches!(request.kind, Kind::Batch | Kind::Part) {
            let batch = self.io.take_current();
            self.refuse(failure).await?;
            return self.extended(batch).await;
        }
        self.io.drop_current();
        self.count_failure(&failure);
        failure.report(&mut self.io.out)?;
        self.ready();
        Ok(())
    }

    /// Cuts the next request off what has been read, if it is whole.
    fn take_request(&mut self) -> Result<Option<Request>, ClientError> {
        let mut at = 0;
        let mut kind = Kind::Part;
        let mut complete = false;
        self.io.cut_copy_data()?;
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
                self.io.cut_copy_data()?;
                continue;
            }
            if alone {
                let kind = match header.tag {
                    tag::QUERY => Kind::Query,
                    tag::FUNCTION_CALL => Kind::FunctionCall,
                    _ => Kind::Terminate,
                };
                return Ok(Some(Request { kind, len: header.len }));
            }
            at += header.len;
            if matches!(header.tag, tag::SYNC | tag::FLUSH) {
                kind = Kind::Batch;
            }
            if kind == Kind::Batch || at >= BATCH_BYTES {
                complete = true;
                break;
            }
        }
        if at == 0 {
            return Ok(None);
        }
        complete |= self.io.read.get(at..).is_some_and(|rest| !rest.is_empty());
        // PostgreSQL says at once that it is ready for the data of a COPY: it waits for no Sync.
        complete = complete || self.io.read.get(..at).is_some_and(|batch| self.may_copy(batch));
        Ok(complete.then_some(Request { kind, len: at }))
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
        self.run_to_end(at).await
    }

    /// The end of a session: conns that it kept are reset or closed.
    async fn part(&mut self) {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_idle_session_is_small() {
        fn bytes<F>(_: impl Fn(Box<Login>, Arc<Worker>, SocketAddr) -> F) -> usize {
            size_of::<F>()
        }
        // All of it is held once for every idle application.
        let (future, session) = (bytes(serve), size_of::<Session>());
        assert!(future <= 480, "the future of an idle session: {future} bytes");
        assert!(session <= 1432, "the state of a session: {session} bytes");
    }
}
