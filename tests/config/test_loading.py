"""Tests for :mod:`contentcache.config.loading`: whole files."""

from __future__ import annotations

import os
from pathlib import Path

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from contentcache.config.document import LARGEST_FILE
from contentcache.config.faults import ConfigurationError
from contentcache.config.loading import load
from contentcache.config.model import Address, Configuration, Downstream, Http, StorageSettings, Upstream
from tests.config.samples import CHAIN, LATER
from tests.config.writing import MINIMAL, PLAIN, ConfigurationTestCase
from tests.tls.certificates import make

ROOT = Path(__file__).parents[2]

WHOLE = {
    b"": "the file is empty; it needs at least version, storage, http and middleware",
    b"\n \n# nothing\n": "the file is empty; it needs at least version, storage, http and middleware",
    b"---\n...\n": "the file must hold a mapping of keys to values, such as version: 0.1",
    b"{}": "the file is empty; it needs at least version, storage, http and middleware",
    b"- a\n- b": "the file must hold a mapping of keys to values, such as version: 0.1",
    b"hello": "the file must hold a mapping of keys to values, such as version: 0.1",
    b"a: \xff": "not text in UTF-8",
    "version: 0.1".encode("utf-16"): "not text in UTF-8",
    b"\x00": "character U+0000 is not allowed in YAML",
    b"a: [": "not YAML: expected the node content, but found '<stream end>'",
    b"a: b: c": "not YAML: mapping values are not allowed here",
    b"version: 0.1\n\thttp: x": "not YAML: a tab; indent with spaces",
    b"#" * (LARGEST_FILE + 1): f"larger than {LARGEST_FILE} bytes, which no configuration is",
}

KEYS = [
    "version",
    "log",
    "level",
    "fields",
    "storage",
    "filesystem",
    "rootdirectory",
    "delete",
    "enabled",
    "auth",
    "http",
    "addr",
    "tls",
    "certificate",
    "headers",
    "debug",
    "prometheus",
    "middleware",
    "registry",
    "name",
    "options",
    "upstreams",
    "originhost",
    "upstreamhosts",
    "blobttl",
    "cas",
    "limits",
    "names",
    "hosts",
    "prefix",
    "username",
    "password",
    "public",
    "allow",
    "immutabletags",
    "realms",
    "redirects",
    "signing",
    "proxy",
    "redis",
    "token",
    "htpasswd",
    "realm",
    "path",
    "service",
    "issuer",
    "jwks",
    "exec",
    "command",
    "lifetime",
    "<<",
    "x",
]

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(
        ["downstream", "0.1", ":5000", "24h", "https://a.example", "https://b", "inmemory", "^(", "/x", "5GB"]
    ),
)
TREES = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=30,
)


class SamplesTests(ConfigurationTestCase):
    """Files as operators have them."""

    def setUp(self) -> None:
        """Make the files that the samples name."""
        made = make("cache")
        self.files = {"cert": self.write(made.pem), "key": self.write(made.key_pem())}

    def test_chain(self) -> None:
        """The sample of the first version loads as it is."""
        loaded = self.load(CHAIN.format(**self.files))
        self.assertEqual(loaded.warnings, ())
        found = loaded.configuration.downstream
        self.assertEqual((found.blobttl, found.cas), (86400.0, (self.files["cert"],)))
        self.assertEqual(
            found.upstreams,
            (
                Upstream(
                    origin="https://registry.example.com",
                    hosts=("https://san-francisco.example.com",),
                    names=frozenset({"registry.example.com"}),
                    issuer="https://registry.example.com",
                ),
            ),
        )

    def test_later(self) -> None:
        """The sample of later versions loads, with a word about the key that means nothing."""
        loaded = self.load(LATER.format(**self.files))
        self.assertEqual(len(loaded.warnings), 1)
        self.assertIn("http.secret: has no effect on a cache", loaded.warnings[0])
        found = loaded.configuration
        self.assertEqual(found.http.addr, Address("0.0.0.0", 443))
        self.assertEqual(
            found.downstream.upstreams[0].hosts, ("https://registry.example.com", "https://other.example.com")
        )

    def test_without_files(self) -> None:
        """A sample whose files do not exist is refused with each of them at its line."""
        faults = self.faults(CHAIN.format(cert="/certs/cache.pem", key="/certs/cache-key.pem"))
        self.assertEqual(
            [(fault.line, fault.path) for fault in faults],
            [
                (10, "http.tls.certificate"),
                (11, "http.tls.key"),
                (22, "middleware.registry[0].options.cas[0]"),
            ],
        )

    def test_minimal(self) -> None:
        """Four sections are enough, and the rest has its defaults."""
        upstream = Upstream(
            origin="https://a.example",
            hosts=("https://a.example",),
            names=frozenset({"a.example"}),
            public=True,
            own=True,
            issuer="https://a.example",
        )
        self.assertEqual(
            self.load(MINIMAL).configuration,
            Configuration(
                http=Http(Address("", 5000)),
                middleware=Downstream((upstream,)),
                storage=StorageSettings(rootdirectory="/r", delete=True),
            ),
        )

    def test_ours(self) -> None:
        """The file that comes with the daemon has no fault, and the one warning that its plain HTTP deserves."""
        loaded = load(str(ROOT / "etc" / "config.yml"), {})
        self.assertEqual([PLAIN in warning for warning in loaded.warnings], [True])
        self.assertEqual(loaded.configuration.downstream.upstreams[0].origin, "https://registry-1.docker.io")

    def test_byte_order_mark(self) -> None:
        """A mark that some editors put in front of UTF-8 does no harm, nor do their line ends."""
        self.load(b"\xef\xbb\xbf" + MINIMAL.replace("\n", "\r\n").encode())


