//! Prepared statements and DDL: what an application was told of a statement holds wherever it is parsed again.
//!
//! A statement that it has used, or asked about, has the parameter types of its first Parse for good. Where its rows would be others
//! by now, it gets PostgreSQL's `cached plan must not change result type` instead of rows that it cannot read. One that it has just
//! parsed is what the server says now: if that is not what other sessions have, they part ways.
//! Invariant: what a conn has under the name of a shared statement is that statement as it was first parsed.

use std::sync::Arc;
use std::sync::atomic::Ordering;

use super::control::is_control;
use super::failure::Failure;
use super::names::Prepared;
use super::param_types::Asked;
use super::session::Session;
use crate::backend::conn::Events;
use crate::exec::bind;
use crate::sql::facts::Access;
use crate::sql::lexer::param_numbers;
use crate::wire::frontend::tag;
use crate::wire::{reply, sqlstate};

impl Session {
    /// Waits for what a conn has made of a statement that must be what it was, before anything is run with it.
    pub(super) async fn await_shape(&mut self, at: usize, prepared: &Prepared) -> Result<(), Failure> {
        reply::bare(&mut self.held[at].lease.write, tag::FLUSH);
        self.events.changed = false;
        self.run_to_end(at).await?;
        self.check_pipeline_error()?;
        if !std::mem::take(&mut self.events.changed) {
            return Ok(());
        }
        let held = &mut self.held[at];
        held.lease.prepared.retire(prepared.shared.id);
        held.unnamed = None;
        prepared.shared.stale.store(true, Ordering::Relaxed);
        Err(Failure::changed_plan())
    }

    /// Statements that this session has parsed on a conn, and that are not there what they are elsewhere, become its own.
    pub(super) fn adopt_shapes(&mut self, at: usize) {
        let registry = &self.worker.shared.registry;
        let held = &mut self.held[at];
        for reshaped in self.events.reshaped.drain(..) {
            let old = reshaped.old;
            old.stale.store(true, Ordering::Relaxed);
            held.lease.prepared.retire(old.id);
            let shared = loop {
                let shared = registry.intern(old.context, &old.text, &old.types);
                if *shared.origin.get_or_init(|| reshaped.shape.clone()) == reshaped.shape {
                    break shared;
                }
                // Another session's, of yet another moment.
                shared.stale.store(true, Ordering::Relaxed);
            };
            if held.unnamed == Some(old.id) {
                held.unnamed = Some(shared.id);
            }
            let names = &mut self.names.statements;
            let its = names.values_mut().find(|known| Arc::as_ptr(known).addr() == reshaped.by);
            if let Some(its) = its {
                *its = Arc::new(Prepared { shared, ..(**its).clone() });
            }
        }
    }

    /// A server has found that a statement is not what it was: whoever parses one of this session's anew gets what it is now.
    pub(super) fn outdate_statements(&self) {
        for prepared in self.names.statements.values() {
            prepared.shared.stale.store(true, Ordering::Relaxed);
        }
    }

    /// A write on one shard is committed along with its answer: after DDL it is known beforehand what that will be. What is
    /// `bound` is parsed for each run.
    pub(super) async fn foresee_rows(&mut self, bound: &Prepared) -> Result<(), Failure> {
        let writes = bound.facts().is_some_and(|facts| facts.access != Access::Read);
        if !writes || !bound.must_stay() || self.block.is_some() {
            return Ok(());
        }
        let shape = self.ask_shape(bound).await?;
        match (bound.shared.origin.get(), shape) {
            (Some(origin), Asked::Shape(shape)) if !origin.same_rows(&shape) => {
                bound.shared.stale.store(true, Ordering::Relaxed);
                Err(Failure::changed_plan())
            }
            _ => Ok(()),
        }
    }

    /// Rows of several shards that are not those that the application was told of have been held back.
    pub fn check_rows(&self, outcome: &[Events], writes: bool) -> Result<(), Failure> {
        let differs = outcome.iter().any(|events| events.differs);
        if !differs && !outcome.iter().any(|events| events.changed) {
            return Ok(());
        }
        if writes && self.block.is_none() {
            return Err(Failure::error(
                sqlstate::TRANSACTION_RESOLUTION_UNKNOWN,
                "the rows were written, but what the statement returns has changed since the application was told",
            ));
        }
        Err(if differs { Failure::differing_rows() } else { Failure::changed_plan() })
    }

    /// The same before a server has said how many there are, by the text.
    pub(super) fn check_open_count(name: &[u8], bound: &Prepared, rest: &[u8]) -> Result<(), Failure> {
        // Parameters within other commands are not their own.
        let open = bound.shared.origin.get().is_none() && bound.is_planned();
        let Some(given) = bind::count(rest).filter(|_| open) else { return Ok(()) };
        let used = param_numbers(&bound.shared.text).max().unwrap_or(0);
        wrong_count(name, given, usize::from(used).max(bound.types.len()))
    }

    /// A Bind has as many values as the statement has parameters, as far as they are known.
    pub(super) fn check_count(name: &[u8], bound: &Prepared, rest: &[u8]) -> Result<(), Failure> {
        let Some(given) = bind::count(rest) else { return Ok(()) };
        let wanted = match bound.shared.origin.get() {
            Some(shape) => shape.params.len(),
            None if bound.facts().is_some_and(|facts| is_control(&facts.command)) => 0,
            None => return Ok(()),
        };
        wrong_count(name, given, wanted)
    }
}

fn wrong_count(name: &[u8], given: u16, wanted: usize) -> Result<(), Failure> {
    if usize::from(given) == wanted {
        return Ok(());
    }
    let name = String::from_utf8_lossy(name);
    let message = format!(
        "bind message supplies {given} parameters, but prepared statement \"{name}\" requires {wanted}"
    );
    Err(Failure::error(sqlstate::PROTOCOL_VIOLATION, message))
}
