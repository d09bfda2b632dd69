"""Files of the filesystem store while they are open."""

from __future__ import annotations

import errno
import io
import os
from collections.abc import Callable, Sequence
from contextlib import suppress
from threading import Lock
from typing import Final

from contentcache.persist.atomic_file import fsync_folder, make_folders, open_regular
from contentcache.storage.partial_files import NOTE, read_note, read_runs, write_note, write_runs

_PIECE: Final = 1 << 20
_BLOCK: Final = 4096
_LOOK_EVERY: Final = 256 << 10
_ATTEMPTS: Final = 3


class DiskFile:
    """
    A :class:`~contentcache.storage.interfaces.BlobFile` over a descriptor.

    A read may run in one thread while another thread closes the file. The number of a closed descriptor is
    reused at once, so the last user closes it: otherwise a read could be of the file that was opened next.
    """

    def __init__(self, descriptor: int, close_file: Callable[[int], None]) -> None:
        self._descriptor = descriptor
        self._close_file = close_file
        self._size = os.fstat(descriptor).st_size
        self._lock = Lock()
        self._users = 0
        self._closed = False
        self._supports_nowait = hasattr(os, "RWF_NOWAIT")

    @property
    def size(self) -> int:
        """Bytes in the file when it was opened."""
        return self._size

    @property
    def descriptor(self) -> int | None:
        """The open file's number, until it is closed."""
        return None if self._closed else self._descriptor

    def read(self, offset: int, length: int) -> bytes:
        """Up to ``length`` bytes from ``offset``; fewer only at the end of the file."""
        descriptor = self._enter()
        try:
            pieces: list[bytes] = []
            while length > 0:
                # By pieces: pread() allocates what it is asked for before it looks at the file.
                piece = os.pread(descriptor, min(length, _PIECE), offset)
                if not piece:
                    break
                pieces.append(piece)
                offset += len(piece)
                length -= len(piece)
            return pieces[0] if len(pieces) == 1 else b"".join(pieces)
        finally:
            self._leave()

    def read_now(self, offset: int, length: int) -> bytes | None:
        """
        The same without ever blocking; ``None`` where the pages are not in memory, or where the filesystem cannot
        tell (tmpfs, old kernels): then it is not asked again for this file.
        """
        if not self._supports_nowait:
            return None
        descriptor = self._enter()
        try:
            wanted = min(length, os.fstat(descriptor).st_size - offset)
            if wanted <= 0:
                return b""
            buffer = bytearray(wanted)
            # Short before the end: the rest of the pages is on the disk only.
            return bytes(buffer) if os.preadv(descriptor, [buffer], offset, os.RWF_NOWAIT) == wanted else None
        except BlockingIOError:
            return None
        except OSError as error:
            # A read that may block finds out what else is wrong, and raises it.
            self._supports_nowait = error.errno == errno.EIO
            return None
        finally:
            self._leave()

    def is_loaded(self, offset: int, length: int) -> bool:
        """Whether ``length`` bytes from ``offset`` are in memory: their last one is, and one every 256 KiB."""
        if not self._supports_nowait:
            return False
        descriptor, byte = self._enter(), bytearray(1)
        try:
            return all(
                os.preadv(descriptor, [byte], place, os.RWF_NOWAIT)
                for place in (*range(offset, offset + length, _LOOK_EVERY), offset + length - 1)
            )
        except BlockingIOError:
            return False
        except OSError as error:
            self._supports_nowait = error.errno == errno.EIO
            return False
        finally:
            self._leave()

    def load(self, offset: int, length: int) -> None:
        """Block until up to ``length`` bytes from ``offset`` are in memory, without copying them."""
        descriptor = self._enter()
        try:
            _load(descriptor, offset, length)
        finally:
            self._leave()

    def close(self) -> None:
        """Close the descriptor. Does not block, never raises, may be called twice."""
        with self._lock:
            last = not self._closed and self._users == 0
            self._closed = True
        if last:
            self._close_file(self._descriptor)

    def _enter(self) -> int:
        with self._lock:
            if self._closed:
                raise OSError(errno.EBADF, "this file was closed")
            self._users += 1
        return self._descriptor

    def _leave(self) -> None:
        with self._lock:
            self._users -= 1
            last = self._closed and self._users == 0
        if last:
            self._close_file(self._descriptor)


