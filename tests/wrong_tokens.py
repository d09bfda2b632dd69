"""
Tokens of signed URLs that nobody may accept, each wrong in one way: :data:`WRONG`.

Some hold spaces, NULs or letters beyond ASCII: percent-encode them before they go into a URL.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Final

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.hashes import SHA256, SHA384

from tests.forging import (
    ORDER,
    Make,
    as_json,
    beyond,
    entry,
    halves,
    headed,
    header,
    hs256,
    loose,
    more,
    moved,
    only,
    other_alphabet,
    part,
    payload,
    payload_of,
    pem,
    pss,
    saying,
    signature,
    signed,
    spelt,
    swapped,
    tail,
    without,
)
from tests.signer import Signer, b64, elliptic, es256, rs256

ALGORITHMS: Final[Mapping[str, Make]] = {
    **{f"alg {alg!r}, unsigned": signed(lambda *_: b"", alg=alg) for alg in ("none", "None", "NONE", "")},
    "alg none, well signed": headed(alg="none"),
    "alg missing": lambda at: at.token({"typ": "JWT", "kid": "es"}),
    **{
        f"alg {alg!r}": headed(alg=alg)
        for alg in (None, 256, True, ["ES256"], {"alg": "ES256"}, "es256", "ES256 ", "ES256\0", "ES256K")
    },
    "HS256 with the key's PEM": hs256(lambda at: pem(at.keys.es.public_key())),
    "HS256 with the JWK's bytes": hs256(
        lambda at: json.dumps(elliptic(at.keys.es.public_key(), "es")).encode()
    ),
    "HS256 with the set's bytes": hs256(Signer.jwks),
    "HS256 with Ed25519's bytes": hs256(lambda at: at.keys.ed.public_key().public_bytes_raw(), "ed"),
    "HS256 with an empty secret": hs256(lambda _: b""),
    "a key for ES256, RS256, by RSA": signed(Signer.by_rs, alg="RS256"),
    "a key for ES256, RS256": headed(alg="RS256"),
    "a key for ES256, EdDSA": headed(alg="EdDSA"),
    "a key for ES256, EdDSA, by Ed25519": signed(Signer.by_ed, alg="EdDSA"),
    "a key for RS256, ES256": headed(kid="rs"),
    "a key for RS256, ES256, by RSA": signed(Signer.by_rs, kid="rs"),
    "a key for EdDSA, ES256, by Ed25519": signed(Signer.by_ed, kid="ed"),
    "ES384": signed(lambda at, s: es256(s, at.keys.p384, SHA384(), 48), alg="ES384", kid="p384"),
    "ES256 with P-384": signed(lambda at, s: es256(s, at.keys.p384, None, 48), kid="p384"),
    "PS256": signed(pss, alg="PS256", kid="rs"),
    "PS256, called RS256": signed(pss, alg="RS256", kid="rs"),
    "RS512": signed(Signer.by_rs, alg="RS512", kid="rs"),
}

_HINTS: Final[Mapping[str, object]] = {
    "jku": "http://127.0.0.1:9/jwks.json",
    "x5u": "http://127.0.0.1:9/chain.pem",
    "x5c": ["MIIB"],
    "x5t": "AAAA",
    "x5t#S256": "AAAA",
    "crit": ["exp"],
    "cty": "JWT",
    "zip": "DEF",
    "enc": "A256GCM",
    "b64": True,
}

HEADERS: Final[Mapping[str, Make]] = {
    "kid missing": lambda at: at.token({"typ": "JWT", "alg": "ES256"}),
    **{
        f"kid {kid!r}": headed(kid=kid)
        for kid in (None, 7, True, "", ["es"], {"kid": "es"}, "es\0", "es\n", "ES", "../es", "unknown")
    },
    "kid overlong": headed(kid="e" * 1000),
    "kid that is there twice, first": signed(lambda at, s: es256(s, at.keys.first), kid="twice"),
    "kid that is there twice, second": signed(lambda at, s: es256(s, at.keys.second), kid="twice"),
    **{f"{name} in the header": headed(**{name: value}) for name, value in _HINTS.items()},
    "jwk in the header": lambda at: at.token(at.header(jwk=elliptic(at.keys.es.public_key(), "es"))),
    "jwk of a stranger": lambda at: at.token(
        at.header(jwk=elliptic(at.keys.stranger.public_key(), "es")),
        sign=lambda content: es256(content, at.keys.stranger),
    ),
    "crit empty": headed(crit=[]),
    **{f"typ {typ!r}": headed(typ=typ) for typ in ("JWE", "at+jwt", "", None, 7, ["JWT"])},
}

SIGNATURES: Final[Mapping[str, Make]] = {
    "no signature": signature(lambda _: b""),
    "no third part": lambda at: at.token().rpartition(".")[0],
    "signature truncated": signature(lambda good: good[:-1]),
    "signature with a byte more": signature(lambda good: good + b"\0"),
    "signature with a flipped bit": signature(lambda good: good[:-1] + bytes([good[-1] ^ 1])),
    "signature of zeroes": signature(lambda _: bytes(64)),
    "signature of zeroes, EdDSA": signed(lambda *_: bytes(64), alg="EdDSA", kid="ed"),
    "signature of zeroes, RS256": signed(lambda *_: bytes(256), alg="RS256", kid="rs"),
    "signature of ones": signature(lambda _: (1).to_bytes(32, "big") * 2),
    "signature of the order": signature(lambda _: ORDER.to_bytes(32, "big") * 2),
    "signature with s beyond the order": signature(beyond),
    "signature with s and r swapped": signature(lambda good: good[32:] + good[:32]),
    "signature in DER": signed(lambda at, content: at.keys.es.sign(content, ec.ECDSA(SHA256()))),
    "signature of SHA-384": signed(lambda at, content: es256(content, at.keys.es, SHA384())),
    "signed by a stranger": signed(lambda at, content: es256(content, at.keys.stranger)),
    "signed by a stranger, EdDSA": signed(lambda at, s: at.keys.strange_ed.sign(s), alg="EdDSA", kid="ed"),
    "signed by a stranger, RS256": signed(lambda at, s: rs256(s, at.keys.strange_rs), alg="RS256", kid="rs"),
    "only the payload is signed": signed(lambda at, content: at.by_es(content.partition(b".")[2])),
    "payload swapped": swapped,
    "header changed": part(0, lambda _: b64(b'{"alg":"ES256","kid":"es","more":1}')),
}

_TIMES: Final = (None, True, False, "1700000000", "now", [1], {"x": 1}, -1)
_TYPES: Final[Mapping[str, tuple[object, ...]]] = {
    **{name: (None, True, 7, ["x"], {"x": 1}) for name in ("iss", "sub", "digest")},
    **dict.fromkeys(("iat", "nbf", "exp"), _TIMES),
    "aud": (None, True, 7, {"contentcache": 1}, [], [7], ["contentcache", 7], [["contentcache"]]),
    "access": (None, True, 7, "pull", [], {}, ["pull"], [7], [None], [[]], [{}]),
}

CLAIMS: Final[Mapping[str, Make]] = {
    **{f"{name} missing": without(name) for name in _TYPES},
    **{
        f"{name} is {value!r}": saying(**{name: value}) for name, values in _TYPES.items() for value in values
    },
    **{
        f"aud {aud!r}": saying(aud=aud)
        for aud in ("", "other", "ContentCache", "contentcache ", "contentcache,x", "https://contentcache")
    },
    "aud a list without us": saying(aud=["registry", "contentcaches"]),
    "iss of another": saying(iss="https://another.example.com"),
    "iss empty": saying(iss=""),
    "iss with more behind it": lambda at: at.saying(iss=at.issuer + ".example.net"),
    "iss with a path": lambda at: at.saying(iss=at.issuer + "/path"),
    "iss of another scheme": lambda at: at.saying(iss="ftp" + at.issuer[at.issuer.index("://") :]),
    "iss with an account": lambda at: at.saying(iss=at.issuer.replace("://", "://x@", 1)),
    "digest of another": saying(digest="sha256:" + hashlib.sha256(b"another").hexdigest()),
    "digest of another algorithm": saying(digest="sha512:" + hashlib.sha512(b"another").hexdigest()),
    "digest in upper case": lambda at: at.saying(digest=at.digest.upper()),
    "digest with upper-case digits": lambda at: at.saying(digest=at.digest[:7] + at.digest[7:].upper()),
    "digest without algorithm": lambda at: at.saying(digest=at.digest.partition(":")[2]),
    "digest cut": lambda at: at.saying(digest=at.digest[:-1]),
    "digest empty": saying(digest=""),
    "digest with a space": lambda at: at.saying(digest=at.digest + " "),
}

TIMES: Final[Mapping[str, Make]] = {
    "expired": moved(-700, -700, -100),
    "expired, just beyond the leeway": moved(-700, -700, -60.5),
    "not yet": moved(0, 120, 600),
    "issued in the future": moved(120, 0, 600),
    "issued and good in the future": moved(3000, 3000, 3600),
    "one hour and a second": moved(0, 0, 3601),
    "one hour and a bit": moved(0, 0, 3600.5),
    "a year": moved(0, 0, 365 * 86400),
    "issued long ago, good now": moved(-4000, 0, 600),
    "ends when it is issued": moved(0, 0, 0),
    "ends before it is issued": moved(0, -10, -5),
    "ends before it begins": moved(0, 50, 30),
    "exp without end": saying(exp=10**50),
    "all times nought": saying(iat=0, nbf=0, exp=0),
    "milliseconds": lambda at: at.saying(**dict.fromkeys(("iat", "nbf", "exp"), int(at.now) * 1000)),
}

_NO_KINDS: Final = (None, 7, ["repository"], "", "registry", "Repository", "repository(plugin)")
_NO_NAMES: Final[tuple[object, ...]] = (None, 7, {}, "", "*", "**", "another/name")
_NO_ACTIONS: Final[tuple[object, ...]] = (
    *(None, 7, "pull", {"pull": True}, []),
    *(["push"], ["*"], ["PULL"], ["pull,push"], ["push", "delete"], [7, "pull"], [["pull"]]),
)

ACCESS: Final[Mapping[str, Make]] = {
    "access a mapping in place of a list": lambda at: at.saying(access=at.claims()["access"][0]),
    "access a list in a list": lambda at: at.saying(access=[at.claims()["access"]]),
    **{f"access to a {kind!r}": entry(type=kind) for kind in _NO_KINDS},
    **{f"access to the name {name!r}": entry(name=name) for name in _NO_NAMES},
    **{f"access for the actions {actions!r}": entry(actions=actions) for actions in _NO_ACTIONS},
    "access without type": lambda at: at.saying(access=[{"name": at.repository, "actions": ["pull"]}]),
    "access without name": saying(access=[{"type": "repository", "actions": ["pull"]}]),
    "access without actions": lambda at: at.saying(access=[{"type": "repository", "name": at.repository}]),
    "access to a list of names": lambda at: entry(name=[at.repository])(at),
    "access to a prefix of the name": lambda at: entry(name=at.repository[:-1])(at),
    "access to a longer name": lambda at: entry(name=at.repository + "/more")(at),
    "access to the name in upper case": lambda at: entry(name=at.repository.upper())(at),
    "access to the name with a slash": lambda at: entry(name=at.repository + "/")(at),
    "access in halves": halves,
    "access with an entry that is none": lambda at: at.saying(access=[*at.claims()["access"], "pull"]),
}

ENCODINGS: Final[Mapping[str, Make]] = {
    "trailing bits of the signature": part(2, tail),
    "trailing bits of the header, signed": spelt("header", loose),
    "trailing bits of the payload, signed": spelt("payload", loose),
    "padding": lambda at: at.token() + "==",
    "padding in the payload, signed": spelt("payload", lambda document: b64(document) + "="),
    "a lone letter of base64, signed": spelt("payload", lambda _: "A"),
    "the other alphabet, signed": spelt("payload", other_alphabet),
    "a space before it": lambda at: " " + at.token(),
    "a line's end behind it": lambda at: at.token() + "\n",
    "a line's end within": lambda at: at.token().replace(".", ".\n", 1),
    "a NUL behind it": lambda at: at.token() + "\0",
    "a NUL within": lambda at: at.token().replace(".", ".\0", 1),
    "beyond ASCII": lambda at: at.token() + "é",
    "a full-width letter": part(1, lambda text: chr(ord(text[0]) + 0xFEE0) + text[1:]),
    "percent-encoded once more": lambda at: at.token().replace(".", "%2E"),
    "Bearer before it": lambda at: "Bearer " + at.token(),
    "quotes around it": lambda at: f'"{at.token()}"',
    "UTF-16": payload(lambda text: text.encode("utf-16")),
    "UTF-16 without a mark": payload(lambda text: text.encode("utf-16-le")),
    "UTF-32": payload(lambda text: text.encode("utf-32-be")),
    "Latin-1": payload(lambda text: text.replace("jane", "jané").encode("latin-1")),
    "a byte order mark": payload(lambda text: b"\xef\xbb\xbf" + text.encode()),
}

FORMS: Final[Mapping[str, Make]] = {
    "empty": lambda _: "",
    **{
        f"only {text!r}": only(text)
        for text in (".", "..", "...", "a.b.c", "e30.e30.e30", "null", "e30.e30.")
    },
    "four parts": lambda at: at.token() + ".AA",
    "five parts": lambda _: b64(b'{"alg":"ECDH-ES","enc":"A256GCM","kid":"es"}') + ".AA.AA.AA.AA",
    "an empty part before it": lambda at: "." + at.token(),
    "JSON form": as_json,
    "a token in a token": lambda at: payload(lambda _: at.token().encode())(at),
    "a token in a token, as JSON": lambda at: payload(lambda _: json.dumps(at.token()).encode())(at),
    "oversized": saying(more="x" * 9000),
    "oversized signature": lambda at: at.token() + "A" * 9000,
    "nested deep": more('"more": ' + "[" * 2000 + "]" * 2000),
    "nested deep, without end": payload(lambda _: b"[" * 4000),
    "nested deep in the header": header(b'{"a":' * 700),
    "not a number": more('"more": NaN'),
    "infinity": more('"more": -Infinity'),
    "a float beyond all bounds": more('"more": 1e999'),
    "an integer beyond all bounds": more('"more": 1' + "0" * 5000),
    **{f"exp {word}": saying(exp=float(word)) for word in ("nan", "inf", "-inf")},
    "half of a surrogate pair": more(r'"more": "\ud800"'),
    "a claim twice": more('"sub": "john"'),
    "a member of an entry twice": payload(
        lambda text: text.replace('"type"', '"name": "x", "type"').encode()
    ),
    "alg twice": header(b'{"alg": "none", "alg": "ES256", "kid": "es"}'),
    "kid twice": header(b'{"alg": "ES256", "kid": "ed", "kid": "es"}'),
    "kid twice, once in escapes": header(rb'{"alg": "ES256", "k\u0069d": "ed", "kid": "es"}'),
    "more behind the payload": payload(lambda text: text.encode() + b"{}"),
    "a NUL behind the payload": payload(lambda text: text.encode() + b"\0"),
    "a comment": payload(lambda text: text.replace("{", "{/**/", 1).encode()),
    "single quotes": payload(lambda text: text.replace('"', "'").encode()),
    **{
        f"payload {content!r}": payload_of(content)
        for content in (b"", b"null", b"true", b"7", b"[]", b"{", b'"x"', b"\xff", b"{}")
    },
    **{
        f"header {content!r}": header(content)
        for content in (b"", b"null", b"7", b"[]", b"{", b'"x"', b"\xff", b"{}")
    },
}

#: What is wrong, and how to make it.
WRONG: Final[Mapping[str, Make]] = {
    **ALGORITHMS,
    **HEADERS,
    **SIGNATURES,
    **CLAIMS,
    **TIMES,
    **ACCESS,
    **ENCODINGS,
    **FORMS,
}
