"""
A YAML text as a tree of values that know where they were written.

Nothing a text holds can cost more than its length suggests: nesting, size and the number of
values after aliases are bounded, and no tag constructs anything.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Final

import yaml
from attrs import define, field

from contentcache.config.faults import InvalidValueError, Origin, Position, Report, below

#: Bounds, far beyond what any configuration needs.
LARGEST_FILE: Final = 1 << 20
DEEPEST: Final = 40
MOST_VALUES: Final = 20_000

_LONGEST_NUMBER: Final = 64
_TAG: Final = "tag:yaml.org,2002:"
#: It may be a password that starts with an exclamation mark: it is not repeated.
_MEANINGLESS: Final = "a tag has no meaning here; a text that starts with ! needs quotes"
_PLAIN_TAGS: Final = frozenset(_TAG + kind for kind in ("str", "timestamp", "value", "merge"))

Atom = bool | int | float | str | None


@define(eq=False)
class Scalar:
    """A single value: ``text`` as written, ``value`` as YAML 1.1 reads it; ``plain`` is without quotes."""

    origin: Origin
    text: str = ""
    value: Atom = None
    plain: bool = True


@define(eq=False)
class Series:
    """A list."""

    origin: Origin
    items: list[Node] = field(factory=list)


@define(eq=False)
class Dictionary:
    """A mapping, whose keys are texts. ``keys`` says where each key was written."""

    origin: Origin
    entries: dict[str, Node] = field(factory=dict)
    keys: dict[str, Origin] = field(factory=dict)

    def put(self, key: str, node: Node, origin: Origin) -> None:
        """Set an entry, or replace it."""
        self.entries[key] = node
        self.keys[key] = origin


Node = Scalar | Series | Dictionary


class UnparsableError(Exception):
    """A text is not YAML, or not within the bounds. ``line`` counts from 1."""

    def __init__(self, message: str, line: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.line = line


class _Loader(yaml.SafeLoader):
    """PyYAML's loader with bounds: its composer recurses, so that deep nesting would end in a traceback."""

    depth = 0
    count = 0

    def compose_node(self, outer: yaml.Node | None, index: int) -> yaml.Node | None:
        self.depth += 1
        self.count += 1
        if self.depth > DEEPEST:
            raise UnparsableError(f"nested more than {DEEPEST} deep", self.line + 1)
        # Keys are counted here, and not later: so a file may have twice as many nodes as values.
        if self.count > 2 * MOST_VALUES:
            raise UnparsableError(f"more than {MOST_VALUES} values", self.line + 1)
        node = super().compose_node(outer, index)
        self.depth -= 1
        return node


def parse(text: str, report: Report, path: str = "", variable: str | None = None) -> Node | None:
    """
    Read a text; ``None`` where it has no value at all.

    Faults that leave a tree behind (a key given twice, a key that is no text, a tag) go to ``report``.

    :raises UnparsableError: all others.
    """
    try:
        loader = _Loader(text)
        try:
            root = loader.get_single_node()
        finally:
            loader.dispose()
    except yaml.reader.ReaderError as error:
        line = text.count("\n", 0, error.position) + 1
        raise UnparsableError(
            f"character U+{int(error.character):04X} is not allowed in YAML", line
        ) from None
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        raise UnparsableError(_problem(error), None if mark is None else mark.line + 1) from None
    except (yaml.YAMLError, ValueError, OverflowError, RecursionError):
        # PyYAML lets chr() and int() raise on absurd escapes and version numbers.
        raise UnparsableError("not YAML: it holds an escape or a number beyond all bounds") from None
    return None if root is None else _TreeBuilder(report, variable).node(root, path)


def _problem(error: yaml.MarkedYAMLError) -> str:
    problem = (error.problem or error.context or "malformed").replace("\n", " ")
    if "undefined alias" in problem:
        # The alias may well be a password that starts with an asterisk: it is not repeated here.
        return "not YAML: an alias without its anchor; a text that starts with * needs quotes"
    if "tag handle" in problem or "a tag" in str(error.context):
        return "not YAML: a tag that is none; a text that starts with ! needs quotes"
    if "'\\t'" in problem:
        return "not YAML: a tab; indent with spaces"
    return f"not YAML: {problem}"


