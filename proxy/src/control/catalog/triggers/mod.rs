//! What the use of a relation sets off: triggers, rules, foreign keys' actions, policies, defaults and checks with functions.
//!
//! Each of them runs on the shard where the row is. It is trusted when it provably stays with the row there; else the
//! statement that would set it off is refused ([`Hazards`]). On a sharded table it may use rows of the same key, and read
//! reference tables; on a reference table it must do the same on every shard; on an unsharded one it must keep to the
//! home shard. It may not change a shard key. A function that `[[functions]]` names is trusted.

use std::collections::{HashMap, HashSet};

use super::plpgsql::{self, Row};
use crate::sql::clocks::is_clock;
use crate::sql::extract::{Context, analyse};
use crate::sql::facts::{Access, Command, Facts, KeyTerm, Modify, Pin, Scope, Sharded, ValueRef};
use crate::sql::normalise::identifiers;
use crate::sql::schema::{Deed, Fires, Hazards, Placement, Relation, Schema, Touches};

mod keys;

/// A trigger of the user's with its function.
#[derive(Debug, Clone)]
pub(crate) struct Trigger {
    pub(crate) relation: u32,
    pub(crate) name: String,
    pub(crate) function: String,
    /// `pg_trigger.tgtype`
    pub(crate) bits: i32,
    pub(crate) language: String,
    pub(crate) body: String,
    /// As PostgreSQL prints it.
    pub(crate) definition: String,
    /// `search_path` of the function's own.
    pub(crate) search_path: Option<Vec<String>>,
}

/// A rule other than that of a view.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    pub(crate) relation: u32,
    pub(crate) name: String,
    /// `pg_rewrite.ev_type`
    pub(crate) event: String,
    pub(crate) definition: String,
}

/// A foreign key and what it does when the row that it points to changes.
#[derive(Debug, Clone)]
pub(crate) struct ForeignKey {
    pub(crate) oid: u32,
    pub(crate) name: String,
    pub(crate) child: u32,
    pub(crate) parent: u32,
    /// `confupdtype`, `confdeltype`
    pub(crate) actions: [String; 2],
    /// Those of the child with those of the parent.
    pub(crate) columns: Vec<[String; 2]>,
}

/// An expression that is evaluated with the rows of a relation: of a policy, a check, a default.
#[derive(Debug, Clone)]
pub(crate) struct Expression {
    pub(crate) relation: u32,
    /// For messages: `the policy p`.
    pub(crate) what: String,
    pub(crate) text: String,
    pub(crate) deeds: Vec<Deed>,
}

/// A function that runs when a relation is used.
#[derive(Debug, Clone)]
pub(crate) struct Run {
    /// 0: it belongs to an operator, a type or the like, and may run in any statement.
    pub(crate) relation: u32,
    /// Also when it is read.
    pub(crate) reads: bool,
    pub(crate) function: String,
}

/// All that may be set off in a database.
#[derive(Debug, Default)]
pub(crate) struct SetOff {
    pub(crate) triggers: Vec<Trigger>,
    pub(crate) rules: Vec<Rule>,
    pub(crate) foreign_keys: Vec<ForeignKey>,
    pub(crate) expressions: Vec<Expression>,
    /// Relations whose rows are also those of another one: partition and parent, table and view.
    pub(crate) parts: Vec<(u32, u32)>,
    /// Tables with those that inherit from them and are no partitions.
    pub(crate) children: Vec<(u32, u32)>,
    pub(crate) runs: Vec<Run>,
    /// Functions that the configuration vouches for.
    pub(crate) trusted: HashSet<String>,
}

/// `pg_trigger.h`
const FOR_EACH_ROW: i32 = 1;
const BEFORE_OR_INSTEAD: i32 = 2 | 64;
const EVENTS: [(i32, Deed); 4] =
    [(4, Deed::Insert), (8, Deed::Delete), (16, Deed::Update), (32, Deed::Truncate)];

/// Trigger functions in C that keep to the row; none of them writes a column that can be a key unless its name is given.
const HARMLESS: [&str; 5] = [
    "suppress_redundant_updates_trigger",
    "tsvector_update_trigger",
    "tsvector_update_trigger_column",
    "moddatetime",
    "insert_username",
];

