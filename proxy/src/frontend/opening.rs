//! The beginning of a session: from a login to its state, its settings and what the application is told of them.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{BufMut, BytesMut};
use router_config::settings::{Database, DatabaseKind, PoolMode};
use router_config::topology::ShardId;
use smallvec::SmallVec;

use super::failure::Failure;
use super::handshake::Login;
use super::io::ClientIo;
use super::rejected::{self, without_values};
use super::repeat::Repeat;
use super::session::{Session, Who};
use crate::backend::conn::Events;
use crate::backend::connect::BackendLogin;
use crate::backend::gucs::{Gucs, value_sql};
use crate::wire::error::Report;
use crate::wire::startup::Claim;
use crate::wire::{backend, reply, sqlstate};
use crate::worker::{Welcome, Worker};

/// The session of a login, with ParameterStatus in its output; `None` when it could not be had (the application was told).
pub(super) async fn open(login: Login, worker: Arc<Worker>, peer: SocketAddr) -> Option<Box<Session>> {
    let settings = worker.shared.settings.load_full();
    let entry = settings.database(&login.database).cloned();
    let max_frame = settings.limits.message_bytes;
    let mut io = ClientIo::new(login.stream, login.leftover, max_frame);
    io.out = login.out;
    let claim = Claim { user: login.user.clone(), database: login.database.clone() };
    let Some(entry) = entry else {
        let message = format!("database \"{}\" is not configured", login.database);
        Report::fatal(sqlstate::INVALID_CATALOG_NAME, &message)
            .hint("Add it to [[databases]], or an entry with name = \"*\".")
            .write(&mut io.out);
        let _ = io.flush().await;
        failed(&worker, (&claim, peer), (sqlstate::INVALID_CATALOG_NAME, &message));
        return None;
    };
    if let Some((sqlstate, message)) = misplaced(&login.user, &login.parameters) {
        Report::fatal(sqlstate, &message).write(&mut io.out);
        let _ = io.flush().await;
        failed(&worker, (&claim, peer), (sqlstate, &without_values(&message, &[&claim.user])));
        return None;
    }
    let who = who(&login.user, &login.database, login.credentials, &entry, settings.pool.mode);
    worker.shared.connect.load().learn(&who.login);
    let (who, gucs) = (worker.whos.share(who), Gucs::of(startup_gucs(&login.parameters)));
    let gucs = worker.gucs.share(gucs);
    let mut session = Box::new(Session::new(io, worker, who, gucs));
    match session.welcome().await {
        Ok(()) => Some(session),
        Err(failure) => {
            let (code, why) = (failure.sqlstate(), reason(&failure, &claim, &session.startup_gucs));
            let mut told = BytesMut::new();
            if failure.report(&mut told).is_ok() {
                session.io.out.extend_from_slice(&as_fatal(&told));
                let _ = session.io.flush().await;
            }
            let worker = Arc::clone(&session.worker);
            drop(session);
            failed(&worker, (&claim, peer), (&code, &why));
            None
        }
    }
}

/// Counts a login that came to nothing; the pool of a name that was tried goes with it.
fn failed(worker: &Worker, whose: (&Claim, SocketAddr), told: (&str, &str)) {
    rejected::note(&worker.shared.metrics, whose, told);
    worker.pools.sweep();
}

/// Why there is no session, for the log. What is rejected or refused by its value is a setting of the login.
fn reason(failure: &Failure, claim: &Claim, settings: &Gucs) -> String {
    let message = match failure {
        Failure::Server(frame) => backend::error_field(frame.get(5..).unwrap_or_default(), b'M')
            .map_or_else(String::new, |message| String::from_utf8_lossy(message).into_owned()),
        Failure::Refused(refusal) if refusal.sqlstate == sqlstate::INVALID_PARAMETER_VALUE => {
            refusal.message.clone()
        }
        Failure::Refused(_) | Failure::Lost { .. } | Failure::Lease { .. } | Failure::Client(_) => {
            return failure.to_string();
        }
    };
    let names = settings.iter().map(|(name, _)| name).chain([claim.user.as_str(), claim.database.as_str()]);
    let names: Vec<&str> = names.collect();
    without_values(&message, &names)
}

fn who(
    user: &str,
    database: &str,
    credentials: crate::backend::connect::Credentials,
    entry: &Database,
    mode: PoolMode,
) -> Who {
    let backend_database = entry.backend_name.clone().unwrap_or_else(|| database.to_owned());
    Who {
        user: user.to_owned(),
        database: database.to_owned(),
        kind: entry.kind.clone(),
        mode: entry.pool_mode.unwrap_or(mode),
        login: BackendLogin {
            user: user.into(),
            database: backend_database.as_str().into(),
            credentials,
            parameters: Vec::new(),
        },
        backend_database,
    }
}

/// Parameters that are about the login and its own transaction: what is not refused of them ([`misplaced`]) has no effect.
const OF_THE_LOGIN: [&str; 4] =
    ["session_authorization", "transaction_isolation", "transaction_deferrable", "transaction_read_only"];

/// Why parameters of a login are refused that PostgreSQL refuses: SQLSTATE and message.
fn misplaced(user: &str, parameters: &[(String, String)]) -> Option<(&'static str, String)> {
    parameters.iter().find_map(|(name, value)| {
        let too_late = |what| {
            let message = format!("SET TRANSACTION {what} must be called before any query");
            Some((sqlstate::ACTIVE_SQL_TRANSACTION, message))
        };
        match name.to_ascii_lowercase().as_str() {
            "session_authorization" if value != user => {
                let message = format!("permission denied to set session authorization \"{value}\"");
                Some((sqlstate::INSUFFICIENT_PRIVILEGE, message))
            }
            "transaction_isolation" if !value.eq_ignore_ascii_case("read committed") => {
                too_late("ISOLATION LEVEL")
            }
            "transaction_deferrable" => too_late("[NOT] DEFERRABLE"),
            _ => None,
        }
    })
}

