//! Where the stored secrets of users come from: the users file first, else `auth.query` on the home shard, so that the
//! roles and passwords of the database work as they are. Every node has them: while the home shard's primary cannot answer,
//! another one is asked, and when none can, what was last known is good for a while.
//!
//! Invariants: a user that is not found is not remembered (it may be created the next moment); what is remembered is
//! asked for again after `auth.cache`, or when a login with it failed, and is used without an answer for `auth.last_known` at
//! most. Session threads each have their own runtime; the look-up's connection lives on the control runtime.

use std::collections::{BTreeMap, HashMap};
use std::fmt;
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use router_config::settings::{Auth, Settings};
use router_config::topology::NodeAddress;
use sha2::{Digest as _, Sha256};
use tokio::runtime::Handle;
use tokio::time::Instant;
use tokio_postgres::types::{FromSql, ToSql};
use tokio_postgres::{Client, NoTls, Row, Statement};

use crate::backend::connect::{ConnectContext, ConnectError, dial};
use crate::control::explain;
use crate::md5_password;
use crate::scram::{DEFAULT_ITERATIONS, Key, Verifier};

/// Users remembered; above it the memory is emptied.
const CACHED_USERS_MAX: usize = 10_000;

/// A stored secret.
#[derive(Clone)]
pub enum Secret {
    /// The password (users file only).
    Plain(Arc<Plain>),
    /// `md5…`
    Md5(Arc<str>),
    /// `SCRAM-SHA-256$…`
    Scram(Arc<Verifier>),
}

impl Secret {
    /// Tells the kinds apart as PostgreSQL does.
    pub fn parse(text: &str) -> Self {
        if let Some(verifier) = Verifier::parse(text) {
            return Self::Scram(Arc::new(verifier));
        }
        if md5_password::is_stored(text) {
            return Self::Md5(text.into());
        }
        Self::Plain(Arc::new(Plain { password: text.into(), verifier: OnceLock::new() }))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Plain(_) => "Plain(..)",
            Self::Md5(_) => "Md5(..)",
            Self::Scram(_) => "Scram(..)",
        })
    }
}

/// What is known of a user who has a secret.
#[derive(Debug, Clone)]
pub struct Known {
    /// The secret.
    pub secret: Secret,
    /// The role has LOGIN, as far as `auth.query` says.
    pub may_log_in: bool,
}

impl Known {
    fn of_file(secret: Secret) -> Self {
        Self { secret, may_log_in: true }
    }
}

/// A password, and the verifier made of it once.
pub struct Plain {
    /// The password.
    pub password: Arc<str>,
    verifier: OnceLock<Verifier>,
}

impl Plain {
    /// A verifier for a SCRAM exchange.
    pub fn verifier(&self) -> &Verifier {
        let make = || {
            let salt: [u8; 16] = rand::random();
            Verifier::of_password(&self.password, salt.to_vec(), DEFAULT_ITERATIONS)
        };
        self.verifier.get_or_init(make)
    }
}

