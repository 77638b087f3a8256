"""A past run has the rows that it had: from its log, from a state, or from both; what neither decides is refused."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import FIRST, SIZES, Tilt, losses, make_dataset, row_ids, streams, write_tokens
from selections import buckets, keep

import mixstream as ms
from mixstream.errors import ConfigError, StateError
from mixstream.feedback.replay import read_log
from mixstream.loader import open_domains, recompute
from mixstream.plan.state import parse_state

pytestmark = pytest.mark.filterwarnings("ignore:domain .* has been read")

LAST, LAG = 45, 4
WEIGHTS = {"web": {"proportion": 0.5}, "code": {"proportion": 0.3}, "law": {"proportion": 0.2}}
SCHEDULE = ms.mixers.Schedule({0: {"web": 6, "code": 3, "law": 1}, 50: {"web": 1, "code": 2, "law": 3}}, kind="linear")
CONFIGS: dict[str, dict[str, Any]] = {
    "natural": {},
    "drop_last": {"drop_last": True, "num_canonical_nodes": 2},
    "weighted": {"each": WEIGHTS, "epoch_size": 150, "num_canonical_nodes": 4},
    "in order": {"shuffle": False},
    "fixed": {"sampling_method": "fixed", "each": {"web": {"choose": 70}}},
    "per_stream": {"batching_method": "per_stream"},
    "max_epochs": {"each": {"law": {"max_epochs": 1.5}}},
    "schedule": {"mixer": SCHEDULE},
    "learning": {"mixer": Tilt(), "lag": LAG, "num_canonical_nodes": 2},
}
FIXED = [*CONFIGS][:7]


class Past:
    """A run that is over: its batches by step, its log, and some of its states."""

    def __init__(self, root: Path, log: Path, *, at: Any = (10, 25, 40), skip: Any = range(12, 20), **kw: Any) -> None:
        self.batches: dict[int, list[int]] = {}
        self.states: dict[int, Any] = {}
        self.log = log
        with ms.Loader(make_dataset(root, **kw), log=log) as loader:
            loader.skip(skip)
            self.go_on(loader, at)

    def go_on(self, loader: Any, at: Any) -> None:
        while True:
            for batch in loader:
                self.batches[batch.step] = row_ids(batch)
                loader.report(batch, torch.from_numpy(losses(row_ids(batch))))
                if batch.step + 1 in at:
                    self.states[batch.step + 1] = json.loads(json.dumps(loader.state_dict()))
                if batch.step == LAST:
                    return

    def read(self, root: Path, made: Any = None, *, log: bool, state: int | None, step: int | None = None) -> Any:
        logged = read_log(self.log) if log else None
        saved = None if state is None else parse_state(self.states[state])
        names = [d.name for d in saved.domains] if saved else logged.headers[0].domains if logged else []
        domains = open_domains(made or streams(root), names, allow_unsafe_types=False, where="the run")
        return recompute(domains, logged=logged, state=saved, where="the state", step=step)


def ids_of(run: Any, found: Any) -> list[int]:
    """Return the identities of the rows, computed from where they lie."""
    ids = []
    for shard, row in zip(found.at.shard_B.tolist(), found.at.row_B.tolist()):
        domain, number = run.domains.home(shard)
        ids.append(FIRST[domain.name] + sum(entry.samples for entry in domain.shards[:number]) + row)
    return ids


def options(root: Path, config: str) -> dict[str, Any]:
    given = dict(CONFIGS[config])
    return {"streams": streams(root, **given.pop("each", {})), **given}


@pytest.mark.parametrize("config", CONFIGS)
def test_rows_are_those_of_the_run(library: Path, tmp_path: Path, config: str) -> None:
    past = Past(library, tmp_path, **options(library, config))
    skipped = [*range(12, 20)]
    assert [*past.batches] == [step for step in range(LAST + 1) if step not in skipped]
    run = past.read(library, log=True, state=None)
    assert run.end == LAST + 1
    for step, found in enumerate(run.between(0, LAST + 1)):
        assert found.skipped == (step in skipped)
        assert found.skipped or ids_of(run, found) == past.batches[step]
        assert not found.stand_in_B.any()
    assert ids_of(run, run.rows(33)) == past.batches[33]
    with pytest.raises(StateError, match=f"step {LAST + 1} is not known: the last step that it knows is {LAST}"):
        run.rows(LAST + 1)
    alone = past.read(library, log=False, state=40)
    if config in FIXED:
        for step in (0, 11, 30, 39, 40, LAST):
            assert ids_of(alone, alone.rows(step)) == past.batches[step]
        assert alone.rows(13).skipped
    elif config == "learning":
        for step in range(40, 41 + LAG):
            assert ids_of(alone, alone.rows(step)) == past.batches[step]
        with pytest.raises(StateError, match=f"knows is {40 + LAG}; the state does not hold the other weights of Tilt"):
            alone.rows(LAST)
    else:
        with pytest.raises(StateError, match=r"it knows no step; .* weights of Schedule: give the log"):
            alone.rows(40)
    if config not in FIXED:
        with pytest.raises(StateError, match=r"step 39 is not known.*give the log"):
            alone.rows(39)
    both = past.read(library, log=True, state=40)
    assert [ids_of(both, both.rows(step)) for step in (39, 40, LAST)] == [past.batches[s] for s in (39, 40, LAST)]
    assert both.rows(15).skipped


def test_logs_of_resumed_and_changed_runs(library: Path, tmp_path: Path) -> None:
    past = Past(library, tmp_path, **options(library, "learning"))
    with ms.Loader(make_dataset(library, **options(library, "learning"), batch_size=8), log=tmp_path) as loader:
        loader.load_state_dict(past.states[10] | {"skipped": [[30, 32]]})
        past.batches = {step: ids for step, ids in past.batches.items() if step < 10}
        past.go_on(loader, (25, 40))
    run = past.read(library, log=True, state=None)
    found = {step: ids_of(run, run.rows(step)) for step in past.batches}
    assert found == past.batches
    assert [step for step in range(LAST + 1) if run.rows(step).skipped] == [30, 31]
    lines = (tmp_path / "mixture.jsonl").read_text().splitlines(keepends=True)
    begun = max(at for at, line in enumerate(lines) if '"begin"' in line)
    (tmp_path / "late").mkdir()
    (tmp_path / "late" / "mixture.jsonl").write_text("".join(lines[begun:]))
    past.log = tmp_path / "late"
    with pytest.raises(StateError, match=r"the log begins at step 10, .* give a state"):
        past.read(library, log=True, state=None)
    both = past.read(library, log=True, state=25)
    assert ids_of(both, both.rows(LAST)) == past.batches[LAST]
    with pytest.raises(StateError, match="the log begins at step 10"):
        past.read(library, log=True, state=25, step=20)
    (tmp_path / "gap").mkdir()
    gap = [line for line in lines[begun:] if '"step":33,' not in line]
    (tmp_path / "gap" / "mixture.jsonl").write_text("".join(gap))
    past.log = tmp_path / "gap"
    both = past.read(library, log=True, state=25)
    assert both.end == 33
    with pytest.raises(StateError, match="the weights of step 33 are missing"):
        both.rows(40)
    other = Past(library, tmp_path / "other", **options(library, "learning") | {"mixer": Tilt(rate=3.0)})
    past.log = other.log
    with pytest.raises(StateError, match="not of one run, since the weights of step 2"):
        past.read(library, log=True, state=25)
    with ms.Loader(make_dataset(library, ["web", "code"], mixer=Tilt(), lag=LAG), log=other.log) as loader:
        with pytest.warns(UserWarning, match="what its mixer has learned is dropped"):
            loader.load_state_dict(other.states[40], strict=False)
        other.go_on(loader, (44,))
    past, whole = other, streams(library)
    with pytest.raises(StateError, match="at step 40 the run went on from a state of another run"):
        past.read(library, whole, log=True, state=None, step=42)
    before = past.read(library, whole, log=True, state=None, step=39)
    assert ids_of(before, before.rows(39)) == past.batches[39]
    after = past.read(library, whole[:2], log=True, state=44)
    assert ids_of(after, after.rows(LAST)) == past.batches[LAST]


def test_other_data_is_refused(library: Path, tmp_path: Path) -> None:
    past = Past(library, tmp_path)
    for name, size in (SIZES | {"law": 23}).items():
        write_tokens(tmp_path / name, range(FIRST[name], FIRST[name] + size))
    with pytest.raises(ConfigError, match="'law' had 19 samples, and here it has 23"):
        past.read(tmp_path, log=True, state=None)
    with pytest.raises(StateError, match="'law' has other shards"):
        past.read(tmp_path, log=False, state=10)
    with pytest.raises(ConfigError, match=r"reads the domains \['code', 'law', 'web'\], and here are \['web'\]"):
        past.read(library, streams(library, ["web"]), log=True, state=None)
    with ms.Loader(make_dataset(library, order="mosaic"), log=tmp_path / "mosaic") as loader:
        loader.report(batch := next(iter(loader)), batch["tokens"][:, 0] / 8)
    past.log = tmp_path / "mosaic"
    with pytest.raises(StateError, match='or the order is "mosaic"'):
        past.read(library, log=True, state=None)


def test_selections_and_buckets(library: Path, tmp_path: Path) -> None:
    keep(tmp_path / "kept" / "web", library / "web", [*range(0, 150, 2)], domain="web")
    of_row = [number % 3 if number % 3 < 2 else -1 for number in range(50)]
    buckets(tmp_path / "parts", library / "code", of_row, ["easy", "hard"], domain="code")
    made = streams(
        library, web={"selection": str(tmp_path / "kept" / "web")}, code={"split_by": str(tmp_path / "parts")}
    )
    past = Past(library, tmp_path / "log", streams=made, num_canonical_nodes=2)
    for log, state in ((True, None), (False, 10), (True, 40)):
        run = past.read(library, made, log=log, state=state)
        assert {step: ids_of(run, run.rows(step)) for step in past.batches} == past.batches
    with pytest.raises(ConfigError, match="reads the domains"):
        past.read(library, log=True, state=None)
    other = [streams(library, ["web"])[0], *made[1:]]
    with pytest.raises(ConfigError, match=r"'web' by the selection .*, and here it is read whole"):
        past.read(library, other, log=True, state=None)


def test_substitutes_are_those_of_the_run(tmp_path: Path) -> None:
    for name, size in SIZES.items():
        write_tokens(tmp_path / name, range(FIRST[name], FIRST[name] + size), hashes=["sha1"])
    shard = sorted((tmp_path / "web").glob("*.mds"))[2]
    data = shard.read_bytes()
    shard.write_bytes(data[: len(data) // 2])
    with pytest.warns(UserWarning, match="is set aside"):
        past = Past(tmp_path, tmp_path / "log", on_bad_sample="quarantine", at=(40,))
    run = past.read(tmp_path, log=False, state=40)
    found = {step: run.rows(step) for step in past.batches}
    assert {step: ids_of(run, each) for step, each in found.items()} == past.batches
    assert sum(int(each.stand_in_B.sum()) for each in found.values()) > 5
    assert np.all(
        [
            each.pass_B[0] == each.rows.draw_B[0] // SIZES[run.run_plan.names[each.rows.domain_B[0]]]
            for each in found.values()
        ]
    )
    both = past.read(tmp_path, log=True, state=40, step=3)
    assert ids_of(both, both.rows(3)) == past.batches[3]
