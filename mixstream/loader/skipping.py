"""Which steps `skip` leaves out of a run, and what ranks tell each other of it.

Rules. A step that was handed out cannot be left out. A range that is left out already may be asked for again, so that a
script may ask for it whenever it starts. All ranks have to leave out the same steps: where losses are summed over
ranks, the sum shows a rank that differs (`feedback.consensus`); elsewhere each rank posts what it leaves out, and a
rank that has handed out such a step finds it. No rank waits for another.
"""

import contextlib
import json
from collections.abc import Mapping
from hashlib import blake2b
from typing import TYPE_CHECKING, Any, Self

from mixstream.arguments import MOST, whole
from mixstream.distributed.group import NO_STORE
from mixstream.errors import ConfigError, RanksDisagreeError
from mixstream.lazy import later
from mixstream.loader.sharing import LoaderLock
from mixstream.plan.skips import Skips

if TYPE_CHECKING:
    from mixstream.distributed.notes import RankNotes
else:
    (RankNotes,) = later("mixstream.distributed.notes", "RankNotes")

_EVERY = 32  # batches after which a rank looks at what the others have posted
_LONGEST = 1 << 24  # steps; a longer range is a mistake, and passing it takes hours


class SkipsSteps:
    """The methods of a loader that leave steps out. The loader sets the attributes."""

    _lock: LoaderLock

    def _current(self) -> Any:
        """Return the loader's place; None over another kind of dataset."""
        raise NotImplementedError

    def _drop_ahead(self) -> None:
        """Drop batches that are made ahead; a loader that does so when it passes the steps has nothing to do."""

    def skip(self, steps: int | range) -> range:
        """Leave steps out of the run, as people do by hand after a spike of the loss; return which ones.

        The plan deals the rows of these steps, so they count as drawn and no other batch changes, but they are never
        handed out: `batch.step` jumps over them. A mixer that learns gets no losses of them. They are in the state and
        in the log, so that a resume and a replay leave them out too. Call it on every rank alike, between the same two
        batches. What is asked for before a state is loaded holds for the steps after that state.

        An epoch of which the rest is left out ends early; the next one begins behind these steps.

        >>> import numpy as np, mixstream as ms, tempfile
        >>> with ms.MDSWriter(columns={"tokens": "ndarray:uint16:5"}, out=(out := tempfile.mkdtemp())) as writer:
        ...     for number in range(40):
        ...         writer.write({"tokens": np.full(5, number, np.uint16)})
        >>> loader = ms.Loader(ms.StreamingDataset(local=out, batch_size=4))
        >>> loader.skip(range(2, 5)), [batch.step for batch in loader]
        (range(2, 5), [0, 1, 5, 6, 7, 8, 9])

        Args:
            steps: how many, from the next step on; or a range of steps, which may begin later. Steps that are left out
                already may be in it.

        Raises:
            ConfigError: `steps` is neither, or some of them were handed out; or the order is "mosaic", or the dataset
                of another kind.
        """
        with self._lock:
            if (place := self._current()) is None:
                raise ConfigError("skip() leaves out steps of a mixstream.StreamingDataset, and this is another kind")
            if found := place.leave_out(steps):
                self._drop_ahead()
        return found

    @property
    def skipped(self) -> list[range]:
        """The steps that are left out of the run, as ranges: those that were passed, and those to come."""
        place = self._current()
        return [] if place is None else [range(first, end) for first, end in place.skips.ranges]


def check_can_skip(run: Any) -> None:
    """Check that steps of `run` can be left out.

    Raises:
        ConfigError: they cannot.
    """
    if not run.can_skip:
        raise ConfigError(
            'skip() leaves steps out of runs in our order alone: the states of order="mosaic" are those of '
            "mosaicml-streaming, which have no place for them, so a resume would read them again. Go over to "
            'order="mixstream" at the end of an epoch, or begin at a later epoch with set_epoch'
        )


