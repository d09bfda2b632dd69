"""Upstreams whose bytes do not match the digest, where clients have got some of them, before the real daemon."""

from __future__ import annotations

import re
import socket
from contextlib import ExitStack

from tests.real.cache import ContentCache
from tests.real.faulty import HALF, SIZE, FaultsTestCase
from tests.real.images import random_bytes
from tests.real.unruly import Unruly

_MIB = 1 << 20


class DigestMismatchTests(FaultsTestCase):
    """Clients leave as soon as they are ended short: the download must find the mismatch all the same."""

    def test_only_upstream(self) -> None:
        """
        Wrong bytes from the only upstream: nobody completes them, nothing is stored, the next minute's
        requests for this blob are 502 at once, and others are served.
        """
        self.build(1, 5)
        for number, at in enumerate((0, HALF, -1)):
            digest = self.upstream.digests[number]
            self.upstream.misbehave("wrong", digest, at=at)
            self.assert_short(self.pull(number), number)
            self.assert_nothing_kept(number)
            asked = len(self.upstream.asked(digest, "GET"))
            self.assert_error(self.pull(number), 502)
            self.assertEqual(len(self.upstream.asked(digest, "GET")), asked)
        self.assert_whole(self.pull(4), 4)

    def test_longer_and_shorter(self) -> None:
        """A body that is consistently longer or shorter is as wrong as any other."""
        self.build(1, 2)
        for number, by in enumerate((10, -10)):
            self.upstream.misbehave("resized", self.upstream.digests[number], by=by)
            read = self.pull(number)
            self.assertEqual((read.status, read.end), (200, "fin"))
            self.assertLess(len(read.body), SIZE - 10)
            self.assert_nothing_kept(number)
            self.assert_error(self.pull(number), 502)

    def test_one_of_two(self) -> None:
        """
        A client that got wrong bytes ends short, one that got none yet gets the right ones in the same response;
        the other host is not blamed.
        """
        for at in (0, -1):
            self.build(2, 1)
            self.upstream.misbehave("wrong", at=at)
            self.assert_short(self.pull(0), 0)
            self.until_stored(0)
            self.assert_whole(self.pull(0), 0)
            self.assert_only_blames(self.upstream)

    def test_put_together_from_both(self) -> None:
        """
        A host with wrong bytes breaks off and the other one goes on: the digest does not match, the blob is
        downloaded again from one at a time, at most once from each, and the other one is not blamed.
        """
        for at in (0, HALF - 1):
            self.build(2, 1)
            digest = self.upstream.digests[0]
            self.upstream.misbehave("wrong", at=at)
            self.upstream.misbehave("short", at=HALF, times=1)
            self.assert_short(self.pull(0), 0)
            self.until_stored(0)
            self.assert_whole(self.pull(0), 0)
            self.assertLessEqual(len(self.upstream.asked(digest, "GET")), 3)
            self.assertLessEqual(len(self.hosts[1].asked(digest, "GET")), 2)
            self.assertNotIn(f"unhealthy upstream={self.hosts[1].url}", self.cache.log())

    def test_both(self) -> None:
        """Wrong everywhere: nothing is stored, and it is 502 for a minute."""
        self.build(2, 1)
        for host in self.hosts:
            host.misbehave("wrong", at=0)
        self.assert_short(self.pull(0), 0)
        self.assert_nothing_kept(0)
        self.assert_error(self.pull(0), 502)
        for host in self.hosts:
            self.assertEqual(len(host.asked(self.upstream.digests[0], "GET")), 1)

    def assert_only_blames(self, blamed: Unruly) -> None:
        """The log has a line about this host, and none about the other one."""
        line = re.compile(f"digest mismatch, download restarted .* upstream={blamed.url}\\b")
        log = self.cache.wait_for_log(line)
        self.assertNotRegex(log, f"(download restarted|unhealthy) .*upstream={self.hosts[1].url}\\b")


class CrowdTests(FaultsTestCase):
    """Many who come at once."""

    def test_all_get_heads(self) -> None:
        """Whoever comes just as upstream's head does has its own at once, and waits for no body."""
        self.blobs = [random_bytes(_MIB, f"crowd {number}") for number in range(8)]
        self.upstream = Unruly(self, *self.blobs)
        self.cache = ContentCache(self, self.upstream.url)
        for digest in self.upstream.digests:
            self.upstream.misbehave("stall", digest, at=_MIB // 2, times=1)
            with ExitStack() as held:
                clients = [
                    held.enter_context(socket.create_connection(("127.0.0.1", self.cache.port), timeout=15))
                    for _ in range(40)
                ]
                for client in clients:
                    client.sendall(f"GET /v2/org/app/blobs/{digest} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
                for client in clients:
                    self.assertIn(b"200", client.recv(64))
            self.upstream.behave()
