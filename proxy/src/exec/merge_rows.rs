//! MERGE over several shards that inserts rows of a source which is not placed as its target is: one MERGE for each key of the source's
//! rows, each where its key belongs, in one transaction.

use router_config::topology::ShardId;

use super::ask::Ask;
use super::merge::sum_tags;
use crate::control::TextRow;
use crate::frontend::failure::Failure;
use crate::frontend::session::Session;
use crate::route::plan::{Plan, Target};
use crate::route::refusal::Refusal;
use crate::sql::merge_rows::MergeRows;
use crate::wire::backend::tag;

/// Rows of a source, as texts.
type Rows = Vec<Vec<Option<String>>>;

impl Session {
    /// Runs the source, then the statements of its rows.
    pub(super) async fn merge_rows(&mut self, ask: Ask, merge: &MergeRows) -> Result<(), Failure> {
        self.may_prepare()?;
        self.open_implicit();
        let Some(types) = self.begin_in_steps(&ask).await? else { return Ok(()) };
        let clock = self.clock_of(&ask.text).await?;
        let query = self.timed(merge.query(), clock.as_ref());
        let columns = self.named_columns_of(&ask, (&query, &types)).await?;
        let key_at = merge.key_at(&columns).map_err(|why| Refusal::merge(&why))?;
        let stand = self.stand_in(&ask, (&query, &types), false).await?;
        let Some(read) = self.capture(&stand, query).await? else { return Ok(()) };
        let groups = by_key(read.into_iter().map(TextRow::into_values), key_at);
        if groups.is_empty() {
            let text = self.timed(merge.part(&columns, &[], None), clock.as_ref());
            let form = self.form_of(&ask, (&text, &types), true);
            let plan = Plan { target: Target::One(ShardId(0)), ..ask.plan };
            return Box::pin(self.spread(Ask { plan, facts: ask.facts, text, form })).await;
        }
        let mut tags: Vec<Vec<u8>> = Vec::with_capacity(groups.len());
        for (turn, (key, rows)) in groups.into_iter().enumerate() {
            let text = self.timed(merge.part(&columns, &rows, key.as_deref()), clock.as_ref());
            self.check_length(&text)?;
            let stand = self.stand_in(&ask, (&text, &types), true).await?;
            if !matches!(stand.target(), Target::One(_)) {
                return Err(
                    Refusal::merge("with one key of its source it is not one of a single shard").into()
                );
            }
            let start = self.io.out.len();
            let ask = stand.ask(text);
            let form = ask.form.described_if(turn == 0);
            Box::pin(self.spread(Ask { form, ..ask })).await?;
            if self.events.error.is_some() {
                return Ok(());
            }
            tags.extend(self.take_tag(start));
        }
        // One tag stands for all, of which each was counted.
        self.events.completed -= 1;
        let tags: Vec<&[u8]> = tags.iter().map(Vec::as_slice).collect();
        self.complete(&sum_tags(&tags).unwrap_or_default());
        Ok(())
    }

    /// Takes the tag of a statement out of what is to be written; what else there is stays.
    fn take_tag(&mut self, start: usize) -> Option<Vec<u8>> {
        let mut found = None;
        self.sift(start, |tag, body| {
            let is_tag = tag == tag::COMMAND_COMPLETE;
            if is_tag {
                found = body.strip_suffix(b"\0").map(<[u8]>::to_vec);
            }
            is_tag
        });
        found
    }
}

/// The rows of each key, in the order of the first of them.
fn by_key(rows: impl Iterator<Item = Vec<Option<String>>>, key_at: usize) -> Vec<(Option<String>, Rows)> {
    let mut groups: Vec<(Option<String>, Rows)> = Vec::new();
    let mut known = std::collections::HashMap::new();
    for row in rows {
        let key = row.get(key_at).cloned().flatten();
        let at = *known.entry(key.clone()).or_insert_with(|| {
            groups.push((key, Vec::new()));
            groups.len() - 1
        });
        if let Some((_, rows)) = groups.get_mut(at) {
            rows.push(row);
        }
    }
    groups
}
