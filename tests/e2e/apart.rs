//! What would be done again, or otherwise, on each shard by DDL, by defaults and by functions: done once, or refused.

use tests::cluster::{Cluster, first_column};
use tokio_postgres::Client;

use crate::set_off::refused;

async fn run(client: &Client, statements: &[&str]) {
    for sql in statements {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_inside_of_blocks_and_functions_writes_no_row_on_every_shard() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    for body in [
        "create table zv (auction_id bigint primary key); insert into zv values (1), (2), (3);",
        "create table zv as select 1 as auction_id;",
        "create table zv (auction_id bigint); perform pg_notify('a', 'b');",
    ] {
        let sql = format!(
            "DO $$begin if not exists (select 1 from information_schema.tables where table_name = 'zv') then {body} end if; end$$"
        );
        refused(&client, &sql, "a DO block with DDL").await;
        refused(&client, &format!("/* gavel: shard=1 */ {sql}"), "a DO block with DDL").await;
    }
    run(
        &client,
        &[
            "DO $$begin create table zv (auction_id bigint primary key); create index on zv (auction_id); end$$",
            "INSERT INTO zv VALUES (1), (2), (3)",
            "CREATE FUNCTION mk() RETURNS int LANGUAGE plpgsql AS $$begin create table zz2 (auction_id bigint); return 1; end$$",
            "CREATE FUNCTION via() RETURNS int LANGUAGE sql AS 'select mk()'",
            "CREATE PROCEDURE pr3() LANGUAGE plpgsql AS $$begin create table zz2 (auction_id bigint); end$$",
            "CREATE FUNCTION temps() RETURNS int LANGUAGE plpgsql AS $$begin create temp table zt (a int) on commit drop; drop table zt; return 1; end$$",
            "SELECT temps()",
        ],
    )
    .await;
    assert_eq!(first_column(&client, "SELECT count(*) FROM zv").await, ["3"]);
    for sql in [
        "SELECT mk()",
        "SELECT via()",
        "CALL pr3()",
        "/* gavel: shard=2 */ SELECT mk()",
        "SELECT * FROM mk()",
    ] {
        refused(&client, sql, "runs DDL").await;
    }
    refused(&client, "DO $$begin perform mk(); end$$", "names the function mk").await;
    run(&client, &["DROP TABLE zv"]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn event_triggers_that_use_tables_are_refused() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    let event =
        |name: &str| format!("CREATE EVENT TRIGGER {name} ON ddl_command_end EXECUTE FUNCTION {name}()");
    run(
        &client,
        &[
            "CREATE TABLE log (tag text)",
            "CREATE FUNCTION et() RETURNS event_trigger LANGUAGE plpgsql AS $$begin insert into log values (tg_tag); end$$",
            "CREATE FUNCTION says() RETURNS event_trigger LANGUAGE plpgsql AS $$begin raise notice '%', tg_tag; end$$",
        ],
    )
    .await;
    refused(&client, &event("et"), "the event trigger et calls et()").await;
    run(&client, &[&event("says"), "CREATE TABLE made (auction_id bigint)", "INSERT INTO made VALUES (1)"])
        .await;
    for shard in 0..2 {
        cluster.shard(shard).primary.execute("auction", &event("et")).await.expect("made on the node");
    }
    // Fires none, and has the catalog read again.
    run(&client, &["CREATE ROLE of_no_event", "DROP ROLE of_no_event"]).await;
    refused(&client, "ALTER TABLE made ADD a int", "the event trigger et calls et()").await;
    run(&client, &["DROP EVENT TRIGGER et", "ALTER TABLE made ADD a int"]).await;
    assert_eq!(first_column(&client, "SELECT count(*) FROM log").await, ["0"]);
}
