"""Tests for :mod:`contentcache.config.middleware`."""

from __future__ import annotations

import os
import textwrap

from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from contentcache.config.model import Account, Gateway, Limits
from contentcache.config.show import render
from tests.config.writing import MINIMAL, ConfigurationTestCase
from tests.tls.certificates import make

_AT = "middleware.registry[0].options"
_WHOLE = """\
registry: https://internal-registry:5000
issuer: https://registry.example.com
signingkey: /nowhere/signing.pem
database: /nowhere/gateway.sqlite3
"""

READ: dict[str, dict[str, object]] = {
    "": {},
    "keylifetime: 24h": {"keylifetime": 86400.0},
    "urlttl: 1h": {"urlttl": 3600.0},
    "minimumsize: 1MiB": {"minimumsize": 1 << 20},
    "minimumsize: 0": {"minimumsize": 0},
    "admins: [alice, bob]": {"admins": ("alice", "bob")},
    "admingroup: staff": {"admingroup": "staff"},
    "account: {username: filler, password: secret}": {"account": Account("filler", "secret")},
    "networks: {10.2.3.0/16: region-us, '2001:db8::/32': eu}": {
        "networks": {"10.2.0.0/16": "region-us", "2001:db8::/32": "eu"}
    },
    "paths: [/service/token, /jwt/]": {"paths": ("/service/token", "/jwt/")},
    "realms: [auth.example.com]": {"realms": ("auth.example.com",)},
    "redirects: [10.0.0.0/8]": {"redirects": ("10.0.0.0/8",)},
    "nat64prefixes: ['2001:db8:64::/96']": {"nat64prefixes": ("2001:db8:64::/96",)},
    "authttl: 0\ncheckinterval: 1s": {"authttl": 0.0, "checkinterval": 1.0},
    "stalltimeout: 5s\nconnecttimeout: 1s": {"stalltimeout": 5.0, "connecttimeout": 1.0},
    "writetimeout: 1h": {"writetimeout": 3600.0},
    "limits: {connections: 5}": {"limits": Limits(connections=5)},
}

FAULTY = {
    "urlttl: 61m": ".urlttl: '61m' is longer than 1h, which caches refuse; write e.g. 20m",
    "urlttl: 0": ".urlttl: '0' is not more than 0",
    "keylifetime: 119m": ".keylifetime: '119m' is shorter than 2h; write e.g. 720h",
    "minimumsize: lots": ".minimumsize: 'lots' is not a size",
    "admins: alice": ".admins: 'alice' is not a list",
    "admins: ['a:b']": ".admins[0]: holds a colon, which no user name may",
    "account: {username: a}": ".account.username: has no password; give password or passwordfile",
    "account: {password: a}": ".account.username: is required in an account",
    "account: {username: a, password: b, passwordfile: /nowhere}": ".account.passwordfile: ",
    "account: {user: a, username: b, password: c}": ".account.user: unknown key; did you mean username?",
    "networks: {us: region-us}": ".networks.us: is not a network; write e.g. 10.2.0.0/16: region-us",
    "networks: {10.2.0.0/16: a, 10.2.3.4/16: b}": ".networks['10.2.3.4/16']: is given twice",
    "networks: [a]": ".networks: a list is not a mapping",
    "paths: [token]": ".paths[0]: 'token' is not a path of the registry",
    "paths: [/a/../b]": ".paths[0]: '/a/../b' is not a path of the registry",
    "cas: [ca.pem]": ".cas[0]: 'ca.pem' is a relative path",
    "blobttl: 24h": ".blobttl: unknown key",
    "minimumsise: 1": ".minimumsise: unknown key; did you mean minimumsize?",
}


def with_options(options: str, http: str = "") -> str:
    """A file that makes a gateway, whose options start on line 8 of the file."""
    head, _, _ = MINIMAL.partition("        upstreams:")
    head = head.replace("downstream", "redirect").replace('":5000"', f'":5000"{http}')
    return head + textwrap.indent(options, " " * 8)


