//! From what was seen in a statement to its [`Facts`].

use super::reader::{Reader, Seen};
use super::{Analysis, base};
use crate::sql::facts::{Access, Command, Pin, Scope, Sharded};
use router_config::key::KeyType;

impl Reader<'_, '_> {
    /// Settles everything.
    pub(super) fn finish(mut self) -> Analysis {
        if self.ctx.schema.leaves_unseen {
            self.leaves(|| "an operator or a type with a function that leaves something".to_string());
        }
        for function in self.ctx.schema.concealed.met(self.tokens) {
            self.form(function);
        }
        let access = access(&self.seen, self.quirks.locks);
        let types: Vec<KeyType> = self.groups.nodes.iter().map(|n| n.key_type).collect();
        let temp_tables = self.ctx.temp_tables;
        let (locks, current_of) = (self.quirks.locks, self.quirks.current_of);
        let lock_of = self.quirks.lock_of.clone();
        let mut sources = std::mem::take(&mut self.read);
        let family = types.first().map(|first| first.family());
        sources.mixed_keys = types.iter().any(|t| Some(t.family()) != family);
        sources.locks = locks;
        for mention in &mut sources.mentions {
            mention.pins =
                mention.node.into_iter().flat_map(|node| self.groups.pins_of(node)).cloned().collect();
        }
        let resolved = self.groups.resolve();
        let mut seen = self.seen;
        if current_of && seen.writes_sharded {
            seen.unknown.get_or_insert("WHERE CURRENT OF on a sharded table".to_string());
        }
        if let Some(name) = seen.writes_unknown.clone().filter(|_| !temp_tables) {
            seen.unknown.get_or_insert(format!("relation {name} is not known (yet) and is written"));
        }
        let locks_reference = locks
            && seen.reference.is_some()
            && (lock_of.is_empty() || lock_of.iter().any(|n| seen.reference_aliases.contains(n)));
        if locks_reference {
            seen.home.get_or_insert("FOR UPDATE on a reference table".to_string());
        }
        let scope = if let Some(why) = seen.unknown.take() {
            Scope::Unknown { why }
        } else if types.is_empty() {
            plain_scope(&mut seen)
        } else {
            sharded_scope(&mut seen, &types, resolved.pins, resolved.obstacle)
        };
        let command = seen.modify.map_or(Command::Query, Command::Modify);
        let mut facts = base(command, scope);
        facts.returns_rows = seen.modify.is_none() || seen.returns_rows;
        facts.access = access;
        facts.effects = seen.effects;
        facts.tables = seen.tables;
        // Of a query that may write, the function by which it may.
        let writer = seen.user_function.filter(|_| seen.modify.is_none()).map(|name| format!("{name}()"));
        facts.unrepeatable = writer.or(seen.unrepeatable);
        facts.barred = seen.barred;
        facts.unknown_name = seen.unknown_name;
        let writes = seen.writes_reference.is_some() || seen.writes_sharded;
        facts.times = seen.times && writes;
        facts.by_clock = seen.time_text.or(seen.not_immutable).filter(|_| writes);
        facts.defaults = seen.defaults;
        Analysis { facts, by_value: seen.by_value, sources }
    }
}

fn access(seen: &Seen, locks: bool) -> Access {
    let writes = seen.user_function.is_some() || seen.writes_home.is_some() || seen.effects.notifies;
    if seen.modify.is_some() || writes {
        Access::Write
    } else if let Some(why) = &seen.primary {
        Access::ReadPrimary(why.clone())
    } else if locks {
        Access::ReadPrimary("FOR UPDATE or FOR SHARE".to_string())
    } else {
        Access::Read
    }
}

