//! Settings of a session that uses several connections: every shard that answers has them, and only while they are in force.

use tests::cluster::{Cluster, first_column};
use tests::wire::{Frame, Login, Wire};
use tests::wire_message as message;
use tokio_postgres::Client;

use crate::beside::{Beside, brief};
use crate::house::{add_auctions, build, holders, one_of_each};

struct House {
    cluster: Cluster,
    client: Client,
    ids: [i64; 2],
}

async fn house(mode: &str) -> House {
    let cluster = Cluster::builder().pool_mode(mode).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let (one, two) = one_of_each(&cluster).await;
    House { cluster, client, ids: [one, two] }
}

impl House {
    /// A setting as each of the two shards has it for this session.
    async fn on_both(&self, expression: &str) -> [String; 2] {
        let mut seen = [String::new(), String::new()];
        for (seen, id) in seen.iter_mut().zip(self.ids) {
            let sql = format!("SELECT {expression} FROM auctions WHERE auction_id = {id}");
            *seen = first_column(&self.client, &sql).await.remove(0);
        }
        seen
    }

    async fn zones(&self) -> [String; 2] {
        self.on_both("current_setting('timezone')").await
    }

    async fn run(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

fn both(value: &str) -> [String; 2] {
    [value.to_owned(), value.to_owned()]
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_set_in_a_transaction_over_two_shards_reaches_both() {
    for mode in ["transaction", "session"] {
        let house = house(mode).await;
        house.run("SET timezone TO 'CET'").await;
        assert_eq!(house.zones().await, both("CET"), "{mode}");
        house.run("BEGIN").await;
        assert_eq!(house.zones().await, both("CET"));
        house.run("SET LOCAL timezone TO 'Asia/Tokyo'").await;
        assert_eq!(house.zones().await, both("Asia/Tokyo"), "{mode}");
        house.run("SAVEPOINT s").await;
        house.run("SET timezone TO 'UTC'").await;
        assert_eq!(house.zones().await, both("UTC"));
        house.run("ROLLBACK TO s").await;
        assert_eq!(house.zones().await, both("Asia/Tokyo"), "{mode}: after the savepoint");
        house.run("RESET timezone").await;
        let default = house.zones().await;
        assert_eq!(default[0], default[1]);
        assert_ne!(default[0], "CET");
        house.run("ROLLBACK").await;
        assert_eq!(house.zones().await, both("CET"), "{mode}: after the rollback");
        house.run("BEGIN").await;
        house.zones().await;
        house.run("SET search_path TO pg_catalog, public; SET timezone TO 'Asia/Tokyo'").await;
        house.run("COMMIT").await;
        assert_eq!(house.zones().await, both("Asia/Tokyo"), "{mode}: after the commit");
        assert_eq!(house.on_both("current_setting('search_path')").await, both("pg_catalog, public"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_shard_that_joins_later_sees_what_was_set_and_what_was_undone() {
    let house = house("transaction").await;
    let zone = |id: i64| format!("SELECT current_setting('timezone') FROM auctions WHERE auction_id = {id}");
    let [one, two] = house.ids;
    house.run("SET timezone TO 'CET'").await;
    house.run("BEGIN").await;
    first_column(&house.client, &zone(one)).await;
    house.run("SAVEPOINT s").await;
    house.run("SET timezone TO 'UTC'").await;
    assert_eq!(first_column(&house.client, &zone(two)).await, ["UTC"]);
    house.run("ROLLBACK TO s").await;
    assert_eq!(house.zones().await, both("CET"), "the later shard too");
    house.run("SET LOCAL timezone TO 'Asia/Tokyo'").await;
    house.run("SET timezone TO 'UTC'").await;
    assert_eq!(house.zones().await, both("UTC"));
    house.run("ROLLBACK").await;
    house.run("BEGIN").await;
    house.run("SET LOCAL timezone TO 'Asia/Tokyo'").await;
    house.run("SET timezone TO 'UTC'").await;
    assert_eq!(first_column(&house.client, &zone(two)).await, ["UTC"], "in their order");
    house.run("ROLLBACK").await;
    assert_eq!(house.zones().await, both("CET"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn roles_are_the_same_on_all_shards_of_a_transaction() {
    let house = house("transaction").await;
    house.run("CREATE ROLE bidder; GRANT SELECT ON auctions TO bidder").await;
    house.run("BEGIN").await;
    house.zones().await;
    house.run("SET ROLE bidder").await;
    assert_eq!(house.on_both("current_user").await, both("bidder"));
    house.run("SAVEPOINT s; RESET ROLE").await;
    assert_eq!(house.on_both("current_user").await, both("postgres"));
    house.run("ROLLBACK TO s").await;
    assert_eq!(house.on_both("current_user").await, both("bidder"));
    house.run("COMMIT").await;
    assert_eq!(house.on_both("current_user").await, both("bidder"));
    house.run("RESET ROLE; SET SESSION AUTHORIZATION bidder").await;
    assert_eq!(house.on_both("session_user").await, both("bidder"));
    house.run("BEGIN").await;
    house.zones().await;
    house.run("RESET SESSION AUTHORIZATION").await;
    assert_eq!(house.on_both("session_user").await, both("postgres"));
    house.run("ROLLBACK").await;
    assert_eq!(house.on_both("session_user").await, both("bidder"));
    // The authorization takes the role back, changed or not.
    house.run("RESET SESSION AUTHORIZATION").await;
    for undo in ["SET SESSION AUTHORIZATION DEFAULT", "RESET SESSION AUTHORIZATION"] {
        house.run("SET ROLE bidder").await;
        assert_eq!(house.on_both("current_user").await, both("bidder"));
        house.run(undo).await;
        assert_eq!(house.on_both("current_user").await, both("postgres"), "{undo}");
        house.run("SET ROLE bidder").await;
        house.run("BEGIN").await;
        assert_eq!(house.on_both("current_user").await, both("bidder"));
        house.run(undo).await;
        assert_eq!(house.on_both("current_user").await, both("postgres"), "{undo}");
        house.run("COMMIT").await;
        assert_eq!(house.on_both("current_user").await, both("postgres"), "{undo}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn set_config_is_followed_as_set_is() {
    for mode in ["transaction", "session"] {
        let house = house(mode).await;
        house.run("SELECT set_config('TimeZone', 'CET', false)").await;
        assert_eq!(house.zones().await, both("CET"), "{mode}");
        let set = "SELECT set_config($1, $2, $3)";
        let (name, value) = ("app.tenant", "5, 'x'");
        house.client.query(set, &[&name, &value, &false]).await.expect("bound arguments");
        assert_eq!(house.on_both("current_setting('app.tenant')").await, both(value), "{mode}");
        house.run("BEGIN").await;
        house.zones().await;
        let local = "SELECT set_config('app.tenant', 'mine', true), set_config('work_mem', '3MB', true)";
        house.run(local).await;
        assert_eq!(house.on_both("current_setting('app.tenant')").await, both("mine"));
        house.run("COMMIT").await;
        assert_eq!(house.on_both("current_setting('app.tenant')").await, both(value));
        house.run("SELECT set_config('app.tenant', 'comp' || 'uted', false)").await;
        let [_, two] = house.ids;
        let elsewhere =
            format!("SELECT current_setting('app.tenant') FROM auctions WHERE auction_id = {two}");
        let refused = house.client.simple_query(&elsewhere).await.expect_err("that shard has not been told");
        assert_eq!(refused.code().map(|code| code.code()), Some("0A000"), "{refused:?}");
        house.run("DISCARD ALL").await;
        house.zones().await;
    }
}

/// Sends statements as one pipeline; the reply.
fn pipeline(wire: &mut Wire, texts: &[&str]) -> Vec<Frame> {
    let mut bytes: Vec<u8> = texts.iter().flat_map(|sql| message::step(sql)).collect();
    bytes.extend(message::sync());
    wire.send(&bytes).expect("sent");
    wire.read_until_ready(1).expect("an answer")
}

fn values(frames: &[Frame]) -> Vec<String> {
    let rows = frames.iter().filter(|frame| frame.tag == b'D');
    rows.map(|frame| String::from_utf8_lossy(&frame.body[6..]).into_owned()).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_pipeline_over_two_shards_keeps_its_settings_and_its_commits() {
    let house = house("transaction").await;
    let [one, two] = house.ids;
    let zone = |id: i64| format!("SELECT current_setting('timezone') FROM auctions WHERE auction_id = {id}");
    let mut wire = Wire::login(&house.cluster.login()).expect("login");
    let set = pipeline(&mut wire, &["SET timezone TO 'CET'", &zone(one), &zone(two)]);
    assert_eq!(values(&set), ["CET", "CET"], "{set:?}");
    let local =
        ["BEGIN", "SET LOCAL timezone TO 'UTC'", &zone(one), &zone(two), "COMMIT", &zone(one), &zone(two)];
    let frames = pipeline(&mut wire, &local);
    assert_eq!(values(&frames), ["UTC", "UTC", "CET", "CET"], "{frames:?}");
    let failed = pipeline(
        &mut wire,
        &["SET timezone TO 'UTC'", &zone(one), "SELECT 1 / (auction_id - auction_id) FROM auctions"],
    );
    assert!(failed.iter().any(|frame| frame.tag == b'E'));
    assert_eq!(values(&pipeline(&mut wire, &[&zone(one), &zone(two)])), ["CET", "CET"]);

    let bid = |id: i64| format!("INSERT INTO bids (auction_id, amount) VALUES ({id}, 7)");
    let frames = pipeline(&mut wire, &["BEGIN", &bid(one), "COMMIT", &bid(two)]);
    assert!(!frames.iter().any(|frame| frame.tag == b'E'), "{frames:?}");
    assert_eq!(frames.last().map(|ready| ready.body.as_slice()), Some(&b"I"[..]));
    for id in [one, two] {
        let found = holders(&house.cluster, "bids", &format!("auction_id = {id} AND amount = 7")).await;
        assert_eq!(found.len(), 1, "the bid on {id} is kept");
    }
}

/// What a login may not ask for fails as on PostgreSQL, on a node and here.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parameters_of_the_login_itself_are_refused_as_by_postgresql() {
    let cluster = Cluster::builder().start().await;
    let node = &cluster.shard(0).primary;
    for (options, expected) in [
        ("-c transaction_isolation=serializable", Some("25001")),
        ("-c transaction_isolation=read\\ committed", None),
        ("-c transaction_deferrable=on", Some("25001")),
        ("-c transaction_read_only=on", None),
        ("-c session_authorization=postgres", None),
    ] {
        for mut config in [node.config("auction"), cluster.proxy.config("auction")] {
            let login = config.options(options).connect(tokio_postgres::NoTls).await;
            let state = login.err().map(|error| error.code().expect("the server's").code().to_owned());
            assert_eq!(state.as_deref(), expected, "{options}");
        }
    }
    let mut config = cluster.proxy.config("auction");
    let login = config.options("-c session_authorization=pg_monitor").connect(tokio_postgres::NoTls).await;
    let error = login.err().expect("it would be another role");
    assert_eq!(error.code(), Some(&tokio_postgres::error::SqlState::INSUFFICIENT_PRIVILEGE), "{error:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn defaults_are_those_of_the_login() {
    let cluster = Cluster::builder().start().await;
    let login: Login =
        cluster.login().with("timezone", "CET").with("options", "-c work_mem=3MB -c app.tenant=7");
    let mut wire = Wire::login(&login).expect("login");
    let show =
        |wire: &mut Wire, sql: &str| wire.rows(sql).expect(sql).remove(0).remove(0).unwrap_or_default();
    assert_eq!(show(&mut wire, "SHOW work_mem"), "3MB");
    assert_eq!(show(&mut wire, "SHOW app.tenant"), "7");
    for back in ["SET timezone TO DEFAULT", "RESET timezone", "SET TIME ZONE DEFAULT", "RESET ALL"] {
        wire.query("SET timezone TO 'UTC'").expect("set");
        assert_eq!(show(&mut wire, "SHOW timezone"), "UTC");
        let frames = wire.query(back).expect("an answer");
        assert_eq!(frames.iter().filter(|frame| frame.tag == b'C').count(), 1, "{back}: {frames:?}");
        assert_eq!(show(&mut wire, "SHOW timezone"), "CET", "{back}");
    }
    wire.query("BEGIN; SET timezone TO 'UTC'; SET LOCAL timezone TO DEFAULT").expect("set");
    assert_eq!(show(&mut wire, "SHOW timezone"), "CET");
    wire.query("COMMIT").expect("commit");
    assert_eq!(show(&mut wire, "SHOW timezone"), "UTC");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn settings_of_a_role_made_on_the_nodes_are_known() {
    let cluster = Cluster::builder().replicas(1).start().await;
    let on_nodes = async |sql: &str| {
        for number in 0..2 {
            cluster
                .shard(number)
                .primary
                .execute("auction", sql)
                .await
                .unwrap_or_else(|error| panic!("{error}"));
        }
    };
    on_nodes("ALTER ROLE postgres IN DATABASE auction SET search_path = s4").await;
    let client = cluster.connect().await;
    let run =
        async |sql: &str| client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    run("CREATE SCHEMA s4").await;
    run("CREATE TABLE public.w (auction_id bigint, k bigint)").await;
    run("CREATE TABLE s4.w (k bigint, auction_id bigint)").await;
    // As of the login, like in PostgreSQL.
    let client = cluster.connect().await;
    let run =
        async |sql: &str| client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    for n in 1..=8 {
        run(&format!("INSERT INTO w VALUES ({n}, {})", n + 100)).await;
    }
    for n in 1..=8 {
        let found = first_column(&client, &format!("SELECT k FROM w WHERE auction_id = {}", n + 100)).await;
        assert_eq!(found, [n.to_string()], "the table of the role's schema, by its own key");
    }
    on_nodes("ALTER ROLE postgres SET default_transaction_isolation = 'serializable'").await;
    run("CREATE TABLE public.later (id int)").await;
    let client = cluster.connect().await;
    for n in 1..=8 {
        // A replica would refuse: no replica has serializable transactions.
        let found = first_column(&client, &format!("SELECT k FROM w WHERE auction_id = {}", n + 100)).await;
        assert_eq!(found.len(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_end_with_their_transaction() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    let all = async || {
        let plan = first_column(&client, "EXPLAIN (GAVEL) SELECT * FROM auctions").await.concat();
        plan.contains("shard-1") && plan.contains("shard-2")
    };
    assert!(all().await);
    for (end, kept) in [("COMMIT", true), ("ROLLBACK", false)] {
        client.batch_execute("BEGIN").await.expect("begin");
        client.batch_execute("SET LOCAL gavel.shard = 'shard-2'").await.expect("set local");
        assert!(!all().await, "in force");
        client.batch_execute(end).await.expect("the end");
        assert!(all().await, "SET LOCAL, {end}");
        client.batch_execute("BEGIN").await.expect("begin");
        client.batch_execute("SET gavel.shard = 'shard-2'").await.expect("set");
        client.batch_execute(end).await.expect("the end");
        assert_eq!(all().await, !kept, "SET, {end}");
        client.batch_execute("RESET gavel.shard").await.expect("reset");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn hints_of_the_login_are_in_force() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    let plan = |wire: &mut Wire| {
        format!("{:?}", wire.rows("EXPLAIN (GAVEL) SELECT * FROM auctions").expect("a plan"))
    };
    let mut wire = Wire::login(&cluster.login().with("options", "-c gavel.shard=shard-2")).expect("login");
    let hinted = plan(&mut wire);
    assert!(hinted.contains("shard-2") && !hinted.contains("shard-1"), "{hinted}");
    wire.rows("SET gavel.shard = 'shard-1'").expect("set");
    assert!(plan(&mut wire).contains("shard-1"));
    for reset in ["RESET gavel.shard", "DISCARD ALL"] {
        wire.rows(reset).expect("reset");
        assert_eq!(plan(&mut wire), hinted, "{reset}");
    }
    for wrong in ["gavel.shard=shard-9", "gavel.nothing=1"] {
        let login = cluster.login().with("options", &format!("-c {wrong}"));
        let refused = Wire::login(&login).expect_err("refused").to_string();
        assert!(refused.contains("22023"), "{wrong}: {refused}");
    }
    let role = client.batch_execute("ALTER ROLE postgres SET gavel.shard = 'shard-2'").await;
    assert_eq!(
        role.expect_err("refused").code().map(|code| code.code().to_owned()).as_deref(),
        Some("0A000")
    );
}

/// What a setting is set to and how that is undone: by the session, in a pipeline that goes from shard to shard.
const UNDONE: &[(&str, &str, &str)] = &[
    ("set work_mem = '6MB'", "reset work_mem", "work_mem"),
    ("set work_mem = '6MB'", "set work_mem to default", "work_mem"),
    ("set work_mem = '6MB'", "reset all", "work_mem"),
    ("set work_mem = '6MB'", "set work_mem = '4MB'", "work_mem"),
    ("select set_config('work_mem', '6MB', false)", "reset work_mem", "work_mem"),
    ("set role pg_read_all_data", "reset role", "role"),
    ("set session authorization pg_read_all_data", "reset session authorization", "session_authorization"),
    ("set timezone = 'Asia/Tokyo'", "reset timezone", "TimeZone"),
    ("set extra_float_digits = 0", "reset extra_float_digits", "extra_float_digits"),
    (
        "set session characteristics as transaction read only",
        "reset default_transaction_read_only",
        "default_transaction_read_only",
    ),
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_pipeline_undoes_is_undone_on_every_shard() {
    // One conn a shard: who comes next gets it.
    let cluster = Cluster::builder().shards(3).config_extra("[pool]\nsize = 1").start().await;
    let mut set_up = vec!["create table t (auction_id bigint primary key, n int)"];
    set_up.push("insert into t values (1, 0), (2, 0), (3, 0), (4, 0), (5, 0), (6, 0)");
    let mut both = Beside::of(cluster, &set_up).await;
    let mut wrong = String::new();
    for (set, undo, name) in UNDONE {
        let shown = format!("show {name}");
        let at = |key: i64| format!("select current_setting('{name}') from t where auction_id = {key}");
        for [one, two] in [[1, 2], [2, 3], [3, 1], [4, 5], [5, 6], [6, 4]] {
            let (one, two) = (at(one), at(two));
            let texts = [
                vec![set, one.as_str(), undo, &shown],
                vec![set, &one, &two, undo, &one, &two],
                vec![&one, set, &two, undo, &shown, &one],
                vec!["begin", &one, set, &two, undo, &one, &two, "commit"],
            ];
            for statements in texts {
                let next: Vec<String> = (1..=6).map(at).collect();
                let said = both.sides().map(|side| {
                    let frames = pipeline(side, &statements);
                    brief(&frames.into_iter().filter(|frame| frame.tag != b'S').collect::<Vec<_>>())
                });
                both.anew();
                let met = both
                    .sides()
                    .map(|side| next.iter().map(|sql| side.rows(sql).expect("rows")).collect::<Vec<_>>());
                if said[0] != said[1] || met[0] != met[1] {
                    wrong.push_str(&format!("{statements:?}\n  said {said:#?}\n  then {met:?}\n"));
                }
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_limit_of_statements_is_none_on_connections_that_had_one() {
    let House { cluster, client, .. } = house("transaction").await;
    let all = "SELECT count(*) FROM auctions";
    for zero in ["SET statement_timeout = 0", "BEGIN; SET statement_timeout TO 0; COMMIT"] {
        client
            .batch_execute(&format!("SET statement_timeout = 300; SELECT 1; {all}"))
            .await
            .expect("limited");
        let other = cluster.connect().await;
        for session in [&client, &other] {
            session.batch_execute(zero).await.expect("a setting");
            assert_eq!(first_column(session, "SHOW statement_timeout").await, ["0"], "{zero}");
            session.batch_execute("SELECT pg_sleep(0.6)").await.expect("no limit");
            let slow = "SELECT count(pg_sleep(0.02)) FROM auctions";
            assert_eq!(first_column(session, slow).await, ["20"], "{zero}");
        }
    }
}
