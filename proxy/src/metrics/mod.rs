//! Metrics: one struct, handed to whoever counts. No globals.
//!
//! Children are resolved once and kept, so that counting is an atomic add; a child appears in the output when it is
//! first used, but for what alerts watch for an increase: it begins with 0. Labels are closed sets (shards and nodes of the configuration, enums of this file): never a user, a key
//! or SQL.

mod labels;
mod samples;
#[cfg(test)]
mod tests;

use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use arc_swap::ArcSwap;
use prometheus::{
    Encoder, Gauge, GaugeVec, Histogram, HistogramOpts, HistogramVec, IntCounter, IntCounterVec, IntGauge,
    IntGaugeVec, Opts, Registry, TextEncoder,
};
use router_config::topology::{SLOTS, ShardId, Slot, Topology};

use self::labels::{ALERTED, BUCKETS, CLASSES, CONN_STATES, PLANS, REFUSALS, SESSION_STATES, SQLSTATES};
pub use self::labels::{Cache, ConnState, PlanKind, RefusalClass, SLOT_GROUPS, ServedBy, SessionState};
use crate::control::{NodeRole, Outcome};

/// One shard's and role's children.
#[derive(Debug)]
pub struct ShardMetrics {
    statements: [OnceLock<Histogram>; PLANS.len()],
    pool_wait: OnceLock<Histogram>,
    connect: OnceLock<Histogram>,
    conns: [OnceLock<IntGauge>; CONN_STATES.len()],
    shard: String,
    role: &'static str,
    families: Arc<Families>,
}

impl ShardMetrics {
    fn new(families: &Arc<Families>, shard: &str, role: &'static str) -> Self {
        Self {
            statements: Default::default(),
            pool_wait: OnceLock::new(),
            connect: OnceLock::new(),
            conns: Default::default(),
            shard: shard.to_owned(),
            role,
            families: Arc::clone(families),
        }
    }

    /// A statement was answered.
    pub fn statement(&self, plan: PlanKind, took: Duration) {
        let index = plan as usize;
        let labels = [self.shard.as_str(), self.role, PLANS[index]];
        let child =
            self.statements[index].get_or_init(|| self.families.statements.with_label_values(&labels));
        child.observe(took.as_secs_f64());
    }

    /// A lease was waited for.
    pub fn pool_wait(&self, waited: Duration) {
        let labels = [self.shard.as_str(), self.role];
        let child = self.pool_wait.get_or_init(|| self.families.pool_wait.with_label_values(&labels));
        child.observe(waited.as_secs_f64());
    }

    /// A backend connection was opened and logged in.
    pub fn connected(&self, took: Duration) {
        let labels = [self.shard.as_str(), self.role];
        let child = self.connect.get_or_init(|| self.families.connect.with_label_values(&labels));
        child.observe(took.as_secs_f64());
    }

    /// Backend connections in this state; the pools add and subtract.
    pub fn conns(&self, state: ConnState) -> &IntGauge {
        let index = state as usize;
        let labels = [self.shard.as_str(), self.role, CONN_STATES[index]];
        self.conns[index].get_or_init(|| self.families.conns.with_label_values(&labels))
    }
}

/// Families with labels.
#[derive(Debug)]
struct Families {
    statements: HistogramVec,
    pool_wait: HistogramVec,
    connect: HistogramVec,
    conns: IntGaugeVec,
    errors: IntCounterVec,
    lag_bytes: IntGaugeVec,
    lag_seconds: GaugeVec,
    node_up: IntGaugeVec,
    node_primary: IntGaugeVec,
    placement: IntGaugeVec,
}

/// Sets at each scrape what is not counted all along.
pub type AtScrape = Box<dyn Fn(&Metrics) + Send + Sync>;

/// Everything that is counted.
pub struct Metrics {
    registry: Registry,
    at_scrape: OnceLock<AtScrape>,
    /// One scrape at a time: the hook adds differences.
    scraping: Mutex<()>,
    families: Arc<Families>,
    shards: ArcSwap<Vec<[Arc<ShardMetrics>; 2]>>,
    known: Mutex<Vec<(String, [Arc<ShardMetrics>; 2])>>,
    sqlstates: [OnceLock<IntCounter>; SQLSTATES.len()],
    classes: [OnceLock<IntCounter>; CLASSES.len()],
    other_errors: OnceLock<IntCounter>,
    caches: [[IntCounter; 2]; 2],
    sessions: [IntGauge; SESSION_STATES.len()],
    refusals: [IntCounter; REFUSALS.len()],
    two_phase: [IntCounter; 3],
    recovered: [IntCounter; 3],
    slot_groups: Vec<IntCounter>,
    /// Bytes read from applications.
    pub frontend_read_bytes: IntCounter,
    /// Bytes written to applications.
    pub frontend_written_bytes: IntCounter,
    /// Bytes read from shards.
    pub backend_read_bytes: IntCounter,
    /// Bytes written to shards.
    pub backend_written_bytes: IntCounter,
    /// Panics that ended a session.
    pub panics: IntCounter,
    /// Sessions accepted since the start.
    pub accepted: IntCounter,
    /// Connections refused: limit, login, drain.
    pub rejected: IntCounter,
    control_connect: Histogram,
    epoch: Gauge,
}

