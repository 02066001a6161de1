"""An auction house on Django's ORM, to be recorded: first parameters are bound by the driver, then by the server."""

import datetime
import os
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

import django
from django.conf import settings
from django.utils import timezone

import scenes
from scenes import DATABASE, HOST, PASSWORD, PORT, USER, now, numbered, scene

LABEL = "shop"
timezone.now = now
MODELS = """
from django.db import models
from django.db.models import Q
from django.utils import timezone


class Account(models.Model):
    email = models.EmailField(unique=True)
    name = models.CharField(max_length=80)
    balance = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    created = models.DateTimeField(default=timezone.now)


class Category(models.Model):
    slug = models.SlugField(unique=True)
    name = models.CharField(max_length=80)
    parent = models.ForeignKey("self", null=True, blank=True, on_delete=models.CASCADE, related_name="children")

    class Meta:
        ordering = ["name"]


class Auction(models.Model):
    seller = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="auctions", db_constraint=False)
    category = models.ForeignKey(Category, on_delete=models.PROTECT, related_name="auctions")
    title = models.CharField(max_length=200)
    description = models.TextField(blank=True)
    price = models.DecimalField(max_digits=12, decimal_places=2)
    state = models.CharField(max_length=10, default="open", db_index=True)
    attributes = models.JSONField(default=dict)
    created = models.DateTimeField(default=timezone.now)
    ends = models.DateTimeField()

    class Meta:
        indexes = [models.Index(fields=["state", "ends"])]
        constraints = [models.CheckConstraint(condition=Q(price__gte=0), name="LABEL_price")]


class Bid(models.Model):
    auction = models.ForeignKey(Auction, on_delete=models.CASCADE, related_name="bids")
    bidder = models.ForeignKey(Account, on_delete=models.PROTECT, related_name="bids", db_constraint=False)
    amount = models.DecimalField(max_digits=12, decimal_places=2)
    placed = models.DateTimeField(default=timezone.now)


class Watcher(models.Model):
    auction = models.ForeignKey(Auction, on_delete=models.CASCADE, related_name="watchers")
    account = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="watched", db_constraint=False)
    note = models.CharField(max_length=80, default="")

    class Meta:
        unique_together = [("auction", "account")]


class Comment(models.Model):
    auction = models.ForeignKey(Auction, on_delete=models.CASCADE, related_name="comments")
    author = models.ForeignKey(Account, on_delete=models.CASCADE, related_name="comments", db_constraint=False)
    body = models.TextField()
    created = models.DateTimeField(default=timezone.now)
""".replace("LABEL", LABEL)

HOME = Path(tempfile.mkdtemp(prefix="gavel-django-"))
(HOME / LABEL).mkdir()
(HOME / LABEL / "__init__.py").write_text("")
(HOME / LABEL / "models.py").write_text(MODELS)
sys.path.insert(0, str(HOME))
settings.configure(
    SECRET_KEY="for recordings only",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"],
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", LABEL],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": HOST, "PORT": PORT, "USER": USER, "PASSWORD": PASSWORD, "NAME": DATABASE,
            "OPTIONS": {"server_side_binding": False},
        }
    },
)
django.setup()

from django.apps import apps  # noqa: E402 - Django must be set up first
from django.core.management import call_command  # noqa: E402
from django.core.paginator import Paginator  # noqa: E402
from django.db import IntegrityError, connection, transaction  # noqa: E402
from django.db.models import (Avg, Case, Count, Exists, F, Max, Min, OuterRef, Prefetch, Q, Subquery, Sum, Value,  # noqa: E402
                              When, Window)
from django.db.models.functions import Coalesce, Lower, RowNumber, TruncDay, Upper  # noqa: E402

Account, Category, Auction, Bid, Watcher, Comment = (
    apps.get_model(LABEL, name) for name in ("Account", "Category", "Auction", "Bid", "Watcher", "Comment"))

TABLES = [f"{LABEL}_{name}" for name in ("account", "category", "auction", "bid", "watcher", "comment")]


