"""A text picture of a run, with its numbers."""

from collections import Counter
from collections.abc import Mapping

import numpy as np

from mixstream.data.domain import Domain
from mixstream.loader.run import Run
from mixstream.loader.starving import Options, starving
from mixstream.loader.stats import LoaderStats
from mixstream.plan.megatron import MegatronRunPlan
from mixstream.plan.skips import Skips
from mixstream.plan.state_record import PACKING
from mixstream.storage import waits
from mixstream.types import Cursor
from mixstream.units import show_bytes

_NO_SKIPS = Skips()


def describe(
    run: Run,
    cursor: Cursor,
    stats: LoaderStats,
    weights: Mapping[str, float],
    skips: Skips = _NO_SKIPS,
    *,
    options: Options,
) -> str:
    """Return a picture of the run: its domains with their shares, the position, and which stage starves the trainer.

    Args:
        run: the run.
        cursor: the position.
        stats: what the loader has done.
        weights: the newest that are known, by domain.
        skips: the steps that are left out.
        options: of the dataset and the loader, for what would help.
    """
    cursor = run.plan.settle(cursor)
    left_out = [f"skipped  steps {skips}"] if skips else []
    lines = [
        *_position(run, cursor),
        *left_out,
        *_domains(run, cursor, weights),
        *_kept(run),
        *_packed(run),
        *_tails(run),
        *_aside(run),
        *_storage(run),
    ]
    return "\n".join([*lines, *_work(cursor, stats, options)])


def _position(run: Run, cursor: Cursor) -> list[str]:
    plan, run_plan, mixer = run.plan, run.run_plan, run.mixer
    lag = f", lag {run_plan.lag} steps" if run_plan.lag is not None else ""
    mixing = type(mixer).__name__ if mixer is not None else "none, domains in order" if plan.in_order else "static"
    order = f"shuffled in windows of {run_plan.block_size:,} samples" if run_plan.shuffle else "as stored"
    if isinstance(run_plan, MegatronRunPlan):
        order = f"of Megatron, {plan.epoch_size:,} samples once"
    share, world = plan.global_batch_size // plan.lanes, run_plan.world
    apart = f", {run_plan.stretch} rows of one domain side by side" if run_plan.stretch is not None else ""
    mine = f"rank {world.rank} of {world.size} takes rows {run_plan.part.start} to {run_plan.part.stop - 1}"
    return [
        f"mixer    {mixing}{lag}",
        f"plan     step {cursor.step}: epoch {cursor.epoch}, {cursor.step_in_epoch} of {plan.steps_per_epoch} steps",
        f"batch    {plan.global_batch_size} rows = {plan.lanes} lane(s) x {share}{apart}; {mine}",
        f"order    {order}",
    ]


def _domains(run: Run, cursor: Cursor, weights: Mapping[str, float]) -> list[str]:
    plan = run.plan
    drawn_K = cursor.drawn_LK.sum(axis=0)
    epochs_K = drawn_K / np.maximum(plan.owned_LK.sum(axis=0), 1)
    gone = set(np.flatnonzero(plan.left_LK(cursor).all(axis=0)).tolist())
    total = max(int(drawn_K.sum()), 1)
    width = max(6, *(len(name) for name in plan.names))
    column = "weight now" if plan.choose_K is None else "per epoch"
    lines = [f"domains  {'':{width}}  {'samples':>13}  {column:>13}  {'drawn':>13}   share  epochs"]
    for at in run.domains.plan_K.tolist():
        planned = f"{weights[plan.names[at]]:.1%}" if plan.choose_K is None else f"{int(plan.choose_K[at]):,}"
        numbers = f"{int(plan.samples_K[at]):>13,}  {planned:>13}  {int(drawn_K[at]):>13,}"
        share = f"{int(drawn_K[at]) / total:>6.1%}  {float(epochs_K[at]):>6.2f}"
        lines.append(
            f"         {plan.names[at]:{width}}  {numbers}  {share}" + ("  left the mix" if at in gone else "")
        )
    return lines


def _kept(run: Run) -> list[str]:
    """Return a line for each domain of which a selection keeps some rows, and for each stream with buckets."""
    parts: dict[str, list[Domain]] = {}
    for domain in run.domains.listed:
        if domain.kept is not None:
            parts.setdefault((domain.whole or domain).name, []).append(domain)
    lines = []
    for name, domains in parts.items():
        kept = domains[0].kept
        assert kept is not None
        what = f"selection {kept.id}" if domains[0].whole is None else f"{len(domains)} buckets of {kept.where}"
        lines.append(f"kept     {name}: {sum(d.samples for d in domains):,} of {kept.stored:,} samples, {what}")
    return lines


def _packed(run: Run) -> list[str]:
    """Return a line for each domain of packed rows."""
    lines = []
    for domain in run.domains.listed:
        if (packed := domain.packed) is not None:
            tokens = int(packed.rows_S.sum()) * packed.seq_len
            lines.append(
                f"packed   {domain.name}: {domain.samples:,} rows of {packed.seq_len:,} tokens, "
                f"{packed.padding / max(tokens, 1):.2%} padding, {packed.dropped:,} tokens in no row, "
                f"{PACKING} {packed.id}"
            )
    return lines


def _tails(run: Run) -> list[str]:
    """Return a line for each store of token files whose last tokens are in no row."""
    return [
        f"tails    {source.name}: {source.dropped:,} tokens at the ends of its files are in no row, and are not read"
        for source in run.domains.sources
        if source.dropped
    ]


def _aside(run: Run) -> list[str]:
    names = [(domain.whole or domain).name for domain in run.domains.listed]
    found = Counter((names.index(run.domains.home(shard)[0].name), row < 0) for shard, row in run.quarantine.entries)
    counts = [f"{names[k]} {n} {'shard(s)' if whole else 'sample(s)'}" for (k, whole), n in sorted(found.items())]
    return [f"aside    cannot be read, others take their place: {', '.join(counts)}"] if counts else []


def _storage(run: Run) -> list[str]:
    waiting = [f"waiting  for {line}" for line in waits()]
    fetched = [source.files for source in run.domains.sources if source.files.fetches]
    if not fetched:
        return waiting
    cache = fetched[0].cache_limit
    limit = "no limit" if cache.limit is None else f"limit {show_bytes(cache.limit)}"
    return [f"cache    {show_bytes(cache.usage())} of {len(fetched)} domain(s) on local disk, {limit}", *waiting]


def _work(cursor: Cursor, stats: LoaderStats, options: Options) -> list[str]:
    lines = []
    if cursor.repeats:
        lines.append(f"repeats  {cursor.repeats} rows so far only filled up the last batch of an epoch")
    if stats.batches:
        ready = (
            f", {stats.mean_ready:.1f} ready on average (prefetch={stats.depth})"
            if stats.mean_ready is not None
            else ""
        )
        lines.append(f"loader   {stats.batches} batches handed out{ready}")
    return lines + starving(stats, options)
