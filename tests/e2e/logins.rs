//! Logins that fail: what the log says of them; an `auth.query` that PostgreSQL refuses.

use std::time::Duration;

use tests::cluster::{Cluster, eventually, first_column};
use tokio_postgres::{Config, NoTls};

/// The line of the log that tells of a failed login.
async fn line_of(cluster: &Cluster, config: &Config) -> String {
    let lines = || -> Vec<String> {
        let log = cluster.proxy.log();
        log.lines().filter(|line| line.contains("login failed")).map(str::to_owned).collect()
    };
    let before = lines().len();
    config.connect(NoTls).await.err().expect("the login fails");
    eventually(Duration::from_secs(5), "the login is logged", async || lines().len() > before).await;
    lines().remove(before)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_whose_login_failed_and_why_and_no_value() {
    let cluster = Cluster::builder().start().await;
    let postgres = cluster.connect_to("postgres").await;
    postgres
        .batch_execute("CREATE ROLE al LOGIN PASSWORD 'hunter2'; CREATE ROLE nol PASSWORD 'hunter2'")
        .await
        .expect("run");
    let al = |database: &str, options: &str| {
        let mut config = cluster.proxy.config(database);
        config.user("al").password("hunter2").options(options);
        config
    };
    let mut wrong = al("auction", "");
    wrong.password("hunter3");
    let mut barred = al("auction", "");
    barred.user("nol");
    let mut nobody = al("auction", "");
    nobody.user("nobody");
    for (config, who, why) in [
        (
            wrong,
            ["al", "auction"],
            "password authentication failed for user \"al\": wrong SCRAM proof (28P01)",
        ),
        (nobody, ["nobody", "auction"], "no such user, or it has no password (28P01)"),
        (barred, ["nol", "auction"], "role \"nol\" is not permitted to log in (28000)"),
        (al("nodb", ""), ["al", "nodb"], "database \"nodb\" does not exist (3D000)"),
        (
            al("gavel_admin", ""),
            ["al", "gavel_admin"],
            "permission denied for the admin console: user \"al\" (42501)",
        ),
        (
            al("auction", "-c work_mem=hunter4"),
            ["al", "auction"],
            "invalid value for parameter \"work_mem\": \"********\" (22023)",
        ),
        (
            al("auction", "-c work_mem=17"),
            ["al", "auction"],
            "# kB is outside the valid range for parameter \"work_mem\"",
        ),
        (
            al("auction", "-c nosuch=hunter4"),
            ["al", "auction"],
            "unrecognized configuration parameter \"nosuch\" (42704)",
        ),
        (al("auction", "-c role=hunter4"), ["al", "auction"], "role \"********\" does not exist"),
        (
            al("auction", "-c DateStyle=hunter4"),
            ["al", "auction"],
            "invalid value for parameter \"DateStyle\": \"********\" (22023)",
        ),
        (al("auction", "-c gavel.shard=hunter4"), ["al", "auction"], "\"********\""),
        (
            al("auction", "-c session_authorization=hunter4"),
            ["al", "auction"],
            "session authorization \"********\" (42501)",
        ),
        (al("auction", "-c hunter4"), ["al", "auction"], "an option -c or -- without name=value (42601)"),
    ] {
        let line = line_of(&cluster, &config).await;
        let [user, database] = who;
        for part in [&format!("user=\"{user}\""), &format!("database=\"{database}\""), "peer=127.0.0.1:", why]
        {
            assert!(line.contains(part), "{part}: {line}");
        }
    }
    let log = cluster.proxy.log();
    assert!(!["hunter2", "hunter3", "hunter4"].iter().any(|secret| log.contains(secret)), "{log}");
}

/// Replaces text of the configuration.
fn edit(cluster: &Cluster, from: &str, to: &str) {
    let file = std::fs::read_to_string(&cluster.proxy.config_path).expect("read");
    assert!(file.contains(from), "{file}");
    std::fs::write(&cluster.proxy.config_path, file.replace(from, to)).expect("write");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_query_for_secrets_that_postgresql_refuses_is_told_at_the_reload() {
    const GOOD: &str = "SELECT rolname, rolpassword FROM pg_authid WHERE rolname = $1";
    let extra = format!("[auth]\nquery = \"{GOOD}\"\ncache = \"0s\"");
    let cluster = Cluster::builder().config_extra(&extra).start().await;
    cluster.allow_log("the configuration in use stays");
    let console = cluster.connect_to("gavel_admin").await;
    let mut used = GOOD;
    for (query, told) in [
        ("selct $1", "auth.query failed: ERROR: syntax error at or near"),
        ("SELECT * FROM nowhere WHERE x = $1", "relation \\\"nowhere\\\" does not exist (42P01)"),
        (
            "SELECT rolname FROM pg_authid WHERE rolname = $1",
            "auth.query returns columns of the types (name)",
        ),
        ("SELECT rolname, oid FROM pg_authid WHERE rolname = $1", "returns columns of the types (name, oid)"),
        (
            "SELECT rolname, rolpassword FROM pg_authid WHERE rolname IN ($1, $2)",
            "auth.query has 2 parameters",
        ),
        ("SELECT rolname, rolpassword FROM pg_authid WHERE oid = $1", "takes a user of type oid"),
    ] {
        edit(&cluster, used, query);
        used = query;
        let error = console.batch_execute("RELOAD").await.expect_err(query);
        let message = error.as_db_error().expect("an answer").message().to_owned();
        assert!(message.contains(&told.replace('\\', "")), "{message}");
        assert_eq!(first_column(&cluster.connect().await, "SELECT 1").await, ["1"], "the old one is in use");
    }
    edit(&cluster, used, GOOD);
    console.batch_execute("RELOAD").await.expect("a good one");
    // What breaks later is told, and keeps no other change back.
    let node = &cluster.shard(0).primary;
    node.execute("postgres", "CREATE VIEW secrets AS SELECT rolname, rolpassword FROM pg_authid")
        .await
        .expect("create");
    let own = "SELECT rolname, rolpassword FROM secrets WHERE rolname = $1";
    edit(&cluster, GOOD, own);
    console.batch_execute("RELOAD").await.expect("a good one");
    assert_eq!(first_column(&cluster.connect().await, "SELECT 1").await, ["1"]);
    node.execute("postgres", "DROP VIEW secrets").await.expect("drop");
    console.batch_execute("RELOAD").await.expect("the same query");
    assert!(cluster.proxy.log().contains("logins fail, but for those of auth.users_file: auth.query failed"));
    let line = line_of(&cluster, &cluster.proxy.config("auction")).await;
    assert!(line.contains("relation \"secrets\" does not exist (42P01)"), "{line}");
    // At a start, too.
    cluster.allow_log("logins fail, but for those of auth.users_file");
    assert!(cluster.proxy.stop().await);
    let told = || {
        let log = cluster.proxy.log();
        log.lines()
            .any(|line| line.contains(" ERROR ") && line.contains("relation \"secrets\" does not exist"))
    };
    tokio::select! {
        started = cluster.proxy.start() => panic!("a login was let in: {started:?}"),
        () = eventually(Duration::from_secs(20), "it is told at the start", async || told()) => {}
    }
}
