"""Statements over several shards, against the same on one PostgreSQL or on the slowest shard alone.

A client that costs next to nothing (bytes made beforehand, answers read and dropped) sends one statement at a time. The targets of a
comparison take turns statement by statement, so that a change of the machine's mood meets them all; each figure is a median.
CPU time is that of the process trees, as everywhere.
"""

import statistics
import struct
import time

from measure import READY, connect, cpu_microseconds, message, wait_ready
from shares import of_a_fifth
from servers import DATABASE, Problem, Target

LOTS = 400_000
COPIED = 1_000_000
INSERTED = 1_000

SCHEMA = """
CREATE TABLE lots (
  auction_id bigint PRIMARY KEY,
  bucket integer NOT NULL,
  seller integer NOT NULL,
  price numeric(12,2) NOT NULL,
  title text COLLATE "C" NOT NULL
);
CREATE INDEX ON lots (bucket, price, auction_id);
CREATE TABLE offers (
  auction_id bigint NOT NULL,
  seller integer NOT NULL,
  price numeric(12,2) NOT NULL,
  title text NOT NULL
);
"""

COLUMNS = "auction_id, seller, price, title"
# What a disk would do: the processors are free meanwhile.
WAIT = "pg_sleep(0.0002) IS NOT NULL"
# name -> (title, statement). A thousandth of the rows has bucket 0, a hundredth a bucket below 10.
SCATTER = {
    "scatter/concat/400": ("rows as they come, 400", f"SELECT {COLUMNS} FROM lots WHERE bucket = 0"),
    "scatter/concat/40k": ("rows as they come, 40,000", f"SELECT {COLUMNS} FROM lots WHERE bucket < 100"),
    "scatter/concat/400k": ("rows as they come, 400,000", f"SELECT {COLUMNS} FROM lots"),
    "scatter/order/400": ("ORDER BY, 400", f"SELECT {COLUMNS} FROM lots WHERE bucket = 0 ORDER BY price, auction_id"),
    "scatter/order/40k": ("ORDER BY, 40,000", f"SELECT {COLUMNS} FROM lots WHERE bucket < 100 ORDER BY price, auction_id"),
    "scatter/order/400k": ("ORDER BY, 400,000", f"SELECT {COLUMNS} FROM lots ORDER BY price, auction_id"),
    "scatter/limit/100": ("ORDER BY LIMIT 100 of 400 by an index",
                  f"SELECT {COLUMNS} FROM lots WHERE bucket = 0 ORDER BY bucket, price, auction_id LIMIT 100"),
    "scatter/limit/sort": ("ORDER BY LIMIT 100 of 400,000",
                   f"SELECT {COLUMNS} FROM lots ORDER BY title DESC, auction_id LIMIT 100"),
    "scatter/aggregate/400": ("count, sum, max of 400",
                      "SELECT count(*), sum(seller), max(price) FROM lots WHERE bucket = 0"),
    "scatter/aggregate/400k": ("count, sum, max of 400,000", "SELECT count(*), sum(seller), max(price) FROM lots"),
    "scatter/wait/400": ("400 rows, waited for one by one", f"SELECT {COLUMNS} FROM lots WHERE bucket = 0 AND {WAIT}"),
    "scatter/wait/long": ("2,000 rows of 60 kB, waited for one by one",
                          f"SELECT auction_id, repeat('x', 60000) FROM lots WHERE bucket < 5 AND {WAIT}"),
    "scatter/wait/order": ("ORDER BY, 400, waited for one by one",
                           f"SELECT {COLUMNS} FROM lots WHERE bucket = 0 AND {WAIT} ORDER BY price, auction_id"),
}

COMBINE = {
    "combine/group": ("GROUP BY another column, 100,000 rows",
                      "SELECT seller, count(*), sum(price) FROM lots WHERE bucket < 250 GROUP BY seller"),
    "combine/window": ("window function over 100,000 rows",
                       "SELECT auction_id, rank() OVER (PARTITION BY seller ORDER BY price) FROM lots WHERE bucket < 250"),
    "combine/join": ("join by another column, 100,000 rows and 4,000",
                     "SELECT count(*), max(b.price) FROM lots AS a JOIN lots AS b ON a.seller = b.seller AND a.price < b.price "
                     "WHERE a.bucket < 250 AND b.bucket < 10"),
    "combine/distinct": ("count(DISTINCT …) of 400 rows", "SELECT count(DISTINCT seller) FROM lots WHERE bucket = 0"),
}

