"""A run in the order of Megatron-LM, step by step: `Plan` and `RunPlan` with its blend in place of our mixing.

Rules. A domain's draws are its samples in the order of its shuffle index, so draw n means what it means elsewhere, and
cursor, state, forecast and addresses are those of our own order, with one lane. There is one epoch: `epoch_size`
samples, of which the blend says the domain. Its last samples, if they fill no global batch, are not read, as there.

A step takes the next `global_batch_size` samples. Megatron deals them out to the ranks in micro-batches (`chunk_rows`
rows each): first one to each rank, then the next to each. A rank's rows are neighbours here, so the rows of a global
batch stand in the order of the ranks.

Shape suffixes: B rows of the global batch, K domains.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from mixstream.cached import cached_property
from mixstream.errors import ConfigError
from mixstream.plan.megatron.blend import Blend
from mixstream.plan.plan import Plan
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.weights import normalise, whole_shares
from mixstream.records import dataclass
from mixstream.types import Cursor, Float64, Int64, Rows


def by_ranks(rows_B: np.ndarray, *, ranks: int, chunk_rows: int) -> np.ndarray:
    """Return consecutive samples in the order of the ranks that read them.

    Two ranks with micro-batches of 2 rows and 2 micro-batches a step:

    >>> by_ranks(np.arange(8), ranks=2, chunk_rows=2).tolist()
    [0, 1, 4, 5, 2, 3, 6, 7]

    Args:
        rows_B: [B], consecutive samples.
        ranks: that read them, each as many.
        chunk_rows: rows of a micro-batch of one rank.
    """
    return rows_B.reshape(-1, ranks, chunk_rows).swapaxes(0, 1).reshape(-1)


@dataclass(frozen=True, kw_only=True)
class MegatronPlan(Plan):
    """What a run draws, step by step; further arguments than those of `Plan`:

    Args:
        blend: of which domain each sample is.
        ranks: that read a global batch.
        chunk_rows: rows of a micro-batch of one rank.
    """

    blend: Blend
    ranks: int = 1
    chunk_rows: int

    def advance(self, cursor: Cursor, weight_K: Int64 | None = None) -> tuple[Cursor, Rows] | None:
        """Return the cursor after the next step and the step's rows; None at the end of the run."""
        del weight_K
        cursor = self.settle(cursor)
        if cursor.epoch or int(cursor.drawn_LK.sum()) + self.global_batch_size > self.epoch_size:
            return None
        domain_B = np.empty(self.global_batch_size, dtype=np.int32)
        draw_B = np.empty(self.global_batch_size, dtype=np.int64)
        drawn_LK = cursor.drawn_LK.copy()
        self.blend.deal(drawn_LK[0], domain_B, draw_B)
        if self.chunk_rows * self.ranks != len(draw_B):
            domain_B, draw_B = (by_ranks(a, ranks=self.ranks, chunk_rows=self.chunk_rows) for a in (domain_B, draw_B))
        after = replace(cursor, step=cursor.step + 1, step_in_epoch=cursor.step_in_epoch + 1, drawn_LK=drawn_LK)
        return after, Rows(step=cursor.step, domain_B=domain_B, draw_B=draw_B)

    def advance_steps(self, cursor: Cursor, most: int) -> list[tuple[Rows, Cursor]]:
        """Return nothing: steps are planned one by one."""
        del cursor, most
        return []

    def at_step(self, step: int) -> Cursor:
        """Return the cursor after `step` steps; takes O(samples before it) time."""
        drawn_LK = self.blend.taken(step * self.global_batch_size)[None]
        return replace(self.start(), step=step, step_in_epoch=step, drawn_LK=drawn_LK)

    def at_epoch(self, cursor: Cursor, epoch: int) -> Cursor:
        """Return the cursor at the start of `epoch`: of epoch 0, or behind all steps, where the run is over."""
        if not epoch:
            return self.start()
        return (
            cursor
            if cursor.epoch == epoch
            else replace(self.at_step(self.steps_per_epoch), epoch=epoch, step_in_epoch=0)
        )

    @property
    def end(self) -> str:
        """What is said where the run is over."""
        return (
            f'order="megatron" reads {self.epoch_size:,} samples once, in {self.steps_per_epoch:,} steps, and they '
            "have been read: end the training here. A larger epoch_size (train_iters x global batch size) is another "
            "order from its beginning on"
        )


@dataclass(frozen=True, kw_only=True)
class MegatronRunPlan(RunPlan):
    """What the ranks draw; further arguments than those of `RunPlan`:

    Args:
        blend: of which domain each sample is.
        micro_batch_size: rows of a micro-batch; None for `batch_size`.

    Raises:
        ConfigError: `batch_size` is no multiple of it, or the run has no whole step.
    """

    blend: Blend
    micro_batch_size: int | None

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.micro_batch_size is not None and self.batch_size % self.micro_batch_size:
            raise ConfigError(
                f"batch_size={self.batch_size} is no multiple of micro_batch_size={self.micro_batch_size}: give the "
                "dataset batch_size=global_batch_size / data-parallel size"
            )
        if self.epoch_size < (size := self.batch_size * self.world.size):
            raise ConfigError(
                f"a run of {self.epoch_size} samples has no global batch of {size} rows: give epoch_size=, Megatron's "
                "train_iters x global batch size, or lower batch_size"
            )

    @classmethod
    def of(cls, run_plan: RunPlan, *, blend: Blend, micro_batch_size: int | None) -> MegatronRunPlan:
        """Return `run_plan` with the blend in place of its mixing."""
        fields = {name: getattr(run_plan, name) for name in run_plan.__dataclass_fields__}
        return cls(**fields, blend=blend, micro_batch_size=micro_batch_size)

    @property
    def rank_facts(self) -> dict[str, int | None]:
        """See `RunPlan`: ranks that deal out other micro-batches would read rows twice, and never."""
        return {"MegatronOrder(micro_batch_size)": self.micro_batch_size or self.batch_size}

    @cached_property
    def prior_K(self) -> Float64:
        """The shares of the blend, float64 [K]; what it takes of each domain is about these."""
        return normalise(whole_shares(self.blend.weight_K))

    @cached_property
    def plan(self) -> Plan:
        """What the run draws, step by step."""
        return MegatronPlan(
            names=self.names,
            samples_K=np.array([int(domain.view.samples_S.sum()) for domain in self.domains], dtype=np.int64),
            choose_K=None,
            share_K=whole_shares(self.blend.weight_K),
            epoch_size=self.epoch_size,
            global_batch_size=self.batch_size * self.world.size,
            drop_last=True,
            blend=self.blend,
            ranks=self.world.size,
            chunk_rows=self.micro_batch_size or self.batch_size,
        )
