"""Tests for :mod:`contentcache.gateway.admin.site`."""

from __future__ import annotations

from tests.gateway.admin.admin_case import AdminSiteTestCase


class SiteTests(AdminSiteTestCase):
    """Responses that Klein would send in its own form."""

    def test_nothing(self) -> None:
        """An unknown page is a page with 404; a wrong method is an error in the form of the API."""
        for target in ("/settings/none", "/caches/1/2/3", "/other"):
            reply = self.send("GET", target)
            self.assertEqual((reply.status, reply.header("Content-Type")), (404, "text/html; charset=utf-8"))
        self.assert_error(self.send("DELETE", "/settings"), 405, "NOT_ALLOWED")
        self.assert_error(self.send("GET", "/settings/sign-out"), 405, "NOT_ALLOWED")
