//! sqlx: pools, cached prepared statements, transactions, streams, COPY, LISTEN.

use anyhow::{Result, ensure};
use futures_util::TryStreamExt;
use sqlx::postgres::{PgConnectOptions, PgListener, PgPoolCopyExt, PgPoolOptions};
use sqlx::{Connection, PgPool, Row};

use crate::variable;

const SCHEMA: [&str; 4] = [
    "drop table if exists sqlx_bids",
    "drop table if exists sqlx_auctions",
    "create table sqlx_auctions (auction_id bigint primary key, title text not null, price bigint default 0)",
    "create table sqlx_bids (auction_id bigint references sqlx_auctions, bid_no int, amount bigint,
        primary key (auction_id, bid_no))",
];

pub async fn checks() -> Vec<(&'static str, Result<()>)> {
    let pool = match pool().await {
        Ok(pool) => pool,
        Err(error) => return vec![("sqlx pool", Err(error))],
    };
    let results = vec![
        ("sqlx schema", schema(&pool).await),
        ("sqlx insert and read", insert_and_read(&pool).await),
        ("sqlx many at once", many_at_once(&pool).await),
        ("sqlx transaction", transaction(&pool).await),
        ("sqlx stream", stream(&pool).await),
        ("sqlx copy", copy(&pool).await),
        ("sqlx errors", errors(&pool).await),
        ("sqlx listen", listen(&pool).await),
    ];
    pool.close().await;
    results
}

async fn pool() -> Result<PgPool> {
    let options = PgConnectOptions::new()
        .host(&variable("PGHOST")?)
        .port(variable("PGPORT")?.parse()?)
        .username(&variable("PGUSER")?)
        .password(&variable("PGPASSWORD").unwrap_or_default())
        .database(&variable("PGDATABASE")?);
    Ok(PgPoolOptions::new().max_connections(10).connect_with(options).await?)
}

async fn schema(pool: &PgPool) -> Result<()> {
    for statement in SCHEMA {
        sqlx::query(statement).execute(pool).await?;
    }
    Ok(())
}

async fn insert_and_read(pool: &PgPool) -> Result<()> {
    for auction in 1..=20i64 {
        let insert = "insert into sqlx_auctions (auction_id, title) values ($1, $2) returning price";
        let price: i64 =
            sqlx::query_scalar(insert).bind(auction).bind(format!("title {auction}")).fetch_one(pool).await?;
        ensure!(price == 0);
    }
    for auction in [1i64, 10, 20] {
        let row = sqlx::query("select title, price from sqlx_auctions where auction_id = $1").bind(auction);
        let row = row.fetch_one(pool).await?;
        ensure!(row.get::<String, _>("title") == format!("title {auction}"));
    }
    Ok(())
}

async fn many_at_once(pool: &PgPool) -> Result<()> {
    let reads = (0..200i64).map(|n| async move {
        let title = sqlx::query_scalar("select title from sqlx_auctions where auction_id = $1");
        title.bind(n % 20 + 1).fetch_one(pool).await.map(|title: String| (n % 20 + 1, title))
    });
    for (key, title) in futures_util::future::try_join_all(reads).await? {
        ensure!(title == format!("title {key}"));
    }
    Ok(())
}

async fn transaction(pool: &PgPool) -> Result<()> {
    let mut transaction = pool.begin().await?;
    let bid = "insert into sqlx_bids values ($1, $2, $3)";
    sqlx::query(bid).bind(2i64).bind(1i32).bind(5i64).execute(&mut *transaction).await?;
    let mut inner = transaction.begin().await?;
    let again = sqlx::query(bid).bind(2i64).bind(1i32).bind(6i64).execute(&mut *inner).await;
    ensure!(again.is_err_and(|error| error.as_database_error().is_some_and(|error| error.is_unique_violation())));
    inner.rollback().await?;
    transaction.commit().await?;
    let amount: i64 =
        sqlx::query_scalar("select amount from sqlx_bids where auction_id = 2").fetch_one(pool).await?;
    ensure!(amount == 5);
    let mut dropped = pool.begin().await?;
    sqlx::query("delete from sqlx_bids where auction_id = 2").execute(&mut *dropped).await?;
    drop(dropped);
    let rows = sqlx::query("select 1 from sqlx_bids where auction_id = $1").bind(2i64).fetch_all(pool).await?;
    ensure!(rows.len() == 1);
    Ok(())
}

async fn stream(pool: &PgPool) -> Result<()> {
    for bid in 1..=50i32 {
        let insert = sqlx::query("insert into sqlx_bids values ($1, $2, $3)").bind(3i64).bind(bid).bind(1i64);
        insert.execute(pool).await?;
    }
    let query = sqlx::query("select bid_no from sqlx_bids where auction_id = $1 order by bid_no").bind(3i64);
    let seen: Vec<i32> = query.fetch(pool).map_ok(|row| row.get::<i32, _>(0)).try_collect().await?;
    ensure!(seen == (1..=50).collect::<Vec<_>>());
    Ok(())
}

async fn copy(pool: &PgPool) -> Result<()> {
    let mut sink = pool.copy_in_raw("copy sqlx_auctions (auction_id, title) from stdin").await?;
    for auction in 1001..=1100 {
        sink.send(format!("{auction}\tcopied {auction}\n").as_bytes()).await?;
    }
    ensure!(sink.finish().await? == 100);
    let title: String =
        sqlx::query_scalar("select title from sqlx_auctions where auction_id = 1050").fetch_one(pool).await?;
    ensure!(title == "copied 1050");
    Ok(())
}

async fn errors(pool: &PgPool) -> Result<()> {
    let mut conn = pool.acquire().await?;
    let error = sqlx::query("select 1/0").execute(&mut *conn).await;
    ensure!(error.is_err_and(|error| {
        error.as_database_error().and_then(|error| error.code().map(|code| code == "22012")) == Some(true)
    }));
    conn.ping().await?;
    Ok(())
}

async fn listen(pool: &PgPool) -> Result<()> {
    let mut listener = PgListener::connect_with(pool).await?;
    listener.listen("sqlx_channel").await?;
    sqlx::query("select pg_notify('sqlx_channel', 'hello')").execute(pool).await?;
    let heard = tokio::time::timeout(std::time::Duration::from_secs(10), listener.recv()).await??;
    ensure!(heard.payload() == "hello");
    Ok(())
}
