"""States as untrusted input: refused by name before anything changes, or harmless. `make fuzz` has many more."""

from __future__ import annotations

import copy
import json
import random
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from harness import Tilt, drive, loaders_of
from hypothesis import given, settings
from hypothesis import strategies as st

import mixstream as ms
from mixstream.errors import ConfigError, StateError

sys.path.append(str(Path(__file__).parents[2] / "fuzz"))

from _mutate import mutated  # pyright: ignore[reportMissingImports] - the path is set above

ADO = ms.mixers.ADO(window=5, ignore_steps=1, start_step=6, update_interval=3, subsample=1, min_points=3, min_seen=1)
SCHEDULE = ms.mixers.Schedule({0: {"web": 6, "code": 3, "law": 1}, 50: {"web": 1, "code": 2, "law": 3}}, kind="linear")
RUNS: dict[str, dict[str, Any]] = {
    "natural": {},
    "lanes": {"lanes": 4},
    "schedule": {"mixer": SCHEDULE},
    "ado": {"mixer": ADO, "lag": 3},
    "tilt": {"mixer": Tilt(), "lag": 4},
    "odm": {"mixer": ms.mixers.ODM(), "lag": 2},
}
_known: dict[str, tuple[Any, dict[str, Any], list[list[int]]]] = {}


@pytest.fixture(scope="module")
def runs(library):
    """Return name -> (loader, state, the rows that follow)."""

    def run(name: str) -> tuple[Any, dict[str, Any], list[list[int]]]:
        if name not in _known:
            with loaders_of(library, prefetch=0, **RUNS[name]) as (loader,):
                drive([loader], 33)
                state = json.loads(json.dumps(loader.state_dict()))
                _known[name] = loader, state, drive([loader], 3)
        return _known[name]

    yield run
    for loader, *_ in _known.values():
        loader.close()
    _known.clear()


@settings(max_examples=50)
@given(name=st.sampled_from(sorted(RUNS)), seed=st.integers(0, 1 << 32))
def test_a_damaged_state_is_refused_by_name_or_harmless(runs, name, seed):
    loader, state, rows = runs(name)
    loader.load_state_dict(state)
    document, changed = mutated(random.Random(seed), state)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        refused = None
        try:
            loader.load_state_dict(document)
        except StateError as error:
            refused = str(error).encode()
        if refused is not None:
            assert loader.state_dict() == state
            return
        assert drive([loader], 3) == rows or {path[0] for path in changed} <= {"mixing", "quarantined", "skipped"}


def replaced(state: Any, path: tuple[Any, ...], by: Any) -> Any:
    state = copy.deepcopy(state)
    at = state
    for key in path[:-1]:
        at = at[key]
    at[path[-1]] = by(at[path[-1]]) if callable(by) else by
    return state