/// Startup parameters as settings to replay: values are strings, lists of names are spelled as lists.
fn startup_gucs(parameters: &[(String, String)]) -> BTreeMap<String, String> {
    let mut values = BTreeMap::new();
    let followed =
        |name: &str| OF_THE_LOGIN.iter().all(|of_the_login| !name.eq_ignore_ascii_case(of_the_login));
    for (name, value) in parameters.iter().filter(|(name, _)| followed(name)) {
        let name = name.to_lowercase();
        let sql = value_sql(&name, value);
        values.insert(name, sql);
    }
    values
}

/// An ErrorResponse with severity FATAL in place of ERROR: at login there is no session to go on with.
fn as_fatal(frame: &[u8]) -> BytesMut {
    let mut out = BytesMut::new();
    reply::frame(&mut out, crate::wire::backend::tag::ERROR, |b| {
        for (kind, value) in crate::wire::error::fields(frame.get(5..).unwrap_or_default()) {
            b.put_u8(kind);
            b.put_slice(if matches!(kind, b'S' | b'V') { b"FATAL" } else { value });
            b.put_u8(0);
        }
        b.put_u8(0);
    });
    out
}

impl Session {
    fn new(io: ClientIo, worker: Arc<Worker>, who: Arc<Who>, gucs: Arc<Gucs>) -> Self {
        let visible = Arc::clone(&io.visible);
        let events = Events { verdict: Some(Arc::clone(&visible.verdict)), ..Events::default() };
        Self {
            io,
            pools: SmallVec::new(),
            pools_generation: 0,
            worker,
            who,
            startup_gucs: Arc::clone(&gucs),
            read_only: false,
            repeat: Repeat::default(),
            gucs,
            names: super::names::Names::default(),
            block: None,
            held: SmallVec::new(),
            kept: Vec::new(),
            pins: super::pins::Pins::default(),
            draws: super::draws::Draws::default(),
            listening: None,
            temp_tables: false,
            temporary: super::temporary_tables::TemporaryTables::default(),
            hints: super::hints::Hints::default(),
            context: None,
            changes: super::own_catalog::CatalogChanges::default(),
            pending: Vec::new(),
            sent: 0,
            spread: rand::random(),
            events,
            reported: Arc::default(),
            tag_at: usize::MAX,
            catalog: None,
            pipeline: super::pipeline::PipelineState::default(),
            watch: super::watch::Watch::default(),
        }
    }

    /// What ALTER ROLE … SET and ALTER DATABASE … SET say that the planner reads, as settings of the session's own: conns that were
    /// opened before do not have it.
    fn take_role_settings(&mut self) {
        const READ: [&str; 4] = [
            "search_path",
            "standard_conforming_strings",
            "client_encoding",
            "default_transaction_isolation",
        ];
        let schema = self.schema();
        for name in READ {
            if let (None, Some(value)) = (self.gucs.get(name), schema.role_setting(&self.who.user, name)) {
                self.gucs = self.gucs.with(name, Some(&value_sql(name, value)));
            }
        }
        self.startup_gucs = Arc::clone(&self.gucs);
    }

    /// What the application is told at login: the settings as its own would be reported by a server.
    async fn welcome(&mut self) -> Result<(), Failure> {
        if matches!(self.who.kind, DatabaseKind::Sharded) {
            let catalog = self.worker.shared.control.catalog(&self.who.backend_database).await;
            self.catalog = Some(catalog.map_err(|error| {
                Failure::error(
                    sqlstate::CANNOT_CONNECT_NOW,
                    format!("the catalog could not be read: {error}"),
                )
            })?);
            self.take_role_settings();
            self.take_login_hints()?;
        }
        let key = (self.who.user.clone(), self.who.database.clone(), self.gucs.fingerprint());
        let welcome = match self.worker.shared.welcome(&key) {
            Some(welcome) => welcome,
            None => {
                // Any shard will do: one that is down keeps nobody out.
                let sharded = matches!(self.who.kind, DatabaseKind::Sharded);
                let nodes = self.worker.shared.nodes();
                let shard = if sharded { nodes.first_with_primary() } else { ShardId(0) };
                let at = self.acquire(shard, false).await?;
                let values = self.held[at].lease.parameters.clone();
                self.events.parameters.clear();
                self.settle();
                let mut frames = BytesMut::new();
                for (name, value) in &values {
                    reply::parameter_status(&mut frames, name, value);
                }
                let welcome = Welcome { values: Arc::new(values), frames: frames.freeze() };
                self.worker.shared.set_welcome(key, welcome.clone());
                welcome
            }
        };
        self.io.out.extend_from_slice(&welcome.frames);
        self.reported = welcome.values;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parameters_of_the_login_itself_are_refused_or_have_no_effect() {
        let given = |name: &str, value: &str| vec![(name.to_owned(), value.to_owned())];
        for (name, value, expected) in [
            ("session_authorization", "bo", Some("42501")),
            ("Session_Authorization", "al", None),
            ("transaction_isolation", "serializable", Some("25001")),
            ("transaction_isolation", "READ committed", None),
            ("TRANSACTION_DEFERRABLE", "off", Some("25001")),
            ("transaction_read_only", "on", None),
        ] {
            let parameters = given(name, value);
            assert_eq!(misplaced("al", &parameters).map(|(state, _)| state), expected, "{name}={value}");
            assert!(startup_gucs(&parameters).is_empty(), "{name}={value}");
        }
        let other = given("default_transaction_isolation", "serializable");
        assert_eq!((misplaced("al", &other), startup_gucs(&other).len()), (None, 1));
    }
}
