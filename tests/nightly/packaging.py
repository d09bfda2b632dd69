"""The wheel, installed into an environment of its own beside nothing of this folder, as ``pip install`` does."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import sysconfig
import venv
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from contentcache import __version__
from tests.real.programs import ROOT, free_port, place, plain_environment, status_of, until


class WheelTests(SynchronousTestCase):
    """One wheel."""

    def setUp(self) -> None:
        """Build it, and install it beside the packages that it needs."""
        self.folder = place(self)
        pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
        source = self.folder / "source"
        for name in ("contentcache", "twisted"):
            shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in ("pyproject.toml", "README.rst", "LICENSE"):
            shutil.copy(ROOT / name, source)
        self.run_in(*pip, "wheel", "--no-deps", "--wheel-dir", self.folder, source)
        (wheel,) = self.folder.glob("*.whl")
        home = self.folder / "venv"
        venv.create(home, symlinks=True)
        self.python = home / "bin" / "python"
        site = self.run_in(self.python, "-c", "import sysconfig; print(sysconfig.get_paths()['purelib'])")
        self.site = Path(site.strip())
        self.run_in(*pip, "install", "--no-deps", "--target", self.site, wheel)
        # What it needs is taken from here; of this package only what was installed.
        for package in Path(sysconfig.get_paths()["purelib"]).iterdir():
            there = self.site / package.name
            if package.suffix == ".pth" or "contentcache" in package.name:
                continue
            if not there.exists():
                there.symlink_to(package)
            elif package.name == "twisted":  # the plugin has gone into it
                shutil.copytree(package, there, dirs_exist_ok=True)

    def run_in(self, *argv: object) -> str:
        """Run a program away from this folder; what it writes."""
        done = subprocess.run(
            [str(word) for word in argv],
            cwd=self.folder,
            env={**plain_environment(), "PYTHONSAFEPATH": "1"},
            capture_output=True,
            text=True,
            check=False,
        )
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        return done.stdout

    def test_installed(self) -> None:
        """The wheel is whole: the plugin of twistd starts a daemon from it, and the command checks a file."""
        where = self.run_in(
            self.python, "-c", "import contentcache; print(contentcache.__version__, contentcache.__file__)"
        )
        version, path = where.split()
        self.assertEqual(version, __version__)
        self.assertEqual(Path(path).resolve().parent, (self.site / "contentcache").resolve())
        port = free_port()
        config = self.folder / "config.yml"
        config.write_text(
            json.dumps(
                {
                    "version": 0.1,
                    "storage": {"filesystem": {"rootdirectory": str(self.folder / "root")}},
                    "http": {"addr": f"127.0.0.1:{port}"},
                    "middleware": {
                        "registry": [
                            {
                                "name": "downstream",
                                "options": {"upstreams": [{"originhost": "http://127.0.0.1:1"}]},
                            }
                        ]
                    },
                }
            ),
            "utf-8",
        )
        self.run_in(self.python, "-m", "contentcache", "check", config)
        twistd = (
            self.python,
            "-c",
            "from twisted.scripts.twistd import run; run()",
            "--nodaemon",
            "--pidfile=",
        )
        empty = self.folder / "empty"
        empty.mkdir()
        for argv in (
            (*twistd, "contentcache", "--config", config),
            (self.python, "-m", "contentcache", "serve", config),
        ):
            with subprocess.Popen(
                argv,
                cwd=empty,
                env={**plain_environment(), "PYTHONSAFEPATH": "1", "HOME": os.fspath(self.folder)},
            ) as daemon:
                try:
                    until(
                        lambda: status_of(f"http://127.0.0.1:{port}/") == 200, "the installed daemon serves"
                    )
                finally:
                    daemon.terminate()
            self.assertIn(daemon.returncode, {0, -15})
            self.assertEqual(os.listdir(empty), [])
