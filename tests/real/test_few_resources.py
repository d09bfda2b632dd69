"""The daemon with few file descriptors and few threads."""

from __future__ import annotations

import socket
from concurrent.futures import ThreadPoolExecutor

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.images import push_blob, random_bytes
from tests.real.origin import Origin
from tests.real.programs import needs


def _ask(port: int, path: str) -> tuple[str, bool]:
    """The status of one request, or the name of what has failed, and whether the answer is whole."""
    received = b""
    try:
        with socket.create_connection(("127.0.0.1", port), 60) as client:
            client.settimeout(60)
            client.sendall(f"GET {path} HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n".encode())
            while data := client.recv(1 << 16):
                received += data
    except OSError as error:
        return type(error).__name__, False
    head, _, body = received.partition(b"\r\n\r\n")
    lengths = [line[15:] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")]
    return head[9:12].decode(), bool(lengths) and int(lengths[0]) == len(body)


class FewDescriptorsTests(SynchronousTestCase):
    """``nofile`` 64, one worker."""

    workers = 1

    @needs("prlimit", "docker-registry")
    def test_burst(self) -> None:
        """
        Of 100 clients at once those that fit are served, the others get a whole 503 and FIN; none is reset,
        nothing leaves a traceback, and everybody is served afterwards.
        """
        origin = Origin(self)
        blobs = [push_blob(origin, "org/app", random_bytes(300_000, f"few {number}")) for number in range(30)]
        cache = ContentCache(
            self, {"originhost": origin.url, "public": True}, wrapper=("prlimit", "--nofile=64:64")
        )
        paths = [f"/v2/org/app/blobs/{digest}" for digest in blobs * 4][:100]
        with ThreadPoolExecutor(100) as pool:
            found = set(pool.map(lambda path: _ask(cache.port, path), paths))
        self.assertLessEqual(found, {("200", True), ("503", True)})
        self.assertIn(("200", True), found)
        self.assertEqual({_ask(cache.port, path) for path in paths[:30]}, {("200", True)})
        log = cache.wait_for_log("limits lowered to fit descriptors")
        self.assertNotIn("Traceback", log)


class FewDescriptorsOfWorkersTests(FewDescriptorsTests):
    """The same with two workers, each of which may have 64."""

    workers = 2
