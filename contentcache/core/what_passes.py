"""
What passes between client and origin besides bodies, declared once: ``docs/what-passes.rst`` is made of it.

Headers of answers are declared in :mod:`contentcache.core.header_policy`, with the allow-list that works from
them; here are headers of requests, query keys, statuses and sizes. A test compares the document with what
``python -m contentcache.core.what_passes`` prints.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Final

from attrs import frozen

from contentcache.core.header_policy import LONGEST_LINE, MOST_LINES, RULES, Fate

#: Bytes of a refusal's body that pass.
LONGEST_REFUSAL: Final = 64 << 10


@frozen
class RequestRule:
    """
    What becomes of a header of a client's request on its way to the origin. ``crosses`` says that a host to
    which the origin redirects may see it too, where a request of ours has it.
    """

    name: str
    fate: Fate
    why: str
    crosses: bool = False


REQUEST_HEADERS: Final = (
    RequestRule(
        "Authorization",
        "passed",
        "the origin decides by it; replaced by an account of the cache's own, dropped beside a signed URL",
    ),
    RequestRule(
        "Accept", "passed", "of manifests and lists; ``*/*`` becomes all manifest types by name", crosses=True
    ),
    RequestRule("Via", "rewritten", "this cache is added, to find loops", crosses=True),
    RequestRule(
        "Range", "rewritten", "what is missing here is asked for, once for all clients", crosses=True
    ),
    RequestRule("If-Range", "dropped", "answered here by the digest", crosses=True),
    RequestRule("If-None-Match", "dropped", "answered here: a 304 of the origin says nothing of permission"),
    RequestRule("If-Match", "dropped", "answered here by the digest"),
    RequestRule("If-Modified-Since", "dropped", "contents have no dates"),
    RequestRule("X-Request-Id", "rewritten", "to other caches only: the client's, or one that was made here"),
    RequestRule("traceparent", "dropped", "is the request id where ``X-Request-Id`` is not sent"),
    RequestRule("Cookie", "dropped", "of this host, not of the origin's"),
    RequestRule("User-Agent", "dropped", "a request may be shared by several clients"),
    RequestRule("Accept-Encoding", "dropped", "digests are of the bytes as they are"),
    RequestRule("X-Forwarded-For", "dropped", "who asks is not told"),
)

#: Names of headers, in bytes, that a host to which the origin redirects may see.
CROSSING: Final = tuple(rule.name.encode("ascii") for rule in REQUEST_HEADERS if rule.crosses)


@frozen
class Rule:
    """What becomes of a query key, a status or a size."""

    name: str
    fate: str
    why: str


QUERY_KEYS: Final = (
    Rule("n", "passed", "of lists, a number of entries"),
    Rule("last", "passed", "of lists"),
    Rule("artifactType", "passed", "of referrers"),
    Rule("token", "passed", "of a signed URL, in place of any Authorization"),
    Rule("ns", "dropped", "it selects the origin here; it is added to ``Link``"),
)

STATUSES: Final = (
    Rule(
        "200, 206", "passed", "whether a part or the whole is sent is decided here, by the client's own range"
    ),
    Rule("304", "made here", "from the client's conditions and the digest"),
    Rule("301, 302, 303, 307, 308", "followed", "the client sees what they lead to, from here"),
    Rule("401", "passed", "with the challenge; 403 where the cache asks with an account of its own"),
    Rule(
        "403, 404, other 4xx", "passed", "of the registry itself; of what it redirects a blob to it is a 502"
    ),
    Rule("416", "made here", "from the size of the blob"),
    Rule("429", "passed", "and remembered for that client until ``Retry-After``"),
    Rule("503, 504", "passed", "once every host has failed; the next one is asked before"),
    Rule("508", "passed", "a loop of caches"),
    Rule("other 5xx, no HTTP", "rewritten", "502; the next host is asked before"),
)

SIZES: Final = (
    Rule("Manifest", "bounded", "``limits.manifest``, else 413"),
    Rule("Body of a refusal", "bounded", f"{LONGEST_REFUSAL >> 10} KiB, else it passes without its body"),
    Rule("Lines of headers that pass", "bounded", f"{MOST_LINES}, the others are dropped"),
    Rule("Line of a header that passes", "bounded", f"{LONGEST_LINE >> 10} KiB, longer ones are dropped"),
    Rule("Blob, list", "passed", "of any size, as they come"),
)


def tables() -> str:
    """The tables of the document, in reStructuredText."""
    return "\n".join(
        (
            *_table("Header of an answer", ((f"``{r.name}``", r.fate, r.why) for r in RULES)),
            *_table("Header of a request", ((f"``{r.name}``", r.fate, r.why) for r in REQUEST_HEADERS)),
            *_table("Query key", ((f"``{r.name}``", r.fate, r.why) for r in QUERY_KEYS)),
            *_table("Status of the origin", ((r.name, r.fate, r.why) for r in STATUSES)),
            *_table("Size", ((r.name, r.fate, r.why) for r in SIZES)),
        )
    )


def _table(title: str, rows: Iterable[Sequence[str]]) -> Iterable[str]:
    yield from (".. list-table::", "   :header-rows: 1", "   :widths: 28 12 60", "")
    for first, *others in ((title, "", "why"), *rows):
        yield f"   * - {first}"
        yield from (f"     - {other}".rstrip() for other in others)
    yield ""


if __name__ == "__main__":
    sys.stdout.write(tables())
