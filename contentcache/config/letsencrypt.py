"""
The section ``http.tls.letsencrypt``: certificates that come by themselves.
"""

from __future__ import annotations

import os
import re
from base64 import urlsafe_b64decode
from ipaddress import ip_address
from typing import Final, Literal
from urllib.parse import urlsplit

from contentcache.config.document import Series
from contentcache.config.faults import Wrong
from contentcache.config.files import certificates
from contentcache.config.model import LETS_ENCRYPT, Address, ExternalAccount, Http, LetsEncrypt
from contentcache.config.readers import choice, duration, listing, secret, text
from contentcache.config.tables import Item, Table
from contentcache.config.urls import address, authority, url

Challenge = Literal["tls-alpn-01", "http-01"]

_KEYS: Final = (
    "cachefile",
    "hosts",
    "email",
    "directoryurl",
    "directoryca",
    "http",
    "eab",
    "challenge",
    "profile",
    "lifetime",
)

#: What a certificate's common name has room for (RFC 5280, ub-common-name).
_LONGEST_HOST: Final = 64

#: File systems of the kernel.
_NOT_KEPT: Final = ("/proc/", "/sys/")

_EMAIL = re.compile(r"[^@\s,?]+@[^@\s,?]+")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_PROFILE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_BASE64 = re.compile(r"[A-Za-z0-9_-]+={0,2}")


def read_letsencrypt(tls: Table, listening: Address) -> LetsEncrypt | None:
    """
    Read the section, ``None`` where there is none.
    """
    with tls.section("letsencrypt") as section:
        directory = section.read("cachefile", _directory, None)
        hosts = section.read("hosts", listing(_host), ())
        http = section.read("http", address, None)
        challenge: Challenge | None = section.read("challenge", choice(("tls-alpn-01", "http-01")), None)
        read = LetsEncrypt(
            directory=directory or "",
            hosts=hosts,
            email=section.read("email", _email, None),
            directoryurl=section.read("directoryurl", _directory_url, LETS_ENCRYPT),
            directoryca=section.read("directoryca", certificates, None),
            http=http,
            eab=_read_eab(section),
            challenge=challenge,
            profile=section.read("profile", _profile, None),
            lifetime=section.read("lifetime", duration(zero=False), None),
        )
        if not any(section.has(key) for key in _KEYS):
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
    if _is_empty(section.take("hosts")):
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
    """
    Warn of what works, and may not be what is meant.
    """
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
    """
    Note where certificates and blobs would be in one folder: each is cleared up by its own rules.
    """
    settings = None if http.tls is None else http.tls.letsencrypt
    if settings is not None and os.path.realpath(settings.directory) == os.path.realpath(blobs):
        root.section("http").section("tls").section("letsencrypt").fault(
            "cachefile", "is the folder of storage.filesystem.rootdirectory; give it one of its own"
        )


def _is_empty(item: Item | None) -> bool:
    return item is None or (isinstance(item.node, Series) and not item.node.items)


def _written(section: Table) -> str:
    item = section.take("cachefile")
    return "" if item is None else text(item).rstrip("/")


def _directory(item: Item) -> str:
    """
    The folder to keep certificates in. Where the path is that of a file, as version 2.8 has it, the one
    beside it.
    """
    path = text(item)
    path = path.rstrip("/")
    if not path:
        raise Wrong(f"{item.shown()} is no folder for certificates; write e.g. /var/lib/contentcache/acme")
    if os.path.abspath(path).startswith(_NOT_KEPT):
        raise Wrong(f"{item.shown()} keeps no files; write e.g. /var/lib/contentcache/acme")
    above = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if os.path.isfile(above):
        raise Wrong(f"{item.shown()} cannot be a folder, as {above} is a file")
    return f"{path}.d" if os.path.isfile(path) else path


def _host(item: Item) -> str:
    written = text(item)
    if not written.strip() or any(letter in written for letter in " \t,;"):
        raise Wrong(
            f"{item.shown()} is not one host name; write each as an entry of its own, e.g. [a.example]"
        )
    if written.startswith(("-", ".")) or ".-" in written:
        raise Wrong(
            f"{item.shown()} is not a host name: each part begins with a-z or 0-9; write e.g. a.example"
        )
    if "*" in written:
        raise Wrong(f"{item.shown()} is a wildcard, which needs the challenge dns-01; name each host")
    host = written if _is_address(written) else authority(item)
    if _is_address(host):
        raise Wrong(f"{item.shown()} is an address; certificates are for names, e.g. cache.example.com")
    if ":" in host:
        raise Wrong(f"{item.shown()} has a port; write the host alone")
    if len(host) > _LONGEST_HOST:
        known = "" if host == written else f"{host}, "
        raise Wrong(
            f"{item.shown()} is {known}longer than the {_LONGEST_HOST} characters that can be certified"
        )
    if not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise Wrong(
            f"{item.shown()} is not a host name that can be certified; only a-z, 0-9 and - may be in it"
        )
    return host


def _directory_url(item: Item) -> str:
    written = text(item)
    if "@" in written.partition("://")[2].partition("/")[0]:
        # What stands there may be a password: it is not repeated.
        raise Wrong(
            "the URL holds a user name or a password; an ACME server knows you by the key of your account, "
            "and by eab, if it gave you one"
        )
    return url(item)


def _is_public(directory_url: str) -> bool:
    """
    Whether it is Let's Encrypt's, for tests or not; others may know names of their own.
    """
    return (urlsplit(directory_url).hostname or "").endswith(".letsencrypt.org")


def _profile(item: Item) -> str:
    written = text(item)
    if not _PROFILE.fullmatch(written):
        raise Wrong(f"{item.shown()} is not the name of a profile; write e.g. shortlived")
    return written


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def _email(item: Item) -> str:
    written = text(item).removeprefix("mailto:")
    if ":" in written or not _EMAIL.fullmatch(written) or not written.isascii():
        raise Wrong(f"{item.shown()} is not an address for mail; write e.g. ops@example.com")
    return written


def _read_eab(section: Table) -> ExternalAccount | None:
    with section.section("eab") as eab:
        kid = eab.read("kid", text, None)
        hmackey = eab.read("hmackey", _hmackey, None)
        for present, absent in (("kid", "hmackey"), ("hmackey", "kid")):
            if eab.has(present) and not eab.has(absent):
                eab.fault(absent, f"is required where {present} is given")
        return None if kid is None or hmackey is None else ExternalAccount(kid, hmackey)


def _hmackey(item: Item) -> bytes:
    """
    Bytes in base64url, as certificate authorities hand them out; padding may be there or not.
    """
    written = secret(item).replace("+", "-").replace("/", "_")
    bare = written.rstrip("=")
    if not _BASE64.fullmatch(written) or len(bare) % 4 == 1:
        raise Wrong("is not a key in base64url, as the certificate authority hands it out")
    return urlsafe_b64decode(bare + "=" * (-len(bare) % 4))
