"""A run as a picture with numbers in it."""

from __future__ import annotations

import numpy as np

from mixstream.run import Run
from mixstream.telemetry import Counters
from mixstream.types import Cursor


def describe(run: Run, cursor: Cursor, counters: Counters) -> str:
    """Return the data flow of DESIGN.md section 3 with this run's domains, shares, position and waiting in it."""
    plan, cursor = run.plan, run.plan.settle(cursor)
    drawn_K = cursor.drawn_LK.sum(axis=0)
    owned_K = np.maximum(plan.owned_LK.sum(axis=0), 1)
    total = max(int(drawn_K.sum()), 1)
    left_K = plan.left_LK(cursor).all(axis=0)
    mixing = "weights by step" if plan.choose_K is None else "in order" if plan.in_order else "static"
    width = max(6, *(len(name) for name in plan.names))
    lines = [
        f"step {cursor.step} (epoch {cursor.epoch}, {cursor.step_in_epoch} of {plan.steps_per_epoch} steps)",
        f"global batch {plan.global_batch_size} rows = {plan.lanes} lane(s) x {plan.global_batch_size // plan.lanes}; "
        f"rank {run.world.rank} of {run.world.size} takes rows {run.part.start} to {run.part.stop - 1}",
        f"mixing: {mixing}; order: {f'shuffled in windows of {run.block_size:,} samples' if run.request.shuffle else 'as stored'}",
        f"  {'domain':{width}}  {'samples':>13}  {'per epoch':>13}  {'drawn':>13}  {'share':>6}  {'epochs':>6}",
    ]
    for at, k in sorted(enumerate(run.domain_K.tolist()), key=lambda pair: pair[1]):
        planned = "by weight" if plan.choose_K is None else f"{int(plan.choose_K[at]):,}"
        lines.append(
            f"  {plan.names[at]:{width}}  {int(plan.samples_K[at]):>13,}  {planned:>13}  {int(drawn_K[at]):>13,}  "
            f"{int(drawn_K[at]) / total:>6.1%}  {int(drawn_K[at]) / int(owned_K[at]):>6.2f}"
            + ("  left the mix (max_epochs)" if left_K[at] else "")
        )
    if cursor.repeats:
        lines.append(f"{cursor.repeats} rows so far were repeats that filled up an epoch's last batch")
    if counters.batches:
        lines.append(
            f"{counters.batches} batches handed out; {counters.waited:.2f} s waited for them, "
            f"{counters.gathering:.2f} s spent making them in the background"
        )
    return "\n".join(lines)
