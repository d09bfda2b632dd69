"""
Readers of texts that have to follow a pattern: each takes an item and gives a value, or raises
``InvalidValueError``.
"""

from __future__ import annotations

import os
import re
from ipaddress import ip_address
from typing import Final

from contentcache.config.faults import InvalidValueError, suggestion
from contentcache.config.readers import duration, scalar, secret, text
from contentcache.config.tables import Item
from contentcache.config.urls import authority, url
from contentcache.core.base64url import lenient_base64url_decode
from contentcache.core.ciphersuites import OPENSSL_NAMES

#: More processes than this have nothing to do on any machine.
MOST_WORKERS: Final = 64
LONGEST_URL_LIFE: Final = 3600.0
#: A key is published before it signs, and stays as long as what it has signed.
SHORTEST_KEY_LIFE: Final = 7200.0
#: Signatures with a public key.
ALGORITHMS: Final = (
    "EdDSA",
    *(f"{family}{bits}" for family in ("RS", "ES", "PS") for bits in (256, 384, 512)),
)

#: What a certificate's common name has room for (RFC 5280, ub-common-name).
_LONGEST_HOST: Final = 64
#: File systems of the kernel.
_NOT_KEPT: Final = ("/proc/", "/sys/")

_PREFIX = re.compile(r"/(?:(?!\.{1,2}/)[A-Za-z0-9._~-]+/)*")
_PATH_PARTS = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+")
_REGISTRY_PATH = re.compile(r"(?:/(?!\.{1,2}(?:/|$))[A-Za-z0-9._~-]+)+/?")
_URL_PATH = re.compile(r"(?:/[A-Za-z0-9._~!$&'()*+,;=:@-]*)+")
_QUOTABLE = re.compile(r"[ !#-\[\]-~]+")
_COMPONENT = re.compile(r"[a-z0-9]+(?:(?:\.|_|__|-+)[a-z0-9]+)*")
_GLOB = re.compile(r"[a-z0-9._/*?\[\]!-]+")
_TAG_GLOB = re.compile(r"[A-Za-z0-9._*?\[\]!-]+")
_EMAIL = re.compile(r"[^@\s,?]+@[^@\s,?]+")
_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]*[a-z0-9])?")
_PROFILE = re.compile(r"[A-Za-z][A-Za-z0-9._-]*")
_BASE64 = re.compile(r"[A-Za-z0-9_-]+={0,2}")


def prefix(item: Item) -> str:
    """A prefix of paths, with a slash at both ends; an empty text is none."""
    written = scalar(item).text
    if not written:
        return "/"
    if not _PREFIX.fullmatch(written):
        raise InvalidValueError(
            f"{item.described()} is not a prefix of paths; it needs a slash at both ends, e.g. /cache/"
        )
    return written


def metrics_path(item: Item) -> str:
    """The path of the metrics at the debug address."""
    path = text(item)
    if not _PATH_PARTS.fullmatch(path) or path.startswith("/debug/"):
        raise InvalidValueError(f"{item.described()} is not a path for metrics; write e.g. /metrics")
    return path


def cipher_suite(item: Item) -> str:
    """A cipher suite by the names of Go's ``crypto/tls``."""
    name = text(item)
    if name not in OPENSSL_NAMES:
        near = suggestion(name, OPENSSL_NAMES)
        raise InvalidValueError(
            f"{item.described()} is not a cipher suite by the names of Go's crypto/tls{near}"
        )
    return name


def algorithm(item: Item) -> str:
    """An algorithm of signatures with a public key (RFC 7518 §3.1, RFC 8037 §3.1)."""
    name = text(item)
    if name in {"HS256", "HS384", "HS512"}:
        raise InvalidValueError(
            f"{name} is not supported: its key is a secret that signs as well as it verifies, so that "
            "whoever reads it here may make tokens; let the token server sign with ES256, EdDSA or RS256"
        )
    if name not in ALGORITHMS:
        raise InvalidValueError(
            f"{item.described()} is not one of {', '.join(ALGORITHMS)}{suggestion(name, ALGORITHMS)}"
        )
    return name


def quotable(item: Item) -> str:
    """A text that a quoted string of a header holds without escapes (RFC 9110 §5.6.4)."""
    return _matching(
        item, _QUOTABLE, "must be ASCII without quotes and backslashes, since a header carries it"
    )


def url_path(item: Item) -> str:
    """A path of a URL."""
    return _matching(item, _URL_PATH, "is not a path of a URL; write e.g. /auth/token/")


def component(item: Item) -> str:
    """The first component of a repository's name (distribution-spec 1.1, "Pulling manifests")."""
    return _matching(
        item, _COMPONENT, "is not the first component of a repository's name; write e.g. quay.io"
    )


def _matching(item: Item, pattern: re.Pattern[str], fault: str) -> str:
    value = text(item)
    if not pattern.fullmatch(value):
        raise InvalidValueError(f"{item.described()} {fault}")
    return value


def glob(item: Item) -> str:
    """A pattern of repositories."""
    pattern = text(item)
    if not _GLOB.fullmatch(pattern) or pattern.startswith("/") or pattern.endswith("/"):
        raise InvalidValueError(
            f"{item.described()} matches no repository; write e.g. library/* or org/**, in lower case"
        )
    return pattern


def tag_pattern(item: Item) -> str:
    """A pattern of tags: a glob, or a regular expression, which starts with ``^``."""
    pattern = text(item)
    if not pattern.startswith("^"):
        if not _TAG_GLOB.fullmatch(pattern):
            raise InvalidValueError(f"{item.described()} matches no tag; write e.g. v* or ^v[0-9.]+$")
        return pattern
    try:
        re.compile(pattern)
    except (re.error, OverflowError, RecursionError) as error:
        raise InvalidValueError(f"{item.described()} is not a regular expression: {error}") from None
    return pattern


