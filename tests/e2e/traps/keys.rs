//! What pins a table to a shard, and what only looks as if it did: each query, wherever its rows are, has all of them and no others.

use super::house;

/// Each of these pins nothing, or not what it seems to.
const PINS_NOTHING: &[&str] = &[
    "select auction_id, auction_id = 1 as first from lots",
    "select count(*) filter (where auction_id = 1), count(*) from lots",
    "select sum(case when auction_id = 1 then 1 else 0 end), count(*) from lots",
    "select n, count(*) from lots group by n having min(auction_id) = 1",
    "select l.auction_id, b.id from lots l left join bids b on b.auction_id = l.auction_id and l.auction_id = 3",
    "select c.n, l.auction_id from categories c left join lots l on l.auction_id = 1",
    "select auction_id from lots where auction_id = 1 union select auction_id from lots",
    "select auction_id from lots where auction_id = 1 or n = 2",
    "select auction_id from lots where n in (select id from bids where auction_id = 4)",
    "select auction_id from lots where exists (select from bids where auction_id = 4)",
    "select auction_id from lots where auction_id % 10 = 3",
    "select auction_id from lots where auction_id + 1 = 5",
    "select auction_id from lots where auction_id = 2 + 1",
    "select auction_id from lots where not (auction_id = 1)",
    "select l.auction_id from lots l, home h where h.about = 3",
    "select auction_id from (select n as auction_id, auction_id as other from lots) l where auction_id = 1",
    "select t.auction_id from lots t (other, auction_id) where t.auction_id = 1",
    "with lots as (select n as auction_id from lots) select count(*) from lots where auction_id = 1",
    "with w as (select auction_id from lots where auction_id = 1) select count(*) from lots",
    "select count(*) from (select auction_id from lots where auction_id = 1) s, bids",
    "select auction_id from lots where auction_id = 3.7::bigint",
    "select auction_id from lots where auction_id = (3.7)::smallint",
    "select auction_id from lots where (auction_id = 1) is not true",
    "select auction_id from lots where auction_id <> 1 and n = 1",
    "select auction_id from lots where case when auction_id = 1 then true else n = 2 end",
    "select auction_id from lots where coalesce(auction_id = 1, true) or ok",
];

/// Equal values are one key, whatever their spelling.
const SPELLINGS: &[&str] = &[
    "select title from lots where auction_id = '007'",
    "select title from lots where auction_id = 7",
    "select title from lots where auction_id = 7::smallint",
    "select title from lots where auction_id = 7.0::numeric",
    "select title from lots where auction_id = 7.5",
    "select title from lots where auction_id = ' 7 '::bigint",
    "select title from lots where auction_id in ('7', 8::smallint, 9.0)",
    "select title from lots where auction_id = any ('{7,8,9}')",
    "select title from lots where auction_id = any (array[7, null, 9]::int[])",
    "select title from lots where auction_id = null",
    "select title from lots where auction_id in (7, null)",
    "select l.title, b.id from lots l join bids b on b.auction_id = l.auction_id where b.auction_id = 7",
    "select l.title, b.id from lots l join bids b using (auction_id) where l.auction_id = '7'",
    "select count(*) from uids where auction_id = 'A0EEBC99-9C0B-4EF8-BB6D-6BB9BD380A01'",
    "select count(*) from uids where auction_id = '{a0eebc999c0b4ef8bb6d6bb9bd380a02}'",
    "select count(*) from padded where auction_id = 'k1'",
    "select count(*) from padded where auction_id = 'k2   '",
    "select count(*) from padded where auction_id = 'k3'::char(9)",
    "select count(*) from small where auction_id = 3::bigint",
    "select count(*) from small where auction_id = '4'",
    "select count(*) from small where auction_id = 70000",
];

const KEYED: &[&str] = &[
    "create table uids (auction_id uuid primary key)",
    "create table padded (auction_id char(6) primary key)",
    "create table small (auction_id smallint primary key)",
    "insert into uids select ('a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a' || lpad(g::text, 2, '0'))::uuid from generate_series(1, 40) g",
    "insert into padded select 'k' || g from generate_series(1, 40) g",
    "insert into small select g from generate_series(1, 40) g",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_pins_a_table_and_what_does_not() {
    let mut clauses = house().await;
    for sql in KEYED {
        for side in clauses.both.sides() {
            side.rows(sql).expect(sql);
        }
    }
    clauses.answered(PINS_NOTHING);
    clauses.answered(SPELLINGS);
    clauses.rejected(&[
        "select title from lots where auction_id = '7.5'",
        "insert into lots (auction_id) values (null)",
    ]);
    clauses.end();
}
