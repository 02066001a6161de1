"""An auction house on SQLAlchemy's ORM and Core, to be recorded: `sqlalchemy_auctions.py DRIVER PREFIX`, with psycopg or psycopg2."""

import datetime
import enum
import sys
import uuid
from decimal import Decimal

from sqlalchemy import (BigInteger, CheckConstraint, Enum, ForeignKey, Index, Numeric, String, Text, UniqueConstraint, Uuid,
                        and_, any_, bindparam, case, create_engine, delete, exists, func, insert, inspect, literal, or_, select, text, union,
                        update)
from sqlalchemy.dialects.postgresql import ARRAY, JSONB, TIMESTAMP, distinct_on
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.exc import IntegrityError
from sqlalchemy.orm import (DeclarativeBase, Mapped, Session, aliased, contains_eager, joinedload, mapped_column,
                            relationship, selectinload, subqueryload, undefer)

from scenes import DATABASE, HOST, PASSWORD, PORT, USER, now, numbered, scene

DRIVER, PREFIX = sys.argv[1:]
ENGINE = create_engine(f"postgresql+{DRIVER}://{USER}:{PASSWORD}@{HOST}:{PORT}/{DATABASE}")
STAMP = TIMESTAMP(timezone=True)


class State(enum.Enum):
    """Of an auction."""

    open = "open"
    sold = "sold"
    closed = "closed"


class Base(DeclarativeBase):
    """Tables of this house."""


class Account(Base):
    """Who sells and bids."""

    __tablename__ = f"{PREFIX}_account"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    email: Mapped[str] = mapped_column(String(200), index=True)
    name: Mapped[str] = mapped_column(String(80))
    balance: Mapped[Decimal] = mapped_column(Numeric(12, 2), default=Decimal("0"))
    token: Mapped[uuid.UUID] = mapped_column(Uuid, default=lambda: uuid.uuid5(uuid.NAMESPACE_DNS, str(now())))


class Category(Base):
    """A tree of few."""

    __tablename__ = f"{PREFIX}_category"
    id: Mapped[int] = mapped_column(primary_key=True)
    slug: Mapped[str] = mapped_column(String(50), unique=True)
    name: Mapped[str] = mapped_column(String(80))
    parent_id: Mapped[int | None] = mapped_column(ForeignKey(f"{PREFIX}_category.id"))
    parent: Mapped["Category | None"] = relationship(remote_side=[id], back_populates="children")
    children: Mapped[list["Category"]] = relationship(back_populates="parent", order_by="Category.slug")


