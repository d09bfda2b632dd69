"""
Write ``docs/commands.rst``, the reference of the command line, from the commands: ``python -m scripts.commands``.

With ``--check`` nothing is written, and the exit status is 1 where the reference is not up to date.
"""

from __future__ import annotations

import inspect
import re
import sys
from collections.abc import Iterator
from typing import Final

import click

from contentcache.commands.main import main as commands
from scripts.check_words import ROOT
from scripts.generated import write_or_check

_DOCUMENT: Final = ROOT / "docs" / "commands.rst"
_HEAD: Final = """\
========
Commands
========

.. Written by scripts/commands.py: do not edit.

.. contents::
   :local:
   :depth: 1

``contentcache COMMAND``, or ``contentcache FILE`` for ``contentcache serve FILE``. ``python -m contentcache``
is the same command, and without arguments ``serve``.

**Configuration.** Commands are about a configuration: FILE, or ``--config FILE``, else what
``REGISTRY_CONFIGURATION_PATH`` names, else ``/etc/contentcache/config.yml``. Overrides in the environment
(``REGISTRY_…``) count. Commands that ask the running daemon look first, in a container, for the configuration
that process 1 was started with.

**The running daemon** is asked at its admin socket, see `operating <operating.rst#the-admin-api>`_: that
takes its account or root. What can be read is read at the debug address where the socket cannot be used.

**Exit status.** 0 where what was asked for is done, 1 where it is not, 2 for a command line that cannot be
understood, 3 where the daemon cannot be reached.

**Output.** ``--json`` prints one JSON value for programs; in it an error is ``{"error": "…"}``, and the
sentence is on standard error, too. Without a terminal there are no colours and no line is folded;
``NO_COLOR`` is respected.
"""

#: What is spelled as it is: options, paths, keys, variables.
_LITERAL: Final = re.compile(r"(?<!\w)(--[a-z]+|/etc/\S+\.yml|http\.[a-z]+|REGISTRY_(?:[A-Z_]+|\.\.\.))")


def document() -> Iterator[str]:
    """The document, in pieces."""
    yield _HEAD
    context = click.Context(commands, info_name="contentcache")
    for name in commands.list_commands(context):
        command = commands.commands[name]
        yield f"\n\n{name}\n{'=' * len(name)}\n\n::\n\n"
        usage = command.get_usage(click.Context(command, info_name=name, parent=context))
        yield f"    {usage.removeprefix('Usage: ')}\n\n"
        yield f"{_prose(command.help or '')}\n"
        for option in command.params:
            if isinstance(option, click.Option) and option.help:
                yield f"\n``{_spelled(option)}``\n    {option.help}{_default(option)}\n"


def _prose(text: str) -> str:
    """
    >>> _prose("Read --json from FILE.")
    'Read ``--json`` from FILE.'
    """
    return _LITERAL.sub(r"``\1``", inspect.cleandoc(text))


def _spelled(option: click.Option) -> str:
    value = "" if option.is_flag else f" {option.metavar or option.type.name.upper()}"
    return ", ".join(f"{name}{value}" for name in option.opts)


def _default(option: click.Option) -> str:
    return (
        f" Default: {option.default:g}." if option.show_default and isinstance(option.default, float) else ""
    )


if __name__ == "__main__":
    sys.exit(write_or_check(_DOCUMENT, document(), sys.argv[1:], "scripts.commands"))
