"""Those who know the caches and the accounts, opened from the configuration."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable
from typing import Any, Final
from uuid import uuid4

from attrs import frozen
from twisted.logger import Logger

from contentcache.config.model import Gateway
from contentcache.core.ports import Clock, Run
from contentcache.gateway.asking import AgentGet, AskedRegistry
from contentcache.gateway.choosing import Networks
from contentcache.gateway.database import SqliteDirectory
from contentcache.gateway.desk import Desk, make_desk
from contentcache.gateway.liveness import Liveness
from contentcache.gateway.probe import HttpProbe
from contentcache.gateway.probe_blob import SignedProbe
from contentcache.tls.trust import UpstreamTrust
from contentcache.upstream.agent import UpstreamTransport

_SECRET_BYTES: Final = 64
_log = Logger()


@frozen
class Reception:
    """
    The desk, and what the daemon starts and stops for it. ``read_only`` says why nothing can be written into
    the database, ``None`` if it can be.
    """

    desk: Desk
    liveness: Liveness
    read_only: Callable[[], str | None]
    close: Callable[[], None]


def open_reception(
    options: Gateway,
    reactor: Any,
    *,
    transport: UpstreamTransport,
    trust: UpstreamTrust,
    probe: SignedProbe,
    secure: bool,
    run: Run,
    wall: Clock,
) -> Reception:
    """
    Open the database and put the desk together. Blocks.

    ``transport`` leads to the registry, ``trust`` is how caches are believed, ``probe`` makes what they are
    asked for; ``secure`` says that browsers come over TLS.

    :raises DatabaseUnusable: the file is something else.
    :raises OSError: it cannot be had.
    """
    directory = SqliteDirectory(options.database)
    if directory.read_only is not None:
        _log.warn("gateway database read-only", path=options.database, reason=directory.read_only)
    believed: Any = trust  # IPolicyForHTTPS, as zope knows and mypy does not
    liveness = Liveness(
        directory,
        HttpProbe(reactor, believed, probe.target),
        run=run,
        timer=reactor,
        wall=wall,
        interval=options.checkinterval,
    )
    get = AgentGet(transport.agent, reactor, timeout=options.stalltimeout, limit=options.limits.token)
    desk = make_desk(
        directory,
        liveness,
        AskedRegistry(options.registry, get, reactor, realms=options.realms),
        run=run,
        monotonic=reactor.seconds,
        wall=wall,
        randomness=os.urandom,
        secret=secrets.token_bytes(_SECRET_BYTES),
        secure=secure,
        new_id=uuid4,
        networks=Networks.of(options.networks),
        admins=options.admins,
        admin_group=options.admingroup,
        auth_ttl=options.authttl,
    )
    return Reception(desk, liveness, lambda: directory.read_only, directory.close)
