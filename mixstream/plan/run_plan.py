"""What a run draws, for all ranks, and which part of it is this rank's. Integers only: no file, no store, no mixer.

A `RunPlan` is what every rank must agree on. It numbers the domains in the plan's order and the shards over all domains
in that order; forecasts, addresses and states use these numbers.

Shape suffixes: K domains.
"""

from collections import Counter
from typing import TYPE_CHECKING, Protocol

import numpy as np

from mixstream.cached import cached_property
from mixstream.errors import ConfigError
from mixstream.lazy import later
from mixstream.plan.addressing import Addressing, View, WholeShards
from mixstream.plan.plan import Plan
from mixstream.plan.shuffle import Order
from mixstream.plan.stretches import Stretch
from mixstream.plan.weights import normalise, whole_shares
from mixstream.records import dataclass
from mixstream.types import Float64, Int64
from mixstream.world import World

if TYPE_CHECKING:
    from mixstream.plan.fixed_sample import FixedSample
    from mixstream.plan.selection import KeptRows
else:
    (FixedSample,) = later("mixstream.plan.fixed_sample", "FixedSample")
    (KeptRows,) = later("mixstream.plan.selection", "KeptRows")


class PlannedDomain(Protocol):
    """What a plan knows of a domain."""

    @property
    def name(self) -> str:
        """The domain's name, which is a part of its random keys."""
        ...

    @property
    def fingerprint(self) -> str:
        """Identifies the domain's content; states hold it."""
        ...

    @property
    def view(self) -> View:
        """Which samples of its shards count."""
        ...


