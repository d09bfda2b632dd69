"""Real clients, each with folders of its own, so that nothing is shared with the machine or a neighbour."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from subprocess import CompletedProcess
from typing import Any

from attrs import frozen

from tests.real.programs import Case, Process, place, run, short_place

Pulled = CompletedProcess[str]


@frozen
class Fetched:
    """
    What ``curl`` got. ``body`` is a file; ``size`` is in bytes, ``seconds`` the whole transfer's,
    ``first`` until the first byte. ``ended`` is curl's exit status, 0 for a complete transfer.
    """

    status: int
    size: int
    seconds: float
    first: float
    ended: int
    headers: Mapping[str, str]
    body: Path


class Curl:
    """``curl``, its bodies in files."""

    _REPORT = "%{http_code} %{size_download} %{time_total} %{time_starttransfer}\\n"

    def __init__(self, case: Case) -> None:
        self._folder = place(case)
        self._case = case
        self._number = 0

    def fetch(self, url: str, *more: str, timeout: float = 120.0) -> Fetched:
        """``GET url``, with further arguments of curl."""
        argv, body = self._arguments(url, more)
        done = run(argv, check=False, timeout=timeout)
        return self._fetched(done.stdout, done.returncode, body)

    def start(self, url: str, *more: str) -> RunningCurl:
        """The same, without waiting for it."""
        argv, body = self._arguments(url, more)
        return RunningCurl(
            Process(self._case, argv, name="curl", log_path=body.with_suffix(".log")), body, self
        )

    def _arguments(self, url: str, more: Sequence[str]) -> tuple[list[str], Path]:
        self._number += 1
        body = self._folder / f"body-{self._number}"
        body.touch()
        head = body.with_suffix(".head")
        return ["curl", "-s", "-D", str(head), "-o", str(body), "-w", self._REPORT, *more, url], body

    def _fetched(self, report: str, ended: int, body: Path) -> Fetched:
        status, size, seconds, first = report.split()[-4:]
        head = body.with_suffix(".head")
        text = head.read_text("latin-1") if head.exists() else ""
        lines = text.strip().rpartition("\n\n")[2].splitlines()[1:]
        pairs = (line.partition(":") for line in lines)
        headers = {name.strip().lower(): value.strip() for name, _, value in pairs}
        return Fetched(int(status), int(size), float(seconds), float(first), ended, headers, body)


class RunningCurl:
    """A curl on its way."""

    def __init__(self, process: Process, body: Path, curl: Curl) -> None:
        self.process = process
        self.body = body
        self._curl = curl

    def received(self) -> int:
        """Bytes of the body so far."""
        return self.body.stat().st_size

    def result(self, timeout: float = 120.0) -> Fetched:
        """Wait for its end."""
        ended = self.process.wait(timeout)
        return self._curl._fetched(self.process.log(), ended, self.body)


def skopeo_copy(
    reference: str,
    destination: Path | str,
    *,
    creds: str | None = None,
    tls_verify: bool = False,
    cert_dir: Path | None = None,
    everything: bool = False,
    check: bool = True,
) -> Pulled:
    """
    ``skopeo copy`` into a folder (``dir:``), or into any other transport if ``destination`` is
    text. ``creds`` is ``account:password``; ``everything`` takes all images of an index.

    Debian's skopeo keeps blobs with sha512 digests only in ``docker-archive:FILE``.
    """
    target = destination if isinstance(destination, str) else f"dir:{destination}"
    argv = ["skopeo", "copy", f"--src-tls-verify={str(tls_verify).lower()}", "--quiet"]
    argv += ["--src-creds", creds] if creds else ["--src-no-creds"]
    argv += ["--src-cert-dir", str(cert_dir)] if cert_dir else []
    argv += ["--all"] if everything else []
    return run([*argv, f"docker://{reference}", target], check=check)


def manifest_in(folder: Path) -> bytes:
    """The manifest that :func:`skopeo_copy` left in a folder."""
    return (folder / "manifest.json").read_bytes()


class Podman:
    """
    ``podman`` without systemd: own store, runtime folder and driver ``vfs``.

    It pulls layers with sha512 digests, but no configuration with one.
    """

    def __init__(self, case: Case) -> None:
        self._base = short_place(case)
        case.addCleanup(lambda: self._podman("system", "reset", "--force", check=False))

    def pull(
        self,
        reference: str,
        *,
        creds: str | None = None,
        tls_verify: bool = False,
        cert_dir: Path | None = None,
        check: bool = True,
    ) -> Pulled:
        """``podman pull``; ``creds`` is ``account:password``."""
        argv = ["pull", f"--tls-verify={str(tls_verify).lower()}"]
        argv += ["--creds", creds] if creds else []
        argv += ["--cert-dir", str(cert_dir)] if cert_dir else []
        return self._podman(*argv, reference, check=check)

    def push(self, reference: str, destination: str, *, creds: str | None = None) -> Pulled:
        """``podman push`` under another name."""
        argv = ["push", "--tls-verify=false", *(["--creds", creds] if creds else [])]
        return self._podman(*argv, reference, f"docker://{destination}")

    def remove(self, reference: str) -> None:
        """``podman rmi``: the next pull fetches everything again."""
        self._podman("rmi", "--force", reference)

    def digest(self, reference: str) -> str:
        """The manifest's digest of a pulled image, the index's where it came through one."""
        found = self._podman("images", "--digests", "--format", "{{.Digest}}", reference)
        return found.stdout.strip()

    def _podman(self, *argv: str, check: bool = True) -> Pulled:
        base = self._base
        own = ["--root", f"{base}/root", "--runroot", f"{base}/run", "--tmpdir", f"{base}/tmp"]
        own += ["--storage-driver", "vfs", "--cgroup-manager", "cgroupfs", "--events-backend", "file"]
        return run(["podman", *own, *argv], check=check, env={"HOME": str(base)})


class Dockerd:
    """
    ``dockerd`` with its own containerd, socket and folders, without networks. Needs root.

    ``driver`` keeps its images: ``vfs`` works everywhere, and ``None`` is the fastest that works here.
    """

    def __init__(
        self,
        case: Case,
        *,
        insecure: Sequence[str] = (),
        mirrors: Sequence[str] = (),
        arguments: Sequence[str] = (),
        driver: str | None = "vfs",
    ) -> None:
        self._base = base = short_place(case)
        self.socket = f"unix://{base}/docker.sock"
        # It leaves this behind once a container has had the machine's network, and the folder could not go.
        case.addCleanup(lambda: run(["umount", f"{base}/exec/netns/default"], check=False))
        argv = [
            "dockerd",
            "--host",
            self.socket,
            "--data-root",
            f"{base}/data",
            "--exec-root",
            f"{base}/exec",
        ]
        argv += [
            "--pidfile",
            f"{base}/pid",
            "--config-file",
            f"{base}/daemon.json",
        ]
        argv += ["--storage-driver", driver] if driver else []
        argv += ["--iptables=false", "--ip6tables=false", "--bridge=none"]
        (base / "daemon.json").write_text("{}")
        argv += [f"--insecure-registry={host}" for host in insecure]
        argv += [f"--registry-mirror={mirror}" for mirror in mirrors]
        self.process = Process(case, [*argv, *arguments], name="dockerd")
        self.process.wait_until(
            lambda: self._docker("version", check=False).returncode == 0, "docker version"
        )

    @property
    def client(self) -> list[str]:
        """How a command line of its client begins."""
        return ["docker", "--host", self.socket, "--config", f"{self._base}/client"]

    def command(self, *argv: str, check: bool = True) -> Pulled:
        """``docker`` with these arguments."""
        return self._docker(*argv, check=check)

    def login(self, host: str, account: str, password: str) -> None:
        """``docker login``: later pulls carry the account."""
        self._docker("login", "--username", account, "--password", password, host)

    def logout(self, host: str) -> None:
        """``docker logout``."""
        self._docker("logout", host)

    def pull(self, reference: str, *, check: bool = True) -> Pulled:
        """``docker pull``. Registries on 127.0.0.1 may speak plain HTTP."""
        return self._docker("pull", reference, check=check)

    def push(self, reference: str, destination: str) -> Pulled:
        """``docker push`` under another name."""
        self._docker("tag", reference, destination)
        return self._docker("push", destination)

    def remove(self, reference: str) -> None:
        """``docker rmi``: the next pull fetches everything again."""
        self._docker("rmi", "--force", reference)

    def inspect(self, reference: str) -> Any:
        """``docker image inspect`` of one image."""
        return json.loads(self._docker("image", "inspect", reference).stdout)[0]

    def digest(self, reference: str) -> str:
        """The digest under which an image was pulled."""
        (found,) = self.inspect(reference)["RepoDigests"]
        return str(found).partition("@")[2]

    def _docker(self, *argv: str, check: bool = True) -> Pulled:
        return run([*self.client, *argv], check=check)


class Containerd:
    """
    ``containerd`` with ``ctr``, the snapshotter ``native`` and a folder of ``hosts.toml``. Needs root.

    Its content store (1.6) commits sha256 digests only: it refuses images with sha512 blobs,
    from any registry.
    """

    _OFF = ("io.containerd.grpc.v1.cri", "io.containerd.internal.v1.tracing")

    def __init__(self, case: Case) -> None:
        self._base = base = short_place(case)
        self.hosts = base / "hosts"
        self._address = f"{base}/c.sock"
        config = base / "config.toml"
        config.write_text(
            "version = 2\n"
            f'root = "{base}/root"\nstate = "{base}/state"\n'
            f"disabled_plugins = {json.dumps(self._OFF)}\n"
            f'[grpc]\naddress = "{self._address}"\n[ttrpc]\naddress = "{self._address}.ttrpc"\n'
            f'[plugins."io.containerd.internal.v1.opt"]\npath = "{base}/opt"\n',
            "utf-8",
        )
        self.process = Process(case, ["containerd", "--config", config], name="containerd")
        self.process.wait_until(lambda: self._ctr("version", check=False).returncode == 0, "ctr version")

    def mirror(
        self,
        namespace: str,
        *urls: str,
        server: str = "http://127.0.0.1:1",
        ca: Path | None = None,
        client: tuple[Path, Path] | None = None,
    ) -> None:
        """
        Write ``hosts.toml``: images of ``namespace`` come from ``urls``, in this order, each asked
        with ``?ns=namespace``; then from ``server``, where by default nobody listens.
        """
        folder = self.hosts / namespace
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"server = {json.dumps(server)}"]
        for url in urls:
            lines += [f"[host.{json.dumps(url)}]", '  capabilities = ["pull", "resolve"]']
            lines += [f"  ca = {json.dumps(str(ca))}"] if ca else []
            lines += [f"  client = [{json.dumps([str(path) for path in client])}]"] if client else []
        (folder / "hosts.toml").write_text("\n".join(lines) + "\n", "utf-8")

    def pull(
        self, reference: str, *, user: str | None = None, plain: bool = False, check: bool = True
    ) -> Pulled:
        """
        ``ctr images pull`` of ``namespace/name:tag``; ``user`` is ``account:password``. ``plain``
        goes straight to the reference's host over plain HTTP, past ``hosts.toml``.
        """
        argv = ["images", "pull", "--snapshotter", "native", "--platform", "linux/amd64"]
        argv += ["--plain-http"] if plain else ["--hosts-dir", str(self.hosts)]
        argv += ["--user", user] if user else []
        return self._ctr(*argv, reference, check=check)

    def push(self, reference: str, local: str, *, user: str) -> Pulled:
        """``ctr images push`` of the image ``local`` to ``host/name:tag``, over plain HTTP."""
        platform = ["--platform", "linux/amd64"]
        return self._ctr("images", "push", "--plain-http", *platform, "--user", user, reference, local)

    def remove(self, reference: str) -> None:
        """Forget an image and its content: the next pull fetches everything again."""
        self._ctr("images", "rm", "--sync", reference)
        leftover = self._ctr("content", "ls", "--quiet").stdout.split()
        if leftover:
            self._ctr("content", "rm", *leftover)

    def digest(self, reference: str) -> str:
        """The digest of what a reference was resolved to."""
        found = self._ctr("images", "ls", f"name=={reference}").stdout
        match = re.search(r"\s(sha\d+:[0-9a-f]+)\s", found)
        assert match is not None, found
        return match[1]

    def _ctr(self, *argv: str, check: bool = True) -> Pulled:
        return run(["ctr", "--address", self._address, *argv], check=check)
