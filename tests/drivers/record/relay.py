"""A relay between an application and PostgreSQL that writes down what the application sends.

    relay.py FILE PORT -- COMMAND ...

PORT is PostgreSQL's. Starts COMMAND with PGHOST and PGPORT of the relay, and writes FILE in the language of `tests/support/script.rs`: one
batch for what is sent at once, a blank line where the application has waited for the answer. The answers are not written down:
whoever replays the file asks PostgreSQL again. Connections are `A`, `B`, ... in the order in which they are opened.

An application names its next section by a connection that says `MARK name` and a line feed, and waits for a line feed.
It does one thing at a time: requests have one order.
"""

import re
import socket
import struct
import subprocess
import sys
import threading
from os import environ
from pathlib import Path

SSL_REQUEST, GSSENC_REQUEST = 80877103, 80877104


def quoted(data):
    """A string in the language of the transcripts."""
    out = []
    for character in data.decode("utf-8", "surrogateescape"):
        code = ord(character)
        if character in '"\\':
            out.append("\\" + character)
        elif character in "\n\t\r":
            out.append({"\n": "\\n", "\t": "\\t", "\r": "\\r"}[character])
        elif 0xDC80 <= code <= 0xDCFF:
            out.append(f"\\x{code - 0xDC00:02x}")
        elif code < 32 or code == 127:
            out.append(f"\\x{code:02x}")
        else:
            out.append(character)
    return '"' + "".join(out) + '"'


class Body:
    """The fields of a message, from the left."""

    def __init__(self, data):
        self.data = data

    def take(self, count):
        part, self.data = self.data[:count], self.data[count:]
        return part

    def string(self):
        part, _, self.data = self.data.partition(b"\0")
        return quoted(part)

    def short(self):
        return struct.unpack("!h", self.take(2))[0]

    def long(self):
        return struct.unpack("!i", self.take(4))[0]


def bind(body):
    """Portal, statement, values, formats of the result."""
    names = f"{body.string()} {body.string()}"
    formats = [body.short() for _ in range(body.short())]
    values = []
    for number in range(body.short()):
        binary = formats[number if len(formats) > 1 else 0] if formats else 0
        length = body.long()
        if length < 0:
            values.append("null")
        elif binary:
            values.append("b:" + body.take(length).hex())
        else:
            values.append("t:" + quoted(body.take(length)))
    results = [str(body.short()) for _ in range(body.short())]
    return f"{names} [{' '.join(values)}] [{' '.join(results)}]"


def parse(body):
    """Name, text, types of parameters."""
    text = f"{body.string()} {body.string()}"
    types = [str(body.long() & 0xFFFFFFFF) for _ in range(body.short())]
    return f"{text} [{' '.join(types)}]" if types else text


MESSAGES = {
    b"Q": lambda body: f"Query {body.string()}",
    b"P": lambda body: f"Parse {parse(body)}",
    b"B": lambda body: f"Bind {bind(body)}",
    b"D": lambda body: f"Describe {body.take(1).decode()} {body.string()}",
    b"C": lambda body: f"Close {body.take(1).decode()} {body.string()}",
    b"E": lambda body: f"Execute {body.string()} {body.long()}",
    b"S": lambda body: "Sync",
    b"H": lambda body: "Flush",
    b"d": lambda body: f"CopyData {quoted(body.data)}",
    b"c": lambda body: "CopyDone",
    b"f": lambda body: f"CopyFail {body.string()}",
}


class Transcript:
    """The file; one line of one connection at a time."""

    def __init__(self, file):
        self.file, self.lock, self.sessions = file, threading.Lock(), 0

    def mark(self, name):
        with self.lock:
            self.file.write(f"\n== {name}\n")

    def session(self):
        with self.lock:
            self.sessions += 1
            return chr(ord("A") + self.sessions - 1)

    def line(self, text):
        with self.lock:
            self.file.write(text + "\n")
            self.file.flush()


