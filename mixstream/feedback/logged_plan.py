"""What a mixing log says of the plan of its run: all that decides rows besides the weights of each step.

Fixed weights are not drawn as weights by step: an epoch takes whole rows of each domain, or holds shares of finer parts
(`plan.Plan`). A replay needs these counts or shares, and the other settings have to be those of the run.

Shape suffixes: K domains.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING

import msgspec

from mixstream.types import Int64

if TYPE_CHECKING:  # so that reading a log does not compile the kernels
    from mixstream.plan.run_plan import RunPlan


def other_samples(was: Mapping[str, int], now: Mapping[str, int]) -> Iterator[tuple[str, str]]:
    """Yield a line and a remedy if domains of both runs have other numbers of samples; one line for all of them.

    >>> list(other_samples({"code": 1059, "web": 9}, {"code": 68, "law": 3}))
    [("domain 'code' had 1059 samples, now 68", 'the data of that run')]
    """
    if other := [name for name, size in sorted(was.items()) if now.get(name, size) != size]:
        more = f"; so with {len(other) - 1} more" if len(other) > 1 else ""
        yield f"domain {other[0]!r} had {was[other[0]]} samples, now {now[other[0]]}{more}", "the data of that run"


def warn_of_others(found: Sequence[tuple[str, str]]) -> None:
    """Warn of what makes a replay draw other rows: pairs of a line and what to write instead."""
    if found:
        warnings.warn(
            "the log that is replayed was written by a run with other settings or data: the weights of each step are "
            "the same, its rows are not:\n  - "
            + "\n  - ".join(line for line, _ in found)
            + f"\nFor the batches of that run, give {', '.join(remedy for _, remedy in found)}",
            stacklevel=5,
        )


class LoggedPlan(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """The settings of a run that decide its rows; by domain where they are of domains.

    Args:
        shuffle_seed: the seed.
        lanes: independent paths through the shards.
        shuffle: whether samples are shuffled.
        shuffle_block_size: samples within which they are, if so.
        epoch_size: rows of an epoch.
        drop_last: whether an epoch drops the rows that do not fill its last batch.
        in_order: whether domains are read one after the other.
        choose: rows that an epoch takes of each domain, where these are fixed.
        shares: weights in whole parts, where these are fixed and an epoch takes no fixed rows.
        max_epochs: of the domains that have a limit.
        views: ids of selections and fixed samples.
        begun_by: weights in parts of `WEIGHT_UNIT` by which lanes were staggered, where those of step 0 came later.
        stretch: neighbouring rows of a global batch that have one domain; 0 if rows are mixed one by one.
        carried: whether the run went on from a state of another run (`strict=False`) at the step of the header.
    """

    shuffle_seed: int
    lanes: int
    shuffle: bool
    shuffle_block_size: int
    epoch_size: int
    drop_last: bool = False
    in_order: bool = False
    choose: dict[str, int] = {}
    shares: dict[str, int] = {}
    max_epochs: dict[str, float] = {}
    views: dict[str, str] = {}
    begun_by: dict[str, int] = {}
    stretch: int = 0
    carried: bool = False

    @classmethod
    def of(cls, run_plan: RunPlan, *, begun_by_K: Int64 | None = None, carried: bool = False) -> LoggedPlan:
        """Return what a log says of `run_plan`; the other arguments are those of the class."""
        plan, names = run_plan.plan, run_plan.names
        limits, views = zip(names, run_plan.max_epochs_K), zip(names, run_plan.selections)
        return cls(
            shuffle_seed=run_plan.shuffle_seed,
            lanes=run_plan.lanes,
            shuffle=run_plan.shuffle,
            shuffle_block_size=run_plan.block_size,
            epoch_size=run_plan.epoch_size,
            drop_last=run_plan.drop_last,
            in_order=run_plan.in_order,
            choose={} if plan.choose_K is None else dict(zip(names, plan.choose_K.tolist())),
            shares={} if plan.share_K is None else dict(zip(names, plan.share_K.tolist())),
            max_epochs={name: limit for name, limit in limits if limit is not None},
            views={name: view for name, view in views if view is not None},
            begun_by={} if begun_by_K is None else dict(zip(names, begun_by_K.tolist())),
            stretch=run_plan.stretch or 0,
            carried=carried,
        )

    @property
    def fixed(self) -> bool:
        """Whether weights are fixed, so that they are counts or shares of an epoch."""
        return bool(self.choose or self.shares)

    def others(self, now: LoggedPlan) -> Iterator[tuple[str, str]]:
        """Yield what makes a run draw other rows whose plan is `now`: a line, and what to write instead."""
        settings = [("lanes", "num_canonical_nodes={}"), ("shuffle", "shuffle={}")]
        if self.shuffle == now.shuffle is True:
            settings += [
                ("shuffle_seed", "shuffle_seed={}"),
                ("shuffle_block_size", "shuffle_algo='py1e', shuffle_block_size={}"),
            ]
        if self.choose:
            settings.append(("drop_last", "drop_last={}"))
        for name, remedy in settings:
            was, is_now = getattr(self, name), getattr(now, name)
            if was != is_now:
                yield f"{name} was {was!r}, now {is_now!r}", remedy.format(was)
        for name in sorted({*self.max_epochs, *now.max_epochs}):
            was, limit = self.max_epochs.get(name), now.max_epochs.get(name)
            if was != limit:
                yield f"max_epochs of {name!r} was {was}, now {limit}", f"Stream(name={name!r}, max_epochs={was})"
        if self.stretch != now.stretch:
            was = (
                f"{self.stretch} rows of a global batch had one domain"
                if self.stretch
                else "rows were mixed one by one"
            )
            yield was, "batching_method='per_stream'" if self.stretch else "batching_method='random'"
        if self.in_order and list(self.choose) != list(now.choose):
            yield f"domains were read in the order {list(self.choose)}", "streams in that order"
        fixed = {name for name, view in self.views.items() if view.startswith("fixed ")}
        if fixed != {name for name, view in now.views.items() if view.startswith("fixed ")}:
            kind = "fixed" if fixed else "balanced"
            yield f"sampling_method was {kind!r}, now another", f"sampling_method={kind!r}"
