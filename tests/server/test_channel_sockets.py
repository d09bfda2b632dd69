"""Tests for :mod:`contentcache.server.channel` on real sockets, where only they can tell: FIN or reset, and TLS."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from twisted.internet import reactor as global_reactor
from twisted.internet.defer import Deferred, inlineCallbacks
from twisted.internet.threads import deferToThread

from contentcache.config.model import Limits, ServerTLS
from contentcache.delivery.bodies import ClientSink, ShortError
from contentcache.server import channel as channel_module
from contentcache.tls.server import ServerContext
from contentcache.wire.sendfile import FileTransport
from contentcache.wire.tls_socket import TLSFactory, tls_transport
from tests.registry.harness import BLOB, CONTENT, RegistryTestCase, Reply, SteppedBody, replies, request
from tests.tls.certificates import make
from tests.waiting import until

reactor: Any = global_reactor
T = TypeVar("T")
_PATIENCE = 20


class SocketTestCase(RegistryTestCase):
    """Has a port on loopback, with TLS or without; clients are blocking sockets in threads."""

    tls = False
    fast = False

    def setUp(self) -> None:
        super().setUp()
        # Nobody waits for a client of these tests to go by itself.
        self.patch(channel_module, "_LINGER", 0.2)
        self.serve(Limits())

    def serve(self, limits: Limits) -> None:
        """Listen anew."""
        self.factory = self.build(limits=limits, clock=reactor)
        served: Any = self.factory
        if self.tls:
            certificate, key = make("cache", hosts=("127.0.0.1",)).write(self.mktemp(), "cache")
            context: Any = ServerContext(ServerTLS(certificate, key))
            if not self.fast:
                served = TLSFactory(context, False, served, reactor)
        port = reactor.listenTCP(0, served, interface="127.0.0.1")
        if self.fast:
            port.transport = tls_transport(context) if self.tls else FileTransport
        self.number = port.getHost().port
        self.addCleanup(self._stop, port)

    @inlineCallbacks
    def _stop(self, port: Any) -> Generator[Deferred[Any], Any, None]:
        yield port.stopListening()
        self.factory.cut()
        yield until(lambda: not self.factory.connections)

    @contextmanager
    def connected(self) -> Iterator[socket.socket]:
        """A client's socket, for use in a thread."""
        with socket.create_connection(("127.0.0.1", self.number), _PATIENCE) as plain:
            if not self.tls:
                yield plain
                return
            context = ssl.create_default_context()
            context.check_hostname = False
            context.verify_mode = ssl.CERT_NONE
            # Where TLS is not ended in its own way this raises.
            with context.wrap_socket(plain, suppress_ragged_eofs=False) as wrapped:
                yield wrapped

    def client(self, work: Callable[[socket.socket], T]) -> Deferred[T]:  # type: ignore[override]
        """Run a client in a thread."""

        def run() -> T:
            with self.connected() as connection:
                return work(connection)

        return deferToThread(run)


def read_all(connection: socket.socket) -> bytes:
    """Everything until the end; a reset raises."""
    data = b""
    while piece := connection.recv(1 << 16):
        data += piece
    return data


