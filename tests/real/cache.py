"""Content Cache itself, as its users start it: ``twistd`` in the foreground, with a file."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Final

from tests.real.certificates import Authority, Certificate
from tests.real.origin import blob_path
from tests.real.programs import ROOT, Case, Process, free_port, on_free_port, place, run, status_of

#: ``twistd`` of the interpreter that runs the tests, wherever its scripts are.
TWISTD: Final = (sys.executable, "-c", "from twisted.scripts.twistd import run; run()")

#: The command line, from the same.
COMMAND: Final = (sys.executable, "-m", "contentcache")
#: The same, to be interrupted: who runs tests in the background may have SIGINT ignored.
INTERRUPTIBLE: Final = ("env", "--default-signal=INT", *COMMAND)

#: So many processes serve, where a test does not say it: all tests pass with several too.
WORKERS: Final = int(os.environ.get("CONTENTCACHE_WORKERS", "1"))

_ACCESS = re.compile(r'"(?:GET|HEAD|POST|PUT|PATCH|DELETE|OPTIONS) [^"]* HTTP/1\.[01]" \d{3} ')


class ContentCache:
    """
    A running daemon with a configuration of its own.

    ``upstream`` is an origin's URL or a mapping for ``upstreams``; several of them make a list.
    ``options`` go beside ``upstreams``; ``http`` and ``log`` are merged over their sections.
    It has as many ``workers`` as it is told, or the test's own attribute says, or the environment; one where
    blobs are kept in memory.
    With ``tls`` it speaks TLS, and ``authority`` is what the harness itself trusts. ``settings``
    replaces whole sections of the file. ``wrapper`` is a command that runs the daemon in its own place.
    """

    def __init__(
        self,
        case: Case,
        upstream: str | Mapping[str, object] | Sequence[str | Mapping[str, object]],
        *,
        options: Mapping[str, object] | None = None,
        http: Mapping[str, object] | None = None,
        log: Mapping[str, object] | None = None,
        settings: Mapping[str, object] | None = None,
        tls: Certificate | None = None,
        authority: Authority | None = None,
        env: Mapping[str, str] | None = None,
        root: Path | None = None,
        wrapper: Sequence[str] = (),
        workers: int | None = None,
    ) -> None:
        self._case = case
        own: int = getattr(case, "workers", WORKERS)
        self.workers = own if workers is None else workers
        self._wrapper = tuple(wrapper)
        self._folder = place(case)
        self.config = self._folder / "config.yml"
        self.root = root or self._folder / "root"
        self.tls = tls
        self.authority = authority
        self._env = dict(env or {})
        self._upstreams = _upstreams(upstream)
        self._options = dict(options or {})
        self._http = dict(http or {})
        self._log = dict(log or {})
        self._settings = dict(settings or {})
        self.debug_port = free_port()
        self.port = 0
        self.process = on_free_port(self._begin)

    @property
    def host(self) -> str:
        """``127.0.0.1:port``."""
        return f"127.0.0.1:{self.port}"

    @property
    def url(self) -> str:
        """Its base URL."""
        return f"{'https' if self.tls else 'http'}://{self.host}"

    @property
    def pid(self) -> int:
        """The daemon's process id."""
        return self.process.pid

    @property
    def pids(self) -> list[int]:
        """The process ids of all its processes: its own, then its workers'."""
        children = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text("ascii").split()
        return [self.pid, *map(int, children)]

    def set_options(self, **options: object) -> None:
        """Change options in the file; :meth:`restart` makes them true. ``None`` takes one away."""
        merged = {**self._options, **options}
        self._options = {name: value for name, value in merged.items() if value is not None}
        self._write()

    def stop(self, timeout: float = 15.0) -> int:
        """``SIGTERM``, and its exit status: 0 or -15 when it ended by itself, -9 when it was killed."""
        return self.process.stop(timeout)

    def kill9(self) -> None:
        """``kill -9``; :meth:`start` brings it back."""
        self.process.kill9()

    def start(self) -> None:
        """Start it again on the same ports, over the same root."""
        self.process = self._begin(self.port)

    def restart(self) -> None:
        """Stop and start."""
        self.stop()
        self.start()

    def reload(self) -> None:
        """``SIGHUP``."""
        self.process.send(signal.SIGHUP)

    def rss(self) -> int:
        """Resident memory of all its processes now, in bytes."""
        return self._memory("VmRSS")

    def peak_rss(self) -> int:
        """The most resident memory that it ever had, in bytes."""
        return self._memory("VmHWM")

    def blob_file(self, digest: str) -> Path:
        """Where it stores a blob, whether or not it has it."""
        return blob_path(self.root, digest)

    def stored(self, digest: str) -> bool:
        """Whether a blob's file is in the store."""
        return self.blob_file(digest).is_file()

    def wait_stored(self, *digests: str) -> None:
        """
        Wait until these blobs are in the store.

        A client has the last byte of a blob before that where the disk is slow.
        """
        for digest in digests:
            self.process.wait_until(partial(self.stored, digest), f"{digest} in the store")

    def files(self) -> list[Path]:
        """Every file below its root."""
        return sorted(path for path in self.root.rglob("*") if path.is_file())

    def log(self) -> str:
        """All that this process and those before it have logged."""
        return self.process.log()

    def wait_for_log(self, words: str | re.Pattern[str], times: int = 1) -> str:
        """The log once ``words`` are in it so many times."""
        return self.process.wait_for_log(words, times)

    def access_lines(self) -> list[str]:
        """The lines of the access log, those of the harness's own questions included."""
        return [line for line in self.log().splitlines() if _ACCESS.search(line)]

    def metrics(self) -> dict[str, float]:
        """``/metrics`` now: each sample by its name and labels as they are written."""
        url = f"http://127.0.0.1:{self.debug_port}/metrics"
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        with opener.open(url, timeout=10) as answer:
            text = answer.read().decode()
        samples = (line.rpartition(" ") for line in text.splitlines() if line and not line.startswith("#"))
        return {name: float(value) for name, _, value in samples}

    def metric(self, name: str) -> float:
        """The sum of a metric's samples, whatever their labels; 0 where there is none."""
        return sum(value for sample, value in self.metrics().items() if sample.partition("{")[0] == name)

    def health(self) -> int | None:
        """The status of ``/debug/health``."""
        return status_of(f"http://127.0.0.1:{self.debug_port}/debug/health")

    def health_text(self) -> str:
        """What ``/debug/health`` says, nothing while nobody answers."""
        url = f"http://127.0.0.1:{self.debug_port}/debug/health"
        try:
            with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(url, timeout=10) as answer:
                return str(answer.read().decode())
        except OSError:
            return ""

    def sections(self) -> dict[str, object]:
        """The configuration, as it is written."""
        http: dict[str, object] = {
            "addr": self.host,
            "debug": {"addr": f"127.0.0.1:{self.debug_port}", "prometheus": {"enabled": True}},
        }
        if self.tls is not None:
            http["tls"] = {"certificate": str(self.tls.certificate), "key": str(self.tls.key)}
        options = {**self._options, "upstreams": self._upstreams}
        settings = {**({"workers": self.workers} if self.workers > 1 else {}), **self._settings}
        if "inmemory" in json.dumps(settings.get("storage", {})):
            settings.pop("workers", None)
        return {
            "version": "0.1",
            "log": {"level": "debug", **self._log},
            "storage": {"filesystem": {"rootdirectory": str(self.root)}, "delete": {"enabled": True}},
            "http": {**http, **self._http},
            "middleware": {"registry": [{"name": "downstream", "options": options}]},
            **settings,
        }

    def _write(self) -> None:
        self.config.write_text(json.dumps(self.sections(), indent=2), "utf-8")

    def _begin(self, port: int) -> Process:
        self.port = port
        self._write()
        process = daemon(
            self._case,
            self.config,
            env=self._env,
            log_path=self._folder / "contentcache.log",
            wrapper=self._wrapper,
        )
        if self.tls is not None and "clientcas" in str(self._http):
            process.wait_until(lambda: self.health() is not None, "an answer of its debug port")
        else:
            process.wait_for(f"{self.url}/", statuses=(200,))
        return process

    def _memory(self, name: str) -> int:
        return sum(_memory(pid, name) for pid in self.pids)


