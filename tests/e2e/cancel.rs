//! Cancel requests that arrive at another process than the session's (pitfall 7).

use std::time::{Duration, Instant};

use shard_admin::local_proxy::{LocalProxy, ProxyOptions};
use tests::cluster::{Cluster, eventually, first_column};
use tests::wire::{Login, PATIENCE, Wire};
use tests::{wire_message as message, wire_print};
use tokio_postgres::error::SqlState;

/// Sends the cancel request of `session` to `target`, waits until it is taken, and expects the session's query to end by it.
pub(crate) fn cancels(target: &Login, session: &mut Wire) {
    let (process, secret) = session.key().expect("every session has a key");
    let mut request = Wire::connect(target.address).expect("connects");
    request.send(&message::cancel(process, &secret)).expect("sent");
    assert!(request.closed_within(PATIENCE), "the request is answered by closing the connection");
    let frames = session.read_until_ready(1).expect("the query ends");
    let states: Vec<_> = frames.iter().filter_map(wire_print::sqlstate).collect();
    assert_eq!(states, ["57014"], "{frames:?}");
}

/// Sleeps on a shard until somebody cancels it.
fn sleep(session: &mut Wire) {
    session.send(&message::query("SELECT pg_sleep(60)")).expect("sent");
}

async fn all_sleep(cluster: &Cluster, count: usize) {
    eventually(Duration::from_secs(20), "all queries run", || async {
        let sql = "SELECT pid FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
        cluster.on_each_primary(sql).await.iter().map(Vec::len).sum::<usize>() == count
    })
    .await;
}

fn options(port: u16, metrics_port: u16, extra: &str) -> ProxyOptions {
    ProxyOptions { port, metrics_port, pool_mode: "transaction".to_owned(), extra: Some(extra.to_owned()) }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_07_a_cancel_reaches_the_process_that_shares_the_port() {
    let cluster = Cluster::builder().start().await;
    let metrics = shard_admin::local_cluster::ReservedPort::any().expect("a port");
    let options = options(cluster.proxy.port, metrics.number(), "");
    let sibling = LocalProxy::start_for(&cluster.nodes, "sibling", &options);
    let _sibling = sibling.await.expect("a second process on the same port");
    let login = cluster.login();
    let mut sessions: Vec<Wire> = Vec::new();
    let process = |session: &Wire| session.key().map(|(id, _)| id >> 19);
    let begun = Instant::now();
    // The kernel spreads connections, as soon as the sibling listens: five to each, no more than a pool has conns.
    while sessions.len() < 10 {
        assert!(begun.elapsed() < PATIENCE, "one process gets all connections");
        let session = Wire::login(&login).expect("login");
        if sessions.iter().filter(|known| process(known) == process(&session)).count() < 5 {
            sessions.push(session);
        }
    }
    sessions.iter_mut().for_each(sleep);
    all_sleep(&cluster, sessions.len()).await;
    for session in &mut sessions {
        cancels(&login, session);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_07_a_cancel_reaches_the_peer_that_has_the_session() {
    let cluster = Cluster::builder().start().await;
    let ports = [(); 2].map(|()| shard_admin::local_cluster::ReservedPort::any().expect("a port"));
    let port = ports[0].number();
    // Itself among them: the lists of all proxies may be the same.
    let peers = format!("[listen]\npeers = [\"127.0.0.1:{}\", \"127.0.0.1:{port}\"]\n", cluster.proxy.port);
    let options = options(port, ports[1].number(), &peers);
    let other = LocalProxy::start_for(&cluster.nodes, "other", &options);
    let other = other.await.expect("a second proxy");
    let login = cluster.login();
    let mut session = Wire::login(&login).expect("login");
    sleep(&mut session);
    all_sleep(&cluster, 1).await;
    let target = Login::new((other.host.as_str(), other.port), "auction").expect("loopback");
    let (process, _) = session.key().expect("a key");
    for wrong in [vec![0; 4], vec![1; 32]] {
        let mut request = Wire::connect(target.address).expect("connects");
        request.send(&message::cancel(process, &wrong)).expect("sent");
        assert!(request.closed_within(PATIENCE));
    }
    let client = cluster.connect().await;
    let own =
        "SELECT count(*) FROM pg_stat_activity WHERE query LIKE 'SELECT pg_sleep%' AND state = 'active'";
    let still = cluster.on_each_primary(own).await;
    assert_eq!(
        still.iter().flatten().filter(|count| *count == "1").count(),
        1,
        "a wrong key cancels nothing"
    );
    assert_eq!(first_column(&client, "SELECT 1").await, ["1"]);
    cancels(&target, &mut session);
}

/// A cancel request goes to all shards. One that has done its part may take it for the ROLLBACK that comes next: the transaction ends
/// there all the same.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_request_that_meets_a_rollback_leaves_no_transaction_open() {
    let cluster = Cluster::builder().shards(4).start().await;
    let (client, other) = (cluster.connect().await, cluster.connect().await);
    client.batch_execute("CREATE TABLE marks (auction_id bigint PRIMARY KEY, n int)").await.expect("create");
    other.batch_execute("BEGIN; INSERT INTO marks VALUES (1, 1)").await.expect("the row that is waited for");
    let rows: Vec<String> = (1..=40).map(|key| format!("({key}, 2)")).collect();
    let insert = format!("INSERT INTO marks VALUES {}", rows.join(", "));
    let waits = "SELECT count(*) FROM pg_locks WHERE NOT granted";
    for turn in 0..150 {
        let token = client.cancel_token();
        let cancel = async {
            eventually(PATIENCE, "it waits", || async {
                cluster.on_each_primary(waits).await.concat().iter().any(|count| count != "0")
            })
            .await;
            token.cancel_query(tokio_postgres::NoTls).await.expect("sent");
        };
        let inserted = async {
            let error = client.batch_execute(&insert).await.expect_err("cancelled");
            assert_eq!(error.code(), Some(&SqlState::QUERY_CANCELED), "turn {turn}: {error:?}");
        };
        tokio::join!(inserted, cancel);
    }
    other.batch_execute("ROLLBACK").await.expect("the end");
    client.batch_execute(&insert).await.expect("nobody holds a row");
}
