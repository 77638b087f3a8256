"""What a loader says at once about a report, and where in the caller's code it says so."""

from __future__ import annotations

import pytest
import torch
from harness import Tilt, loaders_of, make_dataset

import mixstream as ms
from mixstream.errors import FeedbackError


@pytest.mark.parametrize("way", ["report", "report_sums"])
def test_the_warning_about_a_repeated_report_points_at_the_report(library, way):
    with loaders_of(library, mixer=Tilt(), lag=4) as (loader,):
        batch = next(iter(loader))
        loader.report(batch, torch.ones(8))
        with pytest.warns(UserWarning, match="step 0 was reported before, .* this report is ignored") as said:
            loader.report(batch, torch.ones(8)) if way == "report" else loader.report_sums(0, *torch.ones(2, 3).numpy())
    assert said[0].filename == __file__


def test_no_evaluation_is_due_where_nothing_learns(library, tmp_path):
    with ms.Loader(make_dataset(library), log=tmp_path) as loader:
        assert not loader.wants_validation
        with pytest.raises(FeedbackError, match=r"no evaluation is due; ask loader\.wants_validation first"):
            loader.report_validation([1.0, 2.0, 3.0])


def test_a_session_is_there_only_where_it_has_an_effect(library, tmp_path):
    with ms.Loader(make_dataset(library)) as loader:
        assert loader._place.session is None
    with ms.Loader(make_dataset(library), log=tmp_path) as loader:
        first = loader._place.session
        assert first is not None
        loader.load_state_dict(loader.state_dict())
        assert loader._place.session is not first
        assert loader._place.session is not None
        assert loader._place.session.consensus.channel is first.consensus.channel
