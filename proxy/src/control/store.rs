//! The control store: schema `gavel` in the control database (`auth.query_database`) of the first shard.
//!
//! * `gavel.cluster`: the random name of this cluster, part of every two-phase gid.
//! * `gavel.slot_map`: epoch and slot map. The first start stores what the ring proposes; from then on the stored map is
//!   the truth.
//! * `gavel.decision`: outcomes of transactions over several shards, see `two_phase`.
//! * `gavel.shard`: the newest timeline seen of each shard, so that a proxy that starts while only an old primary is up
//!   does not write to it.
//!
//! It is not in the application's database, so that dumps and catalog queries there show the application's objects only.

use std::fmt::Write as _;

use router_config::topology::{NodeAddress, SLOTS, Shard, ShardId};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, GenericClient};

use super::error::{ControlError, explain};

/// Serialises proxies that start at the same time.
const LOCK: &str = "SELECT pg_catalog.pg_advisory_xact_lock(7161881724510138112)";

const TABLES: &str = "CREATE SCHEMA IF NOT EXISTS gavel; \
     CREATE TABLE IF NOT EXISTS gavel.cluster (id text PRIMARY KEY, \
         created timestamptz NOT NULL DEFAULT pg_catalog.now()); \
     CREATE TABLE IF NOT EXISTS gavel.slot_map (epoch bigint PRIMARY KEY, map text NOT NULL, \
         created timestamptz NOT NULL DEFAULT pg_catalog.now()); \
     CREATE TABLE IF NOT EXISTS gavel.decision (gid text PRIMARY KEY, \
         state text NOT NULL CHECK (state IN ('committed', 'aborted')), participants text[] NOT NULL, \
         created timestamptz NOT NULL DEFAULT pg_catalog.clock_timestamp()); \
     CREATE TABLE IF NOT EXISTS gavel.shard (name text PRIMARY KEY, system_id bigint NOT NULL, \
         timeline bigint NOT NULL);";

/// What the store says of the cluster.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Stored {
    /// Name of the cluster, eight hexadecimal digits.
    pub(crate) cluster: String,
    /// Epoch of the slot map.
    pub(crate) epoch: u64,
    /// Owner of each slot.
    pub(crate) slot_map: Vec<ShardId>,
}

/// Makes what is missing, stores `proposal` as the first slot map, and returns what is stored.
pub(crate) async fn load_or_init(
    client: &mut Client,
    shards: &[Shard],
    proposal: (u64, &[ShardId]),
) -> Result<Stored, ControlError> {
    let failed = |error: tokio_postgres::Error| ControlError::Store {
        message: format!(
            "cannot prepare the control store (schema \"gavel\" on the first shard, in the control database \
             auth.query_database): {}. The role auth.query_user needs CREATE on that database, or a superuser makes \
             the schema and gives it to that role",
            explain(&error)
        ),
    };
    let tx = client.transaction().await.map_err(failed)?;
    tx.batch_execute(LOCK).await.map_err(failed)?;
    if !complete(&tx).await.map_err(failed)? {
        tx.batch_execute(TABLES).await.map_err(failed)?;
    }
    tx.execute(
        "INSERT INTO gavel.cluster (id) SELECT pg_catalog.substr(pg_catalog.md5(pg_catalog.random()::text || \
         pg_catalog.clock_timestamp()::text), 1, 8) WHERE NOT EXISTS (SELECT 1 FROM gavel.cluster)",
        &[],
    )
    .await
    .map_err(failed)?;
    let cluster: String = tx
        .query_one("SELECT id FROM gavel.cluster ORDER BY created LIMIT 1", &[])
        .await
        .map_err(failed)?
        .get(0);
    let newest = tx
        .query_opt("SELECT epoch, map FROM gavel.slot_map ORDER BY epoch DESC LIMIT 1", &[])
        .await
        .map_err(failed)?;
    let (epoch, slot_map) = match newest {
        Some(row) => {
            let epoch = row.get::<_, i64>(0).cast_unsigned();
            (epoch, parse_map(row.get(1), shards)?)
        }
        None => {
            let (epoch, map) = (proposal.0.max(1), proposal.1);
            tx.execute(
                "INSERT INTO gavel.slot_map (epoch, map) VALUES ($1, $2)",
                &[&epoch.cast_signed(), &print_map(map, shards)],
            )
            .await
            .map_err(failed)?;
            (epoch, map.to_vec())
        }
    };
    tx.commit().await.map_err(failed)?;
    Ok(Stored { cluster, epoch, slot_map })
}