class Connection:
    """One connection of the application, and what it still waits for."""

    def __init__(self, frontend, server, transcript):
        self.frontend, self.transcript = frontend, transcript
        self.backend = socket.create_connection(("127.0.0.1", server))
        self.owed, self.last_sent, self.last_answer = 0, None, None
        # Whether a part of the batch has been waited for already.
        self.parted = False

    def run(self, first):
        """Passes the login on, then message by message."""
        while struct.unpack("!i", first[:4])[0] in (SSL_REQUEST, GSSENC_REQUEST):
            self.frontend.sendall(b"N")
            first = packet(self.frontend)
        if struct.unpack("!i", first[:4])[0] != 3 << 16:
            self.backend.sendall(struct.pack("!i", len(first) + 4) + first)
            return
        self.name = self.transcript.session()
        words = first[4:].rstrip(b"\0").split(b"\0")
        pairs = zip(words[::2], words[1::2])
        shown = [f"{name.decode()}={value.decode()}" for name, value in pairs if name not in (b"user", b"database")]
        if self.name == "A" and shown:
            self.transcript.line("! startup " + " ".join(pair.replace(" ", "+") for pair in shown))
        self.backend.sendall(struct.pack("!i", len(first) + 4) + first)
        self.logged_in = False
        threading.Thread(target=self.answers, daemon=True).start()
        self.questions()

    def questions(self):
        while (message := frame(self.frontend)) is not None:
            tag, body = message
            if self.logged_in and tag in MESSAGES:
                self.question(tag, body)
            self.backend.sendall(tag + struct.pack("!i", len(body) + 4) + body)
        self.backend.close()

    def question(self, tag, body):
        # An answer that did not end with ReadyForQuery, and the application went on: it has waited for that message.
        waited = self.last_answer not in (None, b"Z") and (self.last_sent == b"H" or self.last_answer == b"G")
        if waited:
            self.transcript.line(f"{self.name}< {self.last_answer.decode()}")
            self.parted = True
        self.last_answer = None
        self.transcript.line(f"{self.name}> {MESSAGES[tag](Body(body))}")
        self.owed += tag in (b"Q", b"S")
        self.last_sent = tag

    def answers(self):
        while (message := frame(self.backend)) is not None:
            tag, body = message
            if not self.logged_in:
                self.logged_in = tag == b"Z"
            else:
                self.last_answer = tag
                if tag == b"Z":
                    self.owed -= 1
                    if self.owed == 0:
                        self.transcript.line(f"{self.name}< Z" if self.parted else "")
                        self.parted = False
            try:
                self.frontend.sendall(tag + struct.pack("!i", len(body) + 4) + body)
            except OSError:
                return
        self.frontend.close()


def exactly(stream, count):
    """So many bytes, or None at the end."""
    data = b""
    while len(data) < count:
        try:
            part = stream.recv(count - len(data))
        except OSError:
            return None
        if not part:
            return None
        data += part
    return data


def packet(stream):
    """What follows the length."""
    length = exactly(stream, 4)
    return length and exactly(stream, struct.unpack("!i", length)[0] - 4)


def frame(stream):
    """Tag and body."""
    head = exactly(stream, 5)
    if head is None:
        return None
    length = struct.unpack("!i", head[1:])[0]
    body = exactly(stream, length - 4) if length > 4 else b""
    return None if body is None else (head[:1], body)


def serve(stream, server, transcript):
    """A connection of the application, or the name of a section."""
    stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    head = exactly(stream, 4)
    if head == b"MARK":
        name = b""
        while not name.endswith(b"\n"):
            name += exactly(stream, 1)
        transcript.mark(name.decode().strip())
        stream.sendall(b"\n")
        stream.close()
    elif head:
        Connection(stream, server, transcript).run(exactly(stream, struct.unpack("!i", head)[0] - 4))


def name_objects(path, server):
    """Adds the names of the objects whose OIDs the application has sent: on another server they have others."""
    text = Path(path).read_text(encoding="utf-8")
    numbers = set(re.findall(r"(?<![\w.])[1-9][0-9]{4}(?![\w.])", text))
    numbers |= {str(int(digits, 16)) for digits in re.findall(r"\bb:([0-9a-f]{4,16})\b", text)}
    sql = """select oid, 'class', oid::regclass::text from pg_class where oid >= 16384
        union all select oid, 'type', oid::regtype::text from pg_type where oid >= 16384"""
    psql = ["psql", "-p", str(server), "-AtF", " ", "-c", sql]
    known = subprocess.run(psql, check=True, capture_output=True, text=True).stdout.splitlines()
    with open(path, "a", encoding="utf-8") as file:
        file.writelines(f"# oid {line}\n" for line in known if line.split()[0] in numbers)


def main():
    """Listens until the command has ended."""
    path, server = sys.argv[1], int(sys.argv[2])
    command = sys.argv[sys.argv.index("--") + 1:]
    listener = socket.create_server(("127.0.0.1", 0))
    with open(path, "w", encoding="utf-8") as file:
        file.write(f"# What {Path(path).stem} sends; recorded by tests/drivers/record/run, not edited.\n")
        transcript = Transcript(file)

        def accept():
            while True:
                stream, _ = listener.accept()
                threading.Thread(target=serve, args=(stream, server, transcript), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        ours = environ | {"PGHOST": "127.0.0.1", "PGPORT": str(listener.getsockname()[1])}
        status = subprocess.run(command, env=ours, timeout=120).returncode
        name_objects(path, server)
        sys.exit(status)


if __name__ == "__main__":
    main()
