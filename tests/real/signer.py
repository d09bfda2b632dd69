"""
An origin that signs URLs: a gateway's double in front of a real registry, in threads of the test's process.

What it signs and verifies is made with PyJWT and by hand, never with the code under test.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import re
import time
import urllib.parse
from collections.abc import Mapping, Sequence
from typing import Any, Final, Literal

import jwt
from attrs import field, frozen

from tests.real.certificates import Authority, Certificate
from tests.real.origin import PUSHER, Origin, basic
from tests.real.programs import Case
from tests.real.threaded import Asked, Face, Server
from tests.signer import Json, Signer, b64, elliptic, es256, keys, number, rs256

KEYS_PATH: Final = "/.well-known/contentcache/jwks.json"
Algorithm = Literal["ES256", "EdDSA", "RS256"]

_BLOB = re.compile(r"/v2/(?P<name>.+)/blobs/(?P<digest>[a-z0-9]+:[0-9a-f]+)")


@frozen
class Pen:
    """A private key, its name and its algorithm."""

    kid: str
    algorithm: Algorithm
    private: Any = field(repr=False)

    def jwk(self) -> Json:
        """The public half, as it is shown."""
        public = self.private.public_key()
        match self.algorithm:
            case "ES256":
                return elliptic(public, self.kid)
            case "EdDSA":
                return {"kty": "OKP", "crv": "Ed25519", "x": b64(public.public_bytes_raw()), "kid": self.kid}
            case "RS256":
                return {"kty": "RSA", "n": number(public.public_numbers().n), "e": "AQAB", "kid": self.kid}

    def sign(self, signed: bytes) -> bytes:
        """A signature, as JWTs have it."""
        match self.algorithm:
            case "ES256":
                return es256(signed, self.private)
            case "EdDSA":
                return bytes(self.private.sign(signed))
            case "RS256":
                return rs256(signed, self.private)


def pens() -> list[Pen]:
    """One of each kind, with the names that :class:`tests.signer.Signer` gives them."""
    own = keys()
    return [Pen("es", "ES256", own.es), Pen("ed", "EdDSA", own.ed), Pen("rs", "RS256", own.rs)]


class StorageHost(Server):
    """A host that has the bytes of a registry's blobs and asks for no credentials."""

    def __init__(self, case: Case, registry: Origin) -> None:
        self.registry = registry
        super().__init__(case)

    def location(self, name: str, digest: str) -> str:
        """The URL of a blob."""
        return f"{self.url}/bucket/v2/{name}/blobs/{digest}?X-Signature=own"

    def answer(self, face: Face, asked: Asked) -> None:
        """The blob."""
        plain = Asked(asked.method, asked.path.removeprefix("/bucket"), "", asked.headers)
        face.relay(self.registry, plain, basic(PUSHER, PUSHER))


class SigningOrigin(Server):
    """
    An origin whose account is ``registry``'s, an htpasswd one.

    Without ``token=`` it is that registry, whoever asks; where ``cache`` is a URL, it answers ``GET`` of a
    blob with a redirect to it once the registry has said yes. A token of its own is verified, and the blob
    comes from the registry with an account of the harness, or by a redirect to ``storage``.

    ``pens`` are the keys that it shows and accepts; ``document`` is shown in place of them.
    """

    def __init__(
        self,
        case: Case,
        registry: Origin,
        *,
        tls: Certificate | None = None,
        authority: Authority | None = None,
        storage: StorageHost | None = None,
        cache_control: str = "max-age=60",
    ) -> None:
        self.registry = registry
        self.authority = authority
        self.storage = storage
        self.cache_control = cache_control
        self.pens: Sequence[Pen] = pens()
        self.document: bytes | None = None
        self.cache: str | None = None
        super().__init__(case, tls)

    def signer(self, name: str, digest: str) -> Signer:
        """One that makes wrong tokens for a blob."""
        return Signer(self.url, name, digest, time.time())

    def show_odd_keys(self) -> None:
        """Show a set with keys of no use among the good ones."""
        self.document = self.signer("none", "none").jwks()

    def token(
        self, name: str, digest: str, pen: Pen | None = None, claims: Mapping[str, object] | None = None
    ) -> str:
        """A good token, with other claims where they are given."""
        pen = pen or self.pens[0]
        signer = self.signer(name, digest)
        header = {"typ": "JWT", "alg": pen.algorithm, "kid": pen.kid}
        return signer.token(header, signer.claims(**(claims or {})), pen.sign)

    def ending(self, name: str, digest: str, seconds: float) -> str:
        """A token that ends in ``seconds``, the minute by which clocks may differ included."""
        exp = time.time() - 60 + seconds
        return self.token(name, digest, None, {"iat": exp - 100, "nbf": exp - 100, "exp": exp})

    def signed(self, name: str, digest: str, pen: Pen | None = None, **claims: object) -> str:
        """Path and query of a signed URL."""
        return f"/v2/{name}/blobs/{digest}?token={self.token(name, digest, pen, claims)}"

    def allows(self, token: str, name: str, digest: str) -> bool:
        """Whether it is a token of its own for that blob."""
        try:
            kid = jwt.get_unverified_header(token)["kid"]
            (pen,) = (pen for pen in self.pens if pen.kid == kid)
            claims = jwt.decode(
                token,
                pen.private.public_key(),
                [pen.algorithm],
                audience="contentcache",
                issuer=self.url,
                leeway=60,
                options={"require": ["exp", "iat", "nbf", "sub"]},
            )
            short = claims["exp"] - claims["iat"] <= 3600
            access = [{"type": "repository", "name": name, "actions": ["pull"]}]
            return bool(short and claims["digest"] == digest and claims["access"] == access)
        except (jwt.InvalidTokenError, ValueError, KeyError, TypeError):
            return False

    def answer(self, face: Face, asked: Asked) -> None:
        """Answer a request."""
        if asked.path == KEYS_PATH:
            shown = self.document or json.dumps({"keys": [pen.jwk() for pen in self.pens]}).encode()
            face.tell(
                200, {"Content-Type": "application/jwk-set+json", "Cache-Control": self.cache_control}, shown
            )
            return
        blob = _BLOB.fullmatch(asked.path)
        tokens = urllib.parse.parse_qs(asked.query, keep_blank_values=True).get("token")
        if blob is None or tokens is None:
            self._pass_on(face, asked, blob)
        elif len(tokens) != 1 or not self.allows(tokens[0], blob["name"], blob["digest"]):
            refusal = {"errors": [{"code": "DENIED", "message": "this is no token of mine for that"}]}
            face.tell(403, {"Content-Type": "application/json"}, json.dumps(refusal).encode())
        elif self.storage is not None:
            face.tell(307, {"Location": self.storage.location(blob["name"], blob["digest"])}, b"")
        else:
            face.relay(self.registry, asked, basic(PUSHER, PUSHER))

    def _pass_on(self, face: Face, asked: Asked, blob: re.Match[str] | None) -> None:
        authorization = asked.headers.get("authorization")
        if self.cache is None or blob is None or asked.method != "GET":
            face.relay(self.registry, asked, authorization)
            return
        headers = {} if authorization is None else {"Authorization": authorization}
        line = http.client.HTTPConnection(self.registry.host, timeout=30)
        with contextlib.closing(line):
            line.request("HEAD", asked.path, headers=headers)
            allowed = line.getresponse().status == 200
        if allowed:
            target = self.cache + self.signed(blob["name"], blob["digest"])
            face.tell(307, {"Location": target}, b"")
        else:
            face.relay(self.registry, asked, authorization)
