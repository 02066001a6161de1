//! The newest timeline of each shard outlives the process: it is kept in the control store and read at the start, so
//! that an old primary is recognised even by a proxy that has never seen the new one. The home shard's own is the
//! exception: with its new primary goes the store that would tell.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use router_config::topology::ShardId;

use super::complaint::Complaint;
use super::error::ControlError;
use super::health::Health;
use super::resolver::primary;
use super::store;

/// Pause between looks when nothing was reported.
const PAUSE: Duration = Duration::from_secs(5);

/// Stores what the health checks find out, until the process ends.
pub(super) async fn keep(health: Arc<Health>) {
    let mut saved: HashMap<String, (u64, u32)> = HashMap::new();
    let mut complaint = Complaint::default();
    let mut changes = health.nodes.subscribe();
    loop {
        for (name, system_id, timeline) in health.timelines() {
            if saved.get(&name) == Some(&(system_id, timeline)) {
                continue;
            }
            let tried = save(&health, (&name, system_id, timeline)).await;
            let stored = tried.is_ok();
            if let Some(error) = complaint.of(tried) {
                tracing::warn!(shard = %name, "its timeline is not stored yet: {error}");
            }
            if stored {
                saved.insert(name, (system_id, timeline));
            }
        }
        // A timeout and a change call for the same; the sender lives as long as `health`.
        let _either = tokio::time::timeout(PAUSE, changes.changed()).await;
    }
}

async fn save(health: &Health, shard: (&str, u64, u32)) -> Result<(), ControlError> {
    let home = primary(&health.nodes, ShardId(0))?;
    let client = health.dialer.client(&home, &health.database).await?;
    store::store_timeline(&client, shard)
        .await
        .map_err(|error| ControlError::query("storing a timeline", &home, &error))
}
