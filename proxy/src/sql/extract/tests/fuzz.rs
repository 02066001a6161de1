//! Random statements on a live server: the facts against what PostgreSQL answers.

use super::support::facts;
use crate::sql::facts::{KeyTerm, Pin, Scope, ValueRef};
use crate::sql::normalise::normalise;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

fn pick(items: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::sample::select(items).prop_map(String::from)
}

/// A FROM tree over aliases t0..t2.
fn from() -> impl Strategy<Value = String> {
    let table = || {
        pick(&[
            "auctions",
            "bids",
            "bids",
            "users",
            "auctions",
            "(select * from bids where auction_id < 6)",
            "(select auction_id, count(*) n, max(user_id) user_id, max(seller) seller from auctions_bids group by auction_id)",
            "(select auction_id, user_id, amount seller from bids order by 2, 1 limit 3)",
            "(select distinct auction_id, user_id, amount seller from bids)",
            "w",
        ])
    };
    let join = || pick(&["join", "left join", "right join", "full join", "join", "left join"]);
    let on = |a: &'static str, b: &'static str| pick_on(a, b);
    prop_oneof![
        table().prop_map(|t| format!("{t} t0")),
        (table(), join(), table(), on("t0", "t1"))
            .prop_map(|(a, j, b, on)| format!("{a} t0 {j} {b} t1 on {on}")),
        (table(), join(), table(), on("t0", "t1"), join(), table(), on("t1", "t2"))
            .prop_map(|(a, j, b, on, k, c, on2)| format!("{a} t0 {j} {b} t1 on {on} {k} {c} t2 on {on2}")),
        (table(), join(), table(), on("t0", "t2"), join(), table(), on("t1", "t2")).prop_map(
            |(a, j, b, _, k, c, on2)| format!(
                "{a} t0 {j} {b} t1 on t0.x = t1.x {k} {c} t2 on {on2} and t0.x = t2.x"
            )
        ),
        (table(), join(), table(), on("t1", "t2"), join(), table(), on("t0", "t1"))
            .prop_map(|(a, j, b, on, k, c, on2)| format!("{a} t0 {j} ({b} t1 {k} {c} t2 on {on}) on {on2}")),
    ]
}

fn pick_on(a: &'static str, b: &'static str) -> impl Strategy<Value = String> {
    let k = format!("{a}.x = {b}.x");
    prop_oneof![
        4 => Just(k.clone()),
        1 => Just(format!("{k} and {a}.x = 5")),
        1 => Just(format!("{k} and {b}.x = 5")),
        1 => Just(format!("{b}.x = 5")),
        1 => Just(format!("{a}.y = {b}.y")),
        1 => Just(format!("{k} and {a}.y = {b}.y")),
        1 => Just(format!("{k} or {a}.y = {b}.y")),
    ]
}

fn condition() -> impl Strategy<Value = String> {
    let atom = pick(&[
        "t0.x = 5",
        "t0.x = 3",
        "t0.y > 2",
        "t0.x in (1, 5)",
        "t0.x % 2 = 1",
        "not (t0.x = 5)",
        "t0.x = 5 or t0.x = 7",
        "t0.x = 5 or t0.y = 1",
        "(t0.x, t0.y) = (5, 1)",
        "t0.x = any(array[1, 2])",
        "t0.x is not null",
        "t0.x is null",
        "t0.x = null",
        "exists (select 1 from bids s where s.auction_id = t0.x)",
        "exists (select 1 from bids s where s.auction_id = 5)",
        "not exists (select 1 from bids s where s.auction_id = t0.x and s.amount > 3)",
        "t0.x in (select auction_id from bids where amount > 2)",
        "t0.x in (select s.auction_id from bids s group by s.auction_id having count(*) > 1)",
        "t0.y in (select user_id from bids)",
        "t0.y > (select avg(amount) from bids s where s.auction_id = t0.x)",
        "t0.x in (select auction_id from bids order by amount, id limit 2)",
        "t0.x not in (select auction_id from bids)",
        "t0.y = (select count(*) from auctions s where s.auction_id = 5)",
        "exists (select 1 from users u left join bids s on s.auction_id = t0.x where u.user_id = t0.y)",
        "t0.x = (select max(auction_id) from bids)",
        "t0.y in (select u.user_id from users u)",
        "exists (select 1 from auctions q left join bids s on s.auction_id = q.auction_id where q.auction_id = t0.x and s.amount is null)",
        "exists (select count(*) from bids s where s.auction_id = t0.x having count(*) > 1)",
    ]);
    prop_oneof![
        2 => Just("true".to_string()),
        4 => atom,
    ]
}

