//! Points that are proven by comparison: statements beside PostgreSQL, each answered alike.

use tests::cluster::{Cluster, first_column};

use super::{fails, run};
use crate::beside::Beside;
use crate::clauses::Clauses;

/// Functions that are placed by their argument are declared.
const FUNCTIONS: &str = "[[functions]]\nname = \"bids_of\"\nkey_argument = 1\n[[functions]]\nname = \"place_bid\"\nkey_argument = 1\n";

const SCHEMA: &[&str] = &[
    "create table categories (n int primary key, name text)",
    "create table auctions (auction_id bigint primary key, n int, title text, price numeric default 0)",
    "create table bids (auction_id bigint, id int, amount numeric, who text default current_user, primary key (auction_id, id))",
    "create table sales (auction_id bigint, day date, amount numeric, primary key (auction_id, day)) partition by range (day)",
    "create table sales_1 partition of sales for values from ('2024-01-01') to ('2024-02-01')",
    "create table sales_rest partition of sales default",
    "create table home (id int primary key, label text)",
    "insert into categories select g, 'c' || g from generate_series(0, 4) g",
    "insert into home values (1, 'one'), (2, 'two')",
    "insert into auctions (auction_id, n, title) select g, g % 5, 'lot ' || g from generate_series(1, 24) g",
    "insert into bids (auction_id, id, amount) select 1 + g % 20, g, g % 7 from generate_series(1, 60) g",
    "insert into sales select 1 + g % 20, date '2024-01-10' + g, g from generate_series(1, 60) g",
    "create view open_auctions as select auction_id, title, n from auctions where n > 0",
    "create view tops as select auction_id, max(amount) as top from bids group by auction_id",
    "create view by_name as select c.name, count(a.auction_id) as auctions from categories c left join auctions a using (n) group by c.name",
    "create view over as select o.title, t.top, b.auctions from open_auctions o join tops t using (auction_id) join categories c using (n) join by_name b on b.name = c.name",
    "create view labelled as select a.title, h.label from auctions a join home h on h.id = a.n",
    "create function fee(numeric) returns numeric language sql immutable as 'select round($1 * 0.05, 2)'",
    "create function loud(t text) returns text language plpgsql immutable as $$ begin return upper(t) || '!'; end $$",
    "create function label_of(int) returns text language sql stable as $f$ select label from home where id = $1 $f$",
    "create function bids_of(bigint) returns bigint language sql stable as 'select count(*) from bids where auction_id = $1'",
    "create function place_bid(a bigint, i int, m numeric) returns numeric language plpgsql as \
     $$ begin insert into bids (auction_id, id, amount) values (a, i, m); update auctions set price = m where auction_id = a; return m; end $$",
    "create function raise_price() returns trigger language plpgsql as \
     $$ begin update auctions set price = new.amount where auction_id = new.auction_id and price < new.amount; return null; end $$",
    "create trigger raise_price after insert or update on bids for each row execute function raise_price()",
];

const OBJECTS: &[&str] = &[
    "select * from open_auctions where auction_id = 7",
    "select * from open_auctions",
    "select count(*) from open_auctions where n = 3",
    "select * from tops where auction_id = 5",
    "select * from tops order by top desc, auction_id limit 4",
    "select * from by_name",
    "select * from over",
    "select * from labelled",
    "select o.title, b.id from open_auctions o join bids b using (auction_id) where o.auction_id = 3",
    "select fee(amount), loud(who) from bids where auction_id = 4",
    "select auction_id, fee(price), loud(title) from auctions",
    "select sum(fee(amount)) from bids",
    "select label_of(1), label_of(9)",
    "select bids_of(3)",
    "select bids_of(4) + 1 as more",
    "select * from sales where auction_id = 5",
    "select * from sales_1 where auction_id = 5",
    "select count(*), sum(amount) from sales where day < '2024-02-01'",
    "select auction_id, sum(amount) from sales group by auction_id",
    "select day, count(*) from sales_rest group by day order by day limit 5",
];

const WRITTEN: &[&str] = &[
    "update open_auctions set title = 'seen' where auction_id = 7 returning title",
    "update open_auctions set title = upper(title)",
    "insert into bids (auction_id, id, amount) values (1, 100, 50), (2, 100, 51), (3, 100, 52) returning amount",
    "update bids set amount = amount + 100 where id < 20",
    "insert into sales values (1, '2024-01-01', 5), (2, '2024-01-02', 6), (3, '2025-01-01', 7)",
    "update sales set day = day + 400 where auction_id in (1, 2, 3)",
    "delete from sales where day > '2025-01-01' returning auction_id",
];

/// Point 5 as a whole; what is refused of it: `set_off`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_05_views_functions_triggers_and_partitions_beside_postgresql() {
    let cluster = Cluster::builder().shards(3).config_extra(FUNCTIONS).start().await;
    let mut clauses = Clauses::of(Beside::of(cluster, SCHEMA).await, &["auctions", "bids", "sales_1"]).await;
    clauses.answered(OBJECTS);
    let tables = ["auctions", "bids", "sales", "home", "categories"];
    clauses.written(WRITTEN, &tables);
    for session in [
        &["select place_bid(5, 900, 70)", "select place_bid(6, 900, 71)"][..],
        &[
            "do $$ begin update home set label = 'done'; end $$",
            "do $x$ begin perform fee(1); raise notice 'x'; end $x$",
        ],
        &[
            "create materialized view kept as select auction_id, title from auctions",
            "select count(*), min(title) from kept",
            "update auctions set title = 'z'",
            "refresh materialized view kept",
            "select max(title) from kept",
            "drop materialized view kept",
        ],
        &[
            "create role clerk",
            "grant select, update on auctions to clerk",
            "alter table auctions enable row level security",
            "create policy p on auctions using (n < 3)",
            "set role clerk",
            "select auction_id, n from auctions",
            "select count(*), max(n) from auctions",
            "select n, count(*) from auctions group by n",
            "update auctions set title = 'by clerk'",
            "reset role",
            "alter table auctions disable row level security",
            "drop policy p on auctions",
            "revoke all on auctions from clerk",
            "drop role clerk",
        ],
    ] {
        clauses.told(session, &tables);
    }
    clauses.end();
}

