"""What is wrong with a file, and where: collected, so that all faults are reported at once."""

from __future__ import annotations

import re
from collections.abc import Iterable
from difflib import get_close_matches

from attrs import define, field, frozen

_SIMPLE_KEY = re.compile(r"[A-Za-z0-9_-]+")


@frozen
class Origin:
    """Where a value was written: on a line of the file (from 1), or in an environment variable."""

    line: int | None = None
    variable: str | None = None


@frozen
class Position:
    """A value's path in the file, and where it was written."""

    path: str = ""
    origin: Origin = Origin()


@frozen
class Fault:
    """One thing that is invalid. ``line`` is ``None`` for the file as a whole and for ``variable``."""

    path: str
    line: int | None
    message: str
    variable: str | None = None

    def format(self, file: str) -> str:
        """
        The fault in one line, the way compilers write them.

        >>> Fault("http.addr", 3, "is required").format("config.yml")
        'config.yml:3: http.addr: is required'
        """
        where = self.variable or (file if self.line is None else f"{file}:{self.line}")
        return ": ".join(part for part in (where, self.path, self.message) if part)


class ConfigurationError(Exception):
    """A file cannot be used. Its text has all ``faults``, one per line."""

    def __init__(self, file: str, faults: Iterable[Fault]) -> None:
        self.file = file
        self.faults = tuple(faults)
        super().__init__("\n".join(fault.format(file) for fault in self.faults))


class InvalidValueError(Exception):
    """A value is invalid; the message is one sentence for the operator."""


@define
class Report:
    """Collects faults and warnings while a file is read."""

    _faults: list[Fault] = field(factory=list)
    _warnings: list[Fault] = field(factory=list)

    def fault(self, position: Position, message: str) -> None:
        """Report what makes the file unusable."""
        self._faults.append(Fault(position.path, position.origin.line, message, position.origin.variable))

    def warn(self, position: Position, message: str) -> None:
        """Report what the operator should know though the daemon starts."""
        self._warnings.append(Fault(position.path, position.origin.line, message, position.origin.variable))

    def faults(self) -> tuple[Fault, ...]:
        """All faults, each once, in the order of the file; those of the environment last."""
        return _ordered(self._faults)

    def warnings(self, file: str) -> tuple[str, ...]:
        """All warnings, each once and in one line."""
        return tuple(warning.format(file) for warning in _ordered(self._warnings))


def below(path: str, key: str | int) -> str:
    r"""
    The path of an entry of a mapping or a list.

    >>> below(below("middleware.registry", 0), "name")
    'middleware.registry[0].name'
    >>> below("http.headers", "X\nY")
    "http.headers['X\\nY']"
    """
    if isinstance(key, int) or not _SIMPLE_KEY.fullmatch(key):
        return f"{path}[{key!r}]"
    return f"{path}.{key}" if path else key


def suggestion(word: str, known: Iterable[str]) -> str:
    """
    The end of a sentence that names the nearest of ``known``, or nothing where none is near.

    >>> suggestion("blobtll", ["blobttl", "cas"])
    '; did you mean blobttl?'
    """
    spellings = {name.lower(): name for name in known}
    near = get_close_matches(word[:100].lower(), spellings, n=1, cutoff=0.6)
    return f"; did you mean {spellings[near[0]]}?" if near else ""


def _ordered(notes: Iterable[Fault]) -> tuple[Fault, ...]:
    def position(note: Fault) -> tuple[bool, int, str]:
        return note.variable is not None, note.line or 0, note.variable or ""

    return tuple(sorted(dict.fromkeys(notes), key=position))
