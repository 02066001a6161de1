//! Writes of rows of several shards: each shard writes its own, in one transaction.

use crate::route::place::Case;
use crate::route::plan::{ShardSet, Target};
use crate::route::refusal::Refusal;
use crate::sql::facts::{Command, Modify, Sharded};
use crate::sql::schema::Fires;

impl Case<'_> {
    /// A statement that may write rows of these shards.
    pub(super) fn write_several(&self, sharded: &Sharded, shards: ShardSet) -> Result<Target, Refusal> {
        const NO_KEY: &str = "No single shard holds all of the rows that it may touch.";
        let what = match &self.facts.command {
            Command::Modify(Modify::Insert) if sharded.colocated_insert_select => "INSERT ... SELECT",
            Command::Modify(Modify::Insert) => return Err(Refusal::insert_select()),
            Command::Modify(Modify::Update) => "UPDATE",
            Command::Modify(Modify::Delete) => "DELETE",
            Command::Modify(Modify::Merge) => "MERGE",
            Command::Explain => {
                return Err(Refusal::several_shards("EXPLAIN", NO_KEY)).map_err(|mut refusal| {
                    refusal.hint = Some(
                        "EXPLAIN (GAVEL) shows where the statement goes; /* gavel: shard=1 */ EXPLAIN ... asks one shard."
                            .to_owned(),
                    );
                    refusal
                });
            }
            Command::Modify(Modify::Other) => {
                return Err(Refusal::several_shards("a query that writes", NO_KEY));
            }
            Command::Prepare(_) => return Err(Refusal::several_shards("PREPARE in SQL", NO_KEY)),
            Command::Call => return Err(Refusal::several_shards("CALL", NO_KEY)),
            Command::Query | Command::CopyOut(_) | Command::Declare { .. }
                if self.facts.unrepeatable.is_some() =>
            {
                return Err(Refusal::volatile(self.facts.unrepeatable.as_deref().unwrap_or_default()));
            }
            _ => return Err(Refusal::several_shards("the statement", NO_KEY)),
        };
        self.on_each(sharded, what)?;
        Ok(Target::Each(shards))
    }

    /// A trigger that fires once for the statement would fire on each shard.
    pub(in crate::route) fn fires_for_rows(&self, sharded: &Sharded, what: &str) -> Result<(), Refusal> {
        match sharded.fires {
            Some(Fires::Statement) => {
                Err(Refusal::several_shards(what, "A trigger FOR EACH STATEMENT would fire on each of them."))
            }
            Some(Fires::Row) | None => Ok(()),
        }
    }

    /// Whether what each shard does with its own rows is what one PostgreSQL would do with all of them.
    pub(super) fn on_each(&self, sharded: &Sharded, what: &str) -> Result<(), Refusal> {
        if let Some(why) = &sharded.no_concat {
            return Err(Refusal::several_shards(
                what,
                &format!("It is more than what each shard can do by itself: {why}."),
            ));
        }
        if !self.session.two_phase {
            return Err(Refusal::two_phase_off(&format!("{what} of rows of several shards")));
        }
        match self.clock().or_else(|| self.hidden_clock()) {
            Some(what) => Err(Refusal::unrepeatable(
                &what,
                "Each shard that the statement writes has a time of its own.",
            )),
            None => Ok(()),
        }
    }
}
