"""Plans to draw from, for tests of `plan`; no test lives here."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
from hypothesis import strategies as st

from mixstream.plan.plan import Plan
from mixstream.types import Cursor, Rows

LANES = st.sampled_from([1, 2, 3, 4, 8])


def static(
    samples: Sequence[int], *, lanes: int = 1, share: int = 4, choose: Sequence[int] | None = None, **kw
) -> Plan:
    choose_K = np.array(samples if choose is None else choose, dtype=np.int64)
    return Plan(
        names=tuple(f"d{k}" for k in range(len(samples))),
        samples_K=np.array(samples, dtype=np.int64),
        choose_K=choose_K,
        epoch_size=int(choose_K.sum()),
        global_batch_size=lanes * share,
        lanes=lanes,
        **kw,
    )


def by_step(K: int, *, lanes: int = 1, share: int = 4, samples: int = 1000, epoch_size: int = 10**9, **kw) -> Plan:
    return Plan(
        names=tuple(f"d{k}" for k in range(K)),
        samples_K=np.full(K, samples, dtype=np.int64),
        choose_K=None,
        epoch_size=epoch_size,
        global_batch_size=lanes * share,
        lanes=lanes,
        **kw,
    )


def run(
    plan: Plan, steps: int, weights: Callable[[int], np.ndarray] | None = None, cursor: Cursor | None = None
) -> list[tuple[Cursor, Rows]]:
    """Return (cursor after the step, rows) of `steps` steps, fewer if the plan ends."""
    cursor = cursor or plan.start(weights(0) if weights else None)
    taken = []
    for _ in range(steps):
        if (moved := plan.advance(cursor, weights(cursor.step) if weights else None)) is None:
            break
        taken.append(moved)
        cursor = moved[0]
    return taken


def lane_rows(plan: Plan, taken: list[tuple[Cursor, Rows]]) -> np.ndarray:
    """Return each lane's domains, row after row over all steps, [L, steps x share]."""
    return np.concatenate([rows.domain_B.reshape(plan.lanes, -1) for _, rows in taken], axis=1)


@st.composite
def plans(draw, *, natural: bool = False, max_samples: int = 300):
    K = draw(st.integers(1, 7))
    samples = [draw(st.integers(1, draw(st.sampled_from([3, 30, max_samples])))) for _ in range(K)]
    choose = None
    if not natural and draw(st.booleans()):
        choose = [draw(st.integers(0, 2 * n)) for n in samples]
    size = sum(samples if choose is None else choose)
    lanes, share, drop_last = draw(LANES), draw(st.integers(1, 8)), draw(st.booleans())
    if size < lanes or (drop_last and size < lanes * share):
        lanes, share, choose = 1, 1, None
    return static(samples, lanes=lanes, share=share, choose=choose, drop_last=drop_last)
