"""What the version before a rebuild wrote: states, logs and numbers, which this version reads and would write again.

The files are in tests/data/previous, made by the make.py there; the runs are in `previous.py`.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from previous import (
    BATCH,
    CASES,
    PREVIOUS,
    STORED,
    Case,
    alike,
    begun,
    dataset_of,
    opened,
    quietly,
    resumed,
    stored,
    tables,
    train,
    validation,
)

import mixstream as ms

LOGGED = [name for name, case in CASES.items() if case.log]
LEARNED = [name for name in STORED if CASES[name].options.get("lag") and CASES[name].face == "loader"]

# Since then, shares are carried over epochs instead of being rounded in each (CHANGELOG.md): these runs draw other rows
# from their beginning, or from the end of an epoch on, and these states have other units or another digest.
SHARED = ["weighted", "weighted_lanes", "static", "temperature", "drop_last", "dataset_later"]
CARRIED = [*SHARED, "max_epochs", "ado_lanes"]
OTHER_UNITS = [*CARRIED, "even", "schedule", "scheduled_lanes", "streaming"]
PARTIAL = ["repeat", "choose", "fewer"]  # the last batch of an epoch is filled by other domains in each


OTHER_WEIGHTS = ["max_epochs"]
"""Cases whose reported weights are others than before, on purpose: without the domains that have left the mix."""


def compared(name: str, steps: Any) -> Any:
    """Return `steps` without what is changed on purpose."""
    return [{**step, "weights": None} for step in steps] if name in OTHER_WEIGHTS else steps


# --- runs and states --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in STORED if name not in CARRIED])
def test_a_run_draws_the_same_rows_and_saves_the_same_state(name):
    steps, state = begun(CASES[name])
    assert compared(name, steps) == alike(compared(name, stored(f"rows/{name}.json")["before"]))
    if name in OTHER_UNITS:
        return
    expected = as_listed_now(stored(f"states/{name}.json"))
    if expected["mixing"] is None:
        assert json.dumps(state) == json.dumps(expected)
    assert keys(state) == keys(expected)
    assert with_numbers(state) == alike(with_numbers(expected))


@pytest.mark.parametrize("name", [name for name in CASES if name not in [*CARRIED, *PARTIAL] or name == "ado_lanes"])
def test_a_state_of_the_version_before_goes_on_with_the_same_rows(name):
    case = CASES[name]
    steps, explained = resumed(case, stored(f"states/{case.state_of or name}.json"))
    expected = stored(f"rows/{name}.json")
    assert compared(name, steps) == alike(compared(name, expected["after"]))
    assert explained == alike(expected["explained"])


@pytest.mark.parametrize("name", [*CARRIED, *PARTIAL])
def test_a_state_of_rounded_shares_goes_on_and_its_own_state_goes_on_as_it_did(name):
    case = CASES[name]
    state = stored(f"states/{case.state_of or name}.json")
    steps, _ = resumed(case, state)
    with opened(case) as loader:
        (loader.dataset if case.face == "dataset" else loader).load_state_dict(state, strict=case.strict)
        if case.face == "dataset":
            later = loader.dataset.state_dict(0, from_beginning=False)
        else:
            train(loader, case, 3)
            later = loader.state_dict()
    again, _ = resumed(case, later)
    rows, skipped = [step["rows"] for step in steps], 0 if case.face == "dataset" else 3
    assert [step["rows"] for step in again][: len(rows) - skipped] == rows[skipped:]
    if name in SHARED:
        plan = dataset_of(case).run.run_plan
        for number, part in zip((2, 3, 1), plan.prior_K.tolist()):  # code, law, web
            drawn = sum(row // 1000 == number for batch in rows for row in batch)
            assert abs(drawn - part * BATCH * len(rows)) < 2 * plan.lanes + 1


@pytest.mark.parametrize("name", [n for n in STORED if not CASES[n].unreported and n not in OTHER_UNITS])
def test_a_state_that_is_loaded_is_saved_as_it_was(name):
    state = stored(f"states/{name}.json")
    with quietly(), ms.Loader(dataset_of(CASES[name]), prefetch=2) as loader:
        loader.load_state_dict(state)
        assert json.dumps(loader.state_dict()) == json.dumps(as_listed_now(state))


def as_listed_now(state: dict[str, Any]) -> dict[str, Any]:
    """Return a state with what is set aside in the plan's order of domains; it was that of `streams`."""
    listed = sorted(state["quarantined"], key=lambda e: (e["domain"], e["shard"], -1 if e["row"] is None else e["row"]))
    return {**state, "quarantined": listed}


