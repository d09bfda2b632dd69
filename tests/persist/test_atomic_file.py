"""Tests for :mod:`contentcache.persist.atomic_file`."""

from __future__ import annotations

import errno
import os
import stat
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NoReturn

from twisted.trial.unittest import SynchronousTestCase

from contentcache.persist.atomic_file import (
    UnusableFileError,
    create_atomically,
    create_file,
    fsync_folder,
    make_folders,
    open_regular,
    read_bounded,
    read_configured,
    replace_durably,
    write_atomically,
)

#: Stops before or after the rename, and is killed there.
_WRITER = """
import os, sys
from contentcache.persist.atomic_file import write_atomically
replace = os.replace
def stop(*arguments):
    if sys.argv[2] == "after":
        replace(*arguments)
    print("stopped", flush=True)
    sys.stdin.read()
os.replace = stop
write_atomically(sys.argv[1], b"new", mode=0o600)
"""


def fail(number: int, *_: object, **__: object) -> NoReturn:
    """A disk with this errno."""
    raise OSError(number, os.strerror(number))


class FileTestCase(SynchronousTestCase):
    """Files in a folder."""

    def setUp(self) -> None:
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.path = self.folder / "file"

    def names(self) -> list[str]:
        """What is in the folder."""
        return sorted(os.listdir(self.folder))

    def assert_errno(self, number: int, call: Callable[..., object], *arguments: Any, **named: Any) -> None:
        """The call raises ``OSError`` with this errno."""
        self.assertEqual(self.assertRaises(OSError, call, *arguments, **named).errno, number)


class ReadTests(FileTestCase):
    """Reading within bounds."""

    def test_content(self) -> None:
        """A file of the limit's size is read whole; one byte more is too large, of whomever the file is."""
        self.path.write_bytes(b"12345")
        for follow_links in (False, True):
            self.assertEqual(read_bounded(self.path, 5, follow_links=follow_links), b"12345")
            self.assert_errno(errno.EFBIG, read_bounded, self.path, 4, follow_links=follow_links)

    def test_no_regular_file(self) -> None:
        """A link, a pipe without a writer and a folder are refused at once, for reading and for writing."""
        target = self.folder / "target"
        target.write_bytes(b"secret")
        self.path.symlink_to(target)
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        self.assert_errno(errno.ELOOP, read_bounded, self.path, 100)
        self.assert_errno(errno.EINVAL, read_bounded, pipe, 100)
        self.assert_errno(errno.EINVAL, read_bounded, self.folder, 100)
        self.assert_errno(errno.ELOOP, open_regular, self.path, os.O_RDWR | os.O_CREAT)
        self.assert_errno(errno.ENXIO, open_regular, pipe, os.O_WRONLY)
        self.assertEqual(read_bounded(self.path, 100, follow_links=True), b"secret")

    def test_no_descriptor_is_left(self) -> None:
        """What is refused is closed."""
        pipe = self.folder / "pipe"
        os.mkfifo(pipe)
        before = os.listdir("/proc/self/fd")
        self.assert_errno(errno.EINVAL, read_bounded, self.folder, 100)
        self.assert_errno(errno.EISDIR, read_bounded, self.folder, 100, follow_links=True)
        self.assert_errno(errno.EINVAL, read_bounded, pipe, 100, follow_links=True)
        self.assertEqual(os.listdir("/proc/self/fd"), before)

    def test_configured_pipe(self) -> None:
        """A named pipe in the place of an operator's file is refused at once, and not waited for."""
        os.mkfifo(self.path)
        error = self.assertRaises(UnusableFileError, read_configured, str(self.path), 5)
        self.assertEqual(error.message, f"{self.path} cannot be read: it is a named pipe")

    def test_configured(self) -> None:
        """What an operator named is read through links; where it cannot be used, a sentence names it."""
        self.path.write_bytes(b"12345")
        link = self.folder / "link"
        link.symlink_to(self.path)
        self.assertEqual(read_configured(str(link), 5), b"12345")
        for path, limit, reason in (
            (str(self.path), 4, "is too large, more than 4 bytes: is this the right file?"),
            (f"{self.path}x", 4, "cannot be read: No such file or directory"),
            ("a\0b", 4, "cannot be read: embedded null byte"),
            (str(self.folder), 4, "cannot be read: Is a directory"),
        ):
            error = self.assertRaises(UnusableFileError, read_configured, path, limit)
            self.assertEqual((error.path, error.message), (path, f"{path} {reason}"))


