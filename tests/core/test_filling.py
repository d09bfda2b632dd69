"""What a fetch does next, in a world full of bad hosts."""

from __future__ import annotations

from random import Random

from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from contentcache.core.filling import (
    FIRST_ROUNDS,
    MOST_ROUNDS,
    Ask,
    Check,
    Filling,
    GiveUp,
    Keep,
    Pause,
    StartAgain,
)
from tests.core.worlds import BLAMELESS, TRUTHFUL, Manner, World, wrong

TRUTH = b"the truth, whole"
_HOSTS = ("a", "b", "c", "d")


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
    return (len(world.truth) + 12) * (hosts + 1) * MOST_ROUNDS * (hosts + 1)


class HistoryTests(SynchronousTestCase):
    """Random histories. The world checks each step: offsets, and that nothing but the truth is kept."""

    @settings(max_examples=1500, deadline=None)
    @given(worlds())
    def test_ends(self, world: World) -> None:
        """Every fetch ends, kept or given up, and no host that told the truth is ever blamed."""
        end = world.run(most_steps(world))
        self.assertIsInstance(end, Keep | GiveUp)
        for host in world.blamed:
            self.assertNotIn(world.manners[host], BLAMELESS)
        if end == GiveUp(wrong=True):
            self.assertFalse(set(world.manners.values()) <= set(BLAMELESS))

    @settings(max_examples=1000, deadline=None)
    @given(worlds(), st.sampled_from(TRUTHFUL))
    def test_one_honest_host_is_enough(self, world: World, manner: Manner) -> None:
        """With one host that tells the truth and always answers, every fetch ends with the content."""
        world.manners["e"] = manner
        self.assertEqual(world.run(most_steps(world)), Keep())

    @settings(max_examples=500, deadline=None)
    @given(worlds())
    def test_alone_at_most_once(self, world: World) -> None:
        """Once hosts are asked one at a time, none gets a second turn, a blamed one not even a first."""
        world.run(most_steps(world))
        turns = world.wholes()
        self.assertEqual(len(turns), len(set(turns)))
        first = next((step for step in world.steps if isinstance(step, StartAgain)), StartAgain(None))
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
        self.assertEqual(world.run(50), GiveUp(wrong=False))
        self.assertEqual(bytes(world.file), kept)
        asked = [step.host for step in world.steps if isinstance(step, Ask)]
        for host in world.manners:
            self.assertLessEqual(asked.count(host), FIRST_ROUNDS)


