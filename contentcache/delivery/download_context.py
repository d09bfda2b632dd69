"""What a fetch needs around it."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from contentcache.core.digest import Digest
from contentcache.core.errors import OriginRefused
from contentcache.core.ports import Run, Timer
from contentcache.delivery.reservations import Reservations
from contentcache.delivery.subscribers import Subscriber
from contentcache.storage.interfaces import PartialFile, Store
from contentcache.telemetry.metrics import Meter


@frozen
class DownloadContext:
    """
    Ports to the rest of the house.

    ``question_time()`` is the time of a question that is about to be asked; ``is_known_target(origin, host)``
    says whether a host that an origin redirects to has delivered verified bytes. ``yes(want, answer's media
    type, asked)`` and ``no(want, refusal, asked)`` take note of what the origin said to a question of that
    time; ``reserving`` has the room in the store; ``keep(digest, file, size, origin)`` makes a verified file
    a blob that ``origin`` has delivered, and blocks; ``disk(fault)`` hears what the disk refuses, and
    ``None`` when it has taken something.
    """

    store: Store
    run: Run
    clock: Timer
    meter: Meter
    question_time: Callable[[], float]
    is_known_target: Callable[[str, str | None], bool]
    record_allowed: Callable[[Subscriber, str | None, float], None]
    record_denied: Callable[[Subscriber, OriginRefused, float], None]
    reservations: Reservations
    commit: Callable[[Digest, PartialFile, int, str | None], None]
    report_disk: Callable[[str | None], None]
