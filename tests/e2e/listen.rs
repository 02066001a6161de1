//! LISTEN and NOTIFY on a sharded cluster (pitfalls 4 and 20): whatever shard notifies, and whatever conn the listener uses.

use std::time::Duration;

use tests::cluster::{Cluster, eventually, first_column};
use tests::wire::{Frame, PATIENCE, Wire};
use tests::wire_message as message;

use crate::house::{add_auctions, build, one_of_each};

fn login(cluster: &Cluster) -> Wire {
    Wire::login(&cluster.login()).expect("login through the proxy")
}

/// Tags of a reply, in order.
fn tags(frames: &[Frame]) -> String {
    frames.iter().map(|frame| char::from(frame.tag)).collect()
}

/// The reply to a statement that must succeed, by its tags.
fn run(wire: &mut Wire, sql: &str) -> String {
    let frames = wire.query(sql).expect("an answer");
    let tags = tags(&frames);
    assert!(!tags.contains('E'), "{sql}: {frames:?}");
    tags
}

/// Channel and payload of a NotificationResponse.
fn note(frame: &Frame) -> (String, String) {
    assert_eq!(frame.tag, b'A', "{frame:?}");
    let mut texts = frame.body[4..].split(|byte| *byte == 0);
    let mut text = || String::from_utf8_lossy(texts.next().unwrap_or_default()).into_owned();
    (text(), text())
}

/// The payloads of notifications among frames.
fn payloads(frames: &[Frame]) -> Vec<String> {
    frames.iter().filter(|frame| frame.tag == b'A').map(|frame| note(frame).1).collect()
}

/// What an idle listener hears next.
fn hears(wire: &mut Wire) -> String {
    let frame = wire.frame(PATIENCE).expect("in time").expect("not closed");
    note(&frame).1
}

fn channels(wire: &mut Wire) -> Vec<String> {
    let rows = wire.rows("SELECT * FROM pg_listening_channels() c ORDER BY c").expect("the channels");
    rows.into_iter().flatten().flatten().collect()
}

const TRIGGER: [&str; 2] = [
    "CREATE FUNCTION tell() RETURNS trigger LANGUAGE plpgsql AS \
     $$ BEGIN PERFORM pg_notify('bids', new.auction_id::text); RETURN NULL; END $$",
    "CREATE TRIGGER tell AFTER INSERT ON bids FOR EACH ROW EXECUTE FUNCTION tell()",
];

/// Pitfall 4: triggers notify on the shard of the row.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_04_listeners_hear_triggers_on_every_shard() {
    for mode in ["transaction", "session"] {
        let cluster = Cluster::builder().pool_mode(mode).start().await;
        let client = cluster.connect().await;
        build(&client).await;
        add_auctions(&client, 20).await;
        for sql in TRIGGER {
            client.batch_execute(sql).await.expect("the trigger is made on every shard");
        }
        let (one, two) = one_of_each(&cluster).await;
        let mut listener = login(&cluster);
        assert_eq!(run(&mut listener, "LISTEN bids"), "CZ");
        for id in [one, two, one] {
            let bid = format!("INSERT INTO bids (auction_id, amount) VALUES ({id}, 1)");
            client.batch_execute(&bid).await.expect("a bid");
            assert_eq!(hears(&mut listener), id.to_string(), "{mode}: while idle");
        }
        for id in [one, two] {
            let bid = format!("INSERT INTO bids (auction_id, amount) VALUES ({id}, 2)");
            let frames = listener.query(&bid).expect("a bid of its own");
            assert_eq!(tags(&frames), "CAZ", "{mode}: in front of ReadyForQuery");
            assert_eq!(payloads(&frames), [id.to_string()]);
        }
    }
}

