//! 13 to 16: COPY, DDL, SQL that the parser rejects, the catalog.

use std::process::Command;

use shard_admin::local_cluster::Binaries;
use tests::cluster::first_column;
use tests::wire_message as message;

use super::house;
use crate::beside::said_but_settings;
use crate::clauses::Clauses;

const COPIED: &[&str] = &[
    "create table given (auction_id bigint primary key, a int default 7, b text, at timestamptz)",
    "create table part (id int, auction_id bigint, primary key (auction_id, id)) partition by hash (auction_id)",
    "create table part_0 partition of part for values with (modulus 2, remainder 0)",
    "create table part_1 partition of part for values with (modulus 2, remainder 1)",
    "create table categories (id int primary key, name text)",
    "create table home (id int primary key, label text)",
    "insert into given (auction_id, b) select g, 'start' from generate_series(1001, 1030) g",
];

/// COPY FROM, and its data.
const COPIES: &[(&str, &str)] = &[
    (
        "copy given from stdin",
        "1\t1\tplain\t2024-01-01\n2\t\\N\t\\N\t\\N\n3\t3\ttab\\tnew\\nline\\\\\t\\N\n\\.\n",
    ),
    ("copy given (b, auction_id) from stdin", "x\t4\n\\x41\\102\t5\n\t6\n"),
    ("copy given from stdin (delimiter '|', null 'none')", "7|1|none|none\n8|none|\\||none\n"),
    (
        "copy given from stdin with csv",
        "9,1,\"a, \"\"quoted\"\"\nline\",\n10,,,\n11,1,\"\",2024-05-05 10:00+02\n",
    ),
    (
        "copy given (auction_id, b) from stdin (format csv, header, quote '''', escape '\\', delimiter ';', null 'nil')",
        "auction_id;b\n12;'it\\'s; so'\n13;nil\n14;'nil'\n",
    ),
    ("copy given (auction_id, b) from stdin (format csv, header match)", "auction_id,b\n15,one\n16,two\n"),
    (
        "copy given (auction_id, a, b) from stdin (format csv, force_not_null (b), force_null (a))",
        "17,\"\",\n18,1,\"\"\n",
    ),
    ("copy given (auction_id) from stdin", "  19\n020\n'21'\n"),
    ("copy given (auction_id, b) from stdin where a = 7 and b <> 'out'", "22\tin\n23\tout\n24\tin\n"),
    ("copy part from stdin", "1\t1\n1\t2\n1\t3\n2\t1\n"),
    ("copy categories from stdin", "1\tart\n2\tbooks\n"),
    ("copy home from stdin", "1\there\n"),
    ("copy given from stdin", ""),
    // One bad row, on whatever shard, loads nothing anywhere.
    ("copy given (auction_id, a) from stdin", "31\t1\n32\t2\n33\tthree\n34\t4\n"),
    ("copy given (auction_id) from stdin", "41\n42\n43\n1001\n44\n"),
    ("copy given (auction_id, b) from stdin", "51\tx\n52\n53\ty\n"),
    ("copy given (auction_id, b) from stdin", "54\tx\ty\n"),
    ("copy given (auction_id) from stdin", "61\n\\N\n62\n"),
    ("copy given (auction_id) from stdin", "sixty\n"),
    ("copy given (auction_id, b) from stdin csv", "71,\"open\n72,x\n"),
    ("copy given (auction_id, b) from stdin (format csv, header match)", "auction_id,c\n81,one\n"),
    ("copy given (auction_id, nope) from stdin", ""),
    ("copy given (auction_id, at) from stdin", "91\t2024-01-01\n92\tnever\n"),
    ("copy given from stdin (on_error ignore)", "93\n"),
];

