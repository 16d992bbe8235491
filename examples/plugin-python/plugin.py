"""A store for vaultmux-mesh in Python: secrets and their history in one SQLite file.

    python plugin.py --socket /run/vaultmux/plugins/sqlite.sock --database secrets.db

A sample to copy from. It keeps secrets in clear: put your own store in its place.
"""

import argparse
import contextlib
import os
import re
import signal
import sqlite3
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import grpc
from google.protobuf.timestamp_pb2 import Timestamp
from grpc_health.v1 import health, health_pb2, health_pb2_grpc

# Stubs are made from the .proto when the program starts; README.md says how to make
# them beforehand.
PROTO = Path(__file__).resolve().parents[2] / "proto"
sys.path.append(os.environ.get("VAULTMUX_PROTO", str(PROTO)))
pb, pb_grpc = grpc.protos_and_services("vaultmux/plugin/v1/plugin.proto")

MAX_VALUE = 64 * 1024
LOOK = 0.5  # seconds
NAME = re.compile(r"[A-Za-z0-9/_+=.@-]{1,512}", re.ASCII)

SCHEMA = """
CREATE TABLE IF NOT EXISTS versions (
    name TEXT NOT NULL, version INTEGER NOT NULL, value BLOB NOT NULL, created REAL NOT NULL,
    PRIMARY KEY (name, version)
) WITHOUT ROWID;
"""


class Refusal(Exception):
    """An error that the caller is told, as one of the canonical codes."""

    def __init__(self, code, text):
        super().__init__(text)
        self.code = code


def not_found():
    return Refusal(grpc.StatusCode.NOT_FOUND, "no such secret or version")


def answers(method):
    """Turns exceptions into status codes; texts never hold a value."""

    def answer(self, request, context):
        try:
            return method(self, request)
        except Refusal as refusal:
            code, text = refusal.code, str(refusal)
        except sqlite3.Error as error:
            code, text = grpc.StatusCode.UNAVAILABLE, f"database: {error}"
        context.abort(code, text)

    return answer


def checked(name):
    """The service sends well-formed names only; do not rely on it."""
    segments = name.split("/")
    if not NAME.fullmatch(name) or ".." in name or "" in segments or "." in segments:
        raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "this is not a name")
    return name


def timestamp(seconds):
    return Timestamp(seconds=int(seconds), nanos=int(seconds % 1 * 1e9))


