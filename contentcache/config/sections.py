"""The sections ``version``, ``log``, ``storage`` and ``auth``, and those that have no meaning for a cache."""

from __future__ import annotations

from typing import Final, get_args

from attrs import evolve

from contentcache.config.faults import InvalidValueError, suggestion
from contentcache.config.model import HtpasswdAuth, Level, Log, StorageSettings, TokenAuth
from contentcache.config.patterns import ALGORITHMS
from contentcache.config.readers import boolean, choice, scalar, text
from contentcache.config.reading import read_values, reader_of
from contentcache.config.schema import kinds
from contentcache.config.schema.options import keys_of
from contentcache.config.tables import Item, Table

#: Sections of the registry about pushing, its catalogue or its peers.
IGNORED_SECTIONS: Final = (
    "reporting",
    "notifications",
    "redis",
    "health",
    "catalog",
    "tags",
    "compatibility",
    "validation",
    "policy",
)
UNSUPPORTED_DRIVERS: Final = ("s3", "s3aws", "gcs", "azure", "swift", "oss")

_LEAST_THREADS: Final = 25
_DRIVERS: Final = ("filesystem", "inmemory")
_IGNORED_KEYS: Final = ("cache", "redirect", "maintenance", "tag")
#: Keys of ``storage`` that name no driver.
_RESERVED: Final = (
    *{key.partition(".")[0]: None for key in keys_of(StorageSettings) if not key.startswith(_DRIVERS)},
    *_IGNORED_KEYS,
)


def read_version(root: Table) -> None:
    """Check ``version``: there is one of the format, 0.1."""

    def read(item: Item) -> None:
        if scalar(item).text != "0.1":
            raise InvalidValueError(f"{item.described()} is not a version that is supported; write 0.1")

    root.require("version", read, None, "0.1")


def read_log(root: Table) -> Log:
    """Read ``log``, and the deprecated ``loglevel``."""
    levels = choice(get_args(Level), lower=True)
    deprecated_level: Level = root.read("loglevel", levels, "info")
    if root.has("loglevel"):
        root.warn("loglevel", "is deprecated; use log.level")
    with root.section("log") as section:
        section.ignore(("hooks", "reportcaller"), "has no effect: this daemon does not support it")
        formatter = section.read("formatter", choice(("text", "json", "logstash")), "text")
        if formatter == "logstash":
            section.warn("formatter", "logstash is written as json")
        level: Level = section.read("level", levels, deprecated_level)
        with section.section("accesslog") as accesslog:
            disabled = accesslog.read("disabled", boolean, default=False)
            probes = accesslog.read("probes", boolean, default=False)
        return read_values(
            section,
            Log,
            level=level,
            formatter="text" if formatter == "text" else "json",
            fields=_fields(section.section("fields")),
            accesslog=not disabled,
            accesslog_probes=probes,
        )


def read_storage(root: Table) -> StorageSettings:
    """Read ``storage``: one driver, as a mapping or as its bare name."""
    if not root.has("storage"):
        root.fault(
            "storage", "is required; write e.g. storage: {filesystem: {rootdirectory: /var/lib/registry}}"
        )
        return StorageSettings()
    with root.section_or_name("storage") as storage:
        storage.ignore(_IGNORED_KEYS)
        drivers = [key for key in storage if key not in _RESERVED]
        _check_drivers(storage, drivers)
        with storage.section("inmemory"):
            driver = "inmemory" if drivers == ["inmemory"] else "filesystem"
            read = read_values(storage, StorageSettings, driver=driver)
        return evolve(read, maxthreads=max(_LEAST_THREADS, read.maxthreads))


def _check_drivers(storage: Table, drivers: list[str]) -> None:
    for driver in drivers:
        storage.get(driver)
        if driver in UNSUPPORTED_DRIVERS:
            storage.fault(
                driver,
                "is a storage driver of the registry that this daemon does not support; use filesystem",
            )
        elif driver not in _DRIVERS:
            near = suggestion(driver, (*_DRIVERS, *_RESERVED))
            storage.fault(driver, f"unknown storage driver{near or '; use filesystem or inmemory'}")
    if not drivers and storage.present:
        storage.fault("filesystem", "is missing: storage needs a driver, filesystem or inmemory")
    if len(drivers) > 1:
        storage.fault(
            drivers[1], f"is a second storage driver beside {drivers[0]}; exactly one must be there"
        )


def _fields(table: Table) -> dict[str, object]:
    fields: dict[str, object] = {}
    for key in table:
        item = table.get(key)
        fields[key] = None if item is None else item.read(_field, None)
    return fields


def _field(item: Item) -> object:
    node = scalar(item)
    return node.value if isinstance(node.value, bool | int | float) else text(item)


Auth = TokenAuth | HtpasswdAuth

KINDS: Final = ("token", "htpasswd")

_SILLY: Final = (
    "is not supported: it lets in whoever sends any credentials at all; use htpasswd or token, or leave out "
    "the section auth, so that the origin authorizes clients"
)


def read_auth(root: Table) -> Auth | None:
    """
    Read one kind of authentication; ``None`` where only the origin authorizes clients.

    A kind with faults is returned too, so that what depends on it has no further faults.
    """
    found: list[Auth] = []
    with root.section_or_name("auth") as auth:
        kinds = [kind for kind in auth if kind != "silly"]
        auth.get("none")
        if "silly" in auth:
            auth.get("silly")
            auth.fault("silly", _SILLY)
        for kind in kinds:
            if kind == "token":
                found.append(_token(auth))
            elif kind == "htpasswd":
                found.append(_htpasswd(auth))
            elif kind != "none":
                auth.get(kind)
                near = suggestion(kind, ("none", *KINDS))
                auth.fault(kind, f"unknown kind of auth{near or '; use htpasswd or token'}")
        if len(kinds) > 1:
            auth.fault(kinds[1], f"is a second kind of auth beside {kinds[0]}; one at most may be there")
    return found[0] if found else None


def _htpasswd(auth: Table) -> HtpasswdAuth:
    with auth.section("htpasswd") as section:
        return read_values(section, HtpasswdAuth)


def _token(auth: Table) -> TokenAuth:
    with auth.section("token") as section:
        redirected = section.read("autoredirect", boolean, default=False)
        if section.has("autoredirectpath") and not redirected:
            section.warn("autoredirectpath", "has no effect without autoredirect: true")
        if not section.has("rootcertbundle") and not section.has("jwks"):
            section.fault(
                "rootcertbundle",
                "is required, or jwks: the keys of the token server, e.g. rootcertbundle: /certs/tokens.pem",
            )
        kind = kinds.QUOTABLE if redirected else kinds.REALM
        read = read_values(
            section,
            TokenAuth,
            realm=section.require("realm", reader_of(kind), "", "https://auth.example.com/token"),
        )
        return evolve(read, signingalgorithms=read.signingalgorithms or ALGORITHMS)
