"""
The command line beside ``twistd``: what can be asked of a configuration, and of the daemon that has it.
"""

from __future__ import annotations

import os
import sys

import click

from contentcache import __version__
from contentcache.alive import NotAlive, ask, file_of_first_process
from contentcache.config.faults import ConfigurationFaulty
from contentcache.config.loading import Loaded, load
from contentcache.config.show import render


@click.group()
@click.version_option(__version__, prog_name="contentcache")
def main() -> None:
    """
    A pull-through cache for container images.
    """


@main.command()
@click.argument("file", required=False)
@click.option("--show", is_flag=True, help="Print the configuration in effect, without its passwords.")
def check(file: str | None, show: bool) -> None:
    """
    Say everything that is wrong with a configuration FILE, or OK.

    Overrides in the environment (REGISTRY_...) count. Without FILE the one that
    REGISTRY_CONFIGURATION_PATH names is read. The exit status is 1 where there are faults.
    """
    path = file or os.environ.get("REGISTRY_CONFIGURATION_PATH")
    if not path:
        raise click.UsageError("name a FILE, or set REGISTRY_CONFIGURATION_PATH")
    loaded = _load(path)
    # Beside YAML the rest is a comment, so that the whole can be read as a file again.
    mark = "# " if show else ""
    for warning in loaded.warnings:
        click.echo(_printable(f"{mark}warning: {warning}"))
    click.echo(_printable(f"{mark}{path}: OK"))
    if show:
        click.echo(render(loaded.configuration), nl=False)


@main.command()
@click.argument("file", required=False)
@click.option("--timeout", default=5.0, show_default=True, help="Seconds to wait for an answer.")
def alive(file: str | None, timeout: float) -> None:
    """
    Ask the daemon that runs with a configuration FILE whether it answers.

    It is asked on its own address; certificates are not verified. Overrides in the environment (REGISTRY_...)
    count. Without FILE the one that process 1 was started with is read, as in a container, or the one that
    REGISTRY_CONFIGURATION_PATH names. The exit status is 1 where there is no answer.
    """
    path = file or file_of_first_process() or os.environ.get("REGISTRY_CONFIGURATION_PATH")
    if not path:
        raise click.UsageError("name a FILE, or set REGISTRY_CONFIGURATION_PATH")
    try:
        click.echo(_printable(ask(_load(path).configuration.http, timeout)))
    except NotAlive as dead:
        click.echo(_printable(str(dead)), err=True)
        raise SystemExit(1) from None


def _load(path: str) -> Loaded:
    """
    The configuration; its faults are printed, and end the process with status 1.
    """
    try:
        return load(path, os.environ)
    except ConfigurationFaulty as faulty:
        click.echo(_printable(str(faulty)), err=True)
        raise SystemExit(1) from None


def _printable(text: str) -> str:
    """
    Text for any terminal: a path may hold bytes that are no characters.

    >>> _printable("caf\\udce9.yml")
    'caf\\\\udce9.yml'
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
