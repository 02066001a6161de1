"""An auction application on psycopg 3: text and binary, prepared, pipelines, cursors, COPY."""

import sys
from decimal import Decimal

import psycopg
from psycopg.rows import dict_row

from checks import equal, run

SCHEMA = """
drop table if exists psycopg_bids;
drop table if exists psycopg_auctions;
drop table if exists psycopg_notes;
create table psycopg_auctions (
    auction_id bigint primary key, title text not null, price numeric(12, 2) not null default 0,
    tags text[], data jsonb, ends timestamptz
);
create table psycopg_bids (
    auction_id bigint not null references psycopg_auctions, bid_no int not null, bidder text not null,
    amount numeric(12, 2) not null, primary key (auction_id, bid_no)
);
create table psycopg_notes (id int primary key, note text);
"""


def connect(**options):
    return psycopg.connect("", autocommit=True, **options)


def check_00_schema():
    with connect() as conn:
        for statement in SCHEMA.split(";"):
            if statement.strip():
                conn.execute(statement)
        conn.execute("insert into psycopg_notes select n, 'note ' || n from generate_series(1, 500) n")


def check_insert_returning():
    with connect() as conn:
        for auction in range(1, 21):
            row = conn.execute(
                "insert into psycopg_auctions (auction_id, title, tags, data) values (%s, %s, %s, %s)"
                " returning auction_id, price",
                (auction, f"title {auction}", ["a", "b,c", None], psycopg.types.json.Jsonb({"n": auction})),
            ).fetchone()
            equal(row, (auction, Decimal("0.00")))


def check_point_reads_text_and_binary():
    with connect(row_factory=dict_row) as conn:
        for binary in (False, True):
            cursor = conn.cursor(binary=binary)
            for auction in (1, 7, 20):
                cursor.execute("select * from psycopg_auctions where auction_id = %s", (auction,))
                row = cursor.fetchone()
                equal(row["title"], f"title {auction}")
                equal(row["tags"], ["a", "b,c", None])
                equal(row["data"], {"n": auction})
            cursor.execute("select title from psycopg_auctions where auction_id = %b", (7,))
            equal(cursor.fetchall(), [{"title": "title 7"}])


def check_prepared():
    with connect() as conn:
        for round_number in range(10):
            row = conn.execute(
                "select title from psycopg_auctions where auction_id = %s", (round_number % 5 + 1,), prepare=True
            ).fetchone()
            equal(row, (f"title {round_number % 5 + 1}",))
        conn.execute("deallocate all")


def check_transaction():
    with connect() as conn:
        with conn.transaction():
            conn.execute("insert into psycopg_bids values (%s, %s, %s, %s)", (3, 1, "ann", Decimal("10.50")))
            conn.execute("update psycopg_auctions set price = %s where auction_id = %s", (Decimal("10.50"), 3))
        row = conn.execute("select price from psycopg_auctions where auction_id = 3").fetchone()
        equal(row, (Decimal("10.50"),))


def check_rollback():
    with connect() as conn:
        try:
            with conn.transaction():
                conn.execute("update psycopg_auctions set price = 99 where auction_id = 4")
                raise RuntimeError("roll back")
        except RuntimeError:
            pass
        equal(conn.execute("select price from psycopg_auctions where auction_id = 4").fetchone()[0], Decimal("0.00"))


def check_nested_transaction():
    with connect() as conn:
        with conn.transaction():
            conn.execute("insert into psycopg_bids values (5, 1, 'bob', 1)")
            try:
                with conn.transaction():
                    conn.execute("insert into psycopg_bids values (5, 1, 'bob', 2)")
            except psycopg.errors.UniqueViolation as error:
                equal(error.diag.constraint_name, "psycopg_bids_pkey")
            conn.execute("insert into psycopg_bids values (5, 2, 'bob', 2)")
        equal(len(conn.execute("select 1 from psycopg_bids where auction_id = 5").fetchall()), 2)


def check_errors():
    with connect() as conn:
        try:
            conn.execute("insert into psycopg_auctions (auction_id, title) values (1, 'again')")
            raise AssertionError("no error")
        except psycopg.errors.UniqueViolation as error:
            equal(error.sqlstate, "23505")
            equal(error.diag.table_name, "psycopg_auctions")
        try:
            conn.execute("insert into psycopg_bids values (987654, 1, 'x', 1)")
            raise AssertionError("no error")
        except psycopg.errors.ForeignKeyViolation:
            pass
        equal(conn.execute("select 1").fetchone(), (1,))


def check_executemany():
    with connect() as conn, conn.cursor() as cursor:
        cursor.executemany(
            "insert into psycopg_bids values (%s, %s, %s, %s) returning bid_no",
            [(6, number, "cid", number) for number in range(1, 101)],
            returning=True,
        )
        total = 0
        while True:
            total += len(cursor.fetchall())
            if not cursor.nextset():
                break
        equal(total, 100)
        rows = conn.execute("select bid_no from psycopg_bids where auction_id = 6 order by bid_no desc limit 3")
        equal(rows.fetchall(), [(100,), (99,), (98,)])


def check_pipeline():
    with connect() as conn, conn.pipeline():
        cursors = [
            conn.execute("select title from psycopg_auctions where auction_id = %s", (auction,))
            for auction in range(1, 21)
        ]
        equal([cursor.fetchone()[0] for cursor in cursors], [f"title {auction}" for auction in range(1, 21)])


