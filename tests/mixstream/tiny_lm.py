"""A tiny language-model world: four kinds of documents, a transformer of 18,000 parameters, and its training.

1,000 documents of 32 tokens over 64 words: 200 of the target's Markov chain, 300 of each of two other chains, and 200
of uniform noise. Which rows lower the loss on the target's chain is known, and retraining takes a second, so that
attribution can be compared with what training really gives. Used by tests and by `bench/attribution.py`.

Shape suffixes: N documents, T tokens, V words.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

WORDS, LENGTH, WIDTH, HEADS = 64, 32, 32, 2
SIZES = (200, 300, 300, 200)
"""Documents of the target's chain, of two others, and of noise."""


@dataclass(frozen=True)
class World:
    """Documents to choose from, each with its kind (0 is the target's), and queries and held-out ones of the target."""

    docs_NT: Tensor
    kind_N: np.ndarray
    queries_QT: Tensor
    held_out_HT: Tensor

    @property
    def is_target(self) -> np.ndarray:
        return self.kind_N == 0


def make_world(seed: int = 0) -> World:
    generator = np.random.default_rng(seed)
    chains = generator.dirichlet(np.full(WORDS, 0.05), size=(3, WORDS))

    def draw(chain: int, count: int) -> np.ndarray:
        docs = np.empty((count, LENGTH), np.int64)
        docs[:, 0] = generator.integers(0, WORDS, count)
        for at in range(1, LENGTH):
            cumulative = chains[chain, docs[:, at - 1]].cumsum(axis=1)
            docs[:, at] = (generator.random((count, 1)) > cumulative).sum(axis=1).clip(max=WORDS - 1)
        return docs

    noise = generator.integers(0, WORDS, (SIZES[3], LENGTH))
    docs = np.concatenate([*(draw(chain, SIZES[chain]) for chain in range(3)), noise])
    kinds = np.repeat(np.arange(4), SIZES)
    order = generator.permutation(len(docs))
    return World(
        docs_NT=torch.from_numpy(docs[order]),
        kind_N=kinds[order],
        queries_QT=torch.from_numpy(draw(0, 64)),
        held_out_HT=torch.from_numpy(draw(0, 256)),
    )


class TinyLM(nn.Module):
    """One transformer layer; tokens [B, T] -> logits [B, T, V]."""

    def __init__(self) -> None:
        super().__init__()
        self.words, self.places = nn.Embedding(WORDS, WIDTH), nn.Embedding(LENGTH, WIDTH)
        self.before_attention, self.before_mlp, self.last = (nn.LayerNorm(WIDTH) for _ in range(3))
        self.qkv, self.out = nn.Linear(WIDTH, 3 * WIDTH), nn.Linear(WIDTH, WIDTH)
        self.up, self.down = nn.Linear(WIDTH, 4 * WIDTH), nn.Linear(4 * WIDTH, WIDTH)
        self.head = nn.Linear(WIDTH, WORDS, bias=False)

    def forward(self, tokens_BT: Tensor) -> Tensor:
        length = tokens_BT.shape[1]
        x = self.words(tokens_BT) + self.places.weight[:length]
        q, k, v = self.qkv(self.before_attention(x)).unflatten(-1, (3, HEADS, -1)).movedim(-3, 0).transpose(-2, -3)
        scores = q @ k.transpose(-1, -2) / math.sqrt(WIDTH // HEADS)
        hidden = torch.ones(length, length, dtype=torch.bool, device=x.device).triu(1)
        x = x + self.out((scores.masked_fill(hidden, -torch.inf).softmax(-1) @ v).transpose(-2, -3).flatten(-2))
        x = x + self.down(functional.gelu(self.up(self.before_mlp(x))))
        return self.head(self.last(x))


def train(docs_NT: Tensor, *, seed: int, steps: int, batch: int, rate: float = 3e-3) -> TinyLM:
    """Train a model on documents in random order: AdamW, cosine."""
    torch.manual_seed(seed)
    model = TinyLM().train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=rate)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    generator = torch.Generator().manual_seed(seed)
    order = torch.empty(0, dtype=torch.int64)
    for _ in range(steps):
        while len(order) < batch:
            order = torch.cat([order, torch.randperm(len(docs_NT), generator=generator)])
        chosen, order = order[:batch], order[batch:]
        loss = losses(model, docs_NT[chosen]).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    return model.eval()


def losses(model: nn.Module, docs_NT: Tensor) -> Tensor:
    """Return the mean loss of each document in nats, [N]."""
    logits = model(docs_NT[:, :-1])
    return functional.cross_entropy(logits.transpose(1, 2), docs_NT[:, 1:], reduction="none").mean(1)


@torch.no_grad()
def loss_on(model: nn.Module, docs_NT: Tensor) -> float:
    return losses(model, docs_NT).mean().item()
