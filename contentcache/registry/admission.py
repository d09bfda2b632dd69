"""
Selects the origin of a request, and decides whether and with which credential it may be answered.

There are three ways in:

* a signed URL for one blob, whatever else the request says of its client;
* with a section ``auth`` clients are authenticated locally, and upstream the cache uses an account of its own;
* else the client's credential is sent to the origin, which alone authorizes it.
"""

from __future__ import annotations

from typing import Final

from attrs import frozen
from twisted.logger import Logger

from contentcache.auth.interfaces import LocalAuthenticator, Scope
from contentcache.config.model import Upstream
from contentcache.core.credentials import LOCALLY_AUTHORIZED, OWN, Credential, Subject
from contentcache.core.errors import KEPT_OUT, OriginUnknown, RepositoryDenied, SignatureRefused
from contentcache.core.http_auth import credentials_for
from contentcache.core.list_queries import namespace_of
from contentcache.core.policy import allowed
from contentcache.core.routes import Catalog, Content, Ping, Root, Route, one
from contentcache.delivery.signed_urls import SignedUrls
from contentcache.jose.claims import unverified_claims
from contentcache.registry.origin_selection import OriginSelector, SelectedOrigin
from contentcache.server.access_log import logged_user, user_of
from contentcache.server.exchange import Exchange
from contentcache.upstream.client import MEANT_ORIGIN
from contentcache.upstream.registry import Registry

_CATALOG: Final = Scope("registry", "catalog", "*")


@frozen
class AdmittedRequest:
    """
    An admitted request: its origin and route, and the credential for the origin. ``is_local`` says that the
    client was authenticated locally.
    """

    selected: SelectedOrigin
    subject: Subject
    is_local: bool = False


class Admission:
    """
    ``authenticator`` is the section ``auth``, if there is one; ``authorizes`` says that what it allows is a
    grant for exactly the scope of a request.
    """

    _log = Logger()

    def __init__(
        self,
        origins: OriginSelector,
        signed_urls: SignedUrls,
        authenticator: LocalAuthenticator | None,
        *,
        authorizes: bool,
    ) -> None:
        self._origins = origins
        self._signed_urls = signed_urls
        self._authenticator = authenticator
        self._authorizes = authorizes

    async def admit(self, exchange: Exchange, route: Route) -> AdmittedRequest:
        """
        Admit a request.

        :raises SignatureRefused: its URL is signed, and does not allow it.
        :raises Unauthorized: the section ``auth`` denies it.
        :raises OriginUnknown, RepositoryDenied, RequestMalformed: it is not for a configured origin.
        """
        tokens = exchange.tokens() if isinstance(route, Content) and route.kind == "blobs" else ()
        if tokens and isinstance(route, Content):
            return await self._by_signature(exchange, route, tokens)
        selected = self._select(exchange, route)
        exchange.request.upstream = selected.registry.upstream.origin
        is_local = self._authenticator is not None
        if self._authenticator is not None and not isinstance(route, Root):
            if self._authorizes:
                self._origins.check_name(selected)
            caller = exchange.caller
            exchange.request.user_name = await self._authenticator.authenticate(
                exchange.header("Authorization"), scope_of(selected), caller.base, caller.address
            )
        check_policy(getattr(selected.route, "repository", None), selected.registry.upstream)
        credential = self.credential(selected.registry, exchange.header("Authorization"))
        return AdmittedRequest(selected, _subject(selected, credential), is_local)

    @property
    def is_local(self) -> bool:
        """Whether clients are authenticated locally, with each request."""
        return self._authenticator is not None

    def allows_cached(self, scope: Scope, authorization: str | None) -> bool:
        """Whether :meth:`admit` would allow it from memory; ``False`` where it would have to check."""
        return self._authenticator is None or self._authenticator.allows_cached(authorization, scope)

    def user(self, authorization: str | None) -> str:
        """The user that :meth:`allows_cached` has allowed, for the access log."""
        token = None if self._authenticator is None else credentials_for("Bearer", authorization)
        if token is None:
            return user_of(authorization)
        subject = unverified_claims(token).get("sub")  # it is verified: else it would not be cached
        return logged_user(subject) if isinstance(subject, str) else "-"

    def credential(self, registry: Registry, authorization: str | None) -> Credential:
        """The credential for an origin of an admitted client without a signed URL."""
        if self._authenticator is not None and self._authorizes and registry.upstream.own:
            return LOCALLY_AUTHORIZED
        # With an account of the cache's own, the client's credential is not sent on.
        return OWN if registry.upstream.own else Credential(authorization)

    def _select(self, exchange: Exchange, route: Route) -> SelectedOrigin:
        namespace = namespace_of(exchange.raw_query)
        try:
            return self._origins.select(route, namespace, exchange.host, exchange.header(MEANT_ORIGIN))
        except OriginUnknown as error:
            # containerd asks with HEAD, and shows nobody what is wrong.
            self._log.warn(
                "request for an unknown upstream refused",
                client=exchange.caller.address,
                repository=getattr(route, "repository", None),
                reason=error.message,
            )
            raise

    async def _by_signature(
        self, exchange: Exchange, content: Content, tokens: tuple[str, ...]
    ) -> AdmittedRequest:
        if len(set(tokens)) > 1:
            raise SignatureRefused("this URL has two tokens; ask the origin for the blob again")
        presented = self._signed_urls.parse(tokens[0])
        namespace = one(exchange.query(lenient=True), "ns")
        selected = self._origins.select_signed(content, namespace, exchange.host, presented.issuer)
        exchange.request.upstream = selected.registry.upstream.origin
        signed = await self._signed_urls.verify(presented, selected.registry, content)
        exchange.use_request_id(signed.request_id)
        exchange.request.user_name = signed.subject
        check_policy(getattr(selected.route, "repository", None), selected.registry.upstream)
        return AdmittedRequest(selected, _subject(selected, Credential(signed=presented.text)))


def _subject(selected: SelectedOrigin, credential: Credential) -> Subject:
    return selected.registry.subject(getattr(selected.route, "repository", None), credential)


def scope_of(selected: SelectedOrigin) -> Scope | None:
    """
    The scope that a request needs of the section ``auth``; ``None`` where authentication is enough.

    A token names a repository and no origin. So a repository of an origin that has a prefix is named with it,
    in whichever way the origin was selected: by the prefix itself, by ``?ns=`` or by a host.
    """
    route, prefix = selected.route, selected.registry.upstream.prefix
    if isinstance(route, Ping | Root):
        return None
    if isinstance(route, Catalog):
        return _CATALOG
    name = route.repository if prefix is None else f"{prefix}/{route.repository}"
    return Scope("repository", name, "pull")


def check_policy(repository: str | None, upstream: Upstream) -> None:
    """
    Apply ``allow`` and ``deny`` of an upstream.

    :raises RepositoryDenied: they exclude the repository.
    """
    if repository is not None and not allowed(repository, upstream.allow, upstream.deny):
        raise RepositoryDenied(
            f"the operator of this cache does not let {repository} pass", detail=dict(KEPT_OUT)
        )
