"""What can go wrong with a request to the API, in the words of the original's API."""

from __future__ import annotations

from contentcache.core.errors import CacheError


class NotAuthenticated(CacheError):
    """The registry does not know who asks."""

    code = "NOT_AUTHENTICATED"
    status = 401


class NotAuthorized(CacheError):
    """The registry knows who asks, and it is none of their business."""

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
    """The request makes no sense, whatever it asks for."""

    code = "INVALID_REQUEST"
    status = 400


class NotAllowed(CacheError):
    """The path exists, but not with this method; ``Allow`` says which it has."""

    code = "NOT_ALLOWED"
    status = 405


class NotAcceptable(CacheError):
    """The client takes no JSON."""

    code = "NOT_ACCEPTABLE"
    status = 406


class TooLarge(CacheError):
    """The body of a request is larger than any that makes sense."""

    code = "SIZE_INVALID"
    status = 413


class UnsupportedMediaType(CacheError):
    """The body of a request is no JSON."""

    code = "UNSUPPORTED_MEDIA_TYPE"
    status = 415


class TooManyAttempts(CacheError):
    """Too many credentials were wrong; ``Retry-After`` says how long to wait."""

    code = "TOO_MANY_REQUESTS"
    status = 429


class RegistryAway(CacheError):
    """The registry cannot be asked who somebody is."""

    code = "UNAVAILABLE"
    status = 503


class DirectoryAway(CacheError):
    """The database of caches cannot be read or written."""

    code = "UNAVAILABLE"
    status = 503
