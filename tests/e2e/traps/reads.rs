//! 7, 8, 9 and 12: orders, set operations, joins, and what is computed in one place.

use tests::wire_message::{self as message, Value};

use super::house;
use crate::beside::said_but_settings;

const ORDERS: &[&str] = &[
    "select auction_id from lots order by n nulls first, auction_id",
    "select auction_id from lots order by price desc nulls last, auction_id desc",
    "select auction_id from lots order by ends desc, auction_id",
    "select auction_id from lots order by ends nulls first, day desc nulls last, auction_id",
    "select auction_id from lots order by n + small, auction_id",
    "select auction_id from lots order by n * -1 desc, length(title) nulls first, auction_id",
    "select title from lots order by price, auction_id",
    "select auction_id, title from lots order by title, auction_id",
    "select auction_id from lots order by title desc nulls last, auction_id limit 7",
    "select auction_id from lots order by word, auction_id",
    "select auction_id, word from lots order by word collate \"de-x-icu\" desc, auction_id limit 9 offset 2",
    "select auction_id from lots order by title collate \"C\", auction_id",
    "select auction_id, fold from lots order by fold, auction_id",
    "select auction_id from lots order by fold desc nulls last, auction_id limit 5 offset 3",
    "select auction_id, price from lots order by price, auction_id",
    "select auction_id, fee from lots order by fee desc, auction_id limit 8",
    "select auction_id, f from lots order by f, auction_id",
    "select auction_id, r from lots order by r desc, auction_id",
    "select auction_id, m from lots order by m, auction_id",
    "select auction_id from lots order by m desc nulls last, auction_id limit 6 offset 1",
    "select auction_id from lots order by m::text, auction_id",
    "select auction_id from lots order by ok desc nulls last, raw, u desc, auction_id",
    "select auction_id from lots order by span desc, j, tags nulls first, auction_id",
    "select auction_id from lots order by case when n = 3 then 0 else 1 end, auction_id",
    "select auction_id from lots order by (select count(*) from bids b where b.auction_id = lots.auction_id) desc, auction_id limit 5",
    "select auction_id as x, -n as y from lots order by y, x desc limit 4",
    "select auction_id from lots order by small using >, auction_id",
    "select * from lots order by auction_id",
    "select n, auction_id from lots order by 1 desc, 2 limit 3",
    "select auction_id, id from bids order by amount desc nulls last, placed, id",
    "select id from bids order by placed desc, id limit 10 offset 60",
    "select id from bids order by placed, id limit 0",
    "select id from bids order by placed, id offset 75",
    "select id from bids order by placed, id limit all offset 78",
    "select id from bids order by placed, id fetch first 4 rows only",
    "select bidder from bids order by bidder fetch first 3 rows with ties",
    "select id from bids order by placed, id limit 1 + 2 offset length('ab')",
    "select id from bids order by id limit (select 5)",
    "select auction_id from lots where auction_id in (3, 4, 5, 6, 7) order by price nulls first, auction_id limit 3",
    "select bidder, sum(amount) from bids group by bidder order by sum(amount) desc nulls last, bidder limit 4",
    "select count(*) from (select * from lots order by price limit 5) s",
];

/// As many rows as LIMIT says, whichever.
const ANY_ROWS: &[&str] = &[
    "select auction_id from lots limit 5",
    "select auction_id from lots limit 0",
    "select auction_id from lots offset 20",
    "select auction_id from lots limit 4 offset 22",
    "select id from bids limit 1000",
    "select n from lots where n = 2 limit 3",
    "select count(*) from (select 1 from bids limit 30) s",
];

/// Ties under LIMIT: what is ordered by is the same, whichever of the rows come.
const TIES: &[&str] = &[
    "select n from lots order by n limit 8",
    "select bidder from bids order by bidder desc limit 30 offset 3",
    "select m from lots order by m nulls first limit 9",
    "select ok from lots order by ok limit 11 offset 2",
];