/// Why the store cannot be read: a role that may not is named with its setting.
pub(crate) fn unreadable(
    doing: &str,
    (node, role): (&NodeAddress, &str),
    error: &tokio_postgres::Error,
) -> ControlError {
    if error.code() != Some(&SqlState::INSUFFICIENT_PRIVILEGE) {
        return ControlError::query(doing, node, error);
    }
    let message = format!(
        "{doing} on {node}: {}. The role \"{role}\" (auth.query_user) must own the schema \"gavel\" of the control database \
         (auth.query_database) and its tables, or have all privileges on them",
        explain(error)
    );
    ControlError::Store { message }
}

/// The stored name of the cluster, where there is a store.
pub(crate) async fn cluster(client: &Client) -> Result<Option<String>, tokio_postgres::Error> {
    if !complete(client).await? {
        return Ok(None);
    }
    let row = client.query_opt("SELECT id FROM gavel.cluster ORDER BY created LIMIT 1", &[]).await?;
    Ok(row.map(|row| row.get(0)))
}

/// Whether a slot map is stored in this database.
pub(crate) async fn exists(client: &Client) -> Result<bool, tokio_postgres::Error> {
    if !complete(client).await? {
        return Ok(false);
    }
    let row = client.query_one("SELECT EXISTS (SELECT 1 FROM gavel.slot_map)", &[]).await?;
    Ok(row.get(0))
}

/// Timelines stored, with the system identifiers that they are of.
pub(crate) async fn timelines(client: &Client) -> Result<Vec<(String, u64, u32)>, tokio_postgres::Error> {
    let rows = client.query("SELECT name, system_id, timeline FROM gavel.shard", &[]).await?;
    let timeline = |row: &tokio_postgres::Row| u32::try_from(row.get::<_, i64>(2)).unwrap_or(0);
    Ok(rows.iter().map(|row| (row.get(0), row.get::<_, i64>(1).cast_unsigned(), timeline(row))).collect())
}

/// Stores a timeline; an older one of the same system does not replace a newer one.
pub(crate) async fn store_timeline(
    client: &Client,
    (name, system_id, timeline): (&str, u64, u32),
) -> Result<(), tokio_postgres::Error> {
    let sql = "INSERT INTO gavel.shard AS s (name, system_id, timeline) VALUES ($1, $2, $3) ON CONFLICT (name) \
               DO UPDATE SET system_id = excluded.system_id, timeline = CASE WHEN s.system_id = excluded.system_id \
               THEN greatest(s.timeline, excluded.timeline) ELSE excluded.timeline END";
    client.execute(sql, &[&name, &system_id.cast_signed(), &i64::from(timeline)]).await?;
    Ok(())
}

async fn complete(client: &impl GenericClient) -> Result<bool, tokio_postgres::Error> {
    let row = client
        .query_one(
            "SELECT pg_catalog.count(*) FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = 'gavel' AND c.relname IN ('cluster', 'slot_map', 'decision', 'shard')",
            &[],
        )
        .await?;
    Ok(row.get::<_, i64>(0) == 4)
}

/// One line a shard: its name, a tab, its slots as ranges (`0-511,1024,1030-1040`).
pub(crate) fn print_map(map: &[ShardId], shards: &[Shard]) -> String {
    let mut text = String::new();
    for (index, shard) in shards.iter().enumerate() {
        text.push_str(&shard.name);
        text.push('\t');
        let mut first = true;
        let mut slot = 0;
        while slot < map.len() {
            let end = (slot..map.len()).find(|&s| usize::from(map[s].0) != index).unwrap_or(map.len());
            if end > slot {
                let comma = if first { "" } else { "," };
                first = false;
                let written = if end - slot == 1 {
                    write!(text, "{comma}{slot}")
                } else {
                    write!(text, "{comma}{slot}-{}", end - 1)
                };
                written.expect("writing to a String cannot fail");
            }
            slot = end + 1;
        }
        text.push('\n');
    }
    text
}

