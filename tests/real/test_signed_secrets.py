"""The token of a signed URL is a secret: where it never turns up."""

from __future__ import annotations

import json
import re
import socket
import urllib.parse

from tests.real.asking import Asker
from tests.real.cache import ContentCache
from tests.real.line import CountingProxy
from tests.real.origin import Answer, Origin, basic
from tests.real.programs import needs
from tests.real.signed import NAME, SignedCase
from tests.real.signer import SigningOrigin, StorageHost
from tests.real.threaded import Asked, Face

#: A value of ``token`` that is not covered up.
_VALUE = re.compile(r"(?i)\btoken=(?!\*\*\*)\S{0,20}")


class Blabbing(SigningOrigin):
    """An origin that repeats the token in what it answers: in the body of a refusal, or in a redirect."""

    redirects = False

    def answer(self, face: Face, asked: Asked) -> None:
        """Blab."""
        token = urllib.parse.parse_qs(asked.query).get("token")
        if token is None:
            super().answer(face, asked)
        elif self.redirects and self.storage is not None:
            blob = asked.path.split("/")
            place = self.storage.location("/".join(blob[2:-2]), blob[-1])
            face.tell(307, {"Location": f"{place}&token={token[0]}"}, b"")
        else:
            refusal = {
                "errors": [{"code": "DENIED", "message": f"what is {token[0]}?", "detail": asked.query}]
            }
            headers = {"Content-Type": "application/json", "WWW-Authenticate": f'Basic realm="{token[0]}"'}
            face.tell(404, headers, json.dumps(refusal).encode())


