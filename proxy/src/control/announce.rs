//! DDL through one proxy refreshes the catalogs of the others: a NOTIFY in the control database of the home shard, heard
//! through the same listeners that serve the applications' LISTENs.

use std::sync::Arc;
use std::time::Duration;

use router_config::topology::ShardId;

use super::catalog::Catalogs;
use super::connect::Dialer;
use super::error::ControlError;
use super::listen::ListenHub;
use super::nodes::Nodes;
use super::resolver::primary;

const CHANNEL: &str = "gavel_catalog";

/// Pause before listening is tried again.
const PAUSE: Duration = Duration::from_secs(5);

/// This process among the proxies of the cluster.
#[derive(Debug, Clone)]
pub(crate) struct Announcer {
    /// Name of this process.
    pub(crate) proxy: String,
    /// Control database.
    pub(crate) database: String,
}

impl Announcer {
    /// Tells the other proxies that the catalog of `changed` is another one.
    pub(crate) async fn tell(
        &self,
        dialer: &Dialer,
        nodes: &Nodes,
        changed: &str,
    ) -> Result<(), ControlError> {
        let home = primary(nodes, ShardId(0))?;
        let client = dialer.client(&home, &self.database).await?;
        let payload = format!("{} {changed}", self.proxy);
        client.execute("SELECT pg_catalog.pg_notify($1, $2)", &[&CHANNEL, &payload]).await.map_err(
            |error| ControlError::query("telling other proxies of a changed catalog", &home, &error),
        )?;
        Ok(())
    }

    /// Hears the others, until the process ends.
    pub(crate) async fn hear(self, hub: ListenHub, catalogs: Arc<Catalogs>) {
        let mut missed = false;
        loop {
            let mut subscription = hub.subscribe(&self.database);
            match subscription.listen(CHANNEL).await {
                Err(error) => {
                    tracing::debug!("catalog changes of other proxies are not heard: {error}");
                    missed = true;
                    tokio::time::sleep(PAUSE).await;
                    continue;
                }
                Ok(()) if missed => catalogs.all().iter().for_each(|catalog| catalog.refresh_soon()),
                Ok(()) => {}
            }
            while let Ok(note) = subscription.recv().await {
                let Some((proxy, database)) = note.payload.split_once(' ') else { continue };
                if proxy != self.proxy
                    && let Some(catalog) = catalogs.get(database)
                {
                    catalog.refresh_soon();
                }
            }
            missed = true;
        }
    }
}
