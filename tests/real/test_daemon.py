"""The daemon as a process: started, reloaded and stopped as operators do it."""

from __future__ import annotations

import contextlib
import hashlib
import json
import re
import signal
import socket
import ssl
import subprocess
import threading
import urllib.request
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import TWISTD, ContentCache, daemon
from tests.real.programs import ROOT, Process, free_port, place, plain_environment, until
from tests.tls.certificates import make

#: More than the sockets between here and there hold.
_CONTENT: Final = bytes(1 << 20) * 48
_DIGEST: Final = "sha256:" + hashlib.sha256(_CONTENT).hexdigest()
_BLOB: Final = f"/v2/org/app/blobs/{_DIGEST}"
#: Where nobody answers.
_NOWHERE: Final = "http://127.0.0.1:1"


class _Registry(BaseHTTPRequestHandler):
    """An origin of one blob."""

    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(_CONTENT)))
        self.send_header("Docker-Content-Digest", _DIGEST)
        self.end_headers()

    def do_GET(self) -> None:
        self.do_HEAD()
        with contextlib.suppress(ConnectionError):
            self.wfile.write(_CONTENT)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002
        """Nothing."""


class DaemonTestCase(SynchronousTestCase):
    """Starts daemons."""

    def origin(self) -> str:
        """The URL of a running origin."""
        server = ThreadingHTTPServer(("127.0.0.1", 0), _Registry)
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        self.addCleanup(thread.join)
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        return f"http://127.0.0.1:{server.server_port}"

    def assert_refused(self, process: Process, *sentences: str) -> None:
        """It does not start, says why in these words, and leaves no trace of its inside."""
        self.assertEqual(process.wait(), 1, process.log())
        for sentence in sentences:
            process.wait_for_log(sentence)
        self.assertNotIn("Traceback", process.log())

    def file(self, name: str, text: str) -> Path:
        """A configuration."""
        path = place(self) / name
        path.write_text(text, "utf-8")
        return path


