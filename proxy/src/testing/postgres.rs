//! For tests: one PostgreSQL server, shared by the tests that run at the same time and stopped by the last.
//!
//! Roles: `postgres` (trust), `md5_user`, `scram_user`, `password_user`, all with the password `secret`.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, User, geteuid};
use router_config::topology::NodeAddress;

use super::certificates::Authority;

const HBA: &str = "local all all trust
host all postgres 127.0.0.1/32 trust
host all md5_user 127.0.0.1/32 md5
host all scram_user 127.0.0.1/32 scram-sha-256
host all password_user 127.0.0.1/32 password
";

const SETUP: &str = "SET password_encryption = 'md5'; CREATE ROLE md5_user LOGIN PASSWORD 'secret';
SET password_encryption = 'scram-sha-256'; CREATE ROLE scram_user LOGIN PASSWORD 'secret';
CREATE ROLE password_user LOGIN PASSWORD 'secret';
";

/// A running server.
pub(crate) struct Server {
    child: Child,
    directory: tempfile::TempDir,
    port: u16,
    pub(crate) authority: Authority,
}

static RUNNING: Mutex<Weak<Server>> = Mutex::new(Weak::new());

/// The server.
pub(crate) fn server() -> Arc<Server> {
    let mut running = RUNNING.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(server) = running.upgrade() {
        return server;
    }
    let server = Arc::new(Server::start());
    *running = Arc::downgrade(&server);
    server
}

impl Server {
    fn start() -> Self {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let path = directory.path();
        let authority = Authority::new(path);
        let pair = authority.issue("127.0.0.1");
        std::fs::set_permissions(&pair.key, std::fs::Permissions::from_mode(0o600)).expect("own file");
        if geteuid().is_root() {
            let user = unprivileged();
            for file in [path, &pair.key, &pair.certificate] {
                std::os::unix::fs::chown(file, Some(user.uid.as_raw()), Some(user.gid.as_raw()))
                    .expect("root may");
            }
        }
        let data = path.join("data");
        let mut initdb = command("initdb");
        initdb
            .args(["-A", "trust", "-U", "postgres", "-E", "UTF8", "--locale=C", "--no-sync", "-D"])
            .arg(&data);
        assert!(initdb.stdout(Stdio::null()).status().expect("initdb runs").success());
        std::fs::write(data.join("pg_hba.conf"), HBA).expect("written");
        let port = free_port();
        let mut conf = std::fs::OpenOptions::new()
            .append(true)
            .open(data.join("postgresql.conf"))
            .expect("made by initdb");
        let (directory_name, key) = (path.display(), pair.key.display());
        write!(
            conf,
            "\nlisten_addresses = '127.0.0.1'\nport = {port}\nunix_socket_directories = '{directory_name}'\n\
             fsync = off\nssl = on\nssl_cert_file = '{}'\nssl_key_file = '{key}'\nlog_min_messages = fatal\n",
            pair.certificate.display()
        )
        .expect("written");
        let mut postgres = command("postgres");
        let child =
            postgres.arg("-D").arg(&data).stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("runs");
        let server = Self { child, directory, port, authority };
        server.set_up();
        server
    }

    fn set_up(&self) {
        for _ in 0..200 {
            let ready = self.psql(&["-c", "SELECT 1"], &[]).status;
            if ready.success() {
                let output = self.psql(&["-v", "ON_ERROR_STOP=1", "-c", SETUP], &[]);
                assert!(output.status.success(), "{output:?}");
                return;
            }
            std::thread::sleep(Duration::from_millis(50));
        }
        panic!("PostgreSQL does not start");
    }

    /// psql as superuser over the Unix socket.
    fn psql(&self, arguments: &[&str], environment: &[(&str, &str)]) -> std::process::Output {
        let mut psql = Command::new(program("psql"));
        psql.args(["-X", "-h"]).arg(self.socket_directory()).args([
            "-p",
            &self.port.to_string(),
            "-U",
            "postgres",
        ]);
        psql.args(arguments).envs(environment.iter().copied()).output().expect("psql runs")
    }

    /// Ends a connection as an operator would.
    pub(crate) fn end_backend(&self, process_id: i32) {
        let sql = format!("SELECT pg_terminate_backend({process_id})");
        let output = self.psql(&["-c", &sql], &[]);
        assert!(output.status.success(), "{output:?}");
    }

    /// Its TCP address.
    pub(crate) fn tcp(&self) -> NodeAddress {
        NodeAddress { host: "127.0.0.1".to_owned(), port: self.port }
    }

    /// Its Unix socket.
    pub(crate) fn unix(&self) -> NodeAddress {
        NodeAddress { host: self.socket_directory().display().to_string(), port: self.port }
    }

    fn socket_directory(&self) -> &Path {
        self.directory.path()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        if let Ok(id) = i32::try_from(self.child.id()) {
            let _ = kill(Pid::from_raw(id), Signal::SIGINT);
        }
        let _ = self.child.wait();
    }
}

/// PostgreSQL refuses to run as root.
fn unprivileged() -> User {
    User::from_name("postgres").expect("readable").expect("a user `postgres` exists (install postgresql-15)")
}

fn command(name: &str) -> Command {
    let mut command = Command::new(program(name));
    if geteuid().is_root() {
        let user = unprivileged();
        command.uid(user.uid.as_raw()).gid(user.gid.as_raw());
    }
    command.current_dir("/");
    command
}

/// A program of PostgreSQL: Debian keeps them by version, others in the path.
pub(crate) fn program(name: &str) -> PathBuf {
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut found: Vec<_> = versions.map(|version| version.path().join("bin").join(name)).collect();
    found.retain(|path| path.exists());
    found.sort();
    found.pop().unwrap_or_else(|| PathBuf::from(name))
}

fn free_port() -> u16 {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("loopback has free ports");
    listener.local_addr().expect("bound").port()
}
