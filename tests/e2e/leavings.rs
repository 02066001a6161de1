//! What a function leaves on its connection stays with the session that called it.

use tests::cluster::{Cluster, first_column};

use crate::house::build;

const OBJECTS: [&str; 10] = [
    "CREATE FUNCTION become(x text) RETURNS text LANGUAGE plpgsql AS
     $$ BEGIN PERFORM set_config('app.tenant', x, false); RETURN x; END $$",
    "CREATE FUNCTION through(x text) RETURNS text LANGUAGE sql AS $$ SELECT become(x) $$",
    "CREATE FUNCTION tenant_of_transaction(x text) RETURNS text LANGUAGE plpgsql AS
     $$ BEGIN PERFORM set_config('app.tenant', x, true); RETURN x; END $$",
    "CREATE FUNCTION scratch() RETURNS int LANGUAGE plpgsql AS
     $$ BEGIN CREATE TEMP TABLE secret (a int); RETURN 1; END $$",
    "CREATE FUNCTION lock_it() RETURNS int LANGUAGE plpgsql AS
     $$ BEGIN PERFORM pg_advisory_lock(4242); RETURN 1; END $$",
    "CREATE TABLE by_default (a int, b text DEFAULT become('default'))",
    "CREATE TABLE checked (a int CHECK (become(a::text) IS NOT NULL))",
    "CREATE VIEW seen AS SELECT become('view') AS t",
    "CREATE FUNCTION stamp() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN PERFORM through('trigger'); RETURN NEW; END $$",
    "CREATE TRIGGER stamp BEFORE INSERT ON notes FOR EACH ROW EXECUTE FUNCTION stamp()",
];

/// What a session does, and what must not reach the next one.
const DEEDS: [(&str, &str); 9] = [
    ("SELECT become('direct')", "tenant"),
    ("SELECT through('through')", "tenant"),
    ("INSERT INTO by_default (a) VALUES (1)", "tenant"),
    ("INSERT INTO checked VALUES (1)", "tenant"),
    ("SELECT * FROM seen", "tenant"),
    ("INSERT INTO notes VALUES (1, 'note')", "tenant"),
    ("DO $$ BEGIN PERFORM become('block'); END $$", "tenant"),
    ("SELECT scratch()", "temporary table"),
    ("SELECT lock_it()", "lock"),
];

/// What is left at one's own connection: of one that was closed the server gives up the lock a moment later.
const STATE: &str = "SELECT 'tenant' WHERE coalesce(current_setting('app.tenant', true), '') <> '' \
     UNION ALL SELECT 'temporary table' WHERE to_regclass('pg_temp.secret') IS NOT NULL \
     UNION ALL SELECT 'lock' FROM pg_locks WHERE locktype = 'advisory' AND objid = 4242 AND pid = pg_backend_pid()";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nobody_meets_what_a_function_of_another_session_left() {
    // One conn: who comes next gets the same one, if it is given back.
    let cluster = Cluster::builder().shards(1).config_extra("[pool]\nsize = 1").start().await;
    {
        let client = cluster.connect().await;
        build(&client).await;
        for object in OBJECTS {
            client.batch_execute(object).await.unwrap_or_else(|error| panic!("{object}: {error:?}"));
        }
    }
    for (deed, left) in DEEDS {
        let client = cluster.connect().await;
        client.batch_execute(deed).await.unwrap_or_else(|error| panic!("{deed}: {error:?}"));
        // It is a setting of the session's, as in PostgreSQL: still there in its next transaction.
        let own = client.simple_query(STATE).await.expect("its own state");
        assert!(format!("{own:?}").contains(left), "{deed}: {own:?}");
        drop(client);
        let next = cluster.connect().await;
        next.batch_execute("BEGIN READ WRITE").await.expect("begin");
        assert_eq!(first_column(&next, STATE).await, Vec::<String>::new(), "{deed}");
        next.batch_execute("COMMIT").await.expect("commit");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_ends_with_the_transaction_binds_nobody() {
    let cluster = Cluster::builder().config_extra("[pool]\nsize = 1").start().await;
    let client = cluster.connect().await;
    build(&client).await;
    for object in OBJECTS {
        client.batch_execute(object).await.unwrap_or_else(|error| panic!("{object}: {error:?}"));
    }
    client.batch_execute("SELECT tenant_of_transaction('x')").await.expect("called");
    // The only conn is free while this session goes on.
    let next = cluster.connect().await;
    assert_eq!(first_column(&next, STATE).await, Vec::<String>::new());
}
