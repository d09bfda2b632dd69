"""
Certificates by themselves, from a real ACME server that really validates: Pebble.
"""

from __future__ import annotations

import contextlib
import json
import socket
import ssl
import stat
import sys
import urllib.request
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache, daemon
from tests.real.clients import Curl, manifest_in, skopeo_copy
from tests.real.images import digest_of, push_blob, push_image, random_bytes
from tests.real.origin import Origin
from tests.real.pebble import Pebble
from tests.real.programs import ROOT, Case, Process, free_port, needs, place, run, until

HOST = "cache.example.com"
OTHER = "other.example.com"
NOWHERE = "http://127.0.0.1:1"


class AcmeCache(ContentCache):
    """
    A cache on a port that is chosen before, since the ACME server has to know it.
    """

    def __init__(self, case: Case, upstream: str, http: Mapping[str, object], port: int) -> None:
        self._fixed = port
        super().__init__(case, upstream, http=http)

    def _begin(self, port: int) -> Process:
        self.port = self._fixed
        self._write()
        process = daemon(self._case, self.config, log_path=self._folder / "contentcache.log")
        process.wait_until(lambda: self.health() is not None, "an answer of its debug port")
        return process


class AcmeCase(SynchronousTestCase):
    """
    Ports and a folder, a server, and caches that ask it.
    """

    def setUp(self) -> None:
        """Choose them."""
        self.port, self.plain = free_port(), free_port()
        self.folder = place(self) / "acme"

    def pebble(self, eab: Mapping[str, str] | None = None, blocked: tuple[str, ...] = ()) -> Pebble:
        """Start the server."""
        return Pebble(self, tls_port=self.port, http_port=self.plain, eab=eab, blocked=blocked)

    def cache(
        self, pebble: Pebble, upstream: str = NOWHERE, tls: Mapping[str, object] | None = None, **keys: object
    ) -> AcmeCache:
        """Start a cache that gets certificates from it."""
        letsencrypt = {
            "cachefile": str(self.folder),
            "email": "ops@example.com",
            "hosts": [HOST],
            "directoryurl": pebble.url,
            "directoryca": str(pebble.ca),
            **keys,
        }
        http = {"addr": f"127.0.0.1:{self.port}", "tls": {"letsencrypt": letsencrypt, **(tls or {})}}
        return AcmeCache(self, upstream, http, self.port)

    def shown(self, host: str = HOST, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> x509.Certificate:
        """
        The certificate that a client gets who asks for a host.
        """
        context = ssl.create_default_context()
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
        context.minimum_version = context.maximum_version = version
        with (
            socket.create_connection(("127.0.0.1", self.port), 30) as line,
            context.wrap_socket(line, server_hostname=host) as secured,
        ):
            return x509.load_der_x509_certificate(secured.getpeercert(binary_form=True) or b"")

    def issued(self, cache: AcmeCache, host: str = HOST) -> x509.Certificate:
        """
        Wait until a proper certificate is shown.
        """

        def look() -> x509.Certificate | None:
            found = self.shown(host)
            return None if found.issuer == found.subject else found

        return cache.process.wait_until(look, f"a certificate for {host}")  # type: ignore[return-value]

    def trusted(self, pebble: Pebble, host: str = HOST, path: str = "/") -> int:
        """
        The status that curl gets, which trusts nobody but Pebble's root.
        """
        target = ("--cacert", str(pebble.root()), "--resolve", f"{host}:{self.port}:127.0.0.1")
        return Curl(self).fetch(f"https://{host}:{self.port}{path}", *target).status

    def command(self, cache: AcmeCache, *more: str) -> CompletedProcess[str]:
        """``contentcache certificates``."""
        argv = [sys.executable, "-c", "from contentcache.cli import main; main()", "certificates"]
        return run([*argv, str(cache.config), *more], check=False, env={"PYTHONPATH": str(ROOT)})


@needs("pebble", "pebble-challtestsrv", "curl")
class FirstTests(AcmeCase):
    """
    The first certificate.
    """

    def test_alpn(self) -> None:
        """
        ``tls-alpn-01`` is answered on the port itself, by a cache with no certificate yet, which says so
        once; the files are of the daemon's account alone, and both versions of TLS show it.
        """
        pebble = self.pebble()
        cache = self.cache(pebble)
        leaf = self.issued(cache)
        self.assertEqual(self.trusted(pebble), 200)
        self.assertEqual(self.shown(version=ssl.TLSVersion.TLSv1_2), leaf)
        self.assertEqual(cache.log().count("no certificate yet for cache.example.com"), 1)
        for path in (
            self.folder / f"{HOST}.pem",
            self.folder / "account" / "key.pem",
            self.folder / "control",
        ):
            until(path.exists, str(path))
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        run(["openssl", "x509", "-in", str(self.folder / f"{HOST}.pem"), "-noout"])
        self.assertNotIn("Traceback", cache.log())
        metrics = cache.metrics()
        self.assertGreater(metrics[f'contentcache_certificate_expiry_seconds{{host="{HOST}"}}'], 3600)

    def test_http(self) -> None:
        """
        ``http-01`` is answered on a port of its own, which otherwise sends people to https, for configured
        hosts.
        """
        pebble = self.pebble()
        cache = self.cache(pebble, http=f"127.0.0.1:{self.plain}", challenge="http-01")
        self.issued(cache)
        self.assertEqual(self.trusted(pebble), 200)
        for host, status, target in (
            (HOST, 301, f"https://{HOST}:{self.port}/v2/?n=1"),
            ("elsewhere.example.com", 404, None),
        ):
            found = Curl(self).fetch(f"http://127.0.0.1:{self.plain}/v2/?n=1", "-H", f"Host: {host}")
            self.assertEqual((found.status, found.headers.get("location")), (status, target))

    def test_other_challenge(self) -> None:
        """
        Where one challenge fails and another can be answered, that is used.
        """
        self.plain = free_port()
        pebble = self.pebble()
        cache = self.cache(pebble, http=f"127.0.0.1:{free_port()}")
        self.issued(cache)
        self.assertIn("tls-alpn-01 is tried instead", cache.log())

    def test_several_hosts(self) -> None:
        """
        Each host has a certificate of its own, and no other host has one.
        """
        pebble = self.pebble()
        cache = self.cache(pebble, hosts=[HOST, OTHER])
        first, second = self.issued(cache), self.issued(cache, OTHER)
        self.assertNotEqual(first, second)
        self.assertEqual(self.shown("stranger.example.com"), first)
        self.assertEqual(self.trusted(pebble, OTHER), 200)
        self.assertEqual(
            sorted(path.name for path in self.folder.glob("*.pem")), [f"{HOST}.pem", f"{OTHER}.pem"]
        )

    def test_client_certificates(self) -> None:
        """
        The challenge is answered though clients need certificates, and lets nobody in without one.
        """
        pebble = self.pebble()
        cache = self.cache(pebble, tls={"clientcas": [str(pebble.ca)]})
        cache.process.wait_until(lambda: f"{HOST} has a certificate" in cache.log(), "has one")
        self.assertEqual(self.trusted(pebble), 0)

    def test_external_account(self) -> None:
        """
        An account of the certificate authority's own is bound; without it the refusal is told in words.
        """
        key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
        pebble = self.pebble(eab={"kid-1": key})
        cache = self.cache(pebble)
        cache.process.wait_until(lambda: "letsencrypt.eab" in cache.log(), "says what is missing")
        cache.stop()
        cache = self.cache(pebble, eab={"kid": "kid-1", "hmackey": key})
        self.issued(cache)
        self.assertNotIn(key, cache.log())

    def test_clients(self) -> None:
        """
        skopeo pulls, and trusts the certificate through the server's root alone.
        """
        origin = Origin(self)
        image = push_image(origin, "org/app")
        pebble = self.pebble()
        cache = self.cache(pebble, origin.url, hosts=["localhost"])
        self.issued(cache, "localhost")
        trust, folder = place(self), place(self)
        (trust / "ca.crt").write_bytes(pebble.root().read_bytes())
        skopeo_copy(image.reference(f"localhost:{self.port}"), folder, tls_verify=True, cert_dir=trust)
        self.assertEqual(digest_of(manifest_in(folder)), image.digest)


@needs("pebble", "pebble-challtestsrv", "curl", "docker-registry")
class LaterTests(AcmeCase):
    """
    What comes after the first certificate.
    """

    def test_restart(self) -> None:
        """
        A restart asks the server for nothing, and shows the same certificate at once.
        """
        pebble = self.pebble()
        cache = self.cache(pebble)
        leaf = self.issued(cache)
        until((self.folder / f"{HOST}.json").exists, "it is kept")
        pebble.stop()
        cache.restart()
        self.assertEqual(self.shown(), leaf)
        self.assertEqual(cache.log().count("no certificate yet"), 1)
        self.assertNotIn("cannot be asked", cache.log())

    def test_renewal_under_a_transfer(self) -> None:
        """
        Certificates that live for seconds are renewed again and again while one slow download goes on.
        """
        origin = Origin(self)
        content = random_bytes(12_000_000, "slow")
        digest = push_blob(origin, "org/app", content)
        pebble = self.pebble()
        cache = self.cache(pebble, origin.url, lifetime="9s")
        self.issued(cache)
        curl = Curl(self).start(
            f"https://{HOST}:{self.port}/v2/org/app/blobs/{digest}",
            *("--cacert", str(pebble.root()), "--resolve", f"{HOST}:{self.port}:127.0.0.1"),
            *("--limit-rate", "600k"),
        )
        seen = {self.shown().serial_number}

        def renewed() -> bool:
            seen.add(self.shown().serial_number)
            return len(seen) > 2

        cache.process.wait_until(renewed, "renewed twice")
        self.assertTrue(curl.process.alive)
        self.assertLess(self.shown().not_valid_before_utc, datetime.now(UTC))
        got = curl.result()
        self.assertEqual((got.ended, got.body.read_bytes()), (0, content))
        self.assertNotIn("Traceback", cache.log())

    def test_away_and_back(self) -> None:
        """
        While the server is away the daemon serves on with what it has, says so, and asks again.
        """
        pebble = self.pebble()
        pebble.stop()
        cache = self.cache(pebble)
        cache.process.wait_until(lambda: "cannot be asked" in cache.log(), "says that the server is away")
        self.assertEqual(self.shown().issuer, self.shown().subject)
        with urllib.request.urlopen(
            f"http://127.0.0.1:{cache.debug_port}/debug/health", timeout=10
        ) as answer:
            told = json.loads(answer.read())
        self.assertEqual(told["checks"][f"certificate {HOST}"]["state"], "warn")
        pebble.start()
        self.issued(cache)
        self.assertEqual(self.trusted(pebble), 200)

    def test_refusal(self) -> None:
        """
        A host that the server does not certify is told in the server's words, and the others have
        certificates.
        """
        pebble = self.pebble(blocked=("blocked.example.com",))
        cache = self.cache(pebble, hosts=["blocked.example.com", OTHER])
        self.issued(cache, OTHER)
        said = "no new certificate for blocked.example.com: the ACME server refuses"
        cache.process.wait_until(lambda: said in cache.log(), "says so")
        self.assertIn("letsencrypt.hosts", cache.log())

    def test_failed_challenge(self) -> None:
        """
        The reason why the server could not verify a host is in the log, with what to do.
        """
        pebble = self.pebble()
        cache = self.cache(pebble, http=f"127.0.0.1:{free_port()}", challenge="http-01")
        cache.process.wait_until(lambda: "could not verify cache.example.com" in cache.log(), "says why")
        self.assertRegex(
            cache.log(), r"could not verify cache\.example\.com: .*connection refused.*firewalls"
        )

    def test_unknown_authority(self) -> None:
        """
        A server whose own certificate nobody vouches for is asked for nothing, and the log says what to name.
        """
        pebble = self.pebble()
        cache = self.cache(pebble, directoryca=None)
        cache.process.wait_until(lambda: "letsencrypt.directoryca" in cache.log(), "says what is missing")
        self.assertEqual(pebble.asked("new-order"), 0)

    def test_forgotten_account(self) -> None:
        """
        A server that has lost everything, our account too, gets a new one within the same attempt.
        """
        pebble = self.pebble()
        cache = self.cache(pebble)
        leaf = self.issued(cache)
        until((self.folder / f"{HOST}.json").exists, "it is kept")
        pebble.stop()
        pebble.start()
        done = self.command(cache, "--renew")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertNotEqual(self.shown(), leaf)

    def test_damaged(self) -> None:
        """
        A damaged certificate and a damaged account key are put aside and told, and new ones come.
        """
        pebble = self.pebble()
        cache = self.cache(pebble)
        leaf = self.issued(cache)
        until((self.folder / f"{HOST}.json").exists, "it is kept")
        cache.stop()
        for name in (f"{HOST}.pem", "account/key.pem"):
            (self.folder / name).write_text("rubbish", "utf-8")
        cache.start()
        self.assertNotEqual(self.issued(cache), leaf)
        self.assertEqual(cache.log().count("is put aside as"), 2)
        self.assertEqual(len(list(self.folder.rglob("*.damaged-*"))), 2)

    def test_command(self) -> None:
        """
        The command shows what there is; with ``--renew`` the daemon asks for a new one, or without a daemon
        the command itself.
        """
        pebble = self.pebble()
        cache = self.cache(pebble)
        leaf = self.issued(cache)
        until((self.folder / f"{HOST}.json").exists, "it is kept")
        done = self.command(cache)
        self.assertEqual(done.returncode, 0, done.stderr)
        for word in (HOST, "Pebble Intermediate", str(leaf.not_valid_after_utc.year)):
            self.assertIn(word, done.stdout)
        done = self.command(cache, "--renew")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        renewed = self.shown()
        self.assertNotEqual(renewed, leaf)
        with contextlib.suppress(AssertionError):
            cache.stop()
        done = self.command(cache, "--renew")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        cache.start()
        self.assertNotIn(self.shown(), (leaf, renewed))

    def test_folder_not_writable(self) -> None:
        """
        Where nothing can be kept, nothing is asked for, and the log says what to do.
        """
        pebble = self.pebble()
        blocker = Path(self.folder.parent / "file")
        blocker.write_text("", "utf-8")
        self.folder = blocker / "acme"
        cache = self.cache(pebble)
        cache.process.wait_until(lambda: "letsencrypt.cachefile must belong" in cache.log(), "says so")
        self.assertEqual(pebble.asked("new-order"), 0)
        self.assertEqual(self.shown().issuer, self.shown().subject)