class Store(pb_grpc.SecretStoreServicer):
    def __init__(self, path):
        self.lock = threading.Lock()
        self.stopping = threading.Event()
        self.database = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
        self.database.executescript(SCHEMA)

    @contextlib.contextmanager
    def transaction(self):
        """One writer at a time: that makes Create atomic."""
        with self.lock:
            self.database.execute("BEGIN IMMEDIATE")
            try:
                yield self.database
            except BaseException:
                self.database.execute("ROLLBACK")
                raise
            self.database.execute("COMMIT")

    @staticmethod
    def latest(database, name):
        """The number of the newest version; 0 if there is none."""
        rows = database.execute("SELECT max(version) FROM versions WHERE name = ?", (name,))
        return rows.fetchone()[0] or 0

    @answers
    def GetInfo(self, request):
        can = pb.Capabilities(
            writable=True, list=True, pages=True, history=True, previous=True,
            empty_values=True, slashes=True, max_value_bytes=MAX_VALUE, watch=True,
        )
        return pb.GetInfoResponse(
            name="sqlite-sample", version="1.0.0", min_protocol=1, max_protocol=1,
            capabilities=can,
        )

    @answers
    def Get(self, request):
        name, version = checked(request.name), request.version
        with self.transaction() as database:
            if version in ("", "previous"):
                number = self.latest(database, name) - (version == "previous")
            elif re.fullmatch(r"[1-9][0-9]{0,17}", version, re.ASCII):
                number = int(version)
            else:
                raise not_found()
            row = database.execute(
                "SELECT value, created FROM versions WHERE name = ? AND version = ?",
                (name, number),
            ).fetchone()
        if row is None:
            raise not_found()
        return pb.GetResponse(
            name=name, value=row[0], version=str(number), created_at=timestamp(row[1])
        )

    @answers
    def List(self, request):
        # The token is the last name of the page before.
        size = min(request.page_size or 100, 1000)
        with self.transaction() as database:
            rows = database.execute(
                "SELECT DISTINCT name FROM versions"
                " WHERE name > ? AND substr(name, 1, ?) = ? ORDER BY name LIMIT ?",
                (request.page_token, len(request.prefix), request.prefix, size + 1),
            ).fetchall()
        names = [name for (name,) in rows]
        token = names[size - 1] if len(names) > size else ""
        return pb.ListResponse(names=names[:size], next_page_token=token)

    def add(self, request, *, create):
        name = checked(request.name)
        if len(request.value) > MAX_VALUE:
            raise Refusal(grpc.StatusCode.INVALID_ARGUMENT, "the value is too long")
        with self.transaction() as database:
            last = self.latest(database, name)
            if create and last:
                raise Refusal(grpc.StatusCode.ALREADY_EXISTS, "the name is taken")
            if not create and not last:
                raise not_found()
            database.execute(
                "INSERT INTO versions VALUES (?, ?, ?, ?)",
                (name, last + 1, request.value, time.time()),
            )
        return str(last + 1)

    @answers
    def Create(self, request):
        return pb.CreateResponse(version=self.add(request, create=True))

    @answers
    def Update(self, request):
        return pb.UpdateResponse(version=self.add(request, create=False))

    @answers
    def Delete(self, request):
        with self.transaction() as database:
            name = checked(request.name)
            if not database.execute("DELETE FROM versions WHERE name = ?", (name,)).rowcount:
                raise not_found()
        return pb.DeleteResponse()

    @answers
    def Versions(self, request):
        with self.transaction() as database:
            rows = database.execute(
                "SELECT version, created FROM versions WHERE name = ? ORDER BY version DESC",
                (checked(request.name),),
            ).fetchall()
        if not rows:
            raise not_found()
        stages = {0: ["latest"], 1: ["previous"]}
        return pb.VersionsResponse(
            versions=[
                pb.Version(id=str(number), stages=stages.get(at, []), enabled=True,
                           created_at=timestamp(created))
                for at, (number, created) in enumerate(rows)
            ]
        )

    def newest(self):
        """What tells one state of each secret from the next."""
        with self.transaction() as database:
            rows = database.execute(
                "SELECT name, max(version), max(created) FROM versions GROUP BY name"
            ).fetchall()
        return {name: state for name, *state in rows}

    def Watch(self, request, context):
        # Looks, since others may write to the file too. What was before it looked the
        # first time nobody knows: the service forgets what it has.
        before = self.newest()
        yield pb.WatchResponse(resync=True)
        while context.is_active() and not self.stopping.wait(LOOK):
            now = self.newest()
            names = [
                name for name in before.keys() | now.keys()
                if before.get(name) != now.get(name) and name.startswith(request.prefix)
            ]
            for at in range(0, len(names), 1000):
                yield pb.WatchResponse(names=names[at:at + 1000])
            before = now


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--socket", required=True, type=Path)
    parser.add_argument("--database", required=True, type=Path)
    arguments = parser.parse_args()

    # The socket and the file are ours alone; see "Who may talk to whom" in docs/plugins.md.
    os.umask(0o077)
    # A watch takes a thread for as long as it is open.
    server = grpc.server(ThreadPoolExecutor(max_workers=16))
    store = Store(arguments.database)
    pb_grpc.add_SecretStoreServicer_to_server(store, server)
    checks = health.HealthServicer()
    checks.set("", health_pb2.HealthCheckResponse.SERVING)
    health_pb2_grpc.add_HealthServicer_to_server(checks, server)
    server.add_insecure_port(f"unix:{arguments.socket.resolve()}")

    # Threads inherit the mask: these two reach nobody but sigwait below.
    endings = {signal.SIGINT, signal.SIGTERM}
    signal.pthread_sigmask(signal.SIG_BLOCK, endings)
    server.start()
    print(f"listening on {arguments.socket}", flush=True)
    signal.sigwait(endings)
    store.stopping.set()
    server.stop(grace=5).wait()


if __name__ == "__main__":
    main()
