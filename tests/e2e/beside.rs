//! The proxy beside a plain PostgreSQL: both are asked the same, and what they say is put in brief so that it can be compared.

use shard_admin::local_cluster::LocalNode;
use tests::cluster::{Cluster, environment_of, login_of};
use tests::wire::{Frame, Wire};

/// An answer in brief: tags, and of errors the SQLSTATE, the message and the position; of completed statements their tag, of rows
/// their values.
pub(crate) fn brief(frames: &[Frame]) -> String {
    let one = |frame: &Frame| {
        let fields: Vec<_> = frame.body.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
        let of =
            |tag: char| fields.iter().find(|field| field.starts_with(tag)).map_or("", |field| &field[1..]);
        match frame.tag {
            b'E' => format!("E {} {} at {}", of('C'), of('M'), of('P')),
            b'C' => fields[0].to_string(),
            b'D' => format!("D {}", String::from_utf8_lossy(&frame.body[2..]).replace(char::is_control, "'")),
            b'Z' => String::from_utf8_lossy(&frame.body).into_owned(),
            tag => char::from(tag).to_string(),
        }
    };
    frames.iter().map(one).collect::<Vec<_>>().join(" | ")
}

/// What a session says in brief to frames that end with a Query or a Sync.
pub(crate) fn said(side: &mut Wire, bytes: &[u8]) -> String {
    side.send(bytes).expect("sent");
    brief(&side.read_until_ready(1).expect("an answer"))
}

/// As [`said`], up to so many ReadyForQuery, but for changed settings: when those are told is the proxy's own.
pub(crate) fn said_but_settings(side: &mut Wire, bytes: &[u8], ready: usize) -> String {
    side.send(bytes).expect("sent");
    let mut frames = side.read_until_ready(ready).expect("an answer");
    frames.retain(|frame| frame.tag != b'S');
    brief(&frames)
}

/// The rows of a query in an order of their own.
pub(crate) fn sorted_rows(side: &mut Wire, sql: &str) -> Vec<Vec<Option<String>>> {
    let mut rows = side.rows(sql).expect("the rows");
    rows.sort();
    rows
}

/// A cluster and a plain server, with a session of each.
pub(crate) struct Beside {
    pub(crate) cluster: Cluster,
    oracle: LocalNode,
    pub(crate) ours: Wire,
    pub(crate) theirs: Wire,
}

impl Beside {
    /// Three shards; both have run these statements.
    pub(crate) async fn start(set_up: &[&str]) -> Self {
        Self::of(Cluster::builder().shards(3).start().await, set_up).await
    }

    /// This cluster; likewise.
    pub(crate) async fn of(cluster: Cluster, set_up: &[&str]) -> Self {
        let oracle = Cluster::oracle().await;
        let ours = Wire::login(&cluster.login()).expect("login");
        let theirs = Wire::login(&login_of(&oracle)).expect("login");
        let mut beside = Self { cluster, oracle, ours, theirs };
        for sql in set_up {
            for side in beside.sides() {
                side.rows(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
            }
        }
        beside
    }

    /// The proxy's session, and the plain server's.
    pub(crate) fn sides(&mut self) -> [&mut Wire; 2] {
        [&mut self.ours, &mut self.theirs]
    }

    /// Another session of each.
    pub(crate) fn others(&self) -> [Wire; 2] {
        [self.cluster.login(), login_of(&self.oracle)].map(|login| Wire::login(&login).expect("login"))
    }

    /// The environments with which libpq's programs reach the proxy, and the plain server.
    pub(crate) fn environments(&self) -> [[(&'static str, String); 5]; 2] {
        [self.cluster.environment(), environment_of(&self.oracle)]
    }

    /// Other sessions in place of these.
    pub(crate) fn anew(&mut self) {
        [self.ours, self.theirs] = self.others();
    }
}
