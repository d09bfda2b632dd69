"""Tests for :mod:`contentcache.gateway.authentication`, and for what it reads in credentials."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.threads import at_once
from contentcache.core.live import Live
from contentcache.gateway.authentication import AccountPolicy, Authenticator, Throttle, User
from contentcache.gateway.credentials import BasicCredentials, claimed_account, parse_credentials
from contentcache.gateway.errors import AuthenticationUnavailable, NotAuthenticated, TooManyAttempts
from contentcache.gateway.registry_login import CredentialDecision
from tests.gateway.admin.admin_case import FakeRegistry, Noise, basic, token
from tests.gateway.memory_directory import MemoryDirectory

EPOCH = 1_000_000.0


class PasswordsAlone(FakeRegistry):
    """Accepts one password under any name; ``account`` is the one that its tokens name."""

    account: str | None = None

    async def decide(self, authorization: str) -> CredentialDecision:
        """Look at the password only."""
        said = parse_credentials(authorization)
        return CredentialDecision(
            isinstance(said, BasicCredentials) and said.password == "wonder", self.account
        )


class AuthenticatorTests(SynchronousTestCase):
    """Who a client is."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry: Any = FakeRegistry()
        self.directory = MemoryDirectory()
        self.authenticator = self.make()

    def make(self, **more: Any) -> Authenticator:
        policy: dict[str, Any] = {"admins": ["alice"], "admin_group": "ops", **more}
        return Authenticator(
            self.registry,
            self.directory,
            Live(AccountPolicy(**policy)),
            run=at_once,
            monotonic=self.clock.seconds,
            wall=lambda: EPOCH + self.clock.seconds(),
            secret=b"s" * 64,
            randomness=Noise(),
        )

    def who(self, authorization: str | None, address: str = "192.0.2.1") -> User:
        return self.successResultOf(
            Deferred.fromCoroutine(self.authenticator.authenticate(authorization, address))
        )

    def refused(self, authorization: str | None, error: type[Exception], address: str = "192.0.2.1") -> Any:
        coroutine = self.authenticator.authenticate(authorization, address)
        return self.failureResultOf(Deferred.fromCoroutine(coroutine), error).value

    def test_remembered(self) -> None:
        """
        Accepted credentials are remembered for a minute, exactly these and no others; what is kept does not
        contain them.
        """
        self.assertEqual(self.who(basic("bob")), User("bob"))
        asked = len(self.registry.asked)
        self.clock.advance(59)
        self.who(basic("bob"))
        self.who(basic("bob").replace("Basic ", "basic   "))
        self.assertEqual(len(self.registry.asked), asked)
        self.refused(basic("bob", "builder2"), NotAuthenticated)
        self.clock.advance(1)
        asked = len(self.registry.asked)
        self.who(basic("bob"))
        self.assertGreater(len(self.registry.asked), asked)
        self.assertNotIn("builder", repr(vars(self.authenticator)))

    def test_no_longer(self) -> None:
        """That a token was accepted is not remembered beyond its ``exp``."""
        header = f"Bearer {token('bob', exp=EPOCH + 30)}"
        self.who(header)
        self.clock.advance(31)
        asked = len(self.registry.asked)
        self.who(header)
        self.assertGreater(len(self.registry.asked), asked)

    def test_a_no_is_not_remembered(self) -> None:
        """Refused credentials are shown to the registry again."""
        self.registry.away = True
        self.refused(basic("bob"), AuthenticationUnavailable)
        self.registry.away = False
        self.who(basic("bob"))

    def test_open_registry(self) -> None:
        """A registry that accepts everything proves nothing: nobody signs in, with a password or a token."""
        self.registry.open = True
        for header in (basic("alice"), basic("alice", "anything"), f"Bearer {token('alice', 'forged')}"):
            self.refused(header, NotAuthenticated)
        self.assertFalse(self.directory.has_account("alice"))

    def test_forgery(self) -> None:
        """Claims of a token count only if the registry accepts its signature."""
        self.refused(f"Bearer {token('alice', 'forged', groups=['ops'])}", NotAuthenticated)

    def test_administrators(self) -> None:
        """Administrators are named, or in the group by a token that the registry has accepted."""
        self.assertTrue(self.who(basic("alice")).is_admin)
        self.assertFalse(self.who(basic("bob")).is_admin)
        self.assertTrue(self.who(f"Bearer {token('carol', groups=['dev', 'ops'])}").is_admin)
        self.assertFalse(self.who(f"Bearer {token('carol', groups='ops')}").is_admin)
        self.registry.groups = {"org/robot": frozenset({"ops"})}
        self.assertTrue(self.who(basic("org/robot")).is_admin)
        self.authenticator = self.make(admin_group=None)
        self.assertFalse(self.who(f"Bearer {token('carol', groups=['ops', None])}").is_admin)

    def test_noted(self) -> None:
        """An accepted account is added to the store, and signs in too where the database fails."""
        self.who(basic("bob"))
        self.assertTrue(self.directory.has_account("bob"))

        def fail(_account: str) -> None:
            raise OSError(28, "full")

        self.patch(self.directory, "add_account", fail)
        self.assertEqual(self.who(basic("alice")).name, "alice")

    def test_guessing(self) -> None:
        """
        After ten wrong passwords for an account, and after twenty for any, attempts from an address are
        refused; remembered credentials still work, and so does the account from another address. It expires.
        """
        self.who(basic("alice"))
        for count in range(10):
            self.refused(basic("bob", f"wrong {count}"), NotAuthenticated)
        asked = len(self.registry.asked)
        error = self.refused(basic("bob"), TooManyAttempts)
        self.assertEqual(error.headers, {"Retry-After": "15"})
        self.assertEqual(len(self.registry.asked), asked)
        self.assertEqual(self.who(basic("bob"), "192.0.2.99").name, "bob")
        for count in range(10):
            self.refused(basic(f"user-{count}", "wrong"), NotAuthenticated)
        self.refused(basic("org/robot"), TooManyAttempts)
        self.assertEqual(self.who(basic("alice")).name, "alice")
        self.clock.advance(15)
        for _ in range(30):
            self.assertEqual(self.who(basic("bob")).name, "bob")
            self.clock.advance(60)

    def test_guessing_from_everywhere(self) -> None:
        """All addresses together can guess an account's password a hundred times, and no more."""
        for count in range(100):
            self.refused(basic("bob", "wrong"), NotAuthenticated, f"192.0.2.{count}")
        self.refused(basic("bob", "wrong"), TooManyAttempts, "198.51.100.1")
        self.assertEqual(self.who(basic("alice"), "").name, "alice")

    def test_guessing_from_one_network(self) -> None:
        """
        An IPv6 /64 counts as one address; another /64 is another one, and an IPv4 address is the same in both
        spellings.
        """
        for count in range(10):
            self.refused(basic("bob", "wrong"), NotAuthenticated, f"2001:db8:1:2::{count + 1:x}")
        self.refused(basic("bob"), TooManyAttempts, "2001:db8:1:2:ffff::1")
        self.assertEqual(self.who(basic("bob"), "2001:db8:1:3::1").name, "bob")
        for count in range(10):
            address = "::ffff:203.0.113.5" if count % 2 else "203.0.113.5"
            self.refused(basic("alice", "wrong"), NotAuthenticated, address)
        self.refused(basic("alice"), TooManyAttempts, "203.0.113.5")

    def test_not_a_guess(self) -> None:
        """While the registry cannot be asked, no attempts are counted."""
        self.registry.away = True
        for _ in range(30):
            self.refused(basic("bob"), AuthenticationUnavailable)
        self.registry.away = False
        self.who(basic("bob"))

    def test_names_that_mean_nothing(self) -> None:
        """Where a password is accepted under any name, the name proves nothing, not even an administrator's."""
        self.registry = PasswordsAlone()
        self.authenticator = self.make()
        self.refused(BasicCredentials("alice", "wonder").authorization, NotAuthenticated)
        self.registry.account = "mallory"
        self.authenticator = self.make()
        self.assertEqual(self.who(BasicCredentials("alice", "wonder").authorization), User("mallory"))

    def test_few_impossible_questions(self) -> None:
        """Whether the registry checks passwords is asked once in a while; for tokens, each time."""
        for name in ("alice", "bob", "org/robot"):
            self.who(basic(name))
        self.assertEqual(len(self.registry.asked), 4)
        for name in ("x", "y"):
            self.who(f"Bearer {token(name)}")
        self.assertEqual(len(self.registry.asked), 8)


