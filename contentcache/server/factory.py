"""The open connections of a listener: their limits, and how they end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.web.http import HTTPFactory, Request

from contentcache.config.model import Limits
from contentcache.core.ports import Timer
from contentcache.server.channel import FastPath, ServerChannel
from contentcache.server.errors import NO_HEADERS
from contentcache.server.request import RequestResponder, ServerRequest
from contentcache.telemetry.metrics import Meter

#: Number of connections over the limit that get a 503 at the same time; further ones wait in the kernel's queue.
TURNED_AWAY: Final = 64
#: Seconds that such a connection has to send its request.
_TURNED_AWAY_IDLE: Final = 5.0


class ServerFactory(HTTPFactory):
    """
    Makes channels, and limits how many are open.

    What the ``fast_path`` answers does not reach the ``responder``. ``address_key`` names the counter of a
    client's address, empty for one that is not limited. ``extra`` (``http.headers``) are headers of every response.
    """

    noisy = False
    _log = Logger()

    def __init__(
        self,
        responder: RequestResponder,
        *,
        limits: Limits,
        address_key: Callable[[str], str],
        reactor: Timer,
        meter: Meter,
        fast_path: FastPath | None = None,
        extra: Mapping[str, tuple[str, ...]] = NO_HEADERS,
    ) -> None:
        super().__init__(timeout=limits.idle, reactor=cast("Any", reactor))
        self.responder = responder
        self.limits = limits
        self._address_key = address_key
        self.fast_path = fast_path
        self.extra = extra
        self.timer: Timer = reactor
        self.closing = False
        self._meter = meter
        #: The open connections with the keys that they are counted by.
        self._channels: dict[ServerChannel, str] = {}
        #: Number of connections of each address, and of those whose request head is incomplete.
        self._addresses: Counter[str] = Counter()
        self._heads: dict[ServerChannel, str] = {}
        self._heads_by_address: Counter[str] = Counter()
        self._turned_away: set[ServerChannel] = set()
        self._cut = False
        self._ports: list[Any] = []
        self.most_turned_away = TURNED_AWAY

    def configure(self, limits: Limits, extra: Mapping[str, tuple[str, ...]]) -> None:
        """Use other limits, and other headers in every response, from now on."""
        self.limits, self.extra = limits, extra

    @property
    def connections(self) -> int:
        """How many connections are open, without those over the limit."""
        return len(self._channels)

    @property
    def busy(self) -> int:
        """How many connections have a request or response in progress that a shutdown waits for."""
        return 0 if self._cut else sum(channel.busy for channel in self._channels)

    def running(self) -> Iterator[ServerRequest]:
        """The requests whose response has begun and not ended, without those of the fast path."""
        for channel in self._all():
            for request in channel.requests[:1]:
                if isinstance(request, ServerRequest) and request.startedWriting and not request.logged:
                    yield request

    def buildProtocol(self, addr: IAddress | None) -> Any:
        host = getattr(addr, "host", "")
        full = self._is_full(host)
        if full:
            self._meter.limited("connections")
        idle = _TURNED_AWAY_IDLE if full else self.limits.idle
        channel = ServerChannel(self, host, idle, turned_away=full)
        if full:
            self._turned_away.add(channel)
            self._pause_or_resume_accepting()
        else:
            self._channels[channel] = key = self._address_key(host)
            self._addresses[key] += 1
        return channel

    def acquire_head(self, channel: ServerChannel) -> bool:
        """
        Count an incomplete request head until :meth:`release_head`; ``False`` if the client's address has too
        many of them.
        """
        if channel not in self._heads:
            key = self._address_key(channel.address)
            if key and self._heads_by_address[key] >= self.limits.headsperaddress:
                self._meter.limited("heads")
                return False
            self._heads[channel] = key
            self._heads_by_address[key] += 1
        return True

    def release_head(self, channel: ServerChannel) -> None:
        """The request head is complete, or its connection has ended."""
        key = self._heads.pop(channel, None)
        if key is not None:
            _decrement(self._heads_by_address, key)

    @property
    def accepts(self) -> int:
        """How many connections may be accepted in one go."""
        spare = self.limits.connections - len(self._channels)
        return max(1, spare + self.most_turned_away - len(self._turned_away))

    def listens(self, port: Any) -> None:
        """
        ``port`` accepts connections for this factory, except while too many over the limit are open: further
        ones wait in the kernel's queue, without a descriptor in this process.
        """
        self._ports.append(port)

    def _pause_or_resume_accepting(self) -> None:
        room = len(self._turned_away) < self.most_turned_away
        for port in self._ports:
            if port.connected and not port.disconnecting:
                (port.startReading if room else port.stopReading)()

    def closed(self, channel: ServerChannel) -> None:
        """A connection is closed."""
        if channel in self._turned_away:
            self._turned_away.remove(channel)
            self._pause_or_resume_accepting()
        self.release_head(channel)
        key = self._channels.pop(channel, None)
        if key is not None:
            _decrement(self._addresses, key)

    def close_idle(self) -> None:
        """End idle connections now, the others after their response."""
        self.closing = True
        for channel in self._all():
            channel.close_when_idle()

    def cut(self) -> None:
        """End all connections now; responses in progress end short, and no shutdown waits for them."""
        self._cut = True
        for channel in self._all():
            channel.cut()
        if self.fast_path is not None:
            self.fast_path.flush()

    def log(self, request: Request) -> None:
        """A response has ended: record the request, once."""
        request = cast("ServerRequest", request)
        if request.logged:
            return
        request.logged = True
        try:
            self.responder.log_request(request)
        except Exception:  # noqa: BLE001  # the client has its response in any case
            self._log.failure(
                "access log failed", path=request.path.decode("latin-1"), request_id=request.request_id
            )

    def startFactory(self) -> None:
        """Nothing: there is no log file of Twisted's, and no cached date for it."""

    def stopFactory(self) -> None:
        """Nothing."""

    def _is_full(self, host: str) -> bool:
        most, key = self.limits.connectionsperaddress, self._address_key(host)
        # A Unix socket has no address, and that of a trusted proxy stands for many clients.
        over_limit = bool(key) and most is not None and self._addresses[key] >= most
        return over_limit or len(self._channels) >= self.limits.connections

    def _all(self) -> list[ServerChannel]:
        return [*self._channels, *self._turned_away]


def _decrement(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
