"""Tests for :mod:`contentcache.jose.jwk`."""

from __future__ import annotations

import contextlib
import json
from typing import Any

from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.base64url import base64url_encode
from contentcache.jose.jwa import PublicKey
from contentcache.jose.jwk import (
    InvalidJWKError,
    derived_kids,
    libtrust_fingerprint,
    parse_public_key,
    public_members,
    thumbprint,
)
from contentcache.jose.jws import base64url_decode
from contentcache.jose.keyset import encode_jwk, parse_key_set
from tests.signer import keys, number

#: The examples of RFC 7517 §A.1, RFC 7638 §3.1 and RFC 8037 §A.2, the public halves.
EC_EXAMPLE = {
    "kty": "EC",
    "crv": "P-256",
    "x": "MKBCTNIcKUSDii11ySs3526iDZ8AiTo7Tu6KPAqv7D4",
    "y": "4Etl6SRW2YiLUrN5vfvVHuhp7x8PxltmWWlbbM4IFyM",
}
RSA_EXAMPLE = {
    "kty": "RSA",
    "n": "0vx7agoebGcQSuuPiLJXZptN9nndrQmbXEps2aiAFbWhM78LhWx4cbbfAAtVT86zwu1RK7aPFFxuhDR1L6tSoc_BJECPebWK"
    "RXjBZCiFV4n3oknjhMstn64tZ_2W-5JsGY4Hc5n9yBXArwl93lqt7_RN5w6Cf0h4QyQ5v-65YGjQR0_FDW2QvzqY368QQMicA"
    "taSqzs8KJZgnYb9c7d0zgdAZHzu6qMQvRL5hajrn1n91CbOpbISD08qNLyrdkt-bFTWhAI4vMQFh6WeZu0fM4lFd2NcRwr3XP"
    "ksINHaQ-G_xBniIqbw0Ls1jF44-csFCur-kEgU8awapJzKnqDKgw",
    "e": "AQAB",
}
OKP_EXAMPLE = {"kty": "OKP", "crv": "Ed25519", "x": "11qYAYKxCrfVS_7TyWQHOg7hcvPapiMlrwIaaPcHURo"}


def document(*entries: object) -> bytes:
    """A JWK set."""
    return json.dumps({"keys": entries}).encode()


def short_point() -> ec.EllipticCurvePublicKey:
    """A public key with a coordinate that begins with a zero byte."""
    for scalar in range(1, 600):
        public = ec.derive_private_key(scalar, ec.SECP256R1()).public_key()
        point = public.public_numbers()
        if not (point.x >> 248 and point.y >> 248):
            return public
    raise AssertionError


class ParseTests(SynchronousTestCase):
    """Public keys from JWKs."""

    def test_every_type(self) -> None:
        """A key of each type and curve is parsed as it was written."""
        publics: list[PublicKey] = [
            *(ec.generate_private_key(curve()).public_key() for curve in (ec.SECP256R1, ec.SECP384R1)),
            ec.generate_private_key(ec.SECP521R1()).public_key(),
            ed25519.Ed25519PrivateKey.generate().public_key(),
            keys().rs.public_key(),
        ]
        for public in publics:
            self.assertEqual(parse_public_key(public_members(public)), public)

    def test_curves(self) -> None:
        """A curve that the caller does not allow is an error that names those that are."""
        members = public_members(keys().p384.public_key())
        error = self.assertRaises(InvalidJWKError, parse_public_key, members, curves=("P-256", "Ed25519"))
        self.assertEqual(str(error), "'crv' is 'P-384', not 'P-256'")
        swapped = {**members, "kty": "OKP"}
        self.assertRaises(InvalidJWKError, parse_public_key, swapped)

    def test_unpadded(self) -> None:
        """Coordinates without leading zeros are accepted where the caller says so, and nowhere else."""
        public = short_point()
        members = {
            name: base64url_encode(base64url_decode(value).lstrip(b"\0")) if name in {"x", "y"} else value
            for name, value in public_members(public).items()
        }
        self.assertRaises(InvalidJWKError, parse_public_key, members)
        self.assertEqual(parse_public_key(members, unpadded=True), public)
        longer = {**members, "x": base64url_encode(bytes(33))}
        self.assertRaises(InvalidJWKError, parse_public_key, longer, unpadded=True)

    @settings(deadline=None)
    @given(st.data())
    def test_any_members(self, data: st.DataObject) -> None:
        """Any values in the members are a key or one kind of error."""
        value = st.none() | st.integers() | st.text(max_size=44) | st.just("AQAB") | st.lists(st.none())
        example: dict[str, Any] = data.draw(st.sampled_from([EC_EXAMPLE, RSA_EXAMPLE, OKP_EXAMPLE]))
        changes = data.draw(st.dictionaries(st.sampled_from([*example, "kty", "crv"]), value))
        for unpadded in (False, True):
            with contextlib.suppress(InvalidJWKError):
                parse_public_key({**example, **changes}, unpadded=unpadded)


class NameTests(SynchronousTestCase):
    """The names that follow from a key."""

    def test_thumbprint(self) -> None:
        """The RFCs' own examples."""
        for example, expected in (
            (RSA_EXAMPLE, "NzbLsXh8uDCcd-6MNwXF4W_7noWXFZAfHkxZsRGC9Xs"),
            (OKP_EXAMPLE, "kPrK_qmxVWaYVA9wwBF6Iuo3vVzz7TxHCTwXBygrS4k"),
            (EC_EXAMPLE, "cn-I_WNMClehiVp51i_0VpOENW1upEerA8sEam5hn-s"),
        ):
            found = parse_key_set(
                document(
                    {
                        **example,
                        "kid": "a",
                        "alg": {"EC": "ES256", "RSA": "RS256", "OKP": "EdDSA"}[example["kty"]],
                    }
                )
            )
            self.assertEqual(thumbprint(found.find("a").public), expected)

    def test_derived_kids(self) -> None:
        """A key has libtrust's fingerprint and its thumbprint; one with a short coordinate a third name."""
        public = keys().rs.public_key()
        self.assertEqual(derived_kids(public), (libtrust_fingerprint(public), thumbprint(public)))
        short = derived_kids(short_point())
        self.assertEqual((len(short), short[1]), (3, thumbprint(short_point())))
        self.assertRegex(short[0], r"\A([A-Z2-7]{4}:){11}[A-Z2-7]{4}\Z")

    def test_noughts_at_the_front(self) -> None:
        """Coordinates have 32 bytes each, even where the first ones are nought (RFC 7518 §6.2.1.2)."""
        # Scalars whose points have a coordinate that begins with a zero byte.
        found = 0
        for scalar in range(1, 600):
            public = ec.derive_private_key(scalar, ec.SECP256R1()).public_key()
            point = public.public_numbers()
            if point.x >> 248 and point.y >> 248:
                continue
            found += 1
            jwk = encode_jwk(public, "a")
            self.assertEqual(
                {name: jwk[name] for name in ("x", "y")},
                {
                    "x": number(point.x, 32),
                    "y": number(point.y, 32),
                },
            )
            self.assertEqual(parse_key_set(document(jwk)).find("a").public, public)
        self.assertGreater(found, 0)
