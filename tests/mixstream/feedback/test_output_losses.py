"""`ms.losses.OutputLosses`: the losses by domain of whatever a model returns are those of its logits."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional

import mixstream as ms
from mixstream.errors import ConfigError

TOKENS = torch.arange(24).reshape(4, 6) % 11
LABELS = TOKENS.masked_fill(TOKENS == 3, -100)
DOMAIN = [0, 2, 2, 0]


class Model(torch.nn.Module):
    """A decoder and a head, as libraries replace them: `kind` says what it returns."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.kind, self.base_model, self.head = kind, torch.nn.Embedding(11, 8), torch.nn.Linear(8, 11)
        self.base_model = torch.nn.Sequential(self.base_model, _Output())

    def get_output_embeddings(self) -> Any:
        return self.head

    def forward(self, tokens: torch.Tensor) -> Any:
        logits = self.head(self.base_model(tokens)[0])
        chosen = logits[:, :-1].log_softmax(-1).gather(-1, tokens[:, 1:, None]).squeeze(-1)
        return {
            "tensor": logits,
            "tuple": (logits.mean(), logits),
            "logits": {"logits": logits},
            "last logits": {"logits": logits[:, -1:]},
            "log_probs": {"log_probs": chosen},
            "fused": {"loss": logits.mean()},
        }[self.kind]


class _Output(torch.nn.Module):
    def forward(self, hidden: torch.Tensor) -> Any:
        return (hidden,)


def measured(model: Model, **changes: Any) -> torch.Tensor:
    losses = ms.losses.OutputLosses(**{"domain": DOMAIN, "domains": 3, "targets": LABELS, "model": model, **changes})
    with losses.watching(model):
        model(TOKENS)
    model(TOKENS + 0)  # outside: not counted
    return losses.sums()


@pytest.mark.parametrize("kind", ["tensor", "tuple", "logits", "log_probs", "fused"])
def test_losses_are_those_of_the_logits(kind):
    logits = Model("tensor")(TOKENS)[:, :-1]
    loss = functional.cross_entropy(logits.transpose(1, 2), LABELS[:, 1:], reduction="none")
    expected = torch.stack(ms.domain_sums(loss, DOMAIN, 3, mask=LABELS[:, 1:] != -100))
    found = measured(Model(kind))
    torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert found[1].tolist() == [9.0, 0.0, 9.0]
    if kind != "log_probs":  # which are of the shifted targets already
        shifted = measured(Model(kind), targets=functional.pad(LABELS[:, 1:], (0, 1), value=-100), shifted=True)
        torch.testing.assert_close(shifted, expected, rtol=1e-5, atol=1e-5)


def test_outputs_that_do_not_say_the_loss_of_each_token_are_refused():
    with pytest.raises(ConfigError, match=r"\(4, 1, 11\) for labels of \(4, 6\).*loader\.report"):
        measured(Model("last logits"))
    with pytest.raises(ConfigError, match="it was not called"):
        ms.losses.OutputLosses(domain=DOMAIN, domains=3, targets=LABELS, model=Model("tensor")).sums()
