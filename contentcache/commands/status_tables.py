"""The status document as text and tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any, Final

from rich.console import RenderableType
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from contentcache.commands.output import cell, format_bytes, format_seconds

#: Of the errors the last ones are shown.
_MOST_ERRORS: Final = 10
_SHORT_DIGEST: Final = 19
_COLOURS: Final = {"ok": "green", "warn": "yellow", "fail": "bold red"}


def render(document: Any) -> Iterator[RenderableType]:
    """The summary, then a table for each thing of which there is any."""
    yield from _summary(document)
    if document["gateway"] is not None:
        yield from _caches(document["gateway"], document)
    if document["savings"] is not None:
        yield from _savings(document["savings"])
    yield from _downloads(document["downloads"])
    yield from _upstreams(document["upstreams"], document)
    yield from _errors(document["errors"])
    if document["store"] is not None:
        yield from _store(document["store"], document)
    yield from _certificates(document["certificates"], document)
    yield from _reload(document["reload"])


def _summary(document: Any) -> Iterator[Text]:
    health = document["health"]
    line = Text.assemble(
        (f"Content Cache {document['version']}", "bold"),
        f", {document['role']}: ",
        (
            "well" if health == "ok" else "needs attention" if health == "warn" else "not serving",
            _COLOURS[health],
        ),
        f", up {format_seconds(document['uptime_seconds'])}, process {document['pid']}",
    )
    workers = document["workers"]
    if workers["configured"] > 1:
        line.append(f", {workers['serving']} of {workers['configured']} workers serve")
    yield line
    facts = [fact for fact in (_saved(document), _stored(document), _in_flight(document)) if fact]
    if facts:
        yield Text("; ".join(facts))


def _saved(document: Any) -> str:
    savings = document["savings"]
    if savings is None:
        return f"{document['gateway']['redirects']} redirects" if document["gateway"] else ""
    period = savings["today"] or savings["start"]
    when = "today" if savings["today"] else "since the start"
    ratio = "" if period["hit_ratio"] is None else f", hit ratio {period['hit_ratio']:.0%}"
    return f"saved {format_bytes(period['saved_bytes'])} {when}{ratio}"


def _stored(document: Any) -> str:
    store = document["store"]
    if store is None or store["used_bytes"] is None:
        return ""
    limit = "" if store["limit_bytes"] is None else f" of {format_bytes(store['limit_bytes'])}"
    return f"{format_bytes(store['used_bytes'])}{limit} stored"


def _in_flight(document: Any) -> str:
    unhealthy = [one for one in document["upstreams"] if not one["healthy"]]
    parts = [f"{len(document['downloads'])} downloads"] if document["gateway"] is None else []
    if unhealthy:
        parts.append(f"{len(unhealthy)} of {len(document['upstreams'])} upstreams unhealthy")
    return "; ".join(parts)


def _savings(savings: Any) -> Iterator[RenderableType]:
    periods = (("since the start", "start"), ("today", "today"), ("30 days", "days_30"))
    rows = []
    for name, key in periods:
        period = savings[key]
        if period is not None:
            ratio = None if period["hit_ratio"] is None else f"{period['hit_ratio']:.1%}"
            sizes = (format_bytes(period[f"{each}_bytes"]) for each in ("saved", "sent", "received"))
            rows.append((name, *sizes, period["pulls"], ratio))
    yield from _table("saved", ("", "saved", "sent", "received", "pulls", "hit ratio"), rows, right=5)


def _downloads(downloads: Sequence[Any]) -> Iterator[RenderableType]:
    rows = []
    for one in downloads:
        size, rate = one["size"], one["bytes_per_second"]
        done = "" if not size else f" {one['bytes'] / size:.0%}"
        left = (size - one["bytes"]) / rate if size and rate else None
        rows.append(
            (
                _digest(one["digest"]),
                one["repository"],
                f"{format_bytes(one['bytes'])} of {format_bytes(size)}{done}",
                f"{format_bytes(rate)}/s",
                format_seconds(left),
                one["subscribers"],
                one["upstream"],
            )
        )
    names = ("digest", "repository", "progress", "rate", "left", "clients", "upstream")
    yield from _table("downloads", names, rows)


def _upstreams(upstreams: Sequence[Any], document: Any) -> Iterator[RenderableType]:
    rows = [
        (
            one["host"],
            Text("healthy", "green") if one["healthy"] else Text("unhealthy", "bold red"),
            _ago(one["since"], document),
            _ago(one["last_success"], document),
            format_seconds(one["round_trip_seconds"]),
        )
        for one in upstreams
    ]
    names = ("upstream", "health", "since", "last success", "round trip")
    yield from _table("upstreams", names, rows)
    yield from _reasons({one["host"]: one["reason"] for one in upstreams if not one["healthy"]})


def _reasons(reasons: Mapping[str, str | None]) -> Iterator[RenderableType]:
    """Why hosts are unhealthy, below their table: sentences are too long for a column."""
    for name, reason in reasons.items():
        if reason:
            is_named = "://" in name and name in reason
            yield Padding(cell(reason if is_named else f"{name}: {reason}", "red"), (0, 0, 0, 2))


def _store(store: Any, document: Any) -> Iterator[RenderableType]:
    facts = [
        ("place", store["path"] or "memory"),
        ("used", f"{format_bytes(store['used_bytes'])} of {format_bytes(store['limit_bytes'])}"),
        ("blobs", store["blobs"]),
        ("partial files", format_bytes(store["partial_bytes"])),
        ("free", f"{format_bytes(store['free_bytes'])}, minfree {format_bytes(store['min_free_bytes'])}"),
    ]
    if store["fault"]:
        facts.append(("fault", Text(store["fault"], "bold red")))
    yield from _table("store", (), facts)
    rows = [
        (
            _digest(one["digest"]),
            one["repository"],
            format_bytes(one["bytes"]),
            _ago(one["last_pull"], document),
        )
        for one in store["evicted_next"]
    ]
    yield from _table("evicted next", ("digest", "repository", "size", "last pull"), rows)


def _certificates(certificates: Sequence[Any], document: Any) -> Iterator[RenderableType]:
    rows = [
        (
            one["host"],
            one["expires"],
            _in(one["expires"], document),
            cell(one["detail"], _COLOURS[one["state"]]),
        )
        for one in certificates
    ]
    yield from _table("certificates", ("host", "expires", "in", ""), rows)


def _reload(result: Any) -> Iterator[RenderableType]:
    if result is not None:
        needs = (
            f"; needs a restart: {', '.join(result['restart_needed'])}" if result["restart_needed"] else ""
        )
        said = (
            "; ".join(result["errors"])
            if not result["ok"]
            else f"changed: {', '.join(result['changed']) or '-'}{needs}"
        )
        outcome = "done" if result["ok"] else "refused"
        yield from _table("last reload", (), [(result["time"], outcome, said)])


def _errors(errors: Sequence[Any]) -> Iterator[RenderableType]:
    rows = [(one["time"], one["level"], one["text"]) for one in errors[-_MOST_ERRORS:]]
    yield from _table("last errors", (), rows)


def _caches(gateway: Any, document: Any) -> Iterator[RenderableType]:
    facts = [("registry", gateway["registry"]), ("gateway", gateway["issuer"]), ("users", gateway["users"])]
    yield from _table("gateway", (), facts)
    rows = [
        (
            one["name"],
            one["host"],
            Text("healthy", "green") if one["healthy"] else Text("unhealthy", "bold red"),
            _ago(one["since"], document),
            one["users"],
            one["redirects"],
        )
        for one in gateway["caches"]
    ]
    yield from _table("caches", ("cache", "host", "health", "since", "users", "redirects"), rows)
    yield from _reasons({one["name"]: one["reason"] for one in gateway["caches"] if not one["healthy"]})


def _table(
    title: str, names: Sequence[str], rows: Sequence[Sequence[object]], *, right: int = 0
) -> Iterator[RenderableType]:
    """A table under its title, nothing where it would be empty; the last ``right`` columns hold numbers."""
    if not rows:
        return
    table = Table(*names, box=None, show_header=bool(names), header_style="underline", pad_edge=False)
    for row in rows:
        table.add_row(*(value if isinstance(value, Text) else cell(value) for value in row))
    for column in table.columns:
        column.overflow = "fold"
    for column in table.columns[-right:] if right else ():
        column.justify = "right"
    yield Text(f"\n{title}", "bold")
    yield Padding(table, (0, 0, 0, 2), expand=False)


def _digest(digest: str | None) -> str | None:
    return None if digest is None else digest[:_SHORT_DIGEST]


def _ago(time: str | None, document: Any) -> str | None:
    seconds = None if time is None else _seconds(document["time"]) - _seconds(time)
    return None if seconds is None else f"{format_seconds(max(0.0, seconds))} ago"


def _in(time: str | None, document: Any) -> str | None:
    return None if time is None else format_seconds(max(0.0, _seconds(time) - _seconds(document["time"])))


def _seconds(time: str) -> float:
    return datetime.fromisoformat(time).timestamp()
