"""Credential helpers: real programs of a line, run for whoever waits."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from twisted.internet import reactor as installed
from twisted.internet.defer import CancelledError, Deferred
from twisted.internet.task import Clock
from twisted.logger import LogEvent, globalLogPublisher
from twisted.trial.unittest import TestCase

from contentcache.config.model import Account, CredentialHelper
from contentcache.telemetry.logging import event_text
from contentcache.upstream.account import IdentityToken
from contentcache.upstream.credential_helper import CredentialHelperAccount, CredentialHelperError

SERVER = "https://registry.example.com"
ANSWER = json.dumps({"ServerURL": SERVER, "Username": "cache", "Secret": "sesame"})
reactor: Any = installed


class Spawner(Clock):
    """A clock that the test moves, and programs that are real. Only what a program is bound by is the test's."""

    def spawnProcess(self, *args: Any, **kwargs: Any) -> Any:
        """Start it."""
        return reactor.spawnProcess(*args, **kwargs)


class CredentialHelperTests(TestCase):
    """A script, and what becomes of it."""

    def setUp(self) -> None:
        self.clock = Spawner()
        self.folder = Path(self.mktemp()).absolute()
        self.folder.mkdir()
        self.runs = self.folder / "runs"
        self.runs.touch()
        self.events: list[str] = []
        observer: Any = self.note
        globalLogPublisher.addObserver(observer)
        self.addCleanup(globalLogPublisher.removeObserver, observer)

    def note(self, event: LogEvent) -> None:
        """Keep what is logged."""
        self.events.append(event_text(event))

    def made(
        self, script: str, lifetime: float | None = None, environ: Mapping[str, str] | None = None
    ) -> CredentialHelperAccount:
        """What asks a shell script; each of its runs leaves what it read, in a line."""
        path = self.folder / "docker-credential-test"
        path.write_text(f'#!/bin/sh\nread -r server\necho "$1 $server" >> {self.runs}\n{script}\n')
        path.chmod(0o700)
        program = CredentialHelper((str(path),), lifetime)
        return CredentialHelperAccount(
            program, SERVER, os.environ if environ is None else environ, self.clock
        )

    def read(self, path: Path) -> str | None:
        """A file without white space at its end, if it is there."""
        return path.read_text("ascii").strip() if path.exists() else None

    def count(self) -> int:
        """How often it ran."""
        return len(self.runs.read_text().splitlines())

    def ask(self, source: CredentialHelperAccount) -> Deferred[Any]:
        """Ask for the account."""
        return Deferred.fromCoroutine(source.account())

    async def fails(self, source: CredentialHelperAccount, sentence: str) -> None:
        """It fails, and the log says so once, without any secret."""
        self.events.clear()
        with self.assertRaises(CredentialHelperError) as caught:
            await source.account()
        lines = [line for line in self.events if "credential helper" in line]
        self.assertEqual(len(lines), 1, self.events)
        self.assertIn(sentence, lines[0])
        self.assertIn("docker-credential-test", lines[0])
        self.assertNotIn("sesame", "".join(self.events) + str(caught.exception))

    async def test_one_run_for_many(self) -> None:
        """All who wait share one run, and whoever comes later has its answer."""
        source = self.made(f"echo '{ANSWER}'")
        for asked in [self.ask(source) for _ in range(20)]:
            self.assertEqual(await asked, Account("cache", "sesame"))
        self.clock.advance(1e9)
        await source.account()
        self.assertEqual(self.runs.read_text(), f"get {SERVER}\n")

    async def test_who_asked_first_leaves(self) -> None:
        """The client whose request began the run disconnects, and the others get its answer."""
        source = self.made(f"echo '{ANSWER}'")
        first, second = self.ask(source), self.ask(source)
        first.cancel()
        with self.assertRaises(CancelledError):
            await first
        self.assertEqual((await second).username, "cache")
        self.assertEqual(self.count(), 1)

    async def test_lifetime(self) -> None:
        """An answer is kept until a tenth of its life, at most a minute, before its end."""
        for lifetime, kept in ((100.0, 90.0), (3600.0, 3540.0)):
            self.runs.write_text("")
            source = self.made(f"echo '{ANSWER}'", lifetime)
            await source.account()
            self.clock.advance(kept - 0.5)
            await source.account()
            self.assertEqual(self.count(), 1)
            self.clock.advance(0.5)
            await source.account()
            self.assertEqual(self.count(), 2)

    async def test_no_lifetime(self) -> None:
        """With a lifetime of nothing the program runs each time."""
        source = self.made(f"echo '{ANSWER}'", 0.0)
        await source.account()
        await source.account()
        self.assertEqual(self.count(), 2)

    async def test_renewal_fails(self) -> None:
        """An answer that is still good is used when a new one is not to be had, and not after its end."""
        good = self.folder / "good"
        good.touch()
        source = self.made(f"test -e {good} && echo '{ANSWER}'", 100.0)
        await source.account()
        good.unlink()
        self.clock.advance(95)
        self.assertEqual((await source.account()).username, "cache")  # type: ignore[union-attr]
        self.assertEqual(self.count(), 2)
        self.clock.advance(5)
        with self.assertRaises(CredentialHelperError):
            await source.account()

    async def test_refused(self) -> None:
        """After upstream's no it is asked again, once in ten seconds; an old answer's no changes nothing."""
        source = self.made(f"echo '{ANSWER}'")
        account = await source.account()
        source.refused(account)
        await source.account()
        self.assertEqual(self.count(), 1)
        self.clock.advance(10)
        source.refused(Account("cache", "older"))
        await source.account()
        self.assertEqual(self.count(), 1)
        source.refused(account)
        await source.account()
        source.refused(account)
        await source.account()
        self.assertEqual(self.count(), 2)

    async def test_identity_token(self) -> None:
        """The name <token> says that the secret is an identity token; neither is shown."""
        source = self.made("""echo '{"Username": "<token>", "Secret": "sesame"}'""")
        account = await source.account()
        self.assertEqual(account, IdentityToken("sesame"))
        self.assertNotIn("sesame", repr(account))

    async def test_wrong_answers(self) -> None:
        """What is no answer is a failure whose log has nothing of what was written."""
        for written in (
            "sesame",
            "",
            "[]",
            '"sesame"',
            '{"Username": "cache"}',
            '{"Username": "", "Secret": "sesame"}',
            '{"Username": "cache", "Secret": ""}',
            '{"Username": 7, "Secret": "sesame"}',
            '{"Username": "cache", "Secret": "ses\\u000aame"}',
            '{"Username": "a:b", "Secret": "sesame"}',
            "[" * 60_000,
        ):
            (self.folder / "answer").write_text(written)
            await self.fails(self.made(f"cat {self.folder}/answer"), "wrote" if '"S' in written else "JSON")

    async def test_exit_status(self) -> None:
        """A status that is not 0 is told, and of what was written only the protocol's own sentences."""
        await self.fails(self.made(f"echo '{ANSWER}'; echo s3cret >&2; exit 3"), "status 3: run it by hand")
        await self.fails(self.made("kill -9 $$"), "signal 9")
        await self.fails(self.made("echo no credentials username; exit 1"), "no credentials username")
        await self.fails(self.made(f"echo '{ANSWER}'; exit 1"), "status 1: run it by hand")

    async def test_not_found(self) -> None:
        """A server that is not known by its URL is asked for by its host, as docker login keeps it."""
        source = self.made(
            f"case $server in registry.example.com) echo '{ANSWER}';;"
            " *) echo credentials not found in native keychain; exit 1;; esac"
        )
        await source.account()
        self.assertEqual(self.runs.read_text(), f"get {SERVER}\nget registry.example.com\n")
        source = self.made("echo credentials not found in native keychain; exit 1")
        await self.fails(source, "knows no account for this server")

    async def test_missing_program(self) -> None:
        """A program that is not there is a failure like any other."""
        program = CredentialHelper(("docker-credential-test-that-is-nowhere",))
        await self.fails(CredentialHelperAccount(program, SERVER, os.environ, self.clock), "can be found")

    async def test_huge_output(self) -> None:
        """A program that writes without end is killed."""
        await self.fails(self.made("exec yes sesame"), "more than 65536 bytes")

    async def test_huge_complaints(self) -> None:
        """Standard error without end fills no memory and no log."""
        await self.fails(self.made("yes sorry | head -c 1000000 >&2; exit 1"), "status 1: run it")

    async def test_timeout(self) -> None:
        """A program that does not end is killed after 20 s, with a child that holds its output open."""
        source = self.made(
            f"echo $$ > {self.folder}/new; mv {self.folder}/new {self.folder}/pid; sleep 10 & wait"
        )
        pid = self.folder / "pid"
        asked = self.ask(source)
        while (number := self.read(pid)) is None:
            await self.turn()
        self.clock.advance(19.9)
        await self.turn()
        self.assertNoResult(asked)
        self.clock.advance(0.1)
        with self.assertRaises(CredentialHelperError):
            await asked
        self.assertIsNone(self.read(Path(f"/proc/{number}/status")), "it is not even a zombie")

    async def test_output_that_stays_open(self) -> None:
        """A program that leaves a child behind with its output is done a second after its own end."""
        source = self.made(f"echo '{ANSWER}'; sleep 10 &")
        asked = self.ask(source)
        while not asked.called:
            self.clock.advance(0.01)
            await self.turn()
        self.assertEqual((await asked).username, "cache")

    async def turn(self) -> None:
        """Let the reactor look at its programs."""
        turned: Deferred[None] = Deferred()
        reactor.callLater(0.005, turned.callback, None)
        await turned

    async def test_pause_after_failure(self) -> None:
        """A program that failed is not run for a second, doubling to 30 s; the error is told meanwhile."""
        source = self.made("exit 1")
        for runs, pause in enumerate((1, 2, 4, 8, 16, 30, 30), 1):
            for _ in range(3):
                with self.assertRaises(CredentialHelperError):
                    await source.account()
            self.assertEqual(self.count(), runs)
            self.clock.advance(pause - 0.5)
            with self.assertRaises(CredentialHelperError):
                await source.account()
            self.assertEqual(self.count(), runs)
            self.clock.advance(0.5)
        lines = [line for line in self.events if "credential helper" in line]
        self.assertEqual(len(lines), 2, "one at first, and one after a minute")

    async def test_no_descriptors_left(self) -> None:
        """However it ends, no descriptor stays open."""
        await self.made(f"echo '{ANSWER}'").account()  # the reactor's own pipe for what ends
        for script in (f"echo '{ANSWER}'", "exit 1", "exec yes", "exec <&- >&- 2>&-"):
            with self.subTest(script):
                before = self.descriptors()
                source = self.made(script, 0.0)
                for _ in range(3):
                    try:
                        await source.account()
                    except CredentialHelperError:
                        self.clock.advance(60)
                self.assertEqual(self.descriptors(), before, script)

    async def test_environment(self) -> None:
        """The program has the daemon's environment, but for what configures the daemon."""
        environ = {**os.environ, "REGISTRY_HTTP_SECRET": "sesame", "AWS_REGION": "eu-central-1"}
        source = self.made(
            """test -z "$REGISTRY_HTTP_SECRET" && echo '{"Username": "'$AWS_REGION'", "Secret": "x"}'""",
            environ=environ,
        )
        self.assertEqual(await source.account(), Account("eu-central-1", "x"))

    async def test_not_by_a_shell(self) -> None:
        """Arguments reach the program as they are, and no shell reads them."""
        script = "import json, sys; print(json.dumps({'Username': sys.argv[1], 'Secret': sys.argv[2]}))"
        program = CredentialHelper((sys.executable, "-c", script, "$(id) `id`"))
        account = await CredentialHelperAccount(program, SERVER, os.environ, self.clock).account()
        self.assertEqual(account, Account("$(id) `id`", "get"))

    def descriptors(self) -> list[str]:
        """What is open in this process."""
        found = []
        for name in os.listdir("/proc/self/fd"):
            with contextlib.suppress(FileNotFoundError):  # the one that lists
                found.append(f"{name} {os.readlink(f'/proc/self/fd/{name}')}")
        return sorted(found)
