"""
Check that the project uses the field's words: ``python scripts/check_words.py``.

``scripts/words.toml`` has the rules: words that have a standard term instead, in names and in prose; class
names that may stand twice; how many findings are left in each package. A package that has more than its
number fails, and one that has fewer fails too until its number is lowered: the numbers only fall.

An event of the log is a plain phrase with fields; two calls with one phrase have one level and the same fields.

A module says nothing new here by being renamed or moved: findings are counted, not listed by place.
"""

from __future__ import annotations

import ast
import io
import re
import subprocess
import sys
import tokenize
import tomllib
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

ROOT: Final = Path(__file__).resolve().parent.parent
LONGEST_TITLE: Final = 72
_SHOWN: Final = 25
_LOG_METHODS: Final = frozenset({"debug", "info", "warn", "error", "critical", "failure", "emit"})
#: Fields of an event that the log or Twisted has words of its own for.
_RESERVED_FIELDS: Final = frozenset({"isError", "logLevel", "message", "msg", "system", "time", "why"})

Finding = tuple[str, int, str]


def words_of(identifier: str) -> list[str]:
    """
    The words of a name, in lower case.

    >>> words_of("_StartAgain"), words_of("is_set_back")
    (['start', 'again'], ['is', 'set', 'back'])
    """
    return [word.lower() for word in re.findall(r"[A-Z]?[a-z0-9]+|[A-Z]+(?![a-z])", identifier)]


def names_in(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every name that a module defines: classes, functions, arguments, attributes, with their lines."""
    for node in ast.walk(tree):
        match node:
            case ast.ClassDef() | ast.FunctionDef() | ast.AsyncFunctionDef():
                yield node.lineno, node.name
            case ast.arg():
                yield node.lineno, node.arg
            case ast.Attribute(ctx=ast.Store()):
                yield node.lineno, node.attr
            case ast.Name(ctx=ast.Store()):
                yield node.lineno, node.id


def prose_in(source: str, tree: ast.AST) -> Iterator[tuple[int, str]]:
    """Every docstring, comment and log message of a module, line by line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            yield from _docstring(node)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            yield from _log_message(node, node.func)
    for token in tokenize.generate_tokens(io.StringIO(source).readline):
        if token.type == tokenize.COMMENT:
            yield token.start[0], token.string


def _docstring(
    node: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef,
) -> Iterator[tuple[int, str]]:
    if ast.get_docstring(node, clean=False) is not None and isinstance(node.body[0], ast.Expr):
        first = node.body[0].value
        if isinstance(first, ast.Constant):
            for offset, line in enumerate(str(first.value).splitlines()):
                yield first.lineno + offset, line


def _log_message(node: ast.Call, method: ast.Attribute) -> Iterator[tuple[int, str]]:
    if _is_log_call(method) and node.args:
        for part in ast.walk(_phrase_of(node, method)):
            if isinstance(part, ast.Constant) and isinstance(part.value, str):
                yield part.lineno, part.value


def _is_log_call(method: ast.Attribute) -> bool:
    return method.attr in _LOG_METHODS and ast.unparse(method.value).endswith("log")


def _phrase_of(node: ast.Call, method: ast.Attribute) -> ast.expr:
    return node.args[1] if method.attr == "emit" else node.args[0]


def _level_of(node: ast.Call, method: ast.Attribute) -> str:
    """The level of a call; of ``emit`` those that its first argument names, with slashes."""
    named = (
        [part.attr for part in ast.walk(node.args[0]) if isinstance(part, ast.Attribute)] if node.args else []
    )
    is_choice = method.attr == "emit" and named and "LogLevel" in ast.unparse(node.args[0])
    return "/".join(sorted(set(named) & _LOG_METHODS)) if is_choice else method.attr


class LogEvent(NamedTuple):
    """A call that logs: its event phrase, ``None`` if it is no literal, and the names of its fields."""

    line: int
    level: str
    phrase: str | None
    fields: tuple[str, ...]

    def faults(self) -> Iterator[str]:
        """What is wrong with the call by itself."""
        if self.phrase is None:
            yield "log event: the phrase is not a plain string"
        elif not self.phrase or set(self.phrase) & set("{}=\n"):
            yield f"log event {self.phrase!r}: values belong into fields, not into the phrase"
        for name in sorted(_RESERVED_FIELDS & set(self.fields)):
            yield f"log event {self.phrase!r}: the field {name} needs another name"


def log_events(tree: ast.AST) -> Iterator[LogEvent]:
    """
    Every call that logs.

    >>> [*log_events(ast.parse("log.info('blob evicted', digest=digest)"))]
    [LogEvent(line=1, level='info', phrase='blob evicted', fields=('digest',))]
    """
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) and _is_log_call(node.func):
            phrase = _phrase_of(node, node.func) if node.args else None
            yield LogEvent(
                node.lineno,
                _level_of(node, node.func),
                phrase.value if isinstance(phrase, ast.Constant) and isinstance(phrase.value, str) else None,
                tuple(sorted(keyword.arg or "**" for keyword in node.keywords if keyword.arg != "failure")),
            )


