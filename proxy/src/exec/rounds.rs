//! The order in which the shares of a statement over several shards run.

use std::ops::Range;

use super::merge::Merge;
use super::spread::Ask;
use crate::frontend::session::Session;
use crate::route::plan::Target;
use crate::sql::facts::{Access, Command, Facts};
use crate::sql::normalise::identifiers;

impl Session {
    /// Which shares run at the same time. Sessions that lock rows of several shards do it in the order of the shards, and so wait for
    /// each other on one shard, not in a circle.
    pub(super) fn rounds(&self, ask: &Ask, merge: Merge, shares: usize) -> Vec<Range<usize>> {
        let mut upserts = false;
        if matches!(ask.plan.target, Target::Split(_)) {
            identifiers(&ask.text, self.text_rules().standard_strings, false, &mut |name| {
                upserts |= name == "conflict";
            });
        }
        let alone = match merge {
            _ if upserts => shares,
            // What is written everywhere meets on the home shard.
            Merge::First if ask.facts.access != Access::Read => 1,
            Merge::First | Merge::Sum | Merge::Concat | Merge::Ordered | Merge::Any(_) => 0,
        };
        let mut rounds: Vec<Range<usize>> = (0..alone.min(shares)).map(|turn| turn..turn + 1).collect();
        rounds.extend((alone < shares).then_some(alone..shares));
        rounds
    }

    /// DDL that fills a table on each shard with rows of that shard (CREATE MATERIALIZED VIEW).
    pub(super) fn fills_on_each(&self, facts: &Facts) -> bool {
        let sharded = |table: &String| {
            self.schema().by_full_name(table).is_some_and(|relation| relation.key_type().is_some())
        };
        matches!(facts.command, Command::Ddl(_)) && facts.tables.iter().any(sharded)
    }
}