@define(eq=False)
class _TreeBuilder:
    """Builds a tree from PyYAML's graph, where aliases share nodes."""

    report: Report
    variable: str | None
    count: int = 0
    open: list[yaml.Node] = field(factory=list)

    def origin(self, node: yaml.Node) -> Origin:
        return Origin(None, self.variable) if self.variable else Origin(node.start_mark.line + 1)

    def node(self, node: yaml.Node, path: str, origin: Origin | None = None) -> Node:
        origin = origin or self.origin(node)
        self.count += 1
        if self.count > MOST_VALUES:
            raise UnparsableError(f"more than {MOST_VALUES} values once aliases are expanded", origin.line)
        if isinstance(node, yaml.ScalarNode):
            return self.scalar(node, path)
        if any(node is outer for outer in self.open):
            raise UnparsableError("an anchor that contains itself", node.start_mark.line + 1)
        if len(self.open) >= DEEPEST:
            raise UnparsableError(f"nested more than {DEEPEST} deep", origin.line)
        if node.tag not in {_TAG + "map", _TAG + "seq"}:
            self.report.fault(Position(path, origin), _MEANINGLESS)
        self.open.append(node)
        tree = self.dictionary(node, path, origin) if isinstance(node, yaml.MappingNode) else Series(origin)
        if isinstance(tree, Series):
            tree.items.extend(self.node(item, below(path, at)) for at, item in enumerate(node.value))
        self.open.pop()
        return tree

    def scalar(self, node: yaml.ScalarNode, path: str) -> Scalar:
        origin, plain = self.origin(node), node.style is None
        try:
            return Scalar(origin, node.value, _atom(node), plain)
        except InvalidValueError as wrong:
            self.report.fault(Position(path, origin), str(wrong))
            return Scalar(origin, node.value, node.value, plain)

    def dictionary(self, node: yaml.MappingNode, path: str, origin: Origin) -> Dictionary:
        tree = Dictionary(origin)
        merged: list[yaml.MappingNode] = []
        for key, value in node.value:
            if key.tag == _TAG + "merge":
                merged.extend(self.merged(value, path))
                continue
            name, at = self.key(key, path), self.origin(key)
            if name is None:
                continue
            if name in tree.entries:
                message = f"given twice; the first is on line {tree.keys[name].line}"
                self.report.fault(Position(below(path, name), at), message if at.line else "given twice")
                continue
            # The line of a list or a mapping is that of its key: that is where one looks for it.
            place = None if isinstance(value, yaml.ScalarNode) else at
            tree.put(name, self.node(value, below(path, name), place), at)
        for other in merged:
            inherited = self.node(other, path)
            if isinstance(inherited, Dictionary):
                for name, entry in inherited.entries.items():
                    if name not in tree.entries:
                        tree.put(name, entry, inherited.keys[name])
        return tree

    def merged(self, node: yaml.Node, path: str) -> Iterator[yaml.MappingNode]:
        for other in node.value if isinstance(node, yaml.SequenceNode) else [node]:
            if isinstance(other, yaml.MappingNode):
                yield other
            else:
                self.report.fault(Position(path, self.origin(node)), "<< merges mappings, and this is none")

    def key(self, node: yaml.Node, path: str) -> str | None:
        if isinstance(node, yaml.ScalarNode) and node.tag in _PLAIN_TAGS:
            return str(node.value)
        shown = repr(node.value[:60]) if isinstance(node, yaml.ScalarNode) else "a list or mapping"
        self.report.fault(
            Position(path, self.origin(node)), f"{shown} is not a text, as keys are; put it in quotes"
        )
        return None


def _atom(node: yaml.ScalarNode) -> Atom:
    """A scalar's value; what only looks like a number, and is absurd as one, stays a text."""
    text, kind = str(node.value), node.tag.removeprefix(_TAG)
    if node.tag in _PLAIN_TAGS:
        return text
    if kind == "null":
        return None
    if kind not in {"bool", "int", "float"}:
        raise InvalidValueError(_MEANINGLESS)
    if len(text) > _LONGEST_NUMBER:
        return text
    constructor = yaml.constructor.SafeConstructor()
    try:
        if kind == "bool":
            return constructor.bool_values[text.lower()]
        if kind == "int":
            return int(constructor.construct_yaml_int(node))
        number = float(constructor.construct_yaml_float(node))
    except (KeyError, IndexError, ValueError, OverflowError):
        raise InvalidValueError("the value is not of the type that its tag says") from None
    return number if math.isfinite(number) else text