class PlainTests(SocketTestCase):
    """Over TCP."""

    def sends(self, *pieces: bytes) -> Callable[[socket.socket], list[Reply]]:
        """A client that sends and reads to the end."""

        def work(connection: socket.socket) -> list[Reply]:
            for piece in pieces:
                connection.sendall(piece)
            return replies(read_all(connection))

        return work

    @inlineCallbacks
    def test_short(self) -> Generator[Deferred[Any], Any, None]:
        """
        A response that ends short is read to its last byte, and then there is an end, and no reset; also when
        more has been pipelined than anybody reads.
        """
        more = request("/v2/smuggled/tags/list").encode() * 3000
        for behind in (b"", more):
            self.services.content = body = SteppedBody()
            reading = self.client(self.sends(request(BLOB).encode() + behind))
            yield until(lambda: self.services.asked)
            body.give(5000)
            body.end_short()
            (reply,) = yield reading
            self.assertEqual((reply.status, reply.body, reply.whole), (200, CONTENT[:5000], False))
            self.assertEqual(len(self.services.asked), 1)
            self.services.asked.clear()

    @inlineCallbacks
    def test_big_and_short(self) -> Generator[Deferred[Any], Any, None]:
        """The same where the last bytes are still in this process."""
        content = CONTENT * 500
        self.services.content = body = SteppedBody(content, size=len(content) + 1)
        reading = self.client(self.sends(request(BLOB).encode()))
        yield until(lambda: self.services.asked)
        body.give(len(content))
        body.end_short()
        (reply,) = yield reading
        self.assertEqual((len(reply.body), reply.whole), (len(content), False))

    @inlineCallbacks
    def test_short_chunks(self) -> Generator[Deferred[Any], Any, None]:
        """Nor is there a last chunk."""
        self.services.content = body = SteppedBody(size=None)
        reading = self.client(self.sends(request(BLOB).encode()))
        yield until(lambda: self.services.asked)
        body.give(5000)
        body.end_short()
        (reply,) = yield reading
        self.assertEqual((reply.body, reply.whole), (CONTENT[:5000], False))

    @inlineCallbacks
    def test_upload(self) -> Generator[Deferred[Any], Any, None]:
        """A client in the middle of a big upload reads the answer, and that there is no more."""

        def upload(connection: socket.socket) -> list[Reply]:
            connection.sendall(
                request("/v2/a/blobs/uploads/", "Content-Length: 1000000000", method="POST").encode()
            )
            connection.settimeout(0)
            sent = 0
            while sent < 20_000_000:
                try:
                    sent += connection.send(b"x" * 65536)
                except (BlockingIOError, ssl.SSLWantWriteError, ssl.SSLWantReadError):
                    continue
                except OSError:
                    break
            connection.settimeout(_PATIENCE)
            return replies(read_all(connection))

        found = yield self.client(upload)
        self.assertEqual([reply.status for reply in found], [405])
        self.assertEqual(self.flushLoggedErrors(), [])

    @inlineCallbacks
    def test_smuggling(self) -> Generator[Deferred[Any], Any, None]:
        """What stands behind a request that is framed in doubt is not acted on, in one segment or in two."""
        doubtful = request("/", "Content-Length: 5", "Transfer-Encoding: chunked", method="POST").encode()
        smuggled = b"0\r\n\r\n" + request("/v2/smuggled/tags/list").encode()
        for pieces in ((doubtful + smuggled,), (doubtful, smuggled)):
            found = yield self.client(self.sends(*pieces))
            self.assertEqual([reply.status for reply in found], [400])
        self.assertEqual(self.services.asked, [])

    @inlineCallbacks
    def test_pipelining(self) -> Generator[Deferred[Any], Any, None]:
        """Good requests in a row are answered in a row, and the end comes where it was asked for."""
        data = (request(BLOB) + request("/")) * 20 + request(BLOB, "Connection: close") + request("/")
        found = yield self.client(self.sends(data.encode()))
        self.assertEqual([reply.body for reply in found], [CONTENT, b""] * 20 + [CONTENT])

    @inlineCallbacks
    def test_too_many(self) -> Generator[Deferred[Any], Any, None]:
        """One connection too many reads its refusal."""
        self.serve(Limits(connections=0))
        (reply,) = yield self.client(self.sends(request("/").encode()))
        self.assertEqual((reply.status, reply.header("Retry-After")), (503, "5"))

    @inlineCallbacks
    def test_takes_nothing(self) -> Generator[Deferred[Any], Any, None]:
        """A client that takes nothing is cut off, and nothing more is put into memory for it meanwhile."""
        self.serve(Limits(clientstall=0.3))
        self.services.content = CONTENT * 4000

        def wait(connection: socket.socket) -> bool:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
            connection.sendall(request(BLOB).encode())
            gone.wait(_PATIENCE)
            return True

        gone = threading.Event()
        waiting = self.client(wait)
        yield until(lambda: self.lines)
        gone.set()
        yield waiting
        yield until(lambda: self.factory.connections == 0)
        self.assertEqual(self.flushLoggedErrors(), [])

    @inlineCallbacks
    def test_takes_slowly(self) -> Generator[Deferred[Any], Any, None]:
        """
        A client that takes a little at a time gets all, though no buffer here is empty for much longer than
        ``limits.clientstall``.
        """
        self.serve(Limits(clientstall=1.0))
        self.services.content = CONTENT * 100

        def sip(connection: socket.socket) -> int:
            connection.sendall(request(BLOB, "Connection: close").encode())
            taken = 0
            pause = threading.Event()
            while piece := connection.recv(8192):
                taken += len(piece)
                pause.wait(0.02)
            return taken

        taken = yield self.client(sip)
        self.assertGreater(taken, len(CONTENT) * 60)

    @inlineCallbacks
    def test_last_bytes(self) -> Generator[Deferred[Any], Any, None]:
        """When all connections are to end, one whose client has not taken all of its answer is busy."""
        content = CONTENT * 500
        self.services.content = body = SteppedBody(content, size=len(content))

        def hesitate(connection: socket.socket) -> list[Reply]:
            connection.sendall(request(BLOB).encode())
            looked.wait(_PATIENCE)
            return replies(read_all(connection))

        looked = threading.Event()
        reading = self.client(hesitate)
        yield until(lambda: self.services.asked)
        body.give(len(content))
        self.factory.close_idle()
        self.assertEqual((self.factory.busy, self.lines), (1, []))
        looked.set()
        (reply,) = yield reading
        self.assertEqual((len(reply.body), reply.whole, self.factory.busy), (len(content), True, 0))

    @inlineCallbacks
    def test_client_leaves(self) -> Generator[Deferred[Any], Any, None]:
        """A client that hangs up is noticed at once, and has its line."""
        for reset in (False, True):
            self.services.content = body = SteppedBody()

            def leave(connection: socket.socket) -> None:
                connection.sendall(request(BLOB).encode())
                if reset:  # noqa: B023  # it is run before the next round
                    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                connection.recv(10)

            yield self.client(leave)
            yield until(lambda: self.lines)
            self.assertTrue(body.closed)
            self.assertEqual(self.lines.pop().status, 200)
        self.assertEqual(self.flushLoggedErrors(), [])


