"""Losses in, weights out: `Loader.report` and what it refuses."""

from __future__ import annotations

import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import Asking, Tilt, drive, loaders_of, losses, make_dataset, row_ids, streams, sums

import mixstream as ms
from mixstream.errors import ConfigError, FeedbackError
from mixstream.feedback.replay import read_log


def learning(root: Path, **kw: Any) -> Any:
    return loaders_of(root, **{"mixer": Tilt(), "lag": 4, **kw})


def row_losses(batch: Any) -> torch.Tensor:
    return torch.from_numpy(losses(row_ids(batch)))


@pytest.mark.parametrize("prefetch", [0, 1, 4])
def test_a_missing_report_is_named_and_can_be_made_up_for(library, prefetch):
    with learning(library) as loaders:
        expected = drive(loaders, 8)
    with learning(library, prefetch=prefetch) as (loader,):
        it = iter(loader)
        got = [next(it) for _ in range(5)]  # weights of steps 0 to 4 depend on no feedback
        for _ in range(2):
            with pytest.raises(FeedbackError, match=r"step 0 has not been reported, .* step 5 depend on it \(lag 4\)"):
                next(iter(loader))
        for batch in got[:3]:
            loader.report(batch, row_losses(batch))
        it = iter(loader)
        got += [next(it) for _ in range(3)]
        with pytest.raises(FeedbackError, match="step 3 has not been reported"):
            next(it)
    assert list(map(row_ids, got)) == expected


def test_what_is_told_twice_counts_once(library):
    with learning(library) as loaders:
        expected = drive(loaders, 12)
        state = loaders[0].state_dict()
    with learning(library) as (loader,):
        got, before = [], None
        for batch in loader:
            got.append(row_ids(batch))
            loader.report(batch, row_losses(batch))
            if before is not None:
                loader.report(before, 7 * row_losses(before))  # another value, and still the first one counts
            if batch.step == 0:
                with pytest.warns(UserWarning, match="step 0 was reported before, .* it counts once"):
                    loader.report(batch, row_losses(batch))
            before = batch
            if len(got) == 12:
                break
        assert loader.state_dict() == state
    assert got == expected


def test_reports_may_come_late_and_in_any_order(library):
    with learning(library) as loaders:
        expected = drive(loaders, 20)
        state = loaders[0].state_dict()
    with learning(library) as (loader,):
        got: list[Any] = []
        it = iter(loader)
        for _ in range(4):
            got += [next(it) for _ in range(5)]
            for at in (3, 1, 4, 0, 2):
                loader.report(got[len(got) - 5 + at], row_losses(got[len(got) - 5 + at]))
        assert loader.state_dict() == state
    assert list(map(row_ids, got)) == expected


@pytest.mark.parametrize("parts", [2, 3, 8])
def test_the_parts_of_a_batch_add_up(library, parts):
    with learning(library) as loaders:
        expected = drive(loaders, 20)
        state = loaders[0].state_dict()
    with learning(library) as (loader,):
        got: list[list[int]] = []
        for batch in loader:
            micro = batch.split(parts)
            assert [row for part in micro for row in row_ids(part)] == row_ids(batch)
            assert {part.step for part in micro} == {batch.step}
            for part in reversed(micro):
                loader.report(part, row_losses(part))
            got.append(row_ids(batch))
            if len(got) == 20:
                break
        assert loader.state_dict() == state
    assert got == expected


def test_a_part_that_is_missing_is_named(library):
    with learning(library, lag=0, prefetch=0) as (loader,):
        it = iter(loader)
        first, second = next(it).split(2)
        loader.report(first, row_losses(first))
        with pytest.raises(FeedbackError, match=r"step 0 has not been reported in full \(4 of 8 rows\)"):
            next(it)
        with pytest.warns(UserWarning, match="was reported before"):
            loader.report(first, row_losses(first))
        loader.report(second, row_losses(second))
        batch = next(iter(loader))
        loader.report(batch.split(4)[1], torch.ones(2))
        with pytest.raises(FeedbackError, match="some of rows 0 to 3 of step 1 were reported before"):
            loader.report(batch.split(2)[0], torch.ones(4))
    with pytest.raises(ConfigError, match="8 rows cannot be split into parts=9"):
        batch.split(9)


