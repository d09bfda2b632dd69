"""The registry API: the routes of the distribution spec."""

from __future__ import annotations

from attrs import frozen
from twisted.logger import Logger

from contentcache.core.accept import prefers_html
from contentcache.core.errors import (
    LoopDetected,
    OriginRefused,
    RequestMalformed,
    RouteUnknown,
)
from contentcache.core.header_policy import Headers, lines_of, notices_of
from contentcache.core.list_queries import ListQueries, namespace_of
from contentcache.core.routes import (
    Catalog,
    Content,
    Kind,
    Ping,
    Referrers,
    Root,
    TaggedManifest,
    TagsList,
    one,
    parse,
)
from contentcache.core.via import DEEPEST, MOST_HOPS, ViaPath, append_via
from contentcache.delivery.blob_service import BlobService
from contentcache.delivery.origin_queries import OriginQueries
from contentcache.delivery.requests import ContentRequest, TagRequest
from contentcache.delivery.responses import ContentResponse
from contentcache.delivery.signed_urls import SignedUrls
from contentcache.delivery.signing_keys import PATH as KEYS_PATH
from contentcache.delivery.tags import TagService
from contentcache.registry.admission import Admission, AdmittedRequest
from contentcache.registry.origin_selection import OriginSelector, SelectedOrigin
from contentcache.registry.responses import STALE, ContentResponder, is_partial
from contentcache.registry.setup_page import SetupPage
from contentcache.server.exchange import Exchange
from contentcache.server.framing import ALLOWED
from contentcache.server.public_name import PublicName
from contentcache.server.relay import relay
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.answers import Answer
from contentcache.upstream.client import MEANT_ORIGIN, NO_CATALOG
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request


@frozen
class RegistryDependencies:
    """What the routes call."""

    blob_service: BlobService
    tags: TagService
    origin_queries: OriginQueries
    origins: OriginSelector
    signed_urls: SignedUrls
    admission: Admission
    responder: ContentResponder
    queries: ListQueries
    name: PublicName
    setup_page: SetupPage


