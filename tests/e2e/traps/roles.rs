//! 10 and 11: which reads a replica may answer, and what it must have seen.

use std::time::Duration;

use tests::cluster::{Cluster, eventually, first_column};
use tokio_postgres::Client;

use crate::house::{add_auctions, build, one_of_each};

/// How long a replica may take to be used.
const NOTICE: Duration = Duration::from_secs(20);
const READ: &str =
    "select current_setting('cluster_name') like '%replica%' from auctions where auction_id = 1";

async fn house() -> (Cluster, Client) {
    let cluster = Cluster::builder().replicas(1).start().await;
    let client = cluster.connect().await;
    build(&client).await;
    add_auctions(&client, 12).await;
    for sql in [
        "create sequence tickets",
        "create table log (id int, what text)",
        "create function noisy() returns bool language plpgsql volatile as $$ begin return current_setting('cluster_name') like '%replica%'; end $$",
        "create function noted() returns bool language plpgsql volatile as \
         $$ begin insert into log values (1, 'noted'); return current_setting('cluster_name') like '%replica%'; end $$",
        "create function calm() returns bool language plpgsql stable as $$ begin return current_setting('cluster_name') like '%replica%'; end $$",
    ] {
        client.batch_execute(sql).await.expect(sql);
    }
    // Only what is on the replicas is read there.
    (cluster, client)
}

/// Statements for which a replica is not asked: the first column of their rows is false.
const ON_A_PRIMARY: &[&str] = &[
    "select current_setting('cluster_name') like '%replica%' from auctions where auction_id = 1 for update",
    "select current_setting('cluster_name') like '%replica%' from auctions where auction_id = 1 for no key update",
    "select current_setting('cluster_name') like '%replica%' from auctions where auction_id = 1 for share",
    "select current_setting('cluster_name') like '%replica%' from auctions where auction_id = 1 for key share skip locked",
    "select current_setting('cluster_name') like '%replica%' from (select 1 from auctions where auction_id = 1 for update) s",
    "with w as (update auctions set price = 3 where auction_id = 1 returning 1) select current_setting('cluster_name') like '%replica%' from w",
    "select noisy() from auctions where auction_id = 1",
    "select noted()",
    "select current_setting('cluster_name') like '%replica%', nextval('tickets')",
    "select current_setting('cluster_name') like '%replica%', setval('tickets', 100)",
    "select current_setting('cluster_name') like '%replica%', pg_advisory_xact_lock(5)",
    "select current_setting('cluster_name') like '%replica%', pg_try_advisory_lock(6)",
    "select current_setting('cluster_name') like '%replica%', pg_advisory_unlock(6)",
    "select current_setting('cluster_name') like '%replica%', pg_notify('c', 'x')",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_10_reads_that_write_or_lock() {
    let (cluster, client) = house().await;
    let reader = cluster.connect().await;
    let replica = || async { first_column(&reader, READ).await == ["t"] };
    eventually(NOTICE, "a read on a replica", replica).await;
    for sql in ON_A_PRIMARY {
        eventually(NOTICE, "a read on a replica", replica).await;
        assert_eq!(first_column(&reader, sql).await, ["f"], "{sql}");
    }
    reader.batch_execute("select title into copied from auctions where auction_id = 1").await.err();
    reader.batch_execute("select 1 as x into made").await.expect("SELECT INTO makes a table");
    assert_eq!(first_column(&client, "select x from made").await, ["1"]);
    // Functions that are not volatile, and functions of the server's that are harmless.
    for sql in [
        "select calm() from auctions where auction_id = 1",
        "select current_setting('cluster_name') like '%replica%', random() from auctions where auction_id = 1",
    ] {
        eventually(NOTICE, sql, || async { first_column(&reader, sql).await == ["t"] }).await;
    }
    // A transaction that says at its beginning that it writes nothing is served there; others that do may be, and none may write.
    let begun = |begin: &'static str| {
        let reader = &reader;
        async move {
            for sql in begin.split("; ") {
                reader.batch_execute(sql).await.expect(sql);
            }
            let there = first_column(reader, READ).await == ["t"];
            let written = reader.batch_execute("update auctions set price = 1 where auction_id = 1").await;
            let refused = written.err().and_then(|error| Some(error.code()?.code().to_owned()));
            reader
                .batch_execute("rollback; set default_transaction_read_only = off")
                .await
                .expect("rollback");
            (there, refused)
        }
    };
    let read_only = Some("25006".to_owned());
    for begin in ["begin read only", "start transaction isolation level read committed, read only"] {
        eventually(NOTICE, begin, || async { begun(begin).await == (true, read_only.clone()) }).await;
    }
    for begin in ["begin; set transaction read only", "set default_transaction_read_only = on; begin"] {
        assert_eq!(begun(begin).await.1, read_only, "{begin}");
    }
    for begin in ["begin", "begin read write", "set default_transaction_read_only = on; begin read write"] {
        assert_eq!(begun(begin).await, (false, None), "{begin}");
    }
}

/// What the session has written it reads, wherever it reads.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_11_a_session_sees_its_own_writes() {
    let (cluster, client) = house().await;
    let (one, two) = one_of_each(&cluster).await;
    eventually(NOTICE, "a read on a replica", || async { first_column(&client, READ).await == ["t"] }).await;
    for price in 1..=25 {
        let read = |id: i64| format!("select price from auctions where auction_id = {id}");
        client
            .batch_execute(&format!("update auctions set price = {price} where auction_id = {one}"))
            .await
            .expect("a write");
        assert_eq!(first_column(&client, &read(one)).await, [price.to_string()]);
        // Over two shards, in one transaction.
        client
            .batch_execute(&format!(
                "update auctions set price = {price} + 100 where auction_id in ({one}, {two})"
            ))
            .await
            .expect("two writes");
        assert_eq!(first_column(&client, &read(two)).await, [(price + 100).to_string()]);
        assert_eq!(
            first_column(
                &client,
                &format!("select sum(price) from auctions where auction_id in ({one}, {two})")
            )
            .await,
            [(2 * price + 200).to_string()]
        );
        client
            .batch_execute(&format!(
                "begin; update auctions set price = {price} where auction_id = {two}; commit"
            ))
            .await
            .expect("a block");
        assert_eq!(
            first_column(&client, &format!("select count(*) from auctions where price = {price}")).await,
            ["1"]
        );
        // Where the rows are gathered in one place, and what is the same everywhere.
        client
            .batch_execute(&format!(
                "insert into notes values ({price}, 'x'); insert into categories values ({price}, 'c')"
            ))
            .await
            .expect("rows");
        assert_eq!(first_column(&client, &format!("select count(*) from auctions a, notes n where n.note_id <= {price} and a.auction_id = {one}")).await, [price.to_string()]);
        assert_eq!(
            first_column(&client, "select max(category_id) from categories").await,
            [price.to_string()]
        );
    }
}