/// Why a secret could not be looked up.
#[derive(Debug, thiserror::Error)]
pub enum SecretError {
    /// The home shard cannot be reached.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// `auth.query` failed.
    #[error("auth.query failed: {}", explain(.0))]
    Query(#[from] tokio_postgres::Error),
    /// `auth.query` does not take or return what it must.
    #[error("auth.query {0}")]
    Shape(String),
    /// No answer in time.
    #[error("auth.query was not answered within {0:?}")]
    Timeout(Duration),
    /// The control runtime is gone: the proxy is ending.
    #[error("the proxy is shutting down")]
    Ended,
}

impl SecretError {
    /// Whether it is the query that is wrong, whoever is asked: syntax, names, privileges, types.
    fn is_of_the_query(&self) -> bool {
        const CLASSES: [&str; 4] = ["0A", "22", "3F", "42"];
        match self {
            Self::Shape(_) => true,
            Self::Query(error) => {
                error.code().is_some_and(|code| CLASSES.iter().any(|class| code.code().starts_with(class)))
            }
            Self::Connect(_) | Self::Timeout(_) | Self::Ended => false,
        }
    }
}

/// The nodes that may be asked at this moment, in order: the home shard's primary if it has one, then others.
pub type Askable = Arc<dyn Fn() -> Vec<NodeAddress> + Send + Sync>;

/// A remembered secret.
#[derive(Clone)]
struct Remembered {
    known: Known,
    /// Used without asking until then.
    fresh_until: Instant,
    /// Used when nobody can be asked until then.
    good_until: Instant,
}

/// Users file and `auth.query`.
pub struct SecretSource {
    users: HashMap<String, Secret>,
    query: Option<Arc<AuthQuery>>,
    control: Option<Handle>,
    cached_for: Duration,
    last_known_for: Duration,
    cache: Mutex<HashMap<String, Remembered>>,
    /// Over the secrets of the configuration.
    fingerprint: Sha256,
    has_secrets: bool,
}

impl fmt::Debug for SecretSource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("SecretSource").field("users", &self.users.len()).finish_non_exhaustive()
    }
}

struct AuthQuery {
    settings: Auth,
    connect: Arc<ConnectContext>,
    timeout: Duration,
    nodes: Askable,
    client: tokio::sync::Mutex<Option<(NodeAddress, Arc<Client>)>>,
    /// The node that answered last; another one is logged.
    answered: Mutex<Option<NodeAddress>>,
}

impl SecretSource {
    /// `users` as in `auth.users_file`; `auth.query` will run on `control` against one of `nodes`.
    pub fn new(
        settings: &Settings,
        users: HashMap<String, Arc<str>>,
        connect: Arc<ConnectContext>,
        control: Handle,
        nodes: Askable,
    ) -> Self {
        let auth = &settings.auth;
        let timeout = settings.backend.connect_timeout;
        let client = tokio::sync::Mutex::new(None);
        let query =
            AuthQuery { settings: auth.clone(), connect, timeout, nodes, client, answered: Mutex::default() };
        let mut source = Self::of_users(users);
        if let Some(password) = &auth.query_password {
            source.fingerprint.update(password.as_bytes());
            source.has_secrets = true;
        }
        source.query = (!auth.query.is_empty()).then(|| Arc::new(query));
        source.control = Some(control);
        source.cached_for = auth.cache;
        source.last_known_for = auth.last_known;
        source
    }

    /// Only these users and their secrets, as in a users file.
    pub fn of_users(users: HashMap<String, Arc<str>>) -> Self {
        let (mut fingerprint, has_secrets) = (Sha256::new(), !users.is_empty());
        for (user, secret) in BTreeMap::from_iter(&users) {
            for text in [user.as_str(), secret] {
                fingerprint.update(text.len().to_be_bytes());
                fingerprint.update(text.as_bytes());
            }
        }
        let users = users.into_iter().map(|(user, secret)| (user, Secret::parse(&secret))).collect();
        let cache = Mutex::default();
        Self {
            users,
            query: None,
            control: None,
            cached_for: Duration::ZERO,
            last_known_for: Duration::ZERO,
            cache,
            fingerprint,
            has_secrets,
        }
    }

    /// What the answers to unknown users are derived from: where the configuration holds a secret, the same in every
    /// process that has it, so that neither a restart nor a second proxy shows who is unknown; else random.
    pub(super) fn mock_seed(&self) -> Key {
        if self.has_secrets { self.fingerprint.clone().finalize().into() } else { rand::random() }
    }

    /// Whether an md5 exchange is what most users get with `auth.method = "md5"`; those that do not exist get the same.
    pub(super) fn md5_is_usual(&self) -> bool {
        let scram = self.users.values().filter(|secret| matches!(secret, Secret::Scram(_))).count();
        self.users.len() > 2 * scram
    }

