"""The store on a disk."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.digest import Digest
from contentcache.core.errors import BlobUnknown
from contentcache.storage.filesystem import FilesystemStore
from contentcache.storage.interfaces import Store
from contentcache.storage.partial_files import origin_tag
from tests.storage import suites
from tests.storage.suites import CONTENT, DIGEST, ORIGIN, put

#: Stores blobs that name themselves, without end; says how many there are.
_WRITER = """
import sys
from contentcache.core.digest import Digest
from contentcache.storage.filesystem import FilesystemStore
store = FilesystemStore(sys.argv[1])
number = 0
while True:
    content = b"%d " % number * 5000
    partial = store.resume(Digest.of(content), "https://origin.example")
    for offset in range(0, len(content), 1000):
        partial.write(offset, content[offset : offset + 1000])
    partial.commit()
    partial.close()
    print(number, flush=True)
    number += 1
"""


class FilesystemStoreTests(suites.StoreSuite):
    """What a disk adds: places, modes, links, faults."""

    def make_store(self) -> Store:
        self.root = Path(self.mktemp())
        return FilesystemStore(str(self.root))

    def home(self, digest: Digest = DIGEST) -> Path:
        blobs = self.root / "docker/registry/v2/blobs"
        return blobs / digest.algorithm / digest.hex[:2] / digest.hex / "data"

    def partial(self, digest: Digest = DIGEST) -> Path:
        return self.root / "contentcache/partial" / digest.algorithm / f"{digest.hex}.{origin_tag(ORIGIN)}"

    def test_untouched(self) -> None:
        """To make the object makes nothing on the disk; to prepare it makes the folders, twice if you like."""
        self.assertFalse(self.root.exists())
        store = FilesystemStore(str(self.root))
        store.prepare()
        store.prepare()
        self.assertTrue((self.root / "docker/registry/v2/blobs").is_dir())
        self.assertTrue((self.root / "contentcache/partial").is_dir())

    def test_layout(self) -> None:
        """Blobs are where a registry would look for them, partial files are not."""
        partial = self.store.resume(DIGEST, ORIGIN)
        partial.write(0, CONTENT)
        self.assertEqual(self.partial().read_bytes(), CONTENT)
        partial.commit()
        self.assertEqual(self.home().read_bytes(), CONTENT)

    def test_registry_directory(self) -> None:
        """A blob that a registry left here is one of ours."""
        self.home().parent.mkdir(parents=True)
        self.home().write_bytes(CONTENT)
        os.utime(self.home(), (5, 1234.5))
        (file,) = self.store.blobs()
        self.assertEqual((file.digest, file.size, file.modified), (DIGEST, len(CONTENT), 1234.5))
        self.assertEqual(self.store.open(DIGEST).read(0, 1 << 20), CONTENT)

    def test_modes(self) -> None:
        """Nothing that is made can be read, listed or changed by others, whatever the umask."""
        previous = os.umask(0)
        self.addCleanup(os.umask, previous)
        put(self.store, CONTENT)
        self.store.resume(Digest.of(b"unfinished"), ORIGIN)
        made = [self.root, *self.root.rglob("*")]
        self.assertGreater(len(made), 10)
        for path in made:
            self.assertEqual(path.stat().st_mode & 0o7777, 0o750 if path.is_dir() else 0o640, path)

    def test_relative_root(self) -> None:
        """A daemon that changes its working directory later keeps its store."""
        self.assertRaises(BlobUnknown, FilesystemStore("store").open, DIGEST)
        store = FilesystemStore(self.mktemp())
        previous = os.getcwd()
        self.addCleanup(os.chdir, previous)
        os.chdir("/")
        self.assertEqual(store.open(put(store, CONTENT)).size, len(CONTENT))

    def test_no_links_followed(self) -> None:
        """A symbolic link in a blob's place is no blob: it could show any file of this machine."""
        secret = Path(self.mktemp())
        secret.write_bytes(CONTENT)
        self.home().parent.mkdir(parents=True)
        self.home().symlink_to(secret.absolute())
        self.assertRaises(BlobUnknown, self.store.open, DIGEST)
        self.assertRaises(BlobUnknown, self.store.adopt, DIGEST)
        self.assertEqual(list(self.store.blobs()), [])
        put(self.store, CONTENT)
        self.assertEqual(self.store.open(DIGEST).size, len(CONTENT))
        self.store.delete(DIGEST)
        self.assertTrue(secret.exists())

    def test_linked_partial(self) -> None:
        """A symbolic link in a partial file's place is not written through."""
        secret = Path(self.mktemp())
        secret.write_bytes(b"precious")
        self.partial().parent.mkdir(parents=True)
        self.partial().symlink_to(secret.absolute())
        self.assertRaises(OSError, self.store.resume, DIGEST, ORIGIN)
        self.assertEqual(secret.read_bytes(), b"precious")

    def test_no_files(self) -> None:
        """A folder or a named pipe in a blob's place is no blob, and nobody waits for a writer to the pipe."""
        self.home().mkdir(parents=True)
        self.assertRaises(BlobUnknown, self.store.open, DIGEST)
        pipe = Digest.of(b"pipe")
        self.home(pipe).parent.mkdir(parents=True)
        os.mkfifo(self.home(pipe))
        self.assertRaises(BlobUnknown, self.store.open, pipe)
        self.assertEqual(list(self.store.blobs()), [])

    def test_strangers_in_the_folders(self) -> None:
        """A listing passes over whatever is no blob, at every level."""
        put(self.store, CONTENT)
        blobs = self.root / "docker/registry/v2/blobs"
        for path in ("md5/ab/cd/data", "sha256/file", "sha256/zz/zz/data", "sha256/ab/short/data"):
            (blobs / path).parent.mkdir(parents=True, exist_ok=True)
            (blobs / path).write_bytes(b"x")
        misplaced = blobs / "sha256" / "00" / DIGEST.hex / "data"
        misplaced.parent.mkdir(parents=True)
        misplaced.write_bytes(CONTENT)
        upper = blobs / "sha256" / "AB" / ("AB" + DIGEST.hex[2:].upper()) / "data"
        upper.parent.mkdir(parents=True)
        upper.write_bytes(CONTENT)
        self.home(Digest.of(b"no data")).parent.mkdir(parents=True)
        self.partial().parent.mkdir(parents=True, exist_ok=True)
        (self.partial().parent / "README").write_bytes(b"x")
        (self.partial().parent / Digest.of(b"folder").hex).mkdir()
        self.assertEqual([file.digest for file in self.store.blobs()], [DIGEST])
        self.assertEqual(list(self.store.partials()), [])

    def test_unreadable_folder(self) -> None:
        """A folder that cannot be listed costs its own blobs only."""
        one, other = put(self.store, b"1"), put(self.store, b"2")
        refused = str(self.home(one).parent.parent)
        scandir = os.scandir

        def refuse(path: str) -> Any:
            if str(path).endswith(refused):
                raise PermissionError(errno.EACCES, "Permission denied", path)
            return scandir(path)

        self.patch(os, "scandir", refuse)
        self.assertEqual([file.digest for file in self.store.blobs()], [other])

    def test_delete_leaves_no_folder(self) -> None:
        """A deleted blob's own folder goes with it, unless something else is in it."""
        put(self.store, CONTENT)
        self.store.delete(DIGEST)
        self.assertFalse(self.home().parent.exists())
        put(self.store, CONTENT)
        (self.home().parent / "note").write_bytes(b"")
        self.store.delete(DIGEST)
        self.assertTrue(self.home().parent.exists())

    def test_commit_beside_a_deletion(self) -> None:
        """A deletion of the same digest may take the new folder away under a commit, which makes it again."""
        rename, attempts = os.rename, []

        def race(source: str, target: str) -> None:
            attempts.append(target)
            if len(attempts) == 1:
                os.rmdir(os.path.dirname(target))
            rename(source, target)

        self.patch(os, "rename", race)
        put(self.store, CONTENT)
        self.assertEqual((len(attempts), self.store.open(DIGEST).size), (2, len(CONTENT)))

    def test_short_writes(self) -> None:
        """A disk that takes a few bytes at a time gets them all."""
        pwrite = os.pwrite
        self.patch(os, "pwrite", lambda fd, data, offset: pwrite(fd, data[:7], offset))
        put(self.store, CONTENT)
        self.assertEqual(self.home().read_bytes(), CONTENT)

    def test_disk_that_takes_nothing(self) -> None:
        """A write of no bytes without an error is an error, not an endless loop."""
        self.patch(os, "pwrite", lambda fd, data, offset: 0)
        self.assertRaises(OSError, self.store.resume(DIGEST, ORIGIN).write, 0, b"x")

    def test_order_of_fsync(self) -> None:
        """The bytes are on the disk before the name, new folders in their parents, the name at last."""
        self.root.mkdir()
        fsync, rename, seen = os.fsync, os.rename, []

        def note_fsync(descriptor: int) -> None:
            seen.append(os.readlink(f"/proc/self/fd/{descriptor}").removeprefix(f"{self.root.absolute()}/"))
            fsync(descriptor)

        def note_rename(source: str, target: str) -> None:
            seen.append("rename")
            rename(source, target)

        partial = self.store.resume(DIGEST, ORIGIN)
        partial.write(0, CONTENT)
        self.patch(os, "fsync", note_fsync)
        self.patch(os, "rename", note_rename)
        partial.commit()
        shard = f"docker/registry/v2/blobs/sha256/{DIGEST.hex[:2]}"
        self.assertEqual(
            seen,
            [
                str(self.partial().relative_to(self.root)),
                str(self.root.absolute()),
                "docker",
                "docker/registry",
                "docker/registry/v2",
                "docker/registry/v2/blobs",
                "docker/registry/v2/blobs/sha256",
                shard,
                "rename",
                f"{shard}/{DIGEST.hex}",
            ],
        )

    def test_failed_fsync_is_final(self) -> None:
        """After a failed fsync the bytes may be lost though the next one succeeds: only a fresh start helps."""

        def fail(descriptor: int) -> None:
            raise OSError(errno.EIO, "Input/output error")

        partial = self.store.resume(DIGEST, ORIGIN)
        partial.write(0, CONTENT)
        fsync = os.fsync
        self.patch(os, "fsync", fail)
        self.assertRaises(OSError, partial.commit)
        os.fsync = fsync
        self.assertRaises(OSError, partial.commit)
        self.assertEqual(list(self.store.blobs()), [])
        partial.truncate(0)
        partial.write(0, CONTENT)
        partial.commit()

    def test_read_now_gives_up(self) -> None:
        """What the kernel cannot tell without waiting is ``None``; where it never can it is asked once."""
        put(self.store, CONTENT)
        for answer, asked in [(errno.EAGAIN, 2), (errno.EOPNOTSUPP, 1), (errno.EINVAL, 1), (errno.EIO, 2)]:
            calls: list[int] = []

            def refuse(*arguments: object, answer: int = answer, calls: list[int] = calls) -> int:
                calls.append(1)
                raise OSError(answer, os.strerror(answer))

            self.patch(os, "preadv", refuse)
            blob = self.store.open(DIGEST)
            self.assertIsNone(blob.read_now(0, 10))
            self.assertIsNone(blob.read_now(0, 10))
            self.assertEqual(len(calls), asked)
            self.assertFalse(blob.is_loaded(0, 10))
            self.assertEqual(len(calls), 2 * asked - 1)
            self.assertEqual(blob.read(0, 10), CONTENT[:10])

    def test_read_now_half_in_memory(self) -> None:
        """A short answer before the end of the file means that the rest is on the disk only."""
        put(self.store, CONTENT)
        self.patch(os, "preadv", lambda *arguments: 4)
        blob = self.store.open(DIGEST)
        self.assertIsNone(blob.read_now(0, 10))
        self.assertEqual(blob.read_now(len(CONTENT) - 4, 10), bytes(4))

    def test_close_under_a_read(self) -> None:
        """To close a file while a thread reads from it does not hand its descriptor to somebody else."""
        put(self.store, CONTENT)
        blob = self.store.open(DIGEST)
        pread = os.pread

        def close_first(descriptor: int, length: int, offset: int) -> bytes:
            blob.close()
            return pread(descriptor, length, offset)

        self.patch(os, "pread", close_first)
        self.assertEqual(blob.read(0, 10), CONTENT[:10])
        self.assertRaises(OSError, blob.read, 0, 10)

    def test_truncated_on_disk(self) -> None:
        """A file that was cut short behind our back shows its size when it is opened."""
        put(self.store, CONTENT)
        os.truncate(self.home(), 100)
        self.assertEqual(self.store.open(DIGEST).size, 100)

    def test_refused(self) -> None:
        """A disk that refuses is an ``OSError``, not a blob that is unknown."""

        def refuse(*arguments: object) -> int:
            raise PermissionError(errno.EACCES, "Permission denied")

        self.patch(os, "open", refuse)
        self.assertRaises(PermissionError, self.store.open, DIGEST)
        self.assertRaises(PermissionError, self.store.resume, DIGEST, ORIGIN)

    def test_free(self) -> None:
        """What is free is what an ordinary user may write."""
        FilesystemStore(str(self.root)).prepare()
        free = self.store.free()
        assert free is not None
        self.assertGreater(free, 0)

    def test_no_descriptor_left(self) -> None:
        """What is closed is closed, refused files too."""
        put(self.store, CONTENT)
        os.mkfifo(self.root / "pipe")
        before = len(os.listdir("/proc/self/fd"))
        for _ in range(20):
            self.store.open(DIGEST).close()
            self.store.resume(Digest.of(b"x"), ORIGIN).close()
            put(self.store, CONTENT)
            list(self.store.blobs())
        self.assertEqual(len(os.listdir("/proc/self/fd")), before)

    def test_killed_in_the_middle(self) -> None:
        """A process killed while it stores leaves right blobs, and partial files that are a start of right ones."""
        for stop in (3, 11, 26):
            writer = subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(self.root)],
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            assert writer.stdout is not None
            for _ in range(stop):
                writer.stdout.readline()
            writer.send_signal(signal.SIGKILL)
            done = len(writer.stdout.read().split()) + stop
            writer.stdout.close()
            self.assertEqual(writer.wait(), -signal.SIGKILL)
            files = list(self.store.blobs())
            self.assertGreaterEqual(len(files), done)
            for file in files:
                blob = self.store.open(file.digest)
                self.assertEqual(Digest.of(blob.read(0, 1 << 20)), file.digest)
                blob.close()
            self.assertLessEqual(len(list(self.store.partials())), 1)


