//! The planner: from facts, values and session to a plan.
//!
//! Order of the rules: one shard in the cluster; session commands and DDL, which are placed by what they are; scopes
//! without sharded tables; sharded tables by their keys. A hint never overrules what the statement itself says: it
//! places what would otherwise have no place, or agrees, or is refused.

use router_config::topology::{ShardId, Topology};

use super::clocks;
use super::hint::{self, Hint};
use super::insert;
use super::locate::{self, Located};
use super::plan::{Plan, Reason, SessionView, Target};
use super::refusal::Refusal;
use super::values::Values;
use crate::sql::clocks::is_clock;
use crate::sql::facts::{Access, Command, DdlKind, Facts, Modify, Scope, Sharded};
use crate::sql::normalise::identifiers;

/// What a decision rests on.
#[derive(Clone, Copy)]
pub(super) struct Case<'a> {
    pub(super) topology: &'a Topology,
    pub(super) facts: &'a Facts,
    pub(super) values: &'a Values<'a>,
    pub(super) session: &'a SessionView<'a>,
}

/// Where the statement goes.
pub fn plan(
    topology: &Topology,
    facts: &Facts,
    values: &Values<'_>,
    session: &SessionView<'_>,
) -> Result<Plan, Refusal> {
    Case { topology, facts, values, session }.plan(None)
}

/// Where the statement goes, after a plan with [`Target::Draw`], now that its keys are drawn: `drawn` has one value in
/// text format for each row that leaves its key to the default, in the order of the rows.
pub fn plan_drawn(
    topology: &Topology,
    facts: &Facts,
    values: &Values<'_>,
    session: &SessionView<'_>,
    drawn: &[String],
) -> Result<Plan, Refusal> {
    Case { topology, facts, values, session }.plan(Some(drawn))
}

