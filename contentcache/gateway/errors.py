"""What can go wrong at a gateway: at the admin site, in the words of the original's API, and at the proxy."""

from __future__ import annotations

from contentcache.core.errors import CacheError


class NotAuthenticated(CacheError):
    """The registry does not accept the credentials."""

    code = "NOT_AUTHENTICATED"
    status = 401


class NotAuthorized(CacheError):
    """The registry knows the account, and it may not do this."""

    code = "NOT_AUTHORIZED"
    status = 403


class NotFound(CacheError):
    """There is nothing at this path."""

    code = "NOT_FOUND"
    status = 404


class NoSuchContentCache(CacheError):
    """No cache has this id."""

    code = "NO_SUCH_CONTENT_CACHE"
    status = 404


class NoSuchUser(CacheError):
    """The gateway has never seen this account."""

    code = "NO_SUCH_USER"
    status = 404


class InvalidContentCache(CacheError):
    """The details of a cache that is to be added are wrong."""

    code = "INVALID_CONTENT_CACHE"
    status = 400


class InvalidUserSettings(CacheError):
    """The settings of an account are wrong."""

    code = "INVALID_USER_SETTINGS"
    status = 400


class InvalidRequest(CacheError):
    """The request is malformed, whatever it asks for."""

    code = "INVALID_REQUEST"
    status = 400


class NotAllowed(CacheError):
    """The path has other methods, which ``Allow`` names."""

    code = "NOT_ALLOWED"
    status = 405


class NotAcceptable(CacheError):
    """The client accepts no JSON."""

    code = "NOT_ACCEPTABLE"
    status = 406


class UnsupportedMediaType(CacheError):
    """The body of a request is not of the expected media type."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


class TooManyAttempts(CacheError):
    """Too many credentials were wrong; ``Retry-After`` says how long to wait."""

    code = "TOO_MANY_REQUESTS"
    status = 429


class AuthenticationUnavailable(CacheError):
    """The registry cannot be asked for a decision about credentials."""

    code = "UNAVAILABLE"
    status = 503


class DirectoryUnavailable(CacheError):
    """The database of caches cannot be read or written."""

    code = "UNAVAILABLE"
    status = 503


# Between a client and the registry behind.


class RegistryUnreachable(CacheError):
    """No connection to the registry behind can be made."""

    code = "UNAVAILABLE"
    status = 503


class RegistryBroken(CacheError):
    """
    The connection to the registry behind broke, or its response is no HTTP. ``reason`` is for the log, and is
    not sent to clients.
    """

    code = "UNAVAILABLE"
    status = 502

    def __init__(self, message: str, *, reason: str | None = None) -> None:
        super().__init__(message)
        self.reason = reason or message


class RegistryTimeout(CacheError):
    """The registry behind reads or sends nothing for too long."""

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
    """A request's body that is read into memory is too large."""

    code = "SIZE_INVALID"
    status = 413


class ClientDisconnected(CacheError):
    """The client has disconnected within its request's body: no response can be sent."""

    ended_by = "client"
