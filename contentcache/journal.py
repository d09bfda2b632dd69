"""
What the daemon says: one line an event, as text or JSON, to standard output or a file.

The access log is part of it: Apache's combined form with the cache status, the seconds and the origin added.
Nothing here ever sees a credential: requests are logged without their headers, and the values of ``token``
in a query are taken out, wherever an address is quoted.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from itertools import pairwise
from typing import Final, TextIO, cast

from attrs import define
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

_LEVELS: Final = {
    "error": LogLevel.error,
    "warn": LogLevel.warn,
    "info": LogLevel.info,
    "debug": LogLevel.debug,
}
# The name may be escaped in part or whole, and whoever reads the query would not mind.
_LETTERS: Final = "".join(f"(?:{letter}|%{ord(letter):x}|%{ord(letter.upper()):x})" for letter in "token")
_TOKEN: Final = re.compile(rf"({_LETTERS}(?:=|%3d))[^& \n]*", re.IGNORECASE)
# The header of a JWT is JSON, which begins with {" in base64. Whole words are searched: that is linear.
_JWT_BEGINS: Final = "eyJ"
_JWT_PART: Final = 4
_WORD: Final = re.compile(rf"[A-Za-z0-9_.-]{{{len(_JWT_BEGINS) + 2 * _JWT_PART + 1},}}")
_USERINFO: Final = re.compile(r"//[^/?#@\s]*@")
# Control characters, line ends, marks that turn the direction of writing, halves of characters.
_ODD: Final = re.compile(r"[\x00-\x1f\x7f-\x9f\u200e\u200f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")
_LONGEST_URI: Final = 1024
#: Of a longer text only the beginning is searched for secrets, and logged.
_LONGEST_SEARCHED: Final = 16 << 10


@define
class Access:
    """
    One answered request. ``seconds`` from the end of its head to the last byte handed to the kernel;
    ``sent`` bytes of body.

    Not frozen, though nobody changes it: to make such a one costs as much as to write its line.
    """

    address: str
    moment: float
    method: str
    uri: str
    protocol: str
    status: int
    sent: int
    referer: str
    agent: str
    cache: str
    seconds: float
    upstream: str

    def line(self) -> str:
        """Apache's combined form, with what a cache has to add."""
        moment = _clock(int(self.moment))
        return (
            f'{self.address or "-"} - - [{moment}] "{self.method} {self.uri} {self.protocol}" {self.status} '
            f'{self.sent} "{self.referer}" "{self.agent}" cache="{self.cache}" seconds={self.seconds:.3f} '
            f"upstream={self.upstream}"
        )

    def fields(self) -> Mapping[str, object]:
        """The same for machines."""
        return {
            "remote": self.address,
            "method": self.method,
            "uri": self.uri,
            "status": self.status,
            "bytes": self.sent,
            "referer": self.referer,
            "agent": self.agent,
            "cache": self.cache,
            "seconds": round(self.seconds, 6),
            "upstream": self.upstream,
        }


def harmless(text: str, longest: int = _LONGEST_URI) -> str:
    """
    What a stranger sent, fit for a line of a log: no token or password, no quote, nothing that moves a
    cursor.

    >>> harmless('/v2/a/blobs/b?token=secret&n=1'), harmless('x" \\n')
    ('/v2/a/blobs/b?token=***&n=1', "x' ?")
    """
    text = _ODD.sub("?", _without_secrets(text[:_LONGEST_SEARCHED])).replace('"', "'").replace("\\", "/")
    return text if len(text) <= longest else text[:longest] + "…"


@implementer(ILogObserver)
class Journal:
    """Writes events to a stream as ``settings`` say; the lines of a ``worker`` have its number."""

    def __init__(self, stream: TextIO, settings: Log, worker: int | None = None) -> None:
        self._stream = stream
        self._json = settings.formatter == "json"
        whose = {} if worker is None else {"worker": worker}
        self._fields = {**settings.fields, **whose}
        self._whose = "".join(f" {name}={value}" for name, value in whose.items())

    def __call__(self, event: LogEvent) -> None:
        accesses = event.get("accesses") or [access for access in (event.get("access"),) if access]
        if accesses:
            lines = [self._access_line(event, access) for access in accesses]
        else:
            message = _message(event)
            if not message:
                return
            moment, level = _moment_of(event), _level_of(event)
            lines = [
                self._as_json(moment, level, message, {})
                if self._json
                else _one_line(f"{moment} {level:<5} {message}{self._as_words()}")
            ]
        self._stream.write("".join(f"{line}\n" for line in lines))
        self._stream.flush()

    def _access_line(self, event: LogEvent, access: Access) -> str:
        if not self._json:
            return _one_line(access.line() + self._whose)
        return self._as_json(_moment_of(event), _level_of(event), "access", access.fields())

    def _as_json(self, moment: str, level: str, message: str, fields: Mapping[str, object]) -> str:
        return json.dumps(
            {"time": moment, "level": level, "msg": message, **fields, **self._fields}, default=str
        )

    def _as_words(self) -> str:
        return "".join(f" {name}={value}" for name, value in self._fields.items())


def _moment_of(event: LogEvent) -> str:
    return datetime.fromtimestamp(event.get("log_time", 0.0), UTC).isoformat(timespec="milliseconds")


def _level_of(event: LogEvent) -> str:
    return str(getattr(event.get("log_level"), "name", "info"))


@lru_cache(maxsize=16)
def _clock(second: int) -> str:
    return datetime.fromtimestamp(second, UTC).strftime("%d/%b/%Y:%H:%M:%S +0000")


def _message(event: LogEvent) -> str:
    failure = event.get("log_failure")
    text = formatEvent(event)
    if failure is not None:
        text = f"{text}\n{failure.getTraceback()}".strip()
    return _without_secrets(text)


def _without_secrets(text: str) -> str:
    return _WORD.sub(_without_jwt, _USERINFO.sub("//***@", _TOKEN.sub(r"\1***", text)))


def _without_jwt(word: re.Match[str]) -> str:
    """A word without the JWT in it, which ends with the word."""
    parts = word[0].split(".")
    position = 0
    for part, following in pairwise(parts):
        begins = part.find(_JWT_BEGINS)
        if begins >= 0 and len(part) - begins >= len(_JWT_BEGINS) + _JWT_PART and len(following) >= _JWT_PART:
            return word[0][: position + begins] + "***"
        position += len(part) + 1
    return word[0]


def _one_line(text: str) -> str:
    if text.isascii() and text.isprintable():  # most are, and this is soon told
        return text
    return _ODD.sub("?", text.replace("\n", "\\n"))


def observer(stream: TextIO, settings: Log, worker: int | None = None) -> ILogObserver:
    """A journal that leaves out what is below the level that is set."""
    predicate = LogLevelFilterPredicate(defaultLogLevel=_LEVELS[settings.level])
    if settings.level != "debug":
        predicate.setLogLevelForNamespace("twisted", LogLevel.warn)  # its factories come and go
        predicate.setLogLevelForNamespace("log_legacy", LogLevel.warn)  # and its ports
    journal = FilteringLogObserver(
        cast("ILogObserver", Journal(stream, settings, worker)), [cast("ILogFilterPredicate", predicate)]
    )
    return cast("ILogObserver", journal)
