//! The admin console: a database that psql and drivers connect to, which is the proxy itself.
//!
//! One login is served frame by frame, over the simple and the extended protocol. All columns are text (of which the
//! binary format is the same bytes). Invariants: every Query and Sync gets one ReadyForQuery; after an error everything up
//! to Sync is skipped; a console does not hold up the end of the process.

mod command;
mod config;
mod login;
pub mod scrape;
mod show;
mod topic;

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use tokio::time::{Duration, Instant};

use self::command::{Command, Value, parse};
use self::login::{Registered, welcome};
use self::show::{Row, full};
pub use self::topic::{Column, Topic};
use crate::frontend::handshake::Login;
use crate::frontend::io::{ClientError, ClientIo};
use crate::frontend::rejected;
use crate::frontend::visible::{Doing, Visible};
use crate::sql::normalise::split;
use crate::wire::backend::{Status, tag as backend};
use crate::wire::error::Report;
use crate::wire::frame::HEADER;
use crate::wire::frontend::{Bind, Execute, Named, Parse, tag};
use crate::wire::startup::Claim;
use crate::wire::{frontend, reply, sqlstate};
use crate::worker::{Phase, Shared};

/// Longest frame that the console reads, bytes.
const FRAME_BYTES: usize = 1 << 20;
/// How often PAUSE looks whether transactions still run.
const PAUSE_POLL: Duration = Duration::from_millis(20);

/// Serves a login to the console until it goes or the process ends.
pub async fn serve(login: Login, peer: SocketAddr, shared: &Arc<Shared>) {
    let settings = shared.settings.load_full();
    let registered = Registered::new(&login, &settings, peer, shared);
    let mut io = ClientIo::new(login.stream, login.leftover, FRAME_BYTES);
    io.out = login.out;
    if !settings.admin.users.contains(&login.user) {
        let message = format!("permission denied for the admin console: user \"{}\"", login.user);
        let claim = Claim { user: login.user, database: login.database };
        rejected::note(&shared.metrics, (&claim, peer), (sqlstate::INSUFFICIENT_PRIVILEGE, &message));
        Report::fatal(sqlstate::INSUFFICIENT_PRIVILEGE, &message)
            .hint("admin.users lists the users that may.")
            .write(&mut io.out);
        let _ = io.flush().await;
        return;
    }
    welcome(&mut io, registered.process);
    let mut console = Console {
        io,
        shared: Arc::clone(shared),
        user: login.user,
        database: login.database,
        status: Status::Idle,
        skipping: false,
        statements: HashMap::new(),
        portals: HashMap::new(),
        visible: Arc::clone(&registered.visible),
    };
    if let Err(ClientError::Frame(error)) = console.frames().await {
        Report::fatal(error.sqlstate(), &error.to_string()).write(&mut console.io.out);
        let _ = console.io.flush().await;
    }
}

/// A bound command; its rows once it has been executed in part.
struct Portal {
    command: Command,
    rows: Option<Vec<Row>>,
}

/// One console.
struct Console {
    io: ClientIo,
    shared: Arc<Shared>,
    user: String,
    database: String,
    status: Status,
    skipping: bool,
    statements: HashMap<Bytes, Command>,
    portals: HashMap<Bytes, Portal>,
    visible: Arc<Visible>,
}

