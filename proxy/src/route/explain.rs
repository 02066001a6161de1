//! What a plan looks like to people: `EXPLAIN (GAVEL) statement` and `gavel route`.

use router_config::topology::{ShardId, Topology};
use serde::Serialize;

use super::plan::{Plan, Reason, SessionView, Target};
use super::refusal::Refusal;
use super::values::Values;
use crate::sql::facts::{Access, Command, Facts, Scope};

/// Bytes of a part's text that are shown.
const TEXT_MAX_BYTES: usize = 200;

/// Of a text that is passed on as it is.
const PASSED_ON: &str = "It is passed on as it is: the server says what is wrong with it, if anything is.";

/// A plan, or a refusal, in words.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
pub struct Explanation {
    /// What happens: `one shard`, `any shard`, `split`, `refused`, …
    pub plan: &'static str,
    /// Names of the shards that take part; empty for a refusal.
    pub shards: Vec<String>,
    /// `primary` or `replica`; `None` for a refusal.
    pub role: Option<&'static str>,
    /// Why.
    pub reason: String,
    /// The key, if there is one and it may be shown.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub key: Option<String>,
    /// The key's slot.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub slot: Option<u16>,
    /// What becomes of several shards' answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub merge: Option<&'static str>,
    /// The query that draws keys first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub draw: Option<String>,
    /// What each shard is sent, if not the statement as it is: shard, rows, text.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub parts: Vec<(String, usize, String)>,
    /// SQLSTATE of a refusal.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub sqlstate: Option<&'static str>,
    /// Detail of a refusal, or what the proxy could not read.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
    /// Hint to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
}

/// Plans the statement and puts the outcome into words. With `values_shown`, keys and texts of parts are shown; they
/// come from the application's data.
pub fn explain(
    topology: &Topology,
    facts: &Facts,
    values: &Values<'_>,
    session: &SessionView<'_>,
    values_shown: bool,
) -> Explanation {
    match super::plan(topology, facts, values, session) {
        Ok(plan) => {
            let mut explanation = of_plan(topology, &plan, values_shown);
            if let Some(why) = not_parsed(facts) {
                explanation.detail = Some(format!("The text was not parsed: {why}."));
                explanation.hint = Some(PASSED_ON.to_owned());
            }
            explanation
        }
        Err(refusal) => of_refusal(&refusal),
    }
}

fn not_parsed(facts: &Facts) -> Option<&str> {
    let looked_into = !facts.tables.is_empty() || facts.access == Access::Read;
    match &facts.command {
        Command::Unreadable { complaint } => Some(complaint),
        Command::Other if matches!(facts.scope, Scope::Home) && !looked_into => {
            Some("it begins like no statement that the proxy looks into")
        }
        _ => None,
    }
}

/// A plan in words.
pub fn of_plan(topology: &Topology, plan: &Plan, values_shown: bool) -> Explanation {
    let name = |shard: &ShardId| topology.shard(*shard).map_or("?", |shard| shard.name.as_str()).to_owned();
    let (what, shards, merge) = in_words(topology, &plan.target);
    let parts = match &plan.target {
        Target::Split(parts) => parts
            .iter()
            .map(|part| {
                let text = if values_shown { shorten(&part.text) } else { "(redacted)".to_owned() };
                (name(&part.shard), part.rows.len(), text)
            })
            .collect(),
        _ => Vec::new(),
    };
    let draw = match &plan.target {
        Target::Draw(draw) => Some(draw.sql.clone()),
        _ => None,
    };
    let (key, slot) = match &plan.reason {
        Reason::Key { key, slot } => (values_shown.then(|| key.to_string()), Some(slot.0)),
        _ => (None, None),
    };
    Explanation {
        plan: what,
        shards,
        role: Some(if plan.replica { "replica" } else { "primary" }),
        reason: plan.reason.to_string(),
        key,
        slot,
        merge,
        draw,
        parts,
        ..Explanation::default()
    }
}

