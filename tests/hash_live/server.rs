//! A PostgreSQL of this test's own, in a temporary directory, reachable by a Unix socket alone.

use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use tempfile::TempDir;
use tokio_postgres::{Client, NoTls, SimpleQueryMessage};

/// Only the name of the socket file; nothing listens on TCP.
const PORT: u16 = 5432;

/// A running server; it stops when dropped.
pub(crate) struct Server {
    binaries: PathBuf,
    user: Option<(u32, u32)>,
    directory: TempDir,
    runtime: tokio::runtime::Runtime,
    client: Client,
}

impl Server {
    /// Makes a new cluster and starts it.
    pub(crate) fn start() -> Self {
        let binaries =
            binaries().expect("PostgreSQL's initdb and postgres are needed: apt-get install postgresql");
        let user = unprivileged_user();
        let directory = tempfile::tempdir().expect("a temporary directory can be made");
        if let Some((uid, gid)) = user {
            let owned = std::os::unix::fs::chown(directory.path(), Some(uid), Some(gid));
            owned.expect("root may give a directory away");
        }
        let data = directory.path().join("data");
        let data_arg = data.display().to_string();
        let arguments = ["-D", &data_arg, "-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "-N"];
        run(command(&binaries, "initdb", user, directory.path()).args(arguments));
        let options = format!(
            "-c listen_addresses= -c unix_socket_directories={} -c port={PORT} -c fsync=off",
            directory.path().display()
        );
        let log = directory.path().join("log").display().to_string();
        run(command(&binaries, "pg_ctl", user, directory.path())
            .args(["start", "-w", "-D", &data_arg, "-l", &log, "-o", &options]));
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build();
        let runtime = runtime.expect("a runtime can be built");
        let client = runtime.block_on(connect(directory.path()));
        Self { binaries, user, directory, runtime, client }
    }

    /// Runs SQL and returns the first column of all rows.
    pub(crate) fn query(&self, sql: &str) -> Vec<String> {
        let messages = self.runtime.block_on(self.client.simple_query(sql));
        let messages = messages.unwrap_or_else(|error| panic!("{error:?} in {}", &sql[..sql.len().min(300)]));
        let rows = messages.into_iter().filter_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row.get(0).unwrap_or("NULL").to_owned()),
            _ => None,
        });
        rows.collect()
    }

    /// `SELECT function(text)` for each text, in batches.
    pub(crate) fn map(&self, function: impl Fn(&str) -> String, texts: &[String]) -> Vec<String> {
        let mut answers = Vec::with_capacity(texts.len());
        for batch in texts.chunks(500) {
            let list: Vec<String> = batch.iter().map(|text| quoted(text)).collect();
            let sql = format!(
                "SELECT {} FROM unnest(ARRAY[{}]::text[]) WITH ORDINALITY AS t(x, n) ORDER BY n",
                function("x"),
                list.join(",")
            );
            answers.extend(self.query(&sql));
        }
        assert_eq!(answers.len(), texts.len());
        answers
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let data = self.directory.path().join("data").display().to_string();
        let mut stop = command(&self.binaries, "pg_ctl", self.user, self.directory.path());
        // A server that does not stop is reported by pg_ctl; a panic here would hide the test's own.
        let _ = stop.args(["stop", "-w", "-m", "immediate", "-D", &data]).output();
    }
}

/// The text as an SQL literal.
pub(crate) fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

async fn connect(directory: &Path) -> Client {
    let mut config = tokio_postgres::Config::new();
    config.host_path(directory).port(PORT).user("postgres").dbname("postgres");
    let (client, connection) = config.connect(NoTls).await.expect("the server accepts connections");
    tokio::spawn(connection);
    client
}

fn command(binaries: &Path, program: &str, user: Option<(u32, u32)>, directory: &Path) -> Command {
    let mut command = Command::new(binaries.join(program));
    if let Some((uid, gid)) = user {
        command.uid(uid).gid(gid);
    }
    command.current_dir(directory).env("LC_ALL", "C");
    command
}

fn run(command: &mut Command) {
    // Not `output`: the server that pg_ctl starts keeps its standard output open.
    let status = command.stdout(std::process::Stdio::null()).status();
    assert!(status.is_ok_and(|status| status.success()), "failed: {command:?}");
}

/// The directory of PostgreSQL's server binaries: as pg_config says, on the PATH, or where Debian keeps them (the newest).
fn binaries() -> Option<PathBuf> {
    let by_config = Command::new("pg_config").arg("--bindir").output().ok();
    let by_config = by_config.map(|output| PathBuf::from(String::from_utf8_lossy(&output.stdout).trim()));
    let path = std::env::var_os("PATH").unwrap_or_default();
    let on_path: Vec<PathBuf> = std::env::split_paths(&path).collect();
    let versions = std::fs::read_dir("/usr/lib/postgresql").into_iter().flatten().flatten();
    let mut installed: Vec<PathBuf> = versions.map(|entry| entry.path()).collect();
    installed.sort_by_key(|path| path.file_name().and_then(|name| name.to_str()?.parse::<u32>().ok()));
    let installed = installed.into_iter().rev().map(|path| path.join("bin"));
    let complete = |path: &PathBuf| path.join("initdb").is_file() && path.join("postgres").is_file();
    by_config.into_iter().chain(on_path).chain(installed).find(complete)
}

/// Servers refuse to run as root: user and group of `postgres` (or else `nobody`) then.
fn unprivileged_user() -> Option<(u32, u32)> {
    let output = Command::new("id").arg("-u").output().expect("id is there");
    if output.stdout.trim_ascii() != b"0" {
        return None;
    }
    let passwd = std::fs::read_to_string("/etc/passwd").expect("users are listed");
    let find = |name: &str| {
        let line = passwd.lines().find(|line| line.split(':').next() == Some(name))?;
        let fields: Vec<&str> = line.split(':').collect();
        Some((fields.get(2)?.parse().ok()?, fields.get(3)?.parse().ok()?))
    };
    Some(find("postgres").or_else(|| find("nobody")).expect("there is an unprivileged user"))
}
