"""
The parent of several workers: it has the lock, the index and the addresses, tends the store, starts again
what dies, and answers the operator. Clients it leaves to its children.
"""

from __future__ import annotations

import base64
import pickle
import secrets
import socket
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Final

from contentcache.aio.tasks import in_background
from contentcache.caching import Caching
from contentcache.config.model import Address, Configuration
from contentcache.config.workers import share_of
from contentcache.core.digest import Digest
from contentcache.core.via import FAMILY
from contentcache.daemon import Daemon
from contentcache.delivery.other_workers import OtherWorkers
from contentcache.listening import bind_several
from contentcache.role import Role
from contentcache.server.debug_site import Finding
from contentcache.storage.interfaces import Link, Reservation
from contentcache.tls.hosts import HostContexts
from contentcache.tls.server import ServerContext
from contentcache.workers.conversation import Values
from contentcache.workers.counted import added, counted, findings_of_all, text
from contentcache.workers.crew import Crew
from contentcache.workers.index_desk import IndexDesk, in_words
from contentcache.workers.words import identity_in_words

if TYPE_CHECKING:
    from contentcache.issuance import Issuance


#: Seconds more than ``http.draintimeout`` after which workers that still drain are ended.
_DRAIN_MARGIN: Final = 5.0


class Parent(Daemon):
    """
    A daemon of several processes. ``output`` takes what children write for the log, ``None`` where they have
    the parent's own standard output.
    """

    def __init__(
        self,
        configuration: Configuration,
        warnings: tuple[str, ...],
        environ: Mapping[str, str],
        reactor: Any,
        *,
        output: Callable[[], Callable[[str], None] | None],
    ) -> None:
        super().__init__(configuration, warnings, environ, reactor)
        self._output = output
        self._secret = secrets.token_bytes(64)
        self._pseudonym = FAMILY + secrets.token_hex(4)
        self._caching: Caching | None = None
        self._crew: Crew | None = None

    # Start.

    def bind_front(self, address: Address) -> list[socket.socket]:
        """A socket for each worker, which is handed from one who dies to its successor."""
        sockets = bind_several(address, self.configuration.workers)
        self.own(address)
        return sockets

    def build(self) -> Role:
        """All that a cache is, to tend the store and to see before anybody is started that it can be."""
        other_workers = OtherWorkers(
            secret=self._secret,
            pseudonym=self._pseudonym,
            serves_clients=False,
            in_use=lambda digest: self._crew is not None and self._crew.uses(digest),
            on_evicted=lambda digest: self._tell("gone", digest=str(digest)),
            on_index_lost=lambda: self._tell("lost"),
        )
        self._caching = Caching(
            self.configuration,
            self.environ,
            self.reactor,
            self.threads,
            self.meter,
            other_workers=other_workers,
        )
        return self._caching

    def serve_front(self, sockets: Sequence[socket.socket], role: Role) -> None:  # noqa: ARG002  # children do
        """Start those who serve."""
        caching = self._caching
        assert caching is not None  # noqa: S101  # it is what was built
        kept = caching.ensemble.kept
        desk = IndexDesk(kept.index, lambda link, number: self._call(self._deny, link, number))
        self._crew = Crew(
            self.reactor,
            hello=self._hello,
            asked=self._asked,
            ended=self._worker_ended,
            serve_index=desk.serve,
            output=self._output(),
            lock=lambda: None if kept.lock is None else kept.lock.descriptor,
            environ=self.environ,
        )
        if isinstance(self.context, HostContexts):
            self.context.changed = self._show
        self._crew.start(sockets)

    def start_issuance(self, issuance: Issuance) -> None:
        """Ask for certificates once there are workers to answer challenges."""
        in_background(self._start_issuance(issuance))

    async def _start_issuance(self, issuance: Issuance) -> None:
        if self._crew is not None:
            await self._crew.settle()
        if self.running:
            issuance.start()

    def _hello(self) -> Mapping[str, Any]:
        # Our own words, through a pair of sockets that nobody else has: so the child may unpickle it.
        share = base64.b64encode(pickle.dumps(share_of(self.configuration))).decode("ascii")
        return {
            "configuration": share,
            "secret": self._secret.hex(),
            "pseudonym": self._pseudonym,
            "certificates": self._certificates(),
        }

    # What children ask.

    async def _asked(self, number: int, name: str, values: Values) -> Any:
        if self._caching is None or self._crew is None:
            return None
        evictor, key = self._caching.ensemble.evictor, f"{number}:{values['key']}"
        if name == "release":
            evictor.release(key)
            return None
        if name == "shrink":
            evictor.shrink(key, values["size"], unlinked=values["unlinked"])
            return None
        if name != "reserve":
            return None
        wanted = Reservation(key, Digest.parse(values["digest"]), values["tag"], values["size"])
        if await evictor.reserve(wanted):
            return True
        # What was pulled in the last seconds counts as in use until the index knows when.
        await self._crew.ask("flush")
        return await evictor.reserve(wanted)

    def _worker_ended(self, number: int) -> None:
        if self._caching is not None:
            self._caching.ensemble.evictor.release_all(f"{number}:")

    def _deny(self, link: Link, number: int) -> None:
        self._tell("denied", but=number, link=in_words(link))

    def _call(self, function: Callable[..., None], *given: Any) -> None:
        self.reactor.callFromThread(function, *given)

    def _tell(self, name: str, *, but: int | None = None, **values: Any) -> None:
        if self._crew is not None:
            self._crew.tell(name, but=but, **values)

    # What operators ask.

    async def metrics(self) -> bytes:
        """What all processes have counted together, those that are gone too."""
        children = await self._crew.counted() if self._crew is not None else []
        return text(added([counted(self.meter.registry), *children]))

    async def findings(self) -> Mapping[str, Finding]:
        """What any of them has found."""
        if self._crew is None:
            return self.own_findings()
        own: dict[str, tuple[str, str]] = {
            name: (finding.state, finding.says) for name, finding in self.own_findings().items()
        }
        children = await self._crew.ask("findings")
        serving, workers = self._crew.standing
        state = "ok" if serving == workers else "warn" if serving else "fail"
        own["workers"] = state, f"{serving} of {workers} serve"
        worst = findings_of_all([own, *children.values()])
        return {name: Finding(state, says) for name, (state, says) in worst.items()}  # type: ignore[arg-type]

    # Certificates.

    def reload(self) -> None:
        """``SIGHUP``: here first, so that what is broken goes no further; then in all of them."""
        super().reload()
        self._tell("reload", certificates=self._certificates())

    def _show(self) -> None:
        self._tell("show", certificates=self._certificates())

    def _certificates(self) -> Mapping[str, Any]:
        match self.context:
            case ServerContext() as context:
                return {"identity": identity_in_words(context.identity)}
            case HostContexts() as contexts:
                return {
                    "identities": {
                        host: identity_in_words(identity) for host, identity in contexts.identities.items()
                    },
                    "challenges": {
                        host: identity_in_words(identity) for host, identity in contexts.challenges.items()
                    },
                }
            case _:
                return {}

    # Stop.

    async def drain(self, role: Role) -> None:  # noqa: ARG002  # nobody is served here
        """Let all of them finish first, and then end: one may make what another one's clients wait for."""
        if self._crew is not None:
            await self._crew.drain(self.configuration.http.draintimeout + _DRAIN_MARGIN)
            await self._crew.end()
