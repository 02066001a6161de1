// An auction house on node's pg, with the statements that Rails and query builders write: prepared by name, `$1`, `LIMIT $2`,
// RETURNING "id"; to be recorded.
'use strict';

const net = require('net');
const { Pool, types } = require('pg');
const Cursor = require('pg-cursor');
const { from: copyFrom, to: copyTo } = require('pg-copy-streams');
const { pipeline } = require('stream/promises');
const { Readable, Writable } = require('stream');

types.setTypeParser(20, Number);
const pool = new Pool({ max: 2 });
let clock = Date.UTC(2031, 2, 1, 12);

/** A minute later with each look: a recording does not depend on when it is made. */
const now = () => new Date((clock += 60000));

const scene = (name) => new Promise((resolve, reject) => {
  const socket = net.connect(process.env.PGPORT, process.env.PGHOST, () => socket.write(`MARK ${name}\n`));
  socket.on('data', () => socket.end());
  socket.on('close', resolve).on('error', reject);
});

const named = async (client, name, text, values) => (await client.query({ name, text, values })).rows;

async function transaction(work) {
  const client = await pool.connect();
  try {
    await client.query('BEGIN');
    const result = await work(client);
    await client.query('COMMIT');
    return result;
  } catch (error) {
    await client.query('ROLLBACK');
    if (error.message !== 'undo' && !error.code) throw error;
    return null;
  } finally {
    client.release();
  }
}

async function schema() {
  await scene('schema');
  await pool.query(`
    CREATE TABLE "node_accounts" ("id" bigserial primary key, "email" character varying NOT NULL, "name" character varying);
    CREATE TABLE "node_categories" ("id" serial primary key, "slug" character varying UNIQUE);
    CREATE TABLE "node_auctions" ("id" bigserial primary key, "seller_id" bigint NOT NULL,
      "category_id" integer NOT NULL REFERENCES "node_categories" ("id"), "title" character varying, "price" numeric(12,2),
      "data" jsonb, "open" boolean DEFAULT TRUE, "ends_at" timestamp(6) NOT NULL, "created_at" timestamptz DEFAULT now());
    CREATE TABLE "node_bids" ("id" bigserial primary key, "auction_id" bigint NOT NULL REFERENCES "node_auctions" ("id"),
      "account_id" bigint NOT NULL, "amount" numeric(12,2), "placed_at" timestamptz DEFAULT CURRENT_TIMESTAMP);
    CREATE TABLE "node_watchers" ("auction_id" bigint NOT NULL REFERENCES "node_auctions" ("id"), "account_id" bigint,
      "seen" integer DEFAULT 0, PRIMARY KEY ("auction_id", "account_id"))`);
  await pool.query('CREATE INDEX "node_auctions_title" ON "node_auctions" USING btree (lower("title"))');
  for (const [number, table] of ['accounts', 'categories', 'auctions', 'bids'].entries()) {
    await pool.query(`SELECT setval('node_${table}_id_seq', ${number + 1}0000000)`);
  }
}

async function people() {
  await scene('sign up');
  const ids = [];
  for (const name of ['ann', 'bob', 'cid', 'dora', 'eve']) {
    const rows = await named(pool, 'account', 'INSERT INTO "node_accounts" ("email", "name") VALUES ($1, $2) RETURNING "id"',
      [`${name}@example.com`, name]);
    ids.push(rows[0].id);
  }
  await named(pool, 'by email', 'SELECT "node_accounts".* FROM "node_accounts" WHERE "node_accounts"."email" = $1 LIMIT $2', ['bob@example.com', 1]);
  await pool.query('UPDATE "node_accounts" SET "name" = $1 WHERE "node_accounts"."id" = $2', ['Bob B.', ids[1]]);
  await scene('categories');
  const slugs = ['clocks', 'lamps', 'prints'];
  const categories = (await pool.query(
    'INSERT INTO "node_categories" ("slug") VALUES ($1), ($2), ($3) RETURNING "id"', slugs)).rows.map((row) => row.id);
  await pool.query('INSERT INTO "node_categories" ("slug") SELECT unnest($1::text[]) ON CONFLICT ("slug") DO NOTHING', [['clocks', 'vases']]);
  return { accounts: ids, categories };
}

