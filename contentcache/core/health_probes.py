"""Which requests are plainly health probes, which the access log leaves out (``log.accesslog.probes``)."""

from __future__ import annotations

import re
from typing import Final

#: Where a gateway asks caches for a small blob of its own, to see whether they serve what it signs.
PROBE_REPOSITORY: Final = "contentcache/probe"

#: How the programs begin their ``User-Agent`` that ask nothing else than whether a server answers.
_PROBERS: Final = re.compile(
    r"kube-probe/|ELB-HealthChecker/|GoogleHC/|Prometheus/|Blackbox.Exporter/|Envoy/HC|Consul Health Check",
    re.ASCII,
)
#: ``contentcache alive``, and caches that look whether the next one answers again: they ask for ``/``.
_OWN: Final = re.compile(r"contentcache/")
_OWN_BLOB: Final = re.compile(rf"(?:/.*)?/v2/{PROBE_REPOSITORY}/blobs/")
#: A probe that got anything else has found something: that is logged.
_ANSWERED: Final = frozenset({200, 401})


def is_probe(method: str, path: str, agent: str, status: int, *, has_credential: bool) -> bool:
    """
    Whether a request was a health probe, and was answered as it should be.

    A client of a registry, which begins a pull with ``/v2/``, is none, whatever it calls itself.

    >>> is_probe("GET", "/", "kube-probe/1.30", 200, has_credential=False)
    True
    >>> is_probe("GET", "/v2/", "docker/27.3", 401, has_credential=False)
    False
    >>> blob = f"/v2/{PROBE_REPOSITORY}/blobs/sha256:00"
    >>> is_probe("HEAD", blob, "contentcache-gateway", 200, has_credential=False)
    True
    """
    if method not in {"GET", "HEAD"} or status not in _ANSWERED or has_credential:
        return False
    if _OWN_BLOB.match(path):
        return agent.startswith("contentcache")
    if path == "/" and _OWN.match(agent):
        return True
    return path in {"/", "/v2/", "/debug/health"} and _PROBERS.match(agent) is not None
