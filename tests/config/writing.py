"""Configurations for tests: a small one without faults, and ways to change it."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from pathlib import Path

import attrs
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config import loading
from contentcache.config.faults import ConfigurationError, Fault
from contentcache.config.loading import Loaded
from contentcache.config.model import Downstream, Upstream

MINIMAL = """\
version: 0.1
storage: {filesystem: {rootdirectory: /r}, delete: {enabled: true}}
http: {addr: ":5000"}
middleware:
  registry:
    - name: downstream
      options:
        upstreams: [{originhost: "https://a.example", public: true}]
"""


#: Part of the warning about passwords without TLS.
PLAIN = "over plain HTTP: anyone"


def with_options(options: str) -> str:
    """The minimal file with other ``options``, which start on line 8 of the file."""
    head, _, _ = MINIMAL.partition("        upstreams:")
    return head + textwrap.indent(textwrap.dedent(options).strip("\n") + "\n", " " * 8)


def with_upstream(keys: str) -> str:
    """The minimal file with more ``keys`` in its upstream, from line 10 on."""
    keys = textwrap.indent(textwrap.dedent(keys).strip("\n"), " " * 4)
    return with_options("upstreams:\n  - originhost: https://a.example\n" + keys)


class ConfigurationTestCase(SynchronousTestCase):
    """Loads texts as files."""

    def write(self, text: str | bytes) -> str:
        """The path of a new file with this content."""
        path = Path(self.mktemp())
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return str(path.resolve())

    def load(self, text: str | bytes, environ: Mapping[str, str] | None = None) -> Loaded:
        """What comes of a file; that it listens without TLS, as most here do, is not repeated each time."""
        loaded = loading.load(self.write(text), environ or {})
        return attrs.evolve(loaded, warnings=tuple(each for each in loaded.warnings if PLAIN not in each))

    def faults(self, text: str | bytes, environ: Mapping[str, str] | None = None) -> tuple[Fault, ...]:
        """What is wrong with a file, and that is something."""
        try:
            self.load(text, environ)
        except ConfigurationError as faulty:
            self.assertEqual(len(str(faulty).split("\n")), len(faulty.faults))
            return faulty.faults
        raise AssertionError(f"no fault in:\n{text!r}")

    def told(self, text: str | bytes, environ: Mapping[str, str] | None = None) -> list[str]:
        """The same as lines ``path: message``."""
        return [f"{fault.path}: {fault.message}" for fault in self.faults(text, environ)]

    def assert_told(self, text: str, beginning: str) -> None:
        """There is one fault, and it is told in these words and perhaps more."""
        told = self.told(text)
        self.assertEqual(len(told), 1, told)
        self.assertTrue(told[0].startswith(beginning), f"{told[0]}\n{beginning}")

    def only_fault(self, text: str | bytes, environ: Mapping[str, str] | None = None) -> Fault:
        """The one thing that is wrong with a file."""
        faults = self.faults(text, environ)
        self.assertEqual(len(faults), 1, faults)
        return faults[0]

    def warnings(self, text: str, environ: Mapping[str, str] | None = None) -> list[str]:
        """The warnings about a file without faults, without its name."""
        return [re.sub(r"^/[^:]*:", "", warning) for warning in self.load(text, environ).warnings]

    def downstream(self, options: str) -> Downstream:
        """The options that a file without faults or warnings gives."""
        loaded = self.load(with_options(options))
        self.assertEqual(loaded.warnings, ())
        return loaded.configuration.downstream

    def upstream(self, keys: str) -> Upstream:
        """The one upstream of such a file."""
        loaded = self.load(with_upstream(keys))
        self.assertEqual(loaded.warnings, ())
        return loaded.configuration.downstream.upstreams[0]
