//! Rows of temporary tables together with those of sharded tables, beside PostgreSQL.

use tests::wire::Wire;
use tests::wire_message as message;

use crate::beside::{Beside, said, said_but_settings};

const SET_UP: &[&str] = &[
    "create type mood as enum ('sad', 'ok')",
    "create table t (auction_id bigint primary key, n int, title text)",
    "create table x (auction_id bigint, id int, m mood, primary key (auction_id, id))",
    "create table hidden (a int, b text)",
    "create table categories (id int primary key, name text)",
    "insert into t select g, g % 4, 'title ' || g from generate_series(1, 20) g",
    "insert into x select g, g % 3, case when g % 2 = 0 then 'sad'::mood end from generate_series(1, 9) g",
    "insert into hidden values (1, 'permanent'), (2, 'permanent')",
    "insert into categories values (1, 'one'), (2, 'two')",
];

const MAKE: &str = "create temp table tmp1 (a bigint, b text, m mood, at timestamptz, i interval)";
const ROWS: &str = "insert into tmp1 values (1, 'one', 'ok', '2024-01-01 10:00+00', '1 day'), (2, E'tab\\tquote\"\\\\', null, null, '-1 mon 2 days'), \
     (30, null, 'sad', 'infinity', null)";

/// What is read.
const READS: &[&str] = &[
    "select t.auction_id, tmp1.b, tmp1.m from t join tmp1 on t.auction_id = tmp1.a order by 1",
    "select t.n, count(*), max(tmp1.at), sum(tmp1.i) from t left join tmp1 on t.n = tmp1.a group by t.n order by 1",
    "select auction_id from t where n in (select a from tmp1) order by 1",
    "select auction_id from t where auction_id in (select a from pg_temp.tmp1) order by 1",
    "select tmp1, t.title from tmp1 left join t on t.auction_id = tmp1.a order by a",
    "with w as (select n, count(*) as c from t group by n) select w.*, b from w join tmp1 on a = n order by 1",
    "select a from tmp1 union select auction_id from t order by 1 limit 3",
    "select c.name, tmp1.b, t.auction_id from categories c, tmp1, t where c.id = tmp1.a and t.n = c.id order by 3",
    "select h.b, count(*) from hidden h join t on t.n = h.a group by 1 order by 1",
    "select x.auction_id, x.m = tmp1.m from x join tmp1 on x.id = tmp1.a order by 1, 2",
    "copy (select t.n, tmp1.b from t join tmp1 on t.n = tmp1.a order by t.auction_id) to stdout",
    "select nope from t join tmp1 on a = n",
];

