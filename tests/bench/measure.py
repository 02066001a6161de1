"""The measurements: pgbench with percentiles, CPU time of process trees, memory per idle client."""

import glob
import os
import re
import select
import socket
import ssl
import struct
import subprocess
import time

from servers import AUCTIONS, DATABASE, USER, Problem

TICK_MICROSECONDS = 1_000_000 / os.sysconf("SC_CLK_TCK")

SELECT = f"\\set id random(1, {AUCTIONS})\nSELECT auction_id, title, price FROM auctions WHERE auction_id = :id;\n"
RANDOM_BID = f"\\set id random(1, {AUCTIONS})\n\\set bidder random(1, 10000)\n\\set amount random(1, 1000)\n"
INSERT = "INSERT INTO bids (auction_id, bidder_id, amount) VALUES (:id, :bidder, :amount);\n"

# name -> (title, script, options of pgbench)
WORKLOADS = {
    "select": ("point select by key", SELECT, []),
    "select1": ("`SELECT 1`", "SELECT 1;\n", []),
    "insert": ("insert of one row", RANDOM_BID + INSERT, []),
    "transaction": (
        "transaction of five statements",
        RANDOM_BID
        + "BEGIN;\nSELECT price FROM auctions WHERE auction_id = :id FOR UPDATE;\n"
        + "UPDATE auctions SET price = :amount, bids = bids + 1 WHERE auction_id = :id;\n"
        + INSERT
        + "COMMIT;\n",
        [],
    ),
    "connect": ("a connection per transaction (point select)", SELECT, ["--connect"]),
}
PROTOCOLS = ["simple", "extended", "prepared"]


def tree(root):
    """Process ids of `root` and its living descendants."""
    children = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            with open(path, encoding="ascii", errors="replace") as file:
                text = file.read()
        except OSError:
            continue
        pid, parent = int(text.split(" ", 1)[0]), int(text.rsplit(")", 1)[1].split()[1])
        children.setdefault(parent, []).append(pid)
    found, queue = [], [root]
    while queue:
        pid = queue.pop()
        found.append(pid)
        queue += children.get(pid, [])
    return found


def cpu_microseconds(roots):
    """CPU time used so far by process trees, children that have ended and were waited for included."""
    used = 0
    for root in roots:
        for pid in tree(root):
            try:
                # The scheduler counts the threads that live in nanoseconds, what has ended is told in ticks.
                nanoseconds = 0
                for path in glob.glob(f"/proc/{pid}/task/*/schedstat"):
                    with open(path, encoding="ascii") as file:
                        nanoseconds += int(file.read().split()[0])
                with open(f"/proc/{pid}/stat", encoding="ascii", errors="replace") as file:
                    fields = file.read().rsplit(")", 1)[1].split()
            except OSError:
                continue
            own, ended = (int(fields[11]) + int(fields[12]), int(fields[13]) + int(fields[14]))
            used += nanoseconds / 1000 if nanoseconds else own * TICK_MICROSECONDS
            used += ended * TICK_MICROSECONDS
    return used


def anonymous_kib(roots):
    """RssAnon of process trees in KiB: memory of their own, without files and shared memory."""
    total = 0
    for root in roots:
        for pid in tree(root):
            with open(f"/proc/{pid}/status", encoding="ascii", errors="replace") as file:
                found = re.search(r"RssAnon:\s+(\d+)", file.read())
            total += int(found.group(1)) if found else 0
    return total


def percentile(ordered, fraction):
    """The value below which `fraction` of an ascending list lies."""
    return ordered[min(len(ordered) - 1, int(len(ordered) * fraction))]


