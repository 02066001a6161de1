//! Combining conns that outlive a statement: cursors of DECLARE, and portals that were executed with a row limit.
//!
//! Each has a conn of its own, whose transaction is open as long as it may be read from. What the session has no name for any more is
//! ended behind the session's back.

use bytes::Bytes;
use router_config::topology::ShardId;

use super::queue_text;
use crate::backend::conn::{Conn, Events};
use crate::backend::owed::{Owed, Show};
use crate::exec::ask::{Ask, Form};
use crate::exec::single;
use crate::frontend::failure::Failure;
use crate::frontend::names::{Cursor, Place};
use crate::frontend::session::{Held, Session};
use crate::wire::backend::Status;
use crate::wire::frontend::tag;
use crate::wire::reply;

/// Name of an application's portal on its conn.
pub(super) const PORTAL: &[u8] = b"gavel_portal";

/// A conn that a cursor or portal is read from.
pub struct Kept {
    held: Held,
    /// Name of the cursor or portal; `None`: it has just been executed, and its portal is about to be named.
    name: Option<Bytes>,
    portal: bool,
    /// WITH HOLD.
    hold: bool,
}

impl Kept {
    pub(super) fn cursor(held: Held, name: &str, hold: bool) -> Self {
        Self { held, name: Some(Bytes::copy_from_slice(name.as_bytes())), portal: false, hold }
    }

    pub(super) fn portal(held: Held) -> Self {
        Self { held, name: None, portal: true, hold: false }
    }

    /// Whether its rows are gathered on that shard.
    pub(crate) fn is_on(&self, shard: ShardId) -> bool {
        self.held.shard == shard
    }
}

impl Session {
    /// The portal `name` has been executed, and there may be more of its rows.
    pub(crate) fn name_kept(&mut self, name: &Bytes, bind: &Bytes) {
        let Some(kept) = self.kept.iter_mut().find(|kept| kept.name.is_none()) else { return };
        kept.name = Some(name.clone());
        if let Some(portal) = self.names.portals.get_mut(name) {
            (portal.place, portal.ran) = (Place::Combined { bind: bind.clone() }, false);
        }
    }

    fn kept(&self, name: &[u8], portal: bool) -> Option<usize> {
        self.kept.iter().position(|kept| kept.portal == portal && kept.name.as_deref() == Some(name))
    }

    /// Executes a portal on, so many rows at most (0: the rest).
    pub(crate) async fn continue_portal(&mut self, name: &Bytes, max_rows: i32) -> Result<(), Failure> {
        let Some(at) = self.kept(name, true) else { return Ok(()) };
        let mut kept = self.kept.swap_remove(at);
        self.show_running(&kept.held);
        self.sent += 1;
        self.events.last_tag = None;
        let conn = &mut *kept.held.lease;
        reply::execute(&mut conn.write, PORTAL, max_rows);
        conn.owe(Owed::Execute(Show::ALL));
        conn.sync(Show::NOTHING);
        self.run_kept(&mut kept).await?;
        if self.events.error.is_none() && self.events.last_tag.is_none() {
            self.kept.push(kept);
            return Ok(());
        }
        if let Some(portal) = self.names.portals.get_mut(name) {
            portal.ran = true;
        }
        self.end_kept(kept);
        Ok(())
    }

    /// The description of a cursor's rows.
    pub(crate) async fn describe_kept(&mut self, name: &[u8]) -> Result<(), Failure> {
        let Some(at) = self.kept(name, false) else { return Ok(()) };
        let mut kept = self.kept.swap_remove(at);
        self.show_running(&kept.held);
        let conn = &mut *kept.held.lease;
        reply::named(&mut conn.write, tag::DESCRIBE, true, name);
        conn.owe(Owed::Describe(Show::ALL));
        conn.sync(Show::NOTHING);
        self.run_kept(&mut kept).await?;
        self.kept.push(kept);
        Ok(())
    }