const REJECTED: &[&str] = &[
    "select auction_id from lots order by auction_id limit -1",
    "select auction_id from lots order by auction_id offset -1",
    "select auction_id from lots order by 7",
    "select distinct n from lots order by auction_id",
    "select auction_id from lots order by nothing",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_07_orders() {
    let mut clauses = house().await;
    clauses.answered(ORDERS);
    clauses.answered(ANY_ROWS);
    clauses.answered(TIES);
    clauses.rejected(REJECTED);
    // LIMIT and OFFSET as parameters, rows a few at a time.
    let page = "select auction_id from lots order by title, auction_id limit $1 offset $2";
    for (limit, offset) in [("5", "3"), ("0", "0"), ("100", "20")] {
        let values = [limit, offset].map(|value| Value::Text(value.into()));
        let bytes = [
            message::parse("", page, &[]),
            message::bind("", "", &values, &[1]),
            message::describe(b'P', ""),
            message::execute("", 2),
            message::execute("", 0),
            message::sync(),
        ]
        .concat();
        let [ours, theirs] = clauses.both.sides().map(|side| said_but_settings(side, &bytes, 1));
        assert_eq!(ours, theirs, "limit {limit} offset {offset}");
    }
    clauses.end();
}

const DISTINCT_AND_SETS: &[&str] = &[
    "select distinct n from lots",
    "select distinct auction_id from bids",
    "select distinct n, m from lots order by n, m desc nulls last",
    "select distinct fold from lots",
    "select distinct tags, j from lots",
    "select distinct on (n) n, auction_id from lots order by n, auction_id desc",
    "select distinct on (auction_id) auction_id, amount, id from bids order by auction_id, amount desc nulls last, id",
    "select distinct on (bidder) bidder, id from bids order by bidder, amount nulls first, id limit 3",
    "select auction_id from lots union select auction_id from bids",
    "select auction_id from lots union all select auction_id from bids",
    "select n from lots union select bidder from bids",
    "select auction_id from lots where auction_id = 3 union select auction_id from lots",
    "select auction_id from lots where auction_id = 3 union all select auction_id from lots where auction_id = 4",
    "select n from lots intersect select bidder from bids",
    "select n from lots intersect all select bidder from bids",
    "select auction_id from lots except select auction_id from bids",
    "select bidder from bids except all select n from lots",
    "select auction_id from lots except select about from home",
    "select name from categories union select title from lots",
    "(select auction_id from lots order by auction_id limit 2) union all (select auction_id from bids order by auction_id desc, id limit 2)",
    "select auction_id, 'lot' as kind from lots union all select id, 'bid' from bids order by 1, 2 limit 9",
    "select null as x union select auction_id from lots",
    "values (1), (99) union select auction_id from lots",
    "select * from (select auction_id from lots union select auction_id from bids) s where auction_id = 3",
];

const WINDOWS: &[&str] = &[
    "select auction_id, id, row_number() over (partition by auction_id order by id) from bids",
    "select auction_id, row_number() over (order by price, auction_id) from lots",
    "select auction_id, rank() over (order by n), dense_rank() over (order by n), percent_rank() over (order by n) from lots",
    "select auction_id, sum(small) over (order by auction_id rows between 2 preceding and 1 following) from lots",
    "select id, count(*) over (partition by bidder), avg(amount) over (partition by bidder order by id) from bids",
    "select auction_id, lag(title) over w, lead(n, 2, -1) over w, first_value(word) over w, ntile(3) over w from lots window w as (order by auction_id)",
    "select auction_id, count(*) over () from lots",
    "select auction_id, sum(n) over (order by ends range between '1 hour' preceding and current row) from lots",
    "select * from (select auction_id, id, row_number() over (partition by bidder order by amount desc nulls last, id) as r from bids) s where r = 1",
    "select bidder, sum(amount), rank() over (order by sum(amount) desc nulls last) from bids group by bidder",
    "select n, grouping(n), count(*) from lots group by grouping sets ((n), ()) order by 2, 1",
];

const JOINS: &[&str] = &[
    "select auction_id from lots l where price = (select max(price) from lots o where o.n = l.n) order by 1",
    "select auction_id from lots l where n > (select count(*) from bids b where b.auction_id = l.auction_id)",
    "select auction_id from lots l where exists (select from bids b where b.bidder = l.n and b.amount > 8)",
    "select auction_id from lots where n in (select bidder from bids where amount is null)",
    "select auction_id from lots where n not in (select bidder from bids)",
    "select auction_id, array(select id from bids b where b.auction_id = l.auction_id order by id) from lots l",
    "select l.auction_id, x.id from lots l, lateral (select id from bids b where b.auction_id = l.auction_id order by id limit 2) x",
    "select l.auction_id, x.id from lots l left join lateral (select id from bids b where b.bidder = l.n order by id limit 1) x on true",
    "with recursive r (k) as (select 1 union all select k + 1 from r where k < 6) select k, title from r left join lots on auction_id = k",
    "with recursive chain as (select auction_id, n, 1 as depth from lots where auction_id = 3 union all \
     select l.auction_id, l.n, depth + 1 from lots l join chain c on l.auction_id = c.n where depth < 5) select * from chain",
    "select a.auction_id, b.auction_id from lots a join lots b on a.n = b.small and a.auction_id < b.auction_id",
    "select l.auction_id, b.id from lots l join bids b using (auction_id) where b.amount > 5",
    "select l.auction_id, b.id from lots l left join bids b on l.auction_id = b.auction_id and b.amount > 8",
    "select l.auction_id, b.id from lots l full join bids b on l.n = b.bidder and b.id < 9",
    "select l.auction_id, b.id from lots l left join bids b on b.auction_id = 3 where l.auction_id < 4",
    "select count(*) from lots a cross join bids b",
    "select auction_id from lots natural join none",
    "select l.auction_id, v.x from lots l join (values (1, 'one'), (2, 'two'), (22, 'more')) v (k, x) on v.k = l.auction_id",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_08_what_is_no_merge() {
    let mut clauses = house().await;
    clauses.answered(DISTINCT_AND_SETS);
    clauses.answered(WINDOWS);
    clauses.answered(JOINS);
    clauses.end();
}

/// Names that are shadowed, qualified, quoted, or those of CTEs and of views; conditions that are pushed down, and those that are not.
const COMBINED: &[&str] = &[
    "with lots as (select bidder as n, count(*) as c from bids group by 1) select * from lots",
    "with l as (select n, count(*) as c from lots group by n) select a.c, b.c from l a join l b on a.n = b.n + 1",
    "select public.lots.n, count(*) from public.lots join public.bids on public.bids.bidder = public.lots.n group by 1",
    "select \"lots\".\"n\", count(*) from \"lots\" group by 1",
    "select o.n, count(*) from lots o where o.day between '2024-01-01' and '2024-01-03' and o.n in (1, 2, 3) group by o.n",
    "select n, count(*) from lots where auction_id in (1, 2, 3, 4, 5, 6) group by n",
    "select n, count(*) from lots where title > 'apple' group by n",
    "select n, count(*) from lots where fold = 'ALPHA' and m >= 'ok' group by n",
    "select * from per_n order by n",
    "select p.n, h.label from per_n p join home h on h.id = p.n",
    "select l.title, p.c from lots l join per_n p using (n) where l.auction_id = 3",
    "select pg_typeof(price), pg_typeof(fee), pg_typeof(m), pg_typeof(fold) from lots group by price, fee, m, fold limit 1",
    "select (select max(n) from lots) + (select min(bidder) from bids) as sum",
    "select (l).title, (l).m from lots l where n = (select max(n) from lots)",
    "select to_jsonb(l) -> 'n' from lots l group by 1",
    "select max(lots.n) over (), g from lots, generate_series(1, 2) g",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_09_combine() {
    let mut clauses = house().await;
    for side in clauses.both.sides() {
        side.rows("create view per_n as select n, count(*) as c, max(title) as last from lots group by n")
            .expect("a view");
    }
    clauses.answered(COMBINED);
    // Its limit, cancel requests and roles: `combined`.
    clauses.end();
}

const TWO_KINDS: &[&str] = &[
    "select l.auction_id, c.name from lots l join categories c on c.n = l.n where l.auction_id = 3",
    "select l.auction_id, c.name from lots l join categories c on c.n = l.n",
    "select l.auction_id, c.name from lots l left join categories c on c.n = l.n order by c.name nulls first, 1",
    "select c.name, count(l.auction_id) from categories c left join lots l on l.n = c.n group by c.name",
    "select c.name from categories c where not exists (select from lots l where l.n = c.n)",
    "select h.label, l.title from home h join lots l on l.auction_id = h.about",
    "select h.label, l.title from home h left join lots l on l.auction_id = h.about",
    "select l.auction_id, h.label from lots l left join home h on h.about = l.auction_id where l.auction_id in (2, 3, 4, 5)",
    "select h.label, l.title, c.name from home h join lots l on l.auction_id = h.about join categories c on c.n = l.n where l.auction_id = 3",
    "select label from home where about in (select auction_id from lots where n = 0)",
    "select auction_id from lots where auction_id in (select about from home)",
    "select auction_id from lots where auction_id = (select about from home where id = 2)",
    "select h.label, c.name from home h, categories c where h.id = c.n",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_12_sharded_with_reference_and_unsharded_tables() {
    let mut clauses = house().await;
    clauses.answered(TWO_KINDS);
    for key in 1..=24 {
        // Wherever the row is.
        clauses.answered(&[
            &format!("select l.title, c.name from lots l join categories c on c.n = l.n where l.auction_id = {key}"),
            &format!("select l.title, h.label from lots l left join home h on h.about = l.auction_id where l.auction_id = {key}"),
        ]);
    }
    clauses.end();
}
