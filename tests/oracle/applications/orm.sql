-- What pgbench, ORMs and drivers send, over the tables of an auction house.
create table users (user_id bigserial primary key, name text not null, email text unique, created_at timestamptz default now());
create table auctions (auction_id bigserial primary key, seller_id bigint not null, title text, category_id int, starts_at timestamptz, ends_at timestamptz, state text, meta jsonb);
create table bids (auction_id bigint not null, bid_id bigserial, user_id bigint not null, amount numeric(12, 2) not null, placed_at timestamptz default now(), primary key (auction_id, bid_id));
create table django_session (session_key varchar(40) primary key, session_data text, expire_date timestamptz);
create table pgbench_accounts (aid int not null, bid int, abalance int, filler char(84));
create table pgbench_history (tid int, bid int, aid int, delta int, mtime timestamp, filler char(22));

-- pgbench
SELECT abalance FROM pgbench_accounts WHERE aid = 4711;
UPDATE pgbench_accounts SET abalance = abalance + -1234 WHERE aid = 4711;
INSERT INTO pgbench_history (tid, bid, aid, delta, mtime) VALUES (1, 1, 4711, -1234, CURRENT_TIMESTAMP);
select count(*) from pg_catalog.pg_partitioned_table;
copy pgbench_accounts from stdin with (freeze on);
\.

-- Django
SELECT "auctions"."auction_id", "auctions"."title" FROM "auctions" WHERE "auctions"."auction_id" = $1 LIMIT 21;
SELECT "bids"."bid_id" FROM "bids" INNER JOIN "auctions" ON ("bids"."auction_id" = "auctions"."auction_id") WHERE ("auctions"."auction_id" IN ($1, $2, $3) AND NOT ("bids"."amount" > $4)) ORDER BY "bids"."placed_at" DESC LIMIT 20 OFFSET 40;
SELECT COUNT(*) AS "__count" FROM "bids" WHERE "bids"."auction_id" = 42;
SELECT (1) AS "a" FROM "bids" WHERE "bids"."auction_id" = 42 LIMIT 1;
UPDATE "auctions" SET "state" = 'closed', "title" = UPPER("auctions"."title"::text) WHERE "auctions"."auction_id" = 42;
DELETE FROM "bids" WHERE "bids"."auction_id" IN (SELECT U0."auction_id" FROM "auctions" U0 WHERE U0."auction_id" = 42);
INSERT INTO "bids" ("auction_id", "user_id", "amount", "placed_at") VALUES (42, 7, '12.50', '2024-05-01T12:00:00+00:00'::timestamptz), (43, 7, '13.50', '2024-05-01T12:00:01+00:00'::timestamptz) RETURNING "bids"."bid_id";
SELECT "django_session"."session_key" FROM "django_session" WHERE ("django_session"."expire_date" > '2024-05-01 12:00:00+00:00'::timestamptz AND "django_session"."session_key" = 'abc') LIMIT 21;
SELECT DISTINCT "auctions"."state" FROM "auctions" ORDER BY "auctions"."state" ASC;
SELECT "auctions"."auction_id", MAX("bids"."amount") AS "best" FROM "auctions" LEFT OUTER JOIN "bids" ON ("auctions"."auction_id" = "bids"."auction_id") GROUP BY "auctions"."auction_id" HAVING MAX("bids"."amount") > 100;
SELECT "auctions"."auction_id" FROM "auctions" WHERE EXISTS(SELECT 1 AS "a" FROM "bids" U0 WHERE (U0."auction_id" = ("auctions"."auction_id") AND U0."user_id" = 7) LIMIT 1);
SELECT "auctions"."auction_id" FROM "auctions" WHERE "auctions"."auction_id" = 42 FOR UPDATE;
SELECT "auctions"."auction_id" FROM "auctions" WHERE "auctions"."auction_id" = 42 FOR NO KEY UPDATE OF "auctions" SKIP LOCKED;
SAVEPOINT "s140_x1";
RELEASE SAVEPOINT "s140_x1";
ROLLBACK TO SAVEPOINT "s140_x1";
DECLARE "_django_curs_140" NO SCROLL CURSOR WITH HOLD FOR SELECT "bids"."bid_id" FROM "bids";

-- SQLAlchemy, psycopg, asyncpg
SELECT auctions.auction_id AS auctions_auction_id, auctions.title AS auctions_title FROM auctions WHERE auctions.auction_id = $1::INTEGER;
SELECT anon_1.auctions_auction_id, bids_1.bid_id FROM (SELECT auctions.auction_id AS auctions_auction_id FROM auctions WHERE auctions.auction_id = $1::BIGINT LIMIT $2::INTEGER) AS anon_1 LEFT OUTER JOIN bids AS bids_1 ON anon_1.auctions_auction_id = bids_1.auction_id;
INSERT INTO bids (auction_id, user_id, amount) SELECT p0::BIGINT, p1::BIGINT, p2::NUMERIC FROM (VALUES ($1, $2, $3, 0), ($4, $5, $6, 1)) AS imp_sen(p0, p1, p2, sen_counter) ORDER BY sen_counter RETURNING bids.bid_id, bids.bid_id AS bid_id__1;
UPDATE bids SET amount=$1::NUMERIC(12, 2) WHERE bids.auction_id = $2::BIGINT AND bids.bid_id = $3::BIGINT;
select pg_catalog.version();
select current_schema();
show standard_conforming_strings;
SELECT t.oid, typarray FROM pg_type t JOIN pg_namespace ns ON typnamespace = ns.oid WHERE typname = 'hstore';
select * from bids where auction_id = any($1);
select * from bids where auction_id = any('{1,2,3}'::bigint[]) and user_id = 7;
select * from bids where (auction_id, bid_id) = ($1, $2);
select * from bids where (auction_id, bid_id) in (($1, $2), ($3, $4));
select * from bids where auction_id = 42 or auction_id = 43 and user_id = 7;

