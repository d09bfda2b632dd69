"""Tests for :mod:`contentcache.registry.responses`, through the API: heads, conditions, ranges."""

from __future__ import annotations

from email import message_from_bytes
from email.message import Message
from typing import cast

from hypothesis import given, settings
from hypothesis import strategies as st

from contentcache.delivery.bodies import MemoryBody
from tests.registry.harness import (
    BLOB,
    BOUNDARY,
    CONTENT,
    DIGEST,
    OCTETS,
    RegistryTestCase,
    Reply,
    SteppedBody,
    request,
)

_SIZE = len(CONTENT)
_ETAG = f'"{DIGEST}"'
_MANIFEST = f"/v2/org/app/manifests/{DIGEST}"
_TAG = "/v2/org/app/manifests/1"


def _parts(reply: Reply) -> list[tuple[str, str, bytes]]:
    """Content-Range, Content-Type and bytes of each part."""
    head = f"Content-Type: {reply.header('Content-Type')}\r\n\r\n".encode()
    message = message_from_bytes(head + reply.body)
    assert message.is_multipart()
    assert not message.defects, message.defects
    parts = cast("list[Message]", message.get_payload())
    return [
        (str(part["Content-Range"]), str(part["Content-Type"]), cast("bytes", part.get_payload(decode=True)))
        for part in parts
    ]


class HeadTests(RegistryTestCase):
    """What an answer says of itself."""

    def test_blob(self) -> None:
        """All that a blob's head promises, for GET and HEAD alike."""
        for method in ("GET", "HEAD"):
            reply = self.ask(BLOB, method=method)
            expected = {
                "Docker-Content-Digest": str(DIGEST),
                "ETag": _ETAG,
                "Accept-Ranges": "bytes",
                "Cache-Control": "private, max-age=31536000, immutable",
                "Cache-Status": "contentcache; hit",
                "Docker-Distribution-Api-Version": "registry/2.0",
                "X-Content-Type-Options": "nosniff",
                "Content-Length": str(_SIZE),
                "Content-Type": OCTETS,
            }
            self.assertEqual((reply.status, {name: reply.header(name) for name in expected}), (200, expected))
            self.assertEqual(reply.body, CONTENT if method == "GET" else b"")

    def test_manifest(self) -> None:
        """A manifest has its own type; by tag it is to be asked for again, and depends on ``Accept``."""
        for method in ("GET", "HEAD"):
            by_digest, by_tag = self.ask(_MANIFEST, method=method), self.ask(_TAG, method=method)
            for reply in (by_digest, by_tag):
                self.assertEqual(reply.header("Content-Type"), self.services.media_type)
                self.assertEqual(reply.header("Docker-Content-Digest"), str(DIGEST))
                self.assertEqual(reply.header("Content-Length"), str(_SIZE))
            self.assertEqual((by_digest.header("Vary"), by_tag.header("Vary")), (None, "Accept"))
            self.assertEqual(by_tag.header("Cache-Control"), "private, no-cache")

    def test_stale(self) -> None:
        """What the origin could not be asked about is marked."""
        self.services.stale = True
        reply = self.ask(_TAG)
        self.assertEqual(reply.header("Cache-Status"), "contentcache; hit; stale")
        self.assertEqual(reply.header("Warning"), '110 contentcache "Response is Stale"')

    def test_size_unknown(self) -> None:
        """Without a size there is no length; a GET goes in chunks, to its proper end."""
        self.services.content = SteppedBody(size=None)
        self.assertIsNone(self.ask(BLOB, method="HEAD").header("Content-Length"))
        self.services.content = body = SteppedBody(size=None)
        client = self.client().send(request(BLOB, "Range: bytes=0-1"))
        body.give(100)
        body.give(0)
        (reply,) = client.replies()
        self.assertEqual((reply.status, reply.body, reply.whole), (200, CONTENT[:100], True))

    def test_empty(self) -> None:
        """An empty content has a length of 0, and no byte to range over."""
        self.services.content = b""
        reply = self.ask(BLOB)
        self.assertEqual((reply.status, reply.header("Content-Length")), (200, "0"))
        self.assertEqual(self.ask(BLOB, "Range: bytes=0-").header("Content-Range"), "bytes */0")

    def test_closed(self) -> None:
        """Whatever becomes of a request, what was opened for it is closed."""
        for fields, status in (
            (["Range: bytes=999999-"], 416),
            (["Range: bytes=0-0"], 206),
        ):
            body = SteppedBody()
            self.services.content = body
            client = self.client().send(request(BLOB, *fields))
            if status == 206:
                body.give(1)
            self.assertEqual(([reply.status for reply in client.replies()], body.closed), ([status], True))