class RegistryApi:
    """Answers requests: :meth:`answer`. ``pseudonym`` names this cache in ``Via``; the API is below ``prefix``."""

    _log = Logger()

    def __init__(
        self,
        dependencies: RegistryDependencies,
        *,
        pseudonym: str,
        prefix: str,
        meter: Meter,
    ) -> None:
        self._dependencies = dependencies
        self._pseudonym = pseudonym
        self._prefix = prefix.rstrip("/")
        self._meter = meter

    async def answer(self, exchange: Exchange) -> None:
        """
        Answer a request.

        :raises CacheError: the response is an error.
        """
        exchange.identify_caller(self._dependencies.name)
        if exchange.method == "OPTIONS":
            # A browser's preflight request (CORS): what the response allows is in ``http.headers``.
            exchange.reply(200, {"Allow": ALLOWED})
            return
        path = exchange.path
        if path in {KEYS_PATH, self._prefix + KEYS_PATH}:
            exchange.request.kind = "keys"
            await self._answer_keys(exchange)
            return
        if path == "/" or (self._prefix and path == self._prefix + "/"):
            exchange.request.kind = "root"
            await self._answer_root(exchange)
            return
        if not path.startswith("/"):
            raise RequestMalformed("the target of a request begins with a slash here")
        if not path.startswith(self._prefix + "/"):
            raise RouteUnknown("this is a registry: its API is below " + self._prefix + "/v2/")
        route = parse(path[len(self._prefix) :])
        exchange.request.concerns(route)
        via = self._check_via(exchange)
        admitted = await self._dependencies.admission.admit(exchange, route)
        await self._answer_route(exchange, admitted, via)

    async def _answer_root(self, exchange: Exchange) -> None:
        """Browsers get a page, everybody else an empty answer."""
        headers: Headers = {"Cache-Control": "no-cache", "Content-Type": "text/plain"}
        text = b""
        if prefers_html(exchange.values("Accept")):
            text, headers = await self._dependencies.setup_page.render(exchange.caller.base)
        exchange.reply(200, headers, text)

    async def _answer_route(self, exchange: Exchange, admitted: AdmittedRequest, via: str) -> None:
        selected = admitted.selected
        self._name_caches(exchange, selected.registry)
        exchange.request.concerns(selected.route)
        match selected.route:
            case Content() as content:
                accept = exchange.values("Accept")
                request = ContentRequest(selected.registry, admitted.subject, content, accept, via)
                await self._answer_content(exchange, request)
            case TaggedManifest() as tagged:
                accept = exchange.values("Accept")
                tag_request = TagRequest(selected.registry, admitted.subject, tagged, accept, via)
                await self._answer_tag(exchange, tag_request)
            case Ping() | Root() if admitted.is_local:
                # The origin may be unreachable, and would only authorize the cache's own account.
                exchange.reply(200, {"Content-Type": "application/json"}, b"{}")
            case Ping() | Root():
                await self._answer_ping(exchange, admitted, via)
            case Catalog():
                await self._answer_catalog(exchange, admitted, via)
            case TagsList(repository):
                await self._pass_through(exchange, admitted, f"/v2/{repository}/tags/list", via)
            case Referrers(repository, digest):
                path = f"/v2/{repository}/referrers/{digest}"
                await self._pass_through(exchange, admitted, path, via)

    # ``Via``.

    def _check_via(self, exchange: Exchange) -> str:
        values = exchange.values("Via")
        path = ViaPath.of(values)
        if values:
            exchange.response_via = lambda: append_via((), self._pseudonym)
        if not path.is_bounded:
            raise RequestMalformed(f"Via has more than {MOST_HOPS} names, or one that is too long")
        if path.contains(self._pseudonym):
            raise LoopDetected("this request has been here: the caches' upstreams lead in a circle")
        if path.caches >= DEEPEST:
            self._meter.went_deep()
            self._log.warn(
                "request passed too many caches",
                caches=path.caches,
                limit=DEEPEST,
                client=exchange.caller.address,
                path=exchange.path,
                hint="more caches in a row cost too much",
            )
        return append_via(values, self._pseudonym)

    def _name_caches(self, exchange: Exchange, registry: Registry) -> None:
        """
        Name this cache and those upstream of it in the response to another cache, so that it can refuse requests
        that would return to them.
        """
        if exchange.response_via is not None:
            behind = registry.behind
            exchange.response_via = lambda: ", ".join(
                f"1.1 {name}" for name in (self._pseudonym, *behind.names())
            )

    # The routes.

    async def _answer_content(self, exchange: Exchange, request: ContentRequest) -> None:
        dependencies, content = self._dependencies, request.content
        if exchange.method == "HEAD" or dependencies.responder.needs_no_body(exchange, content.digest):
            dependencies.responder.respond_head(
                exchange, await dependencies.blob_service.describe(request), content.kind
            )
            return
        parts = content.kind == "blobs" and is_partial(exchange, content.digest)
        with await dependencies.blob_service.get(request, whole=not parts) as served:
            await self._send(exchange, served, content)

    async def _answer_keys(self, exchange: Exchange) -> None:
        origins, query = self._dependencies.origins, exchange.query()
        via = self._check_via(exchange)
        origin_url = exchange.header(MEANT_ORIGIN)
        registry = origins.select(Root(), one(query, "ns"), exchange.host, origin_url).registry
        exchange.request.upstream = registry.upstream.origin
        self._name_caches(exchange, registry)
        no_cache = "no-cache" in (exchange.header("Cache-Control") or "").lower()
        published = await self._dependencies.signed_urls.published(registry, via, no_cache=no_cache)
        headers = {
            "Content-Type": "application/jwk-set+json",
            "Cache-Control": f"public, max-age={published.max_age}",
            "Age": str(published.age),
        }
        exchange.reply(200, headers, published.document)

    async def _answer_tag(self, exchange: Exchange, request: TagRequest) -> None:
        dependencies = self._dependencies
        if exchange.method == "HEAD":
            dependencies.responder.respond_head(
                exchange, await dependencies.tags.describe(request), "manifests", by_tag=True
            )
            return
        with await dependencies.tags.get(request) as served:
            await self._send(exchange, served, request.route)

    async def _send(
        self, exchange: Exchange, served: ContentResponse, route: Content | TaggedManifest
    ) -> None:
        by_tag = isinstance(route, TaggedManifest)
        kind: Kind = route.kind if isinstance(route, Content) else "manifests"
        exchange.request.identified().provenance = served.provenance
        exchange.request.digest = str(served.digest)
        await self._dependencies.responder.respond(exchange, served, kind, by_tag=by_tag)

    async def _answer_ping(self, exchange: Exchange, admitted: AdmittedRequest, via: str) -> None:
        registry = admitted.selected.registry
        pinged = await self._dependencies.origin_queries.ping(registry, admitted.subject, via)
        stale_headers = {"Cache-Status": "contentcache; hit; stale", "Warning": STALE} if pinged.stale else {}
        if pinged.status >= 400:  # noqa: PLR2004
            raise OriginRefused(pinged.status, {**pinged.headers, **stale_headers}, pinged.body)
        headers = {"Content-Type": "application/json", **pinged.headers, **stale_headers}
        exchange.reply(200, headers, pinged.body or b"{}")

    async def _answer_catalog(self, exchange: Exchange, admitted: AdmittedRequest, via: str) -> None:
        try:
            await self._pass_through(exchange, admitted, "/v2/_catalog", via)
        except OriginRefused as refusal:
            if refusal.status not in NO_CATALOG:
                raise
            headers: Headers = {
                "Content-Type": "application/json",
                "Cache-Status": f"contentcache; fwd=request; fwd-status={refusal.status}",
                **notices_of(refusal.headers),
            }
            exchange.reply(200, headers, b'{"repositories":[]}')

    async def _pass_through(
        self,
        exchange: Exchange,
        admitted: AdmittedRequest,
        path: str,
        via: str,
    ) -> None:
        """Pass a list of the origin through to the client, with links that lead to this cache."""
        selected, registry = admitted.selected, admitted.selected.registry
        query = self._dependencies.queries.upstream_query(exchange.raw_query, registry.upstream.origin)
        request = Request(
            "HEAD" if exchange.method == "HEAD" else "GET",
            path + query,
            admitted.subject,
            accept=exchange.values("Accept"),
            via=via,
        )
        answer: Answer = await self._dependencies.origin_queries.ask(registry, request)
        headers = dict(answer.passed_headers())
        headers["Cache-Status"] = "contentcache; fwd=request"
        if "Link" in headers:
            links = lines_of(headers["Link"])
            headers["Link"] = tuple(self._link(link, exchange, selected, path) for link in links)
        await relay(answer, exchange, headers)

    def _link(self, link: str, exchange: Exchange, selected: SelectedOrigin, path: str) -> str:
        """
        A link of a list from ``path``, changed to lead to this cache.

        Its host is removed; a prefix or ``?ns=`` of the request selects the origin of the next page too.
        """

        def path_here(upstream_path: str) -> str:
            if selected.prefix is not None and upstream_path.startswith("/v2/"):
                upstream_path = f"/v2/{selected.prefix}/{upstream_path[len('/v2/') :]}"
            return self._prefix + upstream_path

        namespace = namespace_of(exchange.raw_query)
        return self._dependencies.queries.link(
            link, selected.registry.upstream.origin, path, path_here, namespace=namespace
        )
