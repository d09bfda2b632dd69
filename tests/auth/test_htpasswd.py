"""Passwords."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import bcrypt
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.auth.htpasswd import (
    CHECKS,
    MOST_WAITERS,
    PASSWORD_TTL,
    HtpasswdAuthenticator,
    parse_basic,
    read_users,
)
from contentcache.auth.interfaces import AuthFault, UsersUnavailable
from contentcache.config.model import HtpasswdAuth
from contentcache.core.errors import Overloaded
from tests.auth.authenticators import BASE, PULL, SECRET, AuthenticatorTestCase, Threads, basic


def hashed(password: str) -> str:
    """A cheap hash."""
    return bcrypt.hashpw(password.encode(), bcrypt.gensalt(4)).decode()


ALICE = hashed("wonder")
BOB = hashed("builder").replace("$2b$", "$2y$")


class HtpasswdAuthenticatorTests(AuthenticatorTestCase):
    """Who knows a password."""

    def setUp(self) -> None:
        self.path = Path(self.mktemp())
        self.clock = Clock()
        self.threads = Threads()
        self.write(f"# users\n\nalice:{ALICE}\r\n  bob:{BOB}  \n")
        self.auth = self.build()

    def build(self) -> HtpasswdAuthenticator:
        """An authenticator of the file as it is."""
        settings = HtpasswdAuth(realm='the "cache"', path=str(self.path))
        return HtpasswdAuthenticator(settings, run=self.threads, timer=self.clock, secret=SECRET)

    def write(self, content: str) -> None:
        """Put a new file in the place of the old one."""
        fresh = self.path.with_suffix(".new")
        fresh.write_text(content)
        fresh.replace(self.path)

    def test_right(self) -> None:
        """Comments, blank lines and line ends do not matter, nor which of the spellings of bcrypt it is."""
        self.assertEqual(self.admitted(self.auth, basic("alice", "wonder")), "alice")
        self.assertEqual(self.admitted(self.auth, basic("bob", "builder"), None), "bob")
        self.assertEqual(self.admitted(self.auth, basic("bob", "builder").replace("Basic", "bAsIc ")), "bob")

    def test_wrong(self) -> None:
        """Anything but the exact name and password is refused in the registry's words."""
        for authorization in [
            None,
            "",
            "Basic",
            "Basic ",
            "Basic %%%",
            "Basic é",
            "Basic " + "A" * 20_000,
            "Basic YWxpY2U=",
            "Bearer abc",
            basic("alice", "wonder").replace("Basic ", "Basic\t"),
            basic("alice", "wonder") + " x",
            basic("alice", "wonder\0"),
            basic("alice", b"wonder\xff"),
            basic("alice", ""),
            basic("alice", "Wonder"),
            basic("Alice", "wonder"),
            basic("alice ", "wonder"),
            basic("bob", "wonder"),
            basic("", "wonder"),
            basic("# users", ""),
            basic("nobody", "wonder"),
        ]:
            with self.subTest(authorization=(authorization or "")[:40]):
                refusal = self.refused(self.auth, authorization)
                self.assertEqual(refusal.headers, {"WWW-Authenticate": 'Basic realm="the \\"cache\\""'})
                self.assertEqual(refusal.message, "authentication required")
                self.assertEqual(
                    refusal.detail,
                    [{"Type": "repository", "Class": "", "Name": "org/app", "Action": "pull"}],
                )
        self.assertIsNone(self.refused(self.auth, None, None).detail)

    def test_long_password(self) -> None:
        """A password is cut after 72 bytes, as ``htpasswd`` and the registry do."""
        self.write(f"alice:{hashed('p' * 72)}\n")
        authenticator = self.build()
        self.admitted(authenticator, basic("alice", "p" * 72))
        self.admitted(authenticator, basic("alice", "p" * 72 + "anything"))
        self.refused(authenticator, basic("alice", "p" * 71))

    def test_remembered(self) -> None:
        """A thousand requests cost one hash, for a minute from the check; a wrong password is not remembered."""
        for _ in range(1000):
            self.admitted(self.auth, basic("alice", "wonder"))
        self.assertEqual(self.threads.count("_matches"), 1)
        self.clock.advance(PASSWORD_TTL)
        self.admitted(self.auth, basic("alice", "wonder"))
        self.assertEqual(self.threads.count("_matches"), 2)
        for _ in range(2):
            self.refused(self.auth, basic("alice", "wander"))
        self.assertEqual(self.threads.count("_matches"), 4)

    def test_no_password_kept(self) -> None:
        """Neither a password nor the header that it came in is found in what the authenticator remembers."""
        self.admitted(self.auth, basic("alice", "wonder"))
        kept = repr(vars(self.auth)) + repr(vars(self.auth._right._grants))
        self.assertNotIn("wonder", kept)
        self.assertNotIn(basic("alice", "wonder")[6:], kept)

    def test_unknown_user_costs_a_hash(self) -> None:
        """A name that there is not is checked against a hash that is as costly as the others."""
        self.refused(self.auth, basic("nobody", "wonder"))
        self.assertEqual(self.threads.count("_matches"), 1)
        accounts = read_users(str(self.path))
        self.assertEqual(accounts.unknown_user[:7], b"$2b$04$")
        self.assertFalse(bcrypt.checkpw(b"wonder", accounts.unknown_user))

    def test_changed_file(self) -> None:
        """A change is seen within a second: who is gone is out at once, remembered or not, and who is new is in."""
        self.admitted(self.auth, basic("alice", "wonder"))
        self.admitted(self.auth, basic("bob", "builder"))
        self.write(f"alice:{hashed('land')}\ncarol:{hashed('sing')}\n")
        self.clock.advance(1.0)
        self.refused(self.auth, basic("alice", "wonder"))
        self.refused(self.auth, basic("bob", "builder"))
        self.admitted(self.auth, basic("alice", "land"))
        self.assertEqual(self.admitted(self.auth, basic("carol", "sing")), "carol")

    def test_looks(self) -> None:
        """The file is looked at no more than once a second, and not read again while it stays as it is."""
        for _ in range(5):
            for _ in range(10):
                self.admitted(self.auth, basic("alice", "wonder"))
            self.clock.advance(1.0)
        self.assertEqual((self.threads.count("_fingerprints"), self.threads.count("partial")), (4, 0))

    def test_vanished_file(self) -> None:
        """Without its file every request is refused, which is logged once; with the file back all is well."""
        self.admitted(self.auth, basic("alice", "wonder"))
        os.unlink(self.path)
        for _ in range(3):
            self.clock.advance(1.0)
            asked = self.start(self.auth.authenticate(basic("alice", "wonder"), PULL, BASE))
            error = self.failureResultOf(asked, UsersUnavailable).value
            self.assertEqual((error.status, "Retry-After" in error.headers), (503, True))
        self.refused(self.auth, None)
        self.write(f"alice:{ALICE}\n")
        self.clock.advance(1.0)
        self.admitted(self.auth, basic("alice", "wonder"))

    def test_removed_while_waiting(self) -> None:
        """Who is taken out of the file while the password is checked stays out."""
        self.threads.held = True
        asked = self.start(self.auth.authenticate(basic("alice", "wonder"), PULL, BASE))
        self.write(f"bob:{BOB}\n")
        self.clock.advance(1.0)
        self.refused(self.auth, None)
        other = self.start(self.auth.authenticate(basic("bob", "builder"), PULL, BASE))
        self.threads.go_on()
        self.failureResultOf(asked)
        self.threads.go_on()
        self.successResultOf(other)

    def test_broken_lines(self) -> None:
        """Hashes that are not bcrypt, of an absurd cost or cut short let nobody in; the others still count."""
        lines = [
            "alice:{SHA}1234",
            "plain:wonder",
            "apr:$apr1$x$y",
            "cut:" + BOB[:-1],
            "absurd:" + BOB.replace("$04$", "$31$"),
            "nocolon",
            f"bob:{BOB}",
        ]
        self.write("\n".join(lines))
        authenticator = self.build()
        self.assertEqual(read_users(str(self.path)).unusable, (1, 2, 3, 4, 5, 6))
        self.refused(authenticator, basic("plain", "wonder"))
        self.refused(authenticator, basic("nocolon", ""))
        self.admitted(authenticator, basic("bob", "builder"))

    def test_missing_at_start(self) -> None:
        """An authenticator without a file is not built; the fault names the file."""
        self.path.unlink()
        self.assertIn(str(self.path), self.assertRaises(AuthFault, self.build).message)

    def test_asked_once(self) -> None:
        """Many requests with the same password at the same time are one check, whoever of them leaves."""
        self.threads.held = True
        asked = [self.start(self.auth.authenticate(basic("alice", "wonder"), PULL, BASE)) for _ in range(20)]
        asked[0].cancel()
        self.failureResultOf(asked[0])
        self.assertEqual(len(self.threads.waiting), 1)
        self.threads.go_on()
        for others in asked[1:]:
            self.assertEqual(self.successResultOf(others), "alice")

    def test_flood(self) -> None:
        """Wrong passwords take two threads, then wait in a line, then are turned away for a while."""
        self.threads.held = True
        asked = [
            self.start(
                self.auth.authenticate(basic("alice", f"guess {number}"), PULL, BASE, f"192.0.2.{number}")
            )
            for number in range(CHECKS + MOST_WAITERS)
        ]
        first = "192.0.2.2"
        asked.append(self.start(self.auth.authenticate(basic("alice", "one more"), PULL, BASE, first)))
        self.assertEqual(len(self.threads.waiting), CHECKS)
        self.assertIn("Retry-After", self.failureResultOf(asked[-1], Overloaded).value.headers)
        for waiting in asked[:-1]:
            self.assertNoResult(waiting)
            self.threads.go_on()
            self.failureResultOf(waiting)
        self.assertEqual(self.threads.waiting, [])
        self.threads.held = False
        self.admitted(self.auth, basic("alice", "wonder"))

    def test_apache(self) -> None:
        """A file by Apache's own program counts."""
        program = shutil.which("htpasswd")
        if program is None:
            self.skipTest("needs htpasswd of apache2-utils")
        subprocess.run(
            [program, "-cbB", "-C", "4", str(self.path), "alice", "a:b"], check=True, capture_output=True
        )
        self.admitted(self.build(), basic("alice", "a:b"))


class ParseBasicTests(SynchronousTestCase):
    """What the header says."""

    @settings(deadline=None)
    @given(st.text(max_size=40) | st.from_regex(r"Basic [A-Za-z0-9+/=é\ud800]*"))
    def test_never_raises(self, authorization: str) -> None:
        """Any header is a name and a password without a NUL, or nothing."""
        parsed = parse_basic(authorization)
        self.assertTrue(parsed is None or (b":" not in parsed[0] and b"\0" not in parsed[1]))
