//! 1 to 5: keys of new rows, sequences, what must be evaluated once, new keys of rows, texts of several statements.

use std::collections::HashSet;

use tests::cluster::{Cluster, first_column};
use tokio_postgres::Client;

use super::house;
use crate::clauses::Clauses;
use crate::house::holders;

const KEYS_OF_NEW_ROWS: &[&str] = &[
    "create table drawn (auction_id bigserial primary key, a int, b text default 'b')",
    "create table drawn_too (auction_id bigserial primary key, a int)",
    "create table always (auction_id bigint generated always as identity primary key, a int default 3)",
    "create table given (auction_id bigint primary key, a int, b text)",
    "create table tagged (auction_id bigint, tag text, primary key (auction_id, tag))",
    "create table home (id int primary key, about bigint)",
    "create table categories (id int primary key, name text)",
    "insert into given (auction_id, a) select g, g % 3 from generate_series(1, 30) g",
    "insert into home select g, g * 100 from generate_series(1, 6) g",
    "insert into categories select g, 'c' || g from generate_series(1, 6) g",
];

/// The key is in the text, or computed, or comes out of a query.
const INSERTS: &[&str] = &[
    "insert into given values (101)",
    "insert into given values (102, 1), (103, 2), (104, 3)",
    "insert into given (b, auction_id) values ('x', 105), ('y', 106) returning a, b, auction_id",
    "insert into given (auction_id, b) values (length('seven') + 102, 'computed') returning *",
    "insert into given (auction_id) values (abs(-108)) returning auction_id",
    "insert into given (auction_id) values ((select max(about) + 9 from home))",
    "insert into given (auction_id, a) values ('109', default), (110.0, 4), (111::int, 5)",
    "insert into tagged select auction_id, 'a' || coalesce(a, 0) from given",
    "insert into tagged (tag, auction_id) select 'moved', auction_id + 1 from given returning *",
    "insert into tagged select a, 'by a' from given where a is not null group by a",
    "insert into tagged select about, 'home' from home returning auction_id",
    "insert into tagged select g, 'series' from generate_series(1, 40) g",
    "insert into tagged select g.auction_id, c.name from given g join categories c on c.id = g.a",
    "insert into tagged select auction_id, 'a0' from given on conflict do nothing",
    "insert into tagged (auction_id, tag) select max(auction_id), 'top' from given",
    "insert into tagged (auction_id, tag) select auction_id, 'last' from given order by a, auction_id desc limit 4 returning *",
    "insert into tagged with w as (select auction_id from given where a = 1) select auction_id, 'with' from w",
    "insert into home select auction_id, a from given where auction_id between 10 and 20",
    "insert into categories select auction_id, b from given where auction_id between 101 and 108",
];

