"""
The middleware ``redirect``, whose options make the daemon a gateway before a registry.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_network
from typing import Final

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from contentcache.config.downstream import read_limits
from contentcache.config.faults import Wrong
from contentcache.config.files import absolute_certificates, pair, password
from contentcache.config.model import Account, Gateway, Http
from contentcache.config.readers import duration, listing, secret, size, text
from contentcache.config.tables import Item, Table
from contentcache.config.urls import base_url, host_or_network, url_or_authority

LONGEST_URL_LIFE: Final = 3600.0
#: A key is published before it signs, and stays as long as what it has signed.
SHORTEST_KEY_LIFE: Final = 7200.0

_POSITIVE = duration(zero=False)
_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+/?")
_LARGEST_KEY: Final = 64 << 10


def read_options(item: Item, http: Http) -> Gateway:
    """
    Read what stands beside the name.
    """
    entry = item.table()
    with entry.section("options") as options:
        registry = options.demand("registry", base_url, "", "https://internal-registry:5000")
        files = pair(options)
        gateway = Gateway(
            registry=registry,
            issuer=_issuer(options, http),
            signingkey=options.demand("signingkey", _signing_key, "", "/etc/contentcache/signing.pem"),
            database=options.demand("database", text, "", "/var/lib/contentcache/gateway.sqlite3"),
            keylifetime=options.read("keylifetime", _key_life, 2_592_000.0),
            urlttl=options.read("urlttl", _url_life, 1200.0),
            minimumsize=options.read("minimumsize", size(zero=True), 64 << 10),
            admins=options.read("admins", listing(_username), ()),
            admingroup=options.read("admingroup", text, None),
            account=_account(options),
            networks=_networks(options),
            paths=options.read("paths", listing(_path), ()),
            cas=options.read("cas", listing(absolute_certificates), ()),
            certificate=files[0] if files else None,
            key=files[1] if files else None,
            realms=options.read("realms", listing(url_or_authority), ()),
            redirects=options.read("redirects", listing(host_or_network), ()),
            authttl=options.read("authttl", duration(zero=True), 60.0),
            checkinterval=options.read("checkinterval", _POSITIVE, 10.0),
            writetimeout=options.read("writetimeout", _POSITIVE, 900.0),
            stalltimeout=options.read("stalltimeout", _POSITIVE, 30.0),
            connecttimeout=options.read("connecttimeout", _POSITIVE, 10.0),
            limits=read_limits(options),
        )
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


def _signing_key(item: Item) -> str:
    """
    The path of a private key on P-256 in PEM, or of a file that is not there yet.
    """
    path = text(item)
    try:
        with open(path, "rb") as file:
            mode = os.fstat(file.fileno()).st_mode
            key = load_pem_private_key(file.read(_LARGEST_KEY), None)
    except FileNotFoundError:
        return path
    except OSError as error:
        raise Wrong(f"{path!r} cannot be read: {error.strerror or error}") from None
    except TypeError:
        raise Wrong(f"the key in {path!r} is encrypted; store it without a passphrase") from None
    except (ValueError, UnsupportedAlgorithm):
        raise Wrong(f"{path!r} does not hold a private key in PEM") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Wrong(f"the key in {path!r} is not one on P-256 for ES256; take the file away, and one is made")
    if mode & 0o077:
        item.report.warn(item.place, f"{path} can be read by others, who could sign with it; chmod 600 it")
    return path


def _key_life(item: Item) -> float:
    seconds = _POSITIVE(item)
    if seconds < SHORTEST_KEY_LIFE:
        raise Wrong(f"{item.shown()} is shorter than 2h; write e.g. 720h")
    return seconds


def _url_life(item: Item) -> float:
    seconds = _POSITIVE(item)
    if seconds > LONGEST_URL_LIFE:
        raise Wrong(f"{item.shown()} is longer than 1h, which caches refuse; write e.g. 20m")
    return seconds


def _account(options: Table) -> Account | None:
    with options.section("account") as table:
        username = table.read("username", _username, None)
        word = table.read("password", secret, None)
        from_file = table.read("passwordfile", password, None)
        ways = [key for key in ("password", "passwordfile") if table.has(key)]
        if len(ways) > 1:
            table.fault("passwordfile", "is given beside password; one of them is enough")
        if table.present and not table.has("username"):
            table.fault("username", "is required in an account")
        if table.has("username") and not ways:
            table.fault("username", "has no password; give password or passwordfile")
        found = word or from_file
        return Account(username, found) if username and found else None


def _username(item: Item) -> str:
    name = text(item)
    if ":" in name:
        # RFC 7617 §2: the first colon ends the name.
        raise Wrong(f"{item.shown()} holds a colon, which no user name may")
    return name


def _networks(options: Table) -> dict[str, str]:
    """
    The name of a cache for each network; the networks in one spelling.
    """
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


def _path(item: Item) -> str:
    path = text(item)
    if not os.path.isabs(path) or not _PATH.fullmatch(path):
        raise Wrong(f"{item.shown()} is not a path of the registry; write e.g. /service/token")
    return path
