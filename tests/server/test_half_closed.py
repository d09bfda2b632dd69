"""
Tests for clients that end their side of a connection in the middle of an answer, and read on: with FIN, or
over TLS with ``close_notify``. The answer ends short then, over TCP and TLS, on stock Twisted and on the fast
path alike (docs/decisions/half-closed.rst).
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThread

from contentcache.delivery.bodies import ClientSink
from contentcache.wire import sendfile_pool as pool_module
from contentcache.wire.sendfile import FileTransport
from contentcache.wire.sendfile_pool import SendfilePool
from tests.registry.harness import BLOB, SteppedBody, request
from tests.server.test_channel_sockets import SocketTestCase
from tests.waiting import until
from tests.wire.openssl_client import OpenSSLClient

_SIZE = 40_000_000


class _FileBody:
    """A body of a file, sent by threads of the sendfile pool where ``by_pool`` says so."""

    is_stored = True

    def __init__(self, path: Path, *, by_pool: bool = False) -> None:
        self.size = path.stat().st_size
        self.closed = False
        self._file = path.open("rb")
        self._by_pool = by_pool

    async def send(self, flow: ClientSink, start: int, stop: int | None, *, small_part: bool = False) -> None:
        end = self.size if stop is None else stop
        while start < end:
            await flow.ready()
            if not flow.can_send_files():
                self._file.seek(start)
                data = self._file.read(256 << 10)
                flow.write(data)
                start += len(data)
                continue
            if self._by_pool and (sent := await flow.send_by_pool(self._file.fileno(), start, end)):
                start += sent
                continue
            start += await flow.send_file(self._file.fileno(), start, min(start + (256 << 10), end))

    def close(self) -> None:
        self._file.close()
        self.closed = True


class HalfClosedTests(SocketTestCase):
    """Over TCP, with stock Twisted."""

    timeout = 60

    def half_close(self, end: str) -> Callable[[], int]:
        """
        A client that asks for a blob, reads a little, ends its side and reads on until the server ends; how
        many bytes it has got.
        """

        def run() -> int:
            plain = socket.socket()
            plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65536)
            plain.settimeout(40)
            plain.connect(("127.0.0.1", self.number))
            if not self.tls:
                with plain:
                    plain.sendall(request(BLOB).encode())
                    got = len(plain.recv(100))
                    plain.shutdown(socket.SHUT_WR)
                    return got + _count(lambda: plain.recv(1 << 16))
            with OpenSSLClient(plain) as client:
                client.send(request(BLOB).encode())
                got = len(client.read(100))
                if end == "FIN":
                    plain.shutdown(socket.SHUT_WR)
                else:
                    client.close_notify()
                return got + _count(lambda: client.read(1 << 16))

        return run

    @property
    def ends(self) -> tuple[str, ...]:
        """In which ways a client can end its side."""
        return ("FIN", "close_notify") if self.tls else ("FIN",)

    @inlineCallbacks
    def check(self, body_of: Callable[[], Any]) -> Generator[Deferred[Any], Any, None]:
        """The answer with this body ends short, is logged with what was sent, and everything is released."""
        for end in self.ends:
            self.services.content = body = body_of()
            got = yield deferToThread(self.half_close(end))
            yield until(lambda: self.lines)
            yield until(lambda: not self.factory.connections)
            line = self.lines.pop()
            self.assertEqual((line.status, self.lines), (200, []))
            self.assertTrue(body.closed)
            self.assertLess(got, _SIZE)
            self.assertLess(line.sent, _SIZE)
        self.assertEqual(self.flushLoggedErrors(), [])

    def file(self) -> Path:
        """A large file."""
        path = Path(self.mktemp())
        with path.open("wb") as file:
            file.truncate(_SIZE)
        return path

    def test_while_sending(self) -> Deferred[None]:
        """While bytes are being sent."""
        return self.check(lambda: _FileBody(self.file()))

    def test_while_waiting(self) -> Deferred[None]:
        """While the answer waits for upstream: nobody is waited for who has left."""
        return self.check(SteppedBody)


class FastHalfClosedTests(HalfClosedTests):
    """Over TCP, sent from files."""

    fast = True

    def test_by_pool(self) -> Deferred[None]:
        """While a thread of the sendfile pool is sending."""
        pool: Any = SendfilePool(deferToThread, 2)  # type: ignore[arg-type]
        # Over TLS nothing is read before the transfer has ended.
        self.patch(pool_module, "_MAX_SECONDS", 0.01)
        self.patch(FileTransport, "pool", pool)
        self.patch(FileTransport, "_is_fast", True)
        return self.check(lambda: _FileBody(self.file(), by_pool=True))


class TlsHalfClosedTests(HalfClosedTests):
    """Over TLS, with stock Twisted."""

    tls = True


class FastTlsHalfClosedTests(FastHalfClosedTests):
    """Over TLS on the socket itself."""

    tls = True


def _count(read: Callable[[], bytes]) -> int:
    """How many bytes come until the end, of whichever kind that is."""
    got = 0
    try:
        while data := read():
            got += len(data)
    except ConnectionError:
        pass
    return got
