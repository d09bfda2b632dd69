"""All connections of one port: how many there may be, which are open, and their end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any, Final, cast

from twisted.internet.interfaces import IAddress
from twisted.logger import Logger
from twisted.web.http import HTTPFactory, Request

from contentcache.config.model import Limits
from contentcache.core.ports import Timer
from contentcache.meter import Meter
from contentcache.server.channel import FastPath, ServerChannel, ServerRequest
from contentcache.server.errors import NO_HEADERS
from contentcache.wire.sendfile import FileTransport

#: So many connections over the limit are told to come again at once, for which each has so many seconds to
#: ask. Further ones wait in the queue of the kernel.
TURNED_AWAY: Final = 64
_TIME_TO_ASK: Final = 5.0


class ServerFactory(HTTPFactory):
    """
    Makes channels, counts them, and knows which are open.

    ``counted`` tells what connections of an address are counted by, nothing where they are not to be counted.
    ``begin`` starts the answer to a request; ``written`` gets each request when its answer has ended. What
    the ``fast_path`` can answer does not become a request. ``extra`` (``http.headers``) goes out with every
    answer to a request, and with every refusal of a head that does not become one.
    """

    noisy = False
    #: What is made for each connection.
    channels: type[ServerChannel] = ServerChannel
    _log = Logger()

    def __init__(
        self,
        begin: Callable[[ServerRequest], None],
        written: Callable[[ServerRequest], None],
        *,
        limits: Limits,
        counted: Callable[[str], str],
        reactor: Any,
        meter: Meter,
        fast_path: FastPath | None = None,
        extra: Mapping[str, tuple[str, ...]] = NO_HEADERS,
    ) -> None:
        super().__init__(timeout=limits.idle, reactor=reactor)
        self.begin = begin
        self.limits = limits
        self._counted = counted
        self.fast_path = fast_path
        #: Headers of the configuration, for every answer.
        self.extra = extra
        self.timer: Timer = reactor
        #: Whether connections end with the request that is under way on them.
        self.closing = False
        self._written = written
        self._meter = meter
        self._channels: set[ServerChannel] = set()
        #: Connections of each address, and those with a request head that is not complete.
        self._addresses: Counter[str] = Counter()
        self._heads: dict[ServerChannel, str] = {}
        self._heads_of: Counter[str] = Counter()
        self._turned_away: set[ServerChannel] = set()
        self._is_cut = False
        self._ports: list[Any] = []
        #: So many connections over the limit are answered at once.
        self.most_turned_away = TURNED_AWAY

    @property
    def connections(self) -> int:
        """How many connections are open, without those that are turned away."""
        return len(self._channels)

    @property
    def busy(self) -> int:
        """On how many of them something is under way that is worth waiting for."""
        return 0 if self._is_cut else sum(channel.busy for channel in self._channels)

    def buildProtocol(self, addr: IAddress | None) -> Any:
        host = getattr(addr, "host", "")
        full = self._is_full(host)
        if full:
            self._meter.limited("connections")
        idle = _TIME_TO_ASK if full else self.limits.idle
        channel = self.channels(self, host, idle, turned_away=full)
        if full:
            self._turned_away.add(channel)
            self._accept_while_there_is_room()
        else:
            self._channels.add(channel)
            self._addresses[self._counted(host)] += 1
        return channel

    def head_begins(self, channel: ServerChannel) -> bool:
        """
        A request head has begun and is not complete; ``False`` if those of the client's address are too
        many. It counts until :meth:`head_ends`.
        """
        if channel not in self._heads:
            counted = self._counted(channel.address)
            if counted and self._heads_of[counted] >= self.limits.headsperaddress:
                return False
            self._heads[channel] = counted
            self._heads_of[counted] += 1
        return True

    def head_ends(self, channel: ServerChannel) -> None:
        """The request head is complete, or will never be."""
        counted = self._heads.pop(channel, None)
        if counted is not None:
            _count_down(self._heads_of, counted)

    @property
    def accepts(self) -> int:
        """How many connections may be accepted at once."""
        spare = self.limits.connections - len(self._channels)
        return max(1, spare + self.most_turned_away - len(self._turned_away))

    def listens(self, port: Any) -> None:
        """
        ``port`` accepts connections for this factory: not while too many are being turned away already.
        Those wait in the queue of the kernel, which needs no descriptor of ours.
        """
        self._ports.append(port)

    def _accept_while_there_is_room(self) -> None:
        room = len(self._turned_away) < self.most_turned_away
        for port in self._ports:
            if port.connected and not port.disconnecting:
                (port.startReading if room else port.stopReading)()

    def closed(self, channel: ServerChannel) -> None:
        """A connection is no more."""
        if channel in self._turned_away:
            self._turned_away.remove(channel)
            self._accept_while_there_is_room()
        self.head_ends(channel)
        if channel in self._channels:
            self._channels.remove(channel)
            _count_down(self._addresses, self._counted(channel.address))

    def close_idle(self) -> None:
        """End the connections on which nothing is under way, the others after their answer."""
        self.closing = True
        for channel in self._all():
            channel.close_when_idle()

    def cut(self) -> None:
        """End all connections now, with what is under way on them. Nobody waits for what they still take."""
        self._is_cut = True
        for channel in self._all():
            channel.cut()
        if self.fast_path is not None:
            self.fast_path.flush()

    def log(self, request: Request) -> None:
        """A request has been answered, as far as it will be."""
        request = cast("ServerRequest", request)
        if request.noted:
            return
        request.noted = True
        transport = getattr(request.channel, "transport", None)
        if isinstance(transport, FileTransport):
            request.sentLength += transport.sent_by_pool  # where a client leaves in the middle
        try:
            self._written(request)
        except Exception:  # noqa: BLE001  # the client has its answer, with a line or without
            self._log.failure("access log failed", path=request.path.decode("latin-1"))

    def startFactory(self) -> None:
        """Nothing: there is no log file, and no cached date for one."""

    def stopFactory(self) -> None:
        """Nothing."""

    def _is_full(self, host: str) -> bool:
        most, counted = self.limits.connectionsperaddress, self._counted(host)
        # A Unix socket has no address that could be counted, and that of a trusted proxy stands for many.
        too_many_of_it = bool(counted) and most is not None and self._addresses[counted] >= most
        return too_many_of_it or len(self._channels) >= self.limits.connections

    def _all(self) -> list[ServerChannel]:
        return [*self._channels, *self._turned_away]


def _count_down(counter: Counter[str], key: str) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
