"""
The section ``middleware``: exactly one that makes the daemon what it is.

``downstream`` makes a cache, ``redirect`` a gateway.
"""

from __future__ import annotations

from typing import Final, Literal, cast

from contentcache.config.authentication import Auth
from contentcache.config.downstream import read_options as read_downstream
from contentcache.config.faults import suggestion
from contentcache.config.gateway import read_options as read_gateway
from contentcache.config.model import Downstream, Gateway, Http
from contentcache.config.readers import boolean, scalar
from contentcache.config.tables import Item, Table

Name = Literal["downstream", "redirect"]

_NAMES: Final = ("downstream", "redirect")
#: Middlewares that the registry has for its storage, and the original product.
_FOREIGN: Final = ("cloudfront", "redirect", "rewrite")
_ADVICE: Final = "use downstream, or redirect, in middleware.registry"


def read_middleware(root: Table, http: Http, *, delete: bool, auth: Auth | None) -> Downstream | Gateway:
    """
    Find the one middleware and read its options.

    ``delete`` is ``storage.delete.enabled``, without which nothing may expire; ``auth`` is the section of
    that name, by which clients are judged here.
    """
    found: list[tuple[Item, Name]] = []
    off: list[tuple[Item, Name]] = []
    with root.section("middleware") as middleware:
        for item in middleware.items("registry"):
            _sort(item, found, off)
        for other in ("repository", "storage"):
            for item in middleware.items(other):
                _sort(item, [], [], known=())
        if off and not found:
            item, name = off[0]
            item.fault(f"disabled: true on {name} leaves nothing to do; write false, or leave it out")
        elif not found:
            middleware.fault(
                "registry",
                "has no middleware named downstream, which is what makes a cache, or redirect, which makes a "
                "gateway",
            )
    for item, name in found[1:]:
        second = f"a second {name}" if name == found[0][1] else f"{name} beside {found[0][1]}"
        item.fault(f"is {second}; exactly one must be there")
    if auth is not None and any(name == "redirect" for _, name in found):
        root.fault("auth", "has no place at a gateway, whose clients are judged by the registry behind")
    read = [
        read_downstream(item, delete=delete, auth=auth) if name == "downstream" else read_gateway(item, http)
        for item, name in found
    ]
    return read[0] if read else Downstream(upstreams=())


def _sort(
    item: Item,
    found: list[tuple[Item, Name]],
    off: list[tuple[Item, Name]],
    known: tuple[str, ...] = _NAMES,
) -> None:
    """Check an entry's name; entries that are disabled are collected in ``off``, and not read further."""
    with item.table() as entry:
        disabled = entry.read("disabled", boolean, default=False)
        entry.get("options")
        name = entry.demand("name", lambda given: scalar(given).text, None, "downstream")
        if name is None:
            return
        if name in known:
            (off if disabled else found).append((item, cast("Name", name)))
        elif disabled:
            return
        elif name in _FOREIGN:
            entry.fault("name", f"{name!r} is a middleware that this daemon does not support; {_ADVICE}")
        else:
            near = suggestion(name, known) or "; middleware.registry knows downstream and redirect"
            entry.fault("name", f"unknown middleware {name[:60]!r}{near}")