def pgbench(world, target, cell, seconds):
    """One run of one cell against one target; a dict of figures, or of the error that pgbench reported."""
    workload, protocol, clients = cell
    _, script, options = WORKLOADS[workload]
    script_file = world.write(f"{workload}.sql", script)
    prefix = os.path.join(world.directory, "pgbench-log")
    # Pools that this run does not use are quiet; what the last run left (ends of processes) is waited out.
    time.sleep(0.2)
    before_proxy, before_postgres = cpu_microseconds(target.proxy_pids()), cpu_microseconds(target.postgres_pids())
    command = [
        "pgbench", "-n", "-M", protocol, "-c", str(clients), "-j", str(min(clients, 2)), "-T", str(seconds),
        "-f", script_file, "--log", f"--log-prefix={prefix}", *options,
        "-h", "127.0.0.1", "-p", str(target.port), "-U", USER, DATABASE,
    ]
    try:
        done = world.run(command, timeout=seconds * 3 + 60)
    except subprocess.TimeoutExpired:
        return {"error": "pgbench did not end"}
    time.sleep(0.2)
    proxy = cpu_microseconds(target.proxy_pids()) - before_proxy
    postgres = cpu_microseconds(target.postgres_pids()) - before_postgres
    latencies = []
    for path in glob.glob(f"{prefix}.*"):
        with open(path, encoding="ascii") as file:
            latencies += [int(line.split(" ", 3)[2]) for line in file]
        os.unlink(path)
    tps = re.search(r"^tps = ([0-9.]+)", done.stdout, re.MULTILINE)
    if done.returncode != 0 or not tps or not latencies:
        complaint = [line for line in done.stderr.splitlines() if "error" in line.lower() or "ERROR" in line]
        return {"error": (complaint or done.stderr.splitlines() or ["no output"])[0]}
    latencies.sort()
    return {
        "tps": float(tps.group(1)),
        "p50_ms": percentile(latencies, 0.50) / 1000,
        "p99_ms": percentile(latencies, 0.99) / 1000,
        "proxy_us": proxy / len(latencies) if target.proxy else None,
        "postgres_us": postgres / len(latencies),
        "transactions": len(latencies),
    }


# --- idle clients ---------------------------------------------------------------------------------------------


def message(tag, body):
    """One frame of the frontend."""
    return tag + struct.pack("!I", len(body) + 4) + body


STARTUP = struct.pack("!I", 196608) + f"user\0{USER}\0database\0{DATABASE}\0\0".encode()
READY = b"Z\x00\x00\x00\x05I"


def wait_ready(connections, what, seconds=120):
    """Reads from all connections until each has sent ReadyForQuery."""
    poller = select.epoll()
    by_fd = {connection.fileno(): (connection, bytearray()) for connection in connections}
    for fd in by_fd:
        poller.register(fd, select.EPOLLIN)
    open_fds, deadline = set(by_fd), time.monotonic() + seconds
    while open_fds:
        if time.monotonic() > deadline:
            raise Problem(f"{what}: {len(open_fds)} of {len(connections)} clients got no answer in {seconds} s")
        for fd, _ in poller.poll(1):
            connection, tail = by_fd[fd]
            data = connection.recv(65536)
            while isinstance(connection, ssl.SSLSocket) and connection.pending():
                data += connection.recv(65536)  # what TLS has read ahead wakes no poll
            if not data:
                raise Problem(f"{what}: connection closed: {bytes(tail)[-200:]!r}")
            tail += data
            del tail[:-300]
            if tail.endswith(READY):
                poller.unregister(fd)
                open_fds.discard(fd)
    poller.close()


def connect(target, tls):
    """A connection on which the startup packet has been sent."""
    connection = socket.create_connection(("127.0.0.1", target.port))
    if tls:
        connection.sendall(struct.pack("!II", 8, 80877103))
        if connection.recv(1) != b"S":
            raise Problem(f"{target.name} does not speak TLS")
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        connection = context.wrap_socket(connection)
    connection.sendall(struct.pack("!I", len(STARTUP) + 4) + STARTUP)
    return connection


def everybody(connections, frame, what):
    """Sends a frame on every connection, some hundred at a time, and waits for all answers."""
    for start in range(0, len(connections), 200):
        group = connections[start:start + 200]
        for connection in group:
            connection.sendall(frame)
        wait_ready(group, what)


def idle_memory(target, clients, tls=False):
    """KiB of the proxy's own memory per idle client after login, after one query, after a row of 100 kB."""
    # One client first, so that what the proxy allocates once (caches, pools, catalog) is part of the baseline.
    warm = connect(target, tls)
    wait_ready([warm], "login")
    everybody([warm], message(b"Q", b"SELECT 1\0"), "one query")
    time.sleep(1)
    baseline = anonymous_kib(target.proxy_pids())
    connections, figures = [], {}
    try:
        while len(connections) < clients:
            group = [connect(target, tls) for _ in range(min(200, clients - len(connections)))]
            connections += group
            wait_ready(group, "login")
        steps = [
            ("login", None),
            ("query", b"SELECT auction_id, title, price FROM auctions WHERE auction_id = 42\0"),
            ("row_100kb", b"SELECT repeat('x', 100000)\0"),
        ]
        for name, statement in steps:
            if statement:
                everybody(connections, message(b"Q", statement), name)
            time.sleep(3)
            figures[name] = (anonymous_kib(target.proxy_pids()) - baseline) / clients
    finally:
        for connection in [warm, *connections]:
            connection.close()
    return figures
