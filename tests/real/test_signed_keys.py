"""Where the keys of signed URLs come from, and how long they are believed."""

from __future__ import annotations

import json
from pathlib import Path

from tests.real.asking import Asker
from tests.real.cache import ContentCache
from tests.real.certificates import Authority
from tests.real.line import CountingProxy
from tests.real.origin import Origin
from tests.real.programs import needs, place, until
from tests.real.signed import NAME, SignedCase
from tests.real.signer import KEYS_PATH, Pen, SigningOrigin
from tests.signer import keys


@needs("docker-registry")
class KeysTests(SignedCase):
    """Keys of the origin, by the network and by a file."""

    def test_asked_once(self) -> None:
        """Keys are asked for when they are first needed, once, without credentials, and served on."""
        self.begin(cache_control="max-age=3600")
        self.assertEqual(self.asked_for_keys(), [])
        for seed in range(5):
            content, digest = self.blob(seed=seed)
            self.assertEqual(self.ask("GET", self.origin.signed(NAME, digest)).body, content)
        (question,) = self.asked_for_keys()
        self.assertNotIn("authorization", question.headers)
        shown = self.ask("GET", KEYS_PATH)
        self.assertEqual(shown.status, 200)
        self.check_shown(shown.body, *self.origin.pens)
        self.assertIn("max-age=3600", shown.headers["cache-control"])
        self.assertEqual(len(self.asked_for_keys()), 1)

    def check_shown(self, document: bytes, *pens: Pen) -> None:
        """A set has the public halves of these keys, and no other keys."""
        shown = json.loads(document)["keys"]
        self.assertEqual([key["kid"] for key in shown], [pen.kid for pen in pens])
        for key, pen in zip(shown, pens, strict=True):
            self.assertLessEqual(pen.jwk().items(), key.items())
            self.assertLessEqual(key.keys() - pen.jwk().keys(), {"alg", "use"})

    def test_kept_while_origin_is_away(self) -> None:
        """While the origin is away its keys are believed, though their time is over; unknown ones are not."""
        self.begin(cache_control="max-age=0")
        content, digest = self.stored_blob()
        url = self.origin.signed(NAME, digest)
        self.origin.stop()
        until(
            lambda: self.ask("HEAD", url).status != 200 or "key set unavailable" in self.cache.log(),
            "a question for keys that nobody answers",
        )
        self.assertEqual(self.ask("GET", url).body, content)
        strange = Pen("new", "ES256", keys().stranger)
        self.check_refused(self.ask("GET", self.origin.signed(NAME, digest, strange)), content)
        self.assertNotIn("Traceback", self.cache.log())

    def test_origin_is_away_from_the_start(self) -> None:
        """Without keys nobody is let in, and it is nobody's fault but the origin's: 502 to 504, later 200."""
        self.begin()
        content, digest = self.blob()
        url = self.origin.signed(NAME, digest)
        self.origin.stop()
        answer = self.ask("GET", url)
        self.assertIn(answer.status, {502, 503, 504})
        self.assertNotIn(content[:16], answer.body)
        self.origin.start()
        until(lambda: self.ask("GET", url).body == content, "keys after the pause of ten seconds")

    def test_origin_that_signs_nothing(self) -> None:
        """A registry without a set of keys: 403 for whatever token, and it is asked once."""
        registry = Origin(self)
        cache = ContentCache(self, registry.url)
        self.registry = registry
        content, digest = self.blob()
        signer = SigningOrigin(self, registry).signer(NAME, digest)
        asker = Asker(self, cache.host)
        token = signer.saying(iss=registry.url)
        for _ in range(20):
            self.check_refused(asker.ask("GET", f"/v2/{NAME}/blobs/{digest}?token={token}"), content)
        asked = [line for line in registry.requests() if "/.well-known/" in line.uri]
        self.assertEqual(len(asked), 1)
        self.assertEqual(asker.ask("GET", KEYS_PATH).status, 404)

    def test_file(self) -> None:
        """
        With ``signing.jwks`` the origin is not asked for keys; a changed file counts within a second or so,
        a broken one changes nothing.
        """
        path = place(self) / "keys.json"
        first, second = Pen("one", "ES256", keys().first), Pen("two", "ES256", keys().second)
        _write(path, {"keys": [first.jwk()]})
        self.begin({"signing": {"jwks": str(path)}})
        content, digest = self.blob()
        self.origin.pens = [first, second]
        url, other = (self.origin.signed(NAME, digest, pen) for pen in (first, second))
        self.assertEqual(self.ask("GET", url).body, content)
        self.check_refused(self.ask("GET", other), content)
        _write(path, {"keys": [second.jwk()]})
        until(lambda: self.ask("GET", other).body == content, "the new key")
        self.check_refused(self.ask("GET", url), content)
        path.write_text("{", "utf-8")
        until(lambda: (self.ask("GET", other), "is not a JWK set" in self.cache.log())[1], "a complaint")
        self.assertEqual(self.ask("GET", other).body, content)
        self.assertEqual(self.asked_for_keys(), [])
        self.check_shown(self.ask("GET", KEYS_PATH).body, second)


@needs("docker-registry")
class HttpsTests(SignedCase):
    """An https origin, with a hop on the way."""

    def setUp(self) -> None:
        self.authority = Authority(place(self))
        self.registry = Origin(self, users={"ann": "secret"})
        self.origin = SigningOrigin(self, self.registry, tls=self.authority.leaf("127.0.0.1"))

    def cache_behind(self, *hops: str, **options: object) -> ContentCache:
        """A cache of that origin."""
        upstream: dict[str, object] = {"originhost": self.origin.url}
        if hops:
            upstream["upstreamhosts"] = list(hops)
        return ContentCache(self, upstream, options={"cas": [str(self.authority.path)], **options})

    def test_directly(self) -> None:
        """Keys and blobs come over TLS."""
        self.cache = self.cache_behind()
        self.asker = Asker(self, self.cache.host)
        content, digest = self.stored_blob()
        self.assertEqual(self.ask("GET", self.origin.signed(NAME, digest)).body, content)

    def test_never_over_plain_http(self) -> None:
        """Where the only way leads over plain HTTP, keys are not asked for there, and no token is believed."""
        hop = SigningOrigin(self, self.registry)  # whoever sits on that line could show keys of their own
        self.cache = self.cache_behind(hop.url)
        self.asker = Asker(self, self.cache.host)
        content, digest = self.blob()
        for make in (self.origin, hop):
            token = make.token(NAME, digest, None, {"iss": self.origin.url})
            for method in ("HEAD", "GET"):
                answer = self.ask(method, f"/v2/{NAME}/blobs/{digest}?token={token}")
                self.assertIn(answer.status, {403, 502, 503}, answer)
                self.assertNotIn(content[:16], answer.body)
        self.assertEqual(hop.requests, [])

    def test_not_over_plain_http_where_there_is_another_way(self) -> None:
        """With one hop over plain HTTP and one over TLS only the latter is asked for keys."""
        hop = self.cache_behind()
        line = CountingProxy(self, hop.port)
        self.cache = self.cache_behind(line.url, fallbacktoorigin=True)
        self.asker = Asker(self, self.cache.host)
        content, digest = self.blob()
        answer = self.ask("GET", self.origin.signed(NAME, digest))
        self.assertEqual(answer.body, content)
        self.assertEqual(len(line.asked(digest)), 1)
        self.assertEqual(line.asked(KEYS_PATH), [])


def _write(path: Path, document: object) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_text(json.dumps(document), "utf-8")
    fresh.replace(path)
