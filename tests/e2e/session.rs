//! Logging in, and what a session sees of the cluster.

use tests::cluster::{Cluster, first_column};
use tokio_postgres::error::SqlState;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_databases_own_users_log_in_with_their_passwords() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    assert_eq!(first_column(&client, "SELECT current_user").await, ["postgres"]);
    assert_eq!(first_column(&client, "SELECT current_database()").await, ["auction"]);
    client
        .batch_execute("CREATE ROLE bidder LOGIN PASSWORD 'a bidder''s secret'")
        .await
        .expect("create a role");
    let mut config = cluster.proxy.config("auction");
    config.user("bidder").password("a bidder's secret");
    let (bidder, connection) = config.connect(tokio_postgres::NoTls).await.expect("the new role logs in");
    tokio::spawn(connection);
    assert_eq!(first_column(&bidder, "SELECT current_user").await, ["bidder"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let cluster = Cluster::builder().shards(1).start().await;
    for user in ["postgres", "nobody-of-that-name"] {
        let mut config = cluster.proxy.config("auction");
        config.user(user).password("wrong");
        let error = config.connect(tokio_postgres::NoTls).await.err().expect("must not log in");
        assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD), "{user}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_databases_pass_through_to_the_first_shard() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect_to("postgres").await;
    client
        .batch_execute("CREATE TABLE plain (a int); INSERT INTO plain VALUES (7)")
        .await
        .expect("plain tables");
    assert_eq!(first_column(&client, "SELECT a FROM plain").await, ["7"]);
    let port = cluster.shard(0).primary.port.to_string();
    assert_eq!(first_column(&client, "SHOW port").await, [port]);
}
