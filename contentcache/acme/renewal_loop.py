"""
The renewal loop of each host: obtains the first certificate, renews it in time, and retries with a backoff.

Few hosts are renewed at the same time, so that the ACME server never sees many orders of ours, and one slow
order delays no other host for long.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from typing import Final, Literal, Protocol

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred
from twisted.logger import Logger

from contentcache.acme.backoff import RenewalBackoff
from contentcache.acme.certificate import format_time, issuer_of
from contentcache.acme.certificate_store import CertificateStore
from contentcache.acme.errors import AcmeError, CertificateStoreError, UnusableOrderError
from contentcache.acme.issuer import AcmeIssuer
from contentcache.acme.records import BackoffRecord, IssuedCertificate, StoredCertificate
from contentcache.acme.renewal_state import (
    RenewalAction,
    RenewalOutcome,
    RenewalState,
    early_renewal_error,
    health_of,
    next_action,
    validation_timeout_error,
)
from contentcache.aio.condition import Condition, wait_at_most
from contentcache.aio.fair_semaphore import FairSemaphore
from contentcache.aio.tasks import in_background
from contentcache.core.ports import Runtime
from contentcache.tls.files import Identity, TLSConfigurationError

#: The longest sleep in seconds: the wall clock may have been set meanwhile.
_MAX_SLEEP: Final = 3600.0
_SLEEP_AFTER_DEFECT: Final = 60.0
#: Hosts for which the server is contacted at the same time.
_MAX_CONCURRENT: Final = 4
#: Timeout of a poll for renewal information, in seconds; shorter where renewal is due before.
_RENEWAL_WINDOW_TIMEOUT: Final = 30.0


class CertificatePort(Protocol):
    """Where certificates are shown: a part of :class:`contentcache.tls.hosts.HostContexts`."""

    def install(self, host: str, identity: Identity) -> None: ...


class RenewalWaiters:
    """Who waits for the outcome of a requested renewal, by host."""

    def __init__(self) -> None:
        self._waiters: dict[str, list[Deferred[RenewalOutcome]]] = {}

    def __contains__(self, host: str) -> bool:
        return host in self._waiters

    def __iter__(self) -> Iterator[str]:
        return iter(tuple(self._waiters))

    def add(self, hosts: Sequence[str]) -> list[Deferred[RenewalOutcome]]:
        """A waiter for each of ``hosts``, which fires with the outcome and never fails."""
        added: list[Deferred[RenewalOutcome]] = [Deferred() for _ in hosts]
        for host, waiter in zip(hosts, added, strict=True):
            self._waiters.setdefault(host, []).append(waiter)
        return added

    def resolve(self, outcome: RenewalOutcome) -> None:
        """Fire all waiters of a host."""
        for waiter in self._waiters.pop(outcome.host, ()):
            waiter.callback(outcome)


class RenewalLoop:
    """
    Renews the certificates of several hosts, as ``issuer`` obtains them and ``store`` keeps them.

    ``first`` is what the store had at the start, and ``backoffs`` are from before a restart. ``count_attempt``
    is called with each host and whether its attempt has succeeded.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        first: Mapping[str, StoredCertificate | None],
        issuer: AcmeIssuer,
        store: CertificateStore,
        port: CertificatePort,
        runtime: Runtime,
        *,
        count_attempt: Callable[[str, bool], None],
        backoffs: Mapping[str, BackoffRecord] | None = None,
    ) -> None:
        self.states = {host: RenewalState(host, certificate) for host, certificate in first.items()}
        self._issuer = issuer
        self._store = store
        self._port = port
        self._run = runtime.run
        self._timer = runtime.timer
        self._wall = runtime.wall
        self._count_attempt = count_attempt
        self._backoff = RenewalBackoff(store, runtime)
        self._wake_ups = {host: Condition() for host in first}
        self._waiters = RenewalWaiters()
        self._semaphore: FairSemaphore[None] = FairSemaphore(_MAX_CONCURRENT)
        self._loops: list[Deferred[None]] = []
        self._is_running = False
        for host, record in (backoffs or {}).items():
            self._backoff.restore(self.states[host], record)

    def start(self) -> None:
        """Start the loops; hosts without a certificate come first."""
        missing = [host for host, state in self.states.items() if state.certificate is None]
        if missing:
            self._log.warn(
                "no certificate yet, self-signed one shown", hosts=missing, server=self._issuer.server
            )
        self._is_running = True
        ordered = sorted(self.states.values(), key=lambda each: each.certificate is not None)
        self._loops = [in_background(self._loop(each)) for each in ordered]

    def stop(self) -> None:
        """Stop the loops, also during an attempt, and fire all waiters."""
        self._is_running = False
        for loop in self._loops:
            loop.cancel()
        self._loops = []
        for host in self._waiters:
            self._waiters.resolve(RenewalOutcome(host, False, "the daemon stops"))

    def health(self, state: RenewalState) -> tuple[Literal["ok", "warn"], str]:
        """The health of a host's certificate, and why."""
        return health_of(state, self._wall(), self._issuer.server)

    def next_attempt(self, state: RenewalState) -> float | None:
        """The time of the next attempt, in seconds since 1970; ``None`` where the last one has not failed."""
        return self._backoff.next_attempt(state)

    def expiry(self, host: str) -> float:
        """When a host's certificate expires, in seconds since 1970; 0 without a certificate."""
        validity = self.states[host].validity
        return 0.0 if validity is None else validity.ends

    def renew(self, hosts: Sequence[str]) -> list[Deferred[RenewalOutcome]]:
        """Request new certificates now, due or not; each waiter fires with the outcome, and never fails."""
        waiters = self._waiters.add(hosts)
        for host in hosts:
            self._wake_ups[host].notify_all()
        return waiters

    # The loop.

    async def _loop(self, state: RenewalState) -> None:
        host = state.host
        try:
            while self._is_running:
                try:
                    await self._step(state)
                except Exception as error:
                    if isinstance(error, CancelledError):
                        raise
                    # A defect; but without this loop the certificate would expire.
                    self._log.failure("renewal loop failed", host=host)
                    self._waiters.resolve(RenewalOutcome(host, False, "a defect of the daemon, see its log"))
                    await self._sleep(host, _SLEEP_AFTER_DEFECT)
        except CancelledError:
            return

    async def _step(self, state: RenewalState) -> None:
        if state.host in self._waiters:
            await self._with_semaphore(self._attempt, state)
            return
        wait, action = next_action(state, self._wall(), self._timer.seconds(), self._issuer.server)
        if wait > 0:
            await self._sleep(state.host, min(wait, _MAX_SLEEP))
        elif action is RenewalAction.SAVE:
            await self._save(state)
        elif action is RenewalAction.CLEAR_ERROR:
            self._clear_error(state)
        elif action is RenewalAction.RENEW:
            await self._with_semaphore(self._attempt, state)
        else:
            await self._with_semaphore(self._poll_renewal_window, state)

    async def _sleep(self, host: str, seconds: float) -> None:
        await wait_at_most(self._timer, seconds, self._wake_ups[host])

    async def _with_semaphore(
        self, action: Callable[[RenewalState], Awaitable[None]], state: RenewalState
    ) -> None:
        release = await self._semaphore.acquire(None)
        try:
            if self._is_running:
                await action(state)
        finally:
            release()

    # The actions.

    async def _attempt(self, state: RenewalState) -> None:
        """Obtain a new certificate, also for those who request one meanwhile."""
        host = state.host
        try:
            has_waiters = host in self._waiters
            is_requested = state.is_requested or has_waiters
            issued = await self._issuer.obtain(
                host, state.certificate, is_requested=is_requested, has_waiters=has_waiters
            )
        except CancelledError:
            if not self._is_running:
                raise
            await self._fail(state, validation_timeout_error(host))
        except AcmeError as error:
            await self._fail(state, error)
        except Exception:  # noqa: BLE001  # a defect must not end the certificates of the other hosts
            self._log.failure("certificate attempt failed", host=host)
            await self._fail(state, AcmeError("this is a defect of the daemon", "please report it"))
        else:
            await self._install(state, issued)

    async def _install(self, state: RenewalState, issued: IssuedCertificate) -> None:
        """Show and store a new certificate."""
        host = state.host
        try:
            self._port.install(host, issued.certificate.identity)
        except TLSConfigurationError as fault:
            await self._issuer.drop_pending_order(host)
            message = f"the new certificate cannot be shown: {fault.message}"
            await self._fail(state, UnusableOrderError(message))
            return
        self._count_attempt(host, True)
        state.certificate, state.retry_at = issued.certificate, 0.0
        state.unchecked = state.unsaved = issued
        state.failures, state.error, state.is_requested = 0, None, False
        leaf = issued.certificate.identity.chain[0]
        issuer = issuer_of(leaf)
        expiry = format_time(leaf.not_valid_after_utc.timestamp())
        renewal = format_time(state.renewal_time(self._issuer.server))
        self._log.info("new certificate issued", host=host, issuer=issuer, expires=expiry, renewal=renewal)
        await self._save(state)
        unsaved = "" if state.unsaved is None else f", but it is not stored: {state.error}"
        message = f"a certificate from {issuer}, good until {expiry}, to be renewed {renewal}{unsaved}"
        self._waiters.resolve(RenewalOutcome(host, not unsaved, message))

    async def _save(self, state: RenewalState) -> None:
        unsaved = state.unsaved
        if unsaved is None:
            return
        try:
            metadata = unsaved.certificate.metadata
            await self._run(self._store.save_certificate, state.host, unsaved.pem, metadata)
        except CertificateStoreError as error:
            state.failures += 1
            self._backoff.start(state, error, state.failures)
            return
        state.unsaved, state.failures, state.error = None, 0, None

    async def _poll_renewal_window(self, state: RenewalState) -> None:
        """Fetch the suggested renewal window; for a new certificate check whether it is due already."""
        certificate, unchecked = state.certificate, state.unchecked
        if certificate is None:
            return
        left = state.renewal_time(self._issuer.server) - self._wall()
        timeout = _RENEWAL_WINDOW_TIMEOUT
        if state.error is None:
            timeout = max(1.0, min(_RENEWAL_WINDOW_TIMEOUT, left))
        metadata = await self._issuer.poll_renewal_window(state.host, certificate, timeout)
        state.certificate, state.unchecked = evolve(certificate, metadata=metadata), None
        if metadata.suggested != certificate.metadata.suggested:
            self._log.info(
                "renewal window changed by the ACME server",
                host=state.host,
                renewal=format_time(state.renewal_time(self._issuer.server)),
            )
        try:
            await self._run(self._store.save_metadata, state.host, metadata)
        except CertificateStoreError as error:
            self._log.warn("renewal window not stored", host=state.host, reason=error)
        if unchecked is not None:
            early = early_renewal_error(state.certificate, unchecked.clock, self._wall())
            if early is not None:
                self._backoff.start(state, early, metadata.hurried + 1)

    async def _fail(self, state: RenewalState, error: AcmeError) -> None:
        self._count_attempt(state.host, False)
        state.failures += 1
        state.is_requested = state.is_requested or state.host in self._waiters
        self._backoff.start(state, error, state.failures)
        await self._backoff.save(state)
        self._waiters.resolve(RenewalOutcome(state.host, False, str(error), self.next_attempt(state)))

    def _clear_error(self, state: RenewalState) -> None:
        state.failures, state.error = 0, None
        self._log.info(
            "renewal not due any more",
            host=state.host,
            renewal=format_time(state.renewal_time(self._issuer.server)),
        )
