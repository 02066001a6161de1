//! Statements taken apart, as tables of cases.

use expect_test::expect;

use super::*;
use crate::route::testing::{context, schema};

fn pieces(text: &str) -> String {
    let (schema, search_path) = (schema(), ["public".to_owned()]);
    match shape(text, &context(&schema, &search_path)) {
        Err(why) => format!("{text}\n  refused: {why}\n"),
        Ok(rows) => {
            let width = rows.width().unwrap_or(2);
            let row = |value: &str| vec![Some(value.to_owned()); width - 1];
            let mut values = vec![row("1"), row("it's \\ 'x'")];
            values.iter_mut().for_each(|row| row.push(None));
            if rows.values.is_some() {
                values = vec![values.concat()];
            }
            let (query, insert) = (rows.query(width), rows.insert(&values));
            format!("{text}\n  {query}\n  {insert}\n  {}\n", rows.insert_nothing(width))
        }
    }
}

#[test]
fn statements_are_taken_apart() {
    let cases = [
        "insert into bids (auction_id, user_id) select user_id, auction_id from bids on conflict do nothing returning *",
        "insert into bids as b (user_id, auction_id) (select 1, user_id from users order by 1)",
        "insert into bids select * from users order by user_id",
        "insert into bids select * from users order by user_id limit 3",
        "with x as (select 1 as a) insert into bids (auction_id, user_id) select a, a from x",
        "insert into public.bids (auction_id, user_id) overriding system value select 1, 2",
        "insert into bids (auction_id, user_id) values (1 + 1, 2)",
        "insert into bids (auction_id, user_id) values (1 + 1, 2), (3, 4)",
        "insert into bids (auction_id, user_id) values (1 + 1, default)",
        "insert into bids values (abs(-1), (array[1, 2])[1]), (default, f(1, 2)) on conflict do nothing",
        "insert into bids (auction_id, user_id) values (1 + 1, 2), (3)",
        "insert into bids (auction_id, nosuch) select 1, 2",
        "insert into nosuch (auction_id) select 1",
        "insert into bids (auction_id) select 1 returning $1::int",
        "insert into bids default values",
    ];
    expect![[r#"
        insert into bids (auction_id, user_id) select user_id, auction_id from bids on conflict do nothing returning *
           SELECT gavel_rows.c0::bigint::pg_catalog.text, gavel_rows.c1::bigint::pg_catalog.text FROM (select user_id, auction_id from bids) AS gavel_rows (c0, c1)
          insert into bids (auction_id, user_id) VALUES ('1', NULL), ( E'it''s \\ ''x''', NULL) on conflict do nothing returning *
          insert into bids (auction_id, user_id) SELECT NULL::bigint, NULL::bigint WHERE false on conflict do nothing returning *
        insert into bids as b (user_id, auction_id) (select 1, user_id from users order by 1)
           SELECT gavel_rows.c0::bigint::pg_catalog.text, gavel_rows.c1::bigint::pg_catalog.text FROM (select 1, user_id from users order by 1 OFFSET 0) AS gavel_rows (c0, c1)
          insert into bids as b (user_id, auction_id) VALUES ('1', NULL), ( E'it''s \\ ''x''', NULL) 
          insert into bids as b (user_id, auction_id) SELECT NULL::bigint, NULL::bigint WHERE false 
        insert into bids select * from users order by user_id
           SELECT gavel_rows.c0::bigint::pg_catalog.text, gavel_rows.c1::bigint::pg_catalog.text FROM (select * from users order by user_id OFFSET 0) AS gavel_rows (c0, c1)
          insert into bids VALUES ('1', NULL), ( E'it''s \\ ''x''', NULL) 
          insert into bids SELECT NULL::bigint, NULL::bigint WHERE false 
        insert into bids select * from users order by user_id limit 3
           SELECT gavel_rows.c0::bigint::pg_catalog.text, gavel_rows.c1::bigint::pg_catalog.text FROM (select * from users order by user_id limit 3) AS gavel_rows (c0, c1)
          insert into bids VALUES ('1', NULL), ( E'it''s \\ ''x''', NULL) 
          insert into bids SELECT NULL::bigint, NULL::bigint WHERE false 
        with x as (select 1 as a) insert into bids (auction_id, user_id) select a, a from x
          with x as (select 1 as a) SELECT gavel_rows.c0::bigint::pg_catalog.text, gavel_rows.c1::bigint::pg_catalog.text FROM (select a, a from x) AS gavel_rows (c0, c1)
          insert into bids (auction_id, user_id) VALUES ('1', NULL), ( E'it''s \\ ''x''', NULL) 
          insert into bids (auction_id, user_id) SELECT NULL::bigint, NULL::bigint WHERE false 
        insert into public.bids (auction_id, user_id) overriding system value select 1, 2
           SELECT gavel_rows.c0::bigint::pg_catalog.text, gavel_rows.c1::bigint::pg_catalog.text FROM (select 1, 2) AS gavel_rows (c0, c1)
          insert into public.bids (auction_id, user_id) overriding system value VALUES ('1', NULL), ( E'it''s \\ ''x''', NULL) 
          insert into public.bids (auction_id, user_id) overriding system value SELECT NULL::bigint, NULL::bigint WHERE false 
        insert into bids (auction_id, user_id) values (1 + 1, 2)
           SELECT gavel_rows.c0::bigint::pg_catalog.text, gavel_rows.c1::bigint::pg_catalog.text FROM (SELECT 1 + 1, 2) AS gavel_rows (c0, c1)
          insert into bids (auction_id, user_id) VALUES ('1', NULL), ( E'it''s \\ ''x''', NULL) 
          insert into bids (auction_id, user_id) SELECT NULL::bigint, NULL::bigint WHERE false 
        insert into bids (auction_id, user_id) values (1 + 1, 2), (3, 4)
           SELECT gavel_rows.c0::bigint::pg_catalog.text, gavel_rows.c1::bigint::pg_catalog.text, gavel_rows.c2::bigint::pg_catalog.text, gavel_rows.c3::bigint::pg_catalog.text FROM (SELECT 1 + 1, 2, 3, 4) AS gavel_rows (c0, c1, c2, c3)
          insert into bids (auction_id, user_id) VALUES ('1', NULL), ( E'it''s \\ ''x''', NULL) 
          insert into bids (auction_id, user_id) SELECT NULL::bigint, NULL::bigint WHERE false 
        insert into bids (auction_id, user_id) values (1 + 1, default)
           SELECT gavel_rows.c0::bigint::pg_catalog.text, gavel_rows.c1::bigint::pg_catalog.text FROM (SELECT 1 + 1, NULL) AS gavel_rows (c0, c1)
          insert into bids (auction_id, user_id) VALUES ('1', DEFAULT), ( E'it''s \\ ''x''', NULL) 
          insert into bids (auction_id, user_id) SELECT NULL::bigint, NULL::bigint WHERE false 
        insert into bids values (abs(-1), (array[1, 2])[1]), (default, f(1, 2)) on conflict do nothing
           SELECT gavel_rows.c0::bigint::pg_catalog.text, gavel_rows.c1::bigint::pg_catalog.text, gavel_rows.c2::bigint::pg_catalog.text, gavel_rows.c3::bigint::pg_catalog.text FROM (SELECT abs(-1), (array[1, 2])[1], NULL, f(1, 2)) AS gavel_rows (c0, c1, c2, c3)
          insert into bids VALUES ('1', NULL), (DEFAULT, NULL) on conflict do nothing
          insert into bids SELECT NULL::bigint, NULL::bigint WHERE false on conflict do nothing
        insert into bids (auction_id, user_id) values (1 + 1, 2), (3)
          refused: its VALUES are not understood
        insert into bids (auction_id, nosuch) select 1, 2
          refused: it has no column nosuch
        insert into nosuch (auction_id) select 1
          refused: nosuch is not known
        insert into bids (auction_id) select 1 returning $1::int
          refused: a parameter stands behind its query
        insert into bids default values
          refused: it has no query
    "#]].assert_eq(&cases.map(pieces).concat());
}