class DiskPartial(DiskFile):
    """
    A :class:`~contentcache.storage.interfaces.PartialFile` at ``name`` that becomes the blob at ``home``.

    Where the two are the same, the file was adopted: it is in place already and is not written. Where it is
    ``shared``, other workers may be reading it: bytes of it that cannot be trusted are not overwritten.
    """

    def __init__(
        self,
        descriptor: int,
        close_file: Callable[[int], None],
        name: str,
        home: str,
        *,
        shared: bool = False,
    ) -> None:
        super().__init__(descriptor, close_file)
        self._name = name
        self._home = home
        self._shared = shared
        self._adopted = name == home
        self._flush_failed = False
        self._held = ((0, self.size),) if self._adopted else self._find_held()

    @property
    def held(self) -> Sequence[tuple[int, int]]:
        """The runs of bytes that were there when it was opened."""
        return self._held

    def park(self, held: Sequence[tuple[int, int]]) -> None:
        """
        Note beside the file which runs of bytes are there. Whoever resumes deletes the note, so that none is left
        that has become false when the process is killed later.
        """
        write_note(f"{self._name}{NOTE}", write_runs(held))

    def _find_held(self) -> Sequence[tuple[int, int]]:
        note = f"{self._name}{NOTE}"
        try:
            content = read_note(note)
        except FileNotFoundError:
            return self._first_run()
        if content is None:
            with suppress(OSError):  # it would be no note the next time either
                os.unlink(note)
            return self._first_run()
        os.unlink(note)
        runs = read_runs(content, self.size)
        return self._first_run() if runs is None else runs

    def _first_run(self) -> Sequence[tuple[int, int]]:
        """
        What was written without a gap from the start. The filesystem knows holes by its blocks only, so where
        there is one, neither the last block before it nor anything behind it is trusted.
        """
        descriptor, size = self._descriptor, self.size
        try:
            hole = os.lseek(descriptor, 0, os.SEEK_HOLE) if size else 0
        except OSError:
            hole = 0  # a filesystem that cannot tell
        if hole < size:
            size = max(0, hole // _BLOCK - 1) * _BLOCK
            if self._shared:
                self._copy_to_new_file(size)
            else:
                os.ftruncate(descriptor, size)
        return ((0, size),) if size else ()

    def _copy_to_new_file(self, size: int) -> None:
        """
        Continue in a new file with the first ``size`` bytes, and leave the old one to its readers: if it were
        truncated and written again beyond a hole, they would read zeros.
        """
        fresh = f"{self._name}.new"
        descriptor = open_regular(fresh, os.O_RDWR | os.O_CREAT | os.O_TRUNC)
        try:
            for offset in range(0, size, _PIECE):
                data = memoryview(os.pread(self._descriptor, min(_PIECE, size - offset), offset))
                while data:
                    written = os.pwrite(descriptor, data, offset)
                    offset, data = offset + written, data[written:]  # noqa: PLW2901  # within this piece
            os.rename(fresh, self._name)
        except BaseException:
            os.close(descriptor)
            raise
        old, self._descriptor = self._descriptor, descriptor
        os.close(old)
        self._size = size

    def write(self, offset: int, data: bytes | bytearray | memoryview) -> None:
        """Write all of ``data`` at ``offset``, short writes repeated."""
        self._must_be_writable()
        descriptor = self._enter()
        try:
            with memoryview(data).cast("B") as left:
                done = 0
                while done < len(left):
                    written = os.pwrite(descriptor, left[done:], offset + done)
                    if written == 0:
                        raise OSError(
                            errno.EIO, "the disk takes no more bytes and does not say why", self._name
                        )
                    done += written
        finally:
            self._leave()

    def truncate(self, size: int) -> None:
        """Cut the file to ``size`` bytes, to start again."""
        self._must_be_writable()
        descriptor = self._enter()
        try:
            os.ftruncate(descriptor, size)
            if size == 0:
                self._flush_failed = False
        finally:
            self._leave()

    def commit(self) -> None:
        """
        Make it a blob of the store; see ``docs/decisions/what-is-fsynced.rst`` for the order.

        :raises FileNotFoundError: its name was deleted meanwhile.
        """
        descriptor = self._enter()
        try:
            self._flush(descriptor)
            if self._name != self._home:
                self._move_home(descriptor)
        finally:
            self._leave()

    def discard(self) -> None:
        """Delete the name, unless another file has it by now."""
        descriptor = self._enter()
        try:
            if self._has_its_name(descriptor):
                os.unlink(self._name)
            if self._name == self._home:
                remove_if_empty(os.path.dirname(self._home))
        except FileNotFoundError:
            pass
        finally:
            self._leave()

    def _must_be_writable(self) -> None:
        if self._adopted:
            raise io.UnsupportedOperation(f"{self._name} is a blob of the store: discard it and start anew")

    def _flush(self, descriptor: int) -> None:
        if self._flush_failed:
            # Linux reports a failed write-back once and then marks the pages clean: a second fsync would succeed
            # for bytes that never reached the disk.
            raise OSError(errno.EIO, "an earlier fsync failed, its bytes may be lost", self._name)
        try:
            os.fsync(descriptor)
        except OSError:
            self._flush_failed = True
            raise

    def _move_home(self, descriptor: int) -> None:
        folder = os.path.dirname(self._home)
        for _attempt in range(_ATTEMPTS):
            if not self._has_its_name(descriptor):
                break
            make_folders(folder)
            try:
                os.rename(self._name, self._home)
            except FileNotFoundError:
                continue  # a delete() of the same digest has removed the empty folder: make it again
            self._name = self._home
            fsync_folder(folder)
            return
        raise FileNotFoundError(errno.ENOENT, "the partial file was taken away", self._name)

    def _has_its_name(self, descriptor: int) -> bool:
        try:
            named = os.stat(self._name, follow_symlinks=False)
        except (FileNotFoundError, NotADirectoryError):
            return False
        return os.path.samestat(named, os.fstat(descriptor))


def _load(descriptor: int, offset: int, length: int) -> None:
    # Sent to /dev/null: the kernel reads the pages, and copies nothing.
    null = os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC)
    try:
        while length > 0 and (count := os.sendfile(null, descriptor, offset, length)):
            offset += count
            length -= count
    finally:
        os.close(null)


def remove_if_empty(folder: str) -> None:
    """Remove a folder that is empty."""
    with suppress(OSError):
        os.rmdir(folder)
