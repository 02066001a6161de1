//! Which shards hold the rows of a statement on sharded tables.

use router_config::topology::ShardId;

use super::key::{self, Found};
use super::place::Case;
use super::plan::{Reason, ShardSet};
use super::refusal::Refusal;
use crate::sql::facts::{Access, Command, Pin, Sharded};
use crate::sql::normalise::identifiers;

/// Where the rows are that a statement demands, the rows of VALUES not counted.
#[derive(Debug, Clone, PartialEq)]
pub(super) enum Located {
    /// No row can match.
    Nowhere,
    /// On these shards, at least one.
    Shards {
        /// Where.
        shards: ShardSet,
        /// By which keys.
        reason: Reason,
    },
    /// On any shard; `why` if there was a condition that could not be used.
    All {
        /// Why a condition could not be used.
        why: Option<&'static str>,
    },
    /// Groups of tables that are not joined on the key, and are not all on one shard.
    Apart {
        /// Shards that some groups are known to need.
        shards: ShardSet,
        /// Why a condition could not be used.
        why: Option<&'static str>,
    },
}

/// Adds a shard to a set, keeping it ascending and without repeats.
pub(super) fn insert(shards: &mut ShardSet, shard: ShardId) {
    if let Err(at) = shards.binary_search(&shard) {
        shards.insert(at, shard);
    }
}

/// Resolves every group of tables and lets them meet.
pub(super) fn locate(case: &Case<'_>, sharded: &Sharded) -> Result<Located, Refusal> {
    let mut shards = ShardSet::new();
    let mut reason = Reason::NoMatch;
    let mut keys = 0;
    let mut groups = 0;
    let mut any = false;
    let mut why = None;
    for pin in sharded.groups.iter().filter(|pin| !matches!(pin, Pin::Insert)) {
        match key::found(pin, sharded.key_type, case.values)? {
            Found::Keys { excluded: true, .. } if may_insert(case) => {
                groups += 1;
                any = true;
                why = why.or(Some("a row might be inserted whose key matches no condition"));
            }
            // A group without any row is empty on every shard.
            Found::Keys { keys: found, .. } if found.is_empty() => {}
            Found::Keys { keys: found, .. } => {
                groups += 1;
                for key in found {
                    insert(&mut shards, case.topology.owner(&key));
                    keys += 1;
                    reason = match reason {
                        Reason::NoMatch => Reason::Key { slot: case.topology.slot_of(&key), key },
                        Reason::Key { key: first, slot } if first == key => Reason::Key { key: first, slot },
                        _ => Reason::Keys { count: keys },
                    };
                }
            }
            Found::Any(unused) => {
                groups += 1;
                any = true;
                why = why.or(unused);
            }
        }
    }
    let by_function = || case.facts.tables.iter().all(|table| table.ends_with("()"));
    if matches!(reason, Reason::Key { .. }) && (matches!(case.facts.command, Command::Call) || by_function())
    {
        reason = Reason::FunctionKey;
    }
    Ok(match (groups, any) {
        (0, _) if sharded.groups.is_empty() && sharded.insert.is_none() => Located::All { why },
        (0, _) => Located::Nowhere,
        (1, true) => Located::All { why },
        (_, true) => Located::Apart { shards, why },
        (1, false) => Located::Shards { shards, reason },
        (_, false) if shards.len() == 1 => Located::Shards { shards, reason },
        (_, false) => Located::Apart { shards, why },
    })
}

/// Whether the statement may insert rows whose keys the groups' pins stand for: a value that no row's key equals is
/// then converted, and the row belongs somewhere.
pub(super) fn may_insert(case: &Case<'_>) -> bool {
    let mut inserts = false;
    if case.facts.access == Access::Write {
        identifiers(case.values.statement(), case.values.rules.standard_strings, false, &mut |name| {
            inserts |= matches!(name, "insert" | "merge");
        });
    }
    inserts
}
