"""Starts and stops everything the benchmark measures: PostgreSQL, PgBouncer, HAProxy, Gavel.

Every process listens on a free loopback port, keeps its files in one temporary directory, runs as an
unprivileged user when the benchmark was started as root (PostgreSQL and PgBouncer refuse root), and is stopped
by its own pid.
"""

import glob
import os
import pwd
import random
import resource
import shutil
import signal
import socket
import subprocess
import tempfile
import time
import zlib

DATABASE = "auction"
USER = "postgres"
AUCTIONS = 100_000
SHARDS = 4

# fsync is off on every server, so that the figures are of work done and not of this machine's disk.
POSTGRES_SETTINGS = {
    "listen_addresses": "127.0.0.1",
    "max_connections": "1200",
    "max_prepared_transactions": "300",
    "shared_buffers": "256MB",
    "fsync": "off",
    "synchronous_commit": "off",
    "full_page_writes": "off",
    "autovacuum": "off",
    "max_wal_size": "4GB",
    "log_min_messages": "fatal",
    "log_min_error_statement": "panic",
}

SCHEMA = """
CREATE TABLE auctions (
  auction_id bigint PRIMARY KEY,
  title text NOT NULL,
  price numeric(12,2) NOT NULL DEFAULT 1,
  bids integer NOT NULL DEFAULT 0
) WITH (fillfactor = 50);
CREATE TABLE bids (
  bid_id bigserial,
  auction_id bigint NOT NULL,
  bidder_id integer NOT NULL,
  amount numeric(12,2) NOT NULL,
  placed_at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (auction_id, bid_id)
);
"""


class Problem(Exception):
    """Something a person has to repair before the benchmark can run."""


def free_port():
    """A free loopback port below the ephemeral range, so that no outgoing connection takes it first."""
    for _ in range(200):
        port = random.randint(20_000, 30_000)
        with socket.socket() as probe:
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return port
    raise Problem("no free port between 20000 and 30000")


def wait_for(port, process, what, seconds=30):
    """Waits until something accepts connections on `port`."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if process.poll() is not None:
            raise Problem(f"{what} ended with status {process.returncode} before it listened")
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise Problem(f"{what} does not listen on port {port} after {seconds} s")


def install(packages):
    """Installs missing Debian packages when root, else says the command."""
    missing = [package for package, present in packages.items() if not present()]
    if not missing:
        return
    command = ["apt-get", "install", "-y", "--no-install-recommends", *missing]
    if os.geteuid() != 0 or not shutil.which("apt-get"):
        raise Problem("missing programs; run: sudo " + " ".join(command))
    environment = dict(os.environ, DEBIAN_FRONTEND="noninteractive")
    if subprocess.run(command, env=environment, stdout=subprocess.DEVNULL).returncode != 0:
        subprocess.run(["apt-get", "update"], stdout=subprocess.DEVNULL, check=True)
        subprocess.run(command, env=environment, stdout=subprocess.DEVNULL, check=True)
    for package in missing:
        # The packages start services of their own on the default ports; the benchmark does not use them.
        if shutil.which("systemctl") and os.path.isdir("/run/systemd/system"):
            subprocess.run(["systemctl", "disable", "--now", package], stderr=subprocess.DEVNULL)


def postgres_bin():
    """The directory of the newest installed PostgreSQL server binaries."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin/initdb"), key=lambda path: float(path.split("/")[4]))
    if found:
        return os.path.dirname(found[-1])
    on_path = shutil.which("initdb")
    return os.path.dirname(os.path.realpath(on_path)) if on_path else None


class Target:
    """Something that speaks PostgreSQL's protocol on a port, and the processes whose CPU it costs."""

    def __init__(self, name, port, proxy, postgres):
        self.name, self.port, self.proxy, self.postgres = name, port, proxy, postgres

    def proxy_pids(self):
        """Roots of the proxy's process trees."""
        return [self.proxy.pid] if self.proxy else []

    def postgres_pids(self):
        """Roots of the servers' process trees."""
        return [process.pid for process in self.postgres]


