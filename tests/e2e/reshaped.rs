//! Prepared statements after DDL: parameters keep the types that the application was told of, rows that would be others are refused in
//! PostgreSQL's own words, and what is prepared afresh is what it says.

use tests::cluster::{Cluster, first_column};
use tests::wire::{Frame, Login, Wire};
use tests::wire_message::{self as message, Value};

/// Where the DDL comes from.
#[derive(Clone, Copy, Debug, PartialEq)]
enum By {
    Proxy,
    Nodes,
}

fn ask(wire: &mut Wire, frames: &[Vec<u8>]) -> Vec<Frame> {
    wire.send(&[frames.concat(), message::sync()].concat()).expect("sent");
    wire.read_until_ready(1).expect("an answer")
}

/// Tags of an answer, an error with its SQLSTATE and routine.
fn said(frames: &[Frame]) -> String {
    let one = |frame: &Frame| match frame.tag {
        b'E' => {
            let fields: Vec<_> = frame.body.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
            let of = |tag: char| {
                fields.iter().find(|field| field.starts_with(tag)).map_or("", |field| &field[1..]).to_owned()
            };
            format!("E({} {})", of('C'), of('R'))
        }
        tag => char::from(tag).to_string(),
    };
    frames.iter().map(one).collect::<Vec<_>>().join(" ")
}

fn key(n: i64) -> Value {
    Value::Binary(n.to_be_bytes().to_vec())
}

fn run(wire: &mut Wire, statement: &str, values: &[Value]) -> Vec<Frame> {
    ask(wire, &[message::bind("", statement, values, &[1]), message::execute("", 0)])
}

/// The value of the one column of the one row of an answer.
fn value(frames: &[Frame]) -> Vec<u8> {
    let row =
        frames.iter().find(|frame| frame.tag == b'D').unwrap_or_else(|| panic!("no row: {}", said(frames)));
    row.body[6..].to_vec()
}

async fn change(cluster: &Cluster, database: &str, by: By, sql: &str) {
    match by {
        By::Proxy => cluster.connect_to(database).await.batch_execute(sql).await.expect(sql),
        By::Nodes if database == "auction" => {
            cluster.nodes.execute_everywhere(database, sql).await.unwrap_or_else(|error| panic!("{error}"));
        }
        By::Nodes => {
            cluster.shard(0).primary.execute(database, sql).await.unwrap_or_else(|error| panic!("{error}"));
        }
    }
}

/// A database with `al`, sharded or not, with rows 1 to 8.
async fn with_rows(cluster: &Cluster, database: &str) {
    let client = cluster.connect_to(database).await;
    let rows: Vec<String> = (1..=8).map(|n| format!("({n}, {})", n * 10)).collect();
    client.batch_execute("DROP TABLE IF EXISTS al").await.expect("drop");
    client.batch_execute("CREATE TABLE al (auction_id bigint, n bigint)").await.expect("create");
    client.batch_execute(&format!("INSERT INTO al VALUES {}", rows.join(","))).await.expect("insert");
}

fn login(cluster: &Cluster, database: &str) -> Wire {
    Wire::login(&Login { database: database.to_owned(), ..cluster.login() }).expect("login")
}

/// Takes the conns that are at hand away, so that the next statement runs on one that has not seen it: as many as there are.
async fn busy(cluster: &Cluster, database: &str) -> Vec<tokio_postgres::Client> {
    let mut busy = Vec::new();
    for _ in 0..2 {
        let client = cluster.connect_to(database).await;
        client.batch_execute("BEGIN").await.expect("begin");
        for n in 1..=8 {
            let lock = format!("SELECT FROM al WHERE auction_id = {n} FOR SHARE");
            client.batch_execute(&lock).await.expect("select");
        }
        busy.push(client);
    }
    busy
}