impl Metrics {
    /// All metrics, with shards as in the topology.
    pub fn new(shards: &[String]) -> Result<Arc<Self>, prometheus::Error> {
        let make = Maker { registry: Registry::new() };
        let bytes = make.counters(
            "gavel_transferred_bytes_total",
            "Bytes read and written, by side.",
            &["side", "direction"],
        )?;
        let caches =
            make.counters("gavel_cache_lookups_total", "Look-ups in caches.", &["cache", "result"])?;
        let sessions = make.gauges("gavel_sessions", "Sessions by what they do.", &["state"])?;
        let refusals = make.counters(
            "gavel_refused_statements_total",
            "Statements refused, by class of reason.",
            &["class"],
        )?;
        let two_phase = make.counters(
            "gavel_two_phase_total",
            "Transactions over several shards, by decision.",
            &["outcome"],
        )?;
        let recovered = make.counters(
            "gavel_two_phase_recovered_total",
            "Prepared transactions finished for a coordinator that was lost.",
            &["outcome"],
        )?;
        let groups = make.counters(
            "gavel_slot_group_statements_total",
            "Statements by group of 256 slots: shows imbalance.",
            &["group"],
        )?;
        let count = |family: &IntCounterVec, label: &str| family.with_label_values(&[label]);
        let outcomes = ["committed", "aborted", "unknown"];
        let cell = |cache| ["hit", "miss"].map(|result| caches.with_label_values(&[cache, result]));
        let side = |side, direction| bytes.with_label_values(&[side, direction]);
        let metrics = Self {
            at_scrape: OnceLock::new(),
            scraping: Mutex::default(),
            families: Arc::new(make.families()?),
            shards: ArcSwap::default(),
            known: Mutex::default(),
            sqlstates: [const { OnceLock::new() }; SQLSTATES.len()],
            classes: [const { OnceLock::new() }; CLASSES.len()],
            other_errors: OnceLock::new(),
            caches: ["facts", "statements"].map(cell),
            sessions: SESSION_STATES.map(|state| sessions.with_label_values(&[state])),
            refusals: REFUSALS.map(|class| count(&refusals, class)),
            two_phase: outcomes.map(|outcome| count(&two_phase, outcome)),
            recovered: outcomes.map(|outcome| count(&recovered, outcome)),
            slot_groups: (0..SLOT_GROUPS).map(|group| count(&groups, &format!("{group:02}"))).collect(),
            frontend_read_bytes: side("frontend", "read"),
            frontend_written_bytes: side("frontend", "written"),
            backend_read_bytes: side("backend", "read"),
            backend_written_bytes: side("backend", "written"),
            panics: make.count("gavel_panics_total", "Panics, each of which ended a session.")?,
            accepted: make.count("gavel_sessions_accepted_total", "Connections accepted.")?,
            rejected: make.count(
                "gavel_sessions_rejected_total",
                "Connections refused: too many, not logged in in time, draining.",
            )?,
            control_connect: make.add(Histogram::with_opts(
                HistogramOpts::new("gavel_control_connect_seconds", "Time to open a control connection.")
                    .buckets(BUCKETS.to_vec()),
            ))?,
            epoch: make.add(Gauge::new("gavel_topology_epoch", "Epoch of the topology in use."))?,
            registry: make.finish()?,
        };
        metrics.set_shards(shards);
        for code in ALERTED {
            let _at_zero = metrics.sqlstate(code);
        }
        Ok(Arc::new(metrics))
    }

