//! Statements whose rows are on several shards: which of them can run there, and how.

use router_config::topology::ShardId;

use super::place::Case;
use super::plan::{ShardSet, Target};
use super::refusal::Refusal;
use crate::sql::facts::{Access, Command, Sharded};

mod gather;
mod moves;
mod reads;
mod writes;

impl Case<'_> {
    /// A statement without a condition on the key. `why` there is none that could be used.
    pub(super) fn on_all(&self, sharded: &Sharded, why: Option<&'static str>) -> Result<Target, Refusal> {
        self.on_several(sharded, self.all_shards()).map_err(|refusal| match why {
            Some(why) => refusal.because(format!("A condition on the shard key could not be used: {why}.")),
            None => refusal,
        })
    }

    fn all_shards(&self) -> ShardSet {
        (0..self.topology.shards.len()).filter_map(|n| u16::try_from(n).ok()).map(ShardId).collect()
    }

    /// A statement whose rows are on these shards.
    pub(super) fn on_several(&self, sharded: &Sharded, shards: ShardSet) -> Result<Target, Refusal> {
        match &self.facts.command {
            Command::Query | Command::CopyOut(_) | Command::Declare { .. }
                if self.facts.access != Access::Write =>
            {
                self.read_several(sharded, shards)
            }
            _ => self.write_several(sharded, shards),
        }
    }
}
