//! When a key pins a table, and when it does not.

use super::support::check;
use expect_test::expect;

#[test]
fn conditions_that_pin() {
    check(
        &[
            "SELECT * FROM bids WHERE auction_id = 42",
            "SELECT * FROM bids WHERE 42 = auction_id",
            "SELECT * FROM bids b WHERE b.auction_id = $1 AND amount > 5",
            "SELECT * FROM public.bids WHERE bids.auction_id = '42'",
            "SELECT * FROM public.bids WHERE public.bids.auction_id = -42",
            "SELECT * FROM bids WHERE (auction_id = $1::bigint)",
            "SELECT * FROM bids WHERE auction_id = CAST('7' AS int8)",
            "SELECT * FROM bids WHERE auction_id = int8 '7'",
            "SELECT * FROM bids WHERE auction_id IN (1, $2, 3)",
            "SELECT * FROM bids WHERE auction_id = ANY($1)",
            "SELECT * FROM bids WHERE auction_id = ANY('{1,2}'::bigint[])",
            "SELECT * FROM bids WHERE auction_id = ANY(ARRAY[1,2])",
            "SELECT * FROM bids WHERE auction_id = 1 OR auction_id = 2",
            "SELECT * FROM bids WHERE (auction_id = 1 AND amount = 2) OR (user_id = 5 AND auction_id = 3)",
            "SELECT * FROM bids WHERE (auction_id, user_id) = (1, 2)",
            "SELECT * FROM bids WHERE (auction_id, user_id) IN ((1, 2), ($1, 3))",
            "SELECT * FROM bids WHERE auction_id = NULL",
            "SELECT * FROM \"bids\" WHERE \"auction_id\" = 1",
            "SELECT * FROM BIDS WHERE Auction_ID = 1",
            "UPDATE bids SET amount = 1 WHERE auction_id = $2",
            "DELETE FROM bids WHERE auction_id = 5 AND id = 6",
            "SELECT * FROM ONLY bids WHERE auction_id = 1",
            "TABLE bids",
        ],
        &expect![[r#"
            SELECT * FROM bids WHERE auction_id = 42
                [#0]
            SELECT * FROM bids WHERE 42 = auction_id
                [#0]
            SELECT * FROM bids b WHERE b.auction_id = $1 AND amount > 5
                [$1]
            SELECT * FROM public.bids WHERE bids.auction_id = '42'
                [#0]
            SELECT * FROM public.bids WHERE public.bids.auction_id = -42
                [-#0]
            SELECT * FROM bids WHERE (auction_id = $1::bigint)
                [$1::bigint]
            SELECT * FROM bids WHERE auction_id = CAST('7' AS int8)
                [#0::int8]
            SELECT * FROM bids WHERE auction_id = int8 '7'
                [#0::int8]
            SELECT * FROM bids WHERE auction_id IN (1, $2, 3)
                [#0,$2,#1]
            SELECT * FROM bids WHERE auction_id = ANY($1)
                [array $1]
            SELECT * FROM bids WHERE auction_id = ANY('{1,2}'::bigint[])
                [array #0::bigint[]]
            SELECT * FROM bids WHERE auction_id = ANY(ARRAY[1,2])
                [#0,#1]
            SELECT * FROM bids WHERE auction_id = 1 OR auction_id = 2
                [#0,#1]
            SELECT * FROM bids WHERE (auction_id = 1 AND amount = 2) OR (user_id = 5 AND auction_id = 3)
                [#0,#3]
            SELECT * FROM bids WHERE (auction_id, user_id) = (1, 2)
                [#0]
            SELECT * FROM bids WHERE (auction_id, user_id) IN ((1, 2), ($1, 3))
                [#0,$1]
            SELECT * FROM bids WHERE auction_id = NULL
                [never]
            SELECT * FROM "bids" WHERE "auction_id" = 1
                [#0]
            SELECT * FROM BIDS WHERE Auction_ID = 1
                [#0]
            UPDATE bids SET amount = 1 WHERE auction_id = $2
                Update [$2] Write
            DELETE FROM bids WHERE auction_id = 5 AND id = 6
                Delete [#0] Write
            SELECT * FROM ONLY bids WHERE auction_id = 1
                [#0]
            TABLE bids
                [any]
        "#]],
    );
}

#[test]
fn conditions_that_pin_nothing() {
    check(
        &[
            "SELECT auction_id = 1 FROM bids",
            "SELECT count(*) FILTER (WHERE auction_id = 1) FROM bids",
            "SELECT CASE WHEN auction_id = 1 THEN 2 END FROM bids",
            "SELECT user_id FROM bids GROUP BY user_id, auction_id HAVING auction_id = 1",
            "SELECT * FROM auctions a LEFT JOIN bids b ON b.auction_id = a.auction_id AND b.auction_id = 5",
            "SELECT * FROM auctions a LEFT JOIN bids b ON b.auction_id = a.auction_id AND a.auction_id = 5",
            "SELECT auction_id FROM bids WHERE auction_id = 1 UNION SELECT auction_id FROM auctions",
            "SELECT * FROM bids WHERE auction_id = 1 OR amount = 3",
            "SELECT * FROM bids WHERE id IN (SELECT id FROM bids WHERE auction_id = 1)",
            "SELECT * FROM bids WHERE auction_id % 10 = 3",
            "SELECT * FROM bids WHERE auction_id + 1 = 5",
            "SELECT * FROM bids WHERE auction_id = $1 + 1",
            "SELECT * FROM bids WHERE NOT (auction_id = 1)",
            "SELECT * FROM bids WHERE auction_id <> 1",
            "SELECT * FROM bids WHERE auction_id NOT IN (1, 2)",
            "SELECT * FROM bids b, stats s WHERE s.auction_id = 1",
            "SELECT * FROM stats bids WHERE bids.auction_id = 1",
            "SELECT * FROM audit.bids WHERE auction_id = 1",
            "SELECT * FROM bids WHERE auction_id::int = 1",
            "SELECT * FROM bids WHERE auction_id::text = '1'",
            "SELECT * FROM bids WHERE auction_id = 5::numeric::int8",
            "SELECT * FROM bids WHERE (auction_id = 1) IS NOT TRUE",
            "SELECT * FROM bids WHERE auction_id = 1 IS NULL",
            "SELECT * FROM bids WHERE coalesce(auction_id = 1, true)",
            "SELECT * FROM bids WHERE auction_id BETWEEN 1 AND 2",
            "SELECT * FROM bids WHERE user_id = 1",
            "WITH bids AS (SELECT * FROM stats) SELECT * FROM bids WHERE auction_id = 1",
            "WITH x AS (SELECT * FROM bids LIMIT 10) SELECT * FROM x WHERE auction_id = 1",
            "SELECT * FROM (SELECT auction_id + 1 AS auction_id FROM bids) d WHERE auction_id = 1",
            "SELECT * FROM (SELECT user_id AS auction_id FROM bids) d WHERE auction_id = 1",
            "SELECT * FROM (SELECT * FROM bids LIMIT 5) d WHERE auction_id = 1",
            "SELECT * FROM bids AS b(auction_id, x) WHERE b.auction_id = 1",
            "SELECT * FROM docs WHERE doc = 'a' COLLATE nd",
            "SELECT * FROM bids WHERE EXISTS (SELECT 1 WHERE auction_id = 5)",
        ],
        &expect![[r#"
            SELECT auction_id = 1 FROM bids
                [any]
            SELECT count(*) FILTER (WHERE auction_id = 1) FROM bids
                [any] Integers list:«_id = 1)»
            SELECT CASE WHEN auction_id = 1 THEN 2 END FROM bids
                [any]
            SELECT user_id FROM bids GROUP BY user_id, auction_id HAVING auction_id = 1
                [any]
            SELECT * FROM auctions a LEFT JOIN bids b ON b.auction_id = a.auction_id AND b.auction_id = 5
                [any]
            SELECT * FROM auctions a LEFT JOIN bids b ON b.auction_id = a.auction_id AND a.auction_id = 5
                [any]
            SELECT auction_id FROM bids WHERE auction_id = 1 UNION SELECT auction_id FROM auctions
                [#0 | any] !UNION
            SELECT * FROM bids WHERE auction_id = 1 OR amount = 3
                [any]
            SELECT * FROM bids WHERE id IN (SELECT id FROM bids WHERE auction_id = 1)
                [any | #0] !sharded tables that are not joined on their keys
            SELECT * FROM bids WHERE auction_id % 10 = 3
                [any]
            SELECT * FROM bids WHERE auction_id + 1 = 5
                [any]
            SELECT * FROM bids WHERE auction_id = $1 + 1
                [any]
            SELECT * FROM bids WHERE NOT (auction_id = 1)
                [any]
            SELECT * FROM bids WHERE auction_id <> 1
                [any]
            SELECT * FROM bids WHERE auction_id NOT IN (1, 2)
                [any]
            SELECT * FROM bids b, stats s WHERE s.auction_id = 1
                [any] home:public.stats
            SELECT * FROM stats bids WHERE bids.auction_id = 1
                Home
            SELECT * FROM audit.bids WHERE auction_id = 1
                Home
            SELECT * FROM bids WHERE auction_id::int = 1
                [any]
            SELECT * FROM bids WHERE auction_id::text = '1'
                [any]
            SELECT * FROM bids WHERE auction_id = 5::numeric::int8
                [any]
            SELECT * FROM bids WHERE (auction_id = 1) IS NOT TRUE
                [any]
            SELECT * FROM bids WHERE auction_id = 1 IS NULL
                [any]
            SELECT * FROM bids WHERE coalesce(auction_id = 1, true)
                [any]
            SELECT * FROM bids WHERE auction_id BETWEEN 1 AND 2
                [any]
            SELECT * FROM bids WHERE user_id = 1
                [any]
            WITH bids AS (SELECT * FROM stats) SELECT * FROM bids WHERE auction_id = 1
                Home
            WITH x AS (SELECT * FROM bids LIMIT 10) SELECT * FROM x WHERE auction_id = 1
                [any] !LIMIT or OFFSET
            SELECT * FROM (SELECT auction_id + 1 AS auction_id FROM bids) d WHERE auction_id = 1
                [any]
            SELECT * FROM (SELECT user_id AS auction_id FROM bids) d WHERE auction_id = 1
                [any]
            SELECT * FROM (SELECT * FROM bids LIMIT 5) d WHERE auction_id = 1
                [any] !LIMIT or OFFSET
            SELECT * FROM bids AS b(auction_id, x) WHERE b.auction_id = 1
                [any]
            SELECT * FROM docs WHERE doc = 'a' COLLATE nd
                [any]
            SELECT * FROM bids WHERE EXISTS (SELECT 1 WHERE auction_id = 5)
                [any]
        "#]],
    );
}

#[test]
fn pins_that_travel() {
    check(
        &[
            "SELECT * FROM auctions a JOIN bids b ON a.auction_id = b.auction_id WHERE a.auction_id = 5",
            "SELECT * FROM auctions a JOIN bids b USING (auction_id) WHERE auction_id = 5",
            "SELECT * FROM auctions NATURAL JOIN open_auctions WHERE auction_id = 5",
            "SELECT * FROM auctions a, bids b WHERE a.auction_id = b.auction_id AND b.auction_id = $1",
            "SELECT * FROM auctions a LEFT JOIN bids b ON a.auction_id = b.auction_id WHERE a.auction_id = 5",
            "SELECT * FROM auctions a LEFT JOIN bids b ON a.auction_id = b.auction_id WHERE b.auction_id = 5",
            "SELECT * FROM auctions a RIGHT JOIN bids b ON a.auction_id = b.auction_id WHERE b.auction_id = 5",
            "SELECT * FROM auctions a FULL JOIN bids b ON a.auction_id = b.auction_id WHERE a.auction_id = 5",
            "SELECT * FROM auctions a FULL JOIN bids b ON a.auction_id = b.auction_id",
            "SELECT * FROM auctions a LEFT JOIN bids b ON a.auction_id = b.auction_id LEFT JOIN bids c ON c.auction_id = b.auction_id WHERE a.auction_id = 5",
            "SELECT * FROM (auctions a JOIN bids x ON a.seller = x.user_id) LEFT JOIN bids c ON c.auction_id = a.auction_id AND c.auction_id = x.auction_id",
            "SELECT * FROM auctions a JOIN bids b ON b.user_id = a.seller WHERE a.auction_id = 5",
            "SELECT * FROM auctions a JOIN bids b ON b.user_id = a.seller WHERE a.auction_id = 5 AND b.auction_id = 5",
            "SELECT * FROM auctions a WHERE a.auction_id = 1 AND EXISTS (SELECT 1 FROM bids b WHERE b.auction_id = a.auction_id)",
            "SELECT a.*, (SELECT max(b.amount) FROM bids b WHERE b.auction_id = a.auction_id) FROM auctions a",
            "SELECT * FROM auctions WHERE auction_id IN (SELECT auction_id FROM bids WHERE amount > 5)",
            "SELECT * FROM auctions WHERE auction_id IN (SELECT auction_id FROM bids ORDER BY amount LIMIT 3)",
            "SELECT * FROM auctions WHERE auction_id IN (SELECT max(auction_id) FROM bids)",
            "SELECT * FROM auctions WHERE auction_id NOT IN (SELECT auction_id FROM bids)",
            "SELECT * FROM (SELECT auction_id k, amount FROM bids) d WHERE k = 7",
            "SELECT * FROM (SELECT auction_id k, sum(amount) FROM bids GROUP BY auction_id) d WHERE d.k = 7",
            "WITH x AS (SELECT * FROM bids) SELECT * FROM x WHERE auction_id = 1",
            "WITH x AS (SELECT * FROM bids) SELECT * FROM x x1, x x2 WHERE x1.auction_id = 1",
            "WITH x(k) AS (SELECT auction_id FROM bids) SELECT * FROM x JOIN auctions a ON a.auction_id = x.k WHERE k = 1",
            "SELECT * FROM auctions a, LATERAL (SELECT * FROM bids b WHERE b.auction_id = a.auction_id ORDER BY amount DESC LIMIT 1) t WHERE a.auction_id = 3",
            "SELECT * FROM auctions a CROSS JOIN LATERAL (SELECT * FROM bids b WHERE b.auction_id = a.auction_id ORDER BY amount DESC LIMIT 1) t",
            "SELECT * FROM open_auctions WHERE auction_id = 3",
            "SELECT * FROM totals WHERE auction_id = 3",
            "UPDATE bids b SET amount = 0 FROM auctions a WHERE a.auction_id = b.auction_id AND a.auction_id = 9",
            "DELETE FROM bids b USING auctions a WHERE a.auction_id = b.auction_id AND a.auction_id = 9",
            "SELECT * FROM docs d JOIN bids b ON b.auction_id = d.doc",
        ],
        &expect![[r#"
            SELECT * FROM auctions a JOIN bids b ON a.auction_id = b.auction_id WHERE a.auction_id = 5
                [#0]
            SELECT * FROM auctions a JOIN bids b USING (auction_id) WHERE auction_id = 5
                [#0]
            SELECT * FROM auctions NATURAL JOIN open_auctions WHERE auction_id = 5
                [#0]
            SELECT * FROM auctions a, bids b WHERE a.auction_id = b.auction_id AND b.auction_id = $1
                [$1]
            SELECT * FROM auctions a LEFT JOIN bids b ON a.auction_id = b.auction_id WHERE a.auction_id = 5
                [#0]
            SELECT * FROM auctions a LEFT JOIN bids b ON a.auction_id = b.auction_id WHERE b.auction_id = 5
                [#0]
            SELECT * FROM auctions a RIGHT JOIN bids b ON a.auction_id = b.auction_id WHERE b.auction_id = 5
                [#0]
            SELECT * FROM auctions a FULL JOIN bids b ON a.auction_id = b.auction_id WHERE a.auction_id = 5
                [#0]
            SELECT * FROM auctions a FULL JOIN bids b ON a.auction_id = b.auction_id
                [any]
            SELECT * FROM auctions a LEFT JOIN bids b ON a.auction_id = b.auction_id LEFT JOIN bids c ON c.auction_id = b.auction_id WHERE a.auction_id = 5
                [#0]
            SELECT * FROM (auctions a JOIN bids x ON a.seller = x.user_id) LEFT JOIN bids c ON c.auction_id = a.auction_id AND c.auction_id = x.auction_id
                [any | any] !sharded tables that are not joined on their keys
            SELECT * FROM auctions a JOIN bids b ON b.user_id = a.seller WHERE a.auction_id = 5
                [#0 | any] !sharded tables that are not joined on their keys
            SELECT * FROM auctions a JOIN bids b ON b.user_id = a.seller WHERE a.auction_id = 5 AND b.auction_id = 5
                [#0 | #1] !sharded tables that are not joined on their keys
            SELECT * FROM auctions a WHERE a.auction_id = 1 AND EXISTS (SELECT 1 FROM bids b WHERE b.auction_id = a.auction_id)
                [#0]
            SELECT a.*, (SELECT max(b.amount) FROM bids b WHERE b.auction_id = a.auction_id) FROM auctions a
                [any]
            SELECT * FROM auctions WHERE auction_id IN (SELECT auction_id FROM bids WHERE amount > 5)
                [any]
            SELECT * FROM auctions WHERE auction_id IN (SELECT auction_id FROM bids ORDER BY amount LIMIT 3)
                [any | any] !LIMIT or OFFSET
            SELECT * FROM auctions WHERE auction_id IN (SELECT max(auction_id) FROM bids)
                [any | any] !aggregate max
            SELECT * FROM auctions WHERE auction_id NOT IN (SELECT auction_id FROM bids)
                [any | any] !sharded tables that are not joined on their keys
            SELECT * FROM (SELECT auction_id k, amount FROM bids) d WHERE k = 7
                [#0]
            SELECT * FROM (SELECT auction_id k, sum(amount) FROM bids GROUP BY auction_id) d WHERE d.k = 7
                [#0]
            WITH x AS (SELECT * FROM bids) SELECT * FROM x WHERE auction_id = 1
                [#0]
            WITH x AS (SELECT * FROM bids) SELECT * FROM x x1, x x2 WHERE x1.auction_id = 1
                [#0 | any] !sharded tables that are not joined on their keys
            WITH x(k) AS (SELECT auction_id FROM bids) SELECT * FROM x JOIN auctions a ON a.auction_id = x.k WHERE k = 1
                [#0]
            SELECT * FROM auctions a, LATERAL (SELECT * FROM bids b WHERE b.auction_id = a.auction_id ORDER BY amount DESC LIMIT 1) t WHERE a.auction_id = 3
                [#1]
            SELECT * FROM auctions a CROSS JOIN LATERAL (SELECT * FROM bids b WHERE b.auction_id = a.auction_id ORDER BY amount DESC LIMIT 1) t
                [any]
            SELECT * FROM open_auctions WHERE auction_id = 3
                [#0]
            SELECT * FROM totals WHERE auction_id = 3
                [any] !view public.totals
            UPDATE bids b SET amount = 0 FROM auctions a WHERE a.auction_id = b.auction_id AND a.auction_id = 9
                Update [#1] Write
            DELETE FROM bids b USING auctions a WHERE a.auction_id = b.auction_id AND a.auction_id = 9
                Delete [#0] Write
            SELECT * FROM docs d JOIN bids b ON b.auction_id = d.doc
                Unknown { why: "its sharded tables have keys of different types" }
        "#]],
    );
}
