"""
The blob by which a gateway finds out whether a cache is of use: a few bytes that the gateway itself serves.

A cache that answers ``GET /`` may still refuse every URL that this gateway signs, because it has other keys,
another origin, or a clock of its own. So it is asked for a blob, as a client would ask that was sent there:
with a signed URL. A cache asks this gateway in turn, for its keys and for the blob. Any cache that knows
signed URLs can answer that, and nothing else is asked of it.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from contentcache.core.digest import Digest
from contentcache.core.ports import Clock
from contentcache.core.routes import Content
from contentcache.jose.blob_tokens import SigningKey, sign_blob_token

#: The whole blob. Another one needs another text: it is named by its digest.
PROBE_BYTES: Final = b"contentcache gateway probe 1\n"
#: Where caches know it from. No repository of the registry is asked for it, whatever is called so.
PROBE_BLOB: Final = Content("contentcache/probe", "blobs", Digest.of(PROBE_BYTES))
#: For how many seconds the URL is good: as long as a probe may take, and clocks may differ.
_LIFETIME: Final = 60.0


class SignedProbe:
    """
    Makes the URLs. ``signer`` is the key that signs now, ``None`` where there is none yet; ``issuer`` the
    gateway's own name.
    """

    def __init__(self, signer: Callable[[], SigningKey | None], *, issuer: str, wall: Clock) -> None:
        self._signer = signer
        self._issuer = issuer
        self._wall = wall

    def target(self) -> str | None:
        """Path and query of a signed URL for the blob on any cache; ``None`` while nothing can be signed."""
        key = self._signer()
        if key is None:
            return None
        token = sign_blob_token(
            key,
            issuer=self._issuer,
            subject="",
            repository=PROBE_BLOB.repository,
            digest=PROBE_BLOB.digest,
            now=self._wall(),
            lifetime=_LIFETIME,
        )
        return f"{PROBE_BLOB.path()}?token={token}"
