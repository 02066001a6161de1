//! Settings of the proxy: everything in the configuration file that is not the map.
//!
//! A setting, its default and its doc are one item here; `file` parses them, `docs/configuration.md` lists them.

use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use crate::topology::NodeAddress;

/// All settings, checked.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct Settings {
    /// `[listen]`
    pub listen: Listen,
    /// `[auth]`
    pub auth: Auth,
    /// `[pool]`
    pub pool: Pool,
    /// `[backend]`
    pub backend: Backend,
    /// `[limits]`
    pub limits: Limits,
    /// `[routing]`
    pub routing: Routing,
    /// `[log]`
    pub log: Log,
    /// `[admin]`
    pub admin: Admin,
    /// `[[databases]]`, in order; the first match wins. A file names at least one; the default is none.
    pub databases: Vec<Database>,
}

impl Settings {
    /// The entry for a database that an application names.
    pub fn database(&self, name: &str) -> Option<&Database> {
        self.databases.iter().find(|entry| entry.name == name || entry.name == "*")
    }

    /// Puts back what a running process cannot change, from the settings it runs with. Returns the names of those that
    /// the file now wants otherwise: they wait for a restart. All other settings take effect by a reload.
    pub fn keep_what_needs_a_restart(&mut self, running: &Self) -> Vec<&'static str> {
        let mut waiting = Vec::new();
        let mut keep = |name, differs: bool| {
            if differs {
                waiting.push(name);
            }
        };
        let (new, old) = (&mut self.listen, &running.listen);
        keep("listen.address", put_back(&mut new.address, &old.address));
        keep("listen.metrics", put_back(&mut new.metrics, &old.metrics));
        keep("listen.threads", put_back(&mut new.threads, &old.threads));
        keep("listen.backlog", put_back(&mut new.backlog, &old.backlog));
        let (new, old) = (&mut self.auth, &running.auth);
        keep("auth.query_database", put_back(&mut new.query_database, &old.query_database));
        keep("limits.facts", put_back(&mut self.limits.facts, &running.limits.facts));
        keep("log.json", put_back(&mut self.log.json, &running.log.json));
        waiting
    }
}

fn put_back<T: Clone + PartialEq>(new: &mut T, old: &T) -> bool {
    let differs = new != old;
    if differs {
        new.clone_from(old);
    }
    differs
}

/// Where the proxy listens.
#[derive(Debug, Clone, PartialEq)]
pub struct Listen {
    /// `address`, e.g. `127.0.0.1:6432`. Default: `127.0.0.1:6432`.
    pub address: String,
    /// `metrics`, e.g. `127.0.0.1:9127`; `None`: no metrics endpoint. Default: none.
    pub metrics: Option<String>,
    /// `threads` that carry sessions; 0: one per two cores, at least one. Default: 0.
    pub threads: usize,
    /// `backlog` of connections not yet accepted. Default: 4096.
    pub backlog: u32,
    /// `peers`: the other proxies of the cluster, which are asked about cancel requests for sessions unknown here. Default: none.
    pub peers: Vec<NodeAddress>,
    /// `tls`: `off`, `allow`, `require`. Default: off.
    pub tls: ListenTls,
    /// `tls_certificate`, PEM chain.
    pub tls_certificate: Option<PathBuf>,
    /// `tls_key`, PEM.
    pub tls_key: Option<PathBuf>,
    /// `tls_client_ca`, PEM: client certificates signed by it are accepted for `method = "cert"`.
    pub tls_client_ca: Option<PathBuf>,
}

impl Default for Listen {
    fn default() -> Self {
        Self {
            address: "127.0.0.1:6432".to_owned(),
            metrics: None,
            threads: 0,
            backlog: 4096,
            peers: Vec::new(),
            tls: ListenTls::Off,
            tls_certificate: None,
            tls_key: None,
            tls_client_ca: None,
        }
    }
}

/// TLS towards applications.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ListenTls {
    /// Refused (`N` to SSLRequest).
    Off,
    /// If the application asks for it.
    Allow,
    /// Plain connections are refused.
    Require,
}

/// How applications prove who they are.
#[derive(Clone, PartialEq)]
pub struct Auth {
    /// `method`. Default: scram-sha-256.
    pub method: AuthMethod,
    /// `users_file`: lines `"user" "password, md5… or SCRAM-SHA-256$… verifier"`.
    pub users_file: Option<PathBuf>,
    /// `query`, with `$1` for the user, returning its name, its secret (NULL: none that is valid) and, if there is a third
    /// column, whether it may log in; run on the home shard. Default: [`AUTH_QUERY`]; empty: no look-up.
    pub query: String,
    /// `query_user`: the role that runs `query`, and the proxy's own control connections. Default: postgres.
    pub query_user: String,
    /// Its password, from `query_password`, `query_password_file` or `query_password_env`.
    pub query_password: Option<String>,
    /// `query_database`. Default: postgres.
    pub query_database: String,
    /// `cache`: for how long a looked-up verifier is used without asking again. Default: 10 s.
    pub cache: Duration,
    /// `last_known`: for how long it is used while no node can be asked. Default: 1 h.
    pub last_known: Duration,
}

