//! `shard-admin demo` as a person runs it: commands against it, its status, and nothing left behind.

use std::io::BufRead;
use std::path::Path;
use std::process::{Command, Output, Stdio};
use std::time::Duration;

use tests::cluster::{eventually, program};

fn demo(arguments: &[&str], temporary: &Path) -> Output {
    Command::new(program("shard-admin"))
        .arg("demo")
        .args(arguments)
        .env("TMPDIR", temporary)
        .stdin(Stdio::null())
        .output()
        .expect("run the demo")
}

/// A directory in which the servers' account may work.
fn open_directory() -> tempfile::TempDir {
    use std::os::unix::fs::PermissionsExt;
    let directory = tempfile::tempdir().expect("temporary directory");
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).expect("chmod");
    directory
}

/// Runs a command in a small demo and returns its standard output.
fn exec(arguments: &[&str], command: &str) -> String {
    let temporary = open_directory();
    let common = ["--shards", "2", "--replicas", "0", "--exec", command];
    let output = demo(&[&common, arguments].concat(), temporary.path());
    let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{command}: {}\n{out}\n{err}", output.status);
    assert_nothing_left(temporary.path());
    out.into_owned()
}

/// Files in the directory, and processes that were started with it on their command line.
fn leftovers(temporary: &Path) -> Vec<String> {
    let name = temporary.to_str().expect("UTF-8");
    let files =
        std::fs::read_dir(temporary).expect("read").flatten().map(|entry| entry.path().display().to_string());
    let processes = std::fs::read_dir("/proc").expect("read /proc").flatten().filter_map(|entry| {
        let line = std::fs::read(entry.path().join("cmdline")).ok()?;
        let line = String::from_utf8_lossy(&line).replace('\0', " ");
        line.contains(name).then_some(line)
    });
    files.chain(processes).collect()
}

fn assert_nothing_left(temporary: &Path) {
    assert_eq!(leftovers(temporary), Vec::<String>::new());
}

#[test]
fn psql_meets_the_auction_house() {
    let script = r#"
        set -e
        psql -XAtc 'SELECT auction_id FROM auctions' | sort -n | uniq | wc -l
        psql -Xc '\d bids'
        echo 'SELECT price FROM auctions WHERE auction_id = 42 \gdesc' | psql -XAt
        psql -Xc '\copy (SELECT name FROM categories ORDER BY category_id LIMIT 1) TO STDOUT'
        psql -XAtc 'SELECT amount FROM bids WHERE auction_id = 42 ORDER BY bid_id' | wc -l"#;
    let out = exec(&[], script);
    let lines: Vec<_> = out.lines().map(str::trim).collect();
    assert_eq!(lines.first(), Some(&"2000"), "{out}");
    assert!(out.contains("bids_pkey"), "{out}");
    assert!(lines.contains(&"price|numeric(12,2)"), "{out}");
    assert!(lines.contains(&"clocks"), "{out}");
    assert_eq!(lines.last(), Some(&"3"), "{out}");
}

#[test]
fn pgbench_runs_in_all_three_protocol_modes() {
    let script = "
        set -e
        pgbench -i -q
        for mode in simple extended prepared; do
            pgbench -n -M $mode -c 4 -t 25
            pgbench -n -M $mode -S -c 4 -t 25
        done";
    let out = exec(&["--no-data"], script);
    assert_eq!(out.matches("number of transactions actually processed: 100/100").count(), 6, "{out}");
    assert_eq!(out.matches("number of failed transactions: 0 (0.000%)").count(), 6, "{out}");
}

#[test]
fn the_command_gets_the_environment_and_its_status_is_ours() {
    let temporary = open_directory();
    let command = r#"echo "$PGHOST $PGUSER $PGDATABASE"; echo "$GAVEL_DEMO_JSON"; exit 7"#;
    let output =
        demo(&["--shards", "1", "--replicas", "1", "--no-data", "--exec", command], temporary.path());
    let out = String::from_utf8_lossy(&output.stdout);
    assert_eq!(output.status.code(), Some(7), "{out}\n{}", String::from_utf8_lossy(&output.stderr));
    let (first, json) = out.split_once('\n').expect("two lines");
    assert_eq!(first, "127.0.0.1 postgres auction");
    let json: serde_json::Value = serde_json::from_str(json).expect("JSON");
    assert_eq!(json["proxy"]["host"], "127.0.0.1");
    assert!(json["shards"][0]["replicas"][0]["port"].is_u64(), "{json}");
    assert_nothing_left(temporary.path());
}

