"""The cache never says yes where the origin says no, whatever the origin: see :mod:`tests.real.matrix`."""

from __future__ import annotations

import http.client
import json
import urllib.parse
from collections.abc import Callable
from typing import Final

from tests.real.images import push_image
from tests.real.line import CountingProxy
from tests.real.matrix import REPOSITORIES, MatrixCase, Shown, plain
from tests.real.origin import Origin, basic
from tests.real.programs import needs
from tests.real.signer import SigningOrigin
from tests.real.tokens import ANONYMOUS, TokenServer

#: The blob in flight is in one repository only.
_NOT_IN_FLIGHT: Final = {("in flight", repository) for repository in REPOSITORIES[1:]}


@needs("docker-registry", "htpasswd", "curl")
class PasswordTests(MatrixCase):
    """An origin with accounts: whoever has one may have everything."""

    def setUp(self) -> None:
        self.users = {"ann": "secret", "bob": "other"}
        self.registry = Origin(self, users=self.users)
        self.line = CountingProxy(self, self.registry.port)
        self.images = [push_image(self.registry, name, seed=name) for name in REPOSITORIES]

    def right(self, repository: str) -> Shown:
        """Ann."""
        return Shown("ann", basic("ann", "secret"))

    def shown(self) -> list[Shown]:
        """Wrong ones before right ones."""
        return [*plain(self.users), Shown("bob", basic("bob", "other")), self.right("")]

    def test_matrix(self) -> None:
        """All of it, with ``authttl`` as it is."""
        self.begin(self.line.url, self.registry.host)
        self.run_blobs()
        self.run_manifests(self.images)
        self.run_in_flight(self.line)
        self.conclude(1000)

    def test_nothing_remembered(self) -> None:
        """The temperatures that differ, with ``authttl: 0``."""
        self.temperatures = ("warm", "warm elsewhere only")  # type: ignore[misc]
        self.begin(self.line.url, self.registry.host, authttl="0")
        self.run_blobs()
        self.conclude(200)


@needs("docker-registry", "curl")
class OpenTests(MatrixCase):
    """An origin that asks for nothing: the same yes to everybody, and no to what it has not."""

    def right(self, repository: str) -> Shown:
        """Anybody."""
        return Shown("nobody")

    def shown(self) -> list[Shown]:
        """Whatever they show."""
        return plain({"ann": "secret"})[::3]

    def test_matrix(self) -> None:
        """Everybody may have everything that is there."""
        self.registry = Origin(self)
        self.begin(self.registry.url, self.registry.host)
        self.run_blobs()
        self.run_manifests([push_image(self.registry, name, seed=name) for name in REPOSITORIES])
        self.conclude(300)


