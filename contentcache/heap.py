"""What the C library does with memory between two uses."""

from __future__ import annotations

import ctypes
from typing import Final

#: Parameters of ``mallopt(3)``.
_TRIM_THRESHOLD: Final = -1
_MMAP_THRESHOLD: Final = -3
#: Bytes at the end of the heap that stay there for the next one.
_KEPT: Final = 8 << 20
#: Buffers of fewer bytes come from the heap: all that bodies pass through.
_LARGE: Final = 1 << 20


def keep_buffers() -> None:
    """
    Let the buffers of bodies be used again, instead of giving them back to the kernel and asking for them
    anew: that is 64 page faults for every 256 KiB, each for a page that is first filled with zeros.

    With another C library than glibc nothing happens.
    """
    set_option = getattr(ctypes.CDLL(None), "mallopt", None)
    if set_option is not None:
        set_option(_TRIM_THRESHOLD, _KEPT)
        set_option(_MMAP_THRESHOLD, _LARGE)
