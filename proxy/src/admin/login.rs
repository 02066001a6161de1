//! The login of a console: what it is told, and its line in SHOW CLIENTS.

use std::net::SocketAddr;
use std::sync::Arc;

use router_config::settings::{DatabaseKind, PoolMode, Settings};
use tokio::time::Instant;

use super::command::SERVER_VERSION;
use crate::backend::connect::BackendLogin;
use crate::frontend::handshake::Login;
use crate::frontend::io::ClientIo;
use crate::frontend::session::Who;
use crate::frontend::visible::Visible;
use crate::wire::backend::Status;
use crate::wire::reply;
use crate::worker::{Entry, Shared};

/// What the console tells at login.
pub(super) fn welcome(io: &mut ClientIo, process: i32) {
    let parameters = [
        ("application_name", ""),
        ("client_encoding", "UTF8"),
        ("DateStyle", "ISO, MDY"),
        ("integer_datetimes", "on"),
        ("IntervalStyle", "postgres"),
        ("is_superuser", "off"),
        ("server_encoding", "UTF8"),
        ("server_version", SERVER_VERSION),
        ("standard_conforming_strings", "on"),
        ("TimeZone", "UTC"),
    ];
    for (name, value) in parameters {
        reply::parameter_status(&mut io.out, name, value);
    }
    // Nothing of the console can be cancelled: the secret is not kept.
    let secret: [u8; 4] = rand::random();
    reply::backend_key(&mut io.out, process, &secret);
    reply::ready(&mut io.out, Status::Idle);
}

/// The console's own line in SHOW CLIENTS, for as long as it lives.
pub(super) struct Registered {
    /// Process id of its cancel key.
    pub(super) process: i32,
    /// What is shown of it.
    pub(super) visible: Arc<Visible>,
    shared: Arc<Shared>,
}

impl Registered {
    /// Enters it.
    pub(super) fn new(login: &Login, settings: &Settings, peer: SocketAddr, shared: &Arc<Shared>) -> Self {
        let who = Who {
            user: login.user.clone(),
            database: login.database.clone(),
            backend_database: String::new(),
            kind: DatabaseKind::FirstShard,
            mode: PoolMode::Session,
            login: BackendLogin {
                user: login.user.as_str().into(),
                database: settings.admin.database.as_str().into(),
                credentials: login.credentials.clone(),
                parameters: Vec::new(),
            },
        };
        let visible = Arc::new(Visible::default());
        let long: [u8; 32] = rand::random();
        let entry = Entry {
            secret: Box::new(long),
            who: Arc::new(who),
            peer,
            since: Instant::now(),
            visible: Arc::clone(&visible),
        };
        let mut sessions = shared.sessions();
        let process = loop {
            let process = rand::random::<i32>() & i32::MAX;
            if process != 0 && !sessions.contains_key(&process) {
                break process;
            }
        };
        sessions.insert(process, entry);
        drop(sessions);
        Self { process, visible, shared: Arc::clone(shared) }
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        self.shared.sessions().remove(&self.process);
    }
}
