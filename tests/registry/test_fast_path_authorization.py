"""Tests for :mod:`contentcache.registry.fast_path`: signed URLs and local authentication, with it and without."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import bcrypt
from cryptography.hazmat.primitives.asymmetric import ec

from contentcache.config.model import HtpasswdAuth, Signing, TokenAuth, Upstream
from contentcache.delivery.signed_urls import SignedUrls
from contentcache.delivery.signing_keys import SigningKeys
from contentcache.jose.keyset import KeySet
from contentcache.server.factory import ServerFactory
from tests.auth.authenticators import basic, claims, token
from tests.delivery.in_memory import BEGINNING, REPOSITORY, SECRET, InMemoryCache
from tests.registry.test_admission import Keys
from tests.registry.test_fast_path import CONTENT, CacheTestCase
from tests.signer import Signer, elliptic

_ONE, _TWO = "https://one.example", "https://two.example"


class SignedTests(CacheTestCase):
    """Signed URLs without the fast path."""

    upstreams = (
        Upstream(_ONE, (_ONE,), names=frozenset({"one.example"}), deny=("secret/*",), issuer=_ONE),
        Upstream(_TWO, (_TWO,), names=frozenset({"two.example"}), served=frozenset({"two"}), issuer=_TWO),
    )

    def build(self, **options: Any) -> None:
        """A cache of origins that sign."""
        self.signer = Signer(_ONE, REPOSITORY, "", BEGINNING)
        super().build(**options)

    def serve(self, cache: InMemoryCache) -> ServerFactory:
        """Both origins show the same keys, and sign with them."""
        self.keys = Keys(self.signer)
        shown: dict[str, SigningKeys] = {_ONE: self.keys, _TWO: self.keys}
        return cache.serve(SignedUrls(shown, wall=cache.wall, secret=SECRET))

    def signed(self, *fields: str, query: str = "token={}", method: str = "GET", **changes: Any) -> Any:
        """Ask by a signed URL; ``changes`` are those of its claims."""
        token = self.signer.saying(**{"digest": str(self.digest), **changes})
        return self.ask(None, *fields, path=f"{self.path}?{query.format(token)}", method=method)

    def known(self, **changes: Any) -> str:
        """The path of a signed URL that has been used before."""
        token = self.signer.saying(**{"digest": str(self.digest), **changes})
        path = f"{self.path}?token={token}"
        self.assertEqual(self.ask(path=path).body, CONTENT)
        self.forget()
        return path

    def assert_refused(self, path: str) -> None:
        """A signed URL opens nothing."""
        reply = self.ask(path=path)
        self.assertEqual((reply.status, json.loads(reply.body)["errors"][0]["code"]), (403, "DENIED"))
        self.forget()

    def test_good(self) -> None:
        """A token that was verified opens its blob again, whole, in part and by ``HEAD``, whatever else is said."""
        path = self.known()
        for fields, method, body in (
            ((), "GET", CONTENT),
            (("Authorization: Basic eDp5",), "GET", CONTENT),
            (("Range: bytes=5-9",), "GET", CONTENT[5:10]),
            ((), "HEAD", b""),
        ):
            reply = self.ask(None, *fields, path=path, method=method)
            self.assertEqual((reply.status in {200, 206}, reply.body), (True, body))
            self.assertEqual(reply.header("Cache-Status"), "contentcache; hit")
            self.assert_fast()

    def test_request_id(self) -> None:
        """
        A pull is logged by the id of the request that was redirected here, unless the client sends its own, and by
        the account that the origin names.
        """
        own = ("X-Request-Id: own",)
        for claim, fields, found in (
            ("from-307", (), "from-307"),
            ("from-307", own, "own"),
            ("a b", (), None),
        ):
            path = f"{self.path}?token={self.signer.saying(digest=str(self.digest), sub='john', rid=claim)}"
            for _ in range(2):
                reply = self.ask(None, *fields, path=path)
                told = reply.header("X-Request-Id")
                self.assertEqual((reply.status, self.lines[-1].user), (200, "john"))
                self.assertEqual(self.lines[-1].request_id, told)
                self.assertRegex(told or "", f"^{found or '[0-9a-f]{16}'}$")

    def test_odd_request_ids(self) -> None:
        """Whatever else the claim is does not matter."""
        for claim in ("x" * 65, "", 7, None, ["x"]):
            reply = self.signed(rid=claim)
            self.assertEqual(reply.status, 200)
            self.assertRegex(reply.header("X-Request-Id") or "", "^[0-9a-f]{16}$")

    def test_first(self) -> None:
        """Each new token is verified once, for one blob."""
        self.assertEqual(self.signed().status, 200)
        self.assertEqual(self.begun, 1)
        self.assert_refused(self.known().replace(REPOSITORY, "org/other"))

    def test_nothing_secret(self) -> None:
        """No token gets into the log, wherever it stands in the query."""
        token = self.signer.saying(digest=str(self.digest))
        for query in ("token={}", "ns=one.example&token={}", "token={}&ns=one.example"):
            path = f"{self.path}?{query.format(token)}"
            for _ in range(2):
                self.assertEqual(self.ask(path=path).status, 200)
            for line in self.lines:
                self.assertEqual(line.uri, f"{self.path}?{query.format('***')}")
                self.assertEqual(line.upstream, _ONE)
            self.forget()

    def test_names(self) -> None:
        """The issuer picks the origin; by another's name, two names or two tokens it is refused."""
        token = self.known().partition("=")[2]
        for query, status in (
            (f"token={token}&ns=two.example", 403),
            (f"token={token}&ns=three.example", 404),
            (f"ns=one.example&token={token}&ns=two.example", 400),
            (f"token={token}&token=x", 403),
            (f"token={token}x", 403),
            (f"token={token[:-8]}", 403),
            (f"Token={token}", 401),
        ):
            for _ in range(2):
                self.assertEqual(self.ask(path=f"{self.path}?{query}").status, status, query)
        self.assertEqual(self.ask(path=f"{self.path}&token={token}").status, 400)
        served = f"http://two{self.path}?token={token}"
        self.assertEqual(self.ask(path=served).status, 403)

    def test_expires(self) -> None:
        """A token ends when it says, with a minute for the clocks, however it was known."""
        path = self.known(exp=int(self.there.wall()) + 100)
        self.there.later(159)
        self.assertEqual(self.ask(path=path).status, 200)
        self.assert_fast()
        self.there.later(1)
        self.assert_refused(path)

    def test_clock_is_set_back(self) -> None:
        """It is not good any longer for that, nor before it begins."""
        path = self.known()
        self.there.adjusted = -300.0
        self.assert_refused(path)

    def test_key_is_withdrawn(self) -> None:
        """Nor does it outlive its key, or another key takes its place."""
        path = self.known()
        kept, self.keys.set = self.keys.set, KeySet()
        self.assert_refused(path)
        self.keys.set = KeySet({"es": kept.keys["ed"]})
        self.assert_refused(path)
        self.keys.set = kept
        self.assertEqual(self.ask(path=path).status, 200)

    def test_policy(self) -> None:
        """What the operator does not let pass does not pass with a signature either."""
        path = f"/v2/secret/app/blobs/{self.digest}"
        access = [{"type": "repository", "name": "secret/app", "actions": ["pull"]}]
        token = self.signer.saying(digest=str(self.digest), access=access)
        for _ in range(2):
            self.assert_refused(f"{path}?token={token}")

    def test_several(self) -> None:
        """A signature opens what its origin has delivered, and nothing of another one's."""
        self.build()
        path = self.known()
        self.assertEqual(self.ask(path=path).status, 200)
        self.assert_fast()
        other = f"{self.path}?token={self.signer.saying(iss=_TWO, digest=str(self.digest))}"
        self.assert_refused(other)
        self.there.index.forget([self.digest])
        self.there.blob_service.lost_index()
        self.forget()
        self.ask(path=path)
        self.assertTrue(self.there.origin.requests)

    def test_file_goes(self) -> None:
        """A blob whose file has gone is not served from memory."""
        path = self.known()
        self.blob_file().unlink()
        self.ask(path=path)
        self.assert_asked("GET")


