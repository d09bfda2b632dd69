"""
The daemon's log: one line an event, as text or JSON, to standard output or a file.

An event of this program is a fixed phrase with fields: ``blob evicted digest=sha256:… bytes=5001755``, in JSON
``{"msg": "blob evicted", "digest": "sha256:…", "bytes": 5001755}``. The events of Twisted are sentences. What is
logged while a request is answered has the field ``request_id``, and in a download's task ``download``.
The access log is part of it: Apache's combined form with the cache status, the seconds and the origin added.
No credential is written: requests are logged without their headers, and secrets are removed from every field.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Final, Protocol, TextIO, cast

from twisted.logger import (
    FilteringLogObserver,
    ILogFilterPredicate,
    ILogObserver,
    LogEvent,
    LogLevel,
    LogLevelFilterPredicate,
    formatEvent,
)
from zope.interface import implementer

from contentcache.config.model import Log
from contentcache.core.live import Live
from contentcache.core.shown import hide_secrets
from contentcache.telemetry.request_ids import TRACE

_LEVELS: Final = {
    "error": LogLevel.error,
    "warn": LogLevel.warn,
    "info": LogLevel.info,
    "debug": LogLevel.debug,
}
# Control characters, line ends, marks that turn the direction of writing, halves of characters.
_ODD: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
#: Text values without these are written without quotes.
_NEEDS_QUOTES: Final = re.compile(r'[\s"\\=]|^$')
#: The keys that Twisted adds to an event, here or for observers of its older log.
_TWISTED_KEYS: Final = frozenset(
    {"failure", "format", "isError", "logLevel", "message", "system", "time", "why"}
)
_LONGEST_URI: Final = 1024
#: Of a longer text only the beginning is searched for secrets, and logged.
_LONGEST_SEARCHED: Final = 16 << 10


def sanitize(text: str, longest: int = _LONGEST_URI) -> str:
    """
    Text from a client, fit for a line of a log: without tokens, passwords, quotes and control characters.

    >>> sanitize('/v2/a/blobs/b?token=secret&n=1'), sanitize('x" \\n')
    ('/v2/a/blobs/b?token=***&n=1', "x' ?")
    """
    text = _ODD.sub("?", hide_secrets(text[:_LONGEST_SEARCHED])).replace('"', "'").replace("\\", "/")
    return text if len(text) <= longest else text[:longest] + "…"


class AccessLogLine(Protocol):
    """An entry of the access log."""

    def line(self) -> str:
        """The entry as text."""

    def fields(self) -> Mapping[str, object]:
        """The entry as JSON values by name."""


@implementer(ILogObserver)
class LogWriter:
    """
    Writes events to a stream as ``settings`` say; the lines of a ``worker`` have its number. ``note`` gets every
    event that is no access.
    """

    def __init__(
        self,
        stream: TextIO,
        settings: Live[Log],
        worker: int | None = None,
        *,
        note: Callable[[LogEvent], None] = lambda _event: None,
    ) -> None:
        self._note = note
        self._stream = stream
        self._json = False
        self._fields: Mapping[str, object] = {}
        self._worker_field = {} if worker is None else {"worker": worker}
        self._worker = "".join(f" {name}={value}" for name, value in self._worker_field.items())
        settings.follow(self._configure)

    def _configure(self, settings: Log) -> None:
        self._json = settings.formatter == "json"
        self._fields = {**settings.fields, **self._worker_field}

    def __call__(self, event: LogEvent) -> None:
        entries = event.get("accesses") or [entry for entry in (event.get("access"),) if entry]
        if entries:
            lines = [self._access_line(event, entry) for entry in entries]
        else:
            self._note(event)
            lines = [line for line in (self._event_line(event),) if line]
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()

    def _event_line(self, event: LogEvent) -> str:
        phrase, fields, traceback = _parts_of(event)
        if not phrase and not traceback:
            return ""
        time, level = _time_of(event), _level_of(event)
        if self._json:
            last = {"traceback": traceback} if traceback else {}
            return self._as_json(time, level, phrase, {**fields, **last})
        text = _with_fields(phrase, fields)
        text = f"{text}\n{traceback}".strip() if traceback else text
        return _one_line(f"{time} {level:<5} {text}{self._as_text_fields()}")

    def _access_line(self, event: LogEvent, entry: AccessLogLine) -> str:
        if not self._json:
            return _one_line(entry.line() + self._worker)
        return self._as_json(_time_of(event), _level_of(event), "access", entry.fields())

    def _as_json(self, time: str, level: str, message: str, fields: Mapping[str, object]) -> str:
        return json.dumps(
            {"time": time, "level": level, "msg": message, **fields, **self._fields}, default=str
        )

    def _as_text_fields(self) -> str:
        return "".join(f" {name}={value}" for name, value in self._fields.items())


def _time_of(event: LogEvent) -> str:
    return datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(timespec="milliseconds")


def _level_of(event: LogEvent) -> str:
    return str(getattr(event.get("log_level"), "name", "info"))


def event_text(event: LogEvent) -> str:
    """
    The phrase and the fields of an event, as a line of text has them.

    >>> event_text({"log_namespace": "contentcache", "log_format": "blob deleted", "bytes": 5, "reason": "too old"})
    'blob deleted bytes=5 reason="too old"'
    """
    phrase, fields, _traceback = _parts_of(event)
    return _with_fields(phrase, fields)


def _with_fields(phrase: str, fields: Mapping[str, object]) -> str:
    return phrase + "".join(f" {name}={_as_text(value)}" for name, value in fields.items())


def _parts_of(event: LogEvent) -> tuple[str, Mapping[str, object], str]:
    """The phrase, the fields and the traceback of an event, without secrets."""
    failure = event.get("log_failure")
    traceback = "" if failure is None else hide_secrets(failure.getTraceback())
    if not str(event.get("log_namespace", "")).startswith("contentcache"):
        return hide_secrets(f"{formatEvent(event)}\n{traceback}".strip()), {}, ""
    fields = {
        name.rstrip("_"): _safe(value)  # ``for_``: the word is Python's
        for name, value in event.items()
        if not name.startswith("log_") and name not in _TWISTED_KEYS
    }
    trace = TRACE.get()
    if trace is not None and trace.request_id:
        fields.setdefault("request_id", trace.request_id)
    if trace is not None and trace.download:
        fields.setdefault("download", trace.download)
    return str(event.get("log_format") or ""), fields, traceback


def _safe(value: object) -> object:
    """The value of a field as JSON can have it, without secrets and control characters."""
    match value:
        case None | bool() | int():
            return value
        case float():
            return round(value, 3)
        case []:
            return None
        case list() | tuple():
            value = ",".join(map(str, value))
        case BaseException():
            value = str(value) or type(value).__name__
        case _:
            value = str(value)
    return "\n".join(_ODD.sub("?", line) for line in hide_secrets(value).split("\n"))


def _as_text(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        return f"{value:.3f}".rstrip("0").rstrip(".")
    text = str(value)
    if not _NEEDS_QUOTES.search(text):
        return text
    return '"' + text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'


def _one_line(text: str) -> str:
    if text.isascii() and text.isprintable():  # most are, and this is a fast check
        return text
    return _ODD.sub("?", text.replace("\n", "\\n"))


def log_observer(
    stream: TextIO,
    settings: Live[Log],
    worker: int | None = None,
    *,
    note: Callable[[LogEvent], None] = lambda _event: None,
) -> ILogObserver:
    """A log writer that leaves out events below the level that is set, as :class:`LogWriter` has it."""
    predicate = LogLevelFilterPredicate()

    def use_level(log: Log) -> None:
        predicate.defaultLogLevel = _LEVELS[log.level]
        predicate.clearLogLevels()
        if log.level != "debug":
            predicate.setLogLevelForNamespace("twisted", LogLevel.warn)  # starting and stopping factories
            predicate.setLogLevelForNamespace("log_legacy", LogLevel.warn)  # and ports

    settings.follow(use_level)
    filtering = FilteringLogObserver(
        cast("ILogObserver", LogWriter(stream, settings, worker, note=note)),
        [cast("ILogFilterPredicate", predicate)],
    )
    return cast("ILogObserver", filtering)
