//! tokio-postgres: prepared statements, pipelines, portals, COPY, cancel.

use anyhow::{Context, Result, ensure};
use bytes::Bytes;
use futures_util::{SinkExt, TryStreamExt, future};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, NoTls};

use crate::variable;

const SCHEMA: &str = "
    drop table if exists tokio_bids;
    drop table if exists tokio_auctions;
    create table tokio_auctions (auction_id bigint primary key, title text not null, price bigint default 0);
    create table tokio_bids (auction_id bigint references tokio_auctions, bid_no int, amount bigint,
        primary key (auction_id, bid_no));
";

pub async fn checks() -> Vec<(&'static str, Result<()>)> {
    vec![
        ("tokio-postgres schema", schema().await),
        ("tokio-postgres insert and read", insert_and_read().await),
        ("tokio-postgres pipelined", pipelined().await),
        ("tokio-postgres transaction", transaction().await),
        ("tokio-postgres portal", portal().await),
        ("tokio-postgres copy", copy().await),
        ("tokio-postgres errors", errors().await),
        ("tokio-postgres cancel", cancel().await),
        ("tokio-postgres simple query", simple_query().await),
    ]
}

async fn connect() -> Result<Client> {
    let mut config = tokio_postgres::Config::new();
    config.host(variable("PGHOST")?).port(variable("PGPORT")?.parse()?).user(variable("PGUSER")?);
    config.password(variable("PGPASSWORD").unwrap_or_default()).dbname(variable("PGDATABASE")?);
    let (client, connection) = config.connect(NoTls).await?;
    tokio::spawn(connection);
    Ok(client)
}

async fn schema() -> Result<()> {
    let client = connect().await?;
    for statement in SCHEMA.split(';').filter(|statement| !statement.trim().is_empty()) {
        client.batch_execute(statement).await?;
    }
    Ok(())
}

async fn insert_and_read() -> Result<()> {
    let client = connect().await?;
    let insert = "insert into tokio_auctions (auction_id, title) values ($1, $2) returning price";
    let insert = client.prepare(insert).await?;
    for auction in 1..=20i64 {
        let row = client.query_one(&insert, &[&auction, &format!("title {auction}")]).await?;
        ensure!(row.get::<_, i64>(0) == 0);
    }
    let select = client.prepare("select title from tokio_auctions where auction_id = $1").await?;
    for auction in [1i64, 10, 20] {
        let row = client.query_one(&select, &[&auction]).await?;
        ensure!(row.get::<_, String>(0) == format!("title {auction}"));
    }
    ensure!(client.query_opt(&select, &[&999i64]).await?.is_none());
    Ok(())
}

async fn pipelined() -> Result<()> {
    let client = connect().await?;
    let select = client.prepare("select title from tokio_auctions where auction_id = $1").await?;
    let keys: Vec<i64> = (0..200).map(|n| n % 20 + 1).collect();
    let queries = keys.iter().map(|key| async { client.query_one(&select, &[key]).await });
    let rows = future::try_join_all(queries).await?;
    for (key, row) in keys.iter().zip(rows) {
        ensure!(row.get::<_, String>(0) == format!("title {key}"));
    }
    Ok(())
}

async fn transaction() -> Result<()> {
    let mut client = connect().await?;
    let transaction = client.transaction().await?;
    transaction.execute("insert into tokio_bids values ($1, $2, $3)", &[&2i64, &1i32, &5i64]).await?;
    transaction.execute("update tokio_auctions set price = $2 where auction_id = $1", &[&2i64, &5i64]).await?;
    transaction.commit().await?;
    let mut transaction = client.transaction().await?;
    let savepoint = transaction.savepoint("before_bid").await?;
    let again = savepoint.execute("insert into tokio_bids values ($1, $2, $3)", &[&2i64, &1i32, &6i64]).await;
    ensure!(again.err().and_then(|error| error.code().cloned()) == Some(SqlState::UNIQUE_VIOLATION));
    savepoint.rollback().await?;
    transaction.execute("delete from tokio_bids where auction_id = $1", &[&2i64]).await?;
    transaction.rollback().await?;
    let row = client.query_one("select amount from tokio_bids where auction_id = $1", &[&2i64]).await?;
    ensure!(row.get::<_, i64>(0) == 5);
    Ok(())
}

async fn portal() -> Result<()> {
    let mut client = connect().await?;
    for bid in 1..=50i32 {
        client.execute("insert into tokio_bids values ($1, $2, $3)", &[&3i64, &bid, &i64::from(bid)]).await?;
    }
    let transaction = client.transaction().await?;
    let sql = "select bid_no from tokio_bids where auction_id = $1 order by bid_no";
    let portal = transaction.bind(sql, &[&3i64]).await?;
    let first = transaction.query_portal(&portal, 20).await?;
    let second = transaction.query_portal(&portal, 20).await?;
    let third = transaction.query_portal(&portal, 20).await?;
    ensure!((first.len(), second.len(), third.len()) == (20, 20, 10));
    ensure!(second[0].get::<_, i32>(0) == 21);
    transaction.commit().await?;
    Ok(())
}

async fn copy() -> Result<()> {
    let client = connect().await?;
    let sink = client.copy_in("copy tokio_auctions (auction_id, title) from stdin").await?;
    let mut sink = Box::pin(sink);
    for auction in 1001..=1100 {
        sink.send(Bytes::from(format!("{auction}\tcopied {auction}\n"))).await?;
    }
    ensure!(sink.as_mut().finish().await? == 100);
    let row = client.query_one("select title from tokio_auctions where auction_id = $1", &[&1050i64]).await?;
    ensure!(row.get::<_, String>(0) == "copied 1050");
    let out = client.copy_out("copy tokio_auctions (auction_id) to stdout").await?;
    let out: Vec<Bytes> = out.try_collect().await?;
    ensure!(out.concat().split(|byte| *byte == b'\n').count() == 121);
    Ok(())
}

async fn errors() -> Result<()> {
    let client = connect().await?;
    let again = client.execute("insert into tokio_auctions values (1, 'again')", &[]).await;
    ensure!(again.err().and_then(|error| error.code().cloned()) == Some(SqlState::UNIQUE_VIOLATION));
    let error = client.prepare("selec").await.err().context("no error")?;
    ensure!(error.code() == Some(&SqlState::SYNTAX_ERROR));
    ensure!(client.query_one("select 1", &[]).await?.get::<_, i32>(0) == 1);
    Ok(())
}

async fn cancel() -> Result<()> {
    let client = connect().await?;
    let token = client.cancel_token();
    let (result, _) = future::join(client.batch_execute("select pg_sleep(30)"), async {
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
        token.cancel_query(NoTls).await
    })
    .await;
    ensure!(result.err().and_then(|error| error.code().cloned()) == Some(SqlState::QUERY_CANCELED));
    ensure!(client.query_one("select 1", &[]).await?.get::<_, i32>(0) == 1);
    Ok(())
}

async fn simple_query() -> Result<()> {
    let client = connect().await?;
    let messages = client.simple_query("select title from tokio_auctions where auction_id = 7").await?;
    ensure!(messages.iter().any(|message| match message {
        tokio_postgres::SimpleQueryMessage::Row(row) => row.get(0) == Some("title 7"),
        _ => false,
    }));
    Ok(())
}
