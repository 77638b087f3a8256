"""examples/prune_then_train.py, from text to losses, at a size that takes seconds."""

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from mixstream.selection import Selection
from mixstream_examples import prune_then_train as example

KINDS = ("code", "prose")


@pytest.fixture(scope="module", autouse=True)
def _one_thread() -> Iterator[None]:
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def text(out: Path) -> SimpleNamespace:
    """Two kinds of documents of one row each; every other one is there twice, but for a word."""
    generator, files = np.random.default_rng(0), {}
    words = {
        "code": ["return", "def", "import", "self", "class", "None", "print", "lambda"],
        "prose": ["river", "house", "walked", "the", "old", "winter", "slowly", "bread"],
    }
    out.mkdir(parents=True, exist_ok=True)
    for name in KINDS:
        documents = [" ".join(generator.choice(words[name], 40)) for _ in range(60)]
        documents += [f"{document} {document.split()[0]}" for document in documents[::2]]
        files[name] = out / f"{name}.jsonl"
        files[name].write_text("".join(json.dumps({"text": f"{document:255.255}"}) + "\n" for document in documents))
    return SimpleNamespace(files=files)


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Path, dict]]:
    out = tmp_path_factory.mktemp("prune")
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(example, "gather", text)
        yield out, example.run(out, steps=6, seeds=(0,), kilobytes=100, workers=1)


def kept(out: Path, name: str) -> list[Selection]:
    return [Selection.open(out / name / kind) for kind in KINDS]


def test_every_selection_is_trained_on_and_reported(finished):
    out, losses = finished
    assert list(losses) == list(example.CHOSEN)
    assert all(list(each[0]) == list(KINDS) for each in losses.values())
    assert all(1 < loss < 7 for each in losses.values() for loss in each[0].values())
    assert json.loads((out / "losses.json").read_text()) == losses
    told = example.report(out, losses, steps=6, seeds=(0,))
    assert all(f"\n{chosen} " in told for chosen in example.CHOSEN)
    rows = sum(each.table.rows for each in kept(out, "unique"))
    assert f"{'full':<15}{rows:>8,}" in told


def test_what_is_compared_has_equally_many_rows(finished):
    out, _ = finished
    hard, unique = kept(out, "kept"), kept(out, "unique")
    for mine, all_ in zip(hard, unique):
        assert mine.kept == np.ceil(example.FRACTION * all_.kept) < all_.kept < all_.table.rows
        assert set(mine.ordinals()) <= set(all_.ordinals())
    for other in ("kept-inverse", "random-0", "kept-random-0"):
        assert [each.kept for each in kept(out, other)] == [each.kept for each in hard]
    assert all(set(a.ordinals()) <= set(b.ordinals()) for a, b in zip(kept(out, "kept-random-0"), unique))


def test_trainings_differ_by_their_rows_only(finished):
    out, losses = finished
    again = example.held_out_losses(out, 6, 0, "unique, hard")
    assert again == losses["unique, hard"][0]
    assert losses["full"] != losses["random"] != losses["unique, hard"] != losses["unique, easy"]
