"""Tests for :mod:`contentcache.config.document`."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.config.document import MOST_VALUES, Dictionary, Node, Scalar, Series, UnparsableError, parse
from contentcache.config.faults import Report


def plain(node: Node | None) -> object:
    """A tree without its places."""
    if isinstance(node, Dictionary):
        return {key: plain(entry) for key, entry in node.entries.items()}
    if isinstance(node, Series):
        return [plain(item) for item in node.items]
    return None if node is None else node.value


def read(text: str) -> tuple[object, list[str]]:
    """A text's values, and the faults beside them."""
    report = Report()
    tree = plain(parse(text, report))
    return tree, [fault.format("f") for fault in report.faults()]


UNPARSABLE = {
    "a: [1, 2\nb: 3": (2, "not YAML: expected ',' or ']', but got ':'"),
    "a:\n\t- b": (2, "not YAML: a tab; indent with spaces"),
    "a: 'x": (1, "not YAML: found unexpected end of stream"),
    "a: *missing": (1, "not YAML: an alias without its anchor; a text that starts with * needs quotes"),
    "a: &x 1\nb: &x": (None, None),
    "a: 1\n---\nb: 2": (2, "not YAML: but found another document"),
    "a: \x01": (1, "character U+0001 is not allowed in YAML"),
    "a\n\nb: \ufffe": (3, "character U+FFFE is not allowed in YAML"),
    'a: "\\UFFFFFFFF"': (None, "not YAML: it holds an escape or a number beyond all bounds"),
    "%YAML " + "9" * 5000 + ".1\n--- a": (None, "not YAML: it holds an escape or a number beyond all bounds"),
    "a: &x [*x]": (1, "an anchor that contains itself"),
    "a: &x {<<: *x}": (1, "an anchor that contains itself"),
    "[" * 5000: (1, "nested more than 40 deep"),
    "- " * 5000: (1, "nested more than 40 deep"),
    "{a: " * 5000: (1, "nested more than 40 deep"),
    "\n".join(" " * depth + "a:" for depth in range(60)): (40, "nested more than 40 deep"),
}


