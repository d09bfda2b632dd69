"""Signed URLs at a real daemon: whoever brings one gets its blob, and nothing else."""

from __future__ import annotations

import http.client

from tests.real.asking import Asker
from tests.real.cache import ContentCache
from tests.real.clients import Curl
from tests.real.images import push_blob, push_image, random_bytes
from tests.real.line import CountingProxy
from tests.real.origin import basic
from tests.real.programs import needs, place, run, until
from tests.real.signed import NAME, SignedCase


@needs("docker-registry")
class ServingTests(SignedCase):
    """Good tokens."""

    def setUp(self) -> None:
        self.begin()

    def test_cold_and_warm(self) -> None:
        """A cold blob comes from the origin with the client's token; a warm one without a word to anybody."""
        for number, pen in enumerate(self.origin.pens):
            content, digest = self.blob(seed=number)
            url = self.origin.signed(NAME, digest, pen)
            cold = self.ask("GET", url)
            self.assertEqual((cold.status, cold.body), (200, content), pen)
            (fetch,) = self.origin.asked(digest)
            self.assertEqual((fetch.method, fetch.query), ("GET", url.partition("?")[2]))
            self.assertNotIn("authorization", fetch.headers)
            self.wait_stored(digest)
            self.origin.requests.clear()
            for signed in (url, self.origin.signed(NAME, digest, pen, sub="john")):
                warm = self.ask("GET", signed)
                self.assertEqual((warm.status, warm.body), (200, content), pen)
                self.assertEqual(warm.headers["cache-status"], "contentcache; hit")
            self.assertEqual(self.origin.requests, [])

    def test_methods_and_ranges(self) -> None:
        """``HEAD``, ranges, several ranges, and conditions, of a stored blob: no word to the origin."""
        content, digest = self.stored_blob()
        url = self.origin.signed(NAME, digest)
        head = self.ask("HEAD", url)
        self.assertEqual((head.status, head.headers["content-length"]), (200, str(len(content))))
        self.assertEqual(head.headers["docker-content-digest"], digest)
        for asked, expected in (("5-99", content[5:100]), ("39000-", content[39000:]), ("-7", content[-7:])):
            part = self.ask("GET", url, Range=f"bytes={asked}")
            self.assertEqual((part.status, part.body), (206, expected), asked)
        several = self.ask("GET", url, Range="bytes=0-9,100-109")
        self.assertEqual(several.status, 206)
        self.assertIn(content[100:110], several.body)
        self.assertEqual(self.ask("GET", url, Range="bytes=40000-").status, 416)
        for method in ("GET", "HEAD"):
            same = self.ask(method, url, If_None_Match=f'"{digest}"')
            self.assertEqual((same.status, same.body), (304, b""))
        self.assertEqual(self.origin.requests, [])

    def test_cold_methods(self) -> None:
        """``HEAD``, a range and a resumption of a blob that is not here are true, too."""
        content, digest = self.blob()
        url = self.origin.signed(NAME, digest)
        head = self.ask("HEAD", url)
        self.assertEqual((head.status, head.headers["content-length"]), (200, str(len(content))))
        part = self.ask("GET", url, Range="bytes=100-199")
        self.assertEqual((part.status, part.body), (206, content[100:200]))
        rest = self.ask("GET", url, Range="bytes=39000-")
        self.assertEqual((rest.status, rest.body), (206, content[39000:]))
        nothing = f"sha256:{'0' * 64}"
        for method in ("GET", "HEAD"):
            missing = self.ask(method, self.origin.signed(NAME, nothing))
            self.assertEqual(missing.status, 404, missing)

    def test_sha512(self) -> None:
        """Digests of the other registered algorithm are signed as well."""
        content = random_bytes(30_000, self.id())
        digest = push_blob(self.registry, NAME, content, "sha512")
        for _temperature in range(2):
            self.assertEqual(self.ask("GET", self.origin.signed(NAME, digest)).body, content)

    def test_cache_that_authorizes_clients(self) -> None:
        """A signed URL needs no account of a cache that has users of its own; without it that is needed."""
        users = place(self) / "htpasswd"
        run(["htpasswd", "-bBc", users, "eve", "own"])
        auth = {"htpasswd": {"realm": "the cache", "path": str(users)}}
        account = {"username": "ann", "password": "secret"}
        cache = ContentCache(self, {"originhost": self.origin.url, **account}, settings={"auth": auth})
        asker = Asker(self, cache.host)
        content, digest = self.blob()
        path = f"/v2/{NAME}/blobs/{digest}"
        for _temperature in range(2):
            self.assertEqual(asker.ask("GET", self.origin.signed(NAME, digest)).body, content)
            self.check_refused(asker.ask("GET", self.origin.signed(NAME, digest, sub=7), basic("eve", "own")))
            self.assertEqual(asker.ask("GET", path).status, 401)
            self.assertEqual(asker.ask("GET", path, basic("ann", "secret")).status, 401)
            self.assertEqual(asker.ask("GET", path, basic("eve", "own")).body, content)

    def test_authorization_is_dropped(self) -> None:
        """With ``token=`` the header of the client counts for nothing, and reaches nobody, right or wrong."""
        right, wrong = basic("ann", "secret"), basic("ann", "wrong")
        for seed, header in enumerate((right, wrong, "Bearer nonsense")):
            content, digest = self.blob(seed=seed)
            for _temperature in range(2):
                answer = self.ask("GET", self.origin.signed(NAME, digest), header)
                self.assertEqual((answer.status, answer.body), (200, content))
                bad = self.ask("GET", self.origin.signed(NAME, digest, sub=7), header)
                self.check_refused(bad, content)
            for request in self.origin.requests:
                self.assertNotIn("authorization", request.headers)

    def test_opens_nothing_else(self) -> None:
        """A good token is no credential: not for a manifest, a list, another blob, nor for anybody without it."""
        image = push_image(self.registry, NAME)
        layer, config = image.layers[0].digest, image.config.digest
        url = self.origin.signed(NAME, layer)
        self.assertEqual(self.ask("GET", url).status, 200)
        token = url.partition("?")[2]
        for path in (f"manifests/{image.digest}", "manifests/latest", "tags/list", f"blobs/{layer}"):
            self.assertEqual(
                self.ask("GET", f"/v2/{NAME}/{path}?{token if 'blobs' not in path else ''}").status, 401, path
            )
        bearer = "Bearer " + token.removeprefix("token=")
        self.assertEqual(self.ask("GET", f"/v2/{NAME}/blobs/{layer}", bearer).status, 401)
        self.check_refused(self.ask("GET", f"/v2/{NAME}/blobs/{config}?{token}"))
        self.check_refused(self.ask("GET", f"/v2/org/other/blobs/{layer}?{token}"))

    def test_no_grant(self) -> None:
        """What a signed URL brought in is for others only once the origin has said so to them."""
        content, digest = self.stored_blob()
        path = f"/v2/{NAME}/blobs/{digest}"
        self.assertEqual(self.ask("GET", path).status, 401)
        self.assertEqual(self.ask("GET", path, basic("ann", "wrong")).status, 401)
        self.assertEqual(self.ask("GET", path, basic("ann", "secret")).body, content)

    def test_tricks_with_the_query(self) -> None:
        """Two tokens, or one under another name, are no way in; ``%2e`` for a dot is the same token."""
        content, digest = self.stored_blob()
        good, bad = self.origin.token(NAME, digest), self.origin.token(NAME, digest, None, {"sub": 7})
        path = f"/v2/{NAME}/blobs/{digest}"
        for query in (f"token={good}&token={bad}", f"token={bad}&token={good}", f"token=&token={good}"):
            self.check_refused(self.ask("GET", f"{path}?{query}"), content)
        for query in (f"Token={good}", f"x={good}", f"#token={good}", f"token2={good}"):
            self.assertIn(self.ask("GET", f"{path}?{query}").status, {400, 401}, query[:9])
        self.assertEqual(self.ask("GET", f"{path}?token={good.replace('.', '%2e')}").body, content)
        self.assertEqual(self.ask("GET", f"{path}?x=1&token={good}").body, content)


