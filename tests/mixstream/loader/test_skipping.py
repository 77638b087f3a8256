"""`skip` leaves steps out: no other batch changes, and every loader of a state, and a replay, leaves out the same.

The oracle is a run that hands these steps out and reports no losses of them.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import Asking, Tilt, joined, losses, make_dataset, row_ids, streams
from torch.utils.data import DataLoader

import mixstream as ms
from mixstream.errors import ConfigError, FeedbackError, StateError
from mixstream.feedback.replay import read_log
from mixstream.loader import MicroBatches

pytestmark = [
    pytest.mark.filterwarnings("ignore:domain .* has been read"),
    pytest.mark.filterwarnings("ignore:This DataLoader will create"),
    pytest.mark.filterwarnings("ignore:'set_vital' is deprecated"),
    pytest.mark.filterwarnings("ignore:.*use of fork.. may lead to deadlocks"),
]


@dataclass(frozen=True)
class Patient(Asking):
    """`Asking`, to which an evaluation without a number is one that was missed."""

    def update(self, state: Any, feedback: ms.Feedback) -> tuple[dict[str, Any], np.ndarray]:
        """Return the state after `feedback`, and the weights that follow."""
        missed = feedback.validation_V is not None and bool(np.isnan(feedback.validation_V).all())
        return super().update(state, replace(feedback, validation_V=None) if missed else feedback)


EPOCH, LAST, LAG = 28, 61, 4  # steps of an epoch; the last step that is read
SCHEDULE = ms.mixers.Schedule({0: {"web": 6, "code": 3, "law": 1}, 50: {"web": 1, "code": 2, "law": 3}}, kind="linear")
CONFIGS: dict[str, dict[str, Any]] = {
    "natural": {},
    "drop_last": {"drop_last": True},
    "in order": {"shuffle": False},
    "schedule": {"mixer": SCHEDULE},
    "learning": {"mixer": Tilt(), "lag": LAG},
    "asking": {"mixer": Patient(), "lag": LAG},
    "max_epochs": {"each": {"law": {"max_epochs": 1.5}}},
}
SKIPS = range(6, 17), range(25, 31)  # the first is longer than the lag, the second lies over the end of an epoch
Read = dict[int, list[int]]


def options(root: Path, config: str, **kw: Any) -> dict[str, Any]:
    given = dict(CONFIGS[config])
    return {"streams": streams(root, **given.pop("each", {})), **given, **kw}


def read(loader: Any, last: int = LAST, *, first: int = 0, without: Any = (), evaluates: bool = True) -> Read:
    """Take batches up to step `last`, and report their losses; None of those `without`. Return the rows by step."""
    found: Read = {}
    while True:
        for batch in loader:
            assert batch.step not in found, "a step is handed out twice"
            found[batch.step] = ids = row_ids(batch)
            if evaluates and loader.wants_validation and not any(batch.step in steps for steps in without):
                loader.report_validation([0.01 * batch.step, 0.5, 1.0 / (1 + batch.step)])
            elif loader.wants_validation:
                loader.report_evaluation((np.zeros(3), np.zeros(3)))
            left_out = any(batch.step in steps for steps in without)
            loader.report(batch, None if left_out else losses_of(ids))
            if batch.step >= last:
                return found


def losses_of(ids: list[int]) -> Any:
    return torch.from_numpy(losses(ids))


_oracle: dict[str, Read] = {}


def oracle(root: Path, config: str) -> Read:
    """What a run reads that hands these steps out, and reports no losses of them."""
    if config not in _oracle:
        with ms.Loader(make_dataset(root, **options(root, config)), prefetch=2) as loader:
            _oracle[config] = read(loader, without=SKIPS)
    return _oracle[config]


def expected(root: Path, config: str, first: int = 0) -> Read:
    kept = oracle(root, config).items()
    return {step: ids for step, ids in kept if step >= first and not any(step in steps for steps in SKIPS)}


@pytest.mark.parametrize("config", CONFIGS)
def test_no_other_batch_changes(library: Path, config: str) -> None:
    with ms.Loader(make_dataset(library, **options(library, config)), prefetch=3) as loader:
        found = read(loader, 5)
        assert loader.skip(len(SKIPS[0])) == SKIPS[0]
        assert loader.step == 6
        assert loader.skip(SKIPS[1]) == SKIPS[1]
        found |= read(loader)
        assert loader.skipped == [*SKIPS]
    assert found == expected(library, config)


@pytest.mark.parametrize("config", ["natural", "learning", "max_epochs"])
def test_states_go_on_alike_on_other_ranks(library: Path, config: str) -> None:
    states: dict[int, Any] = {}
    with ms.Loader(make_dataset(library, **options(library, config)), prefetch=3) as loader:
        states[2] = before(loader, 2)
        for steps in SKIPS:
            loader.skip(steps)
        for last in (4, 5, 18, 24, 40):
            states[last + 1] = before(loader, last + 1)
    for step, state in states.items():
        assert ("skipped" in state) == (step > 2)
        assert state["step"] == step
        loaded = json.loads(json.dumps(state))
        parts = [rest(library, config, loaded, rank, told=step == 2) for rank in range(2)]
        assert {step: joined(part[step] for part in parts) for step in parts[0]} == expected(library, config, step)


def before(loader: ms.Loader, step: int) -> Any:
    """Read up to `step`, which is the next; return the state."""
    read(loader, step - 1)
    return loader.state_dict()


def rest(library: Path, config: str, state: Any, rank: int, *, told: bool) -> Read:
    """What one of two ranks reads from `state` on, with losses of the whole batch, which the oracle knows."""
    given = options(library, config, batch_size=4, rank=rank, world_size=2)
    found: Read = {}
    with ms.Loader(make_dataset(library, **given), prefetch=1) as loader:
        loader.load_state_dict(state)
        if told:
            for steps in SKIPS:
                assert loader.skip(steps) == steps
        while LAST not in found:
            for batch in loader:
                found[batch.step] = row_ids(batch)
                if loader.wants_validation:
                    loader.report_validation([0.01 * batch.step, 0.5, 1.0 / (1 + batch.step)])
                whole = oracle(library, config)[batch.step]
                domain_B = np.array([{1: 0, 2: 1, 3: 2}[number // 1000] for number in whole])
                loss_K, count_K = np.bincount(domain_B, losses(whole), 3), np.bincount(domain_B, minlength=3)
                loader.report_sums(batch.step, loss_K, count_K)
                if batch.step == LAST:
                    break
    return found


@pytest.mark.parametrize(("config", "workers"), [("natural", 0), ("natural", 2), ("learning", 2), ("learning", 0)])
def test_a_dataloader_leaves_out_what_its_workers_have_made(library: Path, config: str, workers: int) -> None:
    given = {"num_workers": workers, "persistent_workers": bool(workers)}
    loader = ms.StreamingDataLoader(make_dataset(library, **options(library, config)), **given)
    found = read(loader, 5)
    following = iter(loader)  # a new epoch, which begins at step 28
    loader.load_state_dict(json.loads(json.dumps(loader.state_dict())))
    del following
    assert [loader.skip(len(SKIPS[0])), loader.skip(SKIPS[1])] == [*SKIPS]
    found |= read(loader, 20)
    state = loader.state_dict()
    assert state is not None
    again = ms.StreamingDataLoader(make_dataset(library, **options(library, config)), **given)
    again.load_state_dict(json.loads(json.dumps(state)))
    assert found | read(again) == expected(library, config)


@pytest.mark.parametrize("config", ["natural", "learning"])
def test_the_log_says_so_and_a_replay_leaves_the_same_steps_out(library: Path, tmp_path: Path, config: str) -> None:
    given = options(library, config)
    with ms.Loader(make_dataset(library, **given), log=tmp_path) as loader:
        state = before(loader, 2)
        for steps in SKIPS:
            loader.skip(steps)
        read(loader)
    lines = [json.loads(line) for line in (tmp_path / "mixture.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines if line["event"] == "skip"] == [*SKIPS[0], *SKIPS[1]]
    assert all(line["rows"] and "loss" not in line for line in lines if line["event"] == "skip")
    logged = read_log(tmp_path)
    assert logged.skips.ranges == ((6, 17), (25, 31))
    assert logged.step_T.tolist() == [*range(LAST + 1)]
    with ms.Loader(make_dataset(library, mixer=ms.replay(tmp_path)), prefetch=0) as again:
        assert again.skipped == [*SKIPS]
        assert read(again) == expected(library, config)
        replayed = again.state_dict()
    with ms.Loader(make_dataset(library, mixer=ms.replay(tmp_path))) as again:
        again.load_state_dict(replayed)
        assert again.skipped == [*SKIPS]
    with ms.Loader(make_dataset(library, **given), log=tmp_path) as loader:  # without the skip, from before it
        loader.load_state_dict(state)
        read(loader, 20, without=SKIPS)
    assert not read_log(tmp_path).skips
    assert len(read_log(tmp_path).step_T) == 21


def test_plain_loaders_of_the_dataset_leave_them_out_too(library: Path) -> None:
    with ms.Loader(make_dataset(library)) as loader:
        state = before(loader, 4)
        for steps in SKIPS:
            loader.skip(steps)
        saved = loader.state_dict()
        assert saved | {"skipped": [[6, 17], [25, 31]]} == saved
        assert "skipped" not in state
    rows = joined(expected(library, "natural", 4).values())
    for workers in (0, 2):
        dataset = make_dataset(library)
        dataset.load_state_dict(saved)
        found = [row_ids(batch) for _ in range(2) for batch in DataLoader(dataset, batch_size=8, num_workers=workers)]
        assert joined(found) == rows[: len(joined(found))]
        assert len(found) == 24 - len(SKIPS[0]) + 28 - 6
    dataset = make_dataset(library)
    dataset.load_state_dict(saved)
    samples = iter(dataset)
    taken = [int(next(samples)["tokens"][0]) for _ in range(20)]
    again = make_dataset(library)
    again.load_state_dict(dataset.state_dict())
    assert taken + [int(sample["tokens"][0]) for sample in again] == rows[: 8 * (24 - 11 - 3)]
    assert dataset.state_dict(20, from_beginning=False) | {"iterator": 0} == dataset.state_dict() | {"iterator": 0}
    whole = make_dataset(library)
    whole.load_state_dict(saved)
    assert whole.state_dict(8 * (4 + 3))["step"] == 18  # 4 before, then the steps 4, 5 and 17


def test_what_is_no_step_to_come_is_refused(library: Path) -> None:
    with ms.Loader(make_dataset(library), prefetch=2) as loader:
        assert loader.skip(0) == range(0)
        assert loader.skip(range(7, 7)) == range(0)
        assert not loader.skipped
        before(loader, 4)
        wrong: list[Any] = [-1, "5", 2.0, True, None, range(8), range(2, 4), range(5, 9, 2), range(-4, 8), 1 << 40]
        for steps in wrong:
            with pytest.raises(ConfigError, match="steps"):
                loader.skip(steps)
        assert not loader.skipped
        assert "skipped" not in loader.state_dict()
        assert loader.skip(np.int64(2)) == range(4, 6)
        assert loader.skip(2) == range(6, 8)  # from the next step that is not left out
        assert loader.skip(range(5, 9)) == range(5, 9)
        assert loader.skipped == [range(4, 9)]
        before(loader, 12)
        assert loader.skip(range(4, 9)) == range(4, 9), "as a script says that is started again"
        with pytest.raises(ConfigError, match="load a state from before step 4"):
            loader.skip(range(4, 10))
    mosaic = make_dataset(library, order="mosaic")
    for loader in (ms.Loader(mosaic), ms.StreamingDataLoader(mosaic)):
        with pytest.raises(ConfigError, match="mosaicml-streaming"):
            loader.skip(3)
    with pytest.raises(ConfigError, match="another kind"):
        ms.StreamingDataLoader([1, 2]).skip(1)  # type: ignore[arg-type]


def test_epochs_of_which_the_rest_is_left_out_end(library: Path) -> None:
    reference = oracle(library, "natural")
    for make in (ms.Loader, ms.StreamingDataLoader):
        loader: Any = make(make_dataset(library))
        batches = iter(loader)
        loader.skip(3)
        assert next(batches).step == 3
        assert len(loader) == EPOCH
        loader.skip(range(26, 30))
        found = {batch.step: row_ids(batch) for batch in batches}
        assert found == {step: reference[step] for step in range(4, 26)}
        state = loader.state_dict()
        loader.set_epoch(1)  # as trainers do before each epoch; it has begun
        assert [batch.step for batch in loader][:2] == [30, 31]
        loader.skip(2 * EPOCH)
        assert next(iter(loader)).step == 4 * EPOCH
        loader.set_epoch(1)
        assert next(iter(loader)).step == 30
        loader.load_state_dict(state)
        assert next(iter(loader)).step == 30
        if make is ms.StreamingDataLoader:  # as Composer counts
            loader.load_state_dict(state)
            loader.set_epoch(0)
            for batch in loader:
                if batch.step == 5:
                    break
            assert loader.dataset.state_dict(8 * 3)["step"] == 6  # the steps 3, 4 and 5
            batches = iter(loader)  # the next epoch
            taken = [batch.step for batch in batches]
            assert taken == [*range(30, 56)]
            assert loader.dataset.state_dict(0)["step"] == 56
            loader.set_epoch(0)
            assert len([*loader]) == 23
            assert loader.dataset.state_dict(8 * 23)["step"] in (26, 30)
        else:
            loader.close()


def test_what_is_asked_for_before_a_state_is_loaded_holds_behind_it(library: Path) -> None:
    with ms.Loader(make_dataset(library)) as loader:
        state = before(loader, 10)
        later = before(loader, 57)
    with ms.Loader(make_dataset(library)) as loader:
        loader.skip(range(12, 20))
        loader.load_state_dict(state)
        assert [*read(loader, 21)] == [10, 11, 20, 21]
        loader.load_state_dict(state)
        assert [*read(loader, 13)] == [10, 11, 12, 13], "what was passed belongs to that run"
        loader.skip(range(30, 32))
        with pytest.warns(UserWarning, match="steps 30 to 31 were to be left out"):
            loader.load_state_dict(later)
    other = {"streams": streams(library, ["web", "code"])}
    pending = state | {"skipped": [[2, 4], [11, 13]]}
    with ms.Loader(make_dataset(library, **other)) as loader:
        with pytest.warns(UserWarning, match="steps 11 to 12; here these steps"):
            loader.load_state_dict(pending, strict=False)
        assert [batch.step for batch, _ in zip(loader, range(4))] == [10, 11, 12, 13]
        assert loader.skipped == [range(2, 4)]
    for ranges in ([[4, 2]], [[2, 4], [3, 6]], [[-1, 4]], [[1]], "x"):
        with ms.Loader(make_dataset(library)) as loader, pytest.raises(StateError, match="damaged"):
            loader.load_state_dict(state | {"skipped": ranges})


def test_reports_that_weights_depend_on_are_still_needed(library: Path) -> None:
    with ms.Loader(make_dataset(library, **options(library, "learning")), prefetch=2) as loader:
        batches = []
        for batch in loader:
            batches.append(batch)
            if batch.step == 2:
                break
        loader.skip(LAG + 2)
        with pytest.raises(FeedbackError, match="step 0 has not been reported"):
            next(iter(loader))
        for batch in batches:
            loader.report(batch, losses_of(row_ids(batch)))
        assert next(iter(loader)).step == 3 + LAG + 2


def test_a_run_may_end_within_them(library: Path) -> None:
    for make in (ms.Loader, ms.StreamingDataLoader):
        each = {name: {"max_epochs": 1} for name in ("web", "code", "law")}
        loader: Any = make(make_dataset(library, streams=streams(library, **each)))
        for batch in loader:
            if batch.step == 3:
                break
        loader.set_epoch(0)
        loader.skip(100)
        with pytest.warns(UserWarning, match="the run ends at step 2"):
            assert [*loader] == []
        with pytest.raises(ms.errors.ExhaustedError):
            next(iter(loader))


def test_a_step_in_hand_is_finished_and_saved_with_what_is_left_out(library: Path) -> None:
    parts = MicroBatches(ms.Loader(make_dataset(library)), parts=2, remedy="")
    parts.keep = True
    for _ in range(5):
        part = next(parts)
        if not parts.left:
            parts.finish(part)
    parts.loader.skip(4)
    assert parts.state_dict()["step"] == 2
    assert parts.state_dict()["skipped"] == [[3, 7]]
    parts.rewind()
    assert [next(parts).step for _ in range(4)] == [2, 2, 7, 7]
    parts.loader.close()


def test_workers_that_keep_their_own_place_leave_them_out(library: Path) -> None:
    stateful = pytest.importorskip("torchdata.stateful_dataloader").StatefulDataLoader
    with ms.Loader(make_dataset(library)) as loader:
        state = before(loader, 4)
    rows = [*expected(library, "natural", 4).values()]
    dataset = make_dataset(library)
    dataset.load_state_dict(state | {"skipped": [[6, 17], [25, 31]]})
    batches = stateful(dataset, batch_size=8, num_workers=2)
    taken = [row_ids(batch) for _, batch in zip(range(7), batches)]
    again = stateful(make_dataset(library), batch_size=8, num_workers=2)
    again.load_state_dict(batches.state_dict())
    taken += [row_ids(batch) for _ in range(2) for batch in again]
    assert len(taken) == 24 - len(SKIPS[0]) + 28 - len(SKIPS[1])
    assert taken == rows[: len(taken)]
