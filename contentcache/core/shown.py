"""How times and sentences are shown to operators, without what they must not show."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from itertools import pairwise
from typing import Final

#: What names a repository, tag or digest in a sentence: also the path of any URL.
_NAMES: Final = re.compile(
    r"(://[^\s/?#'\"]*)[/?#]\S*|/v2/\S*|\brepository:\S+"
    r"|\b[a-z0-9]{1,32}:[0-9a-fA-F]{32,}|\b[0-9a-f]{64,}\b"
)
# The name may be percent-encoded in part or whole: servers decode it.
_LETTERS: Final = "".join(f"(?:{letter}|%{ord(letter):x}|%{ord(letter.upper()):x})" for letter in "token")
_TOKEN: Final = re.compile(rf"({_LETTERS}(?:=|%3d))[^& \n]*", re.IGNORECASE)
# The header of a JWT is JSON, which begins with {" in base64. Whole words are searched: that is linear.
_JWT_BEGINS: Final = "eyJ"
_JWT_PART: Final = 4
_WORD: Final = re.compile(rf"[A-Za-z0-9_.-]{{{len(_JWT_BEGINS) + 2 * _JWT_PART + 1},}}")
_USERINFO: Final = re.compile(r"//[^/?#\s]*@")
_URL: Final = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*:)//([^/?#\\]*)")
#: A host name has at most 253 characters; a port comes after it.
_LONGEST_HOST: Final = 260
_AUTHORITY: Final = re.compile(r"(?:[^\s:/?#@%\[\]]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?")


def rfc3339(seconds: float) -> str:
    """
    A time, in seconds since the epoch, as JSON has it (RFC 3339).

    >>> rfc3339(0.0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def hide_names(text: str | None) -> str | None:
    """
    A sentence without paths of URLs, without scopes and without digests.

    >>> hide_names("GET https://a.example/v2/org/app/blobs/x failed")
    'GET https://a.example… failed'
    """
    return None if text is None else _NAMES.sub(r"\1…", text)


def hide_secrets(text: str) -> str:
    """
    A text without users and passwords of URLs, values of ``token=``, and JWTs.

    >>> hide_secrets("https://alice:p@ss@a.example/x?token=abc&n=1 failed")
    'https://***@a.example/x?token=***&n=1 failed'
    """
    return _WORD.sub(_without_jwt, _USERINFO.sub("//***@", _TOKEN.sub(r"\1***", text)))


def show_place(url: str) -> str:
    """
    A URL from outside, which may be malformed, as messages show it: its scheme and its host, and no more.

    >>> show_place("ftp://alice:secret@a.example:99999/org/app?x=1"), show_place("http://al ice:secret/app")
    ('ftp://a.example:99999', 'http:…')
    """
    match = _URL.match(url)
    if match is None:
        return "…"
    scheme, authority = match[1], match[2].rpartition("@")[2]
    # An @ further on may end a password that has a slash.
    is_plain = (
        _AUTHORITY.fullmatch(authority) and len(authority) <= _LONGEST_HOST and "@" not in url[match.end() :]
    )
    return f"{scheme}//{authority}" if is_plain else f"{scheme}…"


def _without_jwt(word: re.Match[str]) -> str:
    """Cut off a JWT, which ends with the word."""
    parts = word[0].split(".")
    position = 0
    for part, following in pairwise(parts):
        begins = part.find(_JWT_BEGINS)
        if begins >= 0 and len(part) - begins >= len(_JWT_BEGINS) + _JWT_PART and len(following) >= _JWT_PART:
            return word[0][: position + begins] + "***"
        position += len(part) + 1
    return word[0]
