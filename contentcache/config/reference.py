"""
What people and programs read about the configuration, made from the descriptions of its keys.

``python -m contentcache.config.reference`` writes the tables into ``docs/configuration.rst``, between the
comments that name them, and the JSON Schema into ``etc/config.schema.json``; with ``--check`` it writes
nothing and says what is not up to date.
"""

from __future__ import annotations

import json
import re
import sys
import textwrap
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from contentcache.config.model import (
    Configuration,
    Debug,
    Downstream,
    Gateway,
    HtpasswdAuth,
    Http,
    LetsEncrypt,
    Limits,
    Log,
    ServerTLS,
    Signing,
    StorageSettings,
    TokenAuth,
    Upstream,
)
from contentcache.config.schema.options import DescribedField, Option, described
from contentcache.config.sections import IGNORED_SECTIONS

#: The tables by their names, each made of some models whose keys stand below a section.
TABLES: Final[Mapping[str, Sequence[tuple[str, type[Any]]]]] = {
    "top": (("", Configuration),),
    "log": (("log.", Log),),
    "storage": (("storage.", StorageSettings),),
    "auth": (("auth.htpasswd.", HtpasswdAuth), ("auth.token.", TokenAuth)),
    "http": (("http.", Http), ("http.tls.", ServerTLS), ("http.debug.", Debug)),
    "letsencrypt": (("", LetsEncrypt),),
    "downstream": (("", Downstream), ("signing.", Signing)),
    "upstreams": (("", Upstream),),
    "redirect": (("", Gateway),),
    "limits": (("", Limits),),
}
#: The tables that have keys that are live, and what each is called in the list of those.
_LIVE_TITLES: Final[Mapping[str, str]] = {
    "log": "``log``",
    "storage": "``storage``",
    "http": "``http``",
    "downstream": "options of ``downstream``",
    "upstreams": "each of ``upstreams``, whose ``originhost`` names it",
    "redirect": "options of ``redirect``",
    "limits": "``limits``",
}
_WIDTH: Final = 119
_TITLES: Final = ("key", "type", "default", "meaning")
_TYPE_WIDTH: Final = 22
_DEFAULT_WIDTH: Final = 22
_TABLE: Final = r"(^\.\. table of {name}\n\n).*?(?=^\.\. end of {name}$)"


def rows(name: str) -> Iterator[tuple[str, str, str, str]]:
    """Key, type, default and meaning of every key in a table."""
    for section, model in TABLES[name]:
        for each in described(model):
            option = each.option
            yield f"``{section}{option.key}``", option.kind.title, each.default_title, _meaning(option)


def _meaning(option: Option) -> str:
    return f"{option.meaning}. Live" if option.effect == "reload" else option.meaning


def table(name: str) -> str:
    """One table in reStructuredText."""
    cells = [_TITLES, *rows(name)]
    widths = [max(len(row[column]) for row in cells) for column in range(3)]
    widths[1], widths[2] = min(widths[1], _TYPE_WIDTH), min(widths[2], _DEFAULT_WIDTH)
    widths.append(_WIDTH - sum(widths) - 6)
    rule = "  ".join("=" * width for width in widths)
    lines = [rule, *_row(_TITLES, widths), rule]
    for row in cells[1:]:
        lines += _row(row, widths)
    return "\n".join([*lines, rule]) + "\n"


def _row(row: Sequence[str], widths: Sequence[int]) -> Iterator[str]:
    wrapped = [
        textwrap.wrap(cell, width, break_long_words=False, break_on_hyphens=False) or [""]
        for cell, width in zip(row, widths, strict=True)
    ]
    for line in range(max(map(len, wrapped))):
        parts = [cell[line] if line < len(cell) else "" for cell in wrapped]
        yield "  ".join(part.ljust(width) for part, width in zip(parts, widths, strict=True)).rstrip()


def with_tables(document: str) -> str:
    """
    A document with every table in it made anew.

    :raises ValueError: a table has no place in the document.
    """
    for name in (*TABLES, "live"):
        pattern = re.compile(_TABLE.format(name=name), re.MULTILINE | re.DOTALL)
        found = pattern.search(document)
        if found is None:
            raise ValueError(f"the document has no place for the table of {name}")
        made = live_keys() if name == "live" else table(name)
        document = f"{document[: found.start()]}{found[1]}{made}\n{document[found.end() :]}"
    return document