def migrations():
    """The schema, made by migrations, and read back."""
    scene("migrations")
    call_command("makemigrations", LABEL, verbosity=0)
    call_command("migrate", verbosity=0)
    call_command("migrate", verbosity=0)
    with connection.cursor() as cursor:
        numbered(TABLES, cursor.execute)

    scene("introspection")
    with connection.cursor() as cursor:
        connection.introspection.table_names(cursor, include_views=True)
        for table in TABLES:
            connection.introspection.get_table_description(cursor, table)
            connection.introspection.get_constraints(cursor, table)
            connection.introspection.get_sequences(cursor, table)
            connection.introspection.get_relations(cursor, table)


def sign_up():
    """Accounts and categories."""
    scene("sign up")
    names = ["ann", "bob", "cid", "dora", "eve", "fay", "gus", "hal"]
    for name in names:
        if not Account.objects.filter(email=f"{name}@example.com").exists():
            Account.objects.create(email=f"{name}@example.com", name=name.title(), balance=Decimal("100"))
    Account.objects.get_or_create(email="ann@example.com", defaults={"name": "Ann again"})
    Account.objects.get_or_create(email="ivy@example.com", defaults={"name": "Ivy"})
    Account.objects.update_or_create(email="bob@example.com", defaults={"name": "Bob B."})
    try:
        with transaction.atomic():
            Account.objects.create(email="ann@example.com", name="Twice")
    except IntegrityError:
        pass
    Account.objects.filter(pk=Account.objects.get(email="cid@example.com").pk).update(balance=F("balance") + 50)

    scene("categories")
    art = Category.objects.create(slug="art", name="Art")
    home = Category.objects.create(slug="home", name="Home")
    Category.objects.bulk_create([
        Category(slug="paintings", name="Paintings", parent=art), Category(slug="prints", name="Prints", parent=art),
        Category(slug="clocks", name="Clocks", parent=home), Category(slug="lamps", name="Lamps", parent=home)])
    Category.objects.bulk_create(
        [Category(slug="lamps", name="Lamps and lights"), Category(slug="vases", name="Vases", parent=home)],
        update_conflicts=True, unique_fields=["slug"], update_fields=["name"])
    Category.objects.bulk_create([Category(slug="art", name="Other")], ignore_conflicts=True)
    list(Category.objects.all())
    list(Category.objects.filter(parent__slug="art"))
    list(Category.objects.annotate(n=Count("children")).filter(n__gt=0).order_by("slug"))


def list_auctions():
    """Auctions, one by one and many at once."""
    scene("list auctions")
    sellers = list(Account.objects.order_by("id"))
    categories = {category.slug: category for category in Category.objects.all()}
    for number, (slug, title) in enumerate([
            ("clocks", "Brass clock"), ("lamps", "Green lamp"), ("paintings", "Harbour at dawn"), ("prints", "Wave, a print"),
            ("vases", "Vase \"Ünïcode\" 100%"), ("clocks", "Cuckoo's clock"), ("lamps", "Desk lamp"), ("art", "Frame")]):
        Auction.objects.create(
            seller=sellers[number % 3], category=categories[slug], title=title, description=f"A {title.lower()}.",
            price=Decimal(10 + 5 * number), attributes={"year": 1900 + number, "tags": ["old", slug]},
            ends=now() + datetime.timedelta(days=1 + number))
    Auction.objects.bulk_create([
        Auction(seller=sellers[number % 5], category=categories["prints"], title=f"Print number {number}",
                price=Decimal(number) + Decimal("0.50"), ends=now() + datetime.timedelta(days=number % 7))
        for number in range(20)])
    try:
        with transaction.atomic():
            Auction.objects.create(seller=sellers[0], category=categories["art"], title="No", price=-1, ends=now())
    except IntegrityError:
        pass


