"""Searching what a stranger or an upstream sends takes linear time."""

from __future__ import annotations

import ast
import contextlib
import re
from collections.abc import Callable, Mapping, Sequence
from types import ModuleType
from typing import Final

from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.tables import _without_userinfo
from contentcache.core.errors import CacheError
from contentcache.core.http_auth import parse_challenges
from contentcache.core.http_caching import evaluate, max_age
from contentcache.core.manifests import normalize_accept
from contentcache.core.policy import allowed
from contentcache.core.ranges import parse_range
from contentcache.core.routes import parse
from contentcache.core.shown import hide_names, show_place
from contentcache.core.via import ViaPath
from contentcache.registry.fast_path_requests import split_range
from contentcache.telemetry.logging import sanitize
from tests.growth import SIZES, superlinear
from tests.patterns import CannotFeed, Found, find_in, plain_strings, runs, strings
from tests.test_doctests import modules

#: Patterns that are not known before the program runs, and why they need not be fed.
_NOT_FED: Final[Mapping[str, str]] = {
    "contentcache.core.policy:immutable": "the operator's; searches tags, which have at most 128 characters",
    "contentcache.config.patterns:tag_pattern": "is compiled to be checked, and searches nothing",
    "contentcache.config.reference:with_tables": "searches our own documentation",
}


def _parsed(path: str) -> None:
    with contextlib.suppress(CacheError):
        parse("/v2/" + path)


#: What searches with a pattern in a loop of its own, or without one.
_FUNCTIONS: Final[Mapping[str, Callable[[str], object]]] = {
    "log line": sanitize,
    "challenges": lambda text: parse_challenges([text]),
    "conditions": lambda text: evaluate("sha256:ab", text, text),
    "range": parse_range,
    "range in a simple head": lambda text: split_range(text.encode("latin-1", "replace")),
    "lifetime": max_age,
    "accept": lambda text: normalize_accept([text]),
    "via": lambda text: ViaPath.of([text]),
    "globs": lambda text: allowed(text, ["*-*-*-*-*b", "**a**a**a**b"], ["*-*", "?**?**?b"]),
    "path": _parsed,
    "value in a message": _without_userinfo,
    "reason": hide_names,
    "URL in a message": show_place,
}
#: Beginnings of what these functions search for.
_PIECES: Final = (
    "eyJ",
    "eyJ.",
    "eyJaaaa.aaaa.",
    "token=",
    "//a@",
    "</",
    "<https://",
    '"\\',
    'a="',
    "bytes=",
    "1-2,",
    "0-,",
    "1.1 a, ",
    "max-age=",
    "a/",
    "a%2F",
    "../",
    "-b",
    'W/"a", ',
    "Range: bytes=1-1\r\n",
)


def _slow(found: Found, sizes: Sequence[int] = SIZES) -> str | None:
    """What shows that a pattern is not linear in one of the ways in which it is used."""
    for run in runs(found):
        for text_of in strings(found.pattern):
            fault = superlinear(run, text_of, sizes)
            if fault is not None:
                return f"{found.where} {found.pattern.pattern!r} on {text_of(20)[:80]!r}: {fault}"
    return None


def _found(source: str) -> list[Found]:
    """The patterns of a module with this source."""
    module = ModuleType("made_up")
    exec(source, module.__dict__)  # a source written below
    return [found for found in find_in(ast.parse(source), module) if isinstance(found, Found)]


class PatternTests(SynchronousTestCase):
    """Every pattern of the program."""

    def test_linear(self) -> None:
        """Each pattern of each module takes linear time on strings that are made to be bad for it."""
        slow, count, unknown = [], 0, set()
        for module in modules():
            for found in find_in(None, module):
                if isinstance(found, Found):
                    count += 1
                    slow.append(_slow(found))
                else:
                    unknown.add(found.where)
        faults = [fault for fault in slow if fault is not None]
        self.assertEqual(faults, [], "\n".join(faults))
        self.assertEqual(unknown, set(_NOT_FED), "how these are fed is not known")
        self.assertGreater(count, 50)

    def test_functions(self) -> None:
        """What searches in a loop takes linear time in all, too."""
        for name, function in _FUNCTIONS.items():
            for text_of in plain_strings(_PIECES):
                with self.subTest(function=name, text=text_of(20)[:40]):
                    self.assertIsNone(superlinear(function, text_of))


class FeedingTests(SynchronousTestCase):
    """How patterns are found and fed: the tests above can fail."""

    def test_bad_patterns(self) -> None:
        """Patterns that take quadratic, cubic or exponential time are noticed, however they are used."""
        for written, method, replacement in (
            (r"<[^>]*>", "sub", "'', "),
            (r"eyJ[\w-]{4,}\.[\w-]{4,}", "search", ""),
            (r"(?:a+)+b", "fullmatch", ""),
            (r"\s*a\s*(?:=\s*b)?\s*", "fullmatch", ""),
            (r"(?:a|aa)+$", "match", ""),
            (r"a*a*a*b", "match", ""),
            (r'"(?:[^"\\]|\\.)*"', "finditer", ""),
        ):
            with self.subTest(pattern=written):
                [found] = _found(f"import re\nX = re.compile({written!r})\nX.{method}({replacement}'')")
                self.assertIsNotNone(_slow(found, (1 << 10, 2 << 10, 4 << 10)))

    def test_good_pattern(self) -> None:
        """A linear pattern passes, in text and in bytes."""
        for prefix in ("", "b"):
            [found] = _found(f"import re\nX = re.compile({prefix}'<[^<>]*>')\nX.search({prefix}'')")
            self.assertIsNone(_slow(found))

    def test_inline(self) -> None:
        """A pattern within a call is found, and one that is only known when the program runs is named."""
        source = "import re\ndef f(x):\n    re.search('a*', x)\n    re.search(x, '')"
        kinds = {type(found).__name__ for found in find_in(ast.parse(source), ModuleType("made_up"))}
        self.assertEqual(kinds, {"Found", "Unknown"})

    def test_cannot_feed(self) -> None:
        """A pattern that is hidden, unused or unknown is a fault of the test and no success."""
        for source in (
            "from re import compile",
            "import re as r",
            "import re\nX = re.compile('a')",
            "import re\ndef f():\n    return re.compile('a')",
        ):
            with self.subTest(source=source), self.assertRaises(CannotFeed):
                _found(source)
        with self.assertRaises(CannotFeed):
            list(strings(re.compile(r"(a)(?(1)b|c)")))
