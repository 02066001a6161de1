//! What statements set off (triggers, rules, policies) stays with the row that it is about, or the statement is refused; and
//! tables that cannot be what the rules of the configuration say are refused by name.

use tests::cluster::{Cluster, first_column};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::house::{add_auctions, build};

async fn run(client: &Client, statements: &[&str]) {
    for sql in statements {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

/// The statement is refused, and its detail has this text.
pub(crate) async fn refused(client: &Client, sql: &str, why: &str) {
    let error = client.batch_execute(sql).await.err().unwrap_or_else(|| panic!("accepted: {sql}"));
    let refusal = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
    assert_eq!(refusal.code(), &SqlState::FEATURE_NOT_SUPPORTED, "{sql}: {refusal:?}");
    let text = format!("{} {}", refusal.message(), refusal.detail().unwrap_or_default());
    assert!(text.contains(why), "{sql}: {text}");
}

fn function(name: &str, body: &str) -> String {
    format!(
        "CREATE OR REPLACE FUNCTION {name}() RETURNS trigger LANGUAGE plpgsql AS $f$ BEGIN {body} END $f$"
    )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trigger_stays_with_its_row_or_the_write_is_refused() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 8).await;
    let raise = "UPDATE auctions SET price = NEW.amount WHERE auction_id = NEW.auction_id; RETURN NEW;";
    run(
        &client,
        &[
            &function("raise_price", raise),
            "CREATE TRIGGER price AFTER INSERT ON bids FOR EACH ROW EXECUTE FUNCTION raise_price()",
        ],
    )
    .await;
    for id in 1..=8 {
        run(&client, &[&format!("INSERT INTO bids (auction_id, amount) VALUES ({id}, {id}.5)")]).await;
        let select = format!("SELECT price FROM auctions WHERE auction_id = {id}");
        assert_eq!(first_column(&client, &select).await, [format!("{id}.5")]);
    }
    let insert = "INSERT INTO bids (auction_id, amount) VALUES (1, 3)";
    let copy = "COPY bids (auction_id, amount) FROM STDIN";
    let change = "INSERT INTO notes VALUES (NEW.bid_id, 'bid'); RETURN NEW;";
    run(&client, &[&function("raise_price", change)]).await;
    refused(&client, insert, "home shard only").await;
    refused(&client, copy, "home shard only").await;
    run(&client, &[&function("raise_price", "NEW.auction_id := NEW.auction_id + 1; RETURN NEW;")]).await;
    refused(&client, insert, "may change the shard key").await;
    refused(&client, &format!("/* gavel: key=1 */ {insert}"), "may change the shard key").await;
    run(
        &client,
        &["DELETE FROM bids WHERE auction_id = 2", "ALTER TABLE bids DISABLE TRIGGER price", insert],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rules_policies_and_cascades_are_looked_into() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 2).await;
    run(&client, &["CREATE RULE r AS ON UPDATE TO bids DO ALSO INSERT INTO notes VALUES (1, 'r')"]).await;
    refused(&client, "UPDATE bids SET amount = 1 WHERE auction_id = 1", "the rule r").await;
    run(&client, &["INSERT INTO bids (auction_id, amount) VALUES (1, 3)", "DROP RULE r ON bids"]).await;
    run(&client, &["UPDATE bids SET amount = 1 WHERE auction_id = 1"]).await;
    run(
        &client,
        &[
            "ALTER TABLE bids ENABLE ROW LEVEL SECURITY",
            "CREATE POLICY p ON bids USING (bid_id IN (SELECT note_id FROM notes))",
        ],
    )
    .await;
    refused(&client, "SELECT * FROM bids WHERE auction_id = 1", "the policy p").await;
    run(&client, &["DROP POLICY p ON bids", "SELECT * FROM bids WHERE auction_id = 1"]).await;
    let touch = "NEW.name := now()::text; RETURN NEW;";
    run(
        &client,
        &[
            &function("touch", touch),
            "CREATE TRIGGER t BEFORE INSERT ON categories FOR EACH ROW EXECUTE FUNCTION touch()",
        ],
    )
    .await;
    refused(&client, "INSERT INTO categories VALUES (1, 'x')", "now()").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn tables_that_cannot_be_sharded_say_why() {
    let cluster = Cluster::builder().start().await;
    cluster.allow_log("statements on this table are refused");
    let client = cluster.connect().await;
    let computed = "CREATE TABLE computed (x bigint, auction_id bigint GENERATED ALWAYS AS (x * 2) STORED)";
    run(&client, &[computed, "CREATE TABLE odd (auction_id real)"]).await;
    refused(&client, "INSERT INTO computed (x) VALUES (1)", "public.computed").await;
    refused(&client, "SELECT * FROM computed", "GENERATED ALWAYS").await;
    refused(&client, "INSERT INTO odd VALUES (1)", "of type real").await;
    refused(&client, "COPY odd FROM STDIN", "of type real").await;
    run(&client, &["CREATE TABLE whole (id int)", "CREATE TABLE part (auction_id int) INHERITS (whole)"])
        .await;
    refused(&client, "SELECT * FROM whole", "its child public.part").await;
    run(&client, &["INSERT INTO part VALUES (1, 1)"]).await;
    refused(&client, "CREATE TEMP VIEW v AS SELECT * FROM part", "temporary view").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_and_given_keys_mix() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    run(&client, &["CREATE TABLE mixed (auction_id serial PRIMARY KEY, a int)"]).await;
    let insert = "INSERT INTO mixed VALUES (DEFAULT, 5), (100, 6) RETURNING auction_id";
    let keys = first_column(&client, insert).await;
    assert_eq!(keys[1], "100");
    for key in keys {
        let select = format!("SELECT auction_id FROM mixed WHERE auction_id = {key}");
        assert_eq!(first_column(&client, &select).await, [key]);
    }
    run(&client, &["CREATE SCHEMA other", "CREATE TABLE other.mixed (auction_id text, a int)"]).await;
    run(&client, &["SET search_path = E'other'", "INSERT INTO mixed VALUES ('b', 7)"]).await;
    assert_eq!(first_column(&client, "SELECT a FROM mixed WHERE auction_id = 'b'").await, ["7"]);
    run(&client, &["ALTER DATABASE auction SET work_mem = '5MB'", "ALTER DATABASE auction RESET work_mem"])
        .await;
    let left = "SELECT 1 FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase \
                WHERE d.datname = 'auction'";
    assert!(cluster.on_each_primary(left).await.concat().is_empty());
}
