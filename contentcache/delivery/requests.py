"""What a client asks for, with all that is sent upstream in its name."""

from __future__ import annotations

from typing import Literal

from attrs import frozen

from contentcache.core.credentials import Credential, Subject
from contentcache.core.digest import Digest
from contentcache.core.manifests import normalize_accept, upstream_accept
from contentcache.core.routes import Content, TaggedManifest
from contentcache.storage.interfaces import Tag
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

    def host_failed(self, host: str, reason: str) -> None:
        """``host`` has not delivered the content: see :meth:`Registry.failed`."""
        content = self.content
        self.registry.failed(
            host, reason, content.kind, repository=content.repository, reference=str(content.digest)
        )


@frozen
class TagRequest:
    """A client's request for the manifest of a tag. ``accept`` has the values of its header as they came."""

    registry: Registry
    subject: Subject
    route: TaggedManifest
    accept: tuple[str, ...]
    via: str = ""

    def upstream_request(self, method: Literal["GET", "HEAD"]) -> Request:
        """The request to send upstream."""
        repository = self.route.repository
        return Request(
            method,
            f"/v2/{repository}/manifests/{self.route.tag}",
            self.subject,
            accept=upstream_accept(self.accept),
            via=self.via,
        )

    def by_digest(self, digest: Digest) -> ContentRequest:
        """The request for the manifest of the tag by its digest."""
        content = Content(self.route.repository, "manifests", digest)
        return ContentRequest(
            self.registry, self.subject, content, tuple(upstream_accept(self.accept)), self.via
        )

    def tag(self) -> Tag:
        """The key of the tag in the index: a tag may have several manifests, by ``Accept``."""
        route = self.route
        origin = self.registry.upstream.origin
        return Tag(origin, route.repository, route.tag, normalize_accept(upstream_accept(self.accept)))
