//! LIMIT together with row locks, or with functions that run for each row: one shard after the other gives as many rows as are still
//! wanted, so that no row is locked that is not an answer.

use bytes::Bytes;

use super::ask::{Ask, Share};
use super::merge::Merge;
use crate::backend::conn::Events;
use crate::backend::owed::Show;
use crate::backend::shape::Agreed;
use crate::frontend::failure::Failure;
use crate::frontend::session::Session;
use crate::frontend::watch::Why;
use crate::route::plan::Limited;

impl Session {
    /// Runs the query for the rows that are left, shard by shard.
    pub(super) async fn limited(&mut self, ask: Ask, limited: &Limited) -> Result<(), Failure> {
        ask.check_row_limit(limited.shards.len())?;
        let order = self.acquire_all(limited.shards.iter().copied(), false).await?;
        order.iter().for_each(|at| self.note_shard(Why::of(&ask.plan), *at));
        self.expect(&ask.facts, &ask.text, None);
        let several = order.len() > 1;
        self.events.agreed = several.then(Agreed::default);
        let (mut left, mut shares, mut outcome) = (limited.limit, Vec::new(), Vec::new());
        for (turn, at) in order.iter().copied().enumerate() {
            if turn > 0 && left == 0 {
                break;
            }
            let (text, origins) = limited.text(left);
            let share = Share { origins, ..Share::new(self.held[at].shard, Bytes::from(text)) };
            let show = Merge::Concat.show(turn == 0);
            let show = if several { show.and(Show::COMPARED) } else { show };
            self.queue_share(at, &share, &ask.form, show)?;
            self.held[at].lease.rewritten = self.rewritten(&ask, &share);
            outcome.append(&mut self.drive(&[at]).await?);
            shares.push(share);
            let wrong = |events: &Events| events.error.is_some() || events.changed || events.differs;
            let last = outcome.last();
            if last.is_none_or(wrong) {
                break;
            }
            let tag = last.and_then(|events| events.last_tag.as_deref()).unwrap_or_default();
            left = left.saturating_sub(rows_of(tag));
        }
        self.events.agreed = None;
        self.check_rows(&outcome, false)?;
        self.conclude(outcome, &shares, Merge::Concat)
    }
}

/// How many rows `SELECT 7` tells of.
fn rows_of(tag: &[u8]) -> u64 {
    let tag = std::str::from_utf8(tag).unwrap_or_default();
    tag.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or(0)
}