class ParseTests(SynchronousTestCase):
    """From a text to a tree."""

    def test_values(self) -> None:
        """Scalars are those of YAML 1.1, and keep the text that was written."""
        tree, faults = read(
            "{a: on, b: 'on', c: 0x10, d: 1.5, e: ~, f: 2020-01-01, g: .inf, h: !!str 5, i: =}"
        )
        expected = {
            "a": True,
            "b": "on",
            "c": 16,
            "d": 1.5,
            "e": None,
            "f": "2020-01-01",
            "g": ".inf",
            "h": "5",
        }
        self.assertEqual((tree, faults), ({**expected, "i": "="}, []))

    def test_absurd_numbers(self) -> None:
        """A number with more digits than any is kept as a text."""
        for digits in ("9" * 5000, "1" + ":1" * 5000, "1" + ":1" * 5000 + ".0"):
            self.assertEqual(read(f"a: {digits}"), ({"a": digits}, []))

    def test_lines(self) -> None:
        """A single value knows its own line; a list or a mapping that of its key."""
        tree = parse("a:\n  b:\n    - 1\n    -\n      c: 2\n", Report())
        assert isinstance(tree, Dictionary)
        outer = tree.entries["a"]
        assert isinstance(outer, Dictionary)
        series = outer.entries["b"]
        assert isinstance(series, Series)
        self.assertEqual([outer.origin.line, series.origin.line], [1, 2])
        self.assertEqual([item.origin.line for item in series.items], [3, 5])

    def test_nothing(self) -> None:
        """A text without a value gives nothing."""
        for text in ("", "\n", "# only a comment\n", "---\n# the same"):
            self.assertIsInstance(parse(text, Report()), Scalar | None)

    def test_unparsable(self) -> None:
        """What is not YAML, or built to exhaust its reader, is told in one sentence with its line."""
        for text, (line, message) in UNPARSABLE.items():
            if message is None:
                continue
            error = self.assertRaises(UnparsableError, parse, text, Report())
            self.assertEqual((error.line, error.message), (line, message), text[:40])

    def test_bomb(self) -> None:
        """Aliases of aliases are not expanded beyond a bound."""
        levels = ["a0: &a0 [x, x, x, x, x, x, x, x, x]"]
        levels += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
        error = self.assertRaises(UnparsableError, parse, "\n".join(levels), Report())
        self.assertEqual(error.message, f"more than {MOST_VALUES} values once aliases are expanded")
        error = self.assertRaises(UnparsableError, parse, "a: [" + "1," * 300_000 + "]", Report())
        self.assertEqual(error.message, f"more than {MOST_VALUES} values")

    def test_duplicates(self) -> None:
        """A key that is given twice is a fault that names both lines, and the first value stays."""
        tree, faults = read("a: 1\nb:\n  c: 2\n  c: 3\na: 4\n")
        self.assertEqual(tree, {"a": 1, "b": {"c": 2}})
        self.assertEqual(
            faults,
            ["f:4: b.c: given twice; the first is on line 3", "f:5: a: given twice; the first is on line 1"],
        )

    def test_keys(self) -> None:
        """Keys that are no texts are faults; the rest is read."""
        tree, faults = read("1: x\non: y\n? [a]\n: z\n~: n\ngood: yes\n'2': quoted\n")
        self.assertEqual(tree, {"good": True, "2": "quoted"})
        self.assertEqual(
            faults,
            [
                "f:1: '1' is not a text, as keys are; put it in quotes",
                "f:2: 'on' is not a text, as keys are; put it in quotes",
                "f:3: a list or mapping is not a text, as keys are; put it in quotes",
                "f:5: '~' is not a text, as keys are; put it in quotes",
            ],
        )

    def test_tags(self) -> None:
        """No tag constructs anything, and none is repeated: it may be a password that starts with ``!``."""
        texts = (
            "a: !!python/object/apply:os.system [id]",
            "a: !mine b",
            "a: !!binary aGk=",
            "a: !!set {b, c}",
            "a: !!omap [b: 1]",
        )
        for text in texts:
            self.assertIn("has no meaning here", "".join(read(text)[1]), text)
        for text in ("a: !topsecret", "a: !!topsecret b", "a: !!int topsecret"):
            self.assertNotIn("topsecret", "".join(read(text)[1]))
        for text in ("a: !topsecret!b", "a: !<topsecret", "a: !top{secret"):
            error = self.assertRaises(UnparsableError, parse, text, Report())
            self.assertEqual(
                error.message, "not YAML: a tag that is none; a text that starts with ! needs quotes"
            )
        for text in ("a: !!int b", "a: !!bool maybe", "a: !!float x", "a: !!int ''"):
            self.assertIn("is not of the type that its tag says", "".join(read(text)[1]), text)

    def test_merge(self) -> None:
        """Merge keys inherit what is not given; they are for mappings only."""
        tree, faults = read("x: &x {a: 1, b: 2}\ny: {b: 3, <<: *x}\nz: {<<: [*x, {c: 4}]}\n")
        self.assertEqual(tree, {"x": {"a": 1, "b": 2}, "y": {"b": 3, "a": 1}, "z": {"a": 1, "b": 2, "c": 4}})
        self.assertEqual(faults, [])
        self.assertEqual(read("a: {<<: 5}")[1], ["f:1: a: << merges mappings, and this is none"])

    @settings(deadline=None)
    @given(st.text(alphabet="ab01:-[]{},&*!|>'\"#%?@\\ \n\t<~.", max_size=60))
    def test_anything(self, text: str) -> None:
        """Any text is a tree, or unparsable."""
        try:
            read(text)
        except UnparsableError as error:
            self.assertNotIn("\n", error.message)
