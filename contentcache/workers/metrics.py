"""Metrics and health checks of all processes, as if they were one process."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from math import isnan
from typing import Any, Final, TypeAlias

from attrs import evolve
from prometheus_client import CollectorRegistry
from prometheus_client.core import Metric
from prometheus_client.registry import Collector

from contentcache.core.host_health import merge_hosts
from contentcache.server.debug_site import HealthCheck
from contentcache.telemetry.families import COUNTED, PROCESSES

#: What the value of a gauge is over all processes, where it is not the sum.
_OVER_WORKERS: Final = {
    family.name: family.workers for family in (*COUNTED, *PROCESSES) if family.workers != "sum"
}
#: Kinds of metrics that are added up over processes that have ended, too.
_CUMULATIVE: Final = frozenset({"counter", "histogram"})

#: Name, documentation, type, and samples: name, labels, value.
Family: TypeAlias = Sequence[Any]


def collect(registry: CollectorRegistry) -> list[Family]:
    """The metrics of this process, as JSON values."""
    return [
        [
            metric.name,
            metric.documentation,
            metric.type,
            [[sample.name, dict(sample.labels), sample.value] for sample in metric.samples],
        ]
        for metric in registry.collect()
    ]


def merge(processes: Iterable[Sequence[Family]]) -> list[Family]:
    """
    The metrics of all processes together.

    >>> one = ["a", "", "counter", [["a_total", {"x": "1"}, 2.0]]]
    >>> merge([[one], [one]])
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
                    sums[key] = _over_workers(name, known, value)
    return [
        [
            name,
            documentation,
            kind,
            [[sample, dict(labels), value] for (sample, labels), value in sums.items()],
        ]
        for name, (documentation, kind, sums) in families.items()
    ]


def _over_workers(name: str, one: float, other: float) -> float:
    if isnan(one) or isnan(other):  # one of them does not know
        return other if isnan(one) else one
    match _OVER_WORKERS.get(name):
        case "lowest":
            return min(one, other)
        case "highest":
            return max(one, other)
        case _:
            return one + other


def cumulative(process: Sequence[Family]) -> list[Family]:
    """The metrics of a process that has ended that still count, so that no counter decreases."""
    return [family for family in process if family[2] in _CUMULATIVE]


def as_registry(families: Sequence[Family]) -> CollectorRegistry:
    """Merged metrics, to be rendered as those of one process are."""
    registry = CollectorRegistry()
    registry.register(_Families(families))
    return registry


class _Families(Collector):
    def __init__(self, families: Sequence[Family]) -> None:
        self._families = families

    def collect(self) -> Iterator[Metric]:
        for name, documentation, kind, samples in self._families:
            metric = Metric(name, documentation, kind)
            for sample, labels, value in samples:
                metric.add_sample(sample, labels, value)
            yield metric


def worst_findings(processes: Iterable[Mapping[str, HealthCheck]]) -> dict[str, HealthCheck]:
    """
    Each health check from the process in which it is worst, with what all of them know of its hosts.

    >>> worst_findings([{"store": HealthCheck("ok", "fine")}, {"store": HealthCheck("warn", "full")}])
    {'store': HealthCheck(state='warn', detail='full', hosts=())}
    """
    by_name: dict[str, list[HealthCheck]] = {}
    for process in processes:
        for name, check in process.items():
            by_name.setdefault(name, []).append(check)
    order = ("ok", "warn", "fail")
    return {
        name: evolve(
            max(checks, key=lambda check: order.index(check.state)),
            hosts=merge_hosts(check.hosts for check in checks),
        )
        for name, checks in by_name.items()
    }
