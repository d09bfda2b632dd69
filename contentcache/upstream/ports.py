"""What is asked of Twisted's objects here, as types that mypy can check."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from twisted.internet.defer import Deferred
from twisted.web.http_headers import Headers


class Clock(Protocol):
    """As much of ``IReactorTime`` as is used."""

    def callLater(self, delay: float, callable: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Any: ...  # noqa: A002
    def seconds(self) -> float: ...


class Reactor(Clock, Protocol):
    """A clock that connects and resolves: ``IReactorTCP``, ``IReactorPluggableNameResolver``."""

    @property
    def nameResolver(self) -> Any: ...
    def connectTCP(self, *args: Any, **kwargs: Any) -> Any: ...


class Endpoint(Protocol):
    """``IStreamClientEndpoint``: the Deferred fires with the protocol that the factory built."""

    def connect(self, protocolFactory: Any, /) -> Deferred[Any]: ...


class Asking(Protocol):
    """``IAgent``: the Deferred fires with an ``IResponse``."""

    def request(
        self, method: bytes, uri: bytes, headers: Headers | None = None, bodyProducer: Any = None
    ) -> Deferred[Any]: ...


class Trust(Protocol):
    """``IPolicyForHTTPS``."""

    def creatorForNetloc(self, hostname: bytes, port: int, /) -> Any: ...
