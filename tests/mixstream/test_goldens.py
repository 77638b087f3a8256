"""Frozen order and plan: what a seed means may not change by accident.

    python tests/mixstream/test_goldens.py    # writes tests/goldens/plan.json and stand_ins.json anew

A change of these files is a breaking change: saved runs would go on with other rows. It needs a line in CHANGELOG.md.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
from pathlib import Path

import numpy as np
import pytest
from harness import drive, loaders_of, write_library

from mixstream.plan.plan import Plan
from mixstream.plan.rng import derive_key
from mixstream.plan.shuffle import Order
from mixstream.plan.weights import deal, quantise

GOLDEN = Path(__file__).parent.parent / "goldens" / "plan.json"
STAND_INS = GOLDEN.with_name("stand_ins.json")
SET_ASIDE = {"code": [(0, None), (2, 3)], "law": [(0, 0), (0, 4), (1, 1)], "web": [(1, 5), (3, None), (7, 2)]}
"""Shards, and rows of shards, that cannot be read, in the library of the harness."""
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


def stand_ins(library: Path, lanes: int) -> dict[str, object]:
    """Return which samples take the place of those that are set aside, in 60 steps of two ranks."""
    with loaders_of(library, lanes=lanes) as (loader,):
        state = loader.state_dict()
        whole = drive([loader], 60)
    state["quarantined"] = [
        {"domain": name, "shard": shard, "row": row} for name, rows in SET_ASIDE.items() for shard, row in rows
    ]
    with loaders_of(library, lanes=lanes, world=2, on_bad_sample="quarantine") as loaders:
        for loader in loaders:
            loader.load_state_dict(state)
        read = drive(loaders, 60)
    taken = [
        [step, row, was, now]
        for step, (before, after) in enumerate(zip(whole, read, strict=True))
        for row, (was, now) in enumerate(zip(before, after, strict=True))
        if was != now
    ]
    digest = hashlib.sha256(json.dumps(taken).encode()).hexdigest()
    return {"first: step, row, sample, stand-in": taken[:8], "count": len(taken), "sha256 of 60 steps": digest}


@pytest.mark.parametrize("lanes", [1, 4])
def test_the_same_samples_take_the_place_of_those_that_cannot_be_read(library, lanes):
    assert stand_ins(library, lanes) == json.loads(STAND_INS.read_text())[f"{lanes} lane(s)"], (
        "other samples take the place of those that a state sets aside: a replay would read others, "
        "which is a breaking change and a line in CHANGELOG.md"
    )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as place:
        library = write_library(Path(place))
        found = {f"{lanes} lane(s)": stand_ins(library, lanes) for lanes in (1, 4)}
    STAND_INS.write_text(json.dumps(found, indent=1) + "\n")
    frozen = {"key": derive_key(9176, "order", "web", 0, 0)} | {name: summary(*case) for name, case in CASES.items()}
    GOLDEN.write_text(json.dumps(frozen, indent=1) + "\n")
