"""Tests for :mod:`contentcache.workers.encoding`."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core import errors
from contentcache.core.credentials import ANONYMOUS, LOCALLY_AUTHORIZED, OWN, Credential
from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError, ContentWrong, OriginRefused, UpstreamBroken
from contentcache.core.header_policy import Headers
from contentcache.core.routes import Content
from contentcache.delivery.shared_download import AuthorizationNeeded, UndecidedError
from contentcache.tls.files import identity_from_pem
from contentcache.upstream.client import TargetRefused
from contentcache.workers import messages
from contentcache.workers.encoding import decode, encode, pairs
from tests.tls.certificates import make


class EncodingTests(SynchronousTestCase):
    """Values that one process sends to another."""

    def test_errors(self) -> None:
        """
        Every error arrives as what it is; one of another class as the nearest superclass that all processes
        know.
        """
        kinds = [kind for kind in vars(errors).values() if isinstance(kind, type)]
        headers: Headers = {"Retry-After": "5", "Warning": ("299 - a", "299 - b")}
        made = [
            kind("a message", detail={"a": 1}, headers=headers)
            for kind in (*kinds, UndecidedError, AuthorizationNeeded)
            if issubclass(kind, CacheError) and kind not in {CacheError, OriginRefused}
        ]
        for error in made:
            again = decode(encode(error))
            self.assertIs(type(again), type(error))
            self.assertEqual((again.message, again.detail), (error.message, error.detail))
            self.assertEqual((again.headers, again.status), (error.headers, error.status))
        self.assertIs(type(decode(encode(TargetRefused("x")))), UpstreamBroken)
        self.assertIsInstance(decode(encode(ContentWrong("x"))), ContentWrong)

    def test_upstream_data(self) -> None:
        """Nothing that an upstream sends is taken for the name of a type."""
        refused = decode(encode(OriginRefused(403, {"$type": "digest", "value": "x"}, b"\xff")))
        self.assertEqual((refused.status, refused.body), (403, b"\xff"))
        self.assertEqual(refused.headers, {"$type": "digest", "value": "x"})
        detail = {"$type": "Hello", "value": [{"$type": "bytes"}]}
        self.assertEqual(decode(encode(UpstreamBroken("x", detail=detail))).detail, detail)

    def test_messages(self) -> None:
        """A message contains the same after it was sent, a credential with what does not count as its identity."""
        content = Content("org/app", "blobs", Digest.of(b"x"))
        for credential in (
            ANONYMOUS,
            OWN,
            LOCALLY_AUTHORIZED,
            Credential("Basic \udcff"),
            Credential(signed="a.b.c"),
        ):
            message = messages.Subscribe(
                1,
                "https://one.example",
                content,
                credential,
                ["a/b", "c/d"],
                "1.1 contentcache-1",
                authorized=True,
                whole=True,
                in_place=False,
                total=None,
                request_id="abc",
            )
            again = decode(encode(message))
            self.assertEqual(again, message)
            self.assertEqual(again.credential.locally_authorized, credential.locally_authorized)

    def test_certificates(self) -> None:
        """A certificate is sent with its chain and its key."""
        made = make("one", hosts=("one.example",))
        identity = identity_from_pem("one", made.pem + made.key_pem())
        self.assertEqual(encode(decode(encode(identity))), encode(identity))
        message = messages.Certificates(hosts={"one.example": identity})
        again = decode(encode(message))
        self.assertEqual((again.identity, list(again.hosts)), (None, ["one.example"]))

    def test_mappings(self) -> None:
        """A mapping may have keys that JSON does not know."""
        mapping = {Digest.of(b"x"): 1.5}
        self.assertEqual(decode(encode(pairs(mapping))), mapping)

    def test_unknown(self) -> None:
        """What has no encoding is not sent."""
        self.assertRaises(TypeError, encode, object())
