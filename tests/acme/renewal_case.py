"""A renewal loop with an ACME server in memory and clocks that a test advances."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.acme.certificate_store import CertificateStore
from contentcache.acme.challenges import Http01Responder
from contentcache.acme.issuer import AcmeIssuer
from contentcache.acme.records import BackoffRecord
from contentcache.acme.renewal_loop import RenewalLoop
from contentcache.aio.threads import at_once
from contentcache.config.model import LetsEncrypt
from contentcache.core.ports import Runtime
from contentcache.tls.files import Identity
from tests.acme.server import DIRECTORY, Acme, Bad

HOST = "cache.example.com"
#: When the tests begin, seconds since 1970.
BEGINNING = 1_800_000_000.0


class RecordingAlpnResponder:
    """A responder for ``tls-alpn-01`` that only records its answers."""

    kind = "tls-alpn-01"

    def __init__(self) -> None:
        self.answers: dict[str, str] = {}

    def start(self, host: str, token: str, key_authorization: str) -> None:
        self.answers[host] = key_authorization

    def stop(self, host: str) -> None:
        self.answers.pop(host, None)


class RenewalTestCase(SynchronousTestCase):
    """
    Runs a renewal loop: ``self.clock`` is monotonic, ``self.wall()`` the daemon's clock, ``self.shown`` what
    its port shows.
    """

    def setUp(self) -> None:
        self.clock = Clock()
        self.offset = BEGINNING
        self.server = Acme(wall=lambda: BEGINNING + self.clock.seconds(), validate=self.validate)
        self.server.timer = self.clock
        self.http, self.alpn = Http01Responder(), RecordingAlpnResponder()
        self.shown: dict[str, Identity] = {}
        self.counted: list[tuple[str, bool]] = []
        self.folder = self.mktemp()
        self.store = CertificateStore(self.folder, self.wall)
        self.renewal_loop: RenewalLoop | None = None
        self.addCleanup(self.stop)

    def wall(self) -> float:
        """The daemon's clock."""
        return self.offset + self.clock.seconds()

    def validate(self, kind: str, host: str, token: str, thumbprint: str) -> None:
        """Validate a challenge as the server does."""
        found = self.http.answer(host, token) if kind == "http-01" else self.alpn.answers.get(host)
        if found != f"{token}.{thumbprint}":
            raise Bad("unauthorized", f"{host} says {found}", status=403)

    def install(self, host: str, identity: Identity) -> None:
        """Show a certificate, as the TLS port does."""
        self.shown[host] = identity

    def build(self, *hosts: str, **settings: Any) -> RenewalLoop:
        """Start the renewal loop of a daemon."""
        names = hosts or (HOST,)
        wanted = {"directory": self.folder, "hosts": names, "directoryurl": DIRECTORY, **settings}
        runtime = Runtime(at_once, self.clock, self.wall, lambda: 0.0)
        self.issuer = AcmeIssuer(
            LetsEncrypt(**wanted),
            self.server,
            [self.http, self.alpn],
            self.store,
            runtime,
        )
        self.renewal_loop = RenewalLoop(
            {host: self.store.load_certificate(host) for host in names},
            self.issuer,
            self.store,
            self,
            runtime,
            backoffs=self.backoffs(names),
            count_attempt=lambda host, succeeded: self.counted.append((host, succeeded)),
        )
        self.renewal_loop.start()
        return self.renewal_loop

    def backoffs(self, names: tuple[str, ...]) -> dict[str, BackoffRecord]:
        """The stored backoffs."""
        if not os.path.isdir(self.folder):
            return {}
        return {host: wait for host in names if (wait := self.store.backoff(host)) is not None}

    def stop(self) -> None:
        """Stop the renewal loop."""
        if self.renewal_loop is not None:
            self.renewal_loop.stop()
            self.renewal_loop = None

    def pass_time(self, seconds: float, step: float = 1.0) -> None:
        """Advance both clocks, in steps."""
        end = self.clock.seconds() + seconds
        while self.clock.seconds() < end:
            self.clock.advance(min(step, end - self.clock.seconds()))

    def number(self, host: str = HOST) -> int:
        """The serial number of the certificate that is shown for a host, 0 without one."""
        return self.shown[host].chain[0].serial_number if host in self.shown else 0

    def file(self, name: str) -> Path:
        """A file in the store's directory."""
        return Path(self.folder) / name

    def error(self, host: str = HOST) -> str:
        """The last error of a host."""
        assert self.renewal_loop is not None
        return str(self.renewal_loop.states[host].error or "")
