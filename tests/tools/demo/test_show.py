"""The live view: means, plain lines, a table on a terminal."""

from dataclasses import replace

import numpy as np

from mixstream_tools.demo.show import View, losses_K, shares_K
from mixstream_tools.demo.step_log import Step


def made_step(step: int, **changes) -> Step:
    made = Step(
        step=step,
        rows=(f"{step}a", f"{step}b"),
        rows_K=(3, 1),
        loss_sum_K=(6.0, 5.0),
        count_K=(3.0, 1.0),
        waited=0.5,
        at=100.0 + step,
    )
    return replace(made, **changes)


def test_shares_and_losses_are_means_over_rows_and_bytes():
    steps = [made_step(0), made_step(1, rows_K=(1, 3), loss_sum_K=(1.0, 0.0), count_K=(1.0, 0.0))]
    assert shares_K(steps).tolist() == [0.5, 0.5]
    assert losses_K(steps).tolist() == [7 / 4, 5.0]
    assert np.isnan(losses_K(steps[1:])[1])


def test_view_writes_plain_lines_where_there_is_no_terminal(capsys):
    view = View(names=["code", "prose"], steps=40, last=30, earlier=[made_step(step) for step in range(10)])
    with view.shown():
        for step in range(10, 30):
            view.add(made_step(step))
    told = capsys.readouterr().err.splitlines()
    assert [int(text.split()[1]) for text in told] == [12, 16, 20, 24, 28, 30]
    assert "code 75% 2.00 | prose 25% 5.00" in told[-1]


def test_view_draws_on_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    monkeypatch.setenv("COLUMNS", "100")
    view = View(names=["code", "prose"], steps=4, last=2)
    with view.shown():
        view.add(made_step(0))
        view.add(made_step(1, count_K=(3.0, 0.0), rows_K=(4, 0)))
    told = capsys.readouterr().err
    assert "step 2 of 4" in told
    assert "prose" in told