/// The key is the next value of its sequence, which is the cluster's own: its rows are told by the other columns.
const DRAWN: &[&str] = &[
    "insert into drawn (a) values (1) returning a, b, auction_id > 0",
    "insert into drawn (a, b) values (2, 'x'), (3, default), (4, 'z') returning b",
    "insert into drawn (auction_id, a) values (default, 5) returning a",
    "insert into drawn values (default, 6, 'w'), (default, 7, null) returning a, b",
    "insert into drawn default values returning a, b",
    "insert into always default values returning a",
    "insert into always as x default values on conflict do nothing returning x.a, x.auction_id > 0",
    "explain (costs off) insert into always default values",
    "insert into drawn (a) select g from generate_series(8, 30) g",
    "insert into drawn (a) select a + 100 from given",
    "insert into drawn_too (a) select auction_id from given returning a",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_01_keys_of_new_rows() {
    let mut clauses = Clauses::start(KEYS_OF_NEW_ROWS, &["given"]).await;
    clauses.written(INSERTS, &["given", "tagged", "home", "categories"]);
    for sql in DRAWN {
        clauses.told(
            &[sql],
            &["(select a, b from drawn) x", "(select a from drawn_too) x", "(select a from always) x"],
        );
    }
    clauses.rejected(&["insert into given values (null, 1)", "insert into given (a) values (1)"]);
    for (sql, data) in [
        ("copy given from stdin", "201\t1\tx\n202\t\\N\t\\N\n203\t2\ty\n"),
        ("copy given (b, auction_id) from stdin", "z\t204\nz\t205\n"),
    ] {
        assert!(!clauses.copied(sql, data.as_bytes(), &["given"]).failed());
    }
    // Each is where its key says, and there alone.
    let client = clauses.both.cluster.connect().await;
    for table in ["given", "drawn", "drawn_too", "tagged"] {
        all_in_place(&clauses.both.cluster, &client, table).await;
    }
    clauses.end();
}

/// Each key's rows are on one shard, and a query by the key finds them; every shard has some.
async fn all_in_place(cluster: &Cluster, client: &Client, table: &str) {
    let on_shards = cluster.on_each_primary(&format!("select distinct auction_id from {table}")).await;
    let mut seen = HashSet::new();
    for key in on_shards.iter().flatten() {
        assert!(seen.insert(key.clone()), "{table}: {key} is on two shards");
        let counts =
            cluster.on_each_primary(&format!("select 1 from {table} where auction_id = {key}")).await;
        let found = first_column(client, &format!("select 1 from {table} where auction_id = {key}")).await;
        assert_eq!(found.len(), counts.concat().len(), "{table}: {key}");
    }
    assert!(on_shards.iter().all(|keys| !keys.is_empty()), "{table}: {on_shards:?}");
}

/// Before rows move to another cluster there is one space of values alone, this one's.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_02_sequences_do_not_collide() {
    let cluster = Cluster::builder().shards(3).start().await;
    let client = cluster.connect().await;
    for sql in [
        "create table visits (auction_id bigint, id bigserial primary key, short serial, ident bigint generated always as identity)",
        "create table given (auction_id bigint generated by default as identity primary key)",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    let strides = cluster
        .on_each_primary(
            "select sequencename || ' ' || increment_by from pg_sequences \
             where schemaname = 'public' and sequencename like 'visits%' order by 1",
        )
        .await;
    for strides in strides {
        assert_eq!(strides, ["visits_id_seq 1024", "visits_ident_seq 1024", "visits_short_seq 16"]);
    }
    let mut drawn: [HashSet<String>; 3] = Default::default();
    for round in 0..3 {
        for key in 1..=12 {
            let sql = format!(
                "insert into visits (auction_id) values ({key}), ({}) returning id, short, ident",
                key + 50
            );
            for row in client.query(&sql, &[]).await.expect("two rows") {
                let values = [row.get::<_, i64>(0), i64::from(row.get::<_, i32>(1)), row.get(2)];
                for (values, value) in drawn.iter_mut().zip(values) {
                    assert!(values.insert(value.to_string()), "{value} was drawn before, round {round}");
                }
            }
        }
        let copied = "insert into visits (auction_id) select g from generate_series(100, 130) g";
        client.batch_execute(copied).await.expect("many rows");
    }
    for (column, stride) in [("id", 1024), ("ident", 1024), ("short", 16)] {
        let places = format!("select distinct {column} % {stride} from visits");
        let places = cluster.on_each_primary(&places).await;
        assert!(places.iter().all(|shard| shard.len() == 1), "each shard has a place of its own: {places:?}");
        let places: HashSet<_> = places.into_iter().flatten().collect();
        assert_eq!(places.len(), 3, "{column}: {places:?}");
    }
    let doubles = "select id from visits group by id having count(*) > 1";
    assert_eq!(first_column(&client, doubles).await, Vec::<String>::new());
    // What was drawn last is this session's, on whatever shard.
    for key in 1..=6 {
        let other = cluster.connect().await;
        let visit = format!("insert into visits (auction_id) values ({key}) returning ident");
        let ident = first_column(&other, &visit).await;
        assert_eq!(first_column(&other, "select lastval()").await, ident);
        assert_eq!(first_column(&other, "select currval('visits_ident_seq')").await, ident);
        for sql in [
            "insert into given default values returning auction_id",
            "insert into given values (default) returning auction_id",
        ] {
            let key = first_column(&other, sql).await;
            assert_eq!(first_column(&other, "select lastval()").await, key);
            assert_eq!(first_column(&other, "select currval('given_auction_id_seq')").await, key);
        }
    }
}

/// Evaluated once, so that all rows have one value, or refused, so that none has.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_03_what_is_evaluated_once() {
    let cluster = Cluster::builder().shards(3).start().await;
    let client = cluster.connect().await;
    for sql in [
        "create table lots (auction_id bigint primary key, n bigint, at timestamptz, u uuid, f float8)",
        "create table categories (id serial primary key, at timestamptz default now(), u uuid default gen_random_uuid(), f float8 default random())",
        "create sequence tickets",
        "insert into lots select g from generate_series(1, 30) g",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    let one_of = |column: &'static str| format!("select distinct {column} from lots");
    for (set, column) in [
        ("at = now()", "at"),
        ("at = current_timestamp + interval '1 day'", "at"),
        ("at = transaction_timestamp()", "at"),
        ("at = statement_timestamp()", "at"),
        ("at = localtimestamp", "at"),
        ("f = (select random())", "f"),
        ("u = (select gen_random_uuid())", "u"),
        ("n = (select nextval('tickets'))", "n"),
    ] {
        client
            .batch_execute("update lots set n = null, at = null, u = null, f = null")
            .await
            .expect("nothing");
        let sql = format!("update lots set {set}");
        match client.batch_execute(&sql).await {
            Ok(()) => {}
            Err(error) => assert_eq!(error.code().map(|code| code.code()), Some("0A000"), "{sql}: {error:?}"),
        }
        assert_eq!(first_column(&client, &one_of(column)).await.len(), 1, "{sql}");
    }
    // Of each row its own.
    for (set, column) in [("u = gen_random_uuid()", "u"), ("f = random()", "f")] {
        client.batch_execute(&format!("update lots set {set}")).await.expect(set);
        assert_eq!(first_column(&client, &one_of(column)).await.len(), 30, "{set}");
    }
    for sql in [
        "update lots set n = nextval('tickets')",
        "insert into lots (auction_id, n) values (41, nextval('tickets')), (42, nextval('tickets')), (43, nextval('tickets'))",
    ] {
        if client.batch_execute(sql).await.is_ok() {
            let numbers = first_column(&client, "select n from lots where n is not null").await;
            assert_eq!(numbers.iter().collect::<HashSet<_>>().len(), numbers.len(), "{sql}: {numbers:?}");
        }
    }
    client
        .batch_execute(
            "insert into lots (auction_id, at) values (51, now()), (52, now()), (53, now()), (54, now())",
        )
        .await
        .expect("rows");
    let times = first_column(&client, "select distinct at from lots where auction_id > 50").await;
    assert_eq!(times.len(), 1, "{times:?}");
    for sql in [
        "insert into categories default values",
        "insert into categories (id) values (default), (default)",
        "insert into categories (id, f) values (100, random()), (101, random())",
        "insert into categories (id, at) values (nextval('tickets') + 200, clock_timestamp())",
        "update categories set at = now()",
        "update categories set u = gen_random_uuid()",
        "insert into categories (id) select g from generate_series(300, 310) g",
    ] {
        if let Err(error) = client.batch_execute(sql).await {
            assert_eq!(error.code().map(|code| code.code()), Some("0A000"), "{sql}: {error:?}");
        }
        let rows = cluster.on_each_primary("select c::text from categories c order by id").await;
        assert!(rows.iter().all(|shard| shard == &rows[0]), "{sql}: {rows:?}");
    }
}

const MOVES: &[&str] = &[
    "update bids set auction_id = 500 where auction_id = 3 and id < 30",
    "update bids set auction_id = 501, amount = 7 where auction_id in (4, 5, 6) returning *",
    "update bids set auction_id = 500 where auction_id = 501 and amount = 7 returning auction_id, id",
    "update bids set auction_id = 4 where auction_id = 999",
    "update bids set auction_id = auction_id where auction_id = 7",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_04_a_new_shard_key_moves_the_row() {
    let mut clauses = house().await;
    clauses.written(MOVES, &["bids"]);
    // A row in the way, wherever it is: nothing has moved.
    clauses.rejected(&[
        "update lots set auction_id = 2 where auction_id = 1",
        "update lots set auction_id = 100",
    ]);
    clauses.look("rejected", &["lots"]);
    let cluster = &clauses.both.cluster;
    assert_eq!(holders(cluster, "bids", "auction_id = 500").await.len(), 1);
    // Whoever moves a row holds it: another writer waits, and finds it gone.
    let (mover, writer) = (cluster.connect().await, cluster.connect().await);
    mover
        .batch_execute("begin; update lots set auction_id = 700 where auction_id = 1")
        .await
        .expect("a move");
    let writing =
        tokio::spawn(async move { writer.execute("update lots set n = 9 where auction_id = 1", &[]).await });
    let waits = "select count(*) from pg_stat_activity where wait_event_type = 'Lock'";
    tests::cluster::eventually(std::time::Duration::from_secs(20), "a writer that waits", || async {
        cluster.on_each_primary(waits).await.concat().iter().any(|count| count != "0")
    })
    .await;
    mover.batch_execute("commit").await.expect("commit");
    assert_eq!(writing.await.expect("no panic").expect("an update"), 0);
    assert_eq!(first_column(&mover, "select n from lots where auction_id = 700").await, ["1"]);
    clauses.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_04_without_two_phase_no_row_moves() {
    let cluster = Cluster::builder().config_extra("[routing]\ntwo_phase = false").start().await;
    // DDL would need it, too.
    for shard in &cluster.nodes.shards {
        let create = "create table lots (auction_id bigint primary key)";
        shard.primary.execute("auction", create).await.expect("a table");
    }
    cluster.connect_to("gavel_admin").await.batch_execute("RELOAD").await.expect("the catalog is read");
    let client = cluster.connect().await;
    let mut refused = 0;
    for key in 1..=8 {
        client.batch_execute(&format!("insert into lots values ({key})")).await.expect("a row");
        let moved = client
            .batch_execute(&format!("update lots set auction_id = {key}00 where auction_id = {key}"))
            .await;
        match moved {
            Ok(()) => assert_eq!(holders(&cluster, "lots", &format!("auction_id = {key}00")).await.len(), 1),
            Err(error) => {
                refused += 1;
                assert_eq!(error.code().map(|code| code.code()), Some("0A000"), "{error:?}");
                assert_eq!(holders(&cluster, "lots", &format!("auction_id = {key}")).await.len(), 1);
            }
        }
    }
    assert!(refused > 0, "some keys are of another shard");
}

/// One implicit transaction, several results, an end at the first error; what is classified is every statement. More of it, with
/// pipelines: `texts`, `pipelines`.
const TEXTS: &[&[&str]] = &[
    &[
        "update lots set n = 1 where auction_id = 1; update lots set n = 2 where auction_id = 2; select n from lots where auction_id in (1, 2) order by auction_id",
    ],
    &[
        "insert into bids values (1, 900, 1, 1); insert into bids values (2, 900, 1, 1); insert into bids values (3, 900, 1, 1); select 1 / 0; insert into bids values (4, 900, 1, 1)",
    ],
    &[
        "update lots set n = 5; select count(*) from lots where n = 5; update lots set n = 1 / (auction_id - 7)",
    ],
    &[
        "select 1; select auction_id from lots where auction_id = 5; select count(*) from bids; select name from categories order by n limit 1",
    ],
    &["select title from lots where auction_id = 3; delete from bids; select count(*) from bids"],
    &[
        "insert into home values (50, 1, 'x'); update lots set n = 7 where auction_id = 9; insert into home values (50, 1, 'twice')",
    ],
    &[
        "update categories set name = 'one'; update lots set title = 'two' where auction_id in (1, 2, 3); select 1 / 0",
    ],
    &["update lots set n = 6; selec"],
    &["begin; update lots set n = 11; commit; update lots set n = 12 where auction_id = 4; select 1 / 0"],
    &["begin; update lots set n = 13; select 1 / 0", "select 1", "rollback"],
    &[
        "update lots set n = 14; begin; update lots set n = 15 where auction_id < 9; rollback; select sum(n) from lots",
    ],
    &["update lots set n = 16; commit; select 1 / 0"],
    &["savepoint s"],
    &[
        "begin",
        "update lots set n = 17; savepoint s; update lots set n = 18; rollback to s; select sum(n) from lots",
        "commit",
    ],
    &[
        "set datestyle = 'German'; select day from lots where auction_id = 3; reset datestyle; select max(day) from lots where n > 100",
    ],
    &[
        "create table more (auction_id bigint primary key, a int); insert into more values (1, 1), (2, 2), (3, 3); select count(*) from more",
        "drop table more; select count(*) from lots",
    ],
    &["select 1;; ; select 2", ";", "", "-- nothing"],
    &["vacuum lots; select 1", "select 1; vacuum lots"],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_05_texts_of_several_statements() {
    let mut clauses = house().await;
    for session in TEXTS {
        clauses.told(session, &["lots", "bids", "home", "categories"]);
    }
    clauses.end();
}
