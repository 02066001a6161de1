//! The catalogs of the sharded databases: loaded on demand, replaced as a whole, shared by all sessions.
//!
//! Invariant: [`Catalog::refresh`] returns what was read after it was called; any number of callers share one load.

mod concealed;
mod constraints;
mod drift;
mod functions;
mod load;
mod own;
mod place;
mod plpgsql;
mod printed;
mod questions;
mod rows;
mod rules;
mod set_off;
mod shard;
mod temporary;
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

use self::drift::Drift;
pub use self::own::{Alignment, OwnCatalog};
pub use self::place::{Forbids, Problem};
use self::printed::Printed;
pub use self::rows::TextRow;
pub(crate) use self::rows::ask;
pub(crate) use self::rules::{moved, unmatched};
use self::shard::ShardCatalog;
use super::announce::Announcer;
use super::connect::Dialer;
use super::error::ControlError;
use super::nodes::Nodes;
use super::oids::OidMap;
use super::resolver::primary;
use crate::backend::oids::OidCell;
use crate::sql::schema::Schema;

/// Databases whose catalog is kept; a login to one more is refused.
const MAX_DATABASES: usize = 1000;

/// Pause before what could not be read, or differs between the shards, is looked at again.
const RETRY: Duration = Duration::from_secs(5);

/// Pause before a difference that was not there before is believed.
const CONFIRM: Duration = Duration::from_millis(200);

/// How often the shards are asked whether their catalogs have been changed behind the proxy's back.
const WATCH: Duration = Duration::from_secs(60);

/// How long a load waits for a shard that has no primary.
const PRIMARY_WAIT: Duration = Duration::from_secs(5);

/// One database's catalog at a generation.
#[derive(Debug)]
pub struct DatabaseCatalog {
    /// Relations, functions, types.
    pub schema: Arc<Schema>,
    /// Type OIDs by shard.
    pub oids: Arc<OidMap>,
    /// What cannot be served as configured, or differs between the shards.
    pub problems: Vec<Problem>,
    /// Definitions as the home shard has printed them.
    pub(crate) printed: Printed,
}

/// Names of the shards, with what each has; `None` for one that has never answered.
type Shards = Vec<(String, Option<ShardCatalog>)>;

/// What the last load rested on.
struct Seen {
    shards: Shards,
    /// Some shard did not answer, or they differ: it may pass.
    passing: bool,
}

/// What a reload came to.
type Report = Arc<Result<(), ControlError>>;

/// A database's current catalog, for as long as sessions use it.
#[derive(Debug)]
pub struct Catalog {
    database: String,
    current: ArcSwap<DatabaseCatalog>,
    wanted: AtomicU64,
    /// Somebody wants it read anew even where nothing shows that it has changed.
    forced: AtomicBool,
    /// A refresh was asked for by a session that changed the catalog: other proxies must know.
    changed: AtomicBool,
    bell: Notify,
    /// Number of the newest request that a finished load covers, and how it went.
    done: watch::Sender<(u64, Report)>,
    /// By shard: what conns translate OIDs with.
    cells: Vec<OidCell>,
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

    /// What is current now, to be held on to.
    pub fn current(&self) -> Arc<DatabaseCatalog> {
        self.current.load_full()
    }

    /// The schema now.
    pub fn schema(&self) -> Arc<Schema> {
        Arc::clone(&self.current.load().schema)
    }

    /// What conns to a shard translate OIDs with, kept up to date.
    pub fn oid_cell(&self, shard: ShardId) -> Option<OidCell> {
        self.cells.get(usize::from(shard.0)).cloned()
    }

    fn publish(&self, loaded: DatabaseCatalog) {
        // The translation first: whoever knows a new type by the new schema finds it there.
        loaded.oids.publish(&self.cells);
        let old = self.current.swap(Arc::new(loaded));
        tell(&self.database, &old.problems, &self.current.load().problems);
    }

    /// Reads the catalog anew and waits for it; concurrent callers share a load. On an error the old one stays. The
    /// other proxies of the cluster are told to do the same.
    pub async fn refresh(&self) -> Result<Arc<DatabaseCatalog>, ControlError> {
        self.changed.store(true, Ordering::Release);
        self.reread().await
    }

    /// As `refresh`, but the other proxies are not told.
    pub async fn reread(&self) -> Result<Arc<DatabaseCatalog>, ControlError> {
        let ticket = self.request(true);
        self.finished(ticket).await?;
        Ok(self.current.load_full())
    }

