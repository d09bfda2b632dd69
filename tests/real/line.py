"""
The line between two programs: counted to the byte, as slow as told, and cut when told.

Threads of the test's own process: the test itself waits for other programs meanwhile.
"""

from __future__ import annotations

import contextlib
import re
import select
import socket
import struct
import threading
import time
from collections.abc import Mapping
from typing import Final

from attrs import define

from tests.real.programs import Case, free_port

_PIECE: Final = 256 << 10
_TICK: Final = 0.05
_RESET: Final = struct.pack("ii", 1, 0)
_LENGTH = re.compile(rb"\r\ncontent-length:[ \t]*(\d{1,18})[ \t]*\r\n", re.IGNORECASE)


@define
class Exchange:
    """
    A request that passed in plain HTTP, and the bytes of it and of its answer, heads included.
    Names of headers are in lower case.
    """

    method: str
    path: str
    headers: Mapping[str, str]
    sent: int = 0
    received: int = 0

    @property
    def total(self) -> int:
        """Bytes both ways."""
        return self.sent + self.received


class CountingProxy:
    """
    A port of its own, in front of ``127.0.0.1:target``.

    ``rate`` is that of all answers together, in bytes a second; ``latency`` is added to every
    piece of a request, in seconds. Both may be changed at any time. ``sent`` counts bytes towards
    the target, ``received`` bytes from it that were passed on.
    """

    def __init__(
        self, case: Case, target: int, *, rate: float | None = None, latency: float = 0.0, tls: bool = False
    ) -> None:
        self.port = free_port()
        self.latency = latency
        self.rate = rate
        self._target = target
        self._tls = tls
        self._lock = threading.Lock()
        self._due = 0.0
        self._flowing = threading.Event()
        self._flowing.set()
        self._open: set[_Pair] = set()
        self._budget: int | None = None
        self._refuses = False
        self._ended = False
        self._listener: socket.socket | None = None
        self.forget()
        self.restore()
        case.addCleanup(self.stop)

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{'https' if self._tls else 'http'}://{self.host}"

    def forget(self) -> None:
        """Count anew, from nothing."""
        with self._lock:
            self.connections = 0
            self.sent = 0
            self.received = 0
            self.exchanges: list[Exchange] = []

    def asked(self, path: str = "", method: str | None = None) -> list[Exchange]:
        """Exchanges whose path contains ``path``, in the order in which they began."""
        with self._lock:
            return [
                exchange
                for exchange in self.exchanges
                if path in exchange.path and method in {None, exchange.method}
            ]

    def cut(self, *, reset: bool = True) -> None:
        """End all connections now, with RST or with FIN; new ones are accepted."""
        with self._lock:
            pairs = list(self._open)
        for pair in pairs:
            pair.end(reset=reset)

    def cut_after(self, size: int) -> None:
        """Once ``size`` more bytes of answers have passed, cut all connections."""
        with self._lock:
            self._budget = size

    def refuse_after(self, size: int) -> None:
        """The same, and accept no new ones."""
        self._refuses = True
        self.cut_after(size)

    def stall(self) -> None:
        """Keep connections, accept new ones, and pass nothing on."""
        self._flowing.clear()

    def refuse(self) -> None:
        """Refuse new connections, and cut those that are there."""
        listener, self._listener = self._listener, None
        if listener is not None:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the accepting thread
            listener.close()
        self.cut()

    def restore(self) -> None:
        """Be a good line again, after :meth:`stall` or :meth:`refuse`."""
        self._flowing.set()
        if self._listener is None:
            listener = socket.create_server(("127.0.0.1", self.port), backlog=512)
            self._listener = listener
            threading.Thread(target=self._accept, args=(listener,), daemon=True).start()

    def stop(self) -> None:
        """Refuse for good."""
        self._ended = True
        self._flowing.set()
        self.refuse()

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return
            pair = _Pair(client)
            with self._lock:
                self.connections += 1
                self._open.add(pair)
            threading.Thread(target=self._serve, args=(pair,), daemon=True).start()

    def _serve(self, pair: _Pair) -> None:
        try:
            pair.connect(self._target)
            upwards = threading.Thread(target=self._upwards, args=(pair,), daemon=True)
            upwards.start()
            self._downwards(pair)
            upwards.join()
        except OSError:
            pair.end(reset=True)
        finally:
            pair.close()
            with self._lock:
                self._open.discard(pair)

    def _upwards(self, pair: _Pair) -> None:
        heads = _Heads()
        with contextlib.suppress(OSError):
            while piece := pair.client.recv(_PIECE):
                if self.latency:
                    time.sleep(self.latency)
                self._flow(pair)
                with self._lock:
                    for exchange in heads.feed(piece):
                        self.exchanges.append(exchange)
                        pair.exchange = exchange
                    self.sent += len(piece)
                    if pair.exchange is not None:
                        pair.exchange.sent += len(piece)
                pair.send(pair.target, memoryview(piece))
            pair.target.shutdown(socket.SHUT_WR)

    def _downwards(self, pair: _Pair) -> None:
        buffer = memoryview(bytearray(_PIECE))
        with contextlib.suppress(OSError):
            while size := pair.target.recv_into(buffer[: self._wanted()]):
                self._pace(size)
                self._flow(pair)
                passed, last = self._count(pair, size)
                pair.send(pair.client, buffer[:passed])
                if last:
                    (self.refuse if self._refuses else self.cut)()
                    return
            pair.client.shutdown(socket.SHUT_WR)

    def _wanted(self) -> int:
        """Small pieces on a slow line, so that many connections share it evenly."""
        return _PIECE if self.rate is None else max(1024, min(_PIECE, int(self.rate / 500)))

    def _pace(self, size: int) -> None:
        """Wait for one's turn: bytes leave at ``rate``, with at most 10 ms made up for."""
        if self.rate is None:
            return
        with self._lock:
            now = time.monotonic()
            self._due = max(self._due, now - 0.01) + size / self.rate
            wait = self._due - now
        if wait > 0:
            time.sleep(wait)

    def _flow(self, pair: _Pair) -> None:
        while not self._flowing.wait(_TICK):
            if self._ended or pair.gone:
                raise OSError("the line is gone")

    def _count(self, pair: _Pair, size: int) -> tuple[int, bool]:
        with self._lock:
            last = self._budget is not None and size >= self._budget
            if self._budget is not None:
                size = min(size, self._budget)
                self._budget = None if last else self._budget - size
            self.received += size
            if pair.exchange is not None:
                pair.exchange.received += size
        return size, last


