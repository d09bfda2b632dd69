"""
An admin site on a port, for browsers and schemathesis: ``python -m tests.gateway.admin.admin_server``.

It prints its port, and ends with its standard input. Two caches are there: one alive and one dead.
"""

from __future__ import annotations

import sys
import uuid
from typing import Any

from twisted.internet import endpoints, reactor, stdio
from twisted.internet.protocol import Protocol
from twisted.python.failure import Failure
from twisted.web.server import Site

from contentcache.aio.tasks import in_background
from contentcache.aio.threads import at_once
from contentcache.core.live import Live
from contentcache.gateway.cache_directory import CacheDirectory, NetworkDefaults
from contentcache.gateway.directory import Cache
from contentcache.gateway.liveness import Liveness
from tests.gateway.admin.admin_case import FakeProbe, FakeRegistry, make_admin_site
from tests.gateway.memory_directory import MemoryDirectory

ALIVE = Cache(uuid.UUID("7f3c1a52-8f0f-4f5b-9a57-0f6d5e1c2b3a"), "region-us", "https://us.cache.example.com")
DEAD = Cache(
    uuid.UUID("2b0d6a90-4c13-4e43-8a0e-9d6a3a1f7c55"), "region-asia", "https://asia.cache.example.com:8443"
)


class _UntilItEnds(Protocol):
    def connectionLost(self, reason: Failure = Failure(EOFError())) -> None:  # noqa: B008
        running: Any = reactor
        running.stop()


def main() -> None:
    """Serve until standard input ends."""
    running: Any = reactor
    store = MemoryDirectory()
    store.add(ALIVE)
    store.add(DEAD)
    probe = FakeProbe({DEAD.host, "https://wrong.example.com"})
    liveness = Liveness(store, probe, run=at_once, timer=running, wall=running.seconds)
    directory = CacheDirectory(
        store, liveness, run=at_once, new_id=uuid.uuid4, networks=Live(NetworkDefaults())
    )
    admin_site = make_admin_site(FakeRegistry(), store, directory, running.seconds, secure=False)
    liveness.start()
    stdio.StandardIO(_UntilItEnds())

    async def listen() -> None:
        endpoint = endpoints.TCP4ServerEndpoint(running, 0, interface="127.0.0.1")
        port = await endpoint.listen(Site(admin_site))
        sys.stdout.write(f"{port.getHost().port}\n")
        sys.stdout.flush()

    in_background(listen())
    running.run()


if __name__ == "__main__":
    main()
