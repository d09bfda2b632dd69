"""The status document for those who may not see names of repositories, tags and digests."""

from __future__ import annotations

from attrs import evolve

from contentcache.admin.status import Images, Status
from contentcache.core.shown import hide_names


def without_names(status: Status) -> Status:
    """The document without names of repositories, tags and digests, for whoever may not see them."""
    store = status.store
    if store is not None:
        hidden = tuple(evolve(one, digest=None, repository=None) for one in store.evicted_next)
        store = evolve(store, evicted_next=hidden, fault=hide_names(store.fault))
    images = status.images
    if images is not None:
        images = Images(
            tuple(evolve(one, repository=None) for one in images.largest),
            tuple(evolve(one, repository=None) for one in images.hottest),
        )
    gateway = status.gateway
    if gateway is not None:
        caches = (evolve(one, reason=hide_names(one.reason)) for one in gateway.caches)
        gateway = evolve(gateway, caches=tuple(caches))
    return evolve(
        status,
        downloads=tuple(evolve(one, digest=None, repository=None) for one in status.downloads),
        upstreams=tuple(evolve(one, reason=hide_names(one.reason)) for one in status.upstreams),
        errors=tuple(evolve(one, text=one.event) for one in status.errors),
        store=store,
        images=images,
        gateway=gateway,
    )
