"""Steps of a plan that are passed without their rows: where `Plan.advance` that often leads to, in one `jump`.

Rule: the cursor is exactly that of the steps one by one. Where a jump does not know it (a domain leaves the mix, or its
quota of the epoch is drawn, on the way), fewer steps are passed, and the caller takes the next one by `advance`.

Shape suffixes: K domains, L lanes.
"""

from dataclasses import replace

import numpy as np

from mixstream.plan.jump import LEAST_JUMP, credit_after, drawn_after
from mixstream.plan.plan import Plan
from mixstream.types import Cursor, Int64


def pass_steps(plan: Plan, cursor: Cursor, weight_K: Int64 | None, steps: int) -> tuple[Cursor, int]:
    """Return the cursor some steps on, at most `steps`, and how many they are; 0 for none.

    With fixed weights, the steps are of the running epoch.

    >>> from mixstream.plan.weights import quantise
    >>> plan = Plan(names=("code", "web"), samples_K=np.array([50, 90]), choose_K=None, epoch_size=140,
    ...             global_batch_size=4)
    >>> weight_K = quantise([0.3, 0.7])
    >>> cursor, steps = pass_steps(plan, plan.start(weight_K), weight_K, 10**6)
    >>> cursor.step, cursor.epoch, cursor.drawn_LK.tolist(), steps
    (1000000, 28571, [[1200000, 2800000]], 1000000)

    Args:
        plan: the plan.
        cursor: the position.
        weight_K: int64 [K], the weights of all these steps, if they are given by step.
        steps: the most there are to pass.
    """
    cursor = plan.settle(cursor)
    if type(plan) is not Plan or plan.stretch is not None or plan.in_order:  # others deal by other rules
        return cursor, 0
    if plan.part_LK is not None:
        steps = min(steps, plan.steps_per_epoch - cursor.step_in_epoch - 1)
    share = plan.global_batch_size // plan.lanes
    while steps * share >= LEAST_JUMP:
        if (found := _moved(plan, cursor, weight_K, steps * share)) is not None:
            epochs, within = divmod(cursor.step_in_epoch + steps, plan.steps_per_epoch)
            place = {"step": cursor.step + steps, "epoch": cursor.epoch + epochs, "step_in_epoch": within}
            return replace(cursor, **place, drawn_LK=found[0], credit_LK=found[1]), steps
        steps //= 4
    return cursor, 0


def _moved(plan: Plan, cursor: Cursor, weight_K: Int64 | None, rows: int) -> tuple[Int64, Int64] | None:
    """Return draws and credits after `rows` more rows of each lane, int64 [L, K] each; None if that is not known."""
    drawn_LK, credit_LK = cursor.drawn_LK.copy(), cursor.credit_LK.copy()
    for lane in range(plan.lanes):
        part_K, last_K = weight_K if plan.part_LK is None else plan.part_LK[lane], plan.last_LK[lane]
        left_K = drawn_LK[lane] >= last_K
        if part_K is None or (left_K.any() and (plan.choose_K is not None or credit_LK[lane][left_K].any())):
            return None
        part_K = np.where(left_K, 0, part_K)
        known = int(part_K.sum()) == cursor.total_L[lane]  # else the credits come to be in parts of another sum
        if not known or (moved_K := drawn_after(part_K, credit_LK[lane], rows)) is None:
            return None
        after_K = drawn_LK[lane] + moved_K
        most_K = last_K - 1
        if cursor.quota_LK is not None:
            most_K = np.minimum(most_K, cursor.base_LK[lane] + cursor.quota_LK[lane])
        if ((after_K > most_K) & ~left_K).any():
            return None
        drawn_LK[lane], credit_LK[lane] = after_K, credit_after(part_K, credit_LK[lane], rows, moved_K)
    return drawn_LK, credit_LK
