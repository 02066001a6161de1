//! Who waits for whom on a node: what the search for deadlocks over shards reads, over connections that are not the application's.

use std::collections::HashMap;
use std::time::Duration;

use futures_util::future::join_all;
use router_config::topology::NodeAddress;
use tokio_postgres::Row;

use super::Control;
use super::connect::Dialer;
use super::error::ControlError;

/// Backends that wait for a lock. A wait is told from a later one of the same backend by the time when it began.
const WAITS: &str = "SELECT l.pid, coalesce(min(l.waitstart)::text, ''), \
     coalesce((extract(epoch FROM clock_timestamp() - min(l.waitstart)) * 1000)::bigint, 0), \
     min(l.mode || ' on ' || CASE l.locktype \
       WHEN 'transactionid' THEN 'transaction ' || l.transactionid \
       WHEN 'relation' THEN 'relation ' || l.relation || ' of database ' || l.database \
       WHEN 'tuple' THEN format('tuple (%s,%s) of relation %s of database %s', l.page, l.tuple, l.relation, l.database) \
       ELSE l.locktype END), \
     pg_blocking_pids(l.pid) \
     FROM pg_locks l WHERE NOT l.granted AND l.pid IS NOT NULL GROUP BY l.pid";

/// Whose backends these are, and whether they wait for their application within a transaction. What the role may not see is NULL.
const BACKENDS: &str = "SELECT pid, coalesce(state LIKE 'idle in transaction%', false), \
     concat_ws(' ', usename, datname, coalesce(client_addr::text, 'local'), application_name) \
     FROM pg_stat_activity WHERE pid = ANY ($1) AND state IS NOT NULL";

/// A backend that waits for a lock.
#[derive(Debug, Clone)]
pub struct LockWait {
    /// Its process id.
    pub pid: i32,
    /// When the wait began, by the node's clock; empty in its first moment.
    pub since: String,
    /// For how long.
    pub age: Duration,
    /// What for, in PostgreSQL's words.
    pub lock: String,
    /// The backends that hold it, or come first.
    pub blockers: Vec<i32>,
}

/// The lock waits of one node.
#[derive(Debug, Clone, Default)]
pub struct NodeLocks {
    /// Backends that wait.
    pub waits: Vec<LockWait>,
    /// Role, database, address and application of the backends that wait, and of those that they wait for.
    pub owners: HashMap<i32, String>,
    /// Those of them that are idle within a transaction.
    pub idle: Vec<i32>,
}

impl Control {
    /// The lock waits of these nodes, in their order; `None` where they could not be read in time.
    pub async fn lock_waits(&self, nodes: Vec<NodeAddress>) -> Vec<Option<NodeLocks>> {
        let (health, count) = (std::sync::Arc::clone(&self.inner.health), nodes.len());
        let read = self.inner.handle.spawn(async move {
            let each = nodes.iter().map(|node| read(&health.dialer, node, &health.database));
            join_all(each).await
        });
        read.await.unwrap_or_else(|_| vec![None; count])
    }
}

async fn read(dialer: &Dialer, node: &NodeAddress, database: &str) -> Option<NodeLocks> {
    match tokio::time::timeout(dialer.timeout(), read_node(dialer, node, database)).await {
        Ok(Ok(locks)) => Some(locks),
        Ok(Err(error)) => {
            tracing::debug!("lock waits are not known: {error}");
            None
        }
        Err(_) => None,
    }
}

async fn read_node(dialer: &Dialer, node: &NodeAddress, database: &str) -> Result<NodeLocks, ControlError> {
    let client = dialer.client(node, database).await?;
    let failed = |error| ControlError::query("reading lock waits", node, &error);
    let waits: Vec<LockWait> = client.query(WAITS, &[]).await.map_err(failed)?.iter().map(wait).collect();
    let mut locks = NodeLocks { waits, ..NodeLocks::default() };
    if locks.waits.is_empty() {
        return Ok(locks);
    }
    let pids: Vec<i32> =
        locks.waits.iter().flat_map(|wait| wait.blockers.iter().copied().chain([wait.pid])).collect();
    for row in client.query(BACKENDS, &[&pids]).await.map_err(failed)? {
        let pid = row.get(0);
        if row.get(1) {
            locks.idle.push(pid);
        }
        locks.owners.insert(pid, row.get(2));
    }
    Ok(locks)
}

fn wait(row: &Row) -> LockWait {
    let age_ms: i64 = row.get(2);
    LockWait {
        pid: row.get(0),
        since: row.get(1),
        age: Duration::from_millis(u64::try_from(age_ms).unwrap_or_default()),
        lock: row.get(3),
        blockers: row.get(4),
    }
}
