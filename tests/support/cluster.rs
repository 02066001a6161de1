//! A whole cluster for one test: real PostgreSQL shards with replicas, and a proxy in front of them.
//!
//! Invariant: when a test fails, its output has the proxy's configuration and the end of its log. A proxy that
//! panicked or logged an error fails the test, unless the test said so by [`Cluster::allow_log`].

use std::future::Future;
use std::path::PathBuf;
use std::sync::Mutex;
use std::time::Duration;

use shard_admin::local_cluster::{ClusterBuilder, LocalCluster, LocalNode, LocalShard, ReservedPort};
use shard_admin::local_proxy::{DATABASE, LocalProxy, ProxyOptions};
use tokio::time::{Instant, sleep};
use tokio_postgres::{Client, Row, SimpleQueryMessage};

use crate::wire::Login;

/// Lines of the proxy's log shown when a test fails.
const LOG_LINES: usize = 60;
/// How often [`eventually`] looks.
const POLL: Duration = Duration::from_millis(20);

/// Describes a cluster.
#[derive(Debug, Clone)]
pub struct Builder {
    nodes: ClusterBuilder,
    pool_mode: String,
    extra: Option<String>,
}

impl Builder {
    /// Number of shards. Default: 2.
    pub fn shards(mut self, count: usize) -> Self {
        self.nodes = self.nodes.shards(count);
        self
    }

    /// Replicas of each shard. Default: none.
    pub fn replicas(mut self, count: usize) -> Self {
        self.nodes = self.nodes.replicas(count);
        self
    }

    /// `transaction` (default) or `session`.
    pub fn pool_mode(mut self, mode: &str) -> Self {
        mode.clone_into(&mut self.pool_mode);
        self
    }

    /// More configuration of the proxy (TOML), merged into that of the demo: sections key by key, rules in front.
    pub fn config_extra(mut self, toml: &str) -> Self {
        self.extra = Some(toml.to_owned());
        self
    }

    /// One more setting of every PostgreSQL node.
    pub fn node_setting(mut self, name: &str, value: &str) -> Self {
        self.nodes = self.nodes.setting(name, value);
        self
    }

    /// Starts nodes and proxy, and creates the sharded database.
    ///
    /// # Panics
    /// When anything does not come up: a test cannot go on without it.
    pub async fn start(self) -> Cluster {
        let nodes = self.nodes.start().await.unwrap_or_else(|error| panic!("{error}"));
        nodes.create_database(DATABASE).await.unwrap_or_else(|error| panic!("{error}"));
        let ports = [port(), port()];
        let options = ProxyOptions {
            port: ports[0].number(),
            metrics_port: ports[1].number(),
            pool_mode: self.pool_mode,
            extra: self.extra,
        };
        let proxy = LocalProxy::start_for(&nodes, "gavel", &options).await;
        let proxy = proxy.unwrap_or_else(|error| panic!("{error}"));
        Cluster { proxy, nodes, allowed: Mutex::new(Vec::new()), _ports: ports }
    }
}

fn port() -> ReservedPort {
    ReservedPort::any().unwrap_or_else(|error| panic!("{error}"))
}

/// Nodes and the proxy in front of them; gone when dropped.
#[derive(Debug)]
pub struct Cluster {
    /// The proxy. First, so that it goes before the nodes.
    pub proxy: LocalProxy,
    /// The PostgreSQL servers.
    pub nodes: LocalCluster,
    allowed: Mutex<Vec<String>>,
    _ports: [ReservedPort; 2],
}

impl Cluster {
    /// Two shards without replicas, transaction pooling, the demo's placement rules.
    pub fn builder() -> Builder {
        let nodes = ClusterBuilder::new().shards(2).fsync(false).template_cache(template_cache());
        Builder { nodes, pool_mode: "transaction".to_owned(), extra: None }
    }

    /// One plain PostgreSQL, to compare answers with.
    ///
    /// # Panics
    /// When it does not come up.
    pub async fn oracle() -> LocalNode {
        let start = ClusterBuilder::new().fsync(false).template_cache(template_cache()).start_single().await;
        let node = start.unwrap_or_else(|error| panic!("{error}"));
        let create = format!("CREATE DATABASE {DATABASE}");
        node.execute("postgres", &create).await.unwrap_or_else(|error| panic!("{error}"));
        node
    }

    /// A session of the superuser in the sharded database, through the proxy.
    pub async fn connect(&self) -> Client {
        self.connect_to(DATABASE).await
    }

    /// A session in another database, through the proxy.
    ///
    /// # Panics
    /// When the login fails.
    pub async fn connect_to(&self, database: &str) -> Client {
        let login = self.proxy.config(database).connect(tokio_postgres::NoTls).await;
        let (client, connection) = login.unwrap_or_else(|error| panic!("login through the proxy: {error:?}"));
        tokio::spawn(connection);
        client
    }

    /// The superuser's login at the sharded database, through the proxy, for [`Wire`](crate::wire::Wire).
    ///
    /// # Panics
    /// When the proxy's address is none.
    pub fn login(&self) -> Login {
        let address = (self.proxy.host.as_str(), self.proxy.port);
        let login = Login::new(address, DATABASE).expect("the proxy listens on a loopback address");
        Login { password: self.proxy.password.clone(), ..login }
    }

