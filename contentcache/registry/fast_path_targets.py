"""What request lines mean that the short way can answer: a blob by its digest, named in the simplest way."""

from __future__ import annotations

import re
from typing import Final

from attrs import define

from contentcache.auth.interfaces import Scope
from contentcache.core.errors import CacheError
from contentcache.core.policy import allowed
from contentcache.core.routes import Content, parse
from contentcache.delivery.signatures import Signatures
from contentcache.journal import harmless
from contentcache.registry.admission import scope_of
from contentcache.registry.origin_selection import Chosen, OriginSelector
from contentcache.storage.interfaces import Link
from contentcache.upstream.registry import Registry

#: So many request lines of all clients are remembered until they are all forgotten.
_MOST: Final = 4096
_LINE: Final = re.compile(rb"(GET|HEAD) (/[!-~]*/blobs/[!->@-~]*)(?:\?ns=([A-Za-z0-9.:_-]+))? HTTP/1\.1")
_NS: Final = rb"(ns=[A-Za-z0-9.:_-]+)"
_SIGNED: Final = re.compile(
    rb"((?:GET|HEAD) [^ ?]+)\?(?:%b&)?token=([A-Za-z0-9._-]+)(?:&%b)? HTTP/1\.1" % (_NS, _NS)
)


@define(eq=False)
class Target:
    """
    What a request line means: ``uri`` is for the log, ``scope`` for the section ``auth``. ``fields`` and
    ``head`` are kept by who answers.
    """

    method: str
    uri: str
    registry: Registry
    content: Content
    scope: Scope
    link: Link
    where: tuple[str, str]
    fields: bytes = b""
    head: bytes = b""


class Targets:
    """The lines that came lately. Tokens of signed URLs are taken out of them first."""

    def __init__(self, origins: OriginSelector, signatures: Signatures, prefix: str) -> None:
        self._origins = origins
        self._signatures = signatures
        self._prefix = prefix.rstrip("/")
        self._known: dict[tuple[str, bytes, str], Target] = {}

    def find(self, host: str, line: bytes) -> Target | None:
        """What a request line means that has no token."""
        return self._known.get((host, line, "")) or self._read(host, line, line, "")

    def find_signed(self, host: str, line: bytes) -> Target | None:
        """
        What the request line of a signed URL means, if its token allows just that, was verified before, and
        is still good.
        """
        match = _SIGNED.fullmatch(line)
        kept = self._signatures.remembered(match[3].decode("ascii")) if match is not None else None
        if match is None or kept is None:
            return None
        bare = line[: match.start(3)] + line[match.end(3) :]
        target = self._known.get((host, bare, kept.issuer))
        if target is None:
            before, first, _token, last = match.groups()
            if first and last:
                return None
            named = b"?" + (first or last) if first or last else b""
            target = self._read(host, before + named + b" HTTP/1.1", bare, kept.issuer)
        if target is None or not self._signatures.allows(kept, target.registry, target.content):
            return None
        return target

    def _read(self, host: str, line: bytes, name: bytes, issuer: str) -> Target | None:
        """
        :param line: a request line without a token.
        :param name: the same for the table and the log.
        :param issuer: whose the token is that was taken out of it, empty where there was none.
        """
        match = _LINE.fullmatch(line)
        if match is None:
            return None
        method, path, namespace = (part.decode("ascii") if part else None for part in match.groups())
        if method is None or path is None or not path.startswith(self._prefix + "/"):
            return None
        try:
            content = parse(path[len(self._prefix) :])
            if not isinstance(content, Content) or content.kind != "blobs":
                return None
            chosen = self._choose(content, namespace, host, issuer)
            self._origins.check_name(chosen)  # where that does not matter, the slow path answers
        except CacheError:
            return None
        return self._keep((host, name, issuer), method, chosen)

    def _choose(self, content: Content, namespace: str | None, host: str, issuer: str) -> Chosen:
        if issuer:
            return self._origins.choose_signed(content, namespace, host, issuer)
        return self._origins.choose(content, namespace, host)

    def _keep(self, key: tuple[str, bytes, str], method: str, chosen: Chosen) -> Target | None:
        upstream, content, scope = chosen.registry.upstream, chosen.route, scope_of(chosen)
        if not isinstance(content, Content) or scope is None:
            return None
        if not allowed(content.repository, upstream.allow, upstream.deny):
            return None
        link = Link(upstream.origin, content.repository, content.kind, content.digest)
        where = (link.origin, link.repository)
        uri = harmless(key[1].split(b" ")[1].decode("ascii"))
        target = Target(method, uri, chosen.registry, content, scope, link, where)
        if len(self._known) >= _MOST:
            self._known.clear()
        self._known[key] = target
        return target
