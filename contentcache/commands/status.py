"""``contentcache status``: what the daemon knows of itself."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from typing import Any, Final

import click

from contentcache.commands.configuration import configuration_argument
from contentcache.commands.daemon_client import DaemonClient, RefusedError, UnreachableError, ask_daemon
from contentcache.commands.output import Seconds, cell, echo, json_option, make_console, print_json

_INTERVAL: Final = 2.0


@click.command()
@configuration_argument
@click.option("--watch", is_flag=True, help="Show it again and again, until interrupted.")
@click.option(
    "--interval",
    type=Seconds(),
    default=_INTERVAL,
    show_default=True,
    help="Seconds between two looks.",
)
@json_option
def status(file: str | None, watch: bool, interval: float, as_json: bool) -> None:
    """
    Show what the daemon knows of itself.

    Of the daemon of a configuration FILE that is what it saved, what it downloads now, its upstreams, its
    store, its certificates and its last errors; of a gateway, its caches. The exit status is 3 where no
    daemon can be reached.
    """
    client, first = ask_daemon(file, lambda client: client.get("status"), as_json=as_json)
    if not watch:
        _print(first, as_json=as_json)
        return
    with suppress(KeyboardInterrupt):
        if as_json or not sys.stdout.isatty():
            _print_again_and_again(client, first, interval, as_json=as_json)
        else:
            _show_live(client, first, interval)


def _print(document: Any, *, as_json: bool) -> None:
    if as_json:
        print_json(document)
        return
    from contentcache.commands.status_tables import render  # noqa: PLC0415  # JSON needs no tables

    console = make_console()
    for part in render(document):
        console.print(part)


def _print_again_and_again(client: DaemonClient, first: Any, interval: float, *, as_json: bool) -> None:
    from contentcache.commands.status_tables import render  # noqa: PLC0415

    console = make_console()
    for document in _documents(client, first, interval):
        if as_json:
            print_json(document, compact=True)
        elif "error" in document:
            echo(document["error"])
        else:
            for part in render(document):
                console.print(part)
            console.print()
        sys.stdout.flush()


def _show_live(client: DaemonClient, first: Any, interval: float) -> None:
    from rich.console import Group  # noqa: PLC0415
    from rich.live import Live  # noqa: PLC0415

    from contentcache.commands.status_tables import render  # noqa: PLC0415

    with Live(console=make_console(), screen=True, auto_refresh=False) as live:
        for document in _documents(client, first, interval):
            parts = [cell(document["error"], "bold red")] if "error" in document else list(render(document))
            live.update(Group(*parts), refresh=True)


def _documents(client: DaemonClient, first: Any, interval: float) -> Iterator[Any]:
    """The document now and after each interval; a daemon that does not answer may do so again."""
    previous = first
    yield first
    while True:
        time.sleep(interval)
        try:
            document = client.get("status")
        except (UnreachableError, RefusedError) as error:
            yield {"error": str(error)}
            continue
        _measure_rates(document, previous, interval)
        yield document
        previous = document


def _measure_rates(document: Any, previous: Any, interval: float) -> None:
    """Replace each download's rate since its start by its rate since the previous document."""
    before = {_key(download): download["bytes"] for download in previous["downloads"]}
    for download in document["downloads"]:
        known = before.get(_key(download))
        if known is not None and download["bytes"] >= known:
            download["bytes_per_second"] = (download["bytes"] - known) / interval


def _key(download: Any) -> tuple[object, ...]:
    return download["registry"], download["digest"], download["started"]
