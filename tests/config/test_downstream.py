"""Tests for :mod:`contentcache.config.downstream`."""

from __future__ import annotations

import json

import attrs
from cryptography.hazmat.primitives.asymmetric import ec

from contentcache.config.model import Downstream, Limits, Signing
from contentcache.config.schema.options import keys_of
from contentcache.jose.keyset import encode_jwk
from tests.config.writing import MINIMAL, ConfigurationTestCase, with_options

_UP = "upstreams: ['https://a.example']\n"
_AT = "middleware.registry[0].options"

READ: dict[str, dict[str, object]] = {
    "": {},
    "blobttl: 24h": {"blobttl": 86400.0},
    "blobttl: 86400000000000": {"blobttl": 86400.0},
    "blobttl: '86400000000000'": {"blobttl": 86400.0},
    "blobttl: 3s": {"blobttl": 3.0, "sweepinterval": 1.0},
    "blobttl: 20s": {"blobttl": 20.0, "sweepinterval": 5.0},
    "blobttl: 20s\nsweepinterval: 500ms": {"blobttl": 20.0, "sweepinterval": 0.5},
    "sweepinterval: 5s": {"sweepinterval": 5.0},
    "authttl: 0": {"authttl": 0.0},
    "affirmttl: 0s": {"affirmttl": 0.0},
    "staleiferror: 1h": {"staleiferror": 3600.0},
    "nat64prefixes: ['2001:DB8:64::/96']": {"nat64prefixes": ("2001:db8:64::/96",)},
    "stalltimeout: 5s\nconnecttimeout: 1s": {"stalltimeout": 5.0, "connecttimeout": 1.0},
    "keepdeleted: on": {"keepdeleted": True},
    "maxsize: 500GB": {"maxsize": 500 * 10**9},
    "maxsize: 1048576": {"maxsize": 1 << 20},
    "minfree: 0": {"minfree": 0},
    "fetchesperhost: 4": {"fetchesperhost": 4},
    "scrub: 720h": {"scrub": 2_592_000.0},
    "fastpath: auto": {"fastpath": True},
    "fastpath: off": {"fastpath": False},
    "fastpath: 'off'": {"fastpath": False},
    "minfree: 64kib": {"minfree": 65536},
    "limits:": {},
    "limits: {manifest: 8MiB, fetches: 5, fetchwait: 2s}": {
        "limits": Limits(manifest=8 << 20, fetches=5, fetchwait=2.0)
    },
}