def test_a_batch_of_nobody_is_refused(library):
    with learning(library) as (loader,), learning(library) as (other,):
        it = iter(other)
        next(it)
        batch = next(it)
        next(iter(loader))
        with pytest.raises(FeedbackError, match="step 1 is reported and was not handed out by this loader"):
            loader.report(batch, row_losses(batch))
        with pytest.raises(FeedbackError, match="a dict does not say of which step"):
            loader.report({"tokens": batch["tokens"]}, row_losses(batch))


def test_a_step_without_losses_is_said_to_have_none(library):
    with learning(library) as (loader,):
        for batch in loader:
            loader.report(batch, None if batch.step % 3 else row_losses(batch))
        assert loader.state_dict()["mixing"]["reported"] == len(loader)


def test_losses_per_row_per_token_and_summed_say_the_same(library):
    weights = []
    for way in ("row", "token", "flat", "masked", "pair", "sums", "gpu dtype"):
        with learning(library) as (loader,):
            for batch in loader:
                loss = row_losses(batch)
                if way == "sums":
                    loader.report_sums(batch.step, *sums(row_ids(batch), batch.domain, 3))
                elif way == "pair":
                    loader.report(batch, ms.domain_sums(loss, batch.domain, 3))
                elif way == "masked":
                    padded = torch.stack([loss, torch.full_like(loss, 99.0)], dim=1)
                    loader.report(batch, padded, mask=torch.tensor([True, False]).expand(8, 2))
                elif way == "flat":
                    loader.report(batch, loss[:, None].expand(-1, 4).reshape(-1))
                else:
                    loss = loss[:, None].expand(-1, 4) if way == "token" else loss
                    loader.report(batch, loss.float() if way == "gpu dtype" else loss)
            weights.append(loader.state_dict()["mixing"]["log"])
    assert all(found == weights[0] for found in weights)
    assert weights[0][-1][1] != weights[0][0][1]


def test_the_list_of_streams_may_be_in_any_order_for_reports(library):
    got = []
    for names in (["web", "code", "law"], ["law", "web", "code"]):
        with learning(library, streams=streams(library, names)) as loaders:
            got.append(drive(loaders, 60))
    assert got[0] == got[1]


def test_a_loss_of_another_shape_is_refused(library):
    with learning(library) as (loader,):
        batch = next(iter(loader))
        for loss in (torch.tensor(1.0), torch.ones(7)):
            with pytest.raises(ConfigError, match=r'batch of 8 rows.*reduction="none"'):
                loader.report(batch, loss)
        loader.report(batch, torch.ones(8))


def test_prefetch_must_not_exceed_the_lag(library):
    with pytest.raises(ConfigError, match=r"prefetch=5 .*lag is 4 steps; lower prefetch, or give the dataset lag=5"):
        ms.Loader(make_dataset(library, mixer=Tilt(), lag=4), prefetch=5)
    with ms.Loader(make_dataset(library, lag=0), prefetch=5) as loader:  # no losses, no lag
        assert len(list(loader)) == 28


def test_prefetch_does_not_change_what_a_mixer_does(library):
    runs = []
    for prefetch in (0, 1, 4):
        with learning(library, prefetch=prefetch) as loaders:
            runs.append(drive(loaders, 60))
    assert runs[0] == runs[1] == runs[2]
    with learning(library, lag=5) as loaders:  # but the lag does: it is part of the run
        assert drive(loaders, 60) != runs[0]


def test_reports_to_a_mixer_that_does_not_learn_are_taken_and_forgotten(library):
    with ms.Loader(make_dataset(library)) as loader:
        for batch in loader:
            loader.report(batch, row_losses(batch))
            loader.report_sums(batch.step, np.ones(3), np.ones(3))


def test_simulated_ranks_cannot_sum_losses_by_themselves(library):
    with learning(library, world=2) as loaders:
        batch = next(iter(loaders[0]))
        with pytest.raises(ConfigError, match=r"losses of 2 ranks .* init_process_group.*report_sums"):
            loaders[0].report(batch, torch.ones(4))


def test_a_report_that_was_refused_can_be_made_again(library):
    with learning(library) as loaders:
        drive(loaders, 3)
        state = loaders[0].state_dict()
    with learning(library) as (loader,):
        for batch in loader:
            with pytest.raises(ConfigError, match="it has one row per validation group"):
                loader.report(batch, row_losses(batch), matrix=np.eye(2))
            loader.report(batch, row_losses(batch))
            if batch.step == 2:
                break
        assert loader.state_dict() == state


