"""
Which origin a request means.

By ``?ns=``, else by the host that was asked, else by a prefix of the repository's name, else the first
one that is configured. It is never a way to reach a host that is not.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import evolve, frozen

from contentcache.core.errors import OriginUnknown, RepositoryDenied, SignatureRefused
from contentcache.core.routes import Catalog, Content, Ping, Referrers, Root, Route, TaggedManifest, TagsList
from contentcache.jose.blob_tokens import normalize_issuer
from contentcache.upstream.registry import Registry

_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
_DEFAULT_PORTS: Final = (("https://", ":443"), ("http://", ":80"))
_NAME_LENGTH: Final = 259  # a host name and a port


@frozen
class Chosen:
    """An origin, the route as it knows it, and the prefix that was taken off its repository."""

    registry: Registry
    route: Route
    prefix: str | None = None


class OriginSelector:
    """The configured origins. At least one."""

    def __init__(self, registries: Sequence[Registry]) -> None:
        self._registries = registries
        self._by_name = {name: entry for entry in registries for name in entry.upstream.names}
        for hub in _HUB & self._by_name.keys():
            self._by_name.update(dict.fromkeys(_HUB - self._by_name.keys(), self._by_name[hub]))
        self._by_host = {host: entry for entry in registries for host in entry.upstream.served}
        self._by_issuer = {
            normalize_issuer(entry.upstream.issuer): entry for entry in registries if entry.upstream.issuer
        }
        self._by_prefix = {entry.upstream.prefix: entry for entry in registries if entry.upstream.prefix}

    def choose(self, route: Route, namespace: str | None, host: str, meant: str | None = None) -> Chosen:
        """
        The origin that is meant. ``meant`` is its URL, where the client is a cache that has told.

        :raises OriginUnknown: ``namespace`` or ``meant`` is none that is configured here.
        """
        if namespace is not None:
            known = self._named(namespace.lower().removesuffix("."))
            if known is None:
                raise OriginUnknown(
                    f"this cache has no upstream named {namespace[:_NAME_LENGTH]!r} (upstreams[].names)"
                )
            # Mirrors with a path (BuildKit, k3s) send the prefix and the name.
            return self._without_prefix(route, known) or Chosen(known, route)
        if meant is not None:
            known = self._by_issuer.get(normalize_issuer(meant))
            if known is not None:
                return Chosen(known, route)
            if len(self._registries) > 1:
                raise OriginUnknown("this cache has no upstream that is the origin of the cache before it")
            # The only one may have another name here than there.
        served = self._by_served(host)
        if served is not None:
            return Chosen(served, route)
        return self._by_repository(route) or Chosen(self._registries[0], route)

    def choose_signed(self, content: Content, namespace: str | None, host: str, issuer: str) -> Chosen:
        """
        The origin whose URL is signed: ``issuer`` is who its token says it is from. The name of the
        repository is the origin's own, so no prefix is taken off it.

        :raises SignatureRefused: ``issuer`` is no origin here, or not the one that is asked for.
        :raises OriginUnknown: ``namespace`` is none that is configured here.
        """
        meant = self._by_issuer.get(normalize_issuer(issuer))
        if meant is None:
            raise SignatureRefused(
                "the token of this URL is from an origin that is not configured here ('iss')"
            )
        is_named = namespace is not None or self._by_served(host) is not None
        if is_named and self.choose(content, namespace, host).registry is not meant:
            raise SignatureRefused("the token of this URL is from another origin than is asked for ('iss')")
        return Chosen(meant, content)

    def check_name(self, chosen: Chosen) -> None:
        """
        Refuse what, in a token, would mean something of another origin.

        :raises RepositoryDenied: a repository whose name begins with the prefix of another origin; the
            catalogue of an origin that has a prefix.
        """
        route, prefix = chosen.route, chosen.registry.upstream.prefix
        if isinstance(route, Root | Ping):
            return
        if isinstance(route, Catalog):
            if prefix is not None:
                raise RepositoryDenied("a token can allow the catalogue of the first origin only")
            return
        first = route.repository.partition("/")[0]
        if prefix is None and first in self._by_prefix:
            raise RepositoryDenied(f"{first!r} is the prefix of another origin: no token can mean this")

    def _by_served(self, host: str) -> Registry | None:
        return self._by_host.get(host) or self._by_host.get(host.partition(":")[0].removesuffix("."))

    def _named(self, name: str) -> Registry | None:
        """Whose name it is; the port that its scheme has anyway may be said."""
        if len(name) > _NAME_LENGTH:
            return None
        known = self._by_name.get(name)
        if known is not None:
            return known
        for scheme, port in _DEFAULT_PORTS:
            short = name.removesuffix(port)
            known = self._by_name.get(short) if short != name else None
            if known is not None and known.upstream.origin.startswith(scheme):
                return known
        return None

    def _by_repository(self, route: Route) -> Chosen | None:
        if isinstance(route, Root | Ping | Catalog):
            return None
        registry = self._by_prefix.get(route.repository.partition("/")[0])
        return self._without_prefix(route, registry) if registry is not None else None

    @staticmethod
    def _without_prefix(route: Route, registry: Registry) -> Chosen | None:
        if isinstance(route, Root | Ping | Catalog):
            return None
        first, _, rest = route.repository.partition("/")
        if not rest or first != registry.upstream.prefix:
            return None
        return Chosen(registry, _renamed(route, rest), first)


def _renamed(
    route: TagsList | Content | TaggedManifest | Referrers, repository: str
) -> TagsList | Content | TaggedManifest | Referrers:
    return evolve(route, repository=repository)
