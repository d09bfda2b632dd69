"""What can go wrong between a client and the registry behind, as values."""

from __future__ import annotations

from contentcache.core.errors import CacheError


class RegistryUnreachable(CacheError):
    """No connection to the registry behind can be made."""

    code = "UNAVAILABLE"
    status = 503


class RegistryBroken(CacheError):
    """
    The registry behind broke the connection off, or answered with what is no HTTP. ``reason`` is for the log,
    and is not sent to clients.
    """

    code = "UNAVAILABLE"
    status = 502

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message


class RegistrySilent(CacheError):
    """The registry behind takes nothing, or says nothing, for too long."""

    code = "UNAVAILABLE"
    status = 504


class BodyMalformed(CacheError):
    """A request's body is framed wrongly (RFC 9112 §7.1)."""

    code = "UNSUPPORTED"
    status = 400


class BodyTooSlow(CacheError):
    """A client has sent nothing of its request's body for ``limits.clientstall``."""

    code = "UNSUPPORTED"
    status = 408


class BodyTooLarge(CacheError):
    """A body that is to be held in memory is larger than any honest one."""

    code = "SIZE_INVALID"
    status = 413


class ClientGone(CacheError):
    """The client has left in the middle of its request's body: nobody hears of it."""
