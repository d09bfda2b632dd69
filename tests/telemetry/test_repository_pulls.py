"""Pulls of repositories: what counts, and how much is kept."""

from __future__ import annotations

from contentcache.telemetry.repository_pulls import MOST_REPOSITORIES, RepositoryPulls
from tests.registry.harness import BLOB, DIGEST, RegistryTestCase


class RepositoryPullsTests(RegistryTestCase):
    """Counting."""

    def test_what_counts(self) -> None:
        """Manifests that are sent count, by tag or digest; ``HEAD`` and blobs do not."""
        for target, method in (
            ("/v2/org/app/manifests/1.0", "GET"),
            (f"/v2/org/app/manifests/{DIGEST}", "GET"),
            ("/v2/org/other/manifests/1.0", "GET"),
            ("/v2/org/app/manifests/1.0", "HEAD"),
            (BLOB, "GET"),
        ):
            self.assertEqual(self.ask(target, method=method).status, 200)
        pulls = self.meter.repository_pulls
        self.assertEqual(pulls.drain(), {("a.example", "org/app"): 2, ("a.example", "org/other"): 1})
        self.assertEqual(pulls.drain(), {})

    def test_bound(self) -> None:
        """Further repositories than the bound are not counted until the counts are drained."""
        pulls = RepositoryPulls()
        pulls.add_all(("a", str(number), 2) for number in range(MOST_REPOSITORIES + 9))
        pulls.add("a", "0")
        counts = pulls.drain()
        self.assertEqual((len(counts), counts["a", "0"]), (MOST_REPOSITORIES, 3))
