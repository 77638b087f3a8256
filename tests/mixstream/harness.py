"""What the core's tests share: tiny domains whose rows can be told apart, a mixer that learns, a lockstep of ranks.

Rules: no test lives here and no assertion about mixstream; nothing is random. A row's identity is its first token,
`1000 x domain + number`. Losses are multiples of 1/64, so that their sums are exact however ranks split a batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

import mixstream as ms

WIDTH = 8
SIZES = {"web": 150, "code": 50, "law": 19}
FIRST = {"web": 1000, "code": 2000, "law": 3000}
"""The rows of a domain are FIRST[name], FIRST[name] + 1, …"""


def write_tokens(out: Path, ids: Iterable[int], *, encoding: str = "uint16", shard_bytes: int = 500, **kw: Any) -> Path:
    """Write one domain: a row of `WIDTH` equal tokens per id, about a dozen rows to a shard."""
    dtype = np.dtype(encoding)
    with ms.MDSWriter(
        columns={"tokens": f"ndarray:{encoding}:{WIDTH}"}, out=str(out), size_limit=shard_bytes, **kw
    ) as writer:
        for number in ids:
            writer.write({"tokens": np.full(WIDTH, number, dtype)})
    return out


def write_library(root: Path) -> Path:
    """Write the domains of `SIZES` below `root`."""
    for name, size in SIZES.items():
        write_tokens(root / name, range(FIRST[name], FIRST[name] + size))
    return root


def streams(root: Path, names: Any = tuple(SIZES), **each: Any) -> list[ms.Stream]:
    """Return a stream per name; `each` gives single streams further arguments, as in `web={"repeat": 2}`."""
    return [ms.Stream(remote=str(root / name), **each.get(name, {})) for name in names]


def make_dataset(root: Path, names: Sequence[str] = tuple(SIZES), **kw: Any) -> ms.StreamingDataset:
    """Return a shuffled dataset over the library, 8 rows a step, unless `kw` says otherwise."""
    return ms.StreamingDataset(**{"streams": streams(root, names), "batch_size": 8, "shuffle": True, **kw})


def row_ids(batch: Any) -> list[int]:
    """Return the identities of a batch's rows."""
    return batch["tokens"][:, 0].tolist()


def joined(batches: Iterable[Sequence[int]]) -> list[int]:
    """Return the rows of all batches, one after the other."""
    return [number for batch in batches for number in batch]


def digest(ids: Sequence[int]) -> str:
    """Return a short hash of a global batch."""
    return hashlib.sha256(np.asarray(ids, dtype=np.int64).tobytes()).hexdigest()[:16]


@dataclass(frozen=True)
class Tilt:
    """A mixer that learns: exponentiated gradient, towards domains with high losses; for tests alone.

    Args:
        rate: step size of the logits.
        floor: part of the weights that stays uniform.
    """

    rate: float = 0.25
    floor: float = 0.05

    def init(self, prior_K: np.ndarray) -> dict[str, Any]:
        """Return the state before any feedback."""
        return {"logits": np.log(prior_K).tolist(), "seen": 0}

    def update(self, state: Any, feedback: ms.Feedback) -> tuple[dict[str, Any], np.ndarray]:
        """Return the state after `feedback`, and the weights that follow."""
        mean_K = feedback.loss_sum_K / np.maximum(feedback.count_K, 1)
        logits_K = np.asarray(state["logits"]) + self.rate * mean_K
        logits_K -= logits_K.max()
        weights_K = np.exp(logits_K) / np.exp(logits_K).sum()
        weights_K = (1 - self.floor) * weights_K + self.floor / len(weights_K)
        return {"logits": logits_K.tolist(), "seen": state["seen"] + 1}, weights_K


@dataclass(frozen=True)
class Asking(Tilt):
    """A mixer that follows validation losses, which it wants before every step that is a multiple of `every`."""

    every: int = 5

    def wants_validation(self, state: Any, step: int) -> bool:
        """Whether the model has to be evaluated before `step`."""
        return step % self.every == 0

    def opening(self, state: Any, step: int) -> np.ndarray:
        """Return the weights of the first steps: the domains in turn."""
        weights_K = np.full(len(state["logits"]), 0.1)
        weights_K[step % len(weights_K)] = 1.0
        return weights_K / weights_K.sum()

    def update(self, state: Any, feedback: ms.Feedback) -> tuple[dict[str, Any], np.ndarray]:
        """Return the state after `feedback`, and the weights that follow."""
        logits_K = np.asarray(state["logits"])
        if feedback.validation_V is not None:
            logits_K = np.nan_to_num(feedback.validation_V)
        weights_K = np.exp(logits_K) / np.exp(logits_K).sum()
        return {"logits": logits_K.tolist(), "seen": state["seen"] + 1}, weights_K

    def adapt(self, state: Any, source_K: np.ndarray, prior_K: np.ndarray, step: int) -> dict[str, Any]:
        """Return the state for other domains: a new one begins at 0."""
        old = [*state["logits"], 0.0]
        return {"logits": [old[k] for k in source_K], "seen": state["seen"]}


def losses(ids: Sequence[int]) -> np.ndarray:
    """Return a made-up loss per row, float64 [B]: a function of its identity, different in mean between domains."""
    rows = np.asarray(ids, dtype=np.int64)
    return ((rows * 7919) % 61 + 40 * (rows // 1000 % 2)) / 64


def sums(ids: Sequence[int], domain_B: Sequence[int], domains: int) -> tuple[np.ndarray, np.ndarray]:
    """Return (loss_sum_K, count_K) of a global batch, as `report_sums` takes them."""
    loss_sum_K, count_K = np.zeros(domains), np.zeros(domains)
    np.add.at(loss_sum_K, np.asarray(domain_B), losses(ids))
    np.add.at(count_K, np.asarray(domain_B), 1.0)
    return loss_sum_K, count_K


@contextmanager
def loaders_of(
    root: Path, *, world: Any = 1, lanes: Any = None, batch: Any = 8, prefetch: Any = 2, **kw: Any
) -> Iterator[list[ms.Loader]]:
    """Yield one Loader per simulated rank, `batch` rows a step over all of them."""
    with ExitStack() as stack:
        yield [
            stack.enter_context(
                ms.Loader(
                    make_dataset(
                        root,
                        **{
                            "batch_size": batch // world,
                            "rank": rank,
                            "world_size": world,
                            "num_canonical_nodes": lanes,
                            **kw,
                        },
                    ),
                    prefetch=prefetch,
                )
            )
            for rank in range(world)
        ]


def drive(loaders: Sequence[Any], steps: int, *, report: bool = True) -> list[list[int]]:
    """Take `steps` batches from every rank's loader in lockstep, over epochs; return the global batches' rows.

    Losses are reported after each step, to loaders whose mixer learns.
    """
    batches: list[list[int]] = []
    while len(batches) < steps:
        got = len(batches)
        for parts in zip(*loaders):
            ids = joined(map(row_ids, parts))
            domain_B = [k for part in parts for k in part.domain.tolist()]
            batches.append(ids)
            if report:
                loss_sum_K, count_K = sums(ids, domain_B, len(loaders[0].dataset.streams))
                for loader in loaders:
                    loader.report_sums(parts[0].step, loss_sum_K, count_K)
            if len(batches) == steps:
                break
        if len(batches) == got:
            break
    return batches
