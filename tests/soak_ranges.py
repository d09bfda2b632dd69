"""
Whole downloads and parts far ahead of them, of the same blobs at the same time, from an honest upstream.

    python -m tests.soak --mode ranges --minutes 10 --seed 7

At the end: every byte was right, and no digest mismatch was counted against an upstream that made no mistake.
"""

from __future__ import annotations

import http.client
import random
import threading
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Final

from tests.real.alone import Place
from tests.real.cache import ContentCache
from tests.real.images import digest_of, random_bytes
from tests.real.line import CountingProxy
from tests.real.unruly import REPOSITORY, Unruly

_SIZE: Final = 24 << 20
_BLOBS: Final = 3
_PARTS: Final = 3
_PART: Final = 64 << 10
#: Bytes in a second that come from upstream.
_RATE: Final = 12_000_000


class RangesSoak:
    """One run, in rounds: each begins with an empty cache. ``say`` hears how it goes."""

    def __init__(self, folder: Path, seed: str, say: Callable[[str], object]) -> None:
        self.counts: Counter[str] = Counter()
        self.faults: list[str] = []
        self._place = Place(folder)
        self._say = say
        self._seed = seed
        contents = [random_bytes(_SIZE, f"{seed} {number}") for number in range(_BLOBS)]
        self._blobs = {digest_of(content): content for content in contents}
        self._upstream = Unruly(self._place, *self._blobs.values())
        self._line = CountingProxy(self._place, self._upstream.port, rate=_RATE)

    def run(self, seconds: float) -> None:
        """Rounds for so long, at least one."""
        end = time.monotonic() + seconds
        number = 0
        while number == 0 or time.monotonic() < end:
            self._round(number)
            number += 1
            self._say(f"round {number}: {dict(self.counts)}")

    def close(self) -> None:
        """Stop all programs."""
        self._place.close()

    def log(self) -> str:
        """What the last daemon has logged."""
        return self._log

    def _round(self, number: int) -> None:
        cache = ContentCache(self._place, self._line.url)
        clients = []
        for digest in self._blobs:
            clients.append(threading.Thread(target=self._whole, args=(cache.port, digest), daemon=True))
            for part in range(_PARTS):
                random_ = random.Random(f"{self._seed} {number} {digest} {part}")
                arguments = (cache.port, digest, random_)
                clients.append(threading.Thread(target=self._parts, args=arguments, daemon=True))
        for client in clients:
            client.start()
        for client in clients:
            client.join(120)
            if client.is_alive():
                self.faults.append("a client got no end of its answer")
        mismatches = int(cache.metric("contentcache_digest_mismatches_total"))
        self.counts["digest mismatches"] += mismatches
        if mismatches:
            self.faults.append(f"round {number}: {mismatches} digest mismatches of an honest upstream")
        self._log = cache.log()
        if "Traceback" in self._log:
            self.faults.append("a traceback in the log")
        cache.stop(20)

    def _whole(self, port: int, digest: str) -> None:
        status, body = _ask(port, digest)
        self._expect(status == 200 and body == self._blobs[digest], f"the whole of {digest}: {status}")
        self.counts["wholes"] += 1

    def _parts(self, port: int, digest: str, random_: random.Random) -> None:
        content = self._blobs[digest]
        for _ in range(12):
            start = random_.randrange(len(content) // 3, len(content) - _PART)
            stop = start + random_.randrange(1, _PART)
            status, body = _ask(port, digest, f"bytes={start}-{stop - 1}")
            right = status == 206 and body == content[start:stop]
            self._expect(right, f"{start}-{stop} of {digest}: {status}, {len(body)} bytes")
            self.counts["parts"] += 1

    def _expect(self, right: bool, what: str) -> None:
        if not right:
            self.faults.append(what)


def _ask(port: int, digest: str, part: str | None = None) -> tuple[int, bytes]:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        headers = {} if part is None else {"Range": part}
        connection.request("GET", f"/v2/{REPOSITORY}/blobs/{digest}", headers=headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        return 0, repr(error).encode()
    finally:
        connection.close()