class FastSignedTests(SignedTests):
    """With the fast path."""

    fast = True


class KeyFileTests(SignedTests):
    """The same where keys come out of a file, which is looked at once a second."""

    fast = True

    def build(self, **options: Any) -> None:
        """The file has the keys of each origin."""
        self.file = Path(self.mktemp())
        self.file.write_bytes(Signer(_ONE, REPOSITORY, "", BEGINNING).jwks())
        super().build(signing=Signing(str(self.file)), **options)

    def serve(self, cache: InMemoryCache) -> ServerFactory:
        """As it is assembled."""
        return cache.services.factory

    def test_expires(self) -> None:
        """Not tried again: time that goes by is that of the file, too."""
        path = self.known(exp=int(self.there.wall()) + 100)
        self.there.later(159)
        self.assertEqual(self.ask(path=path).status, 200)
        self.there.later(1)
        self.assert_refused(path)

    def test_key_is_withdrawn(self) -> None:
        """A second after the file has changed it counts."""
        path = self.known()
        self.file.write_bytes(b'{"keys": []}')
        self.there.later(1)
        self.assert_refused(path)
        other = elliptic(self.signer.keys.stranger.public_key(), "es")
        self.file.write_bytes(json.dumps({"keys": [other]}).encode())
        self.there.later(1)
        self.assert_refused(path)


