"""Tests for :mod:`contentcache.acme.errors`."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.acme.errors import parse_problem

_JSON = st.recursive(
    st.none() | st.booleans() | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner) | st.dictionaries(st.sampled_from(["type", "detail", "subproblems", "x"]), inner)
    ),
)


class ProblemTests(SynchronousTestCase):
    """Problem documents."""

    @given(_JSON)
    def test_anything(self, document: object) -> None:
        """Any document becomes one printable line."""
        said = str(parse_problem(document))
        self.assertTrue(said.isprintable())

    def test_remedies(self) -> None:
        """The remedy may be known for a subproblem only."""
        prefix = "urn:ietf:params:acme:error:"
        document = {
            "type": prefix + "compound",
            "detail": "two\nthings",
            "subproblems": [{"type": "x"}, {"type": prefix + "caa", "detail": "CAA forbids"}],
        }
        problem = parse_problem(document)
        self.assertEqual(str(problem), "two things (compound): x; CAA forbids (caa)")
        self.assertIn("CAA", problem.remedy)