def check_pipeline_error():
    with connect() as conn:
        try:
            with conn.pipeline():
                conn.execute("select 1")
                conn.execute("select 1/0")
                conn.execute("select 2")
        except psycopg.errors.DivisionByZero:
            pass
        equal(conn.execute("select 3").fetchone(), (3,))


def check_server_side_cursor():
    with connect() as conn, conn.transaction():
        with conn.cursor(name="on_notes") as cursor:
            cursor.itersize = 50
            cursor.execute("select id from psycopg_notes order by id")
            equal([row[0] for row in cursor], list(range(1, 501)))
        with conn.cursor(name="on_bids", scrollable=True) as cursor:
            cursor.execute("select bid_no from psycopg_bids where auction_id = 6 order by bid_no")
            equal(cursor.fetchmany(3), [(1,), (2,), (3,)])
            cursor.scroll(50, mode="absolute")
            equal(cursor.fetchone(), (51,))


def check_stream():
    with connect() as conn, conn.cursor() as cursor:
        equal(sum(1 for _ in cursor.stream("select id from psycopg_notes")), 500)


def check_copy_in_and_out():
    with connect() as conn, conn.cursor() as cursor:
        with cursor.copy("copy psycopg_auctions (auction_id, title) from stdin") as copy:
            for auction in range(1001, 1201):
                copy.write_row((auction, f"copied\t{auction}"))
        with cursor.copy("copy psycopg_bids from stdin (format binary)") as copy:
            copy.set_types(["int8", "int4", "text", "numeric"])
            for auction in range(1001, 1201):
                copy.write_row((auction, 1, "dora", Decimal("1.25")))
        for auction in (1001, 1100, 1200):
            row = conn.execute("select title from psycopg_auctions where auction_id = %s", (auction,)).fetchone()
            equal(row, (f"copied\t{auction}",))
        with cursor.copy("copy psycopg_auctions (auction_id) to stdout") as copy:
            out = {int(row[0]) for row in copy.rows()}
        equal(out, set(range(1, 21)) | set(range(1001, 1201)))
        with cursor.copy("copy (select * from psycopg_notes where id < 4 order by id) to stdout (format csv)") as copy:
            equal(b"".join(copy), b"1,note 1\n2,note 2\n3,note 3\n")


def check_copy_error():
    with connect() as conn:
        try:
            with conn.cursor().copy("copy psycopg_auctions (auction_id, title) from stdin") as copy:
                copy.write("5001\tgood\nbad\tbad\n")
            raise AssertionError("no error")
        except psycopg.errors.InvalidTextRepresentation:
            pass
        equal(conn.execute("select 1 from psycopg_auctions where auction_id = 5001").fetchall(), [])


def check_update_and_delete():
    with connect() as conn:
        equal(conn.execute("update psycopg_bids set amount = amount + 1 where auction_id = 6").rowcount, 100)
        equal(conn.execute("delete from psycopg_bids where auction_id = 6 and bid_no > 50").rowcount, 50)
        row = conn.execute("select count(*), sum(amount) from psycopg_bids where auction_id = 6").fetchone()
        equal(row, (50, Decimal("1325.00")))


def check_upsert():
    with connect() as conn:
        for _ in range(2):
            row = conn.execute(
                "insert into psycopg_auctions (auction_id, title, price) values (%s, 'up', 1)"
                " on conflict (auction_id) do update set price = psycopg_auctions.price + 1 returning price",
                (900,),
            ).fetchone()
        equal(row, (Decimal("2.00"),))


def check_join_on_key():
    with connect() as conn:
        rows = conn.execute(
            "select a.title, b.amount from psycopg_auctions a join psycopg_bids b using (auction_id)"
            " where a.auction_id = %s", (1005,)).fetchall()
        equal(rows, [("copied\t1005", Decimal("1.25"))])


def check_notify():
    with connect() as listener, connect() as sender:
        listener.execute("listen psycopg_channel")
        sender.execute("notify psycopg_channel, 'hello'")
        equal([note.payload for note in listener.notifies(timeout=10, stop_after=1)], ["hello"])


def check_session_settings():
    with connect(options="-c work_mem=9MB", application_name="psycopg checks") as conn:
        equal(conn.execute("show work_mem").fetchone(), ("9MB",))
        equal(conn.execute("show application_name").fetchone(), ("psycopg checks",))
        conn.execute("set timezone = 'Asia/Tokyo'")
        equal(conn.info.parameter_status("TimeZone"), "Asia/Tokyo")


def check_two_phase():
    with psycopg.connect("") as conn:
        xid = conn.xid(1, "psycopg", "checks")
        conn.tpc_begin(xid)
        conn.execute("insert into psycopg_notes values (9001, 'two-phase')")
        try:
            conn.tpc_prepare()
        except psycopg.errors.FeatureNotSupported:
            conn.close()
            return  # several shards: the transaction manager of the cluster is the proxy
        conn.tpc_commit()
        equal(conn.execute("select note from psycopg_notes where id = 9001").fetchone(), ("two-phase",))


async def check_async():
    async with await psycopg.AsyncConnection.connect("", autocommit=True) as conn:
        cursor = await conn.execute("select title from psycopg_auctions where auction_id = %s", (2,))
        equal(await cursor.fetchone(), ("title 2",))


def check_cancel():
    import threading

    with connect() as conn:
        timer = threading.Timer(0.5, conn.cancel)
        timer.start()
        try:
            conn.execute("select pg_sleep(30)")
            raise AssertionError("not cancelled")
        except psycopg.errors.QueryCanceled:
            pass
        equal(conn.execute("select 1").fetchone(), (1,))


if __name__ == "__main__":
    run(sys.modules["__main__"])
