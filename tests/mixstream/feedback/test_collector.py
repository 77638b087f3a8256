"""What a loader says at once about a report, and where in the caller's code it says so."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from harness import Asking, Tilt, loaders_of, make_dataset

import mixstream as ms
from mixstream.errors import ConfigError, FeedbackError
from mixstream.feedback.numbers import as_numbers


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


@pytest.mark.parametrize(
    "losses",
    [
        1.0,
        [],
        [[1.0, 2.0, 3.0]],
        [1.0, [2.0]],
        None,
        "abc",
        ["a", "b", "c"],
        [1j, 2, 3],
        {1: 2},
    ],
)
def test_validation_losses_of_another_shape_are_refused_and_the_evaluation_stays_due(library, losses):
    with loaders_of(library, mixer=Asking(), lag=0, prefetch=0) as (loader,):
        for report in (loader.report_validation, loader.report_evaluation):
            with pytest.raises(FeedbackError, match=r"an evaluation .*was reported"):
                report(losses)
        with pytest.raises(FeedbackError, match=r"of shape \[2, 3\] was reported"):
            loader.report_validation([[1, 2, 3], [4, 5, 6]])
        assert loader.wants_validation
        loader.report_validation(torch.tensor([0.0, 9.0, float("nan")], requires_grad=True))
        assert not loader.wants_validation


def test_sums_of_an_evaluation_need_one_number_for_each_domain(library):
    wrong: list[Any] = [([1.0, 2.0], [1, 1]), ([1.0, 2.0, 3.0],), ([1.0, 2.0, 3.0], [1, 1]), torch.ones(3, 2)]
    with loaders_of(library, mixer=Asking(), lag=0, prefetch=0) as (loader,):
        for sums in wrong:
            with pytest.raises(FeedbackError, match="one number for each of 3 domains"):
                loader.report_evaluation(sums)
        loader.report_evaluation((torch.ones(3), [1, 1, 1]))


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


HUGE = 10**400
NO_NUMBERS: list[Any] = [
    None,
    "abc",
    ["1", "2", "3"],
    {"web": 1.0, "code": 2.0, "law": 3.0},
    [None, 1.0, 2.0],
    [HUGE, 1, 1],
    [[1.0], [1.0, 2.0], [1.0]],
    np.array([1, 2, None]),
    np.ones(3) * 1j,
    torch.ones(3, dtype=torch.complex64),
    torch.ones(3, device="meta"),
]


@pytest.mark.parametrize("wrong", NO_NUMBERS, ids=range(len(NO_NUMBERS)))
def test_what_holds_no_real_numbers_is_refused_by_name_and_the_step_can_still_be_reported(library, wrong):
    with loaders_of(library, mixer=Tilt(), lag=4) as (loader,):
        batch = next(iter(loader))
        for report in (
            lambda: loader.report(batch, (wrong, [1, 1, 1])),
            lambda: loader.report(batch, ([1, 1, 1], wrong)),
            lambda: loader.report_sums(0, wrong, np.ones(3)),
        ):
            with pytest.raises(
                ConfigError, match=r"summed loss.* reported .*\(sums, counts\) of one number for each of 3"
            ):
                report()
        if wrong is not None:
            with pytest.raises(ConfigError, match=r"a matrix .*reported"):
                loader.report(batch, torch.ones(8), matrix=wrong)
            with pytest.raises(ConfigError, match="mask"):
                loader.report(batch, torch.ones(8), mask=wrong)
        loader.report(batch, torch.ones(8))


@pytest.mark.parametrize(
    "loss",
    [
        torch.ones(8, device="meta"),
        torch.ones(8, dtype=torch.complex64),
        torch.ones(0),
        [torch.ones((), requires_grad=True)] * 8,
        (),
        ([1.0, 1.0, 1.0],),
        (1, 2, [1] * 3, [1] * 3),
        ([1.0] * 4, [1.0] * 4),
    ],
)
def test_a_loss_of_another_form_is_refused_at_the_report(library, loss):
    with loaders_of(library, mixer=Tilt(), lag=4) as (loader,):
        batch = next(iter(loader))
        with pytest.raises(ConfigError, match="loss"):
            loader.report(batch, loss)
        if isinstance(loss, tuple) and len(loss) == 2:
            with pytest.raises(ConfigError, match="of shapes"):
                loader.report_sums(0, *loss)
        loader.report(batch, torch.ones(8))


def test_numbers_count_in_any_form_and_a_masked_one_is_missing(library):
    number = torch.tensor(2.0, requires_grad=True)
    forms: list[Any] = [
        [2.0, 2, 2.0],
        [number, number, number],
        torch.full((3,), 2.0).bfloat16(),
        torch.full((3,), 2.0).to_sparse(),
        np.full(3, 2, np.longdouble),
        np.full(3, 2, np.int8),
    ]
    for form in forms:
        assert as_numbers(form, what="", form="").tolist() == [2.0, 2.0, 2.0]
    masked = np.ma.masked_array([9.0, 2.0, 2.0], mask=[True, False, False])
    assert np.isnan(as_numbers(masked, what="", form="").numpy()).tolist() == [True, False, False]
    exact = 2**24 + 1
    assert as_numbers([float(exact)], what="", form="").tolist() == [exact]
    with loaders_of(library, mixer=Asking(), lag=0, prefetch=0) as (loader,):
        loader.report_validation([number, number, number])
        assert not loader.wants_validation


def test_a_matrix_is_kept_whichever_micro_batch_brings_it(library):
    class Measured(Tilt):
        """A mixer that keeps the matrix that it was given last."""

        def update(self, state, feedback):
            state, weights = super().update(state, feedback)
            found = feedback.matrix_VK
            return state | {"matrix": None if found is None else found.tolist()}, weights

    matrix = np.arange(9.0).reshape(3, 3)
    with loaders_of(library, mixer=Measured(), lag=4) as (loader,):
        for batch, at in zip(loader, range(3), strict=False):
            for number, part in enumerate(batch.split(4)):
                loader.report(part, torch.ones(2), matrix=matrix if number == at else None)
            state = loader.state_dict()["mixing"]["state"]
            order = [loader.dataset.domain_names.index(name) for name in loader.run.plan.names]
            assert state["matrix"] == matrix[np.ix_(order, order)].tolist()
