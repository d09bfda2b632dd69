"""What the pages are made of, read once: templates, our own style and script, and Swagger UI."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Final

from attrs import frozen
from jinja2 import Environment, FileSystemLoader, StrictUndefined

_HERE: Final = Path(__file__).parent
_KINDS: Final = {
    ".css": "text/css; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".svg": "image/svg+xml",
}
_SWAGGER: Final = ("swagger-ui.css", "swagger-ui-bundle.js")


@frozen
class Asset:
    """A file that pages refer to. ``etag`` follows its content."""

    content: bytes
    kind: str
    etag: str


def read_assets() -> Mapping[str, Asset]:
    """
    All of them by name.

    :raises OSError: one is missing: the program is not installed whole.
    """
    paths = [path for path in (_HERE / "static").iterdir() if path.suffix in _KINDS]
    paths += [_swagger_folder() / name for name in _SWAGGER]
    return {path.name: _asset(path) for path in paths}


def templates() -> Environment:
    """The pages' templates. Everything that is put into one is escaped."""
    return Environment(
        loader=FileSystemLoader(_HERE / "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        auto_reload=False,
    )


def _asset(path: Path) -> Asset:
    content = path.read_bytes()
    return Asset(content, _KINDS[path.suffix], f'"{hashlib.sha256(content).hexdigest()[:32]}"')


def _swagger_folder() -> Path:
    """Where the package has its files. It is not imported: only they are wanted of it."""
    found = find_spec("swagger_ui")
    places = None if found is None else found.submodule_search_locations
    if not places:
        raise FileNotFoundError("swagger-ui-py is not installed")
    return Path(places[0]) / "static"