FAULTY = {
    "blobttl: 24hours": ".blobttl: '24hours' is not a duration; write e.g. 24h or 1h30m",
    "blobttl: 0": ".blobttl: '0' is not more than 0; write e.g. 24h or 1h30m",
    "blobttl: -24h": ".blobttl: '-24h' is not more than 0; write e.g. 24h or 1h30m",
    "blobttl: -5": ".blobttl: '-5' is not more than 0; write e.g. 24h or 1h30m",
    "blobttl: 1.5": ".blobttl: '1.5' is not a duration; write e.g. 24h or 1h30m",
    "blobttl: 1d": ".blobttl: '1d' is not a duration; write e.g. 24h or 1h30m",
    "blobttl: ''": ".blobttl: '' is not a duration; write e.g. 24h or 1h30m",
    "blobttl: true": ".blobttl: 'true' is not a duration; write e.g. 24h or 1h30m",
    "blobttl: [24h]": ".blobttl: a list stands where a single value belongs",
    "blobttl: 9999999h": ".blobttl: '9999999h' is too long a duration; the longest is about 292 years",
    "blobttl: " + "9" * 5000: ".blobttl: '" + "9" * 60 + "...' is too long a duration",
    "blobttll: 24h": ".blobttll: unknown key; did you mean blobttl?",
    "BlobTTL: 24h": ".BlobTTL: unknown key; did you mean blobttl?",
    "workers: 2": ".workers: unknown key",
    "authttl: -1s": ".authttl: '-1s' is not 0 or more; write e.g. 24h or 1h30m",
    "affirmttl: x": ".affirmttl: 'x' is not a duration; write e.g. 24h or 1h30m",
    "staleiferror: -1ns": ".staleiferror: '-1ns' is not 0 or more; write e.g. 24h or 1h30m",
    "sweepinterval: 0": ".sweepinterval: '0' is not more than 0; write e.g. 24h or 1h30m",
    "stalltimeout: 0": ".stalltimeout: '0' is not more than 0; write e.g. 24h or 1h30m",
    "nat64prefixes: [10.0.0.0/8]": ".nat64prefixes[0]: '10.0.0.0/8' is not a range of IPv6 addresses",
    "connecttimeout: 0": ".connecttimeout: '0' is not more than 0; write e.g. 24h or 1h30m",
    "keepdeleted: maybe": ".keepdeleted: 'maybe' is not a boolean; write true or false",
    "maxsize: 0": ".maxsize: '0' is less than one byte; write e.g. 500GB or 2TiB",
    "maxsize: 5G": ".maxsize: '5G' is not a size; write 5GB (powers of 1000) or 5GiB (of 1024)",
    "maxsize: lots": ".maxsize: 'lots' is not a size",
    "maxsize: -5GB": ".maxsize: '-5GB' is not a size",
    "minfree: {a: b}": ".minfree: a mapping stands where a single value belongs",
    "fetchesperhost: 0": ".fetchesperhost: '0' is not a whole number of at least 1",
    "fetchesperhost: many": ".fetchesperhost: 'many' is not a whole number of at least 1",
    "fetchperhost: 4": ".fetchperhost: unknown key; did you mean fetchesperhost?",
    "fastpath: true": ".fastpath: 'true' is not one of auto, off",
    "scrub: 0": ".scrub: '0' is not more than 0; write e.g. 24h or 1h30m",
    "scrub: true": ".scrub: 'true' is not a duration; write e.g. 24h or 1h30m",
    "scrub: 30d": ".scrub: '30d' is not a duration; write e.g. 24h or 1h30m",
    "limits: 5": ".limits: '5' is not a mapping of keys to values",
    "limits: {fetches: 0}": ".limits.fetches: '0' is not a whole number of at least 1",
    "limits: {fetches: 1.5}": ".limits.fetches: '1.5' is not a whole number of at least 1",
    "limits: {manifest: 0}": ".limits.manifest: '0' is less than one byte; write e.g. 500GB or 2TiB",
    "limits: {clientstall: 0}": ".limits.clientstall: '0' is not more than 0",
    "limits: {fetch: 5}": ".limits.fetch: unknown key; did you mean fetches?",
    "signing: {jwks: x}": ".signing.jwks: 'x' cannot be read: No such file or directory",
    "signing: {issuer: x}": ".signing.issuer: 'x' is not a URL of http or https",
    "fallbacktoorigin: 'no'": ".fallbacktoorigin: 'no' in quotes is a text, not a boolean",
}

MIDDLEWARES = {
    "middleware: {}": ".registry: has no middleware named downstream",
    "": ".registry: has no middleware named downstream",
    "middleware: {registry: []}": ".registry: has no middleware named downstream",
    "middleware: downstream": ": 'downstream' is not a mapping of keys to values",
    "middleware: {registry: {name: downstream}}": ".registry: a mapping is not a list",
    "middleware: {registry: [{name: downstrem}]}": ".registry[0].name: unknown middleware 'downstrem'; did",
    "middleware: {registry: [{options: {}}]}": ".registry[0].name: is required; write e.g. downstream",
    "middleware: {registry: [downstream]}": ".registry[0]: 'downstream' is not a mapping of keys to values",
    "middleware: {storage: [{name: redirect}]}": ".storage[0].name: 'redirect' is a middleware that this",
    "middleware: {registry: [{name: cloudfront}]}": ".registry[0].name: 'cloudfront' is a middleware that",
    "middleware: {registry: [{name: redirect, disabled: true}]}": ".registry[0]: disabled: true on redirect",
    "middleware: {storage: [{name: cloudfront}]}": ".storage[0].name: 'cloudfront' is a middleware that",
    "middleware: {repository: [{name: downstream}]}": ".repository[0].name: unknown middleware",
    "middleware: {registy: []}": ".registy: unknown key; did you mean registry?",
    "middleware: {registry: [{name: downstream, disabled: true}]}": ".registry[0]: disabled: true on",
    "middleware: {registry: [{name: downstream, option: {}}]}": ".registry[0].option: unknown key; did you",
    "middleware: {registry: [{name: downstream, options: []}]}": ".registry[0].options: a list is not a",
}


