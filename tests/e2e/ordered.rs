//! Rows of several shards in the order of one: ORDER BY, LIMIT and OFFSET beside a plain PostgreSQL.

use std::time::Duration;

use tests::cluster::{Cluster, eventually, first_column};
use tests::wire::{Frame, Wire};
use tests::wire_message::{self as message, Value};
use tokio_postgres::error::SqlState;

use crate::beside::{Beside, said, said_but_settings};

/// Rows of every type whose order the proxy knows, with NULLs, ties, and what is at the ends of the types. `tied` is the same for
/// many rows.
const SET_UP: &[&str] = &[
    "create table t (auction_id bigint primary key, tied int, s smallint, i int, o oid, b bool, f real, d double precision, \
     n numeric, n2 numeric(12,2), day date, at time, ts timestamp, tz timestamptz, u uuid, raw bytea, \
     c text collate \"C\", v varchar(9) collate \"C\", p char(6) collate \"C\", x text, m money, a int[])",
    "insert into t values \
     (1, 1, -32768, 7, 4294967295, true, 'NaN', 'NaN', 'NaN', 1, 'infinity', '24:00', 'infinity', 'infinity', \
        'ffffffff-ffff-ffff-ffff-ffffffffffff', '\\xff00', 'Zz', 'Zz', 'a', 'z', 1, '{1}'), \
     (2, 1, 32767, -7, 0, false, '-Infinity', '-Infinity', '-Infinity', 1.50, '-infinity', '00:00', '-infinity', '-infinity', \
        '00000000-0000-0000-0000-000000000000', '\\x', 'zz', '', 'a b', 'Z', 2, '{2}'), \
     (3, 1, 0, 0, 7, null, 'Infinity', 1e308, 'Infinity', -1.5, '0044-03-15 BC', '12:00:00.000001', '0044-03-15 12:00 BC', \
        '0044-03-15 12:00 BC', null, '\\x00', 'ä', 'ä', 'a\t', 'a', 3, null), \
     (4, 2, 1, 2147483647, 8, true, '-0', '-0', 0.00, 0, '2024-02-29', '12:00', '2024-02-29 12:00', '2024-02-29 12:00+02', \
        '00000000-0000-0000-0000-00000000000a', '\\x0000', 'a', 'ab', '', 'ä', 4, '{}'), \
     (5, 2, 1, -2147483648, 9, false, 0, 0, -0.001, null, '1999-12-31', null, '1999-12-31 23:59:59.999999', \
        '1999-12-31 23:59:59.999999+00', 'a0000000-0000-0000-0000-000000000000', 'plain', '', 'b', 'b', '', 5, '{5}'), \
     (6, 2, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null, null), \
     (7, null, 5, 10, 10, true, 1.5, 1.5, 123456789012345678901234567890.5, 10, '9999-12-31', '01:00', '2024-02-29 12:00', \
        '2024-02-29 10:00+00', '0a000000-0000-0000-0000-000000000000', '\\x5c5c', 'A', 'B', 'a', 'b', 6, '{7}'), \
     (8, null, -5, 9, 11, false, -1.5, -1.5, 1.50, 10, '5874897-12-31', '02:00', '294276-12-31 23:59:59', \
        '4714-11-24 00:00+00 BC', 'f0000000-0000-0000-0000-000000000000', '\\x27', 'a b', 'a b', 'B', 'B', 7, '{8}'), \
     (9, 3, 5, 11, 10, true, 1.5, 1.5, 1.5, 10.01, '2024-02-29', '01:00', '2024-02-29 12:00', \
        '2024-02-29 12:00+02', '0a000000-0000-0000-0000-000000000001', '\\x01', 'AA', 'BB', 'aa', 'bb', 6, '{9}')",
    "insert into t (auction_id, tied, i, n, ts, c) \
     select g, g % 4, g * 37 % 23, g * 37 % 29 / 8.0, timestamp '2024-01-01' + g * 37 % 31 * interval '1 hour', chr(97 + g * 37 % 26) \
     from generate_series(20, 119) g",
    "create table e (auction_id bigint primary key, n int)",
    "create table g (auction_id bigint, n int, primary key (auction_id, n))",
    "insert into g select 1 + g % 12, g from generate_series(1, 100) g",
    "create table categories (n int primary key, name text)",
    "insert into categories select g, 'category ' || g from generate_series(0, 30) g",
];

