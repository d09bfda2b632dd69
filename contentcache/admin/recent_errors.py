"""The last warnings and errors of the log, for the operator."""

from __future__ import annotations

from collections import deque

from twisted.logger import LogEvent, LogLevel

from contentcache.admin.status import MOST_ERRORS, LoggedError
from contentcache.telemetry.logging import event_text

_LEVELS = frozenset({LogLevel.warn, LogLevel.error, LogLevel.critical})
_LONGEST = 1000


class RecentErrors:
    """Holds the last ones of this process, as the log has them: without secrets and control characters."""

    def __init__(self, worker: int | None = None) -> None:
        self._worker = worker
        self._errors: deque[LoggedError] = deque(maxlen=MOST_ERRORS)

    def __call__(self, event: LogEvent) -> None:
        """Hold an event, if it is a warning or an error. May be called in any thread."""
        level = event.get("log_level")
        if level not in _LEVELS:
            return
        # The events of Twisted are sentences, which may name anything.
        own = str(event.get("log_namespace", "")).startswith("contentcache")
        phrase = str(event.get("log_format") or "") if own else "unexpected error"
        text = event_text(event).replace("\n", " ")[:_LONGEST]
        name = "warn" if level is LogLevel.warn else "error"
        self._errors.append(LoggedError(event.get("log_time", 0.0), name, phrase, text, self._worker))

    def read(self) -> tuple[LoggedError, ...]:
        """All of them, the oldest first."""
        return tuple(self._errors)
