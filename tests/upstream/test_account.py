"""The cache's own account: tokens, and who may have the password."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from urllib.parse import parse_qs

from hypothesis import given
from hypothesis import strategies as st
from twisted.internet.defer import CancelledError, Deferred
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.model import Account
from contentcache.core.http_auth import Challenge
from contentcache.upstream.account import (
    AccountSource,
    IdentityToken,
    NoTokenError,
    OwnAccount,
    TokenRefused,
    may_have_password,
)

REALM = "https://registry.example.com/token"
BEARER = Challenge("bearer", {"realm": REALM, "service": "s", "scope": "repository:org/app:pull"})
BASIC = Challenge("basic", {"realm": "x"})
PAIR = "Basic " + base64.b64encode(b"cache:p\xc3\xa4ss").decode()


class Changing:
    """A source whose account changes with each refusal, until there is no other."""

    def __init__(self, *accounts: Account | IdentityToken) -> None:
        self.accounts = list(accounts)
        self.asked = 0

    async def account(self) -> Account | IdentityToken:
        """The one of now."""
        self.asked += 1
        return self.accounts[0]

    def refused(self, account: Account | IdentityToken) -> None:
        """The next one."""
        if len(self.accounts) > 1 and account == self.accounts[0]:
            self.accounts.pop(0)


class AccountTests(SynchronousTestCase):
    """An account at a registry, and a token server that the test answers for."""

    def setUp(self) -> None:
        self.now = 1000.0
        self.bodies: list[bytes | None] = []
        self.asked: list[tuple[str, Mapping[str, str], Deferred[bytes]]] = []
        self.account = self.made(Account("cache", "päss"))

    def made(self, account: Account | None, *realms: str, source: AccountSource | None = None) -> OwnAccount:
        """An account that asks the test for tokens."""
        return OwnAccount(
            account,
            "https://registry.example.com",
            realms,
            self.fetch,
            lambda: self.now,
            source=source,
        )

    async def fetch(self, url: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
        """Ask the test."""
        reply: Deferred[bytes] = Deferred()
        self.bodies.append(body)
        self.asked.append((url, headers, reply))
        return await reply

    def says(self, challenge: Challenge = BEARER, repository: str = "org/app") -> Deferred[str | None]:
        """What is said after a 401."""
        return Deferred.fromCoroutine(self.account.answer([challenge], repository))

    def first(self, repository: str | None = "org/app") -> Deferred[str | None]:
        """What is said with a first request."""
        return Deferred.fromCoroutine(self.account.authorization(repository))

    def reply(self, body: bytes = b'{"token": "t", "expires_in": 100}', number: int = -1) -> None:
        """Let the token server answer."""
        self.asked[number][2].callback(body)

    def test_nothing_before_a_challenge(self) -> None:
        """The password is not shown to a registry that has not asked for it."""
        self.assertIsNone(self.successResultOf(self.first()))

    def test_basic(self) -> None:
        """A basic challenge gets the password, and later requests have it at once."""
        self.assertEqual(self.successResultOf(self.says(BASIC)), PAIR)
        self.assertEqual(self.successResultOf(self.first()), PAIR)

    def test_bearer(self) -> None:
        """A bearer challenge sends the password to the realm, with service, scope and account."""
        said = self.says()
        url, headers, _ = self.asked[0]
        self.assertEqual(url, f"{REALM}?service=s&scope=repository:org/app:pull&account=cache")
        self.assertEqual(headers, {"Authorization": PAIR})
        self.reply()
        self.assertEqual(self.successResultOf(said), "Bearer t")

    def test_four_fifths_of_its_life(self) -> None:
        """A token is used for 80 % of its life, and a new one is asked for then."""
        self.says()
        self.reply()
        self.now += 79
        self.assertEqual(self.successResultOf(self.first()), "Bearer t")
        self.now += 1
        said = self.first()
        self.reply(b'{"access_token": "u"}')
        self.assertEqual(self.successResultOf(said), "Bearer u")
        self.assertEqual(len(self.asked), 2)

    def test_default_life(self) -> None:
        """A token that does not say, or says nonsense, lives for a minute."""
        for life in ("", ', "expires_in": -1', ', "expires_in": "x"', ', "expires_in": true'):
            self.account = self.made(Account("cache", "päss"))
            self.says()
            self.reply(f'{{"token": "t"{life}}}'.encode())
            self.now += 47.9
            self.successResultOf(self.first())
            self.now += 0.2
            self.assertNoResult(self.first())

    def test_one_request_a_scope(self) -> None:
        """All who need a token for one scope share one request, others have their own."""
        said = [self.says() for _ in range(5)]
        other = self.says(Challenge("bearer", {"realm": REALM}), "org/other")
        self.assertEqual(len(self.asked), 2)
        self.reply(number=0)
        self.assertEqual([self.successResultOf(one) for one in said], ["Bearer t"] * 5)
        self.assertNoResult(other)
        self.reply(b'{"token": "o"}')
        self.assertEqual(self.successResultOf(other), "Bearer o")

    def test_who_asked_first_leaves(self) -> None:
        """The client whose request asked for the token disconnects, and the others get it all the same."""
        first, second = self.says(), self.says()
        first.cancel()
        self.failureResultOf(first, CancelledError)
        self.reply()
        self.assertEqual(self.successResultOf(second), "Bearer t")

    def test_failure_is_everybodys_and_not_kept(self) -> None:
        """All who wait hear of a failure, and the next one asks again."""
        said = [self.says(), self.says()]
        self.asked[0][2].errback(NoTokenError("no"))
        for one in said:
            self.failureResultOf(one, NoTokenError)
        self.says()
        self.assertEqual(len(self.asked), 2)

    def test_token_server_that_is_gone(self) -> None:
        """A token server that gives none is forgotten: the registry is asked, and may name another one."""
        self.says()
        self.reply()
        self.now += 100
        first = self.first()
        self.asked[-1][2].errback(NoTokenError("gone"))
        self.assertIsNone(self.successResultOf(first))
        moved = "https://tokens.example.com/token"
        self.says(Challenge("bearer", {"realm": moved}))
        self.assertTrue(self.asked[-1][0].startswith(moved))
        self.reply()
        self.assertEqual(self.successResultOf(self.first()), "Bearer t")

    def test_refused_token_is_not_used_again(self) -> None:
        """After a 401 the kept token of that scope is thrown away."""
        self.says()
        self.reply()
        again = self.says()
        self.reply(b'{"token": "u"}')
        self.assertEqual(self.successResultOf(again), "Bearer u")

    def test_realms(self) -> None:
        """The password goes to the registry's own host or site over https, or where it is listed."""
        for realm, listed, allowed in (
            ("https://auth.example.com/token", (), True),
            ("https://evil.com/token", (), False),
            ("https://registry.example.com@evil.com/", (), False),
            ("http://registry.example.com/token", (), False),
            ("https://tokens.elsewhere.net/t", ("tokens.elsewhere.net",), True),
            ("ftp://registry.example.com/", (), False),
            ("nonsense", (), False),
        ):
            self.asked.clear()
            self.account = self.made(Account("cache", "päss"), *listed)
            said = self.says(Challenge("bearer", {"realm": realm}))
            self.assertEqual(len(self.asked), int(allowed), realm)
            if not allowed:
                self.failureResultOf(said, NoTokenError)

    def test_without_account(self) -> None:
        """A registry that is open to anybody is asked for anonymous tokens."""
        self.account = self.made(None)
        said = self.says()
        self.assertEqual(self.asked[0][1], {})
        self.reply()
        self.assertEqual(self.successResultOf(said), "Bearer t")
        self.assertIsNone(self.successResultOf(self.says(BASIC)))

    def test_no_token_in_the_answer(self) -> None:
        """Answers that are no token are failures, never a header."""
        for body in (
            b"",
            b"[]",
            b"{}",
            b'{"token": 7}',
            b'{"token": "a\\nb"}',
            b'{"token": "\\u00e4"}',
            b"[" * 9999,
        ):
            self.account = self.made(Account("cache", "päss"))
            said = self.says()
            self.reply(body)
            self.failureResultOf(said, NoTokenError)

    def test_unknown_schemes(self) -> None:
        """To a challenge that we do not know there is nothing to say."""
        self.assertIsNone(self.successResultOf(self.says(Challenge("negotiate"))))
        self.assertIsNone(self.successResultOf(self.says(Challenge("bearer"))))

    def test_password_is_not_shown(self) -> None:
        """What is printed of an account has no password."""
        self.assertNotIn("päss", repr(Account("cache", "päss")))

    def test_source(self) -> None:
        """What a source says takes the account's place, in both schemes."""
        source = Changing(Account("cache", "päss"))
        self.account = self.made(None, source=source)
        self.assertEqual(self.successResultOf(self.says(BASIC)), PAIR)
        self.assertEqual(self.successResultOf(self.first()), PAIR)
        self.says()
        self.assertEqual(self.asked[0][1], {"Authorization": PAIR})

    def test_refused_basic(self) -> None:
        """A password that was refused is asked for anew, and never sent a second time."""
        self.account = self.made(None, source=Changing(Account("cache", "old"), Account("cache", "päss")))
        old = self.successResultOf(self.says(BASIC))
        self.assertEqual(self.answered(BASIC, old), PAIR)
        self.assertIsNone(self.answered(BASIC, PAIR))
        self.account = self.made(Account("cache", "päss"))
        self.assertIsNone(self.answered(BASIC, PAIR))

    def answered(self, challenge: Challenge, sent: str | None) -> str | None:
        """What is said after a 401 to ``sent``."""
        return self.successResultOf(Deferred.fromCoroutine(self.account.answer([challenge], "org/app", sent)))

    def test_refused_by_the_token_server(self) -> None:
        """A token server's no is answered once, with another account, and not for ever."""
        self.account = self.made(None, source=Changing(*(Account("cache", str(n)) for n in range(9))))
        said = self.says()
        for number in range(2):
            self.asked[number][2].errback(TokenRefused("no"))
        self.failureResultOf(said, TokenRefused)
        self.assertEqual(len(self.asked), 2)

    def test_refused_and_no_other(self) -> None:
        """The same account is not sent again to a token server that has refused it."""
        for source in (None, Changing(Account("cache", "päss"))):
            self.asked.clear()
            self.account = self.made(Account("cache", "päss"), source=source)
            said = self.says()
            self.asked[0][2].errback(TokenRefused("no"))
            self.failureResultOf(said, TokenRefused)
            self.assertEqual(len(self.asked), 1)

    def test_identity_token(self) -> None:
        """An identity token goes in a form, and neither into a URL nor into a header."""
        self.account = self.made(None, source=Changing(IdentityToken("s&sam=e")))
        said = self.says()
        url, headers, _ = self.asked[0]
        self.assertEqual(url, REALM)
        self.assertEqual(headers, {"Content-Type": "application/x-www-form-urlencoded"})
        form = parse_qs((self.bodies[0] or b"").decode(), strict_parsing=True)
        self.assertEqual(
            form,
            {
                "grant_type": ["refresh_token"],
                "client_id": ["contentcache"],
                "service": ["s"],
                "scope": ["repository:org/app:pull"],
                "refresh_token": ["s&sam=e"],
            },
        )
        self.reply(b'{"access_token": "t"}')
        self.assertEqual(self.successResultOf(said), "Bearer t")

    def test_identity_token_is_no_password(self) -> None:
        """To a basic challenge an identity token says nothing, in a sentence."""
        self.account = self.made(None, source=Changing(IdentityToken("sesame")))
        error = self.failureResultOf(self.says(BASIC), NoTokenError).value
        self.assertNotIn("sesame", str(error))

    def test_foreign_realm_asks_no_source(self) -> None:
        """For a realm elsewhere no program is run, and nothing is sent, in whatever form."""
        for account in (Account("cache", "päss"), IdentityToken("sesame")):
            for realm in ("https://evil.com/token", "http://registry.example.com/token", "https://[x/"):
                source = Changing(account)
                self.account = self.made(None, source=source)
                self.failureResultOf(self.says(Challenge("bearer", {"realm": realm})), NoTokenError)
                self.assertEqual((source.asked, self.asked), (0, []))