def ambiguous_events() -> Iterator[str]:
    """Event phrases that stand in several calls with another level or other fields."""
    calls: dict[str, dict[tuple[str, tuple[str, ...]], str]] = defaultdict(dict)
    for path in tracked("contentcache/*.py"):
        for event in log_events(ast.parse(path.read_text("utf-8"))):
            place = f"{path.relative_to(ROOT)}:{event.line}"
            if event.fields not in {("access",), ("accesses",)}:
                calls[str(event.phrase)].setdefault((event.level, event.fields), place)
    for phrase, kinds in sorted(calls.items()):
        if len(kinds) > 1:
            yield f"log event {phrase!r} differs in level or fields: {', '.join(kinds.values())}"


class Rules:
    """The rules of ``words.toml``, ready to be searched for."""

    def __init__(self, table: Mapping[str, Mapping[str, str]]) -> None:
        self.names = {tuple(words.split()): term for words, term in table["names"].items()}
        self.whole_names = dict(table["whole_names"])
        self.standard_terms = [tuple(words.split()) for words in table["standard_terms"]]
        self.prose = [
            (re.compile(rf"\b(?:{pattern})\b", re.IGNORECASE), term)
            for pattern, term in table["prose"].items()
        ]
        self.same_name = dict(table["same_name"])

    def in_name(self, name: str) -> Iterator[str]:
        """What is wrong with a name."""
        if name.startswith("__"):
            return  # Python's own
        bare = name.lstrip("_")
        if bare in self.whole_names:
            yield f"name {name}: {self.whole_names[bare]}"
        parts = words_of(name)
        if any(_contains(parts, term) for term in self.standard_terms):
            return
        for banned, term in self.names.items():
            if _contains(parts, banned):
                yield f"name {name}: write {term}"

    def in_prose(self, line: str) -> Iterator[str]:
        """What is wrong with a line of prose."""
        for pattern, term in self.prose:
            if found := pattern.search(line):
                yield f"{found[0]!r}: write {term}"


def _contains(parts: Sequence[str], words: Sequence[str]) -> bool:
    return any(tuple(parts[at : at + len(words)]) == tuple(words) for at in range(len(parts)))


def tracked(*patterns: str) -> Sequence[Path]:
    """The files that git knows or would take, without those that are deleted."""
    listed = subprocess.run(
        ["git", "ls-files", "--cached", "--others", "--exclude-standard", *patterns],
        cwd=ROOT,
        check=True,
        capture_output=True,
        text=True,
    ).stdout.split("\n")
    return sorted({ROOT / name for name in listed if name and (ROOT / name).is_file()})


def package_of(path: Path) -> str:
    """
    The part of the tree whose number a file counts for.

    >>> package_of(ROOT / "contentcache" / "core" / "spans.py"), package_of(ROOT / "docs" / "tls.rst")
    ('contentcache/core', 'docs')
    """
    parts = path.relative_to(ROOT).parts
    if len(parts) == 1:
        return "documents"
    return "/".join(parts[:2]) if parts[0] == "contentcache" and len(parts) > 2 else parts[0]  # noqa: PLR2004


