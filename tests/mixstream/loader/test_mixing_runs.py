"""Learning mixers in real runs: prefetching, resuming, workers, micro-batches change nothing; domains come and go."""

from __future__ import annotations

import json
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import FIRST, joined, losses, make_dataset, row_ids, streams, write_tokens

import mixstream as ms
from mixstream import mixers
from mixstream.errors import FeedbackError

SHORT = {"window": 9, "ignore_steps": 4, "start_step": 12, "update_interval": 12, "subsample": 2, "min_points": 3}
MIXERS: dict[str, Callable[[], Any]] = {
    "ADO": lambda: mixers.ADO(min_seen=2, **SHORT),
    "Aioli": lambda: mixers.Aioli(round_steps=20, sweeps=1, probe_steps=3, eta=3.0),
    "DoReMi": mixers.DoReMi,
    "MatrixMixer": mixers.MatrixMixer,
    "ODM": lambda: mixers.ODM(form="exp3"),
}


@pytest.fixture(scope="module")
def split_library(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three domains with a train and a val split."""
    root = tmp_path_factory.mktemp("split")
    for name, first in FIRST.items():
        write_tokens(root / name / "train", range(first, first + 90))
        write_tokens(root / name / "val", range(first + 500, first + 512))
    return root


def make(root: Path, mixer: Any, names: Any = tuple(FIRST), **kw: Any) -> ms.StreamingDataset:
    each = {name: {"split": "train"} for name in names}
    return make_dataset(root, streams=streams(root, names, **each), mixer=mixer, lag=4, **kw)


def model_loss(step: int) -> Callable[[ms.Batch], torch.Tensor]:
    """Return what a model loses that is better after more steps, at domains' different speeds."""
    return lambda batch: torch.from_numpy(losses(row_ids(batch)) / (1 + step * (1 + batch.domain) / 64))


def train(loader: Any, steps: int, parts: int = 1) -> Iterator[list[int]]:
    """Train to step `steps` of the run; yield each batch's rows."""
    validation = loader.validation(rows=12)
    while loader.step < steps if isinstance(loader, ms.Loader) else True:
        for batch in loader:
            loader.evaluate(model_loss(batch.step), validation=validation)
            for part in batch.split(parts):
                loader.report(part, model_loss(batch.step)(part), matrix=np.diag([3.0, 2.0, batch.step % 3]))
            yield row_ids(batch)
            if batch.step + 1 == steps:
                return


@pytest.mark.parametrize("name", MIXERS)
def test_prefetching_and_resuming_change_nothing(split_library, name):
    with ms.Loader(make(split_library, MIXERS[name]()), prefetch=4) as loader:
        whole = list(train(loader, 70))
        state = loader.state_dict()
    with ms.Loader(make(split_library, MIXERS[name]()), prefetch=0) as loader:
        assert list(train(loader, 70, parts=2)) == whole
        assert loader.state_dict() == state
    got: list[list[int]] = []
    document = None
    for stop in (7, 20, 21, 33, 58, 70):  # in probes, at boundaries, before and after refits
        with ms.Loader(make(split_library, MIXERS[name]()), prefetch=stop % 3) as loader:
            if document is not None:
                loader.load_state_dict(json.loads(document))
            got += train(loader, stop)
            document = json.dumps(loader.state_dict(), allow_nan=False)
    assert got == whole
    assert json.loads(document or "") == state


@pytest.mark.parametrize("workers", [0, 2])
def test_a_torch_dataloader_learns_the_same(split_library, workers):
    for name in ("ADO", "Aioli"):
        with ms.Loader(make(split_library, MIXERS[name]())) as loader:
            whole = list(train(loader, 50))
        other = ms.StreamingDataLoader(
            make(split_library, MIXERS[name]()),
            batch_size=8,
            num_workers=workers,
            prefetch_factor=2 if workers else None,
        )
        assert list(train(other, 50)) == whole


def test_the_mixture_moves(split_library):
    """The runs above are not all at the prior, which is uniform here."""
    for name, make_mixer in MIXERS.items():
        with ms.Loader(make(split_library, make_mixer())) as loader:
            list(train(loader, 70))
            _, parts = loader.state_dict()["mixing"]["log"][-1]
        assert max(parts) > 1.01 * min(parts), name


def test_an_evaluation_that_is_due_is_asked_for_by_name(split_library):
    with ms.Loader(make(split_library, MIXERS["Aioli"]()), prefetch=0) as loader:
        batch = next(iter(loader))
        assert loader.wants_validation
        with pytest.raises(FeedbackError, match=r"Aioli needs an evaluation .* before it trains on step 0.*evaluate"):
            loader.report(batch, torch.ones(8))
        validation = loader.validation(rows=12)
        assert loader.evaluate(model_loss(0), validation=validation)
        assert not loader.wants_validation
        assert not loader.evaluate(model_loss(0), validation=validation)
        with pytest.raises(FeedbackError, match="no evaluation is due before step 0"):
            loader.report_validation([1.0, 2.0, 3.0])
        loader.report(batch, torch.ones(8))


def test_an_evaluation_left_out_stops_the_run_where_its_weights_are_needed(split_library):
    with ms.Loader(make(split_library, MIXERS["Aioli"]()), prefetch=2) as loader:
        it = iter(loader)
        for _ in range(4):  # the first `lag` steps depend on nothing
            next(it)
        with pytest.raises(FeedbackError, match="Aioli needs an evaluation of the model before it trains on step 0"):
            next(it)


def test_domains_come_and_go_and_what_was_learned_stays(split_library):
    with ms.Loader(make(split_library, MIXERS["DoReMi"]())) as loader:
        list(train(loader, 30))
        state = loader.state_dict()
    fewer = make(split_library, MIXERS["DoReMi"](), names=("web", "law"))
    with ms.Loader(fewer) as loader:
        loader.load_state_dict(state, strict=False)
        assert loader.step == 30
        for batch in loader:
            loader.report(batch, model_loss(batch.step)(batch))
            if batch.step == 40:
                break
        assert len(loader.state_dict()["domains"]) == 2


@pytest.mark.parametrize("name", MIXERS)
def test_a_loader_tells_its_weights_and_how_they_came_to_be(split_library, name):
    with ms.Loader(make(split_library, MIXERS[name]())) as loader:
        list(train(loader, 42))
        state = loader.state_dict()  # all that was reported has led to weights
        effective, parts = state["mixing"]["log"][-1]
        assert effective == 42 + 4
        assert list(loader.weights.values()) == [part / 2**32 for part in parts]
        assert sorted(loader.weights) == list(loader.weights) == sorted(FIRST)
        told = loader.explain()
        assert told
        assert all(np.asarray(value).dtype.kind in "biuf" for value in told.values())


def test_weights_that_do_not_learn_are_told_too(split_library):
    with ms.Loader(make(split_library, mixers.Stratified())) as loader:
        assert list(loader.weights.values()) == pytest.approx([1 / 3] * 3, abs=1e-6)
        assert loader.explain() == {}
    schedule = mixers.Schedule({0: dict.fromkeys(FIRST, 1), 3: {"web": 1, "code": 0, "law": 0}})
    with ms.Loader(make(split_library, schedule)) as loader:
        next(it := iter(loader))
        assert loader.weights["code"] > 0
        next(it), next(it)
        assert loader.weights == {"code": 0, "law": 0, "web": 1}


def test_a_log_replays_the_run_without_losses(split_library, tmp_path):
    with ms.Loader(make(split_library, MIXERS["ADO"]()), log=tmp_path) as loader:
        whole = list(train(loader, 60))
    with ms.Loader(make(split_library, ms.replay(tmp_path))) as loader:
        assert [row_ids(batch) for _ in range(2) for batch in loader][:60] == whole[:60]


@pytest.mark.parametrize("mixer", [mixers.MatrixMixer(), mixers.DoGE()])
def test_a_mixer_that_gets_no_matrix_says_so_once(split_library, mixer):
    steps = 0
    with ms.Loader(make(split_library, mixer)) as loader, warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        while loader.step < 250:
            for batch in loader:
                steps += 1
                loader.report(batch, model_loss(batch.step)(batch))
                assert len(said) == (steps >= 100)
    assert "learns from matrices alone, and 100 steps were reported without one" in str(said[0].message)
    assert said[0].filename == __file__


def test_a_log_goes_on_where_a_run_is_resumed(split_library, tmp_path):
    with ms.Loader(make(split_library, MIXERS["ADO"]()), log=tmp_path) as loader:
        whole = list(train(loader, 20))
        state = loader.state_dict()
        whole += train(loader, 29)  # undone: no checkpoint knows of it
    with ms.Loader(make(split_library, MIXERS["ADO"]()), log=tmp_path) as loader:
        loader.load_state_dict(state)
        assert list(train(loader, 29)) == whole[20:]
        whole += train(loader, 60)
    with ms.Loader(make(split_library, ms.replay(tmp_path))) as loader:
        assert [row_ids(batch) for _ in range(2) for batch in loader][:60] == whole


def test_static_runs_are_logged_too(split_library, tmp_path):
    with ms.Loader(make(split_library, mixers.Stratified()), log=tmp_path) as loader:
        rows = list(train(loader, 20))
    lines = [json.loads(line) for line in (tmp_path / "mixture.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["event"] == "step"]
    assert [line["step"] for line in steps] == list(range(20))
    assert sum(sum(line["rows"].values()) for line in steps) == len(joined(rows))
    assert set(steps[0]["loss"]) == set(FIRST)
