"""Tests for :mod:`contentcache.config.http`."""

from __future__ import annotations

from pathlib import Path

import yaml

from contentcache.config.model import Address, ExternalAccount, LetsEncrypt
from contentcache.config.show import render
from tests.config.writing import MINIMAL, ConfigurationTestCase
from tests.tls.certificates import make

_HTTP = 'http: {addr: ":5000"}'
_ACME = "https://acme.example/dir"

#: As such it is short enough to be certified.
_LONG = f"{'ü' * 25}.{'ü' * 25}.example"

#: Keys beside ``cachefile`` and ``hosts``, and what they set.
READ = {
    "email: ops@example.com": {"email": "ops@example.com"},
    "email: 'mailto:ops@example.com'": {"email": "ops@example.com"},
    f"directoryurl: {_ACME}": {"directoryurl": _ACME},
    "directoryurl: https://acme.example/acme/v2/": {"directoryurl": "https://acme.example/acme/v2"},
    "http: ':80'": {"http": Address("", 80)},
    "http: ':80', challenge: http-01": {"http": Address("", 80), "challenge": "http-01"},
    "challenge: tls-alpn-01": {"challenge": "tls-alpn-01"},
    "eab: {kid: one, hmackey: c2VjcmV0}": {"eab": ExternalAccount("one", b"secret")},
    "eab: {kid: one, hmackey: 'c2VjcmV0IQ=='}": {"eab": ExternalAccount("one", b"secret!")},
    "profile: shortlived": {"profile": "shortlived"},
    "lifetime: 24h": {"lifetime": 86400.0},
}

FAULTY = {
    "hosts: [a.example]": "cachefile: is required; write e.g. /var/lib/contentcache/acme",
    "cachefile: /c": "hosts: is required: without it anybody could have certificates made for any name",
    "cachefile: /c, hosts: []": "hosts: is required: without it",
    "cachefile: /c, hosts: a.example": "hosts: 'a.example' is not a list",
    "cachefile: /c, hosts: ['*.a.example']": "hosts[0]: '*.a.example' is a wildcard, which needs",
    "cachefile: /c, hosts: ['a.example:443']": "hosts[0]: 'a.example:443' has a port",
    "cachefile: /c, hosts: [192.0.2.1]": "hosts[0]: '192.0.2.1' is an address",
    "cachefile: /c, hosts: ['[::1]']": "hosts[0]: '[::1]' is an address",
    "cachefile: /c, hosts: ['::1']": "hosts[0]: '::1' is an address; certificates are for names",
    "cachefile: /c, hosts: [localhost]": "hosts: 'localhost' is no name of the public DNS, and Let's",
    "cachefile: /c, hosts: [a.example, Cache]": "hosts: 'cache' is no name of the public DNS",
    f"cachefile: /c, hosts: ['{_LONG}']": f"hosts[0]: '{_LONG}' is xn--tdaaaa",
    "cachefile: /c, hosts: [a.example], profile: 5": "profile: '5' is not the name of a profile; write e.g.",
    "cachefile: /c, hosts: [a.example], directoryurl: 'https://me:secret@a.example/dir'": (
        "directoryurl: the URL holds a user name or a password; an ACME server knows you by the key of your"
    ),
    "cachefile: /c, hosts: [../a]": "hosts[0]: '../a' is not a host",
    "cachefile: /c, hosts: [a_b.example]": "hosts[0]: 'a_b.example' is not a host name that can be certified",
    "cachefile: /c, hosts: [-a.example]": "hosts[0]: '-a.example' is not a host name: each part begins",
    "cachefile: /c, hosts: ['a.example b.example']": "hosts[0]: 'a.example b.example' is not one host name",
    "cachefile: /c, hosts: [a.example, 'a.-b.example']": "hosts[1]: 'a.-b.example' is not a host name: each",
    "cachefile: /c, hosts: [a.example], email: 'x:a@b.example'": "email: '***@b.example' is not an address",
    f"cachefile: /c, hosts: [{'a' * 60}.example]": f"hosts[0]: '{'a' * 60}...' is longer than",
    "cachefile: /c, hosts: [a.example, A.example]": "hosts[1]: 'A.example' is given twice",
    "cachefile: /, hosts: [a.example]": "cachefile: '/' is no folder",
    "cachefile: /proc/self/acme, hosts: [a.example]": "cachefile: '/proc/self/acme' keeps no files; write",
    "cachefile: /c, hosts: [a.example], email: nobody": "email: 'nobody' is not an address for mail",
    "cachefile: /c, hosts: [a.example], email: 'a@b?x=1'": "email: ",
    "cachefile: /c, hosts: [a.example], directoryurl: nowhere": "directoryurl: 'nowhere' is not a URL",
    "cachefile: /c, hosts: [a.example], directoryca: /nope.pem": "directoryca: '/nope.pem' cannot be read",
    "cachefile: /c, hosts: [a.example], http: ':5000'": "http: is the address of http.addr",
    "cachefile: /c, hosts: [a.example], challenge: http-01": "http: is required for the challenge http-01",
    "cachefile: /c, hosts: [a.example], challenge: dns-01": "challenge: 'dns-01' is not one of tls-alpn-01",
    "cachefile: /c, hosts: [a.example], eab: {kid: one}": "eab.hmackey: is required where kid is given",
    "cachefile: /c, hosts: [a.example], eab: {hmackey: c2VjcmV0}": "eab.kid: is required where hmackey",
    "cachefile: /c, hosts: [a.example], eab: {kid: one, hmackey: '$$'}": "eab.hmackey: is not a key",
    "cachefile: /c, hosts: [a.example], lifetime: 0": "lifetime: '0' is not more than 0",
    "cachefile: /c, hosts: [a.example], mail: a@b.c": "mail: unknown key; did you mean email?",
}


