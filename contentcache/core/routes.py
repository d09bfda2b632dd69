"""
What a request path means, in the grammar of the distribution spec (1.1, "Pulling manifests").

The raw path is matched once, before anything decodes or joins it; every path that is sent upstream is built from
the parsed parts.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Final, Literal, TypeAlias
from urllib.parse import quote, urlencode

from attrs import frozen

from contentcache.core.digest import HEX_LENGTHS, Digest
from contentcache.core.errors import (
    CacheError,
    MethodUnsupported,
    NameInvalid,
    RequestMalformed,
    RouteUnknown,
    TagUnknown,
)

#: Registries keep the two apart: to be allowed the one does not allow the other.
Kind: TypeAlias = Literal["blobs", "manifests"]

NAME_LENGTH: Final = 255
_COMPONENT = r"[a-z0-9]+(?:(?:\.|__?|-+)[a-z0-9]+)*"
_NAME = re.compile(rf"{_COMPONENT}(?:/{_COMPONENT})*", re.ASCII)
_TAG = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]{0,127}", re.ASCII)
_ABSOLUTE = re.compile(r"https?://(?P<host>[^/?#@\s]+)(?P<rest>[/?].*)?", re.ASCII | re.IGNORECASE)
_COUNT = re.compile(r"[0-9]{1,19}", re.ASCII)
#: Escapes, empty components, dot segments: in no path of the API, and others may read them otherwise.
_AMBIGUOUS = re.compile(r"%|//|/\.\.?(?:/|$)", re.ASCII)
_ESCAPED = re.compile(r"%2[Ff]|%3[Aa]", re.ASCII)
_ESCAPED_SLASH = re.compile(r"%2[Ff]", re.ASCII)
_ESCAPED_LETTER = re.compile(r"%(3[0-9]|[46][1-9A-Fa-f]|[57][0-9Aa])", re.ASCII)
#: distribution-spec 1.1, "Extensions": ``_<extension>`` is a component of their paths, and of no name.
_EXTENSION = re.compile(r"(?:\A|/)_[a-z0-9]", re.ASCII)
_LAST_LENGTH = 2 << 10


@frozen
class Root:
    """``/``: a liveness check."""


@frozen
class Ping:
    """``/v2/`` (end-1)."""


@frozen
class Catalog:
    """``/v2/_catalog``."""


@frozen
class TagsList:
    """``/v2/<name>/tags/list`` (end-8)."""

    repository: str


@frozen
class Content:
    """Something that is named by its digest: a blob (end-2) or a manifest (end-3)."""

    repository: str
    kind: Kind
    digest: Digest

    def path(self) -> str:
        """The path to ask upstream for."""
        return f"/v2/{self.repository}/{self.kind}/{self.digest}"


@frozen
class TaggedManifest:
    """``/v2/<name>/manifests/<tag>`` (end-3)."""

    repository: str
    tag: str


@frozen
class Referrers:
    """``/v2/<name>/referrers/<digest>`` (end-12)."""

    repository: str
    digest: Digest


Route: TypeAlias = Root | Ping | Catalog | TagsList | Content | TaggedManifest | Referrers


_KINDS: Final[Mapping[type, str]] = {
    Root: "root",
    Ping: "ping",
    Catalog: "catalog",
    TagsList: "tags",
    TaggedManifest: "manifests",
    Referrers: "referrers",
}


def kind_of(route: Route) -> str:
    """
    What a request is about.

    >>> kind_of(TagsList("org/app"))
    'tags'
    """
    return route.kind if isinstance(route, Content) else _KINDS[type(route)]


def split_target(target: str) -> tuple[str, str, str | None]:
    """
    The raw path, the raw query, and the authority where the target has one (RFC 9112 §3.2).

    >>> split_target("/v2/a/tags/list?n=1")
    ('/v2/a/tags/list', 'n=1', None)
    >>> split_target("http://cache:5000/v2/")
    ('/v2/', '', 'cache:5000')
    """
    absolute = _ABSOLUTE.fullmatch(target)
    authority = None
    if absolute is not None:
        authority = absolute["host"]
        target = absolute["rest"] or "/"
        if target.startswith("?"):
            target = "/" + target
    path, _, query = target.partition("?")
    return path, query, authority


def unescape(path: str) -> str:
    """
    A raw path with its escaped slashes and colons as the characters that they stand for.

    Some SDKs escape names and digests so. It is done once, before anything is looked at: ``%252F`` stays an
    escape, and every check is made of what comes out.

    >>> unescape("/v2/org%2Fapp/blobs/sha256%3Aab%252F")
    '/v2/org/app/blobs/sha256:ab%252F'
    """
    return _ESCAPED.sub(lambda match: "/" if match[0][1] == "2" else ":", path)


def parse(path: str) -> Route:
    """
    Parse a raw path.

    :raises NameInvalid: no repository can have this name (dot segments, empty components, percent
        signs, upper case, over 255 characters).
    :raises DigestInvalid: the digest is malformed or of an unregistered algorithm.
    :raises TagUnknown: it is neither a name that a tag can have nor a digest of a registered algorithm.
    :raises MethodUnsupported: the path belongs to a push.
    :raises RouteUnknown: not a path of the registry API that is answered here; extensions are none.

    >>> parse("/v2/org/app/manifests/1.0")
    TaggedManifest(repository='org/app', tag='1.0')
    """
    if path == "/":
        return Root()
    if path in {"/v2/", "/v2"}:
        return Ping()
    if path == "/v2/_catalog":
        return Catalog()
    if not path.startswith("/v2/"):
        raise _unknown(path, "this is a registry: its API is below /v2/")
    return _within(path[len("/v2/") :])


def _unknown(path: str, message: str) -> CacheError:
    if _AMBIGUOUS.search(path) is not None:
        return NameInvalid(f"{path[:160]!r} has escapes, empty components or dot segments")
    return RouteUnknown(message)


def _within(rest: str) -> Route:
    name, slash, last = rest.rpartition("/")
    name, slash, verb = name.rpartition("/")
    if not slash:
        raise _unknown("/" + rest, "nothing is at this path")
    if (verb, last) == ("blobs", "uploads") or (verb == "uploads" and name.endswith("/blobs")):
        raise MethodUnsupported("uploads are not taken here: push to the origin")
    if (verb, last) == ("tags", "list"):
        return TagsList(_repository(name))
    if verb == "manifests":
        return _manifest(_repository(name), last)
    if verb == "blobs":
        return Content(_repository(name), "blobs", _digest(last))
    if verb == "referrers":
        return Referrers(_repository(name), _digest(last))
    # Which of the two it is decides only how the refusal is worded.
    _repository(rest.rstrip("/"))
    raise RouteUnknown("nothing is at this path")


def _manifest(name: str, reference: str) -> Content | TaggedManifest:
    reference = _unescape_colon(reference)
    if reference.partition(":")[0] in HEX_LENGTHS and ":" in reference:
        return Content(name, "manifests", Digest.parse(reference))
    # Letters and digits are the same whether they are escaped or not (RFC 3986 §2.3), and are no delimiters.
    tag = _ESCAPED_LETTER.sub(lambda match: chr(int(match[1], 16)), reference)
    if tag in {"", ".", ".."} or "%" in tag:
        raise NameInvalid(f"{reference[:160]!r} is an empty component, a dot segment or has escapes")
    if _TAG.fullmatch(tag) is None:
        raise TagUnknown(f"there is no tag {tag[:160]!r}: it is neither a tag nor a digest")
    return TaggedManifest(name, tag)


def _repository(raw: str) -> str:
    """The repository that a part of a raw path names: in it ``%2F`` is the slash that it stands for."""
    name = _ESCAPED_SLASH.sub("/", raw)
    if _EXTENSION.search(name) is not None and _AMBIGUOUS.search(f"/{name}") is None:
        raise RouteUnknown("no extension of the registry API is answered here")
    return repository(name)


def repository(name: str) -> str:
    """
    ``name``, if a repository can have it (distribution-spec 1.1, "Pulling manifests").

    :raises NameInvalid: it cannot.
    """
    if len(name) > NAME_LENGTH:
        raise NameInvalid(f"a repository's name has at most {NAME_LENGTH} characters")
    if _NAME.fullmatch(name) is None:
        raise NameInvalid(f"{name[:160]!r} is not the name of a repository")
    return name


def _unescape_colon(reference: str) -> str:
    # Some clients escape the colon of a digest; no other escape has a place in the grammar.
    return reference.replace("%3A", ":").replace("%3a", ":")


def _digest(text: str) -> Digest:
    return Digest.parse(_unescape_colon(text))


@frozen
class Paging:
    """The parts of a query that are sent upstream; everything else is dropped."""

    n: str | None = None
    last: str | None = None
    artifact_type: str | None = None

    @classmethod
    def of(cls, query: dict[str, list[str]]) -> Paging:
        """
        Pick from a decoded query.

        :raises RequestMalformed: a value is out of bounds.
        """
        n = one(query, "n")
        if n is not None and _COUNT.fullmatch(n) is None:
            raise RequestMalformed("n is a number of entries")
        last = one(query, "last")
        artifact_type = one(query, "artifactType")
        for value in (last, artifact_type):
            if value is not None and (len(value) > _LAST_LENGTH or not value.isprintable()):
                raise RequestMalformed("last and artifactType have at most 2048 printable characters")
        return cls(n, last, artifact_type)

    def query(self) -> str:
        """
        The query to send, with its question mark, or nothing.

        >>> Paging(n="5", last="a b").query()
        '?n=5&last=a%20b'
        """
        pairs = [("n", self.n), ("last", self.last), ("artifactType", self.artifact_type)]
        given = [(name, value) for name, value in pairs if value is not None]
        return "?" + urlencode(given, quote_via=quote, safe="") if given else ""


def one(query: dict[str, list[str]], name: str) -> str | None:
    """
    The only value of a parameter.

    :raises RequestMalformed: it is given twice with two meanings.
    """
    values = set(query.get(name, ()))
    if len(values) > 1:
        raise RequestMalformed(f"{name} is given twice")
    return values.pop() if values else None
