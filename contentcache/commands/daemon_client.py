"""Requests to the running daemon, by its admin API."""

from __future__ import annotations

import http.client
import json
import os
import socket
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, Final

from attrs import field, frozen

from contentcache import __version__
from contentcache.commands.configuration import fail_with_faults, find_configuration
from contentcache.commands.output import UNREACHABLE, echo, fail
from contentcache.config.schema.configuration import ADMIN_SOCKET
from contentcache.persist.unix_socket import short_path

if TYPE_CHECKING:
    from contentcache.config.model import Address, Configuration

#: Bytes of the longest answer.
_LONGEST: Final = 64 << 20
_UNSUCCESSFUL: Final = 400
#: What commands read of documents: one without is another version's.
_FIELDS: Final = {
    "status": frozenset(
        [
            "time",
            "health",
            "workers",
            "savings",
            "downloads",
            "upstreams",
            "store",
            "certificates",
            "errors",
            "reload",
            "gateway",
        ]
    ),
    "reload": frozenset(("ok", "changed", "restart_needed", "errors")),
}
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
    #: Why the debug address was asked where there is an admin socket.
    detours: list[str] = field(factory=list)

    @classmethod
    def of(cls, configuration: Configuration, timeout: float = 30.0) -> DaemonClient:
        """Make the client for the daemon that has this configuration; ``timeout`` in seconds is for each step."""
        debug = configuration.http.debug
        return cls(configuration.admin_socket, None if debug is None else debug.addr, timeout)

    @classmethod
    def of_faulty(cls, path: str) -> DaemonClient | None:
        """
        Make the client for the daemon of a file that has faults by now: it runs on with what it has read before.
        ``None`` where the file does not say where its socket is.
        """
        import yaml  # noqa: PLC0415  # a good file needs none of it

        try:
            with open(path, encoding="utf-8") as file:
                tree = yaml.safe_load(file)
        except (OSError, ValueError, RecursionError, yaml.YAMLError):
            return None
        written = _value_at(tree, "http", "admin")
        root = _value_at(tree, "storage", "filesystem", "rootdirectory")
        found = os.environ.get("REGISTRY_HTTP_ADMIN") or written
        if found is None:
            root = os.environ.get("REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY") or root
            found = None if root is None else os.path.join(root, ADMIN_SOCKET)
        return None if found is None else cls(found, None)

    def get(self, name: str) -> Any:
        """
        Read what is at ``/v1/<name>``.

        :raises UnreachableError: no daemon answers.
        :raises RefusedError: it answers, but not as it should.
        """
        try:
            return self._ask("GET", name)
        except UnreachableError as error:
            if self.debug is None:
                raise
            try:
                value = self._exchange(self._connect_debug(self.debug), "GET", name)
            except (OSError, http.client.HTTPException):
                pass  # what the socket said is more to the point
            else:
                if self.path is not None:
                    self.detours.append(f"{error}; this was read at the debug address instead")
                return value
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
                return _value(name, answer.status, answer.read(_LONGEST))
        finally:
            asking.close()


def ask_daemon(
    file: str | None, ask: Callable[[DaemonClient], Any], *, as_json: bool
) -> tuple[DaemonClient, Any]:
    """
    The client for the daemon of a configuration, and what ``ask`` gets from it; where that fails, the command ends.

    A file that has faults by now is no reason not to ask the daemon that runs.
    """
    from contentcache.config.faults import ConfigurationError  # noqa: PLC0415  # --help needs none of it
    from contentcache.config.loading import load  # noqa: PLC0415

    path = find_configuration(file, running=True)
    faulty: ConfigurationError | None = None
    try:
        client = DaemonClient.of(load(path, os.environ).configuration)
    except ConfigurationError as error:
        faulty = error
        client = DaemonClient.of_faulty(path) or fail_with_faults(error, as_json=as_json)
    try:
        result = ask(client)
    except UnreachableError as error:
        if faulty is not None:
            fail_with_faults(faulty, as_json=as_json)
        fail(str(error), UNREACHABLE, as_json=as_json)
    except RefusedError as error:
        fail(str(error), as_json=as_json)
    for detour in client.detours:
        echo(detour, err=True)
    return client, result


def _value_at(tree: Any, *keys: str) -> str | None:
    """
    A text in nested mappings.

    >>> _value_at({"http": {"admin": "/s"}}, "http", "admin"), _value_at(["x"], "http")
    ('/s', None)
    """
    for key in keys:
        tree = tree.get(key) if isinstance(tree, dict) else None
    return tree if isinstance(tree, str) else None


def _value(name: str, status: int, body: bytes) -> Any:
    try:
        value = json.loads(body)
    except (ValueError, RecursionError):
        value = None
    is_refusal = status >= _UNSUCCESSFUL
    if not isinstance(value, dict) or not (is_refusal or value.keys() >= _FIELDS.get(name, frozenset())):
        raise RefusedError(f"what answers there is no Content Cache, or another version (status {status})")
    if is_refusal:
        match value:
            case {"errors": [{"message": str(message)}, *_]}:
                raise RefusedError(f"the daemon refuses: {message}")
        raise RefusedError(f"the daemon refuses: status {status}")
    return value
