"""
Following the redirects of a registry to its storage or CDN.

The rules, for every hop:

* at most five of them, relative ones resolved (RFC 9110 §10.2.2);
* never from ``https`` to ``http`` unless the operator has listed the target with its scheme, never to a URL
  with a user in it;
* what is left for another scheme, host or port are ``Range``, ``Via`` and the like: no credential, no
  cookie, no other header of our own; and what was left out stays out on the way back;
* never to a loopback, link-local, private or otherwise odd address, unless all addresses of the registry
  itself are of that kind and the registry itself redirects there, or the operator has listed the target,
  or it is the registry.

The last rule is about addresses, and names resolve to whatever their owner likes at the
moment; so it is not decided here but applied while connecting, to the very address that is
connected to (``contentcache.upstream.agent``).
"""

from __future__ import annotations

import re
from collections.abc import Collection
from ipaddress import IPv6Network
from typing import Any, Final, Self
from urllib.parse import quote, unquote, urldefrag, urljoin

from attrs import field, frozen
from twisted.internet.protocol import Protocol, connectionDone
from twisted.python.failure import Failure
from twisted.web.http_headers import Headers

from contentcache.core.errors import UpstreamBroken
from contentcache.core.ports import Timer
from contentcache.core.shown import show_place
from contentcache.core.what_passes import CROSSING
from contentcache.upstream.addresses import Address, Kind, Listed, Place, kind_of

MOST_HOPS: Final = 5
REDIRECTS: Final = frozenset({301, 302, 303, 307, 308})

_EXCUSED: Final = frozenset({Kind.LOOPBACK, Kind.LINK_LOCAL, Kind.PRIVATE})
_SCHEME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:")
_LONGEST_LOCATION: Final = 8 << 10
_PRINTABLE: Final = "".join(chr(code) for code in range(0x21, 0x7F))

#: How much of a redirect's own body, and for how many seconds, is read to keep the connection.
_BODY_BYTES: Final = 64 << 10
_BODY_SECONDS: Final = 5.0


class TargetFailed(UpstreamBroken):
    """The host that the registry redirects to fails; that says nothing of the registry."""


class RedirectRefused(UpstreamBroken):
    """A registry redirects to where we must not connect."""


@frozen
class RedirectPolicy:
    """Where the registry at the place ``registry`` may redirect us."""

    registry: Place
    listed: Listed = field(factory=Listed)
    #: Whether the kind of the registry's own addresses excuses a target of the same kind.
    excuses: bool = True
    #: What the operator's network translates to IPv4: where that leads cannot be told.
    nat64: tuple[IPv6Network, ...] = ()
    #: The kinds of address that the registry itself had when it was connected to.
    reached: set[Kind] = field(factory=set, eq=False, repr=False)

    @classmethod
    def of(cls, url: str, listed: Collection[str] = (), nat64: Collection[str] = ()) -> Self:
        """The policy for the registry at ``url`` with the operator's list of targets and of NAT64 prefixes."""
        prefixes = tuple(IPv6Network(prefix) for prefix in nat64)
        return cls(Place.of(url), Listed(tuple(listed)), nat64=prefixes)

    def kind_of(self, address: Address) -> Kind:
        """The kind of ``address``, as far as we and the operator know."""
        if any(address in prefix for prefix in self.nat64):
            return Kind.PRIVATE
        return kind_of(address)

    def around(self, addresses: Collection[Address]) -> frozenset[Kind]:
        """
        The kind of address that is excused where the registry's name has ``addresses`` now: the one that
        they all are of, and all were when it was connected to.
        """
        kinds = frozenset(map(self.kind_of, addresses)) | self.reached
        return kinds if addresses and self.excuses and len(kinds) == 1 else frozenset()

    def follow(self, url: str, location: bytes) -> str:
        """
        The absolute URL that a redirect of ``url`` leads to, without fragment.

        Raises ``RedirectRefused``.

        >>> RedirectPolicy.of("https://r.example").follow("https://r.example/v2/a", b"../blob?x=%2F#y")
        'https://r.example/blob?x=%2F'
        """
        if len(location) > _LONGEST_LOCATION:
            raise RedirectRefused("the registry redirects to a URL of more than 8 KiB")
        try:
            target = _resolved(url, location)
            there = Place.of(target)
        except ValueError as error:
            raise RedirectRefused(f"the registry redirects to a doubtful place: {error}") from error
        downgraded = there.scheme == "http" and Place.of(url).scheme == "https"
        if downgraded and not self.listed.names_with_scheme(there):
            raise RedirectRefused(
                f"the registry redirects from https to plain HTTP: {show_place(target)!r}; list"
                f" http://{there.netloc} in redirects if that is meant"
            )
        return target

    def is_registry(self, place: Place) -> bool:
        """Whether a place is the registry's own host and port."""
        return (place.host, place.port) == (self.registry.host, self.registry.port)

    def permits(self, place: Place, address: Address, around: Collection[Kind]) -> bool:
        """
        Whether a connection for ``place`` may go to ``address``.

        ``around`` is what :meth:`around` says of the registry's own addresses.
        """
        kind = self.kind_of(address)
        return (
            kind is Kind.PUBLIC
            or (kind in _EXCUSED and kind in around)
            or self.is_registry(place)
            or self.listed.names(place.host, place.port, place.scheme)
            or self.listed.contains(address)
        )


