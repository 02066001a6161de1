//! Texts of several statements that are sent one by one: PostgreSQL reads the whole text before it runs any of it, so a server reads
//! it first. Our own parser is no proof, for it accepts what PostgreSQL rejects.
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
use crate::wire::backend::Status;
use crate::wire::{frontend, reply};

/// Functions of PostgreSQL that complain of a text which it has not taken apart yet.
const GRAMMAR: [&[u8]; 3] = [b"scanner_yyerror", b"base_yyparse", b"base_yylex"];

impl Session {
    /// Has a server read a text, unless one is known to have accepted the like. `Some`: it has not, and the open transaction on this
    /// conn is to hear so.
    pub(super) async fn check_grammar(&mut self, text: &Bytes) -> Result<Option<usize>, Failure> {
        let shared = std::sync::Arc::clone(&self.worker.shared);
        let key = shared.sound.key(text, self.text_rules().standard_strings);
        if key.is_some_and(|key| shared.sound.has(key)) {
            return Ok(None);
        }
        let at = (0..self.held.len()).max_by_key(|at| self.held[*at].enlisted);
        let mut events = self.events.beside();
        match at {
            Some(at) => {
                self.held[at].unnamed = None;
                let conn = &mut self.held[at].lease;
                if let Err(error) = read(&mut self.io, conn, text, &mut events).await {
                    return Err(self.lose(at, error));
                }
            }
            None => {
                let mut held = self.lease_alone(ShardId(0)).await?;
                if let Err(error) = read(&mut self.io, &mut held.lease, text, &mut events).await {
                    return Err(Failure::of_step(error, &self.shard_name(ShardId(0)), false));
                }
            }
        }
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
    reply::bare(&mut conn.write, frontend::tag::SYNC);
    conn.owe(Owed::Sync(Show::NOTHING));
    query(conn, "ROLLBACK TO SAVEPOINT gavel_grammar; RELEASE SAVEPOINT gavel_grammar");
    single::run(io, conn, events).await
}
