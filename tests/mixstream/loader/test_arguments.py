"""Every legal form of an argument draws the same rows and leaves a state that is saved and loaded; others are refused.

States are JSON, and hold seeds, sizes, switches and a digest of the mixer's settings: what a caller computed in numpy
must not surface there hours later, and must not draw other rows meanwhile.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import SIZES, Tilt, drive, loaders_of, make_dataset, row_ids, streams

import mixstream as ms
from mixstream import mixers
from mixstream.errors import ConfigError
from mixstream.loader.validation import ValidationSet
from mixstream.world import World

Form = Callable[[Any], Any]
INTEGERS: list[Form] = [np.int64, np.int32, np.uint16, np.array, torch.tensor]
NUMBERS: list[Form] = [np.float64, np.array, lambda value: torch.tensor(value, dtype=torch.float64)]
SWITCHES: list[Form] = [np.bool_, torch.tensor]
ADO = {"window": 5, "ignore_steps": 1, "start_step": 6, "update_interval": 3, "subsample": 1, "min_points": 3}


def each_stream(**kw: Any) -> Callable[[Path], dict[str, Any]]:
    """Return what makes the arguments of a dataset whose streams all have `kw`."""
    return lambda root: {"streams": streams(root, **dict.fromkeys(SIZES, kw))}


def of_mixer(make: Callable[..., Any], **kw: Any) -> Callable[[Path], dict[str, Any]]:
    """Return what makes the arguments of a dataset whose mixer is `make(**kw)`."""
    return lambda root: {"mixer": make(**kw), "lag": 4}


def weights(**by_name: Any) -> dict[str, Any]:
    """Return weights by domain."""
    return {"web": 2, "code": 1, "law": 1, **by_name}


# what makes the arguments of a dataset from one value; a value; and its other forms
LEGAL: dict[str, tuple[Callable[[Any], Callable[[Path], dict[str, Any]]], Any, list[Form]]] = {
    **{
        name: (lambda value, name=name: lambda root: {name: value}, value, INTEGERS)
        for name, value in {
            "shuffle_seed": 7, "num_canonical_nodes": 2, "batch_size": 6, "shuffle_block_size": 64, "predownload": 16,
            "sampling_granularity": 1, "replication": 1, "epoch_size": 80, "cache_limit": 50_000, "download_retry": 3,
        }.items()
    },
    **{
        name: (lambda value, name=name: lambda root: {name: value}, True, SWITCHES)
        for name in ("shuffle", "drop_last", "keep_zip", "allow_unsafe_types")
    },
    "epoch_size as text": (lambda value: lambda root: {"epoch_size": value}, 1000, [lambda _: "1k", lambda _: "1,000"]),
    "cache_limit as text": (lambda value: lambda root: {"cache_limit": value}, 1 << 30, [lambda _: "1gb", float]),
    "shuffle_algo": (lambda value: lambda root: {"shuffle_algo": value}, "py1s", [np.str_]),
    "lag": (lambda value: lambda root: {"lag": value, "mixer": Tilt()}, 4, INTEGERS),
    "rank": (lambda value: lambda root: {"rank": value, "world_size": 2}, 1, INTEGERS),
    "world_size": (lambda value: lambda root: {"rank": 1, "world_size": value}, 2, INTEGERS),
    "download_timeout": (lambda value: each_stream(download_timeout=value), 2.5, NUMBERS),
    "Stream download_retry": (lambda value: each_stream(download_retry=value), 3, INTEGERS),
    "Stream keep_zip": (lambda value: each_stream(keep_zip=value), True, SWITCHES),
    "choose": (lambda value: each_stream(choose=value), 12, INTEGERS),
    "proportion": (lambda value: each_stream(proportion=value), 0.25, NUMBERS),
    "repeat": (lambda value: each_stream(repeat=value), 1.5, NUMBERS),
    "max_epochs": (lambda value: each_stream(max_epochs=value), 1.5, NUMBERS),
    "whole max_epochs": (lambda value: each_stream(max_epochs=value), 2, [*INTEGERS, float, np.float32]),
    "name": (lambda value: lambda root: {"streams": streams(root, web={"name": value})}, "text", [np.str_]),
    "Tilt": (lambda value: of_mixer(Tilt, rate=value), 0.375, [np.float64, np.float32]),
    "ADO int": (lambda value: of_mixer(mixers.ADO, **{**ADO, "min_seen": value}), 1, INTEGERS),
    "ADO float": (lambda value: of_mixer(mixers.ADO, **ADO, s=value), 0.25, NUMBERS),
    "ADO whole float": (lambda value: of_mixer(mixers.ADO, **ADO, s=value), 1, [*INTEGERS, float, np.float32]),
    "Tilt whole": (lambda value: of_mixer(Tilt, rate=value), 1, [np.int64, float, np.float64]),
    "ADO bool": (lambda value: of_mixer(mixers.ADO, **ADO, revive=value), True, SWITCHES),
    "ODM": (lambda value: of_mixer(mixers.ODM, warmup=value), 3, INTEGERS),
    "DoReMi": (
        lambda value: of_mixer(mixers.DoReMi, eta=0.1, reference=weights(web=value)), 1.5, [np.float64, np.float32],
    ),
    "Static": (lambda value: of_mixer(mixers.Static, proportions=weights(web=value)), 1.5, [np.float64, np.float32]),
    "Schedule": (lambda value: of_mixer(mixers.Schedule, weights={0: weights(web=value)}), 1.5, [np.float64]),
    "Schedule step": (
        lambda value: of_mixer(mixers.Schedule, weights={0: weights(), value: weights(law=9)}), 3, [np.int64, np.uint8],
    ),
    "Schedule name": (
        lambda value: of_mixer(mixers.Schedule, weights={0: {value: 3, "code": 1, "law": 1}}), "web", [np.str_],
    ),
    "Temperature": (lambda value: of_mixer(mixers.Temperature, tau=value), 2.5, NUMBERS),
    "UniMax": (lambda value: of_mixer(mixers.UniMax, budget=500, max_epochs=value), 1.5, NUMBERS),
}  # fmt: skip


def run(root: Path, kw: dict[str, Any], state: Any = None) -> tuple[list[list[int]], str]:
    """Return a few batches of a loader, and its state in the middle of them."""
    with ms.Loader(make_dataset(root, **kw), prefetch=2) as loader:
        if state is not None:
            loader.load_state_dict(json.loads(state))
        before = drive([loader], 4)
        saved = json.dumps(loader.state_dict())
        return before + drive([loader], 4), saved


@pytest.mark.parametrize("case", LEGAL)
def test_all_forms_of_an_argument_draw_the_same_rows_and_resume(library, case):
    given, value, forms = LEGAL[case]
    rows, state = run(library, given(value)(library))
    rest, _ = run(library, given(value)(library), state)
    assert rest[:4] == rows[4:]
    for form in forms:
        other, same = run(library, given(form(value))(library))
        assert other == rows
        assert json.loads(same) == json.loads(state)
        assert run(library, given(form(value))(library), state)[0] == rest


@pytest.mark.parametrize("form", INTEGERS)
def test_all_forms_of_the_loaders_arguments_do_too(library, form):
    rows, state = run(library, {})
    with ms.Loader(make_dataset(library), prefetch=form(2)) as loader:
        assert drive([loader], 4) == rows[:4]
        assert json.dumps(loader.state_dict()) == state
        loader.set_epoch(form(3))
        moved = json.dumps(loader.state_dict())
        assert json.loads(moved)["epoch"] == loader.epoch == 3
    with ms.Loader(make_dataset(library)) as loader:
        loader.load_state_dict(json.loads(moved))
        assert loader.epoch == 3
    for args in ({"batch_size": form(8)}, {"num_workers": form(0), "batch_size": 8}):
        loader = ms.StreamingDataLoader(make_dataset(library), **args)
        assert [row_ids(batch) for batch, _ in zip(loader, range(4))] == rows[:4]
        json.dumps(loader.state_dict())
    assert make_dataset(library).state_dict(form(32)) == make_dataset(library).state_dict(32)
    json.dumps(ms.StreamingDataLoader(make_dataset(library, batch_size=None), form(8)).state_dict())
    world = World(rank=form(1), size=form(4), nodes=form(2))
    assert repr(world) == "World(rank=1, size=4, nodes=2)"


@pytest.mark.parametrize("form", INTEGERS)
def test_all_forms_of_a_validation_sets_arguments_choose_the_same_rows(library, form):
    def chosen(number: Form) -> list[list[int]]:
        listed = [ms.Stream(remote=stream.remote, name=stream.name) for stream in make_dataset(library).streams]
        rows, size, seed = map(number, (5, 4, 7))
        found = ValidationSet.open(make_dataset(library), streams=listed, rows=rows, batch_size=size, seed=seed)
        return [row_ids(batch) for batch in found]

    assert chosen(form) == chosen(int)


NO_COUNTS: list[Any] = [True, False, np.True_, torch.tensor(True), 1.0, 8.0, np.float64(8), 2.5, math.nan, [8], -1]
NO_NUMBERS: list[Any] = [True, False, np.True_, "0.5", math.nan, np.float32("nan"), math.inf, [0.5], -1, -0.5, 1j]
NO_SWITCHES: list[Any] = [1, 0, "false", "", 0.0, np.int64(1)]
COUNTS = (
    "shuffle_seed", "num_canonical_nodes", "batch_size", "shuffle_block_size", "predownload", "sampling_granularity",
    "replication", "lag", "epoch_size", "download_retry",
)  # fmt: skip


@pytest.mark.parametrize("name", COUNTS)
def test_what_is_no_count_is_refused_by_the_dataset(library, name):
    for value in [*NO_COUNTS, "eight", *([] if name == "epoch_size" else ["8"])]:
        with pytest.raises(ConfigError, match=f"`{name}`|Unsupported value"):
            make_dataset(library, **{name: value})


@pytest.mark.parametrize("name", ["rank", "world_size"])
def test_what_is_no_rank_is_refused(library, name):
    for value in [*NO_COUNTS, "1"]:
        with pytest.raises(ConfigError, match=f"`{name}`"):
            make_dataset(library, **{"rank": 0, "world_size": 1, name: value})
        if name == "rank":
            with pytest.raises(ConfigError, match="`rank`"):
                World(rank=value, size=99)


@pytest.mark.parametrize("name", ["shuffle", "drop_last", "keep_zip", "allow_unsafe_types"])
def test_what_is_no_switch_is_refused(library, name):
    for value in [*NO_SWITCHES, None]:
        with pytest.raises(ConfigError, match=f"`{name}` is True or False, got"):
            make_dataset(library, **{name: value})


def test_other_arguments_of_the_dataset_are_refused_too(library):
    for value in [True, math.nan, math.inf, 1.5, -1, [1]]:
        with pytest.raises(ConfigError, match="`cache_limit`"):
            make_dataset(library, cache_limit=value)
    for value in [True, math.nan, math.inf, 0, -1, "60"]:
        with pytest.raises(ConfigError, match="`download_timeout`"):
            make_dataset(library, download_timeout=value)
    for value in [1, None, True]:
        with pytest.raises(ConfigError, match="`shuffle_algo` is a text"):
            make_dataset(library, shuffle_algo=value)


def test_what_is_no_number_is_refused_by_a_stream():
    for name in ("proportion", "repeat", "max_epochs", "download_timeout"):
        for value in NO_NUMBERS:
            with pytest.raises(ConfigError, match=f"`{name}`"):
                ms.Stream(remote="x", **{name: value})
    for name in ("choose", "download_retry"):
        for value in [*NO_COUNTS, "8"]:
            with pytest.raises(ConfigError, match=f"`{name}`"):
                ms.Stream(remote="x", **{name: value})
    for value in NO_SWITCHES:
        with pytest.raises(ConfigError, match="`keep_zip`"):
            ms.Stream(remote="x", keep_zip=value)  # type: ignore[arg-type]
    for value in [3, True, b"web"]:
        with pytest.raises(ConfigError, match="`name` is a text"):
            ms.Stream(remote="x", name=value)  # type: ignore[arg-type]


def test_attributes_of_a_stream_that_are_set_later_are_arguments_too(library):
    expected = run(library, {"streams": streams(library, web={"max_epochs": 2.0})})
    given: Any = streams(library)
    given[0].max_epochs, given[0].name, given[1].remote = np.float32(2), np.str_("web"), np.str_(given[1].remote)
    assert run(library, {"streams": given}) == expected
    given[0].max_epochs = True
    with pytest.raises(ConfigError, match="`max_epochs`"):
        make_dataset(library, streams=given)


def test_what_is_no_number_is_refused_by_loaders(library):
    dataset: Any = make_dataset(library)
    for value in [*NO_COUNTS, "4"]:
        with pytest.raises(ConfigError, match="`prefetch`"):
            ms.Loader(dataset, prefetch=value)
        for name in ("batch_size", "num_workers", "prefetch_factor"):
            with pytest.raises(ConfigError, match=f"`{name}`"):
                ms.StreamingDataLoader(dataset, **{name: value})
        with pytest.raises(ConfigError, match="`num_samples`"):
            dataset.state_dict(value)
        for name in ("rows", "batch_size"):
            with pytest.raises(ConfigError, match=f"`ValidationSet {name}`"):
                ValidationSet.open(dataset, streams=streams(library), **{name: value})
    for value in NO_SWITCHES:
        with pytest.raises(ConfigError, match="`widen`"):
            ms.Loader(dataset, widen=value)
    with ms.Loader(dataset) as loader:
        expected = drive([loader], 2)
        for value in [*NO_COUNTS, "1", None, 1 << 70]:
            with pytest.raises(ConfigError, match="`epoch`"):
                loader.set_epoch(value)
        drive([loader], 2)
        assert loader.step == 4
    with loaders_of(library) as loaders:
        assert drive(loaders, 2) == expected


MIXERS: dict[str, Callable[..., Any]] = {
    "ADO": mixers.ADO,
    "Aioli": mixers.Aioli,
    "DoGE": mixers.DoGE,
    "DoReMi": mixers.DoReMi,
    "LMO": mixers.LMO,
    "ODM": mixers.ODM,
    "SkillIt": lambda **kw: mixers.SkillIt(graph=[[1.0, 0.0], [0.0, 1.0]], **kw),
    "Temperature": mixers.Temperature,
    "UniMax": lambda **kw: mixers.UniMax(**{"budget": 10, "max_epochs": 2, **kw}),
}
FIELDS = {
    ("ADO", "gamma1"): NO_NUMBERS, ("ADO", "start_step"): NO_COUNTS, ("ADO", "same_step"): NO_SWITCHES,
    ("Aioli", "eta"): NO_NUMBERS, ("Aioli", "round_steps"): NO_COUNTS, ("Aioli", "seed"): NO_COUNTS[:-1],
    ("DoGE", "mu"): NO_NUMBERS, ("DoGE", "scaled"): NO_SWITCHES, ("DoReMi", "eta"): NO_NUMBERS,
    ("DoReMi", "smoothing"): NO_NUMBERS, ("LMO", "eta"): NO_NUMBERS, ("LMO", "normalise"): NO_SWITCHES,
    ("ODM", "warmup"): NO_COUNTS, ("ODM", "min_exploration"): NO_NUMBERS, ("SkillIt", "window"): NO_COUNTS,
    ("Temperature", "tau"): [value for value in NO_NUMBERS if value != math.inf], ("UniMax", "budget"): NO_NUMBERS,
}  # fmt: skip


@pytest.mark.parametrize(("mixer", "field"), FIELDS)
def test_what_is_no_number_is_refused_by_mixers(mixer, field):
    for value in FIELDS[mixer, field]:
        with pytest.raises(ConfigError, match=field):
            MIXERS[mixer](**{field: value})


@pytest.mark.parametrize("value", [True, math.nan, math.inf, -1, "a lot"])
def test_what_is_no_weight_is_refused_by_mixers(value):
    for make in (
        lambda: mixers.Static({"web": value}),
        lambda: mixers.Schedule({0: {"web": value}}),
        lambda: mixers.LMO(targets={"web": value}),
        lambda: mixers.LMO(targets=[value]),
    ):
        with pytest.raises(ConfigError):
            make()


def test_limits_and_sizes_beyond_any_run_do_not_overflow(library):
    limited = streams(library, **{name: {"max_epochs": 1e300} for name in SIZES})
    rows, _ = run(library, {})
    assert run(library, {"streams": limited})[0] == rows
    for kw in ({"choose": 1 << 70}, {"repeat": 1e300}):
        with pytest.raises(ConfigError, match=r"choose|repeat|epoch"):
            make_dataset(library, streams=streams(library, web=kw))
    with pytest.raises(ConfigError, match="epoch_size"):
        make_dataset(library, epoch_size=1 << 70)
