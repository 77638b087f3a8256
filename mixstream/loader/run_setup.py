"""From a dataset's options to a run in our own order.

Shape suffixes: K domains.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixstream.data.bad_samples import Quarantine
from mixstream.data.domain import Domain
from mixstream.data.domains import Domains
from mixstream.data.predownload import warn_of_refetching
from mixstream.errors import ConfigError
from mixstream.feedback.logged_plan import LoggedPlan
from mixstream.lazy import later
from mixstream.loader.epoch_counts import EpochCounts, epoch_counts, weighted
from mixstream.loader.replayed import fixed_plan, logged_counts, logged_lanes, warn_of_other_settings
from mixstream.loader.run import Run, mixing_method
from mixstream.loader.stream import Stream, bound
from mixstream.mixers import Mixer, OpenLoop, Static
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.shuffle import window_size
from mixstream.plan.stretches import fitting_lanes
from mixstream.records import dataclass
from mixstream.world import World

if TYPE_CHECKING:
    from mixstream.plan.fixed_sample import sampled
    from mixstream.plan.state_carry import with_shares
    from mixstream.plan.state_record import RunState, Settings
else:
    (sampled,) = later("mixstream.plan.fixed_sample", "sampled")
    (with_shares,) = later("mixstream.plan.state_carry", "with_shares")
    RunState, Settings = later("mixstream.plan.state_record", "RunState", "Settings")


@dataclass(frozen=True, kw_only=True)
class Mixing:
    """How the domains of a dataset are mixed.

    Attributes:
        policy: makes the weights; None for those of the streams, or of a log.
        logged: the plan that is replayed, if the weights of its run were fixed.
        in_order: whether domains are read one after the other, as they are listed.
    """

    policy: Mixer | OpenLoop | Static | None
    logged: LoggedPlan | None
    in_order: bool

    @classmethod
    def of(cls, dataset: Any, found: Sequence[Domain], *, epoch_size: int | None) -> Mixing:
        """Return the mixing of `dataset`, whose streams are the domains `found`.

        Raises:
            ConfigError: the mixer is none, or does not go with the other options.
        """
        mixer, policy = dataset.mixer, bound(dataset.mixer, found)
        weighs = weighted(dataset.streams, policy, epoch_size)
        if (logged := fixed_plan(policy)) is not None:
            policy = None
        if dataset.sampling_method == "fixed" and isinstance(policy, Mixer | OpenLoop):
            raise ConfigError(
                f'sampling_method="fixed" takes the same samples in each epoch, and {type(mixer).__name__} changes how '
                'many an epoch takes: use sampling_method="balanced", or fixed weights'
            )
        by_domain = dataset.batching_method != "random"
        in_order = not (dataset.shuffle or weighs or policy is not None or by_domain)
        in_order = (in_order if logged is None else logged.in_order) or dataset.order == "mosaic"
        return cls(policy=policy, logged=logged, in_order=in_order)

    def counts(self, streams: Sequence[Stream], domains: Domains, *, epoch_size: int | None, seed: int) -> EpochCounts:
        """Return what an epoch takes from each domain (for a learning mixer, the prior), also for `streams`."""
        samples = [domain.samples for domain in domains.listed]
        size: dict[str, Any] = {"epoch_size": epoch_size, "order_K": domains.listed_K}
        if self.logged is not None:
            return logged_counts(self.logged, streams, samples, **size)
        return epoch_counts(streams, samples, mixer=self.policy, seed=seed, **size)

    def planned(self, run_plan: RunPlan) -> RunPlan:
        """Return `run_plan`, or another plan of the same ranks and domains that this mixing has instead."""
        return run_plan


def run_of(
    dataset: Any,
    mixing: Mixing,
    counts: EpochCounts,
    world: World,
    *,
    state: RunState | None,
    quarantine: Quarantine,
) -> Run:
    """Return the run that the ranks `world` of the job make of a dataset.

    Args:
        dataset: its options and domains.
        mixing: how the domains are mixed.
        counts: what an epoch takes from each domain.
        world: the ranks.
        state: that the run goes on from, which has settings of its own; None at its beginning.
        quarantine: what is set aside.

    Raises:
        ConfigError: the dataset has no batch size, or an option does not fit the ranks.
    """
    domains, mixer = dataset.domains, mixing.policy
    saved, lanes = state.settings if state is not None else None, dataset.num_canonical_nodes
    if lanes is None:
        lanes = state.num_canonical_nodes if state is not None else logged_lanes(dataset.mixer) or world.nodes
    reading = dataset.reading(world)
    lanes, stretch = _lanes_and_stretch(
        lanes,
        given=dataset.num_canonical_nodes,
        method=dataset.batching_method,
        world=reading,
        batch_size=dataset.batch_size,
        saved=saved,
    )
    planned = domains.domains
    if fixed := dataset.sampling_method == "fixed":
        chosen = zip(planned, counts.choose_K.tolist())
        planned = tuple(sampled(domain, samples=n, seed=dataset.shuffle_seed) for domain, n in chosen)
    run_plan = RunPlan(
        domains=planned,
        choose_K=counts.choose_K,
        share_K=None if fixed else counts.share_K,
        epoch_size=dataset.epoch_size,
        max_epochs_K=tuple(dataset.streams[k].max_epochs for k in domains.listed_K.tolist()),
        by_step=mixer is not None and not isinstance(mixer, Static),
        in_order=mixing.in_order,
        shuffle=dataset.shuffle,
        shuffle_seed=dataset.shuffle_seed,
        block_size=window_size(dataset.shuffle_algo, dataset.shuffle_block_size, lanes),
        drop_last=dataset.drop_last,
        mixer=mixing_method(mixer, in_order=mixing.in_order, saved=saved.mixer if saved is not None else None),
        lag=dataset.lag if isinstance(mixer, Mixer) else None,
        world=reading,
        batch_size=dataset.batch_size,
        lanes=lanes,
        source_K=domains.source_K,
        family_K=tuple(domain.whole.name if domain.whole is not None else None for domain in domains),
        stretch=stretch,
    )
    run_plan = mixing.planned(run_plan)
    if state is not None:
        run_plan = with_shares(run_plan, state)
    warn_of_other_settings(dataset.mixer, run_plan)
    _warn_of_small_domains(run_plan)
    warn_of_refetching(run_plan, domains, dataset.cache_limit)
    return Run(
        run_plan=run_plan, domains=domains, mixer=mixer, on_bad_sample=dataset.on_bad_sample, quarantine=quarantine
    )


def _lanes_and_stretch(
    lanes: int, *, given: int | None, method: str, world: World, batch_size: int | None, saved: Settings | None
) -> tuple[int, int | None]:
    """Return the lanes of a run, and how many neighbouring rows of a global batch have one domain; None if any may.

    Args:
        lanes: as many as there should be.
        given: `num_canonical_nodes` of the dataset; None takes those of a state.
        method: `batching_method` of the dataset.
        world: the ranks.
        batch_size: rows per rank and step; with None, there is no run yet.
        saved: the settings of the state that the run goes on from; None if there is none.
    """
    if not isinstance(batch_size, int):  # which `RunPlan` refuses
        return lanes, None
    size, stretch = batch_size * world.size, None
    if method == "per_stream":
        stretch = size
    elif method == "device_per_stream":
        stretch = batch_size
        if saved is not None and isinstance(saved.stretch, int) and saved.global_batch_size == size:
            stretch = saved.stretch  # of the ranks that the run began with: batches do not change with ranks
    if stretch is not None and batch_size > stretch:
        warnings.warn(
            f"batching_method={method!r}: the run began with ranks of {stretch} rows each, and goes on with the same "
            f"global batches. A rank has {batch_size} rows of them now, of up to {batch_size // stretch} domains; for "
            f"one domain, go on with {size // stretch} ranks or a multiple of them",
            stacklevel=4,
        )
    if given is None and saved is not None:
        return lanes, stretch
    fitting = fitting_lanes(lanes, global_batch_size=size, stretch=stretch)
    if fitting != lanes:
        warnings.warn(
            f"{lanes} lanes (num_canonical_nodes) cannot share a global batch of {size} rows evenly, so there are "
            f"{fitting}: to have more, choose a number that divides batch_size x world size",
            stacklevel=4,
        )
    return fitting, stretch


def _warn_of_small_domains(run_plan: RunPlan) -> None:
    """Warn of domains that have fewer samples than a batch takes of them: it has some of them twice."""
    if run_plan.stretch is None:
        return
    stretch = run_plan.plan.stretch
    assert stretch is not None
    small_K = (run_plan.plan.owned_LK < stretch.rows).any(axis=0) & (run_plan.plan.samples_K > 0)
    if names := [run_plan.names[k] for k in np.flatnonzero(small_K & (run_plan.prior_K > 0)).tolist()]:
        warnings.warn(
            f"the domains {names} have fewer samples than the {run_plan.stretch} rows of one domain in a batch, so a "
            "batch has some of their samples more than once: lower batch_size, join them to other domains, or pass "
            "batching_method='random'",
            stacklevel=4,
        )