def findings(rules: Rules) -> Mapping[str, Sequence[Finding]]:
    """Every finding by package."""
    found: dict[str, list[Finding]] = defaultdict(list)
    for path in tracked("contentcache/*.py"):
        source = path.read_text("utf-8")
        tree = ast.parse(source)
        where = str(path.relative_to(ROOT))
        seen: set[tuple[int, str]] = set()
        for line, name in names_in(tree):
            if (line, name) not in seen:
                seen.add((line, name))
                found[package_of(path)].extend((where, line, fault) for fault in rules.in_name(name))
        for event in log_events(tree):
            found[package_of(path)].extend((where, event.line, fault) for fault in event.faults())
        for line, text in prose_in(source, tree):
            found[package_of(path)].extend((where, line, fault) for fault in rules.in_prose(text))
    for path in tracked("*.rst"):
        where = str(path.relative_to(ROOT))
        for line, text in enumerate(path.read_text("utf-8").splitlines(), 1):
            found[package_of(path)].extend((where, line, fault) for fault in rules.in_prose(text))
    return found


def repeated_classes(rules: Rules) -> Iterator[str]:
    """Class names that stand in several modules and are not explained, and explanations without need."""
    places: dict[str, set[str]] = defaultdict(set)
    for path in tracked("contentcache/*.py"):
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            if isinstance(node, ast.ClassDef):
                places[node.name].add(str(path.relative_to(ROOT)))
    for name, modules in sorted(places.items()):
        if len(modules) > 1 and name not in rules.same_name:
            yield f"class {name} stands in {', '.join(sorted(modules))}: one name, one thing"
    for name in sorted(rules.same_name):
        if len(places[name]) < 2:  # noqa: PLR2004
            yield f"class {name} stands in one module only: take it out of same_name in words.toml"


def long_titles(since: str) -> Iterator[str]:
    """Commit titles that are longer than they may be, of commits since a date."""
    log = subprocess.run(
        ["git", "log", f"--since={since}", "--no-merges", "--format=%h %s"],
        cwd=ROOT,
        check=False,
        capture_output=True,
        text=True,
    )
    for line in log.stdout.splitlines():
        commit, _, title = line.partition(" ")
        if len(title) > LONGEST_TITLE:
            yield f"commit {commit}: the title has {len(title)} characters, {LONGEST_TITLE} are allowed"


def long_modules(longest: int, exceptions: Mapping[str, str]) -> Iterator[str]:
    """Modules of more than ``longest`` lines that are not explained, and explanations without need."""
    lines = {
        str(path.relative_to(ROOT)): path.read_text("utf-8").count("\n")
        for path in tracked("contentcache/*.py")
    }
    for name, count in lines.items():
        if count > longest and name not in exceptions:
            yield f"{name} has {count} lines, {longest} are allowed: split it where it does two things"
    for name in exceptions:
        if lines.get(name, 0) <= longest:
            yield f"{name} is not too long: take it out of modules.long in words.toml"


def over_and_under(found: Mapping[str, Sequence[Finding]], allowed: Mapping[str, int]) -> Iterator[str]:
    """Packages that have more findings than they may, or fewer."""
    for package in sorted({*found, *allowed}):
        here, most = found.get(package, ()), allowed.get(package, 0)
        if len(here) > most:
            yield f"{package}: {len(here)} words that have a standard term, {most} are allowed; among them:"
            for where, line, fault in here[:_SHOWN]:
                yield f"    {where}:{line}: {fault}"
        elif len(here) < most:
            yield f"{package}: {len(here)} findings are left; lower {most} in words.toml"


def main(arguments: Sequence[str]) -> int:
    """Print every fault, or with ``--list PACKAGE`` every finding of a package; the exit status."""
    table = tomllib.loads((ROOT / "scripts" / "words.toml").read_text("utf-8"))
    rules = Rules(table["rules"])
    found = findings(rules)
    if arguments[:1] == ["--list"]:
        for package in arguments[1:] or sorted(found):
            for where, line, fault in found.get(package, ()):
                print(f"{where}:{line}: {fault}")
        return 0
    faults = [
        *repeated_classes(rules),
        *ambiguous_events(),
        *over_and_under(found, table["left"]),
        *long_titles(table["titles"]["since"]),
        *long_modules(table["modules"]["longest"], table["modules"]["long"]),
    ]
    for fault in faults:
        print(fault, file=sys.stderr)
    return 1 if faults else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
