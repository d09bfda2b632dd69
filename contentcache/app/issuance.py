"""Certificates from an ACME server, as one part that the daemon starts and stops."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from random import SystemRandom
from typing import Any, Final, cast

from twisted.internet.defer import gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from contentcache.acme.certificate_store import CertificateStore
from contentcache.acme.challenges import Http01Responder, Responder, TlsAlpn01Responder
from contentcache.acme.control import ControlSocket
from contentcache.acme.errors import CertificateStoreError, CertificateStoreInUseError
from contentcache.acme.issuer import AcmeIssuer
from contentcache.acme.records import BackoffRecord, StoredCertificate
from contentcache.acme.renewal_loop import RenewalLoop
from contentcache.acme.renewal_state import RenewalOutcome
from contentcache.aio.reactor import DaemonReactor
from contentcache.aio.threads import Threads
from contentcache.app.listening import bind, serve, stop
from contentcache.config.model import Address, Configuration, LetsEncrypt, Limits, ServerTLS
from contentcache.core.client_address import counted_address
from contentcache.core.live import Live
from contentcache.core.ports import Run, Runtime
from contentcache.server.debug_site import HealthCheck
from contentcache.server.factory import ServerFactory
from contentcache.server.https_redirect import HttpsRedirect
from contentcache.server.request import RequestResponder
from contentcache.telemetry.metrics import Meter
from contentcache.tls.hosts import HostContexts
from contentcache.tls.selfsigned import placeholder_certificate
from contentcache.tls.trust import UpstreamTrust
from contentcache.upstream.agent import UpstreamAgent
from contentcache.upstream.proxies import Proxies

_CONNECT_TIMEOUT: Final = 10.0
#: Only an ACME server and clients that are redirected to https use the plain port.
_PLAIN_LIMITS: Final = Limits(connections=256, idle=15.0, headertime=10.0)


class Issuance:
    """
    Obtains and renews certificates: ``contexts`` are for the TLS port, and ``plain`` for that of
    ``letsencrypt.http``.

    :raises TLSConfigurationError: a file of the section ``tls`` cannot be used.
    :raises ProxyFault: a proxy variable of the environment is malformed.
    :raises CertificateStoreInUseError: another process uses the certificate store.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        tls: ServerTLS,
        settings: LetsEncrypt,
        listening: Address,
        environ: Mapping[str, str],
        *,
        run: Run,
        reactor: DaemonReactor,
        meter: Meter,
    ) -> None:
        self._folder = settings.directory
        self._store = CertificateStore(settings.directory, time.time)
        self._acquire_store()
        first = {host: self._load(host) for host in settings.hosts}
        now = datetime.fromtimestamp(time.time(), UTC)
        shown = {
            host: placeholder_certificate(host, now) if certificate is None else certificate.identity
            for host, certificate in first.items()
        }
        self.contexts = HostContexts(tls, shown)
        http_responder = Http01Responder()
        self._trust = UpstreamTrust(() if settings.directoryca is None else (settings.directoryca,))
        self._agent = UpstreamAgent(
            reactor,
            trust=self._trust,
            proxies=Proxies.from_environment(environ),
            connect_timeout=Live(_CONNECT_TIMEOUT),
        )
        # A port that is configured for http-01 is preferred.
        responders: list[Responder] = [http_responder] if settings.http is not None else []
        if listening.path is None:
            responders.append(TlsAlpn01Responder(self.contexts, time.time))
        runtime = Runtime(run, reactor, time.time, SystemRandom().random)
        issuer = AcmeIssuer(settings, self._agent, responders, self._store, runtime)
        self.renewal_loop = RenewalLoop(
            first,
            issuer,
            self._store,
            self.contexts,
            runtime,
            count_attempt=meter.certificate_asked,
            backoffs=self._backoffs(settings.hosts),
        )
        self._control = ControlSocket(reactor, settings.directory, self.renewal_loop)
        redirect = HttpsRedirect(settings.hosts, listening.port, http_responder.answer)
        self.plain = ServerFactory(
            RequestResponder(redirect.respond, lambda _request: None),
            limits=_PLAIN_LIMITS,
            address_key=counted_address,
            reactor=reactor,
            meter=meter,
        )
        for host in settings.hosts:
            meter.watch_certificate(host, partial(self.renewal_loop.expiry, host))

    def start(self) -> None:
        """Start the renewal loop and the control socket. The ports have to be open."""
        self.renewal_loop.start()
        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            self._control.start()
        except OSError as error:
            self._log.warn(
                "ACME control socket unavailable",
                folder=self._folder,
                reason=error.strerror or str(error),
                effect="no certificates --renew",
            )

    async def stop(self) -> None:
        """Stop renewing, and release the certificate store."""
        self.renewal_loop.stop()
        self._control.stop()
        self.plain.cut()
        await self._agent.close()
        self._store.release()

    def read(self, settings: ServerTLS) -> Callable[[], None]:
        """
        Read ``clientcas`` and ``directoryca`` again, in a thread; what is returned uses them. Raises
        ``TLSConfigurationError``.
        """
        both = self._trust.read(), self.contexts.read(settings)

        def use() -> None:
            for each in both:
                each()

        return use

    def health(self) -> Mapping[str, HealthCheck]:
        """The health of each host's certificate."""
        return {
            f"certificate {host}": HealthCheck(*self.renewal_loop.health(state))
            for host, state in self.renewal_loop.states.items()
        }

    def _acquire_store(self) -> None:
        try:
            self._store.acquire()
        except CertificateStoreInUseError:
            raise
        except CertificateStoreError:
            # Every attempt tries again before it contacts the server, and logs the error.
            return

    def _backoffs(self, hosts: Sequence[str]) -> Mapping[str, BackoffRecord]:
        """The backoffs from before a restart."""
        backoffs = {}
        for host in hosts:
            with suppress(CertificateStoreError):  # logged already for the certificate
                backoffs[host] = self._store.backoff(host)
        return {host: backoff for host, backoff in backoffs.items() if backoff is not None}

    def _load(self, host: str) -> StoredCertificate | None:
        try:
            return self._store.load_certificate(host)
        except CertificateStoreError as error:
            self._log.error("stored certificate not readable", host=host, reason=error)
            return None


async def renew_alone(
    configuration: Configuration, environ: Mapping[str, str], hosts: Sequence[str], reactor: DaemonReactor
) -> list[RenewalOutcome]:
    """
    Renew certificates without a daemon, on its ports.

    :raises ListenError: another program uses a port.
    :raises CertificateStoreInUseError: a daemon uses the certificate store after all.
    """
    http = configuration.http
    if http.tls is None or http.tls.letsencrypt is None:
        return []
    settings = http.tls.letsencrypt
    threads = Threads(reactor, 2, "disk")
    threads.start()
    part = Issuance(http.tls, settings, http.addr, environ, run=threads, reactor=reactor, meter=Meter())
    ports: list[Any] = []
    try:
        contexts: Any = part.contexts
        silent: Any = Factory.forProtocol(Protocol)
        tls = TLSMemoryBIOFactory(contexts, False, silent, cast("Any", reactor))
        ports.append(serve(reactor, bind(http.addr), tls))
        if settings.http is not None:
            ports.append(serve(reactor, bind(settings.http), part.plain))
        waiting = part.renewal_loop.renew([host for host in settings.hosts if not hosts or host in hosts])
        part.renewal_loop.start()
        return list(await gatherResults(waiting))
    finally:
        await part.stop()
        for port in ports:
            await stop(port)
        threads.stop()
