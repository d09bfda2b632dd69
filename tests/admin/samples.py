"""Status documents of caches that were never there."""

from __future__ import annotations

import math

from attrs import evolve

from contentcache.admin.history import start_of
from contentcache.admin.status import (
    CertificateStatus,
    DownloadStatus,
    Images,
    ImageStatus,
    LoggedError,
    Periods,
    Savings,
    Status,
    StoredBlob,
    StoreStatus,
    Traffic,
    UpstreamStatus,
    Workers,
)

NOW = start_of("2026-11-30") + 17 * 3600 + 42 * 60 + 5
_DAY = 86_400.0
_DIGEST = "sha256:4b825dc642cb6eb9a060e54bf8d69288fbee49042cb6eb9a060e54bf8d69288f"


def new() -> Status:
    """A cache that has just been started, and from which nobody has pulled."""
    nothing = Savings.of(NOW - 12, [])
    return Status(
        version="0.1.0",
        role="cache",
        health="ok",
        pid=1,
        time=NOW,
        started=NOW - 12,
        uptime_seconds=12.0,
        workers=Workers(1, 1),
        savings=Periods(
            nothing, nothing, nothing, tuple(Savings.of(NOW - _DAY * back, []) for back in range(30))
        ),
        downloads=(),
        upstreams=(UpstreamStatus("registry-1.docker.io", "https://registry-1.docker.io", healthy=True),),
        store=StoreStatus(
            "/var/lib/contentcache", 0, 500_000_000_000, 812_000_000_000, 20_000_000_000, 0, 0, None
        ),
        certificates=(),
        errors=(),
        reload=None,
        gateway=None,
        images=Images(),
    )


def busy() -> Status:
    """One in the middle of a working day."""
    days = tuple(_day(back) for back in reversed(range(30)))
    every = [one for day in days for one in day.registries]
    sums = [
        Traffic(
            name,
            *(sum(getattr(one, field) for one in every if one.registry == name) for field in _FIELDS),
        )
        for name in ("registry.example.com", "registry-1.docker.io")
    ]
    return evolve(
        new(),
        health="warn",
        started=NOW - 9.2 * _DAY,
        uptime_seconds=9.2 * _DAY,
        workers=Workers(2, 2),
        savings=Periods(days[-1], days[-1], Savings.of(days[0].since, sums), days),
        downloads=(
            _download("platform/postgres", 412_000_000, 655_000_000, 11_400_000, 3),
            _download("team/simulation-runtime-with-a-long-name", 87_000_000, 2_310_000_000, 9_800_000, 1),
            _download("library/alpine", 0, None, 0, 1),
        ),
        upstreams=(
            UpstreamStatus(
                "registry.example.com",
                "https://registry.example.com",
                healthy=True,
                since=NOW - 9.2 * _DAY,
                last_success=NOW - 2,
                round_trip_seconds=0.083,
            ),
            UpstreamStatus(
                "registry.example.com",
                "https://mirror.example.com",
                healthy=False,
                since=NOW - 420,
                reason="no answer within 10 s",
                last_success=NOW - 431,
                next_try=NOW + 12,
                round_trip_seconds=0.212,
            ),
            UpstreamStatus(
                "registry-1.docker.io",
                "https://registry-1.docker.io",
                healthy=True,
                since=NOW - 9.2 * _DAY,
                last_success=NOW - 65,
                round_trip_seconds=0.121,
            ),
        ),
        store=StoreStatus(
            "/var/lib/contentcache",
            431_200_000_000,
            500_000_000_000,
            118_000_000_000,
            20_000_000_000,
            18_421,
            499_000_000,
            None,
            tuple(
                StoredBlob(_DIGEST, name, size, NOW - days * _DAY)
                for name, size, days in (
                    ("team/old-notebook", 1_240_000_000, 6.9),
                    ("library/node", 48_300_000, 6.8),
                    ("library/node", 3_120_000, 6.8),
                    ("platform/builder", 702_000_000, 6.5),
                )
            ),
        ),
        certificates=(
            CertificateStatus("cache.example.com", NOW + 62 * _DAY, "ok", "valid"),
            CertificateStatus("cache.asia.example.com", NOW + 5 * _DAY, "warn", "expires soon"),
        ),
        errors=(
            LoggedError(
                NOW - 7_300,
                "error",
                "response ended short",
                "response ended short by=upstream repository=team/app upstream=https://mirror.example.com "
                'reason="connection closed mid-body" sent=4194304 of=90177536',
                2,
            ),
            LoggedError(
                NOW - 420,
                "warn",
                "upstream unhealthy",
                "upstream unhealthy upstream=https://mirror.example.com kind=blobs for=30s "
                'reason="no answer within 10 s"',
                1,
            ),
        ),
        images=Images(
            tuple(_image(*one) for one in _IMAGES[:5]),
            tuple(_image(*one) for one in sorted(_IMAGES, key=lambda one: -one[3])[:5]),
        ),
    )


_FIELDS = ("sent_bytes", "received_bytes", "pulls", "hits")
_IMAGES = (
    ("registry.example.com", "team/simulation-runtime-with-a-long-name", 61_300_000_000, 210, 0.1),
    ("registry.example.com", "platform/builder", 48_900_000_000, 1_830, 0.01),
    ("registry.example.com", "ml/pytorch-cuda", 31_400_000_000, 96, 1.2),
    ("registry-1.docker.io", "library/python", 12_800_000_000, 4_412, 0.001),
    ("registry-1.docker.io", "library/node", 9_700_000_000, 2_950, 0.02),
    ("registry-1.docker.io", "library/alpine", 41_000_000, 12_904, 0.0005),
)


def _day(back: int) -> Savings:
    weekend = (back + 1) % 7 in {1, 2}
    scale = (0.15 if weekend else 1.0) * (1 + 0.4 * math.sin(back * 2.3)) * (0.7 if back == 0 else 1)
    sent, pulls = int(61e9 * scale), int(2_900 * scale)
    share = 0.07 + 0.05 * math.cos(back * 1.7) + (0.25 if back == 29 else 0)
    return Savings.of(
        start_of("2026-11-30") - back * _DAY,
        [
            Traffic("registry.example.com", sent, int(sent * share), pulls, int(pulls * (1 - share))),
            Traffic("registry-1.docker.io", sent // 4, sent // 60, pulls // 2, pulls // 2 - pulls // 40),
        ],
    )


def _download(repository: str, held: int, size: int | None, rate: float, subscribers: int) -> DownloadStatus:
    return DownloadStatus(
        "registry.example.com",
        _DIGEST,
        repository,
        "blobs",
        held,
        size,
        rate,
        subscribers,
        "https://registry.example.com",
        NOW - 40,
    )


def _image(registry: str, repository: str, size: int, pulls: int, days: float) -> ImageStatus:
    return ImageStatus(registry, repository, size, 40, NOW - days * _DAY, pulls)
