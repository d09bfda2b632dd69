"""
The router: which part of the gateway answers a request.

Paths are checked before: the registry behind decides what they mean, but nothing that two programs may read
in two ways is forwarded.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from io import BytesIO
from typing import Final
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

from attrs import frozen
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.web.resource import Resource

from contentcache.config.model import ServerTLS
from contentcache.core.accept import prefers_html
from contentcache.core.errors import (
    CacheError,
    MethodUnsupported,
    NameInvalid,
    Overloaded,
    RequestMalformed,
    RouteUnknown,
)
from contentcache.core.routes import Content, Route, parse, unescape
from contentcache.gateway.blob_redirector import BlobRedirector
from contentcache.gateway.exchange import GatewayExchange
from contentcache.gateway.keys import MAX_AGE, KeyFiles
from contentcache.gateway.reverse_proxy import ReverseProxy
from contentcache.gateway.signed_blobs import SignedBlobs
from contentcache.server.public_name import PublicName
from contentcache.tls.files import read_certificates

JWKS_PATH: Final = "/.well-known/contentcache/jwks.json"
#: Largest body of a request to the admin site, in bytes.
_MAX_ADMIN_BODY: Final = 64 << 10
#: First path components of the admin site.
_ADMIN_PATHS: Final = frozenset({"api", "settings", "caches"})
_READS: Final = frozenset({"GET", "HEAD"})

#: Backslashes, fragments, half escapes, and escapes of those, of slashes, dots, semicolons, control
#: characters and of escapes: two programs in a row may read such a path in two ways.
_HOSTILE: Final = re.compile(
    r"\\|#|%(?![0-9A-F]{2})|%(?:2[EF]|3B|5C|25|[01][0-9A-F]|7F)", re.ASCII | re.IGNORECASE
)
#: What a character beyond ASCII may become in a server that maps it to ASCII.
_DELIMITERS: Final = frozenset("/\\.;%?#")
#: Where names of several components may come as one: the registry's API, and accounts in the admin API.
_PREFIXES_OF_NAMES: Final = ("/v2/", "/api/")


class CACertificate:
    """
    The certificate that a client has to trust to trust this gateway, for ``GET /ca``: the file ``http.tls.ca``,
    else the last certificate of the chain that is served.

    :raises TLSConfigurationError: a file cannot be used.
    """

    def __init__(self, tls: ServerTLS | None) -> None:
        self._tls = tls
        #: In PEM; ``None`` without TLS.
        self.pem = _read_ca(tls)

    def read(self) -> Callable[[], None]:
        """
        Read the file again, in a thread; what is returned makes it ``pem``.

        :raises TLSConfigurationError: it cannot be used.
        """
        pem = _read_ca(self._tls)

        def use() -> None:
            self.pem = pem

        return use


@frozen
class Routes:
    """What answers requests."""

    reverse_proxy: ReverseProxy
    redirector: BlobRedirector
    signed_blobs: SignedBlobs
    keys: KeyFiles
    admin_site: Resource
    ca: CACertificate


class Router:
    """
    Answers requests: :meth:`answer`.

    ``prefix`` is where everything is mounted, ``paths`` are forwarded to the registry besides its API, ``name``
    is the host by which clients know the gateway.
    """

    def __init__(
        self,
        routes: Routes,
        *,
        prefix: str,
        paths: tuple[str, ...],
        registry: str,
        name: PublicName,
    ) -> None:
        self._routes = routes
        self._prefix = prefix.rstrip("/")
        self._paths = paths
        self._registry = registry
        self._name = name

    async def answer(self, exchange: GatewayExchange) -> None:
        """
        Answer a request.

        :raises CacheError: the response is an error.
        """
        exchange.identify_caller(self._name)
        path = exchange.path
        if self._prefix and path.startswith(self._prefix + "/"):
            # Caches do not know the prefix, so everything is found without it too.
            path = path[len(self._prefix) :]
        path = read_path(path)
        first = path.split("/", 2)[1]
        if first == "v2":
            await self._answer_registry(exchange, path)
        elif first in _ADMIN_PATHS:
            exchange.request.kind = "pages"
            await self._answer_admin(exchange, path)
        elif path in {"/", "/ca", JWKS_PATH}:
            self._answer_own(exchange, path)
        elif (is_page := self._is_listed(path)) or await self._routes.reverse_proxy.is_realm(path):
            exchange.request.kind = "tokens"
            exchange.request.upstream = self._registry
            await self._routes.reverse_proxy.forward(exchange, path, is_page=is_page)
        else:
            raise RouteUnknown("nothing is at this path")

    async def _answer_registry(self, exchange: GatewayExchange, path: str) -> None:
        request, route = exchange.request, route_at(path)
        request.upstream = self._registry
        if route is not None:
            request.concerns(route)
        blob = route if isinstance(route, Content) and route.kind == "blobs" else None
        if blob is None:
            await self._routes.reverse_proxy.forward(exchange, path)
            return
        tokens = exchange.tokens()
        if tokens:
            if exchange.method not in _READS:
                raise MethodUnsupported("a signed URL is for reading", headers={"Allow": "GET, HEAD"})
            await self._routes.signed_blobs.serve(exchange, blob, tokens)
        elif exchange.method in _READS:
            await self._routes.redirector.serve(exchange, blob, path)
        else:
            await self._routes.reverse_proxy.forward(exchange, path)

    def _is_listed(self, path: str) -> bool:
        return any(path == each or path.startswith(each.rstrip("/") + "/") for each in self._paths)

    def _answer_own(self, exchange: GatewayExchange, path: str) -> None:
        exchange.request.kind = "root" if path == "/" else "keys"
        if exchange.method not in _READS:
            raise MethodUnsupported("this is for reading", headers={"Allow": "GET, HEAD"})
        if path == JWKS_PATH:
            keys = self._routes.keys.keys
            if keys is None:
                raise Overloaded("this gateway has no keys yet; try again soon", headers={"Retry-After": "2"})
            cacheable = f"public, max-age={MAX_AGE}"
            headers = {"Content-Type": "application/jwk-set+json", "Cache-Control": cacheable}
            exchange.reply(200, headers, keys.document())
        elif path == "/ca":
            if self._routes.ca.pem is None:
                raise RouteUnknown("this gateway speaks plain HTTP: there is no certificate to trust")
            headers = {"Cache-Control": "no-store", "Content-Type": "application/x-pem-file"}
            exchange.reply(200, headers, self._routes.ca.pem)
        elif prefers_html(exchange.values("Accept")):
            exchange.reply(302, {"Location": "/settings", "Cache-Control": "no-store", "Vary": "Accept"})
        else:
            headers = {"Cache-Control": "no-cache", "Vary": "Accept", "Content-Type": "text/plain"}
            exchange.reply(200, headers)

    async def _answer_admin(self, exchange: GatewayExchange, path: str) -> None:
        """Pass a request with its small body to twisted.web."""
        request = exchange.request
        for name, _values in list(request.responseHeaders.getAllRawHeaders()):
            if name.lower().startswith(b"access-control-"):
                # What ``http.headers`` lets other origins do is meant for the registry.
                request.responseHeaders.removeHeader(name)
        # Forms are accepted from pages of the host that the browser has asked.
        request.requestHeaders.setRawHeaders("Host", [exchange.host])
        if exchange.body is not None:
            request.content = BytesIO(await exchange.body.read(_MAX_ADMIN_BODY))
        components = [unquote_to_bytes(component) for component in path[1:].split("/")]
        request.path = path.encode("latin-1")
        request.prepath, request.postpath = [components[0]], components[1:]
        request.cache_status = "-"
        request.render(self._routes.admin_site)  # type: ignore[no-untyped-call]


def read_path(path: str) -> str:
    """
    Return a raw path as it is forwarded: in the registry's API and in the admin API ``%2F`` and ``%3A`` are
    the characters that they stand for.

    >>> read_path("/v2/org%2Fapp/blobs/uploads/")
    '/v2/org/app/blobs/uploads/'
    >>> read_path("/v2/..;/token")
    Traceback (most recent call last):
    ...
    contentcache.core.errors.NameInvalid: '/v2/..;/token' has escapes, empty components or dot segments

    :raises NameInvalid: it has escapes of dots and the like, empty components, or disguised dot segments.
    :raises RequestMalformed: it is no path.
    """
    if not path.startswith("/"):
        raise RequestMalformed("the target of a request begins with a slash here")
    read = unescape(path) if path.startswith(_PREFIXES_OF_NAMES) else path
    *components, last = read[1:].split("/")
    hostile = _HOSTILE.search(read) is not None
    # The last component of a path may be empty: it ends with a slash then.
    if hostile or any(_is_doubtful(each) for each in (*components, *filter(None, [last]))):
        raise NameInvalid(f"{path[:160]!r} has escapes, empty components or dot segments")
    return read


def route_at(path: str) -> Route | None:
    """
    Return what a path means by the grammar of the distribution spec, if it means anything.

    >>> route_at("/v2/org/app/blobs/uploads/") is None
    True
    """
    try:
        return parse(path)
    except CacheError:
        return None  # the registry answers what is wrong with it


def _is_doubtful(component: str) -> bool:
    """
    Whether some server takes a component for an empty one or a dot segment, or sees delimiters in it.

    Servers written in Java cut parameters off first (``..;x``), some in Windows the dots and spaces at the
    end.

    >>> [_is_doubtful(each) for each in ("..;a=b", ".%20.", ";", "%c0%ae%c0%ae", "%ef%bc%8f", "a;b=c", "...")]
    [True, True, True, True, True, False, True]
    """
    try:
        decoded = unquote_to_bytes(component).decode("utf-8")
    except UnicodeDecodeError:
        return True
    if not decoded.partition(";")[0].strip(" ."):
        return True
    beyond = "".join(character for character in decoded if not character.isascii())
    return not _DELIMITERS.isdisjoint(normalize("NFKC", beyond))


def _read_ca(tls: ServerTLS | None) -> bytes | None:
    if tls is None:
        return None
    found = read_certificates(tls.ca) if tls.ca is not None else read_certificates(tls.certificate)[-1:]
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in found)