/// A deed to one relation brings about a deed to another.
struct Chain {
    from: (u32, Deed),
    to: (u32, Deed),
    /// Only when certain columns are updated: what they are is told apart.
    by_columns: bool,
}

/// What is found out of all relations.
#[derive(Debug, Default)]
pub(crate) struct Judgement {
    /// [`Schema::hazards`]
    pub(crate) hazards: HashMap<u32, Hazards>,
    /// [`Schema::leavings`]
    pub(crate) leavings: HashSet<(u32, Deed)>,
    /// [`Schema::leaves_unseen`]
    pub(crate) leaves_unseen: bool,
    /// [`Schema::stuck`]
    pub(crate) stuck: HashMap<u32, String>,
    /// [`Schema::fires`]
    pub(crate) fires: HashMap<(u32, Deed), Fires>,
    /// [`Schema::column_hazards`]
    pub(crate) column_hazards: HashMap<(u32, String), String>,
}

/// Judges what the use of each relation sets off.
pub(crate) fn judge(schema: &Schema, set_off: &SetOff) -> Judgement {
    let by_oid: HashMap<u32, &Relation> = schema.relations.values().map(|r| (r.oid, r.as_ref())).collect();
    let mut judge =
        Judge { schema, trusted: &set_off.trusted, by_oid, found: Judgement::default(), chains: Vec::new() };
    set_off.runs.iter().for_each(|run| judge.run(run));
    set_off.triggers.iter().for_each(|trigger| judge.trigger(trigger));
    set_off.rules.iter().for_each(|rule| judge.rule(rule));
    set_off.foreign_keys.iter().for_each(|key| judge.foreign_key(key));
    set_off.expressions.iter().for_each(|expression| judge.expression(expression));
    for &(whole, part) in &set_off.parts {
        let of = |deed| Chain { from: (whole, deed), to: (part, deed), by_columns: false };
        judge.chains.extend(Deed::ALL.map(of));
    }
    set_off.children.iter().for_each(|child| judge.child(*child));
    judge.follow();
    while judge.follow_columns(set_off) {
        judge.follow();
    }
    judge.found
}

struct Judge<'a> {
    schema: &'a Schema,
    trusted: &'a HashSet<String>,
    by_oid: HashMap<u32, &'a Relation>,
    found: Judgement,
    chains: Vec<Chain>,
}

