"""The metrics of all processes as if one had counted them."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, Final, TypeAlias

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

#: Gauges of which the least counts, and not the sum: a host that one worker finds down is down.
_LEAST: Final = frozenset({"contentcache_upstream_up"})
#: What goes on adding up when a process ends.
_LASTING: Final = frozenset({"counter", "histogram"})

#: Name, documentation, type, and samples: name, labels, value.
Family: TypeAlias = Sequence[Any]


def counted(registry: CollectorRegistry) -> list[Family]:
    """What one process has counted, as JSON values."""
    return [
        [
            metric.name,
            metric.documentation,
            metric.type,
            [[sample.name, dict(sample.labels), sample.value] for sample in metric.samples],
        ]
        for metric in registry.collect()
    ]


def added(processes: Iterable[Sequence[Family]]) -> list[Family]:
    """
    All of them together.

    >>> one = ["a", "", "counter", [["a_total", {"x": "1"}, 2.0]]]
    >>> added([[one], [one]])
    [['a', '', 'counter', [['a_total', {'x': '1'}, 4.0]]]]
    """
    families: dict[str, tuple[Any, Any, dict[Any, float]]] = {}
    for process in processes:
        for name, documentation, kind, samples in process:
            _, _, sums = families.setdefault(name, (documentation, kind, {}))
            for sample, labels, value in samples:
                key = sample, tuple(labels.items())
                known = sums.get(key)
                if known is None:
                    sums[key] = value
                else:
                    sums[key] = min(known, value) if name in _LEAST else known + value
    return [
        [
            name,
            documentation,
            kind,
            [[sample, dict(labels), value] for (sample, labels), value in sums.items()],
        ]
        for name, (documentation, kind, sums) in families.items()
    ]


def lasting(process: Sequence[Family]) -> list[Family]:
    """What of a process that has ended is still to be counted: so no counter ever goes back."""
    return [family for family in process if family[2] in _LASTING]


def text(families: Sequence[Family]) -> bytes:
    """Prometheus' text format."""
    registry = CollectorRegistry()
    registry.register(_Counted(families))
    return generate_latest(registry)


class _Counted(Collector):
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for name, documentation, kind, samples in self._families:
            metric = Metric(name, documentation, kind)
            for sample, labels, value in samples:
                metric.add_sample(sample, labels, value)
            yield metric


def findings_of_all(processes: Iterable[Mapping[str, Sequence[str]]]) -> dict[str, tuple[str, str]]:
    """
    What all of them have found, of each thing the worst: state and sentence by name.

    >>> findings_of_all([{"store": ("ok", "fine")}, {"store": ("warn", "full")}])
    {'store': ('warn', 'full')}
    """
    order = ("ok", "warn", "fail")
    worst: dict[str, tuple[str, str]] = {}
    for process in processes:
        for name, (state, says) in process.items():
            if name not in worst or order.index(state) > order.index(worst[name][0]):
                worst[name] = (state, says)
    return worst