class ConditionTests(RegistryTestCase):
    """Conditional requests."""

    def test_not_modified(self) -> None:
        """A 304 has what a 200 would have said of freshness, and no length and no body."""
        for target in (BLOB, _MANIFEST, _TAG):
            for method in ("GET", "HEAD"):
                for value in (_ETAG, "W/" + _ETAG, f'"x", {_ETAG}', "*", str(DIGEST)):
                    reply = self.ask(target, f"If-None-Match: {value}", method=method)
                    self.assertEqual((reply.status, reply.body), (304, b""))
                    self.assertEqual(reply.header("ETag"), _ETAG)
                    self.assertIsNotNone(reply.header("Cache-Control"))
                    self.assertIsNotNone(reply.header("Cache-Status"))
                    self.assertIsNone(reply.header("Content-Length"))
                    self.assertIsNone(reply.header("Transfer-Encoding"))

    def test_modified(self) -> None:
        """Another tag is no match."""
        for value in ('"x"', str(DIGEST)[:-1], f'"{str(DIGEST)[:-1]}"'):
            self.assertEqual(self.ask(BLOB, f"If-None-Match: {value}").status, 200)

    def test_before_ranges(self) -> None:
        """A condition is looked at first (RFC 9110 §13.2.2)."""
        self.assertEqual(self.ask(BLOB, f"If-None-Match: {_ETAG}", "Range: bytes=0-1").status, 304)
        self.assertEqual(self.ask(BLOB, f"If-None-Match: {_ETAG}", "Range: bytes=999999-").status, 304)

    def test_failed(self) -> None:
        """``If-Match`` compares strongly."""
        self.assertEqual(self.ask(BLOB, f"If-Match: {_ETAG}").status, 200)
        for value in ('"x"', "W/" + _ETAG):
            self.assert_refused(self.ask(BLOB, f"If-Match: {value}"), 412)
            self.assertEqual(self.ask(BLOB, f"If-Match: {value}", method="HEAD").status, 412)

    def test_asked_all_the_same(self) -> None:
        """A 304 is for those who may have it: whoever decides that is asked each time."""
        self.ask(BLOB, f"If-None-Match: {_ETAG}")
        self.assertEqual(len(self.services.asked), 1)


