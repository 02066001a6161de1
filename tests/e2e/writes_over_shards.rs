//! Writes of rows of several shards: what they do and say is what one PostgreSQL does and says, in whatever order the rows come.

use std::time::Duration;

use tests::cluster::{Cluster, first_column};
use tests::wire::{Frame, Wire};
use tests::wire_message as message;
use tokio_postgres::error::SqlState;

use crate::beside::{Beside, brief, said, sorted_rows};
use crate::house::holders;

/// Far above what is needed.
const LIMIT: Duration = Duration::from_secs(60);

const SET_UP: &[&str] = &[
    "create table categories (category_id int primary key, name text not null)",
    "create table lots (auction_id bigint primary key, category_id int, title text not null, price numeric not null \
     default 0 check (price >= 0), seen timestamptz, tags text[])",
    "create table bids (auction_id bigint not null references lots on delete cascade, bid_id int not null, amount numeric \
     not null, primary key (auction_id, bid_id))",
    "create table moved (auction_id bigint not null, id bigint generated always as identity, n int, \
     twice int generated always as (n * 2) stored, tags text[], primary key (auction_id, id))",
    "create table tagged (auction_id text primary key)",
    "create table archive (auction_id bigint, bid_id int, amount numeric, why text)",
    "create table notes (note_id int primary key, text text)",
    "insert into notes values (7, 'a '' b')",
    "insert into categories values (1, 'art'), (2, 'books'), (3, 'cars')",
    "insert into lots (auction_id, category_id, title, price) select i, i % 3 + 1, 'lot ' || i, i * 10 \
     from unnest('{1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17,18,19,20}'::bigint[]) i",
    "insert into bids (auction_id, bid_id, amount) select i, b, i + b from unnest('{1,2,3,4,5,6,7,8,9,10,11,12}'::bigint[]) i, \
     unnest('{1,2,3}'::int[]) b",
    "insert into notes values (1, 'x')",
];

const TABLES: [&str; 6] = ["moved", "lots", "bids", "archive", "categories", "notes"];

