//! Statements and transactions that meet several shards: COPY, rows of one INSERT, two-phase commit.

use std::io::Cursor;
use std::pin::pin;
use std::time::Duration;

use futures_util::{SinkExt, TryStreamExt};
use tests::cluster::{Cluster, eventually, first_column};
use tokio_postgres::Client;
use tokio_postgres::binary_copy::BinaryCopyOutStream;
use tokio_postgres::error::SqlState;
use tokio_postgres::types::Type;

use crate::beside::{Beside, sorted_rows};
use crate::house::{add_auctions, build, holders, one_of_each};

async fn copy_in(client: &Client, sql: &str, lines: String) -> Result<u64, tokio_postgres::Error> {
    let sink = client.copy_in::<_, Cursor<Vec<u8>>>(sql).await?;
    let mut sink = pin!(sink);
    sink.send(Cursor::new(lines.into_bytes())).await?;
    sink.finish().await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_puts_each_row_on_its_owner() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    let lines =
        |from: i64, to: i64| (from..=to).map(|id| format!("{id}\tlot {id}\t1.5\n")).collect::<String>();
    let copy = "COPY auctions (auction_id, title, price) FROM STDIN";
    assert_eq!(copy_in(&client, copy, lines(1, 2_000)).await.expect("copy"), 2_000);
    let counts = cluster.on_each_primary("SELECT count(*) FROM auctions").await.concat();
    let counts: Vec<i64> = counts.iter().map(|count| count.parse().expect("a number")).collect();
    assert_eq!(counts.iter().sum::<i64>(), 2_000);
    assert!(counts.iter().all(|&count| count > 800), "{counts:?}");
    for id in [1_i64, 777, 2_000] {
        let select = "SELECT title FROM auctions WHERE auction_id = $1";
        let row = client.query_one(select, &[&id]).await.expect("found where it is looked for");
        assert_eq!(row.get::<_, String>(0), format!("lot {id}"));
    }
    // One bad row spoils all of them, on every shard.
    let error =
        copy_in(&client, copy, lines(3_000, 3_100) + "1\tagain\t1\n").await.expect_err("duplicate key");
    assert_eq!(error.code(), Some(&SqlState::UNIQUE_VIOLATION), "{error:?}");
    assert_eq!(holders(&cluster, "auctions", "auction_id >= 3000").await, Vec::<usize>::new());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn copy_out_has_every_row_once() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 50).await;
    let stream = client.copy_out("COPY auctions (auction_id) TO STDOUT").await.expect("copy");
    let chunks: Vec<_> = stream.try_collect().await.expect("all chunks");
    let text = String::from_utf8(chunks.concat()).expect("UTF-8");
    let mut ids: Vec<i64> = text.lines().map(|line| line.parse().expect("a number")).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=50).collect::<Vec<_>>());
    let stream = client.copy_out("COPY auctions (auction_id) TO STDOUT (FORMAT csv, HEADER)").await;
    let chunks: Vec<_> = stream.expect("copy").try_collect().await.expect("all chunks");
    let text = String::from_utf8(chunks.concat()).expect("UTF-8");
    assert_eq!(text.lines().filter(|line| *line == "auction_id").count(), 1, "{text}");
    assert!(text.starts_with("auction_id\n") && text.lines().count() == 51, "{text}");
    let stream = client.copy_out("COPY auctions (auction_id) TO STDOUT (FORMAT binary)").await.expect("copy");
    let rows = BinaryCopyOutStream::new(stream, &[Type::INT8]);
    let rows: Vec<_> = rows.try_collect().await.expect("one header, rows, one trailer");
    let mut ids: Vec<i64> = rows.iter().map(|row| row.get(0)).collect();
    ids.sort_unstable();
    assert_eq!(ids, (1..=50).collect::<Vec<_>>());
}

