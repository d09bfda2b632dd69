"""
Tests for :mod:`contentcache.issuance`.
"""

from __future__ import annotations

import os
from typing import Any

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.acme.lock import FolderTaken
from contentcache.config.model import Address, LetsEncrypt, ServerTLS
from contentcache.delivery.tasks import at_once
from contentcache.issuance import Issuance
from contentcache.meter import Meter


class IssuanceTests(SynchronousTestCase):
    """
    The part of the daemon.
    """

    def build(self, folder: str) -> Issuance:
        """It begins."""
        settings = LetsEncrypt(folder, ("cache.example.com",))
        reactor: Any = MemoryReactorClock()
        return Issuance(
            ServerTLS(letsencrypt=settings),
            settings,
            Address("", 443),
            {},
            run=at_once,
            reactor=reactor,
            meter=Meter(),
        )

    def end(self, part: Issuance) -> None:
        """It ends."""
        self.successResultOf(Deferred.fromCoroutine(part.stop()))

    def test_one_daemon(self) -> None:
        """
        A second daemon on the folder is refused before it touches a file of it; when the first has ended it
        is not.
        """
        folder = self.mktemp()
        first = self.build(folder)
        damaged = os.path.join(folder, "cache.example.com.pem")
        with open(damaged, "w", encoding="ascii") as file:
            file.write("rubbish")
        fault = self.assertRaises(FolderTaken, self.build, folder)
        self.assertIn(f"process {os.getpid()}; stop that one, or give this daemon another", str(fault))
        self.assertTrue(os.path.exists(damaged))
        self.end(first)
        self.end(self.build(folder))
        self.assertFalse(os.path.exists(damaged))
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_no_folder(self) -> None:
        """
        One that cannot be made keeps nobody from starting.
        """
        blocker = self.mktemp()
        with open(blocker, "w", encoding="ascii"):
            pass
        self.end(self.build(os.path.join(blocker, "acme")))
