//! Two-phase recovery by hand: what is prepared on the shards by proxies of this cluster, and finishing what no proxy finishes any
//! more. The same rules as the resolver's, for a tool that runs beside the proxies or in place of them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use futures_util::future::join_all;
use router_config::settings::Settings;
use router_config::topology::{ShardId, Topology};
use tokio_rustls::rustls::ClientConfig;

use super::connect::Dialer;
use super::error::ControlError;
use super::health::Health;
use super::nodes::Nodes;
use super::resolver::{Found, GRACE, HOME, PASS, Resolver, primary};
use super::store;
use super::two_phase::{Gid, Live, Outcome, Owner};
use crate::metrics::Metrics;

/// How long the primaries are looked for.
const LOOK: Duration = Duration::from_secs(5);

/// What recovery knows of a cluster.
pub struct Recovery {
    resolver: Resolver,
    shards: Vec<String>,
}

/// What is prepared on the shards.
#[derive(Debug)]
pub struct Listing {
    /// By name.
    pub transactions: Vec<Prepared>,
    /// Why shards could not be asked.
    pub unreachable: Vec<String>,
}

/// A transaction over several shards that is prepared on some.
#[derive(Debug)]
pub struct Prepared {
    /// Its name; on a shard, with the shard's number behind it.
    pub gid: String,
    /// Name of the proxy that coordinates it.
    pub owner: String,
    /// What is known of that.
    pub state: State,
    /// `None`: nothing has been decided.
    pub decision: Option<Outcome>,
    /// Where it is prepared.
    pub parts: Vec<PreparedPart>,
    found: Vec<Found>,
}

/// The part on one shard.
#[derive(Debug)]
pub struct PreparedPart {
    /// The shard's name.
    pub shard: String,
    /// Database.
    pub database: String,
    /// The role that prepared it.
    pub role: String,
    /// Since when.
    pub age: Duration,
}

/// Who is to finish a prepared transaction.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum State {
    /// Its proxy, which runs.
    InProgress,
    /// Perhaps its proxy: none of that name is seen, but it is younger than what recovery touches.
    Recent,
    /// Recovery.
    Orphaned,
}

impl Recovery {
    /// Looks for the cluster's primaries and reads its name. Must run within a runtime; creates nothing.
    pub async fn open(
        settings: &Settings,
        topology: &Topology,
        tls: Option<Arc<ClientConfig>>,
    ) -> Result<Self, ControlError> {
        let shards: Vec<_> = topology.shards.iter().map(|shard| shard.name.clone()).collect();
        let metrics =
            Metrics::new(&shards).map_err(|error| ControlError::Limit { message: error.to_string() })?;
        let dialer = Arc::new(Dialer::new(settings, tls));
        let nodes = Arc::new(Nodes::default());
        let database = settings.auth.query_database.clone();
        let parts = (Arc::clone(&dialer), Arc::clone(&nodes), Arc::clone(&metrics));
        let health = Arc::new(Health::new(parts.0, parts.1, parts.2, database.clone()));
        health.set_interval(settings.backend.health_interval);
        for node in nodes.adopt(topology, &[]).new {
            tokio::spawn(Arc::clone(&health).watch(node));
        }
        join_all(ids(shards.len()).map(|shard| nodes.wait_primary(shard, LOOK))).await;
        let home = primary(&nodes, HOME)?;
        let client = dialer.client(&home, &database).await?;
        let cluster = store::cluster(&client).await;
        let cluster = cluster.map_err(|error| {
            store::unreadable("reading the control store", (&home, &dialer.user()), &error)
        })?;
        let cluster = cluster.ok_or_else(|| ControlError::Store {
            message: format!("no proxy has made a control store in database \"{database}\" of {home}"),
        })?;
        let (owner, live) = (Owner::new(cluster), Arc::<Live>::default());
        let resolver = Resolver { dialer, nodes, metrics, live, owner, database, grace: GRACE, pass: PASS };
        Ok(Self { resolver, shards })
    }

    /// What is prepared now.
    pub async fn list(&self) -> Result<Listing, ControlError> {
        let asked = ids(self.shards.len()).map(|shard| self.resolver.prepared_on(shard));
        let (mut found, mut unreachable) = (Vec::new(), Vec::new());
        for answer in join_all(asked).await {
            match answer {
                Ok(parts) => found.extend(parts),
                Err(error) => unreachable.push(error.to_string()),
            }
        }
        let gids: Vec<_> = found.iter().map(|part| part.participant.gid.as_str()).collect();
        let decided = self.resolver.decisions(&gids).await?;
        let orphans = self.resolver.orphans(&found).await?;
        let mut grouped: BTreeMap<String, Vec<Found>> = BTreeMap::new();
        for part in found {
            grouped.entry(part.participant.gid.as_str().to_owned()).or_default().push(part);
        }
        let mut transactions = Vec::new();
        for (gid, found) in grouped {
            let Some(first) = found.first() else { continue };
            let state = match orphans.contains_key(&first.participant.gid) {
                true => State::Orphaned,
                false if self.resolver.owner_lives(&first.participant.proxy).await? => State::InProgress,
                false => State::Recent,
            };
            let decision = decided.get(&gid).copied();
            let owner = first.participant.proxy.clone();
            let parts = found.iter().map(|part| self.part(part)).collect();
            transactions.push(Prepared { gid, owner, state, decision, parts, found });
        }
        Ok(Listing { transactions, unreachable })
    }

    fn part(&self, found: &Found) -> PreparedPart {
        PreparedPart {
            shard: self.shards.get(usize::from(found.shard.0)).cloned().unwrap_or_default(),
            database: found.database.clone(),
            role: found.role.clone(),
            age: found.age,
        }
    }

    /// Finishes an orphan by its decision, or rolls it back by a decision of our own. What came of it, and on how many shards it is
    /// finished.
    pub async fn recover(&self, prepared: &Prepared) -> Result<(Outcome, usize), ControlError> {
        let Some(gid) = prepared.found.first().map(|part| part.participant.gid.clone()) else {
            return Ok((Outcome::Unknown, 0));
        };
        let finished = self.resolver.finish(&gid, &prepared.found).await?;
        let decided = self.resolver.decisions(&[gid.as_str()]).await?;
        Ok((decided.get(Gid::as_str(&gid)).copied().unwrap_or(Outcome::Unknown), finished))
    }
}

fn ids(count: usize) -> impl Iterator<Item = ShardId> {
    (0..count).filter_map(|index| u16::try_from(index).ok()).map(ShardId)
}
