"""Tests for :mod:`contentcache.config.http`."""

from __future__ import annotations

from contentcache.config.model import Address, Debug, Http, ServerTLS
from tests.config.writing import MINIMAL, ConfigurationTestCase
from tests.tls.certificates import make

_HTTP = 'http: {addr: ":5000"}'

ADDRESSES = {
    '":5000"': Address("", 5000),
    "localhost:5000": Address("localhost", 5000),
    "127.0.0.1:443": Address("127.0.0.1", 443),
    '"[::1]:5000"': Address("::1", 5000),
    "Cache.Example.com:5000": Address("cache.example.com", 5000),
    '":0"': Address("", 0),
}

FAULTY_ADDRESSES = (
    "5000",
    "localhost",
    '":http"',
    '":65536"',
    '":-1"',
    '"::1:5000"',
    '":"',
    '"[::1:5000"',
    "'[::g]:5000'",
    "a b:5000",
    "256.1.1.1:5000",
    "[5000]",
    "{a: b}",
    "yes",
    "':" + "9" * 5000 + "'",
    "':5000:5000'",
)

READ = {
    "net: tcp": {},
    "prefix: /cache/": {"prefix": "/cache/"},
    "prefix: ''": {},
    "prefix: /": {},
    "host: https://Cache.Example.com:443/": {"host": "https://cache.example.com"},
    "host: cache.example.com:8443": {"host": "cache.example.com:8443"},
    "draintimeout: 30s": {"draintimeout": 30.0},
    "draintimeout: 0": {},
    "headers: {X-Content-Type-Options: [nosniff], X-None: [], X-Yes: [yes, yes]}": {
        "headers": {"X-Content-Type-Options": ("nosniff",), "X-None": (), "X-Yes": ("yes", "yes")}
    },
    "tls:": {},
    "debug: {addr: 'localhost:5001'}": {"debug": Debug(Address("localhost", 5001))},
    "debug: {addr: ':5001', prometheus: {enabled: true}}": {"debug": Debug(Address("", 5001), "/metrics")},
    "debug: {addr: ':5001', prometheus: {enabled: true, path: /m/x}}": {
        "debug": Debug(Address("", 5001), "/m/x")
    },
    "debug: {addr: ':5001', names: true, hosts: [cache.internal, 'metrics:5001']}": {
        "debug": Debug(Address("", 5001), None, True, ("cache.internal", "metrics:5001"))
    },
    "admin: /run/cache/admin.sock": {"admin": "/run/cache/admin.sock"},
    "debug: {addr: ':5001', prometheus: {path: /m}}": {"debug": Debug(Address("", 5001))},
}

FAULTY = {
    "net: udp": "http.net: 'udp' is not one of tcp, unix",
    "prefix: cache": "http.prefix: 'cache' is not a prefix of paths; it needs a slash at both ends, e.g.",
    "prefix: /a/../": None,
    "prefix: /a//b/": None,
    "host: 'https://u:topsecret@h'": "http.host: the URL holds a user name or a password; use the keys",
    "host: 'ftp://h'": "http.host: 'ftp://h' is not a URL of http or https; write e.g.",
    "draintimeout: -1s": "http.draintimeout: '-1s' is not 0 or more; write e.g. 24h or 1h30m",
    "draintimeout: soon": "http.draintimeout: 'soon' is not a duration; write e.g. 24h or 1h30m",
    "headers: {X: nosniff}": "http.headers.X: 'nosniff' is not a list; put it in brackets: [...]",
    "headers: {'a b': [c]}": "http.headers['a b']: is not the name of a header",
    "headers: {Content-Length: ['5']}": "http.headers.Content-Length: is a header that frames messages; it",
    'headers: {X: ["a\\r\\nB: c"]}': "http.headers.X[0]: 'a\\r\\nB: c' is not a value of a header:",
    "headers: {X: [{a: b}]}": "http.headers.X[0]: a mapping stands where a single value belongs",
    "headers: [X]": "http.headers: a list is not a mapping of keys to values",
    "debug: {prometheus: {enabled: true}}": "http.debug.addr: is required where prometheus is enabled;",
    "debug: {addr: ':5000'}": "http.debug.addr: is the address of http.addr; give it a port of its own",
    "debug: {addr: ':5001', prometheus: {enabled: true, path: metrics}}": "http.debug.prometheus.path:",
    "debug: {addr: nowhere}": "http.debug.addr: 'nowhere' is not an address to listen on; write e.g. :5000,",
    "draintime: 5s": "http.draintime: unknown key; did you mean draintimeout?",
}