def test_a_loader_may_be_closed_at_any_time_and_gone_on_with(library):
    with learning(library) as loaders:
        expected = drive(loaders, 12)
    with learning(library) as (loader,):
        loader.close()
        got = drive([loader], 6)
        loader.close()
        loader.close()
        assert got + drive([loader], 6) == expected


class Breaking(Tilt):
    """Fails at step 5."""

    def update(self, state: Any, feedback: ms.Feedback) -> Any:
        if feedback.step == 5:
            raise ZeroDivisionError("of its own")
        return super().update(state, feedback)


def test_an_error_of_the_mixer_surfaces_once_with_its_step(library):
    with (
        pytest.raises(ZeroDivisionError, match="of its own") as caught,
        learning(library, mixer=Breaking()) as (loader,),
    ):
        drive([loader], 20)
    assert caught.value.__notes__ == ["in Breaking, with the losses of step 5"]
    with pytest.raises(ZeroDivisionError), learning(library, mixer=Breaking()) as (loader,):
        drive([loader], 6)  # nothing asks for weights any more; leaving does
    with learning(library, mixer=Breaking()) as (loader,):
        drive([loader], 6)
        for _ in range(2):
            with pytest.raises(ZeroDivisionError):
                loader.state_dict()


def test_without_a_learning_mixer_late_reports_are_logged(library, tmp_path):
    with ms.Loader(make_dataset(library), log=tmp_path) as loader:
        batches = [batch for batch, _ in zip(loader, range(6))]
        for at in (3, 1, 4, 0, 2, 5):
            loader.report(batches[at], row_losses(batches[at]))
        with pytest.warns(UserWarning, match="was reported before"):
            loader.report(batches[0], row_losses(batches[0]))
    assert sorted(read_log(tmp_path).step_T.tolist()) == list(range(6))


def test_a_full_disk_ends_the_log_and_not_the_run(library, tmp_path, monkeypatch):
    with learning(library) as loaders:
        expected = drive(loaders, 12)
    real, written = os.write, []

    def full(fd: int, data: bytes) -> int:
        if data.startswith(b'{"event":"step"'):
            written.append(data)
            if len(written) > 4:
                raise OSError(28, "No space left on device")
        return real(fd, data)

    monkeypatch.setattr(os, "write", full)
    dataset = make_dataset(library, mixer=Tilt(), lag=4)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with ms.Loader(dataset, prefetch=2, log=tmp_path) as loader:
            assert drive([loader], 12) == expected
            loader.state_dict()
    assert [str(warning.message) for warning in said if "ends here, and training goes on" in str(warning.message)]
    assert len(read_log(tmp_path).step_T) == 4


def test_steps_that_were_never_reported_are_in_the_log_of_a_resumed_run(library, tmp_path):
    with ms.Loader(make_dataset(library, mixer=Tilt(), lag=4), prefetch=2, log=tmp_path) as loader:
        whole = drive([loader], 10)
        it = iter(loader)
        whole += [row_ids(next(it)) for _ in range(2)]
        with pytest.warns(UserWarning, match=r"after step 10 and 1 after it was handed out .*before state_dict"):
            state = loader.state_dict()
    with ms.Loader(make_dataset(library, mixer=Tilt(), lag=4), log=tmp_path) as loader:
        loader.load_state_dict(state)
        whole += drive([loader], 8)
    with ms.Loader(make_dataset(library, mixer=ms.replay(tmp_path))) as loader:
        assert drive([loader], 20) == whole


def test_an_evaluation_is_logged_with_the_step_after_which_it_was_made(library, tmp_path):
    with ms.Loader(make_dataset(library, mixer=Asking(every=4), lag=2), prefetch=0, log=tmp_path) as loader:
        batches = iter(loader)
        for step in range(10):
            if loader.wants_validation:
                loader.report_validation([step, step + 0.25, step + 0.5])  # of web, code, law
            batch = next(batches)
            loader.report(batch, torch.from_numpy(losses(row_ids(batch))))
        loader.state_dict()
    found = read_log(tmp_path).validation
    assert found == {at - 1: {"code": at + 0.25, "law": at + 0.5, "web": at} for at in (0, 4, 8)}


def test_an_evaluation_before_the_first_step_needs_no_lag(library):
    with loaders_of(library, mixer=Asking(), lag=0, prefetch=0) as (loader,):
        loader.report_validation([0.0, 9.0, 0.0])  # of web, code, law
        assert {k for k, _ in zip(next(iter(loader)).domain.tolist(), range(8))} == {1}