/// Answered, each as on one PostgreSQL.
const ANSWERED: &[&str] = &[
    "update lots set price = price + 1",
    "update lots set price = price + 1 where title like '%1%' returning auction_id, price",
    "update lots set title = upper(title) where auction_id in (1, 2, 3, 4, 5) returning *",
    "update lots set title = 'none' where price < 0 returning *",
    "update lots l set price = l.price + c.category_id from categories c where c.category_id = l.category_id and c.name = 'art'",
    "update lots set price = (select sum(amount) from bids b where b.auction_id = lots.auction_id) \
     where exists (select from bids b where b.auction_id = lots.auction_id) returning auction_id, price, tags",
    "update lots l set tags = array[b.amount::text] from bids b where b.auction_id = l.auction_id and b.bid_id = 2 returning l.*",
    "with top as (select auction_id, max(amount) as amount from bids group by auction_id) \
     update lots set price = top.amount from top where top.auction_id = lots.auction_id returning title, price",
    "update bids set amount = amount + 1 from lots l where l.auction_id = bids.auction_id and l.price > 5",
    "update lots set (title, price) = (title || '!', price * 2) where category_id = any('{1,3}')",
    "update lots set seen = '2030-01-01 00:00+00' where price > 20 returning seen",
    "update lots set category_id = (select max(category_id) from categories)",
    "insert into archive (auction_id, bid_id, amount, why) select auction_id, bid_id, amount, 'old' from bids \
     where bid_id > 1 returning auction_id, bid_id, why",
    "insert into archive (auction_id, amount) select auction_id, count(*) from bids group by auction_id",
    "insert into bids (auction_id, bid_id, amount) select auction_id, 1, 5 from lots \
     on conflict (auction_id, bid_id) do update set amount = bids.amount + excluded.amount",
    "insert into bids (auction_id, bid_id, amount) select auction_id, 2, 5 from lots on conflict do nothing returning *",
    "merge into lots using (values (1, 7), (2, 8), (3, 9)) v (id, price) on lots.auction_id = v.id \
     when matched then update set price = v.price",
    "merge into lots l using bids b on l.auction_id = b.auction_id and b.bid_id = 2 when matched and b.amount > 6 then \
     update set price = b.amount when matched then delete",
    "delete from bids using categories c, lots l where l.auction_id = bids.auction_id and c.category_id = l.category_id \
     and c.name = 'cars' and bids.bid_id = 3 returning bids.*",
    "delete from bids where amount = 4 or auction_id = 9",
    "delete from lots where auction_id in (4, 5, 6, 7) returning title",
    "delete from archive where not exists (select from bids b where b.auction_id = archive.auction_id) returning *",
    // What is needed of other shards is read first.
    "update lots set price = (select max(price) from lots) where auction_id > 15 returning auction_id, price",
    "update lots set title = n.text || title from notes n where price > 100",
    "update lots set price = price + 1 where auction_id not in (select auction_id from bids) returning *",
    "update lots set price = price + 1 where auction_id = 3 and price < (select max(price) from lots l)",
    "delete from bids a using bids b where a.amount = b.amount and a.auction_id > b.auction_id returning a.*",
    "delete from lots where auction_id in (select auction_id from lots order by price desc, auction_id limit 2) returning auction_id",
    "update archive set why = (select string_agg(tags::text || coalesce(title, 'a''b\\c') || seen::text, ',' order by auction_id) \
     from public.lots)",
    "with top as (select max(price) as price from lots) update lots set price = top.price from top where lots.auction_id < 3",
    "update lots set price = (select count(*) from bids, archive where bids.amount = archive.amount) returning (select max(why) from archive)",
    "merge into lots l using bids b on l.auction_id = b.bid_id and b.auction_id = 2 when matched then update set price = b.amount",
    "insert into archive select bid_id, auction_id::int, amount, 'swapped' from bids returning *",
    "insert into archive (auction_id, amount) select auction_id, amount from bids order by amount desc, auction_id limit 5 returning *",
    "insert into archive (auction_id, amount, why) select category_id, 7.5, name || 'it''s \\' from categories returning auction_id",
    "insert into archive (auction_id, amount, why) select note_id, null, text from notes",
    "insert into lots (auction_id, title, tags, seen) select auction_id + 100, title, array['a,b', null, '{x}'], \
     '2024-02-03 04:05:06.789+02' from lots on conflict do nothing returning *",
    "insert into lots (auction_id, title) select auction_id, 'again' from archive where auction_id is not null group by 1 \
     on conflict (auction_id) do update set title = excluded.title || lots.title",
    "insert into archive select bid_id, amount, amount, 'rounded' from bids where amount > 3",
    "insert into archive (auction_id) values (1 + 40)",
    "insert into archive (auction_id, amount) values (length('abc'), 1) returning *",
    "insert into archive (auction_id) select 7 from lots where false returning *",
    "insert into notes select auction_id + 1000, title from lots returning note_id",
    "insert into categories select auction_id + 1000, title from lots where auction_id > 15 returning name",
    "with x as (select max(auction_id) as best from lots) insert into archive (auction_id, why) select best + 1, 'top' from x returning *",
    "insert into archive select * from (select bid_id, auction_id::int, amount, 'all' from bids) s",
    "insert into archive (auction_id, why) select auction_id, row_number() over (order by price, auction_id) from lots",
    "delete from bids",
    // Wrong in PostgreSQL's own words, and nothing is done.
    "update lots set price = price - 190",
    "update lots set price = 1 / (auction_id - 17)",
    "update lots set price = 'x'",
    "update lots set nosuch = 1",
    "insert into lots (auction_id, title) select auction_id, title from lots where auction_id > 18",
    "delete from lots returning nosuch",
    "update archive set why = auction_id where amount > 1",
    "insert into archive (auction_id) select title from lots",
    "insert into lots (auction_id, title) select 3 * category_id, name from categories order by 1",
    "insert into lots (auction_id, title, price) select 900 + category_id, name, 2 - category_id from categories order by 1",
    "update lots set price = (select price from lots l where l.auction_id > 3)",
    "insert into archive select 1, 2, 3, 4, 5 from lots",
    "delete from bids where amount in (select nosuch from archive)",
];

