"""
The messages that the processes of one daemon send each other, in the order in which the parts of the daemon use
them.

All processes run the same version. A *call* has a result, the other messages have none. A new one is a class
here and a ``case`` in the receiver: :class:`~contentcache.workers.worker.Worker`,
:mod:`~contentcache.workers.worker_pool`,
:mod:`~contentcache.workers.owner_connection` or :mod:`~contentcache.workers.remote_download`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from attrs import frozen

from contentcache.core.credentials import Credential
from contentcache.core.digest import Digest
from contentcache.core.errors import CacheError
from contentcache.core.routes import Content
from contentcache.delivery.shared_download import DownloadKey
from contentcache.storage.interfaces import Link, Reservation
from contentcache.tls.files import Identity
from contentcache.workers.metrics import Family

# From the supervisor to a worker.


@frozen
class Certificates:
    """What is shown to clients: one certificate, or one for each host and those that answer ACME challenges."""

    identity: Identity | None = None
    hosts: Mapping[str, Identity] | None = None
    challenges: Mapping[str, Identity] | None = None


@frozen
class Hello:
    """The first message: what the worker is. ``configuration`` is pickled."""

    configuration: bytes
    secret: bytes
    pseudonym: str
    certificates: Certificates


@frozen
class Reload:
    """Use a configuration, pickled, which the supervisor has checked, and show these certificates."""

    configuration: bytes
    certificates: Certificates


@frozen
class AcceptSubscriber:
    """A call: serve another worker at the attached end of a socket pair. Returns whether that is possible."""


@frozen
class FlushPulls:
    """A call: write the last pulls into the index."""


@frozen
class GetMetrics:
    """A call: returns metric families."""


@frozen
class GetFindings:
    """A call: returns the :class:`HealthCheck` of each health check, by name."""


@frozen
class GetStatus:
    """A call: returns a :class:`~contentcache.admin.status.ProcessStatus`."""


@frozen
class Drain:
    """A call: accept no new connection; returns when all transfers have ended, with what was cut off."""


@frozen
class Stop:
    """End the process."""


@frozen
class BlobEvicted:
    """A blob was deleted."""

    digest: Digest


@frozen
class LinkDenied:
    """Another worker was denied this link by the origin."""

    link: Link


@frozen
class IndexLost:
    """The index was made anew."""


# From a worker to the supervisor. It sends ``Revocation`` and ``DiskFault`` to all other workers.


@frozen
class Ready:
    """The worker serves clients."""


@frozen
class StartFailed:
    """The worker cannot serve, and ends."""

    reason: str


@frozen
class InUse:
    """The worker uses this blob: it must not be evicted."""

    digest: Digest


@frozen
class NotInUse:
    """The worker does not use these blobs any more."""

    digests: Sequence[Digest]


@frozen
class Metrics:
    """What the worker has counted so far, in case that it ends."""

    families: Sequence[Family]


@frozen
class PulledRepositories:
    """A call: manifests that were pulled since the last one: registry, repository, how many."""

    counts: Sequence[tuple[str, str, int]]


@frozen
class DiskFault:
    """What the disk refuses, ``None`` when it accepts writes again."""

    fault: str | None


@frozen
class ConnectOwner:
    """A call: pass the attached end of a socket pair to worker ``number``. Returns whether that was possible."""

    number: int


@frozen
class Reserve:
    """A call: returns why there is no room, in words."""

    reservation: Reservation


@frozen
class ShrinkReservation:
    """A call: reserve no more than ``size``."""

    key: str
    size: int
    unlinked: bool


@frozen
class ReleaseReservation:
    """A call: end a reservation."""

    key: str


# Between workers: from a subscribing worker to the owner of a digest.


@frozen
class Heartbeat:
    """A call: only its acknowledgement counts."""


@frozen
class Subscribe:
    """
    A client of this worker wants the content. ``number`` identifies it in the messages that follow; the other
    fields are those of its request and of :class:`contentcache.delivery.other_workers.Owners`.
    """

    number: int
    origin: str
    content: Content
    credential: Credential
    accept: Sequence[str]
    via: str
    authorized: bool
    whole: bool
    in_place: bool
    total: int | None
    request_id: str


@frozen
class Unsubscribe:
    """A client has all that it wanted, or has disconnected."""

    number: int


@frozen
class RequestBytes:
    """A reader waits for the bytes from ``position`` on."""

    position: int
    stop: int | None


@frozen
class StoreContent:
    """A call: store small, verified content."""

    key: DownloadKey
    content: bytes


# From the owner to a subscribing worker.


@frozen
class AttachedFile:
    """The download's file is attached, open."""


@frozen
class DownloadState:
    """What has changed. ``held`` has only the spans that were not sent before in this ``generation``."""

    generation: int
    total: int | None
    media_type: str | None
    readable: int
    verified: bool
    is_stored: bool
    awaits_decision: bool
    withholds_all: bool
    held: Sequence[Sequence[int]]
    download: str = "-"
    served_by: str = "-"


@frozen
class Opened:
    """
    The client may be answered. ``asked`` is the time of the question to the origin that allowed it, ``None``
    where the owner had a grant.
    """

    number: int
    media_type: str | None
    coalesced: bool
    asked: float | None


@frozen
class Refused:
    """The client is not served, for this reason."""

    number: int
    error: CacheError


@frozen
class OriginAllowed:
    """The origin, which was asked at ``asked``, allowed the client's request."""

    number: int
    media_type: str | None
    asked: float


@frozen
class OriginDenied:
    """The origin, which was asked at ``asked``, denied the client's request."""

    number: int
    error: CacheError
    asked: float


@frozen
class BytesUnavailable:
    """The bytes at ``position`` cannot be had."""

    position: int
    error: CacheError


@frozen
class DownloadEnded:
    """The download has ended; ``target`` is the host that all bytes came from after a redirect, if there is one."""

    error: CacheError | None
    target: str | None
