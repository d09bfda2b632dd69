"""Tests for :mod:`contentcache.gateway.targets`."""

from __future__ import annotations

from urllib.parse import unquote

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError
from contentcache.gateway.targets import blob_at, read_path

DIGEST = Digest.of(b"content")

GOOD = (
    "/",
    "/v2/",
    "/v2",
    "/v2/org/app/blobs/uploads/",
    "/v2/org/app/blobs/uploads/AF3b_x-y.z=1",
    "/v2/org/app/blobs/uploads/a%2Bb%3D",
    f"/v2/org/app/blobs/{DIGEST}",
    f"/v2/org/app/blobs/{str(DIGEST).replace(':', '%3A')}",
    "/v2/org/app/manifests/..x",
    "/v2/org/.hidden/tags/list",
)


class TargetTests(SynchronousTestCase):
    """Paths that pass, and those that name a blob."""

    def test_good(self) -> None:
        """What registries give out for uploads passes, escapes too."""
        for path in GOOD:
            read_path(path)

    @given(st.text("/.%25eEfFcC3bBaA;\\ ", min_size=1, max_size=14))
    def test_hostile(self, text: str) -> None:
        """However often others decode and join what has passed, it stays below where it was."""
        path = "/v2/" + text
        try:
            read = read_path(path)
        except CacheError as error:
            self.assertEqual(error.status, 400)
            return
        once = unquote(read)
        self.assertEqual(once.count("/"), read.count("/"))
        self.assertEqual(unquote(once), once)
        components = [component.partition(";")[0].rstrip(" ") for component in once.split("/")]
        self.assertFalse({"", ".", ".."} & set(components[1:-1]))
        self.assertNotIn(components[-1], {".", ".."})

    def test_blobs(self) -> None:
        """A blob is what the grammar says, and nothing near it."""
        found = blob_at(f"/v2/org/app/blobs/{DIGEST}")
        assert found is not None
        self.assertEqual((found.repository, found.digest), ("org/app", DIGEST))
        for path in (
            f"/v2/Org/app/blobs/{DIGEST}",
            f"/v2/org/app/blobs/{DIGEST}/",
            f"/v2/org/app/manifests/{DIGEST}",
            "/v2/org/app/blobs/uploads/1",
            "/v2/org/app/blobs/sha256:short",
            f"/v1/org/app/blobs/{DIGEST}",
            "/v2/",
        ):
            self.assertIsNone(blob_at(path), path)
