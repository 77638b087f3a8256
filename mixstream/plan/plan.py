"""step -> the rows of the global batch, as (domain, draw).

Rule 1: what affects the next row is in `Plan` (constant over a run), in `Cursor` (the position) or in the step's
weights. World size, workers, prefetching and files have no influence: a rank slices the rows last.
Rule 2: the rows are exact. A lane fills B / L rows a step, under weights that are given by step (`weight_K`) or fixed
(`share_K`), in whole parts, or under its quota of what an epoch takes from each domain (`choose_K`). An epoch then
draws exactly that quota. The rounding carry is passed on over the ends of epochs in all three.
Rule 3: `advance` is pure. It returns a new cursor, so future steps can be planned without reading any data.

Domains are numbered as in `Plan.names`: sorted, unless they are read in order. The order in which a user lists streams
therefore changes no batch.

Shape suffixes: B rows of the global batch, K domains, L lanes.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from mixstream.arguments import counted
from mixstream.cached import cached_property
from mixstream.errors import ConfigError
from mixstream.lazy import later
from mixstream.plan.many_steps import advance_steps
from mixstream.plan.stretches import Stretch
from mixstream.plan.weights import WEIGHT_UNIT, deal, quantise, rescale, stagger
from mixstream.records import dataclass
from mixstream.types import Cursor, Int64, Rows

if TYPE_CHECKING:
    from mixstream.plan.lanes import Lane, fill_lanes
    from mixstream.plan.quotas import Quotas, moved_credit, pass_rows
else:
    Lane, fill_lanes = later("mixstream.plan.lanes", "Lane", "fill_lanes")
    Quotas, moved_credit, pass_rows = later("mixstream.plan.quotas", "Quotas", "moved_credit", "pass_rows")


_NEVER = np.int64(1) << 62
_LARGEST_BATCH = 1 << 31


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a run draws, step by step.

    Each lane deals its B / L rows by credit (the recurrence of `kernels.deal_rows_reference`) and carries the credit
    c_k into the next step, in `Cursor.credit_LK`. After n rows of a lane under weights w_k with sum W, it has drawn

        n_k = (n w_k + c_k(0) - c_k(n)) / W    rows of domain k, where |c_k| < W,

    less than two rows from n w_k / W, and less than one where c_k(0) = 0 (`weights.stagger`).

    Two domains under weights of 0.3 and 0.7, and four rows a step, of which domain "code" is owed 1.2 on average:

    >>> plan = Plan(names=("code", "web"), samples_K=np.array([50, 90]), choose_K=None, epoch_size=140,
    ...             global_batch_size=4)
    >>> weight_K = quantise([0.3, 0.7])
    >>> cursor = plan.start(weight_K)
    >>> for _ in range(3):
    ...     cursor, rows = plan.advance(cursor, weight_K)
    ...     drawn = [f"{plan.names[k]}:{n}" for k, n in zip(rows.domain_B.tolist(), rows.draw_B.tolist())]
    ...     print(rows.step, *drawn, (cursor.credit_LK / weight_K.sum()).round(1).tolist())
    0 web:0 web:1 code:0 web:2 [[0.2, -0.2]]
    1 web:3 code:1 web:4 web:5 [[0.4, -0.4]]
    2 code:2 web:6 web:7 web:8 [[0.6, -0.6]]

    Args:
        names: domains, in the plan's order.
        samples_K: int64 [K], selected samples per domain.
        choose_K: int64 [K], rows that an epoch takes from each domain; None under weights.
        share_K: int64 [K], fixed weights in whole parts (`weights.whole_shares`); None with `choose_K`, or if weights
            are given step by step, in parts of `weights.WEIGHT_UNIT`.
        epoch_size: rows of an epoch.
        global_batch_size: rows of a step over all ranks, B.
        lanes: independent paths through the shards, L; divides B.
        drop_last: True drops the rows that do not fill an epoch's last batch. False fills this batch: with repeats
            where an epoch takes `choose_K`, with the next draws under weights.
        in_order: True reads domains one after the other instead of mixing them.
        max_epochs_K: passes over each domain after which it leaves the mix; None for no limit.
        fixed_LK: int64 [L, K], samples that each lane owns, where they were dealt for other domains (`strict=False`);
            None deals them evenly.
        stretch: neighbouring rows that have one domain; None mixes rows one by one. Not with `choose_K`.

    Raises:
        ConfigError: `lanes` does not divide B, or an epoch is too small for the lanes or for one batch.
    """

    names: tuple[str, ...]
    samples_K: Int64
    choose_K: Int64 | None
    epoch_size: int
    global_batch_size: int
    lanes: int = 1
    drop_last: bool = False
    in_order: bool = False
    max_epochs_K: tuple[float | None, ...] | None = None
    share_K: Int64 | None = None
    fixed_LK: Int64 | None = None
    stretch: Stretch | None = None

    def __post_init__(self) -> None:
        B, L = self.global_batch_size, self.lanes
        if L < 1 or B < 1 or B % L:
            raise ConfigError(
                f"{counted(L, 'lanes')} (num_canonical_nodes) cannot share a global batch of {B} rows evenly: "
                "choose a number of lanes that divides batch_size x world size"
            )
        if B > _LARGEST_BATCH:
            raise ConfigError(
                f"a global batch of {B} rows is more than a plan makes ({_LARGEST_BATCH}): lower batch_size, or check "
                "world_size"
            )
        if self.quotas is not None and (self.epoch_size < L or self.quotas.first_LK.sum(axis=1).min() < 1):
            raise ConfigError(
                f"an epoch of {self.epoch_size} rows leaves some of {L} lanes (num_canonical_nodes) without any: "
                f"choose at most {counted(self.epoch_size, 'lanes')}, or raise epoch_size"
            )
        if self.steps_per_epoch < 1:
            drops = "drop_last=True drops the rest" if self.stretch is None else "one of one domain is not filled up"
            also = ", or pass drop_last=False" if self.stretch is None else ""
            raise ConfigError(
                f"an epoch of {self.epoch_size} rows holds no full global batch of {B} rows and {drops}: "
                f"lower batch_size, raise epoch_size to at least {B}{also}"
            )

    @cached_property
    def steps_per_epoch(self) -> int:
        """Steps of an epoch."""
        if self.quotas is not None:
            return self.quotas.steps
        B = self.global_batch_size
        return self.epoch_size // B if self.drop_last else -(-self.epoch_size // B)

    @cached_property
    def owned_LK(self) -> Int64:
        """Samples that each lane owns, int64 [L, K]."""
        return deal(self.samples_K, self.lanes) if self.fixed_LK is None else self.fixed_LK

    @cached_property
    def quotas(self) -> Quotas | None:
        """What an epoch takes from each domain in each lane; None under weights."""
        if self.choose_K is None:
            return None
        return Quotas(
            choose_K=self.choose_K,
            samples_K=self.samples_K,
            owned_LK=self.owned_LK,
            step_rows=self.global_batch_size // self.lanes,
            drop_last=self.drop_last,
            in_order=self.in_order,
        )

    @cached_property
    def part_LK(self) -> Int64 | None:
        """The weights of each lane in whole parts, int64 [L, K], where mixing is static."""
        if self.quotas is not None:
            return self.quotas.part_LK
        return None if self.share_K is None else np.tile(self.share_K, (self.lanes, 1))

    @cached_property
    def last_LK(self) -> Int64:
        """Draws after which a domain has used up its `max_epochs` in a lane, int64 [L, K]."""
        last_LK = np.full((self.lanes, len(self.names)), _NEVER, dtype=np.int64)
        for k, epochs in enumerate(self.max_epochs_K or ()):
            if epochs is not None:
                last_LK[:, k] = np.minimum(np.floor(float(epochs) * self.owned_LK[:, k]), _NEVER).astype(np.int64)
        return last_LK

    def start(self, weight_K: Int64 | None = None) -> Cursor:
        """Return the cursor of step 0; `weight_K` are the weights of this step, None with static mixing."""
        zero = np.zeros((self.lanes, len(self.names)), dtype=np.int64)
        credit_LK, total_L = self._fresh_credit(weight_K)
        return Cursor(
            step=0,
            epoch=0,
            step_in_epoch=0,
            drawn_LK=zero,
            base_LK=zero,
            credit_LK=credit_LK,
            total_L=total_L,
            quota_LK=None if self.quotas is None else self.quotas.of_epoch(credit_LK),
        )

    def resume(self, cursor: Cursor) -> Cursor:
        """Return `cursor`, which a state describes, with the quota of its epoch, and credits in units of this plan.

        States that were saved while fixed shares were rounded to quotas have credits in other units.
        """
        if self.part_LK is None:
            return cursor
        credit_LK, total_L = cursor.credit_LK.copy(), cursor.total_L.copy()
        for lane in np.flatnonzero(self._complete_L(cursor) & (total_L != self.part_LK.sum(axis=1))).tolist():
            credit_LK[lane] = rescale(credit_LK[lane], int(total_L[lane]), self.part_LK[lane])
            total_L[lane] = self.part_LK[lane].sum()
        cursor = replace(cursor, credit_LK=credit_LK, total_L=total_L)
        return (
            cursor if self.quotas is None else replace(cursor, quota_LK=self.quotas.of_epoch(self.first_credit(cursor)))
        )

    def advance(self, cursor: Cursor, weight_K: Int64 | None = None) -> tuple[Cursor, Rows] | None:
        """Return the cursor after the next step and the step's rows; None if the remaining domains cannot fill it.

        Raises:
            ConfigError: `weight_K` does not have one weight per domain.
        """
        if weight_K is not None and weight_K.shape != (len(self.names),):  # compiled loops would write beyond the end
            raise ConfigError(f"weights have shape {weight_K.shape} for {len(self.names)} domains: give one for each")
        cursor = self.settle(cursor)
        share = self.global_batch_size // self.lanes
        domain_B = np.empty(self.global_batch_size, dtype=np.int32)
        draw_B = np.empty(self.global_batch_size, dtype=np.int64)
        drawn_LK, credit_LK, total_L = cursor.drawn_LK.copy(), cursor.credit_LK.copy(), cursor.total_L.copy()
        repeats = 0
        if self.stretch is not None:
            part_K = weight_K if self.part_LK is None else self.part_LK[0]
            assert part_K is not None
            arrays = {"drawn_LK": drawn_LK, "credit_LK": credit_LK, "total_L": total_L, "last_LK": self.last_LK}
            if not self.stretch.fill_batch(part_K, **arrays, domain_B=domain_B, draw_B=draw_B):
                return None
        if not (at_once := self.stretch is not None) and self.lanes > 1 and not (self.max_epochs_K or self.in_order):
            part_LK = np.tile(np.asarray(weight_K), (self.lanes, 1)) if self.part_LK is None else self.part_LK
            if found := fill_lanes(part_LK, cursor, self.last_LK, domain_B, draw_B):
                at_once, (credit_LK, drawn_LK) = True, found
        for lane in range(0 if at_once else self.lanes):
            mine = slice(lane * share, (lane + 1) * share)
            at = Lane(
                base_K=cursor.base_LK[lane].copy(),
                drawn_K=drawn_LK[lane],
                credit_K=credit_LK[lane],
                total=int(total_L[lane]),
                quota_K=None if cursor.quota_LK is None else cursor.quota_LK[lane],
                last_K=self.last_LK[lane],
                limited=self.max_epochs_K is not None,
                in_order=self.in_order,
            )
            part_K = weight_K if self.part_LK is None else self.part_LK[lane]
            assert part_K is not None
            found = at.fill(part_K, whole_K=self.choose_K, domain_B=domain_B[mine], draw_B=draw_B[mine])
            if found is None:
                return None
            total_L[lane], repeats = at.total, repeats + found
        after = replace(
            cursor,
            step=cursor.step + 1,
            step_in_epoch=cursor.step_in_epoch + 1,
            drawn_LK=drawn_LK,
            credit_LK=credit_LK,
            total_L=total_L,
            repeats=cursor.repeats + repeats,
        )
        drawn_by_K = self.drawn_by(cursor, weight_K)
        return after, Rows(step=cursor.step, domain_B=domain_B, draw_B=draw_B, repeats=repeats, drawn_by_K=drawn_by_K)

    def advance_steps(self, cursor: Cursor, most: int) -> list[tuple[Rows, Cursor]]:
        """Return what `advance` does for some of the `most` next steps; empty where it has to be asked for each."""
        return advance_steps(self, self.settle(cursor), most)

    def drawn_by(self, cursor: Cursor, weight_K: Int64 | None = None) -> Int64 | None:
        """Return the weights by which the step at `cursor` is drawn, in parts of `WEIGHT_UNIT`, int64 [K].

        Without the domains that have left the mix: a lane scales up the weights of those that are left in it, and all
        lanes count alike. None if the weights are those that were given; all zero if no domain is left.

        >>> plan = Plan(names=("code", "web"), samples_K=np.array([4, 90]), choose_K=None, epoch_size=8,
        ...             global_batch_size=8, lanes=2, max_epochs_K=(1, None))
        >>> half_K = quantise([0.5, 0.5])
        >>> cursor = plan.start(half_K)
        >>> plan.drawn_by(cursor, half_K) is None
        True
        >>> left = replace(cursor, drawn_LK=np.array([[2, 2], [1, 2]]))  # "code" has left the first lane
        >>> (plan.drawn_by(left, half_K) / half_K.sum()).tolist()
        [0.25, 0.75]
        """
        fixed_K = self.choose_K if self.share_K is None else self.share_K
        given_K = fixed_K if weight_K is None else weight_K
        if self.max_epochs_K is None or given_K is None or not (self.left_LK(cursor) & (given_K > 0)).any():
            return None
        rest_LK = np.where(self.left_LK(cursor), 0, given_K).astype(np.float64)
        rest_LK = rest_LK[rest_LK.any(axis=1)]
        if not len(rest_LK):
            return np.zeros(len(self.names), dtype=np.int64)
        return quantise((rest_LK / rest_LK.sum(axis=1, keepdims=True)).mean(axis=0))

    def settle(self, cursor: Cursor) -> Cursor:
        """Return `cursor`, moved from the end of an epoch to the start of the next one if it is there."""
        if cursor.step_in_epoch < self.steps_per_epoch:
            return cursor
        return self._begin(cursor)

    def at_epoch(self, cursor: Cursor, epoch: int) -> Cursor:
        """Return the cursor at the start of `epoch`. If weights are given step by step, steps and draws continue.

        With static mixing, it is that of a run that drew all steps before; no domain may leave the mix meanwhile.
        """
        if self.part_LK is None:
            return replace(cursor, epoch=epoch, step_in_epoch=0)
        if epoch < cursor.epoch:
            cursor = self.start()
        skipped = (epoch - cursor.epoch) * self.steps_per_epoch - cursor.step_in_epoch
        after = replace(cursor, epoch=epoch, step_in_epoch=0, step=cursor.step + skipped)
        if self.quotas is not None:
            moved_LK, credit_LK = self.quotas.pass_epochs(self.first_credit(cursor), epoch - cursor.epoch)
            base_LK, quota_LK = cursor.base_LK + moved_LK, self.quotas.of_epoch(credit_LK)
            return replace(after, base_LK=base_LK, drawn_LK=base_LK, credit_LK=credit_LK, quota_LK=quota_LK)
        if epoch == cursor.epoch:
            return replace(after, drawn_LK=cursor.base_LK, credit_LK=self.first_credit(cursor))
        drawn_LK, credit_LK = cursor.drawn_LK.copy(), cursor.credit_LK.copy()
        for lane, part_K in enumerate(self.part_LK):
            rows = skipped * (self.global_batch_size // self.lanes)
            drawn_LK[lane] += self._unit * pass_rows(part_K, credit_LK[lane], rows // self._unit)
        return replace(after, base_LK=drawn_LK, drawn_LK=drawn_LK, credit_LK=credit_LK)

    def left_LK(self, cursor: Cursor) -> NDArray[np.bool_]:
        """Return which domains have used up their `max_epochs`, bool [L, K]."""
        if self.stretch is not None:
            return self.stretch.left_LK(cursor.drawn_LK, self.last_LK)
        return np.asarray(cursor.drawn_LK >= self.last_LK)

    def _complete_L(self, cursor: Cursor) -> NDArray[np.bool_]:
        """Return in which lanes no domain of the fixed weights has left, bool [L]; there, epochs are exact."""
        assert self.part_LK is not None
        return np.asarray(~(self.left_LK(cursor) & (self.part_LK > 0)).any(axis=1))

    def first_credit(self, cursor: Cursor) -> Int64:
        """Return the credits at the start of the epoch of `cursor`; of no meaning where a domain has left the lane."""
        assert self.part_LK is not None
        rows, unit = cursor.step_in_epoch * (self.global_batch_size // self.lanes), self._unit
        return moved_credit(cursor.credit_LK, self.part_LK, (cursor.base_LK - cursor.drawn_LK) // unit, -(rows // unit))

    @property
    def _unit(self) -> int:
        """Rows of a lane that are dealt at once; the credits are in parts of so many."""
        return 1 if self.stretch is None else self.stretch.rows

    def _begin(self, cursor: Cursor) -> Cursor:
        """Return the cursor at the start of the next epoch; `cursor` is at the end of its own."""
        after = replace(cursor, epoch=cursor.epoch + 1, step_in_epoch=0)
        if self.part_LK is None or self.quotas is None:
            return after if self.part_LK is None else replace(after, base_LK=cursor.drawn_LK)
        # An epoch begins where the quota of the last one ends, whether its last batch was dropped or filled with
        # repeats. Once a domain has left a lane, epochs are no longer exact there, and draws continue.
        exact_L = self._complete_L(cursor)[:, None]
        moved_LK = self.quotas.before_drops(self.first_credit(cursor))
        base_LK = np.where(exact_L, cursor.base_LK + moved_LK, cursor.drawn_LK)
        credit_LK = cursor.credit_LK
        if self.in_order:  # credits decide nothing
            credit_LK = np.where(exact_L, self._fresh_credit(None)[0], credit_LK)
        quota_LK = self.quotas.of_epoch(credit_LK)
        return replace(after, base_LK=base_LK, drawn_LK=base_LK, credit_LK=credit_LK, quota_LK=quota_LK)

    def _fresh_credit(self, weight_K: Int64 | None) -> tuple[Int64, Int64]:
        """Return the credits of step 0, int64 [L, K], and the sums of the weights that they are parts of, int64 [L]."""
        part_LK = self.part_LK
        if part_LK is not None:
            total_L = part_LK.sum(axis=1)
        elif weight_K is not None:
            part_LK, total_L = np.tile(weight_K, (self.lanes, 1)), np.full(self.lanes, WEIGHT_UNIT, dtype=np.int64)
        else:
            raise ConfigError("this plan takes its weights by step: pass weight_K, those of the first step")
        if self.stretch is not None:
            return self.stretch.fresh_credit(part_LK[0], self.lanes), total_L
        return stagger(part_LK), total_L