class RangeTests(RegistryTestCase):
    """``Range``."""

    def test_one(self) -> None:
        """One range is a 206 of exactly these bytes."""
        for asked, start, stop in (
            ("0-0", 0, 1),
            ("5-9", 5, 10),
            ("100-", 100, _SIZE),
            ("-7", _SIZE - 7, _SIZE),
            ("-99999999", 0, _SIZE),
            (f"10-{'9' * 5000}", 10, _SIZE),
            ("5-9,999999-", 5, 10),
            ("0-4,5-9", 0, 10),
        ):
            reply = self.ask(BLOB, f"Range: bytes={asked}")
            self.assertEqual(
                (reply.status, reply.header("Content-Range"), reply.body),
                (206, f"bytes {start}-{stop - 1}/{_SIZE}", CONTENT[start:stop]),
                asked,
            )
            self.assertEqual(reply.header("Content-Length"), str(stop - start))
            self.assertEqual((reply.header("ETag"), reply.header("Content-Type")), (_ETAG, OCTETS))

    def test_none(self) -> None:
        """What is not understood is ignored, and so is a range of a HEAD or of a manifest."""
        for asked in ("lines=0-1", "bytes=", "bytes=9-5", "bytes=a-b", "bytes 0-1", "bytes=-"):
            reply = self.ask(BLOB, f"Range: {asked}")
            self.assertEqual((reply.status, reply.body), (200, CONTENT), asked)
        for target, method in ((BLOB, "HEAD"), (_MANIFEST, "GET"), (_TAG, "GET")):
            reply = self.ask(target, "Range: bytes=0-1", method=method)
            self.assertEqual((reply.status, reply.header("Content-Length")), (200, str(_SIZE)))
            self.assertIsNone(reply.header("Content-Range"))

    def test_unsatisfiable(self) -> None:
        """No byte of it, or too many parts: 416, with the size."""
        many = ",".join(f"{start}-{start}" for start in range(0, 130, 2))
        for asked in (f"{_SIZE}-", "-0", many, "9" * 5000 + "-"):
            reply = self.ask(BLOB, f"Range: bytes={asked}")
            self.assert_refused(reply, 416, "RANGE_INVALID")
            self.assertEqual(reply.header("Content-Range"), f"bytes */{_SIZE}")
            self.assertEqual((reply.header("Accept-Ranges"), reply.header("ETag")), ("bytes", _ETAG))
            self.assertIsNone(reply.header("Docker-Content-Digest"))

    def test_if_range(self) -> None:
        """Only a strong match keeps the range."""
        self.assertEqual(self.ask(BLOB, "Range: bytes=0-1", f"If-Range: {_ETAG}").status, 206)
        for value in ("W/" + _ETAG, '"x"', "Wed, 21 Oct 2015 07:28:00 GMT"):
            reply = self.ask(BLOB, "Range: bytes=0-1", f"If-Range: {value}")
            self.assertEqual((reply.status, reply.body), (200, CONTENT))

    def test_several(self) -> None:
        """Several are ``multipart/byteranges``, in the order asked for, and of exactly the length that is said."""
        reply = self.ask(BLOB, "Range: bytes=100-199, 0-9, -5")
        self.assertEqual((reply.status, reply.whole), (206, True))
        self.assertEqual(reply.header("Content-Type"), f"multipart/byteranges; boundary={BOUNDARY}")
        self.assertEqual(reply.header("Content-Length"), str(len(reply.body)))
        self.assertIsNone(reply.header("Content-Range"))
        self.assertEqual(
            _parts(reply),
            [
                (f"bytes 100-199/{_SIZE}", OCTETS, CONTENT[100:200]),
                (f"bytes 0-9/{_SIZE}", OCTETS, CONTENT[:10]),
                (f"bytes {_SIZE - 5}-{_SIZE - 1}/{_SIZE}", OCTETS, CONTENT[-5:]),
            ],
        )

    def test_connection_goes_on(self) -> None:
        """The client finds the end of a multipart body by its length: the next answer follows."""
        client = self.client().send(request(BLOB, "Range: bytes=0-0,5-5") + request("/"))
        self.assertEqual([reply.status for reply in client.replies()], [206, 200])

    @settings(max_examples=50, deadline=None)
    @given(st.lists(st.tuples(st.integers(0, 300), st.integers(0, 300)), min_size=1, max_size=8), st.binary())
    def test_any(self, pairs: list[tuple[int, int]], content: bytes) -> None:
        """Whatever is asked for, what comes are those bytes and no others."""
        self.services.content = MemoryBody(content)
        asked = ",".join(f"{first}-{last}" for first, last in pairs)
        reply = self.ask(BLOB, f"Range: bytes={asked}")
        wanted = {place for first, last in pairs for place in range(first, last + 1) if place < len(content)}
        if any(first > last for first, last in pairs):
            self.assertEqual((reply.status, reply.body), (200, content))
        elif not wanted:
            self.assertEqual(reply.status, 416)
        else:
            single = (reply.header("Content-Range") or "", OCTETS, reply.body)
            parts = [single] if single[0] else _parts(reply)
            got: set[int] = set()
            for place, _, data in parts:
                first, last = (int(number) for number in place.split()[1].partition("/")[0].split("-"))
                self.assertEqual(data, content[first : last + 1])
                self.assertFalse(got & set(range(first, last + 1)))
                got |= set(range(first, last + 1))
            self.assertEqual((reply.status, got), (206, wanted))