-- Rails
SELECT "auctions".* FROM "auctions" WHERE "auctions"."auction_id" = $1 LIMIT $2;
SELECT 1 AS one FROM "users" WHERE "users"."email" = 'a@b.c' AND "users"."user_id" != 7 LIMIT 1;
INSERT INTO "users" ("name", "email") VALUES ('x', 'y') ON CONFLICT ("email") DO UPDATE SET "name"="excluded"."name" RETURNING "user_id";
INSERT INTO "bids" ("auction_id","user_id","amount") VALUES ($1, $2, $3) ON CONFLICT  DO NOTHING;
SELECT pg_advisory_lock(1234567890);
SELECT pg_try_advisory_lock(4354321);
SET SESSION timezone TO 'UTC';
SET client_min_messages TO 'warning';
SELECT a.attname, format_type(a.atttypid, a.atttypmod) FROM pg_attribute a LEFT JOIN pg_attrdef d ON a.attrelid = d.adrelid AND a.attnum = d.adnum WHERE a.attrelid = '"auctions"'::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum;

-- Hibernate, JDBC
select a1_0.auction_id,a1_0.title from auctions a1_0 where a1_0.auction_id=?;
select b1_0.auction_id,b1_0.bid_id from bids b1_0 where b1_0.auction_id=$1 order by b1_0.amount desc fetch first $2 rows only;
select nextval('bids_bid_id_seq');
SET extra_float_digits = 3;
SET application_name = 'PostgreSQL JDBC Driver';
BEGIN;
BEGIN READ ONLY;
START TRANSACTION ISOLATION LEVEL REPEATABLE READ, READ WRITE;
COMMIT;
ROLLBACK;
DISCARD ALL;
UNLISTEN *;
CLOSE ALL;
DEALLOCATE ALL;

-- By hand
with moved as (delete from bids where auction_id = 42 and placed_at < now() - interval '1 day' returning *) select count(*) from moved;
with best as (select auction_id, max(amount) as amount from bids where auction_id = $1 group by auction_id) update auctions a set meta = jsonb_set(coalesce(meta, '{}'), '{best}', to_jsonb(best.amount)) from best where a.auction_id = best.auction_id returning a.*;
insert into bids (auction_id, user_id, amount) select auction_id, $2, $3 from auctions where auction_id = $1 and ends_at > now() and state = 'open' returning bid_id;
merge into bids b using (values (42::bigint, 7::bigint, 12.5)) v (auction_id, user_id, amount) on b.auction_id = v.auction_id and b.user_id = v.user_id when matched then update set amount = v.amount when not matched then insert (auction_id, user_id, amount) values (v.auction_id, v.user_id, v.amount);
select a.*, (select max(amount) from bids b where b.auction_id = a.auction_id) as best from auctions a where a.auction_id = 42;
select a.title, b.amount, rank() over (partition by b.auction_id order by b.amount desc) from auctions a join lateral (select * from bids where auction_id = a.auction_id order by amount desc limit 3) b on true where a.auction_id in (1, 2, 3);
select date_trunc('hour', placed_at) as h, count(*), sum(amount) filter (where user_id = 7) from bids where auction_id = '42' group by 1 order by 1;
select meta ->> 'color', meta @> '{"a": 1}', title ilike '%x%', title ~* 'y' from auctions where auction_id = 42::bigint and meta ? 'a';
delete from bids using auctions a where a.auction_id = bids.auction_id and a.auction_id = 42;
update bids set auction_id = 43 where auction_id = 42;
update bids set auction_id = auction_id, amount = amount * 1.1 where auction_id = 42;
select * from bids where auction_id = 42 union all select * from bids where auction_id = 43;
select * from (values (1, 'a'), (2, 'b')) as v (id, name) join users on users.user_id = v.id;
explain (analyze, buffers) select * from bids where auction_id = 42;
copy (select * from bids where auction_id = 42) to stdout with (format csv, header);
copy bids (auction_id, user_id, amount) from stdin with (format csv, delimiter ';', null 'NULL', quote '''', header true);
\.
prepare place (bigint, bigint, numeric) as insert into bids (auction_id, user_id, amount) values ($1, $2, $3);
execute place (42, 7, 12.5);
deallocate place;
lock table auctions in share row exclusive mode;
listen bids_42;
notify bids_42, 'new';
-- A name longer than PostgreSQL keeps.
create table a_table_with_a_name_that_is_a_good_deal_longer_than_sixty_three_bytes (a_column_with_a_name_that_is_a_good_deal_longer_than_sixty_three_bytes bigint, v int);
select * from a_table_with_a_name_that_is_a_good_deal_longer_than_sixty_three_bytes where a_column_with_a_name_that_is_a_good_deal_longer_than_sixty_three_bytes = 5;
select * from "a_table_with_a_name_that_is_a_good_deal_longer_than_sixty_three_bytes_and_more" t where t."a_column_with_a_name_that_is_a_good_deal_longer_than_sixty_three_BYTES" = 5;
