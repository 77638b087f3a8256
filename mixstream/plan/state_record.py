"""The document of a run's position: its fields, as `state.parse_state` has checked them."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import UNSET, UnsetType

from mixstream.plan.skips import Skips

Count = Annotated[int, msgspec.Meta(ge=0, le=1 << 62)]
Positive = Annotated[int, msgspec.Meta(ge=1, le=1 << 62)]
SkippedRange = Annotated[list[Count], msgspec.Meta(min_length=2, max_length=2)]
Carry = Annotated[int, msgspec.Meta(ge=-(1 << 62), le=1 << 62)]

PACKING = "packing"
"""The first word of the id of a view of packed rows, which states hold where others have that of a selection."""


class DomainState(msgspec.Struct, frozen=True, kw_only=True):
    """The state of one domain: `drawn`, `base` and `credit` have one number per lane (`types.Cursor`).

    A domain that is read whole has no `selection` in its state. Only one of fixed weights has a `share`, in whole
    parts. `owned`, the samples of each lane, is there only where it is not what `weights.deal` makes of the samples of
    all domains.

    Only a run that took over draws of another one (`strict=False`) has `began`, the draws of each lane there.
    """

    name: str
    fingerprint: str
    samples: Count
    choose: Count
    max_epochs: float | None
    drawn: list[Count]
    base: list[Count]
    credit: list[Carry]
    selection: str | UnsetType = UNSET
    share: Count | UnsetType = UNSET
    owned: list[Count] | UnsetType = UNSET
    began: list[Count] | UnsetType = UNSET


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    """The settings that a run must share with the run that saved its state; its domains are compared separately.

    Only a run whose batches are made of `plan.stretches` has a `stretch`, in rows of the global batch.
    """

    shuffle_seed: int
    num_canonical_nodes: Positive
    global_batch_size: Positive
    shuffle: bool
    shuffle_block_size: int
    epoch_size: Count
    drop_last: bool
    mixer: str
    lag: int | None
    stretch: Positive | UnsetType = UNSET


class SetAside(msgspec.Struct, frozen=True, kw_only=True):
    """A sample, or with row None a whole shard, that cannot be read and is replaced."""

    domain: str
    shard: Count
    row: Count | None


class IteratorState(msgspec.Struct, frozen=True, kw_only=True):
    """The place of an iterator that `Cursor` cannot name: within a step, or that of one of several DataLoader workers.

    Attributes:
        epoch: the epoch that is iterated; the rest of the state lies in the next one if all of it was handed out.
        rows: rows of each rank's part of the next step that are handed out.
        batch_rows: rows of such a part.
        worker: the DataLoader worker whose place it is, from 0.
        workers: DataLoader workers, or 1 without any.
        batch_size: samples that the DataLoader takes from one worker before it turns to the next.
        phase: rows since the last turn of worker 0 began.
    """

    epoch: Count
    rows: Count
    batch_rows: Positive
    worker: Count
    workers: Positive
    batch_size: Positive
    phase: Count


class Began(msgspec.Struct, frozen=True, kw_only=True):
    """Where a run took over draws of another one: the step, and the epoch that began there (`types.Origin`)."""

    step: Count
    epoch: Count


class RunState(msgspec.Struct, frozen=True, kw_only=True):
    """The document, as `parse_state` has checked it.

    Only a run that leaves steps out has `skipped`: pairs (first, end), those that were passed and those to come.
    Only a run that took over draws of another one has `began`.
    """

    mixstream: int
    epoch: Count
    sample_in_epoch: Count
    num_canonical_nodes: Positive
    shuffle_seed: int
    initial_physical_nodes: int | None
    step: Count
    repeats: Count
    settings: Settings
    domains: list[DomainState]
    total: list[Positive]
    mixing: dict[str, Any] | None
    quarantined: list[SetAside] = []
    iterator: IteratorState | UnsetType = UNSET
    skipped: list[SkippedRange] | UnsetType = UNSET
    began: Began | UnsetType = UNSET

    @property
    def skips(self) -> Skips:
        """The steps that are left out."""
        return Skips() if self.skipped is UNSET else Skips.of(self.skipped)

    @property
    def mixing_origin(self) -> int | None:
        """The step at which a learning mixer began; None if none learns, or the state does not say so."""
        origin = None if self.mixing is None else self.mixing.get("origin")
        return origin if isinstance(origin, int) else None