fn projection() -> impl Strategy<Value = String> {
    pick(&[
        "select t0.x, t0.y",
        "select *",
        "select t0.x",
        "select count(*)",
        "select t0.x, count(*)",
        "select distinct t0.x",
        "select distinct t0.y",
        "select t0.x, (select count(*) from bids s where s.auction_id = t0.x)",
        "select (select count(*) from bids)",
        "select t0.y, max(t0.x)",
        "select t0.x, row_number() over (partition by t0.x order by t0.y, t0.x) > 1",
        "select t0.x, count(*) over ()",
        "select t0.x = 5",
        "select count(*) filter (where t0.x = 5)",
        "select coalesce(t0.x, 5)",
        "select t0.x, (select s.amount from bids s where s.auction_id = t0.x order by s.id limit 1)",
    ])
}

fn statement() -> impl Strategy<Value = String> {
    let tail =
        pick(&["", "", "", "", " limit 2", " union all select 1", " union select auction_id from bids"]);
    (projection(), from(), condition(), tail, any::<prop::sample::Index>()).prop_map(
        |(p, f, c, tail, which)| {
            let aliases: Vec<&str> =
                ["t0", "t1", "t2"].into_iter().filter(|a| f.contains(&format!(" {a}"))).collect();
            let alias = aliases[which.index(aliases.len())];
            let group = match p.as_str() {
                "select t0.x, count(*)" => " group by t0.x",
                "select t0.y, max(t0.x)" => " group by t0.y",
                _ => "",
            };
            let core = format!("{p} from {f} where {c}{group}");
            let core = core.replace("t0.", "\u{1}.");
            // The projection and the condition speak of a random alias.
            let (head, rest) = core.split_at(core.find(" from ").expect("a FROM"));
            let at = rest.rfind(" where ").expect("a WHERE");
            let _ = at;
            let place = rest.find(&format!(" where {}", c.replace("t0.", "\u{1}."))).expect("the condition");
            let (from, condition) = rest.split_at(place);
            let sql = format!(
                "{}{}{}{tail}",
                head.replace('\u{1}', alias),
                from.replace('\u{1}', "t0"),
                condition.replace('\u{1}', alias)
            );
            let with = if sql.contains("w t") {
                "with w as (select auction_id, user_id, amount seller from bids where amount > 1) "
            } else {
                ""
            };
            format!("{with}{sql}")
                .replace("auctions_bids", "(select auction_id, seller, seller user_id from auctions) ab")
        },
    )
}

/// `x` is the key (user_id of users), `y` another column.
fn columns(sql: &str) -> String {
    let mut out = sql.to_string();
    for alias in ["t0", "t1", "t2"] {
        let users = out.contains(&format!("users {alias}"));
        let auctions = out.contains(&format!("auctions {alias}"));
        let x = if users { "user_id" } else { "auction_id" };
        let y = if auctions { "seller" } else { "user_id" };
        out = out
            .replace(&format!("{alias}.x"), &format!("{alias}.{x}"))
            .replace(&format!("{alias}.y"), &format!("{alias}.{y}"));
    }
    out
}