def change_auctions():
    """Read, change and save."""
    scene("change an auction")
    auction = Auction.objects.get(title="Brass clock")
    auction.title = "Brass clock, working"
    auction.save()
    auction.save(update_fields=["description"])
    auction.refresh_from_db()
    Auction.objects.filter(pk=auction.pk).update(title=Upper("title"), price=F("price") * 2)
    Auction.objects.filter(state="open", price__lt=Decimal("3")).update(price=F("price") + Decimal("1.25"))
    Auction.objects.filter(category__slug="lamps").update(description="A lamp.")
    prints = list(Auction.objects.filter(title__startswith="Print number 1").order_by("id"))
    for number, item in enumerate(prints):
        item.price += number
    Auction.objects.bulk_update(prints, ["price"])
    Auction.objects.bulk_update(prints[:2], ["price", "title"])
    list(Auction.objects.filter(pk__in=[item.pk for item in prints]).order_by("id").values_list("title", "price"))
    Auction.objects.in_bulk([prints[0].pk, prints[3].pk])


def search():
    """Filters, orders, pages."""
    scene("search")
    base = Auction.objects.filter(state="open")
    list(base.filter(title__icontains="clock").order_by("ends", "id"))
    list(base.filter(Q(title__icontains="lamp") | Q(description__contains="print")).order_by("title"))
    list(base.filter(category__parent__slug="art", price__range=(5, 40)).order_by("-price", "id")[:5])
    list(base.filter(attributes__year__gte=1903).order_by("title").values("title", "attributes__year"))
    list(base.filter(attributes__tags__contains="old").order_by("title").values_list("title", flat=True))
    list(base.exclude(category__slug="prints").order_by(Lower("title")).values_list("title"))
    list(base.filter(ends__date=datetime.date(2031, 3, 3)).order_by("id"))
    base.filter(seller__email="ann@example.com").count()
    list(base.filter(seller__name__in=["Ann", "Cid"]).order_by("id").values("title", "seller__name"))
    pages = Paginator(base.order_by("-ends", "id"), 6)
    for number in (1, 2, 5):
        list(pages.page(number))
    base.order_by("ends", "id").first(), base.order_by("ends", "id").last(), base.latest("created"), base.earliest("created")
    base.filter(title="Brass").exists()
    list(base.distinct().values_list("category__name", flat=True).order_by("category__name"))
    list(base.dates("ends", "day")), list(base.datetimes("ends", "hour", order="DESC")[:4])
    list(base.none()), base.filter(pk__in=[]).count()
    list(base.only("title").order_by("title")[2:4]), list(base.defer("description", "attributes").order_by("title")[:2])


def place_bids():
    """A bid locks its auction."""
    scene("place bids")
    accounts = list(Account.objects.order_by("id"))
    auctions = list(Auction.objects.order_by("title", "id")[:10])
    for number in range(30):
        with transaction.atomic():
            auction = Auction.objects.select_for_update().get(pk=auctions[number * 7 % 10].pk)
            highest = auction.bids.order_by("-amount").first()
            amount = (highest.amount if highest else auction.price) + 1 + number % 3
            Bid.objects.create(auction=auction, bidder=accounts[number % 8], amount=amount)
            auction.price = amount
            auction.save(update_fields=["price"])
    scene("a bid that is too low")
    try:
        with transaction.atomic():
            auction = Auction.objects.select_for_update(of=("self",)).select_related("category").get(pk=auctions[0].pk)
            with transaction.atomic():
                Bid.objects.create(auction=auction, bidder=accounts[0], amount=1)
                raise ValueError("too low")
    except ValueError:
        pass
    with transaction.atomic():
        Auction.objects.select_for_update(skip_locked=True).filter(pk=auctions[1].pk).first()
        Auction.objects.select_for_update(nowait=True, no_key=True).get(pk=auctions[2].pk)
    with transaction.atomic():
        Bid.objects.create(auction=auctions[3], bidder=accounts[3], amount=500)
        try:
            with transaction.atomic():
                Watcher.objects.create(auction=auctions[3], account=accounts[3])
                Watcher.objects.create(auction=auctions[3], account=accounts[3])
        except IntegrityError:
            pass
        Bid.objects.create(auction=auctions[4], bidder=accounts[4], amount=501)


