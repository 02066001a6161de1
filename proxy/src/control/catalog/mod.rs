//! The catalogs of the sharded databases: loaded on demand, replaced as a whole, shared by all sessions.
//!
//! Invariant: [`Catalog::refresh`] returns what was read after it was called; any number of callers share one load.

mod functions;
mod load;
mod own;
mod place;
mod plpgsql;
mod rows;
mod scan;
mod set_off;
mod triggers;
mod views;

#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use futures_util::future::join_all;
use router_config::topology::{NodeAddress, ShardId, Topology};
use tokio::sync::{Notify, watch};

pub use self::own::{Alignment, OwnCatalog};
pub use self::place::Problem;
pub use self::rows::TextRow;
pub(crate) use self::rows::ask;
use super::announce::Announcer;
use super::connect::Dialer;
use super::error::ControlError;
use super::nodes::Nodes;
use super::oids::{OidMap, ShardTypes, shard_types};
use super::resolver::primary;
use crate::sql::schema::Schema;

/// Databases whose catalog is kept; a login to one more is refused.
const MAX_DATABASES: usize = 1000;

/// Pause before what could not be read is tried again.
const RETRY: Duration = Duration::from_secs(5);

/// How long a load waits for a shard that has no primary.
const PRIMARY_WAIT: Duration = Duration::from_secs(5);

/// One database's catalog at a generation.
#[derive(Debug)]
pub struct DatabaseCatalog {
    /// Relations, functions, types.
    pub schema: Arc<Schema>,
    /// Type OIDs by shard.
    pub oids: Arc<OidMap>,
    /// Tables that cannot be served as configured: every statement on them is refused.
    pub problems: Vec<Problem>,
}

/// What a reload came to.
type Report = Arc<Result<(), ControlError>>;

/// A database's current catalog, for as long as sessions use it.
#[derive(Debug)]
pub struct Catalog {
    database: String,
    current: ArcSwap<DatabaseCatalog>,
    wanted: AtomicU64,
    /// A refresh was asked for by a session that changed the catalog: other proxies must know.
    changed: AtomicBool,
    bell: Notify,
    /// Number of the newest request that a finished load covers, and how it went.
    done: watch::Sender<(u64, Report)>,
}

impl Catalog {
    /// Name of the database on the nodes.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The catalog now. A few nanoseconds.
    pub fn load(&self) -> arc_swap::Guard<Arc<DatabaseCatalog>> {
        self.current.load()
    }

    /// The schema now.
    pub fn schema(&self) -> Arc<Schema> {
        Arc::clone(&self.current.load().schema)
    }

    /// Reads the catalog anew and waits for it; concurrent callers share a load. On an error the old one stays. The
    /// other proxies of the cluster are told to do the same.
    pub async fn refresh(&self) -> Result<Arc<DatabaseCatalog>, ControlError> {
        self.changed.store(true, Ordering::Release);
        self.reread().await
    }

    /// As `refresh`, but the other proxies are not told.
    pub(crate) async fn reread(&self) -> Result<Arc<DatabaseCatalog>, ControlError> {
        let ticket = self.request();
        let mut done = self.done.subscribe();
        let report = match done.wait_for(|(covered, _)| *covered >= ticket).await {
            Ok(state) => Arc::clone(&state.1),
            Err(_) => return Err(ControlError::Stopped),
        };
        report.as_ref().clone().map(|()| self.current.load_full())
    }

    /// Asks for a reload without waiting, here only.
    pub fn refresh_soon(&self) {
        self.request();
    }

    fn request(&self) -> u64 {
        let ticket = self.wanted.fetch_add(1, Ordering::AcqRel) + 1;
        self.bell.notify_one();
        ticket
    }
}

/// All catalogs.
pub(crate) struct Catalogs {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) nodes: Arc<Nodes>,
    pub(crate) topology: Arc<ArcSwap<Topology>>,
    announcer: Announcer,
    generation: AtomicU64,
    open: Mutex<HashMap<String, Arc<Catalog>>>,
    /// One first load at a time: sessions of a new database wait for the same one.
    opening: tokio::sync::Mutex<()>,
}

impl Catalogs {
    pub(crate) fn new(
        dialer: Arc<Dialer>,
        nodes: Arc<Nodes>,
        topology: Arc<ArcSwap<Topology>>,
        announcer: Announcer,
    ) -> Self {
        Self {
            dialer,
            nodes,
            topology,
            announcer,
            generation: AtomicU64::new(0),
            open: Mutex::default(),
            opening: tokio::sync::Mutex::new(()),
        }
    }

