//! The process: control side, session threads, signals.

use std::net::SocketAddr;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::Ordering;
use std::sync::{Arc, OnceLock};
use std::thread;

use arc_swap::ArcSwap;
use futures_util::FutureExt as _;
use router_config::settings::Settings;
use router_config::topology::NodeAddress;
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Duration, Instant, interval};

use crate::backend::pool::Pools;
use crate::cli::config::{Files, Loaded};
use crate::control::{Control, ControlRuntime, Links};
use crate::frontend::auth::Authenticator;
use crate::frontend::handshake::{self, Arrival, HandshakeContext, HandshakeError, Login};
use crate::frontend::secrets::{Askable, SecretSource};
use crate::frontend::{cancel, deadlock, rejected, serve};
use crate::http::Ready;
use crate::listener;
use crate::metrics::Metrics;
use crate::signals::Signals;
use crate::wire::error::Report;
use crate::wire::startup::Claim;
use crate::wire::{buffers, sqlstate};
use crate::worker::{Drain, Parts, Phase, Shared, Worker};

/// Stack of a thread that carries sessions, touched only as far as it is needed: statements are parsed on top of what runs them, a query
/// inside of a write among them.
const SESSION_STACK_BYTES: usize = 16 << 20;

/// How often pools close conns that have been unused for too long.
const REAP_INTERVAL: Duration = Duration::from_secs(5);
/// How often a thread looks which of its spare buffers nobody needs.
const TRIM_INTERVAL: Duration = Duration::from_secs(1);
/// How often a drain looks whether sessions are left.
const DRAIN_STEP: Duration = Duration::from_millis(20);
/// How long a drain waits for the first request of sessions that have just logged in.
const FIRST_REQUEST: Duration = Duration::from_secs(2);
/// What cancelled statements get after the end of a drain to answer for themselves.
const LAST_WORDS: Duration = Duration::from_secs(2);
/// What sessions then get to say that they are ended, whatever they wait for.
const FAREWELL: Duration = Duration::from_secs(1);
/// Pause after an accept that failed for want of resources.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Serves until a signal ends it.
pub fn run(loaded: Loaded, outside: Outside) -> anyhow::Result<()> {
    let runtime = ControlRuntime::start()?;
    let handle = runtime.handle().clone();
    let started = handle.block_on_other(start_or_end(loaded, handle.clone()))?;
    let Some((shared, signals)) = started else {
        tracing::info!("asked to end while starting: no session is there to be waited for");
        return Ok(());
    };
    crate::admin::scrape::follow(&shared);
    let addresses = listener::resolve(&shared.settings.load().listen.address)?;
    let mut threads = Vec::new();
    for number in 0..shared.threads {
        let shared = Arc::clone(&shared);
        let sockets = listener::bind(&addresses, shared.settings.load().listen.backlog)?;
        let name = format!("gavel-{number}");
        let builder = thread::Builder::new().name(name).stack_size(SESSION_STACK_BYTES);
        threads.push(builder.spawn(move || session_thread(&shared, sockets))?);
    }
    tracing::info!(address = %shared.settings.load().listen.address, threads = shared.threads, "ready");
    handle.block_on_other(crate::signals::follow(Arc::clone(&shared), outside, signals))?;
    drain(&shared);
    for thread in threads {
        // A thread that panicked has been logged; the process ends either way.
        let _ = thread.join();
    }
    Ok(())
}

/// Applies a log filter, or says what is wrong with it.
pub type SetLogLevel = Box<dyn Fn(&str) -> Result<(), String> + Send + Sync>;

/// What a reload needs of whoever started the process.
pub struct Outside {
    /// Reads the configuration again.
    pub reread: Box<dyn Fn() -> Result<Loaded, String> + Send + Sync>,
    /// Applies `log.level`.
    pub set_log_level: SetLogLevel,
}

/// Runs a future to its end on a runtime whose thread is another one.
trait BlockOnOther {
    fn block_on_other<T: Send + 'static>(
        &self,
        future: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<T>;
}

