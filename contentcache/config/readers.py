"""Readers of single values: each returns the value of an item, or raises ``InvalidValueError``."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import TypeVar

from contentcache.config.document import Scalar
from contentcache.config.faults import InvalidValueError, suggestion
from contentcache.config.tables import Item
from contentcache.core import durations, sizes

T = TypeVar("T")
Reader = Callable[[Item], T]

_WHOLE = re.compile(r"[0-9][0-9_]{0,17}")
_BOOLEAN_LETTERS = {"y": True, "Y": True, "n": False, "N": False}


def scalar(item: Item) -> Scalar:
    """A single value of any type."""
    if not isinstance(item.node, Scalar) or item.empty:
        raise InvalidValueError(f"{item.described()} stands where a single value belongs")
    return item.node


def text(item: Item) -> str:
    """A text in printable characters; numbers are taken as they are written, as the registry does."""
    node = scalar(item)
    if isinstance(node.value, bool):
        raise InvalidValueError(f"{item.described()} is a boolean; put it in quotes if the word is meant")
    if not node.text:
        raise InvalidValueError("is an empty text")
    if not node.text.isprintable():
        raise InvalidValueError(
            f"{item.described()} holds a line break or another character that cannot be printed"
        )
    return node.text


def secret(item: Item) -> str:
    """A text that no message repeats."""
    try:
        return text(item)
    except InvalidValueError:
        raise InvalidValueError("is not a non-empty text in one line; put it in quotes") from None


def boolean(item: Item) -> bool:
    """A boolean of YAML 1.1, not a text that looks like one."""
    node = scalar(item)
    if isinstance(node.value, bool):
        return node.value
    if node.plain and node.text in _BOOLEAN_LETTERS:
        return _BOOLEAN_LETTERS[node.text]
    if node.text.lower() in {"true", "false", "yes", "no", "on", "off"}:
        raise InvalidValueError(
            f"{item.described()} in quotes is a text, not a boolean; write it without quotes"
        )
    raise InvalidValueError(f"{item.described()} is not a boolean; write true or false")


def integer(at_least: int) -> Reader[int]:
    """A whole number, not less than ``at_least``."""

    def read(item: Item) -> int:
        node = scalar(item)
        if not _WHOLE.fullmatch(node.text) or int(node.text.replace("_", "")) < at_least:
            raise InvalidValueError(f"{item.described()} is not a whole number of at least {at_least}")
        return int(node.text.replace("_", ""))

    return read


def share(item: Item) -> float:
    """A part of a whole: from 0 for none of it to 1 for all of it."""
    written = text(item)
    if re.fullmatch(r"(?:0|1)(?:\.[0-9]{1,9})?|\.[0-9]{1,9}", written) is None or float(written) > 1:
        raise InvalidValueError(f"{item.described()} is not a share from 0 to 1; write e.g. 0.3")
    return float(written)


def duration(*, zero: bool) -> Reader[float]:
    """A duration in Go's syntax, in seconds: never negative, ``0`` only with ``zero``."""

    def read(item: Item) -> float:
        try:
            seconds = durations.parse(scalar(item).text)
        except durations.DurationInvalid as invalid:
            raise InvalidValueError(str(invalid)) from None
        if seconds < 0 or (seconds == 0 and not zero):
            raise InvalidValueError(
                f"{item.described()} is not {'0 or more' if zero else 'more than 0'}; write e.g. 24h or 1h30m"
            )
        return seconds

    return read


def size(*, zero: bool) -> Reader[int]:
    """A size in bytes, ``0`` only with ``zero``."""

    def read(item: Item) -> int:
        try:
            count = sizes.parse(scalar(item).text)
        except sizes.SizeInvalid as invalid:
            raise InvalidValueError(str(invalid)) from None
        if count == 0 and not zero:
            raise InvalidValueError(f"{item.described()} is less than one byte; write e.g. 500GB or 2TiB")
        return count

    return read


def choice(options: Iterable[T], *, lower: bool = False) -> Reader[T]:
    """One of a few texts, ``lower`` for those whose case does not matter."""
    known = {str(option): option for option in options}

    def read(item: Item) -> T:
        word = scalar(item).text
        word = word.lower() if lower else word
        if word not in known:
            listed = ", ".join(known)
            raise InvalidValueError(f"{item.described()} is not one of {listed}{suggestion(word, known)}")
        return known[word]

    return read


def listing(
    reader: Reader[T], hint: str = "; put it in brackets: [...]", *, repeats: bool = False
) -> Reader[tuple[T, ...]]:
    """A list whose values ``reader`` reads; wrong ones are noted, and left out."""

    def read(item: Item) -> tuple[T, ...]:
        values: list[T] = []
        for each in item.items(hint):
            try:
                value = reader(each)
            except InvalidValueError as wrong:
                each.fault(str(wrong))
                continue
            if value in values and not repeats:
                each.fault(f"{each.described()} is given twice")
            values.append(value)
        return tuple(values)

    return read
