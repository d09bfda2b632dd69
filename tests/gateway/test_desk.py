"""Tests for :mod:`contentcache.gateway.desk`."""

from __future__ import annotations

from contentcache.gateway.desk import is_ours
from tests.gateway.lobby import DeskTestCase


class DeskTests(DeskTestCase):
    """What it answers, and what is not for it."""

    def test_is_ours(self) -> None:
        """Its paths are its own, and none of the registry's."""
        for target in (
            b"/api",
            b"/api/",
            b"/api/v0/content_caches?x",
            b"/settings",
            b"/caches/x/test",
            b"/api?x",
        ):
            self.assertTrue(is_ours(target), target)
        for target in (
            b"/",
            b"/v2/",
            b"/v2/api/blobs/x",
            b"/apis",
            b"/cachesx",
            b"//api",
            b"api",
            b"/ca",
            b"",
        ):
            self.assertFalse(is_ours(target), target)

    def test_nothing(self) -> None:
        """A page that does not exist is one that says so; another method has the form of the API."""
        for target in ("/settings/none", "/caches/1/2/3", "/other"):
            reply = self.send("GET", target)
            self.assertEqual((reply.status, reply.header("Content-Type")), (404, "text/html; charset=utf-8"))
        self.assert_error(self.send("DELETE", "/settings"), 405, "NOT_ALLOWED")
        self.assert_error(self.send("GET", "/settings/sign-in"), 405, "NOT_ALLOWED")
