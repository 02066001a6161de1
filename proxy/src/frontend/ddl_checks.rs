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
use crate::sql::schema::Schema;
use crate::sql::stored::{Token, tokens};
use crate::sql::times::names_the_time;
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

/// One value that is the same on all shards where what is evaluated later is: defaults, checks, views, domains, policies; of those
/// alone that the transaction has made (or another one since it began to write), as their tables are opened.
const DEFINITIONS: &str = "SELECT pg_catalog.md5(coalesce(pg_catalog.string_agg(d, ',' ORDER BY d COLLATE \"C\"), '')) FROM ( \
     SELECT c.relname || '.' || f.adnum || ' ' || pg_catalog.pg_get_expr(f.adbin, f.adrelid) \
       FROM pg_catalog.pg_attrdef f JOIN pg_catalog.pg_class c ON c.oid = f.adrelid WHERE c.relpersistence <> 't' AND pg_catalog.age(f.xmin) <= 0 \
     UNION ALL SELECT k.conname || ' ' || pg_catalog.pg_get_constraintdef(k.oid) FROM pg_catalog.pg_constraint k \
       LEFT JOIN pg_catalog.pg_class c ON c.oid = k.conrelid \
       WHERE k.contype = 'c' AND c.relpersistence IS DISTINCT FROM 't' AND pg_catalog.age(k.xmin) <= 0 \
     UNION ALL SELECT relname || ' ' || pg_catalog.pg_get_viewdef(c.oid) FROM pg_catalog.pg_class c \
       JOIN pg_catalog.pg_rewrite r ON r.ev_class = c.oid AND r.ev_type = '1' \
       WHERE relkind IN ('v', 'm') AND relpersistence <> 't' AND pg_catalog.age(r.xmin) <= 0 \
     UNION ALL SELECT typname || ' ' || typdefault FROM pg_catalog.pg_type WHERE typtype = 'd' \
     UNION ALL SELECT polname || ' ' || coalesce(pg_catalog.pg_get_expr(polqual, polrelid), '') || ' ' \
       || coalesce(pg_catalog.pg_get_expr(polwithcheck, polrelid), '') FROM pg_catalog.pg_policy WHERE pg_catalog.age(xmin) <= 0) AS x (d)";

impl Session {
    /// Behind DDL that has completed on all shards, in its open transaction; its tag is the last that the application was given.
    pub async fn judge_ddl(&mut self, facts: &Facts, text: &[u8]) -> Result<(), Failure> {
        if !facts.effects.changes_catalog || self.events.error.is_some() {
            return Ok(());
        }
        if let Err(failure) = self.judge_times(text).await {
            return self.take_back(failure);
        }
        if !self.may_reshape(text) {
            return Ok(());
        }
        let before = self.schema();
        let judged = match self.read_own_catalog().await {
            Ok(()) => {
                let now = self.schema();
                if let Some(table) = now.reshaped(&before) {
                    return self.take_back(Refusal::reshapes(&table.full_name()).into());
                }
                if let Some(name) = &now.cycling {
                    return self.take_back(cycles(name).into());
                }
                if let Some(refusal) = newly_refused(&now, &before) {
                    return self.take_back(refusal.into());
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

    /// `'now'` and its kind in a definition become the time at which each shard has read them.
    async fn judge_times(&mut self, text: &[u8]) -> Result<(), Failure> {
        if !has_time_text(&String::from_utf8_lossy(text), 0) {
            return Ok(());
        }
        let mut seen = None;
        for at in 0..self.held.len() {
            if !self.held[at].enlisted {
                continue;
            }
            let rows = self.ask_rows(at, DEFINITIONS).await?;
            let sum = rows.first().map(|row| row.owned(0));
            if seen.get_or_insert_with(|| sum.clone()) != &sum {
                return Err(Refusal::barred(
                    "'now', 'today', 'tomorrow' or 'yesterday' in a definition is read by each shard at another time: \
                     use now(), current_date and what is computed of them",
                )
                .into());
            }
        }
        Ok(())
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

/// Whether a string of the text, or one within it, is a word that stands for the time.
fn has_time_text(text: &str, depth: usize) -> bool {
    tokens(text).iter().any(|token| match token {
        Token::Text(inner) => names_the_time(inner) || (depth < 3 && has_time_text(inner, depth + 1)),
        Token::Word(_) | Token::Quoted(_) | Token::Sign(_) => false,
    })
}

/// A sequence that draws what another shard has drawn, when it begins again.
fn cycles(name: &str) -> Refusal {
    let why = format!(
        "the sequence {name} of a sharded table has CYCLE: when it begins again, shards draw the same values; use NO CYCLE"
    );
    Refusal::barred(&why)
}

/// A table that could be used before, and could not be any more: by a child of another kind, for example.
fn newly_refused(now: &Schema, before: &Schema) -> Option<Refusal> {
    let usable = |oid: &u32| {
        !before.refused.contains_key(oid) && before.relations.values().any(|relation| relation.oid == *oid)
    };
    let (_, why) = now.refused.iter().filter(|(oid, _)| usable(oid)).min_by_key(|(oid, _)| **oid)?;
    Some(Refusal::barred(why))
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
