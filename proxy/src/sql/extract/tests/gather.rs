//! Order, LIMIT and OFFSET: what is done once for all shards, and what is not.

use super::support::check;
use expect_test::expect;

#[test]
fn orders() {
    check(
        &[
            "SELECT id, amount FROM bids ORDER BY id",
            "SELECT id, amount FROM bids ORDER BY amount DESC, bids.id NULLS FIRST",
            "SELECT * FROM bids ORDER BY amount DESC NULLS LAST, 1",
            "SELECT b.*, u.name FROM bids b JOIN users u USING (user_id) ORDER BY user_id, 2",
            "SELECT auction_id AS id, id AS x FROM bids ORDER BY id, x",
            "SELECT amount::int id FROM bids ORDER BY id, (id)",
            "SELECT created FROM auctions ORDER BY created",
            "SELECT title FROM auctions ORDER BY title",
            "SELECT title FROM auctions ORDER BY title COLLATE \"C\"",
            "SELECT title COLLATE \"POSIX\" t FROM auctions ORDER BY t",
            "SELECT title FROM auctions ORDER BY title COLLATE \"de_DE\"",
            "SELECT lower(title) COLLATE \"C\" AS title FROM auctions ORDER BY title COLLATE \"C\", auction_id",
            "SELECT title FROM auctions ORDER BY lower(title COLLATE \"C\")",
            "SELECT auction_id, count(*) FROM bids GROUP BY auction_id ORDER BY count(*) DESC, auction_id",
            "SELECT auction_id, count(*) FROM bids GROUP BY auction_id ORDER BY count",
            "SELECT auction_id, sum(amount) s FROM bids GROUP BY auction_id ORDER BY s",
            "SELECT id FROM bids ORDER BY lower(tags)",
            "SELECT id FROM bids ORDER BY slugify(id)",
            "SELECT id FROM bids ORDER BY random()",
            "SELECT id FROM bids ORDER BY id USING >",
            "SELECT id, amount::text id FROM bids ORDER BY id",
            "SELECT amount::text FROM bids ORDER BY amount",
            "SELECT (SELECT 1) FROM bids ORDER BY id",
            "SELECT DISTINCT auction_id, amount FROM bids ORDER BY auction_id",
            "SELECT DISTINCT auction_id, amount FROM bids ORDER BY amount",
            "SELECT DISTINCT ON (auction_id) id FROM bids ORDER BY auction_id, amount",
            "SELECT x.a FROM (SELECT id a, amount FROM bids) x ORDER BY x.amount, a",
            "WITH x AS (SELECT id, amount FROM bids) SELECT id FROM x ORDER BY amount",
            "SELECT id FROM bids, LATERAL unnest(tags) t ORDER BY id",
            "SELECT id FROM bids, LATERAL unnest(tags) t ORDER BY bids.id",
            "SELECT \"limit\" AS limit, id IS DISTINCT FROM 7 FROM (SELECT id AS \"limit\", id FROM bids) x ORDER BY x.\"limit\"",
            "SELECT id FROM bids ORDER BY 2",
            "SELECT id FROM bids ORDER BY NULL",
            "SELECT id FROM bids UNION ALL SELECT id FROM bids ORDER BY id",
            "(SELECT id FROM bids ORDER BY id) ORDER BY id",
            "SELECT id FROM bids ORDER BY id FOR UPDATE",
            "SELECT id FROM (SELECT id FROM bids ORDER BY id LIMIT 1) x",
            "SELECT id FROM (SELECT id FROM bids ORDER BY id) x",
            "COPY (SELECT id FROM bids ORDER BY id) TO STDOUT",
            "DECLARE c CURSOR FOR SELECT id FROM bids ORDER BY id",
            "PREPARE p AS SELECT id FROM bids ORDER BY id",
            "WITH w AS (DELETE FROM bids RETURNING id) SELECT id FROM w ORDER BY id",
        ],
        &expect![[r#"
            SELECT id, amount FROM bids ORDER BY id
                [any] by Some(0) «id» Int8 ↑ nulls last list:«, amount»
            SELECT id, amount FROM bids ORDER BY amount DESC, bids.id NULLS FIRST
                [any] by Some(1) «amount» Numeric ↓ nulls first by None «bids.id» Int8 ↑ nulls first list:«, amount»
            SELECT * FROM bids ORDER BY amount DESC NULLS LAST, 1
                [any] by None «amount» Numeric ↓ nulls last by Some(0) «"id"» Int8 ↑ nulls last list:«SELECT *»
            SELECT b.*, u.name FROM bids b JOIN users u USING (user_id) ORDER BY user_id, 2
                [any] by None «user_id» Int8 ↑ nulls last by Some(1) «"auction_id"» Int8 ↑ nulls last list:«, u.name»
            SELECT auction_id AS id, id AS x FROM bids ORDER BY id, x
                [any] by Some(0) «auction_id» Int8 ↑ nulls last by Some(1) «id» Int8 ↑ nulls last list:« id AS x»
            SELECT amount::int id FROM bids ORDER BY id, (id)
                [any] by Some(0) «amount::int» Int4 ↑ nulls last by Some(0) «amount::int» Int4 ↑ nulls last list:«::int id»
            SELECT created FROM auctions ORDER BY created
                [any] by Some(0) «created» Timestamptz ↑ nulls last list:« created»
            SELECT title FROM auctions ORDER BY title
                [any] !ORDER BY
            SELECT title FROM auctions ORDER BY title COLLATE "C"
                [any] by None «title COLLATE "C"» Text ↑ nulls last list:«CT title»
            SELECT title COLLATE "POSIX" t FROM auctions ORDER BY t
                [any] by None «title COLLATE "POSIX"» Text ↑ nulls last list:«POSIX" t»
            SELECT title FROM auctions ORDER BY title COLLATE "de_DE"
                [any] !ORDER BY
            SELECT lower(title) COLLATE "C" AS title FROM auctions ORDER BY title COLLATE "C", auction_id
                [any] by None «title COLLATE "C"» Text ↑ nulls last by None «auction_id» Int8 ↑ nulls last list:«AS title»
            SELECT title FROM auctions ORDER BY lower(title COLLATE "C")
                [any] !ORDER BY
            SELECT auction_id, count(*) FROM bids GROUP BY auction_id ORDER BY count(*) DESC, auction_id
                [any] by Some(1) «count(*)» Int8 ↓ nulls first by Some(0) «auction_id» Int8 ↑ nulls last list:«count(*)»
            SELECT auction_id, count(*) FROM bids GROUP BY auction_id ORDER BY count
                [any] by Some(1) «count(*)» Int8 ↑ nulls last list:«count(*)»
            SELECT auction_id, sum(amount) s FROM bids GROUP BY auction_id ORDER BY s
                [any] by Some(1) «sum(amount)» Numeric ↑ nulls last list:«mount) s»
            SELECT id FROM bids ORDER BY lower(tags)
                [any] !ORDER BY
            SELECT id FROM bids ORDER BY slugify(id)
                [any] !ORDER BY
            SELECT id FROM bids ORDER BY random()
                [any] !ORDER BY unrepeatable:random()
            SELECT id FROM bids ORDER BY id USING >
                [any] !ORDER BY
            SELECT id, amount::text id FROM bids ORDER BY id
                [any] by Some(0) «id» Int8 ↑ nulls last list:«:text id»
            SELECT amount::text FROM bids ORDER BY amount
                [any] !ORDER BY
            SELECT (SELECT 1) FROM bids ORDER BY id
                [any] !ORDER BY
            SELECT DISTINCT auction_id, amount FROM bids ORDER BY auction_id
                [any] by Some(0) «auction_id» Int8 ↑ nulls last list:«, amount»
            SELECT DISTINCT auction_id, amount FROM bids ORDER BY amount
                [any] by Some(1) «-» Numeric ↑ nulls last list:«, amount»
            SELECT DISTINCT ON (auction_id) id FROM bids ORDER BY auction_id, amount
                [any] by None «auction_id» Int8 ↑ nulls last by None «amount» Numeric ↑ nulls last list:«n_id) id»
            SELECT x.a FROM (SELECT id a, amount FROM bids) x ORDER BY x.amount, a
                [any] by None «x.amount» Numeric ↑ nulls last by Some(0) «x.a» Int8 ↑ nulls last list:«LECT x.a»
            WITH x AS (SELECT id, amount FROM bids) SELECT id FROM x ORDER BY amount
                [any] by None «amount» Numeric ↑ nulls last list:«ELECT id»
            SELECT id FROM bids, LATERAL unnest(tags) t ORDER BY id
                [any] !ORDER BY
            SELECT id FROM bids, LATERAL unnest(tags) t ORDER BY bids.id
                [any] by None «bids.id» Int8 ↑ nulls last list:«ELECT id»
            SELECT "limit" AS limit, id IS DISTINCT FROM 7 FROM (SELECT id AS "limit", id FROM bids) x ORDER BY x."limit"
                [any] by None «x."limit"» Int8 ↑ nulls last list:«T FROM 7»
            SELECT id FROM bids ORDER BY 2
                [any] !ORDER BY
            SELECT id FROM bids ORDER BY NULL
                [any] !ORDER BY
            SELECT id FROM bids UNION ALL SELECT id FROM bids ORDER BY id
                [any | any] !UNION
            (SELECT id FROM bids ORDER BY id) ORDER BY id
                [any] !ORDER BY
            SELECT id FROM bids ORDER BY id FOR UPDATE
                [any] by Some(0) «id» Int8 ↑ nulls last list:«ELECT id» ReadPrimary("FOR UPDATE or FOR SHARE")
            SELECT id FROM (SELECT id FROM bids ORDER BY id LIMIT 1) x
                [any] !LIMIT or OFFSET
            SELECT id FROM (SELECT id FROM bids ORDER BY id) x
                [any] !ORDER BY of a subquery in FROM
            COPY (SELECT id FROM bids ORDER BY id) TO STDOUT
                CopyOut(CopyShape { format: Text, delimiter: 9, null: "\\N", quote: 34, escape: 34, header: false, key_field: None, key_type: None, key_modifier: None, columns: 0, force_null_key: false, encoding: None, times: [] }) [any] !ORDER BY
            DECLARE c CURSOR FOR SELECT id FROM bids ORDER BY id
                Declare { name: "c", hold: false } [any] by Some(0) «id» Int8 ↑ nulls last list:«ELECT id»
            PREPARE p AS SELECT id FROM bids ORDER BY id
                Prepare("p") [any] !PREPARE in SQL by Some(0) «id» Int8 ↑ nulls last list:«ELECT id» pins:SqlPrepare
            WITH w AS (DELETE FROM bids RETURNING id) SELECT id FROM w ORDER BY id
                Other [any] !ORDER BY Write
        "#]],
    );
}

