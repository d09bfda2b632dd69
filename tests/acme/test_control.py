"""Tests for :mod:`contentcache.acme.control`."""

from __future__ import annotations

import os
import socket
import threading

from twisted.trial.unittest import SynchronousTestCase

from contentcache.acme.control import NoDaemon, ask, socket_path
from contentcache.acme.renewal_state import Outcome


class CommandsEndTests(SynchronousTestCase):
    """The command's end."""

    def test_no_daemon(self) -> None:
        """Without a socket, or with one that nobody listens on, there is no daemon."""
        folder = self.mktemp()
        self.assertRaises(NoDaemon, list, ask(folder, "status"))
        os.makedirs(folder)
        self.assertRaises(NoDaemon, list, ask(folder, "status"))
        with socket_path(folder) as path, socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        self.assertRaises(NoDaemon, list, ask(folder, "status"))

    def test_long_path(self) -> None:
        """A folder's path may be longer than a socket's can be."""
        folder = os.path.join(self.mktemp(), "a" * 90, "b" * 90)
        os.makedirs(folder)
        with socket.socket(socket.AF_UNIX) as server:
            with socket_path(folder) as path:
                server.bind(path)
            server.listen()

            def answer() -> None:
                line, _ = server.accept()
                with line:
                    line.recv(100)
                    line.sendall(b'{"host": "a", "is_new": true, "says": "yes"}\n')

            thread = threading.Thread(target=answer)
            thread.start()
            self.assertEqual(list(ask(folder, "status")), [Outcome("a", True, "yes")])
            thread.join()
