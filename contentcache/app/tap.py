"""``twistd contentcache --config FILE`` and ``contentcache serve FILE``: the only place that knows the reactor."""

from __future__ import annotations

import os
import signal
import sys
import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, cast

from twisted.application.service import IService, MultiService
from twisted.internet.defer import Deferred
from twisted.logger import ILogObserver, Logger, globalLogBeginner
from twisted.python import usage
from twisted.python.failure import Failure
from twisted.python.logfile import LogFile

from contentcache.admin.recent_errors import RecentErrors
from contentcache.aio.reactor import DaemonReactor
from contentcache.app.accounts import RunAccount
from contentcache.app.daemon import Daemon
from contentcache.app.process import harden, retain_heap
from contentcache.config.faults import ConfigurationError
from contentcache.config.loading import Loaded, load
from contentcache.config.model import Configuration, Log
from contentcache.core.live import Live
from contentcache.telemetry.logging import log_observer

if TYPE_CHECKING:
    from contentcache.acme.renewal_state import RenewalOutcome

_worker_lines = Logger(namespace="contentcache.workers")


class Options(usage.Options):
    """The command line."""

    synopsis = "twistd [options] contentcache --config FILE"
    longdesc = "A pull-through cache for container images."
    optParameters = [  # noqa: RUF012  # Twisted reads it off the class
        ["config", "c", None, "The configuration, a YAML file in the Docker Registry's format."],
    ]

    def postOptions(self) -> None:
        self["config"] = self["config"] or os.environ.get("REGISTRY_CONFIGURATION_PATH")
        if not self["config"]:
            raise usage.UsageError("no configuration: say --config FILE, or set REGISTRY_CONFIGURATION_PATH")


class _DaemonService(MultiService):
    """The daemon as twistd's application knows it; it sets the application's log observer."""

    def __init__(self, options: Any) -> None:
        super().__init__()
        self.settings = Live(Log())
        self._options = options or {}
        self._log_file: Any = None
        self.errors = RecentErrors()

    def setServiceParent(self, parent: Any) -> None:
        if hasattr(parent, "setComponent") and not self._options.get("logger"):
            parent.setComponent(ILogObserver, self.open_log())
        super().setServiceParent(parent)

    def open_log(self, account: RunAccount | None = None) -> ILogObserver:
        """Open the log; a file that is made now belongs to ``account``."""
        path = self._options.get("logfile")
        is_new = path not in {None, "-"} and not os.path.exists(str(path))
        self._log_file = self._stream()
        if account is not None and is_new:
            os.chown(self._log_file.path, account.uid, account.gid)
        return log_observer(cast("Any", self._log_file), self.settings, note=self.errors)

    def rotate_log(self) -> None:
        """Begin a new log file; where another program has moved the old one away, just that."""
        if isinstance(self._log_file, LogFile):
            (self._log_file.rotate if os.path.exists(self._log_file.path) else self._log_file.reopen)()

    def output(self) -> Callable[[str], None] | None:
        """Writes log lines of workers, ``None`` where they write to standard output themselves."""
        if self._options.get("logger"):
            return lambda text: _worker_lines.info("{text}", text=text.rstrip("\n"))
        if self._log_file is None or self._log_file is sys.stdout:
            return None
        return self._write

    def _write(self, text: str) -> None:
        self._log_file.write(text)
        self._log_file.flush()

    def _stream(self) -> Any:
        path = self._options.get("logfile")
        if path == "-" or (not path and self._options.get("nodaemon")):
            return sys.stdout
        return LogFile.fromFullPath(path or "twistd.log")


def _prepare_process() -> DaemonReactor:
    """Apply the settings that every process of the daemon has, and return its reactor."""
    from twisted.internet import reactor as installed  # noqa: PLC0415  # importing it installs it

    reactor = cast("Any", installed)
    harden()
    retain_heap()
    # Twisted takes the wall clock for its timers; grants and timeouts must not jump with it.
    reactor.seconds = time.monotonic
    return cast("DaemonReactor", reactor)


def makeService(options: Options) -> IService:
    """The whole daemon. Faults of the configuration are printed, all of them, and end the process."""
    reactor = _prepare_process()  # before there are secrets in memory
    try:
        loaded = load(options["config"], os.environ)
    except ConfigurationError as error:
        sys.stderr.write(f"{error}\n")
        raise SystemExit(1) from None
    return cast("IService", _make_service(loaded, getattr(options, "parent", None), reactor))


def _make_service(loaded: Loaded, options: Any, reactor: DaemonReactor) -> _DaemonService:
    whole = _DaemonService(options)
    if loaded.configuration.workers == 1:
        daemon = Daemon(loaded, os.environ, reactor, whole.errors)
    else:
        # Here, so that one process alone does not load what several need.
        from contentcache.workers.supervisor import Supervisor  # noqa: PLC0415

        daemon = Supervisor(loaded, os.environ, reactor, output=whole.output, errors=whole.errors)
    whole.settings = daemon.live.derive(lambda configuration: configuration.log)
    daemon.setServiceParent(whole)
    return whole


def run_in_foreground(loaded: Loaded, *, account: RunAccount | None, log_file: str | None) -> None:
    """
    Run the daemon in this process until it is told to stop, as twistd does, without its plugins, pid file and
    working directory. The log is written to standard output, or to ``log_file``, which ``SIGUSR1`` rotates.

    :raises AccountError: the process cannot become ``account``.
    :raises OSError: the log file cannot be written.
    """
    reactor = _prepare_process()
    whole = _make_service(loaded, {"logfile": log_file or "-"}, reactor)
    # What libraries print goes to standard error as it is.
    globalLogBeginner.beginLoggingTo([whole.open_log(account)], redirectStandardIO=False)
    whole.privilegedStartService()
    if account is not None:
        account.switch()
    whole.startService()
    reactor.addSystemEventTrigger("before", "shutdown", whole.stopService)
    signal.signal(signal.SIGUSR1, lambda *_: reactor.callFromThread(whole.rotate_log))
    reactor.run()


def run_worker(number: int) -> None:
    """
    Run worker ``number``, in a process that the supervisor has started
    (:mod:`contentcache.workers.worker_process`).
    """
    from contentcache.workers.worker import prepare  # noqa: PLC0415  # only those who need it load it

    reactor = _prepare_process()
    prepare(number, reactor)
    reactor.run()


def renew_without_daemon(configuration: Configuration, hosts: Sequence[str]) -> list[RenewalOutcome]:
    """
    Renew certificates in this process, where no daemon runs. Blocks.

    :raises ListenError: the ports are in use.
    """
    from contentcache.app.issuance import renew_alone as renew  # noqa: PLC0415  # only those who need it load it

    reactor = _prepare_process()
    results: list[list[RenewalOutcome] | Failure] = []

    def begin() -> None:
        renewing = Deferred.fromCoroutine(renew(configuration, os.environ, hosts, reactor))
        renewing.addBoth(results.append).addBoth(lambda _none: reactor.stop())

    reactor.callWhenRunning(begin)
    reactor.run()
    for result in results:
        if isinstance(result, Failure):
            result.raiseException()
        return result
    return []
