"""Clients ask the gateway and get their blobs from a cache, which asks the gateway for what it has not."""

from __future__ import annotations

import contextlib
import json
import re
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway.liveness import FRESH
from tests.real.cache import ContentCache
from tests.real.clients import Containerd, Curl, Dockerd, Podman, skopeo_copy
from tests.real.gateway import GatewayDaemon
from tests.real.images import push_blob, push_image, random_bytes
from tests.real.origin import Origin, basic
from tests.real.programs import needs, place, run, settled, until
from tests.real.prometheus import check_metrics
from tests.real.signer import pens
from tests.real.tokens import TokenServer

_LAYER = 300_000


@needs("docker-registry", "skopeo", "curl")
class RedirectTests(SynchronousTestCase):
    """A registry, its gateway, a cache that one account has chosen."""

    gateway_options: Mapping[str, Any] = MappingProxyType({})

    def build(
        self,
        origin: Origin,
        cache: Mapping[str, Any] | None = None,
        *,
        checkinterval: str = "200ms",
        alive: bool = True,
    ) -> None:
        """All three of them; the cache, which knows the gateway as its origin, with further options."""
        self.origin = origin
        account = {"username": "filler", "password": "secret"}
        options = {"account": account, "admins": ["root"], "checkinterval": checkinterval}
        self.gateway = GatewayDaemon(self, origin.url, gateway={**options, **self.gateway_options})
        more = dict(cache or {})
        upstream = {"originhost": self.gateway.url, **more.pop("upstream", {})}
        self.cache = ContentCache(self, upstream, options=more)
        self.cache_id = self.gateway.add_cache("near", self.cache.url, "root:secret")
        self.gateway.choose("ann:secret", self.cache_id)
        if not alive:
            return
        probe = push_blob(origin, "org/probe", random_bytes(_LAYER, "probe"))
        headers = {"Authorization": origin.authorization("ann", "org/probe")}
        until(
            lambda: (
                self.gateway.request("HEAD", f"/v2/org/probe/blobs/{probe}", headers=headers).status == 307
            ),
            "the cache to be alive",
        )

    def origins(self) -> Iterator[Origin]:
        """A registry with passwords, and one with tokens."""
        users = dict.fromkeys(("ann", "bob", "filler", "root"), "secret")
        yield Origin(self, users=users)
        tokens = TokenServer(self, users=users)
        for account in users:
            tokens.allow(account, "org/*", "pull", "push")
        yield Origin(self, tokens=tokens)

    def check(self, pull: Callable[[str, str], None]) -> None:
        """A client's layers come from the cache, the first time through the gateway and then from its disk."""
        for number, origin in enumerate(self.origins()):
            self.build(origin)
            image = push_image(origin, "org/app", layers=(_LAYER,), seed=number)
            layer = image.layers[0].digest
            before = len(self.fetches(layer))
            for _ in range(2):
                pull(image.reference(self.gateway.host), "ann:secret")
                self.cache.wait_stored(layer)
            self.assertEqual(len(self.fetches(layer)) - before, 1, "one transfer for two pulls")
            self.gateway.wait_for_log(" 307 0 ")
            for log in (self.gateway.log(), self.cache.log()):
                self.assertNotRegex(log, r"token=ey")
                self.assertNotIn("Traceback", log)

    def fetches(self, digest: str) -> list[str]:
        """The transfers of a blob from the registry."""
        return [
            line.uri
            for line in self.origin.requests()
            if line.method == "GET" and line.uri.endswith(digest) and line.status == 200
        ]

    def test_skopeo(self) -> None:
        """skopeo."""
        self.check(lambda reference, creds: _skopeo(self, reference, creds))

    @needs("podman", root=True)
    def test_podman(self) -> None:
        """podman."""

        def pull(reference: str, creds: str) -> None:
            podman = Podman(self)
            podman.pull(reference, creds=creds)

        self.check(pull)

    @needs("dockerd", "docker", root=True)
    def test_docker(self) -> None:
        """docker."""
        dockerd = Dockerd(self)

        def pull(reference: str, creds: str) -> None:
            dockerd.login(reference.partition("/")[0], *creds.split(":"))
            dockerd.pull(reference)
            dockerd.remove(reference)

        self.check(pull)

    def test_others(self) -> None:
        """Who has chosen nothing, and whatever is small, is served by the gateway; who may not pull, by nobody."""
        self.build(next(self.origins()))
        large = push_blob(self.origin, "org/app", random_bytes(_LAYER, 1))
        small = push_blob(self.origin, "org/app", random_bytes(1000, 2))
        for digest, account, statuses in (
            (large, basic("ann", "secret"), (307, 200)),
            (large, basic("bob", "secret"), (200,)),
            (small, basic("ann", "secret"), (200,)),
            (large, basic("ann", "wrong"), (401,)),
        ):
            answer = self.gateway.request(
                "GET", f"/v2/org/app/blobs/{digest}", headers={"Authorization": account}
            )
            self.assertEqual(answer.status, statuses[0], (digest, account))
            if answer.status == 307:
                url = answer.headers["location"]
                self.assertEqual(Curl(self).fetch(url).status, 200)
                self.assertEqual(Curl(self).fetch(url, "-I").status, 200)
                self.assertEqual(Curl(self).fetch(url.replace(digest, small)).status, 403)
                part = Curl(self).fetch(url, "-r", "100-199")
                self.assertEqual((part.status, part.size), (206, 100))
        self.assertEqual(self.gateway.request("GET", f"/v2/org/app/blobs/{large}").status, 401)

    @needs("promtool")
    def test_metrics(self) -> None:
        """A gateway counts its redirects, says of each cache how it is by its name, and promtool finds no fault."""
        self.build(next(self.origins()))
        redirects = 'contentcache_gateway_redirects_total{cache="near"}'
        until(lambda: redirects in self.gateway.metrics(), "a cache that was probed")
        before = self.gateway.metrics()[redirects]
        digest = push_blob(self.origin, "org/app", random_bytes(_LAYER, 1))
        headers = {"Authorization": basic("ann", "secret")}
        path = f"/v2/org/app/blobs/{digest}"
        until(lambda: self.gateway.request("GET", path, headers=headers).status == 307, "a redirect")
        self.assertEqual(settled(lambda: self.gateway.metrics()[redirects] > before, True), True)
        self.assertEqual(self.gateway.metrics()['contentcache_gateway_cache_healthy{cache="near"}'], 1)
        check_metrics(self, self.gateway)
        self.cache.kill9()

        def unhealthy() -> bool:
            (host,) = json.loads(self.gateway.health_text())["checks"]["cache near"]["hosts"]
            return not host["healthy"] and bool(host["reason"] and host["last_success"] and host["next_try"])

        until(unhealthy, "a cache that is away")
        self.assertEqual(self.gateway.metrics()['contentcache_gateway_cache_healthy{cache="near"}'], 0)

    def test_dead(self) -> None:
        """A cache that dies fails nobody's pull once that is noticed; it is used again when it is back."""
        self.build(next(self.origins()))
        image = push_image(self.origin, "org/app", layers=(_LAYER,))
        headers = {"Authorization": basic("ann", "secret")}
        path = f"/v2/org/app/blobs/{image.layers[0].digest}"

        def is_answered_with(status: int) -> bool:
            return self.gateway.request("HEAD", path, headers=headers).status == status

        self.cache.kill9()
        until(lambda: is_answered_with(200), "the gateway to notice")
        _skopeo(self, image.reference(self.gateway.host), "ann:secret")
        self.cache.start()
        until(lambda: is_answered_with(307), "the gateway to notice")
        _skopeo(self, image.reference(self.gateway.host), "ann:secret")
        self.cache.wait_stored(image.layers[0].digest)

    def test_killed_a_moment_before(self) -> None:
        """
        A cache that is killed between two rounds of questions fails nobody's pull: it is asked before a
        client is sent there. Any number of clients at once are served.
        """
        self.build(next(self.origins()), checkinterval="1h")
        image = push_image(self.origin, "org/app", layers=(_LAYER,))
        self.cache.kill9()
        time.sleep(FRESH)  # up to so long after its last answer a client may still be sent there
        _skopeo(self, image.reference(self.gateway.host), "ann:secret")
        headers = {"Authorization": basic("ann", "secret")}
        path = f"/v2/org/app/blobs/{image.layers[0].digest}"
        self.assertEqual(self.gateway.request("GET", path, headers=headers).status, 200)
        dead = re.compile('cache unhealthy cache=near host=.* reason="it cannot be connected to')
        until(lambda: dead.search(self.gateway.log()), "a line about the dead cache")

    @needs("mount", "umount", root=True)
    def test_full_disk(self) -> None:
        """
        On a disk without a free byte clients are redirected with what is known, before a restart and after
        it. What would have to be written is 503, nothing leaves a traceback, and it all works again with
        room.
        """
        folder = place(self)
        run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(folder)])
        self.addCleanup(run, ["umount", "--lazy", str(folder)])
        self.gateway_options = {
            "database": str(folder / "gateway.sqlite3"),
            "signingkey": str(folder / "signing.pem"),
        }
        self.build(next(self.origins()))
        path = f"/v2/org/app/blobs/{push_blob(self.origin, 'org/app', random_bytes(_LAYER, 7))}"
        ballast = folder / "ballast"

        def status(creds: str = "ann:secret") -> int:
            headers = {"Authorization": basic(*creds.split(":"))}
            return self.gateway.request("HEAD", path, headers=headers).status

        def choose(creds: str) -> int:
            settings = f"/accounts/{creds.partition(':')[0]}/settings"
            return self.gateway.api("PATCH", settings, {"contentCacheUUID": self.cache_id}, creds).status

        image = push_image(self.origin, "org/app", layers=(_LAYER,)).reference(self.gateway.host)

        for restart in (False, True):
            if restart:
                self.gateway.stop()
            _fill(ballast)
            if restart:
                self.gateway.start()
                until(lambda: status() == 307, "the cache to be asked again")
            self.assertEqual((status(), status("bob:secret")), (307, 200))
            self.assertEqual(choose("bob:secret"), 503)
            _skopeo(self, image, "ann:secret")
            self.assertNotIn("Traceback", self.gateway.log())
            if restart:
                self.assertIn("can only be read", self.gateway.health_text())
            ballast.unlink()
            if not restart:
                self.assertEqual(choose("ann:secret"), 200)
        until(lambda: choose("bob:secret") == 200, "the database to be opened again")
        until(lambda: status("bob:secret") == 307, "what is chosen to count")

    def test_other_keys(self) -> None:
        """
        A cache that answers but does not know this gateway's keys is sent nobody: their layers come from
        here. The log, the API and the page say why.
        """
        jwks = place(self) / "jwks.json"
        jwks.write_text(json.dumps({"keys": [pens()[0].jwk()]}), "utf-8")
        self.build(next(self.origins()), {"signing": {"jwks": str(jwks)}}, alive=False)
        image = push_image(self.origin, "org/app", layers=(_LAYER,))

        def health() -> dict[str, str]:
            answer = self.gateway.api("GET", f"/content_caches/{self.cache_id}/health", None, "ann:secret")
            found: dict[str, str] = json.loads(answer.body)
            return found

        until(lambda: health()["state"] != "unknown", "the cache to be asked")
        self.assertEqual(health()["state"], "unhealthy")
        self.assertIn(
            "it refuses URLs that this gateway signs (403: the token of this URL", health()["reason"]
        )
        self.gateway.wait_for_log('reason="it refuses URLs that this gateway signs')
        _skopeo(self, image.reference(self.gateway.host), "ann:secret")
        self.assertNotIn(" 307 ", self.gateway.log())

    def test_kept_out(self) -> None:
        """
        A cache whose operator lets few repositories pass is healthy all the same: it has verified the
        signature.
        """
        self.build(next(self.origins()), {"upstream": {"allow": ["org/*"]}})
        image = push_image(self.origin, "org/app", layers=(_LAYER,))
        _skopeo(self, image.reference(self.gateway.host), "ann:secret")
        self.cache.wait_stored(image.layers[0].digest)

    def asked_by(self, push: Callable[[], object]) -> tuple[list[tuple[str, int]], list[tuple[str, int]]]:
        """The requests for blobs that a push makes at the gateway, and what comes of them at the registry."""
        before, lines = len(self.origin.requests()), len(self.gateway.access_lines())
        push()
        asked = re.compile(r'"(HEAD|GET) /v2/org/new/blobs/\S+ HTTP/1.1" (\d+) ')
        there = [
            (each.method, each.status)
            for each in self.origin.requests()[before:]
            if each.uri.startswith("/v2/org/new/blobs/sha256:")
        ]

        def here() -> list[re.Match[str]]:
            found = map(asked.search, self.gateway.access_lines()[lines:])
            return [match for match in found if match]

        until(lambda: len(here()) >= len(there), "the gateway's lines for what reached the registry")
        return sorted((match[1], int(match[2])) for match in here()), sorted(there)

    def test_push_costs(self) -> None:
        """Each ``HEAD`` of a layer that is not there costs the registry one request: skopeo."""
        self.build(next(self.origins()))
        image = push_image(self.origin, "org/app", layers=(_LAYER,) * 5)
        folder = place(self) / "image"
        skopeo_copy(image.reference(self.origin.host), folder, creds="ann:secret")
        argv = ["skopeo", "copy", "--dest-tls-verify=false", "--dest-creds=ann:secret"]
        here, there = self.asked_by(
            lambda: run([*argv, f"dir:{folder}", f"docker://{self.gateway.host}/org/new:1"])
        )
        self.assertEqual(here, there)
        self.assertGreaterEqual(here.count(("HEAD", 404)), 5)

    @needs("containerd", "ctr", root=True)
    def test_push_costs_containerd(self) -> None:
        """The same: containerd."""
        self.build(next(self.origins()))
        image = push_image(self.origin, "org/app", layers=(_LAYER,) * 5)
        containerd = Containerd(self)
        reference = image.reference(self.gateway.host)
        containerd.pull(reference, user="ann:secret", plain=True)
        new = f"{self.gateway.host}/org/new:1"
        here, there = self.asked_by(lambda: containerd.push(new, reference, user="ann:secret"))
        self.assertEqual(here, there)
        self.assertGreaterEqual(here.count(("HEAD", 404)), 5)

    def test_push(self) -> None:
        """A push asks what is there already, follows where that leads, and brings the rest."""
        self.build(next(self.origins()))
        image = push_image(self.origin, "org/app", layers=(_LAYER,))
        argv = ["skopeo", "copy", "--src-tls-verify=false", "--dest-tls-verify=false"]
        argv += ["--src-creds=ann:secret", "--dest-creds=ann:secret"]
        for tag in ("2", "3"):
            copy = f"docker://{self.gateway.host}/org/app:{tag}"
            run([*argv, f"docker://{image.reference(self.gateway.host)}", copy])
            accept = {"Accept": image.manifest.media_type}
            found = self.origin.request("HEAD", f"/v2/org/app/manifests/{tag}", headers=accept)
            self.assertEqual(found.headers["docker-content-digest"], image.digest)
        head = re.compile(r'"HEAD /v2/org/app/blobs/\S+ HTTP/1.1" 307 ')
        until(lambda: head.search(self.gateway.log()), "the redirect in the log")

    def test_mirror(self) -> None:
        """A client that asks the cache itself is served too: the gateway sends no cache to a cache."""
        self.build(next(self.origins()))
        image = push_image(self.origin, "org/app", layers=(_LAYER,))
        _skopeo(self, image.reference(self.cache.host), "ann:secret")
        self.cache.wait_stored(image.layers[0].digest)
        self.assertNotRegex(self.gateway.log(), r'"GET /v2/org/app/blobs/\S+ HTTP/1.1" 307 ')


def _skopeo(case: SynchronousTestCase, reference: str, creds: str) -> None:
    skopeo_copy(reference, place(case) / "image", creds=creds)


def _fill(ballast: Path) -> None:
    """Take all the room that a filesystem has."""
    for piece in (1 << 20, 4096, 1):
        with contextlib.suppress(OSError), ballast.open("ab", buffering=0) as file:
            while file.write(bytes(piece)):
                pass