def moved(domains: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the domains, of which one has been drawn once less, and its neighbour once more."""
    by = (1, -1, 0)
    return [each | {"drawn": [each["drawn"][0] + rows]} for each, rows in zip(domains, by)]


BY_NAME = {
    "a draw count that no run reaches": ("natural", ("domains", 0, "drawn", 0), 1 << 50, "draw"),
    "one draw more": ("natural", ("domains", 1, "drawn", 0), lambda n: n + 1, "drawn"),
    "one draw more in a lane": ("lanes", ("domains", 1, "drawn", 2), lambda n: n + 1, "drawn"),
    "a draw of one domain in another": ("natural", ("domains",), moved, "rounding carry"),
    "domains in another order": ("lanes", ("domains",), lambda domains: domains[::-1], "sorted"),
    "drawn before the epoch": ("natural", ("domains", 0, "base", 0), lambda n: n + 40, "when the epoch began"),
    "another step": ("natural", ("step",), lambda n: n + 28, "step 61"),
    "another step under a schedule": ("schedule", ("step",), lambda n: n + 1, "step 34"),
    "repeats under a schedule": ("schedule", ("repeats",), 1, "no rows are repeated, and it counts 1"),
    "repeats under weights that are learned": ("odm", ("repeats",), 3, "no rows are repeated, and it counts 3"),
    "other parts of the carry": ("natural", ("total", 0), 7, "rounding carry"),
    "a number of more than 64 bits": ("natural", ("repeats",), 1 << 64, "64 bits"),
    "infinite": ("natural", ("domains", 0, "max_epochs"), float("inf"), "no number"),
    "a lone surrogate": ("natural", ("domains", 0, "fingerprint"), "\ud800", "Unicode"),
    "other samples": ("natural", ("domains", 0, "samples"), lambda n: n + 1, "samples"),
    "another seed": ("natural", ("shuffle_seed",), 5, "seed"),
    "skips without end": ("natural", ("skipped",), [[40, 1 << 60]], "leaves out"),
    "a bool for a number": ("natural", ("epoch",), True, "bool"),
    "ado without its history": ("ado", ("mixing", "state", "history"), {}, "history"),
    "ado with a longer history": ("ado", ("mixing", "state", "history", "rows"), 99, "rows"),
    "a weight too much": ("tilt", ("mixing", "state", "logits"), [0.0] * 4, "logits"),
    "a part of a user's mixer is lost": ("tilt", ("mixing", "state"), {"seen": 3}, "logits"),
    "weights of a step that is not known yet": (
        "tilt", ("mixing", "log"), lambda log: [*log, [99, log[0][1]]], "does not reach"),
    "rows that are no batch": ("odm", ("mixing", "log", 0, 1), [1 << 32, 1, 0], "parts"),
    "exploration above 1": ("odm", ("mixing", "state", "eps"), 1.5, "eps"),
    "another lag": ("odm", ("mixing", "lag"), 5, "lag"),
    "an array of another type": ("odm", ("mixing", "state", "estimate_K", "dtype"), "<i8", "estimate_K"),
}  # fmt: skip


@pytest.mark.parametrize("what", BY_NAME)
def test_what_cannot_be_is_refused_by_name(runs, what):
    name, path, by, said = BY_NAME[what]
    loader, state, rows = runs(name)
    loader.load_state_dict(state)
    with pytest.raises(StateError, match=said) as refused:
        loader.load_state_dict(replaced(state, path, by))
    assert "damaged" in str(refused.value)
    assert loader.state_dict() == state
    assert drive([loader], 3) == rows


@pytest.mark.parametrize("name", ["schedule", "ado", "odm"])
def test_no_epoch_is_further_than_the_steps_of_the_run(library, name):
    """It would end early: here after 8 steps more, not after 25."""
    with loaders_of(library, **RUNS[name]) as (loader,):
        drive([loader], 3)
        state = json.loads(json.dumps(loader.state_dict()))
        for strict in (True, False):
            with pytest.raises(StateError, match="damaged: it is at step 3, and 20 steps into epoch 0"):
                loader.load_state_dict(state | {"sample_in_epoch": 160}, strict=strict)
        assert loader.state_dict() == state


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (b'{"mixstream":2,"step":1,"step":2}', "more than once"),
        (b"[" * 100_000, "recursion"),
        (b'{"mixstream":2', "delimiter"),
        (b"\xff", "codec"),
    ],
)
def test_text_that_readers_take_in_different_ways_is_refused(runs, text, said):
    loader = runs("natural")[0]
    with pytest.raises(StateError, match=said):
        loader.load_state_dict({"state": text})


def deep() -> Any:
    found: Any = 0
    for _ in range(5_000):
        found = [found]
    return found


def test_deep_documents_are_refused(runs):
    loader, state, _ = runs("tilt")
    with pytest.raises(StateError, match="nested"):
        loader.load_state_dict({**state, "mixing": {**state["mixing"], "state": deep()}})


ODD = {"deep": deep(), "of 16610 bits": 10**5000}  # Python shows neither: a RecursionError, and a ValueError


@pytest.mark.parametrize("order", ["mixstream", "mosaic"])
@pytest.mark.parametrize("odd", ODD)
def test_what_python_cannot_show_is_refused_by_name(library, order, odd):
    with loaders_of(library, order=order, prefetch=0) as (loader,):
        state = loader.state_dict()
        for key in state:
            with pytest.raises(StateError):
                loader.load_state_dict({**state, key: ODD[odd]})
        with pytest.raises(StateError, match="an int of"):
            loader.load_state_dict({10**5000: 1, "step": 2})  # pyright: ignore[reportArgumentType] - no text
        assert loader.state_dict() == state


def test_without_strict_a_mixer_whose_state_is_damaged_begins_anew(library):
    with loaders_of(library, **RUNS["odm"]) as (loader,):
        drive([loader], 20)
        state = json.loads(json.dumps(loader.state_dict()))
        damaged = replaced(state, ("mixing", "state", "eps"), 7)
        with pytest.warns(UserWarning, match="has a mixer that cannot go on"):
            loader.load_state_dict(damaged, strict=False)
        assert loader.step == 20
        drive([loader], 5)
        after = json.loads(json.dumps(loader.state_dict()))
        drawn = {d["name"]: d["drawn"] for d in state["domains"]}
        assert {d["name"]: d["began"] for d in after["domains"]} == drawn
        rest = drive([loader], 5)
        loader.load_state_dict(after)
        assert drive([loader], 5) == rest


@pytest.mark.filterwarnings("ignore:the state is of another run")
def test_a_run_that_took_over_draws_says_where_and_is_checked_from_there(library):
    with loaders_of(library) as (loader,):
        drive([loader], 28)
        state = json.loads(json.dumps(loader.state_dict()))
    with loaders_of(library, epoch_size=100) as (loader,):
        loader.load_state_dict(state, strict=False)
        drive([loader], 20)
        after = json.loads(json.dumps(loader.state_dict()))
        assert after["began"] == {"step": 28, "epoch": 1}
        rest = drive([loader], 5)
        loader.load_state_dict(after)
        assert drive([loader], 5) == rest
        with pytest.raises(StateError, match="damaged"):
            loader.load_state_dict(replaced(after, ("domains", 0, "began", 0), lambda n: n - 5))


def test_a_state_of_the_other_order_is_refused_before_the_loader_moves(library):
    with loaders_of(library, order="mosaic", prefetch=0) as (loader,):
        drive([loader], 5)
        state = loader.state_dict()
        for change in ({"mixstream_streams": 1}, {"sample_in_epoch": 1 << 40}, {"epoch": 1 << 70}, {"epoch": -2}):
            with pytest.raises(StateError):
                loader.load_state_dict({**state, **change})
        assert loader.state_dict() == state
        assert loader.step == 5
        np.testing.assert_array_equal(np.shape(drive([loader], 2)), (2, 8))


MOSAIC_OPTIONS = [
    {"shuffle_algo": "py1e"},
    {"shuffle_algo": "py1s", "num_canonical_nodes": 1},
    {"batching_method": "per_stream"},
]


@pytest.mark.parametrize("options", MOSAIC_OPTIONS, ids=lambda options: next(iter(options.values())))
@pytest.mark.filterwarnings("ignore")
def test_numbers_of_the_other_order_that_no_run_has_are_refused_or_harmless(library, options):
    with loaders_of(library, order="mosaic", prefetch=0, **options) as (loader,):
        for steps in (5, len(loader) - 5):  # within an epoch, and at the beginning of one
            drive([loader], steps)
            state = loader.state_dict()
            for key in state:
                for value in (3, 1000, 1 << 40, 1 << 62):
                    for strict in (True, False):
                        try:
                            loader.load_state_dict({**state, key: value}, strict=strict)
                        except StateError:
                            continue
                        drive([loader], 1)
            loader.load_state_dict(state)


def test_canonical_nodes_without_number_are_refused(library):
    with loaders_of(library, order="mosaic", prefetch=0, shuffle_algo="py1s") as (loader,):
        drive([loader], 5)
        state = loader.state_dict()
        with pytest.raises(StateError, match="num_canonical_nodes, which are at most 65536"):
            loader.load_state_dict({**state, "num_canonical_nodes": 65537})
        assert loader.state_dict() == state
    with (
        pytest.raises(ConfigError, match="`num_canonical_nodes` must be at most 65536"),
        loaders_of(library, order="mosaic", lanes=1 << 40),
    ):
        pass
