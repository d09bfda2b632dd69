"""What a fetch does next, in a world full of bad hosts."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.download_planner import (
    Backoff,
    Commit,
    DownloadPlanner,
    Fail,
    RequestRange,
    Restart,
    Step,
    Verify,
)
from tests.core.worlds import BLAMELESS, RETRY_FOR, TRUTHFUL, Manner, World, wrong

TRUTH = b"the truth, whole"
_HOSTS = ("a", "b", "c", "d")
#: Rounds over all hosts within ``RETRY_FOR``: after 0, 0.1, 0.3, 0.7, 1.5, 3.1 and 5 seconds.
_MOST_ROUNDS = 7


@st.composite
def worlds(draw: st.DrawFn, *, leaves: bool = False, only: tuple[Manner, ...] = tuple(Manner)) -> World:
    """A truth, up to four hosts, and perhaps something from an earlier run, right or wrong, even too much."""
    truth = draw(st.sampled_from([b"", b"x", TRUTH]))
    manners = draw(st.lists(st.sampled_from(only), min_size=1, max_size=4))
    kept = draw(st.sampled_from([b"", b"", truth[: len(truth) // 2], truth, wrong(truth)[:5], truth + b"y"]))
    total = len(kept) if draw(st.integers(0, 9)) == 0 else None  # a file found in its place
    return World(
        truth,
        dict(zip(_HOSTS, manners, strict=False)),
        Random(draw(st.integers(0, 1 << 32))),
        bytearray(kept),
        total,
        leaves,
    )


def most_steps(world: World) -> int:
    """Every byte may cost a round over all hosts; the first phase and each host alone may each see all bytes."""
    hosts = len(world.manners)
    return (len(world.truth) + 12) * (hosts + 1) * _MOST_ROUNDS * (hosts + 1)


class HistoryTests(SynchronousTestCase):
    """Random histories. The world checks each step: offsets, and that nothing but the truth is kept."""

    @settings(max_examples=1500, deadline=None)
    @given(worlds())
    def test_ends(self, world: World) -> None:
        """Every fetch ends, kept or given up, and no host that told the truth is ever blamed."""
        end = world.run(most_steps(world))
        self.assertIsInstance(end, Commit | Fail)
        for host in world.blamed:
            self.assertNotIn(world.manners[host], BLAMELESS)
        if end == Fail(wrong=True):
            self.assertFalse(set(world.manners.values()) <= set(BLAMELESS))

    @settings(max_examples=1000, deadline=None)
    @given(worlds(), st.sampled_from(TRUTHFUL))
    def test_one_honest_host_is_enough(self, world: World, manner: Manner) -> None:
        """With one host that tells the truth and always answers, every fetch ends with the content."""
        world.manners["e"] = manner
        self.assertEqual(world.run(most_steps(world)), Commit())

    @settings(max_examples=500, deadline=None)
    @given(worlds())
    def test_alone_at_most_once(self, world: World) -> None:
        """Once hosts are asked one at a time, none gets a second turn, a blamed one not even a first."""
        world.run(most_steps(world))
        turns = world.wholes()
        self.assertEqual(len(turns), len(set(turns)))
        first = next((step for step in world.steps if isinstance(step, Restart)), Restart(None))
        self.assertNotIn(first.blamed, turns)
        self.assertEqual(len(world.blamed), len(set(world.blamed)))

    @settings(max_examples=500, deadline=None)
    @given(worlds(leaves=True))
    def test_hosts_that_vanish(self, world: World) -> None:
        """A host is asked only while it can be, and a fetch ends even if hosts come and go."""
        world.run(most_steps(world))

    @settings(max_examples=200, deadline=None)
    @given(worlds(only=(Manner.DEAD, Manner.SLOW)))
    def test_all_dead(self, world: World) -> None:
        """Where no host answers each is asked a few times at most, and what was kept stays."""
        if world.total is not None:
            return  # in its place: thrown away if it is wrong
        kept = bytes(world.file)
        self.assertEqual(world.run(50), Fail(wrong=False))
        self.assertEqual(bytes(world.file), kept)
        asked = [step.host for step in world.steps if isinstance(step, RequestRange)]
        for host in world.manners:
            self.assertLessEqual(asked.count(host), 2)


class StepTests(SynchronousTestCase):
    """Single stories, told step by step."""

    def test_next_host_goes_on(self) -> None:
        """When a host breaks off, the next one is asked from where it stopped, without a pause."""
        planner = DownloadPlanner()
        self.assertEqual(planner.next(["a", "b"], 0.0), RequestRange("a", 0))
        self.assertTrue(planner.opened("a", 10))
        planner.arrived("a", 0, 4)
        planner.broke("a")
        self.assertEqual(planner.next(["a", "b"], 0.0), RequestRange("b", 4))
        self.assertTrue(planner.opened("b", 10))
        planner.arrived("b", 4, 10)
        planner.ended("b")
        self.assertEqual(planner.next(["a", "b"], 0.0), Verify())
        planner.checked(right=True)
        self.assertEqual(planner.next(["a", "b"], 0.0), Commit())

    def rounds(self, planner: DownloadPlanner, retry_after: float = 0.0) -> tuple[list[float], int, Step]:
        """The pauses, how often a host was asked, and the end, where hosts ``a`` and ``b`` are down."""
        now, pauses, asks = 0.0, [], 0
        while not isinstance(step := planner.next(["a", "b"], now), Fail):
            if isinstance(step, Backoff):
                pauses.append(step.seconds)
                now += step.seconds
            elif isinstance(step, RequestRange):
                asks += 1
                planner.broke(step.host, retry_after=retry_after)
        return pauses, asks, step

    def test_rounds(self) -> None:
        """Once clients have been promised something, hosts are asked for ``retry_for`` with growing pauses."""
        planner = DownloadPlanner(retry_for=RETRY_FOR)
        planner.opened("a", 10)
        pauses, asks, end = self.rounds(planner)
        self.assertEqual(end, Fail(wrong=False))
        self.assertEqual(asks, 2 * _MOST_ROUNDS)
        self.assertEqual([round(pause, 3) for pause in pauses], [0.1, 0.2, 0.4, 0.8, 1.6, 1.9])

    def test_promised_before(self) -> None:
        """A response that has begun before anything came waits in the same way."""
        planner = DownloadPlanner(total=10, retry_for=RETRY_FOR, promised=True)
        self.assertAlmostEqual(sum(self.rounds(planner)[0]), RETRY_FOR)

    def test_no_waiting(self) -> None:
        """With ``retry_for`` 0, and before any response has begun, each host is asked once more, soon."""
        planner = DownloadPlanner()
        planner.opened("a", 10)
        self.assertEqual(self.rounds(planner), ([0.1], 4, Fail(wrong=False)))
        self.assertEqual(self.rounds(DownloadPlanner(retry_for=RETRY_FOR)), ([0.1], 4, Fail(wrong=False)))

    def test_time_starts_again_with_each_byte(self) -> None:
        """A byte that arrives gives the hosts all of ``retry_for`` again."""
        planner = DownloadPlanner(retry_for=RETRY_FOR)
        planner.opened("a", 10)
        self.rounds(planner)
        planner.arrived("a", 0, 1)
        self.assertAlmostEqual(sum(self.rounds(planner)[0]), RETRY_FOR)

    def test_retry_after(self) -> None:
        """What upstream demands is waited for if it is within ``retry_for``, else the end comes at once."""
        planner = DownloadPlanner(retry_for=RETRY_FOR)
        planner.opened("a", 10)
        self.assertEqual(self.rounds(planner, 2.0), ([2.0, 2.0], 6, Fail(wrong=False)))
        planner = DownloadPlanner(retry_for=RETRY_FOR)
        planner.opened("a", 10)
        self.assertEqual(self.rounds(planner, 6.0), ([], 2, Fail(wrong=False)))

    def test_timeouts_are_not_repeated(self) -> None:
        """Before anything has been promised a timeout is not worth another round."""
        planner = DownloadPlanner()
        planner.broke("a", repeatable=False)
        self.assertEqual(planner.next(["a"], 0.0), Fail(wrong=False))

    def test_a_word_on_the_size_is_a_part(self) -> None:
        """Who delivered every byte is not to blame if another said that there are no more of them."""
        planner = DownloadPlanner()
        planner.opened("right", None)
        planner.arrived("right", 0, 5)
        planner.broke("right")
        planner.has_no_more("wrong", 5)
        self.assertEqual(planner.next(["right", "wrong"], 0.0), Verify())
        planner.checked(right=False)
        self.assertEqual(planner.next(["right", "wrong"], 0.0), Restart(None))

    def test_too_much_by_the_word_of_another(self) -> None:
        """Who sends more than another host said there is may be right, and is not to blame."""
        planner = DownloadPlanner()
        planner.opened("wrong", 5)
        planner.broke("wrong")
        self.assertTrue(planner.opened("right", None))
        planner.too_long("right")
        planner.broke("wrong")
        self.assertEqual(planner.next(["wrong", "right"], 0.0), Restart(None))
        self.assertEqual(planner.next(["right", "wrong"], 0.0), RequestRange("right", 0))

    def test_too_much_by_its_own_word(self) -> None:
        """Who sends more than it said itself is to blame, and not asked again."""
        planner = DownloadPlanner()
        planner.opened("wrong", 5)
        planner.arrived("wrong", 0, 4)
        planner.too_long("wrong")
        self.assertEqual(planner.next(["wrong"], 0.0), Restart("wrong"))
        self.assertEqual(planner.next(["wrong"], 0.0), Fail(wrong=True))

    def test_empty_lie(self) -> None:
        """An empty body for a content that is not empty is its host's fault: a captive portal's, say."""
        planner = DownloadPlanner()
        planner.opened("portal", 0)
        planner.ended("portal")
        self.assertEqual(planner.next(["portal", "b"], 0.0), Verify())
        planner.checked(right=False)
        self.assertEqual(planner.next(["portal", "b"], 0.0), Restart("portal"))
        self.assertEqual(planner.next(["portal", "b"], 0.0), RequestRange("b", 0))

    def test_kept_part_survives_another_size(self) -> None:
        """One host that says a size below what is kept does not cost the kept part; all hosts do."""
        planner = DownloadPlanner([(0, 900)])
        self.assertFalse(planner.opened("portal", 12))
        self.assertEqual(planner.next(["portal", "b"], 0.0), RequestRange("b", 900))
        self.assertFalse(planner.opened("b", 800))
        self.assertEqual(planner.next(["portal", "b"], 0.0), Restart(None))

    def test_kept_whole(self) -> None:
        """A kept part that is the whole is checked after a 416, whether that tells the size or not."""
        for total in (10, None):
            planner = DownloadPlanner([(0, 10)])
            planner.has_no_more("a", total)
            self.assertEqual(planner.next(["a"], 0.0), Verify())
            planner.checked(right=True)
            self.assertEqual(planner.next(["a"], 0.0), Commit())

    def test_kept_part_before_a_gap_is_not_the_whole(self) -> None:
        """A 416 behind a kept part does not make it the whole where more is kept behind a gap."""
        planner = DownloadPlanner([(0, 10), (20, 30)])
        planner.has_no_more("a", None)
        self.assertEqual(planner.next(["a"], 0.0), Restart(None))

    def test_what_arrives_after_a_restart_was_decided(self) -> None:
        """Bytes of a range that was under way when all was to be thrown away are thrown away too."""
        planner = DownloadPlanner()
        planner.opened("a", 30)
        planner.arrived("a", 0, 10)
        planner.opened("b", 40)
        planner.broke("a")
        self.assertEqual(planner.next(["a", "b"], 0.0), Restart(None))
        planner.arrived("a", 20, 30)
        planner.restarted()
        self.assertEqual((planner.prefix, list(planner.held)), (0, []))
        self.assertEqual(planner.next(["a", "b"], 0.0), RequestRange("a", 0))

    def test_kept_part_is_nobodys(self) -> None:
        """A wrong content with a part from an earlier run is nobody's fault, and proves nothing."""
        planner = DownloadPlanner([(0, 4)])
        planner.opened("a", 10)
        planner.arrived("a", 4, 10)
        planner.checked(right=False)
        self.assertEqual(planner.next(["a"], 0.0), Restart(None))
        self.assertEqual(planner.next(["a"], 0.0), RequestRange("a", 0))
        while isinstance(step := planner.next(["a"], 0.0), RequestRange | Backoff):
            planner.broke("a")
        self.assertEqual(step, Fail(wrong=False))

    def test_answers_in_vain(self) -> None:
        """A host that answers each time and never gets further is asked a few times; a new byte counts anew."""
        planner = DownloadPlanner(retry_for=1000.0)
        planner.opened("a", 10)
        for stop in (4, 5):
            planner.arrived("a", 0, stop)
            asked = 0
            while isinstance(step := planner.next(["a"], float(asked)), RequestRange | Backoff):
                if isinstance(step, RequestRange):
                    asked += 1
                    planner.opened("a", 10)
                    planner.broke("a")
                self.assertLess(asked, 10)
            self.assertEqual((step, asked), (Fail(wrong=False), 4))

    def test_last_one_alone_breaks_off(self) -> None:
        """What has come from the last host that was asked alone stays for the next fetch."""
        planner = DownloadPlanner([(0, 4)], total=4)
        planner.checked(right=False)
        self.assertEqual(planner.next(["a"], 0.0), Restart(None))
        self.assertEqual(planner.next(["a"], 0.0), RequestRange("a", 0))
        planner.opened("a", 10)
        planner.arrived("a", 0, 8)
        while isinstance(step := planner.next(["a"], 0.0), RequestRange | Backoff):
            planner.broke("a")
        self.assertEqual((step, planner.prefix), (Fail(wrong=False), 8))
