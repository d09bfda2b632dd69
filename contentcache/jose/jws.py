"""
JSON Web Signatures (RFC 7515): the compact form parsed strictly, the flattened form written.

A second spelling of the same base64url is an error, as is ambiguous JSON. Parsing verifies no signature.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Set
from typing import Final, cast

from attrs import field, frozen

from contentcache.core.base64url import base64url_encode, lenient_base64url_decode
from contentcache.jose.jwa import PrivateKey, make_signature
from contentcache.jose.strict_json import InvalidJSONError, parse_json

#: Header parameters that change what is signed, or nest tokens
#: (RFC 7515 §4.1.11, RFC 7516 §4.1, RFC 7519 §5.2, RFC 7797 §3).
UNSUPPORTED_PARAMETERS: Final = frozenset({"b64", "crit", "cty", "enc", "zip"})

_PARTS: Final = 3
_BASE64URL = re.compile(r"[A-Za-z0-9_-]*", re.ASCII)


class InvalidJWSError(ValueError):
    """A text is not a JWS. The message is a predicate for it ("is not base64url") that quotes nothing."""


@frozen
class CompactJWS:
    """A well-formed JWS of which nothing is verified."""

    header: Mapping[str, object] = field(repr=False)
    payload: bytes = field(repr=False)
    signing_input: bytes = field(repr=False)
    signature: bytes = field(repr=False)

    def claims(self) -> Mapping[str, object]:
        """
        The payload of a JWT (RFC 7519 §3).

        :raises InvalidJWSError: it is not a JSON object.
        """
        return _json_object(self.payload, "payload")


def parse_compact(text: str, *, max_length: int) -> CompactJWS:
    """
    Parse the compact form (RFC 7515 §7.1).

    :raises InvalidJWSError: longer than ``max_length`` characters, not three parts of base64url, or a header
        that is not a JSON object.
    """
    if len(text) > max_length:
        raise InvalidJWSError(f"is longer than {max_length} characters")
    parts = text.split(".")
    if len(parts) != _PARTS:
        raise InvalidJWSError("does not have three parts")
    header, payload, signature = (base64url_decode(part) for part in parts)
    return CompactJWS(
        header=_json_object(header, "header"),
        payload=payload,
        signing_input=text.rpartition(".")[0].encode("ascii"),
        signature=signature,
    )


def check_header(header: Mapping[str, object], refused: Set[str]) -> None:
    """
    Check that a header has none of the ``refused`` parameters.

    :raises InvalidJWSError: it has one.
    """
    if found := sorted(refused & header.keys()):
        raise InvalidJWSError(f"has the header parameter {found[0]!r}, which is not supported here")


def flattened(header: Mapping[str, object], payload: bytes, key: PrivateKey | bytes) -> dict[str, str]:
    """Sign ``payload`` and give the members of the flattened form (RFC 7515 §7.2.2); ``header`` names ``alg``."""
    protected, content = base64url_encode(compact_json(header)), base64url_encode(payload)
    signature = make_signature(str(header["alg"]), key, f"{protected}.{content}".encode("ascii"))
    return {"protected": protected, "payload": content, "signature": base64url_encode(signature)}


def base64url_decode(text: str) -> bytes:
    """
    Decode base64url without padding (RFC 7515 §2), and only the shortest spelling of each value.

    :raises InvalidJWSError: all others.

    >>> base64url_decode("_w"), base64url_decode("")
    (b'\\xff', b'')
    >>> base64url_decode("_x")
    Traceback (most recent call last):
    ...
    contentcache.jose.jws.InvalidJWSError: is not base64url in its shortest spelling
    """
    if _BASE64URL.fullmatch(text) and len(text) % 4 != 1:
        content = lenient_base64url_decode(text)
        if base64url_encode(content) == text:
            return content
    raise InvalidJWSError("is not base64url in its shortest spelling")


def compact_json(value: object, *, sort_keys: bool = False) -> bytes:
    """JSON in ASCII without white space."""
    return json.dumps(value, sort_keys=sort_keys, separators=(",", ":")).encode("ascii")


def _json_object(document: bytes, name: str) -> Mapping[str, object]:
    try:
        value = parse_json(document)
    except InvalidJSONError as error:
        raise InvalidJWSError(f"has a {name} that {error}") from None
    if not isinstance(value, dict):
        raise InvalidJWSError(f"has a {name} that is not a JSON object")
    return cast("dict[str, object]", value)
