"""
One description for each key of the configuration: beside the field of the value that it becomes.

From these descriptions come the reader of the file, the names of the environment variables, what
``check --show`` writes, the tables of the reference and the JSON Schema.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final, Literal

import attrs
from attrs import frozen

from contentcache.config.schema.kinds import ValueKind

#: Under this key a field's metadata has its descriptions.
_METADATA: Final = "contentcache.options"
_BY_HAND: Final = "contentcache.by_hand"

#: When a changed value takes effect: at once after a reload, or with the next start.
Effect = Literal["reload", "restart"]


@frozen
class Option:
    """
    A key of the file. ``default`` is as the reference shows it: ``None`` where the field's own default says
    it, ``required`` where there is none. ``example`` ends the sentence about a required key that is missing.
    """

    key: str
    kind: ValueKind
    meaning: str
    default: str | None = None
    example: str | None = None
    since: str = "0.1"
    effect: Effect = "restart"


@frozen
class DescribedField:
    """A field of a value with one of the keys that it comes from; ``by_hand`` says that code reads it."""

    field: str
    option: Option
    value: object
    by_hand: bool

    @property
    def default_title(self) -> str:
        """The default in the reference."""
        if self.option.default is not None:
            return self.option.default
        if self.option.example is not None:
            return "required"
        if self.value is None or self.value in ((), {}, frozenset(), ""):
            return "none"
        spelled = self.option.kind.spell(self.value)
        return f"``{str(spelled).lower() if isinstance(spelled, bool) else spelled}``"


def option(
    kind: ValueKind,
    default: Any,
    meaning: str,
    *,
    key: str | None = None,
    shown: str | None = None,
    effect: Effect = "restart",
    since: str = "0.1",
) -> Any:
    """A field with a default, whose value one key gives. ``key`` is the key's name where it is not the field's."""
    return attrs.field(
        default=default, metadata={_METADATA: (Option(key or "", kind, meaning, shown, None, since, effect),)}
    )


def required(
    kind: ValueKind, example: str, meaning: str, *, key: str | None = None, shown: str | None = None
) -> Any:
    """A field whose key must be there; ``example`` is what the sentence about a missing one proposes."""
    return attrs.field(metadata={_METADATA: (Option(key or "", kind, meaning, shown, example),)})


def by_hand(default: Any, *options: Option) -> Any:
    """A field that code makes of one key or of several, or of none."""
    return attrs.field(default=default, metadata={_METADATA: options, _BY_HAND: True})


def described(model: type[Any]) -> Iterator[DescribedField]:
    """The described keys of a model, in the order of its fields."""
    for field in attrs.fields(model):
        # A default that is made anew for each value (Factory) is an empty mapping.
        default = () if isinstance(field.default, type(attrs.Factory(dict))) else field.default
        for each in field.metadata.get(_METADATA, ()):
            named = each if each.key else attrs.evolve(each, key=field.name)
            yield DescribedField(field.name, named, default, _BY_HAND in field.metadata)


def option_of(model: type[Any], key: str) -> Option:
    """The description of one key."""
    return keys_of(model)[key]


def keys_of(model: type[Any]) -> Mapping[str, Option]:
    """Every key of a model with its description."""
    return {each.option.key: each.option for each in described(model)}
