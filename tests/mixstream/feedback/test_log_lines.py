"""Mixing logs as untrusted input: a line that no run writes is refused by its number."""

from __future__ import annotations

import json
import random
import sys
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from mixing_logs import begin, open_log, write

from mixstream.errors import ConfigError, StateError
from mixstream.feedback.logged_plan import LoggedPlan
from mixstream.feedback.replay import read_log, replay
from mixstream.plan.weights import WEIGHT_UNIT

sys.path.append(str(Path(__file__).parents[2] / "fuzz"))

from _mutate import mutated  # pyright: ignore[reportMissingImports] - the path is set above

PLAN = LoggedPlan(
    shuffle_seed=1,
    lanes=2,
    shuffle=True,
    shuffle_block_size=64,
    epoch_size=219,
    choose={"code": 50, "law": 19, "web": 150},
)


def lines_of(place: Path) -> list[dict[str, Any]]:
    with open_log(place / "run") as log:
        begin(log, plan=PLAN)
        write(log, range(6))
    return [json.loads(line) for line in log.file.read_text().splitlines()]


def written(place: Path, lines: list[Any]) -> Path:
    file = place / "mixture.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return file


@pytest.mark.parametrize(
    ("at", "change", "said"),
    [
        (0, {"domains": ["code", "code", "web"]}, "each has to be once"),
        (0, {"samples": {"code": 50}}, "lacks"),
        (0, {"global_batch_size": -8}, "global_batch_size"),
        (0, {"step": 1 << 60}, "step"),
        (0, {"plan": {"lanes": 3}}, "lanes"),
        (0, {"plan": {"choose": {"code": 0, "law": 0, "web": 0}}}, "no rows"),
        (0, {"plan": {"max_epochs": {"mud": 1.0}}}, "mud"),
        (3, {"step": -4}, "step"),
        (3, {"weights": {"code": 0.5, "mud": 0.5}}, "mud"),
        (3, {"weights": {"code": 1.5, "law": 0.0, "web": 0.0}}, "between 0 and 1"),
        (3, {"weights": {"code": 1e300, "law": 0.0, "web": 0.0}}, "between 0 and 1"),
        (3, {"rows": {"web": -1}}, "rows of 'web'"),
        (3, {"rows": {"web": 1 << 62}}, "rows of 'web'"),
        (3, {"count": {"web": -4.0}}, "count"),
        (3, {"rows": {"web": "many"}}, "int"),
    ],
)
def test_a_line_that_no_run_writes_is_refused(tmp_path, at, change, said):
    lines = lines_of(tmp_path)
    for key, value in change.items():
        lines[at][key] = lines[at][key] | value if key == "plan" else value
    with pytest.raises(StateError if at else ConfigError, match=said) as refused:
        read_log(written(tmp_path, lines))
    if at:
        assert f"line {at + 1} " in str(refused.value)


@settings(max_examples=60)
@given(seed=st.integers(0, 1 << 32))
def test_a_damaged_log_is_refused_by_name_or_whole(tmp_path_factory, seed):
    rng, place = random.Random(seed), tmp_path_factory.mktemp("log")
    lines = lines_of(place)
    at = rng.randrange(len(lines))
    lines[at], _ = mutated(rng, lines[at])
    try:
        logged = read_log(written(place, lines))
        replay(place)
    except (ConfigError, StateError, RecursionError):  # the last of `json`, which writes it
        return
    assert (logged.weights_TK.sum(axis=1) == WEIGHT_UNIT).all()
