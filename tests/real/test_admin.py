"""The admin API and the commands that use it, with real daemons: what is shown, and who gets in."""

from __future__ import annotations

import http.client
import json
import os
import pty
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import COMMAND, INTERRUPTIBLE, ContentCache, command, environment
from tests.real.clients import Curl
from tests.real.gateway import GatewayDaemon
from tests.real.images import push_blob, random_bytes
from tests.real.line import CountingProxy
from tests.real.origin import Origin, basic
from tests.real.programs import ROOT, needs, place, plain_environment, settled, short_place, until
from tests.real.worker_processes import all_serve

_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS")
_PATHS = ("status", "health", "downloads", "upstreams", "reload", "openapi.json", "", "nothing")


class AtPath(http.client.HTTPConnection):
    """A connection to a Unix socket."""

    def __init__(self, path: Path) -> None:
        super().__init__("localhost", timeout=60)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX)
        self.sock.settimeout(60)
        folder = os.open(
            self._path.parent, os.O_RDONLY
        )  # a test's folder has a longer name than a socket may
        try:
            self.sock.connect(f"/proc/self/fd/{folder}/{self._path.name}")
        finally:
            os.close(folder)


def ask(
    connection: http.client.HTTPConnection,
    method: str,
    target: str,
    headers: Mapping[str, str] | None = None,
) -> tuple[int, bytes]:
    """One request on a connection of its own: status and body."""
    try:
        connection.request(method, target, headers=dict(headers or {}))
        answer = connection.getresponse()
        return answer.status, answer.read()
    finally:
        connection.close()