class FileBody:
    """A body that goes straight from a file, and ends short after ``stop`` bytes."""

    is_stored = True

    def __init__(self, path: Path, stop: int) -> None:
        self.size = path.stat().st_size
        self.closed = False
        self._file = path.open("rb")
        self._stop = stop

    async def send(self, flow: ClientSink, start: int, stop: int | None, *, small_part: bool = False) -> None:
        assert flow.can_send_files()
        end = self.size if stop is None else stop
        while start < min(end, self._stop):
            await flow.ready()
            piece_end = min(start + (256 << 10), end, self._stop)
            start += await flow.send_file(self._file.fileno(), start, piece_end)
        if start < end:
            raise ShortError("no more")

    def close(self) -> None:
        self._file.close()
        self.closed = True


class FastTests(PlainTests):
    """The same over a transport that sends from files."""

    fast = True

    def body(self, size: int, *, stop: int | None = None) -> FileBody:
        """A file in which every byte tells its place."""
        path = Path(self.mktemp())
        path.write_bytes(b"".join(number.to_bytes(4, "big") for number in range(size // 4)))
        return FileBody(path, size if stop is None else stop)

    @inlineCallbacks
    def test_file(self) -> Generator[Deferred[Any], Any, None]:
        """A file arrives as it is, its head before it, and the next answer after it."""
        self.services.content = body = self.body(3_000_000)
        data = request(BLOB) + request("/") + request("/", "Connection: close")
        found = yield self.client(self.sends(data.encode()))
        self.assertEqual([reply.status for reply in found], [200, 200, 200])
        self.assertEqual(len(found[0].body), 3_000_000)
        self.assertEqual(found[0].body[2_000_000:2_000_004], (500_000).to_bytes(4, "big"))
        self.assertTrue(body.closed)
        self.assertEqual([line.sent for line in self.lines], [3_000_000, 0, 0])

    @inlineCallbacks
    def test_parts(self) -> Generator[Deferred[Any], Any, None]:
        """Heads and bytes of several ranges stay in order."""
        self.services.content = self.body(400_000)
        data = request(BLOB, "Range: bytes=0-99999, 200000-399999", "Connection: close")
        (reply,) = yield self.client(self.sends(data.encode()))
        self.assertEqual((reply.status, reply.whole), (206, True))
        second = reply.body.index(b"Content-Range: bytes 200000-399999/400000")
        self.assertEqual(reply.body[second:].partition(b"\r\n\r\n")[2][:4], (50_000).to_bytes(4, "big"))

    @inlineCallbacks
    def test_file_ends_short(self) -> Generator[Deferred[Any], Any, None]:
        """A file that ends short is read to its last byte, and there is no reset."""
        self.services.content = self.body(3_000_000, stop=2_500_000)
        more = request("/v2/smuggled/tags/list") * 3000
        (reply,) = yield self.client(self.sends((request(BLOB) + more).encode()))
        self.assertEqual((len(reply.body), reply.whole), (2_500_000, False))

    @inlineCallbacks
    def test_file_is_not_taken(self) -> Generator[Deferred[Any], Any, None]:
        """A client that takes nothing of a file is cut off; one that leaves in the middle ends it."""
        self.serve(Limits(clientstall=0.3))
        for patient in (True, False):
            self.services.content = body = self.body(40_000_000)
            gone = threading.Event()

            def wait(connection: socket.socket) -> None:
                connection.sendall(request(BLOB).encode())
                if patient:  # noqa: B023  # it is run before the next round
                    gone.wait(_PATIENCE)  # noqa: B023
                else:
                    connection.recv(100)

            waiting = self.client(wait)
            yield until(lambda: self.lines)
            gone.set()
            yield waiting
            self.assertTrue(body.closed)
            self.assertLess(self.lines.pop().sent, 40_000_000)
        self.assertEqual(self.flushLoggedErrors(), [])


class TlsTests(PlainTests):
    """The same over TLS."""

    tls = True


class FastTlsTests(FastTests):
    """TLS on the socket itself, from files."""

    tls = True


class SilentTests(SocketTestCase):
    """Clients that connect to a port with TLS, and say nothing."""

    tls = True

    @inlineCallbacks
    def test_never_shakes(self) -> Generator[Deferred[Any], Any, None]:
        """One that never shakes hands is gone with its time to ask, on the fast way as on the plain one."""
        for self.fast in (False, True):
            self.serve(Limits(idle=0.1, clientstall=1000))
            with socket.create_connection(("127.0.0.1", self.number), _PATIENCE):
                yield until(lambda: self.factory.connections == 1)
                yield until(lambda: self.factory.connections == 0)


class WrongPortTests(SocketTestCase):
    """TLS where none is spoken."""

    @inlineCallbacks
    def test_tls_at_a_plain_port(self) -> Generator[Deferred[Any], Any, None]:
        """A TLS client at a plain port is refused at once, so that it can try plain HTTP."""

        def shake_hands(connection: socket.socket) -> str:
            try:
                ssl.create_default_context().wrap_socket(connection, server_hostname="cache")
            except ssl.SSLError as error:
                return str(error)
            return "welcome"

        told = yield self.client(shake_hands)
        self.assertRegex(told, "WRONG_VERSION_NUMBER|wrong version number|RECORD_LAYER|record layer")