class LocalAuthenticationTests(CacheTestCase):
    """Clients that are authenticated by passwords, without the fast path."""

    upstreams = (
        Upstream(_ONE, (_ONE,), own=True, deny=("secret/*",)),
        Upstream(_TWO, (_TWO,), own=True, names=frozenset({"two.example"}), prefix="two"),
    )

    def build(self, **options: Any) -> None:
        """A cache that authenticates its clients before origins that do not."""
        self.file = Path(self.mktemp())
        self.ann_here = self.credential()
        super().build(**{"auth": None, "local_auth": self.local_auth(), "authttl": 1e6, **options})

    def ask(self, who: str | None = None, *fields: str, **more: Any) -> Any:
        """Ann says here who she is."""
        return super().ask(self.ann_here if who == self.ann else who, *fields, **more)

    def credential(self) -> str:
        """What she says."""
        self.write("right")
        return basic("ann", "right")

    def write(self, password: str) -> None:
        """Her password is another one."""
        self.file.write_bytes(b"ann:" + bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)) + b"\n")

    def local_auth(self) -> HtpasswdAuth | TokenAuth:
        """Who is authenticated."""
        return HtpasswdAuth("here", str(self.file))

    def test_let_in(self) -> None:
        """Who was let in is let in again, at once."""
        for fields, method in (((), "GET"), (("Range: bytes=0-9",), "GET"), ((), "HEAD")):
            self.assertIn(self.ask(self.ann, *fields, method=method).status, {200, 206})
            self.assert_fast()

    def test_strangers(self) -> None:
        """Nobody else is."""
        for who in (None, basic("ann", "wrong"), basic("bob", "right"), "Bearer x.y.z", "Basic", ""):
            reply = self.ask(who)
            self.assertEqual((reply.status, CONTENT in reply.body), (401, False), who)
            self.assertIsNotNone(reply.header("WWW-Authenticate"))
        self.assert_asked()

    def test_forgotten(self) -> None:
        """After a minute it is looked at again; the answer is the same."""
        self.there.later(61)
        self.assertEqual(self.ask(self.ann).status, 200)
        self.assertEqual(self.begun, 1)
        self.assertEqual(self.ask(self.ann).status, 200)
        self.assertEqual(self.begun, 1 if self.fast else 2)

    def test_taken_back(self) -> None:
        """A second after the file has another password, or lets nobody in, that counts."""
        self.write("another")
        self.there.later(1)
        self.assertEqual(self.ask(self.ann).status, 401)
        self.write("right")
        self.there.later(1)
        self.assertEqual(self.ask(self.ann).status, 200)
        self.file.unlink()
        self.there.later(1)
        self.assertEqual(self.ask(self.ann).status, 503)

    def test_policy(self) -> None:
        """What is denied is denied to everybody."""
        for _ in range(2):
            reply = self.ask(self.ann, path=f"/v2/secret/app/blobs/{self.digest}")
            self.assertEqual(reply.status, 403)