def with_letsencrypt(keys: str, beside: str = "") -> str:
    """The minimal file with the section."""
    return MINIMAL.replace(_HTTP, f'http: {{addr: ":5000", tls: {{letsencrypt: {{{keys}}}{beside}}}}}')


class LetsEncryptTests(ConfigurationTestCase):
    """``http.tls.letsencrypt``."""

    def read(self, keys: str) -> LetsEncrypt:
        """What a section without faults gives."""
        tls = self.load(with_letsencrypt(keys)).configuration.http.tls
        assert tls is not None
        assert tls.letsencrypt is not None
        self.assertEqual((tls.certificate, tls.key), ("", ""))
        return tls.letsencrypt

    def test_read(self) -> None:
        """Every key is read."""
        self.assertEqual(
            self.read("cachefile: /c/, hosts: [Cache.Example.com]"), LetsEncrypt("/c", ("cache.example.com",))
        )
        for keys, expected in READ.items():
            self.assertEqual(
                self.read(f"cachefile: /c, hosts: [a.example], {keys}"),
                LetsEncrypt("/c", ("a.example",), **expected),  # type: ignore[arg-type]
            )

    def test_names(self) -> None:
        """Names with other letters are taken in ASCII; an authority of one's own may know single words."""
        for hosts, more, expected in (
            ("München.example", "", "xn--mnchen-3ya.example"),
            ("xn--mnchen-3ya.example", "", "xn--mnchen-3ya.example"),
            ("localhost", f", directoryurl: {_ACME}", "localhost"),
        ):
            self.assertEqual(self.read(f"cachefile: /c, hosts: [{hosts}]{more}").hosts, (expected,))

    def test_warned(self) -> None:
        """What works, and may not be what was meant, is told."""
        for keys, told in (
            (
                "cachefile: /c, hosts: [a.example], directoryurl: 'http://a.example/dir'",
                "over http anyone on the line",
            ),
            (
                "cachefile: acme, hosts: [a.example]",
                "acme is a relative path: it starts at the folder in which",
            ),
        ):
            [warning] = self.warnings(with_letsencrypt(keys))
            self.assertIn(told, warning)

    def test_faulty(self) -> None:
        """Each fault is told once, where it is."""
        for keys, told in FAULTY.items():
            self.assert_told(with_letsencrypt(keys), f"http.tls.letsencrypt.{told}")

    def test_empty(self) -> None:
        """A section with nothing in it is told, unless there are files."""
        for written in ("", "cachefile: , hosts: "):
            self.assert_told(
                with_letsencrypt(written), "http.tls.letsencrypt: is empty; it needs cachefile and hosts"
            )
        made = make("cache")
        certificate, key = self.write(made.pem), self.write(made.key_pem())
        self.load(with_letsencrypt("", f", certificate: {certificate}, key: {key}"))

    def test_among_blobs(self) -> None:
        """Certificates are not kept among blobs."""
        root = yaml.safe_load(MINIMAL)["storage"]["filesystem"]["rootdirectory"]
        self.assert_told(
            with_letsencrypt(f"cachefile: {root}/, hosts: [a.example]"),
            "http.tls.letsencrypt.cachefile: is the folder of storage.filesystem.rootdirectory",
        )

    def test_below_a_file(self) -> None:
        """No folder can be below a file."""
        path = self.write("")
        self.assert_told(
            with_letsencrypt(f"cachefile: {path}/a/b, hosts: [a.example]"), "http.tls.letsencrypt.cachefile: "
        )

    def test_beside_files(self) -> None:
        """It cannot stand beside files; other keys of the section may."""
        made = make("cache")
        certificate, key = self.write(made.pem), self.write(made.key_pem())
        keys = "cachefile: /c, hosts: [a.example]"
        told = self.told(with_letsencrypt(keys, f", certificate: {certificate}, key: {key}"))
        words = "cannot stand beside letsencrypt; give either files or letsencrypt"
        self.assertEqual(told, [f"http.tls.certificate: {words}", f"http.tls.key: {words}"])
        self.load(with_letsencrypt(keys, f", clientcas: [{certificate}], minimumtls: tls1.3"))

    def test_unix(self) -> None:
        """A Unix socket cannot answer ``tls-alpn-01``."""
        text = with_letsencrypt("cachefile: /c, hosts: [a.example]").replace('":5000"', '"/s", net: unix')
        self.assert_told(text, "http.tls.letsencrypt.http: is required where http.net is unix")
        text = text.replace("hosts:", "http: ':80', challenge: tls-alpn-01, hosts:")
        self.assert_told(text, "http.tls.letsencrypt.challenge: tls-alpn-01 needs a port")

    def test_file_of_old(self) -> None:
        """Where the path is that of a file, as version 2.8 has it, the folder is beside it, and that is told."""
        path = self.write("{}")
        text = with_letsencrypt(f"cachefile: {path}, hosts: [a.example]")
        tls = self.load(text).configuration.http.tls
        assert tls is not None
        assert tls.letsencrypt is not None
        self.assertEqual(tls.letsencrypt.directory, f"{path}.d")
        [warning] = self.warnings(text)
        self.assertIn("is a file, as in version 2.8; it stays as it is", warning)
        self.assertEqual(Path(path).read_text(), "{}")

    def test_cipher_suites(self) -> None:
        """Suites that only RSA keys have would leave TLS 1.2 without any, which is told."""
        keys = "cachefile: /c, hosts: [a.example]"
        for suites, told in (
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256", 1),
            ("TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256, TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256", 0),
            ("TLS_AES_128_GCM_SHA256", 0),
        ):
            text = with_letsencrypt(keys, f", ciphersuites: [{suites}]")
            self.assertEqual(len(self.warnings(text)), told, suites)

    def test_environment(self) -> None:
        """Every key can be set in the environment, the secret one too."""
        beginning = "REGISTRY_HTTP_TLS_LETSENCRYPT_"
        environ = {
            "CACHEFILE": "/c",
            "HOSTS": "[a.example]",
            "HTTP": ":80",
            "CHALLENGE": "http-01",
            "EAB_KID": "one",
            "EAB_HMACKEY": "c2VjcmV0",
            "PROFILE": "shortlived",
            "LIFETIME": "24h",
            "DIRECTORYURL": _ACME,
            "DIRECTORYCA": self.write(make("ca", authority=True).pem),
        }
        loaded = self.load(MINIMAL, {beginning + name: value for name, value in environ.items()})
        tls = loaded.configuration.http.tls
        assert tls is not None
        assert tls.letsencrypt is not None
        self.assertEqual(tls.letsencrypt.eab, ExternalAccount("one", b"secret"))
        self.assertEqual(tls.letsencrypt.lifetime, 86400.0)

    def test_shown(self) -> None:
        """The configuration in effect shows it without the key, and can be read again."""
        keys = (
            "cachefile: /c, hosts: [a.example], eab: {kid: one, hmackey: c2VjcmV0}, http: ':80',"
            " lifetime: 24h, email: a@b.example, challenge: http-01, profile: shortlived"
        )
        configuration = self.load(with_letsencrypt(keys)).configuration
        self.assertNotIn("secret", repr(configuration))
        shown = render(configuration)
        self.assertNotIn("c2VjcmV0", shown)
        tree = yaml.safe_load(shown)
        self.assertEqual(tree["http"]["tls"]["letsencrypt"]["eab"], {"kid": "one", "hmackey": "***"})
        again = self.load(shown.replace("'***'", "c2VjcmV0")).configuration
        self.assertEqual(again.http, configuration.http)