/// A new shard key: the rows move.
const MOVES: &[&str] = &[
    "update moved set auction_id = 50 where auction_id = 1 returning *",
    "update moved set auction_id = 51, n = n + 1 where auction_id in (2, 3, 4) and n % 2 = 0 returning auction_id, n, twice",
    "update moved set auction_id = 2 where auction_id = 50",
    "update moved m set auction_id = 60, tags = array['a,b', m.n::text, null, '\"{'] where n > 8 returning m.tags",
    "update moved set auction_id = '61'::bigint from categories c where c.category_id = moved.n and c.name = 'art'",
    "update moved set (n, auction_id) = (7, 62) where exists (select from lots l where l.auction_id = moved.auction_id)",
    "update moved set auction_id = 63 where false returning *",
    "update moved set auction_id = 63 where auction_id = 999",
    "update moved set auction_id = 62 where n = 7",
    "update moved set auction_id = 'x'",
    "update moved set auction_id = 64, twice = 3",
    "update archive set auction_id = 70",
    "update archive set auction_id = 71 where why = 'old' returning *",
    "update solo set auction_id = 1 where auction_id = 3",
    "update solo set auction_id = 2",
    "update solo set auction_id = 22 where auction_id = 2 returning *",
    "update solo set auction_id = null where auction_id = 999",
    "update solo set auction_id = null where n < -5 returning *",
    "update solo set auction_id = null where auction_id = 3",
    "update solo set auction_id = null",
    "insert into lots (auction_id, title) values (null, 'x') returning title",
    "insert into lots (title) values ('x') on conflict do nothing",
    "insert into lots (auction_id, title) values (null, 'x'), (1, 'y') on conflict (auction_id) do update set price = 1",
    "insert into lots default values",
];

/// Refused: each shard by itself would do something else, and what it would need cannot be read first.
const REFUSED: &[&str] = &[
    "update lots set price = (select random())",
    "update lots set price = r from (select random() r) x",
    "update lots set price = g from generate_series(1, (random() * 3)::int) g",
    "update lots set title = (select name from categories limit 1)",
    "update lots set price = (select price from lots limit 1)",
    "update lots set category_id = pg_backend_pid()",
    "delete from lots where ctid = '(0,1)'",
    "delete from lots using bids where bids.xmin is null",
    "update lots set title = 'x' where seen < 'now'",
    "update lots set title = age(seen)::text",
    "update lots set title = 'x' where exists (select from bids where amount > 3 for update)",
    "update lots set auction_id = 99 where auction_id = 3",
    "update bids set auction_id = 2 where auction_id = 3",
    "update moved set auction_id = auction_id + 1",
];

/// An answer without the order of its rows.
fn in_any_order(frames: Vec<Frame>) -> String {
    let mut frames = frames;
    let rows = frames.iter().position(|frame| frame.tag == b'D');
    if let Some(first) = rows {
        let count = frames[first..].iter().take_while(|frame| frame.tag == b'D').count();
        frames[first..first + count].sort_by(|a, b| a.body.cmp(&b.body));
    }
    brief(&frames)
}

pub(crate) fn simple(side: &mut Wire, sql: &str) -> String {
    side.send(&message::query(sql)).expect("sent");
    in_any_order(side.read_until_ready(1).expect("an answer"))
}

