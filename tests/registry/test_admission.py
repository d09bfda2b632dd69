"""The ways in: a signed URL, a authenticator of our own, or the client's credential for the origin."""

from __future__ import annotations

from typing import Any
from urllib.parse import quote

from contentcache.auth.interfaces import Scope, Unauthorized
from contentcache.config.model import Upstream
from contentcache.core.credentials import LOCALLY_AUTHORIZED, OWN, Credential
from contentcache.delivery.signing_keys import Published
from contentcache.jose.keyset import KeySet, VerificationKey, parse_key_set
from tests.registry.harness import BLOB, CONTENT, DIGEST, RegistryTestCase
from tests.signer import Signer
from tests.wrong_tokens import WRONG

NOW = 1_000_000_000
A, B = "https://a.example", "https://b.example"


class Keys:
    """A set that is at hand."""

    def __init__(self, signer: Signer) -> None:
        self.document = signer.jwks()
        self.set: KeySet = parse_key_set(self.document)
        self.no_cache = False

    async def find(self, kid: str) -> VerificationKey:
        """Look a key up."""
        return self.set.find(kid)

    def find_cached(self, kid: str) -> VerificationKey | None:
        """Look it up at once."""
        return self.set.keys.get(kid)

    async def published(self, *, via: str = "", no_cache: bool = False) -> Published:
        """Hand the set on."""
        self.no_cache = no_cache
        return Published(self.document, 300, 7)


class Doorman:
    """Lets those in who say ``Basic good``, and keeps what was needed."""

    def __init__(self) -> None:
        self.needs: list[Scope | None] = []
        self.bases: list[str] = []

    async def authenticate(
        self, authorization: str | None, need: Scope | None, base: str, address: str = ""
    ) -> str:
        """Authenticate."""
        self.needs.append(need)
        self.bases.append(base)
        if authorization != "Basic good":
            raise Unauthorized("wrong", 'Basic realm="here"', need)
        return "ann"

    def allows_cached(self, authorization: str | None, need: Scope) -> bool:
        """Authenticate from memory."""
        return authorization == "Basic good"


def upstream(url: str, **more: Any) -> Upstream:
    """An upstream whose origin is asked directly."""
    return Upstream(url, (url,), names=frozenset({url.removeprefix("https://")}), issuer=url, **more)