/// Scope of a statement without sharded tables.
fn plain_scope(seen: &mut Seen) -> Scope {
    if seen.sets_sequences {
        // Each shard has one of its own, and gives it back its residue afterwards.
        seen.effects.changes_catalog = true;
        let other = seen.home.as_ref().or(seen.writes_home.as_ref()).or(seen.writes_reference.as_ref());
        return match other {
            None if seen.modify.is_none() => Scope::Everywhere,
            _ => Scope::Unknown {
                why: "setval() of a sharded table's sequence together with other tables".to_string(),
            },
        };
    }
    if let Some(reference) = &seen.writes_reference {
        let other = seen.home.as_ref().or(seen.writes_home.as_ref()).or(seen.writes_unknown.as_ref());
        if let Some(other) = other {
            let why = format!("it writes the reference table {reference} and uses {other} of the home shard");
            return Scope::Unknown { why };
        }
        // The greater hindrance is told: the time could be put in its place.
        let differs = [seen.arbitrary_rows.take(), seen.home_alone.take(), seen.of_shard.take()];
        if let Some(what) = differs.into_iter().flatten().next() {
            seen.unrepeatable = Some(what);
        }
        return Scope::ReferenceWrite;
    }
    let home = [&seen.home, &seen.home_alone, &seen.writes_home, &seen.writes_unknown, &seen.user_function];
    if home.iter().any(|h| h.is_some()) {
        Scope::Home
    } else if seen.reference.is_some() {
        Scope::Reference
    } else {
        Scope::Nothing
    }
}

/// A statement that writes is not run once for all shards.
fn written(seen: &mut Seen) -> Option<String> {
    seen.modify?;
    seen.gather.take().map(|shape| shape.what().to_string())
}

fn sharded_scope(seen: &mut Seen, types: &[KeyType], groups: Vec<Pin>, obstacle: Option<String>) -> Scope {
    let first = types[0];
    let key_type = if types.iter().all(|t| *t == first) { first } else { first.family() };
    if types.iter().any(|t| t.family() != first.family()) {
        return Scope::Unknown { why: "its sharded tables have keys of different types".to_string() };
    }
    let several = (groups.len() > 1).then(|| "sharded tables that are not joined on their keys".to_string());
    if seen.sets_sequences {
        let why = "setval() of a sharded table's sequence, with a value computed from sharded tables: give it as a literal";
        return Scope::Unknown { why: why.to_string() };
    }
    let arbitrary = seen.arbitrary_rows.take().filter(|_| seen.modify.is_some());
    Scope::Sharded(Box::new(Sharded {
        key_type,
        modifier: seen.modifier.filter(|_| seen.writers == 1),
        rejects_null: seen.rejects_null && seen.writers == 1,
        groups,
        no_concat: obstacle
            .or(several)
            .or(arbitrary)
            .or(seen.once.take())
            .or_else(|| whole(seen))
            .or_else(|| written(seen)),
        fires: seen.fires,
        gather: seen.gather.take(),
        needs_home: seen
            .home
            .clone()
            .or_else(|| seen.writes_home.clone())
            .or_else(|| seen.writes_unknown.clone()),
        writes_reference: seen.writes_reference.is_some(),
        updates_key: seen.updates_key,
        moves: seen.moves.take().filter(|_| seen.writers == 1),
        select: {
            let stable = seen.tables.len() == 1 && seen.unrepeatable.is_none() && seen.primary.is_none();
            let select = seen.select.take().filter(|_| stable && seen.user_function.is_none());
            select.filter(|_| seen.reference.is_none() && seen.home.is_none() && seen.home_alone.is_none())
        },
        insert: seen.insert.take(),
        colocated_insert_select: seen.colocated_insert_select,
    }))
}

/// What makes a write one that cannot be done shard by shard, though each of its rows could.
fn whole(seen: &Seen) -> Option<String> {
    seen.modify?;
    let with = (seen.writers > 1).then(|| "a WITH query that writes".to_string());
    let found = [&with, &seen.whole, &seen.of_shard, &seen.home_alone];
    found.into_iter().flatten().next().cloned()
}