def live_keys() -> str:
    """A list of the keys that change with a reload, section by section."""
    lines = []
    for name, title in _LIVE_TITLES.items():
        keys = [
            f"``{section}{each.option.key}``"
            for section, model in TABLES[name]
            for each in described(model)
            if each.option.effect == "reload"
        ]
        lines += [
            f"{title}",
            *textwrap.wrap(", ".join(keys), _WIDTH - 4, initial_indent="    ", subsequent_indent="    "),
        ]
    return "\n".join(lines) + "\n"


def schema() -> dict[str, Any]:
    """
    A JSON Schema (draft 2020-12) for editors that check and complete the file.

    It knows every key and the type of its value; what else is checked, only ``contentcache check`` knows.
    """
    upstream = _object(Upstream)
    plain = {"type": "array", "items": {"anyOf": [{"type": "string"}, upstream]}}
    downstream = _object(Downstream, upstreams=plain, signing=_object(Signing), limits=_object(Limits))
    middlewares = [
        _middleware("downstream", downstream),
        _middleware("redirect", _object(Gateway, account=_ACCOUNT, limits=_object(Limits))),
    ]
    tls = _object(ServerTLS, letsencrypt=_object(LetsEncrypt))
    top = _object(
        Configuration,
        version={"enum": [0.1, "0.1"]},
        log=_object(Log, open_=True),
        loglevel={"type": "string"},
        storage={"anyOf": [{"type": "string"}, _object(StorageSettings, open_=True)]},
        auth={"anyOf": [{"type": "string"}, _sections(htpasswd=HtpasswdAuth, token=TokenAuth)]},
        http=_object(Http, open_=True, tls=tls, debug=_object(Debug)),
        middleware=_closed(registry={"type": "array", "items": {"anyOf": middlewares}}),
    )
    top["properties"] |= {name: {} for name in IGNORED_SECTIONS}
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "Content Cache", **top}


_BOOLEAN: Final = {"type": "boolean"}
_ACCOUNT: Final = {
    "type": "object",
    "properties": {
        "username": {"type": ["string", "number"]},
        "password": {"type": ["string", "number"]},
        "passwordfile": {"type": "string"},
    },
    "additionalProperties": False,
}


def _closed(**properties: object) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "additionalProperties": False}


def _sections(**models: type[Any]) -> dict[str, Any]:
    return _closed(none={}, **{name: _object(model) for name, model in models.items()})


def _middleware(name: str, options: Mapping[str, Any]) -> dict[str, Any]:
    entry = _closed(name={"const": name}, disabled=_BOOLEAN, options=options)
    return {**entry, "required": ["name"]}


def _object(model: type[Any], *, open_: bool = False, **others: object) -> dict[str, Any]:
    """The schema of a mapping; ``open_`` where other keys are accepted, ``others`` are described elsewhere."""
    properties: dict[str, Any] = {}
    for each in described(model):
        place = properties
        *sections, key = each.option.key.split(".")
        for section in sections:
            place = place.setdefault(section, _closed())["properties"]
        place[key] = _property(each)
    mapping = _closed(**{**properties, **others})
    if open_:
        del mapping["additionalProperties"]
    return {**mapping, "type": ["object", "null"]}


def _property(each: DescribedField) -> dict[str, Any]:
    option = each.option
    return {
        **option.kind.schema,
        "description": option.meaning.replace("``", ""),
        "x-since": option.since,
        "x-takes-effect": option.effect,
    }


def main(arguments: Sequence[str]) -> int:
    """Write what is made from the descriptions, or check it; the exit status."""
    root = Path(__file__).parents[2]
    document, file = root / "docs" / "configuration.rst", root / "etc" / "config.schema.json"
    wanted = {
        document: with_tables(document.read_text("utf-8")),
        file: json.dumps(schema(), indent=1, sort_keys=True) + "\n",
    }
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text("utf-8") != text]
    for path in stale:
        if "--check" in arguments:
            sys.stderr.write(f"{path.name} is not up to date: run python -m contentcache.config.reference\n")
        else:
            path.write_text(wanted[path], "utf-8")
    return 1 if stale and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
