"""
Blob tokens: the token of a signed URL, which lets its bearer pull one blob of one repository.

The origin redirects a client here with ``?token=``, a JWT (RFC 7519) that the origin has signed. Rules:

* the header names a key of the origin and that key's own algorithm, and hints at no other key; extensions,
  compression, encryption and nested tokens are refused;
* every claim is present and has its type; one malformed entry of ``access`` makes the token malformed;
* ``aud`` is this program, ``iss`` is the origin, ``digest`` and ``access`` are those of the path;
* ``exp`` is at most an hour after ``iat``, and all clocks may differ by a minute.

:func:`parse_blob_token` says which origin's keys to get; nothing in the token counts before
:func:`verify_blob_token`.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from typing import Final, get_args

import jwt
from attrs import field, frozen

from contentcache.core.digest import Digest
from contentcache.core.errors import SignatureRefused
from contentcache.jose import claims as read
from contentcache.jose.claims import AccessEntry, InvalidClaimError
from contentcache.jose.jwa import PrivateKey
from contentcache.jose.jwk import is_kid
from contentcache.jose.jws import (
    UNSUPPORTED_PARAMETERS,
    CompactJWS,
    InvalidJWSError,
    check_header,
    compact_json,
    parse_compact,
)
from contentcache.jose.keyset import BlobTokenAlgorithm, VerificationKey

AUDIENCE: Final = "contentcache"
MAX_LENGTH: Final = 8 << 10
#: Seconds by which the origin's clock and ours may differ, either way.
LEEWAY: Final = 60.0
#: Seconds from ``iat`` to ``exp``, at most.
MAX_LIFETIME: Final = 3600.0

_ALGORITHMS: Final[tuple[BlobTokenAlgorithm, ...]] = get_args(BlobTokenAlgorithm)
#: Header parameters that lead to another key (RFC 7515 §4.1), besides those that are never supported.
_REFUSED_PARAMETERS: Final = UNSUPPORTED_PARAMETERS | {"jku", "jwk", "x5c", "x5t", "x5t#S256", "x5u"}
_DEFAULT_PORTS: Final = {"http": "80", "https": "443"}
_URL = re.compile(
    r"(?P<scheme>[a-z][a-z0-9+.-]*)://(?P<host>[^/?#@:\[\]\s]+|\[[^\]/?#@\s]*\])(?::(?P<port>[0-9]*))?"
    r"(?P<path>(?:/.*)?)",
    re.ASCII | re.IGNORECASE,
)


@frozen
class UnverifiedBlobToken:
    """A well-formed token: who claims to have signed it, and how. Nothing is verified."""

    text: str = field(repr=False)
    kid: str
    algorithm: BlobTokenAlgorithm
    issuer: str


@frozen
class VerifiedBlobToken:
    """
    What a valid token grants: ``subject`` (empty if anonymous) may pull this blob until ``expires``.

    ``issuer`` is the origin by its configured URL, ``expires`` is in seconds since the epoch. ``request_id`` is how
    the origin has logged the request that it redirected.
    """

    issuer: str
    subject: str
    repository: str
    digest: Digest
    expires: float
    kid: str
    request_id: str | None = None


@frozen
class SigningKey:
    """A private key, its name, and its algorithm."""

    kid: str
    algorithm: BlobTokenAlgorithm
    private: PrivateKey = field(repr=False)

    def verification_key(self) -> VerificationKey:
        """
        The public half.

        :raises InvalidJWKError: ``algorithm`` is not that of the key.
        """
        return VerificationKey(self.kid, self.algorithm, self.private.public_key())


@frozen
class _Claims:
    """Claims by their types. Times are seconds since the epoch."""

    issuer: str
    subject: str
    audience: Sequence[str]
    issued_at: float
    not_before: float
    expires: float
    digest: str
    access: Sequence[AccessEntry]
    request_id: str | None


def parse_blob_token(text: str) -> UnverifiedBlobToken:
    """
    Parse a token without verifying it.

    :raises SignatureRefused: it is malformed.
    """
    try:
        jws = parse_compact(text, max_length=MAX_LENGTH)
        kid, algorithm = _key_of(jws)
        return UnverifiedBlobToken(text, kid, algorithm, _claims_of(jws).issuer)
    except (InvalidJWSError, InvalidClaimError) as error:
        raise _refused(str(error)) from None


def verify_blob_token(
    token: UnverifiedBlobToken,
    key: VerificationKey,
    *,
    issuer: str,
    repository: str,
    digest: Digest,
    now: float,
) -> VerifiedBlobToken:
    """
    Verify that the owner of ``key`` lets a bearer pull ``digest`` from ``repository`` at ``now``.

    :param key: a key of ``issuer``, found by the token's ``kid``.
    :param issuer: the origin's URL as it is configured.
    :param now: seconds since the epoch.
    :raises SignatureRefused: anything is wrong.
    """
    try:
        jws = parse_compact(token.text, max_length=MAX_LENGTH)
        if _key_of(jws) != (key.kid, key.algorithm):
            raise _refused("names another key, or another algorithm than that of its key")
        if not key.verifies(jws.signing_input, jws.signature):
            raise _refused("has a wrong signature")
        claims = _claims_of(jws)
    except (InvalidJWSError, InvalidClaimError) as error:
        raise _refused(str(error)) from None
    if not same_issuer(claims.issuer, issuer):
        raise _refused("is not from this origin ('iss')")
    if AUDIENCE not in claims.audience:
        raise _refused(f"is not for {AUDIENCE} ('aud')")
    _check_times(claims, now)
    if claims.digest != str(digest):
        raise _refused("is for another digest than that of the path")
    if not any(_allows_pull(entry, repository) for entry in claims.access):
        raise _refused("does not allow to pull from this repository ('access')")
    return VerifiedBlobToken(
        issuer, claims.subject, repository, digest, claims.expires, key.kid, claims.request_id
    )


def sign_blob_token(
    key: SigningKey,
    *,
    issuer: str,
    subject: str,
    repository: str,
    digest: Digest,
    now: float,
    lifetime: float,
    request_id: str | None = None,
) -> str:
    """
    A token that lets ``subject`` pull ``digest`` from ``repository`` for ``lifetime`` seconds from ``now``.

    Times are whole seconds, as registries have them: ``now`` is rounded down, ``lifetime`` up.

    :raises ValueError: ``lifetime`` is not within :data:`MAX_LIFETIME`, or the key is not what it says.
    """
    if not 0 < lifetime <= MAX_LIFETIME:
        raise ValueError(f"a signed URL lives for up to {MAX_LIFETIME:.0f} seconds, not {lifetime}")
    key.verification_key()  # raises where nobody could verify
    issued_at = math.floor(now)
    claims = {
        "iss": issuer,
        "aud": AUDIENCE,
        "sub": subject,
        "iat": issued_at,
        "nbf": issued_at,
        "exp": issued_at + math.ceil(lifetime),
        "digest": str(digest),
        "access": [{"type": "repository", "name": repository, "actions": ["pull"]}],
        **({} if request_id is None else {"rid": request_id}),
    }
    return jwt.PyJWS().encode(compact_json(claims), key.private, key.algorithm, {"kid": key.kid})


def normalize_issuer(url: str) -> str:
    """
    One spelling for the URLs of an origin. What is not a URL stays as it is.

    >>> normalize_issuer("HTTPS://Registry.example.com:443/")
    'https://registry.example.com'
    >>> normalize_issuer("http://[::1]:443/Path")
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
    Whether two URLs name one origin: a trailing slash, case and the scheme's default port do not matter.

    >>> same_issuer("https://a.example.com/", "https://A.example.com:443")
    True
    """
    return normalize_issuer(a) == normalize_issuer(b)


def _key_of(jws: CompactJWS) -> tuple[str, BlobTokenAlgorithm]:
    """The ``kid`` and the algorithm of the header."""
    header: Mapping[str, object] = jws.header
    for algorithm in _ALGORITHMS:
        if header.get("alg") == algorithm:
            break
    else:
        raise InvalidJWSError(f"is not signed with one of {', '.join(_ALGORITHMS)} ('alg')")
    kid = header.get("kid")
    if not isinstance(kid, str) or not is_kid(kid):
        raise InvalidJWSError("does not name its key ('kid')")
    typ = header.get("typ", "JWT")
    if not isinstance(typ, str) or typ.upper() != "JWT":
        raise InvalidJWSError("is not a JWT ('typ')")
    check_header(header, _REFUSED_PARAMETERS)
    return kid, algorithm


def _claims_of(jws: CompactJWS) -> _Claims:
    """All the claims that a signed URL needs; others are ignored (RFC 7519 §4)."""
    claims = jws.claims()
    request_id = claims.get("rid")  # for the log alone: whatever else it is does not matter
    return _Claims(
        issuer=read.string(claims, "iss"),
        subject=read.string(claims, "sub"),
        audience=read.audience(claims),
        issued_at=read.numeric_date(claims, "iat"),
        not_before=read.numeric_date(claims, "nbf"),
        expires=read.numeric_date(claims, "exp"),
        digest=read.string(claims, "digest"),
        access=read.access(claims),
        request_id=request_id if isinstance(request_id, str) else None,
    )


def _check_times(claims: _Claims, now: float) -> None:
    if not claims.issued_at < claims.expires <= claims.issued_at + MAX_LIFETIME:
        raise _refused(f"lives for longer than {MAX_LIFETIME:.0f} seconds, or not at all ('iat', 'exp')")
    if claims.not_before > claims.expires:
        raise _refused("expires before it becomes valid ('nbf', 'exp')")
    if now < max(claims.not_before, claims.issued_at) - LEEWAY:
        raise _refused("is not valid yet ('nbf', 'iat'); or the clocks differ")
    if now >= claims.expires + LEEWAY:
        raise _refused("has expired ('exp')")


def _allows_pull(entry: AccessEntry, repository: str) -> bool:
    return entry.type == "repository" and entry.name == repository and "pull" in entry.actions


def _refused(reason: str) -> SignatureRefused:
    return SignatureRefused(f"the token of this URL {reason}; ask the origin for the blob again")
