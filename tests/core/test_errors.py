"""What can go wrong, as values."""

from __future__ import annotations

import inspect

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core import errors
from contentcache.core.errors import CacheError, ContentWrong, OriginRefused, UpstreamBroken

#: distribution-spec 1.1, "Error Codes"; those of the registry before it that clients know; and ours for 5xx.
CODES = {
    "BLOB_UNKNOWN",
    "BLOB_UPLOAD_INVALID",
    "BLOB_UPLOAD_UNKNOWN",
    "DENIED",
    "DIGEST_INVALID",
    "MANIFEST_BLOB_UNKNOWN",
    "MANIFEST_INVALID",
    "MANIFEST_UNKNOWN",
    "NAME_INVALID",
    "NAME_UNKNOWN",
    "RANGE_INVALID",
    "SIZE_INVALID",
    "TAG_INVALID",
    "TOOMANYREQUESTS",
    "UNAUTHORIZED",
    "UNAVAILABLE",
    "UNKNOWN",
    "UNSUPPORTED",
}


class ErrorTests(SynchronousTestCase):
    """Every class of error."""

    def test_codes(self) -> None:
        """Each has a code that clients know, a status of an error, and a sentence that says when."""
        classes = [
            thing for _, thing in inspect.getmembers(errors, inspect.isclass) if issubclass(thing, CacheError)
        ]
        self.assertGreater(len(classes), 15)
        for error in classes:
            with self.subTest(error=error.__name__):
                self.assertIn(error.code, CODES)
                self.assertTrue(400 <= error.status <= 599)
                self.assertTrue((error.__doc__ or "").strip().endswith("."))

    def test_carried(self) -> None:
        """An error has what it was given, and shares no headers with another."""
        headers = {"Retry-After": "5"}
        error = CacheError("so it is", detail={"a": 1}, headers=headers)
        headers.clear()
        self.assertEqual((str(error), error.message), ("so it is", "so it is"))
        self.assertEqual((error.detail, error.headers), ({"a": 1}, {"Retry-After": "5"}))
        self.assertEqual(CacheError("x").headers, {})

    def test_origins_own(self) -> None:
        """A refusal of the origin has its status, and no other error gets that."""
        refusal = OriginRefused(401, {"WWW-Authenticate": "Basic"}, b"{}")
        self.assertEqual((refusal.status, refusal.body), (401, b"{}"))
        self.assertEqual(refusal.headers, {"WWW-Authenticate": "Basic"})
        self.assertEqual((OriginRefused.status, CacheError.status), (500, 500))

    def test_wrong_content_is_a_broken_upstream(self) -> None:
        """Who does not care for the difference sees a 502."""
        self.assertTrue(issubclass(ContentWrong, UpstreamBroken))
        self.assertEqual(ContentWrong.status, 502)