/// Types whose order the proxy knows.
const COLUMNS: [&str; 17] =
    ["s", "i", "o", "b", "f", "d", "n", "n2", "day", "at", "ts", "tz", "u", "raw", "c", "v", "p"];

async fn beside(shards: usize) -> Beside {
    let set_up: Vec<&str> = SET_UP.iter().map(|sql| sql.trim()).collect();
    let cluster = Cluster::builder().shards(shards).start().await;
    // INSERT … SELECT is not for several shards: its rows are written out.
    let mut both = Beside::of(cluster, &[]).await;
    for sql in set_up {
        let theirs = both.theirs.rows(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        assert!(theirs.is_empty());
        if !sql.contains("generate_series") || sql.contains("categories") {
            both.ours.rows(sql).unwrap_or_else(|error| panic!("{sql}: {error}"));
        }
    }
    for (table, columns, keys) in
        [("t", "auction_id, tied, i, n, ts, c", "auction_id >= 20"), ("g", "auction_id, n", "true")]
    {
        let rows = both.theirs.rows(&format!("select {columns} from {table} where {keys}")).expect("rows");
        let literal =
            |value: &Option<String>| value.as_ref().map_or("null".to_owned(), |text| format!("'{text}'"));
        let row = |row: &Vec<Option<String>>| {
            format!("({})", row.iter().map(literal).collect::<Vec<_>>().join(", "))
        };
        let values = rows.iter().map(row).collect::<Vec<_>>().join(", ");
        both.ours.rows(&format!("insert into {table} ({columns}) values {values}")).expect("inserted");
    }
    both
}

/// A statement in the extended protocol, described, with parameters in text and results in this format.
fn extended(sql: &str, params: &[Option<&str>], format: i16) -> Vec<u8> {
    let value = |param: &Option<&str>| param.map_or(Value::Null, |text| Value::Text(text.into()));
    let values: Vec<_> = params.iter().map(value).collect();
    [
        message::parse("", sql, &[]),
        message::bind("", "", &values, &[format]),
        message::describe(b'P', ""),
        message::execute("", 0),
        message::sync(),
    ]
    .concat()
}

/// What differs between the sides, in both protocols.
fn differences(both: &mut Beside, sql: &str) -> String {
    let mut wrong = String::new();
    let ways =
        [("simple", message::query(sql)), ("text", extended(sql, &[], 0)), ("binary", extended(sql, &[], 1))];
    for (way, bytes) in ways {
        let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &bytes, 1));
        if ours != theirs {
            wrong.push_str(&format!("{sql} ({way})\n  ours   {ours}\n  theirs {theirs}\n"));
        }
    }
    wrong
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_07_every_type_is_in_postgresqls_order() {
    for shards in [2, 4] {
        let mut both = beside(shards).await;
        let mut wrong = String::new();
        for setting in [
            "set datestyle to 'SQL, DMY'",
            "set bytea_output to escape",
            "set extra_float_digits to -3",
            "reset all",
        ] {
            both.sides().into_iter().for_each(|side| assert!(side.rows(setting).is_ok()));
            for column in COLUMNS {
                for order in ["", " desc", " nulls first", " desc nulls last"] {
                    let by = format!("order by {column}{order}, auction_id desc");
                    wrong += &differences(&mut both, &format!("select auction_id, {column} from t {by}"));
                    if setting == "reset all" {
                        wrong +=
                            &differences(&mut both, &format!("select tied from t {by} limit 40 offset 3"));
                    }
                }
            }
        }
        assert!(wrong.is_empty(), "{shards} shards\n{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn orders_of_every_form() {
    const QUERIES: &[&str] = &[
        "select auction_id, i from t order by 2 desc nulls last, 1",
        "select i as n, n as i, auction_id from t order by n, i, auction_id",
        "select i as n, auction_id from t order by (n) desc, auction_id",
        "select * from g order by n desc, auction_id",
        "select * from g order by 2, 1",
        "select g.*, t.ts from g join t using (auction_id) order by ts, g.n desc",
        "select x.k from (select auction_id as k, ts as w from t) x order by x.w desc, k",
        "with w as (select auction_id k, n from t where i > 3) select k from w order by n, k desc",
        "select auction_id, count(*), min(n) from g group by auction_id order by count(*) desc, min(n), 1",
        "select auction_id, sum(n) as s from g group by auction_id order by s desc, auction_id limit 3",
        "select auction_id, avg(n) from g group by 1 having count(*) > 2 order by avg(n), 1",
        "select auction_id, row_number() over (partition by auction_id order by n) r, n from g order by r, auction_id limit 20",
        "select distinct auction_id, c from t order by c, auction_id",
        "select distinct on (auction_id) auction_id, n from g order by auction_id, n desc",
        "select t.auction_id, categories.name from t join categories on categories.n = t.i order by t.i, t.auction_id",
        "select auction_id from t where c is not null order by x collate \"C\", auction_id",
        "select lower(c), auction_id from t order by lower(c) nulls first, auction_id",
        "select coalesce(i, tied) from t order by coalesce(i, tied), 1",
        "select auction_id from t where n < 1000 and n > -1000 order by n::int, auction_id",
        "select auction_id from t where auction_id in (3, 4, 5, 6, 30) order by tz nulls first",
        "select auction_id from e order by auction_id",
        "select auction_id from e order by n limit 3",
        "select n from e limit 5",
        "select auction_id from t order by auction_id limit 0",
        "select auction_id from t order by ts desc nulls last, auction_id limit 7 offset 11",
        "select auction_id from t order by auction_id offset 100",
        "select auction_id from t order by auction_id offset 200 rows",
        "select auction_id from t order by auction_id fetch first row only",
        "select auction_id from t order by n, auction_id offset 2 rows fetch next 5 rows only",
        "select auction_id from t order by auction_id limit all offset null",
        "select auction_id from t order by auction_id limit null offset 2",
        "select auction_id from t order by auction_id limit -1",
        "select auction_id from t order by auction_id offset -1",
        "select auction_id from t order by i, auction_id for update",
        "select case when i > 3 then 1 else i end, auction_id from t order by t.i desc, auction_id",
        "select auction_id, i auction_id from t order by auction_id",
        "select now() = current_timestamp, auction_id from t order by auction_id limit 2",
    ];
    for shards in [2, 4] {
        let mut both = beside(shards).await;
        let wrong: String = QUERIES.iter().map(|sql| differences(&mut both, sql)).collect();
        assert!(wrong.is_empty(), "{shards} shards\n{wrong}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_cut_as_literals_do() {
    let mut both = beside(2).await;
    let sql =
        "select auction_id, ts from t where auction_id > $3 order by ts desc, auction_id limit $1 offset $2";
    for params in [
        [Some("5"), Some("3"), Some("0")],
        [None, Some("90"), Some("1")],
        [Some("4"), None, Some("1")],
        [Some("0"), Some("0"), Some("1")],
        [Some("9223372036854775807"), Some("9223372036854775807"), Some("1")],
        [Some("-1"), Some("0"), Some("1")],
        [Some("x"), Some("0"), Some("1")],
    ] {
        for format in [0, 1] {
            let bytes = extended(sql, &params, format);
            let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &bytes, 1));
            assert_eq!(ours, theirs, "{params:?}");
        }
    }
    // One format for each column, and a statement that is bound more than once.
    let parse =
        [message::parse("s", sql, &[20, 20, 20]), message::describe(b'S', "s"), message::sync()].concat();
    let [ours, theirs] = both.sides().map(|side| said(side, &parse));
    assert_eq!(ours, theirs);
    let values = |n: &str| [n, "1", "0"].map(|text| Value::Text(text.into()));
    for (n, formats) in [("3", [0, 1]), ("7", [1, 0]), ("200", [1, 1])] {
        let bytes =
            [message::bind("", "s", &values(n), &formats), message::execute("", 0), message::sync()].concat();
        let [ours, theirs] = both.sides().map(|side| said(side, &bytes));
        assert_eq!(ours, theirs, "{n:?} {formats:?}");
    }
}

/// Rows that are equal in what they are ordered by may come in any order, but each once, and as many as are wanted.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ties_under_a_limit_are_any_of_them() {
    let mut both = beside(4).await;
    for (sql, column) in [
        ("select auction_id, tied from t order by tied limit 30", 1),
        ("select auction_id, tied from t order by tied desc nulls last limit 50 offset 20", 1),
    ] {
        let [ours, theirs] = both.sides().map(|side| side.rows(sql).expect("rows"));
        let by =
            |rows: &[Vec<Option<String>>]| rows.iter().map(|row| row[column].clone()).collect::<Vec<_>>();
        assert_eq!(by(&ours), by(&theirs), "{sql}");
        let mut ids: Vec<_> = ours.iter().map(|row| row[0].clone()).collect();
        ids.sort();
        ids.dedup();
        assert_eq!(ids.len(), ours.len(), "each row once");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_the_proxy_cannot_put_in_order_is_not_guessed() {
    let mut both = beside(2).await;
    for sql in [
        "select auction_id from t order by x, auction_id",
        "select auction_id from t order by m, auction_id",
        "select auction_id from t order by a, auction_id",
        "select auction_id from t order by i + 1, auction_id",
        "select auction_id from t order by c collate \"en_US\", auction_id",
        "select tied from t order by tied fetch first 1 rows with ties",
        "select distinct auction_id, d from t order by d, auction_id",
        "copy (select auction_id from t order by i, auction_id) to stdout",
    ] {
        let [explained, ours, theirs] = [
            said(&mut both.ours, &message::query(&format!("explain (gavel) {sql}"))),
            said(&mut both.ours, &message::query(sql)),
            said(&mut both.theirs, &message::query(sql)),
        ];
        assert!(!explained.contains("rows in their order"), "{sql}: {explained}");
        let refused = ours.starts_with("E 0A000") || ours.starts_with("E 42704");
        assert!(refused || ours == theirs, "{sql}\n{ours}\n{theirs}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_error_of_one_shard_is_the_answers() {
    let mut both = beside(4).await;
    let fails = "select auction_id, 10 / (auction_id - 119) from t order by auction_id";
    for bytes in [message::query(fails), extended(fails, &[], 1)] {
        let said = said(&mut both.ours, &bytes);
        assert!(said.contains("E 22012 division by zero") && said.ends_with("| I"), "{said}");
        assert_eq!(said.matches("E 2").count(), 1, "{said}");
    }
    // In a transaction it fails on all of them, and the session goes on behind it.
    for (sql, wanted) in [
        ("begin", "T"),
        (fails, "E"),
        ("select 1", "E"),
        ("rollback", "I"),
        ("select n from g order by n limit 1", "I"),
    ] {
        let said = said_but_settings(&mut both.ours, &message::query(sql), 1);
        assert!(said.ends_with(wanted), "{sql}: {said}");
    }
}

/// A table of large rows on all shards.
async fn large(cluster: &Cluster) -> tokio_postgres::Client {
    let client = cluster.connect().await;
    client
        .batch_execute("create table big (auction_id bigint primary key, filler text)")
        .await
        .expect("create");
    for shard in &cluster.nodes.shards {
        let node = shard.primary.connect("auction").await.expect("the node");
        let fill = "insert into big select g, repeat(md5(g::text), 250) from generate_series(1, 8000) g";
        node.batch_execute("set session_replication_role to replica").await.expect("the superuser");
        node.batch_execute(fill).await.expect("filled");
    }
    client
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_application_that_does_not_read_makes_the_shards_wait() {
    let cluster = Cluster::builder().start().await;
    let client = large(&cluster).await;
    let before = memory(&cluster);
    let mut slow = Wire::login(&cluster.login()).expect("login");
    slow.send(&message::query("select filler from big order by auction_id")).expect("sent");
    let first = slow.frame(Duration::from_secs(20)).expect("a frame").expect("described");
    assert_eq!(first.tag, b'T');
    // The shards have 128 MB to give: what is on its way is held in the buffers of sockets.
    let waiting = "select count(*) from pg_stat_activity where query like 'select filler%' and wait_event = 'ClientWrite'";
    eventually(Duration::from_secs(20), "the shards wait", || async {
        let counts = cluster.on_each_primary(waiting).await.concat();
        counts.iter().all(|count| count == "1")
    })
    .await;
    let grown = memory(&cluster).saturating_sub(before);
    assert!(grown < 24 << 20, "{grown} bytes");
    // It goes away, and leaves nothing behind.
    drop(slow);
    let busy = "select count(*) from pg_stat_activity where query like 'select filler%' and state = 'active'";
    eventually(Duration::from_secs(20), "the shards are free", || async {
        cluster.on_each_primary(busy).await.concat().iter().all(|count| count == "0")
    })
    .await;
    assert_eq!(
        first_column(&client, "select auction_id from big order by auction_id desc limit 2").await,
        ["8000"; 2]
    );
}

/// Resident memory of the proxy, bytes.
fn memory(cluster: &Cluster) -> usize {
    let status = std::fs::read_to_string(format!("/proc/{}/status", cluster.proxy.pid().expect("it runs")))
        .expect("a process");
    let line = status.lines().find(|line| line.starts_with("VmRSS:")).expect("its memory");
    let kilobytes = line.split_whitespace().nth(1).and_then(|n| n.parse::<usize>().ok());
    kilobytes.expect("a number") << 10
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_merge_is_cancelled_like_any_statement() {
    let cluster = Cluster::builder().start().await;
    let client = large(&cluster).await;
    let token = client.cancel_token();
    let sleeps = "select auction_id, pg_sleep(0.05) from big order by auction_id";
    let running = client.simple_query(sleeps);
    let cancel = async {
        let running = "select count(*) from pg_stat_activity where query like '%pg_sleep(0.05%' and state = 'active' and backend_type = 'client backend' and pid <> pg_backend_pid()";
        eventually(Duration::from_secs(20), "both shards work", || async {
            cluster.on_each_primary(running).await.concat().iter().all(|count| count != "0")
        })
        .await;
        token.cancel_query(tokio_postgres::NoTls).await.expect("cancelled");
    };
    let (ran, ()) = tokio::join!(running, cancel);
    assert_eq!(ran.expect_err("cancelled").code(), Some(&SqlState::QUERY_CANCELED));
    assert_eq!(
        first_column(&client, "select auction_id from big order by auction_id limit 2").await,
        ["1"; 2]
    );
}

/// The tags of frames.
fn tags(frames: &[Frame]) -> String {
    frames.iter().map(|frame| char::from(frame.tag)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hidden_columns_are_not_seen() {
    let mut both = beside(2).await;
    let sql = "select i from t order by ts, auction_id limit 3";
    let frames = both.ours.query(sql).expect("an answer");
    assert_eq!(tags(&frames), "TDDDCZ");
    assert_eq!(frames[0].body[..2], [0, 1]);
    assert!(frames[1..4].iter().all(|frame| frame.body[..2] == [0, 1]), "one column");
    // Nor in what is said of a statement, bound or not.
    let steps = [
        message::parse("q", sql, &[]),
        message::describe(b'S', "q"),
        message::bind("", "q", &[], &[]),
        message::describe(b'P', ""),
        message::execute("", 0),
        message::bind("", "q", &[], &[]),
        message::execute("", 0),
        message::sync(),
    ];
    let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &steps.concat(), 1));
    assert_eq!(ours, theirs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn portals_give_so_many_rows_at_a_time() {
    let mut both = beside(3).await;
    for sql in [
        "select auction_id, ts from t order by ts desc nulls last, auction_id",
        "select auction_id from t order by n, auction_id limit 23 offset 4",
        "select n from g order by n",
        "select auction_id from e order by n",
        "select c, now() > '2000-01-01' from t order by c desc, auction_id limit 9",
        "select auction_id, 1 / (auction_id - 4) from t order by auction_id",
    ] {
        let columns = sql.split(" from ").next().map_or(1, |list| list.matches(',').count() + 1);
        for formats in [vec![], vec![1], vec![0; columns]] {
            let portal =
                |name: &str| [message::parse("", sql, &[]), message::bind(name, "", &[], &formats)].concat();
            let execute = |name: &str, rows| [message::execute(name, rows), message::sync()].concat();
            let steps = [
                message::query("begin"),
                [portal("a"), message::describe(b'P', "a"), execute("a", 3)].concat(),
                [portal("b"), execute("b", 1)].concat(),
                [message::describe(b'P', "a"), execute("a", 7)].concat(),
                execute("b", 200),
                message::query("move 2 in a"),
                execute("a", 0),
                execute("a", 1),
                execute("b", 0),
                message::query("rollback"),
                [portal(""), message::execute("", 2), message::execute("", 3), message::sync()].concat(),
            ];
            for (number, step) in steps.iter().enumerate() {
                let [ours, theirs] = both.sides().map(|side| said_but_settings(side, step, 1));
                let errs = theirs.contains("E 22012");
                assert!(
                    ours == theirs || (errs && ours.contains("E 22012")),
                    "{sql} {formats:?} {number}\n{ours}\n{theirs}"
                );
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn cursors_go_forward_in_order() {
    let mut both = beside(3).await;
    for sql in [
        "select auction_id, ts from t order by ts desc nulls last, auction_id",
        "select auction_id from t order by n, auction_id limit 23 offset 4",
        "select auction_id from e order by n",
        "select n from g order by n desc",
    ] {
        let fetch = |text: &str, extended_too: bool| {
            if extended_too { extended(text, &[], 1) } else { message::query(text) }
        };
        for extended_too in [false, true] {
            for text in [
                "begin",
                &format!("declare c no scroll cursor for {sql}"),
                "fetch c",
                "fetch forward 3 from c",
                "savepoint s",
                "move 4 in c",
                "fetch 5 in c",
                "rollback to s",
                "fetch next from c",
                "move forward 200 from c",
                "fetch all from c",
                "fetch c",
                "close c",
                "rollback",
            ] {
                let bytes =
                    fetch(text, extended_too && (text.starts_with("fetch") || text.starts_with("move")));
                let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &bytes, 1));
                assert_eq!(ours, theirs, "{sql}: {text}");
            }
        }
    }
    for text in ["begin", "declare c cursor for select n from g order by n", "fetch c"] {
        both.ours.query(text).expect("an answer");
    }
    let said = said_but_settings(&mut both.ours, &extended("fetch c", &[], 1), 1);
    assert!(said.contains("E 0A000"), "{said}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn aggregates_are_made_of_those_of_the_shards() {
    const QUERIES: &[&str] = &[
        "select count(*) from t",
        "select count(*) from e",
        "select count(c) as n, count(*) filter (where i > 5), sum(i), sum(s), sum(auction_id), sum(n2) from t",
        "select sum(n) from t where auction_id not in (1, 2, 3)",
        "select sum(n), sum(n2), sum(auction_id), max(n), min(n), count(n) from t where auction_id > 6",
        "select sum(n), sum(n2), sum(i), max(i), min(ts), max(c), count(i), bool_and(b) from e1",
        "select sum(i), sum(n), count(*) from t where auction_id = 6",
        "select min(i), max(i), min(s), max(o), min(d), max(d), min(f), max(n2) from t",
        "select min(day), max(day), min(at), max(at), min(ts), max(ts), min(tz), max(tz) from t where auction_id not in (1, 2)",
        "select min(day), max(tz) from t",
        "select min(c), max(c), min(v), max(v), max(p) from t",
        "select bool_and(b), bool_or(b), every(b is not null), bool_and(i is null) from t",
        "select bool_and(b), bool_or(b) from t",
        "select sum((n)) as total, max(g.n) from g join t using (auction_id) where t.i is not null",
        "select sum(auction_id) from (select distinct auction_id from g) x",
        "select sum(9223372036854775807 / 2 * (1 + auction_id * 0)) from t",
    ];
    for shards in [2, 4] {
        let mut both = beside(shards).await;
        let empty = "create table e1 (auction_id bigint primary key, i int, n numeric, n2 numeric(9,2), ts timestamp, c text collate \"C\", b bool)";
        both.sides().into_iter().for_each(|side| assert!(side.rows(empty).is_ok()));
        let wrong: String = QUERIES.iter().map(|sql| differences(&mut both, sql)).collect();
        assert!(wrong.is_empty(), "{shards} shards\n{wrong}");
        // Three of them in a row are one row, however few rows are asked for.
        for step in [
            message::query("begin"),
            [
                message::parse("", QUERIES[1], &[]),
                message::bind("a", "", &[], &[]),
                message::execute("a", 1),
                message::sync(),
            ]
            .concat(),
            [message::execute("a", 1), message::sync()].concat(),
            message::query("declare c cursor for select count(*), max(ts) from t"),
            message::query("fetch 3 from c"),
            message::query("fetch c"),
            message::query("rollback"),
        ] {
            let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &step, 1));
            assert_eq!(ours, theirs);
        }
        let said = said(&mut both.ours, &message::query("explain (gavel) select sum(i), max(ts) from t"));
        assert!(said.contains("aggregates put together"), "{said}");
        let big = "insert into e values (1, 2147483647), (2, 2147483647), (3, 5), (4, null)";
        both.sides().into_iter().for_each(|side| assert!(side.rows(big).is_ok()));
        assert_eq!(differences(&mut both, "select sum(n), max(n), count(n), count(*) from e"), "");
    }
}
