//! Texts of several statements that are sent one by one: PostgreSQL reads the whole text before it runs any of it, so a server reads
//! it first. Our own parser is no proof, for it accepts what PostgreSQL rejects.
//!
//! So it is with a statement that the proxy refuses: what PostgreSQL has to say against it is said instead.
//!
//! A Parse of several statements fails by the very complaint that they are several, which comes behind the grammar's.

use bytes::Bytes;
use router_config::topology::ShardId;

use super::failure::Failure;
use super::io::{ClientIo, StepError};
use super::session::Session;
use crate::backend::conn::{Conn, Events};
use crate::backend::owed::{Owed, Show};
use crate::exec::single;
use crate::sql::copy_shape::copied_into;
use crate::wire::backend::Status;
use crate::wire::error::placed;
use crate::wire::{reply, sqlstate};

/// Functions of PostgreSQL that complain of a text which it has not taken apart yet.
const GRAMMAR: [&[u8]; 3] = [b"scanner_yyerror", b"base_yyparse", b"base_yylex"];

impl Session {
    /// Has a server read a text, unless one is known to have accepted the like. `Some`: it has not, and the open transaction on this
    /// conn is to hear so.
    pub(super) async fn check_grammar(&mut self, text: &Bytes) -> Result<Option<usize>, Failure> {
        let shared = std::sync::Arc::clone(&self.worker.shared);
        let key = shared.sound.key(text, self.text_rules().standard_strings, None);
        if key.is_some_and(|key| shared.sound.has(key)) {
            return Ok(None);
        }
        let mut events = self.events.beside();
        let at = self.ask_to_read(text, &mut events).await?;
        let accepted = events.error.is_none() || events.is_of(b"exec_parse_message");
        if accepted {
            key.into_iter().for_each(|key| shared.sound.note(key));
            return Ok(None);
        }
        let heard = at.filter(|at| self.held[*at].enlisted && GRAMMAR.iter().any(|name| events.is_of(name)));
        match events.error {
            Some(frame) if heard.is_none() => Err(Failure::Server(frame)),
            _ => Ok(heard),
        }
    }

    /// Why a statement is not executed: what a server says against it, or that the proxy refuses it.
    pub(super) async fn why_not(&mut self, text: &[u8], failure: Failure) -> Failure {
        if !self.is_placed()
            || matches!(failure, Failure::Client(_) | Failure::Lost { .. } | Failure::Lease { .. })
        {
            return failure;
        }
        let unsupported = failure.sqlstate() == sqlstate::FEATURE_NOT_SUPPORTED;
        let key = self.sound_key(text).filter(|_| unsupported);
        if key.is_some_and(|key| self.worker.shared.sound.has(key)) {
            return failure;
        }
        let mut events = self.events.beside();
        let mut asked = self.ask_to_read(text, &mut events).await;
        let table = copied_into(text, self.text_rules().standard_strings);
        if let (Ok(_), None, Some(table)) = (&asked, &events.error, table) {
            // PostgreSQL looks for the table of a COPY when it runs it.
            asked = self.ask_to_read(format!("TABLE {table}").as_bytes(), &mut events).await;
            events.error = events.error.map(|frame| placed(&frame, |_| None));
        }
        match asked {
            // That it cannot be asked is no better reason.
            Err(Failure::Lease { .. }) => failure,
            Err(lost) => lost,
            Ok(_) => match events.error {
                Some(frame) => Failure::Server(frame),
                None => {
                    key.into_iter().for_each(|key| self.worker.shared.sound.note(key));
                    failure
                }
            },
        }
    }

    /// Has a server read a text: on a conn that the session has, which is given then, or else on another one.
    async fn ask_to_read(&mut self, text: &[u8], events: &mut Events) -> Result<Option<usize>, Failure> {
        let by_use = |at: &usize| {
            let held = &self.held[*at];
            // Temporary tables are on the home shard.
            (self.temp_tables && held.shard == ShardId(0), held.enlisted)
        };
        let at = (0..self.held.len()).max_by_key(by_use);
        match at {
            Some(at) => {
                self.held[at].unnamed = None;
                let conn = &mut self.held[at].lease;
                if let Err(error) = read(&mut self.io, conn, text, events).await {
                    return Err(self.lose(at, error));
                }
            }
            None => {
                let mut held = self.lease_alone(ShardId(0)).await?;
                if let Err(error) = read(&mut self.io, &mut held.lease, text, events).await {
                    return Err(Failure::of_step(error, &self.shard_name(ShardId(0)), false));
                }
            }
        }
        Ok(at)
    }
}

/// Parse, hidden; an open transaction is as it was.
async fn read(io: &mut ClientIo, conn: &mut Conn, text: &[u8], events: &mut Events) -> Result<(), StepError> {
    let in_transaction = conn.status == Status::InTransaction;
    let query = |conn: &mut Conn, sql: &str| {
        if in_transaction {
            reply::query(&mut conn.write, sql.as_bytes());
            conn.owe(Owed::Query(Show::NOTHING));
        }
    };
    query(conn, "SAVEPOINT gavel_grammar");
    reply::parse(&mut conn.write, b"", text, &[]);
    conn.owe(Owed::Parse { show: Show::NOTHING, statement: None });
    conn.sync(Show::NOTHING);
    query(conn, "ROLLBACK TO SAVEPOINT gavel_grammar; RELEASE SAVEPOINT gavel_grammar");
    single::run(io, conn, events).await
}
