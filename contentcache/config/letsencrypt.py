"""The section ``http.tls.letsencrypt``: certificates that come by themselves."""

from __future__ import annotations

import os
from typing import Final, Literal
from urllib.parse import urlsplit

from contentcache.config.document import Series
from contentcache.config.model import Address, ExternalAccount, Http, LetsEncrypt
from contentcache.config.patterns import certificate_folder
from contentcache.config.readers import text
from contentcache.config.reading import read_key, read_values
from contentcache.config.schema.options import keys_of
from contentcache.config.tables import Item, Table

Challenge = Literal["tls-alpn-01", "http-01"]

#: The keys that stand in the section itself.
_TOP_KEYS: Final = frozenset(key.partition(".")[0] for key in keys_of(LetsEncrypt))

#: What a certificate's common name has room for (RFC 5280, ub-common-name).
_LONGEST_HOST: Final = 64

#: File systems of the kernel.
_NOT_KEPT: Final = ("/proc/", "/sys/")


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
    _notice(section, read)


def _check_hosts(section: Table, read: LetsEncrypt) -> None:
    for host in read.hosts if _is_public(read.directoryurl) else ():
        if "." not in host:
            section.fault(
                "hosts",
                f"{host!r} is no name of the public DNS, and Let's Encrypt certifies no other; write the "
                "whole name, e.g. cache.example.com",
            )


def _notice(section: Table, read: LetsEncrypt) -> None:
    """Warn of what works, and may not be what is meant."""
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


def see_folders_apart(root: Table, http: Http, blobs: str) -> None:
    """Note where certificates and blobs would be in one folder: each is cleared up by its own rules."""
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