class FastLocalAuthenticationTests(LocalAuthenticationTests):
    """With the fast path."""

    fast = True


class TokenTests(LocalAuthenticationTests):
    """Clients that are authenticated by tokens, without the fast path: those are grants by themselves."""

    key = ec.generate_private_key(ec.SECP256R1())

    def token(self, **changes: Any) -> str:
        """A token of the token server's, from when the cache began."""
        now = int(BEGINNING)
        names = (REPOSITORY, "secret/app")
        access = [{"type": "repository", "name": name, "actions": ["pull"]} for name in names]
        said = claims(**{"exp": now + 300, "nbf": now - 10, "iat": now - 10, "access": access, **changes})
        return "Bearer " + token(self.key, {"kid": "one"}, said)

    def credential(self) -> str:
        """What she says."""
        self.show("one")
        return self.token()

    def show(self, *names: str) -> None:
        """The keys that are trusted."""
        keys = [elliptic(self.key.public_key(), name) for name in names]
        self.file.write_text(json.dumps({"keys": keys}), "ascii")

    def local_auth(self) -> HtpasswdAuth | TokenAuth:
        """Who is authenticated."""
        return TokenAuth("https://tokens", "cache", "auth.example.com", jwks=str(self.file))

    def test_user(self) -> None:
        """The access log has the account of a verified token, and nothing of one that is not."""
        for _ in range(2):
            self.assertEqual(self.ask(self.ann_here).status, 200)
            self.assertEqual(self.lines[-1].user, "alice")
        self.assertEqual(self.ask(self.ann_here[:-8] + "AAAAAAAA").status, 401)
        self.assertEqual(self.lines[-1].user, "-")

    def test_strangers(self) -> None:
        """No token, a token for something else, one whose signature is another's."""
        access = [{"type": "repository", "name": "two/" + REPOSITORY, "actions": ["pull"]}]
        elsewhere = self.token(access=access)
        for who in (None, "Bearer x.y.z", self.ann_here[:-8] + "AAAAAAAA", elsewhere, basic("ann", "right")):
            for _ in range(2):
                reply = self.ask(who)
                self.assertEqual((reply.status, CONTENT in reply.body), (401, False), who)
        self.assertEqual(self.ask(self.ann, path=self.path.replace("/v2/", "/v2/two/")).status, 401)
        self.assert_asked()

    def test_forgotten(self) -> None:
        """A token ends when it says, with a minute for the clocks."""
        self.there.later(1)
        for _ in range(2):  # the first one looks at the file
            self.assertEqual(self.ask(self.ann).status, 200)
        self.there.later(359)
        self.assertEqual(self.ask(self.ann).status, 200)
        self.there.later(1)
        self.assertEqual(self.ask(self.ann).status, 401)

    def test_taken_back(self) -> None:
        """A second after its key is not trusted any more it is worth nothing."""
        self.show("two")
        self.there.later(1)
        self.assertEqual(self.ask(self.ann).status, 401)
        self.show("one")
        self.there.later(1)
        self.assertEqual(self.ask(self.ann).status, 200)

    def test_link_is_old(self) -> None:
        """Its word is a grant for what it needs, and no link: after affirmttl the origin is asked."""
        self.build(affirmttl=100.0)
        self.there.later(90)
        for _ in range(2):
            self.assertEqual(self.ask(self.ann).status, 200)
        self.assert_asked()
        self.there.later(11)
        self.assertEqual(self.ask(self.ann).status, 200)
        self.assert_asked("HEAD")


class FastTokenTests(TokenTests):
    """With the fast path."""

    fast = True
