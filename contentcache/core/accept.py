"""What a client is ready to take of a manifest."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Final

#: Every manifest type in use. A client that takes anything (curl, a script) is given these by name, for
#: registries read ``*/*`` as "only what was known in 2015".
MANIFEST_TYPES: Final = (
    "application/vnd.oci.image.index.v1+json",
    "application/vnd.docker.distribution.manifest.list.v2+json",
    "application/vnd.oci.image.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v2+json",
    "application/vnd.oci.artifact.manifest.v1+json",
)
_ANYTHING: Final = "*/*"
_LONGEST_KEY: Final = 256


def accepted(values: Sequence[str]) -> Sequence[str]:
    """
    The values of ``Accept`` to send upstream: the client's own, unless it takes anything (RFC 9110 §12.5.1).

    >>> accepted(["application/json, */*"])
    ('application/json, */*',)
    >>> accepted([])[-1]
    '*/*'
    """
    kinds = {kind.partition(";")[0].strip().lower() for value in values for kind in value.split(",")}
    if kinds <= {_ANYTHING, ""}:
        return (*MANIFEST_TYPES, _ANYTHING)
    return tuple(values)


def normalised(values: Sequence[str]) -> str:
    """
    One spelling for all headers that mean the same, short enough for a key.

    >>> normalised(["b/c;q=0.5,  A/b"]) == normalised(["a/b", "b/c; q=0.5"])
    True
    """
    kinds = {"".join(kind.split()).lower() for value in values for kind in value.split(",")}
    text = ",".join(sorted(kinds - {""}))
    if len(text) > _LONGEST_KEY:
        # No other spelling begins with a comma: nobody can name the hash instead of the types.
        return "," + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return text
