"""The options of delivery, which a reload may change."""

from __future__ import annotations

from attrs import frozen


@frozen
class DeliveryOptions:
    """
    Times are seconds. ``manifest_limit`` is in bytes; what is larger than ``maxsize`` is not stored. ``fill_after``
    is the share of a content from which on the rest of it is downloaded too; a transfer that has begun waits
    ``retry_for`` for unavailable upstreams.

    The origin's answer to ``/v2/`` counts for ``auth_ttl``, a link for ``affirm_ttl``; with ``keep_deleted`` known
    links allow what the origin has deleted; for ``stale_if_error`` old grants and tags count while the origin is
    down.
    """

    manifest_limit: int
    maxsize: int | None
    fill_after: float
    retry_for: float
    auth_ttl: float
    affirm_ttl: float
    keep_deleted: bool
    stale_if_error: float
