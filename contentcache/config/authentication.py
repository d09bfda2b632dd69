"""
The section ``auth``: whether clients are judged here, and by what.
"""

from __future__ import annotations

import re
from typing import Final

from contentcache.config.faults import Wrong, suggestion
from contentcache.config.files import certificates, token_keys, users
from contentcache.config.model import HtpasswdAuth, TokenAuth
from contentcache.config.readers import boolean, listing, text
from contentcache.config.tables import Item, Table
from contentcache.config.urls import realm_url

Auth = TokenAuth | HtpasswdAuth

#: Signatures with a public key, by the names of RFC 7518 §3.1 and RFC 8037 §3.1.
ALGORITHMS: Final = (
    "EdDSA",
    *(f"{family}{bits}" for family in ("RS", "ES", "PS") for bits in (256, 384, 512)),
)
KINDS: Final = ("token", "htpasswd")

#: What a quoted string of a header holds without escapes (RFC 9110 §5.6.4).
_QUOTABLE = re.compile(r"[ !#-\[\]-~]+")
_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]*)+")
_SILLY: Final = (
    "is not supported: it lets in whoever sends any credentials at all; use htpasswd or token, or leave out "
    "the section auth, so that the origin judges"
)


def read_auth(root: Table) -> Auth | None:
    """
    Read one kind of authentication; ``None`` where the origin alone judges.

    A kind that is faulty is given too, so that what depends on it is not blamed as well.
    """
    found: list[Auth] = []
    with root.section_or_name("auth") as auth:
        kinds = [kind for kind in auth if kind != "silly"]
        auth.take("none")
        if "silly" in auth:
            auth.take("silly")
            auth.fault("silly", _SILLY)
        for kind in kinds:
            if kind == "token":
                found.append(_token(auth))
            elif kind == "htpasswd":
                found.append(_htpasswd(auth))
            elif kind != "none":
                auth.take(kind)
                near = suggestion(kind, ("none", *KINDS))
                auth.fault(kind, f"unknown kind of auth{near or '; use htpasswd or token'}")
        if len(kinds) > 1:
            auth.fault(kinds[1], f"is a second kind of auth beside {kinds[0]}; one at most may be there")
    return found[0] if found else None


def _htpasswd(auth: Table) -> HtpasswdAuth:
    with auth.section("htpasswd") as section:
        return HtpasswdAuth(
            realm=section.demand("realm", _quotable, "", "Content Cache"),
            path=section.demand("path", users, "", "/auth/htpasswd; make it with htpasswd -Bc FILE USER"),
        )


def _token(auth: Table) -> TokenAuth:
    with auth.section("token") as section:
        redirected = section.read("autoredirect", boolean, default=False)
        if section.has("autoredirectpath") and not redirected:
            section.warn("autoredirectpath", "has no effect without autoredirect: true")
        if not section.has("rootcertbundle") and not section.has("jwks"):
            section.fault(
                "rootcertbundle",
                "is required, or jwks: the keys of the token server, e.g. rootcertbundle: /certs/tokens.pem",
            )
        return TokenAuth(
            realm=section.demand(
                "realm", _quotable if redirected else realm_url, "", "https://auth.example.com/token"
            ),
            service=section.demand("service", _quotable, "", "registry.example.com"),
            issuer=section.demand("issuer", text, "", "auth.example.com"),
            rootcertbundle=section.read("rootcertbundle", certificates, None),
            jwks=section.read("jwks", token_keys, None),
            signingalgorithms=section.read("signingalgorithms", listing(_algorithm), ()) or ALGORITHMS,
            autoredirect=redirected,
            autoredirectpath=section.read("autoredirectpath", _path, "/auth/token/"),
        )


def _algorithm(item: Item) -> str:
    name = text(item)
    if name in {"HS256", "HS384", "HS512"}:
        raise Wrong(
            f"{name} is not supported: its key is a secret that signs as well as it verifies, so that "
            "whoever reads it here may make tokens; let the token server sign with ES256, EdDSA or RS256"
        )
    if name not in ALGORITHMS:
        raise Wrong(f"{item.shown()} is not one of {', '.join(ALGORITHMS)}{suggestion(name, ALGORITHMS)}")
    return name


def _quotable(item: Item) -> str:
    word = text(item)
    if not _QUOTABLE.fullmatch(word):
        raise Wrong(f"{item.shown()} must be ASCII without quotes and backslashes, since a header carries it")
    return word


def _path(item: Item) -> str:
    path = text(item)
    if not _PATH.fullmatch(path):
        raise Wrong(f"{item.shown()} is not a path of a URL; write e.g. /auth/token/")
    return path
