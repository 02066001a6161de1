//! 6: aggregates of rows of several shards.

use super::house;

const NO_ROWS: &[&str] = &[
    "select count(*), count(n), sum(n), sum(big), sum(amount), sum(f), avg(n), min(word), max(f), bool_and(ok), bool_or(ok), every(ok) from none",
    "select count(*), sum(price), avg(f), stddev(n), string_agg(word, ','), array_agg(n), json_agg(n) from lots where n > 1000",
    "select count(*) from lots where auction_id = -1",
    "select n, count(*), sum(amount) from none group by n",
    "select coalesce(sum(amount), 0), count(*) = 0 from none",
    "select sum(amount), count(*) from none group by ()",
    "select count(*) from none having count(*) > 0",
    "select 1 from none having count(*) = 0",
    "select count(*), sum(n) from none group by grouping sets ((), (n))",
];

const TYPES: &[&str] = &[
    // sum(int8) is numeric, and does not overflow; that of int2 and int4 is int8.
    "select sum(big), sum(n), sum(small), sum(f), sum(r), sum(price), sum(fee), sum(span) from lots where auction_id not in (7, 8, 9, 10, 11)",
    "select pg_typeof(sum(big)), pg_typeof(sum(n)), pg_typeof(sum(small)), pg_typeof(sum(r)), pg_typeof(avg(n)), pg_typeof(avg(f)) from lots",
    "select sum(big), avg(big) from lots",
    "select avg(n), avg(small), avg(fee), avg(price) from lots where auction_id not in (7, 8, 9)",
    "select avg(amount), avg(amount * 3), avg(1.00), avg(2.500) from bids",
    "select n, avg(fee), avg(small) from lots group by n",
    "select stddev(n), stddev_pop(n), stddev_samp(small), variance(fee), var_pop(big - 4611686018427387904), var_samp(n) from lots",
    "select stddev(n), variance(n) from lots where auction_id = 3",
    "select corr(n, small) is not null, regr_count(n, small), covar_pop(n, small)::numeric(10, 6) from lots",
    "select bit_and(n), bit_or(n), bit_xor(n), bool_and(ok), bool_or(ok), every(n >= 0) from lots",
    "select min(n), max(n), min(big), max(small), min(ends), max(ends), min(day), max(day), min(span), max(span), min(fee) from lots",
    "select min(m), max(m), min(u::text), max(u::text), min(tags), max(tags) from lots",
];

const COLLATIONS: &[&str] = &[
    "select min(title), max(title) from lots",
    "select min(word), max(word), min(fold), max(fold) from lots",
    "select min(title collate \"C\"), max(title collate \"C\"), min(word collate \"de-x-icu\"), max(word collate \"de-x-icu\") from lots",
    "select n, min(title), max(title) from lots group by n",
    "select fold, count(*) from lots group by fold",
];

const NAN_AND_INFINITY: &[&str] = &[
    "select min(price), max(price), min(f), max(f), sum(price), sum(f), avg(price), avg(f) from lots",
    "select sum(f), avg(f), max(f) from lots where auction_id <> 7",
    "select sum(price), max(price), min(price) from lots where auction_id in (1, 2, 8, 10)",
    "select max(f), min(f), max(price) from lots where auction_id in (7, 10, 2)",
    "select sum(price) from lots where auction_id in (8, 9)",
];

const FORMS: &[&str] = &[
    "select count(distinct n), count(distinct fold), sum(distinct small), avg(distinct fee), count(distinct title) from lots",
    "select count(distinct bidder), count(distinct (bidder, amount)) from bids",
    "select n, count(distinct small) from lots group by n",
    "select count(*) filter (where ok), sum(n) filter (where n > 2), avg(n) filter (where auction_id = 3), max(price) filter (where false) from lots",
    "select count(*) filter (where auction_id = 3) from lots",
    "select string_agg(title, ',' order by title, auction_id), array_agg(auction_id order by m desc nulls last, auction_id) from lots",
    "select jsonb_agg(n order by auction_id), json_object_agg(auction_id, word order by auction_id) from lots",
    "select string_agg(distinct word, '|' order by word desc) from lots",
    "select percentile_cont(0.5) within group (order by n), percentile_disc(0.25) within group (order by title), mode() within group (order by ok) from lots",
    "select rank(2) within group (order by n) from lots",
    "select count(*) * 2 + coalesce(max(n), 0), 'x' || count(*), round(avg(n) / nullif(count(*), 0), 4), -sum(n), sum(n)::text from lots",
    "select case when count(*) > 3 then max(n) else min(n) end, greatest(min(n), 1), (select count(*) from bids) - count(*) from lots",
    "select sum(n + small * 2), max(length(title)), count(n is null), min(-n) from lots",
    "select max(c), sum(c) from (select count(*) as c from bids group by bidder) s",
    "select any_total from (select sum(amount) as any_total from bids) s where any_total > 0",
    "select count(lots), count(lots.*), count(tags), count(j) from lots",
];

const GROUPS: &[&str] = &[
    "select n, count(*) from lots group by n having count(*) > 4",
    "select n from lots group by n having sum(small) > -3 and min(auction_id) = 1",
    "select count(*) from lots having sum(n) > 0",
    "select count(*) from bids group by bidder",
    "select sum(amount) from bids group by auction_id, bidder % 2",
    "select max(amount) from bids group by bidder order by bidder",
    "select count(*) from lots group by m order by m",
    "select count(*), min(auction_id) from lots group by title, word order by title, word, min(auction_id)",
    "select auction_id, count(*) from bids group by auction_id",
    "select auction_id, count(*) from bids group by auction_id having count(*) > 3 order by 2 desc, 1 limit 5",
    "select n, ok, count(*) from lots group by rollup (n, ok)",
    "select n, ok, grouping(n, ok), count(*), sum(fee) from lots group by cube (n, ok) order by grouping(n, ok), n, ok",
    "select n, m, count(*) from lots group by grouping sets ((n), (m), ()) order by n, m",
    "select auction_id, bidder, count(*) from bids group by rollup (auction_id, bidder)",
    "select distinct count(*) from bids group by bidder",
    "select distinct sum(n) from lots group by m",
    "select date_trunc('hour', placed), count(*) from bids group by 1 order by 1",
    "select lower(title) as l, count(*) from lots group by l",
    "select jsonb_build_object('n', n), count(*) from lots group by j, n",
    "select j, tags, raw, u, span, count(*) from lots group by j, tags, raw, u, span",
    "select c.name, count(l.auction_id), avg(l.fee) from categories c left join lots l on l.n = c.n group by c.n",
    "select l.auction_id, l.title, count(b.id) from lots l left join bids b using (auction_id) group by l.auction_id",
    "select sum(sum(amount)) over (order by bidder), bidder from bids group by bidder",
];

const REJECTED: &[&str] = &[
    "select sum(1 / (n - 2)) from lots",
    "select n, count(*) from lots group by word",
    "select sum(word) from lots",
    "select count(*) from lots where count(*) > 1",
    "select sum(sum(n)) from lots",
    "select sum(big * 4) from lots",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_06_aggregates() {
    let mut clauses = house().await;
    for statements in [NO_ROWS, TYPES, COLLATIONS, NAN_AND_INFINITY, FORMS, GROUPS] {
        clauses.answered(statements);
    }
    clauses.rejected(REJECTED);
    clauses.end();
}
