//! A cluster of real PostgreSQL servers on this machine, for the demo and for the tests.
//!
//! Invariants: servers listen on 127.0.0.1 alone, with a password unless asked otherwise; nothing runs as root;
//! nothing outlives its owner (see `run_dir.rs`); a started cluster streams: every replica follows its primary before
//! [`ClusterBuilder::start`] returns. `fsync` is on unless a test turns it off, so that what the demo shows of commit
//! times is what a server shows that keeps its promises.

mod account;
mod binaries;
mod data_dir;
mod error;
mod node;
mod ports;
mod process;
mod run_dir;
#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::Arc;

use tokio::task::JoinSet;

use self::account::Account;
pub(crate) use self::account::write_private;
pub use self::binaries::{Binaries, INSTALL_COMMAND};
use self::data_dir::NodeSettings;
pub use self::error::Error;
pub use self::node::{LocalNode, StopMode};
use self::node::{Place, Server};
pub use self::ports::ReservedPort;
pub(crate) use self::process::send;
pub use self::process::{Process, tail};
pub use self::run_dir::RunDirectory;
use self::run_dir::Shape;

/// The superuser of every node.
pub const USER: &str = "postgres";

/// The password when templates are cached: a cached directory must fit every run.
const CACHED_PASSWORD: &str = "local-cluster";

/// How connections to the nodes prove who they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Authentication {
    /// They need not.
    Trust,
    /// SCRAM-SHA-256; the verifier of `postgres` is the same on all shards, so that its keys can be passed through.
    Scram,
}

/// What all nodes of a cluster have in common.
#[derive(Debug, Clone)]
struct Blueprint {
    binaries: Binaries,
    account: Account,
    password: String,
    authentication: Authentication,
    fsync: bool,
    settings: Vec<(String, String)>,
    template_cache: Option<PathBuf>,
}

/// Describes a cluster and starts it.
#[derive(Debug, Clone)]
pub struct ClusterBuilder {
    shards: usize,
    replicas: usize,
    data_dir: Option<PathBuf>,
    template_cache: Option<PathBuf>,
    authentication: Authentication,
    fsync: bool,
    settings: Vec<(String, String)>,
}

impl Default for ClusterBuilder {
    fn default() -> Self {
        Self::new()
    }
}

impl ClusterBuilder {
    /// One shard without replicas, SCRAM, fsync on, in a temporary directory.
    pub fn new() -> Self {
        Self {
            shards: 1,
            replicas: 0,
            data_dir: None,
            template_cache: None,
            authentication: Authentication::Scram,
            fsync: true,
            settings: Vec::new(),
        }
    }

    /// Number of shards, at least one.
    pub fn shards(mut self, count: usize) -> Self {
        self.shards = count.max(1);
        self
    }

    /// Replicas of each shard.
    pub fn replicas(mut self, count: usize) -> Self {
        self.replicas = count;
        self
    }

    /// Keeps the nodes in this directory, which stays at the end. It is absent, empty, or has the same cluster of an
    /// earlier run in it, which then goes on.
    pub fn data_dir(mut self, directory: impl Into<PathBuf>) -> Self {
        self.data_dir = Some(directory.into());
        self
    }

    /// Keeps initialised directories here and copies them, which saves a second per shard. For tests: the
    /// superuser's password is then a fixed one.
    pub fn template_cache(mut self, directory: impl Into<PathBuf>) -> Self {
        self.template_cache = Some(directory.into());
        self
    }

    /// How the nodes authenticate connections.
    pub fn authentication(mut self, authentication: Authentication) -> Self {
        self.authentication = authentication;
        self
    }

    /// Off: commits do not wait for the disk, and the data do not survive a crash of the machine.
    pub fn fsync(mut self, on: bool) -> Self {
        self.fsync = on;
        self
    }

    /// One more setting for every node's configuration file; later ones win.
    pub fn setting(mut self, name: &str, value: &str) -> Self {
        self.settings.push((name.to_owned(), value.to_owned()));
        self
    }

    /// Starts all servers at once and waits until every replica streams.
    pub async fn start(self) -> Result<LocalCluster, Error> {
        let binaries = Binaries::find()?;
        let account = Account::choose()?;
        let run = Arc::new(RunDirectory::create(self.data_dir.as_deref(), "gavel-", &account)?);
        let shape = self.shape(&run)?;
        let blueprint = Arc::new(Blueprint {
            binaries,
            account,
            password: shape.password.clone(),
            authentication: self.authentication,
            fsync: self.fsync,
            settings: self.settings,
            template_cache: self.template_cache,
        });
        let mut tasks = JoinSet::new();
        for index in 0..self.shards {
            let (blueprint, run) = (Arc::clone(&blueprint), Arc::clone(&run));
            tasks.spawn(start_shard(blueprint, run, index, self.replicas));
        }
        let mut shards = Vec::with_capacity(self.shards);
        while let Some(result) = tasks.join_next().await {
            let joined =
                result.map_err(|error| Error::Io { doing: "start a shard".to_owned(), source: error.into() });
            shards.push(joined??);
        }
        shards.sort_by_key(|(index, _)| *index);
        let shards: Vec<_> = shards.into_iter().map(|(_, shard)| shard).collect();
        share_verifier(&shards).await?;
        run.remember(&shape)?;
        Ok(LocalCluster { shards, run })
    }

