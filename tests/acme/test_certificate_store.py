"""Tests for :mod:`contentcache.acme.certificate_store`."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import stat
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import cast

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from twisted.logger import ILogObserver, LogEvent, globalLogPublisher
from twisted.trial.unittest import SynchronousTestCase

import contentcache
from contentcache.acme.account import AccountKey
from contentcache.acme.certificate import RenewalWindow
from contentcache.acme.certificate_store import CertificateStore
from contentcache.acme.errors import CertificateStoreError, CertificateStoreInUseError
from contentcache.acme.records import BackoffRecord, CertificateMetadata
from contentcache.telemetry.logging import event_text
from tests.tls.certificates import make

HOST = "cache.example.com"
NOTE = CertificateMetadata("https://acme.example/dir", RenewalWindow(1.0, 2.0), 3.5)


class CertificateStoreTests(SynchronousTestCase):
    """The directory of the certificates."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp())
        self.store = CertificateStore(str(self.folder), lambda: 1_800_000_000.0)
        self.made = make(HOST, hosts=(HOST,))
        self.pem = self.made.key_pem() + self.made.pem

    def test_round_trip(self) -> None:
        """What is stored is loaded again, from files of one account, and nothing else is left behind."""
        self.assertIsNone(self.store.load_certificate(HOST))
        self.store.ensure_writable()
        self.store.save_certificate(HOST, self.pem, NOTE)
        kept = self.store.load_certificate(HOST)
        assert kept is not None
        self.assertEqual((kept.identity.chain[0], kept.metadata), (self.made.certificate, NOTE))
        key = self.store.account_key()
        self.assertEqual(self.store.account_key().jwk(), key.jwk())
        self.store.save_account_url("one", "https://one/1")
        self.store.save_account_url("two", "https://two/1")
        self.store.save_account_url("one", None)
        self.assertEqual([self.store.account_url(name) for name in ("one", "two")], [None, "https://two/1"])
        files = [path for path in self.folder.rglob("*") if path.is_file()]
        self.assertEqual(
            sorted(path.name for path in files),
            [f"{HOST}.json", f"{HOST}.pem", "key.pem", "lock", "urls.json"],
        )
        self.assertEqual({stat.S_IMODE(path.stat().st_mode) for path in files}, {0o600})
        for folder in (self.folder, self.folder / "account"):
            self.assertEqual(stat.S_IMODE(folder.stat().st_mode), 0o700)

    def test_damaged(self) -> None:
        """Damaged files are renamed with all their bytes, and logged; a new account key is generated."""
        other, told = make("other"), []

        def hear(event: LogEvent) -> None:
            told.append(event_text(event))

        observer = cast("ILogObserver", hear)
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)
        self.store.save_certificate(HOST, self.pem, NOTE)
        key = self.store.account_key()
        self.store.save_account_url("one", "https://one/1")
        for content in (b"", b"rubbish", self.pem[:-40], other.key_pem() + self.made.pem):
            (self.folder / f"{HOST}.pem").write_bytes(content)
            self.assertRaises(CertificateStoreError, self.store.inspect_certificate, HOST)
            self.assertIsNone(self.store.load_certificate(HOST))
            self.assertFalse((self.folder / f"{HOST}.pem").exists())
            aside = [path.read_bytes() for path in self.folder.glob(f"{HOST}.pem.damaged-*")]
            self.assertIn(content, aside)
            self.assertRegex(
                told[-1], rf'stored file damaged, renamed path=\S+/{HOST}\.pem .*reason="it holds '
            )
        (self.folder / "account" / "key.pem").write_bytes(b"rubbish")
        self.assertNotEqual(self.store.account_key().jwk(), key.jwk())
        self.assertEqual(len(list((self.folder / "account").glob("key.pem.damaged-*"))), 1)
        self.assertIsNone(self.store.account_url("one"))

    def test_others(self) -> None:
        """A certificate for another host is renamed too; upper case and wildcards are no other host."""
        self.store.ensure_writable()
        path = self.folder / f"{HOST}.pem"
        hosts: tuple[str, ...]
        for hosts in ((HOST.upper(),), ("b.example", HOST), ("*.example.com",)):
            made = make("x", hosts=hosts)
            path.write_bytes(made.key_pem() + made.pem)
            self.assertIsNotNone(self.store.load_certificate(HOST), hosts)
        for hosts in ((), ("b.example",), ("192.0.2.1",), ("*.com",), ("*.cache.example.com",)):
            made = make(HOST, hosts=hosts)
            path.write_bytes(made.key_pem() + made.pem)
            fault = self.assertRaises(CertificateStoreError, self.store.inspect_certificate, HOST)
            self.assertIn(f"for {', '.join(hosts) or 'no name'}, and not for {HOST}", str(fault))
            self.assertIsNone(self.store.load_certificate(HOST), hosts)
            self.assertFalse(path.exists())
        self.assertEqual(len(list(self.folder.glob("*.damaged-*"))), 5)

    def test_malformed_metadata(self) -> None:
        """Malformed metadata is empty metadata."""
        self.store.ensure_writable()
        odd = '{"server": 5, "ask_again": "x", "suggested": [1]}'
        for content in ("", "[]", "{", odd, '{"ask_again": NaN}'):
            (self.folder / f"{HOST}.json").write_text(content)
            self.assertEqual(self.store.metadata(HOST), CertificateMetadata())
        aside = [path.read_text() for path in self.folder.glob("*.json.damaged-*")]
        self.assertEqual(sorted(aside), ["", "[]", "{"])
        (self.folder / "account" / "urls.json").write_text("rubbish")
        self.assertIsNone(self.store.account_url("one"))
        self.store.release()
        (self.folder / f"{HOST}.json").write_text("{")
        self.store.inspect_certificate(HOST)
        self.assertEqual(len(list(self.folder.rglob("*.damaged-*"))), 4)

    def test_malformed_pending_order(self) -> None:
        """A malformed pending order is none."""
        key = self.made.key_pem().decode()
        good = {"server": "s", "url": "u", "key": key, "since": 1.0}
        self.store.ensure_writable()
        for change in ({}, {"url": 5}, {"key": "rubbish"}, {"since": None}, {"key": f"\u00fc{key[:-60]}"}):
            (self.folder / f"{HOST}.order.json").write_text(json.dumps({**good, **change}))
            self.assertEqual(self.store.pending_order(HOST) is not None, not change, change)

    def test_malformed_backoff(self) -> None:
        """A malformed backoff is none."""
        self.store.ensure_writable()
        good = {"until": 5.0, "failures": 2, "says": "no"}
        for change in ({}, {"until": "x"}, {"failures": None}, {"says": 1}):
            (self.folder / f"{HOST}.wait.json").write_text(json.dumps({**good, **change}))
            self.assertEqual(self.store.backoff(HOST), None if change else BackoffRecord(5.0, 2, "no"))

    def test_rights_of_others(self) -> None:
        """Permissions of other accounts are removed; inspecting changes nothing."""
        self.store.ensure_writable()
        self.store.save_certificate(HOST, self.pem, NOTE)
        self.store.release()
        paths = {self.folder: 0o755, self.folder / "account": 0o700, self.folder / f"{HOST}.pem": 0o700}
        for path in paths:
            path.chmod(0o777)
        self.store.inspect_certificate(HOST)
        self.assertEqual({stat.S_IMODE(path.stat().st_mode) for path in paths}, {0o777})
        self.store.ensure_writable()
        self.store.load_certificate(HOST)
        self.assertEqual({path: stat.S_IMODE(path.stat().st_mode) for path in paths}, paths)

    def test_unusable(self) -> None:
        """Where a file is in the way every operation says so, and nothing is renamed."""
        self.folder.write_text("in the way")
        for call in (
            self.store.ensure_writable,
            self.store.account_key,
            lambda: self.store.load_certificate(HOST),
        ):
            self.assertRaises(CertificateStoreError, call)
        self.assertEqual(self.folder.read_text(), "in the way")

    def test_failed_write(self) -> None:
        """When writing fails the old content stays, whole."""
        self.store.save_certificate(HOST, self.pem, NOTE)

        def broken(_fd: int) -> None:
            raise OSError(28, "No space left on device")

        self.patch(os, "fsync", broken)
        fault = self.assertRaises(
            CertificateStoreError, self.store.save_certificate, HOST, b"new", CertificateMetadata()
        )
        self.assertIn("No space left", str(fault))
        self.assertEqual((self.folder / f"{HOST}.pem").read_bytes(), self.pem)
        self.assertEqual(len(list(self.folder.glob(".*"))), 0)

    def test_no_room(self) -> None:
        """
        Before an order there must be space for all its files; the probe's file is deleted. The error says
        what helps: space, a quota, another mount, or else permissions.
        """
        self.store.ensure_writable()
        for number, remedy in (
            (errno.ENOSPC, "make room on the disk"),
            (errno.EDQUOT, "raise the quota"),
            (errno.EROFS, "can be written"),
            (errno.EIO, "the kernel's log"),
            (errno.EACCES, "letsencrypt.cachefile must belong"),
        ):
            patch = self.patch(os, "fsync", partial(_fail, number))
            for call in (self.store.ensure_writable, self.store.account_key):
                self.assertIn(remedy, self.assertRaises(CertificateStoreError, call).remedy)
            patch.restore()
        self.assertEqual([path.name for path in self.folder.rglob(".*")], [])
        self.store.ensure_writable()

    def test_one_process(self) -> None:
        """One process writes at a time, and another one is told which; inspecting needs no lock."""
        other = CertificateStore(str(self.folder), lambda: 1.0)
        self.store.ensure_writable()
        self.store.save_certificate(HOST, self.pem, NOTE)
        for call in (other.acquire, other.ensure_writable):
            fault = self.assertRaises(CertificateStoreInUseError, call)
            self.assertIn(f"{self.folder} is in use by process {os.getpid()}; stop that one, or", str(fault))
        self.assertIsNotNone(other.inspect_certificate(HOST))
        self.store.release()
        self.store.release()
        other.ensure_writable()
        self.assertRaises(CertificateStoreInUseError, self.store.ensure_writable)
        other.release()

    def test_holder_is_killed(self) -> None:
        """
        The kernel releases the lock when its holder is killed, and the next one deletes half-written files:
        they may hold a key.
        """
        written = (
            "import os, sys, time\n"
            "from contentcache.acme.certificate_store import CertificateMetadata, CertificateStore\n"
            "os.replace = lambda *_: print('written', flush=True) or sys.stdin.read()\n"
            "store = CertificateStore(sys.argv[1], time.time); store.ensure_writable()\n"
            "store.save_certificate(sys.argv[2], b'secret', CertificateMetadata())"
        )
        child = subprocess.Popen(
            [sys.executable, "-c", written, str(self.folder.absolute()), HOST],
            env={**os.environ, "PYTHONPATH": str(Path(contentcache.__file__).parents[1])},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
        )
        with child:
            self.addCleanup(child.kill)
            assert child.stdout is not None
            self.assertEqual(child.stdout.readline(), b"written\n")
            self.assertRaises(CertificateStoreInUseError, self.store.ensure_writable)
            self.assertEqual(len(list(self.folder.glob(f".{HOST}.pem.*"))), 1)
            (self.folder / ".profile").write_text("not ours")
            child.kill()
        self.store.ensure_writable()
        self.assertEqual([path.name for path in self.folder.rglob(".*")], [".profile"])
        self.assertIsNone(self.store.load_certificate(HOST))

    def test_no_locks(self) -> None:
        """On a file system without locks there is no lock."""

        def unknown(*_: int) -> None:
            raise OSError(errno.ENOLCK, "No locks available")

        self.patch(fcntl, "flock", unknown)
        self.store.ensure_writable()
        self.assertTrue((self.folder / "account").is_dir())

    def test_keys_from_elsewhere(self) -> None:
        """An account's key may be RSA; one of another curve is renamed."""
        self.store.ensure_writable()
        path = self.folder / "account" / "key.pem"
        theirs = rsa.generate_private_key(65537, 2048)
        path.write_bytes(theirs.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption()))
        self.assertEqual(self.store.account_key().jwk()["kty"], "RSA")
        odd = ec.generate_private_key(ec.SECP384R1())
        path.write_bytes(odd.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
        self.assertEqual(self.store.account_key().jwk()["crv"], "P-256")
        self.assertNotIn("Private", repr(AccountKey.generate()))


def _fail(number: int, _descriptor: int) -> None:
    raise OSError(number, os.strerror(number))
