//! LISTEN for pooled sessions: one listener connection per database and shard primary, shared by all sessions.
//!
//! Each NOTIFY happens on one shard, so a notification is delivered once. A session whose queue is full, or whose
//! listener lost its connection (notifications may have passed unseen), is told so and must be ended: the application
//! then listens anew, as it does when PostgreSQL goes down.

use std::collections::{HashMap, HashSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::StreamExt;
use router_config::topology::{NodeAddress, ShardId};
use tokio::sync::{mpsc, oneshot};
use tokio_postgres::AsyncMessage;

use super::connect::{Dialer, Messages};
use super::error::ControlError;
use super::nodes::{NodeId, Nodes};
use super::resolver::primary;
use crate::sql::spelling::quote_ident;

/// Notifications that wait for one session; one more ends the session.
pub(super) const QUEUE: usize = 4096;

/// Requests that wait for a listener.
const REQUESTS: usize = 1024;

/// How long LISTEN may take.
const LIMIT: Duration = Duration::from_secs(10);

/// A notification, ready to become a NotificationResponse.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Notification {
    /// Channel.
    pub channel: Arc<str>,
    /// Payload.
    pub payload: Arc<str>,
    /// Process id of the notifying backend, on its shard.
    pub pid: i32,
}

/// Why notifications may be missing: end the session.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The session did not take them off.
    #[error("more than {QUEUE} notifications were waiting for this session")]
    Overflow,
    /// A shard's listener lost its connection.
    #[error("the connection that listens on shard \"{0}\" was lost, notifications may be missing")]
    Connection(String),
    /// The application's encoding cannot be written.
    #[error("a notification has characters that the proxy cannot write in client_encoding {0}")]
    Encoding(String),
}

type Event = Result<Notification, Lost>;

/// A session's side: its channels, and what arrives on them. Ends its LISTENs when dropped.
#[derive(Debug)]
pub struct Subscription {
    id: u64,
    hub: Arc<Hub>,
    queue: mpsc::Receiver<Event>,
}

/// Entry point, one per process.
#[derive(Clone)]
pub(crate) struct ListenHub {
    pub(crate) dialer: Arc<Dialer>,
    pub(crate) nodes: Arc<Nodes>,
    handle: tokio::runtime::Handle,
    hubs: Arc<Mutex<HashMap<String, Arc<Hub>>>>,
    ids: Arc<AtomicU64>,
}

/// One database's listeners.
#[derive(Debug)]
struct Hub {
    listeners: Vec<mpsc::Sender<Request>>,
    sessions: Mutex<Sessions>,
}

#[derive(Debug, Default)]
struct Sessions {
    queues: HashMap<u64, Queue>,
    channels: HashMap<Arc<str>, HashSet<u64>>,
}

#[derive(Debug)]
struct Queue {
    events: mpsc::Sender<Event>,
    channels: HashSet<Arc<str>>,
}

/// LISTEN or UNLISTEN on a listener connection; the answer comes when PostgreSQL has acknowledged it.
struct Request {
    sql: String,
    answer: Option<oneshot::Sender<Result<(), ControlError>>>,
}

impl ListenHub {
    pub(crate) fn new(dialer: Arc<Dialer>, nodes: Arc<Nodes>, handle: tokio::runtime::Handle) -> Self {
        Self { dialer, nodes, handle, hubs: Arc::default(), ids: Arc::default() }
    }

    /// A session of `database` that may listen. Connections are opened at the first LISTEN.
    pub(crate) fn subscribe(&self, database: &str) -> Subscription {
        let hub = {
            let mut hubs = self.hubs.lock().unwrap_or_else(PoisonError::into_inner);
            // A hub whose shards are no longer all of the cluster's makes place for a new one.
            let fits = |hub: &&Arc<Hub>| hub.listeners.len() == self.nodes.shard_count();
            match hubs.get(database).filter(fits) {
                Some(hub) => Arc::clone(hub),
                None => {
                    let hub = self.start(database);
                    hubs.insert(database.to_owned(), Arc::clone(&hub));
                    hub
                }
            }
        };
        let id = self.ids.fetch_add(1, Ordering::Relaxed);
        let (events, queue) = mpsc::channel(QUEUE);
        hub.lock().queues.insert(id, Queue { events, channels: HashSet::new() });
        Subscription { id, hub, queue }
    }

