"""Which configuration a command is about."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import suppress
from functools import wraps
from itertools import zip_longest
from pathlib import Path, PurePosixPath
from typing import TYPE_CHECKING, Any, Final, NoReturn

import click

from contentcache.commands.output import NOT_DONE, echo, print_json

if TYPE_CHECKING:
    from contentcache.config.faults import ConfigurationError
    from contentcache.config.loading import Loaded

_VARIABLE: Final = "REGISTRY_CONFIGURATION_PATH"
_DEFAULT: Final = "/etc/contentcache/config.yml"
#: The process whose arguments name the configuration in a container: the daemon, or an init before it.
_FIRST_PROCESS: Final = Path("/proc/1/cmdline")
_WITH_VALUE: Final = frozenset({"--user", "--logfile"})


def configuration_argument(command: Any) -> Any:
    """
    Give a command an argument ``FILE`` and an option ``--config FILE``, of which it gets the one that is
    given as ``file``.
    """

    @click.argument("file", required=False)
    @click.option("--config", "option", metavar="FILE", help="The same as FILE.")
    @wraps(command)
    def with_file(*args: Any, file: str | None, option: str | None, **kwargs: Any) -> Any:
        if file is not None and option is not None:
            raise click.UsageError("give either FILE or --config FILE")
        return command(*args, file=file if option is None else option, **kwargs)

    return with_file


def find_configuration(file: str | None, *, running: bool = False) -> str:
    """
    The path of the configuration: what the command line says, else the environment, else the usual place.

    With ``running`` it is that of the daemon that runs: in a container, that of process 1 is asked for first.
    """
    found = file or (file_of_first_process() if running else None)
    return found or os.environ.get(_VARIABLE) or _DEFAULT


def load_configuration(
    file: str | None, *, running: bool = False, as_json: bool = False
) -> tuple[str, Loaded]:
    """The path of a configuration, and what is in it. Faults are printed, all of them, and end the command."""
    from contentcache.config.faults import ConfigurationError  # noqa: PLC0415  # --help needs none of it
    from contentcache.config.loading import load  # noqa: PLC0415

    path = find_configuration(file, running=running)
    try:
        return path, load(path, os.environ)
    except ConfigurationError as faulty:
        fail_with_faults(faulty, as_json=as_json)


def fail_with_faults(faulty: ConfigurationError, *, as_json: bool) -> NoReturn:
    """End with all faults of a configuration."""
    if as_json:
        print_json({"file": faulty.file, "ok": False, "warnings": [], "errors": _errors(faulty)})
    echo(str(faulty), err=True)
    raise SystemExit(NOT_DONE)


def _errors(faulty: ConfigurationError) -> list[dict[str, object]]:
    return [
        {"key": fault.path, "line": fault.line, "variable": fault.variable, "message": fault.message}
        for fault in faulty.faults
    ]


def file_of_first_process() -> str | None:
    """The configuration that process 1 was started with, ``None`` where it is no Content Cache."""
    with suppress(OSError):
        return file_in(_FIRST_PROCESS.read_bytes())
    return None


def file_in(command_line: bytes) -> str | None:
    """
    The file in a command line as ``/proc`` has it.

    >>> file_in(b"python3\\0/bin/twistd\\0--nodaemon\\0contentcache\\0--config\\0/config.yml\\0")
    '/config.yml'
    >>> file_in(b"docker-init\\0--\\0/bin/python3\\0/bin/contentcache\\0serve\\0--user\\0nobody\\0/config.yml\\0")
    '/config.yml'
    >>> file_in(b"other\\0--config\\0/config.yml\\0")
    """
    words = [word.decode("utf-8", "surrogateescape") for word in command_line.split(b"\0") if word]
    names = [PurePosixPath(word).name for word in words]
    if "contentcache" not in names:
        return None
    place = names.index("contentcache")
    words = words[place + 1 :]
    return _option(words) or _argument(words)


def _option(words: Sequence[str]) -> str | None:
    found: str | None = None
    for word, following in zip_longest(words, words[1:], fillvalue=""):
        if word in {"--config", "-c"}:
            found = following
        elif word.startswith("--config="):
            found = word.removeprefix("--config=")
    return found or None


def _argument(words: Sequence[str]) -> str | None:
    before = ""
    for word in words:
        if not word.startswith("-") and word != "serve" and before not in _WITH_VALUE:
            return word
        before = word
    return None
