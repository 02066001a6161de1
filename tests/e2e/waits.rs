//! Requests that wait: for a connection, for a primary, in PAUSE, for a server that does not react. Each can be cancelled, and
//! whoever hangs up leaves the queue.

use std::time::Duration;

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use shard_admin::local_cluster::StopMode;
use tests::cluster::{Cluster, eventually, first_column};
use tests::wire::{PATIENCE, Wire};
use tests::{wire_message as message, wire_print};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::cancel::cancels;
use crate::console::metric;
use crate::house::{add_auctions, build, one_of_each};
use crate::life::get;

/// How long the proxy may take to notice what happens to its sessions.
const SOON: Duration = Duration::from_secs(5);

/// The values of one column of a table of the console.
pub(crate) async fn column(console: &Client, table: &str, name: &str) -> Vec<String> {
    let messages = console.simple_query(&format!("SHOW {table}")).await.expect("the console answers");
    let rows = messages.iter().filter_map(|message| match message {
        SimpleQueryMessage::Row(row) => row.get(name).map(str::to_owned),
        _ => None,
    });
    rows.collect()
}

/// Waits until so many sessions are shown as waiting.
pub(crate) async fn until_waiting(console: &Client, count: usize) {
    eventually(SOON, &format!("{count} sessions wait"), async || {
        column(console, "CLIENTS", "state").await.iter().filter(|state| *state == "waiting").count() == count
    })
    .await;
}

