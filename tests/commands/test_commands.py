"""Tests for :mod:`contentcache.commands`, without a daemon."""

from __future__ import annotations

import doctest
import json
import os
import socket
from collections.abc import Sequence
from pathlib import Path

import yaml
from click.testing import CliRunner, Result

from contentcache.acme.renewal_state import RenewalOutcome
from contentcache.commands import alive, certificate_table, configuration, main, output
from contentcache.config.model import Http
from tests.config.writing import MINIMAL, ConfigurationTestCase, with_upstream
from tests.tls.certificates import make


class CheckTests(ConfigurationTestCase):
    """``contentcache check``."""

    def run_check(self, *arguments: str, **environ: str | None) -> Result:
        """What the command prints, and its status."""
        clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("REGISTRY_")}
        return CliRunner().invoke(main.main, ["check", *arguments], env={**clean, **environ})

    def test_good(self) -> None:
        """A file without faults is OK, and the status is 0."""
        path = self.write(MINIMAL)
        result = self.run_check(path)
        self.assertEqual((result.exit_code, result.stdout, result.stderr), (0, f"{path}: OK\n", ""))

    def test_warnings(self) -> None:
        """Warnings are printed, and the file is OK all the same."""
        path = self.write(MINIMAL + "validation: {}\n")
        result = self.run_check(path)
        self.assertEqual(result.exit_code, 0)
        self.assertEqual(
            result.stdout, f"warning: {path}:9: validation: has no effect on a cache\n{path}: OK\n"
        )

    def test_faults(self) -> None:
        """All faults go to standard error, a line each, and the status is 1."""
        path = self.write(MINIMAL.replace("0.1", "0.2") + "htp: 5\n")
        result = self.run_check(path)
        self.assertEqual((result.exit_code, result.stdout), (1, ""))
        self.assertEqual(
            result.stderr,
            f"{path}:1: version: '0.2' is not a version that is supported; write 0.1\n"
            f"{path}:9: htp: unknown key; did you mean http?\n",
        )

    def test_environment(self) -> None:
        """Overrides in the environment count, and it may name the file."""
        path = self.write(MINIMAL)
        result = self.run_check(REGISTRY_CONFIGURATION_PATH=path)
        self.assertEqual((result.exit_code, result.stdout), (0, f"{path}: OK\n"))
        result = self.run_check(path, REGISTRY_HTTP_ADDR="nowhere")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("REGISTRY_HTTP_ADDR: http.addr: 'nowhere' is not an address", result.stderr)

    def test_no_file(self) -> None:
        """Without a file there is nothing to check, and one that is not there is a fault."""
        self.assertNotEqual(self.run_check().exit_code, 0)
        result = self.run_check("/nope.yml")
        self.assertEqual(
            (result.exit_code, result.stderr), (1, "/nope.yml: cannot be read: No such file or directory\n")
        )

    def test_show(self) -> None:
        """The configuration in effect is YAML without passwords, and what stands around it a comment."""
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
        """A path that is not text is told all the same."""
        result = self.run_check("/nope\udce9.yml")
        self.assertEqual((result.exit_code, result.exception.__class__), (1, SystemExit))
        self.assertIn("cannot be read", result.stderr)

    def test_examples(self) -> None:
        """The examples in the documentation of the module hold."""
        self.assertEqual(doctest.testmod(output).failed, 0)


