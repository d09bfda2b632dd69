"""The option ``upstreams``: the origins, their hosts, and the cache's own account at them."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Final

from attrs import frozen

from contentcache.config.document import Dictionary, Scalar
from contentcache.config.files import command, pair
from contentcache.config.model import Account, CredentialHelper, Upstream
from contentcache.config.readers import boolean, listing
from contentcache.config.reading import read_key, read_values
from contentcache.config.tables import Item, Table
from contentcache.config.urls import (
    authority,
    authority_of,
    base_url,
    without_default_port,
)

#: One registry by three names, and the URL of the only one that answers requests.
DOCKER_HUB: Final = frozenset({"docker.io", "index.docker.io", "registry-1.docker.io"})
DOCKER_HUB_URL: Final = "https://registry-1.docker.io"


_LIST_HINT = "; put each upstream behind a dash: - originhost: https://registry.example.com"


@frozen
class OriginDefaults:
    """
    What other options say of all upstreams. ``local_auth``: clients are authenticated by section ``auth``;
    ``tokens``: by ``auth.token``.
    """

    fallback: bool = False
    issuer: str | None = None
    local_auth: bool = False
    tokens: bool = False


def read_upstreams(options: Table, defaults: OriginDefaults) -> tuple[Upstream, ...]:
    """Read both forms: a mapping for each origin, or a plain list of URLs that lead to a single one."""
    item = options.get("upstreams")
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
        return _plain(item, defaults)
    upstreams: dict[int, Upstream] = {}
    for index, each in enumerate(items):
        if not isinstance(each.node, Dictionary):
            each.fault(
                f"{each.described()} stands among mappings; write all upstreams as mappings or all as URLs"
            )
            continue
        with each.table() as table:
            upstream = _mapped(table, defaults)
        if upstream is not None:
            if upstreams and defaults.tokens and upstream.prefix is None:
                table.fault(
                    "prefix",
                    "is required for all upstreams but the first beside auth.token: a token names a "
                    "repository and no origin, so one for org/app would open org/app at each of them",
                )
            _refuse_duplicates(table, upstream, upstreams)
            upstreams[index] = upstream
    return tuple(upstreams.values())


def url_to_request(url: str) -> str:
    """
    The URL to send requests to in place of ``url``.

    >>> url_to_request("https://docker.io")
    'https://registry-1.docker.io'
    """
    return DOCKER_HUB_URL if authority_of(url) in DOCKER_HUB and url.startswith("https:") else url


def _plain(item: Item, defaults: OriginDefaults) -> tuple[Upstream, ...]:
    urls = listing(base_url)(item)
    if not urls:
        return ()
    origins = (defaults.issuer,) if defaults.issuer else urls
    return (
        Upstream(
            origin=" ".join(origins),
            hosts=tuple(url_to_request(url) for url in urls),
            fallback=url_to_request(defaults.issuer) if defaults.fallback and defaults.issuer else None,
            names=_names(authority_of(origin) for origin in origins),
            own=defaults.local_auth,
            issuer=defaults.issuer,
        ),
    )


def _mapped(table: Table, defaults: OriginDefaults) -> Upstream | None:
    origin = table.require("originhost", base_url, None, "https://registry.example.com")
    hint = "; put it in brackets: [https://cache.example.com]"
    on_the_way = table.read("upstreamhosts", listing(base_url, hint), ())
    fallback = table.read("fallbacktoorigin", boolean, defaults.fallback)
    if table.has("fallbacktoorigin") and fallback and not table.has("upstreamhosts"):
        table.warn("fallbacktoorigin", "has no effect without upstreamhosts")
    scheme = (origin or "https:").partition(":")[0]
    given = table.read("names", listing(_stripped(scheme)), ())
    authorities = () if origin is None else (authority_of(origin),)
    public = read_key(table, Upstream, "public", False)
    own = public or defaults.local_auth
    files = pair(table)
    upstream = read_values(
        table,
        Upstream,
        origin=origin or "",
        hosts=tuple(url_to_request(url) for url in on_the_way or (origin or "",)),
        fallback=url_to_request(origin) if origin and on_the_way and fallback else None,
        names=_names(given or authorities)
        | (DOCKER_HUB if DOCKER_HUB.intersection(authorities) else frozenset()),
        served=frozenset(read_key(table, Upstream, "hosts", ())),
        account=read_account(table),
        credential_helper=read_credential_helper(table),
        public=public,
        own=own,
        issuer=origin,
        certificate=files[0] if files else None,
        key=files[1] if files else None,
    )
    _check_access(table, public=public, local_auth=defaults.local_auth)
    return upstream if origin is not None else None


def _names(names: Iterable[str]) -> frozenset[str]:
    found = frozenset(names)
    return found | DOCKER_HUB if found & DOCKER_HUB else found


def _stripped(scheme: str) -> Callable[[Item], str]:
    return lambda item: without_default_port(authority(item), scheme)


def _check_access(table: Table, *, public: bool, local_auth: bool) -> None:
    """Clients may pull by an account of the cache only where they are authenticated here, or where it is public."""
    if public and local_auth:
        table.warn("public", "has no effect where there is a section auth: clients are authorized by it")
    if public or local_auth:
        return
    given = [key for key in ("username", "password", "passwordfile", "exec") if table.has(key)]
    if given:
        table.fault(
            given[0],
            "an account needs a section auth, by which clients are authorized here, or public: true, which says "
            "that whoever reaches this cache may have whatever the account may",
        )
    if table.has("prefix"):
        table.fault(
            "prefix",
            "needs public: true or a section auth, since tokens that clients bring for the origin would name "
            "the repository with its prefix",
        )


def _refuse_duplicates(table: Table, upstream: Upstream, earlier: Mapping[int, Upstream]) -> None:
    for index, other in earlier.items():
        if url_to_request(upstream.origin) == url_to_request(other.origin):
            table.fault("originhost", f"is the origin of upstreams[{index}] too")
        elif both := sorted(upstream.names & other.names):
            table.fault("names", f"{', '.join(both)} means upstreams[{index}] too")
        if both := sorted(upstream.served & other.served):
            table.fault("hosts", f"{', '.join(both)} means upstreams[{index}] too")
        if upstream.prefix is not None and upstream.prefix == other.prefix:
            table.fault("prefix", f"{upstream.prefix!r} means upstreams[{index}] too")


_PROGRAM = "/usr/local/bin/docker-credential-vault"


def read_account(table: Table) -> Account | None:
    """Read ``username`` with ``password`` or ``passwordfile``; ``None`` where none of them is given."""
    username = read_key(table, Upstream, "username")
    password = read_key(table, Upstream, "password")
    from_file = read_key(table, Upstream, "passwordfile")
    ways = [key for key in ("password", "passwordfile") if table.has(key)]
    if len(ways) > 1:
        table.fault("passwordfile", "is given beside password; one of them is enough")
    if ways and not table.has("username"):
        table.fault("username", f"is required where {ways[0]} is given")
    if table.has("username") and not ways:
        table.fault("username", "has no password; give password or passwordfile")
    found = password or from_file
    return Account(username, found) if username and found else None


def read_credential_helper(table: Table) -> CredentialHelper | None:
    """Read ``exec``, a credential helper that takes the place of name and password."""
    item = table.get("exec")
    if item is None:
        return None
    for key in ("username", "password", "passwordfile"):
        if table.has(key):
            table.fault(
                key, "is given beside exec, whose program tells both name and password; leave one out"
            )
    if not isinstance(item.node, Dictionary):
        # A command line may hold a secret: it is not repeated.
        item.fault(f"is not a mapping; write e.g. exec: {{command: {_PROGRAM}}}")
        return None
    with item.table() as section:
        words = section.require("command", command, (), _PROGRAM)
        return CredentialHelper(words, read_key(section, Upstream, "exec.lifetime"))
