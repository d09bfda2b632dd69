"""The section ``auth``: whether clients are judged here, and by what."""

from __future__ import annotations

from typing import Final

from attrs import evolve

from contentcache.config.faults import suggestion
from contentcache.config.model import HtpasswdAuth, TokenAuth
from contentcache.config.patterns import ALGORITHMS
from contentcache.config.readers import boolean
from contentcache.config.reading import read_values, reader_of
from contentcache.config.schema import kinds
from contentcache.config.tables import Table

Auth = TokenAuth | HtpasswdAuth

KINDS: Final = ("token", "htpasswd")

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
        auth.get("none")
        if "silly" in auth:
            auth.get("silly")
            auth.fault("silly", _SILLY)
        for kind in kinds:
            if kind == "token":
                found.append(_token(auth))
            elif kind == "htpasswd":
                found.append(_htpasswd(auth))
            elif kind != "none":
                auth.get(kind)
                near = suggestion(kind, ("none", *KINDS))
                auth.fault(kind, f"unknown kind of auth{near or '; use htpasswd or token'}")
        if len(kinds) > 1:
            auth.fault(kinds[1], f"is a second kind of auth beside {kinds[0]}; one at most may be there")
    return found[0] if found else None


def _htpasswd(auth: Table) -> HtpasswdAuth:
    with auth.section("htpasswd") as section:
        return read_values(section, HtpasswdAuth)


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
        kind = kinds.QUOTABLE if redirected else kinds.REALM
        read = read_values(
            section,
            TokenAuth,
            realm=section.demand("realm", reader_of(kind), "", "https://auth.example.com/token"),
        )
        return evolve(read, signingalgorithms=read.signingalgorithms or ALGORITHMS)
