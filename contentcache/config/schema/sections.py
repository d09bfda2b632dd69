"""The sections ``log`` and ``storage``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from attrs import Factory, frozen

from contentcache.config.schema.kinds import BOOLEAN, COUNT_OR_ZERO, FIELDS, MAPPING, PATH, one_of
from contentcache.config.schema.options import Option, by_hand, option

Level = Literal["error", "warn", "info", "debug"]


@frozen
class Log:
    """Section ``log``. ``accesslog`` says whether each request gets a line."""

    level: Level = by_hand(
        "info", Option("level", one_of("error", "warn", "info", "debug"), "least level that is written")
    )
    formatter: Literal["text", "json"] = by_hand(
        "text",
        Option("formatter", one_of("text", "json"), "``logstash`` is taken as ``json``, with a warning"),
    )
    fields: Mapping[str, object] = by_hand(
        Factory(dict), Option("fields", FIELDS, "names and single values that are added to every line")
    )
    accesslog: bool = by_hand(
        True, Option("accesslog.disabled", BOOLEAN, "no line for each request", "``false``")
    )


@frozen
class StorageSettings:
    """Section ``storage``: one driver, and whether blobs may be deleted."""

    driver: Literal["filesystem", "inmemory"] = by_hand(
        "filesystem", Option("inmemory", MAPPING, "keep blobs in memory, for trying out", "off")
    )
    rootdirectory: str = option(
        PATH,
        "/var/lib/registry",
        "where everything is kept; a relative path starts at the folder in which the daemon starts",
        key="filesystem.rootdirectory",
    )
    maxthreads: int = option(
        COUNT_OR_ZERO, 100, "file operations that run at once, at least 25", key="filesystem.maxthreads"
    )
    delete: bool = option(BOOLEAN, False, "blobs may be deleted: ``blobttl`` needs it", key="delete.enabled")