FAULTY_TLS = {
    "certificate: CERT": "http.tls.key: is required where certificate is given",
    "key: KEY": "http.tls.certificate: is required where key is given",
    "minimumtls: tls1.2": "http.tls.certificate: is required, and a key, where there is a section tls",
    "clientcas: [CA]": "http.tls.certificate: is required, and a key, where there is a section tls",
    "certificate: /nope, key: KEY": "http.tls.certificate: '/nope' cannot be read: No such file or",
    "certificate: CERT, key: OTHER": "http.tls.key: 'OTHER' is not the key of the certificate in 'CERT'",
    "certificate: CERT, key: LOCKED": "http.tls.key: the key in 'LOCKED' is encrypted; store it without a",
    "certificate: CERT, key: CERT": "http.tls.key: 'CERT' does not hold a private key in PEM",
    "certificate: KEY, key: KEY": "http.tls.certificate: 'KEY' does not hold certificates in PEM, or a",
    "certificate: CERT, key: KEY, clientcas: [KEY]": "http.tls.clientcas[0]: 'KEY' does not hold",
    "certificate: CERT, key: KEY, clientcas: CA": "http.tls.clientcas: '",
    "certificate: CERT, key: KEY, clientcas: [CA], clientauth: maybe": None,
    "certificate: CERT, key: KEY, minimumtls: tls1.4": "http.tls.minimumtls: 'tls1.4' is not one of tls1.0,",
    "certificate: CERT, key: KEY, ciphersuites: [TLS_AES_128_GCM_SHA25]": "http.tls.ciphersuites[0]:",
}


class HttpTests(ConfigurationTestCase):
    """``http`` but for ``http.tls``."""

    def http(self, keys: str) -> str:
        """The minimal file with more keys in ``http``."""
        return MINIMAL.replace(_HTTP, f'http: {{addr: ":5000", {keys}}}')

    def test_addresses(self) -> None:
        """Every form of address is read."""
        for written, address in ADDRESSES.items():
            loaded = self.load(MINIMAL.replace('":5000"', written))
            self.assertEqual(loaded.configuration.http.addr, address)

    def test_faulty_addresses(self) -> None:
        """What is not an address is one fault at its place."""
        for written in FAULTY_ADDRESSES:
            fault = self.only_fault(MINIMAL.replace('":5000"', written))
            self.assertEqual((fault.path, fault.line), ("http.addr", 3), written[:40])

    def test_required(self) -> None:
        """Without an address there is nothing to do, and the section's line is told where there is one."""
        for text, line in (
            (MINIMAL.replace(_HTTP, ""), None),
            (MINIMAL.replace(_HTTP, "http: {net: tcp}"), 3),
        ):
            fault = self.only_fault(text)
            self.assertEqual((fault.path, fault.line), ("http.addr", line))
            self.assertEqual(fault.message, "is required; write e.g. :5000")

    def test_unix(self) -> None:
        """With ``net: unix`` the address is a path, as long as the kernel takes."""
        loaded = self.load(MINIMAL.replace(_HTTP, "http: {net: unix, addr: /run/cache.sock}"))
        self.assertEqual(loaded.configuration.http.addr, Address("", 0, "/run/cache.sock"))
        fault = self.only_fault(MINIMAL.replace(_HTTP, "http: {net: unix, addr: /" + "a" * 107 + "}"))
        self.assertEqual(fault.path, "http.addr")

    def test_read(self) -> None:
        """Every other key is read into its field."""
        for keys, fields in READ.items():
            loaded = self.load(self.http(keys))
            self.assertEqual(loaded.configuration.http, Http(addr=Address("", 5000), **fields), keys)  # type: ignore[arg-type]
            self.assertEqual(loaded.warnings, ())

    def test_faulty(self) -> None:
        """Every wrong value is one fault, and none repeats a password."""
        for keys, told in FAULTY.items():
            self.assert_told(self.http(keys), told or "http.prefix: ")
            self.assertNotIn("topsecret", self.only_fault(self.http(keys)).message)

    def test_idle(self) -> None:
        """What cannot matter is accepted with a warning for each; the protocols have one between them."""
        warnings = self.warnings(
            self.http("secret: s3cret, relativeurls: true, http2: {disabled: true}, h2c: {enabled: true}")
        )
        self.assertEqual(
            warnings,
            [
                "3: http.secret: has no effect on a cache",
                "3: http.relativeurls: has no effect on a cache",
                "3: http.http2: has no effect: only HTTP/1.1 is offered",
            ],
        )


