//! Signals: SIGHUP reloads, SIGTERM and SIGINT drain. The console asks for the same.

use std::sync::{Arc, PoisonError};

use router_config::settings::{Auth, Settings};
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio::sync::mpsc;

use crate::cli::config::Loaded;
use crate::control::Reload;
use crate::frontend::handshake::HandshakeContext;
use crate::run::{Outside, handshake_context};
use crate::worker::{AskedReload, Phase, Reloaded, Shared};

/// Reloads that may wait; whoever asks for one more is told.
const RELOADS: usize = 16;

/// The signals that are followed. Those that come between [`Signals::listen`] and [`follow`] are not lost.
pub struct Signals {
    hangup: Signal,
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    /// From now on they no longer end the process by themselves. Runs on a runtime.
    pub fn listen() -> std::io::Result<Self> {
        Ok(Self {
            hangup: signal(SignalKind::hangup())?,
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
        })
    }

    /// Waits for one that asks for the end. Cancel safe.
    pub async fn end(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// Follows signals until one asks for the end. A reload under way, which may wait for nodes, does not keep anybody from that:
/// it goes on beside.
pub async fn follow(shared: Arc<Shared>, outside: Outside, signals: Signals) -> anyhow::Result<()> {
    let Signals { hangup, mut terminate, mut interrupt } = signals;
    let (sender, reloads) = mpsc::channel(RELOADS);
    *shared.reloads.lock().unwrap_or_else(PoisonError::into_inner) = Some(sender);
    tokio::spawn(reload_each(Arc::clone(&shared), outside, (hangup, reloads)));
    tokio::select! {
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
        () = shared.drain_asked.notified() => {}
    }
    Ok(())
}

/// Reloads one after the other, until the process drains.
async fn reload_each(shared: Arc<Shared>, outside: Outside, asked: (Signal, mpsc::Receiver<AskedReload>)) {
    let (mut hangup, mut reloads) = asked;
    let mut phase = shared.phase.subscribe();
    loop {
        let asked = tokio::select! {
            biased;
            _ = phase.wait_for(|phase| *phase >= Phase::Draining) => return,
            _ = hangup.recv() => None,
            // The sender lives as long as the process.
            Some(done) = reloads.recv() => Some(done),
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

/// Tries `auth.query`. A new one that is wrong is refused; one that is in use already does not stand in the way of other changes.
async fn broken_query(
    new: &Settings,
    old: &Settings,
    handshake: &HandshakeContext,
) -> Result<Option<String>, String> {
    let Err(error) = handshake.authenticator.try_query().await else { return Ok(None) };
    let asked = |auth: &Auth| (auth.query.clone(), auth.query_user.clone(), auth.method);
    if asked(&new.auth) == asked(&old.auth) {
        return Ok(Some(format!("logins fail, but for those of auth.users_file: {error}")));
    }
    Err(error.to_string())
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
    let broken = broken_query(&settings, &shared.settings.load(), &handshake).await?;
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
    notes.extend(broken);
    if !waiting.is_empty() {
        notes.push(format!(
            "changed in the file, but only a restart makes it effective: {}",
            waiting.join(", ")
        ));
    }
    Ok(notes)
}
