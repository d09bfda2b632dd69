"""How much of the store each repository takes, by the links of the index."""

from __future__ import annotations

from collections import defaultdict
from typing import Final

from attrs import frozen

from contentcache.storage.interfaces import BlobRecord, Index

#: Blobs that are looked at, in the order of their digests: that of a large store is a random sample.
MOST_BLOBS: Final = 50_000
#: Blobs that are looked at while the index waits.
_BATCH: Final = 1000


@frozen
class RepositorySize:
    """
    What is stored of a repository. A blob that several repositories have counts for each of them. ``pulled`` is the
    last pull of one of its blobs, in seconds since the epoch.
    """

    origin: str
    repository: str
    blobs: int
    size: int
    pulled: float


def repository_sizes(index: Index, most: int = MOST_BLOBS) -> list[RepositorySize]:
    """Repositories with blobs among the first ``most``, the largest first. Blocks."""
    found: dict[tuple[str, str], list[BlobRecord]] = defaultdict(list)
    looked_at, last = 0, None
    while looked_at < most and (batch := index.following(last, min(_BATCH, most - looked_at))):
        records = {record.digest: record for record in batch}
        places = {(one.origin, one.repository, one.digest) for one in index.links(list(records))}
        for origin, repository, digest in places:
            found[origin, repository].append(records[digest])
        last = batch[-1].digest
        looked_at += len(batch)
    sizes = [
        RepositorySize(*place, len(of), sum(one.size for one in of), max(one.pulled for one in of))
        for place, of in found.items()
    ]
    return sorted(sizes, key=lambda one: (-one.size, one.repository, one.origin))