impl BlockOnOther for tokio::runtime::Handle {
    fn block_on_other<T: Send + 'static>(
        &self,
        future: impl Future<Output = anyhow::Result<T>> + Send + 'static,
    ) -> anyhow::Result<T> {
        let (done, result) = std::sync::mpsc::channel();
        self.spawn(async move {
            // The receiver waits below.
            let _ = done.send(future.await);
        });
        result.recv()?
    }
}

/// Starts, which may wait for nodes; nothing if a signal asks for the end meanwhile.
async fn start_or_end(
    loaded: Loaded,
    handle: tokio::runtime::Handle,
) -> anyhow::Result<Option<(Arc<Shared>, Signals)>> {
    let mut signals = Signals::listen()?;
    let started = tokio::select! {
        started = Box::pin(start(loaded, handle)) => Some(started?),
        () = signals.end() => None,
    };
    Ok(started.map(|shared| (shared, signals)))
}

async fn start(loaded: Loaded, handle: tokio::runtime::Handle) -> anyhow::Result<Arc<Shared>> {
    let Loaded { config, files } = loaded;
    let settings = Arc::new(config.settings);
    let names: Vec<String> = config.topology.shards.iter().map(|shard| shard.name.clone()).collect();
    let topology = Arc::new(ArcSwap::from_pointee(config.topology));
    let metrics = Metrics::new(&names)?;
    let phase = watch::Sender::new(Phase::Running);
    // Before the nodes are asked, so that a start that has to wait for them can be watched.
    let started = Arc::new(OnceLock::new());
    serve_http(&settings, &metrics, readiness(Arc::clone(&started), phase.subscribe())).await?;
    let connect = Arc::clone(&files.connect);
    let links = Links { handle: handle.clone(), metrics: Arc::clone(&metrics), tls: connect.tls_config() };
    let control = Control::start(Arc::clone(&settings), Arc::clone(&topology), links).await?;
    control.load_configured().await;
    started.get_or_init(|| control.clone());
    let handshake = handshake_context(&settings, files, &control, handle);
    if let Err(error) = handshake.authenticator.try_query().await {
        tracing::error!("logins fail, but for those of auth.users_file: {error}");
    }
    let threads = match settings.listen.threads {
        0 => (thread::available_parallelism().map_or(1, usize::from) / 2).max(1),
        n => n,
    };
    let (process, siblings) = cancel::claim(&settings.listen.address)?;
    let shared = Shared::new(Parts {
        settings,
        topology,
        control,
        metrics,
        connect,
        handshake,
        threads,
        process,
        phase,
    });
    tokio::spawn(cancel::hear_siblings(Arc::clone(&shared), siblings));
    tokio::spawn(deadlock::watch(Arc::clone(&shared)));
    Ok(shared)
}

async fn serve_http(settings: &Settings, metrics: &Arc<Metrics>, ready: Ready) -> anyhow::Result<()> {
    let Some(address) = &settings.listen.metrics else { return Ok(()) };
    let listener = crate::http::bind(address)
        .await
        .map_err(|error| anyhow::anyhow!("listen.metrics = \"{address}\": {error}"))?;
    tokio::spawn(crate::http::serve(listener, Arc::clone(metrics), ready));
    Ok(())
}

/// What `/readyz` answers from.
fn readiness(started: Arc<OnceLock<Control>>, phase: watch::Receiver<Phase>) -> Ready {
    Arc::new(move || match (*phase.borrow(), started.get()) {
        (Phase::Draining | Phase::Ending, _) => Err("draining".to_owned()),
        (_, None) => Err("starting: the slot map and the catalogs are not loaded yet".to_owned()),
        (Phase::Running | Phase::Paused, Some(control)) => control.ready(),
    })
}

