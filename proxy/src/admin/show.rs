//! The rows of SHOW. Each function takes what is there at this moment; nothing waits.

use std::sync::atomic::Ordering;
use std::sync::{Arc, PoisonError};

use router_config::topology::{SLOTS, ShardId, Topology};

use super::config;
use super::topic::Topic;
use crate::backend::pool::{Pool, PoolStatus};
use crate::control::{Catalog, Forbids, Node, NodeRole};
use crate::frontend::session::shard_name;
use crate::frontend::watch::redacted;
use crate::sql::schema::{Placement, Relation, RelationKind};
use crate::worker::Shared;

/// Values of one row, one for each column; `None` is NULL.
pub(super) type Row = Vec<Option<String>>;

/// Statements that SHOW STATEMENTS lists.
const STATEMENTS_MAX: usize = 1000;
/// Characters of a statement's text that are shown.
const TEXT_CHARS: usize = 200;

/// The rows of a topic.
pub(super) fn rows(topic: Topic, shared: &Shared) -> Vec<Row> {
    match topic {
        Topic::Help => help(),
        Topic::Clients => clients(shared),
        Topic::Servers => servers(shared),
        Topic::Pools => pools(shared),
        Topic::Stats => stats(shared),
        Topic::Shards => shards(shared),
        Topic::Slots => slots(&shared.topology.load()),
        Topic::Tables => tables(shared),
        Topic::Problems => problems(shared),
        Topic::Statements => statements(shared),
        Topic::Config => config::rows(&shared.settings.load()).into_iter().map(full).collect(),
        Topic::Version => vec![full([version()])],
        Topic::Epoch => epoch(&shared.topology.load()),
    }
}

/// Columns of a topic with their meaning.
pub(super) fn columns(topic: Topic) -> Vec<Row> {
    topic.columns().iter().map(|(name, meaning)| full([(*name).to_owned(), (*meaning).to_owned()])).collect()
}

/// Name and version of the proxy.
pub(super) fn version() -> String {
    format!("Gavel {}", env!("CARGO_PKG_VERSION"))
}

/// A row without NULLs.
pub(super) fn full<const N: usize>(values: [String; N]) -> Row {
    values.into_iter().map(Some).collect()
}

fn help() -> Vec<Row> {
    let shows = Topic::ALL
        .into_iter()
        .map(|topic| full([format!("SHOW {}", topic.name().to_uppercase()), topic.about().to_owned()]));
    let commands = [
        ("PAUSE", "new requests outside of transactions wait; returns once no transaction runs any more"),
        ("RESUME", "ends PAUSE"),
        ("RELOAD", "reads the configuration again, as SIGHUP does; a bad file leaves the old one in use"),
        ("DRAIN", "ends the process once running transactions have ended, as SIGTERM does"),
    ];
    shows.chain(commands.map(|(name, about)| full([name.to_owned(), about.to_owned()]))).collect()
}

fn clients(shared: &Shared) -> Vec<Row> {
    let sessions = shared.sessions();
    let mut rows: Vec<(i32, Row)> = sessions
        .iter()
        .map(|(pid, entry)| {
            let running = entry.visible.running();
            let backends: Vec<String> =
                running.conns.iter().map(|(pool, process, _)| format!("{}/{process}", pool.node)).collect();
            let row = full([
                pid.to_string(),
                entry.who.user.clone(),
                entry.who.database.clone(),
                entry.peer.to_string(),
                entry.visible.doing().name().to_owned(),
                entry.visible.verdict.requests.load(Ordering::Relaxed).to_string(),
                entry.since.elapsed().as_secs().to_string(),
                backends.join(", "),
            ]);
            (*pid, row)
        })
        .collect();
    rows.sort_by_key(|(pid, _)| *pid);
    rows.into_iter().map(|(_, row)| row).collect()
}

fn servers(shared: &Shared) -> Vec<Row> {
    let topology = shared.topology.load();
    let of_shards = topology.shard_ids().flat_map(|shard| shared.nodes().members(shard));
    let others = shared.nodes().all().into_iter().filter(|node| node.shard.is_none());
    of_shards.chain(others).map(|node| server(&topology, &node)).collect()
}

