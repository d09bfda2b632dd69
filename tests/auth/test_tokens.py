"""Registry tokens."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

from attrs import evolve
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from hypothesis import given
from hypothesis import settings as bounds
from hypothesis import strategies as st
from twisted.internet.task import Clock

from contentcache.auth.interfaces import AuthFault, Scope
from contentcache.auth.tokens import TokenAuthenticator
from contentcache.config.model import TokenAuth
from contentcache.jose import registry_tokens
from contentcache.jose.jwa import verify_signature
from contentcache.jose.jwk import libtrust_fingerprint
from contentcache.jose.keyset import encode_jwk
from tests.auth.authenticators import (
    NOW,
    PULL,
    SECRET,
    AuthenticatorTestCase,
    Threads,
    basic,
    certificate,
    claims,
    pem,
    token,
    x5c,
)

KEY: Final = ec.generate_private_key(ec.SECP256R1())
OTHER: Final = ec.generate_private_key(ec.SECP256R1())
RSA: Final = rsa.generate_private_key(65537, 2048)
KID: Final = libtrust_fingerprint(KEY.public_key())
ROOT: Final = certificate(KEY, name="root", authority=True)


class TokenCase(AuthenticatorTestCase):
    """An authenticator of tokens that ``KEY`` signs."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.folder.mkdir()
        self.now = NOW
        self.clock = Clock()
        self.threads = Threads()
        self.bundle = self.folder / "bundle.pem"
        self.bundle.write_bytes(b"a bundle\n" + pem(ROOT))
        self.settings = TokenAuth(
            realm="https://auth.example.com/token",
            service="cache",
            issuer="auth.example.com",
            rootcertbundle=str(self.bundle),
        )
        self.auth = self.build()

    def build(self, **changes: Any) -> TokenAuthenticator:
        """An authenticator by other settings."""
        return TokenAuthenticator(
            evolve(self.settings, **changes),
            run=self.threads,
            wall=lambda: self.now,
            timer=self.clock,
            secret=SECRET,
        )

    def jwks(self, *entries: object) -> str:
        """A file with a JWK set."""
        path = self.folder / "jwks.json"
        path.write_text(json.dumps({"keys": entries}))
        return str(path)

    def good(self, **changes: Any) -> str:
        """The header with a good token but for changes of its claims."""
        return "Bearer " + token(KEY, {"kid": KID}, claims(**changes))

    def invalid(self, authorization: str, authenticator: TokenAuthenticator | None = None) -> str:
        """Why a token is refused that is invalid."""
        refusal = self.refused(authenticator or self.auth, authorization)
        self.assertTrue(str(refusal.headers["WWW-Authenticate"]).endswith(',error="invalid_token"'))
        return refusal.reason


