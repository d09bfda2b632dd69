"""
The proxies of the environment: ``HTTP_PROXY``, ``HTTPS_PROXY``, ``NO_PROXY``.

Either case counts, the lower one first. ``HTTP_PROXY`` is for upstreams that are asked in plain
HTTP, ``HTTPS_PROXY`` for the others, as in Go's programs.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Self, cast
from urllib.parse import unquote_to_bytes

from attrs import field, frozen
from twisted.internet.defer import Deferred
from twisted.internet.interfaces import IStreamClientEndpoint
from twisted.internet.protocol import Factory, Protocol, connectionDone
from twisted.python.failure import Failure
from zope.interface import implementer

from contentcache.aio.reactor import Endpoint
from contentcache.core.http_auth import encode_basic
from contentcache.core.noproxy import Exemptions
from contentcache.upstream.addresses import Place

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*(?=://)")
_STATUS = re.compile(rb"HTTP/1\.[01] (?P<status>[1-9][0-9]{2})(?: (?P<reason>[ -~]{0,100}))?")

#: A proxy's answer to ``CONNECT`` has no business being longer.
_LONGEST_HEAD = 16 << 10

_INFORMATIONAL, _OK, _REDIRECT, _LOGIN = 100, 200, 300, 407


class ProxyFault(ValueError):
    """A proxy in the environment cannot be used; the sentence names the variable, never a password."""


class TunnelRefused(ConnectionError):
    """A proxy did not open a tunnel; the sentence has its status."""


@frozen
class Proxy:
    """One proxy. ``authorization`` is the value of ``Proxy-Authorization``."""

    place: Place
    authorization: bytes | None = field(default=None, repr=False)


@frozen
class Proxies:
    """Which proxy is used for which upstream."""

    http: Proxy | None = None
    https: Proxy | None = None
    direct: Exemptions = field(factory=Exemptions)

    def before(self, place: Place) -> Proxy | None:
        """The proxy for a place, ``None`` where it is asked directly."""
        proxy = self.https if place.scheme == "https" else self.http
        if proxy is None or self.direct.covers(place.host, place.port):
            return None
        return proxy

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """Read the variables. Raises ``ProxyFault`` for a value that is no proxy."""
        return cls(
            http=_proxy(environment, "http_proxy"),
            https=_proxy(environment, "https_proxy"),
            direct=Exemptions.parse(environment.get("no_proxy") or environment.get("NO_PROXY") or ""),
        )


def _proxy(environment: Mapping[str, str], variable: str) -> Proxy | None:
    """The proxy in one variable, lower case before upper case; an empty one is none."""
    name = variable if environment.get(variable, "").strip() else variable.upper()
    value = environment.get(name, "").strip()
    if not value:
        return None
    scheme = _SCHEME.match(value)
    if scheme is None:
        value = "http://" + value
    elif scheme[0].lower() not in ("http", "https"):
        raise ProxyFault(f"{name}: a proxy has to be http:// or https://, not {scheme[0]}://")
    before, slashes, rest = value.partition("://")
    authority, slash, path = rest.partition("/")
    login, at, host = authority.rpartition("@")
    try:
        place = Place.of(before + slashes + host + slash + path)
    except ValueError as error:
        raise ProxyFault(f"{name}: is not the URL of a proxy, like http://proxy.example.com:3128") from error
    return Proxy(place, _basic(login) if at else None)


def _basic(login: str) -> bytes:
    """The user and password of a URL as a value of ``Proxy-Authorization`` (RFC 7617)."""
    user, _, password = login.partition(":")
    return encode_basic(unquote_to_bytes(user), unquote_to_bytes(password)).encode("ascii")


@implementer(IStreamClientEndpoint)
class TunnelEndpoint:
    """
    Connects to a place through a proxy's ``CONNECT`` (RFC 9110 §9.3.6).

    ``proxy_endpoint`` connects to the proxy itself. The Deferred of ``connect`` fails with ``TunnelRefused``
    where the proxy refuses.
    """

    def __init__(self, proxy_endpoint: Endpoint, proxy: Proxy, place: Place) -> None:
        self._proxy_endpoint = proxy_endpoint
        self._proxy = proxy
        self._place = place

    def __repr__(self) -> str:
        return f"<TunnelEndpoint {self._place.netloc} by {self._proxy.place.netloc}>"

    def connect(self, protocolFactory: Any) -> Deferred[Any]:
        """A protocol of ``protocolFactory`` at the far end of the tunnel (``IStreamClientEndpoint``)."""
        tunnels = Factory.forProtocol(lambda: _Tunnel(self._request(), self._proxy.place.netloc))
        connecting = self._proxy_endpoint.connect(tunnels)
        return connecting.addCallback(lambda tunnel: cast("_Tunnel", tunnel).open(protocolFactory))

    def _request(self) -> bytes:
        """The ``CONNECT`` request; its target always has a port."""
        host = f"[{self._place.host}]" if ":" in self._place.host else self._place.host
        target = f"{host}:{self._place.port}".encode("ascii")
        lines = [b"CONNECT %b HTTP/1.1" % target, b"Host: %b" % target]
        if self._proxy.authorization is not None:
            lines.append(b"Proxy-Authorization: " + self._proxy.authorization)
        return b"\r\n".join([*lines, b"", b""])


class _Tunnel(Protocol):
    """Talks to the proxy until the tunnel is open, and then passes everything on."""

    def __init__(self, request: bytes, proxy: str) -> None:
        self._request = request
        self._proxy = proxy
        self._head = b""
        self._factory: Any = None
        self._opened: Deferred[Any] | None = None
        self._inside: Any = None

    def open(self, factory: Any) -> Deferred[Any]:
        """Ask for the tunnel; the Deferred fires with the protocol inside it."""
        self._factory = factory
        self._opened = Deferred(lambda _cancelled: self._forget())
        transport: Any = self.transport
        transport.write(self._request)
        return self._opened

    def dataReceived(self, data: bytes) -> None:
        """The proxy's answer, then what comes through the tunnel."""
        if self._inside is not None:
            self._inside.dataReceived(data)
            return
        self._head += data
        while self._opened is not None and self._inside is None:
            head, end, rest = self._head.partition(b"\r\n\r\n")
            if not end:
                if len(self._head) > _LONGEST_HEAD:
                    self._refuse(f"the proxy {self._proxy} sends an answer without end")
                return
            self._head = rest
            self._answered(head)

    def connectionLost(self, reason: Failure = connectionDone) -> None:
        """The proxy has disconnected, before or after the tunnel was open."""
        if self._inside is not None:
            self._inside.connectionLost(reason)
        else:
            self._refuse(f"the proxy {self._proxy} closed the connection before it opened the tunnel")

    def _answered(self, head: bytes) -> None:
        """Act on one head of the proxy, without the blank line."""
        match = _STATUS.fullmatch(head.split(b"\r\n", 1)[0])
        if match is None:
            self._refuse(f"the proxy {self._proxy} does not speak HTTP")
            return
        status = int(match["status"])
        if _INFORMATIONAL <= status < _OK:
            return
        if not _OK <= status < _REDIRECT:
            said = f"{status} {(match['reason'] or b'').decode('ascii')}".strip()
            fault = "wants a login" if status == _LOGIN else "does not open a tunnel"
            self._refuse(f"the proxy {self._proxy} {fault}: {said}")
            return
        self._succeed()

    def _succeed(self) -> None:
        """Connect the protocol that was asked for to the tunnel."""
        opened, self._opened = self._opened, None
        transport: Any = self.transport
        if opened is None or transport is None:
            return
        inside = self._factory.buildProtocol(transport.getPeer())
        if inside is None:
            self._abort()
            opened.errback(TunnelRefused("nobody wants the tunnel any more"))
            return
        self._inside, rest, self._head = inside, self._head, b""
        inside.makeConnection(transport)
        opened.callback(inside)
        if rest:
            inside.dataReceived(rest)

    def _refuse(self, sentence: str) -> None:
        opened, self._opened = self._opened, None
        self._head = b""
        if opened is not None:
            self._abort()
            opened.errback(TunnelRefused(sentence))

    def _forget(self) -> None:
        """The attempt was cancelled."""
        self._opened = None
        self._abort()

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.abortConnection()
