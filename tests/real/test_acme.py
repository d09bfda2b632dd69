"""Certificates by themselves, from a real ACME server that really validates: Pebble."""

from __future__ import annotations

import hashlib
import json
import re
import socket
import ssl
import stat
import sys
import time
import urllib.request
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from subprocess import CompletedProcess

from cryptography import x509
from twisted.trial.unittest import SynchronousTestCase

from contentcache.acme.control import send_command
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
    """A cache on a port that is chosen before, since the ACME server has to know it."""

    def __init__(
        self, case: Case, upstream: str, http: Mapping[str, object], port: int, cas: Sequence[str] = ()
    ) -> None:
        self._fixed = port
        super().__init__(case, upstream, http=http, options={"cas": list(cas)} if cas else None)

    def _begin(self, port: int) -> Process:
        self.port = self._fixed
        self._write()
        process = daemon(self._case, self.config, log_path=self._folder / "contentcache.log")
        process.wait_until(lambda: self.health() is not None, "an answer of its debug port")
        return process


class AcmeCase(SynchronousTestCase):
    """Ports and a folder, a server, and caches that ask it."""

    def setUp(self) -> None:
        """Choose them."""
        self.port, self.plain = free_port(), free_port()
        self.folder = place(self) / "acme"

    def pebble(self, eab: Mapping[str, str] | None = None, blocked: tuple[str, ...] = ()) -> Pebble:
        """Start the server."""
        return Pebble(self, tls_port=self.port, http_port=self.plain, eab=eab, blocked=blocked)

    def cache(
        self,
        pebble: Pebble,
        upstream: str = NOWHERE,
        tls: Mapping[str, object] | None = None,
        cas: Sequence[str] = (),
        **keys: object,
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
        return AcmeCache(self, upstream, http, self.port, cas)

    def shown(self, host: str = HOST, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> x509.Certificate:
        """The certificate that a client gets who asks for a host."""
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
        """BackoffRecord until a proper certificate is shown."""

        def look() -> x509.Certificate | None:
            found = self.shown(host)
            return None if found.issuer == found.subject else found

        return cache.process.wait_until(look, f"a certificate for {host}")  # type: ignore[return-value]

    def trusted(self, pebble: Pebble, host: str = HOST, path: str = "/") -> int:
        """The status that curl gets, which trusts nobody but Pebble's root."""
        target = ("--cacert", str(pebble.root()), "--resolve", f"{host}:{self.port}:127.0.0.1")
        return Curl(self).fetch(f"https://{host}:{self.port}{path}", *target).status

    def kept(self, cache: AcmeCache, name: str = f"{HOST}.json") -> None:
        """BackoffRecord until a certificate is kept, and it is known when to renew it."""
        note = self.folder / name
        cache.process.wait_until(
            lambda: note.exists() and json.loads(note.read_text("utf-8"))["ask_again"] != 0, "it is kept"
        )

    def renew(self) -> list[bool]:
        """Ask the daemon for new certificates now; whether there are."""
        return [outcome.is_new for outcome in send_command(str(self.folder), "renew")]

    def command(self, cache: AcmeCache, *more: str) -> CompletedProcess[str]:
        """``contentcache certificates``."""
        argv = [sys.executable, "-c", "from contentcache.commands.main import main; main()", "certificates"]
        return run([*argv, str(cache.config), *more], check=False, env={"PYTHONPATH": str(ROOT)})


@needs("pebble", "pebble-challtestsrv", "curl", "docker-registry")
class FirstTests(AcmeCase):
    """The first certificate."""

    def test_alpn(self) -> None:
        """
        ``tls-alpn-01`` is answered on the port itself, by a cache with no certificate yet, which says so
        once; the files are of the daemon's account alone, and both versions of TLS show it.

        A restart asks the server for nothing, and shows the same certificate at once. A damaged certificate
        and a damaged account key are put aside and told, and new ones come.
        """
        pebble = self.pebble()
        cache = self.cache(pebble)
        leaf = self.issued(cache)
        self.assertEqual(self.trusted(pebble), 200)
        self.assertEqual(self.shown(version=ssl.TLSVersion.TLSv1_2), leaf)
        shown = "no certificate yet, self-signed one shown hosts=cache.example.com "
        self.assertEqual(cache.wait_for_log(shown).count(shown), 1)
        self.kept(cache)
        for path in (
            self.folder / f"{HOST}.pem",
            self.folder / "account" / "key.pem",
            self.folder / "control",
        ):
            self.assertEqual(stat.S_IMODE(path.stat().st_mode), 0o600)
        run(["openssl", "x509", "-in", str(self.folder / f"{HOST}.pem"), "-noout"])
        self.assertNotIn("Traceback", cache.log())
        expiry = f'contentcache_certificate_expiry_timestamp_seconds{{host="{HOST}"}}'
        until(lambda: cache.metrics().get(expiry, 0) > time.time() + 3600, "its end in the metrics")

        asked = len(pebble.process.log())
        cache.restart()
        self.assertEqual(self.shown(), leaf)
        self.assertEqual(cache.log().count("no certificate yet"), 1)

        cache.stop()
        self.assertEqual(len(pebble.process.log()), asked)
        for name in (f"{HOST}.pem", "account/key.pem"):
            (self.folder / name).write_text("rubbish", "utf-8")
        cache.start()
        self.assertNotEqual(self.issued(cache), leaf)
        cache.wait_for_log("stored file damaged, renamed path=", times=2)
        self.assertEqual(len(list(self.folder.rglob("*.damaged-*"))), 2)

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
        Where one challenge fails and another can be answered, that is used; the reason why the server could
        not verify the host is in the log, with what to do.

        ``tls-alpn-01`` is answered though clients need certificates, and lets nobody in without one.
        """
        self.plain = free_port()
        pebble = self.pebble()
        cache = self.cache(pebble, http=f"127.0.0.1:{free_port()}", tls={"clientcas": [str(pebble.ca)]})
        cache.process.wait_until(lambda: f"certificate issued host={HOST} " in cache.log(), "has one")
        cache.wait_for_log("next one tried host=cache.example.com next=tls-alpn-01")
        cache.wait_for_log(
            re.compile(r"could not verify cache\.example\.com: .*connection refused.*firewalls")
        )
        self.assertEqual(self.trusted(pebble), 0)

    def test_several_hosts(self) -> None:
        """
        Each host has a certificate of its own, and no other host has one. One that the server does not
        certify is told in its words, and holds nobody up.

        skopeo pulls, and trusts the certificate through the server's root alone.
        """
        origin = Origin(self)
        image = push_image(origin, "org/app")
        pebble = self.pebble(blocked=("blocked.example.com",))
        cache = self.cache(pebble, origin.url, hosts=["blocked.example.com", HOST, OTHER, "localhost"])
        first, second = self.issued(cache), self.issued(cache, OTHER)
        self.assertNotEqual(first, second)
        for host in ("blocked.example.com", "stranger.example.com"):
            self.assertEqual(self.shown(host).issuer, self.shown(host).subject)
        self.assertEqual(self.trusted(pebble, OTHER), 200)
        self.issued(cache, "localhost")
        self.kept(cache, "localhost.json")
        self.assertEqual(
            sorted(path.name for path in self.folder.glob("*.pem")),
            [f"{HOST}.pem", "localhost.pem", f"{OTHER}.pem"],
        )
        refused = r'certificate not issued host=blocked\.example\.com .* reason="the ACME server refuses'
        cache.wait_for_log(re.compile(refused))
        cache.wait_for_log("letsencrypt.hosts")
        trust, folder = place(self), place(self)
        (trust / "ca.crt").write_bytes(pebble.root().read_bytes())
        skopeo_copy(image.reference(f"localhost:{self.port}"), folder, tls_verify=True, cert_dir=trust)
        self.assertEqual(digest_of(manifest_in(folder)), image.digest)

    def test_external_account(self) -> None:
        """An account of the certificate authority's own is bound; with a wrong key the refusal is told in words."""
        key = "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"
        pebble = self.pebble(eab={"kid-1": key})
        cache = self.cache(pebble, eab={"kid": "kid-1", "hmackey": key[::-1]})
        said = "look at letsencrypt.eab: kid and hmackey must be"
        cache.process.wait_until(lambda: said in cache.log(), "says what is wrong")
        cache.stop()
        cache = self.cache(pebble, eab={"kid": "kid-1", "hmackey": key})
        self.issued(cache)
        self.assertNotIn(key, cache.log())


@needs("pebble", "pebble-challtestsrv", "curl", "docker-registry")
class LaterTests(AcmeCase):
    """What comes after the first certificate."""

    def test_renewal_under_a_transfer(self) -> None:
        """Certificates that live for seconds are renewed again and again while one slow download goes on."""
        origin = Origin(self)
        content = random_bytes(12_000_000, "slow")
        digest = push_blob(origin, "org/app", content)
        pebble = self.pebble()
        cache = self.cache(pebble, origin.url, lifetime="7s")
        self.issued(cache)
        context = ssl.create_default_context(cafile=str(pebble.root()))
        line = context.wrap_socket(
            socket.create_connection(("127.0.0.1", self.port), 30), server_hostname=HOST
        )
        self.addCleanup(line.close)
        line.sendall(f"GET /v2/org/app/blobs/{digest} HTTP/1.1\r\nHost: {HOST}:{self.port}\r\n\r\n".encode())
        got, seen = bytearray(), {self.shown().serial_number}

        def renewed() -> bool:
            got.extend(line.recv(1 << 12))
            seen.add(self.shown().serial_number)
            return len(seen) > 2

        cache.process.wait_until(renewed, "renewed twice")
        self.assertLess(len(got), len(content))
        self.assertLess(self.shown().not_valid_before_utc, datetime.now(UTC))
        head, _, body = got.partition(b"\r\n\r\n")
        self.assertTrue(head.startswith(b"HTTP/1.1 200 "), head)
        while len(body) < len(content):
            more = line.recv(1 << 16)
            self.assertNotEqual(more, b"", len(body))
            body += more
        self.assertEqual(hashlib.sha256(body).hexdigest(), digest.removeprefix("sha256:"))
        self.assertNotIn("Traceback", cache.log())

    def test_away_and_back(self) -> None:
        """While the server is away the daemon serves on with what it has, says so, and asks again."""
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
        self.assertEqual(self.renew(), [True])
        self.assertEqual(self.trusted(pebble), 200)

    def test_nothing_is_asked_for(self) -> None:
        """
        A server whose own certificate nobody vouches for is asked for nothing, whatever ``cas`` says; nor is
        any where nothing can be kept. The log says what to do.
        """
        pebble = self.pebble()
        cache = self.cache(pebble, directoryca=None, cas=[str(pebble.ca)])
        cache.process.wait_until(lambda: "letsencrypt.directoryca" in cache.log(), "says what is missing")
        cache.stop()
        blocker = Path(self.folder.parent / "file")
        blocker.write_text("", "utf-8")
        self.folder = self.folder.parent / "link"
        self.folder.symlink_to(blocker / "acme")
        cache = self.cache(pebble)
        cache.process.wait_until(lambda: "letsencrypt.cachefile must belong" in cache.log(), "says so")
        self.assertEqual(self.shown().issuer, self.shown().subject)
        self.assertEqual(pebble.asked("new-order"), 0)

    def test_command(self) -> None:
        """
        The command shows what there is; with ``--renew`` the daemon asks for a new one, or without a daemon
        the command itself.

        A server that has lost everything, our account too, gets a new one within the same attempt. A second
        daemon on the folder is refused.
        """
        pebble = self.pebble()
        cache = self.cache(pebble)
        leaf = self.issued(cache)
        self.kept(cache)
        other = cache.sections()
        other["storage"] = {"filesystem": {"rootdirectory": str(place(self))}, "delete": {"enabled": True}}
        other["http"] = {"addr": f"127.0.0.1:{free_port()}", "tls": cache.sections()["http"]["tls"]}  # type: ignore[index]
        config = place(self) / "config.yml"
        config.write_text(json.dumps(other), "utf-8")
        second = daemon(self, config)
        self.assertEqual(second.wait(), 1, second.log())
        second.wait_for_log(f"{self.folder} is in use by process {cache.pid}; stop that one, or")

        pebble.stop()
        pebble.start()
        done = self.command(cache, "--renew")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        renewed = self.shown()
        self.assertNotEqual(renewed, leaf)
        for word in (HOST, "Pebble Intermediate", str(renewed.not_valid_after_utc.year)):
            self.assertIn(word, done.stdout)

        cache.stop()
        done = self.command(cache, "--renew")
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        self.assertIn("no daemon runs", done.stdout)
        [kept] = self.folder.glob("*.pem")
        self.assertNotIn(x509.load_pem_x509_certificates(kept.read_bytes())[0], (leaf, renewed))
