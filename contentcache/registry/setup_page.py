"""The page that a browser gets at ``/``: what this is, and how clients are pointed at it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

from attrs import frozen

from contentcache.config.model import Upstream
from contentcache.core.ports import Run
from contentcache.server.framing import is_host

if TYPE_CHECKING:
    from contentcache.server.html import HtmlPages

_HERE: Final = Path(__file__).parent / "templates"
_HUB: Final = "registry-1.docker.io"
#: Docker needs no configuration for these.
_LOCAL: Final = ("localhost", "127.0.0.1", "[::1]")


@frozen
class SetupPage:
    """The page for these upstreams; the API is below ``prefix``, which may be empty."""

    _run: Run
    _prefix: str
    _upstreams: Sequence[Upstream]

    async def render(self, base: str) -> tuple[bytes, Mapping[str, str]]:
        """The page and its headers; ``base`` is the URL that the browser asked, without a path."""
        return await self._run(_render, base, self._prefix, self._upstreams)


def _render(base: str, prefix: str, upstreams: Sequence[Upstream]) -> tuple[bytes, Mapping[str, str]]:
    scheme, _, host = base.partition("://")
    if not is_host(host):
        host = "cache.example.com"
    origin = upstreams[0].origin.partition("://")[2].partition(" ")[0]
    is_hub = origin == _HUB
    pages = _pages()
    text = pages.render(
        "setup.html",
        base=f"{scheme}://{host}",
        host=host,
        prefix=prefix,
        is_secure=scheme == "https",
        is_local=host.rpartition(":")[0] in _LOCAL or host in _LOCAL,
        is_hub=is_hub,
        registry="docker.io" if is_hub else origin,
        server=upstreams[0].origin.partition(" ")[0],
        image="library/alpine" if is_hub else "org/app:1",
        others=len(upstreams) - 1,
    )
    return text, {**pages.headers, "Vary": "Accept"}


@lru_cache(maxsize=1)
def _pages() -> HtmlPages:
    # Imported here: without browsers no templates are loaded.
    from contentcache.server.html import HtmlPages  # noqa: PLC0415

    return HtmlPages(_HERE)
