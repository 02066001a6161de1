//! A write whose shards are sent parts of it, or other words: PostgreSQL reads the whole of it before it runs any of it, so one
//! shard reads it first, as the application has written it. Rows of different lengths, say, are an error of none of the parts.

use std::sync::atomic::Ordering;

use bytes::Bytes;

use super::ask::{Ask, Form, Share};
use crate::backend::conn::Events;
use crate::backend::owed::{Owed, Show};
use crate::backend::rewritten::Rewritten;
use crate::frontend::failure::Failure;
use crate::frontend::session::Session;
use crate::sql::facts::Command;
use crate::wire::reply;

impl Session {
    /// Has a conn of the statement's own read it, unless a server is known to have accepted the like. What came of it if it is wrong:
    /// the application has been told.
    pub(super) async fn read_whole(
        &mut self,
        ask: &Ask,
        shares: &[Share],
        at: usize,
    ) -> Result<Vec<Events>, Failure> {
        let others = shares.iter().any(|share| share.text != ask.text);
        if !others || !matches!(ask.facts.command, Command::Modify(_)) {
            return Ok(Vec::new());
        }
        let (types, key) = match &ask.form {
            Form::Execute { statement, .. } if statement.shared.accepted.load(Ordering::Relaxed) => {
                return Ok(Vec::new());
            }
            Form::Execute { statement, .. } => (statement.type_bytes(), None),
            Form::Query => (Bytes::new(), self.sound_key(&ask.text)),
        };
        if key.is_some_and(|key| self.worker.shared.sound.has(key)) {
            return Ok(Vec::new());
        }
        let held = &mut self.held[at];
        held.unnamed = None;
        let conn = &mut *held.lease;
        let types = conn.own_types(&types)?;
        let capture = conn.capture;
        reply::parse(&mut conn.write, b"", &ask.text, &types);
        conn.owe(Owed::Parse { show: Show::ERRORS, statement: None });
        conn.sync(Show::NOTHING);
        let outcome = self.drive(&[at]).await?;
        self.held[at].lease.capture = capture;
        if outcome.iter().any(|events| events.error.is_some()) {
            return Ok(outcome);
        }
        match &ask.form {
            Form::Execute { statement, .. } => statement.shared.accepted.store(true, Ordering::Relaxed),
            Form::Query => key.into_iter().for_each(|key| self.worker.shared.sound.note(key)),
        }
        Ok(Vec::new())
    }

    /// What stands for a statement that a server has read, names and all.
    pub(crate) fn sound_key(&mut self, text: &[u8]) -> Option<u64> {
        let reading = self.reading();
        let conforming = self.text_rules().standard_strings;
        self.worker.shared.sound.key(text, conforming, Some(reading))
    }

    /// Where a share's words come from, if they are not the application's.
    pub(super) fn rewritten(&self, ask: &Ask, share: &Share) -> Option<Box<Rewritten>> {
        (share.text != ask.text).then(|| {
            Box::new(Rewritten {
                text: share.text.clone(),
                whole: ask.text.clone(),
                origins: share.origins.clone(),
                utf8: self.text_rules().utf8,
            })
        })
    }
}
