"""
What a response to a request for a blob proves, as pure decisions.

Registries are often behind a proxy that signs people in. Such a proxy denies with 200 and a page or a message.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Final

from contentcache.core.digest import Digest
from contentcache.core.errors import DigestInvalid

#: As many bytes as tell a page from anything else (WHATWG MIME Sniffing §7.1 looks at a few more).
SNIFFED: Final = 512
_PAGES: Final = frozenset({"text/html", "application/xhtml+xml"})
#: What pages and messages have, and a blob only where the registry knows no better.
_MESSAGES: Final = re.compile(r"text/.*|application/(?:problem\+)?(?:json|xml)", re.ASCII | re.DOTALL)
_MARKUP: Final = re.compile(rb"(?:\xef\xbb\xbf)?[\t\n\x0c\r ]*<(?:[!?/]|[A-Za-z])")
_TOTAL: Final = re.compile(r"bytes 0-[0-9]{1,18}/([0-9]{1,18})", re.ASCII)


def is_page(media_types: Sequence[str]) -> bool:
    """
    Whether one of the values of ``Content-Type`` is that of a page.

    >>> is_page(["text/HTML; charset=utf-8"]), is_page(["application/octet-stream"]), is_page([])
    (True, False, False)
    """
    return any(_plain(each) in _PAGES for each in media_types)


def is_markup(beginning: bytes) -> bool:
    """
    Whether a body begins as a page does.

    >>> is_markup(b"  <!DOCTYPE html>"), is_markup(b"{}"), is_markup(bytes([0x1F, 0x8B]))
    (True, False, False)
    """
    return _MARKUP.match(beginning) is not None


def proves(digest: Digest, media_types: Sequence[str], stated: Sequence[str]) -> bool | None:
    """
    Whether the head of a 200 or 206 is about the blob of this digest; ``None`` if only its bytes can tell.

    ``media_types`` and ``stated`` are the values of ``Content-Type`` and ``Docker-Content-Digest``. A digest
    of another algorithm is no statement about this one.

    >>> blob = Digest.of(b"")
    >>> proves(blob, [], [str(blob)]), proves(blob, ["text/plain"], []), proves(blob, [], [])
    (True, False, None)
    """
    if is_page(media_types):
        return False
    try:
        digests = [Digest.parse(each.strip()) for each in stated]
    except DigestInvalid:
        return False
    comparable = [each for each in digests if each.algorithm == digest.algorithm]
    if comparable:
        return all(each == digest for each in comparable)
    named = [plain for each in media_types if (plain := _plain(each))]
    return all(_MESSAGES.fullmatch(each) is None for each in named) if named else None


def total_size(content_range: str | None) -> int | None:
    """
    The size of a blob whose first bytes are in an answer (RFC 9110 §14.4).

    >>> total_size("bytes 0-0/1000"), total_size("bytes 0-0/*"), total_size(None)
    (1000, None, None)
    """
    match = _TOTAL.fullmatch(content_range or "")
    return None if match is None else int(match[1])


def _plain(media_type: str) -> str:
    return media_type.partition(";")[0].strip().lower()
