"""
Signed URLs: a token that lets its bearer pull one blob of one repository, whoever that is.

The origin sends a client here with ``?token=``, a JWT (RFC 7519) that the origin has signed. Rules:

* the header names a key of the origin and that key's own algorithm, and hints at no other key; extensions,
  compression, encryption and tokens in tokens are refused;
* every claim is there, and of its type; a token with one malformed entry is malformed altogether;
* ``aud`` is ours, ``iss`` is the origin, ``digest`` and ``access`` are those of the path;
* ``exp`` is at most an hour after ``iat``, and all clocks may differ by a minute.

A token is first looked at (:func:`present`), because it says which origin's keys to ask for; nothing of it is
believed before :func:`verify`.
"""

from __future__ import annotations

import json
import math
import re
from typing import Final

import jwt
from attrs import field, frozen
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from contentcache.core.claims import Access, Claims, claims_of, key_of
from contentcache.core.digest import Digest
from contentcache.core.errors import SignatureRefused
from contentcache.core.jwks import Algorithm, KeyUnknown, VerifyingKey
from contentcache.core.jws import JwsFaulty, read_jws

__all__ = [
    "AUDIENCE",
    "LEEWAY",
    "LONGEST",
    "KeyUnknown",
    "Presented",
    "PrivateKey",
    "SignatureRefused",
    "Signed",
    "SigningKey",
    "normal_issuer",
    "present",
    "same_issuer",
    "sign",
    "verify",
]

AUDIENCE: Final = "contentcache"
#: Seconds by which the origin's clock and ours may differ, either way.
LEEWAY: Final = 60.0
#: Seconds from ``iat`` to ``exp``, at most.
LONGEST: Final = 3600.0

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey

_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[^/?#@:\[\]\s]+|\[[^\]/?#@\s]*\])(?::(?P<port>[0-9]*))?"
    r"(?P<path>(?:/.*)?)",
    re.ASCII | re.IGNORECASE,
)


@frozen
class Presented:
    """
    A token that is well-formed: who is said to have signed it, and how. Nothing is verified.
    """

    text: str = field(repr=False)
    kid: str
    algorithm: Algorithm
    issuer: str


@frozen
class Signed:
    """
    What a good token says: ``subject`` (empty for the anonymous) may pull this blob until ``expires``, in
    seconds since the epoch. ``issuer`` is the origin by the name that it has here.
    """

    issuer: str
    subject: str
    repository: str
    digest: Digest
    expires: float
    kid: str


@frozen
class SigningKey:
    """
    A private key, its name, and its algorithm.
    """

    kid: str
    algorithm: Algorithm
    private: PrivateKey = field(repr=False)

    def verifying(self) -> VerifyingKey:
        """
        The half that everyone may see.

        :raises JwksFaulty: ``algorithm`` is not that of the key.
        """
        return VerifyingKey(self.kid, self.algorithm, self.private.public_key())


def present(text: str) -> Presented:
    """
    Look at a token without believing it.

    :raises SignatureRefused: it is not in the form that signed URLs have.
    """
    try:
        jws = read_jws(text)
        kid, algorithm = key_of(jws.header)
        return Presented(text, kid, algorithm, claims_of(jws.claims).issuer)
    except JwsFaulty as faulty:
        raise _refused(str(faulty)) from None


