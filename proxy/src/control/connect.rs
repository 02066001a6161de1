//! Control connections: pooled ones by (node, database), and single ones for tasks that keep theirs.
//!
//! They log in as `auth.query_user`. Everything here must run on the control runtime: a connection's driver task lives
//! on the runtime that opened it.

use std::collections::HashMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use arc_swap::ArcSwap;
use deadpool_postgres::{Manager, ManagerConfig, Pool, RecyclingMethod, Runtime};
use futures_util::stream::{Stream, poll_fn};
use router_config::settings::{BackendTls, Settings};
use router_config::topology::NodeAddress;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::SslMode;
use tokio_postgres::tls::{ChannelBinding, MakeTlsConnect, TlsConnect, TlsStream};
use tokio_postgres::{AsyncMessage, Client, Config, NoTls};
use tokio_rustls::rustls::ClientConfig;
use tokio_rustls::rustls::pki_types::ServerName;

use super::error::{ControlError, explain};

/// Connections of one (node, database) pool; more wait.
const POOL_SIZE: usize = 4;

/// Bounds on what a control statement may wait for, and settings that roles and databases must not change for us.
const SESSION: &str = "-c statement_timeout=30s -c lock_timeout=5s -c idle_in_transaction_session_timeout=60s \
     -c default_transaction_read_only=off -c standard_conforming_strings=on -c client_encoding=UTF8";

/// Messages that a server sends unasked: notices and notifications. Ends when the connection does.
pub(crate) type Messages = Pin<Box<dyn Stream<Item = Result<AsyncMessage, tokio_postgres::Error>> + Send>>;

/// Opens control connections.
pub(crate) struct Dialer {
    access: ArcSwap<Access>,
    pools: Mutex<HashMap<(NodeAddress, String), Pool>>,
}

/// How control connections are made.
struct Access {
    user: String,
    password: Option<String>,
    timeout: Duration,
    ssl_mode: SslMode,
    tls: Option<Arc<ClientConfig>>,
}

impl Dialer {
    /// A dialer for these settings; `tls` is needed unless `backend.tls` is off.
    pub(crate) fn new(settings: &Settings, tls: Option<Arc<ClientConfig>>) -> Self {
        Self { access: ArcSwap::from_pointee(Access::new(settings, tls)), pools: Mutex::new(HashMap::new()) }
    }

    /// New connections are made as these settings say; those that tasks keep go on until they break.
    pub(crate) fn follow(&self, settings: &Settings, tls: Option<Arc<ClientConfig>>) {
        self.access.store(Arc::new(Access::new(settings, tls)));
        self.pools.lock().unwrap_or_else(PoisonError::into_inner).clear();
    }

    /// Closes pooled connections to a database that nothing uses now.
    pub(crate) fn close_idle(&self, database: &str) {
        let pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        pools.iter().filter(|((_, of), _)| of == database).for_each(|(_, pool)| {
            pool.retain(|_, _| false);
        });
    }

    /// The role that logs in.
    pub(crate) fn user(&self) -> String {
        self.access.load().user.clone()
    }

    /// The longest that an attempt may take, or an answer to a short question.
    pub(crate) fn timeout(&self) -> Duration {
        self.access.load().timeout
    }

    /// A pooled connection. Give it back idle.
    pub(crate) async fn client(
        &self,
        node: &NodeAddress,
        database: &str,
    ) -> Result<deadpool_postgres::Object, ControlError> {
        let pool = self.pool(node, database);
        pool.get().await.map_err(|error| {
            let cause = match &error {
                deadpool_postgres::PoolError::Backend(inner) => explain(inner),
                other => other.to_string(),
            };
            self.failure(node, database, cause)
        })
    }

    /// A connection of the caller's own with the stream of its messages, which the caller must poll: it drives the
    /// connection.
    pub(crate) async fn single(
        &self,
        node: &NodeAddress,
        database: &str,
    ) -> Result<(Client, Messages), ControlError> {
        let access = self.access.load_full();
        let config = access.config(node, database);
        let opened = async {
            if let Some(tls) = &access.tls {
                let (client, mut conn) = config.connect(RustlsConnect(Arc::clone(tls))).await?;
                Ok((client, Box::pin(poll_fn(move |cx| conn.poll_message(cx))) as Messages))
            } else {
                let (client, mut conn) = config.connect(NoTls).await?;
                Ok((client, Box::pin(poll_fn(move |cx| conn.poll_message(cx))) as Messages))
            }
        };
        match tokio::time::timeout(access.timeout, opened).await {
            Ok(Ok(pair)) => Ok(pair),
            Ok(Err(error)) => {
                let error: tokio_postgres::Error = error;
                Err(self.failure(node, database, explain(&error)))
            }
            Err(_) => Err(self.failure(node, database, format!("no answer within {:?}", access.timeout))),
        }
    }

