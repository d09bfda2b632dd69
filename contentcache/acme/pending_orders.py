"""
Pending orders: those that were finalized and whose certificate is not stored yet.

They are resumed before a new order is created, after a restart too.
"""

from __future__ import annotations

from typing import Final

from cryptography.hazmat.primitives.serialization import load_pem_private_key
from twisted.logger import Logger

from contentcache.acme.certificate_store import CertificateStore
from contentcache.acme.errors import (
    AcmeError,
    AcmeRefusedError,
    UnreadableCertificateError,
    UnusableOrderError,
)
from contentcache.acme.order import AcmeOrder, OrderClient
from contentcache.acme.records import PendingOrder, StoredCertificate
from contentcache.acme.txacme_adapter import resume
from contentcache.core.ports import Clock, Run

#: Fewest seconds between a finalized order that failed and the next order.
_MIN_ORDER_INTERVAL: Final = 3600.0
#: Age in seconds from which an order is dropped, unless the server is still processing it.
_MAX_AGE: Final = 86400.0


class PendingOrders:
    """Pending orders in ``store`` for the ACME server whose directory is at ``server``."""

    _log = Logger(namespace="contentcache")

    def __init__(self, store: CertificateStore, server: str, *, run: Run, wall: Clock) -> None:
        self._store = store
        self._server = server
        self._run = run
        self._wall = wall

    async def add(self, host: str, url: str, key: bytes) -> None:
        """Store an order and its key in PEM before it is finalized. Raises ``CertificateStoreError``."""
        await self._run(
            self._store.save_pending_order, host, PendingOrder(self._server, url, key, self._wall())
        )

    async def remove(self, host: str) -> None:
        """Drop an order that has failed, or whose certificate is stored."""
        await self._run(self._store.save_pending_order, host, None)

    async def resume(
        self, host: str, client: OrderClient, old: StoredCertificate | None, *, force: bool
    ) -> bytes | None:
        """
        The key and the chain in PEM from the pending order; ``None`` where a new order is to be created.

        :raises AcmeError: there is no certificate yet; or the order has failed, and it is too early for a new
            one, unless ``force``.
        """
        order = await self._run(self._store.pending_order, host)
        if order is None or order.server != self._server:
            return None
        age = self._wall() - order.since
        may_reorder = force or age >= _MIN_ORDER_INTERVAL
        try:
            pem = await self._finalize(host, client, order, age)
        except AcmeError as error:
            is_over = isinstance(error, UnreadableCertificateError) and may_reorder
            if not is_over and not is_final(error):
                raise
            await self.remove(host)
            if may_reorder:
                self._log.warn(
                    'pending order failed, new order created host={host} order={order} reason="{reason}"',
                    host=host,
                    order=order.url,
                    reason=str(error),
                )
                return None
            raise unusable(error) from error
        if pem is None or (old is not None and pem.startswith(old.leaf_pem(), len(order.key))):
            await self.remove(host)
            return None
        return pem

    async def _finalize(
        self, host: str, client: OrderClient, pending: PendingOrder, age: float
    ) -> bytes | None:
        order = await client.fetch_order(pending.url)
        status = order.body.get("status")
        if status == "pending" or (age >= _MAX_AGE and status != "processing"):
            return None
        self._log.info("pending order resumed host={host} order={order}", host=host, order=pending.url)
        key = load_pem_private_key(pending.key, None)
        return pending.key + await resume(host, client, AcmeOrder(pending.url, order.body), key)


def is_final(error: AcmeError) -> bool:
    """Whether the server has refused an order for good."""
    kind = error.problem.kind if error.problem is not None else ""
    return isinstance(error, AcmeRefusedError) and error.is_refusal and kind != "rateLimited"


def unusable(error: AcmeError) -> UnusableOrderError:
    """The same error for an order that was finalized: the next order waits longer."""
    return UnusableOrderError(
        error.message,
        error.remedy,
        retry_after=error.retry_after,
        is_refusal=error.is_refusal,
        problem=error.problem,
    )
