//! After a request: what was learned from a conn, and which conns go back to their pools.

use std::sync::Arc;

use bytes::Bytes;
use router_config::settings::PoolMode;

use super::failure::{Failure, said};
use super::names::Cursor;
use super::session::{Held, Session};
use super::transaction::Block;
use crate::backend::conn::ConnError;
use crate::control::floor::Ticket;
use crate::exec::single;
use crate::wire::backend::Status;

impl Session {
    /// After a request: conns that nothing binds go back to their pools. Room for several is not kept by an idle session.
    pub fn settle(&mut self) {
        self.learn_block();
        if self.block.is_none() {
            self.names.portals.clear();
        }
        self.release_kept();
        if self.block.is_none() {
            let session_mode = self.who.mode == PoolMode::Session;
            let shared = &self.worker.shared;
            {
                let mut running = self.io.visible.running();
                for held in &mut self.held {
                    if let Some(listening) = self.listening.as_mut().filter(|_| held.wrote && !held.replica) {
                        listening.wrote(held.shard);
                    }
                    end_transaction(held, shared);
                    self.worker.pools.backend.add(std::mem::take(&mut held.lease.moved));
                    held.lease.spoiled |= running.cancelling > 0;
                }
                running.conns.clear();
                running.conns.shrink_to_fit();
            }
            let (draws, names, pins) = (&self.draws, &self.names, &self.pins);
            self.held.retain(|held| {
                let usable = held.lease.status == Status::Idle && held.lease.is_quiet();
                let bound = held.is_bound(draws, names, pins);
                held.lease.set_bound(bound);
                usable && !held.replica && (session_mode || bound)
            });
            if self.held.is_empty() {
                self.held.shrink_to_fit();
            } else {
                let mut running = self.io.visible.running();
                running.conns.extend(self.held.iter().map(Held::shown));
            }
        }
    }

    /// A block may have begun or ended inside of a text that was passed on whole.
    fn learn_block(&mut self) {
        let open = self.held.iter().any(|held| held.lease.status != Status::Idle);
        match (&self.block, open) {
            (None, true) => {
                let mut block = Block::new("BEGIN", false, Arc::clone(&self.gucs));
                block.opaque = true;
                self.block = Some(Box::new(block));
                for held in &mut self.held {
                    held.enlisted = held.lease.status != Status::Idle;
                    held.gucs_moved |= held.enlisted;
                }
            }
            (Some(block), false) if self.held.iter().any(|held| held.enlisted) && !block.doomed => {
                // A COMMIT that failed, or PREPARE TRANSACTION.
                self.end_block(self.events.error.is_some());
            }
            _ => {}
        }
    }

    /// The transaction is over, on all conns: settings as they were if it was rolled back.
    pub fn end_block(&mut self, rolled_back: bool) {
        self.return_to_hints(rolled_back);
        if let Some(block) = self.block.take() {
            self.end_cursors(block.declared(), rolled_back);
            if rolled_back {
                self.return_to(block.gucs_before());
            }
        }
        self.settle_gucs();
        for held in &mut self.held {
            held.enlisted = false;
        }
        self.end_listens(!rolled_back);
    }

    /// Portals end with the transaction, cursors too but for those WITH HOLD that it did not declare in vain.
    pub(super) fn end_cursors(&mut self, declared: &[String], rolled_back: bool) {
        self.names.portals.clear();
        self.names.cursors.retain(|name, cursor| {
            matches!(cursor, Cursor::One { hold: true, .. } | Cursor::Combined { hold: true })
                && !(rolled_back && declared.contains(name))
        });
    }

    /// Runs what is queued on a held conn to its end; a lost conn dooms the transaction.
    pub async fn run(&mut self, at: usize) -> Result<(), Failure> {
        let held = &mut self.held[at];
        let done = single::run(&mut self.io, &mut held.lease, &mut self.events).await;
        if let Err(error) = done {
            return Err(self.lose(at, error));
        }
        self.learn_lsn(at);
        Ok(())
    }

    /// Gives up a conn on which something failed.
    pub fn lose(&mut self, at: usize, error: super::io::StepError) -> Failure {
        if let super::io::StepError::Backend(ConnError::Fatal(_) | ConnError::Io(_)) = &error {
            self.note_lost();
        }
        let held = self.held.swap_remove(at);
        self.worker.pools.backend.add(held.lease.moved);
        if let (Some(node), super::io::StepError::Backend(_)) = (held.node, &error) {
            self.worker.shared.nodes().check_now(node);
        }
        if let super::io::StepError::Backend(error @ ConnError::Fatal(_)) = &error {
            let said = said(error).unwrap_or_default();
            tracing::warn!(
                shard = self.shard_name(held.shard),
                process = held.lease.process_id,
                "the server has ended a connection: {said}"
            );
        }
        if let Some(block) = &mut self.block
            && held.enlisted
        {
            (block.doomed, block.lost) = (true, true);
        }
        self.temp_tables &= !self.pins.lose(held.shard);
        let shard = self.shard_name(held.shard);
        Failure::of_step(error, &shard, held.may_commit())
    }

    /// Reads the LSN that the shard was asked for.
    pub fn learn_lsn(&mut self, at: usize) {
        let held = &mut self.held[at];
        let Some(ticket) = held.asks_lsn.take() else { return };
        held.lease.capture = false;
        let row = self.events.rows.drain(..).next();
        note_lsn(ticket, row);
    }
}

/// The answer to the question for the LSN raises the floor; without one it is asked again.
pub fn note_lsn(ticket: Ticket, row: Option<Bytes>) {
    if let Some(lsn) = row.and_then(|row| lsn_of(&row)) {
        ticket.answer(lsn);
    }
}

fn end_transaction(held: &mut Held, shared: &crate::worker::Shared) {
    if std::mem::take(&mut held.wrote) && !held.replica {
        shared.floor(held.shard).wrote();
    }
    if std::mem::take(&mut held.gucs_moved) {
        held.lease.applied = None;
    }
    held.enlisted = false;
    held.committing = false;
}

/// `pg_lsn` in text out of a DataRow body of one column.
fn lsn_of(row: &[u8]) -> Option<u64> {
    let text = std::str::from_utf8(row.get(6..)?).ok()?;
    let (high, low) = text.split_once('/')?;
    Some(u64::from_str_radix(high, 16).ok()? << 32 | u64::from_str_radix(low, 16).ok()?)
}

#[cfg(test)]
mod tests {
    #[test]
    fn lsn_is_read_out_of_its_row() {
        assert_eq!(super::lsn_of(b"\0\x01\0\0\0\x0916/B374D848"), Some(0x16_B374_D848));
        assert_eq!(super::lsn_of(b"\0\x01\xff\xff\xff\xff"), None);
    }
}
