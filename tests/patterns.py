"""
Every regular expression of the program, found in its source, and strings that make a bad one slow.

The strings are made from the pattern itself: for each repetition what must stand before it, then what it
repeats, over and over, then something that does not match. Also repeated are the beginnings of what matches,
for a search that begins anew at each of them.
"""

from __future__ import annotations

import ast
import importlib
import itertools
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import ModuleType
from typing import Any, Final

from attrs import frozen

# The parser of ``re`` itself: it has no public name.
_parser: Any = importlib.import_module("re._parser")

#: The functions of ``re`` that take a pattern.
FUNCTIONS: Final = frozenset(
    {"compile", "search", "match", "fullmatch", "split", "findall", "finditer", "sub", "subn"}
)
_METHODS: Final = FUNCTIONS - {"compile"}
_MOST_SAMPLES: Final = 4
#: Characters that the grammars of HTTP and of the registry give a meaning to.
_PUNCTUATION: Final = 'a0A \t,;/.%=-_"\\<>(:@&?#[*\n\r\x00é'


class CannotFeed(Exception):
    """There is no way here to make strings for a pattern, or it is not known how it is used."""


@frozen
class Found:
    """A pattern of the program: where it is, and the methods by which it is used there."""

    where: str
    pattern: re.Pattern[Any]
    methods: frozenset[str]


@frozen
class Unknown:
    """A pattern that is not known before the program runs: ``where`` is its module and function."""

    where: str


def find_in(tree: ast.Module | None, module: ModuleType) -> Iterator[Found | Unknown]:
    """
    Every pattern that a module makes with ``re``, whose source is ``tree`` or else in its file.

    :raises CannotFeed: ``re`` is used in a way that hides patterns, or a pattern is never used.
    """
    if tree is None:
        tree = ast.parse(Path(str(module.__file__)).read_text("utf-8"))
    _refuse_hidden(tree, module.__name__)
    named: set[int] = set()
    for statement in tree.body:
        target = _assigned(statement)
        if target is not None and (made := _made(statement)) is not None:
            named.add(id(made))
            pattern = getattr(module, target)
            yield Found(f"{module.__name__}.{target}", pattern, _uses(tree, target, module.__name__))
    for function, call in _calls(tree):
        if id(call) in named:
            continue
        where = f"{module.__name__}:{function}"
        written = call.args[0]
        if not (isinstance(written, ast.Constant) and isinstance(written.value, str | bytes)):
            yield Unknown(where)
            continue
        method = call.func.attr if isinstance(call.func, ast.Attribute) else ""
        if method == "compile":
            raise CannotFeed(f"{where} compiles a constant pattern: give it a name in the module")
        yield Found(where, re.compile(written.value, _flags(call)), frozenset({method}))


