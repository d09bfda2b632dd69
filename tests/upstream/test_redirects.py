"""Tests for ``contentcache.upstream.redirects``, with the guard in ``contentcache.upstream.endpoints``."""

from __future__ import annotations

from ipaddress import ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase
from twisted.web.http_headers import Headers

from contentcache.core.errors import UpstreamBroken
from contentcache.upstream.addresses import Kind, Place
from contentcache.upstream.redirects import MOST_HOPS, RedirectPolicy, RedirectRefused
from tests.upstream.loopback import HARMLESS, SECRETS, Answer, RedirectingTestCase, body_of


class FollowTests(SynchronousTestCase):
    """Where redirects may lead, as far as the URL tells."""

    def test_followed(self) -> None:
        """Absolute and relative locations are resolved; signatures come through as they are."""
        for url, location, expected in [
            ("https://r.example/v2/a/b", b"https://s3.example/x", "https://s3.example/x"),
            ("https://r.example/v2/a/b", b"//s3.example/x", "https://s3.example/x"),
            ("https://r.example/v2/a/b", b"/x?y=%2F%2b~+=;", "https://r.example/x?y=%2F%2b~+=;"),
            ("https://r.example/v2/a/b", b"c", "https://r.example/v2/a/c"),
            ("https://r.example/v2/a/b", b"?x", "https://r.example/v2/a/b?x"),
            ("https://r.example/v2/a/b", b"https://s3.example/x#secret", "https://s3.example/x"),
            ("https://r.example/v2/a/b", b" https://s3.example/a b ", "https://s3.example/a%20b"),
            ("https://r.example/v2/a/b", "https://s3.example/é".encode(), "https://s3.example/%C3%A9"),
            ("http://r.example/v2/a/b", b"http://s3.example/x", "http://s3.example/x"),
            ("http://r.example/v2/a/b", b"https://s3.example/x", "https://s3.example/x"),
        ]:
            with self.subTest(location=location):
                self.assertEqual(expected, RedirectPolicy.of("https://r.example").follow(url, location))

    def test_refused(self) -> None:
        """Never to plain HTTP from https, never with a user, never to what is in doubt."""
        for location in [
            b"http://r.example/x",
            b"http://s3.example/x",
            b"https://user@s3.example/x",
            b"https://user:pw@s3.example/x",
            b"https://r.example@s3.example/x",
            b"https://s3.example\\x",
            b"https://s3%2eexample/x",
            b"https://s3.ex\tample/x",
            b"https://s3.ex\x00ample/x",
            b"ftp://s3.example/x",
            b"file:///etc/passwd",
            b"data:,x",
            b"https://",
            b"https:///x",
            b"https://[::1/x",
            b"https://s3.example:99999/",
            b"https://s3.example/" + b"x" * 9000,
        ]:
            with self.subTest(location=location[:40]):
                policy = RedirectPolicy.of("https://r.example", ("s3.example",))
                self.assertRaises(RedirectRefused, policy.follow, "https://r.example/v2/", location)

    def test_plain_http_where_listed(self) -> None:
        """
        From https to plain HTTP where the operator has listed the place with its scheme, and nowhere else;
        the refusal says how.
        """
        policy = RedirectPolicy.of("https://r.example", ("http://s3.internal:9000", "other.internal"))
        self.assertEqual(
            policy.follow("https://r.example/v2/", b"http://s3.internal:9000/x"), "http://s3.internal:9000/x"
        )
        for location in (b"http://s3.internal/x", b"http://other.internal/x", b"http://evil.example:9000/x"):
            error = self.assertRaises(RedirectRefused, policy.follow, "https://r.example/v2/", location)
            self.assertIn(f"list http://{Place.of(location.decode()).netloc} in redirects", error.message)

    def test_nat64(self) -> None:
        """Addresses in the prefixes that the operator names are private."""
        address = ip_address("2606:4700:64::808:808")
        place = Place.of("http://storage.example")
        self.assertTrue(RedirectPolicy.of("https://r.example").permits(place, address, ()))
        policy = RedirectPolicy.of("https://r.example", nat64=("2606:4700:64::/96",))
        self.assertFalse(policy.permits(place, address, ()))
        self.assertTrue(policy.permits(place, address, policy.around([ip_address("10.0.0.1")])))

    def test_around(self) -> None:
        """
        A kind of address is excused only if all addresses of the registry are of it, now and whenever it was
        connected to.
        """
        policy = RedirectPolicy.of("https://r.example")
        private, public, loopback = map(ip_address, ("10.0.0.1", "8.8.8.8", "127.0.0.1"))
        self.assertEqual(policy.around([private, private]), {Kind.PRIVATE})
        for addresses in ([], [private, public], [private, loopback]):
            self.assertEqual(policy.around(addresses), set())
        policy.reached.add(Kind.PUBLIC)
        self.assertEqual(policy.around([private]), set())

    def test_message(self) -> None:
        """A refusal says which host, and nothing else of what the registry wrote."""
        policy = RedirectPolicy.of("https://r.example")
        for scheme in ("http", "ftp", "s3"):
            for authority in (
                "",
                "alice:pw@s3.example",
                "s3.example:99999",
                "alice:p w@s3.example",
                "alice:pw",
            ):
                location = f"{scheme}://{authority}/secret/app?sig=secret"
                with self.subTest(location=location):
                    error = self.assertRaises(
                        RedirectRefused, policy.follow, "https://r.example/", location.encode()
                    )
                    self.assertNotRegex(error.message, "secret|alice|pw|p.*w@")
        error = self.assertRaises(RedirectRefused, policy.follow, "https://r.example/", b"ftp://s3.example/x")
        self.assertIn("'ftp://s3.example'", error.message)

    @given(st.binary(max_size=60))
    def test_raises_nothing_else(self, location: bytes) -> None:
        """Any location is a URL that can be requested, or refused."""
        policy = RedirectPolicy.of("https://r.example")
        for prefix in (b"", b"https://", b"//"):
            try:
                target = policy.follow("https://r.example/", prefix + location)
            except RedirectRefused:
                continue
            self.assertTrue(target.isascii())
            self.assertTrue(target.isprintable())
            self.assertEqual("https", Place.of(target).scheme)

    def test_addresses(self) -> None:
        """Odd addresses are for a registry in the same neighbourhood, or listed, or the registry's own."""
        for target, address, around, listed, expected in [
            ("https://s3.example", "8.8.8.8", set(), (), True),
            ("https://s3.example", "127.0.0.1", set(), (), False),
            ("https://s3.example", "::ffff:127.0.0.1", set(), (), False),
            ("https://s3.example", "169.254.169.254", {Kind.PUBLIC}, (), False),
            ("https://s3.example", "10.0.0.1", {Kind.PUBLIC}, (), False),
            ("https://s3.example", "10.0.0.1", {Kind.PRIVATE}, (), True),
            ("https://s3.example", "127.0.0.1", {Kind.PRIVATE}, (), False),
            ("https://s3.example", "169.254.169.254", {Kind.PRIVATE}, (), False),
            ("https://s3.example", "127.0.0.1", {Kind.LOOPBACK}, (), True),
            ("https://s3.example", "0.0.0.0", {Kind.UNUSABLE, Kind.LOOPBACK}, (), False),
            ("https://s3.example", "224.0.0.1", {Kind.UNUSABLE}, (), False),
            ("https://s3.example", "10.0.0.1", set(), ("s3.example",), True),
            ("https://s3.example", "10.0.0.1", set(), ("10.0.0.0/8",), True),
            ("https://s3.example", "10.0.0.1", set(), ("10.0.0.1",), True),
            ("https://s3.example", "10.0.0.1", set(), ("s3.example:9000", "10.0.0.2", "other"), False),
            ("https://r.example/x", "10.0.0.1", set(), (), True),
            ("https://r.example:8443/x", "10.0.0.1", set(), (), False),
        ]:
            with self.subTest(target=target, address=address, around=around, listed=listed):
                policy = RedirectPolicy.of("https://r.example", listed)
                permitted = policy.permits(Place.of(target), ip_address(address), around)
                self.assertIs(expected, permitted)


