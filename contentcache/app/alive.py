"""``contentcache alive``: whether the daemon answers, for containers whose images have no curl."""

from __future__ import annotations

import http.client
import socket
import ssl
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from contentcache import __version__
from contentcache.config.model import Address, Http

#: The process whose arguments name the configuration in a container: the daemon, or an init before it.
_FIRST_PROCESS: Final = Path("/proc/1/cmdline")

#: 503 is the answer of a daemon that has as many connections as it may: a restart would cut them all.
_LIVING: Final = (200, 503)

_DEMANDING: Final = ("require-any-client-cert", "require-and-verify-client-cert")


class NotAliveError(Exception):
    """The daemon does not answer, or another program does; the message says where and how."""


def ask(settings: Http, timeout: float) -> str:
    """
    ``GET /`` of the daemon with these settings, and a sentence about its answer.

    ``timeout`` is in seconds, for each step. Its certificate is not verified: we know whom we ask, and it may
    be for another name. Where it demands a certificate of ours, asking for it is an answer.

    :raises NotAliveError: there is none, or not one of the daemon's.
    """
    where = _shown(settings)
    try:
        with _connection(settings.addr, timeout) as plain:
            if settings.tls is None:
                status = _status(plain)
            elif settings.tls.clientcas and settings.tls.clientauth in _DEMANDING:
                _shake_hands(plain)
                return f"{where} asks for a certificate"
            else:
                with _unverified().wrap_socket(plain) as secure:
                    status = _status(secure)
    except (OSError, ValueError, http.client.HTTPException) as error:
        reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
        raise NotAliveError(f"{where} does not answer: {reason}") from error
    if status not in _LIVING:
        raise NotAliveError(f"{where} answers {status}, which this daemon never does")
    return f"{where} answers {status}"


def file_of_first_process() -> str | None:
    """The configuration that process 1 was started with, ``None`` where it is no Content Cache."""
    with suppress(OSError):
        return file_in(_FIRST_PROCESS.read_bytes())
    return None


def file_in(command_line: bytes) -> str | None:
    """
    The file in a command line as ``/proc`` has it.

    >>> file_in(b"python3\\0twistd\\0--nodaemon\\0contentcache\\0--config\\0/config.yml\\0")
    '/config.yml'
    >>> file_in(b"docker-init\\0--\\0twistd\\0contentcache\\0--config=/config.yml\\0")
    '/config.yml'
    >>> file_in(b"other\\0--config\\0/config.yml\\0")
    """
    words = [word.decode("utf-8", "surrogateescape") for word in command_line.split(b"\0")]
    if "contentcache" not in words:
        return None
    return _last_option(words[words.index("contentcache") + 1 :])


def _last_option(words: Sequence[str]) -> str | None:
    found: str | None = None
    for word, following in zip(words, [*words[1:], ""], strict=True):
        if word in {"--config", "-c"}:
            found = following
        elif word.startswith("--config="):
            found = word.removeprefix("--config=")
    return found or None


def _shown(settings: Http) -> str:
    """
    The URL that is asked, for people.

    >>> _shown(Http(Address("", 5000))), _shown(Http(Address("::", 443)))
    ('http://localhost:5000/', 'http://[::1]:443/')
    """
    if settings.addr.path is not None:
        return settings.addr.path
    scheme = "http" if settings.tls is None else "https"
    host = _host(settings.addr)
    return f"{scheme}://{f'[{host}]' if ':' in host else host}:{settings.addr.port}/"


def _host(address: Address) -> str:
    """Whom to connect to, for what is listened on: "any address" is none that can be asked."""
    return {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(address.host, address.host)  # noqa: S104


def _connection(address: Address, timeout: float) -> socket.socket:
    if address.path is None:
        return socket.create_connection((_host(address), address.port), timeout)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        connection.settimeout(timeout)
        connection.connect(address.path)
    except (OSError, ValueError):
        connection.close()
        raise
    return connection


def _unverified() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
    return context


def _shake_hands(plain: socket.socket) -> None:
    """
    TLS as far as it goes without a certificate: in 1.3 we are done before we are refused, in 1.2 the refusal
    is an alert. Either comes from a daemon that lives.
    """
    try:
        _unverified().wrap_socket(plain).close()
    except ssl.SSLError as error:
        if "ALERT" not in (error.reason or ""):
            raise


def _status(connection: socket.socket) -> int:
    asking = http.client.HTTPConnection("localhost")
    asking.sock = connection
    headers = {"User-Agent": f"contentcache/{__version__} (alive)", "Connection": "close"}
    asking.request("GET", "/", headers=headers)
    with asking.getresponse() as answer:
        return answer.status
