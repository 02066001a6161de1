//! The life of the proxy: metrics, the console, reloading, draining, starting again.

use std::time::Duration;

use tests::cluster::{Cluster, eventually, first_column};
use tests::wire::{PATIENCE, Wire};
use tests::{wire_message as message, wire_print};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::house::{add_auctions, build};

/// The answer to a GET, head and body.
pub(crate) async fn get(cluster: &Cluster, path: &str) -> String {
    let address = (cluster.proxy.host.as_str(), cluster.proxy.metrics_port);
    let mut stream = tokio::net::TcpStream::connect(address).await.expect("connect");
    let request = format!("GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.expect("receive");
    answer
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn metrics_and_health_are_served() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    assert_eq!(first_column(&client, "SELECT 1").await, ["1"]);
    for path in ["/healthz", "/readyz", "/metrics"] {
        let answer = get(&cluster, path).await;
        assert!(answer.starts_with("HTTP/1.1 200"), "{path}: {answer}");
    }
    assert!(get(&cluster, "/metrics").await.contains("# TYPE gavel_"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_bad_file_leaves_the_old_configuration_running() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    std::fs::write(&cluster.proxy.config_path, "[pool]\nsiez = 3\n").expect("write");
    cluster.allow_log("");
    cluster.proxy.reload();
    eventually(Duration::from_secs(10), "the log tells the mistake", || async {
        cluster.proxy.log().contains("siez")
    })
    .await;
    assert_eq!(first_column(&client, "SELECT 1").await, ["1"]);
    assert_eq!(first_column(&cluster.connect().await, "SELECT 1").await, ["1"]);
}

/// Under two names one server would hold each row twice.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_server_is_not_two_shards() {
    let cluster = Cluster::builder().shards(2).start().await;
    cluster.allow_log("");
    // A database of its own: nothing is known yet of these shards.
    let servers = [&cluster.shard(0).primary, &cluster.shard(1).primary];
    servers[0].execute("postgres", "CREATE DATABASE twins").await.expect("a database");
    let config = std::fs::read_to_string(&cluster.proxy.config_path).expect("the configuration");
    let twin = format!("localhost:{}", servers[0].port);
    let config = config.replace("\"auction\"", "\"twins\"").replace(&servers[1].address(), &twin);
    assert!(cluster.proxy.stop().await, "the proxy ends");
    std::fs::write(&cluster.proxy.config_path, config).expect("written");
    let told = async || cluster.proxy.log().contains("it is the server of shard \"shard-");
    tokio::select! {
        started = cluster.proxy.start() => panic!("{started:?}"),
        () = eventually(Duration::from_secs(10), "a complaint", told) => {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drained_proxy_ends_and_a_new_one_finds_the_same_rows() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 10).await;
    assert!(cluster.proxy.stop().await, "an idle session does not hold up the end");
    assert!(client.simple_query("SELECT 1").await.is_err());
    cluster.proxy.start().await.expect("start again");
    let client = cluster.connect().await;
    for id in 1..=10_i64 {
        let select = "SELECT title FROM auctions WHERE auction_id = $1";
        assert_eq!(client.query(select, &[&id]).await.expect("select").len(), 1, "auction {id}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_running_transaction_may_finish_while_draining() {
    let cluster = Cluster::builder().start().await;
    let mut client = cluster.connect().await;
    build(&client).await;
    let transaction = client.transaction().await.expect("begin");
    let insert = "INSERT INTO auctions (auction_id, title) VALUES (1, 'lot')";
    transaction.execute(insert, &[]).await.expect("insert");
    let finish = async {
        eventually(Duration::from_secs(5), "new connections are refused", || async {
            cluster.proxy.config("auction").connect(tokio_postgres::NoTls).await.is_err()
        })
        .await;
        transaction.commit().await.expect("the transaction finishes");
    };
    let (drained, ()) = tokio::join!(cluster.proxy.stop(), finish);
    assert!(drained, "nothing is left to wait for after the commit");
    let rows = cluster.on_each_primary("SELECT 1 FROM auctions").await.concat();
    assert_eq!(rows.len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_outlasts_a_drain_is_cancelled_and_told() {
    let cluster = Cluster::builder().config_extra("[limits]\ndrain = \"1s\"").start().await;
    cluster.allow_log("limits.drain is over");
    let mut idle = cluster.connect().await;
    build(&idle).await;
    let transaction = idle.transaction().await.expect("begin");
    transaction
        .batch_execute("INSERT INTO auctions (auction_id, title) VALUES (1, 'lot')")
        .await
        .expect("insert");
    let busy = cluster.connect().await;
    let sleep =
        tokio::spawn(async move { busy.batch_execute("SELECT pg_sleep(60)").await.expect_err("cancelled") });
    eventually(Duration::from_secs(5), "the statement runs", || async {
        let sleeping =
            "SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)' AND state = 'active'";
        !cluster.on_each_primary(sleeping).await.concat().is_empty()
    })
    .await;
    cluster.proxy.stop().await;
    let slept = sleep.await.expect("no panic");
    assert_eq!(slept.code().map(|code| code.code()), Some("57014"), "{slept:?}");
    let told = transaction.batch_execute("SELECT 1").await.expect_err("ended");
    assert!(told.code().is_none_or(|code| code.code() == "57P01"), "{told:?}");
    assert!(
        cluster.on_each_primary("SELECT 1 FROM auctions").await.concat().is_empty(),
        "nothing was committed"
    );
}

/// The home shard is down: a COMMIT over the other two has prepared and waits for its decision to be recorded, and so has a
/// write that the proxy splits. A third session waits for a primary.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_decision_at_the_end_of_a_drain_is_told_that_its_outcome_is_unknown() {
    let extra = "[limits]\ndrain = \"1s\"\n[backend]\nprimary_wait = \"30s\"";
    let cluster = Cluster::builder().shards(3).config_extra(extra).start().await;
    cluster.allow_log("");
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 40).await;
    let firsts = cluster.on_each_primary("SELECT auction_id FROM auctions ORDER BY auction_id LIMIT 1").await;
    let (home, second, third) = (&firsts[0][0], &firsts[1][0], &firsts[2][0]);
    let login = cluster.login();
    let [mut commit, mut split, mut read] = [(); 3].map(|()| Wire::login(&login).expect("login"));
    commit.query("BEGIN").expect("begun");
    for key in [second, third] {
        let insert = format!("INSERT INTO bids (auction_id, amount) VALUES ({key}, 1)");
        commit.query(&insert).expect("written");
    }
    cluster.shard(0).primary.kill().await.expect("killed");
    eventually(Duration::from_secs(10), "the proxy knows", || async {
        get(&cluster, "/readyz").await.contains("shard-1")
    })
    .await;
    commit.send(&message::query("COMMIT")).expect("sent");
    let both = format!("INSERT INTO bids (auction_id, amount) VALUES ({second}, 2), ({third}, 2)");
    split.send(&message::query(&both)).expect("sent");
    let select = format!("SELECT title FROM auctions WHERE auction_id = {home}");
    read.send(&message::query(&select)).expect("sent");
    let node = cluster.shard(1).primary.connect("auction").await.expect("the shard is up");
    eventually(Duration::from_secs(10), "both have prepared", || async {
        first_column(&node, "SELECT gid FROM pg_prepared_xacts").await.len() == 2
    })
    .await;
    assert!(cluster.proxy.stop().await, "the process ends all the same");
    for (session, expected) in [(&mut commit, "08007"), (&mut split, "08007"), (&mut read, "57P01")] {
        let (mut last, mut tags) = (None, Vec::new());
        while let Ok(Some(frame)) = session.frame(PATIENCE) {
            last = wire_print::sqlstate(&frame);
            tags.push(frame.tag);
        }
        assert_eq!(last.as_deref(), Some(expected), "{tags:?}");
        assert!(!tags.contains(&b'C'), "nothing was said to have succeeded: {tags:?}");
    }
    let told = cluster.proxy.log().matches("are not recorded yet").count();
    assert!((1..=4).contains(&told), "the reason is told, and not ten times a second: {told}");
}

/// The catalog of a shard without a primary keeps a reload waiting.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_under_way_does_not_hold_up_the_end() {
    let cluster = Cluster::builder().config_extra("[limits]\ndrain = \"20s\"").start().await;
    cluster.allow_log("");
    let client = cluster.connect().await;
    build(&client).await;
    let mut console = cluster.login();
    console.database = "gavel_admin".to_owned();
    let mut console = Wire::login(&console).expect("login");
    cluster.shard(1).primary.kill().await.expect("killed");
    eventually(Duration::from_secs(10), "the proxy knows", || async {
        get(&cluster, "/readyz").await.contains("shard-2")
    })
    .await;
    console.send(&message::query("RELOAD")).expect("sent");
    let answered = console.frame(Duration::from_secs(1));
    assert!(!matches!(answered, Ok(Some(_))), "the reload waits: {answered:?}");
    let began = std::time::Instant::now();
    assert!(cluster.proxy.stop().await, "the process ends");
    let took = began.elapsed();
    assert!(took < Duration::from_secs(4), "it ends at once: {took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_value_that_is_refused_does_not_get_into_the_log() {
    let cluster = Cluster::builder().config_extra("[log]\nlevel = \"info\"").start().await;
    build(&cluster.connect().await).await;
    let mut session = Wire::login(&cluster.login()).expect("login");
    let insert = [
        message::parse("", "INSERT INTO auctions (auction_id, title) VALUES ($1, 'x')", &[]),
        message::bind("", "", &[message::Value::Text(b"geheim\"7\"".to_vec())], &[]),
        message::execute("", 0),
        message::sync(),
    ];
    session.send(&insert.concat()).expect("sent");
    let frames = session.read_until_ready(1).expect("an answer");
    let states: Vec<_> = frames.iter().filter_map(wire_print::sqlstate).collect();
    assert_eq!(states, ["22P02"], "{frames:?}");
    eventually(Duration::from_secs(5), "the log tells the refusal", || async {
        cluster.proxy.log().contains("refused: invalid input syntax for type bigint: ?")
    })
    .await;
    assert!(!cluster.proxy.log().contains("geheim"), "but not the value");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_hangs_up_during_a_statement_over_several_shards_leaves_nothing_running() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let running = "SELECT 1 FROM pg_stat_activity WHERE query LIKE '%pg_sleep(5%' AND pid <> pg_backend_pid()
        AND state = 'active'";
    let mut wire = Wire::login(&cluster.login()).expect("login through the proxy");
    wire.send(&message::query("SELECT title FROM auctions WHERE pg_sleep(50) IS NOT NULL")).expect("sent");
    eventually(Duration::from_secs(10), "it runs on both shards", || async {
        cluster.on_each_primary(running).await.concat().len() == 2
    })
    .await;
    drop(wire);
    eventually(Duration::from_secs(10), "it is cancelled on both", || async {
        cluster.on_each_primary(running).await.concat().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reload_takes_effect_and_names_what_waits_for_a_restart() {
    let extra = "[pool]\nsize = 20\n[limits]\nclients = 50\n[log]\nlevel = \"info\"\njson = false";
    let cluster = Cluster::builder().config_extra(extra).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    let console = cluster.connect_to("gavel_admin").await;
    let file = std::fs::read_to_string(&cluster.proxy.config_path).expect("read");
    let changed = file
        .replace("size = 20", "size = 3")
        .replace("clients = 50", "clients = 2")
        .replace("level = \"info\"", "level = \"debug\"")
        .replace("json = false", "json = true")
        .replace("[listen]", "[listen]\nthreads = 7\ntls = \"off\"")
        .replace("name = \"categories\"", "name = \"notes\"")
        + "\n[[tables]]\nname = \"bidz\"\nkind = \"reference\"\n";
    std::fs::write(&cluster.proxy.config_path, &changed).expect("write");
    console.batch_execute("RELOAD").await.expect("reload");
    // The answer of RELOAD comes when everything is in use.
    let setting = async |name: &str| {
        let rows = console.simple_query("SHOW CONFIG").await.expect("show");
        let rows = rows.iter().filter_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        });
        let found = rows.into_iter().find(|row| row.get(0) == Some(name)).expect("a setting");
        found.get(1).unwrap_or_default().to_owned()
    };
    assert_eq!(setting("listen.threads").await, "0", "what is in use is shown");
    assert_eq!(setting("limits.clients").await, "2");
    let log = cluster.proxy.log();
    let note = log.lines().find(|line| line.contains("only a restart")).expect("the log names them");
    assert!(note.ends_with("listen.threads, log.json"), "{note}");
    for told in [
        "table public.categories of database auction was reference and is unsharded",
        "table public.notes of database auction was unsharded and is reference",
        "tables[4]: no table is named \"bidz\"",
    ] {
        assert!(log.contains(told), "{told}: {log}");
    }
    let problems = console.simple_query("SHOW PROBLEMS").await.expect("show");
    let about = problems.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get("about"),
        _ => None,
    });
    assert_eq!(about.collect::<Vec<_>>(), ["tables[2]", "tables[4]"], "users is not there either");
    let error = cluster.proxy.config("auction").connect(tokio_postgres::NoTls).await.err().expect("full");
    assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::TOO_MANY_CONNECTIONS));
    // `notes` is a reference table from now on, `categories` no longer is.
    client.batch_execute("INSERT INTO notes VALUES (1, 'x')").await.expect("insert");
    client.batch_execute("INSERT INTO categories VALUES (1, 'x')").await.expect("insert");
    let notes = cluster.on_each_primary("SELECT note_id FROM notes").await;
    let categories = cluster.on_each_primary("SELECT category_id FROM categories").await;
    assert_eq!((notes[1].len(), categories[1].len()), (1, 0), "{notes:?} {categories:?}");
    let pools = first_column(&console, "SHOW POOLS").await;
    assert!(!pools.is_empty());
    let sizes = console.simple_query("SHOW POOLS").await.expect("show");
    let sizes = sizes.iter().filter_map(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get("size"),
        _ => None,
    });
    assert!(sizes.into_iter().all(|size| size == "3"), "sessions that were there use the new size");
}

/// Memory of the process's own, without files and what it shares.
#[cfg(target_os = "linux")]
fn anonymous_kib(pid: u32) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process lives");
    let line = status.lines().find_map(|line| line.strip_prefix("RssAnon:")).expect("Linux 4.5 or later");
    line.trim().trim_end_matches(" kB").parse().expect("a number")
}