class ClaimsTests(SynchronousTestCase):
    """The credentials in a header."""

    def test_read(self) -> None:
        """Each has one spelling; malformed ones are none."""
        self.assertEqual(parse_credentials("BASIC  YTpi"), BasicCredentials("a", "b"))
        self.assertEqual(parse_credentials("Basic YTpiOmM="), BasicCredentials("a", "b:c"))
        self.assertIsNone(parse_credentials("Basic 5DpiCg"))  # a line break in the password
        self.assertEqual(claimed_account(f"bearer {token('carol')}"), "carol")
        wrong = (
            None,
            "",
            "Basic",
            "Basic OmI=",
            "Basic YQ==",
            "Basic a b",
            "Basic YTpi\x00",
            "Basic é",
            "X YTpi",
        )
        for header in (*wrong, "Bearer a.b.c", f"Bearer {token('x' * 300)}", f"Bearer {token(' x')}"):
            self.assertIsNone(claimed_account(header), header)

    @given(st.text())
    def test_anything(self, text: str) -> None:
        """No header raises."""
        for scheme in ("", "Basic ", "Bearer ", "Bearer a."):
            claimed_account(scheme + text)

    def test_no_secrets(self) -> None:
        """Neither passwords nor tokens are in representations."""
        self.assertNotIn("wonder", repr(parse_credentials(basic("alice"))))
        self.assertNotIn("good", repr(parse_credentials(f"Bearer {token('carol')}")))


class ThrottleTests(SynchronousTestCase):
    """Leaky buckets."""

    def test_leak(self) -> None:
        """A bucket takes its burst at once, and one more each time it has leaked."""
        throttle = Throttle(burst=3, seconds=10.0)
        for _ in range(3):
            self.assertEqual(throttle.wait("a", 0.0), 0)
            throttle.count("a", 0.0)
        self.assertEqual(
            (throttle.wait("a", 0.0), throttle.wait("a", 9.5), throttle.wait("a", 10.0)), (10, 1, 0)
        )
        self.assertEqual(throttle.wait("b", 0.0), 0)
        throttle.forgive("a", 0.0)
        self.assertEqual(throttle.wait("a", 0.0), 0)
