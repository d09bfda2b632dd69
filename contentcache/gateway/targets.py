"""
What a request's target means to a gateway: little, since the registry behind decides; but nothing in doubt
passes.
"""

from __future__ import annotations

import re
from typing import Final

from contentcache.core.errors import CacheError, NameInvalid, RequestMalformed
from contentcache.core.routes import Content, parse

#: Empty components, dot segments, backslashes, and escapes that hide them, a control character or an escape:
#: two programs in a row may read such a path in two ways.
_HOSTILE: Final = re.compile(
    r"//|/\.{1,2}(?:/|$)|\\|#|%(?![0-9A-F]{2})|%(?:2[EF]|5C|25|[01][0-9A-F]|7F)", re.ASCII | re.IGNORECASE
)


def look_at_path(path: str) -> None:
    """
    Refuse a raw path that could mean two things.

    :raises NameInvalid: escapes of slashes or dots, empty components, dot segments.
    :raises RequestMalformed: no path.

    >>> look_at_path("/v2/org/app/blobs/uploads/")
    >>> look_at_path("/v2/a%2fb/")
    Traceback (most recent call last):
    ...
    contentcache.core.errors.NameInvalid: '/v2/a%2fb/' has escapes, empty components or dot segments
    """
    if not path.startswith("/"):
        raise RequestMalformed("the target of a request begins with a slash here")
    if _HOSTILE.search(path) is not None:
        raise NameInvalid(f"{path[:160]!r} has escapes, empty components or dot segments")


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
