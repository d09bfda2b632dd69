"""
Ids by which the log lines about one request are found, at every cache that it has passed.

A client may send its own id, or a ``traceparent``; else one is made here. It is sent to other caches only. While a
request is answered, :data:`TRACE` has its id: the log adds it to what is logged meanwhile, and the upstream client
sends it to the next cache. A task that is started meanwhile has it too, and keeps it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Sequence
from contextvars import ContextVar
from itertools import count
from typing import Final

from attrs import define

HEADER: Final = "X-Request-Id"


@define(eq=False)
class Provenance:
    """
    Where the bytes of a response come from: the id of the shared ``download``, and ``served_by``, the upstream host
    that has sent the last ones, or before the first one has answered last. Of a running download that may change.
    """

    download: str = "-"
    served_by: str = "-"


#: That of a response without a shared download.
NO_DOWNLOAD: Final = Provenance()


@define(eq=False)
class RequestTrace:
    """
    What the log says of one request: its id, the upstream host that has answered last, in the task of a shared
    download the id of that, and the ``provenance`` of the download that the request has subscribed to.
    """

    request_id: str = ""
    answered_by: str = "-"
    download: str | None = None
    provenance: Provenance = NO_DOWNLOAD


#: That of the request that is being answered; of none, outside of one.
TRACE: Final[ContextVar[RequestTrace | None]] = ContextVar("trace", default=None)


_USABLE: Final = re.compile(r"[A-Za-z0-9._-]{1,64}")
_MASK: Final = (1 << 64) - 1
#: Begins at random, so that ids of several processes differ; the odd step visits every number once.
_numbers = count(secrets.randbits(64), 0x9E37_79B9_7F4A_7C15)


def current_id() -> str:
    """The id of the request that is being answered, empty outside of one."""
    trace = TRACE.get()
    return "" if trace is None else trace.request_id


def subscribed_to(provenance: Provenance) -> None:
    """The request that is being answered has subscribed to a download; so the log says however it ends."""
    trace = TRACE.get()
    if trace is not None:
        trace.provenance = provenance


def new_id() -> str:
    """A new id of a request or of a download: sixteen hexadecimal digits."""
    return f"{next(_numbers) & _MASK:016x}"


def usable_id(text: str | None) -> str | None:
    """
    An id that was made elsewhere, if it may be logged and sent on.

    >>> usable_id("build-7.3"), usable_id('a" b'), usable_id("x" * 65), usable_id("")
    ('build-7.3', None, None, None)
    """
    return text if text is not None and _USABLE.fullmatch(text) else None


def sent_id(request_ids: Sequence[bytes] | None, traceparents: Sequence[bytes] | None) -> str | None:
    """
    The id that a client has sent: ``X-Request-Id``, else ``traceparent``. A header that stands twice is ignored.

    >>> sent_id(None, [b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"])
    '00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01'
    >>> sent_id([b"a", b"b"], [b'"'])
    """
    for values in (request_ids, traceparents):
        found = usable_id(values[0].decode("latin-1")) if values is not None and len(values) == 1 else None
        if found is not None:
            return found
    return None
