//! Signals: SIGHUP reloads, SIGTERM and SIGINT drain. The console asks for the same by [`Order`]s.

use std::sync::{Arc, PoisonError};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::config::Loaded;
use crate::control::Reload;
use crate::run::{Outside, handshake_context};
use crate::worker::{Order, Reloaded, Shared};

/// Orders of the console that wait; it is told when there are more.
const ORDERS: usize = 16;

/// Follows signals until one asks for the end.
pub async fn follow(shared: Arc<Shared>, outside: Outside) -> anyhow::Result<()> {
    let mut hangup = signal(SignalKind::hangup())?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (sender, mut orders) = mpsc::channel(ORDERS);
    *shared.orders.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
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
        let outcome = reload(&shared, &outside).await;
        match &outcome {
            Ok(notes) => {
                notes.iter().for_each(|note| tracing::warn!("{note}"));
                tracing::info!("configuration reloaded");
            }
            Err(error) => tracing::error!("the configuration in use stays: {error}"),
        }
        if let Some(done) = asked {
            // The console may have gone.
            let _ = done.send(outcome);
        }
    }
}

/// Takes over a new configuration as a whole, or leaves the old one running. What waits for a restart is told.
async fn reload(shared: &Arc<Shared>, outside: &Outside) -> Reloaded {
    let Loaded { config, files } = (outside.reread)()?;
    let (mut settings, topology) = (config.settings, config.topology);
    let waiting = settings.keep_what_needs_a_restart(&shared.settings.load());
    let settings = Arc::new(settings);
    let connect = Arc::clone(&files.connect);
    let handle = tokio::runtime::Handle::current();
    let handshake = handshake_context(&settings, files, &shared.control, handle);
    (outside.set_log_level)(&settings.log.level)?;
    let reload = Reload { settings: Arc::clone(&settings), topology, tls: connect.tls_config() };
    let reloaded = shared.control.reload(reload).await;
    let mut notes = match reloaded {
        Ok(notes) => notes,
        Err(error) => {
            // It was accepted when it was set before.
            let _ = (outside.set_log_level)(&shared.settings.load().log.level);
            return Err(error.to_string());
        }
    };
    connect.learn_all(&shared.connect.load());
    shared.connect.store(connect);
    shared.handshake.store(Arc::new(handshake));
    shared.settings.store(settings);
    shared.forget_welcomes();
    shared.renew_conns();
    if !waiting.is_empty() {
        notes.push(format!(
            "changed in the file, but only a restart makes it effective: {}",
            waiting.join(", ")
        ));
    }
    Ok(notes)
}
