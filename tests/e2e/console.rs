//! The admin console as psql and drivers see it, and what the proxy counts.

use std::process::Stdio;
use std::time::Duration;

use tests::cluster::{Cluster, eventually, first_column};
use tests::wire::{Login, Wire};
use tests::{wire_message as message, wire_print};
use tokio::io::AsyncWriteExt;
use tokio::process::Command;
use tokio_postgres::error::SqlState;

use crate::house::{add_auctions, build, one_of_each};
use crate::life::get;

const DATABASE: &str = "gavel_admin";
const TOPICS: [&str; 12] = [
    "HELP",
    "CLIENTS",
    "SERVERS",
    "POOLS",
    "STATS",
    "SHARDS",
    "SLOTS",
    "TABLES",
    "STATEMENTS",
    "CONFIG",
    "VERSION",
    "EPOCH",
];

/// Output of psql on the console, standard error included.
async fn psql(cluster: &Cluster, arguments: &[&str]) -> String {
    let output = Command::new("psql")
        .arg("-X")
        .args(arguments)
        .envs(cluster.environment())
        .env("PGDATABASE", DATABASE)
        .output()
        .await
        .expect("psql runs");
    let out = [output.stdout, output.stderr].concat();
    String::from_utf8(out).expect("UTF-8")
}

