"""What commands print, for people with or without a terminal, and as JSON for programs; options that they share."""

from __future__ import annotations

import errno
import json
import math
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from contentcache.core import durations

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

#: Exit statuses, besides 0.
NOT_DONE: Final = 1
UNREACHABLE: Final = 3
#: Where no terminal says how wide it is, lines are not broken, however long a path in them is.
_WIDE: Final = 10_000
_UNITS: Final = ("B", "KiB", "MiB", "GiB", "TiB", "PiB")
_STEP: Final = 1024
_MINUTE: Final = 60.0
_DAY: Final = 86400.0
#: Why standard output takes nothing more.
_UNWRITABLE: Final = (errno.EPIPE, errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO)


class Seconds(click.FloatRange):
    """The value of an option: seconds that a timer can wait."""

    name = "seconds"

    def __init__(self) -> None:
        super().__init__(min=0.1, max=_DAY)

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """Refuse what is no number, too, as every comparison with it is false."""
        seconds = float(super().convert(value, param, ctx))
        if math.isnan(seconds):
            self.fail(f"{value} is not in the range {self._describe_range()}.", param, ctx)
        return seconds


@contextmanager
def whole_output() -> Iterator[None]:
    """
    End with a sentence where not all that was printed could be written, and in silence where the reader has closed
    its pipe.
    """
    try:
        try:
            yield
        finally:
            if sys.stdout is not None:
                sys.stdout.flush()
    except OSError as error:
        if error.errno not in _UNWRITABLE:
            raise
        _discard_output()
        if error.errno != errno.EPIPE:
            echo(f"not all could be written: {error.strerror}", err=True)
        raise SystemExit(NOT_DONE) from None


def _discard_output() -> None:
    """Let what is buffered go nowhere: the interpreter writes it at its end."""
    with suppress(OSError, ValueError), open(os.devnull, "wb") as nothing:
        os.dup2(nothing.fileno(), sys.stdout.fileno())


def json_option(command: Any) -> Any:
    """Give a command the option ``--json``."""
    return click.option("--json", "as_json", is_flag=True, help="Print JSON, for programs.")(command)


def echo(text: str, *, err: bool = False) -> None:
    """Print a line."""
    click.echo(printable(text), err=err)


def print_json(value: object, *, compact: bool = False) -> None:
    """Print a value as JSON; ``compact`` in one line."""
    click.echo(json.dumps(value) if compact else json.dumps(value, indent=2))


def fail(sentence: str, status: int = NOT_DONE, *, as_json: bool = False) -> NoReturn:
    """End with a sentence on standard error, and an exit status; programs get it as JSON, too."""
    if as_json:
        print_json({"error": sentence})
    echo(sentence, err=True)
    raise SystemExit(status)


def make_console() -> Console:
    """Make a console that colours and folds only for a terminal; ``NO_COLOR`` is respected."""
    from rich.console import Console  # noqa: PLC0415  # most commands need none of it

    is_terminal = sys.stdout.isatty()
    no_color = not is_terminal or bool(os.environ.get("NO_COLOR"))
    return Console(
        width=None if is_terminal else _WIDE, no_color=no_color, force_terminal=is_terminal, highlight=False
    )


def cell(value: object, style: str = "") -> Text:
    """Literal text of a table: servers have chosen some of it, and rich would interpret brackets as markup."""
    from rich.text import Text  # noqa: PLC0415

    text = "-" if value is None or value == "" else str(value)
    return Text("".join(letter if letter.isprintable() else "?" for letter in text), style)


def printable(text: str) -> str:
    """
    Text for any terminal: a path may hold bytes that are no characters.

    >>> printable("caf\\udce9.yml")
    'caf\\\\udce9.yml'
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)


def format_bytes(number: float | None) -> str:
    """
    Bytes for people.

    >>> format_bytes(0), format_bytes(1536), format_bytes(5 << 40), format_bytes(None)
    ('0 B', '1.5 KiB', '5.0 TiB', '-')
    """
    if number is None:
        return "-"
    value, unit = float(number), 0
    while value >= _STEP and unit < len(_UNITS) - 1:
        value, unit = value / _STEP, unit + 1
    return f"{value:.0f} B" if unit == 0 else f"{value:.1f} {_UNITS[unit]}"


def format_seconds(seconds: float | None) -> str:
    """
    A duration for people, to two units at most.

    >>> format_seconds(0.0314), format_seconds(59), format_seconds(3700), format_seconds(90000)
    ('31ms', '59s', '1h1m', '1d1h')
    """
    if seconds is None:
        return "-"
    if seconds < 1:
        return f"{seconds * 1000:.0f}ms"
    if seconds < _DAY:
        whole = float(int(seconds if seconds < 60 * _MINUTE else seconds // _MINUTE * _MINUTE))
        return durations.spell(whole)
    days, rest = divmod(int(seconds), int(_DAY))
    return f"{days}d{rest // 3600}h"
