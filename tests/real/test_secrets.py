"""A daemon that was started as root and gives it up: what it keeps, and what others can see of it."""

from __future__ import annotations

import json
import os
import pwd
import shutil
import signal
import stat
import tempfile
from pathlib import Path
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from tests.real.cache import TWISTD
from tests.real.images import random_bytes
from tests.real.origin import blob_path
from tests.real.programs import ROOT, Process, needs, privileged_port, run, status_of
from tests.real.unruly import Unruly
from tests.tls.certificates import make

_NOBODY: Final = "nobody"
#: No permission for anybody but the owner.
_OTHERS: Final = stat.S_IRWXG | stat.S_IRWXO


@needs(root=True)
class GivingUpRootTests(SynchronousTestCase):
    """``twistd --uid nobody --gid nogroup``, with a key that only root can read."""

    def setUp(self) -> None:
        self.account = pwd.getpwnam(_NOBODY)
        self.folder = Path(tempfile.mkdtemp(prefix="cache-"))
        self.addCleanup(shutil.rmtree, self.folder, ignore_errors=True)
        self.folder.chmod(0o711)
        self.root = self.folder / "root"
        self.root.mkdir()
        os.chown(self.root, self.account.pw_uid, self.account.pw_gid)
        self.certificate, self.key = make("cache", hosts=("127.0.0.1",)).write(str(self.folder), "cache")
        Path(self.key).chmod(0o600)
        self.blob = random_bytes(100_000, self.id())
        self.origin = Unruly(self, self.blob)
        self.port = privileged_port()
        self.daemon = self.begun()

    def begun(self) -> Process:
        """A daemon that serves."""
        config = self.folder / "config.yml"
        options = {"upstreams": [self.origin.url]}
        sections = {
            "version": "0.1",
            "storage": {"filesystem": {"rootdirectory": str(self.root)}, "delete": {"enabled": True}},
            "http": {
                "addr": f"127.0.0.1:{self.port}",
                "tls": {"certificate": self.certificate, "key": self.key},
            },
            "middleware": {"registry": [{"name": "downstream", "options": options}]},
        }
        config.write_text(json.dumps(sections), "utf-8")
        config.chmod(0o600)
        account = ("--uid", _NOBODY, "--gid", str(self.account.pw_gid))
        argv = [*TWISTD, *account, "--nodaemon", "--pidfile=", "contentcache", "--config", str(config)]
        environ = {"PYTHONPATH": str(ROOT), "PYTHONUNBUFFERED": "1"}
        # A root with further groups, as a login has.
        wrapper = ["setpriv", "--groups", "0,4,24"] if shutil.which("setpriv") else []
        process = Process(self, [*wrapper, *argv], name="contentcache", env=environ, cwd=self.folder)
        process.wait_for(f"https://127.0.0.1:{self.port}/", statuses=(200,))
        return process

    def of_process(self, name: str) -> str:
        """A file of the daemon's in ``/proc``."""
        return Path(f"/proc/{self.daemon.pid}/{name}").read_text("ascii")

    def test_account(self) -> None:
        """Nothing of root is left in the process, its further groups not either, and it serves."""
        status = dict(
            line.split(":\t", 1) for line in self.of_process("status").splitlines() if ":\t" in line
        )
        uid, gid = str(self.account.pw_uid), str(self.account.pw_gid)
        self.assertEqual(status["Uid"].split(), [uid] * 4)
        self.assertEqual(status["Gid"].split(), [gid] * 4)
        self.assertEqual(set(status["Groups"].split()), {gid})
        self.assertEqual(int(status["CapEff"], 16), 0)
        self.assertEqual(status["Umask"], "0077")
        self.assertEqual(status_of(self.url), 200)

    def test_no_core(self) -> None:
        """The process leaves no core file, and no memory in what a core is piped to."""
        limits = self.of_process("limits")
        (line,) = (line for line in limits.splitlines() if line.startswith("Max core file size"))
        self.assertEqual(line.split()[4:6], ["0", "0"])
        self.assertEqual(int(self.of_process("coredump_filter"), 16), 0)

    def test_files(self) -> None:
        """What it writes is its own, and nobody else can read it, list it or change it."""
        self.assertEqual(status_of(self.url), 200)
        stored = blob_path(self.root, self.origin.digests[0])
        self.daemon.wait_until(stored.is_file, "the blob in the store")
        made = list(self.root.rglob("*"))
        for path in made:
            found = path.stat()
            self.assertEqual((found.st_uid, found.st_gid), (self.account.pw_uid, self.account.pw_gid), path)
            self.assertEqual(found.st_mode & _OTHERS, 0, path)

    def test_existing_folders(self) -> None:
        """The folders of a registry that was here before keep the mode that they have."""
        self.daemon.stop()
        docker = self.root / "docker"
        shutil.rmtree(docker, ignore_errors=True)
        docker.mkdir()
        docker.chmod(0o755)
        os.chown(docker, self.account.pw_uid, self.account.pw_gid)
        self.daemon = self.begun()
        self.assertEqual(status_of(self.url), 200)
        self.assertEqual(stat.S_IMODE(docker.stat().st_mode), 0o755)

    def test_key_that_is_roots(self) -> None:
        """A key of root's is read at the start, and SIGHUP, which comes too late for it, keeps what there is."""
        self.daemon.send(signal.SIGHUP)
        self.daemon.wait_until(
            lambda: "certificates not reloaded" in self.daemon.log(), "a word on certificates"
        )
        self.assertEqual(status_of(self.url), 200)
        os.chown(self.key, self.account.pw_uid, -1)
        self.daemon.send(signal.SIGHUP)
        self.daemon.wait_until(lambda: "certificates reloaded" in self.daemon.log(), "a word on certificates")
        self.assertEqual(status_of(self.url), 200)

    @property
    def url(self) -> str:
        """The URL of the blob."""
        return f"https://127.0.0.1:{self.port}/v2/org/app/blobs/{self.origin.digests[0]}"


class NoCoreTests(SynchronousTestCase):
    """The same for whoever starts it."""

    def test_programs_it_starts(self) -> None:
        """A program that the daemon starts, a credential helper say, leaves no core either."""
        script = (
            "import subprocess; from contentcache.app.process import harden; harden();"
            " subprocess.run(['sh', '-c', 'ulimit -Hc; umask; cat /proc/self/coredump_filter'], check=True)"
        )
        done = run([TWISTD[0], "-c", script], env={"PYTHONPATH": str(ROOT)})
        self.assertEqual(done.stdout.split(), ["0", "0077", "00000000"])
