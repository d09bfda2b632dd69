"""
What a client's ``Authorization`` says of whom it is, before anybody has checked it.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from typing import Any, Final

from attrs import field, frozen

from contentcache.gateway.directory import LONGEST_ACCOUNT
from contentcache.jose.bearer_tokens import unverified_claims

#: A header has at most 16 KiB here; tokens with many groups come near it.
LONGEST: Final = 16 << 10


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
        return "Basic " + base64.b64encode(f"{self.username}:{self.password}".encode()).decode()


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
    scheme, _, rest = (authorization or "").strip().partition(" ")
    rest = rest.strip()
    if not rest or len(rest) > LONGEST or not rest.isascii() or not rest.isprintable() or " " in rest:
        return None
    if scheme.lower() == "basic":
        return _basic(rest)
    return Bearer(rest, unverified_claims(rest)) if scheme.lower() == "bearer" else None


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


def _basic(token68: str) -> Basic | None:
    try:
        raw = base64.b64decode(token68 + "=" * (-len(token68) % 4), validate=True)
    except binascii.Error:
        return None
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = raw.decode("latin-1")  # as clients send it that know of no charset (RFC 7617 §2)
    username, colon, password = text.partition(":")
    return basic(username, password) if colon else None
