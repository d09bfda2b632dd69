"""As much of Twisted's reactors, endpoints and agents as is used, as types that mypy can check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers

from contentcache.core.ports import Timer


class Reactor(Timer, Protocol):
    """A timer that connects and resolves: ``IReactorTCP``, ``IReactorPluggableNameResolver``."""

    @property
    def nameResolver(self) -> Any: ...
    def connectTCP(self, *args: Any, **kwargs: Any) -> Any: ...


class ProcessReactor(Timer, Protocol):
    """A timer that starts programs: ``IReactorProcess``."""

    def spawnProcess(self, *args: Any, **kwargs: Any) -> Any: ...


class ThreadReactor(Protocol):
    """Called from threads: ``IReactorFromThreads``."""

    def callFromThread(self, callable: Callable[..., Any], /, *args: Any, **kwargs: Any) -> None: ...  # noqa: A002


class SocketReactor(Protocol):
    """Takes over sockets: ``IReactorSocket``."""

    def adoptStreamPort(self, *args: Any) -> Any: ...
    def adoptStreamConnection(self, *args: Any) -> Any: ...


class DaemonReactor(Reactor, ProcessReactor, ThreadReactor, SocketReactor, Protocol):
    """All that the daemon uses of Twisted's global reactor."""

    def run(self) -> None: ...
    def stop(self) -> None: ...
    def addSystemEventTrigger(self, phase: str, event: str, function: Callable[..., Any], /) -> Any: ...
    def callWhenRunning(self, callable: Callable[..., Any], /, *args: Any) -> Any: ...  # noqa: A002
    def installNameResolver(self, resolver: Any, /) -> Any: ...
    def addReader(self, reader: Any, /) -> None: ...
    def removeReader(self, reader: Any, /) -> None: ...


class Endpoint(Protocol):
    """``IStreamClientEndpoint``: the Deferred fires with the protocol that the factory built."""

    def connect(self, protocolFactory: Any, /) -> Deferred[Any]: ...


class HttpAgent(Protocol):
    """``IAgent``: the Deferred fires with an ``IResponse``."""

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: Any = None
    ) -> Deferred[Any]: ...


class Trust(Protocol):
    """``IPolicyForHTTPS``."""

    def creatorForNetloc(self, hostname: bytes, port: int, /) -> Any: ...
