//! The sections of the file that become [`Settings`]: one function per section, one line per setting.

use super::address::{self, Whose};
use super::reader::Section;
use crate::settings::{
    Admin, Auth, AuthMethod, Backend, BackendTls, Database, DatabaseKind, Limits, Listen, ListenTls, Log,
    Pool, PoolMode, Reads, Routing, Settings, UniqueWithoutKey,
};

/// A connection pool larger than any server allows.
const MAX_POOL: u64 = 10_000;
/// Counts of things kept in memory.
const MAX_COUNT: u64 = 10_000_000;
/// PostgreSQL's own limit of a message.
const MAX_MESSAGE: u64 = 0x3fff_ffff;

/// Rows of other shards that one query may gather, bytes: 1 TiB.
const MAX_COMBINED: u64 = 1 << 40;

/// Reads all sections of settings; the root's other keys are left to the caller.
pub(super) fn settings(root: &mut Section<'_, '_>) -> Settings {
    let listen = listen(root.section("listen"));
    let auth = auth(root.section("auth"));
    let pool = pool(root.section("pool"));
    let databases = databases(root, pool.min_idle);
    let settings = Settings {
        listen,
        auth,
        pool,
        backend: backend(root.section("backend")),
        limits: limits(root.section("limits")),
        routing: routing(root.section("routing")),
        log: log(root.section("log")),
        admin: admin(root.section("admin")),
        databases,
    };
    check_together(root, &settings);
    settings
}

fn listen(mut section: Section<'_, '_>) -> Listen {
    let mut listen = Listen::default();
    if let Some(address) = section.address("address", Whose::Proxy) {
        listen.address = address.to_string();
    }
    listen.metrics = section.address("metrics", Whose::Proxy).map(|address| address.to_string());
    section.count("threads", &mut listen.threads, 0..=1024);
    if let Some(backlog) = section.number("backlog", 1..=65_535).and_then(|n| u32::try_from(n).ok()) {
        listen.backlog = backlog;
    }
    let peers = section.strings("peers").unwrap_or_default();
    let peer = |(text, span): &(String, _)| section.address_in("peers", Whose::Proxy, (text, span));
    listen.peers = peers.iter().filter_map(peer).collect();
    let choices = [("off", ListenTls::Off), ("allow", ListenTls::Allow), ("require", ListenTls::Require)];
    listen.tls = section.choice("tls", &choices).unwrap_or(listen.tls);
    listen.tls_certificate = section.file("tls_certificate");
    listen.tls_key = section.file("tls_key");
    listen.tls_client_ca = section.file("tls_client_ca");
    for key in ["tls_certificate", "tls_key"] {
        if listen.tls != ListenTls::Off && !section.has(key) {
            section.mistake(
                "tls",
                format!("needs {key}"),
                format!("add {key} = \"FILE.pem\", or write tls = \"off\""),
            );
        }
        if listen.tls == ListenTls::Off && section.has(key) && !section.has("tls") {
            section.mistake(key, "is given, but tls is off", "add tls = \"allow\" or tls = \"require\"");
        }
    }
    if listen.metrics.as_ref().is_some_and(|metrics| same_place(&listen.address, metrics)) {
        let message = format!("is part of the address that applications use, {}", listen.address);
        section.mistake("metrics", message, "choose another port");
    }
    section.finish();
    listen
}

fn same_place(a: &str, b: &str) -> bool {
    let (Ok(a), Ok(b)) = (a.parse(), b.parse()) else { return false };
    address::takes(&a, &b) || address::takes(&b, &a)
}

fn auth(mut section: Section<'_, '_>) -> Auth {
    let mut auth = Auth::default();
    let choices = [
        ("trust", AuthMethod::Trust),
        ("md5", AuthMethod::Md5),
        ("scram-sha-256", AuthMethod::ScramSha256),
        ("cert", AuthMethod::Cert),
    ];
    auth.method = section.choice("method", &choices).unwrap_or(auth.method);
    auth.users_file = section.file("users_file");
    auth.query = section.string("query").unwrap_or(auth.query);
    auth.query_user = section.name("query_user").unwrap_or(auth.query_user);
    auth.query_password = section.secret(["query_password", "query_password_file", "query_password_env"]);
    auth.query_database = section.name("query_database").unwrap_or(auth.query_database);
    section.duration("cache", &mut auth.cache);
    section.duration("last_known", &mut auth.last_known);
    if !auth.query.is_empty() && !auth.query.contains("$1") {
        section.mistake(
            "query",
            "has no $1",
            "write $1 where the name of the user belongs, or \"\" for no look-up",
        );
    }
    let by_secret = matches!(auth.method, AuthMethod::Md5 | AuthMethod::ScramSha256);
    if by_secret && auth.query.is_empty() && !section.has("users_file") {
        section.mistake(
            "query",
            "is empty and there is no users_file: nobody could log in",
            "give one of them",
        );
    }
    section.finish();
    auth
}