@frozen
class Followed:
    """
    An answer, and the redirects that led to it.

    ``response`` is an ``IResponse`` from ``url``. ``hops`` is the number of redirects: with any, the registry
    itself has allowed the request. ``crossed`` says that another scheme, host or port than the registry's was
    among them: then a refusal is a failed request, never the registry's answer.
    """

    response: Any
    url: str
    hops: int = 0
    crossed: bool = False

    @property
    def redirected(self) -> bool:
        """Whether the registry answered with a redirect."""
        return self.hops > 0


def without(secret: str, url: str) -> str:
    """
    ``url`` without the parameters whose value is ``secret``.

    Raises ``RedirectRefused`` where it is somewhere else in it.

    >>> without("x.y.z", "https://storage.example/a?b=1&token=x.y.z&c=2")
    'https://storage.example/a?b=1&c=2'
    """
    if secret not in unquote(url):
        return url
    rest, mark, query = url.partition("?")
    kept = [each for each in query.split("&") if unquote(each.partition("=")[2]) != secret]
    url = rest + (mark + "&".join(kept) if kept else "")
    if secret in unquote(unquote(url)):
        raise RedirectRefused("the registry redirects to another host with the token of the signed URL")
    return url


def harmless(headers: Headers) -> Headers:
    """What another host may see of a request's headers."""
    kept = Headers()
    # ``Via`` is among them: a redirect may lead to a cache, which has to find a loop by it.
    for name in CROSSING:
        for value in headers.getRawHeaders(name) or ():
            kept.addRawHeader(name, value)
    return kept


def _resolved(url: str, location: bytes) -> str:
    """A location as an absolute URL (RFC 3986 §5.2); what has a scheme is one already."""
    # A few servers write blanks and letters beyond ASCII as they are.
    written, _ = urldefrag(quote(location.strip(b" \t"), safe=_PRINTABLE))
    return written if _SCHEME.match(written) else urljoin(url, written)


class _Discard(Protocol):
    """Reads a body to its end so that the connection can be used again, if that is soon."""

    def __init__(self, clock: Timer) -> None:
        self._left = _BODY_BYTES
        self._late = clock.callLater(_BODY_SECONDS, self._abort)

    def dataReceived(self, data: bytes) -> None:
        self._left -= len(data)
        if self._left < 0:
            self._abort()

    def connectionLost(self, reason: Failure = connectionDone) -> None:  # noqa: ARG002
        if self._late.active():
            self._late.cancel()

    def _abort(self) -> None:
        transport: Any = self.transport
        if transport is not None:
            transport.loseConnection()


def discard(response: Any, clock: Timer) -> None:
    """Drop a response whose body is not needed, and reuse its connection."""
    response.deliverBody(_Discard(clock))
