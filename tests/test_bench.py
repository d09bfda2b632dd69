"""What the benchmarks print, draw and promise. None of them runs here."""

from __future__ import annotations

import doctest
from xml.etree import ElementTree

from click.testing import CliRunner
from twisted.trial.unittest import SynchronousTestCase

from bench import report
from bench.__main__ import CASES, main
from bench.goals import GOALS, Goal, median, ratio
from bench.peers import Row
from bench.picture import picture
from bench.table import figures_by, sizes_of

_ROWS: list[Row] = [
    {"peer": peer, "round": number, "at": size, "of": "blobs", "seconds": seconds * size, "load": 1.0}
    for number, seconds in ((0, 0.5), (1, 1.0), (2, 3.0))
    for size in (10, 1000)
    for peer in ("contentcache", "nginx <&>")
]


class RowTests(SynchronousTestCase):
    """From rows to what people see."""

    def test_figures(self) -> None:
        """A figure of one peer at one size, round by round; the load of the machine is none."""
        self.assertEqual(figures_by(_ROWS, "contentcache", "seconds", 10), [5.0, 10.0, 30.0])
        self.assertEqual(sizes_of(_ROWS), [10, 1000])

    def test_pictures(self) -> None:
        """Both kinds of pictures are XML and name every peer; a figure that is nothing everywhere harms none."""
        plain: list[Row] = [
            {"peer": row["peer"], "round": row["round"], "seconds": row["seconds"], "lost": 0}
            for row in _ROWS
        ]
        for rows in (_ROWS, plain, [{**row, "seconds": 0.0} for row in _ROWS]):
            root = ElementTree.fromstring(picture("case", rows))
            self.assertEqual(root.tag, "{http://www.w3.org/2000/svg}svg")
            self.assertIn("nginx <&>", [text.text for text in root.iter("{http://www.w3.org/2000/svg}text")])

    def test_examples(self) -> None:
        """What the documentation of the tables says is what happens."""
        self.assertEqual(doctest.testmod(report).failed, 0)


class GoalTests(SynchronousTestCase):
    """What was wanted beside what came."""

    def test_of_cases(self) -> None:
        """Each goal is about a case that there is."""
        self.assertEqual({goal.case for goal in GOALS} - set(CASES), set())

    def test_line(self) -> None:
        """Reached, missed by a factor, and not measured."""
        results = {"there": _ROWS}
        most = Goal("there", "words", median("seconds", at=10), 10)
        self.assertEqual(most.line(results), ("words", "≤ 10", "10", "yes"))
        least = Goal("there", "words", ratio("seconds", "contentcache", "nginx <&>", 10), 1.1, least=True)
        self.assertEqual(least.line(results), ("words", "≥ 1.1", "1", "**no**"))
        self.assertEqual(most.line({})[3], "not measured")


class CommandTests(SynchronousTestCase):
    """``python -m bench``."""

    def test_wrong_name(self) -> None:
        """A name that is no case is named, with those that are, and nothing is run."""
        done = CliRunner().invoke(main, ["warm-1", "warm-1x"])
        self.assertEqual(done.exit_code, 2)
        self.assertIn("'warm-1x' is not a case; there are adopt,", done.output.replace("\n", " "))

    def test_list(self) -> None:
        """``--list`` says in a line what each case is."""
        done = CliRunner().invoke(main, ["--list"])
        self.assertEqual(done.exit_code, 0)
        self.assertEqual([line.split()[0] for line in done.output.splitlines()], sorted(CASES))
