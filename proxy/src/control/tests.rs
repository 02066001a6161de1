//! The control side over real servers: roles and promotion, the store, LISTEN, strides.

use std::sync::Arc;
use std::time::Duration;

use router_config::topology::{NodeAddress, Shard, ShardId, Topology};

use super::testing::{Server, eventually, start, start_as, topology};
use super::{Lost, NodeRole, Nodes, Reload};

const HOME: ShardId = ShardId(0);

/// A reload with the settings of the tests and this topology.
fn again(topology: router_config::topology::Topology) -> Reload {
    Reload { settings: Arc::default(), topology, tls: None }
}

#[tokio::test]
async fn a_promoted_replica_takes_the_writes_and_the_old_primary_does_not_get_them_back() {
    let mut old = Server::start();
    let replica = old.replica();
    let mut map = topology(&[&old]);
    map.shards[0].replicas.push(replica.address.clone());
    let running = start(map).await.expect("control starts");
    let nodes = running.control.nodes();
    let (first, second) =
        (nodes.by_address(&old.address).expect("known"), nodes.by_address(&replica.address).expect("known"));
    assert_eq!(nodes.primary(HOME), Some(first));
    let lag = Duration::from_secs(5);
    eventually("the replica serves reads", || async { nodes.pick_replica(HOME, 0, lag) == Some(second) })
        .await;
    assert_eq!(nodes.replica_candidates(HOME, lag), [second]);

    let client = old.client("postgres").await;
    client.batch_execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1)").await.expect("a write");
    let lsn: String = client
        .query_one("SELECT (pg_current_wal_insert_lsn() - '0/0')::text", &[])
        .await
        .expect("an LSN")
        .get(0);
    let lsn: u64 = lsn.parse().expect("a number");
    assert_eq!(nodes.pick_replica(HOME, lsn + (1 << 40), lag), None, "nobody has replayed the future");
    eventually("the floor is reached", || async { nodes.pick_replica(HOME, lsn, lag) == Some(second) }).await;
    assert!(nodes.replay_lsn(second) >= lsn);

    let guard = nodes.enter(first).expect("known");
    assert_eq!(nodes.get(first).expect("known").in_flight(), 1);
    drop(guard);
    assert_eq!(nodes.get(first).expect("known").in_flight(), 0);
    assert_eq!(nodes.get(first).expect("known").prepared_limit(), Some(20));
    assert!(running.control.can_prepare().is_ok());

    old.stop();
    nodes.check_now(first);
    eventually("no primary", || async { nodes.primary(HOME).is_none() }).await;
    let missing = match running.control.ready() {
        Ok(missing) => missing.join("\n"),
        Err(missing) => missing,
    };
    assert!(missing.contains("shard-1"), "{missing}");
    replica.promote();
    eventually("the replica is the primary", || async { nodes.primary(HOME) == Some(second) }).await;
    old.restart();
    eventually("the old one is stale", || async {
        nodes.get(first).expect("known").role() == NodeRole::Stale
    })
    .await;
    assert_eq!(nodes.primary(HOME), Some(second));
    assert!(nodes.get(first).expect("known").failure().contains("old primary"));
}

#[tokio::test]
async fn an_old_primary_is_recognised_after_a_restart_of_the_proxy() {
    let (home, mut old) = (Server::start(), Server::start());
    let mut new = old.replica();
    let mut map = topology(&[&home, &old]);
    map.shards[1].replicas.push(new.address.clone());
    let running = start(map.clone()).await.expect("control starts");
    let second = ShardId(1);
    running.control.nodes().wait_primary(second, Duration::from_secs(5)).await.expect("up");
    old.stop();
    new.promote();
    let promoted = running.control.nodes().by_address(&new.address);
    eventually("promoted", || async { running.control.nodes().primary(second) == promoted }).await;
    let client = home.client("postgres").await;
    eventually("stored", || async {
        let sql = "SELECT 1 FROM gavel.shard WHERE name = 'shard-2' AND timeline = 2";
        !client.query(sql, &[]).await.expect("reads").is_empty()
    })
    .await;
    drop(running);
    new.stop();
    old.restart();
    let running = start(map.clone()).await.expect("control starts");
    let nodes = running.control.nodes();
    let first = nodes.by_address(&old.address).expect("known");
    eventually("stale", || async { nodes.get(first).expect("known").role() == NodeRole::Stale }).await;
    assert_eq!(nodes.primary(second), None);
    new.restart();
    let promoted = nodes.by_address(&new.address);
    eventually("the new one is back", || async { nodes.primary(second) == promoted }).await;
    drop(running);

    let other_system = "UPDATE gavel.shard SET system_id = system_id + 1";
    client.batch_execute(other_system).await.expect("writes");
    let running = start(map).await.expect("control starts: what is stored came with the home shard's data");
    let nodes = running.control.nodes();
    let node = nodes.by_address(&new.address).and_then(|id| nodes.get(id)).expect("known");
    eventually("refused", || async { node.failure().contains("delete its row of gavel.shard") }).await;
    assert_eq!((nodes.primary(second), nodes.primary(HOME).is_some()), (None, true));
}

