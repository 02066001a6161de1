//! `shard-admin demo`: from nothing to an auction house on several shards, and back to nothing.
//!
//! Invariant: however the demo ends, its servers, its proxy and its temporary directory go with it. Everything that it
//! starts is owned by a value of this process and is stopped by dropping that value; the run's watchdog covers the
//! case that nobody is left to drop anything.

mod announce;
mod command;
mod house;
mod load;

use std::io::{self, IsTerminal, Write};
use std::path::PathBuf;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::time::{MissedTickBehavior, interval};

use self::announce::Announcement;
use self::command::Running;
use self::load::Load;
use crate::local_cluster::{self, ClusterBuilder, LocalCluster, ReservedPort, tail};
use crate::local_proxy::{self, DATABASE, LocalProxy, ProxyOptions, mistakes_of_additions};
use crate::sql_error::describe;

/// Where the proxy listens unless told otherwise.
const DEFAULT_PORT: u16 = 6432;
/// Where its metrics are unless told otherwise.
const DEFAULT_METRICS_PORT: u16 = 9127;
/// How often the live line is drawn.
const LIVE_EVERY: Duration = Duration::from_secs(1);
/// How many live lines go by between two log lines when there is no terminal.
const QUIET_EVERY: u64 = 30;

/// Options of the demo.
#[derive(Debug, Clone, clap::Args)]
pub struct Options {
    /// Shards to start, each with one primary
    #[arg(long, value_name = "N", default_value_t = 4, value_parser = clap::value_parser!(u16).range(1..=64))]
    shards: u16,
    /// Streaming replicas of each primary
    #[arg(long, value_name = "R", default_value_t = 1, value_parser = clap::value_parser!(u16).range(0..=8))]
    replicas: u16,
    /// Port of the proxy on 127.0.0.1; 0: any free one [default: 6432, or the next free one]
    #[arg(long, value_name = "PORT")]
    port: Option<u16>,
    /// Port of the proxy's metrics on 127.0.0.1; 0: any free one [default: 9127, or the next free one]
    #[arg(long, value_name = "PORT")]
    metrics_port: Option<u16>,
    /// Keep the servers' files in this directory; they stay there at the end, and the same command goes on with them
    /// [default: a temporary directory, removed at the end]
    #[arg(long, value_name = "DIR")]
    data_dir: Option<PathBuf>,
    /// Whether the proxy lends a server connection for a transaction or for a whole session
    #[arg(long, value_name = "MODE", default_value = "transaction", value_parser = ["transaction", "session"])]
    pool_mode: String,
    /// Create no tables; the rule stays that tables with a column auction_id are sharded by it
    #[arg(long)]
    no_data: bool,
    /// Place no bids
    #[arg(long)]
    no_load: bool,
    /// Merge this file (TOML) into the proxy's configuration; its rules come before the demo's
    #[arg(long, value_name = "FILE")]
    config_extra: Option<PathBuf>,
    /// Print one line of JSON with all addresses when ready, instead of the banner
    #[arg(long)]
    json: bool,
    /// Run this shell command against the demo (PGHOST, PGPORT, PGUSER, PGPASSWORD, PGDATABASE and GAVEL_DEMO_JSON
    /// are set), then stop everything and exit with its status; the built-in load stays off
    #[arg(long, value_name = "CMD")]
    exec: Option<String>,
}

