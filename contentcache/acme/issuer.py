"""One attempt to obtain a certificate, from the account to the checked chain; pending orders come first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final, cast

from attrs import evolve
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.internet.defer import Deferred, DeferredLock
from twisted.internet.defer import TimeoutError as DeferredTimeoutError
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
    UnreadableCertificateError,
    UnusableOrderError,
)
from contentcache.acme.order import AcmeOrder, OrderClient
from contentcache.acme.records import CertificateMetadata, IssuedCertificate, PendingOrder, StoredCertificate
from contentcache.acme.txacme_adapter import issue, resume
from contentcache.aio.condition import sleep
from contentcache.aio.reactor import HttpAgent
from contentcache.config.model import LetsEncrypt
from contentcache.core import durations
from contentcache.core.ports import Runtime

#: Clocks may differ by so many seconds without a warning.
_MAX_SKEW: Final = 300.0
#: Seconds until the next poll for renewal information after a failed one.
_RENEWAL_WINDOW_RETRY: Final = 6 * 3600.0
#: Fewest seconds between a finalized order that failed and the next order.
_MIN_ORDER_INTERVAL: Final = 3600.0
#: Age in seconds from which a pending order is dropped, unless the server is still processing it.
_MAX_PENDING_AGE: Final = 86400.0


class AcmeIssuer:
    """Obtains certificates from the server in ``settings``; ``responders`` are in the order of preference."""

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        settings: LetsEncrypt,
        agent: HttpAgent,
        responders: Sequence[Responder],
        store: CertificateStore,
        runtime: Runtime,
    ) -> None:
        self._settings = settings
        self._agent = agent
        self._responders = responders
        self._store = store
        self._run = runtime.run
        self._timer = runtime.timer
        self._wall = runtime.wall
        #: Serializes what concerns all hosts: the lock of the store, and the account.
        self._account_lock = DeferredLock()
        #: Hosts whose last certificate was refused because of its dates.
        self._hosts_with_bad_dates: set[str] = set()

    @property
    def server(self) -> str:
        """The URL of the server's directory."""
        return self._settings.directoryurl

    async def obtain(
        self, host: str, old: StoredCertificate | None, *, is_requested: bool, has_waiters: bool
    ) -> IssuedCertificate:
        """
        Obtain a new certificate for ``host``. Raises an ``AcmeError``.

        Unless ``is_requested`` by somebody, nothing is ordered because of a wrong clock. With ``has_waiters``
        a failed pending order does not delay a new one.
        """
        # Nothing that counts against the rate limits, before it is certain that it can be stored.
        async with self._account_lock:
            await self._run(self._store.ensure_writable)
        client = await self._connect()
        clock = self._check_clock(client, host, None if is_requested else old)
        replaces = None if old is None else certificate_id(old.identity.chain[0])
        await self._use_account(client)
        pem = await self._resume(host, client, old, force=has_waiters)
        if pem is None:
            pem = await self._issue(host, client, replaces)
        now, old_identity = self._wall(), None if old is None else old.identity
        try:
            identity = check_certificate(
                host, pem, old_identity, now=now, skew=client.skew or 0.0, clock=clock
            )
        except UnusableOrderError as error:
            if isinstance(error, CertificateDatesError):
                self._hosts_with_bad_dates.add(host)
            await self.drop_pending_order(host)
            raise
        self._hosts_with_bad_dates.discard(host)
        # Renewal information is polled once the certificate is shown and stored: that must not wait for it.
        early_renewals = 0 if is_requested else _early_renewals(old, now)
        metadata = CertificateMetadata(self.server, ask_again=0.0, since=now, hurried=early_renewals)
        return IssuedCertificate(pem, StoredCertificate(identity, metadata), clock)

    async def poll_renewal_window(
        self, host: str, certificate: StoredCertificate, seconds: float
    ) -> CertificateMetadata:
        """
        The metadata with the renewal window that the server suggests now.

        After an error, and without an answer after ``seconds``, it keeps the last window: nothing waits for
        this advice.
        """
        polling = Deferred.fromCoroutine(self._fetch_renewal_window(certificate))
        try:
            return await polling.addTimeout(seconds, cast("Any", self._timer))
        except AcmeError as error:
            reason = str(error)
        except DeferredTimeoutError:
            reason = f"no answer within {seconds:g} s"
        self._log.info("renewal information unavailable", host=host, reason=reason)
        return evolve(certificate.metadata, ask_again=self._wall() + _RENEWAL_WINDOW_RETRY)

    async def drop_pending_order(self, host: str) -> None:
        """Delete the pending order of a host: it has failed, or its certificate is of no use."""
        await self._run(self._store.save_pending_order, host, None)

    # The account and the clock.

    async def _connect(self) -> OrderClient:
        async with self._account_lock:
            key = await self._run(self._store.account_key)
        http = AcmeClient(self._agent, self.server, key, timer=self._timer, wall=self._wall)
        client = OrderClient(
            http, self._settings, wall=self._wall, sleep=lambda pause: sleep(self._timer, pause)
        )
        await client.connect()
        return client

    async def _use_account(self, client: OrderClient) -> None:
        async with self._account_lock:
            known = await self._run(self._store.account_url, self.server)
            url = await client.use_account(known)
            if url != known:
                await self._run(self._store.save_account_url, self.server, url)
                self._log.info("account registered", server=self.server, account=url)

    def _check_clock(self, client: OrderClient, host: str, old: StoredCertificate | None) -> str:
        """
        A description of the clock skew, which is also logged; empty where the clocks agree.

        :raises ClockSkewError: the ``old`` certificate is due by our clock only, or a new one would not be
            valid by it.
        """
        skew = client.skew
        if skew is None or abs(skew) < _MAX_SKEW:
            return ""
        off = durations.spell(float(round(abs(skew))))
        clock = f"the clock of this machine is {off} {'behind' if skew > 0 else 'ahead of'} the ACME server's"
        if old is not None:
            is_due = old.renewal_time() <= self._wall() + skew
            if not is_due and old.metadata.server in {"", self.server}:
                raise ClockSkewError(f"{clock}, by which nothing is due", "set the clock")
            if host in self._hosts_with_bad_dates and old.validity.includes(self._wall()):
                raise ClockSkewError(f"{clock}, and its certificates are not valid by ours", "set the clock")
        self._log.warn(
            "clock differs from the ACME server",
            host=host,
            server=self.server,
            reason=clock,
            hint="set the clock",
        )
        return clock

    # A new order.

    async def _issue(self, host: str, client: OrderClient, replaces: str | None) -> bytes:
        has_new_account = False
        responders = [each for each in self._responders if self._settings.challenge in {None, each.kind}]
        while True:
            try:
                return await self._issue_with(responders, host, client, replaces)
            except ChallengeFailedError as error:
                # That of the first responder, unless the server did not offer it.
                if len(responders) == 1:
                    raise
                responders = responders[1:]
                self._log.warn(
                    "challenge failed, next one tried", host=host, next=responders[0].kind, reason=error
                )
            except AcmeRefusedError as error:
                kind = error.problem.kind if error.problem is not None else ""
                if has_new_account or kind != "accountDoesNotExist":
                    raise
                self._log.warn(
                    "account unknown to the ACME server, registered again", server=self.server, reason=error
                )
                async with self._account_lock:
                    await self._run(self._store.save_account_url, self.server, None)
                await self._use_account(client)
                has_new_account = True

    async def _issue_with(
        self, responders: Sequence[Responder], host: str, client: OrderClient, replaces: str | None
    ) -> bytes:
        is_pending = False

        async def save_pending_order(url: str, key: bytes) -> None:
            nonlocal is_pending
            order = PendingOrder(self.server, url, key, self._wall())
            await self._run(self._store.save_pending_order, host, order)
            is_pending = True

        try:
            return await issue(
                host,
                client,
                responders,
                timer=self._timer,
                before_finalize=save_pending_order,
                replaces=replaces,
            )
        except AcmeError as error:
            if is_pending and _is_final(error):
                await self.drop_pending_order(host)
                raise _unusable(error) from error
            raise

    # The pending order.

    async def _resume(
        self, host: str, client: OrderClient, old: StoredCertificate | None, *, force: bool
    ) -> bytes | None:
        """
        The key and the chain in PEM from the pending order; ``None`` where a new order is to be created.

        :raises AcmeError: there is no certificate yet; or the order has failed, and it is too early for a new
            one, unless ``force``.
        """
        order = await self._run(self._store.pending_order, host)
        if order is None or order.server != self.server:
            return None
        age = self._wall() - order.since
        may_reorder = force or age >= _MIN_ORDER_INTERVAL
        try:
            pem = await self._finalize(host, client, order, age)
        except AcmeError as error:
            is_over = isinstance(error, UnreadableCertificateError) and may_reorder
            if not is_over and not _is_final(error):
                raise
            await self.drop_pending_order(host)
            if not may_reorder:
                raise _unusable(error) from error
            self._log.warn("pending order failed, new one created", host=host, order=order.url, reason=error)
            return None
        if pem is None or (old is not None and pem.startswith(old.leaf_pem(), len(order.key))):
            await self.drop_pending_order(host)
            return None
        return pem

    async def _finalize(
        self, host: str, client: OrderClient, pending: PendingOrder, age: float
    ) -> bytes | None:
        order = await client.fetch_order(pending.url)
        status = order.body.get("status")
        if status == "pending" or (age >= _MAX_PENDING_AGE and status != "processing"):
            return None
        self._log.info("pending order resumed", host=host, order=pending.url)
        key = load_pem_private_key(pending.key, None)
        return pending.key + await resume(host, client, AcmeOrder(pending.url, order.body), key)

    async def _fetch_renewal_window(self, certificate: StoredCertificate) -> CertificateMetadata:
        identifier = certificate_id(certificate.identity.chain[0])
        found = None if identifier is None else await (await self._connect()).fetch_renewal_window(identifier)
        if found is None:
            return evolve(certificate.metadata, suggested=None, ask_again=None)
        window, interval = found
        return evolve(certificate.metadata, suggested=window, ask_again=self._wall() + interval)


def _early_renewals(old: StoredCertificate | None, now: float) -> int:
    """The number of early renewals in a row once ``old`` is renewed."""
    if old is None or old.metadata.since is None:
        return 0
    return old.metadata.hurried + 1 if old.validity.is_early(now - old.metadata.since) else 0


def _is_final(error: AcmeError) -> bool:
    """Whether the server has refused an order for good."""
    kind = error.problem.kind if error.problem is not None else ""
    return isinstance(error, AcmeRefusedError) and error.is_refusal and kind != "rateLimited"


def _unusable(error: AcmeError) -> UnusableOrderError:
    """The same error for an order that was finalized: the next order waits longer."""
    return UnusableOrderError(
        error.message,
        error.remedy,
        retry_after=error.retry_after,
        is_refusal=error.is_refusal,
        problem=error.problem,
    )
