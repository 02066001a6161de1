//! One PostgreSQL server on this machine: started, stopped, killed and promoted at will.
//!
//! Invariant: the server does not outlive its [`LocalNode`], and the node holds the run's directory, so that files go
//! only after servers.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

use super::account::{Account, write_private};
use super::binaries::Binaries;
use super::error::Error;
use super::ports::ReservedPort;
use super::process::{Process, processes_in, send, tail};
use super::run_dir::RunDirectory;
use super::{ClusterBuilder, USER};

/// How long a server may take to accept connections, to stop, to be promoted.
const LIMIT: Duration = Duration::from_secs(60);
/// How often progress is looked for.
const POLL: Duration = Duration::from_millis(10);

/// How to stop a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopMode {
    /// Ends the sessions, writes a checkpoint: nothing to recover at the next start.
    Fast,
    /// Ends at once; the next start recovers from the WAL.
    Immediate,
}

impl StopMode {
    fn signal(self) -> Signal {
        match self {
            Self::Fast => Signal::SIGINT,
            Self::Immediate => Signal::SIGQUIT,
        }
    }
}

/// One server.
#[derive(Debug)]
pub struct LocalNode {
    /// What it is, e.g. `shard-1 primary`.
    pub name: String,
    /// Always the loopback address.
    pub host: String,
    /// Its port, the same over restarts.
    pub port: u16,
    /// Its data directory.
    pub data_dir: PathBuf,
    /// The password of the superuser `postgres`.
    pub password: String,
    log: PathBuf,
    server: Server,
    process: Mutex<Option<Process>>,
    _port: ReservedPort,
    _run: Arc<RunDirectory>,
}

/// What is needed to start a server.
#[derive(Debug, Clone)]
pub(super) struct Server {
    pub(super) binaries: Binaries,
    pub(super) account: Account,
}

/// Where a node is and how it is called.
pub(super) struct Place {
    pub(super) name: String,
    pub(super) data_dir: PathBuf,
    pub(super) port: ReservedPort,
    pub(super) password: String,
}

impl LocalNode {
    pub(super) fn new(place: Place, server: Server, run: Arc<RunDirectory>) -> Self {
        Self {
            name: place.name,
            host: "127.0.0.1".to_owned(),
            port: place.port.number(),
            log: place.data_dir.with_extension("log"),
            data_dir: place.data_dir,
            password: place.password,
            server,
            process: Mutex::new(None),
            _port: place.port,
            _run: run,
        }
    }

    /// A single server that belongs to no cluster: what the answers of a cluster are compared with.
    pub async fn standalone() -> Result<Self, Error> {
        ClusterBuilder::new().start_single().await
    }