    /// Follows a new topology; children of shards that stay are kept.
    pub fn set_shards(&self, names: &[String]) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let mut list = Vec::with_capacity(names.len());
        for name in names {
            if let Some((_, pair)) = known.iter().find(|(other, _)| other == name) {
                list.push(pair.clone());
                continue;
            }
            let pair =
                ["primary", "replica"].map(|role| Arc::new(ShardMetrics::new(&self.families, name, role)));
            known.push((name.clone(), pair.clone()));
            list.push(pair);
        }
        self.shards.store(Arc::new(list));
    }

    /// A shard's children. Keep them; `None` for a shard that is not there.
    pub fn shard(&self, shard: ShardId, role: ServedBy) -> Option<Arc<ShardMetrics>> {
        self.shards.load().get(usize::from(shard.0)).map(|pair| Arc::clone(&pair[role as usize]))
    }

    /// A lease on a conn of the shard was waited for.
    pub fn pool_wait(&self, shard: ShardId, role: ServedBy, waited: Duration) {
        if let Some(pair) = self.shards.load().get(usize::from(shard.0)) {
            pair[role as usize].pool_wait(waited);
        }
    }

    /// A statement was answered by a shard, by this plan and in this time.
    pub fn statement(&self, shard: ShardId, role: ServedBy, (plan, took): (PlanKind, Duration)) {
        if let Some(pair) = self.shards.load().get(usize::from(shard.0)) {
            pair[role as usize].statement(plan, took);
        }
    }

    /// Sets the hook of scrapes; the first one stays.
    pub fn at_scrape(&self, hook: AtScrape) {
        // A process has one set of sessions to ask.
        let _ = self.at_scrape.set(hook);
    }

    /// Look-ups in a cache that counts them itself, since the start.
    pub fn cache_total(&self, cache: Cache, hits: u64, misses: u64) {
        let [hit, miss] = &self.caches[cache as usize];
        self.raise(hit, hits);
        self.raise(miss, misses);
    }

    /// Raises a counter to a total that was counted elsewhere.
    pub fn raise(&self, counter: &IntCounter, total: u64) {
        counter.inc_by(total.saturating_sub(counter.get()));
    }

    /// An error was sent to an application.
    pub fn error(&self, sqlstate: &str) {
        self.sqlstate(sqlstate).inc();
    }

    fn sqlstate(&self, sqlstate: &str) -> &IntCounter {
        let errors = &self.families.errors;
        if let Some(index) = SQLSTATES.iter().position(|known| *known == sqlstate) {
            self.sqlstates[index].get_or_init(|| errors.with_label_values(&[SQLSTATES[index]]))
        } else if let Some(index) = CLASSES.iter().position(|class| sqlstate.starts_with(class)) {
            let label = format!("{}xxx", CLASSES[index]);
            self.classes[index].get_or_init(|| errors.with_label_values(&[label.as_str()]))
        } else {
            self.other_errors.get_or_init(|| errors.with_label_values(&["other"]))
        }
    }

    /// A look-up in a cache.
    pub fn cache(&self, cache: Cache, hit: bool) {
        self.caches[cache as usize][usize::from(!hit)].inc();
    }

    /// Sessions in this state; sessions add and subtract.
    pub fn sessions(&self, state: SessionState) -> &IntGauge {
        &self.sessions[state as usize]
    }

    /// A statement was refused.
    pub fn refused(&self, class: RefusalClass) {
        self.refusals[class as usize].inc();
    }

    /// A statement on a slot.
    pub fn slot(&self, slot: Slot) {
        let group = usize::from(slot.0) * SLOT_GROUPS / usize::from(SLOTS);
        if let Some(counter) = self.slot_groups.get(group) {
            counter.inc();
        }
    }

    /// A decision on a transaction over several shards.
    pub(crate) fn two_phase(&self, outcome: Outcome) {
        self.two_phase[outcome as usize].inc();
    }

    /// The resolver finished a prepared transaction.
    pub(crate) fn two_phase_recovered(&self, outcome: Outcome) {
        self.recovered[outcome as usize].inc();
    }

    /// This topology is in use from now on. One scrape sees one placement.
    pub(crate) fn topology(&self, cluster: &str, topology: &Topology) {
        let _one = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        self.epoch.set(epoch_as_f64(topology.epoch));
        self.families.placement.reset();
        self.families.placement.with_label_values(&[cluster, &topology.fingerprint()]).set(1);
    }

    /// A replica is behind by so much.
    pub(crate) fn replica_lag(&self, shard: &str, node: &str, bytes: u64, time: Duration) {
        self.families.lag_bytes.with_label_values(&[shard, node]).set(bytes.cast_signed());
        self.families.lag_seconds.with_label_values(&[shard, node]).set(time.as_secs_f64());
    }

    /// What a health check found.
    pub(crate) fn node_state(&self, shard: &str, node: &str, up: bool, role: NodeRole) {
        self.families.node_up.with_label_values(&[shard, node]).set(i64::from(up));
        self.families
            .node_primary
            .with_label_values(&[shard, node])
            .set(i64::from(role == NodeRole::Primary));
        if role != NodeRole::Replica {
            // A lag that nobody measures any more must not stand still in a graph. Absent is fine.
            let _absent = self.families.lag_bytes.remove_label_values(&[shard, node]);
            let _absent = self.families.lag_seconds.remove_label_values(&[shard, node]);
        }
    }

    /// A node has left the cluster.
    pub(crate) fn forget_node(&self, shard: &str, node: &str) {
        let labels = [shard, node];
        let families = &self.families;
        for family in [&families.node_up, &families.node_primary, &families.lag_bytes] {
            let _absent = family.remove_label_values(&labels);
        }
        let _absent = families.lag_seconds.remove_label_values(&labels);
    }

    /// A control connection was opened.
    pub(crate) fn control_connected(&self, took: Duration) {
        self.control_connect.observe(took.as_secs_f64());
    }

    fn gather(&self) -> Vec<prometheus::proto::MetricFamily> {
        let _one = self.scraping.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(hook) = self.at_scrape.get() {
            hook(self);
        }
        self.registry.gather()
    }

    /// The text that Prometheus scrapes.
    pub fn render(&self) -> Result<String, prometheus::Error> {
        let mut text = Vec::new();
        TextEncoder::new().encode(&self.gather(), &mut text)?;
        String::from_utf8(text).map_err(|error| prometheus::Error::Msg(error.to_string()))
    }
}

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Metrics").finish_non_exhaustive()
    }
}

