//! Queries amid a pipeline of the extended protocol, which no library sends and PostgreSQL takes: the Query is part of the
//! pipeline's transaction, and ends it.

use tests::cluster::Cluster;
use tests::wire::Wire;
use tests::wire_message as message;

use crate::beside::{Beside, said, said_but_settings, sorted_rows};

/// What can be seen of the settings; a shard answers it.
const SEEN: &str = "select current_user, current_setting('search_path'), current_setting('work_mem') from t \
                    where auction_id = ";

fn bytes(steps: &[&str]) -> Vec<u8> {
    let one = |step: &&str| match step.strip_prefix("Q ") {
        Some(sql) => message::query(sql),
        None => message::step(step),
    };
    let mut bytes: Vec<u8> = steps.iter().flat_map(one).collect();
    bytes.extend(message::sync());
    bytes
}

/// A Query among them begins with `Q `.
const MIXED: &[&[&str]] = &[
    &["select n from t where auction_id = 3", "Q set role pg_read_all_data"],
    &["select n from t where auction_id = 3", "Q set work_mem = '7MB'"],
    &["select n from t where auction_id = 3", "Q set work_mem = '7MB'", "select 1"],
    &["select n from t where auction_id = 3", "Q set work_mem = '7MB'", "select 1 / 0"],
    &["set work_mem = '7MB'", "Q select n from t where auction_id = 3"],
    &["set work_mem = '7MB'", "Q select n from t where auction_id = 3", "select 1 / 0"],
    &["set work_mem = '7MB'", "Q select 1 / 0"],
    &["set work_mem = '7MB'", "select 1 / 0", "Q select 1"],
    &["set role pg_read_all_data", "select n from t where auction_id = 3", "Q select 1"],
    &[
        "select n from t where auction_id = 3",
        "set role pg_read_all_data",
        "Q select n from t where auction_id = 2",
        "select 1 / 0",
    ],
    &[
        "set work_mem = '7MB'",
        "Q update t set n = 1 where auction_id = 3",
        "update t set n = 2 where auction_id = 2",
    ],
    &["set local work_mem = '7MB'", "Q select current_setting('work_mem') from t where auction_id = 3"],
    &["set search_path = pg_catalog, public", "Q set work_mem = '7MB'"],
    &[
        "update t set n = 5 where auction_id = 3",
        "Q set work_mem = '7MB'; update t set n = 5 where auction_id = 4",
    ],
    &["set work_mem = '7MB'", "Q begin", "set local work_mem = '8MB'", "Q commit"],
    &["set work_mem = '7MB'", "Q commit"],
    &["set work_mem = '7MB'", "Q rollback"],
    &["set work_mem = '7MB'", "select n from t where auction_id = 3", "Q reset all"],
    &["prepare p as select 1", "Q execute p"],
    &[
        "select count(n) from t where auction_id in (1, 2, 3, 4) group by auction_id",
        "set work_mem = '7MB'",
        "Q select 1",
    ],
    &["begin", "set work_mem = '7MB'", "select 1 from t where auction_id in (1, 2, 3, 4)", "Q rollback"],
    &[
        "begin",
        "set local work_mem = '7MB'",
        "Q select current_setting('work_mem') from t where auction_id = 3",
        "commit",
    ],
    &[
        "update t set n = 9 where auction_id = 1",
        "update t set n = 9 where auction_id = 2",
        "set work_mem = '7MB'",
        "Q select 1",
    ],
    &[
        "update t set n = 9 where auction_id = 1",
        "set work_mem = '7MB'",
        "update t set n = 9 where auction_id = 2",
        "Q select 1 / 0",
    ],
];

/// A pipeline that writes behind SET or RESET, where it may have read on a replica.
const SET_AND_WRITE: &[&[&str]] = &[
    &[
        "set work_mem = '5MB'",
        "select n from t where auction_id = 3",
        "update t set n = n + 1 where auction_id = 3",
    ],
    &["select n from t where auction_id = 3", "reset all", "insert into t values (103, 1)"],
    &[
        "select n from t where auction_id = 3",
        "set work_mem = '5MB'",
        "insert into t values (104, 1), (105, 1), (106, 1)",
    ],
    &["set work_mem = '5MB'", "insert into t values (107, 1)"],
    &["set work_mem = '5MB'", "select n from t where auction_id = 3", "select 1 / 0"],
    &[
        "set work_mem = '5MB'",
        "select n from t where auction_id = 3",
        "begin",
        "update t set n = n + 1 where auction_id = 3",
        "commit",
    ],
];

/// What is said to the steps: each Query that is not skipped has a ReadyForQuery of its own.
fn told(side: &mut Wire, case: &[&str]) -> String {
    let fails = case.iter().position(|step| *step == "select 1 / 0").unwrap_or(case.len());
    let answered = case.iter().take(fails).filter(|step| step.starts_with("Q ")).count();
    said_but_settings(side, &bytes(case), answered + 1)
}

/// What a session has set, on whatever shard.
fn settings(side: &mut Wire) -> String {
    (1..=6).map(|auction| said(side, &message::query(&format!("{SEEN}{auction}")))).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_in_pipelines_stay_with_their_session() {
    let cluster = Cluster::builder().shards(3).replicas(1).config_extra("[pool]\nsize = 2").start().await;
    let set_up = [
        "create table t (auction_id bigint, n int)",
        "insert into t values (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0)",
    ];
    let mut beside = Beside::of(cluster, &set_up).await;
    let mut wrong = String::new();
    for case in MIXED.iter().chain(SET_AND_WRITE) {
        for _ in 0..3 {
            beside.anew();
            let [ours, theirs] = beside.sides().map(|side| told(side, case) + " | " + &settings(side));
            if ours != theirs {
                wrong.push_str(&format!("{case:?}\n  ours   {ours}\n  theirs {theirs}\n"));
            }
            // What it set is the session's: no other one has it.
            let [ours, theirs] = beside.others().map(|mut other| settings(&mut other));
            if ours != theirs {
                wrong.push_str(&format!(
                    "{case:?}: another session has\n  ours   {ours}\n  theirs {theirs}\n"
                ));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let [ours, theirs] = beside.sides().map(|side| sorted_rows(side, "select auction_id, n from t"));
    assert_eq!(ours, theirs);
}
