//! The oracle at the level of bytes: every transcript of `corpus/` is played against PostgreSQL and against the
//! proxy, and the replies must be the same, message by message, but for what `differences.txt` lists.

mod differences;
mod play;

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};

use shard_admin::local_cluster::{ClusterBuilder, LocalCluster, ReservedPort};
use shard_admin::local_proxy::{DATABASE, LocalProxy, ProxyOptions};
use tests::wire::Login;

use differences::{Differences, Line};
use tests::script::{self, Transcript};

/// How many transcripts there are at least.
const TRANSCRIPTS: usize = 400;

fn folder() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("replay")
}

fn corpus() -> Vec<Transcript> {
    let mut files: Vec<_> = fs::read_dir(folder().join("corpus"))
        .expect("the corpus is part of the repository")
        .map(|entry| entry.expect("readable").path())
        .filter(|path| path.extension().is_some_and(|extension| extension == "txt"))
        .collect();
    files.sort();
    let mut transcripts = Vec::new();
    for file in files {
        let topic = file.file_stem().expect("a file has a name").to_string_lossy().into_owned();
        let text = fs::read_to_string(&file).expect("readable");
        transcripts.extend(script::read(&topic, &text).unwrap_or_else(|error| panic!("{error}")));
    }
    if let Ok(wanted) = std::env::var("TRANSCRIPT") {
        transcripts.retain(|transcript| transcript.name.contains(&wanted));
    }
    transcripts
}

fn nodes(shards: usize) -> ClusterBuilder {
    let cache = std::env::current_exe().expect("a test is a program");
    let cache = cache.ancestors().nth(2).expect("in a target directory").join("postgres-templates");
    ClusterBuilder::new().shards(shards).fsync(false).setting("autovacuum", "off").template_cache(cache)
}

/// Shards with the database and the tables of `setup.sql` on each of them.
async fn prepared(shards: usize) -> LocalCluster {
    let cluster = nodes(shards).start().await.unwrap_or_else(|error| panic!("{error}"));
    let setup = fs::read_to_string(folder().join("setup.sql")).expect("readable");
    let create = format!("CREATE DATABASE {DATABASE}");
    cluster.execute_everywhere("postgres", &create).await.unwrap_or_else(|error| panic!("{error}"));
    cluster.execute_everywhere(DATABASE, &setup).await.unwrap_or_else(|error| panic!("{error}"));
    cluster
}

fn login(address: &str, password: &str) -> Login {
    let login = Login::new(address, DATABASE).expect("loopback");
    Login { password: password.into(), ..login }
}

/// A login to the first node itself.
fn direct(cluster: &LocalCluster) -> Login {
    login(&cluster.shards[0].primary.address(), cluster.password())
}

/// Plays everything on both, at the same time, and returns what differs, as text.
fn compare(left: &Login, right: &Login, mode: &str) -> Vec<String> {
    let list = fs::read_to_string(folder().join("differences.txt")).expect("readable");
    let list = Differences::read(&list, mode).unwrap_or_else(|error| panic!("{error}"));
    let transcripts = corpus();
    let names: Vec<_> = transcripts.iter().map(|transcript| transcript.name.clone()).collect();
    let mut failures = Vec::new();
    if std::env::var("TRANSCRIPT").is_err() {
        failures
            .extend(list.unknown(&names).iter().map(|name| format!("differences.txt: no transcript {name}")));
        assert!(names.len() >= TRANSCRIPTS, "{} transcripts, {TRANSCRIPTS} are promised", names.len());
    }
    for transcript in transcripts.iter().filter(|transcript| !list.skips(&transcript.name)) {
        let name = &transcript.name;
        let (expected, actual) = std::thread::scope(|scope| {
            let actual = scope.spawn(|| play::play(transcript, right));
            (play::play(transcript, left), actual.join().expect("the player does not panic"))
        });
        let (expected, actual) = (list.normalise(name, &expected), list.normalise(name, &actual));
        if let Some(timeout) = expected.iter().find(|line| line.text.contains("timed out")) {
            failures.push(format!("{name}: PostgreSQL did not answer: {}", timeout.text));
        }
        log(name, &expected);
        match (first_difference(&list, &expected, &actual), list.must_differ(name)) {
            (Some(text), false) if !list.is_fault(name) => failures.push(format!("{name}\n{text}")),
            (None, true) => failures.push(format!("{name}: no longer differs, take it off differences.txt")),
            (Some(_), true | false) | (None, false) => {}
        }
    }
    failures
}

/// With `REPLAY_LOG=FILE`, what PostgreSQL said goes there: for whoever writes transcripts.
fn log(name: &str, lines: &[Line]) {
    let Ok(path) = std::env::var("REPLAY_LOG") else { return };
    let mut file =
        fs::File::options().append(true).create(true).open(path).expect("REPLAY_LOG can be written");
    let text: String = lines.iter().map(|line| format!("{} {}\n", line.session, line.text)).collect();
    file.write_all(format!("== {name}\n{text}\n").as_bytes()).expect("REPLAY_LOG can be written");
}

fn first_difference(list: &Differences, expected: &[Line], actual: &[Line]) -> Option<String> {
    const BEFORE: usize = 3;
    let same = |at: usize| match (expected.get(at), actual.get(at)) {
        (Some(left), Some(right)) => left.session == right.session && list.same(&left.frame, &right.frame),
        (None, None) => true,
        _ => false,
    };
    let at = (0..expected.len().max(actual.len())).find(|at| !same(*at))?;
    let text = |lines: &[Line]| {
        lines.get(at).map_or("(nothing)".into(), |line| format!("{} {}", line.session, line.text))
    };
    let before = expected[at.saturating_sub(BEFORE).min(expected.len())..at.min(expected.len())].iter();
    let before: String = before.map(|line| format!("         {} {}\n", line.session, line.text)).collect();
    Some(format!("{before}    want {}\n    have {}", text(expected), text(actual)))
}

fn report(mode: &str, failures: &[String]) {
    let text = failures.join("\n");
    assert!(failures.is_empty(), "{} of the transcripts differ ({mode}):\n{text}", failures.len());
}

/// The oracle must agree with itself, or a difference means nothing.
#[tokio::test(flavor = "multi_thread")]
async fn postgresql_answers_like_postgresql() {
    let (left, right) = (prepared(1).await, prepared(1).await);
    tokio::task::block_in_place(|| report("self", &compare(&direct(&left), &direct(&right), "self")));
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shard_with_session_pooling_answers_like_postgresql() {
    proxied("session", "session", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn one_shard_with_transaction_pooling_answers_like_postgresql() {
    proxied("transaction", "transaction", 1).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn four_shards_answer_for_unsharded_tables_like_postgresql() {
    proxied("shards", "transaction", 4).await;
}

async fn proxied(mode: &str, pool_mode: &str, shards: usize) {
    let (plain, shards) = (prepared(1).await, prepared(shards).await);
    let ports = [ReservedPort::any().expect("a port"), ReservedPort::any().expect("a port")];
    let options = ProxyOptions {
        port: ports[0].number(),
        metrics_port: ports[1].number(),
        pool_mode: pool_mode.into(),
        extra: std::env::var("REPLAY_CONFIG").ok(),
    };
    let proxy =
        LocalProxy::start_for(&shards, "gavel", &options).await.unwrap_or_else(|error| panic!("{error}"));
    let through = login(&format!("{}:{}", proxy.host, proxy.port), &proxy.password);
    let failures = tokio::task::block_in_place(|| compare(&direct(&plain), &through, mode));
    assert!(proxy.pid().is_some(), "the proxy ended:\n{}", proxy.log());
    report(mode, &failures);
}
