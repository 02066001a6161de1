//! Statements of an auction house, from their text to their plan.

use expect_test::{Expect, expect};
use proptest::prelude::*;
use router_config::key::KeyValue;

use crate::route::explain::{of_plan, of_refusal};
use crate::route::plan;
use crate::route::plan::{SessionView, Target};
use crate::route::testing::{analysed_after, analysed_with, bind, schema, session, topology};
use crate::route::values::{BindParams, Values};

/// Plans every statement of `sql` over four shards, with these parameters in text format.
fn plans(sql: &str, params: &[&str], session: &SessionView<'_>) -> String {
    let analysed = analysed_with(sql, &schema());
    let body: Vec<_> = params.iter().map(|param| (0, Some(param.as_bytes()))).collect();
    let body = bind(&body);
    let params = BindParams::parse(&body, &[]).expect("well formed");
    let topology = topology(4);
    let mut out = String::new();
    for (index, statement) in analysed.statements().iter().enumerate() {
        let values = Values::of_text(sql.as_bytes(), &analysed, index).with_params(&params);
        let explanation = match plan(&topology, &statement.facts, &values, session) {
            Ok(plan) => of_plan(&topology, &plan, true),
            Err(refusal) => of_refusal(&refusal),
        };
        let range = analysed.range(index);
        out.push_str(&format!("{}\n", &sql[range]));
        let (role, reason) = (explanation.role.unwrap_or_default(), &explanation.reason);
        let shards = explanation.shards.join(" ").replace("shard-", "");
        match explanation.sqlstate {
            None => out.push_str(&format!("  → {} [{shards}] {role}: {reason}\n", explanation.plan)),
            Some(sqlstate) => {
                let detail = explanation.detail.map_or(String::new(), |detail| format!(" | {detail}"));
                out.push_str(&format!("  → {sqlstate} {reason}{detail}\n"));
            }
        }
        explanation.draw.iter().for_each(|draw| out.push_str(&format!("    draw {draw}\n")));
        for (shard, rows, text) in &explanation.parts {
            out.push_str(&format!("    {shard}, {rows} rows: {text}\n"));
        }
    }
    out
}

