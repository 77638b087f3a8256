"""The proof: compares every batch of the killed and of the resumed run with uninterrupted references.

The mixture depends on losses, and the step alone decides which losses a batch depends on (`mixstream.feedback`). So
each history of the model has a reference: a loader in one process that reads from step 0 without training, with ADO
computing all weights from the losses of that history:

    before    the losses that the killed process reported, up to the kill
    after     the losses of the final model: up to the checkpoint, and from there to the end

They share the shards, the settings and the losses with the run, but no checkpoint and no weights. The rows of each
global batch are compared in order, and for `after` the weights of each step to the last bit. This also shows that the
work undone by the kill (batches read ahead, steps since the checkpoint, what ADO learned from them) is neither lost nor
repeated. A third reference, `replayed`, receives no losses and draws by the run's mixing log (`ms.replay`).

Shape suffixes: T steps, K domains.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np

import mixstream as ms
from mixstream.feedback import read_log
from mixstream.types import Int64
from mixstream_examples import train as example  # pyright: ignore[reportMissingImports]  # pyright cannot follow it

from .settings import ROWS, Settings
from .step_log import Step, StepLogReader, row_hashes

Rows = Sequence[str]
"""The hashes of a global batch's rows, in order."""
_FILE = "rows.json"


@dataclass(frozen=True, kw_only=True, slots=True)
class Proof:
    """The result of the comparison.

    Attributes:
        compared: number of global batches that were compared with `before` or `after`.
        differing: (part, step) of batches that differ from their reference.
        weights_differing: steps whose weights differ from those of the reference `after`.
        not_once: steps that the final model was trained on twice, or not at all.
        again: steps that were trained before the kill and, because no checkpoint had them, again after it.
    """

    compared: int
    differing: tuple[tuple[str, int], ...]
    weights_differing: tuple[int, ...]
    not_once: tuple[int, ...]
    again: tuple[int, ...]

    @property
    def equal(self) -> bool:
        """Whether all batches and weights equal those of the references, and each step was trained once."""
        return self.compared > 0 and not (self.differing or self.weights_differing or self.not_once)


def example_file() -> Path:
    """The training program of the demo."""
    return Path(example.__file__)


def parameters() -> int:
    """The number of parameters of its model."""
    return sum(value.numel() for value in example.Model().parameters())


def history(before: Sequence[Step], after: Sequence[Step]) -> list[Step]:
    """Return the steps that the final model was trained on, in order."""
    resumed_at = after[0].step if after else len(before)
    return [*(step for step in before if step.step < resumed_at), *after]


def write_references(settings: Settings) -> None:
    """Read the run without interruption, once for each reference, and write the hashes of the rows."""
    before, after = (list(StepLogReader(files=settings.step_logs(part)).poll()) for part in ("before", "after"))
    found = {
        "before": read_uninterrupted(settings, before, steps=settings.kill_after),
        "after": read_uninterrupted(settings, history(before, after), steps=settings.steps, log=settings.reference),
        "replayed": read_uninterrupted(settings, (), steps=settings.steps, mixer=ms.replay(settings.run)),
    }
    (settings.reference / _FILE).write_text(json.dumps(found), encoding="utf-8")


def read_references(settings: Settings) -> dict[str, list[Rows]]:
    """Return the rows that `write_references` wrote, by reference."""
    return json.loads((settings.reference / _FILE).read_text(encoding="utf-8"))


def read_weights(settings: Settings) -> tuple[Int64, Int64]:
    """Return the weights of the run and of the reference `after`, int64 [T, K] each, from their mixing logs."""
    return read_log(settings.run).weights_TK, read_log(settings.reference).weights_TK


def read_uninterrupted(
    settings: Settings, reported: Sequence[Step], *, steps: int, mixer: Any = None, log: Path | None = None
) -> list[Rows]:
    """Read the first `steps` global batches in this process, without training; returns the hashes of their rows.

    Args:
        settings: settings of the run.
        reported: steps whose losses are reported to the mixer, each in its own step.
        steps: number of steps to read.
        mixer: default: the mixer of the run.
        log: directory for a mixing log.
    """
    losses = {step.step: step for step in reported}
    mixer = settings.mixer() if mixer is None else mixer
    found: list[Rows] = []
    with example.open_loader(settings.shards, rows=ROWS, seed=settings.seed, mixer=mixer, log=log) as loader:
        while len(found) < steps:
            for batch in loader:
                found.append(row_hashes(batch))
                if (step := losses.get(batch.step)) is None:
                    loader.report(batch, None)
                else:
                    loader.report_sums(batch.step, np.array(step.loss_sum_K), np.array(step.count_K))
                if len(found) == steps:
                    break
    return found


def compare(
    references: Mapping[str, Sequence[Rows]],
    before: Sequence[Step],
    after: Sequence[Step],
    *,
    weights: tuple[Int64, Int64],
) -> Proof:
    """Compare both parts of the run with the references.

    Args:
        references: rows of each batch from step 0 on, by the names at the top of this file.
        before: steps of the killed run.
        after: steps of the resumed run.
        weights: weights of the run and of the reference `after`, int64 [T, K] each.
    """
    steps = len(references["after"])
    parts = {"before": before, "after": after, "replayed": history(before, after)}
    differing = tuple(
        (part, step.step)
        for part, own in parts.items()
        for step in own
        if list(step.rows) != list(references[part][step.step])
    )
    resumed_at = after[0].step if after else steps
    trained = Counter(step.step for step in history(before, after))
    return Proof(
        compared=len(before) + len(after),
        differing=differing,
        weights_differing=tuple(
            step
            for step, (ours_K, theirs_K) in enumerate(zip_longest(*weights))
            if ours_K is None or theirs_K is None or not np.array_equal(ours_K, theirs_K)
        ),
        not_once=tuple(step for step in range(steps) if trained[step] != 1),
        again=tuple(step.step for step in before if step.step >= resumed_at),
    )
