"""Addresses to listen on."""

from __future__ import annotations

from attrs import frozen


@frozen
class Address:
    """Where to listen: ``host`` empty means every address; for ``net: unix`` ``path`` is the file's path."""

    host: str
    port: int
    path: str | None = None

    def __str__(self) -> str:
        """
        As it is written in the configuration.

        >>> str(Address("::1", 5000)), str(Address("", 5000))
        ('[::1]:5000', ':5000')
        """
        if self.path is not None:
            return self.path
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"
