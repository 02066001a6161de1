//! A proxy on this machine in front of a local cluster: the `gavel` program with a configuration file of its own.
//!
//! Invariant: as with the nodes, the process does not outlive its owner, and the run's watchdog knows of it.

mod config;

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio::time::{Instant, sleep};

pub use self::config::{DATABASE, ProxyOptions, mistakes_of_additions};
use crate::local_cluster::{self, LocalCluster, Process, RunDirectory, USER, tail, write_private};
use crate::sql_error::describe;

/// Name of the program.
const PROGRAM: &str = "gavel";
/// How long the proxy may take until it lets us log in.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How long it may take to drain when told to stop.
const STOP_LIMIT: Duration = Duration::from_secs(5);
/// How often progress is looked for.
const POLL: Duration = Duration::from_millis(20);

/// Errors of the local proxy.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The program is nowhere.
    #[error(
        "the proxy's program `gavel` was found neither in {beside} nor on PATH; \
         build it with: cargo build --release --bin gavel"
    )]
    NoProgram {
        /// Where our own program is.
        beside: String,
    },
    /// The additions to the configuration are not TOML.
    #[error("the additional configuration cannot be read: {0}")]
    Extra(#[from] toml::de::Error),
    /// The proxy ended, or does not let anybody log in.
    #[error("gavel {what}; the end of its log {log}:\n{tail}")]
    Proxy {
        /// What happened.
        what: String,
        /// Its log file.
        log: PathBuf,
        /// The last lines of it.
        tail: String,
    },
    /// Files and processes.
    #[error(transparent)]
    Local(#[from] local_cluster::Error),
}

/// A proxy process.
#[derive(Debug)]
pub struct LocalProxy {
    /// Always the loopback address.
    pub host: String,
    /// The port of the PostgreSQL protocol.
    pub port: u16,
    /// The port of the metrics.
    pub metrics_port: u16,
    /// The superuser's password.
    pub password: String,
    /// Its configuration file.
    pub config_path: PathBuf,
    log: PathBuf,
    pid_file: PathBuf,
    program: PathBuf,
    process: Mutex<Option<Process>>,
    _run: Arc<RunDirectory>,
}

impl LocalProxy {
    /// Writes the configuration as `{name}.toml` into the cluster's directory, starts the proxy and waits until it
    /// lets the superuser log in to the sharded database.
    pub async fn start_for(
        cluster: &LocalCluster,
        name: &str,
        options: &ProxyOptions,
    ) -> Result<Self, Error> {
        let program = find_program()?;
        let directory = cluster.directory();
        let password_file = directory.join(format!("{name}.password"));
        write_private(&password_file, cluster.password())?;
        let config_path = directory.join(format!("{name}.toml"));
        write_private(&config_path, &config::render(cluster, options, &password_file)?)?;
        let proxy = Self {
            host: "127.0.0.1".to_owned(),
            port: options.port,
            metrics_port: options.metrics_port,
            password: cluster.password().to_owned(),
            config_path,
            log: directory.join(format!("{name}.log")),
            pid_file: directory.join(format!("{name}.pid")),
            program,
            process: Mutex::new(None),
            _run: cluster.run_directory(),
        };
        proxy.start().await?;
        Ok(proxy)
    }

    /// Starts the process and waits until it accepts logins.
    pub async fn start(&self) -> Result<(), Error> {
        let mut command = Command::new(&self.program);
        command.arg("--config").arg(&self.config_path);
        let process = Process::spawn(&mut command, &self.log, Signal::SIGKILL)
            .map_err(|source| local_cluster::Error::io("run", &self.program, source))?;
        write_private(&self.pid_file, &format!("{}\n", process.pid()))?;
        *self.process() = Some(process);
        self.wait_login().await
    }

    /// Tries to log in until it works. Cancel safe.
    async fn wait_login(&self) -> Result<(), Error> {
        let deadline = Instant::now() + START_LIMIT;
        loop {
            let Err(error) = self.config(DATABASE).connect(tokio_postgres::NoTls).await else {
                return Ok(());
            };
            if self.pid().is_none() {
                return Err(self.failure("ended while starting".to_owned()));
            }
            if Instant::now() >= deadline {
                return Err(self.failure(format!("does not accept logins ({})", describe(&error))));
            }
            sleep(POLL).await;
        }
    }

    /// How to log in as the superuser.
    pub fn config(&self, database: &str) -> tokio_postgres::Config {
        let mut config = tokio_postgres::Config::new();
        config.host(&self.host).port(self.port).user(USER).password(&self.password).dbname(database);
        config.connect_timeout(START_LIMIT);
        config
    }

    /// The same as libpq's key and value string.
    pub fn connection_string(&self, database: &str) -> String {
        let Self { host, port, password, .. } = self;
        format!("host={host} port={port} user={USER} password={password} dbname={database}")
    }

    /// Where the metrics are.
    pub fn metrics_url(&self) -> String {
        format!("http://{}:{}/metrics", self.host, self.metrics_port)
    }

    /// The process id, while it runs.
    pub fn pid(&self) -> Option<u32> {
        let mut process = self.process();
        let process = process.as_mut()?;
        process.ended().is_none().then(|| process.pid())
    }

    /// Waits until the process ends by itself, and says so. Cancel safe.
    pub async fn ended(&self) -> Error {
        while self.pid().is_some() {
            sleep(POLL).await;
        }
        self.failure("ended unexpectedly".to_owned())
    }

    /// Makes the proxy read its files again.
    pub fn reload(&self) {
        if let Some(process) = self.process().as_mut() {
            process.signal(Signal::SIGHUP);
        }
    }

    /// Lets the proxy drain, but not for long. Returns whether it ended by itself in time.
    pub async fn stop(&self) -> bool {
        self.end(Signal::SIGTERM).await
    }

    /// Kills the process.
    pub async fn kill(&self) {
        self.end(Signal::SIGKILL).await;
    }

    async fn end(&self, signal: Signal) -> bool {
        let Some(mut process) = self.process().take() else { return true };
        process.signal(signal);
        // If it did not end in time, dropping it kills it.
        process.wait(STOP_LIMIT).await
    }

    /// Everything the proxy has logged so far.
    pub fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Where the proxy logs to.
    pub fn log_path(&self) -> &Path {
        &self.log
    }

    fn failure(&self, what: String) -> Error {
        Error::Proxy { what, log: self.log.clone(), tail: tail(&self.log) }
    }

    fn process(&self) -> MutexGuard<'_, Option<Process>> {
        // A panic elsewhere must not keep us from stopping the proxy.
        self.process.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for LocalProxy {
    fn drop(&mut self) {
        // The process first: a pid file without a process is harmless, a process without one is not.
        self.process().take();
        let _ = std::fs::remove_file(&self.pid_file);
    }
}

/// Beside our own program (test programs are one directory deeper), else on PATH.
fn find_program() -> Result<PathBuf, Error> {
    let own = std::env::current_exe().unwrap_or_default();
    let beside = own.parent().unwrap_or(Path::new("/"));
    let beside = match beside.file_name() {
        Some(name) if name == OsStr::new("deps") => beside.parent().unwrap_or(beside),
        _ => beside,
    };
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::iter::once(beside.to_owned())
        .chain(std::env::split_paths(&path))
        .map(|directory| directory.join(PROGRAM))
        .find(|program| program.is_file())
        .ok_or_else(|| Error::NoProgram { beside: beside.display().to_string() })
}
