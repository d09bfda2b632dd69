"""
The OCI conformance suite: through the cache and through the gateway, never worse than the registry itself.

The suite is run against a registry directly, and then against the same kind of registry through this program.
What fails through it must fail directly too.
"""

from __future__ import annotations

import json
import re
from collections import Counter

from attrs import frozen
from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.gateway import GatewayDaemon
from tests.real.go_programs import go_program, needs_go
from tests.real.images import MEDIA_TYPES, digest_of, push_blob, push_image
from tests.real.origin import Origin
from tests.real.programs import Case, needs, place, run

_LINE = re.compile(r"^ *(?P<name>OCI Conformance Test.*): (?P<verdict>Pass|FAIL)$", re.MULTILINE)
_NOT_DELETED = {f"API_{what}_DELETE": "false" for what in ("BLOBS", "MANIFESTS", "TAGS")}


@frozen
class Verdict:
    """
    What the suite found: how often tests of a name passed and failed, for several have the same name. Skipped
    ones are in neither.
    """

    passed: Counter[str]
    failed: Counter[str]


def conformance(case: Case, host: str, **settings: str) -> Verdict:
    """Run the suite against a host without TLS; ``settings`` are its variables, without ``OCI_``."""
    folder = place(case)
    env = {
        "OCI_REGISTRY": host,
        "OCI_TLS": "disabled",
        "OCI_VERSION": "1.1",
        "OCI_RESULTS_DIR": str(folder),
        **{f"OCI_{name}": value for name, value in settings.items()},
    }
    # Its status is not looked at, nor its files: it fails to write them where some tests were not run.
    printed = run([str(go_program("conformance"))], check=False, timeout=600, env=env, cwd=folder).stdout
    found = [(match["name"], match["verdict"]) for match in _LINE.finditer(printed)]
    return Verdict(
        Counter(name for name, verdict in found if verdict == "Pass"),
        Counter(name for name, verdict in found if verdict == "FAIL"),
    )


class ConformanceTestCase(SynchronousTestCase):
    """Compares two runs before a registry of the same kind."""

    def registry(self, command: str = "docker-registry") -> Origin:
        """A registry of its own."""
        return Origin(self, command=command)

    def assert_no_worse(self, direct: Verdict, through: Verdict, least: int) -> None:
        """Nothing fails through us that does not fail directly, and what passes directly passes."""
        self.assertGreater(len(direct.passed), least, "the suite has run")
        self.assertEqual(through.failed - direct.failed, Counter())
        self.assertEqual(direct.passed - through.passed, Counter())


@needs_go("conformance")
class PullTests(ConformanceTestCase):
    """Pull and discovery through the cache, of images that are in the registry before."""

    def check(self, origin: Origin) -> None:
        """Through a cold cache, then a warm one."""
        name = "conformance/repo1"
        images = [push_image(origin, name, tag, layers=(3000, 200), seed=tag) for tag in ("one", "two")]
        blobs = [blob.digest for image in images for blob in image.blobs()]
        subject = images[0].manifest
        artifact = {
            "schemaVersion": 2,
            "mediaType": MEDIA_TYPES["oci"][0],
            "artifactType": "application/vnd.example.signature.v1+json",
            "config": images[1].config.written(),
            "layers": [],
            "subject": subject.written(),
        }
        content = json.dumps(artifact).encode()
        origin.request(
            "PUT",
            f"/v2/{name}/manifests/{digest_of(content)}",
            content,
            {"Content-Type": MEDIA_TYPES["oci"][0]},
        )
        settings = {
            **_NOT_DELETED,
            "API_PUSH": "false",
            "RO_DATA_TAGS": "one two",
            "RO_DATA_MANIFESTS": " ".join(image.digest for image in images),
            "RO_DATA_BLOBS": " ".join([*blobs, push_blob(origin, name, b"")]),
            "RO_DATA_REFERRERS": subject.digest,
        }
        direct = conformance(self, origin.host, **settings)
        cache = ContentCache(self, origin.url)
        for _ in ("cold", "warm"):
            self.assert_no_worse(direct, conformance(self, cache.host, **settings), 10)

    @needs("docker-registry")
    def test_docker_registry(self) -> None:
        """Before docker-registry."""
        self.check(self.registry())

    @needs_go("registry")
    def test_distribution(self) -> None:
        """Before distribution 3, which knows referrers no better, and tags by pages."""
        self.check(self.registry(str(go_program("registry"))))


@needs_go("conformance")
class PushTests(ConformanceTestCase):
    """Everything, push included, through the gateway."""

    def check(self, command: str) -> None:
        """A registry directly, and another one of its kind through a gateway."""
        direct = conformance(self, self.registry(command).host)
        gateway = GatewayDaemon(self, self.registry(command).url)
        self.assert_no_worse(direct, conformance(self, gateway.host), 50)

    @needs("docker-registry")
    def test_docker_registry(self) -> None:
        """Before docker-registry."""
        self.check("docker-registry")

    @needs_go("registry")
    def test_distribution(self) -> None:
        """Before distribution 3."""
        self.check(str(go_program("registry")))
