//! From a text or a Bind to a plan: the facts' context, the hints, the session's view.

use std::ops::Range;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use router_config::settings::DatabaseKind;
use router_config::topology::ShardId;

use super::control::leaves_failed;
use super::failure::Failure;
use super::names::{Cursor, Prepared};
use super::session::{Session, SessionContext};
use crate::route::origins::Origins;
use crate::route::plan::{Part, Plan, Reason, SessionView, Target};
use crate::route::values::{BindError, BindParams, TextRules, Values};
use crate::route::{self, refusal::Refusal};
use crate::sql::cache::Analysed;
use crate::sql::calls::with_channels;
use crate::sql::extract::Context;
use crate::sql::facts::{Command, Facts, PinCause};
use crate::sql::schema::Schema;
use crate::wire::sqlstate;

impl Session {
    /// Facts of a text of the simple protocol.
    pub fn analyse_simple(&mut self, text: &[u8]) -> Analysed {
        self.with_context(|cache, context| cache.simple(text, context))
    }

    /// Facts of a text of Parse.
    pub fn analyse_extended(&mut self, text: &[u8]) -> Analysed {
        self.with_context(|cache, context| cache.extended(text, context))
    }

    /// As [`Self::analyse_simple`]; a relation that the catalog does not know is looked for before anything is made of it.
    pub async fn read_simple(&mut self, text: &[u8]) -> Result<Analysed, Failure> {
        let analysed = self.analyse_simple(text);
        let found = self.look_for_names(&analysed).await?;
        Ok(if found { self.analyse_simple(text) } else { analysed })
    }

    /// As [`Self::analyse_extended`], with the same care.
    pub async fn read_extended(&mut self, text: &[u8]) -> Result<Analysed, Failure> {
        let analysed = self.analyse_extended(text);
        let found = self.look_for_names(&analysed).await?;
        Ok(if found { self.analyse_extended(text) } else { analysed })
    }