def strings(pattern: re.Pattern[Any]) -> Iterator[Callable[[int], str]]:
    """
    For each kind of string that may make a pattern slow, a function from a length to such a string.

    :raises CannotFeed: the pattern has something that is not known here.
    """
    written = pattern.pattern
    text = written.decode("latin-1") if isinstance(written, bytes) else written
    parsed = _parser.parse(text, pattern.flags)
    seen: set[tuple[str, str, str]] = set()
    for before, pump, after in itertools.chain(_pumps(list(parsed), ""), _beginnings(list(parsed)), _plain()):
        if pump and (before, pump, after) not in seen:
            seen.add((before, pump, after))
            yield lambda size, b=before, p=pump, a=after: b + p * max(1, size // len(p)) + a  # type: ignore[misc]


def plain_strings(pieces: Sequence[str]) -> Iterator[Callable[[int], str]]:
    """The same of some pieces, and of every character that has a meaning."""
    for piece in (*pieces, *_PUNCTUATION):
        for before, after in (("", ""), (pieces[0], "\x00")):
            yield lambda size, b=before, p=piece, a=after: b + p * max(1, size // len(p)) + a  # type: ignore[misc]


def runs(found: Found) -> Iterator[Callable[[str], object]]:
    """The ways in which a pattern is used."""
    pattern = found.pattern
    is_bytes = isinstance(pattern.pattern, bytes)
    uses: dict[str, Callable[[Any], object]] = {
        "search": pattern.search,
        "match": pattern.match,
        "fullmatch": pattern.fullmatch,
        "split": pattern.split,
        "findall": pattern.findall,
        "finditer": lambda text: sum(1 for _ in pattern.finditer(text)),
        "sub": lambda text: pattern.sub(b"" if is_bytes else "", text),
        "subn": lambda text: pattern.subn(b"" if is_bytes else "", text),
    }
    for method in sorted(found.methods):
        use = uses[method]
        yield (lambda text, use=use: use(text.encode("latin-1"))) if is_bytes else use  # type: ignore[misc]


# Finding.


def _refuse_hidden(tree: ast.Module, where: str) -> None:
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module == "re":
            raise CannotFeed(f"{where} imports from re: write import re, so that patterns are found")
        if isinstance(node, ast.Import) and any(a.name == "re" and a.asname for a in node.names):
            raise CannotFeed(f"{where} imports re by another name: then patterns are not found")


def _calls(tree: ast.Module) -> Iterator[tuple[str, ast.Call]]:
    waiting: list[tuple[str, ast.AST]] = [("", tree)]
    while waiting:
        function, node = waiting.pop()
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            function = node.name
        if isinstance(node, ast.Call) and _is_of_re(node):
            yield function, node
        waiting += [(function, child) for child in ast.iter_child_nodes(node)]


def _is_of_re(call: ast.Call) -> bool:
    called = call.func
    return (
        isinstance(called, ast.Attribute)
        and isinstance(called.value, ast.Name)
        and called.value.id == "re"
        and called.attr in FUNCTIONS
    )


def _assigned(statement: ast.stmt) -> str | None:
    if isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
        return statement.target.id
    if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name):
        return statement.targets[0].id
    return None


def _made(statement: ast.stmt) -> ast.Call | None:
    value = getattr(statement, "value", None)
    return value if isinstance(value, ast.Call) and _is_of_re(value) else None


def _uses(tree: ast.Module, name: str, where: str) -> frozenset[str]:
    used: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == name:
            used.add(node.attr)
        elif isinstance(node, ast.Call):
            for index, argument in enumerate(node.args):
                if isinstance(argument, ast.Name) and argument.id == name:
                    used |= _uses_of_parameter(tree, node.func, index)
        elif isinstance(node, ast.Tuple | ast.List | ast.Dict | ast.Set | ast.keyword) and any(
            isinstance(child, ast.Name) and child.id == name for child in ast.iter_child_nodes(node)
        ):
            used |= _METHODS  # somebody else uses it: in any way
    methods = used & _METHODS
    if not methods:
        raise CannotFeed(f"{where}.{name} is used in no way that is known here")
    return frozenset(methods)


def _uses_of_parameter(tree: ast.Module, called: ast.expr, index: int) -> frozenset[str]:
    """The methods by which a function uses a pattern that it gets; all, where it is not of this module."""
    if isinstance(called, ast.Name):
        for statement in tree.body:
            if isinstance(statement, ast.FunctionDef) and statement.name == called.id:
                parameter = statement.args.args[index].arg
                return frozenset(
                    node.attr
                    for node in ast.walk(statement)
                    if isinstance(node, ast.Attribute)
                    and isinstance(node.value, ast.Name)
                    and node.value.id == parameter
                )
    return _METHODS


def _flags(call: ast.Call) -> int:
    flags = 0
    for keyword in call.keywords:
        if keyword.arg == "flags":
            flags |= _flag(keyword.value)
    return flags | sum(_flag(argument) for argument in call.args if _is_flag(argument))


def _is_flag(node: ast.expr) -> bool:
    return isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "re"


def _flag(node: ast.expr) -> int:
    if isinstance(node, ast.BinOp):
        return _flag(node.left) | _flag(node.right)
    if not isinstance(node, ast.Attribute):
        raise CannotFeed("flags that are not of re")
    return int(getattr(re, node.attr))


# Feeding.


def _pumps(items: Sequence[Any], before: str) -> Iterator[tuple[str, str, str]]:
    """For each repetition: what stands before it, what it repeats, what comes behind."""
    for index, item in enumerate(items):
        name, value = str(item[0]), item[1]
        so_far = before + _sample(items[:index])
        if name in {"MAX_REPEAT", "MIN_REPEAT", "POSSESSIVE_REPEAT"}:
            rest = _sample(items[index + 1 :])
            for pump in _samples(value[2]):
                for after in ("", "\x00", rest + "\x00"):
                    yield so_far, pump, after
            yield from _pumps(list(value[2]), so_far)
        for inner in _inner(name, value):
            yield from _pumps(list(inner), so_far)


def _inner(name: str, value: Any) -> Sequence[Any]:
    if name == "SUBPATTERN":
        return [value[3]]
    if name == "ATOMIC_GROUP":
        return [value]
    if name == "BRANCH":
        return list(value[1])
    if name in {"ASSERT", "ASSERT_NOT"}:
        return [value[1]]
    return []


def _beginnings(items: Sequence[Any]) -> Iterator[tuple[str, str, str]]:
    for sample in _samples(items):
        for length in range(1, min(len(sample), 64) + 1):
            yield "", sample[:length], "\x00"


def _plain() -> Iterator[tuple[str, str, str]]:
    for character in _PUNCTUATION:
        yield "", character, "\x01"
        yield "a", character, "a\x01"


def _sample(items: Any) -> str:
    return next(iter(_samples(items)), "")


def _samples(items: Any) -> Sequence[str]:
    """A few strings that match, or nearly: what looks around is not respected."""
    found = [""]
    for item in items:
        choices = _choices(str(item[0]), item[1])
        found = [a + b for a, b in itertools.islice(itertools.product(found, choices), _MOST_SAMPLES)]
    return found


def _choices(name: str, value: Any) -> Sequence[str]:
    match name:
        case "LITERAL":
            return [chr(value)]
        case "NOT_LITERAL":
            return [c for c in "a/<" if ord(c) != value][:2]
        case "ANY":
            return ["a", "/"]
        case "IN":
            return _of_class(value)
        case "BRANCH":
            return [sample for branch in value[1] for sample in _samples(branch)[:2]][:_MOST_SAMPLES]
        case "SUBPATTERN":
            return _samples(value[3])
        case "ATOMIC_GROUP":
            return _samples(value)
        case "MAX_REPEAT" | "MIN_REPEAT" | "POSSESSIVE_REPEAT":
            least, most, body = value
            number = max(least, 1) if most else 0
            return [each * min(number, 80) for each in _samples(body)]
        case "AT" | "ASSERT" | "ASSERT_NOT" | "GROUPREF":
            return [""]
        case _:
            raise CannotFeed(f"{name} in a pattern is not known here")


def _of_class(members: Any) -> Sequence[str]:
    """Some characters of a class: its first ones, and those that mean something elsewhere."""
    negated = bool(members) and str(members[0][0]) == "NEGATE"
    ranges: list[tuple[int, int]] = []
    categories: list[str] = []
    for kind, value in members:
        match str(kind):
            case "NEGATE":
                pass
            case "LITERAL":
                ranges.append((value, value))
            case "RANGE":
                ranges.append((value[0], value[1]))
            case "CATEGORY":
                categories.append(str(value))
            case other:
                raise CannotFeed(f"{other} in a class is not known here")

    def has(character: str) -> bool:
        within = any(low <= ord(character) <= high for low, high in ranges)
        within = within or any(_in_category(category, character) for category in categories)
        return within is not negated

    candidates = [*_PUNCTUATION, *(chr(low) for low, _ in ranges)]
    chosen = [character for character in dict.fromkeys(candidates) if has(character)]
    if not chosen:
        raise CannotFeed("a class in which no character is known here")
    return chosen[:_MOST_SAMPLES]


def _in_category(category: str, character: str) -> bool:
    plain = {"WORD": r"\w", "SPACE": r"\s", "DIGIT": r"\d"}
    kind = category.rpartition("_")[2]
    if kind not in plain:
        raise CannotFeed(f"{category} in a class is not known here")
    return (re.match(plain[kind], character) is not None) is not ("NOT" in category)
