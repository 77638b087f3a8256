"""The output functions: exact values, stability, and padding."""

import pytest
import torch
from torch.func import grad, vmap

from mixstream.errors import ConfigError
from mixstream.selection.datamodels import row_output, token_log_odds


def test_log_odds_are_log_p_minus_log_of_one_minus_p() -> None:
    logits = torch.randn(3, 7, 11, generator=torch.Generator().manual_seed(0))
    targets = torch.randint(0, 11, (3, 7), generator=torch.Generator().manual_seed(1))
    p = logits.double().softmax(-1).gather(-1, targets[..., None])[..., 0]
    torch.testing.assert_close(token_log_odds(logits, targets).double(), (p / (1 - p)).log(), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("logit", [-1e4, -200.0, 200.0, 1e4])
def test_log_odds_and_their_gradient_are_finite_where_p_rounds_to_0_or_1(logit: float) -> None:
    logits, target = torch.tensor([[logit, 0.0, 0.0]]), torch.tensor([0])
    assert token_log_odds(logits, target).item() == pytest.approx(logit - 0.6931, rel=1e-4)
    gradient = grad(lambda x: token_log_odds(x, target).sum())(logits)
    torch.testing.assert_close(gradient, torch.tensor([[1.0, -0.5, -0.5]]))


@pytest.mark.parametrize("output", ["log-odds", "loss"])
def test_a_row_is_the_mean_over_the_tokens_that_count(output: str) -> None:
    logits, targets = torch.randn(6, 5), torch.tensor([1, 0, 4, 2, 0, 0])
    counted = torch.tensor([True, True, True, True, False, False])
    f, p = row_output(logits, targets, counted, output=output)
    expected = row_output(logits[:4], targets[:4], counted[:4], output=output)
    torch.testing.assert_close((f, p), expected)
    log_p = -torch.nn.functional.cross_entropy(logits[:4], targets[:4])
    if output == "loss":
        torch.testing.assert_close(f, log_p)
    else:
        torch.testing.assert_close(f, token_log_odds(logits[:4], targets[:4]).mean())


def test_vmap_gives_every_row_its_own_output() -> None:
    logits, targets = torch.randn(4, 6, 5), torch.randint(0, 5, (4, 6))
    counted = torch.arange(6) < torch.tensor([[6], [3], [1], [0]])
    f, p = vmap(lambda *row: row_output(*row, output="log-odds"))(logits, targets, counted)
    for row in range(4):
        expected = row_output(logits[row], targets[row], counted[row], output="log-odds")
        torch.testing.assert_close((f[row], p[row]), expected)
    assert f[3] == p[3] == 0


def test_a_vocabulary_of_one_has_no_log_odds() -> None:
    with pytest.raises(ConfigError, match="use the output 'loss'"):
        token_log_odds(torch.zeros(3, 1), torch.zeros(3, dtype=torch.int64))
