"""The reverse proxy: requests go to the registry behind as they are, and so do its responses to clients."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from typing import Final, Literal

from contentcache.core.errors import CacheError
from contentcache.core.http_auth import parse_challenges
from contentcache.core.ports import Timer
from contentcache.core.routes import Content
from contentcache.core.via import append_via
from contentcache.gateway.connection import ProxyResponse
from contentcache.gateway.connection_pool import ConnectionPool, OpenResponse
from contentcache.gateway.exchange import GatewayExchange
from contentcache.gateway.header_rewriting import HeaderRewriter, isolated
from contentcache.gateway.proxy_request import Field, ProxyRequest
from contentcache.server.errors import error_response
from contentcache.server.relay import stream

#: Seconds between two requests for the registry's realms; and how many realms are remembered.
_REALMS_INTERVAL: Final = 10.0
_MAX_REALMS: Final = 16
#: In the gateway's own requests: what registries choose a response by must not come from a client.
_ACCEPT: Final = "*/*"
#: Fields about a body, which another one does not have.
_OF_BODY: Final = frozenset(
    {"content-type", "content-length", "content-encoding", "content-range", "content-md5", "content-digest"}
    | {"repr-digest", "digest", "etag", "last-modified", "accept-ranges"}
)


class ReverseProxy:
    """Forwards requests to the registry. ``pseudonym`` names this gateway in ``Via``."""

    def __init__(
        self, connections: ConnectionPool, rewriter: HeaderRewriter, *, pseudonym: str, timer: Timer
    ) -> None:
        self._connections = connections
        self._rewriter = rewriter
        self._pseudonym = pseudonym
        self._timer = timer
        self._realms: set[str] = set()
        self._realms_requested: float | None = None

    async def forward(
        self, exchange: GatewayExchange, path: str, cache_status: str = "pass", *, is_page: bool = False
    ) -> None:
        """
        Request ``path`` with all that the client sent, and send the registry's response to the client, as a
        page of the registry's own with ``is_page``. ``cache_status`` is for the access log.

        :raises CacheError: there is no response.
        """
        via = exchange.via(self._pseudonym)
        fields = self._rewriter.to_registry(exchange.fields(), exchange.caller, via)
        target = path + ("?" + exchange.raw_query if exchange.raw_query else "")
        expects = exchange.header("Expect") is not None
        request = ProxyRequest(exchange.method, target, fields, expects_continue=expects)
        async with self._connections.request(request, exchange.body) as opened:
            exchange.request.identified().answered_by = exchange.request.upstream
            head = self._head(exchange, opened.head, is_page=is_page)
            code = opened.head.code
            await stream(opened.body, exchange, lambda: exchange.start_as_is(code, head, cache_status))

    def request_blob(
        self, exchange: GatewayExchange, content: Content, method: Literal["GET", "HEAD"], span: str = ""
    ) -> AbstractAsyncContextManager[OpenResponse]:
        """
        Ask whether the registry lets this client's credentials have a blob, or ``span`` of it (a value of
        ``Range``).

        Nothing else of the client's request is sent, neither header nor query: a registry, or a proxy before
        it, may answer a browser with a page to sign in, and no client decides what counts as allowed.
        """
        fields: list[Field] = [("Host", self._rewriter.registry_authority)]
        authorization = exchange.header("Authorization")
        if authorization is not None:
            fields.append(("Authorization", authorization))
        fields += [("Accept", _ACCEPT), ("Via", append_via((), self._pseudonym))]
        if span:
            fields.append(("Range", span))
        return self._connections.request(ProxyRequest(method, content.path(), fields))

    def send_head(self, exchange: GatewayExchange, response: ProxyResponse, cache_status: str) -> None:
        """Answer ``HEAD`` with the head of a response that is at hand."""
        exchange.start_as_is(response.code, self._head(exchange, response, is_page=False), cache_status)
        exchange.finish()

    def send_error(
        self, exchange: GatewayExchange, response: ProxyResponse, error: CacheError, cache_status: str
    ) -> None:
        """Answer with the status and the fields of a response, and with an error as the body."""
        body = error_response(error, exchange.request.request_id).body
        fields = self._head(exchange, response, is_page=False)
        head = [field for field in fields if field[0].lower() not in _OF_BODY]
        head += [("Content-Type", "application/json"), ("Content-Length", str(len(body)))]
        exchange.start_as_is(response.code, head, cache_status)
        exchange.write(body)
        exchange.finish()

    async def is_realm(self, path: str) -> bool:
        """
        Whether the registry behind sends clients to ``path`` for their tokens, as far as it has said so.

        It is asked once in a while: after a start clients may come with what they know from before.
        """
        if path in self._realms:
            return True
        now = self._timer.seconds()
        if self._realms_requested is None or now - self._realms_requested >= _REALMS_INTERVAL:
            fields = [("Host", self._rewriter.registry_authority), ("Accept", _ACCEPT)]
            async with self._connections.request(ProxyRequest("GET", "/v2/", fields)) as opened:
                self._realms_requested = (
                    now  # only after a response: while the registry is down, it is retried
                )
                self._learn_realms(opened.head)
        return path in self._realms

    def _head(self, exchange: GatewayExchange, response: ProxyResponse, *, is_page: bool) -> list[Field]:
        """The fields of a response for this client."""
        self._learn_realms(response)
        fields = self._rewriter.to_client(response.fields, exchange.host)
        return isolated(fields, method=exchange.method, status=response.code, is_page=is_page)

    def _learn_realms(self, response: ProxyResponse) -> None:
        for challenge in parse_challenges(response.values("WWW-Authenticate")):
            path = self._rewriter.registry_path(challenge.parameters.get("realm", ""))
            if path is not None and len(self._realms) < _MAX_REALMS:
                self._realms.add(path)
