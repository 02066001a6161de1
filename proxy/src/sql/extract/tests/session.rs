//! Session commands, DDL, COPY, EXPLAIN, PREPARE, cursors.

use super::support::{check, facts_with, line};
use expect_test::expect;

use crate::sql::facts::{Command, DdlKind};

#[test]
fn session_commands() {
    check(
        &[
            "",
            "-- nothing",
            "BEGIN",
            "BEGIN READ ONLY, ISOLATION LEVEL REPEATABLE READ",
            "START TRANSACTION ISOLATION LEVEL SERIALIZABLE READ WRITE, NOT DEFERRABLE",
            "BEGIN NONSENSE",
            "COMMIT AND CHAIN",
            "END WORK",
            "ROLLBACK TO SAVEPOINT a",
            "ABORT",
            "SAVEPOINT \"A b\"",
            "RELEASE a",
            "PREPARE TRANSACTION 'x'",
            "COMMIT PREPARED 'x'",
            "SET search_path = a, \"B\"",
            "SET LOCAL statement_timeout TO '5s'",
            "SET SESSION AUTHORIZATION bob",
            "SET LOCAL SESSION AUTHORIZATION DEFAULT",
            "SET ROLE NONE",
            "SET TIME ZONE 'UTC'",
            "SET TIME ZONE LOCAL",
            "SET NAMES 'utf8'",
            "SET x.y TO DEFAULT",
            "SET TRANSACTION READ ONLY",
            "SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED",
            "SET gavel.key = '42'",
            "RESET gavel.key",
            "SET CONSTRAINTS ALL DEFERRED",
            "RESET ALL",
            "RESET SESSION AUTHORIZATION",
            "SHOW TRANSACTION ISOLATION LEVEL",
            "SHOW ALL",
            "DISCARD ALL",
            "DEALLOCATE PREPARE ALL",
            "EXECUTE p(1, 2)",
            "FETCH FORWARD 5 FROM c",
            "MOVE ALL IN c",
            "FETCH c",
            "CLOSE ALL",
            "LISTEN ch",
            "UNLISTEN *",
            "NOTIFY ch, 'payload'",
            "CHECKPOINT",
            "LOAD 'x'",
        ],
        &expect![[r#"

                Empty Nothing
            -- nothing
                Empty Nothing
            BEGIN
                Begin { read_only: false, isolation: None } Nothing
            BEGIN READ ONLY, ISOLATION LEVEL REPEATABLE READ
                Begin { read_only: true, isolation: Some(RepeatableRead) } Nothing
            START TRANSACTION ISOLATION LEVEL SERIALIZABLE READ WRITE, NOT DEFERRABLE
                Begin { read_only: false, isolation: Some(Serializable) } Nothing
            BEGIN NONSENSE
                Other Home Write
            COMMIT AND CHAIN
                Commit { chain: true } Nothing
            END WORK
                Commit { chain: false } Nothing
            ROLLBACK TO SAVEPOINT a
                RollbackTo("a") Nothing
            ABORT
                Rollback { chain: false } Nothing
            SAVEPOINT "A b"
                Savepoint("A b") Nothing
            RELEASE a
                Release("a") Nothing
            PREPARE TRANSACTION 'x'
                TwoPhase Home Write
            COMMIT PREPARED 'x'
                TwoPhase Home Write
            SET search_path = a, "B"
                Set { local: false, name: "search_path", value: Some("a, \"B\"") } Nothing
            SET LOCAL statement_timeout TO '5s'
                Set { local: true, name: "statement_timeout", value: Some("'5s'") } Nothing
            SET SESSION AUTHORIZATION bob
                Set { local: false, name: "session_authorization", value: Some("bob") } Nothing
            SET LOCAL SESSION AUTHORIZATION DEFAULT
                Set { local: true, name: "session_authorization", value: None } Nothing
            SET ROLE NONE
                Set { local: false, name: "role", value: Some("NONE") } Nothing
            SET TIME ZONE 'UTC'
                Set { local: false, name: "timezone", value: Some("'UTC'") } Nothing
            SET TIME ZONE LOCAL
                Set { local: false, name: "timezone", value: None } Nothing
            SET NAMES 'utf8'
                Set { local: false, name: "client_encoding", value: Some("'utf8'") } Nothing
            SET x.y TO DEFAULT
                Set { local: false, name: "x.y", value: None } Nothing
            SET TRANSACTION READ ONLY
                SetTransaction { read_only: Some(true), isolation: None, session: false } Nothing
            SET SESSION CHARACTERISTICS AS TRANSACTION ISOLATION LEVEL READ COMMITTED
                SetTransaction { read_only: None, isolation: Some(ReadCommitted), session: true } Nothing
            SET gavel.key = '42'
                SetHint { local: false, name: "key", value: Some("42") } Nothing
            RESET gavel.key
                SetHint { local: false, name: "key", value: None } Nothing
            SET CONSTRAINTS ALL DEFERRED
                Other Everywhere
            RESET ALL
                Reset(None) Nothing
            RESET SESSION AUTHORIZATION
                Reset(Some("session_authorization")) Nothing
            SHOW TRANSACTION ISOLATION LEVEL
                Show("transaction_isolation") Nothing
            SHOW ALL
                Show("all") Nothing
            DISCARD ALL
                Discard("all") Nothing
            DEALLOCATE PREPARE ALL
                Deallocate(None) Nothing
            EXECUTE p(1, 2)
                Execute("p") Nothing
            FETCH FORWARD 5 FROM c
                Fetch("c") Nothing
            MOVE ALL IN c
                Fetch("c") Nothing
            FETCH c
                Fetch("c") Nothing
            CLOSE ALL
                CloseCursor(None) Nothing
            LISTEN ch
                Listen("ch") Home Write pins:Listen
            UNLISTEN *
                Unlisten(None) Home Write
            NOTIFY ch, 'payload'
                Notify("ch") Home Write
            CHECKPOINT
                Other Home Write
            LOAD 'x'
                Other Home Write pins:Library
        "#]],
    );
}

#[test]
fn wrapped_statements() {
    check(
        &[
            "EXPLAIN SELECT * FROM bids WHERE auction_id = 5",
            "EXPLAIN (ANALYZE, BUFFERS) DELETE FROM bids WHERE auction_id = 5",
            "EXPLAIN ANALYZE VERBOSE SELECT * FROM bids",
            "EXPLAIN (GAVEL) SELECT * FROM bids WHERE auction_id = 5",
            "EXPLAIN (COSTS 'off') SELECT * FROM bids WHERE auction_id = 5",
            "PREPARE p (bigint) AS SELECT * FROM bids WHERE auction_id = $1",
            "PREPARE p AS SELECT * FROM bids WHERE auction_id = 1",
            "DECLARE c CURSOR FOR SELECT * FROM bids",
            "DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT * FROM bids WHERE auction_id = 1",
        ],
        &expect![[r#"
            EXPLAIN SELECT * FROM bids WHERE auction_id = 5
                Explain [#0] !EXPLAIN
            EXPLAIN (ANALYZE, BUFFERS) DELETE FROM bids WHERE auction_id = 5
                Explain [#0] !EXPLAIN Write
            EXPLAIN ANALYZE VERBOSE SELECT * FROM bids
                Explain [any] !EXPLAIN
            EXPLAIN (GAVEL) SELECT * FROM bids WHERE auction_id = 5
                ExplainGavel(Facts { command: Query, scope: Sharded(Sharded { key_type: Int8, modifier: None, rejects_null: false, groups: [Keys([KeyTerm { value: Literal(0), negated: false, cast: None }])], no_concat: None, gather: None, needs_home: None, writes_reference: false, updates_key: false, moves: None, fires: None, insert: None, select: None, colocated_insert_select: false }), access: Read, effects: Effects { pins: None, spoils: false, advisory_lock: false, currval: false, strided: false, home_sequence: false, sequence: false, changes_catalog: false, notifies: false, listening_channels: false, node_dependent: false }, tables: ["public.bids"], returns_rows: true, unrepeatable: None, barred: None, unknown_name: false, times: false, by_clock: None, reshaped: [], defaults: None }) Nothing
            EXPLAIN (COSTS 'off') SELECT * FROM bids WHERE auction_id = 5
                Explain [#1] !EXPLAIN
            PREPARE p (bigint) AS SELECT * FROM bids WHERE auction_id = $1
                Prepare("p") [any] !PREPARE in SQL pins:SqlPrepare
            PREPARE p AS SELECT * FROM bids WHERE auction_id = 1
                Prepare("p") [#0] !PREPARE in SQL pins:SqlPrepare
            DECLARE c CURSOR FOR SELECT * FROM bids
                Declare { name: "c", hold: false } [any]
            DECLARE c SCROLL CURSOR WITH HOLD FOR SELECT * FROM bids WHERE auction_id = 1
                Declare { name: "c", hold: true } [#0] !a cursor WITH HOLD pins:HoldCursor
        "#]],
    );
}

#[test]
fn copy() {
    check(
        &[
            "COPY bids FROM STDIN",
            "COPY bids (auction_id, amount) FROM STDIN WITH (FORMAT csv, HEADER, DELIMITER ';', NULL 'x', FORCE_NULL (auction_id))",
            "COPY bids (amount) FROM STDIN",
            "COPY bids FROM STDIN WITH CSV HEADER DELIMITER ',' QUOTE AS '''' FORCE NOT NULL amount, id",
            "COPY bids FROM STDIN (FORMAT binary)",
            "COPY bids FROM STDIN WITH (FREEZE, HEADER MATCH) WHERE amount > 5",
            "COPY bids TO STDOUT",
            "COPY bids TO STDOUT CSV HEADER",
            "COPY (SELECT * FROM bids WHERE auction_id = 3) TO STDOUT WITH (FORMAT csv)",
            "COPY users FROM STDIN",
            "COPY stats TO STDOUT",
            "COPY bids FROM '/tmp/x'",
            "COPY stats TO PROGRAM 'cat'",
            "COPY missing FROM STDIN",
        ],
        &expect![[r#"
            COPY bids FROM STDIN
                CopyIn(CopyShape { format: Text, delimiter: 9, null: "\\N", quote: 34, escape: 34, header: false, key_field: Some(1), key_type: Some(Int8), key_modifier: Some(0), columns: 5, force_null_key: false, encoding: None, times: [] }) [rows] Write
            COPY bids (auction_id, amount) FROM STDIN WITH (FORMAT csv, HEADER, DELIMITER ';', NULL 'x', FORCE_NULL (auction_id))
                CopyIn(CopyShape { format: Csv, delimiter: 59, null: "x", quote: 34, escape: 34, header: true, key_field: Some(0), key_type: Some(Int8), key_modifier: Some(0), columns: 2, force_null_key: true, encoding: None, times: [] }) [rows] Write
            COPY bids (amount) FROM STDIN
                CopyIn(CopyShape { format: Text, delimiter: 9, null: "\\N", quote: 34, escape: 34, header: false, key_field: None, key_type: Some(Int8), key_modifier: Some(0), columns: 1, force_null_key: false, encoding: None, times: [] }) [rows] Write
            COPY bids FROM STDIN WITH CSV HEADER DELIMITER ',' QUOTE AS '''' FORCE NOT NULL amount, id
                CopyIn(CopyShape { format: Csv, delimiter: 44, null: "", quote: 39, escape: 39, header: true, key_field: Some(1), key_type: Some(Int8), key_modifier: Some(0), columns: 5, force_null_key: false, encoding: None, times: [] }) [rows] Write
            COPY bids FROM STDIN (FORMAT binary)
                CopyIn(CopyShape { format: Binary, delimiter: 9, null: "\\N", quote: 34, escape: 34, header: false, key_field: Some(1), key_type: Some(Int8), key_modifier: Some(0), columns: 5, force_null_key: false, encoding: None, times: [] }) [rows] Write
            COPY bids FROM STDIN WITH (FREEZE, HEADER MATCH) WHERE amount > 5
                CopyIn(CopyShape { format: Text, delimiter: 9, null: "\\N", quote: 34, escape: 34, header: true, key_field: Some(1), key_type: Some(Int8), key_modifier: Some(0), columns: 5, force_null_key: false, encoding: None, times: [] }) [rows] Write
            COPY bids TO STDOUT
                CopyOut(CopyShape { format: Text, delimiter: 9, null: "\\N", quote: 34, escape: 34, header: false, key_field: Some(1), key_type: Some(Int8), key_modifier: Some(0), columns: 5, force_null_key: false, encoding: None, times: [] }) [any]
            COPY bids TO STDOUT CSV HEADER
                CopyOut(CopyShape { format: Csv, delimiter: 44, null: "", quote: 34, escape: 34, header: true, key_field: Some(1), key_type: Some(Int8), key_modifier: Some(0), columns: 5, force_null_key: false, encoding: None, times: [] }) [any]
            COPY (SELECT * FROM bids WHERE auction_id = 3) TO STDOUT WITH (FORMAT csv)
                CopyOut(CopyShape { format: Csv, delimiter: 44, null: "", quote: 34, escape: 34, header: false, key_field: None, key_type: None, key_modifier: None, columns: 0, force_null_key: false, encoding: None, times: [] }) [#0]
            COPY users FROM STDIN
                CopyIn(CopyShape { format: Text, delimiter: 9, null: "\\N", quote: 34, escape: 34, header: false, key_field: None, key_type: None, key_modifier: None, columns: 3, force_null_key: false, encoding: None, times: [] }) ReferenceWrite Write
            COPY stats TO STDOUT
                CopyOut(CopyShape { format: Text, delimiter: 9, null: "\\N", quote: 34, escape: 34, header: false, key_field: None, key_type: None, key_modifier: None, columns: 2, force_null_key: false, encoding: None, times: [] }) Home
            COPY bids FROM '/tmp/x'
                Other Unknown { why: "COPY from or to a file of the server" } Write
            COPY stats TO PROGRAM 'cat'
                Other Home Write
            COPY missing FROM STDIN
                CopyIn(CopyShape { format: Text, delimiter: 9, null: "\\N", quote: 34, escape: 34, header: false, key_field: None, key_type: None, key_modifier: None, columns: 0, force_null_key: false, encoding: None, times: [] }) Unknown { why: "relation missing is not known (yet) and is written" } Write
        "#]],
    );
}

#[test]
fn ddl() {
    check(
        &[
            "CREATE TABLE x (a int)",
            "CREATE TEMP TABLE x (a int)",
            "CREATE TEMP TABLE bids (a int)",
            "CREATE TABLE x AS SELECT * FROM bids",
            "CREATE TABLE x AS SELECT * FROM users",
            "SELECT * INTO x FROM users",
            "SELECT INTO x FROM bids",
            "SELECT a INTO TEMP x FROM stats",
            "CREATE INDEX CONCURRENTLY i ON bids (amount)",
            "CREATE UNIQUE INDEX i ON bids (amount)",
            "DROP INDEX CONCURRENTLY i",
            "DROP TABLE bids",
            "TRUNCATE bids, users",
            "ALTER TABLE users ADD COLUMN t uuid DEFAULT gen_random_uuid()",
            "VACUUM bids",
            "ANALYZE",
            "CREATE DATABASE d",
            "ALTER ROLE x PASSWORD 'y'",
            "GRANT SELECT ON bids TO x",
            "CREATE VIEW v AS SELECT * FROM bids",
            "REINDEX TABLE CONCURRENTLY bids",
            "ALTER SYSTEM SET x = 1",
            "LOCK TABLE bids IN ACCESS EXCLUSIVE MODE",
            "LOCK stats",
        ],
        &expect![[r#"
            CREATE TABLE x (a int)
                Ddl(Transactional) Everywhere Write catalog
            CREATE TEMP TABLE x (a int)
                Ddl(Temporary) Home Write pins:Temporary
            CREATE TEMP TABLE bids (a int)
                Ddl(Temporary) Unknown { why: "a temporary object named bids would hide the table bids" } Write pins:Temporary
            CREATE TABLE x AS SELECT * FROM bids
                Ddl(Transactional) Unknown { why: "CREATE TABLE AS reads the sharded table public.bids" } Write catalog
            CREATE TABLE x AS SELECT * FROM users
                Ddl(Transactional) Everywhere Write catalog
            SELECT * INTO x FROM users
                Ddl(Transactional) Everywhere Write catalog
            SELECT INTO x FROM bids
                Ddl(Transactional) Unknown { why: "SELECT INTO reads a sharded table" } Write catalog
            SELECT a INTO TEMP x FROM stats
                Ddl(Temporary) Home Write pins:Temporary
            CREATE INDEX CONCURRENTLY i ON bids (amount)
                Ddl(NonTransactional) Everywhere Write catalog
            CREATE UNIQUE INDEX i ON bids (amount)
                Ddl(Transactional) Everywhere Write catalog
            DROP INDEX CONCURRENTLY i
                Ddl(NonTransactional) Everywhere Write catalog
            DROP TABLE bids
                Ddl(Transactional) Everywhere Write catalog
            TRUNCATE bids, users
                Ddl(Transactional) Everywhere Write
            ALTER TABLE users ADD COLUMN t uuid DEFAULT gen_random_uuid()
                Ddl(Transactional) Everywhere Write unrepeatable:gen_random_uuid() catalog
            VACUUM bids
                Ddl(NonTransactional) Everywhere Write
            ANALYZE
                Ddl(Transactional) Everywhere Write
            CREATE DATABASE d
                Ddl(Home) Home Write catalog
            ALTER ROLE x PASSWORD 'y'
                Ddl(Transactional) Everywhere Write catalog
            GRANT SELECT ON bids TO x
                Ddl(Transactional) Everywhere Write catalog
            CREATE VIEW v AS SELECT * FROM bids
                Ddl(Transactional) Everywhere Write catalog
            REINDEX TABLE CONCURRENTLY bids
                Ddl(NonTransactional) Everywhere Write
            ALTER SYSTEM SET x = 1
                Ddl(NonTransactional) Everywhere Write catalog
            LOCK TABLE bids IN ACCESS EXCLUSIVE MODE
                Lock Everywhere Write
            LOCK stats
                Lock Home Write
        "#]],
    );
}

#[test]
fn temporary_tables() {
    let mut out = String::new();
    for sql in [
        "INSERT INTO t VALUES (1)",
        "DROP TABLE t",
        "SELECT * FROM t JOIN bids USING (auction_id)",
        "CREATE INDEX ON t (a)",
    ] {
        out += &format!("{sql}\n    {}\n", line(sql, &facts_with(sql, true)));
    }
    expect![[r#"
        INSERT INTO t VALUES (1)
            Insert Home Write
        DROP TABLE t
            Ddl(Temporary) Home Write pins:Temporary
        SELECT * FROM t JOIN bids USING (auction_id)
            [any] home:t, which is not known
        CREATE INDEX ON t (a)
            Ddl(Temporary) Home Write pins:Temporary
    "#]]
    .assert_eq(&out);
}

#[test]
fn ddl_on_temporary_tables_is_told_by_their_names() {
    let kind = |sql: &str| {
        let Command::Ddl(kind) = facts_with(sql, true).command else { panic!("{sql}") };
        kind
    };
    for sql in [
        "comment on table mine is 'x'",
        "comment on column mine.a is 'x'",
        "comment on trigger g on mine is 'x'",
        "grant select (a) on table mine to bob",
        "revoke all on mine from bob",
        "cluster verbose mine using mine_a",
        "reindex (verbose) table concurrently mine",
        "create statistics if not exists s (ndistinct) on a, b from mine",
        "create unique index concurrently on only mine (a)",
        "create or replace rule r as on insert to mine do nothing",
        "create constraint trigger g after update of a on mine execute function f()",
        "drop policy if exists p on mine",
        "drop index concurrently pg_temp.mine_a",
    ] {
        assert_eq!(kind(sql), DdlKind::Temporary, "{sql}");
    }
    for sql in [
        "comment on table bids is 'x'",
        "comment on constraint c on domain mine is 'x'",
        "comment on role mine is 'x'",
        "grant usage on schema mine to bob",
        "grant select on all tables in schema mine to bob",
        "grant mine to bob",
        "reindex index mine",
        "drop index mine",
        "create statistics s on a, b from bids",
        "create trigger g before insert on bids execute function f()",
        "create event trigger g on ddl_command_end execute function f()",
    ] {
        assert_eq!(kind(sql), DdlKind::Transactional, "{sql}");
    }
}
