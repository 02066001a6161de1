//! Pools: what a name that is only tried leaves behind, reloads while requests wait, nodes without room, what one session's limits
//! may not do to the next.

use tests::cluster::{Cluster, first_column};
use tests::wire::Wire;
use tests::{wire_message as message, wire_print};
use tokio_postgres::NoTls;
use tokio_postgres::error::SqlState;

use crate::console::metric;
use crate::house::{add_auctions, build, one_of_each};
use crate::waits::{column, until_waiting};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_that_are_tried_leave_nothing() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    let other = cluster.connect_to("postgres").await;
    assert_eq!(first_column(&other, "SELECT 1").await, ["1"]);
    let console = cluster.connect_to("gavel_admin").await;
    let mut before = column(&console, "POOLS", "database").await;
    before.sort();
    let rejected = metric(&cluster, "gavel_sessions_rejected_total").await;
    let unknown = "gavel_errors_total{sqlstate=\"3Dxxx\"}";
    let counted = metric(&cluster, unknown).await;
    for n in 0..20 {
        let error = cluster
            .proxy
            .config(&format!("nowhere_{n}"))
            .connect(NoTls)
            .await
            .err()
            .expect("no such database");
        let error = error.as_db_error().expect("an answer");
        assert_eq!(error.code(), &SqlState::UNDEFINED_DATABASE);
        assert_eq!(error.message(), format!("database \"nowhere_{n}\" does not exist"));
        let detail = error.detail().expect("which node it was");
        assert!(detail.contains("shard \"shard-1\""), "{detail}");
    }
    let mut after = column(&console, "POOLS", "database").await;
    after.sort();
    assert_eq!(after, before);
    assert_eq!(metric(&cluster, "gavel_sessions_rejected_total").await, rejected + 20.0);
    assert_eq!(metric(&cluster, unknown).await, counted + 20.0);

    let long = format!("{}é", "x".repeat(62));
    let error =
        cluster.proxy.config(&format!("{long}yz")).connect(NoTls).await.err().expect("no such database");
    let message = error.as_db_error().expect("an answer").message().to_owned();
    assert_eq!(message, format!("database \"{}\" does not exist", "x".repeat(62)), "cut within 63 bytes");
    let known = "k".repeat(63);
    client.batch_execute(&format!("/* as it is */ CREATE DATABASE {known}")).await.expect("create");
    let there = cluster.connect_to(&format!("{known}kkk")).await;
    assert_eq!(first_column(&there, "SELECT current_database()").await, [known]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_during_a_reload_waits_in_the_new_pool() {
    let extra = "[listen]\nthreads = 1\n[pool]\nsize = 1\n[routing]\nreads = \"primary\"";
    let cluster = Cluster::builder().config_extra(extra).start().await;
    let mut holder = cluster.connect().await;
    build(&holder).await;
    add_auctions(&holder, 1).await;
    let console = cluster.connect_to("gavel_admin").await;
    let mut waiting: Vec<Wire> = (0..4).map(|_| Wire::login(&cluster.login()).expect("login")).collect();
    let held = holder.transaction().await.expect("begin");
    held.batch_execute("UPDATE auctions SET price = 1 WHERE auction_id = 1").await.expect("update");
    for session in &mut waiting {
        session.send(&message::query("SELECT price FROM auctions WHERE auction_id = 1")).expect("sent");
    }
    until_waiting(&console, 4).await;
    let config = std::fs::read_to_string(&cluster.proxy.config_path).expect("read");
    assert!(config.contains("size = 1"), "{config}");
    std::fs::write(&cluster.proxy.config_path, config.replace("size = 1", "size = 2")).expect("write");
    console.simple_query("RELOAD").await.expect("reload");
    for session in &mut waiting {
        let frames = session.read_until_ready(1).expect("an answer");
        assert!(frames.iter().all(|frame| wire_print::sqlstate(frame).is_none()), "{frames:?}");
    }
    held.commit().await.expect("the transaction goes on where it is");
    assert_eq!(first_column(&holder, "SELECT price FROM auctions WHERE auction_id = 1").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_limit_of_statements_ends_with_its_session() {
    let extra = "[listen]\nthreads = 1\n[pool]\nsize = 1\n[routing]\nreads = \"primary\"";
    let cluster = Cluster::builder().config_extra(extra).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 8).await;
    let (here, there) = one_of_each(&cluster).await;
    // Enough that their reset takes longer than the limit.
    let settings: String = (0..2000).map(|n| format!("SET many.s{n} TO 'x';")).collect();
    for _ in 0..3 {
        let limited = cluster.connect().await;
        limited.batch_execute(&settings).await.expect("settings");
        limited
            .batch_execute(&format!("SELECT 1 FROM auctions WHERE auction_id = {here}"))
            .await
            .expect("brought");
        limited
            .batch_execute(&format!("SELECT 1 FROM auctions WHERE auction_id = {there}"))
            .await
            .expect("brought");
        limited.batch_execute("SET statement_timeout TO 1").await.expect("limit");
        drop(limited);
        for key in [here, there] {
            let update = format!("UPDATE auctions SET price = price + 1 WHERE auction_id = {key}");
            client.batch_execute(&update).await.expect("the next client has no limit");
        }
    }
    // What DDL is judged by is asked without the limit.
    client.batch_execute("SET statement_timeout TO '60ms'").await.expect("limit");
    let mut made = 0;
    for n in 0..10 {
        made += usize::from(
            client.batch_execute(&format!("CREATE TABLE t{n} (auction_id bigint)")).await.is_ok(),
        );
    }
    assert!(made > 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_without_room_is_named_and_waited_for() {
    let extra = "[listen]\nthreads = 1\n[pool]\nwait = \"20s\"\n[routing]\nreads = \"primary\"";
    let builder = Cluster::builder().config_extra(extra).node_setting("max_connections", "20");
    let cluster = builder.start().await;
    cluster.allow_log("node is not used");
    cluster.allow_log("too many clients");
    let mut holder = cluster.connect().await;
    build(&holder).await;
    add_auctions(&holder, 8).await;
    let (here, _) = one_of_each(&cluster).await;
    let stranger = cluster.connect_to("postgres").await;
    let mut patient = Wire::login(&cluster.login()).expect("login");
    let console = cluster.connect_to("gavel_admin").await;
    let held = holder.transaction().await.expect("begin");
    let update = format!("UPDATE auctions SET price = 1 WHERE auction_id = {here}");
    held.batch_execute(&update).await.expect("update");
    stranger.batch_execute("BEGIN; SELECT 1").await.expect("the pool of another database");
    let mut crowd = Vec::new();
    while let Ok(client) = cluster.shard(0).primary.connect("template1").await {
        crowd.push(client);
    }
    patient.send(&message::query(&update)).expect("sent");
    until_waiting(&console, 1).await;
    // Of a pool without connections nothing can come back.
    let second = cluster.proxy.config("template1").connect(NoTls).await.err().expect("no room");
    let error = second.as_db_error().expect("an answer");
    assert_eq!(error.code(), &SqlState::TOO_MANY_CONNECTIONS);
    assert!(error.detail().is_some_and(|detail| detail.contains("shard \"shard-1\"")), "{error:?}");
    assert!(error.hint().is_some_and(|hint| hint.contains("max_connections")), "{error:?}");
    let failures = column(&console, "SERVERS", "failure").await;
    assert!(failures.iter().any(|failure| failure.contains("refused a connection")), "{failures:?}");
    assert!(cluster.proxy.log().contains("no connection to a node"));
    held.commit().await.expect("commit");
    let frames = patient.read_until_ready(1).expect("an answer");
    assert!(frames.iter().all(|frame| wire_print::sqlstate(frame).is_none()), "{frames:?}");
    drop(crowd);
}
