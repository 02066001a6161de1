//! The control side of the proxy: what it knows of the cluster, and the work that no session does.
//!
//! It runs on a runtime and thread of its own ([`ControlRuntime`]), over tokio-postgres connections; session threads
//! read shared state (atomics, `arc-swap`) and send requests whose answers they await. Nothing here is on the path of a
//! frame.

mod announce;
mod barrier;
pub mod catalog;
mod complaint;
mod connect;
mod error;
pub mod floor;
mod health;
mod listen;
mod locks;
mod nodes;
mod oids;
pub mod recovery;
mod resolver;
mod roles;
mod runtime;
mod sequences;
mod store;
mod timelines;
mod two_phase;

#[cfg(test)]
mod testing;
#[cfg(test)]
mod tests;

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use router_config::settings::{DatabaseKind, Settings};
use router_config::topology::{NodeAddress, ShardId, Topology};
use tokio::runtime::Handle;
use tokio_rustls::rustls::ClientConfig;

pub use self::barrier::Barrier;
pub use self::catalog::{Catalog, DatabaseCatalog, Forbids, OwnCatalog, Problem, TextRow};
pub use self::error::ControlError;
pub(crate) use self::error::explain;
pub use self::listen::{Lost, Notification, Subscription};
pub use self::locks::{LockWait, NodeLocks};
pub use self::nodes::{InFlight, Node, NodeId, Nodes};
pub use self::oids::OidMap;
pub use self::roles::NodeRole;
pub use self::runtime::ControlRuntime;
pub use self::sequences::{StrideNote, StrideReport};
pub use self::two_phase::{
    Gid, Outcome, Transaction, TwoPhase, commit_prepared_sql, prepare_sql, rollback_prepared_sql,
};

use self::announce::Announcer;
use self::catalog::Catalogs;
use self::connect::Dialer;
use self::health::Health;
use self::listen::ListenHub;
use self::resolver::{Resolver, primary};
use self::two_phase::Owner;
use crate::metrics::Metrics;
use crate::sql::schema::Schema;

/// How long a start waits for the home shard's primary before it gives up.
const START_LIMIT: Duration = Duration::from_secs(30);
/// How often it says meanwhile what it waits for.
const START_WORD: Duration = Duration::from_secs(3);

/// What the control side is given besides settings and topology.
pub struct Links {
    /// The control runtime.
    pub handle: Handle,
    /// Where it counts.
    pub metrics: Arc<Metrics>,
    /// TLS towards PostgreSQL; `None` when `backend.tls` is off.
    pub tls: Option<Arc<ClientConfig>>,
}

/// What a reload brings.
pub struct Reload {
    /// Settings.
    pub settings: Arc<Settings>,
    /// Topology as the file has it.
    pub topology: Topology,
    /// TLS towards PostgreSQL, as [`Links::tls`].
    pub tls: Option<Arc<ClientConfig>>,
}

/// The control side. Cheap to clone.
#[derive(Clone)]
pub struct Control {
    inner: Arc<Inner>,
}

struct Inner {
    handle: Handle,
    topology: Arc<ArcSwap<Topology>>,
    nodes: Arc<Nodes>,
    health: Arc<Health>,
    catalogs: Arc<Catalogs>,
    two_phase: TwoPhase,
    barrier: Barrier,
    listen: ListenHub,
    settings: ArcSwap<Settings>,
}

impl Control {
    /// Checks the nodes, loads or stores the slot map (and publishes it in `topology`), starts the tasks. Returns when
    /// the home shard has answered; the other shards may still be down.
    pub async fn start(
        settings: Arc<Settings>,
        topology: Arc<ArcSwap<Topology>>,
        links: Links,
    ) -> Result<Self, ControlError> {
        let handle = links.handle.clone();
        let started = handle.spawn(Self::start_here(settings, topology, links));
        started.await.map_err(|_| ControlError::Stopped)?
    }