async function auctions({ accounts, categories }) {
  await scene('list auctions');
  const insert = 'INSERT INTO "node_auctions" ("seller_id", "category_id", "title", "price", "data", "ends_at") '
    + 'VALUES ($1, $2, $3, $4, $5, $6) RETURNING "id"';
  const ids = [];
  for (let number = 0; number < 12; number += 1) {
    const rows = await named(pool, 'auction', insert, [accounts[number % 5], categories[number % 3], `Lot ${number} "Ünïcode" 100%`,
      5 + number, { year: 1900 + number }, now()]);
    ids.push(rows[0].id);
  }
  const many = await pool.query('INSERT INTO "node_auctions" ("seller_id", "category_id", "title", "price", "ends_at") VALUES '
    + Array.from({ length: 10 }, (_, n) => `($${5 * n + 1}, $${5 * n + 2}, $${5 * n + 3}, $${5 * n + 4}, $${5 * n + 5})`).join(', ')
    + ' RETURNING "id", "title"',
  Array.from({ length: 10 }, (_, n) => [accounts[n % 5], categories[0], `Bulk ${n}`, n, now()]).flat());
  if (many.rows.some((row, n) => row.title !== `Bulk ${n}`)) throw new Error('order');
  await scene('copy');
  const client = await pool.connect();
  const lines = ids.slice(0, 8).flatMap((id, n) => accounts.map((account) => `${id}\t${account}\t${n}\n`));
  await pipeline(Readable.from(lines), client.query(copyFrom('COPY "node_watchers" ("auction_id", "account_id", "seen") FROM STDIN')));
  await pipeline(client.query(copyTo('COPY (SELECT "title", "price" FROM "node_auctions" ORDER BY "title") TO STDOUT WITH (FORMAT csv, HEADER)')),
    new Writable({ write: (_chunk, _encoding, done) => done() }));
  client.release();
  return ids;
}

async function search(ids, { accounts, categories }) {
  await scene('search');
  const page = 'SELECT "node_auctions".* FROM "node_auctions" WHERE "node_auctions"."open" = $1 ORDER BY "node_auctions"."title" ASC LIMIT $2 OFFSET $3';
  for (let number = 0; number < 4; number += 1) await named(pool, 'page', page, [true, 6, 6 * number]);
  await named(pool, 'one', 'SELECT "node_auctions".* FROM "node_auctions" WHERE "node_auctions"."id" = $1 LIMIT $2', [ids[0], 1]);
  await named(pool, 'some', 'SELECT "id", "title" FROM "node_auctions" WHERE "id" = ANY ($1) ORDER BY "title"', [ids.slice(0, 5)]);
  await pool.query('SELECT "title" FROM "node_auctions" WHERE "id" IN ($1, $2, $3) ORDER BY "title"', ids.slice(3, 6));
  await pool.query('SELECT count(*) FROM "node_auctions" WHERE lower("title") LIKE $1', ['lot%']);
  await pool.query('SELECT "title" FROM "node_auctions" WHERE "data" ->> $1 >= $2 ORDER BY "price" DESC, "title"', ['year', '1905']);
  await pool.query('SELECT a."title", c."slug", s."name" FROM "node_auctions" a INNER JOIN "node_categories" c ON c."id" = a."category_id" '
    + 'LEFT OUTER JOIN "node_accounts" s ON s."id" = a."seller_id" WHERE c."id" = $1 AND s."id" = $2 ORDER BY a."title" LIMIT $3',
  [categories[0], accounts[0], 5]);
  await pool.query('SELECT 1 AS one FROM "node_auctions" WHERE "title" = $1 LIMIT $2', ['none', 1]);
  const client = await pool.connect();
  const cursor = client.query(new Cursor('SELECT "title" FROM "node_auctions" WHERE "price" > $1 ORDER BY "title"', [2]));
  while ((await cursor.read(6)).length > 0);
  await cursor.close();
  client.release();
}

async function bids(ids, { accounts }) {
  await scene('place bids');
  for (let number = 0; number < 18; number += 1) {
    await transaction(async (client) => {
      const [auction] = await named(client, 'lock', 'SELECT "node_auctions".* FROM "node_auctions" WHERE "node_auctions"."id" = $1 LIMIT $2 FOR UPDATE',
        [ids[number * 5 % 12], 1]);
      const [{ best }] = await named(client, 'best', 'SELECT MAX("node_bids"."amount") AS best FROM "node_bids" WHERE "node_bids"."auction_id" = $1', [auction.id]);
      const amount = Number(best || auction.price) + 1 + number % 3;
      await named(client, 'bid', 'INSERT INTO "node_bids" ("auction_id", "account_id", "amount") VALUES ($1, $2, $3) RETURNING "id"',
        [auction.id, accounts[number % 5], amount]);
      await client.query('UPDATE "node_auctions" SET "price" = $1 WHERE "node_auctions"."id" = $2', [amount, auction.id]);
    });
  }
  await scene('a bid in vain');
  await transaction(async (client) => {
    await client.query('SAVEPOINT active_record_1');
    await client.query('INSERT INTO "node_bids" ("auction_id", "account_id", "amount") VALUES ($1, $2, $3)', [ids[0], accounts[0], 1]);
    await client.query('ROLLBACK TO SAVEPOINT active_record_1');
    await client.query('INSERT INTO "node_watchers" ("auction_id", "account_id") VALUES ($1, $2)', [ids[0], accounts[0]]);
  });
  await transaction(async (client) => {
    for (const id of ids.slice(1, 4)) {
      await client.query('INSERT INTO "node_bids" ("auction_id", "account_id", "amount") VALUES ($1, $2, $3)', [id, accounts[1], 90]);
    }
    throw new Error('undo');
  });
  await pool.query('INSERT INTO "node_watchers" ("auction_id", "account_id", "seen") SELECT u.a, $2, 1 FROM unnest($1::bigint[]) AS u(a) '
    + 'ON CONFLICT ("auction_id", "account_id") DO UPDATE SET "seen" = "node_watchers"."seen" + 1', [ids, accounts[0]]);
  await pool.query('INSERT INTO "node_watchers" ("auction_id", "account_id") VALUES ($1, $3), ($2, $3) ON CONFLICT DO NOTHING RETURNING "auction_id"',
    [ids[9], ids[10], accounts[4]]);
}