@dataclass(frozen=True, kw_only=True)
class RunPlan:
    """What a run draws, and which rows of each global batch are this rank's.

    Two domains of two shards each, two ranks of two rows a step; seen from rank 1:

    >>> from types import SimpleNamespace as Record
    >>> from mixstream.plan.addressing import WholeShards
    >>> run_plan = RunPlan(
    ...     domains=(
    ...         Record(name="code", fingerprint="c0de", view=WholeShards(samples_S=np.array([3, 2]))),
    ...         Record(name="web", fingerprint="3eb0", view=WholeShards(samples_S=np.array([6, 9]))),
    ...     ),
    ...     choose_K=np.array([5, 15]), epoch_size=20, max_epochs_K=(None, None), by_step=False, in_order=False,
    ...     shuffle=False, shuffle_seed=17, block_size=4, drop_last=False, mixer="static", lag=None,
    ...     world=World(rank=1, size=2), batch_size=2, lanes=1,
    ... )
    >>> run_plan.plan.steps_per_epoch, run_plan.part, run_plan.prior_K.tolist()
    (5, slice(2, 4, None), [0.25, 0.75])
    >>> cursor, rows = run_plan.plan.advance(run_plan.plan.start())
    >>> rows.domain_B.tolist(), rows.draw_B.tolist()
    ([1, 1, 0, 1], [0, 1, 0, 2])
    >>> (mine,) = run_plan.addressing.locate([rows], run_plan.part)  # shards 0 and 1 are code's, 2 and 3 are web's
    >>> mine.shard_B.tolist(), mine.row_B.tolist()
    ([0, 2], [0, 2])

    Args:
        domains: in the plan's order.
        choose_K: int64 [K], rows that an epoch takes from each domain; about these where there are shares.
        epoch_size: rows of an epoch.
        max_epochs_K: passes over each domain after which it leaves the mix; None for no limit.
        by_step: True if weights are given step by step, False if they are those of `share_K` or `choose_K`.
        in_order: True reads domains one after the other instead of mixing them.
        shuffle: whether samples are shuffled.
        shuffle_seed: the seed from which all random numbers derive.
        block_size: samples within which a lane's order is mixed.
        drop_last: True drops the rows that do not fill an epoch's last batch.
        mixer: the name of the mixing method in states.
        lag: the lag of a learning mixer, in steps; None for other mixing.
        world: the ranks after replication.
        batch_size: rows per rank and step.
        lanes: independent paths through the shards.
        source_K: the source of each domain (`addressing.shard_offsets`); each its own if not given.
        share_K: int64 [K], fixed weights (with `by_step`, the prior) in whole parts; None if they are `choose_K`.
        family_K: the stream that each domain is a bucket of; None for a domain that is none, or for all of them.
        fixed_LK: int64 [L, K], samples that each lane owns, if a state fixed them (`state_carry`).
        stretch: neighbouring rows of a global batch that have one domain; None if rows are mixed one by one. An epoch
            then has the whole batches that its rows fill, and what it takes from each domain are shares.

    Raises:
        ConfigError: `batch_size` is not a whole number of at least 1.
    """

    domains: tuple[PlannedDomain, ...]
    choose_K: Int64
    epoch_size: int
    max_epochs_K: tuple[float | None, ...]
    by_step: bool
    in_order: bool
    shuffle: bool
    shuffle_seed: int
    block_size: int
    drop_last: bool
    mixer: str
    lag: int | None
    world: World
    batch_size: int
    lanes: int
    source_K: tuple[int, ...] | None = None
    family_K: tuple[str | None, ...] | None = None
    share_K: Int64 | None = None
    fixed_LK: Int64 | None = None
    stretch: int | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.batch_size, int) or self.batch_size < 1:
            raise ConfigError(
                f"Please pass `batch_size` to StreamingDataset (rows per rank and step, a whole number >= 1; got "
                f"{self.batch_size!r}): the plan is made of global batches"
            )

    @cached_property
    def names(self) -> tuple[str, ...]:
        """The domains' names, in the plan's order."""
        return tuple(domain.name for domain in self.domains)

    @property
    def fingerprints(self) -> list[str]:
        """The domains' fingerprints, in the plan's order."""
        return [domain.fingerprint for domain in self.domains]

    @property
    def selections(self) -> list[str | None]:
        """The ids of the domains' selections, packings and samples, in the plan's order; None for one read whole."""
        views = [domain.view for domain in self.domains]
        return [view.id if isinstance(view, KeptRows | FixedSample | WholeShards) else None for view in views]

    @cached_property
    def plan(self) -> Plan:
        """What the run draws, step by step."""
        share_K, size, stretch = self.share_K, self.batch_size * self.world.size, None
        if self.stretch is not None:
            share_K = whole_shares(self.choose_K) if share_K is None else share_K
            stretch = Stretch.of(self.stretch, global_batch_size=size, lanes=self.lanes)
        return Plan(
            names=self.names,
            samples_K=np.array([int(domain.view.samples_S.sum()) for domain in self.domains], dtype=np.int64),
            choose_K=None if self.by_step or share_K is not None else self.choose_K,
            share_K=None if self.by_step else share_K,
            epoch_size=self.epoch_size,
            global_batch_size=size,
            lanes=self.lanes,
            drop_last=self.drop_last or stretch is not None,
            in_order=self.in_order,
            max_epochs_K=self.max_epochs_K if any(self.max_epochs_K) else None,
            fixed_LK=self.fixed_LK,
            stretch=stretch,
        )

    @cached_property
    def addressing(self) -> Addressing:
        """Draws to addresses."""
        family_K = self.family_K or (None,) * len(self.domains)
        orders = tuple(
            Order(
                name=domain.name,
                seed=self.shuffle_seed,
                samples_S=domain.view.samples_S,
                owned_L=self.plan.owned_LK[:, k],
                shuffle=self.shuffle,
                block_size=block_size,
                family=family,
            )
            for k, (domain, family, block_size) in enumerate(zip(self.domains, family_K, self.block_size_K))
        )
        views = tuple(domain.view for domain in self.domains)
        return Addressing(orders=orders, views=views, lanes=self.lanes, source_K=self.source_K)

    @cached_property
    def block_size_K(self) -> tuple[int, ...]:
        """Samples within which the order of each domain is mixed: for a bucket, its part of its stream's window."""
        samples_K = self.plan.samples_K.tolist()
        if self.family_K is None:
            return (self.block_size,) * len(samples_K)
        of_family = Counter[str | None]()
        for family, samples in zip(self.family_K, samples_K):
            of_family[family] += samples
        return tuple(
            self.block_size if family is None else max(self.block_size * samples // of_family[family], 1)
            for family, samples in zip(self.family_K, samples_K)
        )

    @property
    def rank_facts(self) -> dict[str, int | None]:
        """What ranks have to agree on besides the settings of a state, by name."""
        return {}

    @property
    def part(self) -> slice:
        """This rank's rows of a global batch."""
        return slice(self.world.rank * self.batch_size, (self.world.rank + 1) * self.batch_size)

    @cached_property
    def prior_K(self) -> Float64:
        """Weights before any feedback, float64 [K]: those of the streams."""
        return normalise(self.choose_K if self.share_K is None else self.share_K)
