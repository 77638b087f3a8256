"""What mixing costs a training step: the mixer's update and the planning of the rows, at K = 22 and K = 1000 domains.

    python bench/mixing_cost.py [--step-ms 250]

Updates run on a thread of their own and planning runs ahead, so neither has to fit between two steps; the last column
holds the mean against a step of the length given, as if it did. That length is an assumption, not a measurement. Times
are those of the CPU, over all threads, so that a busy machine does not change them. An ADO refit runs once in
`update_interval` steps, beside the training, and has a line of its own.
"""

from __future__ import annotations

import argparse
import os
import platform
import time
from typing import Any

import numpy as np

from mixstream.mixers import ADO, ODM, Aioli
from mixstream.plan import Plan, quantise
from mixstream.types import Feedback

REFIT = 5_500
"""The step of the one refit that is timed: 540 points have come by then, and ADO keeps 512 at most."""


def update_times(mixer: Any, domains: int, steps: int) -> np.ndarray:
    """Return the CPU seconds of each of `steps` updates, float64 [steps]; made-up falling losses, 1024 rows."""
    random, weights_K, took = np.random.default_rng(0), np.full(domains, 1 / domains), []
    state = mixer.init(weights_K)
    for step in range(-1, steps):
        rows_K = random.multinomial(1024 if step >= 0 else 0, weights_K).astype(np.float64)
        factor_K = 1 + 0.01 * random.standard_normal(domains)
        loss_K = 2 + np.linspace(1, 3, domains) * (step + 2) ** -0.3 * factor_K
        wanted = hasattr(mixer, "wants_validation") and mixer.wants_validation(state, step + 1)
        if step < 0 and not wanted:
            continue
        feedback = Feedback(
            step=step,
            effective=step + 1,
            rows_K=rows_K,
            weights_K=weights_K,
            loss_sum_K=loss_K * rows_K,
            count_K=rows_K,
            validation_V=loss_K if wanted else None,
        )
        began = time.process_time()
        state, weights_K = mixer.update(state, feedback)
        took.append(time.process_time() - began)
    return np.array(took[-steps:])


def planning_times(domains: int, steps: int, rows: int = 1024) -> np.ndarray:
    """Return the CPU seconds that each of `steps` steps takes to plan, under weights that change with every step."""
    random = np.random.default_rng(0)
    weights_TK = random.dirichlet(np.full(domains, 1.0), steps + 1)
    plan = Plan(
        names=tuple(f"d{k:04}" for k in range(domains)),
        samples_K=np.full(domains, 1 << 30),
        choose_K=None,
        epoch_size=1 << 40,
        global_batch_size=rows,
    )
    cursor, took = plan.start(quantise(weights_TK[0])), []
    for weights_K in weights_TK:
        began = time.process_time()
        planned = plan.advance(cursor, quantise(weights_K))
        took.append(time.process_time() - began)
        assert planned is not None
        cursor = planned[0]
    return np.array(took[1:])


def show(what: str, took: np.ndarray, step: float) -> None:
    """Print one line; `took` in CPU seconds, `step` the seconds of a training step."""
    middle, mean = np.median(took), took.mean()
    print(f"  {what:<44} {middle * 1e6:>11.1f} {mean * 1e6:>11.1f} {mean / step:>9.4%}")


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--step-ms", type=float, default=250.0, help="assumed length of a training step")
    step = parser.parse_args().step_ms / 1e3
    print(f"{platform.machine()}, {os.cpu_count()} cores, Python {platform.python_version()}, numpy {np.__version__}")
    print(f"share of a training step that is assumed to take {step * 1e3:.0f} ms")
    for domains in (22, 1000):
        print(f"\nK = {domains:<42} {'median us':>11} {'mean us':>11} {'of a step':>9}")
        show("planning a step of 1024 rows", planning_times(domains, 200), step)
        took = update_times(ADO(ignore_steps=100, start_step=REFIT, update_interval=REFIT), domains, REFIT + 200)
        show("ADO update, before the first refit", took[REFIT - 200 : REFIT], step)
        show("ADO update, with scaling laws", took[REFIT + 1 :], step)
        show("ODM update", update_times(ODM(), domains, 200), step)
        aioli = Aioli(round_steps=4 * domains, sweeps=1, probe_steps=2, one_hot=0.5)
        show("Aioli update, over a round", update_times(aioli, domains, 4 * domains), step)
        print(f"  {'ADO refit of all domains, longest curves':<44} {took[REFIT]:>10.3f} s")


if __name__ == "__main__":
    main()