    /// `host:port`, as configuration files want it.
    pub fn address(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    /// How to log in as the superuser.
    pub fn config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).user(USER).password(&self.password).dbname(database);
        config
    }

    /// The same as libpq's key and value string.
    pub fn connection_string(&self, database: &str) -> String {
        let Self { host, port, password, .. } = self;
        format!("host={host} port={port} user={USER} password={password} dbname={database}")
    }

    /// A connection as the superuser; it lives as long as the client.
    pub async fn connect(&self, database: &str) -> Result<tokio_postgres::Client, Error> {
        let result = self.config(database).connect(tokio_postgres::NoTls).await;
        let (client, connection) = result.map_err(|source| self.sql_error(source))?;
        tokio::spawn(connection);
        Ok(client)
    }

    /// Runs statements as the superuser, for set-up.
    pub async fn execute(&self, database: &str, sql: &str) -> Result<(), Error> {
        let client = self.connect(database).await?;
        client.batch_execute(sql).await.map_err(|source| self.sql_error(source))
    }

    /// The first column of the first row, as the superuser; it must be text.
    pub async fn query_text(&self, database: &str, sql: &str) -> Result<Option<String>, Error> {
        let client = self.connect(database).await?;
        let row = client.query_opt(sql, &[]).await.map_err(|source| self.sql_error(source))?;
        Ok(row.and_then(|row| row.get(0)))
    }

    /// The process id of the server, while it runs.
    pub fn pid(&self) -> Option<u32> {
        let mut process = self.process();
        let process = process.as_mut()?;
        process.ended().is_none().then(|| process.pid())
    }

    /// Starts the server and waits until it accepts connections.
    pub async fn start(&self) -> Result<(), Error> {
        self.launch()?;
        self.wait_ready().await
    }

    /// Starts the server without waiting.
    pub(super) fn launch(&self) -> Result<(), Error> {
        if self.pid().is_some() {
            return Ok(());
        }
        let program = self.server.binaries.program("postgres");
        let mut command = Command::new(&program);
        command.arg("-D").arg(&self.data_dir).current_dir("/");
        // The files alone decide: PGPORT, PGDATA and their like belong to the caller's own databases.
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with("PG")) {
            command.env_remove(name);
        }
        self.server.account.apply(&mut command);
        let started = Process::spawn(&mut command, &self.log, StopMode::Immediate.signal())
            .map_err(|source| Error::io("run", &program, source))?;
        *self.process() = Some(started);
        Ok(())
    }

    /// Waits until the server says in its lock file that it takes connections. Cancel safe.
    pub(super) async fn wait_ready(&self) -> Result<(), Error> {
        let lock_file = self.data_dir.join("postmaster.pid");
        let deadline = Instant::now() + LIMIT;
        loop {
            let Some(pid) = self.pid() else { return Err(self.failure("ended while starting")) };
            if is_ready(&std::fs::read_to_string(&lock_file).unwrap_or_default(), pid) {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.failure("did not accept connections in time"));
            }
            sleep(POLL).await;
        }
    }

    /// Stops the server and waits for its end. Stopping a stopped server does nothing.
    pub async fn stop(&self, mode: StopMode) -> Result<(), Error> {
        self.end(mode.signal()).await
    }

    /// Kills the server as a crash would, its backends with it, and waits until all are gone.
    pub async fn kill(&self) -> Result<(), Error> {
        self.end(Signal::SIGKILL).await
    }

    async fn end(&self, signal: Signal) -> Result<(), Error> {
        let Some(mut process) = self.process().take() else { return Ok(()) };
        process.signal(signal);
        if !process.wait(LIMIT).await {
            // Dropping it ends it for certain.
            drop(process);
            return Err(self.failure("did not stop in time and was killed"));
        }
        self.wait_backends_gone().await
    }

    /// Backends notice the end of their server by themselves; those that do not are killed. Cancel safe.
    async fn wait_backends_gone(&self) -> Result<(), Error> {
        let patience = Instant::now() + Duration::from_secs(2);
        let deadline = Instant::now() + LIMIT;
        loop {
            let left = processes_in(&self.data_dir);
            if left.is_empty() {
                return Ok(());
            }
            if Instant::now() >= deadline {
                return Err(self.failure("left backends that do not end"));
            }
            if Instant::now() >= patience {
                left.into_iter().for_each(|pid| send(pid, Signal::SIGKILL));
            }
            sleep(POLL).await;
        }
    }

    /// Sends the first signal of stopping, so that many nodes can stop at once.
    pub(super) fn begin_stop(&self, mode: StopMode) {
        if let Some(process) = self.process().as_mut() {
            process.signal(mode.signal());
        }
    }

    /// Makes the server read its configuration files again.
    pub fn reload(&self) {
        if let Some(process) = self.process().as_mut() {
            process.signal(Signal::SIGHUP);
        }
    }

    /// Promotes a replica and waits until it accepts writes.
    pub async fn promote(&self) -> Result<(), Error> {
        let request = self.data_dir.join("promote");
        write_private(&request, "")?;
        self.server.account.own(&request)?;
        if let Some(process) = self.process().as_mut() {
            process.signal(Signal::SIGUSR1);
        }
        let client = self.connect("postgres").await?;
        let deadline = Instant::now() + LIMIT;
        while self.flag(&client, "SELECT pg_is_in_recovery()").await? {
            if Instant::now() >= deadline {
                return Err(self.failure("was not promoted in time"));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    /// Waits until `count` replicas stream from this node.
    pub(super) async fn wait_streaming(
        &self,
        client: &tokio_postgres::Client,
        count: usize,
    ) -> Result<(), Error> {
        let deadline = Instant::now() + LIMIT;
        let sql = format!("SELECT count(*) >= {count} FROM pg_stat_replication WHERE state = 'streaming'");
        while !self.flag(client, &sql).await? {
            if Instant::now() >= deadline {
                return Err(self.failure("is not followed by its replicas"));
            }
            sleep(POLL).await;
        }
        Ok(())
    }

    async fn flag(&self, client: &tokio_postgres::Client, sql: &str) -> Result<bool, Error> {
        let row = client.query_one(sql, &[]).await.map_err(|source| self.sql_error(source))?;
        Ok(row.get(0))
    }

    /// Everything the server has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where the server logs to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    pub(super) fn sql_error(&self, source: tokio_postgres::Error) -> Error {
        Error::Sql { name: self.name.clone(), source }
    }

    fn failure(&self, what: &str) -> Error {
        let (name, what, log) = (self.name.clone(), what.to_owned(), self.log.clone());
        Error::Server { name, what, tail: tail(&log), log }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        // A panic elsewhere must not keep us from stopping the server.
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The first line is the process id, the eighth the state: this is what `pg_ctl` looks at too.
fn is_ready(lock_file: &str, pid: u32) -> bool {
    let mut lines = lock_file.lines();
    let same = lines.next().is_some_and(|line| line.trim() == pid.to_string());
    same && lines.nth(6).is_some_and(|line| line.trim() == "ready")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lock_file_says_who_is_ready() {
        let text = "41\n/data\n1\n5433\n\n127.0.0.1\n  1 2\nready   \n";
        assert!(is_ready(text, 41));
        assert!(!is_ready(text, 42));
        assert!(!is_ready(&text.replace("ready   ", "standby "), 41));
        assert!(!is_ready("41\n", 41));
    }
}
