"""Who is to be left alone, and until when."""

from __future__ import annotations

from twisted.trial.unittest import SynchronousTestCase

from contentcache.upstream.patience import Patience


class PatienceTests(SynchronousTestCase):
    """The table of those who were told to wait."""

    def test_until(self) -> None:
        """What remains goes down to nothing, and is forgotten then."""
        patience = Patience()
        patience.asked_for(b"a", 10.0)
        self.assertEqual(patience.remaining(b"a", 4.0), 6.0)
        self.assertIsNone(patience.remaining(b"b", 4.0))
        self.assertIsNone(patience.remaining(b"a", 10.0))
        self.assertIsNone(patience.remaining(b"a", 4.0))

    def test_last_word_counts(self) -> None:
        """A later request for patience takes the place of the earlier one."""
        patience = Patience()
        patience.asked_for(b"a", 10.0)
        patience.asked_for(b"a", 5.0)
        self.assertEqual(patience.remaining(b"a", 4.0), 1.0)

    def test_bounded(self) -> None:
        """Of very many the oldest are forgotten."""
        patience = Patience()
        for number in range(10_001):
            patience.asked_for(b"%d" % number, 10.0)
        self.assertIsNone(patience.remaining(b"0", 0.0))
        self.assertEqual(patience.remaining(b"10000", 0.0), 10.0)
