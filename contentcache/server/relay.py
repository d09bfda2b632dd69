"""Streams an upstream response that is not stored to the client, with back-pressure."""

from __future__ import annotations

from collections.abc import Callable

from contentcache.core.header_policy import Headers
from contentcache.server.exchange import Exchange
from contentcache.upstream.answers import Answer
from contentcache.upstream.inflow_queue import InflowQueue


async def relay(answer: Answer, exchange: Exchange, headers: Headers) -> None:
    """Send the status and body of ``answer``, with ``headers``; ``HEAD`` gets no body."""
    length = answer.length
    if exchange.method == "HEAD":
        length = length or None  # no list is empty, but some proxies say so of every HEAD
    sized = {} if length is None else {"Content-Length": str(length)}
    if exchange.method == "HEAD":
        answer.abandon()
        exchange.start(answer.status, {**headers, **sized})
        exchange.finish()
        return
    await stream(answer, exchange, lambda: exchange.start(answer.status, {**headers, **sized}))


async def stream(answer: Answer, exchange: Exchange, start: Callable[[], None]) -> None:
    """
    Send the body of ``answer`` as it arrives, after the head that ``start`` sends.

    :raises UpstreamBroken, UpstreamTimeout: upstream breaks off.
    """
    with InflowQueue(answer) as queue:
        exchange.start_streaming()
        start()
        while (data := await queue.next()) is not None:
            await exchange.ready()
            exchange.write(data)
    await exchange.ready()  # a client that does not take what is buffered has not got all
    exchange.finish()
