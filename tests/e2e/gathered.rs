//! Rows gathered in one place: what the connection that computes the answer would see otherwise than the session is refused.

use tests::cluster::{Cluster, first_column};
use tests::wire::Wire;
use tests::wire_message as message;
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::beside::{Beside, said_but_settings};
use crate::set_off::refused;

const SET_UP: &[&str] = &[
    "CREATE TABLE zb (auction_id bigint PRIMARY KEY, k int, v int)",
    "INSERT INTO zb SELECT i, i % 3, i FROM generate_series(1, 40) i",
    "CREATE TABLE categories (id int PRIMARY KEY, name text)",
    "INSERT INTO categories VALUES (0, 'zero'), (1, 'one'), (2, 'two')",
    "CREATE FUNCTION zcat(int) RETURNS text LANGUAGE sql STABLE AS 'SELECT name FROM categories WHERE id = $1'",
];

async fn run(client: &Client, statements: &[&str]) {
    for sql in statements {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

async fn started() -> (Cluster, Client) {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    run(&client, SET_UP).await;
    (cluster, client)
}

/// In a transaction of its own.
async fn refused_after(client: &Client, before: &str, sql: &str, why: &str) {
    run(client, &["BEGIN", before]).await;
    refused(client, sql, why).await;
    run(client, &["ROLLBACK"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_transaction_changed_beside_tables_is_not_seen_elsewhere() {
    let (_cluster, client) = started().await;
    run(
        &client,
        &[
            "CREATE FUNCTION zf(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1'",
            "CREATE TYPE zaddr AS (street text)",
            "CREATE TABLE zad (auction_id bigint PRIMARY KEY, co zaddr)",
        ],
    )
    .await;
    let replace = "CREATE OR REPLACE FUNCTION zf(int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'";
    run(&client, &["CREATE TABLE holder (auction_id bigint PRIMARY KEY, c categories)"]).await;
    let alter = "ALTER TABLE categories ADD COLUMN z int";
    refused_after(&client, alter, "SELECT DISTINCT c FROM holder", "the type of the table categories").await;
    for (before, sql) in [
        (replace, "SELECT DISTINCT zf(k) FROM zb"),
        ("CREATE TYPE ze AS ENUM ('a')", "SELECT k::text::ze, count(*) FROM zb GROUP BY 1"),
        ("CREATE DOMAIN zdom AS int", "SELECT DISTINCT k::zdom FROM zb"),
        ("ALTER TYPE zaddr ADD ATTRIBUTE town text", "SELECT DISTINCT co FROM zad"),
        ("CREATE ROLE gathered_r9", "SELECT DISTINCT k FROM zb"),
        ("GRANT SELECT ON zb TO PUBLIC", "SELECT DISTINCT k FROM zb"),
    ] {
        refused_after(&client, before, sql, "before COMMIT").await;
    }
    run(
        &client,
        &[
            "BEGIN",
            "CREATE TABLE made (auction_id bigint PRIMARY KEY, n int)",
            "CREATE UNIQUE INDEX ON made (auction_id, n)",
            "ALTER TABLE made ADD COLUMN m int DEFAULT 7",
            "INSERT INTO made SELECT i, i % 2 FROM generate_series(1, 9) i",
        ],
    )
    .await;
    assert_eq!(first_column(&client, "SELECT count(*) FROM made GROUP BY n, m ORDER BY 1").await, ["4", "5"]);
    run(&client, &["ROLLBACK", "BEGIN", "CREATE TEMP TABLE t9 (k int)"]).await;
    assert_eq!(
        first_column(&client, "SELECT count(*) FROM zb GROUP BY k ORDER BY 1").await,
        ["13", "13", "14"]
    );
    run(&client, &["COMMIT"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn functions_that_read_reference_tables_do_not_see_the_transaction_elsewhere() {
    let (_cluster, client) = started().await;
    let sql = "SELECT DISTINCT zcat(k) FROM zb ORDER BY 1";
    assert_eq!(first_column(&client, sql).await, ["one", "two", "zero"]);
    let update = "UPDATE categories SET name = 'new' WHERE id = 1";
    let reads = "calls a function that reads tables";
    refused_after(&client, update, sql, reads).await;
    refused_after(&client, update, "SELECT DISTINCT zcat(k) FROM zb JOIN categories c ON c.id = k", reads)
        .await;
    refused_after(&client, "SET TRANSACTION ISOLATION LEVEL REPEATABLE READ", sql, reads).await;
    refused_after(&client, "ALTER TABLE categories ADD COLUMN z int", sql, reads).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn equal_texts_of_a_collation_are_one_group_on_all_shards() {
    let mut both = Beside::start(&[
        "CREATE COLLATION zci (provider = icu, locale = 'und-u-ks-level2', deterministic = false)",
        "CREATE TABLE zt (auction_id text PRIMARY KEY, n int)",
        "INSERT INTO zt VALUES ('a', 1), ('A', 2), ('b', 3), ('B', 4), ('c', 5), ('C', 6), ('d', 7), ('D', 8)",
    ])
    .await;
    for sql in [
        "SELECT count(*) FROM zt GROUP BY auction_id COLLATE zci ORDER BY 1",
        "SELECT count(*) FROM (SELECT DISTINCT auction_id COLLATE zci FROM zt) s",
        "SELECT count(*) FROM (SELECT DISTINCT ON (auction_id COLLATE zci) n FROM zt) s",
        "SELECT count(*) OVER (PARTITION BY auction_id COLLATE zci) FROM zt",
        "WITH s AS (SELECT auction_id COLLATE zci AS a FROM zt) SELECT count(*) FROM s GROUP BY a",
        "SELECT count(*) FROM (SELECT auction_id COLLATE zci AS a FROM zt) s GROUP BY a",
        "SELECT n, count(*) OVER w FROM zt WINDOW w AS (PARTITION BY auction_id COLLATE zci) ORDER BY n",
    ] {
        let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &message::query(sql), 1));
        assert_eq!(ours, theirs, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_tables_that_are_made_for_a_query_are_not_shown() {
    let (_cluster, client) = started().await;
    let exists = "EXISTS (SELECT 1 FROM zb)";
    for sql in [
        format!("SELECT count(*) FROM pg_class WHERE relname = 'zb' AND {exists}"),
        format!("SELECT count(*) FROM information_schema.tables WHERE table_name = 'zb' AND {exists}"),
    ] {
        refused(&client, &sql, "in which rows are gathered").await;
    }
    run(
        &client,
        &[
            "CREATE TABLE path (auction_id bigint PRIMARY KEY, p text)",
            "CREATE TABLE date (auction_id bigint PRIMARY KEY, d date)",
            "INSERT INTO path VALUES (1, '[(0,0),(1,1)]'), (2, '[(0,0),(1,1)]')",
        ],
    )
    .await;
    for sql in [
        "SELECT DISTINCT npoints(p::path) FROM path",
        "SELECT DISTINCT npoints(CAST(p AS path)) FROM path",
        "SELECT DISTINCT p, date '2020-01-01' FROM path, date",
        "SELECT DISTINCT d FROM date",
        "SELECT DISTINCT x.d FROM date, json_to_recordset('[]') AS x(d date)",
    ] {
        refused(&client, sql, "hide the type").await;
    }
    assert_eq!(first_column(&client, "SELECT DISTINCT p FROM path AS path").await, ["[(0,0),(1,1)]"]);
    assert_eq!(first_column(&client, "SELECT DISTINCT npoints(p::pg_catalog.path) FROM path").await, ["2"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rights_of_a_views_owner_are_not_those_of_the_caller() {
    let (_cluster, client) = started().await;
    run(
        &client,
        &[
            "CREATE VIEW per_k AS SELECT k, count(*) AS n FROM zb GROUP BY k",
            "CREATE VIEW above AS SELECT n FROM per_k",
        ],
    )
    .await;
    assert_eq!(first_column(&client, "SELECT n FROM per_k ORDER BY 1").await, ["13", "13", "14"]);
    run(&client, &["ALTER TABLE zb ENABLE ROW LEVEL SECURITY"]).await;
    refused(&client, "SELECT n FROM per_k ORDER BY 1", "row security").await;
    refused(&client, "SELECT n FROM above ORDER BY 1", "row security").await;
    assert_eq!(
        first_column(&client, "SELECT count(*) FROM zb GROUP BY k ORDER BY 1").await,
        ["13", "13", "14"]
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_that_bend_values_are_refused() {
    let (_cluster, client) = started().await;
    run(
        &client,
        &[
            "CREATE TYPE ze AS ENUM ('a', 'b')",
            "CREATE TABLE zen (auction_id bigint PRIMARY KEY, es ze[], x xml)",
            "INSERT INTO zen VALUES (1, '{a,NULL}', '<a/>'), (2, '{a,NULL}', 'content')",
            "SET array_nulls = off",
        ],
    )
    .await;
    refused(&client, "SELECT DISTINCT es FROM zen", "array_nulls").await;
    assert_eq!(first_column(&client, "SELECT count(*) FROM zb GROUP BY k ORDER BY 1 LIMIT 1").await, ["13"]);
    run(&client, &["RESET array_nulls"]).await;
    assert_eq!(first_column(&client, "SELECT DISTINCT es FROM zen").await, ["{a,NULL}"]);
    run(&client, &["SET xmloption TO document"]).await;
    refused(&client, "SELECT count(DISTINCT x::text) FROM zen", "xmloption").await;
    run(&client, &["RESET xmloption", "SET transform_null_equals TO on"]).await;
    for sql in
        ["SELECT count(*) FROM zb WHERE auction_id = NULL", "SELECT k FROM zb WHERE (NULL) = auction_id"]
    {
        refused(&client, sql, "transform_null_equals").await;
    }
    assert_eq!(first_column(&client, "SELECT count(*) FROM zb WHERE auction_id IS NULL").await, ["0"]);
    run(&client, &["RESET transform_null_equals"]).await;
    assert_eq!(first_column(&client, "SELECT count(*) FROM zb WHERE auction_id = NULL").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_cursors_have_their_order() {
    let mut both = Beside::start(&SET_UP[..2]).await;
    let declare = "BEGIN; DECLARE c BINARY CURSOR FOR SELECT auction_id, v FROM zb ORDER BY auction_id";
    for sql in [declare, "FETCH 2 FROM c", "FETCH ALL FROM c", "CLOSE c", "COMMIT"] {
        let [ours, theirs] = both.sides().map(|side: &mut Wire| {
            side.send(&message::query(sql)).expect("sent");
            let mut frames = side.read_until_ready(1).expect("an answer");
            frames.retain(|frame| matches!(frame.tag, b'D' | b'C' | b'E'));
            frames.iter().map(|frame| (frame.tag, frame.body.to_vec())).collect::<Vec<_>>()
        });
        assert_eq!(ours, theirs, "{sql}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_refusal_of_a_volatile_function_names_it() {
    let (_cluster, client) = started().await;
    run(&client, &["CREATE FUNCTION vol(int) RETURNS int LANGUAGE sql AS 'SELECT $1'"]).await;
    for sql in ["SELECT auction_id, vol(1) FROM zb ORDER BY 1", "SELECT random(), vol(1) FROM zb"] {
        refused(&client, sql, "vol() may write").await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_session_does_not_wait_for_connections_that_its_own_cursors_keep() {
    let (_cluster, client) = started().await;
    let sql = "CURSOR FOR SELECT count(DISTINCT k) FROM zb";
    client.batch_execute("BEGIN").await.expect("begin");
    for number in 0..4 {
        client.batch_execute(&format!("DECLARE c{number} {sql}")).await.expect("a cursor");
    }
    let error = client.batch_execute(&format!("DECLARE c4 {sql}")).await.expect_err("the fifth");
    let error = error.as_db_error().expect("of the proxy");
    assert_eq!(error.code(), &SqlState::TOO_MANY_CONNECTIONS);
    assert!(error.detail().is_some_and(|why| why.contains("the session's own cursors")), "{error:?}");
    client.batch_execute("ROLLBACK").await.expect("rollback");
    client.batch_execute(&format!("BEGIN; DECLARE c4 {sql}; COMMIT")).await.expect("they are free again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_prepared_query_whose_rows_have_become_others_is_told_so() {
    let (_cluster, client) = started().await;
    run(&client, &["PREPARE p AS SELECT k, count(*) FROM zb GROUP BY k", "EXECUTE p"]).await;
    let named = client.prepare("SELECT k, count(*) FROM zb GROUP BY k").await.expect("a statement");
    client.query(&named, &[]).await.expect("rows");
    run(&client, &["ALTER TABLE zb ALTER k TYPE text"]).await;
    for outcome in [client.batch_execute("EXECUTE p").await, client.query(&named, &[]).await.map(|_| ())] {
        let error = outcome.expect_err("other rows");
        let error = error.as_db_error().expect("of the server");
        assert_eq!(error.message(), "cached plan must not change result type", "{error:?}");
    }
    run(&client, &["BEGIN"]).await;
    client.batch_execute("EXECUTE p").await.expect_err("other rows");
    let error = client.batch_execute("INSERT INTO zb VALUES (99, 'a', 1)").await.expect_err("it has failed");
    assert_eq!(error.code(), Some(&SqlState::IN_FAILED_SQL_TRANSACTION), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_keep_the_order_of_the_subquery_that_they_are_read_from() {
    let (_cluster, client) = started().await;
    let downwards: Vec<String> = (1..=40).rev().map(|id| id.to_string()).collect();
    for (sql, rows) in [
        ("SELECT * FROM (SELECT auction_id FROM zb ORDER BY auction_id DESC) x", 40),
        ("SELECT * FROM (SELECT auction_id FROM zb ORDER BY auction_id DESC) x LIMIT 4", 4),
        (
            "WITH x AS (SELECT auction_id, k FROM zb ORDER BY auction_id DESC) SELECT auction_id FROM x LIMIT 9",
            9,
        ),
        (
            "SELECT y.a FROM (SELECT * FROM (SELECT auction_id AS a FROM zb ORDER BY 1 DESC) x WHERE a > 0) y",
            40,
        ),
    ] {
        assert_eq!(first_column(&client, sql).await, downwards[..rows], "{sql}");
    }
    let counted = "SELECT count(*) FROM (SELECT auction_id FROM zb ORDER BY auction_id) x";
    assert_eq!(first_column(&client, counted).await, ["40"]);
}
