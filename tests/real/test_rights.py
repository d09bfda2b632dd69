"""
Nobody gets what the origin would refuse.

Users, repositories, methods and temperatures, each asked of the origin and
of the cache.
"""

from __future__ import annotations

import base64
import http.client
import json
from collections.abc import Iterator, Mapping
from itertools import product

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.images import push_blob, push_image, random_bytes
from tests.real.origin import Origin
from tests.real.programs import needs
from tests.real.tokens import ANONYMOUS, TokenServer

MANIFESTS = (
    "application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, "
    "application/vnd.docker.distribution.manifest.v2+json"
)


@frozen
class Answer:
    """A status, the headers in lower case, and the body."""

    status: int
    headers: Mapping[str, str]
    body: bytes


def ask(host: str, method: str, path: str, authorization: str | None = None, **more: str) -> Answer:
    """One request on a connection of its own."""
    connection = http.client.HTTPConnection(host, timeout=30)
    headers = {"Accept": MANIFESTS, **{name.replace("_", "-"): value for name, value in more.items()}}
    if authorization is not None:
        headers["Authorization"] = authorization
    try:
        connection.request(method, path, headers=headers)
        response = connection.getresponse()
        body = response.read()
    finally:
        connection.close()
    return Answer(response.status, {name.lower(): value for name, value in response.getheaders()}, body)


def basic(account: str, password: str) -> str:
    """The value of ``Authorization`` for an account."""
    return "Basic " + base64.b64encode(f"{account}:{password}".encode()).decode()


class RightsCase(SynchronousTestCase):
    """Compares answers of the origin and of the cache."""

    origin: Origin
    cache: ContentCache

    def check_same(self, method: str, path: str, authorization: str | None, **more: str) -> Answer:
        """
        The cache says yes where the origin does and no where it does not, with its challenge and code.
        The sentence beside the code may be the cache's own: nobody asks again for the body of a refusal.
        """
        expected = ask(self.origin.host, method, path, authorization, **more)
        found = ask(self.cache.host, method, path, authorization, **more)
        case = (method, path, more)
        if expected.status >= 500:
            # The origin's own failure is a bad gateway here.
            self.assertGreaterEqual(found.status, 500, case)
            return found
        self.assertEqual(found.status, expected.status, case)
        if expected.status >= 400:
            self.assertEqual(
                found.headers.get("www-authenticate"), expected.headers.get("www-authenticate"), case
            )
            self.assertEqual(_codes(found), _codes(expected), case)
        else:
            self.assertEqual(found.body, expected.body, case)
        return found


def _codes(answer: Answer) -> list[str]:
    """The codes of the errors in a body; none where there is no body."""
    return [entry["code"] for entry in json.loads(answer.body)["errors"]] if answer.body else []


@needs("docker-registry")
class PasswordTests(RightsCase):
    """An origin with htpasswd: whoever has an account may have everything."""

    def test_matrix(self) -> None:
        """Right, wrong, unknown and anonymous users, before and after somebody has pulled; then one revoked."""
        self.origin = Origin(self, users={"ann": "secret", "bob": "other"})
        self.cache = ContentCache(self, self.origin.url, options={"authttl": "0"})
        image = push_image(self.origin, "org/app", layers=(50_000,))
        users = (
            None,
            basic("ann", "wrong"),
            basic("eve", "secret"),
            "Bearer nonsense",
            basic("bob", "other"),
            basic("ann", "secret"),
        )
        for _temperature in range(3):
            for user, (method, path, more) in product(
                users, _questions(image.blobs()[1].digest, image.digest)
            ):
                self.check_same(method, path, user, **more)
        self.origin.set_users({"bob": "other"})
        for method, path, more in _questions(image.blobs()[1].digest, image.digest):
            self.assertEqual(
                self.check_same(method, path, basic("ann", "secret"), **more).status, 401, (method, path)
            )