/// Pitfall 4: as PostgreSQL, between transactions alone, its own in front of ReadyForQuery.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_04_notifications_wait_for_the_end_of_the_block() {
    let cluster = Cluster::builder().start().await;
    let (mut listener, mut other) = (login(&cluster), login(&cluster));
    run(&mut listener, "LISTEN news");
    run(&mut listener, "BEGIN");
    run(&mut listener, "NOTIFY news, 'own 1'");
    run(&mut other, "NOTIFY news, 'other'");
    assert_eq!(run(&mut listener, "SELECT 1"), "TDCZ");
    assert_eq!(run(&mut listener, "SELECT pg_notify('news', 'own 2')"), "TDCZ");
    let frames = listener.query("COMMIT").expect("commit");
    assert_eq!(tags(&frames), "CAAAZ");
    assert_eq!(payloads(&frames), ["other", "own 1", "own 2"]);
    assert_eq!(run(&mut listener, "BEGIN; NOTIFY news, 'never'; ROLLBACK"), "CCCZ");
    assert_eq!(run(&mut listener, "NOTIFY news, 'last'"), "CAZ");
    let pipeline = [
        message::parse("", "NOTIFY news, 'extended'", &[]),
        message::bind("", "", &[], &[]),
        message::execute("", 0),
        message::sync(),
    ];
    listener.send(&pipeline.concat()).expect("sent");
    assert_eq!(tags(&listener.read_until_ready(1).expect("an answer")), "12CAZ");
}

/// Pitfall 4: LISTEN and UNLISTEN are part of their transaction.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_04_listen_takes_effect_at_commit() {
    let cluster = Cluster::builder().start().await;
    let mut wire = login(&cluster);
    for sql in ["BEGIN", "LISTEN a", "SAVEPOINT s", "LISTEN b", "ROLLBACK TO s", "LISTEN c"] {
        run(&mut wire, sql);
    }
    assert!(channels(&mut wire).is_empty(), "not before the commit");
    run(&mut wire, "COMMIT");
    assert_eq!(channels(&mut wire), ["a", "c"]);
    for sql in ["BEGIN", "UNLISTEN *", "LISTEN d", "ROLLBACK"] {
        run(&mut wire, sql);
    }
    assert_eq!(channels(&mut wire), ["a", "c"]);
    run(&mut wire, "LISTEN d; BEGIN; LISTEN e; ROLLBACK");
    run(&mut wire, "BEGIN; LISTEN e; UNLISTEN a; LISTEN \"It's\"; COMMIT");
    assert_eq!(channels(&mut wire), ["It's", "c", "e"]);
    let failed = wire.query("LISTEN f; SELECT 1/0").expect("an answer");
    assert_eq!(tags(&failed), "CTEZ".replace('T', ""), "{failed:?}");
    run(&mut wire, "BEGIN");
    wire.query("SELECT 1/0").expect("an error");
    assert_eq!(tags(&wire.query("LISTEN g").expect("an answer")), "EZ");
    wire.query("ROLLBACK").expect("an answer");
    assert_eq!(channels(&mut wire), ["It's", "c", "e"]);
    assert_eq!(run(&mut wire, "UNLISTEN c"), "CZ");
    assert_eq!(channels(&mut wire), ["It's", "e"]);
    run(&mut wire, "DISCARD ALL");
    assert!(channels(&mut wire).is_empty());
    assert_eq!(run(&mut wire, "NOTIFY e"), "CZ");
}

/// The same in pipelines.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_04_listen_in_a_pipeline() {
    let cluster = Cluster::builder().start().await;
    let mut wire = login(&cluster);
    let pipeline = |wire: &mut Wire, texts: &[&str]| {
        let mut bytes: Vec<u8> = texts.iter().flat_map(|sql| message::step(sql)).collect();
        bytes.extend(message::sync());
        wire.send(&bytes).expect("sent");
        tags(&wire.read_until_ready(1).expect("an answer"))
    };
    assert_eq!(pipeline(&mut wire, &["LISTEN a", "SELECT 1", "LISTEN b"]), "12C12DC12CZ");
    assert_eq!(pipeline(&mut wire, &["LISTEN c", "SELECT 1/0"]), "12C1EZ");
    assert_eq!(pipeline(&mut wire, &["BEGIN", "LISTEN c", "ROLLBACK"]), "12C12C12CZ");
    let savepoint = ["BEGIN", "SELECT 1", "SAVEPOINT s", "LISTEN c", "ROLLBACK TO s", "LISTEN d", "COMMIT"];
    pipeline(&mut wire, &savepoint);
    assert_eq!(channels(&mut wire), ["a", "b", "d"]);
    let listing = [
        message::parse("", "SELECT * FROM pg_listening_channels() AS c WHERE c > $1 ORDER BY 1", &[25]),
        message::bind("", "", &[message::Value::Text(b"a".to_vec())], &[]),
        message::describe(b'P', ""),
        message::execute("", 0),
        message::sync(),
    ];
    wire.send(&listing.concat()).expect("sent");
    assert_eq!(tags(&wire.read_until_ready(1).expect("an answer")), "12TDDCZ");
}

