//! Signals: SIGHUP reloads, SIGTERM and SIGINT drain. The console asks for the same by [`Order`]s.

use std::sync::Arc;

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::run::{Reread, handshake_context};
use crate::worker::{Order, Shared};

/// Orders of the console that wait; it is told when there are more.
const ORDERS: usize = 16;

/// Follows signals until one asks for the end.
pub async fn follow(shared: Arc<Shared>, reread: Reread) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    *shared.reread.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(Arc::clone(&reread));
    let (sender, mut orders) = mpsc::channel(ORDERS);
    *shared.orders.lock().unwrap_or_else(std::sync::PoisonError::into_inner) = Some(sender);
    loop {
        let asked = tokio::select! {
            _ = hangup.recv() => None,
            order = orders.recv() => match order {
                Some(Order::Reload(done)) => Some(done),
                Some(Order::Drain) | None => return Ok(()),
            },
            _ = terminate.recv() => return Ok(()),
            _ = interrupt.recv() => return Ok(()),
        };
        let outcome = reload(&shared).await;
        match &outcome {
            Ok(()) => tracing::info!("configuration reloaded"),
            Err(error) => tracing::error!("the configuration in use stays: {error}"),
        }
        if let Some(done) = asked {
            // The console may have gone.
            let _ = done.send(outcome);
        }
    }
}

/// Takes over a new configuration as a whole, or leaves the old one running.
pub async fn reload(shared: &Arc<Shared>) -> Result<(), String> {
    let reread = shared.reread.lock().unwrap_or_else(std::sync::PoisonError::into_inner).clone();
    let Some(reread) = reread else { return Err("there is no file to read again".to_owned()) };
    let config = reread()?;
    let (settings, topology) = (Arc::new(config.settings), config.topology);
    if let Some(tls) = &shared.tls {
        tls.reload(&settings.listen).map_err(|error| error.to_string())?;
    }
    let handle = tokio::runtime::Handle::current();
    let handshake =
        handshake_context(&settings, &shared.connect, &shared.control, shared.tls.clone(), handle)
            .map_err(|error| error.to_string())?;
    shared.control.reload(Arc::clone(&settings), topology).await.map_err(|error| error.to_string())?;
    shared.handshake.store(Arc::new(handshake));
    shared.settings.store(settings);
    shared.forget_welcomes();
    for pools in shared.workers.lock().unwrap_or_else(std::sync::PoisonError::into_inner).iter() {
        pools.clear();
    }
    Ok(())
}
