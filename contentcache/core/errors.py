"""
Everything that can go wrong for a client, as values.

Each error knows its code in the registry's vocabulary (distribution-spec 1.1,
"Error Codes") and hints at a status; only the web layer turns it into an answer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Final

from contentcache.core.header_policy import Headers


class CacheError(Exception):
    """
    Something that a client is told in the form of an OCI error body.

    ``message`` is one sentence for people; ``detail`` is any JSON value;
    ``headers`` go out with the answer.
    """

    code: ClassVar[str] = "UNKNOWN"
    status: ClassVar[int] = 500

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
    """No tag can be called so, and so there is none: registries answer 404 (distribution-spec 1.1, end-3)."""

    code = "MANIFEST_UNKNOWN"
    status = 404


class RequestMalformed(CacheError):
    """A request is framed or phrased in doubt."""

    code = "UNSUPPORTED"
    status = 400


class OriginUnknown(CacheError):
    """The request means an origin that is not configured here."""

    code = "NAME_UNKNOWN"
    status = 404


class RouteUnknown(CacheError):
    """There is nothing at this path."""

    code = "UNSUPPORTED"
    status = 404


class MethodUnsupported(CacheError):
    """A method that this cache refuses, most often a push."""

    code = "UNSUPPORTED"
    status = 405


class RepositoryDenied(CacheError):
    """The operator's ``allow`` and ``deny`` keep this repository out."""

    code = "DENIED"
    status = 403


#: The ``detail`` of the error by which a cache says so: a gateway, which asks by a signed URL, knows by it
#: that the signature was good. It stays as it is from version to version; the sentence beside it need not.
KEPT_OUT: Final[Mapping[str, str]] = {"reason": "repository-policy"}


class SignatureRefused(CacheError):
    """
    A signature, or what it signs, is no permission. The message is one sentence without any part of a token.

    403, not 401: a client would answer that by giving the cache its password.
    """

    code = "DENIED"
    status = 403


class BlobUnknown(CacheError):
    """The blob is not here, or not at the origin."""

    code = "BLOB_UNKNOWN"
    status = 404


class RangeUnsatisfiable(CacheError):
    """No byte of the wanted range exists (RFC 9110 §15.5.17)."""

    code = "RANGE_INVALID"
    status = 416


class TooManyRequests(CacheError):
    """Upstream asked for patience; ``Retry-After`` says how long."""

    code = "TOOMANYREQUESTS"
    status = 429


class Overloaded(CacheError):
    """A limit of this daemon is reached; ``Retry-After`` says how long to wait."""

    code = "UNAVAILABLE"
    status = 503


class UpstreamUnavailable(CacheError):
    """No upstream can be reached."""

    code = "UNAVAILABLE"
    status = 503


class UpstreamTimeout(CacheError):
    """An upstream did not answer in time."""

    code = "UNAVAILABLE"
    status = 504


class UpstreamBroken(CacheError):
    """Upstream answered, but not with what was asked for."""

    code = "UNAVAILABLE"
    status = 502


class ContentWrong(UpstreamBroken):
    """Every upstream delivered something else than the digest says."""


class ManifestTooLarge(CacheError):
    """A manifest is larger than ``limits.manifest``."""

    code = "SIZE_INVALID"
    status = 413


class DiskFailed(CacheError):
    """The store cannot be written: what was to be kept is passed through."""

    code = "UNAVAILABLE"
    status = 503


class OriginRefused(CacheError):
    """
    The origin's own answer to this client, passed on: its status, its headers and its body. Where there is no
    body, the one that is made here has this ``code``.
    """

    def __init__(self, status: int, headers: Headers, body: bytes = b"", *, code: str | None = None) -> None:
        super().__init__(f"the origin answered {status}", headers=headers)
        self.status = status  # type: ignore[misc]  # the one error whose status is somebody else's
        self.body = body
        if code is not None:
            self.code = code  # type: ignore[misc]  # and whose code is

    @property
    def is_plain(self) -> bool:
        """
        Whether status and headers say all that there is to know, so that nobody asks again for the body. A
        401 without a challenge does not: some registries answer ``HEAD`` so, whatever is true.

        >>> OriginRefused(404, {}).is_plain, OriginRefused(412, {}).is_plain, OriginRefused(401, {}).is_plain
        (True, False, False)
        """
        if self.status == 401:  # noqa: PLR2004
            return "WWW-Authenticate" in self.headers
        return self.status in {403, 404, 429}


class LoopDetected(CacheError):
    """A request has met itself again (RFC 5842 §7.2)."""

    code = "UNAVAILABLE"
    status = 508