class GatewayTests(ConfigurationTestCase):
    """The options of ``redirect``."""

    def test_read(self) -> None:
        """Every option is read into its field, has its default, and is shown as it was read but for passwords."""
        for options, fields in READ.items():
            loaded = self.load(with_options(_WHOLE + options + "\n"))
            expected = Gateway(
                "https://internal-registry:5000",
                "https://registry.example.com",
                "/nowhere/signing.pem",
                "/nowhere/gateway.sqlite3",
                **fields,  # type: ignore[arg-type]
            )
            self.assertEqual((loaded.configuration.middleware, loaded.warnings), (expected, ()), options)
            shown = render(loaded.configuration)
            self.assertNotIn("secret", shown)
            if "account" not in options:
                self.assertEqual(self.load(shown).configuration, loaded.configuration)

    def test_faulty(self) -> None:
        """Every wrong value is a fault at its place, which says what would be right."""
        for options, told in FAULTY.items():
            lines = self.told(with_options(_WHOLE + options + "\n"))
            self.assertTrue(any(line.startswith(_AT + told) for line in lines), (lines, told))

    def test_required(self) -> None:
        """What must be there is told all at once; the issuer may be ``http.host``."""
        told = self.told(with_options("urlttl: 5m\n"))
        self.assertCountEqual(
            [line.partition(": ")[0] for line in told],
            [f"{_AT}.{name}" for name in ("registry", "issuer", "signingkey", "database")],
        )
        rest = _WHOLE.replace("issuer: https://registry.example.com\n", "")
        for host, issuer in (
            ("https://r.example", "https://r.example"),
            ("r.example:5000", "http://r.example:5000"),
        ):
            loaded = self.load(with_options(rest, f", host: '{host}'"))
            middleware = loaded.configuration.middleware
            assert isinstance(middleware, Gateway)
            self.assertEqual(middleware.issuer, issuer)
        self.assert_told(with_options(rest, ", host: 'https://r.example/path'"), f"{_AT}.issuer: is required")

    def test_registry(self) -> None:
        """The gateway is not the registry, and plain HTTP is told."""
        same = _WHOLE.replace("https://internal-registry:5000", "https://registry.example.com")
        self.assert_told(with_options(same), f"{_AT}.registry: is the gateway itself")
        plain = _WHOLE.replace("https://internal-registry:5000", "http://internal-registry:5000")
        (warning,) = self.warnings(with_options(plain))
        self.assertIn("passwords too", warning)

    def test_signing_key(self) -> None:
        """A key that is there must be one on P-256."""

        def written(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey) -> str:
            return self.write(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))

        right = written(ec.generate_private_key(ec.SECP256R1()))
        os.chmod(right, 0o640)
        (warning,) = self.warnings(with_options(_WHOLE.replace("/nowhere/signing.pem", right)))
        self.assertIn("chmod 600", warning)
        os.chmod(right, 0o600)
        self.assertEqual(list(self.warnings(with_options(_WHOLE.replace("/nowhere/signing.pem", right)))), [])
        for wrong, says in (
            (written(ec.generate_private_key(ec.SECP384R1())), "is not one on P-256"),
            (written(rsa.generate_private_key(65537, 2048)), "is not one on P-256"),
            (self.write("nonsense"), "does not hold a private key"),
        ):
            (told,) = self.told(with_options(_WHOLE.replace("/nowhere/signing.pem", wrong)))
            self.assertIn(says, told)

    def test_limits_of_a_cache(self) -> None:
        """Limits that only a cache has are accepted with a warning each, and the default stays."""
        limits = (
            "limits: {manifest: 1MiB, fetches: 2, fetchwait: 1s, grants: 5, token: 1KiB, connections: 7}\n"
        )
        text = with_options(_WHOLE + limits)
        self.assertEqual(
            [warning.partition(":")[2].lstrip("0123456789: ") for warning in self.warnings(text)],
            [
                f"{_AT}.limits.{key}: has no effect on a gateway"
                for key in ("manifest", "fetches", "fetchwait", "grants")
            ],
        )
        middleware = self.load(text).configuration.middleware
        assert isinstance(middleware, Gateway)
        self.assertEqual(middleware.limits, Limits(token=1 << 10, connections=7))

    def test_both(self) -> None:
        """A cache is no gateway: only one of the two middlewares may be there."""
        text = with_options(_WHOLE) + MINIMAL.partition("  registry:\n")[2]
        fault = self.only_fault(text)
        self.assertEqual((fault.path, fault.line), ("middleware.registry[1]", 12))
        self.assertIn("downstream beside redirect", fault.message)

    def test_authority(self) -> None:
        """``http.tls.ca`` is a file with a certificate."""
        made = make("gateway")
        pem, key = self.write(made.pem), self.write(made.key_pem())
        loaded = self.load(
            with_options(_WHOLE, f", tls: {{certificate: '{pem}', key: '{key}', ca: '{pem}'}}")
        )
        tls = loaded.configuration.http.tls
        assert tls is not None
        self.assertEqual(tls.ca, pem)
