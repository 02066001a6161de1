//! Constraints that the shards cannot hold, each for itself: refused, accepted with a notice, or shown, and never silently believed.

use tests::cluster::{Cluster, first_column};
use tests::wire::Wire;
use tests::{wire_message as message, wire_print};
use tokio_postgres::Client;
use tokio_postgres::error::SqlState;

use crate::house::{add_auctions, build};
use crate::set_off::refused;

async fn run(client: &Client, statements: &[&str]) {
    for sql in statements {
        client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_02_unique_without_the_shard_key_needs_generated_values() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    run(
        &client,
        &[
            "CREATE TABLE offers (id bigserial PRIMARY KEY, auction_id bigint, email text)",
            "CREATE TABLE tokens (id uuid DEFAULT gen_random_uuid() PRIMARY KEY, auction_id bigint)",
            "CREATE TABLE keyed (auction_id bigint, email text, UNIQUE (auction_id, email))",
            "CREATE TABLE plain (id int, auction_id bigint)",
            "CREATE TABLE small (id int PRIMARY KEY, email text UNIQUE)",
        ],
    )
    .await;
    for sql in [
        "CREATE TABLE bad (auction_id bigint, email text UNIQUE)",
        "CREATE TABLE bad (auction_id bigint, id int PRIMARY KEY)",
        "CREATE TABLE bad (auction_id bigint, id int, EXCLUDE (id WITH =))",
        "ALTER TABLE plain ADD PRIMARY KEY (id)",
        "ALTER TABLE plain ADD COLUMN other int UNIQUE",
        "ALTER TABLE offers ALTER COLUMN id DROP DEFAULT",
        "CREATE UNIQUE INDEX ON plain (id)",
        "CREATE UNIQUE INDEX CONCURRENTLY plain_id ON plain (id)",
        "CREATE UNIQUE INDEX ON plain (abs(auction_id))",
        "CREATE TABLE bad (LIKE small INCLUDING ALL, auction_id bigint)",
        "BEGIN; CREATE TABLE good (auction_id bigint); CREATE UNIQUE INDEX ON plain (id)",
        "CREATE TABLE good (auction_id bigint); CREATE TABLE bad (auction_id bigint, id int UNIQUE)",
    ] {
        refused(&client, sql, "does not contain the shard key").await;
        run(&client, &["ROLLBACK"]).await;
    }
    let extended = client.execute("CREATE TABLE bad (auction_id bigint, id int UNIQUE)", &[]).await;
    let extended = extended.expect_err("refused by the extended protocol, too");
    assert_eq!(extended.code(), Some(&SqlState::FEATURE_NOT_SUPPORTED));
    let made = "SELECT relname FROM pg_class WHERE relname IN ('bad', 'good') OR relname = 'plain_id'";
    assert_eq!(cluster.on_each_primary(made).await, [Vec::<String>::new(), Vec::new()]);
    run(
        &client,
        &[
            "CREATE UNIQUE INDEX CONCURRENTLY keyed_once ON keyed (email, auction_id)",
            "BEGIN",
            "CREATE TABLE later (id bigint GENERATED ALWAYS AS IDENTITY PRIMARY KEY, auction_id bigint)",
            "INSERT INTO later (auction_id) VALUES (1), (2), (3), (4)",
            "COMMIT",
        ],
    )
    .await;
    let ids = first_column(&client, "SELECT id FROM later").await;
    assert_eq!(ids.iter().collect::<std::collections::HashSet<_>>().len(), 4, "{ids:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_14_foreign_keys_hold_or_are_refused() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    run(
        &client,
        &[
            "CREATE TABLE users (user_id int PRIMARY KEY)",
            "CREATE TABLE lots (id bigserial PRIMARY KEY, auction_id bigint REFERENCES auctions, cat int REFERENCES categories)",
            "ALTER TABLE categories ADD COLUMN boss int REFERENCES users",
            "CREATE TABLE remarks (id int, note_id int REFERENCES notes, cat int REFERENCES categories)",
        ],
    )
    .await;
    for (sql, why) in [
        ("CREATE TABLE bad (auction_id bigint REFERENCES notes)", "is unsharded"),
        ("ALTER TABLE lots ADD COLUMN note int REFERENCES notes", "is unsharded"),
        ("ALTER TABLE notes ADD COLUMN auction bigint REFERENCES auctions", "are on the home shard"),
        ("CREATE TABLE bad (auction_id bigint, lot bigint REFERENCES lots)", "on the same shard only where"),
        (
            "CREATE TABLE bad (auction_id bigint, other bigint REFERENCES auctions)",
            "on the same shard only where",
        ),
        ("ALTER TABLE categories ADD COLUMN auction bigint REFERENCES auctions", "are on every shard"),
        ("ALTER TABLE users ADD COLUMN note int REFERENCES notes", "is unsharded"),
    ] {
        refused(&client, sql, why).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_02_the_setting_decides() {
    let lax = "[routing]\nunique_without_key = \"per_shard\"";
    let cluster = Cluster::builder().config_extra(lax).start().await;
    let login = cluster.proxy.config("auction").connect(tokio_postgres::NoTls).await;
    let (client, mut connection) = login.expect("login");
    let (told, mut notices) = tokio::sync::mpsc::unbounded_channel();
    tokio::spawn(async move {
        while let Some(Ok(message)) = std::future::poll_fn(|cx| connection.poll_message(cx)).await {
            if let tokio_postgres::AsyncMessage::Notice(notice) = message {
                let _ = told.send(notice.message().to_owned());
            }
        }
    });
    run(&client, &["CREATE TABLE mails (auction_id bigint, email text UNIQUE)"]).await;
    let notice = notices.recv().await.expect("a notice");
    assert!(notice.contains("mails_email_key") && notice.contains("each shard alone"), "{notice}");
    run(&client, &["CREATE INDEX ON mails (email)", "INSERT INTO mails VALUES (1, 'a'), (2, 'b'), (3, 'c')"])
        .await;
    refused(
        &client,
        "CREATE TABLE bad (auction_id bigint, other text REFERENCES mails (email))",
        "same shard only",
    )
    .await;
    let strict = "[routing]\nunique_without_key = \"refuse\"";
    let cluster = Cluster::builder().config_extra(strict).start().await;
    let client = cluster.connect().await;
    let serial = "CREATE TABLE offers (id bigserial PRIMARY KEY, auction_id bigint)";
    refused(&client, serial, "does not contain the shard key").await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn constraints_made_on_the_nodes_are_shown_and_not_believed() {
    let cluster = Cluster::builder().start().await;
    for shard in 0..2 {
        let node = cluster.shard(shard).primary.connect("auction").await.expect("login at the node");
        run(
            &node,
            &[
                "CREATE TABLE mails (auction_id bigint, email text UNIQUE, id bigserial UNIQUE)",
                "CREATE TABLE notes (id int PRIMARY KEY)",
                "CREATE TABLE noted (auction_id bigint, id int REFERENCES notes)",
            ],
        )
        .await;
    }
    let client = cluster.connect().await;
    run(&client, &["INSERT INTO mails (auction_id, email) VALUES (1, 'a'), (2, 'b')"]).await;
    let admin = cluster.connect_to("gavel_admin").await;
    let problems = admin.simple_query("SHOW PROBLEMS").await.expect("shown");
    let problems = format!("{problems:?}");
    assert!(problems.contains("mails_email_key") && problems.contains("noted_id_fkey"), "{problems}");
    assert!(!problems.contains("mails_id_key"), "{problems}");
    for sql in [
        "INSERT INTO mails (auction_id, email) VALUES (3, 'a') ON CONFLICT (email) DO NOTHING",
        "INSERT INTO mails (auction_id, email) VALUES (3, 'a') ON CONFLICT ON CONSTRAINT mails_email_key DO NOTHING",
        "INSERT INTO mails (auction_id, email) VALUES (3, 'a') ON CONFLICT DO NOTHING",
        "INSERT INTO mails (auction_id, id) VALUES (3, 1) ON CONFLICT (id) DO UPDATE SET email = 'z'",
    ] {
        refused(&client, sql, "may be on another shard").await;
    }
    run(
        &client,
        &[
            "INSERT INTO mails (auction_id) VALUES (3) ON CONFLICT (id) DO NOTHING",
            "CREATE TABLE upserts (auction_id bigint PRIMARY KEY, n int)",
            "INSERT INTO upserts VALUES (1, 1), (2, 1), (3, 1) ON CONFLICT (auction_id) DO UPDATE SET n = 2",
            "INSERT INTO upserts VALUES (1, 1), (2, 1), (3, 1) ON CONFLICT DO NOTHING",
        ],
    )
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_column_that_is_added_to_rows_gets_values_that_do_not_collide() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    run(
        &client,
        &[
            "ALTER TABLE auctions ADD COLUMN id bigserial UNIQUE",
            "BEGIN",
            "ALTER TABLE auctions ADD COLUMN nr int GENERATED BY DEFAULT AS IDENTITY",
            "COMMIT",
        ],
    )
    .await;
    add_auctions_from(&client, 21, 40).await;
    for column in ["id", "nr"] {
        let values = first_column(&client, &format!("SELECT {column} FROM auctions")).await;
        assert_eq!(values.len(), 40);
        assert_eq!(values.iter().collect::<std::collections::HashSet<_>>().len(), 40, "{column}: {values:?}");
    }
    run(&client, &["INSERT INTO categories VALUES (1, 'a'), (2, 'b')", "CREATE SEQUENCE mine"]).await;
    for sql in [
        "ALTER TABLE auctions ADD COLUMN x bigint DEFAULT nextval('mine')",
        "ALTER TABLE categories ADD COLUMN x bigserial",
        "ALTER TABLE categories ADD COLUMN x uuid DEFAULT gen_random_uuid()",
        "ALTER TABLE categories ADD COLUMN x timestamptz DEFAULT now()",
    ] {
        refused(&client, sql, "other values on each shard").await;
    }
    run(&client, &["ALTER TABLE categories ADD COLUMN x int DEFAULT 7 CHECK (x > 0)"]).await;
}

async fn add_auctions_from(client: &Client, first: i64, last: i64) {
    for id in first..=last {
        run(client, &[&format!("INSERT INTO auctions (auction_id, title) VALUES ({id}, 'lot')")]).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_deferred_constraint_is_told_when_the_statement_was_another_text() {
    let cluster = Cluster::builder().start().await;
    let mut wire = Wire::login(&cluster.login()).expect("login");
    for sql in [
        "CREATE TABLE categories (id bigint PRIMARY KEY)",
        "CREATE TABLE auctions (auction_id bigserial PRIMARY KEY, \
         category_id bigint REFERENCES categories DEFERRABLE INITIALLY DEFERRED)",
    ] {
        wire.rows(sql).expect("create");
    }
    // The key is drawn: the proxy executes a text of its own, and ends its transaction.
    let insert = "INSERT INTO auctions (category_id) VALUES ($1) RETURNING auction_id";
    let steps = [
        message::parse("", insert, &[]),
        message::bind("", "", &[message::Value::Text(b"7".to_vec())], &[]),
        message::execute("", 0),
        message::sync(),
    ];
    wire.send(&steps.concat()).expect("sent");
    let frames = wire.read_until_ready(1).expect("answered");
    let tags: String = frames.iter().map(|frame| char::from(frame.tag)).collect();
    assert_eq!(tags, "12DCEZ", "as PostgreSQL says it: {frames:?}");
    assert_eq!(frames.iter().find_map(wire_print::sqlstate).as_deref(), Some("23503"));
    assert_eq!(wire.rows("SELECT count(*) FROM auctions").expect("a count"), [[Some("0".to_owned())]]);
}
