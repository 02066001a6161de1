//! PREPARE, EXECUTE and EXPLAIN EXECUTE in SQL, against one PostgreSQL.

use tests::wire_message as message;

use crate::beside::{Beside, said};

const SET_UP: &[&str] = &[
    "create table t (auction_id bigint, k bigint, v text)",
    "create table categories (category_id int primary key, name text)",
    "create table notes (note_id int primary key, text text)",
    "insert into t values (1, 1, 'a'), (2, 3, 'b'), (3, 5, 'c'), (4, 7, 'd')",
];

/// What is sent one after the other.
const TEXTS: &[&str] = &[
    // One name, one statement, whatever the two are about.
    "prepare p1(bigint) as select * from t where auction_id = $1",
    "prepare p1 as select 1",
    "prepare p1 as select * from notes",
    "prepare p1 as insert into categories values ($1, $2)",
    "select 1; prepare p1 as select 1",
    "execute p1(2)",
    "deallocate p1",
    "execute p1",
    "prepare p1 as select 1",
    "prepare p1(bigint) as select * from t where auction_id = $1",
    "execute p1",
    "deallocate p1",
    "execute p1",
    "prepare p1(bigint) as select k from t where auction_id = $1",
    "execute p1(3)",
    "prepare q1 as select 1; deallocate q1",
    "prepare q1(bigint) as select k from t where auction_id = $1",
    "execute q1(4)",
    "deallocate all",
    "execute q1(4)",
    // Arguments are cast as in an assignment.
    "prepare p5(int) as select v, k from t where auction_id = $1",
    "execute p5(2.4)",
    "execute p5(2.5::float8)",
    "execute p5('2'::text)",
    "execute p5(array[2])",
    "execute p5((select 2))",
    "execute p5(1 + 1)",
    "execute p5('2')",
    "execute p5(' 2 ')",
    "execute p5('x')",
    "execute p5(99999999999)",
    "execute p5(null)",
    "execute p5(-2)",
    "execute p5",
    "execute p5(2, 3)",
    "prepare p12(bool) as select v from t where auction_id = 2 and $1",
    "execute p12(1)",
    "execute p12(true)",
    "execute p12('yes')",
    "prepare p2 as select * from t where auction_id = $1 and k = $2",
    "execute p2(2)",
    "execute p2(2, 3)",
    "prepare p19(bigint) as delete from t where auction_id = $1",
    "execute p19(1.5)",
    "execute p5(2)",
    "prepare p20(date, numeric(4, 1)) as select $1, $2 from t where auction_id = 3",
    "execute p20('2024-02-03'::timestamp, 12.34)",
    "execute p20(1, 2)",
    // Errors are where they are in the text.
    "prepare bad as select * from t where auction_id = $1 and nosuch",
    "prepare   bad(bigint)   as select ä from t where auction_id = $1",
    "prepare bad as select 1 from t where auction_id = $1",
    "execute bad(3)",
    // Reference tables.
    "prepare r1 as insert into categories values ($1, $2)",
    "execute r1(1, 'one')",
    "execute r1(2.2, 'two')",
    "execute r1(1, 'again')",
    "prepare r2(int) as update categories set name = name || '!' where category_id = $1",
    "execute r2(2)",
    "select name from categories where category_id = 2",
    "prepare p6(int) as select v from t where auction_id = $1",
    "explain (costs off) execute p6(3)",
    "explain analyze execute p6('x')",
    "explain (costs off) execute p5(3, 4)",
    "explain (costs off) execute nosuch(3)",
    "begin",
    "execute p5(3)",
    "execute p5('x'::text)",
    "execute p5(3)",
    "rollback",
];

/// A session of the proxy and one of a plain server, and where their answers differ.
struct Both {
    beside: Beside,
    different: Vec<String>,
}

impl Both {
    async fn start() -> Self {
        Self { beside: Beside::start(SET_UP).await, different: Vec::new() }
    }

    /// Both get the bytes; what they answer is noted where it differs.
    fn send(&mut self, what: &str, bytes: &[u8]) {
        // Where an argument of EXECUTE is wrong is not told.
        let told = |answer: String| match what.contains("execute ") {
            true => answer.split(" at ").next().unwrap_or_default().to_owned(),
            false => answer,
        };
        let [ours, theirs] = self.beside.sides().map(|side| told(said(side, bytes)));
        if ours != theirs {
            self.different.push(format!("{what}\n  proxy:      {ours}\n  PostgreSQL: {theirs}"));
        }
    }
}

impl Drop for Both {
    fn drop(&mut self) {
        assert!(std::thread::panicking() || self.different.is_empty(), "{}", self.different.join("\n"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn prepared_in_sql_as_in_postgresql() {
    let mut both = Both::start().await;
    for text in TEXTS {
        both.send(text, &message::query(text));
    }
    let names = "select string_agg(name, ',' order by category_id) from categories";
    let of_each = both.beside.cluster.on_each_primary(names).await;
    assert_eq!(of_each, vec![vec!["one,two!"]; 3], "the same on every shard");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_of_parse_are_names_of_prepare() {
    let mut both = Both::start().await;
    let prepare = "prepare s1 as select 1";
    for parsed in ["select 1", "select 2 from t where auction_id = $1"] {
        let parse = [message::parse("s1", parsed, &[]), message::sync()].concat();
        for side in both.beside.sides() {
            let all = message::query("deallocate all");
            assert!(!said(side, &all).starts_with("E ") && said(side, &parse).starts_with('1'), "{parsed}");
            assert!(said(side, &message::query(prepare)).starts_with("E 42P05"), "{parsed}");
            assert!(
                said(side, &all).contains("ALL") && said(side, &message::query(prepare)).contains("PREPARE"),
                "{parsed}"
            );
            assert!(said(side, &parse).starts_with("E 42P05"), "{parsed}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn types_and_numbers_of_parameters_are_complained_of_as_by_postgresql() {
    let mut both = Both::start().await;
    let create = "create table si (auction_id smallint, v int)";
    both.send(create, &message::query(create));
    let one = || message::Value::Text(b"1".to_vec());
    for sql in [
        "select *, $1 from si where auction_id = $1",
        "select *, $1::text from si where auction_id = $1",
        "select * from si where auction_id in ($1, 6.0)",
        "select * from si where auction_id in ($1, 6.0) and $2 is null",
    ] {
        let parse = message::parse("", sql, &[0, 0]);
        let bind = message::bind("", "", &[one(), message::Value::Null], &[]);
        both.send(sql, &[parse.clone(), message::sync()].concat());
        both.send(sql, &[parse, bind, message::execute("", 0), message::sync()].concat());
    }
    // A number of values that is not that of the parameters, of a statement that conns know by another name.
    let known = "select k from t where auction_id = $1";
    both.send(known, &[message::parse("known", known, &[]), message::sync()].concat());
    for values in [vec![], vec![one(), one()]] {
        let bind = message::bind("", "known", &values, &[]);
        both.send(known, &[bind, message::execute("", 0), message::sync()].concat());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_run_in_a_transaction_cannot_run_in_a_pipeline() {
    let mut both = Both::start().await;
    let vacuum = [message::step("select 1"), message::step("vacuum t"), message::sync()].concat();
    for side in both.beside.sides() {
        let answer = said(side, &vacuum);
        assert!(answer.contains("SELECT 1") && answer.contains("E 25001"), "{answer}");
        let alone = [message::step("vacuum t"), message::sync()].concat();
        assert!(said(side, &alone).contains("VACUUM |"));
    }
}