def user_name(item: Item) -> str:
    """The name of an account. A message does not repeat it: what follows a colon may be the password."""
    name = text(item)
    if ":" in name:
        # RFC 7617 §2: the first colon ends the name. What follows may well be the password.
        raise InvalidValueError("holds a colon, which no user name may; the password has a key of its own")
    return name


def registry_path(item: Item) -> str:
    """A path of the registry behind a gateway."""
    path = text(item)
    if not os.path.isabs(path) or not _REGISTRY_PATH.fullmatch(path):
        raise InvalidValueError(
            f"{item.described()} is not a path of the registry; write e.g. /service/token"
        )
    return path


def key_lifetime(item: Item) -> float:
    """Seconds until a new key signs."""
    seconds = duration(zero=False)(item)
    if seconds < SHORTEST_KEY_LIFE:
        raise InvalidValueError(f"{item.described()} is shorter than 2h; write e.g. 720h")
    return seconds


def url_lifetime(item: Item) -> float:
    """Seconds for which a signed URL is good."""
    seconds = duration(zero=False)(item)
    if seconds > LONGEST_URL_LIFE:
        raise InvalidValueError(f"{item.described()} is longer than 1h, which caches refuse; write e.g. 20m")
    return seconds


def certificate_folder(item: Item) -> str:
    """
    The folder to keep certificates in. Where the path is that of a file, as version 2.8 has it, the one
    beside it.
    """
    path = text(item)
    path = path.rstrip("/")
    if not path:
        raise InvalidValueError(
            f"{item.described()} is no folder for certificates; write e.g. /var/lib/contentcache/acme"
        )
    if os.path.abspath(path).startswith(_NOT_KEPT):
        raise InvalidValueError(f"{item.described()} keeps no files; write e.g. /var/lib/contentcache/acme")
    above = os.path.dirname(os.path.abspath(path))
    while not os.path.lexists(above):
        above = os.path.dirname(above)
    if os.path.isfile(above):
        raise InvalidValueError(f"{item.described()} cannot be a folder, as {above} is a file")
    return f"{path}.d" if os.path.isfile(path) else path


def certificate_host(item: Item) -> str:
    """The name of a host that can be certified."""
    written = text(item)
    if not written.strip() or any(letter in written for letter in " \t,;"):
        raise InvalidValueError(
            f"{item.described()} is not one host name; write each as an entry of its own, e.g. [a.example]"
        )
    if written.startswith(("-", ".")) or ".-" in written:
        raise InvalidValueError(
            f"{item.described()} is not a host name: each part begins with a-z or 0-9; write e.g. a.example"
        )
    if "*" in written:
        raise InvalidValueError(
            f"{item.described()} is a wildcard, which needs the challenge dns-01; name each host"
        )
    host = written if _is_address(written) else authority(item)
    if _is_address(host):
        raise InvalidValueError(
            f"{item.described()} is an address; certificates are for names, e.g. cache.example.com"
        )
    if ":" in host:
        raise InvalidValueError(f"{item.described()} has a port; write the host alone")
    if len(host) > _LONGEST_HOST:
        known = "" if host == written else f"{host}, "
        raise InvalidValueError(
            f"{item.described()} is {known}longer than the {_LONGEST_HOST} characters that can be certified"
        )
    if not all(_LABEL.fullmatch(label) for label in host.split(".")):
        raise InvalidValueError(
            f"{item.described()} is not a host name that can be certified; only a-z, 0-9 and - may be in it"
        )
    return host


def acme_url(item: Item) -> str:
    """The URL of the directory of an ACME server."""
    written = text(item)
    if "@" in written.partition("://")[2].partition("/")[0]:
        # What stands there may be a password: it is not repeated.
        raise InvalidValueError(
            "the URL holds a user name or a password; an ACME server knows you by the key of your account, "
            "and by eab, if it gave you one"
        )
    return url(item)


def profile(item: Item) -> str:
    """The name of a profile of certificates."""
    written = text(item)
    if not _PROFILE.fullmatch(written):
        raise InvalidValueError(f"{item.described()} is not the name of a profile; write e.g. shortlived")
    return written


def email(item: Item) -> str:
    """An address for mail."""
    written = text(item).removeprefix("mailto:")
    if ":" in written or not _EMAIL.fullmatch(written) or not written.isascii():
        raise InvalidValueError(f"{item.described()} is not an address for mail; write e.g. ops@example.com")
    return written


def base64url(item: Item) -> bytes:
    """Bytes in base64url, as certificate authorities hand them out; padding may be there or not."""
    written = secret(item).replace("+", "-").replace("/", "_")
    bare = written.rstrip("=")
    if not _BASE64.fullmatch(written) or len(bare) % 4 == 1:
        raise InvalidValueError("is not a key in base64url, as the certificate authority hands it out")
    return lenient_base64url_decode(bare)


def _is_address(host: str) -> bool:
    try:
        ip_address(host.strip("[]"))
    except ValueError:
        return False
    return True


def processes(item: Item) -> int:
    """A number of processes, or ``auto`` for one on each core."""
    written = scalar(item).text
    if written == "auto":
        return min(MOST_WORKERS, len(os.sched_getaffinity(0)))
    if not (written.isascii() and written.isdigit() and len(written) <= len(str(MOST_WORKERS))) or not (
        1 <= int(written) <= MOST_WORKERS
    ):
        raise InvalidValueError(
            f"{item.described()} is not a number of processes; write 1 to {MOST_WORKERS}, or auto for one on "
            "each core"
        )
    return int(written)
