"""
How the command line talks to the daemon: a Unix socket in the folder of the certificates, for the daemon's
own account alone, and root.

A line asks, ``renew`` or ``status`` and perhaps hosts; lines of JSON answer, one for each host, then the end.
The daemon's half is :mod:`contentcache.acme.answering`.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Final

from contentcache.acme.renewal_state import Outcome
from contentcache.config.urls import LONGEST_SOCKET

#: The socket's name in the folder.
NAME: Final = "control"
#: A renewal may wait for others, and for an ACME server that takes its time.
_PATIENCE: Final = 1800.0


class NoDaemon(Exception):
    """No daemon keeps the certificates of this folder now."""


@contextmanager
def socket_path(folder: str) -> Iterator[str]:
    """
    The path of the socket, short enough for the kernel however long the folder's is.
    """
    path = os.path.join(folder, NAME)
    if len(os.fsencode(path)) <= LONGEST_SOCKET:
        yield path
        return
    opened = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{opened}/{NAME}"
    finally:
        os.close(opened)


def ask(folder: str, word: str, hosts: Sequence[str] = ()) -> Iterator[Outcome]:
    """
    Ask the daemon, and give its answers as they come. Blocks.

    :raises NoDaemon: there is none.
    :raises OSError: the socket cannot be used.
    """
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as line:
        line.settimeout(_PATIENCE)
        try:
            with socket_path(folder) as path:
                line.connect(path)
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise NoDaemon from error
        # Who is told that too many ask may find the line closed.
        with suppress(BrokenPipeError, ConnectionResetError), line.makefile("rb") as answers:
            with suppress(BrokenPipeError):
                line.sendall(" ".join([word, *hosts]).encode() + b"\n")
            for answer in answers:
                yield Outcome(**json.loads(answer))
