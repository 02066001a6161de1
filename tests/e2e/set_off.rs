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
async fn pitfall_05_a_trigger_stays_with_its_row_or_the_write_is_refused() {
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
async fn pitfall_05_rules_policies_and_cascades_are_looked_into() {
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
    run(&client, &["CREATE TABLE whole (id int)", "CREATE TABLE part (auction_id int)"]).await;
    refused(&client, "CREATE TABLE child (auction_id int) INHERITS (whole)", "its child public.child").await;
    run(&client, &["SELECT * FROM whole", "INSERT INTO part VALUES (1)"]).await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_does_not_change_where_rows_are_looked_for() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 4).await;
    run(
        &client,
        &["CREATE SCHEMA s2", "CREATE TABLE s2.lists (a int, k int)", "INSERT INTO s2.lists VALUES (1, 2)"],
    )
    .await;
    for sql in [
        "ALTER TABLE s2.lists RENAME k TO auction_id",
        "ALTER TABLE s2.lists RENAME COLUMN k TO auction_id",
        "ALTER TABLE s2.lists ADD COLUMN b int, ADD auction_id bigint DEFAULT 7",
        "ALTER TABLE s2.lists RENAME TO users",
        "ALTER TABLE auctions RENAME auction_id TO k",
        "ALTER TABLE IF EXISTS ONLY bids DROP COLUMN auction_id",
        "ALTER TABLE categories RENAME TO kinds",
        "CREATE TABLE filled (auction_id) AS SELECT 1",
        "CREATE TABLE filled AS SELECT note_id AS auction_id FROM notes",
        "CREATE TABLE filled (auction_id, b) AS VALUES (1, 2)",
        "SELECT 1 AS auction_id INTO filled",
        "CREATE TABLE users AS SELECT * FROM notes",
        "ALTER TABLE bids ALTER auction_id TYPE text",
        "ALTER TABLE bids ALTER COLUMN auction_id SET DATA TYPE bigint USING auction_id + 1",
    ] {
        let error = client.batch_execute(sql).await.err().unwrap_or_else(|| panic!("accepted: {sql}"));
        assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{sql}: {error:?}");
    }
    run(
        &client,
        &[
            "ALTER TABLE s2.lists RENAME k TO b",
            "ALTER TABLE s2.lists ADD COLUMN c int, DROP COLUMN b",
            "ALTER TABLE s2.lists RENAME TO lists2",
            "ALTER TABLE auctions ADD COLUMN note text, ALTER COLUMN title TYPE varchar(80)",
            "CREATE TABLE copied AS SELECT * FROM notes",
            "CREATE TABLE hollow AS SELECT 1 AS auction_id WITH NO DATA",
        ],
    )
    .await;
    let alter = "ALTER TABLE bids DROP CONSTRAINT bids_auction_id_fkey, ALTER auction_id TYPE int";
    run(&client, &[alter]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_detour_changes_where_rows_are_looked_for() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    run(
        &client,
        &[
            "CREATE TYPE lot AS (auction_id bigint, x text)",
            "CREATE TABLE lots OF lot",
            "CREATE TYPE memo AS (id int, x text)",
            "CREATE TABLE memos OF memo",
            "CREATE SCHEMA kinds",
            "CREATE DOMAIN kinds.id AS varchar(9)",
            "CREATE TABLE named (auction_id kinds.id, x text)",
            "CREATE TABLE plain (auction_id bigint, x text)",
            "INSERT INTO lots VALUES (1, 'a'), (2, 'b'), (3, 'c'), (4, 'd')",
            "INSERT INTO named VALUES ('1', 'a'), ('2', 'b'), ('3', 'c'), ('4', 'd')",
            "INSERT INTO memos VALUES (1, 'a')",
            "CREATE ROLE keeper",
            "ALTER DOMAIN kinds.id OWNER TO keeper",
        ],
    )
    .await;
    for sql in [
        "ALTER TYPE lot RENAME ATTRIBUTE auction_id TO z CASCADE",
        "ALTER TYPE lot DROP ATTRIBUTE auction_id CASCADE",
        "ALTER TYPE lot ALTER ATTRIBUTE auction_id TYPE text CASCADE",
        "ALTER TYPE lot DROP ATTRIBUTE auction_id CASCADE, ADD ATTRIBUTE auction_id bigint CASCADE",
        "ALTER TYPE memo ADD ATTRIBUTE auction_id bigint CASCADE",
        "ALTER TYPE memo RENAME ATTRIBUTE id TO auction_id CASCADE",
        "DROP DOMAIN kinds.id CASCADE",
        "DROP SCHEMA kinds CASCADE",
        "DROP OWNED BY keeper CASCADE",
        "ALTER TABLE plain DROP COLUMN auction_id, ADD COLUMN auction_id bigint DEFAULT 7",
        "DO $$ BEGIN DROP DOMAIN kinds.id CASCADE; END $$",
    ] {
        refused(&client, sql, "not looked for").await;
        run(&client, &["BEGIN"]).await;
        refused(&client, sql, "not looked for").await;
        run(&client, &["ROLLBACK"]).await;
    }
    run(
        &client,
        &[
            "ALTER TYPE lot ADD ATTRIBUTE y int CASCADE, DROP ATTRIBUTE x CASCADE",
            "ALTER TYPE lot ALTER ATTRIBUTE auction_id TYPE int CASCADE",
            "ALTER TABLE lots NOT OF",
            "CREATE TABLE again (LIKE lots)",
            "ALTER TABLE again OF lot",
            "DROP TABLE named CASCADE",
            "DROP SCHEMA kinds CASCADE",
        ],
    )
    .await;
    assert_eq!(first_column(&client, "SELECT auction_id FROM lots").await.len(), 4);
    assert_eq!(first_column(&client, "SELECT auction_id FROM lots WHERE auction_id = 3").await, ["3"]);
    assert_eq!(first_column(&client, "SELECT x FROM memos").await, ["a"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_05_materialized_views_tell_of_all_rows() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 6).await;
    let create = "CREATE MATERIALIZED VIEW listed AS SELECT auction_id, title FROM auctions";
    assert_eq!(
        client.execute(create, &[]).await.expect("create"),
        6,
        "the tag counts the rows of all shards"
    );
    assert_eq!(first_column(&client, "SELECT auction_id FROM listed").await.len(), 6);
    run(
        &client,
        &[
            "CREATE UNIQUE INDEX ON listed (auction_id)",
            "INSERT INTO auctions (auction_id, title) VALUES (7, 'lot')",
            "REFRESH MATERIALIZED VIEW listed",
            "INSERT INTO auctions (auction_id, title) VALUES (8, 'lot')",
            "REFRESH MATERIALIZED VIEW CONCURRENTLY listed",
        ],
    )
    .await;
    assert_eq!(first_column(&client, "SELECT auction_id FROM listed").await.len(), 8);
    for sql in [
        "CREATE MATERIALIZED VIEW counted AS SELECT count(*) FROM auctions",
        "CREATE MATERIALIZED VIEW titles AS SELECT title FROM auctions",
    ] {
        refused(&client, sql, "could not be read").await;
    }
    run(&client, &["CREATE MATERIALIZED VIEW kinds AS SELECT count(*) FROM categories"]).await;
    assert_eq!(first_column(&client, "SELECT * FROM kinds").await, ["0"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_03_sequences_of_sharded_tables_stay_apart() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    run(&client, &["CREATE TABLE seen (auction_id bigint, id bigserial, v text)"]).await;
    let mut all = std::collections::HashSet::new();
    for change in [
        "SELECT 1",
        "TRUNCATE seen RESTART IDENTITY",
        "SELECT setval('seen_id_seq', 50000)",
        "SELECT setval('public.seen_id_seq', 90001, true)",
        "SELECT setval(pg_get_serial_sequence('seen', 'id'), 200000)",
        "SELECT setval(pg_get_serial_sequence('public.\"seen\"', 'id')::regclass, 300001, false)",
    ] {
        if change.starts_with("TRUNCATE") {
            all.clear();
        }
        run(&client, &[change]).await;
        for key in 1..=24 {
            let insert = format!("INSERT INTO seen (auction_id, v) VALUES ({key}, 'x') RETURNING id");
            let id = first_column(&client, &insert).await;
            assert!(all.insert(id.concat()), "{change}: {id:?} was drawn before");
        }
    }
    let floor = first_column(&client, "INSERT INTO seen (auction_id) VALUES (1) RETURNING id > 300001").await;
    assert_eq!(floor, ["t"], "setval holds on every shard");
    let some = "SELECT setval(oid, 5) FROM pg_class WHERE relname = 'seen_id_seq'";
    refused(&client, some, "cannot be placed").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_and_unused_queries_do_not_misplace() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 4).await;
    run(&client, &["INSERT INTO notes VALUES (1, 'x')"]).await;
    let from_series = "/* gavel: shard=2 */ INSERT INTO auctions (auction_id, title) SELECT g, 'x' FROM generate_series(100, 110) g";
    refused(&client, from_series, "").await;
    refused(&client, "/* gavel: shard=2 */ SELECT * FROM notes", "home shard only").await;
    run(&client, &["/* gavel: shard=2 */ SELECT relname FROM pg_class"]).await;
    let unused = client.query("WITH q AS (SELECT * FROM auctions) SELECT 1", &[]).await.expect("a query");
    assert_eq!(unused.len(), 1, "not one row of each shard");
    run(&client, &["CREATE TEMP TABLE t (a int)", "ANALYZE t", "VACUUM (ANALYZE) t"]).await;
    run(&client, &["DROP TABLE categories", "CREATE TABLE categories (id int, c timestamptz DEFAULT now())"])
        .await;
    refused(&client, "COPY categories (id) FROM STDIN", "the default of public.categories.c").await;
}