def verify(
    presented: Presented, key: VerifyingKey, *, issuer: str, repository: str, digest: Digest, now: float
) -> Signed:
    """
    Judge a token: whether ``key``'s owner lets its bearer pull ``digest`` from ``repository`` at ``now``.

    :param key: a key of ``issuer``, found by the token's ``kid``.
    :param issuer: the origin's URL as it is configured.
    :param now: seconds since the epoch.
    :raises SignatureRefused: anything at all is wrong.
    """
    try:
        jws = read_jws(presented.text)
        if key_of(jws.header) != (key.kid, key.algorithm):
            raise _refused("names another key, or another algorithm than that of its key")
        if not key.verifies(jws.signed, jws.signature):
            raise _refused("has a wrong signature")
        claims = claims_of(jws.claims)
    except JwsFaulty as faulty:
        raise _refused(str(faulty)) from None
    if not same_issuer(claims.issuer, issuer):
        raise _refused("is not from this origin ('iss')")
    if AUDIENCE not in claims.audience:
        raise _refused(f"is not for a {AUDIENCE} ('aud')")
    _check_times(claims, now)
    if claims.digest != str(digest):
        raise _refused("is for another digest than that of the path")
    if not any(_allows(entry, repository) for entry in claims.access):
        raise _refused("does not allow to pull from this repository ('access')")
    return Signed(issuer, claims.subject, repository, digest, claims.expires, key.kid)


def sign(
    key: SigningKey,
    *,
    issuer: str,
    subject: str,
    repository: str,
    digest: Digest,
    now: float,
    lifetime: float,
) -> str:
    """
    A token that lets ``subject`` pull ``digest`` from ``repository`` for ``lifetime`` seconds from ``now``.

    Times are whole seconds, as registries have them: ``now`` is rounded down, ``lifetime`` up.

    :raises ValueError: ``lifetime`` is not within :data:`LONGEST`, or the key is not what it says.
    """
    if not 0 < lifetime <= LONGEST:
        raise ValueError(f"a signed URL lives for up to {LONGEST:.0f} seconds, not {lifetime}")
    key.verifying()  # raises where nobody could verify
    issued = math.floor(now)
    claims = {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": subject,
        "iat": issued,
        "nbf": issued,
        "exp": issued + math.ceil(lifetime),
        "digest": str(digest),
        "access": [{"type": "repository", "name": repository, "actions": ["pull"]}],
    }
    payload = json.dumps(claims, separators=(",", ":")).encode("ascii")
    return jwt.PyJWS().encode(payload, key.private, key.algorithm, {"kid": key.kid})


def normal_issuer(url: str) -> str:
    """
    One spelling for the URLs of an origin. What is not a URL stays as it is.

    >>> normal_issuer("HTTPS://Registry.example.com:443/")
    'https://registry.example.com'
    >>> normal_issuer("http://[::1]:443/Path")
    'http://[::1]:443/Path'
    """
    match = _URL.fullmatch(url)
    # Not beyond ASCII: there are letters whose lower case is an ASCII one, and the host is another.
    if match is None or not match["host"].isascii():
        return url
    scheme = match["scheme"].lower()
    port = match["port"] or ""
    port = "" if port == _DEFAULT_PORTS.get(scheme, "") else f":{port}" if port else ""
    path = match["path"]
    if not path.endswith("//"):  # that is a path of its own, and stays one
        path = path.removesuffix("/")
    return f"{scheme}://{match['host'].lower()}{port}{path}"


def same_issuer(a: str, b: str) -> bool:
    """
    Whether two URLs are those of one origin: a slash at the end, the case of scheme and host, and the port
    that the scheme has anyway make no difference.

    >>> same_issuer("https://a.example.com/", "https://A.example.com:443")
    True
    """
    return normal_issuer(a) == normal_issuer(b)


def _refused(fault: str) -> SignatureRefused:
    return SignatureRefused(f"the token of this URL {fault}; ask the origin for the blob again")


def _allows(entry: Access, repository: str) -> bool:
    return entry.kind == "repository" and entry.name == repository and "pull" in entry.actions


def _check_times(claims: Claims, now: float) -> None:
    if not claims.issued < claims.expires <= claims.issued + LONGEST:
        raise _refused(f"lives for longer than {LONGEST:.0f} seconds, or not at all ('iat', 'exp')")
    if claims.begins > claims.expires:
        raise _refused("ends before it begins ('nbf', 'exp')")
    if now < max(claims.begins, claims.issued) - LEEWAY:
        raise _refused("is not good yet ('nbf', 'iat'); or the clocks differ")
    if now >= claims.expires + LEEWAY:
        raise _refused("has expired ('exp')")
