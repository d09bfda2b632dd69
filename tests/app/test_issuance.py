"""Tests for :mod:`contentcache.app.issuance`."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

from twisted.internet.defer import Deferred
from twisted.internet.testing import MemoryReactorClock
from twisted.trial.unittest import SynchronousTestCase

import contentcache
from contentcache.acme.errors import CertificateStoreInUseError
from contentcache.aio.threads import at_once
from contentcache.app.issuance import Issuance
from contentcache.config.model import Address, LetsEncrypt, ServerTLS
from contentcache.telemetry.metrics import Meter
from tests.config.writing import MINIMAL

#: Tells whether some modules are loaded when a daemon is about to become another account.
_LOADED: Final = """
import sys
from contentcache.config.loading import load
from contentcache.app.daemon import Daemon
names = "contentcache.app.issuance", "txacme.service", "cryptography.hazmat.backends.openssl.backend"
for path in sys.argv[1:]:
    Daemon(load(path, {}), {}, None).privilegedStartService()
    print([name in sys.modules for name in names])
"""


class IssuanceTests(SynchronousTestCase):
    """The part of the daemon."""

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

    def test_loaded_early(self) -> None:
        """
        All that is needed for it is loaded before the daemon becomes another account, and nothing of it where
        certificates are files.
        """
        configs = []
        tls = "letsencrypt: {cachefile: /acme, hosts: [a.example]}"
        for written in ("", f", tls: {{{tls}}}"):
            configs.append(os.path.abspath(self.mktemp()))
            with open(configs[-1], "w", encoding="ascii") as file:
                file.write(MINIMAL.replace('addr: ":5000"', f'addr: "127.0.0.1:0"{written}'))
        done = subprocess.run(
            [sys.executable, "-c", _LOADED, *configs],
            env={**os.environ, "PYTHONPATH": str(Path(contentcache.__file__).parents[1])},
            capture_output=True,
            text=True,
            check=False,
        )
        told = ["[False, False, False]", "[True, True, True]"]
        self.assertEqual(done.stdout.splitlines(), told, done.stderr)

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
        fault = self.assertRaises(CertificateStoreInUseError, self.build, folder)
        self.assertIn(f"process {os.getpid()}; stop that one, or give this daemon another", str(fault))
        self.assertTrue(os.path.exists(damaged))
        self.end(first)
        self.end(self.build(folder))
        self.assertFalse(os.path.exists(damaged))
        self.assertEqual(len(self.flushLoggedErrors()), 0)

    def test_no_folder(self) -> None:
        """One that cannot be made keeps nobody from starting."""
        blocker = self.mktemp()
        with open(blocker, "w", encoding="ascii"):
            pass
        self.end(self.build(os.path.join(blocker, "acme")))