    /// What there will be: as asked for, which must be what an earlier run has left.
    fn shape(&self, run: &RunDirectory) -> Result<Shape, Error> {
        let (shards, replicas) = (self.shards, self.replicas);
        match run.earlier() {
            Some(earlier) if (earlier.shards, earlier.replicas) == (shards, replicas) => Ok(earlier.clone()),
            Some(&Shape { shards, replicas, .. }) => {
                Err(Error::OtherShape { path: run.path().to_owned(), shards, replicas })
            }
            None => {
                let cached = self.template_cache.is_some();
                let password = if cached { CACHED_PASSWORD.to_owned() } else { random_password() };
                Ok(Shape { shards, replicas, password })
            }
        }
    }

    /// Starts a single server that belongs to no cluster.
    pub async fn start_single(self) -> Result<LocalNode, Error> {
        self.shards(1).replicas(0).start().await?.into_single()
    }
}

/// A primary and its replicas.
#[derive(Debug)]
pub struct LocalShard {
    /// `shard-1`, `shard-2`, …
    pub name: String,
    /// Takes the writes.
    pub primary: LocalNode,
    /// Follow it.
    pub replicas: Vec<LocalNode>,
}

impl LocalShard {
    /// The primary, then the replicas.
    pub fn nodes(&self) -> impl Iterator<Item = &LocalNode> {
        std::iter::once(&self.primary).chain(&self.replicas)
    }
}

/// A running cluster. Dropping it stops every server and, if its directory is temporary, removes the directory.
#[derive(Debug)]
pub struct LocalCluster {
    /// In order; the first is the home shard.
    pub shards: Vec<LocalShard>,
    run: Arc<RunDirectory>,
}

impl LocalCluster {
    /// The directory of the run, with room for files that shall vanish with it.
    pub fn directory(&self) -> &Path {
        self.run.path()
    }

    /// The same as a handle: while it is held, the directory stays.
    pub fn run_directory(&self) -> Arc<RunDirectory> {
        Arc::clone(&self.run)
    }

    /// All nodes, shard by shard.
    pub fn nodes(&self) -> impl Iterator<Item = &LocalNode> {
        self.shards.iter().flat_map(LocalShard::nodes)
    }

    /// The superuser's password.
    pub fn password(&self) -> &str {
        self.shards.first().map_or("", |shard| &shard.primary.password)
    }

    /// Runs statements on every primary, for set-up.
    pub async fn execute_everywhere(&self, database: &str, sql: &str) -> Result<(), Error> {
        for shard in &self.shards {
            shard.primary.execute(database, sql).await?;
        }
        Ok(())
    }

    /// Creates a database on every shard that does not have it yet.
    pub async fn create_database(&self, name: &str) -> Result<(), Error> {
        for shard in &self.shards {
            let client = shard.primary.connect(USER).await?;
            let failed = |source| shard.primary.sql_error(source);
            let sql = "SELECT FROM pg_database WHERE datname = $1";
            if client.query(sql, &[&name]).await.map_err(failed)?.is_empty() {
                client.batch_execute(&format!("CREATE DATABASE \"{name}\"")).await.map_err(failed)?;
            }
        }
        Ok(())
    }

    /// Stops all servers and waits for them. In a temporary directory they need not leave a clean state behind.
    pub async fn stop(&self) -> Result<(), Error> {
        let mode = self.stop_mode();
        self.nodes().for_each(|node| node.begin_stop(mode));
        for node in self.nodes() {
            node.stop(mode).await?;
        }
        Ok(())
    }

    fn stop_mode(&self) -> StopMode {
        if self.run.is_temporary() { StopMode::Immediate } else { StopMode::Fast }
    }

    fn into_single(mut self) -> Result<LocalNode, Error> {
        let none = || Error::Io {
            doing: "take the only node".to_owned(),
            source: std::io::ErrorKind::NotFound.into(),
        };
        // `shards(1)` made one; taking it leaves nothing for our drop to stop.
        self.shards.pop().map(|shard| shard.primary).ok_or_else(none)
    }
}