class OptionsTests(ConfigurationTestCase):
    """The options but for ``upstreams``."""

    def test_read(self) -> None:
        """Every option is read into its field, and has its default."""
        for options, fields in READ.items():
            found = self.downstream(_UP + options)
            self.assertEqual(found, Downstream(upstreams=found.upstreams, **fields), options)  # type: ignore[arg-type]

    def test_faulty(self) -> None:
        """Every wrong value is one fault at its place, which says what would be right."""
        for options, told in FAULTY.items():
            self.assert_told(with_options(_UP + options), _AT + told)
            self.assertEqual(self.only_fault(with_options(_UP + options)).line, 9)

    def test_blobttl_needs_delete(self) -> None:
        """Nothing may expire unless deletion is enabled, by a real boolean."""
        text = with_options(_UP + "blobttl: 24h")
        for delete in ("", "delete: , ", "delete: {enabled: false}, "):
            fault = self.only_fault(text.replace(", delete: {enabled: true}", ", " + delete))
            self.assertEqual((fault.path, fault.line), (f"{_AT}.blobttl", 9))
            self.assertIn("needs storage.delete.enabled: true", fault.message)
        told = self.told(text.replace("enabled: true", "enabled: 'true'"))
        self.assertEqual([line.split(":")[0] for line in told], ["storage.delete.enabled", f"{_AT}.blobttl"])

    def test_nanoseconds(self) -> None:
        """Few digits without a unit are most likely a mistake, and a warning says so."""
        warnings = self.warnings(with_options(_UP + "blobttl: 24"))
        self.assertEqual(warnings, [f"9: {_AT}.blobttl: '24' without a unit is nanoseconds; write e.g. 24h"])

    def test_limits(self) -> None:
        """Every field of the limits can be set, and no other."""
        self.assertEqual(set(keys_of(Limits)), {field.name for field in attrs.fields(Limits)})
        for name in keys_of(Limits):
            default, given = (
                getattr(limits, name) for limits in (Limits(), self.limits(f"{name}: 1000000000000"))
            )
            self.assertNotEqual(given, default)

    def limits(self, keys: str) -> Limits:
        """The limits of a file with these keys."""
        return self.downstream(f"{_UP}limits: {{{keys}}}").limits


class SigningTests(ConfigurationTestCase):
    """The option ``signing``."""

    def test_read(self) -> None:
        """The file must hold a key that can verify; those that cannot are told in one warning."""
        good = encode_jwk(ec.generate_private_key(ec.SECP256R1()).public_key(), "a")
        path = self.write(json.dumps({"keys": [good]}))
        self.assertEqual(self.downstream(f"{_UP}signing: {{jwks: {path}}}").signing, Signing(path))
        path = self.write(json.dumps({"keys": [good, {"kty": "oct", "kid": "b", "k": "topsecret"}]}))
        warnings = self.warnings(with_options(f"{_UP}signing: {{jwks: {path}}}"))
        self.assertEqual(len(warnings), 1)
        self.assertIn("has keys that are passed over: keys[1]: 'kty' is 'oct'", warnings[0])
        self.assertNotIn("topsecret", warnings[0])

    def test_refused(self) -> None:
        """A file without a key that can verify is a fault, which repeats nothing secret."""
        for content in (
            "",
            "topsecret",
            "[]",
            '{"keys": []}',
            '{"keys": [{"kty": "oct", "k": "topsecret"}]}',
        ):
            fault = self.only_fault(with_options(f"{_UP}signing: {{jwks: {self.write(content)}}}"))
            self.assertEqual((fault.path, fault.line), (f"{_AT}.signing.jwks", 9))
            self.assertNotIn("topsecret", fault.message)

    def test_idle_issuer(self) -> None:
        """Where ``originhost`` says who signs, another issuer has no effect, and a warning says so."""
        text = with_options("upstreams: [{originhost: 'https://a'}]\nsigning: {issuer: 'https://b'}")
        self.assertIn("signing.issuer: has no effect: originhost says who signs", self.warnings(text)[0])


class MiddlewareTests(ConfigurationTestCase):
    """The section ``middleware``."""

    def test_faulty(self) -> None:
        """None, a disabled one, foreign ones and wrongly built ones are faults."""
        head = MINIMAL.partition("middleware:")[0]
        for text, told in MIDDLEWARES.items():
            beginning = f"middleware{told}"
            self.assertTrue(
                any(line.startswith(beginning) for line in self.told(head + text)), self.told(head + text)
            )

    def test_two(self) -> None:
        """A second downstream is a fault, at its own line."""
        again = MINIMAL.partition("  registry:\n")[2]
        fault = self.only_fault(MINIMAL + again)
        self.assertEqual((fault.path, fault.line), ("middleware.registry[1]", 9))
        self.assertIn("exactly one", fault.message)

    def test_disabled(self) -> None:
        """``disabled: false`` changes nothing, and a disabled one beside another is not there."""
        self.load(MINIMAL.replace("name: downstream", "name: downstream\n      disabled: false"))
        self.load(MINIMAL + "    - {name: downstream, disabled: true, options: {nonsense: 1}}\n")
        self.load(MINIMAL + "    - {name: redirect, disabled: true}\n")
