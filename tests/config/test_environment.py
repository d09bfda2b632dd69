"""Tests for :mod:`contentcache.config.environment`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from contentcache.config.document import Dictionary, parse
from contentcache.config.environment import override
from contentcache.config.faults import ConfigurationError, Report
from contentcache.config.loading import load
from contentcache.config.model import Account, Address
from tests.config.test_document import plain
from tests.config.writing import MINIMAL, ConfigurationTestCase, with_upstream

_OPTIONS = "REGISTRY_MIDDLEWARE_REGISTRY_0_OPTIONS"

#: A file, the environment, and what comes of both.
APPLIED: list[tuple[str, dict[str, str], object]] = [
    ("a: 1", {}, {"a": 1}),
    ("{}", {"REGISTRY_HTTP_ADDR": ":80"}, {"http": {"addr": ":80"}}),
    ("http: {addr: x, net: tcp}", {"REGISTRY_HTTP_ADDR": ":80"}, {"http": {"addr": ":80", "net": "tcp"}}),
    ("http:", {"REGISTRY_HTTP_TLS_KEY": "/k"}, {"http": {"tls": {"key": "/k"}}}),
    ("http: {addr: x}", {"REGISTRY_HTTP": "{addr: y}"}, {"http": {"addr": "y"}}),
    ("http: {addr: x}", {"REGISTRY_HTTP_ADDR": ""}, {"http": {"addr": None}}),
    (
        "log: {accesslog: }",
        {"REGISTRY_LOG_ACCESSLOG_DISABLED": "yes"},
        {"log": {"accesslog": {"disabled": True}}},
    ),
    ("{}", {"REGISTRY_LOG_FIELDS_SERVICE": "x"}, {"log": {"fields": {"service": "x"}}}),
    (
        "log: {fields: {Service: x}}",
        {"REGISTRY_LOG_FIELDS_SERVICE": "y"},
        {"log": {"fields": {"Service": "y"}}},
    ),
    ("storage: inmemory", {"REGISTRY_STORAGE": "filesystem"}, {"storage": "filesystem"}),
    (
        "storage: filesystem",
        {"REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/r"},
        {"storage": {"filesystem": {"rootdirectory": "/r"}}},
    ),
    (
        "storage: {filesystem: }",
        {"REGISTRY_STORAGE_DELETE_ENABLED": "true"},
        {"storage": {"filesystem": None, "delete": {"enabled": True}}},
    ),
    (
        "storage: {filesystem: {}}",
        {"REGISTRY_STORAGE_INMEMORY": "{}", "REGISTRY_STORAGE": "{}"},
        {"storage": {"inmemory": {}}},
    ),
    ("{}", {"REGISTRY_HTTP_TLS_CLIENTCAS": "[/a, /b]"}, {"http": {"tls": {"clientcas": ["/a", "/b"]}}}),
    ("{}", {"REGISTRY_HTTP_TLS_CLIENTCAS_0": "/a"}, {"http": {"tls": {"clientcas": ["/a"]}}}),
    (
        "http: {tls: {clientcas: [/a]}}",
        {"REGISTRY_HTTP_TLS_CLIENTCAS_0": "/x", "REGISTRY_HTTP_TLS_CLIENTCAS_1": "/b"},
        {"http": {"tls": {"clientcas": ["/x", "/b"]}}},
    ),
    ("{}", {"REGISTRY_HTTP_HEADERS_X-A": "[b]"}, {"http": {"headers": {"x-a": ["b"]}}}),
    (
        "{}",
        {"REGISTRY_MIDDLEWARE_REGISTRY_0_NAME": "downstream", f"{_OPTIONS}_BLOBTTL": "24h"},
        {"middleware": {"registry": [{"name": "downstream", "options": {"blobttl": "24h"}}]}},
    ),
    (
        "middleware: {registry: [{name: a, options: {blobttl: 1h, Odd: 1}}]}",
        {f"{_OPTIONS}_BLOBTTL": "24h", f"{_OPTIONS}_ODD": "2"},
        {"middleware": {"registry": [{"name": "a", "options": {"blobttl": "24h", "Odd": 2}}]}},
    ),
    (
        "middleware: {registry: [{options: {upstreams: [{originhost: a}]}}]}",
        {f"{_OPTIONS}_UPSTREAMS_0_PASSWORD": "'p'", f"{_OPTIONS}_UPSTREAMS_1_ORIGINHOST": "b"},
        {
            "middleware": {
                "registry": [
                    {"options": {"upstreams": [{"originhost": "a", "password": "p"}, {"originhost": "b"}]}}
                ]
            }
        },
    ),
    (
        "middleware: {registry: [{}]}",
        {f"{_OPTIONS}_UPSTREAMS_0": "https://a", f"{_OPTIONS}_LIMITS_FETCHES": "5"},
        {"middleware": {"registry": [{"options": {"limits": {"fetches": 5}, "upstreams": ["https://a"]}}]}},
    ),
    ("{}", {"REGISTRY_NOTIFICATIONS_EVENTCONFIG_A": "1"}, {"notifications": {"events": {"a": 1}}}),
    ("{}", {"REGISTRY_HEALTH_FILECHECKERS_0_FILE": "/f"}, {"health": {"file": [{"file": "/f"}]}}),
    (
        "{}",
        {"REGISTRY_LOG_HOOKS_0_MAILOPTIONS_SMTP_ADDR": "a"},
        {"log": {"hooks": [{"options": {"smtp": {"addr": "a"}}}]}},
    ),
    (
        "{}",
        {"REGISTRY_COMPATIBILITY_SCHEMA1_TRUSTKEY": "/k"},
        {"compatibility": {"schema1": {"signingkeyfile": "/k"}}},
    ),
]

IGNORED = [
    "REGISTRY_",
    "REGISTRY__HTTP",
    "REGISTRY_HTTP_",
    "REGISTRY_HTTP_ADDRESS",
    "REGISTRY_HTTP_ADDR_PORT",
    "REGISTRY_http_addr",
    "REGISTRY_STORAGE__X",
    "REGISTRY_CACHE_SERVICE_HOST",
    "REGISTRY_CACHE_PORT_5000_TCP",
    "REGISTRY_MIDDLEWARE_REGISTRY_X_NAME",
    "REGISTRY_MIDDLEWARE_REGISTRY_-1_NAME",
    "REGISTRY_MIDDLEWARE_REGISTRY_0_WHATEVER",
    f"{_OPTIONS}_UPSTREAMS_FIRST",
    "REGISTRY_HTTP_TLS_CLIENTCAS_" + "9" * 5000,
]

STEPS = [
    "HTTP",
    "ADDR",
    "TLS",
    "LOG",
    "FIELDS",
    "STORAGE",
    "FILESYSTEM",
    "MIDDLEWARE",
    "REGISTRY",
    "OPTIONS",
    "UPSTREAMS",
    "0",
    "1",
    "99",
    "X",
    "",
    "\u00e9",
    "\udce9",
]

NOT_MEANT = [
    "REGISTRY_CONFIGURATION_PATH",
    "REGISTRY_SERVICE_HOST",
    "REGISTRY_SERVICE_PORT",
    "REGISTRY_SERVICE_PORT_HTTPS",
    "REGISTRY_PORT",
    "REGISTRY_PORT_5000_TCP",
    "REGISTRY_PORT_5000_TCP_ADDR",
    "PATH",
    "registry_http_addr",
]


class OverrideTests(ConfigurationTestCase):
    """Variables and the file."""

    def test_applied(self) -> None:
        """Variables reach sections, maps, lists and bare names by the registry's rules."""
        for text, environ, expected in APPLIED:
            report = Report()
            root = parse(text, report)
            assert isinstance(root, Dictionary)
            override(root, environ, report)
            self.assertEqual(plain(root), expected)
            self.assertEqual((report.faults(), report.warnings("f")), ((), ()))

    def test_ignored(self) -> None:
        """A variable that leads nowhere is a warning with its name, and changes nothing."""
        plainly = self.load(MINIMAL).configuration
        for name in IGNORED:
            loaded = self.load(MINIMAL, {name: "whatever"})
            self.assertEqual(loaded.warnings, (f"{name}: unrecognised environment variable; it is ignored",))
            self.assertEqual(loaded.configuration, plainly)

    def test_not_meant(self) -> None:
        """What Kubernetes sets for a service called "registry" is passed over in silence."""
        loaded = self.load(MINIMAL, dict.fromkeys(NOT_MEANT, "tcp://10.0.0.1:5000"))
        self.assertEqual(loaded.warnings, ())

    def test_services_of_others(self) -> None:
        """
        So is what it sets for services called "registry-auth" and the like, in whatever section that would
        be.
        """
        for service in ("AUTH", "STORAGE", "PROXY", "MIDDLEWARE", "HTTP", "UI", "LOG_FIELDS"):
            for address in ("10.96.12.7", "fd00::7"):
                authority = f"[{address}]" if ":" in address else address
                environ = {
                    "SERVICE_HOST": address,
                    "SERVICE_PORT": "5000",
                    "SERVICE_PORT_HTTP": "5000",
                    "PORT": f"tcp://{authority}:5000",
                    "PORT_5000_TCP": f"tcp://{authority}:5000",
                    "PORT_5000_TCP_PROTO": "tcp",
                    "PORT_5000_TCP_PORT": "5000",
                    "PORT_5000_TCP_ADDR": address,
                }
                named = {f"REGISTRY_{service}_{name}": value for name, value in environ.items()}
                loaded = self.load(MINIMAL, named)
                plainly = self.load(MINIMAL, {})
                self.assertEqual((loaded.warnings, loaded.configuration), ((), plainly.configuration))

    def test_effect(self) -> None:
        """What variables say is what the daemon gets."""
        environ = {
            "REGISTRY_HTTP_ADDR": "127.0.0.1:8080",
            "REGISTRY_LOG_LEVEL": "debug",
            "REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY": "/elsewhere",
            f"{_OPTIONS}_BLOBTTL": "24h",
            f"{_OPTIONS}_UPSTREAMS_0_USERNAME": "u",
            f"{_OPTIONS}_UPSTREAMS_0_PASSWORD": "topsecret",
            f"{_OPTIONS}_UPSTREAMS_0_PUBLIC": "true",
        }
        found = self.load(MINIMAL, environ).configuration
        self.assertEqual(found.http.addr, Address("127.0.0.1", 8080))
        self.assertEqual((found.log.level, found.storage.rootdirectory), ("debug", "/elsewhere"))
        self.assertEqual(found.downstream.blobttl, 86400.0)
        self.assertEqual(found.downstream.upstreams[0].account, Account("u", "topsecret"))

    def test_mends_the_file(self) -> None:
        """A fault of the file is none where a variable replaces the value."""
        self.load(MINIMAL.replace('":5000"', "nowhere"), {"REGISTRY_HTTP_ADDR": ":5000"})

    def test_faults_name_the_variable(self) -> None:
        """A value from the environment is blamed on its variable, not on a line."""
        fault = self.only_fault(MINIMAL, {f"{_OPTIONS}_BLOBTTL": "24hours"})
        self.assertEqual((fault.variable, fault.line), (f"{_OPTIONS}_BLOBTTL", None))
        self.assertEqual(
            fault.format("c.yml"),
            f"{_OPTIONS}_BLOBTTL: middleware.registry[0].options.blobttl: '24hours' is not a duration; "
            "write e.g. 24h or 1h30m",
        )

    def test_unknown_option(self) -> None:
        """A key that only a variable has made is as unknown as one in the file."""
        fault = self.only_fault(MINIMAL, {f"{_OPTIONS}_BLOBTTLL": "24h"})
        self.assertEqual(fault.variable, f"{_OPTIONS}_BLOBTTLL")
        self.assertEqual(fault.message, "unknown key; did you mean blobttl?")

    def test_second_driver(self) -> None:
        """A variable for another driver makes two of them, as for the registry."""
        faults = self.faults(MINIMAL, {"REGISTRY_STORAGE_INMEMORY": "{}"})
        self.assertEqual(
            [(fault.path, fault.variable) for fault in faults],
            [("storage.inmemory", "REGISTRY_STORAGE_INMEMORY")],
        )

    def test_index_beyond(self) -> None:
        """An index may append; a larger one is a fault."""
        name = f"{_OPTIONS}_UPSTREAMS_2_ORIGINHOST"
        fault = self.only_fault(MINIMAL, {name: "https://b.example"})
        self.assertEqual((fault.variable, fault.path), (name, "middleware.registry[0].options.upstreams[2]"))

    def test_broken_value(self) -> None:
        """A value that is not YAML is a fault that repeats nothing of it: it may be a password."""
        for value in (
            "*topsecret",
            "[topsecret",
            "@topsecret",
            "top: secret: topsecret",
            "topsecret\x00",
            "\udce9topsecret",
        ):
            faults = self.faults(
                with_upstream("public: true\nusername: u\npassword: p"),
                {f"{_OPTIONS}_UPSTREAMS_0_PASSWORD": value},
            )
            self.assertNotIn("topsecret", "".join(fault.format("f") for fault in faults))
            self.assertEqual({fault.variable for fault in faults[-1:]}, {f"{_OPTIONS}_UPSTREAMS_0_PASSWORD"})

    @settings(deadline=None)
    @given(
        st.dictionaries(
            st.lists(
                st.sampled_from(STEPS),
                max_size=7,
            ).map(lambda steps: "_".join(["REGISTRY", *steps])),
            st.text(alphabet="ab01:-[]{},&*!'\"\x00\udce9", max_size=12),
            max_size=4,
        )
    )
    def test_anything(self, environ: dict[str, str]) -> None:
        """Any environment gives a configuration or faults."""
        path = self.write(MINIMAL)
        try:
            load(path, environ)
        except ConfigurationError as faulty:
            self.assertTrue(faulty.faults)
