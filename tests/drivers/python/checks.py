"""Runs the functions named check_* of a module and counts: every driver's script ends in `N passed, N failed`."""

import asyncio
import inspect
import os
import sys
import traceback

HOST = os.environ["PGHOST"]
PORT = int(os.environ["PGPORT"])
USER = os.environ["PGUSER"]
PASSWORD = os.environ.get("PGPASSWORD", "")
DATABASE = os.environ["PGDATABASE"]


def equal(got, want):
    """Fails with both values unless they are equal."""
    if got != want:
        raise AssertionError(f"got {got!r}, want {want!r}")


def run(module):
    """Runs all checks of a module in their order and leaves with a status."""
    passed = failed = 0
    for name, check in list(vars(module).items()):
        if not name.startswith("check_"):
            continue
        try:
            result = check()
            if inspect.isawaitable(result):
                asyncio.run(result)
            passed += 1
        except Exception:  # noqa: BLE001 - whatever it is, the check has failed and the next one goes on
            failed += 1
            print(f"FAILED {name}", file=sys.stderr)
            traceback.print_exc()
    print(f"{passed} passed, {failed} failed")
    sys.exit(1 if failed else 0)
