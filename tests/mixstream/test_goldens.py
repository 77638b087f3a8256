"""Frozen order and plan: what a seed means may not change by accident.

    python tests/mixstream/test_goldens.py    # writes tests/goldens/plan.json anew

A change of this file is a breaking change: saved runs would go on with other rows. It needs a line in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from mixstream.plan.plan import Plan
from mixstream.plan.rng import derive_key
from mixstream.plan.shuffle import Order
from mixstream.plan.weights import deal, quantise

GOLDEN = Path(__file__).parent.parent / "goldens" / "plan.json"
SAMPLES = {"code": 50, "law": 19, "web": 150}
SHARDS = {"code": [20, 20, 10], "law": [19], "web": [40, 40, 0, 40, 30]}
SWITCH = 25


def plan_of(kind: str, lanes: int) -> Plan:
    samples_K = np.array(list(SAMPLES.values()), dtype=np.int64)
    return Plan(
        names=tuple(SAMPLES),
        samples_K=samples_K,
        choose_K=None if kind == "weights" else samples_K,
        epoch_size=int(samples_K.sum()),
        global_batch_size=16,
        lanes=lanes,
        in_order=kind == "in order",
    )


def weights_at(step: int) -> np.ndarray:
    return quantise([1.0, 2.0, 7.0] if step < SWITCH else [3.0, 3.0, 1.0])


def summary(kind: str, lanes: int) -> dict[str, object]:
    """Return what 60 steps draw: the first rows as they are, all of them as a hash."""
    plan = plan_of(kind, lanes)
    owned_LK = deal(plan.samples_K, lanes)
    orders = [
        Order(name=n, seed=7, samples_S=np.array(s), owned_L=owned_LK[:, k], shuffle=kind != "in order", block_size=64)
        for k, (n, s) in enumerate(SHARDS.items())
    ]
    cursor = plan.start(weights_at(0) if kind == "weights" else None)
    rows_drawn = []
    for step in range(60):
        moved = plan.advance(cursor, weights_at(step) if kind == "weights" else None)
        assert moved is not None
        cursor, rows = moved
        for i, (k, draw) in enumerate(zip(rows.domain_B.tolist(), rows.draw_B.tolist())):
            epoch, shard, row = (int(x[0]) for x in orders[k].locate(lane=i * lanes // 16, draw_B=np.array([draw])))
            rows_drawn.append([plan.names[k], draw, epoch, shard, row])
    digest = hashlib.sha256(json.dumps(rows_drawn).encode()).hexdigest()
    return {"first rows: domain, draw, epoch, shard, row": rows_drawn[:8], "sha256 of 60 steps": digest}


CASES = {f"{kind}, {lanes} lane(s)": (kind, lanes) for kind in ("natural", "weights", "in order") for lanes in (1, 4)}


def test_keys_are_as_ever():
    assert derive_key(9176, "order", "web", 0, 0) == json.loads(GOLDEN.read_text())["key"]


@pytest.mark.parametrize("case", CASES)
def test_a_seed_means_what_it_always_meant(case):
    assert summary(*CASES[case]) == json.loads(GOLDEN.read_text())[case], (
        "order or plan of a fixed seed has changed: that is a breaking change and a line in CHANGELOG.md"
    )


if __name__ == "__main__":
    frozen = {"key": derive_key(9176, "order", "web", 0, 0)} | {name: summary(*case) for name, case in CASES.items()}
    GOLDEN.write_text(json.dumps(frozen, indent=1) + "\n")
