//! What PostgreSQL says of a statement as a whole, when shards are sent parts of it: the same errors, at the same places, and the
//! same rows.

use tests::cluster::Cluster;
use tests::wire::Wire;
use tests::wire_message::{Value, bind, execute, parse, step, sync};

use crate::beside::{Beside, brief};
use crate::set_off::refused;

const CREATE: &[&str] = &[
    "create table t (auction_id bigint primary key, n int, v text)",
    "create table d (n int, auction_id bigint, at date default '2020-01-01', p point)",
    "create sequence keys",
    "create table s (n int, auction_id bigint default nextval('keys'))",
    "create function pair(int) returns table (a int, b int) language sql immutable as 'select $1, $1'",
];

/// Sent one after the other, each by both protocols.
const TEXTS: &[&str] = &[
    // Rows of different lengths, wherever their keys belong.
    "insert into t values (20, 1), (21)",
    "insert into t values (20), (21, 1), (22, 1)",
    "insert into t values (20, 1), (21, 1, 'a', 'b')",
    "insert into t values (20, 1, 'a', 'b'), (21, 1, 'a', 'b'), (22, 1, 'a', 'b')",
    "insert into d values (1, 20), (2)",
    "insert into d (n, auction_id) values (1, 20), (2), (3, 22)",
    "insert into s values (1, 20), (2)",
    "insert into s values (1), (2, 20)",
    "insert into t (auction_id, n) select 20, 1, 2",
    "insert into t (auction_id, n) select x, 1, 2 from unnest(array[20, 21, 22]) x",
    "insert into t (auction_id, n, v) select x, 1 from unnest(array[20, 21, 22]) x",
    // A row by itself may be what one of several may not.
    "insert into t values (20, generate_series(1, 2)), (21, 1), (22, 1)",
    "insert into t values (20, (pair(1)).*), (21, 1, 'x'), (22, 1, 'x')",
    "insert into t values (20, (pair(1)).*), (21, (pair(2)).*), (22, 1, 'x')",
    // Types: each value is one of its column's.
    "insert into t values (23, 1), (24, 1.5), (25, '7')",
    "insert into t values (26, 1, 2), (27, 1, 'x'), (28, 1, null)",
    "insert into t values (29, 1, 'x'), (30, 'y', 'x')",
    "insert into t values (29, 1, 'x'), (30, true, 'x')",
    "insert into t values (29, 1, 'x'), (30, 1, 'x'), (31, '2020-01-01'::date, 'x')",
    "insert into d values (1, 29, '2020-01-01'), (1, 30, date '2020-01-02'), (1, 31, '2020-01-03'::timestamp)",
    "insert into d (auction_id, at) values (32, default), (33, default), (34, '2020-01-04')",
    "insert into d (auction_id, at) values (35, default), (36, default + 1)",
    "insert into d (auction_id, p[0], p[1]) values (37, 1, 2), (38, 3, 4), (39, 5, 6)",
    "insert into d (auction_id, p[0], p[1]) values (40, 1, 2), (41, 3), (42, 5, 6)",
    // Names.
    "insert into t (auction_id, nosuch) values (20, 1), (21, 2)",
    "insert into t (auction_id, n, n) values (20, 1, 1), (21, 2, 2)",
    "insert into t (auction_id, n) values (20, 1), (21, nosuch)",
    "insert into t (auction_id, n) values (20, 1), (21, t.n), (22, 3)",
    "insert into t (auction_id, n) values (20, 1), (21, nosuch(1)), (22, 3)",
    "insert into t (auction_id, n) values (20, 1), (21, sum(1)), (22, 3)",
    "insert into t (auction_id, n) values (20, 1), (21, 2), (22, 3) returning nosuch",
    "insert into t (auction_id, n) values (20, 1), (21, 2), (22, 3) on conflict (nosuch) do nothing",
    "insert into nosuch (auction_id, n) values (20, 1), (21, 2)",
    // Places behind characters of several bytes, in every part.
    "/* ü */ insert into t values (20, 1, 'ä'), (21, 'ö', 'x')",
    "/* ü 8 */ insert into t (auction_id) values (100), (array[1])",
    "/* ü */ select nosuch from t",
    "  select n from t where nosuch = 1",
    "/* ü */ select n from t; /* ö */ select nosuch from t",
    "-- ü\n insert into nosuch values (1), (2)",
    "/* ü */ select sum(n), nosuch from t",
    "/* ü */ update t set n = nosuch where auction_id in (20, 21, 22)",
    "/* ü */ insert into t values (20, 'é', 'ä'), (21, 2, 'x')",
    "insert into t values (20, 1, 'ä'), (21, 2, 'x'), (22, 'z', 'é'), (23, 4, 'x')",
    "select 1; insert into t values (20, 1, 'ä'), (21, 2, 'x'), (22, 'z', 'é'), (23, 4, 'x')",
    "insert into t values (50, 1, 'ä'), (51, 2, 'x'), (52, (random() * 0)::int / 0, 'é'), (53, 4, 'x')",
    // The same again, with other literals.
    "insert into t values (60, 1), (61, 2), (62, 3)",
    "insert into t values (63, 1), (64, 2), (65, 3)",
    "insert into t values (66, 1), (67), (68, 3)",
    "insert into t values ('x', 1), (67, 1), (68, 3)",
    // What cannot be read here.
    "insert into t values (20, 1), (21, 1), (22, 2; select 1",
    "insert into t values (20, 1, E'\\'); selec",
    "insert into t values (20, 1), (21, 1) garbage",
    "select * from nosuch, t",
    "select nosuch from t where auction_id % 2 = 0 order by 1",
    "update t set nosuch = 1",
];

