"""How much of a step's losses each rank's report is, so that every row counts once, whichever ranks report.

The ranks of one model (tensor, context, pipeline parallelism) read the same rows. Those that have losses hold copies of
them, or, where the dataset was given `loss_parts`, copies of a part: a *slot* is what copies are of. Losses are divided
by the number of ranks that report the same slot in this step. The others, such as all stages of a pipeline but the
last, report nothing. That number is summed together with the losses: it is taken to be that of the step before, and if
it has changed, the losses are summed once more.

Shape suffixes: K domains, S slots.
"""

from collections.abc import Callable
from dataclasses import field

import numpy as np

from mixstream.errors import RanksDisagreeError
from mixstream.records import dataclass
from mixstream.types import Float64
from mixstream.world import World

_SPREAD = 1e-4
"""Standard deviation over mean by which copies may differ: kernels add in different orders."""
_ALIKE = 8
"""Steps in a row in which all parts have the same losses, after which they are taken for copies. A model whose first
losses are the same for all tokens has a few."""


@dataclass(kw_only=True)
class Shares:
    """The part that this rank's reports are of those of all ranks.

    Two ranks of the same rows, of which one has losses:

    >>> shares = Shares.of(World(rank=0, size=1, replicas=2), ranks=2)
    >>> ours, theirs = np.array([[6.0], [4.0]]), np.zeros((2, 1))
    >>> marks = shares.marks(ours) + shares.marks(theirs)
    >>> shares.divisor, shares.take(marks), shares.divisor
    (2.0, True, 1.0)

    Args:
        slot: what this rank reports.
        slots: how many slots there are.
        parts: slots of the same rows.
        reporters_S: float64 [S], ranks that report each slot.
    """

    slot: int
    slots: int
    parts: int
    reporters_S: Float64
    _alike: int = field(default=0, init=False)

    @classmethod
    def of(cls, world: World, *, ranks: int) -> "Shares":
        """Return the shares in a job of `ranks`, of which `world` are those of the run."""
        slots = world.size * world.parts
        slot, each = world.rank * world.parts + world.part, float(ranks // slots)
        return cls(slot=slot, slots=slots, parts=world.parts, reporters_S=np.full(slots, each))

    @property
    def divisor(self) -> float:
        """By what the losses are divided when they are summed: exactly, so that sums are those without replicas."""
        return float(self.reporters_S[0]) if (self.reporters_S == self.reporters_S[0]).all() else 1.0

    @property
    def weight(self) -> float:
        """What this rank's losses are multiplied by before that: 1, unless slots have different numbers of ranks."""
        return float(self.divisor / self.reporters_S[self.slot])

    def marks(self, sums_2K: Float64) -> Float64:
        """Return what is summed beside the losses, float64 [3 S]: whether this rank has losses, their size, its square.

        `sums_2K` are its summed losses and the numbers of their terms.
        """
        marks_3S = np.zeros((3, self.slots))
        if sums_2K[1].any():
            flat = np.nan_to_num(sums_2K.ravel(), nan=0.0, posinf=0.0, neginf=0.0)
            size = float(flat @ (1 + np.arange(flat.size) * 0.6180339887 % 1))  # differs if one of the numbers does
            marks_3S[:, self.slot] = 1.0, size, size**2
        return marks_3S.ravel()

    def take(self, total: Float64) -> bool:
        """Take in the marks summed over all ranks; return whether the losses have to be summed again."""
        reporters_S = total.reshape(3, self.slots)[0]
        reporters_S = np.where(reporters_S > 0, reporters_S, self.reporters_S)  # nothing is divided where nothing is
        changed = not np.array_equal(reporters_S, self.reporters_S)
        self.reporters_S = reporters_S
        return changed

    def check(self, step: int, total: Float64, told: Callable[[int], str]) -> None:
        """Check that ranks that report the same have the same, and that parts are not copies.

        Args:
            step: the step, or the one before which the model was evaluated.
            total: the marks summed over all ranks.
            told: returns what the ranks of a slot reported, for the error; called on all ranks or none.

        Raises:
            RanksDisagreeError: they have not, or are.
        """
        number_S, size_S, square_S = total.reshape(3, self.slots)
        mean_S, mean_square_S = size_S / np.maximum(number_S, 1), square_S / np.maximum(number_S, 1)
        odd_S = (number_S > 1) & (mean_square_S - mean_S**2 > _SPREAD**2 * mean_square_S)
        if odd_S.any():
            slot = int(odd_S.argmax())
            raise RanksDisagreeError(
                f"the ranks that read the same rows disagree at step {step}, about their losses:{told(slot)}\nEach row "
                "would count with the mean. If each of them has the losses of a part of every row, as in context "
                'parallelism, say so: StreamingDataset(..., loss_parts=mesh["cp"]). Else report the same on all of '
                "them, or None on those that have no losses"
            )
        self._check_parts(step, number_S.reshape(-1, self.parts), mean_S.reshape(-1, self.parts))

    def _check_parts(self, step: int, number_DP: Float64, mean_DP: Float64) -> None:
        if self.parts == 1 or not number_DP.any():
            return
        same = (number_DP > 0).all() and (np.ptp(mean_DP, axis=1) <= 1e-12 * np.abs(mean_DP).max(axis=1)).all()
        self._alike = self._alike + 1 if same else 0
        if self._alike == _ALIKE:
            raise RanksDisagreeError(
                f"all {self.parts} loss_parts have had the same losses for {_ALIKE} steps, up to step {step}: they are "
                "copies, and each row would count as often. Report what each rank has before losses are summed over "
                "these ranks, or leave out loss_parts"
            )
