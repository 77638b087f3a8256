"""examples/dsdm_then_train.py, from text to losses, at a size that takes seconds."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mixstream.selection import Scores, Selection
from mixstream_examples import dsdm_then_train as example


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def text(out: Path) -> SimpleNamespace:
    """Two kinds of documents, as `mixstream demo` gathers five."""
    generator, files = np.random.default_rng(0), {}
    for name, letters in {"code": "xyz(){};=", "prose": "aeiou nrst"}.items():
        files[name] = out / f"{name}.jsonl"
        out.mkdir(parents=True, exist_ok=True)
        documents = ("".join(generator.choice(list(letters), 400)) for _ in range(40))
        files[name].write_text("".join(json.dumps({"text": document}) + "\n" for document in documents))
    return SimpleNamespace(files=files)


def test_the_example_selects_and_trains(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(example, "gather", text)
    monkeypatch.setenv(example.PLACE, "")  # restored afterwards
    losses = example.run(tmp_path, steps=10, seeds=(0,), members=2, dims=16, kilobytes=5, workers=1)
    assert {name: len(found) for name, found in losses.items()} == {"top": 1, "random": 1, "inverse": 1, "full": 1}
    assert all(1 < loss < 6 for found in losses.values() for loss in found)
    assert "random - top" in capsys.readouterr().out
    scores = {name: Scores.open(tmp_path / "scores", domain=name) for name in ("code", "prose")}
    assert scores["prose"].column("score").mean() > scores["code"].column("score").mean()
    kept = {name: Selection.open(tmp_path / "top-0" / name).kept for name in scores}
    rows = sum(each.rows for each in scores.values())
    assert sum(kept.values()) == np.ceil(example.KEPT * rows)
    assert kept["prose"] / scores["prose"].rows > kept["code"] / scores["code"].rows