class Auction(Base):
    """What is sold."""

    __tablename__ = f"{PREFIX}_auction"
    __table_args__ = (CheckConstraint("price >= 0", name=f"{PREFIX}_price"), Index(f"{PREFIX}_ends", "state", "ends"))
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    seller_id: Mapped[int] = mapped_column(BigInteger, index=True)
    category_id: Mapped[int] = mapped_column(ForeignKey(f"{PREFIX}_category.id"))
    title: Mapped[str] = mapped_column(String(200))
    description: Mapped[str] = mapped_column(Text, default="", deferred=True)
    price: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    state: Mapped[State] = mapped_column(Enum(State, name=f"{PREFIX}_state"), default=State.open)
    tags: Mapped[list[str]] = mapped_column(ARRAY(String(20)), default=list)
    attributes: Mapped[dict] = mapped_column(JSONB, default=dict)
    ends: Mapped[datetime.datetime] = mapped_column(STAMP)
    created: Mapped[datetime.datetime] = mapped_column(STAMP, server_default=func.now())
    version: Mapped[int] = mapped_column(default=1)
    category: Mapped[Category] = relationship()
    seller: Mapped[Account] = relationship(primaryjoin="foreign(Auction.seller_id) == Account.id", backref="auctions")
    bids: Mapped[list["Bid"]] = relationship(back_populates="auction", cascade="all, delete-orphan", order_by="Bid.amount.desc()")
    watchers: Mapped[list["Watcher"]] = relationship(back_populates="auction", cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": version}


class Bid(Base):
    """What is offered."""

    __tablename__ = f"{PREFIX}_bid"
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    auction_id: Mapped[int] = mapped_column(ForeignKey(Auction.id, ondelete="CASCADE"), index=True)
    bidder_id: Mapped[int] = mapped_column(BigInteger)
    amount: Mapped[Decimal] = mapped_column(Numeric(12, 2))
    placed: Mapped[datetime.datetime] = mapped_column(STAMP)
    auction: Mapped[Auction] = relationship(back_populates="bids")
    bidder: Mapped[Account] = relationship(primaryjoin="foreign(Bid.bidder_id) == Account.id")


class Watcher(Base):
    """Who looks on."""

    __tablename__ = f"{PREFIX}_watcher"
    auction_id: Mapped[int] = mapped_column(ForeignKey(Auction.id), primary_key=True)
    account_id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    note: Mapped[str | None] = mapped_column(String(80))
    auction: Mapped[Auction] = relationship(back_populates="watchers")


class Comment(Base):
    """What is said."""

    __tablename__ = f"{PREFIX}_comment"
    __table_args__ = (UniqueConstraint("auction_id", "number"),)
    id: Mapped[int] = mapped_column(BigInteger, primary_key=True)
    auction_id: Mapped[int] = mapped_column(ForeignKey(Auction.id))
    number: Mapped[int]
    author_id: Mapped[int] = mapped_column(BigInteger)
    body: Mapped[str] = mapped_column(Text)
    created: Mapped[datetime.datetime] = mapped_column(STAMP, server_default=func.now())


def schema():
    """Made, looked at, made again in vain."""
    scene("schema")
    Base.metadata.create_all(ENGINE)
    Base.metadata.create_all(ENGINE)
    with ENGINE.begin() as connection:
        tables = [f"{PREFIX}_{name}" for name in ("account", "category", "auction", "bid", "comment")]
        numbered(tables, lambda sql: connection.execute(text(sql)))
    scene("introspection")
    inspector = inspect(ENGINE)
    inspector.get_table_names(), inspector.get_view_names(), inspector.get_enums(), inspector.get_schema_names()
    for table in (f"{PREFIX}_auction", f"{PREFIX}_watcher"):
        inspector.get_columns(table), inspector.get_pk_constraint(table), inspector.get_foreign_keys(table)
        inspector.get_indexes(table), inspector.get_unique_constraints(table), inspector.get_check_constraints(table)


def sign_up(session):
    """Accounts and categories."""
    scene("sign up")
    for name in ("ann", "bob", "cid", "dora", "eve", "fay"):
        if session.scalar(select(Account).where(Account.email == f"{name}@example.com")) is None:
            session.add(Account(email=f"{name}@example.com", name=name.title(), balance=Decimal(100)))
            session.commit()
    session.add_all([Account(email=f"guest{n}@example.com", name=f"Guest {n}") for n in range(10)])
    session.commit()
    session.execute(update(Account).where(Account.email.like("guest%")).values(balance=Account.balance + 5))
    session.commit()

    scene("categories")
    art, home = Category(slug="art", name="Art"), Category(slug="home", name="Home")
    art.children = [Category(slug="paintings", name="Paintings"), Category(slug="prints", name="Prints")]
    home.children = [Category(slug="clocks", name="Clocks"), Category(slug="lamps", name="Lamps")]
    session.add_all([art, home])
    session.commit()
    statement = upsert(Category).values([{"slug": "lamps", "name": "Lamps and lights"}, {"slug": "vases", "name": "Vases"}])
    statement = statement.on_conflict_do_update(index_elements=["slug"], set_={"name": statement.excluded.name})
    session.execute(statement)
    session.execute(upsert(Category).values(slug="art", name="Other").on_conflict_do_nothing())
    session.commit()
    session.scalars(select(Category).options(selectinload(Category.children)).where(Category.parent_id.is_(None))
                    .order_by(Category.slug)).all()


def list_auctions(session):
    """One by one, many at once, changed."""
    scene("list auctions")
    sellers = session.scalars(select(Account).order_by(Account.id)).all()
    categories = {category.slug: category for category in session.scalars(select(Category))}
    for number, (slug, title) in enumerate([
            ("clocks", "Brass clock"), ("lamps", "Green lamp"), ("paintings", "Harbour at dawn"), ("prints", "Wave, a print"),
            ("vases", "Vase \"Ünïcode\" 100%"), ("clocks", "Cuckoo's clock")]):
        session.add(Auction(seller=sellers[number % 3], category=categories[slug], title=title, price=Decimal(10 + 5 * number),
                            tags=["old", slug], attributes={"year": 1900 + number, "size": {"cm": number}},
                            ends=now() + datetime.timedelta(days=1 + number)))
        session.commit()
    session.add_all([
        Auction(seller_id=sellers[number % 4].id, category=categories["prints"], title=f"Print number {number}",
                price=Decimal(number) + Decimal("0.50"), ends=now() + datetime.timedelta(days=number % 7))
        for number in range(24)])
    session.commit()
    session.add(Auction(seller=sellers[0], category=categories["art"], title="No", price=-1, ends=now()))
    try:
        session.commit()
    except IntegrityError:
        session.rollback()
    scene("change auctions")
    auction = session.scalar(select(Auction).where(Auction.title == "Brass clock"))
    auction.title, auction.attributes = "Brass clock, working", auction.attributes | {"tested": True}
    session.commit()
    session.refresh(auction)
    _ = auction.description
    session.execute(update(Auction).where(Auction.id == auction.id).values(price=Auction.price * 2)
                    .returning(Auction.id, Auction.price)).all()
    session.execute(update(Auction).where(Auction.price < 4).values(price=Auction.price + Decimal("1.25")))
    session.execute(update(Auction).where(Auction.category_id == Category.id, Category.slug == "lamps")
                    .values(description="A lamp."), execution_options={"synchronize_session": False})
    session.commit()
    ids = session.scalars(select(Auction.id).where(Auction.title.startswith("Print number 1")).order_by(Auction.title)).all()
    session.execute(update(Auction), [{"id": key, "price": Decimal(30 + n), "version": 1} for n, key in enumerate(ids)])
    session.commit()
    session.get(Auction, ids[0], options=[undefer(Auction.description)])


def search(session):
    """Filters, orders, pages."""
    scene("search")
    base = select(Auction).where(Auction.state == State.open)
    for statement in (
            base.where(Auction.title.ilike("%clock%")).order_by(Auction.ends, Auction.id),
            base.where(or_(Auction.title.contains("lamp"), Auction.tags.contains(["clocks"]))).order_by(Auction.title),
            base.where(Auction.attributes["year"].as_integer() >= 1903).order_by(Auction.title),
            base.where(Auction.attributes.contains({"tested": True})),
            base.where(literal("old") == any_(Auction.tags)).order_by(Auction.title),
            base.join(Auction.category).where(Category.slug.in_(["clocks", "lamps"])).order_by(Category.slug, Auction.title),
            base.join(Auction.seller).where(Account.name.in_(["Ann", "Cid"])).order_by(Auction.title).limit(5),
            base.where(Auction.price.between(5, 20), Auction.ends > now()).order_by(Auction.price.desc(), Auction.id)):
        session.scalars(statement).all()
    for page in range(4):
        session.scalars(base.order_by(Auction.ends.desc(), Auction.id).limit(8).offset(8 * page)).all()
    session.scalar(select(func.count()).select_from(base.subquery()))
    session.scalar(select(exists().where(Auction.title == "Brass")))
    session.execute(select(Auction.state, func.count()).group_by(Auction.state)).all()
    session.execute(select(Category.name).join(Auction).distinct().order_by(Category.name)).all()
    session.execute(text(f"select title, price from {PREFIX}_auction where price > :price order by title"), {"price": 20}).all()
    session.scalars(base.order_by(Auction.price.desc(), Auction.id)).first()


def place_bids(session):
    """A bid locks its auction."""
    scene("place bids")
    accounts = session.scalars(select(Account.id).order_by(Account.id)).all()
    auctions = session.scalars(select(Auction.id).order_by(Auction.title, Auction.id).limit(10)).all()
    session.commit()
    for number in range(24):
        auction = session.scalar(select(Auction).where(Auction.id == auctions[number * 7 % 10]).with_for_update())
        highest = session.scalar(select(func.max(Bid.amount)).where(Bid.auction_id == auction.id))
        amount = (highest or auction.price) + 1 + number % 3
        session.add(Bid(auction=auction, bidder_id=accounts[number % 8], amount=amount, placed=now()))
        auction.price = amount
        session.commit()
    scene("a bid in vain")
    auction = session.scalar(select(Auction).where(Auction.id == auctions[0]).with_for_update(nowait=True, of=Auction))
    with session.begin_nested() as inner:
        session.add(Bid(auction_id=auction.id, bidder_id=accounts[0], amount=1, placed=now()))
        session.flush()
        inner.rollback()
    session.add(Watcher(auction_id=auction.id, account_id=accounts[0]))
    session.commit()
    try:
        with session.begin_nested():
            session.execute(insert(Watcher).values(auction_id=auctions[0], account_id=accounts[0]))
    except IntegrityError:
        pass
    session.execute(select(Auction.id).where(Auction.id == auctions[1]).with_for_update(skip_locked=True, key_share=True)).all()
    session.rollback()
    # Another transaction has the lock.
    with Session(ENGINE) as other:
        session.execute(select(Auction.id).where(Auction.id == auctions[2]).with_for_update())
        other.execute(select(Auction.id).where(Auction.id.in_(auctions[2:4])).order_by(Auction.id).with_for_update(skip_locked=True)).all()
        other.rollback()
        session.commit()
    for key in auctions[3:5]:
        session.add(Bid(auction_id=key, bidder_id=accounts[1], amount=400, placed=now()))
    session.commit()


def many(session):
    """Bulk inserts and upserts."""
    scene("watchers and comments")
    accounts = session.scalars(select(Account.id).order_by(Account.id)).all()
    auctions = session.scalars(select(Auction.id).order_by(Auction.title, Auction.id)).all()
    rows = [{"auction_id": auction, "account_id": account} for auction in auctions[:8] for account in accounts[:4]]
    session.execute(upsert(Watcher).on_conflict_do_nothing(), rows)
    session.execute(insert(Comment), [
        {"auction_id": auctions[n % 12], "number": n, "author_id": accounts[n % 5], "body": f"Comment {n}: 100% \\ fine\n"}
        for n in range(36)])
    session.commit()
    comments = session.scalars(
        insert(Comment).returning(Comment, sort_by_parameter_order=True),
        [{"auction_id": auctions[n % 6], "number": 100 + n, "author_id": accounts[n % 5], "body": "More"} for n in range(14)]).all()
    assert [comment.number for comment in comments] == list(range(100, 114))
    session.commit()
    statement = upsert(Watcher).values([{"auction_id": key, "account_id": accounts[1], "note": "again"} for key in auctions[:10]])
    statement = statement.on_conflict_do_update(index_elements=["auction_id", "account_id"], set_={"note": statement.excluded.note})
    session.execute(statement.returning(Watcher.auction_id, Watcher.note)).all()
    session.execute(insert(Watcher).from_select(
        ["auction_id", "account_id", "note"],
        select(Bid.auction_id, Bid.bidder_id, text("'bids'")).where(~exists().where(
            Watcher.auction_id == Bid.auction_id, Watcher.account_id == Bid.bidder_id)).distinct()))
    session.commit()
    session.execute(select(Comment).where(Comment.auction_id == auctions[0]).order_by(Comment.number)).all()


def related(session):
    """Eager loading in all its ways."""
    scene("an auction's page")
    session.expire_all()
    session.scalars(select(Auction).options(joinedload(Auction.seller), joinedload(Auction.category).joinedload(Category.parent),
                                            selectinload(Auction.bids).joinedload(Bid.bidder), subqueryload(Auction.watchers))
                    .where(Auction.title == "Brass clock, working")).unique().all()
    scene("dashboard")
    session.expunge_all()
    ann = session.scalar(select(Account).where(Account.email == "ann@example.com"))
    session.scalars(select(Auction).options(selectinload(Auction.bids)).where(Auction.seller_id == ann.id).order_by(Auction.title)).all()
    session.scalars(select(Auction).options(joinedload(Auction.bids)).order_by(Auction.title, Auction.id).limit(4)).unique().all()
    session.scalars(select(Auction).join(Auction.bids).options(contains_eager(Auction.bids)).where(Bid.bidder_id == ann.id)
                    .order_by(Auction.title, Bid.amount), execution_options={"populate_existing": True}).unique().all()
    best = aliased(Bid)
    session.execute(select(Auction.title, func.max(best.amount)).outerjoin(best, best.auction_id == Auction.id)
                    .group_by(Auction.id, Auction.title).having(func.count(best.id) > 0).order_by(Auction.title)).all()
    session.execute(select(Account.name, func.count(Bid.id), func.sum(Bid.amount)).join(Bid, Bid.bidder_id == Account.id)
                    .group_by(Account.id, Account.name).order_by(func.sum(Bid.amount).desc(), Account.name)).all()
    session.execute(select(Auction.title).where(Auction.watchers.any(Watcher.account_id == ann.id)).order_by(Auction.title)).all()
    session.execute(select(Auction.title).where(~Auction.bids.any()).order_by(Auction.title).limit(10)).all()
    top = select(Bid.amount).where(Bid.auction_id == Auction.id).order_by(Bid.amount.desc()).limit(1).correlate(Auction).scalar_subquery()
    session.execute(select(Auction.title, top.label("top")).where(top > 12).order_by(Auction.title)).all()
    latest = select(Bid.auction_id, Bid.amount, func.row_number().over(
        partition_by=Bid.auction_id, order_by=Bid.amount.desc()).label("place")).subquery()
    session.execute(select(Auction.title, latest.c.amount).join(latest, and_(latest.c.auction_id == Auction.id, latest.c.place <= 2))
                    .order_by(Auction.title, latest.c.place)).all()
    session.execute(select(Bid.auction_id, Bid.amount).ext(distinct_on(Bid.auction_id)).join(Auction)
                    .order_by(Bid.auction_id, Bid.amount.desc())).all()


def reports(session):
    """Sums, groups, unions, a recursive query."""
    scene("reports")
    session.execute(select(func.count(Bid.id), func.sum(Bid.amount), func.avg(Bid.amount), func.min(Bid.amount), func.max(Bid.amount))).all()
    session.execute(select(func.count().filter(Bid.amount > 20), func.coalesce(func.sum(Bid.amount), 0))).all()
    session.execute(select(Category.slug, func.count(Auction.id), func.sum(Auction.price)).outerjoin(Auction)
                    .group_by(Category.slug).order_by(Category.slug)).all()
    size = case((Auction.price < 10, "small"), (Auction.price < 30, "fair"), else_="great").label("size")
    session.execute(select(size, func.count()).group_by(size).order_by(size)).all()
    session.execute(select(func.date_trunc("hour", Bid.placed).label("hour"), func.count()).group_by("hour").order_by("hour")).all()
    session.execute(select(func.string_agg(Auction.title, text("', ' order by title"))).where(Auction.price > 20)).all()
    cheap, clocks = select(Auction.title).where(Auction.price < 8), select(Auction.title).where(Auction.title.ilike("%clock%"))
    session.execute(union(cheap, clocks).order_by("title")).all()
    tree = select(Category.id, Category.name).where(Category.slug == "art").cte("tree", recursive=True)
    tree = tree.union_all(select(Category.id, Category.name).join(tree, Category.parent_id == tree.c.id))
    session.execute(select(tree.c.name, func.count(Auction.id)).outerjoin(Auction, Auction.category_id == tree.c.id)
                    .group_by(tree.c.name).order_by(tree.c.name)).all()
    busy = select(Bid.auction_id).group_by(Bid.auction_id).having(func.count() > 2).cte("busy")
    session.execute(select(Auction.title).where(Auction.id.in_(select(busy.c.auction_id))).order_by(Auction.title)).all()
    for _ in session.scalars(select(Bid).order_by(Bid.amount, Bid.placed).execution_options(yield_per=7)):
        pass
    session.commit()
    with ENGINE.connect().execution_options(isolation_level="REPEATABLE READ") as connection:
        connection.execute(select(func.count()).select_from(Bid)).all()
        connection.execute(select(func.sum(Auction.price))).all()
        connection.commit()
    with ENGINE.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
        connection.execute(select(func.max(Bid.amount))).all()


def end(session):
    """Deletions and the end of auctions."""
    scene("delete")
    session.execute(delete(Watcher).where(Watcher.note == "again"))
    session.execute(delete(Comment).where(Comment.auction_id == Auction.id, Auction.title == "Brass clock, working")
                    .execution_options(synchronize_session=False))
    session.execute(delete(Comment).where(Comment.auction_id.in_(select(Auction.id).where(Auction.title.like("Print number 2%")))))
    session.commit()
    session.execute(delete(Comment).returning(Comment.number), execution_options={"synchronize_session": False}).all()
    session.commit()
    session.delete(session.scalar(select(Auction).where(Auction.title == "Wave, a print")))
    session.commit()
    for auction in session.scalars(select(Auction).where(Auction.title.in_(["Print number 3", "Print number 4"])).order_by(Auction.title)):
        session.delete(auction)
    session.commit()
    scene("end of auctions")
    over = session.scalars(select(Auction).where(Auction.ends < datetime.datetime(2031, 3, 4, tzinfo=datetime.timezone.utc))
                           .order_by(Auction.id).with_for_update()).all()
    for auction in over:
        auction.state = State.sold if auction.bids else State.closed
    session.commit()
    session.execute(update(Auction).where(Auction.id == bindparam("key")).values(state=State.closed),
                    {"key": over[0].id}, execution_options={"synchronize_session": False})
    session.execute(select(Auction.state, func.count()).group_by(Auction.state).order_by(Auction.state)).all()
    session.commit()
    session.close()
    with ENGINE.begin() as connection:
        connection.execute(text(f"alter table {PREFIX}_auction add column visits integer not null default 0"))
        connection.execute(text(f"update {PREFIX}_auction set visits = 3 where title like 'Print%'"))
    with ENGINE.begin() as connection:
        connection.execute(text(f"select title, visits from {PREFIX}_auction where visits > 0 order by title")).all()
        connection.execute(text(f"alter table {PREFIX}_auction drop column visits"))


schema()
with Session(ENGINE) as house:
    for act in (sign_up, list_auctions, search, place_bids, many, related, reports, end):
        act(house)
