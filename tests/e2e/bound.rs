//! Sessions that keep something on connections of more than one shard: nothing takes the place of anything else.

use tests::cluster::{Cluster, first_column};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::house::{add_auctions, build, one_of_each};

const LOCK: &str = "SELECT pg_try_advisory_lock(81)";

async fn start(mode: &str) -> (Cluster, Client, String) {
    let extra = "[listen]\nthreads = 1\n[pool]\nsize = 3\nwait = \"2s\"";
    let cluster = Cluster::builder().pool_mode(mode).config_extra(extra).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 8).await;
    let (_, there) = one_of_each(&cluster).await;
    let declare =
        format!("DECLARE h CURSOR WITH HOLD FOR SELECT auction_id FROM auctions WHERE auction_id = {there}");
    (cluster, client, declare)
}

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_kept_on_one_shard_stays_when_another_shard_keeps_something() {
    for mode in ["transaction", "session"] {
        let (cluster, client, declare) = start(mode).await;
        let other = cluster.connect().await;
        assert_eq!(first_column(&client, LOCK).await, ["t"]);
        run(&client, "CREATE TEMP TABLE q (a int)").await;
        run(&client, "INSERT INTO q VALUES (1)").await;
        run(&client, &declare).await;
        assert_eq!(first_column(&other, LOCK).await, ["f"], "{mode}");
        assert_eq!(first_column(&client, "SELECT a FROM q").await, ["1"], "{mode}");
        assert_eq!(first_column(&client, "FETCH ALL h").await.len(), 1, "{mode}");
        run(&client, "CLOSE h").await;
        assert_eq!(first_column(&client, "SELECT a FROM q").await, ["1"], "{mode}");
        // A setting that only one conn has: the other shards may not answer, and keep what they have.
        let leaves =
            "/* gavel: shard=shard-2 */ DO $$ BEGIN PERFORM set_config('work_mem', '5MB', false); END $$";
        run(&client, leaves).await;
        let error = client.batch_execute("SELECT a FROM q").await.expect_err("another shard's settings");
        assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{mode}: {error:?}");
        assert_eq!(first_column(&client, "SHOW work_mem").await, ["5MB"], "{mode}");
        assert_eq!(first_column(&other, LOCK).await, ["f"], "{mode}");
        run(&client, "DISCARD ALL").await;
        assert_eq!(first_column(&other, LOCK).await, ["t"], "{mode}");
        assert_eq!(first_column(&client, "SHOW work_mem").await, ["4MB"], "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn temporary_tables_are_found_wherever_the_session_was_before() {
    for mode in ["transaction", "session"] {
        let (cluster, client, declare) = start(mode).await;
        let (_, there) = one_of_each(&cluster).await;
        run(&client, &declare).await;
        run(&client, "CREATE TEMP TABLE q (a int)").await;
        run(&client, "INSERT INTO q VALUES (1)").await;
        assert_eq!(first_column(&client, "FETCH ALL h").await, [there.to_string()], "{mode}");
        assert_eq!(first_column(&client, "SELECT a FROM q").await, ["1"], "{mode}");
        run(&client, "DROP TABLE q").await;
        run(&client, "DISCARD ALL").await;
        let error = client.batch_execute("FETCH h").await.expect_err("closed");
        assert_eq!(error.code(), Some(&SqlState::INVALID_CURSOR_NAME), "{mode}");
        run(&client, "BEGIN").await;
        assert_eq!(
            first_column(&client, &format!("SELECT title FROM auctions WHERE auction_id = {there}")).await,
            ["lot"]
        );
        run(&client, "CREATE TEMP TABLE q (a int)").await;
        run(&client, "INSERT INTO q VALUES (2)").await;
        run(&client, "COMMIT").await;
        assert_eq!(first_column(&client, "SELECT a FROM q").await, ["2"], "{mode}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn discard_all_frees_what_is_held_on_every_shard() {
    for mode in ["transaction", "session"] {
        let (cluster, client, declare) = start(mode).await;
        let other = cluster.connect().await;
        for close in ["CLOSE h", "SELECT 1"] {
            assert_eq!(first_column(&client, LOCK).await, ["t"], "{mode}");
            run(&client, &declare).await;
            run(&client, close).await;
            assert_eq!(first_column(&other, LOCK).await, ["f"], "{mode}, {close}");
            run(&client, "DISCARD ALL").await;
            assert_eq!(first_column(&other, LOCK).await, ["t"], "{mode}, {close}");
            assert_eq!(first_column(&other, "SELECT pg_advisory_unlock(81)").await, ["t"], "{mode}");
            let cursors = cluster
                .on_each_primary("SELECT count(*) FROM pg_locks WHERE locktype = 'advisory' AND objid = 81");
            assert_eq!(cursors.await.concat(), ["0", "0"], "{mode}, {close}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_that_is_closed_binds_nobody() {
    let (cluster, client, declare) = start("transaction").await;
    let sessions = [cluster.connect().await, cluster.connect().await, cluster.connect().await];
    let (_, there) = one_of_each(&cluster).await;
    let read = format!("SELECT title FROM auctions WHERE auction_id = {there}");
    for session in &sessions {
        run(session, &declare).await;
    }
    // Three conns are all that there are.
    let error = client.batch_execute(&read).await.expect_err("no conn is free");
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS));
    let hint = error.as_db_error().and_then(|error| error.hint()).unwrap_or_default();
    assert!(hint.contains("DISCARD ALL"), "{hint}");
    run(&sessions[0], "CLOSE h").await;
    assert_eq!(first_column(&client, &read).await, ["lot"]);
}