fn server(topology: &Topology, node: &Node) -> Row {
    let lsn = node.replay_lsn();
    let checked = node.shard.is_some();
    let replica = node.role() == NodeRole::Replica;
    let failure = if checked { node.complaint().as_ref().clone() } else { "not checked".to_owned() };
    vec![
        Some(node.shard.map(|shard| shard_name(topology, shard)).unwrap_or_default()),
        Some(node.address.to_string()),
        Some(node.role().name().to_owned()),
        checked.then(|| yes_no(node.up())),
        (node.timeline() > 0).then(|| node.timeline().to_string()),
        (lsn > 0).then(|| format!("{:X}/{:X}", lsn >> 32, lsn & 0xffff_ffff)),
        replica.then(|| node.lag_bytes().to_string()),
        replica.then(|| node.lag_ms().to_string()),
        Some(node.in_flight().to_string()),
        Some(failure),
    ]
}

fn yes_no(yes: bool) -> String {
    if yes { "yes" } else { "no" }.to_owned()
}

/// Pools of all session threads, those of one key added up.
fn pools(shared: &Shared) -> Vec<Row> {
    let mut sums: Vec<(Arc<Pool>, PoolStatus)> = Vec::new();
    for pool in shared.pools() {
        let status = pool.status();
        match sums.iter_mut().find(|(other, _)| other.key() == pool.key()) {
            Some((_, sum)) => *sum += status,
            None => sums.push((pool, status)),
        }
    }
    let topology = shared.topology.load();
    let mut rows: Vec<Row> = sums.iter().map(|(pool, sum)| pool_row(shared, &topology, pool, *sum)).collect();
    rows.sort();
    rows
}

fn pool_row(shared: &Shared, topology: &Topology, pool: &Pool, sum: PoolStatus) -> Row {
    let key = pool.key();
    let node = shared.nodes().by_address(&key.node).and_then(|id| shared.nodes().get(id));
    let shard = node.as_ref().and_then(|node| node.shard);
    full([
        key.user.clone(),
        key.database.clone(),
        shard.map(|shard| shard_name(topology, shard)).unwrap_or_default(),
        key.node.to_string(),
        node.map_or("unknown", |node| node.role().name()).to_owned(),
        sum.active.to_string(),
        sum.idle.to_string(),
        sum.waiting.to_string(),
        sum.size.to_string(),
    ])
}

fn stats(shared: &Shared) -> Vec<Row> {
    let uptime = full(["uptime_s".to_owned(), String::new(), shared.since.elapsed().as_secs().to_string()]);
    let samples =
        shared.metrics.samples().into_iter().map(|(name, labels, value)| full([name, labels, value]));
    std::iter::once(uptime).chain(samples).collect()
}

fn shards(shared: &Shared) -> Vec<Row> {
    let topology = shared.topology.load();
    let mut owned = vec![0_u32; topology.shards.len()];
    for shard in &topology.slot_map {
        if let Some(count) = owned.get_mut(usize::from(shard.0)) {
            *count += 1;
        }
    }
    let one = |(id, slots): (ShardId, u32)| {
        let shard = topology.shard(id)?;
        let nodes = shared.nodes();
        let primary = nodes.primary(id).and_then(|node| nodes.address(node));
        let well = |node: &Arc<Node>| node.up() && node.role() == NodeRole::Replica;
        let replicas = nodes.members(id).iter().filter(|node| well(node)).count();
        let note = match (&primary, id == topology.home()) {
            (None, _) => nodes.why_no_primary(id),
            (Some(_), true) => "home".to_owned(),
            (Some(_), false) => String::new(),
        };
        Some(full([
            shard.name.clone(),
            primary.map(|node| node.to_string()).unwrap_or_default(),
            replicas.to_string(),
            shard.nodes().count().to_string(),
            shard.weight.to_string(),
            slots.to_string(),
            format!("{:.2}", f64::from(slots) * 100.0 / f64::from(SLOTS)),
            note,
        ]))
    };
    topology.shard_ids().zip(owned).filter_map(one).collect()
}

fn slots(topology: &Topology) -> Vec<Row> {
    let mut first = 0;
    let ranges = topology.slot_map.chunk_by(|a, b| a == b);
    ranges
        .map(|range| {
            let from = first;
            first += range.len();
            full([
                shard_name(topology, range[0]),
                from.to_string(),
                (first - 1).to_string(),
                range.len().to_string(),
            ])
        })
        .collect()
}

fn epoch(topology: &Topology) -> Vec<Row> {
    vec![full([
        topology.epoch.to_string(),
        topology.shards.len().to_string(),
        topology.slot_map.len().to_string(),
        topology.key_overrides.len().to_string(),
        topology.range_overrides.len().to_string(),
        topology.fingerprint(),
    ])]
}

