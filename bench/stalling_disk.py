"""
A disk that answers late: a FUSE file system of one read-only file, each read of which takes its time.

It speaks the kernel's protocol itself (``linux/fuse.h``, version 7.23 and later), so that nothing needs to be
installed; whoever mounts it must be root. Run as ``python -m bench.stalling_disk FOLDER FILE SECONDS``, it
covers FOLDER, where FILE is then the only one, and ends at ``SIGTERM``.
"""

from __future__ import annotations

import ctypes
import errno
import os
import signal
import stat
import struct
import sys
from contextlib import suppress
from pathlib import Path
from threading import Timer
from typing import Final

from bench.scene import Stage
from tests.real.programs import ROOT, Process

_HEAD: Final = struct.Struct("<IIQQIIII")
_ANSWER: Final = struct.Struct("<IiQ")
_ATTRIBUTES: Final = struct.Struct("<QQQQQQIIIIIIIIII")
_LOOKUP, _FORGET, _GETATTR, _OPEN, _READ, _STATFS, _RELEASE = 1, 2, 3, 14, 15, 17, 18
_FLUSH, _INIT, _OPENDIR, _RELEASEDIR, _INTERRUPT, _BATCH_FORGET = 25, 26, 27, 29, 36, 42
_SILENT: Final = frozenset({_FORGET, _INTERRUPT, _BATCH_FORGET})
_AT_ONCE: Final = 128 << 10
_FOLDER_ID, _FILE_ID = 1, 2
_DETACH: Final = 2
_kernel = ctypes.CDLL(None, use_errno=True)


class StallingDisk:
    """Covers the folder of ``path``: it is served from what it was, late by ``seconds`` for each read."""

    def __init__(self, path: Path, seconds: float) -> None:
        self._folder = path.parent
        self._name = os.fsencode(path.name)
        self._file = os.open(path, os.O_RDONLY)
        self._status = os.fstat(self._file)
        self._folder_status = os.stat(path.parent)
        self._seconds = seconds
        self._line = os.open("/dev/fuse", os.O_RDWR)
        options = f"fd={self._line},rootmode=40000,user_id=0,group_id=0,allow_other"
        if _kernel.mount(b"bench", os.fsencode(self._folder), b"fuse", 0, options.encode()):
            raise OSError(ctypes.get_errno(), "no FUSE file system could be mounted", str(self._folder))

    def serve(self) -> None:
        """Answer the kernel until it says that the file system is gone."""
        while True:
            try:
                request = os.read(self._line, _AT_ONCE + 4096)
            except OSError as error:
                if error.errno == errno.ENODEV:
                    return
                raise
            _, kind, unique, node, *_ = _HEAD.unpack_from(request)
            if kind in _SILENT:
                continue
            body = request[_HEAD.size :]
            if kind == _READ:
                _, offset, size = struct.unpack_from("<QQI", body)
                late = Timer(self._seconds, self._send_bytes, (unique, offset, size))
                late.daemon = True
                late.start()
                continue
            answer = self._answer(kind, node, body)
            self._send(unique, *((answer, b"") if isinstance(answer, int) else (0, answer)))

    def unmount(self) -> None:
        """Uncover the folder, whoever is still waiting for it."""
        _kernel.umount2(os.fsencode(self._folder), _DETACH)

    def _answer(self, kind: int, node: int, body: bytes) -> bytes | int:
        """An answer's body, or an errno."""
        if kind == _INIT:
            major, minor, ahead, _ = struct.unpack_from("<IIII", body)
            return struct.pack(
                "<IIIIHHIIHHI28x", major, min(minor, 31), ahead, 0, 64, 48, _AT_ONCE, 1, 0, 0, 0
            )
        if kind == _LOOKUP:
            if body.rstrip(b"\0") != self._name:
                return errno.ENOENT
            return struct.pack("<QQQQII", _FILE_ID, 0, 3600, 3600, 0, 0) + self._attributes(_FILE_ID)
        if kind == _GETATTR:
            return struct.pack("<QII", 3600, 0, 0) + self._attributes(node)
        if kind in {_OPEN, _OPENDIR}:
            return struct.pack("<QII", 0, 0, 0)
        if kind == _STATFS:
            return struct.pack(
                "<QQQQQIIII24x", 1 << 30, 1 << 29, 1 << 29, 1 << 20, 1 << 19, 4096, 255, 4096, 0
            )
        return b"" if kind in {_RELEASE, _RELEASEDIR, _FLUSH} else errno.ENOSYS

    def _attributes(self, node: int) -> bytes:
        # As they were, inode and times too: nginx looks whether the file is still the one it knows.
        it = self._folder_status if node == _FOLDER_ID else self._status
        mode = it.st_mode | (0o555 if stat.S_ISDIR(it.st_mode) else 0o444)
        times = [divmod(when, 10**9) for when in (it.st_atime_ns, it.st_mtime_ns, it.st_ctime_ns)]
        whole, parts = [when[0] for when in times], [when[1] for when in times]
        owner = (it.st_uid, it.st_gid, 0, 4096, 0)
        return _ATTRIBUTES.pack(it.st_ino, it.st_size, it.st_blocks, *whole, *parts, mode, 1, *owner)

    def _send_bytes(self, unique: int, offset: int, size: int) -> None:
        self._send(unique, 0, os.pread(self._file, size, offset))

    def _send(self, unique: int, error: int, body: bytes) -> None:
        with suppress(OSError):  # whoever asked has been killed meanwhile
            os.write(self._line, _ANSWER.pack(_ANSWER.size + len(body), -error, unique) + body)


def cover(on: Stage, path: Path, seconds: float) -> None:
    """
    Let each read of a file take ``seconds``, until the stage is cleared.

    :raises AssertionError: this process may not mount, or the machine has no FUSE.
    """
    uncovered = os.stat(path.parent).st_dev
    words: list[str | Path] = [
        sys.executable,
        "-m",
        "bench.stalling_disk",
        path.parent,
        path.name,
        str(seconds),
    ]
    disk = Process(on, words, name="stalling-disk", cwd=ROOT)
    disk.wait_until(lambda: os.stat(path.parent).st_dev != uncovered, "mounted")


def _main(folder: str, name: str, seconds: str) -> None:
    disk = StallingDisk(Path(folder, name), float(seconds))

    def leave(*_: object) -> None:
        disk.unmount()
        os._exit(0)

    signal.signal(signal.SIGTERM, leave)
    disk.serve()


if __name__ == "__main__":
    _main(*sys.argv[1:])