    /// What is known of `user`; `None`: no such user, or it has no secret, or an expired one.
    pub async fn lookup(&self, user: &str) -> Result<Option<Known>, SecretError> {
        if let Some(secret) = self.users.get(user) {
            return Ok(Some(Known::of_file(secret.clone())));
        }
        let (Some(query), Some(control)) = (&self.query, &self.control) else {
            return Ok(None);
        };
        if let Some(known) = self.cached(user) {
            return Ok(Some(known));
        }
        let (query, name) = (Arc::clone(query), user.to_owned());
        let task = control.spawn(async move { query.ask_any(&name).await });
        match task.await.map_err(|_| SecretError::Ended)? {
            Ok(Some(known)) => {
                self.remember(user, known.clone());
                Ok(Some(known))
            }
            Ok(None) => {
                self.locked().remove(user);
                Ok(None)
            }
            Err(error) => match self.last_known(user) {
                Some(known) => {
                    tracing::warn!(
                        user,
                        "auth.query gives no answer, the last known secret is used: {error}"
                    );
                    Ok(Some(known))
                }
                None => {
                    tracing::warn!(
                        user,
                        "auth.query gives no answer, and nothing is known of the user: {error}"
                    );
                    Err(error)
                }
            },
        }
    }

    /// Runs `auth.query` once, for its own role; `Err` only when the query itself is wrong. On the control runtime.
    pub async fn try_query(&self) -> Result<(), SecretError> {
        let Some(query) = &self.query else { return Ok(()) };
        match query.ask_any(&query.settings.query_user).await {
            Err(error) if error.is_of_the_query() => Err(error),
            Ok(_) | Err(_) => Ok(()),
        }
    }

    /// The next look-up of `user` asks again.
    pub fn forget(&self, user: &str) {
        if let Some(remembered) = self.locked().get_mut(user) {
            remembered.fresh_until = Instant::now();
        }
    }

    /// The next look-up of any user asks again.
    pub fn forget_all(&self) {
        let now = Instant::now();
        self.locked().values_mut().for_each(|remembered| remembered.fresh_until = now);
    }

    fn cached(&self, user: &str) -> Option<Known> {
        let cache = self.locked();
        cache.get(user).filter(|kept| kept.fresh_until > Instant::now()).map(|kept| kept.known.clone())
    }

    fn last_known(&self, user: &str) -> Option<Known> {
        let cache = self.locked();
        cache.get(user).filter(|kept| kept.good_until > Instant::now()).map(|kept| kept.known.clone())
    }

    fn remember(&self, user: &str, known: Known) {
        let mut cache = self.locked();
        if cache.len() >= CACHED_USERS_MAX {
            cache.clear();
        }
        let now = Instant::now();
        let (fresh_until, good_until) = (now + self.cached_for, now + self.last_known_for);
        cache.insert(user.to_owned(), Remembered { known, fresh_until, good_until });
    }

    fn locked(&self) -> std::sync::MutexGuard<'_, HashMap<String, Remembered>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl AuthQuery {
    /// Asks one node after the other until one answers; they share the time. The error is the first one's.
    async fn ask_any(&self, user: &str) -> Result<Option<Known>, SecretError> {
        let nodes = (self.nodes)();
        let count = u32::try_from(nodes.len()).unwrap_or(u32::MAX).max(1);
        let limit = self.timeout / count;
        let mut failure = None;
        for node in &nodes {
            let answer = tokio::time::timeout(limit, self.ask(node, user)).await;
            match answer.unwrap_or(Err(SecretError::Timeout(limit))) {
                Ok(known) => {
                    let mut last = self.answered.lock().unwrap_or_else(PoisonError::into_inner);
                    if last.replace(node.clone()).is_some_and(|last| last != *node) {
                        tracing::warn!(%node, "auth.query is answered by this node from now on");
                    }
                    return Ok(known);
                }
                Err(error) => {
                    tracing::info!(%node, "auth.query: {error}");
                    failure.get_or_insert(error);
                }
            }
        }
        Err(failure.unwrap_or(SecretError::Ended))
    }

