"""
The command line beside ``twistd``: what can be asked of a configuration without starting a daemon.
"""

from __future__ import annotations

import os
import sys

import click

from contentcache import __version__
from contentcache.config.faults import ConfigurationFaulty
from contentcache.config.loading import load
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
    try:
        loaded = load(path, os.environ)
    except ConfigurationFaulty as faulty:
        click.echo(_printable(str(faulty)), err=True)
        raise SystemExit(1) from None
    # Beside YAML the rest is a comment, so that the whole can be read as a file again.
    mark = "# " if show else ""
    for warning in loaded.warnings:
        click.echo(_printable(f"{mark}warning: {warning}"))
    click.echo(_printable(f"{mark}{path}: OK"))
    if show:
        click.echo(render(loaded.configuration), nl=False)


def _printable(text: str) -> str:
    """
    Text for any terminal: a path may hold bytes that are no characters.

    >>> _printable("caf\\udce9.yml")
    'caf\\\\udce9.yml'
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    return text.encode(encoding, "backslashreplace").decode(encoding)