class StatusTests(SynchronousTestCase):
    """``contentcache status`` and ``reload``, with one worker."""

    workers = 1

    def start(self, upstream: str = "http://127.0.0.1:1", **settings: object) -> ContentCache:
        """A cache all of whose workers serve."""
        cache = ContentCache(self, upstream, **settings)  # type: ignore[arg-type]
        if self.workers > 1:
            all_serve(cache)
        until((cache.root / "run" / "admin.sock").exists, "the admin socket")
        return cache

    def document(self, cache: ContentCache) -> Any:
        """``status --json``."""
        done = command("status", cache.config, "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        return json.loads(done.stdout)

    def test_follows_a_download(self) -> None:
        """
        While a blob is on its way it is shown with its progress, and nothing as saved; pulled again from the store,
        it is. The store, the upstream and the error of another request are there, too.
        """
        origin = Origin(self)
        line = CountingProxy(self, origin.port, rate=50_000)  # a command takes seconds on a busy machine
        size = 4_000_000
        digest = push_blob(origin, "org/app", random_bytes(size, "followed"))
        cache = self.start(line.url, options={"maxsize": "1GB"})
        blob = f"{cache.url}/v2/org/app/blobs/{digest}"
        curl = Curl(self).start(blob)
        (download,) = until(lambda: self.document(cache)["downloads"], "a running download")
        self.assertEqual((download["digest"], download["repository"]), (digest, "org/app"))
        self.assertEqual((download["size"], download["subscribers"]), (size, 1))
        self.assertEqual(download["upstream"], line.url)
        self.assertEqual(self.document(cache)["savings"]["start"]["saved_bytes"], 0)
        line.rate = None
        self.assertEqual(curl.result().status, 200)
        cache.wait_stored(digest)
        self.assertEqual(Curl(self).start(blob).result().status, 200)

        def saved() -> tuple[int, int, int]:
            start = self.document(cache)["savings"]["start"]
            return start["saved_bytes"], start["pulls"], start["hits"]

        self.assertEqual(settled(saved, (size, 2, 1)), (size, 2, 1))
        self.assertEqual(settled(lambda: self.document(cache)["store"]["used_bytes"], size), size)
        line.stop()
        Curl(self).start(f"{cache.url}/v2/org/app/manifests/nothing").result()
        until(lambda: not self.document(cache)["upstreams"][0]["healthy"], "an unhealthy upstream")
        until(lambda: self.document(cache)["store"]["evicted_next"], "what is evicted next")
        document = self.document(cache)
        self.assertEqual(document["workers"], {"serving": self.workers, "configured": self.workers})
        self.assertEqual((document["store"]["blobs"], document["store"]["limit_bytes"]), (1, 10**9))
        self.assertEqual(document["store"]["evicted_next"][0]["repository"], "org/app")
        self.assertIn("upstream unhealthy", [error["event"] for error in document["errors"]])
        told = command("status", cache.config)
        self.assertEqual((told.returncode, told.stderr), (0, ""))
        for words in (
            "needs attention",
            "1 of 1 upstreams unhealthy",
            "unhealthy",
            "org/app",
            "upstream unhealthy",
        ):
            self.assertIn(words, told.stdout)
        self.assertNotIn("\x1b", told.stdout)

    def test_reloads(self) -> None:
        """A reload says what has changed, and what needs a restart; a faulty file changes nothing: status 1."""
        cache = self.start()
        good = cache.config.read_text("utf-8")
        changed = json.loads(good)
        changed["log"]["level"] = "info"
        changed["http"]["prefix"] = "/cache/"
        cache.config.write_text(json.dumps(changed), "utf-8")
        done = command("reload", cache.config, "--json")
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        told = json.loads(done.stdout)
        self.assertEqual(
            (told["ok"], told["changed"], told["restart_needed"]), (True, ["log.level"], ["http.prefix"])
        )
        self.assertEqual(self.document(cache)["reload"], told)
        cache.config.write_text(good.replace('"log"', '"lgo"'), "utf-8")
        done = command("reload", cache.config)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("lgo: unknown key; did you mean log?", done.stderr)
        shown = command("status", cache.config)
        self.assertEqual((shown.returncode, shown.stderr), (0, ""))
        self.assertIn("refused", shown.stdout)
        cache.config.write_text(good, "utf-8")
        self.assertEqual(command("reload", cache.config).returncode, 0)

    def test_watches(self) -> None:
        """Without a terminal each look is a block, or a line of JSON, until it is interrupted."""
        cache = self.start()
        for arguments, marks in (((), "Content Cache "), (("--json",), '{"version"')):
            output = place(self) / "output"
            with output.open("wb") as file:
                watching = subprocess.Popen(
                    [*INTERRUPTIBLE, "status", cache.config, "--watch", "--interval", "0.2", *arguments],
                    stdout=file,
                    stderr=subprocess.STDOUT,
                    env=plain_environment(environment()),
                )
                until(partial(_shows, output, marks, 3), "three looks")
                watching.send_signal(signal.SIGINT)
                self.assertEqual(watching.wait(60), 0)
            lines = output.read_text("utf-8").splitlines()
            if arguments:
                self.assertTrue(all(json.loads(line)["role"] == "cache" for line in lines))

    def test_terminal(self) -> None:
        """On a terminal of 80 columns it is shown live, no wider than that, and ends with Ctrl-C."""
        cache = self.start()
        screen = _screen(self, [*INTERRUPTIBLE, "status", str(cache.config), "--watch"], "upstreams")
        self.assertIn("Content Cache", screen)
        self.assertIn("http://127.0.0.1:1", screen)


class StatusWorkersTests(StatusTests):
    """The same with two workers: the supervisor answers for them."""

    workers = 2


class UnreachableTests(SynchronousTestCase):
    """Where no daemon can be asked."""

    workers = 1

    def test_none(self) -> None:
        """No daemon is status 3 and a sentence, as JSON too; a socket that was left behind is none."""
        cache = ContentCache(self, "http://127.0.0.1:1")
        until((cache.root / "run" / "admin.sock").exists, "the admin socket")
        cache.kill9()
        for arguments in (("status",), ("reload",), ("status", "--watch")):
            done = command(*arguments, cache.config)
            self.assertEqual((done.returncode, done.stdout), (3, ""))
            self.assertIn("no daemon answers at ", done.stderr)
            done = command(*arguments, cache.config, "--json")
            self.assertEqual(done.returncode, 3)
            self.assertIn("no daemon answers at ", json.loads(done.stdout)["error"])
        self.assertEqual(command("alive", cache.config).returncode, 3)
        cache.start()
        until(lambda: command("status", cache.config).returncode == 0, "the daemon at the same place")

    def test_in_memory(self) -> None:
        """A store in memory has no socket unless it is given one; what can be read is read at the debug address."""
        path = short_place(self) / "deep" / "admin.sock"
        settings: dict[str, object] = {"storage": {"inmemory": {}}}
        cache = ContentCache(self, "http://127.0.0.1:1", settings=settings)
        self.assertEqual(command("status", cache.config).returncode, 0)
        done = command("reload", cache.config)
        self.assertEqual((done.returncode, done.stdout), (3, ""))
        self.assertIn("set http.admin", done.stderr)
        cache = ContentCache(self, "http://127.0.0.1:1", settings=settings, http={"admin": str(path)})
        until(path.exists, "the admin socket")
        self.assertEqual(path.parent.stat().st_mode & 0o777, 0o700)
        self.assertEqual(command("reload", cache.config).returncode, 0)

    def test_something_else(self) -> None:
        """What answers there and is no Content Cache is status 1."""
        folder = short_place(self)
        cache = ContentCache(self, "http://127.0.0.1:1", http={"admin": str(folder / "admin.sock")})
        cache.stop()
        with socket.socket(socket.AF_UNIX) as other:
            other.bind(str(folder / "admin.sock"))
            other.listen()
            asking = subprocess.Popen(
                [*COMMAND, "status", cache.config],
                stderr=subprocess.PIPE,
                env=plain_environment(environment()),
                text=True,
            )
            client, _ = other.accept()
            with client:
                client.recv(1000)
                client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello")
            _, told = asking.communicate(timeout=60)
        self.assertEqual(asking.returncode, 1)
        self.assertIn("no Content Cache", told)

    def test_read_only_disk(self) -> None:
        """Where the socket cannot be made, the daemon serves, and the log says why."""
        root = place(self)
        (root / "run").write_text("in the way", "ascii")
        cache = ContentCache(self, "http://127.0.0.1:1", root=root)
        cache.wait_for_log("admin socket unavailable path=")
        self.assertEqual((root / "run").read_text("ascii"), "in the way")

    def test_wide_folder(self) -> None:
        """The socket's folder is narrowed where it is the daemon's, and refused where others may write into it."""
        root = place(self)
        (root / "run").mkdir()
        (root / "run").chmod(0o777)
        cache = ContentCache(self, "http://127.0.0.1:1", root=root)
        until((root / "run" / "admin.sock").exists, "the admin socket")
        self.assertEqual((root / "run").stat().st_mode & 0o777, 0o700)
        cache.stop()
        folder = short_place(self)
        folder.chmod(0o777)
        cache = ContentCache(self, "http://127.0.0.1:1", http={"admin": str(folder / "admin.sock")})
        cache.wait_for_log(f"{folder} can be written by other accounts")
        self.assertEqual(os.listdir(folder), [])
        done = command("status", cache.config)
        self.assertEqual(done.returncode, 0, done.stderr)
        self.assertIn("read at the debug address instead", done.stderr)


class AccessMatrixTests(SynchronousTestCase):
    """Every door, method, path and credential: who may see what, and that nobody else changes anything."""

    workers = 1

    def test_cache(self) -> None:
        """
        The clients' port knows nothing of the API, whoever asks; the debug address answers reads alone; the socket
        does everything.
        """
        cache = ContentCache(self, "http://127.0.0.1:1")
        until((cache.root / "run" / "admin.sock").exists, "the admin socket")
        for credential in (None, basic("alice", "secret"), "Bearer aaaa.bbbb.cccc"):
            headers = {} if credential is None else {"Authorization": credential}
            for method in _METHODS:
                for path in _PATHS:
                    target = f"/v1/{path}"
                    status, body = ask(_port(cache.port), method, target, headers)
                    if method != "OPTIONS":  # which is answered for every path
                        self.assertIn(status, {400, 401, 403, 404, 405}, (method, target))
                    self.assertNotIn(b"uptime", body)
                    status, _ = ask(_port(cache.debug_port), method, target, headers)
                    readable = path not in {"reload", "", "nothing"} and method in {"GET", "HEAD"}
                    self.assertEqual(status == 200, readable, (method, target, status))
                    status, _ = ask(_port(cache.debug_port), method, target, {"Host": "rebound.example"})
                    self.assertEqual(status, 421)
        self.assertNotIn("reloaded", cache.log())
        self.assertEqual(ask(AtPath(cache.root / "run" / "admin.sock"), "POST", "/v1/reload")[0], 200)
        cache.wait_for_log("reloaded")

    @needs("curl", root=True)
    def test_accounts(self) -> None:
        """Another account of the machine does not get to the socket, and root does."""
        folder = short_place(self)
        folder.chmod(0o755)
        cache = ContentCache(self, "http://127.0.0.1:1", root=folder / "root")
        path = folder / "root" / "run" / "admin.sock"
        until(path.exists, "the admin socket")
        path.parent.parent.chmod(0o755)
        argv = ["curl", "--silent", "--unix-socket", str(path), "http://localhost/v1/status"]
        for account, status in (("nobody", 7), ("root", 0)):
            done = subprocess.run(
                argv, user=account, group=0, extra_groups=[], check=False, capture_output=True
            )
            self.assertEqual(done.returncode, status, account)
        path.parent.chmod(0o755)  # the socket's own mode is enough
        done = subprocess.run(argv, user="nobody", group=0, extra_groups=[], check=False, capture_output=True)
        self.assertEqual((done.returncode, done.stdout), (7, b""))
        self.assertEqual(cache.stop(), cache.process.status)

    def test_gateway(self) -> None:
        """Its users and admins do not reach it by the port that they know; the operator sees caches and users."""
        origin = Origin(self, users={"alice": "wonder"})
        gateway = GatewayDaemon(self, origin.url, gateway={"admins": ["alice"]})
        path = gateway.config.parent / "run" / "admin.sock"
        until(path.exists, "the admin socket")
        headers = {"Authorization": basic("alice", "wonder")}
        for method in _METHODS:
            for name in _PATHS:
                status, body = ask(_port(gateway.port), method, f"/v1/{name}", headers)
                self.assertIn(status, {400, 401, 403, 404, 405}, (method, name))
                self.assertNotIn(b"uptime", body)
                status, _ = ask(_port(gateway.debug_port), method, f"/v1/{name}", headers)
                readable = name not in {"reload", "", "nothing"} and method in {"GET", "HEAD"}
                self.assertEqual(status == 200, readable, (method, name, status))
        done = command("status", gateway.config, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        document = json.loads(done.stdout)
        self.assertEqual((document["role"], document["gateway"]["registry"]), ("gateway", origin.url))
        told = command("status", gateway.config)
        self.assertEqual(told.returncode, 0, told.stderr)
        self.assertIn("gateway", told.stdout)


class DescriptionTests(SynchronousTestCase):
    """The API beside its description: ``schemathesis`` asks what that allows, and what it does not."""

    workers = 1

    def test_conforms(self) -> None:
        """With the same seed each time: no answer that is not described, and no crash."""
        cache = ContentCache(self, "http://127.0.0.1:1")
        cache.wait_for_log("daemon listens on")
        done = subprocess.run(
            [
                os.path.join(os.path.dirname(sys.executable), "schemathesis"),
                "run",
                f"http://127.0.0.1:{cache.debug_port}/v1/openapi.json",
                "--checks=not_a_server_error,status_code_conformance,response_schema_conformance",
                "--include-method=GET",
                "--max-examples=10",
                "--seed=1",
                "--request-timeout=60",
                "--no-color",
                "--generation-database=none",
            ],
            cwd=place(self),
            env={**plain_environment(), "PYTHONPATH": str(ROOT)},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=300,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout[-6000:] + done.stderr[-2000:])


def _shows(output: Path, mark: str, times: int) -> bool:
    return output.read_text("utf-8").count(mark) >= times


def _port(port: int) -> http.client.HTTPConnection:
    return http.client.HTTPConnection("127.0.0.1", port, timeout=60)


def _screen(case: SynchronousTestCase, argv: list[str], until_shown: str) -> str:
    """What a program writes to a terminal of 80 columns until ``until_shown``; then it is interrupted, and ends."""
    ours, its = pty.openpty()
    env = {**plain_environment(environment()), "TERM": "xterm-256color", "COLUMNS": "80", "LINES": "40"}
    with subprocess.Popen(
        argv, stdin=its, stdout=its, stderr=its, env=env, start_new_session=True
    ) as process:
        os.close(its)
        written = ""
        deadline = time.monotonic() + 60
        while until_shown not in written and time.monotonic() < deadline:
            written += os.read(ours, 65536).decode("utf-8", "replace")
        process.send_signal(signal.SIGINT)
        try:
            while data := os.read(ours, 65536):
                written += data.decode("utf-8", "replace")
        except OSError:
            pass  # the other end is closed
        case.assertEqual(process.wait(60), 0, written)
    os.close(ours)
    case.assertIn(until_shown, written)
    return written
