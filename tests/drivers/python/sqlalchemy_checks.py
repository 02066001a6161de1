"""An auction application on SQLAlchemy 2: reflection, ORM, Core, both of psycopg and asyncpg."""

import sys
from decimal import Decimal

from sqlalchemy import BigInteger, ForeignKey, Numeric, String, create_engine, inspect, select, text, update
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, insert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship

from checks import DATABASE, HOST, PASSWORD, PORT, USER, equal, run

URL = f"{USER}:{PASSWORD}@{HOST}:{PORT}/{DATABASE}"
ENGINE = create_engine(f"postgresql+psycopg://{URL}")


class Base(DeclarativeBase):
    """Tables of this script."""


class Auction(Base):
    """What is sold."""

    __tablename__ = "sqlalchemy_auctions"
    auction_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    title: Mapped[str] = mapped_column(String(200))
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2), default=Decimal("0"))
    tags: Mapped[list] = mapped_column(ARRAY(String), default=list)
    data: Mapped[dict] = mapped_column(JSONB, default=dict)
    bids: Mapped[list["Bid"]] = relationship(back_populates="auction", order_by="Bid.bid_no")


class Bid(Base):
    """What is offered for it."""

    __tablename__ = "sqlalchemy_bids"
    auction_id: Mapped[int] = mapped_column(ForeignKey("sqlalchemy_auctions.auction_id"), primary_key=True)
    bid_no: Mapped[int] = mapped_column(primary_key=True, autoincrement=False)
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    auction: Mapped[Auction] = relationship(back_populates="bids")


class Note(Base):
    """A table of the home shard."""

    __tablename__ = "sqlalchemy_notes"
    id: Mapped[int] = mapped_column(primary_key=True)
    note: Mapped[str]


def check_00_schema():
    Base.metadata.drop_all(ENGINE)
    Base.metadata.create_all(ENGINE)


def check_generated_key():
    with Session(ENGINE) as session:
        notes = [Note(note=f"note {number}") for number in range(10)]
        session.add_all(notes)
        session.commit()
        equal(len({note.id for note in notes}), 10)
        equal(session.scalar(select(Note.note).where(Note.id == notes[3].id)), "note 3")
        auction = Auction(title="drawn")
        session.add(auction)
        session.commit()
        found = session.get(Auction, auction.auction_id, populate_existing=True)
        equal(found.title, "drawn")


def check_unit_of_work():
    for number in range(10_001, 10_011):
        with Session(ENGINE) as session:
            session.add(Auction(auction_id=number, title=f"title {number}", tags=["a"], data={"n": number}))
            session.flush()
            session.add_all([Bid(auction_id=number, bid_no=bid, amount=Decimal(bid)) for bid in (1, 2, 3)])
            session.commit()
    with Session(ENGINE) as session:
        auction = session.get(Auction, 10_005)
        equal((auction.title, auction.tags, auction.data), ("title 10005", ["a"], {"n": 10_005}))
        equal([bid.amount for bid in auction.bids], [Decimal("1.00"), Decimal("2.00"), Decimal("3.00")])
        auction.price = Decimal("3.00")
        session.commit()
        session.delete(auction.bids[2])
        session.commit()
        equal(len(session.get(Auction, 10_005).bids), 2)


def check_core():
    with ENGINE.begin() as conn:
        statement = insert(Auction).values(auction_id=10_100, title="core", price=1, tags=[], data={})
        statement = statement.on_conflict_do_update(index_elements=["auction_id"], set_={"price": 2})
        conn.execute(statement)
        conn.execute(statement)
        result = conn.execute(update(Auction).where(Auction.auction_id == 10_100).values(title="new").returning(Auction.price))
        equal(result.scalar_one(), Decimal("2.00"))


def check_integrity_error():
    with Session(ENGINE) as session:
        session.add(Bid(auction_id=10_001, bid_no=1, amount=1))
        try:
            session.commit()
            raise AssertionError("no error")
        except IntegrityError:
            session.rollback()
        equal(session.scalar(text("select 1")), 1)


def check_savepoint():
    with Session(ENGINE) as session:
        session.add(Auction(auction_id=10_200, title="outer"))
        session.flush()
        try:
            with session.begin_nested():
                session.add(Bid(auction_id=10_200, bid_no=1, amount=1))
                session.flush()
                raise RuntimeError("undo")
        except RuntimeError:
            pass
        session.commit()
    with Session(ENGINE) as session:
        equal(session.get(Auction, 10_200).bids, [])


def check_reflection():
    inspector = inspect(ENGINE)
    equal({"sqlalchemy_auctions", "sqlalchemy_bids", "sqlalchemy_notes"} <= set(inspector.get_table_names()), True)
    equal([column["name"] for column in inspector.get_columns("sqlalchemy_bids")], ["auction_id", "bid_no", "amount"])
    equal(inspector.get_pk_constraint("sqlalchemy_bids")["constrained_columns"], ["auction_id", "bid_no"])
    equal(inspector.get_foreign_keys("sqlalchemy_bids")[0]["referred_table"], "sqlalchemy_auctions")


def check_stream_results():
    with ENGINE.connect() as conn:
        rows = conn.execution_options(stream_results=True, max_row_buffer=3).execute(
            text("select n from generate_series(1, 50) n order by n")
        )
        equal([row[0] for row in rows], list(range(1, 51)))


def check_isolation_level():
    with ENGINE.connect().execution_options(isolation_level="REPEATABLE READ") as conn:
        equal(conn.scalar(text("show transaction_isolation")), "repeatable read")
        equal(conn.scalar(select(Auction.title).where(Auction.auction_id == 10_001)), "title 10001")


async def check_asyncpg():
    engine = create_async_engine(f"postgresql+asyncpg://{URL}")
    async with engine.begin() as conn:
        equal((await conn.execute(select(Auction.title).where(Auction.auction_id == 10_002))).scalar(), "title 10002")
    await engine.dispose()


if __name__ == "__main__":
    run(sys.modules["__main__"])
