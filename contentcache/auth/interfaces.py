"""
Local authentication (section ``auth``): what an authenticator is asked, what it answers, the files that it reads.

It decides in the origin's place. Without the section the origin authorizes each client by its credential.
"""

from __future__ import annotations

from typing import Final, Protocol

from attrs import frozen

from contentcache.core.errors import CacheError
from contentcache.persist.atomic_file import UnusableFileError, read_configured

#: The largest file that is read, in bytes: a mistaken path may lead to anything.
LARGEST: Final = 8 << 20


@frozen
class Scope:
    """
    What a request needs permission for: an action (``pull``, ``*``) on a resource of a type (``repository``,
    ``registry``), as in the token specification of docker/distribution.

    The catalogue needs ``Scope("registry", "catalog", "*")``; ``/v2/`` needs none, but authentication.

    >>> str(Scope("repository", "org/app", "pull"))
    'repository:org/app:pull'
    """

    type: str
    name: str
    action: str

    def __str__(self) -> str:
        return f"{self.type}:{self.name}:{self.action}"


class Unauthorized(CacheError):
    """
    The request has no credentials, wrong ones, or such as do not allow it.

    The registry answers all three with 401 and the same sentence, and names the scope as ``detail``.
    ``reason`` is for the log, and contains nothing of the credentials.
    """

    code = "UNAUTHORIZED"
    status = 401

    def __init__(self, reason: str, challenge: str, scope: Scope | None) -> None:
        super().__init__(
            "authentication required",
            detail=None if scope is None else [_detail(scope)],
            headers={"WWW-Authenticate": challenge},
        )
        self.reason = reason


class UsersUnavailable(CacheError):
    """The file of users cannot be read, so nobody can be authenticated."""

    code = "UNAVAILABLE"
    status = 503


class AuthFault(UnusableFileError):
    """A file or a setting of the section ``auth`` cannot be used. ``message`` is a sentence that names it."""


class LocalAuthenticator(Protocol):
    """Authenticates a request and checks that its credentials allow it."""

    async def authenticate(
        self, authorization: str | None, scope: Scope | None, base: str, address: str = ""
    ) -> str:
        """
        The name of the user, or the token's ``sub``, as it came and perhaps empty.

        :param authorization: the header's value, ``None`` where there is none.
        :param scope: ``None`` for ``/v2/``, which every authenticated client may see.
        :param base: scheme and host of the request as the client knows them (``https://cache:5000``).
        :param address: the client's, so that no address can use up what is slow.
        :raises Unauthorized: the request is not allowed.
        :raises UsersUnavailable, Overloaded: that cannot be decided now.
        """
        ...

    def allows_cached(self, authorization: str | None, scope: Scope) -> bool:
        """Whether :meth:`authenticate` would allow it from memory; ``False`` where it would have to check."""
        ...


def read_file(path: str) -> bytes:
    """
    The content of a file that the section ``auth`` names.

    :raises AuthFault: it cannot be read, or is too large.
    """
    try:
        return read_configured(path, LARGEST)
    except UnusableFileError as error:
        raise AuthFault(path, error.message) from error


def quoted(text: str) -> str:
    """
    A quoted-string (RFC 9110 §5.6.4), without the characters that cannot be in one.

    >>> print(quoted('the "best" cache'))
    "the \\"best\\" cache"
    """
    visible = "".join(character for character in text if character.isprintable())
    return '"' + visible.replace("\\", "\\\\").replace('"', '\\"') + '"'


def _detail(scope: Scope) -> dict[str, str]:
    return {"Type": scope.type, "Class": "", "Name": scope.name, "Action": scope.action}
