//! Random statements with their facts, for a comparison with a live server.

use super::support::facts;
use crate::sql::facts::{Pin, Scope, ValueRef};
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

#[test]
#[ignore = "prints statements for a comparison with a live server"]
fn print_statements() {
    let rng = TestRng::from_seed(
        RngAlgorithm::ChaCha,
        &[std::env::var("SEED").map_or(1, |s| s.parse().unwrap()); 32],
    );
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = if std::env::var("WRITES").is_ok() { writing().boxed() } else { statement().boxed() };
    for _ in 0..std::env::var("COUNT").map_or(1000, |s| s.parse().unwrap()) {
        let sql = columns(&strategy.new_tree(&mut runner).expect("a statement").current());
        let facts = facts(&sql);
        let verdict = match &facts.scope {
            Scope::Sharded(s) => {
                let mut shards: Vec<String> = Vec::new();
                for pin in &s.groups {
                    shards.push(match pin {
                        Pin::Keys(terms) => terms
                            .iter()
                            .map(|t| match t.value {
                                ValueRef::Literal(n) => {
                                    let n = crate::sql::normalise::normalise(sql.as_bytes(), true).literals
                                        [usize::from(n)];
                                    sql[n.start..n.end].to_string()
                                }
                                _ => "?".into(),
                            })
                            .collect::<Vec<_>>()
                            .join(","),
                        Pin::Never => "never".into(),
                        _ => "any".into(),
                    });
                }
                format!("{}\t{}", shards.join("|"), s.no_concat.clone().unwrap_or_default())
            }
            other => format!("scope\t{other:?}"),
        };
        println!("{sql}\t{verdict}");
    }
}
