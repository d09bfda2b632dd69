"""Parses the credentials in a client's ``Authorization``, and what they claim. Nothing is verified here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from contentcache.core.http_auth import MAX_CREDENTIALS, credentials_for, decode_basic, encode_basic
from contentcache.gateway.directory import LONGEST_ACCOUNT
from contentcache.jose.claims import unverified_claims


@frozen
class BasicCredentials:
    """A user name and a password (RFC 7617)."""

    username: str
    password: str = field(repr=False)

    @property
    def authorization(self) -> str:
        """
        The header's value in its one spelling, in UTF-8.

        >>> BasicCredentials("alice", "wonder").authorization
        'Basic YWxpY2U6d29uZGVy'
        """
        return encode_basic(self.username.encode(), self.password.encode())


@frozen
class BearerCredentials:
    """A token (RFC 6750), and its unverified claims if it is a JWT."""

    token: str = field(repr=False)
    claims: Mapping[str, Any] = field(factory=dict, repr=False)

    @property
    def authorization(self) -> str:
        """The header's value in its one spelling."""
        return f"Bearer {self.token}"


def parse_credentials(authorization: str | None) -> BasicCredentials | BearerCredentials | None:
    """
    Return the credentials of a header; ``None`` where there are none, or malformed ones.

    >>> parse_credentials("basic YWxpY2U6d29uZGVy").username
    'alice'
    """
    if (pair := _token68("Basic", authorization)) is not None:
        return _basic(pair)
    if (token := _token68("Bearer", authorization)) is not None:
        return BearerCredentials(token, unverified_claims(token))
    return None


def make_basic(username: str, password: str) -> BasicCredentials | None:
    """Return a user name and a password, if they can be sent: no control characters, no colon in the name."""
    text = username + password
    if ":" in username or not is_account(username) or any(c < " " or c == "\x7f" for c in text):
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return BasicCredentials(username, password)


def claimed_account(authorization: str | None) -> str | None:
    """
    Return the account that a header names: the user name, or the ``sub`` of a token.

    It is only claimed. That is enough to choose a cache for a client whom the registry authorizes; for anything
    else use :class:`~contentcache.gateway.authentication.Authenticator`.
    """
    credentials = parse_credentials(authorization)
    if isinstance(credentials, BasicCredentials):
        return credentials.username
    return None if credentials is None else account_in(credentials.claims)


def account_in(claims: Mapping[str, Any]) -> str | None:
    """Return the account of a token; ``None`` if it is anonymous, with an empty ``sub``."""
    name = claims.get("sub")
    return name if isinstance(name, str) and is_account(name) else None


def groups_in(claims: Mapping[str, Any]) -> frozenset[str]:
    """
    Return the groups of a token's account.

    >>> sorted(groups_in({"groups": ["ops", 7, "dev"]}))
    ['dev', 'ops']
    """
    found = claims.get("groups")
    return frozenset(g for g in found if isinstance(g, str)) if isinstance(found, list) else frozenset()


def is_account(name: str) -> bool:
    """Whether a name may be an account's: printable, 1 to 255 characters, no space at either end."""
    return 0 < len(name) <= LONGEST_ACCOUNT and name.isprintable() and name == name.strip()


def _token68(scheme: str, authorization: str | None) -> str | None:
    """The credentials of a scheme, if they are one printable word of a size that is sent."""
    found = credentials_for(scheme, (authorization or "").strip())
    if (
        found is None
        or len(found) > MAX_CREDENTIALS
        or not found.isascii()
        or not found.isprintable()
        or " " in found
    ):
        return None
    return found


def _basic(token68: str) -> BasicCredentials | None:
    pair = decode_basic(token68 + "=" * (-len(token68) % 4))
    if pair is None:
        return None
    try:
        username, password = (each.decode() for each in pair)
    except UnicodeDecodeError:
        # From clients that do not know the charset (RFC 7617 §2).
        username, password = (each.decode("latin-1") for each in pair)
    return make_basic(username, password)