/// How applications log in with these settings.
pub fn handshake_context(
    settings: &Settings,
    files: Files,
    control: &Control,
    handle: tokio::runtime::Handle,
) -> HandshakeContext {
    let nodes = Arc::clone(control.nodes());
    let configured = control.topology().shards.first().map(|shard| shard.primary.clone());
    let fallback = configured.unwrap_or(NodeAddress { host: "127.0.0.1".to_owned(), port: 5432 });
    let askable: Askable = Arc::new(move || {
        let nodes = nodes.spread_for_roles();
        if nodes.is_empty() { vec![fallback.clone()] } else { nodes }
    });
    let Files { tls, users, connect } = files;
    let secrets = SecretSource::new(settings, users, connect, handle, askable);
    HandshakeContext::new(settings, tls, Authenticator::new(settings.auth.method, secrets))
}

/// One session thread: its own runtime, pools and listeners.
fn session_thread(shared: &Arc<Shared>, sockets: Vec<std::net::TcpListener>) {
    let runtime = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => {
            tracing::error!("a session thread could not start: {error}");
            return;
        }
    };
    runtime.block_on(async {
        let pools = Arc::new(Pools::default());
        shared.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(Arc::clone(&pools));
        let worker = Arc::new(Worker::new(Arc::clone(shared), pools));
        let mut listening = JoinSet::new();
        for socket in sockets {
            listening.spawn(accept_loop(socket, Arc::clone(&worker)));
        }
        let mut phase = shared.phase.subscribe();
        let (mut reap, mut trim) = (interval(REAP_INTERVAL), interval(TRIM_INTERVAL));
        loop {
            tokio::select! {
                _ = reap.tick() => {
                    worker.pools.all().iter().for_each(|pool| pool.reap());
                    worker.pools.sweep();
                }
                _ = trim.tick() => buffers::trim(),
                _ = phase.changed() => shared.wake_sessions(),
            }
            if *phase.borrow() >= Phase::Draining {
                // Whom the kernel has accepted for us is served, and counted by then.
                while listening.join_next().await.is_some() {}
                break wait_for_sessions(shared).await;
            }
        }
    });
    runtime.shutdown_timeout(Duration::from_millis(100));
}

/// Until the last session is gone, or the time for that is over.
async fn wait_for_sessions(shared: &Arc<Shared>) {
    let deadline = shared.draining().map(|drain| drain.until);
    while shared.clients.load(Ordering::Acquire) > 0 {
        tokio::time::sleep(DRAIN_STEP).await;
        let Some(deadline) = deadline.filter(|deadline| Instant::now() >= *deadline) else {
            // Those that have just become idle look again.
            shared.wake_sessions();
            continue;
        };
        let first =
            shared.phase.send_if_modified(|phase| std::mem::replace(phase, Phase::Ending) != Phase::Ending);
        if first {
            let clients = shared.clients.load(Ordering::Acquire);
            tracing::warn!(
                clients,
                "limits.drain is over: running statements are cancelled, sessions are ended"
            );
            cancel::cancel_all(shared).await;
        }
        shared.wake_sessions();
        let over = Instant::now() - deadline;
        if over >= LAST_WORDS {
            shared.cut_sessions();
        }
        if over >= LAST_WORDS + FAREWELL {
            return;
        }
    }
}

