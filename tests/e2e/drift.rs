//! Shards that are not alike though they should be, and who hears of DDL.

use std::time::Duration;

use futures_util::TryStreamExt;
use shard_admin::local_cluster::ReservedPort;
use shard_admin::local_proxy::{LocalProxy, ProxyOptions};
use tests::cluster::{Cluster, eventually, first_column};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::house::{add_auctions, build, one_of_each};

const SOON: Duration = Duration::from_secs(20);

/// What the console says of a table or function.
async fn problem(console: &Client, about: &str) -> Option<String> {
    let rows = console.simple_query("SHOW PROBLEMS").await.expect("show");
    rows.iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) if row.get("about") == Some(about) => {
            Some(format!("{}: {}", row.get("refused")?, row.get("problem")?))
        }
        _ => None,
    })
}

async fn refused(client: &Client, sql: &str, reason: &str) {
    let error = client.batch_execute(sql).await.expect_err(sql);
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{sql}: {error:?}");
    let detail = error.as_db_error().and_then(|error| error.detail()).unwrap_or_default();
    assert!(detail.contains(reason), "{sql}: {error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_differ_are_refused_until_they_are_equal() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 10).await;
    let (one, other) = one_of_each(&cluster).await;
    let console = cluster.connect_to("gavel_admin").await;
    let on_shard = async |sql: &str| cluster.shard(1).primary.execute("auction", sql).await.expect(sql);
    cluster.allow_log("are refused");
    on_shard("ALTER TABLE auctions ADD COLUMN extra int; DROP TABLE bids; DROP TABLE notes").await;
    on_shard("ALTER TABLE categories ALTER COLUMN name TYPE varchar(9)").await;
    console.batch_execute("RELOAD").await.expect("reload");
    for (table, reason) in [
        ("auctions", "\"column extra integer\" is missing on the home shard"),
        ("bids", "does not exist on shard shard-2"),
        ("categories", "\"column name text NOT NULL\" here"),
    ] {
        let told = problem(&console, &format!("public.{table}")).await.expect("listed");
        assert!(told.starts_with("statements: ") && told.contains(reason), "{table}: {told}");
        assert!(cluster.proxy.log().contains(&format!("table=public.{table}")));
        refused(&client, &format!("SELECT * FROM {table}"), reason).await;
        refused(&client, &format!("DELETE FROM {table}"), reason).await;
    }
    for sql in [
        format!("SELECT title FROM auctions WHERE auction_id = {one}"),
        format!("UPDATE auctions SET title = 'x' WHERE auction_id = {other}"),
        "INSERT INTO auctions (auction_id, title) VALUES (77, 'x')".to_owned(),
        "COPY auctions FROM STDIN".to_owned(),
    ] {
        refused(&client, &sql, "column extra").await;
    }
    client.batch_execute("INSERT INTO notes VALUES (1, 'x')").await.expect("the home shard's alone");
    // DDL through the proxy is the cure.
    client.batch_execute("ALTER TABLE auctions ADD COLUMN IF NOT EXISTS extra int").await.expect("DDL");
    client.batch_execute("SELECT extra FROM auctions").await.expect("equal again");
    assert_eq!(problem(&console, "public.auctions").await, None);
    // So is DDL on the shard: it is looked at again without being asked.
    on_shard("ALTER TABLE categories ALTER COLUMN name TYPE text").await;
    eventually(SOON, "the repair is noticed", || async {
        client.batch_execute("SELECT * FROM categories").await.is_ok()
    })
    .await;
    refused(&client, "SELECT * FROM bids", "does not exist on shard shard-2").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_08_functions_and_properties_that_differ_are_told() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 4).await;
    let console = cluster.connect_to("gavel_admin").await;
    let create = "CREATE FUNCTION fee(numeric) RETURNS numeric LANGUAGE sql IMMUTABLE AS 'SELECT $1 * 0.1'";
    client.batch_execute(create).await.expect("DDL");
    let call = "SELECT fee(price) FROM auctions WHERE auction_id = 1";
    client.batch_execute(call).await.expect("the same everywhere");
    let other = create.replace("CREATE", "CREATE OR REPLACE").replace("0.1", "0.2");
    cluster.shard(1).primary.execute("auction", &other).await.expect("DDL on the shard");
    cluster.shard(1).primary.execute("auction", "CREATE EXTENSION citext").await.expect("DDL on the shard");
    console.batch_execute("RELOAD").await.expect("reload");
    client.batch_execute(call).await.expect_err("not the same");
    let told = problem(&console, "fee").await.expect("listed");
    assert!(told.contains("function public.fee(numeric) is another one on shard shard-2"), "{told}");
    let told = problem(&console, "extension citext").await.expect("listed");
    assert!(told.starts_with("nothing: missing on the home shard"), "{told}");
    client
        .batch_execute("SELECT title FROM auctions WHERE auction_id = 1")
        .await
        .expect("nothing to do with it");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_different_columns_are_never_one_answer() {
    let cluster = Cluster::builder().shards(3).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 30).await;
    let make = "CREATE TABLE lots (auction_id bigint PRIMARY KEY, a int, b int)";
    let rows: Vec<String> = (1..=30).map(|id| format!("({id}, 1, 2)")).collect();
    let fill = format!("INSERT INTO lots VALUES {}", rows.join(", "));
    let differs = SqlState::SYSTEM_ERROR;
    cluster.allow_log("are refused");
    for ddl in [
        "ALTER TABLE lots ADD COLUMN z int DEFAULT 9",
        "ALTER TABLE lots ALTER COLUMN a TYPE text USING 'hello'",
        "ALTER TABLE lots DROP COLUMN b",
        "ALTER TABLE lots RENAME COLUMN b TO c",
    ] {
        // It may be seen in the catalog first, which is a refusal as well.
        for shard in [0, 2] {
            client.batch_execute("DROP TABLE IF EXISTS lots").await.expect("drop");
            client.batch_execute(make).await.expect("made");
            client.batch_execute(&fill).await.expect("filled");
            cluster.shard(shard).primary.execute("auction", ddl).await.expect("DDL on the shard");
            let judged = |error: tokio_postgres::Error, how: &str| {
                let code = error.code().cloned();
                let fine = [&differs, &SqlState::FEATURE_NOT_SUPPORTED];
                assert!(code.is_some_and(|code| fine.contains(&&code)), "{ddl}, {how}: {error:?}");
                error.code() == Some(&differs)
            };
            let mut told = 0;
            let simple = client.simple_query("SELECT * FROM lots").await.expect_err(ddl);
            told += u32::from(judged(simple, "simple"));
            let limited = client.simple_query("SELECT * FROM lots LIMIT 25").await.expect_err(ddl);
            told += u32::from(judged(limited, "limit"));
            let unnamed = client.query_typed("SELECT * FROM lots", &[]).await.expect_err(ddl);
            told += u32::from(judged(unnamed, "unnamed"));
            let copied = client.copy_out("COPY (SELECT * FROM lots) TO STDOUT").await;
            if let Ok(stream) = copied
                && !ddl.contains("TYPE")
                && !ddl.contains("RENAME")
            {
                let error = stream.try_collect::<Vec<_>>().await.expect_err(ddl);
                told += u32::from(judged(error, "COPY"));
            }
            let written = client.simple_query("DELETE FROM lots RETURNING *").await.expect_err(ddl);
            told += u32::from(judged(written, "DELETE"));
            let counts = cluster.on_each_primary("SELECT count(*) FROM lots").await.concat();
            let rows: usize = counts.iter().map(|count| count.parse::<usize>().expect("a number")).sum();
            assert_eq!(rows, 30, "{ddl}: rolled back everywhere");
            client.batch_execute("BEGIN; DECLARE c CURSOR FOR SELECT * FROM lots").await.expect("declare");
            let fetched = client.simple_query("FETCH ALL FROM c").await.expect_err(ddl);
            told += u32::from(judged(fetched, "FETCH"));
            client.batch_execute("ROLLBACK").await.expect("rollback");
            assert!(told > 0, "{ddl}: the catalog was always first");
        }
    }
    assert_eq!(client.query("SELECT title FROM auctions", &[]).await.expect("others").len(), 30);
}