/// What happens, on which shards, and what becomes of their answers.
fn in_words(topology: &Topology, target: &Target) -> (&'static str, Vec<String>, Option<&'static str>) {
    let name = |shard: &ShardId| topology.shard(*shard).map_or("?", |shard| shard.name.as_str()).to_owned();
    let all = || topology.shards.iter().map(|shard| shard.name.clone()).collect();
    match target {
        Target::One(shard) => ("one shard", vec![name(shard)], None),
        Target::Any => ("any shard", all(), None),
        Target::Concat(shards) => {
            ("several shards", shards.iter().map(name).collect(), Some("answers one after the other"))
        }
        Target::Gather(shards, gather) => {
            ("several shards", shards.iter().map(name).collect(), Some(gather.in_words()))
        }
        Target::Each(shards) => {
            let merge = Some("answers one after the other, counts added up");
            ("several shards, in one transaction", shards.iter().map(name).collect(), merge)
        }
        Target::Limited(limited) => {
            let merge = Some("rows of one shard after the other, as many as LIMIT says");
            ("several shards, one by one", limited.shards.iter().map(name).collect(), merge)
        }
        Target::Explain(..) => ("each shard explains its part", all(), None),
        Target::Nowhere(shard) => ("no shard holds a matching row", vec![name(shard)], None),
        Target::Everywhere | Target::EverywhereAs(_) => {
            ("every shard, in one transaction", all(), Some("answer of the first shard"))
        }
        Target::EachAlone => {
            ("every shard, one by one, outside of a transaction", all(), Some("answer of the first shard"))
        }
        Target::Split(parts) => {
            let shards = parts.iter().map(|part| name(&part.shard)).collect();
            ("split by row", shards, (parts.len() > 1).then_some("rows in their order, counts added up"))
        }
        Target::Move(moves) => {
            let mut shards = moves.from.clone();
            super::locate::insert(&mut shards, moves.to);
            ("rows move to another shard, in one transaction", shards.iter().map(name).collect(), None)
        }
        Target::InsertRows(_) => ("the query is run first, then each row goes to its shard", all(), None),
        Target::MergeRows(_) => (
            "the source is run first, then one MERGE for each key of its rows, in one transaction",
            all(),
            None,
        ),
        Target::WithWrites(_) => {
            ("the parts of WITH that write run one after the other, in one transaction", all(), None)
        }
        Target::Fill(_) => ("the query is run first, its rows fill the temporary table", all(), None),
        Target::Broadcast(_) => {
            ("the tables that it reads are sent to every shard, in one transaction", all(), None)
        }
        Target::Draw(_) => ("keys are drawn first, then each row goes to its shard", Vec::new(), None),
        Target::CopySplit => ("split by row as it streams", all(), Some("counts added up")),
        Target::Combine(combine) => (
            "rows are gathered, and PostgreSQL computes the answer in one place",
            combine.shards().iter().map(name).collect(),
            Some("computed on the primary of the home shard"),
        ),
        Target::CopyEverywhere => ("all rows to every shard", all(), Some("answer of the first shard")),
    }
}

/// A refusal in words.
pub fn of_refusal(refusal: &Refusal) -> Explanation {
    Explanation {
        plan: "refused",
        reason: refusal.message.clone(),
        sqlstate: Some(refusal.sqlstate),
        detail: refusal.detail.clone(),
        hint: refusal.hint.clone(),
        ..Explanation::default()
    }
}

impl Explanation {
    /// Lines for people: the rows of `EXPLAIN (GAVEL)`.
    pub fn lines(&self) -> Vec<String> {
        let mut lines = vec![format!("Plan: {}", self.plan)];
        let mut line = |name: &str, value: &str| lines.push(format!("{name}: {value}"));
        if !self.shards.is_empty() {
            line("Shards", &self.shards.join(", "));
        }
        if let Some(role) = self.role {
            line("Role", role);
        }
        match self.sqlstate {
            Some(sqlstate) => line("Refused", &format!("{} ({sqlstate})", self.reason)),
            None => line("Reason", &self.reason),
        }
        let slot = self.slot.map(|slot| slot.to_string());
        let merge = self.merge.map(str::to_owned);
        let optional = [
            ("Key", &self.key),
            ("Slot", &slot),
            ("Merge", &merge),
            ("Draw", &self.draw),
            ("Detail", &self.detail),
            ("Hint", &self.hint),
        ];
        for (name, value) in optional {
            if let Some(value) = value {
                line(name, value);
            }
        }
        for (shard, rows, text) in &self.parts {
            line(&format!("Part {shard}"), &format!("{rows} rows: {text}"));
        }
        lines
    }
}

fn shorten(text: &str) -> String {
    match text.char_indices().nth(TEXT_MAX_BYTES) {
        Some((end, _)) => format!("{}...", text.get(..end).unwrap_or_default()),
        None => text.to_owned(),
    }
}