class HoleTests(SynchronousTestCase):
    """Partial files that were left behind without a note."""

    def test_hole(self) -> None:
        """Of a file with a hole only what comes before it counts, and a block less: nothing else is sure."""
        store = FilesystemStore(self.mktemp())
        store.prepare()
        digest = Digest.of(b"holes")
        partial = store.resume(digest, ORIGIN)
        partial.write(0, b"a" * 100_000)
        partial.write(1_000_000, b"b" * 5_000)
        partial.close()
        again = store.resume(digest, ORIGIN)
        self.addCleanup(again.close)
        ((start, stop),) = again.held
        self.assertEqual(start, 0)
        self.assertGreater(stop, 80_000)
        self.assertLessEqual(stop, 100_000)
        self.assertEqual(again.read(0, 200_000), b"a" * stop)

    def test_hole_under_readers(self) -> None:
        """
        Where other processes may be reading it, such a file stays as it is, and what counts of it goes on in
        a new one: else they could find zeros where they were told of bytes.
        """
        store = FilesystemStore(self.mktemp(), shared=True)
        store.prepare()
        digest = Digest.of(b"holes")
        partial = store.resume(digest, ORIGIN)
        partial.write(0, b"a" * 3_000_000)
        partial.write(5_000_000, b"b" * 5_000)
        assert partial.descriptor is not None
        reader = store.from_descriptor(os.dup(partial.descriptor))
        self.addCleanup(reader.close)
        partial.close()
        again = store.resume(digest, ORIGIN)
        self.addCleanup(again.close)
        ((start, stop),) = again.held
        self.assertEqual(start, 0)
        self.assertTrue(2_900_000 < stop <= 3_000_000, stop)
        again.write(6_000_000, b"c")
        self.assertEqual(again.read(0, stop), b"a" * stop)
        self.assertEqual(reader.read(0, 4_000_000).rstrip(b"\0"), b"a" * 3_000_000)
        self.assertEqual([file.digest for file in store.partials()], [digest])
        whole = store.resume(Digest.of(b"whole"), ORIGIN)
        whole.write(0, b"x" * 10_000)
        whole.close()
        same = store.resume(Digest.of(b"whole"), ORIGIN)
        self.assertEqual(same.held, ((0, 10_000),))
        same.close()


