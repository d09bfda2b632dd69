"""A supervisor that is stopped (``SIGSTOP``): its workers answer all the same."""

from __future__ import annotations

import signal
import socket

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.images import digest_of, push_blob, push_image
from tests.real.origin import Origin
from tests.real.programs import needs, until
from tests.real.test_workers import blob_of
from tests.real.unruly import Read, read_to_end
from tests.real.worker_processes import all_serve, connect

_REPOSITORY = "org/app"
_ACCEPT = "application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json"
_WORKERS = (1, 2)


@needs("docker-registry")
class StoppedSupervisorTests(SynchronousTestCase):
    """Two workers."""

    workers = 2
    fastpath = "auto"

    def setUp(self) -> None:
        """Both serve."""
        self.origin = Origin(self)
        self.cache = ContentCache(self, self.origin.url, options={"fastpath": self.fastpath})
        all_serve(self.cache)

    def ask(self, worker: int, what: str) -> Read:
        """Ask this worker, and read to the end."""
        lines = (
            f"GET /v2/{_REPOSITORY}/{what} HTTP/1.1",
            *("Host: here", f"Accept: {_ACCEPT}", "Connection: close", "", ""),
        )
        client: socket.socket
        with connect(self.cache, worker) as client:
            client.sendall("\r\n".join(lines).encode())
            return read_to_end(client)

    def gets(self, worker: int, digest: str) -> None:
        """A blob comes whole from this worker."""
        read = self.ask(worker, f"blobs/{digest}")
        self.assertEqual((worker, read.status), (worker, 200))
        self.assertEqual(digest_of(read.body), digest)

    def blob(self, owner: int, name: str, size: int = 300_000) -> str:
        """A new blob at the origin that belongs to this worker."""
        digest, content = blob_of(owner, name, size)
        push_blob(self.origin, _REPOSITORY, content)
        return digest

    def test_stopped(self) -> None:
        """
        While the supervisor is stopped warm blobs, tags, manifests and cold blobs are answered, by each
        worker, whoever's they are; when it goes on all is as it was, and cold blobs are stored again.
        """
        push_image(self.origin, _REPOSITORY)
        warm = [self.blob(owner, f"warm {size}", size) for owner in _WORKERS for size in (1000, 300_000)]
        for worker in _WORKERS:
            for digest in warm:
                self.gets(worker, digest)
        self.assertEqual(self.ask(1, "manifests/latest").status, 200)
        cold = [self.blob(owner, "cold") for owner in _WORKERS]
        self.cache.process.send(signal.SIGSTOP)
        try:
            for _ in range(2):
                for worker in _WORKERS:
                    for digest in (*warm, *cold):
                        self.gets(worker, digest)
                    for what in ("manifests/latest", "tags/list"):
                        self.assertEqual(self.ask(worker, what).status, 200)
        finally:
            self.cache.process.send(signal.SIGCONT)
        all_serve(self.cache)
        self.assertNotIn("Traceback", self.cache.log())
        until(lambda: self.is_stored_again(cold), "cold blobs are stored")
        for worker in _WORKERS:
            for digest in warm:
                self.gets(worker, digest)

    def is_stored_again(self, digests: list[str]) -> bool:
        """Whether these come from the origin no more."""
        for digest in digests:
            for worker in _WORKERS:
                self.gets(worker, digest)
        return all(self.cache.stored(digest) for digest in digests)


class StoppedSupervisorSlowTests(StoppedSupervisorTests):
    """The same without the fast path."""

    fastpath = "off"
