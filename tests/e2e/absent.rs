//! Shards that give no connection, or lose one, while a statement needs several: what it holds meanwhile, what it leaves, and who
//! else is kept waiting.

use std::time::Duration;

use shard_admin::local_cluster::StopMode;
use tests::cluster::{Cluster, eventually, first_column};
use tests::wire::{Frame, PATIENCE, Wire};
use tests::{wire_message as message, wire_print};

use crate::cancel::cancels;
use crate::house::{add_auctions, build};
use crate::life::get;
use crate::waits::{column, until_waiting};

/// How long the proxy may take to notice what happens.
const SOON: Duration = Duration::from_secs(10);
const COPY: &str = "COPY auctions (auction_id, title, price) FROM STDIN";

/// Three shards with auctions, and the id of one on each.
async fn three_shards(extra: &str) -> (Cluster, [i64; 3]) {
    let cluster = Cluster::builder().shards(3).config_extra(extra).start().await;
    cluster.allow_log("");
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 40).await;
    client.batch_execute("INSERT INTO categories VALUES (1, 'clocks')").await.expect("everywhere");
    let found = cluster.on_each_primary("SELECT auction_id FROM auctions ORDER BY auction_id LIMIT 1").await;
    let id =
        |shard: usize| found[shard].first().expect("every shard has auctions").parse().expect("a number");
    let ids = [id(0), id(1), id(2)];
    (cluster, ids)
}

/// Ends the primary of a shard, and waits until the proxy knows.
async fn end_primary(cluster: &Cluster, shard: usize) {
    cluster.shard(shard).primary.kill().await.expect("killed");
    let name = format!("shard-{}", shard + 1);
    eventually(SOON, "the proxy knows", async || get(cluster, "/readyz").await.contains(&name)).await;
}

/// COPY in both protocols, and what is sent behind the error so that the session is ready.
fn copies() -> [(Vec<u8>, Vec<u8>); 3] {
    let extended = message::step(COPY);
    let rest = [message::copy_data(b"1\tlot\t1\n"), message::copy_done(), message::sync()].concat();
    [
        (message::query(COPY), Vec::new()),
        ([extended.clone(), message::sync()].concat(), Vec::new()),
        (extended, rest),
    ]
}

fn tags(frames: &[Frame]) -> String {
    frames.iter().map(|frame| char::from(frame.tag)).collect()
}

/// The SQLSTATE that ended a request, and the state that the session is in behind it.
fn ended(session: &mut Wire, rest: &[u8]) -> (String, String, String) {
    session.send(rest).expect("sent");
    let frames = session.read_until_ready(1).expect("an answer");
    let states: Vec<_> = frames.iter().filter_map(wire_print::sqlstate).collect();
    let ready = frames.last().map(|frame| wire_print::bytes(&frame.body)).unwrap_or_default();
    (tags(&frames), states.concat(), ready)
}