#[tokio::test]
async fn a_stranger_and_a_second_primary_are_not_used() {
    let server = Server::start();
    let stranger = Server::start();
    let mut map = topology(&[&server]);
    let running = start(map.clone()).await.expect("control starts");
    let nodes = running.control.nodes();
    let first = nodes.by_address(&server.address).expect("known");
    assert_eq!(nodes.primary(HOME), Some(first));
    map.shards[0].replicas.push(stranger.address.clone());
    running.control.reload(again(map.clone())).await.expect("reloads");
    // Both copies come from one initialised directory: the same system, both in charge.
    eventually("held", || async { nodes.primary(HOME).is_none() }).await;
    assert!(nodes.why_no_primary(HOME).contains("2 nodes claim"), "{}", nodes.why_no_primary(HOME));
    map.shards[0].replicas.clear();
    running.control.reload(again(map)).await.expect_err("no primary to ask for the slot map");
    drop(stranger);
    eventually("one again", || async { nodes.primary(HOME) == Some(first) }).await;
}

#[tokio::test]
async fn the_first_slot_map_is_kept_and_renamed_shards_are_refused() {
    let (a, b) = (Server::start(), Server::start());
    let map = topology(&[&a, &b]);
    let first = start(map.clone()).await.expect("control starts");
    let stored = first.topology.load().slot_map.clone();
    assert_eq!(stored, map.slot_map);
    drop(first);

    let mut other = map.clone();
    other.slot_map.reverse();
    let second = start(other).await.expect("control starts");
    assert_eq!(second.topology.load().slot_map, stored, "the stored map is the truth");
    drop(second);

    let mut turned = map.clone();
    turned.shards.reverse();
    let error = start(turned).await.err().expect("refused").to_string();
    assert!(error.contains("is on shard \"shard-1\", which is not the first"), "{error}");

    let mut renamed = map.clone();
    renamed.shards[1].name = String::from("shard-two");
    let error = start(renamed).await.err().expect("refused").to_string();
    assert!(error.contains("shard \"shard-2\" is in the stored slot map"), "{error}");

    let running = start(map.clone()).await.expect("control starts");
    let mut reloaded = map;
    reloaded.slot_map.reverse();
    reloaded.tables.clear();
    running.control.reload(again(reloaded.clone())).await.expect("reloads");
    let now = running.topology.load_full();
    assert_eq!((&now.slot_map, now.tables.len()), (&stored, 0));
    reloaded.shards.pop();
    running.control.reload(again(reloaded)).await.expect_err("a shard is missing");
    assert_eq!(running.topology.load().shards.len(), 2);
}

#[tokio::test]
async fn a_role_that_may_not_make_the_store_is_told() {
    let server = Server::start();
    let client = server.client("postgres").await;
    client.batch_execute("CREATE ROLE weak LOGIN IN ROLE pg_monitor").await.expect("a role");
    let url = format!("host=127.0.0.1 port={} user=weak dbname=postgres", server.address.port);
    let (mut weak, conn) = tokio_postgres::connect(&url, tokio_postgres::NoTls).await.expect("a connection");
    tokio::spawn(conn);
    let map = topology(&[&server]);
    let made = super::store::load_or_init(&mut weak, &map.shards, (1, &map.slot_map)).await;
    let error = made.expect_err("refused").to_string();
    assert!(error.contains("needs CREATE on that database"), "{error}");
    let running = start(map.clone()).await.expect("the superuser makes it");
    drop(running);
    client
        .batch_execute("GRANT USAGE ON SCHEMA gavel TO weak; GRANT ALL ON ALL TABLES IN SCHEMA gavel TO weak")
        .await
        .expect("a grant");
    super::store::load_or_init(&mut weak, &map.shards, (1, &map.slot_map)).await.expect("may use it");
}