const POOL_MODES: [(&str, PoolMode); 2] =
    [("transaction", PoolMode::Transaction), ("session", PoolMode::Session)];

fn pool(mut section: Section<'_, '_>) -> Pool {
    let mut pool = Pool::default();
    pool.mode = section.choice("mode", &POOL_MODES).unwrap_or(pool.mode);
    section.count("size", &mut pool.size, 1..=MAX_POOL);
    section.count("min_idle", &mut pool.min_idle, 0..=MAX_POOL);
    section.duration("wait", &mut pool.wait);
    if pool.wait.is_zero() {
        section.mistake(
            "wait",
            "is 0: whoever finds no connection free would fail at once",
            "write at least 1ms",
        );
    }
    section.duration("max_lifetime", &mut pool.max_lifetime);
    section.duration("idle", &mut pool.idle);
    section.count("statements", &mut pool.statements, 1..=MAX_COUNT);
    section.count("combine_size", &mut pool.combine_size, 1..=10_000);
    if pool.min_idle > pool.size {
        let message = format!("{} is more than the pool's size of {}", pool.min_idle, pool.size);
        section.mistake("min_idle", message, "lower min_idle or raise size");
    }
    section.finish();
    pool
}

fn backend(mut section: Section<'_, '_>) -> Backend {
    let mut backend = Backend::default();
    section.duration("connect_timeout", &mut backend.connect_timeout);
    let choices = [
        ("off", BackendTls::Off),
        ("prefer", BackendTls::Prefer),
        ("require", BackendTls::Require),
        ("verify-ca", BackendTls::VerifyCa),
        ("verify-full", BackendTls::VerifyFull),
    ];
    backend.tls = section.choice("tls", &choices).unwrap_or(backend.tls);
    backend.tls_ca = section.file("tls_ca");
    backend.passwords_file = section.file("passwords_file");
    section.duration("health_interval", &mut backend.health_interval);
    section.duration("primary_wait", &mut backend.primary_wait);
    section.duration("cancel_wait", &mut backend.cancel_wait);
    let verifies = matches!(backend.tls, BackendTls::VerifyCa | BackendTls::VerifyFull);
    if verifies && !section.has("tls_ca") {
        section.mistake("tls", "needs tls_ca", "add tls_ca = \"FILE.pem\" with the certificates to trust");
    }
    for (key, duration) in
        [("connect_timeout", backend.connect_timeout), ("health_interval", backend.health_interval)]
    {
        if duration.is_zero() {
            section.mistake(key, "may not be zero", "write a duration like \"500ms\"");
        }
    }
    section.finish();
    backend
}

fn limits(mut section: Section<'_, '_>) -> Limits {
    let mut limits = Limits::default();
    section.count("clients", &mut limits.clients, 1..=1_000_000);
    section.duration("login", &mut limits.login);
    section.duration("client_idle", &mut limits.client_idle);
    section.bytes("message_bytes", &mut limits.message_bytes, 8_192..=MAX_MESSAGE);
    section.bytes("statement_parse_bytes", &mut limits.statement_parse_bytes, 1_024..=MAX_MESSAGE);
    section.count("facts", &mut limits.facts, 16..=MAX_COUNT);
    section.count("session_statements", &mut limits.session_statements, 1..=MAX_COUNT);
    section.duration("drain", &mut limits.drain);
    section.duration("deadlock", &mut limits.deadlock);
    section.duration("lock_wait_over_shards", &mut limits.lock_wait_over_shards);
    section.bytes("copy_buffer_bytes", &mut limits.copy_buffer_bytes, 8_192..=MAX_MESSAGE);
    section.bytes("combine_max_bytes", &mut limits.combine_max_bytes, 8_192..=MAX_COMBINED);
    if limits.login.is_zero() {
        section.mistake("login", "may not be zero", "write a duration like \"15s\"");
    }
    let Limits { statement_parse_bytes, message_bytes, .. } = limits;
    if statement_parse_bytes > message_bytes {
        let (key, message, cure) = if section.has("statement_parse_bytes") {
            let message = format!("is more than message_bytes, which is {message_bytes}");
            ("statement_parse_bytes", message, "lower it or raise message_bytes")
        } else {
            let message =
                format!("is less than statement_parse_bytes, which is {statement_parse_bytes} by default");
            ("message_bytes", message, "raise it, or write a lower statement_parse_bytes too")
        };
        section.mistake(key, message, cure);
    }
    section.finish();
    limits
}