    fn start(&self, database: &str) -> Arc<Hub> {
        let mut requests = Vec::new();
        let mut listeners = Vec::new();
        for _shard in 0..self.nodes.shard_count() {
            let (sender, receiver) = mpsc::channel(REQUESTS);
            listeners.push(sender);
            requests.push(receiver);
        }
        let hub = Arc::new(Hub { listeners, sessions: Mutex::default() });
        for (index, receiver) in requests.into_iter().enumerate() {
            let listener = Listener {
                dialer: Arc::clone(&self.dialer),
                nodes: Arc::clone(&self.nodes),
                hub: Arc::downgrade(&hub),
                database: database.to_owned(),
                shard: ShardId(u16::try_from(index).unwrap_or(u16::MAX)),
            };
            self.handle.spawn(listener.run(receiver));
        }
        hub
    }
}

impl Subscription {
    /// LISTEN: returns when every shard listens.
    pub async fn listen(&self, channel: &str) -> Result<(), ControlError> {
        let channel: Arc<str> = channel.into();
        // What was notified before is not this session's, though a listener that has the channel already may bring it yet.
        let shards: Vec<ShardId> =
            (0..self.hub.listeners.len()).filter_map(|n| u16::try_from(n).ok()).map(ShardId).collect();
        let _late = tokio::time::timeout(LIMIT, self.catch_up(&shards)).await;
        // Entered first: a notification between the shards' answers must not be lost.
        if !self.hub.enter(self.id, &channel) {
            return Err(ControlError::Stopped);
        }
        let sql = format!("LISTEN {}", quote_ident(&channel));
        let listened = tokio::time::timeout(LIMIT, self.hub.everywhere(&sql));
        let result = listened.await.unwrap_or_else(|_| {
            Err(ControlError::Limit {
                message: format!("LISTEN was not acknowledged by every shard within {LIMIT:?}"),
            })
        });
        if result.is_err() {
            self.unlisten(Some(&channel));
        }
        result
    }

    /// UNLISTEN, `None` for `*`. Nothing more arrives on the channel from here on.
    pub fn unlisten(&self, channel: Option<&str>) {
        self.hub.leave(self.id, channel);
    }

    /// Returns when everything that was notified on these shards before the call is in the queue. A shard without a listening
    /// connection has nothing to wait for.
    pub async fn catch_up(&self, shards: &[ShardId]) {
        let mut answers = Vec::new();
        for listener in shards.iter().filter_map(|shard| self.hub.listeners.get(usize::from(shard.0))) {
            let (answer, done) = oneshot::channel();
            // The server sends what it has for a listening connection before the answer to its next statement, if that is empty.
            if listener.send(Request { sql: String::new(), answer: Some(answer) }).await.is_ok() {
                answers.push(done);
            }
        }
        for done in answers {
            // A connection that failed is told to its sessions as such.
            let _failed = done.await;
        }
    }

    /// Channels that this session listens on, sorted.
    pub fn channels(&self) -> Vec<Arc<str>> {
        let sessions = self.hub.lock();
        let mut names: Vec<Arc<str>> = sessions
            .queues
            .get(&self.id)
            .into_iter()
            .flat_map(|queue| queue.channels.iter().cloned())
            .collect();
        names.sort_unstable();
        names
    }

    /// The next notification. Cancel safe. After an error the session is to be ended.
    pub async fn recv(&mut self) -> Result<Notification, Lost> {
        // The sender is dropped only when the queue overflowed or the session left.
        self.queue.recv().await.unwrap_or(Err(Lost::Overflow))
    }

