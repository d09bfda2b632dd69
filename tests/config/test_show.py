"""Tests for :mod:`contentcache.config.show`."""

from __future__ import annotations

import attrs
import yaml

from contentcache.config.model import Configuration, Log, StorageSettings
from contentcache.config.schema.kinds import HIDDEN
from contentcache.config.schema.options import keys_of
from contentcache.config.show import render
from tests.config.samples import CHAIN, USER
from tests.config.writing import MINIMAL, ConfigurationTestCase, with_options, with_upstream
from tests.tls.certificates import make

FULL = """\
public: true
prefix: quay.io
username: u
password: topsecret
upstreamhosts: ['https://b.example', 'http://[::1]:5000']
fallbacktoorigin: true
names: [quay.io, 'x:5000']
hosts: [cache.example]
allow: [org/**]
deny: [org/secret]
immutabletags: '^v'
realms: [auth.example]
redirects: [10.0.0.0/8]
"""

OPTIONS = """\
upstreams: ['https://a.example', 'https://b.example']
blobttl: 1h30m
maxsize: 2TiB
minfree: 1500
keepdeleted: true
authttl: 0
staleiferror: 1.5s
sweepinterval: 250ms
fetchesperhost: 4
scrub: 720h
fastpath: off
limits: {manifest: 8MiB, connectionsperaddress: 7, idle: 90s}
"""


class RenderTests(ConfigurationTestCase):
    """The configuration in effect, as a file."""

    def assert_same(self, configuration: Configuration) -> None:
        """What is rendered means the same."""
        self.assertEqual(self.load(render(configuration)).configuration, configuration)

    def test_same(self) -> None:
        """The rendered file is read back as the same configuration."""
        more = (
            "log: {level: debug, formatter: json, fields: {service: x}, accesslog: {disabled: true}}",
            "",
        )
        for text in (MINIMAL + more[0], with_options(OPTIONS), MINIMAL.replace('":5000"', "'[::1]:5000'")):
            self.assert_same(self.load(text).configuration)
        unix = MINIMAL.replace('addr: ":5000"', "net: unix, addr: /run/x, prefix: /c/, headers: {A: [b, b]}")
        self.assert_same(self.load(unix).configuration)
        memory = MINIMAL.replace("filesystem: {rootdirectory: /r}", "inmemory: ")
        self.assert_same(self.load(memory).configuration)

    def test_every_key(self) -> None:
        """No described key of ``storage`` and ``log`` is left out: a new one is shown without more."""
        more = "log: {level: debug, formatter: json, fields: {service: x}, accesslog: {disabled: true}}"
        shown = yaml.safe_load(render(self.load(MINIMAL + more).configuration))
        for section, model in (("storage", StorageSettings), ("log", Log)):
            for key in keys_of(model).keys() - {"inmemory"}:
                found = shown[section]
                for part in key.split("."):
                    self.assertIn(part, found, (section, key))
                    found = found[part]

    def test_tls(self) -> None:
        """Files of TLS and the debug listener are shown."""
        made = make("cache")
        text = CHAIN.format(cert=self.write(made.pem), key=self.write(made.key_pem()))
        found = self.load(
            text.replace("  tls:", "  debug: {addr: ':1', names: true, prometheus: {enabled: on}}\n  tls:")
        )
        self.assert_same(found.configuration)

    def test_upstream(self) -> None:
        """Every key of an upstream is shown, but its password is not."""
        configuration = self.load(with_upstream(FULL)).configuration
        text = render(configuration)
        self.assertNotIn("topsecret", text)
        upstream = configuration.downstream.upstreams[0]
        assert upstream.account is not None
        hidden = attrs.evolve(upstream, account=attrs.evolve(upstream.account, password=HIDDEN))
        self.assertEqual(self.load(text).configuration.downstream.upstreams, (hidden,))

    def test_auth(self) -> None:
        """Both kinds of authentication are shown, and the keys that sign."""
        path = self.write(make("tokens").pem)
        token = f"realm: 'https://t.example/?a=b', service: s, issuer: i, rootcertbundle: {path}"
        for section in (
            f"htpasswd: {{realm: r, path: {self.write(USER)}}}",
            f"token: {{{token}, signingalgorithms: [ES256]}}",
            f"token: {{{token}, autoredirect: true, autoredirectpath: /t}}",
        ):
            text = with_options("upstreams: ['https://b.example']\nsigning: {issuer: 'https://a.example'}")
            self.assert_same(self.load(f"{text}auth: {{{section}}}").configuration)

    def test_exec(self) -> None:
        """The program that knows an account is shown; its arguments, which may be secrets, are not."""
        keys = "public: true\nexec: {command: [sh, --password=topsecret, topsecret], lifetime: 1h}"
        shown = render(self.load(with_upstream(keys)).configuration)
        self.assertNotIn("topsecret", shown)
        upstream = yaml.safe_load(shown)["middleware"]["registry"][0]["options"]["upstreams"][0]
        self.assertEqual(upstream["exec"], {"command": ["sh", HIDDEN, HIDDEN], "lifetime": "1h"})

    def test_secrets(self) -> None:
        """What is called a secret is hidden wherever it stands."""
        text = MINIMAL.replace('":5000"', '":5000", headers: {X-Token: [topsecret]}, secret: topsecret')
        shown = render(self.load(text + "log: {fields: {Password: topsecret, plain: x}}").configuration)
        self.assertNotIn("topsecret", shown)
        self.assertEqual(yaml.safe_load(shown)["log"]["fields"], {"Password": HIDDEN, "plain": "x"})