impl Judge<'_> {
    fn add(&mut self, relation: u32, deed: Deed, why: &str) -> bool {
        self.found.hazards.entry(relation).or_default().add(deed, why)
    }

    fn run(&mut self, run: &Run) {
        let known = self.schema.functions.get(&run.function);
        if !known.is_some_and(|function| function.reach.leaves) {
            return;
        }
        self.found.leaves_unseen |= run.relation == 0;
        let deeds = Deed::ALL.into_iter().filter(|deed| run.reads || *deed != Deed::Read);
        self.found.leavings.extend(deeds.map(|deed| (run.relation, deed)));
    }

    /// What is set off sets off more.
    fn follow(&mut self) {
        loop {
            let mut changed = false;
            for at in 0..self.chains.len() {
                let Chain { from, to, by_columns } = self.chains[at];
                changed |= self.found.leavings.contains(&to) && self.found.leavings.insert(from);
                let fires = self.found.fires.get(&to).copied();
                changed |= fires.is_some_and(|fires| self.fires(from, fires));
                let why =
                    self.found.hazards.get(&to.0).and_then(|hazards| hazards.of(to.1)).map(str::to_owned);
                if let Some(why) = why.filter(|_| !by_columns) {
                    changed |= self.add(from.0, from.1, &why);
                }
            }
            if !changed {
                return;
            }
        }
    }

    /// Notes what a deed fires; whether that is more than was known.
    fn fires(&mut self, deed: (u32, Deed), fires: Fires) -> bool {
        let before = self.found.fires.get(&deed).copied();
        let more = before < Some(fires);
        if more {
            self.found.fires.insert(deed, fires);
        }
        more
    }

    fn trigger(&mut self, trigger: &Trigger) {
        let Some(&host) = self.by_oid.get(&trigger.relation) else { return };
        let deeds = EVENTS.into_iter().filter(|(bit, _)| trigger.bits & bit != 0).map(|(_, deed)| deed);
        let for_row = trigger.bits & FOR_EACH_ROW != 0 || self.trusted.contains(&trigger.function);
        for deed in deeds.clone() {
            self.fires((trigger.relation, deed), if for_row { Fires::Row } else { Fires::Statement });
        }
        match self.judged(trigger, host) {
            Ok(written) => {
                for deed in deeds {
                    let chain =
                        |&to: &(u32, Deed)| Chain { from: (trigger.relation, deed), to, by_columns: false };
                    self.chains.extend(written.iter().map(chain));
                }
            }
            Err(why) => {
                let (table, name) = (host.full_name(), &trigger.name);
                let why = format!("the trigger {name} of {table} calls {}(), which {why}", trigger.function);
                for deed in deeds {
                    self.add(trigger.relation, deed, &why);
                }
            }
        }
    }

    /// What the trigger writes; or why it cannot be trusted.
    fn judged(&self, trigger: &Trigger, host: &Relation) -> Result<Vec<(u32, Deed)>, String> {
        if host.placement == Placement::Catalog || self.trusted.contains(&trigger.function) {
            return Ok(Vec::new());
        }
        let key = host.key().and_then(|(at, _)| host.columns.get(at)).map(|column| column.name.as_str());
        let mut words = HashSet::new();
        identifiers(trigger.definition.as_bytes(), true, true, &mut |name| {
            words.insert(name.to_owned());
        });
        if matches!(host.placement, Placement::View { .. }) {
            return Err("replaces the write to a view over sharded tables".to_owned());
        }
        if HARMLESS.contains(&trigger.function.as_str())
            && matches!(trigger.language.as_str(), "internal" | "c")
        {
            return if key.is_some_and(|key| words.contains(key)) || host.placement == Placement::Reference {
                Err("may write another value on each shard".to_owned())
            } else {
                Ok(Vec::new())
            };
        }
        if let Some(name) = words.iter().find(|word| **word != trigger.function && self.reaches(word)) {
            return Err(format!("is called when {name}() says so, which may reach other tables"));
        }
        if trigger.language != "plpgsql" {
            return Err(format!("is written in {}, which is not looked into", trigger.language));
        }
        let columns: Vec<&str> = host.columns.iter().map(|column| column.name.as_str()).collect();
        let body = plpgsql::read(&trigger.body, Row { columns: &columns, key });
        if body.dynamic {
            return Err("runs SQL that it computes".to_owned());
        }
        if let Some(key) = key {
            keeps_key(&body, key, trigger.bits & BEFORE_OR_INSTEAD != 0)?;
        }
        if host.placement == Placement::Reference
            && let Some(name) = self.unrepeatable(&trigger.body)
        {
            return Err(format!("uses {name}: each shard would have another value"));
        }
        let path = trigger.search_path.as_deref().unwrap_or(&self.schema.default_search_path);
        let mut written = Vec::new();
        for sql in &body.sql {
            written.extend(self.statement(sql, host, path)?);
        }
        match body.opaque.iter().find_map(|part| self.mentioned(part, host, false)) {
            Some(name) => Err(format!("uses {name} in a way that is not understood")),
            None => Ok(written),
        }
    }

    /// What one statement on the host's shard writes; or why it cannot run there.
    fn statement(&self, sql: &str, host: &Relation, path: &[String]) -> Result<Vec<(u32, Deed)>, String> {
        let ctx = Context {
            schema: self.schema,
            search_path: path,
            temp_tables: false,
            standard_conforming_strings: true,
            statement_parse_bytes: 1 << 20,
            id: 0,
        };
        let facts = analyse(sql, &ctx);
        if let Command::Unreadable { complaint } = &facts.command {
            return match self.mentioned(sql, host, true) {
                Some(name) => Err(format!("uses {name} in a way that is not understood: {complaint}")),
                None => Ok(Vec::new()),
            };
        }
        let known = matches!(
            facts.command,
            Command::Query | Command::Modify(_) | Command::Notify(_) | Command::Empty
        );
        if !known || facts.effects.pins.is_some() {
            return Err(format!("runs a command that is not looked into: {}", start_of(sql)));
        }
        let relations: Option<Vec<&Relation>> = facts.tables.iter().map(|name| self.named(name)).collect();
        let Some(relations) = relations else {
            return Err(format!("uses a relation that is not known: {}", facts.tables.join(", ")));
        };
        self.fits(&facts, &relations, host)
            .map_err(|why| format!("runs a statement that {why}: {}", start_of(sql)))?;
        let deeds: &[Deed] = match facts.command {
            Command::Modify(Modify::Insert) => &[Deed::Insert, Deed::Update],
            Command::Modify(_) => &[Deed::Insert, Deed::Update, Deed::Delete],
            _ => &[],
        };
        let all = relations.iter().flat_map(|relation| deeds.iter().map(|&deed| (relation.oid, deed)));
        Ok(all.collect())
    }

    /// Whether the rows that a statement uses are where the host's row is.
    fn fits(&self, facts: &Facts, relations: &[&Relation], host: &Relation) -> Result<(), String> {
        let catalog = || relations.iter().all(|relation| relation.placement == Placement::Catalog);
        let stateless = !facts.effects.sequence && !facts.effects.advisory_lock;
        match (&host.placement, &facts.scope) {
            (_, Scope::Unknown { why }) => Err(format!("cannot be placed ({why})")),
            (_, Scope::Nothing | Scope::Reference) if stateless => Ok(()),
            (_, Scope::Home) if matches!(facts.command, Command::Notify(_)) => Ok(()),
            (Placement::Unsharded, Scope::Nothing | Scope::Reference | Scope::Home) => Ok(()),
            // Functions that reach no table, and the catalog, are alike everywhere.
            (_, Scope::Home)
                if stateless && catalog() && (facts.access != Access::Write || relations.is_empty()) =>
            {
                Ok(())
            }
            (Placement::Reference, Scope::ReferenceWrite) => repeats(facts),
            (Placement::Sharded { .. }, Scope::Sharded(sharded)) if stays(sharded, host) => Ok(()),
            (Placement::Sharded { .. }, Scope::Sharded(_)) => {
                Err("may use rows of another shard key".to_owned())
            }
            (_, Scope::Home) => Err("uses what is on the home shard only".to_owned()),
            (_, Scope::ReferenceWrite) => Err("writes a reference table on one shard only".to_owned()),
            _ => Err("uses rows of sharded tables".to_owned()),
        }
    }

    /// The relation of a full name; one that another schema has too is not relied on where it would live elsewhere.
    fn named(&self, full_name: &str) -> Option<&Relation> {
        let (schema, name) = full_name.split_once('.')?;
        let found = self.schema.relations.get(&(schema.to_owned(), name.to_owned()))?;
        let mut others = self.schema.relations.values().filter(|other| other.name == name);
        others.all(|other| other.placement == found.placement).then_some(found.as_ref())
    }

    /// A name in the text that is a relation's which the host has no business with, or a function's that may reach any.
    fn mentioned(&self, text: &str, host: &Relation, inside: bool) -> Option<String> {
        let mut found = None;
        identifiers(text.as_bytes(), true, inside, &mut |name| {
            let foreign = |relation: &&std::sync::Arc<Relation>| {
                relation.name == name
                    && relation.placement != Placement::Catalog
                    && !(host.placement == Placement::Unsharded && relation.placement == Placement::Unsharded)
            };
            if found.is_none()
                && (self.reaches(name) || self.schema.relations.values().any(|relation| foreign(&relation)))
            {
                found = Some(name.to_owned());
            }
        });
        found
    }

    fn reaches(&self, function: &str) -> bool {
        let known = self.schema.function(function);
        known.is_some_and(|known| !known.built_in && known.touches_sharded == Touches::Unknown)
    }

    /// The first function of a body that gives each shard another value.
    fn unrepeatable(&self, body: &str) -> Option<String> {
        let mut found = None;
        identifiers(body.as_bytes(), true, true, &mut |name| {
            let volatile = self.schema.function(name).is_some_and(|known| known.volatile && !known.aggregate);
            if found.is_none()
                && (volatile || is_clock(name) || name == "pg_backend_pid")
                && name != "pg_notify"
            {
                found = Some(format!("{name}()"));
            }
        });
        found
    }

    fn rule(&mut self, rule: &Rule) {
        let Some(&host) = self.by_oid.get(&rule.relation) else { return };
        let alone =
            host.placement == Placement::Unsharded && self.mentioned(&rule.definition, host, true).is_none();
        if alone || host.placement == Placement::Catalog {
            return;
        }
        let deed = match rule.event.as_str() {
            "2" => Deed::Update,
            "3" => Deed::Insert,
            _ => Deed::Delete,
        };
        let why = format!("the rule {} of {} adds statements to it", rule.name, host.full_name());
        self.add(rule.relation, deed, &why);
    }

    fn expression(&mut self, expression: &Expression) {
        let Some(&host) = self.by_oid.get(&expression.relation) else { return };
        if matches!(host.placement, Placement::Catalog | Placement::View { .. }) {
            return;
        }
        let sql = format!("SELECT ({})", expression.text);
        if let Err(why) = self.statement(&sql, host, &[]) {
            let why = format!("{} of {} {why}", expression.what, host.full_name());
            for &deed in &expression.deeds {
                self.add(expression.relation, deed, &why);
            }
        }
    }
}