fn rows(side: &mut Wire) -> Vec<Vec<Option<String>>> {
    let all = "select t.auction_id || '/' || coalesce(t.n, 0) || coalesce(v, '') from t";
    let mut rows = side.rows(all).expect("rows");
    rows.extend(
        side.rows("select auction_id::text || '/' || coalesce(at::text, '') || coalesce(p::text, '') from d")
            .expect("rows"),
    );
    rows.sort();
    rows
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_statement_in_parts_is_judged_as_a_whole() {
    let mut beside = Beside::start(CREATE).await;
    let mut differ = Vec::new();
    for text in TEXTS {
        for extended in [false, true] {
            let ask = |side: &mut Wire| {
                let answer = if extended {
                    side.send(&[step(text), sync()].concat()).expect("sent");
                    side.read_until_ready(1)
                } else {
                    side.query(text)
                };
                let answer = brief(&answer.expect("an answer"));
                side.rows("truncate t, d, s").expect("truncate");
                answer
            };
            let [ours, theirs] = beside.sides().map(ask);
            if ours != theirs {
                differ.push(format!("{text} (extended: {extended})\n  want {theirs}\n  have {ours}"));
            }
        }
    }
    assert!(differ.is_empty(), "{}", differ.join("\n"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_in_parts_are_stored_as_the_whole_would_be() {
    let mut beside = Beside::start(CREATE).await;
    for text in TEXTS {
        for side in beside.sides() {
            side.query(text).expect("an answer");
        }
    }
    let [ours, theirs] = beside.sides().map(rows);
    assert_eq!(ours, theirs);
    assert!(ours.len() > 20, "{ours:?}");
    // In a transaction, by named statements, with parameters of open types; what is wrong is said by Parse.
    let value = |text: &str| Value::Text(text.into());
    for batch in [
        [parse("a", "insert into t (auction_id, n) values ($1, $2), (80, 2), (81)", &[]), sync()].concat(),
        [parse("a", "insert into t (auction_id, n) values ($1, $2), (80, 2), (81, $3)", &[]), sync()]
            .concat(),
        [bind("", "a", &[value("82"), value("7"), value("8")], &[]), execute("", 0), sync()].concat(),
        [step("begin"), step("insert into t (auction_id) values (90), (91), (92)"), sync()].concat(),
        [parse("", "insert into t (auction_id, v) values (93, $1), (94, $2 || $1), (95, 2, 3)", &[]), sync()]
            .concat(),
        [step("rollback"), sync()].concat(),
        // Which parameters there are is said by Parse, how many by Bind, by the application's own name.
        [parse("", "insert into t (auction_id, n) values ($1, 1), ($2, 2), ($4, 3)", &[]), sync()].concat(),
        [parse("mine", "select * from t where auction_id = $1", &[]), bind("", "mine", &[], &[]), sync()]
            .concat(),
        [parse("ours", "select * from t where auction_id = $1 and n = $2", &[]), sync()].concat(),
        [bind("", "ours", &[value("1")], &[]), sync()].concat(),
        // It was right once.
        [step("create table gone (auction_id bigint, n int)"), sync()].concat(),
        [parse("late", "insert into gone values ($1, $2)", &[]), sync()].concat(),
        [step("alter table gone drop column n"), sync()].concat(),
        [bind("", "late", &[value("1"), value("2")], &[]), execute("", 0), sync()].concat(),
        [step("drop table gone"), sync()].concat(),
        [bind("", "late", &[value("1"), value("2")], &[]), execute("", 0), sync()].concat(),
    ] {
        let [ours, theirs] = beside.sides().map(|side| {
            side.send(&batch).expect("sent");
            brief(&side.read_until_ready(1).expect("an answer"))
        });
        assert_eq!(ours, theirs);
    }
    let [ours, theirs] = beside.sides().map(rows);
    assert_eq!(ours, theirs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_shard_alone_would_do_is_refused() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    for sql in CREATE {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    for sql in [
        "update pg_class set relname = 'u' where oid = 't'::regclass",
        "update pg_catalog.pg_attribute set attname = 'm' where attrelid = 't'::regclass and attname = 'n'",
        "delete from pg_description where objoid = 't'::regclass",
        "insert into pg_catalog.pg_description values ('t'::regclass, 1259, 0, 'x')",
        "with gone as (delete from pg_description returning 1) select * from gone",
        "/* gavel: shard=2 */ update pg_class set relname = 'u' where oid = 't'::regclass",
    ] {
        refused(&client, sql, "connect to each node").await;
    }
    client.batch_execute("prepare s as select * from t").await.expect("prepare");
    refused(&client, "create table made as execute s", "write the query itself").await;
    // Explained by both protocols.
    client
        .batch_execute("prepare one(bigint) as select * from t where auction_id = $1")
        .await
        .expect("prepare");
    let simple = client.simple_query("explain (costs off) execute one(7)").await.expect("explain").len();
    let rows = client.query("explain (costs off) execute one(7)", &[]).await.expect("explain");
    assert_eq!(rows.len() + 2, simple);
    assert!(rows[0].get::<_, &str>(0).contains("Scan"), "{rows:?}");
    let error = client.query("explain (format json) execute one(7)", &[]).await.expect_err("of another type");
    assert!(error.to_string().contains("db error"), "{error:?}");
}
