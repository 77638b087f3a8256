"""A dataset that replays a logged run: what it takes from the log in place of its own settings.

Shape suffixes: K domains.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from mixstream.errors import ConfigError
from mixstream.feedback.logged_plan import LoggedPlan
from mixstream.lazy import later
from mixstream.loader.epoch_counts import EpochCounts
from mixstream.loader.stream import Stream
from mixstream.plan.run_plan import RunPlan
from mixstream.plan.skips import Skips
from mixstream.plan.weights import apportion
from mixstream.types import Int64

if TYPE_CHECKING:
    from mixstream.feedback.replay import Replay
    from mixstream.mixers.static import by_name
else:
    (Replay,) = later("mixstream.feedback.replay", "Replay")
    (by_name,) = later("mixstream.mixers.static", "by_name")


def fixed_plan(mixer: Any) -> LoggedPlan | None:
    """Return the plan of the run that `mixer` replays if its weights were fixed; None for any other mixer."""
    return mixer.plan if isinstance(mixer, Replay) and mixer.plan is not None and mixer.plan.fixed else None


def logged_lanes(mixer: Any) -> int | None:
    """Return the lanes of the run that `mixer` replays; None for any other mixer."""
    return mixer.plan.lanes if isinstance(mixer, Replay) and mixer.plan is not None else None


def logged_skips(mixer: Any) -> Skips:
    """Return the steps that the run left out that `mixer` replays; none for any other mixer."""
    return mixer.skips if isinstance(mixer, Replay) else Skips()


def logged_counts(
    plan: LoggedPlan, streams: Sequence[Stream], samples: Sequence[int], *, epoch_size: int | None, order_K: Int64
) -> EpochCounts:
    """Return what an epoch of the logged run took from each domain; as `stream.epoch_counts`, also for `streams`.

    Raises:
        ConfigError: the log has other domains, or epochs of another size than is asked for.
    """
    if epoch_size not in (None, plan.epoch_size):
        raise ConfigError(
            f"epoch_size={epoch_size}, and the run whose log is replayed had epochs of {plan.epoch_size} rows: leave "
            "out epoch_size"
        )
    names = tuple(str(stream.name) for stream in streams)
    table = plan.choose or plan.shares
    by_name(table, names, what="the log")
    listed_K = np.array([table[name] for name in names], dtype=np.int64)
    chosen_K = listed_K if plan.choose else apportion(plan.epoch_size, listed_K)
    for stream, chosen, size in zip(streams, chosen_K.tolist(), samples):
        repeat = chosen / size if size else 0.0
        stream.show(choose=chosen, proportion=chosen / plan.epoch_size, repeat=repeat)
    return EpochCounts(
        rows=plan.epoch_size, choose_K=chosen_K[order_K], share_K=None if plan.choose else listed_K[order_K]
    )


def warn_of_other_settings(mixer: Any, run_plan: RunPlan) -> None:
    """Warn if `mixer` replays a run of other settings or data than those of `run_plan`, whose rows were others."""
    if isinstance(mixer, Replay):
        plan = run_plan.plan
        samples = dict(zip(plan.names, plan.samples_K.tolist()))
        mixer.warn_of_another_plan(LoggedPlan.of(run_plan), plan.global_batch_size, samples=samples)