/// By the extended protocol, described, with rows in this format.
pub(crate) fn extended(side: &mut Wire, sql: &str, format: i16) -> String {
    let steps = [
        message::parse("", sql, &[]),
        message::describe(b'S', ""),
        message::bind("", "", &[], &[format]),
        message::describe(b'P', ""),
        message::execute("", 0),
        message::sync(),
    ];
    side.send(&steps.concat()).expect("sent");
    in_any_order(side.read_until_ready(1).expect("an answer"))
}

/// What the tables have become; then they are as before.
pub(crate) fn tables(side: &mut Wire) -> String {
    TABLES.map(|table| format!("{:?}\n", sorted_rows(side, &format!("select * from {table}")))).concat()
}

pub(crate) async fn beside(shards: usize) -> Beside {
    Beside::of(Cluster::builder().shards(shards).start().await, SET_UP).await
}

const TO_MOVE: &[&str] = &[
    "create table solo (auction_id bigint primary key, n int)",
    "insert into solo values (1, 1), (2, 2), (3, 3), (4, 4), (5, 5)",
    "insert into moved (auction_id, id, n) overriding system value values (1, 1, 1), (1, 2, 2), (2, 3, 3), (3, 4, 4), (4, 5, 6), \
     (5, 6, 7), (6, 7, 8), (7, 8, 9), (8, 9, 10), (9, 10, 11)",
    "insert into archive (auction_id, why) values (1, 'old'), (2, 'new'), (3, 'old'), (4, 'old'), (5, null)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn trap_04_rows_move_with_their_key() {
    for shards in [2, 4] {
        let mut beside = beside(shards).await;
        for sql in TO_MOVE {
            for side in beside.sides() {
                side.rows(sql).expect(sql);
            }
        }
        run_all(&mut beside, MOVES).await;
        // Each is where it belongs, and found by its key.
        for key in [2, 50, 51, 60, 61, 62, 70, 71] {
            let sql = format!("select * from moved where auction_id = {key}");
            let [ours, theirs] = beside.sides().map(|side| sorted_rows(side, &sql));
            assert_eq!(ours, theirs, "{key}");
        }
    }
}

/// Runs each statement in a transaction that is rolled back, and by itself, where it stays.
async fn as_on_one(shards: usize) {
    let mut beside = beside(shards).await;
    run_all(&mut beside, ANSWERED).await;
}

