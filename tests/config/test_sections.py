"""Tests for :mod:`contentcache.config.sections`."""

from __future__ import annotations

from contentcache.config.model import Log, StorageSettings
from contentcache.config.sections import IGNORED_SECTIONS, UNSUPPORTED_DRIVERS
from tests.config.writing import MINIMAL, ConfigurationTestCase

_STORAGE = "storage: {filesystem: {rootdirectory: /r}, delete: {enabled: true}}"

LOGS = {
    "log: {level: WARN}": Log(level="warn"),
    "loglevel: debug": None,
    "log: {formatter: json, fields: {service: registry, n: 5, on: 'x'}}": None,
    "log: {accesslog: {disabled: yes}}": Log(accesslog=False),
    "log: {accesslog: {disabled: y}}": Log(accesslog=False),
    "log: {accesslog: {probes: true}}": Log(accesslog_probes=True),
    "log:": Log(),
    "log: {fields: {service: registry, n: 5, ratio: 0.5, ok: true, none: }}": Log(
        fields={"service": "registry", "n": 5, "ratio": 0.5, "ok": True, "none": None}
    ),
}

STORAGES = {
    "storage: inmemory": StorageSettings(driver="inmemory"),
    "storage: filesystem": StorageSettings(),
    "storage: {inmemory: }": StorageSettings(driver="inmemory"),
    "storage: {inmemory: {}, delete: {enabled: on}}": StorageSettings(driver="inmemory", delete=True),
    "storage: {filesystem: {rootdirectory: rel/ative, maxthreads: 3}}": StorageSettings(
        rootdirectory="rel/ative", maxthreads=25
    ),
    "storage: {filesystem: {maxthreads: '200'}}": StorageSettings(maxthreads=200),
}

FAULTY_LOGS = {
    "log: {level: trace}": "log.level: 'trace' is not one of error, warn, info, debug",
    "log: {level: warning}": "log.level: 'warning' is not one of error, warn, info, debug; did you mean",
    "log: {level: [info]}": "log.level: a list stands where a single value belongs",
    "log: {formatter: xml}": "log.formatter: 'xml' is not one of text, json, logstash",
    "log: info": "log: 'info' is not a mapping of keys to values",
    "log: []": "log: a list is not a mapping of keys to values",
    "log: {accesslog: {disabled: 'true'}}": "log.accesslog.disabled: 'true' in quotes is a text, not a",
    "log: {accesslog: {disabled: 1}}": "log.accesslog.disabled: '1' is not a boolean; write true or false",
    "log: {fields: {a: [1]}}": "log.fields.a: a list stands where a single value belongs",
    'log: {fields: {a: "\\ud800"}}': "log.fields.a: '\\ud800' holds a line break or another character that",
    "log: {formater: json}": "log.formater: unknown key; did you mean formatter?",
    "loglevel: loud": "loglevel: 'loud' is not one of error, warn, info, debug",
}

FAULTY_STORAGES = {
    "": "storage: is required; write e.g. storage: {filesystem: {rootdirectory: /var/lib/registry}}",
    "storage:": "storage: is required; write e.g. storage: {filesystem: {rootdirectory: /var/lib/registry}}",
    "storage: []": "storage: a list is not a mapping of keys to values",
    "storage: 5": "storage.5: unknown storage driver; use filesystem or inmemory",
    "storage: {delete: {enabled: true}}": "storage.filesystem: is missing: storage needs a driver,",
    "storage: {filesystem: , inmemory: }": "storage.inmemory: is a second storage driver beside filesystem;",
    "storage: {filesystm: {}}": "storage.filesystm: unknown storage driver; did you mean filesystem?",
    "storage: {filesystem: [a]}": "storage.filesystem: a list is not a mapping of keys to values",
    "storage: {filesystem: {rootdirectory: yes}}": "storage.filesystem.rootdirectory: 'yes' is a boolean;",
    "storage: {filesystem: {rootdirectory: ''}}": "storage.filesystem.rootdirectory: is an empty text",
    'storage: {filesystem: {rootdirectory: "a\\0b"}}': "storage.filesystem.rootdirectory: 'a\\x00b' holds a",
    "storage: {filesystem: {maxthreads: many}}": "storage.filesystem.maxthreads: 'many' is not a whole",
    "storage: {filesystem: {maxthreads: -1}}": "storage.filesystem.maxthreads: '-1' is not a whole number",
    "storage: {filesystem: , delete: {enabled: 'true'}}": "storage.delete.enabled: 'true' in quotes is a",
    "storage: {filesystem: , delete: {enable: true}}": "storage.delete.enable: unknown key; did you mean",
    "storage: {inmemory: {size: 5}}": "storage.inmemory.size: unknown key",
}