class KeptTokensTests(SynchronousTestCase):
    """How many tokens are kept."""

    def test_bounded(self) -> None:
        """One for each of the 256 repositories asked for last: clients make up as many names as they like."""
        asked: list[str] = []

        async def fetch(url: str, headers: Mapping[str, str], body: bytes | None = None) -> bytes:
            asked.append(url)
            return b'{"token": "t", "expires_in": 3600}'

        account = OwnAccount(None, "https://r.example", (), fetch, lambda: 0.0)
        challenge = [Challenge("bearer", {"realm": "https://r.example/token"})]
        for number in range(300):
            self.successResultOf(Deferred.fromCoroutine(account.answer(challenge, f"a/{number}")))
        for number in (299, 0):
            self.successResultOf(Deferred.fromCoroutine(account.authorization(f"a/{number}")))
        self.assertEqual(len(asked), 301, "the newest one is kept, the oldest one asked for again")


HUB = "https://registry-1.docker.io"
OURS = "https://registry.example.com"


class MayHavePasswordTests(SynchronousTestCase):
    """Where the account's password may go."""

    def test_own_host_and_site(self) -> None:
        """The registry's own host and site get it over https, all others do not."""
        for realm, registry, expected in [
            ("https://auth.docker.io/token", HUB, True),
            ("https://auth.docker.io/token", "https://docker.io", True),
            ("https://auth.docker.io/token", "https://index.docker.io", True),
            ("https://auth.docker.com/token", HUB, False),
            ("http://auth.docker.io/token", HUB, False),
            ("https://registry.example.com/token", OURS, True),
            ("https://REGISTRY.example.COM./token", OURS, True),
            ("https://registry.example.com:8443/token", OURS, True),
            ("https://auth.example.com/token", OURS + ":5000", True),
            ("https://example.com/token", OURS, True),
            ("http://registry.example.com/token", OURS, False),
            ("http://registry.example.com/token", "http://registry.example.com:5000", True),
            ("https://registry.example.com/token", "http://registry.example.com:5000", True),
            ("http://evil.com/token", "http://registry.example.com:5000", False),
            ("https://gitlab.com/jwt/auth", "https://registry.gitlab.com", True),
            ("https://evil.github.io/token", "https://good.github.io", False),
            ("https://evil.co.uk/token", "https://good.co.uk", False),
            ("https://com/token", OURS, False),
            ("https://192.0.2.1/token", "https://192.0.2.1:5000", True),
            ("https://192.0.2.2/token", "https://192.0.2.1", False),
            ("https://9.0.2.1/token", "https://8.0.2.1", False),
            ("https://[2001:db8::1]/t", "https://[2001:DB8:0::1]:5000", True),
            ("https://[2001:db8::2]/t", "https://[2001:db8::1]", False),
            ("https://registry/token", "https://registry:5000", True),
            ("https://other/token", "https://registry:5000", False),
        ]:
            with self.subTest(realm=realm, registry=registry):
                self.assertIs(expected, may_have_password(realm, registry))

    def test_hostile_realms(self) -> None:
        """A realm that looks like the registry's and is another's gets nothing."""
        for realm in [
            "",
            "token",
            "/token",
            "//registry.example.com/token",
            "https://registry.example.com@evil.com/",
            "https://registry.example.com:443@evil.com/",
            "https://user:pw@registry.example.com/",
            "https://registry.example.com.evil.com/",
            "https://evilexample.com/",
            "https://registry.example.com\\@evil.com/",
            "https://evil.com\\.example.com/",
            "https://evil.com#.example.com/",
            "https://evil.com?.example.com/",
            "https://evil.com/.example.com/",
            "https://evil.com%2f.example.com/",
            "https://registry.example.com%00.evil.com/",
            "https://registry.example。com/",
            "https://registry.exаmple.com/",  # noqa: RUF001 - a Cyrillic letter
            "https://registry.example.com\t/token",
            " https://registry.example.com/token",
            "https://registry.example.com/to ken",
            "https://registry.example.com:99999/",
            "javascript://registry.example.com/",
            "ftp://registry.example.com/",
        ]:
            with self.subTest(realm=realm):
                self.assertFalse(may_have_password(realm, OURS))

    def test_listed(self) -> None:
        """A listed host, host with port, or URL permits exactly what it says."""
        for realm, entry, expected in [
            ("https://auth.corp/token", "auth.corp", True),
            ("https://AUTH.corp:8443/token", "auth.corp", True),
            ("https://auth.corp:8443/token", "auth.corp:8443", True),
            ("https://auth.corp/token", "auth.corp:8443", False),
            ("http://auth.corp/token", "auth.corp", False),
            ("https://sub.auth.corp/token", "auth.corp", False),
            ("https://sub.auth.corp/token", ".auth.corp", True),
            ("https://auth.corp/token", "https://auth.corp", True),
            ("https://auth.corp:443/token", "https://auth.corp/", True),
            ("https://auth.corp:8443/token", "https://auth.corp", False),
            ("http://auth.corp/token", "https://auth.corp", False),
            ("http://auth.corp/token", "http://auth.corp", True),
            ("https://auth.corp/token", "https://auth.corp/token", True),
            ("https://auth.corp/token?x=y", "https://auth.corp/token", True),
            ("https://auth.corp/token/a", "https://auth.corp/token/", True),
            ("https://auth.corp/tokenevil", "https://auth.corp/token", False),
            ("https://auth.corp/token/../evil", "https://auth.corp/token", False),
            ("https://auth.corp/token/%2e%2E/evil", "https://auth.corp/token", False),
            ("https://auth.corp/token\\..\\evil", "https://auth.corp/token", False),
            ("https://auth.corp@evil.com/token", "https://auth.corp", False),
            ("https://auth.corp.evil.com/token", "https://auth.corp", False),
            ("https://auth.corp/token", "https://", False),
            ("https://auth.corp/token", "", False),
        ]:
            with self.subTest(realm=realm, entry=entry):
                self.assertIs(expected, may_have_password(realm, OURS, [entry]))

    @given(st.text(max_size=60), st.text(max_size=30))
    def test_never_raises(self, realm: str, entry: str) -> None:
        """A strange challenge is refused, not raised about."""
        self.assertFalse(may_have_password(realm, OURS, [entry]))
