"""``contentcache certificates``: what certificates there are, until when, and new ones now."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping, Sequence

from attrs import frozen
from cryptography.x509 import Certificate
from rich.console import Console
from rich.table import Table
from rich.text import Text

from contentcache.acme.certificate import format_time, issuer_of, names_of
from contentcache.acme.certificate_store import CertificateStore
from contentcache.acme.control import NoDaemon, ask
from contentcache.acme.errors import CertificateStoreError
from contentcache.acme.lock import CertificateStoreInUseError
from contentcache.acme.renewal_state import Outcome
from contentcache.config.model import Configuration, LetsEncrypt, ServerTLS
from contentcache.listening import CannotListen
from contentcache.tap import renew_alone
from contentcache.tls.files import TLSFault, read_certificates
from contentcache.upstream.proxies import ProxyFault


@frozen
class Row:
    """One certificate, in words."""

    host: str
    issuer: str
    expiry: str
    renewal: str
    note: str = ""


def rows(tls: ServerTLS, now: float) -> Iterator[Row]:
    """A row for each host, or for each name in the file that is configured."""
    if tls.letsencrypt is not None:
        told = _told_by_daemon(tls.letsencrypt)
        for host in tls.letsencrypt.hosts:
            yield _row_of_host(tls.letsencrypt, host, now, told.get(host) or told.get(""))
        return
    try:
        leaf = read_certificates(tls.certificate)[0]
    except TLSFault as fault:
        yield Row(tls.certificate, "", "", "", fault.message)
        return
    for name in names_of(leaf) or [tls.certificate]:
        yield Row(name, issuer_of(leaf), _expiry(leaf, now), "by you", tls.certificate)


class CannotRenew(Exception):
    """Nobody could be asked for new certificates; the sentence says why."""


def renewed(configuration: Configuration, settings: LetsEncrypt, hosts: Sequence[str]) -> list[Outcome]:
    """
    Ask for new certificates: the daemon, or in this process where there is none. Blocks.

    :raises CannotRenew: neither is possible.
    """
    folder = settings.directory
    try:
        outcomes = list(ask(folder, "renew", hosts))
    except NoDaemon:
        pass
    except OSError as error:
        raise CannotRenew(f"the daemon cannot be asked: {_why(error)}") from error
    else:
        if not outcomes:
            raise CannotRenew("the daemon has ended before it had an answer")
        if not outcomes[0].host:
            raise CannotRenew(outcomes[0].says)
        return outcomes
    if os.path.exists(folder) and os.stat(folder).st_uid != os.geteuid():
        # The daemon could not read what we leave there.
        owner = os.stat(folder).st_uid
        raise CannotRenew(
            f"no daemon runs, and {folder} is not ours: do it as its owner, sudo -u '#{owner}' ..."
        )
    try:
        return renew_alone(configuration, hosts)
    except (CannotListen, CertificateStoreInUseError, TLSFault, ProxyFault, OSError) as error:
        raise CannotRenew(f"no daemon answers, and it cannot be done without one: {error}") from error


def show(found: Sequence[Row], console: Console) -> None:
    """Print them as a table."""
    table = Table("host", "issuer", "expires", "next renewal", "note")
    for row in found:
        table.add_row(*map(_cell, (row.host, row.issuer, row.expiry, row.renewal, row.note)))
    console.print(table)


def _told_by_daemon(settings: LetsEncrypt) -> Mapping[str, Outcome]:
    """What the running daemon says of each host; for no host, why it says nothing."""
    try:
        return {outcome.host: outcome for outcome in ask(settings.directory, "status")}
    except NoDaemon:
        why = "no daemon runs"
    except OSError as error:
        why = f"the daemon cannot be asked: {_why(error)}"
    return {"": Outcome("", False, why)}


def _why(error: OSError) -> str:
    if isinstance(error, PermissionError):
        return f"{error.strerror or 'Permission denied'}; that takes the daemon's account, or root"
    return error.strerror or str(error)


def _row_of_host(settings: LetsEncrypt, host: str, now: float, told: Outcome | None) -> Row:
    note = told.says if told is not None and not told.is_new else ""
    try:
        kept = CertificateStore(settings.directory, time.time).inspect_certificate(host)
    except CertificateStoreError as fault:
        return Row(host, "", "", "", str(fault))
    again = format_time(told.again) if told is not None and told.again is not None else None
    if kept is None:
        return Row(host, "none yet", "", again or "now", note)
    leaf = kept.identity.chain[0]
    renewal = format_time(kept.renewal_time())
    if kept.metadata.server not in {"", settings.directoryurl}:
        renewal = "now: it is from another server"
    return Row(host, issuer_of(leaf), _expiry(leaf, now), again or renewal, note)


def _expiry(leaf: Certificate, now: float) -> str:
    ends = leaf.not_valid_after_utc.timestamp()
    return f"{format_time(ends)}{' (over)' if ends <= now else ''}"


def _cell(text: str) -> Text:
    """
    A text as it is: servers and authorities have chosen some of it, and rich would read orders in brackets.
    """
    return Text("".join(letter if letter.isprintable() else "?" for letter in text))
