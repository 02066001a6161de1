//! Writes that are taken apart: INSERT, UPDATE and DELETE in WITH, several rows of computed keys, keys whose column may change them,
//! views, and tables that are the same everywhere. What they do and say is what one PostgreSQL does and says.

use tests::wire_message as message;

use crate::beside::{said, sorted_rows};
use crate::writes_over_shards::{beside, extended, run_all, simple, tables};

const MORE: &[&str] = &[
    "create table prices (auction_id numeric(10,2) primary key, n int)",
    "create table codes (auction_id varchar(3) primary key, n int)",
    "create view cheap as select auction_id, title, price from lots where price < 100",
    "create table parents (auction_id bigint primary key)",
    "create table children (auction_id bigint references parents, n int)",
    "insert into parents values (1), (2), (3), (4)",
    "insert into children values (1, 1), (2, 2)",
];

/// Answered, each as on one PostgreSQL.
const ANSWERED: &[&str] = &[
    "with gone as (delete from bids where bid_id = 3 returning *) \
     insert into archive select bid_id, auction_id::int, amount, 'gone' from gone returning *",
    "with gone as (delete from bids returning auction_id, amount) select count(*), sum(amount), min(auction_id) from gone",
    "insert into bids (auction_id, bid_id, amount) select auction_id, 1, price from lots where auction_id < 12",
    "with gone (a, b) as (delete from bids where bid_id = 1 returning auction_id, amount) update lots set price = price + b \
     from gone where gone.a = lots.auction_id returning auction_id, price",
    "with u as (update lots set price = price + 1 where price > 50 returning *), a as materialized (insert into archive \
     (auction_id, amount, why) select auction_id, price, tags::text from u returning amount) \
     select u.auction_id, u.seen, u.tags, a.amount from u join a on a.amount = u.price",
    "with n as (insert into lots (auction_id, title, tags) values (201, 'a', '{x,\"y z\"}'), (202, 'it''s', null), \
     (203, E'c\\\\', '{}') returning auction_id, title, tags) \
     insert into archive (auction_id, why) select auction_id, title || coalesce(tags::text, '-') from n",
    "with n as (insert into lots (auction_id, title) values (204, 'x') returning auction_id) \
     insert into bids select auction_id, 1, 5 from n returning *",
    "with d as (delete from archive) select 1 as one",
    "with d as (delete from archive where false returning *) select d.*, 2 from d",
    "with d as (delete from notes where note_id = 7 returning text), i as (insert into archive (auction_id, why) \
     select 5, text from d returning why) select * from i",
    "with c as (update categories set name = upper(name) returning category_id) \
     update lots set price = price + 1 from c where c.category_id = lots.category_id",
    "with big as (select auction_id from lots where price > 100), d as (delete from bids using big where \
     big.auction_id = bids.auction_id returning bids.*) select d.*, big.auction_id from d full join big using (auction_id)",
    "with recursive r (n) as (select 1 union all select n + 1 from r where n < 4), i as (insert into archive (auction_id) \
     select n from r returning auction_id) select count(*) from i",
    "with d as (with old as (select auction_id from lots where price < 40) delete from bids using old \
     where old.auction_id = bids.auction_id returning bid_id) select count(*) from d",
    "with lots as (delete from lots where auction_id = 203 returning auction_id) select * from lots",
    "with a as (update lots set price = 1 where auction_id = 1 returning price), b as (update archive set amount = 2 \
     returning amount) select (select count(*) from a), (select count(*) from b)",
    // Wrong in PostgreSQL's own words, and nothing is done.
    "with d as (delete from bids returning nosuch) select 1",
    "with d as (delete from bids) select * from d",
    // Several rows with computed keys.
    "insert into archive (auction_id, amount, why) values (1 + 40, default, 'a'), (length('abc'), 1.5, default), \
     (5, (select max(price) from lots), upper('x')) returning *",
    "insert into lots values (abs(-301), 1, 'x', default, null, array['a,b']), \
     (300 + 2, null, 'y', 3, '2024-01-02 03:04:05.678+00', default) returning *",
    "insert into lots (auction_id, title) values (301 + 0, 'x'), (303 + 0, 'y') on conflict (auction_id) do update \
     set title = lots.title || excluded.title returning title",
    "insert into lots (auction_id, title, price) values (305 + 0, 'x', 1), (306 + 0, 'y', -1)",
    // Keys that another column would change.
    "insert into tagged values ('a '), ('b'), ('c  ')",
    "insert into tagged select 'b ' || auction_id || ' ' from lots returning auction_id",
    "insert into prices values (7.5, 1), (7.25, 2), (-0.10, 3), (7.00, 4) returning *",
    "insert into codes values ('a ', 1), ('ab ', 2), ('abc', 3), ('a', 4) returning *",
    "update prices set n = 9 where auction_id = 7.250 returning *",
    "delete from codes where auction_id = 'a ' returning *",
    "insert into codes values ('abcd', 1)",
    // One MERGE for each key of its source.
    "merge into lots using (values (1, 'a'), (99, 'b'), (2, 'c'), (98, null)) v (id, title) on lots.auction_id = v.id \
     when matched then update set title = v.title || lots.title when not matched and v.title is null then do nothing \
     when not matched then insert (auction_id, title) values (v.id, upper(v.title))",
    "with s as (select note_id as k, text from notes) merge into lots l using s on s.k = l.auction_id and l.price > 0 \
     when matched then delete when not matched then insert (auction_id, title, seen) values (s.k, s.text, '2024-02-03 04:05+00')",
    "merge into bids b using (select auction_id + 1 as k, max(amount) as top from bids group by 1) as s \
     on b.auction_id = s.k and b.bid_id = 3 when matched then update set amount = s.top when not matched and s.k < 12 then \
     insert values (s.k, 3, s.top)",
    "merge into archive using notes on archive.auction_id = notes.note_id when not matched then insert (auction_id, why) \
     values (notes.note_id, notes.text)",
    "merge into lots using (select 1 as k where false) s on lots.auction_id = s.k when not matched then insert (auction_id, title) \
     values (s.k, 'x')",
    "merge into lots using (values (3, 1), (4, 2), (3, 2)) s (k, n) on lots.auction_id = s.k when matched then update set price = s.n \
     when not matched then insert (auction_id, title) values (s.k, 'x')",
    "merge into lots using (values (4, -2)) s (k, n) on lots.auction_id = s.k when matched then update set price = s.n \
     when not matched then insert (auction_id, title) values (s.k, 'x')",
    // By a view.
    "insert into cheap values (401, 'v', 5), (402, 'w', 7) returning *",
    "insert into cheap (auction_id, title) select auction_id + 500, title from lots where price > 150 returning auction_id",
    "insert into cheap (price, title, auction_id) values (500, 'not seen', 403)",
    "insert into cheap (auction_id, price) values (404, 1)",
    // The same rows everywhere, by rows that are not.
    "delete from categories where category_id in (select category_id from lots where price > 180) returning *",
    "update categories set name = name || '!' where exists (select from bids b where b.amount > category_id) returning name",
    "delete from only lots where price = (select max(price) from lots) returning auction_id",
];

