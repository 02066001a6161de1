//! Statements with rows put into them, as tables of cases.

use expect_test::expect;

use super::*;
use crate::route::testing::{context, schema};

fn filled(text: &str) -> String {
    let (schema, search_path) = (schema(), ["public".to_owned()]);
    match shape(text, &context(&schema, &search_path)) {
        Err(why) => format!("{text}\n  refused: {why}\n"),
        Ok(broadcast) => {
            let rows: Vec<String> = (1..=broadcast.tables.len()).map(|n| format!("{{{n}}}")).collect();
            format!("{text}\n  {}\n", broadcast.with(&rows))
        }
    }
}

#[test]
fn rows_are_put_where_tables_are_named() {
    let cases = [
        "update bids set amount = (select max(amount) from bids)",
        "delete from bids where auction_id not in (select auction_id from auctions a where a.title = 'x')",
        "update bids set amount = 1 from settings s, auctions where auctions.title = s.name",
        "update public.bids set amount = 1 from public.auctions where auctions.title = 'x'",
        "update public.bids set amount = 1 from public.auctions where public.auctions.title = 'x'",
        "update public.bids set amount = 1 from public.auctions as auctions where auctions.title = 'x'",
        "with m as (select max(amount) m from bids b) update bids set amount = m.m from m",
        "with recursive r as (select 1 n union all select n + 1 from r, bids where n < 5) delete from bids using r where n = amount",
        "update bids set amount = 1 from users",
        "update bids set amount = 1 from only auctions",
        "update bids set amount = 1 where exists (select from auctions for update)",
        "update users set name = 'x' from bids",
        "delete from bids using auctions where auctions.ctid is null",
        "select 1",
    ];
    expect![[r#"
        update bids set amount = (select max(amount) from bids)
          update bids set amount = (select max(amount) from (SELECT * FROM pg_catalog.unnest('{1}'::"public"."bids"[])) AS "bids")
        delete from bids where auction_id not in (select auction_id from auctions a where a.title = 'x')
          delete from bids where auction_id not in (select auction_id from (SELECT * FROM pg_catalog.unnest('{1}'::"public"."auctions"[])) a where a.title = 'x')
        update bids set amount = 1 from settings s, auctions where auctions.title = s.name
          update bids set amount = 1 from (SELECT * FROM pg_catalog.unnest('{1}'::"public"."settings"[])) s, (SELECT * FROM pg_catalog.unnest('{2}'::"public"."auctions"[])) AS "auctions" where auctions.title = s.name
        update public.bids set amount = 1 from public.auctions where auctions.title = 'x'
          update public.bids set amount = 1 from (SELECT * FROM pg_catalog.unnest('{1}'::"public"."auctions"[])) AS "auctions" where auctions.title = 'x'
        update public.bids set amount = 1 from public.auctions where public.auctions.title = 'x'
          refused: columns of public.auctions are named with its schema
        update public.bids set amount = 1 from public.auctions as auctions where auctions.title = 'x'
          update public.bids set amount = 1 from (SELECT * FROM pg_catalog.unnest('{1}'::"public"."auctions"[])) as auctions where auctions.title = 'x'
        with m as (select max(amount) m from bids b) update bids set amount = m.m from m
          with m as (select max(amount) m from (SELECT * FROM pg_catalog.unnest('{1}'::"public"."bids"[])) b) update bids set amount = m.m from m
        with recursive r as (select 1 n union all select n + 1 from r, bids where n < 5) delete from bids using r where n = amount
          with recursive r as (select 1 n union all select n + 1 from r, (SELECT * FROM pg_catalog.unnest('{1}'::"public"."bids"[])) AS "bids" where n < 5) delete from bids using r where n = amount
        update bids set amount = 1 from users
          refused: it reads no other table
        update bids set amount = 1 from only auctions
          refused: ONLY
        update bids set amount = 1 where exists (select from auctions for update)
          refused: it locks rows
        update users set name = 'x' from bids
          update users set name = 'x' from (SELECT * FROM pg_catalog.unnest('{1}'::"public"."bids"[])) AS "bids"
        delete from bids using auctions where auctions.ctid is null
          refused: it reads the system column ctid
        select 1
          refused: its target is not found
    "#]].assert_eq(&cases.map(filled).concat());
}

#[test]
fn columns_of_temporary_tables_travel_as_arrays() {
    assert_eq!(elements("{}"), Vec::<String>::new());
    assert_eq!(elements("{\"{1,2}\",\"{\\\"a b\\\",NULL}\",{}}"), ["{1,2}", "{\"a b\",NULL}", "{}"]);
    let given = |name: &str, type_name: &str, collation: Option<&str>, typed| Given {
        name: name.to_owned(),
        type_name: type_name.to_owned(),
        collation: collation.map(str::to_owned),
        typed,
    };
    let columns =
        vec![given("a", "bigint", None, true), given("b", "text[]", Some("pg_catalog.\"C\""), false)];
    let table = Table { name: "\"pg_temp\".\"x\"".to_owned(), sharded: false, columns };
    assert_eq!(
        table.rows("{\"{1,2}\",\"{x,NULL}\"}"),
        "(SELECT gavel_1 AS \"a\", gavel_2::text[] COLLATE pg_catalog.\"C\" AS \"b\" FROM ROWS FROM (\
         pg_catalog.unnest('{1,2}'::bigint[]), pg_catalog.unnest('{x,NULL}'::pg_catalog.text[])) AS gavel_rows (gavel_1, gavel_2))"
    );
}
