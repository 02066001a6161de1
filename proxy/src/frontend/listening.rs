//! LISTEN and UNLISTEN of a session on a sharded database: they bind it to no conn, since NOTIFY may come from any shard.
//!
//! A change takes effect when its transaction commits, and every shard listens before that. Notifications reach the application
//! between transactions alone, those of its own transaction in front of the ReadyForQuery that ends it. A session that may have missed
//! one is ended, so that the application listens anew.

use std::collections::BTreeSet;
use std::sync::Arc;

use router_config::settings::DatabaseKind;
use router_config::topology::ShardId;
use smallvec::SmallVec;
use tokio::time::Duration;

use super::control::{Via, is_control};
use super::failure::Failure;
use super::session::Session;
use crate::control::{Lost, Notification, Subscription};
use crate::sql::facts::{Command, Facts};
use crate::wire::error::Report;
use crate::wire::{reply, sqlstate};

/// How long ReadyForQuery waits for the transaction's own notifications; later ones come by themselves.
const OWN_LIMIT: Duration = Duration::from_secs(1);
/// Bytes of an identifier that PostgreSQL keeps (NAMEDATALEN - 1).
const NAME_BYTES: usize = 63;

/// What a session listens on.
#[derive(Debug)]
pub struct Listening {
    subscription: Subscription,
    channels: BTreeSet<Arc<str>>,
    /// Of the open transaction, in order.
    changes: Vec<Change>,
    /// Shards that the session has written to since it last caught up.
    wrote: SmallVec<[ShardId; 2]>,
    /// Notifications may be missing.
    lost: Option<Lost>,
}

/// A change that waits for the end of its transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Change {
    Listen(Arc<str>),
    Unlisten(Arc<str>),
    UnlistenAll,
}

impl Listening {
    fn new(subscription: Subscription) -> Self {
        Self {
            subscription,
            channels: BTreeSet::new(),
            changes: Vec::new(),
            wrote: SmallVec::new(),
            lost: None,
        }
    }

    /// Changes of the open transaction so far.
    pub fn changes(&self) -> usize {
        self.changes.len()
    }

    /// ROLLBACK TO: what came later has not happened.
    pub fn return_to(&mut self, changes: usize) {
        self.changes.truncate(changes);
    }

    /// The transaction wrote to this shard and is over: its notifications come from there.
    pub fn wrote(&mut self, shard: ShardId) {
        if !self.wrote.contains(&shard) {
            self.wrote.push(shard);
        }
    }

    /// The next thing that a notification or its loss brings. Cancel-safe.
    async fn recv(&mut self) -> Result<Notification, Lost> {
        match self.lost.take() {
            Some(lost) => Err(lost),
            None => self.subscription.recv().await,
        }
    }

    /// What has come already. A queue that has ended goes on saying so: it is asked no more.
    fn next(&mut self) -> Option<Result<Notification, Lost>> {
        if self.lost.is_some() { None } else { self.subscription.try_recv() }
    }

    fn end(&mut self, committed: bool) {
        if committed {
            for change in self.changes.drain(..) {
                match change {
                    Change::Listen(name) => drop(self.channels.insert(name)),
                    Change::Unlisten(name) => drop(self.channels.remove(&name)),
                    Change::UnlistenAll => self.channels.clear(),
                }
            }
        }
        self.changes.clear();
        for name in self.subscription.channels() {
            if !self.channels.contains(&name) {
                self.subscription.unlisten(Some(&name));
            }
        }
    }
}

impl Session {
    /// Whether LISTEN is the proxy's business here: the database has several places where a NOTIFY may happen.
    fn listens_here(&self) -> bool {
        matches!(self.who.kind, DatabaseKind::Sharded)
    }

    /// Whether the proxy answers the command itself, in this session.
    pub fn acts_on(&self, command: &Command) -> bool {
        let listens = matches!(command, Command::Listen(_) | Command::Unlisten(_));
        let to_login = matches!(command, Command::Set { value: None, name, .. } if self.startup_gucs.get(name).is_some());
        is_control(command) || (listens && self.listens_here()) || to_login
    }

    /// LISTEN or UNLISTEN, in its place among the statements of the request.
    pub(super) async fn listen_or_unlisten(
        &mut self,
        facts: &Arc<Facts>,
        text: &str,
        via: Via,
    ) -> Result<(), Failure> {
        self.check_doomed()?;
        if self.failed_shard().is_some() {
            return self.pass_on_home(facts, text, via).await;
        }
        self.expect(facts, text.as_bytes(), None);
        self.tag_at = self.io.out.len();
        self.put_answer(if matches!(facts.command, Command::Listen(_)) { "LISTEN" } else { "UNLISTEN" });
        Ok(())
    }

    /// LISTEN or UNLISTEN has completed.
    pub(super) fn note_listen(&mut self, command: &Command) {
        let change = match command {
            Command::Listen(name) => Change::Listen(clipped(name)),
            Command::Unlisten(Some(name)) => Change::Unlisten(clipped(name)),
            Command::Unlisten(None) => Change::UnlistenAll,
            _ => return,
        };
        if !self.listens_here() || (self.listening.is_none() && !matches!(change, Change::Listen(_))) {
            return;
        }
        self.listening().changes.push(change);
    }

    fn listening(&mut self) -> &mut Listening {
        let shared = &self.worker.shared;
        let database = &self.who.backend_database;
        self.listening.get_or_insert_with(|| Box::new(Listening::new(shared.control.subscribe(database))))
    }

