"""
The container image: built by ``make image`` on a base that is made here, and run.

Everything is done by a real dockerd, ``RUN`` included. It has no network of its own, so containers have the
machine's or none. The machine may reach packages in ways that a container does not know of: so the wheels are
fetched before, and pip is told to use nothing else, as where there is no network at all.
"""

from __future__ import annotations

import json
import shlex
import shutil
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from twisted.trial.unittest import SynchronousTestCase

from contentcache import __version__
from tests.real.certificates import Authority
from tests.real.clients import Curl, Dockerd, manifest_in, skopeo_copy
from tests.real.images import digest_of, push_blob, push_image, random_bytes
from tests.real.origin import Origin, blob_path
from tests.real.programs import ROOT, Case, free_port, needs, place, run, until

IMAGE: Final = "contentcache:test"
BASE: Final = "base:test"

#: The account that the image has unless another one is asked for.
ACCOUNT: Final = 65532

_CONTEXT: Final = (
    "contentcache",
    "twisted",
    "Dockerfile",
    ".dockerignore",
    "LICENSE",
    "Makefile",
    "README.rst",
)


class _Container:
    """A container that runs in the background, removed at the end."""

    def __init__(self, case: Case, docker: Dockerd, *arguments: str) -> None:
        self._docker = docker
        started = docker.command("run", "--detach", "--health-interval", "1s", *arguments)
        self.id = started.stdout.strip()
        case.addCleanup(lambda: docker.command("rm", "--force", "--volumes", self.id, check=False))

    def state(self) -> Any:
        """What ``docker inspect`` says of its state."""
        return self.inspect()["State"]

    def inspect(self) -> Any:
        """All that ``docker inspect`` says."""
        return json.loads(self._docker.command("inspect", self.id).stdout)[0]

    def log(self) -> tuple[str, str]:
        """Its standard output, and its standard error."""
        done = self._docker.command("logs", self.id)
        return done.stdout, done.stderr

    def wait_until_healthy(self) -> None:
        """As its own health check sees it."""
        until(lambda: self._health() != "starting", "an end of the health check's beginning", every=0.2)
        assert self._health() == "healthy", (self.state(), self.log())

    def stop(self) -> int:
        """``docker stop``; its exit status, 137 where it had to be killed."""
        self._docker.command("stop", "--time", "30", self.id)
        return int(self.state()["ExitCode"])

    def _health(self) -> str:
        state = self.state()
        assert state["Running"], (state, self.log())
        return str(state["Health"]["Status"])


