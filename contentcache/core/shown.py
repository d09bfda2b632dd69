"""How times and sentences are shown to operators."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import Final

#: What names a repository, tag or digest in a sentence.
_NAMES: Final = re.compile(r"/v2/\S*|\b[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-fA-F]{32,}|\b[0-9a-f]{64,}\b")


def rfc3339(seconds: float) -> str:
    """
    A time, in seconds since the epoch, as JSON has it (RFC 3339).

    >>> rfc3339(0.0)
    '1970-01-01T00:00:00Z'
    """
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds").replace("+00:00", "Z")


def hide_names(text: str | None) -> str | None:
    """
    A sentence without paths of the registry's API and without digests.

    >>> hide_names("GET https://a.example/v2/org/app/blobs/x failed")
    'GET https://a.example… failed'
    """
    return None if text is None else _NAMES.sub("…", text)
