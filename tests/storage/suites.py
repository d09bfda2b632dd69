"""What every provider of an interface must do, whichever it is."""

from __future__ import annotations

from attrs import evolve
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.core.errors import BlobUnknown
from contentcache.storage.interfaces import (
    Affirmation,
    BlobNames,
    BlobRecord,
    Index,
    IndexLimits,
    Link,
    Store,
    StoredFile,
    Tag,
    TagRecord,
)
from contentcache.storage.partial_files import origin_tag
from contentcache.storage.repository_sizes import RepositorySize, repository_sizes

ORIGIN = "https://origin.example"
CONTENT = bytes(range(256)) * 64
DIGEST = Digest.of(CONTENT)
OTHER = Digest.of(b"other", "sha512")

LINK = Link("https://registry.example.com", "org/app", "blobs", DIGEST)
TAG = Tag("https://registry.example.com", "org/app", "latest", "application/json")


def put(store: Store, content: bytes, algorithm: str = "sha256") -> Digest:
    """Store a blob, and give its digest."""
    digest = Digest.of(content, algorithm)
    partial = store.resume(digest, ORIGIN)
    partial.write(0, content)
    partial.commit()
    partial.close()
    return digest


def numbered(number: int) -> Digest:
    """Digests in the order of their numbers."""
    return Digest("sha256", f"{number:064x}")


def record(number: int, pulled: float, size: int = 10, *, verified: bool = True) -> BlobRecord:
    return BlobRecord(numbered(number), size, pulled, verified)


