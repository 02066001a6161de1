"""An auction application on asyncpg: binary protocol, prepared statements, cursors, COPY, pools."""

import asyncio
import sys
from decimal import Decimal

import asyncpg

from checks import equal, run


async def connect(**options):
    return await asyncpg.connect(**options)


async def check_00_schema():
    conn = await connect()
    await conn.execute("drop table if exists asyncpg_bids")
    await conn.execute("drop table if exists asyncpg_auctions")
    await conn.execute("drop table if exists asyncpg_notes")
    await conn.execute(
        "create table asyncpg_auctions (auction_id bigint primary key, title text not null,"
        " price numeric(12, 2) not null default 0, tags text[])"
    )
    await conn.execute(
        "create table asyncpg_bids (auction_id bigint references asyncpg_auctions, bid_no int, amount numeric(12, 2),"
        " primary key (auction_id, bid_no))"
    )
    await conn.execute("create table asyncpg_notes (id int primary key, note text)")
    await conn.executemany("insert into asyncpg_notes values ($1, $2)", [(n, f"note {n}") for n in range(1, 101)])
    await conn.close()


async def check_insert_and_read():
    conn = await connect()
    for auction in range(1, 21):
        row = await conn.fetchrow(
            "insert into asyncpg_auctions (auction_id, title, tags) values ($1, $2, $3) returning auction_id, price",
            auction, f"title {auction}", ["x", None],
        )
        equal(tuple(row), (auction, Decimal("0.00")))
    for auction in (20, 3, 11):
        row = await conn.fetchrow("select title, tags from asyncpg_auctions where auction_id = $1", auction)
        equal(tuple(row), (f"title {auction}", ["x", None]))
    equal(await conn.fetchval("select title from asyncpg_auctions where auction_id = $1", 999), None)
    await conn.close()


async def check_prepared():
    conn = await connect()
    statement = await conn.prepare("select title from asyncpg_auctions where auction_id = $1")
    equal([attribute.name for attribute in statement.get_attributes()], ["title"])
    equal([parameter.name for parameter in statement.get_parameters()], ["int8"])
    for auction in range(1, 21):
        equal(await statement.fetchval(auction), f"title {auction}")
    await conn.close()


async def check_transactions():
    conn = await connect()
    async with conn.transaction():
        await conn.execute("insert into asyncpg_bids values ($1, $2, $3)", 2, 1, Decimal("5.00"))
        await conn.execute("update asyncpg_auctions set price = $2 where auction_id = $1", 2, Decimal("5.00"))
        try:
            async with conn.transaction():
                await conn.execute("insert into asyncpg_bids values (2, 1, 1)")
        except asyncpg.UniqueViolationError as error:
            equal(error.constraint_name, "asyncpg_bids_pkey")
    equal(await conn.fetchval("select price from asyncpg_auctions where auction_id = 2"), Decimal("5.00"))
    transaction = conn.transaction(isolation="serializable", readonly=True)
    await transaction.start()
    equal(await conn.fetchval("select title from asyncpg_auctions where auction_id = 2"), "title 2")
    await transaction.rollback()
    await conn.close()


async def check_executemany():
    conn = await connect()
    await conn.executemany("insert into asyncpg_bids values ($1, $2, $3)",
                           [(4, number, Decimal(number)) for number in range(1, 301)])
    equal(await conn.fetchval("select count(*) from asyncpg_bids where auction_id = $1", 4), 300)
    equal(await conn.execute("delete from asyncpg_bids where auction_id = $1 and bid_no > 100", 4), "DELETE 200")
    await conn.close()


async def check_cursor():
    conn = await connect()
    async with conn.transaction():
        seen = [row["id"] async for row in conn.cursor("select id from asyncpg_notes order by id", prefetch=7)]
        equal(seen, list(range(1, 101)))
        cursor = await conn.cursor("select bid_no from asyncpg_bids where auction_id = $1 order by bid_no", 4)
        equal([row[0] for row in await cursor.fetch(5)], [1, 2, 3, 4, 5])
        await cursor.forward(10)
        equal((await cursor.fetchrow())[0], 16)
    await conn.close()


async def check_copy():
    conn = await connect()
    records = [(auction, f"copied {auction}", Decimal("1.50"), None) for auction in range(2001, 2101)]
    equal(await conn.copy_records_to_table("asyncpg_auctions", records=records), "COPY 100")
    equal(await conn.fetchval("select title from asyncpg_auctions where auction_id = 2050"), "copied 2050")
    import io

    out = io.BytesIO()
    await conn.copy_from_table("asyncpg_auctions", columns=["auction_id"], output=out)
    equal(len(out.getvalue().splitlines()), 120)
    await conn.close()


async def check_errors():
    conn = await connect()
    for sql, kind in [("select 1/0", asyncpg.DivisionByZeroError), ("selec", asyncpg.PostgresSyntaxError),
                      ("select * from no_such_table", asyncpg.UndefinedTableError)]:
        try:
            await conn.fetch(sql)
            raise AssertionError("no error")
        except kind:
            pass
        equal(await conn.fetchval("select 1"), 1)
    await conn.close()


async def check_custom_type():
    conn = await connect()
    await conn.execute("drop type if exists asyncpg_mood")
    await conn.execute("create type asyncpg_mood as enum ('sad', 'happy')")
    equal(await conn.fetchval("select $1::asyncpg_mood", "happy"), "happy")
    await conn.execute("drop type asyncpg_mood")
    await conn.close()


async def check_pool():
    async with asyncpg.create_pool(min_size=2, max_size=10) as pool:
        async def read(auction):
            async with pool.acquire() as conn:
                return await conn.fetchval("select title from asyncpg_auctions where auction_id = $1", auction)

        titles = await asyncio.gather(*(read(number % 20 + 1) for number in range(200)))
        equal(titles, [f"title {number % 20 + 1}" for number in range(200)])


async def check_listen():
    listener, sender = await connect(), await connect()
    heard = asyncio.get_running_loop().create_future()
    await listener.add_listener("asyncpg_channel", lambda *note: heard.done() or heard.set_result(note[3]))
    await sender.execute("select pg_notify('asyncpg_channel', 'hello')")
    equal(await asyncio.wait_for(heard, 10), "hello")
    await listener.close()
    await sender.close()


async def check_timeout_cancels():
    conn = await connect()
    try:
        await conn.execute("select pg_sleep(30)", timeout=0.5)
        raise AssertionError("no time-out")
    except asyncio.TimeoutError:
        pass
    equal(await conn.fetchval("select 7"), 7)
    await conn.close()


if __name__ == "__main__":
    run(sys.modules["__main__"])