class CertificatesTests(ConfigurationTestCase):
    """``contentcache certificates``."""

    def run_certificates(self, tls: str, *arguments: str) -> Result:
        """What the command prints of a configuration with this section."""
        path = self.write(MINIMAL.replace('addr: ":5000"', f'addr: "127.0.0.1:0"{tls}'))
        return CliRunner().invoke(main.main, ["certificates", path, *arguments])

    def test_files(self) -> None:
        """A certificate of a file has a row for each of its names, and cannot be renewed."""
        made = make("cache", hosts=("a.example", "b.example", "2001:db8::1"))
        certificate, key = self.write(made.pem), self.write(made.key_pem())
        tls = f", tls: {{certificate: {certificate}, key: {key}}}"
        result = self.run_certificates(tls)
        self.assertEqual(result.exit_code, 0, result.output)
        for words in ("a.example", "b.example", "2001:db8::1", "cache", "by you"):
            self.assertIn(words, result.stdout)
        result = self.run_certificates(tls, "--renew")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("these certificates are files", result.output)

    def test_kept(self) -> None:
        """Certificates in the folder are shown with their next renewal, hosts without one too; damage is told."""
        made = make("cache", hosts=("a.example",))
        folder = Path(self.mktemp()).absolute() / ("deep" * 50)  # wherever it lies, no row is folded
        folder.mkdir(parents=True)
        (folder / "a.example.pem").write_bytes(made.key_pem() + made.pem)
        (folder / "c.example.pem").write_bytes(b"rubbish")
        hosts = "[a.example, b.example, c.example]"
        tls = f", tls: {{letsencrypt: {{cachefile: {folder}, hosts: {hosts}}}}}"
        result = self.run_certificates(tls)
        self.assertEqual(result.exit_code, 0, result.output)
        rows = {line.split()[1]: line for line in result.stdout.splitlines() if ".example" in line}
        self.assertIn("no daemon runs", rows["a.example"])
        self.assertIn("none yet", rows["b.example"])
        self.assertIn(f"{folder}/c.example.pem holds no certificate", rows["c.example"])
        self.assertEqual((folder / "c.example.pem").read_bytes(), b"rubbish")
        for renew in ((), ("--renew",)):
            result = self.run_certificates(tls, *renew, "--host", "x.example")
            self.assertEqual(result.exit_code, 1)
            self.assertIn("x.example is not in letsencrypt.hosts", result.output)

    def test_words_of_others(self) -> None:
        """What servers and authorities have chosen is shown as it is, and orders nothing."""
        again = 4_000_000_000.0
        said = "the ACME server says: [/foo] [bold] [2001:db8::1]:443 \x1b[2J"
        self.patch(
            certificate_table,
            "send_command",
            lambda *_: iter([RenewalOutcome("a.example", False, said, again)]),
        )
        folder = Path(self.mktemp()).absolute()
        folder.mkdir()
        made = make("[/bar]", hosts=("a.example",))
        (folder / "a.example.pem").write_bytes(made.key_pem() + made.pem)
        result = self.run_certificates(f", tls: {{letsencrypt: {{cachefile: {folder}, hosts: [a.example]}}}}")
        self.assertEqual(result.exit_code, 0, result.output)
        for words in ("[/foo] [bold] [2001:db8::1]:443 ?[2J", "[/bar]", "2096-10-02 07:06:40 UTC"):
            self.assertIn(words, result.stdout)

    def test_not_ours(self) -> None:
        """That one may not ask the daemon is not taken for its absence."""

        def forbidden(*_: object) -> None:
            raise PermissionError(13, "Permission denied")

        self.patch(certificate_table, "send_command", forbidden)
        tls = f", tls: {{letsencrypt: {{cachefile: {self.mktemp()}, hosts: [a.example]}}}}"
        self.assertIn("the daemon cannot be asked: Permission denied", self.run_certificates(tls).stdout)
        result = self.run_certificates(tls, "--renew")
        self.assertEqual(result.exit_code, 3)
        self.assertIn("the daemon cannot be asked: Permission denied; that takes the daemon's", result.output)

    def test_other_letters(self) -> None:
        """A host may be named on the command line as it is in the file."""
        tls = f", tls: {{letsencrypt: {{cachefile: {self.mktemp()}, hosts: [a.example, München.example]}}}}"
        for named in ("München.example", "xn--mnchen-3ya.example"):
            asked: list[tuple[object, ...]] = []
            self.patch(
                certificate_table, "send_command", lambda *words, asked=asked: asked.append(words) or iter(())
            )
            self.run_certificates(tls, "--renew", "--host", named)
            self.assertEqual(asked[0][1:], ("renew", ("xn--mnchen-3ya.example",)))

    def test_told(self) -> None:
        """What the daemon says of a renewal decides about the exit status, also that too many ask it."""
        tls = f", tls: {{letsencrypt: {{cachefile: {self.mktemp()}, hosts: [a.example]}}}}"
        for host, is_new, said, status in (
            ("a.example", True, "a.example has a certificate", 0),
            ("a.example", False, "a.example has no new certificate: a certificate", 1),
            ("", False, "a certificate", 1),
        ):
            outcome = RenewalOutcome(host, is_new, "a certificate")
            self.patch(certificate_table, "send_command", lambda *_, outcome=outcome: iter([outcome]))
            result = self.run_certificates(tls, "--renew")
            self.assertEqual(result.exit_code, status, result.output)
            self.assertIn(said, result.output)

    def test_none(self) -> None:
        """Without TLS there is nothing to show."""
        result = self.run_certificates("")
        self.assertEqual(result.exit_code, 1)
        self.assertIn("no section http.tls", result.output)


