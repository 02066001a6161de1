//! The time that a text names (`now`, `today`) is the same in all rows of a statement and on every shard, or the statement is refused.

use std::io::Cursor;

use futures_util::SinkExt as _;
use tests::cluster::{Cluster, first_column};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::set_off::refused;

async fn copy_in(client: &Client, sql: &str, lines: &str) -> Result<u64, tokio_postgres::Error> {
    let sink = client.copy_in::<_, Cursor<Vec<u8>>>(sql).await?;
    futures_util::pin_mut!(sink);
    // Cut where it is awkward.
    for piece in lines.as_bytes().chunks(3) {
        sink.send(Cursor::new(piece.to_vec())).await?;
    }
    sink.finish().await
}

/// Refused, and the context names this line.
async fn copy_refused(client: &Client, sql: &str, lines: &str, line: &str) {
    let error = copy_in(client, sql, lines).await.expect_err(lines);
    let error = error.as_db_error().unwrap_or_else(|| panic!("{sql}: {error:?}"));
    assert_eq!(error.code(), &SqlState::FEATURE_NOT_SUPPORTED, "{sql}: {error:?}");
    assert!(error.where_().is_some_and(|context| context.contains(line)), "{sql}: {error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_named_time_is_the_same_everywhere() {
    let cluster =
        Cluster::builder().config_extra("[[tables]]\nname = \"days\"\nkind = \"reference\"").start().await;
    let client = cluster.connect().await;
    for sql in [
        "CREATE DOMAIN moment AS timestamptz",
        "CREATE TYPE span AS (a text, b moment)",
        "CREATE TYPE mood AS ENUM ('now', 'never')",
        "CREATE TABLE days (id int, label text, at timestamptz, dom moment, many moment[], pair span, r tstzrange, m mood)",
        "CREATE TABLE visits (auction_id bigint, label text, at timestamptz, dom moment)",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    for (column, text) in [
        ("at", "now"),
        ("at", "n\\x6fw"),
        ("at", "Today 10:00"),
        ("dom", "yesterday"),
        ("many", "{now,infinity}"),
        ("pair", "(x,tomorrow)"),
        ("r", "[now,)"),
    ] {
        let lines = format!("1\t2024-01-01\n2\t{text}\n");
        let lines =
            if matches!(column, "many" | "pair" | "r") { lines.replace("2024-01-01", "\\N") } else { lines };
        copy_refused(&client, &format!("COPY days (id, {column}) FROM STDIN"), &lines, "line 2").await;
    }
    copy_refused(&client, "COPY days (id, at) FROM STDIN (FORMAT csv, HEADER)", "id,at\n1,\"now\"", "line 2")
        .await;
    refused(&client, "INSERT INTO days (id, dom) VALUES (1, 'now')", "'now'").await;
    refused(&client, "INSERT INTO days (id, r) VALUES (1, '[now,)')", "'now'").await;
    let good = "1\tnow\t2024-01-01 10:00+00\tnow\n2\ttoday\t\\N\tnever\n";
    assert_eq!(copy_in(&client, "COPY days (id, label, at, m) FROM STDIN", good).await.expect("copy"), 2);
    client.batch_execute("INSERT INTO days (id, label) VALUES (3, 'buy it now')").await.expect("prose");
    let images = cluster.on_each_primary("SELECT d::text FROM days d ORDER BY id").await;
    assert_eq!(images[0], images[1]);
    assert_eq!(images[0].len(), 3);

    let keys: Vec<String> = (1..=20).map(|key| key.to_string()).collect();
    let lines: String = keys.iter().map(|key| format!("{key}\tnow\tnow\n")).collect();
    let copy = "COPY visits (auction_id, label, at) FROM STDIN";
    let error = copy_in(&client, copy, &lines).await.expect_err("of several shards");
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error:?}");
    assert!(first_column(&client, "SELECT 1 FROM visits").await.is_empty(), "nothing is loaded");
    let one: String = (0..20).map(|_| "7\tx\tnow\n").collect();
    copy_in(&client, copy, &one).await.expect("of one shard");
    let times = first_column(&client, "SELECT at FROM visits WHERE auction_id = 7").await;
    assert!(times.len() == 20 && times.iter().all(|at| *at == times[0]), "{times:?}");
    copy_in(&client, copy, &lines.replace("\tnow\n", "\t2024-01-01\n"))
        .await
        .expect("a label may be any word");

    let rows =
        |value: &str| keys.iter().map(|key| format!("({key}, {value})")).collect::<Vec<_>>().join(", ");
    for column in ["at", "dom"] {
        let insert = format!("INSERT INTO visits (auction_id, {column}) VALUES {}", rows("'now'"));
        refused(&client, &insert, "'now'").await;
    }
    let typed = format!("INSERT INTO visits (auction_id, label) VALUES {}", rows("'today'::date::text"));
    refused(&client, &typed, "'now'").await;
    let source = "INSERT INTO visits (auction_id, at) SELECT k, 'now' FROM unnest('{1,2,3,4,5,6,7,8}'::bigint[]) k RETURNING at";
    // Read first, by one shard.
    let times = first_column(&client, source).await;
    assert!(times.len() == 8 && times.iter().all(|at| *at == times[0]), "{times:?}");
    let shared = format!("INSERT INTO visits (auction_id, at) VALUES {} RETURNING at", rows("now()"));
    let times = first_column(&client, &shared).await;
    assert!(times.len() == 20 && times.iter().all(|at| *at == times[0]), "{times:?}");
    client
        .batch_execute("INSERT INTO visits (auction_id, at) VALUES (3, 'now'), (3, 'now')")
        .await
        .expect("one shard");
}

/// Spellings of a time that is not in the text as a word: refused where several shards would read it.
const HIDDEN: &[&str] = &[
    "E'no\\167'",
    "E'\\x6eow'",
    "E'n\\u006fw'",
    "U&'no\\0077'",
    "U&'no!0077' UESCAPE '!'",
    "N'now'::timestamptz",
    "'no'\n'w'",
    "date E'no\\167'",
    "timestamptz(E'no\\167')",
    "('no'||'w')::timestamptz",
    "CAST('no'||'w' AS timestamptz)",
    "concat('no','w')::timestamptz",
    "replace('nxw','x','o')::timestamptz",
    "lower('NOW')::timestamptz",
    "(chr(110)||'ow')::timestamptz",
    "timestamptz('no'||'w')",
    "timestamptz_in(textout('no'||'w'), 0, -1)",
    "to_json('now'::text)::text::timestamptz",
    "(('{'||'now'||'}')::timestamptz[])[1]",
    "('{\"no\\w\"}'::timestamptz[])[1]",
    "((array['no','w'])[1]||'w')::timestamptz",
    "(select 'no'||'w')::timestamptz",
    "('{\"a\":\"now\"}'::json->>'a')::timestamptz",
    "(select at from json_to_recordset('[{\"at\":\"no\\u0077\"}]') as x(at timestamptz))",
    "(select at from json_to_record(('{\"at\":\"no'||'w\"}')::json) as x(at timestamptz))",
    "('no'||'w')::moment",
    "(('(1,no'||'w)')::span).b",
    "lower(('[no'||'w,)')::tstzrange)",
    "coalesce(null, 'no'||'w')::timestamptz",
    "(case when true then 'no'||'w' end)::timestamptz",
    "(case when 'no'||'w' > 'a' then (select 'now')::text end)::timestamptz",
    "stable_sql()",
    "stable_plpgsql()",
    "volatile_clock()",
    "through()",
];

/// What is the same on every shard.
const SHOWN: &[&str] = &[
    "now()",
    "date_trunc('day', now())::date",
    "(now() + interval '1 day')::date",
    "('2020-01-01'::date + 1)::timestamptz",
    "'2020-01-01'::text::timestamptz",
    "make_date(2020, 1, 1)",
    "to_timestamp('2020', 'YYYY')",
    "to_timestamp(1700000000)::date",
    "coalesce(null, '2020-01-01')::timestamptz",
    "promised()",
    "declared()",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hidden_time_is_the_same_everywhere() {
    let extra = "[[tables]]\nname = \"days\"\nkind = \"reference\"\n\n[[functions]]\nname = \"declared\"";
    let cluster = Cluster::builder().config_extra(extra).start().await;
    let client = cluster.connect().await;
    for sql in [
        "CREATE DOMAIN moment AS timestamptz",
        "CREATE TYPE span AS (a text, b moment)",
        "CREATE TABLE days (id int, at timestamptz, label text)",
        "CREATE TABLE visits (auction_id bigint, at timestamptz)",
        "CREATE FUNCTION stable_sql() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT 'now'::timestamptz $$",
        "CREATE FUNCTION stable_plpgsql() RETURNS timestamptz LANGUAGE plpgsql STABLE AS $$ BEGIN RETURN 'no'||'w'; END $$",
        "CREATE FUNCTION volatile_clock() RETURNS timestamptz LANGUAGE plpgsql AS $$ BEGIN RETURN now(); END $$",
        "CREATE FUNCTION through() RETURNS timestamptz LANGUAGE sql AS $$ SELECT volatile_clock() $$",
        "CREATE FUNCTION promised() RETURNS timestamptz LANGUAGE sql IMMUTABLE AS $$ SELECT '2020-01-01 UTC'::timestamptz $$",
        "CREATE FUNCTION declared() RETURNS timestamptz LANGUAGE sql STABLE AS $$ SELECT '2020-01-01'::timestamptz $$",
        "INSERT INTO days VALUES (0, '2020-01-01', 'no' || 'w')",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let rows = |value: &str| (1..=8).map(|key| format!("({key}, {value})")).collect::<Vec<_>>().join(", ");
    let mut wrong = Vec::new();
    for value in HIDDEN {
        for sql in [
            format!("INSERT INTO visits VALUES {}", rows(value)),
            format!("INSERT INTO days (id, at) VALUES (1, {value})"),
            format!("UPDATE days SET at = {value} WHERE id = 0"),
        ] {
            let error = client.batch_execute(&sql).await.err();
            if error.as_ref().and_then(|error| error.code()) != Some(&SqlState::FEATURE_NOT_SUPPORTED) {
                wrong.push(format!("{sql}: {error:?}"));
            }
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for sql in [
        "UPDATE days SET at = label::timestamptz",
        "UPDATE days SET id = 7 WHERE at < label::timestamptz",
        "INSERT INTO days (id, at) SELECT id, label::timestamptz FROM days",
        "INSERT INTO days (id, label) VALUES (1, ('no'||'w')::timestamptz::text)",
    ] {
        refused(&client, sql, "shard").await;
    }
    for value in SHOWN {
        let insert = format!("INSERT INTO visits VALUES {}", rows(value));
        let shown = client.batch_execute(&insert).await;
        wrong.extend(shown.err().map(|error| format!("{insert}: {error:?}")));
        let times = first_column(&client, "SELECT at FROM visits").await;
        assert!(times.iter().all(|at| *at == times[0]), "{value}: {times:?}");
        client.batch_execute("TRUNCATE visits").await.expect("truncate");
        let insert = format!("INSERT INTO days (id, at) VALUES (1, {value})");
        let shown = client.batch_execute(&insert).await;
        wrong.extend(shown.err().map(|error| format!("{insert}: {error:?}")));
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    for sql in
        ["UPDATE days SET at = at::date", "UPDATE days SET label = 'known', at = at + interval '1 hour'"]
    {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    // Binary parameters.
    let typed = "INSERT INTO days (id, at) VALUES (1, $1::text::timestamptz)";
    let error = client.execute(typed, &[&"now"]).await.expect_err("it names the time");
    assert_eq!(error.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED), "{error:?}");
    client.execute(typed, &[&"2020-01-01"]).await.expect("a date");
    client
        .batch_execute("ALTER TABLE days ALTER at SET DEFAULT (('no'||'w')::text)::timestamptz; INSERT INTO days (id) VALUES (9), (9)")
        .await
        .expect("drawn once");
    let images = cluster.on_each_primary("SELECT d::text FROM days d ORDER BY d::text").await;
    assert_eq!(images[0], images[1]);
    assert!(images[0].len() > 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_has_one_time() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    client
        .batch_execute("CREATE TABLE t (auction_id bigint PRIMARY KEY, at timestamptz)")
        .await
        .expect("create");
    let with =
        "WITH u AS (UPDATE t SET at = now() RETURNING 1), d AS (SELECT count(*) FROM u) SELECT * FROM d";
    for (first, before) in [
        ("INSERT INTO t VALUES (1, now()), (2, now()), (3, now()), (4, now())", ""),
        ("UPDATE t SET at = now()", ""),
        ("UPDATE t SET at = now()", "SELECT * FROM t WHERE auction_id = 3;"),
        (with, "SELECT * FROM t WHERE auction_id = 3;"),
        (with, ""),
    ] {
        client.batch_execute(&format!("BEGIN; {before} {first}")).await.expect(first);
        let same = first_column(&client, "SELECT count(*) FROM t WHERE at = now()").await;
        let times = first_column(&client, "SELECT count(DISTINCT at) FROM t").await;
        assert_eq!((same, times), (vec!["4".to_owned()], vec!["1".to_owned()]), "{before} {first}");
        client.batch_execute("COMMIT").await.expect("commit");
    }
}