/// Reads what [`print_map`] wrote; the shards must be those of the configuration and every slot must have one owner.
pub(crate) fn parse_map(text: &str, shards: &[Shard]) -> Result<Vec<ShardId>, ControlError> {
    let mut owners: Vec<Option<ShardId>> = vec![None; usize::from(SLOTS)];
    let mut named = Vec::new();
    for line in text.lines().filter(|line| !line.is_empty()) {
        let (name, ranges) = line.split_once('\t').ok_or_else(|| broken(line))?;
        let Some(index) = shards.iter().position(|shard| shard.name == name) else {
            return Err(mismatch(
                name,
                "is in the stored slot map (gavel.slot_map) but not in the configuration",
            ));
        };
        let id = ShardId(u16::try_from(index).map_err(|_| broken(line))?);
        named.push(index);
        for range in ranges.split(',').filter(|range| !range.is_empty()) {
            let (from, to) = range.split_once('-').unwrap_or((range, range));
            let from: usize = from.parse().map_err(|_| broken(range))?;
            let to: usize = to.parse().map_err(|_| broken(range))?;
            for owner in owners.get_mut(from..=to).ok_or_else(|| broken(range))? {
                if owner.replace(id).is_some() {
                    return Err(broken(range));
                }
            }
        }
    }
    if let Some(index) = (0..shards.len()).find(|index| !named.contains(index)) {
        return Err(mismatch(
            &shards[index].name,
            "is in the configuration but not in the stored slot map (gavel.slot_map)",
        ));
    }
    owners.into_iter().collect::<Option<Vec<_>>>().ok_or_else(|| broken("a slot without an owner"))
}

fn mismatch(name: &str, what: &str) -> ControlError {
    ControlError::Store {
        message: format!(
            "shard \"{name}\" {what}. Shards are known by name: name them as they were when the slot map was stored. \
             Adding and removing shards is not built yet; rows would be looked for on the wrong shards otherwise"
        ),
    }
}

fn broken(what: &str) -> ControlError {
    let shown: String = what.chars().take(60).collect();
    ControlError::Store { message: format!("the stored slot map (gavel.slot_map) is damaged at \"{shown}\"") }
}

#[cfg(test)]
mod tests {
    use router_config::topology::NodeAddress;

    use super::*;

    fn shard(name: &str) -> Shard {
        let primary = NodeAddress { host: String::from("h"), port: 1 };
        Shard { name: name.to_owned(), primary, replicas: Vec::new(), weight: 1.0 }
    }

    #[test]
    fn a_map_survives_print_and_parse() {
        let shards = [shard("a"), shard("b"), shard("c")];
        for modulus in [1, 2, 3, 700] {
            let map: Vec<ShardId> = (0..SLOTS).map(|slot| ShardId(slot / modulus % 3)).collect();
            assert_eq!(parse_map(&print_map(&map, &shards), &shards), Ok(map));
        }
    }

    #[test]
    fn strangers_gaps_and_doubles_are_errors() {
        let two = [shard("a"), shard("b")];
        let map: Vec<ShardId> = (0..SLOTS).map(|slot| ShardId(slot % 2)).collect();
        let text = print_map(&map, &two);
        let words = |shards: &[Shard]| parse_map(&text, shards).expect_err("must not fit").to_string();
        assert!(words(&[shard("a")]).contains("shard \"b\" is in the stored slot map"));
        assert!(words(&[shard("a"), shard("b"), shard("c")]).contains("shard \"c\" is in the configuration"));
        assert!(parse_map("a\t0-16383\nb\t5\n", &two).is_err());
        assert!(parse_map("a\t0-16382\nb\t\n", &two).is_err());
        assert!(parse_map("a\t0-99999\nb\t\n", &two).is_err());
    }
}