    async fn start_here(
        settings: Arc<Settings>,
        topology: Arc<ArcSwap<Topology>>,
        links: Links,
    ) -> Result<Self, ControlError> {
        let Links { handle, metrics, tls } = links;
        let dialer = Arc::new(Dialer::new(&settings, tls));
        let nodes = Arc::new(Nodes::default());
        let database = settings.auth.query_database.clone();
        let parts = (Arc::clone(&dialer), Arc::clone(&nodes), Arc::clone(&metrics));
        let health = Arc::new(Health::new(parts.0, parts.1, parts.2, database.clone()));
        health.set_interval(settings.backend.health_interval);
        for node in nodes.adopt(&topology.load(), &standalone(&settings)).new {
            if node.shard.is_some() {
                handle.spawn(Arc::clone(&health).watch(node));
            }
        }
        let cluster = adopt_stored(&health, &topology).await?;
        handle.spawn(timelines::keep(Arc::clone(&health)));
        metrics.topology(&cluster, &topology.load());

        let (two_phase, decisions) = TwoPhase::new(Owner::new(cluster));
        let resolver = Arc::new(Resolver {
            dialer: Arc::clone(&dialer),
            nodes: Arc::clone(&nodes),
            metrics,
            live: two_phase.live(),
            owner: two_phase.owner().clone(),
            database: database.clone(),
            grace: resolver::GRACE,
            pass: resolver::PASS,
        });
        handle.spawn(Arc::clone(&resolver).hold_lock());
        handle.spawn(Arc::clone(&resolver).decide_all(decisions));
        let (barrier, requests) = Barrier::new();
        handle.spawn(Arc::clone(&resolver).keep_barrier(requests));
        handle.spawn(resolver.run());
        let proxy = two_phase.owner().proxy.clone();
        let announcer = Announcer { proxy, database };
        let (shared_nodes, map) = (Arc::clone(&nodes), Arc::clone(&topology));
        let catalogs = Arc::new(Catalogs::new(Arc::clone(&dialer), shared_nodes, map, announcer.clone()));
        let listen = ListenHub::new(dialer, Arc::clone(&nodes), handle.clone());
        handle.spawn(announcer.hear(listen.clone(), Arc::clone(&catalogs)));
        let settings = ArcSwap::new(settings);
        let inner = Inner { handle, topology, nodes, health, catalogs, two_phase, barrier, listen, settings };
        Ok(Self { inner: Arc::new(inner) })
    }

    /// The nodes of the cluster and how they are.
    pub fn nodes(&self) -> &Arc<Nodes> {
        &self.inner.nodes
    }

    /// Two-phase commit, the session's side.
    pub fn two_phase(&self) -> &TwoPhase {
        &self.inner.two_phase
    }

    /// Moments at which no two-phase commit is half done.
    pub fn barrier(&self) -> &Barrier {
        &self.inner.barrier
    }

    /// The topology in use.
    pub fn topology(&self) -> arc_swap::Guard<Arc<Topology>> {
        self.inner.topology.load()
    }

    /// Whether every shard can prepare transactions; `Err` names the first primary that cannot
    /// (`max_prepared_transactions = 0`).
    pub fn can_prepare(&self) -> Result<(), String> {
        for index in 0..self.inner.nodes.shard_count() {
            let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
            let node = self.inner.nodes.primary(shard).and_then(|id| self.inner.nodes.get(id));
            if let Some(node) = node.filter(|node| node.prepared_limit() == Some(0)) {
                return Err(node.name());
            }
        }
        Ok(())
    }

    /// The catalog of a database (its name on the nodes), loaded now if it was not. Keep it for the session.
    pub async fn catalog(&self, database: &str) -> Result<Arc<Catalog>, ControlError> {
        if let Some(catalog) = self.inner.catalogs.get(database) {
            return Ok(catalog);
        }
        let opened = self.inner.handle.spawn(Arc::clone(&self.inner.catalogs).open(database.to_owned()));
        opened.await.map_err(|_| ControlError::Stopped)?
    }