fn run(both: &mut Beside, sql: &str, extended: bool) -> Option<String> {
    let bytes = match extended {
        true => [message::step(sql), message::sync()].concat(),
        false => message::query(sql),
    };
    let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &bytes, 1));
    (ours != theirs).then(|| format!("extended: {extended} {sql}\n  ours   {ours}\n  theirs {theirs}\n"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reads_see_temporary_and_sharded_rows() {
    let mut both = Beside::start(SET_UP).await;
    let mut wrong = String::new();
    for around in [
        &[][..],
        &["begin", "update t set n = n + 1 where auction_id = 7"],
        &["begin isolation level repeatable read"],
    ] {
        both.anew();
        for sql in [
            MAKE,
            ROWS,
            "create temp table hidden (a int, b text)",
            "insert into hidden values (2, 'temporary'), (3, 'temporary')",
        ] {
            wrong.extend(run(&mut both, sql, false));
        }
        for sql in around {
            wrong.extend(run(&mut both, sql, false));
        }
        for sql in READS {
            for extended in [false, true] {
                if around.is_empty() || !sql.contains("nope") {
                    wrong.extend(run(&mut both, sql, extended));
                }
            }
        }
        for sql in [
            "begin",
            "declare c cursor for select t.auction_id, b from t join tmp1 on n = a order by 1",
            "fetch 2 from c",
            "fetch 2 from c",
            "rollback",
            "prepare p (int) as select t.auction_id, b from t join tmp1 on n = a where n = $1 order by 1",
            "execute p (1)",
            "alter table tmp1 add c int default 7",
            "select c, count(*) from t join tmp1 on n = a group by c",
            "drop table tmp1",
            "select count(*) from t join tmp1 on n = a",
            "drop table pg_temp.hidden",
            "select h.b, count(*) from hidden h join t on t.n = h.a group by 1 order by 1",
        ] {
            if !around.is_empty() && sql == "begin" {
                continue;
            }
            wrong.extend(run(&mut both, sql, false));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Statements that write, and what there is afterwards.
const WRITES: &[&str] = &[
    "insert into tmp1 (a, b) select auction_id, title from t where n = 3",
    "insert into tmp1 (a, b, m) select x.auction_id, t.title, x.m from x join t on x.id = t.n where t.auction_id < 9",
    "insert into t (auction_id, n, title) select a + 100, 9, b from tmp1 where a < 40",
    "insert into t select a, 7, b from tmp1 where a in (1, 30) on conflict (auction_id) do update set n = excluded.n, title = excluded.title",
    "update t set title = tmp1.b from tmp1 where tmp1.a = t.auction_id",
    "update t set n = 50 where auction_id in (select a from tmp1 where m = 'ok')",
    "delete from t using tmp1 where tmp1.a = t.auction_id and tmp1.b like 't%'",
    "update tmp1 set b = 'updated' from t where t.auction_id = tmp1.a and t.n = 50",
    "delete from tmp1 using t where t.n = tmp1.a and t.auction_id < 3",
    "create temp table made as select n, count(*) as c, max(title) as \"Last\" from t group by n",
    "create temporary table made2 (k, v) on commit preserve rows as select auction_id, title from t where auction_id < 9 with data",
    "select t.auction_id, m into temp table made3 from t join x using (auction_id) where id > 0",
    "create temp table made4 as select * from t with no data",
    "create temp table made5 as select t.*, tmp1.m, tmp1.i from t join tmp1 on tmp1.a = t.n",
    "insert into made4 select * from t order by auction_id limit 2",
    "create temp table made as select 1 as a, n from t",
    "create temp table made6 as select n / 0 as a from t",
    "create temp table made6 as select nope from t",
];

const LEFT: &[&str] = &[
    "select * from tmp1 order by a, b",
    "select * from t order by auction_id",
    "select * from made order by n",
    "select * from made2 order by k",
    "select * from made3 order by auction_id",
    "select * from made4 order by auction_id",
    "select * from made5 order by auction_id, m, i",
    "select attname, format_type(atttypid, atttypmod), attcollation from pg_attribute where attrelid = 'made5'::regclass and attnum > 0 order by attnum",
    "select made.n, t.title from made join t on t.auction_id = made.n order by 1, 2",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_take_rows_either_way() {
    let mut wrong = String::new();
    for extended in [false, true] {
        let mut both = Beside::start(SET_UP).await;
        // In a session with temporary tables an error of Parse comes with Bind.
        let by_parse = |sql: &&&str| !(extended && sql.contains("nope"));
        for sql in [MAKE, ROWS].iter().chain(WRITES).chain(LEFT).filter(by_parse) {
            wrong.extend(run(&mut both, sql, extended));
        }
        both.anew();
        wrong.extend(run(&mut both, "select * from t order by auction_id", false));
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Within a transaction of the application's, where only the temporary table is written, or only shards without it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn transactions_see_their_own_rows() {
    let mut both = Beside::start(SET_UP).await;
    let mut wrong = String::new();
    for sql in [
        "begin",
        "create temp table gone on commit drop as select n, count(*) as c from t group by n",
        "select t.auction_id, gone.c from t join gone using (n) where gone.n = 2 order by 1",
        "savepoint s",
        "insert into gone select n + 10, 0 from t where auction_id < 4",
        "select count(*) from t join gone on gone.n - 10 = t.n",
        "rollback to s",
        "select count(*) from t join gone on gone.n - 10 = t.n",
        "commit",
        "select count(*) from gone",
        "begin; create temp table a1 as select n from t; select count(*) from a1 join t using (n); commit",
        "create temp table a2 as select n from t; select count(*) from a2 join t using (n)",
        "select count(*) from a1 join a2 using (n)",
        "begin",
        "create temp table a3 as select n / (n - n) from t",
        "select 1",
        "rollback",
        "select count(*) from a1 join t using (n)",
        "discard temp",
        "select count(*) from a1 join t using (n)",
    ] {
        wrong.extend(run(&mut both, sql, false));
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_made_is_refused() {
    let mut both = Beside::start(SET_UP).await;
    let refused = |side: &mut Wire, sql: &str| {
        let said = said_but_settings(side, &message::query(sql), 1);
        assert!(said.contains("0A000"), "{sql}: {said}");
    };
    refused(&mut both.ours, "create temp table if not exists n as select n from t");
    refused(&mut both.ours, "create temp table x as select n from t");
    refused(&mut both.ours, "create temp view v as select n from t");
    refused(&mut both.ours, "create table made as select n from t");
    both.anew();
    let left = both.ours.rows("select count(*) from x").expect("the table is there");
    assert_eq!(left[0][0].as_deref(), Some("9"));
}

/// A permanent table of a temporary one's name, made after it or come into the search path after it, is not what the session means.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_permanent_table_that_comes_later_is_not_meant() {
    let mut both = Beside::start(&[
        "create schema s2",
        "create table s2.batch (auction_id bigint, n int)",
        "insert into s2.batch values (1, 1), (2, 2), (3, 3)",
    ])
    .await;
    let statements = [
        "update batch set n = 7 where auction_id = 2",
        "select count(*) from batch",
        "insert into batch values (9, 9)",
        "insert into batch values (10, 10), (11, 11)",
        "delete from batch",
        "with b as (select * from batch) select count(*) from b, s2.batch",
    ];
    for later in [
        "create table public.batch (auction_id bigint, n int); insert into public.batch values (1, 1), (2, 2), (3, 3)",
        "set search_path = s2, public",
    ] {
        for extended in [false, true] {
            both.anew();
            let [mut other, _] = both.others();
            both.ours.query("create temp table batch (auction_id bigint, n int)").expect("an answer");
            assert!(said(&mut both.ours, &message::query("select count(*) from batch")).contains("D ''''0"));
            let maker = if later.starts_with("set") || extended { &mut both.ours } else { &mut other };
            let made = said(maker, &message::query(later));
            assert!(!made.contains("| E "), "{made}");
            for sql in statements {
                let bytes = match extended {
                    false => message::query(sql),
                    true => [message::step(sql), message::sync()].concat(),
                };
                // The change of another session is learnt of soon.
                let hidden = "a temporary table of this session hides";
                let mut answer = said(&mut both.ours, &bytes);
                for _ in 0..50 {
                    if answer.contains(hidden) {
                        break;
                    }
                    tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                    answer = said(&mut both.ours, &bytes);
                }
                assert!(answer.contains(hidden), "{later}: {sql}: {answer}");
            }
            for table in ["s2.batch", "public.batch"] {
                let rows = said(&mut other, &message::query(&format!("select count(*) from {table}")));
                assert!(rows.contains("D ''''3") || rows.contains("42P01"), "{table}: {rows}");
            }
            let whole = said(&mut both.ours, &message::query("select count(*) from s2.batch"));
            assert!(whole.contains("D ''''3"), "named with its schema: {whole}");
            both.ours.query("drop table pg_temp.batch").expect("an answer");
            let found = said(&mut both.ours, &message::query("select count(*) from batch"));
            assert!(found.contains("D ''''3"), "{later}: {found}");
            other.query("drop table if exists public.batch").expect("an answer");
        }
    }
}
