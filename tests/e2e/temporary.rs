//! DDL on temporary tables beside PostgreSQL: it runs where they are, or is refused where their names mean others on other shards.

use tests::wire::{Frame, Wire};
use tests::wire_message as message;

use crate::beside::{Beside, brief};

const SET_UP: &[&str] = &[
    "create table t (auction_id bigint primary key, n int)",
    "create table hidden (a int, b int)",
    "insert into t values (1, 1), (2, 2), (3, 3), (4, 4)",
    "insert into hidden values (1, 1)",
];

/// Each text by itself, or all in one pipeline.
fn run(side: &mut Wire, statements: &[&str], together: bool) -> String {
    let requests: Vec<Vec<u8>> = match together {
        true => {
            vec![[statements.iter().flat_map(|sql| message::step(sql)).collect(), message::sync()].concat()]
        }
        false => statements.iter().map(|sql| message::query(sql)).collect(),
    };
    let mut said = String::new();
    for bytes in requests {
        side.send(&bytes).expect("sent");
        let frames: Vec<Frame> = side.read_until_ready(1).expect("an answer");
        said.push_str(&brief(&frames));
        said.push('\n');
    }
    said
}

/// On each shard, what there is of the permanent tables.
fn permanent(both: &mut Beside) -> Vec<String> {
    both.anew();
    let side = &mut both.ours;
    let mut found: Vec<String> = (1..4)
        .map(|shard| {
            let sql = format!(
                "/* gavel: shard=shard-{shard} */ select count(*) from pg_catalog.pg_class \
                 where relname in ('t', 'hidden', 'hidden_i') and relnamespace = 'public'::regnamespace"
            );
            brief(&side.query(&sql).expect("an answer"))
        })
        .collect();
    found.push(brief(&side.query("select auction_id, n from t order by 1").expect("an answer")));
    found.push(brief(&side.query("select a, b from hidden").expect("an answer")));
    found
}

const MAKE: &str = "create temp table tmp1 (a int, b int)";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_on_a_temporary_table_runs_where_it_is() {
    let sessions: &[&[&str]] = &[
        &[MAKE, "drop table tmp1"],
        &["create temp table if not exists tmp1 (a int)", "drop table if exists tmp1"],
        &[MAKE, "alter table tmp1 add c int", "insert into tmp1 values (1, 2, 3)", "select * from tmp1"],
        &[
            MAKE,
            "create index on tmp1 (a)",
            "insert into tmp1 values (1)",
            "truncate tmp1",
            "select a from tmp1",
        ],
        &["select n from t where auction_id = 1", MAKE, "insert into tmp1 values (1)", "drop table tmp1"],
        &[
            "select n from t where auction_id = 3",
            MAKE,
            "alter table tmp1 rename to tmp2",
            "select a from tmp2",
        ],
        &["select n from t where auction_id = 2", MAKE, "select a from tmp1"],
        &[MAKE, "comment on table tmp1 is 'x'", "comment on column tmp1.a is 'y'", "select a from tmp1"],
        &[MAKE, "grant select on tmp1 to pg_monitor", "revoke all on table tmp1 from pg_monitor"],
        &[MAKE, "create index tmp1i on tmp1 (a)", "cluster tmp1 using tmp1i", "reindex table tmp1"],
        &[MAKE, "create statistics tmp1s on a, b from tmp1", "analyze tmp1", "drop table tmp1"],
        &[MAKE, "create index tmp1i on tmp1 (a)", "drop index pg_temp.tmp1i", "drop table pg_temp.tmp1"],
        &[MAKE, "select 1 / 0", "drop table tmp1"],
        &["create temp table hidden (a int)", "insert into hidden values (7)", "select a from hidden"],
        &["create temp table hidden (a int)", "drop table pg_temp.hidden"],
    ];
    let mut both = Beside::start(SET_UP).await;
    let before = permanent(&mut both);
    let mut wrong = String::new();
    for session in sessions {
        for together in [false, true] {
            both.anew();
            let [ours, theirs] = both.sides().map(|side| run(side, session, together));
            if ours != theirs {
                wrong.push_str(&format!("{session:?}, {together}\n  ours   {ours}\n  theirs {theirs}\n"));
            }
            if !together {
                both.anew();
                let block: Vec<&str> = std::iter::once("begin").chain(session.iter().copied()).collect();
                let [ours, theirs] = both.sides().map(|side| run(side, &block, false));
                if ours != theirs {
                    wrong.push_str(&format!("{block:?}\n  ours   {ours}\n  theirs {theirs}\n"));
                }
            }
        }
    }
    both.anew();
    let alone = [MAKE, "create index concurrently on tmp1 (a)", "vacuum tmp1", "select a from tmp1"];
    let [ours, theirs] = both.sides().map(|side| run(side, &alone, false));
    assert_eq!(ours, theirs);
    assert!(wrong.is_empty(), "{wrong}");
    assert_eq!(permanent(&mut both), before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ddl_that_would_mean_other_tables_on_other_shards_is_refused() {
    let hides = "create temp table hidden (a int)";
    let index = "create index tmp1i on tmp1 (a)";
    let sessions: &[&[&str]] = &[
        &[hides, "drop table hidden"],
        &[hides, "truncate hidden"],
        &[hides, "alter table hidden add c int"],
        &[hides, "create index on hidden (a)"],
        &[hides, "create index concurrently on hidden (a)"],
        &["create temp table made (x int)", "create index hidden_i on made (x)", "drop index hidden_i"],
        &[MAKE, index, "drop index tmp1i"],
        &[MAKE, index, "alter index tmp1i rename to tmp1j"],
        &[MAKE, index, "reindex index tmp1i"],
        &[MAKE, "drop table tmp1, t"],
        &[MAKE, "drop table t, tmp1"],
        &[MAKE, "drop table pg_temp.tmp1, t"],
        &[MAKE, "truncate tmp1, hidden"],
        &[MAKE, "grant select on tmp1, t to pg_monitor"],
        &[MAKE, "create rule r as on insert to tmp1 do also insert into t values (9, 9)"],
        &[
            MAKE,
            "create trigger g before update on tmp1 for each row execute function suppress_redundant_updates_trigger()",
        ],
        &[MAKE, "create policy p on tmp1"],
    ];
    let mut both = Beside::start(SET_UP).await;
    both.ours.query("create index hidden_i on hidden (a)").expect("an answer");
    let before = permanent(&mut both);
    let mut wrong = String::new();
    for session in sessions {
        let text = session.join("; ");
        for way in 0..3 {
            both.anew();
            let said = match way {
                0 => run(&mut both.ours, session, false),
                1 => run(&mut both.ours, session, true),
                _ => run(&mut both.ours, &[&text], false),
            };
            let errors: Vec<_> =
                said.split(" | ").flat_map(str::lines).filter(|m| m.starts_with("E ")).collect();
            if errors.len() != 1 || !errors[0].starts_with("E 0A000") || errors[0].contains("PREPARE") {
                wrong.push_str(&format!("{session:?}, {way}: {said}\n"));
            }
            let left = permanent(&mut both);
            assert_eq!(left, before, "{session:?}, {way}");
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}