/// Whether a row trigger leaves the shard key as it is.
fn keeps_key(body: &plpgsql::Body, key: &str, may_replace: bool) -> Result<(), String> {
    let is_row = |name: &String| matches!(name.as_str(), "new" | "old");
    let changes = body.assigned.iter().any(|name| match name.as_slice() {
        [row] => is_row(row),
        [row, column, ..] => is_row(row) && column == key,
        [] => false,
    });
    if changes {
        return Err(format!("may change the shard key {key}"));
    }
    // RETURN NEW, OLD, NULL, or one of them by COALESCE or CASE.
    let plain = |token: &String| {
        let words =
            ["new", "old", "null", "coalesce", "case", "when", "then", "else", "end", "tg_op", "tg_when"];
        words.contains(&token.as_str())
            || matches!(token.as_str(), "(" | ")" | "," | "=")
            || token.starts_with('\'')
    };
    if may_replace && !body.returned.iter().all(|tokens| tokens.iter().all(plain)) {
        return Err(format!("may return a row of another shard key {key}"));
    }
    Ok(())
}

/// Whether a statement keeps to the rows of the host's row's key, which is `$1`.
fn stays(sharded: &Sharded, host: &Relation) -> bool {
    let own = |term: &KeyTerm| term.value == ValueRef::Param(1) && !term.negated && term.cast.is_none();
    let pinned = sharded.groups.iter().all(|pin| match pin {
        Pin::Keys(terms) => terms.iter().all(own),
        Pin::Never => true,
        Pin::Insert => {
            sharded.insert.as_ref().is_some_and(|insert| insert.rows.iter().all(|row| own(&row.key)))
        }
        Pin::Any | Pin::Array(_) => false,
    });
    let same_hash = |key_type| {
        use router_config::key::KeyType::{Int2, Int4, Int8};
        let integer = |key_type| matches!(key_type, Int2 | Int4 | Int8);
        key_type == sharded.key_type || (integer(key_type) && integer(sharded.key_type))
    };
    pinned
        && host.key_type().is_some_and(same_hash)
        && sharded.needs_home.is_none()
        && !sharded.writes_reference
        && !sharded.updates_key
        && sharded.select.is_none()
}

/// Whether a write gives the same rows on each shard.
fn repeats(facts: &Facts) -> Result<(), String> {
    match (&facts.unrepeatable, &facts.defaults) {
        (Some(what), _) => Err(format!("uses {what}, another value on each shard,")),
        (None, Some(_)) => Err("leaves a column to a default that is another value on each shard".to_owned()),
        (None, None) => Ok(()),
    }
}

/// Enough of a statement to be found again.
fn start_of(sql: &str) -> String {
    let start: String = sql.chars().take(80).collect();
    if start.len() < sql.len() { format!("{start} …") } else { start }
}

#[cfg(test)]
mod tests;
