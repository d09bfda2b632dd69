"""How often manifests of each repository were pulled: too many names for a metric."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Final

#: Repositories that are counted between two calls of :meth:`RepositoryPulls.drain`; further ones are not.
MOST_REPOSITORIES: Final = 1000


class RepositoryPulls:
    """Counts pulls by registry and repository, until they are drained."""

    def __init__(self) -> None:
        self._counts: Counter[tuple[str, str]] = Counter()

    def add(self, registry: str, repository: str, count: int = 1) -> None:
        """Count a pull of a manifest, or several."""
        key = registry, repository
        if key in self._counts or len(self._counts) < MOST_REPOSITORIES:
            self._counts[key] += count

    def drain(self) -> dict[tuple[str, str], int]:
        """What was counted since the last call."""
        counts, self._counts = self._counts, Counter()
        return dict(counts)

    def add_all(self, counts: Iterable[tuple[str, str, int]]) -> None:
        """Add what another process has counted."""
        for registry, repository, count in counts:
            self.add(registry, repository, count)