impl Drop for LocalCluster {
    fn drop(&mut self) {
        // All at once; each node then waits for its own server.
        let mode = self.stop_mode();
        self.nodes().for_each(|node| node.begin_stop(mode));
    }
}

fn random_password() -> String {
    use rand::distr::{Alphanumeric, SampleString};
    Alphanumeric.sample_string(&mut rand::rng(), 24)
}

async fn start_shard(
    blueprint: Arc<Blueprint>,
    run: Arc<RunDirectory>,
    index: usize,
    replicas: usize,
) -> Result<(usize, LocalShard), Error> {
    let lay_out = tokio::task::spawn_blocking(move || lay_out_shard(&blueprint, &run, index, replicas));
    let shard = lay_out
        .await
        .map_err(|error| Error::Io { doing: "lay out a shard".to_owned(), source: error.into() })??;
    for node in shard.nodes() {
        node.launch()?;
    }
    shard.primary.wait_ready().await?;
    let client = shard.primary.connect(USER).await?;
    for number in 1..=replicas {
        let slot = slot_name(number);
        let sql = format!(
            "SELECT pg_create_physical_replication_slot('{slot}', true) \
             WHERE NOT EXISTS (SELECT FROM pg_replication_slots WHERE slot_name = '{slot}')"
        );
        client.execute(&sql, &[]).await.map_err(|source| shard.primary.sql_error(source))?;
    }
    for replica in &shard.replicas {
        replica.wait_ready().await?;
    }
    shard.primary.wait_streaming(&client, replicas).await?;
    Ok((index, shard))
}

/// Writes all files of a shard; starts nothing.
fn lay_out_shard(
    blueprint: &Blueprint,
    run: &Arc<RunDirectory>,
    index: usize,
    replicas: usize,
) -> Result<LocalShard, Error> {
    let name = format!("shard-{}", index + 1);
    let directory = run.path().join(&name);
    std::fs::create_dir_all(&directory).map_err(|source| Error::io("create", &directory, source))?;
    blueprint.account.allow_passage(&directory)?;
    let primary_dir = directory.join("primary");
    let primary_port = ReservedPort::any()?;
    let earlier = run.earlier().is_some();
    if !earlier {
        data_dir::initialise(blueprint, index, &primary_dir)?;
    }
    let mut followers = Vec::with_capacity(replicas);
    for number in 1..=replicas {
        let replica_dir = directory.join(format!("replica-{number}"));
        if !earlier {
            data_dir::clone_for_replica(&primary_dir, &replica_dir, &blueprint.account)?;
        }
        let conninfo = format!(
            "host=127.0.0.1 port={} user={USER} password={} application_name={}",
            primary_port.number(),
            blueprint.password,
            slot_name(number)
        );
        let label = format!("{name} replica {number}");
        let port = ReservedPort::any()?;
        let follows = Some((conninfo, slot_name(number)));
        let settings = NodeSettings { name: &label, port: port.number(), follows };
        data_dir::configure(blueprint, &replica_dir, &settings)?;
        followers.push(node(blueprint, run, label.clone(), replica_dir, port));
    }
    let label = format!("{name} primary");
    let settings = NodeSettings { name: &label, port: primary_port.number(), follows: None };
    data_dir::configure(blueprint, &primary_dir, &settings)?;
    let primary = node(blueprint, run, label.clone(), primary_dir, primary_port);
    Ok(LocalShard { name, primary, replicas: followers })
}

fn node(
    blueprint: &Blueprint,
    run: &Arc<RunDirectory>,
    name: String,
    data_dir: PathBuf,
    port: ReservedPort,
) -> LocalNode {
    let place = Place { name, data_dir, port, password: blueprint.password.clone() };
    let server = Server { binaries: blueprint.binaries.clone(), account: blueprint.account.clone() };
    LocalNode::new(place, server, Arc::clone(run))
}

/// The physical replication slot of a replica on its primary.
fn slot_name(number: usize) -> String {
    format!("replica_{number}")
}

/// Gives the superuser one SCRAM verifier on all shards: keys that a proxy passes through depend on its salt.
async fn share_verifier(shards: &[LocalShard]) -> Result<(), Error> {
    let Some((first, others)) = shards.split_first() else { return Ok(()) };
    if others.is_empty() {
        return Ok(());
    }
    let client = first.primary.connect(USER).await?;
    let sql = format!("SELECT rolpassword FROM pg_authid WHERE rolname = '{USER}'");
    let row = client.query_one(&sql, &[]).await.map_err(|source| first.primary.sql_error(source))?;
    let verifier: String = row.get(0);
    for shard in others {
        shard.primary.execute(USER, &format!("ALTER ROLE {USER} PASSWORD '{verifier}'")).await?;
    }
    Ok(())
}
