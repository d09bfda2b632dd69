"""A request to a registry, as a value, and the body of one."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, Literal

from attrs import frozen
from twisted.internet.defer import Deferred, succeed
from twisted.web.iweb import IBodyProducer
from zope.interface import implementer

from contentcache.core.credentials import Credential, Subject

Method = Literal["GET", "HEAD"]

_FIRST_BYTE: Final = "bytes=0-0"


def kind_of_target(target: str) -> str:
    """
    What a request to a registry is about, by its path: manifests, blobs, tags, referrers, catalog or other.

    >>> kind_of_target("/v2/org/tags/manifests/1?ns=a"), kind_of_target("/v2/_catalog"), kind_of_target("/v2/")
    ('manifests', 'catalog', 'other')
    """
    components = target.partition("?")[0].split("/")
    if components[1:] == ["v2", "_catalog"]:
        return "catalog"
    kind = components[-2] if len(components) > 4 else ""  # noqa: PLR2004  # "", "v2", a name, a kind
    return kind if kind in {"manifests", "blobs", "tags", "referrers"} else "other"


@frozen
class UpstreamLimits:
    """``stall_timeout`` in seconds without a byte, ``token_limit`` in bytes of a token server's answer."""

    stall_timeout: float
    token_limit: int


@frozen
class Request:
    """
    A request to a registry: ``path`` is made of parsed parts only, with its query; ``range`` is the header's
    value.
    """

    method: Method
    path: str
    subject: Subject
    accept: Sequence[str] = ()
    via: str = ""
    range: str | None = None
    #: Whether a redirect to storage is followed, or is an answer.
    follow: bool = True
    #: Whether caches on the way must ask the origin again (RFC 9111 §5.2.1.4).
    no_cache: bool = False
    #: Whether it is one of several ranges of a download, and not a client's own request.
    parallel: bool = False

    @property
    def credential(self) -> Credential:
        """The credential to send."""
        return self.subject.credential

    @property
    def repository(self) -> str | None:
        """The repository that a token has to be for."""
        return self.subject.repository

    @property
    def target(self) -> str:
        """
        The path with its query, in which the token of a signed URL is: not for the log.

        >>> subject = Subject.of(b"", "https://a", "a", Credential(signed="x.y.z"))
        >>> Request("GET", "/v2/a/blobs/b", subject).target
        '/v2/a/blobs/b?token=x.y.z'
        """
        signed = self.credential.signed
        if signed is None:
            return self.path
        return f"{self.path}{'&' if '?' in self.path else '?'}token={signed}"

    @property
    def kind(self) -> str:
        """The kind of request: manifests, blobs, tags, referrers, catalog or other."""
        return kind_of_target(self.path)

    @property
    def reference(self) -> str | None:
        """
        The tag or digest, of a request for a manifest or blob.

        >>> subject = Subject.of(b"", "https://a", "org", Credential())
        >>> Request("GET", "/v2/org/manifests/1", subject).reference
        '1'
        """
        return self.path.rpartition("/")[2] if self.kind in {"manifests", "blobs"} else None

    @property
    def is_fetch(self) -> bool:
        """
        Whether it downloads the bytes of a blob.

        >>> subject = Subject.of(b"", "https://a", "org", Credential())
        >>> Request("GET", "/v2/org/app/blobs/sha256:00", subject).is_fetch
        True
        >>> Request("GET", "/v2/org/blobs/manifests/1", subject).is_fetch
        False
        """
        is_blob = self.path.split("/")[-2:-1] == ["blobs"]
        return self.method == "GET" and is_blob and self.follow and self.range != _FIRST_BYTE


@implementer(IBodyProducer)
class WholeBody:
    """The body of a request, written at once. ``length`` is in bytes."""

    def __init__(self, content: bytes) -> None:
        self.length = len(content)
        self._content = content

    def startProducing(self, consumer: Any) -> Deferred[None]:
        """Write the body (``IBodyProducer``)."""
        consumer.write(self._content)
        return succeed(None)

    def pauseProducing(self) -> None:
        """There is nothing more."""

    def resumeProducing(self) -> None:
        """There is nothing more."""

    def stopProducing(self) -> None:
        """There is nothing more."""
