//! lastval and currval of a session whose statements run on many conns.
//!
//! Invariant: they answer with what this session has drawn, or not at all. A conn knows for which session it has last run something that
//! may have drawn from a sequence; the question goes to that conn and to no other.

use router_config::settings::PoolMode;
use router_config::topology::ShardId;

use super::failure::Failure;
use super::session::{Held, Session};
use crate::route::origins::Origins;
use crate::route::plan::{Draw, Part, Plan, Target};
use crate::route::refusal::Refusal;
use crate::sql::calls::{argument_of, with_call};
use crate::sql::facts::{Facts, Scope};

/// What a session has drawn.
#[derive(Debug)]
pub struct Draws {
    /// Its name on conns.
    id: u64,
    last: Last,
    /// A key that was drawn for the statement under way.
    key: Option<Key>,
    /// It asks for what it has drawn: the conn that knows stays with it.
    asks: bool,
    /// It has drawn on more than one shard.
    several: bool,
}

/// Where the last value was drawn.
#[derive(Debug, Clone)]
enum Last {
    Nowhere,
    Shard(ShardId),
    Key(Key),
    /// On several shards by one statement, or in an order that is not known.
    Unclear,
}

/// A key that the proxy has drawn from its default.
#[derive(Debug, Clone)]
struct Key {
    /// The query that drew it, which names the sequence.
    sql: String,
    /// `None`: the statement draws other values too.
    value: Option<String>,
}

impl Default for Draws {
    /// Nothing yet.
    fn default() -> Self {
        // Zero is nobody.
        let id = rand::random::<u64>() | 1;
        Self { id, last: Last::Nowhere, key: None, asks: false, several: false }
    }
}

impl Draws {
    /// Whether the session asks for what it has drawn.
    pub fn asks(&self) -> bool {
        self.asks
    }

    /// A statement begins.
    pub fn next_statement(&mut self) {
        self.key = None;
    }

    /// Whether the conn is kept because it alone knows what was drawn last.
    pub fn keeps(&self, held: &Held) -> bool {
        let last = matches!(self.last, Last::Shard(shard) if shard == held.shard);
        self.asks && last && held.lease.drew_for == self.id
    }
}

impl Session {
    /// Something runs on the conn that may draw from sequences.
    pub(crate) fn draws_on(&mut self, at: usize) {
        let held = &mut self.held[at];
        held.lease.drew_for = self.draws.id;
        let shard = held.shard;
        self.draws.last = match (&self.draws.key, &self.draws.last) {
            (Some(Key { value: None, .. }), _) => Last::Unclear,
            (Some(key), _) => Last::Key(key.clone()),
            (None, last) => {
                self.draws.several |= matches!(last, Last::Shard(other) if *other != shard);
                Last::Shard(shard)
            }
        };
    }

    /// One statement has written to several shards: which value was the last is not known.
    pub(crate) fn draws_on_several(&mut self) {
        if self.draws.key.is_none() {
            self.draws.last = Last::Unclear;
        }
    }

    /// The key of the statement under way has been drawn.
    pub(super) fn drew_key(&mut self, facts: &Facts, draw: &Draw, drawn: &[String]) {
        if !draw.sql.contains("nextval(") {
            return;
        }
        let schema = self.schema();
        let relation = facts.tables.first().and_then(|table| schema.by_full_name(table));
        let drawing = relation.map_or(2, |relation| {
            let draws = |default: &String| default.contains("nextval(");
            relation.columns.iter().filter(|column| column.default.as_ref().is_some_and(draws)).count()
        });
        let value = drawn.last().filter(|_| drawing <= 1).cloned();
        self.draws.key = Some(Key { sql: draw.sql.clone(), value });
    }

    /// Where a question for the last value goes.
    pub(super) fn plan_drawn_value(&self, text: &[u8], facts: &Facts, plan: Plan) -> Result<Plan, Refusal> {
        let free = matches!(facts.scope, Scope::Nothing | Scope::Home) && facts.tables.is_empty();
        match &self.draws.last {
            Last::Key(key) if free => self.plan_key(text, key, plan),
            Last::Nowhere => Ok(plan),
            Last::Shard(_) if facts.effects.strided && self.draws.several => Err(unclear()),
            // A sequence of the home shard's own is asked there.
            Last::Shard(_) if free && facts.effects.home_sequence => Ok(plan),
            Last::Shard(shard) if free => Ok(Plan { target: Target::One(*shard), ..plan }),
            Last::Shard(shard) if plan.target == Target::One(*shard) => Ok(plan),
            Last::Shard(_) | Last::Key(_) | Last::Unclear => Err(unclear()),
        }
    }

    /// The value itself in place of the call.
    fn plan_key(&self, text: &[u8], key: &Key, plan: Plan) -> Result<Plan, Refusal> {
        let conforming = self.text_rules().standard_strings;
        let Some(value) = &key.value else { return Err(unclear()) };
        let value = format!("{value}::pg_catalog.int8");
        let replaced = match argument_of(text, conforming, "currval") {
            None => with_call(text, conforming, "lastval", &value),
            Some(argument) => {
                let name = argument.trim_matches('\'').rsplit('.').next().unwrap_or_default().to_owned();
                let names = [format!("'{name}'"), format!(".{name}'"), format!("\"{name}\"'")];
                if !names.iter().any(|name| key.sql.contains(name.as_str())) {
                    return Ok(plan);
                }
                with_call(text, conforming, "currval", &value)
            }
        };
        let text = replaced.ok_or_else(unclear)?;
        let shard = self.busy_shard().or(self.pins.any()).unwrap_or(ShardId(0));
        let part = Part { shard, text, params: Vec::new(), rows: Vec::new(), origins: Origins::default() };
        Ok(Plan { target: Target::Split(vec![part]), ..plan })
    }

    /// A question for the last value is about to take a conn.
    pub(super) fn asks_drawn(&mut self, facts: &Facts) {
        self.draws.asks |= facts.effects.currval;
    }

    /// Whether the conn is the one that the session has drawn on, if the statement asks for that.
    pub(super) fn check_drawn(&self, at: usize, facts: &Facts) -> Result<(), Failure> {
        // In session pooling the connection is the session's own, and says itself what is not defined.
        let own = self.who.mode == PoolMode::Session || self.held[at].lease.drew_for == self.draws.id;
        if !facts.effects.currval || own {
            return Ok(());
        }
        Err(Refusal {
            sqlstate: "55000",
            message: "lastval and currval are not defined in this session".to_owned(),
            detail: Some("Nothing was drawn, or its connection has served another session since.".to_owned()),
            hint: Some("Use RETURNING, or ask in the same transaction.".to_owned()),
        }
        .into())
    }

    /// Among the idle conns of its pool, the one that the session has drawn on, if it is there.
    pub(super) async fn recall(&mut self, first: Held) -> Result<Held, Failure> {
        let (shard, mut held) = (first.shard, first);
        let mut others = Vec::new();
        while self.draws.asks && held.lease.drew_for != self.draws.id && held.lease.idle_of_pool() > 0 {
            others.push(held);
            held = self.lease(shard, false).await?;
        }
        Ok(held)
    }
}

fn unclear() -> Refusal {
    Refusal {
        sqlstate: "55000",
        message: "which value this session has drawn last is not known on one shard".to_owned(),
        detail: Some("It has drawn on several shards, or the proxy has drawn the key.".to_owned()),
        hint: Some("Use RETURNING.".to_owned()),
    }
}
