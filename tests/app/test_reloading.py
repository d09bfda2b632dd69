"""Reads the configuration again: all of it takes effect, or nothing."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, cast

from twisted.internet.defer import Deferred
from twisted.logger import LogLevel, capturedLogs
from twisted.trial.unittest import SynchronousTestCase

from contentcache.admin.status import ReloadStatus
from contentcache.app.reloading import ConfigurationReload
from contentcache.config.loading import load
from contentcache.config.model import Configuration
from contentcache.telemetry.metrics import Meter
from contentcache.tls.files import TLSConfigurationError

FILE = """\
version: 0.1
storage: {inmemory: {}}
http: {addr: "127.0.0.1:5000"}
log: {level: info}
middleware:
  registry:
    - name: downstream
      options:
        upstreams: [{originhost: "https://a.example", public: true}]
        authttl: 60s
"""
_NEVER_RELOADED = "contentcache_config_last_reload_success_timestamp_seconds"


class ReloadTests(SynchronousTestCase):
    """A file that changes under a daemon."""

    def setUp(self) -> None:
        """A daemon's reload, and what it does."""
        self.path = Path(self.mktemp()).absolute()
        self.path.write_text(FILE, "utf-8")
        self.environ: dict[str, str] = {}
        self.used: list[Configuration] = []
        self.read: list[str] = []
        self.fault: TLSConfigurationError | None = None
        self.waiting: list[Deferred[None]] = []
        self.is_slow = False
        self.meter = Meter()
        self.meter.watch_configuration(100.0)
        self.seconds = 200.0
        self.reload = ConfigurationReload(
            load(str(self.path), {}),
            self.environ,
            readers=lambda _configuration: [self.read_file, self.read_file],
            use=self.used.append,
            run=cast("Any", self.run_in_thread),
            meter=self.meter,
            wall=lambda: self.seconds,
        )

    async def run_in_thread(self, function: Callable[..., Any], *given: Any, **named: Any) -> Any:
        """Run it now, or when a test lets it."""
        if self.is_slow:
            self.waiting.append(Deferred())
            await self.waiting[-1]
        return function(*given, **named)

    def read_file(self) -> Callable[[], None]:
        """Read a file that the configuration names."""
        if self.fault is not None and self.read:
            raise self.fault
        self.read.append("read")
        return lambda: self.read.append("used")

    def result(self, reload: Awaitable[ReloadStatus]) -> ReloadStatus:
        """What came of it."""
        return self.successResultOf(Deferred.fromCoroutine(reload))  # type: ignore[arg-type]

    def write(self, *changes: tuple[str, str]) -> None:
        """Change the file."""
        text = FILE
        for old, new in changes:
            self.assertIn(old, text)
            text = text.replace(old, new)
        self.path.write_text(text, "utf-8")

    def metrics(self) -> tuple[float | None, float | None]:
        """Whether the last reload was successful, and when the last successful one was."""
        value = self.meter.registry.get_sample_value
        return value("contentcache_config_last_reload_success"), value(_NEVER_RELOADED)

    def test_changes(self) -> None:
        """What is live is used and named, the rest is named in a warning; then again, as it is not used yet."""
        self.write(("60s", "7s"), ("level: info", "level: debug"), (":5000", ":5999"))
        with capturedLogs() as lines:
            status = self.result(self.reload.run())
        self.assertEqual(status, ReloadStatus(200.0, True, ("authttl", "log.level"), ("http.addr",)))
        (used,) = self.used
        self.assertEqual((used.downstream.authttl, used.log.level, used.http.addr.port), (7.0, "debug", 5000))
        logged = {(event["log_level"], event["log_format"]): event for event in lines}
        self.assertEqual(logged[LogLevel.info, "configuration reloaded"]["changed"], ("authttl", "log.level"))
        self.assertEqual(logged[LogLevel.warn, "restart needed"]["keys"], ("http.addr",))
        self.assertEqual(self.metrics(), (1.0, 200.0))
        again = self.result(self.reload.run())
        self.assertEqual((again.changed, again.restart_needed), ((), ("http.addr",)))

    def test_nothing_changed(self) -> None:
        """The files that it names are read all the same, and used after all of them are read."""
        status = self.result(self.reload.run())
        self.assertEqual((status.ok, status.changed, status.restart_needed), (True, (), ()))
        self.assertEqual(self.read, ["read", "read", "used", "used"])

    def assert_refused(self, *parts: str) -> None:
        """Nothing is used; why is in the result and in the log."""
        with capturedLogs() as lines:
            status = self.result(self.reload.run())
        self.assertEqual((status.ok, status.changed, status.restart_needed), (False, (), ()))
        self.assertEqual(self.used, [])
        self.assertNotIn("used", self.read)
        reasons = [str(event["reason"]) for event in lines if event["log_level"] is LogLevel.error]
        self.assertEqual(tuple(reasons), status.errors)
        for part in parts:
            self.assertTrue(any(part in reason for reason in reasons), reasons)
        self.assertEqual(self.metrics(), (0.0, 100.0))

    def test_faults(self) -> None:
        """Each fault is said with file and line, as ``check`` says it, and nothing changes."""
        self.write(("60s", "soon"), ("level: info", "level: loud"), (":5000", ":5999"))
        self.assert_refused(
            f"{self.path}:10: middleware.registry[0].options.authttl", f"{self.path}:4: log.level"
        )
        self.path.write_text("{", "utf-8")
        self.assert_refused(str(self.path))

    def test_gone_or_unreadable(self) -> None:
        """A file that is gone, or is a folder, changes nothing; once it is back it is used."""
        self.path.unlink()
        self.assert_refused("cannot be read: No such file")
        self.path.mkdir()
        self.assert_refused("cannot be read: Is a directory")
        self.path.rmdir()
        self.write(("60s", "7s"))
        self.assertTrue(self.result(self.reload.run()).ok)
        self.assertEqual(self.used[0].downstream.authttl, 7.0)
        self.assertEqual(self.metrics(), (1.0, 200.0))

    def test_file_that_it_names(self) -> None:
        """A certificate that cannot be used keeps the whole file from being used."""
        self.write(("60s", "7s"))
        self.fault = TLSConfigurationError("cert.pem", "cert.pem holds no certificate in PEM form")
        self.assert_refused("cert.pem holds no certificate")

    def test_environment(self) -> None:
        """Variables override the file, as at the start."""
        self.environ["REGISTRY_LOG_LEVEL"] = "error"
        self.assertEqual(self.result(self.reload.run()).changed, ("log.level",))

    def test_warnings(self) -> None:
        """New warnings are logged, and those of the start not again."""
        self.write(("storage:", "notifications: {}\nstorage:"))
        for number in (1, 0):
            with capturedLogs() as lines:
                self.assertTrue(self.result(self.reload.run()).ok)
            warnings = [event for event in lines if event["log_format"] == "configuration warning"]
            self.assertEqual(len([event for event in warnings if "notifications" in event["reason"]]), number)

    def test_second_one_meanwhile(self) -> None:
        """One that is asked for while another runs reads the file anew afterwards."""
        self.is_slow = True
        self.write(("60s", "7s"))
        first = Deferred.fromCoroutine(self.reload.run())
        second = Deferred.fromCoroutine(self.reload.run())
        self.assertEqual(len(self.waiting), 1)
        self.is_slow = False
        self.write(("60s", "8s"))
        self.waiting.pop().callback(None)
        self.successResultOf(first)
        self.assertTrue(self.successResultOf(second).ok)
        self.assertEqual(self.used[-1].downstream.authttl, 8.0)
        self.assertEqual(self.read, ["read", "read", "used", "used"] * 2)
