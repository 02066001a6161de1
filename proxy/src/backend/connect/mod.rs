//! New connections to nodes: TCP or Unix socket, TLS, login up to ReadyForQuery; and CancelRequests.
//!
//! Invariants: nothing is kept of a failed attempt; a connection is handed out only when the node said ReadyForQuery
//! outside of a transaction; secrets are never shown by `Debug` or in errors.

mod login;

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use quick_cache::sync::Cache;
use router_config::settings::{BackendTls, Settings};
use router_config::topology::NodeAddress;
use socket2::SockRef;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpStream, UnixStream};

use crate::scram::{Key, Keys, ScramKeys};
use crate::secrets_file::{SecretsFileError, read_passwords};
use crate::tls::{BackendTlsConnector, TlsError};
use crate::wire::error::{NodeError, Report, Severity};
use crate::wire::sqlstate;
use crate::wire::startup::{CancelKey, ssl_request, write_cancel};
use crate::wire::stream::{Stream, must_take, tune};

/// Salted keys kept; the least used go first, and are computed again.
const SALTED_KEYS_MAX: usize = 10_000;

/// What a login to a node is made with.
#[derive(Clone, Default, PartialEq, Eq)]
pub enum Credentials {
    /// Nothing: the node trusts us, or the passwords file knows the user.
    #[default]
    None,
    /// The password.
    Password(Arc<str>),
    /// The keys that the application's SCRAM login revealed.
    ScramKeys(Arc<ScramKeys>),
    /// The stored `md5…` hash.
    Md5(Arc<str>),
}

impl fmt::Debug for Credentials {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::None => "None",
            Self::Password(_) => "Password(..)",
            Self::ScramKeys(_) => "ScramKeys(..)",
            Self::Md5(_) => "Md5(..)",
        })
    }
}

/// As whom to log in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BackendLogin {
    /// Role.
    pub user: Arc<str>,
    /// Database.
    pub database: Arc<str>,
    /// What to prove it with.
    pub credentials: Credentials,
    /// Further startup parameters (`client_encoding`, `application_name`, `options`, …).
    pub parameters: Vec<(String, String)>,
}

/// What all connects share.
pub struct ConnectContext {
    tls: BackendTlsConnector,
    timeout: Duration,
    passwords: HashMap<String, Arc<str>>,
    /// Keys by the hash of password, salt and rounds.
    salted: Cache<Key, Arc<Keys>>,
    /// What each role has proven itself with last: a password may have changed since the pool's first session logged in.
    latest: Mutex<HashMap<Arc<str>, Credentials>>,
}

impl fmt::Debug for ConnectContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ConnectContext").field("tls", &self.tls).finish_non_exhaustive()
    }
}

/// What is wrong with the settings or files that connects need.
#[derive(Debug, thiserror::Error)]
pub enum ConnectSettingsError {
    /// TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// The passwords file.
    #[error(transparent)]
    Passwords(#[from] SecretsFileError),
}

impl ConnectContext {
    /// Loads roots and passwords.
    pub fn from_settings(settings: &Settings) -> Result<Self, ConnectSettingsError> {
        let mut passwords = HashMap::new();
        if let Some(path) = &settings.backend.passwords_file {
            passwords = read_passwords(path)?;
        }
        if let Some(password) = &settings.auth.query_password {
            passwords.entry(settings.auth.query_user.clone()).or_insert_with(|| password.as_str().into());
        }
        Ok(Self {
            tls: BackendTlsConnector::from_settings(&settings.backend)?,
            timeout: settings.backend.connect_timeout,
            passwords,
            salted: Cache::new(SALTED_KEYS_MAX),
            latest: Mutex::default(),
        })
    }

    /// An application has logged in: whoever connects as this role from now on proves it with the same.
    pub fn learn(&self, login: &BackendLogin) {
        let mut latest = self.latest();
        if latest.get(&login.user) != Some(&login.credentials) {
            latest.insert(Arc::clone(&login.user), login.credentials.clone());
        }
    }

    /// After a reload: knows what this one has learned.
    pub fn learn_all(&self, of: &Self) {
        self.latest().clone_from(&of.latest());
    }

    /// The login with what its role has proven itself with last.
    pub(super) fn renewed(&self, login: &BackendLogin) -> BackendLogin {
        let credentials = self.latest().get(&login.user).unwrap_or(&login.credentials).clone();
        BackendLogin { credentials, ..login.clone() }
    }