async function reports(ids, { accounts }) {
  await scene('reports');
  for (const text of [
    'SELECT count(*), sum("amount"), avg("amount"), max("placed_at") IS NOT NULL AS placed FROM "node_bids"',
    'SELECT a."title", count(b."id") AS n, max(b."amount") AS best FROM "node_auctions" a LEFT JOIN "node_bids" b ON b."auction_id" = a."id" '
      + 'GROUP BY a."id", a."title" HAVING count(b."id") > 1 ORDER BY n DESC, a."title"',
    'SELECT c."slug", count(*), sum(a."price") FROM "node_categories" c JOIN "node_auctions" a ON a."category_id" = c."id" GROUP BY 1 ORDER BY 1',
    'SELECT s."name", sum(b."amount") AS spent FROM "node_bids" b JOIN "node_accounts" s ON s."id" = b."account_id" GROUP BY s."id", s."name" ORDER BY spent DESC, s."name"',
    'SELECT "title", dense_rank() OVER (ORDER BY "price" DESC) AS place FROM "node_auctions" ORDER BY place, "title" LIMIT 7',
    'WITH best AS (SELECT DISTINCT ON ("auction_id") "auction_id", "account_id", "amount" FROM "node_bids" ORDER BY "auction_id", "amount" DESC) '
      + 'SELECT a."title", best."amount" FROM best JOIN "node_auctions" a ON a."id" = best."auction_id" ORDER BY 2 DESC, 1',
    'SELECT json_agg(json_build_object(\'title\', a."title", \'bids\', (SELECT count(*) FROM "node_bids" b WHERE b."auction_id" = a."id")) '
      + 'ORDER BY a."title") FROM "node_auctions" a WHERE a."price" > 12',
    'SELECT "title" FROM "node_auctions" WHERE "id" NOT IN (SELECT "auction_id" FROM "node_bids") ORDER BY 1',
    'SELECT \'auctions\' AS what, count(*) FROM "node_auctions" UNION ALL SELECT \'bids\', count(*) FROM "node_bids" ORDER BY 1',
  ]) {
    await pool.query(text);
  }
  await pool.query('SELECT array_agg("account_id" ORDER BY "account_id") AS who FROM "node_watchers" WHERE "auction_id" = $1', [ids[0]]);
  await pool.query('SELECT "title" FROM "node_auctions" a WHERE EXISTS (SELECT 1 FROM "node_watchers" w WHERE w."auction_id" = a."id" AND w."account_id" = $1) '
    + 'ORDER BY "title"', [accounts[2]]);

  await scene('delete');
  await pool.query('DELETE FROM "node_watchers" WHERE "node_watchers"."auction_id" = $1', [ids[2]]);
  await pool.query('DELETE FROM "node_watchers" WHERE "seen" > $1 RETURNING "seen"', [5]);
  await pool.query('DELETE FROM "node_bids" USING "node_auctions" WHERE "node_auctions"."id" = "node_bids"."auction_id" AND "node_auctions"."title" LIKE $1', ['Lot 1%']);
  await pool.query('DELETE FROM "node_auctions" WHERE "id" = $1', [ids[0]]).catch(() => {});
  await pool.query('UPDATE "node_auctions" SET "open" = FALSE FROM "node_categories" c WHERE c."id" = "category_id" AND c."slug" = $1', ['lamps']);
  await pool.query('UPDATE "node_auctions" SET "open" = FALSE WHERE "ends_at" < $1 RETURNING "title"', [new Date(Date.UTC(2031, 2, 1, 12, 8))]);
  await pool.query('SELECT "open", count(*) FROM "node_auctions" GROUP BY "open" ORDER BY "open"');
}

async function main() {
  await schema();
  const house = await people();
  const ids = await auctions(house);
  await search(ids, house);
  await bids(ids, house);
  await reports(ids, house);
  await pool.end();
}

main().catch((error) => {
  console.error(error);
  process.exit(1);
});
