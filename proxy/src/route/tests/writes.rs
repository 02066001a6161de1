//! Writes of rows of several shards: which of them each shard can do by itself.

use expect_test::expect;

use super::statements::check;

#[test]
#[allow(clippy::too_many_lines, reason = "a table of statements and their plans")]
fn over_several_shards() {
    check(
        "update bids set amount = amount + 1;
         update bids set amount = 0 where auction_id in (1, 2);
         update bids set amount = random();
         update bids set amount = (select random());
         update bids set amount = r from (values (random())) v (r);
         update bids set amount = u.user_id from users u where u.user_id = bids.user_id;
         update bids set amount = (select count(*) from users);
         update bids set amount = (select user_id from users limit 1);
         update bids set amount = (select max(amount) from bids);
         update auctions a set title = 'x' where exists (select from bids b where b.auction_id = a.auction_id and b.amount > 5);
         update auctions a set title = 'x' where not exists (select from bids b where b.auction_id = a.auction_id);
         update auctions a set title = 'x' where exists (select from bids b where b.amount > 5);
         update auctions a set title = 'x' where auction_id in (select auction_id from bids group by auction_id having count(*) > 1);
         update auctions a set title = 'x' where auction_id in (select auction_id from bids limit 2);
         update auctions a set title = 'x' where auction_id in (1, 2) and exists (select from bids b where b.auction_id in (1, 2));
         update bids set amount = 1 from settings;
         delete from bids using auctions a where a.auction_id = bids.auction_id and a.title = 'x';
         delete from bids using auctions a where a.title = 'x';
         delete from bids where ctid = '(0,1)';
         delete from bids returning (select count(*) from bids);
         delete from bids where auction_id = 1 or auction_id = 2 returning *;
         with x as (select auction_id, random() r from auctions) delete from bids using x where x.auction_id = bids.auction_id;
         with x as (select random() r) delete from bids using x where amount < r;
         with x as (delete from bids returning auction_id) delete from auctions using x where x.auction_id = auctions.auction_id;
         insert into bids (auction_id, bid_id, amount) select auction_id, 1, 1 from auctions;
         insert into bids (auction_id, bid_id, amount) select auction_id, 1, random() from auctions where title = 'x';
         insert into bids (auction_id, bid_id, amount) select auction_id, 1, 1 from auctions order by title returning bid_id;
         insert into bids (auction_id, bid_id, amount) select auction_id, 1, 1 from auctions limit 3;
         insert into bids (auction_id, bid_id, amount) select bid_id, auction_id, 1 from bids;
         explain update bids set amount = 1",
        &[],
        &expect![[r#"
            update bids set amount = amount + 1
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            update bids set amount = 0 where auction_id in (1, 2)
              → several shards, in one transaction [2 4] primary: 2 keys
            update bids set amount = random()
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            update bids set amount = (select random())
              → 0A000 UPDATE over several shards is not supported | It is more than what each shard can do by itself: random(), which is evaluated once for all rows.
            update bids set amount = r from (values (random())) v (r)
              → 0A000 UPDATE over several shards is not supported | It is more than what each shard can do by itself: random(), which is evaluated once for all rows.
            update bids set amount = u.user_id from users u where u.user_id = bids.user_id
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            update bids set amount = (select count(*) from users)
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            update bids set amount = (select user_id from users limit 1)
              → 0A000 UPDATE over several shards is not supported | It is more than what each shard can do by itself: LIMIT without ORDER BY.
            update bids set amount = (select max(amount) from bids)
              → 0A000 the statement combines sharded tables whose rows may be on different shards
            update auctions a set title = 'x' where exists (select from bids b where b.auction_id = a.auction_id and b.amount > 5)
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            update auctions a set title = 'x' where not exists (select from bids b where b.auction_id = a.auction_id)
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            update auctions a set title = 'x' where exists (select from bids b where b.amount > 5)
              → 0A000 the statement combines sharded tables whose rows may be on different shards
            update auctions a set title = 'x' where auction_id in (select auction_id from bids group by auction_id having count(*) > 1)
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            update auctions a set title = 'x' where auction_id in (select auction_id from bids limit 2)
              → 0A000 the statement combines sharded tables whose rows may be on different shards
            update auctions a set title = 'x' where auction_id in (1, 2) and exists (select from bids b where b.auction_id in (1, 2))
              → 0A000 the statement combines sharded tables whose rows may be on different shards
            update bids set amount = 1 from settings
              → 0A000 the statement uses sharded tables together with public.settings | Unsharded tables are on shard "shard-1" only, and the rows of the key are elsewhere.
            delete from bids using auctions a where a.auction_id = bids.auction_id and a.title = 'x'
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            delete from bids using auctions a where a.title = 'x'
              → 0A000 the statement combines sharded tables whose rows may be on different shards
            delete from bids where ctid = '(0,1)'
              → 0A000 DELETE over several shards is not supported | It is more than what each shard can do by itself: ctid.
            delete from bids returning (select count(*) from bids)
              → 0A000 the statement combines sharded tables whose rows may be on different shards
            delete from bids where auction_id = 1 or auction_id = 2 returning *
              → several shards, in one transaction [2 4] primary: 2 keys
            with x as (select auction_id, random() r from auctions) delete from bids using x where x.auction_id = bids.auction_id
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            with x as (select random() r) delete from bids using x where amount < r
              → 0A000 DELETE over several shards is not supported | It is more than what each shard can do by itself: random(), which is evaluated once for all rows.
            with x as (delete from bids returning auction_id) delete from auctions using x where x.auction_id = auctions.auction_id
              → 0A000 DELETE over several shards is not supported | It is more than what each shard can do by itself: a WITH query that writes.
            insert into bids (auction_id, bid_id, amount) select auction_id, 1, 1 from auctions
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            insert into bids (auction_id, bid_id, amount) select auction_id, 1, random() from auctions where title = 'x'
              → several shards, in one transaction [1 2 3 4] primary: no condition on the shard key
            insert into bids (auction_id, bid_id, amount) select auction_id, 1, 1 from auctions order by title returning bid_id
              → 0A000 INSERT ... SELECT over several shards is not supported | It is more than what each shard can do by itself: ORDER BY, with RETURNING.
            insert into bids (auction_id, bid_id, amount) select auction_id, 1, 1 from auctions limit 3
              → 0A000 INSERT ... SELECT into a sharded table is supported only where every row stays on the shard it is read from
            insert into bids (auction_id, bid_id, amount) select bid_id, auction_id, 1 from bids
              → 0A000 INSERT ... SELECT into a sharded table is supported only where every row stays on the shard it is read from
            explain update bids set amount = 1
              → 0A000 EXPLAIN over several shards is not supported | No single shard holds all of the rows that it may touch.
        "#]],
    );
}