/// Pitfall 4: a listener holds no connection; NOTIFY works in a transaction that writes to another shard than the first.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_20_notify_goes_along_with_the_writes() {
    let one_conn = "[pool]\nsize = 1\nwait = \"5s\"\n[listen]\nthreads = 1\n";
    let cluster = Cluster::builder().config_extra(one_conn).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let (_, two) = one_of_each(&cluster).await;
    let mut listener = login(&cluster);
    run(&mut listener, "LISTEN news");
    for notify in ["NOTIFY news, 'x'", "SELECT pg_notify('news', 'x')"] {
        let bid = format!("INSERT INTO bids (auction_id, amount) VALUES ({two}, 3)");
        for sql in ["BEGIN", bid.as_str(), notify, "COMMIT"] {
            client.batch_execute(sql).await.expect("one shard: committed in one phase");
        }
        assert_eq!(hears(&mut listener), "x");
    }
}

/// A trigger that notifies forbids PREPARE: what writes on several shards says so, and nothing of it stays.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_20_a_trigger_that_notifies_and_two_shards() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    for sql in TRIGGER {
        client.batch_execute(sql).await.expect("the trigger is made on every shard");
    }
    let (one, two) = one_of_each(&cluster).await;
    let bid = |auction: i64| format!("INSERT INTO bids (auction_id, amount) VALUES ({auction}, 1)");
    let both = format!("INSERT INTO bids (auction_id, amount) VALUES ({one}, 1), ({two}, 1)");
    let block = format!("BEGIN; {}; {}; COMMIT", bid(one), bid(two));
    for sql in [both, block] {
        let error = client.batch_execute(&sql).await.expect_err("it would have to be prepared");
        let error = error.as_db_error().expect("of the server").clone();
        let told = format!("{} {} {:?}", error.message(), error.detail().unwrap_or_default(), error.hint());
        assert!(error.code().code() == "0A000" && told.contains("NOTIFY"), "{sql}: {told}");
        client.batch_execute("ROLLBACK").await.expect("rollback");
        assert_eq!(cluster.on_each_primary("SELECT count(*) FROM bids").await.concat(), ["0", "0"]);
        assert_eq!(
            cluster.on_each_primary("SELECT gid FROM pg_prepared_xacts").await.concat(),
            Vec::<String>::new()
        );
    }
    client.batch_execute(&bid(two)).await.expect("one shard");
}

/// Whoever may have missed something is told, and can listen again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_listening_connection_ends_the_sessions_that_listen() {
    let cluster = Cluster::builder().start().await;
    let (mut listener, mut other) = (login(&cluster), login(&cluster));
    run(&mut listener, "LISTEN news");
    let kill = "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE query LIKE 'LISTEN %news%'";
    let second = cluster.shard(1).primary.connect("auction").await.expect("the second shard answers");
    assert_eq!(first_column(&second, kill).await, ["t"], "the second shard is listened to");
    let frame = listener.frame(PATIENCE).expect("in time").expect("a last word");
    assert_eq!((frame.tag, tests::wire_print::sqlstate(&frame).as_deref()), (b'E', Some("08006")));
    assert!(listener.closed_within(PATIENCE));
    assert_eq!(run(&mut other, "SELECT 1"), "TDCZ", "who does not listen goes on");
    eventually(Duration::from_secs(10), "LISTEN works again", || {
        let frames = other.query("LISTEN news").expect("an answer");
        let listens = !tags(&frames).contains('E');
        async move { listens }
    })
    .await;
    assert_eq!(run(&mut other, "NOTIFY news, 'again'"), "CAZ");
}

/// Databases that are passed through to one node keep plain behaviour.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_of_an_unrouted_database_are_heard_too() {
    let cluster = Cluster::builder().start().await;
    let mut login = cluster.login();
    "postgres".clone_into(&mut login.database);
    let mut listener = Wire::login(&login).expect("login");
    let mut other = Wire::login(&login).expect("login");
    run(&mut listener, "LISTEN news");
    assert_eq!(channels(&mut listener), ["news"]);
    run(&mut other, "NOTIFY news, 'plain'");
    assert_eq!(hears(&mut listener), "plain");
    assert_eq!(run(&mut listener, "NOTIFY news, 'own'"), "CAZ");
}
