"""Who signs in, by the word of real registries."""

from __future__ import annotations

import os
from typing import Any

from twisted.internet import reactor
from twisted.trial.unittest import TestCase
from twisted.web.client import Agent, HTTPConnectionPool

from contentcache.aio.threads import at_once
from contentcache.core.live import Live
from contentcache.gateway.authentication import AccountPolicy, Authenticator, User
from contentcache.gateway.credentials import BasicCredentials
from contentcache.gateway.errors import NotAuthenticated
from contentcache.gateway.registry_login import BoundedGet, RegistryLogin
from tests.gateway.memory_directory import MemoryDirectory
from tests.real.origin import Origin
from tests.real.programs import needs
from tests.real.tokens import TokenServer

USERS = {"ann": "secret", "bob": "other"}


@needs("docker-registry", "htpasswd")
class AccountsTests(TestCase):
    """docker-registry in its three moods."""

    def accounts(self, origin: Origin) -> Authenticator:
        """Who asks, before this origin."""
        running: Any = reactor
        agent = Agent(running, pool=HTTPConnectionPool(running, persistent=False))
        get = BoundedGet(agent, running, timeout=30.0, limit=Live(64 << 10))
        return Authenticator(
            RegistryLogin(origin.url, get, running),
            MemoryDirectory(),
            Live(AccountPolicy(["ann"])),
            run=at_once,
            monotonic=running.seconds,
            wall=running.seconds,
            secret=os.urandom(64),
            randomness=os.urandom,
        )

    async def refused(self, accounts: Authenticator, authorization: str) -> None:
        """Nobody has these credentials."""
        try:
            await accounts.authenticate(authorization, "127.0.0.1")
        except NotAuthenticated:
            return
        self.fail(f"{authorization} was accepted")

    async def test_htpasswd(self) -> None:
        """Passwords in the registry's own file."""
        accounts = self.accounts(Origin(self, users=USERS))
        ann = await accounts.authenticate(BasicCredentials("ann", "secret").authorization, "127.0.0.1")
        self.assertEqual(ann, User("ann", True))
        self.assertEqual(
            (await accounts.authenticate(BasicCredentials("bob", "other").authorization, "")).name, "bob"
        )
        await self.refused(accounts, BasicCredentials("ann", "other").authorization)

    async def test_tokens(self) -> None:
        """Passwords at a token server, and its tokens."""
        server = TokenServer(self, users=USERS)
        accounts = self.accounts(Origin(self, tokens=server))
        bob = await accounts.authenticate(BasicCredentials("bob", "other").authorization, "127.0.0.1")
        self.assertEqual(bob, User("bob"))
        await self.refused(accounts, BasicCredentials("bob", "secret").authorization)
        mine = server.token("ann", [])
        self.assertEqual(await accounts.authenticate(f"Bearer {mine}", "127.0.0.1"), User("ann", True))
        forged = mine.rpartition(".")[0] + "." + server.token("bob", []).rpartition(".")[2]
        await self.refused(accounts, f"Bearer {forged}")

    async def test_open(self) -> None:
        """A registry without accounts makes nobody an administrator."""
        accounts = self.accounts(Origin(self))
        await self.refused(accounts, BasicCredentials("ann", "secret").authorization)