#[tokio::test]
async fn notifications_come_from_every_shard_once() {
    let (a, mut b) = (Server::start(), Server::start());
    let running = start(topology(&[&a, &b])).await.expect("control starts");
    running.control.nodes().wait_primary(ShardId(1), Duration::from_secs(5)).await.expect("up");
    let mut one = running.control.subscribe("postgres");
    let mut two = running.control.subscribe("postgres");
    one.listen("Bids \"x\"").await.expect("listens");
    one.listen("other").await.expect("listens");
    two.listen("other").await.expect("listens");
    assert_eq!(one.channels().len(), 2);
    let on_a = a.client("postgres").await;
    on_a.batch_execute("SELECT pg_notify('Bids \"x\"', 'from a')").await.expect("notifies");
    let got = one.recv().await.expect("a notification");
    assert_eq!((got.channel.as_ref(), got.payload.as_ref()), ("Bids \"x\"", "from a"));
    let on_b = b.client("postgres").await;
    on_b.batch_execute("NOTIFY other, 'from b'").await.expect("notifies");
    assert_eq!(one.recv().await.expect("a notification").payload.as_ref(), "from b");
    assert_eq!(two.recv().await.expect("a notification").payload.as_ref(), "from b");

    one.unlisten(Some("other"));
    on_b.batch_execute("NOTIFY other, 'again'").await.expect("notifies");
    assert_eq!(two.recv().await.expect("a notification").payload.as_ref(), "again");
    assert!(one.try_recv().is_none());
    two.unlisten(None);
    two.listen("other").await.expect("listens again after UNLISTEN *");
    on_b.batch_execute("NOTIFY other, 'last'").await.expect("notifies");
    assert_eq!(two.recv().await.expect("a notification").payload.as_ref(), "last");
    drop(on_b);

    b.stop();
    let lost = two.recv().await.expect_err("the listener is gone");
    assert_eq!(lost, Lost::Connection(String::from("shard-2")));
}

#[tokio::test]
async fn a_session_that_does_not_read_is_told_that_it_missed_something() {
    let server = Server::start();
    let running = start(topology(&[&server])).await.expect("control starts");
    let mut slow = running.control.subscribe("postgres");
    slow.listen("flood").await.expect("listens");
    let mut other = running.control.subscribe("postgres");
    other.listen("end").await.expect("listens");
    let client = server.client("postgres").await;
    let sql = "SELECT pg_notify('flood', i::text) FROM generate_series(1, 6000) i";
    client.batch_execute(sql).await.expect("notifies");
    client.batch_execute("NOTIFY \"end\"").await.expect("notifies");
    other.recv().await.expect("the flood has passed");
    let mut seen = 0;
    let end = loop {
        match tokio::time::timeout(Duration::from_secs(10), slow.recv()).await.expect("does not hang") {
            Ok(_) => seen += 1,
            Err(lost) => break lost,
        }
    };
    assert_eq!((seen, end), (super::listen::QUEUE, Lost::Overflow));
}

#[tokio::test]
async fn generated_keys_do_not_collide_over_shards() {
    let (a, b) = (Server::start(), Server::start());
    let ddl = "CREATE TABLE auctions (auction_id bigserial PRIMARY KEY); \
               CREATE TABLE bids (id bigint GENERATED ALWAYS AS IDENTITY, auction_id bigint); \
               CREATE TABLE small (id serial, auction_id bigint); \
               CREATE SEQUENCE loose; CREATE TABLE lots (id bigint DEFAULT nextval('loose'), auction_id bigint); \
               CREATE TABLE users (id serial)";
    let (on_a, on_b) = (a.client("postgres").await, b.client("postgres").await);
    for client in [&on_a, &on_b] {
        client.batch_execute(ddl).await.expect("DDL");
    }
    on_b.batch_execute("INSERT INTO bids (auction_id) SELECT 1 FROM generate_series(1, 5)")
        .await
        .expect("rows");
    let running = start(topology(&[&a, &b])).await.expect("control starts");
    running.control.nodes().wait_primary(ShardId(1), Duration::from_secs(5)).await.expect("up");
    let catalog = running.control.catalog("postgres").await.expect("the catalog");
    let report = running.control.align_sequences(&catalog).await.expect("aligns");
    assert_eq!(report.changed, ["public.bids_id_seq", "public.loose", "public.small_id_seq"]);
    assert_eq!(report.notes.len(), 1);
    assert!(report.notes[0].message.contains("make the column bigint"), "{:?}", report.notes);

    let draw = "INSERT INTO bids (auction_id) VALUES (1) RETURNING id";
    let ids = async |client: &tokio_postgres::Client| {
        let first: i64 = client.query_one(draw, &[]).await.expect("a row").get(0);
        let second: i64 = client.query_one(draw, &[]).await.expect("a row").get(0);
        (first, second)
    };
    assert_eq!(ids(&on_a).await, (1, 1025));
    assert_eq!(ids(&on_b).await, (1026, 2050), "values in use are passed over");
    let again = running.control.align_sequences(&catalog).await.expect("aligns");
    assert!(again.changed.is_empty(), "{again:?}");
    assert_eq!(ids(&on_a).await, (2049, 3073));
    let sql = "SELECT nextval('auctions_auction_id_seq'), nextval('users_id_seq')";
    on_a.query_one(sql, &[]).await.expect("draws");
    let row = on_a.query_one(sql, &[]).await.expect("draws");
    assert_eq!((row.get::<_, i64>(0), row.get::<_, i64>(1)), (2, 2), "keys and reference tables are left");
    let small: i32 = on_b
        .query_one("INSERT INTO small (auction_id) VALUES (1) RETURNING id", &[])
        .await
        .expect("a row")
        .get(0);
    assert_eq!(small, 2);
}

