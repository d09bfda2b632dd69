"""
The option ``upstreams``: the origins, and the ways to them.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Iterable, Mapping
from typing import Final

from attrs import frozen

from contentcache.config.document import Dictionary, Scalar, Series
from contentcache.config.faults import Wrong
from contentcache.config.files import pair, password, program
from contentcache.config.model import Account, CredentialHelper, Upstream
from contentcache.config.readers import boolean, duration, listing, secret, text
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
    What is said elsewhere about all upstreams; ``judging``: clients are judged here, by section ``auth``.
    """

    fallback: bool = False
    issuer: str | None = None
    judging: bool = False


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
            own=around.judging,
            issuer=around.issuer,
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
    judged = public or around.judging
    files = pair(table)
    upstream = Upstream(
        origin=origin or "",
        hosts=tuple(asked(url) for url in on_the_way or (origin or "",)),
        fallback=asked(origin) if origin and on_the_way and fallback else None,
        names=_names(given or own) | (DOCKER_HUB if DOCKER_HUB.intersection(own) else frozenset()),
        served=frozenset(table.read("hosts", listing(authority), ())),
        prefix=table.read("prefix", _prefix, None),
        account=_account(table),
        helper=_helper(table),
        public=public,
        own=judged,
        issuer=origin,
        allow=table.read("allow", listing(_glob), ()),
        deny=table.read("deny", listing(_glob), ()),
        immutabletags=table.read("immutabletags", _tag_pattern, None),
        certificate=files[0] if files else None,
        key=files[1] if files else None,
        realms=table.read("realms", listing(url_or_authority), ()),
        redirects=table.read("redirects", listing(host_or_network), ()),
    )
    _judge_access(table, public=public, judging=around.judging)
    return upstream if origin is not None else None


def _names(names: Iterable[str]) -> frozenset[str]:
    found = frozenset(names)
    return found | DOCKER_HUB if found & DOCKER_HUB else found


def _stripped(scheme: str) -> Callable[[Item], str]:
    return lambda item: without_default_port(authority(item), scheme)


def _judge_access(table: Table, *, public: bool, judging: bool) -> None:
    """
    Whoever comes may have what an account may only where that is said, or where somebody judges them.
    """
    if public and judging:
        table.warn("public", "has no effect where there is a section auth: clients are judged by it")
    if public or judging:
        return
    given = [key for key in ("username", "password", "passwordfile", "exec") if table.has(key)]
    if given:
        table.fault(
            given[0],
            "an account needs a section auth, by which clients are judged here, or public: true, which says "
            "that whoever reaches this cache may have whatever the account may",
        )
    if table.has("prefix"):
        table.fault(
            "prefix",
            "needs public: true or a section auth, since tokens that clients bring for the origin would name "
            "the repository with its prefix",
        )


def _account(table: Table) -> Account | None:
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
    found = word or from_file
    return Account(username, found) if username and found else None


def _username(item: Item) -> str:
    name = text(item)
    if ":" in name:
        # RFC 7617 §2: the first colon ends the name. What follows may well be the password.
        raise Wrong("holds a colon, which no user name may; the password has a key of its own")
    return name


def _helper(table: Table) -> CredentialHelper | None:
    item = table.take("exec")
    if item is None:
        return None
    for key in ("username", "password", "passwordfile"):
        if table.has(key):
            table.fault(
                key, "is given beside exec, whose program tells both name and password; leave one out"
            )
    if not isinstance(item.node, Dictionary):
        # A command line may hold a secret: it is not repeated.
        item.fault("is not a mapping; write e.g. exec: {command: /usr/local/bin/docker-credential-vault}")
        return None
    with item.table() as section:
        command = section.demand("command", _command, (), "/usr/local/bin/docker-credential-vault")
        return CredentialHelper(command, section.read("lifetime", duration(zero=True), None))


def _command(item: Item) -> tuple[str, ...]:
    """
    A program and its arguments: a list of them, or a text that is split as a shell does.
    """
    if isinstance(item.node, Series):
        words = listing(secret, repeats=True)(item)
        if len(words) < len(item.node.items):
            return ()
    else:
        try:
            words = tuple(shlex.split(secret(item)))
        except ValueError:
            raise Wrong("has a quote or a backslash that nothing follows") from None
    if not words or not words[0]:
        raise Wrong("names no program")
    program(words)
    return words


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