class SignedTests(RegistryTestCase):
    """URLs that an origin has signed."""

    def setUp(self) -> None:
        super().setUp()
        self.signer = Signer(A, "org/app", str(DIGEST), NOW)
        self.open(upstream(A), upstream(B, served=frozenset({"b.cache.example"}), prefix="org", public=True))

    def open(self, *upstreams: Upstream, **more: Any) -> None:
        """A factory with these upstreams, which all have keys of their own."""
        self.keys = {
            each.origin: Keys(Signer(each.origin, "org/app", str(DIGEST), NOW)) for each in upstreams
        }
        self.factory = self.build(*upstreams, keys=self.keys, **more)

    def test_good(self) -> None:
        """A signed URL opens its blob; what else the request says of its client ends here."""
        token = self.signer.saying()
        for method in ("GET", "HEAD"):
            reply = self.ask(f"{BLOB}?token={token}", "Authorization: Bearer mine", method=method)
            self.assertEqual((reply.status, reply.body), (200, CONTENT if method == "GET" else b""))
        for asking in self.services.asked:
            self.assertEqual(asking.credential, Credential(signed=token))
            self.assertEqual(asking.registry.upstream.origin, A)

    def test_wrong(self) -> None:
        """Each kind of wrong token gets 403 in the form of the spec, and nothing is looked up."""
        for name, make in WRONG.items():
            target = f"{BLOB}?token={quote(make(self.signer), safe='')}"
            if len(target) > 12_000:
                continue  # that is the bound on heads, and another test
            reply = self.ask(target)
            self.assertEqual(reply.status, 403, name)
            self.assert_refused(reply, 403, "DENIED")
            self.assertNotIn(make(self.signer)[:40] or "\0", reply.body.decode(), name)
            head = self.ask(target, method="HEAD")
            self.assertEqual((head.status, head.body), (403, b""), name)
            self.assertEqual(head.header("Content-Length"), reply.header("Content-Length"), name)
        self.assertEqual(self.services.asked, [])

    def test_not_unicode(self) -> None:
        """Bytes that are no UTF-8, an empty token and two tokens are wrong ones like others."""
        good = self.signer.saying()
        for query in ("token=%FF%FE", "token=", "token", f"token={good}&token=x", f"token={good}%00"):
            self.assert_refused(self.ask(f"{BLOB}?{query}"), 403, "DENIED")

    def test_other_origin(self) -> None:
        """The issuer picks the origin, whatever the prefix; by another name or host it is refused."""
        token = self.signer.saying()
        self.assertEqual(self.ask(f"{BLOB}?token={token}&ns=a.example").status, 200)
        self.assert_refused(self.ask(f"{BLOB}?token={token}&ns=b.example"), 403, "DENIED")
        self.assertEqual(self.ask(f"{BLOB}?token={token}&ns=c.example").status, 404)
        served = f"http://b.cache.example{BLOB}?token={token}"
        self.assert_refused(self.ask(served), 403, "DENIED")
        mine = Signer(B, "org/app", str(DIGEST), NOW)
        keys = self.keys[B] = Keys(mine)
        self.factory = self.build(*(upstream(url) for url in (A, B)), keys={B: keys, A: self.keys[A]})
        self.assertEqual(self.ask(f"{BLOB}?token={mine.saying()}").status, 200)
        self.assertEqual(self.services.asked[-1].registry.upstream.origin, B)

    def test_keys_of_another_origin(self) -> None:
        """A token of one origin under the name of another is nobody's."""
        forged = Signer(B, "org/app", str(DIGEST), NOW).saying(iss=A)
        self.open(upstream(A), upstream(B))
        self.keys[A].set = KeySet({"ed": self.keys[A].set.keys["ed"]})
        self.assert_refused(self.ask(f"{BLOB}?token={forged}"), 403, "DENIED")

    def test_withdrawn_key(self) -> None:
        """A token that was good once is refused once its key is withdrawn."""
        target = f"{BLOB}?token={self.signer.saying()}"
        self.assertEqual(self.ask(target).status, 200)
        self.keys[A].set = KeySet()
        self.assert_refused(self.ask(target), 403, "DENIED")

    def test_remembered_for_nothing_else(self) -> None:
        """A token that was good for one blob is no better for another one, or in another repository."""
        token = self.signer.saying()
        self.assertEqual(self.ask(f"{BLOB}?token={token}").status, 200)
        other = f"/v2/org/app/blobs/sha256:{'0' * 64}"
        for target in (other, BLOB.replace("org/app", "org/other"), BLOB.replace("org/app", "app")):
            self.assert_refused(self.ask(f"{target}?token={token}"), 403, "DENIED")

    def test_no_issuer(self) -> None:
        """Where nobody is known to sign, no signature counts."""
        self.factory = self.build(Upstream(A, (A,)))
        self.assert_refused(self.ask(f"{BLOB}?token={self.signer.saying()}"), 403, "DENIED")

    def test_policy(self) -> None:
        """What the operator does not let pass does not pass with a signature either."""
        self.open(upstream(A, deny=("org/*",)))
        self.assert_refused(self.ask(f"{BLOB}?token={self.signer.saying()}"), 403, "DENIED")

    def test_only_blobs(self) -> None:
        """On other paths a token is a parameter like any that nobody knows."""
        self.open(upstream(A))
        manifest = BLOB.replace("/blobs/", "/manifests/")
        self.assertEqual(self.ask(f"{manifest}?token=x", "Authorization: Basic mine").status, 200)
        self.assertEqual(self.services.asked[0].credential, Credential("Basic mine"))

    def test_keys_are_handed_on(self) -> None:
        """The set of the origin that is meant is served where the next cache looks for it."""
        path = "/.well-known/contentcache/jwks.json"
        for query, field, origin in (
            ("", "X-Nothing: x", A),
            ("?ns=b.example", "Contentcache-Origin: https://a.example", B),
            ("", "Contentcache-Origin: https://B.example/", B),
        ):
            reply = self.ask(path + query, field)
            self.assertEqual((reply.status, reply.body), (200, self.keys[origin].document))
            self.assertEqual(reply.header("Content-Type"), "application/jwk-set+json")
            self.assertEqual(
                (reply.header("Cache-Control"), reply.header("Age")), ("public, max-age=300", "7")
            )
        self.assertEqual(self.ask(path, method="HEAD").status, 200)
        self.assertFalse(self.keys[A].no_cache)
        self.ask(path, "Cache-Control: no-cache")
        self.assertTrue(self.keys[A].no_cache)
        stranger = "Contentcache-Origin: https://c.example"
        self.assert_refused(self.ask(path, stranger), 404, "NAME_UNKNOWN")
        self.factory = self.build(Upstream(A, (A,)))
        self.assert_refused(self.ask(path), 404)


class MeantOriginTests(RegistryTestCase):
    """Requests of a cache that says which origin it means."""

    def test_chosen(self) -> None:
        """Its word counts, but for that of a client; another origin than those that are here is none."""
        self.factory = self.build(upstream(A), upstream(B))
        for query, meant, origin in (("", A, A), ("", B, B), ("?ns=a.example", B, A)):
            self.assertEqual(self.ask(BLOB + query, f"Contentcache-Origin: {meant}").status, 200)
            self.assertEqual(self.services.asked[-1].registry.upstream.origin, origin)
        self.assert_refused(self.ask(BLOB, "Contentcache-Origin: https://c.example"), 404, "NAME_UNKNOWN")

    def test_only_one(self) -> None:
        """Where there is one origin, it may have another name than at the cache before."""
        self.factory = self.build(upstream(A))
        self.assertEqual(self.ask(BLOB, "Contentcache-Origin: https://registry.internal").status, 200)


