"""Output functions: what a datamodel predicts, as a function of a row's logits.

Rules. Every function works on one row or on a batch of rows, is differentiable, and runs under `torch.func.vmap`. The
output of a row is a *mean* over its counted tokens, so that long rows are not preferred. Higher is better: a higher
output means a lower loss.

    log-odds   f = mean_t [ logit_y - logsumexp(logits without y) ]  =  mean_t log( p / (1 - p) )
    loss       f = mean_t log p                                      =  -cross entropy

The first is the margin of TRAK (Park et al. 2023, arXiv 2303.14186, section 3) and of DsDm (Engstrom et al. 2024,
arXiv 2401.12926). `log p - log(1 - p)` is the same number, but it overflows as soon as p rounds to 1.

Shape suffixes: T predicted tokens of a row, V vocabulary.
"""

from __future__ import annotations

from typing import Literal

import torch
from torch import Tensor

from mixstream.errors import ConfigError

Output = Literal["log-odds", "loss"]
"""The name of an output function."""

OUTPUTS: tuple[Output, ...] = ("log-odds", "loss")


def token_log_odds(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    """Return log(p / (1 - p)) of each correct token, float32 [..., T], finite for any finite logits.

    Args:
        logits_TV: [..., T, V], V >= 2.
        targets_T: int64 [..., T], the correct tokens.

    Raises:
        ConfigError: the vocabulary has one token, whose probability is always 1.

    >>> logits = torch.tensor([[200.0, 0.0, 0.0]])  # p rounds to 1, and log(1 - p) to -inf
    >>> [round(value, 4) for value in token_log_odds(logits, torch.tensor([0])).tolist()]  # 200 - log 2
    [199.3069]
    """
    vocabulary = logits_TV.shape[-1]
    if vocabulary < 2:
        raise ConfigError(f"the model has {vocabulary} logit per token: log-odds need 2 or more; use the output 'loss'")
    logits_TV = logits_TV.float()
    is_correct_TV = torch.arange(vocabulary, device=logits_TV.device) == targets_T.unsqueeze(-1)
    others_T = logits_TV.masked_fill(is_correct_TV, -torch.inf).logsumexp(-1)
    return _correct(logits_TV, targets_T) - others_T


def token_log_probability(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    """Return log p of each correct token in nats, float32 [..., T]; arguments as `token_log_odds`."""
    logits_TV = logits_TV.float()
    return _correct(logits_TV, targets_T) - logits_TV.logsumexp(-1)


def mean_over_tokens(values_T: Tensor, counted_T: Tensor) -> Tensor:
    """Return the mean of `values_T` [..., T] over the tokens that count, [...]; 0 where none does.

    >>> mean_over_tokens(torch.tensor([1.0, 2.0, 50.0]), torch.tensor([True, True, False])).item()
    1.5
    """
    total = torch.where(counted_T, values_T, torch.zeros_like(values_T)).sum(-1)
    return total / counted_T.sum(-1).clamp(min=1)


def row_output(logits_TV: Tensor, targets_T: Tensor, counted_T: Tensor, *, output: Output) -> tuple[Tensor, Tensor]:
    """Return a row's output f and its mean probability of the correct token, both float32 [...].

    Args:
        logits_TV: [..., T, V], the logits that predict `targets_T`.
        targets_T: int64 [..., T]; a target that does not count may be any token.
        counted_T: bool [..., T], False for padding.
        output: the name of an output function.

    >>> logits, targets = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([1, 0])
    >>> f, p = row_output(logits, targets, torch.tensor([True, True]), output="log-odds")
    >>> f.item(), round(p.item(), 4)  # margins 0 and 2, probabilities .5 and .8808
    (1.0, 0.6904)
    """
    log_p_T = token_log_probability(logits_TV, targets_T)
    values_T = token_log_odds(logits_TV, targets_T) if output == "log-odds" else log_p_T
    return mean_over_tokens(values_T, counted_T), mean_over_tokens(log_p_T.exp(), counted_T)


def _correct(logits_TV: Tensor, targets_T: Tensor) -> Tensor:
    return logits_TV.gather(-1, targets_T.unsqueeze(-1)).squeeze(-1)
