//! Routing hints that a session sets. Like any setting, those made LOCAL end with the transaction, and those of a transaction that is
//! rolled back were never made.

use super::control::{Via, aborted, warning};
use super::failure::Failure;
use super::session::Session;
use crate::backend::gucs::{Gucs, literal_value};
use crate::route::hint::shard_named;
use crate::wire::sqlstate;

/// `gavel.key` and `gavel.shard` of a session.
#[derive(Debug, Clone, Default)]
pub struct Hints {
    /// `SET gavel.key`.
    pub key: Option<String>,
    /// `SET gavel.shard`.
    pub shard: Option<String>,
}

impl Hints {
    /// Those of the login: `options=-c gavel.shard=…`, among what else it asks for.
    pub fn of_login(asked: &Gucs) -> Self {
        let value = |name| asked.get(name).map(literal_value);
        Self { key: value("gavel.key"), shard: value("gavel.shard") }
    }

    /// Sets the one of this name.
    pub fn set(&mut self, name: &str, value: Option<String>) {
        match name {
            "key" => self.key = value,
            _ => self.shard = value,
        }
    }
}

impl Session {
    /// The hints that the login asks for are in force.
    pub(super) fn take_login_hints(&mut self) -> Result<(), Failure> {
        for (name, value) in self.startup_gucs.iter() {
            if let Some(hint) = name.strip_prefix("gavel.") {
                self.check_hint(hint, Some(&literal_value(value)))?;
            }
        }
        self.hints = Hints::of_login(&self.startup_gucs);
        Ok(())
    }

    /// Whether there is such a hint, and such a shard. What type a key is to be is known with the statement.
    fn check_hint(&self, name: &str, value: Option<&str>) -> Result<(), Failure> {
        match (name, value) {
            ("key", _) | ("shard", None) => Ok(()),
            ("shard", Some(shard)) => {
                Ok(shard_named(&self.worker.shared.topology.load(), shard).map(|_| ())?)
            }
            _ => {
                let message =
                    format!("there is no setting gavel.{name}; hints are gavel.key and gavel.shard");
                Err(Failure::error(sqlstate::INVALID_PARAMETER_VALUE, message))
            }
        }
    }

    /// `SET gavel.key` and the like: LOCAL, or of a transaction that is rolled back, not beyond its end.
    pub(super) async fn set_hint(
        &mut self,
        name: &str,
        value: Option<String>,
        local: bool,
        via: Via,
    ) -> Result<(), Failure> {
        // In a pipeline the block may be about to end.
        self.finish_pipelines().await?;
        if self.block.is_some() {
            self.apply_completed();
        }
        if self.failed_shard().is_some() {
            return Err(aborted());
        }
        self.check_hint(name, value.as_deref())?;
        // RESET: as the login has it.
        let asked = Hints::of_login(&self.startup_gucs);
        let value = value.or(if name == "key" { asked.key } else { asked.shard });
        match &mut self.block {
            Some(block) => {
                let hints =
                    block.hints.get_or_insert_with(|| Box::new([self.hints.clone(), self.hints.clone()]));
                if !local {
                    hints[1].set(name, value.clone());
                }
                self.hints.set(name, value);
            }
            None if local && via == Via::Simple => warning(
                &mut self.io.out,
                sqlstate::NO_ACTIVE_SQL_TRANSACTION,
                "SET LOCAL can only be used in transaction blocks",
            ),
            None if local => {}
            None => self.hints.set(name, value),
        }
        Ok(())
    }

    /// The transaction is over: hints as they were before it, or as it has left them.
    pub(super) fn return_to_hints(&mut self, rolled_back: bool) {
        if let Some(hints) = self.block.as_mut().and_then(|block| block.hints.take()) {
            let [before, kept] = *hints;
            self.hints = if rolled_back { before } else { kept };
        }
    }
}
