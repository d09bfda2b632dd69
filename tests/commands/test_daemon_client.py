"""Tests for :mod:`contentcache.commands.daemon_client`."""

from __future__ import annotations

import os
import shutil
import socket
import tempfile
import threading

from twisted.trial.unittest import SynchronousTestCase

from contentcache.commands.daemon_client import DaemonClient, RefusedError
from contentcache.config.model import Address


class DaemonClientTests(SynchronousTestCase):
    """What answers requests of the commands."""

    def answer(self, listening: socket.socket, body: bytes) -> None:
        """Answer one request, in a thread."""
        self.addCleanup(listening.close)

        def serve() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1000)
                connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))

        thread = threading.Thread(target=serve)
        thread.start()
        self.addCleanup(thread.join)

    def test_no_document(self) -> None:
        """JSON that is no object, lacks fields, or is nested too deeply, is of another program."""
        folder = tempfile.mkdtemp(prefix="cache-")
        self.addCleanup(shutil.rmtree, folder)
        for number, body in enumerate((b"[]", b"5", b"{}", b"[" * 100_000)):
            path = os.path.join(folder, str(number))
            listening = socket.socket(socket.AF_UNIX)
            listening.bind(path)
            listening.listen()
            self.answer(listening, body)
            error = self.assertRaises(RefusedError, DaemonClient(path, None).get, "status")
            self.assertIn("no Content Cache", str(error))

    def test_detour(self) -> None:
        """What is read at the debug address, since the socket is gone, comes with a sentence."""
        listening = socket.create_server(("127.0.0.1", 0))
        self.answer(listening, b"{}")
        client = DaemonClient("/nowhere/admin.sock", Address("127.0.0.1", listening.getsockname()[1]))
        self.assertEqual(client.get("health"), {})
        (detour,) = client.detours
        self.assertIn("/nowhere/admin.sock: No such file or directory; this was read at the debug", detour)