fn sqlstates(session: &mut Wire) -> Vec<String> {
    let frames = session.read_until_ready(1).expect("an answer");
    frames.iter().filter_map(wire_print::sqlstate).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_connection_can_cancel_and_leave() {
    let extra = "[listen]\nthreads = 1\n[pool]\nsize = 1\n[routing]\nreads = \"primary\"";
    let cluster = Cluster::builder().config_extra(extra).start().await;
    let mut holder = cluster.connect().await;
    build(&holder).await;
    add_auctions(&holder, 1).await;
    let console = cluster.connect_to("gavel_admin").await;
    let login = cluster.login();
    let mut waiting: Vec<Wire> = (0..4).map(|_| Wire::login(&login).expect("login")).collect();
    let held = holder.transaction().await.expect("begin");
    held.batch_execute("UPDATE auctions SET price = 1 WHERE auction_id = 1").await.expect("update");
    let update = "UPDATE auctions SET title = 'stolen' WHERE auction_id = 1";
    for session in &mut waiting {
        session.send(&message::query(update)).expect("sent");
    }
    until_waiting(&console, 4).await;
    let sum: u32 =
        column(&console, "POOLS", "waiting").await.iter().filter_map(|n| n.parse::<u32>().ok()).sum();
    assert_eq!(sum, 4);
    assert_eq!(metric(&cluster, "gavel_sessions{state=\"waiting\"}").await, 4.0);
    let mut cancelled = waiting.remove(0);
    cancels(&login, &mut cancelled);
    until_waiting(&console, 3).await;
    // One says goodbye, one only closes.
    waiting[0].send(&message::terminate()).expect("sent");
    waiting.truncate(1);
    drop(waiting);
    until_waiting(&console, 0).await;
    assert!(column(&console, "POOLS", "waiting").await.iter().all(|n| n == "0"));
    held.commit().await.expect("commit");
    let title = "SELECT title FROM auctions WHERE auction_id = 1";
    assert_eq!(cancelled.rows(title).expect("the session goes on"), [[Some("lot".to_owned())]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_in_a_pause_can_cancel_and_leave() {
    let cluster = Cluster::builder().start().await;
    let console = cluster.connect_to("gavel_admin").await;
    let login = cluster.login();
    let [mut simple, mut extended, mut leaving, mut ending, mut idle] =
        [(); 5].map(|()| Wire::login(&login).expect("login"));
    console.batch_execute("PAUSE").await.expect("paused");
    let batch = [
        message::parse("", "SELECT 2", &[]),
        message::bind("", "", &[], &[]),
        message::execute("", 0),
        message::sync(),
    ];
    extended.send(&batch.concat()).expect("sent");
    for session in [&mut simple, &mut leaving, &mut ending] {
        session.send(&message::query("SELECT 1")).expect("sent");
    }
    until_waiting(&console, 4).await;
    // A second PAUSE does not wait for those that it holds itself.
    console.batch_execute("PAUSE").await.expect("paused");
    cancels(&login, &mut simple);
    cancels(&login, &mut extended);
    ending.send(&message::terminate()).expect("sent");
    drop((ending, leaving));
    idle.send(&message::terminate()).expect("sent");
    assert!(idle.closed_within(PATIENCE), "an idle session can end");
    eventually(SOON, "those that have gone are not shown", async || {
        column(&console, "CLIENTS", "state").await.len() == 3
    })
    .await;
    simple.send(&message::query("SELECT 3")).expect("sent");
    until_waiting(&console, 1).await;
    console.batch_execute("RESUME").await.expect("resumed");
    assert_eq!(sqlstates(&mut simple), Vec::<String>::new());
    assert_eq!(extended.rows("SELECT 4").expect("it goes on"), [[Some("4".to_owned())]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_primary_can_cancel_and_is_told_after_the_limit() {
    let cluster = Cluster::builder().config_extra("[backend]\nprimary_wait = \"4s\"").start().await;
    cluster.allow_log(" ERROR ");
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let (_, lost) = one_of_each(&cluster).await;
    let console = cluster.connect_to("gavel_admin").await;
    cluster.shard(1).primary.kill().await.expect("killed");
    eventually(SOON, "the proxy knows", async || get(&cluster, "/readyz").await.contains("shard-2")).await;
    let select = format!("SELECT title FROM auctions WHERE auction_id = {lost}");
    let login = cluster.login();
    let [mut session, mut patient] = [(); 2].map(|()| Wire::login(&login).expect("login"));
    session.send(&message::query(&select)).expect("sent");
    until_waiting(&console, 1).await;
    cancels(&login, &mut session);
    let began = std::time::Instant::now();
    patient.send(&message::query(&select)).expect("sent");
    assert_eq!(sqlstates(&mut patient), ["57P03"]);
    assert!(began.elapsed() > Duration::from_secs(3) && began.elapsed() < Duration::from_secs(8));
}

/// Between the end of a server and the health check that notices it no statement fails that had not been sent.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_of_a_primary_is_waited_for() {
    let cluster = Cluster::builder().start().await;
    cluster.allow_log("");
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let (_, id) = one_of_each(&cluster).await;
    let console = cluster.connect_to("gavel_admin").await;
    let login = cluster.login();
    let statements =
        ["UPDATE auctions SET price = 7 WHERE auction_id =", "SELECT title FROM auctions WHERE auction_id ="];
    let mut sessions = statements.map(|_| Wire::login(&login).expect("login"));
    cluster.shard(1).primary.stop(StopMode::Fast).await.expect("stopped");
    for (session, statement) in sessions.iter_mut().zip(statements) {
        session.send(&message::query(&format!("{statement} {id}"))).expect("sent");
    }
    until_waiting(&console, 2).await;
    cluster.shard(1).primary.start().await.expect("started");
    for session in &mut sessions {
        assert_eq!(sqlstates(session), Vec::<String>::new());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_frees_the_application_from_a_server_that_does_not_react() {
    let cluster = Cluster::builder().config_extra("[backend]\ncancel_wait = \"1s\"").start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let (id, _) = one_of_each(&cluster).await;
    let login = cluster.login();
    let mut session = Wire::login(&login).expect("login");
    let sql = format!("SELECT pg_sleep(60) FROM auctions WHERE auction_id = {id}");
    session.send(&message::query(&sql)).expect("sent");
    let running =
        "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep(60)%' AND state = 'active'";
    eventually(SOON, "it runs", async || !cluster.on_each_primary(running).await.concat().is_empty()).await;
    let pid = cluster.on_each_primary(running).await.concat()[0].parse().expect("a process id");
    kill(Pid::from_raw(pid), Signal::SIGSTOP).expect("frozen");
    let (process, secret) = session.key().expect("a key");
    Wire::connect(login.address).expect("connects").send(&message::cancel(process, &secret)).expect("sent");
    let states = sqlstates(&mut session);
    kill(Pid::from_raw(pid), Signal::SIGCONT).expect("thawed");
    assert_eq!(states, ["08006"]);
    assert_eq!(session.rows("SELECT 1").expect("the session goes on"), [[Some("1".to_owned())]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_ends_those_that_wait() {
    let extra =
        "[listen]\nthreads = 1\n[pool]\nsize = 1\n[limits]\ndrain = \"1s\"\n[routing]\nreads = \"primary\"";
    let cluster = Cluster::builder().config_extra(extra).start().await;
    let mut holder = cluster.connect().await;
    build(&holder).await;
    add_auctions(&holder, 1).await;
    let console = cluster.connect_to("gavel_admin").await;
    let mut session = Wire::login(&cluster.login()).expect("login");
    let held = holder.transaction().await.expect("begin");
    held.batch_execute("UPDATE auctions SET price = 1 WHERE auction_id = 1").await.expect("update");
    session.send(&message::query("UPDATE auctions SET price = 2 WHERE auction_id = 1")).expect("sent");
    until_waiting(&console, 1).await;
    assert!(cluster.proxy.stop().await, "it ends in time");
    let frames = session.read_until_ready(2).expect("an answer");
    let states: Vec<_> = frames.iter().filter_map(wire_print::sqlstate).collect();
    assert_eq!(states, ["57014", "57P01"], "{frames:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logins_go_on_while_the_home_shard_has_no_primary() {
    for replicas in [0, 1] {
        let extra = "[auth]\ncache = \"0s\"\n[backend]\nprimary_wait = \"1s\"";
        let cluster = Cluster::builder().replicas(replicas).config_extra(extra).start().await;
        cluster.allow_log(" ERROR ");
        let client = cluster.connect().await;
        build(&client).await;
        add_auctions(&client, 20).await;
        client.batch_execute("CREATE ROLE late LOGIN PASSWORD 'pw'").await.expect("created");
        client.batch_execute("GRANT SELECT ON auctions TO late").await.expect("granted");
        let (_, id) = one_of_each(&cluster).await;
        cluster.shard(0).primary.kill().await.expect("killed");
        eventually(SOON, "the proxy knows", async || get(&cluster, "/readyz").await.contains("shard-1"))
            .await;
        // Nobody has logged in as this role before.
        let mut config = cluster.proxy.config("auction");
        config.user("late").password("pw");
        let (late, connection) = config.connect(tokio_postgres::NoTls).await.expect("logs in");
        tokio::spawn(connection);
        let select = format!("SELECT title FROM auctions WHERE auction_id = {id}");
        assert_eq!(first_column(&late, &select).await, ["lot"]);
        config.password("wrong");
        let wrong = config.connect(tokio_postgres::NoTls).await.err().expect("refused");
        assert_eq!(wrong.code().map(|code| code.code()), Some("28P01"));
        assert!(cluster.proxy.log().contains("auth.query"), "the log says where secrets come from");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_on_its_way_when_a_drain_begins_is_served() {
    let cluster = Cluster::builder().start().await;
    let login = cluster.login();
    let mut greeted = Wire::login(&login).expect("login");
    let pid = Pid::from_raw(i32::try_from(cluster.proxy.pid().expect("it runs")).expect("small"));
    // The kernel accepts connections for a process that does not look.
    kill(pid, Signal::SIGSTOP).expect("frozen");
    let mut queued: Vec<Wire> = (0..5).map(|_| Wire::connect(login.address).expect("connects")).collect();
    kill(pid, Signal::SIGTERM).expect("told");
    kill(pid, Signal::SIGCONT).expect("thawed");
    for session in &mut queued {
        session.greet(&login).expect("logs in");
        assert_eq!(session.rows("SELECT 1").expect("its first request"), [[Some("1".to_owned())]]);
        assert!(session.closed_within(PATIENCE), "then it is sent away");
    }
    assert_eq!(greeted.rows("SELECT 1").expect("its first request"), [[Some("1".to_owned())]]);
    assert!(cluster.proxy.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn idle_connections_do_not_hold_up_a_drop_of_their_database() {
    let cluster = Cluster::builder().start().await;
    let admin = cluster.connect_to("postgres").await;
    admin.batch_execute("CREATE DATABASE young").await.expect("created");
    {
        let user = cluster.connect_to("young").await;
        user.batch_execute("CREATE TABLE t (a int)").await.expect("used");
    }
    admin.batch_execute("ALTER DATABASE young RENAME TO old").await.expect("renamed");
    let user = cluster.connect_to("old").await;
    user.batch_execute("INSERT INTO t VALUES (1)").await.expect("used");
    // The session stays, its connection is idle.
    admin.execute("CREATE DATABASE copy TEMPLATE old", &[]).await.expect("copied");
    admin.execute("DROP DATABASE old", &[]).await.expect("dropped");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn why_a_server_ended_a_connection_is_passed_on() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    client.batch_execute("SET idle_in_transaction_session_timeout = '50ms'").await.expect("set");
    client.batch_execute("BEGIN; INSERT INTO notes VALUES (1, 'x')").await.expect("begun");
    eventually(SOON, "the server has ended it", async || {
        let open = "SELECT 1 FROM pg_stat_activity WHERE state = 'idle in transaction'";
        cluster.on_each_primary(open).await.concat().is_empty()
    })
    .await;
    let error = client.batch_execute("SELECT 1").await.expect_err("it is lost");
    let error = error.as_db_error().expect("an error of the proxy's");
    assert_eq!(error.code().code(), "08006");
    assert!(error.detail().is_some_and(|detail| detail.contains("25P03")), "{error:?}");
    assert!(cluster.proxy.log().contains("25P03"), "it is logged");
}
