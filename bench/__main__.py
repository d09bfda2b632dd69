"""Runs cases, prints medians side by side with their ratio, and keeps every row as JSON in ``bench/results``."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console

from bench import cases, cold, disks, growth, many, push, signed, small, speed
from bench.machine import machine
from bench.peers import load, say
from bench.picture import picture
from bench.table import table_of

CASES = {
    name: case
    for module in (cases, speed, signed, small, cold, push, disks, many, growth)
    for name, case in module.CASES.items()
}
RESULTS = Path(__file__).parent / "results"


@click.command()
@click.argument("names", nargs=-1, metavar="[NAME]...")
@click.option("--rounds", type=click.IntRange(1), help="Rounds of each case, instead of its own number.")
@click.option("--list", "only_list", is_flag=True, help="Say which cases there are, and end.")
def main(names: Sequence[str], rounds: int | None, *, only_list: bool) -> None:
    """Run the cases NAME, or all of them."""
    console = Console(width=130)
    if only_list:
        for name in sorted(CASES):
            click.echo(f"{name:20} {_title(name)}")
        return
    for name in names:
        if name not in CASES:
            raise click.BadParameter(f"{name!r} is not a case; there are {', '.join(sorted(CASES))}")
    for number in (
        signal.SIGTERM,
        signal.SIGINT,
    ):  # what was started ends too
        signal.signal(number, lambda caught, _frame: sys.exit(128 + caught))
    there = machine()
    console.print(", ".join(f"{key} {value}" for key, value in there.items()))
    RESULTS.mkdir(exist_ok=True)
    failed = [name for name in names or sorted(CASES) if not _run(console, name, rounds, there)]
    if failed:
        raise click.ClickException(f"not finished: {', '.join(failed)}")


def _run(console: Console, name: str, rounds: int | None, there: dict[str, object]) -> bool:
    """One case; whether it came to its end. One that did not must not take the others with it."""
    case, own_rounds = CASES[name]
    say(f"{name}: {_title(name)}")
    before = load()
    try:
        rows = case(rounds or own_rounds)
    except (AssertionError, OSError) as error:
        say(f"{name} was not finished: {error}")
        return False
    console.print(table_of(name, _title(name), rows))
    result = {"case": name, "title": _title(name), "machine": there, "load before": before, "rows": rows}
    (RESULTS / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", "utf-8")
    (RESULTS / f"{name}.svg").write_text(picture(name, rows), "utf-8")
    return True


def _title(name: str) -> str:
    return " ".join((CASES[name][0].__doc__ or "").split())


if __name__ == "__main__":
    sys.exit(main())