/// Rows of several shards come as they come, never one inside another: those that are longer than any buffer neither.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn long_rows_come_whole() {
    const WIDE: &str = "select auction_id, repeat(chr(97 + auction_id::int % 26), \
        case auction_id % 7 when 0 then 400000 when 1 then 100000 else 20 end) from t";
    let values = (1..=120).map(|id| format!("({id})")).collect::<Vec<_>>().join(", ");
    let insert = format!("insert into t values {values}");
    let mut both = Beside::start(&["create table t (auction_id bigint primary key)", &insert]).await;
    let theirs = sorted_rows(&mut both.theirs, WIDE);
    for _ in 0..5 {
        assert!(sorted_rows(&mut both.ours, WIDE) == theirs, "not the same rows");
    }
    let client = both.cluster.connect().await;
    let rows = client.query(WIDE, &[]).await.expect("rows");
    let mut ours: Vec<Vec<Option<String>>> =
        rows.iter().map(|row| vec![Some(row.get::<_, i64>(0).to_string()), row.get(1)]).collect();
    ours.sort();
    assert!(ours == theirs, "not the same rows by the extended protocol");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_07_a_limit_without_an_order_is_one_limit() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    for (limit, rows) in [(0_i64, 0), (1, 1), (13, 13), (100, 20)] {
        let simple = format!("SELECT auction_id FROM auctions LIMIT {limit}");
        let mut ids = first_column(&client, &simple).await;
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), rows, "{simple}");
        let found = client.query("SELECT auction_id FROM auctions LIMIT $1", &[&limit]).await.expect("query");
        assert_eq!(found.len(), rows, "LIMIT $1 = {limit}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_arrays_go_to_their_owners() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    let insert = "INSERT INTO auctions (auction_id, title) SELECT * FROM unnest('{9,3,7,1,5}'::bigint[], \
                  '{i,c,g,a,e}'::text[]) RETURNING auction_id";
    assert_eq!(first_column(&client, insert).await, ["9", "3", "7", "1", "5"], "in the order of the source");
    for (id, title) in [(9, "i"), (3, "c"), (7, "g"), (1, "a"), (5, "e")] {
        let select = format!("SELECT title FROM auctions WHERE auction_id = {id}");
        assert_eq!(first_column(&client, &select).await, [title]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepare_in_sql_is_placed_by_each_execute() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    client
        .batch_execute("PREPARE q (bigint) AS SELECT auction_id FROM auctions WHERE auction_id = $1")
        .await
        .expect("prepare");
    for id in 1..=20 {
        assert_eq!(first_column(&client, &format!("EXECUTE q ({id})")).await, [id.to_string()]);
    }
    let error = client.batch_execute("PREPARE q AS SELECT 1 FROM auctions").await.expect_err("it exists");
    assert_eq!(error.code(), Some(&SqlState::DUPLICATE_PSTATEMENT), "{error:?}");
    client.batch_execute("DEALLOCATE q").await.expect("deallocate");
    let error = client.batch_execute("EXECUTE q (1)").await.expect_err("it is gone");
    assert_eq!(error.code(), Some(&SqlState::INVALID_SQL_STATEMENT_NAME), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_one_insert_are_split() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    let rows: Vec<String> = (1..=30).map(|id| format!("({id}, 'lot')")).collect();
    let insert = format!("INSERT INTO auctions (auction_id, title) VALUES {}", rows.join(", "));
    assert_eq!(client.execute(&insert, &[]).await.expect("insert"), 30);
    let spread = cluster.on_each_primary("SELECT auction_id FROM auctions").await;
    assert_eq!(spread.concat().len(), 30);
    assert!(spread.iter().all(|rows| !rows.is_empty()), "{spread:?}");
    let mut all = first_column(&client, "SELECT auction_id FROM auctions").await;
    all.sort();
    all.dedup();
    assert_eq!(all.len(), 30, "a read over all shards has every row once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_over_two_shards_is_all_or_nothing() {
    let cluster = Cluster::builder().start().await;
    let mut client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let (one, other) = one_of_each(&cluster).await;
    let update = "UPDATE auctions SET price = price + 5 WHERE auction_id = $1";
    for (keep, expected) in [(false, 0), (true, 2)] {
        let transaction = client.transaction().await.expect("begin");
        transaction.execute(update, &[&one]).await.expect("first shard");
        transaction.execute(update, &[&other]).await.expect("second shard");
        if keep {
            transaction.commit().await.expect("commit");
        } else {
            transaction.rollback().await.expect("rollback");
        }
        let raised = cluster.on_each_primary("SELECT 1 FROM auctions WHERE price = 5").await.concat();
        assert_eq!(raised.len(), expected);
    }
    let prepared = cluster.on_each_primary("SELECT gid FROM pg_prepared_xacts").await.concat();
    assert_eq!(prepared, Vec::<String>::new(), "nothing stays prepared");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_two_phase_the_second_writing_shard_is_refused() {
    let cluster = Cluster::builder().config_extra("[routing]\ntwo_phase = true").start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let (one, other) = one_of_each(&cluster).await;
    let config = std::fs::read_to_string(&cluster.proxy.config_path).expect("read");
    let changed = config.replace("two_phase = true", "two_phase = false");
    std::fs::write(&cluster.proxy.config_path, changed).expect("write");
    cluster.proxy.reload();
    let reloaded = || async { cluster.proxy.log().contains("configuration reloaded") };
    eventually(Duration::from_secs(10), "the new configuration is in use", reloaded).await;
    let mut client = cluster.connect().await;
    let update = "UPDATE auctions SET price = price + 5 WHERE auction_id = $1";
    let transaction = client.transaction().await.expect("begin");
    transaction.execute(update, &[&one]).await.expect("first shard");
    let error = transaction.execute(update, &[&other]).await.expect_err("second shard");
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error:?}");
    drop(transaction);
    assert_eq!(holders(&cluster, "auctions", "price = 5").await, Vec::<usize>::new());
    for sql in [
        "CREATE TABLE later (auction_id bigint PRIMARY KEY)",
        "INSERT INTO categories VALUES (1, 'art')",
        "INSERT INTO auctions (auction_id, title) SELECT i, '' FROM unnest(ARRAY[101,102,103,104,105,106]) i",
    ] {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{sql}: {error:?}");
        let hint = error.as_db_error().and_then(|error| error.hint()).unwrap_or_default();
        assert!(hint.contains("two_phase = true"), "{sql}: {error:?}");
    }
    // What needs no transaction over several shards goes on.
    client
        .batch_execute("VACUUM auctions; INSERT INTO notes VALUES (1, 'x')")
        .await
        .expect_err("in one text");
    client.batch_execute("VACUUM auctions").await.expect("one shard after the other");
    client.batch_execute("INSERT INTO notes VALUES (1, 'x')").await.expect("the home shard's");
    client.execute(update, &[&other]).await.expect("one shard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn where_nodes_cannot_prepare_the_second_writing_shard_is_refused() {
    let cluster = Cluster::builder().node_setting("max_prepared_transactions", "0").start().await;
    let mut client = cluster.connect().await;
    for shard in &cluster.nodes.shards {
        let table = "CREATE TABLE auctions (auction_id bigint PRIMARY KEY, title text, price int)";
        shard.primary.execute("auction", table).await.expect("DDL on the node itself");
    }
    cluster.connect_to("gavel_admin").await.batch_execute("RELOAD").await.expect("the catalog is read");
    add_auctions(&client, 20).await;
    let (one, other) = one_of_each(&cluster).await;
    let update = "UPDATE auctions SET price = 5 WHERE auction_id = $1";
    let transaction = client.transaction().await.expect("begin");
    transaction.execute(update, &[&one]).await.expect("first shard");
    let error = transaction.execute(update, &[&other]).await.expect_err("second shard");
    assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{error:?}");
    let hint = error.as_db_error().and_then(|error| error.hint()).unwrap_or_default();
    assert!(hint.contains("max_prepared_transactions"), "{error:?}");
    transaction.rollback().await.expect("rollback");
    let error = client.batch_execute("CREATE TABLE later (auction_id int)").await.expect_err("DDL");
    assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{error:?}");
    assert_eq!(holders(&cluster, "auctions", "price = 5").await, Vec::<usize>::new());
    client.execute(update, &[&other]).await.expect("one shard alone");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_placed_is_refused_and_changes_nothing() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 10).await;
    let (one, other) = one_of_each(&cluster).await;
    for sql in [
        format!("UPDATE auctions SET auction_id = {other} + 1000 WHERE auction_id = {one}"),
        "UPDATE auctions SET price = (SELECT random())".to_owned(),
    ] {
        let error = client.batch_execute(&sql).await.expect_err(&sql);
        assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{sql}: {error:?}");
        let reply = error.as_db_error().expect("an error response");
        assert!(reply.hint().is_some(), "a refusal says what to do instead: {reply:?}");
    }
    assert_eq!(holders(&cluster, "auctions", "price <> 0").await, Vec::<usize>::new());
}

/// In PostgreSQL's words, which has no place in the text for it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_copy_into_a_table_that_does_not_exist_says_so() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    let node = cluster.shard(0).primary.connect("auction").await.expect("the shard is up");
    for copy in ["COPY nosuch FROM STDIN", "COPY public.\"No such\" (a, b) FROM STDIN (FORMAT csv)"] {
        let mut said = Vec::new();
        for session in [&node, &client] {
            let error = session.batch_execute(copy).await.expect_err("it does not exist");
            let error = error.as_db_error().expect("the server's").clone();
            said.push((error.code().clone(), error.message().to_owned(), error.position().cloned()));
        }
        assert_eq!(said[0], said[1], "{copy}");
    }
    assert_eq!(first_column(&client, "SELECT 1").await, ["1"]);
}