class ClaimsTests(TokenCase):
    """Whom a token is for, when, and for what."""

    def test_verified(self) -> None:
        """A good token lets its bearer in, whatever the case of the scheme; so does a list as audience."""
        self.assertEqual(self.admitted(self.auth, self.good()), "alice")
        self.assertEqual(self.admitted(self.auth, self.good().replace("Bearer", "bEARER ")), "alice")
        self.admitted(self.auth, self.good(aud=["others", "cache"]))
        self.admitted(self.auth, self.good(nbf=..., iat=..., jti=...))
        self.assertEqual(self.admitted(self.auth, self.good(sub=...)), "")

    def test_times(self) -> None:
        """A minute of leeway, and not more, at both ends; what does not end is of no use."""
        times: list[tuple[dict[str, Any], bool]] = [
            ({"exp": int(NOW) - 60}, True),
            ({"exp": int(NOW) - 61}, False),
            ({"exp": ...}, False),
            ({"exp": None}, False),
            ({"nbf": int(NOW) + 60}, True),
            ({"nbf": int(NOW) + 61}, False),
            ({"exp": 10**60}, True),
        ]
        for changes, admitted in times:
            with self.subTest(changes=changes):
                if admitted:
                    self.admitted(self.auth, self.good(**changes))
                else:
                    self.invalid(self.good(**changes))

    def test_access(self) -> None:
        """An entry of the same type and name with the action or ``*``; its class does not matter."""
        entry: dict[str, Any] = {"type": "repository", "name": "org/app", "actions": ["pull"]}
        for access, need, admitted in [
            ([entry], PULL, True),
            ([{**entry, "actions": ["push", "*"]}], PULL, True),
            ([{**entry, "class": "plugin"}], PULL, True),
            ([{**entry, "actions": ["push"]}, entry], PULL, True),
            ([{**entry, "type": "repository(plugin)"}], PULL, False),
            ([{**entry, "name": "org/app2"}], PULL, False),
            ([{**entry, "name": "org/*"}], PULL, False),
            ([{**entry, "actions": ["Pull"]}], PULL, False),
            ([{**entry, "actions": ["push"]}], PULL, False),
            ([{**entry, "actions": None}], PULL, False),
            ([{"name": "org/app", "actions": ["pull"]}], PULL, False),
            ([], PULL, False),
            (None, PULL, False),
            ([], None, True),
            (
                [{"type": "registry", "name": "catalog", "actions": ["*"]}],
                Scope("registry", "catalog", "*"),
                True,
            ),
            (
                [{"type": "registry", "name": "catalog", "actions": ["pull"]}],
                Scope("registry", "catalog", "*"),
                False,
            ),
        ]:
            with self.subTest(access=access, need=need):
                if admitted:
                    self.admitted(self.auth, self.good(access=access), need)
                    continue
                refusal = self.refused(self.auth, self.good(access=access), need)
                self.assertTrue(
                    str(refusal.headers["WWW-Authenticate"]).endswith('error="insufficient_scope"')
                )

    def test_challenge(self) -> None:
        """Without a token the challenge is the registry's: realm, service, and the scope where one is needed."""
        start = 'Bearer realm="https://auth.example.com/token",service="cache"'
        for authorization in [None, "", "Bearer", "Bearer ", basic("alice", "x"), "Bearerx y"]:
            refusal = self.refused(self.auth, authorization)
            self.assertEqual(refusal.headers["WWW-Authenticate"], start + ',scope="repository:org/app:pull"')
        self.assertEqual(self.refused(self.auth, None, None).headers["WWW-Authenticate"], start)
        catalog = self.refused(self.auth, None, Scope("registry", "catalog", "*"))
        self.assertIn('scope="registry:catalog:*"', catalog.headers["WWW-Authenticate"])
        self.assertEqual(
            catalog.detail, [{"Type": "registry", "Class": "", "Name": "catalog", "Action": "*"}]
        )

    def test_autoredirect(self) -> None:
        """With ``autoredirect`` the realm is a path of the host that was asked; quotes stay inside."""
        authenticator = self.build(autoredirect=True, autoredirectpath="auth", service='a "b"\r\nX: y')
        challenge = self.refused(authenticator, None, None).headers["WWW-Authenticate"]
        self.assertEqual(
            challenge, 'Bearer realm="https://cache.example.com:5000/auth",service="a \\"b\\"X: y"'
        )


