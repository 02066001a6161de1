//! Reads of several shards: answers that are one after the other, or whose rows are merged.

use crate::route::place::Case;
use crate::route::plan::{ShardSet, Target};
use crate::route::refusal::Refusal;
use crate::sql::facts::Sharded;

impl Case<'_> {
    /// The same statement on several shards, if their answers can be made one.
    pub(super) fn read_several(&self, sharded: &Sharded, shards: ShardSet) -> Result<Target, Refusal> {
        match (&sharded.no_concat, self.clock(), &sharded.gather) {
            (Some(why), ..) => Err(Refusal::needs_merge(why)),
            (None, Some(what), _) => {
                Err(Refusal::unrepeatable(&what, "Each shard that the query reads has a time of its own."))
            }
            (None, None, Some(shape)) => self.gathered(shape, shards),
            (None, None, None) => Ok(Target::Concat(shards)),
        }
    }
}
