"""The section ``auth``: local authentication."""

from __future__ import annotations

from attrs import NOTHING, frozen

from contentcache.config.schema.kinds import (
    ALGORITHM,
    BOOLEAN,
    CERTIFICATES,
    QUOTABLE,
    REALM,
    TEXT,
    TOKEN_KEYS,
    URL_PATH,
    USERS_FILE,
    list_of,
)
from contentcache.config.schema.options import Option, by_hand, option, required


@frozen
class TokenAuth:
    """
    Section ``auth.token``: clients bring tokens of a registry's token server, which are verified here.

    With ``autoredirect`` the realm is ``autoredirectpath`` at the host that the client has asked.
    """

    realm: str = by_hand(
        NOTHING,
        Option(
            "realm",
            REALM,
            "where clients get their tokens, given to them as it is written",
            example="https://auth.example.com/token",
        ),
    )
    service: str = required(QUOTABLE, "registry.example.com", "who the tokens are for (``aud``)")
    issuer: str = required(TEXT, "auth.example.com", "who makes them (``iss``)")
    rootcertbundle: str | None = option(
        CERTIFICATES,
        None,
        "PEM: certificates of those who sign tokens, or of their authorities; this, ``jwks`` or both",
    )
    jwks: str | None = option(TOKEN_KEYS, None, "JWK set of keys that sign tokens")
    signingalgorithms: tuple[str, ...] = option(
        list_of(ALGORITHM),
        (),
        "``EdDSA``; ``ES``, ``RS`` or ``PS`` with ``256``, ``384`` or ``512``",
        shown="all",
    )
    autoredirect: bool = option(BOOLEAN, False, "the realm is a path at the host that the client has asked")
    autoredirectpath: str = option(URL_PATH, "/auth/token/", "that path")


@frozen
class HtpasswdAuth:
    """Section ``auth.htpasswd``: a file of users and bcrypt hashes."""

    realm: str = required(QUOTABLE, "Content Cache", "what clients are told that they log in to")
    path: str = required(
        USERS_FILE,
        "/auth/htpasswd; make it with htpasswd -Bc FILE USER",
        "users and their bcrypt hashes, as ``htpasswd -B`` writes them",
    )
