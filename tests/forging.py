"""Ways to make a token wrong."""

from __future__ import annotations

import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec, padding
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.signer import Json, Signer, b64

Make = Callable[[Signer], str]

#: The order of P-256's group (FIPS 186-4 §D.1.2.3).
ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551


def saying(**claims: object) -> Make:
    """Well signed, with other claims."""
    return lambda at: at.saying(**claims)


def headed(**members: object) -> Make:
    """Well signed, with another header."""
    return lambda at: at.token(at.header(**members))


def entry(**members: object) -> Make:
    """Well signed, with another entry in ``access``."""
    return lambda at: at.saying(access=[{**at.claims()["access"][0], **members}])


def moved(iat: float, nbf: float, exp: float) -> Make:
    """Well signed, with times so many seconds from now."""
    return lambda at: at.saying(iat=at.now + iat, nbf=at.now + nbf, exp=at.now + exp)


def signed(sign: Callable[[Signer, bytes], bytes], **members: object) -> Make:
    """Signed in another way."""
    return lambda at: at.token(at.header(**members), sign=lambda content: sign(at, content))


def signature(change: Callable[[bytes], bytes]) -> Make:
    """A good token with another signature."""
    return signed(lambda at, content: change(at.by_es(content)))


def hs256(secret: Callable[[Signer], bytes], kid: str = "es") -> Make:
    """Signed with what everybody knows, as if it were a shared secret (RFC 8725 §2.1)."""
    return signed(
        lambda at, content: hmac.new(secret(at), content, hashlib.sha256).digest(), alg="HS256", kid=kid
    )


def only(text: str) -> Make:
    """Whoever asks, this."""
    return lambda _: text


def without(claim: str) -> Make:
    """Well signed, but a claim is missing."""
    return lambda at: at.without(claim)


def part(index: int, change: Callable[[str], str]) -> Make:
    """A good token of which one part is changed after it was signed."""

    def make(at: Signer) -> str:
        parts = at.token().split(".")
        parts[index] = change(parts[index])
        return ".".join(parts)

    return make


def payload(change: Callable[[str], bytes]) -> Make:
    """Well signed, with other bytes in the payload."""
    return lambda at: at.raw(json.dumps(at.header()).encode(), change(json.dumps(at.claims())))


def more(text: str) -> Make:
    """Well signed, with one more claim in front, ``text`` of JSON."""
    return payload(lambda claims: ("{" + text + ", " + claims[1:]).encode())


def payload_of(content: bytes) -> Make:
    """Well signed, with these bytes as payload."""
    return payload(lambda _: content)


def header(content: bytes) -> Make:
    """Well signed, with other bytes in the header."""
    return lambda at: at.raw(content, json.dumps(at.claims()).encode())


def spelt(name: str, change: Callable[[bytes], str]) -> Make:
    """Well signed, with the header or the payload spelt in another way."""

    def make(at: Signer) -> str:
        def text(which: str, content: Json) -> str:
            return (change if which == name else b64)(json.dumps(content).encode())

        return at.spelt(text("header", at.header()), text("payload", at.claims()))

    return make


def tail(text: str) -> str:
    """The same base64url in another spelling: a bit of the last letter that means nothing is set."""
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    assert len(text) % 4 in {2, 3}, "this one has a single spelling"
    return text[:-1] + alphabet[alphabet.index(text[-1]) | 1]


def loose(document: bytes) -> str:
    """A JSON text in the second spelling that base64url has for it."""
    return tail(b64(document + b" " * (len(document) % 3 == 0)))


def other_alphabet(document: bytes) -> str:
    """A JSON object in the other alphabet of base64."""
    text = b64(b'{"more":"???>>>~~~???>>>~~~", ' + document[1:])
    assert "-" in text or "_" in text
    return text.replace("-", "+").replace("_", "/")


def pem(public: ec.EllipticCurvePublicKey) -> bytes:
    """A key as files have it."""
    return public.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


def beyond(good: bytes) -> bytes:
    """s and the group's order in sum: congruent, and too large."""
    return b"\0" + good[:32] + (int.from_bytes(good[32:], "big") + ORDER).to_bytes(33, "big")


def pss(at: Signer, content: bytes) -> bytes:
    """RSA's other signature."""
    return at.keys.rs.sign(content, padding.PSS(padding.MGF1(SHA256()), 32), SHA256())


def swapped(at: Signer) -> str:
    """The payload of one token under the signature of another."""
    parts = at.saying(sub="john").split(".")
    return ".".join((parts[0], at.token().split(".")[1], parts[2]))


def as_json(at: Signer) -> str:
    """The JSON form (RFC 7515 §7.2.2)."""
    parts = at.token().split(".")
    return json.dumps({"protected": parts[0], "payload": parts[1], "signature": parts[2]})


def halves(at: Signer) -> str:
    """The name in one entry, the action in another."""
    good = at.claims()["access"][0]
    return at.saying(access=[{**good, "actions": ["push"]}, {**good, "name": at.repository + "x"}])
