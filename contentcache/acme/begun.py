"""
Orders that were handed in, and whose certificate has not come yet: they are asked for it before another one
is made, after a restart too.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.logger import Logger

from contentcache.acme.client import AcmeClient, Order
from contentcache.acme.issuing import resume
from contentcache.acme.notes import Begun, Kept
from contentcache.acme.problems import AcmeFault, Refused, Unreadable, Wasted
from contentcache.acme.store import Cabinet
from contentcache.core.ports import Clock, Run

#: After so many seconds another order may be made though the last one has come to nothing.
_ONE_IN: Final = 3600.0
#: After so many seconds an order is of no use any more, unless the server still works at it.
_OLD: Final = 86400.0


class BegunOrders:
    """
    Those at the server with the directory ``server``, which ``cabinet`` keeps.
    """

    _log = Logger(namespace="contentcache")

    def __init__(self, cabinet: Cabinet, server: str, *, run: Run, wall: Clock) -> None:
        self._cabinet = cabinet
        self._server = server
        self._run = run
        self._wall = wall

    async def remember(self, host: str, url: str, key: bytes) -> None:
        """
        An order is about to be handed in, with this key in PEM. Raises ``StoreFault``.
        """
        await self._run(self._cabinet.keep_order, host, Begun(self._server, url, key, self._wall()))

    async def forget(self, host: str) -> None:
        """
        Nothing comes of it, or it has come.
        """
        await self._run(self._cabinet.keep_order, host, None)

    async def resumed(self, host: str, client: AcmeClient, old: Kept | None, *, asked: bool) -> bytes | None:
        """
        What has become of the last order: key and chain in PEM, ``None`` where another order is to be made.

        :raises AcmeFault: nothing yet; or nothing, and it is too early for another order, unless a person has
            ``asked``.
        """
        begun = await self._run(self._cabinet.order, host)
        if begun is None or begun.server != self._server:
            return None
        age = self._wall() - begun.since
        try:
            pem = await self._asked_for(host, client, begun, age)
        except AcmeFault as fault:
            is_over = isinstance(fault, Unreadable) and (asked or age >= _ONE_IN)
            if not is_over and not is_final(fault):
                raise
            await self.forget(host)
            if asked or age >= _ONE_IN:
                self._log.warn("{fault}; {host} is ordered anew", fault=str(fault), host=host)
                return None
            raise wasted(fault) from fault
        if pem is None or (old is not None and pem.startswith(old.leaf_pem(), len(begun.key))):
            await self.forget(host)
            return None
        return pem

    async def _asked_for(self, host: str, client: AcmeClient, begun: Begun, age: float) -> bytes | None:
        order = await client.order_at(begun.url)
        status = order.body.get("status")
        if status == "pending" or (age >= _OLD and status != "processing"):
            return None
        self._log.info("{host} is ordered already, and asked for at {url}", host=host, url=begun.url)
        key = load_pem_private_key(begun.key, None)
        return begun.key + await resume(host, client, Order(begun.url, order.body), key)


def is_final(fault: AcmeFault) -> bool:
    """
    Whether nothing will come of an order of which the server says so.
    """
    kind = fault.problem.kind if fault.problem is not None else ""
    return isinstance(fault, Refused) and fault.is_refusal and kind != "rateLimited"


def wasted(fault: AcmeFault) -> Wasted:
    """
    The same, as what became of an order that was handed in: it is not repeated soon.
    """
    return Wasted(
        fault.says,
        fault.remedy,
        retry_after=fault.retry_after,
        is_refusal=fault.is_refusal,
        problem=fault.problem,
    )