@needs("docker-registry", "curl")
class TransferTests(SignedCase):
    """``curl`` as the client that is sent here."""

    def test_redirected(self) -> None:
        """``curl -L`` asks the origin with its account, and gets the blob from the cache, cold and warm."""
        self.begin()
        self.origin.cache = self.cache.url
        content, digest = self.blob(3_000_000)
        curl = Curl(self)
        for _temperature in range(2):
            fetched = curl.fetch(f"{self.origin.url}/v2/{NAME}/blobs/{digest}", "-L", "-u", "ann:secret")
            self.assertEqual((fetched.status, fetched.ended), (200, 0))
            self.assertEqual(fetched.body.read_bytes(), content)
            self.assertIn("contentcache", fetched.headers["cache-status"])
        refused = curl.fetch(f"{self.origin.url}/v2/{NAME}/blobs/{digest}", "-L", "-u", "ann:wrong")
        self.assertEqual(refused.status, 401)

    def test_outlasts_its_token(self) -> None:
        """
        A cold transfer that has begun goes on when its token has ended. A new one does not begin, and with a
        new token a broken one goes on where it stopped.
        """
        self.begin()
        content, digest = self.blob(6_000_000)
        line = CountingProxy(self, self.registry.port, rate=200_000)
        self.registry.port = line.port
        token = self.origin.ending(NAME, digest, 3)
        path = f"/v2/{NAME}/blobs/{digest}?token="
        curl = Curl(self)
        running, broken = (curl.start(self.cache.url + path + token) for _ in range(2))
        until(lambda: min(broken.received(), running.received()) > 50_000, "bytes")
        broken.process.kill9()
        self.wait_for_end(path + token)
        self.assertTrue(running.process.alive)
        self.check_refused(self.ask("GET", path + token), content)
        self.check_refused(self.ask("GET", path + token, Range="bytes=100-"), content)
        line.rate = None
        done = running.result()
        self.assertEqual((done.status, done.ended), (200, 0))
        self.assertEqual(done.body.read_bytes(), content)
        kept = broken.body.read_bytes()
        rest = self.ask("GET", path + self.origin.token(NAME, digest), Range=f"bytes={len(kept)}-")
        self.assertEqual((rest.status, kept + rest.body), (206, content))
        self.assertEqual(len(self.origin.asked(digest, "GET")), 1)

    def test_outlasts_its_token_warm(self) -> None:
        """The same of a stored blob, that is more than fits into the sockets on the way."""
        self.begin()
        content, digest = self.stored_blob(24_000_000)
        token = self.origin.ending(NAME, digest, 2)
        path = f"/v2/{NAME}/blobs/{digest}?token={token}"
        line = http.client.HTTPConnection(self.cache.host, timeout=60)
        self.addCleanup(line.close)
        line.request("GET", path)
        answer = line.getresponse()
        begun = answer.read(1000)
        self.wait_for_end(path)
        self.assertEqual(begun + answer.read(), content)
        # Another worker may not have met the keys yet.
        keys = "jwks.json" if self.cache.workers > 1 else None
        self.assertEqual([one for one in self.origin.requests if keys is None or keys not in one.path], [])

    def wait_for_end(self, path: str) -> None:
        """Wait until a signed URL is good no more."""
        until(lambda: self.ask("HEAD", path).status == 403, "the token's end")
