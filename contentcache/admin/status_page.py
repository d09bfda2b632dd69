"""The status page: the status document for a browser, without script."""

from __future__ import annotations

import re
from collections.abc import Awaitable, Callable, Mapping, Sequence
from datetime import UTC, datetime
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import frozen
from twisted.web.http import Request

from contentcache.admin.hidden_names import without_names
from contentcache.admin.status import Savings, Status
from contentcache.config.model import Http
from contentcache.core import rounded
from contentcache.core.ports import Run
from contentcache.core.shown import rfc3339
from contentcache.server.page_server import Page

if TYPE_CHECKING:
    from contentcache.server.html import HtmlPages

_HERE: Final = Path(__file__).parent / "templates"
#: Rows of lists that may be long.
MOST_ROWS: Final = 20
#: At most a day, and no more often than every 5 seconds.
_REFRESH: Final = re.compile(rb"(?:\A|&)refresh=([0-9]{1,5})(?=&|\Z)")
_FASTEST: Final = 5
_BAR: Final = 10
_GAP: Final = 4
#: Characters of a digest that are shown.
_SHORT: Final = 19


@frozen
class Bar:
    """One day of the chart, in percent of its height from the top."""

    label: str
    x: int
    width: int
    saved_y: float
    saved_height: float
    received_y: float
    received_height: float


@frozen
class Chart:
    """Bytes sent on each day: below what came from upstream, on top what was saved. ``most`` is the highest."""

    width: int
    most: int
    bars: Sequence[Bar]


def chart_of(days: Sequence[Savings]) -> Chart:
    """The chart of these days. What was received and not sent is not in it."""
    most = max((day.sent_bytes for day in days), default=0)
    bars = []
    for place, day in enumerate(days):
        received = min(day.received_bytes, day.sent_bytes)
        heights = [100 * size / most if most else 0.0 for size in (day.sent_bytes - received, received)]
        saved_height, received_height = (round(height, 2) for height in heights)
        bars.append(
            Bar(
                _label(day),
                place * (_BAR + _GAP),
                _BAR,
                round(100 - received_height - saved_height, 2),
                saved_height,
                round(100 - received_height, 2),
                received_height,
            )
        )
    return Chart(max(1, len(days) * (_BAR + _GAP) - _GAP), most, bars)


def attention_of(status: Status) -> list[str]:
    """What is wrong now, in sentences."""
    workers, gateway, store = status.workers, status.gateway, status.store
    found = []
    if workers.serving < workers.configured:
        found.append(f"Only {workers.serving} of {workers.configured} workers serve clients.")
    found += [
        f"{one.host} is unhealthy: {one.reason or 'it did not answer as it should'}."
        for one in status.upstreams
        if not one.healthy
    ]
    if store is not None and store.fault is not None:
        found.append(f"The store needs attention: {store.fault}.")
    found += [
        f"The certificate of {one.host}: {one.detail}." for one in status.certificates if one.state != "ok"
    ]
    found += [
        f"The cache {one.name} is unhealthy: {one.reason or 'it did not answer'}."
        for one in (() if gateway is None else gateway.caches)
        if not one.healthy
    ]
    if status.reload is not None and not status.reload.ok:
        found += [
            f"The configuration was not reloaded: {error}" for error in status.reload.errors[:MOST_ROWS]
        ]
    return found


class StatusPage:
    """Answers with the page; ``status()`` gives the document. Pages are made in threads."""

    def __init__(self, status: Callable[[], Awaitable[Status]], http: Http, run: Run) -> None:
        self._status = status
        self._http = http
        self._run = run

    async def respond(self, request: Request, *, names: bool) -> Page:
        """Return the page, with names of repositories and digests or without."""
        status = await self._status()
        host = (request.getRequestHostname() or b"").decode("latin-1")
        body, headers = await self._run(
            render,
            status if names else without_names(status),
            names=names,
            refresh=refresh_of(request.uri.partition(b"?")[2]),
            address=self._http.host or _address(host, self._http.addr.port),
            metrics=None if self._http.debug is None else self._http.debug.prometheus,
        )
        return Page(200, headers["Content-Type"], body, headers)


def refresh_of(query: bytes) -> int | None:
    """
    After how many seconds browsers are to load the page again, by its query.

    >>> [refresh_of(query) for query in (b"refresh=10", b"", b"refresh=1", b"refresh=x", b"a=1&refresh=60")]
    [10, None, 5, None, 60]
    """
    match = _REFRESH.search(query)
    return None if match is None else max(_FASTEST, int(match[1]))


def render(
    status: Status, *, names: bool, refresh: int | None, address: str, metrics: str | None
) -> tuple[bytes, Mapping[str, str]]:
    """
    The page and its headers. Reads files at its first call: blocks.

    :param names: whether the document has names of repositories.
    :param refresh: seconds until browsers load it again.
    :param address: where clients reach the cache.
    :param metrics: path of the metrics.
    """
    pages = _pages()
    days = () if status.savings is None else status.savings.days
    since_start = status.savings is not None and status.savings.start.pulls > 0
    text = pages.render(
        "status.html",
        status=status,
        names=names,
        hub={one.registry for one in status.upstreams} == {"registry-1.docker.io"},
        refresh=refresh,
        address=address.rpartition("://")[2],
        links=[
            ("/debug/health", "Health"),
            ("/v1/status", "JSON"),
            *([(metrics, "Metrics")] if metrics else []),
        ],
        days=days,
        chart=chart_of(days) if days else None,
        pulled_before=since_start or any(day.pulls for day in days),
        attention=attention_of(status),
        ago=lambda seconds: _ago(status.time - seconds),
        most_rows=MOST_ROWS,
    )
    return text, {**pages.headers, **({} if refresh is None else {"Refresh": str(refresh)})}


@lru_cache(maxsize=1)
def _pages() -> HtmlPages:
    # Imported here: without browsers no templates are loaded.
    from contentcache.server.html import HtmlPages  # noqa: PLC0415

    pages = HtmlPages(_HERE)
    pages.filters.update(
        rfc3339=rfc3339, clock=_clock, day=_day, short=_short, kind=_kind, sentence=_sentence
    )
    return pages


def _address(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host or 'cache.example.com'}:{port}"


def _label(day: Savings) -> str:
    ratio = "no pulls" if day.hit_ratio is None else f"{rounded.share(day.hit_ratio)} hits"
    sent, received = rounded.size(day.sent_bytes), rounded.size(day.received_bytes)
    return f"{_day(day.since)}: {sent} sent, {received} received, {ratio}"


def _ago(seconds: float) -> str:
    if seconds < 1:
        return "just now"
    number, unit, *_ = rounded.duration(seconds).split(" ")
    return f"{number} {unit} ago"


def _clock(seconds: float) -> str:
    """
    >>> _clock(0.0)
    '00:00:00 UTC'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%H:%M:%S UTC")


def _day(seconds: float) -> str:
    """
    >>> _day(0.0)
    '1 Jan 1970'
    """
    return datetime.fromtimestamp(seconds, UTC).strftime("%d %b %Y").lstrip("0")


def _short(digest: str) -> str:
    return f"{digest[:_SHORT]}…" if len(digest) > _SHORT else digest


def _sentence(phrase: str) -> str:
    return phrase[:1].upper() + phrase[1:]


def _kind(kind: str) -> str:
    return kind.removesuffix("s")
