"""What reads or adds up metrics in ways of its own, beside ``prometheus_client``'s counters."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter as Tally
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TypeAlias

from prometheus_client import Counter, Histogram
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from contentcache.telemetry.families import ALIASES, HITS, STORED_KINDS, MetricFamily

#: The values of a gauge's series by the values of its labels.
Series: TypeAlias = Mapping[tuple[str, ...], float]


class Gauges(Collector):
    """Gauges whose values are read when somebody looks."""

    def __init__(self) -> None:
        self._reads: dict[MetricFamily, list[Callable[[], Series]]] = {}

    def add(self, family: MetricFamily, read: Callable[[], Series]) -> None:
        """Have more series of a gauge."""
        self._reads.setdefault(family, []).append(read)

    def collect(self) -> Iterator[Metric]:
        for family, reads in self._reads.items():
            metric = GaugeMetricFamily(family.name, family.meaning, labels=family.labels)
            for labels, value in {key: value for read in reads for key, value in read().items()}.items():
                metric.add_metric(labels, value)
            yield metric


class Updates(Collector):
    """Brings counters up to date before they are read; has no metrics itself."""

    def __init__(self) -> None:
        self.calls: list[Callable[[], None]] = []

    def collect(self) -> Iterator[Metric]:
        for call in self.calls:
            call()
        return iter(())


class Aliases(Collector):
    """What is counted here by the names that distribution has for it."""

    def __init__(self, pulls: Counter, received: Counter, sent: Counter) -> None:
        self._pulls = pulls
        self._received = received
        self._sent = sent

    def collect(self) -> Iterator[Metric]:
        pulls, hits = _by_kind(self._pulls), _by_kind(self._pulls, HITS)
        misses = {kind: pulls[kind] - hits[kind] for kind in STORED_KINDS}
        values = (pulls, hits, misses, _by_kind(self._received), _by_kind(self._sent))
        for family, by_kind in zip(ALIASES, values, strict=True):
            metric = CounterMetricFamily(family.name, family.meaning, labels=family.labels)
            for kind in STORED_KINDS:
                metric.add_metric([kind.removesuffix("s")], by_kind[kind])
            yield metric


def _by_kind(counter: Counter, statuses: frozenset[str] | None = None) -> dict[str, float]:
    sums = dict.fromkeys(STORED_KINDS, 0.0)
    for sample in (sample for metric in counter.collect() for sample in metric.samples):
        labels = sample.labels
        if labels["kind"] in sums and (statuses is None or labels["cache"] in statuses):
            sums[labels["kind"]] += sample.value
    return sums


class BulkHistogram(Histogram):
    """A histogram that counts several observations at once."""

    def observe_all(self, amounts: Sequence[float]) -> None:
        """Observe each of ``amounts``."""
        self._sum.inc(sum(amounts))
        for bucket, count in Tally(bisect_left(self._upper_bounds, amount) for amount in amounts).items():
            self._buckets[bucket].inc(count)