def asked_range(steps: Any, *, position: int, skips: Skips) -> range:
    """Return the steps that `skip(steps)` asks for.

    >>> asked_range(3, position=10, skips=Skips()), asked_range(3, position=10, skips=Skips(((10, 12),)))
    (range(10, 13), range(12, 15))
    >>> asked_range(range(8, 12), position=10, skips=Skips(((8, 12),)))
    range(8, 12)

    Args:
        steps: as `Loader.skip` takes it.
        position: the step after those that were handed out or passed.
        skips: the steps that are left out already.

    Raises:
        ConfigError: `steps` is neither a number of steps nor a range of consecutive ones, or some were handed out.
    """
    if not isinstance(steps, range):
        number = whole("steps", steps, least=0, most=_LONGEST, of="steps", advice="or give a range, range(500, 700)")
        following = skips.after(position)
        return range(following, following + number)
    if steps.step != 1:
        raise ConfigError(
            f"skip({steps}) names every {steps.step}th step: give ranges of consecutive steps, one call for each"
        )
    if not len(steps):
        return range(position, position)
    if steps.start < 0 or steps.stop > MOST or len(steps) > _LONGEST:
        raise ConfigError(
            f"skip({steps}) names steps below 0, or more than {_LONGEST}: give the steps of this run, as in "
            f"range({position}, {position + 200})"
        )
    passed = Skips.of([(steps.start, min(steps.stop, position))])
    if any(skips.count(first, end) < end - first for first, end in passed.ranges):
        ahead = f", or give range({position}, {steps.stop}) for those that are to come" if steps.stop > position else ""
        raise ConfigError(
            f"skip({steps}): the run is at step {position}, so some of these steps were handed out and cannot be left "
            f"out any more: load a state from before step {steps.start}, and skip then{ahead}"
        )
    return steps


class SkipNotes:
    """What the ranks of a job leave out, of one loader from one position on.

    Args:
        notes: what the ranks post.
        rank: of this process in the job.
    """

    def __init__(self, notes: RankNotes, rank: int) -> None:
        self._notes, self._rank = notes, rank
        self._handed_out, self._batches, self._turns = Skips(), 0, 0

    @classmethod
    def of_job(cls, rank: int, facts: Mapping[str, Any]) -> Self | None:
        """Return the notes of loaders with the same `facts`; None if ranks have nothing to exchange notes by."""
        digest = blake2b(json.dumps(facts, sort_keys=True, default=str).encode(), digest_size=9).hexdigest()
        with contextlib.suppress(*NO_STORE):
            notes = RankNotes.of_job(f"skips/{digest}")
            return None if notes is None else cls(notes, rank)
        return None

    def post(self, steps: range) -> None:
        """Tell the other ranks that this one leaves `steps` out."""
        with contextlib.suppress(*NO_STORE):
            self._notes.post(json.dumps([self._rank, self._turns, steps.start, steps.stop]))

    def turn_back(self) -> None:
        """Note that this rank goes back to an earlier epoch, whose steps it hands out once more."""
        self._handed_out, self._turns = Skips(), self._turns + 1

    def hand_out(self, step: int) -> None:
        """Note that this rank hands out `step`; now and then, look what the others leave out, as `check`."""
        self._handed_out = self._handed_out.add(step, step + 1)
        self._batches += 1
        if self._batches % _EVERY == 0:
            self.check()

    def check(self) -> None:
        """Check that no other rank leaves out what this rank has handed out.

        Raises:
            RanksDisagreeError: one does.
        """
        found: list[list[int]] = []
        with contextlib.suppress(*NO_STORE):
            found = [json.loads(note) for note in self._notes.read()]
        for rank, turns, first, end in found:
            if rank != self._rank and turns == self._turns and self._handed_out.count(first, end):
                raise RanksDisagreeError(
                    f"rank {rank} leaves out the steps {Skips(((first, end),))}, and rank {self._rank} has handed out "
                    "some of them: rows are read twice or never, since their batches are not parts of the same global "
                    "batches. Call skip() on every rank alike, between the same two batches"
                )
