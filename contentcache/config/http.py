"""The section ``http``, with ``http.tls.letsencrypt``."""

from __future__ import annotations

import os
import re
from typing import Final, Literal
from urllib.parse import urlsplit

from contentcache.config.document import Series
from contentcache.config.faults import InvalidValueError
from contentcache.config.files import pair
from contentcache.config.model import Address, Debug, ExternalAccount, Http, LetsEncrypt, ServerTLS
from contentcache.config.patterns import certificate_folder
from contentcache.config.readers import choice, listing, scalar, text
from contentcache.config.reading import read_key, read_values, reader_of
from contentcache.config.schema.options import keys_of, option_of
from contentcache.config.tables import Item, Table
from contentcache.config.urls import address, socket_file

MinimumTLS = Literal["tls1.0", "tls1.1", "tls1.2", "tls1.3"]

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
#: What RFC 9110 §5.5 allows in a header, but for letters beyond ASCII.
_HEADER_VALUE = re.compile(r"(?:[!-~](?:[ -~\t]*[!-~])?)?")
#: Headers that frame messages, or control the connection.
_FRAMING: Final = frozenset({"connection", "content-length", "transfer-encoding", "upgrade", "trailer", "te"})


def read_http(root: Table) -> Http:
    """Read the whole section."""
    with root.section("http") as http:
        http.ignore(("secret", "relativeurls"))
        _warn_of_protocols(http)
        net = http.read("net", choice(("tcp", "unix")), "tcp")
        reader = socket_file if net == "unix" else address
        listening = http.require("addr", reader, Address("", 0), ":5000")
        return read_values(
            http,
            Http,
            addr=listening,
            tls=_read_tls(http, listening),
            headers=_read_headers(http),
            debug=_read_debug(http, listening),
        )


def warn_of_plain_http(root: Table, http: Http, *, forwarding: bool, authenticating: bool) -> None:
    """Warn of credentials that arrive without TLS: to be forwarded, or to authenticate clients here."""
    behind_tls = http.host is not None and http.host.startswith("https://")
    if http.tls is not None or http.addr.path is not None or behind_tls or not (forwarding or authenticating):
        return
    what = "which it passes on to the origin" if forwarding else "which it checks by the section auth"
    root.section("http").warn(
        "addr",
        f"clients send their passwords and tokens, {what}, over plain HTTP: anyone on the line may read and "
        "use them; give http.tls a certificate and a key, or listen with net: unix behind a server with TLS",
    )


def _warn_of_protocols(http: Table) -> None:
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
        raise InvalidValueError(f"{item.described()} is not a value of a header: printable ASCII in one line")
    return value


def _read_debug(http: Table, listening: Address) -> Debug | None:
    with http.section("debug") as debug:
        with debug.section("prometheus") as prometheus:
            enabled = read_key(prometheus, Debug, "prometheus.enabled", False)
            path = read_key(prometheus, Debug, "prometheus.path", "/metrics")
        names = read_key(debug, Debug, "names", False)
        hosts = read_key(debug, Debug, "hosts", ())
        addr = debug.read("addr", address, None)
        if addr is None:
            if enabled and not debug.has("addr"):
                debug.fault("addr", "is required where prometheus is enabled; write e.g. 127.0.0.1:5001")
            return None
        if addr == listening and addr.port:
            debug.fault("addr", "is the address of http.addr; give it a port of its own")
        return Debug(addr, path if enabled else None, names, hosts)


Challenge = Literal["tls-alpn-01", "http-01"]

#: The keys of the section itself.
_TOP_KEYS: Final = frozenset(key.partition(".")[0] for key in keys_of(LetsEncrypt))


