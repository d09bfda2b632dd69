"""The command line beside ``twistd``: what can be asked of a configuration, and of the daemon that has it."""

from __future__ import annotations

import os
import sys
import time
from typing import Final

import click

from contentcache import __version__
from contentcache.app.alive import NotAliveError, ask, file_of_first_process
from contentcache.config.faults import ConfigurationError, InvalidValueError
from contentcache.config.loading import Loaded, load
from contentcache.config.model import Configuration, ServerTLS
from contentcache.config.show import render
from contentcache.config.urls import authority_of, base_url_of

#: Where no terminal says how wide it is, lines are not broken, however long a path in them is.
_WIDE: Final = 10_000


@click.group()
@click.version_option(__version__, prog_name="contentcache")
def main() -> None:
    """A pull-through cache for container images."""


@main.command()
@click.argument("file", required=False)
@click.option("--show", is_flag=True, help="Print the configuration in effect, without its passwords.")
def check(file: str | None, show: bool) -> None:
    """
    Say everything that is wrong with a configuration FILE, or OK.

    Overrides in the environment (REGISTRY_...) count. Without FILE the one that
    REGISTRY_CONFIGURATION_PATH names is read. The exit status is 1 where there are faults.
    """
    path, loaded = _load(file)
    # Beside YAML the rest is a comment, so that the whole can be read as a file again.
    mark = "# " if show else ""
    for warning in loaded.warnings:
        click.echo(_printable(f"{mark}warning: {warning}"))
    click.echo(_printable(f"{mark}{path}: OK"))
    if show:
        click.echo(render(loaded.configuration), nl=False)


@main.command()
@click.argument("file", required=False)
@click.option("--renew", is_flag=True, help="Ask for new certificates now.")
@click.option("--host", "hosts", multiple=True, help="Only for this host; may be given several times.")
def certificates(file: str | None, renew: bool, hosts: tuple[str, ...]) -> None:
    """
    Show the certificates of a configuration FILE: hosts, issuers, expiry, next renewal.

    With --renew, ask the certificate authority for new ones: through the daemon if it runs, else on its
    ports. The exit status is 1 where one could not be had.
    """
    # Here, so that the other commands need not load what this one does.
    from rich.console import Console  # noqa: PLC0415

    from contentcache.app.certificates import rows, show  # noqa: PLC0415

    _, loaded = _load(file)
    tls = loaded.configuration.http.tls
    if tls is None:
        raise click.ClickException("this configuration has no section http.tls, so there are no certificates")
    hosts = tuple(map(_as_configured, hosts))
    if tls.letsencrypt is not None:
        for host in hosts:
            if host not in tls.letsencrypt.hosts:
                known = ", ".join(tls.letsencrypt.hosts)
                raise click.ClickException(_printable(f"{host} is not in letsencrypt.hosts: {known}"))
    is_well = _renew(loaded.configuration, tls, hosts) if renew else True
    console = Console(width=None if sys.stdout.isatty() else _WIDE)
    show([row for row in rows(tls, time.time()) if not hosts or row.host in hosts], console)
    if not is_well:
        raise SystemExit(1)


def _as_configured(host: str) -> str:
    """
    A host as the configuration has it once it is read; what is none stays as it is.

    >>> _as_configured("Caf\u00e9.example"), _as_configured("*.a.example")
    ('xn--caf-dma.example', '*.a.example')
    """
    try:
        return authority_of(base_url_of(f"https://{host}"))
    except InvalidValueError:
        return host


def _renew(configuration: Configuration, tls: ServerTLS, hosts: tuple[str, ...]) -> bool:
    from contentcache.app.certificates import RenewalError, renew_certificates  # noqa: PLC0415

    settings = tls.letsencrypt
    if settings is None:
        raise click.ClickException("these certificates are files: replace them, and reload the daemon")
    try:
        outcomes = renew_certificates(configuration, settings, hosts)
    except RenewalError as error:
        raise click.ClickException(_printable(str(error))) from None
    for outcome in outcomes:
        verb = "has" if outcome.is_new else "has no new certificate:"
        click.echo(_printable(f"{outcome.host} {verb} {outcome.says}"), err=not outcome.is_new)
    return all(outcome.is_new for outcome in outcomes)


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
    _, loaded = _load(file or file_of_first_process())
    try:
        click.echo(_printable(ask(loaded.configuration.http, timeout)))
    except NotAliveError as dead:
        click.echo(_printable(str(dead)), err=True)
        raise SystemExit(1) from None


def _load(file: str | None) -> tuple[str, Loaded]:
    """A configuration without faults; otherwise they are printed, and that is the end."""
    path = file or os.environ.get("REGISTRY_CONFIGURATION_PATH")
    if not path:
        raise click.UsageError("name a FILE, or set REGISTRY_CONFIGURATION_PATH")
    try:
        return path, load(path, os.environ)
    except ConfigurationError as faulty:
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


if __name__ == "__main__":
    main()
