"""
Loops and depth of a chain, read off ``Via`` (RFC 9110 §7.6.3).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from attrs import frozen

#: What the pseudonyms of all caches of this kind begin with.
FAMILY: Final = "contentcache-"
#: More caches in a row than this cost more than they give.
DEEPEST: Final = 2


@frozen
class Path:
    """
    The way that a request has come: the received-by parts, nearest to the client first.
    """

    hops: tuple[str, ...]

    @classmethod
    def of(cls, values: Sequence[str]) -> Path:
        """
        Read the values of ``Via``.

        >>> Path.of(["1.1 contentcache-ab (Content Cache), 1.0 fred"]).hops
        ('contentcache-ab', 'fred')
        """
        entries = [entry.split() for value in values for entry in value.split(",")]
        return cls(tuple(entry[1] for entry in entries if len(entry) > 1))

    def has_met(self, pseudonym: str) -> bool:
        """
        Whether the request has been here.
        """
        return pseudonym in self.hops

    @property
    def caches(self) -> int:
        """
        How many caches of this kind the request has passed.
        """
        return sum(hop.startswith(FAMILY) for hop in self.hops)


def added(values: Sequence[str], pseudonym: str) -> str:
    """
    The ``Via`` to send on.

    >>> added(["1.1 fred"], "contentcache-ab")
    '1.1 fred, 1.1 contentcache-ab'
    """
    return ", ".join([*values, f"1.1 {pseudonym}"])