class NotesTests(SynchronousTestCase):
    """Notes beside partial files, and what lies in their places."""

    def setUp(self) -> None:
        """A store with a partial file that has a hole, and its note."""
        self.root = self.mktemp()
        self.store = FilesystemStore(self.root)
        self.store.prepare()
        self.runs = ((0, 10_000), (50_000, 55_000))
        partial = self.store.resume(DIGEST, ORIGIN)
        for start, stop in self.runs:
            partial.write(start, b"x" * (stop - start))
        partial.park(self.runs)
        partial.close()
        self.note = os.path.join(
            self.root, "contentcache", "partial", "sha256", f"{DIGEST.hex}.{origin_tag(ORIGIN)}.held"
        )

    def held(self) -> Sequence[tuple[int, int]]:
        """What is resumed now."""
        partial = self.store.resume(DIGEST, ORIGIN)
        self.addCleanup(partial.close)
        return partial.held

    def test_note(self) -> None:
        """A note is good once; then only what is before the first hole counts."""
        self.assertEqual(self.held(), self.runs)
        self.assertFalse(os.path.exists(self.note))
        ((start, stop),) = self.held()
        self.assertEqual(start, 0)
        self.assertLessEqual(stop, 10_000)

    def test_what_is_no_note(self) -> None:
        """A link is not followed, a pipe not waited for, a folder no note, an enormous file not read."""
        elsewhere = self.mktemp()
        with open(elsewhere, "w", encoding="ascii") as file:
            json.dump(self.runs, file)

        def enormous() -> None:
            with open(self.note, "wb") as file:
                file.truncate(1 << 40)

        makes: list[Callable[[], object]] = [
            lambda: os.symlink(elsewhere, self.note),
            lambda: os.symlink("/dev/zero", self.note),
            lambda: os.mkfifo(self.note),
            lambda: os.mkdir(self.note),
            enormous,
        ]
        for make in makes:
            if os.path.isdir(self.note):
                os.rmdir(self.note)
            elif os.path.lexists(self.note):
                os.unlink(self.note)
            make()
            for start, stop in self.held():
                self.assertEqual(start, 0)
                self.assertLessEqual(stop, 10_000)
        with open(elsewhere, encoding="ascii") as file:
            self.assertEqual(file.read(), json.dumps(self.runs))

    def test_what_is_not_believed(self) -> None:
        """A note that says more than the file has, or is no list of runs, counts as none."""
        many = b"[[0, %s]]" % (b"9" * 9999)
        for note in (b"[[0, 55001]]", b"[[0, 1e3]]", b"[[0]]", b"{}", b"[" * 100_000, many):
            with open(self.note, "wb") as file:
                file.write(note)
            for start, stop in self.held():
                self.assertEqual(start, 0)
                self.assertLessEqual(stop, 10_000)
            self.assertFalse(os.path.exists(self.note))

    def test_written_without_following_links(self) -> None:
        """A link in the place of a note, or of one that is being written, is replaced and not written to."""
        elsewhere = self.mktemp()
        with open(elsewhere, "wb") as file:
            file.write(b"somebody else's")
        for place in (self.note, f"{self.note}.new"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(place)
            os.symlink(elsewhere, place)
        partial = self.store.resume(DIGEST, ORIGIN)
        partial.park([(0, 5)])
        partial.close()
        with open(elsewhere, "rb") as file:
            self.assertEqual(file.read(), b"somebody else's")
        self.assertEqual(self.held(), ((0, 5),))


class PartialNamesTests(SynchronousTestCase):
    """One partial file for each digest and origin."""

    def test_one_for_each_origin(self) -> None:
        """What one origin left is not resumed for another one; both are listed, and deleted one by one."""
        store = FilesystemStore(self.mktemp())
        store.prepare()
        store.resume(DIGEST, "https://a").write(0, b"of a")
        store.resume(DIGEST, "https://b/" + "long" * 500).write(0, b"of b, more")
        self.assertEqual(store.resume(DIGEST, "https://a").read(0, 100), b"of a")
        tags = {partial.tag for partial in store.partials()}
        self.assertEqual(tags, {origin_tag("https://a"), origin_tag("https://b/" + "long" * 500)})
        store.delete_partial(DIGEST, origin_tag("https://a"))
        self.assertEqual(store.resume(DIGEST, "https://a").held, ())
        self.assertEqual(store.resume(DIGEST, "https://b/" + "long" * 500).held, ((0, 10),))

    def test_of_earlier_versions(self) -> None:
        """A partial file that does not say from which origin it is, and rubbish beside it, are taken away."""
        root = self.mktemp()
        store = FilesystemStore(root)
        store.prepare()
        kept = store.resume(DIGEST, ORIGIN)
        kept.write(0, CONTENT[:5000])
        kept.park([(0, 5000)])
        kept.close()
        folder = os.path.join(root, "contentcache", "partial", "sha256")
        names = set(os.listdir(folder))
        for name in (DIGEST.hex, f"{DIGEST.hex}.held", f"{DIGEST.hex}.held.new", f"{DIGEST.hex}.new", "x"):
            with open(os.path.join(folder, name), "wb") as file:
                file.write(CONTENT)
        store.tidy()
        self.assertEqual(set(os.listdir(folder)), names)
        self.assertEqual(store.resume(DIGEST, ORIGIN).held, ((0, 5000),))

    def test_holes_take_nothing(self) -> None:
        """A partial file counts with the bytes that it takes."""
        store = FilesystemStore(self.mktemp())
        store.prepare()
        partial = store.resume(DIGEST, ORIGIN)
        partial.write(100 << 20, b"x" * 5000)
        (found,) = store.partials()
        self.assertLess(found.size, 1 << 20)
        partial.close()