class JudgedHereTests(RegistryTestCase):
    """The section ``auth``."""

    def setUp(self) -> None:
        super().setUp()
        self.doorman = Doorman()
        self.open()

    def open(self, *, authorizes: bool = False) -> None:
        """A factory with the doorman in front."""
        mapped = upstream(A, own=True), upstream(B, own=True, prefix="b")
        signer = Signer(A, "org/app", str(DIGEST), NOW)
        self.factory = self.build(
            *mapped, authenticator=self.doorman, authorizes=authorizes, keys={A: Keys(signer)}
        )

    def test_refused(self) -> None:
        """Nobody gets further than the authenticator without its word; what it says is answered."""
        for target in ("/v2/", BLOB, "/v2/org/app/manifests/1", "/v2/_catalog", "/v2/org/app/tags/list"):
            for fields in ((), ("Authorization: Basic bad",)):
                reply = self.ask(target, *fields)
                self.assert_refused(reply, 401, "UNAUTHORIZED")
                self.assertEqual(reply.header("WWW-Authenticate"), 'Basic realm="here"')
        self.assertEqual(self.services.asked, [])

    def test_let_in(self) -> None:
        """Who is let in acts as the cache's own account; a token that allows it is a grant."""
        for authorizes, credential in ((False, OWN), (True, LOCALLY_AUTHORIZED)):
            self.open(authorizes=authorizes)
            self.assertEqual(self.ask(BLOB, "Authorization: Basic good").body, CONTENT)
            asked = self.services.asked[-1].credential
            self.assertEqual((asked, asked.locally_authorized), (credential, authorizes))

    def test_needs(self) -> None:
        """The authenticator hears what is needed, by the names that the client knows."""
        self.upstream_says()
        for target, need in (
            ("/v2/", None),
            (BLOB, Scope("repository", "org/app", "pull")),
            ("/v2/b/org/app/manifests/1", Scope("repository", "b/org/app", "pull")),
            ("/v2/org/app/tags/list", Scope("repository", "org/app", "pull")),
            (f"/v2/org/app/referrers/{DIGEST}", Scope("repository", "org/app", "pull")),
            ("/v2/_catalog", Scope("registry", "catalog", "*")),
        ):
            self.ask(target, "Authorization: Basic good")
            self.assertEqual(self.doorman.needs.pop(), need, target)
        self.assertEqual(set(self.doorman.bases), {"http://cache.example"})

    def test_token_for_one_origin(self) -> None:
        """A token names no origin: what it needs is named with the prefix, however the origin is selected."""
        self.open(authorizes=True)
        good = "Authorization: Basic good"
        for target, name in (
            (BLOB, "org/app"),
            (f"{BLOB}?ns=a.example", "org/app"),
            (f"{BLOB}?ns=b.example", "b/org/app"),
            (BLOB.replace("/v2/", "/v2/b/"), "b/org/app"),
        ):
            self.assertEqual(self.ask(target, good).status, 200)
            self.assertEqual(self.doorman.needs.pop(), Scope("repository", name, "pull"), target)
        self.ask(BLOB, good, "Contentcache-Origin: https://b.example")
        self.assertEqual(self.doorman.needs.pop(), Scope("repository", "b/org/app", "pull"))

    def test_name_of_another_origin(self) -> None:
        """What a token cannot tell from something of another origin is refused; a password tells nothing."""
        mine = BLOB.replace("/v2/", "/v2/b/") + "?ns=a.example"
        for authorizes, status in ((True, 403), (False, 200)):
            self.open(authorizes=authorizes)
            self.assertEqual(self.ask(mine, "Authorization: Basic good").status, status)
        self.open(authorizes=True)
        catalog = self.ask("/v2/_catalog?ns=b.example", "Authorization: Basic good")
        self.assert_refused(catalog, 403, "DENIED")

    def test_ping(self) -> None:
        """``/v2/`` is answered here: the origin would only be told of our own account."""
        reply = self.ask("/v2/", "Authorization: Basic good")
        self.assertEqual((reply.status, reply.body), (200, b"{}"))
        self.assertEqual(self.services.asked, [])

    def test_root_and_keys(self) -> None:
        """Whether anybody is there, and what everybody may know, is nothing to log in for."""
        self.assertEqual(self.ask("/").status, 200)
        self.assertEqual(self.ask("/.well-known/contentcache/jwks.json").status, 200)

    def test_signed(self) -> None:
        """A signed URL needs nobody's word but the origin's."""
        token = Signer(A, "org/app", str(DIGEST), NOW).saying()
        self.assertEqual(self.ask(f"{BLOB}?token={token}").status, 200)
        self.assertEqual(self.doorman.needs, [])
