"""Parts of a blob that nobody has fetched whole."""

from __future__ import annotations

from unittest.mock import patch

from contentcache.delivery.download import Download
from contentcache.delivery.download_file import DownloadFile
from contentcache.delivery.segments import Segments
from tests.delivery.in_memory import REPOSITORY, InMemoryCacheTestCase

MIB = 1 << 20
CONTENT = bytes(range(256)) * (40 * MIB // 256)


class SegmentTests(InMemoryCacheTestCase):
    """Far parts, asked for on their own."""

    def setUp(self) -> None:
        """An origin that has a large blob."""
        self.here = self.make_cache()
        self.digest = self.here.origin.put_blob(REPOSITORY, CONTENT)

    def ranges(self) -> list[str]:
        """The ranges that upstream was asked for."""
        return [asked.headers.get("range", "all") for asked in self.here.origin.asked("GET")]

    def test_glance(self) -> None:
        """A few bytes far away cost a HEAD and those bytes, rounded to a block; the end of the blob, too."""
        size = len(CONTENT)
        middle = self.here.pull(self.digest, part=(9_000_000, 9_000_100), whole=False, small_part=True)
        self.assertEqual((middle.outcome, bytes(middle.got)), ("whole", CONTENT[9_000_000:9_000_100]))
        tail = self.here.pull(self.digest, part=(size - 50, size), whole=False, small_part=True)
        self.assertEqual((tail.outcome, bytes(tail.got)), ("whole", CONTENT[-50:]))
        self.assertEqual(self.ranges(), ["bytes=8998912-9000099", f"bytes={size - 4096}-{size - 1}"])

    def test_each_byte_once(self) -> None:
        """The same part again is not fetched again, though the fetch was put away between the two."""
        for _ in range(3):
            client = self.here.pull(self.digest, part=(20 * MIB, 21 * MIB), whole=False, small_part=True)
            self.assertEqual(bytes(client.got), CONTENT[20 * MIB : 21 * MIB])
        self.assertEqual(len(self.ranges()), 1)

    def test_chunks_that_hang_up(self) -> None:
        """Open-ended requests for every chunk, hung up after it, bring every byte once; then the blob is there."""
        chunk = 4 * MIB
        for start in range(0, len(CONTENT), chunk):
            client = self.here.pull(self.digest, part=(start, start + chunk), whole=False)
            self.here.later(1)
            self.assertEqual(bytes(client.got), CONTENT[start : start + chunk], start)
        self.here.later(1)
        self.assertEqual(
            self.here.meter_of_registries.registry.get_sample_value(
                "contentcache_received_bytes_total", {"registry": "one.example", "kind": "blobs"}
            ),
            len(CONTENT),
        )
        asked = len(self.ranges())
        self.assertWhole(self.here.pull(self.digest), CONTENT)
        self.assertEqual(len(self.ranges()), asked)

    def test_filled_up(self) -> None:
        """Once a share of it is there, the rest is fetched too."""
        client = self.here.pull(self.digest, part=(10 * MIB, 30 * MIB), whole=False)
        self.here.later(2)
        self.assertEqual(client.outcome, "whole")
        asked = len(self.ranges())
        self.assertWhole(self.here.pull(self.digest), CONTENT)
        self.assertEqual(len(self.ranges()), asked)

    def test_resumed_near_the_end(self) -> None:
        """The last bytes of a download that is resumed near its end wait for the whole: that is fetched for it."""
        start = len(CONTENT) - 100_000
        client = self.here.pull(self.digest, part=(start, None), whole=False)
        self.here.later(2)
        self.assertEqual((client.outcome, bytes(client.got)), ("whole", CONTENT[start:]))
        asked = len(self.ranges())
        self.assertWhole(self.here.pull(self.digest), CONTENT)
        self.assertEqual(len(self.ranges()), asked)

    def test_far_from_a_running_fetch(self) -> None:
        """A part far ahead of a fetch that stalls is answered at once."""
        self.here.origin.misbehave("stall", method="GET", times=1, at=MIB)
        whole = self.here.pull(self.digest)
        self.assertIsNone(whole.outcome)
        far = self.here.pull(self.digest, part=(30 * MIB, 30 * MIB + 10), whole=False, small_part=True)
        self.assertEqual((far.outcome, bytes(far.got)), ("whole", CONTENT[:10]))
        self.here.later(60)
        self.assertWhole(whole, CONTENT)

    def test_wrong_bytes_far_away(self) -> None:
        """A blob of which a segment is wrong is never completed from what is wrong, and fetched anew."""
        self.here.origin.misbehave("wrong", method="GET", times=1, at=100)
        self.here.pull(self.digest, part=(20 * MIB, 21 * MIB), whole=False, small_part=True)
        client = self.here.pull(self.digest)
        self.here.later(5)
        self.assertIn(client.outcome, {"whole", "short"})
        if client.outcome == "whole":
            self.assertEqual(bytes(client.got), CONTENT)
        self.assertWhole(self.here.pull(self.digest), CONTENT)

    def test_ranges_ignored(self) -> None:
        """An upstream that answers every range with everything is streamed, and the part is served from that."""
        self.here.origin.misbehave("whole", method="GET")
        client = self.here.pull(self.digest, part=(20 * MIB, 20 * MIB + 5), whole=False, small_part=True)
        self.here.later(2)
        self.assertEqual((client.outcome, bytes(client.got)), ("whole", CONTENT[:5]))

    def test_refused(self) -> None:
        """A part is nobody's who may not have the whole: the refusal is the origin's."""
        here = self.make_cache(auth="basic")
        digest = here.origin.put_blob(REPOSITORY, CONTENT[:MIB])
        ann = here.origin.let("ann", "secret", REPOSITORY)
        self.assertEqual(
            here.pull(digest, ann, part=(5000, 5010), whole=False, small_part=True).outcome, "whole"
        )
        refused = here.pull(digest, part=(5000, 5010), whole=False, small_part=True)
        self.assertRefused(refused, 401)
        self.assertIn("WWW-Authenticate", getattr(refused.outcome, "headers", {}), "with its challenge")

    def test_segment_that_fails(self) -> None:
        """Every reader whose bytes cannot be had hears so, though nothing of the download has changed meanwhile."""
        self.here.pull(self.digest, part=(9_000_000, 9_000_100), whole=False, small_part=True)
        self.here.origin.misbehave("status", method="GET", status=404)
        self.here.origin.misbehave("slow", method="GET", seconds=1.0)
        clients = [
            self.here.pull(self.digest, part=(start, start + 10), whole=False, small_part=True)
            for start in (20 * MIB, 20 * MIB, 30 * MIB)
        ]
        self.here.later(5)
        self.assertEqual([client.outcome for client in clients], ["short"] * 3)


class DefectTests(InMemoryCacheTestCase):
    """A defect in the code of a segment is the end of what waits for it, and of nothing else."""

    def test_at_each_step(self) -> None:
        """Whatever raises, the reader's response ends short, the download ends, and the next pull is whole."""
        steps = [
            (Segments, "_fill"),
            (Segments, "_receive"),
            (Segments, "_check"),
            (DownloadFile, "_write_in_thread"),
            (Download, "arrived"),
        ]
        for owner, name in steps:
            cache = self.make_cache()
            digest = cache.origin.put_blob(REPOSITORY, CONTENT)
            with patch.object(owner, name, side_effect=RuntimeError(name)):
                client = cache.pull(digest, part=(20 * MIB, 21 * MIB), whole=False)
                cache.later(1)
                if client.outcome is None:
                    client.leave()  # nothing tells it of what has come
            cache.later(1)
            self.assertNotEqual(client.outcome, "whole", name)
            self.assertEqual(cache.running_downloads, 0, name)
            self.assertEqual({str(failure.value) for failure in self.flushLoggedErrors()}, {name})
            self.assertWhole(cache.pull(digest), CONTENT)
            cache.later(1)

    def test_next_segment_cannot_start(self) -> None:
        """Where the next segment cannot be started, the reader of the last one is served, and the download ends."""
        cache = self.make_cache()
        digest = cache.origin.put_blob(REPOSITORY, CONTENT)
        start_more = Segments._start_more
        calls: list[Segments] = []

        def fail_at_the_second(segments: Segments) -> None:
            calls.append(segments)
            if len(calls) == 2:
                raise RuntimeError("no more")
            start_more(segments)

        with patch.object(Segments, "_start_more", fail_at_the_second):
            client = cache.pull(digest, part=(30 * MIB, 30 * MIB + 10), whole=False, small_part=True)
        self.assertEqual(client.outcome, "whole")
        cache.later(1)
        self.assertEqual(cache.running_downloads, 0)
        self.assertEqual(len(self.flushLoggedErrors(RuntimeError)), 1)