    fn latest(&self) -> MutexGuard<'_, HashMap<Arc<str>, Credentials>> {
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// TLS for the control connections; `None` when it is off.
    pub fn tls_config(&self) -> Option<Arc<tokio_rustls::rustls::ClientConfig>> {
        self.tls.config()
    }

    /// The password that the configuration has for `user`.
    pub fn password(&self, user: &str) -> Option<&Arc<str>> {
        self.passwords.get(user)
    }
}

/// A connection at ReadyForQuery, outside of a transaction.
#[derive(Debug)]
pub struct Connected {
    /// The connection.
    pub stream: Stream,
    /// ParameterStatus as the node sent them, the last value of each name.
    pub parameters: Vec<(String, String)>,
    /// For CancelRequest.
    pub process_id: i32,
    /// For CancelRequest.
    pub secret: Bytes,
    /// What the node sent after ReadyForQuery (asynchronous messages; as a rule nothing).
    pub leftover: BytesMut,
}

impl Connected {
    /// The key for [`cancel`].
    pub fn cancel_key(&self) -> CancelKey {
        CancelKey { process_id: self.process_id, secret: self.secret.clone() }
    }
}

/// Whose fault a failed connect is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The application asked for what the node refuses (role, password, database, setting).
    Application,
    /// The proxy's configuration (certificates, credentials).
    Proxy,
    /// The node, or the way to it.
    Node,
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
#[error("{node}: {cause}", node = display(node))]
pub struct ConnectError {
    /// The node.
    pub node: NodeAddress,
    /// What happened.
    pub cause: ConnectCause,
}

/// What went wrong at a connect.
#[derive(Debug, thiserror::Error)]
pub enum ConnectCause {
    /// Not reached, or the connection broke.
    #[error("connection failed: {0}")]
    Unreachable(#[from] io::Error),
    /// Not done in `backend.connect_timeout`.
    #[error("no connection within {0:?}")]
    Timeout(Duration),
    /// TLS was refused or failed.
    #[error("TLS failed: {0}")]
    Tls(String),
    /// The node answered with an error.
    #[error("{}", .0.message)]
    Refused(Box<NodeError>),
    /// The peer does not speak the protocol as we do.
    #[error("protocol violation: {0}")]
    Protocol(String),
    /// The node wants a proof that the proxy cannot give.
    #[error("{0}")]
    Credentials(String),
}

impl ConnectError {
    /// SQLSTATE for the application.
    pub fn sqlstate(&self) -> &str {
        match &self.cause {
            ConnectCause::Unreachable(_) | ConnectCause::Timeout(_) | ConnectCause::Tls(_) => {
                sqlstate::UNABLE_TO_CONNECT
            }
            ConnectCause::Refused(error) => &error.sqlstate,
            ConnectCause::Protocol(_) => sqlstate::PROTOCOL_VIOLATION,
            ConnectCause::Credentials(_) => sqlstate::INVALID_AUTHORIZATION,
        }
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        match &self.cause {
            ConnectCause::Unreachable(_) | ConnectCause::Timeout(_) | ConnectCause::Protocol(_) => {
                Fault::Node
            }
            ConnectCause::Tls(_) | ConnectCause::Credentials(_) => Fault::Proxy,
            ConnectCause::Refused(error) => match error.sqlstate.get(..2) {
                Some("08" | "53" | "57" | "58" | "XX" | "F0") | None => Fault::Node,
                Some(_) => Fault::Application,
            },
        }
    }

    /// Whether trying again, or another node, may help.
    pub fn is_retryable(&self) -> bool {
        self.fault() == Fault::Node
    }

    /// What the node said, or what else is wrong.
    pub fn said(&self) -> &dyn fmt::Display {
        &self.cause
    }

    /// Whether the node has as many connections as it takes.
    pub fn node_is_full(&self) -> bool {
        matches!(&self.cause, ConnectCause::Refused(error) if error.sqlstate == sqlstate::TOO_MANY_CONNECTIONS)
    }

