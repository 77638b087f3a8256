"""Losses in, weights out: `Loader.report` and what it refuses."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from harness import Tilt, drive, loaders_of, losses, make_dataset, row_ids, streams, sums

import mixstream as ms
from mixstream.errors import ConfigError, FeedbackError


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


def test_reports_must_come_once_and_in_order(library):
    with learning(library) as (loader,):
        it = iter(loader)
        first, second, third = (next(it) for _ in range(3))
        with pytest.raises(FeedbackError, match="step 1 is reported, but step 0 has not been"):
            loader.report(second, row_losses(second))
        loader.report(first, row_losses(first))
        with pytest.raises(FeedbackError, match="step 0 is reported a second time"):
            loader.report(first, row_losses(first))
        loader.report(second, row_losses(second))
        loader.report(third, row_losses(third))


def test_losses_per_row_per_token_and_summed_say_the_same(library):
    weights = []
    for way in ("row", "token", "sums", "gpu dtype"):
        with learning(library) as (loader,):
            for batch in loader:
                loss = row_losses(batch)
                if way == "sums":
                    loader.report_sums(batch.step, *sums(row_ids(batch), batch.domain, 3))
                else:
                    loss = loss[:, None].expand(-1, 4) if way == "token" else loss
                    loader.report(batch, loss.float() if way == "gpu dtype" else loss)
            weights.append(loader.state_dict()["mixing"]["log"])
    assert weights[0] == weights[1] == weights[2] == weights[3]
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
