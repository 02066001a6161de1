// An auction application on node-postgres: simple and parametrised queries, named statements, cursors, COPY, pools.
'use strict';

const { Client, Pool } = require('pg');
const Cursor = require('pg-cursor');
const QueryStream = require('pg-query-stream');
const copy = require('pg-copy-streams');
const { pipeline } = require('node:stream/promises');
const { Readable } = require('node:stream');
const assert = require('node:assert/strict');

async function withClient(work) {
  const client = new Client();
  await client.connect();
  try {
    return await work(client);
  } finally {
    await client.end();
  }
}

const checks = {
  schema: () => withClient(async (client) => {
    for (const sql of [
      'drop table if exists node_bids',
      'drop table if exists node_auctions',
      'drop table if exists node_notes',
      'create table node_auctions (auction_id bigint primary key, title text not null, price numeric(12, 2) default 0, data jsonb)',
      'create table node_bids (auction_id bigint references node_auctions, bid_no int, amount numeric(12, 2), primary key (auction_id, bid_no))',
      'create table node_notes (id int primary key, note text)',
      "insert into node_notes select n, 'note ' || n from generate_series(1, 200) n",
    ]) await client.query(sql);
  }),

  insertReturning: () => withClient(async (client) => {
    for (let auction = 1; auction <= 20; auction += 1) {
      const result = await client.query(
        'insert into node_auctions (auction_id, title, data) values ($1, $2, $3) returning *',
        [auction, `title ${auction}`, { n: auction }]);
      assert.deepEqual(result.rows, [{ auction_id: String(auction), title: `title ${auction}`, price: '0.00', data: { n: auction } }]);
    }
  }),

  pointReads: () => withClient(async (client) => {
    for (const auction of [1, 9, 20]) {
      const result = await client.query('select title from node_auctions where auction_id = $1', [auction]);
      assert.equal(result.rows[0].title, `title ${auction}`);
      const simple = await client.query(`select title from node_auctions where auction_id = ${auction}`);
      assert.equal(simple.rows[0].title, `title ${auction}`);
    }
  }),

  binary: () => withClient(async (client) => {
    const result = await client.query({ text: 'select $1::int4 as n, $2::text as t', values: [7, 'x'], binary: true });
    assert.deepEqual(result.rows, [{ n: 7, t: 'x' }]);
  }),

  named: () => withClient(async (client) => {
    for (let round = 0; round < 30; round += 1) {
      const auction = (round % 20) + 1;
      const result = await client.query({ name: 'title', text: 'select title from node_auctions where auction_id = $1', values: [auction] });
      assert.equal(result.rows[0].title, `title ${auction}`);
    }
  }),

  transaction: () => withClient(async (client) => {
    await client.query('begin');
    await client.query('insert into node_bids values ($1, $2, $3)', [3, 1, '12.50']);
    await client.query('update node_auctions set price = $2 where auction_id = $1', [3, '12.50']);
    await client.query('commit');
    await client.query('begin');
    await client.query('delete from node_bids where auction_id = 3');
    await client.query('rollback');
    const result = await client.query('select count(*)::int as n from node_bids where auction_id = 3');
    assert.equal(result.rows[0].n, 1);
  }),

  errors: () => withClient(async (client) => {
    await assert.rejects(client.query("insert into node_auctions values (1, 'again')"), { code: '23505' });
    await assert.rejects(client.query('insert into node_bids values ($1, 1, 1)', [777]), { code: '23503' });
    await assert.rejects(client.query('selec'), { code: '42601' });
    assert.equal((await client.query('select 1 as one')).rows[0].one, 1);
  }),

  manyAtOnce: () => withClient(async (client) => {
    const titles = await Promise.all(Array.from({ length: 100 }, (_, n) =>
      client.query('select title from node_auctions where auction_id = $1', [(n % 20) + 1])));
    titles.forEach((result, n) => assert.equal(result.rows[0].title, `title ${(n % 20) + 1}`));
  }),

  severalStatements: () => withClient(async (client) => {
    const results = await client.query('select 1 as a; select 2 as b');
    assert.deepEqual(results.map((result) => result.rows[0]), [{ a: 1 }, { b: 2 }]);
  }),

  cursor: () => withClient(async (client) => {
    const cursor = client.query(new Cursor('select id from node_notes order by id'));
    assert.equal((await cursor.read(30)).length, 30);
    assert.equal((await cursor.read(30))[0].id, 31);
    await cursor.close();
    assert.equal((await client.query('select 2 as two')).rows[0].two, 2);
  }),

  stream: () => withClient(async (client) => {
    let seen = 0;
    for await (const row of client.query(new QueryStream('select id from node_notes order by id', [], { batchSize: 17 }))) {
      seen += 1;
      assert.equal(row.id, seen);
    }
    assert.equal(seen, 200);
  }),

  copy: () => withClient(async (client) => {
    const lines = Array.from({ length: 100 }, (_, n) => `${1001 + n}\tcopied ${1001 + n}\n`);
    await pipeline(Readable.from(lines), client.query(copy.from('copy node_auctions (auction_id, title) from stdin')));
    assert.equal((await client.query('select title from node_auctions where auction_id = 1050')).rows[0].title, 'copied 1050');
    let text = '';
    for await (const chunk of client.query(copy.to('copy node_auctions (auction_id) to stdout'))) text += chunk;
    assert.equal(text.trim().split('\n').length, 120);
  }),

  notify: async () => withClient((listener) => withClient(async (sender) => {
    await listener.query('listen node_channel');
    const heard = new Promise((resolve) => listener.once('notification', resolve));
    await sender.query("notify node_channel, 'hello'");
    assert.equal((await heard).payload, 'hello');
  })),

  pool: async () => {
    const pool = new Pool({ max: 10 });
    const results = await Promise.all(Array.from({ length: 200 }, (_, n) =>
      pool.query('select title from node_auctions where auction_id = $1', [(n % 20) + 1])));
    results.forEach((result, n) => assert.equal(result.rows[0].title, `title ${(n % 20) + 1}`));
    await pool.end();
  },
};

async function main() {
  let passed = 0;
  let failed = 0;
  for (const [name, check] of Object.entries(checks)) {
    try {
      await check();
      passed += 1;
    } catch (error) {
      failed += 1;
      console.error(`FAILED ${name}`, error);
    }
  }
  console.log(`${passed} passed, ${failed} failed`);
  process.exit(failed ? 1 : 0);
}

main();
