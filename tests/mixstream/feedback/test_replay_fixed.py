"""A replay draws the rows of the run, also where weights are fixed, or says that it does not."""

import json
from typing import Any

import numpy as np
import pytest
import torch
from harness import SIZES, Asking, make_dataset, row_ids, streams, write_library

import mixstream as ms
from mixstream.errors import ConfigError, StateError


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    return write_library(tmp_path_factory.mktemp("library"))


def rows(dataset: ms.StreamingDataset, steps: int = 70, *, log: Any = None) -> list[list[int]]:
    """Return the rows of the first steps, over the ends of epochs."""
    taken: list[list[int]] = []
    with ms.Loader(dataset, log=log) as loader:
        while len(taken) < steps:
            for batch in loader:
                taken.append(row_ids(batch))
                if log is not None:
                    loader.report(batch, None)
                if len(taken) == steps:
                    break
    return taken


def each(option: str, *values: Any) -> dict[str, Any]:
    return {name: {option: value} for name, value in zip(SIZES, values)}


IRRATIONAL = ms.mixers.Static({"web": 2**0.5, "code": 0.3, "law": 0.2})
FIXED: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "natural": ({}, {}),
    "static": ({"mixer": ms.mixers.Static({"web": 0.5, "code": 0.3, "law": 0.2})}, {}),
    "irrational": ({"mixer": IRRATIONAL}, {}),
    "epoch_size": ({"epoch_size": 57}, {}),
    "proportion": ({"epoch_size": 50}, each("proportion", 0.1, 0.7, 0.2)),
    "choose": ({}, each("choose", 31, 17, 29)),
    "repeat": ({"drop_last": True}, each("repeat", 0.5, 1.3, 2.1)),
    "in order": ({"shuffle": False}, {}),
    "fixed sample": ({"sampling_method": "fixed"}, each("choose", 31, 17, 29)),
}


@pytest.mark.parametrize("lanes", [1, 2, 4])
@pytest.mark.parametrize("name", FIXED)
def test_fixed_weights_replay(library, tmp_path, name, lanes):
    """The lanes, and what an epoch takes, are the log's."""
    options, of_streams = FIXED[name]
    run = rows(
        make_dataset(library, streams=streams(library, **of_streams), num_canonical_nodes=lanes, **options),
        log=tmp_path,
    )
    kept = {key: value for key, value in options.items() if key != "mixer"}
    assert rows(make_dataset(library, mixer=ms.replay(tmp_path), **kept)) == run


def test_a_state_of_a_replay_of_fixed_weights_is_one_of_the_run(library, tmp_path):
    options: dict[str, Any] = {"mixer": IRRATIONAL, "num_canonical_nodes": 2}
    run = rows(make_dataset(library, **options), log=tmp_path)
    with ms.Loader(make_dataset(library, mixer=ms.replay(tmp_path))) as loader:
        for batch in loader:
            if batch.step == 9:
                break
        state = json.loads(json.dumps(loader.state_dict()))
    resumed = make_dataset(library, **options)
    resumed.load_state_dict(state)
    assert rows(resumed, 10) == run[10:20]


@pytest.mark.parametrize(
    ("other", "remedy"),
    [
        ({"num_canonical_nodes": 1}, "num_canonical_nodes=2"),
        ({"shuffle_seed": 5}, "shuffle_seed=9176"),
        ({"shuffle": False}, "shuffle=True"),
        ({"shuffle_block_size": 7}, "shuffle_block_size=2000000"),
        ({"batch_size": 4}, "batch_size x ranks that make 8"),
        ({"streams": "limited"}, r"Stream\(name='law', max_epochs=None\)"),
    ],
)
@pytest.mark.parametrize("mixer", [IRRATIONAL, ms.mixers.Schedule({0: {"web": 1, "code": 1, "law": 1}})])
def test_a_replay_with_other_settings_says_which(library, tmp_path, mixer, other: Any, remedy):
    rows(make_dataset(library, mixer=mixer, num_canonical_nodes=2), 4, log=tmp_path)
    if "streams" in other:
        other = {"streams": streams(library, law={"max_epochs": 2})}
    with pytest.warns(UserWarning, match=f"(?s)rows are not:.*{remedy}"):
        ms.Loader(make_dataset(library, mixer=ms.replay(tmp_path), **other)).close()


@pytest.mark.parametrize("mixer", [IRRATIONAL, ms.mixers.Schedule({0: {"web": 1, "code": 1, "law": 1}})])
def test_a_replay_over_other_data_says_so(library, tmp_path, mixer):
    rows(make_dataset(library, mixer=mixer), 4, log=tmp_path)
    file = tmp_path / "mixture.jsonl"
    had = SIZES["code"]
    file.write_text(file.read_text().replace(f'"code":{had}', f'"code":{had + 991}', 1))
    told = rf"(?s)other settings or data.*domain 'code' had {had + 991} samples, now {had}\n.*give the data of that run"
    with pytest.warns(UserWarning, match=told):
        ms.Loader(make_dataset(library, mixer=ms.replay(tmp_path))).close()


def test_an_epoch_of_another_size_is_refused(library, tmp_path):
    rows(make_dataset(library, epoch_size=50), 4, log=tmp_path)
    with pytest.raises(ConfigError, match=r"epoch_size=51, .* epochs of 50 rows: leave out"):
        make_dataset(library, mixer=ms.replay(tmp_path), epoch_size=51)


def test_a_log_of_two_runs_is_no_run(library, tmp_path):
    """The second went on from a state of the first, with other weights, or from one of other domains and back."""
    with ms.Loader(make_dataset(library), log=tmp_path) as loader:
        loader.report(next(iter(loader)), None)
        state = loader.state_dict()
    dataset = make_dataset(library, mixer=IRRATIONAL)
    dataset.load_state_dict(state, strict=False)
    rows(dataset, 3, log=tmp_path)
    with pytest.raises(StateError, match=r"at step 1 the run went on from a state of another run \(strict=False\)"):
        ms.replay(tmp_path)


def test_a_log_without_counts_says_that_rows_may_differ(library, tmp_path):
    """As earlier versions wrote it."""
    rows(make_dataset(library, mixer=IRRATIONAL), 4, log=tmp_path)
    file = tmp_path / "mixture.jsonl"
    lines = [json.loads(line) for line in file.read_text().splitlines()]
    del lines[0]["plan"]
    file.write_text("".join(json.dumps(line) + "\n" for line in lines))
    with pytest.warns(UserWarning, match="earlier version.*give the dataset the same weights"):
        make_dataset(library, mixer=ms.replay(tmp_path))


def test_lanes_begin_as_those_of_the_run_did(library, tmp_path):
    """With lag 0, the weights of step 0 came after the lanes were staggered."""
    taken = []
    dataset = make_dataset(library, mixer=Asking(every=1000), lag=0, num_canonical_nodes=4)
    with ms.Loader(dataset, log=tmp_path, prefetch=0) as loader:
        loader.report_validation(np.array([1.0, 5.0, 9.0]))
        for batch in loader:
            taken.append(row_ids(batch))
            loader.report(batch, torch.from_numpy(np.asarray(batch.domain) + 1.0))
            if batch.step == 19:
                break
    assert rows(make_dataset(library, mixer=ms.replay(tmp_path)), 20) == taken
