"""
A cache that verifies tokens by itself (``auth.token``), and pulls with an account of its own.

The tokens are those of docker-registry: one token server is behind the origin and the cache.
"""

from __future__ import annotations

import http.client
import json
import urllib.parse

from tests.real.asking import Asker
from tests.real.cache import ContentCache
from tests.real.clients import Podman, manifest_in, skopeo_copy
from tests.real.images import digest_of, push_image
from tests.real.line import CountingProxy
from tests.real.local_auth import CACHE, LocalAuthCase
from tests.real.origin import Answer, Origin, basic
from tests.real.programs import needs, place, until
from tests.real.tokens import TokenServer


@needs("docker-registry")
class TokenTests(LocalAuthCase):
    """``auth.token``."""

    def setUp(self) -> None:
        """Ann may pull one repository and Bob another; the cache may pull both."""
        self.tokens = TokenServer(self, users={"ann": "secret", "bob": "secret", CACHE: "own"})
        self.origin = Origin(self, tokens=self.tokens)
        self.tokens.allow("ann", "org/app")
        self.tokens.allow("bob", "org/other")
        self.tokens.allow(CACHE, "org/*")
        self.app = push_image(self.origin, "org/app", seed=1)
        self.other = push_image(self.origin, "org/other", seed=2)
        self.line = CountingProxy(self, self.origin.port)
        auth = {
            "realm": self.tokens.realm,
            "service": self.tokens.service,
            "issuer": self.tokens.issuer,
            "rootcertbundle": str(self.tokens.bundle),
        }
        account = {"username": CACHE, "password": "own", "realms": [self.tokens.realm]}
        self.cache = ContentCache(
            self, {"originhost": self.line.url, **account}, settings={"auth": {"token": auth}}
        )
        self.listen()

    def bearer(self, account: str, *scopes: str) -> str:
        """A token as clients fetch it."""
        split = urllib.parse.urlsplit(self.tokens.realm)
        line = http.client.HTTPConnection(split.netloc, timeout=30)
        query = urllib.parse.urlencode([("service", "registry"), *(("scope", scope) for scope in scopes)])
        line.request("GET", f"{split.path}?{query}", headers={"Authorization": basic(account, "secret")})
        token = json.loads(line.getresponse().read())["token"]
        line.close()
        return f"Bearer {token}"

    @needs("skopeo", "podman")
    def test_clients(self) -> None:
        """
        skopeo and podman follow the cache's challenge; whoever may pulls, and who may not does not, cold
        and warm.
        """
        podman = Podman(self)
        self.assertTrue(self.logs_in("ann", "secret"))
        self.assertFalse(self.logs_in("ann", "wrong"))
        for _temperature in range(2):
            folder = place(self)
            skopeo_copy(self.app.reference(self.cache.host), folder, creds="ann:secret")
            self.assertEqual(digest_of(manifest_in(folder)), self.app.digest)
            podman.pull(self.other.reference(self.cache.host), creds="bob:secret")
            podman.remove(self.other.reference(self.cache.host))
            for image, creds in (
                (self.app, "bob:secret"),
                (self.other, "ann:secret"),
                (self.app, "ann:wrong"),
            ):
                reference = image.reference(self.cache.host)
                self.assertNotEqual(
                    skopeo_copy(reference, place(self), creds=creds, check=False).returncode, 0
                )
                self.assertNotEqual(podman.pull(reference, creds=creds, check=False).returncode, 0)
            self.assertNotEqual(
                skopeo_copy(self.app.reference(self.cache.host), place(self), check=False).returncode, 0
            )

    def test_same_words_as_the_registry(self) -> None:
        """Challenges and refusals are those of docker-registry with the same section, word for word."""
        registry = Asker(self, self.origin.host)
        wrong = "Bearer " + self.bearer("ann", "repository:org/app:pull")[7:-4] + "AAAA"
        for path in ("/v2/", *self.paths(self.app), "/v2/_catalog"):
            for header in (None, wrong, "Bearer nonsense", self.bearer("bob", "repository:org/other:pull")):
                expected, found = registry.ask("GET", path, header), self.ask("GET", path, header)
                self.assertEqual(found.status, expected.status, (path, header))
                if expected.status == 401:
                    self.assertEqual(
                        found.headers["www-authenticate"], expected.headers["www-authenticate"], path
                    )
                    self.assertEqual(_errors(found), _errors(expected), path)

    def test_only_what_it_names(self) -> None:
        """A token opens the repositories and actions that it names, and nothing that is stored beside them."""
        app = self.bearer("ann", "repository:org/app:pull")
        other = self.bearer("bob", "repository:org/other:pull")
        for _temperature in range(2):
            for path in self.paths(self.app):
                self.assertEqual(self.ask("GET", path, app).status, 200, path)
                self.assertEqual(self.ask("GET", path, other).status, 401, path)
            for path in self.paths(self.other):
                self.assertEqual(self.ask("GET", path, other).status, 200, path)
                self.assertEqual(self.ask("GET", path, app).status, 401, path)
        # A layer of one repository is not in the other, whatever the cache has.
        layer = self.app.layers[0].digest
        for method in ("HEAD", "GET"):
            self.assertEqual(self.ask(method, f"/v2/org/other/blobs/{layer}", other).status, 404)
        for access in (
            {"type": "repository", "name": "org/app", "actions": ["push"]},
            {"type": "registry", "name": "org/app", "actions": ["pull"]},
            {"type": "repository", "name": "org", "actions": ["pull"]},
            {"type": "repository", "name": "org/app/more", "actions": ["pull"]},
        ):
            token = "Bearer " + self.tokens.token("ann", [access])
            self.assertEqual(self.ask("GET", f"/v2/org/app/blobs/{layer}", token).status, 401, access)

    def test_catalog(self) -> None:
        """The catalogue is for tokens that name it, as in the registry."""
        plain = self.bearer("ann", "repository:org/app:pull")
        self.assertEqual(self.ask("GET", "/v2/_catalog", plain).status, 401)
        named = self.tokens.token("ann", [{"type": "registry", "name": "catalog", "actions": ["*"]}])
        self.tokens.allow(CACHE, "catalog", "*")
        answer = self.ask("GET", "/v2/_catalog", f"Bearer {named}")
        self.assertNotEqual(answer.status, 401)

    def test_expired(self) -> None:
        """A token ends, a minute of leeway included, whatever it has opened before."""
        access = [{"type": "repository", "name": "org/app", "actions": ["pull"]}]
        self.tokens.life = -58
        ending = "Bearer " + self.tokens.token("ann", access)
        self.tokens.life = -61
        ended = "Bearer " + self.tokens.token("ann", access)
        path = f"/v2/org/app/blobs/{self.app.layers[0].digest}"
        self.assertEqual(self.ask("GET", path, ended).status, 401)
        self.ask("GET", path, ending)
        until(lambda: self.ask("GET", path, ending).status == 401, "its end")
        self.assertEqual(self.ask("HEAD", path, ending).status, 401)

    def test_clients_credential_ends_here(self) -> None:
        """The origin sees tokens of the cache's account only, and the log none at all."""
        app = self.bearer("ann", "repository:org/app:pull")
        for path in self.paths(self.app):
            self.assertEqual(self.ask("GET", path, app).status, 200)
            self.ask("GET", path, basic("ann", "hunter22"))
        self.assertNotIn(app, self.passed_on())
        self.assertNotIn(basic("ann", "hunter22"), self.passed_on())
        accounts = {request.account for request in self.tokens.requests if request.scopes}
        self.assertEqual(accounts, {"ann", CACHE})
        for secret in (
            app[7:],
            app[-40:],
            "hunter22",
            basic("ann", "hunter22")[6:],
            basic(CACHE, "own")[6:],
        ):
            self.assertFalse(secret in self.cache.log(), "a secret is in the log")

    def test_origin_is_away(self) -> None:
        """What a token allows and is known is served while the origin cannot be asked, for ``affirmttl``."""
        app = self.bearer("ann", "repository:org/app:pull")
        paths = self.paths(self.app)[1:-1]
        for path in paths:
            self.assertEqual(self.ask("GET", path, app).status, 200)
        self.line.refuse()
        for path in ("/v2/", *paths):
            self.assertEqual(self.ask("GET", path, app).status, 200, path)
        other = self.bearer("bob", "repository:org/other:pull")
        for path in paths:
            self.assertEqual(self.ask("GET", path, other).status, 401, path)


def _errors(answer: Answer) -> list[dict[str, object]]:
    """The errors of a body; Go writes a detail that there is not."""
    errors = json.loads(answer.body)["errors"]
    return [{name: value for name, value in error.items() if value is not None} for error in errors]
