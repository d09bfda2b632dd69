"""The certificates of a configuration with their expiry, and their renewal: by the daemon, or without one."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen
from cryptography.x509 import Certificate
from rich.console import Console
from rich.table import Table

from contentcache.acme.certificate import format_time, issuer_of
from contentcache.acme.certificate_store import CertificateStore
from contentcache.acme.control import NoDaemonError, send_command
from contentcache.acme.errors import CertificateStoreError, CertificateStoreInUseError
from contentcache.acme.renewal_state import RenewalOutcome
from contentcache.app.listening import ListenError
from contentcache.app.tap import renew_without_daemon
from contentcache.commands.output import cell
from contentcache.config.model import Configuration, LetsEncrypt, ServerTLS
from contentcache.tls.files import TLSConfigurationError, names_of, read_certificates
from contentcache.upstream.proxies import ProxyFault


@frozen
class Row:
    """The table row of one certificate."""

    host: str
    issuer: str
    expiry: str
    renewal: str
    note: str = ""


def rows(tls: ServerTLS, now: float) -> Iterator[Row]:
    """A row for each host, or for each name in the configured file."""
    if tls.letsencrypt is not None:
        status = _status_of_daemon(tls.letsencrypt)
        for host in tls.letsencrypt.hosts:
            yield _row_of_host(tls.letsencrypt, host, now, status.get(host) or status.get(""))
        return
    try:
        leaf = read_certificates(tls.certificate)[0]
    except TLSConfigurationError as fault:
        yield Row(tls.certificate, "", "", "", fault.message)
        return
    for name in names_of(leaf) or [tls.certificate]:
        yield Row(name, issuer_of(leaf), _expiry(leaf, now), "by you", tls.certificate)


class RenewalError(Exception):
    """No certificate could be requested; the message says why."""


class NoAnswerError(RenewalError):
    """There is a daemon, and it cannot be reached."""


def renew_certificates(
    configuration: Configuration, settings: LetsEncrypt, hosts: Sequence[str]
) -> list[RenewalOutcome]:
    """
    Renew certificates: through the daemon, or in this process where there is none. Blocks.

    :raises RenewalError: neither is possible.
    """
    folder = settings.directory
    try:
        outcomes = list(send_command(folder, "renew", hosts))
    except NoDaemonError:
        pass
    except OSError as error:
        raise NoAnswerError(f"the daemon cannot be asked: {_reason_of(error)}") from error
    else:
        if not outcomes:
            raise NoAnswerError("the daemon has ended before it had an answer")
        if not outcomes[0].host:
            raise RenewalError(outcomes[0].says)
        return outcomes
    if os.path.exists(folder) and os.stat(folder).st_uid != os.geteuid():
        # The daemon could not read the files that this process would create.
        owner = os.stat(folder).st_uid
        raise RenewalError(
            f"no daemon runs, and {folder} is not ours: do it as its owner, sudo -u '#{owner}' ..."
        )
    try:
        return renew_without_daemon(configuration, hosts)
    except (ListenError, CertificateStoreInUseError, TLSConfigurationError, ProxyFault, OSError) as error:
        raise RenewalError(f"no daemon answers, and it cannot be done without one: {error}") from error


def print_table(found: Sequence[Row], console: Console) -> None:
    """Print them as a table."""
    table = Table("host", "issuer", "expires", "next renewal", "note")
    for row in found:
        table.add_row(*map(cell, (row.host, row.issuer, row.expiry, row.renewal, row.note)))
    console.print(table)


def _status_of_daemon(settings: LetsEncrypt) -> Mapping[str, RenewalOutcome]:
    """The status of each host from the running daemon; under no host, why there is none."""
    try:
        return {outcome.host: outcome for outcome in send_command(settings.directory, "status")}
    except NoDaemonError:
        reason = "no daemon runs"
    except OSError as error:
        reason = f"the daemon cannot be asked: {_reason_of(error)}"
    return {"": RenewalOutcome("", False, reason)}


def _reason_of(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"{error.strerror or 'Permission denied'}; that takes the daemon's account, or root"
    return error.strerror or str(error)


def _row_of_host(settings: LetsEncrypt, host: str, now: float, status: RenewalOutcome | None) -> Row:
    note = status.says if status is not None and not status.is_new else ""
    try:
        certificate = CertificateStore(settings.directory, time.time).inspect_certificate(host)
    except CertificateStoreError as fault:
        return Row(host, "", "", "", str(fault))
    again = format_time(status.again) if status is not None and status.again is not None else None
    if certificate is None:
        return Row(host, "none yet", "", again or "now", note)
    leaf = certificate.identity.chain[0]
    renewal = format_time(certificate.renewal_time())
    if certificate.metadata.server not in {"", settings.directoryurl}:
        renewal = "now: it is from another server"
    return Row(host, issuer_of(leaf), _expiry(leaf, now), again or renewal, note)


def _expiry(leaf: Certificate, now: float) -> str:
    ends = leaf.not_valid_after_utc.timestamp()
    return f"{format_time(ends)}{' (over)' if ends <= now else ''}"