    /// Appends it as an ErrorResponse: the node's own fields where it gave some, with our severity, and which node it was.
    pub fn write(&self, severity: Severity, shard: &str, out: &mut BytesMut) {
        match &self.cause {
            ConnectCause::Refused(error) => {
                let own = error.field(b'D').map(|own| format!(" {own}")).unwrap_or_default();
                let detail = format!("Node {} of shard \"{shard}\" refused the connection.{own}", self.node);
                let full = "Lower pool.size, or raise max_connections of the node.";
                let hint = error.field(b'H').or_else(|| self.node_is_full().then(|| full.into()));
                let report = Report { severity, ..Report::error(&error.sqlstate, &error.message) };
                report.detail(detail.as_str()).hint(hint.as_deref()).write(out);
            }
            ConnectCause::Unreachable(_)
            | ConnectCause::Timeout(_)
            | ConnectCause::Tls(_)
            | ConnectCause::Protocol(_)
            | ConnectCause::Credentials(_) => {
                let message = format!("could not connect to {self}");
                Report { severity, ..Report::error(self.sqlstate(), &message) }.write(out);
            }
        }
    }
}

fn display(node: &NodeAddress) -> String {
    format!("{}:{}", node.host, node.port)
}

/// Connects and logs in, within `backend.connect_timeout`. Dropping it closes the attempt.
pub async fn connect(
    node: &NodeAddress,
    login: &BackendLogin,
    context: &ConnectContext,
) -> Result<Connected, ConnectError> {
    let attempt = Box::pin(async {
        let stream = open(node, context).await?;
        login::log_in(stream, login, context).await
    });
    within(node, context, attempt).await
}

/// Connects up to the point where a StartupMessage would be sent: TCP or Unix socket, and TLS as configured.
pub async fn dial(node: &NodeAddress, context: &ConnectContext) -> Result<Stream, ConnectError> {
    within(node, context, Box::pin(open(node, context))).await
}

/// Sends a CancelRequest and waits until the node has taken it, which is when it closes.
pub async fn cancel(
    node: &NodeAddress,
    key: &CancelKey,
    context: &ConnectContext,
) -> Result<(), ConnectError> {
    let attempt = Box::pin(async {
        let mut stream = open(node, context).await?;
        let mut packet = BytesMut::new();
        write_cancel(key, &mut packet);
        stream.write_all(&packet).await?;
        stream.flush().await?;
        // The node answers nothing; an error here says only that it has closed.
        while matches!(stream.read(&mut [0; 64]).await, Ok(1..)) {}
        Ok(())
    });
    within(node, context, attempt).await
}

async fn within<T>(
    node: &NodeAddress,
    context: &ConnectContext,
    attempt: impl Future<Output = Result<T, ConnectCause>>,
) -> Result<T, ConnectError> {
    let result = match tokio::time::timeout(context.timeout, attempt).await {
        Ok(result) => result,
        Err(_) => Err(ConnectCause::Timeout(context.timeout)),
    };
    result.map_err(|cause| ConnectError { node: node.clone(), cause })
}

async fn open(node: &NodeAddress, context: &ConnectContext) -> Result<Stream, ConnectCause> {
    if node.host.starts_with('/') {
        let path = format!("{}/.s.PGSQL.{}", node.host, node.port);
        return Ok(Stream::Unix(UnixStream::connect(path).await?));
    }
    let mut socket = open_tcp(node).await?;
    let mode = context.tls.mode();
    if mode == BackendTls::Off {
        return Ok(Stream::Plain(socket));
    }
    socket.write_all(&ssl_request()).await?;
    // Exactly one byte: anything behind it must come through TLS.
    match socket.read_u8().await? {
        b'S' => match context.tls.connect(&node.host, socket).await {
            Ok(stream) => Ok(stream),
            Err(_) if mode == BackendTls::Prefer => Ok(Stream::Plain(open_tcp(node).await?)),
            Err(error) => Err(ConnectCause::Tls(error.to_string())),
        },
        b'N' if mode == BackendTls::Prefer => Ok(Stream::Plain(socket)),
        b'N' => Err(ConnectCause::Tls("the node does not offer TLS".to_owned())),
        _ => Err(ConnectCause::Protocol("unexpected answer to SSLRequest".to_owned())),
    }
}

async fn open_tcp(node: &NodeAddress) -> io::Result<TcpStream> {
    let socket = TcpStream::connect((node.host.as_str(), node.port)).await?;
    tune(&SockRef::from(&socket))?;
    must_take(&socket, true)?;
    Ok(socket)
}

#[cfg(test)]
mod tests;
