"""Requests to the running daemon, by its admin API."""

from __future__ import annotations

import http.client
import json
import socket
from typing import TYPE_CHECKING, Any, Final

from attrs import frozen

from contentcache import __version__
from contentcache.persist.unix_socket import short_path

if TYPE_CHECKING:
    from contentcache.config.model import Address, Configuration

#: Bytes of the longest answer.
_LONGEST: Final = 64 << 20
_UNSUCCESSFUL: Final = 400
#: "Any address" is none that can be asked.
_ASKED: Final = {"": "localhost", "0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104  # compared, not bound


class UnreachableError(Exception):
    """No daemon answers. The message is a sentence for the operator."""


class RefusedError(Exception):
    """The daemon answers, and not as it should. The message is a sentence for the operator."""


@frozen
class DaemonClient:
    """Asks the daemon of a configuration: at its admin socket, and to read at its debug address, too."""

    path: str | None
    debug: Address | None
    timeout: float = 30.0

    @classmethod
    def of(cls, configuration: Configuration, timeout: float = 30.0) -> DaemonClient:
        """Make the client for the daemon that has this configuration; ``timeout`` in seconds is for each step."""
        debug = configuration.http.debug
        return cls(configuration.admin_socket, None if debug is None else debug.addr, timeout)

    def get(self, name: str) -> Any:
        """
        Read what is at ``/v1/<name>``.

        :raises UnreachableError: no daemon answers.
        :raises RefusedError: it answers, but not as it should.
        """
        try:
            return self._ask("GET", name)
        except UnreachableError:
            if self.debug is None:
                raise
            try:
                return self._exchange(self._connect_debug(self.debug), "GET", name)
            except (OSError, http.client.HTTPException):
                pass  # what the socket said is more to the point
            raise

    def post(self, name: str) -> Any:
        """Have the daemon do what is at ``/v1/<name>``; raises as :meth:`get` does."""
        return self._ask("POST", name)

    def _ask(self, method: str, name: str) -> Any:
        if self.path is None:
            raise UnreachableError(
                "this configuration keeps blobs in memory, so its daemon has no admin socket: set http.admin"
            )
        try:
            return self._exchange(self._connect(self.path), method, name)
        except PermissionError as error:
            raise UnreachableError(
                f"{self.path}: {error.strerror}; that takes the daemon's account, or root"
            ) from error
        except (FileNotFoundError, ConnectionRefusedError) as error:
            raise UnreachableError(f"no daemon answers at {self.path}: {error.strerror}") from error
        except (OSError, http.client.HTTPException) as error:
            reason = getattr(error, "strerror", None) or str(error) or type(error).__name__
            raise UnreachableError(f"the daemon at {self.path} does not answer: {reason}") from error

    def _connect(self, path: str) -> socket.socket:
        connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        connection.settimeout(self.timeout)
        try:
            with short_path(path) as short:
                connection.connect(short)
        except OSError:
            connection.close()
            raise
        return connection

    def _connect_debug(self, address: Address) -> socket.socket:
        host = _ASKED.get(address.host, address.host)
        return socket.create_connection((host, address.port), self.timeout)

    def _exchange(self, connection: socket.socket, method: str, name: str) -> Any:
        asking = http.client.HTTPConnection("localhost")
        asking.sock = connection
        try:
            headers = {"User-Agent": f"contentcache/{__version__}", "Connection": "close"}
            asking.request(method, f"/v1/{name}", headers=headers)
            with asking.getresponse() as answer:
                return _value(answer.status, answer.read(_LONGEST))
        finally:
            asking.close()


def _value(status: int, body: bytes) -> Any:
    try:
        value = json.loads(body)
    except ValueError:
        raise RefusedError(
            f"what answers there is no Content Cache, or another version (status {status})"
        ) from None
    if status >= _UNSUCCESSFUL:
        errors = value.get("errors") if isinstance(value, dict) else None
        message = errors[0].get("message") if errors else f"status {status}"
        raise RefusedError(f"the daemon refuses: {message}")
    return value