class FaultsTests(ConfigurationTestCase):
    """Files that cannot be used."""

    def test_whole(self) -> None:
        """A file that is no configuration at all is told in one sentence."""
        for content, message in WHOLE.items():
            fault = self.only_fault(content)
            self.assertEqual((fault.path, fault.message), ("", message))

    def test_unreadable(self) -> None:
        """A path at which there is no file to read is a fault like any other."""
        folder = os.path.dirname(self.write(""))
        for path in (folder, folder + "/nope.yml", "a\0b", "\ud800", "/" + "a" * 5000, ""):
            faulty = self.assertRaises(ConfigurationError, load, path, {})
            self.assertIn("cannot be read", str(faulty))

    def test_all_at_once(self) -> None:
        """All faults are told together, in the order of the file, each with its line and its path."""
        text = MINIMAL.replace("0.1", "0.2").replace('":5000"', "nowhere").replace("https://a", "ftp://a")
        path = self.write(text + "htp: 5\n")
        faulty = self.assertRaises(ConfigurationError, load, path, {"REGISTRY_LOG_LEVEL": "loud"})
        self.assertEqual(
            [line.partition(": ")[0] for line in str(faulty).split("\n")],
            [f"{path}:1", f"{path}:3", f"{path}:8", f"{path}:9", "REGISTRY_LOG_LEVEL"],
        )

    def test_missing(self) -> None:
        """A file without its sections is told each one that is missing."""
        self.assertEqual(
            [fault.path for fault in self.faults("log:\n")],
            ["version", "storage", "http.addr", "middleware.registry"],
        )

    @settings(deadline=None, max_examples=300)
    @given(TREES)
    def test_any_tree(self, tree: object) -> None:
        """Any tree of values, with the format's own keys in it, loads or has faults."""
        self.loads_or_not(yaml.safe_dump(tree, allow_unicode=True).encode("utf-8", "surrogatepass"))

    @settings(deadline=None)
    @given(st.binary(max_size=80))
    def test_any_bytes(self, content: bytes) -> None:
        """Any bytes load or have faults."""
        self.loads_or_not(content)

    @settings(deadline=None, max_examples=300)
    @given(st.data())
    def test_any_damage(self, data: st.DataObject) -> None:
        """A good file in which something was overwritten loads or has faults."""
        at = data.draw(st.integers(0, len(LATER)))
        damage = data.draw(st.text(alphabet="ab0:-[]{},&*!'\"\n\t\\ ~<#", max_size=6))
        self.loads_or_not((LATER[:at] + damage + LATER[at + data.draw(st.integers(0, 6)) :]).encode())

    def loads_or_not(self, content: bytes) -> None:
        """Nothing but the one error comes out."""
        path = self.write(content)
        try:
            load(path, {})
        except ConfigurationError as faulty:
            self.assertTrue(faulty.faults)
            self.assertEqual(len(str(faulty).split("\n")), len(faulty.faults))
        finally:
            os.unlink(path)