const COPIES_OUT: &[&str] = &[
    "copy given to stdout",
    "copy given (b, auction_id) to stdout",
    "copy given to stdout (format csv, header, null 'nil', force_quote *)",
    "copy given to stdout (format binary)",
    "copy given to stdout (header, delimiter ',')",
    "copy (select auction_id, upper(b) from given where a is not null) to stdout csv header",
    "copy (select b, count(*) from given group by b order by b) to stdout",
    "copy (select auction_id from given order by b desc nulls last, auction_id limit 7) to stdout (format csv, header)",
    "copy categories to stdout",
    "copy home to stdout csv header",
    "copy (select auction_id from given where auction_id = -1) to stdout csv header",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_13_copy() {
    let mut clauses = Clauses::start(COPIED, &["given"]).await;
    for (sql, data) in COPIES {
        clauses.copied(sql, data.as_bytes(), &["given", "part", "categories", "home"]);
    }
    for sql in COPIES_OUT {
        let theirs = clauses.copied(sql, b"", &[]);
        assert!(!theirs.failed(), "{sql}: {}", theirs.shown());
    }
    // What PostgreSQL writes in binary is read.
    let out = clauses.copied(
        "copy (select auction_id + 5000, a, b, at from given) to stdout (format binary)",
        b"",
        &[],
    );
    assert!(!clauses.copied("copy given from stdin (format binary)", out.copied(), &["given"]).failed());
    assert!(
        clauses.copied("copy given from stdin (format binary)", &out.copied()[..40], &["given"]).failed()
    );
    // CopyFail reaches every shard.
    let data: String = (6001..6040).map(|key| format!("{key}\t1\tx\t\\N\n")).collect();
    for around in [["", ""], ["begin", "rollback"]] {
        for (end, rows) in [(message::copy_fail("no more"), false), (message::copy_done(), true)] {
            let copy =
                [message::query("copy given from stdin"), message::copy_data(data.as_bytes()), end].concat();
            let [ours, theirs] = clauses.both.sides().map(|side| {
                let before = said_but_settings(side, &message::query(around[0]), 1);
                let told = said_but_settings(side, &copy, 1);
                let after = said_but_settings(
                    side,
                    &message::query("select count(*) from given where auction_id > 6000"),
                    1,
                );
                format!(
                    "{before}\n{told}\n{after}\n{}",
                    said_but_settings(side, &message::query(around[1]), 1)
                )
            });
            assert_eq!(ours, theirs, "{around:?} {rows}");
            clauses.look("CopyFail", &["given"]);
            clauses.told(&["delete from given where auction_id > 6000"], &["given"]);
        }
    }
    clauses.end();
}

/// Told one after the other, with what the catalog then says.
const DDL: &[&[&str]] = &[
    &[
        "create table made (auction_id bigint primary key, a int)",
        "insert into made values (1, 1), (2, 2), (3, 3)",
        "alter table made add column b text default 'b'",
        "select * from made order by 1",
        "create index made_a on made (a)",
        "comment on table made is 'x'",
    ],
    &[
        "begin",
        "alter table made rename a to z",
        "create index made_z on made (z)",
        "insert into made values (4, 4, 'd')",
        "rollback",
        "select * from made order by 1",
    ],
    &[
        "begin",
        "alter table made drop column b",
        "savepoint s",
        "drop table made",
        "rollback to s",
        "commit",
        "select * from made order by 1",
    ],
    &[
        "create index concurrently made_slow on made (a)",
        "create index concurrently made_slow on made (a)",
        "create index concurrently if not exists made_slow on made (a)",
        "reindex index concurrently made_slow",
        "drop index concurrently made_slow",
        "drop index concurrently made_slow",
    ],
    &["begin", "create index concurrently made_slow on made (a)", "rollback"],
    &["vacuum made", "vacuum (analyze) made", "analyze made", "begin", "vacuum made", "rollback"],
    &[
        "alter type mood add value 'glad' after 'ok'",
        "insert into lots (auction_id, m) values (800, 'glad')",
        "select max(m), count(*) from lots where m > 'ok'",
    ],
    &["begin", "alter type mood add value 'late'", "rollback", "select enum_range(null::mood)"],
    &[
        "create table made (auction_id bigint)",
        "create table if not exists made (auction_id bigint)",
        "drop table nothing",
        "drop table if exists nothing",
        "alter table made add column a int",
    ],
    &[
        "alter table made add constraint positive check (a > 0)",
        "insert into made values (9, -1)",
        "alter table made validate constraint positive",
        "alter table made drop constraint positive",
    ],
    &[
        "create table child (auction_id bigint references made, n int references categories (n), primary key (auction_id))",
        "insert into child values (1, 1), (77, 1)",
        "insert into child values (1, 1)",
        "delete from made where auction_id = 1",
        "drop table child",
    ],
    &[
        "alter table made alter column a type bigint",
        "alter table made alter column a set not null",
        "alter table made rename to remade",
        "select count(*) from remade",
        "alter table remade rename to made",
    ],
    &[
        "create view seen as select auction_id, a from made",
        "select * from seen where auction_id = 2",
        "drop table made",
        "drop view seen",
    ],
    &[
        "create schema other",
        "create table other.made (auction_id bigint primary key)",
        "insert into other.made values (5)",
        "set search_path = other, public",
        "select count(*) from made",
        "drop schema other cascade",
    ],
    &["truncate made", "select count(*) from made", "drop table made, bids", "select count(*) from bids"],
];

const CATALOG: &str = "(select relname, relkind, attname, format_type(atttypid, atttypmod), attnotnull, conname \
    from pg_class c join pg_attribute a on attrelid = c.oid and attnum > 0 left join pg_constraint on conrelid = c.oid \
    where relnamespace = 'public'::regnamespace) x";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_14_ddl_goes_everywhere() {
    let mut clauses = house().await;
    for session in DDL {
        clauses.told(session, &[CATALOG]);
        let catalogs =
            clauses.both.cluster.on_each_primary(&format!("select x::text from {CATALOG} order by 1")).await;
        assert!(catalogs.iter().all(|shard| shard == &catalogs[0]), "{session:?}");
    }
    // UNIQUE without the key, and foreign keys: `constraints`.
    clauses.end();
}

/// What stopped half-way is run again, and is then as it should be everywhere.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_14_what_runs_shard_by_shard_can_be_run_again() {
    let mut clauses = house().await;
    let create = "create index concurrently if not exists lots_n on lots (n)";
    let last = clauses.both.cluster.shard(2).primary.connect("auction").await.expect("the last shard");
    last.batch_execute("begin; lock table lots in access exclusive mode").await.expect("a lock");
    for side in clauses.both.sides().into_iter().take(1) {
        side.rows("set lock_timeout = '300ms'").expect("a setting");
        let error = side.rows(create).expect_err("it waits on the last shard").to_string();
        assert!(error.contains("55P03"), "{error}");
    }
    last.batch_execute("rollback").await.expect("unlocked");
    let made = "select indisvalid from pg_index where indexrelid = to_regclass('lots_n')";
    let states = clauses.both.cluster.on_each_primary(made).await;
    assert_eq!(states[..2], [["t"], ["t"]], "it stopped at the last shard: {states:?}");
    clauses.told(&["drop index concurrently if exists lots_n", create], &[]);
    assert_eq!(clauses.both.cluster.on_each_primary(made).await, [["t"], ["t"], ["t"]]);
}

