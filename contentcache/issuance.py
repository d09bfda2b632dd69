"""
Certificates by themselves, as one part that the daemon starts and stops.
"""

from __future__ import annotations

import os
import time
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import partial
from random import SystemRandom
from typing import Any, Final

from twisted.internet.defer import gatherResults
from twisted.internet.protocol import Factory, Protocol
from twisted.logger import Logger
from twisted.protocols.tls import TLSMemoryBIOFactory

from contentcache.acme.answering import ControlSocket
from contentcache.acme.certificate_store import CertificateStore
from contentcache.acme.challenges import Http01Responder, Responder, TlsAlpn01Responder
from contentcache.acme.errors import CertificateStoreError
from contentcache.acme.keeper import Keeper
from contentcache.acme.lock import CertificateStoreInUseError
from contentcache.acme.obtaining import Obtaining
from contentcache.acme.records import BackoffRecord, StoredCertificate
from contentcache.acme.standing import Outcome
from contentcache.aio.threads import Threads
from contentcache.config.model import Address, Configuration, LetsEncrypt, Limits, ServerTLS
from contentcache.core.ports import Run
from contentcache.listening import bind, serve, stop
from contentcache.meter import Meter
from contentcache.tls.hosts import HostContexts
from contentcache.tls.selfsigned import stand_in
from contentcache.tls.trust import UpstreamTrust
from contentcache.upstream.agent import UpstreamAgent
from contentcache.upstream.proxies import Proxies
from contentcache.web.debug_api import Finding
from contentcache.web.doorway import Doorway
from contentcache.web.factory import RegistryFactory

_CONNECT_TIMEOUT: Final = 10.0
#: Nobody but an ACME server and people on their way to https come to the plain port.
_PLAIN_LIMITS: Final = Limits(connections=256, idle=15.0, headertime=10.0)


class Issuance:
    """
    All that makes certificates come and stay: give ``contexts`` to the TLS port, and ``plain`` to that of
    ``letsencrypt.http``.

    :raises TLSFault: a file of the section ``tls`` cannot be used.
    :raises ProxyFault: a proxy variable of the environment makes no sense.
    :raises CertificateStoreInUseError: another process keeps its certificates in the folder.
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
        reactor: Any,
        meter: Meter,
    ) -> None:
        self._folder = settings.directory
        self._store = store = CertificateStore(settings.directory, time.time)
        self._take(store)
        first = {host: self._kept(store, host) for host in settings.hosts}
        now = datetime.fromtimestamp(time.time(), UTC)
        shown = {host: stand_in(host, now) if kept is None else kept.identity for host, kept in first.items()}
        self.contexts = HostContexts(tls, shown)
        answers = Http01Responder()
        self._trust = UpstreamTrust(() if settings.directoryca is None else (settings.directoryca,))
        self._agent = UpstreamAgent(
            reactor,
            trust=self._trust,
            proxies=Proxies.from_environment(environ),
            connect_timeout=_CONNECT_TIMEOUT,
        )
        # Who has set up a port for it wants it to be used.
        responders: list[Responder] = [answers] if settings.http is not None else []
        if listening.path is None:
            responders.append(TlsAlpn01Responder(self.contexts, time.time))
        obtaining = Obtaining(
            settings, self._agent, responders, store, run=run, timer=reactor, wall=time.time
        )
        self.keeper = Keeper(
            first,
            obtaining,
            store,
            self.contexts,
            run=run,
            timer=reactor,
            wall=time.time,
            share=SystemRandom().random,
            counted=meter.certificate_asked,
            waits=self._waits(store, settings.hosts),
        )
        self._control = ControlSocket(reactor, settings.directory, self.keeper)
        doorway = Doorway(settings.hosts, listening.port, answers.answer)
        self.plain = RegistryFactory(
            doorway.begin, lambda _request: None, limits=_PLAIN_LIMITS, reactor=reactor, meter=meter
        )
        for host in settings.hosts:
            meter.watch_certificate(host, partial(self.keeper.seconds_left, host))

    def start(self) -> None:
        """
        Ask for what is due, and listen to the command line. The ports have to be open.
        """
        self.keeper.start()
        try:
            os.makedirs(self._folder, 0o700, exist_ok=True)
            self._control.start()
        except OSError as error:
            self._log.warn(
                "contentcache certificates --renew cannot reach this daemon: {folder}: {why}",
                folder=self._folder,
                why=error.strerror or str(error),
            )

    async def stop(self) -> None:
        """
        Ask for nothing more.
        """
        self.keeper.stop()
        self._control.stop()
        self.plain.cut()
        await self._agent.close()
        self._store.release()

    def reload(self) -> None:
        """
        Read ``clientcas`` and ``directoryca`` anew. Raises ``TLSFault``, and keeps what was there.
        """
        self._trust.reload()
        self.contexts.reload()

    def findings(self) -> Mapping[str, Finding]:
        """
        How it is with each host.
        """
        return {
            f"certificate {host}": Finding(*self.keeper.state(standing))
            for host, standing in self.keeper.standings.items()
        }

    @staticmethod
    def _take(store: CertificateStore) -> None:
        try:
            store.acquire()
        except CertificateStoreInUseError:
            raise
        except CertificateStoreError:
            # It is tried again, and told, before anything is asked for.
            return

    @staticmethod
    def _waits(store: CertificateStore, hosts: Sequence[str]) -> Mapping[str, BackoffRecord]:
        """
        What was to be waited for before a restart.
        """
        waits = {}
        for host in hosts:
            with suppress(CertificateStoreError):  # told already, of the certificate
                waits[host] = store.backoff(host)
        return {host: wait for host, wait in waits.items() if wait is not None}

    def _kept(self, store: CertificateStore, host: str) -> StoredCertificate | None:
        try:
            return store.load_certificate(host)
        except CertificateStoreError as fault:
            self._log.error("{fault}", fault=str(fault))
            return None


async def renew_alone(
    configuration: Configuration, environ: Mapping[str, str], hosts: Sequence[str], reactor: Any
) -> list[Outcome]:
    """
    Get new certificates without a daemon, on its ports.

    :raises CannotListen: somebody else is there.
    :raises CertificateStoreInUseError: a daemon is there after all.
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
        tls = TLSMemoryBIOFactory(contexts, False, silent, reactor)
        ports.append(serve(reactor, bind(http.addr), tls))
        if settings.http is not None:
            ports.append(serve(reactor, bind(settings.http), part.plain))
        waiting = part.keeper.renew([host for host in settings.hosts if not hosts or host in hosts])
        part.keeper.start()
        return list(await gatherResults(waiting))
    finally:
        await part.stop()
        for port in ports:
            await stop(port)
        threads.stop()
