//! DDL is looked at when it has run and before it is committed: a constraint that the shards cannot hold, each for itself, is
//! refused, or accepted with a notice, whatever the words that made it; and so is a table whose rows would be looked for elsewhere.

use bytes::BytesMut;
use router_config::settings::UniqueWithoutKey;

use super::failure::Failure;
use super::session::Session;
use crate::route::refusal::Refusal;
use crate::sql::constraints::Unheld;
use crate::sql::facts::Facts;
use crate::sql::normalise::identifiers;
use crate::sql::tokens::Tokens;
use crate::wire::error::Report;

/// DDL without any of these words makes no constraint, no column that generates values, and changes no column of a table.
const RESHAPING: [&str; 13] = [
    "table",
    "unique",
    "schema",
    "sequence",
    "execute",
    "type",
    "domain",
    "attribute",
    "extension",
    "owned",
    "cascade",
    "materialized",
    "event",
];

impl Session {
    /// Behind DDL that has completed on all shards, in its open transaction; its tag is the last that the application was given.
    pub async fn judge_ddl(&mut self, facts: &Facts, text: &[u8]) -> Result<(), Failure> {
        if !facts.effects.changes_catalog || self.events.error.is_some() || !self.may_reshape(text) {
            return Ok(());
        }
        let before = self.schema();
        let judged = match self.read_own_catalog().await {
            Ok(()) => {
                let now = self.schema();
                if let Some(table) = now.reshaped(&before) {
                    return self.take_back(Refusal::reshapes(&table.full_name()).into());
                }
                if let Some(why) = now.event_trigger.as_ref().filter(|_| before.event_trigger.is_none()) {
                    return self.take_back(Refusal::barred(why).into());
                }
                if let Some(view) = now.unreadable(&before) {
                    return self.take_back(unreadable(&view.full_name()).into());
                }
                let new = now.unheld.iter().filter(|new| !before.unheld.iter().any(|old| old.is(new)));
                self.judge(new)
            }
            Err(failure) => Err(failure),
        };
        let at = self.tag_at.min(self.io.out.len());
        match judged {
            Ok(notices) => {
                let tag = self.io.out.split_off(at);
                self.io.out.extend_from_slice(&notices);
                self.tag_at = self.io.out.len();
                self.io.out.extend_from_slice(&tag);
                Ok(())
            }
            Err(failure) => self.take_back(failure),
        }
    }

    /// The DDL is not told of as completed: the transaction fails.
    fn take_back(&mut self, failure: Failure) -> Result<(), Failure> {
        self.io.out.truncate(self.tag_at);
        self.events.completed = self.events.completed.saturating_sub(1);
        Err(failure)
    }

    fn may_reshape(&self, text: &[u8]) -> bool {
        let mut found = false;
        identifiers(text, self.text_rules().standard_strings, true, &mut |name| {
            found |= RESHAPING.contains(&name);
        });
        found
    }

    /// CREATE UNIQUE INDEX CONCURRENTLY cannot be taken back: it is judged by what it says.
    pub fn judge_concurrent_index(&self, text: &[u8]) -> Result<BytesMut, Failure> {
        let t = Tokens::new(text, self.text_rules().standard_strings);
        self.judge(self.concurrent_index(&t).iter())
    }

    fn concurrent_index(&self, t: &Tokens<'_>) -> Option<Unheld> {
        if !(t.is(0, "create") && t.is(1, "unique") && t.is(2, "index")) {
            return None;
        }
        let on = (3..t.len()).find(|&at| t.is(at, "on"))?;
        let (schema, name, mut open) = t.qualified(on + 1 + usize::from(t.is(on + 1, "only")))?;
        if t.is(open, "using") {
            open += 2;
        }
        let close = t.closing(open)?;
        let search_path = &self.context.as_ref()?.search_path;
        let relation = self.schema().lookup(search_path, schema.as_deref(), &name)?;
        let first = |at: &usize| *at == open + 1 || t.is_mark(at - 1, ",");
        let plain = |at: &usize| !t.is_mark(at + 1, "(") && !t.is_mark(at + 1, ".");
        let columns = (open + 1..close).filter(first).filter(plain).filter_map(|at| t.name(at));
        let index = t.name(on - 1).unwrap_or_default();
        Unheld::unique(&relation, (&index, 0), columns.map(|name| name.into_owned()).collect())
    }

    /// Refuses the first that the settings do not accept; notices of those that they do.
    fn judge<'a>(&self, new: impl Iterator<Item = &'a Unheld>) -> Result<BytesMut, Failure> {
        let policy = self.worker.shared.settings.load().routing.unique_without_key;
        let silent = self.gucs_in_force().get("client_min_messages").is_some_and(|level| {
            matches!(level.trim_matches('\'').to_ascii_lowercase().as_str(), "warning" | "error")
        });
        let mut notices = BytesMut::new();
        for unheld in new {
            let accepted = match policy {
                UniqueWithoutKey::Refuse => false,
                UniqueWithoutKey::Generated => unheld.is_generated(),
                UniqueWithoutKey::PerShard => unheld.is_unique(),
            };
            if !accepted {
                return Err(Refusal::unsupported(unheld.problem(), unheld.cure()).into());
            }
            if !silent && !unheld.is_generated() {
                Report::notice(&unheld.problem()).write(&mut notices);
            }
        }
        Ok(notices)
    }
}

fn unreadable(view: &str) -> Refusal {
    let refusal = Refusal::unsupported(
        format!(
            "the materialized view {view} could not be read: its rows are not those of one sharded table, key included"
        ),
        "Leave the aggregates, joins and orders to the queries on it and select the shard key, or make it on a reference table.",
    );
    refusal.because("Each shard would fill it from its own rows alone.".to_owned())
}