    fn with_context<R>(&mut self, use_it: impl FnOnce(&crate::sql::cache::Cache, &Context<'_>) -> R) -> R {
        let schema = self.renew_context();
        let shared = &self.worker.shared;
        let made = self.context.as_ref().expect("made just now if it was missing");
        use_it(&shared.facts, &made.over(&schema, &shared.settings.load()))
    }

    /// Reads something as the statement under way was read, and over a catalog that may have been read anew since (then the second
    /// argument is false); `None`: nothing was read yet.
    pub(super) fn in_context<R>(&self, use_it: impl FnOnce(&Context<'_>, bool) -> R) -> Option<R> {
        let known = self.context.as_ref()?;
        let schema = self.schema();
        let settings = self.worker.shared.settings.load();
        Some(use_it(&known.over(&schema, &settings), known.generation == schema.generation))
    }

    /// Makes the facts' context anew where it is missing or out of date; the catalog that it is of.
    fn renew_context(&mut self) -> Arc<Schema> {
        let schema = self.schema();
        let fresh = self.context.as_ref().is_some_and(|context| {
            context.generation == schema.generation
                && context.gucs == self.gucs_in_force().fingerprint()
                && context.temp_tables == self.has_temporary()
        });
        if !fresh {
            self.context = Some(self.make_context(&schema));
        }
        schema
    }

    /// A number that is equal as long as texts are read alike.
    pub fn reading(&mut self) -> u32 {
        self.renew_context();
        self.context.as_ref().map_or(0, |context| context.id)
    }

    fn make_context(&self, schema: &Schema) -> SessionContext {
        let gucs = self.gucs_in_force();
        let named =
            |setting: &str| gucs.get(setting).and_then(|value| split_path(value, "").into_iter().next());
        let role = named("role").filter(|role| role != "none");
        let user = role.or_else(|| named("session_authorization"));
        let user = user.as_deref().unwrap_or(&self.who.user);
        let search_path = match gucs.get("search_path") {
            None => {
                let named = |entry: &String| if entry == "$user" { user.to_owned() } else { entry.clone() };
                schema.default_search_path.iter().map(named).collect()
            }
            Some(value) => split_path(value, user),
        };
        let conforming = gucs.get("standard_conforming_strings").is_none_or(|value| {
            !matches!(value.trim_matches('\'').to_ascii_lowercase().as_str(), "off" | "false" | "no" | "0")
        });
        let id = self.worker.shared.facts.context_id(
            schema.generation,
            &search_path,
            self.has_temporary(),
            conforming,
        );
        SessionContext {
            generation: schema.generation,
            gucs: gucs.fingerprint(),
            temp_tables: self.has_temporary(),
            id,
            search_path,
            conforming,
            null_equals: self.null_equals(),
        }
    }

    /// The catalog of this session's database; an empty one where nothing is routed.
    pub fn schema(&self) -> Arc<Schema> {
        if let Some(with_temporary) = self.temporary.schema().filter(|_| self.has_temporary()) {
            return Arc::clone(with_temporary);
        }
        if let Some(own) = self.changes.own() {
            return Arc::clone(own);
        }
        match self.who.kind {
            DatabaseKind::Sharded => self
                .catalog
                .as_ref()
                .map_or_else(|| Arc::clone(&self.worker.shared.no_schema), |c| c.schema()),
            DatabaseKind::FirstShard | DatabaseKind::Node(_) => Arc::clone(&self.worker.shared.no_schema),
        }
    }

    /// Identity of what a Parse of this session reads besides its text.
    pub fn parse_context(&self) -> u64 {
        use std::hash::BuildHasher;
        let schema = match self.who.kind {
            DatabaseKind::Sharded => self.schema().generation,
            DatabaseKind::FirstShard | DatabaseKind::Node(_) => {
                self.worker.shared.unrouted_ddl.load(Ordering::Relaxed)
            }
        };
        // What the transaction has made itself, others do not see.
        let own = self.has_temporary() || self.changes.any();
        let private =
            if own { Arc::as_ptr(&self.io.visible) as u64 + u64::from(self.changes.count()) } else { 0 };
        foldhash::fast::FixedState::default().hash_one((
            self.who.user.as_str(),
            self.who.backend_database.as_str(),
            self.gucs_in_force().fingerprint(),
            schema,
            private,
        ))
    }

    /// Plan of statement `index` of a text of the simple protocol.
    pub fn plan_simple(&self, text: &[u8], analysed: &Analysed, index: usize) -> Result<Plan, Refusal> {
        self.plan(Request { text, analysed, index, params: None }, None)
    }

    /// Plan of a Bind; `rest` is its body after the names.
    pub fn plan_bind(
        &self,
        statement: &Prepared,
        rest: &[u8],
        drawn: Option<&[String]>,
    ) -> Result<Plan, Refusal> {
        let params = BindParams::parse(rest, statement.types()).map_err(|error| Refusal {
            sqlstate: match error {
                BindError::FormatCode(_) => sqlstate::INVALID_PARAMETER_VALUE,
                BindError::Truncated | BindError::Formats { .. } => sqlstate::PROTOCOL_VIOLATION,
            },
            message: error.to_string(),
            detail: None,
            hint: None,
        })?;
        let request = Request {
            text: &statement.shared.text,
            analysed: &statement.analysed,
            index: 0,
            params: Some(&params),
        };
        self.plan(request, drawn)
    }

    /// Plan of a statement with drawn keys, simple protocol.
    pub fn plan_drawn(
        &self,
        text: &[u8],
        analysed: &Analysed,
        index: usize,
        drawn: &[String],
    ) -> Result<Plan, Refusal> {
        self.plan(Request { text, analysed, index, params: None }, Some(drawn))
    }

    fn plan(&self, request: Request<'_>, drawn: Option<&[String]>) -> Result<Plan, Refusal> {
        if !matches!(self.who.kind, DatabaseKind::Sharded) {
            return Ok(Plan { target: Target::One(ShardId(0)), replica: false, reason: Reason::PassThrough });
        }
        let Some(statement) = request.analysed.statements().get(request.index) else {
            return Ok(Plan { target: Target::Any, replica: false, reason: Reason::NoShardedTable });
        };
        if let Some(target) = self.cursor_plan(&statement.facts) {
            return Ok(Plan { target, replica: false, reason: Reason::NoKey });
        }
        let shared = &self.worker.shared;
        let topology = shared.topology.load();
        let settings = shared.settings.load();
        let hints = request.analysed.hints();
        let text_of = |range: &Option<Range<usize>>| {
            range.as_ref().and_then(|range| std::str::from_utf8(request.text.get(range.clone())?).ok())
        };
        text_of(&hints.unknown).map_or(Ok(()), |word| Err(Refusal::unknown_hint(word)))?;
        let view = SessionView {
            hint_key: text_of(&hints.key).or(self.hints.key.as_deref()),
            hint_shard: text_of(&hints.shard).or(self.hints.shard.as_deref()),
            in_transaction: self.block.is_some(),
            read_only: self.block.as_ref().map_or(self.read_only, |block| block.read_only),
            enlisted: self.busy_shard(),
            spread: self.spread,
            pinned: self.pins.names(),
            two_phase: settings.routing.two_phase,
            // A standby has no serializable transactions.
            reads_replica: self.reads_replica(&settings) && !self.is_serializable(),
        };
        let values = Values {
            text: request.text,
            analysed: request.analysed,
            index: request.index,
            params: request.params,
            rules: self.text_rules(),
        };
        let several = topology.shards.len() > 1;
        if several && view.hint_shard.is_none() {
            self.check_problems(&statement.facts)?;
        }
        let own = || &request.text[request.analysed.range(request.index)];
        self.check_null_equals(several, own())?;
        if statement.facts.effects.pins == Some(PinCause::Config)
            && self.followed(&statement.facts, own(), request.params).is_some()
        {
            // As a SET: the planner reads the names that come after it by what it says.
            let facts = Facts { barred: None, ..Facts::clone(&statement.facts) };
            let plan = route::plan(&topology, &facts, &values, &view)?;
            return Ok(Plan { target: Target::Any, ..plan });
        }
        let mut plan = match drawn {
            None => route::plan(&topology, &statement.facts, &values, &view),
            Some(drawn) => route::plan_drawn(&topology, &statement.facts, &values, &view, drawn),
        }
        .or_else(|refusal| self.plan_combine(refusal, &values, &topology, &view))
        .or_else(|refusal| self.plan_in_steps(refusal, &values, &view))?;
        if several {
            self.check_copy(&statement.facts, &mut plan, own())?;
        }
        if statement.facts.effects.listening_channels && self.listening.is_some() {
            return self.plan_channels(own(), request.params.map_or(0, BindParams::len), plan);
        }
        self.check_config(&plan)?;
        if let Command::Fetch(name) | Command::CloseCursor(Some(name)) = &statement.facts.command
            && let Some(Cursor::One { shard, .. }) = self.names.cursors.get(name)
        {
            return Ok(Plan { target: Target::One(*shard), ..plan });
        }
        if statement.facts.effects.currval {
            return self.plan_drawn_value(own(), &statement.facts, plan);
        }
        Ok(self.at_writer(&statement.facts, plan))
    }

    /// Settings that one conn alone has: no other shard may answer.
    fn check_config(&self, plan: &Plan) -> Result<(), Refusal> {
        let Some(pinned) = self.pins.settings() else { return Ok(()) };
        match &plan.target {
            Target::Any => Ok(()),
            Target::One(shard) | Target::Nowhere(shard) if *shard == pinned => Ok(()),
            _ => Err(Refusal::unsupported(
                "this session has changed settings in a way that the other shards cannot be told of",
                "Use SET, or set_config with plain values, and DISCARD ALL to begin anew.",
            )),
        }
    }

    /// NOTIFY goes where the transaction writes: with a second writer it would have to be prepared, which PostgreSQL refuses.
    fn at_writer(&self, facts: &Facts, plan: Plan) -> Plan {
        let anywhere = matches!(facts.command, Command::Notify(_))
            || (facts.effects.notifies && matches!(plan.target, Target::Any));
        if !anywhere {
            return plan;
        }
        let enlisted = || self.held.iter().filter(|held| held.enlisted || held.unsynced);
        let held = enlisted().find(|held| held.wrote).or_else(|| enlisted().next());
        Plan { target: Target::One(held.map_or(ShardId(0), |held| held.shard)), ..plan }
    }

    /// `pg_listening_channels()` of a session that listens: the channels themselves take its place.
    fn plan_channels(&self, text: &[u8], params: usize, plan: Plan) -> Result<Plan, Refusal> {
        let Some(channels) = self.channels() else { return Ok(plan) };
        let shard = self.busy_shard().or(self.pins.any()).unwrap_or(ShardId(0));
        match with_channels(text, self.text_rules().standard_strings, channels) {
            Some(text) => {
                let (params, origins) = ((1..=params as u16).collect(), Origins::default());
                let part = Part { shard, text, params, rows: Vec::new(), origins };
                Ok(Plan { target: Target::Split(vec![part]), ..plan })
            }
            None => Err(Refusal::unsupported(
                "pg_listening_channels() in an expression, or together with other statements, is not supported here",
                "Send SELECT * FROM pg_listening_channels() as a statement of its own.",
            )),
        }
    }

    pub(crate) fn text_rules(&self) -> TextRules {
        let conforming = self.context.as_ref().is_none_or(|context| context.conforming);
        match self.gucs_in_force().get("client_encoding") {
            None => TextRules { standard_strings: conforming, ..TextRules::default() },
            Some(name) => TextRules::new(name.trim().trim_matches('\''), conforming),
        }
    }

    /// The one shard of a plan for a statement that may run anywhere: where the transaction is, else the next in turn
    /// that is up.
    pub fn any_shard(&mut self) -> ShardId {
        if let Some(shard) = self.busy_shard().or_else(|| self.pins.any()) {
            return shard;
        }
        if let Some(held) = self.held.first() {
            return held.shard;
        }
        // A transaction that must stay on one shard, or is on all, had better be where the unsharded tables are.
        if !matches!(self.who.kind, DatabaseKind::Sharded) || self.snapshot_level().is_some() {
            return ShardId(0);
        }
        self.spread = self.spread.wrapping_add(1);
        self.worker.shared.nodes().in_turn(self.spread as usize)
    }

    /// Refuses statements that a failed or lost transaction cannot run, before they are planned; gives the shard that
    /// PostgreSQL's own refusal is to come from, if it has failed there.
    pub fn failed_place(&self, facts: &Facts) -> Result<Option<ShardId>, Failure> {
        if self.block.is_none() || leaves_failed(&facts.command) {
            return Ok(None);
        }
        self.check_doomed()?;
        Ok(self.failed_shard())
    }
}

/// One statement with its values.
struct Request<'a> {
    text: &'a [u8],
    analysed: &'a Analysed,
    index: usize,
    params: Option<&'a BindParams<'a>>,
}

/// Schemas of a `search_path` as SET spells it.
fn split_path(value: &str, user: &str) -> Vec<String> {
    let mut schemas = Vec::new();
    let mut rest = value.trim();
    while let Some(first) = rest.chars().next() {
        let (name, after) = if matches!(first, '"' | '\'') {
            let mut name = String::new();
            let mut chars = rest.char_indices().skip(1).peekable();
            let mut end = rest.len();
            while let Some((at, c)) = chars.next() {
                if c == first {
                    if chars.peek().is_some_and(|(_, next)| *next == first) {
                        chars.next();
                    } else {
                        end = at + 1;
                        break;
                    }
                }
                name.push(c);
            }
            (name, &rest[end..])
        } else {
            let end = rest.find(',').unwrap_or(rest.len());
            (rest[..end].trim().to_lowercase(), &rest[end..])
        };
        match name.as_str() {
            "$user" => schemas.push(user.to_owned()),
            "" => {}
            _ => schemas.push(name),
        }
        rest = after.trim_start().trim_start_matches(',').trim_start();
    }
    schemas
}

#[cfg(test)]
mod tests {
    use super::split_path;

    #[test]
    fn search_path_is_read_as_set_spells_it() {
        assert_eq!(split_path("\"$user\", public", "bob"), ["bob", "public"]);
        assert_eq!(split_path("Foo, \"Bar\"\"x\", 'baz'", "bob"), ["foo", "Bar\"x", "baz"]);
        assert_eq!(split_path("''", "bob"), Vec::<String>::new());
    }
}
