//! Logging in, and what a session sees of the cluster.

use std::time::Duration;

use tests::cluster::{Cluster, eventually, first_column};
use tokio_postgres::error::SqlState;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_databases_own_users_log_in_with_their_passwords() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    assert_eq!(first_column(&client, "SELECT current_user").await, ["postgres"]);
    assert_eq!(first_column(&client, "SELECT current_database()").await, ["auction"]);
    client
        .batch_execute("CREATE ROLE bidder LOGIN PASSWORD 'a bidder''s secret'")
        .await
        .expect("create a role");
    let mut config = cluster.proxy.config("auction");
    config.user("bidder").password("a bidder's secret");
    let (bidder, connection) = config.connect(tokio_postgres::NoTls).await.expect("the new role logs in");
    tokio::spawn(connection);
    assert_eq!(first_column(&bidder, "SELECT current_user").await, ["bidder"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wrong_password_and_an_unknown_user_look_the_same() {
    let cluster = Cluster::builder().shards(1).start().await;
    for user in ["postgres", "nobody-of-that-name"] {
        let mut config = cluster.proxy.config("auction");
        config.user(user).password("wrong");
        let error = config.connect(tokio_postgres::NoTls).await.err().expect("must not log in");
        assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD), "{user}: {error:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_that_may_not_log_in_are_answered_as_by_the_server() {
    let cluster = Cluster::builder().config_extra("[auth]\ncache = \"0s\"").start().await;
    let client = cluster.connect().await;
    for sql in [
        "CREATE ROLE expired LOGIN PASSWORD 'x' VALID UNTIL '2001-01-01'",
        "CREATE ROLE valid LOGIN PASSWORD 'x' VALID UNTIL 'infinity'",
        "CREATE ROLE barred NOLOGIN PASSWORD 'x'",
        "CREATE ROLE bare LOGIN",
        "CREATE ROLE few LOGIN PASSWORD 'x' CONNECTION LIMIT 1",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let answer = async |mut config: tokio_postgres::Config, user: &str, password: &str| {
        config.user(user).password(password);
        let error = config.connect(tokio_postgres::NoTls).await.err()?;
        let error = error.as_db_error().expect("an answer of the server's").clone();
        Some((error.severity().to_owned(), error.code().code().to_owned(), error.message().to_owned()))
    };
    for (user, password) in [
        ("expired", "x"),
        ("valid", "x"),
        ("barred", "x"),
        ("barred", "wrong"),
        ("bare", "x"),
        ("nobody", "x"),
    ] {
        let here = answer(cluster.proxy.config("auction"), user, password).await;
        let there = answer(cluster.shard(0).primary.config("auction"), user, password).await;
        assert_eq!(here, there, "{user} with {password}");
    }
    client.batch_execute("ALTER ROLE valid NOLOGIN").await.expect("altered");
    let refused = answer(cluster.proxy.config("auction"), "valid", "x").await.expect("refused at once");
    assert_eq!(refused.1, "28000");
    // The limit is of connections to PostgreSQL: one transaction has it, the other is told.
    let mut sessions = Vec::new();
    for _ in 0..2 {
        let mut config = cluster.proxy.config("auction");
        config.user("few").password("x");
        let (session, connection) =
            config.connect(tokio_postgres::NoTls).await.expect("sessions are not limited");
        tokio::spawn(connection);
        sessions.push(session);
    }
    sessions[0].batch_execute("BEGIN").await.expect("begin");
    sessions[0].batch_execute("SELECT 1 FROM pg_class").await.expect("the one connection");
    let error = sessions[1].batch_execute("SELECT 1 FROM pg_class").await.expect_err("one too many");
    assert_eq!(error.code(), Some(&SqlState::TOO_MANY_CONNECTIONS), "{error:?}");
    assert!(
        error.as_db_error().expect("a reply").message().contains("too many connections for role"),
        "{error:?}"
    );
    sessions[0].batch_execute("COMMIT").await.expect("commit");
    sessions[1].batch_execute("SELECT 1 FROM pg_class").await.expect("it is free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_password_is_one_verifier_on_all_shards() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    let verifiers = async || {
        let all = cluster.on_each_primary("SELECT rolpassword FROM pg_authid WHERE rolname = 'bidder'").await;
        let all = all.concat();
        assert!(all[0].starts_with("SCRAM-SHA-256$") && all[0] == all[1], "{all:?}");
        all[0].clone()
    };
    client.batch_execute("CREATE ROLE bidder LOGIN PASSWORD 'one'").await.expect("create");
    let first = verifiers().await;
    client
        .batch_execute("ALTER ROLE bidder WITH ENCRYPTED PASSWORD 'two' VALID UNTIL 'infinity'")
        .await
        .expect("alter");
    assert_ne!(verifiers().await, first);
    let mut config = cluster.proxy.config("auction");
    config.user("bidder").password("two");
    let (bidder, connection) = config.connect(tokio_postgres::NoTls).await.expect("the new password");
    tokio::spawn(connection);
    client
        .batch_execute("CREATE TABLE auctions (auction_id bigint); GRANT ALL ON auctions TO bidder")
        .await
        .expect("DDL");
    let insert = "INSERT INTO auctions VALUES (1), (2), (3), (4), (5), (6)";
    bidder.batch_execute(insert).await.expect("its keys open every shard");
    client.batch_execute("ALTER USER bidder PASSWORD NULL").await.expect("alter");
    let none = cluster.on_each_primary("SELECT rolpassword FROM pg_authid WHERE rolname = 'bidder'").await;
    assert_eq!(none.concat(), ["NULL", "NULL"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn other_databases_pass_through_to_the_first_shard() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect_to("postgres").await;
    client
        .batch_execute("CREATE TABLE plain (a int); INSERT INTO plain VALUES (7)")
        .await
        .expect("plain tables");
    assert_eq!(first_column(&client, "SELECT a FROM plain").await, ["7"]);
    let port = cluster.shard(0).primary.port.to_string();
    assert_eq!(first_column(&client, "SHOW port").await, [port]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sessions_of_other_databases_do_not_meet() {
    let cluster = Cluster::builder().config_extra("[pool]\nsize = 4").start().await;
    let (one, two) = (cluster.connect_to("postgres").await, cluster.connect_to("postgres").await);
    let lock = "SELECT pg_try_advisory_lock(7001)::text";
    assert_eq!(first_column(&one, lock).await, ["true"]);
    assert_eq!(first_column(&two, lock).await, ["false"]);
    drop(one);
    eventually(Duration::from_secs(10), "the lock goes with its session", async || {
        first_column(&two, lock).await == ["true"]
    })
    .await;
    let setter = cluster.connect_to("postgres").await;
    first_column(&setter, "SELECT set_config('app.x', 'secret', false)").await;
    assert_eq!(first_column(&setter, "SELECT current_setting('app.x')").await, ["secret"]);
    drop(setter);
    for _ in 0..4 {
        let next = cluster.connect_to("postgres").await;
        assert_eq!(first_column(&next, "SELECT coalesce(current_setting('app.x', true), '')").await, [""]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_session_of_another_database_prepares_anew_after_ddl() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect_to("postgres").await;
    client
        .batch_execute("CREATE TABLE m (id int, a int); INSERT INTO m VALUES (1, 1)")
        .await
        .expect("create");
    let columns = async || {
        let session = cluster.connect_to("postgres").await;
        let rows = session.query("SELECT * FROM m WHERE id = $1", &[&1_i32]).await?;
        Ok::<_, tokio_postgres::Error>(rows[0].len())
    };
    for _ in 0..3 {
        assert_eq!(columns().await.expect("rows"), 2);
    }
    client.batch_execute("ALTER TABLE m ADD b int").await.expect("altered");
    for _ in 0..3 {
        assert_eq!(columns().await.expect("a session that has prepared nothing before"), 3);
    }
    // Behind the proxy's back: the first one that meets it tells the others.
    let node = cluster.shard(0).primary.connect("postgres").await.expect("the node is up");
    node.batch_execute("ALTER TABLE m ADD c int").await.expect("altered");
    let _ = columns().await;
    for _ in 0..3 {
        assert_eq!(columns().await.expect("told"), 4);
    }
}

async fn login(cluster: &Cluster, user: &str, password: &str) -> tokio_postgres::Client {
    let mut config = cluster.proxy.config("auction");
    config.user(user).password(password);
    let (client, connection) = config.connect(tokio_postgres::NoTls).await.expect("login");
    tokio::spawn(connection);
    client
}

/// What each shard's connection says.
async fn everywhere(client: &tokio_postgres::Client, setting: &str) -> Vec<String> {
    let mut said = first_column(client, &format!("SHOW {setting}")).await;
    for id in 1..=8 {
        let sql = format!(
            "SELECT current_setting('{setting}') FROM lots WHERE auction_id = {id} AND current_user = user"
        );
        said.extend(first_column(client, &sql).await);
    }
    said.dedup();
    said
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_roles_and_databases_set_reaches_whoever_logs_in_afterwards() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    for sql in [
        "CREATE TABLE lots (auction_id bigint PRIMARY KEY)",
        "INSERT INTO lots VALUES (1), (2), (3), (4), (5), (6), (7), (8)",
        "CREATE ROLE bidder LOGIN PASSWORD 'one'",
        "GRANT SELECT ON lots TO public",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    let early = login(&cluster, "bidder", "one").await;
    assert_eq!(everywhere(&early, "work_mem").await, ["4MB"]);
    for (sql, expected) in [
        ("ALTER ROLE bidder SET work_mem = '5MB'", "5MB"),
        ("BEGIN; ALTER ROLE bidder SET work_mem = '6MB'; COMMIT", "6MB"),
        ("BEGIN; ALTER ROLE bidder SET work_mem = '60MB'; ROLLBACK", "6MB"),
        ("ALTER USER bidder IN DATABASE auction SET work_mem = '7MB'", "7MB"),
        ("ALTER ROLE bidder IN DATABASE auction RESET ALL", "6MB"),
        ("ALTER ROLE bidder RESET work_mem", "4MB"),
        ("ALTER DATABASE auction SET work_mem = '8MB'", "8MB"),
        ("ALTER DATABASE auction RESET ALL", "4MB"),
        ("ALTER ROLE ALL SET work_mem = '9MB'", "9MB"),
    ] {
        client.batch_execute(sql).await.expect(sql);
        let late = login(&cluster, "bidder", "one").await;
        assert_eq!(everywhere(&late, "work_mem").await, [expected], "{sql}");
    }
    // A session that holds a connection meanwhile gives it to nobody.
    early.batch_execute("BEGIN; SELECT * FROM lots").await.expect("begin");
    client.batch_execute("ALTER ROLE bidder SET work_mem = '10MB'").await.expect("set");
    early.batch_execute("COMMIT").await.expect("commit");
    assert_eq!(everywhere(&login(&cluster, "bidder", "one").await, "work_mem").await, ["10MB"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_role_that_is_dropped_and_made_again_is_another_one() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    client.batch_execute("CREATE TABLE lots (auction_id bigint PRIMARY KEY)").await.expect("made");
    let rows = "INSERT INTO lots VALUES (1), (2), (3), (4), (5), (6), (7), (8)";
    client.batch_execute(rows).await.expect("filled");
    for password in ["one", "two", "three"] {
        let make = format!("CREATE ROLE bidder LOGIN PASSWORD '{password}'");
        client.batch_execute(&make).await.expect("made");
        client.batch_execute("GRANT SELECT ON lots TO bidder").await.expect("granted");
        let bidder = login(&cluster, "bidder", password).await;
        assert_eq!(everywhere(&bidder, "work_mem").await, ["4MB"], "all shards");
        assert_eq!(first_column(&bidder, "SELECT current_user").await, ["bidder"]);
        let changed = format!("ALTER ROLE bidder PASSWORD '{password}!'");
        client.batch_execute(&changed).await.expect("changed");
        assert_eq!(everywhere(&bidder, "work_mem").await, ["4MB"], "who is logged in stays so");
        let again = login(&cluster, "bidder", &format!("{password}!")).await;
        assert_eq!(everywhere(&again, "work_mem").await, ["4MB"]);
        drop((bidder, again));
        client.batch_execute("DROP OWNED BY bidder").await.expect("owns nothing");
        client.batch_execute("DROP ROLE bidder").await.expect("dropped");
        let mut config = cluster.proxy.config("auction");
        config.user("bidder").password(format!("{password}!"));
        let error = config.connect(tokio_postgres::NoTls).await.err().expect("nobody of that name");
        assert_eq!(error.code(), Some(&SqlState::INVALID_PASSWORD), "{error:?}");
    }
}

/// A password is changed while sessions go on: who logs in with the new one is served on every shard, through the pools that sessions
/// with the old one have opened; and these find connections again as soon as somebody has logged in with it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_changed_password_reaches_the_pools_of_older_sessions() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    for sql in [
        "CREATE TABLE t (auction_id bigint PRIMARY KEY, n int)",
        "INSERT INTO t VALUES (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0)",
        "CREATE ROLE rotated LOGIN PASSWORD 'before'",
        "GRANT ALL ON t TO rotated",
    ] {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
    let (one, two) = one_key_of_each(&cluster).await;
    let select = |key: i64| format!("SELECT n FROM t WHERE auction_id = {key} FOR UPDATE");
    let old = login(&cluster, "rotated", "before").await;
    // Its only connection, which stays its own.
    old.batch_execute(&format!("BEGIN; {}", select(one))).await.expect("the pool of one shard is there");
    client.batch_execute("ALTER ROLE rotated PASSWORD 'after'").await.expect("alter");
    let error = old.batch_execute(&select(two)).await.expect_err("no connection, and no password for one");
    assert_eq!(error.code(), Some(&SqlState::INVALID_AUTHORIZATION_SPECIFICATION), "{error:?}");
    let new = login(&cluster, "rotated", "after").await;
    for key in [one, two] {
        let found = first_column(&new, &format!("SELECT n FROM t WHERE auction_id = {key}")).await;
        assert_eq!(found, ["0"], "{key}");
    }
    old.batch_execute("ROLLBACK").await.expect("rollback");
    new.batch_execute(&format!("BEGIN; {}", select(one))).await.expect("a connection of its own");
    for key in [two, one] {
        let found = first_column(&old, &format!("SELECT n FROM t WHERE auction_id = {key}")).await;
        assert_eq!(found, ["0"], "{key}");
    }
}

/// Keys of two shards.
async fn one_key_of_each(cluster: &Cluster) -> (i64, i64) {
    let keys = cluster.on_each_primary("SELECT min(auction_id) FROM t").await;
    let key = |shard: usize| keys[shard][0].parse().expect("rows on both shards");
    (key(0), key(1))
}
