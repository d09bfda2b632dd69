"""Room that is reserved for downloads."""

from __future__ import annotations

from twisted.internet.defer import Deferred

from contentcache.core.digest import Digest
from contentcache.storage.evictor import Evictor
from contentcache.storage.interfaces import BlobRecord, Reservation
from contentcache.storage.partial_files import origin_tag
from tests.storage.suites import ORIGIN
from tests.storage.test_evictor import EvictorTestCase

TAG = origin_tag(ORIGIN)


def wanted(key: str, size: int, content: bytes | None = None) -> Reservation:
    """Room for a content of a name, or of these bytes."""
    return Reservation(key, Digest.of(key.encode() if content is None else content), TAG, size)


class ReservationTests(EvictorTestCase):
    """A store of 100 bytes, or a disk of 100 bytes."""

    def reserve(self, evictor: Evictor, reservation: Reservation) -> bool:
        """Whether there is room."""
        return self.successResultOf(Deferred.fromCoroutine(evictor.reserve(reservation))) is None

    def test_over_all_downloads(self) -> None:
        """What is reserved counts as if it had come, until it is given up."""
        evictor = self.evictor(maxsize=100)
        self.assertTrue(self.reserve(evictor, wanted("a", 60)))
        self.assertFalse(self.reserve(evictor, wanted("b", 60)))
        self.assertTrue(self.reserve(evictor, wanted("c", 40)))
        self.assertFalse(self.make_room(evictor, 1))
        evictor.release("a")
        self.assertTrue(self.reserve(evictor, wanted("b", 60)))

    def test_free_space_over_all_downloads(self) -> None:
        """``minfree`` is left when all that is reserved has come; what is written is not owed twice."""
        self.capacity = 100
        evictor = self.evictor(minfree=30)
        content = b"x" * 50
        self.assertTrue(self.reserve(evictor, wanted("a", 50, content)))
        self.store.resume(Digest.of(content), ORIGIN).write(0, content[:40])
        self.assertTrue(self.reserve(evictor, wanted("b", 20)))
        self.assertFalse(self.reserve(evictor, wanted("c", 1)))

    def test_evicts_what_nobody_reads(self) -> None:
        """The least recently pulled blobs make room, and only where that is enough."""
        evictor = self.evictor(maxsize=100)
        old, young = self.put(b"o" * 40, pulled=1.0), self.put(b"y" * 40, pulled=2.0)
        self.assertFalse(self.reserve(evictor, wanted("a", 101)))
        self.assertEqual(self.kept(), {old, young})
        self.assertTrue(self.reserve(evictor, wanted("a", 60)))
        self.assertEqual(self.kept(), {young})
        self.used.add(young)
        self.assertFalse(self.reserve(evictor, wanted("b", 1)))
        self.assertEqual(self.kept(), {young})

    def test_grows(self) -> None:
        """A reservation is enlarged; one that cannot be stays as it was."""
        evictor = self.evictor(maxsize=100)
        self.assertTrue(self.reserve(evictor, wanted("a", 10)))
        self.assertTrue(self.reserve(evictor, wanted("a", 50)))
        self.assertTrue(self.reserve(evictor, wanted("b", 50)))
        self.assertFalse(self.reserve(evictor, wanted("a", 51)))
        self.assertTrue(self.reserve(evictor, wanted("a", 20)))
        evictor.release("b")
        self.assertFalse(self.reserve(evictor, wanted("b", 51)))
        self.assertTrue(self.reserve(evictor, wanted("b", 50)))

    def test_partial_file_of_an_earlier_run(self) -> None:
        """What a download resumes counts within its reservation, and is not evicted for it."""
        evictor = self.evictor(maxsize=100)
        content = b"p" * 70
        self.partial(content)
        self.assertTrue(self.reserve(evictor, wanted("a", 100, content)))
        self.assertEqual(len(list(self.store.partials())), 1)

    def test_committed(self) -> None:
        """A blob that has its record counts once, while its download is still ending."""
        evictor = self.evictor(maxsize=100)
        content = b"c" * 60
        self.assertTrue(self.reserve(evictor, wanted("a", 60, content)))
        self.partial(content)
        self.index.record([BlobRecord(Digest.of(content), 60, self.wall(), verified=False)])
        self.assertTrue(self.reserve(evictor, wanted("b", 40)))

    def test_of_a_worker_that_ended(self) -> None:
        """What a worker has reserved ends with it."""
        evictor = self.evictor(maxsize=100)
        self.assertTrue(self.reserve(evictor, wanted("1:1", 60)))
        self.assertTrue(self.reserve(evictor, wanted("11:1", 40)))
        evictor.release_all("1:")
        self.assertTrue(self.reserve(evictor, wanted("2:1", 60)))
        self.assertFalse(self.reserve(evictor, wanted("2:2", 1)))

    def test_released_while_room_is_made(self) -> None:
        """A reservation that is given up while room is made for it is not there afterwards."""
        evictor = self.evictor(maxsize=100)
        self.between["_count"] = lambda: evictor.release("a")
        self.assertFalse(self.reserve(evictor, wanted("a", 60)))
        self.assertTrue(self.reserve(evictor, wanted("b", 100)))

    def test_unlinked_and_still_open(self) -> None:
        """
        What a download left in a file that is unlinked and still open counts until it is closed, though the
        blob is stored from another origin; blobs are not evicted where that would not be enough.
        """
        evictor = self.evictor(maxsize=100)
        content = b"u" * 30
        self.assertTrue(self.reserve(evictor, wanted("a", 90, content)))
        evictor.shrink("a", 20, unlinked=True)
        stored = self.put(content)
        self.assertFalse(self.reserve(evictor, wanted("b", 81)))
        self.assertEqual(self.kept(), {stored})
        self.assertTrue(self.reserve(evictor, wanted("b", 50)))
        self.assertEqual(self.kept(), {stored})
        self.assertFalse(self.make_room(evictor, 31))
        evictor.release("a")
        self.assertTrue(self.make_room(evictor, 20))
        self.assertEqual(self.kept(), {stored})

    def test_shrinks_only(self) -> None:
        """What a download left is never more than it had reserved, and nothing where it had not."""
        evictor = self.evictor(maxsize=100)
        self.assertTrue(self.reserve(evictor, wanted("a", 40)))
        evictor.shrink("a", 70, unlinked=False)
        evictor.shrink("c", 70, unlinked=False)
        self.assertTrue(self.reserve(evictor, wanted("b", 60)))

    def test_resumed_while_it_is_read(self) -> None:
        """A partial file that one download left to its readers and the next one resumes counts once."""
        evictor = self.evictor(maxsize=100)
        content = b"r" * 60
        self.assertTrue(self.reserve(evictor, wanted("a", 60, content)))
        self.partial(content[:40])
        evictor.shrink("a", 40, unlinked=False)
        self.assertTrue(self.reserve(evictor, wanted("b", 60, content)))
        self.assertTrue(self.reserve(evictor, wanted("c", 40)))
        self.assertFalse(self.reserve(evictor, wanted("d", 1)))

    def test_opened_while_it_is_deleted(self) -> None:
        """A blob that was opened just before it was deleted has freed nothing, until its reader closes it."""
        evictor = self.evictor(maxsize=100)
        digest = self.put(b"o" * 60)
        self.between["_delete"] = lambda: self.used.add(digest)
        self.assertFalse(self.reserve(evictor, wanted("a", 50)))
        self.assertEqual(self.kept(), set())
        self.assertFalse(self.reserve(evictor, wanted("a", 50)))
        self.used.clear()
        self.assertTrue(self.reserve(evictor, wanted("a", 100)))