/// Epochs stay far below 2^53, where a float is exact.
#[expect(clippy::cast_precision_loss, reason = "an epoch is a count of changes made by people")]
fn epoch_as_f64(epoch: u64) -> f64 {
    epoch as f64
}

/// Makes families and registers them.
struct Maker {
    registry: Registry,
}

impl Maker {
    fn add<C: prometheus::core::Collector + Clone + 'static>(
        &self,
        made: Result<C, prometheus::Error>,
    ) -> Result<C, prometheus::Error> {
        let collector = made?;
        self.registry.register(Box::new(collector.clone()))?;
        Ok(collector)
    }

    fn count(&self, name: &str, help: &str) -> Result<IntCounter, prometheus::Error> {
        self.add(IntCounter::new(name, help))
    }

    fn counters(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntCounterVec, prometheus::Error> {
        self.add(IntCounterVec::new(Opts::new(name, help), labels))
    }

    fn gauges(&self, name: &str, help: &str, labels: &[&str]) -> Result<IntGaugeVec, prometheus::Error> {
        self.add(IntGaugeVec::new(Opts::new(name, help), labels))
    }

    fn histograms(&self, name: &str, help: &str, labels: &[&str]) -> Result<HistogramVec, prometheus::Error> {
        self.add(HistogramVec::new(HistogramOpts::new(name, help).buckets(BUCKETS.to_vec()), labels))
    }

    fn families(&self) -> Result<Families, prometheus::Error> {
        let node = ["shard", "node"];
        Ok(Families {
            statements: self.histograms(
                "gavel_statement_duration_seconds",
                "From the request to the last byte of its answer, by shard, role and plan; the statements of a pipeline share its time.",
                &["shard", "role", "plan"],
            )?,
            pool_wait: self.histograms(
                "gavel_pool_wait_seconds",
                "Time that requests waited for a backend connection.",
                &["shard", "role"],
            )?,
            connect: self.histograms(
                "gavel_backend_connect_seconds",
                "Time to open a backend connection, login included.",
                &["shard", "role"],
            )?,
            conns: self.gauges(
                "gavel_backend_connections",
                "Backend connections by state.",
                &["shard", "role", "state"],
            )?,
            errors: self.counters(
                "gavel_errors_total",
                "Errors sent to applications, by SQLSTATE (rare ones by class).",
                &["sqlstate"],
            )?,
            lag_bytes: self.gauges(
                "gavel_replica_lag_bytes",
                "WAL that a replica has yet to replay.",
                &node,
            )?,
            lag_seconds: self.add(GaugeVec::new(
                Opts::new("gavel_replica_lag_seconds", "For how long a replica has been behind its primary."),
                &node,
            ))?,
            placement: self.gauges(
                "gavel_placement_info",
                "1; the fingerprint is of all that places rows: slot map, overrides, rules for tables and functions.",
                &["cluster", "fingerprint"],
            )?,
            node_up: self.gauges("gavel_node_up", "1 when the node answers health checks.", &node)?,
            node_primary: self.gauges(
                "gavel_node_primary",
                "1 when the node takes its shard's writes.",
                &node,
            )?,
        })
    }

    #[cfg(target_os = "linux")]
    fn finish(self) -> Result<Registry, prometheus::Error> {
        let process = prometheus::process_collector::ProcessCollector::for_self();
        self.registry.register(Box::new(process))?;
        Ok(self.registry)
    }

    #[cfg(not(target_os = "linux"))]
    fn finish(self) -> Result<Registry, prometheus::Error> {
        Ok(self.registry)
    }
}
