"""The gateway's door: which of its halves answers a request."""

from __future__ import annotations

from collections.abc import Callable
from io import BytesIO
from typing import Any, Final
from urllib.parse import unquote_to_bytes

from attrs import frozen

from contentcache.core.errors import MethodUnsupported, Overloaded, RouteUnknown
from contentcache.core.ports import Timer
from contentcache.gateway.channel import GatewayRequest
from contentcache.gateway.exchange import GatewayExchange
from contentcache.gateway.faults import ClientGone
from contentcache.gateway.filling import Filling
from contentcache.gateway.keys import MAX_AGE, KeyFiles
from contentcache.gateway.passing import Passing
from contentcache.gateway.redirecting import Redirecting
from contentcache.gateway.targets import blob_at, read_path
from contentcache.server.channel import ServerRequest
from contentcache.server.dispatcher import RequestDispatcher
from contentcache.server.public_name import PublicName

JWKS_PATH: Final = "/.well-known/contentcache/jwks.json"
#: What the API and the pages take in one request.
_SMALL: Final = 64 << 10
#: Where they are: the first components of their paths.
_PAGES: Final = frozenset({"api", "settings", "caches"})
_READS: Final = frozenset({"GET", "HEAD"})
_NO_STORE: Final = {"Cache-Control": "no-store"}


@frozen
class Halves:
    """
    Those who answer. ``pages`` is a resource of twisted.web for the API and the pages, ``authority`` gives
    the gateway's CA certificate in PEM, ``None`` where there is none.
    """

    passing: Passing
    redirecting: Redirecting
    filling: Filling
    keys: KeyFiles
    pages: Any
    authority: Callable[[], bytes | None]


class Front:
    """
    Answers every request that the channel lets pass.

    ``prefix`` is where everything is mounted, ``paths`` what passes to the registry besides its API,
    ``patience`` is for how many seconds a client may take nothing;
    ``name`` is by which clients call the gateway.
    """

    def __init__(
        self,
        halves: Halves,
        *,
        prefix: str,
        paths: tuple[str, ...],
        timer: Timer,
        patience: float,
        registry: str,
        name: PublicName,
    ) -> None:
        self._halves = halves
        self._prefix = prefix.rstrip("/")
        self._paths = paths
        self._timer = timer
        self._patience = patience
        self._registry = registry
        self._name = name
        self._answering = RequestDispatcher(self._answer, self._exchange_of, who="gateway")

    def begin(self, request: ServerRequest) -> None:
        """Start the answer."""
        self._answering.begin(request)

    def _exchange_of(self, request: ServerRequest) -> GatewayExchange:
        assert isinstance(request, GatewayRequest)  # noqa: S101  # the factory makes no others
        return GatewayExchange(request, self._timer, self._patience)

    async def _answer(self, exchange: GatewayExchange) -> None:
        try:
            await self._dispatch(exchange)
        except ClientGone:
            exchange.end_short()

    async def _dispatch(self, exchange: GatewayExchange) -> None:
        exchange.identify_caller(self._name)
        path = exchange.path
        if self._prefix and path.startswith(self._prefix + "/"):
            # Caches, that know of no prefix, find everything without it too.
            path = path[len(self._prefix) :]
        path = read_path(path)
        first = path.split("/", 2)[1]
        if first == "v2":
            await self._answer_registry(exchange, path)
        elif first in _PAGES:
            exchange.request.kind = "pages"
            await self._answer_pages(exchange, path)
        elif path in {"/", "/ca", JWKS_PATH}:
            self._answer_ourselves(exchange, path)
        elif (is_page := self._passes(path)) or await self._halves.passing.is_realm(path):
            exchange.request.kind = "tokens"
            exchange.request.upstream = self._registry
            await self._halves.passing.pass_on(exchange, path, is_page=is_page)
        else:
            raise RouteUnknown("nothing is at this path")

    async def _answer_registry(self, exchange: GatewayExchange, path: str) -> None:
        request, blob = exchange.request, blob_at(path)
        request.kind, request.upstream = ("other" if blob is None else "blobs"), self._registry
        if blob is None:
            await self._halves.passing.pass_on(exchange, path)
            return
        tokens = exchange.tokens()
        if tokens:
            if exchange.method not in _READS:
                raise MethodUnsupported("a signed URL is for reading", headers={"Allow": "GET, HEAD"})
            await self._halves.filling.serve(exchange, blob, tokens)
        elif exchange.method in _READS:
            await self._halves.redirecting.serve(exchange, blob, path)
        else:
            await self._halves.passing.pass_on(exchange, path)

    def _passes(self, path: str) -> bool:
        return any(path == each or path.startswith(each.rstrip("/") + "/") for each in self._paths)

    # What is the gateway's own.

    def _answer_ourselves(self, exchange: GatewayExchange, path: str) -> None:
        exchange.request.kind = "root" if path == "/" else "keys"
        if exchange.method not in _READS:
            raise MethodUnsupported("this is for reading", headers={"Allow": "GET, HEAD"})
        if path == JWKS_PATH:
            self._answer_keys(exchange)
        elif path == "/ca":
            self._answer_authority(exchange)
        else:
            exchange.reply(200, {"Cache-Control": "no-cache", "Content-Type": "text/plain"})

    def _answer_keys(self, exchange: GatewayExchange) -> None:
        keys = self._halves.keys.keys
        if keys is None:
            raise Overloaded("this gateway has no keys yet; try again soon", headers={"Retry-After": "2"})
        headers = {"Content-Type": "application/jwk-set+json", "Cache-Control": f"public, max-age={MAX_AGE}"}
        exchange.reply(200, headers, keys.document())

    def _answer_authority(self, exchange: GatewayExchange) -> None:
        authority = self._halves.authority()
        if authority is None:
            raise RouteUnknown("this gateway speaks plain HTTP: there is no certificate to trust")
        exchange.reply(200, {**_NO_STORE, "Content-Type": "application/x-pem-file"}, authority)

    async def _answer_pages(self, exchange: GatewayExchange, path: str) -> None:
        """Give a request with its small body to twisted.web."""
        request = exchange.request
        for name, _values in list(request.responseHeaders.getAllRawHeaders()):
            if name.lower().startswith(b"access-control-"):
                # What ``http.headers`` lets other origins do is meant for the registry.
                request.responseHeaders.removeHeader(name)
        # Forms are accepted from pages of the host that the browser has asked.
        request.requestHeaders.setRawHeaders("Host", [exchange.host])
        if exchange.body is not None:
            request.content = BytesIO(await exchange.body.read(_SMALL))
        components = [unquote_to_bytes(component) for component in path[1:].split("/")]
        request.path = path.encode("latin-1")
        request.prepath, request.postpath = [components[0]], components[1:]
        request.cache_status = "-"
        request.render(self._halves.pages)  # type: ignore[no-untyped-call]