def many():
    """Watchers and comments in bulk."""
    scene("watchers and comments")
    accounts, auctions = list(Account.objects.order_by("id")), list(Auction.objects.order_by("title", "id"))
    Watcher.objects.bulk_create(
        [Watcher(auction=auction, account=account) for auction in auctions[:9] for account in accounts[:4]],
        ignore_conflicts=True)
    Watcher.objects.bulk_create(
        [Watcher(auction=auction, account=accounts[1], note="again") for auction in auctions[:3]],
        update_conflicts=True, unique_fields=["auction", "account"], update_fields=["note"])
    Watcher.objects.get_or_create(auction=auctions[0], account=accounts[7])
    Watcher.objects.update_or_create(auction=auctions[0], account=accounts[7], defaults={"note": "mine"})
    Watcher.objects.update_or_create(auction=auctions[1], account=accounts[6], defaults={"note": "new"})
    Comment.objects.bulk_create(
        [Comment(auction=auctions[number % 12], author=accounts[number % 5], body=f"Comment {number}: it's 100% \\ fine\n")
         for number in range(40)], batch_size=25)
    list(Comment.objects.filter(auction=auctions[0]).order_by("created"))
    list(Comment.objects.filter(auction=auctions[0]).select_related("author", "auction__category").order_by("created"))


def related():
    """What templates read."""
    scene("an auction's page")
    auction = Auction.objects.select_related("seller", "category__parent").prefetch_related(
        Prefetch("bids", Bid.objects.order_by("-amount")), "watchers").get(title="BRASS CLOCK, WORKING")
    auction.bids.count(), auction.comments.exists(), auction.bids.aggregate(Max("amount"))

    scene("dashboard")
    ann = Account.objects.get(email="ann@example.com")
    list(Auction.objects.filter(seller=ann).prefetch_related("category").order_by("id")[:10])
    list(Auction.objects.order_by("ends", "id").prefetch_related(
        Prefetch("comments", Comment.objects.select_related("author").order_by("created")))[:6])
    list(Auction.objects.filter(bids__bidder=ann).distinct().order_by("title"))
    list(Auction.objects.filter(watchers__account=ann).annotate(best=Max("bids__amount")).order_by("title"))
    list(Auction.objects.annotate(n=Count("bids", distinct=True), w=Count("watchers", distinct=True)).order_by("-n", "id")[:8])
    list(ann.watched.select_related("auction").order_by("auction__title"))
    list(Account.objects.filter(bids__amount__gt=20).distinct().order_by("name"))
    list(Account.objects.annotate(spent=Sum("bids__amount"), n=Count("bids")).filter(n__gt=0).order_by("-spent", "id"))
    best = Bid.objects.filter(auction=OuterRef("pk")).order_by("-amount")
    list(Auction.objects.annotate(best=Subquery(best.values("amount")[:1]), by=Subquery(best.values("bidder__name")[:1]))
         .filter(best__isnull=False).order_by("title").values("title", "best", "by"))
    list(Auction.objects.annotate(mine=Exists(Watcher.objects.filter(auction=OuterRef("pk"), account=ann)))
         .filter(mine=True).order_by("title"))
    list(Auction.objects.filter(~Exists(Bid.objects.filter(auction=OuterRef("pk")))).order_by("title")[:10])
    list(Auction.objects.filter(bids__isnull=True).order_by("title")[:10])


