//! INSERT on sharded tables.

use super::support::check;
use expect_test::expect;

#[test]
fn rows_and_keys() {
    check(
        &[
            "INSERT INTO bids (auction_id, amount) VALUES (1, 2), ($3, $4)",
            "INSERT INTO bids (amount, auction_id) VALUES (2, '7'::bigint) RETURNING id",
            "INSERT INTO bids VALUES (DEFAULT, 5, 6)",
            "INSERT INTO public.auctions AS a (title) VALUES ('é; (x)'), ($1) ON CONFLICT (auction_id) DO UPDATE SET title = $2",
            "INSERT INTO auctions (title, auction_id) VALUES ('a', DEFAULT)",
            "INSERT INTO auctions VALUES (DEFAULT, 'x')",
            "INSERT INTO lots (note) VALUES ('x')",
            "INSERT INTO lots (lot, note) OVERRIDING SYSTEM VALUE VALUES (5, 'x'), (DEFAULT, 'y')",
            "INSERT INTO lots (lot, note) OVERRIDING USER VALUE VALUES (5, 'x')",
            "INSERT INTO bids (amount) VALUES (1)",
            "INSERT INTO bids (auction_id) VALUES (NULL), (-3), (1 + 1), (abs(3))",
            "INSERT INTO bids (auction_id, amount) VALUES (5, (SELECT max(amount) FROM bids WHERE auction_id = 5))",
            "INSERT INTO auctions DEFAULT VALUES",
            "INSERT INTO bids (auction_id, tags[1:2]) VALUES (5, '{a,b}')",
            "INSERT INTO bids (auction_id, amount) VALUES (1, 2) ON CONFLICT (lower(user_id)) WHERE amount > $9 DO UPDATE SET auction_id = excluded.auction_id, amount = bids.amount + excluded.amount",
            "INSERT INTO bids (auction_id, amount) VALUES (1, 2) ON CONFLICT DO UPDATE SET auction_id = 4",
            "INSERT INTO open_auctions VALUES (1, 'x')",
            "WITH x AS (SELECT 1) INSERT INTO bids (auction_id) VALUES (4)",
            "WITH x AS (INSERT INTO bids (auction_id) VALUES (4) RETURNING *) SELECT * FROM x",
        ],
        &expect![[r#"
            INSERT INTO bids (auction_id, amount) VALUES (1, 2), ($3, $4)
                Insert [rows] (1, 2)=#0@"" ($3, $4)=$3@"" outside[] Write
            INSERT INTO bids (amount, auction_id) VALUES (2, '7'::bigint) RETURNING id
                Insert [rows] (2, '7'::bigint)=#1::bigint@"" outside[] Write
            INSERT INTO bids VALUES (DEFAULT, 5, 6)
                Insert [rows] (DEFAULT, 5, 6)=#0@"" outside[] Write
            INSERT INTO public.auctions AS a (title) VALUES ('é; (x)'), ($1) ON CONFLICT (auction_id) DO UPDATE SET title = $2
                Insert [rows] ('é; (x)')=DEFAULT@"" ($1)=DEFAULT@"" outside[2] draw(bigint) list:INSERT INTO public.auctions AS a (title«, "auction_id"» Write
            INSERT INTO auctions (title, auction_id) VALUES ('a', DEFAULT)
                Insert [rows] ('a', DEFAULT)=DEFAULT@"DEFAULT" outside[] draw(bigint) Write
            INSERT INTO auctions VALUES (DEFAULT, 'x')
                Insert [rows] (DEFAULT, 'x')=DEFAULT@"DEFAULT" outside[] draw(bigint) Write
            INSERT INTO lots (note) VALUES ('x')
                Insert [rows] ('x')=DEFAULT@"" outside[] draw(bigint) list:INSERT INTO lots (note«, "lot"» overriding:INSERT INTO lots (note)«» Write
            INSERT INTO lots (lot, note) OVERRIDING SYSTEM VALUE VALUES (5, 'x'), (DEFAULT, 'y')
                Insert [rows] (5, 'x')=#0@"" (DEFAULT, 'y')=DEFAULT@"DEFAULT" outside[] draw(bigint) Write
            INSERT INTO lots (lot, note) OVERRIDING USER VALUE VALUES (5, 'x')
                Insert Unknown { why: "OVERRIDING USER VALUE on a sharded table" } Write
            INSERT INTO bids (amount) VALUES (1)
                Insert [rows] (1)=NULL@"" outside[] Write
            INSERT INTO bids (auction_id) VALUES (NULL), (-3), (1 + 1), (abs(3))
                Insert [rows] (NULL)=NULL@"" (-3)=-#0@"" (1 + 1)=computed@"" (abs(3))=computed@"" outside[] Write
            INSERT INTO bids (auction_id, amount) VALUES (5, (SELECT max(amount) FROM bids WHERE auction_id = 5))
                Insert [rows | #1] !aggregate max (5, (SELECT max(amount) FROM bids WHERE auction_id = 5))=#0@"" outside[] Write
            INSERT INTO auctions DEFAULT VALUES
                Insert [rows] DEFAULT VALUES=DEFAULT@"DEFAULT VALUES" outside[] draw(bigint) list:INSERT INTO auctions «("auction_id") SELECT » Write
            INSERT INTO bids (auction_id, tags[1:2]) VALUES (5, '{a,b}')
                Insert [rows] (5, '{a,b}')=#2@"" outside[] Write
            INSERT INTO bids (auction_id, amount) VALUES (1, 2) ON CONFLICT (lower(user_id)) WHERE amount > $9 DO UPDATE SET auction_id = excluded.auction_id, amount = bids.amount + excluded.amount
                Insert [rows] (1, 2)=#0@"" outside[9] Write
            INSERT INTO bids (auction_id, amount) VALUES (1, 2) ON CONFLICT DO UPDATE SET auction_id = 4
                Insert [rows] updates-key (1, 2)=#0@"" outside[] Write
            INSERT INTO open_auctions VALUES (1, 'x')
                Insert Unknown { why: "INSERT into public.open_auctions, a view over sharded tables" } Write
            WITH x AS (SELECT 1) INSERT INTO bids (auction_id) VALUES (4)
                Insert [rows] (4)=#1@"" outside[] Write
            WITH x AS (INSERT INTO bids (auction_id) VALUES (4) RETURNING *) SELECT * FROM x
                Other Unknown { why: "INSERT … VALUES into a sharded table inside of WITH" } Write
        "#]],
    );
}

#[test]
fn from_queries() {
    check(
        &[
            "INSERT INTO bids (auction_id, amount) SELECT auction_id, 1 FROM auctions",
            "INSERT INTO bids (auction_id, amount) SELECT auction_id, 1 FROM auctions WHERE auction_id = 5",
            "INSERT INTO bids (auction_id, amount) SELECT auction_id, count(*) FROM auctions GROUP BY auction_id",
            "INSERT INTO bids (auction_id, amount) SELECT seller, 1 FROM auctions",
            "INSERT INTO bids (auction_id, amount) SELECT auction_id, 1 FROM auctions LIMIT 5",
            "INSERT INTO bids (auction_id, user_id) SELECT $1, user_id FROM users",
            "INSERT INTO bids (auction_id, user_id) SELECT user_id, user_id FROM users",
            "INSERT INTO bids (user_id) SELECT user_id FROM users",
            "WITH d AS (DELETE FROM auctions RETURNING auction_id) INSERT INTO bids (auction_id) SELECT auction_id FROM d",
            "INSERT INTO users (user_id, name) SELECT auction_id, title FROM auctions WHERE auction_id = 5",
        ],
        &expect![[r#"
            INSERT INTO bids (auction_id, amount) SELECT auction_id, 1 FROM auctions
                Insert [any] colocated Write
            INSERT INTO bids (auction_id, amount) SELECT auction_id, 1 FROM auctions WHERE auction_id = 5
                Insert [#1] colocated Write
            INSERT INTO bids (auction_id, amount) SELECT auction_id, count(*) FROM auctions GROUP BY auction_id
                Insert [any] colocated Write
            INSERT INTO bids (auction_id, amount) SELECT seller, 1 FROM auctions
                Insert [any | any] !INSERT … SELECT whose key is not the key of the rows read Write
            INSERT INTO bids (auction_id, amount) SELECT auction_id, 1 FROM auctions LIMIT 5
                Insert [any | any] !LIMIT or OFFSET Write
            INSERT INTO bids (auction_id, user_id) SELECT $1, user_id FROM users
                Insert [$1] Write
            INSERT INTO bids (auction_id, user_id) SELECT user_id, user_id FROM users
                Insert [any] !INSERT … SELECT whose key is not the key of the rows read Write
            INSERT INTO bids (user_id) SELECT user_id FROM users
                Insert [any] !INSERT … SELECT whose key is not the key of the rows read Write
            WITH d AS (DELETE FROM auctions RETURNING auction_id) INSERT INTO bids (auction_id) SELECT auction_id FROM d
                Insert [any] !a WITH query that writes Write
            INSERT INTO users (user_id, name) SELECT auction_id, title FROM auctions WHERE auction_id = 5
                Insert [#0] writes-reference Write unrepeatable:the default of public.users.token
        "#]],
    );
}
