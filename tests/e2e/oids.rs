//! Types of the user's whose OIDs differ between the shards: applications see the home shard's, whatever shard answers.

use bytes::{BufMut, BytesMut};
use futures_util::TryStreamExt as _;
use tests::cluster::{Cluster, first_column};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::{FromSql, IsNull, ToSql, Type, to_sql_checked};
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::house::one_of_each;

type Fault = Box<dyn std::error::Error + Sync + Send>;

/// The bytes of a value of any type.
#[derive(Debug, PartialEq)]
struct Raw(Vec<u8>);

impl<'a> FromSql<'a> for Raw {
    fn from_sql(_: &Type, raw: &'a [u8]) -> Result<Self, Fault> {
        Ok(Self(raw.to_vec()))
    }

    fn accepts(_: &Type) -> bool {
        true
    }
}

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Fault> {
        out.put_slice(&self.0);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}

fn label(text: &str) -> Raw {
    Raw(text.as_bytes().to_vec())
}

/// A cluster whose second shard has had other types before; the tables are created through the proxy.
async fn skewed() -> (Cluster, Client) {
    let cluster = Cluster::builder().start().await;
    let before = "CREATE TYPE before AS ENUM ('x'); CREATE TYPE later AS (a int, b before); DROP TYPE later";
    cluster.shard(1).primary.execute("auction", before).await.expect("DDL on the shard itself");
    let client = cluster.connect().await;
    for sql in [
        "CREATE EXTENSION citext",
        "CREATE TYPE mood AS ENUM ('glad', 'sad')",
        "CREATE TYPE pair AS (label text, feels mood)",
        "CREATE DOMAIN feeling AS mood",
        "CREATE TABLE auctions (auction_id bigint PRIMARY KEY, title text, feels mood, felt mood[], pair pair, \
         name citext, domain feeling)",
        "CREATE TABLE categories (category_id int PRIMARY KEY, feels mood, felt mood[])",
        "INSERT INTO categories VALUES (1, 'sad', '{sad,glad}')",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    for id in 1..=10 {
        let insert = format!(
            "INSERT INTO auctions VALUES ({id}, 'lot', 'sad', '{{glad,sad}}', '(x,glad)', 'Name {id}', 'glad')"
        );
        client.batch_execute(&insert).await.unwrap_or_else(|error| panic!("{insert}: {error:?}"));
    }
    let oids = cluster.on_each_primary("SELECT 'mood'::regtype::oid").await.concat();
    assert_ne!(oids[0], oids[1], "the test is about different OIDs");
    (cluster, client)
}

async fn oid_at_home(cluster: &Cluster, name: &str) -> u32 {
    let sql = format!("SELECT '{name}'::regtype::oid");
    cluster.on_each_primary(&sql).await[0][0].parse().expect("a number")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_10_every_shard_describes_in_the_home_shards_oids() {
    let (cluster, client) = skewed().await;
    let (here, there) = one_of_each(&cluster).await;
    let (mood, citext) = (oid_at_home(&cluster, "mood").await, oid_at_home(&cluster, "citext").await);
    // A driver asks for the OID and uses it: the same whatever shard is asked.
    for _ in 0..4 {
        assert_eq!(first_column(&client, "SELECT 'mood'::regtype::oid").await, [mood.to_string()]);
    }
    for text in [
        "SELECT feels, name, domain FROM auctions WHERE auction_id = $1 AND feels <> $2 AND name <> $3",
        "SELECT a.feels, a.name, a.domain FROM auctions a WHERE a.auction_id = $1 AND a.feels <> $2 AND a.name <> $3",
    ] {
        for id in [there, here, there] {
            // Unprepared, so that the shard of the key describes it too.
            let statement = client.prepare(text).await.expect("prepare");
            let columns: Vec<u32> = statement.columns().iter().map(|column| column.type_().oid()).collect();
            assert_eq!(columns, [mood, citext, mood], "a domain is described as its base type");
            let params: Vec<u32> = statement.params().iter().map(Type::oid).collect();
            assert_eq!(params, [20, mood, citext]);
            let values: [&(dyn ToSql + Sync); 3] = [&id, &label("glad"), &label("nobody")];
            let row = client.query_one(&statement, &values).await.expect("one row");
            assert_eq!(row.get::<_, Raw>(0), label("sad"));
            assert_eq!(row.get::<_, Raw>(1), label(&format!("Name {id}")));
        }
    }
    let all = client.query("SELECT feels, auction_id FROM auctions", &[]).await.expect("all shards");
    assert_eq!(all.len(), 10);
    assert!(all.iter().all(|row| row.columns()[0].type_().oid() == mood));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_10_parameters_typed_by_the_application_reach_every_shard() {
    let (cluster, client) = skewed().await;
    let (here, there) = one_of_each(&cluster).await;
    let mood = client.prepare("SELECT feels FROM auctions WHERE auction_id = 1").await.expect("prepare");
    let mood = mood.columns()[0].type_().clone();
    let update = "UPDATE auctions SET feels = $1 WHERE auction_id = $2";
    let statement = client.prepare_typed(update, &[mood.clone(), Type::INT8]).await.expect("prepare");
    for id in [here, there, here] {
        assert_eq!(client.execute(&statement, &[&label("glad"), &id]).await.expect("update"), 1);
    }
    // Rows of several shards, and every shard.
    let insert = "INSERT INTO auctions (auction_id, feels) VALUES (101, $1), (102, $1), (103, $1), (104, $1)";
    let statement = client.prepare_typed(insert, std::slice::from_ref(&mood)).await.expect("prepare");
    assert_eq!(client.execute(&statement, &[&label("glad")]).await.expect("insert"), 4);
    let insert = "INSERT INTO categories (category_id, feels) VALUES (2, $1)";
    let statement = client.prepare_typed(insert, std::slice::from_ref(&mood)).await.expect("prepare");
    assert_eq!(client.execute(&statement, &[&label("glad")]).await.expect("everywhere"), 1);
    let glad = cluster.on_each_primary("SELECT feels FROM categories WHERE category_id = 2").await;
    assert_eq!(glad, [["glad"], ["glad"]]);
    let glad = "SELECT auction_id FROM auctions WHERE feels = $1";
    let statement = client.prepare_typed(glad, &[mood]).await.expect("prepare");
    assert_eq!(client.query(&statement, &[&label("glad")]).await.expect("all shards").len(), 6);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_10_containers_in_binary_have_the_home_shards_types() {
    let (cluster, client) = skewed().await;
    let (here, there) = one_of_each(&cluster).await;
    for column in ["felt", "pair", "ROW(feels)"] {
        let select = format!("SELECT {column} FROM auctions WHERE auction_id = $1");
        let at_home = client.query_one(&select, &[&here]).await.expect("the home shard's OIDs are right");
        let elsewhere = client.query_one(&select, &[&there]).await.expect("computed on the home shard");
        assert_eq!(elsewhere.get::<_, Raw>(0), at_home.get::<_, Raw>(0), "{column}");
        let text = first_column(&client, &select.replace("$1", &there.to_string())).await;
        assert_eq!(text.len(), 1, "{column}");
    }
    let all = client.query("SELECT felt FROM auctions", &[]).await.expect("several shards");
    assert!(all.len() == 10 && all.iter().all(|row| row.get::<_, Raw>(0) == all[0].get::<_, Raw>(0)));
    // What writes is run where the row is.
    let update = "UPDATE auctions SET title = 'x' WHERE auction_id = $1 RETURNING felt";
    let error = client.query(update, &[&there]).await.expect_err("binary");
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error:?}");
    assert!(error.as_db_error().expect("a reply").message().contains("OIDs differ"), "{error:?}");
    client.query("SELECT auction_id, feels FROM auctions", &[]).await.expect("no container");
    for _ in 0..4 {
        client.query("SELECT felt FROM categories", &[]).await.expect("any shard: the home shard does it");
    }
    let error = client.copy_out("COPY auctions TO STDOUT (FORMAT binary)").await.err().expect("refused");
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error:?}");
    client.copy_out("COPY auctions (auction_id, feels) TO STDOUT (FORMAT csv)").await.expect("text is fine");
    client.batch_execute("CREATE TABLE plain (auction_id bigint, v text)").await.expect("create");
    for key in [here, there] {
        client.batch_execute(&format!("INSERT INTO plain VALUES ({key}, 'x')")).await.expect("insert");
    }
    for (query, rows) in [
        ("SELECT 1".to_owned(), 1),
        ("SELECT ARRAY['glad'::mood]".to_owned(), 1),
        (format!("SELECT v, ARRAY[auction_id], plain FROM plain WHERE auction_id = {there}"), 1),
        ("SELECT auction_id, v FROM plain".to_owned(), 2),
    ] {
        let copy = format!("COPY ({query}) TO STDOUT (FORMAT binary)");
        let stream = client.copy_out(&copy).await.unwrap_or_else(|error| panic!("{copy}: {error:?}"));
        let chunks: Vec<_> = stream.try_collect::<Vec<_>>().await.expect("data");
        let data = chunks.concat();
        let tuples = data.windows(2).filter(|w| *w == [0xff, 0xff]).count();
        assert!(
            data.starts_with(b"PGCOPY") && data.ends_with(&[0xff, 0xff]) && tuples == 1,
            "{copy}: {data:?}"
        );
        assert!(data.len() > 21 + rows, "{copy}: {data:?}");
    }
    for query in ["SELECT ARRAY['glad'::mood] FROM plain", "SELECT felt FROM auctions"] {
        let copy = format!("COPY ({query} WHERE auction_id = {there}) TO STDOUT (FORMAT binary)");
        assert!(client.copy_out(&copy).await.is_err(), "accepted: {copy}");
    }
    let cast = "SELECT felt::text[] FROM auctions WHERE auction_id = $1";
    client.query_one(cast, &[&there]).await.expect("the cure that the hint names");
    let built_in = "SELECT ARRAY[auction_id] FROM auctions WHERE auction_id = $1";
    let row = client.query_one(built_in, &[&there]).await.expect("an array of a built-in type");
    assert_eq!(row.get::<_, Vec<i64>>(0), [there]);
    let rows = client.simple_query(&format!("SELECT pair FROM auctions WHERE auction_id = {there}")).await;
    let rows = rows.expect("text");
    assert!(
        rows.iter().any(|row| matches!(row, SimpleQueryMessage::Row(row) if row.get(0) == Some("(x,glad)")))
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_was_away_is_translated_when_it_comes_back() {
    let (cluster, client) = skewed().await;
    let (here, there) = one_of_each(&cluster).await;
    let mood = oid_at_home(&cluster, "mood").await;
    cluster.allow_log("");
    cluster.shard(1).primary.kill().await.expect("kill");
    drop(client);
    assert!(cluster.proxy.stop().await);
    cluster.proxy.start().await.expect("a shard that is down does not keep the others from being used");
    let client = cluster.connect().await;
    let select = "SELECT feels FROM auctions WHERE auction_id = $1";
    client.query_one(select, &[&here]).await.expect("the home shard");
    cluster.shard(1).primary.start().await.expect("start");
    let row = client.query_one(select, &[&there]).await.expect("it is waited for");
    assert_eq!(row.columns()[0].type_().oid(), mood);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_of_an_open_transaction_are_one_on_all_shards() {
    let (cluster, client) = skewed().await;
    client
        .batch_execute(
            "BEGIN; CREATE TYPE colour AS ENUM ('red', 'green'); CREATE DOMAIN shade AS colour;
             CREATE TABLE lots (auction_id bigint PRIMARY KEY, c colour, s shade)",
        )
        .await
        .expect("DDL");
    let written = "INSERT INTO lots SELECT i, 'red', 'green' FROM generate_series(1, 9) i RETURNING *";
    assert_eq!(client.query(written, &[]).await.expect("rows").len(), 9);
    let home = first_column(&client, "SELECT 'colour'::regtype::oid").await.remove(0);
    let mut keys: Vec<String> =
        (1..=9).map(|key| format!("SELECT c FROM lots WHERE auction_id = {key}")).collect();
    keys.extend(["SELECT c, s FROM lots", "SELECT c, lots FROM lots ORDER BY auction_id"].map(String::from));
    keys.push("DELETE FROM lots WHERE auction_id < 3 RETURNING c".to_owned());
    for sql in &keys {
        let statement = client.prepare(sql).await.expect("a statement");
        assert_eq!(statement.columns()[0].type_().oid().to_string(), home, "{sql}");
        assert!(!client.simple_query(sql).await.expect("rows").is_empty(), "{sql}");
    }
    client
        .batch_execute("SAVEPOINT s; CREATE TYPE tone AS (c colour); ALTER TABLE lots ADD t tone")
        .await
        .expect("DDL");
    assert_eq!(first_column(&client, "SELECT t FROM lots ORDER BY auction_id").await.len(), 7);
    client
        .batch_execute("ROLLBACK TO s; ALTER TABLE lots ADD more colour DEFAULT 'red'; COMMIT")
        .await
        .expect("commit");
    for text in [
        "BEGIN; CREATE TABLE z (auction_id bigint); INSERT INTO z VALUES (1), (2), (3), (4); SELECT z FROM z ORDER BY auction_id; COMMIT",
        "CREATE TYPE one AS ENUM ('x'); CREATE TABLE t2 (auction_id int, c one); INSERT INTO t2 VALUES (1, 'x'), (2, 'x'), (3, 'x') RETURNING *",
        "SELECT more FROM lots ORDER BY auction_id",
    ] {
        client.batch_execute(text).await.unwrap_or_else(|error| panic!("{text}: {error:?}"));
    }
    let later = cluster.connect().await.prepare("SELECT c FROM lots").await.expect("a statement");
    assert_eq!(later.columns()[0].type_().oid().to_string(), home);
}