/// Point 15: the transaction's own rows, names with their schemas, columns that shadow; what it leaves behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_15_gathered_rows_are_those_of_the_transaction() {
    let mut clauses = Clauses::start(&SCHEMA[..11], &["auctions", "bids"]).await;
    for session in [
        &[
            "begin",
            "update auctions set n = 77 where auction_id in (1, 2, 3, 4)",
            "select n, count(*) from auctions group by n",
            "select a.title, h.label from auctions a left join home h on h.id = a.n where a.n > 50",
            "delete from bids where auction_id < 10",
            "select id % 3, count(*) from bids group by 1",
            "insert into home values (77, 'new')",
            "select a.auction_id, h.label from auctions a join home h on h.id = a.n",
            "rollback",
            "select n, count(*) from auctions group by n",
        ][..],
        &[
            "begin",
            "update auctions set n = 78",
            "savepoint s",
            "update auctions set n = 79",
            "select distinct n from auctions",
            "rollback to s",
            "select distinct n from auctions",
            "commit",
        ],
        &[
            "begin isolation level repeatable read",
            "select n, count(*) from auctions group by n",
            "update auctions set n = 80 where auction_id = 5",
            "select n, count(*) from auctions group by n",
            "commit",
        ],
        &[
            "select public.auctions.n, count(*) from public.auctions, public.bids where public.bids.id = public.auctions.n group by 1",
            "with auctions as (select 1 as n) select count(*) from public.auctions, auctions group by auctions.n",
            "select count(distinct n) from auctions where exists (select from public.auctions b where b.n = auctions.n and b.auction_id <> auctions.auction_id)",
        ],
        &[
            "create temp table mine (a int)",
            "insert into mine values (1)",
            "select n, count(*) from auctions group by n",
            "select * from mine",
            "select n, count(*) from auctions group by n",
        ],
        &[
            "select count(distinct n) from auctions",
            "select count(*) from pg_class where relname = 'auctions'",
        ],
    ] {
        clauses.told(session, &["auctions", "bids", "home"]);
    }
    let kept =
        "select count(*) from pg_class where relnamespace = pg_my_temp_schema() or relname ~ '^gavel_'";
    assert!(clauses.both.cluster.on_each_primary(kept).await.concat().iter().all(|count| count == "0"));
    clauses.end();
}

/// Point 17: a row that moves would take those with it that refer to it.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_17_a_key_that_others_refer_to_stays() {
    let cluster = Cluster::builder().shards(3).start().await;
    let client = cluster.connect().await;
    for sql in [
        "create table auctions (auction_id bigint primary key, title text)",
        "create table bids (auction_id bigint references auctions on delete cascade on update cascade, id int, primary key (auction_id, id))",
        "insert into auctions select g, 'x' from generate_series(1, 12) g",
        "insert into bids select g, g from generate_series(1, 12) g",
    ] {
        run(&client, sql).await;
    }
    for sql in [
        "update auctions set auction_id = 100 where auction_id = 3",
        "update auctions set auction_id = 101",
        "update bids set auction_id = 4 where auction_id = 3",
    ] {
        assert_eq!(fails(&client, sql).await, "0A000", "{sql}");
    }
    assert_eq!(
        first_column(
            &client,
            "select count(*) from auctions a join bids b using (auction_id) where a.auction_id = b.id"
        )
        .await,
        ["12"]
    );
}

/// Point 18: files of the server are not the application's, and lines that are wrong are not left out before PostgreSQL 17.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_18_copy_of_files_is_refused() {
    let (_cluster, client) = super::house(2).await;
    for sql in [
        "copy auctions from '/tmp/nothing'",
        "copy auctions to '/tmp/gavel-nothing'",
        "copy auctions from program 'true'",
        "copy (select 1 from auctions) to program 'true'",
        "copy categories from '/tmp/nothing'",
    ] {
        assert_eq!(fails(&client, sql).await, "0A000", "{sql}");
    }
}

/// Point 11: a plan is made anew or kept as the application has said.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn pitfall_11_plan_cache_mode_is_respected() {
    let one_conn = "[pool]\nsize = 1\n[listen]\nthreads = 1\n";
    let cluster = Cluster::builder().shards(1).config_extra(one_conn).start().await;
    let client = cluster.connect().await;
    crate::house::build(&client).await;
    crate::house::add_auctions(&client, 8).await;
    let read = client.prepare("select title from auctions where auction_id = $1").await.expect("prepared");
    let plans = "select generic_plans || ' ' || custom_plans from pg_prepared_statements \
                 where statement like 'select title from auctions where auction_id = $1%'";
    let mut expected = [0, 0];
    for (mode, kind) in [("force_custom_plan", 1), ("force_generic_plan", 0), ("force_custom_plan", 1)] {
        run(&client, &format!("set plan_cache_mode = {mode}")).await;
        for _ in 0..7 {
            assert_eq!(client.query(&read, &[&7_i64]).await.expect("a row").len(), 1);
        }
        expected[kind] += 7;
        assert_eq!(
            first_column(&client, plans).await,
            [format!("{} {}", expected[0], expected[1])],
            "{mode}"
        );
    }
}
