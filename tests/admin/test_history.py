"""Days of traffic: sums, bounds, and what is stored of them."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.admin.history import (
    MOST_DAYS,
    MOST_DAYS_OF_REPOSITORIES,
    MOST_REGISTRIES,
    MOST_REPOSITORIES,
    Day,
    History,
    HistoryInvalid,
    growth,
)
from contentcache.admin.status import Traffic

_counts = st.integers(0, 1 << 60)
_names = st.text(min_size=1, max_size=20)
_traffic = st.builds(Traffic, _names, _counts, _counts, _counts, _counts)
_days = st.dates(date(1999, 1, 1), date(2100, 1, 1)).map(date.isoformat)


class HistoryTests(SynchronousTestCase):
    """Adding days."""

    def test_sums(self) -> None:
        """What is added to one day is summed up, and other days are left alone."""
        history = History()
        history.add("2026-11-29", [Traffic("a", 1, 1, 1, 1)], {})
        history.add("2026-11-30", [Traffic("a", 300, 100, 4, 3)], {("a", "org/app"): 1})
        history.add(
            "2026-11-30", [Traffic("a", 10, 0, 1, 1), Traffic("b", 5, 5, 1, 0)], {("a", "org/app"): 2}
        )
        first, second, third = history.last(3, "2026-11-30")
        self.assertEqual(first, Day("2026-11-28"))
        self.assertEqual(second.savings.registries, (Traffic("a", 1, 1, 1, 1),))
        self.assertEqual(third.savings.registries, (Traffic("a", 310, 100, 5, 4), Traffic("b", 5, 5, 1, 0)))
        self.assertEqual((third.savings.saved_bytes, third.savings.hit_ratio), (210, 0.6667))
        self.assertEqual(third.repositories, {("a", "org/app"): 3})

    def test_nothing(self) -> None:
        """An interval without traffic makes no day."""
        history = History()
        self.assertFalse(history.add("2026-11-30", [Traffic("a")], {}))
        self.assertEqual(history.encode(), History().encode())

    def test_growth(self) -> None:
        """A registry that is counted for the first time has grown by all of it."""
        now = [Traffic("a", 5, 9, 3, 1), Traffic("b", 1, 1, 1, 1)]
        self.assertEqual(
            growth(now, [Traffic("a", 4, 9, 1, 0)]), [Traffic("a", 1, 0, 2, 1), Traffic("b", 1, 1, 1, 1)]
        )

    def test_bounds(self) -> None:
        """However many days, registries and repositories there are, those that matter are kept."""
        history = History()
        first = date(2024, 1, 1)
        for number in range(MOST_DAYS + 30):
            name = (first + timedelta(days=number)).isoformat()
            history.add(name, [Traffic("a", 1)], {("a", "org/app"): 1})
        last = (first + timedelta(days=MOST_DAYS + 29)).isoformat()
        days = history.last(MOST_DAYS + 30, last)
        self.assertEqual(sum(bool(day.registries) for day in days), MOST_DAYS)
        self.assertEqual(sum(bool(day.repositories) for day in days), MOST_DAYS_OF_REPOSITORIES)
        self.assertTrue(days[-1].repositories)
        history.add(
            last,
            [Traffic(str(number), number) for number in range(MOST_REGISTRIES + 9)],
            {("a", str(number)): number for number in range(MOST_REPOSITORIES + 9)},
        )
        day = history.last(1, last)[0]
        self.assertEqual((len(day.registries), len(day.repositories)), (MOST_REGISTRIES, MOST_REPOSITORIES))
        self.assertIn(str(MOST_REGISTRIES + 8), day.registries)
        self.assertIn(("a", str(MOST_REPOSITORIES + 8)), day.repositories)

    @given(st.dictionaries(_days, st.tuples(st.lists(_traffic, max_size=4), _counts), max_size=9))
    def test_round_trip(self, days: dict[str, tuple[list[Traffic], int]]) -> None:
        """What is stored is read again, whatever it is."""
        history = History()
        for day, (registries, pulls) in days.items():
            history.add(day, registries, {("a", "org/app"): pulls} if pulls else {})
        self.assertEqual(History.decode(history.encode()).encode(), history.encode())

    @given(st.binary(max_size=60))
    def test_garbage(self, content: bytes) -> None:
        """Whatever else is in the file is refused by one error."""
        with self.assertRaises(HistoryInvalid):
            History.decode(content)

    def test_refused(self) -> None:
        """So is JSON of another form."""
        for text in (
            b"[]",
            b"{}",
            b'{"version":2,"days":{}}',
            b'{"version":1,"days":[]}',
            b'{"version":1,"days":{"2026-13-01":{"registries":{},"repositories":[]}}}',
            b'{"version":1,"days":{"today":{"registries":{},"repositories":[]}}}',
            b'{"version":1,"days":{"2026-11-30":{"registries":{"a":[1,2,3,-4]},"repositories":[]}}}',
            b'{"version":1,"days":{"2026-11-30":{"registries":{"a":[1,2,3,true]},"repositories":[]}}}',
            b'{"version":1,"days":{"2026-11-30":{"registries":{"a":[1,2,3,4,5]},"repositories":[]}}}',
            b'{"version":1,"days":{"2026-11-30":{"registries":{},"repositories":[["a","b"]]}}}',
            b"[" * 100_000,
        ):
            self.assertRaises(HistoryInvalid, History.decode, text)