#[test]
fn limits() {
    check(
        &[
            "SELECT id FROM bids LIMIT 5 OFFSET $1",
            "SELECT id FROM bids OFFSET 2 ROWS LIMIT $2::int",
            "SELECT id FROM bids ORDER BY id LIMIT ALL OFFSET 0",
            "SELECT id FROM bids ORDER BY id LIMIT NULL",
            "SELECT id FROM bids ORDER BY id FETCH FIRST 3 ROWS ONLY",
            "SELECT id FROM bids ORDER BY id OFFSET 7 ROWS FETCH NEXT ROW ONLY",
            "SELECT id FROM bids ORDER BY id FETCH FIRST ($1) ROWS WITH TIES",
            "SELECT id FROM bids ORDER BY id LIMIT 1 + 1",
            "SELECT id FROM bids ORDER BY id LIMIT (SELECT 1)",
            "SELECT id FROM bids ORDER BY id LIMIT 3 FOR UPDATE",
            "SELECT id FROM bids ORDER BY amount -- the greatest\n LIMIT 3 -- three\n;",
        ],
        &expect![[r#"
            SELECT id FROM bids LIMIT 5 OFFSET $1
                [any] list:«ELECT id» limit #0@«5» offset $1@«$1»
            SELECT id FROM bids OFFSET 2 ROWS LIMIT $2::int
                [any] list:«ELECT id» limit $2::int@«$2::int» offset #0@«2»
            SELECT id FROM bids ORDER BY id LIMIT ALL OFFSET 0
                [any] by Some(0) «id» Int8 ↑ nulls last list:«ELECT id» offset #0@«0»
            SELECT id FROM bids ORDER BY id LIMIT NULL
                [any] by Some(0) «id» Int8 ↑ nulls last list:«ELECT id» limit NULL@«NULL»
            SELECT id FROM bids ORDER BY id FETCH FIRST 3 ROWS ONLY
                [any] by Some(0) «id» Int8 ↑ nulls last list:«ELECT id» limit #0@«3»
            SELECT id FROM bids ORDER BY id OFFSET 7 ROWS FETCH NEXT ROW ONLY
                [any] by Some(0) «id» Int8 ↑ nulls last list:«ELECT id» limit 1@«» offset #0@«7»
            SELECT id FROM bids ORDER BY id FETCH FIRST ($1) ROWS WITH TIES
                Unreadable { complaint: "sql parser error: Expected: a value, found: ( at Line: 1, Column: 45" } Unknown { why: "sql parser error: Expected: a value, found: ( at Line: 1, Column: 45; it names public.bids" } Write
            SELECT id FROM bids ORDER BY id LIMIT 1 + 1
                [any] !LIMIT or OFFSET
            SELECT id FROM bids ORDER BY id LIMIT (SELECT 1)
                [any] !LIMIT or OFFSET
            SELECT id FROM bids ORDER BY id LIMIT 3 FOR UPDATE
                [any] by Some(0) «id» Int8 ↑ nulls last list:«ELECT id» limit #0@«3» ReadPrimary("FOR UPDATE or FOR SHARE")
            SELECT id FROM bids ORDER BY amount -- the greatest
             LIMIT 3 -- three
            ;
                [any] by None «amount» Numeric ↑ nulls last list:«ELECT id» limit #0@«3»
        "#]],
    );
}

#[test]
fn folds() {
    check(
        &[
            "SELECT count(*) FROM bids",
            "SELECT count(amount) AS n, sum(id), sum(amount) FILTER (WHERE id > 1) FROM bids WHERE user_id = 3",
            "SELECT min(id), max(created) AS last FROM bids JOIN auctions USING (auction_id)",
            "SELECT sum(id::int), max((amount)) FROM bids",
            "SELECT bool_and(id::bool), every(id::bool), bool_or(id::bool) FROM bids",
            "SELECT count(DISTINCT id) FROM bids",
            "SELECT count(*) + 1 FROM bids",
            "SELECT count(*)::int FROM bids",
            "SELECT avg(amount) FROM bids",
            "SELECT max(title) FROM auctions",
            "SELECT sum(amount::float8) FROM bids",
            "SELECT count(*), 1 FROM bids",
            "SELECT count(*) FROM bids HAVING count(*) > 1",
            "SELECT count(*) FROM bids LIMIT 1",
            "SELECT count(*) FROM bids ORDER BY 1",
            "SELECT count(*) OVER () FROM bids",
            "SELECT count(*) FROM (SELECT DISTINCT user_id FROM bids) x",
            "SELECT count(*) FROM (SELECT DISTINCT auction_id FROM bids) x",
            "SELECT count(*) FROM users LEFT JOIN bids USING (user_id)",
            "SELECT (SELECT count(*) FROM bids) FROM users",
            "SELECT count(*) FROM bids UNION ALL SELECT 1",
            "COPY (SELECT count(*) FROM bids) TO STDOUT",
            "SELECT count(*) FROM users",
        ],
        &expect![[r#"
            SELECT count(*) FROM bids
                [any] Integers list:«count(*)»
            SELECT count(amount) AS n, sum(id), sum(amount) FILTER (WHERE id > 1) FROM bids WHERE user_id = 3
                [any] Integers Numerics Numerics list:« id > 1)»
            SELECT min(id), max(created) AS last FROM bids JOIN auctions USING (auction_id)
                [any] first Int8 false first Timestamptz true list:« AS last»
            SELECT sum(id::int), max((amount)) FROM bids
                [any] Integers first Numeric true list:«amount))»
            SELECT bool_and(id::bool), every(id::bool), bool_or(id::bool) FROM bids
                Unknown { why: "function bool_and may reach sharded tables: declare it in [[functions]], with key_argument if it works on one key" }
            SELECT count(DISTINCT id) FROM bids
                [any] !aggregate count
            SELECT count(*) + 1 FROM bids
                [any] !aggregate count
            SELECT count(*)::int FROM bids
                [any] !aggregate count
            SELECT avg(amount) FROM bids
                [any] !aggregate avg
            SELECT max(title) FROM auctions
                [any] !aggregate max
            SELECT sum(amount::float8) FROM bids
                [any] !aggregate sum
            SELECT count(*), 1 FROM bids
                [any] !aggregate count
            SELECT count(*) FROM bids HAVING count(*) > 1
                [any] !aggregate count
            SELECT count(*) FROM bids LIMIT 1
                [any] !aggregate count list:«count(*)» limit #0@«1»
            SELECT count(*) FROM bids ORDER BY 1
                [any] !aggregate count by Some(0) «count(*)» Int8 ↑ nulls last list:«count(*)»
            SELECT count(*) OVER () FROM bids
                [any] !a window not partitioned by the shard key
            SELECT count(*) FROM (SELECT DISTINCT user_id FROM bids) x
                [any] !DISTINCT without the shard key Integers list:«count(*)»
            SELECT count(*) FROM (SELECT DISTINCT auction_id FROM bids) x
                [any] Integers list:«count(*)»
            SELECT count(*) FROM users LEFT JOIN bids USING (user_id)
                [any] !an outer join that keeps the rows of a table that is not sharded Integers list:«count(*)»
            SELECT (SELECT count(*) FROM bids) FROM users
                [any] !aggregate count
            SELECT count(*) FROM bids UNION ALL SELECT 1
                [any] !aggregate count
            COPY (SELECT count(*) FROM bids) TO STDOUT
                CopyOut(CopyShape { format: Text, delimiter: 9, null: "\\N", quote: 34, escape: 34, header: false, key_field: None, key_type: None, key_modifier: None, columns: 0, force_null_key: false, encoding: None, times: [] }) [any] !aggregates
            SELECT count(*) FROM users
                Reference
        "#]],
    );
}
