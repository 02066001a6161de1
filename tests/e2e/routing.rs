//! Rows are on the shard that owns them, and nowhere else; answers are those of one PostgreSQL.

use tests::cluster::{Cluster, first_column, one_row};
use tokio_postgres::error::SqlState;
use tokio_postgres::types::ToSql;

use crate::house::{add_auctions, build, holders};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_row_is_on_its_owner_and_nowhere_else() {
    let cluster = Cluster::builder().shards(3).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    let insert = "INSERT INTO auctions (auction_id, title) VALUES ($1, $2)";
    let mut used = [0_usize; 3];
    for id in 1..=40_i64 {
        let title = format!("lot {id}");
        let parameters: [&(dyn ToSql + Sync); 2] = [&id, &title];
        assert_eq!(client.execute(insert, &parameters).await.expect("insert"), 1);
        let literal = format!("INSERT INTO bids (auction_id, amount) VALUES ({id}, 1.50)");
        client.batch_execute(&literal).await.expect("the bid goes where its auction is");
        let by_parameter = holders(&cluster, "auctions", &format!("auction_id = {id}")).await;
        assert_eq!(by_parameter.len(), 1, "auction {id} on {by_parameter:?}");
        assert_eq!(holders(&cluster, "bids", &format!("auction_id = {id}")).await, by_parameter);
        used[by_parameter[0]] += 1;
        let select = "SELECT title FROM auctions WHERE auction_id = $1";
        let row = client.query_one(select, &[&id]).await.expect("select");
        assert_eq!(row.get::<_, String>(0), title);
        let row = one_row(&client, &format!("SELECT amount::text FROM bids WHERE auction_id = {id}")).await;
        assert_eq!(row.get::<_, String>(0), "1.50");
    }
    assert!(used.iter().all(|&count| count > 0), "40 keys over 3 shards: {used:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_drawn_from_its_default_places_the_row() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    let mut drawn = Vec::new();
    for _ in 0..20 {
        let row = one_row(&client, "INSERT INTO auctions (title) VALUES ('lot') RETURNING auction_id").await;
        let id: i64 = row.get(0);
        assert_eq!(holders(&cluster, "auctions", &format!("auction_id = {id}")).await.len(), 1);
        let select = "SELECT title FROM auctions WHERE auction_id = $1";
        assert_eq!(client.query(select, &[&id]).await.expect("select").len(), 1);
        drawn.push(id);
    }
    drawn.sort_unstable();
    drawn.dedup();
    assert_eq!(drawn.len(), 20, "drawn twice");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn reference_rows_are_everywhere_and_unsharded_ones_on_the_first_shard() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    client.batch_execute("INSERT INTO categories VALUES (1, 'clocks')").await.expect("reference");
    client.batch_execute("INSERT INTO notes VALUES (1, 'here')").await.expect("unsharded");
    assert_eq!(holders(&cluster, "categories", "true").await, [0, 1]);
    assert_eq!(holders(&cluster, "notes", "true").await, [0]);
    assert_eq!(first_column(&client, "SELECT name FROM categories").await, ["clocks"]);
    assert_eq!(first_column(&client, "SELECT text FROM notes").await, ["here"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn update_and_delete_by_key_meet_one_shard() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 20).await;
    let update = "UPDATE auctions SET price = price + 1 WHERE auction_id = $1";
    let update = client.prepare(update).await.expect("prepare");
    let delete = client.prepare("DELETE FROM auctions WHERE auction_id = $1").await.expect("prepare");
    for id in 1..=20_i64 {
        assert_eq!(client.execute(&update, &[&id]).await.expect("update"), 1);
    }
    assert_eq!(client.execute(&delete, &[&20_i64]).await.expect("delete"), 1);
    assert_eq!(client.execute(&delete, &[&21_i64]).await.expect("delete nothing"), 0);
    let left = cluster.on_each_primary("SELECT auction_id FROM auctions WHERE price = 1").await.concat();
    assert_eq!(left.len(), 19);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_transaction_on_one_key_commits_and_rolls_back() {
    let cluster = Cluster::builder().replicas(1).start().await;
    let mut client = cluster.connect().await;
    build(&client).await;
    for (id, keep) in [(1_i64, true), (2, false)] {
        let transaction = client.transaction().await.expect("begin");
        let insert = "INSERT INTO auctions (auction_id, title) VALUES ($1, 'lot')";
        transaction.execute(insert, &[&id]).await.expect("insert");
        let select = "SELECT 1 FROM auctions WHERE auction_id = $1";
        let seen = transaction.query(select, &[&id]).await.expect("select");
        assert_eq!(seen.len(), 1, "a transaction sees its own rows");
        if keep {
            transaction.commit().await.expect("commit");
        } else {
            transaction.rollback().await.expect("rollback");
        }
        let seen = client.query(select, &[&id]).await.expect("select");
        assert_eq!(seen.len(), usize::from(keep), "a session sees what it has committed, on a replica too");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_later_table_with_the_column_is_sharded_too() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 10).await;
    let create = "CREATE TABLE watches (auction_id bigint PRIMARY KEY REFERENCES auctions, watchers int)";
    client.batch_execute(create).await.expect("create");
    for id in 1..=10 {
        let insert = format!("INSERT INTO watches VALUES ({id}, 1)");
        client
            .batch_execute(&insert)
            .await
            .expect("its auction is on the same shard, or the key would not hold");
    }
    let spread = cluster.on_each_primary("SELECT auction_id FROM watches").await;
    assert_eq!(spread.concat().len(), 10);
    assert!(spread.iter().all(|rows| !rows.is_empty()), "{spread:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn errors_are_those_of_the_server() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 1).await;
    let cases = [
        ("INSERT INTO auctions (auction_id, title) VALUES (1, 'again')", SqlState::UNIQUE_VIOLATION),
        ("INSERT INTO bids (auction_id, amount) VALUES (77, 1)", SqlState::FOREIGN_KEY_VIOLATION),
        ("SELECT nothing FROM auctions WHERE auction_id = 1", SqlState::UNDEFINED_COLUMN),
        ("SELECT * FROM no_such_table", SqlState::UNDEFINED_TABLE),
        ("SELEC 1", SqlState::SYNTAX_ERROR),
    ];
    for (sql, expected) in cases {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code(), Some(&expected), "{sql}: {error:?}");
        // The session goes on.
        assert_eq!(first_column(&client, "SELECT title FROM auctions WHERE auction_id = 1").await, ["lot"]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hint_that_names_nothing_is_told() {
    let cluster = Cluster::builder().start().await;
    let client = cluster.connect().await;
    let wrong = [
        "/* gavel: shrad=shard-2 */ SELECT 1",
        "/* gavel: key= */ SELECT 1",
        "SET gavel.shard = 'nope'",
        "SET gavel.shrad = '1'",
    ];
    for sql in wrong {
        let error = client.batch_execute(sql).await.expect_err(sql);
        assert_eq!(error.code().map(|code| code.code()), Some("22023"), "{sql}: {error:?}");
    }
    let mut wire = tests::wire::Wire::login(&cluster.login()).expect("login");
    for (sql, tag) in [("SET gavel.shard = 'shard-2'", "SET\0"), ("RESET gavel.shard", "RESET\0")] {
        let frames = wire.query(sql).expect("an answer");
        assert_eq!(frames.first().map(|frame| frame.body.as_slice()), Some(tag.as_bytes()), "{sql}");
    }
}
