//! Abuse at the raw socket: whatever bytes arrive, the process stays up, its memory stays bounded, and the other
//! sessions get right answers all the time.
//!
//! Each abuse is a function that gets a login and panics when the reply to it is not one that a server may give.
//! The list runs against PostgreSQL too: what PostgreSQL itself does not survive proves nothing.

mod before_login;
mod flood;
mod frames;
mod statements;
mod witness;

use std::fs;

use nix::sys::resource::{Resource, getrlimit, setrlimit};
use tests::cluster::Cluster;
use tests::wire::{Login, Wire};

use witness::Witness;

/// One way to misbehave.
pub(crate) type Abuse = (&'static str, fn(&Login));

/// How much the proxy's memory may grow over all of the abuse, KiB.
const GROWTH_KIB: u64 = 256 * 1024;
/// Connections that never log in.
const HALF_OPEN: usize = 5_000;

fn all() -> Vec<Abuse> {
    let lists = [before_login::LIST, frames::LIST, statements::LIST, flood::LIST];
    let all = lists.concat();
    let wanted = std::env::var("ABUSE").unwrap_or_default();
    all.into_iter().filter(|(name, _)| name.contains(&wanted)).collect()
}

/// Resident memory of a process, KiB, as the kernel says.
fn resident_kib(process: u32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{process}/status")).expect("the process is there");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).expect("the kernel says it");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

/// Runs every abuse, and after each one a login and a query; returns what went wrong.
fn abuse(login: &Login) -> Vec<String> {
    let mut complaints = Vec::new();
    for (name, abuse) in all() {
        let witness = Witness::start(login);
        if std::panic::catch_unwind(|| abuse(login)).is_err() {
            complaints.push(format!("the reply to {name:?} was wrong, see above"));
        }
        if let Err(error) = witness.stop() {
            complaints.push(format!("{name:?} disturbed another session: {error}"));
        }
        let answer = Wire::login(login).and_then(|mut wire| wire.rows("select 'alive'"));
        if answer.as_ref().is_ok_and(|rows| *rows == [[Some("alive".to_owned())]]) {
            continue;
        }
        complaints.push(format!("after {name:?}: {answer:?}"));
        if answer.is_err() {
            break;
        }
    }
    complaints
}

fn proxy_login(cluster: &Cluster) -> Login {
    let login = Login::new((cluster.proxy.host.as_str(), cluster.proxy.port), "auction").expect("loopback");
    Login { password: cluster.proxy.password.clone(), ..login }
}

#[tokio::test(flavor = "multi_thread")]
async fn postgresql_survives_it() {
    let node = Cluster::oracle().await;
    let login = Login::new(node.address(), "auction").expect("loopback");
    let login = Login { password: node.password.clone(), ..login };
    let complaints = tokio::task::block_in_place(|| abuse(&login));
    assert!(complaints.is_empty(), "{complaints:#?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn the_proxy_survives_it() {
    let cluster = Cluster::builder().shards(2).start().await;
    let login = proxy_login(&cluster);
    let process = cluster.proxy.pid().expect("it runs");
    let before = resident_kib(process);
    let complaints = tokio::task::block_in_place(|| abuse(&login));
    assert!(complaints.is_empty(), "{complaints:#?}");
    assert_eq!(cluster.proxy.pid(), Some(process), "still the same process");
    let after = resident_kib(process);
    assert!(after < before + GROWTH_KIB, "memory grew from {before} to {after} KiB");
    let panics = cluster.proxy.log().lines().filter(|line| line.contains("panicked at")).count();
    assert_eq!(panics, 0, "the proxy panicked:\n{}", cluster.proxy.log());
}

#[tokio::test(flavor = "multi_thread")]
async fn thousands_of_half_open_connections_disturb_nobody() {
    let (_, hard) = getrlimit(Resource::RLIMIT_NOFILE).expect("the kernel knows");
    assert!(hard > 3 * HALF_OPEN as u64, "the limit of open files is {hard}: raise it with `ulimit -Hn`");
    setrlimit(Resource::RLIMIT_NOFILE, hard, hard).expect("up to the hard limit");
    let cluster = Cluster::builder().shards(1).start().await;
    let login = proxy_login(&cluster);
    let process = cluster.proxy.pid().expect("it runs");
    let before = resident_kib(process);
    tokio::task::block_in_place(|| {
        let witness = Witness::start(&login);
        let open = flood::half_open(&login, HALF_OPEN);
        let with_them = resident_kib(process);
        assert!(with_them < before + GROWTH_KIB, "{HALF_OPEN} of them: from {before} to {with_them} KiB");
        let mut wire = Wire::login(&login).expect("a login beside them");
        wire.rows("select 1").expect("an answer beside them");
        drop(open);
        let seen = witness.stop().expect("right answers beside them");
        assert!(seen > 10, "{seen} answers in all that time");
    });
    assert_eq!(cluster.proxy.pid(), Some(process), "still the same process");
}