/// UPDATE, DELETE, INSERT … SELECT and MERGE.
fn writing() -> impl Strategy<Value = String> {
    let k = pick_on("t0", "t1");
    let other = pick(&[
        "auctions",
        "bids",
        "users",
        "(select * from bids order by id limit 3)",
        "(select auction_id, seller user_id, seller from auctions)",
    ]);
    let item = pick(&[
        "t1.x, t1.y, 1",
        "5, t1.y, 1",
        "t1.y, t1.x, 1",
        "t0.x, t1.y, 1",
        "t0.x + 0, 1, 1",
        "max(t0.x), 1, 1",
        "distinct t0.x, t0.y, 1",
    ]);
    let which = 0..6usize;
    (k, other, item, condition(), condition(), which).prop_map(|(k, other, item, c, d, which)| match which {
        0 => format!("update bids t0 set amount = amount + 100 where {c} and {d}"),
        1 => format!("update bids t0 set amount = t0.amount + 100 from {other} t1 where {k} and {c}"),
        2 => format!("delete from bids t0 using {other} t1 where {k} and {c}"),
        3 => format!("delete from bids t0 where {c} or {d}"),
        4 => format!("insert into bids (auction_id, user_id, amount) select {item} from bids t0 join {other} t1 on {k} where {c}"),
        _ => format!("merge into bids t0 using {other} t1 on {k} when matched and {c} then update set amount = 7 when not matched then insert (auction_id, user_id) values (t1.x, 1)"),
    })
}

/// Shards that the facts allow the statement to run on, `None` if it would be refused: all groups on one shard, or
/// answers that may be concatenated. The key's shard is its value modulo [`SHARDS`] here.
fn allowed(sql: &str) -> Option<Vec<usize>> {
    let facts = facts(sql);
    let Scope::Sharded(sharded) = &facts.scope else { return None };
    let literals = normalise(sql.as_bytes(), true).literals;
    let shard = |term: &KeyTerm| match term.value {
        ValueRef::Literal(n) => {
            let literal = literals[usize::try_from(n).expect("few")];
            sql[literal.start..literal.end].parse::<usize>().map_or(0, |key| key % SHARDS)
        }
        _ => 0,
    };
    let shards = |pin: &Pin| -> Vec<usize> {
        match pin {
            Pin::Keys(terms) => terms.iter().map(shard).collect(),
            Pin::Never => Vec::new(),
            _ => (0..SHARDS).collect(),
        }
    };
    let mut all: Vec<usize> = sharded.groups.iter().flat_map(shards).collect();
    all.sort_unstable();
    all.dedup();
    if all.is_empty() {
        all.push(0);
    }
    let one = all.len() == 1;
    (one || (sharded.groups.len() == 1 && sharded.no_concat.is_none())).then_some(all)
}

/// Number of shards of the comparison.
const SHARDS: usize = 3;

const SETUP: &str = "
    DROP SCHEMA IF EXISTS one, s0, s1, s2 CASCADE;
    CREATE SCHEMA one; CREATE SCHEMA s0; CREATE SCHEMA s1; CREATE SCHEMA s2;
    CREATE TABLE one.auctions AS SELECT i::bigint auction_id, 't' || i title, (i * 7 % 5)::bigint seller FROM generate_series(0, 9) i;
    INSERT INTO one.auctions SELECT auction_id, title || 'b', 1 - seller % 2 FROM one.auctions WHERE auction_id IN (3, 5);
    CREATE TABLE one.bids AS SELECT i::bigint id, (i * i * 3 % 11)::bigint auction_id, (i % 5)::bigint user_id, (i % 7)::numeric amount
        FROM generate_series(1, 25) i;
    CREATE TABLE one.users AS SELECT i::bigint user_id, 'u' || i AS name FROM generate_series(0, 6) i;
    DO $$ BEGIN FOR k IN 0..2 LOOP
        EXECUTE format('CREATE TABLE s%s.auctions AS SELECT * FROM one.auctions WHERE auction_id %% 3 = %s', k, k);
        EXECUTE format('CREATE TABLE s%s.bids AS SELECT * FROM one.bids WHERE auction_id %% 3 = %s', k, k);
        EXECUTE format('CREATE TABLE s%s.users AS SELECT * FROM one.users', k);
    END LOOP; END $$;
    SET statement_timeout = '10s'";