class SignatureTests(TokenCase):
    """Who has signed a token."""

    def test_allowed_algorithms(self) -> None:
        """``signingalgorithms`` narrows the list; shared secrets in it do not count, and alone they are a fault."""
        self.invalid(self.good(), self.build(signingalgorithms=("RS256", "HS256")))
        self.admitted(self.build(signingalgorithms=("ES256", "HS256")), self.good())
        self.assertRaises(AuthFault, self.build, signingalgorithms=("HS256", "none"))

    def test_chain_ends(self) -> None:
        """A remembered token does not outlive the certificate that vouches for its key."""
        leaf = certificate(OTHER, issuer=("root", KEY), days=(-1, 0.001))
        shown = "Bearer " + token(OTHER, {"x5c": x5c(leaf)})
        self.admitted(self.auth, shown)
        self.now += 100
        self.assertIn("chain", self.invalid(shown))

    def test_jwks(self) -> None:
        """Keys of a set go by their ``kid``, for the algorithm they name, if they are for signatures at all."""
        usable = {**encode_jwk(RSA.public_key(), "a"), "alg": "RS256"}
        encryption = {**encode_jwk(OTHER.public_key(), "b"), "use": "enc"}
        odd = [{"kty": "oct", "k": "AAAA", "kid": "c"}, {"kty": "EC", "kid": "d"}, None, 1]
        authenticator = self.build(rootcertbundle=None, jwks=self.jwks(usable, encryption, *odd))
        self.admitted(authenticator, "Bearer " + token(RSA, {"kid": "a"}, algorithm="RS256"))
        self.invalid("Bearer " + token(RSA, {"kid": "a"}, algorithm="PS256"), authenticator)
        self.invalid("Bearer " + token(OTHER, {"kid": "b"}), authenticator)
        self.invalid("Bearer " + token(b"\0\0\0" * 11, {"kid": "c"}, algorithm="HS256"), authenticator)

    def test_both_files(self) -> None:
        """With a bundle and a set the keys of both count."""
        authenticator = self.build(jwks=self.jwks(encode_jwk(OTHER.public_key(), "a")))
        self.admitted(authenticator, "Bearer " + token(OTHER, {"kid": "a"}))
        self.admitted(authenticator, self.good())

    def test_files_at_start(self) -> None:
        """None is built on files that are missing, empty, broken or ambiguous; the fault names the file."""
        one, other = encode_jwk(KEY.public_key(), "a"), encode_jwk(OTHER.public_key(), "a")
        for content in [b"", b"x", pem(ROOT)[:200], pem(ROOT)[:200] + b"\n-----END CERTIFICATE-----\n"]:
            self.bundle.write_bytes(content)
            self.assertIn(str(self.bundle), self.assertRaises(AuthFault, self.build).message)
        for entries in [(), ({"kty": "oct", "k": "AAAA", "kid": "c"},), (one, other)]:
            path = self.jwks(*entries)
            fault = self.assertRaises(AuthFault, self.build, rootcertbundle=None, jwks=path)
            self.assertIn(path, fault.message)
        missing = str(self.folder / "missing")
        self.assertRaises(AuthFault, self.build, rootcertbundle=missing)
        self.assertRaises(AuthFault, self.build, rootcertbundle=None)


class MemoryTests(TokenCase):
    """What is remembered, and for how long."""

    def setUp(self) -> None:
        super().setUp()
        self.signatures = 0

        def counted(*args: Any) -> bool:
            self.signatures += 1
            return verify_signature(*args)

        self.patch(registry_tokens, "verify_signature", counted)

    def test_remembered(self) -> None:
        """A thousand requests cost one signature, until the token ends; a bad token costs one each time."""
        good = self.good()
        for _ in range(1000):
            self.admitted(self.auth, good)
        self.assertEqual(self.signatures, 1)
        self.now += 361
        self.invalid(good)
        bad = "Bearer " + token(OTHER, {"kid": KID})
        for _ in range(2):
            self.invalid(bad)
        self.assertEqual(self.signatures, 3)

    def test_bounded(self) -> None:
        """The token that was used longest ago is forgotten first, and none is kept as it is."""
        self.auth._verified.capacity = 2
        first, second, third = (self.good(jti=str(number)) for number in range(3))
        for shown in (first, second, first, third, first, second):
            self.admitted(self.auth, shown)
        self.assertEqual((self.signatures, len(self.auth._verified)), (4, 2))
        self.assertNotIn(first[7:], repr(vars(self.auth)) + repr(vars(self.auth._verified)))

    def test_changed_files(self) -> None:
        """A changed file counts within a second, and nothing that was verified with the old keys does."""
        good = self.good()
        self.admitted(self.auth, good)
        self.bundle.write_bytes(pem(certificate(OTHER)))
        self.clock.advance(1.0)
        self.invalid(good)
        self.admitted(self.auth, "Bearer " + token(OTHER, {"kid": libtrust_fingerprint(OTHER.public_key())}))

    def test_broken_file(self) -> None:
        """A file that has become unusable or is gone leaves the old keys in place."""
        self.bundle.write_bytes(b"rubbish")
        self.clock.advance(1.0)
        self.admitted(self.auth, self.good())
        self.bundle.unlink()
        self.clock.advance(1.0)
        self.admitted(self.auth, self.good())


class HostileTests(TokenCase):
    """Whatever comes, the answer is no, and never a defect."""

    @bounds(deadline=None, max_examples=150)
    @given(st.text(max_size=60) | st.from_regex(r"Bearer [A-Za-z0-9_=-]*(\.[A-Za-z0-9_=é-]*){2}"))
    def test_any_header(self, authorization: str) -> None:
        """Any text is refused."""
        self.refused(self.auth, authorization)
