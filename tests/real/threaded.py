"""Servers in threads of the test's own process, which remember what they are asked."""

from __future__ import annotations

import contextlib
import http.client
import ssl
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Final

from attrs import frozen

from tests.real.certificates import Certificate
from tests.real.origin import Origin
from tests.real.programs import Case, free_port

_PASSED_ON: Final = ("Accept", "Range", "If-None-Match", "If-Range")
_ANSWERED: Final = (
    *("Content-Type", "Content-Length", "Content-Range", "Docker-Content-Digest", "ETag", "Accept-Ranges"),
    *("WWW-Authenticate", "Location", "Docker-Distribution-Api-Version"),
)


@frozen
class Asked:
    """A request that came. Names of headers are in lower case."""

    method: str
    path: str
    query: str
    headers: Mapping[str, str]


class _Quiet(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        """Clients may hang up when they like."""


class Server:
    """A port of its own that can be away for a while; it remembers what it was asked."""

    def __init__(self, case: Case, tls: Certificate | None = None) -> None:
        self.port = free_port()
        self.tls = tls
        self.requests: list[Asked] = []
        self._server: ThreadingHTTPServer | None = None
        self.start()
        case.addCleanup(self.stop)

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    def start(self) -> None:
        """Listen, again if it was stopped."""
        server = _Quiet(("127.0.0.1", self.port), _face(self))
        if self.tls is not None:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.tls.certificate, self.tls.key)
            server.socket = context.wrap_socket(server.socket, server_side=True)
        threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
        self._server = server

    def stop(self) -> None:
        """Refuse connections. Those that are open are closed after their next answer."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            server.server_close()

    @property
    def is_away(self) -> bool:
        """Whether it was stopped."""
        return self._server is None

    def asked(self, path: str = "", method: str | None = None) -> list[Asked]:
        """What it was asked whose path contains ``path``, in order."""
        return [
            request
            for request in list(self.requests)
            if path in request.path and method in {None, request.method}
        ]

    def answer(self, face: Face, asked: Asked) -> None:
        """Answer a request: what makes servers differ."""
        raise NotImplementedError


class Face(BaseHTTPRequestHandler):
    """A connection."""

    protocol_version = "HTTP/1.1"
    server_of: Server

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        pass

    def do_GET(self) -> None:
        path, _, query = self.path.partition("?")
        headers = {name.lower(): value for name, value in self.headers.items()}
        asked = Asked(self.command, path, query, headers)
        self.server_of.requests.append(asked)
        if self.server_of.is_away:
            self.close_connection = True
            return
        with contextlib.suppress(ConnectionError):
            self.server_of.answer(self, asked)

    do_HEAD = do_GET

    def tell(self, status: int, headers: Mapping[str, str], body: bytes) -> None:
        """A whole answer."""
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def relay(self, registry: Origin, asked: Asked, authorization: str | None) -> None:
        """What the registry answers to the same request with that credential."""
        sent = {name: asked.headers[name.lower()] for name in _PASSED_ON if name.lower() in asked.headers}
        if authorization is not None:
            sent["Authorization"] = authorization
        query = "&".join(part for part in asked.query.split("&") if part and not part.startswith("token="))
        line = http.client.HTTPConnection(registry.host, timeout=30)
        with contextlib.closing(line):
            line.request(self.command, asked.path + (f"?{query}" if query else ""), headers=sent)
            answer = line.getresponse()
            self.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.title() in {each.title() for each in _ANSWERED}:
                    self.send_header(name, value)
            self.end_headers()
            while piece := answer.read1(256 << 10):
                self.wfile.write(piece)


def _face(server: Server) -> type[Face]:
    class Faced(Face):
        server_of = server

    return Faced
