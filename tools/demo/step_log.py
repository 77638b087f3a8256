"""The step log: what a training process writes about each step, and how it is read while the process still runs.

Each process has a file with one line of JSON for each step, flushed at once: a process may be killed at any instant,
and its log is valid up to the last complete line. Rows are logged as hashes of their bytes, in the order of the batch.

Shape suffix: K domains.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
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
        rows: hashes of the global batch's rows, in order.
        rows_K: number of rows of each domain.
        loss_sum_K: summed loss in nats per domain.
        count_K: bytes in these sums.
        waited: seconds that the slowest process has waited for data so far.
        at: time of the end of the step, in seconds of the system's clock.
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


class StepLogWriter:
    """Writes the step log of one process; `train` calls it after every step."""

    def __init__(self, file: Path) -> None:
        self._file = file.open("w", encoding="utf-8")

    def __call__(self, loader: ms.Loader, batch: ms.Batch, loss: torch.Tensor) -> None:
        """Write and flush the line of `batch`."""
        domains = len(loader.dataset.domain_names)
        sums, counts = ms.domain_sums(loss, batch.domain, domains)
        line = {
            "step": batch.step,
            "rows": row_hashes(batch),
            "rows_K": np.bincount(batch.domain, minlength=domains).tolist(),
            "loss_sum_K": sums.tolist(),
            "count_K": counts.tolist(),
            "waited": (stats := loader.stats()).wait + stats.first,
            "at": time.time(),
        }
        self._file.write(json.dumps(line) + "\n")
        self._file.flush()


class StepLogReader:
    """Reads the step logs of all processes of a run while they grow.

    Args:
        files: one for each process, in the order of ranks; they may not exist yet.
    """

    def __init__(self, *, files: Sequence[Path]) -> None:
        self.steps: list[Step] = []
        self._files, self._read = files, [0] * len(files)
        self._lines: list[list[dict[str, Any]]] = [[] for _ in files]

    def poll(self) -> Iterator[Step]:
        """Yield the steps that all processes have finished since the last call."""
        for at, file in enumerate(self._files):
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
    """One step from the lines of all processes."""

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
