//! Where a portal or cursor over several shards stands.

use router_config::topology::ShardId;

use super::merged_walk::Strands;
use crate::backend::shape::Agreed;
use crate::route::plan::{Plan, Target};

/// Where a portal or cursor over several shards stands.
#[derive(Debug, Clone)]
pub struct Walk {
    /// In the order in which they are read.
    pub(super) shards: Vec<ShardId>,
    /// The shard that is being read, an index into `shards`.
    pub(super) at: usize,
    /// It has been bound there.
    pub(super) bound: bool,
    /// Rows that LIMIT still allows.
    pub(super) left: Option<u64>,
    /// The last row that was asked for is there.
    pub(super) on_row: bool,
    /// What the rows are.
    pub(super) agreed: Agreed,
    /// The shards are read all at once, and their rows are merged.
    pub(super) strands: Option<Strands>,
}

impl Walk {
    /// Over the shards of a plan; `None` when its rows are not one answer after the other.
    pub fn of(plan: &Plan) -> Option<Self> {
        let (shards, left, strands) = match &plan.target {
            Target::Concat(shards) => (shards, None, None),
            Target::Gather(shards, gather) if gather.takes_any_rows() => (shards, gather.limit, None),
            Target::Gather(shards, gather) => (shards, None, Some(Strands::new(gather))),
            _ => return None,
        };
        let several = shards.len() > 1;
        several.then(|| Self {
            shards: shards.to_vec(),
            at: 0,
            bound: false,
            left,
            on_row: false,
            agreed: Agreed::default(),
            strands,
        })
    }

    /// Whether rows that one shard gives now and another one later are told the same time.
    pub(crate) fn reads_at_once(&self) -> bool {
        self.strands.is_some()
    }

    /// How many rows to ask of the shard it stands in; `None`: all. `wanted` as well.
    pub(super) fn ask(&self, wanted: Option<u64>) -> Option<u64> {
        match (wanted, self.left) {
            (Some(wanted), Some(left)) => Some(wanted.min(left)),
            (wanted, left) => wanted.or(left),
        }
    }

    /// Its shards.
    pub(super) fn target(&self) -> Target {
        Target::Concat(self.shards.iter().copied().collect())
    }

    /// So many rows were read.
    pub(super) fn took(&mut self, rows: u64) {
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(rows);
        }
    }

    pub(super) fn next_shard(&mut self) {
        self.at += 1;
        self.bound = false;
    }

    pub(super) fn is_over(&self) -> bool {
        self.at >= self.shards.len() || self.left == Some(0)
    }
}
