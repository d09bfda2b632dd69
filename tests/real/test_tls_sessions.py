"""Mutual TLS with the real program: nobody is served without a certificate, whatever session is resumed."""

from __future__ import annotations

import shutil
import socket
import ssl
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.certificates import Authority, Certificate
from tests.real.line import CountingProxy
from tests.real.pebble import Pebble
from tests.real.programs import needs, place, until
from tests.real.test_acme import HOST, AcmeCase
from tests.real.worker_processes import all_serve
from tests.tls.resuming import VERSIONS, Met, ResumingClient

#: Tries with one session: with two workers every other connection comes to the one where it began.
_TRIES = 8


def ask(port: int, client: ResumingClient) -> Met:
    """Ask a daemon for ``/`` on a connection of its own; ``served`` where it answers in HTTP at all."""
    answer = b""
    resumed, given, protocol = False, None, None
    with socket.create_connection(("127.0.0.1", port), 60) as plain:
        try:
            with client.context.wrap_socket(
                plain, server_hostname=client.host, session=client.session
            ) as secured:
                resumed, protocol = bool(secured.session_reused), secured.selected_alpn_protocol()
                given = secured.session
                if protocol != "acme-tls/1":
                    secured.sendall(b"GET / HTTP/1.1\r\nHost: here\r\nConnection: close\r\n\r\n")
                while more := secured.recv(4096):
                    answer += more
                    given = secured.session
        except OSError:
            pass  # it is refused
    return Met(answer.startswith(b"HTTP/1.1 "), resumed, given, protocol)


@needs("pebble", "pebble-challtestsrv")
class ChallengeTests(AcmeCase):
    """While a certificate authority looks whether a host is ours."""

    workers = 1

    def test_challenge(self) -> None:
        """
        A client without a certificate that offers ``acme-tls/1`` while a challenge is open gets no session,
        and is not served with what it got, then and after the certificate has come.
        """
        line = CountingProxy(self, self.port, tls=True)
        line.stall()  # the authority's look takes as long as the test needs
        pebble = Pebble(self, tls_port=line.port, http_port=self.plain)
        clients = Authority(place(self), "Clients")
        cache = self.cache(pebble, tls={"clientcas": [str(clients.path)]})
        attackers = []
        for version in VERSIONS:
            self.assertFalse(ask(self.port, ResumingClient(version, host=HOST)).served)
            attacker = ResumingClient(version, host=HOST, protocols=("acme-tls/1",))
            met = self.challenged(cache, attacker)
            self.assertFalse(met.has_session)
            attacker.session = met.given
            attacker.offer("http/1.1")
            attackers.append(attacker)
        self.refused(attackers)
        line.restore()
        cache.process.wait_until(
            lambda: f"certificate issued host={HOST} " in cache.log() or any(self.renew()), "the certificate"
        )
        self.refused(attackers)

    def challenged(self, cache: ContentCache, client: ResumingClient) -> Met:
        """How a connection went, once a challenge is open."""
        met = ask(self.port, client)
        while met.protocol != "acme-tls/1":
            self.assertTrue(cache.process.alive)
            met = ask(self.port, client)
        return met

    def refused(self, attackers: list[ResumingClient]) -> None:
        """None of them is served, whichever worker they come to."""
        for attacker in attackers:
            for _ in range(_TRIES):
                met = ask(self.port, attacker)
                self.assertFalse(met.resumed)
                self.assertFalse(met.served)


class ChallengeWorkersTests(ChallengeTests):
    """The same of two workers."""

    workers = 2


class ClientCertificateTests(SynchronousTestCase):
    """Sessions of clients with certificates, in the fast path."""

    workers = 1
    fastpath = "auto"

    def test_reload(self) -> None:
        """
        A session is resumed as long as the authority of its certificate is in ``clientcas``: after ``SIGHUP``
        with another one neither it nor the certificate is enough.
        """
        folder = place(self)
        first, second = Authority(folder, "First"), Authority(folder, "Second")
        clientcas = folder / "clientcas.pem"
        shutil.copy(first.path, clientcas)
        server = Authority(folder, "Servers").leaf("127.0.0.1", "localhost")
        cache = ContentCache(
            self,
            "http://127.0.0.1:1",
            tls=server,
            http={"tls": self.files(server) | {"clientcas": [str(clientcas)]}},
            options={"fastpath": self.fastpath},
        )
        until(lambda: cache.health() is not None, "it serves")
        if self.workers > 1:
            all_serve(cache)
        old, new = first.leaf(name="old", client=True), second.leaf(name="new", client=True)
        known = []
        for version in VERSIONS:
            self.assertFalse(self.served(cache, ResumingClient(version, host="localhost")))
            client = self.client(version, old)
            met = ask(cache.port, client)
            self.assertTrue(met.served)
            client.session = met.given
            until(lambda: self.resumed(cache, client), "the session is resumed")  # noqa: B023
            known.append(client)
        shutil.copy(second.path, clientcas)
        cache.reload()
        changed = self.client(VERSIONS[1], new)
        until(lambda: all(ask(cache.port, changed).served for _ in range(_TRIES)), "the new authority counts")
        for client in known:
            self.assertFalse(self.served(cache, client))

    def files(self, server: Certificate) -> dict[str, object]:
        """The server's own."""
        return {"certificate": str(server.certificate), "key": str(server.key)}

    def client(self, version: ssl.TLSVersion, shown: Certificate) -> ResumingClient:
        """A client with this certificate."""
        files = str(Path(shown.certificate)), str(Path(shown.key))
        return ResumingClient(version, host="localhost", certificate=files)

    def resumed(self, cache: ContentCache, client: ResumingClient) -> bool:
        """Whether it is served on a session that it has: at the worker that it comes to."""
        met = ask(cache.port, client)
        self.assertTrue(met.served)
        return met.resumed

    def served(self, cache: ContentCache, client: ResumingClient) -> bool:
        """Whether it is ever served."""
        return any(ask(cache.port, client).served for _ in range(_TRIES))


class ClientCertificateSlowTests(ClientCertificateTests):
    """The same without the fast path."""

    fastpath = "off"


class ClientCertificateWorkersTests(ClientCertificateTests):
    """The same of two workers."""

    workers = 2
