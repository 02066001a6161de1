//! The traps that make other sharding proxies return wrong answers, by their numbers: 1 to 5 are about writes, 6 about aggregates, 7 to 9
//! and 12 about reads of several shards, 10 and 11 about replicas, 13 to 16 about what is no query. Each clause is a statement in a table, run
//! on three shards and on PostgreSQL, and must be answered alike; a refusal fails it. What a clause needs beyond one statement is
//! a test of its own, here or, if it is named after another matter, in the file that the trap's test names.

mod aggregates;
mod commands;
mod keys;
mod reads;
mod roles;
mod writes;

use crate::clauses::Clauses;

/// Tables of every kind; `lots` has NULLs, ties and the ends of its types, `none` no rows.
const HOUSE: &[&str] = &[
    "create extension citext",
    "create type mood as enum ('sad', 'ok', 'happy')",
    "create domain cents as numeric(8, 2)",
    "create table categories (n int primary key, name text)",
    "create table home (id int primary key, about bigint, label text)",
    "create table lots (auction_id bigint primary key, n int, big bigint, small smallint, price numeric, fee cents, f float8, r real, \
     title text collate \"en-x-icu\", word text, fold citext, m mood, ends timestamptz, day date, ok bool, raw bytea, u uuid, \
     span interval, j jsonb, tags text[])",
    "create table bids (auction_id bigint, id int, bidder int, amount numeric, placed timestamptz, primary key (auction_id, id))",
    "create table none (auction_id bigint primary key, n int, big bigint, amount numeric, f float8, word text, ok bool)",
    "insert into categories select g, 'category ' || g from generate_series(0, 3) g",
    "insert into home values (1, 3, 'three'), (2, 5, 'five'), (3, null, 'none'), (4, 900, 'far')",
    "insert into lots select g, g % 5, 4611686018427387904 + g, (g % 7 - 3)::smallint, \
     case when g % 6 = 0 then null when g = 7 then 'NaN' when g = 8 then 'Infinity' when g = 9 then '-Infinity' \
     when g % 3 = 0 then g * 1.50 else g % 4 * 1.5 end, g % 4 * 1.25, \
     case when g = 7 then 'NaN' when g = 10 then 'Infinity' when g = 11 then '-Infinity' when g % 6 = 1 then null else g % 5 / 4.0 end, g % 3, \
     (array['Zebra', 'apple', '\u{c4}rger', 'aardvark', 'a b', 'a-b', null, 'Apple'])[g % 8 + 1], \
     (array['b', 'B', 'a', '', '\u{e4}', null])[g % 6 + 1], (array['Alpha', 'BETA', 'gamma', null])[g % 4 + 1], \
     (array['happy', 'sad', 'ok', null]::mood[])[g % 4 + 1], \
     case when g = 4 then 'infinity' when g = 5 then '-infinity' when g % 7 = 0 then null \
     else timestamptz '2024-01-01 00:00+00' + g % 3 * interval '1 hour' end, \
     case when g = 6 then 'infinity'::date else date '2024-01-01' + g % 4 end, g % 3 = 0, decode(lpad(to_hex(g % 5), 2, '0'), 'hex'), \
     ('00000000-0000-4000-8000-0000000000' || lpad(to_hex(g % 9), 2, '0'))::uuid, g % 3 * interval '1 day', \
     jsonb_build_object('k', g % 3), case when g % 4 = 0 then null else array['t' || g % 3] end \
     from generate_series(1, 24) g",
    "insert into bids select 1 + g % 20, g, g % 6, case when g % 9 = 0 then null else g % 8 * 1.25 end, \
     timestamptz '2024-02-01 00:00+00' + g * interval '7 minutes' from generate_series(1, 80) g",
];

async fn house() -> Clauses {
    Clauses::start(HOUSE, &["lots", "bids"]).await
}
