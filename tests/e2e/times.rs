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
    let source =
        "INSERT INTO visits (auction_id, at) SELECT k, 'now' FROM unnest('{1,2,3,4,5,6,7,8}'::bigint[]) k";
    refused(&client, source, "'now'").await;
    let shared = format!("INSERT INTO visits (auction_id, at) VALUES {} RETURNING at", rows("now()"));
    let times = first_column(&client, &shared).await;
    assert!(times.len() == 20 && times.iter().all(|at| *at == times[0]), "{times:?}");
    client
        .batch_execute("INSERT INTO visits (auction_id, at) VALUES (3, 'now'), (3, 'now')")
        .await
        .expect("one shard");
}