@needs("dockerd", "docker", "make", "mmdebstrap", "docker-registry", "skopeo", "curl", root=True)
class ImageTests(SynchronousTestCase):
    """One image for all of it: to make it takes most of the time."""

    def test_image(self) -> None:
        """
        It is what the documents say, pulls as the account that it has, runs as any other, says whether it
        lives, and stops as it should.
        """
        docker = Dockerd(self, driver=None)
        _make_base(self, docker)
        _make_image(self, docker)
        self._is_described(docker)
        self._needs_a_file(docker)
        self._checks(docker)
        self._pulls_and_drains(docker)
        self._runs_locked_up(docker)

    def _is_described(self, docker: Dockerd) -> None:
        """Account, signal, volume and labels are there, the version is ours, and pip is not."""
        config = docker.inspect(IMAGE)["Config"]
        self.assertEqual(config["User"], f"{ACCOUNT}:{ACCOUNT}")
        self.assertEqual(config["StopSignal"], "SIGTERM")
        self.assertEqual(list(config["Volumes"]), ["/var/lib/registry"])
        labels = {name.removeprefix("org.opencontainers.image."): of for name, of in config["Labels"].items()}
        self.assertEqual((labels["version"], labels["base.name"]), (__version__, BASE))
        there = docker.command(
            "run", "--rm", "--entrypoint", "python", IMAGE, "-c", "import pip", check=False
        )
        self.assertIn("No module named 'pip'", there.stderr)

    def _needs_a_file(self, docker: Dockerd) -> None:
        """Without an argument the file has a place of its own; it is told when nothing is there."""
        ended = docker.command("run", "--rm", "--network", "none", IMAGE, check=False)
        self.assertEqual(ended.returncode, 1)
        self.assertEqual(
            ended.stderr, "/etc/contentcache/config.yml: cannot be read: No such file or directory\n"
        )

    def _checks(self, docker: Dockerd) -> None:
        """Its entry point is the whole command: it checks a file as well."""
        config = _write_config(self, {"addr": ":5000"}, upstream="http://127.0.0.1:1")
        mounted = ["run", "--rm", "--network", "none", "--volume", f"{config}:/config.yml:ro", IMAGE]
        self.assertIn("/config.yml: OK", docker.command(*mounted, "check", "/config.yml").stdout)
        config.write_text("version: 0.2\n", "utf-8")
        checked = docker.command(*mounted, "check", "/config.yml", check=False)
        self.assertEqual((checked.returncode, checked.stdout), (1, ""))
        self.assertEqual(docker.command(*mounted, "status", "/config.yml", check=False).returncode, 1)

    def _pulls_and_drains(self, docker: Dockerd) -> None:
        """With the file's path as its only argument it serves, not as root, from a volume that outlives it."""
        origin = Origin(self)
        image = push_image(origin, "org/app", "1")
        large = push_blob(origin, "org/app", random_bytes(40_000_000, "large"))
        port = free_port()
        config = _write_config(
            self, {"addr": f"127.0.0.1:{port}", "draintimeout": "30s"}, upstream=origin.url
        )
        arguments = ["--network", "host", "--volume", f"{config}:/config.yml:ro"]
        arguments += ["--volume", "blobs:/var/lib/registry", IMAGE, "/config.yml"]
        cache = _Container(self, docker, *arguments)
        cache.wait_until_healthy()

        folder = place(self)
        skopeo_copy(image.reference(f"127.0.0.1:{port}"), folder)
        self.assertEqual(digest_of(manifest_in(folder)), image.digest)
        accounts, capabilities = _rights(cache.state()["Pid"])
        self.assertEqual((accounts, capabilities), ({ACCOUNT}, 0))
        (mount,) = [each for each in cache.inspect()["Mounts"] if each["Type"] == "volume"]
        stored = blob_path(Path(mount["Source"]), image.layers[0].digest)
        until(stored.is_file, "the layer in the store")
        self.assertEqual((stored.stat().st_uid, stored.stat().st_mode & 0o077), (ACCOUNT, 0))

        told = docker.command("exec", cache.id, "contentcache", "status", "--json").stdout
        self.assertEqual(json.loads(told)["store"]["path"], "/var/lib/registry")
        slow = Curl(self).start(f"http://127.0.0.1:{port}/v2/org/app/blobs/{large}", "--limit-rate", "15M")
        until(lambda: slow.received() > 0, "the first bytes of a transfer")
        self.assertEqual(cache.stop(), 0)
        fetched = slow.result()
        self.assertEqual((fetched.ended, fetched.status, fetched.size), (0, 200, 40_000_000))
        out, err = cache.log()
        self.assertIn("drain started transfers=1 ", out)
        self.assertIn(f'"GET /v2/org/app/blobs/{image.layers[0].digest} HTTP/1.1" 200', out)
        self.assertEqual(err, "")

        again = _Container(self, docker, *arguments)
        again.wait_until_healthy()
        skopeo_copy(image.reference(f"127.0.0.1:{port}"), place(self))
        until(lambda: 'cache="hit' in again.log()[0], "a hit in the log that docker keeps")
        self.assertEqual(again.stop(), 0)

    def _runs_locked_up(self, docker: Dockerd) -> None:
        """
        Any account of group 0 will do, on a filesystem that cannot be written, without a capability, with TLS
        on a low port, and with the file in the place where it is looked for.
        """
        folder = place(self)
        leaf = Authority(folder).leaf("cache.example")
        leaf.key.chmod(0o644)
        tls = {"certificate": "/certs/cache.example.pem", "key": "/certs/cache.example-key.pem"}
        config = _write_config(self, {"addr": ":443", "tls": tls}, upstream="http://127.0.0.1:1")
        arguments = ["--network", "none", "--read-only", "--cap-drop", "ALL", "--user", "12345:0"]
        arguments += ["--security-opt", "no-new-privileges", "--volume", f"{folder}:/certs:ro"]
        arguments += ["--volume", f"{config}:/etc/contentcache/config.yml:ro", IMAGE]
        cache = _Container(self, docker, *arguments)
        cache.wait_until_healthy()
        checked = cache.state()["Health"]["Log"][-1]["Output"]
        self.assertEqual(checked, "https://localhost:443/ answers 200\n")
        self.assertEqual(_rights(cache.state()["Pid"]), ({12345}, 0))
        self.assertEqual(cache.stop(), 0)
        out, err = cache.log()
        self.assertNotIn("error", out)
        self.assertEqual(err, "")


