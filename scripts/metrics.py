"""
Write ``docs/metrics.rst``, the reference of all metrics, from the code: ``python -m scripts.metrics``.

With ``--check`` nothing is written, and the exit status is 1 where the reference is not up to date.
"""

from __future__ import annotations

import sys
import textwrap
from collections.abc import Iterator, Sequence
from typing import Final

from contentcache.telemetry.families import (
    CACHE_STATUSES,
    EVICTION_REASONS,
    KINDS,
    LIMITS,
    SECTIONS,
    MetricFamily,
)
from scripts.check_words import ROOT
from scripts.generated import write_or_check

_DOCUMENT: Final = ROOT / "docs" / "metrics.rst"


def _listed(values: Sequence[str]) -> str:
    return ", ".join(f"``{value}``" for value in values)


_HEAD: Final = f"""\
=======
Metrics
=======

.. Written by scripts/metrics.py: do not edit.

With ``http.debug.prometheus.enabled: true`` at ``/metrics`` of the debug address, in the text format of Prometheus
or, for clients that accept it, OpenMetrics; compressed where gzip is accepted. Counters begin with the process.

Labels:

* ``registry``: the host of an upstream's ``originhost``; ``-`` where no upstream was meant;
* ``kind``: what a request is about: {_listed(KINDS)};
* ``cache`` of pulls: where the content came from: {_listed(CACHE_STATUSES)}. A manifest whose tag the origin has
  confirmed is ``affirmed``; what was served while the origin was away is ``stale``; a request that joined a running
  download is ``coalesced``; what was not stored is ``uncached``. A 304 is a pull too, without bytes: its client has
  the content, which is a ``hit``, or ``affirmed`` where the origin was asked. Errors and refused ranges (416) are
  none, and count in ``contentcache_http_requests_total`` alone;
* ``reason``: {_listed(EVICTION_REASONS)}; ``limit``: {_listed(LIMITS)};
* ``host``: the URL of an upstream host, or the name that a certificate is for;
* ``code``: a status, or ``failed``.

A series whose labels are known exists from the start, so that ``rate()`` and alarms see its first increase.

With several workers a metric is the sum of theirs, also of those that have ended, as far as they were last
collected, except where it says *lowest* or *highest*: a host that one worker finds unhealthy is unhealthy.

How much of what was sent did not cross the network link to the upstreams, over the last hour::

    1 - sum(increase(contentcache_received_bytes_total[1h])) / sum(increase(contentcache_sent_bytes_total[1h]))

Bytes are counted as they flow in both directions, so that this is right at any moment, also while a large blob is
on its way. It is negative for a while where the cache downloads more than it sends: a client has asked for a part
of a blob, or has disconnected, and the rest is downloaded for the next ones.

"""


def _row(family: MetricFamily) -> Iterator[str]:
    kind = family.type if family.workers == "sum" else f"{family.type}, {family.workers}"
    yield f"   * - ``{family.name}``\n"
    yield f"     - {kind}\n"
    yield f"     - {_listed(family.labels)}\n".replace("- \n", "-\n")
    text = family.meaning + ("" if family.role is None else f" ({family.role} only)")
    yield (
        textwrap.indent("\n".join(textwrap.wrap(text, 110)), "       ").replace("       ", "     - ", 1)
        + "\n"
    )


def document() -> Iterator[str]:
    """The document, in pieces."""
    yield _HEAD
    for heading, families in SECTIONS.items():
        yield f"{heading}\n{'=' * len(heading)}\n\n"
        yield ".. list-table::\n   :header-rows: 1\n\n"
        yield "   * - metric\n     - type\n     - labels\n     - meaning\n"
        for family in families:
            yield from _row(family)
        yield "\n"


if __name__ == "__main__":
    sys.exit(write_or_check(_DOCUMENT, document(), sys.argv[1:], "scripts.metrics"))