    /// The same for callers that expect no messages: a task drives the connection until it ends.
    pub(crate) async fn driven(&self, node: &NodeAddress, database: &str) -> Result<Client, ControlError> {
        let (client, mut messages) = self.single(node, database).await?;
        tokio::runtime::Handle::current().spawn(async move {
            use futures_util::StreamExt;
            while let Some(Ok(_)) = messages.next().await {}
        });
        Ok(client)
    }

    fn pool(&self, node: &NodeAddress, database: &str) -> Pool {
        let access = self.access.load();
        let mut pools = self.pools.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (node.clone(), database.to_owned());
        pools
            .entry(key)
            .or_insert_with(|| {
                let config = access.config(node, database);
                let recycling = ManagerConfig { recycling_method: RecyclingMethod::Fast };
                let manager = match &access.tls {
                    Some(tls) => Manager::from_config(config, RustlsConnect(Arc::clone(tls)), recycling),
                    None => Manager::from_config(config, NoTls, recycling),
                };
                Pool::builder(manager)
                    .max_size(POOL_SIZE)
                    .runtime(Runtime::Tokio1)
                    .wait_timeout(Some(access.timeout))
                    .create_timeout(Some(access.timeout))
                    .build()
                    .expect("a runtime is named, which is all that timeouts need")
            })
            .clone()
    }

    fn failure(&self, node: &NodeAddress, database: &str, cause: String) -> ControlError {
        ControlError::Connect {
            node: format!("{}:{}", node.host, node.port),
            database: database.to_owned(),
            user: self.access.load().user.clone(),
            cause,
        }
    }
}

impl Access {
    fn new(settings: &Settings, tls: Option<Arc<ClientConfig>>) -> Self {
        let ssl_mode = match settings.backend.tls {
            BackendTls::Off => SslMode::Disable,
            BackendTls::Prefer => SslMode::Prefer,
            BackendTls::Require | BackendTls::VerifyCa | BackendTls::VerifyFull => SslMode::Require,
        };
        Self {
            user: settings.auth.query_user.clone(),
            password: settings.auth.query_password.clone(),
            timeout: settings.backend.connect_timeout,
            ssl_mode,
            tls,
        }
    }

    fn config(&self, node: &NodeAddress, database: &str) -> Config {
        let mut config = Config::new();
        config
            .host(&node.host)
            .port(node.port)
            .user(&self.user)
            .dbname(database)
            .application_name("gavel control")
            .connect_timeout(self.timeout)
            .options(SESSION)
            .keepalives_idle(Duration::from_secs(10))
            .keepalives_interval(Duration::from_secs(5))
            .keepalives_retries(3)
            .tcp_user_timeout(Duration::from_secs(15))
            .ssl_mode(self.ssl_mode);
        if let Some(password) = &self.password {
            config.password(password);
        }
        config
    }
}

/// rustls for tokio-postgres.
#[derive(Clone)]
struct RustlsConnect(Arc<ClientConfig>);

/// One host's handshake.
struct RustlsHandshake {
    config: Arc<ClientConfig>,
    host: String,
}

/// The stream after it.
struct RustlsStream<S>(tokio_rustls::client::TlsStream<S>);

impl<S> MakeTlsConnect<S> for RustlsConnect
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = RustlsStream<S>;
    type TlsConnect = RustlsHandshake;
    type Error = io::Error;

    fn make_tls_connect(&mut self, host: &str) -> io::Result<RustlsHandshake> {
        Ok(RustlsHandshake { config: Arc::clone(&self.0), host: host.to_owned() })
    }
}

impl<S> TlsConnect<S> for RustlsHandshake
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    type Stream = RustlsStream<S>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<RustlsStream<S>>> + Send>>;

    fn connect(self, stream: S) -> Self::Future {
        Box::pin(async move {
            let name = ServerName::try_from(self.host).map_err(io::Error::other)?;
            let connector = tokio_rustls::TlsConnector::from(self.config);
            connector.connect(name, stream).await.map(RustlsStream)
        })
    }
}

impl<S> TlsStream for RustlsStream<S>
where
    S: AsyncRead + AsyncWrite + Unpin,
{
    fn channel_binding(&self) -> ChannelBinding {
        ChannelBinding::none()
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for RustlsStream<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for RustlsStream<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}
