//! Queries that are no merge of the shards' answers, beside PostgreSQL: the rows are gathered, and PostgreSQL computes the rest.

use tests::cluster::Cluster;
use tests::wire_message::{self as message, Value};

use crate::beside::{Beside, said_but_settings};

/// Rows of several shards, a value of each type that travels in a way of its own, views over views, names that need quotes.
const SET_UP: &[&str] = &[
    "create type mood as enum ('sad', 'ok', 'happy')",
    "create type pair as (a int, b text)",
    "create domain cents as numeric(10, 2) check (value >= 0)",
    "create table t (auction_id bigint primary key, n int, title text, at timestamptz default '2024-01-01 10:00+00')",
    "create table x (auction_id bigint, id int, amount numeric, f float8, b bytea, m mood, ms mood[], p pair, c cents, \
     ch char(5), j jsonb, i interval, r int4range, o oid, rc regclass, \"Odd \"\"name\" text, d date, u uuid, ip inet, \
     bits bit(3), mon money, nums int[], primary key (auction_id, id))",
    "create table home (id int primary key, label text)",
    "create table categories (id int primary key, name text)",
    "insert into t (auction_id, n, title) select g, g % 4, case when g % 5 = 0 then null else chr(96 + g) || E'\\t\\\\\\n' || g end from generate_series(1, 20) g",
    "insert into home values (0, 'zero'), (1, 'one'), (7, 'seven')",
    "insert into categories values (0, 'none'), (2, 'two')",
    "create view plain_view as select auction_id, n, title from t where n > 0",
    "create view per_n as select n, count(*) as c, min(title) as first from t group by n",
    "create view mixed_view as select p.n, p.c, h.label from per_n p left join home h on h.id = p.n",
];

/// Rows of `x`, each with values of its own.
const ROWS: &str = "insert into x values \
    (1, 1, 1.50, 'NaN', '\\x00ff', 'sad', '{sad,happy}', '(1,\"a,b\")', 1.10, 'ab', '{\"a\": [1, null]}', '1 mon 2 days', \
     '[1,5)', 42, 'pg_class', E'tab\\tback\\\\slash', '2024-02-29', 'a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11', '10.0.0.1/8', \
     b'101', '12.34', '{1,null,3}'), \
    (2, 1, 1.5, '-Infinity', '', 'ok', '{}', '(,)', 0, '', 'null', '-1 years', 'empty', 0, null, E'line\\nfeed\\r', 'infinity', \
     '00000000-0000-0000-0000-000000000000', '::1', b'000', '-1', '{}'), \
    (3, 2, -0.00, '0.1', null, 'happy', null, null, null, null, null, null, null, null, null, null, null, null, null, null, \
     null, null), \
    (4, 7, 'NaN', 1e300, '\\x5c6e', null, '{ok,NULL}', '(2,\"\")', 99999.99, 'abcde', '\"x\"', '3 hours', '(,)', 4000000000, \
     'pg_type', '\\N', '0001-01-01 BC', 'ffffffff-ffff-ffff-ffff-ffffffffffff', 'fe80::1/64', b'010', '0', '{{1,2},{3,4}}')";