#[cfg(target_os = "linux")]
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_idle_application_costs_little_memory() {
    const IDLE: usize = 300;
    /// A release build needs half of it; what the allocator has not given back yet is in it.
    const EACH_KIB: usize = 6;
    let cluster = Cluster::builder().start().await;
    let pid = cluster.proxy.pid().expect("the proxy runs");
    let login = cluster.login();
    let idle_one = || {
        let mut wire = Wire::login(&login).expect("login through the proxy");
        wire.query("SELECT 1").expect("an answer");
        wire
    };
    let _first = idle_one();
    let before = anonymous_kib(pid);
    let _idle: Vec<Wire> = (0..IDLE).map(|_| idle_one()).collect();
    eventually(Duration::from_secs(20), "6 KiB for each idle application are enough", || async {
        anonymous_kib(pid) <= before + EACH_KIB * IDLE
    })
    .await;
}

/// What tells proxies of one cluster apart that place rows differently.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn another_placement_has_another_fingerprint() {
    let cluster = Cluster::builder().start().await;
    let console = cluster.connect_to("gavel_admin").await;
    let placement = async || {
        let rows = console.simple_query("SHOW EPOCH").await.expect("shown");
        let shown = rows.iter().find_map(|message| match message {
            tokio_postgres::SimpleQueryMessage::Row(row) => row.get("placement").map(str::to_owned),
            _ => None,
        });
        let text = get(&cluster, "/metrics").await;
        let series: Vec<&str> =
            text.lines().filter(|line| line.starts_with("gavel_placement_info{")).collect();
        let shown = shown.expect("a row");
        assert_eq!(series.len(), 1, "{series:?}");
        assert!(series[0].contains(&format!("fingerprint=\"{shown}\"")), "{shown}: {series:?}");
        shown
    };
    let before = placement().await;
    console.batch_execute("RELOAD").await.expect("reload");
    assert_eq!(placement().await, before);
    let file = std::fs::read_to_string(&cluster.proxy.config_path).expect("read");
    let overridden =
        format!("{file}\n[[overrides]]\nkey = \"777777\"\nkey_type = \"bigint\"\nshard = \"shard-1\"\n");
    std::fs::write(&cluster.proxy.config_path, overridden).expect("write");
    console.batch_execute("RELOAD").await.expect("reload");
    assert_ne!(placement().await, before);
    std::fs::write(&cluster.proxy.config_path, file).expect("write");
    cluster.proxy.kill().await;
    cluster.proxy.start().await.expect("start again");
    let console = cluster.connect_to("gavel_admin").await;
    assert_eq!(tests::cluster::one_row(&console, "SHOW EPOCH").await.get::<_, &str>("placement"), before);
}