class VersionTests(ConfigurationTestCase):
    """``version``."""

    def test_accepted(self) -> None:
        """The one version is taken as a number and as a text."""
        for version in ("0.1", "'0.1'"):
            self.load(MINIMAL.replace("version: 0.1", f"version: {version}"))

    def test_refused(self) -> None:
        """Every other version is refused, and so is none."""
        for version in ("0.10", "0.2", "1", "[0.1]"):
            fault = self.only_fault(MINIMAL.replace("version: 0.1", f"version: {version}"))
            self.assertEqual((fault.path, fault.line), ("version", 1))
        fault = self.only_fault(MINIMAL.replace("version: 0.1", ""))
        self.assertEqual(
            (fault.path, fault.line, fault.message), ("version", None, "is required; write e.g. 0.1")
        )


class LogTests(ConfigurationTestCase):
    """``log``."""

    def test_read(self) -> None:
        """Every key of the section is read as the registry reads it."""
        for text, log in LOGS.items():
            if log is not None:
                loaded = self.load(MINIMAL + text)
                self.assertEqual((loaded.configuration.log, loaded.warnings), (log, ()))

    def test_loglevel(self) -> None:
        """The deprecated key counts where ``log.level`` is not given, and is warned of."""
        loaded = self.load(MINIMAL + "loglevel: debug\n")
        self.assertEqual(loaded.configuration.log.level, "debug")
        self.assertEqual(len(loaded.warnings), 1)
        loaded = self.load(MINIMAL + "loglevel: debug\nlog: {level: error}")
        self.assertEqual(loaded.configuration.log.level, "error")

    def test_logstash(self) -> None:
        """``logstash`` is taken as JSON, with a warning."""
        self.assertEqual(
            self.warnings(MINIMAL + "log: {formatter: logstash}"),
            ["9: log.formatter: logstash is written as json"],
        )

    def test_hooks(self) -> None:
        """Hooks do nothing, whatever is in them, and that is said once."""
        warnings = self.warnings(MINIMAL + "log: {hooks: [{type: mail, nonsense: 1}], reportcaller: true}")
        self.assertEqual(
            [warning.split(":")[1].strip() for warning in warnings], ["log.hooks", "log.reportcaller"]
        )

    def test_refused(self) -> None:
        """Wrong values and unknown keys are each one fault."""
        for text, told in FAULTY_LOGS.items():
            self.assert_told(MINIMAL + text, told)


class StorageTests(ConfigurationTestCase):
    """``storage``."""

    def test_read(self) -> None:
        """Both drivers are read, as mappings and as bare names."""
        for text, storage in STORAGES.items():
            loaded = self.load(MINIMAL.replace(_STORAGE, text))
            self.assertEqual((loaded.configuration.storage, loaded.warnings), (storage, ()))

    def test_refused(self) -> None:
        """None, two, and unknown drivers are faults, and wrong values are."""
        for text, told in FAULTY_STORAGES.items():
            self.assert_told(MINIMAL.replace(_STORAGE, text), told)

    def test_unsupported(self) -> None:
        """The registry's other drivers are named as such."""
        for driver in UNSUPPORTED_DRIVERS:
            for text in (f"storage: {driver}", f"storage: {{{driver}: {{bucket: b}}}}"):
                fault = self.only_fault(MINIMAL.replace(_STORAGE, text))
                self.assertEqual(fault.path, f"storage.{driver}")
                self.assertIn(
                    "is a storage driver of the registry that this daemon does not support", fault.message
                )

    def test_idle(self) -> None:
        """What only matters to a registry is accepted with a warning for each."""
        idle = "cache: {blobdescriptor: redis}, redirect: {disable: true}, maintenance: {}, tag: {a: 5}"
        warnings = self.warnings(MINIMAL.replace(_STORAGE, f"storage: {{inmemory: , {idle}}}"))
        self.assertEqual(
            warnings,
            [
                f"2: storage.{key}: has no effect on a cache"
                for key in ("cache", "redirect", "maintenance", "tag")
            ],
        )


class OtherSectionsTests(ConfigurationTestCase):
    """``proxy``, and the sections that mean nothing to a cache."""

    def test_proxy(self) -> None:
        """The registry's own way to be a cache is refused with a word about ours."""
        fault = self.only_fault(MINIMAL + "proxy: {remoteurl: https://registry-1.docker.io}")
        self.assertEqual(fault.path, "proxy")
        self.assertIn("use the middleware downstream, whose option upstreams", fault.message)

    def test_idle(self) -> None:
        """Sections that cannot matter are accepted unread, with one warning each."""
        for section in IGNORED_SECTIONS:
            for value in ("{a: {b: [1]}, b: 2}", "", "5"):
                warnings = self.warnings(MINIMAL + f"{section}: {value}\n")
                self.assertEqual(warnings, [f"9: {section}: has no effect on a cache"])

    def test_unknown(self) -> None:
        """Other keys are faults, with the nearest known one where one is near."""
        self.assertEqual(
            self.told(MINIMAL + "htttp: {}\nquux: 1\nHTTP: 2"),
            [
                "htttp: unknown key; did you mean http?",
                "quux: unknown key",
                "HTTP: unknown key; did you mean http?",
            ],
        )
