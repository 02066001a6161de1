//! Functions that read tables and run where no call names them: behind operators, aggregates, casts, dots, comparisons, checks.

use tests::cluster::{Cluster, first_column};
use tokio_postgres::Client;

use crate::set_off::refused;

const SET_UP: &[&str] = &[
    "CREATE TABLE zb (auction_id bigint PRIMARY KEY, k int, v int)",
    "INSERT INTO zb SELECT i, i % 3, i FROM generate_series(1, 40) i",
    "CREATE TABLE users (id int PRIMARY KEY, name text)",
    "INSERT INTO users VALUES (1, 'one')",
    "CREATE FUNCTION zcount(int, int) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM zb'",
    "CREATE OPERATOR %%> (leftarg = int, rightarg = int, procedure = zcount)",
    "CREATE FUNCTION zsf(bigint, int) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT $1 + count(*) FROM zb'",
    "CREATE AGGREGATE zagg(int) (sfunc = zsf, stype = bigint, initcond = '0')",
    "CREATE AGGREGATE zplain(int) (sfunc = int4pl, stype = int, initcond = '0')",
    "CREATE FUNCTION zattr(users) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM zb'",
    "CREATE FUNCTION zop(int) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT $1 %%> 0'",
    "CREATE FUNCTION zuni() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM U&\"z\\0062\"'",
    "CREATE FUNCTION zatomic() RETURNS bigint LANGUAGE sql STABLE RETURN (SELECT count(*) FROM zb)",
    "CREATE FUNCTION zdefault(n bigint DEFAULT zatomic()) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT $1'",
    "CREATE VIEW zview AS SELECT 1 %%> 0 AS n",
    "CREATE VIEW zviewagg AS SELECT zagg(id) AS n FROM users",
];

async fn run(client: &Client, statements: &[&str]) {
    for sql in statements {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn operators_aggregates_and_attributes_run_functions() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    run(&client, SET_UP).await;
    for sql in [
        "SELECT 1 %%> 0",
        "SELECT 1 OPERATOR(public.%%>) 0",
        "SELECT zagg(v) FROM zb WHERE auction_id = 1",
        "SELECT zagg(id) FROM users",
        "SELECT u.zattr FROM users u",
        "SELECT (u).zattr FROM users u",
        "SELECT zop(1)",
        "SELECT zuni()",
        "SELECT zdefault()",
    ] {
        refused(&client, sql, "may reach sharded tables").await;
    }
    for sql in ["SELECT n FROM zview", "SELECT n FROM zviewagg"] {
        refused(&client, sql, "view").await;
    }
    assert_eq!(first_column(&client, "SELECT zplain(id) FROM users").await, ["1"]);
    assert_eq!(first_column(&client, "SELECT u.name FROM users u").await, ["one"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn casts_comparisons_and_checks_run_functions() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    run(&client, SET_UP).await;
    run(
        &client,
        &[
            "CREATE TYPE zc AS (a int)",
            "CREATE FUNCTION zcast(zc) RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM zb'",
            "CREATE FUNCTION zmake(int) RETURNS zc LANGUAGE sql IMMUTABLE AS 'SELECT ROW($1)::zc'",
            "CREATE CAST (zc AS bigint) WITH FUNCTION zcast(zc) AS IMPLICIT",
            "CREATE TABLE holds (id int, c zc)",
            "CREATE TYPE ze AS (a int)",
            "CREATE FUNCTION zeq(ze, ze) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT count(*) > 39 FROM zb'",
            "CREATE OPERATOR = (leftarg = ze, rightarg = ze, procedure = zeq)",
            "CREATE FUNCTION zfew(int) RETURNS boolean LANGUAGE sql STABLE AS 'SELECT count(*) < $1 FROM zb'",
            "CREATE DOMAIN dom AS int CHECK (zfew(VALUE))",
            "CREATE DOMAIN over_dom AS dom",
        ],
    )
    .await;
    for sql in [
        "SELECT ROW(1)::zc::bigint",
        "SELECT abs(zmake(1))",
        "SELECT 1 + c FROM holds",
        "SELECT ROW(1)::ze = ROW(2)::ze",
        "SELECT ROW(1)::ze IN (ROW(2)::ze)",
        "SELECT CASE ROW(1)::ze WHEN ROW(2)::ze THEN 1 END",
        "SELECT NULLIF(ROW(1)::ze, ROW(2)::ze)",
        "SELECT ROW(1)::ze IS DISTINCT FROM ROW(2)::ze",
        "SELECT 100::dom",
        "SELECT '{100}'::dom[]",
        "SELECT CAST(100 AS over_dom)",
    ] {
        refused(&client, sql, "may reach sharded tables").await;
    }
    assert_eq!(first_column(&client, "SELECT count(*) FROM zb").await, ["40"]);
    assert_eq!(first_column(&client, "SELECT 1 = 1 FROM users").await, ["t"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn words_that_are_no_tables_harm_no_function() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    run(
        &client,
        &[
            "CREATE EXTENSION citext",
            "CREATE TABLE a (auction_id bigint PRIMARY KEY)",
            "CREATE TABLE c (auction_id bigint PRIMARY KEY)",
            "CREATE TABLE users (id int PRIMARY KEY, name text)",
            "INSERT INTO users VALUES (1, 'one')",
            "CREATE FUNCTION addone(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT $1 + 1'",
            "CREATE FUNCTION named(a int) RETURNS int LANGUAGE sql IMMUTABLE AS 'SELECT a + 1'",
            "CREATE FUNCTION aliased() RETURNS text LANGUAGE sql STABLE AS 'SELECT a.name FROM users AS a'",
            "CREATE FUNCTION reads() RETURNS bigint LANGUAGE sql STABLE AS 'SELECT count(*) FROM users u, a'",
        ],
    )
    .await;
    assert_eq!(first_column(&client, "SELECT addone(1)::text").await, ["2"]);
    assert_eq!(first_column(&client, "SELECT named(1)::text").await, ["2"]);
    assert_eq!(first_column(&client, "SELECT aliased()").await, ["one"]);
    assert_eq!(first_column(&client, "SELECT replace('abc', 'b', 'x')").await, ["axc"]);
    refused(&client, "SELECT reads()", "may reach sharded tables").await;
}