    /// A notification that has arrived already.
    pub fn try_recv(&mut self) -> Option<Result<Notification, Lost>> {
        match self.queue.try_recv() {
            Ok(event) => Some(event),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => Some(Err(Lost::Overflow)),
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.hub.leave(self.id, None);
        self.hub.lock().queues.remove(&self.id);
    }
}

impl Hub {
    fn lock(&self) -> std::sync::MutexGuard<'_, Sessions> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Enters a session on a channel; `false` when it has been told that it missed something.
    fn enter(&self, id: u64, channel: &Arc<str>) -> bool {
        let mut sessions = self.lock();
        let Some(queue) = sessions.queues.get_mut(&id) else { return false };
        queue.channels.insert(Arc::clone(channel));
        sessions.channels.entry(Arc::clone(channel)).or_default().insert(id);
        true
    }

    async fn everywhere(&self, sql: &str) -> Result<(), ControlError> {
        let mut answers = Vec::new();
        for listener in &self.listeners {
            let (answer, done) = oneshot::channel();
            let request = Request { sql: sql.to_owned(), answer: Some(answer) };
            listener.send(request).await.map_err(|_| ControlError::Stopped)?;
            answers.push(done);
        }
        for done in answers {
            done.await.map_err(|_| ControlError::Stopped)??;
        }
        Ok(())
    }

    /// Takes a session off a channel, or all; the connections stop listening to what nobody wants.
    fn leave(&self, id: u64, channel: Option<&str>) {
        let mut sessions = self.lock();
        let Some(queue) = sessions.queues.get_mut(&id) else { return };
        let left: Vec<Arc<str>> = match channel {
            Some(name) => queue.channels.take(name).into_iter().collect(),
            None => queue.channels.drain().collect(),
        };
        for name in left {
            let Some(members) = sessions.channels.get_mut(&name) else { continue };
            members.remove(&id);
            if members.is_empty() {
                sessions.channels.remove(&name);
                for listener in &self.listeners {
                    // In order with LISTENs, since both are sent under the lock or after entering. A full queue
                    // leaves the connection listening, which costs a little and harms nobody.
                    let sql = format!("UNLISTEN {}", quote_ident(&name));
                    let _full = listener.try_send(Request { sql, answer: None });
                }
            }
        }
    }

    fn deliver(&self, notification: &Notification) {
        let mut sessions = self.lock();
        let Some(members) = sessions.channels.get(&notification.channel) else { return };
        let mut overflowed = Vec::new();
        for id in members {
            let sent = sessions.queues.get(id).map(|queue| queue.events.try_send(Ok(notification.clone())));
            if matches!(sent, Some(Err(_))) {
                overflowed.push(*id);
            }
        }
        for id in overflowed {
            // Dropping the sender ends the queue with `Lost::Overflow` behind what is in it.
            let left = sessions.queues.remove(&id).map(|queue| queue.channels).unwrap_or_default();
            for name in left {
                if let Some(members) = sessions.channels.get_mut(&name) {
                    members.remove(&id);
                }
            }
        }
    }

