"""
Tests for :mod:`contentcache.cli`.
"""

from __future__ import annotations

import doctest
import os

import yaml
from click.testing import CliRunner, Result

from contentcache import cli
from tests.config.writing import MINIMAL, ConfigurationTestCase, with_upstream


class CheckTests(ConfigurationTestCase):
    """
    ``contentcache check``.
    """

    def run_check(self, *arguments: str, **environ: str | None) -> Result:
        """
        What the command prints, and its status.
        """
        clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("REGISTRY_")}
        return CliRunner().invoke(cli.main, ["check", *arguments], env={**clean, **environ})

    def test_good(self) -> None:
        """
        A file without faults is OK, and the status is 0.
        """
        path = self.write(MINIMAL)
        result = self.run_check(path)
        self.assertEqual((result.exit_code, result.stdout, result.stderr), (0, f"{path}: OK\n", ""))

    def test_warnings(self) -> None:
        """
        Warnings are printed, and the file is OK all the same.
        """
        path = self.write(MINIMAL + "validation: {}\n")
        result = self.run_check(path)
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(
            result.stdout, f"warning: {path}:9: validation: has no effect on a cache\n{path}: OK\n"
        )

    def test_faults(self) -> None:
        """
        All faults go to standard error, a line each, and the status is 1.
        """
        path = self.write(MINIMAL.replace("0.1", "0.2") + "htp: 5\n")
        result = self.run_check(path)
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertEqual(
            result.stderr,
            f"{path}:1: version: '0.2' is not a version that is supported; write 0.1\n"
            f"{path}:9: htp: unknown key; did you mean http?\n",
        )

    def test_environment(self) -> None:
        """
        Overrides in the environment count, and it may name the file.
        """
        path = self.write(MINIMAL)
        result = self.run_check(REGISTRY_CONFIGURATION_PATH=path)
        self.assertEqual((result.exit_code, result.stdout), (0, f"{path}: OK\n"))
        result = self.run_check(path, REGISTRY_HTTP_ADDR="nowhere")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("REGISTRY_HTTP_ADDR: http.addr: 'nowhere' is not an address", result.stderr)

    def test_no_file(self) -> None:
        """
        Without a file there is nothing to check, and one that is not there is a fault.
        """
        self.assertNotEqual(self.run_check().exit_code, 0)
        result = self.run_check("/nope.yml")
        self.assertEqual(
            (result.exit_code, result.stderr), (1, "/nope.yml: cannot be read: No such file or directory\n")
        )

    def test_show(self) -> None:
        """
        The configuration in effect is YAML without passwords, and what stands around it a comment.
        """
        path = self.write(
            with_upstream("public: true\nusername: u\npassword: topsecret") + "\nvalidation: {}\n"
        )
        result = self.run_check(path, "--show")
        self.assertEqual(result.exit_code, 0)
        self.assertNotIn("topsecret", result.output)
        shown = yaml.safe_load(result.stdout)
        upstream = shown["middleware"]["registry"][0]["options"]["upstreams"][0]
        self.assertEqual((upstream["username"], upstream["password"]), ("u", "***"))

    def test_odd_path(self) -> None:
        """
        A path that is not text is told all the same.
        """
        result = self.run_check("/nope\udce9.yml")
        self.assertEqual((result.exit_code, result.exception.__class__), (1, SystemExit))
        self.assertIn("cannot be read", result.stderr)

    def test_examples(self) -> None:
        """
        The examples in the documentation of the module hold.
        """
        self.assertEqual(doctest.testmod(cli).failed, 0)