def _memory(pid: int, name: str) -> int:
    status = Path(f"/proc/{pid}/status").read_text("ascii")
    match = re.search(rf"{name}:\s+(\d+) kB", status)
    assert match is not None, status
    return int(match[1]) * 1024


def daemon(
    case: Case,
    config: Path,
    *,
    env: Mapping[str, str] | None = None,
    log_path: Path | None = None,
    wrapper: Sequence[str] = (),
) -> Process:
    """Start the daemon with a file, and wait for nothing: what becomes of it is the test's question."""
    argv = [*wrapper, *TWISTD, "--nodaemon", "--pidfile=", "contentcache", "--config", str(config)]
    return Process(
        case, argv, name="contentcache", env=environment(env), cwd=config.parent, log_path=log_path
    )


def check(config: Path, *, env: Mapping[str, str] | None = None) -> tuple[int, str]:
    """``contentcache check FILE``: its exit status, and all that it prints."""
    done = command("check", config, env=env, cwd=config.parent)
    return done.returncode, done.stdout + done.stderr


def command(
    *arguments: str | Path, env: Mapping[str, str] | None = None, cwd: Path | None = None
) -> subprocess.CompletedProcess[str]:
    """``contentcache`` with these arguments, run to its end."""
    return run([*COMMAND, *arguments], check=False, env=environment(env), cwd=cwd)


def environment(extra: Mapping[str, str] | None = None) -> dict[str, str]:
    """The environment of the daemon and its commands."""
    return {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1", **(extra or {})}


def _upstreams(
    upstream: str | Mapping[str, object] | Sequence[str | Mapping[str, object]],
) -> list[Mapping[str, object]]:
    several = [upstream] if isinstance(upstream, str | Mapping) else upstream
    return [{"originhost": one} if isinstance(one, str) else one for one in several]