def reports():
    """Sums, groups, windows, unions."""
    scene("reports")
    Bid.objects.aggregate(Count("id"), Sum("amount"), Avg("amount"), Min("amount"), Max("amount"))
    Bid.objects.aggregate(big=Count("id", filter=Q(amount__gt=20)), total=Coalesce(Sum("amount"), Decimal(0)))
    list(Auction.objects.values("state").annotate(n=Count("id"), total=Sum("price")).order_by("state"))
    list(Auction.objects.values("category__name").annotate(n=Count("id"), top=Max("price")).order_by("-n", "category__name"))
    list(Category.objects.annotate(n=Count("auctions"), sold=Sum("auctions__price")).order_by("slug").values("slug", "n", "sold"))
    list(Bid.objects.annotate(day=TruncDay("placed")).values("day").annotate(n=Count("id")).order_by("day"))
    list(Bid.objects.values("bidder__name").annotate(n=Count("id"), best=Max("amount")).filter(n__gt=2).order_by("-n", "bidder__name"))
    list(Bid.objects.annotate(place=Window(RowNumber(), partition_by=F("auction"), order_by=F("amount").desc()))
         .filter(place__lte=2).order_by("auction__title", "place").values("auction__title", "place", "amount"))
    list(Auction.objects.annotate(size=Case(When(price__lt=10, then=Value("small")), When(price__lt=30, then=Value("fair")),
                                            default=Value("great"))).values("size").annotate(n=Count("id")).order_by("size"))
    cheap, clocks = Auction.objects.filter(price__lt=8), Auction.objects.filter(title__icontains="clock")
    list(cheap.values_list("title").union(clocks.values_list("title")).order_by("title"))
    list(cheap.values_list("title").intersection(clocks.values_list("title")))
    list(clocks.values_list("title").difference(cheap.values_list("title")).order_by("title"))
    list(Auction.objects.raw(f"select id, title from {LABEL}_auction where price > %s order by title", [20]))
    for _ in Bid.objects.order_by("placed", "id").iterator(chunk_size=10):
        pass


def accounts_of_django():
    """Sessions of the web, users, groups, permissions."""
    from django.contrib.auth.models import Group, User
    from django.contrib.sessions.backends.db import SessionStore

    scene("web sessions")
    store = SessionStore()
    store["account"] = 1
    store.save()
    store["page"] = "home"
    store.save()
    SessionStore(session_key=store.session_key).load()
    call_command("clearsessions")
    store.delete()
    user = User.objects.create_user("clerk", "clerk@example.com", "secret")
    group, _ = Group.objects.get_or_create(name="clerks")
    user.groups.add(group)
    user.has_perm(f"{LABEL}.change_auction")
    list(User.objects.filter(groups__name="clerks").order_by("id"))


def end():
    """Deletions and the end of auctions."""
    scene("delete")
    Watcher.objects.filter(note="again").delete()
    Comment.objects.filter(auction=Auction.objects.get(title="Frame"), body__contains="7").delete()
    Auction.objects.get(title="Wave, a print").delete()
    Auction.objects.filter(title__in=["Print number 3", "Print number 4"]).delete()
    Bid.objects.filter(amount__lt=3).delete()
    try:
        with transaction.atomic():
            connection.cursor().execute(f"delete from {LABEL}_category where slug = %s", ["clocks"])
    except IntegrityError:
        pass
    Account.objects.filter(email="ivy@example.com").delete()

    scene("end of auctions")
    with transaction.atomic():
        over = list(Auction.objects.select_for_update().filter(
            state="open", ends__lt=datetime.datetime(2031, 3, 4, tzinfo=datetime.timezone.utc)).order_by("id"))
        for auction in over:
            auction.state = "sold" if auction.bids.exists() else "closed"
            auction.save(update_fields=["state"])
    Auction.objects.filter(state="closed").update(attributes={"unsold": True})
    list(Auction.objects.values("state").annotate(Count("id")).order_by("state"))
    with connection.schema_editor() as editor:
        from django.db import models

        field = models.IntegerField(default=0)
        field.set_attributes_from_name("visits")
        editor.add_field(Auction, field)
        editor.remove_field(Auction, field)


HOUSE = (sign_up, list_auctions, change_auctions, search, place_bids, many, related, reports, end)
for act in (migrations, *HOUSE, accounts_of_django):
    act()
scene("flush")
call_command("flush", interactive=False, verbosity=0)
with connection.cursor() as house:
    numbered(TABLES, house.execute, first=7)
connection.close()
connection.settings_dict["OPTIONS"]["server_side_binding"] = True
scenes.more = ", bound by the server"
for act in HOUSE:
    act()