pub(super) fn check(sql: &str, params: &[&str], expected: &Expect) {
    expected.assert_eq(&plans(sql, params, &session()));
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of statements and their plans")]
fn reads() {
    check(
        "select * from auctions where auction_id = 1;
         select * from auctions where auction_id = '007'::int;
         select * from auctions where $1 = auction_id;
         select * from auctions where auction_id in (1, 2, 4);
         select * from auctions where auction_id = any('{1,4}');
         select * from auctions where auction_id = 7.5;
         select * from auctions where auction_id = null;
         select * from auctions;
         select * from auctions where title = 'x' or auction_id = 1;
         select * from auctions where not (auction_id = 1);
         select * from auctions where auction_id + 1 = 2;
         select * from auctions where auction_id = 1 order by title limit 3;
         select * from auctions order by title;
         select count(*) from bids;
         select count(*) from bids where auction_id = 2;
         select a.title, b.amount from auctions a join bids b using (auction_id) where a.auction_id = 2;
         select * from auctions a join bids b on a.auction_id = b.auction_id;
         select * from auctions a, bids b where a.auction_id = 1 and b.auction_id = 2;
         select * from bids join users using (user_id) where auction_id = 2;
         select * from bids, settings where auction_id = 1;
         select * from bids, settings where auction_id = 3;
         select * from users;
         select * from settings;
         select 1;
         select * from auctions where ends_at < now();
         select * from auctions where auction_id = 1 and ends_at < now();
         select * from bids where auction_id = 1 for update;
         select place_bid(1, 2.5);
         select pg_advisory_xact_lock(1);
         explain select * from bids where auction_id = 1;
         explain select * from bids;
         table bids",
        &["2"],
        &expect![[r#"
            select * from auctions where auction_id = 1
              → one shard [4] replica: one key, in slot 5958
            select * from auctions where auction_id = '007'::int
              → one shard [4] replica: one key, in slot 3071
            select * from auctions where $1 = auction_id
              → one shard [2] replica: one key, in slot 7414
            select * from auctions where auction_id in (1, 2, 4)
              → several shards [1 2 4] replica: 3 keys
            select * from auctions where auction_id = any('{1,4}')
              → several shards [1 4] replica: 2 keys
            select * from auctions where auction_id = 7.5
              → no shard holds a matching row [1] replica: no row can match
            select * from auctions where auction_id = null
              → no shard holds a matching row [1] replica: no row can match
            select * from auctions
              → several shards [1 2 3 4] replica: no condition on the shard key
            select * from auctions where title = 'x' or auction_id = 1
              → several shards [1 2 3 4] replica: no condition on the shard key
            select * from auctions where not (auction_id = 1)
              → several shards [1 2 3 4] replica: no condition on the shard key
            select * from auctions where auction_id + 1 = 2
              → several shards [1 2 3 4] replica: no condition on the shard key
            select * from auctions where auction_id = 1 order by title limit 3
              → one shard [4] replica: one key, in slot 5958
            select * from auctions order by title
              → 0A000 this query over several shards is not supported: ORDER BY
            select count(*) from bids
              → several shards [1 2 3 4] replica: no condition on the shard key
            select count(*) from bids where auction_id = 2
              → one shard [2] replica: one key, in slot 7414
            select a.title, b.amount from auctions a join bids b using (auction_id) where a.auction_id = 2
              → one shard [2] replica: one key, in slot 7414
            select * from auctions a join bids b on a.auction_id = b.auction_id
              → several shards [1 2 3 4] replica: no condition on the shard key
            select * from auctions a, bids b where a.auction_id = 1 and b.auction_id = 2
              → 0A000 the statement combines sharded tables whose rows may be on different shards
            select * from bids join users using (user_id) where auction_id = 2
              → one shard [2] replica: one key, in slot 7414
            select * from bids, settings where auction_id = 1
              → 0A000 the statement uses sharded tables together with public.settings | Unsharded tables are on shard "shard-1" only, and the rows of the key are elsewhere.
            select * from bids, settings where auction_id = 3
              → one shard [1] replica: one key, in slot 3991
            select * from users
              → any shard [1 2 3 4] replica: reference tables only
            select * from settings
              → one shard [1] replica: unsharded table, catalog or state of the home shard
            select 1
              → any shard [1 2 3 4] replica: no table
            select * from auctions where ends_at < now()
              → several shards [1 2 3 4] replica: no condition on the shard key
            select * from auctions where auction_id = 1 and ends_at < now()
              → one shard [4] replica: one key, in slot 5958
            select * from bids where auction_id = 1 for update
              → one shard [4] primary: one key, in slot 5958
            select place_bid(1, 2.5)
              → one shard [4] primary: declared key argument of the function
            select pg_advisory_xact_lock(1)
              → one shard [1] primary: unsharded table, catalog or state of the home shard
            explain select * from bids where auction_id = 1
              → one shard [4] replica: one key, in slot 5958
            explain select * from bids
              → 0A000 EXPLAIN over several shards is not supported | No single shard holds all of the rows that it may touch.
            table bids
              → several shards [1 2 3 4] replica: no condition on the shard key
        "#]],
    );
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of statements and their plans")]
fn writes() {
    check(
        "update auctions set title = 'x' where auction_id = 1;
         update auctions set title = 'x';
         update auctions set title = 'x' where auction_id in (1, 2);
         update auctions set auction_id = 2 where auction_id = 1;
         update auctions set title = 'x' where auction_id = null;
         delete from bids where auction_id = $1;
         delete from bids;
         update users set name = 'x' where user_id = 1;
         insert into users values (1, 'x');
         insert into settings values ('a', 'b');
         insert into bids (auction_id, amount) select 1, max(amount) + 1 from bids where auction_id = 1;
         insert into bids (auction_id, amount) select 2, max(amount) + 1 from bids where auction_id = 1;
         insert into bids (auction_id, amount) select auction_id, 0 from auctions where auction_id = 1;
         insert into bids (auction_id, amount) select auction_id, 0 from auctions;
         insert into bids (auction_id, amount) select null, 1;
         insert into bids (auction_id, amount) select 7.5, 1;
         insert into bids (auction_id, amount) select 7.0, 1;
         with gone as (delete from bids where auction_id = 1 returning *) select * from gone;
         with gone as (delete from bids returning *) select count(*) from gone;
         select place_bid(auction_id, 1) from auctions;
         truncate bids;
         create table t (a int);
         create index concurrently on bids (amount);
         create table t as select * from bids;
         lock table bids;
         prepare transaction 'x';
         prepare p as select * from bids where auction_id = $1;
         prepare p as select * from bids where auction_id = 1;
         execute p;
         declare c cursor for select * from bids;
         listen news;
         set timezone to 'UTC'",
        &["2"],
        &expect![[r#"
            update auctions set title = 'x' where auction_id = 1
              → one shard [4] primary: one key, in slot 5958
            update auctions set title = 'x'
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            update auctions set title = 'x' where auction_id in (1, 2)
              → several shards, in one transaction [2 4] primary: 2 keys
            update auctions set auction_id = 2 where auction_id = 1
              → rows move to another shard, in one transaction [2 4] primary: one key, in slot 5958
            update auctions set title = 'x' where auction_id = null
              → no shard holds a matching row [1] primary: no row can match
            delete from bids where auction_id = $1
              → one shard [2] primary: one key, in slot 7414
            delete from bids
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            update users set name = 'x' where user_id = 1
              → every shard, in one transaction [1 2 3 4] primary: reference tables only
            insert into users values (1, 'x')
              → every shard, in one transaction [1 2 3 4] primary: reference tables only
            insert into settings values ('a', 'b')
              → one shard [1] primary: unsharded table, catalog or state of the home shard
            insert into bids (auction_id, amount) select 1, max(amount) + 1 from bids where auction_id = 1
              → one shard [4] primary: one key, in slot 5958
            insert into bids (auction_id, amount) select 2, max(amount) + 1 from bids where auction_id = 1
              → 0A000 INSERT ... SELECT into a sharded table is supported only where every row stays on the shard it is read from
            insert into bids (auction_id, amount) select auction_id, 0 from auctions where auction_id = 1
              → one shard [4] primary: one key, in slot 5958
            insert into bids (auction_id, amount) select auction_id, 0 from auctions
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            insert into bids (auction_id, amount) select null, 1
              → 0A000 INSERT ... SELECT into a sharded table is supported only where every row stays on the shard it is read from | A condition on the shard key could not be used: a row might be inserted whose key matches no condition.
            insert into bids (auction_id, amount) select 7.5, 1
              → 0A000 INSERT ... SELECT into a sharded table is supported only where every row stays on the shard it is read from | A condition on the shard key could not be used: a row might be inserted whose key matches no condition.
            insert into bids (auction_id, amount) select 7.0, 1
              → one shard [4] primary: one key, in slot 3071
            with gone as (delete from bids where auction_id = 1 returning *) select * from gone
              → one shard [4] primary: one key, in slot 5958
            with gone as (delete from bids returning *) select count(*) from gone
              → 0A000 a query that writes over several shards is not supported | No single shard holds all of the rows that it may touch.
            select place_bid(auction_id, 1) from auctions
              → 0A000 a VOLATILE function over several shards is not supported | place_bid() may write: it is VOLATILE, which is the default, or declared with a key_argument.
            truncate bids
              → every shard, in one transaction [1 2 3 4] primary: DDL
            create table t (a int)
              → every shard, in one transaction [1 2 3 4] primary: DDL
            create index concurrently on bids (amount)
              → every shard, one by one, outside of a transaction [1 2 3 4] primary: DDL
            create table t as select * from bids
              → 0A000 this DDL cannot be run on every shard alike | CREATE TABLE AS reads the sharded table public.bids
            lock table bids
              → one shard [1] primary: no condition on the shard key
            prepare transaction 'x'
              → 0A000 prepared transactions of the application's own are not supported on a cluster of several shards
            prepare p as select * from bids where auction_id = $1
              → 0A000 PREPARE in SQL over several shards is not supported | No single shard holds all of the rows that it may touch.
            prepare p as select * from bids where auction_id = 1
              → one shard [4] primary: one key, in slot 5958
            execute p
              → one shard [1] primary: unsharded table, catalog or state of the home shard
            declare c cursor for select * from bids
              → several shards [1 2 3 4] replica: no condition on the shard key
            listen news
              → one shard [1] primary: unsharded table, catalog or state of the home shard
            set timezone to 'UTC'
              → any shard [1 2 3 4] replica: no table
        "#]],
    );
}

#[test]
#[allow(clippy::too_many_lines, reason = "a table of statements and their plans")]
fn inserts() {
    check(
        "insert into auctions (title) values ('x') returning auction_id;
         insert into auctions values (default, 'x');
         insert into auctions (title) values ('x'), ('y');
         insert into auctions (auction_id, title) values (1, 'x'), (4, 'y');
         insert into auctions (auction_id, title) values (1, 'x'), (2, 'y'), (default, 'z'), ($1, $2) on conflict do nothing;
         insert into auctions (auction_id, title) values (1, 'x'), (2, $1) on conflict (auction_id) do update set title = excluded.title || $2;
         insert into auctions (auction_id, title) values (null, 'x');
         insert into auctions (auction_id, title) values (7.5, 'x');
         insert into auctions (auction_id, title) values (1 + 1, 'x');
         insert into auctions (auction_id, title) values ('x', 'x');
         insert into auctions (auction_id, ends_at) values (1, now()), (2, now());
         insert into auctions (auction_id, ends_at) values (1, now());
         insert into bids (auction_id, amount) values (1, random()), (2, random());
         insert into bids (amount) values (1);
         insert into bids values (default, 1), (default, 2);
         explain insert into auctions (title) values ('x')",
        &["3", "z"],
        &expect![[r#"
            insert into auctions (title) values ('x') returning auction_id
              → keys are drawn first, then each row goes to its shard [] primary: 1 rows of VALUES
                draw SELECT (nextval('auctions_auction_id_seq'::regclass))::text
            insert into auctions values (default, 'x')
              → keys are drawn first, then each row goes to its shard [] primary: 1 rows of VALUES
                draw SELECT (nextval('auctions_auction_id_seq'::regclass))::text
            insert into auctions (title) values ('x'), ('y')
              → keys are drawn first, then each row goes to its shard [] primary: 2 rows of VALUES
                draw SELECT (nextval('auctions_auction_id_seq'::regclass))::text FROM pg_catalog.generate_series(1, 2)
            insert into auctions (auction_id, title) values (1, 'x'), (4, 'y')
              → split by row [1 4] primary: 2 rows of VALUES
                shard-1, 1 rows: insert into auctions (auction_id, title) values (4, 'y')
                shard-4, 1 rows: insert into auctions (auction_id, title) values (1, 'x')
            insert into auctions (auction_id, title) values (1, 'x'), (2, 'y'), (default, 'z'), ($1, $2) on conflict do nothing
              → keys are drawn first, then each row goes to its shard [] primary: 4 rows of VALUES
                draw SELECT (nextval('auctions_auction_id_seq'::regclass))::text
            insert into auctions (auction_id, title) values (1, 'x'), (2, $1) on conflict (auction_id) do update set title = excluded.title || $2
              → split by row [2 4] primary: 2 rows of VALUES
                shard-2, 1 rows: insert into auctions (auction_id, title) values (2, $1) on conflict (auction_id) do update set title = excluded.title || $2
                shard-4, 1 rows: insert into auctions (auction_id, title) values (1, 'x') on conflict (auction_id) do update set title = excluded.title || $1
            insert into auctions (auction_id, title) values (null, 'x')
              → 23502 null value in the shard key column of relation "auctions" violates not-null constraint
            insert into auctions (auction_id, title) values (7.5, 'x')
              → 0A000 the shard key of row 1 of the INSERT cannot be determined | the value is rounded to the key column's type or out of its range
            insert into auctions (auction_id, title) values (1 + 1, 'x')
              → 0A000 the shard key of row 1 of the INSERT cannot be determined | the key is computed by an expression
            insert into auctions (auction_id, title) values ('x', 'x')
              → 22P02 invalid input syntax for type bigint: "x"
            insert into auctions (auction_id, ends_at) values (1, now()), (2, now())
              → split by row [2 4] primary: 2 rows of VALUES
                shard-2, 1 rows: insert into auctions (auction_id, ends_at) values (2, now())
                shard-4, 1 rows: insert into auctions (auction_id, ends_at) values (1, now())
            insert into auctions (auction_id, ends_at) values (1, now())
              → one shard [4] primary: one key, in slot 5958
            insert into bids (auction_id, amount) values (1, random()), (2, random())
              → split by row [2 4] primary: 2 rows of VALUES
                shard-2, 1 rows: insert into bids (auction_id, amount) values (2, random())
                shard-4, 1 rows: insert into bids (auction_id, amount) values (1, random())
            insert into bids (amount) values (1)
              → 23502 null value in the shard key column of relation "bids" violates not-null constraint
            insert into bids values (default, 1), (default, 2)
              → split by row [2 4] primary: 2 rows of VALUES
                shard-2, 1 rows: insert into bids values (default, 2)
                shard-4, 1 rows: insert into bids values (default, 1)
            explain insert into auctions (title) values ('x')
              → one shard [1] replica: 1 rows of VALUES
        "#]],
    );
}

#[test]
fn copies() {
    check(
        "copy bids from stdin;
         copy bids (auction_id, amount) from stdin (format csv, header);
         copy bids (amount) from stdin;
         copy users from stdin;
         copy settings from stdin;
         copy bids to stdout;
         copy (select * from bids where auction_id = 1) to stdout;
         copy (select count(*) from bids) to stdout",
        &[],
        &expect![[r#"
            copy bids from stdin
              → split by row as it streams [1 2 3 4] primary: no condition on the shard key
            copy bids (auction_id, amount) from stdin (format csv, header)
              → split by row as it streams [1 2 3 4] primary: no condition on the shard key
            copy bids (amount) from stdin
              → 0A000 COPY FROM that leaves the shard key to its default is not supported
            copy users from stdin
              → all rows to every shard [1 2 3 4] primary: reference tables only
            copy settings from stdin
              → one shard [1] primary: unsharded table, catalog or state of the home shard
            copy bids to stdout
              → several shards [1 2 3 4] replica: no condition on the shard key
            copy (select * from bids where auction_id = 1) to stdout
              → one shard [4] replica: one key, in slot 5958
            copy (select count(*) from bids) to stdout
              → 0A000 this query over several shards is not supported: aggregates
        "#]],
    );
}

#[test]
fn literals_of_other_lengths_share_facts() {
    let first = "insert into bids (auction_id, amount) values (1, 2), (2, 3)";
    let second = "select 'x'; /* gavel: shard=2 */ insert into bids (auction_id, amount) values (1000001, 2), (2, 3.25)";
    let third =
        "select 'xyz'; /* gavel: */ insert into bids (auction_id, amount) values (1, 20), (1000002, 3) ";
    let texts = [first, second, third];
    let analysed = analysed_after(&texts, &schema());
    let values = Values::of_text(third.as_bytes(), &analysed, 1);
    let target =
        plan(&topology(4), &analysed.statements()[1].facts, &values, &session()).expect("placed").target;
    let Target::Split(parts) = target else { panic!("{target:?}") };
    let shown = parts.iter().map(|part| format!("{}\n", part.text)).collect::<String>();
    expect![[r#"
        insert into bids (auction_id, amount) values (1000002, 3)
        insert into bids (auction_id, amount) values (1, 20)
    "#]]
    .assert_eq(&shown);
}

#[test]
fn explaining_is_planning() {
    for sql in
        ["select * from bids where auction_id = 2", "insert into auctions (auction_id) values (1), (2)"]
    {
        let plan = |sql: &str| plans(sql, &[], &session()).lines().nth(1).map(str::to_owned);
        assert_eq!(plan(&format!("explain (gavel) {sql}")), plan(sql));
    }
}

/// A condition over one row of `auctions`, with what PostgreSQL makes of it.
#[derive(Debug, Clone)]
enum Condition {
    KeyIs(i64),
    KeyIn(Vec<i64>),
    KeyAny(Vec<i64>),
    KeyAbove(i64),
    KeyPlusOneIs(i64),
    TitleIs(i64),
    Not(Box<Condition>),
    And(Box<Condition>, Box<Condition>),
    Or(Box<Condition>, Box<Condition>),
}

impl Condition {
    fn sql(&self) -> String {
        let list = |keys: &[i64]| keys.iter().map(i64::to_string).collect::<Vec<_>>().join(", ");
        match self {
            Self::KeyIs(key) => format!("auction_id = {key}"),
            Self::KeyIn(keys) => format!("auction_id in ({})", list(keys)),
            Self::KeyAny(keys) => format!("a.auction_id = any('{{{}}}')", list(keys)),
            Self::KeyAbove(key) => format!("auction_id > {key}"),
            Self::KeyPlusOneIs(key) => format!("auction_id + 1 = {key}"),
            Self::TitleIs(title) => format!("title = '{title}'"),
            Self::Not(inner) => format!("not ({})", inner.sql()),
            Self::And(a, b) => format!("({} and {})", a.sql(), b.sql()),
            Self::Or(a, b) => format!("({} or {})", a.sql(), b.sql()),
        }
    }

    fn holds(&self, key: i64, title: i64) -> bool {
        match self {
            Self::KeyIs(wanted) => key == *wanted,
            Self::KeyIn(keys) | Self::KeyAny(keys) => keys.contains(&key),
            Self::KeyAbove(low) => key > *low,
            Self::KeyPlusOneIs(wanted) => key + 1 == *wanted,
            Self::TitleIs(wanted) => title == *wanted,
            Self::Not(inner) => !inner.holds(key, title),
            Self::And(a, b) => a.holds(key, title) && b.holds(key, title),
            Self::Or(a, b) => a.holds(key, title) || b.holds(key, title),
        }
    }
}

fn condition() -> impl Strategy<Value = Condition> {
    let keys = || proptest::collection::vec(0..20_i64, 1..4);
    let leaf = prop_oneof![
        4 => (0..20_i64).prop_map(Condition::KeyIs),
        2 => keys().prop_map(Condition::KeyIn),
        2 => keys().prop_map(Condition::KeyAny),
        1 => (0..20_i64).prop_map(Condition::KeyAbove),
        1 => (0..20_i64).prop_map(Condition::KeyPlusOneIs),
        1 => (0..3_i64).prop_map(Condition::TitleIs),
    ];
    leaf.prop_recursive(3, 8, 2, |inner| {
        let pair = (inner.clone(), inner.clone());
        prop_oneof![
            inner.prop_map(|inner| Condition::Not(Box::new(inner))),
            pair.clone().prop_map(|(a, b)| Condition::And(Box::new(a), Box::new(b))),
            pair.prop_map(|(a, b)| Condition::Or(Box::new(a), Box::new(b))),
        ]
    })
}

proptest! {
    #[test]
    fn no_matching_row_is_left_out(condition in condition()) {
        let sql = format!("select * from auctions a where {}", condition.sql());
        let analysed = analysed_with(&sql, &schema());
        let values = Values::of_text(sql.as_bytes(), &analysed, 0);
        let facts = &analysed.statements()[0].facts;
        let topology = topology(4);
        let asked = match plan(&topology, facts, &values, &session()).expect("can be placed").target {
            Target::One(shard) => vec![shard],
            Target::Concat(shards) => shards.to_vec(),
            Target::Nowhere(_) => Vec::new(),
            other => return Err(TestCaseError::fail(format!("{other:?}"))),
        };
        for key in 0..20 {
            let owner = topology.owner(&KeyValue::Int(key));
            let matches = (0..3).any(|title| condition.holds(key, title));
            prop_assert!(!matches || asked.contains(&owner), "key {} of {:?} is left out", key, owner);
        }
    }
}

#[test]
fn a_cursor_with_hold_binds_the_session_to_a_primary() {
    check(
        "declare c cursor with hold for select * from auctions where auction_id = 1;
         declare c cursor for select * from auctions where auction_id = 1",
        &[],
        &expect![[r#"
            declare c cursor with hold for select * from auctions where auction_id = 1
              → one shard [4] primary: one key, in slot 5958
            declare c cursor for select * from auctions where auction_id = 1
              → one shard [4] replica: one key, in slot 5958
        "#]],
    );
}
