//! DDL and what uses it within one transaction, one text or one pipeline: migrations do nothing else.

use tests::cluster::{Cluster, first_column};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::house::{add_auctions, build, holders};

async fn run(client: &Client, sql: &str) {
    client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
}

async fn count(client: &Client, table: &str) -> usize {
    first_column(client, &format!("SELECT * FROM {table}")).await.len()
}

const LOTS: &str = "CREATE TABLE lots (auction_id bigint PRIMARY KEY, title text)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_used_in_the_transaction_that_creates_it() {
    let cluster = Cluster::builder().start().await;
    let mut client = cluster.connect().await;
    for keep in [false, true] {
        let transaction = client.transaction().await.expect("begin");
        transaction.batch_execute(LOTS).await.expect("create");
        for id in 1..=20_i64 {
            let insert = "INSERT INTO lots VALUES ($1, 'a lot')";
            assert_eq!(transaction.execute(insert, &[&id]).await.expect("insert"), 1);
        }
        transaction.batch_execute("ALTER TABLE lots ADD COLUMN price numeric").await.expect("alter");
        transaction
            .batch_execute("INSERT INTO lots VALUES (21, 'x', 1.5), (22, 'y', 2.5)")
            .await
            .expect("insert");
        let rows =
            transaction.query("SELECT * FROM lots WHERE price IS NOT NULL", &[]).await.expect("select");
        assert_eq!(rows.len(), 2);
        if keep {
            transaction.commit().await.expect("commit");
        } else {
            transaction.rollback().await.expect("rollback");
            let error = client.batch_execute("SELECT * FROM lots").await.expect_err("it is gone");
            assert_eq!(error.code(), Some(&SqlState::UNDEFINED_TABLE), "{error:?}");
        }
    }
    assert_eq!(holders(&cluster, "lots", "true").await, [0, 1], "rows are where they belong");
    let found = first_column(&client, "SELECT title FROM lots WHERE auction_id = 7").await;
    assert_eq!(found, ["a lot"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_text_uses_what_it_creates() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    let rows: Vec<String> = (1..=20).map(|id| format!("({id}, 'lot')")).collect();
    run(&client, &format!("{LOTS}; INSERT INTO lots VALUES {}", rows.join(", "))).await;
    assert_eq!(holders(&cluster, "lots", "true").await, [0, 1]);
    assert_eq!(count(&client, "lots").await, 20);
    run(
        &client,
        "BEGIN; CREATE TABLE tags (auction_id bigint, tag text); INSERT INTO tags VALUES (1, 'a'), (2, 'b'), \
                  (3, 'c'), (4, 'd'); COMMIT",
    )
    .await;
    assert_eq!(holders(&cluster, "tags", "true").await, [0, 1]);
    // A failure takes all of the text back.
    let error = client
        .batch_execute(
            "CREATE TABLE odd (auction_id bigint); INSERT INTO odd VALUES (1), (2), (3), (4); SELECT 1/0",
        )
        .await
        .expect_err("a division by zero");
    assert_eq!(error.code(), Some(&SqlState::DIVISION_BY_ZERO), "{error:?}");
    assert_eq!(cluster.on_each_primary("SELECT to_regclass('odd')").await, [["NULL"], ["NULL"]]);
    // Dropped and created anew as a table of another kind.
    run(&client, "DROP TABLE tags; CREATE TABLE tags (n int); INSERT INTO tags VALUES (1), (2), (3)").await;
    assert_eq!(holders(&cluster, "tags", "true").await, [0]);
    run(&client, "CREATE SCHEMA other").await;
    run(
        &client,
        "SET search_path TO other; CREATE TABLE tags (auction_id int); \
                  INSERT INTO tags VALUES (1), (2), (3), (4), (5)",
    )
    .await;
    assert_eq!(holders(&cluster, "other.tags", "true").await, [0, 1]);
    run(&client, "RESET search_path; INSERT INTO tags VALUES (4)").await;
    assert_eq!(holders(&cluster, "tags", "n = 4").await, [0]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_savepoint_takes_ddl_back() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    run(&client, "BEGIN").await;
    run(&client, "CREATE TABLE things (n int)").await;
    run(&client, "INSERT INTO things VALUES (1)").await;
    run(&client, "SAVEPOINT s").await;
    run(&client, "DROP TABLE things").await;
    run(&client, "CREATE TABLE things (auction_id bigint)").await;
    run(&client, "INSERT INTO things VALUES (1), (2), (3), (4)").await;
    run(&client, "ROLLBACK TO s").await;
    run(&client, "INSERT INTO things VALUES (2), (3)").await;
    run(&client, "COMMIT").await;
    assert_eq!(
        cluster.on_each_primary("SELECT n FROM things ORDER BY 1").await,
        [vec!["1", "2", "3"], vec![]]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn new_sequences_do_not_collide_before_the_commit() {
    let cluster = Cluster::builder().start().await;
    let mut client = cluster.connect().await;
    let transaction = client.transaction().await.expect("begin");
    let tables = "CREATE TABLE sales (auction_id bigserial PRIMARY KEY, title text); \
                  CREATE TABLE offers (id bigserial PRIMARY KEY, auction_id bigint REFERENCES sales)";
    transaction.batch_execute(tables).await.expect("create");
    let mut ids = Vec::new();
    for _ in 0..20 {
        let insert = "INSERT INTO sales (title) VALUES ('t') RETURNING auction_id";
        let key: i64 = transaction.query_one(insert, &[]).await.expect("insert").get(0);
        let insert = "INSERT INTO offers (auction_id) VALUES ($1) RETURNING id";
        ids.push(transaction.query_one(insert, &[&key]).await.expect("insert").get::<_, i64>(0));
    }
    transaction.commit().await.expect("commit");
    for _ in 0..20 {
        let insert = "INSERT INTO sales (title) VALUES ('t') RETURNING auction_id";
        let key: i64 = client.query_one(insert, &[]).await.expect("insert").get(0);
        let insert = "INSERT INTO offers (auction_id) VALUES ($1) RETURNING id";
        ids.push(client.query_one(insert, &[&key]).await.expect("insert").get::<_, i64>(0));
    }
    ids.sort_unstable();
    ids.dedup();
    assert_eq!(ids.len(), 40, "{ids:?}");
    assert_eq!(holders(&cluster, "offers", "true").await, [0, 1]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn local_settings_say_what_names_mean() {
    let cluster = Cluster::builder().start().await;
    let mut client = cluster.connect().await;
    run(&client, "CREATE SCHEMA other").await;
    run(&client, "CREATE TABLE tags (n int)").await;
    run(&client, "CREATE TABLE other.tags (auction_id int)").await;
    let transaction = client.transaction().await.expect("begin");
    let insert = transaction.prepare("INSERT INTO tags VALUES ($1)").await.expect("prepare");
    transaction.execute(&insert, &[&0_i32]).await.expect("of public");
    transaction.batch_execute("SET LOCAL search_path TO other").await.expect("set");
    for id in 1..=8_i32 {
        transaction.execute(&insert, &[&id]).await.expect("of other");
    }
    transaction.commit().await.expect("commit");
    assert_eq!(cluster.on_each_primary("SELECT n FROM tags").await, [vec!["0"], vec![]]);
    assert_eq!(holders(&cluster, "other.tags", "true").await, [0, 1]);
    let key = first_column(&client, "SELECT auction_id FROM other.tags WHERE auction_id = 5").await;
    assert_eq!(key, ["5"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_prepared_before_ddl_is_read_again() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 10).await;
    run(&client, "CREATE TABLE marks (gone int, auction_id bigint, n int)").await;
    let insert = client.prepare("INSERT INTO marks VALUES ($1, $2)").await.expect("prepare");
    client.execute(&insert, &[&1_i32, &1_i64]).await.expect("insert");
    run(&client, "ALTER TABLE marks DROP COLUMN gone").await;
    run(&client, "ALTER TABLE marks ALTER COLUMN n TYPE bigint").await;
    for key in 1..=10_i64 {
        // The types of the parameters are now others: PostgreSQL refuses, or the key is the first.
        let _ = client.execute("INSERT INTO marks VALUES ($1, $2)", &[&key, &0_i64]).await.expect("insert");
    }
    for key in 1..=10_i64 {
        let found = client.query("SELECT 1 FROM marks WHERE auction_id = $1 AND n = 0", &[&key]).await;
        assert_eq!(found.expect("select").len(), 1, "{key}");
    }
}
