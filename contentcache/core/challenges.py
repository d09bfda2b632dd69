"""
What ``WWW-Authenticate`` says: the challenges of a registry, in order.

The grammar is that of RFC 9110 §11.6.1, read with the leniency that registries need: values
without quotes may hold any visible character, and rubbish is passed over to the next comma.
Every pattern here is possessive and every length bounded, so the time is linear in the input.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from types import MappingProxyType

from attrs import field, frozen

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