    /// The catalog of a database that has been loaded.
    pub fn loaded_catalog(&self, database: &str) -> Option<Arc<Catalog>> {
        self.inner.catalogs.get(database)
    }

    /// The catalog as a session's open transaction sees it, out of the answers to [`OwnCatalog::questions`].
    pub fn own_catalog(&self, answers: Vec<Vec<TextRow>>, committed: &DatabaseCatalog) -> Option<OwnCatalog> {
        self.inner.catalogs.own(answers, committed)
    }

    /// A catalog with the temporary tables of a session, out of the answers to [`OwnCatalog::temporary_questions`].
    pub fn with_temporary(&self, answers: &[Vec<TextRow>; 2], base: &Schema) -> Schema {
        self.inner.catalogs.with_temporary(answers, base)
    }

    /// Closes pooled connections to a database that nothing uses now.
    pub fn close_idle(&self, database: &str) {
        self.inner.health.dialer.close_idle(database);
    }

    /// Every catalog that has been loaded, for the console and for RELOAD.
    pub fn catalogs(&self) -> Vec<Arc<Catalog>> {
        self.inner.catalogs.all()
    }

    /// After DDL on sharded tables, and at start: gives the sequences of generated columns their stride on every shard.
    pub async fn align_sequences(&self, catalog: &Arc<Catalog>) -> Result<StrideReport, ControlError> {
        let (catalogs, catalog) = (Arc::clone(&self.inner.catalogs), Arc::clone(catalog));
        let aligned = self.inner.handle.spawn(async move { sequences::align(&catalogs, &catalog).await });
        aligned.await.map_err(|_| ControlError::Stopped)?
    }

    /// A session's LISTENs on a database. One per session, at its first LISTEN.
    pub fn subscribe(&self, database: &str) -> Subscription {
        self.inner.listen.subscribe(database)
    }

    /// Whether statements can be served: some shard has a primary, and the sharded databases named in the configuration have
    /// their catalog; then the shards that have none. A shard that is down is down for every proxy: none of them would be
    /// left if each were taken out for it. `Err` says what is missing.
    pub fn ready(&self) -> Result<Vec<String>, String> {
        let nodes = &self.inner.nodes;
        let ids = (0..nodes.shard_count()).map(|index| ShardId(u16::try_from(index).unwrap_or(u16::MAX)));
        let without = ids.filter(|shard| nodes.primary(*shard).is_none()).map(|shard| {
            let name = nodes.shard(shard).map(|shard| shard.name.clone()).unwrap_or_default();
            format!("shard {name} has no primary: {}", nodes.why_no_primary(shard))
        });
        let without: Vec<String> = without.collect();
        if without.len() == nodes.shard_count() {
            return Err(without.join("\n"));
        }
        for name in sharded_databases(&self.inner.settings.load()) {
            if self.inner.catalogs.get(&name).is_none() {
                return Err(format!("the catalog of database {name} is not loaded"));
            }
        }
        Ok(without)
    }

    /// Rules of the configuration that match no table of the catalogs that have been loaded.
    pub fn unmatched_rules(&self) -> Vec<Problem> {
        let schemas: Vec<Arc<Schema>> = self.catalogs().iter().map(|catalog| catalog.schema()).collect();
        catalog::unmatched(&self.topology(), &schemas)
    }

    /// Loads the catalogs of the sharded databases named in the configuration and aligns their sequences. A database
    /// that fails is logged and tried again when a session asks for it. Rules that match nothing are logged.
    pub async fn load_configured(&self) {
        for name in sharded_databases(&self.inner.settings.load_full()) {
            match self.catalog(&name).await {
                Ok(catalog) => {
                    if let Err(error) = self.align_sequences(&catalog).await {
                        tracing::warn!(database = %name, "sequences are not aligned: {error}");
                    }
                }
                Err(error) => tracing::error!(database = %name, "catalog is not loaded: {error}"),
            }
        }
        for Problem { table: rule, message, .. } in self.unmatched_rules() {
            tracing::warn!(rule, "{message}");
        }
    }

