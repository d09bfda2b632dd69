"""
Keeps a certificate for every host: asks for the first one, renews it in time, and tries again when that
fails.

Few hosts at once, so that an ACME server never sees many orders of ours, and one of which it takes its time
holds up no other.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping, Sequence
from typing import Final, Literal, Protocol

from attrs import evolve
from twisted.internet.defer import CancelledError, Deferred, DeferredSemaphore
from twisted.logger import Logger

from contentcache.acme.alarm import Alarm
from contentcache.acme.asking import Waiting
from contentcache.acme.certificate import format_time, issuer_of
from contentcache.acme.certificate_store import CertificateStore
from contentcache.acme.errors import AcmeError, CertificateStoreError, UnusableOrderError
from contentcache.acme.obtaining import Obtained, Obtaining
from contentcache.acme.records import BackoffRecord, StoredCertificate
from contentcache.acme.setbacks import Setbacks
from contentcache.acme.standing import (
    Outcome,
    Standing,
    Step,
    early_fault,
    late_verdict,
    next_step,
    state_of,
)
from contentcache.aio.tasks import in_background
from contentcache.core.ports import Clock, Run, Timer
from contentcache.tls.files import Identity, TLSFault

#: Nobody sleeps longer than this without looking at the wall clock, which may have been set.
_LONGEST_SLEEP: Final = 3600.0
_AFTER_A_DEFECT: Final = 60.0
#: For so many hosts is the server asked at once.
_AT_ONCE: Final = 4
#: So many seconds has a server to say when to renew a certificate; fewer where it is due before.
_SUGGESTION_WITHIN: Final = 30.0


class Port(Protocol):
    """
    Where certificates are shown, as much of :class:`contentcache.tls.hosts.HostContexts` as is used.
    """

    def install(self, host: str, identity: Identity) -> None: ...


class Keeper:
    """
    The certificates of ``hosts``, as ``obtaining`` gets them and ``store`` keeps them.

    ``first`` is what the store had at the start. ``share`` draws a number from 0 to 1. ``counted`` is told
    of every attempt: the host, and whether it succeeded. ``waits`` are those from before a restart.
    """

    _log = Logger(namespace="contentcache")

    def __init__(
        self,
        first: Mapping[str, StoredCertificate | None],
        obtaining: Obtaining,
        store: CertificateStore,
        port: Port,
        *,
        run: Run,
        timer: Timer,
        wall: Clock,
        share: Callable[[], float],
        counted: Callable[[str, bool], None],
        waits: Mapping[str, BackoffRecord] | None = None,
    ) -> None:
        self.standings = {host: Standing(host, kept) for host, kept in first.items()}
        self._obtaining = obtaining
        self._store = store
        self._port = port
        self._run = run
        self._timer = timer
        self._wall = wall
        self._setbacks = Setbacks(store, run=run, timer=timer, wall=wall, share=share)
        self._counted = counted
        self._alarms = {host: Alarm(timer) for host in first}
        self._asked = Waiting()
        self._turns = DeferredSemaphore(_AT_ONCE)
        self._loops: list[Deferred[None]] = []
        for host, wait in (waits or {}).items():
            self._setbacks.resume(self.standings[host], wait)
        self._running = False

    def start(self) -> None:
        """
        Begin. Hosts without a certificate come first.
        """
        lacking = [host for host, standing in self.standings.items() if standing.kept is None]
        if lacking:
            self._log.warn(
                "no certificate yet for {hosts}: until {server} gives one, clients get one that is signed by "
                "ourselves",
                hosts=", ".join(lacking),
                server=self._obtaining.server,
            )
        self._running = True
        ordered = sorted(self.standings.values(), key=lambda each: each.kept is not None)
        self._loops = [in_background(self._keep(each)) for each in ordered]

    def state(self, standing: Standing) -> tuple[Literal["ok", "warn"], str]:
        """
        How it is with a host, for people who look.
        """
        return state_of(standing, self._wall(), self._obtaining.server)

    def again(self, standing: Standing) -> float | None:
        """
        When the next attempt will be, seconds since 1970; ``None`` where the last one has not failed.
        """
        return self._setbacks.again(standing)

    def seconds_left(self, host: str) -> float:
        """
        Seconds until a host's certificate ends; negative when it has, 0 where there is none.
        """
        span = self.standings[host].validity
        return 0.0 if span is None else span.ends - self._wall()

    def stop(self) -> None:
        """
        End, in the middle of an attempt too.
        """
        self._running = False
        for loop in self._loops:
            loop.cancel()
        self._loops = []
        self._asked.tell_all("the daemon stops")

    def renew(self, hosts: Sequence[str]) -> list[Deferred[Outcome]]:
        """
        Ask for new certificates now, whatever is due; each fires with what became of it, and never fails.
        """
        waiting = self._asked.add(hosts)
        for host in hosts:
            self._alarms[host].ring()
        return waiting

    # The loop.

    async def _keep(self, standing: Standing) -> None:
        host = standing.host
        try:
            while self._running:
                try:
                    await self._step(standing)
                except Exception as error:
                    if isinstance(error, CancelledError):
                        raise
                    # Nothing of the kind is known; but without this loop the certificate would end some day.
                    self._log.failure("something about the certificate of {host} has failed", host=host)
                    says = "a defect of the daemon, which its log tells"
                    self._asked.tell(Outcome(host, False, says))
                    await self._alarms[host].sleep(_AFTER_A_DEFECT)
        except CancelledError:
            return

    async def _step(self, standing: Standing) -> None:
        if standing.host in self._asked:
            await self._in_turn(self._attempt, standing)
            return
        now, seconds = self._wall(), self._timer.seconds()
        wait, step = next_step(standing, now, seconds, self._obtaining.server)
        if wait > 0:
            await self._alarms[standing.host].sleep(min(wait, _LONGEST_SLEEP))
        elif step is Step.SAVE:
            await self._save(standing)
        elif step is Step.FORGET:
            self._forget_fault(standing)
        else:
            await self._in_turn(self._attempt if step is Step.RENEW else self._ask_when, standing)

    async def _in_turn(self, do: Callable[[Standing], Awaitable[None]], standing: Standing) -> None:
        await self._turns.acquire()
        try:
            if self._running:
                await do(standing)
        finally:
            self._turns.release()

    # What it does.

    async def _attempt(self, standing: Standing) -> None:
        """
        Get a new certificate, for whoever asks for one meanwhile too.
        """
        host = standing.host
        try:
            waiting = host in self._asked
            asked = standing.is_wanted or waiting
            obtained = await self._obtaining.obtain(host, standing.kept, asked=asked, waiting=waiting)
        except CancelledError:
            if not self._running:
                raise
            await self._failed(standing, late_verdict(host))
        except AcmeError as fault:
            await self._failed(standing, fault)
        except Exception:  # noqa: BLE001  # a defect must not end the certificates of the other hosts
            self._log.failure("asking for a certificate for {host} has failed", host=host)
            await self._failed(standing, AcmeError("this is a defect of the daemon", "please report it"))
        else:
            await self._take(standing, obtained)

    async def _take(self, standing: Standing, obtained: Obtained) -> None:
        """
        Show and keep a new certificate.
        """
        host = standing.host
        try:
            self._port.install(host, obtained.kept.identity)
        except TLSFault as fault:
            await self._obtaining.forget(host)
            await self._failed(
                standing, UnusableOrderError(f"the new certificate cannot be shown: {fault.message}")
            )
            return
        self._counted(host, True)
        standing.kept, standing.try_at = obtained.kept, 0.0
        standing.new = standing.unsaved = obtained
        standing.failures, standing.fault, standing.is_wanted = 0, None, False
        leaf = obtained.kept.identity.chain[0]
        until = format_time(leaf.not_valid_after_utc.timestamp())
        due = format_time(standing.due(self._obtaining.server))
        says = f"a certificate from {issuer_of(leaf)}, good until {until}, to be renewed {due}"
        self._log.info("{host} has {says}", host=host, says=says)
        await self._save(standing)
        lost = "" if standing.unsaved is None else f", but it is not kept: {standing.fault}"
        self._asked.tell(Outcome(host, not lost, says + lost))

    async def _save(self, standing: Standing) -> None:
        unsaved = standing.unsaved
        if unsaved is None:
            return
        try:
            await self._run(self._store.save_certificate, standing.host, unsaved.pem, unsaved.kept.metadata)
        except CertificateStoreError as fault:
            standing.failures += 1
            self._setbacks.put_off(standing, fault, standing.failures)
            return
        standing.unsaved, standing.failures, standing.fault = None, 0, None

    async def _ask_when(self, standing: Standing) -> None:
        """
        Ask the server when to renew; of a new certificate see whether that is now.
        """
        kept, new = standing.kept, standing.new
        if kept is None:
            return
        left = standing.due(self._obtaining.server) - self._wall()
        within = max(1.0, min(_SUGGESTION_WITHIN, left)) if standing.fault is None else _SUGGESTION_WITHIN
        note = await self._obtaining.suggestion(standing.host, kept, within)
        standing.kept, standing.new = evolve(kept, metadata=note), None
        if note.suggested != kept.metadata.suggested:
            self._log.info(
                "the ACME server suggests another time: {host} will be renewed {when}",
                host=standing.host,
                when=format_time(standing.due(self._obtaining.server)),
            )
        try:
            await self._run(self._store.save_metadata, standing.host, note)
        except CertificateStoreError as fault:
            self._log.warn("{fault}", fault=str(fault))
        if new is not None:
            early = early_fault(standing.kept, new.clock, self._wall())
            if early is not None:
                self._setbacks.put_off(standing, early, note.hurried + 1)

    async def _failed(self, standing: Standing, fault: AcmeError) -> None:
        self._counted(standing.host, False)
        standing.failures += 1
        standing.is_wanted = standing.is_wanted or standing.host in self._asked
        self._setbacks.put_off(standing, fault, standing.failures)
        await self._setbacks.keep(standing)
        self._asked.tell(Outcome(standing.host, False, str(fault), self.again(standing)))

    def _forget_fault(self, standing: Standing) -> None:
        standing.failures, standing.fault = 0, None
        self._log.info(
            "nothing is to be done for {host} any more: it will be renewed {when}",
            host=standing.host,
            when=format_time(standing.due(self._obtaining.server)),
        )