@pytest.mark.parametrize("face", ["streaming", "dataset"])
@pytest.mark.parametrize("name", ["even", "scheduled_lanes", "quarantine"])
def test_a_state_of_one_face_is_one_of_all(name, face):
    steps, _ = resumed(replace(CASES[name], face=face), stored(f"states/{name}.json"))
    assert [step["rows"] for step in steps] == [step["rows"] for step in stored(f"rows/{name}.json")["after"]]


def with_numbers(value: Any) -> Any:
    """Return a state with its arrays as numbers."""
    if isinstance(value, dict) and "base64" in value:
        return {**value, "base64": np.frombuffer(base64.b64decode(value["base64"]), value["dtype"]).tolist()}
    if isinstance(value, dict):
        return {key: with_numbers(item) for key, item in value.items()}
    return [with_numbers(item) for item in value] if isinstance(value, list) else value


def keys(value: Any) -> str:
    """Return the keys of a document, in their order."""

    def below(value: Any) -> Any:
        return {key: below(item) for key, item in value.items()} if isinstance(value, dict) else None

    return json.dumps(below(value))


def test_the_runs_are_no_easy_ones():
    """Domains have other numbers in the plan than in `streams`, epochs end, domains leave, mixers have learned."""
    for name in STORED:
        state, rows = stored(f"states/{name}.json"), stored(f"rows/{name}.json")
        assert [domain["name"] for domain in state["domains"]] in (["code", "law", "web"], ["web", "code", "law"])
        for step in rows["before"] + rows["after"]:
            domains = [row // 1000 - 1 for row in step["rows"]]
            assert step.get("domain", domains) == domains
    for name in LEARNED:
        assert len([step for step in stored(f"rows/{name}.json")["after"] if "weights" in step]) > 1, name
    assert stored("states/max_epochs.json")["domains"][1]["drawn"] == [19]
    assert stored("states/dataset_later.json")["epoch"] == 1
    assert stored("states/quarantine.json")["quarantined"]
    assert stored("states/aioli_waiting.json")["mixing"]["waiting"]["sum_K"]
    assert any(step["repeats"] for step in stored("rows/choose.json")["after"])


# --- logs -------------------------------------------------------------------------------------------------------------


def lines_of(log: Path | str) -> list[str]:
    """Return the lines of a log without the time, and without what headers say of the plan since."""
    text = Path(log, "mixture.jsonl").read_text() if Path(log).is_dir() else Path(log).read_text()
    return re.sub(r',"plan":\{.*\}(?=\}\n)', "", re.sub(r'"time":[\d.]+', '"time":0', text)).splitlines()


def same_lines(found: list[str], expected: list[str], *, exactly: bool) -> None:
    """Compare logs: as text, or with keys in the same order and numbers that are the same but for rounding."""
    if exactly:
        assert found == expected
    pairs = [[json.loads(line) for line in lines] for lines in (found, expected)]
    assert [keys(line) for line in pairs[0]] == [keys(line) for line in pairs[1]]
    assert pairs[0] == alike(pairs[1])


@pytest.mark.parametrize("name", [name for name in LOGGED if name not in CARRIED])
def test_a_run_and_its_resume_write_the_same_log(name, tmp_path):
    begun(CASES[name], tmp_path)
    resumed(CASES[name], stored(f"states/{name}.json"), tmp_path)
    same_lines(lines_of(tmp_path), lines_of(PREVIOUS / "logs" / f"{name}.jsonl"), exactly=name == "static")


@pytest.mark.parametrize("name", [name for name in LOGGED if name not in CARRIED])
def test_a_log_of_the_version_before_is_gone_on_with(name, tmp_path):
    lines = (PREVIOUS / "logs" / f"{name}.jsonl").read_text().splitlines(keepends=True)
    second = next(at for at, line in enumerate(lines) if at and line.startswith('{"event":"begin"'))
    (tmp_path / "mixture.jsonl").write_text("".join(lines[:second]) + lines[second + 1][:40])  # the last line is torn
    resumed(CASES[name], stored(f"states/{name}.json"), tmp_path)
    same_lines(lines_of(tmp_path), lines_of(PREVIOUS / "logs" / f"{name}.jsonl"), exactly=name == "static")


@pytest.mark.parametrize("name", LOGGED)
def test_a_log_of_the_version_before_replays(name, tmp_path):
    shutil.copy(PREVIOUS / "logs" / f"{name}.jsonl", tmp_path / "mixture.jsonl")
    mixer = ms.replay(tmp_path)
    assert mixer == ms.replay(tmp_path / "mixture.jsonl")
    assert repr(mixer) == stored("replays.json")[name]["repr"]
    assert replayed(name, mixer) == stored("replays.json")[name]["rows"]


def replayed(name: str, mixer: Any) -> list[list[int]]:
    """Return the rows that a replay draws."""
    expected = stored(f"rows/{name}.json")
    steps = len(expected["before"]) + len(expected["after"])
    options = {"mixer": mixer, **{k: v for k, v in CASES[name].options.items() if k == "epoch_size"}}
    case = Case(options=options)
    with quietly(), ms.Loader(dataset_of(case)) as loader:
        return [step["rows"] for step in train(loader, case, steps)]


@pytest.mark.parametrize("name", [name for name in LOGGED if name != "static"])
def test_a_replay_draws_what_the_run_drew(name):
    expected = stored(f"rows/{name}.json")
    assert stored("replays.json")[name]["rows"] == [step["rows"] for step in expected["before"] + expected["after"]]


# --- numbers ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("names", ["web code law", "law web code"])
def test_samples_shards_and_streams_are_numbered_the_same(names):
    assert tables(dataset_of(Case(names=tuple(names.split())))) == stored("tables.json")[names]


@pytest.mark.parametrize("names", ["web code law", "law web code"])
def test_validation_sets_have_the_same_rows(names):
    for options, rows in stored("validation.json")[names]:
        assert validation(names.split(), **options) == rows


def shares(names: Sequence[str]) -> list[dict[str, int]]:
    """Return the samples of an epoch by domain, of seed 0 and so on; seed and order say who gets what rounding left."""
    each = {"web": {"proportion": 5}, "code": {"proportion": 5.01}, "law": {"proportion": 4.99}}
    cases = [
        Case(names=tuple(names), each=each, options={"epoch_size": size, "shuffle_seed": seed})
        for seed, size in enumerate((100, 101, 97, 100, 101, 97, 100, 101))
    ]
    return [{str(s.name): s.choose or 0 for s in dataset_of(case).streams} for case in cases]


@pytest.mark.parametrize("names", ["web code law", "law web code"])
def test_rows_that_rounding_leaves_go_to_the_same_domains(names):
    assert shares(names.split()) == stored("shares.json")[names]


def probe_orders() -> list[Any]:
    """Return the order of Aioli's probes by seed, round and sweep."""
    mixers = [ms.mixers.Aioli(seed=seed) for seed in (0, 7)]
    orders = [[mixer.probe_order(number, sweep, 9) for number in (0, 1, 5) for sweep in (0, 3)] for mixer in mixers]
    return [[list(map(int, order)) for order in of_seed] for of_seed in orders]


def test_probes_come_in_the_same_order():
    assert probe_orders() == stored("probes.json")


def test_batches_are_as_large_as_the_stored_ones():
    assert {len(step["rows"]) for name in CASES for step in stored(f"rows/{name}.json")["after"]} == {BATCH}
