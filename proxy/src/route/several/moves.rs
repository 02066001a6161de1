//! UPDATE of the shard key: rows that move to another shard.
//!
//! The statement runs where the rows are, so that PostgreSQL computes what they become, checks it and returns it; they have their new
//! key then. No other row of that key is on those shards, so that they are found by it.

use crate::route::insert;
use crate::route::key::{self, KeyOutcome, Usage};
use crate::route::locate::{self, Located};
use crate::route::place::Case;
use crate::route::plan::{Move, Reason, Target};
use crate::route::refusal::Refusal;
use crate::sql::facts::{Command, Modify, MoveShape, Sharded};

impl Case<'_> {
    /// Where the rows go of an UPDATE that assigns the shard key. `None`: nowhere, as PostgreSQL refuses the NULL that it
    /// assigns wherever there is a row.
    pub(in crate::route) fn moving(&self, sharded: &Sharded) -> Result<Option<(Target, Reason)>, Refusal> {
        let shape = match &sharded.moves {
            Some(Ok(shape)) if matches!(self.facts.command, Command::Modify(Modify::Update)) => shape,
            Some(Err(why)) => {
                return Err(Refusal::updates_key().because(format!("Its rows cannot move: {why}.")));
            }
            _ => return Err(Refusal::updates_key()),
        };
        let key =
            match key::key_of(&shape.key, sharded.key_type, self.values, Usage::Assign(sharded.modifier))? {
                KeyOutcome::Key(key) => key,
                KeyOutcome::Null if sharded.rejects_null => return Ok(None),
                KeyOutcome::Null => return Err(Refusal::null_key(self.first_table())),
                KeyOutcome::NoRow | KeyOutcome::Unknown(_) => {
                    return Err(
                        Refusal::updates_key().because("The new key is not a plain value of the key's type.")
                    );
                }
            };
        let spelled = key.to_string();
        if sharded.key_type.parse_text(&spelled).ok().as_ref() != Some(&key) {
            return Err(Refusal::updates_key().because("The new key has no plain spelling."));
        }
        let (from, reason) = match locate::locate(self, sharded)? {
            Located::Nowhere => return Ok(Some((Target::Nowhere(self.home()), Reason::NoMatch))),
            Located::Shards { shards, reason } => (shards, reason),
            Located::All { .. } => (self.all_shards(), Reason::NoKey),
            Located::Apart { .. } => return Err(Refusal::not_joined_on_key(None)),
        };
        let to = self.topology.owner(&key);
        if from.as_slice() == [to] {
            return Ok(Some((Target::One(to), reason)));
        }
        self.on_each(sharded, "UPDATE of the shard key")?;
        let (take, put) = texts(shape, &spelled);
        Ok(Some((Target::Move(Box::new(Move { from, to, take, put })), reason)))
    }
}

fn texts(shape: &MoveShape, key: &str) -> (String, (String, String)) {
    let MoveShape { table, column: (column, type_name), columns, .. } = shape;
    let key = insert::quote(key, type_name);
    let take = format!(
        "WITH gone AS (DELETE FROM {table} AS gavel_rows WHERE gavel_rows.{column} = {key} RETURNING gavel_rows AS gavel_row) \
         SELECT pg_catalog.count(*), pg_catalog.array_agg(gavel_row)::pg_catalog.text FROM gone"
    );
    let columns = columns.join(", ");
    let head = format!(
        "WITH come AS (INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE SELECT {columns} FROM pg_catalog.unnest("
    );
    (take, (head, format!("::{table}[]) RETURNING 1) SELECT pg_catalog.count(*) FROM come")))
}