class World:
    """The temporary directory and every process in it. A context manager: leaving it stops and removes all."""

    def __init__(self):
        self.account = {}
        if os.geteuid() == 0:
            owner = pwd.getpwnam("postgres")
            self.account = {"user": owner.pw_uid, "group": owner.pw_gid, "extra_groups": []}
        self.directory = tempfile.mkdtemp(prefix="gavel-bench-")
        self.processes = []
        self._give(self.directory)
        hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))  # inherited by every process

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for process in reversed(self.processes):
            self.stop(process)
        shutil.rmtree(self.directory, ignore_errors=True)

    def _give(self, path):
        if self.account:
            os.chown(path, self.account["user"], self.account["group"])

    def write(self, name, text):
        """Writes a file that the unprivileged user can read; returns its path."""
        path = os.path.join(self.directory, name)
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        self._give(path)
        return path

    def run(self, command, **options):
        """Runs a command to its end as the unprivileged user."""
        return subprocess.run(command, cwd=self.directory, capture_output=True, text=True, **self.account, **options)

    def spawn(self, name, command, env=None):
        """Starts a process whose output goes to a log file."""
        log = open(os.path.join(self.directory, f"{name}.log"), "ab")
        process = subprocess.Popen(
            command, cwd=self.directory, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env, **self.account
        )
        process.log = log.name
        log.close()
        self.processes.append(process)
        return process

    def stop(self, process):
        """Ends one process: politely, then for good."""
        if process in self.processes:
            self.processes.remove(process)
        if process.poll() is not None:
            return
        process.send_signal(getattr(process, "stop_signal", signal.SIGTERM))
        try:
            process.wait(timeout=15)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def explain(self, process):
        """The end of a process's log, for error messages."""
        with open(process.log, encoding="utf-8", errors="replace") as log:
            return "".join(log.readlines()[-12:])

    # --- what is measured -------------------------------------------------------------------------------------

    def postgres(self, name):
        """A fresh PostgreSQL server with the database; returns (process, port)."""
        binaries = postgres_bin()
        data = os.path.join(self.directory, name)
        made = self.run([f"{binaries}/initdb", "-D", data, "-U", USER, "-A", "trust", "-E", "UTF8", "--locale=C",
                         "--no-sync"])
        if made.returncode != 0:
            raise Problem(made.stderr)
        port = free_port()
        settings = dict(POSTGRES_SETTINGS, port=str(port), unix_socket_directories=self.directory)
        options = [option for key, value in settings.items() for option in ("-c", f"{key}={value}")]
        process = self.spawn(name, [f"{binaries}/postgres", "-D", data, *options])
        process.stop_signal = signal.SIGINT  # fast shutdown
        wait_for(port, process, f"PostgreSQL {name}")
        self.sql(port, "postgres", f"CREATE DATABASE {DATABASE}")
        return process, port

    def sql(self, port, database, text, stdin=None):
        """Runs SQL by psql and returns its output; an error is a Problem."""
        done = self.run(["psql", "-X", "-q", "-A", "-t", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1", "-p", str(port),
                         "-U", USER, "-d", database, "-c", text], input=stdin)
        if done.returncode != 0:
            raise Problem(f"{text.strip().splitlines()[0]}: {done.stderr.strip()}")
        return done.stdout.strip()

    def load(self, port):
        """Creates and fills the tables through the port given: of a server or of a proxy."""
        for statement in SCHEMA.split(";\n"):
            if statement.strip():
                self.sql(port, DATABASE, statement)
        rows = "".join(f"{n}\tAuction number {n}\t{n % 500}.50\t0\n" for n in range(1, AUCTIONS + 1))
        self.sql(port, DATABASE, "COPY auctions (auction_id, title, price, bids) FROM STDIN", stdin=rows)

    def certificate(self):
        """A self-signed certificate for the measurement of memory under TLS; paths of certificate and key."""
        paths = [os.path.join(self.directory, name) for name in ("tls.crt", "tls.key")]
        if not os.path.exists(paths[0]):
            made = self.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                             "-nodes", "-days", "2", "-subj", "/CN=localhost", "-out", paths[0], "-keyout", paths[1]])
            if made.returncode != 0:
                raise Problem(made.stderr)
        return paths

    def pgbouncer(self, backend_port, tls=False):
        """PgBouncer in transaction pooling mode, pool of 20; returns (process, port)."""
        port = free_port()
        tls_lines = ""
        if tls:
            certificate, key = self.certificate()
            tls_lines = f"client_tls_sslmode = allow\nclient_tls_cert_file = {certificate}\nclient_tls_key_file = {key}\n"
        users = self.write("pgbouncer-users", f'"{USER}" ""\n')
        config = self.write(f"pgbouncer-{port}.ini", f"""[databases]
* = host=127.0.0.1 port={backend_port}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {users}
pool_mode = transaction
default_pool_size = 20
max_client_conn = 6000
log_connections = 0
log_disconnections = 0
ignore_startup_parameters = extra_float_digits
{tls_lines}""")
        process = self.spawn(f"pgbouncer-{port}", [shutil.which("pgbouncer"), "-q", config])
        process.stop_signal = signal.SIGINT
        wait_for(port, process, "PgBouncer")
        return process, port

    def haproxy(self, backend_port):
        """HAProxy relaying TCP; returns (process, port)."""
        port = free_port()
        config = self.write(f"haproxy-{port}.cfg", f"""global
  maxconn 4000
defaults
  mode tcp
  timeout connect 5s
  timeout client 1h
  timeout server 1h
listen postgres
  bind 127.0.0.1:{port}
  server one 127.0.0.1:{backend_port}
""")
        process = self.spawn(f"haproxy-{port}", [shutil.which("haproxy"), "-db", "-f", config])
        wait_for(port, process, "HAProxy")
        return process, port

    def gavel(self, binary, backend_ports, tls=False, under=()):
        """Gavel over one or several shards, `under` a program that watches it; returns (process, port)."""
        port = free_port()
        tls_lines = ""
        if tls:
            certificate, key = self.certificate()
            tls_lines = f'tls = "allow"\ntls_certificate = "{certificate}"\ntls_key = "{key}"\n'
        shards = "".join(
            f'[[shards]]\nname = "shard-{n}"\nprimary = "127.0.0.1:{backend}"\n'
            for n, backend in enumerate(backend_ports, 1)
        )
        config = self.write(f"gavel-{port}.toml", f"""[listen]
address = "127.0.0.1:{port}"
{tls_lines}[auth]
method = "trust"
query_user = "{USER}"
[pool]
mode = "transaction"
size = 20
[limits]
clients = 6000
[routing]
reads = "primary"
two_phase = true
[[databases]]
name = "{DATABASE}"
kind = "sharded"
[[databases]]
name = "*"
kind = "first_shard"
{shards}
[[tables]]
column = "auction_id"
kind = "sharded"
key = "auction_id"
""")
        program = os.path.join(self.directory, f"gavel-{zlib.crc32(os.fsencode(binary)):08x}")
        if not os.path.exists(program):
            # A copy: the unprivileged user may not be allowed into the source tree.
            shutil.copy2(binary, program)
            os.chmod(program, 0o755)
        process = self.spawn(f"gavel-{port}", [*under, program, "--config", config])
        try:
            wait_for(port, process, "Gavel")
        except Problem as problem:
            raise Problem(f"{problem}\n{self.explain(process)}") from None
        return process, port