#[test]
fn a_taken_port_is_told_before_anything_starts() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("bind");
    let port = listener.local_addr().expect("address").port().to_string();
    let temporary = open_directory();
    let output = demo(&["--port", &port, "--exec", "true"], temporary.path());
    let err = String::from_utf8_lossy(&output.stderr);
    assert_eq!(output.status.code(), Some(1), "{err}");
    assert!(err.contains(&format!("port {port}")), "{err}");
    assert_nothing_left(temporary.path());
}

#[test]
fn options_that_cannot_work_are_told_before_anything_starts() {
    let temporary = open_directory();
    let told = |arguments: &[&str]| {
        let output = demo(&[arguments, &["--exec", "true"]].concat(), temporary.path());
        assert_eq!(output.status.code(), Some(1), "{output:?}");
        String::from_utf8_lossy(&output.stderr).into_owned()
    };
    let err = told(&["--port", "7433", "--metrics-port", "7433"]);
    assert!(err.contains("--port and --metrics-port are both 7433"), "{err}");
    assert_nothing_left(temporary.path());
    let files = tempfile::tempdir().expect("temporary directory");
    let extra = files.path().join("extra.toml");
    let extra_name = extra.to_str().expect("UTF-8");
    let err = told(&["--config-extra", extra_name]);
    assert!(err.matches("No such file").count() == 1 && err.contains(extra_name), "{err}");
    for (text, expected) in [
        ("[pool]\nszie = 5\n", "line 2, column 1: pool.szie: is not a setting"),
        ("[pool\n", "line 1"),
        ("[listen]\naddress = '127.0.0.1:1'\n", "line 2: listen.address is the demo's own"),
    ] {
        std::fs::write(&extra, text).expect("written");
        let err = told(&["--config-extra", extra_name]);
        assert!(err.contains(expected) && err.contains(extra_name), "{text}: {err}");
        assert_nothing_left(temporary.path());
    }
}

/// Sends a signal by its name.
fn send(signal: &str, process: u32) {
    let status = Command::new("kill").args([&format!("-{signal}"), &process.to_string()]).status();
    assert!(status.expect("kill").success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_demo_killed_while_it_makes_its_servers_leaves_nothing() {
    let temporary = open_directory();
    let mut child = Command::new(program("shard-admin"))
        .args(["demo", "--shards", "2"])
        .env("TMPDIR", temporary.path())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("run the demo");
    eventually(Duration::from_secs(20), "a server is being made", || async {
        leftovers(temporary.path()).iter().any(|line| line.contains("initdb"))
    })
    .await;
    child.kill().expect("killed");
    child.wait().expect("wait");
    eventually(Duration::from_secs(20), "nothing left", || async { leftovers(temporary.path()).is_empty() })
        .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_left_however_the_demo_ends() {
    for (signal, status) in [("INT", Some(0)), ("TERM", Some(0)), ("KILL", None)] {
        let temporary = open_directory();
        let mut child = Command::new(program("shard-admin"))
            .args(["demo", "--json", "--shards", "2"])
            .env("TMPDIR", temporary.path())
            .stdout(Stdio::piped())
            .spawn()
            .expect("run the demo");
        let mut line = String::new();
        let out = child.stdout.take().expect("piped");
        std::io::BufReader::new(out).read_line(&mut line).expect("one line when ready");
        assert!(line.starts_with("{\"proxy\""), "{line}");
        send(signal, child.id());
        assert_eq!(child.wait().expect("wait").code(), status, "{signal}");
        // Nobody waits for the watchdog when we are killed; otherwise all is gone before we are.
        let limit = if status.is_none() { Duration::from_secs(20) } else { Duration::ZERO };
        eventually(limit, "nothing left", || async { leftovers(temporary.path()).is_empty() }).await;
    }
}
