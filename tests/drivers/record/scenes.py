"""What the recorded applications in Python share: the name of the section that begins, and a clock that stands."""

import datetime
import os
import socket

HOST = os.environ["PGHOST"]
PORT = int(os.environ["PGPORT"])
USER = os.environ["PGUSER"]
PASSWORD = os.environ.get("PGPASSWORD", "")
DATABASE = os.environ["PGDATABASE"]

more = ""  # behind the name of each section

_time = datetime.datetime(2031, 3, 1, 12, tzinfo=datetime.timezone.utc)


def now():
    """A minute later with each look: a recording does not depend on when it is made."""
    global _time
    _time += datetime.timedelta(minutes=1)
    return _time


def scene(name):
    """Tells the relay that a section of the recording begins."""
    with socket.create_connection((HOST, PORT)) as stream:
        stream.sendall(f"MARK {name}{more}\n".encode())
        stream.recv(1)


def numbered(tables, setval, first=1):
    """Gives the keys of each table a range of their own, so that a number in the recording tells what it is the key of."""
    for number, table in enumerate(tables, first):
        setval(f"select setval(pg_get_serial_sequence('{table}', 'id'), {number}0000000)")
