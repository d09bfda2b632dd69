"""
Manifests are held in memory while they pass, so there is a bound to them.
"""

from __future__ import annotations

from contentcache.core.errors import ManifestTooLarge
from contentcache.upstream.answers import Answer, AnswerTooLarge


def too_large(size: int | None, limit: int) -> ManifestTooLarge:
    """
    What there is to say of a manifest of ``size`` bytes where ``limit`` are allowed.
    """
    told = "more" if size is None else str(size)
    return ManifestTooLarge(f"this manifest has {told} bytes, and {limit} are allowed (limits.manifest)")


async def read_manifest(answer: Answer, limit: int) -> bytes:
    """
    The body of ``answer``.

    :raises ManifestTooLarge: it has more than ``limit`` bytes.
    :raises UpstreamBroken: it is cut short.
    :raises UpstreamTimeout: it stalls.
    """
    try:
        return await answer.read(limit)
    except AnswerTooLarge as error:
        raise too_large(answer.length, limit) from error
