"""
Write ``docs/log-events.rst``, the list of all events of the log, from the code: ``python -m scripts.log_events``.

With ``--check`` nothing is written, and the exit status is 1 where the list is not up to date.
"""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator, Mapping
from typing import Final

from scripts.check_words import ROOT, log_events, tracked
from scripts.generated import write_or_check

_DOCUMENT: Final = ROOT / "docs" / "log-events.rst"
_HEAD: Final = """\
==========
Log events
==========

.. Written by scripts/log_events.py: do not edit.

Every event that the daemon logs, by level, with its fields. What a line looks like is in `operating
<operating.rst#the-log>`_. Events of level ``critical`` are defects of the daemon; their traceback follows
the fields. What is logged while a request is answered has ``request_id`` too, and in the task of a shared download
``download``.

"""
_LEVELS: Final = ("critical", "error", "warn", "info", "debug")


def events() -> Mapping[str, Mapping[str, set[str]]]:
    """The fields of each event by level and phrase."""
    found: dict[str, dict[str, set[str]]] = {level: {} for level in _LEVELS}
    for path in tracked("contentcache/*.py"):
        for event in log_events(ast.parse(path.read_text("utf-8"))):
            levels = {"failure": ("critical",), "emit": ("error", "warn")}.get(
                event.level, event.level.split("/")
            )
            if event.phrase is not None and event.phrase != "access":
                for level in levels:
                    names = {field.rstrip("_") for field in event.fields if field != "**"}
                    found[level].setdefault(event.phrase, set()).update(names)
    return found


def document() -> Iterator[str]:
    """The document, in pieces."""
    yield _HEAD
    for level, phrases in events().items():
        if phrases:
            yield f"{level}\n{'=' * len(level)}\n\n"
            for phrase, fields in sorted(phrases.items()):
                names = ", ".join(f"``{name}``" for name in sorted(fields))
                yield f"* ``{phrase}``{': ' if names else ''}{names}\n"
            yield "\n"


if __name__ == "__main__":
    sys.exit(write_or_check(_DOCUMENT, document(), sys.argv[1:], "scripts.log_events"))
