"""
What the cache has served on each day: bytes, pulls and hits of each upstream registry, and pulls of repositories.

Days are those of UTC, as in the log. What is older than 400 days is dropped, repositories after 30.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, date, datetime, timedelta
from heapq import nlargest
from operator import add, sub
from typing import Any, Final, Self

from attrs import frozen

from contentcache.admin.status import Savings, Traffic

#: Days that are kept, and of these the ones with repositories.
MOST_DAYS: Final = 400
MOST_DAYS_OF_REPOSITORIES: Final = 30
#: Entries of one day that are kept, those with the highest counts.
MOST_REGISTRIES: Final = 100
MOST_REPOSITORIES: Final = 200
_VERSION: Final = 1
_DAY: Final = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)


class HistoryInvalid(ValueError):
    """A text is not a history. The message says why."""


@frozen
class Day:
    """One day, ``2026-11-30``: traffic by registry, and pulled manifests by registry and repository."""

    name: str
    registries: Mapping[str, Traffic] = {}
    repositories: Mapping[tuple[str, str], int] = {}

    @property
    def savings(self) -> Savings:
        """What was saved on this day."""
        return Savings.of(start_of(self.name), self.registries.values())


def day_of(seconds: float) -> str:
    """
    The day of a time in seconds since the epoch.

    >>> day_of(0)
    '1970-01-01'
    """
    return datetime.fromtimestamp(seconds, UTC).date().isoformat()


def start_of(day: str) -> float:
    """
    When a day begins, in seconds since the epoch.

    >>> start_of("1970-01-02")
    86400.0
    """
    return datetime.fromisoformat(day).replace(tzinfo=UTC).timestamp()


class History:
    """The days that are kept."""

    def __init__(self, days: Mapping[str, Day] | None = None) -> None:
        self._days: dict[str, Day] = dict(days or {})

    def add(
        self, day: str, registries: Iterable[Traffic], repositories: Mapping[tuple[str, str], int]
    ) -> bool:
        """Add what was served on ``day``; returns whether that is anything."""
        added = [one for one in registries if _counts(one) != (0, 0, 0, 0)]
        if not added and not repositories:
            return False
        known = self._days.get(day, Day(day))
        pulled = Counter(known.repositories)
        pulled.update(repositories)
        every = nlargest(
            MOST_REGISTRIES, sums([*known.registries.values(), *added]), key=lambda one: one.sent_bytes
        )
        self._days[day] = Day(
            day, {one.registry: one for one in every}, dict(pulled.most_common(MOST_REPOSITORIES))
        )
        self._drop_old()
        return True

    def last(self, count: int, today: str) -> list[Day]:
        """``count`` days up to ``today``, the oldest first; those without traffic are empty."""
        end = date.fromisoformat(today)
        names = [(end - timedelta(days=back)).isoformat() for back in reversed(range(count))]
        return [self._days.get(name, Day(name)) for name in names]

    def encode(self) -> bytes:
        """The history as JSON, for :meth:`decode`."""
        days = {
            day.name: {
                "registries": {name: _counts(one) for name, one in day.registries.items()},
                "repositories": [[*key, pulls] for key, pulls in day.repositories.items()],
            }
            for day in self._days.values()
        }
        return json.dumps({"version": _VERSION, "days": days}, separators=(",", ":")).encode() + b"\n"

    @classmethod
    def decode(cls, text: bytes) -> Self:
        """
        Read what :meth:`encode` has written.

        :raises HistoryInvalid: it is something else, or of a later version.
        """
        try:
            document = json.loads(text)
            if document["version"] != _VERSION:
                raise HistoryInvalid(f"it is of version {document['version']!r}, not of {_VERSION}")
            return cls({name: _day(name, stored) for name, stored in document["days"].items()})
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            if isinstance(error, HistoryInvalid):
                raise
            raise HistoryInvalid(f"it is no history: {error}") from error

    def _drop_old(self) -> None:
        names = sorted(self._days, reverse=True)
        for name in names[MOST_DAYS:]:
            del self._days[name]
        for name in names[MOST_DAYS_OF_REPOSITORIES:MOST_DAYS]:
            day = self._days[name]
            if day.repositories:
                self._days[name] = Day(name, day.registries)


def sums(traffic: Iterable[Traffic]) -> list[Traffic]:
    """
    One traffic for each registry.

    >>> sums([Traffic("a", sent_bytes=1), Traffic("a", sent_bytes=2, pulls=1)])
    [Traffic(registry='a', sent_bytes=3, received_bytes=0, pulls=1, hits=0)]
    """
    totals: dict[str, Traffic] = {}
    for one in traffic:
        before = _counts(totals.get(one.registry, Traffic(one.registry)))
        totals[one.registry] = Traffic(one.registry, *map(add, before, _counts(one)))
    return list(totals.values())


def growth(now: Iterable[Traffic], before: Iterable[Traffic]) -> list[Traffic]:
    """
    What was added to each traffic since ``before``.

    >>> growth([Traffic("a", pulls=5), Traffic("b", pulls=1)], [Traffic("a", pulls=3)])[0].pulls
    2
    """
    known = {one.registry: _counts(one) for one in before}
    return [
        Traffic(one.registry, *map(sub, _counts(one), known.get(one.registry, (0, 0, 0, 0)))) for one in now
    ]


def _counts(traffic: Traffic) -> tuple[int, int, int, int]:
    return traffic.sent_bytes, traffic.received_bytes, traffic.pulls, traffic.hits


def _day(name: str, stored: Any) -> Day:
    if _DAY.fullmatch(name) is None:
        raise HistoryInvalid(f"{name[:20]!r} is no day")
    date.fromisoformat(name)
    registries = {
        registry: Traffic(registry, *map(_count, four)) for registry, four in stored["registries"].items()
    }
    repositories = {
        (str(registry), str(repository)): _count(pulls)
        for registry, repository, pulls in stored["repositories"]
    }
    return Day(name, registries, repositories)


def _count(value: Any) -> int:
    if type(value) is not int or value < 0:
        raise HistoryInvalid(f"{value!r} is no count")
    return value