class StoreSuite(SynchronousTestCase):
    """A provider's test case says how to make its store."""

    def make_store(self) -> Store:
        raise NotImplementedError

    def setUp(self) -> None:
        self.store = self.make_store()

    def test_parked(self) -> None:
        """Which runs of bytes are there is known to the next one who resumes, and to nobody after it."""
        store = self.store
        digest = numbered(1)
        partial = store.resume(digest, ORIGIN)
        self.assertEqual(list(partial.held), [])
        partial.write(0, b"a" * 10_000)
        partial.write(50_000, b"b" * 5_000)
        partial.park([(0, 10_000), (50_000, 55_000)])
        partial.close()
        again = store.resume(digest, ORIGIN)
        self.assertEqual([tuple(run) for run in again.held], [(0, 10_000), (50_000, 55_000)])
        again.discard()
        again.close()
        fresh = store.resume(digest, ORIGIN)
        self.assertEqual(list(fresh.held), [])
        fresh.discard()
        fresh.close()

    def test_unknown(self) -> None:
        """A blob that is not there is unknown, to open and to adopt, and no fault to delete."""
        self.assertRaises(BlobUnknown, self.store.open, DIGEST)
        self.assertRaises(BlobUnknown, self.store.adopt, DIGEST)
        self.store.delete(DIGEST)
        self.store.delete_partial(DIGEST, origin_tag(ORIGIN))
        self.assertEqual([*self.store.blobs(), *self.store.partials()], [])

    def test_commit(self) -> None:
        """A partial file is no blob until it is committed, then it is one, and its own reader goes on."""
        partial = self.store.resume(DIGEST, ORIGIN)
        self.assertEqual(partial.size, 0)
        partial.write(0, CONTENT)
        self.assertRaises(BlobUnknown, self.store.open, DIGEST)
        self.assertEqual([(f.digest, f.size) for f in self.store.partials()], [(DIGEST, len(CONTENT))])
        partial.commit()
        self.assertEqual(list(self.store.partials()), [])
        self.assertEqual([(f.digest, f.size) for f in self.store.blobs()], [(DIGEST, len(CONTENT))])
        self.assertEqual(partial.read(0, len(CONTENT)), CONTENT)
        blob = self.store.open(DIGEST)
        self.assertEqual(blob.size, len(CONTENT))
        self.assertEqual(blob.read(0, 1 << 40), CONTENT)
        self.assertEqual(blob.read(250, 12), CONTENT[250:262])
        self.assertEqual(blob.read(len(CONTENT) - 3, 10), CONTENT[-3:])
        self.assertEqual(blob.read(len(CONTENT) + 3, 10), b"")
        self.assertEqual(blob.read(0, 0), b"")

    def test_commit_twice(self) -> None:
        """To commit again, or over a blob that is there, leaves one blob."""
        put(self.store, CONTENT)
        partial = self.store.resume(DIGEST, ORIGIN)
        partial.write(0, CONTENT)
        partial.commit()
        partial.commit()
        self.assertEqual(len(list(self.store.blobs())), 1)
        self.assertEqual(self.store.open(DIGEST).read(0, 1 << 20), CONTENT)

    def test_both_algorithms(self) -> None:
        """Blobs of every registered algorithm are stored and listed."""
        stored = {put(self.store, CONTENT), put(self.store, CONTENT, "sha512")}
        self.assertEqual({file.digest for file in self.store.blobs()}, stored)

    def test_read_now(self) -> None:
        """A read that must not block gives the right bytes or none, at the end of the file too."""
        put(self.store, CONTENT)
        blob = self.store.open(DIGEST)
        for offset, length in [(0, 100), (1000, 5), (len(CONTENT) - 3, 100), (0, 1 << 40)]:
            self.assertIn(blob.read_now(offset, length), (CONTENT[offset : offset + length], None))
        self.assertIn(blob.read_now(len(CONTENT), 10), (b"", None))

    def test_load(self) -> None:
        """What has been brought into memory is there, at the end of the file and beyond it too."""
        put(self.store, CONTENT)
        blob = self.store.open(DIGEST)
        for offset, length in [
            (0, 100),
            (1000, 5),
            (len(CONTENT) - 3, 100),
            (len(CONTENT), 10),
            (0, 1 << 40),
        ]:
            blob.load(offset, length)
            found = CONTENT[offset : offset + length]
            self.assertIn(blob.read_now(offset, length), (found, None))
            self.assertLessEqual(blob.is_loaded(offset, length), len(found) == length)
        blob.close()

    def test_reader_of_growing_file(self) -> None:
        """What is written to a partial file can be read from it at once, in any order of writing."""
        partial = self.store.resume(DIGEST, ORIGIN)
        partial.write(4, memoryview(b"5678"))
        partial.write(0, bytearray(b"1234"))
        partial.write(8, b"")
        self.assertEqual(partial.read(0, 100), b"12345678")
        self.assertIn(partial.read_now(2, 4), (b"3456", None))

    def test_resume(self) -> None:
        """A partial file keeps its bytes for whoever resumes it, and can be cut to start again."""
        first = self.store.resume(DIGEST, ORIGIN)
        first.write(0, CONTENT[:1000])
        first.close()
        second = self.store.resume(DIGEST, ORIGIN)
        self.assertEqual(second.size, 1000)
        self.assertEqual(second.read(0, 5000), CONTENT[:1000])
        second.truncate(10)
        self.assertEqual(second.read(0, 5000), CONTENT[:10])
        second.truncate(0)
        second.write(0, CONTENT)
        second.commit()
        self.assertEqual(self.store.open(DIGEST).read(0, 1 << 20), CONTENT)

    def test_discard(self) -> None:
        """A discarded partial file is deleted, also after its commit; its open descriptor still reads."""
        for committed in (False, True):
            partial = self.store.resume(DIGEST, ORIGIN)
            partial.write(0, CONTENT)
            if committed:
                partial.commit()
            partial.discard()
            partial.discard()
            self.assertEqual([*self.store.blobs(), *self.store.partials()], [])
            self.assertEqual(partial.read(0, 4), CONTENT[:4])
            partial.close()

    def test_discard_spares_a_successor(self) -> None:
        """Who was discarded has no claim on a partial file that another one began under the same name."""
        old = self.store.resume(DIGEST, ORIGIN)
        old.write(0, b"wrong")
        old.discard()
        new = self.store.resume(DIGEST, ORIGIN)
        new.write(0, CONTENT)
        self.assertRaises(FileNotFoundError, old.commit)
        old.discard()
        new.commit()
        self.assertEqual(self.store.open(DIGEST).read(0, 1 << 20), CONTENT)

    def test_commit_without_name(self) -> None:
        """A partial file whose name was taken away cannot become a blob, and says so."""
        partial = self.store.resume(DIGEST, ORIGIN)
        partial.write(0, CONTENT)
        self.store.delete_partial(DIGEST, origin_tag(ORIGIN))
        self.assertRaises(FileNotFoundError, partial.commit)
        self.assertEqual(list(self.store.blobs()), [])

    def test_adopt(self) -> None:
        """An adopted blob has all its bytes, is not written to, stays by a commit and goes by a discard."""
        put(self.store, CONTENT)
        adopted = self.store.adopt(DIGEST)
        self.assertEqual((adopted.size, adopted.read(0, 1 << 20)), (len(CONTENT), CONTENT))
        self.assertRaises(OSError, adopted.write, 0, b"x")
        self.assertRaises(OSError, adopted.truncate, 0)
        adopted.commit()
        self.assertEqual(self.store.open(DIGEST).read(0, 1 << 20), CONTENT)
        adopted.discard()
        self.assertRaises(BlobUnknown, self.store.open, DIGEST)
        self.assertEqual(adopted.read(0, 4), CONTENT[:4])

    def test_readers_outlive_deletion(self) -> None:
        """Who reads a blob keeps its bytes when it is deleted and even stored anew."""
        put(self.store, CONTENT)
        reader = self.store.open(DIGEST)
        self.store.delete(DIGEST)
        self.assertRaises(BlobUnknown, self.store.open, DIGEST)
        put(self.store, CONTENT)
        self.assertEqual(reader.read(0, 1 << 20), CONTENT)
        reader.close()

    def test_closed(self) -> None:
        """A closed file reads nothing, and may be closed again."""
        put(self.store, CONTENT)
        blob = self.store.open(DIGEST)
        blob.close()
        blob.close()
        self.assertRaises(OSError, blob.read, 0, 1)
        partial = self.store.resume(OTHER, ORIGIN)
        partial.close()
        for action in (lambda: partial.write(0, b"x"), lambda: partial.truncate(0), partial.commit):
            self.assertRaises(OSError, action)

    def test_empty_blob(self) -> None:
        """A blob may have no bytes at all."""
        digest = put(self.store, b"")
        self.assertEqual(self.store.open(digest).read(0, 10), b"")
        self.assertEqual([file.size for file in self.store.blobs()], [0])

    def test_listing_while_things_go(self) -> None:
        """A listing goes on when what it has not reached yet is deleted."""
        for number in range(50):
            put(self.store, b"%d" % number)
        listing = self.store.blobs()
        first: StoredFile = next(listing)
        for number in range(50):
            self.store.delete(Digest.of(b"%d" % number))
        self.assertLessEqual(len([first, *listing]), 50)


