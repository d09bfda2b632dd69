"""
The registry of bad manners as a server: in a test on loopback, or on its own.

    python -m tests.manners --blob org/app=layer.tar --blob org/app=random:1000000:7 \\
        --manner "reset path=*/blobs/* at=1000 times=3"

On its own it prints its URL and the blobs' paths. Everything can be changed while it runs, by ``GET``:
``/-/misbehave?name=reset&path=…&at=1000``, ``/-/behave``, ``/-/release``, ``/-/requests``, ``/-/forget``.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import socket
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from http.client import responses
from pathlib import Path
from typing import Any, Final
from urllib.parse import parse_qsl, unquote

from attrs import asdict
from twisted.internet.defer import Deferred
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure

from tests.bad_registry import BadRegistry
from tests.misbehaviour import MANNERS, Asked, Reply

_RESET: Final = struct.pack("ii", 1, 0)
_NUMBERS: Final = frozenset({"at", "by", "size", "skip", "status", "times"})


class Manners(Factory):
    """Speaks HTTP for a registry. ``close()`` ends every connection, and fires when they are gone."""

    noisy = False

    def __init__(self, registry: BadRegistry, reactor: Any) -> None:
        self.registry = registry
        self.reactor = reactor
        self.connections: set[_Connection] = set()
        self._closed: Deferred[None] | None = None

    def buildProtocol(self, addr: object) -> _Connection:
        return _Connection(self)

    def close(self) -> Deferred[None]:
        """End every connection."""
        self._closed = Deferred()
        for connection in list(self.connections):
            connection.abort()
        self.left()
        return self._closed

    def left(self) -> None:
        """A connection has ended."""
        if self._closed is not None and not self.connections and not self._closed.called:
            self._closed.callback(None)


class _Connection(Protocol):
    """One request after the other; none has a body."""

    transport: Any

    def __init__(self, manners: Manners) -> None:
        self._manners = manners
        self._buffer = b""
        self._busy = False
        self._gone = False

    def connectionMade(self) -> None:
        self._manners.connections.add(self)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        self._gone = True
        self._manners.connections.discard(self)
        self._manners.left()

    def abort(self) -> None:
        """Break off."""
        self.transport.abortConnection()

    def dataReceived(self, data: bytes) -> None:
        self._buffer += data
        self._next()

    def _next(self) -> None:
        if self._busy or self._gone or b"\r\n\r\n" not in self._buffer:
            return
        head, _, self._buffer = self._buffer.partition(b"\r\n\r\n")
        line, *lines = head.decode("latin-1").split("\r\n")
        method, target, _version = line.split(" ")
        path, _, query = target.partition("?")
        pairs = (header.partition(":") for header in lines)
        asked = Asked(method, unquote(path), {n.strip().lower(): v.strip() for n, _, v in pairs}, query)
        self._busy = True
        if path.startswith("/-/"):
            self._send(asked, _steer(self._manners.registry, path, query))
            return
        reply = self._manners.registry.answer(asked)
        self._manners.reactor.callLater(reply.delay, self._send, asked, reply)

    def _send(self, asked: Asked, reply: Reply) -> None:
        if self._gone:
            return
        if reply.cut is not None and reply.cut[1] < 0:
            self._break_off(reply.cut[0], lambda: self._send_head(asked, reply))
        else:
            self._send_head(asked, reply)

    def _send_head(self, asked: Asked, reply: Reply) -> None:
        version = "1.0" if reply.framing == "close" else "1.1"
        lines = [f"HTTP/{version} {reply.status} {responses.get(reply.status, 'Odd')}"]
        lines += [f"{name}: {value}" for name, value in reply.headers.items()]
        if reply.length is not None:
            lines.append(f"Content-Length: {reply.length}")
        if reply.framing == "chunked":
            lines.append("Transfer-Encoding: chunked")
        self.transport.write("\r\n".join([*lines, "", ""]).encode("latin-1"))
        body = b"" if asked.method == "HEAD" else reply.body
        if reply.cut is None or asked.method == "HEAD" or reply.cut[1] < 0:
            self._send_body(reply, body)
            self._end(reply, asked)
            return
        kind, at = reply.cut
        self._send_body(reply, body[:at], more=True)

        def go_on() -> None:
            self._send_body(reply, body[at:])
            self._end(reply, asked)

        self._break_off(kind, go_on)

    def _send_body(self, reply: Reply, body: bytes, *, more: bool = False) -> None:
        if reply.framing == "chunked":
            chunk = b"%x\r\n%s\r\n" % (len(body), body) if body else b""
            body = chunk + (b"" if more else b"0\r\n\r\n")
        self.transport.write(body)

    def _end(self, reply: Reply, asked: Asked) -> None:
        if reply.framing == "close" or asked.headers.get("connection", "").lower() == "close":
            self.transport.loseConnection()
            return
        self._busy = False
        self._next()

    def _break_off(self, kind: str, go_on: Callable[[], None]) -> None:
        if kind == "reset":
            # Everything goes to the kernel first; closing with this option then sends RST instead of FIN.
            self.transport.getHandle().setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
            self.transport.loseConnection()
        elif kind == "short":
            self.transport.loseConnection()
        else:
            self._manners.registry.waiting.append(lambda: None if self._gone else go_on())


def _steer(registry: BadRegistry, path: str, query: str) -> Reply:
    """Do what the tester asks for."""
    found: object = "done"
    if path == "/-/misbehave":
        misbehave(registry, dict(parse_qsl(query)))
    elif path == "/-/behave":
        registry.behave()
    elif path == "/-/release":
        registry.release()
    elif path == "/-/forget":
        registry.requests.clear()
    else:
        found = [asdict(asked) for asked in registry.requests]
    body = json.dumps(found).encode()
    return Reply(200, {"Content-Type": "application/json"}, body, length=len(body))


def misbehave(registry: BadRegistry, words: Mapping[str, str]) -> None:
    """A manner in words: ``name``, ``path``, ``method``, ``times``, ``skip`` and its parameters."""
    given: dict[str, Any] = {name: int(v) if name in _NUMBERS else v for name, v in words.items()}
    if "seconds" in given:
        given["seconds"] = float(given["seconds"])
    registry.misbehave(given.pop("name"), **given)


def _content(source: str) -> bytes:
    if source.startswith("random:"):
        _, size, seed = source.split(":")
        return random.Random(int(seed)).randbytes(int(size))
    return Path(source).read_bytes()


def main(arguments: Sequence[str]) -> None:
    """Serve until killed."""
    from twisted.internet import reactor as global_reactor  # noqa: PLC0415  # importing it installs it

    reactor: Any = global_reactor

    options = argparse.ArgumentParser(description="A registry of bad manners.", allow_abbrev=False)
    options.add_argument("--port", type=int, default=0)
    options.add_argument("--auth", choices=["basic", "bearer"])
    options.add_argument("--user", action="append", default=[], help="NAME:PASSWORD=REPOSITORY[,…]")
    options.add_argument("--blob", action="append", default=[], help="REPOSITORY=FILE or =random:SIZE:SEED")
    options.add_argument(
        "--manner", action="append", default=[], help=f"NAME [KEY=VALUE …]: {', '.join(MANNERS)}"
    )
    given = options.parse_args(arguments)
    registry = BadRegistry(given.auth)
    port = reactor.listenTCP(given.port, Manners(registry, reactor), interface="127.0.0.1")
    url = f"http://127.0.0.1:{port.getHost().port}"
    registry.realm = f"{url}/token"
    for user in given.user:
        account, _, repositories = user.partition("=")
        name, _, password = account.partition(":")
        registry.let(name, password, *repositories.split(","))
    lines = [url]
    for blob in given.blob:
        repository, _, source = blob.partition("=")
        lines.append(f"/v2/{repository}/blobs/{registry.put_blob(repository, _content(source))}")
    for manner in given.manner:
        name, *pairs = shlex.split(manner)
        misbehave(registry, {"name": name, **dict(pair.split("=", 1) for pair in pairs)})
    sys.stdout.write("\n".join(lines) + "\n")
    sys.stdout.flush()
    reactor.run()


if __name__ == "__main__":
    main(sys.argv[1:])