/// Errors of the demo.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A port that was asked for is in use.
    #[error("port {port} on 127.0.0.1 is in use: choose another one with {option}, or leave it out")]
    PortTaken {
        /// The port.
        port: u16,
        /// The option that named it.
        option: &'static str,
    },
    /// One port for two listeners.
    #[error("--port and --metrics-port are both {port}: choose two ports, or leave one of them out")]
    SamePort {
        /// The port.
        port: u16,
    },
    /// The additional configuration has mistakes.
    #[error("{path}:\n{}", .mistakes.join("\n"))]
    Additions {
        /// The file.
        path: PathBuf,
        /// All of them.
        mistakes: Vec<String>,
    },
    /// The additional configuration cannot be read.
    #[error("cannot read {path}")]
    ConfigExtra {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The schema or the data were not accepted by the proxy.
    #[error(
        "loading the auction house through the proxy failed:\n{}\nThe end of the proxy's log:\n{log}",
        describe(.source)
    )]
    House {
        /// What the proxy said.
        source: tokio_postgres::Error,
        /// The end of its log.
        log: String,
    },
    /// The nodes.
    #[error(transparent)]
    Cluster(#[from] local_cluster::Error),
    /// The proxy.
    #[error(transparent)]
    Proxy(#[from] local_proxy::Error),
    /// Signals, the command, the terminal.
    #[error(transparent)]
    Io(#[from] io::Error),
}

/// Runs the demo until Ctrl-C, or until its command ends; returns the exit status.
pub async fn run(options: Options) -> Result<u8, Error> {
    let mut stops = StopSignals::listen()?;
    let ports = Ports::reserve(&options)?;
    let extra = read_extra(&options)?;
    let started = tokio::select! {
        started = Box::pin(Demo::start(&options, &ports, extra)) => started,
        number = stops.next() => return Ok(128 + number),
    };
    let demo = started?;
    let announcement = Announcement::new(&demo.cluster, &demo.proxy);
    if options.json {
        say(&announcement.json())?;
    }
    let result = match &options.exec {
        Some(command) => demo.execute(command, &announcement, &mut stops).await,
        None => {
            if !options.json {
                say(&announcement.banner(!options.no_data, &ports.notes))?;
            }
            demo.stay(&options, &mut stops).await
        }
    };
    demo.stop().await;
    result
}

/// The running demo. The proxy is first, so that it goes before the servers behind it.
struct Demo {
    proxy: LocalProxy,
    cluster: LocalCluster,
}

impl Demo {
    async fn start(options: &Options, ports: &Ports, extra: Option<String>) -> Result<Self, Error> {
        let (shards, replicas) = (usize::from(options.shards), usize::from(options.replicas));
        let progress = spinner();
        progress.set_message(format!("starting {} PostgreSQL servers", shards * (1 + replicas)));
        let mut builder = ClusterBuilder::new().shards(shards).replicas(replicas);
        if let Some(directory) = &options.data_dir {
            builder = builder.data_dir(directory);
        }
        let cluster = builder.start().await?;
        cluster.create_database(DATABASE).await?;
        progress.set_message("starting the proxy");
        let proxy_options = ProxyOptions {
            port: ports.proxy.number(),
            metrics_port: ports.metrics.number(),
            pool_mode: options.pool_mode.clone(),
            extra,
        };
        let proxy = LocalProxy::start_for(&cluster, "gavel", &proxy_options).await?;
        if !options.no_data && !has_house(&cluster).await? {
            progress.set_message("loading the auction house through the proxy");
            let failed = |source| Error::House { source, log: tail(proxy.log_path()) };
            let login = proxy.config(DATABASE).connect(tokio_postgres::NoTls).await;
            let (client, connection) = login.map_err(failed)?;
            tokio::spawn(connection);
            house::build(&client).await.map_err(failed)?;
        }
        progress.finish_and_clear();
        Ok(Self { proxy, cluster })
    }

    /// Runs the command of `--exec` to its end.
    async fn execute(
        &self,
        command: &str,
        announcement: &Announcement,
        stops: &mut StopSignals,
    ) -> Result<u8, Error> {
        let mut running = Running::start(command, &announcement.environment())?;
        let mut proxy_ended = false;
        loop {
            tokio::select! {
                status = running.wait() => return Ok(status?),
                number = stops.next() => {
                    // The command has got a Ctrl-C of the terminal too, and decides whether it ends.
                    if number == INTERRUPT && running.shares_terminal() {
                        continue;
                    }
                    running.end().await;
                    return Ok(128 + number);
                }
                error = self.proxy.ended(), if !proxy_ended => {
                    // The command may have done this on purpose; its status still counts.
                    proxy_ended = true;
                    writeln!(io::stderr(), "{error}")?;
                }
            }
        }
    }

    /// Shows the load until a signal comes.
    async fn stay(&self, options: &Options, stops: &mut StopSignals) -> Result<u8, Error> {
        let bidding = !(options.no_load || options.no_data);
        let load = bidding.then(|| Load::start(&self.proxy.config(DATABASE)));
        tokio::select! {
            _ = stops.next() => Ok(0),
            error = self.proxy.ended() => Err(error.into()),
            () = live(load.as_ref()) => Ok(0),
        }
    }

    async fn stop(&self) {
        let progress = spinner();
        progress.set_message("stopping");
        self.proxy.stop().await;
        if let Err(error) = self.cluster.stop().await {
            tracing::warn!(%error, "a server did not stop by itself");
        }
        progress.finish_and_clear();
    }
}

/// Whether an earlier run in the same directory has built the house.
async fn has_house(cluster: &LocalCluster) -> Result<bool, local_cluster::Error> {
    let Some(shard) = cluster.shards.first() else { return Ok(false) };
    let found = shard.primary.query_text(DATABASE, "SELECT to_regclass('public.bids')::text").await?;
    Ok(found.is_some())
}

/// Draws the live line for ever.
async fn live(load: Option<&Load>) {
    let Some(load) = load else { return std::future::pending().await };
    let progress = spinner();
    let mut ticks = interval(LIVE_EVERY);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut before = 0;
    for tick in 0_u64.. {
        ticks.tick().await;
        let placed = load.counters.placed();
        let line = live_line(placed, placed - before, load.counters.failures());
        before = placed;
        if io::stderr().is_terminal() {
            progress.set_message(line);
        } else if tick % QUIET_EVERY == QUIET_EVERY - 1 {
            tracing::info!("{line}");
        }
    }
}

fn live_line(placed: u64, last_second: u64, (failed, reason): (u64, Option<String>)) -> String {
    let mut line = format!("{placed} bids placed, {last_second} in the last second");
    if let Some(reason) = reason {
        line.push_str(&format!("; {failed} failed, the last one: {reason}"));
    }
    line
}

/// Hidden when standard error is no terminal.
fn spinner() -> ProgressBar {
    let progress = ProgressBar::new_spinner();
    progress
        .set_style(ProgressStyle::with_template("{spinner} {msg}").expect("a fixed template that is right"));
    progress.enable_steady_tick(Duration::from_millis(120));
    progress
}

fn say(text: &str) -> io::Result<()> {
    let mut out = io::stdout().lock();
    writeln!(out, "{text}")?;
    out.flush()
}

fn read_extra(options: &Options) -> Result<Option<String>, Error> {
    let Some(path) = &options.config_extra else { return Ok(None) };
    let text =
        std::fs::read_to_string(path).map_err(|source| Error::ConfigExtra { path: path.clone(), source })?;
    let mistakes = mistakes_of_additions(&text, options.shards, &options.pool_mode);
    if mistakes.is_empty() { Ok(Some(text)) } else { Err(Error::Additions { path: path.clone(), mistakes }) }
}

/// The proxy's ports, ours until the demo ends.
struct Ports {
    proxy: ReservedPort,
    metrics: ReservedPort,
    notes: Vec<String>,
}

impl Ports {
    fn reserve(options: &Options) -> Result<Self, Error> {
        if let Some(port) = options.port.filter(|port| *port != 0 && options.metrics_port == Some(*port)) {
            return Err(Error::SamePort { port });
        }
        let mut notes = Vec::new();
        let proxy = reserve(options.port, DEFAULT_PORT, "--port", &mut notes)?;
        let metrics = reserve(options.metrics_port, DEFAULT_METRICS_PORT, "--metrics-port", &mut notes)?;
        Ok(Self { proxy, metrics, notes })
    }
}

/// A port that was asked for, or nothing; a default one, or the next.
fn reserve(
    wanted: Option<u16>,
    default: u16,
    option: &'static str,
    notes: &mut Vec<String>,
) -> Result<ReservedPort, Error> {
    if wanted == Some(0) {
        return Ok(ReservedPort::any()?);
    }
    if let Some(port) = wanted {
        return ReservedPort::exactly(port).ok_or(Error::PortTaken { port, option });
    }
    let reserved = ReservedPort::from(default)?;
    if reserved.number() != default {
        notes.push(format!("port {default} is in use, so this demo took {}.", reserved.number()));
    }
    Ok(reserved)
}

/// The number of SIGINT.
const INTERRUPT: u8 = 2;

/// The signals that end the demo.
struct StopSignals {
    interrupt: Signal,
    terminate: Signal,
    hangup: Signal,
}

impl StopSignals {
    fn listen() -> io::Result<Self> {
        Ok(Self {
            interrupt: signal(SignalKind::interrupt())?,
            terminate: signal(SignalKind::terminate())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// The number of the next one. Cancel safe.
    async fn next(&mut self) -> u8 {
        tokio::select! {
            _ = self.interrupt.recv() => INTERRUPT,
            _ = self.terminate.recv() => 15,
            _ = self.hangup.recv() => 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_taken_default_moves_on_and_says_so_a_taken_wish_fails() {
        let taken = ReservedPort::any().expect("a port");
        let mut notes = Vec::new();
        let next = reserve(None, taken.number(), "--port", &mut notes).expect("the next one");
        assert_ne!(next.number(), taken.number());
        assert_eq!(notes.len(), 1);
        let error = reserve(Some(taken.number()), 1, "--port", &mut notes).expect_err("taken");
        assert!(error.to_string().contains("--port"), "{error}");
        assert_ne!(reserve(Some(0), 1, "--port", &mut notes).expect("any").number(), 0);
    }

    #[test]
    fn the_live_line_tells_failures_only_if_there_are_any() {
        assert_eq!(live_line(5, 2, (0, None)), "5 bids placed, 2 in the last second");
        let line = live_line(5, 2, (1, Some("no".to_owned())));
        assert_eq!(line, "5 bids placed, 2 in the last second; 1 failed, the last one: no");
    }
}
