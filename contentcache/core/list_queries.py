"""
Queries of lists (tags, repositories, referrers): what of them is sent upstream.

The specification has ``n``, ``last`` and ``artifactType``; only they are. Registries add parameters of their own
to the ``Link`` of a next page (RFC 8288). Such a query gets a MAC in the ``Link`` that the client sees, and is then
sent back to the same origin unchanged: no state is needed, and a query that a client invents is not sent.
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Callable, Sequence
from hashlib import blake2b
from typing import Final
from urllib.parse import parse_qs, parse_qsl, urljoin

from contentcache.core.errors import RequestMalformed
from contentcache.core.routes import Paging, one

#: Characters of a query that is sent upstream.
LONGEST_QUERY: Final = 2 << 10
_MOST_PARAMETERS: Final = 32
#: The parameter with the MAC; it is not sent upstream.
MAC_PARAMETER: Final = "contentcache-link"
#: Number of caches in a row whose parameters do not count, and characters of each with its ``&``.
_MOST_CACHES: Final = 8
_LONGEST_MAC: Final = len(MAC_PARAMETER) + len("=&") + 32
#: The parameter that names the origin; registries do not know it.
_NAMESPACE: Final = "ns"
_URL: Final = re.compile(r"<([^<>]*)>")
_HOST: Final = re.compile(r"(?:https?:)?//[^/?#]*", re.IGNORECASE)
_PLAIN: Final = re.compile(r'[!"$-~]*', re.ASCII)


class ListQueries:
    """Authenticates queries by ``secret``, at most 64 bytes that nobody else knows."""

    def __init__(self, secret: bytes) -> None:
        self._secret = secret

    def upstream_query(self, raw: str, origin: str) -> str:
        """
        The query to send to ``origin`` for a client's raw query, with its question mark, or nothing.

        :raises RequestMalformed: it is too long, or has a value out of bounds.
        """
        pairs = raw.split("&")
        ours = _last(pairs, MAC_PARAMETER)
        if ours is None:
            rest = "&".join(pair for pair in pairs if _name(pair) != _NAMESPACE)
            _check_length(rest)
            return _known(rest)
        # The last one is ours: a cache behind this one has added its own before. So is a namespace behind it.
        given = pairs.pop(ours).partition("=")[2].encode("latin-1", "replace")
        named = _last(pairs, _NAMESPACE)
        if named is not None and named >= ours:
            del pairs[named]
        # If a client has put the namespace elsewhere, none can be the registry's.
        bare = [pair for pair in pairs if _name(pair) != _NAMESPACE]
        for rest in ("&".join(pairs), "&".join(bare)):
            _check_length(rest)
            if hmac.compare_digest(given, self._mac(origin, rest)):
                return "?" + rest
        return _known("&".join(bare))

    def link(
        self, value: str, origin: str, asked: str, path_here: Callable[[str], str], *, namespace: str | None
    ) -> str:
        """
        A ``Link`` of ``origin`` as the client gets it: without a host, with the MAC of its query.

        :param asked: the path of the request, to which the URLs may be relative.
        :param path_here: maps a path of the origin to one of this cache.
        """

        def here(match: re.Match[str]) -> str:
            url = _HOST.sub("", match[1], count=1) if _HOST.match(match[1]) else match[1]
            joined = urljoin(asked, url.partition("#")[0]) if not url.startswith("/") else url
            path, _, query = joined.partition("#")[0].partition("?")
            if not path.startswith("/"):
                return match[0]
            pairs = [query] if query else []
            if query and self._needs_mac(query):
                pairs.append(f"{MAC_PARAMETER}={self._mac(origin, query).decode()}")
            if namespace is not None:
                pairs.append(f"{_NAMESPACE}={namespace}")
            return f"<{path_here(path)}{'?' if pairs else ''}{'&'.join(pairs)}>"

        return _URL.sub(here, value)

    @staticmethod
    def _needs_mac(query: str) -> bool:
        if _is_too_long(query) or _PLAIN.fullmatch(query) is None:
            return False  # it will not be sent upstream
        try:
            return _known(query) != "?" + query
        except RequestMalformed:
            return True

    _mac_size: Final = 16

    def _mac(self, origin: str, query: str) -> bytes:
        digest = blake2b(key=self._secret, digest_size=self._mac_size, person=b"list query")
        digest.update(b"\0".join(part.encode("utf-8", "replace") for part in (origin, query)))
        return digest.hexdigest().encode("ascii")


def _is_too_long(query: str) -> bool:
    """Whether a query is too long to be sent, not counting the MACs of caches behind this one."""
    added = sum(_name(pair) == MAC_PARAMETER for pair in query.split("&")[-_MOST_CACHES:])
    return len(query) - added * _LONGEST_MAC > LONGEST_QUERY


def namespace_of(raw: str) -> str | None:
    """
    The namespace (``ns``) of a raw query, decoded.

    In a query from a ``Link`` only what follows the MAC is ours: before it there may be a parameter of the registry
    with the same name.

    :raises RequestMalformed: it is given twice with two meanings.

    >>> namespace_of("ns=a%2Fb&n=1"), namespace_of("ns=theirs&contentcache-link=0&ns=ours")
    ('a/b', 'ours')
    """
    try:
        pairs = parse_qsl(raw, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="replace")
    except ValueError as error:
        raise RequestMalformed("the query cannot be read") from error
    names = [name for name, _ in pairs]
    given = [value for name, value in pairs if name == _NAMESPACE]
    if MAC_PARAMETER in names:
        behind = pairs[len(names) - names[::-1].index(MAC_PARAMETER) :]
        given = [value for name, value in behind if name == _NAMESPACE][-1:]
    return one({_NAMESPACE: given}, _NAMESPACE)


def _last(pairs: Sequence[str], name: str) -> int | None:
    return max((index for index, pair in enumerate(pairs) if _name(pair) == name), default=None)


def _check_length(query: str) -> None:
    if _is_too_long(query):
        raise RequestMalformed(f"the query of a list has at most {LONGEST_QUERY} characters")


def _name(pair: str) -> str:
    return pair.partition("=")[0]


def _known(raw: str) -> str:
    """The parameters of a query that the specification has, encoded again."""
    try:
        query = parse_qs(raw, keep_blank_values=True, max_num_fields=_MOST_PARAMETERS, errors="strict")
    except ValueError as error:
        raise RequestMalformed("the query cannot be read") from error
    return Paging.of(query).query()
