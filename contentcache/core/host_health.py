"""What is known of the health of a host that is asked: an upstream, or a gateway's cache."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from attrs import asdict, evolve, frozen

from contentcache.core.shown import hide_names, hide_secrets, rfc3339


@frozen
class HostHealth:
    """
    A host that failed is unhealthy until it answers again. Times are seconds since the epoch: ``since`` is when it
    became healthy or unhealthy, ``next_try`` when an unhealthy host is tried again, if not before for want of
    another one. ``reason`` is why it is unhealthy, ``round_trip_seconds`` how long its last answer took.
    """

    host: str
    since: float
    healthy: bool = True
    reason: str | None = None
    last_success: float | None = None
    next_try: float | None = None
    round_trip_seconds: float | None = None

    def failed(self, reason: str, now: float) -> HostHealth:
        """
        The host has failed.

        >>> HostHealth("https://a", 1.0).failed("refused", 5.0).failed("timeout", 7.0).since
        5.0
        """
        return evolve(
            self, healthy=False, reason=hide_secrets(reason), since=now if self.healthy else self.since
        )

    def answered(self, now: float, round_trip: float) -> HostHealth:
        """
        The host has answered, after ``round_trip`` seconds.

        >>> HostHealth("https://a", 1.0).failed("refused", 5.0).answered(9.0, 0.1).since
        9.0
        """
        return evolve(
            self,
            healthy=True,
            reason=None,
            since=self.since if self.healthy else now,
            last_success=now,
            round_trip_seconds=round_trip,
        )

    def as_json(self) -> Mapping[str, object]:
        """The same as JSON has it, without names of repositories and digests in the reason."""
        times = {
            name: None if time is None else rfc3339(time)
            for name, time in (
                ("since", self.since),
                ("last_success", self.last_success),
                ("next_try", self.next_try),
            )
        }
        return {**asdict(self), "reason": hide_names(self.reason), **times}


def merge_hosts(processes: Iterable[Sequence[HostHealth]]) -> tuple[HostHealth, ...]:
    """
    What several processes know of their hosts: one that any of them finds unhealthy is unhealthy.

    >>> well = HostHealth("https://a", 1.0).answered(9.0, 0.1)
    >>> ill = HostHealth("https://a", 1.0).failed("refused", 5.0)
    >>> (merged,) = merge_hosts([[well], [ill]])
    >>> merged.healthy, merged.since, merged.last_success
    (False, 5.0, 9.0)
    """
    by_host: dict[str, HostHealth] = {}
    for host in (host for process in processes for host in process):
        known = by_host.get(host.host)
        by_host[host.host] = host if known is None else _merge(known, host)
    return tuple(by_host.values())


def _merge(one: HostHealth, other: HostHealth) -> HostHealth:
    if one.healthy != other.healthy:
        worst = other if one.healthy else one
    else:  # unhealthy since the first of them found it so, healthy since the last one did
        worst = min(one, other, key=lambda each: -each.since if each.healthy else each.since)
    last = max(one, other, key=lambda each: each.last_success or 0.0)
    return evolve(worst, last_success=last.last_success, round_trip_seconds=last.round_trip_seconds)
