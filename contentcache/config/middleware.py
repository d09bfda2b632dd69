"""The section ``middleware``: ``downstream`` makes the daemon a cache, ``redirect`` a gateway before a registry."""

from __future__ import annotations

from ipaddress import ip_network
from typing import Final, Literal, cast

from contentcache.config.downstream import read_downstream
from contentcache.config.faults import suggestion
from contentcache.config.files import pair
from contentcache.config.model import Account, Downstream, Gateway, Http, Limits
from contentcache.config.origins import read_account
from contentcache.config.readers import boolean, scalar, text
from contentcache.config.reading import read_values
from contentcache.config.schema.gateway import CACHE_ONLY_LIMITS
from contentcache.config.sections import Auth
from contentcache.config.tables import Item, Table
from contentcache.config.urls import base_url

Name = Literal["downstream", "redirect"]

_NAMES: Final = ("downstream", "redirect")
#: Middlewares that the registry has for its storage, and the original product.
_FOREIGN: Final = ("cloudfront", "redirect", "rewrite")
_ADVICE: Final = "use downstream, or redirect, in middleware.registry"


def read_middleware(root: Table, http: Http, *, delete: bool, auth: Auth | None) -> Downstream | Gateway:
    """
    Find the one middleware and read its options.

    ``delete`` is ``storage.delete.enabled``, without which nothing may expire; ``auth`` is the section that
    authenticates clients here.
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
        root.fault("auth", "has no place at a gateway, whose clients the registry behind authorizes")
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
        name = entry.require("name", lambda given: scalar(given).text, None, "downstream")
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


def read_gateway(item: Item, http: Http) -> Gateway:
    """Read the options of a gateway."""
    entry = item.table()
    with entry.section("options") as options:
        files = pair(options)
        gateway = read_values(
            options,
            Gateway,
            issuer=_issuer(options, http),
            account=_account(options),
            networks=_networks(options),
            certificate=files[0] if files else None,
            key=files[1] if files else None,
            limits=_limits(options),
        )
        registry = gateway.registry
        if registry and registry == gateway.issuer:
            options.fault("registry", "is the gateway itself; name the registry behind it")
        if registry.startswith("http://"):
            options.warn(
                "registry", f"{registry}: over http anyone on the line reads what passes, passwords too"
            )
        return gateway


def _issuer(options: Table, http: Http) -> str:
    if options.has("issuer"):
        return options.read("issuer", base_url, "")
    if http.host is not None:
        host = http.host
        if "://" not in host:
            host = f"{'http' if http.tls is None else 'https'}://{host}"
        if host.count("/") == 2:  # noqa: PLR2004  # those of the scheme
            return host
        options.fault("issuer", f"is required where http.host has a path, as in {host!r}")
        return ""
    options.fault(
        "issuer",
        "is required where http.host is not given: clients and caches know the gateway by it; write e.g. "
        "https://registry.example.com",
    )
    return ""


def _account(options: Table) -> Account | None:
    with options.section("account") as table:
        if table.present and not table.has("username"):
            table.fault("username", "is required in an account")
        return read_account(table)


def _limits(options: Table) -> Limits:
    """Read ``limits``; those that only a cache has are ignored with a warning."""
    with options.section("limits") as table:
        table.ignore(CACHE_ONLY_LIMITS, "has no effect on a gateway")
        return read_values(table, Limits, **{key: getattr(Limits(), key) for key in CACHE_ONLY_LIMITS})


def _networks(options: Table) -> dict[str, str]:
    """The name of a cache for each network; the networks in one spelling."""
    networks: dict[str, str] = {}
    with options.section("networks") as table:
        for written in table:
            cache = table.read(written, text, None)
            try:
                network = str(ip_network(written, strict=False))
            except ValueError:
                table.fault(written, "is not a network; write e.g. 10.2.0.0/16: region-us")
                continue
            if network in networks:
                table.fault(written, "is given twice")
            elif cache is not None:
                networks[network] = cache
    return networks