class IndexSuite(SynchronousTestCase):
    """A provider's test case says how to make its index."""

    def make_index(self, limits: IndexLimits | None = None) -> Index:
        raise NotImplementedError

    def setUp(self) -> None:
        self.index = self.make_index()
        self.addCleanup(self.index.close)

    def test_nothing_known(self) -> None:
        """A new index knows nothing, and says that the store must be listed until that is done."""
        self.assertTrue(self.index.rebuilt)
        self.assertIsNone(self.index.blob(DIGEST))
        self.assertIsNone(self.index.affirmation(LINK))
        self.assertIsNone(self.index.tag(TAG))
        self.assertEqual((self.index.total(), list(self.index.least_recent(10))), (0, []))
        self.assertEqual(self.index.purge(1e12, 10), 0)
        self.index.rebuild_done()
        self.assertFalse(self.index.rebuilt)

    def test_records(self) -> None:
        """Records are kept, replaced and forgotten, and the total follows."""
        self.index.record([record(1, 100.25), record(2, 50.5, size=7, verified=False)])
        self.assertEqual(self.index.blob(numbered(1)), record(1, 100.25))
        self.assertEqual(self.index.blob(numbered(2)), record(2, 50.5, size=7, verified=False))
        self.assertEqual(self.index.total(), 17)
        self.index.record([record(2, 51.5, size=9)])
        self.assertEqual(self.index.blob(numbered(2)), record(2, 51.5, size=9))
        self.assertEqual(self.index.total(), 19)
        self.index.forget([numbered(1), numbered(3)])
        self.assertIsNone(self.index.blob(numbered(1)))
        self.assertEqual(self.index.total(), 9)
        self.index.record([])
        self.index.forget([])

    def test_touch(self) -> None:
        """A pull moves a record forward, never back, and makes none."""
        self.index.record([record(1, 100.0)])
        self.index.touch({numbered(1): 90.0, numbered(2): 100.0})
        self.assertEqual(self.index.blob(numbered(1)), record(1, 100.0))
        self.assertIsNone(self.index.blob(numbered(2)))
        self.index.touch({numbered(1): 110.0})
        self.assertEqual(self.index.blob(numbered(1)), record(1, 110.0))
        self.index.touch({})

    def test_least_recent(self) -> None:
        """The oldest come first, equal ones by digest, strictly before the bound, and batch after batch."""
        records = [record(number, float(number // 3)) for number in range(20)]
        self.index.record(reversed(records))
        self.assertEqual(list(self.index.least_recent(5)), records[:5])
        self.assertEqual(list(self.index.least_recent(100, before=2.0)), records[:6])
        seen: list[BlobRecord] = []
        while batch := self.index.least_recent(7, before=5.0, after=seen[-1] if seen else None):
            seen.extend(batch)
        self.assertEqual(seen, records[:15])
        self.assertEqual(list(self.index.least_recent(2, after=record(99, 3.5))), records[12:14])

    def test_following(self) -> None:
        """
        Records come in the order of their digests, whenever they were pulled, batch after batch; a digest
        that is not there is a place all the same.
        """
        records = [record(number, float(20 - number)) for number in range(0, 20, 2)]
        self.index.record(reversed(records))
        self.assertEqual(list(self.index.following(None, 100)), records)
        seen: list[BlobRecord] = []
        while batch := self.index.following(seen[-1].digest if seen else None, 3):
            seen.extend(batch)
        self.assertEqual(seen, records)
        self.assertEqual(list(self.index.following(numbered(5), 2)), records[3:5])
        other = BlobRecord(OTHER, 5, 1.0, verified=False)
        self.index.record([other])
        self.assertEqual(list(self.index.following(numbered(18), 2)), [other])

    def test_shift(self) -> None:
        """A jump of the clock moves all pulls along, none beyond now; later pulls are as they are."""
        self.index.record([record(1, 100.0), record(2, 150.0)])
        self.index.shift(1000.0, 1120.0)
        self.assertEqual(list(self.index.least_recent(9)), [record(1, 1100.0), record(2, 1120.0)])
        self.index.record([record(3, 1110.0)])
        self.index.touch({numbered(1): 1130.0})
        self.index.shift(-500.0, 10_000.0)
        self.assertEqual(
            list(self.index.least_recent(9)), [record(3, 610.0), record(2, 620.0), record(1, 630.0)]
        )
        self.assertEqual(list(self.index.least_recent(9, before=620.0)), [record(3, 610.0)])

    def test_future(self) -> None:
        """A shift by nothing brings pulls back that lie in the future."""
        self.index.record([record(1, 100.0), record(2, 1e9)])
        self.index.shift(0.0, 500.1)
        self.assertEqual(list(self.index.least_recent(9)), [record(1, 100.0), record(2, 500.1)])

    def test_possession(self) -> None:
        """Which origins have a blob is known as long as there is a record of it, and goes with that."""
        self.index.record_possession("https://a.example", OTHER)
        self.assertFalse(self.index.possesses("https://a.example", OTHER))
        self.index.record([evolve(record(1, 1.0), digest=OTHER)])
        for _ in range(2):
            self.index.record_possession("https://a.example", OTHER)
        self.index.record([evolve(record(1, 2.0), digest=OTHER)])
        self.assertTrue(self.index.possesses("https://a.example", OTHER))
        self.assertFalse(self.index.possesses("https://b.example", OTHER))
        self.index.forget([OTHER])
        self.index.record([evolve(record(1, 1.0), digest=OTHER)])
        self.assertFalse(self.index.possesses("https://a.example", OTHER))

    def test_links(self) -> None:
        """
        A link is one origin's, repository's, kind's and digest's; it is replaced and revoked alone. The media
        type stays where a later answer has none.
        """
        others = [
            evolve(LINK, origin="https://other.example.com"),
            evolve(LINK, repository="org/other"),
            evolve(LINK, kind="manifests"),
            evolve(LINK, digest=OTHER),
        ]
        self.index.affirm(LINK, Affirmation(5.0, "application/json"))
        for other in others:
            self.assertIsNone(self.index.affirmation(other))
            self.index.affirm(other, Affirmation(1.0, None))
        self.index.affirm(LINK, Affirmation(6.0, None))
        self.assertEqual(self.index.affirmation(LINK), Affirmation(6.0, "application/json"))
        self.index.affirm(LINK, Affirmation(7.0, "text/plain"))
        self.assertEqual(self.index.affirmation(LINK), Affirmation(7.0, "text/plain"))
        self.index.revoke(LINK)
        self.index.revoke(LINK)
        self.assertIsNone(self.index.affirmation(LINK))
        for other in others:
            self.assertEqual(self.index.affirmation(other), Affirmation(1.0, None))

    def test_links_of_digests(self) -> None:
        """The links of some digests are found, those that name no repository are not."""
        named = [LINK, evolve(LINK, repository="org/other"), evolve(LINK, kind="manifests")]
        for link in (*named, evolve(LINK, repository=""), evolve(LINK, digest=numbered(1))):
            self.index.affirm(link, Affirmation(1.0, None))
        self.assertEqual(set(self.index.links([DIGEST, OTHER])), set(named))
        self.assertEqual(list(self.index.links([])), [])

    def test_repository_sizes(self) -> None:
        """Each repository has the sizes of its blobs, however they are linked; the largest comes first."""
        self.index.record([record(number, float(number), size=10) for number in range(2500)])
        for number in range(2500):
            for kind in ("blobs", "manifests"):
                repository = "org/large" if number % 5 else "org/small"
                self.index.affirm(
                    Link("https://a.example", repository, kind, numbered(number)), Affirmation(1.0, None)
                )
        sizes = repository_sizes(self.index)
        self.assertEqual(
            sizes,
            [
                RepositorySize("https://a.example", "org/large", 2000, 20_000, 2499.0),
                RepositorySize("https://a.example", "org/small", 500, 5000, 2495.0),
            ],
        )
        self.assertEqual(sum(one.blobs for one in repository_sizes(self.index, 1700)), 1700)

    def test_tags(self) -> None:
        """A tag belongs to what was asked: origin, repository, name and ``Accept``."""
        known = TagRecord(DIGEST, "application/json", 5, 1.0)
        self.index.remember_tag(TAG, known)
        self.assertEqual(self.index.tag(TAG), known)
        for other in (evolve(TAG, accept=""), evolve(TAG, name="v1"), evolve(TAG, repository="x")):
            self.assertIsNone(self.index.tag(other))
        moved = TagRecord(OTHER, "text/plain", None, 2.0)
        self.index.remember_tag(TAG, moved)
        self.assertEqual(self.index.tag(TAG), moved)

    def test_names(self) -> None:
        """A blob has the names of its links' repositories, and of the tags there that mean it: a few of each."""
        self.assertEqual(self.index.names(DIGEST), BlobNames())
        self.index.affirm(LINK, Affirmation(1.0, None))
        self.index.affirm(evolve(LINK, kind="manifests"), Affirmation(1.0, None))
        self.index.affirm(evolve(LINK, digest=OTHER), Affirmation(1.0, None))
        tag = evolve(TAG, origin=LINK.origin, repository=LINK.repository)
        known = TagRecord(DIGEST, "application/json", 5, 1.0)
        for name, accept in (("1.1", ""), ("1.0", "a"), ("1.0", "b")):
            self.index.remember_tag(evolve(tag, name=name, accept=accept), known)
        self.index.remember_tag(evolve(tag, name="other"), evolve(known, digest=OTHER))
        self.index.remember_tag(evolve(tag, name="elsewhere", repository="org/elsewhere"), known)
        names = self.index.names(DIGEST)
        self.assertEqual((list(names.repositories), list(names.tags)), ([LINK.repository], ["1.0", "1.1"]))
        for number in range(9):
            self.index.affirm(evolve(LINK, repository=f"many/{number}"), Affirmation(1.0, None))
            self.index.remember_tag(evolve(tag, repository="many/0", name=str(number)), known)
        names = self.index.names(DIGEST)
        self.assertEqual(list(names.repositories), ["many/0", "many/1", "many/2"])
        self.assertEqual(list(names.tags), ["0", "1", "2"])

    def test_purge(self) -> None:
        """Old links and tags go, a few at a time, but not links of blobs that are here, whichever came first."""
        before, later = (evolve(LINK, digest=numbered(n)) for n in (1, 2))
        self.index.affirm(before, Affirmation(1.0, None))
        self.index.record([record(1, 1.0), record(2, 1.0)])
        self.index.affirm(later, Affirmation(1.0, None))
        for number in range(10, 15):
            self.index.affirm(evolve(LINK, digest=numbered(number)), Affirmation(float(number), None))
            self.index.remember_tag(
                evolve(TAG, name=f"v{number}"), TagRecord(DIGEST, "x", None, float(number))
            )
        self.assertEqual(self.index.purge(14.0, 3), 6)
        self.assertIsNone(self.index.tag(evolve(TAG, name="v12")))
        self.assertIsNotNone(self.index.tag(evolve(TAG, name="v13")))
        self.assertEqual(self.index.purge(14.0, 3), 2)
        self.assertEqual(self.index.purge(14.0, 3), 0)
        self.assertIsNotNone(self.index.affirmation(before))
        self.index.forget([numbered(1), numbered(2)])
        self.index.record([record(2, 1.0)])
        self.assertEqual(self.index.purge(14.0, 3), 1)
        self.assertIsNone(self.index.affirmation(before))
        self.assertIsNotNone(self.index.affirmation(later))

    def test_rows_of_a_tag(self) -> None:
        """Of each tag the eight rows that were asked for last are kept: clients make up ``Accept`` as they like."""
        other = evolve(TAG, name="other")
        self.index.remember_tag(other, TagRecord(DIGEST, "x", None, 0.0))
        for number in range(20):
            self.index.remember_tag(
                evolve(TAG, accept=f"x/{number}"), TagRecord(DIGEST, "x", None, float(number))
            )
        kept = [n for n in range(20) if self.index.tag(evolve(TAG, accept=f"x/{n}")) is not None]
        self.assertEqual(kept, list(range(12, 20)))
        self.assertIsNotNone(self.index.tag(other))

    def test_most_links(self) -> None:
        """Links are bounded: those of blobs that are not stored are dropped first. So are tags."""
        self.index.close()
        self.index = self.make_index(IndexLimits(links=10, tag_rows=10))
        self.index.record([record(1, 1.0)])
        for number in range(1, 31):
            self.index.affirm(evolve(LINK, digest=numbered(number)), Affirmation(float(number), None))
            self.index.affirm(evolve(LINK, digest=numbered(number)), Affirmation(float(number), "again"))
            self.index.remember_tag(
                evolve(TAG, name=f"v{number}"), TagRecord(DIGEST, "x", None, float(number))
            )
        links = [n for n in range(31) if self.index.affirmation(evolve(LINK, digest=numbered(n))) is not None]
        tags = [n for n in range(31) if self.index.tag(evolve(TAG, name=f"v{n}")) is not None]
        self.assertEqual((links[0], links[-1], tags[-1]), (1, 30, 30))
        self.assertLessEqual(len(links), 10)
        self.assertLessEqual(len(tags), 10)
        self.assertEqual(links[1:], list(range(links[1], 31)), "the oldest ones are dropped")