const KINDS: [(&str, By); 4] =
    [("auction", By::Proxy), ("auction", By::Nodes), ("postgres", By::Proxy), ("postgres", By::Nodes)];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn binary_parameters_are_stored_as_what_they_were_told_to_be() {
    let cluster = Cluster::builder().start().await;
    for (database, by) in KINDS {
        for described in [true, false] {
            with_rows(&cluster, database).await;
            let mut wire = login(&cluster, database);
            let parse = message::parse("s1", "INSERT INTO al VALUES ($1, $2)", &[]);
            let describe = described.then(|| message::describe(b'S', "s1"));
            let prepared = ask(&mut wire, &[parse, describe.unwrap_or_default()]);
            assert!(said(&prepared).starts_with('1'), "{}", said(&prepared));
            for n in 11..=14 {
                assert_eq!(said(&run(&mut wire, "s1", &[key(n), key(n * 10)])), "2 C Z");
            }
            change(&cluster, database, by, "ALTER TABLE al ALTER n TYPE float8").await;
            let held = busy(&cluster, database).await;
            for n in 21..=28 {
                let case = format!("{database}, DDL by {by:?}, described: {described}, key {n}");
                assert_eq!(said(&run(&mut wire, "s1", &[key(n), key(n * 10)])), "2 C Z", "{case}");
            }
            drop(held);
            let client = cluster.connect_to(database).await;
            let wrong = first_column(&client, "SELECT auction_id FROM al WHERE n <> auction_id * 10").await;
            assert!(wrong.is_empty(), "{database}, DDL by {by:?}, described: {described}: {wrong:?}");
            // What is prepared now is what the table is now.
            let now = client.prepare("INSERT INTO al VALUES ($1, $2)").await.expect("prepare");
            assert_eq!(now.params()[1], tokio_postgres::types::Type::FLOAT8, "{database} {by:?}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn rows_of_another_type_are_refused_as_by_postgresql() {
    const CHANGED: &str = "E(0A000 RevalidateCachedQuery) Z";
    let cluster = Cluster::builder().start().await;
    for (database, by) in KINDS {
        for described in [true, false] {
            with_rows(&cluster, database).await;
            let mut wire = login(&cluster, database);
            let select = "SELECT n FROM al WHERE auction_id = $1";
            let parse = message::parse("s1", select, &[20]);
            let describe = described.then(|| message::describe(b'S', "s1"));
            ask(&mut wire, &[parse, describe.unwrap_or_default()]);
            assert_eq!(value(&run(&mut wire, "s1", &[key(1)])), 10_i64.to_be_bytes());
            change(&cluster, database, by, "ALTER TABLE al ALTER n TYPE float8").await;
            let held = busy(&cluster, database).await;
            for n in 1..=8 {
                let case = format!("{database}, DDL by {by:?}, described: {described}, key {n}");
                assert_eq!(said(&run(&mut wire, "s1", &[key(n)])), CHANGED, "{case}");
            }
            // Nothing of it happens in a transaction, and nothing before it stays.
            let insert = message::step("INSERT INTO al VALUES (99, 0)");
            let bind = [message::bind("", "s1", &[key(1)], &[1]), message::execute("", 0)].concat();
            let refused = said(&ask(&mut wire, &[insert, bind]));
            assert!(refused.ends_with(CHANGED), "{refused}");
            drop(held);
            // Prepared again, by this session or another, it is what it is now; here and on every other conn.
            let again = ask(&mut wire, &[message::parse("s2", select, &[20]), message::describe(b'S', "s2")]);
            assert_eq!(said(&again), "1 t T Z", "{database}, DDL by {by:?}");
            let held = busy(&cluster, database).await;
            for n in 1..=8 {
                assert_eq!(
                    value(&run(&mut wire, "s2", &[key(n)])),
                    (n as f64 * 10.0).to_be_bytes(),
                    "{database} {by:?}"
                );
                assert_eq!(said(&run(&mut wire, "s1", &[key(n)])), CHANGED, "{database} {by:?}");
            }
            drop(held);
            let client = cluster.connect_to(database).await;
            assert!(first_column(&client, "SELECT 1 FROM al WHERE auction_id = 99").await.is_empty());
            assert_eq!(
                client.query_one(select, &[&2_i64]).await.expect("a new session").get::<_, f64>(0),
                20.0
            );
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn answers_of_several_shards_and_unnamed_statements_are_held_to_it_too() {
    const CHANGED: &str = "E(0A000 RevalidateCachedQuery) Z";
    let cluster = Cluster::builder().start().await;
    for by in [By::Proxy, By::Nodes] {
        for (name, sql, values) in [
            ("all", "SELECT n FROM al WHERE n > $1", vec![key(0)]),
            ("", "SELECT n FROM al WHERE auction_id = $1", vec![key(3)]),
            (
                "rows",
                "INSERT INTO al VALUES ($1, 5), ($2, 5), ($3, 5), ($4, 5) RETURNING n",
                (50..54).map(key).collect(),
            ),
        ] {
            with_rows(&cluster, "auction").await;
            let mut wire = login(&cluster, "auction");
            ask(
                &mut wire,
                &[message::parse(name, sql, &vec![20; values.len()]), message::describe(b'S', name)],
            );
            let first = said(&run(&mut wire, name, &values));
            assert!(first.contains('D') && first.ends_with("C Z"), "{sql}: {first}");
            change(&cluster, "auction", by, "ALTER TABLE al ALTER n TYPE float8").await;
            let held = busy(&cluster, "auction").await;
            let after = said(&run(&mut wire, name, &values));
            // BindComplete may have been sent where the proxy binds.
            assert!(after.ends_with(CHANGED) && !after.contains('D'), "{sql}, DDL by {by:?}: {after}");
            drop(held);
            let count = "SELECT 1 FROM al WHERE n = 5";
            let left = cluster.on_each_primary(count).await.concat().len();
            assert_eq!(left, if name == "rows" { 4 } else { 0 }, "{sql}, DDL by {by:?}");
        }
    }
}