class TLSTests(ConfigurationTestCase):
    """``http.tls``."""

    def setUp(self) -> None:
        """Make a pair, another one, and a locked key."""
        authority, pair, other = make("ca", authority=True), make("cache"), make("other")
        self.files = {
            "CERT": self.write(pair.pem + authority.pem),
            "KEY": self.write(pair.key_pem()),
            "OTHER": self.write(other.key_pem()),
            "LOCKED": self.write(pair.key_pem(b"passphrase")),
            "CA": self.write(authority.pem + other.pem),
        }

    def tls(self, keys: str) -> str:
        """The minimal file with a section ``tls``."""
        return MINIMAL.replace(_HTTP, f'http: {{addr: ":5000", tls: {{{self.filled(keys)}}}}}')

    def filled(self, text: str) -> str:
        """A text with the paths of the files in place of their names."""
        for name, path in self.files.items():
            text = text.replace(name, path)
        return text

    def test_read(self) -> None:
        """All keys are read; a chain may follow the certificate."""
        suites = "ciphersuites: [TLS_AES_128_GCM_SHA256, TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384]"
        keys = "certificate: CERT, key: KEY, clientcas: [CA], clientauth: verify-client-cert-if-given"
        loaded = self.load(self.tls(f"{keys}, minimumtls: tls1.3, {suites}"))
        self.assertEqual(loaded.warnings, ())
        self.assertEqual(
            loaded.configuration.http.tls,
            ServerTLS(
                certificate=self.files["CERT"],
                key=self.files["KEY"],
                clientcas=(self.files["CA"],),
                clientauth="verify-client-cert-if-given",
                minimumtls="tls1.3",
                ciphersuites=("TLS_AES_128_GCM_SHA256", "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384"),
            ),
        )

    def test_faulty(self) -> None:
        """Half a pair, a wrong pair, a broken file, a wrong word: one fault each."""
        for keys, told in FAULTY_TLS.items():
            self.assert_told(self.tls(keys), self.filled(told or "http.tls.clientauth: "))

    def test_retired_versions(self) -> None:
        """TLS 1.0 and 1.1 are taken as 1.2, with a warning."""
        for version in ("tls1.0", "tls1.1"):
            loaded = self.load(self.tls(f"certificate: CERT, key: KEY, minimumtls: {version}"))
            assert loaded.configuration.http.tls is not None
            self.assertEqual(loaded.configuration.http.tls.minimumtls, "tls1.2")
            self.assertEqual(len(loaded.warnings), 1)

    def test_idle_clientauth(self) -> None:
        """How to judge certificates of clients means nothing without their authorities."""
        warnings = self.warnings(self.tls("certificate: CERT, key: KEY, clientauth: request-client-cert"))
        self.assertEqual(warnings, ["3: http.tls.clientauth: has no effect without clientcas"])
