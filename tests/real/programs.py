"""
Real programs under a test: started with a log of their own, waited for, stopped by pid.

Tests with real programs are synchronous: the daemon and its peers are other processes, so a
test may block. It waits for conditions, with a deadline, and never for a while.
"""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

#: Where the tree begins: the daemon is started from it, installed or not.
ROOT: Final = Path(__file__).resolve().parents[2]

#: How long any program may take to start, and any client to finish, in seconds.
PATIENCE: Final = 60.0

#: What the harness itself calls itself, so that its own requests are never counted.
USER_AGENT: Final = "contentcache-tests"

_SEARCH = os.pathsep.join([os.environ.get("PATH", os.defpath), "/usr/local/sbin", "/usr/sbin", "/sbin"])
#: So many ports are claimed at once.
_AT_ONCE: Final = 256
_ports: list[int] = []
_claims: list[socket.socket] = []

T = TypeVar("T")
Marked = TypeVar("Marked")


class Case(Protocol):
    """What the harness needs of a test: trial's test cases have it."""

    def mktemp(self) -> str: ...
    def addCleanup(self, f: Callable[[], object], /) -> None: ...


def program(name: str) -> str | None:
    """The path of a program, looked for in the administrator's folders too."""
    return shutil.which(name, path=_SEARCH)


def needs(*names: str, root: bool = False) -> Callable[[Marked], Marked]:
    """A decorator of tests and their classes: skip where a program (or being root) is missing."""
    missing = [name for name in names if program(name) is None]
    reasons = [f"needs {', '.join(missing)}: scripts/install-peers installs it"] if missing else []
    if root and os.geteuid() != 0:
        reasons.append("needs to be root")

    def mark(test: Marked) -> Marked:
        if reasons:
            test.skip = "; ".join(reasons)  # type: ignore[attr-defined]
        return test

    return mark


def free_port() -> int:
    """
    A TCP port of 127.0.0.1 that nobody listens on, never handed out twice: not here, and not in
    another process that runs tests at the same time.

    It lies below the range from which the kernel takes the ports of outgoing connections, so
    that no connection takes it before its program does.
    """
    while True:
        if not _ports:
            first = _claim(range(10240, 32768, _AT_ONCE))
            _ports.extend(_shuffled(range(first, first + _AT_ONCE)))
        port = _ports.pop()
        if _is_free(port):
            return port


def privileged_port() -> int:
    """The same below 1024."""
    while True:
        port = _claim(range(601, 1024))
        if _is_free(port):
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _claim(numbers: Sequence[int]) -> int:
    """
    One of these numbers, which is this process's until it ends.

    What stands for the claim is a socket's name, which the kernel gives to one at a time and frees with it.
    """
    for number in _shuffled(numbers):
        claim = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        try:
            claim.bind(f"\0contentcache-tests-{number}")
        except OSError:
            claim.close()
            continue
        _claims.append(claim)
        return number
    raise AssertionError("the tests that run on this machine have taken all ports")


def _shuffled(numbers: Sequence[int]) -> list[int]:
    return random.SystemRandom().sample(numbers, len(numbers))


def place(case: Case) -> Path:
    """A fresh folder of this test."""
    path = Path(case.mktemp()).absolute()
    path.mkdir(parents=True)
    return path


def short_place(case: Case) -> Path:
    """A fresh folder with a short name, for Unix sockets (108 bytes); it goes with the test."""
    path = Path(tempfile.mkdtemp(prefix="cache-"))
    case.addCleanup(lambda: shutil.rmtree(path, ignore_errors=True))
    return path


def until(condition: Callable[[], T], what: str, *, timeout: float = PATIENCE, every: float = 0.02) -> T:
    """
    Ask ``condition`` again and again; its first true answer.

    :raises AssertionError: none came within ``timeout`` seconds.
    """
    deadline = time.monotonic() + timeout
    while True:
        answer = condition()
        if answer:
            return answer
        if time.monotonic() > deadline:
            raise AssertionError(f"waited {timeout:g} s in vain: {what}")
        time.sleep(every)


def settled(look: Callable[[], T], expected: object, *, timeout: float = 15.0) -> T:
    """
    What ``look`` answers as soon as it is ``expected``, else its last answer after ``timeout`` seconds.

    For what is true a moment after a client has read its answer: metrics, files in the store, lines of a log.
    """
    deadline = time.monotonic() + timeout
    while (found := look()) != expected and time.monotonic() < deadline:
        time.sleep(0.02)
    return found


def status_of(
    url: str, *, ca: Path | None = None, certificate: tuple[Path, Path] | None = None
) -> int | None:
    """
    The status that ``GET url`` has, ``None`` where nobody answers. Certificates are checked
    only where ``ca`` is given; ``certificate`` is a client's own, and its key.
    """
    context = ssl.create_default_context(cafile=str(ca) if ca else None)
    if ca is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    if certificate is not None:
        context.load_cert_chain(*certificate)
    opener = urllib.request.build_opener(
        urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    )
    request = urllib.request.Request(url, headers={"User-Agent": USER_AGENT})
    try:
        with opener.open(request, timeout=5) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as answered:
        answered.close()
        return answered.code
    except OSError:
        return None