class FetchFollowingTests(RedirectingTestCase):
    """Redirects between servers on loopback."""

    async def test_no_redirect(self) -> None:
        """An answer of the registry itself is told as one, and it gets every header."""
        self.two(registry="192.0.2.1", storage="8.8.8.8")
        self.code = 404
        followed = await self.fetch()
        await body_of(followed.response)
        self.assertEqual((404, 0, False), (followed.response.code, followed.hops, followed.crossed))
        self.assertFalse(followed.redirected)
        [(_, _, headers)] = self.registry.asked
        for name, values in {**SECRETS, **HARMLESS}.items():
            self.assertEqual(values, headers.getRawHeaders(name))

    async def test_to_storage(self) -> None:
        """Storage gets what is harmless and no credential; every redirect status leads there."""
        self.two(registry="8.8.4.4", storage="8.8.8.8")
        for self.code in (301, 302, 303, 307, 308):
            followed = await self.fetch()
            self.assertEqual(b"stored", await body_of(followed.response))
            self.assertEqual((self.location, 1, True), (followed.url, followed.hops, followed.crossed))
            _, path, headers = self.storage.asked.pop()
            self.assertEqual("/blob?sig=%2F+", path)
            for name, values in HARMLESS.items():
                self.assertEqual(values, headers.getRawHeaders(name))
            for name in SECRETS:
                self.assertFalse(headers.hasHeader(name), name)

    async def test_body_of_the_redirect(self) -> None:
        """A redirect's own small body is read and its connection used again; a large one ends it."""
        for moved, connections in [(b"moved", 1), (b"x" * (1 << 20), 2)]:
            self.two(registry="8.8.4.4", storage="8.8.8.8")
            self.moved = moved
            transport = self.transport(self.base, reactor=self.local)
            for _ in range(2):
                followed = await transport.fetch_following("GET", f"{self.base}/v2/blob", Headers())
                self.assertEqual(b"stored", await body_of(followed.response))
            self.assertEqual(connections, self.local.connected.count("8.8.4.4"))

    async def test_refusal_of_storage(self) -> None:
        """A 403 of the target can be told from one of the registry."""
        self.two(registry="8.8.4.4", storage="8.8.8.8")
        self.location += "denied"
        followed = await self.fetch()
        await body_of(followed.response)
        self.assertEqual((403, True, True), (followed.response.code, followed.redirected, followed.crossed))

    async def test_on_the_registry_itself(self) -> None:
        """A redirect within the registry keeps the credentials, whatever address it has."""
        self.two(registry="127.0.0.1", storage="8.8.8.8")
        self.location = "../elsewhere"
        followed = await self.fetch()
        await body_of(followed.response)
        self.assertEqual((True, False), (followed.redirected, followed.crossed))
        self.assertEqual(["/v2/blob", "/elsewhere"], self.registry.paths)
        self.assertEqual(["Bearer secret"], self.registry.asked[1][2].getRawHeaders("Authorization"))

    async def test_there_and_back(self) -> None:
        """Credentials that were left out stay out, also when storage sends us back to the registry."""
        self.two(registry="8.8.4.4", storage="8.8.8.8")
        back = f"{self.base}/back"
        self._stored = lambda path: Answer(302, {"Location": back})  # type: ignore[method-assign]
        self.storage._answer = self._stored
        followed = await self.fetch()
        await body_of(followed.response)
        self.assertEqual((back, 2, True), (followed.url, followed.hops, followed.crossed))
        self.assertFalse(self.registry.asked[1][2].hasHeader("Authorization"))

    async def test_loop(self) -> None:
        """Five redirects are followed, a sixth is not."""
        self.two(registry="8.8.4.4", storage="8.8.8.8")
        self.location = "/v2/again"
        with self.assertRaises(RedirectRefused):
            await self.fetch()
        self.assertEqual(MOST_HOPS + 1, len(self.registry.asked))

    async def test_without_location(self) -> None:
        """A redirect to nowhere is a broken answer."""
        self.two(registry="8.8.4.4", storage="8.8.8.8")
        self.registry._answer = lambda _path: Answer(302, body=b"")
        with self.assertRaises(UpstreamBroken):
            await self.fetch()