class StartTests(DaemonTestCase):
    """What starts, and what does not."""

    def test_starts_alone(self) -> None:
        """No upstream need be there; health says how things are, and ends with the daemon."""
        cache = ContentCache(self, _NOWHERE)
        url = f"http://127.0.0.1:{cache.debug_port}/debug/health"
        with urllib.request.urlopen(url, timeout=10) as answer:
            told = json.loads(answer.read())
        self.assertEqual((told["status"], told["checks"]["store"]["state"]), ("ok", "ok"))
        cache.wait_for_log("daemon listens on")
        self.assertIn(cache.stop(), {0, -signal.SIGTERM})
        self.assertNotIn("Traceback", cache.log())

    def test_bad_configuration(self) -> None:
        """All faults at once, and nothing starts."""
        config = self.file("config.yml", "version: 0.1\nhtp: {}\nhttp: {addr: nowhere}\nlog: {level: loud}\n")
        self.assert_refused(
            daemon(self, config), f"{config}:2: htp:", f"{config}:3: http.addr:", f"{config}:4: log.level:"
        )

    def test_no_configuration(self) -> None:
        """A file that is not there is told in a sentence."""
        self.assert_refused(daemon(self, place(self) / "nowhere.yml"), "nowhere.yml: cannot be read")

    def test_second_on_the_same_store(self) -> None:
        """A store has one daemon; a second one says so, and the first goes on."""
        first = ContentCache(self, _NOWHERE)
        sections = first.sections()
        sections["http"] = {"addr": f"127.0.0.1:{free_port()}"}
        config = self.file("second.yml", json.dumps(sections))
        self.assert_refused(daemon(self, config), "contentcache: ", str(first.root), "another")
        self.assertEqual(first.health(), 200)

    def test_port_taken(self) -> None:
        """A port that somebody has is named, of both addresses."""
        first = ContentCache(self, _NOWHERE)
        for http in (
            {"addr": first.host},
            {"addr": f"127.0.0.1:{free_port()}", "debug": {"addr": first.host}},
        ):
            sections = {**first.sections(), "http": http}
            sections["storage"] = {"filesystem": {"rootdirectory": str(place(self))}}
            config = self.file("second.yml", json.dumps(sections))
            self.assert_refused(
                daemon(self, config), f"contentcache: cannot listen on {first.host}: Address already in use"
            )

    def test_no_store(self) -> None:
        """A store that cannot be had is named."""
        path = place(self) / "file"
        path.write_text("not a folder", "utf-8")
        sections = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(path)}},
            "http": {"addr": f"127.0.0.1:{free_port()}"},
            "middleware": {"registry": [{"name": "downstream", "options": {"upstreams": [_NOWHERE]}}]},
        }
        process = daemon(self, self.file("config.yml", json.dumps(sections)))
        self.assert_refused(process, "contentcache: ", str(path))

    def test_in_the_background(self) -> None:
        """Without ``--nodaemon`` the refusal is in the log, and the status tells whoever started it."""
        first = ContentCache(self, _NOWHERE)
        sections = {**first.sections(), "http": {"addr": first.host}}
        config = self.file("second.yml", json.dumps(sections))
        done = subprocess.run(
            [*TWISTD, "contentcache", "--config", str(config)],
            cwd=config.parent,
            env=plain_environment({"PYTHONPATH": str(ROOT)}),
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        self.assertEqual(done.returncode, 1, done.stdout + done.stderr)
        self.assertNotIn("Traceback", done.stdout + done.stderr)
        self.assertIn("cannot listen on", done.stdout + done.stderr)
        written = (config.parent / "twistd.log").read_text("utf-8")
        self.assertIn(f"cannot listen on {first.host}", written)
        self.assertNotIn("Traceback", written)
        self.assertFalse((config.parent / "twistd.pid").exists())


class StopTests(DaemonTestCase):
    """``SIGTERM``."""

    def open_transfer(self, cache: ContentCache) -> socket.socket:
        """A client that has the first bytes of the blob, and takes no more for now."""
        client = socket.create_connection(("127.0.0.1", cache.port), 30)
        self.addCleanup(client.close)
        client.sendall(f"GET {_BLOB} HTTP/1.1\r\nHost: a\r\n\r\n".encode())
        self.assertTrue(client.recv(1 << 16).startswith(b"HTTP/1.1 200 "))
        return client

    def stopping(self, cache: ContentCache) -> None:
        """Send the signal, and wait until no new connection is taken."""
        cache.process.send(signal.SIGTERM)

        def is_refused() -> bool:
            try:
                socket.create_connection(("127.0.0.1", cache.port), 5).close()
            except ConnectionRefusedError:
                return True
            return False

        until(is_refused, "new connections are refused")

    @staticmethod
    def rest(client: socket.socket) -> int:
        """How many bytes come until the end; a reset raises."""
        count = 0
        while piece := client.recv(1 << 20):
            count += len(piece)
        return count

    def test_drain(self) -> None:
        """A transfer is finished; an idle connection is ended at once, new ones are refused; then it is over."""
        cache = ContentCache(self, self.origin(), http={"draintimeout": "60s"})
        idle = socket.create_connection(("127.0.0.1", cache.port), 30)
        self.addCleanup(idle.close)
        client = self.open_transfer(cache)
        self.stopping(cache)
        self.assertEqual(idle.recv(1), b"")
        self.assertTrue(cache.process.alive)
        self.assertGreater(self.rest(client), len(_CONTENT) - (1 << 16))
        self.assertIn(cache.process.wait(), {0, -signal.SIGTERM})
        self.assertNotIn("Traceback", cache.log())

    def test_drain_ends(self) -> None:
        """A transfer that takes longer than ``http.draintimeout`` ends short."""
        cache = ContentCache(self, self.origin(), http={"draintimeout": "200ms"})
        client = self.open_transfer(cache)
        self.stopping(cache)
        self.assertIn(cache.process.wait(), {0, -signal.SIGTERM})
        self.assertLess(self.rest(client), len(_CONTENT) - (1 << 16))
        self.assertNotIn("Traceback", cache.log())
        cache.wait_for_log(re.compile(r"daemon listens on .* role=cache workers=1"))
        cache.wait_for_log("daemon stopping reason=SIGTERM ")
        cache.wait_for_log(re.compile(r"daemon stopped reason=SIGTERM uptime=\d+s responses_cut=1 "))
        cache.wait_for_log(_BLOB)
        lines = [line for line in cache.access_lines() if _BLOB in line]
        self.assertEqual(len(lines), 1, lines)
        # The connection to the origin was cut here, which says nothing of the origin.
        self.assertNotIn("upstream unhealthy", cache.log())
        _, _, after = cache.log().partition("daemon stopped")
        self.assertNotIn(" warn ", after)

    def test_at_once(self) -> None:
        """Without ``http.draintimeout`` nobody is waited for."""
        cache = ContentCache(self, self.origin())
        client = self.open_transfer(cache)
        self.stopping(cache)
        self.assertIn(cache.process.wait(), {0, -signal.SIGTERM})
        self.assertLess(self.rest(client), len(_CONTENT) - (1 << 16))


class ReloadTests(DaemonTestCase):
    """``SIGHUP``."""

    def shown(self, port: int) -> str:
        """The certificate that a new connection gets."""
        return ssl.get_server_certificate(("127.0.0.1", port), timeout=30)

    def test_certificates(self) -> None:
        """New files are for new connections; broken ones change nothing, and that is said."""
        folder = place(self)
        certificate, key = make("old", hosts=("127.0.0.1",)).write(str(folder), "cache")
        tls = {"certificate": certificate, "key": key}
        port = free_port()
        sections = {
            "version": "0.1",
            "storage": {"inmemory": {}},
            "http": {"addr": f"127.0.0.1:{port}", "tls": tls},
            "middleware": {"registry": [{"name": "downstream", "options": {"upstreams": [_NOWHERE]}}]},
        }
        process = daemon(self, self.file("config.yml", json.dumps(sections)))
        process.wait_for(f"https://127.0.0.1:{port}/", statuses=(200,))
        old = self.shown(port)
        Path(certificate).write_text("rubbish", "utf-8")
        process.send(signal.SIGHUP)
        process.wait_until(lambda: "certificates not reloaded" in process.log(), "says so")
        self.assertEqual(self.shown(port), old)
        make("new", hosts=("127.0.0.1",)).write(str(folder), "cache")
        process.send(signal.SIGHUP)
        process.wait_until(lambda: self.shown(port) != old, "shows the new certificate")
        self.assertNotIn("Traceback", process.log())
