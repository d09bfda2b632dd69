"""``contentcache certificates``: hosts, issuers, expiry; and new certificates now."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING

import click
from attrs import asdict

from contentcache.commands.configuration import configuration_argument, load_configuration
from contentcache.commands.output import (
    NOT_DONE,
    UNREACHABLE,
    echo,
    fail,
    json_option,
    make_console,
    print_json,
)

if TYPE_CHECKING:
    from contentcache.config.model import Configuration, ServerTLS


@click.command()
@configuration_argument
@click.option("--renew", is_flag=True, help="Ask for new certificates now.")
@click.option("--host", "hosts", multiple=True, help="Only for this host; may be given several times.")
@json_option
def certificates(file: str | None, renew: bool, hosts: tuple[str, ...], as_json: bool) -> None:
    """
    Show certificates, or renew them.

    Those of a configuration FILE are shown with hosts, issuers, expiry and next renewal.

    With --renew, ask the certificate authority for new ones: through the daemon if it runs, else on its
    ports. The exit status is 1 where one could not be had, and 3 where a daemon runs that cannot be asked.
    """
    # Here, so that the other commands need not load what this one does.
    from contentcache.commands.certificate_table import print_table, rows  # noqa: PLC0415

    _path, loaded = load_configuration(file, running=True, as_json=as_json)
    tls = loaded.configuration.http.tls
    if tls is None:
        fail("this configuration has no section http.tls, so there are no certificates", as_json=as_json)
    hosts = tuple(map(_as_configured, hosts))
    if tls.letsencrypt is not None:
        for host in hosts:
            if host not in tls.letsencrypt.hosts:
                known = ", ".join(tls.letsencrypt.hosts)
                fail(f"{host} is not in letsencrypt.hosts: {known}", as_json=as_json)
    is_done = _renew(loaded.configuration, tls, hosts, as_json=as_json) if renew else True
    found = [row for row in rows(tls, time.time()) if not hosts or row.host in hosts]
    if as_json:
        print_json({"certificates": [asdict(row) for row in found]})
    else:
        print_table(found, make_console())
    if not is_done:
        raise SystemExit(NOT_DONE)


def _as_configured(host: str) -> str:
    """
    A host as the configuration has it once it is read; what is none stays as it is.

    >>> _as_configured("Caf\u00e9.example"), _as_configured("*.a.example")
    ('xn--caf-dma.example', '*.a.example')
    """
    from contentcache.config.faults import InvalidValueError  # noqa: PLC0415
    from contentcache.config.urls import authority_of, base_url_of  # noqa: PLC0415

    try:
        return authority_of(base_url_of(f"https://{host}"))
    except InvalidValueError:
        return host


def _renew(configuration: Configuration, tls: ServerTLS, hosts: tuple[str, ...], *, as_json: bool) -> bool:
    from contentcache.commands.certificate_table import (  # noqa: PLC0415
        NoAnswerError,
        RenewalError,
        renew_certificates,
    )

    settings = tls.letsencrypt
    if settings is None:
        fail("these certificates are files: replace them, and reload the daemon", as_json=as_json)
    try:
        outcomes = renew_certificates(configuration, settings, hosts)
    except NoAnswerError as error:
        fail(str(error), UNREACHABLE, as_json=as_json)
    except RenewalError as error:
        fail(str(error), as_json=as_json)
    for outcome in outcomes:
        verb = "has" if outcome.is_new else "has no new certificate:"
        if not (as_json and outcome.is_new):
            echo(f"{outcome.host} {verb} {outcome.says}", err=not outcome.is_new)
    return all(outcome.is_new for outcome in outcomes)
