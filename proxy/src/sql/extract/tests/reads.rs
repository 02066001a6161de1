//! Which answers of several shards may be concatenated; reference, unsharded and catalog tables; functions.

use super::support::check;
use expect_test::expect;

#[test]
fn concatenation() {
    check(
        &[
            "SELECT * FROM bids",
            "SELECT * FROM bids WHERE amount > 5 AND user_id = 3",
            "SELECT count(*) FROM bids",
            "SELECT max(amount) FROM bids WHERE auction_id IN (1, 2)",
            "SELECT auction_id, count(*) FROM bids GROUP BY auction_id HAVING count(*) > 1",
            "SELECT auction_id, count(*) FROM bids GROUP BY 1",
            "SELECT user_id, count(*) FROM bids GROUP BY user_id",
            "SELECT auction_id, user_id FROM bids GROUP BY ROLLUP (auction_id, user_id)",
            "SELECT b.auction_id, count(*) FROM auctions a LEFT JOIN bids b ON a.auction_id = b.auction_id GROUP BY b.auction_id",
            "SELECT DISTINCT user_id FROM bids",
            "SELECT DISTINCT auction_id, user_id FROM bids",
            "SELECT DISTINCT ON (auction_id) * FROM bids",
            "SELECT * FROM bids ORDER BY amount",
            "SELECT * FROM bids LIMIT 2",
            "SELECT * FROM bids OFFSET 2",
            "SELECT * FROM bids FETCH FIRST 3 ROWS ONLY",
            "SELECT rank() OVER (ORDER BY amount) FROM bids",
            "SELECT rank() OVER (PARTITION BY auction_id ORDER BY amount) FROM bids",
            "SELECT rank() OVER w FROM bids WINDOW w AS (PARTITION BY user_id)",
            "SELECT auction_id FROM bids UNION ALL SELECT auction_id FROM auctions",
            "SELECT * FROM bids b JOIN users u ON u.user_id = b.user_id",
            "SELECT * FROM bids b LEFT JOIN users u ON u.user_id = b.user_id",
            "SELECT * FROM users u LEFT JOIN bids b ON u.user_id = b.user_id",
            "SELECT * FROM users u LEFT JOIN bids b ON u.user_id = b.user_id WHERE b.auction_id = 4",
            "SELECT * FROM users u FULL JOIN bids b ON u.user_id = b.user_id",
            "SELECT (SELECT count(*) FROM bids)",
            "SELECT EXISTS (SELECT 1 FROM bids WHERE auction_id = 5)",
            "SELECT * FROM users u WHERE EXISTS (SELECT 1 FROM bids b WHERE b.user_id = u.user_id)",
            "SELECT * FROM bids WHERE amount > (SELECT avg(amount) FROM bids)",
            "SELECT (SELECT sum(b.amount)) FROM bids b",
            "WITH RECURSIVE t AS (SELECT auction_id FROM bids UNION ALL SELECT auction_id FROM t) SELECT * FROM t",
            "WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT * FROM t",
            "SELECT * FROM bids TABLESAMPLE BERNOULLI (10)",
            "SELECT * FROM bids WHERE auction_id = 1 FOR UPDATE SKIP LOCKED",
            "SELECT * FROM users WHERE user_id = 1 FOR UPDATE",
            "SELECT * FROM bids b JOIN users u USING (user_id) WHERE auction_id = 1 FOR UPDATE OF b",
        ],
        &expect![[r#"
            SELECT * FROM bids
                [any]
            SELECT * FROM bids WHERE amount > 5 AND user_id = 3
                [any]
            SELECT count(*) FROM bids
                [any] Integers list:«count(*)»
            SELECT max(amount) FROM bids WHERE auction_id IN (1, 2)
                [#0,#1] first Numeric true list:«(amount)»
            SELECT auction_id, count(*) FROM bids GROUP BY auction_id HAVING count(*) > 1
                [any]
            SELECT auction_id, count(*) FROM bids GROUP BY 1
                [any]
            SELECT user_id, count(*) FROM bids GROUP BY user_id
                [any] !GROUP BY without the shard key
            SELECT auction_id, user_id FROM bids GROUP BY ROLLUP (auction_id, user_id)
                [any] !GROUPING SETS
            SELECT b.auction_id, count(*) FROM auctions a LEFT JOIN bids b ON a.auction_id = b.auction_id GROUP BY b.auction_id
                [any] !GROUP BY a key that may be NULL
            SELECT DISTINCT user_id FROM bids
                [any] !DISTINCT without the shard key
            SELECT DISTINCT auction_id, user_id FROM bids
                [any]
            SELECT DISTINCT ON (auction_id) * FROM bids
                [any]
            SELECT * FROM bids ORDER BY amount
                [any] by None «amount» Numeric ↑ nulls last list:«SELECT *»
            SELECT * FROM bids LIMIT 2
                [any] list:«SELECT *» limit #0@«2»
            SELECT * FROM bids OFFSET 2
                [any] list:«SELECT *» offset #0@«2»
            SELECT * FROM bids FETCH FIRST 3 ROWS ONLY
                [any] list:«SELECT *» limit #0@«3»
            SELECT rank() OVER (ORDER BY amount) FROM bids
                [any] !a window not partitioned by the shard key
            SELECT rank() OVER (PARTITION BY auction_id ORDER BY amount) FROM bids
                [any]
            SELECT rank() OVER w FROM bids WINDOW w AS (PARTITION BY user_id)
                [any] !a window not partitioned by the shard key
            SELECT auction_id FROM bids UNION ALL SELECT auction_id FROM auctions
                [any | any] !UNION
            SELECT * FROM bids b JOIN users u ON u.user_id = b.user_id
                [any]
            SELECT * FROM bids b LEFT JOIN users u ON u.user_id = b.user_id
                [any]
            SELECT * FROM users u LEFT JOIN bids b ON u.user_id = b.user_id
                [any] !an outer join that keeps the rows of a table that is not sharded
            SELECT * FROM users u LEFT JOIN bids b ON u.user_id = b.user_id WHERE b.auction_id = 4
                [#0]
            SELECT * FROM users u FULL JOIN bids b ON u.user_id = b.user_id
                [any] !an outer join that keeps the rows of a table that is not sharded
            SELECT (SELECT count(*) FROM bids)
                [any] !aggregate count
            SELECT EXISTS (SELECT 1 FROM bids WHERE auction_id = 5)
                [#1] !a subquery on a sharded table
            SELECT * FROM users u WHERE EXISTS (SELECT 1 FROM bids b WHERE b.user_id = u.user_id)
                [any] !a subquery on a sharded table
            SELECT * FROM bids WHERE amount > (SELECT avg(amount) FROM bids)
                [any | any] !aggregate avg
            SELECT (SELECT sum(b.amount)) FROM bids b
                [any] !an aggregate over columns of an outer query
            WITH RECURSIVE t AS (SELECT auction_id FROM bids UNION ALL SELECT auction_id FROM t) SELECT * FROM t
                [any] !UNION
            WITH RECURSIVE t(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM t WHERE n < 5) SELECT * FROM t
                Nothing
            SELECT * FROM bids TABLESAMPLE BERNOULLI (10)
                [any] !TABLESAMPLE
            SELECT * FROM bids WHERE auction_id = 1 FOR UPDATE SKIP LOCKED
                [#0] ReadPrimary("FOR UPDATE or FOR SHARE")
            SELECT * FROM users WHERE user_id = 1 FOR UPDATE
                Home ReadPrimary("FOR UPDATE or FOR SHARE")
            SELECT * FROM bids b JOIN users u USING (user_id) WHERE auction_id = 1 FOR UPDATE OF b
                [#0] ReadPrimary("FOR UPDATE or FOR SHARE")
        "#]],
    );
}

#[test]
fn scopes_and_functions() {
    check(
        &[
            "SELECT 1",
            "SELECT * FROM users",
            "SELECT * FROM stats",
            "SELECT * FROM missing",
            "SELECT * FROM pg_class WHERE relname = 'bids'",
            "SELECT * FROM bids b JOIN stats s ON s.auction_id = b.auction_id WHERE b.auction_id = 1",
            "SELECT 'bids'::regclass",
            "SELECT pg_total_relation_size('bids')",
            "SELECT nextval('bids_id_seq')",
            "SELECT currval('bids_id_seq')",
            "SELECT now()",
            "SELECT * FROM bids WHERE auction_id = 1 AND id > random()",
            "SELECT slugify(title) FROM auctions WHERE auction_id = 1",
            "SELECT place_bid(42, 7)",
            "SELECT * FROM place_bid($1, 7)",
            "SELECT place_bid(auction_id, 7) FROM auctions WHERE auction_id = 5",
            "SELECT close_all()",
            "SELECT mystery(1)",
            "CALL close_all()",
            "CALL place_bid(5, 1)",
            "SELECT pg_advisory_lock(1)",
            "SELECT pg_advisory_xact_lock(1)",
            "SELECT set_config('x', 'y', false)",
            "SELECT set_config('x', 'y', true)",
            "SELECT pg_notify('c', 'x')",
            "SELECT txid_current()",
            "SELECT query_to_xml('select * from bids', true, true, '')",
            "INSERT INTO users (user_id, name, token) VALUES (1, 'a', NULL)",
            "INSERT INTO users (user_id, name) VALUES (1, 'a')",
            "INSERT INTO users VALUES (1, 'a', NULL)",
            "INSERT INTO users VALUES (1, 'a', DEFAULT)",
            "INSERT INTO users SELECT 1, 'a', NULL",
            "UPDATE bids SET auction_id = 5, amount = 2 WHERE auction_id = 5",
            "SELECT tableoid::regclass FROM bids WHERE auction_id = 5",
            "UPDATE users SET name = 'x' WHERE user_id = 1",
            "DELETE FROM users WHERE user_id IN (SELECT user_id FROM users LIMIT 1)",
            "INSERT INTO users SELECT * FROM stats",
            "UPDATE users SET name = 'x' FROM bids b WHERE b.auction_id = 1",
            "INSERT INTO stats SELECT auction_id, count(*) FROM bids WHERE auction_id = 1 GROUP BY 1",
            "INSERT INTO missing VALUES (1)",
            "UPDATE bids SET auction_id = 6 WHERE auction_id = 5",
            "UPDATE bids SET auction_id = $1, amount = 3 WHERE auction_id = $1",
            "UPDATE bids SET (amount, auction_id) = (1, auction_id) WHERE id = 5",
            "WITH d AS (DELETE FROM bids WHERE auction_id = 1 RETURNING *) SELECT * FROM d WHERE auction_id = 2",
            "WITH d AS (DELETE FROM bids RETURNING *) SELECT count(*) FROM d",
            "MERGE INTO bids t USING auctions s ON t.auction_id = s.auction_id WHEN MATCHED THEN DELETE",
            "MERGE INTO bids t USING auctions s ON t.auction_id = s.auction_id WHEN NOT MATCHED THEN INSERT (auction_id, amount) VALUES (s.auction_id, 1)",
            "MERGE INTO bids t USING auctions s ON t.auction_id = s.auction_id WHEN NOT MATCHED THEN INSERT (auction_id, amount) VALUES (s.seller, 1)",
            "MERGE INTO bids t USING (VALUES (1, 2)) s(k, a) ON t.auction_id = 5 AND t.user_id = s.k WHEN NOT MATCHED THEN INSERT (auction_id, amount) VALUES (5, 1)",
        ],
        &expect![[r#"
            SELECT 1
                Nothing
            SELECT * FROM users
                Reference
            SELECT * FROM stats
                Home
            SELECT * FROM missing
                Home
            SELECT * FROM pg_class WHERE relname = 'bids'
                Home
            SELECT * FROM bids b JOIN stats s ON s.auction_id = b.auction_id WHERE b.auction_id = 1
                [#0] home:public.stats
            SELECT 'bids'::regclass
                Home
            SELECT pg_total_relation_size('bids')
                Home
            SELECT nextval('bids_id_seq')
                Home ReadPrimary("volatile function nextval") unrepeatable:nextval() sequence
            SELECT currval('bids_id_seq')
                Home ReadPrimary("volatile function currval") unrepeatable:currval() currval
            SELECT now()
                Nothing unrepeatable:now()
            SELECT * FROM bids WHERE auction_id = 1 AND id > random()
                [#0] unrepeatable:random()
            SELECT slugify(title) FROM auctions WHERE auction_id = 1
                [#0]
            SELECT place_bid(42, 7)
                [#0] !function place_bid, which is placed by its key argument Write unrepeatable:place_bid()
            SELECT * FROM place_bid($1, 7)
                [$1] !function place_bid, which is placed by its key argument Write unrepeatable:place_bid()
            SELECT place_bid(auction_id, 7) FROM auctions WHERE auction_id = 5
                [#1] !function place_bid, which is placed by its key argument Write unrepeatable:place_bid()
            SELECT close_all()
                Unknown { why: "function close_all may reach sharded tables: declare it in [[functions]], with key_argument if it works on one key" } Write unrepeatable:close_all()
            SELECT mystery(1)
                Unknown { why: "function mystery may reach sharded tables: declare it in [[functions]], with key_argument if it works on one key" }
            CALL close_all()
                Call Unknown { why: "function close_all may reach sharded tables: declare it in [[functions]], with key_argument if it works on one key" } Write unrepeatable:close_all()
            CALL place_bid(5, 1)
                Call [#0] !function place_bid, which is placed by its key argument Write unrepeatable:place_bid()
            SELECT pg_advisory_lock(1)
                Home ReadPrimary("advisory lock pg_advisory_lock") unrepeatable:pg_advisory_lock() pins:AdvisoryLock advisory
            SELECT pg_advisory_xact_lock(1)
                Home ReadPrimary("advisory lock pg_advisory_xact_lock") unrepeatable:pg_advisory_xact_lock() advisory
            SELECT set_config('x', 'y', false)
                Home ReadPrimary("volatile function set_config") unrepeatable:set_config() pins:Config
            SELECT set_config('x', 'y', true)
                Home ReadPrimary("volatile function set_config") unrepeatable:set_config() pins:Config
            SELECT pg_notify('c', 'x')
                Nothing Write unrepeatable:pg_notify()
            SELECT txid_current()
                Home ReadPrimary("txid_current() answers for the node") node
            SELECT query_to_xml('select * from bids', true, true, '')
                Unknown { why: "query_to_xml() runs a query that is handed to it as a value" } ReadPrimary("volatile function query_to_xml") unrepeatable:query_to_xml()
            INSERT INTO users (user_id, name, token) VALUES (1, 'a', NULL)
                Insert ReferenceWrite Write
            INSERT INTO users (user_id, name) VALUES (1, 'a')
                Insert ReferenceWrite Write
            INSERT INTO users VALUES (1, 'a', NULL)
                Insert ReferenceWrite Write
            INSERT INTO users VALUES (1, 'a', DEFAULT)
                Insert ReferenceWrite Write
            INSERT INTO users SELECT 1, 'a', NULL
                Insert ReferenceWrite Write
            UPDATE bids SET auction_id = 5, amount = 2 WHERE auction_id = 5
                Update [#2] Write
            SELECT tableoid::regclass FROM bids WHERE auction_id = 5
                [#0]
            UPDATE users SET name = 'x' WHERE user_id = 1
                Update ReferenceWrite Write
            DELETE FROM users WHERE user_id IN (SELECT user_id FROM users LIMIT 1)
                Delete ReferenceWrite Write unrepeatable:LIMIT without ORDER BY
            INSERT INTO users SELECT * FROM stats
                Insert Unknown { why: "it writes the reference table public.users and uses public.stats of the home shard" } Write unrepeatable:the default of public.users.token
            UPDATE users SET name = 'x' FROM bids b WHERE b.auction_id = 1
                Update [#1] writes-reference Write
            INSERT INTO stats SELECT auction_id, count(*) FROM bids WHERE auction_id = 1 GROUP BY 1
                Insert [#0] home:public.stats Write
            INSERT INTO missing VALUES (1)
                Insert Unknown { why: "relation missing is not known (yet) and is written" } Write
            UPDATE bids SET auction_id = 6 WHERE auction_id = 5
                Update [#1] updates-key Write
            UPDATE bids SET auction_id = $1, amount = 3 WHERE auction_id = $1
                Update [$1] Write
            UPDATE bids SET (amount, auction_id) = (1, auction_id) WHERE id = 5
                Update [any] Write
            WITH d AS (DELETE FROM bids WHERE auction_id = 1 RETURNING *) SELECT * FROM d WHERE auction_id = 2
                Other [#0] Write
            WITH d AS (DELETE FROM bids RETURNING *) SELECT count(*) FROM d
                Other [any] !aggregates Write
            MERGE INTO bids t USING auctions s ON t.auction_id = s.auction_id WHEN MATCHED THEN DELETE
                Merge [any] Write
            MERGE INTO bids t USING auctions s ON t.auction_id = s.auction_id WHEN NOT MATCHED THEN INSERT (auction_id, amount) VALUES (s.auction_id, 1)
                Merge [any] Write
            MERGE INTO bids t USING auctions s ON t.auction_id = s.auction_id WHEN NOT MATCHED THEN INSERT (auction_id, amount) VALUES (s.seller, 1)
                Merge Unknown { why: "MERGE inserts into public.bids a key that ON does not compare" } Write
            MERGE INTO bids t USING (VALUES (1, 2)) s(k, a) ON t.auction_id = 5 AND t.user_id = s.k WHEN NOT MATCHED THEN INSERT (auction_id, amount) VALUES (5, 1)
                Merge [#2] !MERGE from a source that is not sharded Write
        "#]],
    );
}
