"""The section ``http``: where and how this daemon listens."""

from __future__ import annotations

import re
from typing import Final, Literal

from contentcache.config.faults import Wrong
from contentcache.config.files import pair
from contentcache.config.letsencrypt import read_letsencrypt
from contentcache.config.model import Address, Debug, Http, ServerTLS
from contentcache.config.readers import choice, listing, scalar
from contentcache.config.reading import read_key, read_values, reader_of
from contentcache.config.schema.options import option_of
from contentcache.config.tables import Item, Table
from contentcache.config.urls import address, socket_file

MinimumTLS = Literal["tls1.0", "tls1.1", "tls1.2", "tls1.3"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: What RFC 9110 §5.5 allows in a header, but for letters beyond ASCII.
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[ -~\t]*[!-~])?)?")
#: Headers that say where an answer ends, or what becomes of the connection.
_FRAMING: Final = frozenset({"connection", "content-length", "transfer-encoding", "upgrade", "trailer", "te"})


def read_http(root: Table) -> Http:
    """Read the whole section."""
    with root.section("http") as http:
        http.idle(("secret", "relativeurls"))
        _notice_protocols(http)
        net = http.read("net", choice(("tcp", "unix")), "tcp")
        reader = socket_file if net == "unix" else address
        listening = http.demand("addr", reader, Address("", 0), ":5000")
        return read_values(
            http,
            Http,
            addr=listening,
            tls=_read_tls(http, listening),
            headers=_read_headers(http),
            debug=_read_debug(http, listening),
        )


def notice_plain_http(root: Table, http: Http, *, forwarding: bool, judging: bool) -> None:
    """Warn of credentials that come in without TLS: to be passed on (``forwarding``), or to be judged here."""
    behind_tls = http.host is not None and http.host.startswith("https://")
    if http.tls is not None or http.addr.path is not None or behind_tls or not (forwarding or judging):
        return
    what = "which it passes on to the origin" if forwarding else "which it judges by auth"
    root.section("http").warn(
        "addr",
        f"clients send their passwords and tokens, {what}, over plain HTTP: anyone on the line may read and "
        "use them; give http.tls a certificate and a key, or listen with net: unix behind a server with TLS",
    )


def _notice_protocols(http: Table) -> None:
    given = [key for key in ("http2", "h2c") if http.has(key)]
    if given:
        http.warn(given[0], "has no effect: only HTTP/1.1 is offered")


def _read_tls(http: Table, listening: Address) -> ServerTLS | None:
    with http.section("tls") as tls:
        letsencrypt = read_letsencrypt(tls, listening)
        files = pair(tls)
        certificate, key = files or ("", "")
        read = read_values(
            tls,
            ServerTLS,
            certificate=certificate,
            key=key,
            minimumtls=_minimum(tls),
            letsencrypt=letsencrypt,
        )
        if tls.has("clientauth") and not tls.has("clientcas"):
            tls.warn("clientauth", "has no effect without clientcas")
        kinds = {
            kind for kind in ("_RSA_WITH_", "_ECDSA_WITH_") for name in read.ciphersuites if kind in name
        }
        if letsencrypt is not None and kinds == {"_RSA_WITH_"}:
            tls.warn("ciphersuites", "have none for TLS 1.2 with the ECDSA keys that letsencrypt makes")
        if files is None and letsencrypt is None:
            given = {key for key in tls if tls.has(key)}
            if given and not given & {"certificate", "key", "letsencrypt"}:
                tls.fault("certificate", "is required, and a key, where there is a section tls")
            return None
        return read


def _minimum(tls: Table) -> MinimumTLS:
    minimum: MinimumTLS = tls.read("minimumtls", reader_of(option_of(ServerTLS, "minimumtls").kind), "tls1.2")
    if minimum in {"tls1.0", "tls1.1"}:
        # RFC 8996 has retired both, the registry refuses them since 3.0, and OpenSSL mostly cannot.
        tls.warn("minimumtls", f"{minimum} is no longer offered; it is taken as tls1.2")
        return "tls1.2"
    return minimum


def _read_headers(http: Table) -> dict[str, tuple[str, ...]]:
    headers: dict[str, tuple[str, ...]] = {}
    table = http.section("headers")
    for name in table:
        if not _TOKEN.fullmatch(name):
            table.fault(name, "is not the name of a header")
        elif name.lower() in _FRAMING:
            table.fault(name, "is a header that frames messages; it cannot be set")
        headers[name] = table.read(name, listing(_header_value, repeats=True), ())
    return headers


def _header_value(item: Item) -> str:
    # Not text(): in a header a word such as yes stays a word, and an empty one is allowed.
    value = scalar(item).text
    if not _HEADER_VALUE.fullmatch(value):
        raise Wrong(f"{item.shown()} is not a value of a header: printable ASCII in one line")
    return value


def _read_debug(http: Table, listening: Address) -> Debug | None:
    with http.section("debug") as debug:
        with debug.section("prometheus") as prometheus:
            enabled = read_key(prometheus, Debug, "prometheus.enabled", False)
            path = read_key(prometheus, Debug, "prometheus.path", "/metrics")
        addr = debug.read("addr", address, None)
        if addr is None:
            if enabled and not debug.has("addr"):
                debug.fault("addr", "is required where prometheus is enabled; write e.g. 127.0.0.1:5001")
            return None
        if addr == listening and addr.port:
            debug.fault("addr", "is the address of http.addr; give it a port of its own")
        return Debug(addr, path if enabled else None)