    /// The catalog of a database that has been opened.
    pub(crate) fn get(&self, database: &str) -> Option<Arc<Catalog>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).get(database).cloned()
    }

    /// Every catalog open.
    pub(crate) fn all(&self) -> Vec<Arc<Catalog>> {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// See [`OwnCatalog`].
    pub(crate) fn own(&self, answers: Vec<Vec<TextRow>>, committed: &Schema) -> Option<OwnCatalog> {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        OwnCatalog::of_answers(answers, &self.topology.load(), generation, committed)
    }

    /// Opens a database: loads its catalog unless it is there. Runs on the control runtime.
    pub(crate) async fn open(self: Arc<Self>, database: String) -> Result<Arc<Catalog>, ControlError> {
        if let Some(catalog) = self.get(&database) {
            return Ok(catalog);
        }
        let _turn = self.opening.lock().await;
        if let Some(catalog) = self.get(&database) {
            return Ok(catalog);
        }
        if self.all().len() >= MAX_DATABASES {
            return Err(ControlError::Limit {
                message: format!("catalogs of {MAX_DATABASES} databases are open, which is the limit"),
            });
        }
        let loaded = self.read(&database).await?;
        let catalog = Arc::new(Catalog {
            database: database.clone(),
            current: ArcSwap::from_pointee(loaded),
            wanted: AtomicU64::new(0),
            changed: AtomicBool::new(false),
            bell: Notify::new(),
            done: watch::Sender::new((0, Arc::new(Ok(())))),
        });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(database, Arc::clone(&catalog));
        tokio::runtime::Handle::current().spawn(Arc::clone(&self).keep(Arc::clone(&catalog)));
        Ok(catalog)
    }

    /// Serves the refreshes of one database.
    async fn keep(self: Arc<Self>, catalog: Arc<Catalog>) {
        let mut again = None;
        loop {
            match again {
                None => catalog.bell.notified().await,
                Some(pause) => {
                    if tokio::time::timeout(pause, catalog.bell.notified()).await.is_err() {
                        catalog.request();
                    }
                }
            }
            let covered = catalog.wanted.load(Ordering::Acquire);
            if catalog.done.borrow().0 >= covered {
                continue;
            }
            let report = match self.read(&catalog.database).await {
                Ok(loaded) => {
                    again = None;
                    catalog.current.store(Arc::new(loaded));
                    Ok(())
                }
                Err(error) => {
                    again = Some(RETRY);
                    tracing::error!(database = %catalog.database, "the old catalog stays in use: {error}");
                    Err(error)
                }
            };
            catalog.done.send_replace((covered, Arc::new(report)));
            if catalog.changed.swap(false, Ordering::AcqRel)
                && let Err(error) = self.announcer.tell(&self.dialer, &self.nodes, &catalog.database).await
            {
                tracing::warn!(database = %catalog.database, "other proxies keep an old catalog: {error}");
            }
        }
    }

    async fn read(&self, database: &str) -> Result<DatabaseCatalog, ControlError> {
        let topology = self.topology.load_full();
        let home = self.primary(ShardId(0)).await?;
        let mut client = self.dialer.client(&home, database).await?;
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        let failed = |error| ControlError::query("reading the catalog", &home, &error);
        let tx = client
            .build_transaction()
            .isolation_level(tokio_postgres::IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .map_err(failed)?;
        let loaded = load::load(&tx, &topology, generation).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        for problem in &loaded.problems {
            tracing::error!(
                database,
                table = %problem.table,
                "statements on this table are refused: {}",
                problem.message
            );
        }
        let oids = self.read_oids(database, topology.shards.len()).await?;
        if !oids.is_uniform() {
            tracing::debug!(database, "type OIDs differ between shards and are translated");
        }
        Ok(DatabaseCatalog {
            schema: Arc::new(loaded.schema),
            oids: Arc::new(oids),
            problems: loaded.problems,
        })
    }

    /// Right after a start or during a failover a shard gets a moment to be found.
    async fn primary(&self, shard: ShardId) -> Result<NodeAddress, ControlError> {
        self.nodes.wait_primary(shard, PRIMARY_WAIT).await;
        primary(&self.nodes, shard)
    }

    async fn read_oids(&self, database: &str, shards: usize) -> Result<OidMap, ControlError> {
        let one = |index: usize| async move {
            let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
            let node = self.primary(shard).await?;
            let client = self.dialer.client(&node, database).await?;
            shard_types(&client).await.map_err(|error| ControlError::query("reading types", &node, &error))
        };
        let all: Vec<Result<ShardTypes, ControlError>> = join_all((0..shards).map(one)).await;
        Ok(OidMap::new(&all.into_iter().collect::<Result<Vec<_>, _>>()?))
    }
}
