"""
Who may have what: the one place where that is decided.

The cache decides nothing by itself. It sends a content to a client only if

* the client shows a signed URL for exactly this blob, verified in :mod:`contentcache.delivery.signatures`; or
* the client's credential has a *grant* in the repository (the origin has lately said yes to it there, or it
  was judged here) and a *link* says that the content belongs to that repository; or
* the origin says yes now, to the same request as ``HEAD`` with the client's own credential.

Grants are in memory, under a keyed hash, on the monotonic clock; links are in the index, by the wall clock.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import evolve, frozen

from contentcache.aio.single_flight import SingleFlight
from contentcache.core.credentials import Credential
from contentcache.core.errors import OriginRefused
from contentcache.core.grants import Grants
from contentcache.core.ports import Clock, Timer
from contentcache.core.question_order import QuestionClock
from contentcache.core.routes import Content
from contentcache.delivery.links import Links
from contentcache.delivery.origin_word import OriginWord, Yes, size_by_first_byte
from contentcache.delivery.requests import ContentRequest
from contentcache.jose.bearer_tokens import unverified_expiry
from contentcache.storage.interfaces import Affirmation, Link
from contentcache.upstream.registry import Registry

_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
#: So far may a clock be corrected without a fuss, in seconds.
_CLOCK_STEP: Final = 60.0


@frozen
class Revocation:
    """
    The grant under ``key`` has ended by the answer to a question that was asked at ``asked``; or, with
    ``is_identity``, all grants of the credential that ``key`` is of.
    """

    key: bytes
    asked: float
    is_identity: bool = False


class Access:
    """
    Grants, links, and questions to the origin.

    ``affirm_ttl`` is how many seconds a link is believed; ``keep_deleted`` lets known links serve what the
    origin has no more; ``stale_if_error`` how many seconds old grants may serve while it is away. A manifest
    has at most ``manifest_limit`` bytes. ``question_time`` gives each question its time; ``revoked`` tells
    other workers which grants have ended.
    """

    def __init__(
        self,
        grants: Grants,
        links: Links,
        *,
        clock: Timer,
        wall: Clock,
        secret: bytes,
        affirm_ttl: float,
        keep_deleted: bool,
        stale_if_error: float,
        manifest_limit: int,
        question_time: QuestionClock,
        revoked: Callable[[Revocation], None] = lambda _revocation: None,
    ) -> None:
        self._grants = grants
        self._links = links
        self._clock = clock
        self.wall = wall
        self._secret = secret
        self._affirm_ttl = affirm_ttl
        self._keep_deleted = keep_deleted
        self._stale_if_error = stale_if_error
        self.origin_word = OriginWord(clock, manifest_limit=manifest_limit, trust_targets=affirm_ttl)
        self._tell_revoked = revoked
        #: The time of a question that is about to be asked; every answer is noted with that of its question.
        self.question_time = question_time
        self._questions: SingleFlight[bytes, Yes] = SingleFlight()

    def key(self, asking: ContentRequest) -> bytes:
        """
        The key under which a question is shared; it does not reveal the credential.

        Whoever comes after a *denied* answer has another key than those who came before it: it shares
        neither their question nor a download's first request, since both may have been asked earlier. Nor
        does anybody share a question that carries another header of a client than its own: what is sent
        upstream in a shared question is in its key.
        """
        content = asking.content
        origin = asking.registry.upstream.origin
        denied = self._grants.last_denial(self._grant_key(asking), self.identity(asking))
        return asking.credential.key(
            self._secret,
            origin,
            content.repository,
            content.kind,
            str(content.digest),
            repr(denied),
            asking.via,
            *asking.sent_accept,
        )

    def identity(self, asking: ContentRequest) -> bytes:
        """The name of whoever asks, saying nothing of the credential."""
        return asking.credential.key(self._secret, asking.registry.upstream.origin)

    async def remembered(self, asking: ContentRequest) -> Yes | None:
        """The yes that a signed URL is, or that grant and link make together, if they do."""
        if asking.credential.signed is not None:
            return Yes()
        if not self._holds(asking.credential, self._grant_key(asking)):
            return None
        affirmation = await self._links.affirmation(_link(asking))
        if affirmation is None or self._age(affirmation) >= self._affirm_ttl:
            return None
        return Yes(affirmation.media_type)

    def knows(self, key: bytes, link: Link) -> bool:
        """
        Whether there is a grant under ``key`` and a link, both of them in memory and good: what
        :meth:`remembered` says, or less.
        """
        return self._grants.is_valid(key, self._clock.seconds()) and self.knows_locally_authorized(link)

    def knows_signed(self, link: Link) -> bool:
        """The same for whoever shows a signed URL for just this, which has been verified: that is all it takes."""
        return bool(link)

    def knows_locally_authorized(self, link: Link) -> bool:
        """The same for whoever has been judged here, for just this."""
        affirmation = self._links.known(link)
        return affirmation is not None and self._age(affirmation) < self._affirm_ttl

    def lost_index(self) -> None:
        """The index is made anew, and knows no links."""
        self._links.forget()

    def grant_key(self, origin: str, repository: str, credential: Credential) -> bytes:
        """The name of a grant, saying nothing of the credential."""
        return credential.key(self._secret, origin, repository)

    async def stale(self, asking: ContentRequest) -> Yes | None:
        """The yes that may serve because the origin cannot be asked."""
        if not self.may_serve_stale(asking.registry, asking.content.repository, asking.credential):
            return None
        affirmation = await self._links.affirmation(_link(asking))
        bound = max(self._affirm_ttl, self._stale_if_error)
        if affirmation is None or self._age(affirmation) >= bound:
            return None
        return Yes(affirmation.media_type, stale=True)

    async def ask(self, asking: ContentRequest, *, with_body: bool, size: int | None = None) -> Yes:
        """
        Ask the origin now. The same question of the same credential is asked once for all who wait.

        A refusal comes with its body if the client waits for one (``with_body``). ``size`` is the length of
        the content, where it is known: what a redirect of the registry leads to must have it.

        :raises OriginRefused: it says no.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: no answer means no, and neither a page
            for people nor a redirect to something else is an answer.
        """
        key = self.key(asking) + bytes([with_body]) + repr(size).encode("ascii")
        return await self._questions.run(key, lambda: self._question(asking, with_body=with_body, size=size))

    async def size_of(self, asking: ContentRequest, *, with_body: bool = False) -> Yes:
        """Ask for ``HEAD`` and its true length, wherever the content is. Raises as :meth:`ask` does."""
        yes = await self.ask(asking, with_body=with_body)
        if yes.size is not None:
            return yes
        return evolve(yes, size=await size_by_first_byte(asking))

    def granted(self, registry: Registry, repository: str, credential: Credential, *, asked: float) -> None:
        """
        The origin has let this credential pull from this repository: it has answered a question for a
        manifest or a blob, asked at ``asked``, with *allowed*. No other question makes a grant.

        A signed URL is for one blob, and its yes may be that of a cache on the way: it grants nothing more.
        """
        if credential.signed is not None:
            return
        ends = unverified_expiry(credential.authorization)
        now = self._clock.seconds()
        self._grants.add(
            credential.key(self._secret, registry.upstream.origin, repository),
            now,
            ends=None if ends is None else now + ends - self.wall(),
            asked=asked,
            identity=credential.key(self._secret, registry.upstream.origin),
        )

    def may_serve_stale(self, registry: Registry, repository: str, credential: Credential) -> bool:
        """Whether this credential may have what is known of this repository while the origin is away."""
        if not (self._stale_if_error > 0 and credential.lasting):
            return False
        key = credential.key(self._secret, registry.upstream.origin, repository)
        return credential.locally_authorized or self._grants.is_valid_if_error(key, self._clock.seconds())

    def is_granted(self, registry: Registry, repository: str, credential: Credential) -> bool:
        """
        Whether the origin has said yes to this credential in this repository within ``authttl``, or it has
        been judged here.
        """
        return self._holds(credential, credential.key(self._secret, registry.upstream.origin, repository))

    def revoked(self, registry: Registry, repository: str, credential: Credential, *, asked: float) -> None:
        """The origin has denied this credential a pull from this repository."""
        key = credential.key(self._secret, registry.upstream.origin, repository)
        self._revoke(Revocation(key, asked))

    def rejected(self, registry: Registry, credential: Credential, *, asked: float) -> None:
        """The origin has answered 401 to this credential: all its grants there end."""
        key = credential.key(self._secret, registry.upstream.origin)
        self._revoke(Revocation(key, asked, is_identity=True))

    def hear_revocation(self, revocation: Revocation) -> None:
        """Another worker has heard a denial: end the grant here too."""
        if revocation.is_identity:
            self._grants.revoke_identity(revocation.key, revocation.asked)
        else:
            self._grants.revoke(revocation.key, revocation.asked)

    def _revoke(self, revocation: Revocation) -> None:
        self.hear_revocation(revocation)
        self._tell_revoked(revocation)

    async def media_type(self, asking: ContentRequest) -> str | None:
        """What ``GET`` once said of a content in its repository."""
        affirmation = await self._links.affirmation(_link(asking))
        return None if affirmation is None else affirmation.media_type

    async def learn_media_type(self, asking: ContentRequest, media_type: str | None) -> None:
        """A body has come by ``GET`` and been checked: this is its media type, whatever ``HEAD`` says."""
        await self._links.learn_media_type(_link(asking), media_type)

    async def affirmed(self, asking: ContentRequest, media_type: str | None, *, asked: float) -> None:
        """
        The origin has answered this very question, asked at ``asked``, with *allowed*: that makes a grant and
        a link.
        """
        if asking.credential.signed is not None:
            return
        self.granted(asking.registry, asking.content.repository, asking.credential, asked=asked)
        await self._links.affirm(_link(asking), Affirmation(self.wall(), media_type), asked=asked)

    async def refused(self, asking: ContentRequest, refusal: OriginRefused, *, asked: float) -> None:
        """The origin has answered this very question, asked at ``asked``, with *denied*."""
        if asking.credential.signed is not None:
            return  # it says something of the signed URL, and nothing of the repository
        whose = asking.registry, asking.content.repository, asking.credential
        gone = self.hears_no(*whose, refusal.status, asked=asked)
        if gone or (refusal.status == _NOT_FOUND and not self._keep_deleted):
            # To a stranger it may only have been hidden; then those who may have it cost one question.
            await self._links.revoke(_link(asking), asked=asked)

    def hears_no(
        self, registry: Registry, repository: str, credential: Credential, status: int, *, asked: float
    ) -> bool:
        """
        The origin has refused something in this repository; whether that says that it is gone.

        Only somebody whom the origin lets in can tell. A 404 to others may hide anything from them, so no old
        yes of theirs serves any more.
        """
        granted = self.is_granted(registry, repository, credential)
        if status == _UNAUTHORIZED:
            self.rejected(registry, credential, asked=asked)
            return False
        if status == _FORBIDDEN or (status == _NOT_FOUND and not granted):
            self.revoked(registry, repository, credential, asked=asked)
            return False
        return status == _NOT_FOUND and not self._keep_deleted

    async def _question(self, asking: ContentRequest, *, with_body: bool, size: int | None) -> Yes:
        asked = self.question_time()
        try:
            yes, is_affirmed = await self.origin_word.ask(asking, with_body=with_body, size=size)
        except OriginRefused as refusal:
            kept = await self._kept_though_deleted(asking, refusal)
            if kept is not None:
                return kept
            await self.refused(asking, refusal, asked=asked)
            if refusal.status == _NOT_FOUND and not refusal.body:
                code = "BLOB_UNKNOWN" if asking.content.kind == "blobs" else "MANIFEST_UNKNOWN"
                raise OriginRefused(_NOT_FOUND, refusal.headers, code=code) from refusal
            raise
        if is_affirmed:
            await self.affirmed(asking, yes.media_type, asked=asked)
        return yes

    async def _kept_though_deleted(self, asking: ContentRequest, refusal: OriginRefused) -> Yes | None:
        if not self._keep_deleted or refusal.status != _NOT_FOUND:
            return None
        if not self.is_granted(asking.registry, asking.content.repository, asking.credential):
            return None
        affirmation = await self._links.affirmation(_link(asking))
        return None if affirmation is None else Yes(affirmation.media_type)

    def _holds(self, credential: Credential, key: bytes) -> bool:
        return credential.locally_authorized or self._grants.is_valid(key, self._clock.seconds())

    def _grant_key(self, asking: ContentRequest) -> bytes:
        return asking.credential.key(self._secret, asking.registry.upstream.origin, asking.content.repository)

    def _age(self, affirmation: Affirmation) -> float:
        age = self.wall() - affirmation.when
        # One from the future (the clock was set back) has an age that nobody knows: ask again.
        return age if age > -_CLOCK_STEP else float("inf")


def _link(asking: ContentRequest) -> Link:
    content: Content = asking.content
    return Link(asking.registry.upstream.origin, content.repository, content.kind, content.digest)
