//! What shards are sent when their rows are merged.

use expect_test::expect;

use crate::route::plan;
use crate::route::plan::Target;
use crate::route::testing::{analysed_after, analysed_with, bind, schema, session, topology};
use crate::route::values::{BindParams, Values};

/// The text of each statement for a shard, with where its keys are, and what is cut.
fn merges(sql: &str, params: &[Option<&str>]) -> String {
    let analysed = analysed_with(sql, &schema());
    let body: Vec<_> = params.iter().map(|param| (0, param.map(str::as_bytes))).collect();
    let body = bind(&body);
    let params = BindParams::parse(&body, &[]).expect("well formed");
    let mut out = String::new();
    for (index, statement) in analysed.statements().iter().enumerate() {
        let values = Values::of_text(sql.as_bytes(), &analysed, index).with_params(&params);
        let range = analysed.range(index);
        out.push_str(sql[range.clone()].trim());
        out.push_str(&shown(plan(&topology(4), &statement.facts, &values, &session()), &sql[range]));
    }
    out
}

fn shown(plan: Result<plan::Plan, crate::route::refusal::Refusal>, whole: &str) -> String {
    match plan.map(|plan| plan.target) {
        Err(refusal) => format!("\n  refused: {}\n", refusal.message),
        Ok(Target::Gather(_, gather)) => {
            let text = gather.text.as_ref().map_or("as it is", |(text, _)| text.trim());
            if let Some((text, origins)) = &gather.text {
                let copied = (0..text.len()).filter_map(|at| Some((at, origins.of(at)?)));
                copied.for_each(|(at, from)| assert_eq!(text.as_bytes()[at], whole.as_bytes()[from]));
            }
            let columns: Vec<_> = gather.keys.iter().map(|key| format!("{:?}", key.column)).collect();
            let limit = gather.limit.map_or(String::new(), |limit| format!(" limit {limit}"));
            let offset = format!(" offset {}", gather.offset);
            format!("\n  {text}\n  {}{limit}{offset}\n", columns.join(" "))
        }
        Ok(Target::Limited(limited)) => {
            let (text, origins) = limited.text(2);
            let copied = (0..text.len()).filter_map(|at| Some((at, origins.of(at)?)));
            copied.for_each(|(at, from)| assert_eq!(text.as_bytes()[at], whole.as_bytes()[from]));
            format!("\n  {}\n  one shard after the other, limit {}\n", text.trim(), limited.limit)
        }
        Ok(other) => format!("\n  {other:?}\n"),
    }
}

/// Rows that are locked, where not all of them are wanted.
#[test]
fn locks_with_a_limit() {
    let sql = "select id from bids order by id limit 3 for update;
         select id from bids order by id limit 3 for update nowait;
         select id from bids limit $1 for update;
         select id from bids limit 3 offset 1 for update";
    expect![[r#"
        select id from bids order by id limit 3 for update
          as it is
          Output(0) limit 3 offset 0
        select id from bids order by id limit 3 for update nowait
          refused: this query over several shards is not supported: LIMIT or OFFSET with FOR UPDATE or the like
        select id from bids limit $1 for update
          select id from bids limit  ($1::pg_catalog.int8 * 0 + 2)  for update
          one shard after the other, limit 12
        select id from bids limit 3 offset 1 for update
          refused: this query over several shards is not supported: LIMIT or OFFSET with FOR UPDATE or the like
    "#]]
    .assert_eq(&merges(sql, &[Some("12")]));
}

#[test]
fn texts_of_shards() {
    let sql = "select auction_id, title from auctions order by auction_id;
         select title from auctions order by ends_at desc, auction_id limit 10 offset 20;
         select * from bids order by amount /* of money */ limit 5;
         select id as x from bids order by x offset 3 fetch first row only;
         select id from bids order by id limit $1 offset $2;
         select id from bids order by id limit null offset null;
         select id from bids order by id limit -1;
         select id from bids limit 7;
         select id from bids limit 7 offset '2';
         select id from bids limit null;
         select id from bids order by amount -- of money
         ;
         select id from bids order by id limit 1.5;
         select id from bids order by amount for update;
         select title from auctions order by title;
         select id from bids where auction_id = 1 order by lower(amount::text) limit 3";
    expect![[r#"
        select auction_id, title from auctions order by auction_id
          as it is
          Output(0) offset 0
        select title from auctions order by ends_at desc, auction_id limit 10 offset 20
          select title, pg_catalog.timestamptz_send(ends_at) AS gavel_key_1, (auction_id) AS gavel_key_2 from auctions order by ends_at desc, auction_id limit  30  offset  0
          Hidden(0) Hidden(1) limit 10 offset 20
        select * from bids order by amount /* of money */ limit 5
          select *, (amount)::pg_catalog.numeric AS gavel_key_1 from bids order by amount /* of money */ limit 5
          Hidden(0) limit 5 offset 0
        select id as x from bids order by x offset 3 fetch first row only
          select id as x from bids order by x offset  0  fetch first  4 row only
          Output(0) limit 1 offset 3
        select id from bids order by id limit $1 offset $2
          select id from bids order by id limit  ($1::pg_catalog.int8 * 0 + 42)  offset  ($2::pg_catalog.int8 * 0 + 0)
          Output(0) limit 12 offset 30
        select id from bids order by id limit null offset null
          as it is
          Output(0) offset 0
        select id from bids order by id limit -1
          Concat([ShardId(0), ShardId(1), ShardId(2), ShardId(3)])
        select id from bids limit 7
          as it is
           limit 7 offset 0
        select id from bids limit 7 offset '2'
          select id from bids limit  9  offset  0
           limit 7 offset 2
        select id from bids limit null
          Concat([ShardId(0), ShardId(1), ShardId(2), ShardId(3)])
        select id from bids order by amount
          select id, (amount)::pg_catalog.numeric AS gavel_key_1 from bids order by amount
          Hidden(0) offset 0
        select id from bids order by id limit 1.5
          refused: this query over several shards is not supported: ORDER BY
        select id from bids order by amount for update
          select id, (amount)::pg_catalog.numeric AS gavel_key_1 from bids order by amount for update
          Hidden(0) offset 0
        select title from auctions order by title
          refused: this query over several shards is not supported: ORDER BY
        select id from bids where auction_id = 1 order by lower(amount::text) limit 3
          One(ShardId(3))
    "#]].assert_eq(&merges(sql, &[Some("12"), Some("30")]));
    expect![[r#"
        select id from bids limit $1 offset $2
          select id from bids limit $1 offset  ($2::pg_catalog.int8 * 0 + 0)
           offset 30
    "#]]
    .assert_eq(&merges("select id from bids limit $1 offset $2", &[None, Some("30")]));
}

#[test]
fn texts_that_share_their_facts_are_cut_where_they_are() {
    let texts = [
        "select title, 'x' from auctions where title <> 'a' order by ends_at limit 1 offset 2",
        "select title, 'longer' from auctions where title <> 'abcdefgh' order by ends_at limit 100 offset 2000",
    ];
    let analysed = analysed_after(&texts, &schema());
    let values = Values::of_text(texts[1].as_bytes(), &analysed, 0);
    let plan = plan(&topology(4), &analysed.statements()[0].facts, &values, &session());
    expect![[r#"
        select title, 'longer', pg_catalog.timestamptz_send(ends_at) AS gavel_key_1 from auctions where title <> 'abcdefgh' order by ends_at limit  2100  offset  0
          Hidden(0) limit 100 offset 2000
    "#]].assert_eq(shown(plan, texts[1]).trim_start());
}
