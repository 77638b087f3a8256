"""Composer 0.32 trains on mixstream: checkpoints in mid-epoch and at an epoch's end, killed, resumed, on other ranks.

An epoch has 5 steps of 8 rows. Composer saves 0 samples at an epoch's end, and without a position it takes batches off
the loader to find its place: both have to be right, or raise.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mixstream as ms

PROGRAM = "composer_program.py"
STUBS = str(Path(__file__).with_name("stubs"))
EPOCH = {"epoch_size": 40, "rows": 8}


@pytest.fixture
def composer(train: Callable[..., str], corpus: Path, tmp_path: Path) -> Callable[..., None]:
    """Return a function that does runs, by name, in one program; each has a directory of its name."""

    def composer(runs: dict[str, dict[str, Any]], *, ranks: int = 1, killed: bool = False, **shared: Any) -> None:
        each = [{**run, "out": str(tmp_path / name)} for name, run in runs.items()]
        for run in each:
            if "load" in run:
                run["load"] = str(tmp_path / run["load"])
        train(PROGRAM, ranks=ranks, killed=killed, path=STUBS, runs=each, corpus=str(corpus), **EPOCH, **shared)

    return composer


def error(out: Path) -> str:
    """Return what ended a run; "" if nothing did."""
    path = out / "error.txt"
    return path.read_text() if path.exists() else ""


def rows(out: Path, ranks: int = 1) -> dict[int, list[list[int]]]:
    """Return the rows of each batch that Composer trained on, by its own count of batches."""
    of_rank = [(out / f"rows-{rank}.jsonl").read_text().splitlines() for rank in range(ranks)]
    found: dict[int, list[list[int]]] = {}
    for lines in zip(*of_rank):
        records = [json.loads(line) for line in lines]
        found[records[0]["batch"]] = [row for record in records for row in record["rows"]]
    return found


def plain(corpus: Path, count: int, **options: Any) -> list[list[list[int]]]:
    """Return the global batches of a plain loop."""
    options = {"streams": ms.streams(corpus), "batch_size": 8, "shuffle": True, "epoch_size": 40, **options}
    found: list[list[list[int]]] = []
    with ms.Loader(ms.StreamingDataset(**options)) as loader:
        while len(found) < count:
            found += [batch["tokens"].tolist() for batch in loader]
    return found[:count]


LOADERS = {
    "Loader": {"loader": "Loader"},
    "StreamingDataLoader": {"loader": "StreamingDataLoader"},
    "StreamingDataLoader with workers, no MixState": {
        "loader": "StreamingDataLoader",
        "workers": 2,
        "mix_state": False,
    },
    "torch DataLoader": {"loader": "DataLoader", "mix_state": False},
    "torch DataLoader with workers": {"loader": "DataLoader", "workers": 2, "persistent": True, "mix_state": False},
}


@pytest.mark.parametrize("given", LOADERS.values(), ids=LOADERS)
def test_checkpoints_in_mid_epoch_and_at_its_end_go_on_with_the_next_batch(composer, corpus, tmp_path, given) -> None:
    expected = plain(corpus, 12)
    runs = {
        "mid": {"save": "3ba", "durations": ["12ba"]},
        "after mid": {"load": "mid/checkpoints/ep0-ba3-rank0.pt", "durations": ["12ba"]},
        "end": {"save": "1ep", "durations": ["1ep"]},
        "after end": {"load": "end/checkpoints/ep1-ba5-rank0.pt", "durations": ["12ba"]},
    }
    composer(runs, **given)
    assert not [error(tmp_path / name) for name in runs if error(tmp_path / name)]
    for name, (begin, end) in {"mid": (0, 12), "after mid": (3, 12), "end": (0, 5), "after end": (5, 12)}.items():
        assert rows(tmp_path / name) == {batch: expected[batch] for batch in range(begin, end)}


@pytest.mark.parametrize("loader", ["Loader", "StreamingDataLoader"])
def test_killed_on_two_ranks_and_gone_on_with_by_one_with_the_weights_of_ado(
    composer, corpus, tmp_path, loader
) -> None:
    common = {"loader": loader, "mixer": "ADO", "micro": 3}
    composer({"run": {"kill": 9, "durations": ["99ba"], "save": "1ba"}}, ranks=2, killed=True, **common)
    before = rows(tmp_path / "run", 2)
    assert len(before) >= 9
    composer({"resumed": {"load": "run/checkpoints/ep1-ba8-rank0.pt", "durations": ["30ba"]}}, **common)
    assert not error(tmp_path / "resumed")
    after = rows(tmp_path / "resumed")
    assert after[8] == before[8]
    assert sorted(after) == list(range(8, 30))
    metrics = json.loads((tmp_path / "resumed" / "metrics.json").read_text())
    for name in ("web", "code"):
        assert len(set(metrics[f"weight/{name}"])) > 1
        assert metrics[f"loss/{name}"][-1] < metrics[f"loss/{name}"][0]


def test_micro_batches_add_up_to_the_losses_of_the_batch(composer, tmp_path) -> None:
    runs: dict[str, dict[str, Any]] = {"whole": {}, "parts": {"micro": 3}, "by_row": {"by_row": True, "spec": True}}
    composer(runs, loader="StreamingDataLoader", durations=["1ba"])
    found = {name: json.loads((tmp_path / name / "metrics.json").read_text()) for name in runs}
    for name in ("loss/web", "loss/code"):
        assert found["parts"][name] == pytest.approx(found["whole"][name], rel=1e-5)
        assert found["by_row"][name] == pytest.approx(found["whole"][name], rel=1e-5)


def test_what_would_read_rows_twice_or_never_is_refused(composer, tmp_path) -> None:
    saved = "bare/checkpoints/ep1-ba5-rank0.pt"
    bare = {"mix_state": False, "durations": ["1ep"], "save": "1ep"}
    runs: dict[str, dict[str, Any]] = {
        "mean": {"loader": "Loader", "mixer": "ADO", "losses": False, "durations": ["2ba"]},
        "bare": {"loader": "Loader", **bare},
        "spun": {"loader": "Loader", **bare, "load": saved, "durations": ["8ba"]},
        "without": {"loader": "Loader", "load": saved, "durations": ["8ba"]},
        "torch": {"loader": "DataLoader", "durations": ["1ba"]},
        "at start": {"loader": "DataLoader", **bare, "save_at_start": 5, "durations": ["8ba"]},
        "again": {"loader": "DataLoader", "mix_state": False, "durations": ["3ba", "3ba"]},
        "again in workers": {"loader": "DataLoader", "workers": 2, "mix_state": False, "durations": ["3ba", "3ba"]},
        "again by loader": {"loader": "StreamingDataLoader", "durations": ["8ba", "3ba"]},
        "spun again": {"loader": "DataLoader", "mix_state": False, "durations": ["1ep", "1ep"]},
        "spun again by loader": {"loader": "StreamingDataLoader", "durations": ["1ep", "1ep"]},
    }
    composer(runs)
    errors = {name: error(tmp_path / name) for name in runs}
    assert "give MixState(losses=...)" in errors["mean"]
    assert not errors["bare"]
    assert "also in the run that saves" in errors["spun"]
    assert "has no position of this mixstream.Loader" in errors["without"]
    assert "MixState has to report to the train dataloader" in errors["torch"]
    assert "Save at BATCH_END or later" in errors["at start"]
    for name in ("again", "again in workers", "again by loader", "spun again", "spun again by loader"):
        assert "Train in one fit()" in errors[name]


def test_what_composer_may_do_besides_is_right(composer, corpus, tmp_path) -> None:
    saved, ignore = "run/checkpoints/ep1-ba7-rank0.pt", ["state/dataset_state"]
    runs: dict[str, dict[str, Any]] = {
        "run": {"loader": "StreamingDataLoader", "durations": ["7ba"], "save": "7ba"},
        "spun": {"loader": "DataLoader", "mix_state": False, "load": saved, "ignore": ignore, "durations": ["9ba"]},
        "twice": {"loader": "Loader", "durations": ["3ba", "6ba"]},
        "by epochs": {"loader": "DataLoader", "mix_state": False, "durations": ["1ep", "1ep"], "spin": False},
        "by epochs and loader": {"loader": "StreamingDataLoader", "durations": ["1ep", "1ep"], "spin": False},
        "peeked": {"loader": "DataLoader", "mix_state": False, "peek": True, "durations": ["1ep"], "save": "1ep"},
        "on": {
            "loader": "DataLoader",
            "mix_state": False,
            "load": "peeked/checkpoints/ep1-ba5-rank0.pt",
            "durations": ["2ep"],
        },
    }
    composer(runs)
    assert not [error(tmp_path / name) for name in runs if error(tmp_path / name)]
    expected = plain(corpus, 15)
    assert rows(tmp_path / "spun") == {7: expected[7], 8: expected[8]}  # it took two batches off, and then two more
    assert rows(tmp_path / "twice") == dict(enumerate(expected[:9]))
    assert rows(tmp_path / "by epochs") == dict(enumerate(expected[:10]))
    assert rows(tmp_path / "by epochs and loader") == dict(enumerate(expected[:10]))
    assert rows(tmp_path / "peeked") == dict(enumerate(expected[5:10]))  # the look was at an epoch
    assert rows(tmp_path / "on") == {batch: expected[batch + 5] for batch in range(5, 10)}