impl fmt::Debug for Auth {
    /// Everything but the secret, which must not get into logs.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { method, users_file, query, query_user, .. } = self;
        let Self { query_password, query_database, cache, last_known, .. } = self;
        f.debug_struct("Auth")
            .field("method", method)
            .field("users_file", users_file)
            .field("query", query)
            .field("query_user", query_user)
            .field("query_password", &query_password.as_ref().map(|_| "…"))
            .field("query_database", query_database)
            .field("cache", cache)
            .field("last_known", last_known)
            .finish()
    }
}

/// The default of [`Auth::query`].
pub const AUTH_QUERY: &str = "SELECT rolname, CASE WHEN rolvaliduntil < now() THEN NULL ELSE rolpassword END, \
     rolcanlogin FROM pg_authid WHERE rolname = $1";

impl Default for Auth {
    fn default() -> Self {
        Self {
            method: AuthMethod::ScramSha256,
            users_file: None,
            query: AUTH_QUERY.to_owned(),
            query_user: "postgres".to_owned(),
            query_password: None,
            query_database: "postgres".to_owned(),
            cache: Duration::from_secs(10),
            last_known: Duration::from_secs(60 * 60),
        }
    }
}

/// Authentication methods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AuthMethod {
    /// Everybody is who they say.
    Trust,
    /// md5 or, when the stored secret is a SCRAM verifier, SCRAM.
    Md5,
    /// SCRAM-SHA-256, and -PLUS over TLS.
    ScramSha256,
    /// The client certificate's common name is the user.
    Cert,
}

/// Pools of backend connections.
#[derive(Debug, Clone, PartialEq)]
pub struct Pool {
    /// `mode`. Default: transaction.
    pub mode: PoolMode,
    /// `size`: connections per (user, database, node). Default: 20.
    pub size: usize,
    /// `min_idle`: kept open per pool once it has been used. Default: 0.
    pub min_idle: usize,
    /// `wait`: how long a request waits for a connection before `53300`. Default: 30 s.
    pub wait: Duration,
    /// `max_lifetime` of a connection, jittered by a tenth. Default: 1 h.
    pub max_lifetime: Duration,
    /// `idle`: an unused connection is closed after this. Default: 10 min.
    pub idle: Duration,
    /// `statements`: prepared statements kept on one connection. Default: 256.
    pub statements: usize,
    /// `combine_size`: connections per (user, database) to the home shard's primary on which gathered rows are combined. Default: 4.
    pub combine_size: usize,
}

impl Default for Pool {
    fn default() -> Self {
        Self {
            mode: PoolMode::Transaction,
            size: 20,
            min_idle: 0,
            wait: Duration::from_secs(30),
            max_lifetime: Duration::from_secs(60 * 60),
            idle: Duration::from_secs(10 * 60),
            statements: 256,
            combine_size: 4,
        }
    }
}

/// Pool modes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PoolMode {
    /// A connection is lent for a transaction.
    Transaction,
    /// A connection is lent for the session.
    Session,
}

/// Towards PostgreSQL.
#[derive(Debug, Clone, PartialEq)]
pub struct Backend {
    /// `connect_timeout`, TCP, TLS and login together. Default: 5 s.
    pub connect_timeout: Duration,
    /// `tls`. Default: off.
    pub tls: BackendTls,
    /// `tls_ca`, PEM, for `verify-ca` and `verify-full`.
    pub tls_ca: Option<PathBuf>,
    /// `passwords_file`: lines `"user" "password"` for users whose secret cannot be passed through.
    pub passwords_file: Option<PathBuf>,
    /// `health_interval` between checks of role, timeline and lag of each node. Default: 500 ms.
    pub health_interval: Duration,
    /// `primary_wait`: how long a statement waits for its shard to have a primary before `57P03`. Default: 10 s.
    pub primary_wait: Duration,
    /// `cancel_wait`: a statement that goes on for so long after a cancel request is given up (`08006`). Default: 10 s.
    pub cancel_wait: Duration,
}

impl Default for Backend {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            tls: BackendTls::Off,
            tls_ca: None,
            passwords_file: None,
            health_interval: Duration::from_millis(500),
            primary_wait: Duration::from_secs(10),
            cancel_wait: Duration::from_secs(10),
        }
    }
}

/// TLS towards PostgreSQL.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BackendTls {
    /// Plain.
    Off,
    /// If the server offers it, unverified.
    Prefer,
    /// Required, unverified.
    Require,
    /// Required, chain verified.
    VerifyCa,
    /// Required, chain and host name verified.
    VerifyFull,
}

