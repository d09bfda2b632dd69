"""Token servers and files of users, made up for the tests."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Awaitable, Coroutine
from datetime import UTC, datetime, timedelta
from typing import Any, TypeVar

import jwt
from cryptography import x509
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from contentcache.auth.interfaces import LocalAuthenticator, Scope, Unauthorized
from contentcache.core.base64url import base64url_encode

T = TypeVar("T")

SECRET = b"0123456789abcdef" * 4
NOW = 1_800_000_000.0
PULL = Scope("repository", "org/app", "pull")
BASE = "https://cache.example.com:5000"


class Threads:
    """A ``Run`` without threads that counts; with ``held`` the work waits until :meth:`go_on`."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.held = False
        self.waiting: list[Deferred[None]] = []

    def __call__(self, function: Any, /, *args: Any, **kwargs: Any) -> Awaitable[Any]:
        name = getattr(function, "__name__", "partial")
        self.calls.append(name)
        if not (self.held and name == "_matches"):
            return self._now(function, *args, **kwargs)
        waiting: Deferred[None] = Deferred()
        self.waiting.append(waiting)
        return waiting.addCallback(lambda _: function(*args, **kwargs))

    def go_on(self) -> None:
        """Let the first one that waits do its work."""
        self.waiting.pop(0).callback(None)

    def count(self, name: str) -> int:
        """How often a function was run."""
        return self.calls.count(name)

    def _now(self, function: Any, *args: Any, **kwargs: Any) -> Deferred[Any]:
        try:
            result = function(*args, **kwargs)
        except Exception:  # noqa: BLE001 - it is for whoever waits
            deferred: Deferred[Any] = Deferred()
            deferred.errback()
            return deferred
        return succeed(result)


class AuthenticatorTestCase(SynchronousTestCase):
    """Asks local authenticators."""

    def start(self, coroutine: Coroutine[Deferred[Any], Any, T]) -> Deferred[T]:
        """Begin."""
        return Deferred.fromCoroutine(coroutine)

    def admitted(
        self, authenticator: LocalAuthenticator, authorization: str | None, scope: Scope | None = PULL
    ) -> str:
        """The name of an authenticated user."""
        return self.successResultOf(self.start(authenticator.authenticate(authorization, scope, BASE)))

    def refused(
        self, authenticator: LocalAuthenticator, authorization: str | None, scope: Scope | None = PULL
    ) -> Unauthorized:
        """The refusal, which must come."""
        failure = self.failureResultOf(
            self.start(authenticator.authenticate(authorization, scope, BASE)), Unauthorized
        )
        value = failure.value
        assert isinstance(value, Unauthorized)
        self.assertEqual((value.status, value.code), (401, "UNAUTHORIZED"))
        return value


def basic(name: str, password: str | bytes) -> str:
    """A header with a name and a password."""
    encoded = password.encode() if isinstance(password, str) else password
    return "Basic " + b64encode(name.encode() + b":" + encoded).decode()


def claims(**changes: Any) -> dict[str, Any]:
    """The claims of a good token, with changes; ``...`` takes one out."""
    all_of_them = {
        "iss": "auth.example.com",
        "sub": "alice",
        "aud": "cache",
        "exp": int(NOW) + 300,
        "nbf": int(NOW) - 10,
        "iat": int(NOW) - 10,
        "jti": "1",
        "access": [{"type": "repository", "name": "org/app", "actions": ["pull"]}],
        **changes,
    }
    return {name: value for name, value in all_of_them.items() if value is not ...}


def token(key: Any, header: dict[str, Any], payload: object = None, *, algorithm: str = "ES256") -> str:
    """A signed token; ``alg`` in the header may say something else than ``algorithm``, which signs."""
    parts = [{"alg": algorithm, **header}, claims() if payload is None else payload]
    signed = ".".join(
        base64url_encode(part if isinstance(part, bytes) else json.dumps(part).encode()) for part in parts
    )
    signer = jwt.get_algorithm_by_name(algorithm)
    return f"{signed}.{base64url_encode(signer.sign(signed.encode(), key))}"


def certificate(
    key: Any,
    *,
    name: str = "tokens",
    issuer: tuple[str, Any] | None = None,
    authority: bool = False,
    days: tuple[float, float] = (-1, 1),
) -> x509.Certificate:
    """A certificate around :data:`NOW` for ``key``, signed by ``issuer`` (its name and key) or by itself."""
    now = datetime.fromtimestamp(NOW, UTC)
    issuer_name, signer = (name, key) if issuer is None else issuer
    hashed = None if hasattr(signer, "public_key") and "Ed25519" in type(signer).__name__ else SHA256()
    return (
        x509.CertificateBuilder()
        .subject_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)]))
        .issuer_name(x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer_name)]))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
        .add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
        .sign(signer, hashed)
    )


def pem(*certificates: x509.Certificate) -> bytes:
    """Certificates as they stand in a bundle."""
    return b"".join(one.public_bytes(Encoding.PEM) for one in certificates)


def x5c(*certificates: x509.Certificate) -> list[str]:
    """Certificates as they stand in a header."""
    return [b64encode(one.public_bytes(Encoding.DER)).decode() for one in certificates]