class StepTests(SynchronousTestCase):
    """Single stories, told step by step."""

    def test_next_host_goes_on(self) -> None:
        """When a host breaks off, the next one is asked from where it stopped, without a pause."""
        filling = Filling()
        self.assertEqual(filling.next(["a", "b"]), Ask("a", 0))
        self.assertTrue(filling.opened("a", 10))
        filling.arrived("a", 0, 4)
        filling.broke("a")
        self.assertEqual(filling.next(["a", "b"]), Ask("b", 4))
        self.assertTrue(filling.opened("b", 10))
        filling.arrived("b", 4, 10)
        filling.ended("b")
        self.assertEqual(filling.next(["a", "b"]), Check())
        filling.checked(right=True)
        self.assertEqual(filling.next(["a", "b"]), Keep())

    def test_rounds(self) -> None:
        """Once clients have been promised something, rounds without a byte end after a few growing pauses."""
        filling = Filling()
        filling.opened("a", 10)
        pauses = []
        asks = 0
        while not isinstance(step := filling.next(["a", "b"]), GiveUp):
            if isinstance(step, Pause):
                pauses.append(step.seconds)
            elif isinstance(step, Ask):
                asks += 1
                filling.broke(step.host)
        self.assertEqual(step, GiveUp(wrong=False))
        self.assertEqual((asks, len(pauses)), (2 * MOST_ROUNDS, MOST_ROUNDS - 1))
        self.assertEqual(pauses, sorted(set(pauses)))

    def test_timeouts_are_not_repeated(self) -> None:
        """Before anything has been promised a timeout is not worth another round."""
        filling = Filling()
        filling.broke("a", repeatable=False)
        self.assertEqual(filling.next(["a"]), GiveUp(wrong=False))

    def test_a_word_on_the_size_is_a_part(self) -> None:
        """Who delivered every byte is not to blame if another said that there are no more of them."""
        filling = Filling()
        filling.opened("honest", None)
        filling.arrived("honest", 0, 5)
        filling.broke("honest")
        filling.has_no_more("liar", 5)
        self.assertEqual(filling.next(["honest", "liar"]), Check())
        filling.checked(right=False)
        self.assertEqual(filling.next(["honest", "liar"]), StartAgain(None))

    def test_too_much_by_the_word_of_another(self) -> None:
        """Who sends more than another host said there is may be right, and is not to blame."""
        filling = Filling()
        filling.opened("liar", 5)
        filling.broke("liar")
        self.assertTrue(filling.opened("honest", None))
        filling.too_long("honest")
        filling.broke("liar")
        self.assertEqual(filling.next(["liar", "honest"]), StartAgain(None))
        self.assertEqual(filling.next(["honest", "liar"]), Ask("honest", 0))

    def test_too_much_by_its_own_word(self) -> None:
        """Who sends more than it said itself is to blame, and not asked again."""
        filling = Filling()
        filling.opened("liar", 5)
        filling.arrived("liar", 0, 4)
        filling.too_long("liar")
        self.assertEqual(filling.next(["liar"]), StartAgain("liar"))
        self.assertEqual(filling.next(["liar"]), GiveUp(wrong=True))

    def test_empty_lie(self) -> None:
        """An empty body for a content that is not empty is its host's fault: a captive portal's, say."""
        filling = Filling()
        filling.opened("portal", 0)
        filling.ended("portal")
        self.assertEqual(filling.next(["portal", "b"]), Check())
        filling.checked(right=False)
        self.assertEqual(filling.next(["portal", "b"]), StartAgain("portal"))
        self.assertEqual(filling.next(["portal", "b"]), Ask("b", 0))

    def test_kept_part_survives_another_size(self) -> None:
        """One host that says a size below what is kept does not cost the kept part; all hosts do."""
        filling = Filling([(0, 900)])
        self.assertFalse(filling.opened("portal", 12))
        self.assertEqual(filling.next(["portal", "b"]), Ask("b", 900))
        self.assertFalse(filling.opened("b", 800))
        self.assertEqual(filling.next(["portal", "b"]), StartAgain(None))

    def test_kept_whole(self) -> None:
        """A kept part that is the whole is checked after a 416, whether that tells the size or not."""
        for total in (10, None):
            filling = Filling([(0, 10)])
            filling.has_no_more("a", total)
            self.assertEqual(filling.next(["a"]), Check())
            filling.checked(right=True)
            self.assertEqual(filling.next(["a"]), Keep())

    def test_kept_part_before_a_gap_is_not_the_whole(self) -> None:
        """A 416 behind a kept part does not make it the whole where more is kept behind a gap."""
        filling = Filling([(0, 10), (20, 30)])
        filling.has_no_more("a", None)
        self.assertEqual(filling.next(["a"]), StartAgain(None))

    def test_what_arrives_after_a_restart_was_decided(self) -> None:
        """Bytes of a range that was under way when all was to be thrown away are thrown away too."""
        filling = Filling()
        filling.opened("a", 30)
        filling.arrived("a", 0, 10)
        filling.opened("b", 40)
        filling.broke("a")
        self.assertEqual(filling.next(["a", "b"]), StartAgain(None))
        filling.arrived("a", 20, 30)
        filling.restarted()
        self.assertEqual((filling.prefix, list(filling.held)), (0, []))
        self.assertEqual(filling.next(["a", "b"]), Ask("a", 0))

    def test_kept_part_is_nobodys(self) -> None:
        """A wrong content with a part from an earlier run is nobody's fault, and proves nothing."""
        filling = Filling([(0, 4)])
        filling.opened("a", 10)
        filling.arrived("a", 4, 10)
        filling.checked(right=False)
        self.assertEqual(filling.next(["a"]), StartAgain(None))
        self.assertEqual(filling.next(["a"]), Ask("a", 0))
        while isinstance(step := filling.next(["a"]), Ask | Pause):
            filling.broke("a")
        self.assertEqual(step, GiveUp(wrong=False))

    def test_last_one_alone_breaks_off(self) -> None:
        """What has come from the last host that was asked alone stays for the next fetch."""
        filling = Filling([(0, 4)], total=4)
        filling.checked(right=False)
        self.assertEqual(filling.next(["a"]), StartAgain(None))
        self.assertEqual(filling.next(["a"]), Ask("a", 0))
        filling.opened("a", 10)
        filling.arrived("a", 0, 8)
        while isinstance(step := filling.next(["a"]), Ask | Pause):
            filling.broke("a")
        self.assertEqual((step, filling.prefix), (GiveUp(wrong=False), 8))