/// The value of a metric whose line begins like this.
pub(crate) async fn metric(cluster: &Cluster, line: &str) -> f64 {
    let text = get(cluster, "/metrics").await;
    let value = text.lines().find_map(|found| found.strip_prefix(line)?.trim().parse().ok());
    value.unwrap_or(0.0)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn psql_speaks_to_the_console() {
    let cluster = Cluster::builder().replicas(1).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 3).await;
    for topic in TOPICS {
        let out = psql(&cluster, &["-Atc", &format!("SHOW {topic}")]).await;
        assert!(!out.trim().is_empty() && !out.contains("ERROR"), "{topic}: {out}");
    }
    let tables = psql(&cluster, &["-Atc", "show tables"]).await;
    assert!(tables.contains("auction|public|bids|sharded|auction_id|bigint|"), "{tables}");
    assert!(tables.contains("auction|public|categories|reference|||"), "{tables}");
    assert!(tables.contains("auction|public|notes|unsharded|||"), "{tables}");
    let servers = psql(&cluster, &["-Atc", "show servers"]).await;
    assert_eq!(servers.lines().filter(|line| line.contains("|primary|yes|1|")).count(), 2, "{servers}");
    assert_eq!(servers.lines().filter(|line| line.contains("|replica|yes|1|")).count(), 2, "{servers}");
    let config = psql(&cluster, &["-Atc", "show config"]).await;
    assert!(config.contains("pool.mode|transaction|transaction"), "{config}");
    assert!(config.contains("auth.query_password|********|"), "{config}");
    assert!(!config.contains(&cluster.proxy.password), "{config}");
    // What psql sends by itself.
    assert!(psql(&cluster, &["-c", "\\conninfo"]).await.contains("database \"gavel_admin\""));
    assert!(psql(&cluster, &["-c", "\\d"]).await.contains("Did not find any relations."));
    assert_eq!(psql(&cluster, &["-Atc", "select 1"]).await, "1\n");
    assert!(psql(&cluster, &["-Atc", "select version()"]).await.starts_with("Gavel "));
    let two = psql(&cluster, &["-Atc", "SHOW EPOCH; SHOW VERSION"]).await;
    assert!(two.lines().count() == 2 && two.contains("Gavel "), "{two}");
    let unknown = psql(&cluster, &["-c", "SHOW BIDDERS"]).await;
    assert!(
        unknown.contains("does not know \"SHOW BIDDERS\"") && unknown.contains("SHOW POOLS"),
        "{unknown}"
    );
    let names = "SELECT pg_catalog.lower(name) FROM pg_catalog.pg_settings \
                 WHERE pg_catalog.lower(name) LIKE pg_catalog.lower('S%')";
    assert_eq!(
        psql(&cluster, &["-Atc", names]).await,
        "servers\nstats\nshards\nslots\nstatements\n",
        "what tab completion of SHOW is offered"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn drivers_speak_to_the_console_by_the_extended_protocol() {
    let cluster = Cluster::builder().shards(1).start().await;
    let mut console = cluster.connect_to(DATABASE).await;
    let statement = console.prepare("SHOW SHARDS").await.expect("prepare");
    assert_eq!(statement.columns()[0].name(), "shard");
    for _ in 0..2 {
        let rows = console.query(&statement, &[]).await.expect("query");
        assert_eq!(rows[0].get::<_, &str>("shard"), "shard-1");
    }
    assert_eq!(console.execute("RESUME", &[]).await.expect("a command"), 0);
    let error = console.query("SHOW BIDDERS", &[]).await.expect_err("unknown");
    assert_eq!(error.code(), Some(&SqlState::SYNTAX_ERROR), "{error:?}");
    let transaction = console.transaction().await.expect("begin");
    let portal = transaction.bind("SHOW HELP", &[]).await.expect("bind");
    assert_eq!(transaction.query_portal(&portal, 10).await.expect("some rows").len(), 10);
    assert_eq!(transaction.query_portal(&portal, 0).await.expect("the rest").len(), 7);
    transaction.commit().await.expect("commit");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_its_users_may_log_in() {
    let cluster = Cluster::builder().shards(1).start().await;
    let client = cluster.connect().await;
    client.batch_execute("CREATE ROLE bidder LOGIN PASSWORD 'secret'").await.expect("create a role");
    let mut config = cluster.proxy.config(DATABASE);
    config.user("bidder").password("secret");
    let error = config.connect(tokio_postgres::NoTls).await.err().expect("must not log in");
    assert_eq!(error.code(), Some(&SqlState::INSUFFICIENT_PRIVILEGE), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pause_holds_requests_and_resume_lets_them_go() {
    let cluster = Cluster::builder().shards(1).start().await;
    let client = cluster.connect().await;
    assert_eq!(first_column(&client, "SELECT 1").await, ["1"]);
    let console = cluster.connect_to(DATABASE).await;
    console.batch_execute("PAUSE").await.expect("pause");
    let held = tokio::spawn(async move { first_column(&client, "SELECT 2").await });
    // The console goes on answering while the other waits.
    assert!(!first_column(&console, "SHOW CLIENTS").await.is_empty());
    assert!(!held.is_finished());
    console.batch_execute("RESUME").await.expect("resume");
    assert_eq!(held.await.expect("no panic"), ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reload_tells_the_mistake_and_drain_ends_the_process() {
    let cluster = Cluster::builder().shards(1).start().await;
    let console = cluster.connect_to(DATABASE).await;
    console.batch_execute("RELOAD").await.expect("the file is good");
    let good = std::fs::read_to_string(&cluster.proxy.config_path).expect("read");
    std::fs::write(&cluster.proxy.config_path, "[pool]\nsiez = 3\n").expect("write");
    cluster.allow_log("the configuration in use stays");
    let error = console.batch_execute("RELOAD").await.expect_err("the file is bad");
    let reply = error.as_db_error().expect("an error response");
    assert!(reply.message().contains("siez"), "{reply:?}");
    std::fs::write(&cluster.proxy.config_path, good).expect("write");
    console.batch_execute("DRAIN").await.expect("drain");
    eventually(Duration::from_secs(10), "the process ends, the console with it", || async {
        console.is_closed() && cluster.proxy.config("auction").connect(tokio_postgres::NoTls).await.is_err()
    })
    .await;
    cluster.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn promtool_accepts_the_metrics_and_they_count() {
    let cluster = Cluster::builder().replicas(1).start().await;
    let mut client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let (one, other) = one_of_each(&cluster).await;
    let transaction = client.transaction().await.expect("begin");
    for id in [one, other] {
        let update = "UPDATE auctions SET price = price + 5 WHERE auction_id = $1";
        transaction.execute(update, &[&id]).await.expect("update");
    }
    transaction.commit().await.expect("commit");
    for sql in ["PREPARE TRANSACTION 'mine'", "SELECT 1/0"] {
        client.batch_execute(sql).await.expect_err(sql);
    }
    let counted = [
        "gavel_statement_duration_seconds_count{plan=\"one\",role=\"primary\",shard=\"shard-2\"}",
        "gavel_statement_duration_seconds_count{plan=\"everywhere\",role=\"primary\",shard=\"shard-2\"}",
        "gavel_pool_wait_seconds_count{role=\"primary\",shard=\"shard-1\"}",
        "gavel_backend_connect_seconds_count{role=\"primary\",shard=\"shard-1\"}",
        "gavel_backend_connections{role=\"primary\",shard=\"shard-1\",state=\"idle\"}",
        "gavel_sessions{state=\"idle\"}",
        "gavel_errors_total{sqlstate=\"22012\"}",
        "gavel_errors_total{sqlstate=\"0A000\"}",
        "gavel_refused_statements_total{class=\"unsupported\"}",
        "gavel_cache_lookups_total{cache=\"facts\",result=\"hit\"}",
        "gavel_cache_lookups_total{cache=\"statements\",result=\"miss\"}",
        "gavel_two_phase_total{outcome=\"committed\"}",
        "gavel_transferred_bytes_total{direction=\"read\",side=\"frontend\"}",
        "gavel_transferred_bytes_total{direction=\"written\",side=\"backend\"}",
    ];
    for line in counted {
        assert!(metric(&cluster, line).await > 0.0, "{line}\n{}", get(&cluster, "/metrics").await);
    }
    let text = get(&cluster, "/metrics").await;
    let groups = text.lines().filter_map(|line| line.strip_prefix("gavel_slot_group_statements_total"));
    assert!(groups.filter(|line| !line.ends_with(" 0")).count() > 5, "{text}");
    promtool(text.split_once("\r\n\r\n").expect("head and body").1).await;
}

/// Fails unless `promtool check metrics` is content.
async fn promtool(metrics: &str) {
    let spawned = Command::new("promtool")
        .args(["check", "metrics"])
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn();
    let mut child = spawned.expect("promtool is missing: install the Debian package `prometheus`");
    let mut input = child.stdin.take().expect("piped");
    input.write_all(metrics.as_bytes()).await.expect("write");
    drop(input);
    let output = child.wait_with_output().await.expect("promtool ends");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{said}\n{metrics}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slow_statements_are_logged_without_their_literals() {
    let cluster = Cluster::builder().shards(1).config_extra("[log]\nslow_statement = \"50ms\"").start().await;
    let client = cluster.connect().await;
    client.batch_execute("SELECT pg_sleep(0.1), 'a secret'").await.expect("sleep");
    eventually(Duration::from_secs(5), "the log tells the slow statement", || async {
        cluster.proxy.log().contains("SELECT pg_sleep(?), ?")
    })
    .await;
    let log = cluster.proxy.log();
    let line = log.lines().find(|line| line.contains("slow statement")).expect("logged");
    assert!(line.contains("WARN") && line.contains("plan=") && line.contains("reason="), "{line}");
    assert!(!log.contains("a secret"), "{log}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_query_is_an_error_and_the_console_goes_on() {
    let cluster = Cluster::builder().shards(1).start().await;
    let login = Login { database: DATABASE.to_owned(), ..cluster.login() };
    let mut wire = Wire::login(&login).expect("login");
    wire.send(&message::frame(b'Q', b"SHOW VERSION\0\0")).expect("sent");
    let frames = wire.read_until_ready(1).expect("an answer");
    let states: Vec<_> = frames.iter().filter_map(wire_print::sqlstate).collect();
    assert_eq!(states, ["08P01"], "{frames:?}");
    assert_eq!(wire.rows("SHOW VERSION").expect("it goes on").len(), 1);
    assert_eq!(wire.rows("SHOW in_hot_standby").expect("asked by drivers"), [[Some("off".to_owned())]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn readiness_follows_the_primaries() {
    let cluster = Cluster::builder().start().await;
    assert!(get(&cluster, "/readyz").await.starts_with("HTTP/1.1 200"));
    cluster.allow_log("");
    cluster.shard(1).primary.kill().await.expect("kill");
    eventually(Duration::from_secs(20), "the shard without a primary is named", || async {
        get(&cluster, "/readyz").await.contains("shard shard-2 has no primary")
    })
    .await;
    let answer = get(&cluster, "/readyz").await;
    assert!(answer.starts_with("HTTP/1.1 200"), "the other shard is served: {answer}");
    cluster.shard(0).primary.kill().await.expect("kill");
    eventually(Duration::from_secs(20), "without any primary it is not ready", || async {
        let answer = get(&cluster, "/readyz").await;
        answer.starts_with("HTTP/1.1 503") && answer.contains("shard-1")
    })
    .await;
    assert!(get(&cluster, "/healthz").await.starts_with("HTTP/1.1 200"), "alive all the same");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_draining_proxy_is_not_ready() {
    let cluster = Cluster::builder().shards(1).start().await;
    let mut client = cluster.connect().await;
    let transaction = client.transaction().await.expect("begin");
    transaction.execute("SELECT 1", &[]).await.expect("select");
    cluster.connect_to(DATABASE).await.batch_execute("DRAIN").await.expect("drain");
    eventually(Duration::from_secs(5), "not ready while draining", || async {
        let answer = get(&cluster, "/readyz").await;
        answer.starts_with("HTTP/1.1 503") && answer.contains("draining")
    })
    .await;
    transaction.commit().await.expect("the transaction finishes");
    cluster.proxy.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_is_given_once() {
    let cluster = Cluster::builder().shards(1).start().await;
    let login = Login { database: DATABASE.to_owned(), ..cluster.login() };
    let mut wire = Wire::login(&login).expect("login");
    let parse = |name| message::parse(name, "SHOW VERSION", &[]);
    let bind = |portal| message::bind(portal, "s", &[], &[]);
    let cases = [
        ([parse("s"), parse("s")].concat(), vec!["42P05"]),
        ([parse(""), parse(""), parse("t")].concat(), vec![]),
        ([bind("p"), bind("p")].concat(), vec!["42P03"]),
        ([bind(""), bind("")].concat(), vec![]),
        ([message::close(b'S', "s"), parse("s")].concat(), vec![]),
    ];
    for (frames, expected) in cases {
        wire.send(&[frames, message::sync()].concat()).expect("sent");
        let answer = wire.read_until_ready(1).expect("an answer");
        let states: Vec<_> = answer.iter().filter_map(wire_print::sqlstate).collect();
        assert_eq!(states, expected, "{answer:?}");
    }
}

/// At `limits.clients` the console still takes a few logins, and nobody else gets in by them.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_console_can_be_entered_when_there_are_too_many_sessions() {
    let cluster = Cluster::builder().config_extra("[limits]\nclients = 2").start().await;
    let login = cluster.login();
    let _sessions = [(); 2].map(|()| Wire::login(&login).expect("login"));
    let refused = async |database: &str| {
        let config = cluster.proxy.config(database);
        let error = config.connect(tokio_postgres::NoTls).await.err().expect("too many");
        assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS), "{database}: {error:?}");
    };
    refused("auction").await;
    let mut consoles = Vec::new();
    for _ in 0..3 {
        consoles.push(cluster.connect_to(DATABASE).await);
        refused("auction").await;
    }
    refused(DATABASE).await;
    assert_eq!(first_column(&consoles[0], "SHOW CLIENTS").await.len(), 5);
    drop(consoles.pop());
    eventually(Duration::from_secs(5), "one leaves, one can come", async || {
        cluster.proxy.config(DATABASE).connect(tokio_postgres::NoTls).await.is_ok()
    })
    .await;
    refused("auction").await;
}