class AliveTests(ConfigurationTestCase):
    """``contentcache alive``."""

    def run_alive(self, *arguments: str, **environ: str | None) -> Result:
        """What the command prints, and its status, where process 1 is another program."""
        clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("REGISTRY_")}
        self.patch(configuration, "file_of_first_process", lambda: None)
        return CliRunner().invoke(main.main, ["alive", *arguments], env={**clean, **environ})

    def test_answer(self) -> None:
        """The settings of the file are asked, and the sentence about the answer printed."""
        asked: list[tuple[int, float]] = []

        def ask(settings: Http, timeout: float) -> str:
            asked.append((settings.addr.port, timeout))
            return "it answers"

        self.patch(alive, "ask", ask)
        path = self.write(MINIMAL)
        result = self.run_alive(path, "--timeout", "2")
        self.assertEqual((result.exit_code, result.stdout, result.stderr), (0, "it answers\n", ""))
        result = self.run_alive(REGISTRY_CONFIGURATION_PATH=path, REGISTRY_HTTP_ADDR=":81")
        self.assertEqual((result.exit_code, asked), (0, [(5000, 2.0), (81, 5.0)]))

    def test_dead(self) -> None:
        """Where nobody listens, the status is 3 and a sentence says where that was."""
        with socket.create_server(("127.0.0.1", 0)) as bound:
            port = bound.getsockname()[1]
        result = self.run_alive(self.write(MINIMAL), REGISTRY_HTTP_ADDR=f"127.0.0.1:{port}")
        self.assertEqual((result.exit_code, result.stdout), (3, ""))
        self.assertEqual(result.stderr, f"http://127.0.0.1:{port}/ does not answer: Connection refused\n")

    def test_first_process(self) -> None:
        """Without a file the one of process 1 is read, before that of the environment."""
        self.patch(alive, "ask", lambda settings, timeout: str(settings.addr.port))
        path = self.write(MINIMAL)
        self.patch(configuration, "file_of_first_process", lambda: path)
        result = CliRunner().invoke(main.main, ["alive"], env={"REGISTRY_CONFIGURATION_PATH": "/nope.yml"})
        self.assertEqual((result.exit_code, result.stdout), (0, "5000\n"))

    def test_no_file(self) -> None:
        """Without a file nobody is asked, and one with faults says what they are."""
        self.assertIn("/etc/contentcache/config.yml: cannot be read", self.run_alive().stderr)
        result = self.run_alive("/nope.yml")
        self.assertEqual(
            (result.exit_code, result.stderr), (1, "/nope.yml: cannot be read: No such file or directory\n")
        )