fn routing(mut section: Section<'_, '_>) -> Routing {
    let mut routing = Routing::default();
    let reads = [("primary", Reads::Primary), ("replica", Reads::Replica)];
    routing.reads = section.choice("reads", &reads).unwrap_or(routing.reads);
    section.duration("max_replica_lag", &mut routing.max_replica_lag);
    section.flag("two_phase", &mut routing.two_phase);
    let unique = [
        ("refuse", UniqueWithoutKey::Refuse),
        ("generated", UniqueWithoutKey::Generated),
        ("per_shard", UniqueWithoutKey::PerShard),
    ];
    routing.unique_without_key =
        section.choice("unique_without_key", &unique).unwrap_or(routing.unique_without_key);
    section.finish();
    routing
}

fn log(mut section: Section<'_, '_>) -> Log {
    let mut log = Log::default();
    log.level = section.log_filter("level").unwrap_or(log.level);
    section.flag("json", &mut log.json);
    section.duration("slow_statement", &mut log.slow_statement);
    section.flag("literals", &mut log.literals);
    section.finish();
    log
}

fn admin(mut section: Section<'_, '_>) -> Admin {
    let mut admin = Admin::default();
    admin.database = section.name("database").unwrap_or(admin.database);
    if let Some(users) = section.strings("users") {
        admin.users = users.into_iter().map(|(user, _)| user).collect();
    }
    section.finish();
    admin
}

#[derive(Clone, Copy)]
enum Where {
    Sharded,
    FirstShard,
    Node,
}

fn databases(root: &mut Section<'_, '_>, min_idle: usize) -> Vec<Database> {
    let sections = root.sections("databases");
    if sections.is_empty() && !root.has("databases") {
        let cure = "add [[databases]] with name = \"NAME\" (or \"*\" for any) and kind = \"sharded\"";
        root.missing("databases", cure);
    }
    let mut databases: Vec<Database> = Vec::new();
    for mut section in sections {
        let database = database(&mut section);
        if let Some(database) = database {
            if databases.iter().any(|earlier| earlier.name == "*" || earlier.name == database.name) {
                let message = format!("\"{}\" is never reached: an earlier entry matches it", database.name);
                section.mistake("name", message, "remove it or move it up: the first match wins");
            }
            if let Some(size) = database.pool_size.filter(|size| *size < min_idle) {
                let message = format!("{size} is less than pool.min_idle, which is {min_idle}");
                section.mistake("pool_size", message, "raise pool_size or lower min_idle in [pool]");
            }
            databases.push(database);
        }
        section.finish();
    }
    databases
}

fn database(section: &mut Section<'_, '_>) -> Option<Database> {
    let name = section.name("name");
    if !section.has("name") {
        section.missing("name", "add name = \"NAME\", or \"*\" for any other database");
    }
    let choices = [("sharded", Where::Sharded), ("first_shard", Where::FirstShard), ("node", Where::Node)];
    let place = section.choice("kind", &choices).unwrap_or(Where::Sharded);
    let node = section.address("node", Whose::Node);
    let kind = match (place, node) {
        (Where::Sharded, _) => DatabaseKind::Sharded,
        (Where::FirstShard, _) => DatabaseKind::FirstShard,
        (Where::Node, Some(node)) => DatabaseKind::Node(node),
        (Where::Node, None) => {
            if !section.has("node") {
                section.missing("node", "add node = \"host:port\"");
            }
            DatabaseKind::FirstShard
        }
    };
    if section.has("node") && !matches!(place, Where::Node) {
        section.mistake(
            "node",
            "is given, but kind is not \"node\"",
            "write kind = \"node\" or remove this line",
        );
    }
    let backend_name = section.name("backend_name");
    let pool_mode = section.choice("pool_mode", &POOL_MODES);
    let mut pool_size = Pool::default().size;
    section.count("pool_size", &mut pool_size, 1..=MAX_POOL);
    let pool_size = section.has("pool_size").then_some(pool_size);
    name.map(|name| Database { name, backend_name, kind, pool_mode, pool_size })
}

/// Mistakes that take two sections to see.
fn check_together(root: &Section<'_, '_>, settings: &Settings) {
    if settings.databases.iter().any(|database| database.name == settings.admin.database) {
        let message = format!("admin.database \"{}\" is also one of [[databases]]", settings.admin.database);
        root.mistake("admin", message, "give the console a name of its own");
    }
    if settings.auth.method == AuthMethod::Cert {
        if settings.listen.tls != ListenTls::Require {
            root.mistake("auth", "method \"cert\" needs TLS", "write tls = \"require\" in [listen]");
        }
        if settings.listen.tls_client_ca.is_none() {
            let cure = "add tls_client_ca = \"FILE.pem\" to [listen]";
            root.mistake("auth", "method \"cert\" needs the CA of client certificates", cure);
        }
    }
}