def plain_environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment without proxies and without ``REGISTRY_…``, and with ``extra``."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith("REGISTRY_") and not name.lower().endswith("_proxy")
    }
    return {**kept, "PATH": _SEARCH, **(extra or {})}


def run(
    argv: Sequence[str | Path],
    *,
    check: bool = True,
    timeout: float = PATIENCE * 2,
    env: Mapping[str, str] | None = None,
    cwd: Path | None = None,
) -> subprocess.CompletedProcess[str]:
    """
    Run a program to its end, its output as text.

    :raises AssertionError: it fails and ``check`` is set, or is not done in time.
    """
    words = [str(word) for word in argv]
    try:
        done = subprocess.run(
            words,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=timeout,
            env=plain_environment(env),
            cwd=cwd,
            check=False,
        )
    except subprocess.TimeoutExpired as late:
        raise AssertionError(f"{' '.join(words)} took more than {timeout:g} s:\n{late.stderr!r}") from None
    if check and done.returncode != 0:
        raise AssertionError(
            f"{' '.join(words)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
        )
    return done


class Process:
    """A program that stays: its output goes to ``log_path``, and it is stopped when the test ends."""

    def __init__(
        self,
        case: Case,
        argv: Sequence[str | Path],
        *,
        name: str,
        env: Mapping[str, str] | None = None,
        cwd: Path | None = None,
        log_path: Path | None = None,
    ) -> None:
        self.name = name
        self.log_path = log_path or place(case) / f"{name}.log"
        with self.log_path.open("ab") as log:
            self._popen = subprocess.Popen(
                [str(word) for word in argv],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=subprocess.STDOUT,
                env=plain_environment(env),
                cwd=cwd,
            )
        case.addCleanup(self.stop)

    @property
    def pid(self) -> int:
        """The process's id."""
        return self._popen.pid

    @property
    def alive(self) -> bool:
        """Whether it still runs."""
        return self._popen.poll() is None

    @property
    def status(self) -> int | None:
        """Its exit status, ``None`` while it runs, negative for a signal."""
        return self._popen.poll()

    def log(self) -> str:
        """All it has written so far."""
        return self.log_path.read_text("utf-8", errors="replace")

    def wait_for_log(self, words: str | re.Pattern[str], times: int = 1) -> str:
        """
        Its log once ``words`` are in it so many times. A line about an answer may be written after a client
        has read that answer: who looks at once passes on a quiet machine only.
        """
        pattern = re.compile(re.escape(words)) if isinstance(words, str) else words

        def written() -> bool:
            ended = not self.alive
            found = len(pattern.findall(self.log())) >= times
            if ended and not found:
                raise AssertionError(f"{self.name} has ended and not logged {words!r}\n{self.tail()}")
            return found

        try:
            until(written, f"{words!r} in the log of {self.name}")
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.tail()}") from None
        return self.log()

    def tail(self, lines: int = 40) -> str:
        """The end of its log, for a failure's message."""
        return "\n".join([f"--- {self.name}, last lines:", *self.log().splitlines()[-lines:]])

    def wait_until(self, condition: Callable[[], T], what: str, *, timeout: float = PATIENCE) -> T:
        """
        :func:`until`, given up at once when the program ends.

        :raises AssertionError: with the end of the log.
        """

        def asked() -> T | bool:
            ended = not self.alive
            answer = condition()
            return answer or ended

        try:
            answer = until(asked, f"{self.name}: {what}", timeout=timeout)
        except AssertionError as late:
            raise AssertionError(f"{late}\n{self.tail()}") from None
        if not self.alive:
            raise AssertionError(f"{self.name} ended with {self.status}\n{self.tail()}")
        return answer  # type: ignore[return-value]

    def wait_for(self, url: str, *, timeout: float = PATIENCE, statuses: Sequence[int] = (200, 401)) -> None:
        """Wait until ``GET url`` is answered with one of ``statuses``."""
        self.wait_until(lambda: status_of(url) in statuses, f"GET {url}", timeout=timeout)

    def wait(self, timeout: float = PATIENCE) -> int:
        """Wait for its end; its exit status."""
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"{self.name} does not end\n{self.tail()}") from None

    def send(self, number: signal.Signals) -> None:
        """Send it a signal; nothing happens if it has ended."""
        if self.alive:
            self._popen.send_signal(number)

    def stop(self, timeout: float = 10.0) -> int:
        """End it: ``SIGTERM``, and ``SIGKILL`` when it has not ended after ``timeout`` seconds."""
        self.send(signal.SIGTERM)
        try:
            return self._popen.wait(timeout)
        except subprocess.TimeoutExpired:
            return self.kill9()

    def kill9(self) -> int:
        """End it at once."""
        self.send(signal.SIGKILL)
        return self._popen.wait()


def on_free_port(start: Callable[[int], T], *, tries: int = 3) -> T:
    """``start(port)`` until it does not fail because somebody else took the port."""
    for _ in range(tries - 1):
        try:
            return start(free_port())
        except AssertionError as failed:
            if "address already in use" not in str(failed).lower():
                raise
    return start(free_port())
