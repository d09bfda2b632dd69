"""Tests for :mod:`contentcache.gateway.authentication`, and for what it reads in credentials."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import Deferred
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from contentcache.aio.threads import at_once
from contentcache.gateway.authentication import Authenticator, Throttle, User
from contentcache.gateway.credentials import BasicCredentials, claimed_account, parse_credentials
from contentcache.gateway.errors import AuthenticationUnavailable, NotAuthenticated, TooManyAttempts
from contentcache.gateway.registry_login import CredentialDecision
from tests.gateway.admin.admin_case import FakeRegistry, Noise, basic, token
from tests.gateway.memory_directory import MemoryDirectory

EPOCH = 1_000_000.0


class PasswordsAlone(FakeRegistry):
    """Takes one password from whoever has it; ``account`` is what its tokens say of that."""

    account: str | None = None

    async def decide(self, authorization: str) -> CredentialDecision:
        """Look at the password only."""
        said = parse_credentials(authorization)
        return CredentialDecision(
            isinstance(said, BasicCredentials) and said.password == "wonder", self.account
        )


class AuthenticatorTests(SynchronousTestCase):
    """Who asks."""

    def setUp(self) -> None:
        self.clock = Clock()
        self.registry: Any = FakeRegistry()
        self.directory = MemoryDirectory()
        self.authenticator = self.make()

    def make(self, **more: Any) -> Authenticator:
        given: dict[str, Any] = {"admins": ["alice"], "admin_group": "ops", **more}
        return Authenticator(
            self.registry,
            self.directory,
            run=at_once,
            monotonic=self.clock.seconds,
            wall=lambda: EPOCH + self.clock.seconds(),
            secret=b"s" * 64,
            randomness=Noise(),
            **given,
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
        A yes is remembered for a minute, for these very credentials and no others; nothing that is kept
        holds them.
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
        """A yes to a token ends with the token."""
        header = f"Bearer {token('bob', exp=EPOCH + 30)}"
        self.who(header)
        self.clock.advance(31)
        asked = len(self.registry.asked)
        self.who(header)
        self.assertGreater(len(self.registry.asked), asked)

    def test_a_no_is_not_remembered(self) -> None:
        """Whoever was refused is asked for again."""
        self.registry.away = True
        self.refused(basic("bob"), AuthenticationUnavailable)
        self.registry.away = False
        self.who(basic("bob"))

    def test_open_registry(self) -> None:
        """A registry that says yes to everybody proves nothing: nobody signs in, with a password or a token."""
        self.registry.open = True
        for header in (basic("alice"), basic("alice", "anything"), f"Bearer {token('alice', 'forged')}"):
            self.refused(header, NotAuthenticated)
        self.assertFalse(self.directory.has_account("alice"))

    def test_forgery(self) -> None:
        """Claims of a token count only with the registry's yes to its signature."""
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
        """Who was accepted exists, and a database that fails keeps nobody out."""
        self.who(basic("bob"))
        self.assertTrue(self.directory.has_account("bob"))

        def fail(_account: str) -> None:
            raise OSError(28, "full")

        self.patch(self.directory, "add_account", fail)
        self.assertEqual(self.who(basic("alice")).name, "alice")

    def test_guessing(self) -> None:
        """
        After ten wrong passwords for an account, and after twenty for any, an address is not listened to;
        what is remembered goes on, and so does the account from elsewhere. It passes.
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
        """Many addresses together guess an account's password a hundred times, and no more."""
        for count in range(100):
            self.refused(basic("bob", "wrong"), NotAuthenticated, f"192.0.2.{count}")
        self.refused(basic("bob", "wrong"), TooManyAttempts, "198.51.100.1")
        self.assertEqual(self.who(basic("alice"), "").name, "alice")

    def test_guessing_from_one_network(self) -> None:
        """
        Whoever has an IPv6 /64 has one address for this; another /64, and the same IPv4 address however
        written, are what they are.
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
        """While the registry is away nobody's tries are held against them."""
        self.registry.away = True
        for _ in range(30):
            self.refused(basic("bob"), AuthenticationUnavailable)
        self.registry.away = False
        self.who(basic("bob"))

    def test_names_that_mean_nothing(self) -> None:
        """Where a password is somebody under any name, the name beside it is nobody's, an administrator's least."""
        self.registry = PasswordsAlone()
        self.authenticator = self.make()
        self.refused(BasicCredentials("alice", "wonder").authorization, NotAuthenticated)
        self.registry.account = "mallory"
        self.authenticator = self.make()
        self.assertEqual(self.who(BasicCredentials("alice", "wonder").authorization), User("mallory"))

    def test_few_impossible_questions(self) -> None:
        """That the registry looks at passwords is asked once in a while; of tokens, each time."""
        for name in ("alice", "bob", "org/robot"):
            self.who(basic(name))
        self.assertEqual(len(self.registry.asked), 4)
        for name in ("x", "y"):
            self.who(f"Bearer {token(name)}")
        self.assertEqual(len(self.registry.asked), 8)


class ClaimsTests(SynchronousTestCase):
    """What a header says."""

    def test_read(self) -> None:
        """One spelling each; what makes no sense is nobody's."""
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
        """Nothing that is sent raises."""
        for scheme in ("", "Basic ", "Bearer ", "Bearer a."):
            claimed_account(scheme + text)

    def test_no_secrets(self) -> None:
        """Neither passwords nor tokens are in what is written of them."""
        self.assertNotIn("wonder", repr(parse_credentials(basic("alice"))))
        self.assertNotIn("good", repr(parse_credentials(f"Bearer {token('carol')}")))


class ThrottleTests(SynchronousTestCase):
    """Buckets."""

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
