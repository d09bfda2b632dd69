"""
Everything that can go wrong for a client, as values.

Each error knows its code in the registry's vocabulary (distribution-spec 1.1,
"Error Codes") and hints at a status; only ``contentcache.server.errors`` turns it into a response.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Final, Literal, TypeAlias

from contentcache.core.header_policy import Headers

#: Who ends a response before it is complete.
EndedBy: TypeAlias = Literal["client", "upstream", "drain", "disk"]


class CacheError(Exception):
    """
    An error that a client gets as an OCI error body.

    ``message`` is one sentence for people, ``detail`` any JSON value; ``headers`` are sent with the answer.
    ``ended_by`` is who is to blame where a response has begun, and ends short; for defects of this program, too, it
    is upstream's side.
    """

    code: ClassVar[str] = "UNKNOWN"
    status: ClassVar[int] = 500
    ended_by: ClassVar[EndedBy] = "upstream"

    def __init__(self, message: str, *, detail: object = None, headers: Headers | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.detail = detail
        self.headers: Headers = dict(headers or {})


class NameInvalid(CacheError):
    """The path is not in the grammar of the distribution spec."""

    code = "NAME_INVALID"
    status = 400


class DigestInvalid(CacheError):
    """A digest is malformed, or of an algorithm that is not registered."""

    code = "DIGEST_INVALID"
    status = 400


class TagUnknown(CacheError):
    """The reference is neither a tag nor a digest: registries answer 404 (distribution-spec 1.1, end-3)."""

    code = "MANIFEST_UNKNOWN"
    status = 404


class RequestMalformed(CacheError):
    """A request has ambiguous framing, or values that make no sense."""

    code = "UNSUPPORTED"
    status = 400


class OriginUnknown(CacheError):
    """The request is for an origin that is not configured."""

    code = "NAME_UNKNOWN"
    status = 404


class RouteUnknown(CacheError):
    """No route of the API has this path."""

    code = "UNSUPPORTED"
    status = 404


class MethodUnsupported(CacheError):
    """This cache refuses the method, most often of a push."""

    code = "UNSUPPORTED"
    status = 405


class RepositoryDenied(CacheError):
    """The operator's ``allow`` and ``deny`` exclude this repository."""

    code = "DENIED"
    status = 403


#: The ``detail`` of :class:`RepositoryDenied`: a gateway that sends a signed URL knows by it that the signature
#: was valid. It is the same in all versions; the message need not be.
KEPT_OUT: Final[Mapping[str, str]] = {"reason": "repository-policy"}


class SignatureRefused(CacheError):
    """
    A signed URL does not allow the request. The message has no part of a token.

    403, not 401: a client would answer that by sending the cache its password.
    """

    code = "DENIED"
    status = 403


class BlobUnknown(CacheError):
    """The blob is not in the store, or not at the origin."""

    code = "BLOB_UNKNOWN"
    status = 404


class RangeUnsatisfiable(CacheError):
    """No byte of the wanted range exists (RFC 9110 §15.5.17)."""

    code = "RANGE_INVALID"
    status = 416


class Overloaded(CacheError):
    """A limit of this daemon is reached; ``Retry-After`` says for how long."""

    code = "UNAVAILABLE"
    status = 503


class UpstreamUnavailable(CacheError):
    """No upstream can be reached."""

    code = "UNAVAILABLE"
    status = 503


def cache_failed() -> UpstreamUnavailable:
    """What clients are told after a defect of this program, whose traceback is in the log."""
    return UpstreamUnavailable("the cache has failed; its log says why")


class UpstreamTimeout(CacheError):
    """An upstream did not answer in time."""

    code = "UNAVAILABLE"
    status = 504


class UpstreamBroken(CacheError):
    """Upstream answered, but not with what was asked for."""

    code = "UNAVAILABLE"
    status = 502


class ContentWrong(UpstreamBroken):
    """What every upstream delivered has a digest mismatch."""


class ManifestTooLarge(CacheError):
    """A manifest is larger than ``limits.manifest``."""

    code = "SIZE_INVALID"
    status = 413


class DiskFailed(CacheError):
    """
    The store cannot be written: the content is passed through instead. ``is_fault`` says whether something is wrong
    with the store.
    """

    code = "UNAVAILABLE"
    status = 503
    ended_by = "disk"
    is_fault: ClassVar[bool] = True


class NoRoom(DiskFailed):
    """Nothing that may be evicted makes room for a content; ``detail`` is its size in bytes, as far as is known."""

    def __init__(self, message: str = "there is no room in the store", **rest: Any) -> None:
        super().__init__(message, **rest)


class LargerThanStore(NoRoom):
    """A content alone is larger than ``maxsize``."""

    is_fault = False


class OriginRefused(CacheError):
    """
    The origin's own 4xx to this client, with its headers and its body. Without a body the OCI error body that is
    sent instead has this ``code``.
    """

    def __init__(self, status: int, headers: Headers, body: bytes = b"", *, code: str | None = None) -> None:
        super().__init__(f"the origin answered {status}", headers=headers)
        self.status = status  # type: ignore[misc]  # the one error whose status is upstream's
        self.body = body
        if code is not None:
            self.code = code  # type: ignore[misc]  # and whose code depends on it

    @property
    def is_plain(self) -> bool:
        """
        Whether status and headers are enough, so that no ``GET`` is sent for the body. A 401 without a challenge
        is not: some registries answer every ``HEAD`` like that.

        >>> OriginRefused(404, {}).is_plain, OriginRefused(412, {}).is_plain, OriginRefused(401, {}).is_plain
        (True, False, False)
        """
        if self.status == 401:  # noqa: PLR2004
            return "WWW-Authenticate" in self.headers
        return self.status in {403, 404, 429}


class LoopDetected(CacheError):
    """A request has passed the same cache twice (RFC 5842 §7.2)."""

    code = "UNAVAILABLE"
    status = 508
