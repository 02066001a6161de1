//! Statements over several shards of which one reports an error: the others are cancelled.

use std::time::Duration;

use tests::cluster::{Cluster, eventually};
use tests::wire::Wire;
use tests::wire_message as message;

use crate::beside::{brief, said, said_but_settings};

/// Time in which a cancelled statement has ended on its server.
const NOTICE: Duration = Duration::from_secs(10);

/// Statements of the other sessions of a server that are at work.
const AT_WORK: &str = "SELECT count(*)::text FROM pg_stat_activity WHERE state = 'active' AND query LIKE '%slow(%' AND pid <> pg_backend_pid()";

/// Forty auctions on four shards.
async fn auctions() -> (Cluster, Wire) {
    let cluster = Cluster::builder().shards(4).start().await;
    let mut wire = Wire::login(&cluster.login()).expect("login");
    let values: Vec<String> = (1..=40).map(|id| format!("({id}, {id})")).collect();
    for sql in [
        "create table t (auction_id bigint primary key, n bigint)".to_owned(),
        "create function slow(id bigint, failing bigint) returns bigint language plpgsql immutable as \
         $$ begin if id > failing then perform pg_sleep(30); end if; return 1 / (id - failing); end $$"
            .to_owned(),
        format!("insert into t values {}", values.join(", ")),
    ] {
        wire.rows(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
    }
    (cluster, wire)
}

async fn nobody_is_at_work(cluster: &Cluster, what: &str) {
    let idle = async || cluster.on_each_primary(AT_WORK).await.iter().all(|rows| rows.concat() == "0");
    eventually(NOTICE, what, idle).await;
}

/// The patience of [`Wire`] is far below the time that the others would need.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_one_shard_ends_the_statement_on_the_others() {
    let (cluster, mut wire) = auctions().await;
    for failing in [1, 2, 3, 5, 8] {
        let value = format!("slow(auction_id, {failing})");
        for sql in [
            format!("select auction_id, {value} from t"),
            format!("select auction_id, {value} from t order by auction_id"),
            format!("select count(distinct n) from t where 1 / (auction_id - {failing}) >= 0"),
            format!("copy (select auction_id, {value} from t) to stdout"),
        ] {
            for bytes in [message::query(&sql), [message::step(&sql), message::sync()].concat()] {
                let answer = said_but_settings(&mut wire, &bytes, 1);
                assert!(
                    answer.contains("E 22012 division by zero") && answer.ends_with("| I"),
                    "{sql}: {answer}"
                );
                assert_eq!(answer.matches("E 2").count(), 1, "{sql}: {answer}");
                assert!(!answer.contains("E 57014"), "{sql}: {answer}");
            }
        }
        nobody_is_at_work(&cluster, "the others have ended").await;
    }
    // In a transaction, which goes on with ROLLBACK alone.
    for (sql, wanted) in [
        ("begin", "T"),
        ("update t set n = 0 where auction_id = 9", "T"),
        (
            "update t set n = 1 / (auction_id - 3) where length(pg_sleep(auction_id::float / 4)::text) >= 0",
            "E",
        ),
        ("select 1", "E"),
        ("rollback", "I"),
        ("select sum(n) from t", "I"),
    ] {
        let answer = said(&mut wire, &message::query(sql));
        assert!(answer.ends_with(wanted), "{sql}: {answer}");
        assert_eq!(answer.contains("820"), sql.contains("sum"), "{sql}: {answer}");
    }
}

/// The row that the application has a part of is sent to its end, and none behind it is waited for.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_amid_long_rows_leaves_none_in_parts() {
    let (cluster, mut wire) = auctions().await;
    for failing in 1..=3 {
        for long in [100_000, 1_000_000] {
            let rows = format!(
                "from t, lateral (select length(pg_sleep(0.02)::text) as l from generate_series(1, 10)) s \
                 where case when auction_id = {failing} then 1 / (auction_id - {failing}) else l end >= 0"
            );
            for sql in [
                format!("select repeat('x', {long}) {rows}"),
                format!("copy (select repeat('x', {long}) {rows}) to stdout"),
            ] {
                let frames = wire.query(&sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
                let whole = frames.iter().filter(|frame| matches!(frame.tag, b'D' | b'd'));
                whole.for_each(|frame| {
                    assert!(frame.body.len() >= long, "a part of a row: {}", frame.body.len())
                });
                let end = brief(&frames[frames.len() - 2..]);
                assert!(end.contains("E 22012 division by zero") && end.ends_with("| I"), "{sql}: {end}");
            }
        }
    }
    nobody_is_at_work(&cluster, "the others have ended").await;
    assert_eq!(wire.rows("select 7").expect("the session goes on"), [[Some("7".to_owned())]]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_row_comes_behind_an_error() {
    let (cluster, mut wire) = auctions().await;
    let failing = "case when auction_id = {} and g = 3000 then 1 / (g - 3000) end";
    for key in 1..=8 {
        let failing = failing.replace("{}", &key.to_string());
        let rows = format!("from t, generate_series(1, 4000) g where ({failing}) is null");
        for sql in [
            format!("select auction_id, repeat('x', 500) {rows}"),
            format!("select auction_id, g {rows} order by auction_id"),
            format!("copy (select auction_id, repeat('x', 500) {rows}) to stdout"),
        ] {
            for bytes in [message::query(&sql), [message::step(&sql), message::sync()].concat()] {
                wire.send(&bytes).expect("sent");
                let frames = wire.read_until_ready(1).expect("an answer");
                let end = brief(&frames[frames.len() - 2..]);
                assert!(end.contains("E 22012 division by zero") && end.ends_with("| I"), "{sql}: {end}");
                assert_eq!(frames.iter().filter(|frame| frame.tag == b'E').count(), 1, "{sql}");
            }
        }
    }
    nobody_is_at_work(&cluster, "the others have ended").await;
}
