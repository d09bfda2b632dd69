"""What becomes of a subscriber whose blob another origin's download has stored: it goes on from the stored file."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import Final

from contentcache.core.errors import CacheError
from contentcache.core.ports import Run
from contentcache.delivery.bodies import ClientSink, Remainder, ShortError
from contentcache.delivery.responses import ContentResponse
from contentcache.delivery.shared_download import SharedDownload
from contentcache.storage.interfaces import BlobFile

_PIECE: Final = 1 << 20


async def continue_from_stored(
    download: SharedDownload,
    stored: BlobFile | None,
    sink: ClientSink,
    rest: Remainder,
    release: Callable[[], None],
    *,
    authorize: Callable[[], Awaitable[ContentResponse]],
    run: Run,
) -> None:
    """
    Send the ``rest``, once ``authorize`` has answered with the body that this client may have; ``release``
    gives up the download's file before.

    What the client got came from the download's own partial file, and was not verified: it must be the same
    as in the ``stored`` blob, else the two together would complete a blob with a digest mismatch.

    :raises ShortError: the client is refused now, or has got something else.
    """
    if stored is None:
        raise ShortError("the stored blob has gone again")
    try:
        if download.size not in {None, stored.size}:
            raise ShortError("the stored blob has another size")
        try:
            with await authorize() as served:
                if not await run(_is_same, download, stored, rest.first, rest.start):
                    raise ShortError("what was downloaded is not what is stored")
                release()
                await served.body.send(sink, rest.start, rest.stop, small_part=rest.small_part)
        except CacheError as error:
            raise ShortError(error.message) from error
        except OSError as error:
            raise ShortError(f"the store cannot be read: {error}") from error
    finally:
        stored.close()


def _is_same(download: SharedDownload, stored: BlobFile, start: int, stop: int) -> bool:
    """In a thread: whether both files have the same bytes from ``start`` up to ``stop``."""
    while start < stop:
        length = min(_PIECE, stop - start)
        data = stored.read(start, length)
        if len(data) != length or data != download.file.read(start, length):
            return False
        start += length
    return True
