"""
What a download does next, while several hosts may fail, disagree or send wrong bytes.

No reactor, no files, no clock. The driver asks :meth:`DownloadPlanner.next` for a step, carries it out, and reports
what happened. The rules are all here:

* Bytes are requested from where the contiguous prefix ends, from the first host in turn that has not failed since
  bytes last arrived.
* When all have failed, back off, then another round, until ``retry_for`` seconds have passed since the first
  failure after the last byte (:mod:`contentcache.core.outage`). Before any response has begun there is only one
  more round, and only after failures that are worth repeating at once (a reset, not a timeout): an error is better
  than a long wait. Rounds in which a host answered and brought no new byte are few: it may have sent all that is
  there once more.
* When all bytes are there, verify the digest. On a mismatch a host that delivered every byte is to blame, if it
  also said that there are no more. Where several delivered some (those of an earlier run are from nobody), none is
  to blame: then the content is downloaded again, whole, from one host alone, at most once from each.
* A host that disagrees about the size is skipped. If no other is left, the download restarts in the same way: the
  others may be wrong.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeAlias

from attrs import frozen

from contentcache.core.outage import Outage
from contentcache.core.spans import Spans

#: Rounds in which hosts answer, and bring no byte that is new.
_MOST_ROUNDS_IN_VAIN: Final = 4


@frozen
class RequestRange:
    """Ask ``host`` for everything from byte ``offset`` on."""

    host: str
    offset: int


@frozen
class Backoff:
    """Wait before the next round."""

    seconds: float


@frozen
class Verify:
    """All bytes are there: hash what is not hashed yet, and compare."""


@frozen
class Restart:
    """Delete what is there; ``blamed`` is the host that delivered every byte of it, if one did."""

    blamed: str | None


@frozen
class Commit:
    """The content is verified: store it."""


@frozen
class Fail:
    """
    No host is left; ``wrong`` if what was delivered had a digest mismatch. If not ``wrong``, the bytes that are
    there may be right, and are kept for the next download.
    """

    wrong: bool


Step: TypeAlias = RequestRange | Backoff | Verify | Restart | Commit | Fail


class DownloadPlanner:
    """
    The state of one download. ``kept`` runs of bytes are there from an earlier run, of ``total`` bytes if that is
    known; offsets are bytes. ``retry_for`` is how many seconds it waits for unavailable hosts once responses have
    begun, which ``promised`` says of those that begin with it.
    """

    def __init__(
        self,
        kept: Sequence[tuple[int, int]] = (),
        total: int | None = None,
        *,
        retry_for: float = 0.0,
        promised: bool = False,
    ) -> None:
        self.total = total
        self.held = Spans()
        for start, stop in kept:
            self.held.add(start, stop)
        self._foreign = self.held.end() > 0 or total is not None
        self._contributors: set[str] = set()
        self._confirmed: set[str] = set()  # hosts that say that the content has ``total`` bytes
        self._failed: set[str] = set()
        self._retry_for = retry_for
        self._outage = Outage()
        self._retry_after = 0.0
        self._repeatable = True
        self._promised = promised
        self._answered = False  # since a new byte has arrived
        self._rounds_in_vain = 0
        self._disagreed = False
        self._alone: str | None = None
        self._tried: set[str] = set()
        self._one_at_a_time = False
        self._wrong = False
        self._again: Restart | None = None
        self._verified = False

    @property
    def prefix(self) -> int:
        """How many bytes are there from the start without a gap."""
        return self.held.reach(0)

    @property
    def complete(self) -> bool:
        """Whether every byte is there."""
        return self.total is not None and self.prefix >= self.total

    # What to do.

    def next(self, order: Sequence[str], now: float) -> Step:
        """The next step at ``now``, given the hosts that may be asked in the order of their turn."""
        if self._failed:
            self._outage.began(now)
        if self._verified:
            return Commit()
        if self._again is not None:
            return self._start_again(self._again)
        if self.complete:
            return Verify()
        if self._one_at_a_time:
            return self._next_alone(order, now)
        for host in order:
            if host not in self._failed:
                return RequestRange(host, self.prefix)
        if self._disagreed:
            return self._start_again(Restart(None))
        return self._another_round(now, self._retry_for)

    def _next_alone(self, order: Sequence[str], now: float) -> Step:
        untried = [host for host in order if host not in self._tried]
        if self._alone is None:
            if not untried:
                return Fail(self._wrong)
            self._alone = untried.pop(0)
            self._tried.add(self._alone)
        if self._alone in order:
            if self._alone not in self._failed:
                return RequestRange(self._alone, self.prefix)
            step = self._another_round(now, 0.0 if untried else self._retry_for)
            if isinstance(step, Backoff):
                return step
        if not untried:
            return Fail(self._wrong and not self._contributors)
        if self._contributors:
            return self._start_again(Restart(None))
        self._forget_progress()
        return self._next_alone(order, now)

    def _another_round(self, now: float, retry_for: float) -> Step:
        if not self._promised:
            retry_for = 0.0
        self._rounds_in_vain += self._answered
        self._answered = False
        pause = None
        if (self._promised or self._repeatable) and self._rounds_in_vain < _MOST_ROUNDS_IN_VAIN:
            pause = self._outage.next_pause(now, retry_for, self._retry_after)
        if pause is None:
            return Fail(wrong=False)
        self._failed.clear()
        self._retry_after = 0.0
        return Backoff(pause)

    def _start_again(self, step: Restart) -> Restart:
        self._again = None
        self._one_at_a_time = True
        if step.blamed is not None:
            self._tried.add(step.blamed)
        self._forget_progress()
        return step

    def _forget_progress(self) -> None:
        self.total = None
        self.held.clear()
        self._foreign = False
        self._disagreed = False
        self._contributors.clear()
        self._confirmed.clear()
        self._failed.clear()
        self._outage.ended()
        self._answered, self._rounds_in_vain = False, 0
        self._alone = None

    # What happened.

    def restarted(self) -> None:
        """
        The file is empty, as :class:`Restart` said, and no body is on its way into it: what arrived after
        that step is deleted too.
        """
        self._forget_progress()

    def opened(self, host: str, total: int | None) -> bool:
        """
        ``host`` answers, with a content of ``total`` bytes. ``False`` if that cannot be true of what is
        there: its body is not to be used.
        """
        if total is not None:
            if self.total is None and self.held.end() <= total:
                self.total = total
            if self.total != total:
                self._disagree(host)
                return False
            self._confirmed.add(host)
        self._promised = True
        self._answered = True
        return True

    def has_no_more(self, host: str, total: int | None) -> None:
        """``host`` says (416) that nothing follows on what is there, the content having ``total`` bytes."""
        if total is None and self.total is None and self._foreign:
            total = self.prefix  # an earlier run may have had the last byte and no time to check
        if total is not None and total == self.held.end() == self.prefix and self.total in {None, total}:
            self.total = total
            self._confirmed.add(host)
        else:
            self._disagree(host)

    def _disagree(self, host: str) -> None:
        self._disagreed = True
        self._failed.add(host)

    def arrived(self, host: str, start: int, stop: int) -> None:
        """Bytes of ``host`` are in the file."""
        self.held.add(start, stop)
        self._contributors.add(host)
        self._failed.clear()
        self._outage.ended()
        self._answered, self._rounds_in_vain = False, 0

    def ended(self, host: str, stop: int | None = None) -> None:
        """
        The body ended as HTTP says it must; ``stop`` is where it was asked to, if not at the end. Where
        nobody has told the size, this is how it is known.
        """
        if stop is not None and self.prefix >= stop:
            return
        if self.total is None:
            self.total = self.prefix
        if self.complete:
            self._confirmed.add(host)
        elif host in self._confirmed:
            self.broke(host)
        else:
            self._disagree(host)

    def broke(self, host: str, *, repeatable: bool = True, retry_after: float = 0.0) -> None:
        """
        ``host`` failed, before or in the middle of a body; ``repeatable`` if asking again at once may help. It
        wants no request for ``retry_after`` seconds.
        """
        self._failed.add(host)
        self._repeatable = self._repeatable and repeatable
        self._retry_after = max(self._retry_after, retry_after)

    def too_long(self, host: str) -> None:
        """``host`` sent more than the content has, or more than anybody wants."""
        if self.complete or self.total is None:
            self.broke(host)  # what the digest says of the bytes that are wanted counts, if there are enough
        elif host not in self._confirmed:
            self._disagree(host)
        elif self._contributors <= {host}:
            self._begin_anew(host)
        else:
            self.broke(host)

    def checked(self, *, right: bool) -> None:
        """The digest of all bytes has been compared."""
        if right:
            self._verified = True
            return
        authors = self._contributors or self._confirmed  # an empty content is its size
        sole = next(iter(authors)) if len(authors) == 1 and authors <= self._confirmed else None
        self._begin_anew(sole)

    def _begin_anew(self, culprit: str | None) -> None:
        self._wrong = self._wrong or not self._foreign
        self._again = Restart(None if self._foreign else culprit)