def _make_base(case: Case, docker: Dockerd) -> None:
    """
    Debian's Python, a shell and what they depend on, from where this machine has its packages.

    They are unpacked and no more, which takes an eighth of the time that installing them does. So there are
    no accounts, for one thing: the image's own has no name.
    """
    targets = ["apt-get", "indextargets", "--format", "deb $(REPO_URI) $(RELEASE) $(COMPONENT)"]
    known = run([*targets, "Created-By: Packages", "Origin: Debian"]).stdout
    assert known, "apt knows of no package of Debian's here: apt-get update"
    folder = place(case)
    sources = folder / "sources.list"
    sources.write_text("\n".join(sorted(set(known.splitlines()))) + "\n", "utf-8")
    tarball = folder / "base.tar"
    packages = "python3,python3-venv,dash,coreutils,findutils"
    argv = ["mmdebstrap", "--quiet", "--variant=extract", f"--include={packages}"]
    run([*argv, "", str(tarball), str(sources)], timeout=300)
    docker.command("import", str(tarball), BASE)
    tarball.unlink()


def _make_image(case: Case, docker: Dockerd) -> None:
    """``make image``, from a copy of what a release has, with wheels for the Python of the base."""
    context = place(case)
    for name in _CONTEXT:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, context / name)
    shutil.copy(ROOT / "pyproject.toml", context)
    asked = ["python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])"]
    version = docker.command("run", "--rm", "--network", "none", BASE, *asked).stdout.strip()
    project = tomllib.loads((ROOT / "pyproject.toml").read_text("utf-8"))
    wanted = project["project"]["dependencies"] + project["build-system"]["requires"]
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--only-binary=:all:"]
    run([*download, "--python-version", version, "--dest", context / "wheels", *wanted], timeout=300)
    build = f"--network host --build-arg BASE={BASE} --build-arg PIP_NO_INDEX=1"
    settings = [f"DOCKER={shlex.join(docker.client)}", f"IMAGE={IMAGE}", f"BUILD={build}"]
    run(["make", "--directory", context, "image", *settings], timeout=300)


def _write_config(case: Case, http: Mapping[str, object], *, upstream: str) -> Path:
    """A configuration whose store is in the place that it has unless it says otherwise."""
    path = place(case) / "config.yml"
    options = {"upstreams": [{"originhost": upstream}]}
    sections = {
        "version": "0.1",
        "storage": {"filesystem": {}},
        "http": http,
        "middleware": {"registry": [{"name": "downstream", "options": options}]},
    }
    path.write_text(json.dumps(sections), "utf-8")
    return path


def _rights(pid: int) -> tuple[set[int], int]:
    """The user ids of a process, and its effective capabilities."""
    lines = (line.partition(":") for line in Path(f"/proc/{pid}/status").read_text("utf-8").splitlines())
    status = {name: value.split() for name, _, value in lines}
    return {int(uid) for uid in status["Uid"]}, int(status["CapEff"][0], 16)
