"""
Selects the origin of a request.

By ``?ns=``, else by the request's host, else by a prefix of the repository's name, else the first one that is
configured. A host that is not configured can never be reached.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import evolve, frozen

from contentcache.core.errors import OriginUnknown, RepositoryDenied, SignatureRefused
from contentcache.core.routes import Catalog, Content, Ping, Root, Route
from contentcache.jose.blob_tokens import normalize_issuer
from contentcache.upstream.registry import Registry

_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_DEFAULT_PORTS: Final = (("https://", ":443"), ("http://", ":80"))
_NAME_LENGTH: Final = 259  # of a host name and a port


@frozen
class SelectedOrigin:
    """An origin, the route as sent to it, and the prefix that was removed from the repository's name."""

    registry: Registry
    route: Route
    prefix: str | None = None


class OriginSelector:
    """Selects among the configured origins, of which there is at least one."""

    def __init__(self, registries: Sequence[Registry]) -> None:
        self._registries = registries
        self.refresh()

    def refresh(self) -> None:
        """Select by the names that the origins have now."""
        registries = self._registries
        self._by_name = {name: entry for entry in registries for name in entry.upstream.names}
        for hub in _HUB & self._by_name.keys():
            self._by_name.update(dict.fromkeys(_HUB - self._by_name.keys(), self._by_name[hub]))
        self._by_host = {host: entry for entry in registries for host in entry.upstream.served}
        self._by_issuer = {
            normalize_issuer(entry.upstream.issuer): entry for entry in registries if entry.upstream.issuer
        }
        self._by_prefix = {entry.upstream.prefix: entry for entry in registries if entry.upstream.prefix}

    def select(
        self, route: Route, namespace: str | None, host: str, origin_url: str | None = None
    ) -> SelectedOrigin:
        """
        The origin of a request. ``origin_url`` is what another cache says it is.

        :raises OriginUnknown: ``namespace`` or ``origin_url`` is not configured.
        """
        if namespace is not None:
            known = self._named(namespace.lower().removesuffix("."))
            if known is None:
                raise OriginUnknown(
                    f"this cache has no upstream named {namespace[:_NAME_LENGTH]!r} (upstreams[].names)"
                )
            # Mirrors with a path (BuildKit, k3s) send both the prefix and the name.
            return self._without_prefix(route, known) or SelectedOrigin(known, route)
        if origin_url is not None:
            known = self._by_issuer.get(normalize_issuer(origin_url))
            if known is not None:
                return SelectedOrigin(known, route)
            if len(self._registries) > 1:
                raise OriginUnknown("this cache has no upstream that is the origin of the cache before it")
            # The only one may have another URL here than in the other cache's configuration.
        by_host = self._find_by_host(host)
        if by_host is not None:
            return SelectedOrigin(by_host, route)
        return self._by_repository(route) or SelectedOrigin(self._registries[0], route)

    def select_signed(
        self, content: Content, namespace: str | None, host: str, issuer: str
    ) -> SelectedOrigin:
        """
        The origin of a signed URL, by the ``issuer`` of its token. The repository has the origin's own name,
        so no prefix is removed.

        :raises SignatureRefused: ``issuer`` is not configured, or not the origin that the request names.
        :raises OriginUnknown: ``namespace`` is not configured.
        """
        origin = self._by_issuer.get(normalize_issuer(issuer))
        if origin is None:
            raise SignatureRefused(
                "the token of this URL is from an origin that is not configured here ('iss')"
            )
        is_named = namespace is not None or self._find_by_host(host) is not None
        if is_named and self.select(content, namespace, host).registry is not origin:
            raise SignatureRefused("the token of this URL is from another origin than is asked for ('iss')")
        return SelectedOrigin(origin, content)

    def check_name(self, selected: SelectedOrigin) -> None:
        """
        Refuse a name that would mean another origin in a token.

        :raises RepositoryDenied: the repository's name begins with the prefix of another origin, or it is the
            catalogue of an origin with a prefix.
        """
        route, prefix = selected.route, selected.registry.upstream.prefix
        if isinstance(route, Root | Ping):
            return
        if isinstance(route, Catalog):
            if prefix is not None:
                raise RepositoryDenied("a token can allow the catalogue of the first origin only")
            return
        first = route.repository.partition("/")[0]
        if prefix is None and first in self._by_prefix:
            raise RepositoryDenied(f"{first!r} is the prefix of another origin: no token can mean this")

    def _find_by_host(self, host: str) -> Registry | None:
        return self._by_host.get(host) or self._by_host.get(host.partition(":")[0].removesuffix("."))

    def _named(self, name: str) -> Registry | None:
        """The origin with this name, with or without the default port of its scheme."""
        if len(name) > _NAME_LENGTH:
            return None
        known = self._by_name.get(name)
        if known is not None:
            return known
        for scheme, port in _DEFAULT_PORTS:
            bare = name.removesuffix(port)
            known = self._by_name.get(bare) if bare != name else None
            if known is not None and known.upstream.origin.startswith(scheme):
                return known
        return None

    def _by_repository(self, route: Route) -> SelectedOrigin | None:
        if isinstance(route, Root | Ping | Catalog):
            return None
        registry = self._by_prefix.get(route.repository.partition("/")[0])
        return self._without_prefix(route, registry) if registry is not None else None

    @staticmethod
    def _without_prefix(route: Route, registry: Registry) -> SelectedOrigin | None:
        if isinstance(route, Root | Ping | Catalog):
            return None
        first, _, rest = route.repository.partition("/")
        if not rest or first != registry.upstream.prefix:
            return None
        return SelectedOrigin(registry, evolve(route, repository=rest), first)