pub(crate) async fn run_all(beside: &mut Beside, statements: &[&str]) {
    let mut wrong = String::new();
    let mut compare = |what: &str, [ours, theirs]: [String; 2]| {
        if ours != theirs {
            wrong.push_str(&format!("{what}\n  ours   {ours}\n  theirs {theirs}\n"));
        }
    };
    for sql in statements {
        for format in [0, 1] {
            compare("", beside.sides().map(|side| said(side, &message::query("begin"))));
            compare(sql, beside.sides().map(|side| extended(side, sql, format)));
            compare(sql, beside.sides().map(|side| said(side, &message::query("rollback"))));
        }
        compare(sql, beside.sides().map(|side| simple(side, sql)));
        compare(sql, beside.sides().map(tables));
    }
    assert!(wrong.is_empty(), "{wrong}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_over_two_shards_are_as_on_one_server() {
    as_on_one(2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn writes_over_four_shards_are_as_on_one_server() {
    as_on_one(4).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_shards_cannot_do_by_themselves_is_refused_and_does_nothing() {
    let mut beside = beside(3).await;
    for sql in REFUSED {
        let answer = simple(&mut beside.ours, sql);
        assert!(answer.starts_with("E 0A000 "), "{sql}: {answer}");
        let answer = extended(&mut beside.ours, sql, 0);
        assert!(answer.contains("E 0A000 "), "{sql}: {answer}");
    }
    let [ours, theirs] = beside.sides().map(tables);
    assert_eq!(ours, theirs);
}

/// What is said to each of these, one after the other, and what is left.
const TRANSACTIONS: &[&[&str]] = &[
    &[
        "begin",
        "update lots set price = 1",
        "savepoint a",
        "update lots set price = price - 2",
        "rollback to a",
        "update lots set title = 'kept' where auction_id in (1, 2, 3)",
        "commit",
    ],
    &["begin", "update lots set price = 2", "rollback"],
    &[
        "begin",
        "delete from bids where auction_id = 1",
        "delete from bids",
        "savepoint a",
        "delete from lots",
        "rollback to a",
        "commit",
    ],
    &["begin", "update lots set price = 1 / 0", "update lots set price = 3", "commit"],
    &["begin read only", "update lots set price = 1", "rollback"],
    &["update lots set price = 4; update lots set price = -4"],
    &["update lots set price = 5; select price from lots where auction_id = 3"],
    &["update lots set price = price - 1 where auction_id = 3; update lots set price = price - 5"],
    &["begin; update lots set price = 6; commit"],
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_over_shards_is_part_of_its_transaction() {
    let mut beside = beside(3).await;
    let mut wrong = String::new();
    for case in TRANSACTIONS {
        let [ours, theirs] = beside
            .sides()
            .map(|side| case.iter().map(|sql| simple(side, sql) + "\n").collect::<String>() + &tables(side));
        if ours != theirs {
            wrong.push_str(&format!("{case:?}\n  ours   {ours}\n  theirs {theirs}\n"));
        }
    }
    assert!(wrong.is_empty(), "{wrong}");
    let prepared = beside.cluster.on_each_primary("SELECT gid FROM pg_prepared_xacts").await.concat();
    assert_eq!(prepared, Vec::<String>::new(), "nothing stays prepared");
}

/// The time is one for all rows, whichever shard they are on.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_write_over_shards_has_one_time() {
    let beside = beside(4).await;
    let client = beside.cluster.connect().await;
    for sql in [
        "update lots set seen = now()",
        "update lots set seen = current_timestamp - interval '1 day' where price >= 0",
    ] {
        client.batch_execute(sql).await.expect(sql);
        let mut times = beside
            .cluster
            .on_each_primary("select distinct extract(epoch from seen)::text from lots")
            .await
            .concat();
        times.dedup();
        assert_eq!(times.len(), 1, "{sql}: {times:?}");
    }
}

const TRIGGERS: &[&str] = &[
    "create function audit() returns trigger language plpgsql as $$ begin new.title := new.title || '+'; \
     raise notice 'row %', new.auction_id; return new; end $$",
    "create trigger audit before update on lots for each row execute function audit()",
    "create function said() returns trigger language plpgsql as $$ begin raise notice 'once'; return null; end $$",
    "create trigger said after delete on lots for each statement execute function said()",
    "create trigger said after insert on bids for each statement execute function said()",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn triggers_fire_as_on_one_server_or_the_statement_is_refused() {
    let mut beside = beside(2).await;
    for sql in TRIGGERS {
        for side in beside.sides() {
            side.rows(sql).expect(sql);
        }
    }
    let updates = "update lots set price = price where auction_id < 5 returning auction_id, title";
    let [mut ours, mut theirs] = beside.sides().map(|side| {
        let frames = side.query(updates).expect("an answer");
        let mut notices: Vec<Frame> = frames.iter().filter(|frame| frame.tag == b'N').cloned().collect();
        notices.sort_by(|a, b| a.body.cmp(&b.body));
        (notices, in_any_order(frames.into_iter().filter(|frame| frame.tag != b'N').collect()))
    });
    assert_eq!((ours.0.len(), theirs.0.len()), (4, 4));
    assert_eq!(std::mem::take(&mut ours.1), std::mem::take(&mut theirs.1));
    let refused = simple(&mut beside.ours, "delete from lots where auction_id > 15");
    assert!(refused.starts_with("E 0A000 "), "{refused}");
    for sql in [
        "insert into bids values (1, 7, 7), (2, 7, 7), (3, 7, 7), (4, 7, 7)",
        "insert into bids (auction_id, bid_id, amount) select auction_id, 8, 8 from lots",
        "copy bids from stdin",
    ] {
        let refused = simple(&mut beside.ours, sql);
        assert!(refused.starts_with("E 0A000 "), "{sql}: {refused}");
    }
    let [ours, theirs] = beside.sides().map(|side| simple(side, "delete from lots where auction_id = 15"));
    assert_eq!(ours, theirs, "one shard fires it once");
}

/// Sessions that write everything at once wait for each other, lose nothing, and end. In PostgreSQL too, rows that have moved meanwhile
/// may be met in another order, which ends with 40P01.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn whole_tables_are_written_by_many_at_once() {
    let beside = beside(4).await;
    let mut writers = tokio::task::JoinSet::new();
    for writer in 0..4 {
        let session = beside.cluster.connect().await;
        let all = "update lots set price = price + 1";
        let some = "update lots set price = price + 1 where auction_id in (1, 2, 3, 4, 5, 6, 7, 8)";
        let sql = if writer % 2 == 0 { all } else { some };
        writers.spawn(async move {
            let mut done = 0;
            while done < 10 {
                match session.batch_execute(sql).await {
                    Ok(()) => done += 1,
                    Err(error) => {
                        assert_eq!(error.code(), Some(&SqlState::T_R_DEADLOCK_DETECTED), "{error:?}")
                    }
                }
            }
        });
    }
    let all = async {
        while let Some(writer) = writers.join_next().await {
            writer.expect("no writer fails");
        }
    };
    tokio::time::timeout(LIMIT, all).await.expect("nobody waits for ever");
    let client = beside.cluster.connect().await;
    for (key, raised) in [(1, "40"), (20, "20")] {
        let sql = format!("select price - auction_id * 10 from lots where auction_id = {key}");
        assert_eq!(first_column(&client, &sql).await, [raised]);
    }
}

/// A shard on which no row is written has no part in the commit, so that the others need not be prepared.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_20_one_row_somewhere_is_committed_in_one_phase() {
    let beside = beside(3).await;
    let client = beside.cluster.connect().await;
    let commits = |text: &str| {
        text.lines().filter(|line| line.starts_with("gavel_two_phase")).map(str::to_owned).collect::<Vec<_>>()
    };
    let before = commits(&crate::life::get(&beside.cluster, "/metrics").await);
    assert_eq!(
        client.execute("update lots set price = 1 where title = 'lot 7'", &[]).await.expect("update"),
        1
    );
    let after = commits(&crate::life::get(&beside.cluster, "/metrics").await);
    assert!(!before.is_empty());
    assert_eq!(before, after);
    assert_eq!(client.execute("update lots set price = 1", &[]).await.expect("update"), 20);
    assert_ne!(before, commits(&crate::life::get(&beside.cluster, "/metrics").await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_two_phase_it_is_refused() {
    let cluster = Cluster::builder().node_setting("max_prepared_transactions", "0").start().await;
    for shard in &cluster.nodes.shards {
        shard
            .primary
            .execute("auction", "CREATE TABLE lots (auction_id bigint PRIMARY KEY, price int)")
            .await
            .expect("DDL");
    }
    cluster.connect_to("gavel_admin").await.batch_execute("RELOAD").await.expect("the catalog is read");
    let client = cluster.connect().await;
    for key in 1..=10_i64 {
        client.execute("insert into lots values ($1, 0)", &[&key]).await.expect("one shard");
    }
    let error =
        client.batch_execute("update lots set price = 1").await.expect_err("it would have to be prepared");
    assert_eq!(error.code(), Some(&SqlState::OBJECT_NOT_IN_PREREQUISITE_STATE), "{error:?}");
    assert_eq!(holders(&cluster, "lots", "price = 1").await, Vec::<usize>::new());
}