/// No server has a COPY open, or a transaction.
async fn all_at_rest(cluster: &Cluster) {
    let open = "SELECT query FROM pg_stat_activity WHERE backend_type = 'client backend' AND state <> 'idle' \
                AND pid <> pg_backend_pid()";
    eventually(SOON, "no server has a transaction open", async || {
        cluster.on_each_primary(open).await.concat().is_empty()
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_gets_no_connection_leaves_nothing_open() {
    let (cluster, ids) = three_shards("[backend]\nprimary_wait = \"200ms\"").await;
    end_primary(&cluster, 2).await;
    let read = format!("SELECT title FROM auctions WHERE auction_id = {}", ids[0]);
    for (copy, rest) in copies() {
        // The way the answers come is a race.
        for _ in 0..5 {
            let mut session = Wire::login(&cluster.login()).expect("login");
            session.send(&copy).expect("sent");
            let (tags, state, ready) = ended(&mut session, &rest);
            assert!(!tags.contains('G'), "{tags}");
            assert_eq!((state.as_str(), ready.as_str()), ("57P03", "I"), "{tags}");
            assert_eq!(session.rows(&read).expect("it goes on"), [[Some("lot".to_owned())]]);
            session.query("BEGIN").expect("begun");
            session.rows(&read).expect("in the transaction");
            session.send(&copy).expect("sent");
            let (tags, state, ready) = ended(&mut session, &rest);
            assert!(!tags.contains('G'), "{tags}");
            assert_eq!((state.as_str(), ready.as_str()), ("57P03", "E"), "{tags}");
            session.query("ROLLBACK").expect("rolled back");
            assert_eq!(session.rows(&read).expect("it goes on"), [[Some("lot".to_owned())]]);
        }
    }
    assert!(!cluster.proxy.log().contains("protocol synchronization"), "no server was talked to in a COPY");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_finds_a_pool_exhausted_leaves_nothing_open() {
    let extra = "[listen]\nthreads = 1\n[pool]\nsize = 1\nwait = \"300ms\"\n[routing]\nreads = \"primary\"";
    let (cluster, ids) = three_shards(extra).await;
    let mut holder = Wire::login(&cluster.login()).expect("login");
    holder.query("BEGIN").expect("begun");
    holder.rows(&format!("SELECT 1 FROM auctions WHERE auction_id = {}", ids[2])).expect("held");
    let read = format!("SELECT title FROM auctions WHERE auction_id = {}", ids[0]);
    for (copy, rest) in copies() {
        let mut session = Wire::login(&cluster.login()).expect("login");
        session.send(&copy).expect("sent");
        let (tags, state, ready) = ended(&mut session, &rest);
        assert!(!tags.contains('G'), "{tags}");
        assert_eq!((state.as_str(), ready.as_str()), ("53300", "I"), "{tags}");
        assert_eq!(session.rows(&read).expect("it goes on"), [[Some("lot".to_owned())]]);
    }
    assert!(!cluster.proxy.log().contains("protocol synchronization"), "no server was talked to in a COPY");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_loses_a_shard_before_its_data_leaves_nothing_open() {
    let (cluster, ids) = three_shards("").await;
    let node = &cluster.shard(1).primary;
    let locker = node.connect("auction").await.expect("the shard is up");
    let shard = node.connect("auction").await.expect("the shard is up");
    let read = format!("SELECT title FROM auctions WHERE auction_id = {}", ids[0]);
    for (copy, rest) in copies() {
        for begins in [false, true] {
            let mut session = Wire::login(&cluster.login()).expect("login");
            if begins {
                session.query("BEGIN").expect("begun");
            }
            locker
                .batch_execute("BEGIN; LOCK TABLE auctions IN ACCESS EXCLUSIVE MODE")
                .await
                .expect("locked");
            session.send(&copy).expect("sent");
            let ends = "SELECT pg_terminate_backend(pid)::text FROM pg_stat_activity \
                        WHERE wait_event_type = 'Lock' AND query LIKE 'COPY%'";
            eventually(SOON, "the COPY waits, and is ended", async || {
                !first_column(&shard, ends).await.is_empty()
            })
            .await;
            locker.batch_execute("ROLLBACK").await.expect("unlocked");
            let (tags, state, ready) = ended(&mut session, &rest);
            assert!(!tags.contains('G'), "{tags}");
            assert_eq!((state.as_str(), ready.as_str()), ("08006", if begins { "E" } else { "I" }), "{tags}");
            if begins {
                session.query("ROLLBACK").expect("rolled back");
            }
            assert_eq!(session.rows(&read).expect("it goes on"), [[Some("lot".to_owned())]]);
            all_at_rest(&cluster).await;
        }
    }
    assert!(!cluster.proxy.log().contains("protocol synchronization"), "no server was talked to in a COPY");
}

/// PostgreSQL says at once what is wrong, and waits for no end of the data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_fails_amid_its_data_says_so_at_once() {
    let (cluster, ids) = three_shards("").await;
    let ends = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity \
                WHERE query LIKE 'COPY%' AND state = 'active'";
    for (copy, _) in copies() {
        for (lost, begins) in [(true, false), (true, true), (false, false), (false, true)] {
            let mut session = Wire::login(&cluster.login()).expect("login");
            if begins {
                session.query("BEGIN").expect("begun");
            }
            session.send(&copy).expect("sent");
            while session.frame(PATIENCE).expect("an answer").expect("a frame").tag != b'G' {}
            let rows =
                ids.map(|id| format!("{}\tcopied\t{}\n", id + 1_000_000, if lost { "1" } else { "x" }));
            session.send(&message::copy_data(rows.concat().as_bytes())).expect("sent");
            if lost {
                let shard = cluster.shard(1).primary.connect("auction").await.expect("the shard is up");
                eventually(SOON, "it is ended", async || !first_column(&shard, ends).await.is_empty()).await;
            }
            let frame = session.frame(PATIENCE).expect("told at once").expect("a frame");
            let expected = if lost { "08006" } else { "22P02" };
            assert_eq!(wire_print::sqlstate(&frame).as_deref(), Some(expected), "{frame:?}");
            let extended = copy[0] != b'Q';
            let rest = [message::copy_done(), message::sync()].concat();
            let (_, _, ready) = ended(&mut session, if extended { &rest } else { b"" });
            assert_eq!(ready, if begins { "E" } else { "I" });
            if begins {
                session.query("ROLLBACK").expect("rolled back");
            }
            assert_eq!(session.rows("SELECT 1").expect("it goes on"), [[Some("1".to_owned())]]);
            all_at_rest(&cluster).await;
        }
    }
    let copied = cluster.on_each_primary("SELECT 1 FROM auctions WHERE title = 'copied'").await;
    assert!(copied.concat().is_empty(), "nothing of them was committed");
}

/// A COPY that no shard begins: the Sync behind it is not part of its data.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_that_a_shard_refuses_is_over_at_its_sync() {
    let (cluster, _) = three_shards("").await;
    let client = cluster.connect().await;
    client.batch_execute("CREATE ROLE looks LOGIN").await.expect("created");
    let mut session = Wire::login(&cluster.login()).expect("login");
    session.query("SET ROLE looks").expect("set");
    for (copy, rest) in copies() {
        session.send(&copy).expect("sent");
        let (tags, state, ready) = ended(&mut session, &rest);
        assert_eq!((state.as_str(), ready.as_str()), ("42501", "I"), "{tags}");
        assert!(!tags.contains('G'), "{tags}");
    }
}

/// Statements that meet all three shards.
fn statements(ids: [i64; 3]) -> Vec<String> {
    let all = ids.map(|id| id.to_string()).join(", ");
    let rows = ids.map(|id| format!("({id}, 1)")).join(", ");
    vec![
        format!("INSERT INTO bids (auction_id, amount) VALUES {rows}"),
        format!("SELECT * FROM auctions WHERE auction_id IN ({all})"),
        "INSERT INTO categories VALUES (2, 'chairs')".to_owned(),
        "CREATE TABLE extra (auction_id bigint)".to_owned(),
        "VACUUM auctions".to_owned(),
        COPY.to_owned(),
        "COPY auctions TO STDOUT".to_owned(),
    ]
}

/// Those statements in both protocols; the number of them that are refused for other reasons is not of interest here.
fn requests(ids: [i64; 3]) -> Vec<(String, Vec<u8>)> {
    let both = |sql: String| {
        let extended = [message::step(&sql), message::sync()].concat();
        let limited = [
            message::parse("", &sql, &[]),
            message::bind("", "", &[], &[]),
            message::describe(b'P', ""),
            message::execute("", 1),
            message::sync(),
        ];
        let walks = sql.starts_with("SELECT").then(|| (format!("walk: {sql}"), limited.concat()));
        [(format!("simple: {sql}"), message::query(&sql)), (format!("extended: {sql}"), extended)]
            .into_iter()
            .chain(walks)
    };
    statements(ids).into_iter().flat_map(both).collect()
}

const NARROW: &str = "[listen]\nthreads = 1\n[pool]\nsize = 1\nwait = \"1s\"\n[routing]\nreads = \"primary\"\n[backend]\nprimary_wait = \"60s\"";

/// With one connection a shard, whoever waits for the third shard must not have that of the first or the second.
async fn others_go_on(session: &mut Wire, ids: [i64; 3], what: &str) {
    for id in &ids[..2] {
        let write = format!("UPDATE auctions SET price = price + 1 WHERE auction_id = {id}");
        let frames = session.query(&write).expect("an answer");
        assert_eq!(tags(&frames), "CZ", "{what}: {frames:?}");
        let read = format!("SELECT title FROM auctions WHERE auction_id = {id}");
        assert_eq!(session.rows(&read).expect(what), [[Some("lot".to_owned())]], "{what}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_waits_for_a_primary_holds_no_connections_of_other_shards() {
    let (cluster, ids) = three_shards(NARROW).await;
    end_primary(&cluster, 2).await;
    let login = cluster.login();
    let console = cluster.connect_to("gavel_admin").await;
    let mut other = Wire::login(&login).expect("login");
    for (what, request) in requests(ids) {
        let mut session = Wire::login(&login).expect("login");
        session.send(&request).expect("sent");
        until_waiting(&console, 1).await;
        others_go_on(&mut other, ids, &what).await;
        cancels(&login, &mut session);
        until_waiting(&console, 0).await;
    }
}

/// The end of the primary is noticed by the statement itself, which has its other connections by then.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_meets_the_end_of_a_primary_gives_the_other_connections_back() {
    let (cluster, ids) = three_shards(NARROW).await;
    let login = cluster.login();
    let console = cluster.connect_to("gavel_admin").await;
    let mut other = Wire::login(&login).expect("login");
    for (what, request) in requests(ids) {
        let mut session = Wire::login(&login).expect("login");
        cluster.shard(2).primary.stop(StopMode::Fast).await.expect("stopped");
        session.send(&request).expect("sent");
        until_waiting(&console, 1).await;
        others_go_on(&mut other, ids, &what).await;
        cancels(&login, &mut session);
        until_waiting(&console, 0).await;
        cluster.shard(2).primary.start().await.expect("started");
        eventually(SOON, "the proxy knows", async || get(&cluster, "/readyz").await.contains("200 OK")).await;
    }
}

/// What is held by a transaction stays held; the wait ends when the primary is back, and the statement is answered.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_that_waited_is_run_when_the_primary_is_back() {
    let (cluster, ids) = three_shards(NARROW).await;
    let console = cluster.connect_to("gavel_admin").await;
    let mut session = Wire::login(&cluster.login()).expect("login");
    end_primary(&cluster, 2).await;
    session.query("BEGIN").expect("begun");
    session.query(&format!("UPDATE auctions SET price = 9 WHERE auction_id = {}", ids[0])).expect("updated");
    let rows = ids.map(|id| format!("({id}, 1)")).join(", ");
    session
        .send(&message::query(&format!("INSERT INTO bids (auction_id, amount) VALUES {rows}")))
        .expect("sent");
    until_waiting(&console, 1).await;
    let held = column(&console, "CLIENTS", "backends").await;
    let port = |shard: usize| format!(":{}/", cluster.shard(shard).primary.port);
    assert!(held.iter().any(|held| held.contains(&port(0))), "{held:?}");
    assert!(!held.iter().any(|held| held.contains(&port(1))), "{held:?}");
    cluster.shard(2).primary.start().await.expect("started");
    let frames = session.read_until_ready(1).expect("an answer");
    assert_eq!(tags(&frames), "CZ", "{frames:?}");
    assert_eq!(tags(&session.query("COMMIT").expect("an answer")), "CZ");
    let bids = cluster.on_each_primary("SELECT count(*) FROM bids").await.concat();
    assert_eq!(bids, ["1", "1", "1"]);
}

/// What any shard can answer is asked of one that is there.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_any_shard_can_answer_goes_to_one_that_is_up() {
    for lost in [0, 1] {
        let (cluster, _) = three_shards("[backend]\nprimary_wait = \"60s\"").await;
        end_primary(&cluster, lost).await;
        let texts = ["SELECT 1", "SELECT now() IS NULL", "SELECT count(*) FROM categories"];
        let mut sessions: Vec<_> = (0..6).map(|_| Wire::login(&cluster.login()).expect("login")).collect();
        for session in &mut sessions {
            for text in texts.iter().cycle().take(9) {
                let simple = session.query(text).expect("answered at once");
                assert_eq!(tags(&simple), "TDCZ", "{text}: {simple:?}");
                let named = [message::parse("s", text, &[]), message::describe(b'S', "s"), message::sync()];
                session.send(&named.concat()).expect("sent");
                let frames = session.read_until_ready(1).expect("described at once");
                assert_eq!(tags(&frames), "1tTZ", "{text}: {frames:?}");
                let bound = [
                    message::bind("", "s", &[], &[1]),
                    message::execute("", 0),
                    message::close(b'S', "s"),
                    message::sync(),
                ];
                session.send(&bound.concat()).expect("sent");
                let frames = session.read_until_ready(1).expect("answered at once");
                assert_eq!(tags(&frames), "2DC3Z", "{text}: {frames:?}");
            }
        }
    }
}
