"""``contentcache serve``: the daemon in the foreground, as whoever has installed it starts it."""

from __future__ import annotations

import os
import pwd
import signal
import socket
import sys
import threading
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import COMMAND, INTERRUPTIBLE, ContentCache, command, environment
from tests.real.clients import Curl
from tests.real.images import push_blob, random_bytes
from tests.real.line import CountingProxy
from tests.real.origin import Origin
from tests.real.programs import Case, Process, needs, place, privileged_port, short_place, status_of, until
from tests.real.worker_processes import all_serve

#: Programs that start the daemon of the configuration that is their argument.
_SERVE = "from contentcache.commands.main import main; main(['serve', sys.argv[1]])"
_TWISTD = (
    "from twisted.scripts.twistd import run; "
    "sys.argv[1:] = ['--nodaemon', '--pidfile=', 'contentcache', '--config', sys.argv[1]]; run()"
)


class ServedCache(ContentCache):
    """A cache that ``arguments`` start, in a folder of its own that is empty."""

    def __init__(
        self, case: Case, *arguments: str, settings: dict[str, object] | None = None, **options: object
    ) -> None:
        self._arguments = arguments
        self.working_directory = place(case)
        super().__init__(case, "http://127.0.0.1:1", settings=settings, **options)  # type: ignore[arg-type]

    def _begin(self, port: int) -> Process:
        self.port = port
        self._write()
        process = Process(
            self._case,
            [*INTERRUPTIBLE, *(word.replace("FILE", str(self.config)) for word in self._arguments)],
            name="contentcache",
            env=environment(self._env),
            cwd=self.working_directory,
            log_path=self._folder / "contentcache.log",
        )
        process.wait_for(f"{self.url}/", statuses=(200,))
        return process


class ServeTests(SynchronousTestCase):
    """One worker."""

    workers = 1

    def cache(self, *arguments: str, **options: object) -> ServedCache:
        """A cache all of whose workers serve."""
        cache = ServedCache(self, *(arguments or ("serve", "FILE")), **options)  # type: ignore[arg-type]
        if self.workers > 1:
            all_serve(cache)
        return cache

    def test_starts_and_stops(self) -> None:
        """
        A file in place of a command serves too, as does an option; nothing is written where it was started, the
        log is on standard output, and both signals that stop it end it with status 0.
        """
        for arguments, stops in (
            (("serve", "FILE"), signal.SIGTERM),
            (("FILE",), signal.SIGINT),
            (("serve", "--config", "FILE"), signal.SIGTERM),
        ):
            cache = self.cache(*arguments)
            cache.wait_for_log("daemon listens on")
            cache.process.send(stops)
            self.assertEqual(cache.process.wait(), 0, cache.log())
            self.assertEqual(os.listdir(cache.working_directory), [])
            self.assertFalse((cache.root / "run" / "admin.sock").exists())

    def test_environment(self) -> None:
        """Without a file and without a command, the variable names the configuration."""
        first = self.cache()
        first.stop()
        process = Process(
            self,
            COMMAND,
            name="by variable",
            env=environment({"REGISTRY_CONFIGURATION_PATH": str(first.config)}),
            cwd=first.working_directory,
        )
        process.wait_for(f"{first.url}/", statuses=(200,))

    def test_rotates(self) -> None:
        """``SIGUSR1`` begins a new log file, and hurts nobody without one."""
        folder = place(self)
        log = folder / "cache.log"
        cache = self.cache("serve", "--logfile", str(log), "FILE")
        until(lambda: "daemon listens on" in log.read_text("utf-8"), "the first line")
        cache.process.send(signal.SIGUSR1)
        until((folder / "cache.log.1").exists, "the old log beside the new one")
        self.assertEqual(status_of(f"{cache.url}/"), 200)
        until(lambda: '"GET / ' in log.read_text("utf-8"), "a line in the new log")
        # As logrotate does: the file was moved before.
        log.rename(folder / "moved")
        cache.process.send(signal.SIGUSR1)
        until(log.exists, "a new log")
        self.assertEqual(cache.stop(), 0)
        cache = self.cache()
        cache.process.send(signal.SIGUSR1)
        cache.reload()
        cache.wait_for_log("reloaded")
        self.assertTrue(cache.process.alive)

    def test_notifies(self) -> None:
        """Who has started it is told when it serves, that it is alive, when it reloads and when it stops."""
        path = short_place(self) / "notify"
        states = self.listen(path)
        cache = self.cache(env={"NOTIFY_SOCKET": str(path), "WATCHDOG_USEC": "400000"})
        until(lambda: states.count("READY=1") == 1 and states.count("WATCHDOG=1") > 1, "that it is ready")
        cache.reload()
        until(lambda: "RELOADING=1" in states and states.count("READY=1") > 1, "a reload")
        cache.process.send(signal.SIGTERM)
        self.assertEqual(cache.process.wait(), 0)
        until(lambda: "STOPPING=1" in states, "that it stops")

    def listen(self, path: Path) -> list[str]:
        """What is told at ``path``, in a list that grows. The kernel holds a few messages only."""
        states: list[str] = []
        manager = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        manager.bind(str(path))

        def receive() -> None:
            while received := manager.recv(1024):
                states.extend(received.decode("ascii").split("\n"))
            manager.close()

        def end() -> None:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as ending:
                ending.sendto(b"", str(path))

        threading.Thread(target=receive, daemon=True).start()
        self.addCleanup(end)
        return states

    def test_drains(self) -> None:
        """A transfer may finish after ``SIGTERM``."""
        origin = Origin(self)
        line = CountingProxy(self, origin.port, rate=1_000_000)
        digest = push_blob(origin, "org/app", random_bytes(3_000_000, "drained"))
        cache = self.cache(settings=_before(line.url), http={"draintimeout": "60s"})
        curl = Curl(self).start(f"{cache.url}/v2/org/app/blobs/{digest}")
        until(lambda: curl.received() > 0, "the first bytes of a transfer")
        cache.process.send(signal.SIGTERM)
        fetched = curl.result()
        self.assertEqual((fetched.ended, fetched.status, fetched.size), (0, 200, 3_000_000))
        self.assertEqual(cache.process.wait(), 0)


