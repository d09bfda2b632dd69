"""
The option ``upstreams``: the origins, and the ways to them.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from attrs import frozen

from contentcache.config.document import Dictionary, Scalar
from contentcache.config.faults import Wrong
from contentcache.config.files import pair, password
from contentcache.config.model import Account, Upstream
from contentcache.config.readers import boolean, listing, secret, text
from contentcache.config.tables import Item, Table
from contentcache.config.urls import (
    authority,
    authority_of,
    base_url,
    host_or_network,
    url_or_authority,
    without_default_port,
)

#: One registry by three names, and the only one of them that answers questions.
DOCKER_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
DOCKER_HUB_ASKED: Final = "https://registry-1.docker.io"

#: A component of a repository's name (distribution-spec 1.1, "Pulling manifests").
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_GLOB = re.compile(r"[a-z0-9._/*?\[\]!-]+")
_TAG_GLOB = re.compile(r"[A-Za-z0-9._*?\[\]!-]+")

_LIST_HINT = "; put each upstream behind a dash: - originhost: https://registry.example.com"


@frozen
class Surroundings:
    """
    What other options say about all upstreams.
    """

    fallback: bool = False
    issuer: str | None = None


def read_upstreams(options: Table, around: Surroundings) -> tuple[Upstream, ...]:
    """
    Read both forms: a mapping for each origin, or a plain list of URLs that lead to a single one.
    """
    item = options.take("upstreams")
    if item is None:
        options.fault(
            "upstreams", "is required; write e.g. upstreams: [{originhost: https://registry.example.com}]"
        )
        return ()
    if isinstance(item.node, Scalar | Dictionary):
        item.items(_LIST_HINT)
        return ()
    items = item.items()
    if not items:
        item.fault("is empty; at least one upstream is needed")
    if not any(isinstance(each.node, Dictionary) for each in items):
        return _plain(item, around)
    upstreams: dict[int, Upstream] = {}
    for index, each in enumerate(items):
        if not isinstance(each.node, Dictionary):
            each.fault(
                f"{each.shown()} stands among mappings; write all upstreams as mappings or all as URLs"
            )
            continue
        with each.table() as table:
            upstream = _mapped(table, around)
        if upstream is not None:
            _refuse_doubles(table, upstream, upstreams)
            upstreams[index] = upstream
    return tuple(upstreams.values())


def asked(url: str) -> str:
    """
    The URL to ask in place of ``url``.

    >>> asked("https://docker.io")
    'https://registry-1.docker.io'
    """
    return DOCKER_HUB_ASKED if authority_of(url) in DOCKER_HUB and url.startswith("https:") else url


def _plain(item: Item, around: Surroundings) -> tuple[Upstream, ...]:
    urls = listing(base_url)(item)
    if not urls:
        return ()
    origins = (around.issuer,) if around.issuer else urls
    return (
        Upstream(
            origin=" ".join(origins),
            hosts=tuple(asked(url) for url in urls),
            fallback=asked(around.issuer) if around.fallback and around.issuer else None,
            names=_names(authority_of(origin) for origin in origins),
        ),
    )


def _mapped(table: Table, around: Surroundings) -> Upstream | None:
    origin = table.demand("originhost", base_url, None, "https://registry.example.com")
    hint = "; put it in brackets: [https://cache.example.com]"
    on_the_way = table.read("upstreamhosts", listing(base_url, hint), ())
    fallback = table.read("fallbacktoorigin", boolean, around.fallback)
    if table.has("fallbacktoorigin") and fallback and not table.has("upstreamhosts"):
        table.warn("fallbacktoorigin", "has no effect without upstreamhosts")
    scheme = (origin or "https:").partition(":")[0]
    given = table.read("names", listing(_stripped(scheme)), ())
    own = () if origin is None else (authority_of(origin),)
    public = table.read("public", boolean, default=False)
    files = pair(table)
    upstream = Upstream(
        origin=origin or "",
        hosts=tuple(asked(url) for url in on_the_way or (origin or "",)),
        fallback=asked(origin) if origin and on_the_way and fallback else None,
        names=_names(given or own) | (DOCKER_HUB if DOCKER_HUB.intersection(own) else frozenset()),
        served=frozenset(table.read("hosts", listing(authority), ())),
        prefix=table.read("prefix", _prefix, None),
        account=_account(table, public=public),
        public=public,
        allow=table.read("allow", listing(_glob), ()),
        deny=table.read("deny", listing(_glob), ()),
        immutabletags=table.read("immutabletags", _tag_pattern, None),
        certificate=files[0] if files else None,
        key=files[1] if files else None,
        realms=table.read("realms", listing(url_or_authority), ()),
        redirects=table.read("redirects", listing(host_or_network), ()),
    )
    if upstream.prefix is not None and not public:
        table.fault(
            "prefix",
            "needs public: true, since tokens that clients bring would name the repository with its prefix",
        )
    return upstream if origin is not None else None


def _names(names: Iterable[str]) -> frozenset[str]:
    found = frozenset(names)
    return found | DOCKER_HUB if found & DOCKER_HUB else found


def _stripped(scheme: str) -> Callable[[Item], str]:
    return lambda item: without_default_port(authority(item), scheme)


def _account(table: Table, *, public: bool) -> Account | None:
    table.unsupported(("exec",), "not in this version; use username with password or passwordfile")
    username = table.read("username", _username, None)
    word = table.read("password", secret, None)
    from_file = table.read("passwordfile", password, None)
    ways = [key for key in ("password", "passwordfile") if table.has(key)]
    if len(ways) > 1:
        table.fault("passwordfile", "is given beside password; one of them is enough")
    if ways and not table.has("username"):
        table.fault("username", f"is required where {ways[0]} is given")
    if table.has("username") and not ways:
        table.fault("username", "has no password; give password or passwordfile")
    if (ways or table.has("username")) and not public:
        table.fault(
            "username" if table.has("username") else ways[0],
            "an account needs public: true, which says that whoever reaches this cache may have whatever "
            "the account may; this version cannot authenticate clients itself",
        )
    found = word or from_file
    return Account(username, found) if username and found else None


def _username(item: Item) -> str:
    name = text(item)
    if ":" in name:
        # RFC 7617 §2: the first colon ends the name.
        raise Wrong(f"{item.shown()} holds a colon, which no user name may")
    return name


def _prefix(item: Item) -> str:
    component = text(item)
    if not _COMPONENT.fullmatch(component):
        raise Wrong(f"{item.shown()} is not the first component of a repository's name; write e.g. quay.io")
    return component


def _glob(item: Item) -> str:
    pattern = text(item)
    if not _GLOB.fullmatch(pattern) or pattern.startswith("/") or pattern.endswith("/"):
        raise Wrong(f"{item.shown()} matches no repository; write e.g. library/* or org/**, in lower case")
    return pattern


def _tag_pattern(item: Item) -> str:
    pattern = text(item)
    if not pattern.startswith("^"):
        if not _TAG_GLOB.fullmatch(pattern):
            raise Wrong(f"{item.shown()} matches no tag; write e.g. v* or ^v[0-9.]+$")
        return pattern
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise Wrong(f"{item.shown()} is not a regular expression: {error}") from None
    return pattern


def _refuse_doubles(table: Table, upstream: Upstream, earlier: Mapping[int, Upstream]) -> None:
    for index, other in earlier.items():
        if asked(upstream.origin) == asked(other.origin):
            table.fault("originhost", f"is the origin of upstreams[{index}] too")
        elif both := sorted(upstream.names & other.names):
            table.fault("names", f"{', '.join(both)} means upstreams[{index}] too")
        if both := sorted(upstream.served & other.served):
            table.fault("hosts", f"{', '.join(both)} means upstreams[{index}] too")
        if upstream.prefix is not None and upstream.prefix == other.prefix:
            table.fault("prefix", f"{upstream.prefix!r} means upstreams[{index}] too")