async fn accept_loop(socket: std::net::TcpListener, worker: Arc<Worker>) {
    let listener = match tokio::net::TcpListener::from_std(socket) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!("a listener could not be used: {error}");
            return;
        }
    };
    let mut phase = worker.shared.phase.subscribe();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return take_the_rest(listener, &worker),
        };
        match accepted {
            Ok((socket, peer)) => receive(socket, peer, &worker),
            Err(error) => {
                tracing::warn!("accept failed: {error}");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Closing a listener resets the connections in its queue: they are taken first. What the kernel adds between the last look
/// and the end is lost, which is a matter of microseconds.
fn take_the_rest(listener: tokio::net::TcpListener, worker: &Arc<Worker>) {
    let Ok(listener) = listener.into_std() else { return };
    while let Ok((socket, peer)) = listener.accept() {
        if socket.set_nonblocking(true).is_ok()
            && let Ok(socket) = TcpStream::from_std(socket)
        {
            receive(socket, peer, worker);
        }
    }
}

/// Serves a connection in a task of its own.
fn receive(socket: TcpStream, peer: SocketAddr, worker: &Arc<Worker>) {
    let admitted = worker.shared.admit().then(|| Admitted(Arc::clone(worker)));
    let worker = Arc::clone(worker);
    let metrics = Arc::clone(&worker.shared.metrics);
    // In a box of its own: a spawned future is moved several times.
    let session = AssertUnwindSafe(Box::pin(live(socket, peer, worker, admitted)));
    tokio::spawn(async move {
        // As with a task of its own; the locks that sessions share are used on after a panic.
        if session.catch_unwind().await.is_err() {
            metrics.panics.inc();
            tracing::error!(%peer, "a session ended by a panic; the others go on");
        }
    });
}

/// Counts a session for as long as it lives.
struct Admitted(Arc<Worker>);

impl Drop for Admitted {
    fn drop(&mut self) {
        self.0.shared.clients.fetch_sub(1, Ordering::AcqRel);
    }
}

/// A connection from its first byte to its last. Its future lives as long as an idle session does, and is small: what happens
/// once or rarely has boxes of its own, which go when it is over.
async fn live(socket: TcpStream, peer: SocketAddr, worker: Arc<Worker>, admitted: Option<Admitted>) {
    let arrived = Box::pin(arrive(socket, peer, &worker, admitted)).await;
    let Some((login, _admitted)) = arrived else { return };
    if login.database == worker.shared.settings.load().admin.database {
        return Box::pin(crate::admin::serve(*login, peer, &worker.shared)).await;
    }
    serve::serve(login, worker, peer).await;
}

/// The login of a connection, if it comes to one; `admitted`: none when there are too many, which keeps out all but the console.
async fn arrive(
    socket: TcpStream,
    peer: SocketAddr,
    worker: &Arc<Worker>,
    admitted: Option<Admitted>,
) -> Option<(Box<Login>, Admitted)> {
    let shared = &worker.shared;
    shared.metrics.accepted.inc();
    let limit = shared.settings.load().limits.login;
    let context = shared.handshake.load_full();
    let (mut admitted, mut claim) = (admitted, Claim::default());
    let arrived = if admitted.is_some() {
        tokio::time::timeout(limit, handshake::accept(socket, &context, &mut claim)).await
    } else {
        let settings = shared.settings.load_full();
        let clients = settings.limits.clients;
        let message = format!("sorry, too many clients already (limits.clients = {clients})");
        let report = Report::fatal(sqlstate::TOO_MANY_CONNECTIONS, &message);
        let spared = |database: &str| {
            let console = database == settings.admin.database && shared.admit_console();
            admitted = console.then(|| Admitted(Arc::clone(worker)));
            console
        };
        let turned_away = handshake::turn_away(socket, &context, &mut claim, (report, spared));
        tokio::time::timeout(limit, turned_away).await
    };
    match (arrived, admitted) {
        (Ok(Ok(Arrival::Login(login))), Some(admitted)) => return Some((login, admitted)),
        (Ok(Ok(Arrival::Cancel(key))), admitted) => {
            drop(admitted);
            cancel::cancel(shared, &key).await;
        }
        (Ok(Ok(Arrival::Closed | Arrival::Login(_))), _) => {}
        (Ok(Err(HandshakeError::TurnedAway)), _) => shared.metrics.rejected.inc(),
        (Ok(Err(error)), _) => {
            rejected::note(&shared.metrics, (&claim, peer), (error.sqlstate(), &error.to_string()));
        }
        (Err(_), _) => {
            shared.metrics.rejected.inc();
            rejected::log(&claim, peer, "it took longer than limits.login");
        }
    }
    None
}

/// Waits for transactions to end, up to the limit.
fn drain(shared: &Shared) {
    let limit = shared.settings.load().limits.drain;
    let now = Instant::now();
    let times = Drain { first_until: now + FIRST_REQUEST, until: now + limit };
    *shared.drain.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(times);
    shared.phase.send_replace(Phase::Draining);
    let clients = shared.clients.load(Ordering::Acquire);
    tracing::info!(clients, limit_s = limit.as_secs(), "draining: running transactions may finish");
}
