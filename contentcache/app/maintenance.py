"""What keeps the store in order, as the configuration has it."""

from __future__ import annotations

from collections.abc import Callable

from contentcache.app.role import Platform
from contentcache.config.model import Configuration
from contentcache.core.digest import Digest
from contentcache.storage.opening import Storage, own_file
from contentcache.storage.scrub import Bookmark, Scrubber


def make_scrubber(
    configuration: Configuration,
    platform: Platform,
    storage: Storage,
    *,
    in_use: Callable[[Digest], bool],
    checked: Callable[[bool], None],
) -> Scrubber | None:
    """Make what hashes all stored blobs again, if ``scrub`` is set; ``checked`` is told whether one was right."""
    period, settings = configuration.downstream.scrub, configuration.storage
    if period is None:
        return None
    on_disk = settings.driver == "filesystem"
    return Scrubber(
        storage.store,
        storage.index,
        period,
        bookmark=Bookmark(str(own_file(settings, "scrubbed")) if on_disk else None),
        in_use=in_use,
        run=platform.run,
        timer=platform.reactor,
        checked=checked,
    )
