//! Real servers for the tests of this folder: `initdb` once for all that run at a time, a copy of its directory per server.

use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User};
use router_config::settings::Settings;
use router_config::topology::{NodeAddress, Shard, TableKind, TableMatch, TableRule, Topology};
use tempfile::TempDir;
use tokio_postgres::{Client, NoTls};

use super::{Control, ControlError, ControlRuntime, Links};
use crate::metrics::Metrics;

const BIN: &str = "/usr/lib/postgresql/15/bin";

/// A running PostgreSQL; killed when dropped.
pub(crate) struct Server {
    dir: TempDir,
    pub(crate) address: NodeAddress,
    child: Option<Child>,
    /// What it was made of.
    template: Arc<TempDir>,
}

impl Server {
    /// A fresh primary.
    pub(crate) fn start() -> Self {
        let (dir, template) = (directory(), template());
        run(Command::new("cp").arg("-a").arg(template.path().join("data")).arg(dir.path().join("data")));
        Self::serve(dir, template)
    }

    /// A streaming replica of this server.
    pub(crate) fn replica(&self) -> Self {
        let dir = directory();
        let mut copy = unprivileged(&format!("{BIN}/pg_basebackup"));
        copy.args(["-R", "-X", "stream", "-c", "fast", "-U", "postgres", "-h", "127.0.0.1", "-p"]);
        run(copy.arg(self.address.port.to_string()).arg("-D").arg(dir.path().join("data")));
        Self::serve(dir, Arc::clone(&self.template))
    }

    fn serve(dir: TempDir, template: Arc<TempDir>) -> Self {
        let address = NodeAddress { host: String::from("127.0.0.1"), port: free_port() };
        let mut server = Self { dir, address, child: None, template };
        server.restart();
        server
    }

    /// Starts it, after `stop`.
    pub(crate) fn restart(&mut self) {
        let log = std::fs::File::create(self.dir.path().join("log")).expect("a log file");
        let mut command = unprivileged(&format!("{BIN}/postgres"));
        command.arg("-D").arg(self.data()).arg("-p").arg(self.address.port.to_string());
        for setting in [
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "fsync=off",
            "max_prepared_transactions=20",
            "shared_buffers=16MB",
        ] {
            command.arg("-c").arg(setting);
        }
        self.child = Some(command.stdout(Stdio::null()).stderr(log).spawn().expect("postgres starts"));
        for _try in 0..300 {
            let mut ready = Command::new(format!("{BIN}/pg_isready"));
            ready.args(["-q", "-h", "127.0.0.1", "-p"]).arg(self.address.port.to_string());
            if ready.status().expect("pg_isready runs").success() {
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        let log = std::fs::read_to_string(self.dir.path().join("log")).unwrap_or_default();
        panic!("postgres did not come up:\n{log}");
    }

    /// Stops it as a crash would.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let pid = Pid::from_raw(i32::try_from(child.id()).expect("a pid"));
            let _gone = kill(pid, Signal::SIGQUIT);
            child.wait().expect("a child can be waited for");
        }
    }

    pub(crate) fn promote(&self) {
        run(unprivileged(&format!("{BIN}/pg_ctl")).args(["promote", "-w", "-D"]).arg(self.data()));
    }

    pub(crate) async fn client(&self, database: &str) -> Client {
        let url = format!("host=127.0.0.1 port={} user=postgres dbname={database}", self.address.port);
        let (client, conn) = tokio_postgres::connect(&url, NoTls).await.expect("a connection");
        tokio::spawn(conn);
        client
    }

    fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
    }
}

/// Shards without replicas, in order.
pub(crate) fn topology(servers: &[&Server]) -> Topology {
    let shard = |(index, server): (usize, &&Server)| Shard {
        name: format!("shard-{}", index + 1),
        primary: server.address.clone(),
        replicas: Vec::new(),
        weight: 1.0,
    };
    let mut topology = Topology::new(servers.iter().enumerate().map(shard).collect());
    let rule = |matches, kind| TableRule { matches, kind };
    let sharded = TableKind::Sharded { key: String::from("auction_id"), key_type: None };
    topology.tables = vec![
        rule(TableMatch::Name(String::from("users")), TableKind::Reference),
        rule(TableMatch::Name(String::from("plain_audit")), TableKind::Unsharded),
        rule(TableMatch::HasColumn(String::from("auction_id")), sharded),
    ];
    topology
}

/// A control side over `topology` on a thread of its own.
pub(crate) struct Running {
    pub(crate) control: Control,
    pub(crate) topology: Arc<ArcSwap<Topology>>,
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) runtime: ControlRuntime,
}

pub(crate) async fn start(topology: Topology) -> Result<Running, ControlError> {
    start_as("postgres", topology).await
}

/// The same with another role for the control connections.
pub(crate) async fn start_as(user: &str, topology: Topology) -> Result<Running, ControlError> {
    let runtime = ControlRuntime::start().expect("a thread");
    let names: Vec<String> = topology.shards.iter().map(|shard| shard.name.clone()).collect();
    let metrics = Metrics::new(&names).expect("distinct names");
    let mut settings = Settings::default();
    user.clone_into(&mut settings.auth.query_user);
    settings.backend.health_interval = Duration::from_millis(100);
    let topology = Arc::new(ArcSwap::from_pointee(topology));
    let links = Links { handle: runtime.handle(), metrics: Arc::clone(&metrics), tls: None };
    let control = Control::start(Arc::new(settings), Arc::clone(&topology), links).await?;
    Ok(Running { control, topology, metrics, runtime })
}

/// Waits until `check` holds.
pub(crate) async fn eventually<F: Future<Output = bool>>(what: &str, check: impl Fn() -> F) {
    for _try in 0..200 {
        if check().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    panic!("not within 10 s: {what}");
}

/// The directory of a server that has not run yet. It goes with the last server that was made of it: what a static keeps is never
/// dropped.
fn template() -> Arc<TempDir> {
    static TEMPLATE: Mutex<Weak<TempDir>> = Mutex::new(Weak::new());
    let mut known = TEMPLATE.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(dir) = known.upgrade() {
        return dir;
    }
    let dir = Arc::new(directory());
    let mut initdb = unprivileged(&format!("{BIN}/initdb"));
    initdb.args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-N", "-D"]);
    run(initdb.arg(dir.path().join("data")));
    *known = Arc::downgrade(&dir);
    dir
}

fn directory() -> TempDir {
    let dir = tempfile::Builder::new().prefix("gavel-control-").tempdir().expect("a temporary directory");
    if let Some(user) = unprivileged_user() {
        std::os::unix::fs::chown(dir.path(), Some(user.uid.as_raw()), Some(user.gid.as_raw()))
            .expect("root may give a directory away");
    }
    dir
}

/// PostgreSQL refuses to run as root.
fn unprivileged_user() -> Option<User> {
    if !nix::unistd::geteuid().is_root() {
        return None;
    }
    Some(
        User::from_name("postgres")
            .expect("users can be read")
            .expect("a user postgres: install postgresql-15"),
    )
}

fn unprivileged(program: &str) -> Command {
    let mut command = Command::new(program);
    if let Some(user) = unprivileged_user() {
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw()).current_dir("/");
    }
    command
}

fn run(command: &mut Command) {
    let output = command.output().expect("the program exists: install postgresql-15");
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
    listener.local_addr().expect("an address").port()
}