    /// Runs the query, once more on a new connection if the kept one turns out to be broken.
    async fn ask(&self, node: &NodeAddress, user: &str) -> Result<Option<Known>, SecretError> {
        let client = self.client(node).await?;
        let rows = match self.rows(&client, user).await {
            Err(SecretError::Query(error)) if is_lost(&error) => {
                self.client.lock().await.take();
                self.rows(&*self.client(node).await?, user).await?
            }
            result => result?,
        };
        let Some(row) = rows.first() else { return Ok(None) };
        let may_log_in = if row.len() > 2 { row.try_get(2)? } else { true };
        let secret = row.try_get::<_, Option<String>>(1)?;
        Ok(secret.map(|text| Known { secret: Secret::parse(&text), may_log_in }))
    }

    async fn rows(&self, client: &Client, user: &str) -> Result<Vec<Row>, SecretError> {
        let statement = client.prepare(&self.settings.query).await?;
        fits(&statement)?;
        Ok(client.query(&statement, &[&user]).await?)
    }

    /// The kept connection if it leads to the node, or a new one, which is kept.
    async fn client(&self, node: &NodeAddress) -> Result<Arc<Client>, SecretError> {
        let mut kept = self.client.lock().await;
        if let Some((at, client)) = &*kept
            && at == node
            && !client.is_closed()
        {
            return Ok(Arc::clone(client));
        }
        let stream = dial(node, &self.connect).await?;
        let mut config = tokio_postgres::Config::new();
        config
            .user(&self.settings.query_user)
            .dbname(&self.settings.query_database)
            .application_name("gavel auth");
        if let Some(password) = self
            .settings
            .query_password
            .as_deref()
            .or_else(|| self.connect.password(&self.settings.query_user).map(|p| &**p))
        {
            config.password(password);
        }
        let (client, connection) = config.connect_raw(stream, NoTls).await?;
        // Ends with the client; its errors reach the queries.
        Handle::current().spawn(connection);
        let client = Arc::new(client);
        *kept = Some((node.clone(), Arc::clone(&client)));
        Ok(client)
    }
}

/// Whether the query takes a name, and returns a name, a secret and perhaps whether the role may log in.
fn fits(statement: &Statement) -> Result<(), SecretError> {
    match statement.params() {
        [name] if <&str as ToSql>::accepts(name) => {}
        [other] => {
            return Err(SecretError::Shape(format!("takes a user of type {other}: $1 must be a text")));
        }
        others => {
            let count = others.len();
            return Err(SecretError::Shape(format!(
                "has {count} parameters: it must have one, $1 for the user"
            )));
        }
    }
    let types: Vec<_> = statement.columns().iter().map(tokio_postgres::Column::type_).collect();
    let is_text = <String as FromSql>::accepts;
    let right = match types.as_slice() {
        [_, secret] => is_text(secret),
        [_, secret, may_log_in, ..] => is_text(secret) && <bool as FromSql>::accepts(may_log_in),
        [] | [_] => false,
    };
    if right {
        return Ok(());
    }
    let names: Vec<String> = types.iter().map(ToString::to_string).collect();
    Err(SecretError::Shape(format!(
        "returns columns of the types ({}): they must be the user's name, its secret as text and, if there is a third, a \
         boolean: whether the role may log in",
        names.join(", ")
    )))
}

/// Whether the error is the end of the connection and not an answer to the query. A server that ends a connection says
/// why with a FATAL message, which the query gets where it arrives before the end of the stream does.
fn is_lost(error: &tokio_postgres::Error) -> bool {
    use tokio_postgres::error::Severity;
    error
        .as_db_error()
        .is_none_or(|db| matches!(db.parsed_severity(), Some(Severity::Fatal | Severity::Panic)))
}