class UsageTests(ConfigurationTestCase):
    """Bad input of every command: a sentence, a status, and nothing on standard output."""

    def test_refused(self) -> None:
        """Files that are not there, or faulty, are status 1; what cannot be understood is 2."""
        faulty = self.write("version: 0.2\nhtpp: {}\n")
        clean: dict[str, str | None] = {name: None for name in os.environ if name.startswith("REGISTRY_")}
        self.patch(configuration, "file_of_first_process", lambda: None)
        for arguments, status, words in _REFUSED:
            given = [faulty if word == "FAULTY" else word for word in arguments]
            result = CliRunner().invoke(main.main, given, env=clean)
            self.assertEqual((result.exit_code, result.stdout), (status, ""), (arguments, result.stderr))
            self.assertIn(words, result.stderr, arguments)

    def test_refused_in_json(self) -> None:
        """With ``--json`` the same is JSON on standard output."""
        faulty = self.write("version: 0.2\nhtpp: {}\n")
        for command in ("check", "status", "reload", "alive", "certificates"):
            result = CliRunner().invoke(main.main, [command, faulty, "--json"])
            self.assertEqual(result.exit_code, 1, command)
            told = json.loads(result.stdout)
            self.assertEqual((told["file"], told["ok"]), (faulty, False))
            self.assertLessEqual({"version", "htpp"}, {error["key"] for error in told["errors"]})

    def test_check_in_json(self) -> None:
        """A good file is JSON with its warnings, and with ``--show`` with what is in effect."""
        path = self.write(MINIMAL)
        told = json.loads(CliRunner().invoke(main.main, ["check", path, "--json", "--show"]).stdout)
        self.assertEqual((told["ok"], told["errors"]), (True, []))
        self.assertEqual(told["configuration"]["http"]["addr"], ":5000")

    def test_help(self) -> None:
        """Every command has help, the short way too, that says what the statuses mean."""
        for arguments in ((), *((name,) for name in main.main.commands)):
            for option in ("-h", "--help"):
                result = CliRunner().invoke(main.main, [*arguments, option])
                self.assertEqual(result.exit_code, 0)
                self.assertIn("Usage:", result.stdout)
        self.assertIn("3 where the daemon", CliRunner().invoke(main.main, ["-h"]).stdout)

    def test_completion(self) -> None:
        """Each shell gets what completes commands."""
        for shell in ("bash", "zsh", "fish"):
            result = CliRunner().invoke(main.main, ["completion", shell])
            self.assertEqual(result.exit_code, 0, result.output)
            self.assertIn("_CONTENTCACHE_COMPLETE", result.stdout)


_REFUSED: Sequence[tuple[Sequence[str], int, str]] = (
    (("serve", "/nope.yml"), 1, "/nope.yml: cannot be read"),
    (("/nope.yml",), 1, "/nope.yml: cannot be read"),
    (("serve", "--config", "/nope.yml"), 1, "/nope.yml: cannot be read"),
    (("serve", "FAULTY"), 1, "htpp: unknown key; did you mean http?"),
    (("serve",), 1, "/etc/contentcache/config.yml: cannot be read"),
    (("serve", "FAULTY", "--config", "FAULTY"), 2, "either FILE or --config FILE"),
    (("serve", "FAULTY", "FAULTY"), 2, "unexpected extra argument"),
    (("serve", "--usr", "nobody"), 2, "No such option"),
    (("serve", "--user", "nobody-of-that-name", "FAULTY"), 2, "there is no user"),
    (("chekc",), 2, "No such command 'chekc'"),
    (("status", "--interval", "0", "FAULTY"), 2, "--interval"),
    *(
        (("status", "--interval", number, "FAULTY"), 2, "is not in the range")
        for number in ("nan", "inf", "1e300")
    ),
    *(
        (("alive", "--timeout", number, "FAULTY"), 2, "is not in the range")
        for number in ("nan", "inf", "-1", "0")
    ),
    (("completion", "tcsh"), 2, "'tcsh' is not one of"),
    (("completion",), 2, "Missing argument"),
    (("alive", "--timeout", "soon", "FAULTY"), 2, "--timeout"),
    *(
        ((name, "/nope.yml"), 1, "/nope.yml: cannot be read")
        for name in ("check", "status", "reload", "alive", "certificates")
    ),
)
