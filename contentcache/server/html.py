"""HTML pages from templates: everything that is put into them is escaped, and they load nothing."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from contentcache import __version__
from contentcache.core import rounded

#: Pages have ``frame.html`` around them, and the style in it.
_SHARED: Final = Path(__file__).parent / "templates"


class HtmlPages:
    """The templates in ``folder``. Reads files: made, and called, in a thread."""

    def __init__(self, folder: Path) -> None:
        style = (_SHARED / "style.css").read_text(encoding="utf-8")
        digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
        #: Headers of each page: nothing is loaded or run, and the only style is that of the page itself.
        self.headers: Mapping[str, str] = {
            "Content-Type": "text/html; charset=utf-8",
            "Content-Security-Policy": (
                f"default-src 'none'; style-src 'sha256-{digest}'; img-src data:; base-uri 'none';"
                " form-action 'none'; frame-ancestors 'none'"
            ),
            "Cross-Origin-Opener-Policy": "same-origin",
            "Cross-Origin-Resource-Policy": "same-origin",
            "Referrer-Policy": "no-referrer",
            "Cache-Control": "no-store",
        }
        self._environment = Environment(
            loader=FileSystemLoader([folder, _SHARED]),
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            auto_reload=False,
        )
        self._environment.globals.update(style=Markup(style), version=__version__)  # noqa: S704  # our own file
        self.filters: dict[str, Any] = self._environment.filters
        self.filters.update(size=rounded.size, duration=rounded.duration, share=rounded.share, count=_count)

    def render(self, name: str, **values: Any) -> bytes:
        """The page of template ``name`` with ``values``."""
        return self._environment.get_template(name).render(**values).encode()


def _count(number: int) -> str:
    """
    A number with its thousands apart.

    >>> _count(1234567) == "1\\u202f234\\u202f567"
    True
    """
    return f"{number:,}".replace(",", "\u202f")