@needs("docker-registry")
class TokenTests(RightsCase):
    """An origin with tokens, each for its repositories."""

    def setUp(self) -> None:
        """Two repositories that share a layer, and two users."""
        self.tokens = TokenServer(self, users={"ann": "secret", "bob": "secret"})
        self.origin = Origin(self, tokens=self.tokens)
        self.cache = ContentCache(self, self.origin.url)
        content = random_bytes(40_000, "shared")
        self.shared = push_blob(self.origin, "org/app", content)
        push_blob(self.origin, "org/other", content)
        self.image = push_image(self.origin, "org/app", layers=(50_000,), seed=1)
        self.tokens.allow("ann", "org/app")
        self.tokens.allow("bob", "org/other")
        self.tokens.allow(ANONYMOUS, "public/*")

    def bearer(self, account: str, repository: str) -> str:
        """A token as clients fetch it."""
        connection = http.client.HTTPConnection(self.tokens.realm.split("/")[2], timeout=30)
        headers = {"Authorization": basic(account, "secret")} if account else {}
        path = f"/token?service=registry&scope=repository:{repository}:pull"
        connection.request("GET", path, headers=headers)
        answer = connection.getresponse()
        token = json.loads(answer.read())["token"]
        connection.close()
        return f"Bearer {token}"

    def test_matrix(self) -> None:
        """Tokens for this repository and for another, for the wrong user, and none, cold and warm."""
        users = [
            None,
            self.bearer("", "org/app"),
            self.bearer("bob", "org/app"),
            self.bearer("bob", "org/other"),
            self.bearer("ann", "org/other"),
            self.bearer("ann", "org/app"),
        ]
        layer = self.image.layers[0].digest
        for _temperature, user in product(range(2), users):
            for method, path, more in _questions(layer, self.image.digest):
                self.check_same(method, path, user, **more)
            for repository in ("org/app", "org/other", "public/none"):
                self.check_same("GET", f"/v2/{repository}/blobs/{self.shared}", user)
                self.check_same("HEAD", f"/v2/{repository}/blobs/{self.shared}", user)

    def test_digest_of_another_repository(self) -> None:
        """A digest that is stored and known of one repository opens nothing in another: the origin is asked."""
        ann, bob = self.bearer("ann", "org/app"), self.bearer("bob", "org/other")
        self.assertEqual(self.check_same("GET", f"/v2/org/app/blobs/{self.shared}", ann).status, 200)
        layer = self.image.layers[0].digest
        self.assertEqual(self.check_same("GET", f"/v2/org/app/blobs/{layer}", ann).status, 200)
        before = len(self.origin.requests(agent="contentcache"))
        self.assertEqual(self.check_same("GET", f"/v2/org/other/blobs/{self.shared}", bob).status, 200)
        asked = self.origin.requests(agent="contentcache")[before:]
        self.assertEqual([line.method for line in asked], ["HEAD"])
        # Bob may read org/other, where this layer is not.
        self.assertEqual(self.check_same("GET", f"/v2/org/other/blobs/{layer}", bob).status, 404)
        self.assertEqual(self.check_same("GET", f"/v2/org/app/blobs/{layer}", bob).status, 401)

    def test_challenge_passes(self) -> None:
        """The origin's challenge reaches the client as it is, so that it finds the token server."""
        answer = self.check_same("GET", "/v2/", None)
        self.assertEqual(answer.status, 401)
        self.assertIn(self.tokens.realm, answer.headers["www-authenticate"])

    def test_no_credential_in_the_log(self) -> None:
        """Neither tokens nor passwords are in the log, at its most talkative."""
        token = self.bearer("ann", "org/app")
        path = f"/v2/org/app/blobs/{self.shared}"
        ask(self.cache.host, "GET", path, token)
        ask(self.cache.host, "GET", path + "?token=" + token[7:], basic("ann", "hunter22"))
        log = self.cache.wait_for_log(path, times=2)
        for secret in (token[7:], token[-40:], "hunter22", basic("ann", "hunter22")[6:]):
            self.assertNotIn(secret, log)


def _questions(layer: str, manifest: str) -> Iterator[tuple[str, str, dict[str, str]]]:
    for method in ("GET", "HEAD"):
        for path in (f"blobs/{layer}", f"manifests/{manifest}", "manifests/latest", "manifests/none"):
            yield method, f"/v2/org/app/{path}", {}
    yield "GET", f"/v2/org/app/blobs/{layer}", {"Range": "bytes=5-99"}
    yield "GET", f"/v2/org/app/blobs/sha256:{'0' * 64}", {}
    yield "GET", f"/v2/org/app/manifests/{layer}", {}
    yield "GET", f"/v2/org/app/blobs/{manifest}", {}
    yield "GET", "/v2/org/app/tags/list", {}
    yield "GET", "/v2/", {}
