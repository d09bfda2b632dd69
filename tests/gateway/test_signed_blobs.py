"""Tests for :mod:`contentcache.gateway.signed_blobs`."""

from __future__ import annotations

import json
from typing import Any, NoReturn

from contentcache.core.credentials import OWN
from contentcache.core.digest import Digest
from contentcache.core.errors import OriginRefused
from contentcache.gateway import signed_blobs
from contentcache.gateway.probe import PROBE_BYTES, ProbeSigner
from contentcache.jose.blob_tokens import sign_blob_token
from tests.gateway.in_memory import CACHE, NOW, PUBLIC, GatewayTestCase
from tests.registry.harness import Reply

CONTENT = b"content"
DIGEST = Digest.of(CONTENT)
OTHER = Digest.of(b"other")
BLOB = f"/v2/org/app/blobs/{DIGEST}"


class FillTests(GatewayTestCase):
    """Caches that request what they miss by signed URLs."""

    def setUp(self) -> None:
        super().setUp()
        self.directory.cache = CACHE
        self.own_registry_sends(200, {"Content-Length": "7", "Content-Type": "a/b"}, [CONTENT])

    def token(self, **changed: Any) -> str:
        """A valid token, but for what is ``changed``."""
        claims: dict[str, Any] = {
            "issuer": PUBLIC,
            "subject": "ann",
            "repository": "org/app",
            "digest": DIGEST,
            "now": NOW,
            "lifetime": 1200.0,
        }
        return sign_blob_token(self.signer, **{**claims, **changed})

    def fetch(self, token: str, *fields: str, method: str = "GET") -> Reply:
        """The response that a cache gets."""
        reply: Reply = self.client().ask(f"{BLOB}?token={token}", *fields, method=method)
        return reply

    def test_good(self) -> None:
        """The blob is served with the gateway's account and without the client's, and never as a redirect."""
        reply = self.fetch(self.token(), "Authorization: Basic YW5uOnNlY3JldA==", "Via: 1.1 contentcache-1")
        self.assertEqual((reply.status, reply.body), (200, CONTENT))
        self.assertEqual(reply.header("Docker-Content-Digest"), str(DIGEST))
        (question,) = self.own_registry.asked
        self.assertEqual((question.method, question.path, question.subject.credential), ("GET", BLOB, OWN))
        self.assertEqual(question.via, "1.1 contentcache-1, 1.1 contentcache-00000000")
        self.assertTrue(question.follow)
        self.assertEqual((self.directory.asked, self.endpoint.lines), ([], []))

    def test_loop(self) -> None:
        """A registry that redirects back to a URL that the gateway has signed is not asked again and again."""
        reply = self.fetch(self.token(), "Via: 1.1 contentcache-1, 1.1 contentcache-00000000")
        self.assertEqual(reply.status, 508)
        self.assertEqual(self.own_registry.asked, [])

    def test_probe(self) -> None:
        """
        The blob by which caches are probed comes from the gateway itself, to whoever has its URL; the
        registry is not asked.
        """
        probe = ProbeSigner(self.key_files.signer, issuer=PUBLIC, wall=lambda: NOW)
        target = probe.target()
        assert target is not None
        for method, body in (("GET", PROBE_BYTES), ("HEAD", b"")):
            reply = self.client().ask(target, method=method)
            self.assertEqual((reply.status, reply.body), (200, body))
            self.assertEqual(reply.header("Content-Length"), str(len(PROBE_BYTES)))
            self.assertEqual(reply.header("Docker-Content-Digest"), str(Digest.of(PROBE_BYTES)))
        self.assertEqual(self.client().ask(target[:-4] + "AAAA").status, 403)
        self.assertEqual((self.own_registry.asked, self.endpoint.lines), ([], []))
        self.key_files.keys = None
        self.assertIsNone(probe.target())

    def test_page(self) -> None:
        """
        A page where a blob was asked for is the registry's failure, and no cache gets it; a blob that is
        HTML, by the registry's own word, is one.
        """
        page = self.own_registry_sends(
            200, {"Content-Length": "7", "Content-Type": "text/html"}, [], end=None
        )
        self.assertEqual(self.fetch(self.token()).status, 502)
        self.assertTrue(page.stopped)
        named = {"Content-Length": "7", "Content-Type": "text/html", "Docker-Content-Digest": str(DIGEST)}
        self.own_registry_sends(200, named, [CONTENT])
        self.assertEqual(self.fetch(self.token()).body, CONTENT)

    def test_released(self) -> None:
        """Whatever raises between the registry's response and the client, the response is abandoned."""
        answer = self.own_registry_sends(200, {"Content-Length": "7"}, [], end=None)
        self.patch(signed_blobs, "etag", _broken)
        self.assertEqual(self.fetch(self.token()).status, 500)
        self.assertTrue(answer.stopped)
        self.assertEqual(len(self.flushLoggedErrors(ZeroDivisionError)), 1)

    def test_head(self) -> None:
        """``HEAD`` says what ``GET`` would."""
        reply = self.fetch(self.token(), method="HEAD")
        self.assertEqual((reply.status, reply.header("Content-Length")), (200, "7"))

    def test_part(self) -> None:
        """A range is requested as a range, and answered as one; one beyond the end is 416."""
        self.own_registry_sends(206, {"Content-Length": "2", "Content-Range": "bytes 5-6/7"}, [b"nt"])
        reply = self.fetch(self.token(), "Range: bytes=5-")
        self.assertEqual((reply.status, reply.body), (206, b"nt"))
        self.assertEqual(reply.header("Content-Range"), "bytes 5-6/7")
        self.assertEqual(self.own_registry.asked[0].range, "bytes=5-")
        self.own_registry_sends(416, {"Content-Length": "0", "Content-Range": "bytes */7"}, [])
        self.assertEqual(self.fetch(self.token(), "Range: bytes=9-").status, 416)

    def test_wrong(self) -> None:
        """A token that is wrong in any way is 403 for both methods, and the registry is not asked."""
        good = self.token()
        for token in (
            self.token(digest=OTHER),
            self.token(repository="org/other"),
            self.token(issuer="https://other.example"),
            self.token(now=NOW - 1300),
            self.token(now=NOW + 100),
            good[:-4] + "AAAA",
            good + "x",
            "x",
            "",
        ):
            for method in ("GET", "HEAD"):
                self.assertEqual(self.fetch(token, method=method).status, 403)
            (entry,) = json.loads(self.fetch(token).body)["errors"]
            self.assertEqual(entry["code"], "DENIED")
            self.assertFalse(token and token in entry["message"])
        self.assertEqual(self.own_registry.asked, [])

    def test_writes(self) -> None:
        """A signed URL is for reading only, and two tokens are refused."""
        self.assertEqual(self.fetch(self.token(), method="DELETE").status, 405)
        self.assertEqual(self.fetch(f"{self.token()}&token=b").status, 403)

    def test_old_key(self) -> None:
        """A token of the previous key stays valid until it expires."""
        token = self.token(now=NOW + 86400, lifetime=1200.0)
        self.clock.advance(86400 - 1200)
        self.key_files.rotate()
        self.clock.advance(1200)
        self.assertTrue(self.key_files.rotate())
        self.assertEqual(self.fetch(token).status, 200)

    def test_refused(self) -> None:
        """A refusal of the gateway's own account is forwarded, and logged."""
        self.own_registry.answer = OriginRefused(403, {})
        self.assertEqual(self.fetch(self.token()).status, 403)
        self.own_registry.answer = OriginRefused(404, {})
        self.assertEqual(self.fetch(self.token()).status, 404)

    def test_log(self) -> None:
        """No token is in the access log."""
        token = self.token()
        self.fetch(token)
        self.assertNotIn(token, str(self.written))
        self.assertIn("token=***", str(self.written))


def _broken(*_args: object) -> NoReturn:
    raise ZeroDivisionError
