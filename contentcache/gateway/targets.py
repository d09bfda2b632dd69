"""
What a request's target means to a gateway: little, since the registry behind decides; but nothing in doubt
passes.
"""

from __future__ import annotations

import re
from typing import Final
from unicodedata import normalize
from urllib.parse import unquote_to_bytes

from contentcache.core.errors import CacheError, NameInvalid, RequestMalformed
from contentcache.core.routes import Content, parse, unescape

#: Backslashes, fragments, half escapes, and escapes of those, of slashes, dots, semicolons, control
#: characters and of escapes: two programs in a row may read such a path in two ways.
_HOSTILE: Final = re.compile(
    r"\\|#|%(?![0-9A-F]{2})|%(?:2[EF]|3B|5C|25|[01][0-9A-F]|7F)", re.ASCII | re.IGNORECASE
)
#: What a character beyond ASCII may become in a server that looks for its nearest relative in ASCII.
_DELIMITERS: Final = frozenset("/\\.;%?#")
#: Where names of several components may come as one: the registry's API, and accounts in our own.
_NAMED: Final = ("/v2/", "/api/")


def read_path(path: str) -> str:
    """
    A raw path as it is passed on: in the registry's API and in our own ``%2F`` and ``%3A`` are the characters
    that they stand for. What could mean two things is refused.

    >>> read_path("/v2/org%2Fapp/blobs/uploads/")
    '/v2/org/app/blobs/uploads/'
    >>> read_path("/v2/..;/token")
    Traceback (most recent call last):
    ...
    contentcache.core.errors.NameInvalid: '/v2/..;/token' has escapes, empty components or dot segments

    :raises NameInvalid: escapes of dots and the like, empty components, dot segments in whatever disguise.
    :raises RequestMalformed: no path.
    """
    if not path.startswith("/"):
        raise RequestMalformed("the target of a request begins with a slash here")
    read = unescape(path) if path.startswith(_NAMED) else path
    *components, last = read[1:].split("/")
    hostile = _HOSTILE.search(read) is not None
    # The last component of a path may be empty: it ends with a slash then.
    if hostile or any(_is_doubtful(each) for each in (*components, *filter(None, [last]))):
        raise NameInvalid(f"{path[:160]!r} has escapes, empty components or dot segments")
    return read


def blob_at(path: str) -> Content | None:
    """
    The blob that a path names by the grammar of the distribution spec, if it does.

    >>> blob_at("/v2/org/app/manifests/1") is None
    True
    """
    if "/blobs/" not in path:
        return None
    try:
        route = parse(path)
    except CacheError:
        return None  # what it is, and why it is wrong, the registry says
    return route if isinstance(route, Content) and route.kind == "blobs" else None


def _is_doubtful(component: str) -> bool:
    """
    Whether some server takes a component for an empty one or a dot segment, or sees delimiters in it.

    Servers written in Java cut parameters off first (``..;x``), some in Windows the dots and spaces at the
    end.

    >>> [_is_doubtful(each) for each in ("..;a=b", ".%20.", ";", "%c0%ae%c0%ae", "%ef%bc%8f", "a;b=c", "...")]
    [True, True, True, True, True, False, True]
    """
    try:
        decoded = unquote_to_bytes(component).decode("utf-8")
    except UnicodeDecodeError:
        return True
    if not decoded.partition(";")[0].strip(" ."):
        return True
    beyond = "".join(character for character in decoded if not character.isascii())
    return not _DELIMITERS.isdisjoint(normalize("NFKC", beyond))
