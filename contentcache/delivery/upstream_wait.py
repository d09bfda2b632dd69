"""What the log says of a transfer that waits for upstreams that are not available."""

from __future__ import annotations

from collections.abc import Iterable

from twisted.logger import Logger

from contentcache.core.ports import Timer
from contentcache.delivery.shared_download import DownloadKey

_log = Logger(namespace="contentcache.delivery")


class UpstreamWait:
    """Logs when a transfer begins to wait, for ``timeout`` seconds at most, and when it goes on: once each."""

    def __init__(self, key: DownloadKey, clock: Timer, timeout: float) -> None:
        self._key = key
        self._clock = clock
        self._timeout = timeout
        self._since: float | None = None

    @property
    def is_waiting(self) -> bool:
        """Whether it waits."""
        return self._since is not None

    def begin(self, repositories: Iterable[str], offset: int, reason: str) -> None:
        """No host is available, and they will be asked again."""
        if self._since is None:
            self._since = self._clock.seconds()
            _log.warn(
                "download waits for upstream",
                origin=self._key.origin,
                repository=sorted(repositories),
                digest=self._key.digest,
                offset=offset,
                timeout=f"{self._timeout:g}s",
                reason=reason,
            )

    def end(self, repositories: Iterable[str], offset: int) -> None:
        """A host has answered."""
        since, self._since = self._since, None
        if since is not None:
            _log.info(
                "download goes on",
                origin=self._key.origin,
                repository=sorted(repositories),
                digest=self._key.digest,
                offset=offset,
                waited=f"{self._clock.seconds() - since:.1f}s",
            )
