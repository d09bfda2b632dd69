"""Tests for :mod:`contentcache.commands.alive`."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from contentcache.commands import alive, configuration
from contentcache.config.model import Address, Http, ServerTLS
from tests.real.certificates import Authority

Wrap = Callable[[socket.socket], socket.socket]
OK = b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n"
PATIENCE = 10.0


class _Peer:
    """Takes one connection, reads the head of a request and writes ``answer``, in a thread."""

    def __init__(
        self, case: SynchronousTestCase, bound: socket.socket, answer: bytes, wrap: Wrap | None
    ) -> None:
        self.head = b""
        self._answer = answer
        self._wrap = wrap
        self._bound = bound
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()
        case.addCleanup(bound.close)
        case.addCleanup(self._thread.join, PATIENCE)

    def _serve(self) -> None:
        plain, _ = self._bound.accept()
        plain.settimeout(PATIENCE)
        with plain:
            try:
                self._talk(plain if self._wrap is None else self._wrap(plain))
            except OSError:
                return  # whoever asked has left, as it may

    def _talk(self, connection: socket.socket) -> None:
        with connection:
            while b"\r\n\r\n" not in self.head:
                received = connection.recv(4096)
                if not received:
                    return
                self.head += received
            connection.sendall(self._answer)


class _AskTestCase(SynchronousTestCase):
    """Has peers, and asks them."""

    def peer(self, answer: bytes = OK, wrap: Wrap | None = None) -> tuple[_Peer, int]:
        """A peer, and its port."""
        bound = socket.create_server(("127.0.0.1", 0))
        return _Peer(self, bound, answer, wrap), bound.getsockname()[1]

    def assert_dead(self, settings: Http, *parts: str, timeout: float = PATIENCE) -> None:
        """Nobody lives there, and the sentence has these parts."""
        dead = self.assertRaises(alive.NotAliveError, alive.ask, settings, timeout)
        for part in parts:
            self.assertIn(part, str(dead))


class AskTests(_AskTestCase):
    """What counts as a daemon that lives."""

    def test_plain(self) -> None:
        """``GET /`` with 200 is life, whichever way "any address" is written."""
        for listened in ("", "0.0.0.0", "127.0.0.1"):
            peer, port = self.peer()
            said = alive.ask(Http(Address(listened, port)), PATIENCE)
            self.assertIn(f":{port}/ answers 200", said)
            self.assertTrue(peer.head.startswith(b"GET / HTTP/1.1\r\n"), peer.head)

    def test_unix(self) -> None:
        """A socket of the filesystem is asked too; without a listener it is dead."""
        path = self.mktemp()
        self.assert_dead(Http(Address("", 0, path)), path, "No such file")
        bound = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        bound.bind(path)
        bound.listen()
        _Peer(self, bound, OK, None)
        self.assertEqual(alive.ask(Http(Address("", 0, path)), PATIENCE), f"{path} answers 200")

    def test_busy(self) -> None:
        """A daemon with as many connections as it may have lives."""
        _, port = self.peer(b"HTTP/1.1 503 Service Unavailable\r\nContent-Length: 0\r\n\r\n")
        self.assertIn("answers 503", alive.ask(Http(Address("", port)), PATIENCE))

    def test_strangers(self) -> None:
        """Another program on the port is not the daemon, whatever it says."""
        for answer, said in (
            (b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n\r\n", "answers 404"),
            (b"SSH-2.0-OpenSSH\r\n", "does not answer"),
            (b"", "does not answer"),
        ):
            _, port = self.peer(answer)
            self.assert_dead(Http(Address("127.0.0.1", port)), f"http://127.0.0.1:{port}/", said)

    def test_nobody(self) -> None:
        """Where nobody listens, nobody lives."""
        with socket.create_server(("127.0.0.1", 0)) as bound:
            port = bound.getsockname()[1]
        self.assert_dead(Http(Address("127.0.0.1", port)), "Connection refused")

    def test_silence(self) -> None:
        """Who accepts and says nothing is dead when the time is over."""
        with socket.create_server(("127.0.0.1", 0)) as bound:
            self.assert_dead(Http(Address("", bound.getsockname()[1])), "timed out", timeout=0.01)

    def test_odd_host(self) -> None:
        """A name that can be no host's is told in the same words."""
        self.assert_dead(Http(Address("a" * 64 + ".example", 1)), "does not answer")


