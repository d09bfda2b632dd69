"""The images of the status document: the largest ones by the index, the hottest ones by the history."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Final

from contentcache.admin.history import MOST_DAYS_OF_REPOSITORIES, History, day_of
from contentcache.admin.status import Images, ImageStatus
from contentcache.aio.single_flight import SingleFlight
from contentcache.core.ports import Clock, Run
from contentcache.storage.interfaces import Index, IndexDamaged
from contentcache.storage.repository_sizes import RepositorySize, repository_sizes
from contentcache.telemetry.metrics import registry_name

#: Images in each of the two lists.
MOST_IMAGES: Final = 5
#: Seconds until sizes are looked up again: that reads a good part of the index.
_MAX_AGE: Final = 60.0


class ImageReport:
    """Looks up images, their sizes not more than once a minute. ``monotonic`` is in seconds."""

    def __init__(self, index: Index, run: Run, monotonic: Clock) -> None:
        self._index = index
        self._run = run
        self._monotonic = monotonic
        self._sizes: Sequence[RepositorySize] = ()
        self._looked_up = float("-inf")
        self._lookups: SingleFlight[None, None] = SingleFlight()

    async def images(self, history: History, now: float) -> Images:
        """The images at ``now``, in seconds since the epoch."""
        if self._monotonic() - self._looked_up >= _MAX_AGE:
            await self._lookups.run(None, self._look_up)
        pulls: Counter[tuple[str, str]] = Counter()
        for day in history.last(MOST_DAYS_OF_REPOSITORIES, day_of(now)):
            pulls.update(day.repositories)
        sizes = {(registry_name(one.origin), one.repository): one for one in self._sizes}
        largest = [*sizes][:MOST_IMAGES]
        hottest = [key for key, _count in pulls.most_common(MOST_IMAGES)]
        return Images(
            tuple(_image(key, sizes.get(key), pulls[key]) for key in largest),
            tuple(_image(key, sizes.get(key), pulls[key]) for key in hottest),
        )

    async def _look_up(self) -> None:
        try:
            self._sizes = await self._run(repository_sizes, self._index)
        except (OSError, IndexDamaged):
            self._sizes = ()  # the health of the store says it
        self._looked_up = self._monotonic()


def _image(key: tuple[str, str], size: RepositorySize | None, pulls: int) -> ImageStatus:
    if size is None:
        return ImageStatus(*key, bytes=None, blobs=None, last_pull=None, pulls=pulls)
    return ImageStatus(*key, bytes=size.size, blobs=size.blobs, last_pull=size.pulled, pulls=pulls)