    /// FETCH or MOVE of a cursor; whether it is one of these.
    pub(crate) async fn fetch_kept(&mut self, ask: &Ask, name: &str) -> Result<bool, Failure> {
        let Some(at) = self.kept(name.as_bytes(), false) else { return Ok(false) };
        let mut kept = self.kept.swap_remove(at);
        self.show_running(&kept.held);
        self.expect(&ask.facts, &ask.text, None);
        let conn = &mut *kept.held.lease;
        let described = matches!(ask.form, Form::Execute { describe: true, .. });
        queue_text(conn, &ask.form, (&ask.text, b""), (described, Show::ALL.without(Show::READY)));
        self.run_kept(&mut kept).await?;
        self.kept.push(kept);
        Ok(true)
    }

    /// CLOSE of a cursor; whether it was one of these.
    pub(crate) fn close_kept(&mut self, ask: &Ask, name: &str) -> bool {
        let Some(at) = self.kept(name.as_bytes(), false) else { return false };
        self.expect(&ask.facts, &ask.text, None);
        let kept = self.kept.swap_remove(at);
        self.end_kept(kept);
        self.close_cursors(Some(name));
        self.complete("CLOSE CURSOR");
        true
    }

    async fn run_kept(&mut self, kept: &mut Kept) -> Result<(), Failure> {
        let ran = single::run(&mut self.io, &mut kept.held.lease, &mut self.events).await;
        if ran.is_err() || self.events.error.is_some() {
            self.doom();
        }
        ran.map_err(|error| Failure::of_step(error, &self.shard_name(kept.held.shard), false))
    }

    /// The transaction is about to be committed: cursors WITH HOLD are computed to their end, and stay.
    pub(crate) async fn hold_kept(&mut self) -> Result<(), Failure> {
        for at in 0..self.kept.len() {
            let kept = &mut self.kept[at];
            if !kept.hold || kept.held.lease.status != Status::InTransaction {
                continue;
            }
            let conn = &mut *kept.held.lease;
            reply::query(&mut conn.write, b"COMMIT");
            conn.owe(Owed::Query(Show::NOTHING));
            let mut events = self.events.beside();
            let ran = single::run(&mut self.io, conn, &mut events).await;
            let shard = kept.held.shard;
            ran.map_err(|error| Failure::of_step(error, &self.shard_name(shard), false))?;
            if let Some(frame) = events.error {
                return Err(Failure::Server(frame));
            }
        }
        Ok(())
    }

    /// After a request: what has no name any more is ended.
    pub(crate) fn release_kept(&mut self) {
        if self.kept.is_empty() {
            return;
        }
        let (mut stay, mut over) = (Vec::new(), Vec::new());
        for kept in self.kept.drain(..) {
            let name = kept.name.as_deref().unwrap_or_default();
            let named = if kept.portal {
                let portal = self.names.portals.get(name);
                portal.is_some_and(|portal| matches!(portal.place, Place::Combined { .. }))
            } else {
                let name = String::from_utf8_lossy(name);
                matches!(self.names.cursors.get(name.as_ref()), Some(Cursor::Combined { .. }))
            };
            if named { stay.push(kept) } else { over.push(kept) }
        }
        self.kept = stay;
        over.into_iter().for_each(|kept| self.end_kept(kept));
    }

    /// Ends the transaction of a conn that nobody reads from any more, and gives it back to its pool.
    fn end_kept(&self, mut kept: Kept) {
        self.hide_running(&mut kept.held);
        // A cursor WITH HOLD would outlive the transaction.
        tokio::spawn(async move { end(&mut kept.held.lease, &[b"ROLLBACK", b"CLOSE ALL"]).await });
    }
}

/// Runs what cleans a conn; one that cannot be cleaned is closed.
pub(super) async fn end(conn: &mut Conn, statements: &[&[u8]]) {
    for sql in statements {
        reply::query(&mut conn.write, sql);
        conn.owe(Owed::Query(Show::NOTHING));
    }
    conn.spoiled |= single::run_alone(conn, &mut Events::default()).await.is_err();
}
