//! The life of the proxy: metrics, the console, reloading, draining, starting again.

use std::time::Duration;

use tests::cluster::{Cluster, eventually, first_column};
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
