"""
Clients as a fetch sees them.
"""

from __future__ import annotations

from typing import Literal

from attrs import define, field, frozen
from twisted.internet.defer import Deferred

from contentcache.core.credentials import Credential
from contentcache.core.errors import CacheError, OriginRefused
from contentcache.core.routes import Content
from contentcache.upstream.registry import Registry, Request


@frozen
class Asking:
    """
    One client's question for one content at one origin. ``accept`` and ``via`` are sent on.
    """

    registry: Registry
    content: Content
    credential: Credential
    accept: tuple[str, ...] = ()
    via: str = ""

    def request(
        self, method: Literal["GET", "HEAD"], *, range_: str | None = None, follow: bool = True
    ) -> Request:
        """
        The request for the content that says all this upstream.
        """
        return Request(
            method,
            self.content.path(),
            self.credential,
            repository=self.content.repository,
            accept=self.accept if self.content.kind == "manifests" else (),
            via=self.via,
            range=range_,
            follow=follow,
        )


@define(eq=False)
class Want:
    """
    A client that is attached to a fetch.

    ``judged`` says that the origin has said yes to it; until then it gets nothing, and the fetch's own
    request in its name is the question. ``opened`` fires when it may be answered. ``key`` names (credential,
    origin, repository, content) and says nothing of the credential.
    """

    asking: Asking
    key: bytes
    judged: bool
    opened: Deferred[None] = field(factory=Deferred)
    refusal: OriginRefused | None = None

    def open(self) -> None:
        """The client may be answered."""
        if not self.opened.called:
            self.opened.callback(None)

    def fail(self, error: CacheError) -> None:
        """The client gets this error, if it has got nothing yet."""
        if not self.opened.called:
            self.opened.errback(error)
