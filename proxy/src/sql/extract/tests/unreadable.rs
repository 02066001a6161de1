//! What the parser cannot read, misreads, or must not be given.

use super::support::{check, facts, line};
use crate::sql::facts::{Command, Scope};
use expect_test::expect;

#[test]
fn closed_gaps() {
    check(
        &[
            "UPDATE bids SET tags[1] = 'x' WHERE auction_id = 5",
            "UPDATE bids SET amount = 1, tags[1:2] = '{}' WHERE auction_id = 5",
            "UPDATE bids SET amount = 1 WHERE CURRENT OF c",
            "UPDATE stats SET n = 1 WHERE CURRENT OF c",
            "SELECT pg_lsn '0/1'",
            "SELECT * FROM docs WHERE doc = citext 'x'",
            "SELECT concat(VARIADIC tags) FROM bids WHERE auction_id = 5",
            "SELECT rank() OVER (PARTITION BY auction_id ROWS UNBOUNDED PRECEDING EXCLUDE TIES) FROM bids",
            "SELECT * FROM ROWS FROM (generate_series(1, 2), unnest($1)) AS x(a, b)",
            "SELECT * FROM bids WHERE auction_id = 5 AND amount BETWEEN SYMMETRIC 3 AND 1",
            "SELECT 'a'::text COLLATE \"C\" FROM bids WHERE auction_id = 5",
            "SELECT * FROM U&\"b\\0069ds\" WHERE auction_id = 5",
            "SELECT * FROM bids WHERE auction_id = U&'5'",
            "SELECT * FROM bids WHERE auction_id = $$5$$",
            "SELECT * FROM bids WHERE auction_id = E'5'",
            "SELECT (slugify(title)).* FROM auctions WHERE auction_id = 5",
            "SELECT * FROM generate_series(1, 2) AS (a int)",
            "SELECT * FROM auctions JOIN bids USING (auction_id) AS j WHERE auction_id = 5",
            "SELECT * FROM bids WHERE amount ISNULL AND auction_id = 5",
            "SELECT * FROM bids WHERE tags @> $1 AND auction_id = 5",
            "SELECT tags[1], tags[1:2] FROM bids WHERE auction_id = 5",
            "SELECT '{}'::jsonb ->> 'a', interval(2) '1 day', date '2020-01-01', timestamp with time zone 'now' FROM bids WHERE auction_id = 5",
            "SELECT CURRENT_TIMESTAMP, current_user, CURRENT_DATE",
        ],
        &expect![[r#"
            UPDATE bids SET tags[1] = 'x' WHERE auction_id = 5
                Update [#2] Write
            UPDATE bids SET amount = 1, tags[1:2] = '{}' WHERE auction_id = 5
                Update [#4] Write
            UPDATE bids SET amount = 1 WHERE CURRENT OF c
                Update Unknown { why: "WHERE CURRENT OF on a sharded table" } Write
            UPDATE stats SET n = 1 WHERE CURRENT OF c
                Update Home Write
            SELECT pg_lsn '0/1'
                Nothing
            SELECT * FROM docs WHERE doc = citext 'x'
                [#0::citext]
            SELECT concat(VARIADIC tags) FROM bids WHERE auction_id = 5
                [#0]
            SELECT rank() OVER (PARTITION BY auction_id ROWS UNBOUNDED PRECEDING EXCLUDE TIES) FROM bids
                [any]
            SELECT * FROM ROWS FROM (generate_series(1, 2), unnest($1)) AS x(a, b)
                Nothing
            SELECT * FROM bids WHERE auction_id = 5 AND amount BETWEEN SYMMETRIC 3 AND 1
                [#0]
            SELECT 'a'::text COLLATE "C" FROM bids WHERE auction_id = 5
                [#1]
            SELECT * FROM U&"b\0069ds" WHERE auction_id = 5
                [#0]
            SELECT * FROM bids WHERE auction_id = U&'5'
                [#0]
            SELECT * FROM bids WHERE auction_id = $$5$$
                [#0]
            SELECT * FROM bids WHERE auction_id = E'5'
                [#0]
            SELECT (slugify(title)).* FROM auctions WHERE auction_id = 5
                [#0]
            SELECT * FROM generate_series(1, 2) AS (a int)
                Nothing
            SELECT * FROM auctions JOIN bids USING (auction_id) AS j WHERE auction_id = 5
                [#0]
            SELECT * FROM bids WHERE amount ISNULL AND auction_id = 5
                [#0]
            SELECT * FROM bids WHERE tags @> $1 AND auction_id = 5
                [#0]
            SELECT tags[1], tags[1:2] FROM bids WHERE auction_id = 5
                [#3]
            SELECT '{}'::jsonb ->> 'a', interval(2) '1 day', date '2020-01-01', timestamp with time zone 'now' FROM bids WHERE auction_id = 5
                [#6]
            SELECT CURRENT_TIMESTAMP, current_user, CURRENT_DATE
                Nothing unrepeatable:current_timestamp()
        "#]],
    );
}

#[test]
fn fallback() {
    check(
        &[
            "DO $$ BEGIN UPDATE stats SET n = 1; END $$",
            "DO $$ BEGIN UPDATE bids SET amount = 1; END $$",
            "DO 'BEGIN PERFORM close_all(); END'",
            "SELECT a FROM stats WHERE 'x' 'y'",
            "SELECT 'a'\n'b' FROM bids",
            "SELECT * FROM stats*",
            "SELECT * FROM bids*",
            "SELEC 1",
            "SELECT 'open",
            "SELECT * FROM bids PIVOT (sum(x) FOR y IN (1))",
        ],
        &expect![[r#"
            DO $$ BEGIN UPDATE stats SET n = 1; END $$
                Call Home Write
            DO $$ BEGIN UPDATE bids SET amount = 1; END $$
                Call Unknown { why: "the body of a DO block; it names public.bids" } Write
            DO 'BEGIN PERFORM close_all(); END'
                Call Unknown { why: "the body of a DO block; it names the function close_all" } Write
            SELECT a FROM stats WHERE 'x' 'y'
                Unreadable { complaint: "a literal continued on the next line" } Home Write
            SELECT 'a'
            'b' FROM bids
                Unreadable { complaint: "a literal continued on the next line" } Unknown { why: "a literal continued on the next line; it names public.bids" } Write
            SELECT * FROM stats*
                Unreadable { complaint: "unexpected *" } Home Write
            SELECT * FROM bids*
                Unreadable { complaint: "unexpected *" } Unknown { why: "unexpected *; it names public.bids" } Write
            SELEC 1
                Other Home Write
            SELECT 'open
                Unreadable { complaint: "unterminated literal or comment" } Home Write
            SELECT * FROM bids PIVOT (sum(x) FOR y IN (1))
                Unreadable { complaint: "an item of FROM that is not known" } Unknown { why: "an item of FROM that is not known; it names public.bids" } Write
        "#]],
    );
}

/// Nothing deep overflows a stack, whatever the build.
#[test]
fn depth() {
    let n = 100_000;
    let statements = [
        format!("SELECT {}1{}", "(".repeat(n), ")".repeat(n)),
        format!("SELECT 1 FROM bids WHERE {} true", "auction_id = 1 OR ".repeat(n / 4)),
        format!("SELECT 1 FROM bids WHERE {} true", "a AND ".repeat(n)),
        format!("SELECT 1{}", "::int".repeat(n)),
        format!("SELECT 1 FROM bids{}", " UNION ALL SELECT 1 FROM bids".repeat(n / 4)),
        format!("SELECT {} 1", "NOT ".repeat(n)),
        format!("SELECT {} 1", "- ".repeat(n)),
        format!("SELECT {}1{}", "CASE WHEN ".repeat(n / 4), " THEN 1 END".repeat(n / 4)),
        format!("SELECT {}", "[".repeat(n)),
        format!("{} SELECT 1", "EXPLAIN ".repeat(n)),
        format!("SELECT * FROM {}bids{}", "(SELECT * FROM ".repeat(n / 8), ") x".repeat(n / 8)),
        format!("SELECT 1 FROM bids WHERE {} true", "auction_id = 1 OR ".repeat(1500)),
        format!("SELECT 1{}", "::int".repeat(1500)),
        format!("SELECT 1 FROM bids{}", " UNION ALL SELECT 1 FROM bids".repeat(300)),
        format!("SELECT 1{}", " + 1".repeat(3900)),
        format!("SELECT * FROM bids b{}", " JOIN bids c ON true".repeat(3000)),
        format!("SELECT {}1{}", "abs(".repeat(90), ")".repeat(90)),
    ];
    for sql in &statements {
        let small = std::thread::Builder::new().stack_size(2 << 20);
        let sql = sql.clone();
        let handle = small.spawn(move || facts(&sql)).expect("a thread starts");
        handle.join().expect("no overflow, no panic");
    }
}

#[test]
fn long_in_lists_and_inserts_are_read() {
    let list: Vec<String> = (0..5000).map(|i| i.to_string()).collect();
    let sql = format!("SELECT * FROM bids WHERE auction_id IN ({})", list.join(","));
    assert!(matches!(facts(&sql).scope, Scope::Sharded(_)), "{}", line(&sql, &facts(&sql)));
    let rows: Vec<String> = (0..5000).map(|i| format!("({i}, -{i})")).collect();
    let sql = format!("INSERT INTO bids (auction_id, amount) VALUES {}", rows.join(","));
    let facts = facts(&sql);
    let Scope::Sharded(sharded) = &facts.scope else { panic!("not sharded") };
    let insert = sharded.insert.as_ref().expect("rows");
    assert_eq!(insert.rows.len(), 5000);
    assert_eq!(&sql[insert.rows[4321].span.clone()], "(4321, -4321)");
    assert!(matches!(facts.command, Command::Modify(_)));
}
