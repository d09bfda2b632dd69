"""Tests for ``contentcache.upstream.endpoints``: the guard on the addresses that redirects lead to."""

from __future__ import annotations

from collections.abc import Sequence

from contentcache.config.model import Upstream
from contentcache.core.live import Live
from contentcache.telemetry.metrics import Meter
from contentcache.upstream.account import NoTokenError
from contentcache.upstream.proxies import Proxies
from contentcache.upstream.redirects import RedirectRefused
from contentcache.upstream.registry import Registry
from contentcache.upstream.request import UpstreamLimits
from tests.upstream.loopback import Answer, RedirectingTestCase, body_of


class GuardTests(RedirectingTestCase):
    """Which addresses are connected to."""

    async def test_odd_targets(self) -> None:
        """Nothing is connected to that a redirect must not lead to, however the address is spelled."""
        for target in [
            "storage.example",
            "127.0.0.1",
            "127.1",
            "2130706433",
            "0x7f.1",
            "[::1]",
            "[::ffff:7f00:1]",
            "0",
            "[::]",
            "169.254.169.254",
            "10.0.0.1",
            "100.64.0.1",
        ]:
            with self.subTest(target=target):
                self.two(registry="8.8.4.4", storage="192.168.0.1")
                self.location = f"http://{target}:{self.storage_port}/blob"
                with self.assertRaises(RedirectRefused) as caught:
                    await self.fetch()
                self.assertIn("list it in redirects", caught.exception.message)
                self.assertEqual(["8.8.4.4"], self.local.connected)

    async def test_same_neighbourhood(self) -> None:
        """A registry on a private address may redirect to one, but not to loopback."""
        for address, expected in [("192.168.0.1", True), ("127.0.0.1", False)]:
            self.two(registry="10.0.0.1", storage=address)
            if expected:
                self.assertEqual(b"stored", await body_of((await self.fetch()).response))
            else:
                with self.assertRaises(RedirectRefused):
                    await self.fetch()

    async def test_mixed_registry(self) -> None:
        """
        A registry of which one address is public excuses no private target, and neither does one whose name
        changes to a private address once it has answered.
        """
        answers: list[list[Sequence[str]]] = [[["8.8.4.4", "10.0.0.1"]], [["8.8.4.4"], ["10.0.0.1"]]]
        for addresses in answers:
            self.two(registry="10.0.0.1", storage="192.168.0.1")
            self.local.nameResolver._answers["registry.example"] = addresses
            with self.assertRaises(RedirectRefused):
                await self.fetch()

    async def test_redirected_by_strangers(self) -> None:
        """Where storage redirects on, the addresses of the registry excuse nothing any more."""
        for further, expected in [("10.0.0.9", False), ("8.8.8.8", True)]:
            self.two(registry="10.0.0.1", storage="192.168.0.1", further=further)
            _, port = self.serve(lambda _path: Answer(302, {"Location": self.onward}, b""))
            self.location = f"http://storage.example:{port}/blob"
            self.onward = f"http://further.example:{self.storage_port}/blob"
            if expected:
                self.assertEqual(b"stored", await body_of((await self.fetch()).response))
            else:
                with self.assertRaises(RedirectRefused):
                    await self.fetch()
                followed = await self.fetch(redirects=("further.example",))
                self.assertEqual(b"stored", await body_of(followed.response))

    async def test_realms(self) -> None:
        """
        A token server elsewhere than the registry is checked by its address as a redirect's target is, unless
        the operator has listed it.
        """
        for registry, auth, realms, expected in [
            ("8.8.4.4", "10.0.0.1", (), False),
            ("8.8.4.4", "127.0.0.1", (), False),
            ("8.8.4.4", "10.0.0.1", ("auth.example",), True),
            ("8.8.4.4", "8.8.8.8", (), True),
            ("10.0.0.2", "10.0.0.1", (), True),
        ]:
            with self.subTest(registry=registry, auth=auth, realms=realms):
                self.two(registry=registry, auth=auth)
                upstream = Upstream(self.base, (self.base,), realms=realms)
                ways = self.transport(self.base, reactor=self.local)
                asking = Registry(
                    upstream,
                    {self.base: ways},
                    reactor=self.local,
                    wall=lambda: 0.0,
                    secret=b"",
                    limits=Live(UpstreamLimits(10.0, 1000)),
                    meter=Meter(),
                )
                realm = f"http://auth.example:{self.storage_port}/token"
                if expected:
                    self.assertEqual(await asking.client.fetch_token(realm, {}), b"stored")
                else:
                    with self.assertRaises(NoTokenError):
                        await asking.client.fetch_token(realm, {})
                    self.assertEqual(self.local.connected, [])

    async def test_listed(self) -> None:
        """What the operator lists is permitted, by name or address."""
        for listed in ("storage.example", "192.168.0.0/16"):
            self.two(registry="8.8.4.4", storage="192.168.0.1")
            followed = await self.fetch(redirects=(listed,))
            self.assertEqual(b"stored", await body_of(followed.response))

    async def test_rebinding(self) -> None:
        """The address that was looked at is the one that is connected to: the name is asked once."""
        self.two(registry="8.8.4.4")
        self.local.nameResolver._answers["storage.example"] = [["8.8.8.8"], ["127.0.0.1"]]
        self.assertEqual(b"stored", await body_of((await self.fetch()).response))
        self.assertEqual(["8.8.4.4", "8.8.8.8"], self.local.connected)
        self.assertEqual(1, self.local.nameResolver.asked.count("storage.example"))

    async def test_mixed_addresses(self) -> None:
        """Of a name with good and bad addresses only the good ones are tried."""
        self.two(registry="8.8.4.4")
        self.local.nameResolver._answers["storage.example"] = [["127.0.0.1", "8.8.8.8", "::1"]]
        self.assertEqual(b"stored", await body_of((await self.fetch()).response))
        self.assertEqual(["8.8.4.4", "8.8.8.8"], self.local.connected)

    async def test_through_a_proxy(self) -> None:
        """Where a proxy resolves names, addresses that are spelled out are still looked at."""
        self.two(registry="8.8.4.4", proxy="192.168.0.9")
        location = ""
        origin, port = self.serve(
            lambda path: (
                Answer(302, {"Location": location}, b"") if "/v2/" in path else Answer(body=b"stored")
            )
        )
        proxies = Proxies.from_environment({"http_proxy": f"http://proxy.example:{port}"})
        for location, expected in [
            ("http://storage.example/blob", True),
            ("http://8.8.8.8/blob", True),
            ("http://10.0.0.1/blob", False),
            ("http://0x0a.1/blob", False),
            ("http://[::ffff:a00:1]/blob", False),
            ("http://metadata.localhost/blob", False),
        ]:
            with self.subTest(location=location):
                if expected:
                    response = (await self.fetch(proxies=proxies)).response
                    self.assertEqual(b"stored", await body_of(response))
                else:
                    with self.assertRaises(RedirectRefused):
                        await self.fetch(proxies=proxies)
                    self.assertNotIn(location, origin.paths)