fn tables(shared: &Shared) -> Vec<Row> {
    let mut rows: Vec<Row> =
        shared.control.catalogs().iter().flat_map(|catalog| tables_of(catalog)).collect();
    rows.sort();
    rows
}

fn tables_of(catalog: &Catalog) -> Vec<Row> {
    let current = catalog.load();
    let relations = current.schema.relations.values();
    let shown = |relation: &&Arc<Relation>| {
        relation.placement != Placement::Catalog && relation.kind != RelationKind::Sequence
    };
    let row = |relation: &Arc<Relation>| {
        let name = relation.full_name();
        let problem = current.problems.iter().find(|problem| problem.table == name);
        let key = relation.key().and_then(|(column, _)| relation.columns.get(column));
        vec![
            Some(catalog.database().to_owned()),
            Some(relation.schema.clone()),
            Some(relation.name.clone()),
            Some(kind(relation).to_owned()),
            key.map(|column| column.name.clone()),
            key.and(relation.key_type()).map(|key_type| key_type.to_string()),
            problem.map(|problem| problem.message.clone()),
        ]
    };
    relations.filter(shown).map(row).collect()
}

fn problems(shared: &Shared) -> Vec<Row> {
    let mut rows = Vec::new();
    for catalog in shared.control.catalogs() {
        for problem in &catalog.load().problems {
            let refused = match problem.forbids {
                Forbids::All => "statements",
                Forbids::Writes => "writes",
                Forbids::Nothing => "nothing",
            };
            let database = catalog.database().to_owned();
            rows.push(full([database, problem.table.clone(), refused.to_owned(), problem.message.clone()]));
        }
    }
    for rule in shared.control.unmatched_rules() {
        rows.push(full(["*".to_owned(), rule.table, "nothing".to_owned(), rule.message]));
    }
    rows.sort();
    rows
}

fn kind(relation: &Relation) -> &'static str {
    match relation.placement {
        Placement::Sharded { .. } => "sharded",
        Placement::Reference => "reference",
        Placement::Unsharded | Placement::Catalog => "unsharded",
        Placement::View { .. } => "view",
    }
}

fn statements(shared: &Shared) -> Vec<Row> {
    let literals = shared.settings.load().log.literals;
    let mut all = shared.registry.all();
    all.sort_by_key(|statement| std::cmp::Reverse(statement.parses.load(Ordering::Relaxed)));
    let row = |statement: Arc<crate::backend::prepared::SharedStatement>| {
        let text = redacted(&statement.text, literals);
        full([
            String::from_utf8_lossy(&statement.name).into_owned(),
            statement.parses.load(Ordering::Relaxed).to_string(),
            text.chars().take(TEXT_CHARS).collect(),
        ])
    };
    all.into_iter().take(STATEMENTS_MAX).map(row).collect()
}

impl Shared {
    /// The pools of all session threads.
    pub fn pools(&self) -> Vec<Arc<Pool>> {
        let workers = self.workers.lock().unwrap_or_else(PoisonError::into_inner);
        workers.iter().flat_map(|pools| pools.all()).collect()
    }

    /// Closes what the proxy keeps open to a database without using it, on all nodes.
    pub fn close_idle(&self, database: &str) {
        let pools = self.pools();
        pools.iter().filter(|pool| pool.key().database == database).for_each(|pool| pool.close_idle());
        self.control.close_idle(database);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn help_lists_every_topic_and_every_row_has_its_columns() {
        let rows = help();
        assert_eq!(rows.len(), Topic::ALL.len() + 4);
        assert!(rows.iter().all(|row| row.len() == Topic::Help.columns().len()));
        for topic in Topic::ALL {
            assert_eq!(Topic::named(topic.name()), Some(topic));
            assert_eq!(columns(topic).len(), topic.columns().len());
        }
    }

    #[test]
    fn slots_are_shown_as_ranges_that_cover_all() {
        let mut topology = Topology::new(Vec::new());
        topology.slot_map = (0..SLOTS).map(|slot| ShardId(u16::from(slot >= 100))).collect();
        let expected = [["#0", "0", "99", "100"], ["#1", "100", "16383", "16284"]]
            .map(|row| full(row.map(str::to_owned)));
        assert_eq!(slots(&topology), expected);
    }
}