class _Pair:
    """Two connected sockets. They are closed once, by the thread that serves them; others only end them."""

    def __init__(self, client: socket.socket) -> None:
        self.client = client
        self.target = socket.socket()
        self.exchange: Exchange | None = None
        self.gone = False
        for end in (self.client, self.target):
            end.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def connect(self, port: int) -> None:
        self.target.connect(("127.0.0.1", port))

    def send(self, end: socket.socket, piece: memoryview) -> None:
        """Send all of ``piece``; unlike ``sendall`` it notices that the pair is to end."""
        writable = select.poll()
        writable.register(end, select.POLLOUT)
        while piece:
            if self.gone:
                raise OSError("the line is cut")
            if writable.poll(_TICK * 1000):
                with contextlib.suppress(BlockingIOError):
                    piece = piece[end.send(piece, socket.MSG_DONTWAIT) :]

    def end(self, *, reset: bool) -> None:
        self.gone = True
        for end in (self.client, self.target):
            with contextlib.suppress(OSError):
                if reset:
                    end.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                    # A shutdown of the reading half only wakes the thread; closing then sends RST.
                    end.shutdown(socket.SHUT_RD)
                else:
                    end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        if not self.gone:
            _linger(self.client)
        self.client.close()
        self.target.close()


class _Heads:
    """The heads of requests in a stream of them. It looks away for good at what it does not know."""

    def __init__(self) -> None:
        self._pending = b""
        self._body = 0
        self._opaque = False

    def feed(self, piece: bytes) -> list[Exchange]:
        found: list[Exchange] = []
        self._pending += piece
        while not self._opaque and self._pending:
            skipped = min(self._body, len(self._pending))
            self._body -= skipped
            self._pending = self._pending[skipped:]
            head, end, rest = self._pending.partition(b"\r\n\r\n")
            if not end:
                break
            self._pending = rest
            exchange = _exchange(head)
            if exchange is None or "transfer-encoding" in exchange.headers:
                self._opaque = True
            if exchange is not None:
                found.append(exchange)
                length = _LENGTH.search(head + b"\r\n")
                self._body = int(length[1]) if length else 0
        if self._opaque or len(self._pending) > 1 << 20:
            self._opaque, self._pending = True, b""
        return found


def _exchange(head: bytes) -> Exchange | None:
    line, *fields = head.decode("latin-1").split("\r\n")
    words = line.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/"):
        return None
    pairs = (field.partition(":") for field in fields)
    return Exchange(words[0], words[1], {name.strip().lower(): value.strip() for name, _, value in pairs})


def _linger(client: socket.socket) -> None:
    """Let a client read what is still on its way: closing with unread bytes in hand would reset it."""
    with contextlib.suppress(OSError):
        client.shutdown(socket.SHUT_WR)
        readable = select.poll()
        readable.register(client, select.POLLIN)
        while readable.poll(200) and client.recv(_PIECE):
            pass
