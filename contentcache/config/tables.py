"""Reading the tree of a file: each value is read by its key, and a key that is not read is a fault."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from types import TracebackType
from typing import Self, TypeVar

from attrs import frozen

from contentcache.config.document import Dictionary, Node, Scalar, Series
from contentcache.config.faults import InvalidValueError, Position, Report, below, suggestion

T = TypeVar("T")
D = TypeVar("D")

_ENOUGH = 60


def _without_userinfo(text: str) -> str:
    """
    ``text`` without what stands before each ``@``.

    >>> _without_userinfo("https://u:p@host//v@w"), _without_userinfo("host")
    ('***@host//***@w', 'host')
    """
    first, *others = text.split("@")
    if not others:
        return first
    parted = (each.partition("//") for each in others[:-1])
    between = [f"{before}//***" if slashes else before for before, slashes, _ in parted]
    return "@".join(["***", *between, others[-1]])


@frozen
class Item:
    """One value that is to be read."""

    node: Node
    path: str
    report: Report

    @property
    def position(self) -> Position:
        """Where it is written."""
        return Position(self.path, self.node.origin)

    @property
    def empty(self) -> bool:
        """Whether nothing was written, or ``null``."""
        return isinstance(self.node, Scalar) and self.node.value is None

    def described(self) -> str:
        """The value for a sentence, shortened."""
        if isinstance(self.node, Series):
            return "a list"
        if isinstance(self.node, Dictionary):
            return "a mapping"
        if self.empty:
            return "nothing"
        # Before an @ there may be a password, also in a malformed URL.
        text = _without_userinfo(self.node.text)
        return repr(text if len(text) <= _ENOUGH else text[:_ENOUGH] + "...")

    def fault(self, message: str) -> None:
        """Report that this value is invalid."""
        self.report.fault(self.position, message)

    def read(self, reader: Callable[[Item], T], default: D) -> T | D:
        """What ``reader`` returns for the value; ``default`` where it is invalid, which is reported."""
        try:
            return reader(self)
        except InvalidValueError as wrong:
            self.fault(str(wrong))
            return default

    def items(self, hint: str = "") -> tuple[Item, ...]:
        """The values of a list; ``hint`` ends the sentence where it is something else."""
        if self.empty:
            return ()
        if not isinstance(self.node, Series):
            self.fault(f"{self.described()} is not a list{hint}")
            return ()
        return tuple(
            Item(node, below(self.path, index), self.report) for index, node in enumerate(self.node.items)
        )

    def table(self, hint: str = "") -> Table:
        """The value as a mapping; an empty one where it is something else, which is reported."""
        if isinstance(self.node, Dictionary):
            return Table(self.node, self.path, self.report)
        if not self.empty:
            self.fault(f"{self.described()} is not a mapping of keys to values{hint}")
        return Table(Dictionary(self.node.origin), self.path, self.report, present=False)


class Table:
    """
    A mapping that is being read. At the end of its ``with`` block every key that was not read is a fault, which
    suggests the nearest key that was.
    """

    def __init__(self, node: Dictionary, path: str, report: Report, *, present: bool = True) -> None:
        self.present = present
        self._node = node
        self._path = path
        self._report = report
        self._known: set[str] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self._report_unknown()

    @property
    def position(self) -> Position:
        """Where the mapping is written."""
        return Position(self._path, self._node.origin)

    def position_of(self, key: str) -> Position:
        """Where ``key`` is written, or the mapping where it has no such key."""
        return Position(below(self._path, key), self._node.keys.get(key, self._node.origin))

    def __iter__(self) -> Iterator[str]:
        """All keys, in the order of the file."""
        return iter(tuple(self._node.entries))

    def has(self, key: str) -> bool:
        """Whether ``key`` is there and not empty."""
        return self.get(key) is not None

    def get(self, key: str) -> Item | None:
        """The value of ``key``; ``None`` where it is not there or empty."""
        self._known.add(key)
        node = self._node.entries.get(key)
        if node is None:
            return None
        item = Item(node, below(self._path, key), self._report)
        return None if item.empty else item

    def read(self, key: str, reader: Callable[[Item], T], default: D) -> T | D:
        """What ``reader`` returns for ``key``; ``default`` where it is missing or invalid."""
        item = self.get(key)
        return default if item is None else item.read(reader, default)

    def require(self, key: str, reader: Callable[[Item], T], default: D, example: str) -> T | D:
        """Read a key that must be there."""
        if self.get(key) is None:
            self._report.fault(self.position_of(key), f"is required; write e.g. {example}")
        return self.read(key, reader, default)

    def section(self, key: str, hint: str = "") -> Table:
        """The mapping at ``key``, an empty one where there is none."""
        item = self.get(key)
        if item is not None:
            return item.table(hint)
        origin = self._node.keys.get(key, self._node.origin)
        return Table(Dictionary(origin), below(self._path, key), self._report, present=False)

    def section_or_name(self, key: str) -> Table:
        """The mapping at ``key``, which may be written as the name of its only entry."""
        item = self.get(key)
        if item is None or not isinstance(item.node, Scalar):
            return self.section(key)
        node = Dictionary(item.node.origin)
        node.put(item.node.text, Scalar(item.node.origin), item.node.origin)
        return Table(node, item.path, item.report)

    def items(self, key: str, hint: str = "") -> tuple[Item, ...]:
        """The values of the list at ``key``."""
        item = self.get(key)
        return () if item is None else item.items(hint)

    def fault(self, key: str, message: str) -> None:
        """Report that the value of ``key`` is invalid."""
        self._report.fault(self.position_of(key), message)

    def warn(self, key: str, message: str) -> None:
        """Warn of ``key``; the daemon starts all the same."""
        self._report.warn(self.position_of(key), message)

    def ignore(self, keys: Iterable[str], why: str = "has no effect on a cache") -> None:
        """Accept ``keys`` of the registry that have no effect here, with a warning for each."""
        for key in keys:
            self._known.add(key)
            if key in self._node.entries:
                self.warn(key, why)

    def unsupported(self, keys: Iterable[str], instead: str) -> None:
        """Refuse ``keys`` of the registry that this daemon does not support; ``instead`` is a sentence."""
        for key in keys:
            self._known.add(key)
            if self.has(key):
                self.fault(key, f"is a key of the registry that this daemon does not support: {instead}")

    def _report_unknown(self) -> None:
        for key in self._node.entries:
            if key not in self._known:
                self._report_unknown_key(key)

    def _report_unknown_key(self, key: str) -> None:
        name, colon, _ = key.partition(":")
        if colon and name in self._known:
            # Such as {password:x}, which YAML takes for a key: what follows may be the password.
            position = Position(below(self._path, name), self._node.keys[key])
            self._report.fault(position, "has no space behind its colon; write one")
        else:
            self.fault(key, f"unknown key{suggestion(key, sorted(self._known))}")