def read_letsencrypt(tls: Table, listening: Address) -> LetsEncrypt | None:
    """Read the section, ``None`` where there is none."""
    with tls.section("letsencrypt") as section:
        read = read_values(
            section,
            LetsEncrypt,
            directory=section.read("cachefile", certificate_folder, None) or "",
            hosts=read_key(section, LetsEncrypt, "hosts", ()),
            eab=_read_eab(section),
        )
        if not any(section.has(key) for key in _TOP_KEYS):
            if "letsencrypt" in tuple(tls) and not (tls.has("certificate") or tls.has("key")):
                tls.fault("letsencrypt", "is empty; it needs cachefile and hosts, or has to be taken out")
            return None
        for key in ("certificate", "key"):
            if tls.has(key):
                tls.fault(key, "cannot stand beside letsencrypt; give either files or letsencrypt")
        _check(section, read, listening)
        return read


def _check(section: Table, read: LetsEncrypt, listening: Address) -> None:
    if not section.has("cachefile"):
        section.fault("cachefile", "is required; write e.g. /var/lib/contentcache/acme")
    if _is_empty(section.get("hosts")):
        section.fault("hosts", "is required: without it anybody could have certificates made for any name")
    if read.challenge == "http-01" and read.http is None:
        section.fault("http", "is required for the challenge http-01; write e.g. :80")
    if read.challenge == "tls-alpn-01" and listening.path is not None:
        section.fault("challenge", "tls-alpn-01 needs a port, and http.net is unix")
    if listening.path is not None and read.http is None:
        section.fault("http", "is required where http.net is unix; write e.g. :80")
    if read.http is not None and read.http == listening and listening.port:
        section.fault("http", "is the address of http.addr; give it a port of its own, e.g. :80")
    _check_hosts(section, read)
    _warn(section, read)


def _check_hosts(section: Table, read: LetsEncrypt) -> None:
    for host in read.hosts if _is_public(read.directoryurl) else ():
        if "." not in host:
            section.fault(
                "hosts",
                f"{host!r} is no name of the public DNS, and Let's Encrypt certifies no other; write the "
                "whole name, e.g. cache.example.com",
            )


def _warn(section: Table, read: LetsEncrypt) -> None:
    """Warn of settings that work, and may be mistakes."""
    if read.directoryurl.startswith("http://"):
        section.warn(
            "directoryurl",
            f"{read.directoryurl}: over http anyone on the line reads and changes what passes",
        )
    if read.directory and not os.path.isabs(read.directory):
        section.warn(
            "cachefile",
            f"{read.directory} is a relative path: it starts at the folder in which the daemon starts, and "
            "contentcache certificates has to be run there too",
        )
    if read.directory and read.directory != _written(section):
        section.warn(
            "cachefile", f"is a file, as in version 2.8; it stays as it is, and {read.directory} is used"
        )


def check_separate_folders(root: Table, http: Http, blobs: str) -> None:
    """Refuse one folder for certificates and blobs: files in it are deleted by different rules."""
    settings = None if http.tls is None else http.tls.letsencrypt
    if settings is not None and os.path.realpath(settings.directory) == os.path.realpath(blobs):
        root.section("http").section("tls").section("letsencrypt").fault(
            "cachefile", "is the folder of storage.filesystem.rootdirectory; give it one of its own"
        )


def _is_empty(item: Item | None) -> bool:
    return item is None or (isinstance(item.node, Series) and not item.node.items)


def _written(section: Table) -> str:
    item = section.get("cachefile")
    return "" if item is None else text(item).rstrip("/")


def _is_public(directory_url: str) -> bool:
    """Whether it is Let's Encrypt's, for tests or not; others may know names of their own."""
    return (urlsplit(directory_url).hostname or "").endswith(".letsencrypt.org")


def _read_eab(section: Table) -> ExternalAccount | None:
    with section.section("eab") as eab:
        kid = read_key(eab, LetsEncrypt, "eab.kid")
        hmackey = read_key(eab, LetsEncrypt, "eab.hmackey")
        for present, absent in (("kid", "hmackey"), ("hmackey", "kid")):
            if eab.has(present) and not eab.has(absent):
                eab.fault(absent, f"is required where {present} is given")
        return None if kid is None or hmackey is None else ExternalAccount(kid, hmackey)