/// What a command did.
enum Done {
    Rows(Vec<Row>),
    Said(&'static str),
    Empty,
}

/// An error of the console: SQLSTATE, message, hint.
struct Refused(&'static str, String, Option<String>);

impl From<command::Unknown> for Refused {
    fn from(unknown: command::Unknown) -> Self {
        let names: Vec<String> =
            Topic::ALL.iter().map(|topic| format!("SHOW {}", topic.name().to_uppercase())).collect();
        let hint = format!("The commands are {}, PAUSE, RESUME, RELOAD and DRAIN.", names.join(", "));
        Self(sqlstate::SYNTAX_ERROR, unknown.to_string(), Some(hint))
    }
}

impl From<crate::wire::frame::FrameError> for Refused {
    fn from(error: crate::wire::frame::FrameError) -> Self {
        Self(sqlstate::PROTOCOL_VIOLATION, error.to_string(), None)
    }
}

impl Console {
    async fn frames(&mut self) -> Result<(), ClientError> {
        let mut phase = self.shared.phase.subscribe();
        loop {
            while let Some(header) = self.io.header(0)? {
                if !frontend::known(header.tag) {
                    return Err(ClientError::Frame(crate::wire::frame::FrameError::Type { tag: header.tag }));
                }
                if self.io.read.len() < header.len {
                    break;
                }
                let body = self.io.read.split_to(header.len).freeze().slice(HEADER..);
                if header.tag == tag::TERMINATE {
                    return Ok(());
                }
                Box::pin(self.frame(header.tag, body)).await?;
            }
            self.io.flush().await?;
            if *phase.borrow_and_update() >= Phase::Draining {
                let message = "terminating connection due to administrator command";
                Report::fatal(sqlstate::ADMIN_SHUTDOWN, message).write(&mut self.io.out);
                return self.io.flush().await;
            }
            tokio::select! {
                more = more(&mut self.io) => more?,
                // The sender lives as long as the process.
                _ = phase.changed() => {}
            }
        }
    }

    async fn frame(&mut self, tag: u8, body: Bytes) -> Result<(), ClientError> {
        if tag == tag::SYNC {
            self.skipping = false;
            if self.status == Status::Idle {
                self.portals.clear();
            }
            reply::ready(&mut self.io.out, self.status);
            return Ok(());
        }
        if self.skipping {
            return Ok(());
        }
        match tag {
            tag::QUERY => {
                self.visible.verdict.requests.fetch_add(1, Ordering::Relaxed);
                let ran = match frontend::query(&body) {
                    Ok(text) => self.query(text).await,
                    // The frame's end is known: only this message is lost.
                    Err(error) => Err(error.into()),
                };
                if let Err(refused) = ran {
                    self.tell(&refused);
                }
                reply::ready(&mut self.io.out, self.status);
            }
            tag::FLUSH => self.io.flush().await?,
            tag::COPY_DATA | tag::COPY_DONE | tag::COPY_FAIL => {}
            tag::FUNCTION_CALL => {
                let message = "the admin console has no functions".to_owned();
                self.tell(&Refused(sqlstate::FEATURE_NOT_SUPPORTED, message, None));
                reply::ready(&mut self.io.out, self.status);
            }
            _ => {
                if let Err(refused) = self.extended(tag, &body).await {
                    self.skipping = true;
                    self.tell(&refused);
                }
            }
        }
        Ok(())
    }

    fn tell(&mut self, Refused(sqlstate, message, hint): &Refused) {
        self.shared.metrics.error(sqlstate);
        Report::error(sqlstate, message).hint(hint.as_deref()).write(&mut self.io.out);
    }

    /// All statements of a Query; the first error ends it.
    async fn query(&mut self, text: &[u8]) -> Result<(), Refused> {
        let ranges = split(text, true);
        if ranges.is_empty() {
            reply::bare(&mut self.io.out, backend::EMPTY_QUERY);
        }
        for range in ranges {
            let command = parse(&String::from_utf8_lossy(&text[range]))?;
            let done = self.run(&command).await?;
            if let Some(columns) = columns(&command) {
                describe(&mut self.io, &columns);
            }
            self.answer(&command, done);
        }
        Ok(())
    }

    /// Parse, Bind, Describe, Execute, Close.
    async fn extended(&mut self, tag: u8, body: &Bytes) -> Result<(), Refused> {
        match tag {
            tag::PARSE => {
                let message = Parse::read(body)?;
                let command = parse(&String::from_utf8_lossy(message.text))?;
                if !message.name.is_empty() && self.statements.contains_key(message.name) {
                    return Err(taken(sqlstate::DUPLICATE_STATEMENT, "prepared statement", message.name));
                }
                self.statements.insert(Bytes::copy_from_slice(message.name), command);
                reply::bare(&mut self.io.out, backend::PARSE_COMPLETE);
            }
            tag::BIND => {
                let message = Bind::read(body)?;
                let command = self.statements.get(message.statement).cloned();
                let command = command.ok_or_else(|| no_statement(message.statement))?;
                if !message.portal.is_empty() && self.portals.contains_key(message.portal) {
                    return Err(taken(sqlstate::DUPLICATE_CURSOR, "cursor", message.portal));
                }
                let portal = Portal { command, rows: None };
                self.portals.insert(Bytes::copy_from_slice(message.portal), portal);
                reply::bare(&mut self.io.out, backend::BIND_COMPLETE);
            }
            tag::DESCRIBE => self.describe(Named::read(tag, body)?)?,
            tag::EXECUTE => self.execute(Execute::read(body)?).await?,
            _ => {
                let message = Named::read(tag, body)?;
                if message.portal {
                    self.portals.remove(message.name);
                } else {
                    self.statements.remove(message.name);
                }
                reply::bare(&mut self.io.out, backend::CLOSE_COMPLETE);
            }
        }
        Ok(())
    }

    fn describe(&mut self, named: Named<'_>) -> Result<(), Refused> {
        let found = if named.portal {
            self.portals.get(named.name).map(|portal| &portal.command).ok_or_else(|| no_portal(named.name))
        } else {
            reply::frame(&mut self.io.out, backend::PARAMETER_DESCRIPTION, |b| b.extend_from_slice(&[0, 0]));
            self.statements.get(named.name).ok_or_else(|| no_statement(named.name))
        };
        match columns(found?) {
            Some(columns) => describe(&mut self.io, &columns),
            None => reply::bare(&mut self.io.out, backend::NO_DATA),
        }
        Ok(())
    }

    async fn execute(&mut self, execute: Execute<'_>) -> Result<(), Refused> {
        let name = Bytes::copy_from_slice(execute.portal);
        let portal = self.portals.remove(&name).ok_or_else(|| no_portal(&name))?;
        let done = match portal.rows {
            Some(rows) => Done::Rows(rows),
            None => {
                self.visible.verdict.requests.fetch_add(1, Ordering::Relaxed);
                self.run(&portal.command).await?
            }
        };
        let limit = usize::try_from(execute.max_rows).unwrap_or(0);
        match done {
            Done::Rows(mut rows) if limit > 0 && rows.len() > limit => {
                let rest = rows.split_off(limit);
                write_rows(&mut self.io, &rows);
                reply::bare(&mut self.io.out, backend::PORTAL_SUSPENDED);
                self.portals.insert(name, Portal { command: portal.command, rows: Some(rest) });
            }
            done => {
                self.answer(&portal.command, done);
                self.portals.insert(name, Portal { command: portal.command, rows: Some(Vec::new()) });
            }
        }
        Ok(())
    }

    fn answer(&mut self, command: &Command, done: Done) {
        match done {
            Done::Rows(rows) => {
                write_rows(&mut self.io, &rows);
                match command {
                    Command::Show(_) | Command::Columns(_) | Command::Setting(..) => {
                        reply::command_complete(&mut self.io.out, "SHOW");
                    }
                    _ => reply::command_complete(&mut self.io.out, &format!("SELECT {}", rows.len())),
                }
            }
            Done::Said(tag) => reply::command_complete(&mut self.io.out, tag),
            Done::Empty => reply::bare(&mut self.io.out, backend::EMPTY_QUERY),
        }
    }

    async fn run(&mut self, command: &Command) -> Result<Done, Refused> {
        Ok(match command {
            Command::Show(topic) => Done::Rows(show::rows(*topic, &self.shared)),
            Command::Columns(topic) => Done::Rows(show::columns(*topic)),
            Command::Setting(_, value) => Done::Rows(vec![full([(*value).to_owned()])]),
            Command::Names { prefix } => {
                let names = Topic::ALL.map(Topic::name).into_iter().filter(|name| name.starts_with(prefix));
                Done::Rows(names.map(|name| full([name.to_owned()])).collect())
            }
            Command::NoRows => Done::Rows(Vec::new()),
            Command::Value { value, .. } => Done::Rows(vec![full([self.value(value)])]),
            Command::Accepted { tag, status } => {
                self.status = status.unwrap_or(self.status);
                Done::Said(tag)
            }
            Command::Empty => Done::Empty,
            Command::Pause => self.pause().await?,
            Command::Resume => {
                self.shift(Phase::Paused, Phase::Running);
                Done::Said("RESUME")
            }
            Command::Reload => {
                let reloaded = self.shared.ask_reload().await;
                let notes = reloaded.map_err(|error| {
                    let hint = "The configuration in use stays.".to_owned();
                    Refused(sqlstate::CONFIG_FILE_ERROR, error, Some(hint))
                })?;
                for note in notes {
                    Report::notice(&note).write(&mut self.io.out);
                }
                Done::Said("RELOAD")
            }
            Command::Drain => {
                tracing::info!(user = %self.user, "DRAIN on the admin console");
                self.shared.ask_drain();
                Done::Said("DRAIN")
            }
        })
    }

    fn value(&self, value: &Value) -> String {
        match value {
            Value::Text(text) => text.clone(),
            Value::Version => show::version(),
            Value::Database => self.database.clone(),
            Value::User => self.user.clone(),
        }
    }

    /// Moves the process from one phase to another, if it is in the first.
    fn shift(&self, from: Phase, to: Phase) -> bool {
        self.shared.phase.send_if_modified(|phase| {
            let shifts = *phase == from;
            if shifts {
                tracing::info!(user = %self.user, ?to, "the admin console changes the phase");
                *phase = to;
            }
            shifts
        })
    }

    /// Sessions that run a request or are inside of a transaction.
    fn busy(&self) -> usize {
        let sessions = self.shared.sessions();
        let busy = |doing| !matches!(doing, Doing::Idle | Doing::Held);
        sessions.values().filter(|session| busy(session.visible.doing())).count()
    }

    /// New requests wait; returns when nothing runs any more, or with a notice at the limit that draining has, too.
    async fn pause(&mut self) -> Result<Done, Refused> {
        if !self.shift(Phase::Running, Phase::Paused) && *self.shared.phase.borrow() >= Phase::Draining {
            let message = "the proxy is draining".to_owned();
            return Err(Refused(sqlstate::OBJECT_NOT_IN_PREREQUISITE_STATE, message, None));
        }
        let deadline = Instant::now() + self.shared.settings.load().limits.drain;
        while *self.shared.phase.borrow() == Phase::Paused {
            let busy = self.busy();
            if busy == 0 {
                break;
            }
            if Instant::now() >= deadline {
                let message =
                    format!("{busy} sessions still run a transaction and go on; SHOW CLIENTS lists them");
                Report::notice(&message).write(&mut self.io.out);
                break;
            }
            tokio::time::sleep(PAUSE_POLL).await;
        }
        Ok(Done::Said("PAUSE"))
    }
}

/// Waits for bytes, without a buffer while there are none. Cancel-safe, as its parts are.
async fn more(io: &mut ClientIo) -> Result<(), ClientError> {
    io.wait().await?;
    io.fill(0).await
}

/// Names of a command's columns; `None`: it returns no rows.
fn columns(command: &Command) -> Option<Vec<String>> {
    let own = |names: &[&str]| Some(names.iter().map(|name| (*name).to_owned()).collect());
    match command {
        Command::Show(topic) => Some(topic.columns().iter().map(|(name, _)| (*name).to_owned()).collect()),
        Command::Columns(_) => own(&["column", "meaning"]),
        Command::Setting(name, _) => own(&[name]),
        Command::Names { .. } => own(&["name"]),
        Command::NoRows => own(&["?column?"]),
        Command::Value { column, .. } => own(&[column]),
        Command::Pause
        | Command::Resume
        | Command::Reload
        | Command::Drain
        | Command::Accepted { .. }
        | Command::Empty => None,
    }
}

fn describe(io: &mut ClientIo, columns: &[String]) {
    let names: Vec<&str> = columns.iter().map(String::as_str).collect();
    reply::text_row_description(&mut io.out, &names);
}

fn write_rows(io: &mut ClientIo, rows: &[Row]) {
    for row in rows {
        reply::text_row(&mut io.out, row.iter().map(Option::as_deref));
    }
}

fn no_statement(name: &[u8]) -> Refused {
    let message = format!("prepared statement \"{}\" does not exist", String::from_utf8_lossy(name));
    Refused(sqlstate::INVALID_STATEMENT_NAME, message, None)
}

fn taken(sqlstate: &'static str, what: &str, name: &[u8]) -> Refused {
    Refused(sqlstate, format!("{what} \"{}\" already exists", String::from_utf8_lossy(name)), None)
}

fn no_portal(name: &[u8]) -> Refused {
    let message = format!("portal \"{}\" does not exist", String::from_utf8_lossy(name));
    Refused(sqlstate::INVALID_CURSOR_NAME, message, None)
}