/// Wrong when they run. The extended protocol has told more by then than PostgreSQL has.
const FAILING: &[&str] = &[
    "with u as (update lots set price = -1 returning *) select * from u",
    "with u as (update lots set price = 1 / greatest(auction_id - 17, 0) returning *) insert into archive select 1, 2, 3, 'x' from u",
    "with i as (insert into lots (auction_id, title) select 500, title from archive, lots returning *) select 1 from i",
    "insert into lots (auction_id, title) values (1 / 0, 'x'), (2, 'y')",
    "with u as (update lots set price = price + 1 returning auction_id), i as (insert into archive select 1, 1, 1 / (auction_id - 3), '' \
     from u returning 1) select * from i",
];

/// Refused: a part would see what another has written, or what it would see cannot be told.
const REFUSED: &[&str] = &[
    "with d as (delete from bids returning *) select count(*) from d, bids",
    "with d as (delete from lots returning auction_id) select * from d join bids using (auction_id)",
    "with d as (delete from bids) update bids set amount = 1",
    "with d as (delete from archive returning *) insert into archive select * from d on conflict do nothing",
    "with d as (delete from lots returning auction_id) select * from d join cheap using (auction_id)",
    "with r as (select random() as x), u as (update lots set price = (select x from r) returning *) select * from u, r",
    "with c as (insert into children values (300, 1) returning 1) insert into parents values (300)",
    "with p as (delete from parents) delete from children",
    "insert into cheap (title) values ('x')",
    "merge into lots using (values (1.0), (99.5)) s (k) on lots.auction_id = s.k when not matched then insert (auction_id, title) \
     values (s.k, 'x')",
    "merge into lots using (values (1), (99)) s (k) on lots.auction_id = s.k when not matched then insert (auction_id, title) \
     values (s.k + 1, 'x')",
    "merge into lots using (values (1), (2)) s (k) on lots.auction_id = s.k when matched then update set auction_id = 5 \
     when not matched then insert (auction_id, title) values (s.k, 'x')",
    "insert into prices values (7.255, 1)",
    "insert into codes values ('abc ', 1)",
];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_are_as_on_one_server() {
    for shards in [1, 2, 4] {
        let mut beside = beside(shards).await;
        for sql in MORE {
            for side in beside.sides() {
                side.rows(sql).expect(sql);
            }
        }
        run_all(&mut beside, ANSWERED).await;
        for sql in FAILING {
            let [ours, theirs] = beside.sides().map(|side| simple(side, sql) + &tables(side));
            assert_eq!(ours, theirs, "{sql}");
        }
        for table in ["prices", "codes", "tagged", "parents", "children"] {
            let [ours, theirs] =
                beside.sides().map(|side| sorted_rows(side, &format!("select * from {table}")));
            assert_eq!(ours, theirs, "{table}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_parts_would_see_of_each_other_is_refused_and_does_nothing() {
    let mut beside = beside(3).await;
    for sql in MORE {
        for side in beside.sides() {
            side.rows(sql).expect(sql);
        }
    }
    for sql in REFUSED {
        let answer = simple(&mut beside.ours, sql);
        assert!(answer.starts_with("E 0A000 "), "{sql}: {answer}");
        let answer = extended(&mut beside.ours, sql, 0);
        assert!(answer.contains("E 0A000 "), "{sql}: {answer}");
    }
    let [ours, theirs] = beside.sides().map(tables);
    assert_eq!(ours, theirs);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn parts_have_the_parameters_and_the_time_of_the_statement() {
    let mut beside = beside(4).await;
    let text = "with gone as (delete from bids where bid_id = $1 and amount < $3 returning *) insert into archive \
                select bid_id, auction_id::int, amount, $2 from gone returning auction_id";
    for values in [["1", "by text", "9"], ["2", "it's \\", "100"]] {
        let values = values.map(|value| message::Value::Text(value.as_bytes().to_vec()));
        let steps = [
            message::parse("", text, &[]),
            message::describe(b'S', ""),
            message::bind("", "", &values, &[1]),
            message::execute("", 0),
            message::sync(),
        ];
        let [ours, theirs] = beside.sides().map(|side| said(side, &steps.concat()) + &tables(side));
        assert_eq!(ours, theirs);
    }
    // Of a text, what stands behind it is in force everywhere.
    let text = "merge into lots using (values (1, 'a'), (2, 'b'), (3, 'c')) v (id, t) on lots.auction_id = v.id when matched then \
                update set title = v.t when not matched then insert (auction_id, title) values (v.id, v.t); \
                set application_name = 'behind'; with d as (delete from notes) select 1; set statement_timeout = '77s'";
    beside.ours.rows(text).expect(text);
    for key in 1..=12 {
        let asked = format!(
            "select current_setting('application_name') || current_setting('statement_timeout') from lots where auction_id = {key}"
        );
        let set = beside.ours.rows(&asked).expect("the settings");
        assert_eq!(set, [[Some("behind77s".to_owned())]], "{key}");
    }
    let text = "with u as (update lots set seen = now() returning seen) \
                insert into archive (auction_id, why) select auction_id, (now() = max(u.seen))::text from u, bids group by 1";
    beside.ours.rows(text).expect(text);
    let times = beside.ours.rows("select count(distinct seen) from lots").expect("the times");
    assert_eq!(times, [[Some("1".to_owned())]]);
    let same =
        beside.ours.rows("select distinct why from archive where length(why) = 4").expect("the answers");
    assert_eq!(same, [[Some("true".to_owned())]]);
}