/// The parser does not read these, or not as PostgreSQL does.
const UNREAD: &[&str] = &[
    "select count(*) from home*",
    "select id from home where label = 'th'\n'ree'",
    "select 1 from home* where id = 1",
    "select label from home* /* lots */ where id = 2 -- lots",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_15_sql_that_the_parser_rejects() {
    let mut clauses = house().await;
    clauses.answered(UNREAD);
    clauses.rejected(&["selec 1", "select from where", "select 1 +", "table"]);
    let client = clauses.both.cluster.connect().await;
    let unread = "select title from lots* where auction_id = 3";
    let told = |error: tokio_postgres::Error| {
        let error = error.as_db_error().expect("of the proxy").clone();
        format!("{} {} {}", error.code().code(), error.message(), error.detail().unwrap_or_default())
    };
    let refused = told(client.batch_execute(unread).await.expect_err("it names a sharded table"));
    assert!(refused.starts_with("0A000") && refused.contains("unexpected *"), "{refused}");
    // A hint places it, in a comment or as a setting; and so does a cluster of one shard.
    let hinted = format!("/* gavel: key=3 */ {unread}");
    let plain = first_column(&client, "select title from lots where auction_id = 3").await;
    assert_eq!(first_column(&client, &hinted).await, plain);
    client.batch_execute("set gavel.key = '3'").await.expect("a hint");
    assert_eq!(first_column(&client, unread).await, plain);
    client.batch_execute("reset gavel.key").await.expect("no hint");
    assert_eq!(first_column(&client, "/* gavel: shard=1 */ select count(*) from lots*").await.len(), 1);
    let one = tests::cluster::Cluster::builder().shards(1).start().await;
    let alone = one.connect().await;
    alone
        .batch_execute("create table lots (auction_id bigint, title text); insert into lots values (3, 'x')")
        .await
        .expect("a table");
    assert_eq!(first_column(&alone, unread).await, ["x"]);
    clauses.end();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_15_deep_nesting_does_not_end_the_proxy() {
    let mut clauses = house().await;
    for depth in [10, 100, 1_000, 20_000] {
        let (open, close) = ("(".repeat(depth), ")".repeat(depth));
        let nots = "not ".repeat(depth);
        let cases = "case when true then ".repeat(depth) + "1" + &" end".repeat(depth);
        let selects = "(select ".repeat(depth) + "1" + &close;
        for sql in [
            format!("select {open}1{close}"),
            format!("select {open}n{close} from lots where auction_id = 3"),
            format!("select n from lots where {nots}true and auction_id = 3"),
            format!("select {cases}"),
            format!("select {selects}"),
            format!("select n from lots where auction_id = 3 and {}true", "1 = 1 and ".repeat(depth)),
            format!("select array{}1{}", "[".repeat(depth), "]".repeat(depth)),
            format!("select {open}"),
        ] {
            // PostgreSQL itself says 54001 to some; what matters is that an answer comes, and the next statement's too.
            let frames = clauses.both.ours.query(&sql).expect("an answer");
            assert_eq!(frames.last().map(|frame| frame.tag), Some(b'Z'), "depth {depth}");
        }
        assert_eq!(
            clauses.both.ours.rows("select count(*) from lots").expect("the proxy goes on"),
            [[Some("24".to_owned())]]
        );
    }
    clauses.both.cluster.allow_log("");
}

/// What psql says is the same, sequences and schemas of the cluster's own apart.
const PSQL: &[&str] = &[
    "\\d",
    "\\dt",
    "\\dt+ lots",
    "\\d lots",
    "\\d+ bids",
    "\\d bids_pkey",
    "\\di",
    "\\dv",
    "\\dT",
    "\\dT+ mood",
    "\\dD",
    "\\df",
    "\\dx",
    "\\du",
    "\\dp lots",
    "\\l auction",
    "\\db",
    "\\dC mood",
    "\\dc",
    "\\dO en-x-icu",
    "\\sf fee",
    "\\df+ fee",
    "\\sv seen",
    "\\dd",
    "\\drds",
    "\\z",
    "\\d nothing",
    "\\encoding",
    "\\conninfo",
    "select * from lots where auction_id = 3 \\gdesc",
    "\\dg",
    "\\dRp",
    "\\dy",
    "\\det",
    "\\dF english",
    "\\ddp",
    "\\dAc btree integer",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_16_psql_describes_what_there_is() {
    let mut clauses = house().await;
    for side in clauses.both.sides() {
        side.rows(
            "create function fee(numeric) returns numeric language sql immutable as 'select $1 * 0.05'",
        )
        .expect("a function");
        side.rows("create view seen as select auction_id, title from lots").expect("a view");
    }
    let psql = Binaries::find().expect("PostgreSQL").program("psql");
    let environments = clauses.both.environments();
    let mut wrong = String::new();
    for command in PSQL {
        let [ours, theirs] = environments.clone().map(|environment| {
            let output = Command::new(&psql)
                .args(["-X", "-c", command])
                .envs(environment.clone())
                .output()
                .expect("psql");
            let text = [output.stdout, output.stderr].concat();
            // Where one is connected to is not the same.
            String::from_utf8_lossy(&text).replace(&environment[1].1, "PORT")
        });
        if ours != theirs && !command.contains("conninfo") {
            wrong.push_str(&format!("{command}\n ours\n{ours}\n theirs\n{theirs}\n"));
        }
        assert!(!theirs.is_empty(), "{command}");
    }
    assert!(wrong.is_empty(), "{wrong}");
    clauses.end();
}
