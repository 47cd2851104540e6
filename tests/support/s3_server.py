"""A real S3 server on loopback, and a line to it that is slow, breaks off, and counts what is fetched."""

import logging
import re
import socket
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.request import Request, urlopen

from moto.server import ThreadedMotoServer
from upath import UPath

BUCKET = "shards"
REFUSALS = {
    "credentials that expired": (403, "ExpiredToken", "The provided token has expired."),
    "no rights to write": (403, "AccessDenied", "Access Denied"),
    "a full store": (507, "XMinioStorageFull", "Storage backend has reached its minimum free drive threshold."),
}
"""By what it is, an answer of a store: status, code and message."""
_TAR = re.compile(rb"GET /\S*?([\w.-]+\.tar)\S* HTTP")


class Line:
    """Forwards TCP connections to a server.

    Args:
        server: host and port.
        latency_s: waited before anything of an answer goes back.

    Attributes:
        fetches: GET requests by the tar they ask for.
        breaks: how many of the next answers with a tar's bytes break off.
        refusal: status, code and message that every request is answered with, in place of the server.
    """

    def __init__(self, server: tuple[str, int], latency_s: float = 0.0) -> None:
        self.fetches: Counter[str] = Counter()
        self.breaks = 0
        self.refusal: tuple[int, str, str] | None = None
        self._server = server
        self._latency_s = latency_s
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._open: list[socket.socket] = []
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        """Of this end."""
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def cut(self) -> None:
        """Ends it for good: nobody answers any more."""
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for end in self._open:
            _end(end)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            if self.refusal is not None:
                threading.Thread(target=_refuse, args=(client, *self.refusal), daemon=True).start()
                continue
            server = socket.create_connection(self._server)
            self._open += [client, server]
            for ends in ((client, server, self._asked), (server, client, self._answered)):
                threading.Thread(target=_pump, args=ends, daemon=True).start()

    def _asked(self, data: bytes) -> bool:
        if self.refusal is not None:
            return False  # a connection from before
        self.fetches.update(name.decode() for name in _TAR.findall(data))
        time.sleep(self._latency_s)
        return True

    def _answered(self, data: bytes) -> bool:
        if self.breaks and b".json" in data:  # a shard's pieces
            self.breaks -= 1
            return False
        return True


def _refuse(client, status: int, code: str, message: str) -> None:
    body = f'<?xml version="1.0"?><Error><Code>{code}</Code><Message>{message}</Message></Error>'.encode()
    head = f"HTTP/1.1 {status} No\r\nContent-Type: application/xml\r\nContent-Length: {len(body)}\r\n"
    with suppress(OSError):
        asked = client.recv(1 << 16)
        client.sendall(head.encode() + b"Connection: close\r\n\r\n" + (b"" if asked.startswith(b"HEAD") else body))
    _end(client)


def _pump(source, target, look) -> None:
    with suppress(OSError):
        while data := source.recv(1 << 16):
            if not look(data):
                break
            target.sendall(data)
    _end(source)
    _end(target)


def _end(connection: socket.socket) -> None:
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()


@contextmanager
def s3_server() -> Iterator[tuple[str, int]]:
    """Host and port of an S3 server in this process, with an empty bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        host, port = server.get_host_and_port()
        # All servers of a process have one memory.
        urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST")).close()
        bucket(f"http://{host}:{port}").mkdir()
        yield host, port
    finally:
        server.stop()


def bucket(url: str) -> UPath:
    """The bucket of the server behind a URL."""
    return UPath(
        f"s3://{BUCKET}",
        key="test",
        secret="test",
        endpoint_url=url,
        config_kwargs={"retries": {"max_attempts": 1}},  # its default would have a test wait
    )


def upload(folder: Path, target: UPath) -> None:
    """Copies the files of a split."""
    for path in folder.iterdir():
        if path.is_file():
            (target / path.name).write_bytes(path.read_bytes())