    /// Looks whether the shards' catalogs have changed, and reads them anew if so. On success the catalog knows what was committed
    /// before the call.
    pub async fn look(&self) -> Result<(), ControlError> {
        let ticket = self.request(false);
        self.finished(ticket).await
    }

    async fn finished(&self, ticket: u64) -> Result<(), ControlError> {
        let mut done = self.done.subscribe();
        let report = match done.wait_for(|(covered, _)| *covered >= ticket).await {
            Ok(state) => Arc::clone(&state.1),
            Err(_) => return Err(ControlError::Stopped),
        };
        report.as_ref().clone()
    }

    /// Asks for a reload without waiting, here only.
    pub fn refresh_soon(&self) {
        self.request(true);
    }

    fn request(&self, force: bool) -> u64 {
        // First the wish, then the number that a load covers.
        self.forced.fetch_or(force, Ordering::AcqRel);
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
    pub(crate) fn own(&self, answers: Vec<Vec<TextRow>>, committed: &DatabaseCatalog) -> Option<OwnCatalog> {
        let generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        OwnCatalog::of_answers(answers, &self.topology.load(), generation, committed)
    }

    /// A catalog with the temporary tables of a session.
    pub(crate) fn with_temporary(&self, answers: &[Vec<TextRow>; 2], base: &Schema) -> Schema {
        let [relations, columns] = answers;
        let mut schema = base.clone();
        schema.generation = self.generation.fetch_add(1, Ordering::Relaxed) + 1;
        for relation in temporary::tables(relations, columns, base.utf8) {
            schema.relations.insert((relation.schema.clone(), relation.name.clone()), Arc::new(relation));
        }
        schema
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
        let shards = self.read_shards(&database, None).await?;
        let (loaded, seen) = self.read(&database, shards, &Printed::default()).await?;
        let mut cells = Vec::new();
        cells.resize_with(seen.shards.len(), OidCell::default);
        loaded.oids.publish(&cells);
        tell(&database, &[], &loaded.problems);
        let catalog = Arc::new(Catalog {
            database: database.clone(),
            current: ArcSwap::from_pointee(loaded),
            cells,
            wanted: AtomicU64::new(0),
            forced: AtomicBool::new(false),
            changed: AtomicBool::new(false),
            bell: Notify::new(),
            done: watch::Sender::new((0, Arc::new(Ok(())))),
        });
        self.open.lock().unwrap_or_else(PoisonError::into_inner).insert(database, Arc::clone(&catalog));
        tokio::runtime::Handle::current().spawn(Arc::clone(&self).keep(Arc::clone(&catalog), seen));
        Ok(catalog)
    }

    /// Serves the refreshes of one database, and looks by itself whether it has changed.
    async fn keep(self: Arc<Self>, catalog: Arc<Catalog>, seen: Seen) {
        let mut seen = seen;
        let mut failed = false;
        loop {
            let pause = if failed || seen.passing { RETRY } else { WATCH };
            let rung = tokio::time::timeout(pause, catalog.bell.notified()).await.is_ok();
            let covered = catalog.wanted.load(Ordering::Acquire);
            let asked = catalog.done.borrow().0 < covered;
            if rung && !asked {
                continue;
            }
            // Taken where a load follows: a wish is never lost.
            let forced = catalog.forced.swap(false, Ordering::AcqRel);
            let mut shards = self.read_shards(&catalog.database, Some(&seen.shards)).await;
            if let Ok((shards, missing)) = &shards
                && !forced
                && !failed
                && *shards == seen.shards
            {
                seen.passing = *missing || differs(&catalog.load().problems);
                if asked {
                    catalog.done.send_replace((covered, Arc::new(Ok(()))));
                }
                continue;
            }
            if shards
                .as_ref()
                .is_ok_and(|(shards, _)| Drift::new(shards).is_some_and(|drift| drift.is_new(&seen.shards)))
            {
                // DDL that is just being committed on one shard after the other.
                tokio::time::sleep(CONFIRM).await;
                shards = self.read_shards(&catalog.database, Some(&seen.shards)).await;
            }
            let read = match shards {
                Ok(shards) => self.read(&catalog.database, shards, &catalog.current().printed).await,
                Err(error) => Err(error),
            };
            failed = read.is_err();
            let report = match read {
                Ok((loaded, now)) => {
                    catalog.publish(loaded);
                    seen = now;
                    Ok(())
                }
                Err(error) => {
                    if asked {
                        tracing::error!(database = %catalog.database, "the old catalog stays in use: {error}");
                    } else {
                        tracing::debug!(database = %catalog.database, "the catalog could not be looked at: {error}");
                    }
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

    async fn read(
        &self,
        database: &str,
        (shards, missing): (Shards, bool),
        before: &Printed,
    ) -> Result<(DatabaseCatalog, Seen), ControlError> {
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
        let drift = Drift::new(&shards);
        let loaded = load::load(&tx, &topology, generation, drift.as_ref(), before).await.map_err(failed)?;
        tx.commit().await.map_err(failed)?;
        if let Some(name) = loaded.unreadable_name {
            return Err(ControlError::Limit {
                message: format!(
                    "table {name} of database {database} is not unsharded and has a name that is not ASCII, but the \
                     database's encoding is not UTF8: statements that name it could not be told; rename it"
                ),
            });
        }
        let objects: Vec<_> =
            shards.iter().map(|(_, shard)| shard.as_ref().map(|shard| shard.objects.clone())).collect();
        let oids = OidMap::new(&objects);
        if !oids.is_uniform() {
            tracing::debug!(database, "OIDs differ between shards and are translated");
        }
        let passing = missing || differs(&loaded.problems);
        let catalog = DatabaseCatalog {
            schema: Arc::new(loaded.schema),
            oids: Arc::new(oids),
            problems: loaded.problems,
            printed: loaded.printed,
        };
        Ok((catalog, Seen { shards, passing }))
    }

    /// Right after a start or during a failover a shard gets a moment to be found.
    async fn primary(&self, shard: ShardId) -> Result<NodeAddress, ControlError> {
        self.nodes.wait_primary(shard, PRIMARY_WAIT).await;
        primary(&self.nodes, shard)
    }

    /// What each shard has, and whether one did not answer; of that one, what it had before. An error when the home shard
    /// does not answer, or a shard has an answer that is not one.
    async fn read_shards(
        &self,
        database: &str,
        before: Option<&Shards>,
    ) -> Result<(Shards, bool), ControlError> {
        let names: Vec<String> = self.topology.load().shards.iter().map(|shard| shard.name.clone()).collect();
        let one = |index: usize| async move {
            let shard = ShardId(u16::try_from(index).unwrap_or(u16::MAX));
            let node = self.primary(shard).await?;
            let client = self.dialer.client(&node, database).await?;
            let known = before.and_then(|before| before.get(index)?.1.as_ref());
            shard::read(&client, known.map(|known| &known.printed))
                .await
                .map_err(|error| ControlError::query("reading a catalog", &node, &error))
        };
        let all = join_all((0..names.len()).map(one)).await;
        let missing = all.iter().any(Result::is_err);
        let mut shards = Shards::new();
        for (name, read) in names.into_iter().zip(all) {
            let known = || before?.iter().find(|(known, _)| *known == name)?.1.clone();
            let shard = match read {
                Ok(shard) => Some(shard),
                Err(error @ ControlError::Query { sqlstate: Some(_), .. }) => return Err(error),
                Err(error) if shards.is_empty() => return Err(error),
                Err(error) => {
                    tracing::debug!(database, shard = %name, "its catalog could not be read: {error}");
                    known()
                }
            };
            shards.push((name, shard));
        }
        Ok((shards, missing))
    }
}

/// Whether shards differ, which may pass: a two-phase commit that is being finished, or somebody who repairs it.
fn differs(problems: &[Problem]) -> bool {
    problems.iter().any(|problem| problem.forbids != Forbids::Nothing)
}

/// Logs what is new.
fn tell(database: &str, old: &[Problem], new: &[Problem]) {
    for problem in new.iter().filter(|problem| !old.contains(problem)) {
        let Problem { table, message, forbids } = problem;
        match forbids {
            Forbids::All => {
                tracing::error!(database, %table, "statements on this table are refused: {message}")
            }
            Forbids::Writes => {
                tracing::error!(database, %table, "writes to this table are refused: {message}")
            }
            Forbids::Nothing => tracing::warn!(database, about = %table, "{message}"),
        }
    }
    for gone in old.iter().filter(|problem| !new.contains(problem)) {
        tracing::info!(database, table = %gone.table, "no longer a problem: {}", gone.message);
    }
}
