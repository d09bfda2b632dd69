"""``crane``, ``oras`` and ``regctl`` before a registry and through the cache: what they print is the same."""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.go_programs import go_program, needs_go
from tests.real.images import MEDIA_TYPES, digest_of, push_image
from tests.real.origin import Origin
from tests.real.programs import needs, place, run

_NAME: Final = "org/app"
_TIME: Final = re.compile(r"[0-9]{4}-[0-9]{2}-[0-9]{2}T[0-9:.]+Z")
_WARNING: Final = "this repository goes away"
#: What the registry adds to each answer.
_HEADERS: Final = {
    "Warning": [f'299 - "{_WARNING}"'],
    "RateLimit-Limit": ["100;w=21600"],
    "RateLimit-Remaining": ["99;w=21600"],
    "Docker-RateLimit-Source": ["192.0.2.1"],
}


class ClientTestCase(SynchronousTestCase):
    """A registry with an image, its signature under a tag, and an artifact that refers to it; a cache before it."""

    command = "docker-registry"

    def setUp(self) -> None:
        """All of it."""
        self.origin = Origin(self, settings={"http": {"headers": _HEADERS}}, command=self.command)
        self.image = push_image(self.origin, _NAME, "1", layers=(3000, 200))
        self.sig = self.image.digest.replace(":", "-") + ".sig"
        push_image(self.origin, _NAME, self.sig, layers=(100,), seed="signature")
        artifact = {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPES["oci"][0],
            "artifactType": "application/vnd.example.signature.v1+json",
            "config": self.image.config.written(),
            "layers": [],
            "subject": self.image.manifest.written(),
        }
        content = json.dumps(artifact).encode()
        path = f"/v2/{_NAME}/manifests/{digest_of(content)}"
        pushed = self.origin.request("PUT", path, content, {"Content-Type": MEDIA_TYPES["oci"][0]})
        self.assertEqual(pushed.status, 201)
        self.cache = ContentCache(self, self.origin.url)

    def printed(self, host: str, words: Sequence[str]) -> tuple[int, str, str]:
        """Exit status and output of a client, with ``HOST`` for the host that was asked and without times."""
        name, *arguments = words
        folder = place(self)
        argv = [str(go_program(name)), *(word.replace("HOST", host) for word in arguments)]
        env = {"HOME": str(folder), "DOCKER_CONFIG": str(folder), "PATH": "/usr/bin:/bin"}
        done = run(argv, check=False, env=env, cwd=folder)
        printed = [_TIME.sub("TIME", text.replace(host, "HOST")) for text in (done.stdout, done.stderr)]
        return done.returncode, printed[0], printed[1]

    def compare(self, *words: str, says: str = "", succeeds: bool = True) -> None:
        """
        A client prints the same before the registry, a cold cache and a warm one; ``says`` is part of it.
        Where it does not succeed, only that is the same: the sentence of an error may be the cache's own.
        Stored blobs come without warnings, since the origin is not asked.
        """
        direct = self.printed(self.origin.host, words)
        for state, found in (
            ("direct", direct),
            ("cold", self.printed(self.cache.host, words)),
            ("warm", self.printed(self.cache.host, words)),
        ):
            self.assertEqual(found[0] == 0, succeeds, (state, words, found))
            self.assertIn(says, found[1] + found[2], (state, words))
            if succeeds:
                end = 2 if state == "warm" and "blob" in words else 3
                self.assertEqual((state, *found[:end]), (state, *direct[:end]), words)


@needs("docker-registry")
@needs_go("crane")
class CraneTests(ClientTestCase):
    """``crane``."""

    def test_pull(self) -> None:
        """Digests, manifests, lists, a missing tag, a signature's tag."""
        self.compare("crane", "digest", "--insecure", f"HOST/{_NAME}:1", says=self.image.digest)
        self.compare("crane", "manifest", "--insecure", f"HOST/{_NAME}:1", says="schemaVersion")
        self.compare("crane", "manifest", "--insecure", f"HOST/{_NAME}:{self.sig}", says="schemaVersion")
        self.compare("crane", "ls", "--insecure", f"HOST/{_NAME}", says=self.sig)
        self.compare("crane", "config", "--insecure", f"HOST/{_NAME}:1", says="architecture")
        self.compare("crane", "validate", "--insecure", "--remote", f"HOST/{_NAME}:1", says="PASS")
        self.compare(
            *("crane", "manifest", "--insecure", f"HOST/{_NAME}:missing"),
            says="MANIFEST_UNKNOWN",
            succeeds=False,
        )
        self.compare("crane", "digest", "--insecure", f"HOST/{_NAME}:missing.sig", succeeds=False)


@needs("docker-registry")
@needs_go("oras")
class OrasTests(ClientTestCase):
    """``oras``, before a registry without an API for referrers: it falls back to a tag."""

    def test_pull(self) -> None:
        """Manifests, tags, referrers, a missing tag; warnings are shown."""
        reference = f"HOST/{_NAME}:1"
        self.compare("oras", "manifest", "fetch", "--plain-http", reference, says=_WARNING)
        self.compare("oras", "resolve", "--plain-http", reference, says=self.image.digest)
        self.compare("oras", "repo", "tags", "--plain-http", f"HOST/{_NAME}", says=self.sig)
        self.compare("oras", "discover", "--plain-http", "--format", "json", reference)
        self.compare("oras", "manifest", "fetch", "--plain-http", f"HOST/{_NAME}:{self.sig}")
        self.compare(
            *("oras", "manifest", "fetch", "--plain-http", f"HOST/{_NAME}:missing"),
            says="not found",
            succeeds=False,
        )
        self.compare("oras", "blob", "fetch", "--plain-http", "--output", "-", self.blob())

    def blob(self) -> str:
        """The configuration, as oras names it."""
        return f"HOST/{_NAME}@{self.image.config.digest}"


@needs_go("registry")
class OrasDistributionTests(OrasTests):
    """The same before distribution 3."""

    command = str(go_program("registry"))


@needs("docker-registry")
@needs_go("regctl")
class RegctlTests(ClientTestCase):
    """``regctl``."""

    def test_pull(self) -> None:
        """Manifests, tags, artifacts, rate limits, a missing tag; warnings are shown."""
        reference = f"HOST/{_NAME}:1"
        plain = ("--host", "reg=HOST,tls=disabled")
        self.compare("regctl", *plain, "manifest", "get", reference, says=_WARNING)
        self.compare("regctl", *plain, "image", "digest", reference, says=self.image.digest)
        self.compare("regctl", *plain, "image", "ratelimit", reference, says="99")
        self.compare("regctl", *plain, "tag", "ls", f"HOST/{_NAME}", says=self.sig)
        self.compare("regctl", *plain, "artifact", "list", reference)
        self.compare("regctl", *plain, "manifest", "head", f"HOST/{_NAME}:missing", succeeds=False)
