"""Tests for ``contentcache.upstream.addresses``."""

from __future__ import annotations

from ipaddress import IPv4Address, ip_address

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.upstream.addresses import Kind, Listed, Place, kind_of, literal_address


class PlaceTests(SynchronousTestCase):
    """Where URLs lead."""

    def test_understood(self) -> None:
        """Different spellings of one place are the same value."""
        for url, expected in [
            ("https://a.example", ("https", "a.example", 443)),
            ("HTTPS://A.EXAMPLE./x?y#z", ("https", "a.example", 443)),
            ("http://a.example:/", ("http", "a.example", 80)),
            ("http://a.example:080/", ("http", "a.example", 80)),
            ("http://a.example?x=@:/", ("http", "a.example", 80)),
            ("http://my_registry:5000/v2/", ("http", "my_registry", 5000)),
            ("http://[::1]:5000", ("http", "::1", 5000)),
            ("http://[0:0::0001]/", ("http", "::1", 80)),
            ("https://bücher.example/", ("https", "xn--bcher-kva.example", 443)),
            ("https://registry.example.com.evil.com/", ("https", "registry.example.com.evil.com", 443)),
        ]:
            with self.subTest(url=url):
                place = Place.of(url)
                self.assertEqual(expected, (place.scheme, place.host, place.port))

    def test_refused(self) -> None:
        """What is in doubt, or two programs might understand differently, is no place."""
        for url in [
            "",
            "a.example",
            "//a.example/",
            "ftp://a.example/",
            "https:a.example",
            "https:///v2/",
            "https://user@a.example/",
            "https://user:secret@a.example/",
            "https://a.example@evil.example/",
            "https://a.example:443@evil.example/",
            "https://a.example\\@evil.example/",
            "https://evil.example\\.a.example/",
            "https://a.example\\",
            "https://a.example /",
            "https://a.example\t/",
            "https://a.example/\n",
            "https://a.example\x00.evil/",
            "https://a.example%2eevil/",
            "https://a.example:0/",
            "https://a.example:65536/",
            "https://a.example:\uff11/",
            "https://a.example:99999999999999999999/",
            "https://.a.example/",
            "https://a..example/",
            "https://-a.example/",
            "https://a.example../",
            "https://[::1/",
            "https://[zz]/",
            "https://::1/",
            "https://[::ffff:1.2.3.4.5]/",
            "https://a.example℀evil.example/",
            "https://a,b/",
            "https://" + "a" * 300,
        ]:
            with self.subTest(url=url):
                self.assertRaises(ValueError, Place.of, url)

    @given(st.text(alphabet=st.sampled_from("htps:/@.[]\\ae1%?#\u2488é"), max_size=40))
    def test_raises_nothing_else(self, rest: str) -> None:
        """Rubbish raises ``ValueError`` and nothing else."""
        for url in (rest, "https://" + rest):
            try:
                place = Place.of(url)
            except ValueError:
                continue
            self.assertTrue(place.host.isascii())
            self.assertNotIn("@", place.host)