WRITES = {
    "write/insert": (f"INSERT of {INSERTED:,} rows", None),
    "write/parameters": (f"INSERT of {INSERTED:,} rows as parameters", None),
    "write/copy": (f"COPY FROM STDIN, {COPIED:,} rows", None),
}

CELLS = {**SCATTER, **COMBINE, **WRITES}


def query(text):
    """A Query frame."""
    return message(b"Q", text.encode() + b"\0")


def lots(count):
    """COPY data of `lots`, the same each time."""
    return "".join(f"{n}\t{n * 7919 % 1000}\t{n * 31 % 5000}\t{n * 104_729 % 1_000_000 / 100:.2f}\tLot number {n} of this sale\n"
                   for n in range(1, count + 1))


def offer(n):
    """The values of a row of `offers`."""
    return [str(n), str(n * 31 % 5000), f"{n * 104_729 % 1_000_000 / 100:.2f}", f"Lot number {n} of this sale"]


def load(cast, gavel):
    """The tables, with the same rows on one PostgreSQL and over the shards."""
    data = lots(LOTS)
    ports = [cast.solo_port, *(port for _, port in cast.shards)]
    for port in (cast.solo_port, gavel.port):
        for statement in SCHEMA.split(";\n"):
            if statement.strip():
                cast.world.sql(port, DATABASE, statement)
        cast.world.sql(port, DATABASE, "COPY lots FROM STDIN", stdin=data)
    for port in ports:
        for statement in ("VACUUM ANALYZE lots", "CHECKPOINT"):
            cast.world.sql(port, DATABASE, statement)


# --- what is sent ---------------------------------------------------------------------------------------------


def ask(*frames):
    """Sends frames on every connection and reads the answers to their end."""
    data = b"".join(frames)

    def run(connections, what):
        for connection in connections:
            connection.sendall(data)
        wait_ready(connections, what)
    return run


def copy_offers():
    """A COPY of all rows, in CopyData frames of some 64 kB."""
    start = query("COPY offers FROM STDIN")
    data = "".join("\t".join(offer(n)) + "\n" for n in range(1, COPIED + 1)).encode()
    frames = b"".join(message(b"d", data[at:at + 65_536]) for at in range(0, len(data), 65_536)) + message(b"c", b"")

    def run(connections, what):
        for connection in connections:
            connection.sendall(start)
            answer = connection.recv(65_536)
            if answer[:1] != b"G":
                raise Problem(f"{what}: {answer[:300]!r}")
            connection.sendall(frames)
        wait_ready(connections, what)
    return run


def insert_offers(as_parameters):
    """One INSERT of many rows."""
    rows = [offer(n) for n in range(1, INSERTED + 1)]
    head = f"INSERT INTO offers ({COLUMNS}) VALUES "
    if not as_parameters:
        return ask(query(head + ", ".join(f"({a}, {b}, {c}, '{d}')" for a, b, c, d in rows)))
    numbers = iter(range(1, INSERTED * 4 + 1))
    text = head + ", ".join("(" + ", ".join(f"${next(numbers)}" for _ in row) + ")" for row in rows)
    values = b"".join(struct.pack("!I", len(value)) + value.encode() for row in rows for value in row)
    return ask(
        message(b"P", b"\0" + text.encode() + b"\0\0\0"),
        message(b"B", b"\0\0\0\0" + struct.pack("!H", INSERTED * 4) + values + b"\0\0"),
        message(b"D", b"P\0"), message(b"E", b"\0\0\0\0\0"), message(b"S", b""),
    )


# --- measuring ------------------------------------------------------------------------------------------------


class Line:
    """Connections to one target: one, or one to each of its ports."""

    def __init__(self, target, ports=None):
        self.target, self.connections = target, []
        for port in ports or [target.port]:
            connection = connect(Target(target.name, port, None, []), False)
            wait_ready([connection], "login")
            self.connections.append(connection)

    def close(self):
        """Ends the sessions."""
        for connection in self.connections:
            connection.close()

    def answer(self, text):
        """The whole answer to a Query of the simple protocol, which must not be an error."""
        self.connections[0].sendall(query(text))
        answer = bytearray()
        while not answer.endswith(READY):
            answer += self.connections[0].recv(1 << 20)
        if b"SERROR\0" in answer[-2000:]:
            raise Problem(f"{self.target.name}, {text}: {bytes(answer[-2000:])!r}")
        return bytes(answer)

    def timed(self, run, what, repeat):
        """Milliseconds of wall clock, of the proxy's CPU and of the servers', for one statement."""
        trees = self.target.proxy_pids(), self.target.postgres_pids()
        before = [cpu_microseconds(pids) for pids in trees]
        start = time.perf_counter()
        for _ in range(repeat):
            run(self.connections, what)
        wall = time.perf_counter() - start
        proxy, servers = (cpu_microseconds(pids) - used for pids, used in zip(trees, before))
        return {"ms": wall * 1000 / repeat, "proxy_ms": proxy / 1000 / repeat, "servers_ms": servers / 1000 / repeat}