/// Queries whose rows have one order.
const QUERIES: &[&str] = &[
    "select * from t order by title nulls first, auction_id",
    "select * from x order by auction_id",
    "select x.* from x join t using (auction_id) order by x.amount, x.auction_id",
    "select n, count(*), sum(auction_id), avg(auction_id), array_agg(title order by title) from t group by n order by n",
    "select title, row_number() over (order by n, auction_id) from t order by 2",
    "select a.auction_id, b.auction_id from t a join t b on a.n = b.n and a.auction_id < b.auction_id order by 1, 2",
    "select a.auction_id, h.label, c.name from t a left join home h on h.id = a.n left join categories c on c.id = a.n order by 1",
    "select auction_id from t where n = (select max(n) from t) order by 1",
    "select auction_id from t a where exists (select 1 from x where x.id = a.n) order by 1",
    "select auction_id from t union select id from x order by 1",
    "select auction_id from t except select auction_id from x order by 1",
    "select n from t intersect select id from x order by 1",
    "with s as (select n, sum(auction_id) as s from t group by n) select a.n, a.s, b.s from s a join s b on a.n = b.n - 1 order by 1",
    "with recursive r as (select 1 as k union all select k + 1 from r where k < 5) select k, title from r join t on t.auction_id = r.k order by 1",
    "select distinct n from t order by n desc",
    "select distinct on (n) n, auction_id from t order by n, auction_id desc",
    "select n, grouping(n), count(*) from t group by rollup (n) order by 2, 1",
    "select count(distinct n), count(*) filter (where n > 1), bool_or(title is null) from t",
    "select t.auction_id, t.title, count(*) from t join x on x.id >= t.n group by t.auction_id order by 1",
    "select auction_id, l.k from t, lateral (select count(*) as k from x where x.id > t.n) l order by 1",
    "select * from plain_view order by title, auction_id",
    "select * from per_n order by n",
    "select * from mixed_view order by n",
    "select m.label, p.auction_id from mixed_view m join plain_view p on p.n = m.n order by 2",
    "select public.t.auction_id from public.t join public.x on public.x.id = public.t.n order by 1, public.x.auction_id",
    "select to_jsonb(t) from t order by auction_id",
    "select t from t order by (t).auction_id",
    "select \"Odd \"\"name\" from x order by id, auction_id",
    "select max(m), min(m) from x",
    "select m, count(*) from x group by m order by m",
    "select count(*) from t a, t b, t c where a.n = b.n",
    "select auction_id from t where n in (1, 2) and auction_id between 3 and 15 order by title, 1 limit 3 offset 2",
    "select count(*) from t a left join x b on a.auction_id = b.id and b.id = 1 where a.n is not null",
    "select a.auction_id, b.id from t a full join x b on a.auction_id = b.id and b.amount > 1 order by 1, 2",
    "select a.auction_id, b.id from t a left join x b on a.auction_id = b.id where b.id <> 2 order by 1, 2",
    "select a.auction_id from t a where a.auction_id = 3 or a.n = 1 order by title",
    "select count(distinct 1 / (n - n)) from t",
    "select nope from t order by 1",
    "select n from t group by title",
    "select now() = now(), count(*) from t group by n order by 2",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_09_every_query_is_answered_as_by_one_postgresql() {
    let mut both = Beside::start(SET_UP).await;
    for side in both.sides() {
        side.rows(ROWS).expect("the rows");
    }
    let mut wrong = String::new();
    for around in
        [[None, None], [Some("begin; update t set n = n + 1 where auction_id = 3"), Some("rollback")]]
    {
        for sql in QUERIES {
            for binary in [None, Some(false), Some(true)] {
                if let Some(text) = around[0] {
                    for side in both.sides() {
                        said_but_settings(side, &message::query(text), 1);
                    }
                }
                let bytes = match binary {
                    None => message::query(sql),
                    Some(binary) => extended(sql, binary),
                };
                let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &bytes, 1));
                // A composite value has the types of its columns in it, in binary format.
                let own_oids = binary == Some(true)
                    && (sql.contains("x.*") || sql.contains("* from x") || sql.starts_with("select m"));
                if ours != theirs && !own_oids {
                    wrong.push_str(&format!(
                        "{around:?} {binary:?} {sql}\n  ours   {ours}\n  theirs {theirs}\n"
                    ));
                }
                if let Some(text) = around[1] {
                    for side in both.sides() {
                        said_but_settings(side, &message::query(text), 1);
                    }
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

fn extended(sql: &str, binary: bool) -> Vec<u8> {
    [
        message::parse("", sql, &[]),
        message::bind("", "", &[], &[i16::from(binary)]),
        message::describe(b'P', ""),
        message::execute("", 0),
        message::sync(),
    ]
    .concat()
}

/// Sessions of several requests: cursors, portals that are read on, the session's own rows, settings, roles.
const SESSIONS: &[&[&str]] = &[
    &[
        "begin",
        "declare c scroll cursor for select auction_id, title from t order by title, 1",
        "fetch 3 from c",
        "move 2 in c",
        "fetch backward 2 from c",
        "declare d cursor for select count(*) from t a join t b on a.n = b.n",
        "fetch d",
        "select count(*) from t a join x b on a.n = b.id",
        "fetch last from c",
        "close c",
        "fetch c",
        "rollback",
    ],
    &[
        "declare h cursor with hold for select n, count(*) from t group by n order by n",
        "fetch 1 from h",
        "begin",
        "fetch 1 from h",
        "rollback",
        "fetch 1 from h",
        "close h",
        "fetch h",
    ],
    &[
        "begin",
        "declare h cursor with hold for select 1 / (k - 1) from (select auction_id as k from t order by 1 desc offset 0) s",
        "fetch 1 from h",
        "commit",
        "select 1",
    ],
    &[
        "begin",
        "savepoint s",
        "declare c cursor for select distinct n from t order by 1",
        "fetch c",
        "rollback to s",
        "fetch c",
        "rollback",
    ],
    &["declare c cursor for select distinct n from t"],
    &[
        "begin",
        "declare c cursor for select distinct n from t order by 1",
        "fetch all from c",
        "close all",
        "fetch c",
        "rollback",
    ],
    &[
        "begin",
        "truncate x",
        "insert into t values (100, 3, 'new')",
        "insert into home values (3, 'three')",
        "select t.auction_id, h.label from t join home h on h.id = t.n order by 1",
        "select count(*) from x a join x b on a.id = b.id",
        "select * from mixed_view order by n",
        "rollback",
        "select t.auction_id, h.label from t join home h on h.id = t.n order by 1",
    ],
    &[
        "set timezone = 'Asia/Tokyo'",
        "set datestyle = 'German'",
        "select at, n from t order by n, auction_id",
        "select max(at) from t",
        "begin",
        "set local timezone = 'America/New_York'",
        "select max(at), count(distinct n) from t",
        "rollback",
        "set search_path = pg_catalog",
        "select count(distinct n) from public.t",
        "select count(distinct n) from t",
        "reset all",
    ],
    &[
        "begin",
        "select count(distinct 1 / (n - n)) from t",
        "select 1",
        "rollback",
        "select count(distinct n) from t",
    ],
    &["select count(distinct n) from t; select max(n) from t; select 1 / 0; select 2"],
    &[
        "copy (select n, count(*) from t group by n order by n) to stdout",
        "copy (select distinct n from t order by 1) to stdout (format csv, header)",
    ],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_go_on_as_with_one_postgresql() {
    let mut both = Beside::start(SET_UP).await;
    for side in both.sides() {
        side.rows(ROWS).expect("the rows");
    }
    let mut wrong = String::new();
    for session in SESSIONS {
        for sql in *session {
            let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &message::query(sql), 1));
            if ours != theirs {
                wrong.push_str(&format!("{session:?}: {sql}\n  ours   {ours}\n  theirs {theirs}\n"));
            }
        }
        both.anew();
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// Values of the user's own types travel as texts, whatever the settings say of these.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn texts_are_exact_under_any_settings() {
    let mut both = Beside::start(&[
        "create type odd as (i interval, f float8, g real, at timestamptz, d date)",
        "create domain days as interval",
        "create table t (auction_id bigint primary key, o odd, os odd[], d days, n int)",
        "insert into t values (1, '(\"-1 days +02:00:00\",0.1,0.1,\"2024-02-03 04:05:06.789+09\",2024-02-03)', null, '1 mon -3 days', 1)",
        "insert into t values (2, '(\"-2 years 3 mons -04:00:00\",1e-300,3.4028235e38,\"0044-02-03 04:05:06+00 BC\",-infinity)', '{}', '-1 days 02:00', 1)",
        r#"insert into t values (3, '(,0.30000000000000004,,,)', '{"(\"1 day -00:00:01\",3.141592653589793,1.1,,10000-03-04)"}', '-1 mon', 2)"#,
        "insert into t values (4, null, null, '-00:00:01', 2)",
    ])
    .await;
    let queries = [
        "select auction_id, o, os, d from t group by auction_id order by 1",
        "select (o).i - d, (o).f * 3, (o).g::text, (o).at - timestamptz '2000-01-01', (o).d + 1 from t group by auction_id order by auction_id",
        "select count(distinct o), count(distinct d), max(d), sum((o).f) from t where d > '-1 2:00'",
        "select a.auction_id, b.auction_id, a.o = b.o from t a join t b on a.n = b.n order by 1, 2",
    ];
    let mut wrong = String::new();
    for settings in [
        "set datestyle = 'SQL, DMY'; set intervalstyle = sql_standard; set extra_float_digits = 0",
        "set datestyle = 'German'; set intervalstyle = iso_8601; set extra_float_digits = -15",
        "set datestyle = 'Postgres, MDY'; set intervalstyle = postgres_verbose",
        "begin; set local intervalstyle = sql_standard; set datestyle = 'Postgres'; set local extra_float_digits = -3",
        "set intervalstyle = sql_standard; begin; update t set n = n",
    ] {
        both.anew();
        let shows = [
            "show datestyle",
            "show intervalstyle",
            "show extra_float_digits",
            "select d, (o).f from t where auction_id = 1",
        ];
        let all = [&[settings][..], &queries, &shows, &["commit"], &shows].concat();
        for sql in all {
            for by_portal in [false, true] {
                let bytes = if by_portal && sql.starts_with("select") {
                    extended(sql, false)
                } else {
                    message::query(sql)
                };
                let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &bytes, 1));
                if ours != theirs {
                    wrong.push_str(&format!("{settings}: {sql}\n  ours   {ours}\n  theirs {theirs}\n"));
                }
                if sql == settings {
                    break;
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

/// PREPARE in SQL over queries of every plan, and writes.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_in_sql_every_plan_is_executed() {
    let mut both = Beside::start(SET_UP).await;
    for side in both.sides() {
        side.rows(ROWS).expect("the rows");
    }
    let mut wrong = String::new();
    for sql in [
        "prepare merged (int) as select auction_id, title from t where n = $1 order by auction_id limit 3",
        "prepare counted as select count(*), sum(n) from t",
        "prepare gathered (int, text) as select n, count(*), max(title) from t where n > $1 and title <> $2 group by n order by n",
        "prepare joined (bigint) as select a.auction_id, h.label from t a join home h on h.id = a.n where a.auction_id < $1 order by 1",
        "prepare viewed as select * from mixed_view order by n",
        "prepare written (int, int) as update t set n = n + $1 where n = $2 returning n",
        "prepare removed (text) as delete from t where title like $1",
        "execute merged (1)",
        "execute merged (1 + 1)",
        "execute counted",
        "execute gathered (0, 'b')",
        "execute gathered (1, null)",
        "execute joined (7)",
        "execute viewed",
        "begin",
        "execute written (10, 2)",
        "execute removed ('c%')",
        "execute gathered (0, '')",
        "execute joined (100)",
        "rollback",
        "execute counted",
        "execute gathered",
        "deallocate merged",
        "execute merged (1)",
        "deallocate all",
        "execute counted",
    ] {
        for by_portal in [false, true] {
            if by_portal && (!sql.starts_with("execute") || sql == "execute gathered") {
                continue;
            }
            let bytes = if by_portal { extended(sql, false) } else { message::query(sql) };
            let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &bytes, 1));
            if ours != theirs {
                wrong.push_str(&format!("{by_portal} {sql}\n  ours   {ours}\n  theirs {theirs}\n"));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_portal_is_read_so_many_rows_at_a_time() {
    let mut both = Beside::start(SET_UP).await;
    let sql = "select auction_id, count(*) over () from t order by title nulls last, 1";
    let portal = |rows| [message::execute("p", rows), message::sync()].concat();
    let begun = [
        message::query("begin"),
        [message::parse("", sql, &[]), message::bind("p", "", &[], &[]), message::describe(b'P', "p")]
            .concat(),
    ];
    let requests = [
        &begun[0][..],
        &[&begun[1][..], &portal(3)].concat(),
        &portal(0),
        &portal(0),
        &message::query("commit"),
    ];
    for bytes in requests {
        let [ours, theirs] = both.sides().map(|side| said_but_settings(side, bytes, 1));
        assert_eq!(ours, theirs);
    }
}

/// Parameters of a query that reads several tables: each of them is sent what its own conditions need.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_reach_the_tables_that_they_are_compared_with() {
    let mut both = Beside::start(SET_UP).await;
    for side in both.sides() {
        side.rows(ROWS).expect("the rows");
    }
    let sql = "select a.auction_id, b.id, $4::text from t a join x b on b.id = a.n \
        where a.n = any($1) and b.id >= $2 and a.title <> $3 and a.auction_id in ($5, 6, 10, 1) order by 1, 2, b.auction_id";
    let five = 5_i64.to_be_bytes();
    let text = |text: &'static str| Value::Text(text.as_bytes().to_vec());
    let values: &[[Value; 5]] = &[
        [text("{1,2,3}"), text("1"), text("b"), Value::Null, text("5")],
        [text("{1,2}"), text("0"), text(""), text("it's"), Value::Binary(five.to_vec())],
        [Value::Null, text("1"), text("b"), Value::Null, text("5")],
    ];
    for types in [&[][..], &[1007, 23, 25, 25, 20]] {
        for values in values {
            let bytes = [
                message::parse("", sql, types),
                message::bind("", "", values, &[]),
                message::describe(b'P', ""),
                message::execute("", 0),
                message::sync(),
            ]
            .concat();
            let [ours, theirs] = both.sides().map(|side| said_but_settings(side, &bytes, 1));
            assert_eq!(ours, theirs, "{types:?} {values:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_09_rows_beyond_the_limit_are_not_gathered() {
    let cluster =
        Cluster::builder().shards(2).config_extra("[limits]\ncombine_max_bytes = \"8KiB\"").start().await;
    let mut session = tests::wire::Wire::login(&cluster.login()).expect("login");
    for sql in [
        "create table t (auction_id bigint primary key, n int, wide text)",
        "insert into t (auction_id, n) select g, g % 4 from generate_series(1, 100) g",
    ] {
        session.rows(sql).expect(sql);
    }
    let narrow = "select n, count(*) from t group by n order by n";
    assert_eq!(session.rows(narrow).expect("little").len(), 4);
    for sql in [
        "begin",
        "update t set wide = repeat('x', 200) where auction_id in (1, 2, 3, 4, 5, 6, 7, 8)",
        "commit",
    ] {
        session.rows(sql).ok();
    }
    session
        .rows("insert into t (auction_id, n, wide) select g, g, repeat('x', 300) from generate_series(1001, 1100) g")
        .expect("more");
    let error = session.rows("select wide, count(*) from t group by wide").expect_err("too much").to_string();
    assert!(error.contains("53400") && error.contains("combine_max_bytes"), "{error}");
    // Only what the query needs counts.
    assert_eq!(session.rows(narrow).expect("little").len(), 104);
    assert_eq!(
        session.rows("select wide, count(*) from t where n = 1001 group by wide").expect("little").len(),
        1
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancel_request_reaches_what_is_computed_in_one_place() {
    let cluster = Cluster::builder().shards(2).start().await;
    let client = cluster.connect().await;
    client.batch_execute("create table t (auction_id bigint primary key, n int)").await.expect("a table");
    client.batch_execute("insert into t values (1, 1), (2, 2), (3, 1)").await.expect("rows");
    let (token, slow) =
        (client.cancel_token(), "select count(distinct n), (select 1 from pg_sleep(60)) from t");
    let cancel = async {
        tokio::time::sleep(std::time::Duration::from_secs(1)).await;
        token.cancel_query(tokio_postgres::NoTls).await
    };
    let (answer, cancelled) = tokio::join!(client.query(slow, &[]), cancel);
    cancelled.expect("sent");
    let error = answer.expect_err("cancelled");
    assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::QUERY_CANCELED), "{error:?}");
    let row = client.query_one("select count(distinct n) from t", &[]).await.expect("the session goes on");
    assert_eq!(row.get::<_, i64>(0), 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn plans_and_refusals_say_why() {
    let cluster = Cluster::builder().shards(2).start().await;
    let mut session = tests::wire::Wire::login(&cluster.login()).expect("login");
    session.rows("create table t (auction_id bigint primary key, n int)").expect("a table");
    session.rows("create sequence s").expect("a sequence");
    let plan = session.rows("explain (gavel) select count(distinct n) from t").expect("a plan");
    assert!(format!("{plan:?}").contains("rows are gathered"), "{plan:?}");
    for (sql, why) in [
        ("select count(distinct ctid) from t", "system column ctid"),
        ("select n from only t group by n", "ONLY"),
        ("select n, 't'::regclass from t group by n", "regclass"),
        ("select n from t group by n, nextval('s')", "sequence"),
    ] {
        let error = session.rows(sql).expect_err(sql).to_string();
        assert!(error.contains("0A000") && error.contains(why), "{sql}: {error}");
    }
    let role = "create role plain login; revoke temporary on database auction from public";
    session.rows(role).expect("a role");
    session.rows("grant select on t to plain").expect("a grant");
    session.rows("set role plain").expect("the role");
    let error = session.rows("select count(distinct n) from t").expect_err("no temporary tables").to_string();
    assert!(error.contains("42501") && error.contains("temporary"), "{error}");
}