impl Case<'_> {
    fn plan(&self, drawn: Option<&[String]>) -> Result<Plan, Refusal> {
        if let Command::ExplainGavel(inner) = &self.facts.command {
            return Case { facts: inner, ..*self }.plan(drawn);
        }
        if self.topology.shards.len() == 1 {
            return Ok(self.primary_or_replica(Target::One(self.home()), Reason::OneShard));
        }
        super::reshape::check(self)?;
        let key_type = match &self.facts.scope {
            Scope::Sharded(sharded) => Some(sharded.key_type),
            _ => None,
        };
        let hint = hint::find(self.topology, self.session, key_type)?;
        if let Some(plan) = self.by_command(hint)? {
            return Ok(plan);
        }
        let (target, reason) = match &self.facts.scope {
            Scope::Nothing => self.anywhere(hint, Reason::NoShardedTable),
            Scope::Reference => self.anywhere(hint, Reason::ReferenceTable),
            Scope::Home => self.at_home(hint)?,
            Scope::ReferenceWrite => self.reference_write(hint, drawn)?,
            Scope::Everywhere => self.everywhere(Target::Everywhere, hint)?,
            Scope::Unknown { why } => match (hint, &self.facts.command) {
                (Some(hint), _) => (Target::One(hint.shard), Reason::Hint),
                (None, Command::Unreadable { complaint }) => return Err(Refusal::not_placed(complaint)),
                (None, _) => return Err(Refusal::not_placed(why)),
            },
            Scope::Sharded(sharded) => self.sharded(sharded, hint, drawn)?,
        };
        Ok(self.primary_or_replica(target, reason))
    }

    pub(super) fn home(&self) -> ShardId {
        self.topology.home()
    }

    /// The statement's first table, without its schema, for messages.
    pub(super) fn first_table(&self) -> &str {
        self.facts.tables.first().and_then(|name| name.rsplit('.').next()).unwrap_or("?")
    }

    /// The shard whose connection holds the session's or the transaction's state, else the home shard.
    fn stateful(&self) -> ShardId {
        self.session.pinned.or(self.session.enlisted).unwrap_or(self.home())
    }

    fn primary_or_replica(&self, target: Target, reason: Reason) -> Plan {
        let reads = matches!(self.facts.access, Access::Read)
            && matches!(
                target,
                Target::One(_) | Target::Any | Target::Concat(_) | Target::Gather(..) | Target::Nowhere(_)
            );
        let may_write = self.session.in_transaction && !self.session.read_only;
        // What binds the session to its conn binds it to a primary's.
        let binds = self.facts.effects.pins.is_some();
        Plan { target, replica: reads && self.session.reads_replica && !may_write && !binds, reason }
    }

    fn primary(&self, target: Target, reason: Reason) -> Option<Plan> {
        Some(Plan { target, replica: false, reason })
    }

    /// Commands that are placed by what they are, whatever their tables; `None` for all others.
    fn by_command(&self, hint: Option<Hint>) -> Result<Option<Plan>, Refusal> {
        let at_state = self.primary(Target::One(self.stateful()), Reason::HomeShard);
        Ok(match &self.facts.command {
            Command::Ddl(_) if matches!(self.facts.scope, Scope::Sharded(_) | Scope::Unknown { .. }) => {
                return Err(self.ddl_refusal());
            }
            Command::Ddl(_) if self.facts.unrepeatable.is_some() => {
                let what = self.facts.unrepeatable.as_deref().unwrap_or_default();
                return Err(Refusal::unrepeatable(
                    what,
                    "A reference table has the same rows on every shard.",
                ));
            }
            // Wherever the session or the transaction is: what names them later goes there too.
            Command::Ddl(DdlKind::Temporary) => self.primary(Target::One(self.home()), Reason::HomeShard),
            Command::Execute(_) | Command::Deallocate(_) | Command::Fetch(_) | Command::CloseCursor(_) => {
                at_state
            }
            Command::Ddl(DdlKind::Home) => self.primary(Target::One(self.home()), Reason::Ddl),
            Command::Ddl(DdlKind::Transactional) => {
                let (target, _) = self.everywhere(Target::Everywhere, hint)?;
                self.primary(target, Reason::Ddl)
            }
            Command::Ddl(DdlKind::NonTransactional) => {
                if self.session.in_transaction {
                    return Err(Refusal::new(
                        "25001",
                        "this statement cannot run inside a transaction block",
                    ));
                }
                self.agrees_everywhere(hint)?;
                self.primary(Target::EachAlone, Reason::Ddl)
            }
            Command::TwoPhase => {
                return Err(Refusal::unsupported(
                    "prepared transactions of the application's own are not supported on a cluster of several shards",
                    "Use COMMIT: a transaction over several shards is committed atomically by the proxy.",
                ));
            }
            Command::Listen(_) | Command::Unlisten(_) | Command::Notify(_) => {
                self.primary(Target::One(self.home()), Reason::HomeShard)
            }
            Command::Lock => return self.lock(hint).map(Some),
            Command::CopyIn(_) => return self.copy_in(hint).map(Some),
            Command::Prepare(_) | Command::Declare { .. } => match &self.facts.scope {
                Scope::Nothing | Scope::Reference => at_state,
                _ => None,
            },
            Command::Explain => self.explain()?,
            _ => None,
        })
    }

    fn ddl_refusal(&self) -> Refusal {
        let refusal = Refusal::unsupported(
            "this DDL cannot be run on every shard alike",
            "Create the table first, then fill it with INSERT ... SELECT or COPY.",
        );
        match &self.facts.scope {
            Scope::Unknown { why } => refusal.because(why.clone()),
            _ => refusal.because("It reads or writes rows of sharded tables."),
        }
    }

    /// EXPLAIN of what would run on several shards: the home shard's answer is as good as any, unless it executes.
    fn explain(&self) -> Result<Option<Plan>, Refusal> {
        let several = matches!(self.facts.scope, Scope::ReferenceWrite | Scope::Everywhere);
        match (several, &self.facts.access) {
            (false, _) => Ok(None),
            (true, Access::Write) => {
                Err(Refusal::several_shards("EXPLAIN ANALYZE", "It would write on one shard alone."))
            }
            (true, _) => Ok(self.primary(Target::One(self.home()), Reason::ReferenceTable)),
        }
    }

    /// Any shard will do, unless the statement leaves or needs state somewhere.
    fn anywhere(&self, hint: Option<Hint>, reason: Reason) -> (Target, Reason) {
        let effects = &self.facts.effects;
        if effects.currval || effects.pins.is_some() {
            (Target::One(self.stateful()), Reason::HomeShard)
        } else if effects.advisory_lock || effects.sequence {
            (Target::One(self.home()), Reason::HomeShard)
        } else if let Some(hint) = hint {
            (Target::One(hint.shard), Reason::Hint)
        } else if effects.node_dependent {
            (Target::One(self.stateful()), Reason::HomeShard)
        } else {
            (Target::Any, reason)
        }
    }

    /// Unsharded tables and the catalog. A shard hint may look at another shard's, but not write there.
    fn at_home(&self, hint: Option<Hint>) -> Result<(Target, Reason), Refusal> {
        match hint {
            Some(Hint { shard, explicit: true }) if shard != self.home() => match self.facts.access {
                // The catalog of another shard may be looked at; rows of unsharded tables are not there.
                Access::Read | Access::ReadPrimary(_)
                    if !self.facts.effects.advisory_lock
                        && !self.facts.effects.sequence
                        && self.is_catalog() =>
                {
                    Ok((Target::One(shard), Reason::Hint))
                }
                // What could not be read is believed to be what the hint says.
                _ if matches!(self.facts.command, Command::Unreadable { .. }) || self.is_for_the_server() => {
                    Ok((Target::One(shard), Reason::Hint))
                }
                _ => Err(self.disagrees(shard, "Unsharded tables are on the home shard only.")),
            },
            _ if self.facts.tables.iter().any(|table| table == "pg_catalog.pg_cursors") => {
                Ok((Target::One(self.stateful()), Reason::HomeShard))
            }
            _ => Ok((Target::One(self.home()), Reason::HomeShard)),
        }
    }

    fn reference_write(
        &self,
        hint: Option<Hint>,
        drawn: Option<&[String]>,
    ) -> Result<(Target, Reason), Refusal> {
        let same = |what: &&String| is_clock(what) && self.clock().is_none();
        if let Some(what) = self.facts.unrepeatable.as_ref().filter(|what| !same(what)) {
            return Err(Refusal::unrepeatable(what, "A reference table has the same rows on every shard."));
        }
        if let Some(what) = self.hidden_clock() {
            return Err(Refusal::unrepeatable(&what, "A reference table has the same rows on every shard."));
        }
        if matches!(self.facts.command, Command::Prepare(_) | Command::Declare { .. } | Command::Call) {
            return Err(Refusal::several_shards(
                "this statement on a reference table",
                "It would write on one shard alone.",
            ));
        }
        let (target, _) = self.everywhere(Target::Everywhere, hint)?;
        match &self.facts.defaults {
            Some(shape) => Ok((insert::reference::place(self, shape, drawn)?, Reason::ReferenceTable)),
            None => Ok((target, Reason::ReferenceTable)),
        }
    }

    /// A write on every shard.
    fn everywhere(&self, target: Target, hint: Option<Hint>) -> Result<(Target, Reason), Refusal> {
        self.agrees_everywhere(hint)?;
        if !self.session.two_phase && self.facts.access != Access::Read {
            return Err(Refusal::two_phase_off("the statement"));
        }
        Ok((target, Reason::Ddl))
    }

    fn agrees_everywhere(&self, hint: Option<Hint>) -> Result<(), Refusal> {
        match hint {
            Some(Hint { shard, explicit: true }) => {
                Err(self
                    .disagrees(shard, "The statement concerns every shard: it would leave them different."))
            }
            _ => Ok(()),
        }
    }

    /// LOCK TABLE: where the rows are.
    fn lock(&self, hint: Option<Hint>) -> Result<Plan, Refusal> {
        let several = match &self.facts.scope {
            Scope::Home | Scope::Nothing => false,
            Scope::Reference | Scope::ReferenceWrite | Scope::Sharded(_) | Scope::Everywhere => true,
            Scope::Unknown { why } => return Err(Refusal::not_placed(why)),
        };
        let target = if several && self.session.in_transaction {
            self.everywhere(Target::Everywhere, hint)?.0
        } else {
            // Outside of a transaction PostgreSQL itself refuses it (25P01).
            Target::One(self.home())
        };
        let reason = if several { Reason::NoKey } else { Reason::HomeShard };
        Ok(Plan { target, replica: false, reason })
    }

    fn copy_in(&self, hint: Option<Hint>) -> Result<Plan, Refusal> {
        let Command::CopyIn(shape) = &self.facts.command else {
            return Err(Refusal::not_placed("not a COPY"));
        };
        let (target, reason) = match &self.facts.scope {
            Scope::Home | Scope::Nothing => self.at_home(hint)?,
            Scope::Reference | Scope::ReferenceWrite => {
                let (target, _) = self.everywhere(Target::CopyEverywhere, hint)?;
                if let Some(what) = &self.facts.unrepeatable {
                    return Err(Refusal::unrepeatable(
                        what,
                        "A reference table has the same rows on every shard.",
                    ));
                }
                (target, Reason::ReferenceTable)
            }
            Scope::Sharded(sharded) => {
                super::copy::check(shape, self.values.rules)?;
                self.fires_for_rows(sharded, "COPY FROM")?;
                self.everywhere(Target::CopySplit, hint)?;
                (Target::CopySplit, Reason::NoKey)
            }
            Scope::Everywhere => return Err(Refusal::not_placed("COPY of an unknown table")),
            Scope::Unknown { why } => return Err(Refusal::not_placed(why)),
        };
        Ok(Plan { target, replica: false, reason })
    }

    fn sharded(
        &self,
        sharded: &Sharded,
        hint: Option<Hint>,
        drawn: Option<&[String]>,
    ) -> Result<(Target, Reason), Refusal> {
        if !self.values.rules.ascii_safe {
            return Err(Refusal::encoding());
        }
        if sharded.writes_reference {
            return Err(Refusal::writes_reference());
        }
        if sharded.updates_key
            && let Some(moves) = self.moving(sharded)?
        {
            return self.checked(sharded, hint, moves);
        }
        if let Some(shape) = &sharded.select {
            return self.checked(sharded, hint, insert::select::place(self, sharded, shape, drawn)?);
        }
        let located = locate::locate(self, sharded)?;
        if let Some(shape) = &sharded.insert {
            let (target, reason) = insert::place(self, sharded, shape, (located, drawn))?;
            return self.checked(sharded, hint, (target, reason));
        }
        let inserts = !sharded.colocated_insert_select && locate::may_insert(self);
        let (target, reason) = match located {
            Located::Nowhere if sharded.needs_home.is_some() => {
                (Target::Nowhere(self.home()), Reason::NoMatch)
            }
            Located::Nowhere => {
                (Target::Nowhere(self.session.enlisted.unwrap_or(self.home())), Reason::NoMatch)
            }
            Located::Shards { shards, reason } if shards.len() == 1 => (Target::One(shards[0]), reason),
            Located::Shards { shards, reason } => match hint {
                Some(hint) if shards.contains(&hint.shard) => (Target::One(hint.shard), Reason::Hint),
                Some(hint) => return Err(self.disagrees(hint.shard, "Its keys are on other shards.")),
                None => (self.on_several(sharded, shards)?, reason),
            },
            // A hint does not vouch for the keys of rows that are inserted.
            Located::All { .. } | Located::Apart { .. } if hint.is_some() && inserts => {
                return Err(Refusal::insert_select());
            }
            Located::All { why } => match hint {
                Some(hint) => (Target::One(hint.shard), Reason::Hint),
                None => (self.on_all(sharded, why)?, Reason::NoKey),
            },
            Located::Apart { shards, why } => match hint {
                Some(hint) if shards.iter().all(|&shard| shard == hint.shard) => {
                    (Target::One(hint.shard), Reason::Hint)
                }
                Some(hint) => return Err(self.disagrees(hint.shard, "Its keys are on other shards.")),
                None if matches!(self.facts.command, Command::Modify(Modify::Insert)) => {
                    return Err(Refusal::insert_select());
                }
                None => return Err(Refusal::not_joined_on_key(why)),
            },
        };
        self.checked(sharded, hint, (target, reason))
    }

    /// What holds for every plan of sharded tables: the home shard where it is needed, and agreement with the hint.
    fn checked(
        &self,
        sharded: &Sharded,
        hint: Option<Hint>,
        (target, reason): (Target, Reason),
    ) -> Result<(Target, Reason), Refusal> {
        let only = match &target {
            Target::One(shard) => Some(*shard),
            Target::Split(parts) if parts.len() == 1 => Some(parts[0].shard),
            Target::Nowhere(_) | Target::Draw(_) => return Ok((target, reason)),
            _ => None,
        };
        let advisory = self.facts.effects.advisory_lock.then_some("advisory locks");
        if let Some(what) = sharded.needs_home.as_deref().or(advisory)
            && only != Some(self.home())
        {
            return Err(Refusal::needs_home(what, self.shard_name(self.home())));
        }
        match hint {
            Some(hint) if only != Some(hint.shard) => {
                Err(self.disagrees(hint.shard, "Its key is on another shard."))
            }
            _ => Ok((target, reason)),
        }
    }

    /// A function of the statement that is evaluated once and is the same in all rows, as the time is, and that cannot be
    /// replaced by what it gives ([`clocks`]). What is evaluated for each row (a volatile function) may run where the row is.
    pub(super) fn clock(&self) -> Option<String> {
        let what = self.facts.unrepeatable.as_ref()?;
        let mut found = None;
        identifiers(self.values.statement(), self.values.rules.standard_strings, false, &mut |name| {
            if found.is_none() && name == "age" {
                found = Some("age()".to_owned());
            }
        });
        // The text must be read to be replaced.
        let readable = std::str::from_utf8(self.values.statement()).is_ok();
        let own_text = clocks::any(self.values.statement(), self.values.rules.standard_strings);
        found.or_else(|| (own_text && !readable).then(|| what.clone()))
    }

    /// What a shard that writes its part would read by its own clock, though no clock is called.
    pub(super) fn hidden_clock(&self) -> Option<String> {
        let named = || self.facts.times && self.values.name_the_time();
        self.facts.by_clock.clone().or_else(|| named().then(|| "'now', or a text of its kind,".to_owned()))
    }

    pub(super) fn shard_name(&self, shard: ShardId) -> &str {
        self.topology.shards.get(usize::from(shard.0)).map_or("?", |shard| shard.name.as_str())
    }

    fn disagrees(&self, shard: ShardId, why: &str) -> Refusal {
        Refusal::hint_disagrees(self.shard_name(shard), why)
    }
}