    /// RELOAD: follows new settings and a topology fresh from the file, whose slot map is replaced by the stored one; the
    /// shared topology is published here. On an error everything stays as it was. Returns when the catalogs have been
    /// read anew, by the new rules; the notes are about those that could not be, and about rules that do not do what they may
    /// have been meant to.
    pub async fn reload(&self, new: Reload) -> Result<Vec<String>, ControlError> {
        let this = self.clone();
        let reloaded = self.inner.handle.spawn(async move { this.reload_here(new).await });
        reloaded.await.map_err(|_| ControlError::Stopped)?
    }

    async fn reload_here(&self, new: Reload) -> Result<Vec<String>, ControlError> {
        let Reload { settings, mut topology, tls } = new;
        let current = self.inner.topology.load_full();
        let name = |topology: &Topology| topology.shards.first().map(|shard| shard.name.clone());
        if name(&current) != name(&topology) {
            return Err(ControlError::Store {
                message: String::from(
                    "the first shard of the configuration is another one than before; it holds the control store and \
                     all unsharded tables, and cannot be exchanged by a reload",
                ),
            });
        }
        let home = primary(&self.inner.nodes, ShardId(0))?;
        // As the new settings say: a wrong user or password is found before anything has changed.
        let dialer = Dialer::new(&settings, tls.clone());
        let mut client = dialer.driven(&home, &self.inner.health.database).await?;
        let proposal = (topology.epoch, topology.slot_map.as_slice());
        let stored = store::load_or_init(&mut client, &topology.shards, proposal).await?;
        topology.epoch = stored.epoch;
        topology.slot_map = stored.slot_map;
        self.inner.health.metrics.topology(&stored.cluster, &topology);
        let names: Vec<String> = topology.shards.iter().map(|shard| shard.name.clone()).collect();
        self.inner.health.metrics.set_shards(&names);
        let catalogs = self.inner.catalogs.all();
        let before: Vec<Arc<Schema>> = catalogs.iter().map(|catalog| catalog.schema()).collect();
        self.inner.topology.store(Arc::new(topology));
        self.inner.health.dialer.follow(&settings, tls);
        self.inner.health.set_interval(settings.backend.health_interval);
        self.follow(settings);
        let read = join_all(catalogs.iter().map(|catalog| catalog.reread())).await;
        let mut notes = Vec::new();
        for ((catalog, before), read) in catalogs.iter().zip(before).zip(read) {
            let database = catalog.database();
            match read {
                Ok(now) => notes.extend(catalog::moved(database, &before, &now.schema)),
                Err(error) => notes.push(format!(
                    "the catalog of database {database} could not be read ({error}): its tables stay placed by the old \
                     rules until it can, which is tried again and again"
                )),
            }
        }
        let unmatched = self.unmatched_rules().into_iter();
        notes.extend(unmatched.map(|Problem { table: rule, message, .. }| format!("{rule}: {message}")));
        Ok(notes)
    }

    fn follow(&self, settings: Arc<Settings>) {
        let adopted = self.inner.nodes.adopt(&self.inner.topology.load(), &standalone(&settings));
        for node in adopted.new {
            if node.shard.is_some() {
                self.inner.handle.spawn(Arc::clone(&self.inner.health).watch(node));
            }
        }
        for node in adopted.retired {
            self.inner.health.forget(&node);
        }
        self.inner.settings.store(settings);
    }
}

