"""``contentcache alive``: whether the daemon answers, for containers whose images have no curl."""

from __future__ import annotations

import http.client
import socket
import ssl
from typing import TYPE_CHECKING, Final

import click

from contentcache import __version__
from contentcache.commands.configuration import configuration_argument, load_configuration
from contentcache.commands.output import NOT_DONE, UNREACHABLE, Seconds, echo, fail, json_option, print_json

if TYPE_CHECKING:
    from contentcache.config.model import Address, Http

#: 503 is the answer of a daemon that has as many connections as it may: a restart would cut them all.
_LIVING: Final = (200, 503)

_DEMANDING: Final = ("require-any-client-cert", "require-and-verify-client-cert")


class NotAliveError(Exception):
    """The daemon does not answer; the message says where and how."""


class OtherProgramError(NotAliveError):
    """Another program answers."""


@click.command()
@configuration_argument
@click.option(
    "--timeout", type=Seconds(), default=5.0, show_default=True, help="Seconds to wait for an answer."
)
@json_option
def alive(file: str | None, timeout: float, as_json: bool) -> None:
    """
    Ask whether the daemon answers.

    The daemon that runs with a configuration FILE is asked on its own address; certificates are not
    verified. Overrides in the environment (REGISTRY_...) count. Without FILE the one that process 1 was
    started with is read, as in a container, or the one that REGISTRY_CONFIGURATION_PATH names, or
    /etc/contentcache/config.yml. The exit status is 3 where there is no answer, and 1 where another program
    answers.
    """
    _path, loaded = load_configuration(file, running=True, as_json=as_json)
    try:
        sentence = ask(loaded.configuration.http, timeout)
    except NotAliveError as dead:
        fail(str(dead), NOT_DONE if isinstance(dead, OtherProgramError) else UNREACHABLE, as_json=as_json)
    if as_json:
        print_json({"ok": True, "detail": sentence})
    else:
        echo(sentence)


def ask(settings: Http, timeout: float) -> str:
    """
    ``GET /`` of the daemon with these settings, and a sentence about its answer.

    ``timeout`` is in seconds, for each step. Its certificate is not verified: we know whom we ask, and it may
    be for another name. Where it demands a certificate of ours, asking for it is an answer.

    :raises NotAliveError: there is none.
    :raises OtherProgramError: it is not one of the daemon's.
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
        raise OtherProgramError(f"{where} answers {status}, which this daemon never does")
    return f"{where} answers {status}"


def _shown(settings: Http) -> str:
    """
    The URL that is asked, for people.

    >>> from contentcache.config.model import Address, Http
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
