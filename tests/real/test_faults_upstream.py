"""An upstream that breaks off, stalls, lies and vanishes, the only one before the real daemon."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from functools import partial
from typing import Any

from tests.real.clients import Fetched
from tests.real.faulty import HALF, SIZE, FaultsTestCase, deaf
from tests.real.programs import needs, until
from tests.real.unruly import ask, blob_url

_PARTIAL_FILE = 18  # what curl says of a body that ended before its end, by FIN


@needs("curl")
class OneHostTests(FaultsTestCase):
    """The only upstream there is."""

    def test_breaks_off(self) -> None:
        """A reset or a short body at any byte: clients notice nothing, and each byte is fetched once."""
        cases = [("reset", -1)]
        cases += [(kind, at) for kind in ("reset", "short") for at in (0, 1, HALF, SIZE - 1)]
        self.build(1, len(cases))
        for number, (kind, at) in enumerate(cases):
            digest = self.upstream.digests[number]
            self.upstream.misbehave(kind, digest, at=at, times=1)
            before = self.cache.metric("contentcache_received_bytes_total")
            self.assert_whole(self.pull(number), number)
            first, second = self.upstream.ranges(digest)
            self.assertEqual(first, 0)
            # What is on its way when a connection is reset may get lost.
            self.assertIn(second, {max(at, 0)} if kind == "short" else range(max(at, 0) + 1), (kind, at))
            self.assertEqual(self.cache.metric("contentcache_received_bytes_total") - before, SIZE)
            self.until_stored(number)

    def test_breaks_off_again_and_again(self) -> None:
        """A line that carries a few bytes at a time carries a blob."""
        self.build(1, 1)
        self.upstream.misbehave("reset", at=SIZE // 10, times=7)
        self.assert_whole(self.pull(0), 0)
        self.assertEqual(len(self.upstream.ranges(self.upstream.digests[0])), 8)

    def test_stalls(self) -> None:
        """A stall in a body is given up after ``stalltimeout``; the rest comes in the same response."""
        offsets = (0, 1, HALF, SIZE - 1)
        self.build(1, len(offsets))
        for digest, at in zip(self.upstream.digests, offsets, strict=True):
            self.upstream.misbehave("stall", digest, at=at, times=1)
        running = [self.curl.start(blob_url(self.cache.url, digest)) for digest in self.upstream.digests]
        for one, blob in zip(running, self.blobs, strict=True):
            fetched = one.result()
            self.assertEqual((fetched.status, fetched.ended), (200, 0))
            self.assertEqual(fetched.body.read_bytes(), blob)

    def test_silent_before_the_head(self) -> None:
        """An upstream that says nothing is 504 after ``stalltimeout``, and asked again at once."""
        self.build(1, 1)
        self.upstream.misbehave("stall", at=-1)
        self.assert_error(self.pull(0), 504)
        self.upstream.behave()
        self.assert_whole(self.pull(0), 0)

    def test_errors_that_pass(self) -> None:
        """A 5xx before the first byte is asked again once; in the middle more often."""
        self.build(1, 4)
        for number, status in enumerate((500, 502)):
            self.upstream.misbehave("status", self.upstream.digests[number], status=status, times=1)
            self.assert_whole(self.pull(number), number)
        (fetched,) = self.in_the_middle(
            [2], [partial(self.upstream.misbehave, "status", status=503, times=2)]
        )
        self.assertEqual((fetched.ended, fetched.body.read_bytes()), (0, self.blobs[2]))

    def test_errors_that_stay(self) -> None:
        """A 5xx that stays is an error in the registry's form; ``Retry-After`` of a 503 is passed on."""
        self.build(1, 1)
        self.upstream.misbehave("status", status=503, retry_after="7")
        read = self.pull(0)
        self.assert_error(read, 503)
        self.assertIn("\r\nretry-after: 7", read.head.lower())
        self.upstream.behave()
        self.upstream.misbehave("status", status=500)
        self.assert_error(self.pull(0), 502)
        self.upstream.behave()
        self.assert_whole(self.pull(0), 0)

    def test_too_many_requests(self) -> None:
        """A 429 is passed on, remembered, and answered here until its ``Retry-After`` is over."""
        self.build(1, 1)
        self.upstream.misbehave("status", status=429, retry_after="2")
        for _ in range(3):
            read = self.pull(0)
            self.assertEqual(read.status, 429)
            self.assertRegex(read.head.lower(), r"\r\nretry-after: [12]")
        self.assertEqual(len(self.upstream.asked()), 1)
        self.upstream.behave()
        until(lambda: self.pull(0).status == 200, "the end of its patience", every=0.2)

    def test_range_answered_whole(self) -> None:
        """A 200 to a question for the rest is understood: what is there already is passed over."""
        self.build(1, 2)
        for number, at in enumerate((1, HALF)):
            digest = self.upstream.digests[number]
            self.upstream.misbehave("reset", digest, at=at, times=1)
            self.upstream.misbehave("whole", digest)
            self.assert_whole(self.pull(number), number)

    def test_another_answer_in_the_middle(self) -> None:
        """
        A 416 or another length to a question for the rest: no client completes anything wrong, and a pull
        that begins anew is whole.
        """
        manners: list[tuple[str, dict[str, Any]]] = [
            ("unsatisfiable", {}),
            ("unsatisfiable", {"size": 17}),
            ("resized", {"by": 10}),
            ("resized", {"by": -10}),
            ("portal", {}),
            ("without", {"header": "Content-Range"}),
            ("with", {"header": "Content-Range", "value": "bytes 0-1/x"}),
        ]
        self.build(1, len(manners))
        then = [partial(self.upstream.misbehave, name, times=1, **more) for name, more in manners]
        for number, fetched in enumerate(self.in_the_middle(range(len(manners)), then)):
            self.assertIn(fetched.ended, {0, _PARTIAL_FILE}, manners[number])
            body = fetched.body.read_bytes()
            self.assertEqual(body, self.blobs[number][: len(body)], manners[number])
            self.assertEqual(fetched.ended == 0, len(body) == SIZE, manners[number])
            self.assert_whole(self.pull(number), number)

    def test_lies_about_little(self) -> None:
        """
        Wrong bytes from the only upstream: nobody completes them, nothing is stored, the next minute's
        requests for this blob are 502 at once, and others are served.
        """
        self.build(1, 2, size=3000)
        digest = self.upstream.digests[0]
        self.upstream.misbehave("wrong", digest)
        self.assert_short(self.pull(0), 0)
        self.assert_nothing_kept(0)
        self.assert_error(self.pull(0), 502)
        self.assertEqual(len(self.upstream.asked(digest, "GET")), 1)
        self.assert_whole(self.pull(1), 1)

    def test_portal(self) -> None:
        """The page of a hotel's portal, with 200, reaches nobody and is not kept."""
        self.build(1, 1)
        self.upstream.misbehave("portal")
        read = self.pull(0)
        self.assertEqual((read.body, read.end), (b"", "fin"))
        self.assert_nothing_kept(0)
        self.assert_error(self.pull(0), 502)

    def test_head_says_yes_and_get_says_no(self) -> None:
        """``HEAD`` yes, ``GET`` no: the client gets the no, and nothing is kept."""
        self.build(1, 1)
        self.upstream.misbehave("status", method="GET", status=404)
        path = f"/v2/org/app/blobs/{self.upstream.digests[0]}"
        self.assertEqual(ask(self.cache.port, path, method="HEAD").status, 200)
        self.assert_error(self.pull(0), 404)
        self.assert_nothing_kept(0)
        self.upstream.behave()
        self.assert_whole(self.pull(0), 0)

    def test_framings(self) -> None:
        """Bodies in chunks, and HTTP/1.0's that end with the connection, are as good as others."""
        self.build(1, 2)
        for number, framing in enumerate(("chunked", "close")):
            self.upstream.misbehave(framing, self.upstream.digests[number])
            self.assertEqual(self.decoded(number), self.blobs[number])
            self.until_stored(number)

    def test_framings_cut(self) -> None:
        """Nobody completes a body in chunks that was cut, and the next request has it whole."""
        self.build(1, 2)
        for number, cut in enumerate(("short", "reset")):
            digest = self.upstream.digests[number]
            self.upstream.misbehave("chunked", digest)
            self.upstream.misbehave(cut, digest, at=HALF, times=1)
            fetched = self.curl.fetch(blob_url(self.cache.url, digest))
            body = fetched.body.read_bytes()
            self.assertEqual(body, self.blobs[number][: len(body)])
            self.assertEqual(fetched.ended == 0, len(body) == SIZE, cut)
            self.assertEqual(self.decoded(number), self.blobs[number])

    def test_vanishes(self) -> None:
        """
        An upstream that is gone in the middle: responses end short by FIN, the partial file stays, and the
        next request goes on from there.
        """
        self.build(1, 2)
        digest = self.upstream.digests[0]
        self.upstream.misbehave("stall", digest, at=HALF)
        running = [self.curl.start(blob_url(self.cache.url, digest)) for _ in range(3)]
        until(lambda: all(one.received() for one in running), "their first bytes")
        until(lambda: self.partial_size(0) == HALF, "half of it")
        self.upstream.process.kill9()
        for one in running:
            fetched = one.result()
            self.assertEqual((fetched.status, fetched.ended), (200, _PARTIAL_FILE))
            self.assertEqual(fetched.body.read_bytes(), self.blobs[0][: fetched.size])
        self.assertEqual(self.partial_size(0), HALF)
        self.assert_error(self.pull(1), 502, 503)
        self.upstream.start()
        self.assert_whole(self.pull(0), 0)
        self.assertEqual(self.upstream.ranges(digest), [HALF])

    def test_resumed_as_containerd_does(self) -> None:
        """A client that was ended short gets the rest at its offset, with the fetch stopped or running."""
        self.build(1, 1)
        digest = self.upstream.digests[0]
        self.upstream.misbehave("stall", digest, at=HALF)
        first = self.curl.start(blob_url(self.cache.url, digest))
        until(lambda: self.partial_size(0) == HALF, "half of it")
        self.upstream.process.kill9()
        got = first.result().body.read_bytes()
        self.assertGreater(len(got), 0)
        self.upstream.start()
        rest = ask(self.cache.port, f"/v2/org/app/blobs/{digest}", f"Range: bytes={len(got)}-")
        self.assertEqual((rest.status, rest.end), (206, "fin"))
        self.assertEqual(got + rest.body, self.blobs[0])

    def in_the_middle(self, numbers: Sequence[int], then: Sequence[Callable[..., None]]) -> Sequence[Fetched]:
        """Pulls whose upstream stalls half-way; ``then(digest=…)`` says how it answers for the rest."""
        digests = [self.upstream.digests[number] for number in numbers]
        for digest, misbehave in zip(digests, then, strict=True):
            self.upstream.misbehave("stall", digest, at=HALF, times=1, method="GET")
            misbehave(digest=digest, method="GET", skip=1)
        running = [self.curl.start(blob_url(self.cache.url, digest)) for digest in digests]
        return [one.result() for one in running]

    def test_nobody_answers(self) -> None:
        """Where SYNs are dropped, the answer is a clear 504 within ``connecttimeout``, not silence."""
        self.blobs = []
        with ExitStack() as held:
            self.begin(f"http://127.0.0.1:{deaf(held)}")
            self.assert_error(ask(self.cache.port, f"/v2/org/app/blobs/sha256:{'0' * 64}"), 503, 504)

    def decoded(self, number: int) -> bytes:
        """A blob as curl reads it, in chunks or not; nothing if it had no proper end."""
        fetched = self.curl.fetch(blob_url(self.cache.url, self.upstream.digests[number]))
        return fetched.body.read_bytes() if fetched.ended == 0 else b""
