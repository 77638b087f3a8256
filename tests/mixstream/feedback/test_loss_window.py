"""`ms.losses.LossWindow`: means since the last entry of a log, over ranks that each have a part of the losses."""

from __future__ import annotations

import pytest
import torch

import mixstream as ms


def test_a_mean_is_over_all_losses_since_the_last_entry():
    window = ms.losses.LossWindow(["web", "code"])
    window.add((torch.tensor([2.0, 5.0]), torch.tensor([1.0, 1.0])))
    window.add(torch.tensor([[4.0, 0.0], [3.0, 0.0]]))
    assert window.entry() == {"loss/web": 1.5, "loss/code": 5.0}
    assert window.entry(weights={"web": 1.0}, prefix="x/") == {"weight/web": 1.0}


@pytest.mark.parametrize("in_place", [True, False])
def test_losses_of_other_ranks_count_once_and_what_was_reported_stays(in_place):
    window, local = ms.losses.LossWindow(["web", "code"]), torch.tensor([[2.0, 0.0], [1.0, 0.0]])
    other = torch.tensor([[6.0, 8.0], [1.0, 2.0]], dtype=torch.float64)
    window.add(local)
    reported = window.sums_2K
    assert reported is not None
    window.gather(lambda sums_2K: (sums_2K.add_(other), None)[in_place])
    assert reported.tolist() == local.tolist() == [[2.0, 0.0], [1.0, 0.0]]
    assert window.gathered
    window.gather(lambda sums_2K: sums_2K + 0)  # of a rank without losses
    assert window.entry() == {"loss/web": 4.0, "loss/code": 4.0}
    assert not window.gathered


def test_losses_that_are_cleared_are_in_no_entry():
    window = ms.losses.LossWindow(["web"])
    window.add(torch.tensor([[9.0], [1.0]]))
    window.gather(lambda sums_2K: sums_2K)
    window.clear()
    window.add(torch.tensor([[1.0], [1.0]]))
    assert window.entry() == {"loss/web": 1.0}