class AddressTests(SynchronousTestCase):
    """Addresses, however spelled."""

    def test_literals(self) -> None:
        """Every spelling that a resolver takes for an address is recognised, names are not."""
        for host, expected in [
            ("127.0.0.1", "127.0.0.1"),
            ("127.1", "127.0.0.1"),
            ("127.0.1", "127.0.0.1"),
            ("0x7f.1", "127.0.0.1"),
            ("0X7F000001", "127.0.0.1"),
            ("0177.0.0.01", "127.0.0.1"),
            ("2130706433", "127.0.0.1"),
            ("017700000001", "127.0.0.1"),
            ("0", "0.0.0.0"),
            ("127.0.0.1.", "127.0.0.1"),
            ("10.1.65535", "10.1.255.255"),
            ("::1", "::1"),
            ("1.2.3.4.5", None),
            ("256.1", None),
            ("1.2.3.256", None),
            ("1.2.65536", None),
            ("4294967296", None),
            ("09.1", None),
            ("1e3", None),
            ("face", None),
            ("0x", None),
            ("9" * 5000, None),
            ("a.example", None),
        ]:
            with self.subTest(host=host):
                self.assertEqual(None if expected is None else ip_address(expected), literal_address(host))

    @given(st.integers(0, 2**32 - 1))
    def test_odd_spellings_agree(self, number: int) -> None:
        """Decimal, octal and hexadecimal spellings are the same address."""
        for host in (str(number), hex(number), f"0{number:o}"):
            self.assertEqual(IPv4Address(number), literal_address(host))

    def test_kinds(self) -> None:
        """Each address is of its kind, and one inside another counts as the inner one."""
        for address, kind in [
            ("8.8.8.8", Kind.PUBLIC),
            ("2606:4700::1", Kind.PUBLIC),
            ("127.0.0.1", Kind.LOOPBACK),
            ("127.255.255.254", Kind.LOOPBACK),
            ("::1", Kind.LOOPBACK),
            ("::ffff:127.0.0.1", Kind.LOOPBACK),
            ("64:ff9b::7f00:1", Kind.LOOPBACK),
            ("2002:7f00:1::", Kind.LOOPBACK),
            ("::127.0.0.1", Kind.LOOPBACK),
            ("169.254.169.254", Kind.LINK_LOCAL),
            ("::ffff:169.254.169.254", Kind.LINK_LOCAL),
            ("fe80::1", Kind.LINK_LOCAL),
            ("fe80::1%eth0", Kind.LINK_LOCAL),
            ("10.0.0.1", Kind.PRIVATE),
            ("172.16.0.1", Kind.PRIVATE),
            ("192.168.1.1", Kind.PRIVATE),
            ("100.64.0.1", Kind.PRIVATE),
            ("198.18.0.1", Kind.PRIVATE),
            ("fd00:ec2::254", Kind.PRIVATE),
            ("fec0::1", Kind.PRIVATE),
            ("64:ff9b:1::808:808", Kind.PRIVATE),
            ("64:ff9b:1:ffff::1", Kind.PRIVATE),
            ("64:ff9b::808:808", Kind.PUBLIC),
            ("64:ff9b::a00:1", Kind.PRIVATE),
            ("::ffff:0:10.0.0.1", Kind.PRIVATE),
            ("::ffff:0:127.0.0.1", Kind.LOOPBACK),
            ("2002:a00:1::1", Kind.PRIVATE),
            ("2002:a9fe:a9fe::", Kind.LINK_LOCAL),
            ("2001:0:5ef5:79fd::1", Kind.PRIVATE),
            ("2001:db8::1", Kind.PRIVATE),
            ("2001:20::1", Kind.PRIVATE),
            ("3fff::1", Kind.PRIVATE),
            ("2606:4700::5efe:10.0.0.1", Kind.PRIVATE),
            ("2606:4700::200:5efe:127.0.0.1", Kind.LOOPBACK),
            ("192.0.0.192", Kind.PRIVATE),
            ("192.0.2.1", Kind.PRIVATE),
            ("192.88.99.1", Kind.PRIVATE),
            ("168.63.129.16", Kind.PRIVATE),
            ("100.100.100.200", Kind.PRIVATE),
            ("0.1.2.3", Kind.PRIVATE),
            ("100::1", Kind.UNUSABLE),
            ("5f00::1", Kind.UNUSABLE),
            ("4000::1", Kind.UNUSABLE),
            ("0.0.0.0", Kind.UNUSABLE),
            ("::", Kind.UNUSABLE),
            ("224.0.0.1", Kind.UNUSABLE),
            ("ff0e::1", Kind.UNUSABLE),
            ("240.0.0.1", Kind.UNUSABLE),
            ("255.255.255.255", Kind.UNUSABLE),
        ]:
            with self.subTest(address=address):
                self.assertIs(kind, kind_of(ip_address(address)))


class ListedTests(SynchronousTestCase):
    """An operator's list."""

    def test_names(self) -> None:
        """A name means itself, on every port unless one is given; a dot before it means what is below."""
        for entry, host, port, expected in [
            ("s3.internal", "s3.internal", 9000, True),
            ("S3.Internal.", "s3.internal", 443, True),
            ("s3.internal", "a.s3.internal", 443, False),
            (".s3.internal", "a.s3.internal", 443, True),
            ("*.s3.internal", "a.s3.internal", 443, True),
            (".s3.internal", "s3.internal", 443, False),
            ("s3.internal:9000", "s3.internal", 9000, True),
            ("s3.internal:9000", "s3.internal", 443, False),
            ("10.0.0.1", "10.0.0.1", 80, True),
            ("10.0.0.1:80", "10.0.0.1", 80, True),
            ("[fd00::1]:80", "fd00::1", 80, True),
            ("fd00::1", "fd00::1", 80, True),
            ("bücher.example", "xn--bcher-kva.example", 80, True),
            (".", "a.example", 80, False),
            ("", "a.example", 80, False),
            ("*", "a.example", 80, False),
            ("https://s3.internal", "s3.internal", 443, False),
        ]:
            with self.subTest(entry=entry, host=host, port=port):
                self.assertIs(expected, Listed((entry,)).names(host, port))

    def test_schemes(self) -> None:
        """An entry with a scheme is for that scheme and port, and one without says nothing of the scheme."""
        for entry, url, expected in [
            ("http://s3.internal:9000", "http://s3.internal:9000/x", True),
            ("HTTP://S3.internal:9000/", "http://s3.internal:9000/x", True),
            ("http://s3.internal:9000", "https://s3.internal:9000/x", False),
            ("http://s3.internal:9000", "http://s3.internal/x", False),
            ("http://s3.internal", "http://s3.internal/x", True),
            ("http://s3.internal", "http://s3.internal:9000/x", False),
            ("http://*.s3.internal", "http://a.s3.internal/x", True),
            ("http://[fd00::1]", "http://[fd00::1]/x", True),
            ("http://[fd00::1]:80", "http://[fd00::1]/x", True),
            ("s3.internal", "http://s3.internal/x", False),
        ]:
            with self.subTest(entry=entry, url=url):
                place = Place.of(url)
                self.assertIs(expected, Listed((entry,)).names_with_scheme(place))
                if expected:
                    self.assertTrue(Listed((entry,)).names(place.host, place.port, place.scheme))

    def test_blocks(self) -> None:
        """A block means its addresses, also when they come inside IPv6 ones."""
        listed = Listed(("10.0.0.0/8", "fd00::/16", "nonsense/8"))
        for address, expected in [
            ("10.9.9.9", True),
            ("::ffff:10.9.9.9", True),
            ("11.0.0.1", False),
            ("fd00::9", True),
            ("fd01::9", False),
        ]:
            self.assertIs(expected, listed.contains(ip_address(address)))
