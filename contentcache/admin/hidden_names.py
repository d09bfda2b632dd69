"""The status document for those who may not see names of repositories, tags and digests."""

from __future__ import annotations

import re
from typing import Final

from attrs import evolve

from contentcache.admin.status import Images, Status

#: What names a repository, tag or digest in a sentence.
_NAMES: Final = re.compile(r"/v2/\S*|\b[a-z0-9]+(?:[+._-][a-z0-9]+)*:[0-9a-fA-F]{32,}|\b[0-9a-f]{64,}\b")


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
    return evolve(
        status,
        downloads=tuple(evolve(one, digest=None, repository=None) for one in status.downloads),
        upstreams=tuple(evolve(one, reason=hide_names(one.reason)) for one in status.upstreams),
        errors=tuple(evolve(one, text=one.event) for one in status.errors),
        store=store,
        images=images,
    )


def hide_names(text: str | None) -> str | None:
    """
    A sentence without paths of the registry's API and without digests.

    >>> hide_names("GET https://a.example/v2/org/app/blobs/x failed")
    'GET https://a.example… failed'
    """
    return None if text is None else _NAMES.sub("…", text)
