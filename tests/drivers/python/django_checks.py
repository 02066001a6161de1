"""An auction application on Django: migrations made and applied, the ORM, transactions."""

import os
import shutil
import sys
import tempfile
from decimal import Decimal
from pathlib import Path

import django
from django.conf import settings

from checks import DATABASE, HOST, PASSWORD, PORT, USER, equal, run

MODELS = """
from django.db import models


class Category(models.Model):
    name = models.CharField(max_length=50, unique=True)


class Auction(models.Model):
    auction_id = models.BigAutoField(primary_key=True)
    title = models.CharField(max_length=200)
    price = models.DecimalField(max_digits=12, decimal_places=2, default=0)
    created = models.DateTimeField(auto_now_add=True)
    data = models.JSONField(default=dict)


class Bid(models.Model):
    auction = models.ForeignKey(Auction, on_delete=models.CASCADE, related_name="bids")
    bidder = models.CharField(max_length=50)
    amount = models.DecimalField(max_digits=12, decimal_places=2)
"""

HOME = Path(tempfile.mkdtemp(prefix="gavel-django-"))
(HOME / "shop").mkdir()
(HOME / "shop" / "__init__.py").write_text("")
(HOME / "shop" / "models.py").write_text(MODELS)
sys.path.insert(0, str(HOME))
settings.configure(
    SECRET_KEY="for these checks only",
    USE_TZ=True,
    DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions", "shop"],
    DATABASES={
        "default": {
            "ENGINE": "django.db.backends.postgresql",
            "HOST": HOST, "PORT": PORT, "USER": USER, "PASSWORD": PASSWORD, "NAME": DATABASE,
        }
    },
)
django.setup()

from django.core.management import call_command  # noqa: E402 - Django must be set up first
from django.db import IntegrityError, connection, transaction  # noqa: E402
from django.db.models import F  # noqa: E402
from shop.models import Auction, Bid, Category  # noqa: E402


def check_00_migrations():
    with connection.cursor() as cursor:
        for table in ("shop_bid", "shop_auction", "shop_category", "django_session", "auth_user_user_permissions",
                      "auth_user_groups", "auth_group_permissions", "auth_user", "auth_group", "auth_permission",
                      "django_content_type", "django_migrations"):
            cursor.execute(f"drop table if exists {table}")
    call_command("makemigrations", "shop", verbosity=0)
    call_command("migrate", verbosity=0)
    call_command("migrate", verbosity=0)


def check_01_second_migration():
    models = MODELS.replace("bidder = ", "note = models.TextField(null=True)\n    bidder = ")
    (HOME / "shop" / "models.py").write_text(models)
    shutil.rmtree(HOME / "shop" / "__pycache__", ignore_errors=True)
    with connection.schema_editor() as editor:
        from django.db import models as fields

        note = fields.TextField(null=True)
        note.set_attributes_from_name("note")
        editor.add_field(Bid, note)
    with connection.cursor() as cursor:
        columns = [column.name for column in connection.introspection.get_table_description(cursor, "shop_bid")]
    equal("note" in columns, True)


def check_users():
    from django.contrib.auth.models import User

    user = User.objects.create_user("ann", "ann@example.com", "secret")
    equal(User.objects.get(username="ann").check_password("secret"), True)
    equal(user.pk is not None, True)
    user.delete()


def check_create_and_get():
    ids = []
    for number in range(20):
        auction = Auction.objects.create(title=f"title {number}", data={"n": number})
        ids.append(auction.pk)
    equal(len(set(ids)), 20)
    for number in (0, 7, 19):
        auction = Auction.objects.get(pk=ids[number])
        equal((auction.title, auction.data), (f"title {number}", {"n": number}))


def check_related():
    auction = Auction.objects.create(title="related")
    for number in range(1, 6):
        bid = Bid.objects.create(auction=auction, bidder="bob", amount=Decimal(number))
        equal(bid.pk is not None, True)
    equal(auction.bids.count(), 5)
    equal([bid.amount for bid in auction.bids.order_by("-amount")[:2]], [Decimal("5.00"), Decimal("4.00")])
    equal(Bid.objects.select_related("auction").filter(auction_id=auction.pk).first().auction.title, "related")


def check_bulk_create():
    auction = Auction.objects.create(title="bulk")
    Bid.objects.bulk_create([Bid(auction=auction, bidder="cid", amount=n) for n in range(100)])
    equal(Bid.objects.filter(auction=auction).count(), 100)


def check_update():
    auction = Auction.objects.create(title="update", price=1)
    equal(Auction.objects.filter(pk=auction.pk).update(price=F("price") + 1), 1)
    auction.refresh_from_db()
    equal(auction.price, Decimal("2.00"))
    auction.title = "saved"
    auction.save()
    equal(Auction.objects.get(pk=auction.pk).title, "saved")


def check_atomic():
    auction = Auction.objects.create(title="atomic")
    try:
        with transaction.atomic():
            Bid.objects.create(auction=auction, bidder="dora", amount=1)
            raise RuntimeError("undo")
    except RuntimeError:
        pass
    equal(auction.bids.count(), 0)
    with transaction.atomic():
        Bid.objects.create(auction=auction, bidder="dora", amount=1)
        try:
            with transaction.atomic():
                Bid.objects.create(auction=auction, bidder="dora", amount=2)
                raise RuntimeError("undo the inner one")
        except RuntimeError:
            pass
    equal(auction.bids.count(), 1)


def check_select_for_update():
    auction = Auction.objects.create(title="locked")
    with transaction.atomic():
        locked = Auction.objects.select_for_update().get(pk=auction.pk)
        locked.price = 9
        locked.save(update_fields=["price"])
    equal(Auction.objects.get(pk=auction.pk).price, Decimal("9.00"))


def check_integrity_error():
    Category.objects.create(name="vases")
    try:
        with transaction.atomic():
            Category.objects.create(name="vases")
        raise AssertionError("no error")
    except IntegrityError:
        pass
    equal(Category.objects.count(), 1)


def check_iterator():
    for number in range(300):
        Category.objects.create(name=f"category {number}")
    equal(len({category.pk for category in Category.objects.filter(name__startswith="category").iterator(50)}), 300)


def check_delete():
    auction = Auction.objects.create(title="deleted")
    Bid.objects.create(auction=auction, bidder="eve", amount=1)
    auction.delete()
    equal(Auction.objects.filter(title="deleted", pk=auction.pk or 0).exists(), False)


def check_99_inspectdb():
    equal("shop_bid" in connection.introspection.table_names(), True)
    shutil.rmtree(HOME)
    os.chdir("/")


if __name__ == "__main__":
    run(sys.modules["__main__"])
