"""
Tests for :mod:`contentcache.acme.control`.
"""

from __future__ import annotations

import json
import os
import socket
import threading
from typing import Any

from twisted.internet.testing import StringTransport
from twisted.trial.unittest import SynchronousTestCase

from contentcache.acme.control import ControlFactory, NoDaemon, ask, socket_path
from contentcache.acme.standing import Outcome
from tests.acme.house import HOST, HouseTestCase


class DaemonsEndTests(HouseTestCase):
    """
    The daemon's end.
    """

    def told(self, line: str, seconds: float = 5) -> list[Any]:
        """What it answers."""
        assert self.keeper is not None
        protocol = ControlFactory(self.keeper).buildProtocol(None)
        transport = StringTransport()
        protocol.makeConnection(transport)
        protocol.dataReceived(line.encode() + b"\n")
        self.pass_time(seconds)
        self.assertTrue(transport.disconnecting)
        return [json.loads(each) for each in transport.value().splitlines()]

    def test_words(self) -> None:
        """
        It tells how things are, renews, and knows no other host and no other word.
        """
        self.build()
        self.pass_time(5)
        first = self.number()
        [status] = self.told("status")
        self.assertEqual((status["host"], status["is_new"]), (HOST, True))
        self.assertEqual(self.number(), first)
        [renewed] = self.told("renew")
        self.assertTrue(renewed["is_new"])
        self.assertNotEqual(self.number(), first)
        [stranger] = self.told("renew x.example")
        self.assertEqual((stranger["host"], stranger["is_new"]), ("x.example", False))
        for line in ("", "dance", "renew\x00", "\u00fc"):
            self.assertEqual(self.told(line), [])


class CommandsEndTests(SynchronousTestCase):
    """
    The command's end.
    """

    def test_no_daemon(self) -> None:
        """
        Without a socket, or with one that nobody listens on, there is no daemon.
        """
        folder = self.mktemp()
        self.assertRaises(NoDaemon, list, ask(folder, "status"))
        os.makedirs(folder)
        self.assertRaises(NoDaemon, list, ask(folder, "status"))
        with socket_path(folder) as path, socket.socket(socket.AF_UNIX) as dead:
            dead.bind(path)
        self.assertRaises(NoDaemon, list, ask(folder, "status"))

    def test_long_path(self) -> None:
        """
        A folder's path may be longer than a socket's can be.
        """
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