#[tokio::test]
async fn metrics_and_readiness_are_served() {
    let server = Server::start();
    let running = start(topology(&[&server])).await.expect("control starts");
    let listener = crate::http::bind("127.0.0.1:0").await.expect("a port");
    let address = listener.local_addr().expect("an address");
    let control = running.control.clone();
    let ready: crate::http::Ready = Arc::new(move || control.ready());
    running.runtime.handle().spawn(crate::http::serve(listener, Arc::clone(&running.metrics), ready));
    let fetch = async |path: &str| {
        use tokio::io::{AsyncReadExt, AsyncWriteExt};
        let mut stream = tokio::net::TcpStream::connect(address).await.expect("a connection");
        let request = format!("GET {path} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await.expect("written");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.expect("an answer");
        answer
    };
    assert!(fetch("/healthz").await.starts_with("HTTP/1.1 200"));
    assert!(fetch("/readyz").await.starts_with("HTTP/1.1 200"));
    let metrics = fetch("/metrics").await;
    assert!(metrics.contains("gavel_node_up{"), "{metrics}");
    assert!(metrics.contains("gavel_topology_epoch 1"), "{metrics}");
}

#[test]
fn a_shard_that_is_down_has_no_turn_while_another_is_up() {
    let address = |port: u16| NodeAddress { host: String::from("localhost"), port };
    let shard = |n: u16| Shard {
        name: format!("shard-{n}"),
        primary: address(n),
        replicas: vec![address(100 + n)],
        weight: 1.0,
    };
    let nodes = Nodes::default();
    assert_eq!(nodes.in_turn(7), HOME, "nothing is known yet");
    nodes.adopt(&Topology::new((0..4).map(shard).collect()), &[]);
    let turns = || (0..8).map(|turn| nodes.in_turn(turn).0).collect::<Vec<_>>();
    let set = |n: u16, up: bool| {
        let shard = nodes.shard(ShardId(n)).expect("known");
        nodes.set_primary(&shard, up.then_some(shard.members[0].id), String::new());
    };
    assert_eq!(turns(), [0, 1, 2, 3, 0, 1, 2, 3], "none is better than another");
    (0..4).for_each(|n| set(n, true));
    assert_eq!(turns(), [0, 1, 2, 3, 0, 1, 2, 3]);
    set(1, false);
    set(3, false);
    assert_eq!(turns(), [0, 2, 2, 0, 0, 2, 2, 0]);
    // A replica is not preferred to a primary, but to nothing.
    nodes.members(ShardId(3))[1].judged(true, NodeRole::Replica, String::new());
    assert_eq!(turns(), [0, 2, 2, 0, 0, 2, 2, 0]);
    set(0, false);
    set(2, false);
    assert_eq!(turns(), [3; 8]);
}

#[tokio::test]
async fn a_role_that_may_not_read_the_store_is_named_with_its_setting() {
    let server = Server::start();
    drop(start(topology(&[&server])).await.expect("the store is made"));
    server.client("postgres").await.batch_execute("CREATE ROLE watcher LOGIN").await.expect("create");
    let error = start_as("watcher", topology(&[&server])).await.err().expect("it may not").to_string();
    assert!(error.contains("permission denied for schema gavel (42501)"), "{error}");
    assert!(error.contains("The role \"watcher\" (auth.query_user) must own"), "{error}");
}
