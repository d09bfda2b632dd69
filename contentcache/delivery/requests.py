"""What a client asks for, with all that is sent upstream in its name."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from contentcache.core.credentials import Credential, Subject
from contentcache.core.routes import Content
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import Request


@frozen
class ContentRequest:
    """One client's question for one content at one origin. ``accept`` and ``via`` are sent on."""

    registry: Registry
    subject: Subject
    content: Content
    accept: tuple[str, ...] = ()
    via: str = ""

    @property
    def credential(self) -> Credential:
        """The client's credential."""
        return self.subject.credential

    @property
    def sent_accept(self) -> tuple[str, ...]:
        """The values of ``Accept`` that are sent upstream: of a manifest there may be several forms."""
        return self.accept if self.content.kind == "manifests" else ()

    def upstream_request(
        self, method: Literal["GET", "HEAD"], *, range_: str | None = None, follow: bool = True
    ) -> Request:
        """The request for the content that says all this upstream."""
        return Request(
            method,
            self.content.path(),
            self.subject,
            accept=self.sent_accept,
            via=self.via,
            range=range_,
            follow=follow,
        )
