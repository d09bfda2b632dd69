"""Tests for :mod:`contentcache.delivery.subscribers`."""

from __future__ import annotations

from typing import Any

from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.credentials import ANONYMOUS, Subject
from contentcache.core.digest import Digest
from contentcache.core.routes import Content
from contentcache.delivery.requests import ContentRequest
from contentcache.delivery.subscribers import Subscriber, Subscribers

SUBJECT = Subject.of(b"", "https://origin.example", "org/app", ANONYMOUS)


class _Pool:
    """A registry that lists the failures of its hosts."""

    def __init__(self) -> None:
        self.failures: list[tuple[str, str]] = []

    def failed(self, host: str, reason: str, kind: str, **names: str) -> None:
        self.failures.append((host, kind))


def _subscriber(pool: Any, number: int) -> Subscriber:
    request = ContentRequest(pool, SUBJECT, Content("org/app", "blobs", Digest.of(b"")))
    return Subscriber(request, b"key %d" % number, authorized=True)


class EjectionTests(SynchronousTestCase):
    """A host that delivered wrong bytes is ejected for every client of the download."""

    def test_once_for_each_origin(self) -> None:
        """Five clients of two origins are one failure in the pool of each."""
        one, other = _Pool(), _Pool()
        subscribers = Subscribers()
        for number, pool in enumerate((one, one, other, one, other)):
            subscribers.add(_subscriber(pool, number))
        subscribers.eject_host("https://host.example", "wrong bytes")
        self.assertEqual(one.failures, [("https://host.example", "blobs")])
        self.assertEqual(other.failures, [("https://host.example", "blobs")])