    /// Key and value string of libpq for the sharded database, through the proxy.
    pub fn connection_string(&self) -> String {
        self.proxy.connection_string(DATABASE)
    }

    /// The environment with which libpq's programs reach the proxy.
    pub fn environment(&self) -> [(&'static str, String); 5] {
        [
            ("PGHOST", self.proxy.host.clone()),
            ("PGPORT", self.proxy.port.to_string()),
            ("PGUSER", "postgres".to_owned()),
            ("PGPASSWORD", self.proxy.password.clone()),
            ("PGDATABASE", DATABASE.to_owned()),
        ]
    }

    /// A shard by its number, from 0.
    pub fn shard(&self, number: usize) -> &LocalShard {
        &self.nodes.shards[number]
    }

    /// The first column of a query's rows on each primary itself, as text: what really is where.
    ///
    /// # Panics
    /// When a primary cannot answer.
    pub async fn on_each_primary(&self, sql: &str) -> Vec<Vec<String>> {
        let mut answers = Vec::new();
        for shard in &self.nodes.shards {
            let client = shard.primary.connect(DATABASE).await.unwrap_or_else(|error| panic!("{error}"));
            answers.push(first_column(&client, sql).await);
        }
        answers
    }

    /// Lines of the proxy's log with this text do not fail the test.
    pub fn allow_log(&self, text: &str) {
        self.allowed.lock().expect("no panic while held").push(text.to_owned());
    }

    /// What helps to understand a failure.
    pub fn report(&self) -> String {
        let config = std::fs::read_to_string(&self.proxy.config_path).unwrap_or_default();
        let log = self.proxy.log();
        let lines: Vec<_> = log.lines().collect();
        let tail = lines[lines.len().saturating_sub(LOG_LINES)..].join("\n");
        format!("--- configuration\n{config}\n--- end of the proxy's log\n{tail}\n---")
    }

    /// Lines of the log that no healthy proxy writes.
    fn complaints(&self) -> Vec<String> {
        let allowed = self.allowed.lock().expect("no panic while held");
        let bad = |line: &&str| line.contains(" ERROR ") || line.contains("panicked at");
        let listed = |line: &&str| allowed.iter().any(|text| line.contains(text.as_str()));
        self.proxy.log().lines().filter(bad).filter(|line| !listed(line)).map(str::to_owned).collect()
    }
}

impl Drop for Cluster {
    #[allow(clippy::print_stderr, reason = "the test harness shows it with the failed test")]
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!("{}", self.report());
            return;
        }
        let complaints = self.complaints();
        assert!(complaints.is_empty(), "the proxy's log has errors: {complaints:#?}\n{}", self.report());
    }
}

/// The superuser's login at the sharded database's twin on a plain server.
///
/// # Panics
/// When its address is none.
pub fn login_of(oracle: &LocalNode) -> Login {
    let login = Login::new((oracle.host.as_str(), oracle.port), "auction").expect("a loopback address");
    let config = oracle.config("auction");
    let password = config.get_password().map(String::from_utf8_lossy).unwrap_or_default().into_owned();
    Login { password, ..login }
}

/// The environment with which libpq's programs reach the plain server.
pub fn environment_of(oracle: &LocalNode) -> [(&'static str, String); 5] {
    let login = login_of(oracle);
    [
        ("PGHOST", oracle.host.clone()),
        ("PGPORT", oracle.port.to_string()),
        ("PGUSER", login.user),
        ("PGPASSWORD", login.password),
        ("PGDATABASE", login.database),
    ]
}

/// The first column of all rows as text; NULL is `NULL`.
///
/// # Panics
/// When the statement fails.
pub async fn first_column(client: &Client, sql: &str) -> Vec<String> {
    let messages = client.simple_query(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    let rows = messages.into_iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
        _ => None,
    });
    rows.collect()
}

/// The only row of a query.
///
/// # Panics
/// When the statement fails or gives another number of rows.
pub async fn one_row(client: &Client, sql: &str) -> Row {
    client.query_one(sql, &[]).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"))
}

/// Waits until `predicate` holds.
///
/// # Panics
/// When `limit` is over first.
pub async fn eventually<F>(limit: Duration, what: &str, mut predicate: impl FnMut() -> F)
where
    F: Future<Output = bool>,
{
    let deadline = Instant::now() + limit;
    while !predicate().await {
        assert!(Instant::now() < deadline, "not within {limit:?}: {what}");
        sleep(POLL).await;
    }
}

/// A program of the workspace, in the directory above that of the test programs.
///
/// # Panics
/// When it has not been built.
pub fn program(name: &str) -> PathBuf {
    let own = std::env::current_exe().expect("own path");
    let program = own.ancestors().nth(2).expect("target directory").join(name);
    assert!(program.exists(), "build it first: cargo build --workspace --bins");
    program
}

/// Beside the test programs: `cargo clean` takes it along.
fn template_cache() -> PathBuf {
    let own = std::env::current_exe().unwrap_or_default();
    let target = own.ancestors().nth(2).map_or_else(std::env::temp_dir, PathBuf::from);
    target.join("postgres-templates")
}
