//! SHOW CONFIG: every setting with its value and its default, secrets masked.
//!
//! The sections are taken apart whole, so that a new setting does not compile until it is shown.

use std::fmt::Debug;
use std::path::PathBuf;
use std::time::Duration;

use router_config::settings::{Admin, Auth, Backend, Database, Limits, Listen, Log, Pool, Routing, Settings};

/// What stands for a secret.
const MASK: &str = "********";

/// Name and value of a setting.
type Shown = (&'static str, String);

/// Name, value and default of every setting, in the order of the configuration file.
pub(super) fn rows(settings: &Settings) -> Vec<[String; 3]> {
    let defaults = shown(&Settings::default());
    let rows = shown(settings).into_iter().zip(defaults);
    let mut rows: Vec<[String; 3]> =
        rows.map(|((name, value), (_, default))| [name.to_owned(), value, default]).collect();
    for (index, database) in settings.databases.iter().enumerate() {
        let row = |name: &str, value| [format!("databases[{}].{name}", index + 1), value, String::new()];
        let Database { name, backend_name, kind, pool_mode, pool_size } = database;
        rows.push(row("name", name.clone()));
        rows.push(row("backend_name", backend_name.clone().unwrap_or_default()));
        rows.push(row("kind", word(kind)));
        rows.push(row("pool_mode", pool_mode.as_ref().map(word).unwrap_or_default()));
        rows.push(row("pool_size", pool_size.map(|size| size.to_string()).unwrap_or_default()));
    }
    rows
}

fn shown(settings: &Settings) -> Vec<Shown> {
    let Settings { listen, auth, pool, backend, limits, routing, log, admin, databases: _ } = settings;
    let sections = [
        of_listen(listen),
        of_auth(auth),
        of_pool(pool),
        of_backend(backend),
        of_limits(limits),
        of_routing(routing),
    ];
    let Log { level, json, slow_statement, literals } = log;
    let Admin { database, users } = admin;
    let rest = vec![
        ("log.level", level.clone()),
        ("log.json", json.to_string()),
        ("log.slow_statement", time(*slow_statement)),
        ("log.literals", literals.to_string()),
        ("admin.database", database.clone()),
        ("admin.users", users.join(", ")),
    ];
    sections.into_iter().flatten().chain(rest).collect()
}

fn of_listen(listen: &Listen) -> Vec<Shown> {
    let Listen { address, metrics, threads, backlog, peers, tls, tls_certificate, tls_key, tls_client_ca } =
        listen;
    vec![
        ("listen.address", address.clone()),
        ("listen.metrics", metrics.clone().unwrap_or_default()),
        ("listen.threads", threads.to_string()),
        ("listen.backlog", backlog.to_string()),
        ("listen.peers", peers.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")),
        ("listen.tls", word(tls)),
        ("listen.tls_certificate", path(tls_certificate.as_ref())),
        ("listen.tls_key", path(tls_key.as_ref())),
        ("listen.tls_client_ca", path(tls_client_ca.as_ref())),
    ]
}

fn of_auth(auth: &Auth) -> Vec<Shown> {
    let Auth { method, users_file, query, query_user, query_password, query_database, .. } = auth;
    let Auth { cache, last_known, .. } = auth;
    vec![
        ("auth.method", word(method)),
        ("auth.users_file", path(users_file.as_ref())),
        ("auth.query", query.clone()),
        ("auth.query_user", query_user.clone()),
        ("auth.query_password", query_password.as_ref().map(|_| MASK.to_owned()).unwrap_or_default()),
        ("auth.query_database", query_database.clone()),
        ("auth.cache", time(*cache)),
        ("auth.last_known", time(*last_known)),
    ]
}

fn of_pool(pool: &Pool) -> Vec<Shown> {
    let Pool { mode, size, min_idle, wait, max_lifetime, idle, statements, combine_size } = pool;
    vec![
        ("pool.mode", word(mode)),
        ("pool.size", size.to_string()),
        ("pool.min_idle", min_idle.to_string()),
        ("pool.wait", time(*wait)),
        ("pool.max_lifetime", time(*max_lifetime)),
        ("pool.idle", time(*idle)),
        ("pool.statements", statements.to_string()),
        ("pool.combine_size", combine_size.to_string()),
    ]
}

fn of_backend(backend: &Backend) -> Vec<Shown> {
    let Backend { connect_timeout, tls, tls_ca, passwords_file, .. } = backend;
    let Backend { health_interval, primary_wait, cancel_wait, .. } = backend;
    vec![
        ("backend.connect_timeout", time(*connect_timeout)),
        ("backend.tls", word(tls)),
        ("backend.tls_ca", path(tls_ca.as_ref())),
        ("backend.passwords_file", path(passwords_file.as_ref())),
        ("backend.health_interval", time(*health_interval)),
        ("backend.primary_wait", time(*primary_wait)),
        ("backend.cancel_wait", time(*cancel_wait)),
    ]
}

fn of_limits(limits: &Limits) -> Vec<Shown> {
    let Limits {
        clients,
        login,
        client_idle,
        message_bytes,
        statement_parse_bytes,
        facts,
        session_statements,
        drain,
        deadlock,
        lock_wait_over_shards,
        copy_buffer_bytes,
        combine_max_bytes,
    } = limits;
    vec![
        ("limits.clients", clients.to_string()),
        ("limits.login", time(*login)),
        ("limits.client_idle", time(*client_idle)),
        ("limits.message_bytes", message_bytes.to_string()),
        ("limits.statement_parse_bytes", statement_parse_bytes.to_string()),
        ("limits.facts", facts.to_string()),
        ("limits.session_statements", session_statements.to_string()),
        ("limits.drain", time(*drain)),
        ("limits.deadlock", time(*deadlock)),
        ("limits.lock_wait_over_shards", time(*lock_wait_over_shards)),
        ("limits.copy_buffer_bytes", copy_buffer_bytes.to_string()),
        ("limits.combine_max_bytes", combine_max_bytes.to_string()),
    ]
}

fn of_routing(routing: &Routing) -> Vec<Shown> {
    let Routing { reads, max_replica_lag, two_phase, unique_without_key } = routing;
    vec![
        ("routing.reads", word(reads)),
        ("routing.max_replica_lag", time(*max_replica_lag)),
        ("routing.two_phase", two_phase.to_string()),
        ("routing.unique_without_key", word(unique_without_key)),
    ]
}

fn path(path: Option<&PathBuf>) -> String {
    path.map(|path| path.display().to_string()).unwrap_or_default()
}

/// As the configuration file spells durations.
fn time(time: Duration) -> String {
    match time.as_millis() {
        0 => "0".to_owned(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}min", ms / 60_000),
        ms if ms % 1000 == 0 => format!("{}s", ms / 1000),
        ms => format!("{ms}ms"),
    }
}

/// A variant as the configuration file spells it: `ScramSha256` is `scram-sha-256`, `PerShard` is `per_shard`.
fn word(variant: &impl Debug) -> String {
    let name = format!("{variant:?}");
    match name.as_str() {
        "ScramSha256" => return "scram-sha-256".to_owned(),
        "VerifyCa" => return "verify-ca".to_owned(),
        "VerifyFull" => return "verify-full".to_owned(),
        _ => {}
    }
    let name = name.split(['(', ' ']).next().unwrap_or_default();
    let mut out = String::new();
    for c in name.chars() {
        if c.is_ascii_uppercase() && !out.is_empty() {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_masked_and_values_are_spelled_as_in_the_file() {
        let mut settings = Settings::default();
        settings.auth.query_password = Some("a secret".to_owned());
        settings.pool.wait = Duration::from_millis(1500);
        settings.databases.push(Database {
            name: "auction".to_owned(),
            backend_name: None,
            kind: router_config::settings::DatabaseKind::Sharded,
            pool_mode: None,
            pool_size: None,
        });
        let rows = rows(&settings);
        let value =
            |name: &str| rows.iter().find(|row| row[0] == name).map(|row| (row[1].as_str(), row[2].as_str()));
        assert_eq!(value("auth.query_password"), Some((MASK, "")));
        assert_eq!(value("pool.wait"), Some(("1500ms", "30s")));
        assert_eq!(value("databases[1].name"), Some(("auction", "")), "counted as --check counts");
        assert_eq!(value("pool.max_lifetime"), Some(("1h", "1h")));
        assert_eq!(value("auth.method"), Some(("scram-sha-256", "scram-sha-256")));
        assert_eq!(value("routing.unique_without_key"), Some(("generated", "generated")));
        assert!(!rows.iter().flatten().any(|cell| cell.contains("a secret")));
    }
}