class WriteTests(FileTestCase):
    """Writing whole or not at all."""

    def test_written(self) -> None:
        """A file gets its content, mode and time, new or in place of another; nothing else is left."""
        for content in (b"one", b"another"):
            write_atomically(self.path, content, mode=0o600, modified=1e9)
            self.assertEqual((self.path.read_bytes(), self.names()), (content, ["file"]))
            status = self.path.stat()
            self.assertEqual((stat.S_IMODE(status.st_mode), status.st_mtime), (0o600, 1e9))

    def test_order(self) -> None:
        """The bytes are on the disk before the name, and then the name; without ``fsync`` neither is."""
        events: list[str] = []
        fsync, replace = os.fsync, os.replace

        def note_fsync(descriptor: int) -> None:
            events.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
            fsync(descriptor)

        def note_replace(*arguments: Any) -> None:
            events.append("rename")
            replace(*arguments)

        self.patch(os, "fsync", note_fsync)
        self.patch(os, "replace", note_replace)
        write_atomically(self.path, b"one", mode=0o600)
        self.assertEqual(events, ["file", "rename", "folder"])
        events.clear()
        write_atomically(self.path, b"two", mode=0o600, fsync=False)
        self.assertEqual(events, ["rename"])
        events.clear()
        replace_durably(self.path, self.folder / "other")
        self.assertEqual((events, self.names()), (["rename", "folder"], ["other"]))

    def test_failures(self) -> None:
        """Where any step fails the old content is in place, and nothing is left beside it."""
        self.path.write_bytes(b"old")
        for function in ("open", "fsync", "utime", "replace"):
            patched = self.patch(os, function, partial(fail, errno.ENOSPC))
            write = partial(write_atomically, self.path, b"new", mode=0o600, modified=1.0)
            self.assert_errno(errno.ENOSPC, write)
            self.assert_errno(errno.ENOSPC, write, beside=self.beside())
            patched.restore()
            self.assertEqual((self.path.read_bytes(), self.names()), (b"old", ["file"]), function)

    def beside(self) -> Path:
        """Where the new content is written first."""
        return self.folder / ".file.1"

    def test_killed(self) -> None:
        """A kill leaves the old content or the new one, and the next writer replaces what is left beside."""
        for when, expected in (("before", b"old"), ("after", b"new")):
            self.path.write_bytes(b"old")
            writer = subprocess.Popen(
                [sys.executable, "-c", _WRITER, str(self.path), when],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
            )
            with writer:
                self.addCleanup(writer.kill)
                assert writer.stdout is not None
                self.assertEqual(writer.stdout.readline(), b"stopped\n")
                writer.kill()
            self.assertEqual(self.path.read_bytes(), expected)
            write_atomically(self.path, b"third", mode=0o600)
            self.assertEqual((self.path.read_bytes(), self.names()), (b"third", ["file"]))

    def test_links(self) -> None:
        """A link in the place of the file, or beside it, is replaced; where it points to stays as it was."""
        target = self.folder / "target"
        target.write_bytes(b"theirs")
        self.path.symlink_to(target)
        Path(f"{self.path}.new").symlink_to(target)
        write_atomically(self.path, b"ours", mode=0o600)
        self.assertEqual((self.path.read_bytes(), target.read_bytes()), (b"ours", b"theirs"))
        self.assertFalse(self.path.is_symlink())

    def test_create(self) -> None:
        """What is there stays, whichever way a new file is created."""
        create_file(self.path, b"first", mode=0o640)
        self.assertRaises(FileExistsError, create_file, self.path, b"second", mode=0o640)
        self.assertRaises(
            FileExistsError, create_atomically, self.path, b"second", mode=0o640, beside=self.beside()
        )
        self.assertEqual((self.path.read_bytes(), self.names()), (b"first", ["file"]))
        self.path.unlink()
        create_atomically(self.path, b"third", mode=0o600, beside=self.beside())
        self.assertEqual((self.path.read_bytes(), self.names()), (b"third", ["file"]))
        self.assertEqual(stat.S_IMODE(self.path.stat().st_mode), 0o600)


class FolderTests(FileTestCase):
    """Folders."""

    def test_made(self) -> None:
        """All that is missing is made with the mode, and each parent of a new folder is fsynced."""
        synced: list[str] = []
        fsync = os.fsync

        def note(descriptor: int) -> None:
            synced.append(os.readlink(f"/proc/self/fd/{descriptor}"))
            fsync(descriptor)

        self.patch(os, "fsync", note)
        made = self.folder / "one" / "two"
        make_folders(made, 0o700)
        self.assertEqual({stat.S_IMODE(each.stat().st_mode) for each in (made, made.parent)}, {0o700})
        self.assertEqual(synced, [str(self.folder), str(made.parent)])
        make_folders(made)
        self.assertEqual((len(synced), stat.S_IMODE(made.stat().st_mode)), (2, 0o700))

    def test_relative(self) -> None:
        """A relative path is one below the current folder."""
        here = os.getcwd()
        self.addCleanup(os.chdir, here)
        os.chdir(self.folder)
        make_folders("one")
        fsync_folder("")
        write_atomically("file", b"x", mode=0o600)
        self.assertEqual(self.names(), ["file", "one"])
        os.chdir("one")
        os.rmdir(self.folder / "one")
        self.assertRaises(FileNotFoundError, make_folders, "two/three")

    def test_in_the_way(self) -> None:
        """A file where a parent should be is an error."""
        self.path.write_bytes(b"")
        self.assertRaises(NotADirectoryError, make_folders, self.path / "one" / "two")