    /// In front of a commit: every shard listens to what the session will listen to. On failure the transaction cannot commit.
    pub(super) async fn listen_ahead(&mut self) -> Result<(), Failure> {
        let mut names: Vec<Arc<str>> = Vec::new();
        if let Some(listening) = &self.listening {
            names.extend(listening.changes.iter().filter_map(|change| match change {
                Change::Listen(name) => Some(Arc::clone(name)),
                Change::Unlisten(_) | Change::UnlistenAll => None,
            }));
        }
        if self.listens_here() {
            names.extend(self.pending.iter().filter_map(|expected| match &expected.facts.command {
                Command::Listen(name) => Some(clipped(name)),
                _ => None,
            }));
        }
        if names.is_empty() {
            return Ok(());
        }
        let listening = self.listening();
        for name in names {
            if !listening.subscription.channels().contains(&name) {
                listening.subscription.listen(&name).await.map_err(|error| {
                    Failure::error(sqlstate::CONNECTION_FAILURE, format!("LISTEN failed: {error}"))
                })?;
            }
        }
        Ok(())
    }

    /// The transaction is over.
    pub(super) fn end_listens(&mut self, committed: bool) {
        let Some(listening) = &mut self.listening else { return };
        if listening.changes.is_empty() && committed {
            return;
        }
        listening.end(committed);
        if listening.channels.is_empty() && listening.lost.is_none() {
            self.listening = None;
        }
    }

    /// The end of a request outside of a block: its LISTENs take effect, or not.
    pub(super) async fn commit_listens(&mut self, failed: bool) -> Result<(), Failure> {
        if self.block.is_some() {
            return Ok(());
        }
        let listened = if failed { Ok(()) } else { self.listen_ahead().await };
        self.end_listens(!failed && listened.is_ok());
        listened
    }

    /// DISCARD ALL.
    pub(super) fn unlisten_all(&mut self) {
        self.listening = None;
    }

    /// PREPARE TRANSACTION cannot carry them.
    pub(super) fn check_no_listens(&self) -> Result<(), Failure> {
        if self.listening.as_ref().is_some_and(|listening| !listening.changes.is_empty()) {
            return Err(Failure::error(
                sqlstate::FEATURE_NOT_SUPPORTED,
                "cannot PREPARE a transaction that has executed LISTEN, UNLISTEN, or NOTIFY",
            ));
        }
        Ok(())
    }

    /// Channels that the session listens on, if any.
    pub fn channels(&self) -> Option<impl Iterator<Item = &str>> {
        let listening = self.listening.as_ref().filter(|listening| !listening.channels.is_empty())?;
        Some(listening.channels.iter().map(|name| &**name))
    }

    /// In front of ReadyForQuery: the notifications that have come, those of the session's own transaction included.
    pub(super) async fn hear_own(&mut self) {
        if self.block.is_some() {
            return;
        }
        let Some(listening) = &mut self.listening else { return };
        let wrote = std::mem::take(&mut listening.wrote);
        if !wrote.is_empty()
            && tokio::time::timeout(OWN_LIMIT, listening.subscription.catch_up(&wrote)).await.is_err()
        {
            tracing::debug!("notifications of a session's own transaction take longer than {OWN_LIMIT:?}");
        }
        while let Some(event) = self.listening.as_mut().and_then(|listening| listening.next()) {
            self.tell(event);
        }
    }

    /// Waits for a notification while the application is idle. Cancel-safe.
    pub(super) async fn hear_others(listening: &mut Option<Box<Listening>>) -> Result<Notification, Lost> {
        match listening {
            Some(listening) => listening.recv().await,
            None => std::future::pending().await,
        }
    }

    /// Passes a notification on, or notes that the session must end.
    pub(super) fn tell(&mut self, event: Result<Notification, Lost>) {
        let encoding = self.parameter("client_encoding").unwrap_or("UTF8").to_owned();
        let any_text = matches!(encoding.as_str(), "UTF8" | "SQL_ASCII");
        let Some(listening) = &mut self.listening else { return };
        match event {
            Ok(note) if !listening.channels.contains(&note.channel) => {}
            Ok(note) if any_text || (note.payload.is_ascii() && note.channel.is_ascii()) => {
                reply::notification(&mut self.io.out, note.pid, &note.channel, &note.payload);
            }
            Ok(_) => listening.lost = Some(Lost::Encoding(encoding)),
            Err(lost) => listening.lost = Some(lost),
        }
    }

    /// Why the session must end, if it must: said once it is idle.
    pub(super) fn missed(&mut self) -> bool {
        let Some(lost) = self.listening.as_ref().and_then(|listening| listening.lost.as_ref()) else {
            return false;
        };
        let message = format!("terminating connection: {lost}");
        tracing::warn!(database = %self.who.database, user = %self.who.user, "a listening session is ended: {lost}");
        Report::fatal(sqlstate::CONNECTION_FAILURE, &message)
            .hint("Connect again, LISTEN again, and look at what may have changed since.")
            .write(&mut self.io.out);
        true
    }
}

/// As PostgreSQL keeps an identifier.
fn clipped(name: &str) -> Arc<str> {
    let end = (0..=NAME_BYTES.min(name.len())).rev().find(|end| name.is_char_boundary(*end)).unwrap_or(0);
    name[..end].into()
}

#[cfg(test)]
mod tests {
    use super::clipped;

    #[test]
    fn names_are_clipped_between_characters() {
        assert_eq!(&*clipped("short"), "short");
        assert_eq!(clipped(&"x".repeat(70)).len(), 63);
        assert_eq!(clipped(&"é".repeat(40)).len(), 62);
    }
}
