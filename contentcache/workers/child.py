"""
One worker: a process that serves clients from the store that its parent tends.

What it is to be the parent tells, through a pair of sockets. When the other end of that is gone, however the
parent ended, so is the child, at once.
"""

from __future__ import annotations

import base64
import os
import pickle
import socket
from collections.abc import Callable, Mapping
from typing import Any

from twisted.logger import Logger
from twisted.python.failure import Failure

from contentcache.aio.tasks import in_background
from contentcache.caching import Caching
from contentcache.config.model import Address, Configuration
from contentcache.core.digest import Digest
from contentcache.core.errors import DiskFailed
from contentcache.daemon import Daemon, NotStarted
from contentcache.delivery.other_workers import OtherWorkers
from contentcache.listening import stop
from contentcache.role import Role
from contentcache.storage.filesystem import FilesystemStore
from contentcache.storage.interfaces import Reservation
from contentcache.storage.opening import Storage
from contentcache.tls.files import TLSFault
from contentcache.tls.hosts import HostContexts
from contentcache.tls.server import ServerContext
from contentcache.workers.conversation import Conversation, NoAnswerError, Values, converse
from contentcache.workers.counted import counted
from contentcache.workers.crew import FRONT, INDEX
from contentcache.workers.index_desk import DistantIndex, of_words
from contentcache.workers.lending import Lender
from contentcache.workers.neighbours import Neighbours
from contentcache.workers.words import identity_of, revocation_in_words, revocation_of

_log = Logger(namespace="contentcache")


class ParentsRoom:
    """A :class:`contentcache.storage.interfaces.Room` at the ``parent``, over the downloads of all workers."""

    def __init__(self, parent: Conversation) -> None:
        self._parent = parent
        self._unreleased: set[str] = set()

    async def reserve(self, wanted: Reservation) -> bool:
        """Reserve room, or enlarge what is reserved under the same key."""
        digest = str(wanted.digest)
        for key in tuple(self._unreleased):
            self.release(key)
        try:
            answer = await self._parent.ask(
                "reserve", key=wanted.key, digest=digest, tag=wanted.tag, size=wanted.size
            )
            return bool(answer)
        except NoAnswerError as error:
            raise DiskFailed(f"the parent does not say whether there is room: {error}") from error

    def shrink(self, key: str, size: int, *, unlinked: bool) -> None:
        """Reserve no more than this. Where the parent does not hear it, more than needed stays reserved."""
        answer = self._parent.ask("shrink", key=key, size=size, unlinked=unlinked)
        answer.addErrback(lambda failure: None if failure.check(NoAnswerError) else failure)

    def release(self, key: str) -> None:
        """Give up a reservation. A parent that does not answer now is told again later."""
        self._unreleased.discard(key)

        def not_answered(failure: Failure) -> None:
            failure.trap(NoAnswerError)
            self._unreleased.add(key)

        self._parent.ask("release", key=key).addErrback(not_answered)


