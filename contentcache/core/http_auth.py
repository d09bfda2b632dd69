"""
HTTP authentication: ``Authorization``, ``Proxy-Authorization`` (RFC 9110 §11.4, RFC 7617) and ``WWW-Authenticate``.

Challenges have the grammar of RFC 9110 §11.6.1, parsed with the leniency that registries need: values without
quotes may have any visible character, and what is malformed is skipped to the next comma. Every pattern of it is
possessive and every length bounded, so the time is linear in the input.
"""

from __future__ import annotations

import re
from base64 import b64decode, b64encode
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType
from typing import Final

from attrs import field, frozen

#: No client sends longer credentials: the longest are tokens with a certificate chain or with many groups.
MAX_CREDENTIALS: Final = 16 << 10


def credentials_for(scheme: str, authorization: str | None) -> str | None:
    """
    What follows ``scheme`` in a header's value; ``None`` for another scheme, or for nothing after it.

    >>> credentials_for("Bearer", "bearer  abc"), credentials_for("Bearer", "Basic eDp5")
    ('abc', None)
    """
    given, _, rest = (authorization or "").partition(" ")
    rest = rest.strip(" ")
    return rest if rest and given.lower() == scheme.lower() else None


def encode_basic(username: bytes, password: bytes) -> str:
    """
    A user name and a password as a header's value.

    >>> encode_basic(b"alice", b"a:b")
    'Basic YWxpY2U6YTpi'
    """
    return "Basic " + b64encode(username + b":" + password).decode("ascii")


def decode_basic(credentials: str) -> tuple[bytes, bytes] | None:
    """
    The user name and the password in what follows ``Basic``; ``None`` where it is not padded base64 of them.

    Their charset is not known (RFC 7617 §2).

    >>> decode_basic("YWxpY2U6YTpi"), decode_basic("YQ==")
    ((b'alice', b'a:b'), None)
    """
    try:
        username, colon, password = b64decode(credentials, validate=True).partition(b":")
    except ValueError:  # binascii.Error, and characters beyond ASCII
        return None
    return (username, password) if colon else None


MOST_CHARACTERS = 16 << 10
MOST_CHALLENGES = 16
MOST_PARAMETERS = 32

_WORD = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]++"
_SEPARATORS = re.compile(r"[ \t,]*+")
_PARAMETER = re.compile(
    rf"(?P<name>{_WORD})[ \t]*+=[ \t]*+"
    r'(?:"(?P<quoted>(?:[^"\\]++|\\.)*+)(?:"|\\?\Z)|(?P<plain>[^\s",=][^\s",]*+))',
    re.DOTALL,
)
_SCHEME = re.compile(rf"(?P<scheme>{_WORD})(?:(?P<space>[ \t]++)|(?=,|\Z))")
_TOKEN68 = re.compile(r"(?P<token68>[A-Za-z0-9\-._~+/]++=*+)[ \t]*+(?=,|\Z)")
_RUBBISH = re.compile(r'(?:[^,"]++|"(?:[^"\\]++|\\.)*+(?:"|\\?\Z))++|,', re.DOTALL)
_ESCAPED = re.compile(r"\\(.)", re.DOTALL)


@frozen
class Challenge:
    """
    One challenge: ``scheme`` and the names of ``parameters`` are in lower case.

    Where a parameter is given twice the first one counts. ``token68`` is what stands in place
    of parameters in schemes like ``Negotiate``.
    """

    scheme: str
    parameters: Mapping[str, str] = field(factory=lambda: MappingProxyType({}))
    token68: str | None = None


def parse_challenges(values: Sequence[str]) -> list[Challenge]:
    """
    Every challenge in the values of ``WWW-Authenticate``, one value a header line.

    Never raises: what cannot be understood is left out, as is what exceeds the bounds above.

    >>> [first, second] = parse_challenges(['Bearer realm="https://a/t",service="a, b", Basic realm=x'])
    >>> first.scheme, first.parameters["service"], second.scheme, second.parameters["realm"]
    ('bearer', 'a, b', 'basic', 'x')
    >>> parse_challenges(["Negotiate YWJj=="])[0].token68
    'YWJj=='
    """
    found: list[Challenge] = []
    left = MOST_CHARACTERS
    for value in values:
        if left <= 0:
            break
        for challenge in _challenges(value[:left]):
            if len(found) == MOST_CHALLENGES:
                return found
            found.append(challenge)
        left -= len(value)
    return found


def _challenges(text: str) -> Iterator[Challenge]:
    """The challenges of one header line."""
    scheme: str | None = None
    parameters: dict[str, str] = {}
    token68: str | None = None
    position = 0
    while True:
        before, position = position, _past(_SEPARATORS, text, position)
        if position == len(text):
            break
        separated = before == 0 or "," in text[before:position]
        if parameter := _PARAMETER.match(text, position):
            position = parameter.end()
            if scheme is not None and len(parameters) < MOST_PARAMETERS:
                parameters.setdefault(parameter["name"].lower(), _value(parameter))
        elif separated and (word := _SCHEME.match(text, position)):
            if scheme is not None:
                yield Challenge(scheme, MappingProxyType(parameters), token68)
            scheme, parameters, token68 = word["scheme"].lower(), {}, None
            position = word.end()
            if word["space"] and (bare := _TOKEN68.match(text, position)):
                token68, position = bare["token68"], bare.end()
        else:
            position = _past(_RUBBISH, text, position)
    if scheme is not None:
        yield Challenge(scheme, MappingProxyType(parameters), token68)


def _value(parameter: re.Match[str]) -> str:
    """A parameter's value without its quotes and escapes."""
    quoted = parameter["quoted"]
    return parameter["plain"] if quoted is None else _ESCAPED.sub(r"\1", quoted)


def _past(pattern: re.Pattern[str], text: str, position: int) -> int:
    """Where ``pattern`` ends that begins at ``position``; always further on for ``_RUBBISH``."""
    match = pattern.match(text, position)
    return match.end() if match else position + 1