/// Rows that the statement gives in a schema, and the table `bids` after it, sorted; `None` if it is an error.
async fn run(client: &tokio_postgres::Client, schema: &str, sql: &str) -> Option<Vec<String>> {
    let text =
        format!("SET search_path = {schema}; BEGIN; {sql}; SELECT auction_id, user_id, amount FROM bids");
    let answer = client.simple_query(&text).await;
    client.simple_query("ROLLBACK").await.expect("the server answers");
    let mut rows = Vec::new();
    for message in answer.ok()? {
        if let tokio_postgres::SimpleQueryMessage::Row(row) = message {
            let values: Vec<&str> = (0..row.len()).map(|i| row.get(i).unwrap_or("NULL")).collect();
            rows.push(values.join("|"));
        }
    }
    Some(rows)
}

async fn compare(client: &tokio_postgres::Client, statements: &[String]) -> (usize, Vec<String>) {
    let (mut compared, mut wrong) = (0, Vec::new());
    for sql in statements {
        let Some(shards) = allowed(sql) else { continue };
        let Some(mut one) = run(client, "one", sql).await else { continue };
        let mut together = Vec::new();
        for shard in 0..SHARDS {
            // The other shards keep their rows.
            let part = if shards.contains(&shard) { sql.as_str() } else { "SELECT" };
            let mut rows =
                run(client, &format!("s{shard}"), part).await.unwrap_or_else(|| vec!["error".into()]);
            rows.retain(|row| !row.is_empty());
            together.extend(rows);
        }
        one.sort();
        together.sort();
        // LIMIT without ORDER BY may choose other rows.
        let arbitrary = sql.ends_with(" limit 2") && one.len() == together.len();
        compared += 1;
        if one != together && !arbitrary {
            wrong.push(format!("{sql}\n  shards {shards:?}\n  one      {one:?}\n  together {together:?}"));
        }
    }
    (compared, wrong)
}

/// Invariant: wherever the facts allow a statement to run, the shards' answers together are what one PostgreSQL with
/// all the rows answers. `SEED` and `COUNT` choose the statements.
#[test]
#[ignore = "needs a PostgreSQL to write to: GAVEL_TEST_POSTGRES=\"host=… port=… user=…\""]
fn answers_of_shards_are_the_answer() {
    let number = |name: &str, default: usize| std::env::var(name).map_or(default, |v| v.parse().expect(name));
    let seed = number("SEED", 1);
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &[u8::try_from(seed % 256).unwrap_or(0); 32]);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategies = [statement().boxed(), writing().boxed()];
    let statements: Vec<String> = (0..number("COUNT", 2000))
        .map(|i| columns(&strategies[i % 2].new_tree(&mut runner).expect("a statement").current()))
        .collect();
    let server = std::env::var("GAVEL_TEST_POSTGRES").expect("GAVEL_TEST_POSTGRES");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (compared, wrong) = runtime.block_on(async {
        let (client, connection) =
            tokio_postgres::connect(&server, tokio_postgres::NoTls).await.expect("a connection");
        let work = async {
            client.batch_execute(SETUP).await.expect("tables");
            compare(&client, &statements).await
        };
        tokio::select! {
            result = work => result,
            end = connection => panic!("the connection ended: {end:?}"),
        }
    });
    assert!(wrong.is_empty(), "seed {seed}: {} wrong\n{}", wrong.len(), wrong.join("\n"));
    assert!(compared > statements.len() / 20, "seed {seed}: only {compared} compared");
}