@needs("docker-registry")
class SecretTests(SignedCase):
    """A cache that logs all that it can, and a storage host behind the origin."""

    def setUp(self) -> None:
        self.registry = Origin(self, users={"ann": "secret"})
        self.storage = StorageHost(self, self.registry)
        self.use(SigningOrigin(self, self.registry, storage=self.storage))

    def use(self, origin: SigningOrigin) -> None:
        """A cache of that origin."""
        self.origin = origin
        self.cache = ContentCache(self, origin.url, log={"level": "debug"})
        self.asker = Asker(self, self.cache.host)

    def check_nowhere(self, token: str, *answers: Answer) -> None:
        """No part of a token is in the log, the metrics, the answers, or at the storage host."""
        told = {
            "the log": self.cache.log(),
            "the metrics": str(self.cache.metrics()),
            "what the storage host got": str(self.storage.requests),
            "the answers": " ".join(f"{answer.headers} {answer.body!r}" for answer in answers),
        }
        for place, text in told.items():
            for part in (token, *token.split(".")[1:]):
                self.assertFalse(part in text, f"{place} has the token")
            self.assertEqual(_VALUE.findall(text), [], place)

    def test_log(self) -> None:
        """A blob cold, warm, refused, in parts, by a method that is none: the log has its path, and no token."""
        content, digest = self.blob()
        path = f"/v2/{NAME}/blobs/{digest}"
        good, bad = self.origin.token(NAME, digest), self.origin.token(NAME, digest, None, {"sub": 7})
        answers = [
            self.ask(method, f"{path}?{query}{token}{rest}", Referer=f"{self.origin.url}{path}?token={token}")
            for method in ("GET", "HEAD", "POST", "PUT")
            for token in (good, bad)
            for query in ("token=", "ns=nowhere.example.com&token=", "to%6ben=")
            for rest in ("", "#more", "&x=%")
        ]
        self.assertIn(200, {answer.status for answer in answers})
        self.assertIn(405, {answer.status for answer in answers})
        self.assertIn(403, {answer.status for answer in answers})
        self.cache.wait_for_log(path, times=len(answers))
        for token in (good, bad):
            self.check_nowhere(token, *(answer for answer in answers if answer.body != content))

    def test_storage_host(self) -> None:
        """The host behind a redirect gets a plain question: no token, no ``Referer``, no credential."""
        content, digest = self.blob(3_000_000)
        line = CountingProxy(self, self.storage.port)
        self.storage.port = line.port
        token = self.origin.token(NAME, digest)
        answer = self.ask(
            "GET", f"/v2/{NAME}/blobs/{digest}?token={token}", Referer=f"https://x/?token={token}"
        )
        self.assertEqual(answer.body, content)
        (request,) = line.exchanges
        self.assertEqual(self.storage.requests[0].query, "X-Signature=own")
        self.assertEqual(set(request.headers) & {"authorization", "referer", "cookie"}, set())
        self.check_nowhere(token, Answer(200, answer.headers, b""))

    def test_storage_host_is_away(self) -> None:
        """Nor is it in what is said when that host cannot be reached."""
        _, digest = self.blob()
        self.storage.stop()
        token = self.origin.token(NAME, digest)
        answer = self.ask("GET", f"/v2/{NAME}/blobs/{digest}?token={token}")
        self.assertGreaterEqual(answer.status, 500)
        self.check_nowhere(token, answer)

    def test_origin_that_repeats_it(self) -> None:
        """An origin that repeats the token in a refusal finds that the client does not hear it."""
        self.use(Blabbing(self, self.registry))
        _, digest = self.blob()
        token = self.origin.token(NAME, digest)
        for method in ("GET", "HEAD"):
            answer = self.ask(method, f"/v2/{NAME}/blobs/{digest}?token={token}")
            self.assertEqual(answer.status, 404)
            self.check_nowhere(token, answer)

    def test_origin_that_sends_it_on(self) -> None:
        """One that redirects to another host with the token in the URL is not followed with it."""
        origin = Blabbing(self, self.registry, storage=self.storage)
        origin.redirects = True
        self.use(origin)
        content, digest = self.blob()
        token = origin.token(NAME, digest)
        answer = self.ask("GET", f"/v2/{NAME}/blobs/{digest}?token={token}")
        self.check_nowhere(token, Answer(answer.status, answer.headers, answer.body.replace(content, b"")))

    def test_disk(self) -> None:
        """Nothing that the daemon has written holds a token or a password, whole or cut."""
        content, digest = self.blob()
        token = self.origin.token(NAME, digest)
        path = f"/v2/{NAME}/blobs/{digest}"
        user = basic("ann", "hunter22secret")
        self.registry.set_users({"ann": "hunter22secret"})
        self.assertEqual(self.ask("GET", f"{path}?token={token}").body, content)
        self.assertEqual(self.ask("GET", path, user).body, content)
        self.wait_stored(digest)
        self.cache.stop()
        written = b"".join(file.read_bytes() for file in self.cache.files())
        self.assertIn(digest.partition(":")[2].encode(), written)
        for secret in (*token.split("."), user[6:], "hunter22secret"):
            self.assertFalse(secret.encode() in written, "a secret is on the disk")

    def test_bad_requests(self) -> None:
        """Requests that are refused before they are understood leave no token behind either."""
        _, digest = self.blob()
        token = self.origin.token(NAME, digest)
        target = f"/v2/{NAME}/blobs/{digest}?token={token}"
        for text in (
            f"GET {target} HTTP/9.9\r\n\r\n",
            f"GET {target}\r\n\r\n",
            f"GET {target} HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n",
            f"GET {target} HTTP/1.1\r\nno header\r\n\r\n",
            f"GET {target} and more HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET {target}{'x' * 40_000} HTTP/1.1\r\nHost: x\r\n\r\n",
            f"GET http://x{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            f"GET //x{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            f"GET /v2/%2e%2e{target} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
            f"GET /{target.replace('?', '%3f')} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n",
        ):
            self.check_nowhere(token, Answer(0, {}, _spoken(self.cache.port, text.encode())))


def _spoken(port: int, text: bytes) -> bytes:
    """All that is answered to some bytes."""
    heard = b""
    with socket.create_connection(("127.0.0.1", port), timeout=30) as line:
        line.sendall(text)
        line.shutdown(socket.SHUT_WR)
        try:
            while piece := line.recv(65536):
                heard += piece
        except ConnectionError:
            pass
    return heard