pub(crate) async fn second_proxy(cluster: &Cluster) -> (LocalProxy, [ReservedPort; 2]) {
    let ports = [ReservedPort::any().expect("a port"), ReservedPort::any().expect("a port")];
    let options = ProxyOptions {
        port: ports[0].number(),
        metrics_port: ports[1].number(),
        pool_mode: "transaction".to_owned(),
        extra: None,
    };
    (LocalProxy::start_for(&cluster.nodes, "second", &options).await.expect("a second proxy"), ports)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_table_is_known_to_the_other_proxy_as_soon_as_its_creation_is_acknowledged() {
    let cluster = Cluster::builder().start().await;
    let (second, _ports) = second_proxy(&cluster).await;
    let client = cluster.connect().await;
    let (there, connection) = second.config("auction").connect(tokio_postgres::NoTls).await.expect("login");
    tokio::spawn(connection);
    for round in 0..10 {
        let rows = "(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)";
        let make =
            format!("CREATE TABLE r{round} (auction_id bigint, v int); INSERT INTO r{round} VALUES {rows}");
        client.batch_execute(&make).await.expect("made");
        if round % 2 == 0 {
            let read = format!("SELECT v FROM r{round} FOR UPDATE");
            assert_eq!(first_column(&there, &read).await.len(), 6, "{read}");
        }
        let found = there.query(&format!("SELECT v FROM r{round}"), &[]).await.expect("read");
        assert_eq!(found.len(), 6, "round {round}");
        there.batch_execute(&format!("INSERT INTO r{round} VALUES (7, 7), (8, 8)")).await.expect("written");
        assert_eq!(first_column(&client, &format!("SELECT v FROM r{round}")).await.len(), 8);
    }
    let error = there.batch_execute("SELECT * FROM nowhere").await.expect_err("no such table");
    assert_eq!(error.code(), Some(&SqlState::UNDEFINED_TABLE));
    drop(there);
    assert!(second.stop().await);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_through_one_proxy_is_in_use_in_the_other() {
    let cluster = Cluster::builder().start().await;
    let (second, _ports) = second_proxy(&cluster).await;
    let client = cluster.connect().await;
    let (there, connection) = second.config("auction").connect(tokio_postgres::NoTls).await.expect("login");
    tokio::spawn(connection);
    build(&client).await;
    let rows: Vec<String> = (1..=40).map(|id| format!("({id}, 'lot')")).collect();
    let insert = format!("INSERT INTO auctions (auction_id, title) VALUES {}", rows.join(", "));
    eventually(SOON, "the other knows the table", || async { there.batch_execute(&insert).await.is_ok() })
        .await;
    let counts = cluster.on_each_primary("SELECT count(*) FROM auctions").await.concat();
    assert!(counts.iter().all(|count| count != "0"), "the other proxy splits them: {counts:?}");
    // Failed and rolled back DDL leaves both as they were.
    client.batch_execute("ALTER TABLE auctions ADD COLUMN price int").await.expect_err("it exists");
    client.batch_execute("BEGIN; DROP TABLE auctions CASCADE; ROLLBACK").await.expect("rolled back");
    client.batch_execute("BEGIN").await.expect("begin");
    client.batch_execute("CREATE TABLE gone (auction_id bigint)").await.expect("DDL in a transaction");
    client.batch_execute("ROLLBACK").await.expect("rollback");
    for client in [&client, &there] {
        assert_eq!(first_column(client, "SELECT auction_id FROM auctions").await.len(), 40);
        let error = client.batch_execute("INSERT INTO gone VALUES (1)").await.expect_err("no such table");
        let refused = [SqlState::UNDEFINED_TABLE, SqlState::FEATURE_NOT_SUPPORTED];
        assert!(error.code().is_some_and(|code| refused.contains(code)), "{error:?}");
    }
    // DDL in a transaction is announced by its COMMIT, and the other proxy's prepared statements follow.
    let prepared = there.prepare("SELECT * FROM auctions WHERE auction_id = $1").await.expect("prepare");
    let before = there.query_one(&prepared, &[&1_i64]).await.expect("a row").len();
    client.batch_execute("BEGIN").await.expect("begin");
    client.batch_execute("CREATE TABLE lots (auction_id bigint, n int)").await.expect("DDL");
    client.batch_execute("ALTER TABLE auctions ADD COLUMN extra int").await.expect("DDL");
    client.batch_execute("COMMIT").await.expect("commit");
    client
        .batch_execute("INSERT INTO lots VALUES (1, 1), (2, 2), (3, 3), (4, 4)")
        .await
        .expect("here at once");
    eventually(SOON, "the other knows it too", || async {
        first_column(&there, "SELECT n FROM lots").await.len() == 4
    })
    .await;
    let again =
        there.query_one("SELECT * FROM auctions WHERE auction_id = $1", &[&1_i64]).await.expect("a row");
    assert_eq!(again.len(), before + 1);
    drop(there);
    assert!(second.stop().await);
    assert!(!second.log().contains(" ERROR "), "{}", second.log());
}
