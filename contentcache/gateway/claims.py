"""
What a client's ``Authorization`` says of whom it is, before anybody has checked it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import field, frozen

from contentcache.core.http_auth import MAX_CREDENTIALS, credentials_for, decode_basic, encode_basic
from contentcache.gateway.directory import LONGEST_ACCOUNT
from contentcache.jose.bearer_tokens import unverified_claims


@frozen
class Basic:
    """
    A user name and a password (RFC 7617).
    """

    username: str
    password: str = field(repr=False)

    @property
    def authorization(self) -> str:
        """
        The header's value in its one spelling, in UTF-8.

        >>> Basic("alice", "wonder").authorization
        'Basic YWxpY2U6d29uZGVy'
        """
        return encode_basic(self.username.encode(), self.password.encode())


@frozen
class Bearer:
    """
    A token (RFC 6750), most often a JWT; ``claims`` are what it says if it is one.
    """

    token: str = field(repr=False)
    claims: Mapping[str, Any] = field(factory=dict, repr=False)

    @property
    def authorization(self) -> str:
        """The header's value in its one spelling."""
        return f"Bearer {self.token}"


def read(authorization: str | None) -> Basic | Bearer | None:
    """
    What a header says; ``None`` where there is none or it makes no sense.

    >>> read("basic YWxpY2U6d29uZGVy").username
    'alice'
    """
    if (pair := _token68("Basic", authorization)) is not None:
        return _basic(pair)
    if (token := _token68("Bearer", authorization)) is not None:
        return Bearer(token, unverified_claims(token))
    return None


def basic(username: str, password: str) -> Basic | None:
    """
    A user name and a password, if they can be sent: no control characters, no colon in the name.
    """
    text = username + password
    if ":" in username or not is_account(username) or any(c < " " or c == "\x7f" for c in text):
        return None
    try:
        text.encode()
    except UnicodeEncodeError:
        return None
    return Basic(username, password)


def account_of(authorization: str | None) -> str | None:
    """
    Which account a header names: the user name, or the ``sub`` of a token.

    This is a claim and no more. It is good for choosing a cache for somebody to whom the registry has
    just said yes; for anything else ask :class:`~contentcache.gateway.accounts.Accounts`.
    """
    said = read(authorization)
    if isinstance(said, Basic):
        return said.username
    return None if said is None else subject(said.claims)


def subject(claims: Mapping[str, Any]) -> str | None:
    """
    The account that a token is for; ``None`` for the anonymous, whose ``sub`` is empty.
    """
    name = claims.get("sub")
    return name if isinstance(name, str) and is_account(name) else None


def groups(claims: Mapping[str, Any]) -> frozenset[str]:
    """
    The groups that a token says its account is in.

    >>> sorted(groups({"groups": ["ops", 7, "dev"]}))
    ['dev', 'ops']
    """
    found = claims.get("groups")
    return frozenset(g for g in found if isinstance(g, str)) if isinstance(found, list) else frozenset()


def is_account(name: str) -> bool:
    """
    Whether somebody can be called so: printable, 1 to 255 characters, no space at either end.
    """
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


def _basic(token68: str) -> Basic | None:
    given = decode_basic(token68 + "=" * (-len(token68) % 4))
    if given is None:
        return None
    try:
        username, password = (each.decode() for each in given)
    except UnicodeDecodeError:
        # As clients send it that know of no charset (RFC 7617 §2).
        username, password = (each.decode("latin-1") for each in given)
    return basic(username, password)
