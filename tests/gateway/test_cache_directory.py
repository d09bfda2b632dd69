"""Tests for :mod:`contentcache.gateway.cache_directory`."""

from __future__ import annotations

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.gateway.cache_directory import NetworkDefaults, choose_cache

_IDS = st.one_of(st.none(), st.integers(1, 4).map(lambda n: UUID(int=n)))
_V4 = st.tuples(st.ip_addresses(v=4), st.integers(0, 32)).map(lambda p: str(ip_network(p, strict=False)))
_V6 = st.tuples(st.ip_addresses(v=6), st.integers(0, 128)).map(lambda p: str(ip_network(p, strict=False)))


class ChosenTests(SynchronousTestCase):
    """Choice, default, liveness."""

    @given(_IDS, _IDS, st.sets(st.integers(1, 4).map(lambda n: UUID(int=n))))
    def test_rule(self, choice: UUID | None, default: UUID | None, alive: set[UUID]) -> None:
        """A client is sent to the chosen cache, or to the default if none was chosen, and only if it is alive."""
        found = choose_cache(choice, default, alive.__contains__)
        wanted = choice or default
        self.assertEqual(found, wanted if wanted in alive else None)


class NetworksTests(SynchronousTestCase):
    """Which network an address is in."""

    def test_longest_prefix(self) -> None:
        """The longest prefix counts, in whichever order they are written; bits behind it do not matter."""
        for order in (1, -1):
            written = list(
                {"0.0.0.0/0": "all", "10.2.3.4/16": "b", "10.0.0.0/8": "a", "10.2.3.4": "one"}.items()
            )
            networks = NetworkDefaults.of(dict(written[::order]))
            for address, name in (
                ("10.2.3.4", "one"),
                ("10.2.9.9", "b"),
                ("10.3.0.1", "a"),
                ("9.9.9.9", "all"),
            ):
                self.assertEqual(networks.default(address), name)
            self.assertIsNone(networks.default("2001:db8::1"))

    def test_mapped(self) -> None:
        """An IPv4 address inside an IPv6 one is the same, as an address and as a network."""
        networks = NetworkDefaults.of({"::ffff:10.0.0.0/104": "a", "2001:db8::/32": "six"})
        for address in ("10.1.2.3", "::ffff:10.1.2.3", "::ffff:a01:203"):
            self.assertEqual(networks.default(address), "a")
        self.assertEqual(networks.default("2001:db8::5%eth0"), "six")
        self.assertIsNone(NetworkDefaults.of({"::/0": "six"}).default("10.1.2.3"))

    def test_no_address(self) -> None:
        """A client of a Unix socket has no address, and no network has it."""
        for address in ("", "local", "/run/x.sock", "1.2.3"):
            self.assertIsNone(NetworkDefaults.of({"0.0.0.0/0": "all", "::/0": "all"}).default(address))

    def test_wrong(self) -> None:
        """What is no network is refused."""
        for written in ("10.0.0.0/33", "region", ""):
            self.assertRaises(ValueError, NetworkDefaults.of, {written: "a"})

    @given(st.lists(st.one_of(_V4, _V6), unique=True, max_size=6), st.ip_addresses())
    def test_property(self, written: list[str], address: IPv4Address | IPv6Address) -> None:
        """The answer is a network that has the address, and no other one that has it is longer."""
        plain = ip_address(address)
        if isinstance(plain, IPv6Address) and plain.ipv4_mapped:
            plain = plain.ipv4_mapped
        networks = NetworkDefaults.of({each: each for each in written})
        found = networks.default(str(address))
        having = [network for network, _name in networks.defaults if plain in network]
        if found is None:
            self.assertEqual(having, [])
        else:
            kept = {name: network for network, name in networks.defaults}[found]
            self.assertEqual(kept.prefixlen, max(network.prefixlen for network in having))
