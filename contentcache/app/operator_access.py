"""How the operator reaches the daemon: the admin socket, and the debug address."""

from __future__ import annotations

import os

from twisted.logger import Logger
from twisted.web.http import Request

from contentcache.admin.api import AdminApi, Operations, is_remote
from contentcache.admin.status_page import StatusPage
from contentcache.aio.reactor import DaemonReactor
from contentcache.config.model import Configuration, Debug, Http
from contentcache.core.ports import Run
from contentcache.persist.unix_socket import own_folder, safe_folder
from contentcache.server.debug_site import DebugSite, Metrics, nothing_else
from contentcache.server.known_hosts import KnownHosts
from contentcache.server.page_server import Page, PageServer
from contentcache.wire.private_socket import PrivateSocket


class OperatorAccess:
    """Serves the admin API at both, and what else the debug address has."""

    _log = Logger(namespace="contentcache")

    def __init__(
        self, configuration: Configuration, operations: Operations, reactor: DaemonReactor, run: Run
    ) -> None:
        self._configuration = configuration
        self._operations = operations
        self._reactor = reactor
        self._api = AdminApi(operations)
        self._page = StatusPage(operations.status, configuration.http, run)
        self._socket: PrivateSocket | None = None

    def debug_server(self, debug: Debug, metrics: Metrics) -> PageServer:
        """Make what is served at the debug address."""

        async def respond_other(request: Request) -> Page:
            if request.path == b"/":
                return await self._page.respond(request, names=debug.names or not is_remote(request))
            if request.path.startswith(b"/v1/"):
                return await self._api.respond_read_only(request, names=debug.names)
            return await nothing_else(request)

        hosts = KnownHosts(debug.addr, (*debug.hosts, *_own_name(self._configuration.http)))
        site = DebugSite(self._operations.health, metrics, debug.prometheus, hosts, respond_other)
        return PageServer(site.respond, self._reactor)

    def open_socket(self) -> None:
        """Listen at the admin socket. Where that is not possible, the daemon serves without it."""
        path = self._configuration.admin_socket
        if path is None:
            return
        listening = PrivateSocket(self._reactor, path, PageServer(self._api.respond, self._reactor))
        try:
            folder = os.path.dirname(os.path.abspath(path))
            (own_folder if self._configuration.http.admin is None else safe_folder)(folder)
            listening.start()
        except OSError as error:
            self._log.warn("admin socket unavailable", path=path, reason=error.strerror or error)
            return
        self._socket = listening

    def close(self) -> None:
        """Stop listening at the admin socket."""
        if self._socket is not None:
            self._socket.stop()


def _own_name(http: Http) -> tuple[str, ...]:
    """The name by which clients know this daemon."""
    return () if http.host is None else (http.host.rpartition("://")[2],)