class TLSTests(_AskTestCase):
    """The same over TLS."""

    def setUp(self) -> None:
        folder = Path(self.mktemp())
        folder.mkdir()
        self.authority = Authority(folder)
        self.leaf = self.authority.leaf("elsewhere.example")

    def wrap(self, *, demanding: bool, highest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> Wrap:
        """The server's side, with a certificate for another name."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.maximum_version = highest
        context.load_cert_chain(self.leaf.certificate, self.leaf.key)
        if demanding:
            context.load_verify_locations(self.authority.path)
            context.verify_mode = ssl.CERT_REQUIRED
        return lambda plain: context.wrap_socket(plain, server_side=True)

    def test_plain(self) -> None:
        """The certificate need not be valid for anything."""
        _, port = self.peer(wrap=self.wrap(demanding=False))
        said = alive.ask(Http(Address("", port), tls=ServerTLS("c", "k")), PATIENCE)
        self.assertEqual(said, f"https://localhost:{port}/ answers 200")

    def test_demanding(self) -> None:
        """Where clients must show certificates, being asked for one is an answer, in TLS 1.2 as in 1.3."""
        tls = ServerTLS("c", "k", clientcas=("ca",))
        for highest in (ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3):
            _, port = self.peer(wrap=self.wrap(demanding=True, highest=highest))
            said = alive.ask(Http(Address("", port), tls=tls), PATIENCE)
            self.assertEqual(said, f"https://localhost:{port}/ asks for a certificate")

    def test_if_given(self) -> None:
        """Where they need not, one without is answered."""
        _, port = self.peer(wrap=self.wrap(demanding=False))
        tls = ServerTLS("c", "k", clientcas=("ca",), clientauth="verify-client-cert-if-given")
        self.assertIn("answers 200", alive.ask(Http(Address("", port), tls=tls), PATIENCE))

    def test_strangers(self) -> None:
        """One that speaks no TLS is not the daemon, certificates demanded or not."""
        for authorities in ((), ("ca",)):
            _, port = self.peer(b"HTTP/1.1 400 Bad Request\r\n\r\n", _after_a_hello)
            tls = ServerTLS("c", "k", clientcas=authorities)
            self.assert_dead(Http(Address("", port), tls=tls), "https://", "does not answer")


def _after_a_hello(plain: socket.socket) -> socket.socket:
    """What a server does that speaks no TLS: it answers the first bytes."""
    plain.recv(4096)
    plain.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
    return plain


class FileTests(SynchronousTestCase):
    """Which configuration process 1 has."""

    def test_options(self) -> None:
        """Each way to write the option is known, the last one counts, and those of twistd itself do not."""
        for words, file in (
            (("twistd", "contentcache", "--config", "/a"), "/a"),
            (("twistd", "contentcache", "-c", "/a"), "/a"),
            (("twistd", "contentcache", "--config=/a"), "/a"),
            (("twistd", "contentcache", "--config=/a", "--config", "/b"), "/b"),
            (("twistd", "--config", "/x", "contentcache"), None),
            (("twistd", "contentcache", "--config"), None),
            (("twistd", "contentcache"), None),
            (("/bin/python3", "/bin/contentcache", "/a"), "/a"),
            (("/bin/python3", "/bin/contentcache", "serve", "/a", "--user", "nobody"), "/a"),
            (("/bin/python3", "/bin/contentcache", "serve", "--user", "nobody", "--config=/a"), "/a"),
            (("docker-init", "--", "contentcache", "serve"), None),
            (("systemd", "--system"), None),
            ((), None),
        ):
            command_line = b"".join(word.encode() + b"\0" for word in words)
            self.assertEqual(configuration.file_in(command_line), file, words)

    def test_odd_bytes(self) -> None:
        """A path need not be text."""
        self.assertEqual(configuration.file_in(b"contentcache\0--config\0/\xe9.yml\0"), "/\udce9.yml")

    def test_unreadable(self) -> None:
        """Where ``/proc`` is not there, nothing is known."""
        self.patch(configuration, "_FIRST_PROCESS", Path(self.mktemp()))
        self.assertIsNone(configuration.file_of_first_process())