class ServeWorkersTests(ServeTests):
    """Two workers, which the supervisor speaks for."""

    workers = 2


class AccountTests(SynchronousTestCase):
    """``--user``."""

    workers = 1

    @needs(root=True)
    def test_gives_up_root(self) -> None:
        """It binds a low port as root, and is another account from then on, which owns what it makes."""
        nobody = pwd.getpwnam("nobody")
        root = short_place(self)
        os.chown(root, nobody.pw_uid, nobody.pw_gid)
        port = privileged_port()
        log = root / "log" / "cache.log"
        log.parent.mkdir(mode=0o755)
        cache = self.served(root, port, log)
        status = Path(f"/proc/{cache.pid}/status").read_text("ascii")
        fields = {line.partition(":")[0]: line.split()[1:] for line in status.splitlines()}
        self.assertEqual(set(fields["Uid"]), {str(nobody.pw_uid)})
        self.assertEqual(set(fields["Gid"]), {str(nobody.pw_gid)})
        self.assertNotIn("0", fields["Groups"])
        socket_path = root / "store" / "run" / "admin.sock"
        until(socket_path.exists, "the admin socket")
        self.assertEqual(
            (socket_path.stat().st_uid, socket_path.stat().st_mode & 0o777), (nobody.pw_uid, 0o600)
        )
        self.assertEqual(socket_path.parent.stat().st_mode & 0o777, 0o700)
        self.assertEqual(log.stat().st_uid, nobody.pw_uid)
        self.assertEqual(cache.stop(), 0)

    def served(self, root: Path, port: int, log: Path) -> Process:
        """The daemon at ``port``."""
        config = place(self) / "config.yml"
        config.write_text(_minimal(root / "store", f"127.0.0.1:{port}"), "utf-8")
        argv: list[str | Path] = [*COMMAND, "serve", "--user", "nobody", "--logfile", log, config]
        process = Process(self, argv, name="contentcache", env=environment(), cwd=place(self))
        process.wait_for(f"http://127.0.0.1:{port}/", statuses=(200,))
        return process

    def test_refused(self) -> None:
        """What is no account is a usage error, and nothing is begun."""
        folder = place(self)
        config = folder / "config.yml"
        config.write_text(_minimal(folder / "store", "127.0.0.1:0"), "utf-8")
        for user, words in (
            ("nobody-of-that-name", "there is no user"),
            ("nobody:no-such-group", "there is no group"),
            ("987654321", "its group must be given"),
            ("", "there is no user"),
        ):
            done = command("serve", "--user", user, config, cwd=folder)
            self.assertEqual((done.returncode, done.stdout), (2, ""), user)
            self.assertIn(words, done.stderr)
        self.assertEqual(sorted(os.listdir(folder)), ["config.yml"])


