//! Statements taken apart, as tables of cases.

use expect_test::expect;

use super::*;
use crate::route::testing::{context, schema};

fn parts(text: &str) -> String {
    let (schema, search_path) = (schema(), ["public".to_owned()]);
    match shape(text, &context(&schema, &search_path)) {
        Err(why) => format!("{text}\n  refused: {why}\n"),
        Ok(None) => format!("{text}\n  writes once\n"),
        Ok(Some(with)) => {
            let mut made = with.unmade();
            let mut out = format!("{text}\n");
            for at in with.writers() {
                out.push_str(&format!("  {}\n", with.part(Some(at), &made)));
                made[at] = Some(format!("ROWS {at}"));
            }
            out.push_str(&format!("  {}\n", with.part(None, &made)));
            for Written { table, read_later, .. } in &with.writes {
                out.push_str(&format!("  writes {table}, then reads {}\n", read_later.len()));
            }
            out
        }
    }
}

#[test]
fn statements_are_taken_apart() {
    let cases = [
        "with d as (delete from bids where user_id = 3 returning *) insert into bids select * from d",
        "with d as (delete from bids returning *) select count(*) from d",
        "with d (a, b) as not materialized (delete from bids returning auction_id, user_id), e as (select a from d) \
         select * from e join users u on u.user_id = e.a;",
        "with n as (select user_id from users), d as (delete from bids b using n where n.user_id = b.user_id returning b.*), \
         i as (insert into bids select * from d returning auction_id) select * from i, n",
        "with d as (with x as (select 1 as k) delete from bids using x where auction_id = x.k) select 1",
        "with recursive r (n) as (select 1 union all select n + 1 from r where n < 3), d as (delete from bids where user_id in \
         (select n from r) returning auction_id) select * from d",
        "with d as (select 1) select * from d",
        "select 1",
        "with d as (delete from bids returning *) select * from d join bids using (auction_id)",
        "with d as (delete from bids returning *) update bids set user_id = 1 from d where d.auction_id = bids.auction_id",
        "with d as (update users set user_id = 1 returning *) insert into users select * from d on conflict do nothing",
        "with r as (select random() as x), d as (delete from bids where user_id < (select x from r) returning *) select * from d, r",
        "with recursive a as (delete from bids using b returning 1), b as (delete from users returning 1) select 1",
        "with a as (delete from bids), a as (delete from users) select 1",
        "with a as (delete from nosuch) select 1",
        "with a as (delete from bids) search depth first by x set y select 1",
    ];
    expect![[r#"
        with d as (delete from bids where user_id = 3 returning *) insert into bids select * from d
          delete from bids where user_id = 3 returning *
          WITH d AS  (ROWS 0) insert into bids select * from d
          writes bids, then reads 0
          writes bids, then reads 0
        with d as (delete from bids returning *) select count(*) from d
          delete from bids returning *
          WITH d AS  (ROWS 0) select count(*) from d
          writes bids, then reads 0
        with d (a, b) as not materialized (delete from bids returning auction_id, user_id), e as (select a from d) select * from e join users u on u.user_id = e.a;
          delete from bids returning auction_id, user_id
          WITH d (a, b) AS not materialized (ROWS 0), e AS  (select a from d) select * from e join users u on u.user_id = e.a
          writes bids, then reads 1
        with n as (select user_id from users), d as (delete from bids b using n where n.user_id = b.user_id returning b.*), i as (insert into bids select * from d returning auction_id) select * from i, n
          WITH n AS  (select user_id from users) delete from bids b using n where n.user_id = b.user_id returning b.*
          WITH d AS  (ROWS 1) insert into bids select * from d returning auction_id
          WITH n AS  (select user_id from users), i AS  (ROWS 2) select * from i, n
          writes bids, then reads 1
          writes bids, then reads 1
        with d as (with x as (select 1 as k) delete from bids using x where auction_id = x.k) select 1
          WITH x as (select 1 as k) delete from bids using x where auction_id = x.k
          select 1
          writes bids, then reads 0
        with recursive r (n) as (select 1 union all select n + 1 from r where n < 3), d as (delete from bids where user_id in (select n from r) returning auction_id) select * from d
          WITH RECURSIVE r (n) AS  (select 1 union all select n + 1 from r where n < 3) delete from bids where user_id in (select n from r) returning auction_id
          WITH RECURSIVE d AS  (ROWS 1) select * from d
          writes bids, then reads 0
        with d as (select 1) select * from d
          writes once
        select 1
          writes once
        with d as (delete from bids returning *) select * from d join bids using (auction_id)
          refused: a part of it reads public.bids behind another that writes it
        with d as (delete from bids returning *) update bids set user_id = 1 from d where d.auction_id = bids.auction_id
          refused: a part of it reads public.bids behind another that writes it
        with d as (update users set user_id = 1 returning *) insert into users select * from d on conflict do nothing
          refused: a part of it reads public.users behind another that writes it
        with r as (select random() as x), d as (delete from bids where user_id < (select x from r) returning *) select * from d, r
          refused: a WITH query that two of its parts read may give other rows each time
        with recursive a as (delete from bids using b returning 1), b as (delete from users returning 1) select 1
          refused: a WITH query that writes reads a later one that does
        with a as (delete from bids), a as (delete from users) select 1
          refused: WITH has two queries of the name a
        with a as (delete from nosuch) select 1
          refused: one of its parts names a relation that is not known
        with a as (delete from bids) search depth first by x set y select 1
          refused: SEARCH and CYCLE in its WITH are not taken apart
    "#]].assert_eq(&cases.map(parts).concat());
}

#[test]
fn rows_become_a_query() {
    let columns = [("id".to_owned(), "bigint".to_owned()), ("Name".to_owned(), "text".to_owned())];
    let rows = [vec![Some("1".to_owned()), None], vec![Some("2".to_owned()), Some("it's \\".to_owned())]];
    expect![[r#"
        SELECT gavel_rows.c0::bigint AS "id", gavel_rows.c1::text AS "Name" FROM (VALUES ('1', NULL::text), ('2',  E'it''s \\')) AS gavel_rows (c0, c1)
        SELECT NULL::bigint AS "id", NULL::text AS "Name" WHERE false
        SELECT NULL"#]].assert_eq(
        &[
            rows_as_query(&columns, &rows),
            rows_as_query(&columns, &[]),
            rows_as_query(&[], &[Vec::new(), Vec::new()]),
        ]
        .join("\n"),
    );
}
