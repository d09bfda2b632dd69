"""A cache with users of its own (``auth.htpasswd``), and an account that the origin knows."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.real.cache import ContentCache
from tests.real.clients import Podman, manifest_in, skopeo_copy
from tests.real.images import digest_of, push_image
from tests.real.line import CountingProxy
from tests.real.local_auth import CACHE, LocalAuthCase
from tests.real.origin import Origin, basic
from tests.real.programs import needs, place, run, until


@needs("docker-registry", "htpasswd")
class PasswordTests(LocalAuthCase):
    """``auth.htpasswd``, and an account of the cache's own at an origin that asks for one."""

    def setUp(self) -> None:
        """Users of the cache whom the origin does not know."""
        self.origin = Origin(self, users={CACHE: "own"})
        self.image = push_image(self.origin, "org/app", seed=1)
        self.line = CountingProxy(self, self.origin.port)
        self.users = place(self) / "htpasswd"
        self.write({"ann": "secret", "bob": "other"})

    def write(self, users: dict[str, str]) -> None:
        """The file of users."""
        _htpasswd(self.users, users)

    def begin(self, **account: object) -> None:
        """A cache with an account."""
        auth = {"htpasswd": {"realm": "the cache", "path": str(self.users)}}
        upstream = {"originhost": self.line.url, **account}
        self.cache = ContentCache(self, upstream, settings={"auth": auth})
        self.listen()

    @needs("skopeo", "podman", "curl")
    def test_clients(self) -> None:
        """podman, skopeo and curl pull with users of the cache; others, and the cache's own name, do not."""
        self.begin(username=CACHE, password="own")
        podman = Podman(self)
        self.assertTrue(self.logs_in("ann", "secret"))
        self.assertFalse(self.logs_in("ann", "wrong"))
        reference = self.image.reference(self.cache.host)
        for creds in ("ann:secret", "bob:other"):
            folder = place(self)
            skopeo_copy(reference, folder, creds=creds)
            self.assertEqual(digest_of(manifest_in(folder)), self.image.digest)
            podman.pull(reference, creds=creds)
            podman.remove(reference)
            path = f"{self.cache.url}/v2/org/app/blobs/{self.image.layers[0].digest}"
            self.assertEqual(run(["curl", "-fsSo", "/dev/null", "-u", creds, path]).returncode, 0)
        for wrong in ("ann:other", "eve:secret", f"{CACHE}:own"):
            self.assertNotEqual(skopeo_copy(reference, place(self), creds=wrong, check=False).returncode, 0)
            self.assertNotEqual(podman.pull(reference, creds=wrong, check=False).returncode, 0)
        self.assertNotEqual(skopeo_copy(reference, place(self), check=False).returncode, 0)

    def test_clients_credential_ends_here(self) -> None:
        """The origin sees the cache's account and nobody else's."""
        self.begin(username=CACHE, password="own")
        users = (None, "Bearer nonsense", basic("ann", "wrong"), basic("eve", "x"), basic("ann", "secret"))
        for path in ("/v2/", *self.paths(self.image)):
            for user in users:
                expected = 200 if user == users[-1] else 401
                answer = self.ask("GET", path, user)
                self.assertEqual(answer.status, expected, (path, user))
                if expected == 401:
                    self.assertEqual(answer.headers["www-authenticate"], 'Basic realm="the cache"')
        self.assertLessEqual(self.passed_on(), {"", basic(CACHE, "own")})
        for secret in (basic("ann", "secret")[6:], basic(CACHE, "own")[6:], "nonsense"):
            self.assertFalse(secret in self.cache.log(), "a secret is in the log")

    def test_file_changes(self) -> None:
        """
        Who is gone from the file is out, though he was let in a moment ago; a new user is in, a new password
        counts, a missing file lets nobody in.
        """
        self.begin(username=CACHE, password="own")
        path = f"/v2/org/app/blobs/{self.image.layers[0].digest}"
        ann, bob = basic("ann", "secret"), basic("bob", "other")
        self.assertEqual([self.ask("GET", path, user).status for user in (ann, bob)], [200, 200])
        self.write({"bob": "another", "eve": "new"})
        until(lambda: self.ask("GET", path, ann).status == 401, "Ann to be out")
        self.assertEqual(self.ask("GET", path, bob).status, 401)
        for user in (basic("bob", "another"), basic("eve", "new")):
            self.assertEqual(self.ask("GET", path, user).status, 200)
        self.users.unlink()
        until(lambda: self.ask("GET", path, basic("eve", "new")).status == 503, "nobody to be let in")
        self.write({"ann": "secret"})
        until(lambda: self.ask("GET", path, ann).status == 200, "Ann to be back")

    def test_thousand_requests(self) -> None:
        """
        A thousand requests with one password cost a hash or two, and not a thousand: at the cost of this one
        they would take minutes of processor time.
        """
        _htpasswd(self.users, {"ann": "secret"}, cost=13)
        self.begin(username=CACHE, password="own")
        before = sum(map(_cpu_seconds, self.cache.pids))
        path = f"/v2/org/app/blobs/{self.image.layers[0].digest}"
        for _ in range(1000):
            self.assertEqual(self.ask("HEAD", path, basic("ann", "secret")).status, 200)
        self.assertLess(sum(map(_cpu_seconds, self.cache.pids)) - before, 60)

    def test_helper(self) -> None:
        """A Docker credential helper gives the account: asked once for many pulls, told which host."""
        folder = place(self)
        helper, asked = folder / "docker-credential-test", folder / "asked"
        answer = json.dumps({"ServerURL": self.line.url, "Username": CACHE, "Secret": "own"})
        helper.write_text(f"#!/bin/sh\nread -r url\necho \"$1 $url\" >> '{asked}'\nprintf '%s' '{answer}'\n")
        helper.chmod(0o755)
        self.begin(exec={"command": [str(helper)], "lifetime": "1h"})
        for path in self.paths(self.image):
            self.assertEqual(self.ask("GET", path, basic("ann", "secret")).status, 200, path)
        self.assertEqual(self.passed_on() - {""}, {basic(CACHE, "own")})
        question, *others = asked.read_text().splitlines()
        self.assertLess(len(others), self.cache.workers, "each worker asks once")
        command, _, url = question.partition(" ")
        self.assertEqual((command, url.rstrip("/").removeprefix("http://")), ("get", self.line.host))

    def test_helper_that_fails(self) -> None:
        """
        One that fails, or tells nonsense, costs its clients 502 or 503, and its words are not for the log's
        readers where they hold a secret.
        """
        helper = place(self) / "docker-credential-test"
        helper.write_text(
            '#!/bin/sh\nread -r url\nprintf \'{"Username": "x", "Secret": "hunter22"\'\nexit 1\n'
        )
        helper.chmod(0o755)
        self.begin(exec={"command": [str(helper)], "lifetime": "1h"})
        answer = self.ask("GET", self.paths(self.image)[1], basic("ann", "secret"))
        self.assertIn(answer.status, {502, 503})
        self.assertFalse("hunter22" in self.cache.log() + answer.body.decode(), "a secret is told")


def _htpasswd(path: Path, users: dict[str, str], cost: int = 5) -> None:
    fresh = path.with_suffix(".new")
    fresh.unlink(missing_ok=True)
    for name, password in users.items():
        made = [] if fresh.exists() else ["-c"]
        run(["htpasswd", "-bB", "-C", str(cost), *made, fresh, name, password])
    fresh.replace(path)


def _cpu_seconds(pid: int) -> float:
    """What a process has computed so far."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
