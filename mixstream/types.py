"""The frozen records that layers pass to each other. Plain values: no I/O and no torch.

Domains have one numbering, the plan's order: sorted by name or, if domains are read one after the other, as in
`streams`. Shards have one numbering: those of domain 0, then those of domain 1, and so on ("counted over all domains").
Only three interfaces number domains as in `streams`: `Batch.domain`, the arguments of `Loader.report`, and the sample
numbers of the mosaic interface.

Shape suffixes: B rows of the global batch, K domains, L lanes, V validation groups.
"""

from collections.abc import Callable, Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from mixstream.records import dataclass

if TYPE_CHECKING:
    from typing_extensions import Buffer  # collections.abc has it from Python 3.12 on
else:
    Buffer = bytes | bytearray | memoryview

Int64 = NDArray[np.int64]
Float64 = NDArray[np.float64]
UInt8 = NDArray[np.uint8]

Weights = Callable[[int], Int64 | None]
"""Step to weights, int64 [K], in whole parts of `plan.weights.WEIGHT_UNIT`; None while they are not known."""


def record_maker(record: type[Any]) -> Callable[..., Any]:
    """Return a constructor of a frozen record with slots, from the values of all fields in their order.

    It takes a quarter of the time of the class's own; some records are made for every batch.

    >>> record_maker(Addresses)(np.array([0]), np.array([5]), np.array([7]))
    Addresses(domain_B=array([0]), shard_B=array([5]), row_B=array([7]))
    """
    names = [field.name for field in fields(record)]
    text = f"class Thawed:\n __slots__ = {names!r}\n def __init__(self, {', '.join(names)}):"
    made: dict[str, Any] = {}
    exec(text + "".join(f"\n  self.{name} = {name}" for name in names), {}, made)  # noqa: S102 - names of fields alone
    thawed = made["Thawed"]

    def make(*values: Any) -> Any:
        made: Any = thawed(*values)
        made.__class__ = record  # which has the same slots
        return made

    return make


@dataclass(frozen=True, slots=True, kw_only=True)
class Feedback:
    """The losses of one optimiser step, summed over all ranks.

    Attributes:
        step: the step of these losses, from 0. Step -1, before the first, has a `validation_V` that was measured before
            any training, and nothing else.
        effective: the first step whose weights may depend on this feedback (`step + 1 + lag`).
        rows_K: float64 [K], rows of each domain in the step's global batch.
        weights_K: float64 [K], the weights under which the step was drawn, without domains that had left the mix.
        loss_sum_K: float64 [K], summed training loss per domain, in nats.
        count_K: float64 [K], the number of tokens (or rows) in each sum; 0 if the domain was not in the batch.
        validation_V: float64 [V], mean validation losses in nats of the model after this step and before the next, one
            per group (usually the domains, in their order); None if none were due.
        matrix_VK: float64 [V, K], how much training on domain k helps group v, as measured by the trainer: positive if
            it lowers the loss (`mixers.LMO`); None if it was not measured.
    """

    step: int
    effective: int
    rows_K: Float64
    weights_K: Float64
    loss_sum_K: Float64
    count_K: Float64
    validation_V: Float64 | None = None
    matrix_VK: Float64 | None = None

    @property
    def loss_K(self) -> Float64:
        """Mean loss per token (or row), float64 [K], in nats; NaN if there is none or it is not finite.

        >>> one_K = np.ones(3)
        >>> feedback = Feedback(
        ...     step=7, effective=12, rows_K=one_K, weights_K=one_K / 3,
        ...     loss_sum_K=np.array([300.0, 0.0, np.inf]), count_K=np.array([100.0, 0.0, 100.0]),
        ... )
        >>> feedback.loss_K.tolist()
        [3.0, nan, nan]
        """
        known_K = (self.count_K > 0) & np.isfinite(self.loss_sum_K)
        with np.errstate(over="ignore"):
            loss_K = np.where(known_K, self.loss_sum_K, np.nan) / np.where(known_K, self.count_K, 1.0)
        return np.where(np.isfinite(loss_K), loss_K, np.nan)


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """The rows of one global batch, as (domain, draw).

    Lanes are contiguous, B / L rows each. With 2 lanes, B = 4, `domain_B` = [1, 0, 1, 1] and `draw_B` = [6, 2, 5, 6],
    rows 0 and 1 are lane 0: draw 6 of domain 1 and draw 2 of domain 0. Rows 2 and 3 are draws 5 and 6 of domain 1 in
    lane 1; lanes own different samples, so rows 0 and 3 differ.

    Attributes:
        step: the step of the batch.
        domain_B: int32 [B], the domain of each row, in the plan's order.
        draw_B: int64 [B], the number of the draw from this domain in the row's lane.
        repeats: rows at the end that only fill up the epoch's last batch.
        drawn_by_K: int64 [K], the weights by which the batch was drawn, if a domain has left the mix (`Plan.drawn_by`);
            None if they are those that were given.
        part: this rank's rows, where ranks have different numbers of rows (`order="mosaic"`); None if they are
            `RunPlan.part`.
    """

    step: int
    domain_B: NDArray[np.int32]
    draw_B: Int64
    repeats: int = 0
    drawn_by_K: Int64 | None = None
    part: slice | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Where rows lie, int64 [B] each.

    Attributes:
        domain_B: the domain, in the plan's order.
        shard_B: the shard, counted over all domains.
        row_B: the stored row of the shard, from 0.
    """

    domain_B: Int64
    shard_B: Int64
    row_B: Int64

    @classmethod
    def joined(cls, parts: Sequence[Self]) -> Self:
        """Return the addresses of all parts, one after the other."""
        if len(parts) == 1:
            return parts[0]
        return cls(
            domain_B=np.concatenate([part.domain_B for part in parts]),
            shard_B=np.concatenate([part.shard_B for part in parts]),
            row_B=np.concatenate([part.row_B for part in parts]),
        )

    def __getitem__(self, part: slice) -> Self:
        return type(self)(domain_B=self.domain_B[part], shard_B=self.shard_B[part], row_B=self.row_B[part])

    def __len__(self) -> int:
        return len(self.domain_B)


@dataclass(frozen=True, slots=True, kw_only=True)
class Origin:
    """Where a run took over the draws of another one (`strict=False`): from there on, its rows are counted.

    Attributes:
        step: the step.
        epoch: the epoch that began there.
        drawn_LK: int64 [L, K], draws that the run began with.
    """

    step: int
    epoch: int
    drawn_LK: Int64


@dataclass(frozen=True, slots=True, kw_only=True)
class Cursor:
    """A run's position in its plan. Plan, cursor and weights determine all later rows (example: `plan.Plan`).

    Attributes:
        step: steps planned so far, over all epochs.
        epoch: epochs completed.
        step_in_epoch: steps planned of the running epoch.
        drawn_LK: int64 [L, K], draws so far; the next draw has this number.
        base_LK: int64 [L, K], draws at the start of the epoch.
        credit_LK: int64 [L, K], the rounding carry, in units of 1 / `total_L` row (`mixstream.plan.weights`).
        total_L: int64 [L], the sum of the weights in these units.
        quota_LK: int64 [L, K], rows that the running epoch takes; None if weights are given step by step. It follows
            from the others (`plan.Plan.resume`).
        repeats: rows so far that only filled up an epoch's last batch.
        origin: where the run took over the draws of another one; None for a run from step 0.
    """

    step: int
    epoch: int
    step_in_epoch: int
    drawn_LK: Int64
    base_LK: Int64
    credit_LK: Int64
    total_L: Int64
    quota_LK: Int64 | None = None
    repeats: int = 0
    origin: Origin | None = None
