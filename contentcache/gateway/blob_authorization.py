"""
Which answers of the registry let a client have a blob, before a URL is signed for it.

A signed URL opens the blob on a cache to whoever shows it, and the gateway fetches for the cache with its own
account. So an answer counts only if it is the registry's own word about this blob:

* ``HEAD`` is asked, and 200 counts: with ``Docker-Content-Digest``, if it is the digest that was asked for;
  else with a media type that no page and no message has. Where neither is said, the first bytes must not be
  markup;
* a redirect to another host counts if ``GET`` of the first byte, with the same credentials, is redirected as
  well, and if following that, without credentials, leads to 206, or to a 200 that is no page. A redirect to
  the registry's own host has not said anything yet. A registry that has redirected the last blob is asked
  with this ``GET`` at once: it decides in any case;
* anything else does not count. Then the request passes to the registry as the client sent it, and its own
  answer reaches the client: to be too strict here costs a redirect and nothing else.
"""

from __future__ import annotations

import re
from typing import Final, Literal

from attrs import frozen
from twisted.logger import Logger

from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError, UpstreamBroken, UpstreamTimeout
from contentcache.core.ranges import parse_length
from contentcache.core.routes import Content
from contentcache.gateway.blob_answers import SNIFFED, is_markup, is_page, proves, total_size
from contentcache.gateway.connections import Asked
from contentcache.gateway.conversation import Reply
from contentcache.gateway.exchange import GatewayExchange
from contentcache.gateway.fields import Rewriting
from contentcache.gateway.passing import Passing
from contentcache.gateway.redirect_target import RedirectTarget, TargetAnswer, first_bytes
from contentcache.upstream.content_coding import content_codings
from contentcache.upstream.redirects import REDIRECTS

_OK: Final = 200
_PARTIAL: Final = 206
#: Any other location is relative to the registry.
_WITH_HOST: Final = re.compile(r"(?:https?:)?//", re.IGNORECASE)


@frozen
class BlobAnswer:
    """
    The registry's answer about a blob: its head, the ``method`` by which it was asked, and what it comes to,
    ``None`` if it is no yes.
    """

    reply: Reply
    method: Literal["GET", "HEAD"]
    allowed: Allowed | None


@frozen
class Allowed:
    """The registry lets this client have the blob; ``size`` in bytes, ``None`` where it has not been said."""

    size: int | None


class BlobAuthorization:
    """Asks the registry, by the client's own credentials and with nothing else of the client's request."""

    _log = Logger()

    def __init__(self, passing: Passing, target: RedirectTarget, rewriting: Rewriting) -> None:
        self._passing = passing
        self._target = target
        self._rewriting = rewriting
        #: Whether the registry has redirected the last blob: a hint how to ask, which decides nothing.
        self._is_redirecting = False

    async def ask(self, exchange: GatewayExchange, content: Content) -> BlobAnswer:
        """
        Ask whether this client may have a blob.

        :raises CacheError: the registry does not answer.
        """
        if self._is_redirecting:
            reply, allowed = await self._by_first_bytes(exchange, content, SNIFFED)
            # Without parts its blobs would come whole to such a question.
            self._is_redirecting = reply.code != _OK
            return BlobAnswer(reply, "GET", allowed)
        reply, allowed = await self._by_head(exchange, content)
        return BlobAnswer(reply, "HEAD", allowed)

    async def _by_head(self, exchange: GatewayExchange, content: Content) -> tuple[Reply, Allowed | None]:
        async with self._passing.ask(exchange, content, "HEAD") as asked:
            reply = asked.reply
        if reply.code in REDIRECTS:
            if not self._leaves(reply):
                return reply, None
            got, allowed = await self._by_first_bytes(exchange, content, 1)
            self._is_redirecting = got.code in REDIRECTS
            return reply, allowed
        proved = _proves(reply, content.digest) if reply.code == _OK else False
        if proved is None:
            return reply, (await self._by_first_bytes(exchange, content, SNIFFED))[1]
        return reply, Allowed(parse_length(reply.header("Content-Length"))) if proved else None

    async def _by_first_bytes(
        self, exchange: GatewayExchange, content: Content, count: int
    ) -> tuple[Reply, Allowed | None]:
        async with self._passing.ask(exchange, content, "GET", f"bytes=0-{count - 1}") as asked:
            reply = asked.reply
            if reply.code not in REDIRECTS:
                return reply, await _by_bytes(asked, content.digest)
        return reply, await self._by_target(reply, content) if self._leaves(reply) else None

    async def _by_target(self, reply: Reply, content: Content) -> Allowed | None:
        try:
            answer = await self._target.first_byte(reply.header("Location") or "")
        except CacheError as error:
            self._log.info(
                "redirect of the registry not followed",
                repository=content.repository,
                digest=content.digest,
                reason=error.message,
            )
            return None
        return Allowed(answer.size) if _is_blob(answer) else None

    def _leaves(self, reply: Reply) -> bool:
        """Whether a redirect leads away from the registry and its gateway."""
        locations = set(reply.values("Location"))
        location = locations.pop() if len(locations) == 1 else ""
        return _WITH_HOST.match(location) is not None and self._rewriting.path_behind(location) is None


def _proves(reply: Reply, digest: Digest) -> bool | None:
    return proves(digest, reply.values("Content-Type"), reply.values("Docker-Content-Digest"))


async def _by_bytes(asked: Asked, digest: Digest) -> Allowed | None:
    reply = asked.reply
    if reply.code not in {_OK, _PARTIAL}:
        return None
    proved = _proves(reply, digest)
    if proved is None:
        if content_codings(reply.values("Content-Encoding")):
            return None  # of compressed bytes nobody can tell what they are
        try:
            proved = not is_markup(await first_bytes(asked.answer, SNIFFED))
        except (UpstreamBroken, UpstreamTimeout):
            return None
    length, span = reply.header("Content-Length"), reply.header("Content-Range")
    return Allowed(parse_length(length) if reply.code == _OK else total_size(span)) if proved else None


def _is_blob(answer: TargetAnswer) -> bool:
    """
    Whether a redirect has led to a storage. Those answer a range with 206, and pages to sign in do not.

    >>> _is_blob(TargetAnswer(206)), _is_blob(TargetAnswer(200, ["text/plain"])), _is_blob(TargetAnswer(403))
    (True, False, False)
    """
    if answer.status == _PARTIAL:
        return not is_page(answer.media_types)
    if answer.status != _OK:
        return False
    proved = proves(_NONE, answer.media_types, ())
    return not is_markup(answer.begun) if proved is None else proved


_NONE: Final = Digest.of(b"")
