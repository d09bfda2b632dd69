"""The middleware ``redirect``, whose options make the daemon a gateway before a registry."""

from __future__ import annotations

from ipaddress import ip_network

from contentcache.config.accounts import read_account
from contentcache.config.files import pair
from contentcache.config.model import Account, Gateway, Http, Limits
from contentcache.config.readers import text
from contentcache.config.reading import read_values
from contentcache.config.schema.gateway import CACHE_ONLY_LIMITS
from contentcache.config.tables import Item, Table
from contentcache.config.urls import base_url


def read_options(item: Item, http: Http) -> Gateway:
    """Read what stands beside the name."""
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
    """The bounds; those of a cache have their defaults, and are warned of."""
    with options.section("limits") as table:
        table.idle(CACHE_ONLY_LIMITS, "has no effect on a gateway")
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
