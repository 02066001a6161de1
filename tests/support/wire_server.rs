//! A plain PostgreSQL server in a temporary directory, and a proxy in front of such servers: the two sides of the
//! comparisons at the level of bytes. Both end when they are dropped.

use std::fs;
use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use tempfile::TempDir;

use crate::wire::{Login, Wire};

const START: Duration = Duration::from_secs(60);

const SERVER_SETTINGS: &str = "
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
fsync = off
autovacuum = off
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
max_connections = 300
max_prepared_transactions = 50
wal_level = logical
";

/// A server of its own, user `postgres`, authentication trust.
#[derive(Debug)]
pub struct Server {
    process: Child,
    home: TempDir,
    port: u16,
}

impl Server {
    /// Initialises a directory and starts a server on it.
    ///
    /// # Errors
    /// When PostgreSQL is not installed or does not start.
    pub fn start() -> io::Result<Self> {
        let home = tempfile::Builder::new().prefix("gavel-wire-").tempdir()?;
        let user = unprivileged()?;
        if let Some((uid, gid)) = user {
            std::os::unix::fs::chown(home.path(), Some(uid), Some(gid))?;
        }
        let data = home.path().join("data");
        let mut initdb = as_user(&binary("initdb")?, user);
        initdb.args(["-N", "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C.UTF-8", "-D"]);
        let made = initdb.arg(&data).stdout(Stdio::null()).status()?;
        if !made.success() {
            return Err(io::Error::other("initdb failed"));
        }
        let port = free_port()?;
        let mut settings = fs::read_to_string(data.join("postgresql.conf"))?;
        settings.push_str(SERVER_SETTINGS);
        settings.push_str(&format!("port = {port}\n"));
        fs::write(data.join("postgresql.conf"), settings)?;
        let log = fs::File::create(home.path().join("log"))?;
        let mut postgres = as_user(&binary("postgres")?, user);
        let process = postgres.arg("-D").arg(&data).stdout(log.try_clone()?).stderr(log).spawn()?;
        let server = Self { process, home, port };
        await_login(&server.login("postgres")?)?;
        Ok(server)
    }

    /// Where it listens.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        (Ipv4Addr::LOCALHOST, self.port).into()
    }

    /// A login to one of its databases.
    ///
    /// # Errors
    /// Never for a loopback address.
    pub fn login(&self, database: &str) -> io::Result<Login> {
        Login::new(self.address(), database)
    }

    /// The server's log.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // An immediate shutdown: nothing in there is worth a checkpoint.
        signal("QUIT", self.process.id());
        _ = self.process.wait();
    }
}

/// A running proxy.
#[derive(Debug)]
pub struct Proxy {
    process: Child,
    home: TempDir,
    port: u16,
}

impl Proxy {
    /// Starts the proxy before `shards`, the first being the home shard; `configuration` is added to its file.
    ///
    /// # Errors
    /// When the binary is missing or does not come up.
    pub fn start(shards: &[&Server], pool_mode: &str, configuration: &str) -> io::Result<Self> {
        let home = tempfile::Builder::new().prefix("gavel-wire-proxy-").tempdir()?;
        let port = free_port()?;
        let mut text = format!(
            "[listen]\naddress = \"127.0.0.1:{port}\"\n[auth]\nmethod = \"trust\"\n[pool]\nmode = \"{pool_mode}\"\n\
             [[databases]]\nname = \"auction\"\n[[databases]]\nname = \"*\"\nkind = \"first_shard\"\n"
        );
        for (number, shard) in shards.iter().enumerate() {
            let address = shard.address();
            text.push_str(&format!("[[shards]]\nname = \"shard-{}\"\nprimary = \"{address}\"\n", number + 1));
        }
        text.push_str("[[tables]]\ncolumn = \"auction_id\"\nkind = \"sharded\"\n");
        text.push_str(configuration);
        let file = home.path().join("gavel.toml");
        fs::write(&file, text)?;
        let log = fs::File::create(home.path().join("log"))?;
        let mut command = Command::new(proxy_binary()?);
        command.arg("--config").arg(&file).stdin(Stdio::null());
        let process = command.stdout(log.try_clone()?).stderr(log).spawn()?;
        let proxy = Self { process, home, port };
        await_login(&proxy.login("auction")?).map_err(|error| io::Error::other(format!("{error}\n{}", proxy.log())))?;
        Ok(proxy)
    }

    /// A login to one of its databases.
    ///
    /// # Errors
    /// Never for a loopback address.
    pub fn login(&self, database: &str) -> io::Result<Login> {
        Login::new((Ipv4Addr::LOCALHOST, self.port), database)
    }

    /// Its process id.
    #[must_use]
    pub fn process_id(&self) -> u32 {
        self.process.id()
    }

    /// True while the process runs.
    ///
    /// # Errors
    /// When the process cannot be asked.
    pub fn is_running(&mut self) -> io::Result<bool> {
        Ok(self.process.try_wait()?.is_none())
    }

    /// What it logged.
    #[must_use]
    pub fn log(&self) -> String {
        fs::read_to_string(self.home.path().join("log")).unwrap_or_default()
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        _ = self.process.kill();
        _ = self.process.wait();
    }
}

/// Resident memory of a process in KiB, from the kernel.
///
/// # Errors
/// When there is no such process.
pub fn resident_kib(process: u32) -> io::Result<u64> {
    let status = fs::read_to_string(format!("/proc/{process}/status"))?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().split(' ').next()).and_then(|number| number.parse().ok());
    number.ok_or_else(|| io::Error::other("no VmRSS"))
}

fn await_login(login: &Login) -> io::Result<()> {
    let deadline = Instant::now() + START;
    loop {
        match Wire::login(login) {
            Ok(_) => return Ok(()),
            Err(error) if Instant::now() > deadline => return Err(error),
            Err(_) => std::thread::yield_now(),
        }
        std::thread::park_timeout(Duration::from_millis(50));
    }
}

fn binary(name: &str) -> io::Result<PathBuf> {
    let mut places: Vec<PathBuf> = fs::read_dir("/usr/lib/postgresql")?
        .filter_map(|entry| Some(entry.ok()?.path().join("bin").join(name)))
        .filter(|path| path.exists())
        .collect();
    places.sort();
    places.pop().ok_or_else(|| io::Error::other(format!("{name} not found: apt-get install postgresql")))
}

/// The proxy's binary, beside the test's own in the target directory.
fn proxy_binary() -> io::Result<PathBuf> {
    let own = std::env::current_exe()?;
    let place = own.ancestors().nth(2).unwrap_or(Path::new(".")).join("gavel");
    if place.exists() { Ok(place) } else { Err(io::Error::other("no gavel binary: cargo build -p proxy")) }
}

/// PostgreSQL refuses to run as root: then the user `postgres`.
fn unprivileged() -> io::Result<Option<(u32, u32)>> {
    if number("id", &["-u"])? != 0 {
        return Ok(None);
    }
    Ok(Some((number("id", &["-u", "postgres"])?, number("id", &["-g", "postgres"])?)))
}

fn number(command: &str, arguments: &[&str]) -> io::Result<u32> {
    let output = Command::new(command).args(arguments).output()?;
    String::from_utf8_lossy(&output.stdout).trim().parse().map_err(io::Error::other)
}

fn as_user(program: &Path, user: Option<(u32, u32)>) -> Command {
    let mut command = Command::new(program);
    command.stdin(Stdio::null()).current_dir("/");
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command
}

fn signal(name: &str, process: u32) {
    _ = Command::new("kill").arg(format!("-{name}")).arg(process.to_string()).status();
}

fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?.port())
}
