"""The configuration of a running daemon is changed."""

from __future__ import annotations

import signal
import subprocess

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import ContentCache
from tests.real.clients import Curl, RunningCurl
from tests.real.gateway import GatewayDaemon
from tests.real.images import digest_of, push_blob, random_bytes
from tests.real.line import CountingProxy
from tests.real.origin import Origin
from tests.real.programs import needs, settled, status_of, until

_MIB = 1 << 20
_OK = "contentcache_config_last_reload_success"


@needs("docker-registry", "curl")
class ReloadTests(SynchronousTestCase):
    """``SIGHUP``, while clients pull."""

    workers = 1

    def setUp(self) -> None:
        """A cache before an origin at the far end of a slow network link."""
        self.origin = Origin(self)
        self.line = CountingProxy(self, self.origin.port)
        self.content = random_bytes(16 * _MIB, "reload")
        self.digest = push_blob(self.origin, "org/app", self.content)
        self.cache = ContentCache(self, self.line.url)

    def url(self, digest: str) -> str:
        """The URL of a blob."""
        return f"{self.cache.url}/v2/org/app/blobs/{digest}"

    def pull_slowly(self) -> RunningCurl:
        """A pull that runs."""
        self.line.rate = 2e6
        running = Curl(self).start(self.url(self.digest))
        until(lambda: running.received() > _MIB, "a part of the blob")
        return running

    def assert_whole(self, running: RunningCurl) -> None:
        """The pull that ran meanwhile is whole."""
        self.line.rate = None
        fetched = running.result()
        self.assertEqual((fetched.status, fetched.ended), (200, 0))
        self.assertEqual(digest_of(fetched.body.read_bytes()), self.digest)

    def is_denied(self) -> bool:
        """Whether the repository is denied by a worker."""
        return status_of(f"{self.cache.url}/v2/org/app/tags/list") == 403

    def upstream(self, **more: object) -> list[object]:
        """The one upstream, with more keys."""
        return [{"originhost": self.line.url, **more}]

    def reload(self, *, times: int = 1, **options: object) -> None:
        """Write other options, and wait until they are used."""
        self.cache.set_options(**options)
        self.cache.reload()
        self.cache.wait_for_log("configuration reloaded", times)

    def test_changes(self) -> None:
        """What is live changes for all workers, what is not is named, and a pull that runs is not disturbed."""
        running = self.pull_slowly()
        self.assertFalse(self.is_denied())
        self.cache._upstreams = self.upstream(deny=["org/**"])  # type: ignore[assignment]
        self.reload(retryfor="7s", fastpath="off", maxsize="1GiB")
        log = self.cache.wait_for_log("restart needed")
        self.assertRegex(log, r"configuration reloaded changed=\S*maxsize\S*")
        self.assertRegex(log, r"restart needed keys=fastpath\b")
        # Several times, so that each worker is asked.
        for _ in range(8):
            until(self.is_denied, "the repository is denied")
        settled(lambda: self.cache.metric("contentcache_store_limit_bytes"), float(1 << 30))
        self.assertEqual(self.cache.metric(_OK), 1)
        self.assert_whole(running)
        self.assertNotIn("Traceback", self.cache.log())

    def test_faults(self) -> None:
        """A faulty file, one that is gone, and one that cannot be read change nothing, and that is said."""
        running = self.pull_slowly()
        text = self.cache.config.read_text("utf-8")
        started = self.cache.metrics()[f"{_OK}_timestamp_seconds"]
        phrase = "configuration and certificates not reloaded, old ones stay in use"
        self.cache.config.write_text(text.replace('"level": "debug"', '"level": "loud"'), "utf-8")
        self.cache.reload()
        log = self.cache.wait_for_log(phrase)
        self.assertRegex(log, rf"{phrase} reason=\"{self.cache.config}:\d+: log.level: ")
        settled(lambda: self.cache.metric(_OK), 0.0)
        self.assertEqual(self.cache.metrics()[f"{_OK}_timestamp_seconds"], started)
        self.cache.config.unlink()
        self.cache.reload()
        self.cache.wait_for_log("No such file")
        self.cache.config.mkdir()
        self.cache.reload()
        self.cache.wait_for_log("Is a directory")
        self.cache.config.rmdir()
        self.cache.config.write_text(text.replace('"level": "debug"', '"level": "warn"'), "utf-8")
        self.cache.reload()
        settled(lambda: self.cache.metric(_OK), 1.0)
        self.assertGreater(self.cache.metrics()[f"{_OK}_timestamp_seconds"], started)
        self.assert_whole(running)
        self.assertNotIn("Traceback", self.cache.log())

    def test_many_signals(self) -> None:
        """Signals that come faster than a reload takes are all obeyed: the last file counts."""
        running = self.pull_slowly()
        for number in range(1, 11):
            self.cache._upstreams = self.upstream(deny=["org/**"] if number % 2 else [])  # type: ignore[assignment]
            self.cache.set_options(maxsize=f"{number}GiB")
            self.cache.reload()
        settled(lambda: self.cache.metric("contentcache_store_limit_bytes"), float(10 << 30))
        for _ in range(8):
            until(lambda: not self.is_denied(), "it is allowed")
        self.assert_whole(running)
        self.assertTrue(self.cache.process.alive)
        self.assertNotIn("Traceback", self.cache.log())

    def test_log(self) -> None:
        """The level, form and fields of the log, and whether requests are logged."""
        self.cache.stop()
        self.cache._log = {"level": "warn", "accesslog": {"disabled": True}}
        self.cache.start()
        before = len(self.cache.access_lines())
        status_of(f"{self.cache.url}/v2/?asked=before")
        self.cache._log = {"level": "info", "formatter": "json", "fields": {"site": "us"}}
        self.cache._write()
        self.cache.reload()
        self.cache.wait_for_log('"msg": "configuration reloaded"')
        self.cache.wait_for_log('"site": "us"')
        self.assertEqual(len(self.cache.access_lines()), before)

        def is_logged() -> bool:
            status_of(f"{self.cache.url}/v2/?asked=after")
            return "asked=after" in self.cache.log()

        until(is_logged, "a line for a request")
        self.assertNotIn("asked=before", self.cache.log())


class ReloadWithTwoWorkersTests(ReloadTests):
    """The same with two workers."""

    workers = 2

    def test_successor(self) -> None:
        """A worker that is started later has what was reloaded."""
        self.cache._upstreams = self.upstream(deny=["org/**"])  # type: ignore[assignment]
        self.reload(retryfor="7s")
        before = self.cache.pids[1:]
        for pid in before:
            subprocess.run(["kill", "-9", str(pid)], check=True)
        until(lambda: len(set(self.cache.pids[1:]) - set(before)) == 2, "successors")
        for _ in range(8):
            until(self.is_denied, "it is denied")


@needs("docker-registry")
class GatewayReloadTests(SynchronousTestCase):
    """A gateway."""

    def test_changes(self) -> None:
        """Its administrators and limits change at once, the registry behind with the next start."""
        gateway = GatewayDaemon(self, Origin(self).url)
        text = gateway.config.read_text("utf-8")
        changed = text.replace('"signingkey"', '"admins": ["zoe"], "checkinterval": "77s", "signingkey"')
        self.assertNotEqual(text, changed)
        gateway.config.write_text(changed, "utf-8")
        gateway.process.send(signal.SIGHUP)
        log = gateway.wait_for_log("restart needed")
        self.assertRegex(log, r"configuration reloaded changed=admins\b")
        self.assertRegex(log, r"restart needed keys=checkinterval\b")
        self.assertEqual(status_of(f"{gateway.url}/v2/"), 200)
