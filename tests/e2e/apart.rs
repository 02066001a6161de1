//! What would be done again, or otherwise, on each shard by DDL, by defaults and by functions: done once, or refused.

use tests::cluster::{Cluster, first_column};
use tokio_postgres::Client;

use crate::set_off::refused;

/// Tables called `ref_…` are reference tables.
const REFERENCE: &str = "[[tables]]\npattern = \"ref_*\"\nkind = \"reference\"";

async fn run(client: &Client, statements: &[&str]) {
    for sql in statements {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_inside_of_blocks_and_functions_writes_no_row_on_every_shard() {
    let cluster = Cluster::builder().config_extra(REFERENCE).start().await;
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
            "CREATE FUNCTION mks() RETURNS void LANGUAGE sql AS 'create table zz3 (auction_id bigint)'",
            "CREATE PROCEDURE pr3() LANGUAGE plpgsql AS $$begin create table zz2 (auction_id bigint); end$$",
            "CREATE FUNCTION temps() RETURNS int LANGUAGE plpgsql AS $$begin create temp table zt (a int) on commit drop; drop table zt; return 1; end$$",
            "SELECT temps()",
        ],
    )
    .await;
    assert_eq!(first_column(&client, "SELECT count(*) FROM zv").await, ["3"]);
    for sql in [
        "SELECT mk()",
        "SELECT mks()",
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
    let cluster = Cluster::builder().config_extra(REFERENCE).start().await;
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

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reference_tables_stay_alike_whatever_sets_a_default() {
    let cluster = Cluster::builder().config_extra(REFERENCE).start().await;
    let client = cluster.connect().await;
    run(
        &client,
        &[
            "CREATE TABLE ref_i (id int PRIMARY KEY, v text, u uuid DEFAULT gen_random_uuid(), \
             n timestamptz DEFAULT now(), s serial, c text DEFAULT 'c', p text DEFAULT inet_server_port()::text)",
            "CREATE TABLE ref_log (id serial PRIMARY KEY, of int, at timestamptz DEFAULT now())",
            "CREATE TABLE ref_src (id int PRIMARY KEY)",
            "INSERT INTO ref_i (id, v) VALUES (1, 'a')",
            "INSERT INTO ref_src VALUES (1), (2)",
        ],
    )
    .await;
    for sql in [
        "UPDATE ref_i SET u = DEFAULT WHERE id = 1",
        "UPDATE ref_i SET n = DEFAULT",
        "UPDATE ref_i SET s = DEFAULT",
        "UPDATE ref_i SET p = DEFAULT",
        "UPDATE ref_i SET (v, u) = ('b', DEFAULT)",
        "UPDATE ref_i SET (v, u) = ROW ('b', DEFAULT)",
        "INSERT INTO ref_i (id) VALUES (1) ON CONFLICT (id) DO UPDATE SET u = DEFAULT",
        "INSERT INTO ref_i (id, v) SELECT id, 'x' FROM ref_src ON CONFLICT (id) DO UPDATE SET u = DEFAULT",
        "WITH w AS (UPDATE ref_i SET u = DEFAULT RETURNING id) SELECT * FROM w",
        "MERGE INTO ref_i r USING ref_src s ON r.id = s.id WHEN MATCHED THEN UPDATE SET u = DEFAULT",
        "MERGE INTO ref_i r USING ref_src s ON r.id = s.id WHEN NOT MATCHED THEN INSERT (id, v) VALUES (s.id, 'm')",
        "MERGE INTO ref_log r USING ref_src s ON r.of = s.id WHEN NOT MATCHED THEN INSERT (of, id) VALUES (s.id, DEFAULT)",
    ] {
        refused(&client, sql, "would be evaluated separately on each shard").await;
    }
    for column in [
        "z text DEFAULT current_setting('port')",
        "z int DEFAULT inet_server_port()",
        "z timestamptz DEFAULT now()",
    ] {
        let error = client.batch_execute(&format!("ALTER TABLE ref_i ADD {column}")).await;
        let error = error.expect_err(column);
        assert_eq!(error.code().map(|code| code.code()), Some("0A000"), "{column}: {error:?}");
    }
    run(
        &client,
        &[
            "UPDATE ref_i SET c = DEFAULT",
            "MERGE INTO ref_src r USING (VALUES (3)) s (id) ON r.id = s.id WHEN NOT MATCHED THEN INSERT VALUES (s.id)",
            "ALTER TABLE ref_i ADD z float",
            "ALTER TABLE ref_i ALTER z SET DEFAULT random()",
            "ALTER TABLE ref_i ALTER COLUMN u SET DEFAULT gen_random_uuid(), ALTER n SET DEFAULT now()",
            "INSERT INTO ref_i (id) VALUES (7)",
            "CREATE TABLE ref_t (id int PRIMARY KEY)",
            "CREATE FUNCTION logs() RETURNS trigger LANGUAGE plpgsql AS \
             $$begin insert into ref_log (of) values (new.id); return new; end$$",
            "CREATE TRIGGER logs AFTER INSERT ON ref_t FOR EACH ROW EXECUTE FUNCTION logs()",
            "CREATE TABLE ref_p (u uuid PRIMARY KEY)",
            "CREATE TABLE ref_c (u uuid DEFAULT gen_random_uuid() REFERENCES ref_p ON DELETE SET DEFAULT)",
        ],
    )
    .await;
    refused(&client, "INSERT INTO ref_t VALUES (1)", "the trigger logs").await;
    refused(&client, "DELETE FROM ref_p", "gen_random_uuid()").await;
    let rows = cluster.on_each_primary("SELECT i::text FROM ref_i i ORDER BY id").await;
    assert_eq!(rows[0], rows[1]);
    assert_eq!(rows[0].len(), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_by_default_is_not_each_shards_own() {
    let cluster = Cluster::builder().config_extra(REFERENCE).start().await;
    let client = cluster.connect().await;
    run(
        &client,
        &[
            "CREATE TABLE a (auction_id bigint PRIMARY KEY, ts timestamptz DEFAULT now(), u uuid DEFAULT gen_random_uuid())",
            "INSERT INTO a SELECT generate_series(1, 9)",
        ],
    )
    .await;
    refused(&client, "UPDATE a SET ts = DEFAULT", "DEFAULT of public.a.ts").await;
    refused(&client, "ALTER TABLE a ADD z timestamptz DEFAULT now()", "set the default then").await;
    run(
        &client,
        &[
            "UPDATE a SET ts = DEFAULT WHERE auction_id = 3",
            "UPDATE a SET u = DEFAULT",
            "ALTER TABLE a ADD z timestamptz",
            "ALTER TABLE a ALTER z SET DEFAULT now()",
            "UPDATE a SET z = now()",
        ],
    )
    .await;
    assert_eq!(first_column(&client, "SELECT count(DISTINCT z) FROM a").await, ["1"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_children_do_not_become_rows_of_their_parent() {
    let cluster = Cluster::builder().config_extra(REFERENCE).start().await;
    let client = cluster.connect().await;
    run(
        &client,
        &[
            "CREATE TABLE par (auction_id bigint, x int)",
            "CREATE TABLE chi (y int) INHERITS (par)",
            "INSERT INTO chi VALUES (1, 1, 10), (2, 2, 20)",
            "CREATE TABLE un (id int, v text)",
            "CREATE TABLE pu (id int, v text) PARTITION BY LIST (id)",
            "CREATE TABLE ranged (auction_id bigint, x int) PARTITION BY RANGE (auction_id)",
            "CREATE TABLE ranged_1 PARTITION OF ranged FOR VALUES FROM (0) TO (1000)",
            "INSERT INTO ranged VALUES (1, 1), (2, 2)",
        ],
    )
    .await;
    refused(&client, "UPDATE par SET auction_id = 77 WHERE x = 2", "public.chi inherits from it").await;
    run(
        &client,
        &["UPDATE chi SET auction_id = 77 WHERE x = 2", "UPDATE ranged SET auction_id = 77 WHERE x = 2"],
    )
    .await;
    assert_eq!(first_column(&client, "SELECT y FROM chi WHERE auction_id = 77").await, ["20"]);
    assert_eq!(first_column(&client, "SELECT x FROM ranged WHERE auction_id = 77").await, ["2"]);
    refused(&client, "CREATE TABLE ref_ci (z int) INHERITS (un)", "ref_ci").await;
    refused(&client, "CREATE TABLE ref_pu1 PARTITION OF pu FOR VALUES IN (1)", "ref_pu1").await;
    run(
        &client,
        &[
            "INSERT INTO un VALUES (1, 'a')",
            "CREATE TABLE pu_1 PARTITION OF pu FOR VALUES IN (1)",
            "INSERT INTO pu VALUES (1)",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn on_update_cascade_bars_what_changes_the_columns_that_are_referenced() {
    let cluster = Cluster::builder().config_extra(REFERENCE).start().await;
    let client = cluster.connect().await;
    run(
        &client,
        &[
            "CREATE TABLE a (auction_id bigint PRIMARY KEY, t text)",
            "CREATE TABLE b (auction_id bigint PRIMARY KEY REFERENCES a ON UPDATE CASCADE, n int)",
            "CREATE TABLE c (auction_id bigint REFERENCES b ON UPDATE SET NULL)",
            "CREATE VIEW v AS SELECT * FROM a",
            "CREATE TABLE ref_z (id bigint PRIMARY KEY, t text)",
            "CREATE TABLE d (auction_id bigint REFERENCES ref_z ON UPDATE CASCADE)",
            "INSERT INTO a SELECT generate_series(1, 9), 'x'",
            "INSERT INTO b SELECT auction_id, 1 FROM a",
            "INSERT INTO ref_z VALUES (1, 'x')",
            "UPDATE a SET t = 'z' WHERE auction_id = 1",
            "UPDATE a SET t = 'y'",
            "INSERT INTO a VALUES (1, 'q') ON CONFLICT (auction_id) DO UPDATE SET t = excluded.t",
            "MERGE INTO a USING (VALUES (1::bigint)) s (k) ON a.auction_id = s.k WHEN MATCHED THEN UPDATE SET t = 'm'",
            "UPDATE b SET n = 2",
            "UPDATE ref_z SET t = 'z'",
        ],
    )
    .await;
    for sql in [
        "UPDATE a SET auction_id = 99 WHERE auction_id = 1",
        "UPDATE a SET (t, auction_id) = ('x', 99) WHERE auction_id = 1",
        "INSERT INTO a VALUES (1, 'q') ON CONFLICT (auction_id) DO UPDATE SET auction_id = 98",
        "UPDATE v SET auction_id = 97 WHERE auction_id = 1",
        "UPDATE ref_z SET id = 2",
    ] {
        refused(&client, sql, "would change the shard key there").await;
    }
    assert_eq!(first_column(&client, "SELECT t FROM a ORDER BY auction_id LIMIT 2").await, ["m", "y"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sequences_that_go_down_draw_other_values_on_each_shard() {
    let cluster = Cluster::builder().config_extra(REFERENCE).start().await;
    let client = cluster.connect().await;
    let rows = "SELECT g FROM generate_series(1, 12) g";
    let insert = |table: &str| format!("INSERT INTO {table} (auction_id) {rows}");
    run(
        &client,
        &[
            "CREATE TABLE p16 (id int GENERATED ALWAYS AS IDENTITY \
             (INCREMENT -1 MINVALUE -1000 MAXVALUE -1 START -1) PRIMARY KEY, auction_id bigint)",
            &insert("p16"),
            "CREATE SEQUENCE s INCREMENT -1",
            "CREATE TABLE q (auction_id bigint, id bigint DEFAULT nextval('s') PRIMARY KEY)",
            &insert("q"),
            "CREATE TABLE r (auction_id bigint, id bigint GENERATED BY DEFAULT AS IDENTITY (MINVALUE -100000) PRIMARY KEY)",
            &insert("r"),
            "ALTER TABLE r ALTER id SET INCREMENT -1 SET MINVALUE -9000000 RESTART WITH -200000",
            &insert("r"),
            "CREATE TABLE added (auction_id bigint)",
            &insert("added"),
            "ALTER TABLE added ADD id bigint GENERATED ALWAYS AS IDENTITY (INCREMENT -1) PRIMARY KEY",
            &insert("added"),
            "BEGIN",
            "CREATE TABLE within (auction_id bigint, id int GENERATED ALWAYS AS IDENTITY (INCREMENT -2) PRIMARY KEY)",
            &insert("within"),
            "COMMIT",
        ],
    )
    .await;
    for (table, count) in [("p16", "12"), ("q", "12"), ("r", "24"), ("added", "24"), ("within", "12")] {
        let ids = first_column(&client, &format!("SELECT count(DISTINCT id) FROM {table}")).await;
        assert_eq!(ids, [count], "{table}");
    }
    assert_eq!(first_column(&client, "SELECT count(*) FROM p16 WHERE id >= 0").await, ["0"]);
    for sql in [
        "CREATE TABLE bad (auction_id bigint, id int GENERATED ALWAYS AS IDENTITY (MAXVALUE 64 CYCLE))",
        "ALTER SEQUENCE s CYCLE",
        "ALTER TABLE p16 ALTER id SET CYCLE",
        "CREATE SEQUENCE s4 MAXVALUE 8 CYCLE; CREATE TABLE bad (auction_id bigint, id int DEFAULT nextval('s4'))",
    ] {
        refused(&client, sql, "has CYCLE").await;
    }
    run(
        &client,
        &["CREATE SEQUENCE s5 MAXVALUE 3 CYCLE", "CREATE TABLE home (id int DEFAULT nextval('s5'))"],
    )
    .await;
    // Drawn until its end, a sequence has no more values, on whichever shard.
    run(
        &client,
        &["CREATE TABLE small (auction_id bigint, id int GENERATED ALWAYS AS IDENTITY (INCREMENT -1 MINVALUE -40) PRIMARY KEY)"],
    )
    .await;
    let mut drawn = 0;
    let error = loop {
        match client.batch_execute("INSERT INTO small VALUES (1)").await {
            Ok(()) => drawn += 1,
            Err(error) => break error,
        }
        assert!(drawn < 41, "it ends");
    };
    assert_eq!(error.code().map(|code| code.code()), Some("2200H"), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_time_that_is_read_when_ddl_runs_is_refused() {
    let cluster = Cluster::builder().config_extra(REFERENCE).start().await;
    let client = cluster.connect().await;
    run(&client, &["CREATE TABLE a (auction_id bigint, at timestamptz)"]).await;
    for sql in [
        "ALTER TABLE a ADD ts timestamptz DEFAULT 'now'",
        "ALTER TABLE a ALTER at SET DEFAULT timestamptz 'now'",
        "CREATE TABLE b (auction_id bigint, ts timestamptz DEFAULT ' NOW ')",
        "CREATE VIEW v AS SELECT auction_id, 'now'::timestamptz AS ts FROM a",
        "ALTER TABLE a ADD CHECK (at > 'now')",
        "DO $$begin create table b (auction_id bigint, ts timestamptz default 'now'); end$$",
    ] {
        refused(&client, sql, "use now()").await;
    }
    run(
        &client,
        &[
            "ALTER TABLE a ADD word text DEFAULT 'now'",
            "ALTER TABLE a ADD CHECK (word IN ('now', 'today'))",
            "INSERT INTO a VALUES (1, now()), (2, now()), (3, now())",
        ],
    )
    .await;
    let error = client.batch_execute("UPDATE a SET auction_id = NULL").await.expect_err("NULL as a key");
    let error = error.as_db_error().expect("of the server").message().to_owned();
    assert!(error.contains("relation \"a\""), "{error}");
}