    /// The listener of a shard is gone: whoever listens on anything must know.
    fn lost(&self, shard: &str) {
        let mut sessions = self.lock();
        let listening: Vec<u64> = sessions
            .queues
            .iter()
            .filter(|(_, queue)| !queue.channels.is_empty())
            .map(|(id, _)| *id)
            .collect();
        for id in listening {
            if let Some(queue) = sessions.queues.remove(&id) {
                let _full = queue.events.try_send(Err(Lost::Connection(shard.to_owned())));
            }
        }
        sessions.channels.clear();
        for listener in &self.listeners {
            // The others still listen for those sessions; who enters after this lock is queued behind it.
            let _full = listener.try_send(Request { sql: String::from("UNLISTEN *"), answer: None });
        }
    }
}

/// A listening connection.
struct Opened {
    client: tokio_postgres::Client,
    messages: Messages,
    node: NodeId,
    address: NodeAddress,
}

/// The task of one database and shard.
struct Listener {
    dialer: Arc<Dialer>,
    nodes: Arc<Nodes>,
    hub: std::sync::Weak<Hub>,
    database: String,
    shard: ShardId,
}

impl Listener {
    /// Runs until the hub is gone. The connection is opened by the first request and dropped when it fails.
    async fn run(self, mut requests: mpsc::Receiver<Request>) {
        let mut conn: Option<Opened> = None;
        let mut changes = self.nodes.subscribe();
        loop {
            let Some(opened) = conn.as_mut() else {
                let Some(request) = requests.recv().await else { return };
                if request.answer.is_none() || request.sql.is_empty() {
                    // UNLISTEN and catching up where nothing listens.
                    answer(request, Ok(()));
                    continue;
                }
                match self.open().await {
                    Ok(mut opened) => {
                        if self.serve(&mut opened, request).await {
                            conn = Some(opened);
                        }
                    }
                    Err(error) => answer(request, Err(error)),
                }
                continue;
            };
            let alive = tokio::select! {
                request = requests.recv() => match request {
                    Some(request) => self.serve(opened, request).await,
                    None => return,
                },
                message = opened.messages.next() => self.message(message),
                // After a promotion the notifications come from elsewhere, even if the old node is still there.
                _ = changes.changed() => self.nodes.primary(self.shard).is_none_or(|node| node == opened.node),
            };
            if !alive {
                conn = None;
                self.lost();
            }
        }
    }

    async fn open(&self) -> Result<Opened, ControlError> {
        let address = primary(&self.nodes, self.shard)?;
        let (client, messages) = self.dialer.single(&address, &self.database).await?;
        // A failover since then is seen at once: the id is that of the address that was dialled.
        let node = self.nodes.by_address(&address).ok_or(ControlError::Stopped)?;
        Ok(Opened { client, messages, node, address })
    }

    /// Sends one request while the connection is driven; false when the connection is gone.
    async fn serve(&self, opened: &mut Opened, request: Request) -> bool {
        let Opened { client, messages, address, .. } = opened;
        let sql = request.sql.clone();
        let mut running = Box::pin(client.batch_execute(&sql));
        loop {
            tokio::select! {
                biased;
                message = messages.next() => {
                    if !self.message(message) {
                        let cause = String::from("the listening connection was lost");
                        let (doing, node) = (sql.clone(), format!("{}:{}", address.host, address.port));
                        answer(request, Err(ControlError::Query { doing, node, sqlstate: None, cause }));
                        return false;
                    }
                }
                done = &mut running => {
                    answer(request, done.map_err(|error| ControlError::query(&sql, address, &error)));
                    return true;
                }
            }
        }
    }

    /// Handles what the server sent; false at the end of the connection.
    fn message(&self, message: Option<Result<AsyncMessage, tokio_postgres::Error>>) -> bool {
        match message {
            Some(Ok(AsyncMessage::Notification(note))) => {
                if let Some(hub) = self.hub.upgrade() {
                    hub.deliver(&Notification {
                        channel: note.channel().into(),
                        payload: note.payload().into(),
                        pid: note.process_id(),
                    });
                }
                true
            }
            Some(Ok(_)) => true,
            Some(Err(_)) | None => false,
        }
    }

    fn lost(&self) {
        let shard = self.nodes.shard(self.shard).map(|shard| shard.name.clone()).unwrap_or_default();
        tracing::warn!(shard, database = %self.database, "the listening connection was lost");
        if let Some(hub) = self.hub.upgrade() {
            hub.lost(&shard);
        }
    }
}

fn answer(request: Request, result: Result<(), ControlError>) {
    if let Some(sender) = request.answer {
        // The session may have gone meanwhile.
        let _gone = sender.send(result);
    }
}
