"""What a training process leaves behind of every step, and how it is read again while the process still runs.

One file for each process, one line of JSON for each step, written at once: a process may be killed at any instant, and
its journal is good to the last whole line. What a row was is kept as a hash of its bytes, in the batch's order.

Shape suffix: K domains.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import mixstream as ms

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """One step of the run, over all its processes.

    Attributes:
        step: counted from 0.
        rows: the hashes of the global batch's rows, in order.
        rows_K: how many of them each domain has.
        loss_sum_K: summed loss in nats per domain.
        count_K: bytes that the sums are over.
        waited: seconds that the slowest process has waited for data so far.
        at: when the step was finished, seconds on the system's clock.
    """

    step: int
    rows: tuple[str, ...]
    rows_K: tuple[int, ...]
    loss_sum_K: tuple[float, ...]
    count_K: tuple[float, ...]
    waited: float
    at: float


def row_hashes(batch: ms.Batch) -> list[str]:
    """Hash each row of `batch`: its tokens and its domain."""
    tokens_BT, domain_B = np.ascontiguousarray(batch["tokens"].numpy()), np.asarray(batch.domain, dtype=np.int64)
    return [
        hashlib.blake2b(tokens_T.tobytes() + domain.tobytes(), digest_size=8).hexdigest()
        for tokens_T, domain in zip(tokens_BT, domain_B)
    ]


class Recorder:
    """Writes the journal of one process; `train` calls it after every step."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("w", encoding="utf-8")

    def __call__(self, loader: ms.Loader, batch: ms.Batch, loss: torch.Tensor) -> None:
        """Write one line about `batch`, and let it reach the file."""
        domains = len(loader.dataset.domain_names)
        sums, counts = ms.domain_sums(loss, batch.domain, domains)
        line = {
            "step": batch.step,
            "rows": row_hashes(batch),
            "rows_K": np.bincount(batch.domain, minlength=domains).tolist(),
            "loss_sum_K": sums.tolist(),
            "count_K": counts.tolist(),
            "waited": loader.counters.waited,
            "at": time.time(),
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


@dataclass(kw_only=True)
class Journal:
    """Reads the journals of all processes of a run, as they grow.

    Args:
        files: one for each process, in the order of ranks; they need not be there yet.
    """

    files: Sequence[Path]
    steps: list[Step] = field(default_factory=list, init=False)
    _read: list[int] = field(default_factory=list, init=False)
    _lines: list[list[dict[str, Any]]] = field(default_factory=list, init=False)

    def __post_init__(self) -> None:
        self._read, self._lines = [0] * len(self.files), [[] for _ in self.files]

    def poll(self) -> Iterator[Step]:
        """Yield the steps that all processes have finished since the last time."""
        for at, file in enumerate(self.files):
            self._lines[at] += self._new_lines(at, file)
        while all(len(lines) > len(self.steps) for lines in self._lines):
            self.steps.append(_joined([lines[len(self.steps)] for lines in self._lines]))
            yield self.steps[-1]

    def _new_lines(self, at: int, file: Path) -> list[dict[str, Any]]:
        if not file.exists():
            return []
        with file.open("rb") as stream:
            stream.seek(self._read[at])
            whole, _, _ = stream.read().rpartition(b"\n")
        self._read[at] += len(whole) + 1 if whole else 0
        return [json.loads(line) for line in whole.splitlines()]


def _joined(parts: Sequence[dict[str, Any]]) -> Step:
    """One step from what each process wrote of it."""

    def summed(name: str) -> tuple[Any, ...]:
        return tuple(sum(values) for values in zip(*(part[name] for part in parts)))

    return Step(
        step=parts[0]["step"],
        rows=tuple(row for part in parts for row in part["rows"]),
        rows_K=summed("rows_K"),
        loss_sum_K=summed("loss_sum_K"),
        count_K=summed("count_K"),
        waited=max(part["waited"] for part in parts),
        at=max(part["at"] for part in parts),
    )