/// Limits; each says what happens when it is hit.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// `clients`: sessions at once; more get `53300`. Default: 10000.
    pub clients: usize,
    /// `login`: time from accept to logged in; then closed. Default: 15 s.
    pub login: Duration,
    /// `client_idle`: an idle session outside of a transaction is ended (`57P05`); 0: never. Default: 0.
    pub client_idle: Duration,
    /// `message_bytes`: a Query, Parse or Bind above it is refused (`54000`) and the session ended. Default: 256 MiB.
    pub message_bytes: usize,
    /// `statement_parse_bytes`: longer SQL is not parsed but treated as unreadable. Default: 1 MiB.
    pub statement_parse_bytes: usize,
    /// `facts`: statements whose facts are cached. Default: 10000.
    pub facts: usize,
    /// `session_statements`: named prepared statements of one session (`54000` above). Default: 10000.
    pub session_statements: usize,
    /// `drain`: how long SIGTERM waits for running transactions. Default: 30 s.
    pub drain: Duration,
    /// `deadlock`: a wait over several shards after which deadlocks are looked for (`40P01`); 0: never. Default: 1 s.
    pub deadlock: Duration,
    /// `lock_wait_over_shards`: a wait in what seems to be a deadlock through another proxy (`40P01`); 0: for ever. Default: 10 s.
    pub lock_wait_over_shards: Duration,
    /// `copy_buffer_bytes` per shard of a split COPY before the client is made to wait. Default: 1 MiB.
    pub copy_buffer_bytes: usize,
    /// `combine_max_bytes` that one query may gather in one place from the shards (`53400` above). Default: 256 MiB.
    pub combine_max_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            clients: 10_000,
            login: Duration::from_secs(15),
            client_idle: Duration::ZERO,
            message_bytes: 256 << 20,
            statement_parse_bytes: 1 << 20,
            facts: 10_000,
            session_statements: 10_000,
            drain: Duration::from_secs(30),
            deadlock: Duration::from_secs(1),
            lock_wait_over_shards: Duration::from_secs(10),
            copy_buffer_bytes: 1 << 20,
            combine_max_bytes: 256 << 20,
        }
    }
}

/// How statements are placed.
#[derive(Debug, Clone, PartialEq)]
pub struct Routing {
    /// `reads`. Default: replica.
    pub reads: Reads,
    /// `max_replica_lag`: a replica behind by more gets no reads. Default: 5 s.
    pub max_replica_lag: Duration,
    /// `two_phase`: writes to several shards; off: the second writing shard is refused. Default: true.
    pub two_phase: bool,
    /// `unique_without_key`. Default: generated.
    pub unique_without_key: UniqueWithoutKey,
}

impl Default for Routing {
    fn default() -> Self {
        Self {
            reads: Reads::Replica,
            max_replica_lag: Duration::from_secs(5),
            two_phase: true,
            unique_without_key: UniqueWithoutKey::Generated,
        }
    }
}

/// Where reads go.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reads {
    /// Always the primary.
    Primary,
    /// A fit replica if there is one.
    Replica,
}

/// What happens to UNIQUE constraints that do not contain the shard key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum UniqueWithoutKey {
    /// Refused.
    Refuse,
    /// Refused, but where a column of it generates its values, which then collide nowhere.
    Generated,
    /// Accepted, with a notice: unique on each shard.
    PerShard,
}

/// Logs.
#[derive(Debug, Clone, PartialEq)]
pub struct Log {
    /// `level`: a level, or a list like `info,proxy::backend=debug`. Default: info.
    pub level: String,
    /// `json`. Default: false.
    pub json: bool,
    /// `slow_statement`: slower ones are logged; 0: none. Default: 100 ms.
    pub slow_statement: Duration,
    /// `literals`: show them in logs. Default: false.
    pub literals: bool,
}

impl Default for Log {
    fn default() -> Self {
        Self {
            level: "info".to_owned(),
            json: false,
            slow_statement: Duration::from_millis(100),
            literals: false,
        }
    }
}

/// The admin console.
#[derive(Debug, Clone, PartialEq)]
pub struct Admin {
    /// `database`, the name that psql connects to. Default: gavel_admin.
    pub database: String,
    /// `users` that may. Default: ["postgres"].
    pub users: Vec<String>,
}

impl Default for Admin {
    fn default() -> Self {
        Self { database: "gavel_admin".to_owned(), users: vec!["postgres".to_owned()] }
    }
}

/// A database that applications name.
#[derive(Debug, Clone, PartialEq)]
pub struct Database {
    /// `name`, or `*` for any other.
    pub name: String,
    /// `backend_name` on the nodes; `None`: the same.
    pub backend_name: Option<String>,
    /// Where it is.
    pub kind: DatabaseKind,
    /// `pool_mode` of its own.
    pub pool_mode: Option<PoolMode>,
    /// `pool_size` of its own.
    pub pool_size: Option<usize>,
}

/// Kind of a database.
#[derive(Debug, Clone, PartialEq)]
pub enum DatabaseKind {
    /// On all shards, statements are routed.
    Sharded,
    /// On the first shard only: everything passes through to it (its replicas serve nothing).
    FirstShard,
    /// Passed through to one node.
    Node(NodeAddress),
}
