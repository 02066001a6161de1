//! Cancel requests: they reach what the session with this key runs right now, and nothing else.
//!
//! A conn that a cancel request is on its way to is not lent again afterwards (it is closed), so that a late signal meets nobody.

use std::sync::Arc;

use futures_util::future::join_all;
use subtle::ConstantTimeEq;

use super::session::Visible;
use crate::backend::connect;
use crate::wire::startup::CancelKey;
use crate::worker::Shared;

/// Forwards a cancel request to the nodes that work for the session with this key, if there is one. Like PostgreSQL, says nothing.
pub async fn cancel(shared: &Arc<Shared>, key: &CancelKey) {
    let visible = {
        let sessions = shared.sessions();
        let Some(entry) = sessions.get(&key.process_id) else { return };
        if !bool::from(entry.secret.ct_eq(&key.secret)) {
            return;
        }
        Arc::clone(&entry.visible)
    };
    cancel_running(shared, &visible).await;
}

/// Cancels what all sessions run.
pub async fn cancel_all(shared: &Arc<Shared>) {
    let all: Vec<_> = shared.sessions().values().map(|entry| Arc::clone(&entry.visible)).collect();
    join_all(all.iter().map(|visible| cancel_running(shared, visible))).await;
}

async fn cancel_running(shared: &Shared, visible: &Visible) {
    let targets = {
        let mut running = visible.running();
        if running.conns.is_empty() {
            return;
        }
        running.cancelling += 1;
        running.conns.clone()
    };
    for (pool, process_id, secret) in targets {
        let backend = CancelKey { process_id, secret };
        if let Err(error) = connect::cancel(&pool.node, &backend, &shared.connect.load_full()).await {
            tracing::warn!(node = %pool.node.host, port = pool.node.port, "cancel request not delivered: {error}");
        }
    }
    visible.running().cancelling -= 1;
}
