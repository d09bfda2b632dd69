"""Tests for :mod:`contentcache.registry.fast_path`: parts, with it and without it."""

from __future__ import annotations

import os

from contentcache.delivery.hot_blobs import LARGEST
from tests.delivery.in_memory import REPOSITORY
from tests.registry.harness import Client, Reply, request
from tests.registry.test_fast_path import CONTENT, CacheTestCase

_LONG = LARGEST + 20_000


class WithoutFastPathTests(CacheTestCase):
    """Without the fast path."""

    def lines_of(self, reply: Reply) -> dict[str, str]:
        """The head of an answer but for its date and id."""
        told = {name.decode(): value[0].decode() for name, value in reply.headers.getAllRawHeaders()}
        self.assertIn("GMT", told.pop("Date"))
        self.assertRegex(told.pop("X-Request-Id"), "^[0-9a-f]{16}$")
        return told

    def test_part(self) -> None:
        """A part comes with the head that it always has."""
        reply = self.ask(self.ann, "Range: bytes=10-19")
        self.assertEqual((reply.status, reply.body), (206, CONTENT[10:20]))
        self.assertEqual(
            self.lines_of(reply),
            {
                "Docker-Distribution-Api-Version": "registry/2.0",
                "X-Content-Type-Options": "nosniff",
                "Content-Type": "application/octet-stream",
                "Docker-Content-Digest": str(self.digest),
                "ETag": f'"{self.digest}"',
                "Cache-Control": "private, max-age=31536000, immutable",
                "Cache-Status": "contentcache; hit",
                "Accept-Ranges": "bytes",
                "Content-Length": "10",
                "Content-Range": "bytes 10-19/1000",
            },
        )
        self.assert_fast()

    def test_spelt(self) -> None:
        """From somewhere on, the last bytes, beyond the end, the whole as a part, in lower case."""
        for wanted, start, stop in (
            ("990-", 990, 1000),
            ("-10", 990, 1000),
            ("-5000", 0, 1000),
            ("995-2000", 995, 1000),
            ("0-999", 0, 1000),
            ("0-", 0, 1000),
            ("000000000-0", 0, 1),
            ("999-999999999999999999", 999, 1000),
        ):
            for name in ("Range: ", "range:", "Range:\t "):
                reply = self.ask(self.ann, f"{name}bytes={wanted}")
                self.assertEqual((reply.status, reply.body), (206, CONTENT[start:stop]), wanted)
                self.assertEqual(reply.header("Content-Range"), f"bytes {start}-{stop - 1}/1000")
                self.assert_fast()

    def test_other_answers(self) -> None:
        """None there is, more than one, nothing that can be read, a condition: what it always was."""
        for fields, status, size in (
            (("Range: bytes=1000-",), 416, None),
            (("Range: bytes=1000-2000",), 416, None),
            (("Range: bytes=-0",), 416, None),
            (("Range: bytes=9-0",), 200, 1000),
            (("Range: bytes=-",), 200, 1000),
            (("Range: bytes=0-9999999999999999999999",), 206, 1000),
            (("Range: lines=0-9",), 200, 1000),
            (("Range: bytes=0-9, 20-29",), 206, None),
            (("Range: bytes=0-9", "Range: bytes=20-29"), 400, None),
            (("Range: bytes=0-9", 'If-Range: "another"'), 200, 1000),
            (("Range: bytes=0-9", "Unknown: x"), 206, 10),
        ):
            reply = self.ask(self.ann, *fields)
            self.assertEqual(reply.status, status, fields)
            if size is not None:
                self.assertEqual(len(reply.body), size, fields)
            if status == 416:
                self.assertEqual(reply.header("Content-Range"), "bytes */1000")
        for field in ("Range: bytes=0-9\r\n folded: x", "Range : bytes=0-9"):
            self.assertEqual(self.ask(self.ann, field).status, 400, field)

    def test_head(self) -> None:
        """``HEAD`` tells of the whole, whatever part is asked for."""
        whole = self.ask(self.ann, method="HEAD")
        part = self.ask(self.ann, "Range: bytes=0-9", method="HEAD")
        self.assertEqual((part.status, self.lines_of(part)), (200, self.lines_of(whole)))
        self.assert_fast(2)

    def test_one_after_the_other(self) -> None:
        """The whole and parts in turn, on one connection, in one piece."""
        mine = f"Authorization: {self.ann}"
        wanted = ("Range: bytes=0-4", mine), (mine,), (mine, "Range: bytes=5-9"), (mine,)
        client = Client(self.factory)
        for fields in wanted:
            self.assertEqual(client.ask(self.path, *fields).status, 206 if len(fields) > 1 else 200)
        client.transport.clear()
        found = client.send("".join(request(self.path, *fields) for fields in wanted)).replies()
        self.assertEqual([len(reply.body) for reply in found], [5, 1000, 5, 1000])
        self.there.clock.advance(0)
        self.assert_fast(8)

    def test_of_a_large_one(self) -> None:
        """A small part of a large blob; the whole of one comes as it always does."""
        content = os.urandom(_LONG)
        path = f"/v2/{REPOSITORY}/blobs/{self.there.origin.put_blob(REPOSITORY, content)}"
        for _ in range(2):
            self.assertEqual(self.ask(self.ann, path=path).body, content)
        self.forget()
        for start, length in ((0, 1), (0, 16_384), (_LONG - 16_384, 16_384), (4096, 1000)):
            reply = self.ask(self.ann, f"Range: bytes={start}-{start + length - 1}", path=path)
            self.assertEqual((reply.status, reply.body), (206, content[start : start + length]))
            self.assert_fast()
        head = self.ask(self.ann, path=path, method="HEAD")
        self.assertEqual(head.header("Content-Length"), str(_LONG))
        self.assert_fast()
        for fields in ((), ("Range: bytes=0-",), (f"Range: bytes=10-{LARGEST + 10}",)):
            reply = self.ask(self.ann, *fields, path=path)
            self.assertEqual(content.find(reply.body), 10 if "10-" in "".join(fields) else 0)
            self.assertGreater(len(reply.body), LARGEST)

    def test_noted(self) -> None:
        """Access log and metrics have what they always have."""
        self.ask(self.ann, "Range: bytes=10-19")
        (line,) = self.lines
        self.assertEqual((line.method, line.status, line.sent, line.cache), ("GET", 206, 10, "hit"))
        after = self.there.meter.text().decode()
        for told in (
            'contentcache_http_requests_total{code="206",kind="blobs",method="GET"} 1.0',
            'contentcache_pulls_total{cache="hit",kind="blobs",registry="one.example"} 2.0',
            'contentcache_sent_bytes_total{kind="blobs",registry="one.example"} 2010.0',
        ):
            self.assertIn(told, after)

    def test_strangers(self) -> None:
        """A part is as private as the whole."""
        for who in (self.bob, None):
            self.assertIn(self.ask(who, "Range: bytes=0-0").status, {401, 403, 404}, who)


class FastPathTests(WithoutFastPathTests):
    """With the fast path."""

    fast = True