/// Waits for the home shard and puts the stored slot map into the topology, the stored timelines into the memory of the
/// health checks. Returns the cluster's name.
async fn adopt_stored(health: &Health, topology: &ArcSwap<Topology>) -> Result<String, ControlError> {
    let Health { dialer, nodes, database, .. } = health;
    wait_home(nodes, &topology.load()).await?;
    let home = primary(nodes, ShardId(0))?;
    let mut client = dialer.driven(&home, database).await?;
    let current = topology.load_full();
    let failed = |error| store::unreadable("looking for the control store", (&home, &dialer.user()), &error);
    if !store::exists(&client).await.map_err(failed)? {
        refuse_other_store(dialer, nodes, &current, database).await?;
    }
    let stored =
        store::load_or_init(&mut client, &current.shards, (current.epoch, &current.slot_map)).await?;
    let seen = store::timelines(&client).await;
    for (name, system_id, timeline) in
        seen.map_err(|error| store::unreadable("reading timelines", (&home, &dialer.user()), &error))?
    {
        health.recall(&name, system_id, timeline);
    }
    if stored.slot_map != current.slot_map || stored.epoch != current.epoch {
        let mut adopted = Topology::clone(&current);
        adopted.epoch = stored.epoch;
        adopted.slot_map = stored.slot_map;
        topology.store(Arc::new(adopted));
    }
    tracing::info!(epoch = stored.epoch, cluster = %stored.cluster, "slot map in use");
    Ok(stored.cluster)
}

/// Waits for the primary of the home shard, and says what it waits for.
async fn wait_home(nodes: &Nodes, topology: &Topology) -> Result<(), ControlError> {
    let mut waited = Duration::ZERO;
    while nodes.wait_primary(ShardId(0), START_WORD).await.is_none() {
        waited += START_WORD;
        let members = nodes.members(ShardId(0));
        let complaints: Vec<String> =
            members.iter().map(|node| format!("{}: {}", node.name(), node.failure())).collect();
        let shard = topology.shards.first().map(|shard| shard.name.clone()).unwrap_or_default();
        let why = format!("{} ({})", nodes.why_no_primary(ShardId(0)), complaints.join("; "));
        if waited >= START_LIMIT {
            return Err(ControlError::NoPrimary { shard, why });
        }
        tracing::warn!(shard, "waiting for the primary of the first shard, which holds the slot map: {why}");
    }
    Ok(())
}

/// The first start makes the store. If another shard has one, the order of the shards was changed: a second slot map
/// would place rows anew.
async fn refuse_other_store(
    dialer: &Dialer,
    nodes: &Nodes,
    topology: &Topology,
    database: &str,
) -> Result<(), ControlError> {
    for (shard, id) in topology.shards.iter().zip(topology.shard_ids()).skip(1) {
        nodes.wait_primary(id, START_LIMIT).await;
        let node = primary(nodes, id)?;
        let client = dialer.driven(&node, database).await?;
        let found = store::exists(&client).await;
        if found.map_err(|error| ControlError::query("looking for the control store", &node, &error))? {
            return Err(ControlError::Store {
                message: format!(
                    "the control store (schema \"gavel\") is on shard \"{}\", which is not the first one of the \
                     configuration: put it first again",
                    shard.name
                ),
            });
        }
    }
    Ok(())
}

fn standalone(settings: &Settings) -> Vec<NodeAddress> {
    let node = |kind: &DatabaseKind| match kind {
        DatabaseKind::Node(address) => Some(address.clone()),
        DatabaseKind::Sharded | DatabaseKind::FirstShard => None,
    };
    settings.databases.iter().filter_map(|database| node(&database.kind)).collect()
}

fn sharded_databases(settings: &Settings) -> Vec<String> {
    let named = |database: &&router_config::settings::Database| {
        database.kind == DatabaseKind::Sharded && database.name != "*"
    };
    let backend = |database: &router_config::settings::Database| {
        database.backend_name.clone().unwrap_or_else(|| database.name.clone())
    };
    settings.databases.iter().filter(named).map(backend).collect()
}