@needs("docker-registry", "curl")
class TokenTests(MatrixCase):
    """docker-registry's own ``auth.token``: each user has repositories of his own."""

    def setUp(self) -> None:
        self.tokens = TokenServer(self, users={"ann": "secret", "bob": "secret"})
        self.tokens.allow("ann", "org/app")
        self.tokens.allow("bob", "org/other")
        for account in (ANONYMOUS, "ann", "bob"):
            self.tokens.allow(account, "public/*")
        self.registry = Origin(self, tokens=self.tokens)
        self.line = CountingProxy(self, self.registry.port)
        self.images = [push_image(self.registry, name, seed=name) for name in REPOSITORIES]
        self._shown = self._made()

    def right(self, repository: str) -> Shown:
        """Its owner's token."""
        return next(each for each in self._shown if each.name == f"right {repository}")

    def shown(self) -> list[Shown]:
        """Wrong ones before right ones."""
        return self._shown

    def fetched(self, name: str, account: str, *repositories: str) -> Shown:
        """A token as clients fetch it."""
        split = urllib.parse.urlsplit(self.tokens.realm)
        line = http.client.HTTPConnection(split.netloc, timeout=30)
        scopes = [("scope", f"repository:{repository}:pull") for repository in repositories]
        query = urllib.parse.urlencode([("service", "registry"), *scopes])
        headers = {"Authorization": basic(account, "secret")} if account else {}
        line.request("GET", f"{split.path}?{query}", headers=headers)
        token = json.loads(line.getresponse().read())["token"]
        line.close()
        return Shown(name, f"Bearer {token}")

    def _made(self) -> list[Shown]:
        every = [{"type": "repository", "name": name, "actions": ["pull"]} for name in REPOSITORIES]
        self.tokens.life = -100
        expired = Shown("expired", f"Bearer {self.tokens.token('ann', every)}")
        self.tokens.life = 600
        push = [{**entry, "actions": ["push"]} for entry in every]
        good = self.fetched("right org/app", "ann", "org/app")
        head, payload, signature = (good.authorization or "").split(".")
        other = (self.fetched("", "bob", "org/other").authorization or "").split(".")
        return [
            *(each for each in plain({"ann": "secret"}) if "password" not in each.name),
            Shown("a right password", basic("ann", "secret")),
            expired,
            Shown("for push only", f"Bearer {self.tokens.token('ann', push)}"),
            Shown("for nothing", f"Bearer {self.tokens.token('ann', [])}"),
            Shown("a wrong signature", f"{head}.{payload}.{'A' * len(signature)}"),
            Shown("another one's signature", f"{head}.{payload}.{other[2]}"),
            Shown("no signature", f"{head}.{payload}."),
            self.fetched("bob's of ann's", "bob", "org/app"),
            self.fetched("nobody's of ann's", ANONYMOUS, "org/app"),
            self.fetched("both, of ann", "ann", "org/app", "org/other"),
            self.fetched("right public/app", ANONYMOUS, "public/app"),
            self.fetched("right org/other", "bob", "org/other"),
            good,
        ]

    def test_matrix(self) -> None:
        """All of it."""
        self.begin(self.line.url, self.registry.host)
        self.run_blobs()
        self.run_manifests(self.images[:2])
        self.run_in_flight(self.line)
        self.conclude(2000)


@needs("docker-registry", "htpasswd", "curl")
class SignedTests(MatrixCase):
    """An origin that signs URLs beside its accounts."""

    def setUp(self) -> None:
        self.users = {"ann": "secret", "bob": "other"}
        self.registry = Origin(self, users=self.users)
        self.signer = SigningOrigin(self, self.registry)
        self.other = f"sha256:{'1' * 64}"

    def right(self, repository: str) -> Shown:
        """A signed URL."""
        return Shown("signed", None, self.signed())

    def signed(self, **claims: object) -> Callable[[str, str], str]:
        """Queries of signed URLs with these claims."""
        return lambda repository, digest: f"token={self.signer.token(repository, digest, None, claims)}"

    def shown(self) -> list[Shown]:
        """Signatures with and without a header beside them, and headers alone."""
        access = [{"type": "repository", "name": "org/app", "actions": ["pull"]}]
        ended = {"iat": 1_700_000_000, "nbf": 1_700_000_000, "exp": 1_700_000_600}
        return [
            *plain(self.users)[:2],
            Shown("no token", None, lambda *_: "token="),
            Shown("nonsense", None, lambda *_: "token=a.b.c"),
            Shown("for another digest", None, self.signed(digest=self.other)),
            Shown(
                "for another, with a right password", basic("ann", "secret"), self.signed(digest=self.other)
            ),
            Shown("for one repository", None, self.signed(access=access)),
            Shown("expired", None, self.signed(**ended)),
            Shown("for somebody else", None, self.signed(aud="registry")),
            Shown("of another", None, self.signed(iss="https://other.example.com")),
            Shown("signed, with a wrong password", basic("ann", "wrong"), self.signed()),
            Shown("ann", basic("ann", "secret")),
            self.right(""),
        ]

    def makes_sense(self, temperature: str, who: Shown, repository: str) -> bool:
        """
        An origin signs what it has said yes to, so it never signs what a repository has not: what the cache
        has from elsewhere is then had by that signature.
        """
        has_it = temperature != "warm elsewhere only" and (temperature, repository) not in _NOT_IN_FLIGHT
        return has_it or who.name not in {"signed", "signed, with a wrong password", "for one repository"}

    def test_matrix(self) -> None:
        """Every blob."""
        line, host = CountingProxy(self, self.signer.port), self.signer.host
        self.signer.port = line.port  # its name is that of the line
        self.begin(self.signer.url, host)
        self.run_blobs()
        self.run_in_flight(line)
        self.conclude(800)
