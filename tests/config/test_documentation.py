"""Tests for ``docs/configuration.rst``: what operators read is what the daemon takes."""

from __future__ import annotations

import re
import textwrap
from pathlib import Path

import attrs

from contentcache.config.model import (
    Downstream,
    Gateway,
    HtpasswdAuth,
    LetsEncrypt,
    Limits,
    Signing,
    TokenAuth,
    Upstream,
)
from tests.config.samples import USER
from tests.config.writing import ConfigurationTestCase
from tests.tls.certificates import make

DOCUMENT = (Path(__file__).parents[2] / "docs" / "configuration.rst").read_text("utf-8")
EXAMPLE = re.compile(r"^\.\. code-block:: yaml\n\n((?:    .*\n|\n)+)", re.MULTILINE)

#: Fields of the model that have another name in the file, or none.
DERIVED = {"own"}
RENAMED = {
    "origin": "originhost",
    "fallback": "fallbacktoorigin",
    "served": "hosts",
    "account": "username",
    "credential_helper": "exec.command",
    "signing": "signing.jwks",
    "issuer": "signing.issuer",
    "directory": "cachefile",
    "eab": r"eab\.kid",
}


class DocumentTests(ConfigurationTestCase):
    """The page about the configuration."""

    def test_examples(self) -> None:
        """Every example loads without faults or warnings once its files exist."""
        made = make("cache")
        certificate, key, password = self.write(made.pem), self.write(made.key_pem()), self.write("secret\n")
        examples = EXAMPLE.findall(DOCUMENT)
        self.assertTrue(examples)
        for example in examples:
            text = re.sub(r"/certs/\S+-key\.pem", key, textwrap.dedent(example))
            text = re.sub(r"/certs/\S+\.pem", certificate, text)
            text = re.sub(r"/run/secrets/\S+", password, text)
            text = re.sub(r"/auth/htpasswd", self.write(USER), text)
            self.assertEqual(self.load(text).warnings, ())

    def test_complete(self) -> None:
        """Every option, every key of an upstream and every limit is in the tables."""
        for model in (Downstream, Gateway, Upstream, Limits, LetsEncrypt):
            for field in attrs.fields(model):
                if field.name not in DERIVED:
                    self.assertRegex(DOCUMENT, rf"(?m)^``{RENAMED.get(field.name, field.name)}``")
        sections = {"auth.token": TokenAuth, "auth.htpasswd": HtpasswdAuth, "signing": Signing}
        for section, values in sections.items():
            for name in attrs.fields_dict(values):
                self.assertRegex(DOCUMENT, rf"(?m)^``{section}.{name}``")
