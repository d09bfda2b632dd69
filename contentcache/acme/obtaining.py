"""
One attempt, from the account to the certificate.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from attrs import evolve, frozen
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as TooLate
from twisted.logger import Logger

from contentcache.acme.certificate import CertificateDatesError, certificate_id, check_certificate
from contentcache.acme.certificate_store import CertificateStore
from contentcache.acme.challenges import Responder
from contentcache.acme.client import AcmeClient
from contentcache.acme.errors import (
    AcmeError,
    AcmeRefusedError,
    ChallengeFailedError,
    ClockSkewError,
    UnusableOrderError,
)
from contentcache.acme.order import OrderClient
from contentcache.acme.pending_orders import PendingOrders, is_final, unusable
from contentcache.acme.records import CertificateMetadata, StoredCertificate
from contentcache.acme.txacme_adapter import issue
from contentcache.aio.condition import sleep
from contentcache.config.model import LetsEncrypt
from contentcache.core import durations
from contentcache.core.ports import Clock, Run, Timer
from contentcache.upstream.ports import Asking

#: By so many seconds may two clocks differ before somebody is told.
_SKEW: Final = 300.0
#: When renewal information could not be had, it is asked for again after so many seconds.
_SUGGESTION_AGAIN: Final = 6 * 3600.0


@frozen
class Obtained:
    """
    A new certificate, and the file that it makes. ``clock`` says how the clock of this machine differs from
    the server's, and nothing where they agree.
    """

    pem: bytes
    kept: StoredCertificate
    clock: str = ""


class Obtaining:
    """
    Gets certificates as ``settings`` say, over ``agent``; ``responders`` in the order of preference.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        settings: LetsEncrypt,
        agent: Asking,
        responders: Sequence[Responder],
        store: CertificateStore,
        *,
        run: Run,
        timer: Timer,
        wall: Clock,
    ) -> None:
        self._settings = settings
        self._agent = agent
        self._responders = responders
        self._store = store
        self._run = run
        self._timer = timer
        self._wall = wall
        self._begun = PendingOrders(store, settings.directoryurl, run=run, wall=wall)
        #: One host at a time takes the folder, and makes the account.
        self._account = DeferredLock()
        #: Hosts whose last certificate was refused for its dates.
        self._ill_dated: set[str] = set()

    @property
    def server(self) -> str:
        """The URL of the server's directory."""
        return self._settings.directoryurl

    async def obtain(
        self, host: str, old: StoredCertificate | None, *, asked: bool, waiting: bool
    ) -> Obtained:
        """
        A new certificate for ``host``. Raises an ``AcmeError``.

        With ``asked`` a person wants it; otherwise a clock that is wrong is no reason to ask for one. With
        ``waiting`` that is now: then an order that came to nothing is no reason not to make another.
        """
        # Before anything is asked for that counts, it must be sure that it can be kept.
        async with self._account:
            await self._run(self._store.ensure_writable)
        client = await self._client()
        clock = self._look_at_clock(client, host, None if asked else old)
        replaces = None if old is None else certificate_id(old.identity.chain[0])
        await self._use_account(client)
        pem = await self._begun.resume(host, client, old, force=waiting)
        if pem is None:
            pem = await self._issue(host, client, replaces)
        before = None if old is None else old.identity
        try:
            identity = check_certificate(
                host, pem, before, now=self._wall(), skew=client.skew or 0.0, clock=clock
            )
        except CertificateDatesError:
            self._ill_dated.add(host)
            await self.forget(host)
            raise
        except UnusableOrderError:
            await self.forget(host)
            raise
        self._ill_dated.discard(host)
        # When to renew it is asked once it is shown and kept: nothing shall keep it from that.
        note = CertificateMetadata(
            self.server,
            ask_again=0.0,
            since=self._wall(),
            hurried=0 if asked else _hurried(old, self._wall()),
        )
        return Obtained(pem, StoredCertificate(identity, note), clock)

    async def forget(self, host: str) -> None:
        """
        What came of the last order is of no use.
        """
        await self._begun.remove(host)

    async def suggestion(self, host: str, kept: StoredCertificate, within: float) -> CertificateMetadata:
        """
        What the server suggests now for a certificate; the same as before where it does not say so ``within``
        seconds: it is advice, and nothing waits for it.
        """
        asking = Deferred.fromCoroutine(self._suggestion(kept))
        try:
            return await asking.addTimeout(within, cast("Any", self._timer))
        except AcmeError as fault:
            why = str(fault)
        except TooLate:
            why = f"the ACME server has not said it within {within:g} s"
        self._log.info("no renewal information for {host}: {why}", host=host, why=why)
        return evolve(kept.metadata, ask_again=self._wall() + _SUGGESTION_AGAIN)

    async def _client(self) -> OrderClient:
        async with self._account:
            key = await self._run(self._store.account_key)
        http = AcmeClient(self._agent, self.server, key, timer=self._timer, wall=self._wall)
        client = OrderClient(
            http, self._settings, wall=self._wall, sleep=lambda pause: sleep(self._timer, pause)
        )
        await client.connect()
        return client

    async def _issue(self, host: str, client: OrderClient, replaces: str | None) -> bytes:
        is_new = False
        responders = [each for each in self._responders if self._settings.challenge in {None, each.kind}]
        while True:
            try:
                return await self._issue_by(responders, host, client, replaces)
            except ChallengeFailedError as failed:
                # It was the first of them, unless the server did not offer that.
                if len(responders) == 1:
                    raise
                self._log.warn(
                    "{failed}; {kind} is tried instead", failed=str(failed), kind=responders[1].kind
                )
                responders = responders[1:]
            except AcmeRefusedError as refused:
                if is_new or refused.problem is None or refused.problem.kind != "accountDoesNotExist":
                    raise
                self._log.warn("the account is gone, and made anew: {refused}", refused=str(refused))
                async with self._account:
                    await self._run(self._store.save_account_url, self.server, None)
                await self._use_account(client)
                is_new = True

    async def _issue_by(
        self, responders: Sequence[Responder], host: str, client: OrderClient, replaces: str | None
    ) -> bytes:
        is_begun = False

        async def remember(url: str, key: bytes) -> None:
            nonlocal is_begun
            await self._begun.add(host, url, key)
            is_begun = True

        try:
            return await issue(
                host, client, responders, timer=self._timer, before_finalize=remember, replaces=replaces
            )
        except AcmeError as fault:
            if is_begun and is_final(fault):
                await self._begun.remove(host)
                raise unusable(fault) from fault
            raise

    async def _use_account(self, client: OrderClient) -> None:
        async with self._account:
            known = await self._run(self._store.account_url, self.server)
            url = await client.use_account(known)
            if url != known:
                await self._run(self._store.save_account_url, self.server, url)
                self._log.info("the account at {server} is {url}", server=self.server, url=url)

    def _look_at_clock(self, client: OrderClient, host: str, old: StoredCertificate | None) -> str:
        """
        How the clocks differ, in words, and logged; nothing where they agree.

        :raises ClockSkewError: the ``old`` certificate is due by our clock only, or a new one would not be
            valid by it.
        """
        skew = client.skew
        if skew is None or abs(skew) < _SKEW:
            return ""
        off = durations.spell(float(round(abs(skew))))
        says = f"the clock of this machine is {off} {'behind' if skew > 0 else 'ahead of'} the ACME server's"
        if old is not None:
            if old.renewal_time() > self._wall() + skew and old.metadata.server in {"", self.server}:
                raise ClockSkewError(f"{says}, by which nothing is due", "set the clock")
            if host in self._ill_dated and old.validity.includes(self._wall()):
                raise ClockSkewError(f"{says}, and what it gives is not good by ours", "set the clock")
        self._log.warn("{says}; set the clock", says=says)
        return says

    async def _suggestion(self, kept: StoredCertificate) -> CertificateMetadata:
        name = certificate_id(kept.identity.chain[0])
        found = None if name is None else await (await self._client()).fetch_renewal_info(name)
        if found is None:
            return evolve(kept.metadata, suggested=None, ask_again=None)
        window, again = found
        return evolve(kept.metadata, suggested=window, ask_again=self._wall() + again)


def _hurried(old: StoredCertificate | None, now: float) -> int:
    """
    How many certificates in a row are renewed too early once ``old`` is.
    """
    if old is None or old.metadata.since is None:
        return 0
    return old.metadata.hurried + 1 if old.validity.is_early(now - old.metadata.since) else 0
