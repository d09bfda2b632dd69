"""The registry API: the routes of the distribution spec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from attrs import frozen
from twisted.logger import Logger

from contentcache.core.credentials import Credential
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
    Ping,
    Referrers,
    Root,
    TaggedManifest,
    TagsList,
    one,
    parse,
)
from contentcache.core.via import DEEPEST, MOST_HOPS, Path, added
from contentcache.delivery.blob_service import BlobService
from contentcache.delivery.origin_queries import OriginQueries
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.signatures import Signatures
from contentcache.delivery.signing_keys import PATH as KEYS_PATH
from contentcache.delivery.tags import TagAsking, Tags
from contentcache.meter import Meter
from contentcache.registry.admission import Admission, AdmittedRequest
from contentcache.registry.origin_selection import OriginSelector, SelectedOrigin
from contentcache.registry.responses import STALE, ContentResponder, is_partial
from contentcache.server.exchange import Exchange
from contentcache.server.framing import ALLOWED
from contentcache.server.public_name import PublicName
from contentcache.server.relay import relay
from contentcache.upstream.answers import Answer
from contentcache.upstream.client import MEANT_ORIGIN, NO_CATALOG
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request

_KINDS: Final[Mapping[type, str]] = {
    Root: "root",
    Ping: "ping",
    Catalog: "catalog",
    TagsList: "tags",
    TaggedManifest: "manifests",
    Referrers: "referrers",
}


@frozen
class RegistryDependencies:
    """What the routes call."""

    blob_service: BlobService
    tags: Tags
    origin_queries: OriginQueries
    origins: OriginSelector
    signatures: Signatures
    admission: Admission
    responder: ContentResponder
    queries: ListQueries
    name: PublicName


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
            exchange.reply(200, {"Cache-Control": "no-cache", "Content-Type": "text/plain"})
            return
        if not path.startswith("/"):
            raise RequestMalformed("the target of a request begins with a slash here")
        if not path.startswith(self._prefix + "/"):
            raise RouteUnknown("this is a registry: its API is below " + self._prefix + "/v2/")
        route = parse(path[len(self._prefix) :])
        exchange.request.kind = route.kind if isinstance(route, Content) else _KINDS[type(route)]
        via = self._check_via(exchange)
        admitted = await self._dependencies.admission.admit(exchange, route)
        await self._answer_route(exchange, admitted, via)

    async def _answer_route(self, exchange: Exchange, admitted: AdmittedRequest, via: str) -> None:
        selected, credential = admitted.selected, admitted.credential
        self._name_caches(exchange, selected.registry)
        match selected.route:
            case Content() as content:
                accept = exchange.values("Accept")
                asking = ContentRequest(selected.registry, content, credential, accept, via)
                await self._answer_content(exchange, asking)
            case TaggedManifest() as tagged:
                asked = TagAsking(selected.registry, tagged, credential, exchange.values("Accept"), via)
                await self._answer_tag(exchange, asked)
            case Ping() | Root() if admitted.is_local:
                # The origin may be away, and would only be told of our own account.
                exchange.reply(200, {"Content-Type": "application/json"}, b"{}")
            case Ping() | Root():
                await self._answer_ping(exchange, selected, credential, via)
            case Catalog():
                await self._answer_catalog(exchange, selected, credential, via)
            case TagsList(repository):
                path = f"/v2/{repository}/tags/list"
                await self._pass_on(exchange, selected, path, repository, credential, via)
            case Referrers(repository, digest):
                path = f"/v2/{repository}/referrers/{digest}"
                await self._pass_on(exchange, selected, path, repository, credential, via)

    # ``Via``.

    def _check_via(self, exchange: Exchange) -> str:
        values = exchange.values("Via")
        path = Path.of(values)
        if values:
            exchange.response_via = lambda: added((), self._pseudonym)
        if not path.is_bounded:
            raise RequestMalformed(f"Via has more than {MOST_HOPS} names, or one that is too long")
        if path.has_met(self._pseudonym):
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
        return added(values, self._pseudonym)

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

    async def _answer_content(self, exchange: Exchange, asking: ContentRequest) -> None:
        dependencies, content = self._dependencies, asking.content
        if exchange.method == "HEAD" or dependencies.responder.is_settled(exchange, content.digest):
            dependencies.responder.describe(
                exchange, await dependencies.blob_service.describe(asking), content.kind
            )
            return
        parts = content.kind == "blobs" and is_partial(exchange, content.digest)
        with await dependencies.blob_service.get(asking, whole=not parts) as served:
            self._meter.pulled(
                asking.registry.upstream.origin, content.kind, served.outcome.label(stale=served.stale)
            )
            await dependencies.responder.send(exchange, served, content.kind)

    async def _answer_keys(self, exchange: Exchange) -> None:
        origins, query = self._dependencies.origins, exchange.query()
        via = self._check_via(exchange)
        meant = exchange.header(MEANT_ORIGIN)
        registry = origins.select(Root(), one(query, "ns"), exchange.host, meant).registry
        exchange.request.upstream = registry.upstream.origin
        self._name_caches(exchange, registry)
        anew = "no-cache" in (exchange.header("Cache-Control") or "").lower()
        published = await self._dependencies.signatures.published(registry, via, anew=anew)
        headers = {
            "Content-Type": "application/jwk-set+json",
            "Cache-Control": f"public, max-age={published.max_age}",
            "Age": str(published.age),
        }
        exchange.reply(200, headers, published.document)

    async def _answer_tag(self, exchange: Exchange, asking: TagAsking) -> None:
        dependencies = self._dependencies
        if exchange.method == "HEAD":
            dependencies.responder.describe(
                exchange, await dependencies.tags.describe(asking), "manifests", by_tag=True
            )
            return
        with await dependencies.tags.get(asking) as served:
            self._meter.pulled(
                asking.registry.upstream.origin, "manifests", served.outcome.label(stale=served.stale)
            )
            await dependencies.responder.send(exchange, served, "manifests", by_tag=True)

    async def _answer_ping(
        self, exchange: Exchange, selected: SelectedOrigin, credential: Credential, via: str
    ) -> None:
        pinged = await self._dependencies.origin_queries.ping(selected.registry, credential, via)
        marks = {"Cache-Status": "contentcache; hit; stale", "Warning": STALE} if pinged.stale else {}
        if pinged.status >= 400:  # noqa: PLR2004
            raise OriginRefused(pinged.status, {**pinged.headers, **marks}, pinged.body)
        headers = {"Content-Type": "application/json", **pinged.headers, **marks}
        exchange.reply(200, headers, pinged.body or b"{}")

    async def _answer_catalog(
        self, exchange: Exchange, selected: SelectedOrigin, credential: Credential, via: str
    ) -> None:
        try:
            await self._pass_on(exchange, selected, "/v2/_catalog", None, credential, via)
        except OriginRefused as refusal:
            if refusal.status not in NO_CATALOG:
                raise
            headers: Headers = {
                "Content-Type": "application/json",
                "Cache-Status": f"contentcache; fwd=request; fwd-status={refusal.status}",
                **notices_of(refusal.headers),
            }
            exchange.reply(200, headers, b'{"repositories":[]}')

    async def _pass_on(  # noqa: PLR0917  # what a question is made of
        self,
        exchange: Exchange,
        selected: SelectedOrigin,
        path: str,
        repository: str | None,
        credential: Credential,
        via: str,
    ) -> None:
        registry = selected.registry
        query = self._dependencies.queries.upstream_query(exchange.raw_query, registry.upstream.origin)
        question = Request(
            "HEAD" if exchange.method == "HEAD" else "GET",
            path + query,
            credential,
            repository=repository,
            accept=exchange.values("Accept"),
            via=via,
        )
        answer: Answer = await self._dependencies.origin_queries.ask(registry, question)
        headers = dict(answer.passed_headers())
        headers["Cache-Status"] = "contentcache; fwd=request"
        if "Link" in headers:
            links = lines_of(headers["Link"])
            headers["Link"] = tuple(self._link(link, exchange, selected, path) for link in links)
        await relay(answer, exchange, headers)

    def _link(self, link: str, exchange: Exchange, selected: SelectedOrigin, asked: str) -> str:
        """
        The links of a list, so that they lead here again.

        The host goes; what was asked for by a prefix or by ``?ns=`` is still meant on the next page.
        """

        def path_here(path: str) -> str:
            if selected.prefix is not None and path.startswith("/v2/"):
                path = f"/v2/{selected.prefix}/{path[len('/v2/') :]}"
            return self._prefix + path

        namespace = namespace_of(exchange.raw_query)
        return self._dependencies.queries.link(
            link, selected.registry.upstream.origin, asked, path_here, namespace=namespace
        )
