"""
Whether a client may have a content, in the order in which that is decided.

1. *Local authentication* (section ``auth``) and *signed URLs* are checked before a request gets here, in
   :mod:`contentcache.registry.admission`; the credential of the request then says so.
2. A *grant* and a *link*, both remembered (:meth:`Authorization.cached_decision`): the origin has lately allowed
   this subject to pull from the repository, and the content is known to belong to the repository.
3. The *origin*, asked by ``HEAD`` or ``GET`` with the client's own credential
   (:meth:`Authorization.ask_origin`, by :mod:`contentcache.delivery.origin_authorization`). *Allowed* makes a
   grant and a link, *denied* ends them.
4. While the origin is down, older grants and links (stale-if-error, RFC 5861 §4; :meth:`Authorization.authorize`).
5. Stored bytes also need a *proof of possession*: the origin itself has them
   (:mod:`contentcache.delivery.possession`).

Grants are in memory, under keyed hashes of credentials, on the monotonic clock; links are in the index, by the
wall clock. A download may ask the origin with its own first request: :meth:`Authorization.record_allowed` and
:meth:`Authorization.record_denied` take the answer.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from attrs import evolve, frozen

from contentcache.aio.single_flight import SingleFlight
from contentcache.core.credentials import Subject
from contentcache.core.errors import OriginRefused, UpstreamBroken, UpstreamTimeout, UpstreamUnavailable
from contentcache.core.grants import Grants
from contentcache.core.live import Live
from contentcache.core.ports import Clock, Timer
from contentcache.core.request_order import RequestClock
from contentcache.delivery.links import Links
from contentcache.delivery.options import DeliveryOptions
from contentcache.delivery.origin_authorization import Decision, OriginAuthorization, size_by_first_byte
from contentcache.delivery.requests import ContentRequest
from contentcache.jose.claims import unverified_expiry
from contentcache.storage.interfaces import Affirmation, Link

_UNAUTHORIZED: Final = 401
_FORBIDDEN: Final = 403
_NOT_FOUND: Final = 404
_TOO_MANY: Final = 429
#: Seconds by which the wall clock may step back without effect on links.
_CLOCK_STEP: Final = 60.0


@frozen
class Revocation:
    """
    The grant under ``key`` has ended by the answer to a request that was sent at ``asked``; or, with
    ``is_identity``, all grants of the credential that ``key`` is of.
    """

    key: bytes
    asked: float
    is_identity: bool = False


class Authorization:
    """
    Decides by grants, links and the origin.

    ``request_time`` is the time of each request to the origin; ``publish`` tells other workers of ended grants.
    """

    def __init__(
        self,
        grants: Grants,
        links: Links,
        origin: OriginAuthorization,
        options: Live[DeliveryOptions],
        *,
        clock: Timer,
        wall: Clock,
        request_time: RequestClock,
        publish: Callable[[Revocation], None] = lambda _revocation: None,
    ) -> None:
        self._grants = grants
        self._links = links
        self.origin = origin
        self._options = options
        #: For the fast path, which looks it up for each request.
        self._affirm_ttl = 0.0
        options.follow(self._use_options)
        self._clock = clock
        self.wall = wall
        #: Called before a request to the origin is sent; its answer is recorded with that time.
        self.request_time = request_time
        self._publish = publish
        self._asking: SingleFlight[tuple[bytes, bool, int | None], Decision] = SingleFlight()

    def _use_options(self, options: DeliveryOptions) -> None:
        self._affirm_ttl = options.affirm_ttl

    # By what is remembered.

    async def cached_decision(self, request: ContentRequest) -> Decision | None:
        """*Allowed* by a signed URL, or by a grant and a link; ``None`` where the origin has to be asked."""
        if request.credential.signed is not None:
            return Decision()
        if not self.is_granted(request.subject):
            return None
        return await self._by_link(request, self._affirm_ttl)

    def is_granted(self, subject: Subject) -> bool:
        """Whether the origin has allowed this subject within ``authttl``, or a local authenticator has now."""
        return subject.credential.locally_authorized or self._grants.is_valid(
            subject.key, self._clock.seconds()
        )

    def allows_in_memory(self, key: bytes, link: Link) -> bool:
        """Whether the subject with this ``key`` has a grant, and ``link`` is in memory, both valid."""
        return self._grants.is_valid(key, self._clock.seconds()) and self.allows_locally_authorized(link)

    def allows_locally_authorized(self, link: Link) -> bool:
        """The same for a locally authorized credential, which needs no grant."""
        affirmation = self._links.known(link)
        return affirmation is not None and self._age(affirmation) < self._affirm_ttl

    def allows_signed(self, link: Link) -> bool:
        """The same for a signed URL of this content that has been verified: it needs neither."""
        return bool(link)

    def request_key(self, request: ContentRequest) -> bytes:
        """
        A keyed hash under which requests to the origin are shared.

        A request after a *denied* answer has another key than those before it: it shares neither their request
        to the origin nor a download's first request, since both may have been sent earlier. All headers of the
        client that are sent upstream are in the key.
        """
        content, subject = request.content, request.subject
        denied = self._grants.last_denial(subject.key, subject.identity)
        return subject.derive(
            content.kind, str(content.digest), repr(denied), request.via, *request.sent_accept
        )

    # By the origin.

    async def authorize(
        self, request: ContentRequest, *, with_body: bool, size: int | None = None
    ) -> Decision:
        """
        Ask the origin; while it is down or limits the rate, fall back to what it allowed before.

        Arguments and errors are those of :meth:`ask_origin`.
        """
        try:
            return await self.ask_origin(request, with_body=with_body, size=size)
        except (UpstreamUnavailable, UpstreamTimeout, UpstreamBroken):
            stale = await self._stale_decision(request)
            if stale is None:
                raise
        except OriginRefused as refusal:
            stale = await self._stale_decision(request) if refusal.status == _TOO_MANY else None
            if stale is None:
                raise
        return stale

    async def ask_origin(
        self, request: ContentRequest, *, with_body: bool, size: int | None = None
    ) -> Decision:
        """
        Ask the origin now; the same request of the same subject is sent once for all who wait.

        A denial has its body if the client waits for one (``with_body``). ``size`` is the length of the
        content, where it is known: what a redirect of the registry leads to must have it.

        :raises OriginRefused: denied.
        :raises UpstreamUnavailable, UpstreamTimeout, UpstreamBroken: the origin does not answer, or answers
            with a page for people or a redirect to something else.
        """
        key = self.request_key(request), with_body, size
        return await self._asking.run(key, lambda: self._ask(request, with_body=with_body, size=size))

    async def ask_origin_for_size(self, request: ContentRequest, *, with_body: bool = False) -> Decision:
        """Ask the origin for the true length too, wherever the content is. Raises as :meth:`ask_origin` does."""
        decision = await self.ask_origin(request, with_body=with_body)
        if decision.size is not None:
            return decision
        return evolve(decision, size=await size_by_first_byte(request))

    async def _ask(self, request: ContentRequest, *, with_body: bool, size: int | None) -> Decision:
        asked = self.request_time()
        try:
            decision, is_recorded = await self.origin.ask(request, with_body=with_body, size=size)
        except OriginRefused as refusal:
            kept = await self._despite_deletion(request, refusal)
            if kept is not None:
                return kept
            await self.record_denied(request, refusal, asked=asked)
            if refusal.status == _NOT_FOUND and not refusal.body:
                code = "BLOB_UNKNOWN" if request.content.kind == "blobs" else "MANIFEST_UNKNOWN"
                raise OriginRefused(_NOT_FOUND, refusal.headers, code=code) from refusal
            raise
        if is_recorded:
            await self.record_allowed(request, decision.media_type, asked=asked)
        return decision

    async def _despite_deletion(self, request: ContentRequest, refusal: OriginRefused) -> Decision | None:
        """With ``keep_deleted``: *allowed* for a subject with a grant and any link, though the answer is 404."""
        if not self._options.now.keep_deleted or refusal.status != _NOT_FOUND:
            return None
        if not self.is_granted(request.subject):
            return None
        affirmation = await self._links.affirmation(_link(request))
        return None if affirmation is None else Decision(affirmation.media_type)

    # While the origin is down (stale-if-error).

    def allows_stale(self, subject: Subject) -> bool:
        """Whether older grants of this subject count while the origin is down."""
        credential = subject.credential
        if not (self._options.now.stale_if_error > 0 and credential.lasting):
            return False
        return credential.locally_authorized or self._grants.is_valid_if_error(
            subject.key, self._clock.seconds()
        )

    async def _stale_decision(self, request: ContentRequest) -> Decision | None:
        if not self.allows_stale(request.subject):
            return None
        decision = await self._by_link(request, max(self._affirm_ttl, self._options.now.stale_if_error))
        return None if decision is None else evolve(decision, stale=True)

    # What the origin answered.

    async def record_allowed(self, request: ContentRequest, media_type: str | None, *, asked: float) -> None:
        """
        The origin has allowed this very request, sent at ``asked``: that makes a grant and a link.

        Only a request for a manifest or a blob makes a grant. A signed URL is for one blob, and may have been
        allowed by a cache on the way: it makes neither.
        """
        credential, subject = request.credential, request.subject
        if credential.signed is not None:
            return
        expiry = unverified_expiry(credential.authorization)
        now = self._clock.seconds()
        self._grants.add(
            subject.key,
            now,
            ends=None if expiry is None else now + expiry - self.wall(),
            asked=asked,
            identity=subject.identity,
        )
        await self._links.affirm(_link(request), Affirmation(self.wall(), media_type), asked=asked)

    async def record_denied(self, request: ContentRequest, refusal: OriginRefused, *, asked: float) -> None:
        """The origin has denied this very request, sent at ``asked``."""
        if request.credential.signed is not None:
            return  # it is about the signed URL, and not about the repository
        is_deleted = self.record_refusal(request.subject, refusal.status, asked=asked)
        if is_deleted or (refusal.status == _NOT_FOUND and not self._options.now.keep_deleted):
            # It may only be hidden from this client; then those who may have it cost one request.
            await self._links.revoke(_link(request), asked=asked)

    def record_refusal(self, subject: Subject, status: int, *, asked: float) -> bool:
        """
        The origin has refused something in this repository; returns whether that says that it is deleted.

        Only for a subject with a grant a 404 says so. To others it may hide anything, so it ends their grant.
        """
        is_granted = self.is_granted(subject)
        if status == _UNAUTHORIZED:
            self.record_rejected(subject, asked=asked)
            return False
        if status == _FORBIDDEN or (status == _NOT_FOUND and not is_granted):
            self._revoke(Revocation(subject.key, asked))
            return False
        return status == _NOT_FOUND and not self._options.now.keep_deleted

    def record_rejected(self, subject: Subject, *, asked: float) -> None:
        """The origin has answered 401 to this credential: all its grants there end."""
        self._revoke(Revocation(subject.identity, asked, is_identity=True))

    def apply_revocation(self, revocation: Revocation) -> None:
        """End a grant, here only: another worker has published it."""
        if revocation.is_identity:
            self._grants.revoke_identity(revocation.key, revocation.asked)
        else:
            self._grants.revoke(revocation.key, revocation.asked)

    async def media_type(self, request: ContentRequest) -> str | None:
        """The media type of a content in its repository, as a ``GET`` had it."""
        affirmation = await self._links.affirmation(_link(request))
        return None if affirmation is None else affirmation.media_type

    async def record_media_type(self, request: ContentRequest, media_type: str | None) -> None:
        """A body has come by ``GET`` and was verified: this is its media type, whatever ``HEAD`` says."""
        await self._links.record_media_type(_link(request), media_type)

    def lost_index(self) -> None:
        """The index was lost: no link is known any more."""
        self._links.clear()

    def _revoke(self, revocation: Revocation) -> None:
        self.apply_revocation(revocation)
        self._publish(revocation)

    async def _by_link(self, request: ContentRequest, ttl: float) -> Decision | None:
        affirmation = await self._links.affirmation(_link(request))
        if affirmation is None or self._age(affirmation) >= ttl:
            return None
        return Decision(affirmation.media_type)

    def _age(self, affirmation: Affirmation) -> float:
        age = self.wall() - affirmation.when
        # The age of one from the future (the clock has stepped back) is unknown: the origin is asked.
        return age if age > -_CLOCK_STEP else float("inf")


def _link(request: ContentRequest) -> Link:
    content = request.content
    return Link(request.registry.upstream.origin, content.repository, content.kind, content.digest)