def in_turns(lines, run, what, rounds, between=None):
    """{name: medians}. The lines take turns; what is short is repeated, so that its CPU time can be read."""
    raw = {name: [] for name in lines}
    first = [line.timed(run, what, 1)["ms"] for line in lines.values()]
    repeat = max(1, min(200, int(200 / max(first)))) if not between else 1
    for _ in range(rounds):
        for name, line in lines.items():
            if between:
                between(line)
            raw[name].append(line.timed(run, what, repeat))
    return {
        name: {key: statistics.median(figures[key] for figures in found) for key in found[0]} for name, found in raw.items()
    }


def scatter(cast, gavel, text, rounds):
    """The shards one by one, all of them at once by connections of their own, and through the proxy; then with equal shares."""
    shards = {
        f"shard-{n}": Line(Target(f"shard-{n}", port, None, [process])) for n, (process, port) in enumerate(cast.shards, 1)
    }
    at_once = Line(Target("at once", None, None, [process for process, _ in cast.shards]), [port for _, port in cast.shards])
    lines = {**shards, "at_once": at_once, "gavel": Line(gavel)}
    lines["gavel"].answer(text)
    run = ask(query(text))
    figures = in_turns(lines, run, text, rounds)
    with of_a_fifth([process.pid for process, _ in cast.shards] + gavel.proxy_pids()) as possible:
        shared = in_turns(lines, run, text, max(3, rounds // 3)) if possible else {}
    for line in lines.values():
        line.close()

    def slowest(found):
        return max((found[name] for name in shards), key=lambda of_shard: of_shard["ms"])
    found = {"alone": slowest(figures), "at_once": figures["at_once"], "gavel": figures["gavel"]}
    if shared:
        found |= {"share_alone": slowest(shared), "share_gavel": shared["gavel"]}
    return found


def against_one(cast, gavel, run, what, rounds, check=None, between=None):
    """One PostgreSQL, and the proxy over the shards."""
    lines = {"direct": Line(Target("direct", cast.solo_port, None, [cast.solo])), "gavel": Line(gavel)}
    if check:
        sizes = {name: len(line.answer(check)) for name, line in lines.items()}
        if len(set(sizes.values())) != 1:
            raise Problem(f"{what}: answers of other lengths: {sizes}")
    figures = in_turns(lines, run, what, rounds, between)
    if between:
        answers = {line.answer("SELECT count(*), min(auction_id), max(auction_id) FROM offers")[-60:] for line in lines.values()}
        if len(answers) != 1 or not any(str(count).encode() in next(iter(answers)) for count in (INSERTED, COPIED)):
            raise Problem(f"{what}: not the same rows: {answers}")
    for line in lines.values():
        line.close()
    return figures


def empty_offers(line):
    """Before each write: the table is empty."""
    ask(query("TRUNCATE offers"))(line.connections, "TRUNCATE")


def measure_several(cast, gavel, names, rounds):
    """{cell: figures by target}, of the cells named."""
    load(cast, gavel)
    found = {}
    for name in names:
        title, text = CELLS[name]
        if name in SCATTER:
            found[name] = scatter(cast, gavel, text, rounds)
        elif name in COMBINE:
            found[name] = against_one(cast, gavel, ask(query(text)), title, rounds, check=text)
        else:
            run = copy_offers() if name == "write/copy" else insert_offers(name == "write/parameters")
            found[name] = against_one(cast, gavel, run, title, rounds, between=empty_offers)
        shown = "  ".join(f"{target} {figures['ms']:.2f} ms (CPU {figures['proxy_ms']:.2f} + {figures['servers_ms']:.2f})"
                          for target, figures in found[name].items())
        print(f"{name:24} {shown}", flush=True)
    return found
