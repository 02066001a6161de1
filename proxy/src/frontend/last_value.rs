//! What a sequence that each shard draws from on its own says of itself: the answer is that of the shard which is furthest, so that
//! a dump that is restored from it draws no value twice.

use router_config::settings::DatabaseKind;
use router_config::topology::ShardId;

use super::failure::Failure;
use super::session::Session;
use crate::route::plan::{Plan, Target};
use crate::sql::facts::{Command, Facts};
use crate::sql::last_value::sequence_read;

impl Session {
    /// The plan of a statement; of a query which reads such a sequence as a table, the one for the shard that is furthest.
    pub(super) async fn of_furthest(
        &mut self,
        plan: Plan,
        facts: &Facts,
        text: &[u8],
    ) -> Result<Plan, Failure> {
        Ok(match self.furthest(facts, text).await? {
            Some(shard) => Plan { target: Target::One(shard), replica: false, ..plan },
            None => plan,
        })
    }

    /// The shard that is to answer a query which reads such a sequence as a table; `None` for any other statement.
    async fn furthest(&mut self, facts: &Facts, text: &[u8]) -> Result<Option<ShardId>, Failure> {
        let count = self.worker.shared.topology.load().shards.len();
        if count < 2 || !matches!((&self.who.kind, &facts.command), (DatabaseKind::Sharded, Command::Query)) {
            return Ok(None);
        }
        let Some((written, name)) = sequence_read(text, self.text_rules().standard_strings) else {
            return Ok(None);
        };
        if !self.schema().draws_on_each_shard(&name) {
            return Ok(None);
        }
        let shards: Vec<_> = (0..count).filter_map(|n| u16::try_from(n).ok()).map(ShardId).collect();
        let order = Box::pin(self.acquire_all(shards.iter().copied(), false)).await?;
        let mut furthest = None;
        for (shard, at) in shards.into_iter().zip(order) {
            let rows =
                self.ask_rows(at, &format!("SELECT is_called::int, last_value FROM {written}")).await?;
            let says = rows.first().map(|row| (row.number::<i64>(0), row.number::<i64>(1)));
            furthest = furthest.max(Some((says, std::cmp::Reverse(shard.0))));
        }
        Ok(furthest.map(|(_, shard)| ShardId(shard.0)))
    }
}