class RefusedTests(SynchronousTestCase):
    """Bad input: a sentence, a status, nothing begun and no traceback."""

    def test_configuration(self) -> None:
        """A file that is not there is status 1, as a command line that makes no sense is 2."""
        folder = place(self)
        for arguments, status, words in (
            (("/nope.yml",), 1, "/nope.yml: cannot be read"),
            (("serve", "--usr", "nobody"), 2, "No such option"),
        ):
            done = command(*arguments, cwd=folder)
            self.assertEqual((done.returncode, done.stdout), (status, ""), (arguments, done.stderr))
            self.assertIn(words, done.stderr, arguments)
            self.assertNotIn("Traceback", done.stderr, arguments)
        self.assertEqual(os.listdir(folder), [])

    def test_in_use(self) -> None:
        """A port that is taken and a log file that cannot be written are status 1."""
        folder = place(self)
        config = folder / "config.yml"
        with socket.create_server(("127.0.0.1", 0)) as taken:
            config.write_text(_minimal(folder / "store", f"127.0.0.1:{taken.getsockname()[1]}"), "utf-8")
            done = command("serve", config, cwd=folder)
        self.assertEqual(done.returncode, 1)
        self.assertIn("address already in use", done.stderr.lower())
        self.assertNotIn("Traceback", done.stderr + done.stdout)
        done = command("serve", "--logfile", folder / "nowhere" / "log", config, cwd=folder)
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("nowhere", done.stderr)
        self.assertNotIn("Traceback", done.stderr)

    def test_no_worker(self) -> None:
        """Workers that cannot be started, or end before they serve, end the daemon: a sentence and status 1."""
        folder = place(self)
        config = folder / "config.yml"
        for program, words in (
            ("/nowhere/python3", "cannot start /nowhere/python3: No such"),
            ("/bin/false", ""),
        ):
            for number, start in enumerate((_SERVE, _TWISTD)):
                store = folder / f"{Path(program).name}-{number}"
                config.write_text(f"{_minimal(store, '127.0.0.1:0')}workers: 2\n", "utf-8")
                argv: list[str | Path] = [
                    sys.executable,
                    "-c",
                    f"import sys; sys.executable = '{program}'; {start}",
                    config,
                ]
                process = Process(self, argv, name="contentcache", env=environment(), cwd=folder)
                self.assertEqual(process.wait(), 1, process.log())
                self.assertIn(f"contentcache: no worker can serve: {words}", process.log())
                self.assertIn("daemon stopped reason=", process.log())
                self.assertNotIn("Traceback", process.log())


def _before(url: str) -> dict[str, object]:
    """The sections that put a cache before another upstream than that of the harness."""
    options = {"upstreams": [{"originhost": url}]}
    return {"middleware": {"registry": [{"name": "downstream", "options": options}]}}


def _minimal(root: Path, address: str) -> str:
    """A configuration as text."""
    return (
        f"version: 0.1\nstorage: {{filesystem: {{rootdirectory: {root}}}}}\nhttp: {{addr: '{address}'}}\n"
        "middleware: {registry: [{name: downstream, options: {upstreams: [{originhost: 'http://127.0.0.1:1'}]}}]}\n"
    )