class Worker(Daemon):
    """A daemon whose address, store and certificates come from its ``parent``."""

    def __init__(self, number: int, hello: Values, parent: Conversation, reactor: Any) -> None:
        configuration: Configuration = pickle.loads(  # noqa: S301  # through a pair of sockets that only our parent has
            base64.b64decode(hello["configuration"])
        )
        super().__init__(configuration, (), os.environ, reactor)
        self._number = number
        self._hello = hello
        self._parent = parent
        self._using: set[Digest] = set()
        self._caching: Caching | None = None
        self._lender: Lender | None = None
        self._index: DistantIndex | None = None

    # Start.

    def bind_front(self, address: Address) -> list[socket.socket]:  # noqa: ARG002  # it has been bound
        """The socket that the parent has bound for us."""
        return [socket.socket(fileno=FRONT)]

    def read_key(self) -> None:
        """What the parent shows: it has read the files while it was still allowed to."""
        tls, certificates = self.configuration.http.tls, self._hello["certificates"]
        if tls is None or self.context is not None:
            return
        try:
            if "identity" in certificates:
                self.context = ServerContext(tls, identity_of(certificates["identity"]))
            else:
                identities, challenges = _of_hosts(certificates)
                self.context = HostContexts(tls, identities)
                self.context.show({}, challenges)
        except TLSFault as error:
            raise NotStarted(str(error)) from error

    def begin_issuance(self) -> None:
        """Nothing: the parent sees to it."""

    def build(self) -> Role:
        """The part of a cache that serves."""
        hello, configuration = self._hello, self.configuration
        store = FilesystemStore(configuration.storage.rootdirectory, shared=True)
        other_workers = OtherWorkers(
            secret=bytes.fromhex(hello["secret"]),
            pseudonym=hello["pseudonym"],
            owners=Neighbours(self._number, configuration.workers, self._parent, store, self.reactor),
            maintains_store=False,
            room=ParentsRoom(self._parent),
            on_use=self._noticed,
            on_review=self._review,
            on_revoked=lambda revocation: self._parent.tell("revoked", **revocation_in_words(revocation)),
            on_disk_fault=lambda fault: self._parent.tell("disk", fault=fault),
        )
        self._index = DistantIndex(socket.socket(fileno=INDEX))
        kept = Storage(store, self._index)
        self._caching = Caching(
            configuration,
            self.environ,
            self.reactor,
            self.threads,
            self.meter,
            other_workers=other_workers,
            kept=kept,
        )
        ensemble = self._caching.ensemble
        registries = {registry.upstream.origin: registry for registry in ensemble.registries}
        self._lender = Lender(
            ensemble.blob_service, ensemble.access.key, registries.__getitem__, self.threads
        )
        return self._caching

    def say_hello(self, role: Role) -> None:
        """Nothing: the parent has said it."""

    # What is reported to the parent, and asked of it.

    def _noticed(self, digest: Digest) -> None:
        if digest not in self._using:
            self._using.add(digest)
            self._parent.tell("using", digest=str(digest))

    def _review(self, in_use: Callable[[Digest], bool]) -> None:
        """Tell what is in use no longer, a batch at a time."""
        free = [digest for digest in self._using if not in_use(digest)]
        self._using.difference_update(free)
        if free:
            self._parent.tell("free", digests=[str(digest) for digest in free])
        if not self._parent.is_backed_up:  # the next one says all that this one would
            self._parent.tell("counted", families=counted(self.meter.registry))

    # What the parent asks and tells.

    def heard(self, name: str, values: Values) -> Any:
        """Do as the parent says."""
        match name:
            case "caller":
                return self._take_call()
            case "flush":
                return self._flush()
            case "metrics":
                return counted(self.meter.registry)
            case "findings":
                return {name: (each.state, each.says) for name, each in self.own_findings().items()}
            case "drain":
                return self._drain()
            case "end":
                in_background(self._end())
            case "reload":
                self._reload(values["certificates"])
            case "show":
                self._show(values["certificates"])
            case _:
                self._hear_of_store(name, values)
        return None

    def _hear_of_store(self, name: str, values: Values) -> None:
        if self._caching is None:
            return
        ensemble = self._caching.ensemble
        match name:
            case "gone":
                digest = Digest.parse(values["digest"])
                ensemble.blob_service.hot_blobs.drop(digest)
                if self._index is not None:
                    self._index.drop(digest)
            case "denied":
                # Asked earlier, but nobody says when: what has not been asked by now is not affected.
                asked = ensemble.access.question_time()
                ensemble.links.hear_denial(of_words(values["link"]), asked=asked)
            case "revoked":
                ensemble.access.hear_revocation(revocation_of(values))
            case "disk":
                ensemble.blob_service.disk_fault = values["fault"]
            case "lost":
                ensemble.blob_service.lost_index()

    def _take_call(self) -> bool:
        descriptor = self._parent.take_descriptor()
        if descriptor is None or self._lender is None:
            return False
        converse(self.reactor, descriptor, self._lender.lend())
        return True

    async def _flush(self) -> None:
        if self._caching is not None:
            await self._caching.flush()

    def _reload(self, certificates: Mapping[str, Any]) -> None:
        context, self.context = self.context, None  # what it shows comes from the parent
        super().reload()
        self.context = context
        self._show(certificates)

    def _show(self, certificates: Mapping[str, Any]) -> None:
        try:
            match self.context:
                case ServerContext() as context:
                    context.show(identity_of(certificates["identity"]))
                case HostContexts() as contexts:
                    identities, challenges = _of_hosts(certificates)
                    contexts.reload()
                    contexts.show(identities, challenges)
        except TLSFault as error:
            _log.error("certificates not reloaded, old ones stay in use", reason=error)

    # Stop.

    async def _drain(self) -> bool:
        """Take no new connection; what others need of us goes on."""
        for port in self.ports:
            await stop(port)
        if self.role is not None:
            await self.drain(self.role)
        return True

    async def _end(self) -> None:
        try:
            await self.stopService()
        finally:
            self.reactor.stop()


def _of_hosts(certificates: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    identities, challenges = (
        {host: identity_of(words) for host, words in certificates[kind].items()}
        for kind in ("identities", "challenges")
    )
    return identities, challenges
